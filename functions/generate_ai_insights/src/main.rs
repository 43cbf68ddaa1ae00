//! `generate_ai_insights`: `/v1/insights`, the `insights` queue and the nightly schedule. Wiring only.

use generate_ai_insights::{State, handle};
use shared::lambda;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("generate_ai_insights");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
