//! Posts of social accounts, and the comments that are known of them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::StoreError;
use crate::{db::ServiceTx, social::plain};

/// The most characters of a link that is kept.
const MAX_LINK: usize = 2000;

/// A post, as the platform shows it.
#[derive(Debug, Clone)]
pub struct Media {
    /// Its id at the platform.
    pub platform_id: String,
    /// What it is, as in `feed`, `reels`, `story` or `video`.
    pub kind: String,
    /// Its caption.
    pub caption: Option<String>,
    /// Where people find it.
    pub permalink: Option<String>,
    /// When it was published.
    pub published_at: DateTime<Utc>,
    /// How many like it.
    pub like_count: Option<i64>,
    /// How many comments it has.
    pub comments_count: Option<i64>,
}

/// Writes down posts as the platform shows them. One that had been missing is there again. How many are new.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn keep_media(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    media: &[Media],
) -> Result<usize, StoreError> {
    let before = known_media(tx, org_id, account_id, media).await?;
    let rows: BTreeMap<&str, Value> = media
        .iter()
        .map(|media| {
            let row = json!({
                "platform_id": media.platform_id, "kind": media.kind, "caption": media.caption.as_deref().map(plain),
                "permalink": media.permalink.as_deref().filter(|link| link.len() <= MAX_LINK && !link.contains('\0')),
                "published_at": media.published_at, "like_count": media.like_count, "comments_count": media.comments_count,
            });
            (media.platform_id.as_str(), row)
        })
        .collect();
    let new = rows.len().saturating_sub(before);
    let rows = Value::Array(rows.into_values().collect());
    sqlx::query!(
        "insert into public.social_media as m (org_id, account_id, platform_id, kind, caption, permalink, published_at, like_count, comments_count)
         select $1, $2, x.platform_id, x.kind, x.caption, x.permalink, x.published_at, x.like_count, x.comments_count
           from jsonb_to_recordset($3) x (platform_id text, kind text, caption text, permalink text, published_at timestamptz,
                                          like_count bigint, comments_count bigint) order by x.platform_id
         on conflict (org_id, account_id, platform_id) do update
            set kind = excluded.kind, caption = excluded.caption, permalink = excluded.permalink, published_at = excluded.published_at,
                like_count = coalesce(excluded.like_count, m.like_count), comments_count = excluded.comments_count, deleted_at = null
          where (m.kind, m.caption, m.permalink, m.published_at, m.like_count, m.comments_count, m.deleted_at)
                is distinct from (excluded.kind, excluded.caption, excluded.permalink, excluded.published_at,
                                  coalesce(excluded.like_count, m.like_count), excluded.comments_count, null)",
        org_id,
        account_id,
        rows
    )
    .execute(tx.conn()?)
    .await?;
    Ok(new)
}

async fn known_media(tx: &mut ServiceTx, org_id: Uuid, account_id: Uuid, media: &[Media]) -> Result<usize, StoreError> {
    let ids: Vec<String> = media.iter().map(|media| media.platform_id.clone()).collect();
    let known = sqlx::query_scalar!(
        r#"select count(*) as "count!" from public.social_media where org_id = $1 and account_id = $2 and platform_id = any ($3)"#,
        org_id,
        account_id,
        &ids
    );
    Ok(usize::try_from(known.fetch_one(tx.conn()?).await?).unwrap_or_default())
}

/// Posts that a complete list of an account's leaves out, published before `at`: their ids at the platform, `most` at most. Which of more
/// is left to chance: those that are there by their ids would keep others from being asked for. A list has no stories.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn unlisted_media(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    listed: &[String],
    at: DateTime<Utc>,
    most: i64,
) -> Result<Vec<String>, StoreError> {
    let unlisted = sqlx::query_scalar!(
        "select platform_id from public.social_media
          where org_id = $1 and account_id = $2 and deleted_at is null and kind <> 'story' and published_at < $4 and not (platform_id = any ($3))
          order by random() limit $5",
        org_id,
        account_id,
        listed,
        at,
        most
    );
    Ok(unlisted.fetch_all(tx.conn()?).await?)
}

