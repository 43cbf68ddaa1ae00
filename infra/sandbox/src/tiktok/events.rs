//! Webhooks: their shape, and how they are signed.

use serde_json::{Value, json};

use super::world::Platform;
use crate::{escaped, hooks::Written, storage::mac};

/// What happened.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) platform: Platform,
    pub(super) kind: String,
    pub(super) open_id: String,
    /// Unix milliseconds.
    pub(super) at: i64,
    pub(super) content: Value,
}

impl Event {
    pub(super) fn payload(&self, client_key: &str) -> Value {
        body(client_key, &self.kind, self.at / 1000, &self.open_id, &self.content)
    }

    /// The type that its callback is registered under.
    pub(super) fn registered(&self) -> Option<&'static str> {
        match (self.platform, self.kind.split('.').next()?) {
            (Platform::Business, "comment") => Some("COMMENT"),
            (Platform::Business, kind) if kind.starts_with("im_") => Some("DIRECT_MESSAGE"),
            _ => None,
        }
    }
}

/// The body of an event at this time in unix seconds. Its content is JSON within a string.
#[must_use]
pub fn body(client_key: &str, event: &str, create_time: i64, open_id: &str, content: &Value) -> Value {
    json!({
        "client_key": client_key, "event": event, "create_time": create_time, "user_openid": open_id,
        "content": content.to_string(),
    })
}

/// A body in bytes.
pub(super) fn written(body: &Value, written: Written) -> Vec<u8> {
    match written {
        Written::Escaped => escaped::text(body).into_bytes(),
        Written::Raw => body.to_string().into_bytes(),
    }
}

/// The value of `TikTok-Signature` for `body`, sent at `t` (unix seconds).
#[must_use]
pub fn sign(body: &[u8], secret: &str, t: i64) -> String {
    format!("t={t},s={}", signature(body, secret, t))
}

/// Its `s` alone.
#[must_use]
pub fn signature(body: &[u8], secret: &str, t: i64) -> String {
    hex::encode(mac(secret.as_bytes(), [format!("{t}.").as_bytes(), body].concat()))
}

/// What goes with a body that is posted at `t` (unix seconds).
#[must_use]
pub fn headers(platform: Platform, body: &[u8], secret: &str, t: i64) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("accept", "*/*".to_owned()),
        ("content-type", "application/json".to_owned()),
        ("tiktok-signature", sign(body, secret, t)),
    ];
    if platform == Platform::Business {
        headers.push(("webhook-schema-version", "1.0".to_owned()));
        headers.push(("x-tt-logid", super::refusal::log_id()));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_vector() {
        let body = r#"{"client_key":"bwo2m45353a6k85","event":"authorization.removed","create_time":1700000000,"user_openid":"act.example","content":"{\"reason\": 1}"}"#;
        let expected = "79053b3d4d5bdf3039c76d87dfe72e80fee286d3560118c061e5c2806cbc470a";
        assert_eq!(sign(body.as_bytes(), "tt_client_secret_test", 1_700_000_000), format!("t=1700000000,s={expected}"));
    }
}
