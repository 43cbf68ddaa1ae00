//! Works on jobs: all that happens between a message and the end of a job's row, for every kind of work.
//!
//! A function implements [`Work`]: what its jobs are, what it gathers as it takes one, the work itself, and what it writes at the end.
//! Here is the rest. One transaction claims the job with a lease, marks calls that an earlier worker never ended, gives back what that
//! one had reserved, heeds cancellation, kill switch and attempts, and lets the function gather what it needs. Then the function works,
//! outside a transaction. One transaction ends the job with the function's own rows, settles or gives back its reservation, and leaves
//! a row in `error_logs` if it failed.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    audit::AuditError,
    db::{Database, DbError, ServiceTx},
    jobs::{self, Claim, Claimed, End, Renewed, StaleLease},
    limits,
    secrets::SecretError,
    store::{StoreError, error_logs, provider_calls, settings},
    telemetry::{self, Unit, metric},
};

/// How long a paused job waits before it is looked at again.
const PAUSE: TimeDelta = TimeDelta::minutes(1);
/// What is kept of the invocation's time for giving a job back.
pub const GIVING_BACK: Duration = Duration::from_secs(5);
/// A job is not claimed with less time than this.
const SHORTEST: Duration = Duration::from_secs(10);
/// The longest a provider's hint is followed; a longer one is a quota by another name.
const LONGEST_HINT: Duration = Duration::from_secs(3600);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a function does about jobs.
#[expect(
    async_fn_in_trait,
    reason = "a function works on one event at a time, and sends nothing of it to another thread"
)]
pub trait Work {
    /// What the job is about, as `jobs.payload` has it. A job whose payload is not of this shape fails with `payload_invalid`.
    type Payload: DeserializeOwned;
    /// What is gathered as the job is claimed.
    type Plan;
    /// What came of the work, to be written down.
    type Done;

    /// What it is called in logs, as in `render`.
    const NAME: &'static str;
    /// The types of its jobs.
    const JOB_TYPES: &'static [&'static str];
    /// The kill switch in `system_settings` that holds its jobs, if there is one.
    const SWITCH: Option<&'static str>;
    /// How long a worker holds a job between two steps. Longer than any step.
    const LEASE: TimeDelta;
    /// Whether there is something to serve without another attempt: then `work` is called for a job whose attempts are spent too, with
    /// [`Held::exhausted`] set. Else the worker fails it with `attempts_exhausted`.
    const SERVES_EXHAUSTED: bool = false;
    /// Whether a job that is put back for another attempt, or paused, keeps its reservation: the next attempt exchanges it for its own in
    /// one transaction, so that no other job takes the place that this one was admitted with. Else it is given back.
    const KEEPS_PLACE: bool = false;

    /// The database.
    fn db(&self) -> &Database;

    /// The time.
    fn now(&self) -> DateTime<Utc>;

    /// Gathers what the work needs, in the transaction that claims the job. What it returns as [`Stop`] ends the job in this transaction;
    /// after [`Stop::Unavailable`] and [`Stop::Stale`] nothing has happened, and the message comes again.
    ///
    /// # Errors
    /// Why there is nothing to work on, or not yet.
    async fn prepare(&self, tx: &mut ServiceTx, held: &Held<Self::Payload>) -> Result<Self::Plan, Stop>;

    /// Does the work, in no transaction. Before each step that costs something it calls [`Held::go_on`].
    ///
    /// # Errors
    /// Why it stopped short of its end.
    async fn work(&self, held: &Held<Self::Payload>, plan: &Self::Plan, deadline: Instant) -> Result<Self::Done, Stop>;

    /// Writes down what was done, in the transaction that ends the job, and says how it ends. Call [`Held::lock`] first, unless rows are
    /// locked in another order elsewhere: then a worker whose lease has ended writes nothing that the transaction must take back.
    ///
    /// # Errors
    /// [`Stop::Unavailable`] gives the job back for another attempt.
    async fn finish(
        &self,
        tx: &mut ServiceTx,
        held: &Held<Self::Payload>,
        plan: &Self::Plan,
        done: &Self::Done,
    ) -> Result<Finish, Stop>;

    /// Brings the function's own rows up to an end that `finish` did not choose: failed, cancelled, or put back. In the transaction that
    /// ends the job.
    ///
    /// # Errors
    /// Then nothing of that transaction is kept.
    async fn stopped(&self, _tx: &mut ServiceTx, _held: &Held<Self::Payload>, _end: &End) -> Result<(), StoreError> {
        Ok(())
    }

    /// Follows the commit of what `finish` wrote: measurements, and deliveries that may fail. `took` is the time since the claim.
    async fn finished(
        &self,
        _held: &Held<Self::Payload>,
        _plan: &Self::Plan,
        _done: &Self::Done,
        _end: &End,
        _took: Duration,
    ) {
    }
}

