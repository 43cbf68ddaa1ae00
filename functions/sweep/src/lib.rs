//! The backstop, every minute: gives back reservations whose time is over, forgets old idempotency keys, releases jobs whose limit has
//! changed, wakes due and orphaned jobs, ages approvals, tells of models whose end is near, delivers mail and what is left of the outbox.

mod approvals;
mod handler;
mod mail;
mod models;
mod schedule;
mod state;

pub use handler::handle;
pub use state::State;
