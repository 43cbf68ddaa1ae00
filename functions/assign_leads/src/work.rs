//! One job, from claim to assignment. Each step is a transaction or a call to the outside, never both.

use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::{
    ai::Charge,
    db::{DbError, ServiceTx},
    envelope::{Envelope, Resource},
    jobs::{self, Claim, Claimed, End, StaleLease},
    limits::{self, Amounts, Counted, Reserved},
    store::{
        StoreError,
        leads::{self, Advice, Assigned, LookedAt},
        outbox, prices, provider_calls,
        renders::get_template,
        settings,
    },
    telemetry::{Unit, metric},
};
use uuid::Uuid;

use crate::{
    advice::{self, Ask, EXPECTED, Paid},
    handler::{SWITCH, WAIT},
    state::State,
};

/// The agent that moves scores, as `agent_limits.agent` names it.
const AGENT: &str = "lead_assigner";
/// How long a worker holds a job between two steps: longer than an invocation.
pub(crate) const LEASE: TimeDelta = TimeDelta::minutes(3);
/// The longest a lead that nobody can take waits before it is looked at again; the schedule wakes it when there is room.
const LONGEST_WAIT: TimeDelta = TimeDelta::hours(1);
/// How long a paused job waits before it is looked at again.
const PAUSE: TimeDelta = TimeDelta::minutes(1);

#[derive(Debug, Deserialize)]
struct Message {
    job_id: Uuid,
    org_id: Uuid,
}

/// Why work on a job stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The job was cancelled while it ran.
    Cancelled,
    /// Another worker holds the job now: nothing more may be written.
    Stale,
    /// The database did not answer: the message comes again.
    Unavailable(Box<dyn std::error::Error + Send + Sync>),
}

