//! Connects an organisation with its company in Fortnox: consent, in the browser that began it; tokens, sealed; what the company is; and the end
//! of a connection.

// A callback awaits calls within calls, which nest deeper than the compiler looks by itself.
#![recursion_limit = "256"]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod company;
mod connect;
mod handler;
mod outcome;
mod state;
mod view;

pub use handler::handle;
pub use state::State;
