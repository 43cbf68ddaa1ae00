//! `accounting_writes`: `/v1/approvals`, `/v1/accounting`, the `accounting` queue and the schedule. Wiring only.

use accounting_writes::{State, handle};
use shared::lambda;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("accounting_writes");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
