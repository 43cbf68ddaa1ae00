//! Connects an organisation with its accounts at Instagram and TikTok: consent, in the browser that began it; tokens, sealed; whose account it is;
//! and the end of a connection, by its people or by Meta's word.

// A callback awaits calls within calls, which nest deeper than the compiler looks by itself.
#![recursion_limit = "256"]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod connect;
mod flow;
mod handler;
mod outcome;
mod profile;
mod signed;
mod state;
mod taken_back;

pub use handler::handle;
pub use state::State;
