//! What tests run on: servers, each started when it is asked for, and on them a migrated and seeded database that tests copy.
//!
//! `./spine test` starts all of them and names them in the environment; `./spine servers` does so in a file, for as long as it runs. A test
//! that finds neither starts what it needs itself.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions},
    io::{Read, Seek, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::{
    database,
    home::Home,
    pooler,
    servers::{Mongo, Moto, Postgres, Version},
};

/// A part of what tests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What everything runs on.
    Postgres18,
    /// The oldest Postgres that is supported.
    Postgres16,
    /// The MongoDB-wire server.
    Mongo,
    /// moto, which answers for AWS.
    Aws,
    /// PgBouncer's program; found or fetched, not started.
    Pooler,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Postgres18, Self::Postgres16, Self::Mongo, Self::Aws, Self::Pooler];

    /// The part that says where it is in this variable, if one does.
    #[must_use]
    pub fn of(variable: &str) -> Option<Self> {
        Some(match variable {
            "SPINE_TEST_DATABASE_URL" | "SPINE_TEST_POSTGRES_BIN" | "SPINE_TEST_DATABASE_LOG" => Self::Postgres18,
            "SPINE_TEST_DATABASE_URL_16" | "SPINE_TEST_POSTGRES_BIN_16" => Self::Postgres16,
            "SPINE_TEST_MONGODB_URI" => Self::Mongo,
            "SPINE_TEST_AWS_URL" => Self::Aws,
            "SPINE_TEST_PGBOUNCER" | "SPINE_TEST_PGBOUNCER_LIBRARIES" => Self::Pooler,
            _ => return None,
        })
    }

    /// Starts it; what it needs is installed first.
    ///
    /// # Errors
    /// If it does not start. Of the pooler only where the environment says that this is CI: elsewhere its variables are empty, and the
    /// tests that go through it fail.
    pub async fn start(self, home: &Home) -> Result<Running> {
        let bin = |server: &Postgres| server.psql.parent().unwrap_or(Path::new("")).display().to_string();
        Ok(match self {
            Self::Postgres18 => {
                let server = Postgres::start(home, Version::V18, None).await?;
                log_in_cheaply(&server.admin_url).await?;
                let variables = vec![
                    ("SPINE_TEST_DATABASE_URL", server.admin_url.clone()),
                    ("SPINE_TEST_POSTGRES_BIN", bin(&server)),
                    ("SPINE_TEST_DATABASE_LOG", server.log.display().to_string()),
                ];
                Running { variables, _server: Held::Postgres(server) }
            }
            Self::Postgres16 => {
                let server = Postgres::start(home, Version::V16, None).await?;
                log_in_cheaply(&server.admin_url).await?;
                let variables = vec![
                    ("SPINE_TEST_DATABASE_URL_16", server.admin_url.clone()),
                    ("SPINE_TEST_POSTGRES_BIN_16", bin(&server)),
                ];
                Running { variables, _server: Held::Postgres(server) }
            }
            Self::Mongo => {
                let server = Mongo::start(home, None).await?;
                Running {
                    variables: vec![("SPINE_TEST_MONGODB_URI", server.uri.clone())],
                    _server: Held::Mongo(server),
                }
            }
            Self::Aws => {
                let server = Moto::start(home).await?;
                Running { variables: vec![("SPINE_TEST_AWS_URL", server.url.clone())], _server: Held::Moto(server) }
            }
            Self::Pooler => {
                let (path, libraries) = match pooler::find(home) {
                    Ok(program) => (program.path, program.libraries),
                    Err(error) if operator::env("CI").is_some() => return Err(error.context("CI needs PgBouncer")),
                    Err(error) => {
                        operator::report::line(&format!(
                            "  no PgBouncer, so tests that go through it will fail: {error:#}"
                        ));
                        (PathBuf::new(), PathBuf::new())
                    }
                };
                let variables = vec![
                    ("SPINE_TEST_PGBOUNCER", path.display().to_string()),
                    ("SPINE_TEST_PGBOUNCER_LIBRARIES", libraries.display().to_string()),
                ];
                Running { variables, _server: Held::Nothing }
            }
        })
    }
}

