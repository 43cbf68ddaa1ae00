//! One job, from claim to its end, as [`shared::worker`] has it worked on: a batch of messages is scored, or one answer is drafted.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    ai::{
        AiError, Charge,
        call::expected,
        models::{Choice, Models},
    },
    audit,
    db::{Database, ServiceTx},
    envelope::{Envelope, Resource},
    jobs::End,
    limits::Amounts,
    store::{
        outbox,
        social_ai::{self, Kept, Score, ToDraft, Unscored},
        templates,
    },
    telemetry::{Unit, metric},
    worker::{Failure, Finish, Stop, Used, Work},
};
use uuid::Uuid;

use crate::{
    call::{self, Asked, Question, Unusable},
    draft::{self, Drafted},
    job::{AGENT, DRAFT, Held, Paid, Payload, Plan, SENTIMENT, SWITCH},
    rules, sentiment,
    state::State,
};

/// How many messages one call is about.
const BATCH: i32 = 40;
/// How often the model is asked for the same.
const TRIES: u32 = 2;
/// The most tokens an answer may take: some thirty for each score.
const SCORES_TOKENS: u32 = 2048;
const DRAFT_TOKENS: u32 = 1024;

/// What came of the work.
pub(crate) enum Done {
    Nothing(String),
    Scored {
        /// By the message's place: its score, and the model that gave it, or none.
        scores: Vec<(f64, Option<String>)>,
        /// Why rules gave some.
        instead: Option<&'static str>,
        paid: Vec<Paid>,
        /// The one that is not settled yet.
        open: Option<Paid>,
    },
    Drafted {
        text: String,
        language: Option<String>,
        paid: Paid,
    },
    /// The model was asked, and there is nothing to propose, for the reason that this code names.
    Undrafted {
        outcome: &'static str,
        paid: Option<Paid>,
    },
}

/// The worker.
pub(crate) struct Understanding<'a>(pub(crate) &'a State);

