//! Calls to models, written before they are made: one whose worker died is found without an end.

use std::{iter::Sum, ops::Add};

use chrono::Utc;
use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::{
    db::ServiceTx,
    telemetry::{Unit, metric},
};

/// What a call is charged with, or several together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Charge {
    /// Tokens of all kinds.
    pub tokens: i64,
    /// Micro-USD.
    pub cost_micro_usd: i64,
    /// Whether it rests on what was reserved, since the provider did not report all that it bills.
    pub estimated: bool,
}

impl Charge {
    /// What is missing in a sum of charges to what was `reserved` for them. Nothing, unless one of them is estimated.
    #[must_use]
    pub fn short_of(self, reserved: Self) -> Self {
        let missing =
            |charged: i64, reserved: i64| if self.estimated { reserved.saturating_sub(charged).max(0) } else { 0 };
        let (tokens, cost_micro_usd) =
            (missing(self.tokens, reserved.tokens), missing(self.cost_micro_usd, reserved.cost_micro_usd));
        Self { tokens, cost_micro_usd, estimated: tokens.max(cost_micro_usd) > 0 }
    }
}

impl Add for Charge {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            cost_micro_usd: self.cost_micro_usd.saturating_add(other.cost_micro_usd),
            estimated: self.estimated || other.estimated,
        }
    }
}

impl Sum for Charge {
    fn sum<I: Iterator<Item = Self>>(charges: I) -> Self {
        charges.fold(Self::default(), Add::add)
    }
}

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
    /// What is reserved for it, which is what it costs until its end tells better.
    pub reserved: Charge,
}

/// How a call ended.
#[derive(Debug, Clone)]
pub struct CallEnd<'a> {
    /// `ok`, or the stable code of what went wrong.
    pub outcome: &'a str,
    /// Token counts as the provider gave them.
    pub usage: Option<Value>,
    /// What it is charged with.
    pub charge: Charge,
    /// The provider's own id of the request.
    pub provider_request_id: Option<&'a str>,
}

/// Writes that a call is about to be made. Until it has ended it costs what was reserved for it: one that is never heard of again may
/// have been billed.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn insert(tx: &mut ServiceTx, call: NewCall<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into public.provider_calls
             (id, org_id, job_id, reservation_id, attempt, purpose, provider, model, tokens, cost_micro_usd, estimated)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, true)",
        call.id,
        call.org_id,
        call.job_id,
        call.reservation_id,
        call.attempt,
        call.purpose,
        call.provider,
        call.model,
        call.reserved.tokens,
        call.reserved.cost_micro_usd
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
            set finished_at = now(), outcome = $2, usage = $3, tokens = $4, cost_micro_usd = $5, estimated = $6,
                provider_request_id = $7
          where id = $1 and (finished_at is null or outcome = 'lost')",
        id,
        end.outcome,
        end.usage,
        end.charge.tokens,
        end.charge.cost_micro_usd,
        end.charge.estimated,
        end.provider_request_id
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Charges a call that is estimated with so much more.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn raise(tx: &mut ServiceTx, id: Uuid, by: Charge) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.provider_calls set tokens = tokens + $2, cost_micro_usd = cost_micro_usd + $3 where id = $1 and estimated",
        id,
        by.tokens,
        by.cost_micro_usd
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Marks as lost what earlier attempts of a job began and never ended. Each is charged as it was reserved, since it may have been billed.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn mark_lost(tx: &mut ServiceTx, org_id: Uuid, job_id: Uuid) -> Result<(), StoreError> {
    let lost = sqlx::query_scalar!(
        "update public.provider_calls set finished_at = now(), outcome = 'lost'
          where org_id = $1 and job_id = $2 and finished_at is null
      returning provider",
        org_id,
        job_id
    )
    .fetch_all(tx.conn()?)
    .await?;
    for provider in lost {
        metric(Utc::now(), "CostsEstimated", Unit::Count, 1.0, &[("provider", &provider)]);
    }
    Ok(())
}
