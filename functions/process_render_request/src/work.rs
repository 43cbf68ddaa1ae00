//! One job, from claim to completion. Each step is a transaction or a call to the outside, never both.

mod call;
mod end;
mod fallback;

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::{
    ai::{AiError, Charge, Picture, Usage},
    audit::{AuditError, AuditKeys},
    db::{DbError, ServiceTx},
    jobs::{self, Claim, Claimed, End, StaleLease},
    limits::{self, Amounts, Counted, Reserved},
    objects::ObjectPath,
    outbox,
    secrets::{Secret, SecretError},
    store::{
        StoreError,
        prices::{self, ModelPrice},
        provider_calls,
        renders::{self, Render},
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
use call::{Ask, Bill, Paid};
use end::{complete, fail, finish, give_up};

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
    /// `None` for one that was made before.
    bill: Option<Bill>,
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
    Counted { agent: AGENT, user_id: job.created_by, project_id: Some(render.project_id) }
}

/// Puts the job back with a reason people can see. Costs no attempt.
async fn postpone(
    mut tx: ServiceTx,
    job: &Claimed,
    render: &Render,
    until: DateTime<Utc>,
    waiting: Value,
) -> Result<Option<Held>, Stop> {
    jobs::end(&mut tx, job, &End::Later { run_after: until, waiting: Some(waiting), error: None, counts: false })
        .await??;
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

/// Stores a picture under this request while there is time, with the `bill` for it. A bucket that is not there is storage's fault, and
/// no photo is missing.
async fn keep(
    state: &State,
    held: &Held,
    deadline: Instant,
    variant: i16,
    checked: CheckedRender,
    bytes: bytes::Bytes,
    bill: Option<Bill>,
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
        bill,
    })
}

/// What is reserved for one call. The claim has seen that there are prices.
fn reserved(expected: &Usage, prices: &[ModelPrice]) -> Result<Charge, Failure> {
    Charge::reserved(expected, prices).map_err(|_| {
        Failure::permanent("model_price_unknown", "There is no price for the model, so it was not called.")
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
        reserved: reserved(&expected_usage(&held.render.model, 1).brief, &held.brief_prices)?,
        secret: Secret::AnthropicApiKey,
        deadline,
    };
    call::paid(state, held, &ask, async |key| {
        let answered =
            state.claude.answer(key, &state.claude_model, &held.template, &prompt, &schema, BRIEF_MAX_TOKENS).await?;
        let metered = answered.metered;
        answered
            .try_map(|value| serde_json::from_value(value).map_err(|_| Failure::from(AiError::Malformed { metered })))
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
    let reserved = reserved(&expected_usage(model, 1).pictures, prices)?;
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
            reserved,
            secret: Secret::GeminiApiKey,
            deadline,
        };
        let picture: Paid<(CheckedRender, Vec<u8>)> = call::paid(state, held, &ask, async |key| {
            let answered = state.gemini.render(key, model, &prompt, &input, photo.aspect_ratio).await?;
            let metered = answered.metered;
            // A picture that cannot be used was paid for all the same.
            answered.try_map(|picture| {
                photo::check_render(&picture.bytes, photo.width, photo.height)
                    .and_then(|checked| Ok((checked, photo::mark_ai_generated(&picture.bytes)?)))
                    .map_err(|error| Failure { metered: Some(Box::new(metered)), ..Failure::from(error) })
            })
        })
        .await?;
        let (checked, bytes) = picture.value;
        made.push(keep(state, held, deadline, variant, checked, bytes.into(), Some(picture.bill)).await?);
    }
    Ok(made)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
