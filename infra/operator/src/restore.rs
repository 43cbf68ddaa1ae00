//! `./spine restore-check`: whether a database that was restored is the one that was backed up.
//!
//! Two comparisons. The catalogue is compared with what the migrations make on a server of their own: a dump of `public` and `app`
//! leaves out what lies elsewhere, and some ways to restore lose owners or the state of triggers. And the audit log is compared with
//! what the database itself carries of it: the digest of each entry and the tally of each statement.
//!
//! What lies outside `public` and `app` can be made again from the migrations alone, and is. What lies inside is reported: a part of
//! it that is missing or altered means that the restore went wrong, and should be done once more.

mod evidence;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::database::{self, Migrations};

const FACTS: &str = include_str!("restore/facts.sql");

/// Kinds of facts in the order in which they are made: roles before what is granted to them, rights before what needs them.
const ORDER: [&str; 16] = [
    "role",
    "setting",
    "schema",
    "extension",
    "membership",
    "default privileges",
    "table",
    "column",
    "constraint",
    "index",
    "function",
    "grant",
    "bucket",
    "row security",
    "policy",
    "trigger",
];

/// What a dump relies on and does not hold.
const PREPARED: [&str; 5] = ["role", "setting", "schema", "extension", "membership"];

/// What, if it is there beyond what migrations make, gives somebody more rights or changes what happens.
const WIDENING: [&str; 4] = ["grant", "membership", "policy", "trigger"];

/// So much of a definition is shown.
const SHOWN: usize = 200;

/// Something that migrations make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow)]
struct Fact {
    kind: String,
    object: String,
    parent: String,
    definition: String,
    /// Statements that make it, if it lies outside `public` and `app`.
    make: Option<String>,
    /// Statements that remove it, or what it has beyond its definition.
    remove: Option<String>,
}

/// In the order in which they are made.
type Facts = BTreeMap<(usize, String), Fact>;

/// What the migrations make.
#[derive(Debug)]
pub struct Expected {
    facts: Facts,
}

impl Expected {
    /// Reads it from a database that was made by [`database::migrate`].
    ///
    /// # Errors
    /// If the catalogue cannot be read.
    pub async fn read(conn: &mut PgConnection) -> Result<Self> {
        Ok(Self { facts: read(conn).await?.1 })
    }

    /// Reads it from a file that [`Expected::write`] has written.
    ///
    /// # Errors
    /// If there is none, or it is of other migrations than `migrations`.
    pub fn from_file(file: &Path, migrations: &Migrations) -> Result<Self> {
        let text = fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let kept: Kept =
            serde_json::from_slice(&text).with_context(|| format!("{} is no list of facts", file.display()))?;
        ensure!(kept.migrations == checksums(migrations), "{} was made of other migrations", file.display());
        Ok(Self { facts: keyed(kept.facts) })
    }

    /// Keeps it in a file, with the migrations that it was made of.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, file: &Path, migrations: &Migrations) -> Result<()> {
        let kept = Kept { migrations: checksums(migrations), facts: self.facts.values().cloned().collect() };
        Ok(fs::write(file, serde_json::to_vec(&kept)?)?)
    }
}

/// Definitions are printed in one way up to Postgres 16, and in another since 17: which of the two the server of `url` does.
///
/// # Errors
/// If it cannot be reached.
pub async fn dialect(url: &str) -> Result<Dialect> {
    let mut conn = database::connect(url).await?;
    let number: i32 =
        sqlx::query_scalar("select current_setting('server_version_num')::integer").fetch_one(&mut conn).await?;
    conn.close().await?;
    Ok(if number < 170_000 { Dialect::Until16 } else { Dialect::Since17 })
}

/// How a server prints definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// As Postgres 16 does.
    Until16,
    /// As Postgres 18 does.
    Since17,
}

impl Dialect {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Until16, Self::Since17];

    /// The name of the file that says what is expected of such a server.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Until16 => "expected-16.json",
            Self::Since17 => "expected-18.json",
        }
    }
}

/// What migrations make, as a file has it.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Version and checksum of each.
    migrations: Vec<(i64, Vec<u8>)>,
    facts: Vec<Fact>,
}

fn checksums(migrations: &Migrations) -> Vec<(i64, Vec<u8>)> {
    migrations.migrator.iter().map(|migration| (migration.version, migration.checksum.to_vec())).collect()
}

/// What became of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It stays: somebody must do something about it.
    Stays,
    /// It was put right.
    Repaired,
    /// It could have been put right, and was only looked at.
    Repairable,
    /// There is nothing to put right; it was reported, and is not reported again.
    Noted,
    /// It was to be put right, and the server refused, for this reason.
    Refused(String),
}

