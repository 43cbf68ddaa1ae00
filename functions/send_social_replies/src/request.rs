//! What clients ask for, and what it becomes. No I/O.

use serde::Deserialize;
use shared::{http::ApiError, store::social_replies::New};
use uuid::Uuid;

/// `POST /v1/social/replies`. The database checks the rest, as it does for those who call it directly.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewBody {
    thread_id: Uuid,
    kind: String,
    text: Option<String>,
    message_id: Option<Uuid>,
}

impl NewBody {
    pub(crate) fn parse(&self) -> Result<New<'_>, ApiError> {
        if self.text.as_deref().is_some_and(|text| text.contains('\0')) || self.kind.contains('\0') {
            return Err(ApiError::unprocessable("text_invalid", "A text holds a NUL, which cannot be stored."));
        }
        Ok(New {
            thread_id: self.thread_id,
            kind: &self.kind,
            content: self.text.as_deref(),
            message_id: self.message_id,
        })
    }
}

/// `GET /v1/social/replies`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    pub(crate) thread: Uuid,
}
