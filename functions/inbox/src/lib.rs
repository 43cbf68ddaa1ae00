//! The inbox of an organisation's social accounts: threads, their messages, and a search.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod handler;
mod request;
mod state;
mod view;

pub use handler::handle;
pub use state::State;
