//! One assignment, from claim to its end, as [`shared::worker`] has it worked on.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    ai::{Charge, models::Models},
    db::{Database, ServiceTx},
    envelope::{Envelope, Resource},
    jobs::{Claimed, End},
    limits::Amounts,
    store::{
        leads::{self, Advice, Assigned, LookedAt},
        outbox, templates,
    },
    telemetry::{Unit, metric},
    worker::{Failure, Finish, Stop, Used, Work},
};
use uuid::Uuid;

use crate::{
    advice::{self, EXPECTED},
    job::{AGENT, Ask, Held, PURPOSE, Paid, Payload, Plan, SWITCH, WAIT},
    state::State,
};

/// The longest a lead that nobody can take waits before it is looked at again; the schedule wakes it when there is room.
const LONGEST_WAIT: TimeDelta = TimeDelta::hours(1);

/// What a model said, if one was asked, and what pays for that.
pub(crate) struct Done {
    advice: Advice,
    paid: Option<(Used, Paid)>,
}

/// The worker of assignments.
pub(crate) struct Assignments<'a>(pub(crate) &'a State);

impl Work for Assignments<'_> {
    type Payload = Payload;
    type Plan = Plan;
    type Done = Done;

    const NAME: &'static str = "assignment";
    const JOB_TYPES: &'static [&'static str] = &["lead_assign"];
    const SWITCH: Option<&'static str> = Some(SWITCH);
    /// Longer than an invocation.
    const LEASE: TimeDelta = TimeDelta::minutes(3);

    fn db(&self) -> &Database {
        &self.0.db
    }

    fn now(&self) -> DateTime<Utc> {
        (self.0.clock)()
    }

    async fn prepare(&self, tx: &mut ServiceTx, held: &Held) -> Result<Plan, Stop> {
        let Some(lead) = leads::look(tx, held.payload.lead_id).await? else { return Err(Stop::Failed(gone())) };
        // What the schedule began stops with it.
        if held.payload.by_schedule && !lead.enabled {
            return Err(Stop::Cancelled);
        }
        if lead.outcome == "due" && lead.ai_bound > 0 && lead.free {
            plan(tx, self.0, &held.job, lead).await
        } else {
            Ok(Plan::Rules(None))
        }
    }

    async fn work(&self, held: &Held, plan: &Plan, deadline: Instant) -> Result<Done, Stop> {
        let advice = Advice { job_id: Some(held.job.id), asked_by: held.job.created_by, ..Advice::default() };
        let instead = |code: Option<&str>| Done {
            advice: Advice { instead: code.map(str::to_owned), ..advice.clone() },
            paid: None,
        };
        let (lead, ask) = match plan {
            Plan::Rules(code) => return Ok(instead(*code)),
            Plan::Model(lead, ask) => (lead, ask),
        };
        Ok(match advice::ask(self.0, held, lead, ask, deadline).await? {
            Ok(paid) => Done {
                advice: Advice {
                    adjustment: Some(paid.value.adjustment),
                    // As text is stored: Postgres takes no NUL.
                    reason: Some(paid.value.reason.chars().filter(|c| *c != '\0').take(1000).collect()),
                    model: Some(paid.model.clone()),
                    call_id: Some(paid.call_id),
                    ..advice
                },
                paid: Some((Used { reservation_id: paid.reservation_id, requests: 1 }, paid)),
            },
            Err(code) => {
                tracing::warn!(job.id = %held.job.id, code, "no advice on a lead; the rules serve");
                instead(Some(code))
            }
        })
    }

    /// Score, assignment, audit entry and charge. The database takes the lock on assignments first and that on the job's row after, as a
    /// request for the same lead does.
    async fn finish(&self, tx: &mut ServiceTx, held: &Held, _plan: &Plan, done: &Done) -> Result<Finish, Stop> {
        let now = self.now();
        let assigned = leads::assign(tx, held.payload.lead_id, &done.advice).await?;
        if let (Some((_, paid)), "assigned" | "reassigned", Some(id)) =
            (&done.paid, assigned.outcome.as_str(), assignment_id(&assigned))
        {
            leads::charge(tx, held.job.org_id, id, paid.charge).await?;
        }
        let end = match assigned.outcome.as_str() {
            "lead_not_found" => End::Failed { error: gone().to_json() },
            "lead_closed" => {
                let detail = "The lead was won or lost before somebody was found for it.";
                End::Failed { error: Failure::new("lead_closed", detail).to_json() }
            }
            "waiting" => {
                let run_after = now + next_look(held.payload.asked_at.unwrap_or(now), now);
                let mut waiting = assigned.waiting.clone().unwrap_or_default();
                waiting["at"] = json!(now);
                waiting["until"] = json!(run_after);
                End::Later { run_after, waiting: Some(waiting), error: None, counts: false }
            }
            outcome => {
                let result = json!({
                    "outcome": outcome, "assignment": assigned.assignment,
                    "served_by": if done.paid.is_some() { "model" } else { "rules" }, "instead_because": done.advice.instead,
                });
                let tokens = done.paid.as_ref().map_or(0, |(_, paid)| paid.charge.tokens);
                End::Succeeded { result, tokens }
            }
        };
        if let Some(document) = document(held, &assigned, done, now) {
            outbox::insert_document(tx, held.job.org_id, Uuid::now_v7(), "agent_outputs", &document).await?;
        }
        Ok(Finish { end, used: done.paid.as_ref().map(|(used, _)| *used) })
    }

    async fn finished(&self, _held: &Held, _plan: &Plan, _done: &Done, end: &End, _took: Duration) {
        let outcome = match end {
            End::Succeeded { result, .. } => result["outcome"].as_str(),
            End::Failed { error } => error["code"].as_str(),
            End::Later { .. } => Some("waiting"),
            End::Cancelled => None,
        };
        if let Some(outcome) = outcome {
            metric(self.now(), "LeadAssignments", Unit::Count, 1.0, &[("outcome", outcome)]);
        }
    }
}

