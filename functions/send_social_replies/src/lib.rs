//! Answers in social threads: a person's at once, an agent's when a person has approved it, each sent once.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod handler;
mod job;
mod outcome;
mod request;
mod search;
mod send;
mod state;
mod work;

pub use handler::handle;
pub use state::State;
