//! What the soak stands on: servers of its own, which it stops and starts again, and a whole back office before them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use local::{
    database,
    home::Home,
    servers::{Mongo, Postgres, Version},
    stack::{self, Stack, StackConfig},
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tokio::{sync::Mutex, time::timeout};
use uuid::Uuid;

use crate::cast::Person;

/// The database in MongoDB.
pub(crate) const DOCUMENTS: &str = "spine_soak";

/// What differs from production: waits are shorter, so that minutes show what hours would.
const OVERRIDES: [(&str, &str); 6] = [
    ("SECRETS_TTL_MS", "5000"),
    ("ANTHROPIC_TIMEOUT_MS", "8000"),
    ("GEMINI_TIMEOUT_MS", "10000"),
    ("STORAGE_TIMEOUT_MS", "5000"),
    ("STRIPE_TIMEOUT_MS", "5000"),
    ("STRIPE_RECONCILE_EVERY_MS", "5000"),
];

/// How long somebody of the soak waits for Postgres.
const PATIENCE: Duration = Duration::from_secs(15);

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// As an operator does: clients are cut off, and everything is written first.
    Fast,
    /// As a crash does: it recovers from its log as it starts.
    Immediate,
}

/// Servers and the back office. Dropped, all of it stops.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) stack: Stack,
    postgres: Mutex<Option<Postgres>>,
    mongo: Mutex<Option<Mongo>>,
    admin_url: RwLock<String>,
    mongodb_uri: RwLock<String>,
    /// Connections of the superuser that nobody uses now: to log in takes longer than most of what is then asked.
    idle: std::sync::Mutex<Vec<PgConnection>>,
    // Last, since what runs in it must have stopped.
    pub(crate) home: Home,
}

impl Ground {
    /// Starts everything, with the seeded organisations in it.
    pub(crate) async fn start() -> Result<Self> {
        let home = Home::open()?;
        let postgres = Postgres::start(&home, Version::V18, Some(&postgres_data(&home))).await?;
        let mongo = Mongo::start(&home, Some(&home.run.join("soak-mongo"))).await?;
        database::migrate(&home.root, &postgres.admin_url).await?;
        database::seed(&home.root, &postgres.admin_url).await?;
        stack::prepare_documents(&mongo.uri, DOCUMENTS).await?;
        let config = StackConfig {
            database_url: database::functions_url(&postgres.admin_url).await?,
            mongodb_uri: mongo.uri.clone(),
            mongodb_database: DOCUMENTS.to_owned(),
            binaries: binaries()?,
            directory: home.run.clone(),
            port: 0,
            visibility: Duration::from_secs(2),
            worker_timeout: Some(Duration::from_secs(60)),
            wired: true,
            overrides: OVERRIDES.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        };
        let stack = Stack::start(config).await?;
        let (admin_url, mongodb_uri) = (RwLock::new(postgres.admin_url.clone()), RwLock::new(mongo.uri.clone()));
        let (postgres, mongo) = (Mutex::new(Some(postgres)), Mutex::new(Some(mongo)));
        Ok(Self { stack, postgres, mongo, admin_url, mongodb_uri, idle: std::sync::Mutex::default(), home })
    }

