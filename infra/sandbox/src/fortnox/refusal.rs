//! How Fortnox says no: four shapes of body, and messages in Swedish.
//!
//! Codes and messages are those of the page "Errors" of the developer guides and of what integrators publish (2000401, 2000946,
//! 2000947). What is refused in the field without a documented code carries [`UNDOCUMENTED`], so that nobody comes to rely on it.

use std::fmt;

use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::json;

/// The code of refusals for which no code is documented. Fortnox has no such code.
pub const UNDOCUMENTED: i64 = 2_999_999;

/// Which of its bodies Fortnox writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// `ErrorInformation` with `Error`, `Message` and `Code`.
    Capital,
    /// `ErrorInformation` with `error`, `message` and `code`.
    Lower,
    /// The gateway's: `message` and nothing else.
    Gateway,
}

/// Why the API did not do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    shape: Shape,
    code: i64,
    message: String,
}

impl Refusal {
    fn new(status: u16, shape: Shape, code: i64, message: impl Into<String>) -> Self {
        Self { status, shape, code, message: message.into() }
    }

    /// Validation.
    pub(super) fn invalid(code: i64, message: impl Into<String>) -> Self {
        Self::new(400, Shape::Lower, code, message)
    }

    /// Validation for which no code is known.
    pub(super) fn uncoded(message: impl Into<String>) -> Self {
        Self::invalid(UNDOCUMENTED, message)
    }

    pub(super) fn required(field: &str) -> Self {
        Self::uncoded(format!("Fältet {field} måste anges."))
    }

    pub(super) fn too_long(field: &str, most: usize) -> Self {
        Self::uncoded(format!("Värdet i fältet {field} är för långt, högst {most} tecken."))
    }

    pub(super) fn not_numeric(value: &Value) -> Self {
        Self::invalid(2_000_108, format!("Värdet måste vara numeriskt ({})", plain(value)))
    }

    pub(super) fn not_boolean(value: &Value) -> Self {
        Self::invalid(2_000_134, format!("Värdet måste vara en boolean ({})", plain(value)))
    }

    pub(super) fn not_alphanumeric(value: &str) -> Self {
        Self::invalid(2_000_106, format!("Värdet måste vara alfanumeriskt ({value})"))
    }

    pub(super) fn characters(value: &str) -> Self {
        Self::invalid(2_000_359, format!("Värdet innehåller ej tillåtna tecken. ({value})"))
    }

    pub(super) fn field() -> Self {
        Self::invalid(2_001_399, "Felaktigt fältnamn")
    }

    pub(super) fn body() -> Self {
        Self::invalid(2_001_392, "Ingen eller felaktig typ av data.")
    }

    pub(super) fn syntax() -> Self {
        Self::invalid(2_002_115, "Error deserializing JSON: JSON_ERROR_SYNTAX")
    }

    pub(super) fn parameter() -> Self {
        Self::invalid(2_000_588, "Ogiltig parameter i anropet.")
    }

    pub(super) fn filter() -> Self {
        Self::invalid(2_000_587, "Ett ogiltigt filter har använts.")
    }

    pub(super) fn account(number: impl fmt::Display) -> Self {
        Self::invalid(2_001_304, format!("Kunde inte hitta konto ({number})"))
    }

    /// It is not there.
    pub(super) fn missing(code: i64, message: &str) -> Self {
        Self::new(404, Shape::Capital, code, message)
    }

    /// No such path.
    pub(super) fn path() -> Self {
        Self::missing(2_000_729, "A valid identifier was not provided.")
    }

    /// No such method on this path. Which status and body Fortnox has for that is not documented.
    pub(super) fn method() -> Self {
        Self::new(405, Shape::Lower, UNDOCUMENTED, "Metoden är inte tillåten.")
    }

    pub(super) fn scope() -> Self {
        Self::new(403, Shape::Lower, 2_000_663, "Har inte behörighet för scope.")
    }

    pub(super) fn licence() -> Self {
        Self::new(403, Shape::Lower, 2_001_101, "Det finns ingen aktiv licens för önskat scope.")
    }

    pub(super) fn api_licence() -> Self {
        Self::new(403, Shape::Lower, 2_001_103, "Api-licens saknas.")
    }

    pub(super) fn token() -> Self {
        Self::new(401, Shape::Gateway, 0, "unauthorized")
    }

    /// One call too many. The body is not documented.
    pub(super) fn too_many() -> Self {
        Self::new(429, Shape::Gateway, 0, "Too many requests")
    }

    pub(super) fn system() -> Self {
        Self::new(500, Shape::Lower, 1_000_003, "System exception")
    }

    pub(super) fn body_value(&self) -> Value {
        match self.shape {
            Shape::Capital => {
                json!({ "ErrorInformation": { "Error": 1, "Message": self.message, "Code": self.code } })
            }
            Shape::Lower => json!({ "ErrorInformation": { "error": 1, "message": self.message, "code": self.code } }),
            Shape::Gateway => json!({ "message": self.message }),
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        json::answer(self.status, "application/json", json::text(&self.body_value()))
    }
}
