//! What models cost.

use chrono::{DateTime, Utc};

use super::StoreError;
use crate::db::Tx;

/// A price in force: micro-USD per million units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPrice {
    /// `input`, `output`, `cache_read`, `cache_write_5m`, `cache_write_1h` or `image_output`.
    pub unit: String,
    /// Prompt tokens above which this price holds for the whole request; 0 is the base price.
    pub tier: i64,
    /// Micro-USD per million units.
    pub micro_usd_per_million: i64,
}

/// The prices of one model at `now`, the newest of each unit and tier. Empty if the model has none.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn list(tx: &mut Tx, provider: &str, model: &str, now: DateTime<Utc>) -> Result<Vec<ModelPrice>, StoreError> {
    Ok(sqlx::query_as!(
        ModelPrice,
        "select distinct on (unit, tier) unit, tier, micro_usd_per_million from public.model_prices
          where provider = $1 and model = $2 and effective_from <= $3
          order by unit, tier, effective_from desc",
        provider,
        model,
        now
    )
    .fetch_all(tx.conn()?)
    .await?)
}
