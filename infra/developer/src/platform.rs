//! Databases to run on: our own, or those that the command line names.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use local::{
    database,
    home::Home,
    servers::{Mongo, Postgres, Version},
    stack::{self, Stack, StackConfig},
};
use operator::env;

use crate::report::Timed;

/// The database of documents.
const MONGODB_DATABASE: &str = "spine";

/// Why a command was not begun: it would have touched what it did not start. It exits with 2, as for arguments that are wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) String);

/// Servers that run already, for a command that would start its own.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Given {
    /// A Postgres to migrate, seed and run on, logged in as superuser, instead of one started for this.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// A MongoDB to run on, instead of a server started for this.
    #[arg(long, value_name = "URI")]
    mongodb_uri: Option<String>,
}

impl Given {
    /// Makes sure that only servers named on the command line are touched, and no organisation's but the seed's.
    ///
    /// # Errors
    /// [`Refused`] if the environment names a server and the command line does not, or the server holds other organisations; or if it
    /// cannot be reached.
    pub(crate) async fn check(&self) -> Result<()> {
        for (variable, flag, given) in [
            ("DATABASE_URL", "--database-url", &self.database_url),
            ("MONGODB_URI", "--mongodb-uri", &self.mongodb_uri),
        ] {
            // It is mostly there for something else, such as production; so it is not taken for consent to seed demo data.
            if given.is_none() && env(variable).is_some() {
                let why = format!(
                    "{variable} is set, and this command seeds demo data: unset it to run on a server started for this, or name the \
                     server with {flag}"
                );
                return Err(Refused(why).into());
            }
        }
        let mut taken = Vec::new();
        if let Some(url) = &self.database_url {
            taken.extend(database::taken(url).await?.map(|why| format!("--database-url is refused: {why}")));
        }
        if let Some(uri) = &self.mongodb_uri {
            let other = stack::other_documents(uri, MONGODB_DATABASE, &database::SEEDED).await?;
            taken.extend(other.map(|org| {
                format!("--mongodb-uri is refused: it holds documents of an organisation that is not the seed's: {org}")
            }));
        }
        if taken.is_empty() { Ok(()) } else { Err(Refused(taken.join("; ")).into()) }
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
    /// Starts what is not given; with `data`, what is started keeps its files there. [`Given::check`] comes first.
    pub(crate) async fn start(home: &Home, data: Option<&Path>, given: Given) -> Result<Self> {
        let (postgres, admin_url) = match given.database_url {
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
        let (mongo, mongodb_uri) = match given.mongodb_uri {
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

/// Migrates, seeds, and brings a whole stack up, whose functions log in with what is beside it: held for as long as the stack.
pub(crate) async fn bring_up(
    home: &Home,
    databases: &Databases,
    directory: PathBuf,
    port: u16,
) -> Result<(database::Login, Stack)> {
    let timed = Timed::start("migrate and seed");
    database::migrate(&home.root, &databases.admin_url).await?;
    database::seed(&home.root, &databases.admin_url).await?;
    let login = database::Login::make(&databases.admin_url).await?;
    timed.done();
    let timed = Timed::start("start sandbox, queue and gateway");
    let config = StackConfig {
        database_url: login.url.clone(),
        mongodb_uri: databases.mongodb_uri.clone(),
        mongodb_database: MONGODB_DATABASE.to_owned(),
        binaries: binaries()?,
        directory,
        port,
        visibility: Duration::from_secs(30),
        worker_timeout: None,
        wired: true,
        overrides: Vec::new(),
    };
    stack::prepare_documents(&config.mongodb_uri, &config.mongodb_database).await?;
    let stack = Stack::start(config).await?;
    timed.done();
    Ok((login, stack))
}

/// Where the functions' binaries are: beside this one.
pub(crate) fn binaries() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().context("this binary is nowhere")?.to_path_buf())
}
