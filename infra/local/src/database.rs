//! Makes a server's database one that functions can run on: what Supabase provides, migrations, seed data.

use std::path::Path;

use anyhow::{Context, Result, bail};
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, SqlStr,
    migrate::{Migrate, Migrator},
};
use url::Url;

use crate::lint;

/// What has been applied.
const TABLE: &str = "_sqlx_migrations";

/// What was done to a database.
#[derive(Debug, Default)]
pub struct Migrated {
    /// Migrations applied now, by description.
    pub applied: Vec<String>,
    /// Migrations that had been applied before.
    pub before: usize,
}

/// Applies the baseline where the server is no Supabase, then every migration that is missing.
///
/// # Errors
/// Names the migration that failed, or the package that gives `vector` where that is missing.
pub async fn migrate(root: &Path, url: &str) -> Result<Migrated> {
    let mut conn = PgConnection::connect(url).await.context("the database cannot be reached")?;
    check_vector(&mut conn).await?;
    let migrator = Migrator::new(root.join("migrations").as_path()).await?;
    let mut tx = conn.begin().await?;
    provide(&mut tx, root).await?;
    tx.commit().await?;
    let before = conn.list_applied_migrations(TABLE).await?;
    migrator.run(&mut conn).await.context("a migration failed")?;
    let applied = migrator
        .iter()
        .filter(|migration| !before.iter().any(|known| known.version == migration.version))
        .map(|migration| migration.description.to_string())
        .collect();
    conn.close().await?;
    Ok(Migrated { applied, before: before.len() })
}

/// What migrations are tried with, whatever the last one has set.
const SETTINGS: &str = "reset role; reset all; set local lock_timeout = '5s'";

/// What would become of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was run, and taken back.
    Works,
    /// It ends its transaction or must not be in one, so it was not run.
    Untried(&'static str),
    /// It was refused, for this reason. Nothing after it was run.
    Fails(String),
}

/// What `migrate` would do to a database.
#[derive(Debug)]
pub struct DryRun {
    /// Migrations that are missing, by file name without its end, in order.
    pub pending: Vec<(String, Outcome)>,
    /// How many have been applied.
    pub before: usize,
}

/// Runs whatever is missing in one transaction, and takes it back: nothing is left, not even the note of what was applied.
///
/// The locks are real, and held to the end. So nobody is waited for longer than a moment: where somebody holds a table, this
/// fails rather than make everybody queue behind it.
///
/// # Errors
/// If the database cannot be reached, or what was applied to it is not what the files say.
pub async fn dry_run(root: &Path, url: &str) -> Result<DryRun> {
    let mut conn = PgConnection::connect(url).await.context("the database cannot be reached")?;
    check_vector(&mut conn).await?;
    let migrator = Migrator::new(root.join("migrations").as_path()).await?;
    let mut tx = conn.begin().await?;
    tx.execute(SETTINGS).await?;
    provide(&mut tx, root).await?;
    if let Some(version) = tx.dirty_version(TABLE).await? {
        bail!("migration {version} was begun and not finished");
    }
    let before = tx.list_applied_migrations(TABLE).await?;
    for applied in &before {
        match migrator.iter().find(|migration| migration.version == applied.version) {
            None => bail!("migration {} was applied, and there is no file of it", applied.version),
            Some(file) if file.checksum != applied.checksum => {
                bail!("migration {} was applied, and its file has changed since", applied.version)
            }
            Some(_) => {}
        }
    }
    let mut pending: Vec<(String, Outcome)> = Vec::new();
    for migration in migrator.iter().filter(|migration| !before.iter().any(|known| known.version == migration.version))
    {
        let outcome = if migration.no_tx {
            Outcome::Untried("it begins with -- no-transaction")
        } else if lint::ends_transaction(migration.sql.as_str()) {
            Outcome::Untried("it ends its transaction itself")
        } else {
            attempt(&mut tx, migration.sql.clone()).await
        };
        let failed = matches!(outcome, Outcome::Fails(_));
        pending.push((format!("{}_{}", migration.version, migration.description.replace(' ', "_")), outcome));
        if failed {
            break;
        }
    }
    tx.rollback().await?;
    conn.close().await?;
    Ok(DryRun { pending, before: before.len() })
}