/// Has passwords hashed once, and not 4096 times. Tests log in tens of thousands of times, each a hundredth of a second of work without
/// optimisation, in which sqlx yields eight hundred times: where fifty log in at once, those that hold a transaction wait for seconds.
async fn log_in_cheaply(admin_url: &str) -> Result<()> {
    let url = url::Url::parse(admin_url)?;
    let password = url.password().context("the superuser has no password")?;
    let mut admin = database::connect(admin_url).await?;
    admin.execute("alter role postgres set scram_iterations = 1; set scram_iterations = 1").await?;
    admin.execute(AssertSqlSafe(format!("alter role postgres password '{password}'"))).await?;
    Ok(admin.close().await?)
}

/// A part that runs for as long as this is held.
#[derive(Debug)]
pub struct Running {
    /// The variables that say where it is.
    pub variables: Vec<(&'static str, String)>,
    _server: Held,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held, so that the server goes on")]
enum Held {
    Postgres(Postgres),
    Mongo(Mongo),
    Moto(Moto),
    Nothing,
}

/// A migrated and seeded database, which tests copy.
#[derive(Debug, Clone)]
pub struct Template {
    /// What it is called. The name says which migrations it has, so that one which was edited makes another.
    pub name: String,
    /// Where functions log in.
    pub functions_url: String,
}

/// What a database knows of letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locale {
    /// Nothing beyond A to Z: the embedded servers' own.
    C,
    /// All of Unicode, as on Supabase. The builtin provider's, which Postgres has from 17 on.
    CUtf8,
}

/// Names the file of a statement that tests' databases are changed by: a planted bug of `./spine mutants`.
pub const MUTATION: &str = "SPINE_TEST_MUTATION";

/// The template on a server of our own, in a locale: made by the first process that asks. Where [`MUTATION`] is set, one with that bug.
///
/// # Errors
/// If a migration fails.
pub async fn template(root: &Path, admin_url: &str, locale: Locale) -> Result<Template> {
    let plain = migrated(root, admin_url, locale).await?;
    match operator::env(MUTATION) {
        Some(file) => mutated(admin_url, &plain, &fs::read_to_string(file)?).await,
        None => Ok(plain),
    }
}

/// What the names of the templates with a bug end with.
#[must_use]
pub fn mutated_suffix(statement: &str) -> String {
    format!("_{}", hex::encode(&Sha256::digest(statement)[..6]))
}

async fn mutated(admin_url: &str, plain: &Template, statement: &str) -> Result<Template> {
    let name = format!("{}{}", plain.name, mutated_suffix(statement));
    let mut admin = database::connect(admin_url).await?;
    // No test copies the template meanwhile.
    lock(&mut admin, "copy").await?;
    if !exists(&mut admin, &name).await? {
        let aside = format!("{name}_aside");
        database::drop(admin_url, &aside).await?;
        let url = database::create(admin_url, &aside, Some(&plain.name)).await?;
        let mut conn = database::connect(&url).await?;
        conn.execute(AssertSqlSafe(statement.to_owned())).await?;
        conn.close().await?;
        admin.execute(AssertSqlSafe(format!("alter database \"{aside}\" rename to \"{name}\""))).await?;
    }
    admin.close().await?;
    let functions_url = database::with_database(&plain.functions_url, &name)?;
    Ok(Template { name, functions_url })
}

async fn exists(admin: &mut PgConnection, name: &str) -> Result<bool> {
    let found = sqlx::query_scalar("select exists (select from pg_database where datname = $1)").bind(name);
    Ok(found.fetch_one(admin).await?)
}

async fn migrated(root: &Path, admin_url: &str, locale: Locale) -> Result<Template> {
    let name = format!("spine_template_{}{}", if locale == Locale::C { "" } else { "utf8_" }, fingerprint(root)?);
    let mut admin = database::connect(admin_url).await?;
    lock(&mut admin, "make").await?;
    if !exists(&mut admin, &name).await? {
        // Given its name when it is whole: what is left of an attempt that was killed is never taken for it.
        let aside = format!("{name}_aside");
        database::drop(admin_url, &aside).await?;
        let of = match locale {
            Locale::C => "",
            Locale::CUtf8 => "template template0 locale_provider builtin builtin_locale 'C.UTF-8'",
        };
        admin.execute(AssertSqlSafe(format!("create database \"{aside}\" {of}"))).await?;
        let url = database::with_database(admin_url, &aside)?;
        database::migrate(root, &url).await?;
        database::seed(root, &url).await?;
        admin.execute(AssertSqlSafe(format!("alter database \"{aside}\" rename to \"{name}\""))).await?;
    }
    let functions_url = database::functions_url(&database::with_database(admin_url, &name)?).await?;
    admin.close().await?;
    Ok(Template { name, functions_url })
}

/// Copies the template. Copying needs it to itself for a moment, so that all who ask take turns. Returns the copy's URL.
///
/// # Errors
/// If the server refuses.
pub async fn copy(admin_url: &str, template: &Template, name: &str) -> Result<String> {
    let mut admin = database::connect(admin_url).await?;
    lock(&mut admin, "copy").await?;
    admin.execute(AssertSqlSafe(format!("create database \"{name}\" template \"{}\"", template.name))).await?;
    admin.close().await?;
    database::with_database(admin_url, name)
}

/// Held until the connection ends, against other processes too.
async fn lock(admin: &mut PgConnection, what: &str) -> Result<()> {
    sqlx::query("select pg_advisory_lock(hashtextextended('spine template ' || $1, 0))")
        .bind(what)
        .execute(admin)
        .await?;
    Ok(())
}

/// Of everything that a template is made from.
fn fingerprint(root: &Path) -> Result<String> {
    digest(root, &["infra/postgres/baseline.sql", "infra/postgres/seed.sql", "migrations"])
}

/// A digest of files, and of all that folders hold, as twelve digits.
///
/// # Errors
/// If one cannot be read.
pub fn digest(root: &Path, of: &[&str]) -> Result<String> {
    let mut waiting: Vec<PathBuf> = of.iter().map(|path| root.join(path)).collect();
    let mut files = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                waiting.push(entry?.path());
            }
        } else {
            files.push(path);
        }
    }
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        digest.update(file.as_os_str().as_encoded_bytes());
        digest.update(fs::read(file)?);
    }
    Ok(hex::encode(&digest.finalize()[..6]))
}

