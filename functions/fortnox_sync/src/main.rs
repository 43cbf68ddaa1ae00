//! `fortnox_sync`: `/v1/fortnox/sync`, `/v1/fortnox/customers`, the `fortnox` queue and the schedule. Wiring only.

// A pass awaits calls within calls, which nest deeper than the compiler looks by itself.
#![recursion_limit = "256"]

use fortnox_sync::{State, handle};
use shared::lambda;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("fortnox_sync");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
