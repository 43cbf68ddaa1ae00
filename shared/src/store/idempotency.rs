//! Requests that were made before: the key is written in the same transaction as what it made.

use uuid::Uuid;

use super::{StoreError, access::Member};
use crate::db::{CallerTx, DirectoryTx};

/// A request that carries an `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedRequest {
    /// The client's key, 1 to 255 characters.
    pub key: String,
    /// What was asked for, as in `POST /v1/render-requests`.
    pub operation: &'static str,
    /// SHA-256 of the body, to tell a replay from another request under the same key.
    pub hash: [u8; 32],
}

/// What `request` has made before.
///
/// # Errors
/// [`StoreError::KeyReused`] if the key came with another request.
pub async fn find(tx: &mut CallerTx, member: Member, request: &KeyedRequest) -> Result<Option<Uuid>, StoreError> {
    let earlier = sqlx::query!(
        "select operation, request_hash, resource_id from public.idempotency_keys
          where org_id = $1 and actor_id = $2 and key = $3",
        member.org_id,
        member.actor_id,
        request.key
    )
    .fetch_optional(tx.conn()?)
    .await?;
    match earlier {
        Some(earlier) if earlier.operation != request.operation || earlier.request_hash != request.hash => {
            Err(StoreError::KeyReused)
        }
        earlier => Ok(earlier.map(|earlier| earlier.resource_id)),
    }
}

/// Remembers that `request` makes `resource_id`, or returns what it made before.
///
/// A second request with the same key waits for the first to commit or roll back.
///
/// # Errors
/// [`StoreError::KeyReused`] if the key came with another request.
pub async fn remember(
    tx: &mut CallerTx,
    member: Member,
    request: &KeyedRequest,
    resource_id: Uuid,
) -> Result<Option<Uuid>, StoreError> {
    let inserted = sqlx::query!(
        "insert into public.idempotency_keys (org_id, actor_id, key, operation, request_hash, resource_id)
         values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
        member.org_id,
        member.actor_id,
        request.key,
        request.operation,
        request.hash.as_slice(),
        resource_id
    )
    .execute(tx.conn()?)
    .await?;
    if inserted.rows_affected() == 1 { Ok(None) } else { find(tx, member, request).await }
}

/// Forgets keys older than a day. How many.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn forget(tx: &mut DirectoryTx) -> Result<usize, StoreError> {
    let gone = sqlx::query_scalar!("select app.forget_idempotency_keys()").fetch_one(tx.conn()?).await?;
    Ok(gone.and_then(|count| usize::try_from(count).ok()).unwrap_or_default())
}
