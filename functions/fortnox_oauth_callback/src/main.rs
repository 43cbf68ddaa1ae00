//! `fortnox_oauth_callback`: `/oauth/fortnox` and `/v1/fortnox/connection`. Wiring only.

// A callback awaits calls within calls, which nest deeper than the compiler looks by itself.
#![recursion_limit = "256"]

use fortnox_oauth_callback::{State, handle};
use shared::lambda;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("fortnox_oauth_callback");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
