//! Readings of social accounts: how far each stream is, and which messages are known.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::db::ServiceTx;

/// What a reading of an account begins with.
#[derive(Debug, Clone)]
pub struct Begun {
    /// When it begins, by the database's clock.
    pub began_at: DateTime<Utc>,
    /// When a reading was last asked for.
    pub wanted_at: Option<DateTime<Utc>>,
    /// How far each stream was read, and when the reading began that got there.
    pub cursors: BTreeMap<String, (DateTime<Utc>, Value)>,
    /// What its interface can read, and what keeps it from that, if something does.
    pub streams: BTreeMap<String, Option<String>>,
}

/// Begins the reading of an account.
///
/// # Errors
/// [`StoreError::Database`]; [`StoreError::Unreadable`] for a cursor that is no JSON.
pub async fn begin(tx: &mut ServiceTx, org_id: Uuid, account_id: Uuid) -> Result<Begun, StoreError> {
    let times = sqlx::query!(
        r#"select wanted_at, clock_timestamp() as "began_at!" from public.social_accounts where org_id = $1 and id = $2"#,
        org_id,
        account_id
    )
    .fetch_one(tx.conn()?)
    .await?;
    let rows = sqlx::query!(
        "select stream, cursor, synced_at from public.social_cursors where org_id = $1 and account_id = $2",
        org_id,
        account_id
    )
    .fetch_all(tx.conn()?)
    .await?;
    let mut cursors = BTreeMap::new();
    for row in rows {
        let cursor = serde_json::from_str(row.cursor.as_deref().unwrap_or("null"))
            .map_err(|error| StoreError::Unreadable { what: "cursor", error })?;
        cursors.insert(row.stream, (row.synced_at, cursor));
    }
    let streams = sqlx::query!(
        r#"select capability as "capability!", availability as "availability!"
             from public.social_account_capabilities where org_id = $1 and account_id = $2 and read"#,
        org_id,
        account_id
    )
    .fetch_all(tx.conn()?)
    .await?;
    let barred =
        |availability: String| (!["available", "unknown"].contains(&availability.as_str())).then_some(availability);
    let streams = streams.into_iter().map(|row| (row.capability, barred(row.availability))).collect();
    Ok(Begun { began_at: times.began_at, wanted_at: times.wanted_at, cursors, streams })
}

/// Writes down how far a stream was read, by the reading that began at `began_at`.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn keep_cursor(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    stream: &str,
    cursor: &Value,
    began_at: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into public.social_cursors (org_id, account_id, stream, cursor, synced_at) values ($1, $2, $3, $4, $5)
         on conflict (org_id, account_id, stream) do update set cursor = excluded.cursor, synced_at = excluded.synced_at",
        org_id,
        account_id,
        stream,
        cursor.to_string(),
        began_at
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Messages of a thread that are known, written from `from` on and before `until`, and not deleted: their ids at the platform.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn known_messages(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    thread_id: &str,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar!(
        "select platform_id from public.social_messages
          where org_id = $1 and account_id = $2 and thread_id = $3 and received_at >= $4 and received_at < $5 and deleted_at is null",
        org_id,
        account_id,
        thread_id,
        from,
        until
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// Which of these ids are known.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn known_ids(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    ids: &[String],
) -> Result<BTreeSet<String>, StoreError> {
    let known = sqlx::query_scalar!(
        "select platform_id from public.social_message_keys where org_id = $1 and account_id = $2 and platform_id = any ($3)",
        org_id,
        account_id,
        ids
    );
    Ok(known.fetch_all(tx.conn()?).await?.into_iter().collect())
}