/// The file in which `./spine servers` says where its servers are. It is locked by that run, and removed when this is dropped.
#[derive(Debug)]
pub struct Announced {
    /// Where it is.
    pub path: PathBuf,
    file: File,
}

fn file_of(root: &Path) -> PathBuf {
    root.join(".spine/run/env")
}

/// Takes the file, which says nothing yet.
///
/// # Errors
/// If another run holds it.
pub fn claim(root: &Path) -> Result<Announced> {
    let path = file_of(root);
    fs::create_dir_all(path.parent().context("the file is nowhere")?)?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    if file.try_lock().is_err() {
        bail!("./spine servers runs already; {} says where", path.display());
    }
    // What a run that was killed has left.
    file.set_len(0)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(Announced { path, file })
}

impl Announced {
    /// Writes the variables, a line each, as a shell reads them.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn say(&mut self, variables: &[(&'static str, String)]) -> Result<()> {
        let lines: String = variables.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
        self.file.rewind()?;
        Ok(self.file.write_all(lines.as_bytes())?)
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The variables of the running `./spine servers`; none if none runs. A file that no run holds is stale, and not believed.
#[must_use]
pub fn announced(root: &Path) -> BTreeMap<String, String> {
    let Ok(mut file) = File::open(file_of(root)) else { return BTreeMap::new() };
    if file.try_lock_shared().is_ok() {
        operator::report::line(&format!(
            "{} is of a run that is gone, and not used; ./spine servers writes it",
            file_of(root).display()
        ));
        return BTreeMap::new();
    }
    let mut text = String::new();
    if file.read_to_string(&mut text).is_err() {
        return BTreeMap::new();
    }
    let variables = text.lines().filter_map(|line| line.split_once('='));
    variables.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned())).collect()
}
