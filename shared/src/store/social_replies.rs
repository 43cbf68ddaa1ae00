//! Replies in social threads: what is to be sent, the intent that stands before it is, and what came of it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::StoreError;
use crate::db::{CallerTx, ServiceTx};

/// What is to be written in a thread, or done to a comment of it.
#[derive(Debug, Clone, Copy)]
pub struct New<'a> {
    /// The thread's id.
    pub thread_id: Uuid,
    /// `message`, `comment`, `private`, `hide` or `show`.
    pub kind: &'a str,
    /// What is written; nothing to hide or show.
    pub content: Option<&'a str>,
    /// The comment that it is about. None: the one that the thread began with.
    pub message_id: Option<Uuid>,
}

/// Writes down a person's reply and queues it: its id, and the job's.
///
/// # Errors
/// [`StoreError::Database`] with the code of why not.
pub async fn answer(tx: &mut CallerTx, new: &New<'_>) -> Result<(Uuid, Uuid), StoreError> {
    let made = sqlx::query!(
        r#"select reply_id as "reply_id!", job_id as "job_id!" from public.answer_social_thread($1, $2, $3, $4)"#,
        new.thread_id,
        new.kind,
        new.content,
        new.message_id
    );
    let made = made.fetch_one(tx.conn()?).await?;
    Ok((made.reply_id, made.job_id))
}

/// Writes down an agent's draft and opens its approval: both ids.
///
/// # Errors
/// [`StoreError::Database`] with the code of why not.
pub async fn draft(tx: &mut CallerTx, new: &New<'_>) -> Result<(Uuid, Uuid), StoreError> {
    let made = sqlx::query!(
        r#"select reply_id as "reply_id!", approval_id as "approval_id!" from public.draft_social_reply($1, $2, $3, $4)"#,
        new.thread_id,
        new.kind,
        new.content,
        new.message_id
    );
    let made = made.fetch_one(tx.conn()?).await?;
    Ok((made.reply_id, made.approval_id))
}

/// Cancels a person's reply that has not been sent. What it is then.
///
/// # Errors
/// [`StoreError::Database`] with the code of why not.
pub async fn cancel(tx: &mut CallerTx, id: Uuid) -> Result<String, StoreError> {
    let status = sqlx::query_scalar!(r#"select public.cancel_social_reply($1) as "status!""#, id);
    Ok(status.fetch_one(tx.conn()?).await?)
}

/// A reply, as people see it.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// Its id.
    pub id: Uuid,
    /// Its thread.
    pub thread_id: Uuid,
    /// `message`, `comment`, `private`, `hide` or `show`.
    pub kind: String,
    /// The comment that it is about.
    pub message_id: Option<Uuid>,
    /// What is written.
    pub text: Option<String>,
    /// `draft`, `queued`, `sending`, `unknown`, `sent`, `failed` or `cancelled`.
    pub status: String,
    /// Why it failed or was cancelled.
    pub code: Option<String>,
    /// Which person wrote it.
    pub created_by: Option<Uuid>,
    /// Which agent wrote it.
    pub created_by_agent: Option<Uuid>,
    /// The approval of a draft.
    pub approval_id: Option<Uuid>,
    /// Who approved it.
    pub approved_by: Option<Uuid>,
    /// When it was sent last.
    pub sent_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// What the platform calls what was made.
    pub platform_id: Option<String>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
}

/// A reply that the caller may see.
///
/// # Errors
/// [`StoreError::NotFound`], also for one of another organisation.
pub async fn get(tx: &mut CallerTx, org_id: Uuid, id: Uuid) -> Result<Shown, StoreError> {
    let found = sqlx::query_as!(
        Shown,
        r#"select r.id, r.thread_id, r.kind, r.message_id, r.content as text, r.status, r.code, r.created_by, r.created_by_agent,
                  a.id as "approval_id?", a.decided_by as "approved_by?", r.sent_at, r.ended_at, r.platform_id, r.created_at
             from public.social_replies r
             left join lateral (select a.id, case when a.status <> 'refused' then a.decided_by end as decided_by
                                  from public.approvals a
                                 where a.org_id = r.org_id and a.subject_id = r.id and a.subject_table = 'social_replies'
                                 order by a.created_at desc limit 1) a on true
            where r.org_id = $1 and r.id = $2"#,
        org_id,
        id
    );
    found.fetch_optional(tx.conn()?).await?.ok_or(StoreError::NotFound { entity: "reply" })
}