impl Work for Understanding<'_> {
    type Payload = Payload;
    type Plan = Plan;
    type Done = Done;

    const NAME: &'static str = "understanding of social messages";
    const JOB_TYPES: &'static [&'static str] = &["social_sentiment", "social_draft"];
    const SWITCH: Option<&'static str> = Some(SWITCH);
    /// Longer than an invocation.
    const LEASE: TimeDelta = TimeDelta::minutes(3);
    /// Rules can always score.
    const SERVES_EXHAUSTED: bool = true;

    fn db(&self) -> &Database {
        &self.0.db
    }

    fn now(&self) -> DateTime<Utc> {
        (self.0.clock)()
    }

    async fn prepare(&self, tx: &mut ServiceTx, held: &Held) -> Result<Plan, Stop> {
        let (org_id, now) = (held.job.org_id, self.now());
        if held.job.job_type == "social_sentiment" {
            return Ok(match social_ai::unscored(tx, BATCH).await? {
                None => Plan::Nothing("sentiment_off".to_owned()),
                Some((_, messages)) if messages.is_empty() => Plan::Nothing("all_scored".to_owned()),
                Some((agent_id, messages)) => {
                    let (system, _) = templates::get(tx, org_id, "social_sentiment", "en").await?;
                    // Whether there is a price for it; what the call reserves is known when its prompt is.
                    let least = expected(system.chars().count(), SCORES_TOKENS);
                    let models = Models::read(tx, AGENT, now).await?.choose(SENTIMENT, None, |_| least);
                    Plan::Score { agent_id, system, messages, models }
                }
            });
        }
        let (Some(thread_id), Some(message_id)) = (held.payload.thread_id, held.payload.message_id) else {
            return Err(Stop::failed("payload_invalid", "The job does not say what it is about."));
        };
        Ok(match social_ai::to_draft(tx, thread_id, message_id).await? {
            Err(outcome) => Plan::Nothing(outcome),
            Ok(_) if held.exhausted => {
                return Err(Stop::failed("attempts_exhausted", "Every attempt was cut off before it could finish."));
            }
            Ok(wanted) => {
                let (system, _) = templates::get(tx, org_id, "social_draft", "en").await?;
                let least = expected(system.chars().count(), DRAFT_TOKENS);
                let models = Models::read(tx, AGENT, now).await?.choose(DRAFT, None, |_| least);
                Plan::Draft { thread_id, message_id, system, wanted, models }
            }
        })
    }

    async fn work(&self, held: &Held, plan: &Plan, deadline: Instant) -> Result<Done, Stop> {
        match plan {
            Plan::Nothing(outcome) => Ok(Done::Nothing(outcome.clone())),
            Plan::Score { system, messages, models, .. } => {
                score(self.0, held, system, messages, models, deadline).await
            }
            Plan::Draft { system, wanted, models, .. } => draft(self.0, held, system, wanted, models, deadline).await,
        }
    }

    /// Scores or draft, charge and audit entry.
    async fn finish(&self, tx: &mut ServiceTx, held: &Held, plan: &Plan, done: &Done) -> Result<Finish, Stop> {
        held.lock(tx).await?;
        match (plan, done) {
            (Plan::Score { agent_id, messages, .. }, Done::Scored { scores, instead, paid, open }) => {
                let charge = paid.iter().map(|paid| paid.charge).sum();
                let scored = Scored { agent_id: *agent_id, messages, scores, instead: *instead, charge, paid };
                let end = self.keep_scores(tx, held, &scored).await?;
                Ok(Finish { end, used: open.as_ref().map(used) })
            }
            (Plan::Draft { thread_id, message_id, wanted, .. }, Done::Drafted { text, language, paid }) => {
                let said = (text.as_str(), language.as_deref());
                let end = self.keep_draft(tx, held, (*thread_id, *message_id), wanted, said, paid);
                Ok(Finish { end: end.await?, used: Some(used(paid)) })
            }
            (_, Done::Undrafted { outcome, paid }) => {
                let tokens = paid.as_ref().map_or(0, |paid| paid.charge.tokens);
                Ok(Finish { end: ended(json!({ "outcome": outcome }), tokens), used: paid.as_ref().map(used) })
            }
            (_, Done::Nothing(outcome)) => Ok(Finish { end: ended(json!({ "outcome": outcome }), 0), used: None }),
            _ => Err(Stop::failed("plan_mixed_up", "What was done is not what was planned.")),
        }
    }

    async fn finished(&self, held: &Held, _plan: &Plan, done: &Done, end: &End, _took: Duration) {
        let now = self.now();
        match (done, end) {
            (Done::Scored { scores, .. }, _) => {
                for (by, model) in [("model", true), ("rules", false)] {
                    let count = u32::try_from(scores.iter().filter(|(_, by)| by.is_some() == model).count())
                        .unwrap_or(u32::MAX);
                    metric(now, "SocialMessagesScored", Unit::Count, f64::from(count), &[("served_by", by)]);
                }
            }
            (_, End::Succeeded { result, .. }) if held.job.job_type == "social_draft" => {
                let outcome = result["outcome"].as_str().unwrap_or("unknown");
                metric(now, "SocialDrafts", Unit::Count, 1.0, &[("outcome", outcome)]);
            }
            _ => {}
        }
        if matches!(end, End::Later { .. }) {
            self.0.queue.wake(held.job.id, held.job.org_id).await; // best effort: the sweep finds what this loses
        }
    }
}

/// A batch that was scored.
struct Scored<'a> {
    agent_id: Uuid,
    messages: &'a [Unscored],
    scores: &'a [(f64, Option<String>)],
    instead: Option<&'static str>,
    charge: Charge,
    paid: &'a [Paid],
}

