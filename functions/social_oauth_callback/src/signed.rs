//! Meta's `signed_request`: who removed the application, or wants their data deleted.

use std::borrow::Cow;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use shared::{
    clients::social::id,
    http::{ApiError, HttpRequest},
    secrets::{Secret, SecretError, SecretValue},
    webhook::{SignatureError, code_of, verify_signed_request},
};
use url::form_urlencoded;

use crate::state::State;

/// The most a request may hold, in bytes. Real ones have some hundred.
const MAX_BODY: usize = 16 * 1024;
/// How far ahead Meta's clock may be.
const AHEAD: TimeDelta = TimeDelta::minutes(5);
/// What Meta signs with: the secret of the app at Instagram, or those of the app at Meta. The documentation does not say which.
const SIGNING: [Secret; 2] = [Secret::InstagramClientSecret, Secret::MetaAppSecrets];

/// What Meta says of a person.
#[derive(Debug)]
pub(crate) struct Said {
    /// As Meta calls them towards this application.
    pub(crate) user_id: String,
    /// The last moment of the second that Meta says it in.
    pub(crate) at: DateTime<Utc>,
    secret: SecretValue,
}

impl Said {
    /// What the person's request for deletion is known by. The same each time that they ask, and only this application can make it.
    pub(crate) fn deletion_code(&self) -> String {
        code_of(self.secret.expose(), &format!("deletion of {}", self.user_id))
    }
}

/// Reads a request that Meta signed. Nothing of what it says is looked at before the signature holds.
///
/// It may have been signed long ago: Meta sends again, and whether a person has consented since is known.
pub(crate) async fn read(state: &State, request: &HttpRequest) -> Result<Said, ApiError> {
    if request.body.len() > MAX_BODY {
        return Err(ApiError::too_large("A signed request may hold at most 16 KiB."));
    }
    let mut form = form_urlencoded::parse(&request.body);
    let signed = form.find(|(name, _)| name == "signed_request").map_or(Cow::Borrowed(""), |(_, value)| value);
    let (payload, secret) = verify(state, &signed).await?;
    match understand(&payload, (state.clock)()) {
        Ok((user_id, at)) => Ok(Said { user_id, at, secret }),
        Err(reason) => Err(refuse(reason)),
    }
}

/// Checks the signature. Secrets that were just reset may not be known yet, so they are fetched again once.
async fn verify(state: &State, signed: &str) -> Result<(Vec<u8>, SecretValue), ApiError> {
    let mut held = Vec::new();
    for secret in SIGNING {
        if let Some(value) = state.secrets.find(secret).await.map_err(unavailable)? {
            held.push((secret, value));
        }
    }
    if held.is_empty() {
        return Err(unavailable(SecretError::Missing(Secret::InstagramClientSecret)));
    }
    for again in [false, true] {
        if again {
            for (secret, value) in &mut held {
                *value = state.secrets.refetch(*secret, value).await.map_err(unavailable)?;
            }
        }
        let secrets: Vec<&str> = held.iter().flat_map(|(_, value)| value.expose().split_whitespace()).collect();
        match verify_signed_request(signed, &secrets) {
            Ok((which, payload)) => return Ok((payload, secrets[which].to_owned().into())),
            Err(SignatureError::Mismatch) if !again => {}
            Err(error) => return Err(refuse(&error.to_string())),
        }
    }
    Err(refuse("signature_mismatch"))
}

/// Whom it is about, and when it was said.
fn understand(payload: &[u8], now: DateTime<Utc>) -> Result<(String, DateTime<Utc>), &'static str> {
    let payload: Value = serde_json::from_slice(payload).map_err(|_| "payload_malformed")?;
    if payload["algorithm"].as_str().is_none_or(|algorithm| !algorithm.eq_ignore_ascii_case("HMAC-SHA256")) {
        return Err("algorithm_unknown");
    }
    let user_id = id(&payload["user_id"]).ok_or("user_missing")?;
    let at = payload["issued_at"].as_i64().and_then(|at| DateTime::from_timestamp(at, 999_000_000));
    match at.ok_or("time_missing")? {
        at if at > now + AHEAD => Err("timestamp_in_future"),
        at => Ok((user_id, at)),
    }
}

fn unavailable(error: SecretError) -> ApiError {
    ApiError::unavailable("secret_unavailable", "The signing secrets cannot be fetched; send it again.", 5)
        .because(error)
}

/// One answer for all reasons, so that it does not help a forger.
fn refuse(reason: &str) -> ApiError {
    tracing::warn!(reason, "a signed request was refused");
    ApiError::forbidden("signature_invalid", "The signature does not hold for this request.")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_payload_is_understood_with_either_kind_of_id_and_up_to_five_minutes_ahead() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let at = |issued_at: i64| json!({ "algorithm": "HMAC-SHA256", "user_id": "26", "issued_at": issued_at });
        let read = |payload: &Value| understand(payload.to_string().as_bytes(), now);
        let ok = |seconds| Ok(("26".to_owned(), DateTime::from_timestamp(seconds, 999_000_000).unwrap()));
        assert_eq!(read(&at(1_800_000_000)), ok(1_800_000_000));
        // However old it is.
        assert_eq!(read(&at(1_700_000_000)), ok(1_700_000_000));
        assert_eq!(read(&at(1_800_000_299)), ok(1_800_000_299));
        assert_eq!(read(&at(1_800_000_300)), Err("timestamp_in_future"));
        let mut number = at(1_800_000_000);
        number["user_id"] = json!(26);
        assert_eq!(read(&number), ok(1_800_000_000));
        for (member, value, reason) in [
            ("algorithm", json!("none"), "algorithm_unknown"),
            ("algorithm", json!(null), "algorithm_unknown"),
            ("user_id", json!(""), "user_missing"),
            ("user_id", json!({}), "user_missing"),
            ("issued_at", json!("now"), "time_missing"),
            ("issued_at", json!(i64::MAX), "time_missing"),
        ] {
            let mut payload = at(1_800_000_000);
            payload[member] = value;
            assert_eq!(read(&payload), Err(reason), "{payload}");
        }
        assert_eq!(understand(b"{", now), Err("payload_malformed"));
    }
}
