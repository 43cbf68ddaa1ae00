//! Triggers to capabilities: authenticate, parse, one transaction, reply.

use std::{borrow::Cow, time::Instant};

use chrono::{DateTime, Utc};
use serde_json::json;
use shared::{
    ai::models::Models,
    audit::{self, AuditKeys},
    auth::Caller,
    db::CallerTx,
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    jobs,
    lambda::{Answer, Error, Trigger},
    limits::{self, Counted, Reserved},
    objects::{ObjectError, ObjectPath},
    store::{
        access::{self, Member},
        idempotency,
        renders::{self, NewRender, Render},
        settings,
    },
    worker,
};
use uuid::Uuid;

use crate::{
    header::{Header, MAX_BYTES, PhotoError},
    job::{AGENT, BRIEF, MAX_ATTEMPTS, PICTURE, SWITCH, expected},
    outcome::{expected_brief, expected_pictures, storage_unavailable},
    request::{NewRenderBody, NewRenderRequest, NewUpload, NewUploadBody, id},
    state::State,
    view::{AdmittedView, RenderView, UploadView},
    work::Renders,
};

/// How much of a photo is read before it is admitted: most headers are shorter than the first, and some carry a preview.
const HEADER_BYTES: [u64; 2] = [128 * 1024, 4 * 1024 * 1024];

/// Answers whatever woke the function.
///
/// # Errors
/// None towards HTTP and the queue; a schedule's tick is not for this function.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    match trigger {
        Trigger::Http(request) => {
            let outcome = route(state, &request).await;
            Ok(Answer::Http(http::answer(&state.db, &request, outcome).await))
        }
        Trigger::Queue(batch) => {
            let deadline = Instant::now() + batch.remaining;
            Ok(batch.each(async |message| worker::process(&Renders(state), message, deadline).await).await)
        }
        Trigger::Schedule(_) => Err("process_render_request has no schedule".into()),
    }
}

async fn route(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    match (request.method.as_str(), request.segments().as_slice()) {
        ("POST", ["v1", "uploads"]) => upload(state, request).await?.into_response(),
        ("POST", ["v1", "render-requests"]) => admit(state, request).await?.into_response(),
        ("POST", ["v1", "render-requests", render, "process"]) => {
            process_again(state, request, id(render, "render_request")?).await?.into_response()
        }
        ("GET", ["v1", "render-requests", render]) => {
            show(state, request, id(render, "render_request")?).await?.into_response()
        }
        (_, ["v1", "uploads"] | ["v1", "render-requests"] | ["v1", "render-requests", _, "process"]) => {
            Err(ApiError::method_not_allowed("POST"))
        }
        (_, ["v1", "render-requests", _]) => Err(ApiError::method_not_allowed("GET")),
        _ => Err(ApiError::no_route()),
    }
}

/// Gives a signed URL to put a photo at. Nothing is stored but the key, if there is one: replayed, it gives the same upload.
async fn upload(state: &State, request: &HttpRequest) -> Result<Reply<UploadView>, ApiError> {
    let now = (state.clock)();
    let caller = state.auth.authenticate(&request.headers, now).await?;
    let wanted = NewUpload::parse(&http::json::<NewUploadBody>(request)?)?;
    let keyed = http::idempotency(request, "POST /v1/uploads")?;

    let upload_id = Uuid::now_v7();
    let entered = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "renders:create").await?;
        let earlier = match &keyed {
            Some(keyed) => idempotency::remember(tx, member, keyed, upload_id).await?,
            None => None,
        };
        Ok::<_, ApiError>((member, earlier.unwrap_or(upload_id)))
    });
    let (member, upload_id) = entered.await?;

    let path = ObjectPath::upload(member.org_id, member.actor_id, upload_id);
    let signed = state.objects.for_org(member.org_id).upload_url(&path, now).await.map_err(storage_unavailable)?;
    Ok(Reply::created(UploadView::new(upload_id, wanted.content_type, signed)))
}

/// Admits a render request and queues the work.
///
/// The request, its usage reservation, its job and the audit entry commit together, so no picture is rendered that nobody
/// asked for and none is asked for that nobody pays for. Replaying an `Idempotency-Key` returns the first answer.
async fn admit(state: &State, request: &HttpRequest) -> Result<Reply<AdmittedView>, ApiError> {
    let now = (state.clock)();
    let caller = state.auth.authenticate(&request.headers, now).await?;
    let wanted = NewRenderRequest::parse(http::json::<NewRenderBody>(request)?)?;
    let keyed = http::idempotency(request, "POST /v1/render-requests")?;
    let audit_keys = AuditKeys::fetch(&state.secrets).await?;
    let (member, input, models) = find_input(state, &caller, &wanted).await?;

    let new = NewRender {
        id: Uuid::now_v7(),
        job_id: Uuid::now_v7(),
        project_id: wanted.project_id,
        parent_id: wanted.parent_id,
        input_file_path: &input,
        model: wanted_model(&models, &wanted)?,
        variants: wanted.variants,
        parameters: &wanted.parameters,
    };
    let admitted = state.db.caller(&caller, async |tx| {
        if let Some(keyed) = &keyed
            && let Some(earlier) = idempotency::remember(tx, member, keyed, new.id).await?
        {
            return Ok(renders::get(tx, earlier).await?);
        }
        renders::insert(tx, member, &new, MAX_ATTEMPTS).await?;
        let waiting = reserve(tx, &models, member, &new).await?;
        audit_request(tx, &audit_keys, member, request, &new, waiting.as_ref()).await?;
        Ok::<_, ApiError>(renders::get(tx, new.id).await?)
    });
    let admitted = admitted.await?;

    if admitted.waiting.is_none() {
        state.queue.wake(admitted.job_id, admitted.org_id).await; // best effort: the sweep finds what this loses
    }
    Ok(accepted(&admitted, now))
}

