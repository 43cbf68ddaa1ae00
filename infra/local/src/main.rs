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
mod platform;
mod report;
mod up;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use local::{
    database,
    home::{self, Home},
    rebuild, restore, stack,
    vectors::{self, Outcome},
};

/// The back office on this machine.
#[derive(Parser)]
#[command(name = "spine", disable_help_subcommand = true)]
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
    /// Runs the whole back office until stopped.
    Up {
        /// The gateway's port; any free one without it.
        #[arg(long, default_value_t = 0)]
        port: u16,
        #[command(flatten)]
        given: platform::Given,
    },
    /// Runs everything CI runs, on servers of its own; arguments are passed to `cargo test`.
    Test {
        /// As in `./spine test a_stale_lease`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
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
    /// Ticks a schedule of the running `up`, or has Stripe send it events: `sweep`, `reconcile`, `leads`, `insights`, `stripe invoice.paid …`.
    Trigger {
        /// `sweep`, `reconcile`, `leads`, `insights` or `stripe`.
        what: String,
        /// Types of Stripe's events; without one, lists those there are.
        events: Vec<String>,
    },
    /// Makes calls of the running `up` go wrong; without arguments, lists what can.
    Fault {
        /// `postgres`, `mongodb`, `storage`, `secrets`, `queue`, `anthropic`, `gemini` or `stripe`.
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
    /// Makes what is deployed: a zipped bootstrap for each function.
    Build {
        /// For x86-64 rather than arm64.
        #[arg(long)]
        x86_64: bool,
    },
    /// Builds, tells what it will do, and runs `sam deploy`, which shows the changes and asks.
    Deploy {
        /// For x86-64 rather than arm64.
        #[arg(long)]
        x86_64: bool,
        /// Checks and tells, and deploys nothing.
        #[arg(long)]
        dry_run: bool,
        /// Passed to `sam deploy`, as in `-- --stack-name spine --region eu-north-1`.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Measures what the README claims.
    Bench {
        /// Only this; without it, everything.
        part: Option<bench::Part>,
        /// One JSON object a measure.
        #[arg(long)]
        json: bool,
    },
    /// Gives a large organisation a vector index of its own, on the running `up`'s database or on DATABASE_URL.
    ///
    /// Built beside whoever reads and writes; twenty thousand vectors take half a minute or more. Logs in as who migrates, not through a
    /// transaction pooler.
    VectorIndex {
        /// The organisation, by slug.
        #[arg(long)]
        org: String,
        /// Drops it: search is exact again.
        #[arg(long)]
        drop: bool,
        /// However few vectors there are.
        #[arg(long, conflicts_with = "drop")]
        force: bool,
    },
    /// Compares a restored database, DATABASE_URL or the running `up`'s, with what migrations make and with what it carries itself.
    ///
    /// Prints a line for each difference and exits 1 if there is one. What lies outside the schemas public and app it makes again. Logs
    /// in as a superuser, or as who migrates with the attribute bypassrls.
    RestoreCheck {
        /// Changes nothing.
        #[arg(long)]
        dry_run: bool,
        /// Before a restore into an empty database: makes the roles and rights that a dump relies on and does not hold.
        #[arg(long, conflicts_with = "dry_run")]
        prepare: bool,
    },
    /// Applies an organisation's stored Stripe events again, on the running `up`'s database or on DATABASE_URL.
    ///
    /// In one transaction; tells what is other than before. Logs in as who migrates.
    RebuildBilling {
        /// The organisation, by slug.
        #[arg(long)]
        org: String,
    },
    /// Says what it will do to DATABASE_URL, and applies migrations; gives MONGODB_URI its collections. To both, or to the one that is set.
    Migrate {
        /// Tells what it would apply and tries it in one transaction that is taken back, holding its locks meanwhile.
        #[arg(long)]
        dry_run: bool,
    },
    /// Opens a prompt on the running `up`'s database, or on DATABASE_URL.
    Psql {
        /// Passed to psql.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Checks the queries against the migrated schema, and rewrites `.sqlx` from it.
    Prepare,
    /// Lints the migrations, and the schema that they make.
    Lint,
    /// Rewrites docs/schema.md from the schema that the migrations make.
    Schema,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            report::line(&format!("spine: {error:#}"));
            if error.is::<platform::Refused>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo { json, given } => platform::until_stopped(demo::run(json, given)).await,
        Command::Up { port, given } => platform::until_stopped(up::run(port, given)).await,
        Command::Test { args } => platform::until_stopped(check::test(&args)).await,
        Command::Prepare => platform::until_stopped(check::prepare()).await,
        Command::Lint => platform::until_stopped(check::lint()).await,
        Command::Schema => platform::until_stopped(check::schema()).await,
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
        Command::Build { x86_64 } => build::run(arch(x86_64)),
        Command::Deploy { x86_64, dry_run, args } => build::deploy(arch(x86_64), dry_run, &args),
        Command::Bench { part, json } => platform::until_stopped(bench::run(part, json)).await,
        Command::VectorIndex { org, drop, force } => platform::until_stopped(vector_index(&org, drop, force)).await,
        Command::RebuildBilling { org } => platform::until_stopped(rebuild_billing(&org)).await,
        Command::Migrate { dry_run } => {
            let (postgres, mongodb) = (platform::env("DATABASE_URL"), platform::env("MONGODB_URI"));
            if postgres.is_none() && mongodb.is_none() {
                bail!("set DATABASE_URL to the database to migrate, logged in as its owner, MONGODB_URI, or both");
            }
            if dry_run {
                let url = postgres.context("a dry run is of DATABASE_URL alone: set it")?;
                return try_migrations(&url).await;
            }
            if let Some(url) = postgres {
                tell_plan(&url).await?;
                let done = database::migrate(&home::root(), &url).await?;
                for name in &done.applied {
                    report::line(&format!("applied {name}"));
                }
                report::line(&format!("{} applied, {} before", done.applied.len(), done.before));
            }
            if let Some(uri) = mongodb {
                prepare_documents(&uri).await?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::RestoreCheck { dry_run, prepare } => platform::until_stopped(restore_check(dry_run, prepare)).await,
        Command::Psql { args } => control::psql(&args),
    }
}

async fn restore_check(dry_run: bool, prepare: bool) -> Result<ExitCode> {
    let url = control::database_url()?;
    let home = Home::open()?;
    let expected = restore::Expected::make(&home, &url).await?;
    if prepare {
        for done in restore::prepare(&url, &expected).await? {
            report::line(&done);
        }
        report::line("ready for a restore; check it afterwards");
        return Ok(ExitCode::SUCCESS);
    }
    let mode = if dry_run { restore::Mode::Look } else { restore::Mode::Repair };
    let differences = restore::check(&home.root, &url, &expected, mode).await?;
    for difference in &differences {
        report::out(&difference.to_string());
    }
    let settled = differences.iter().filter(|difference| difference.is_settled()).count();
    report::line(&match differences.len() {
        0 => "nothing differs from what migrations make and from what was written to the audit log".to_owned(),
        all => format!("{all} differences, {settled} of them settled"),
    });
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn prepare_documents(uri: &str) -> Result<()> {
    let database = platform::env("MONGODB_DATABASE").unwrap_or_else(|| "spine".to_owned());
    let done = stack::prepare_documents(uri, &database).await?;
    for change in &done {
        report::line(&format!("MongoDB: {change}"));
    }
    report::line(&format!("MongoDB: {} changed in {database}", done.len()));
    Ok(())
}

async fn tell_plan(url: &str) -> Result<()> {
    for step in database::plan(&home::root(), url).await? {
        report::line(&step);
    }
    Ok(())
}

async fn try_migrations(url: &str) -> Result<ExitCode> {
    tell_plan(url).await?;
    let tried = database::dry_run(&home::root(), url).await?;
    let mut code = ExitCode::SUCCESS;
    for (name, outcome) in &tried.pending {
        match outcome {
            database::Outcome::Works => report::out(&format!("would apply {name}")),
            database::Outcome::Untried(why) => report::out(&format!("would apply {name}; not tried, since {why}")),
            database::Outcome::Fails(why) => {
                report::out(&format!("{name} would fail: {why}"));
                code = ExitCode::FAILURE;
            }
        }
    }
    report::line(&format!("{} to apply, {} before; nothing was changed", tried.pending.len(), tried.before));
    Ok(code)
}

async fn vector_index(org: &str, drop: bool, force: bool) -> Result<ExitCode> {
    let url = control::database_url()?;
    let indexes =
        if drop { vectors::drop(&url, org).await? } else { vectors::make(&url, org, force, &mut report::line).await? };
    for index in &indexes {
        let told = match index.outcome {
            Outcome::Made => "built".to_owned(),
            Outcome::Present => "there already".to_owned(),
            Outcome::Dropped => "dropped".to_owned(),
            Outcome::Absent => "not there".to_owned(),
            Outcome::TooFew(vectors) => {
                format!(
                    "not built: exact search is quick among {vectors} vectors, below {}; --force builds it",
                    vectors::WORTH_IT
                )
            }
        };
        report::line(&format!("{}: {told}", index.name));
    }
    let refused = indexes.iter().all(|index| matches!(index.outcome, Outcome::TooFew(_)));
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn rebuild_billing(org: &str) -> Result<ExitCode> {
    let done = rebuild::rebuild(&control::database_url()?, org).await?;
    for change in &done.changes {
        report::out(change);
    }
    report::line(&format!("{} events applied again, {} changes", done.events, done.changes.len()));
    Ok(ExitCode::SUCCESS)
}

fn arch(x86_64: bool) -> build::Arch {
    if x86_64 { build::Arch::X86_64 } else { build::Arch::Arm64 }
}
