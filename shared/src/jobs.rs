//! Jobs are rows; a queue message only says "look". A worker claims a row with a lease, and a completion that carries a stale
//! token is refused: delivered at least once, done exactly once.

use chrono::{DateTime, Duration, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    db::{CallerTx, DirectoryTx, ServiceTx},
    store::StoreError,
};

/// A job as people see it.
#[derive(Debug, Clone, Serialize)]
pub struct JobView {
    /// Its id.
    pub id: Uuid,
    /// What kind of work, as in `render`.
    #[serde(rename = "type")]
    pub job_type: String,
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    pub status: String,
    /// How often a worker began it.
    pub attempts: i32,
    /// How often one may.
    pub max_attempts: i32,
    /// Not before this time.
    pub run_after: DateTime<Utc>,
    /// When it was admitted.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Whether it will stop at its next step.
    pub cancel_requested: bool,
    /// Why it waits, if a limit or a switch holds it.
    pub waiting: Option<Value>,
    /// How far it is, if its work says so.
    pub progress: Option<Value>,
    /// What came of it.
    pub result: Option<Value>,
    /// Why it failed, or why the last attempt did.
    pub error: Option<Value>,
}

/// A job held by this worker until `lease_until`.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// Its id.
    pub id: Uuid,
    /// Its organisation.
    pub org_id: Uuid,
    /// Kind of work.
    pub job_type: String,
    /// What was asked for.
    pub payload: Value,
    /// Which attempt this is, from 1.
    pub attempt: i32,
    /// How many there may be.
    pub max_attempts: i32,
    /// Proves that this worker holds it.
    pub lease_token: Uuid,
    /// Whether somebody asked for it to be cancelled.
    pub cancel_requested: bool,
    /// The person or agent that asked for it.
    pub created_by: Option<Uuid>,
}

/// What there is to do about a job a message named.
#[derive(Debug, Clone)]
pub enum Claim {
    /// This worker holds it.
    Held(Claimed),
    /// It is done, held by another, cancelled or not due: the message has served its purpose.
    Nothing,
}

/// The job is no longer this worker's: its lease ended and another took it, or it was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease on the job has ended")]
pub struct StaleLease;

/// A job the caller may see.
///
/// # Errors
/// [`StoreError::NotFound`] if there is none, or not for them.
pub async fn get(tx: &mut CallerTx, id: Uuid) -> Result<JobView, StoreError> {
    sqlx::query_as!(
        JobView,
        r#"select id, job_type, status, attempts, max_attempts, run_after, created_at, finished_at,
                  cancel_requested_at is not null as "cancel_requested!", wait_reason as waiting, progress, result, last_error as error
             from public.jobs where id = $1"#,
        id
    )
    .fetch_optional(tx.conn()?)
    .await?
    .ok_or(StoreError::NotFound { entity: "job" })
}

/// What came of cancelling a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancelled {
    /// The status it had when this call cancelled it; `None` if this call changed nothing: it had ended, or was cancelled before.
    pub was: Option<String>,
    /// The status it has now.
    pub status: String,
}

/// Cancels a job the caller asked for, or any if they may cancel others': at once while it waits, at its next step while it
/// runs. One that has ended stays as it is.
///
/// # Errors
/// [`StoreError::NotFound`], or [`StoreError::Forbidden`] if they may see but not cancel it.
pub async fn cancel(tx: &mut CallerTx, id: Uuid) -> Result<Cancelled, StoreError> {
    get(tx, id).await?;
    let row = sqlx::query!("select was, status from app.call_off_job($1)", id).fetch_one(tx.conn()?).await?;
    let status = row.status.ok_or(StoreError::Forbidden { permission: "jobs:cancel" })?;
    Ok(Cancelled { was: row.was, status })
}

/// Takes a job for `lease`, if it is due or its holder's lease has ended, and counts the attempt. Also one whose attempts are spent or
/// that was cancelled: [`crate::worker`] ends those.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn claim(
    tx: &mut ServiceTx,
    org_id: Uuid,
    id: Uuid,
    lease_token: Uuid,
    lease: Duration,
) -> Result<Claim, StoreError> {
    let row = sqlx::query!(
        r#"update public.jobs
              set status = 'running', attempts = attempts + 1, lease_token = $3, wait_reason = null,
                  lease_until = now() + make_interval(secs => $4)
            where org_id = $1 and id = $2
              and ((status = 'queued' and run_after <= now()) or (status = 'running' and lease_until <= now()))
        returning job_type, payload, attempts, max_attempts, created_by, cancel_requested_at is not null as "cancel_requested!""#,
        org_id,
        id,
        lease_token,
        lease.as_seconds_f64()
    )
    .fetch_optional(tx.conn()?)
    .await?;
    Ok(row.map_or(Claim::Nothing, |row| {
        Claim::Held(Claimed {
            id,
            org_id,
            job_type: row.job_type,
            payload: row.payload,
            attempt: row.attempts,
            max_attempts: row.max_attempts,
            lease_token,
            cancel_requested: row.cancel_requested,
            created_by: row.created_by,
        })
    }))
}

/// Locks the job's row until the transaction ends, if this worker still holds the job. A worker that writes rows which depend on
/// the job's end calls this first.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn lock(tx: &mut ServiceTx, job: &Claimed) -> Result<Result<(), StaleLease>, StoreError> {
    let held = sqlx::query_scalar!(
        "select id from public.jobs where id = $1 and lease_token = $2 and status = 'running' for update",
        job.id,
        job.lease_token
    )
    .fetch_optional(tx.conn()?)
    .await?;
    Ok(held.map(drop).ok_or(StaleLease))
}