impl Understanding<'_> {
    /// The agent's scores, and one entry for all of them. The job goes on where there are more messages than one batch has.
    async fn keep_scores(&self, tx: &mut ServiceTx, held: &Held, scored: &Scored<'_>) -> Result<End, Stop> {
        let (job, now) = (&held.job, self.now());
        let model = scored.paid.last().map(|paid| paid.model.as_str());
        let rows: Vec<Score<'_>> = scored
            .messages
            .iter()
            .zip(scored.scores)
            .map(|(message, (score, by))| Score {
                id: message.id,
                at: message.at,
                score: *score,
                model: by.as_deref().unwrap_or(rules::MODEL),
            })
            .collect();
        let written = social_ai::score(tx, scored.agent_id, &rows).await?;
        let by_model = scored.scores.iter().filter(|(_, by)| by.is_some()).count();
        let by_rules = scored.scores.len() - by_model;
        let Charge { tokens, cost_micro_usd, estimated } = scored.charge;
        let batch = Uuid::now_v7();
        if !scored.paid.is_empty() {
            let result = ("social_sentiment", "social_sentiment", batch);
            social_ai::charge(tx, job.org_id, result, scored.charge).await?;
        }
        let calls: Vec<Uuid> = scored.paid.iter().map(|paid| paid.call_id).collect();
        let envelope = Envelope {
            agent: Some(AGENT),
            action: "social_sentiment.scored",
            resource: Resource { kind: "social_sentiment", id: batch.to_string() },
            project_id: None,
            input: json!({ "messages": scored.messages.len() }),
            decision: json!({ "by_model": by_model, "by_rules": by_rules, "model": model, "instead_because": scored.instead }),
            output: json!({ "written": written, "tokens": tokens, "cost_micro_usd": cost_micro_usd, "estimated": estimated }),
            subjects: Vec::new(),
            assets: Vec::new(),
            deploy: None,
            cost: Amounts { requests: i64::try_from(calls.len()).unwrap_or(i64::MAX), tokens, cost_micro_usd },
            served_by: Some(if by_rules == 0 { "model" } else { "rules" }),
            at: now,
        };
        let more = json!({ "job_id": job.id, "attempt": job.attempt, "acting_agent_id": scored.agent_id, "provider_call_ids": calls });
        record(tx, held, &envelope, more, "social_sentiment").await?;
        let whole = i32::try_from(scored.messages.len()).is_ok_and(|count| count >= BATCH);
        if whole && social_ai::unscored(tx, 1).await?.is_some_and(|(_, messages)| !messages.is_empty()) {
            return Ok(End::Later { run_after: now, waiting: None, error: None, counts: false });
        }
        let result = json!({
            "outcome": "scored", "by_model": by_model, "by_rules": by_rules, "instead_because": scored.instead,
            "cost_micro_usd": cost_micro_usd,
        });
        Ok(ended(result, tokens))
    }

    /// The agent's draft, for a person to decide about.
    async fn keep_draft(
        &self,
        tx: &mut ServiceTx,
        held: &Held,
        (thread_id, message_id): (Uuid, Uuid),
        wanted: &ToDraft,
        (text, language): (&str, Option<&str>),
        paid: &Paid,
    ) -> Result<End, Stop> {
        let Charge { tokens, cost_micro_usd, estimated } = paid.charge;
        let ids = (wanted.agent_id, thread_id, message_id);
        let (reply_id, approval_id) =
            match social_ai::keep_draft(tx, ids, (wanted.kind.as_str(), text, paid.model.as_str())).await? {
                Kept::Proposed { reply_id, approval_id } => (reply_id, approval_id),
                Kept::Refused(outcome) => return Ok(ended(json!({ "outcome": outcome }), tokens)),
            };
        social_ai::charge(tx, held.job.org_id, ("social_draft", "social_replies", reply_id), paid.charge).await?;
        let envelope = Envelope {
            agent: Some(AGENT),
            action: "social_reply.drafted",
            resource: Resource { kind: "social_replies", id: reply_id.to_string() },
            project_id: None,
            input: json!({ "thread_id": thread_id, "message_id": message_id, "messages": wanted.messages.len() }),
            decision: json!({ "model": paid.model, "language": language }),
            output: json!({ "approval_id": approval_id, "tokens": tokens, "cost_micro_usd": cost_micro_usd, "estimated": estimated }),
            subjects: Vec::new(),
            assets: Vec::new(),
            deploy: None,
            cost: Amounts { requests: 1, tokens, cost_micro_usd },
            served_by: Some("model"),
            at: self.now(),
        };
        let more = json!({
            "job_id": held.job.id, "attempt": held.job.attempt, "acting_agent_id": wanted.agent_id, "provider_call_id": paid.call_id,
        });
        record(tx, held, &envelope, more, "social_draft").await?;
        let result = json!({ "outcome": "proposed", "reply_id": reply_id, "approval_id": approval_id, "cost_micro_usd": cost_micro_usd });
        Ok(ended(result, tokens))
    }
}

/// What the agent did, in the audit log and among the documents. Nothing of what people wrote is in it.
async fn record(tx: &mut ServiceTx, held: &Held, envelope: &Envelope<'_>, more: Value, kind: &str) -> Result<(), Stop> {
    audit::append(tx, &envelope.entry(more.clone())).await?;
    let document = envelope.document(kind, more);
    Ok(outbox::insert_document(tx, held.job.org_id, Uuid::now_v7(), "agent_outputs", &document).await?)
}

fn ended(result: Value, tokens: i64) -> End {
    End::Succeeded { result, tokens }
}

fn used(paid: &Paid) -> Used {
    Used { reservation_id: paid.reservation_id, requests: 1 }
}