/// Queues a request again that has failed or was cancelled, and asks again for one that waits for a limit or a switch. What waits for a
/// provider's quota waits on. A replayed key shows what became of it, and spends nothing on it once more.
async fn process_again(state: &State, request: &HttpRequest, id: Uuid) -> Result<Reply<AdmittedView>, ApiError> {
    let now = (state.clock)();
    let caller = state.auth.authenticate(&request.headers, now).await?;
    let keyed = http::idempotency(request, "POST /v1/render-requests/{id}/process")?;
    let audit_keys = AuditKeys::fetch(&state.secrets).await?;

    let queued = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "renders:create").await?;
        let render = renders::get(tx, id).await?;
        if let Some(keyed) = &keyed
            && idempotency::remember(tx, member, keyed, id).await?.is_some()
        {
            return Ok(render);
        }
        check_enabled(tx).await?;
        let was = renders::requeue(tx, id).await?;
        if was == "succeeded" {
            return Err(ApiError::conflict(
                "render_request_completed",
                "This request is completed; ask for a new one, with this as its parent_id to go on from it.",
            ));
        }
        let parameters = renders::Parameters::default();
        let again = NewRender {
            id,
            job_id: render.job_id,
            project_id: render.project_id,
            parent_id: render.parent_id,
            input_file_path: &render.input_file_path,
            model: &render.model,
            variants: render.variants,
            parameters: &parameters,
        };
        let models = Models::read(tx, AGENT, now).await?;
        if matches!(was.as_str(), "failed" | "cancelled") {
            let waiting = reserve(tx, &models, member, &again).await?;
            audit_request(tx, &audit_keys, member, request, &again, waiting.as_ref()).await?;
        } else if was == "queued" && waits_for_us(&render) {
            // A caller reserves in their own name alone: for another's render the worker asks.
            let own = render.user_id.or(render.agent_id) == Some(member.actor_id);
            let waiting = if own { reserve(tx, &models, member, &again).await? } else { None };
            if waiting.is_none() {
                jobs::postpone(tx, render.job_id, now, None).await?;
            }
        }
        Ok::<_, ApiError>(renders::get(tx, id).await?)
    });
    let queued = queued.await?;

    if queued.waiting.is_none() {
        state.queue.wake(queued.job_id, queued.org_id).await; // best effort, as above
    }
    Ok(accepted(&queued, now))
}

/// Whether it waits for something that is the tenant's or the operator's to change.
fn waits_for_us(render: &Render) -> bool {
    let reason = render.waiting.as_ref().and_then(|waiting| waiting["reason"].as_str());
    matches!(reason, Some("limit" | "limiter_unavailable" | "paused"))
}

async fn show(state: &State, request: &HttpRequest, id: Uuid) -> Result<Reply<RenderView>, ApiError> {
    let now = (state.clock)();
    let caller = state.auth.authenticate(&request.headers, now).await?;
    let render = state.db.caller(&caller, async |tx| renders::get(tx, id).await).await?;
    let view = RenderView::new(&state.objects, render, now).await?;
    let until = view.waiting_until();
    Ok(Reply::ok(view).retry_at(until, now))
}

/// Where the picture is that the render starts from, and the models that there are. A photo must have arrived: asked of storage, so before
/// the transaction.
async fn find_input(
    state: &State,
    caller: &Caller,
    wanted: &NewRenderRequest,
) -> Result<(Member, String, Models), ApiError> {
    let now = (state.clock)();
    let found = state.db.caller(caller, async |tx| {
        let member = access::enter(tx, "renders:create").await?;
        check_enabled(tx).await?;
        let parent = match wanted.parent_id {
            Some(parent) => Some(renders::get_result_path(tx, member.org_id, parent).await?),
            None => None,
        };
        Ok::<_, ApiError>((member, parent, Models::read(tx, AGENT, now).await?))
    });
    let (member, parent, models) = found.await?;

    let Some(upload_id) = wanted.upload_id else { return Ok((member, parent.unwrap_or_default(), models)) };
    let path = ObjectPath::upload(member.org_id, member.actor_id, upload_id);
    let size = state.objects.for_org(member.org_id).head(&path).await.map_err(|error| match error {
        ObjectError::NotFound => ApiError::unprocessable(
            "photo_not_uploaded",
            "No photo has arrived for this upload_id: PUT it to the URL from POST /v1/uploads first.",
        ),
        other => storage_unavailable(other),
    })?;
    if size > MAX_BYTES as u64 {
        return Err(unusable(&PhotoError::TooLarge));
    }
    check_header(state, member, &path, size).await?;
    Ok((member, path.to_string(), models))
}

