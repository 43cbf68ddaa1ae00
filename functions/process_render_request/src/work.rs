//! One job, from claim to completion. Each step is a transaction or a call to the outside, never both.

mod call;
mod fallback;

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::{
    ai::{AiError, Picture},
    audit::{self, AuditError, AuditKeys},
    db::{DbError, ServiceTx},
    jobs::{self, Claim, Claimed, End, StaleLease},
    limits::{self, Amounts, Counted, Reserved},
    objects::ObjectPath,
    outbox,
    secrets::{Secret, SecretError},
    store::{
        StoreError, cache, outbox as outbox_rows,
        prices::{self, ModelPrice},
        provider_calls,
        renders::{self, NewResult, Render},
        settings,
    },
    telemetry::{Unit, metric},
};
use uuid::Uuid;

use crate::{
    outcome::{AGENT, BRIEF_MAX_TOKENS, Failure, Retry, expected_usage, quota_renewed_at},
    photo::{self, CheckedRender, MAX_BYTES, Photo},
    request::MODELS,
    state::State,
};
use call::{Ask, Paid};

/// How long a worker holds a job between two steps.
const LEASE: TimeDelta = TimeDelta::minutes(5);
/// How long a paused render waits before it is looked at again.
const PAUSE: TimeDelta = TimeDelta::minutes(1);
/// How long a render may wait for a provider's quota before it is given up.
const LONGEST_WAIT: TimeDelta = TimeDelta::days(7);
/// What is kept of the function's time for giving a job back.
const GIVING_BACK: Duration = Duration::from_secs(5);
/// How long a delivery after commit may take; what is left is for the sweep.
const DELIVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Deserialize)]
struct Message {
    job_id: Uuid,
    org_id: Uuid,
}

/// Why work on a job stopped short of its end.
enum Stop {
    /// A step failed; the job is told so.
    Failed(Failure),
    /// A provider's quota is spent, and nothing else could serve: the job waits until it is renewed.
    Waiting(Failure),
    /// A limit of the tenant's own has no room for another try: the job waits for the window that has.
    Limited(limits::Waiting),
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
    Failure => Stop::Failed,
    StaleLease => |_| Stop::Stale,
    StoreError => |error| Stop::Unavailable(Box::new(error)),
    DbError => |error| Stop::Unavailable(Box::new(error)),
    SecretError => |error| Stop::Unavailable(Box::new(error)),
    AuditError => |error| Stop::Unavailable(Box::new(error)),
}

/// What a worker needs to know of the job it holds.
struct Held {
    job: Claimed,
    render: Render,
    /// What the calls made now are paid from. A call that is made again gets a new one.
    reservation: Cell<Uuid>,
    amounts: Amounts,
    template: String,
    template_version: i32,
    brief_prices: Vec<ModelPrice>,
    picture_prices: Vec<ModelPrice>,
}

/// What Claude made of the wishes.
#[derive(Debug, Clone, Deserialize)]
struct Brief {
    prompt: String,
    negative: String,
    decision: String,
}

/// A picture that is stored and waits to be told of.
struct Made {
    id: Uuid,
    variant: i16,
    path: ObjectPath,
    mime: &'static str,
    width: u32,
    height: u32,
    bytes: usize,
    sha256: [u8; 32],
    tokens: i64,
    cost_micro_usd: i64,
}

/// All that is to be told of a finished render.
struct Finished {
    brief: Option<Paid<Brief>>,
    made: Vec<Made>,
    model: String,
    /// The rung of the ladder that served it, as in `render_results.served_by`.
    served_by: &'static str,
    /// What the model was told, as purpose and version of the template.
    template: Option<String>,
    /// Why it was not the model that was asked for.
    instead: Option<&'static str>,
}