/// Something that is not as it was backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What, and how it differs.
    pub what: String,
    /// What became of it.
    pub outcome: Outcome,
}

impl Difference {
    /// Whether nobody has to do anything about it any more.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.outcome, Outcome::Repaired | Outcome::Noted)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.outcome {
            Outcome::Stays => Ok(()),
            Outcome::Noted => f.write_str("; noted, and not reported again"),
            Outcome::Repaired => f.write_str("; repaired"),
            Outcome::Repairable => f.write_str("; can be repaired"),
            Outcome::Refused(why) => write!(f, "; cannot be repaired: {why}"),
        }
    }
}

/// What to do about differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Put right what lies outside `public` and `app`.
    Repair,
    /// Change nothing.
    Look,
}

/// Compares the database of `url` with what migrations make and with what it carries itself. Every difference.
///
/// # Errors
/// If the database cannot be read, or this login sees rows through policies only.
pub async fn check(migrations: &Migrations, url: &str, expected: &Expected, mode: Mode) -> Result<Vec<Difference>> {
    let mut conn = database::connect(url).await?;
    let sees: bool = sqlx::query_scalar("select rolsuper or rolbypassrls from pg_roles where rolname = current_user")
        .fetch_one(&mut conn)
        .await?;
    ensure!(sees, "this login sees rows through policies only: log in as a superuser, or as a role with bypassrls");
    let mut tx = begin(&mut conn).await?;
    let mut differences = Vec::new();
    let record = record(&mut tx, migrations).await?;
    if record.recorded && !record.differences.is_empty() {
        // What they make is missing too, and would bury what the restore has lost.
        differences.extend(record.differences);
    } else {
        differences.extend(record.differences);
        let (migrator, found) = read(&mut tx).await?;
        for change in compare(&expected.facts, &found) {
            differences.push(change.settle(&mut tx, &migrator, mode).await?);
        }
        differences.extend(orphans(&mut tx).await?);
    }
    differences.extend(evidence::check(&mut tx, mode).await?);
    match mode {
        Mode::Repair => tx.commit().await?,
        Mode::Look => tx.rollback().await?,
    }
    conn.close().await?;
    Ok(differences)
}

/// Makes what a dump relies on and does not hold: roles with their settings and memberships, the schema `app`, the extension, and the
/// rights that owners need while their objects are made. Takes what a dump relies on not being there. What was done, a line each.
///
/// # Errors
/// If the database holds what a restore would bring, or something cannot be made.
pub async fn prepare(url: &str, expected: &Expected) -> Result<Vec<String>> {
    let mut conn = database::connect(url).await?;
    let mut tx = begin(&mut conn).await?;
    let occupied: bool =
        sqlx::query_scalar("select to_regclass('public.audit_log') is not null").fetch_one(&mut *tx).await?;
    if occupied {
        bail!("this database holds Spine's tables already: prepare one that is empty");
    }
    let (migrator, found) = read(&mut tx).await?;
    let mut made = Vec::new();
    for change in compare(&expected.facts, &found) {
        let fact = change.fact();
        if PREPARED.contains(&fact.kind.as_str()) || (fact.kind == "grant" && fact.parent.starts_with("schema ")) {
            let difference = change.settle(&mut tx, &migrator, Mode::Repair).await?;
            if let Outcome::Refused(why) = difference.outcome {
                bail!("{}, and cannot be made: {why}", difference.what);
            }
            made.push(format!("made {} {}", fact.kind, fact.object));
        }
    }
    // A dump makes functions of schema public as who restores and then gives them away; the check takes this back.
    tx.execute("grant create on schema public to spine_definer").await?;
    made.extend(close_defaults(&mut tx).await?);
    tx.commit().await?;
    conn.close().await?;
    Ok(made)
}

