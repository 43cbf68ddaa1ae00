//! Makes a server's database one that functions can run on: what Supabase provides, then migrations.

use std::{borrow::Cow, path::Path};

use anyhow::{Context, Result, bail};
use shared::{config::Env, postgres::Trust};
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, SqlStr,
    migrate::{Migrate, MigrateError, Migration, Migrator},
    postgres::PgDatabaseError,
};

use crate::statements;

/// What has been applied. By its full name: of a login that is called like a schema, such as `app`, that schema comes first.
const TABLE: &str = "public._sqlx_migrations";

/// The roles that migrations make, which belong to the whole server.
const ROLES: [&str; 6] =
    ["spine_agent", "spine_caller", "spine_definer", "spine_functions", "spine_owner", "spine_service"];

/// The roles that the baseline makes.
const PLATFORM_ROLES: [&str; 5] = ["anon", "authenticated", "authenticator", "service_role", "supabase_auth_admin"];

/// The schemas that the baseline makes.
const PLATFORM_SCHEMAS: [&str; 4] = ["auth", "extensions", "realtime", "storage"];

const UNVERIFIED: &str = "the database's server cannot be verified, as it must be on another host; DATABASE_CA names the authority of its \
                          certificate, if that is no public one";

/// The migrations, and the baseline that they stand on where the server is no Supabase.
#[derive(Debug)]
pub struct Migrations {
    pub(crate) migrator: Migrator,
    baseline: Cow<'static, str>,
}

impl Migrations {
    /// Those that this program was built with.
    #[must_use]
    pub fn built_in() -> Self {
        Self {
            migrator: sqlx::migrate!("../../migrations"),
            baseline: Cow::Borrowed(include_str!("../../postgres/baseline.sql")),
        }
    }

    /// Those that lie in a checkout now.
    ///
    /// # Errors
    /// If a file cannot be read, or its name is none of a migration.
    pub async fn of_checkout(root: &Path) -> Result<Self> {
        Ok(Self {
            migrator: Migrator::new(root.join("migrations").as_path()).await?,
            baseline: Cow::Owned(std::fs::read_to_string(root.join("infra/postgres/baseline.sql"))?),
        })
    }
}

/// What was done to a database.
#[derive(Debug, Default)]
pub struct Migrated {
    /// Migrations applied now, by file name without its end.
    pub applied: Vec<String>,
    /// Migrations that had been applied before.
    pub before: usize,
}

/// Connects as every command does: the server is verified, unless it is on this machine.
///
/// # Errors
/// If the server cannot be reached, or not be verified.
pub async fn connect(url: &str) -> Result<PgConnection> {
    let options = Trust::from_env(&Env::from_process())?.options(url)?;
    PgConnection::connect_with(&options).await.map_err(|error| {
        let why = match &error {
            sqlx::Error::Tls(_) => UNVERIFIED,
            sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => UNVERIFIED,
            _ => "the database cannot be reached",
        };
        anyhow::Error::new(error).context(why)
    })
}

/// Applies the baseline where the server is no Supabase, then every migration that is missing, each in a transaction of its own.
///
/// # Errors
/// Names the rights that the login lacks, or the package that gives `vector` where that is missing; then nothing was done. Else names the
/// migration that it stopped at, and says what was applied.
pub async fn migrate(migrations: &Migrations, url: &str) -> Result<Migrated> {
    let mut conn = connect(url).await?;
    conn.lock().await?;
    check_rights(&mut conn).await?;
    let mut tx = conn.begin().await?;
    provide(&mut tx, &migrations.baseline).await?;
    tx.commit().await?;
    let (before, pending) = pending(&mut conn, &migrations.migrator).await?;
    let mut applied = Vec::new();
    for migration in &pending {
        if let Err(error) = conn.apply(TABLE, migration).await {
            let left = if migration.no_tx {
                "It runs without a transaction, so part of it may be done"
            } else {
                "Nothing of it was done"
            };
            bail!(
                "stopped at {}: {}. {left}. Applied: {} in this run, {before} before it; not begun: {}. `migrate` goes on from there",
                file_name(migration),
                why(&error),
                applied.len(),
                pending.len() - applied.len() - 1,
            );
        }
        applied.push(file_name(migration));
    }
    conn.unlock().await?;
    conn.close().await?;
    Ok(Migrated { applied, before })
}

fn file_name(migration: &Migration) -> String {
    format!("{}_{}", migration.version, migration.description.replace(' ', "_"))
}

/// The server's own words: sqlx adds a line of the server's source, which reads like one of the migration's. Of a right that is missing
/// the detail says who may give it.
fn why(error: &MigrateError) -> String {
    let (MigrateError::ExecuteMigration(source, _) | MigrateError::Execute(source)) = error else {
        return error.to_string();
    };
    match source.as_database_error().and_then(|told| told.try_downcast_ref::<PgDatabaseError>()) {
        Some(told) => match told.detail().filter(|_| told.code() == "42501") {
            Some(detail) => format!("{}: {detail}", told.message()),
            None => told.message().to_owned(),
        },
        None => source.to_string(),
    }
}

