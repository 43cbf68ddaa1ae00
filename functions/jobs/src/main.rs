//! `jobs`. Wiring only.

use jobs::{State, handle};
use shared::lambda;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("jobs");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
