//! The schedule, every minute: makes the nightly insights that are due, each organisation's from its minute of the hour on.
//!
//! System work inside one organisation, whose policies show the system every row there: just what everybody sees who has the
//! permission that the insight is kept for. What one person sees of a table is theirs alone, and is computed when they ask.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::{
    lambda::{Error, Tick},
    store::{
        StoreError,
        insights::{self, Audience, Due},
        settings,
    },
};
use uuid::Uuid;

use crate::{handler::admit, state::State};

/// How much one run takes on; the next goes on from there.
const PAGE: i32 = 200;
/// What is left of the invocation's time when no new work is begun.
const RESERVE: Duration = Duration::from_secs(10);

/// Answers a tick. It may come twice: an insight of the same figures is made once.
///
/// # Errors
/// If it is not known what is due, or none of it could be made.
pub(crate) async fn tick(state: &State, tick: Tick) -> Result<Value, Error> {
    let deadline = Instant::now() + tick.remaining.saturating_sub(RESERVE);
    let now = (state.clock)();
    let mut tx = state.db.directory_tx().await?;
    let due = if settings::enabled(&mut tx, "insights.enabled").await? {
        insights::due(&mut tx, now, PAGE).await?
    } else {
        Vec::new()
    };
    tx.rollback().await?;
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
    let mut tx = state.db.directory_tx().await?;
    insights::close_nights(&mut tx, now).await?;
    tx.commit().await?;
    if failed > 0 && failed == due.len() {
        return Err("none of the nightly insights could be made".into());
    }
    Ok(json!({ "due": due.len(), "made": made, "failed": failed }))
}

/// The job of an insight that was made now, if there is anything to tell of it. `None` if it was there.
async fn make(state: &State, due: &Due) -> Result<Option<Option<Uuid>>, StoreError> {
    let now = (state.clock)();
    let audience = Audience { permission: due.audience.clone(), user_id: None };
    let mut tx = state.db.service_tx(due.org_id).await?;
    let (insight, made) = match admit(&mut tx, due.org_id, &audience, &due.table_name, &due.period, now).await {
        Ok(admitted) => admitted,
        Err(error) => {
            // The error worth telling is the first; a failed rollback closes the connection, which undoes it too.
            let _ = tx.rollback().await;
            return Err(error);
        }
    };
    tx.commit().await?;
    Ok(made.then_some(insight.job_id))
}