/// A job that this worker holds.
#[derive(Debug, Clone)]
pub struct Held<P> {
    /// Its row.
    pub job: Claimed,
    /// What it is about.
    pub payload: P,
    /// Whether its attempts are spent, see [`Work::SERVES_EXHAUSTED`].
    pub exhausted: bool,
    lease: TimeDelta,
}

impl<P> Held<P> {
    /// Renews the lease before another step, in the transaction that writes the step down.
    ///
    /// # Errors
    /// [`Stop::Stale`], [`Stop::Cancelled`] or [`Stop::Unavailable`]: then nothing more may be done.
    pub async fn go_on(&self, tx: &mut ServiceTx) -> Result<(), Stop> {
        match jobs::renew(tx, &self.job, self.lease).await?? {
            Renewed::GoOn => Ok(()),
            Renewed::CancelRequested => Err(Stop::Cancelled),
        }
    }

    /// Locks the job's row, so that no other transaction ends or takes the job before this one.
    ///
    /// # Errors
    /// [`Stop::Stale`], if another has.
    pub async fn lock(&self, tx: &mut ServiceTx) -> Result<(), Stop> {
        Ok(jobs::lock(tx, &self.job).await??)
    }
}

/// How a job ends that was worked on, and what settles its reservation.
#[derive(Debug, Clone)]
pub struct Finish {
    /// The job's end.
    pub end: End,
    /// The reservation that is used. Without one, all that the job holds is given back.
    pub used: Option<Used>,
}

/// A reservation that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Its id.
    pub reservation_id: Uuid,
    /// For how many requests.
    pub requests: i64,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Stable code, for people and programs.
    pub code: &'static str,
    /// What happened and what to do about it. Nothing personal: it is shown with the job.
    pub detail: String,
    /// When the provider said to come back.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// Without a hint when to come back.
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry_after: None }
    }

    /// As people see it: `{"code","detail"}`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({ "code": self.code, "detail": self.detail })
    }

    /// How long to wait before attempt number `attempt + 1`: the provider's hint, else doubling from two seconds to five minutes.
    fn delay(&self, attempt: i32, jitter: f64) -> Duration {
        let doubling = Duration::from_secs(2_u64.saturating_pow(attempt.clamp(1, 8).unsigned_abs()));
        jittered(self.retry_after.unwrap_or(doubling), jitter)
    }
}

/// Up to half as long again, by `jitter` from 0 to 1, so that what failed together does not come back together; never sooner than a
/// provider's hint says, and never more than an hour and a half.
#[must_use]
pub fn jittered(wait: Duration, jitter: f64) -> Duration {
    wait.min(LONGEST_HINT).mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 2.0)
}

/// Why work on a job stopped short of its end.
#[derive(Debug)]
pub enum Stop {
    /// It failed, and another attempt may succeed: put back, until its attempts are spent.
    Retry(Failure),
    /// It waits, and holds nothing meanwhile.
    Snooze {
        /// Until when.
        until: DateTime<Utc>,
        /// For what, for people to see: at least `{"reason"}`.
        why: Value,
        /// What went wrong, if something did.
        failure: Option<Failure>,
        /// Whether this was an attempt.
        counts: bool,
    },
    /// A person or agent cancelled it.
    Cancelled,
    /// Another worker holds the job now: nothing more may be written.
    Stale,
    /// It failed, and would again.
    Failed(Failure),
    /// The database or a secret did not answer: put back as for [`Stop::Retry`] if that can be written down, else the message comes again.
    Unavailable(BoxError),
}

impl Stop {
    /// [`Stop::Failed`].
    pub fn failed(code: &'static str, detail: impl Into<String>) -> Self {
        Self::Failed(Failure::new(code, detail))
    }

    /// The job waits for a limit to open. That is no attempt.
    #[must_use]
    pub fn limited(waiting: &limits::Waiting) -> Self {
        Self::Snooze { until: waiting.until, why: json!(waiting), failure: None, counts: false }
    }

