//! Databases on servers of our own, and what a demo puts into one that is given.

use std::path::Path;

use anyhow::{Context, Result, bail};
pub use operator::database::{DryRun, Migrated, Migrations, Outcome, connect};
use sqlx::{AssertSqlSafe, Connection, Executor};
use url::Url;
use uuid::{Uuid, uuid};

/// Migrates a database as the checkout says; see [`operator::database::migrate`].
///
/// # Errors
/// As there.
pub async fn migrate(root: &Path, url: &str) -> Result<Migrated> {
    operator::database::migrate(&Migrations::of_checkout(root).await?, url).await
}

/// Tries what is missing, and takes it back; see [`operator::database::dry_run`].
///
/// # Errors
/// As there.
pub async fn dry_run(root: &Path, url: &str) -> Result<DryRun> {
    operator::database::dry_run(&Migrations::of_checkout(root).await?, url).await
}

/// Adds the demo's organisations and people.
///
/// # Errors
/// If `infra/postgres/seed.sql` fails.
pub async fn seed(root: &Path, url: &str) -> Result<()> {
    let seed = std::fs::read_to_string(root.join("infra/postgres/seed.sql"))?;
    let mut conn = connect(url).await?;
    conn.execute(AssertSqlSafe(seed)).await.context("seed.sql failed")?;
    Ok(conn.close().await?)
}

/// The organisations that seed.sql makes.
pub const SEEDED: [Uuid; 2] =
    [uuid!("01900000-0000-7000-8000-000000000001"), uuid!("01900000-0000-7000-8000-000000000002")];

/// Why demo data must not be put into a database: it holds other organisations than the seed's, or may, for all this login sees.
/// `None` if there are no others.
///
/// # Errors
/// If the database cannot be reached.
pub async fn taken(url: &str) -> Result<Option<String>> {
    let mut conn = connect(url).await?;
    let there: bool =
        sqlx::query_scalar("select to_regclass('public.organizations') is not null").fetch_one(&mut conn).await?;
    if !there {
        return Ok(None);
    }
    // Where policies would hide rows, this is an error rather than an empty answer.
    conn.execute("set row_security = off").await?;
    let found: Result<Option<String>, _> = sqlx::query_scalar(
        "select coalesce(r ->> 'slug', r ->> 'id', '?') from (select to_jsonb(o) as r from public.organizations o) rows
              where coalesce(r ->> 'id', '') <> all ($1) limit 1",
    )
    .bind(SEEDED.map(|id| id.to_string()).as_slice())
    .fetch_optional(&mut conn)
    .await;
    match found {
        Ok(None) => Ok(None),
        Ok(Some(other)) => Ok(Some(format!("it holds an organisation that is not the seed's: {other}"))),
        Err(error) => match error.as_database_error() {
            Some(told) => {
                Ok(Some(format!("its login cannot see whether it holds other organisations: {}", told.message())))
            }
            None => Err(error.into()),
        },
    }
}

/// Where functions log in on a server of our own: as `spine_functions`, whose password follows from the superuser's, so that all
/// databases of the server have the same. One that it has is never changed.
///
/// # Errors
/// If it has another password.
pub async fn functions_url(admin_url: &str) -> Result<String> {
    let superuser = Url::parse(admin_url)?.password().unwrap_or_default().to_owned();
    let password = Uuid::new_v5(&Uuid::nil(), superuser.as_bytes()).simple().to_string();
    let mut conn = connect(admin_url).await?;
    let has_none = "select rolpassword is null from pg_authid where rolname = 'spine_functions'";
    if sqlx::query_scalar(has_none).fetch_one(&mut conn).await? {
        conn.execute(AssertSqlSafe(format!("alter role spine_functions password '{password}'"))).await?;
    }
    conn.close().await?;
    let url = with_login(admin_url, "spine_functions", &password)?;
    connect(&url).await.context("spine_functions has another password")?.close().await?;
    Ok(url)
}

/// A login for one run of the functions: a copy of `spine_functions`, whose password stays what it is. Dropped with this.
#[derive(Debug)]
pub struct Login {
    admin_url: String,
    name: String,
    /// Where functions log in.
    pub url: String,
}

impl Login {
    /// Makes one, for as long as this is held. A run that is killed leaves it behind, with a password that nobody knows.
    ///
    /// # Errors
    /// If the login of `admin_url` may not make roles, or not hand on those of `spine_functions`.
    pub async fn make(admin_url: &str) -> Result<Self> {
        let (name, password) =
            (format!("spine_run_{:08x}", rand::random::<u32>()), format!("{:032x}", rand::random::<u128>()));
        let mut conn = connect(admin_url).await?;
        let mut tx = conn.begin().await?;
        tx.execute(AssertSqlSafe(format!("create role {name} login noinherit password '{password}'"))).await?;
        let copies: Vec<String> = sqlx::query_scalar(
            "select format('grant %I to %I with inherit false, set true', roleid::regrole::text, $1)
               from pg_auth_members where member = 'spine_functions'::regrole
             union all
             select format('alter role %I set %I = %L', $1, split_part(s, '=', 1), substr(s, strpos(s, '=') + 1))
               from pg_db_role_setting, unnest(setconfig) s where setrole = 'spine_functions'::regrole and setdatabase = 0",
        )
        .bind(&name)
        .fetch_all(&mut *tx)
        .await?;
        for copy in copies {
            tx.execute(AssertSqlSafe(copy)).await?;
        }
        tx.commit().await?;
        conn.close().await?;
        let url = with_login(admin_url, &name, &password)?;
        Ok(Self { admin_url: admin_url.to_owned(), name, url })
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        let (admin_url, name) = (self.admin_url.clone(), self.name.clone());
        // A runtime of its own: the one that this is dropped on may be ending.
        let dropped = std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut conn = connect(&admin_url).await?;
                conn.execute(AssertSqlSafe(format!("drop role {name}"))).await?;
                Ok(())
            })
        });
        let _ = dropped.join();
    }
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
    let mut conn = connect(admin_url).await?;
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
    let mut conn = connect(admin_url).await?;
    conn.execute(AssertSqlSafe(format!("drop database if exists \"{name}\" with (force)"))).await?;
    Ok(conn.close().await?)
}