/// Writes down that the platform has these posts no longer, since `at`. How many that is news of.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn drop_media(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    gone: &[String],
    at: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let dropped = sqlx::query!(
        "update public.social_media set deleted_at = $4
          where org_id = $1 and account_id = $2 and platform_id = any ($3) and deleted_at is null",
        org_id,
        account_id,
        gone,
        at
    );
    Ok(dropped.execute(tx.conn()?).await?.rows_affected())
}

/// A post whose comments are to be read.
#[derive(Debug, Clone)]
pub struct Unread {
    /// Its id at the platform.
    pub platform_id: String,
    /// How many comments it has, if the platform says so.
    pub comments_count: Option<i64>,
}

/// Posts whose comments are to be read: those with another count of comments than when they were last read, and once a day those of ninety
/// days that have comments there or here. The newest first, `most` at most.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn unread_media(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    now: DateTime<Utc>,
    most: i64,
) -> Result<Vec<Unread>, StoreError> {
    let unread = sqlx::query_as!(
        Unread,
        "select m.platform_id, m.comments_count from public.social_media m
          where m.org_id = $1 and m.account_id = $2 and m.deleted_at is null
            and (m.comments_count is distinct from coalesce(m.read_count, 0) and (m.comments_count is not null or m.comments_at is null)
                 or m.published_at > $3::timestamptz - interval '90 days' and coalesce(m.comments_at, '-infinity') < $3 - interval '1 day'
                    and (m.comments_count is distinct from 0
                         or exists (select from public.social_threads t
                                     where t.org_id = $1 and t.account_id = $2 and t.media_id = m.platform_id)))
          order by m.published_at desc limit $4",
        org_id,
        account_id,
        now,
        most
    );
    Ok(unread.fetch_all(tx.conn()?).await?)
}

/// Comments on a post that are known, written before `until`, and not deleted: their ids at the platform.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn known_comments(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    media_id: &str,
    until: DateTime<Utc>,
    replies: bool,
) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar!(
        "select m.platform_id from public.social_threads t
           join public.social_messages m on m.org_id = t.org_id and m.thread_id = t.thread_id and m.account_id = t.account_id
          where t.org_id = $1 and t.account_id = $2 and t.media_id = $3 and m.received_at < $4 and m.deleted_at is null
            and (m.message_type = 'comment' or $5 and m.message_type = 'reply')
          order by m.received_at desc",
        org_id,
        account_id,
        media_id,
        until,
        replies
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// First comments of which no text is known, or of whose replies that is so, by their posts. The newest first, `most` at most.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn textless_comments(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    since: DateTime<Utc>,
    most: i64,
) -> Result<BTreeMap<String, Vec<String>>, StoreError> {
    let rows = sqlx::query!(
        r#"select coalesce(parent_id, platform_id) as "platform_id!", media_id as "media_id!" from public.social_messages
          where org_id = $1 and account_id = $2 and received_at > $3 and content is null and deleted_at is null
            and message_type in ('comment', 'reply') and media_id is not null
          order by received_at desc limit $4"#,
        org_id,
        account_id,
        since,
        most
    )
    .fetch_all(tx.conn()?)
    .await?;
    let mut by_media: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        let ids = by_media.entry(row.media_id).or_default();
        if !ids.contains(&row.platform_id) {
            ids.push(row.platform_id);
        }
    }
    Ok(by_media)
}

/// Writes down that the comments of a post were read to their end, as many as it had.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn end_comments(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    media: &Unread,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.social_media set read_count = $4, comments_at = $5 where org_id = $1 and account_id = $2 and platform_id = $3",
        org_id,
        account_id,
        media.platform_id,
        media.comments_count,
        now
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}
