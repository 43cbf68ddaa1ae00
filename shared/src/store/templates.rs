//! Templates of prompts: the instructions that a model gets before its input.

use uuid::Uuid;

use super::StoreError;
use crate::db::ServiceTx;

/// A model's instructions: the organisation's own template, else the default. (body, version)
///
/// # Errors
/// [`StoreError::NotFound`] if there is neither.
pub async fn get(tx: &mut ServiceTx, org_id: Uuid, purpose: &str, locale: &str) -> Result<(String, i32), StoreError> {
    sqlx::query!(
        "select body, version from public.prompt_templates
          where purpose = $2 and locale = $3 and (org_id = $1 or org_id is null)
          order by org_id nulls last, version desc limit 1",
        org_id,
        purpose,
        locale
    )
    .fetch_optional(tx.conn()?)
    .await?
    .map(|row| (row.body, row.version))
    .ok_or(StoreError::NotFound { entity: "prompt_template" })
}