    /// How this ends a job; `None` if it leaves the job alone.
    fn end(self, job: &Claimed, serves_exhausted: bool, now: DateTime<Utc>) -> Option<End> {
        Some(match self {
            Self::Stale => return None,
            Self::Cancelled => End::Cancelled,
            Self::Failed(failure) => End::Failed { error: failure.to_json() },
            Self::Snooze { until, why, failure, counts } => {
                let error = failure.map(|failure| failure.to_json());
                End::Later { run_after: until, waiting: Some(why), error, counts }
            }
            Self::Retry(failure) if job.attempt < job.max_attempts || serves_exhausted => {
                let delay = TimeDelta::from_std(failure.delay(job.attempt, rand::random())).unwrap_or(PAUSE);
                End::Later { run_after: now + delay, waiting: None, error: Some(failure.to_json()), counts: true }
            }
            Self::Retry(failure) => End::Failed { error: failure.to_json() },
            Self::Unavailable(_) => {
                let failure = Failure::new("dependency_unavailable", "Something that this needs did not answer.");
                return Self::Retry(failure).end(job, serves_exhausted, now);
            }
        })
    }
}

macro_rules! stops {
    ($($error:ty => $stop:expr),* $(,)?) => {$(
        impl From<$error> for Stop {
            fn from(error: $error) -> Self {
                ($stop)(error)
            }
        }
    )*};
}
stops! {
    StaleLease => |_| Stop::Stale,
    StoreError => |error| Stop::Unavailable(Box::new(error)),
    DbError => |error| Stop::Unavailable(Box::new(error)),
    SecretError => |error| Stop::Unavailable(Box::new(error)),
    AuditError => |error| Stop::Unavailable(Box::new(error)),
}

/// What came of looking at a job.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// There was too little time left to begin.
    NoTime,
    /// There is nothing to do: it is done, held by another, cancelled or not due.
    Nothing,
    /// Another worker holds it now.
    Stale,
    /// This worker's hold on it ended so.
    Ended(End),
}

#[derive(Debug, Deserialize)]
struct Message {
    job_id: Uuid,
    org_id: Uuid,
}

/// Works on the job that a queue's message names. Returns whether the message has served its purpose; if not, it comes again.
pub async fn process<W: Work>(worker: &W, message: &str, deadline: Instant) -> bool {
    let Ok(Message { job_id, org_id }) = serde_json::from_str(message) else {
        tracing::error!(work = W::NAME, "a message is not a job reference");
        return false;
    };
    telemetry::works_for(org_id, None);
    match take(worker, org_id, job_id, deadline).await {
        Ok(Outcome::NoTime) => false,
        Ok(Outcome::Nothing | Outcome::Stale | Outcome::Ended(_)) => true,
        // It is logged. The lease ends by itself, and the message, or the sweep's, comes after that.
        Err(_) => false,
    }
}

/// Works on one job of `org_id`, if it is due.
///
/// # Errors
/// If the database did not answer, which is logged here: the job is found again when its lease has ended.
pub async fn take<W: Work>(worker: &W, org_id: Uuid, job_id: Uuid, deadline: Instant) -> Result<Outcome, BoxError> {
    if deadline.saturating_duration_since(Instant::now()) < SHORTEST {
        return Ok(Outcome::NoTime);
    }
    // Boxed, since a whole function's work within that of its handler is more than the compiler will lay out.
    match Box::pin(attempt(worker, org_id, job_id, deadline)).await {
        Ok(outcome) => Ok(outcome),
        Err(Stop::Unavailable(error)) => {
            log_unavailable::<W>(org_id, job_id, &*error);
            Err(error)
        }
        Err(_) => Ok(Outcome::Stale),
    }
}

async fn attempt<W: Work>(worker: &W, org_id: Uuid, job_id: Uuid, deadline: Instant) -> Result<Outcome, Stop> {
    let begun = Instant::now();
    let (held, plan) = match worker.db().service(org_id, async |tx| claim(worker, tx, org_id, job_id).await).await? {
        Begun::Nothing => return Ok(Outcome::Nothing),
        Begun::Ended(job, end) => {
            report::<W>(worker.now(), &job, &end, begun.elapsed());
            return Ok(Outcome::Ended(end));
        }
        Begun::Held(held, plan) => (held, plan),
    };
    tracing::info!(job.id = %job_id, org.id = %org_id, attempt = held.job.attempt, "{} begins", W::NAME);
    let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(GIVING_BACK);
    let worked = timeout(left, Box::pin(worker.work(&held, &plan, deadline))).await;
    let stop = match worked {
        Ok(Ok(done)) => match finish(worker, &held, &plan, &done).await {
            Ok(end) => {
                report::<W>(worker.now(), &held.job, &end, begun.elapsed());
                worker.finished(&held, &plan, &done, &end, begun.elapsed()).await;
                return Ok(Outcome::Ended(end));
            }
            Err(stop) => stop,
        },
        Ok(Err(stop)) => stop,
        Err(_) => Stop::Retry(Failure::new("time_out", "The worker's time was over; another goes on.")),
    };
    if let Stop::Unavailable(error) = &stop {
        log_unavailable::<W>(org_id, job_id, &**error);
    }
    let again = matches!(stop, Stop::Retry(_) | Stop::Unavailable(_));
    let Some(end) = stop.end(&held.job, W::SERVES_EXHAUSTED, worker.now()) else { return Ok(Outcome::Stale) };
    let reservation = Reservation::after::<W>(again && matches!(end, End::Later { .. }));
    worker.db().service(org_id, async |tx| stop_in(worker, tx, &held, &end, reservation).await).await?;
    report::<W>(worker.now(), &held.job, &end, begun.elapsed());
    Ok(Outcome::Ended(end))
}

