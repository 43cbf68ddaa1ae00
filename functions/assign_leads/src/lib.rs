//! Gives leads to people: scores a lead, has a model move the score within a bound, finds who suits it best, and gives it to another
//! when whoever has it has left, has too many, or lets it lie.
//!
//! The database scores and chooses, in one transaction that tells the whole story. Here is what surrounds it: who may ask, what a
//! model may be told and what it costs, and when to look again.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod advice;
mod brief;
mod handler;
mod job;
mod request;
mod schedule;
mod state;
mod work;

pub use handler::handle;
pub use state::State;
