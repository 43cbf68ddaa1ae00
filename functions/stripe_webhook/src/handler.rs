//! Triggers to capabilities.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::json;
use shared::{
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    lambda::{Answer, Error, Trigger},
    secrets::SecretValue,
    webhook::{SignatureError, verify_stripe},
};

use crate::{
    account,
    claim::claim,
    event,
    record::{count, record},
    schedule,
    state::{Mode, State},
};

/// The most a delivery may hold, in bytes. Stripe's are under 256 KiB.
const MAX_BODY: usize = 2 * 1024 * 1024;
/// How old a signature may be, or how far ahead, in seconds: what Stripe's libraries allow.
const TOLERANCE_S: i64 = 300;
/// How long the answer waits for events that waited for this one, and for the rest of what it shows in part.
const CLAIM: Duration = Duration::from_secs(3);

/// Answers whatever woke the function.
///
/// # Errors
/// None towards HTTP; to a schedule, if every part of its work failed.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    match trigger {
        Trigger::Http(request) => {
            let outcome = route(state, &request).await;
            Ok(Answer::Http(http::answer(&state.db, &request, outcome).await))
        }
        Trigger::Schedule(tick) => schedule::tick(state, &tick).await.map(Answer::Schedule),
        Trigger::Queue(_) => Err("stripe_webhook has no queue".into()),
    }
}

async fn route(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    match (request.method.as_str(), request.segments().as_slice()) {
        ("POST", ["webhooks", "stripe"]) => receive(state, request).await?.into_response(),
        ("POST", ["v1", "billing", "checkout"]) => account::checkout(state, request).await?.into_response(),
        ("POST", ["v1", "billing", "portal"]) => account::portal(state, request).await?.into_response(),
        (_, ["webhooks", "stripe"] | ["v1", "billing", "checkout" | "portal"]) => {
            Err(ApiError::method_not_allowed("POST"))
        }
        _ => Err(ApiError::no_route()),
    }
}

/// Records what Stripe delivers: verified before it is read, and answered with 200 whatever it says, so that nothing is sent for days
/// because it is not understood. 4xx only if the signature does not hold; 5xx if it could not be recorded, so that it comes again.
async fn receive(state: &State, request: &HttpRequest) -> Result<Reply<serde_json::Value>, ApiError> {
    let now = (state.clock)();
    if request.body.len() > MAX_BODY {
        count(now, "refused", "body_too_large");
        return Err(ApiError::too_large("A delivery may hold at most 2 MiB."));
    }
    let mode = verify(state, request, now).await?;
    let delivery = event::read(&request.body, now.timestamp());
    if delivery.livemode.is_some_and(|live| live != mode.livemode()) {
        return Err(refuse(now, "mode_mismatch"));
    }
    let mut observation = delivery.observation;
    if mode != state.mode && observation.status.is_none() {
        // Kept, and of no effect: what is only a test must not change a plan that is paid for.
        observation = event::without_effect(observation, "of the other mode");
    }
    let recorded = record(&state.db, &observation, &request.body).await?;
    count(now, "recorded", &recorded.outcome);
    tracing::info!(
        event.id = %observation.event_id, event.r#type = observation.event_type.as_deref().unwrap_or("?"),
        org.id = recorded.org_id.map(tracing::field::display), outcome = recorded.outcome, "event recorded"
    );
    if let (true, Some(org)) = (recorded.claims, recorded.org_id) {
        // At once if it can be; a job is queued for it anyway.
        match tokio::time::timeout(CLAIM, claim(state, org, Instant::now() + CLAIM)).await {
            Ok(Ok(claimed)) => tracing::info!(claimed, "events that waited were applied"),
            Ok(Err(error)) => tracing::warn!(%error, "events that waited were left to the schedule"),
            Err(_) => tracing::warn!("events that waited take longer; the schedule goes on with them"),
        }
    }
    Ok(Reply::ok(json!({ "received": true, "outcome": recorded.outcome })))
}

/// Whose secret signed it. Secrets that were just rolled may not be known yet, so they are fetched again once.
async fn verify(state: &State, request: &HttpRequest, now: DateTime<Utc>) -> Result<Mode, ApiError> {
    let header = request.headers.get("stripe-signature").and_then(|value| value.to_str().ok());
    let mut reason = SignatureError::NotSigned;
    for again in [false, true] {
        for mode in [state.mode, if state.mode == Mode::Live { Mode::Test } else { Mode::Live }] {
            let Some(mut known) = state.secrets.find(mode.secrets()).await.map_err(unavailable)? else { continue };
            if again {
                known = state.secrets.refetch(mode.secrets(), &known).await.map_err(unavailable)?;
            }
            match verify_stripe(header, &request.body, &listed(&known), now.timestamp(), TOLERANCE_S) {
                Ok(_) => return Ok(mode),
                // Of two modes' reasons, the one that says more: a stale delivery was genuine.
                Err(error @ (SignatureError::Stale | SignatureError::FromTheFuture)) => {
                    return Err(refuse(now, &error.to_string()));
                }
                Err(error) => reason = error,
            }
        }
        if reason != SignatureError::Mismatch {
            break;
        }
    }
    Err(refuse(now, &reason.to_string()))
}

fn unavailable(error: shared::secrets::SecretError) -> ApiError {
    ApiError::unavailable("secret_unavailable", "The signing secrets cannot be fetched; send it again.", 5)
        .because(error)
}

fn listed(secrets: &SecretValue) -> Vec<&str> {
    secrets.expose().split_whitespace().collect()
}

/// One answer for all reasons: whoever forges learns nothing.
fn refuse(now: DateTime<Utc>, reason: &str) -> ApiError {
    count(now, "refused", reason);
    tracing::warn!(reason, "a delivery was refused");
    ApiError::bad_request("signature_invalid", "The signature does not hold for this body and this time.")
}
