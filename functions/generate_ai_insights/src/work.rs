//! One text of the analyst's, from claim to its end, as [`shared::worker`] has it worked on.
//!
//! What serves, in order: a fresh text for the same prompt and audience; the model; the queue, while waiting helps; a stale text for the
//! same prompt; the cheaper model; the template's text, which was there from the start. Every call reserves for itself.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sha2::{Digest, Sha256};
use shared::{
    ai::{Charge, call::expected, models::Models},
    audit::{self, AuditError, AuditKeys},
    db::{Database, ServiceTx},
    envelope::{Envelope, Resource},
    jobs::End,
    limits::Amounts,
    store::{
        StoreError,
        insights::{self, Kept, Provenance, Text},
        models::Model,
        outbox, templates,
    },
    telemetry::{Unit, metric},
    worker::{self, Finish, Stop, Used, Work},
};
use uuid::Uuid;

use crate::{
    call::{self, Failure, Help},
    figures::Figures,
    job::{AGENT, Held, PURPOSE, Payload, Plan, SWITCH, Written},
    state::State,
};

/// The longest a text waits for a limit's next window; a longer wait is no use to a dashboard.
const LONGEST_WAIT: TimeDelta = TimeDelta::hours(1);

/// What came of the work, and what it takes to write it down.
pub(crate) struct Done {
    audit_keys: AuditKeys,
    served: Served,
}

/// What serves an insight, and why it is that.
enum Served {
    /// The first model or the cheaper one.
    Written { by: &'static str, written: Written, instead: Option<&'static str> },
    /// A text that was written before.
    Kept { by: &'static str, kept: Kept, instead: Option<&'static str> },
    /// The template's text, which stays.
    Template { instead: &'static str },
}

impl Served {
    const fn by(&self) -> &'static str {
        match self {
            Self::Written { by, .. } | Self::Kept { by, .. } => by,
            Self::Template { .. } => "default_template",
        }
    }

    const fn instead(&self) -> Option<&'static str> {
        match self {
            Self::Written { instead, .. } | Self::Kept { instead, .. } => *instead,
            Self::Template { instead } => Some(instead),
        }
    }

    const fn text(&self) -> Option<&Text> {
        match self {
            Self::Written { written, .. } => Some(&written.text),
            Self::Kept { kept, .. } => Some(&kept.text),
            Self::Template { .. } => None,
        }
    }
}

/// The worker of insights.
pub(crate) struct Insights<'a>(pub(crate) &'a State);

impl Work for Insights<'_> {
    type Payload = Payload;
    type Plan = Plan;
    type Done = Done;

    const NAME: &'static str = "insight";
    const JOB_TYPES: &'static [&'static str] = &["insight"];
    const SWITCH: Option<&'static str> = Some(SWITCH);
    const LEASE: TimeDelta = TimeDelta::minutes(5);
    /// The template always has a text.
    const SERVES_EXHAUSTED: bool = true;

    fn db(&self) -> &Database {
        &self.0.db
    }

    fn now(&self) -> DateTime<Utc> {
        (self.0.clock)()
    }

    async fn prepare(&self, tx: &mut ServiceTx, held: &Held) -> Result<Plan, Stop> {
        let insight = match insights::get(tx, held.payload.insight_id).await {
            // Gone with the person it was for.
            Err(StoreError::NotFound { .. }) => {
                return Err(Stop::failed("insight_deleted", "The insight was deleted before it was written."));
            }
            other => other?,
        };
        let figures = Figures::parse(&insight.figures)?;
        let (system, template_version) = templates::get(tx, held.job.org_id, "insight_summary", "en").await?;
        let prompt = figures.prompt();
        let digest = Sha256::digest(format!("{system}\n{prompt}")).into();
        let asked_at = held.payload.asked_at.unwrap_or(insight.updated_at);
        let expected = expected(system.chars().count() + prompt.chars().count(), call::MAX_TOKENS);
        let models = Models::read(tx, AGENT, self.now()).await?.choose(PURPOSE, None, |_| expected);
        Ok(Plan { asked_at, insight, figures, system, template_version, prompt, digest, models })
    }

    async fn work(&self, held: &Held, plan: &Plan, deadline: Instant) -> Result<Done, Stop> {
        // Before the money is spent: an entry that cannot be sealed must not be discovered after.
        let audit_keys = AuditKeys::fetch(&self.0.secrets).await?;
        let served = serve(self.0, held, plan, deadline).await?;
        Ok(Done { audit_keys, served })
    }

    /// Text, charge and audit entry.
    async fn finish(&self, tx: &mut ServiceTx, held: &Held, plan: &Plan, done: &Done) -> Result<Finish, Stop> {
        held.lock(tx).await?;
        let (job, insight) = (&held.job, &plan.insight);
        let Done { audit_keys, served } = done;
        let (charge, used) = match served {
            Served::Written { written, .. } => {
                (written.charge, Some(Used { reservation_id: written.reservation_id, requests: 1 }))
            }
            Served::Kept { .. } | Served::Template { .. } => (Charge::default(), None),
        };
        let Charge { tokens, cost_micro_usd, estimated } = charge;
        let model = match served {
            Served::Written { written, .. } => Some(written.model.as_str()),
            Served::Kept { kept, .. } => kept.model.as_deref(),
            Served::Template { .. } => None,
        };
        let provenance = Provenance {
            served_by: served.by(),
            instead_because: served.instead(),
            model,
            template_version: served.text().map(|_| plan.template_version),
            prompt_digest: served.text().map(|_| plan.digest),
        };
        insights::update_text(tx, insight.id, served.text(), &provenance).await?;
        if used.is_some() {
            insights::charge(tx, insight, charge).await?;
        }

        // What one person's figures say is that person's, in the log too.
        let said = served.text().map(|text| text.summary.as_str());
        let (said, subject_ids) = match (insight.user_id, said) {
            (Some(user), Some(said)) => {
                let subject = audit_keys.subject(tx, job.org_id, user).await?;
                (subject.seal("output", said).map_err(AuditError::from)?, vec![user])
            }
            (user, said) => (json!(said), user.into_iter().collect()),
        };
        let envelope = Envelope {
            agent: Some(AGENT),
            action: "insight.written",
            resource: Resource { kind: "ai_insights", id: insight.id.to_string() },
            project_id: None,
            input: json!({
                "table_name": insight.table_name, "period": insight.period, "period_start": insight.period_start,
                "audience": insight.audience, "prompt_sha256": hex::encode(plan.digest),
                "template": format!("insight_summary {}", plan.template_version),
            }),
            decision: json!({ "served_by": served.by(), "instead_because": served.instead(), "model": model }),
            output: json!({ "said": said, "tokens": tokens, "cost_micro_usd": cost_micro_usd, "estimated": estimated }),
            subjects: subject_ids,
            assets: Vec::new(),
            deploy: None,
            cost: Amounts { requests: i64::from(used.is_some()), tokens, cost_micro_usd },
            served_by: Some(served.by()),
            at: self.now(),
        };
        audit::append(tx, &envelope.entry(json!({ "job_id": job.id, "attempt": job.attempt }))).await?;
        let document =
            envelope.document("insight", json!({ "insight_id": insight.id, "job_id": job.id, "estimated": estimated }));
        // An id of its own: an insight may be written more than once.
        outbox::insert_document(tx, job.org_id, Uuid::now_v7(), "agent_outputs", &document).await?;
        let result = json!({
            "insight_id": insight.id, "served_by": served.by(), "instead_because": served.instead(), "model": model,
            "cost_micro_usd": cost_micro_usd, "estimated": estimated,
        });
        Ok(Finish { end: End::Succeeded { result, tokens }, used })
    }

    async fn finished(&self, _held: &Held, _plan: &Plan, done: &Done, _end: &End, _took: Duration) {
        metric(self.now(), "Insights", Unit::Count, 1.0, &[("served_by", done.served.by())]);
    }
}

