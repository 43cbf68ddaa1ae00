//! Triggers to capabilities: verify, split, store, answer.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::{
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    lambda::{Answer, Error, Trigger},
    secrets::{Secret, SecretError, SecretValue},
    store::social_events::{self, Taken},
    telemetry::{Unit, metric},
    webhook::{SignatureError, is_one_of, verify_meta, verify_tiktok},
    worker,
};
use tokio::time::timeout;

use crate::{
    body::{Split, split_meta, split_tiktok},
    state::State,
    work::Events,
};

/// The most a delivery may hold, in bytes.
const MAX_BODY: usize = 5 * 1024 * 1024;
/// The longest challenge that is answered.
const MAX_CHALLENGE: usize = 200;
/// How old and how far ahead a signature of TikTok's may be, in seconds. TikTok sends again for 72 hours and does not say that it signs again
/// then; a delivery that was stored is not stored twice, so that a replay within that time changes nothing.
const TIKTOK_TOLERANCE_S: [i64; 2] = [72 * 3600 + 300, 300];
/// How long the answer waits until workers are woken. The sweep wakes those that this leaves.
const WAKE: Duration = Duration::from_millis(1500);
const WOKEN_AT_ONCE: usize = 16;

/// Answers a request, or a batch of the queue.
///
/// # Errors
/// None towards HTTP and the queue.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    match trigger {
        Trigger::Http(request) => {
            let outcome = route(state, &request).await;
            Ok(Answer::Http(http::answer(&state.db, &request, outcome).await))
        }
        Trigger::Queue(batch) => {
            let deadline = Instant::now() + batch.remaining;
            Ok(batch.each(async |message| worker::process(&Events(state), message, deadline).await).await)
        }
        Trigger::Schedule(_) => Err("social_webhook has no schedule".into()),
    }
}

async fn route(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    match (request.method.as_str(), request.segments().as_slice()) {
        ("GET", ["webhooks", "meta"]) => challenge(state, request).await,
        ("POST", ["webhooks", "meta"]) => receive(state, request, &META).await?.into_response(),
        ("POST", ["webhooks", "tiktok"]) => receive(state, request, &TIKTOK).await?.into_response(),
        (_, ["webhooks", "meta"]) => Err(ApiError::method_not_allowed("GET, POST")),
        (_, ["webhooks", "tiktok"]) => Err(ApiError::method_not_allowed("POST")),
        _ => Err(ApiError::no_route()),
    }
}

/// Checks a header as the signature of a body, made with one of the secrets, at this time in seconds.
type Verify = fn(Option<&str>, &[u8], &[&str], i64) -> Result<usize, SignatureError>;

/// What differs between those who deliver.
struct Provider {
    name: &'static str,
    header: &'static str,
    secrets: Secret,
    verify: Verify,
    split: fn(&[u8]) -> Option<Split<'_>>,
}

const META: Provider = Provider {
    name: "meta",
    header: "x-hub-signature-256",
    secrets: Secret::MetaAppSecrets,
    verify: |header, body, secrets, _| verify_meta(header, body, secrets),
    split: split_meta,
};

const TIKTOK: Provider = Provider {
    name: "tiktok",
    header: "tiktok-signature",
    secrets: Secret::TiktokClientSecrets,
    verify: |header, body, secrets, now| verify_tiktok(header, body, secrets, now, TIKTOK_TOLERANCE_S),
    split: split_tiktok,
};

#[derive(Deserialize)]
struct Challenge {
    #[serde(rename = "hub.mode")]
    mode: String,
    #[serde(rename = "hub.challenge")]
    challenge: String,
    #[serde(rename = "hub.verify_token")]
    token: String,
}

/// `GET /webhooks/meta`: says that deliveries are wanted here, to one who names the token that was agreed on.
async fn challenge(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let asked: Challenge = http::query(request)?;
    let tokens = state.secrets.find(Secret::MetaVerifyTokens).await.map_err(unavailable)?;
    let known = tokens.is_some_and(|tokens| is_one_of(&asked.token, &listed(&tokens)));
    // It is sent back as it came, so that it is only what Meta sends: digits, or something like them.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_plain = asked.challenge.len() <= MAX_CHALLENGE && asked.challenge.bytes().all(plain);
    if asked.mode != "subscribe" || !known || !is_plain {
        tracing::warn!(known, "a subscription was refused");
        return Err(ApiError::forbidden("verify_token_invalid", "Deliveries are not wanted with this token."));
    }
    Ok(HttpResponse::plain(&asked.challenge))
}

