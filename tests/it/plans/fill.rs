//! Fills the tables with so much history of other organisations that reading it from end to end is the wrong plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use integration_tests::TestDatabase;
use serde_json::{Map, Value, json};
use sqlx::AssertSqlSafe;

use crate::isolation::world::World;

/// How many rows of a table each organisation has.
const ROWS_OF_AN_ORGANISATION: u32 = 5;

/// Tables that no function reads, and that are left empty for the sake of time: one that is read all the same is read from end to end, and
/// has to leave this list.
const ASIDE: [&str; 19] = [
    "agent_runs",
    "audit_seals",
    "blog_categories",
    "blog_media",
    "blog_posts",
    "blog_tags",
    "client_intelligence",
    "client_templates",
    "contracts",
    "data_ownership",
    "deploys",
    "org_brain",
    "personas",
    "project_images",
    "project_tags",
    "proposals",
    "prospect_intelligence",
    "services",
    "social_capabilities",
];

/// What makes a row history, which nothing has to be done about.
fn ended(table: &str) -> Value {
    match table {
        // A copy is no longer as it was written: it is stamped again.
        "audit_log" => json!({ "digest": null }),
        "approvals" => json!({ "status": "refused", "decided_at": "2026-01-01T00:00:00Z" }),
        "fortnox_sync_state" => {
            json!({ "reconcile_after": "2100-01-01T00:00:00Z", "payments_after": "2100-01-01T00:00:00Z" })
        }
        "jobs" => json!({ "status": "succeeded", "finished_at": "2026-01-01T00:00:00Z" }),
        "agent_limits" => json!({ "scope": "user", "scope_id": "00000000-0000-7000-8000-0000000000fe" }),
        "outbox" => json!({ "delivered_at": "2026-01-01T00:00:00Z" }),
        "usage_reservations" => json!({ "state": "settled", "ended_at": "2026-01-01T00:00:00Z" }),
        "social_accounts" => json!({ "status": "disconnected" }),
        "social_attachments" => json!({ "status": "refused" }),
        "webhook_events" => json!({ "status": "applied" }),
        "meter_reports" => json!({ "status": "reported", "reported_at": "2026-01-01T00:00:00Z" }),
        "billing_events" => json!({ "meter_report_id": "00000000-0000-7000-8000-0000000000ff" }),
        "billing_checkouts" => json!({ "status": "complete" }),
        "render_requests" => json!({ "status": "completed", "completed_at": "2026-01-01T00:00:00Z" }),
        "leads" => json!({ "status": "won", "closed_at": "2026-01-01T00:00:00Z" }),
        "lead_assignments" => json!({ "ended_at": "2026-01-01T00:00:00Z", "end_reason": "left" }),
        "insight_settings" => json!({ "nightly": false }),
        "social_ai_settings" => json!({ "sentiment": false, "drafts": "off" }),
        "lead_assignment_settings" => json!({ "enabled": false, "stopped_at": null, "stop_reason": null }),
        "stripe_objects" => json!({ "terminal": true }),
        _ => json!({}),
    }
}

/// A row of a table, and what of it must differ in every copy.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    table: String,
    columns: Vec<Column>,
    /// Its unique keys, and whether two rows without a value are the same to them.
    keys: Vec<(Vec<String>, bool)>,
    row: Map<String, Value>,
}

#[derive(Debug, Clone)]
struct Column {
    name: String,
    kind: String,
    /// Whether an index looks into its parts.
    gin: bool,
}

/// A row of every table there is, from a database in which every table has one.
pub(super) async fn samples(db: &TestDatabase, small: &[&str]) -> Vec<Sample> {
    World::sample(db).await;
    let tables: Vec<(String, Value, Value)> = sqlx::query_as(
        "select c.relname::text,
                (select jsonb_agg(jsonb_build_array(
                            a.attname, a.atttypid::regtype,
                            exists (select from pg_index i join pg_class x on x.oid = i.indexrelid join pg_am m on m.oid = x.relam
                                            where i.indrelid = c.oid and m.amname = 'gin' and a.attnum = any (i.indkey))) order by a.attnum)
                   from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''),
                (select jsonb_agg(jsonb_build_array((select jsonb_agg(a.attname order by k.place)
                                                       from unnest(i.indkey::smallint[]) with ordinality k (attnum, place)
                                                       join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum), i.indnullsnotdistinct))
                   from pg_index i where i.indrelid = c.oid and i.indisunique)
           from pg_class c
          where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
            and c.relname <> '_sqlx_migrations' and c.relname <> all ($1)",
    )
    .bind(small)
    .fetch_all(&mut db.admin().await)
    .await
    .unwrap();
    let mut samples = Vec::new();
    for (table, columns, keys) in tables.into_iter().filter(|(table, ..)| !ASIDE.contains(&table.as_str())) {
        let row = format!("select to_jsonb(t) from public.{table} t limit 1");
        let row: Option<Value> =
            sqlx::query_scalar(AssertSqlSafe(row)).fetch_optional(&mut db.admin().await).await.unwrap();
        let Some(Value::Object(mut row)) = row else {
            panic!("{table} has no row: rows.txt has a line for each table")
        };
        row.extend(ended(&table).as_object().cloned().unwrap_or_default());
        let columns: Vec<(String, String, bool)> = serde_json::from_value(columns).unwrap();
        let columns = columns.into_iter().map(|(name, kind, gin)| Column { name, kind, gin }).collect();
        let keys = serde_json::from_value(keys).unwrap();
        samples.push(Sample { table, columns, keys, row });
    }
    samples
}

