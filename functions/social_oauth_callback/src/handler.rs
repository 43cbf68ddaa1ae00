//! Triggers to capabilities: who may begin, what comes back, and where the browser goes next.

use serde::Serialize;
use shared::{
    clients::social_apps::AppError,
    consent::Door,
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    lambda::{Answer, Error, Trigger},
    store::social_tokens,
};
use uuid::Uuid;

use crate::{
    connect,
    flow::{Flow, not_set_up, set_up},
    state::State,
    taken_back,
};

/// An account whose connection was ended.
#[derive(Debug, Serialize)]
struct ConnectionView {
    account_id: Uuid,
    /// `active`, where it was connected again since; `needs_reconsent` or `disconnected`.
    status: String,
}

/// Answers a request.
///
/// # Errors
/// None towards HTTP; this function has no queue and no schedule.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    let Trigger::Http(request) = trigger else {
        return Err("social_oauth_callback answers HTTP requests only".into());
    };
    let outcome = route(state, &request).await;
    Ok(Answer::Http(http::answer(&state.db, &request, outcome).await))
}

async fn route(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    match (request.method.as_str(), request.segments().as_slice()) {
        ("GET", ["oauth", of, "start"]) => start(state, request, flow(of)?).await,
        ("GET", ["oauth", of, "callback"]) => callback(state, request, flow(of)?).await,
        ("POST", ["oauth", "instagram", "deauthorized"]) => taken_back::deauthorized(state, request).await,
        ("POST", ["oauth", "instagram", "deletion"]) => taken_back::deletion_asked(state, request).await,
        ("GET", ["oauth", "instagram", "deletion"]) => taken_back::deletion_shown(state, request).await,
        ("POST", ["v1", "social", "connections", id, "disconnect"]) => disconnect(state, request, id).await,
        (_, ["oauth", of, "start" | "callback"]) => flow(of).and(Err(ApiError::method_not_allowed("GET"))),
        (_, ["oauth", "instagram", "deletion"]) => Err(ApiError::method_not_allowed("GET, POST")),
        (_, ["oauth", "instagram", "deauthorized"] | ["v1", "social", "connections", _, "disconnect"]) => {
            Err(ApiError::method_not_allowed("POST"))
        }
        _ => Err(ApiError::no_route()),
    }
}

fn flow(segment: &str) -> Result<&'static Flow, ApiError> {
    Flow::at(segment).ok_or_else(ApiError::no_route)
}

/// Begins to connect, for a person who is signed in.
async fn start(state: &State, request: &HttpRequest, flow: &Flow) -> Result<HttpResponse, ApiError> {
    let redirect_url = flow.redirect_url(set_up(state)?)?;
    let consent_url = |returned: &str| {
        state.apps.consent_url(flow.api, returned, redirect_url.as_str()).map_err(|error| match error {
            AppError::NotSetUp => not_set_up(),
            other => ApiError::internal(other),
        })
    };
    door(state, flow.provider, flow.name).start(request, &redirect_url, consent_url).await
}

/// A person comes back from the platform.
async fn callback(state: &State, request: &HttpRequest, flow: &Flow) -> Result<HttpResponse, ApiError> {
    let redirect_url = flow.redirect_url(set_up(state)?)?;
    let door = door(state, flow.provider, flow.name);
    let back = door.back(request, &redirect_url).await?;
    let outcome = match &back.given {
        Ok(given) => connect::connect(state, flow, &redirect_url, given, &request.request_id).await,
        Err(why) => Err(why.clone().into()),
    };
    door.leave(&back, outcome)
}

/// Ends a connection. Twice is once; with the same key it does not end one that was made since.
async fn disconnect(state: &State, request: &HttpRequest, id: &str) -> Result<HttpResponse, ApiError> {
    let account_id: Uuid = id.parse().map_err(|_| ApiError::not_found("social_account"))?;
    let ending = door(state, "social", "a social account")
        .ending(request, "POST /v1/social/connections/{id}/disconnect")
        .await?;
    let member = ending.member;
    if !ending.is_done {
        connect::disconnect(state, member.org_id, member.actor_id, account_id, &request.request_id).await?;
    }
    ending.finish(&state.db, async |_| Ok(())).await?;
    // As the system, since one who connects accounts need not see the inbox.
    let found =
        state.db.service(member.org_id, async |tx| social_tokens::connected(tx, member.org_id, account_id).await);
    let found = found.await?.ok_or_else(|| ApiError::not_found("social_account"))?;
    Reply::ok(ConnectionView { account_id, status: found.status }).into_response()
}

const fn door<'a>(state: &'a State, provider: &'static str, name: &'static str) -> Door<'a> {
    Door { auth: &state.auth, db: &state.db, clock: state.clock, return_origins: &state.return_origins, provider, name }
}
