//! `inbox`: `/v1/inbox`. Wiring only.

use inbox::{State, handle};
use shared::lambda;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("inbox");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
