//! Files that social messages come with: what is to be fetched, and what became of it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::{
    db::{DirectoryTx, ServiceTx},
    social::Attachment,
};

/// Has files of messages fetched, `[{"message_id", "kind", "key"}]`, and those of deleted messages deleted. The job, if it is to be woken. In the
/// transaction that writes the messages, and holds the inbox.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn admit(
    tx: &mut ServiceTx,
    account_id: Uuid,
    files: &Value,
    deleted: &[Uuid],
) -> Result<Option<Uuid>, StoreError> {
    let job = sqlx::query_scalar!("select app.admit_social_attachments($1, $2, $3)", account_id, files, deleted);
    Ok(job.fetch_one(tx.conn()?).await?)
}

/// Queues the work on files that are due and that no open job is about, of `most` organisations at most. How many.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn requeue(tx: &mut DirectoryTx, most: i32) -> Result<i32, StoreError> {
    let queued = sqlx::query_scalar!(r#"select app.requeue_social_attachments($1) as "queued!""#, most);
    Ok(queued.fetch_one(tx.conn()?).await?)
}

/// A file that is worked on.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Its id.
    pub id: Uuid,
    /// Its account.
    pub account_id: Uuid,
    /// Its message.
    pub message_id: Uuid,
    /// The platform's word for it.
    pub kind: String,
    /// As [`Attachment::file_key`] makes it.
    pub source_key: String,
    /// `waiting` or `deleting`.
    pub status: String,
    /// How often it was begun, this time included.
    pub attempts: i32,
    /// What went wrong last.
    pub code: Option<String>,
    /// Where it is or may be in its bucket.
    pub path: Option<String>,
}

/// Takes the file that is due longest, and counts the attempt.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn take(tx: &mut ServiceTx, org_id: Uuid) -> Result<Option<Taken>, StoreError> {
    let taken = sqlx::query_as!(
        Taken,
        "with due as (
            select a.id from public.social_attachments a
             where a.org_id = $1 and a.status in ('waiting', 'deleting') and a.next_at <= now()
             order by a.next_at limit 1 for update skip locked)
         update public.social_attachments a set attempts = a.attempts + 1 from due
          where a.org_id = $1 and a.id = due.id
         returning a.id, a.account_id, a.message_id, a.kind, a.source_key, a.status, a.attempts, a.code, a.path",
        org_id
    );
    Ok(taken.fetch_optional(tx.conn()?).await?)
}

/// Where a file comes from.
#[derive(Debug, Clone)]
pub struct Source {
    /// `instagram`, `facebook` or `tiktok`.
    pub platform: String,
    /// Which interface of the platform the account is connected by.
    pub api: String,
    /// The account's id there.
    pub account_platform_id: String,
    /// `active`, `needs_reconsent` or `disconnected`.
    pub account_status: String,
    /// The message's id there.
    pub message_platform_id: String,
    /// The message's place, as `social_messages.thread_id` has it.
    pub place: String,
    /// What the message has now.
    pub attachments: Vec<Attachment>,
}

/// Where a file comes from, unless its message is gone.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn source(tx: &mut ServiceTx, org_id: Uuid, taken: &Taken) -> Result<Option<Source>, StoreError> {
    let found = sqlx::query!(
        r#"select a.platform, a.api, a.platform_id as account_platform_id, a.status, m.platform_id, m.thread_id as "thread_id?", m.attachments
             from public.social_message_keys k
             join public.social_messages m on m.org_id = k.org_id and m.id = k.message_id and m.received_at = k.received_at
             join public.social_accounts a on a.org_id = k.org_id and a.id = k.account_id
            where k.org_id = $1 and k.message_id = $2 and m.deleted_at is null"#,
        org_id,
        taken.message_id
    );
    let Some(row) = found.fetch_optional(tx.conn()?).await? else { return Ok(None) };
    Ok(Some(Source {
        platform: row.platform,
        api: row.api,
        account_platform_id: row.account_platform_id,
        account_status: row.status,
        message_platform_id: row.platform_id,
        place: row.thread_id.unwrap_or_default(),
        attachments: serde_json::from_value(row.attachments)
            .map_err(|error| StoreError::Unreadable { what: "attachments", error })?,
    }))
}

