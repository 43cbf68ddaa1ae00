//! `understand_social_messages`: the `social-ai` queue and the schedule. Wiring only.

use shared::lambda;
use understand_social_messages::{State, handle};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("understand_social_messages");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
