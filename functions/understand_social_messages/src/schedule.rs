//! The schedule, every minute: queues the scoring of messages that are not scored, and drafts for those that wait for an answer.

use std::time::{Duration, Instant};

use serde_json::Value;
use shared::{
    db::DirectoryTx,
    lambda::{Error, Tick},
    schedule::Schedule,
    store::{
        StoreError, settings,
        social_ai::{self, Queued},
    },
};

use crate::{job::SWITCH, state::State};

/// How much one tick takes on; the next goes on from there.
const PAGE: i32 = 500;
/// What each part leaves of the invocation's time.
const KEPT_BACK: Duration = Duration::from_secs(10);

/// Answers a tick. It may come twice: everything here is safe to repeat.
pub(crate) async fn tick(state: &State, tick: &Tick) -> Result<Value, Error> {
    let mut schedule = Schedule::begin("the schedule of social messages", tick, KEPT_BACK);
    schedule
        .part("sentiment_queued", async |deadline| {
            queue(state, deadline, async |tx| social_ai::queue_sentiment(tx, PAGE).await).await
        })
        .await;
    schedule
        .part("drafts_queued", async |deadline| {
            queue(state, deadline, async |tx| social_ai::queue_drafts(tx, PAGE).await).await
        })
        .await;
    schedule.end()
}

/// Queues jobs, unless the switch is off, and wakes their workers. How many.
async fn queue(
    state: &State,
    deadline: Instant,
    queue: impl AsyncFn(&mut DirectoryTx) -> Result<Vec<Queued>, StoreError>,
) -> Result<usize, StoreError> {
    let queued = state.db.directory(async |tx| {
        let on = settings::enabled(tx, SWITCH).await?;
        if on { queue(tx).await } else { Ok(Vec::new()) }
    });
    let queued = queued.await?;
    let mut queue_answers = true;
    for job in &queued {
        // A queue that does not answer is not waited for each time: the sweep wakes what this leaves.
        queue_answers = queue_answers && Instant::now() < deadline && state.queue.wake(job.job_id, job.org_id).await;
    }
    Ok(queued.len())
}