    /// Where the superuser logs in now.
    pub(crate) fn admin_url(&self) -> String {
        self.admin_url.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the MongoDB-wire server is now.
    pub(crate) fn mongodb_uri(&self) -> String {
        self.mongodb_uri.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where stored objects are files.
    pub(crate) fn files(&self) -> PathBuf {
        self.home.run.join("storage")
    }

    /// A connection as superuser, past every wire: to arrange and to look, never to be tested.
    pub(crate) async fn admin(&self) -> Result<PgConnection> {
        let connected = timeout(PATIENCE, database::connect(&self.admin_url())).await;
        connected.context("Postgres does not answer")?
    }

    /// Does something with such a connection, and keeps it for the next unless that failed.
    pub(crate) async fn with<T>(&self, act: impl AsyncFnOnce(&mut PgConnection) -> Result<T>) -> Result<T> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut conn = match kept {
            Some(conn) => conn,
            None => self.admin().await?,
        };
        let done = timeout(PATIENCE, act(&mut conn)).await.context("Postgres does not answer")??;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        Ok(done)
    }

    /// Runs statements as superuser. How many rows they touched.
    pub(crate) async fn run(&self, statements: &str) -> Result<u64> {
        let statements = AssertSqlSafe(statements.to_owned());
        self.with(async |conn| Ok(conn.execute(statements).await?.rows_affected())).await
    }

    /// Runs statements as a person through the Data API. How many rows they touched; an error leaves open whether it was done.
    pub(crate) async fn run_as(&self, person: &Person, statements: &str) -> Result<u64> {
        let statements = AssertSqlSafe(statements.to_owned());
        self.acting(person, async |conn| Ok(conn.execute(statements).await?.rows_affected())).await
    }

    /// Runs a statement that gives the id of what it made, in the same way. None if it made nothing.
    pub(crate) async fn make_as(&self, person: &Person, statement: &str) -> Result<Option<Uuid>> {
        let statement = AssertSqlSafe(statement.to_owned());
        self.acting(person, async |conn| Ok(sqlx::query_scalar(statement).fetch_optional(conn).await?)).await
    }

    async fn acting<T>(&self, person: &Person, act: impl AsyncFnOnce(&mut PgConnection) -> Result<T>) -> Result<T> {
        let claims = json!({ "sub": person.id, "org_id": person.org, "role": "authenticated" }).to_string();
        self.with(async |conn| {
            conn.execute("begin").await?;
            sqlx::query("select set_config('request.jwt.claims', $1, true), set_config('role', 'authenticated', true)")
                .bind(claims)
                .execute(&mut *conn)
                .await?;
            let done = act(conn).await?;
            conn.execute("commit").await?;
            Ok(done)
        })
        .await
    }

    /// Stops Postgres, waits, and starts it again with the same data. The functions' wire leads to it then.
    pub(crate) async fn restart_postgres(&self, stop: Stop, away: Duration) -> Result<()> {
        let mut held = self.postgres.lock().await;
        let data = postgres_data(&self.home);
        if stop == Stop::Immediate {
            quit(&data)?;
        }
        let server = held.take();
        // Waiting for it to stop blocks, and others go on meanwhile.
        tokio::task::spawn_blocking(move || drop(server)).await?;
        tokio::time::sleep(away).await;
        let again = Postgres::start(&self.home, Version::V18, Some(&data)).await?;
        self.stack.wire("postgres")?.lead_to(address(&again.admin_url)?);
        *self.admin_url.write().unwrap_or_else(PoisonError::into_inner) = again.admin_url.clone();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *held = Some(again);
        Ok(())
    }

    /// The same of the MongoDB-wire server.
    pub(crate) async fn restart_mongo(&self, away: Duration) -> Result<()> {
        let mut held = self.mongo.lock().await;
        let server = held.take();
        tokio::task::spawn_blocking(move || drop(server)).await?;
        tokio::time::sleep(away).await;
        let again = Mongo::start(&self.home, Some(&self.home.run.join("soak-mongo"))).await?;
        self.stack.wire("mongodb")?.lead_to(address(&again.uri)?);
        *self.mongodb_uri.write().unwrap_or_else(PoisonError::into_inner) = again.uri.clone();
        *held = Some(again);
        Ok(())
    }

    /// Everything passes the wires again, and providers tell the truth.
    pub(crate) fn end_faults(&self) {
        for (_, wire) in &self.stack.wires {
            wire.clear();
        }
        let sandbox = &self.stack.sandbox;
        for script in [&sandbox.anthropic, &sandbox.gemini, &sandbox.stripe_script] {
            script.clear();
        }
    }

    /// What the functions logged, by file.
    pub(crate) fn logs(&self) -> Result<Vec<(String, String)>> {
        let mut logs = Vec::new();
        for entry in std::fs::read_dir(&self.stack.logs)? {
            let path = entry?.path();
            let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            logs.push((name, String::from_utf8_lossy(&std::fs::read(&path)?).into_owned()));
        }
        logs.sort();
        Ok(logs)
    }

    /// Copies the functions' logs to where they outlive the run. Where that is.
    pub(crate) fn keep_logs(&self, seed: u64) -> Result<PathBuf> {
        let kept = self.home.state.join("soak").join(format!("{}-{seed}", Utc::now().format("%Y%m%dT%H%M%S")));
        std::fs::create_dir_all(&kept)?;
        for entry in std::fs::read_dir(&self.stack.logs)? {
            let path = entry?.path();
            if let Some(name) = path.file_name() {
                std::fs::copy(&path, kept.join(name))?;
            }
        }
        Ok(kept)
    }
}

fn postgres_data(home: &Home) -> PathBuf {
    home.run.join("soak-postgres")
}

/// Has the server of this data directory stop at once, without writing anything more.
fn quit(data: &Path) -> Result<()> {
    let file = std::fs::read_to_string(data.join("postmaster.pid")).context("Postgres does not run")?;
    let pid: u32 = file.lines().next().unwrap_or_default().trim().parse().context("no process id")?;
    let told = Command::new("kill").args(["-QUIT", &pid.to_string()]).stderr(Stdio::null()).status()?;
    if !told.success() {
        bail!("Postgres cannot be stopped");
    }
    Ok(())
}

fn address(url: &str) -> Result<SocketAddr> {
    let port = url::Url::parse(url)?.port().context("no port")?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Where the functions' binaries are: beside this one.
fn binaries() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().context("this binary is nowhere")?.to_path_buf())
}
