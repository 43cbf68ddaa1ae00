//! The schedule, every minute. Parts that need the database alone come first, and the one that may take all the time there is comes last.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::Value;
use shared::{
    functions, jobs,
    lambda::{Error, Tick},
    limits, outbox,
    schedule::{MOST_FAILURES, Schedule},
    store::{StoreError, idempotency},
};

use crate::{approvals, mail, models, state::State};

/// How much one run takes on; the next goes on from there.
const PAGE: i32 = 500;
/// What is kept of the invocation's time for deliveries, when no more jobs are woken.
const DELIVERIES: Duration = Duration::from_secs(30);
/// What is kept of it for documents, when no more mail is delivered.
const DOCUMENTS: Duration = Duration::from_secs(20);
/// What is kept of it for the answer, when no new batch is delivered: as long as one may take.
const KEPT_BACK: Duration = Duration::from_secs(8);

/// Answers a tick. It may come twice: everything here is safe to repeat.
pub(crate) async fn tick(state: &State, tick: &Tick) -> Result<Value, Error> {
    let mut schedule = Schedule::begin("the sweep", tick, KEPT_BACK);
    schedule.part("reservations_expired", async |_| expire_reservations(state).await).await;
    schedule.part("keys_forgotten", async |_| forget_keys(state).await).await;
    // Before jobs are woken, so that what is released is woken at once.
    schedule.part("jobs_released", async |_| release_jobs(state).await).await;
    schedule.part_keeping(DELIVERIES, "jobs_woken", async |deadline| wake_jobs(state, deadline).await).await;
    schedule.part("approvals_aged", async |_| approvals::age(state).await).await;
    schedule.part("models_ending", async |_| models::notice(state).await).await;
    // What is mailed says what happened just now, an approval that is overdue included.
    schedule.part_keeping(DOCUMENTS, "mails_delivered", async |deadline| mail::deliver(state, deadline).await).await;
    let deliver = async |deadline| outbox::deliver_all(&state.db, &state.documents, deadline).await;
    schedule.part("documents_delivered", deliver).await;
    schedule.end()
}

/// Lets jobs run that wait for a limit which has changed, or a switch which is on.
async fn release_jobs(state: &State) -> Result<usize, StoreError> {
    let released = state.db.directory(async |tx| jobs::release(tx).await).await?;
    Ok(usize::try_from(released).unwrap_or_default())
}

/// Wakes jobs that are due, or whose worker's lease has ended.
async fn wake_jobs(state: &State, deadline: Instant) -> Result<usize, StoreError> {
    let due = state.db.directory(async |tx| jobs::due(tx, PAGE).await).await?;
    let mut woken = 0;
    let mut silent = BTreeSet::new();
    for job in due {
        // The deliveries have their turn too.
        if Instant::now() >= deadline {
            break;
        }
        let Some(worker) = functions::worker_of(&job.job_type) else {
            tracing::error!(job.r#type = job.job_type, "no function is known for this kind of job");
            continue;
        };
        // Where there is no queue, the worker's own schedule finds its jobs.
        let Some((_, queue)) = state.queues.iter().find(|(queue, _)| Some(*queue) == worker.queue) else { continue };
        // A queue that does not answer is not waited for each time: the next sweep finds what this leaves.
        if silent.contains(&job.job_type) {
            continue;
        }
        if queue.wake(job.job_id, job.org_id).await {
            woken += 1;
        } else {
            silent.insert(job.job_type);
        }
    }
    Ok(woken)
}

/// Gives back reservations whose time is over and whose job is not at work. How many.
async fn expire_reservations(state: &State) -> Result<usize, StoreError> {
    let expired = state.db.directory(async |tx| limits::expired(tx, PAGE).await).await?;
    let (mut ended, mut failures) = (0, 0);
    for (org, reservation) in expired {
        match state.db.service(org, async |tx| limits::expire(tx, reservation).await).await {
            Ok(now) => ended += usize::from(now),
            // What cannot be done for one organisation is done for the others.
            Err(error) if failures < MOST_FAILURES => {
                tracing::error!(org.id = %org, reservation.id = %reservation, %error, "a reservation could not be given back");
                failures += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(ended)
}

/// Forgets old idempotency keys. How many.
async fn forget_keys(state: &State) -> Result<usize, StoreError> {
    state.db.directory(async |tx| idempotency::forget(tx).await).await
}
