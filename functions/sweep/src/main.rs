//! `sweep`. Wiring only.

use shared::lambda;
use sweep::{State, handle};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("sweep");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