/// How many migrations have been applied, and which have not.
async fn pending<'a>(conn: &mut PgConnection, migrator: &'a Migrator) -> Result<(usize, Vec<&'a Migration>)> {
    if let Some(version) = conn.dirty_version(TABLE).await? {
        bail!("migration {version} was begun and not finished");
    }
    let applied = conn.list_applied_migrations(TABLE).await?;
    for applied in &applied {
        match migrator.iter().find(|migration| migration.version == applied.version) {
            None => bail!("migration {} was applied, and there is no file of it", applied.version),
            Some(file) if file.checksum != applied.checksum => {
                bail!("migration {} was applied, and its file has changed since", applied.version)
            }
            Some(_) => {}
        }
    }
    let known = |migration: &&Migration| !applied.iter().any(|known| known.version == migration.version);
    Ok((applied.len(), migrator.iter().filter(known).collect()))
}

/// What `migrate` would do to a database and to its server, a line each, for people to read before it is done. Changes nothing.
///
/// # Errors
/// If the database cannot be reached, or what was applied to it is not what the files say.
pub async fn plan(migrations: &Migrations, url: &str) -> Result<Vec<String>> {
    let migrator = &migrations.migrator;
    let mut conn = connect(url).await?;
    let at = At::read(&mut conn).await?;
    let mut roles = ROLES.to_vec();
    let mut plan = vec![format!(
        "database {} on Postgres {}, as {}, which is {} superuser",
        at.database,
        at.version,
        at.login,
        if at.superuser { "a" } else { "no" }
    )];
    if at.supabase {
        plan.push("baseline: none, since this is a Supabase project".to_owned());
    } else {
        roles.extend(PLATFORM_ROLES);
        plan.push(format!(
            "baseline: what Supabase would provide, in the schemas {} (infra/postgres/baseline.sql)",
            PLATFORM_SCHEMAS.join(", ")
        ));
    }
    let (present, new) = roles.into_iter().partition::<Vec<_>, _>(|role| at.roles.iter().any(|there| there == role));
    let list = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    plan.push(format!("roles of the whole server: to be made: {}; there already: {}", list(&new), list(&present)));
    plan.push(
        "passwords: none is set or changed; `alter role spine_functions password …` is for whoever runs the server"
            .to_owned(),
    );
    plan.push(
        "default privileges: only that what spine_owner and spine_definer make is executable by nobody else; none for tables, and none \
         for other roles"
            .to_owned(),
    );
    if at.begun && !at.readable {
        plan.push(format!("migrations: {} may not read which were applied", at.login));
    } else {
        let (before, pending) =
            if at.begun { pending(&mut conn, migrator).await? } else { (0, migrator.iter().collect()) };
        let names: String = pending.iter().map(|migration| format!("\n    {}", file_name(migration))).collect();
        plan.push(format!("migrations: {before} applied before, {} to apply{names}", pending.len()));
    }
    conn.close().await?;
    Ok(plan)
}

/// Who asks, and what is there.
#[derive(Debug, sqlx::FromRow)]
struct At {
    database: String,
    login: String,
    version: String,
    superuser: bool,
    supabase: bool,
    /// Whether the first migration has been applied.
    begun: bool,
    /// Whether the login may read which were.
    readable: bool,
    roles: Vec<String>,
}

impl At {
    async fn read(conn: &mut PgConnection) -> Result<Self> {
        Ok(sqlx::query_as(
            "select current_database()::text as database, current_user::text as login, current_setting('server_version') as version,
                    rolsuper as superuser, exists (select from pg_roles where rolname = 'supabase_admin') as supabase,
                    to_regnamespace('app') is not null as begun,
                    coalesce(has_table_privilege(to_regclass('public._sqlx_migrations'), 'select'), false) as readable,
                    array(select rolname::text from pg_roles) as roles
               from pg_roles where rolname = current_user",
        )
        .fetch_one(conn)
        .await?)
    }
}

