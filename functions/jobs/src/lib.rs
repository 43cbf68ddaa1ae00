//! State, result and cancellation of any job: `GET /v1/jobs/{id}` and `POST /v1/jobs/{id}/cancel`.

mod handler;
mod state;

pub use handler::handle;
pub use state::State;