/// Replies in a thread that the caller may see, the newest first, `most` at most.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn list(tx: &mut CallerTx, org_id: Uuid, thread_id: Uuid, most: i64) -> Result<Vec<Shown>, StoreError> {
    let found = sqlx::query_as!(
        Shown,
        r#"select r.id, r.thread_id, r.kind, r.message_id, r.content as text, r.status, r.code, r.created_by, r.created_by_agent,
                  a.id as "approval_id?", a.decided_by as "approved_by?", r.sent_at, r.ended_at, r.platform_id, r.created_at
             from public.social_replies r
             left join lateral (select a.id, case when a.status <> 'refused' then a.decided_by end as decided_by
                                  from public.approvals a
                                 where a.org_id = r.org_id and a.subject_id = r.id and a.subject_table = 'social_replies'
                                 order by a.created_at desc limit 1) a on true
            where r.org_id = $1 and r.thread_id = $2 order by r.created_at desc limit $3"#,
        org_id,
        thread_id,
        most
    );
    Ok(found.fetch_all(tx.conn()?).await?)
}

/// A reply with what sending it takes.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its account.
    pub account_id: Uuid,
    /// `message`, `comment`, `private`, `hide` or `show`.
    pub kind: String,
    /// Whom or what the platform is given.
    pub target_id: String,
    /// What is written.
    pub content: Option<String>,
    /// `draft`, `queued`, `sending`, `unknown`, `sent`, `failed` or `cancelled`.
    pub status: String,
    /// When it was sent last.
    pub sent_at: Option<DateTime<Utc>>,
    /// How often it was sent.
    pub attempts: i32,
    /// What stood there with the same words before it was sent.
    pub seen_ids: Vec<String>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Which interface of the platform the account is connected by.
    pub api: String,
    /// `instagram` or `tiktok`.
    pub platform: String,
    /// The account's id there.
    pub account_platform_id: String,
    /// What it is called there.
    pub username: String,
    /// The thread's place, as `social_messages.thread_id` has it.
    pub place: String,
    /// The post that the thread is about.
    pub media_id: Option<String>,
    /// Who wrote the comment, as the platform calls them.
    pub author_id: Option<String>,
    /// Which person wrote it.
    pub created_by: Option<Uuid>,
    /// Which agent wrote it.
    pub created_by_agent: Option<Uuid>,
}

/// A reply with what sending it takes, if there is one.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn plan(tx: &mut ServiceTx, org_id: Uuid, id: Uuid) -> Result<Option<Plan>, StoreError> {
    let plan = sqlx::query_as!(
        Plan,
        r#"select r.account_id, r.kind, r.target_id, r.content, r.status, r.sent_at, r.attempts, r.seen_ids, r.ended_at, a.api, a.platform,
                  a.platform_id as account_platform_id, a.username, t.thread_id as place, t.media_id, m.sender_id as "author_id?", r.created_by,
                  r.created_by_agent
             from public.social_replies r
             join public.social_accounts a on a.org_id = r.org_id and a.id = r.account_id
             join public.social_threads t on t.org_id = r.org_id and t.id = r.thread_id
             left join public.social_message_keys k on k.org_id = r.org_id and k.message_id = r.message_id
             left join public.social_messages m on m.org_id = r.org_id and m.id = r.message_id and m.received_at = k.received_at
            where r.org_id = $1 and r.id = $2"#,
        org_id,
        id
    );
    Ok(plan.fetch_optional(tx.conn()?).await?)
}

