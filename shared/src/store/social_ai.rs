//! What an agent does with social messages: which are to be scored or answered, scores, and drafts.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{StoreError, provider_calls::Charge};
use crate::db::{DirectoryTx, ServiceTx};

/// A job that was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queued {
    /// Its organisation.
    pub org_id: Uuid,
    /// Its id.
    pub job_id: Uuid,
}

/// A message that is not scored.
#[derive(Debug, Clone, Deserialize)]
pub struct Unscored {
    /// Its id.
    pub id: Uuid,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// Its text, or the first 2,000 characters of it.
    pub text: String,
}

/// How a message sounds.
#[derive(Debug, Clone, Serialize)]
pub struct Score<'a> {
    /// The message.
    pub id: Uuid,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// From -1 to 1.
    pub score: f64,
    /// The model's id at its provider, or `rules`.
    pub model: &'a str,
}

/// A message of a thread.
#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    /// `in` or `out`.
    pub direction: String,
    /// Its text, or the first 1,000 characters of it.
    pub text: String,
}

/// What a draft is made of.
#[derive(Debug, Clone, Deserialize)]
pub struct ToDraft {
    /// The organisation's agent that drafts.
    pub agent_id: Uuid,
    /// What the organisation wishes of a draft.
    pub instruction: String,
    /// `message` or `comment`.
    pub kind: String,
    /// The last ten messages of the thread, the oldest first.
    pub messages: Vec<Line>,
}

/// What came of a draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// It waits for a person.
    Proposed {
        /// The reply.
        reply_id: Uuid,
        /// Its approval.
        approval_id: Uuid,
    },
    /// It is not to be made any more, for the reason that this code names.
    Refused(String),
}

fn unreadable(error: serde_json::Error) -> StoreError {
    StoreError::Database(sqlx::Error::Decode(Box::new(error)))
}

/// Queues the scoring of messages, in organisations that have chosen it.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn queue_sentiment(tx: &mut DirectoryTx, most: i32) -> Result<Vec<Queued>, StoreError> {
    let queued = sqlx::query_as!(
        Queued,
        r#"select org_id as "org_id!", job_id as "job_id!" from app.queue_social_sentiment($1)"#,
        most
    );
    Ok(queued.fetch_all(tx.conn()?).await?)
}

/// Queues drafts, in organisations that have chosen them: one for each message that waits for an answer.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn queue_drafts(tx: &mut DirectoryTx, most: i32) -> Result<Vec<Queued>, StoreError> {
    let queued = sqlx::query_as!(
        Queued,
        r#"select org_id as "org_id!", job_id as "job_id!" from app.queue_social_drafts($1)"#,
        most
    );
    Ok(queued.fetch_all(tx.conn()?).await?)
}

/// The agent that scores, and the newest messages that are not scored. `None` where no agent is to score.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn unscored(tx: &mut ServiceTx, most: i32) -> Result<Option<(Uuid, Vec<Unscored>)>, StoreError> {
    let row = sqlx::query!("select agent_id, messages from app.unscored_social_messages($1)", most)
        .fetch_one(tx.conn()?)
        .await?;
    let Some(agent_id) = row.agent_id else { return Ok(None) };
    let messages = serde_json::from_value(row.messages.unwrap_or_default()).map_err(unreadable)?;
    Ok(Some((agent_id, messages)))
}

/// Writes scores as the agent. Messages that were deleted or scored meanwhile are left out. How many were written.
///
/// # Errors
/// [`StoreError::Database`], also where the agent may not any more.
pub async fn score(tx: &mut ServiceTx, agent_id: Uuid, scores: &[Score<'_>]) -> Result<i64, StoreError> {
    let scores = serde_json::to_value(scores).map_err(unreadable)?;
    let written =
        sqlx::query_scalar!("select app.score_social_messages($1, $2)", agent_id, scores).fetch_one(tx.conn()?).await?;
    Ok(written.unwrap_or_default())
}

/// What a draft for a message is made of, or the code of why there is to be none.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn to_draft(
    tx: &mut ServiceTx,
    thread_id: Uuid,
    message_id: Uuid,
) -> Result<Result<ToDraft, String>, StoreError> {
    let found = sqlx::query_scalar!("select app.social_draft_of($1, $2)", thread_id, message_id)
        .fetch_one(tx.conn()?)
        .await?
        .unwrap_or_default();
    match found["outcome"].as_str() {
        Some("due") => serde_json::from_value(found).map(Ok).map_err(unreadable),
        other => Ok(Err(other.unwrap_or("drafts_off").to_owned())),
    }
}

/// Opens a draft for a person to approve, if it is still to be made.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn keep_draft(
    tx: &mut ServiceTx,
    (agent_id, thread_id, message_id): (Uuid, Uuid, Uuid),
    (kind, content, model): (&str, &str, &str),
) -> Result<Kept, StoreError> {
    let kept = sqlx::query!(
        "select reply_id, approval_id, refused from app.keep_social_draft($1, $2, $3, $4, $5, $6)",
        agent_id,
        thread_id,
        message_id,
        kind,
        content,
        model
    )
    .fetch_one(tx.conn()?)
    .await?;
    Ok(match (kept.reply_id, kept.approval_id) {
        (Some(reply_id), Some(approval_id)) => Kept::Proposed { reply_id, approval_id },
        _ => Kept::Refused(kept.refused.unwrap_or_else(|| "refused".to_owned())),
    })
}

/// Charges the organisation for what a model made: a batch of scores, or a draft. Once for each.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn charge(
    tx: &mut ServiceTx,
    org_id: Uuid,
    (kind, table, id): (&str, &str, Uuid),
    charge: Charge,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into public.billing_events (org_id, kind, quantity, cost_micro_usd, estimated, source_table, source_id)
         values ($1, $2, 1, $3, $4, $5, $6) on conflict do nothing",
        org_id,
        kind,
        charge.cost_micro_usd,
        charge.estimated,
        table,
        id
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}