/// Works on the job a message names. Returns whether the message has served its purpose; if not, it comes again.
pub(crate) async fn process(state: &State, message: &str, deadline: Instant) -> bool {
    let Ok(message) = serde_json::from_str::<Message>(message) else {
        tracing::error!("a message on the render queue is not a job reference");
        return false;
    };
    let held = match claim(state, &message).await {
        Ok(Some(held)) => held,
        Ok(None) => return true,
        Err(error) => {
            log_unavailable(&error);
            return false;
        }
    };
    tracing::info!(job.id = %held.job.id, org.id = %held.job.org_id, attempt = held.job.attempt, "render begins");

    tracing::Span::current().record("org.id", tracing::field::display(held.job.org_id));
    let begun = Instant::now();
    let stop = match render(state, &held, deadline).await {
        Ok(()) => {
            let now = (state.clock)();
            metric(now, "Renders", Unit::Count, f64::from(held.render.variants), &[("outcome", "completed")]);
            metric(now, "RenderDuration", Unit::Milliseconds, begun.elapsed().as_secs_f64() * 1000.0, &[]);
            outbox::deliver(&state.db, &state.documents, held.job.org_id, DELIVERY).await;
            return true;
        }
        Err(stop) => stop,
    };
    match give_up(state, &held, &stop).await {
        Ok(()) => true,
        Err(error) => {
            log_unavailable(&error);
            // The lease ends by itself; the message comes again after that.
            false
        }
    }
}

fn log_unavailable(stop: &Stop) {
    if let Stop::Unavailable(error) = stop {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        tracing::error!(%error, cause, "a render could not go on");
    }
}

