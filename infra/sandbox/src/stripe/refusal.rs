//! How Stripe says no.

use std::fmt;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// Why something was not done, as the API words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// `error.type`.
    pub kind: &'static str,
    /// `error.code`.
    pub code: Option<&'static str>,
    /// The parameter at fault.
    pub param: Option<String>,
    /// `error.message`.
    pub message: String,
}

impl Refusal {
    pub(super) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self {
            status: 400,
            kind: "invalid_request_error",
            code: None,
            param: (!param.is_empty()).then(|| param.to_owned()),
            message: message.into(),
        }
    }

    /// Not in the state that this asks for.
    pub(super) fn state(message: impl Into<String>) -> Self {
        Self::invalid("", message)
    }

    pub(super) fn missing(kind: &str, id: &str) -> Self {
        let message = format!("No such {kind}: '{id}'");
        Self { status: 404, code: Some("resource_missing"), ..Self::invalid("id", message) }
    }

    /// A missing object that a parameter names, rather than the path.
    pub(super) fn named_by(self, param: &str) -> Self {
        Self { status: 400, param: Some(param.to_owned()), ..self }
    }

    pub(super) fn required(param: &str) -> Self {
        Self { code: Some("parameter_missing"), ..Self::invalid(param, format!("Missing required param: {param}.")) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    pub(super) fn http_status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The error envelope.
    pub(super) fn body(&self) -> Value {
        let mut error = json!({ "type": self.kind, "message": self.message });
        if let Some(code) = self.code {
            error["code"] = json!(code);
            error["doc_url"] = json!(format!("https://stripe.com/docs/error-codes/{}", code.replace('_', "-")));
        }
        if let Some(param) = &self.param {
            error["param"] = json!(param);
        }
        json!({ "error": error })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.http_status(), Json(self.body())).into_response()
    }
}
