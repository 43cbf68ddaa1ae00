//! How a render can go wrong, what people are told of it, and whether trying again helps.

use std::time::Duration;

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    ai::{AiError, Metered, Usage},
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

/// Whether trying again helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// It does not: the same would happen.
    Never,
    /// It may, once and at once: what came back was unusable.
    Once,
    /// It will, later.
    Later,
    /// Not before a quota is renewed, which is hours away: something else has to serve meanwhile.
    Quota,
}

/// A step that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Stable code, for people and programs.
    pub(crate) code: &'static str,
    /// What happened and what to do about it.
    pub(crate) detail: String,
    /// Whether another attempt may succeed.
    pub(crate) retry: Retry,
    /// When the provider said to come back.
    pub(crate) retry_after: Option<Duration>,
    /// What was paid for it.
    pub(crate) metered: Option<Box<Metered>>,
}

/// The longest a provider's hint is followed; a longer one is a quota by another name.
const LONGEST_HINT: Duration = Duration::from_secs(3600);

impl Failure {
    pub(crate) fn permanent(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry: Retry::Never, retry_after: None, metered: None }
    }

    pub(crate) fn passing(code: &'static str, detail: impl Into<String>) -> Self {
        Self { retry: Retry::Later, ..Self::permanent(code, detail) }
    }

    /// As people see it.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "code": self.code, "detail": self.detail })
    }

    /// How long to wait before the call is made once more in the same attempt: the provider's hint, else doubling from half a
    /// second, with jitter so that what failed together does not come back together.
    pub(crate) fn pause(&self, tries: u32, jitter: f64) -> Duration {
        let doubling = Duration::from_millis(250 << tries.min(5));
        jittered(self.retry_after.unwrap_or(doubling), jitter)
    }

    /// How long to wait before attempt number `attempt + 1`: the provider's hint, else doubling from two seconds to five minutes.
    pub(crate) fn delay(&self, attempt: i32, jitter: f64) -> Duration {
        let doubling = Duration::from_secs(2_u64.saturating_pow(attempt.clamp(1, 8).unsigned_abs()));
        jittered(self.retry_after.unwrap_or(doubling), jitter)
    }
}

/// Up to half as long again: never sooner than the hint says.
fn jittered(wait: Duration, jitter: f64) -> Duration {
    wait.min(LONGEST_HINT).mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 2.0)
}

/// When a provider's quota is renewed. Gemini's days end at midnight in California, which is 8:00 UTC in winter and an hour
/// earlier in summer; a spending limit is raised by a person, so it is asked again within the hour.
pub(crate) fn quota_renewed_at(code: &str, now: DateTime<Utc>) -> DateTime<Utc> {
    if code != "provider_quota_spent" {
        return now + TimeDelta::hours(1);
    }
    let today = now.date_naive().and_time(NaiveTime::MIN).and_utc() + TimeDelta::hours(8);
    if today > now { today } else { today + TimeDelta::days(1) }
}

impl From<AiError> for Failure {
    fn from(error: AiError) -> Self {
        // No wildcard arm: a new error must choose here.
        let retry = match &error {
            AiError::Truncated { .. } | AiError::Malformed { .. } | AiError::NoImage { .. } => Retry::Once,
            AiError::RateLimited { .. }
            | AiError::Overloaded { .. }
            | AiError::Timeout
            | AiError::Unreachable
            | AiError::Unanswered { .. }
            | AiError::NoKey => Retry::Later,
            AiError::QuotaSpent | AiError::SpendCap => Retry::Quota,
            AiError::Blocked { .. }
            | AiError::Refused { .. }
            | AiError::BadKey
            | AiError::UnknownModel
            | AiError::InvalidRequest => Retry::Never,
        };
        Self {
            code: error.code(),
            detail: error.to_string(),
            retry,
            retry_after: error.retry_after(),
            metered: error.metered().map(Box::new),
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
        Self { retry: Retry::Once, ..Self::permanent(error.code(), error.to_string()) }
    }
}

impl Failure {
    /// Of reading the photo.
    pub(crate) fn from_photo(error: ObjectError) -> Self {
        match error {
            ObjectError::NotFound => {
                Self::permanent("photo_not_found", "The photo is no longer in storage; upload it again.")
            }
            ObjectError::TooLarge { .. } => Self::permanent("photo_too_large", "The photo is larger than allowed."),
            other => Self::from_storage(other),
        }
    }

    /// Of anything else that storage was asked for.
    pub(crate) fn from_storage(error: ObjectError) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        tracing::warn!(%error, cause, "storage did not do what was asked");
        Self::passing("storage_unavailable", "File storage did not answer.")
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
        assert_eq!(failure.pause(1, 0.0), Duration::from_millis(500));
        let hinted = Failure { retry_after: Some(Duration::from_secs(600)), ..Failure::passing("x", "x") };
        assert_eq!(hinted.delay(1, 0.0), Duration::from_secs(600));
        assert_eq!(hinted.pause(1, 1.0), Duration::from_secs(900));
    }

    #[test]
    fn a_daily_quota_is_renewed_in_the_morning_and_a_cap_asked_again_within_the_hour() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let renewed = |now| quota_renewed_at("provider_quota_spent", at(now));
        assert_eq!(renewed("2026-11-21T07:59:59Z"), at("2026-11-21T08:00:00Z"));
        assert_eq!(renewed("2026-11-21T08:00:00Z"), at("2026-11-22T08:00:00Z"));
        assert_eq!(quota_renewed_at("provider_spend_cap", at("2026-11-21T08:00:00Z")), at("2026-11-21T09:00:00Z"));
    }
}
