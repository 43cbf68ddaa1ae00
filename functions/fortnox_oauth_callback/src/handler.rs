//! Triggers to capabilities: who may begin, what comes back, and where the browser goes next.

use shared::{
    clients::fortnox::FortnoxError,
    consent::Door,
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    lambda::{Answer, Error, Trigger},
    store::{access, integrations},
};
use url::Url;

use crate::{
    connect::{self, PROVIDER},
    state::State,
    view::ConnectionView,
};

/// Answers a request.
///
/// # Errors
/// None towards HTTP; this function has no queue and no schedule.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    let Trigger::Http(request) = trigger else {
        return Err("fortnox_oauth_callback answers HTTP requests only".into());
    };
    let outcome = route(state, &request).await;
    Ok(Answer::Http(http::answer(&state.db, &request, outcome).await))
}

async fn route(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    match (request.method.as_str(), request.segments().as_slice()) {
        ("GET", ["oauth", "fortnox", "start"]) => start(state, request).await,
        ("GET", ["oauth", "fortnox", "callback"]) => callback(state, request).await,
        ("GET", ["v1", "fortnox", "connection"]) => shown(state, request).await,
        ("POST", ["v1", "fortnox", "connection", "disconnect"]) => disconnect(state, request).await,
        (_, ["oauth", "fortnox", "start" | "callback"] | ["v1", "fortnox", "connection"]) => {
            Err(ApiError::method_not_allowed("GET"))
        }
        (_, ["v1", "fortnox", "connection", "disconnect"]) => Err(ApiError::method_not_allowed("POST")),
        _ => Err(ApiError::no_route()),
    }
}

/// Begins to connect, for a person who is signed in.
async fn start(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let redirect_url = set_up(state)?;
    let consent_url = |returned: &str| state.fortnox.consent_url(returned, redirect_url.as_str()).map_err(not_set_up);
    door(state).start(request, redirect_url, consent_url).await
}

/// A person comes back from Fortnox.
async fn callback(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let redirect_url = set_up(state)?;
    let door = door(state);
    let back = door.back(request, redirect_url).await?;
    let outcome = match &back.given {
        Ok(given) => connect::connect(state, redirect_url, given, &request.request_id).await,
        Err(why) => Err(why.clone().into()),
    };
    door.leave(&back, outcome)
}

async fn shown(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let found = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "integrations:read").await?;
        integrations::shown(tx, member.org_id, PROVIDER).await
    });
    Reply::ok(ConnectionView::from(found.await?)).into_response()
}

/// Ends the connection. Twice is once; with the same key it does not end one that was made since.
async fn disconnect(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let ending = door(state).ending(request, "POST /v1/fortnox/connection/disconnect").await?;
    let member = ending.member;
    if !ending.is_done {
        connect::disconnect(state, member.org_id, member.actor_id, &request.request_id).await?;
    }
    let found = ending.finish(&state.db, async |tx| integrations::shown(tx, member.org_id, PROVIDER).await);
    Reply::ok(ConnectionView::from(found.await?)).into_response()
}

const fn door(state: &State) -> Door<'_> {
    Door {
        auth: &state.auth,
        db: &state.db,
        clock: state.clock,
        return_origins: &state.return_origins,
        provider: PROVIDER,
        name: "Fortnox",
    }
}

/// Where Fortnox leads people back to, where it is set up.
fn set_up(state: &State) -> Result<&Url, ApiError> {
    state.redirect_url.as_ref().ok_or_else(|| not_set_up(FortnoxError::NotSetUp))
}

fn not_set_up(error: FortnoxError) -> ApiError {
    match error {
        FortnoxError::NotSetUp => ApiError::unprocessable(
            "fortnox_not_set_up",
            "This installation is not registered at Fortnox; its operator sets FORTNOX_CLIENT_ID and FORTNOX_REDIRECT_URL.",
        ),
        other => ApiError::internal(other),
    }
}
