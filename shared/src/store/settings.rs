//! Kill switches and feature flags, as an operator set them in `system_settings`.

use super::StoreError;
use crate::db::Tx;

/// Whether the switch `key` is on. One that is not set, or not a boolean, is off: a switch fails safe.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn enabled(tx: &mut Tx, key: &str) -> Result<bool, StoreError> {
    let value = sqlx::query_scalar!("select app.setting($1)", key).fetch_one(tx.conn()?).await?;
    Ok(value == Some(serde_json::Value::Bool(true)))
}
