//! The schedule, every minute: queues the comparisons of a night and the look at payments, and measures what differs.

use std::time::Duration;

use serde_json::Value;
use shared::{
    lambda::{Error, Tick},
    schedule::Schedule,
    store::{StoreError, accounting},
    telemetry::{Unit, metric},
};

use crate::state::State;

/// How many organisations one run queues something for.
const MOST: i32 = 500;
/// What each part leaves of the invocation's time.
const KEPT_BACK: Duration = Duration::from_secs(10);

/// Answers a tick. It may come twice: everything here is safe to repeat. The sweep sends the messages of what is queued.
pub(crate) async fn tick(state: &State, tick: &Tick) -> Result<Value, Error> {
    let now = (state.clock)();
    let mut schedule = Schedule::begin("the schedule of accounting", tick, KEPT_BACK);
    schedule
        .part("comparisons_queued", async |_| {
            state.db.directory(async |tx| accounting::queue_comparisons(tx, MOST).await).await
        })
        .await;
    schedule
        .part("payments_queued", async |_| {
            state.db.directory(async |tx| accounting::queue_payments(tx, MOST).await).await
        })
        .await;
    schedule
        .part("differences", async |_| {
            let found = state.db.directory(async |tx| accounting::differences(tx).await).await?;
            #[expect(clippy::cast_precision_loss, reason = "some thousands at most")]
            metric(now, "AccountingDifferences", Unit::Count, found as f64, &[]);
            Ok::<_, StoreError>(found)
        })
        .await;
    schedule.end()
}