/// Writes down where a file is about to be put. False if it is not wanted any more.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn place(tx: &mut ServiceTx, org_id: Uuid, id: Uuid, path: &str) -> Result<bool, StoreError> {
    let placed = sqlx::query!(
        "update public.social_attachments a set path = $3
          where a.org_id = $1 and a.id = $2 and a.status = 'waiting'
            and exists (select from public.social_accounts c where c.org_id = $1 and c.id = a.account_id and c.status <> 'disconnected')",
        org_id,
        id,
        path
    );
    Ok(placed.execute(tx.conn()?).await?.rows_affected() > 0)
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Became {
    /// It is at its path.
    Kept {
        /// What it is by its content.
        content_type: &'static str,
        /// How many bytes it has.
        bytes: i64,
    },
    /// It is not to be kept: a code.
    Refused(String),
    /// It is not at the platform any more: a code.
    Gone(String),
    /// It is given up: a code.
    Failed(String),
    /// It is tried again.
    Later {
        /// What went wrong.
        code: String,
        /// After how long.
        wait: Duration,
        /// Whether this was an attempt.
        counts: bool,
    },
    /// It is not there any more, since its message is not.
    Deleted,
    /// It is wanted no more, and is about to be deleted.
    Unwanted,
}

/// Writes down what became of a file, unless it is wanted no more: a message that was deleted meanwhile has its file deleted. Where a file was put
/// whose account was disconnected meanwhile, or that is given up, it is to be deleted.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn end(tx: &mut ServiceTx, org_id: Uuid, id: Uuid, became: &Became) -> Result<bool, StoreError> {
    let done = match became {
        Became::Kept { content_type, bytes } => sqlx::query!(
            "update public.social_attachments a
                set status = case when c.status = 'disconnected' then 'deleting' else 'kept' end,
                    code = case when c.status = 'disconnected' then 'account_disconnected' end, content_type = $3, bytes = $4, fetched_at = now(),
                    next_at = now()
               from public.social_accounts c
              where a.org_id = $1 and a.id = $2 and a.status = 'waiting' and c.org_id = $1 and c.id = a.account_id",
            org_id,
            id,
            content_type,
            bytes
        ),
        Became::Refused(code) | Became::Gone(code) | Became::Failed(code) => {
            let status = match became {
                Became::Refused(_) => "refused",
                Became::Gone(_) => "gone",
                _ => "failed",
            };
            sqlx::query!(
                "update public.social_attachments a
                    set status = case when a.path is null then $3 else 'deleting' end, code = $4, next_at = now()
                  where a.org_id = $1 and a.id = $2 and a.status = 'waiting'",
                org_id,
                id,
                status,
                code
            )
        }
        Became::Later { code, wait, counts } => sqlx::query!(
            "update public.social_attachments a
                set code = $3, next_at = now() + make_interval(secs => $4), attempts = a.attempts - case when $5 then 0 else 1 end
              where a.org_id = $1 and a.id = $2 and a.status in ('waiting', 'deleting') and a.attempts > 0",
            org_id,
            id,
            code,
            wait.as_secs_f64(),
            counts
        ),
        Became::Deleted => sqlx::query!(
            "update public.social_attachments a set status = 'deleted', path = null, content_type = null, bytes = null
              where a.org_id = $1 and a.id = $2 and a.status = 'deleting'",
            org_id,
            id
        ),
        Became::Unwanted => sqlx::query!(
            "update public.social_attachments a
                set status = case when a.path is null then 'deleted' else 'deleting' end, next_at = now()
              where a.org_id = $1 and a.id = $2 and a.status = 'waiting'",
            org_id,
            id
        ),
    };
    Ok(done.execute(tx.conn()?).await?.rows_affected() > 0)
}

/// When the next file is due, if one waits.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn next_at(tx: &mut ServiceTx, org_id: Uuid) -> Result<Option<DateTime<Utc>>, StoreError> {
    let next = sqlx::query_scalar!(
        "select min(a.next_at) from public.social_attachments a where a.org_id = $1 and a.status in ('waiting', 'deleting')",
        org_id
    );
    Ok(next.fetch_one(tx.conn()?).await?)
}