async fn attempt(tx: &mut PgConnection, sql: SqlStr) -> Outcome {
    let tried = async {
        tx.execute(sql).await?;
        // What a commit would check, and later migrations may still want deferred.
        tx.execute("savepoint checks; set constraints all immediate; rollback to savepoint checks").await?;
        // What is local to its own transaction would last here.
        tx.execute(SETTINGS).await
    };
    match tried.await {
        Ok(_) => Outcome::Works,
        // The server's own words: sqlx adds a line of the server's source, which reads like one of the migration's.
        Err(error) => Outcome::Fails(
            error.as_database_error().map_or_else(|| error.to_string(), |told| told.message().to_owned()),
        ),
    }
}

/// What migrations stand on: the baseline where the server is no Supabase, and the table of what was applied.
async fn provide(conn: &mut PgConnection, root: &Path) -> Result<()> {
    let supabase: bool = sqlx::query_scalar("select exists (select from pg_roles where rolname = 'supabase_admin')")
        .fetch_one(&mut *conn)
        .await?;
    if !supabase {
        let baseline = std::fs::read_to_string(root.join("infra/postgres/baseline.sql"))?;
        conn.execute(AssertSqlSafe(baseline)).await.context("baseline.sql failed")?;
    }
    conn.ensure_migrations_table(TABLE).await?;
    // Made by whoever migrates, in a schema that the Data API serves: on Supabase it would be everybody's to write.
    conn.execute(
        "alter table public._sqlx_migrations enable row level security;
         revoke all on public._sqlx_migrations from public, anon, authenticated, service_role",
    )
    .await?;
    Ok(())
}

async fn check_vector(conn: &mut PgConnection) -> Result<()> {
    let row: (bool, String) = sqlx::query_as(
        "select exists (select from pg_available_extensions where name = 'vector'), current_setting('server_version_num')",
    )
    .fetch_one(conn)
    .await?;
    if !row.0 {
        let major = row.1.get(..2).unwrap_or("16");
        bail!(
            "this Postgres has no extension `vector`. Install pgvector: the package postgresql-{major}-pgvector on Debian and \
             Ubuntu, pgvector_{major} on Red Hat, pgvector in Homebrew; or leave DATABASE_URL unset for the embedded server."
        );
    }
    Ok(())
}

/// Adds the demo's organisations and people.
///
/// # Errors
/// If `infra/postgres/seed.sql` fails.
pub async fn seed(root: &Path, url: &str) -> Result<()> {
    let seed = std::fs::read_to_string(root.join("infra/postgres/seed.sql"))?;
    let mut conn = PgConnection::connect(url).await?;
    conn.execute(AssertSqlSafe(seed)).await.context("seed.sql failed")?;
    Ok(conn.close().await?)
}

/// Gives functions a way in: a new password for their login, and the URL to log in with.
///
/// # Errors
/// If the role cannot be altered.
pub async fn functions_url(admin_url: &str) -> Result<String> {
    let password = format!("{:032x}", rand::random::<u128>());
    let mut conn = PgConnection::connect(admin_url).await?;
    conn.execute(AssertSqlSafe(format!("alter role spine_functions password '{password}'"))).await?;
    conn.close().await?;
    with_login(admin_url, "spine_functions", &password)
}

/// The URL with another login.
///
/// # Errors
/// If it is no URL.
pub fn with_login(url: &str, user: &str, password: &str) -> Result<String> {
    let mut url = Url::parse(url)?;
    if url.set_username(user).is_err() || url.set_password(Some(password)).is_err() {
        bail!("the database's URL names no host");
    }
    Ok(url.into())
}

/// The URL of another database on the same server.
///
/// # Errors
/// If it is no URL.
pub fn with_database(url: &str, database: &str) -> Result<String> {
    let mut url = Url::parse(url)?;
    url.set_path(database);
    Ok(url.into())
}

/// Creates a database; with a template, as a copy of it. Returns its URL.
///
/// # Errors
/// If the server refuses.
pub async fn create(admin_url: &str, name: &str, template: Option<&str>) -> Result<String> {
    let mut conn = PgConnection::connect(admin_url).await?;
    let template = template.map(|template| format!(" template \"{template}\"")).unwrap_or_default();
    conn.execute(AssertSqlSafe(format!("create database \"{name}\"{template}"))).await?;
    conn.close().await?;
    with_database(admin_url, name)
}

/// Drops a database, whoever is connected to it.
///
/// # Errors
/// If the server refuses.
pub async fn drop(admin_url: &str, name: &str) -> Result<()> {
    let mut conn = PgConnection::connect(admin_url).await?;
    conn.execute(AssertSqlSafe(format!("drop database if exists \"{name}\" with (force)"))).await?;
    Ok(conn.close().await?)
}
