//! Records what an agent did, Spine's own or another's: audit entry, usage, charge, files, deploy and document, in one transaction; and lists what
//! agents did.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod assets;
mod handler;
mod personal;
mod request;
mod state;
mod view;

pub use handler::handle;
pub use state::State;
