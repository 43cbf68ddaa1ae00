//! The backstop, every minute: gives back reservations whose time is over, forgets old idempotency keys, releases jobs whose limit has
//! changed, wakes due and orphaned jobs, delivers what is left of the outbox.

mod handler;
mod schedule;
mod state;

pub use handler::handle;
pub use state::State;
