//! What the inbox shows at a million messages, under policies and beside the same statements of a role that no policy holds.
//!
//! The statements are those of `shared::store::inbox`, as `.sqlx` has them. All name the organisation already, so that the bare ones have the
//! same filter; a search asks a function, and its bare statement is what that function does.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use local::database;
use serde_json::Value;
use sqlx::{Arguments, AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgArguments};
use uuid::Uuid;

use super::{
    Budget, Results,
    isolation::{acting, id},
    median, milliseconds,
};
use crate::report::Timed;

const ROWS: &str = include_str!("social_rows.sql");
/// How often each statement is run after a few that do not count; or, where that takes long, for how long.
const TIMES: usize = 400;
const WARM: usize = 10;
const LONG: Duration = Duration::from_secs(8);
/// Organisations of `social_rows.sql`, by size, and a person there who may read the inbox.
const LARGE: u128 = 1;
const SMALL: u128 = 150;
const ADMIN: u128 = 1;
/// A statement that took longer than it may.
const CUT_OFF: &str = "57014";
/// How many rows a page asks for: one more than it shows.
const PAGE: i64 = 51;

/// How many threads have something new, and how many messages are new.
const UNREAD: &str =
    "select count(*), coalesce(sum(unread_count), 0) from public.social_threads where org_id = $1 and unread_count > 0";
const SEARCH: &str =
    "select m.id, t.id as thread_id, m.account_id, m.message_type, m.direction, m.sender_name, m.content, m.received_at
       from public.social_messages m
       join public.social_threads t on t.org_id = m.org_id and t.account_id = m.account_id and t.thread_id = m.thread_id
      where m.org_id = $4 and m.content is not null and m.deleted_at is null
        and app.social_words(m.org_id, m.content) @@ (format('''@%s''', $4)::tsquery && to_tsquery('simple', $1 || ':*'))
        and ($3::timestamptz is null or m.received_at < $3)
      order by m.received_at desc, m.id desc limit $2";

/// What is asked.
struct Ask {
    name: String,
    org: u128,
    sql: String,
    arguments: PgArguments,
    /// What a role asks that no policy holds, where it is not the same.
    bare: Option<(String, PgArguments)>,
}

/// Makes the messages.
pub(super) async fn fill(admin_url: &str) -> Result<()> {
    let mut admin = database::connect(admin_url).await?;
    let timed = Timed::start("a million messages of two hundred organisations");
    admin.execute(ROWS).await.context("social_rows.sql failed")?;
    admin.execute("vacuum analyze").await?;
    timed.done();
    Ok(())
}

pub(super) async fn measure(root: &Path, admin_url: &str, functions_url: &str, results: &mut Results) -> Result<()> {
    let mut admin = database::connect(admin_url).await?;
    let stored = Stored::read(root)?;
    for ask in asks(&stored, &mut admin).await? {
        compare(results, admin_url, functions_url, &ask).await?;
    }
    Ok(())
}

/// Statements of the store.
struct Stored {
    threads: String,
    thread: String,
    messages: String,
    search: String,
}

impl Stored {
    fn read(root: &Path) -> Result<Self> {
        let mut known = Vec::new();
        for entry in fs::read_dir(root.join(".sqlx"))? {
            let query: Value = serde_json::from_slice(&fs::read(entry?.path())?)?;
            known.extend(query["query"].as_str().map(str::to_owned));
        }
        let named = |part: &str| -> Result<String> {
            let mut found = known.iter().filter(|query| query.contains(part));
            let query = found.next().with_context(|| format!(".sqlx has no statement with {part}"))?;
            ensure!(found.next().is_none(), ".sqlx has several statements with {part}");
            Ok(query.clone())
        };
        Ok(Self {
            threads: named("from (select * from public.social_threads t")?,
            thread: named("coalesce(t.last_message_at, t.created_at) as")?,
            messages: named("or (m.received_at, m.id) < ($4, $5)")?,
            search: named("from public.search_social_messages(")?,
        })
    }
}

/// The place in a list after which a page begins.
type Place = Option<(DateTime<Utc>, Uuid)>;

macro_rules! arguments {
    ($($value:expr),+ $(,)?) => {{
        let mut arguments = PgArguments::default();
        $(arguments.add($value).map_err(anyhow::Error::from_boxed)?;)+
        arguments
    }};
}

fn threads(org: u128, status: Option<&str>, unread: bool, after: Place) -> Result<PgArguments> {
    let (at, after) = after.unzip();
    let (kind, account, assigned) = (None::<&str>, None::<Uuid>, None::<Uuid>);
    Ok(arguments!(id(1, org, 0), status, kind, account, assigned, false, unread, at, after, PAGE))
}

