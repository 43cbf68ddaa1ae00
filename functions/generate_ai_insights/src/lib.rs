//! Tells what a table's figures say. They are computed in SQL as the asker sees them; Claude puts them into words, of which every
//! number must be one of the figures, and where it does not, a template does.

// Work on a text awaits calls within calls, which nest deeper than the compiler looks by itself.
#![recursion_limit = "256"]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod admission;
mod call;
mod figures;
mod handler;
mod job;
mod numbers;
mod request;
mod schedule;
mod state;
mod text;
mod view;
mod work;

pub use handler::handle;
pub use state::State;
