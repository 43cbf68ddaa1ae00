//! `send_social_replies`: `/v1/social/replies` and the queue of replies. Wiring only.

use send_social_replies::{State, handle};
use shared::lambda;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("send_social_replies");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
