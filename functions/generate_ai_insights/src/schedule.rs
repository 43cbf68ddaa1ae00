//! The schedule, every minute: makes the nightly insights that are due, each organisation's from its minute of the hour on.
//!
//! System work inside one organisation, whose policies show the system every row there: just what everybody sees who has the
//! permission that the insight is kept for. What one person sees of a table is theirs alone, and is computed when they ask.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::{
    db::DbError,
    lambda::{Error, Tick},
    schedule::Schedule,
    store::{
        StoreError,
        insights::{self, Audience, Due},
        settings,
    },
};
use uuid::Uuid;

use crate::{admission::admit, job::SWITCH, state::State};

/// How much one run takes on; the next goes on from there.
const PAGE: i32 = 200;
/// What is left of the invocation's time when no new work is begun.
const KEPT_BACK: Duration = Duration::from_secs(10);

/// Why a night's work failed.
#[derive(Debug, thiserror::Error)]
enum NightError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("none of the nightly insights could be made")]
    None,
}

impl From<DbError> for NightError {
    fn from(error: DbError) -> Self {
        Self::Store(error.into())
    }
}

/// Answers a tick. It may come twice: an insight of the same figures is made once.
///
/// # Errors
/// If it is not known what is due, or none of it could be made.
pub(crate) async fn tick(state: &State, tick: &Tick) -> Result<Value, Error> {
    let mut schedule = Schedule::begin("the nightly insights", tick, KEPT_BACK);
    schedule.part("night", async |deadline| night(state, deadline).await).await;
    Ok(schedule.end()?["night"].take())
}

async fn night(state: &State, deadline: Instant) -> Result<Value, NightError> {
    let now = (state.clock)();
    let due = state.db.directory(async |tx| {
        let on = settings::enabled(tx, SWITCH).await?;
        if on { insights::due(tx, now, PAGE).await } else { Ok(Vec::new()) }
    });
    let due = due.await?;
    let (mut made, mut failed, mut queue_answers) = (0, 0, true);
    for due in &due {
        if Instant::now() >= deadline {
            break;
        }
        match make(state, due).await {
            Ok(None) => {}
            Ok(Some(job)) => {
                made += 1;
                if let Some(job) = job {
                    // A queue that does not answer is not waited for each time: the sweep wakes what this leaves.
                    queue_answers = queue_answers && state.queue.wake(job, due.org_id).await;
                }
            }
            Err(error) => {
                tracing::error!(org.id = %due.org_id, table = due.table_name, period = due.period, %error, "a nightly insight was not made");
                failed += 1;
            }
        }
    }
    state.db.directory(async |tx| insights::close_nights(tx, now).await).await?;
    if failed > 0 && failed == due.len() {
        return Err(NightError::None);
    }
    Ok(json!({ "due": due.len(), "made": made, "failed": failed }))
}

/// The job of an insight that was made now, if there is anything to tell of it. `None` if it was there.
async fn make(state: &State, due: &Due) -> Result<Option<Option<Uuid>>, StoreError> {
    let now = (state.clock)();
    let audience = Audience { permission: due.audience.clone(), user_id: None };
    let admitted = state
        .db
        .service(due.org_id, async |tx| admit(tx, due.org_id, &audience, &due.table_name, &due.period, now).await);
    let (insight, made) = admitted.await?;
    Ok(made.then_some(insight.job_id))
}