/// Takes the job and gathers what it needs, in one transaction; or postpones it, if a switch or a limit holds it.
async fn claim(state: &State, message: &Message) -> Result<Option<Held>, Stop> {
    let now = (state.clock)();
    let mut tx = state.db.service_tx(message.org_id).await?;
    let Claim::Held(job) = jobs::claim(&mut tx, message.org_id, message.job_id, Uuid::now_v7(), LEASE).await? else {
        tx.rollback().await?;
        return Ok(None);
    };
    provider_calls::mark_lost(&mut tx, job.org_id, job.id).await?;
    let request_id = job.payload.get("request_id").and_then(Value::as_str).and_then(|id| id.parse().ok());
    let render = match renders::get(&mut tx, request_id.unwrap_or_default()).await {
        Ok(render) => render,
        // Deleted with its project: nobody waits for it any more.
        Err(StoreError::NotFound { .. }) => {
            let failure = Failure::permanent("render_deleted", "The request was deleted before it was worked on.");
            limits::refund_job(&mut tx, job.id).await?;
            jobs::end(&mut tx, &job, &End::Failed { error: failure.to_json() }).await??;
            tx.commit().await?;
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    if job.cancel_requested {
        finish(&mut tx, &job, &render, End::Cancelled, "cancelled").await?;
        tx.commit().await?;
        return Ok(None);
    }

    if !settings::enabled(&mut tx, "renders.enabled").await? {
        let until = now + PAUSE;
        let waiting = json!({ "reason": "paused", "until": until });
        return postpone(tx, &job, &render, until, waiting).await;
    }
    if job.attempt > job.max_attempts {
        let failure = Failure::permanent("attempts_exhausted", "Every attempt was cut off before it could finish.");
        fail(&mut tx, &job, &render, &failure, now).await?;
        tx.commit().await?;
        return Ok(None);
    }

    let expected = expected_usage(&render.model, render.variants);
    let brief_prices = prices::list(&mut tx, "anthropic", &state.claude_model, now).await?;
    let picture_prices = prices::list(&mut tx, "gemini", &render.model, now).await?;
    let priced = shared::ai::cost_micro_usd(&expected.brief, &brief_prices)
        .and_then(|brief| Ok(brief + shared::ai::cost_micro_usd(&expected.pictures, &picture_prices)?));
    let Ok(cost_micro_usd) = priced else {
        let failure =
            Failure::permanent("model_price_unknown", "There is no price for the model, so it was not called.");
        fail(&mut tx, &job, &render, &failure, now).await?;
        tx.commit().await?;
        return Ok(None);
    };
    let amounts = Amounts {
        requests: i64::from(render.variants),
        tokens: expected.brief.total_tokens() + expected.pictures.total_tokens(),
        cost_micro_usd,
    };
    if job.attempt > 1 {
        // What earlier attempts spent is counted, so that this one is held to what is left.
        limits::refund_job(&mut tx, job.id).await?;
    }
    let reservation = match limits::reserve(&mut tx, job.id, counted(&job, &render), amounts).await? {
        Reserved::Active(id) => id,
        Reserved::Reached(waiting) => {
            return postpone(tx, &job, &render, waiting.until, json!(waiting)).await;
        }
        Reserved::Never { scope } => {
            let detail = format!("This alone is more than the {scope}'s limit allows; ask for fewer variants.");
            fail(&mut tx, &job, &render, &Failure::permanent("limit_too_small", detail), now).await?;
            tx.commit().await?;
            return Ok(None);
        }
    };
    let (template, template_version) = renders::get_template(&mut tx, job.org_id, "render_brief", "en").await?;
    renders::update_status(&mut tx, job.org_id, render.id, "running", None).await?;
    tx.commit().await?;
    let reservation = Cell::new(reservation);
    Ok(Some(Held { job, render, reservation, amounts, template, template_version, brief_prices, picture_prices }))
}

/// Whose limits a render counts against.
fn counted(job: &Claimed, render: &Render) -> Counted<'static> {
    Counted { agent: AGENT, user_id: job.created_by.unwrap_or_default(), project_id: render.project_id }
}

/// Puts the job back with a reason people can see. Costs no attempt.
async fn postpone(
    mut tx: ServiceTx,
    job: &Claimed,
    render: &Render,
    until: DateTime<Utc>,
    waiting: Value,
) -> Result<Option<Held>, Stop> {
    jobs::end(&mut tx, job, &End::Later { run_after: until, waiting: Some(waiting), error: None }).await??;
    renders::update_status(&mut tx, job.org_id, render.id, "queued", None).await?;
    tx.commit().await?;
    Ok(None)
}

/// Photo to stored render. On success everything is committed.
async fn render(state: &State, held: &Held, deadline: Instant) -> Result<(), Stop> {
    // Before the money is spent: an entry that cannot be sealed must not be discovered after.
    let audit_keys = AuditKeys::fetch(&state.secrets).await?;
    let objects = state.objects.for_org(held.job.org_id);
    let input = ObjectPath::parse(held.job.org_id, &held.render.input_file_path)
        .map_err(|_| Failure::permanent("photo_not_found", "The photo's path is not one of this organisation."))?;
    let bytes = objects.get(&input, MAX_BYTES as u64).await.map_err(Failure::from_photo)?;
    let photo = photo::check(&bytes).map_err(Failure::from)?;

    let mut brief = None;
    let finished = match as_asked(state, held, &photo, deadline, &mut brief).await {
        Err(Stop::Failed(failure)) if failure.retry == Retry::Quota => {
            fallback::serve(state, held, &photo, deadline, brief, failure).await?
        }
        other => other?,
    };
    complete(state, held, &audit_keys, &photo, &finished).await
}

/// The brief by Claude, the pictures by the model that was asked for. The brief stays with the caller if the pictures fail.
async fn as_asked(
    state: &State,
    held: &Held,
    photo: &Photo,
    deadline: Instant,
    brief: &mut Option<Paid<Brief>>,
) -> Result<Finished, Stop> {
    let written = &*brief.insert(write_brief(state, held, deadline).await?);
    let model = &held.render.model;
    let made = make_pictures(state, held, photo, deadline, &written.value, model, &held.picture_prices).await?;
    Ok(Finished {
        brief: brief.take(),
        made,
        model: model.clone(),
        served_by: "model",
        template: Some(format!("render_brief {}", held.template_version)),
        instead: None,
    })
}

/// Stores a picture under this request while there is time, with what was `paid` for it: tokens and micro-USD. A bucket that is not
/// there is storage's fault, and no photo is missing.
async fn keep(
    state: &State,
    held: &Held,
    deadline: Instant,
    variant: i16,
    checked: CheckedRender,
    bytes: bytes::Bytes,
    paid: (i64, i64),
) -> Result<Made, Stop> {
    let org_id = held.job.org_id;
    let id = Uuid::now_v7();
    let path = ObjectPath::render(org_id, held.render.id, id, checked.extension);
    let (size, sha256) = (bytes.len(), photo::sha256(&bytes));
    let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(GIVING_BACK);
    match tokio::time::timeout(left, state.objects.for_org(org_id).put(&path, bytes, checked.mime)).await {
        Ok(stored) => stored.map_err(Failure::from_storage)?,
        Err(_) => return Err(Failure::passing("time_out", "The worker's time was over; another goes on.").into()),
    }
    Ok(Made {
        id,
        variant,
        path,
        mime: checked.mime,
        width: checked.width,
        height: checked.height,
        bytes: size,
        sha256,
        tokens: paid.0,
        cost_micro_usd: paid.1,
    })
}

/// The wishes, as data for the model.
fn wishes(render: &Render) -> Value {
    json!({
        "style": render.style, "furnishings": render.furnishings, "lighting": render.lighting,
        "walls": render.walls, "flooring": render.flooring, "exterior": render.exterior,
    })
}

async fn write_brief(state: &State, held: &Held, deadline: Instant) -> Result<Paid<Brief>, Stop> {
    let schema = json!({
        "type": "object",
        "properties": { "prompt": {"type": "string"}, "negative": {"type": "string"}, "decision": {"type": "string"} },
        "required": ["prompt", "negative", "decision"],
        "additionalProperties": false,
    });
    let prompt = format!("Write the brief for these wishes.\n{}", wishes(&held.render));
    let ask = Ask {
        purpose: "render_brief",
        provider: "anthropic",
        model: &state.claude_model,
        prices: &held.brief_prices,
        secret: Secret::AnthropicApiKey,
        deadline,
    };
    call::paid(state, held, &ask, async |key| {
        let answered =
            state.claude.answer(key, &state.claude_model, &held.template, &prompt, &schema, BRIEF_MAX_TOKENS).await?;
        let usage = answered.usage;
        answered.try_map(|value| serde_json::from_value(value).map_err(|_| Failure::from(AiError::Malformed { usage })))
    })
    .await
}

/// Makes, checks, marks and stores each variant.
async fn make_pictures(
    state: &State,
    held: &Held,
    photo: &Photo,
    deadline: Instant,
    brief: &Brief,
    model: &str,
    prices: &[ModelPrice],
) -> Result<Vec<Made>, Stop> {
    let input = Picture { mime: "image/jpeg".to_owned(), bytes: photo.bytes.clone() };
    let mut made = Vec::new();
    for variant in 1..=held.render.variants {
        let prompt =
            format!("{}\nAvoid: {}\nVariant {variant} of {}.", brief.prompt, brief.negative, held.render.variants);
        let ask = Ask {
            purpose: "render_picture",
            provider: "gemini",
            model,
            prices,
            secret: Secret::GeminiApiKey,
            deadline,
        };
        let picture: Paid<(CheckedRender, Vec<u8>)> = call::paid(state, held, &ask, async |key| {
            let answered = state.gemini.render(key, model, &prompt, &input, photo.aspect_ratio).await?;
            let usage = answered.usage;
            // A picture that cannot be used was paid for all the same.
            answered.try_map(|picture| {
                photo::check_render(&picture.bytes, photo.width, photo.height)
                    .and_then(|checked| Ok((checked, photo::mark_ai_generated(&picture.bytes)?)))
                    .map_err(|error| Failure { usage: Some(usage), ..Failure::from(error) })
            })
        })
        .await?;
        let (checked, bytes) = picture.value;
        let paid = (picture.tokens, picture.cost_micro_usd);
        made.push(keep(state, held, deadline, variant, checked, bytes.into(), paid).await?);
    }
    Ok(made)
}

/// The one transaction that tells the whole story: results, assets, counter, usage, charge, audit entry, document and job.
async fn complete(
    state: &State,
    held: &Held,
    audit_keys: &AuditKeys,
    photo: &Photo,
    finished: &Finished,
) -> Result<(), Stop> {
    let Held { job, render, .. } = held;
    let Finished { brief, made, model, served_by, template, instead } = finished;
    let brief_paid = brief.as_ref().map_or((0, 0), |brief| (brief.tokens, brief.cost_micro_usd));
    let tokens = brief_paid.0 + made.iter().map(|made| made.tokens).sum::<i64>();
    let cost_micro_usd = brief_paid.1 + made.iter().map(|made| made.cost_micro_usd).sum::<i64>();
    let now = (state.clock)();
    let results: Vec<Value> = made
        .iter()
        .map(|made| json!({ "id": made.id, "path": made.path.to_string(), "width": made.width, "height": made.height }))
        .collect();

    let mut tx = state.db.service_tx(job.org_id).await?;
    // First, since it decides whether any of the rest may happen.
    let result = json!({
        "request_id": render.id, "results": results, "cost_micro_usd": cost_micro_usd, "served_by": served_by,
        "instead_because": instead,
    });
    jobs::end(&mut tx, job, &End::Succeeded { result, tokens }).await??;
    for (index, made) in made.iter().enumerate() {
        // The brief is paid for once and shown with the first result, so that the results add up to the charge.
        let share = if index == 0 { brief_paid } else { (0, 0) };
        let stored = NewResult {
            id: made.id,
            variant: made.variant,
            bucket: made.path.bucket(),
            path: made.path.key(),
            mime: made.mime,
            width: i32::try_from(made.width).unwrap_or(i32::MAX),
            height: i32::try_from(made.height).unwrap_or(i32::MAX),
            bytes: i64::try_from(made.bytes).unwrap_or(i64::MAX),
            sha256: made.sha256,
            cost_tokens: made.tokens + share.0,
            cost_micro_usd: made.cost_micro_usd + share.1,
            model_used: model,
            served_by,
        };
        renders::insert_result(&mut tx, render, &stored).await?;
    }
    let variants = i64::from(render.variants);
    renders::update_status(&mut tx, job.org_id, render.id, "completed", None).await?;
    if !limits::settle(&mut tx, held.reservation.get(), variants).await? {
        // Nobody but the holder of the lease ends a reservation, so this is a defect: nothing is told of a render that nobody counted.
        return Err(Failure::passing("reservation_lost", "The reservation had ended; the render is made again.").into());
    }
    let actor = job.created_by.unwrap_or_default();
    renders::charge(&mut tx, render, actor, variants, cost_micro_usd).await?;

    let subject = audit_keys.subject(&mut tx, job.org_id, actor).await?;
    let seal = |field, value: &str| subject.seal(field, value).map_err(AuditError::from);
    let told = |part: fn(&Brief) -> &String| brief.as_ref().map(|brief| part(&brief.value).as_str());
    let entry = audit::Entry {
        action: "render.completed",
        resource_type: "render_requests",
        record_id: render.id.to_string(),
        input: json!({
            "photo": { "path": render.input_file_path, "sha256": hex(&photo.sha256), "width": photo.width, "height": photo.height },
            // Free text may name people.
            "wishes": seal("input", &wishes(render).to_string())?,
            "template": template,
        }),
        decision: json!({
            "why": told(|brief| &brief.decision).map(|text| seal("decision", text)).transpose()?,
            "prompt": told(|brief| &brief.prompt).map(|text| seal("decision", text)).transpose()?,
            "brief_model": brief.as_ref().map(|_| &state.claude_model), "model": model, "served_by": served_by,
            "instead_because": instead,
        }),
        output: json!({ "results": results, "tokens": tokens, "cost_micro_usd": cost_micro_usd }),
        metadata: json!({ "job_id": job.id, "attempt": job.attempt }),
        subject_ids: vec![subject.id()],
        ..audit::Entry::default()
    };
    audit::append(&mut tx, &entry).await?;

    let document = json!({
        "kind": "render", "request_id": render.id, "project_id": render.project_id, "job_id": job.id,
        "brief": brief.as_ref().map(|brief| json!({
            "prompt": brief.value.prompt, "negative": brief.value.negative, "decision": brief.value.decision,
        })),
        "wishes": wishes(render), "results": results, "tokens": tokens, "cost_micro_usd": cost_micro_usd,
        "served_by": served_by, "completed_at": now,
    });
    outbox_rows::insert_document(&mut tx, job.org_id, render.id, "agent_outputs", &document).await?;
    if *served_by == "model" {
        cache::put(&mut tx, job.org_id, actor, &fallback::key(held, photo), &fallback::kept(made), now).await?;
    }
    tx.commit().await?;
    if *served_by != "model" {
        metric(now, "RendersServedInstead", Unit::Count, f64::from(render.variants), &[("served_by", served_by)]);
    }
    Ok(())
}

/// Ends or postpones the job after a step that failed, and gives back what it will not use.
async fn give_up(state: &State, held: &Held, stop: &Stop) -> Result<(), Stop> {
    let Held { job, render, .. } = held;
    let unavailable = Failure::passing("dependency_unavailable", "Something the render needs did not answer.");
    let failure = match stop {
        Stop::Stale => return Ok(()),
        Stop::Limited(waiting) => {
            // It costs an attempt, since a call was paid for: without an end to that, a model that answers nonsense would be asked
            // again in every window.
            let error = Failure::permanent(
                "limit_reached",
                format!("The {}'s limit has no room for another try.", waiting.scope),
            );
            let end = End::Later { run_after: waiting.until, waiting: None, error: Some(error.to_json()) };
            let mut tx = state.db.service_tx(job.org_id).await?;
            jobs::end(&mut tx, job, &end).await??;
            renders::update_status(&mut tx, job.org_id, render.id, "queued", None).await?;
            tx.commit().await?;
            return Ok(());
        }
        Stop::Cancelled => None,
        Stop::Failed(failure) | Stop::Waiting(failure) => Some(failure),
        Stop::Unavailable(_) => {
            log_unavailable(stop);
            Some(&unavailable)
        }
    };
    let now = (state.clock)();
    let mut tx = state.db.service_tx(job.org_id).await?;
    match failure {
        Some(failure) if matches!(stop, Stop::Waiting(_)) && now - render.created_at < LONGEST_WAIT => {
            // Those that wait for the same morning do not all come in its first second.
            let until = quota_renewed_at(failure.code, now) + TimeDelta::seconds(rand::random_range(0..600));
            tracing::warn!(job.id = %job.id, code = failure.code, %until, "render waits for a provider's quota");
            // Nothing is held meanwhile: it may be a day.
            limits::refund_job(&mut tx, job.id).await?;
            let waiting = json!({ "reason": failure.code, "detail": failure.detail, "until": until });
            postpone(tx, job, render, until, waiting).await?;
            return Ok(());
        }
        Some(failure) if failure.retry == Retry::Later && job.attempt < job.max_attempts => {
            let delay = TimeDelta::from_std(failure.delay(job.attempt, rand::random())).unwrap_or(PAUSE);
            let run_after = now + delay;
            tracing::warn!(job.id = %job.id, code = failure.code, attempt = job.attempt, "render will be tried again");
            jobs::end(&mut tx, job, &End::Later { run_after, waiting: None, error: Some(failure.to_json()) }).await??;
            renders::update_status(&mut tx, job.org_id, render.id, "queued", None).await?;
        }
        Some(failure) => {
            tracing::warn!(job.id = %job.id, code = failure.code, attempt = job.attempt, "render failed");
            fail(&mut tx, job, render, failure, now).await?;
        }
        None => {
            finish(&mut tx, job, render, End::Cancelled, "cancelled").await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

/// Ends the job and the request as failed, and counts it for whoever watches.
async fn fail(
    tx: &mut ServiceTx,
    job: &Claimed,
    render: &Render,
    failure: &Failure,
    now: DateTime<Utc>,
) -> Result<(), Stop> {
    metric(now, "Renders", Unit::Count, f64::from(render.variants), &[("outcome", failure.code)]);
    finish(tx, job, render, End::Failed { error: failure.to_json() }, "failed").await
}

/// Ends the job and the request together, with an audit entry, and gives back what the job held.
async fn finish(tx: &mut ServiceTx, job: &Claimed, render: &Render, end: End, status: &str) -> Result<(), Stop> {
    limits::refund_job(tx, job.id).await?;
    jobs::end(tx, job, &end).await??;
    let error = match &end {
        End::Failed { error } => Some(error),
        _ => None,
    };
    renders::update_status(tx, job.org_id, render.id, status, error).await?;
    let entry = audit::Entry {
        action: if status == "failed" { "render.failed" } else { "render.cancelled" },
        resource_type: "render_requests",
        record_id: render.id.to_string(),
        input: json!({ "model": render.model, "variants": render.variants }),
        decision: json!({ "attempt": job.attempt, "max_attempts": job.max_attempts }),
        output: json!({ "error": error }),
        metadata: json!({ "job_id": job.id }),
        ..audit::Entry::default()
    };
    audit::append(tx, &entry).await?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
