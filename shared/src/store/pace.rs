//! Slots for calls to Fortnox.

use std::time::Duration;

use uuid::Uuid;

use super::StoreError;
use crate::db::ServiceTx;

/// What came of asking for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It may make one call. The token gives the slot back.
    Slot(Uuid),
    /// Ask again after this time.
    Wait(Duration),
}

/// Takes a slot of the organisation that the transaction is confined to. `side` is `read` or `write`. A slot that is not given back is free
/// after `lease`, which is longer than `window`.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn take(
    tx: &mut ServiceTx,
    side: &'static str,
    window: Duration,
    lease: Duration,
) -> Result<Taken, StoreError> {
    let row = sqlx::query!(
        "select token, wait_ms from app.take_call_slot($1, $2, $3)",
        side,
        milliseconds(window),
        milliseconds(lease)
    )
    .fetch_one(tx.conn()?)
    .await?;
    let wait = u64::try_from(row.wait_ms.unwrap_or_default()).unwrap_or_default();
    Ok(row.token.map_or(Taken::Wait(Duration::from_millis(wait)), Taken::Slot))
}

/// Gives a slot back whose call has ended. It is free a `window` later; where Fortnox refused the call as one too many, all slots of its side
/// rest for two windows.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn give_back(tx: &mut ServiceTx, token: Uuid, window: Duration, refused: bool) -> Result<(), StoreError> {
    sqlx::query!("select app.give_call_slot_back($1, $2, $3)", token, milliseconds(window), refused)
        .execute(tx.conn()?)
        .await?;
    Ok(())
}

fn milliseconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}
