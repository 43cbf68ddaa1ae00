//! What clients send, and what it becomes. No I/O.

use serde::Deserialize;
use shared::http::ApiError;

/// The periods there are insights for.
pub(crate) const PERIODS: [&str; 3] = ["day", "week", "month"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewInsightBody {
    period: String,
}

/// One of [`PERIODS`].
///
/// # Errors
/// [`ApiError`] `period_unknown`, which names them.
pub(crate) fn period(body: &NewInsightBody) -> Result<&'static str, ApiError> {
    PERIODS.into_iter().find(|known| *known == body.period).ok_or_else(|| {
        ApiError::unprocessable("period_unknown", format!("period must be one of: {}.", PERIODS.join(", ")))
    })
}
