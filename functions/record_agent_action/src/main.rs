//! `record_agent_action`: `/v1/agent-actions`. Wiring only.

use record_agent_action::{State, handle};
use shared::lambda;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("record_agent_action");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
