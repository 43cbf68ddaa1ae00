//! The backstop, every minute: wakes due and orphaned jobs, delivers what is left of the outbox, gives back reservations whose
//! time is over, forgets old idempotency keys.
//!
//! Each part stands alone: one that fails is logged, told in the result, and does not keep the others from their work.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use shared::{
    config::Env,
    db::Database,
    documents::Documents,
    jobs,
    lambda::{Answer, Error, Trigger},
    limits, outbox,
    queue::Queue,
    secrets::Secrets,
    store::{StoreError, idempotency, outbox as outbox_rows},
};

/// How much one run takes on; the next goes on from there.
const PAGE: i32 = 500;
/// What is kept of the invocation's time for what follows the waking of jobs.
const RESERVE: Duration = Duration::from_secs(30);
/// How long deliveries for one organisation may take.
const DELIVERY: Duration = Duration::from_secs(5);

/// What one cold start builds.
#[derive(Debug)]
pub struct State {
    db: Database,
    documents: Documents,
    leads: Queue,
    renders: Queue,
    insights: Queue,
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
            leads: Queue::from_env(&env, "LEAD_QUEUE_URL")?,
            renders: Queue::from_env(&env, "RENDER_QUEUE_URL")?,
            insights: Queue::from_env(&env, "INSIGHTS_QUEUE_URL")?,
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
    let parts = [
        ("jobs_woken", wake_jobs(state, Instant::now() + tick.remaining.saturating_sub(RESERVE)).await),
        ("documents_delivered", deliver_documents(state).await),
        ("reservations_expired", expire_reservations(state).await),
        ("keys_forgotten", forget_keys(state).await),
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

/// Wakes jobs that are due, or whose worker's lease has ended.
async fn wake_jobs(state: &State, deadline: Instant) -> Result<usize, StoreError> {
    let mut tx = state.db.directory_tx().await?;
    let due = jobs::due(&mut tx, PAGE).await?;
    tx.rollback().await?;
    let mut woken = 0;
    for job in due {
        // The other parts have their turn too.
        if Instant::now() >= deadline {
            break;
        }
        match job.job_type.as_str() {
            "render" => {
                // Best effort: the next sweep finds what this loses.
                woken += usize::from(state.renders.wake(job.job_id, job.org_id).await);
            }
            "lead_assign" => woken += usize::from(state.leads.wake(job.job_id, job.org_id).await),
            "insight" => woken += usize::from(state.insights.wake(job.job_id, job.org_id).await),
            // Billing's own schedule finds them.
            "stripe_settle" | "stripe_claim" => {}
            other => tracing::error!(job.r#type = other, "no queue is known for this kind of job"),
        }
    }
    Ok(woken)
}

async fn deliver_documents(state: &State) -> Result<usize, StoreError> {
    let mut tx = state.db.directory_tx().await?;
    let orgs = outbox_rows::due_orgs(&mut tx, PAGE).await?;
    tx.rollback().await?;
    let mut delivered = 0;
    for org in orgs {
        delivered += outbox::deliver(&state.db, &state.documents, org, DELIVERY).await;
    }
    Ok(delivered)
}

async fn expire_reservations(state: &State) -> Result<usize, StoreError> {
    let mut tx = state.db.directory_tx().await?;
    let expired = limits::expired(&mut tx, PAGE).await?;
    tx.rollback().await?;
    let mut ended = 0;
    for (org, reservation) in expired {
        let mut tx = state.db.service_tx(org).await?;
        ended += usize::from(limits::expire(&mut tx, reservation).await?);
        tx.commit().await?;
    }
    Ok(ended)
}

async fn forget_keys(state: &State) -> Result<usize, StoreError> {
    let mut tx = state.db.directory_tx().await?;
    let forgotten = idempotency::forget(&mut tx).await?;
    tx.commit().await?;
    Ok(forgotten)
}
