//! `spine-operator`: wiring only.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use operator::{
    Command, Ground,
    database::Migrations,
    env, report,
    restore::{Expected, dialect},
};

/// What an operator does to the databases of DATABASE_URL and MONGODB_URI. Its migrations are those it was built with.
#[derive(Parser)]
#[command(name = "spine-operator", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[tokio::main]
async fn main() -> ExitCode {
    let ground = Ground {
        migrations: Migrations::built_in(),
        database_url: || env("DATABASE_URL").context("set DATABASE_URL to the database, logged in as who migrates"),
        expected: async |url: String| {
            let file = directory()?.join(dialect(&url).await?.file());
            Expected::from_file(&file, &Migrations::built_in())
        },
    };
    operator::until_stopped(Box::pin(operator::run(Cli::parse().command, ground))).await.unwrap_or_else(|error| {
        report::line(&format!("spine-operator: {error:#}"));
        ExitCode::FAILURE
    })
}

/// Where `./spine build` puts what `restore-check` compares with: beside this program.
fn directory() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().context("this program is nowhere")?.to_path_buf())
}
