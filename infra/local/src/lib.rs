//! The rig: what stands in for AWS on this machine. Embedded servers, the Lambda runtime API, gateway, queue and scheduler. No
//! behaviour of its own: functions are the very binaries that are deployed, and see the events that Lambda would send them.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

pub mod database;
pub mod gateway;
pub mod home;
pub mod lambda;
pub mod pooler;
pub mod process;
pub mod queue;
pub mod scheduler;
pub mod servers;
pub mod stack;
pub mod testbed;

pub use shared::functions;
