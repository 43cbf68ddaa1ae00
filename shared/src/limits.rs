//! Limits on agents: reserved before money is spent, settled or refunded after, once.
//!
//! Each takes every window that applies to a user, a project and the agent, or none, in one round trip. Concurrent
//! reservations never exceed a cap: the windows' rows are the counters, and Postgres serialises their updates.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    db::{DirectoryTx, ServiceTx, Tx},
    store::StoreError,
};

/// What an action is expected to use, or did use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts {
    /// Requests.
    pub requests: i64,
    /// Tokens of all kinds.
    pub tokens: i64,
    /// Micro-USD.
    pub cost_micro_usd: i64,
}

/// Who is counted, besides the agent itself.
#[derive(Debug, Clone, Copy)]
pub struct Counted<'a> {
    /// The agent, as `agent_limits.agent` names it.
    pub agent: &'a str,
    /// The person or agent who asked.
    pub user_id: Uuid,
    /// The project it is for.
    pub project_id: Uuid,
}

/// Which limit is reached, and when its window ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// `limit`.
    pub reason: &'static str,
    /// `user`, `project` or `agent`.
    pub scope: String,
    /// When the next window opens.
    pub until: DateTime<Utc>,
}

/// What came of an attempt to reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved {
    /// The work may begin.
    Active(Uuid),
    /// The work waits.
    Reached(Waiting),
    /// The work alone is larger than the limit of this scope: no window will ever have room for it.
    Never {
        /// `user`, `project` or `agent`.
        scope: String,
    },
}

/// Reserves `amounts` for a job, or says which limit is reached. A job that holds a reservation gets that one again.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn reserve(
    tx: &mut Tx,
    job_id: Uuid,
    counted: Counted<'_>,
    amounts: Amounts,
) -> Result<Reserved, StoreError> {
    let row = sqlx::query!(
        "select reservation_id, reached_scope, opens_at from app.reserve_usage($1, $2, $3, $4, $5, $6, $7)",
        job_id,
        counted.agent,
        counted.user_id,
        counted.project_id,
        amounts.requests,
        amounts.tokens,
        amounts.cost_micro_usd
    )
    .fetch_one(tx.conn()?)
    .await?;
    match (row.reservation_id, row.reached_scope, row.opens_at) {
        (Some(id), _, _) => Ok(Reserved::Active(id)),
        (None, Some(scope), Some(until)) => Ok(Reserved::Reached(Waiting { reason: "limit", scope, until })),
        (None, Some(scope), None) => Ok(Reserved::Never { scope }),
        _ => Err(StoreError::Database(sqlx::Error::RowNotFound)),
    }
}

/// Turns a reservation into use: so many requests, and what the calls made under it have cost. False if it had ended before.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn settle(tx: &mut ServiceTx, reservation_id: Uuid, requests: i64) -> Result<bool, StoreError> {
    let settled =
        sqlx::query_scalar!("select app.settle_usage($1, $2)", reservation_id, requests).fetch_one(tx.conn()?).await?;
    Ok(settled == Some(true))
}

/// Gives back whatever a job still holds. What its calls have cost stays counted.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn refund_job(tx: &mut ServiceTx, job_id: Uuid) -> Result<(), StoreError> {
    sqlx::query_scalar!("select app.refund_job($1)", job_id).fetch_one(tx.conn()?).await?;
    Ok(())
}

/// Ends a reservation whose time is over. False if it had ended before.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn expire(tx: &mut ServiceTx, reservation_id: Uuid) -> Result<bool, StoreError> {
    let ended =
        sqlx::query_scalar!("select app.refund_usage($1, 'expired')", reservation_id).fetch_one(tx.conn()?).await?;
    Ok(ended == Some(true))
}

/// Reservations past their time whose job is not at work, as (organisation, reservation).
///
/// # Errors
/// [`StoreError::Database`].
pub async fn expired(tx: &mut DirectoryTx, most: i32) -> Result<Vec<(Uuid, Uuid)>, StoreError> {
    let rows = sqlx::query!(
        r#"select org_id as "org_id!", reservation_id as "reservation_id!" from app.expired_reservations($1)"#,
        most
    )
    .fetch_all(tx.conn()?)
    .await?;
    Ok(rows.into_iter().map(|row| (row.org_id, row.reservation_id)).collect())
}
