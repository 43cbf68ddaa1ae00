//! One job of the analyst's, from claim to text. Each step is a transaction or a call to the outside, never both.
//!
//! What serves, in order: a fresh text for the same prompt and audience; the model; the queue, while waiting helps; a stale text for the
//! same prompt; the cheaper model; the template's text, which was there from the start. Every call reserves anew.

mod call;

use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::{
    ai::Charge,
    audit::{self, AuditError, AuditKeys},
    db::{DbError, ServiceTx},
    envelope::{Envelope, Resource},
    jobs::{self, Claim, Claimed, End, StaleLease},
    limits::{self, Amounts},
    secrets::SecretError,
    store::{
        StoreError,
        insights::{self, Insight, Kept, Provenance, Text},
        outbox, provider_calls, renders, settings,
    },
    telemetry::{Unit, metric},
};
use uuid::Uuid;

use crate::{figures::Figures, state::State};
use call::{Failure, Help, Written};

/// The agent that writes, as `agent_limits.agent` names it.
const AGENT: &str = "analyst";
/// How long a worker holds a job between two steps.
const LEASE: TimeDelta = TimeDelta::minutes(5);
/// How long a paused job waits before it is looked at again.
const PAUSE: TimeDelta = TimeDelta::minutes(1);
/// The longest a text waits for a limit's next window; a longer wait is no use to a dashboard.
const LONGEST_WAIT: TimeDelta = TimeDelta::hours(1);

#[derive(Debug, Deserialize)]
struct Message {
    job_id: Uuid,
    org_id: Uuid,
}