/// What the account wrote in a thread with the same words and no other reply has made, since a time if one is given: ids of the platform, the latest
/// first, fifty at most.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn same_words(
    tx: &mut ServiceTx,
    org_id: Uuid,
    plan: &Plan,
    since: Option<DateTime<Utc>>,
) -> Result<Vec<String>, StoreError> {
    let ids = sqlx::query_scalar!(
        "select m.platform_id from public.social_messages m
          where m.org_id = $1 and m.thread_id = $2 and m.account_id = $3 and m.direction = 'out' and m.content = $4
            and ($5::timestamptz is null or m.received_at >= $5)
            and not exists (select from public.social_replies r
                             where r.org_id = m.org_id and r.account_id = m.account_id and r.platform_id = m.platform_id)
          order by m.received_at desc limit 50",
        org_id,
        plan.place,
        plan.account_id,
        plan.content,
        since
    );
    Ok(ids.fetch_all(tx.conn()?).await?)
}

/// Those of these ids that another reply has made.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn made_by_others(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    ids: &[String],
) -> Result<Vec<String>, StoreError> {
    let made = sqlx::query_scalar!(
        r#"select x.id as "id!" from unnest($3::text[]) x (id)
          cross join lateral (select from public.social_replies r where r.org_id = $1 and r.account_id = $2 and r.platform_id = x.id limit 1) r"#,
        org_id,
        account_id,
        ids
    );
    Ok(made.fetch_all(tx.conn()?).await?)
}

/// A reply that may be sent, once; or why not.
#[derive(Debug, Clone)]
pub struct Begun {
    /// `not_open`, `thread_busy`, or what stands in its way.
    pub refused: Option<String>,
    /// The approval that it is sent on.
    pub approval_id: Option<Uuid>,
}

/// Writes down that a reply is being sent, if it still may be. `searched_at`: it was sent at that time, and the platform has not got it; of two
/// that have searched, one sends.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn begin(
    tx: &mut ServiceTx,
    id: Uuid,
    searched_at: Option<DateTime<Utc>>,
    seen: &[String],
) -> Result<Begun, StoreError> {
    let begun = sqlx::query_as!(
        Begun,
        "select refused, approval_id from app.begin_social_reply($1, $2, $3)",
        id,
        searched_at,
        seen
    );
    Ok(begun.fetch_one(tx.conn()?).await?)
}

/// What came of sending a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// The platform has it, under this id; none where it gives none, as for what is hidden.
    Made(Option<String>),
    /// It was refused, and would be again: a code.
    Failed(&'static str),
    /// The platform did not say.
    Unknown,
    /// It will not be known, and the reply is not sent again: a code.
    Lost(&'static str),
    /// It is certain that the platform has not got it.
    Unsent,
}

/// Says what came of sending a reply. False if it has ended.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn end(tx: &mut ServiceTx, id: Uuid, sent: &Sent) -> Result<bool, StoreError> {
    let (outcome, platform_id, code) = match sent {
        Sent::Made(platform_id) => ("sent", platform_id.as_deref(), None),
        Sent::Failed(code) => ("failed", None, Some(*code)),
        Sent::Unknown => ("unknown", None, None),
        Sent::Lost(code) => ("lost", None, Some(*code)),
        Sent::Unsent => ("unsent", None, None),
    };
    let ended = sqlx::query_scalar!(
        r#"select app.end_social_reply($1, $2, $3, $4) as "ended!""#,
        id,
        outcome,
        platform_id,
        code
    );
    Ok(ended.fetch_one(tx.conn()?).await?)
}

/// Who decided about the reply's approval, for the audit log.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn approved_by(
    tx: &mut ServiceTx,
    org_id: Uuid,
    id: Uuid,
) -> Result<Option<(Uuid, Option<Uuid>)>, StoreError> {
    let found = sqlx::query!(
        "select id, decided_by from public.approvals
          where org_id = $1 and subject_id = $2 and subject_table = 'social_replies' order by created_at desc limit 1",
        org_id,
        id
    );
    Ok(found.fetch_optional(tx.conn()?).await?.map(|row| (row.id, row.decided_by)))
}
