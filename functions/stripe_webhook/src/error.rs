//! Why something about billing could not be done.

use shared::{clients::stripe::StripeError, db::DbError, store::StoreError};

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Stripe was of no help.
    #[error(transparent)]
    Stripe(#[from] StripeError),
    /// A job could not be worked on, which is logged.
    #[error("a job could not be worked on")]
    Worker(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The time was over; what was done counts.
    #[error("the time was over before everything was compared")]
    Time,
}

impl From<DbError> for StepError {
    fn from(error: DbError) -> Self {
        Self::Store(error.into())
    }
}
