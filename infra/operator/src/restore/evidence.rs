//! The audit log, compared with what the database carries of it.

use anyhow::Result;
use sqlx::PgConnection;

use super::{Difference, Mode, Outcome, stays};

/// An entry's id is made in the moment that it is stamped; further apart, in seconds, something has stamped it again.
const APART: i32 = 10;

/// How many entries are named.
const NAMED: usize = 3;

/// Compares entries with their digests, their ids with their times, and all of them with the tallies; reports what was loaded past the
/// stamp, once.
pub(super) async fn check(conn: &mut PgConnection, mode: Mode) -> Result<Vec<Difference>> {
    let there: bool = sqlx::query_scalar(
        "select to_regclass('public.audit_log') is not null and to_regclass('app.audit_tallies') is not null
            and to_regclass('app.audit_loads') is not null and to_regprocedure('app.audit_digest(public.audit_log)') is not null
            and to_regprocedure('app.audit_fold(bytea)') is not null",
    )
    .fetch_one(&mut *conn)
    .await?;
    if !there {
        return Ok(Vec::new());
    }
    let mut differences = Vec::new();
    let altered: Vec<String> = sqlx::query_scalar(
        "select a.id::text from public.audit_log a where a.digest is distinct from app.audit_digest(a) order by 1",
    )
    .fetch_all(&mut *conn)
    .await?;
    if !altered.is_empty() {
        differences.push(stays(format!(
            "different: {} not what {} digest says",
            named(&altered, "is", "are"),
            its(&altered)
        )));
    }
    let stamped_again: Vec<String> = sqlx::query_scalar(
        "select a.id::text from public.audit_log a
          where get_byte(uuid_send(a.id), 6) >> 4 = 7
            and abs(extract(epoch from a.occurred_at) * 1000
                    - ('x0000' || encode(substr(uuid_send(a.id), 1, 6), 'hex'))::bit(64)::bigint) > $1 * 1000
          order by 1",
    )
    .bind(APART)
    .fetch_all(&mut *conn)
    .await?;
    if !stamped_again.is_empty() {
        let which = named(&stamped_again, "was", "were");
        differences.push(stays(format!("different: {which} stamped again: the time is not the one in the id")));
    }
    differences.extend(tallies(conn).await?);
    differences.extend(loads(conn, mode).await?);
    Ok(differences)
}

async fn tallies(conn: &mut PgConnection) -> Result<Vec<Difference>> {
    // Entries of no organisation are tallied too, and null joins nothing.
    let rows: Vec<(Option<String>, i64, i64, i64)> = sqlx::query_as(
        "with written as (
             select coalesce(t.org_id::text, '') as org, t.xact, sum(t.entries)::bigint as entries, bit_xor(t.fold) as fold
               from app.audit_tallies t group by 1, 2),
         found as (
             select coalesce(a.org_id::text, '') as org, a.xact, count(*) as entries, bit_xor(app.audit_fold(a.digest)) as fold
               from public.audit_log a group by 1, 2)
         select nullif(org, ''), coalesce(sum(w.entries), 0)::bigint, coalesce(sum(f.entries), 0)::bigint,
                count(*) filter (where (w.entries, w.fold) is distinct from (f.entries, f.fold))
           from written w full join found f using (org, xact)
          group by org having bool_or((w.entries, w.fold) is distinct from (f.entries, f.fold)) order by org",
    )
    .fetch_all(conn)
    .await?;
    let differences = rows.into_iter().map(|(org, written, found, transactions)| {
        let whose = org.map_or_else(|| "no organisation".to_owned(), |org| format!("organisation {org}"));
        stays(format!(
            "different: the audit log of {whose} holds {found} entries and {written} were written; those of {transactions} transactions differ"
        ))
    });
    Ok(differences.collect())
}

async fn loads(conn: &mut PgConnection, mode: Mode) -> Result<Vec<Difference>> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "select format('by %s at %s', l.loaded_by, to_char(l.loaded_at, 'YYYY-MM-DD HH24:MI:SS \"UTC\"')), l.entries
           from app.audit_loads l where l.checked_at is null order by l.loaded_at",
    )
    .fetch_all(&mut *conn)
    .await?;
    if mode == Mode::Repair && !rows.is_empty() {
        sqlx::query("update app.audit_loads set checked_at = clock_timestamp() where checked_at is null")
            .execute(conn)
            .await?;
    }
    let outcome = if mode == Mode::Repair { Outcome::Noted } else { Outcome::Stays };
    let differences = rows.into_iter().map(|(by, entries)| Difference {
        what: format!("{entries} entries of the audit log were loaded in replica mode, past the stamp, {by}"),
        outcome: outcome.clone(),
    });
    Ok(differences.collect())
}

/// How many entries, with the ids of the first.
fn named(ids: &[String], one: &str, many: &str) -> String {
    let shown = ids[..ids.len().min(NAMED)].join(", ");
    match ids.len() {
        1 => format!("entry {shown} of the audit log {one}"),
        count if count <= NAMED => format!("{count} entries of the audit log ({shown}) {many}"),
        count => format!("{count} entries of the audit log ({shown} and so on) {many}"),
    }
}

fn its(ids: &[String]) -> &'static str {
    if ids.len() == 1 { "its" } else { "their" }
}
