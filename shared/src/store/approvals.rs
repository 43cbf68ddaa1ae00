//! What time does to approvals, and those that nobody must overlook.

use uuid::Uuid;

use super::StoreError;
use crate::db::{DirectoryTx, ServiceTx};

/// Approvals of all organisations that nobody must overlook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Red {
    /// Approved and not executed for an hour.
    pub overdue: i64,
    /// Begun, and with no known outcome.
    pub unknown: i64,
}

/// Organisations in which time does something to an approval.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn ageing_orgs(tx: &mut DirectoryTx) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(r#"select app.ageing_approvals() as "org!""#).fetch_all(tx.conn()?).await?)
}

/// Ends approvals of the transaction's organisation that have expired, and marks those that are overdue. How many of both.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn age(tx: &mut ServiceTx) -> Result<i64, StoreError> {
    let aged = sqlx::query_scalar!(r#"select (a.expired + a.overdue)::bigint as "aged!" from app.age_approvals() a"#);
    Ok(aged.fetch_one(tx.conn()?).await?)
}

/// How many there are that nobody must overlook.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn count_red(tx: &mut DirectoryTx) -> Result<Red, StoreError> {
    let counted =
        sqlx::query_as!(Red, r#"select c.overdue as "overdue!", c.unknown as "unknown!" from app.count_approvals() c"#);
    Ok(counted.fetch_one(tx.conn()?).await?)
}
