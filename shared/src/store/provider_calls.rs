//! Calls to models, written before they are made: one whose worker died is found without an end.

use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::db::ServiceTx;

/// A call about to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewCall<'a> {
    /// Chosen by the worker.
    pub id: Uuid,
    /// The organisation it is made for.
    pub org_id: Uuid,
    /// The job it is part of.
    pub job_id: Uuid,
    /// What pays for it.
    pub reservation_id: Uuid,
    /// Which attempt of the job this is, from 1.
    pub attempt: i32,
    /// `render_brief` or `render_picture`.
    pub purpose: &'a str,
    /// `anthropic` or `gemini`.
    pub provider: &'a str,
    /// The model's id at the provider.
    pub model: &'a str,
}

/// How a call ended.
#[derive(Debug, Clone)]
pub struct CallEnd<'a> {
    /// `ok`, or the stable code of what went wrong.
    pub outcome: &'a str,
    /// Token counts as the provider gave them.
    pub usage: Option<Value>,
    /// All tokens.
    pub tokens: i64,
    /// What it cost.
    pub cost_micro_usd: i64,
    /// The provider's own id of the request.
    pub provider_request_id: Option<&'a str>,
}

/// Writes that a call is about to be made.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn insert(tx: &mut ServiceTx, call: NewCall<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into public.provider_calls (id, org_id, job_id, reservation_id, attempt, purpose, provider, model)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        call.id,
        call.org_id,
        call.job_id,
        call.reservation_id,
        call.attempt,
        call.purpose,
        call.provider,
        call.model
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Writes how a call ended.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn update_end(tx: &mut ServiceTx, id: Uuid, end: &CallEnd<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.provider_calls
            set finished_at = now(), outcome = $2, usage = $3, tokens = $4, cost_micro_usd = $5, provider_request_id = $6
          where id = $1 and (finished_at is null or outcome = 'lost')",
        id,
        end.outcome,
        end.usage,
        end.tokens,
        end.cost_micro_usd,
        end.provider_request_id
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Marks as lost what earlier attempts of a job began and never ended. How many there were.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn mark_lost(tx: &mut ServiceTx, org_id: Uuid, job_id: Uuid) -> Result<u64, StoreError> {
    Ok(sqlx::query!(
        "update public.provider_calls set finished_at = now(), outcome = 'lost'
          where org_id = $1 and job_id = $2 and finished_at is null",
        org_id,
        job_id
    )
    .execute(tx.conn()?)
    .await?
    .rows_affected())
}
