//! `fetch_social_updates`: `/v1/social/accounts`, the `social` queue and the schedule. Wiring only.

// A reading awaits calls within calls, which nest deeper than the compiler looks by itself.
#![recursion_limit = "256"]

use fetch_social_updates::{State, handle};
use shared::lambda;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("fetch_social_updates");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
