//! Billing as Stripe says: receives what it sends, whatever order, number and quality it comes in, compares with it on a schedule, and
//! lets people begin to pay and change how.
//!
//! What is received becomes an [`event`]'s observation of one object, reduced to [`facts`]; the database keeps the greatest one.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod account;
mod claim;
mod error;
pub mod event;
pub mod facts;
mod fetch;
mod handler;
mod job;
mod meter;
mod record;
mod request;
mod schedule;
mod state;
mod view;
mod work;

pub use handler::handle;
pub use record::{rebuild, record};
pub use state::State;