impl Sample {
    fn kind(&self, name: &str) -> &str {
        self.columns.iter().find(|column| column.name == name).map(|column| column.kind.as_str()).unwrap_or_default()
    }

    /// The statement that copies the row. Every id in it becomes another in each copy, and the same in all tables, so that copies refer
    /// to each other as the samples do.
    fn copies(&self, rows: &RangeInclusive<u32>) -> String {
        let mut changes: BTreeMap<&str, String> = BTreeMap::new();
        // An organisation has one, or several.
        let mut single = self.table == "organizations";
        for (key, nulls_are_the_same) in &self.keys {
            let set = |name: &String| !self.row[name].is_null();
            let told_apart = key.iter().any(|name| set(name) && self.kind(name) == "uuid" && name != "org_id");
            if told_apart || (!nulls_are_the_same && !key.iter().all(set)) {
                continue;
            }
            let whose = key.iter().any(|name| set(name) && name == "org_id");
            single |= whose;
            match key.iter().rev().find(|name| set(name) && ["text", "bytea"].contains(&self.kind(name))) {
                Some(name) if !whose => drop(changes.insert(
                    name,
                    match self.kind(name) {
                        "text" => format!("(r.row ->> '{name}') || n"),
                        _ => format!("sha256(convert_to((r.row ->> '{name}') || n, 'UTF8'))"),
                    },
                )),
                _ => {}
            }
        }
        for Column { name, kind, gin } in self.columns.iter().filter(|column| !self.row[&column.name].is_null()) {
            // Hardly two rows have the same: an account may be of two organisations.
            if name == "platform_id" {
                changes.insert(name, "(r.row ->> 'platform_id') || n".to_owned());
            }
            if *gin && kind == "text[]" {
                changes
                    .insert(name, format!("array(select x || n from jsonb_array_elements_text(r.row -> '{name}') x)"));
            }
            // Keys of requests are forgotten after a day; all else has been there for some days.
            if kind == "timestamp with time zone" && self.table != "idempotency_keys" {
                // Messages are spread over all of the months that there are, so that none is small: this one too, which the scenario writes to.
                let at = if self.table == "social_messages" {
                    let ago = "make_interval(mins => (n * 7919 % 40000)::integer)";
                    format!(
                        "case when n % 2 = 0 then (r.row ->> '{name}')::timestamptz - {ago} else greatest(date_trunc('month', now(), 'UTC'), now() - {ago}) end"
                    )
                } else {
                    format!("(r.row ->> '{name}')::timestamptz - make_interval(mins => (n)::integer)")
                };
                changes.insert(name, at);
            }
        }
        let row = Value::Object(self.row.clone()).to_string().replace('\'', "''");
        let mut text = format!("'{row}'");
        for id in ids(&row) {
            let whose = self.row.get("org_id").is_some_and(|org| org == id.as_str());
            let number = if whose && !single { format!("n - n % {ROWS_OF_AN_ORGANISATION}") } else { "n".to_owned() };
            text = format!("replace({text}, '{id}', md5(({number}) || '{id}')::uuid::text)");
        }
        let changes: Vec<String> = changes.iter().map(|(name, value)| format!("'{name}', {value}")).collect();
        let names: Vec<String> = self.columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
        let scale = match self.table.as_str() {
            // Of these a hundred are looked for at once, which a scan of fewer would serve well.
            "social_accounts"
            | "social_attachments"
            | "social_message_keys"
            | "social_messages"
            | "social_threads"
            | "stripe_objects"
            | "webhook_events" => 16,
            // Their rows are short, and each role has many.
            "permissions" => 3,
            _ => 1,
        };
        format!(
            "insert into public.{0} ({1}) select x.{2}
               from generate_series({4}, {5}) n
              cross join lateral (select {text}::jsonb as row) r
              cross join lateral jsonb_populate_record(null::public.{0}, r.row || jsonb_build_object({3})) x",
            self.table,
            names.join(", "),
            names.join(", x."),
            changes.join(", "),
            (rows.start() - 1) * scale + 1,
            rows.end() * scale
        )
    }
}

/// All ids that a text contains.
fn ids(text: &str) -> BTreeSet<String> {
    let starts = 0..text.len().saturating_sub(35);
    starts
        .filter_map(|at| text.get(at..at + 36))
        .filter(|text| text.as_bytes()[8] == b'-' && uuid::Uuid::try_parse(text).is_ok())
        .map(str::to_owned)
        .collect()
}

/// Copies the samples into another database. Which tables could not be filled, and why.
pub(super) async fn fill(db: &TestDatabase, samples: &[Sample], rows: &RangeInclusive<u32>) -> Map<String, Value> {
    let mut admin = db.admin().await;
    let mut empty = Map::new();
    let set = "set session_replication_role = replica; select app.ensure_social_month(m::timestamptz) from (values ('2025-12-15'), ('2026-01-15'), (now()::text)) months (m)";
    sqlx::raw_sql(set).execute(&mut admin).await.unwrap();
    for sample in samples {
        if let Err(error) = sqlx::raw_sql(AssertSqlSafe(sample.copies(rows))).execute(&mut admin).await {
            empty.insert(sample.table.clone(), json!(error.to_string()));
        }
    }
    sqlx::raw_sql("vacuum analyze").execute(&mut admin).await.unwrap();
    empty
}