/// Whether this worker still holds the job, and whether it should go on. Renews the lease.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn renew(
    tx: &mut ServiceTx,
    job: &Claimed,
    lease: Duration,
) -> Result<Result<Renewed, StaleLease>, StoreError> {
    let row = sqlx::query!(
        r#"update public.jobs set lease_until = now() + make_interval(secs => $3)
            where id = $1 and lease_token = $2 and status = 'running'
        returning cancel_requested_at is not null as "cancel_requested!""#,
        job.id,
        job.lease_token,
        lease.as_seconds_f64()
    )
    .fetch_optional(tx.conn()?)
    .await?;
    Ok(match row {
        None => Err(StaleLease),
        Some(row) if row.cancel_requested => Ok(Renewed::CancelRequested),
        Some(_) => Ok(Renewed::GoOn),
    })
}

/// Writes down how far the work is, for people to see. Nothing happens if this worker holds the job no longer.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn show_progress(tx: &mut ServiceTx, job: &Claimed, progress: &Value) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.jobs set progress = $3 where id = $1 and lease_token = $2 and status = 'running'",
        job.id,
        job.lease_token,
        progress
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// What a worker that renewed its lease should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// The next step.
    GoOn,
    /// Stop, and end the job as cancelled.
    CancelRequested,
}

/// How a job ends, or does not end yet.
#[derive(Debug, Clone)]
pub enum End {
    /// Done, with what came of it and how many tokens it took.
    Succeeded {
        /// What people see.
        result: Value,
        /// All tokens of the attempt that succeeded.
        tokens: i64,
    },
    /// Given up, and why.
    Failed {
        /// `{"code","detail"}`.
        error: Value,
    },
    /// Cancelled while it ran.
    Cancelled,
    /// Back to the queue until `run_after`.
    Later {
        /// When to try again.
        run_after: DateTime<Utc>,
        /// Why, for people to see, if it waits for a limit, a switch or a provider.
        waiting: Option<Value>,
        /// What went wrong in this attempt, if something did.
        error: Option<Value>,
        /// Whether the attempt counts.
        counts: bool,
    },
}

/// Ends this worker's hold on the job. Refused with [`StaleLease`] if it holds it no longer: then nothing else of the
/// transaction may be committed.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn end(tx: &mut ServiceTx, job: &Claimed, end: &End) -> Result<Result<(), StaleLease>, StoreError> {
    let (status, result, tokens, run_after, waiting, error, counts) = match end {
        End::Succeeded { result, tokens } => ("succeeded", Some(result), Some(*tokens), None, None, None, true),
        End::Failed { error } => ("failed", None, None, None, None, Some(error), true),
        End::Cancelled => ("cancelled", None, None, None, None, None, true),
        End::Later { run_after, waiting, error, counts } => {
            ("queued", None, None, Some(*run_after), waiting.as_ref(), error.as_ref(), *counts)
        }
    };
    let done = sqlx::query!(
        "update public.jobs
            set status = $3, lease_token = null, lease_until = null, result = $4, actual_tokens = $5,
                run_after = coalesce($6, run_after), wait_reason = $7, last_error = $8,
                attempts = attempts - case when $9 then 0 else 1 end,
                finished_at = case when $3 = 'queued' then null else now() end
          where id = $1 and lease_token = $2 and status = 'running'",
        job.id,
        job.lease_token,
        status,
        result,
        tokens,
        run_after,
        waiting,
        error,
        counts
    )
    .execute(tx.conn()?)
    .await?;
    Ok(if done.rows_affected() == 1 { Ok(()) } else { Err(StaleLease) })
}

/// Makes a queued job wait until `run_after` for the reason given; without one it runs then. For its owner, and for those who may see all
/// renders.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn postpone(
    tx: &mut CallerTx,
    id: Uuid,
    run_after: DateTime<Utc>,
    waiting: Option<&Value>,
) -> Result<(), StoreError> {
    sqlx::query_scalar!("select app.postpone_job($1, $2, $3)", id, run_after, waiting).fetch_one(tx.conn()?).await?;
    Ok(())
}

/// Lets jobs run that wait for a limit which has changed since, or for a switch which is on. How many.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn release(tx: &mut DirectoryTx) -> Result<i32, StoreError> {
    Ok(sqlx::query_scalar!(r#"select app.release_waiting_jobs() as "released!""#).fetch_one(tx.conn()?).await?)
}

/// A job that a worker should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueJob {
    /// Its organisation.
    pub org_id: Uuid,
    /// Its id.
    pub job_id: Uuid,
    /// What kind of work it is, which names its queue.
    pub job_type: String,
}

/// Jobs that are due or whose holder's lease has ended, shared fairly between organisations.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn due(tx: &mut DirectoryTx, most: i32) -> Result<Vec<DueJob>, StoreError> {
    Ok(sqlx::query_as!(
        DueJob,
        r#"select org_id as "org_id!", job_id as "job_id!", job_type as "job_type!" from app.due_jobs($1)"#,
        most
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// The same, of these kinds only.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn due_of(tx: &mut DirectoryTx, job_types: &[&str], most: i32) -> Result<Vec<DueJob>, StoreError> {
    let job_types: Vec<String> = job_types.iter().map(|kind| (*kind).to_owned()).collect();
    Ok(sqlx::query_as!(
        DueJob,
        r#"select org_id as "org_id!", job_id as "job_id!", job_type as "job_type!" from app.due_jobs_of($1, $2)"#,
        &job_types,
        most
    )
    .fetch_all(tx.conn()?)
    .await?)
}
