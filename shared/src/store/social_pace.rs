//! When social platforms may be called, over all who call them.

use std::time::Duration;

use super::StoreError;
use crate::db::DirectoryTx;

/// How long a call is to wait, and for what.
#[derive(Debug, Clone)]
pub struct Turn {
    /// How long.
    pub wait: Duration,
    /// Why, where it is not only the calls before it.
    pub why: Option<String>,
}

/// Takes the next turn of an account of the platform, over all who call it: the one after it follows `gap` later. Where the wait is longer than
/// `most`, no turn was taken.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn take_turn(
    tx: &mut DirectoryTx,
    platform: &str,
    platform_id: &str,
    gap: Duration,
    most: Duration,
) -> Result<Turn, StoreError> {
    let turn = sqlx::query!(
        "select wait_ms, why from app.take_social_turn($1, $2, $3, $4)",
        platform,
        platform_id,
        milliseconds(gap),
        milliseconds(most)
    )
    .fetch_one(tx.conn()?)
    .await?;
    let wait = u64::try_from(turn.wait_ms.unwrap_or_default()).unwrap_or_default();
    Ok(Turn { wait: Duration::from_millis(wait), why: turn.why })
}

/// Has the application rest from a platform, or from one account of it.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn rest(
    tx: &mut DirectoryTx,
    platform: &str,
    platform_id: Option<&str>,
    rest: Duration,
    why: &str,
) -> Result<(), StoreError> {
    sqlx::query!("select app.rest_from_social($1, $2, $3, $4)", platform, platform_id, milliseconds(rest), why)
        .execute(tx.conn()?)
        .await?;
    Ok(())
}

fn milliseconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}
