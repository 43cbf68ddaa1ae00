//! `stripe_webhook`: `/webhooks/stripe`, `/v1/billing` and the reconciliation's schedule. Wiring only.

use shared::lambda;
use stripe_webhook::{State, handle};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("stripe_webhook");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
