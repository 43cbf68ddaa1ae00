//! `assign_leads`: `/v1/leads`, the `leads` queue and the schedule. Wiring only.

use assign_leads::{State, handle};
use shared::lambda;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("assign_leads");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