/// Scores by the model; what it leaves out is asked once more, and what is left then is scored by rules.
async fn score(
    state: &State,
    held: &Held,
    system: &str,
    messages: &[Unscored],
    models: &Choice,
    deadline: Instant,
) -> Result<Done, Stop> {
    let schema = sentiment::schema();
    let mut found: BTreeMap<usize, (f64, String)> = BTreeMap::new();
    let (mut instead, mut open, mut paid) = (held.exhausted.then_some("attempts_exhausted"), None, Vec::<Paid>::new());
    let tries = if held.exhausted { 0 } else { TRIES };
    for _ in 0..tries {
        let left: Vec<usize> = (0..messages.len()).filter(|at| !found.contains_key(at)).collect();
        if left.is_empty() {
            break;
        }
        let prompt = sentiment::prompt(left.iter().map(|at| (*at, messages[*at].text.as_str())));
        let question = Question {
            purpose: SENTIMENT,
            models,
            system,
            prompt: &prompt,
            schema: &schema,
            max_tokens: SCORES_TOKENS,
        };
        let asked = call::ask(state, held, &question, open.take(), deadline, |answer, metered| {
            sentiment::read(answer, &left).ok_or_else(|| AiError::Malformed { metered }.into())
        });
        match asked.await? {
            Asked::Answered(scores, answered) => {
                found.extend(scores.into_iter().map(|(at, score)| (at, (score, answered.model.clone()))));
                paid.push(answered.clone());
                open = Some(answered);
                instead = Some("answer_incomplete");
            }
            Asked::Unusable(unusable) => instead = Some(shared::ai::call::Failed::code(&unusable)),
            Asked::Reached(waiting) => {
                instead = Some(waiting.code());
                break;
            }
            Asked::Barred(code) => {
                instead = Some(code);
                break;
            }
        }
    }
    let missing = found.len() < messages.len();
    let scores: Vec<(f64, Option<String>)> = messages
        .iter()
        .enumerate()
        .map(|(at, message)| {
            found.remove(&at).map_or_else(|| (rules::score(&message.text), None), |(score, model)| (score, Some(model)))
        })
        .collect();
    let instead = instead.filter(|_| missing);
    if let Some(code) = instead {
        tracing::warn!(job.id = %held.job.id, code, "rules score messages in the model's place");
    }
    Ok(Done::Scored { scores, instead, paid, open })
}

/// Drafts by the model; once more, if what it says cannot be shown.
async fn draft(
    state: &State,
    held: &Held,
    system: &str,
    wanted: &ToDraft,
    models: &Choice,
    deadline: Instant,
) -> Result<Done, Stop> {
    let schema = draft::schema();
    let first = draft::prompt(wanted);
    let mut prompt = first.clone();
    let mut tries = 0;
    loop {
        tries += 1;
        let question =
            Question { purpose: DRAFT, models, system, prompt: &prompt, schema: &schema, max_tokens: DRAFT_TOKENS };
        let asked = call::ask(state, held, &question, None, deadline, |answer, metered| {
            draft::read(answer, wanted, system).map_err(|code| Unusable::Unfit(code, metered))
        });
        let outcome = match asked.await? {
            Asked::Answered(Drafted::Text { text, language }, paid) => {
                return Ok(Done::Drafted { text, language, paid });
            }
            Asked::Answered(Drafted::Declined, paid) => {
                return Ok(Done::Undrafted { outcome: "declined", paid: Some(paid) });
            }
            // It is drafted when there is room, if the person still waits for an answer then.
            Asked::Reached(waiting) => return Err(Stop::limited(&waiting)),
            Asked::Barred("time_out") => {
                return Err(Stop::Retry(Failure::new("time_out", "The worker's time was over; another goes on.")));
            }
            Asked::Barred(outcome) => return Ok(Done::Undrafted { outcome, paid: None }),
            Asked::Unusable(Unusable::Unanswered(error)) => match error {
                AiError::RateLimited { .. }
                | AiError::Overloaded { .. }
                | AiError::Timeout
                | AiError::Unreachable
                | AiError::Unanswered { .. }
                | AiError::NoKey => {
                    let retry_after = error.retry_after();
                    return Err(Stop::Retry(Failure { code: error.code(), detail: error.to_string(), retry_after }));
                }
                error => error.code(),
            },
            Asked::Unusable(Unusable::Unfit(code, _)) => code,
        };
        let again = ["answer_truncated", "answer_malformed"].contains(&outcome) || outcome.starts_with("draft_");
        if tries >= TRIES || !again {
            return Ok(Done::Undrafted { outcome, paid: None });
        }
        tracing::warn!(job.id = %held.job.id, code = outcome, "a draft is asked for again");
        prompt = format!(
            "{first}\n\nYour last answer could not be used. Plain text of at most 600 characters, and no links, addresses, numbers or codes that the thread has not."
        );
    }
}