/// Takes back what this login gives away of everything that it makes in `public`. A new Supabase project grants all of that to the API
/// roles, and a dump says what is granted, never what is not: each of our tables would be theirs to write. The dump's own default
/// privileges come last, when everything is made.
async fn close_defaults(conn: &mut PgConnection) -> Result<Vec<String>> {
    let defaults: Vec<(String, String)> = sqlx::query_as(
        "select k.kind,
                format('alter default privileges in schema public revoke all on %s from %s', k.kind,
                       string_agg(distinct coalesce(quote_ident(r.rolname), 'public'), ', '))
           from pg_default_acl d
           join (values ('r'::\"char\", 'tables'), ('S', 'sequences'), ('f', 'functions'), ('T', 'types')) k (type, kind)
                on k.type = d.defaclobjtype,
                lateral aclexplode(d.defaclacl) a
           left join pg_roles r on r.oid = a.grantee
          where d.defaclrole = current_user::regrole and d.defaclnamespace = 'public'::regnamespace
          group by k.kind order by k.kind",
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut taken = Vec::new();
    for (kind, statement) in defaults {
        conn.execute(AssertSqlSafe(statement)).await?;
        taken.push(format!("took back the default privileges for {kind} in public, which the dump brings again"));
    }
    Ok(taken)
}

/// A transaction in which names are spelled with their schemas, and rows are seen past policies or not at all.
async fn begin(conn: &mut PgConnection) -> Result<sqlx::Transaction<'_, sqlx::Postgres>> {
    let mut tx = conn.begin().await?;
    tx.execute(
        "set local search_path = ''; set local row_security = off; set local statement_timeout = 0; set local timezone = 'UTC'",
    )
    .await?;
    Ok(tx)
}

/// Who migrates here, and everything that [`FACTS`] finds, with the buckets.
async fn read(conn: &mut PgConnection) -> Result<(String, Facts)> {
    let mut tx = begin(conn).await?;
    let migrator: String = sqlx::query_scalar(
        "select format('%I', coalesce((select pg_get_userbyid(c.relowner) from pg_class c where c.oid = to_regclass('public._sqlx_migrations')),
                                      current_user))",
    )
    .fetch_one(&mut *tx)
    .await?;
    let mut facts: Vec<Fact> = sqlx::query_as(FACTS).fetch_all(&mut *tx).await?;
    let stored: bool =
        sqlx::query_scalar("select to_regclass('storage.buckets') is not null").fetch_one(&mut *tx).await?;
    if stored {
        let buckets: Vec<Fact> = sqlx::query_as(
            "select 'bucket' as kind, b.id as object, b.id as parent, d.spelled as definition,
                    format('insert into storage.buckets (id, name, public, file_size_limit) values (%L, %L, %L, %L)
                            on conflict (id) do update set public = excluded.public, file_size_limit = excluded.file_size_limit',
                           b.id, b.name, b.public, b.file_size_limit) as make,
                    null as remove
               from storage.buckets b,
                    lateral (select concat_ws(', ', case when b.public then 'public' else 'private' end,
                                              'files of up to ' || b.file_size_limit || ' bytes') as spelled) d",
        )
        .fetch_all(&mut *tx)
        .await?;
        facts.extend(buckets);
    }
    tx.rollback().await?;
    Ok((migrator, keyed(facts)))
}

fn keyed(facts: Vec<Fact>) -> Facts {
    let place = |fact: &Fact| ORDER.iter().position(|kind| *kind == fact.kind).unwrap_or(ORDER.len());
    facts.into_iter().map(|fact| ((place(&fact), fact.object.clone()), fact)).collect()
}

/// How a fact differs.
#[derive(Debug)]
enum Change<'a> {
    Missing(&'a Fact),
    Other { expected: &'a Fact, found: &'a Fact },
    Beyond(&'a Fact),
}

fn compare<'a>(expected: &'a Facts, found: &'a Facts) -> Vec<Change<'a>> {
    let parents: BTreeSet<&str> = expected.values().map(|fact| fact.parent.as_str()).collect();
    let lacking = expected.iter().filter_map(|(key, fact)| match found.get(key) {
        None => Some(Change::Missing(fact)),
        Some(other) if other.definition != fact.definition => Some(Change::Other { expected: fact, found: other }),
        Some(_) => None,
    });
    let beyond = found.iter().filter(|(key, fact)| {
        // What belongs to nothing of ours is somebody else's, and so are further policies on the platform's tables.
        !expected.contains_key(*key)
            && WIDENING.contains(&fact.kind.as_str())
            && parents.contains(fact.parent.as_str())
            && (fact.make.is_none() || ["grant", "membership"].contains(&fact.kind.as_str()))
            && !fact.object.starts_with("<migrator> in ")
    });
    lacking.chain(beyond.map(|(_, fact)| Change::Beyond(fact))).collect()
}

impl<'a> Change<'a> {
    fn fact(&self) -> &'a Fact {
        match self {
            Self::Missing(fact) | Self::Other { expected: fact, .. } | Self::Beyond(fact) => fact,
        }
    }

    fn what(&self) -> String {
        let fact = self.fact();
        let name = format!("{} {}", fact.kind, fact.object);
        match self {
            Self::Missing(_) => format!("missing: {name}"),
            Self::Beyond(_) => format!("not made by a migration: {name}"),
            Self::Other { expected, found } if expected.definition.len() + found.definition.len() <= 2 * SHOWN => {
                format!("different: {name} is `{}` and should be `{}`", found.definition, expected.definition)
            }
            // Another owner is named even where the rest is long.
            Self::Other { expected, found } => {
                let owner = |fact: &Fact| fact.definition.split_once(", ").map(|(first, _)| first.to_owned());
                match (owner(found), owner(expected)) {
                    (Some(is), Some(should)) if is != should => {
                        format!("different: {name} is {is} and should be {should}")
                    }
                    _ => format!("different: {name}"),
                }
            }
        }
    }

    /// The statements that put it right, in order; none if they would change what was restored.
    fn repair(&self, migrator: &str) -> Option<Vec<String>> {
        let statements = match self {
            Self::Missing(fact) => vec![fact.make.clone()?],
            Self::Other { expected, found } => {
                let make = expected.make.clone()?;
                found.remove.clone().into_iter().chain([make]).collect()
            }
            Self::Beyond(fact) => vec![fact.remove.clone()?],
        };
        Some(statements.into_iter().map(|statement| statement.replace("<migrator>", migrator)).collect())
    }

    async fn settle(&self, tx: &mut PgConnection, migrator: &str, mode: Mode) -> Result<Difference> {
        let outcome = match (self.repair(migrator), mode) {
            (None, _) => Outcome::Stays,
            (Some(_), Mode::Look) => Outcome::Repairable,
            (Some(statements), Mode::Repair) => attempt(tx, &statements).await?,
        };
        Ok(Difference { what: self.what().replace("<migrator>", migrator), outcome })
    }
}