impl From<StaleLease> for Stop {
    fn from(_: StaleLease) -> Self {
        Self::Stale
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

impl From<DbError> for Stop {
    fn from(error: DbError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

/// A job in hand.
struct Held {
    job: Claimed,
    lead_id: Uuid,
    plan: Plan,
}

/// How the score is come by.
enum Plan {
    /// By the rules; with why no model is asked, where one could be.
    Rules(Option<&'static str>),
    /// A model is asked, and the rules serve if it gives no answer.
    Model(Box<LookedAt>, Ask),
}

/// Works on the job a message names. Returns whether the message has served its purpose; if not, it comes again.
pub(crate) async fn process(state: &State, message: &str, deadline: Instant) -> bool {
    let Ok(message) = serde_json::from_str::<Message>(message) else {
        tracing::error!("a message on the leads' queue is not a job reference");
        return false;
    };
    match work(state, &message, deadline).await {
        Ok(()) | Err(Stop::Stale) => true,
        // Only a job that is held can be told to stop, and it is ended as that.
        Err(Stop::Cancelled) => true,
        Err(Stop::Unavailable(error)) => {
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            tracing::error!(job.id = %message.job_id, %error, cause, "an assignment could not go on");
            // The lease ends by itself; the message comes again, or the sweep finds the job.
            false
        }
    }
}

async fn work(state: &State, message: &Message, deadline: Instant) -> Result<(), Stop> {
    let Some(held) = claim(state, message).await? else { return Ok(()) };
    tracing::Span::current().record("org.id", tracing::field::display(held.job.org_id));
    let told = || Advice { job_id: Some(held.job.id), asked_by: held.job.created_by, ..Advice::default() };
    let (advice, paid) = match &held.plan {
        Plan::Rules(instead) => (Advice { instead: instead.map(str::to_owned), ..told() }, None),
        Plan::Model(lead, ask) => match advice::ask(state, &held.job, lead, ask, deadline).await {
            Ok(Ok(paid)) => (heard(state, &paid, told()), Some((ask.reservation_id, paid))),
            Ok(Err(code)) => {
                tracing::warn!(job.id = %held.job.id, code, "no advice on a lead; the rules serve");
                (Advice { instead: Some(code.to_owned()), ..told() }, None)
            }
            Err(Stop::Cancelled) => return cancel(state, &held.job).await,
            Err(stop) => return Err(stop),
        },
    };
    finish(state, &held, &advice, paid.as_ref()).await
}

fn heard(state: &State, paid: &Paid, told: Advice) -> Advice {
    Advice {
        adjustment: Some(paid.value.adjustment),
        // As text is stored: Postgres takes no NUL.
        reason: Some(paid.value.reason.chars().filter(|c| *c != '\0').take(1000).collect()),
        model: Some(state.claude_model.clone()),
        call_id: Some(paid.call_id),
        ..told
    }
}

/// Takes the job and gathers what it needs, in one transaction; ends or postpones it where there is nothing to do.
async fn claim(state: &State, message: &Message) -> Result<Option<Held>, Stop> {
    let now = (state.clock)();
    let mut tx = state.db.service_tx(message.org_id).await?;
    let Claim::Held(job) = jobs::claim(&mut tx, message.org_id, message.job_id, Uuid::now_v7(), LEASE).await? else {
        tx.rollback().await?;
        return Ok(None);
    };
    provider_calls::mark_lost(&mut tx, job.org_id, job.id).await?;
    // What earlier attempts spent is counted, so that this one is held to what is left.
    limits::refund_job(&mut tx, job.id).await?;
    if job.cancel_requested {
        return ended(tx, &job, End::Cancelled).await;
    }
    if !settings::enabled(&mut tx, SWITCH).await? {
        let until = now + PAUSE;
        let waiting = Some(json!({ "reason": "paused", "until": until }));
        return ended(tx, &job, End::Later { run_after: until, waiting, error: None, counts: false }).await;
    }
    if job.attempt > job.max_attempts {
        let error = failure("attempts_exhausted", "Every attempt was cut off before it could finish.");
        return ended(tx, &job, End::Failed { error }).await;
    }
    let lead_id = job.payload.get("lead_id").and_then(Value::as_str).and_then(|id| id.parse().ok()).unwrap_or_default();
    let Some(lead) = leads::look(&mut tx, lead_id).await? else {
        return ended(tx, &job, End::Failed { error: gone() }).await;
    };
    // What the schedule began stops with it.
    if job.payload.get("by_schedule") == Some(&Value::Bool(true)) && !lead.enabled {
        return ended(tx, &job, End::Cancelled).await;
    }
    let plan = if lead.outcome == "due" && lead.ai_bound > 0 && lead.free {
        plan(&mut tx, state, &job, lead, now).await?
    } else {
        Plan::Rules(None)
    };
    tx.commit().await?;
    Ok(Some(Held { job, lead_id, plan }))
}

async fn ended(mut tx: ServiceTx, job: &Claimed, end: End) -> Result<Option<Held>, Stop> {
    jobs::end(&mut tx, job, &end).await??;
    tx.commit().await?;
    Ok(None)
}

/// Reserves what a model's advice is expected to use. Where there is no price or no room for it, the rules serve.
async fn plan(
    tx: &mut ServiceTx,
    state: &State,
    job: &Claimed,
    lead: LookedAt,
    now: DateTime<Utc>,
) -> Result<Plan, Stop> {
    let prices = prices::list(tx, "anthropic", &state.claude_model, now).await?;
    let Ok(reserved) = Charge::reserved(&EXPECTED, &prices) else {
        return Ok(Plan::Rules(Some("model_price_unknown")));
    };
    let amounts = Amounts { requests: 1, tokens: reserved.tokens, cost_micro_usd: reserved.cost_micro_usd };
    // Nobody asked where the schedule did, and a lead belongs to no project.
    let counted = Counted { agent: AGENT, user_id: job.created_by, project_id: None };
    let reservation_id = match limits::reserve(tx, job.id, counted, amounts).await? {
        Reserved::Active(id) => id,
        Reserved::Reached(waiting) => return Ok(Plan::Rules(Some(waiting.code()))),
        Reserved::Never { .. } => return Ok(Plan::Rules(Some("limit_too_small"))),
    };
    let (template, _) = get_template(tx, job.org_id, "lead_adjustment", "en").await?;
    Ok(Plan::Model(Box::new(lead), Ask { reservation_id, template, reserved, prices }))
}

/// The one transaction that tells the whole story: score, assignment, audit entry, usage, charge, document and job.
async fn finish(state: &State, held: &Held, advice: &Advice, paid: Option<&(Uuid, Paid)>) -> Result<(), Stop> {
    let (job, now) = (&held.job, (state.clock)());
    let mut tx = state.db.service_tx(job.org_id).await?;
    let assigned = leads::assign(&mut tx, held.lead_id, advice).await?;
    let mut tokens = 0;
    match paid {
        Some((reservation_id, paid)) => {
            tokens = paid.charge.tokens;
            limits::settle(&mut tx, *reservation_id, 1).await?;
            if let ("assigned" | "reassigned", Some(id)) = (assigned.outcome.as_str(), assignment_id(&assigned)) {
                leads::charge(&mut tx, job.org_id, id, paid.charge).await?;
            }
        }
        None => limits::refund_job(&mut tx, job.id).await?,
    }
    let end = match assigned.outcome.as_str() {
        "lead_not_found" => End::Failed { error: gone() },
        "lead_closed" => {
            End::Failed { error: failure("lead_closed", "The lead was won or lost before somebody was found for it.") }
        }
        "waiting" => {
            let run_after = now + next_look(asked_at(job).unwrap_or(now), now);
            let mut waiting = assigned.waiting.clone().unwrap_or_default();
            waiting["at"] = json!(now);
            waiting["until"] = json!(run_after);
            End::Later { run_after, waiting: Some(waiting), error: None, counts: false }
        }
        outcome => {
            let result = json!({
                "outcome": outcome, "assignment": assigned.assignment,
                "served_by": if paid.is_some() { "model" } else { "rules" }, "instead_because": advice.instead,
            });
            End::Succeeded { result, tokens }
        }
    };
    jobs::end(&mut tx, job, &end).await??;
    if let Some(document) = document(held, &assigned, advice, paid.map(|(_, paid)| paid.charge), now) {
        outbox::insert_document(&mut tx, job.org_id, Uuid::now_v7(), "agent_outputs", &document).await?;
    }
    tx.commit().await?;
    metric(now, "LeadAssignments", Unit::Count, 1.0, &[("outcome", &assigned.outcome)]);
    Ok(())
}

/// What the agent did, if it gave the lead to somebody. The audit entry of the same is written as the lead is given. What a model said of
/// the lead may be personal and stands with the score alone.
fn document(
    held: &Held,
    assigned: &Assigned,
    advice: &Advice,
    charge: Option<Charge>,
    now: DateTime<Utc>,
) -> Option<Value> {
    let action = match assigned.outcome.as_str() {
        "assigned" => "lead.assigned",
        "reassigned" => "lead.reassigned",
        _ => return None,
    };
    let Charge { tokens, cost_micro_usd, estimated } = charge.unwrap_or_default();
    let given = &assigned.assignment;
    let user = given["assigned_to"].as_str().and_then(|id| id.parse().ok());
    let envelope = Envelope {
        agent: Some(AGENT),
        action,
        resource: Resource { kind: "leads", id: held.lead_id.to_string() },
        project_id: None,
        input: json!({ "why": given["reason"]["why"], "model": advice.model }),
        decision: json!({ "reason": given["reason"], "decided_by": given["decided_by"], "instead_because": advice.instead }),
        output: json!({ "assignment_id": given["assignment_id"], "assigned_to": user, "score": given["score"] }),
        subjects: user.into_iter().collect(),
        assets: Vec::new(),
        deploy: None,
        cost: Amounts { requests: i64::from(charge.is_some()), tokens, cost_micro_usd },
        served_by: Some(if charge.is_some() { "model" } else { "rules" }),
        at: now,
    };
    Some(envelope.document("lead_assignment", json!({ "job_id": held.job.id, "estimated": estimated })))
}

/// When it was last asked for.
fn asked_at(job: &Claimed) -> Option<DateTime<Utc>> {
    job.payload.get("asked_at").and_then(Value::as_str).and_then(|at| at.parse().ok())
}

/// The longer it has waited, the longer it is let be: a quarter of that again.
fn next_look(asked_at: DateTime<Utc>, now: DateTime<Utc>) -> TimeDelta {
    ((now - asked_at) / 4).clamp(WAIT, LONGEST_WAIT)
}

async fn cancel(state: &State, job: &Claimed) -> Result<(), Stop> {
    let mut tx = state.db.service_tx(job.org_id).await?;
    limits::refund_job(&mut tx, job.id).await?;
    jobs::end(&mut tx, job, &End::Cancelled).await??;
    tx.commit().await?;
    Ok(())
}

fn assignment_id(assigned: &Assigned) -> Option<Uuid> {
    assigned.assignment["assignment_id"].as_str()?.parse().ok()
}

fn gone() -> Value {
    failure("lead_not_found", "The lead was deleted before somebody was found for it.")
}

fn failure(code: &str, detail: &str) -> Value {
    json!({ "code": code, "detail": detail })
}