/// Rights that the login lacks, each with the statement that gives it. `$1`: roles to be made or used; `$2`: those of them that are
/// ours; `$3`: whether a migration has been applied.
const MISSING: &str = "
    select format('CREATEROLE, to make the roles %s', string_agg(w, ', ')), format('alter role %I createrole', current_user)
      from unnest($1) w where not exists (select from pg_roles where rolname = w)
    having count(*) > 0 and (select not rolsuper and not rolcreaterole from pg_roles where rolname = current_user)
    union all
    -- Roles that another login made, for another database of this server.
    select format('the role %s with admin option', rolname), format('grant %I to %I with admin option', rolname, current_user)
      from pg_roles
     where not $3 and (rolname = any ($2) or rolname = 'authenticated') and not pg_has_role(oid, 'MEMBER WITH ADMIN OPTION')
    union all
    select format('the role %s', rolname), format('grant %I to %I', rolname, current_user)
      from pg_roles where $3 and rolname in ('spine_owner', 'spine_definer') and not pg_has_role(oid, 'SET')
    union all
    select 'CREATE on the database', format('grant create on database %I to %I', current_database(), current_user)
     where not has_database_privilege(current_database(), 'CREATE')
    union all
    select format('%s on the schema public, with grant option', wanted),
           format('grant %s on schema public to %I with grant option', lower(wanted), current_user)
      from (values ('USAGE'), ('CREATE')) v (wanted)
     where (wanted = 'USAGE' or not $3) and not has_schema_privilege('public', wanted || ' WITH GRANT OPTION')
    union all
    select 'USAGE on the schema extensions, with grant option',
           format('grant usage on schema extensions to %I with grant option', current_user)
      from pg_namespace where nspname = 'extensions' and not has_schema_privilege(oid, 'USAGE WITH GRANT OPTION')
    union all
    select format('ownership of the schema %s', nspname), format('alter schema %I owner to %I', nspname, current_user)
      from pg_namespace where nspname in ('auth', 'realtime', 'storage') and not pg_has_role(nspowner, 'USAGE')
    union all
    select 'ownership of the table public._sqlx_migrations',
           format('alter table public._sqlx_migrations owner to %I', current_user)
      from pg_class where oid = to_regclass('public._sqlx_migrations') and not pg_has_role(relowner, 'USAGE')";

/// Checks what can be checked before anything is done, so that the baseline and the first migrations do not end half way.
async fn check_rights(conn: &mut PgConnection) -> Result<()> {
    check_vector(conn).await?;
    let at = At::read(conn).await?;
    let mut missing: Vec<(String, String)> = Vec::new();
    // What a Supabase project's login may do is for an extension of the server to say, and not in the catalogue.
    if !at.supabase {
        let roles = [ROLES.as_slice(), &PLATFORM_ROLES].concat();
        missing =
            sqlx::query_as(MISSING).bind(roles).bind(ROLES.as_slice()).bind(at.begun).fetch_all(&mut *conn).await?;
    }
    match vector_is_in(conn).await? {
        Some(schema) if schema == "extensions" => {}
        Some(schema) => missing.push((
            format!("the extension vector in the schema extensions, since it is in {schema}"),
            "create schema if not exists extensions; alter extension vector set schema extensions".to_owned(),
        )),
        None if at.superuser || may_make_vector(conn).await? => {}
        None => missing.push((
            "the extension vector, which this login may not make".to_owned(),
            format!(
                "create schema if not exists extensions authorization \"{}\"; create extension vector with schema extensions",
                at.login
            ),
        )),
    }
    if missing.is_empty() {
        return Ok(());
    }
    let lines: String = missing.iter().map(|(right, remedy)| format!("\n  {right}: {remedy}")).collect();
    bail!("nothing was done, since {} lacks what an administrator can give:{lines}", at.login)
}

async fn vector_is_in(conn: &mut PgConnection) -> Result<Option<String>> {
    let schema = "select extnamespace::regnamespace::text from pg_extension where extname = 'vector'";
    Ok(sqlx::query_scalar(schema).fetch_optional(conn).await?)
}

/// Tries it and takes it back: platforms allow it in ways of their own.
async fn may_make_vector(conn: &mut PgConnection) -> Result<bool> {
    let mut tx = conn.begin().await?;
    let tried = tx.execute("create extension vector").await;
    tx.rollback().await?;
    Ok(tried.is_ok())
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
pub async fn dry_run(migrations: &Migrations, url: &str) -> Result<DryRun> {
    let mut conn = connect(url).await?;
    check_rights(&mut conn).await?;
    let mut tx = conn.begin().await?;
    tx.execute(SETTINGS).await?;
    provide(&mut tx, &migrations.baseline).await?;
    let (before, missing) = pending(&mut tx, &migrations.migrator).await?;
    let mut pending: Vec<(String, Outcome)> = Vec::new();
    for migration in missing {
        let outcome = if migration.no_tx {
            Outcome::Untried("it begins with -- no-transaction")
        } else if statements::ends_transaction(migration.sql.as_str()) {
            Outcome::Untried("it ends its transaction itself")
        } else {
            attempt(&mut tx, migration.sql.clone()).await
        };
        let failed = matches!(outcome, Outcome::Fails(_));
        pending.push((file_name(migration), outcome));
        if failed {
            break;
        }
    }
    tx.rollback().await?;
    conn.close().await?;
    Ok(DryRun { pending, before })
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
        Err(error) => Outcome::Fails(why(&error.into())),
    }
}

/// What migrations stand on: the baseline where the server is no Supabase, and the table of what was applied.
async fn provide(conn: &mut PgConnection, baseline: &str) -> Result<()> {
    let supabase: bool = sqlx::query_scalar("select exists (select from pg_roles where rolname = 'supabase_admin')")
        .fetch_one(&mut *conn)
        .await?;
    if !supabase {
        conn.execute(AssertSqlSafe(baseline.to_owned()))
            .await
            .context("infra/postgres/baseline.sql failed, and nothing was done")?;
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
             Ubuntu, pgvector_{major} on Red Hat, pgvector in Homebrew."
        );
    }
    Ok(())
}