async fn asks(stored: &Stored, admin: &mut PgConnection) -> Result<Vec<Ask>> {
    let org = id(1, LARGE, 0);
    let ask = |name: &str, org: u128, sql: &str, arguments: PgArguments| Ask {
        name: name.to_owned(),
        org,
        sql: sql.to_owned(),
        arguments,
        bare: None,
    };
    let later: (DateTime<Utc>, Uuid) = sqlx::query_as(
        "select last_message_at, id from public.social_threads where org_id = $1 order by last_message_at desc, id desc offset 1000 limit 1",
    )
    .bind(org)
    .fetch_one(&mut *admin)
    .await?;
    let (thread, account, place): (Uuid, Uuid, String) = sqlx::query_as(
        "select id, account_id, thread_id from public.social_threads where org_id = $1 order by message_count desc, id limit 1",
    )
    .bind(org)
    .fetch_one(&mut *admin)
    .await?;
    let messages = arguments!(org, account, place, None::<DateTime<Utc>>, None::<Uuid>, PAGE);
    let mut asks = vec![
        ask("inbox page", LARGE, &stored.threads, threads(LARGE, None, false, None)?),
        ask("inbox page, a thousand threads later", LARGE, &stored.threads, threads(LARGE, None, false, Some(later))?),
        ask("inbox page, open and unread", LARGE, &stored.threads, threads(LARGE, Some("open"), true, None)?),
        ask("inbox page, small tenant", SMALL, &stored.threads, threads(SMALL, None, false, None)?),
        ask("a thread", LARGE, &stored.thread, arguments!(org, thread)),
        ask("messages of a thread", LARGE, &stored.messages, messages),
        ask("unread count", LARGE, UNREAD, arguments!(org)),
        ask("unread count, small tenant", SMALL, UNREAD, arguments!(id(1, SMALL, 0))),
    ];
    for (name, tenant, word) in
        [("a rare word", LARGE, "birch"), ("a word of every message", LARGE, "lovely"), ("small tenant", SMALL, "w1")]
    {
        let (most, before) = (i32::try_from(PAGE)?, None::<DateTime<Utc>>);
        let bare = arguments!(word, most, before, id(1, tenant, 0));
        let own = ask(&format!("search, {name}"), tenant, &stored.search, arguments!(word, most, before, None::<Uuid>));
        asks.push(Ask { bare: Some((SEARCH.to_owned(), bare)), ..own });
    }
    Ok(asks)
}

async fn compare(results: &mut Results, admin_url: &str, functions_url: &str, ask: &Ask) -> Result<()> {
    let (bare_sql, bare_arguments) = ask.bare.clone().unwrap_or_else(|| (ask.sql.clone(), ask.arguments.clone()));
    let mut sides = [
        (database::connect(admin_url).await?, bare_sql, bare_arguments),
        (acting(functions_url, "spine_caller", ask.org, ADMIN).await?, ask.sql.clone(), ask.arguments.clone()),
    ];
    sides[0].0.execute("begin").await?;
    if ask.bare.is_some() {
        // Planned for what is looked for, each time.
        sides[0].0.execute("set local plan_cache_mode = force_custom_plan").await?;
    }
    let mut found = Vec::new();
    for (conn, sql, arguments) in &mut sides {
        let all = format!("select count(*), md5(string_agg(q::text, '|')) from ({sql}) q");
        let query = sqlx::query_as_with::<_, (i64, Option<String>), _>(AssertSqlSafe(all), arguments.clone());
        found.push(query.fetch_one(conn).await?);
    }
    ensure!(found[0].0 > 0 && found[0] == found[1], "{}: what is found differs: {found:?}", ask.name);

    let before = scans(admin_url).await?;
    let mut times = [const { Vec::new() }; 2];
    let all_begun = Instant::now();
    for round in 0..WARM + TIMES {
        if round >= WARM + 5 && all_begun.elapsed() > LONG {
            break;
        }
        for ((conn, sql, arguments), times) in sides.iter_mut().zip(&mut times) {
            let query = sqlx::query_with(AssertSqlSafe(sql.clone()), arguments.clone());
            let begun = Instant::now();
            match query.execute(conn).await {
                Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(CUT_OFF) => {
                    let cut_off = milliseconds(begun);
                    results.measure(&format!("{}: cut off after", ask.name), cut_off, "ms", Budget::AtMost(0.0));
                    return Ok(());
                }
                other => other?,
            };
            if round >= WARM {
                times.push(milliseconds(begun));
            }
        }
    }
    for (mut conn, ..) in sides {
        conn.execute("commit").await?;
        conn.execute("select pg_stat_force_next_flush()").await?;
        conn.close().await?;
    }
    let scanned = scans(admin_url).await? - before;
    let [bare, own] = times.map(median);
    results.measure(&format!("{}: bare", ask.name), bare, "ms", Budget::None);
    results.measure(&format!("{}: under policies", ask.name), own, "ms", Budget::None);
    results.measure(&format!("{}: beside it", ask.name), own / bare, "x", Budget::AtMost(1.25));
    results.measure(&format!("{}: tables read from end to end", ask.name), scanned as f64, "", Budget::AtMost(0.0));
    Ok(())
}

/// How often a month of messages, or the threads, were read without an index. Those that are empty do not count.
async fn scans(admin_url: &str) -> Result<i64> {
    let mut admin = database::connect(admin_url).await?;
    let scans = sqlx::query_scalar(
        "select coalesce(sum(s.seq_scan), 0)::bigint from pg_catalog.pg_stat_all_tables s join pg_catalog.pg_class c on c.oid = s.relid
          where s.relname ~ '^social_(messages|threads)' and c.reltuples > 0",
    );
    Ok(scans.fetch_one(&mut admin).await?)
}
