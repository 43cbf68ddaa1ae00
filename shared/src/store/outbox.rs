//! What must reach MongoDB, a queue or a realtime channel after commit.

use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::db::{DirectoryTx, ServiceTx};

/// Something to deliver.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxItem {
    /// Its own id, which is also the document's: delivering it twice changes nothing.
    pub id: Uuid,
    /// Where to: a collection.
    pub destination: String,
    /// The document.
    pub payload: Value,
    /// How often delivery was tried.
    pub attempts: i32,
}

/// Adds a document for MongoDB; it is delivered after commit.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn insert_document(
    tx: &mut ServiceTx,
    org_id: Uuid,
    id: Uuid,
    collection: &str,
    document: &Value,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into public.outbox (id, org_id, kind, destination, payload) values ($1, $2, 'document', $3, $4)",
        id,
        org_id,
        collection,
        document
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Takes up to `most` due documents of the organisation for delivery; nobody else takes them for the next ten seconds,
/// twice what a delivery may take.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn claim_documents(tx: &mut ServiceTx, org_id: Uuid, most: i64) -> Result<Vec<OutboxItem>, StoreError> {
    Ok(sqlx::query_as!(
        OutboxItem,
        "update public.outbox o set attempts = o.attempts + 1, next_attempt_at = now() + interval '10 seconds'
           from (select id from public.outbox
                  where org_id = $1 and kind = 'document' and delivered_at is null and next_attempt_at <= now()
                  order by next_attempt_at limit $2 for update skip locked) due
          where o.id = due.id
      returning o.id, o.destination, o.payload, o.attempts",
        org_id,
        most
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// Marks items as delivered.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn update_delivered(tx: &mut ServiceTx, ids: &[Uuid]) -> Result<(), StoreError> {
    sqlx::query!("update public.outbox set delivered_at = now(), last_error = null where id = any ($1)", ids)
        .execute(tx.conn()?)
        .await?;
    Ok(())
}

/// Puts an item off, further each time, up to an hour.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn update_failed(tx: &mut ServiceTx, id: Uuid, error: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.outbox
            set last_error = $2, next_attempt_at = now() + least(interval '1 hour', interval '1 second' * power(2, least(attempts, 12)))
          where id = $1",
        id,
        error
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Gives items back that were claimed and not tried to the end: they are due as they were.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn release(tx: &mut ServiceTx, ids: &[Uuid], error: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.outbox set attempts = greatest(attempts - 1, 0), next_attempt_at = now(), last_error = $2
          where id = any ($1) and delivered_at is null",
        ids,
        error
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Organisations that have something due, the one whose has been due the longest first.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn due_orgs(tx: &mut DirectoryTx, most: i32) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(r#"select app.due_outbox_orgs($1) as "org!""#, most).fetch_all(tx.conn()?).await?)
}
