//! Triggers to capabilities: who may begin, what comes back, and where the browser goes next.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use shared::{
    auth::Identity,
    clients::fortnox::FortnoxError,
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    lambda::{Answer, Error, Trigger},
    store::{
        access, idempotency,
        integrations::{self, UsedState},
    },
    telemetry,
};
use url::Url;
use uuid::Uuid;

use crate::{
    connect::{self, Failed, PROVIDER},
    outcome::NotConnected,
    request::{self, CallbackQuery, StartQuery},
    state::State,
    view::{ConnectionView, StartView},
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

/// Begins to connect, for a person who is signed in, in the browser that asks: the answer sets its cookie. So a person who was lured to an address
/// that somebody else began does not connect their company with another's organisation.
///
/// An app that asks for JSON is given the address to open; another client is led there at once.
async fn start(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let redirect_url = set_up(state)?;
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let wanted: StartQuery = http::query(request)?;
    let redirect_to = state.return_origins.address("redirect_to", &wanted.redirect_to)?;
    let member = state.db.caller(&caller, async |tx| {
        if matches!(caller.identity, Identity::Agent { .. }) {
            return Err(ApiError::forbidden("people_only", "A person connects Fortnox; an agent cannot consent."));
        }
        Ok(access::enter(tx, "integrations:manage").await?)
    });
    let member = member.await?;
    let (returned, browser) = (random(), random());
    // Before anything is written, this says whether Fortnox is set up.
    let url = state.fortnox.consent_url(&returned, redirect_url.as_str()).map_err(not_set_up)?;
    let begun = state.db.service(member.org_id, async |tx| {
        let (state_hash, browser_hash) = (hash(&returned), hash(&browser));
        integrations::begin_consent(
            tx,
            member.org_id,
            member.actor_id,
            PROVIDER,
            &state_hash,
            &browser_hash,
            redirect_to.as_str(),
        )
        .await
    });
    let expires_at = begun.await?;
    let response = if request.accepts_json() {
        Reply::ok(StartView { url, expires_at }).into_response()?
    } else {
        HttpResponse::see_other(&url)
    };
    Ok(response.with_cookie(&request::cookie(&browser, is_secure(redirect_url))))
}

/// A person comes back from Fortnox.
async fn callback(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let redirect_url = set_up(state)?;
    let query = CallbackQuery::parse(&request.query);
    let Some(returned) = &query.state else { return Ok(leave(None, Err(NotConnected::StateUnknown))) };
    let browser = request::browser(request, is_secure(redirect_url)).map(hash);
    let used = state.db.directory(async |tx| {
        integrations::use_state(tx, PROVIDER, &hash(returned), browser.as_ref().map(<[u8; 32]>::as_slice)).await
    });
    let used = used.await?;
    let redirect_to = used.redirect_to.clone();
    match finish(state, redirect_url, &used, &query, &request.request_id).await {
        Ok(()) => Ok(leave(redirect_to.as_deref(), Ok(()))),
        Err(Failed::NotConnected(why)) => Ok(leave(redirect_to.as_deref(), Err(why))),
        Err(Failed::Ours(error)) => Err(error),
    }
}

async fn finish(
    state: &State,
    redirect_url: &Url,
    used: &UsedState,
    query: &CallbackQuery,
    request_id: &str,
) -> Result<(), Failed> {
    if let Some(why) = NotConnected::of_state(&used.outcome) {
        return Err(why.into());
    }
    let (Some(org_id), Some(user_id)) = (used.org_id, used.user_id) else {
        return Err(NotConnected::StateUnknown.into());
    };
    telemetry::works_for(org_id, Some(user_id));
    if let Some(error) = &query.error {
        return Err(NotConnected::of_refusal(error).into());
    }
    let Some(code) = &query.code else { return Err(NotConnected::ConsentFailed.into()) };
    connect::connect(state, redirect_url, org_id, user_id, code, request_id).await
}

/// Leads the browser back to the app, which reads `fortnox` from the address; or shows a page, where nobody knows to which app.
fn leave(redirect_to: Option<&str>, outcome: Result<(), NotConnected>) -> HttpResponse {
    let code = outcome.map_or_else(NotConnected::code, |()| "connected");
    if let Some(mut url) = redirect_to.and_then(|url| Url::parse(url).ok()) {
        url.query_pairs_mut().append_pair("fortnox", code);
        return HttpResponse::see_other(url.as_str());
    }
    let text = outcome.map_or_else(NotConnected::text, |()| "Fortnox is connected. You can close this page.");
    HttpResponse::page("Fortnox", text, code)
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
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let keyed = http::idempotency(request, "POST /v1/fortnox/connection/disconnect")?;
    let entered = state.db.caller(&caller, async |tx| {
        if matches!(caller.identity, Identity::Agent { .. }) {
            return Err(ApiError::forbidden("people_only", "A person disconnects Fortnox."));
        }
        let member = access::enter(tx, "integrations:manage").await?;
        let earlier = match &keyed {
            Some(keyed) => idempotency::find(tx, member, keyed).await?,
            None => None,
        };
        Ok((member, earlier))
    });
    let (member, earlier) = entered.await?;
    if earlier.is_none() {
        connect::disconnect(state, member.org_id, member.actor_id, &request.request_id).await?;
    }
    let found = state.db.caller(&caller, async |tx| {
        if let Some(keyed) = &keyed {
            idempotency::remember(tx, member, keyed, Uuid::now_v7()).await?;
        }
        integrations::shown(tx, member.org_id, PROVIDER).await
    });
    Reply::ok(ConnectionView::from(found.await?)).into_response()
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

fn is_secure(redirect_url: &Url) -> bool {
    redirect_url.scheme() == "https"
}

/// 256 bits that nobody can guess.
fn random() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}
