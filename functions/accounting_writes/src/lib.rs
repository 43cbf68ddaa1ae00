//! What is written to clients' books: proposed, approved by a person, written once, and compared with Fortnox every night.
//!
//! The database decides whether a voucher may be sent, in the statement that begins its execution. Fortnox has no key by which a repeated
//! request is the same voucher. So the intent stands before a voucher is sent, a token in its description finds it again, and one of a series
//! is in flight at a time; where Fortnox did not answer, the series is searched before anything is sent again.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod books;
mod compare;
mod handler;
mod job;
mod payments;
mod request;
mod schedule;
mod send;
mod state;
mod view;
mod voucher;
mod work;

pub use handler::handle;
pub use state::State;
