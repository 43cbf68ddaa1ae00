//! Understands what people write to an organisation's social accounts: scores how it sounds, and drafts answers for people to approve.
//!
//! A model is asked, under the limits of the organisation; where none answers, rules score and nothing is drafted. What people wrote is data
//! to the model, its answers are read strictly, and nothing here can send or approve.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod call;
mod draft;
mod handler;
mod job;
pub mod rules;
mod schedule;
mod sentiment;
mod state;
mod work;

pub use handler::handle;
pub use state::State;
