//! `./spine vector-index`: an index of its own for a tenant whose vectors are many.
//!
//! Search is exact within the organisation, which is quick up to some thousand vectors. An index shared by all tenants finds next to
//! nothing under row-level security; one that holds a single tenant's rows is chosen for that tenant alone.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::database;

/// Below so many vectors, exact search is quick and misses nothing.
pub const WORTH_IT: i64 = 5000;

const TABLES: [&str; 2] = ["org_brain", "client_intelligence"];
const LOOK: Duration = Duration::from_secs(3);

/// What became of a table's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was built now.
    Made,
    /// It was there before.
    Present,
    /// It was dropped now.
    Dropped,
    /// There was none to drop.
    Absent,
    /// There are too few vectors: so many.
    TooFew(i64),
}

/// A table's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// As Postgres knows it.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// Builds the organisation's indexes beside whoever reads and writes, as the tables' owner. With `force`, however few its vectors are.
///
/// # Errors
/// If there is no such organisation, its index is being built already, or the server refuses. What is half built is dropped.
pub async fn make(url: &str, slug: &str, force: bool, tell: &mut impl FnMut(&str)) -> Result<Vec<Index>> {
    let (mut conn, org) = open(url, slug).await?;
    // A table with wide rows is read once; the graph is built in memory as far as it fits.
    conn.execute("set maintenance_work_mem = '512MB'; set statement_timeout = 0; set lock_timeout = '10s'").await?;
    let mut made = Vec::new();
    for table in TABLES {
        let name = name(table, org);
        let count = format!("select count(*) from public.{table} where org_id = '{org}' and embedding is not null");
        let vectors: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut conn).await?;
        let outcome = match is_valid(&mut conn, &name).await? {
            Some(true) => Outcome::Present,
            _ if vectors < WORTH_IT && !force => Outcome::TooFew(vectors),
            valid => {
                if valid.is_some() {
                    tell(&format!("dropping {name}, which an earlier attempt left unfinished"));
                    drop_index(&mut conn, &name).await?;
                }
                tell(&format!("building {name} over {vectors} vectors"));
                build(&mut conn, url, table, &name, org, tell).await?;
                let comment = format!("comment on index public.{name} is 'Vectors of the organisation {slug} alone.'");
                as_owner(&mut conn, comment).await?;
                Outcome::Made
            }
        };
        made.push(Index { name, outcome });
    }
    conn.close().await?;
    Ok(made)
}

/// Drops the organisation's indexes: its search is exact again.
///
/// # Errors
/// If there is no such organisation, its index is being built, or the server refuses.
pub async fn drop(url: &str, slug: &str) -> Result<Vec<Index>> {
    let (mut conn, org) = open(url, slug).await?;
    conn.execute("set lock_timeout = '10s'").await?;
    let mut dropped = Vec::new();
    for table in TABLES {
        let name = name(table, org);
        let outcome = if is_valid(&mut conn, &name).await?.is_some() {
            drop_index(&mut conn, &name).await?;
            Outcome::Dropped
        } else {
            Outcome::Absent
        };
        dropped.push(Index { name, outcome });
    }
    conn.close().await?;
    Ok(dropped)
}

/// By id, since a slug may change.
fn name(table: &str, org: Uuid) -> String {
    format!("{table}_vectors_{}_idx", org.simple())
}

async fn open(url: &str, slug: &str) -> Result<(PgConnection, Uuid)> {
    let mut conn = database::connect(url).await?;
    let org: Option<Uuid> = sqlx::query_scalar("select id from public.organizations where slug = $1")
        .bind(slug)
        .fetch_optional(&mut conn)
        .await?;
    let org = org.with_context(|| {
        format!("no organisation is called {slug}, or this login sees none: it must be the one that migrates")
    })?;
    // Held until the connection ends. Not waited for: whoever waits holds a snapshot, and the index would wait for that.
    let free: bool =
        sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended('spine vector index ' || $1::text, 0))")
            .bind(org)
            .fetch_one(&mut conn)
            .await?;
    if !free {
        bail!("another vector-index is at work for {slug}");
    }
    conn.execute("set role spine_owner").await.context("log in as who migrates: that role may become spine_owner")?;
    // Counting is not the owner's: it has no data path.
    conn.execute("reset role").await?;
    Ok((conn, org))
}

/// Whether it is complete; nothing if there is none.
async fn is_valid(conn: &mut PgConnection, name: &str) -> Result<Option<bool>> {
    let valid =
        sqlx::query_scalar("select i.indisvalid from pg_index i where i.indexrelid = to_regclass('public.' || $1)");
    Ok(valid.bind(name).fetch_optional(conn).await?)
}

async fn as_owner(conn: &mut PgConnection, statement: String) -> Result<()> {
    conn.execute("set role spine_owner").await?;
    let done = conn.execute(AssertSqlSafe(statement)).await;
    conn.execute("reset role").await?;
    done?;
    Ok(())
}

async fn drop_index(conn: &mut PgConnection, name: &str) -> Result<()> {
    as_owner(conn, format!("drop index concurrently if exists public.{name}")).await
}

async fn build(
    conn: &mut PgConnection,
    url: &str,
    table: &str,
    name: &str,
    org: Uuid,
    tell: &mut impl FnMut(&str),
) -> Result<()> {
    let builder: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *conn).await?;
    let mut watcher = database::connect(url).await?;
    let statement = format!(
        "create index concurrently {name} on public.{table} using hnsw (embedding extensions.vector_cosine_ops) where org_id = '{org}'"
    );
    let built = {
        let building = as_owner(conn, statement);
        tokio::pin!(building);
        loop {
            tokio::select! {
                built = &mut building => break built,
                () = tokio::time::sleep(LOOK) => if let Some(progress) = progress(&mut watcher, builder).await { tell(&progress); },
            }
        }
    };
    watcher.close().await.ok();
    if built.is_err() {
        // It would cost every write and serve no search.
        drop_index(conn, name).await.ok();
    }
    built.with_context(|| format!("{name} was not built"))
}

/// How far the builder is, if it can be told.
async fn progress(watcher: &mut PgConnection, builder: i32) -> Option<String> {
    let row: (String, i64, i64, i64, i64) = sqlx::query_as(
        "select phase, blocks_done, blocks_total, tuples_done, tuples_total from pg_stat_progress_create_index where pid = $1",
    )
    .bind(builder)
    .fetch_optional(watcher)
    .await
    .ok()??;
    let (phase, blocks, of_blocks, tuples, of_tuples) = row;
    Some(match (of_tuples, of_blocks) {
        (1.., _) => format!("  {phase}: {tuples} of {of_tuples} rows"),
        (_, 1..) => format!("  {phase}: {blocks} of {of_blocks} blocks, {tuples} rows"),
        _ => format!("  {phase}"),
    })
}
