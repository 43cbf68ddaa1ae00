//! Errors: platform A has words and statuses, platform B has numbers, and 200 for all of them.

use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::world::Platform;
use crate::front;

/// An error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    platform: Platform,
    status: u16,
    /// What platform A calls it.
    word: &'static str,
    /// What platform B calls it. Our provider page has only 40105 of these.
    number: i64,
    message: String,
}

impl Refusal {
    fn new(platform: Platform, (status, word, number): (u16, &'static str, i64), message: &str) -> Self {
        Self { platform, status, word, number, message: message.to_owned() }
    }

    pub(super) fn token(platform: Platform) -> Self {
        let message = "The access token is invalid or not found in the request.";
        Self::new(platform, (401, "access_token_invalid", 40_105), message)
    }

    pub(super) fn scope(platform: Platform) -> Self {
        let message = "The user did not authorize the scope required for completing this request.";
        Self::new(platform, (401, "scope_not_authorized", 40_001), message)
    }

    pub(super) fn invalid(platform: Platform, message: &str) -> Self {
        Self::new(platform, (400, "invalid_params", 40_002), message)
    }

    /// A wrong client id or secret. Neither this number nor those of the next three are on our provider page.
    pub(super) fn client() -> Self {
        Self::new(Platform::Business, (401, "invalid_client", 40_001), "The client id or secret is incorrect.")
    }

    pub(super) fn code() -> Self {
        Self::new(Platform::Business, (400, "invalid_grant", 40_110), "The auth_code is invalid, used or expired.")
    }

    pub(super) fn refresh() -> Self {
        Self::new(Platform::Business, (400, "invalid_grant", 40_107), "The refresh token is invalid, used or expired.")
    }

    /// A conversation that takes no message of the account.
    pub(super) fn closed() -> Self {
        let message = "The conversation is not open for messages of the business.";
        Self::new(Platform::Business, (403, "conversation_closed", 40_301), message)
    }

    pub(super) fn rate(platform: Platform) -> Self {
        let message = "The API rate limit was exceeded. Please try again later.";
        Self::new(platform, (429, "rate_limit_exceeded", 40_100), message)
    }

    pub(super) fn internal(platform: Platform) -> Self {
        Self::new(platform, (500, "internal_error", 50_000), "Something is wrong. Please try again later.")
    }

    pub(super) fn status(&self) -> u16 {
        match self.platform {
            Platform::Display => self.status,
            Platform::Business => 200,
        }
    }

    pub(super) fn body(&self) -> Value {
        match self.platform {
            Platform::Display => json!({
                "data": {}, "error": { "code": self.word, "message": self.message, "log_id": log_id() },
            }),
            Platform::Business => {
                json!({ "code": self.number, "message": self.message, "request_id": log_id(), "data": {} })
            }
        }
    }
}

/// What went well.
pub(super) fn success(platform: Platform, data: &Value) -> Value {
    match platform {
        Platform::Display => json!({ "data": data, "error": { "code": "ok", "message": "", "log_id": log_id() } }),
        Platform::Business => json!({ "code": 0, "message": "OK", "request_id": log_id(), "data": data }),
    }
}

pub(super) fn log_id() -> String {
    format!("20261104{:024X}", rand::random::<u64>())
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        front::json(self.status(), self.body().to_string())
    }
}
