//! Errors, as the Graph API words them.

use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::{escaped, front};

/// An error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    status: u16,
    code: i64,
    subcode: Option<i64>,
    kind: &'static str,
    message: String,
}

impl Refusal {
    fn new(code: i64, message: impl Into<String>) -> Self {
        Self { status: 400, code, subcode: None, kind: "OAuthException", message: message.into() }
    }

    /// 190 without a subcode: what was sent is no token.
    pub(super) fn token() -> Self {
        Self::new(190, "Invalid OAuth access token - Cannot parse access token")
    }

    pub(super) fn expired(at: i64) -> Self {
        let message = format!("Error validating access token: Session has expired on {}.", super::stamp(at));
        Self { subcode: Some(463), ..Self::new(190, message) }
    }

    pub(super) fn revoked() -> Self {
        let message = "Error validating access token: The user has not authorized application.";
        Self { subcode: Some(458), ..Self::new(190, message) }
    }

    pub(super) fn parameter(message: impl std::fmt::Display) -> Self {
        Self::new(100, format!("(#100) {message}"))
    }

    pub(super) fn field(node: &str, field: &str) -> Self {
        Self::parameter(format!("Tried accessing nonexisting field ({field}) on node type ({node})"))
    }

    /// It is not there, or not for this token: the two look the same.
    pub(super) fn missing(id: &str) -> Self {
        let message = format!(
            "Unsupported get request. Object with ID '{id}' does not exist, cannot be loaded due to missing permissions, or does not \
             support this operation"
        );
        Self { subcode: Some(33), kind: "GraphMethodException", ..Self::new(100, message) }
    }

    /// The code is not on our provider page.
    pub(super) fn path(path: &str) -> Self {
        Self::new(2500, format!("Unknown path components: {path}"))
    }

    pub(super) fn permission() -> Self {
        Self::new(10, "(#10) Application does not have permission for this action")
    }

    pub(super) fn few_viewers() -> Self {
        Self::new(10, "(#10) Not enough viewers for the media to show insights")
    }

    /// The person has not written. Its code within 200 to 299 is not on our provider page.
    pub(super) fn consent() -> Self {
        Self::new(230, "(#230) User consent is required to access user profile")
    }

    pub(super) fn app_limit() -> Self {
        Self::new(4, "(#4) Application request limit reached")
    }

    pub(super) fn account_limit() -> Self {
        let message = "(#80002) There have been too many calls to this Instagram account. Wait a bit and try again.";
        Self::new(80_002, message)
    }

    pub(super) fn custom_limit() -> Self {
        Self::new(613, "(#613) Calls to this api have exceeded the rate limit.")
    }

    /// Codes 1 and 2.
    pub(super) fn transient(code: i64) -> Self {
        let message = "An unexpected error has occurred. Please retry your request later.";
        Self { status: 500, ..Self::new(code, message) }
    }

    pub(super) fn body(&self) -> Value {
        let mut error = json!({
            "message": self.message, "type": self.kind, "code": self.code,
            "fbtrace_id": format!("A{:020x}", rand::random::<u64>()),
        });
        if let Some(subcode) = self.subcode {
            error["error_subcode"] = json!(subcode);
        }
        if self.status == 500 {
            error["is_transient"] = json!(true);
        }
        json!({ "error": error })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        front::json(self.status, escaped::text(&self.body()))
    }
}
