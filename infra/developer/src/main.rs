//! `spine-local`: what `./spine` hands over to.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod bench;
mod build;
mod check;
mod control;
mod demo;
mod expected;
mod planted;
mod platform;
mod report;
mod up;

use std::{
    os::unix::process::CommandExt,
    process::{self, ExitCode},
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use developer::release::Arch;
use local::home::{self, Home};
use operator::{database::Migrations, restore, until_stopped};

/// The back office on this machine.
#[derive(Parser)]
#[command(
    name = "spine",
    bin_name = "./spine",
    version,
    disable_help_subcommand = true,
    after_help = "Needs Rust 1.95 or newer and Python 3.10 to 3.13; the databases come from Python packages kept in .spine/.\n\
                  DATABASE_URL and MONGODB_URI name servers for migrate, restore-check, psql, vector-index and rebuild-billing. demo, up and \
                  bench exit\nwith 2 where one is set and no flag names a server; test does not use them."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Takes a room photo to a finished render and an organisation through its billing, and checks every step.
    Demo {
        /// One JSON object a step.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        given: platform::Given,
    },
    /// Runs the whole back office until stopped, and prints `ready http://127.0.0.1:PORT`.
    Up {
        /// The gateway's port; any free one without it.
        #[arg(long, default_value_t = 0)]
        port: u16,
        #[command(flatten)]
        given: platform::Given,
    },
    /// Runs everything that CI runs, or the tests that are named.
    ///
    /// Without arguments: formatting, lints, template, schema, queries, all tests and a sample of the planted bugs, on servers of its own;
    /// prints the seconds of each part.
    ///
    /// With arguments: `cargo test` with these, as in `./spine test a_stale_lease`. A test named in full is built in its package alone.
    /// What a test needs, such as a server, is installed and started when it asks for it; `./spine servers` keeps servers running between.
    Test {
        /// Every case of the slow tests and every planted bug, of which CI takes a sample; the first argument. SPINE_TEST_SEED, a number,
        /// draws another sample.
        #[arg(long)]
        full: bool,
        /// Passed to `cargo test`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Runs the servers that tests need, until stopped: Postgres 18 and 16, the MongoDB-wire server and moto.
    ///
    /// Keeps in .spine/run/env where they are, so that `cargo test`, `cargo nextest run` and an editor find them.
    Servers,
    /// Load and faults for ten minutes, then an account of everything that was accepted.
    #[command(disable_help_flag = true)]
    Soak {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        args: Vec<String>,
    },
    /// Prints an access token for a seeded person, signed by the running `up`.
    Token {
        /// Their address, as in dora@atelier-nord.example.
        #[arg(long)]
        user: String,
        /// The organisation to work in, by slug; the person's first one without it.
        #[arg(long)]
        org: Option<String>,
    },
    /// Ticks a schedule of the running `up`, or makes its Stripe send events.
    Trigger {
        /// A schedule, or `stripe`; without it, lists them.
        what: Option<String>,
        /// Types of Stripe's events, as in `stripe invoice.paid`; without one, lists those there are.
        events: Vec<String>,
    },
    /// Makes calls of the running `up` go wrong; without arguments, lists what can.
    Fault {
        /// `postgres`, `mongodb`, `storage`, `secrets`, `queue`, `anthropic`, `gemini`, `stripe`, `fortnox` or `mail`.
        target: Option<String>,
        /// `slow`, `hang`, `reset`, `refuse`, …; `none` ends what was arranged.
        fault: Option<String>,
        /// Only so many of the next calls.
        #[arg(long, conflicts_with = "call")]
        calls: Option<usize>,
        /// Only the call of this number, counted from now.
        #[arg(long)]
        call: Option<usize>,
    },
    /// Opens a prompt on the running `up`'s database, or on DATABASE_URL.
    Psql {
        /// Passed to psql.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    #[command(flatten)]
    Operator(operator::Command),
    /// Builds what is deployed: a zipped bootstrap for each function, and the operator's program.
    Build {
        /// For x86-64 rather than arm64.
        #[arg(long)]
        x86_64: bool,
    },
    /// Builds, says what it will do, and runs `sam deploy`, which shows the changes and asks.
    Deploy {
        /// For x86-64 rather than arm64.
        #[arg(long)]
        x86_64: bool,
        /// Checks and says, and deploys nothing.
        #[arg(long)]
        dry_run: bool,
        /// Passed to `sam deploy`, as in `-- --stack-name spine --region eu-north-1`.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Takes the measurements that the documentation quotes.
    Bench {
        /// Only this; without it, everything.
        part: Option<bench::Part>,
        /// One JSON object a measure.
        #[arg(long)]
        json: bool,
    },
    /// Plants each bug of tests/mutants, and fails where the tests named for it notice nothing.
    ///
    /// Bugs in Rust are compiled into one copy of the checkout below target/mutants, and switched on one at a time. Bugs in SQL and in
    /// files need no build of their own.
    Mutants(planted::Wanted),
    /// Lints the migrations, and the schema that they make.
    Lint,
    /// Rewrites docs/schema.md from the schema that the migrations make.
    Schema,
    /// Checks the queries against the migrated schema, and rewrites `.sqlx` from it.
    Prepare,
    /// Installs what commands need into .spine/, which they else do themselves.
    Install {
        /// `servers`, `build`, `tools`, `checks` or `node`; without one, all but `node`, which only `bench` needs.
        lists: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match until_stopped(Box::pin(run(Cli::parse().command))).await {
        Ok(code) => code,
        Err(error) => {
            report::line(&format!("spine: {error:#}"));
            if error.is::<platform::Refused>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo { json, given } => Box::pin(demo::run(json, given)).await,
        Command::Up { port, given } => Box::pin(up::run(port, given)).await,
        Command::Test { full, args } if args.is_empty() => check::test(full).await,
        Command::Test { full, mut args } => {
            if full {
                args.insert(0, "--full".to_owned());
            }
            script("test", &args)
        }
        Command::Install { lists } => script("install", &lists),
        Command::Servers => check::servers().await,
        Command::Soak { args } => become_program(process::Command::new(platform::binaries()?.join("soak")).args(args)),
        Command::Prepare => check::prepare().await,
        Command::Mutants(wanted) => planted::run(wanted).await,
        Command::Lint => check::lint().await,
        Command::Schema => check::schema().await,
        Command::Token { user, org } => {
            let token = control::ask("token", &serde_json::json!({ "user": user, "org": org })).await?;
            report::out(token["token"].as_str().context("no token came back")?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Trigger { what, events } => {
            let answer = control::ask("trigger", &serde_json::json!({ "what": what, "events": events })).await?;
            match answer["told"].as_str() {
                Some(told) => report::out(told),
                None => report::out(&answer.to_string()),
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Fault { target, fault, calls, call } => {
            let wanted = serde_json::json!({ "target": target, "fault": fault, "calls": calls, "call": call });
            let answer = control::ask("fault", &wanted).await?;
            report::out(answer["told"].as_str().context("no answer came back")?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Build { x86_64 } => build::run(arch(x86_64)).await,
        Command::Deploy { x86_64, dry_run, args } => build::deploy(arch(x86_64), dry_run, &args),
        Command::Bench { part, json } => Box::pin(bench::run(part, json)).await,
        Command::Operator(command) => {
            let ground = operator::Ground {
                migrations: Migrations::of_checkout(&home::root()).await?,
                database_url: control::database_url,
                expected: async |url: String| expected::make(&Home::open()?, restore::dialect(&url).await?).await,
            };
            Box::pin(operator::run(command, ground)).await
        }
        Command::Psql { args } => control::psql(&args),
    }
}

fn arch(x86_64: bool) -> Arch {
    if x86_64 { Arch::X86_64 } else { Arch::Arm64 }
}

/// The script does it, which asks for no build.
fn script(command: &str, args: &[String]) -> Result<ExitCode> {
    become_program(process::Command::new(home::root().join("spine")).arg(command).args(args))
}

fn become_program(program: &mut process::Command) -> Result<ExitCode> {
    Err(program.exec()).with_context(|| format!("{} cannot be run", program.get_program().display()))
}
