//! One job of billing, from claim to its end, as [`shared::worker`] has it worked on. The schedule finds them; there is no queue.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    db::{Database, ServiceTx},
    jobs::End,
    store::billing,
    worker::{Failure, Finish, Stop, Work},
};

use crate::{
    claim::claim,
    error::StepError,
    event,
    facts::is_id,
    fetch::fetch,
    job::{CLAIM, Held, PLAN, Payload, SETTLE},
    record::record,
    state::State,
};

/// How long a job waits for Stripe or the database to come back.
const AWAY: TimeDelta = TimeDelta::minutes(1);
/// How long it waits for Stripe to have something newer than what is to be decided.
const NEWER: TimeDelta = TimeDelta::seconds(10);
/// What is kept of the worker's time when no new page is begun.
const MARGIN: Duration = Duration::from_secs(10);

/// The worker of jobs of billing.
pub(crate) struct BillingJobs<'a>(pub(crate) &'a State);

impl Work for BillingJobs<'_> {
    type Payload = Payload;
    type Plan = ();
    type Done = Value;

    const NAME: &'static str = "job of billing";
    const JOB_TYPES: &'static [&'static str] = &[SETTLE, CLAIM, PLAN];
    const SWITCH: Option<&'static str> = None;
    const LEASE: TimeDelta = TimeDelta::minutes(2);

    fn db(&self) -> &Database {
        &self.0.db
    }

    fn now(&self) -> DateTime<Utc> {
        (self.0.clock)()
    }

    async fn prepare(&self, _tx: &mut ServiceTx, _held: &Held) -> Result<(), Stop> {
        Ok(())
    }

    async fn work(&self, held: &Held, (): &(), deadline: Instant) -> Result<Value, Stop> {
        match held.job.job_type.as_str() {
            CLAIM => claim_all(self.0, held, deadline).await,
            PLAN => settle_plan(self.0, held).await,
            _ => settle(self.0, held).await,
        }
    }

    async fn finish(&self, _tx: &mut ServiceTx, _held: &Held, (): &(), done: &Value) -> Result<Finish, Stop> {
        Ok(Finish { end: End::Succeeded { result: done.clone(), tokens: 0 }, used: None })
    }
}

/// What is left open in billing stays so until it is settled, however long Stripe or the database is away: that is no attempt. What Stripe
/// refuses it would refuse again.
fn stop(state: &State, error: StepError) -> Stop {
    let failure = Failure::new("stripe_settle_failed", error.to_string());
    match error {
        StepError::Stripe(error) if !error.passes() => Stop::Failed(failure),
        _ => {
            let why = json!({ "reason": "stripe_unavailable" });
            Stop::Snooze { until: (state.clock)() + AWAY, why, failure: Some(failure), counts: false }
        }
    }
}

/// Renews the lease between two steps.
async fn go_on(state: &State, held: &Held) -> Result<(), Stop> {
    state.db.service(held.job.org_id, async |tx| held.go_on(tx).await).await
}

/// Applies what waited for an organisation, page by page. What is left when the time is over is the schedule's.
async fn claim_all(state: &State, held: &Held, deadline: Instant) -> Result<Value, Stop> {
    let deadline = deadline.checked_sub(MARGIN).unwrap_or(deadline);
    let mut all = 0;
    while Instant::now() < deadline {
        go_on(state, held).await?;
        match claim(state, held.job.org_id, deadline).await.map_err(|error| stop(state, error))? {
            0 => break,
            some => all += some,
        }
    }
    Ok(json!({ "claimed": all }))
}

/// Gives the organisation the plan it pays for, after prices were mapped to others or somebody gave it another.
async fn settle_plan(state: &State, held: &Held) -> Result<Value, Stop> {
    let org = held.job.org_id;
    go_on(state, held).await?;
    let plan = state.db.service(org, async |tx| billing::settle_plan(tx, org).await).await;
    Ok(json!({ "plan": plan.map_err(|error| stop(state, error.into()))? }))
}

/// Asks Stripe for the object as it is, and records that.
async fn settle(state: &State, held: &Held) -> Result<Value, Stop> {
    let object_id = held.payload.object_id.as_deref().filter(|id| is_id(id)).unwrap_or_default();
    let raw = fetch(state, held.job.org_id, object_id).await.map_err(|error| stop(state, error))?;
    // Stripe may have taken its time.
    go_on(state, held).await?;
    let read = event::read(&raw, (state.clock)().timestamp()).observation;
    let recorded = record(&state.db, &read, &raw).await.map_err(|error| stop(state, error.into()))?;
    // Something newer is known, or the answer was not newer than what it was to decide: asked again, until it is.
    if recorded.outcome == "superseded" {
        let why = json!({ "reason": "newer_answer" });
        return Err(Stop::Snooze { until: (state.clock)() + NEWER, why, failure: None, counts: false });
    }
    Ok(json!({ "outcome": recorded.outcome }))
}
