//! Errors, as the Graph API words them.

use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::sending::Refused;
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

    /// No such person, or none that ever wrote to this account.
    pub(super) fn unknown_person() -> Self {
        Self { subcode: Some(2_534_014), ..Self::new(100, "(#100) No matching user found") }
    }

    pub(super) fn window() -> Self {
        let message = "(#10) This message is sent outside of allowed window.";
        Self { subcode: Some(2_534_022), ..Self::new(10, message) }
    }

    /// A second private reply. The code is not on our provider page.
    pub(super) fn replied() -> Self {
        Self::new(10_900, "(#10900) Activity already replied to")
    }

    pub(super) fn refused(why: Refused) -> Self {
        let (code, subcode, message) = match why {
            Refused::Restricted => (10, Some(1_893_063), "(#10) This account is temporarily restricted from sending"),
            Refused::Unavailable => (551, None, "(#551) This person isn't available right now."),
            Refused::Policy => {
                (368, None, "(#368) The action attempted has been deemed abusive or is otherwise disallowed")
            }
            Refused::AccessDisabled => (200, Some(2_534_041), "(#200) The owner disabled access to messages"),
            Refused::Blocked => (100, Some(2_534_029), "(#100) The user has blocked this account"),
        };
        Self { subcode, ..Self::new(code, message) }
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

/// An error of the code's exchange, which has a shape of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FlatRefusal {
    status: u16,
    kind: &'static str,
    message: String,
}

impl FlatRefusal {
    pub(super) fn new(message: &str) -> Self {
        Self { status: 400, kind: "OAuthException", message: message.to_owned() }
    }

    /// Neither this nor the next is on our provider page.
    pub(super) fn transient() -> Self {
        Self { status: 500, ..Self::new("An unexpected error has occurred. Please retry your request later.") }
    }

    pub(super) fn rate() -> Self {
        let message = "You have exceeded the maximum number of requests per hour.";
        Self { status: 429, kind: "OAuthRateLimitException", message: message.to_owned() }
    }
}

impl IntoResponse for FlatRefusal {
    fn into_response(self) -> Response {
        let body = json!({ "error_type": self.kind, "code": self.status, "error_message": self.message });
        front::json(self.status, escaped::text(&body))
    }
}
