//! The account at the end: what was accepted, what the sandbox did and counted, and what the databases hold, compared.

mod checks;
mod evidence;
mod heard;

use anyhow::{Context, Result};
use sqlx::{AssertSqlSafe, PgConnection};

pub use checks::{CHECKS, Check, REFERENCES};
pub use evidence::{Answers, Evidence};
pub use heard::{answers, logs};

pub use crate::ledger::{Accepted, Finding};

/// What is not accounted for, by every check of the rows. [`Evidence::load`] comes first, in the same session.
///
/// # Errors
/// If the database cannot be asked.
pub async fn account(conn: &mut PgConnection) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for check in CHECKS {
        findings.extend(ask(conn, check).await?);
    }
    findings.extend(references(conn).await?);
    Ok(findings)
}

/// What one check finds.
///
/// # Errors
/// If the database cannot be asked.
pub async fn ask(conn: &mut PgConnection, check: &Check) -> Result<Vec<Finding>> {
    let rows: Vec<Option<String>> = sqlx::query_scalar(AssertSqlSafe(check.query))
        .fetch_all(conn)
        .await
        .with_context(|| format!("{} cannot be asked", check.name))?;
    // A text that became null says as much as one that did not.
    Ok(rows
        .into_iter()
        .map(|item| Finding::new(check.name, item.unwrap_or_else(|| "something unnamed".to_owned())))
        .collect())
}

/// Rows that refer to another organisation's, by every foreign key there is.
///
/// # Errors
/// If the database cannot be asked.
pub async fn references(conn: &mut PgConnection) -> Result<Vec<Finding>> {
    let query: String = sqlx::query_scalar(REFERENCES).fetch_one(&mut *conn).await?;
    let rows: Vec<Option<String>> = sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(conn).await?;
    Ok(rows.into_iter().flatten().map(|item| Finding::new("organisations.references", item)).collect())
}
