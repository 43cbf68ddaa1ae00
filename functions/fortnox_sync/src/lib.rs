//! Reads what organisations have in Fortnox, goes on where it was interrupted, and makes clients of customers.

// A pass awaits calls within calls, which nest deeper than the compiler looks by itself.
#![recursion_limit = "256"]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod handler;
mod job;
mod pass;
mod reading;
mod request;
mod schedule;
mod state;
mod view;
mod walk;
mod work;

pub use handler::handle;
pub use state::State;
