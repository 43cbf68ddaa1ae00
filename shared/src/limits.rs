//! Limits on agents: reserved before money is spent, settled or refunded after, once.
//!
//! Each takes every window that applies to a user, a project and the agent, or none, in one round trip. Concurrent
//! reservations never exceed a cap: the windows' rows are the counters, and Postgres serialises their updates.
//!
//! The limiter is closed for every agent: where it cannot answer, nothing is reserved and no model is called, since each call costs
//! money and an open limiter would need another place to count it in. What an agent does instead is in docs/OPERATIONS.md, "When the
//! limiter cannot answer".

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    db::{DirectoryTx, ServiceTx, Tx},
    store::StoreError,
    telemetry::{Unit, metric},
};

/// What an action is expected to use, or did use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// The person or agent who asked; nobody for what the system does by itself.
    pub user_id: Option<Uuid>,
    /// The project it is for, if it is for one.
    pub project_id: Option<Uuid>,
}

/// Which limit is reached, and when its window ends; or that the limiter did not answer, and when to ask again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// `limit`, or `limiter_unavailable`.
    pub reason: &'static str,
    /// `user`, `project` or `agent`; `limiter` where it did not answer.
    pub scope: String,
    /// When the next window opens, or when to ask again.
    pub until: DateTime<Utc>,
    /// The limit as it was: `{"agent","scope_id","period","version"}`. The sweep releases what waits for it once it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Value>,
}

impl Waiting {
    /// What is waited for where no job waits: the limit of `scope`, or the limiter itself, until then.
    #[must_use]
    pub fn reached(scope: String, until: DateTime<Utc>) -> Self {
        let reason = if scope == "limiter" { LIMITER } else { "limit" };
        Self { reason, scope, until, limit: None }
    }

    /// Why there is no reservation, as results and errors name it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        if self.reason == LIMITER { LIMITER } else { "limit_reached" }
    }

    /// The same in words.
    #[must_use]
    pub fn detail(&self) -> String {
        if self.reason == LIMITER {
            "The limiter did not answer in time, and nothing is done uncounted.".to_owned()
        } else {
            format!("The {}'s limit has no room for it.", self.scope)
        }
    }
}

const LIMITER: &str = "limiter_unavailable";

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
        "select reservation_id, reached_scope, opens_at, reached_limit from app.reserve_usage($1, $2, $3, $4, $5, $6, $7)",
        job_id,
        counted.agent,
        counted.user_id as Option<Uuid>,
        counted.project_id as Option<Uuid>,
        amounts.requests,
        amounts.tokens,
        amounts.cost_micro_usd
    )
    .fetch_one(tx.conn()?)
    .await?;
    match (row.reservation_id, row.reached_scope, row.opens_at) {
        (Some(id), _, _) => Ok(Reserved::Active(id)),
        (None, Some(scope), Some(until)) if scope == "limiter" => {
            tracing::error!(agent = counted.agent, "the limiter did not answer in time; nothing is reserved");
            metric(Utc::now(), "LimiterUnavailable", Unit::Count, 1.0, &[("agent", counted.agent)]);
            Ok(Reserved::Reached(Waiting { reason: LIMITER, scope, until, limit: None }))
        }
        (None, Some(scope), Some(until)) => {
            Ok(Reserved::Reached(Waiting { reason: "limit", scope, until, limit: row.reached_limit }))
        }
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
