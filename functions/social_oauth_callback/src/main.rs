//! `social_oauth_callback`: `/oauth/instagram`, `/oauth/tiktok`, `/oauth/tiktok-business` and `/v1/social/connections`. Wiring only.

// A callback awaits calls within calls, which nest deeper than the compiler looks by itself.
#![recursion_limit = "256"]

use shared::lambda;
use social_oauth_callback::{State, handle};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("social_oauth_callback");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
