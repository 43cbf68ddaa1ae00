//! What Meta and TikTok delivered: stored by entry and organisation, and what became of each.

use uuid::Uuid;

use super::StoreError;
use crate::db::{DirectoryTx, ServiceTx};

/// One entry of a delivered body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The platform's id of the account that it is for.
    pub account: String,
    /// What it is, as in `messages`.
    pub event_type: String,
    /// Its bytes, as they stood in the body.
    pub raw: &'a [u8],
}

/// What became of the entries of a body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// Jobs whose worker is to be woken: organisation and job.
    pub due: Vec<(Uuid, Uuid)>,
    /// How many rows are new. An entry is one for each organisation that has connected its account.
    pub stored: i64,
    /// How many entries are for accounts that no organisation has connected. Nothing is kept of them.
    pub unowned: i64,
}

/// Stores entries of a body that `provider` (`meta` or `tiktok`) delivered, for each organisation its own, and queues the work on them.
/// `digest` is the SHA-256 of the whole body. What was stored before is not stored again.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn take_events(
    tx: &mut DirectoryTx,
    provider: &str,
    digest: &[u8],
    mut entries: Vec<Entry<'_>>,
) -> Result<Taken, StoreError> {
    // Another delivery of the same entries writes them in the same order.
    entries.sort_by(|a, b| a.raw.cmp(b.raw));
    let accounts: Vec<&str> = entries.iter().map(|entry| entry.account.as_str()).collect();
    let types: Vec<&str> = entries.iter().map(|entry| entry.event_type.as_str()).collect();
    let raws: Vec<&[u8]> = entries.iter().map(|entry| entry.raw).collect();
    let row = sqlx::query!(
        "select stored, unowned, due_orgs, due_jobs from app.take_social_events($1, $2, $3, $4, $5)",
        provider,
        digest,
        &accounts as &[&str],
        &types as &[&str],
        &raws as &[&[u8]]
    )
    .fetch_one(tx.conn()?)
    .await?;
    Ok(Taken {
        due: row.due_orgs.into_iter().flatten().zip(row.due_jobs.into_iter().flatten()).collect(),
        stored: row.stored.unwrap_or_default(),
        unowned: row.unowned.unwrap_or_default(),
    })
}

/// Waits until deliveries that are being stored for the organisation have been, and has others wait until the transaction ends.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn lock_deliveries(tx: &mut ServiceTx) -> Result<(), StoreError> {
    sqlx::query!("select app.lock_social_events()").execute(tx.conn()?).await?;
    Ok(())
}

/// A delivered entry that nothing was done about yet.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its id.
    pub id: Uuid,
    /// `meta` or `tiktok`.
    pub provider: String,
    /// The platform's id of the account that it is for.
    pub account: String,
    /// Its bytes.
    pub raw: Vec<u8>,
}

/// Entries of an organisation that nothing was done about yet, locked, in the order they came; `most` at most. With `only`, that entry alone.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn lock_events(
    tx: &mut ServiceTx,
    org_id: Uuid,
    only: Option<Uuid>,
    most: i64,
) -> Result<Vec<Event>, StoreError> {
    let events = sqlx::query_as!(
        Event,
        r#"select id, provider, object_id as "account!", raw from public.webhook_events
            where org_id = $1 and provider in ('meta', 'tiktok') and status = 'received'
              and ($2::uuid is null or id = $2)
            order by received_at, id limit $3 for update"#,
        org_id,
        only,
        most
    );
    Ok(events.fetch_all(tx.conn()?).await?)
}

/// What became of an entry.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The entry.
    pub id: Uuid,
    /// `applied`, `ignored`, `unparsed` or `failed`.
    pub status: &'static str,
    /// Why, as a code.
    pub error: Option<String>,
}

/// Writes down what became of entries.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn end_events(tx: &mut ServiceTx, org_id: Uuid, outcomes: &[Outcome]) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = outcomes.iter().map(|outcome| outcome.id).collect();
    let statuses: Vec<&str> = outcomes.iter().map(|outcome| outcome.status).collect();
    let errors: Vec<Option<&str>> = outcomes.iter().map(|outcome| outcome.error.as_deref()).collect();
    sqlx::query!(
        "update public.webhook_events e set status = x.status, error = x.error
           from unnest($2::uuid[], $3::text[], $4::text[]) x (id, status, error)
          where e.org_id = $1 and e.id = x.id",
        org_id,
        &ids,
        &statuses as &[&str],
        &errors as &[Option<&str>]
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Whether entries of an organisation wait.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn has_events(tx: &mut ServiceTx, org_id: Uuid) -> Result<bool, StoreError> {
    let waits = sqlx::query_scalar!(
        r#"select exists (select from public.webhook_events
                           where org_id = $1 and provider in ('meta', 'tiktok') and status = 'received') as "waits!""#,
        org_id
    );
    Ok(waits.fetch_one(tx.conn()?).await?)
}

/// Says that the platform delivered something for an account; to the minute.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn note_event(tx: &mut ServiceTx, org_id: Uuid, account_id: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.social_accounts set event_at = now()
          where org_id = $1 and id = $2 and (event_at is null or event_at < now() - interval '1 minute')",
        org_id,
        account_id
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}
