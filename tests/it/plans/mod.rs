//! No statement that functions send reads a large table from end to end. Which statements those are is not listed here: they are taken
//! from the server as it plans them, while the functions do everything they do, beside thousands of rows of others.

mod capture;
mod fill;
mod growth;
mod scenario;

use std::collections::{BTreeMap, BTreeSet};

use capture::{Planned, Scan, words};
use integration_tests::{Locale, Server, Setup, TestApp, TestDatabase, database_log};
use serde_json::Value;

/// Tables of which a scan is right, and why.
const SMALL: [(&str, &str); 7] = [
    ("social_capabilities", "what each interface of a platform can do: two dozen rows, which migrations write"),
    ("system_settings", "the installation's switches: a dozen rows"),
    ("models", "a few models: a dozen rows"),
    ("model_roles", "a few models for each agent: a dozen rows"),
    ("model_prices", "prices of a few models: some dozens of rows"),
    ("plan_prices", "an operator's price list: a few rows"),
    ("billing_reconciliations", "a row for each hour"),
];

/// Statements that no request, delivery, queue or schedule sends, and who does.
const ELSEWHERE: &[(&str, &str)] = &[
    ("select app.begin_rebuild($1)", "./spine rebuild-billing, by hand"),
    ("select app.remove_untold_billing()", "./spine rebuild-billing, by hand"),
    (
        "select id, raw, status from public.webhook_events where org_id = $1 and provider = 'stripe' and ($2::uuid is null or id > $2) order by id limit $3",
        "./spine rebuild-billing, by hand",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_of_a_function_reads_a_large_table_from_end_to_end_whatever_the_collation_is() {
    let template = TestDatabase::new(Server::Postgres18).await;
    let samples = fill::samples(&template, &SMALL.map(|(table, _)| table)).await;
    // The collation of literals and columns is the database's.
    let (in_c, in_c_utf8) = tokio::join!(
        TestDatabase::in_locale(Server::Postgres18, Locale::C),
        TestDatabase::in_locale(Server::Postgres18, Locale::CUtf8)
    );
    // Plans as the server chooses them on one, such as serve any parameters on the other.
    let (in_c, in_c_utf8) = tokio::join!(run(in_c, "auto", &samples), run(in_c_utf8, "force_generic_plan", &samples));
    let log = database_log();
    let sent = queries();
    let mut wrong = Vec::new();
    for (collation, db) in [("C", &in_c), ("C.UTF-8", &in_c_utf8)] {
        let planned = capture::read(&log, db.name());
        assert!(planned.sent.len() > sent.len(), "the server told of {} statements", planned.sent.len());
        for query in sent.iter().filter(|query| !planned.sent.contains(*query)) {
            wrong.push(format!("{collation}: never sent, so nothing is known of its plan: {query}"));
        }
        wrong.extend(scans(db, &planned).await.into_iter().map(|scan| format!("{collation}: {scan}")));
    }
    assert!(wrong.is_empty(), "{} to put right:\n{}", wrong.len(), wrong.join("\n"));
}

/// Has the functions do everything they do, with plans of this mode.
async fn run(db: TestDatabase, mode: &str, samples: &[fill::Sample]) -> TestDatabase {
    let empty = fill::fill(&db, samples, &(1..=1000)).await;
    assert!(empty.is_empty(), "{empty:#?}");
    let set = |setting: &str| format!("alter database \"{}\" set {setting}", db.name());
    for setting in ["debug_print_plan = on", "debug_pretty_print = off", &format!("plan_cache_mode = {mode}")] {
        db.run(&set(setting)).await;
    }
    let app = TestApp::set_up(Setup { db: Some(db), ..Setup::default() }).await;
    scenario::everything(&app).await;
    let TestApp { db, .. } = app;
    db
}

/// All statements that functions may send, as the compiler knows them.
fn queries() -> BTreeSet<String> {
    let directory = local::home::root().join(".sqlx");
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let read = files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).map(|path| {
        let query: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        words(query["query"].as_str().unwrap())
    });
    read.filter(|query| !ELSEWHERE.iter().any(|(elsewhere, _)| elsewhere == query)).collect()
}

/// What is read from end to end and must not be, in words.
async fn scans(db: &TestDatabase, planned: &Planned) -> Vec<String> {
    let named: Vec<(i64, String, bool)> = sqlx::query_as(
        "select c.oid::bigint, c.relname::text, coalesce(i.indpred is not null, false) from pg_class c left join pg_index i on i.indexrelid = c.oid
          where c.relnamespace <> all ('{pg_catalog,information_schema,pg_toast}'::regnamespace[])",
    )
    .fetch_all(&mut db.admin().await)
    .await
    .unwrap();
    let named: BTreeMap<u32, (String, bool)> =
        named.into_iter().map(|(oid, name, partial)| (u32::try_from(oid).unwrap(), (name, partial))).collect();
    let mut wrong = Vec::new();
    for (scan, statements) in &planned.scans {
        let table = match scan {
            Scan::Table(table) | Scan::Index { table, .. } => table,
        };
        let Some((table, _)) = named.get(table) else { continue };
        if SMALL.iter().any(|(small, _)| small == table) {
            continue;
        }
        let what = match scan {
            Scan::Table(_) => format!("{table} is read from end to end"),
            Scan::Index { index, .. } => match &named[index] {
                // An index of what is left to do is there to be read whole.
                (_, true) => continue,
                (index, false) => format!("{table} is read along all of {index}"),
            },
        };
        for statement in statements {
            wrong.push(format!("{what}: {statement}"));
        }
    }
    wrong
}
