//! The commands, as `spine-operator` and `./spine` both have them.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::{
    database::{self, Migrations},
    documents, env, rebuild, report,
    restore::{self, Expected},
    vectors::{self, Outcome},
};

/// What can be done to databases that run already.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Applies migrations to DATABASE_URL, and makes collections, validators and indexes in MONGODB_URI.
    ///
    /// Says first what it will do. To both, or to the one that is set.
    Migrate {
        /// Says what it would apply and tries it in one transaction that is rolled back, holding its locks meanwhile.
        #[arg(long)]
        dry_run: bool,
    },
    /// Compares a restored database with what migrations make and with what it carries itself.
    ///
    /// The database is DATABASE_URL, else that of the running `./spine up`. Prints a line for each difference and exits with 1 if there
    /// is one. What lies outside the schemas public and app it makes again. Logs in as a superuser, or as the role that migrates with
    /// the attribute bypassrls.
    RestoreCheck {
        /// Changes nothing.
        #[arg(long)]
        dry_run: bool,
        /// Before a restore into an empty database: makes the roles and rights that a dump relies on and does not hold.
        #[arg(long, conflicts_with = "dry_run")]
        prepare: bool,
    },
    /// Applies an organisation's stored Stripe events again, and says what changed.
    ///
    /// In one transaction, on DATABASE_URL, else on the database of the running `./spine up`. Logs in as the role that migrates.
    RebuildBilling {
        /// The organisation, by slug.
        #[arg(long)]
        org: String,
    },
    /// Gives a large organisation a vector index of its own.
    ///
    /// On DATABASE_URL, else on the database of the running `./spine up`. Nobody who reads or writes waits for it; twenty thousand
    /// vectors take half a minute or more. Logs in as the role that migrates, not through a transaction pooler.
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
}

/// What the commands stand on, other in `spine-operator` than in `./spine`.
#[derive(Debug)]
pub struct Ground<U, E> {
    /// What is applied and compared with.
    pub migrations: Migrations,
    /// The database of a command that is for one that runs already.
    pub database_url: U,
    /// What migrations make on a server such as the one of this URL.
    pub expected: E,
}

/// Does what a command says.
///
/// # Errors
/// If a server is missing or refuses; says which.
pub async fn run<U, E>(command: Command, ground: Ground<U, E>) -> Result<ExitCode>
where
    U: FnOnce() -> Result<String>,
    E: AsyncFnOnce(String) -> Result<Expected>,
{
    // On the heap: nested, their futures are deeper than the compiler looks.
    match command {
        Command::Migrate { dry_run } => Box::pin(migrate(&ground.migrations, dry_run)).await,
        Command::RestoreCheck { dry_run, prepare } => {
            let url = (ground.database_url)()?;
            let expected = (ground.expected)(url.clone()).await?;
            Box::pin(restore_check(&ground.migrations, &url, &expected, dry_run, prepare)).await
        }
        Command::RebuildBilling { org } => Box::pin(rebuild_billing(&(ground.database_url)()?, &org)).await,
        Command::VectorIndex { org, drop, force } => {
            Box::pin(vector_index(&(ground.database_url)()?, &org, drop, force)).await
        }
    }
}

async fn migrate(migrations: &Migrations, dry_run: bool) -> Result<ExitCode> {
    let (postgres, mongodb) = (env("DATABASE_URL"), env("MONGODB_URI"));
    if postgres.is_none() && mongodb.is_none() {
        bail!("set DATABASE_URL to the database to migrate, logged in as its owner, MONGODB_URI, or both");
    }
    if dry_run {
        let url = postgres.context("a dry run is of DATABASE_URL alone: set it")?;
        return try_migrations(migrations, &url).await;
    }
    if let Some(url) = postgres {
        show_plan(migrations, &url).await?;
        let done = database::migrate(migrations, &url).await?;
        for name in &done.applied {
            report::line(&format!("applied {name}"));
        }
        report::line(&format!("{} applied, {} before", done.applied.len(), done.before));
    }
    if let Some(uri) = mongodb {
        let database = env("MONGODB_DATABASE").unwrap_or_else(|| "spine".to_owned());
        let done = documents::prepare(&uri, &database).await?;
        for change in &done {
            report::line(&format!("MongoDB: {change}"));
        }
        report::line(&format!("MongoDB: {} changed in {database}", done.len()));
    }
    Ok(ExitCode::SUCCESS)
}

async fn show_plan(migrations: &Migrations, url: &str) -> Result<()> {
    for step in database::plan(migrations, url).await? {
        report::line(&step);
    }
    Ok(())
}

async fn try_migrations(migrations: &Migrations, url: &str) -> Result<ExitCode> {
    show_plan(migrations, url).await?;
    let tried = database::dry_run(migrations, url).await?;
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

async fn restore_check(
    migrations: &Migrations,
    url: &str,
    expected: &Expected,
    dry_run: bool,
    prepare: bool,
) -> Result<ExitCode> {
    if prepare {
        for done in restore::prepare(url, expected).await? {
            report::line(&done);
        }
        report::line("ready for a restore; check it afterwards");
        return Ok(ExitCode::SUCCESS);
    }
    let mode = if dry_run { restore::Mode::Look } else { restore::Mode::Repair };
    let differences = restore::check(migrations, url, expected, mode).await?;
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

async fn vector_index(url: &str, org: &str, drop: bool, force: bool) -> Result<ExitCode> {
    let indexes =
        if drop { vectors::drop(url, org).await? } else { vectors::make(url, org, force, &mut report::line).await? };
    for index in &indexes {
        let outcome = match index.outcome {
            Outcome::Made => "built".to_owned(),
            Outcome::Present => "there already".to_owned(),
            Outcome::Dropped => "dropped".to_owned(),
            Outcome::Absent => "not there".to_owned(),
            Outcome::TooFew(vectors) => format!(
                "not built: exact search is quick among {vectors} vectors, below {}; --force builds it",
                vectors::WORTH_IT
            ),
        };
        report::line(&format!("{}: {outcome}", index.name));
    }
    let refused = indexes.iter().all(|index| matches!(index.outcome, Outcome::TooFew(_)));
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn rebuild_billing(url: &str, org: &str) -> Result<ExitCode> {
    let done = rebuild::rebuild(url, org).await?;
    for change in &done.changes {
        report::out(change);
    }
    report::line(&format!("{} events applied again, {} changes", done.events, done.changes.len()));
    Ok(ExitCode::SUCCESS)
}
