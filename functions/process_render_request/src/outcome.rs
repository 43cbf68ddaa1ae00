//! How a render can go wrong, what people are told of it, and whether trying again helps.

use std::time::Duration;

use serde_json::{Value, json};
use shared::{
    ai::{AiError, Usage},
    objects::ObjectError,
};

use crate::photo::{PhotoError, RenderError};

/// The agent that renders, as `agent_limits.agent` names it.
pub(crate) const AGENT: &str = "renderer";

/// How often a worker may begin one request.
pub(crate) const MAX_ATTEMPTS: i32 = 5;

/// The most tokens a brief may take to write.
pub(crate) const BRIEF_MAX_TOKENS: u32 = 1024;

/// What a request is expected to use, for its reservation: on the high side, since what is not used is given back.
pub(crate) struct Expected {
    pub(crate) brief: Usage,
    pub(crate) pictures: Usage,
}

pub(crate) fn expected_usage(model: &str, variants: i16) -> Expected {
    let variants = u64::from(variants.unsigned_abs());
    // Tokens of one picture as the provider documents them; what was really used is settled from its answer.
    let picture = if model.starts_with("gemini-3") { 2000 } else { 1290 };
    Expected {
        brief: Usage { input: 3000, output: u64::from(BRIEF_MAX_TOKENS), ..Usage::default() },
        pictures: Usage {
            input: 2500 * variants,
            output: 200 * variants,
            image_output: picture * variants,
            ..Usage::default()
        },
    }
}

/// A step that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Stable code, for people and programs.
    pub(crate) code: &'static str,
    /// What happened and what to do about it.
    pub(crate) detail: String,
    /// Whether another attempt may succeed.
    pub(crate) retryable: bool,
    /// When the provider said to come back.
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    pub(crate) fn permanent(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retryable: false, retry_after: None }
    }

    pub(crate) fn passing(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retryable: true, retry_after: None }
    }

    /// As people see it.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "code": self.code, "detail": self.detail })
    }

    /// How long to wait before attempt number `attempt + 1`: the provider's own hint, else doubling from two seconds to five
    /// minutes, with jitter so that what failed together does not come back together.
    pub(crate) fn delay(&self, attempt: i32, jitter: f64) -> Duration {
        let doubling = Duration::from_secs(2_u64.saturating_pow(attempt.clamp(1, 8).unsigned_abs()));
        self.retry_after.unwrap_or(doubling).min(Duration::from_secs(300)).mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

impl From<AiError> for Failure {
    fn from(error: AiError) -> Self {
        Self {
            code: error.code(),
            detail: error.to_string(),
            retryable: error.retryable(),
            retry_after: error.retry_after(),
        }
    }
}

impl From<PhotoError> for Failure {
    fn from(error: PhotoError) -> Self {
        Self::permanent(error.code(), error.to_string())
    }
}

impl From<RenderError> for Failure {
    fn from(error: RenderError) -> Self {
        Self::passing(error.code(), error.to_string())
    }
}

impl From<ObjectError> for Failure {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::NotFound => {
                Self::permanent("photo_not_found", "The photo is no longer in storage; upload it again.")
            }
            ObjectError::TooLarge { .. } => Self::permanent("photo_too_large", "The photo is larger than allowed."),
            other => {
                tracing::warn!(error = %other, "storage did not answer");
                Self::passing("storage_unavailable", "File storage did not answer.")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_five_minutes_and_follow_a_hint() {
        let failure = Failure::passing("x", "x");
        assert_eq!(failure.delay(1, 0.0), Duration::from_secs(2));
        assert_eq!(failure.delay(2, 0.0), Duration::from_secs(4));
        assert_eq!(failure.delay(30, 0.0), Duration::from_secs(256));
        let hinted = Failure { retry_after: Some(Duration::from_secs(34)), ..Failure::passing("x", "x") };
        assert_eq!(hinted.delay(1, 0.0), Duration::from_secs(34));
    }
}