/// The ladder.
async fn serve(state: &State, held: &Held, plan: &Plan, deadline: Instant) -> Result<Served, Stop> {
    let now = (state.clock)();
    let org_id = held.job.org_id;
    let kept =
        state.db.service(org_id, async |tx| insights::find_text(tx, &plan.insight, &plan.digest, now).await).await?;
    if let Some(kept) = kept.as_ref().filter(|kept| kept.fresh) {
        return Ok(Served::Kept { by: "cache", kept: kept.clone(), instead: Some("same_figures") });
    }
    if held.exhausted {
        return Ok(Served::Template { instead: "attempts_exhausted" });
    }
    let mut tried = plan.models.models.iter();
    let failure = match tried.next() {
        None => call::no_price(),
        Some(first) => match call::text(state, held, plan, first, deadline).await? {
            Ok(written) => {
                return Ok(Served::Written { by: rung(first), written, instead: plan.models.instead });
            }
            Err(failure) => failure,
        },
    };
    tracing::warn!(job.id = %held.job.id, code = failure.code, "the model wrote no text; something else has to serve");
    if let Some(stop) = later(held, plan, &failure, (state.clock)()) {
        return Err(stop);
    }
    if let Some(kept) = kept {
        return Ok(Served::Kept { by: "stale_cache", kept, instead: Some(failure.code) });
    }
    // Another model may have a budget that the first has not; one that was heard and found wanting is not replaced by a lesser one.
    if failure.help != Help::Template {
        for next in tried {
            match call::text(state, held, plan, next, deadline).await? {
                Ok(written) => {
                    return Ok(Served::Written { by: rung(next), written, instead: Some(failure.code) });
                }
                Err(also) => {
                    tracing::warn!(job.id = %held.job.id, code = also.code, "the next model wrote no text either");
                    if !also.is_unknown_model() {
                        break;
                    }
                }
            }
        }
    }
    Ok(Served::Template { instead: failure.code })
}

/// Which rung a model is.
fn rung(model: &Model) -> &'static str {
    if model.role == "cheaper" { "cheaper_model" } else { "model" }
}

/// The first rung below the model: the queue, if the provider is only slow or busy and there are attempts left, or if the tenant's own
/// limit opens soon.
fn later(held: &Held, plan: &Plan, failure: &Failure, now: DateTime<Utc>) -> Option<Stop> {
    let failed = |retry_after| worker::Failure { code: failure.code, detail: failure.detail.clone(), retry_after };
    match &failure.help {
        Help::Wait(hint) if held.job.attempt < held.job.max_attempts => {
            let soon = hint.is_none_or(|hint| TimeDelta::from_std(hint).is_ok_and(|hint| hint <= LONGEST_WAIT));
            soon.then(|| Stop::Retry(failed(*hint)))
        }
        // However often its windows open and close.
        Help::Window(reached) if reached.until - now <= LONGEST_WAIT && now - plan.asked_at <= LONGEST_WAIT => {
            let mut why = json!(reached);
            why["detail"] = json!(failure.detail);
            Some(Stop::Snooze { until: reached.until, why, failure: Some(failed(None)), counts: false })
        }
        _ => None,
    }
}