/// Why work on a job stopped short of its end.
enum Stop {
    /// The job was cancelled while it ran.
    Cancelled,
    /// Another worker holds the job now: nothing more may be written.
    Stale,
    /// The database or a secret did not answer: the message comes again.
    Unavailable(Box<dyn std::error::Error + Send + Sync>),
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

/// What a worker needs to know of the job it holds.
struct Held {
    job: Claimed,
    /// When somebody last asked for it.
    asked_at: DateTime<Utc>,
    insight: Insight,
    figures: Figures,
    /// What the model is told first.
    system: String,
    template_version: i32,
    /// What it is told then.
    prompt: String,
    /// Of both.
    digest: [u8; 32],
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

/// What to do with a job.
enum Next {
    /// End it with what serves.
    Serve(Served),
    /// Back to the queue.
    Later(End),
}

/// Works on the job a message names. Returns whether the message has served its purpose; if not, it comes again.
pub(crate) async fn process(state: &State, message: &str, deadline: Instant) -> bool {
    let Ok(message) = serde_json::from_str::<Message>(message) else {
        tracing::error!("a message on the insights queue is not a job reference");
        return false;
    };
    tracing::Span::current().record("org.id", tracing::field::display(message.org_id));
    match work(state, &message, deadline).await {
        Ok(()) | Err(Stop::Stale | Stop::Cancelled) => true,
        Err(Stop::Unavailable(error)) => {
            log_unavailable(&*error);
            // The lease ends by itself; the message, or the sweep's, comes after that.
            false
        }
    }
}

fn log_unavailable(error: &(dyn std::error::Error + Send + Sync)) {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    tracing::error!(%error, cause, "an insight could not go on");
}

async fn work(state: &State, message: &Message, deadline: Instant) -> Result<(), Stop> {
    let Some(held) = claim(state, message).await? else { return Ok(()) };
    tracing::info!(job.id = %held.job.id, attempt = held.job.attempt, table = held.insight.table_name, "an insight is written");
    // Before the money is spent: an entry that cannot be sealed must not be discovered after.
    let audit_keys = AuditKeys::fetch(&state.secrets).await?;
    match serve(state, &held, deadline).await {
        Ok(Next::Serve(served)) => finish(state, &held, &audit_keys, &served).await,
        Ok(Next::Later(end)) => close(state.db.service_tx(held.job.org_id).await?, &held.job, end).await,
        Err(Stop::Cancelled) => close(state.db.service_tx(held.job.org_id).await?, &held.job, End::Cancelled).await,
        Err(stop) => Err(stop),
    }
}

/// Takes the job and gathers what it needs, in one transaction; or postpones it, if an operator's switch holds it.
async fn claim(state: &State, message: &Message) -> Result<Option<Held>, Stop> {
    let now = (state.clock)();
    let mut tx = state.db.service_tx(message.org_id).await?;
    let Claim::Held(job) = jobs::claim(&mut tx, message.org_id, message.job_id, Uuid::now_v7(), LEASE).await? else {
        tx.rollback().await?;
        return Ok(None);
    };
    provider_calls::mark_lost(&mut tx, job.org_id, job.id).await?;
    let id = job.payload.get("insight_id").and_then(Value::as_str).and_then(|id| id.parse().ok()).unwrap_or_default();
    let insight = match insights::get(&mut tx, id).await {
        Ok(insight) => insight,
        // Gone with the person it was for.
        Err(StoreError::NotFound { .. }) => {
            let error =
                json!({ "code": "insight_deleted", "detail": "The insight was deleted before it was written." });
            close(tx, &job, End::Failed { error }).await?;
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    if job.cancel_requested {
        close(tx, &job, End::Cancelled).await?;
        return Ok(None);
    }
    if !settings::enabled(&mut tx, "insights.enabled").await? {
        let until = now + PAUSE;
        let waiting = json!({ "reason": "paused", "until": until });
        close(tx, &job, End::Later { run_after: until, waiting: Some(waiting), error: None, counts: false }).await?;
        return Ok(None);
    }
    let figures = Figures::parse(&insight.figures)?;
    let (system, template_version) = renders::get_template(&mut tx, job.org_id, "insight_summary", "en").await?;
    // What earlier attempts spent is counted, so that this one is held to what is left.
    limits::refund_job(&mut tx, job.id).await?;
    tx.commit().await?;
    let prompt = figures.prompt();
    let digest = Sha256::digest(format!("{system}\n{prompt}")).into();
    let asked_at = job.payload.get("asked_at").and_then(Value::as_str).and_then(|at| at.parse().ok());
    let asked_at = asked_at.unwrap_or(insight.updated_at);
    Ok(Some(Held { job, asked_at, insight, figures, system, template_version, prompt, digest }))
}

/// Ends the hold on a job without a text, and gives back what it held; what was spent stays counted.
async fn close(mut tx: ServiceTx, job: &Claimed, end: End) -> Result<(), Stop> {
    jobs::end(&mut tx, job, &end).await??;
    limits::refund_job(&mut tx, job.id).await?;
    tx.commit().await?;
    Ok(())
}

/// The ladder.
async fn serve(state: &State, held: &Held, deadline: Instant) -> Result<Next, Stop> {
    let kept = find_kept(state, held).await?;
    if let Some(kept) = kept.as_ref().filter(|kept| kept.fresh) {
        return Ok(Next::Serve(Served::Kept { by: "cache", kept: kept.clone(), instead: Some("same_figures") }));
    }
    if held.job.attempt > held.job.max_attempts {
        return Ok(Next::Serve(Served::Template { instead: "attempts_exhausted" }));
    }
    let failure = match call::text(state, held, &state.model, deadline).await? {
        Ok(written) => return Ok(Next::Serve(Served::Written { by: "model", written, instead: None })),
        Err(failure) => failure,
    };
    tracing::warn!(job.id = %held.job.id, code = failure.code, "the model wrote no text; something else has to serve");
    if let Some(end) = later(held, &failure, (state.clock)()) {
        return Ok(Next::Later(end));
    }
    if let Some(kept) = kept {
        return Ok(Next::Serve(Served::Kept { by: "stale_cache", kept, instead: Some(failure.code) }));
    }
    // Another model may have a budget that the first has not; one that was heard and found wanting is not replaced by a lesser one.
    if failure.help != Help::Template && state.cheaper_model != state.model {
        match call::text(state, held, &state.cheaper_model, deadline).await? {
            Ok(written) => {
                return Ok(Next::Serve(Served::Written { by: "cheaper_model", written, instead: Some(failure.code) }));
            }
            Err(also) => {
                tracing::warn!(job.id = %held.job.id, code = also.code, "the cheaper model wrote no text either");
            }
        }
    }
    Ok(Next::Serve(Served::Template { instead: failure.code }))
}

async fn find_kept(state: &State, held: &Held) -> Result<Option<Kept>, Stop> {
    let mut tx = state.db.service_tx(held.job.org_id).await?;
    let kept = insights::find_text(&mut tx, &held.insight, &held.digest, (state.clock)()).await?;
    tx.rollback().await?;
    Ok(kept)
}

/// The first rung below the model: the queue, if the provider is only slow or busy and there are attempts left, or if the tenant's own
/// limit opens soon.
fn later(held: &Held, failure: &Failure, now: DateTime<Utc>) -> Option<End> {
    let error = Some(json!({ "code": failure.code, "detail": failure.detail }));
    match &failure.help {
        Help::Wait(hint) if held.job.attempt < held.job.max_attempts => {
            let doubling = TimeDelta::seconds(2_i64.saturating_pow(held.job.attempt.clamp(1, 8).unsigned_abs()));
            let wait = hint.and_then(|hint| TimeDelta::from_std(hint).ok()).unwrap_or(doubling);
            (wait <= LONGEST_WAIT).then(|| End::Later { run_after: now + wait, waiting: None, error, counts: true })
        }
        // However often its windows open and close.
        Help::Window(reached) if reached.until - now <= LONGEST_WAIT && now - held.asked_at <= LONGEST_WAIT => {
            let mut waiting = json!(reached);
            waiting["detail"] = json!(failure.detail);
            Some(End::Later { run_after: reached.until, waiting: Some(waiting), error: None, counts: false })
        }
        _ => None,
    }
}

/// The one transaction that tells the whole story: job, text, usage, charge, audit entry and document.
async fn finish(state: &State, held: &Held, audit_keys: &AuditKeys, served: &Served) -> Result<(), Stop> {
    let Held { job, insight, .. } = held;
    let charge = match served {
        Served::Written { written, .. } => written.charge,
        Served::Kept { .. } | Served::Template { .. } => Charge::default(),
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
        template_version: served.text().map(|_| held.template_version),
        prompt_digest: served.text().map(|_| held.digest),
    };
    let now = (state.clock)();
    let mut tx = state.db.service_tx(job.org_id).await?;
    // First, since it decides whether any of the rest may happen.
    let result = json!({
        "insight_id": insight.id, "served_by": served.by(), "instead_because": served.instead(), "model": model,
        "cost_micro_usd": cost_micro_usd, "estimated": estimated,
    });
    jobs::end(&mut tx, job, &End::Succeeded { result, tokens }).await??;
    insights::update_text(&mut tx, insight.id, served.text(), &provenance).await?;
    if let Served::Written { written, .. } = served {
        if !limits::settle(&mut tx, written.reservation_id, 1).await? {
            // Nobody but the holder of the lease ends a reservation, so this is a defect: nothing is shown that nobody counted.
            tracing::error!(job.id = %job.id, "a reservation had ended before its text was stored");
            return Err(Stop::Stale);
        }
        insights::charge(&mut tx, insight, charge).await?;
    } else {
        limits::refund_job(&mut tx, job.id).await?;
    }

    // What one person's figures say is that person's, in the log too.
    let said = served.text().map(|text| text.summary.as_str());
    let (said, subject_ids) = match (insight.user_id, said) {
        (Some(user), Some(said)) => {
            let subject = audit_keys.subject(&mut tx, job.org_id, user).await?;
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
            "audience": insight.audience, "prompt_sha256": hex(&held.digest),
            "template": format!("insight_summary {}", held.template_version),
        }),
        decision: json!({ "served_by": served.by(), "instead_because": served.instead(), "model": model }),
        output: json!({ "said": said, "tokens": tokens, "cost_micro_usd": cost_micro_usd, "estimated": estimated }),
        subjects: subject_ids,
        assets: Vec::new(),
        deploy: None,
        cost: Amounts { requests: i64::from(matches!(served, Served::Written { .. })), tokens, cost_micro_usd },
        served_by: Some(served.by()),
        at: now,
    };
    audit::append(&mut tx, &envelope.entry(json!({ "job_id": job.id, "attempt": job.attempt }))).await?;
    let document =
        envelope.document("insight", json!({ "insight_id": insight.id, "job_id": job.id, "estimated": estimated }));
    // An id of its own: an insight may be written more than once.
    outbox::insert_document(&mut tx, job.org_id, Uuid::now_v7(), "agent_outputs", &document).await?;
    tx.commit().await?;
    metric(now, "Insights", Unit::Count, 1.0, &[("served_by", served.by())]);
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