/// The model that is named, or else the one that is taken.
fn wanted_model<'a>(models: &'a Models, wanted: &NewRenderRequest) -> Result<&'a str, ApiError> {
    let known = models.names(PICTURE);
    let Some(named) = wanted.model.as_deref() else {
        return known.first().copied().ok_or_else(|| no_model("There is no image model in model_roles."));
    };
    match known.iter().position(|known| *known == named) {
        Some(at) => Ok(known[at]),
        None => Err(ApiError::unprocessable("model_unknown", format!("model must be one of: {}.", known.join(", ")))),
    }
}

fn no_model(detail: impl Into<Cow<'static, str>>) -> ApiError {
    ApiError::unavailable("model_price_unknown", detail, 3600)
}

/// Refuses a photo that cannot be used by its first bytes, so that nothing is queued or reserved for it. What they do not show, the worker
/// finds.
async fn check_header(state: &State, member: Member, path: &ObjectPath, size: u64) -> Result<(), ApiError> {
    let objects = state.objects.for_org(member.org_id);
    if size == 0 {
        return Err(unusable(&PhotoError::Empty));
    }
    for length in HEADER_BYTES {
        let start = objects.get_start(path, size.min(length)).await.map_err(storage_unavailable)?;
        match Header::read(&start) {
            Ok(Some(_)) => return Ok(()),
            Ok(None) if size <= length => return Err(unusable(&PhotoError::Damaged)),
            Ok(None) => {}
            Err(error) => return Err(unusable(&error)),
        }
    }
    Ok(())
}

fn unusable(error: &PhotoError) -> ApiError {
    ApiError::unprocessable(error.code(), error.to_string())
}

/// The kill switch.
async fn check_enabled(tx: &mut CallerTx) -> Result<(), ApiError> {
    if settings::enabled(tx, SWITCH).await? {
        return Ok(());
    }
    Err(ApiError::unavailable("rendering_paused", "Rendering is paused by an operator; nothing was queued.", 300))
}

/// Reserves what the render is expected to use, or makes its job wait for the window that has room.
async fn reserve(
    tx: &mut CallerTx,
    models: &Models,
    member: Member,
    new: &NewRender<'_>,
) -> Result<Option<limits::Waiting>, ApiError> {
    let briefs = models.choose(BRIEF, None, expected_brief);
    let pictures = models.choose(PICTURE, Some(new.model), |model| expected_pictures(model, new.variants));
    let (Some(brief), Some(picture)) = (briefs.first(), pictures.first()) else {
        return Err(no_model(
            "No model for the brief, or none for pictures, has a price in model_prices, so nothing can be reserved.",
        ));
    };
    let amounts = expected(brief, picture, new.variants).map_err(|failure| no_model(failure.detail))?;
    let counted = Counted { agent: AGENT, user_id: Some(member.actor_id), project_id: Some(new.project_id) };
    match limits::reserve(tx, new.job_id, counted, amounts).await? {
        Reserved::Active(_) => Ok(None),
        Reserved::Reached(waiting) => {
            jobs::postpone(tx, new.job_id, waiting.until, Some(&json!(waiting))).await?;
            Ok(Some(waiting))
        }
        Reserved::Never { scope } => Err(ApiError::unprocessable(
            "limit_too_small",
            format!(
                "This alone is more than the {scope}'s limit allows; ask for fewer variants, or have the limit raised."
            ),
        )),
    }
}

async fn audit_request(
    tx: &mut CallerTx,
    keys: &AuditKeys,
    member: Member,
    request: &HttpRequest,
    new: &NewRender<'_>,
    waiting: Option<&limits::Waiting>,
) -> Result<(), ApiError> {
    let subject = keys.subject(tx, member.org_id, member.actor_id).await?;
    let sealed = |field, value: Option<&str>| match value {
        Some(value) => subject.seal_text(field, value),
        None => Ok(None),
    };
    let entry = audit::Entry {
        action: "render.requested",
        resource_type: "render_requests",
        record_id: new.id.to_string(),
        input: json!({ "project_id": new.project_id, "parent_id": new.parent_id, "model": new.model, "variants": new.variants }),
        decision: json!({ "admitted": true, "waiting": waiting }),
        output: json!({ "job_id": new.job_id }),
        metadata: json!({}),
        ip: sealed("ip", request.source_ip.as_deref()).map_err(ApiError::internal)?,
        user_agent: sealed("user_agent", request.user_agent()).map_err(ApiError::internal)?,
        request_id: Some(&request.request_id),
        subject_ids: vec![subject.id()],
    };
    audit::append(tx, &entry).await?;
    Ok(())
}

fn accepted(render: &Render, now: DateTime<Utc>) -> Reply<AdmittedView> {
    let view = AdmittedView::from(render);
    let until = view.waiting_until();
    Reply::accepted(&format!("/v1/render-requests/{}", render.id), view).retry_at(until, now)
}
