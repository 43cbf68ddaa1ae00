//! Reads messages, comments, posts and figures of connected social accounts, and shows accounts and series of figures.

// A reading awaits calls within calls, which nest deeper than the compiler looks by itself.
#![recursion_limit = "256"]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod comments;
mod figures;
mod handler;
mod instagram;
mod job;
mod posts;
mod reading;
mod request;
mod schedule;
mod state;
mod talks;
mod tiktok;
mod view;
mod work;

pub use handler::handle;
pub use state::State;