/// Reserves what a model's advice is expected to use. Where there is no price or no room for it, the rules serve.
async fn plan(tx: &mut ServiceTx, state: &State, job: &Claimed, lead: LookedAt) -> Result<Plan, Stop> {
    let models = Models::read(tx, AGENT, (state.clock)()).await?.choose(PURPOSE, None, |_| EXPECTED);
    let Some(model) = models.first() else { return Ok(Plan::Rules(Some("model_price_unknown"))) };
    let hold = match advice::hold(tx, job, model).await? {
        Ok(hold) => hold,
        Err(code) => return Ok(Plan::Rules(Some(code))),
    };
    let (template, _) = templates::get(tx, job.org_id, "lead_adjustment", "en").await?;
    Ok(Plan::Model(Box::new(lead), Ask { template, models, hold }))
}

/// What the agent did, if it assigned the lead. The audit entry of the same is written as the lead is given. What a model said of
/// the lead may be personal and stands with the score alone.
fn document(held: &Held, assigned: &Assigned, done: &Done, now: DateTime<Utc>) -> Option<Value> {
    let action = match assigned.outcome.as_str() {
        "assigned" => "lead.assigned",
        "reassigned" => "lead.reassigned",
        _ => return None,
    };
    let (advice, charge) = (&done.advice, done.paid.as_ref().map(|(_, paid)| paid.charge));
    let Charge { tokens, cost_micro_usd, estimated } = charge.unwrap_or_default();
    let given = &assigned.assignment;
    let user = given["assigned_to"].as_str().and_then(|id| id.parse().ok());
    let envelope = Envelope {
        agent: Some(AGENT),
        action,
        resource: Resource { kind: "leads", id: held.payload.lead_id.to_string() },
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

/// The longer it has waited, the longer it is let be: a quarter of that again.
fn next_look(asked_at: DateTime<Utc>, now: DateTime<Utc>) -> TimeDelta {
    ((now - asked_at) / 4).clamp(WAIT, LONGEST_WAIT)
}

fn assignment_id(assigned: &Assigned) -> Option<Uuid> {
    assigned.assignment["assignment_id"].as_str()?.parse().ok()
}

fn gone() -> Failure {
    Failure::new("lead_not_found", "The lead was deleted before somebody was found for it.")
}
