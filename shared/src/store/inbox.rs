//! The inbox as people and agents read it: threads, the messages of one, and a search.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::db::CallerTx;

/// Which threads are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// `open`, `waiting` or `closed`.
    pub status: Option<&'a str>,
    /// `message`, `comment` or `mention`.
    pub kind: Option<&'a str>,
    /// Of one account.
    pub account_id: Option<Uuid>,
    /// Of one who answers it.
    pub assigned_to: Option<Uuid>,
    /// Whether only those without an assignee.
    pub unassigned: bool,
    /// Whether only those with something new.
    pub unread: bool,
    /// Those that come after this one: the time of its latest message, and its id.
    pub after: Option<(DateTime<Utc>, Uuid)>,
    /// How many.
    pub most: i64,
}

/// A thread.
#[derive(Debug, Clone)]
pub struct Thread {
    /// Its id.
    pub id: Uuid,
    /// Its account.
    pub account_id: Uuid,
    /// The account's platform.
    pub platform: String,
    /// What the account is called there.
    pub username: String,
    /// The platform's place: `dm:`, `comment:` or `mention:` and an id.
    pub thread_id: String,
    /// `message`, `comment` or `mention`.
    pub kind: String,
    /// `open`, `waiting` or `closed`.
    pub status: String,
    /// Who answers it.
    pub assigned_to: Option<Uuid>,
    /// The other side's id at the platform.
    pub counterpart_id: Option<String>,
    /// What the other side is called there.
    pub counterpart_name: Option<String>,
    /// The post that it is about.
    pub media_id: Option<String>,
    /// How many messages are in it.
    pub message_count: i32,
    /// How many are new.
    pub unread_count: i32,
    /// When something was last written.
    pub last_message_at: DateTime<Utc>,
    /// When the other side last wrote.
    pub last_incoming_at: Option<DateTime<Utc>>,
    /// The latest message.
    pub last_message_id: Option<Uuid>,
    /// Its text.
    pub last_content: Option<String>,
    /// `in` or `out`.
    pub last_direction: Option<String>,
    /// When it was deleted.
    pub last_deleted_at: Option<DateTime<Utc>>,
}

/// Threads that the caller may see, the latest first.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn list_threads(tx: &mut CallerTx, org_id: Uuid, wanted: &Wanted<'_>) -> Result<Vec<Thread>, StoreError> {
    let (after_at, after_id) = wanted.after.unzip();
    let threads = sqlx::query_as!(
        Thread,
        r#"select t.id, t.account_id, a.platform, a.username, t.thread_id, t.kind, t.status, t.assigned_to, t.counterpart_id, t.counterpart_name,
                  t.media_id, t.message_count, t.unread_count, t.last_message_at as "last_message_at!", t.last_incoming_at,
                  m.id as "last_message_id?", m.content as last_content, m.direction as "last_direction?", m.deleted_at as last_deleted_at
             from (select * from public.social_threads t
                    where t.org_id = $1
                      and ($2::text is null or t.status = $2)
                      and ($3::text is null or t.kind = $3)
                      and ($4::uuid is null or t.account_id = $4)
                      and ($5::uuid is null or t.assigned_to = $5)
                      and (not $6 or t.assigned_to is null)
                      and (not $7 or t.unread_count > 0)
                      and ($8::timestamptz is null or (t.last_message_at, t.id) < ($8, $9))
                      and t.last_message_at is not null
                    order by t.last_message_at desc, t.id desc
                    limit $10) t
             join public.social_accounts a on a.org_id = t.org_id and a.id = t.account_id
             left join lateral (select m.id, m.content, m.direction, m.deleted_at from public.social_messages m
                                 where m.org_id = t.org_id and m.thread_id = t.thread_id and m.account_id = t.account_id
                                   and m.received_at = t.last_message_at
                                 limit 1) m on true
            order by t.last_message_at desc, t.id desc"#,
        org_id,
        wanted.status,
        wanted.kind,
        wanted.account_id,
        wanted.assigned_to,
        wanted.unassigned,
        wanted.unread,
        after_at,
        after_id,
        wanted.most
    );
    Ok(threads.fetch_all(tx.conn()?).await?)
}

/// One thread.
///
/// # Errors
/// [`StoreError::NotFound`] if there is none, or not for the caller.
pub async fn get_thread(tx: &mut CallerTx, org_id: Uuid, id: Uuid) -> Result<Thread, StoreError> {
    sqlx::query_as!(
        Thread,
        r#"select t.id, t.account_id, a.platform, a.username, t.thread_id, t.kind, t.status, t.assigned_to, t.counterpart_id, t.counterpart_name,
                  t.media_id, t.message_count, t.unread_count, coalesce(t.last_message_at, t.created_at) as "last_message_at!", t.last_incoming_at,
                  null::uuid as "last_message_id?", null::text as last_content, null::text as "last_direction?",
                  null::timestamptz as last_deleted_at
             from public.social_threads t
             join public.social_accounts a on a.org_id = t.org_id and a.id = t.account_id
            where t.org_id = $1 and t.id = $2"#,
        org_id,
        id
    )
    .fetch_optional(tx.conn()?)
    .await?
    .ok_or(StoreError::NotFound { entity: "thread" })
}

