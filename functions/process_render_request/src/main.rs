//! `process_render_request`: `/v1/uploads`, `/v1/render-requests` and the `renders` queue. Wiring only.

use process_render_request::{State, handle};
use shared::lambda;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    shared::telemetry::init("process_render_request");
    let state = State::from_env()?;
    lambda::run(&state, handle).await
}
