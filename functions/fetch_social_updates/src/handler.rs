//! Triggers to capabilities: authenticate, parse, one transaction, reply.

use std::time::Instant;

use chrono::TimeDelta;
use serde_json::{Value, json};
use shared::{
    auth::{Caller, Identity},
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    lambda::{Answer, Error, Trigger},
    store::{access, idempotency, social, social_accounts},
    worker,
};
use uuid::Uuid;

use crate::{
    request::SeriesQuery,
    schedule,
    state::State,
    view::{AccountsView, SeriesView},
    work::Readings,
};

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
        ("GET", ["v1", "social", "accounts"]) => accounts(state, request).await?.into_response(),
        ("POST", ["v1", "social", "accounts", id, "fetch"]) => {
            fetch(state, request, account(id)?).await?.into_response()
        }
        ("GET", ["v1", "social", "accounts", id, "analytics"]) => {
            analytics(state, request, account(id)?).await?.into_response()
        }
        (_, ["v1", "social", "accounts"] | ["v1", "social", "accounts", _, "analytics"]) => {
            Err(ApiError::method_not_allowed("GET"))
        }
        (_, ["v1", "social", "accounts", _, "fetch"]) => Err(ApiError::method_not_allowed("POST")),
        _ => Err(ApiError::no_route()),
    }
}

fn account(id: &str) -> Result<Uuid, ApiError> {
    id.parse().map_err(|_| ApiError::not_found("social_account"))
}

/// `GET /v1/social/accounts`: how each account is, and what it can do.
async fn accounts(state: &State, request: &HttpRequest) -> Result<Reply<AccountsView>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let view = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "social:read").await?;
        Ok::<_, ApiError>(AccountsView::of(social_accounts::list(tx, member.org_id).await?))
    });
    Ok(Reply::ok(view.await?))
}

/// `POST /v1/social/accounts/{id}/fetch`: has an account read now. While a reading is open, that is the answer, and it is followed by another
/// if it had begun before.
async fn fetch(state: &State, request: &HttpRequest, account_id: Uuid) -> Result<Reply<Value>, ApiError> {
    let now = (state.clock)();
    let caller = state.auth.authenticate(&request.headers, now).await?;
    let keyed = http::idempotency(request, "POST /v1/social/accounts/{id}/fetch")?;
    let admitted = state.db.caller(&caller, async |tx| {
        people_only(&caller)?;
        let member = access::enter(tx, "social:answer").await?;
        if let Some(keyed) = &keyed
            && let Some(earlier) = idempotency::find(tx, member, keyed).await?
        {
            return Ok::<_, ApiError>((member.org_id, earlier, false));
        }
        match social_accounts::status(tx, member.org_id, account_id).await?.as_str() {
            "active" => {}
            "needs_reconsent" => {
                return Err(ApiError::conflict(
                    "social_reconsent",
                    "The platform refuses the account's token; a person must connect it again.",
                ));
            }
            _ => return Err(disconnected()),
        }
        let job = social::admit_fetch(tx, account_id).await?.ok_or_else(disconnected)?;
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

/// `GET /v1/social/accounts/{id}/analytics`: a series with a point for each day.
async fn analytics(state: &State, request: &HttpRequest, account_id: Uuid) -> Result<Reply<SeriesView>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let query: SeriesQuery = http::query(request)?;
    let wanted = query.parse()?;
    let view = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "social:read").await?;
        social_accounts::status(tx, member.org_id, account_id).await?;
        let points = social_accounts::series(tx, member.org_id, account_id, &wanted).await?;
        Ok::<_, ApiError>(SeriesView::of(account_id, wanted, points))
    });
    Ok(Reply::ok(view.await?))
}

fn disconnected() -> ApiError {
    ApiError::conflict("account_disconnected", "The account is not connected any more.")
}

fn people_only(caller: &Caller) -> Result<(), ApiError> {
    match caller.identity {
        Identity::Agent { .. } => Err(ApiError::forbidden("people_only", "A person does this; an agent may not.")),
        Identity::Person { .. } => Ok(()),
    }
}
