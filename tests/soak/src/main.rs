//! `./spine soak`: wiring only.

use std::{io::Write, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Load and faults for ten minutes, then an account of everything that was accepted.
#[derive(Parser)]
#[command(name = "soak", bin_name = "./spine soak")]
struct Cli {
    /// How long load and faults last.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    minutes: u64,
    /// What load and faults are drawn from; another one each time without it.
    #[arg(long)]
    seed: Option<u64>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "spine: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let seed = cli.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let outcome = tokio::select! {
        outcome = soak::run(Duration::from_secs(cli.minutes * 60), seed) => outcome?,
        // What it holds is dropped, and so every server ends.
        _ = interrupt.recv() => return stopped(130),
        _ = terminate.recv() => return stopped(143),
    };
    if cli.json {
        let _ = writeln!(std::io::stdout().lock(), "{}", outcome.json());
    } else {
        outcome.print();
    }
    Ok(if outcome.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn stopped(code: u8) -> Result<ExitCode> {
    let _ = writeln!(std::io::stderr().lock(), "stopping");
    Ok(ExitCode::from(code))
}
