//! `social_webhook`: `/webhooks/meta`, `/webhooks/tiktok` and the queue `social-events`. Wiring only.

use shared::lambda;
use social_webhook::{State, handle};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("social_webhook");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
