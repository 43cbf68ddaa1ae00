//! Answers worth keeping, each for the audience it was made for and never served to a wider one.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::db::ServiceTx;

/// How long an answer is as good as a new one.
const FRESH: TimeDelta = TimeDelta::days(7);
/// How long it is better than none.
const STALE: TimeDelta = TimeDelta::days(90);

/// An answer that was kept.
#[derive(Debug, Clone)]
pub struct Cached {
    /// The answer.
    pub response: Value,
    /// Whether it is as good as a new one.
    pub fresh: bool,
}

/// The answer to this very input that was made for this person or agent, unless it is too old for any use.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn find(
    tx: &mut ServiceTx,
    org_id: Uuid,
    actor_id: Uuid,
    key: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<Option<Cached>, StoreError> {
    Ok(sqlx::query_as!(
        Cached,
        r#"select response, fresh_until > $4 as "fresh!" from public.ai_cache
            where org_id = $1 and visibility = 'user' and audience_id = $2 and key = $3 and stale_until > $4"#,
        org_id,
        actor_id,
        key.as_slice(),
        now
    )
    .fetch_optional(tx.conn()?)
    .await?)
}

/// Keeps an answer for this person or agent, in place of an older one.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn put(
    tx: &mut ServiceTx,
    org_id: Uuid,
    actor_id: Uuid,
    key: &[u8; 32],
    response: &Value,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into public.ai_cache (org_id, visibility, audience_id, key, response, fresh_until, stale_until)
         values ($1, 'user', $2, $3, $4, $5, $6)
         on conflict (org_id, visibility, audience_id, key) do update
            set response = excluded.response, fresh_until = excluded.fresh_until, stale_until = excluded.stale_until",
        org_id,
        actor_id,
        key.as_slice(),
        response,
        now + FRESH,
        now + STALE
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}
