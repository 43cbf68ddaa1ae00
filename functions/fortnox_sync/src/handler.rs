//! Triggers to capabilities: authenticate, parse, one transaction, reply.

use std::time::Instant;

use chrono::TimeDelta;
use serde_json::{Value, json};
use shared::{
    auth::{Caller, Identity},
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    lambda::{Answer, Error, Trigger},
    store::{access, fortnox, idempotency},
    worker,
};

use crate::{
    request::{ImportBody, PageQuery, SyncBody},
    schedule,
    state::State,
    view::{CustomersView, SyncView},
    work::Readings,
};

/// The most that the body of an import holds, in bytes: a thousand numbers of the longest kind.
const MAX_IMPORT: usize = 256 * 1024;

/// Answers a request, a batch of the queue, or a tick.
///
/// # Errors
/// None towards HTTP and the queue; to the schedule, if every part of its work failed.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    match trigger {
        Trigger::Http(request) => {
            let outcome = route(state, &request).await;
            Ok(Answer::Http(http::answer(&state.db, &request, outcome).await))
        }
        Trigger::Queue(batch) => {
            let deadline = Instant::now() + batch.remaining;
            Ok(batch.each(async |message| worker::process(&Readings(state), message, deadline).await).await)
        }
        Trigger::Schedule(tick) => schedule::tick(state, &tick).await.map(Answer::Schedule),
    }
}

async fn route(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    match (request.method.as_str(), request.segments().as_slice()) {
        ("POST", ["v1", "fortnox", "sync"]) => sync(state, request).await?.into_response(),
        ("GET", ["v1", "fortnox", "sync"]) => shown(state, request).await?.into_response(),
        ("GET", ["v1", "fortnox", "customers"]) => customers(state, request).await?.into_response(),
        ("POST", ["v1", "fortnox", "customers", "import"]) => import(state, request).await?.into_response(),
        (_, ["v1", "fortnox", "sync"]) => Err(ApiError::method_not_allowed("GET, POST")),
        (_, ["v1", "fortnox", "customers"]) => Err(ApiError::method_not_allowed("GET")),
        (_, ["v1", "fortnox", "customers", "import"]) => Err(ApiError::method_not_allowed("POST")),
        _ => Err(ApiError::no_route()),
    }
}

/// `POST /v1/fortnox/sync`: has Fortnox read now. While a reading is open, that is the answer; `full` is then heeded by the next.
async fn sync(state: &State, request: &HttpRequest) -> Result<Reply<Value>, ApiError> {
    let now = (state.clock)();
    let caller = state.auth.authenticate(&request.headers, now).await?;
    let body = if request.body.is_empty() { SyncBody::default() } else { http::json(request)? };
    let keyed = http::idempotency(request, "POST /v1/fortnox/sync")?;
    let admitted = state.db.caller(&caller, async |tx| {
        people_only(&caller)?;
        let member = access::enter(tx, "integrations:manage").await?;
        if let Some(keyed) = &keyed
            && let Some(earlier) = idempotency::find(tx, member, keyed).await?
        {
            return Ok::<_, ApiError>((member.org_id, earlier, false));
        }
        let job = fortnox::admit_sync(tx, body.full).await?.ok_or_else(|| {
            ApiError::conflict("fortnox_not_connected", "Fortnox is not connected, or must be connected again.")
        })?;
        if let Some(keyed) = &keyed {
            idempotency::remember(tx, member, keyed, job).await?;
        }
        Ok::<_, ApiError>((member.org_id, job, true))
    });
    let (org_id, job_id, is_new) = admitted.await?;
    if is_new {
        state.queue.wake(job_id, org_id).await; // best effort: the sweep finds what this loses
    }
    let href = format!("/v1/jobs/{job_id}");
    let body = json!({ "job": { "id": job_id, "href": href } });
    Ok(Reply::accepted(&href, body).retry_at(Some(now + TimeDelta::seconds(2)), now))
}

/// `GET /v1/fortnox/sync`: what was read last, and how far the reading is.
async fn shown(state: &State, request: &HttpRequest) -> Result<Reply<SyncView>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let view = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "integrations:read").await?;
        let found = fortnox::sync_state(tx, member.org_id).await?;
        Ok::<_, ApiError>(SyncView::of(found, &fortnox::counts(tx, member.org_id).await?))
    });
    Ok(Reply::ok(view.await?))
}

/// `GET /v1/fortnox/customers`: those that the caller may see, and the client that each is linked to.
async fn customers(state: &State, request: &HttpRequest) -> Result<Reply<CustomersView>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let page: PageQuery = http::query(request)?;
    let (after, most) = page.parse()?;
    let view = state.db.caller(&caller, async |tx| {
        people_only(&caller)?;
        let member = access::member(tx).await?;
        let listed = fortnox::list_customers(tx, member.org_id, after, most).await?;
        Ok::<_, ApiError>(CustomersView::of(listed, most))
    });
    Ok(Reply::ok(view.await?))
}

/// `POST /v1/fortnox/customers/import`: makes clients of customers. The same twice is the same as once.
async fn import(state: &State, request: &HttpRequest) -> Result<Reply<Value>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let wanted = http::json_within::<ImportBody>(request, MAX_IMPORT)?.parse()?;
    let keyed = http::idempotency(request, "POST /v1/fortnox/customers/import")?;
    let report = state.db.caller(&caller, async |tx| {
        people_only(&caller)?;
        access::enter(tx, "clients:create").await?;
        let member = access::enter(tx, "accounting:update").await?;
        if let Some(keyed) = &keyed {
            // What was made before is `already` there: only another request under the same key is worth refusing.
            idempotency::remember(tx, member, keyed, member.org_id).await?;
        }
        let (numbers, after) = (wanted.numbers.as_deref(), wanted.after.as_deref());
        Ok::<_, ApiError>(fortnox::import_customers(tx, numbers, after, wanted.most).await?)
    });
    Ok(Reply::ok(report.await?))
}

fn people_only(caller: &Caller) -> Result<(), ApiError> {
    match caller.identity {
        Identity::Agent { .. } => Err(ApiError::forbidden("people_only", "A person does this; an agent may not.")),
        Identity::Person { .. } => Ok(()),
    }
}
