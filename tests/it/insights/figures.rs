//! Figures are what a direct computation gives, and none of them rests on few.

use std::{cell::RefCell, collections::BTreeMap};

use integration_tests::{
    Server, TestApp, TestDatabase,
    acting::Actor,
    people::{ADAM, NORD, OLGA},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ask, figure, leads};
use crate::SERVERS;

const LEAST: i64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn figures_equal_a_direct_computation() {
    let app = TestApp::start().await;
    for week in 1..=12 {
        leads(&app, NORD, week, "new", "website", None, 4 + week % 5).await;
        leads(&app, NORD, week, "won", "referral", None, 5 + week % 3).await;
        leads(&app, NORD, week, "lost", "ads", None, 6).await;
    }
    let insight = ask(&app, &ADAM, "leads", "week").await.expect(202);
    let count = async |and: &str, weeks_ago: u32| {
        let sql = format!(
            "select count(*) from leads where org_id = '{NORD}' {and}
               and created_at >= date_trunc('week', now(), 'UTC') - interval '{weeks_ago} weeks'
               and created_at < date_trunc('week', now(), 'UTC') - interval '{} weeks'",
            weeks_ago - 1
        );
        app.db.count(&sql).await
    };
    let mut direct = Vec::new();
    for week in (1..=12).rev() {
        direct.push(count("", week).await);
    }
    assert_eq!(insight["series"][0]["points"], json!(direct));
    let (now, before) = (direct[11], direct[10]);
    assert_eq!(figure(&insight, "total.current"), now);
    assert_eq!(figure(&insight, "total.previous"), before);
    assert_eq!(figure(&insight, "total.change"), now - before);
    let mut earlier = direct[..11].to_vec();
    earlier.sort_unstable();
    assert_eq!(figure(&insight, "total.usual").as_f64().unwrap(), earlier[5] as f64);
    let percent = (1000.0 * (now - before) as f64 / before as f64).round() / 10.0;
    assert!((figure(&insight, "total.change_percent").as_f64().unwrap() - percent).abs() < 1e-9);
    for (dimension, value) in
        [("status", "new"), ("status", "won"), ("status", "lost"), ("source", "referral"), ("source", "ads")]
    {
        let and = format!("and {dimension} = '{value}'");
        let (now, before) = (count(&and, 1).await, count(&and, 2).await);
        assert_eq!(figure(&insight, &format!("{dimension}.{value}.current")), now, "{value}");
        assert_eq!(figure(&insight, &format!("{dimension}.{value}.previous")), before, "{value}");
        assert_eq!(figure(&insight, &format!("{dimension}.{value}.change")), now - before, "{value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_are_told_in_the_unit_people_know_and_only_of_enough_rows() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let invoices = |currency: &str, amount: i64, many: u32| {
        format!(
            "insert into invoices (org_id, stripe_invoice_id, amount, currency, status, created_at)
             select '{NORD}', gen_random_uuid()::text, {amount}, '{currency}', 'paid', date_trunc('month', now(), 'UTC') - interval '2 days'
               from generate_series(1, {many})"
        )
    };
    for (currency, amount, many) in [("SEK", 123_450, 5), ("JPY", 1000, 6), ("KWD", 1001, 7), ("EUR", 999, 4)] {
        db.run(&invoices(currency, amount, many)).await;
    }
    let told = figures(&db, &Actor::person(&OLGA).in_function(), "invoices", "month").await;
    let text = |id: &str| {
        let found = told["figures"].as_array().unwrap().iter().find(|figure| figure["id"] == id);
        found.map(|figure| figure["text"].as_str().unwrap().to_owned())
    };
    assert_eq!(text("amount.sek.current").as_deref(), Some("6,172.50 SEK"));
    assert_eq!(text("amount.jpy.current").as_deref(), Some("6,000 JPY"));
    assert_eq!(text("amount.kwd.current").as_deref(), Some("7.007 KWD"));
    assert_eq!(text("amount.eur.current"), None);
    assert!(!told.to_string().to_lowercase().contains("eur"), "{told}");
    assert_eq!(text("total.current").as_deref(), Some("22"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_rests_on_the_rows_that_have_a_value_and_not_on_those_that_have_none() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let owner = Actor::person(&OLGA).in_function();
    let id = uuid::Uuid::from_u128(1);
    db.run(&format!(
        "insert into jobs (id, org_id, job_type) values ('{id}', '{NORD}', 'render');
         insert into usage_reservations (id, org_id, job_id, agent, requests, tokens, cost_micro_usd, windows, expires_at)
         values ('{id}', '{NORD}', '{id}', 'renderer', 1, 1, 1, '[]', now())"
    ))
    .await;
    // Of eight calls, so many have a cost and so many, the last ones, have tokens.
    for costs in 0..=6 {
        let tokens = 6 - costs;
        db.run(&format!(
            "delete from provider_calls;
             insert into provider_calls (org_id, job_id, reservation_id, attempt, purpose, provider, model, started_at, cost_micro_usd, tokens)
             select '{NORD}', '{id}', '{id}', n, 'test', 'anthropic', 'm', at,
                    case when n <= {costs} then 1000000 end, case when n > 8 - {tokens} then 70 end
               from generate_series(1, 8) n, lateral (select date_trunc('month', now(), 'UTC') - interval '2 days' as at) t"
        ))
        .await;
        let answer = figures(&db, &owner, "provider_calls", "month").await;
        let value = |id: &str| figure(&answer, id).as_f64();
        assert_eq!(value("total.current"), Some(8.0), "{answer}");
        for (name, known, each) in [("cost", costs, 1.0), ("tokens", tokens, 70.0)] {
            let sum = (known >= LEAST).then_some(known as f64 * each);
            assert_eq!(value(&format!("{name}.current")), sum, "{known} of {name}: {answer}");
            let series = answer["series"].as_array().unwrap().iter().find(|series| series["id"] == name);
            let last = series.and_then(|series| series["points"].as_array()?.last()?.as_f64());
            assert_eq!(last, sum, "{known} of {name}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_line_with_earlier_periods_is_told_and_what_chance_does_is_not() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let owner = Actor::role("spine_caller");
    for (points, unit, outcome) in [
        ("20,22,19,21,20,18,20,60", "count", Some("unusually high")),
        ("20,22,19,21,20,18,20,26", "count", None),
        // The same every week: chance alone would make more of a difference.
        ("20,20,20,20,20,20,20,30", "count", None),
        ("40,41,39,40,42,40,41,6", "count", Some("unusually low")),
        // Too few to know what is usual, since what is withheld counts for nothing.
        ("20,null,null,21,20,18,20,60", "count", None),
        ("20,21,20,18,20,60", "count", None),
        ("20,22,19,21,20,18,20,null", "count", None),
        ("10.00,10.10,9.90,10.00,10.05,10.00,10.00,13.00", "usd_micro", Some("unusually high")),
        ("10.00,10.10,9.90,10.00,10.05,10.00,10.00,11.00", "usd_micro", None),
        // A first period that was withheld changes nothing; nor does one without any.
        ("null,0.43,0.41,0.44,0.43,0.42,0.45,9.43", "usd_micro", Some("unusually high")),
        ("0,0.43,0.41,0.44,0.43,0.42,0.45,0.46", "usd_micro", None),
        // Whoever has just begun has no usual yet.
        ("0,0,0,0,0,0,0,6", "count", None),
        ("0,0,20,22,19,21,20,60", "count", None),
        ("0,20,22,19,21,20,18,60", "count", Some("unusually high")),
    ] {
        let rows = unit == "count";
        let query =
            format!("select app.insight_trend('x', 'things', '{unit}', array[{points}]::numeric[], {rows}) as it");
        let told = db.ask(&owner, &query).await.unwrap()[0]["it"].clone();
        let unusual = told.as_array().unwrap().iter().find(|figure| figure["id"] == "x.unusual");
        assert_eq!(unusual.map(|figure| figure["text"].as_str().unwrap()), outcome, "{points}: {told}");
    }
    // Of what is summed and is no row, a twentieth more is nothing.
    let told = "select app.insight_trend('x', 'tokens', 'count', array[100000,100050,99990,100020,100030,100000,100010,102000]::numeric[], false) as it";
    let told = db.ask(&owner, told).await.unwrap()[0]["it"].to_string();
    assert!(!told.contains("unusual"), "{told}");
    // Minor units are as Stripe counts them.
    for (unit, sum, text) in [
        ("sek", 12345, "123.45 SEK"),
        ("jpy", 500, "500 JPY"),
        ("isk", 500, "5.00 ISK"),
        ("mga", 500, "500 MGA"),
        ("kwd", 1500, "1.500 KWD"),
    ] {
        let query = format!("select app.insight_text(app.insight_units({sum}, '{unit}'), '{unit}') as it");
        assert_eq!(db.ask(&owner, &query).await.unwrap()[0]["it"], *text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_is_a_block_of_at_least_five_and_all_of_them_make_the_whole() {
    // Every way to divide up to sixteen rows among four values: not even who knows how parts are made can tell a small one from
    // what is published, since others would have been published alike.
    let db = TestDatabase::new(Server::Postgres18).await;
    let published = db
        .ask(
            &Actor::role("spine_caller"),
            "select a, b, c, d, (select jsonb_object_agg(part, n) from app.insight_parts('{a,b,c,d}', array[a, b, c, d]::bigint[])) as shown
               from generate_series(0, 16) a, generate_series(0, 16) b, generate_series(0, 16) c, generate_series(0, 16) d
              where a + b + c + d <= 16",
        )
        .await
        .unwrap();
    let mut alike: BTreeMap<String, Vec<[i64; 4]>> = BTreeMap::new();
    for row in published.as_array().unwrap() {
        let counts = ["a", "b", "c", "d"].map(|name| row[name].as_i64().unwrap());
        let whole: i64 = counts.iter().sum();
        if let Some(shown) = row["shown"].as_object() {
            check_parts(counts, shown);
            alike.entry(format!("{whole} {}", row["shown"])).or_default().push(counts);
        }
    }
    assert!(alike.len() > 300, "{}", alike.len());
    for (shown, worlds) in alike {
        for value in 0..4 {
            let certain = worlds.iter().all(|world| world[value] == worlds[0][value]);
            let small = (1..LEAST).contains(&worlds[0][value]);
            assert!(!(certain && small), "{shown} tells that value {value} has {}", worlds[0][value]);
        }
    }
}

fn check_parts(counts: [i64; 4], shown: &serde_json::Map<String, Value>) {
    assert_eq!(
        shown.values().map(|n| n.as_i64().unwrap()).sum::<i64>(),
        counts.iter().sum::<i64>(),
        "{counts:?} {shown:?}"
    );
    for (part, n) in shown {
        assert!(n.as_i64().unwrap() >= LEAST, "{counts:?}: {part}");
        if let Some(place) = ["a", "b", "c", "d"].iter().position(|value| value == part) {
            assert_eq!(n.as_i64().unwrap(), counts[place]);
        }
    }
}

/// What can be computed from what an answer publishes: every number rests on five rows or none, parts are blocks of their whole, and a
/// point, a figure and a part of the same name agree.
fn check_published(answer: &Value) {
    let points = answer["series"][0]["points"].as_array().unwrap();
    for point in points.iter().filter_map(Value::as_i64) {
        assert!(point == 0 || point >= LEAST, "{answer}");
    }
    let last = points.len() - 1;
    for split in answer["breakdowns"].as_array().unwrap() {
        for (name, whole) in [("points", &points[last]), ("previous", &points[last - 1])] {
            let parts: Vec<i64> = split[name].as_array().unwrap().iter().filter_map(Value::as_i64).collect();
            assert!(parts.iter().all(|part| *part >= LEAST), "{split}");
            if !parts.is_empty() {
                assert_eq!(parts.iter().sum::<i64>(), whole.as_i64().unwrap(), "{split}");
            }
        }
    }
    for figure in answer["figures"].as_array().unwrap() {
        let (id, value) = (figure["id"].as_str().unwrap(), &figure["value"]);
        if id.ends_with(".current") || id.ends_with(".previous") {
            let value = value.as_i64().unwrap();
            assert!(value == 0 || value >= LEAST, "{figure}");
        } else if let Some(of) = id.strip_suffix(".change") {
            // A difference is told of two that are.
            for end in ["current", "previous"] {
                assert!(!super::figure(answer, &format!("{of}.{end}")).is_null(), "{figure}");
            }
        }
    }
}

async fn figures(db: &TestDatabase, actor: &Actor, table: &str, period: &str) -> Value {
    let query = format!("select app.insight_figures('{table}', '{period}', now()) as it");
    db.ask(actor, &query).await.unwrap()[0]["it"].clone()
}

#[test]
fn no_generated_table_publishes_a_group_smaller_than_five() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let db = runtime.block_on(TestDatabase::new(Server::Postgres18));
    let row = (0..3_u32, 0..6_usize, 0..5_usize);
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(rows in proptest::collection::vec(row, 0..60))| {
        runtime.block_on(async {
            let values: Vec<String> = rows.iter().map(|(week, status, source)| {
                let status = ["new", "contacted", "qualified", "proposal", "won", "lost"][*status];
                let source = ["website", "referral", "other", "greta_garbo_of_lakeside_drive", "rest"][*source];
                format!("({week}, '{status}', '{source}')")
            }).collect();
            let values = if values.is_empty() { "(-9, 'new', 'ads')".to_owned() } else { values.join(", ") };
            db.run(&format!(
                "delete from leads;
                 insert into leads (org_id, client_name, status, source, closed_at, created_at)
                 select '{NORD}', 'n', status, source, case when status in ('won', 'lost') then now() end,
                        date_trunc('week', now(), 'UTC') - (week + 1) * interval '1 week'
                   from (values {values}) v (week, status, source)"
            )).await;
            let answer = figures(&db, &Actor::person(&ADAM).in_function(), "leads", "week").await;
            check_published(&answer);
            assert!(!answer.to_string().contains("greta"), "{answer}");
        });
    });
}

#[test]
fn a_change_is_told_with_its_sign_and_size_from_every_earlier_value() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (db, admin) = runtime.block_on(async {
        let db = TestDatabase::new(Server::Postgres18).await;
        let admin = db.admin().await;
        (db, RefCell::new(admin))
    });
    let value = prop_oneof![Just(0_i64), -30_i64..30, -1_000_000_i64..1_000_000];
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(points in proptest::collection::vec(value, 2..12))| {
        let query = sqlx::query_scalar("select app.insight_trend('x', 'amount', 'sek', $1::bigint[]::numeric[], false)");
        let told: Value = runtime.block_on(query.bind(&points).fetch_one(&mut *admin.borrow_mut())).unwrap();
        let of = |name: &str| {
            let id = format!("x.{name}");
            told.as_array().unwrap().iter().find(|figure| figure["id"] == *id).cloned()
        };
        let (before, now) = (points[points.len() - 2], points[points.len() - 1]);
        let change = now - before;
        prop_assert_eq!(of("change").unwrap()["value"].as_i64(), Some(change));
        let sign = if change < 0 { "-" } else { "" };
        let text = of("change").unwrap()["text"].as_str().unwrap().replace(',', "");
        prop_assert_eq!(text, format!("{sign}{} SEK", change.abs()));
        // A percentage is of the size of what was before, and goes the way the change goes; from nothing there is none.
        let percent = of("change_percent");
        prop_assert_eq!(percent.is_none(), before == 0);
        if let Some(percent) = percent {
            let exact = 100.0 * change as f64 / before.abs() as f64;
            let value = percent["value"].as_f64().unwrap();
            prop_assert!((value - exact).abs() <= 0.050_001, "{} of {} is {}", change, before, value);
            prop_assert!(value == 0.0 || (value < 0.0) == (change < 0), "{}", percent);
            let text = percent["text"].as_str().unwrap();
            prop_assert_eq!(text.trim_end_matches('%').parse::<f64>().unwrap(), value);
        }
        if let (Some(unusual), Some(usual)) = (of("unusual"), of("usual")) {
            let high = now as f64 > usual["value"].as_f64().unwrap();
            prop_assert_eq!(unusual["text"].as_str().unwrap(), if high { "unusually high" } else { "unusually low" });
        }
    });
    drop(db);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_usual_below_zero_allows_for_a_twentieth_of_it_as_above_zero() {
    let db = TestDatabase::new(Server::Postgres18).await;
    // Earlier points lie close together: a twentieth of the usual is what chance may do, three and a half times.
    for (usual, now, unusual) in
        [(1000, 1175, false), (1000, 1176, true), (-1000, -1175, false), (-1000, -1176, true), (-1000, -824, true)]
    {
        let points = format!("array[{}, {now}]::numeric[]", vec![usual.to_string(); 8].join(", "));
        let told = format!("select app.insight_trend('x', 'amount', 'sek', {points}, false) as it");
        let told = db.ask(&Actor::role("postgres"), &told).await.unwrap()[0]["it"].clone();
        let found = told.as_array().unwrap().iter().any(|figure| figure["id"] == "x.unusual");
        assert_eq!(found, unusual, "{now} beside {usual}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_is_one_of_utc_wherever_whoever_asks_is() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let admin = Actor::person(&ADAM).in_function();
        for period in ["day", "week", "month"] {
            let mut told = Vec::new();
            for zone in ["UTC", "Asia/Kathmandu", "America/Los_Angeles"] {
                let query = format!(
                    "select set_config('timezone', '{zone}', true), app.insight_figures('leads', '{period}', '2026-03-31 23:30+00') - 'period_start' - 'period_end' as it"
                );
                told.push(db.ask(&admin, &query).await.unwrap()[0]["it"].clone());
            }
            assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
            let first = told[0]["series"][0]["labels"][0].as_str().unwrap().to_owned();
            assert_eq!(
                first,
                match period {
                    "day" => "2026-03-17",
                    "week" => "2026-01-05",
                    _ => "2025-03-01",
                }
            );
        }
    }
}
