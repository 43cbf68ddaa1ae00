//! Databases to run on: our own, or those that DATABASE_URL and MONGODB_URI name. And stopping when told to.

use std::{
    future::Future,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use local::{
    database,
    home::Home,
    servers::{Mongo, Postgres, Version},
    stack::{Stack, StackConfig},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::report::{self, Timed};

/// A variable of the environment that is set to something.
pub(crate) fn env(name: &str) -> Option<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the launcher's own settings; functions read theirs through shared::config"
    )]
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs `work`, or stops it on Ctrl-C or SIGTERM: what it holds is dropped, and so every server ends.
pub(crate) async fn until_stopped(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = work => outcome,
        _ = interrupt.recv() => { report::line("stopping"); Ok(ExitCode::from(130)) }
        _ = terminate.recv() => { report::line("stopping"); Ok(ExitCode::from(143)) }
    }
}

/// Servers, and what to log in with.
pub(crate) struct Databases {
    pub(crate) admin_url: String,
    pub(crate) mongodb_uri: String,
    pub(crate) psql: Option<PathBuf>,
    _postgres: Option<Postgres>,
    _mongo: Option<Mongo>,
}

impl Databases {
    /// Starts what is not given; with `data`, what is started keeps its files there.
    pub(crate) async fn start(home: &Home, data: Option<&Path>) -> Result<Self> {
        let (postgres, admin_url) = match env("DATABASE_URL") {
            Some(url) => (None, url),
            None => {
                let timed = Timed::start("start Postgres 18");
                let postgres =
                    Postgres::start(home, Version::V18, data.map(|data| data.join("pg18")).as_deref()).await?;
                timed.done();
                let url = postgres.admin_url.clone();
                (Some(postgres), url)
            }
        };
        let (mongo, mongodb_uri) = match env("MONGODB_URI") {
            Some(uri) => (None, uri),
            None => {
                let timed = Timed::start("start the MongoDB-wire server");
                let mongo = Mongo::start(home, data.map(|data| data.join("mongo")).as_deref()).await?;
                timed.done();
                let uri = mongo.uri.clone();
                (Some(mongo), uri)
            }
        };
        let psql = postgres.as_ref().map(|postgres| postgres.psql.clone());
        Ok(Self { admin_url, mongodb_uri, psql, _postgres: postgres, _mongo: mongo })
    }
}

/// Migrates, seeds, and brings a whole stack up.
pub(crate) async fn bring_up(home: &Home, databases: &Databases, directory: PathBuf, port: u16) -> Result<Stack> {
    let timed = Timed::start("migrate and seed");
    database::migrate(&home.root, &databases.admin_url).await?;
    database::seed(&home.root, &databases.admin_url).await?;
    let database_url = database::functions_url(&databases.admin_url).await?;
    timed.done();
    let timed = Timed::start("start sandbox, queue and gateway");
    let config = StackConfig {
        database_url,
        mongodb_uri: databases.mongodb_uri.clone(),
        mongodb_database: "spine".to_owned(),
        binaries: binaries()?,
        directory,
        port,
        visibility: Duration::from_secs(30),
        worker_timeout: None,
        wired: true,
        overrides: Vec::new(),
    };
    local::stack::prepare_documents(&config.mongodb_uri, &config.mongodb_database).await?;
    let stack = Stack::start(config).await?;
    timed.done();
    Ok(stack)
}

/// Where the functions' binaries are: beside this one.
pub(crate) fn binaries() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().context("this binary is nowhere")?.to_path_buf())
}
