//! What time does to approvals: they expire, or are overdue; and how many there are that nobody must overlook.

use chrono::Utc;
use shared::{
    schedule::MOST_FAILURES,
    store::{StoreError, approvals},
    telemetry::{Unit, metric},
};

use crate::state::State;

/// Ages the approvals of every organisation that has some whose time has come, and says how many are red. How many became overdue or expired.
pub(crate) async fn age(state: &State) -> Result<i64, StoreError> {
    let (mut aged, mut failures) = (0, 0);
    for org in state.db.directory(async |tx| approvals::ageing_orgs(tx).await).await? {
        match state.db.service(org, async |tx| approvals::age(tx).await).await {
            Ok(now) => aged += now,
            // What cannot be done for one organisation is done for the others.
            Err(error) if failures < MOST_FAILURES => {
                tracing::error!(org.id = %org, %error, "approvals could not be aged");
                failures += 1;
            }
            Err(error) => return Err(error),
        }
    }
    let red = state.db.directory(async |tx| approvals::count_red(tx).await).await?;
    for (name, count) in [("ApprovalsOverdue", red.overdue), ("ApprovalsUnknown", red.unknown)] {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        metric(Utc::now(), name, Unit::Count, f64::from(count), &[]);
    }
    Ok(aged)
}
