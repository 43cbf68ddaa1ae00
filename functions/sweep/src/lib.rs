//! The backstop, every minute: gives back reservations whose time is over, forgets old idempotency keys, releases jobs whose limit has
//! changed, wakes due and orphaned jobs, delivers what is left of the outbox.
//!
//! Each part stands alone: one that fails is logged, named in the result, and does not keep the others from their work. Parts that need
//! the database alone come first, and the one that may take all the time there is comes last.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use shared::{
    config::Env,
    db::Database,
    documents::Documents,
    functions, jobs,
    lambda::{Answer, Error, Trigger},
    limits, outbox,
    queue::Queue,
    secrets::Secrets,
    store::{StoreError, idempotency},
};

/// How much one run takes on; the next goes on from there.
const PAGE: i32 = 500;
/// What is kept of the invocation's time for deliveries, when no more jobs are woken.
const DELIVERIES: Duration = Duration::from_secs(30);
/// What is kept of it for the answer, when no new batch is delivered: as long as one may take.
const RESERVE: Duration = Duration::from_secs(8);
/// How many single failures one part bears before it takes the database itself to be away.
const MOST_FAILURES: usize = 5;

/// What one cold start builds.
#[derive(Debug)]
pub struct State {
    db: Database,
    documents: Documents,
    queues: Vec<(functions::Queue, Queue)>,
}

impl State {
    /// Reads the environment.
    ///
    /// # Errors
    /// Names the variable that is missing or wrong.
    pub fn from_env() -> Result<Self, Error> {
        let env = Env::from_process();
        let secrets = Arc::new(Secrets::from_env(&env)?);
        Ok(Self {
            db: Database::from_env(&env, Arc::clone(&secrets))?,
            documents: Documents::from_env(&env, secrets)?,
            queues: functions::QUEUES
                .into_iter()
                .map(|queue| Ok((queue, Queue::from_env(&env, queue.variable)?)))
                .collect::<Result<_, Error>>()?,
        })
    }
}

/// Answers a tick. It may come twice: everything here is safe to repeat.
///
/// # Errors
/// If every part failed, so that Lambda counts a failed invocation and its alarm sounds.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    let Trigger::Schedule(tick) = trigger else { return Err("sweep answers its schedule only".into()) };
    tracing::debug!(tick.id, "sweep begins");
    let end = Instant::now() + tick.remaining;
    let before = |reserve: Duration| end.checked_sub(reserve).unwrap_or(end);
    let parts = [
        ("reservations_expired", expire_reservations(state).await),
        ("keys_forgotten", forget_keys(state).await),
        // Before jobs are woken, so that what is released is woken at once.
        ("jobs_released", release_jobs(state).await),
        ("jobs_woken", wake_jobs(state, before(DELIVERIES)).await),
        ("documents_delivered", outbox::deliver_all(&state.db, &state.documents, before(RESERVE)).await),
    ];
    let mut told = serde_json::Map::new();
    let mut failures = 0;
    for (name, outcome) in parts {
        let value = match outcome {
            Ok(count) => json!(count),
            Err(error) => {
                tracing::error!(part = name, %error, "a part of the sweep failed");
                failures += 1;
                Value::Null
            }
        };
        told.insert(name.to_owned(), value);
    }
    if failures == told.len() {
        return Err("every part of the sweep failed".into());
    }
    let told = Value::Object(told);
    tracing::info!(result = %told, "swept");
    Ok(Answer::Schedule(told))
}

/// Lets jobs run that wait for a limit which has changed, or a switch which is on.
async fn release_jobs(state: &State) -> Result<usize, StoreError> {
    let mut tx = state.db.directory_tx().await?;
    let released = jobs::release(&mut tx).await?;
    tx.commit().await?;
    Ok(usize::try_from(released).unwrap_or_default())
}

/// Wakes jobs that are due, or whose worker's lease has ended.
async fn wake_jobs(state: &State, deadline: Instant) -> Result<usize, StoreError> {
    let mut tx = state.db.directory_tx().await?;
    let due = jobs::due(&mut tx, PAGE).await?;
    tx.rollback().await?;
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

async fn expire_reservations(state: &State) -> Result<usize, StoreError> {
    let mut tx = state.db.directory_tx().await?;
    let expired = limits::expired(&mut tx, PAGE).await?;
    tx.rollback().await?;
    let (mut ended, mut failures) = (0, 0);
    for (org, reservation) in expired {
        let outcome = async {
            let mut tx = state.db.service_tx(org).await?;
            let now = limits::expire(&mut tx, reservation).await?;
            tx.commit().await?;
            Ok::<_, StoreError>(now)
        };
        match outcome.await {
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

async fn forget_keys(state: &State) -> Result<usize, StoreError> {
    let mut tx = state.db.directory_tx().await?;
    let forgotten = idempotency::forget(&mut tx).await?;
    tx.commit().await?;
    Ok(forgotten)
}
