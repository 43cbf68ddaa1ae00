//! `keep_social_attachments`: the queue of files of social messages. Wiring only.

use keep_social_attachments::{State, handle};
use shared::lambda;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("keep_social_attachments");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