/// Runs all of the statements, or none if one is refused.
async fn attempt(tx: &mut PgConnection, statements: &[String]) -> Result<Outcome> {
    tx.execute("savepoint repair").await?;
    for statement in statements {
        if let Err(error) = tx.execute(AssertSqlSafe(statement.clone())).await {
            tx.execute("rollback to savepoint repair").await.context("a repair ended the transaction")?;
            let why = error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
            return Ok(Outcome::Refused(why));
        }
    }
    Ok(Outcome::Repaired)
}

fn stays(what: String) -> Difference {
    Difference { what, outcome: Outcome::Stays }
}

/// How the record of migrations differs from the files.
#[derive(Debug)]
struct Record {
    /// Whether there is any.
    recorded: bool,
    differences: Vec<Difference>,
}

async fn record(conn: &mut PgConnection, migrations: &Migrations) -> Result<Record> {
    let kept: bool =
        sqlx::query_scalar("select to_regclass('public._sqlx_migrations') is not null").fetch_one(&mut *conn).await?;
    let applied: BTreeMap<i64, Vec<u8>> = if kept {
        sqlx::query_as("select version, checksum from public._sqlx_migrations where success")
            .fetch_all(&mut *conn)
            .await?
            .into_iter()
            .collect()
    } else {
        BTreeMap::new()
    };
    if applied.is_empty() {
        let differences = vec![stays("missing: the record of migrations".to_owned())];
        return Ok(Record { recorded: false, differences });
    }
    let files = &migrations.migrator;
    let mut differences = Vec::new();
    for file in files.iter() {
        match applied.get(&file.version) {
            None => differences.push(stays(format!(
                "missing: migration {} ({}); ./spine migrate applies it, and the rest is compared after that",
                file.version, file.description
            ))),
            Some(checksum) if **checksum != *file.checksum => {
                differences.push(stays(format!("different: migration {} is not as its file", file.version)));
            }
            Some(_) => {}
        }
    }
    let unknown = applied.keys().filter(|version| !files.version_exists(**version));
    differences.extend(
        unknown.map(|version| stays(format!("not made by a migration: {version} is recorded and has no file"))),
    );
    Ok(Record { recorded: true, differences })
}

/// Rows that refer to none. A replica's triggers are off, and with them the foreign keys.
async fn orphans(conn: &mut PgConnection) -> Result<Vec<Difference>> {
    let keys: Vec<(String, String)> = sqlx::query_as(
        "select format('%I of %s', k.conname, k.conrelid::regclass),
                format('select count(*) from %s c where %s and not exists (select from %s p where %s)', k.conrelid::regclass,
                       string_agg(format('c.%I is not null', c.attname), ' and '), k.confrelid::regclass,
                       string_agg(format('p.%I = c.%I', p.attname, c.attname), ' and '))
           from pg_constraint k cross join unnest(k.conkey, k.confkey) u (child, parent)
           join pg_attribute c on c.attrelid = k.conrelid and c.attnum = u.child
           join pg_attribute p on p.attrelid = k.confrelid and p.attnum = u.parent
          where k.contype = 'f' and k.conparentid = 0 and k.connamespace in (select n.oid from pg_namespace n where n.nspname in ('public', 'app'))
          group by k.conname, k.conrelid, k.confrelid order by 1",
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut differences = Vec::new();
    for (key, query) in keys {
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut *conn).await?;
        if rows > 0 {
            differences.push(stays(format!("missing: what {rows} rows refer to by {key}")));
        }
    }
    Ok(differences)
}
