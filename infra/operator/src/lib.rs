//! What an operator does to databases that run already: migrations, the check of a restored database, billing made again, vector
//! indexes. It starts no server and needs no checkout; `./spine` offers the same commands for the checkout and its running `up`.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod command;
pub mod database;
pub mod documents;
pub mod rebuild;
pub mod report;
pub mod restore;
pub mod statements;
pub mod vectors;

use std::{future::Future, process::ExitCode};

use anyhow::Result;
pub use command::{Command, Ground, run};
use tokio::signal::unix::{SignalKind, signal};

/// A variable of the environment that is set to something.
#[must_use]
pub fn env(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "settings of commands; functions read theirs through shared::config")]
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs `work`, or stops it on Ctrl-C or SIGTERM: what it holds is dropped, and so every server ends.
///
/// # Errors
/// Those of `work`.
pub async fn until_stopped(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = work => outcome,
        _ = interrupt.recv() => { report::line("stopping"); Ok(ExitCode::from(130)) }
        _ = terminate.recv() => { report::line("stopping"); Ok(ExitCode::from(143)) }
    }
}
