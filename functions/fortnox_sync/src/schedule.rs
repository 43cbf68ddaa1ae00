//! The schedule, every minute: queues readings that are due, keeps tokens alive that nobody uses, and says how old they are.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use shared::{
    lambda::{Error, Tick},
    schedule::{MOST_FAILURES, Schedule},
    store::{StoreError, fortnox, settings},
    telemetry::{Unit, metric},
};

use crate::state::State;

/// The kill switch.
const SWITCH: &str = "fortnox.enabled";
/// How many organisations one tick takes on; the next goes on from there.
const PAGE: i32 = 200;
/// What each part leaves of the invocation's time.
const KEPT_BACK: Duration = Duration::from_secs(30);

/// Answers a tick. It may come twice: everything here is safe to repeat.
pub(crate) async fn tick(state: &State, tick: &Tick) -> Result<Value, Error> {
    let now = (state.clock)();
    let mut schedule = Schedule::begin("Fortnox' schedule", tick, KEPT_BACK);
    schedule.part("syncs_queued", async |deadline| queue_due(state, deadline, now).await).await;
    schedule.part("tokens_renewed", async |deadline| renew_idle(state, deadline, now).await).await;
    schedule.part("tokens", async |_| measure(state, now).await).await;
    schedule.end()
}

/// Queues readings that are due. How many.
async fn queue_due(state: &State, deadline: Instant, now: DateTime<Utc>) -> Result<usize, StoreError> {
    let due = state.db.directory(async |tx| {
        let on = settings::enabled(tx, SWITCH).await?;
        if on { fortnox::due_syncs(tx, now, PAGE).await } else { Ok(Vec::new()) }
    });
    let (mut queued, mut queue_answers) = (0, true);
    for sync in due.await? {
        if Instant::now() >= deadline {
            break;
        }
        match state.db.service(sync.org_id, async |tx| fortnox::admit_sync(tx, sync.full).await).await {
            Ok(Some(job)) => {
                queued += 1;
                // A queue that does not answer is not waited for each time: the sweep wakes what this leaves.
                queue_answers = queue_answers && state.queue.wake(job, sync.org_id).await;
            }
            // Disconnected meanwhile.
            Ok(None) => {}
            Err(error @ StoreError::Transaction(_)) => return Err(error),
            Err(error) => tracing::error!(org.id = %sync.org_id, %error, "a reading of Fortnox was not queued"),
        }
    }
    Ok(queued)
}

/// Renews refresh tokens that have not been used for twenty days. How many.
async fn renew_idle(state: &State, deadline: Instant, now: DateTime<Utc>) -> Result<usize, StoreError> {
    let idle = state.db.directory(async |tx| fortnox::idle_tokens(tx, now, PAGE).await).await?;
    let (mut renewed, mut failed) = (0, 0);
    for org in idle {
        if Instant::now() >= deadline || failed == MOST_FAILURES {
            break;
        }
        match state.tokens.access(org).await {
            Ok(_) => renewed += 1,
            Err(error) => {
                failed += 1;
                tracing::warn!(org.id = %org, %error, "a refresh token that nobody uses was not renewed");
            }
        }
    }
    Ok(renewed)
}

/// Measures how old tokens are, and how many connections wait for a person.
async fn measure(state: &State, now: DateTime<Utc>) -> Result<Value, StoreError> {
    let ages = state.db.directory(async |tx| fortnox::token_ages(tx, now).await).await?;
    #[expect(clippy::cast_precision_loss, reason = "there are fewer connections than that")]
    let to_reconnect = ages.to_reconnect as f64;
    metric(now, "FortnoxTokenAgeDays", Unit::Count, ages.oldest_days, &[]);
    metric(now, "FortnoxConnectionsToReconnect", Unit::Count, to_reconnect, &[]);
    Ok(json!({ "oldest_days": ages.oldest_days.floor(), "to_reconnect": ages.to_reconnect }))
}
