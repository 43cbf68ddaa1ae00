//! The schedule, every minute: queues readings that are due, forgets what was delivered long ago, notifies of consents that end, and measures how old readings are.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    lambda::{Error, Tick},
    schedule::Schedule,
    store::{StoreError, settings, social, social_accounts, social_attachments, social_tokens},
    telemetry::{Unit, metric},
};

use crate::state::State;

/// The kill switch.
const SWITCH: &str = "social.enabled";
/// How many accounts one tick takes on; the next goes on from there.
const PAGE: i32 = 200;
/// What each part leaves of the invocation's time.
const KEPT_BACK: Duration = Duration::from_secs(30);
/// How long deliveries are kept that were worked on. A platform sends again for three days at most.
const KEPT: TimeDelta = TimeDelta::days(7);
/// How many deliveries one statement deletes.
const FORGOTTEN: i32 = 5000;

/// Answers a tick. It may come twice: everything here is safe to repeat.
pub(crate) async fn tick(state: &State, tick: &Tick) -> Result<Value, Error> {
    let now = (state.clock)();
    let mut schedule = Schedule::begin("the social schedule", tick, KEPT_BACK);
    schedule.part("fetches_queued", async |deadline| queue_due(state, deadline, now).await).await;
    schedule.part("events_queued", async |_| requeue(state).await).await;
    schedule.part("files_queued", async |_| requeue_files(state).await).await;
    schedule.part("events_forgotten", async |deadline| forget(state, deadline, now).await).await;
    schedule.part("consents_ending", async |_| warn(state, now).await).await;
    schedule.part("readings", async |_| measure(state, now).await).await;
    schedule.end()
}

/// Queues readings that are due. How many.
async fn queue_due(state: &State, deadline: Instant, now: DateTime<Utc>) -> Result<usize, StoreError> {
    let due = state.db.directory(async |tx| {
        let on = settings::enabled(tx, SWITCH).await?;
        if on { social::due_fetches(tx, now, PAGE).await } else { Ok(Vec::new()) }
    });
    let (mut queued, mut queue_answers) = (0, true);
    for due in due.await? {
        if Instant::now() >= deadline {
            break;
        }
        match state.db.service(due.org_id, async |tx| social::admit_fetch(tx, due.account_id).await).await {
            Ok(Some(job)) => {
                queued += 1;
                // A queue that does not answer is not waited for each time: the sweep wakes what this leaves.
                queue_answers = queue_answers && state.queue.wake(job, due.org_id).await;
            }
            // Disconnected meanwhile.
            Ok(None) => {}
            Err(error @ StoreError::Transaction(_)) => return Err(error),
            Err(error) => {
                tracing::error!(org.id = %due.org_id, %error, "the reading of a social account was not queued")
            }
        }
    }
    Ok(queued)
}

/// Queues the work on what was delivered and left, as after a job that failed. The sweep wakes it. How many organisations.
async fn requeue(state: &State) -> Result<usize, StoreError> {
    state.db.directory(async |tx| social_accounts::requeue_events(tx, PAGE).await).await
}

/// Queues the work on files of messages that are due, as after a job that failed. The sweep wakes it. How many organisations.
async fn requeue_files(state: &State) -> Result<i32, StoreError> {
    state.db.directory(async |tx| social_attachments::requeue(tx, PAGE).await).await
}

/// Deletes what was delivered a week ago and worked on, so that what was deleted at a platform is not kept here. How much.
async fn forget(state: &State, deadline: Instant, now: DateTime<Utc>) -> Result<i64, StoreError> {
    let mut forgotten = 0;
    while Instant::now() < deadline {
        let some =
            state.db.directory(async |tx| social_accounts::forget_events(tx, now - KEPT, FORGOTTEN).await).await?;
        forgotten += some;
        if some < i64::from(FORGOTTEN) {
            break;
        }
    }
    Ok(forgotten)
}

/// Notifies people of consents that end within fourteen days. How many.
async fn warn(state: &State, now: DateTime<Utc>) -> Result<i32, StoreError> {
    state.db.directory(async |tx| social_tokens::warn_of_ending(tx, now, PAGE).await).await
}

/// Measures how old readings are, and how many accounts wait for a person.
async fn measure(state: &State, now: DateTime<Utc>) -> Result<Value, StoreError> {
    let readings = state.db.directory(async |tx| social_accounts::readings(tx, now).await).await?;
    #[expect(clippy::cast_precision_loss, reason = "there are fewer accounts than that")]
    let to_reconnect = readings.to_reconnect as f64;
    metric(now, "SocialAccountsToReconnect", Unit::Count, to_reconnect, &[]);
    metric(now, "SocialOldestReadingMinutes", Unit::Count, readings.oldest_minutes, &[]);
    Ok(json!({ "oldest_minutes": readings.oldest_minutes.floor(), "to_reconnect": readings.to_reconnect }))
}
