//! Requests to answers: authenticate, one transaction, reply.

use chrono::{DateTime, Utc};
use serde_json::json;
use shared::{
    audit,
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    jobs::{self, Cancelled, JobView},
    lambda::{Answer, Error, Trigger},
    store::{access, idempotency},
};
use uuid::Uuid;

use crate::state::State;

/// Answers a request.
///
/// # Errors
/// None towards HTTP; this function has no queue and no schedule.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    let Trigger::Http(request) = trigger else { return Err("jobs answers HTTP requests only".into()) };
    let outcome = route(state, &request).await;
    Ok(Answer::Http(http::answer(&state.db, &request, outcome).await))
}

async fn route(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let id = |text: &str| Uuid::try_parse(text).map_err(|_| ApiError::not_found("job"));
    match (request.method.as_str(), request.segments().as_slice()) {
        ("GET", ["v1", "jobs", job]) => show(state, request, id(job)?).await,
        ("POST", ["v1", "jobs", job, "cancel"]) => cancel(state, request, id(job)?).await,
        (_, ["v1", "jobs", _]) => Err(ApiError::method_not_allowed("GET")),
        (_, ["v1", "jobs", _, "cancel"]) => Err(ApiError::method_not_allowed("POST")),
        _ => Err(ApiError::no_route()),
    }
}

async fn show(state: &State, request: &HttpRequest, id: Uuid) -> Result<HttpResponse, ApiError> {
    let now = (state.clock)();
    let caller = state.auth.authenticate(&request.headers, now).await?;
    reply(state.db.caller(&caller, async |tx| jobs::get(tx, id).await).await?, now)
}

/// Cancels at once while the job waits, at its next step while it runs. Doing it twice changes nothing.
async fn cancel(state: &State, request: &HttpRequest, id: Uuid) -> Result<HttpResponse, ApiError> {
    let now = (state.clock)();
    let caller = state.auth.authenticate(&request.headers, now).await?;
    let keyed = http::idempotency(request, "POST /v1/jobs/{id}/cancel")?;
    let cancelled = state.db.caller(&caller, async |tx| {
        if let Some(keyed) = &keyed {
            // A job that may not be seen is not found, whatever the key.
            let before = jobs::get(tx, id).await?;
            let member = access::member(tx).await?;
            if idempotency::remember(tx, member, keyed, id).await?.is_some() {
                return Ok(before);
            }
        }
        let Cancelled { was, status } = jobs::cancel(tx, id).await?;
        // Told by the request that changed it, of what it changed: another may have come first, or the job's own end.
        if let Some(was) = was {
            let entry = audit::Entry {
                action: "job.cancelled",
                resource_type: "jobs",
                record_id: id.to_string(),
                input: json!({ "status": was }),
                decision: json!({ "cancelled": true }),
                output: json!({ "status": status }),
                metadata: json!({}),
                request_id: Some(&request.request_id),
                ..audit::Entry::default()
            };
            audit::append(tx, &entry).await?;
        }
        Ok::<_, ApiError>(jobs::get(tx, id).await?)
    });
    reply(cancelled.await?, now)
}

fn reply(job: JobView, now: DateTime<Utc>) -> Result<HttpResponse, ApiError> {
    let waits = job.status == "queued" && job.run_after > now;
    let until = waits.then_some(job.run_after);
    Reply::ok(job).retry_at(until, now).into_response()
}