/// What came of a claim.
enum Begun<W: Work> {
    Nothing,
    Ended(Claimed, End),
    Held(Held<W::Payload>, W::Plan),
}

async fn claim<W: Work>(worker: &W, tx: &mut ServiceTx, org_id: Uuid, job_id: Uuid) -> Result<Begun<W>, Stop> {
    let Claim::Held(job) = jobs::claim(tx, org_id, job_id, Uuid::now_v7(), W::LEASE).await? else {
        return Ok(Begun::Nothing);
    };
    if !W::JOB_TYPES.contains(&job.job_type.as_str()) {
        tracing::error!(job.id = %job_id, job.r#type = job.job_type, work = W::NAME, "a message names a job of another kind");
        return Err(Stop::Stale);
    }
    provider_calls::mark_lost(tx, org_id, job_id).await?;
    if job.attempt > 1 {
        // What earlier attempts spent is counted, so that this one is held to what is left.
        limits::refund_job(tx, job_id).await?;
    }
    let Ok(payload) = W::Payload::deserialize(&job.payload) else {
        let end =
            End::Failed { error: Failure::new("payload_invalid", "The job does not say what it is about.").to_json() };
        close(tx, &job, &end, Reservation::GivenBack).await?;
        return Ok(Begun::Ended(job, end));
    };
    let exhausted = job.attempt > job.max_attempts;
    let held = Held { job, payload, exhausted, lease: W::LEASE };
    let (end, reservation) = match begin(worker, tx, &held).await {
        Ok(Ok(plan)) => return Ok(Begun::Held(held, plan)),
        Ok(Err(paused)) => (Some(paused), Reservation::after::<W>(true)),
        Err(stop @ (Stop::Stale | Stop::Unavailable(_))) => return Err(stop),
        Err(stop) => (stop.end(&held.job, W::SERVES_EXHAUSTED, worker.now()), Reservation::GivenBack),
    };
    let Some(end) = end else { return Err(Stop::Stale) };
    stop_in(worker, tx, &held, &end, reservation).await?;
    Ok(Begun::Ended(held.job, end))
}

/// What the function gathers; or how the job is put back, if its switch is off.
async fn begin<W: Work>(worker: &W, tx: &mut ServiceTx, held: &Held<W::Payload>) -> Result<Result<W::Plan, End>, Stop> {
    if held.job.cancel_requested {
        return Err(Stop::Cancelled);
    }
    if let Some(switch) = W::SWITCH
        && !settings::enabled(tx, switch).await?
    {
        let until = worker.now() + PAUSE;
        let waiting = Some(json!({ "reason": "paused", "until": until }));
        return Ok(Err(End::Later { run_after: until, waiting, error: None, counts: false }));
    }
    if held.exhausted && !W::SERVES_EXHAUSTED {
        return Err(Stop::failed("attempts_exhausted", "Every attempt was cut off before it could finish."));
    }
    worker.prepare(tx, held).await.map(Ok)
}

async fn finish<W: Work>(worker: &W, held: &Held<W::Payload>, plan: &W::Plan, done: &W::Done) -> Result<End, Stop> {
    let written = worker.db().service(held.job.org_id, async |tx| {
        let Finish { end, used } = worker.finish(tx, held, plan, done).await?;
        close(tx, &held.job, &end, used.map_or(Reservation::GivenBack, Reservation::Settled)).await?;
        Ok::<_, Stop>(end)
    });
    written.await
}

async fn stop_in<W: Work>(
    worker: &W,
    tx: &mut ServiceTx,
    held: &Held<W::Payload>,
    end: &End,
    reservation: Reservation,
) -> Result<(), Stop> {
    close(tx, &held.job, end, reservation).await?;
    Ok(worker.stopped(tx, held, end).await?)
}

/// What becomes of the reservation that a job holds.
#[derive(Debug, Clone, Copy)]
enum Reservation {
    Kept,
    GivenBack,
    Settled(Used),
}

impl Reservation {
    /// For a job that did not end as its work says; `again` if it is put back for an attempt like this one.
    const fn after<W: Work>(again: bool) -> Self {
        if again && W::KEEPS_PLACE { Self::Kept } else { Self::GivenBack }
    }
}

/// Ends the hold on a job, with everything that goes with it for every kind of job.
async fn close(tx: &mut ServiceTx, job: &Claimed, end: &End, reservation: Reservation) -> Result<(), Stop> {
    jobs::end(tx, job, end).await??;
    match reservation {
        Reservation::Kept => {}
        Reservation::GivenBack => limits::refund_job(tx, job.id).await?,
        Reservation::Settled(used) => {
            if !limits::settle(tx, used.reservation_id, used.requests).await? {
                // Only the holder of the lease ends a reservation, so this is a defect: nothing is kept that was not counted.
                tracing::error!(job.id = %job.id, reservation.id = %used.reservation_id, "a reservation had ended before it was settled");
                return Err(Stop::Stale);
            }
        }
    }
    if let End::Failed { error } = end {
        let message = format!(
            "The job {} ({}) failed in attempt {} of {}: {}.",
            job.id,
            job.job_type,
            job.attempt,
            job.max_attempts,
            error["code"].as_str().unwrap_or("unknown")
        );
        error_logs::insert(tx, Some(job.org_id), &message).await?;
    }
    Ok(())
}

/// One line and one measurement for each hold on a job that ended.
fn report<W: Work>(now: DateTime<Utc>, job: &Claimed, end: &End, took: Duration) {
    let (outcome, error) = match end {
        End::Succeeded { .. } => ("succeeded", None),
        End::Failed { error } => ("failed", Some(error)),
        End::Cancelled => ("cancelled", None),
        End::Later { waiting: Some(_), error, .. } => ("waiting", error.as_ref()),
        End::Later { waiting: None, error, .. } => ("retried", error.as_ref()),
    };
    let code = error.and_then(|error| error["code"].as_str());
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let (job_type, attempt) = (job.job_type.as_str(), job.attempt);
    if code.is_some() {
        tracing::warn!(job.id = %job.id, org.id = %job.org_id, job.r#type = job_type, attempt, outcome, code, duration_ms, "{} ends", W::NAME);
    } else {
        tracing::info!(job.id = %job.id, org.id = %job.org_id, job.r#type = job_type, attempt, outcome, duration_ms, "{} ends", W::NAME);
    }
    metric(now, "Jobs", Unit::Count, 1.0, &[("job_type", job_type), ("outcome", outcome)]);
}

fn log_unavailable<W: Work>(org_id: Uuid, job_id: Uuid, error: &(dyn std::error::Error + Send + Sync)) {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    tracing::error!(job.id = %job_id, org.id = %org_id, %error, cause, "{} could not go on", W::NAME);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(attempt: i32) -> Claimed {
        Claimed {
            id: Uuid::nil(),
            org_id: Uuid::nil(),
            job_type: "x".to_owned(),
            payload: Value::Null,
            attempt,
            max_attempts: 3,
            lease_token: Uuid::nil(),
            cancel_requested: false,
            created_by: None,
        }
    }

    #[test]
    fn delays_double_up_to_five_minutes_and_follow_a_hint() {
        let failure = Failure::new("x", "x");
        assert_eq!(failure.delay(1, 0.0), Duration::from_secs(2));
        assert_eq!(failure.delay(2, 0.0), Duration::from_secs(4));
        assert_eq!(failure.delay(30, 0.0), Duration::from_secs(256));
        let hinted = Failure { retry_after: Some(Duration::from_secs(600)), ..failure };
        assert_eq!(hinted.delay(1, 0.0), Duration::from_secs(600));
        assert_eq!(hinted.delay(1, 1.0), Duration::from_secs(900));
    }

    #[test]
    fn a_passing_failure_is_retried_until_attempts_are_spent_unless_something_serves_without() {
        let now = DateTime::<Utc>::default();
        let end = |attempt, serves| Stop::Retry(Failure::new("x", "x")).end(&job(attempt), serves, now);
        assert!(matches!(end(2, false), Some(End::Later { counts: true, waiting: None, .. })));
        assert!(matches!(end(3, false), Some(End::Failed { .. })));
        assert!(matches!(end(3, true), Some(End::Later { .. })));
        assert!(Stop::Stale.end(&job(1), false, now).is_none());
    }
}
