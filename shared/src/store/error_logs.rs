//! Failures worth a person's attention, for those who may read them: codes and ids, nothing personal.

use uuid::Uuid;

use super::StoreError;
use crate::{db::Tx, telemetry};

/// Writes down that something failed. `org_id` is the organisation that the transaction works in; `None` where it works in none, and then
/// an operator alone reads it.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn insert(tx: &mut Tx, org_id: Option<Uuid>, message: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into public.error_logs (org_id, service, error_message) values ($1, $2, $3)",
        org_id,
        telemetry::function(),
        message
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}