/// Stores what a provider delivers: verified before it is read, and answered with 200 even where it is not understood, so that the platform does not send
/// it again for days. 4xx only if the signature does not hold; 5xx if it could not be stored, so that it comes again.
async fn receive(state: &State, request: &HttpRequest, provider: &Provider) -> Result<Reply<Value>, ApiError> {
    let now = (state.clock)();
    if request.body.len() > MAX_BODY {
        count(now, provider, "refused_too_large", 1);
        return Err(ApiError::too_large("A delivery may hold at most 5 MiB."));
    }
    verify(state, request, provider, now).await?;
    let Some(Split { entries, malformed }) = (provider.split)(&request.body) else {
        tracing::error!(
            provider = provider.name,
            bytes = request.body.len(),
            "a delivery is not of the shape that is known"
        );
        count(now, provider, "unparsed", 1);
        return Ok(Reply::ok(json!({ "received": true, "stored": 0 })));
    };
    if malformed > 0 {
        tracing::error!(provider = provider.name, malformed, "entries of a delivery name no account");
        count(now, provider, "malformed", malformed);
    }
    let number = entries.len();
    let mut taken = Taken::default();
    if !entries.is_empty() {
        let digest = Sha256::digest(&request.body);
        let stored = state
            .db
            .directory(async |tx| social_events::take_events(tx, provider.name, digest.as_slice(), entries).await);
        taken = stored.await?;
    }
    let count_of = |number: i64| usize::try_from(number).unwrap_or_default();
    count(now, provider, "stored", count_of(taken.stored));
    count(now, provider, "unowned", count_of(taken.unowned));
    tracing::info!(
        provider = provider.name,
        entries = number,
        stored = taken.stored,
        unowned = taken.unowned,
        "delivery stored"
    );
    let wake = stream::iter(&taken.due).for_each_concurrent(WOKEN_AT_ONCE, async |(org_id, job_id)| {
        state.events.wake(*job_id, *org_id).await;
    });
    if timeout(WAKE, wake).await.is_err() {
        tracing::warn!(workers = taken.due.len(), "not every worker was woken; the sweep wakes the others");
    }
    Ok(Reply::ok(json!({ "received": true, "stored": taken.stored })))
}

/// Checks the signature. Secrets that were just reset may not be known yet, so they are fetched again once.
async fn verify(state: &State, request: &HttpRequest, provider: &Provider, now: DateTime<Utc>) -> Result<(), ApiError> {
    let header = request.headers.get(provider.header).and_then(|value| value.to_str().ok());
    let mut secrets = state.secrets.get(provider.secrets).await.map_err(unavailable)?;
    for again in [false, true] {
        if again {
            secrets = state.secrets.refetch(provider.secrets, &secrets).await.map_err(unavailable)?;
        }
        match (provider.verify)(header, &request.body, &listed(&secrets), now.timestamp()) {
            Ok(_) => return Ok(()),
            Err(SignatureError::Mismatch) if !again => {}
            Err(error) => return Err(refuse(now, provider, &error.to_string())),
        }
    }
    Err(refuse(now, provider, "signature_mismatch"))
}

fn unavailable(error: SecretError) -> ApiError {
    ApiError::unavailable("secret_unavailable", "The signing secrets cannot be fetched; send it again.", 5)
        .because(error)
}

fn listed(secrets: &SecretValue) -> Vec<&str> {
    secrets.expose().split_whitespace().collect()
}

/// One answer for all reasons, so that it does not help a forger.
fn refuse(now: DateTime<Utc>, provider: &Provider, reason: &str) -> ApiError {
    count(now, provider, reason, 1);
    tracing::warn!(provider = provider.name, reason, "a delivery was refused");
    ApiError::bad_request("signature_invalid", "The signature does not hold for this body and this time.")
}

fn count(now: DateTime<Utc>, provider: &Provider, what: &str, number: usize) {
    if number > 0 {
        #[expect(clippy::cast_precision_loss, reason = "a body has some thousand entries")]
        let number = number as f64;
        metric(now, "SocialDeliveries", Unit::Count, number, &[("provider", provider.name), ("outcome", what)]);
    }
}