/// A message of a thread.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its id.
    pub id: Uuid,
    /// Its id at the platform.
    pub platform_id: String,
    /// `message`, `story_reply`, `comment`, `reply` or `mention`.
    pub message_type: String,
    /// `in` or `out`.
    pub direction: String,
    /// `new`, `read`, `answered` or `archived`.
    pub status: String,
    /// Its text.
    pub content: Option<String>,
    /// Who wrote it, at the platform.
    pub sender_id: Option<String>,
    /// What they are called there.
    pub sender_name: Option<String>,
    /// When it was written.
    pub received_at: DateTime<Utc>,
    /// The message or comment that it answers, at the platform.
    pub parent_id: Option<String>,
    /// `[{"type","url","id"}]`.
    pub attachments: Value,
    /// What became of its files: `[{"id","type","status","code","bucket","path","content_type","bytes"}]`.
    pub files: Value,
    /// `{"<sender_id>": "<emoji>"}`.
    pub reactions: Value,
    /// Whether it is hidden from others at the platform.
    pub hidden: bool,
    /// When it was edited.
    pub edited_at: Option<DateTime<Utc>>,
    /// When the other side saw it.
    pub seen_at: Option<DateTime<Utc>>,
    /// When it was deleted at the platform.
    pub deleted_at: Option<DateTime<Utc>>,
    /// How it sounds, from -1 to 1, if it was scored.
    pub sentiment_score: Option<f64>,
    /// The model that says so, or `rules`.
    pub sentiment_model: Option<String>,
}

/// Messages of a thread, the latest first; those before a time and, of those at that time, an id.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn list_messages(
    tx: &mut CallerTx,
    org_id: Uuid,
    thread: &Thread,
    after: Option<(DateTime<Utc>, Uuid)>,
    most: i64,
) -> Result<Vec<Message>, StoreError> {
    let (after_at, after_id) = after.unzip();
    let messages = sqlx::query_as!(
        Message,
        r#"select m.id, m.platform_id, m.message_type, m.direction, m.status, m.content, m.sender_id, m.sender_name, m.received_at, m.parent_id,
                m.attachments, f.files as "files!", m.reactions, m.hidden, m.edited_at, m.seen_at, m.deleted_at,
                s.score as "sentiment_score?", s.model_used as "sentiment_model?"
           from (select * from public.social_messages m
                  where m.org_id = $1 and m.account_id = $2 and m.thread_id = $3
                    and ($4::timestamptz is null or (m.received_at, m.id) < ($4, $5))
                  order by m.received_at desc, m.id desc limit $6) m
          cross join lateral (
                select coalesce(jsonb_agg(jsonb_build_object(
                           'id', a.id, 'type', a.kind, 'status', a.status, 'code', a.code, 'bucket', case when a.status = 'kept' then 'social-uploads' end,
                           'path', case when a.status = 'kept' then a.path end, 'content_type', a.content_type, 'bytes', a.bytes) order by a.id), '[]') as files
                  from public.social_attachments a
                 where a.org_id = m.org_id and a.message_id = m.id and a.status not in ('deleting', 'deleted') and m.attachments <> '[]') f
           left join lateral (select s.sentiment_score::float8 as score, s.model_used from public.social_sentiment s
                               where s.org_id = m.org_id and s.message_id = m.id
                               order by s.created_at desc limit 1) s on true
          order by m.received_at desc, m.id desc"#,
        org_id,
        thread.account_id,
        thread.thread_id,
        after_at,
        after_id,
        most
    );
    Ok(messages.fetch_all(tx.conn()?).await?)
}

/// A message that a search found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its id.
    pub id: Uuid,
    /// Its thread.
    pub thread_id: Uuid,
    /// Its account.
    pub account_id: Uuid,
    /// `message`, `story_reply`, `comment`, `reply` or `mention`.
    pub message_type: String,
    /// `in` or `out`.
    pub direction: String,
    /// What who wrote it is called.
    pub sender_name: Option<String>,
    /// Its text.
    pub content: String,
    /// When it was written.
    pub received_at: DateTime<Utc>,
}

/// Messages with all of the words of `query`, or the beginnings of them, the latest first; those that come after one of a time and an id.
///
/// # Errors
/// [`StoreError::Database`], with a refusal if the caller may not, or there is no word.
pub async fn search(
    tx: &mut CallerTx,
    query: &str,
    after: Option<(DateTime<Utc>, Uuid)>,
    most: i32,
) -> Result<Vec<Found>, StoreError> {
    let (after_at, after_id) = after.unzip();
    let found = sqlx::query_as!(
        Found,
        r#"select message_id as "id!", thread_id as "thread_id!", account_id as "account_id!", message_type as "message_type!",
                  direction as "direction!", sender_name, content as "content!", received_at as "received_at!"
             from public.search_social_messages($1, $2, $3, $4)"#,
        query,
        most,
        after_at,
        after_id
    );
    Ok(found.fetch_all(tx.conn()?).await?)
}

/// Makes a lead of a thread, or finds the one that was made of it. `fields` is as `public.make_lead_of_thread` takes it. The lead's id.
///
/// # Errors
/// [`StoreError::Database`] with the code of why not.
pub async fn make_lead(tx: &mut CallerTx, thread_id: Uuid, fields: &Value) -> Result<Uuid, StoreError> {
    let lead = sqlx::query_scalar!(r#"select public.make_lead_of_thread($1, $2) as "lead!""#, thread_id, fields);
    Ok(lead.fetch_one(tx.conn()?).await?)
}
