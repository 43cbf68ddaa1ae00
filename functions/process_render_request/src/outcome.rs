//! How a render can go wrong, what people are told of it, and whether trying again helps.

use std::time::Duration;

use shared::{
    ai::{AiError, Metered, Usage},
    db::DbError,
    http::ApiError,
    objects::ObjectError,
    store::{StoreError, models::Model},
    worker::{self, Stop, jittered},
};

use crate::photo::{PhotoError, RenderError};

/// The most tokens a brief may take to write.
pub(crate) const BRIEF_MAX_TOKENS: u32 = 1024;
/// What a picture takes of a model that says nothing of it: as much as a large one.
const UNKNOWN_PICTURE: u64 = 2520;

/// What writing a brief is expected to use, for its reservation: on the high side, since what is not used is given back.
pub(crate) fn expected_brief(_model: &Model) -> Usage {
    Usage { input: 3000, output: u64::from(BRIEF_MAX_TOKENS), ..Usage::default() }
}

/// What so many pictures of `model` are expected to use; what was really used is settled from its answers.
pub(crate) fn expected_pictures(model: &Model, variants: i16) -> Usage {
    let variants = u64::from(variants.unsigned_abs());
    let picture = model.picture_tokens.map_or(UNKNOWN_PICTURE, |tokens| u64::from(tokens.unsigned_abs()));
    // Thoughts are billed as text.
    let text = if model.thinks { 1000 } else { 200 };
    Usage { input: 2500 * variants, output: text * variants, image_output: picture * variants, ..Usage::default() }
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

impl Failure {
    pub(crate) fn permanent(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry: Retry::Never, retry_after: None, metered: None }
    }

    pub(crate) fn passing(code: &'static str, detail: impl Into<String>) -> Self {
        Self { retry: Retry::Later, ..Self::permanent(code, detail) }
    }

    /// Whether the provider knows no such model, so that another one may do.
    pub(crate) fn is_unknown_model(&self) -> bool {
        self.code == AiError::UnknownModel.code()
    }

    /// How long to wait before the call is made once more in the same attempt: the provider's hint, else doubling from half a
    /// second, with jitter so that what failed together does not come back together.
    pub(crate) fn pause(&self, tries: u32, jitter: f64) -> Duration {
        let doubling = Duration::from_millis(250 << tries.min(5));
        jittered(self.retry_after.unwrap_or(doubling), jitter)
    }
}

/// Why a step did not come to its end.
#[derive(Debug)]
pub(crate) enum Halt {
    /// It failed. Something else may serve; if nothing does, the job fails or is tried again.
    Failed(Failure),
    /// The job cannot go on in this worker.
    Stop(Stop),
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        Self::Stop(error.into())
    }
}

impl From<DbError> for Halt {
    fn from(error: DbError) -> Self {
        Self::Stop(error.into())
    }
}

impl From<Halt> for Stop {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Stop(stop) => stop,
            Halt::Failed(Failure { code, detail, retry, retry_after, .. }) => {
                let failure = worker::Failure { code, detail, retry_after };
                // An answer that is unusable twice will be so a third time.
                if retry == Retry::Later { Self::Retry(failure) } else { Self::Failed(failure) }
            }
        }
    }
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

/// What a request is answered when storage does not do what it was asked.
pub(crate) fn storage_unavailable(error: ObjectError) -> ApiError {
    ApiError::unavailable("storage_unavailable", "File storage does not answer; try again shortly.", 5).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_made_again_after_a_doubling_pause_or_when_the_provider_says() {
        let failure = Failure::passing("x", "x");
        assert_eq!(failure.pause(1, 0.0), Duration::from_millis(500));
        assert_eq!(failure.pause(2, 0.0), Duration::from_secs(1));
        let hinted = Failure { retry_after: Some(Duration::from_secs(600)), ..Failure::passing("x", "x") };
        assert_eq!(hinted.pause(1, 1.0), Duration::from_secs(900));
    }
}
