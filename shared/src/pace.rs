//! The pace of calls to Fortnox: at most 25 in any 5 s for one tenant, over all processes, shared between reads and writes.
//!
//! A call takes one of its organisation's 25 slots in the database before it is made, and gives it back after it has ended. The slot is
//! free again a window later. Since a call reaches Fortnox between the two, no window at Fortnox holds more than 25. A slot whose process
//! died comes back at the end of its lease, which is longer than a call with its window.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    clients::fortnox::FortnoxError,
    config::{ConfigError, Env},
    db::{Database, DbError},
    store::{
        StoreError,
        pace::{self, Taken},
    },
};

/// The window that Fortnox counts in.
const WINDOW: Duration = Duration::from_secs(5);
/// What a lease has beyond a call and its window, for a process that is slow to begin the call or to give the slot back.
const MARGIN: Duration = Duration::from_secs(2);
/// The shortest wait before a slot is asked for again.
const SHORTEST: Duration = Duration::from_millis(10);

/// Why there is no slot.
#[derive(Debug, thiserror::Error)]
pub enum PaceError {
    /// All slots are in use, or all that this side may use.
    #[error("too many calls to Fortnox wait")]
    Full {
        /// When one may be free.
        retry_after: Duration,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No transaction could be begun or ended.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// What a call is for. While calls of both sides wait, each gets at least two fifths of the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Changes nothing at Fortnox.
    Read,
    /// Changes something there.
    Write,
}

impl Side {
    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Lets one call be made.
#[derive(Debug)]
#[must_use = "a slot that is not given back is held until its lease ends"]
pub struct Slot {
    org_id: Uuid,
    token: Uuid,
}

/// Paces calls. Use it in no transaction of the same [`Database`], which has one connection.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Where the slots are.
    pub db: Database,
    /// The window that Fortnox counts in.
    pub window: Duration,
    /// The longest that a call may last.
    pub call: Duration,
}

impl Pace {
    /// Reads `FORTNOX_WINDOW_MS` (5 seconds unless set, which is for a sandbox with a faster clock) and `FORTNOX_TIMEOUT_MS`.
    ///
    /// # Errors
    /// [`ConfigError`] for a value that is malformed.
    pub fn from_env(env: &Env, db: Database) -> Result<Self, ConfigError> {
        let window = env.duration_ms("FORTNOX_WINDOW_MS", WINDOW)?;
        Ok(Self { db, window, call: env.duration_ms("FORTNOX_TIMEOUT_MS", crate::clients::fortnox::TIMEOUT)? })
    }

    /// Waits for a slot, at most until `deadline`.
    ///
    /// # Errors
    /// [`PaceError`].
    pub async fn slot(&self, org_id: Uuid, side: Side, deadline: Instant) -> Result<Slot, PaceError> {
        let lease = self.call + self.window + MARGIN;
        loop {
            let taken = self
                .db
                .service(org_id, async |tx| Ok::<_, PaceError>(pace::take(tx, side.name(), self.window, lease).await?));
            let wait = match taken.await {
                Ok(Taken::Slot(token)) => return Ok(Slot { org_id, token }),
                // Asked again often enough for this side to count as waiting.
                Ok(Taken::Wait(wait)) => wait.min(self.window / 5).max(SHORTEST),
                Err(error) if is_busy(&error) => SHORTEST,
                Err(error) => return Err(error),
            };
            // Up to half as long again, so that not all who wait ask in the same moment.
            let wait = wait.mul_f64(1.0 + rand::random::<f64>() / 2.0);
            if Instant::now() + wait > deadline {
                return Err(PaceError::Full { retry_after: wait });
            }
            sleep(wait).await;
        }
    }

    /// Runs one call within a slot, and gives the slot back.
    ///
    /// # Errors
    /// [`PaceError`] if the call was not made; the call's own error inside.
    pub async fn call<T>(
        &self,
        org_id: Uuid,
        side: Side,
        deadline: Instant,
        call: impl AsyncFnOnce() -> Result<T, FortnoxError>,
    ) -> Result<Result<T, FortnoxError>, PaceError> {
        let slot = self.slot(org_id, side, deadline).await?;
        let outcome = call().await;
        match &outcome {
            // It may arrive yet: its slot is held until the lease ends.
            Err(FortnoxError::Unanswered(_)) => {}
            outcome => self.give_back(slot, matches!(outcome, Err(FortnoxError::Busy { status: 429 }))).await,
        }
        Ok(outcome)
    }

    /// Gives a slot back whose call has ended, so that it is free a window later. `refused` says that Fortnox counted one too many.
    pub async fn give_back(&self, slot: Slot, refused: bool) {
        if refused {
            tracing::warn!("Fortnox counted more calls than we did");
        }
        let given = self.db.service(slot.org_id, async |tx| {
            Ok::<_, PaceError>(pace::give_back(tx, slot.token, self.window, refused).await?)
        });
        if let Err(error) = given.await {
            // The lease ends by itself.
            tracing::warn!(%error, "a slot was not given back");
        }
    }
}

/// Whether others were in the way for a moment.
fn is_busy(error: &PaceError) -> bool {
    matches!(error, PaceError::Store(error) if matches!(error.database_code().as_deref(), Some("55P03" | "40P01")))
}
