//! Readings: all of it, what has changed, where they go on, and what they leave out.

use std::collections::BTreeSet;

use chrono::NaiveDate;
use integration_tests::{
    TestApp,
    people::{ADAM, BRICK, CLEO, DORA, NORD, OLGA, OSCAR, RENATA, UMA},
};
use reqwest::Method;
use sandbox::{
    Calls, Gate,
    fortnox::{Account, Call, Fault, Fortnox, Rule},
};
use serde_json::{Value, json};

use super::connect;
use crate::alarms;

/// A company that is connected, and whose window of calls is empty.
pub(super) async fn connected(app: &TestApp) -> i64 {
    let company = app.stack.sandbox.fortnox.create_company("Nordic Interiors AB", "556677-8899");
    assert_eq!(connect(app, &OLGA, company).await, "connected", "{}", app.logs());
    company
}

/// Has Fortnox read, and waits for the end. The job.
pub(super) async fn read(app: &TestApp, body: &Value) -> Value {
    let token = app.token(&OLGA);
    let admitted = app.post("/v1/fortnox/sync", &token, body).await.expect(202);
    app.stack.fortnox.drained().await;
    app.get(admitted["job"]["href"].as_str().unwrap(), &token).await.expect(200)
}

/// Has everything read, with a customer that is gone and one who trades in her own name, and clients made of them.
pub(super) async fn read_and_imported(app: &TestApp, company: i64) {
    let (fortnox, token) = (&app.stack.sandbox.fortnox, app.token(&OLGA));
    fortnox.create_customer(company, "Evas Blommor", Some("800101-1234")).unwrap();
    fortnox.delete_customer(company, "2").unwrap();
    succeeded(app, &json!({ "full": true })).await;
    app.stack.look_after_fortnox().await.unwrap();
    app.get("/v1/fortnox/sync", &token).await.expect(200);
    app.get("/v1/fortnox/customers", &token).await.expect(200);
    app.post("/v1/fortnox/customers/import", &token, &json!({ "all": true })).await.expect(200);
}

async fn succeeded(app: &TestApp, body: &Value) -> Value {
    let job = read(app, body).await;
    assert_eq!(job["status"], "succeeded", "{job} {}", app.logs());
    job["result"].clone()
}

/// Calls of customers' lists and of single customers, in their order: the paths with their queries.
fn asked(fortnox: &Fortnox, since: usize) -> Vec<String> {
    let requests = fortnox.requests();
    let paths = requests[since..].iter().filter(|request| request.path.starts_with("/3/customers"));
    paths.map(|request| request.path.clone()).collect()
}

/// Numbers that Fortnox has, and those that are known here.
async fn numbers(app: &TestApp, company: i64) -> (BTreeSet<String>, BTreeSet<String>) {
    let there = app.stack.sandbox.fortnox.customers(company);
    let there = there.iter().map(|customer| customer["CustomerNumber"].as_str().unwrap().to_owned()).collect();
    let here = app.db.text("select string_agg(customer_number, ' ') from fortnox_customers where deleted_at is null");
    (there, here.await.split_whitespace().map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_fortnox_has_is_read_and_shown_with_its_numbers() {
    let app = TestApp::start().await;
    let company = connected(&app).await;
    let fortnox = &app.stack.sandbox.fortnox;
    fortnox.create_customers(company, 700).unwrap();
    fortnox.update_customer(company, "2", &json!({ "Active": false })).unwrap();
    fortnox.set_locked_period(company, NaiveDate::from_ymd_opt(2026, 3, 31)).unwrap();
    let year = fortnox.year_id(company, 2026).unwrap();
    fortnox.put_account(company, year, Account::new(5999, "Åretruntkostnad")).unwrap();
    let demand = |account: &mut Account| (account.cost_center, account.active) = (Rule::Mandatory, false);
    fortnox.change_account(company, year, 5999, demand).unwrap();

    let result = succeeded(&app, &json!({})).await;
    let read = &result["read"];
    assert_eq!(
        (&result["full"], &read["customers"], &read["years"]),
        (&json!(true), &json!(703), &json!(4)),
        "{result}"
    );
    assert_eq!(result["failed"], json!({}));
    let (there, here) = numbers(&app, company).await;
    assert_eq!(there, here);
    let shown = app.get("/v1/fortnox/sync", &app.token(&OLGA)).await.expect(200);
    assert_eq!((&shown["counts"]["customers"], &shown["locked_until"]), (&json!(703), &json!("2026-03-31")), "{shown}");
    assert_eq!((&shown["counts"]["voucher_series"], &shown["counts"]["cost_centers"]), (&json!(12), &json!(3)));
    assert_eq!(shown["counts"]["accounts"], read["accounts"]);
    assert!(shown["read_at"].is_string() && shown["full_at"] == shown["read_at"] && shown["progress"].is_null());
    let inactive = "select string_agg(customer_number, ' ') from fortnox_customers where not active";
    assert_eq!(app.db.text(inactive).await, "2");
    let kept = format!(
        "select cost_center_settings || ' ' || active || ' ' || description from fortnox_accounts where year_id = {year} and number = 5999"
    );
    assert_eq!(app.db.text(&kept).await, "MANDATORY false Åretruntkostnad");
    let manual = "select string_agg(code, ' ') from (select distinct code from fortnox_voucher_series where manual) s";
    assert_eq!(app.db.text(manual).await, "SP");

    // Another organisation sees nothing of it.
    let theirs = app.get("/v1/fortnox/sync", &app.token(&OSCAR)).await.expect(200);
    assert_eq!((&theirs["counts"]["customers"], &theirs["read_at"]), (&json!(0), &Value::Null));
    assert_eq!(app.get("/v1/fortnox/customers", &app.token(&OSCAR)).await.expect(200)["customers"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_customers_take_25_calls_at_most_while_pages_shift_and_none_is_lost_or_doubled() {
    let app = TestApp::start().await;
    let company = connected(&app).await;
    let fortnox = &app.stack.sandbox.fortnox;
    fortnox.create_customers(company, 10_000).unwrap();
    let before = fortnox.requests().len();
    let gates = [Gate::default(), Gate::default()];
    // The first call asks who is inactive. Two pages are answered, and not let go before Fortnox has changed.
    for (gate, call) in gates.iter().zip([4, 12]) {
        fortnox.arrange(Call::Rest, Fault::Held(gate.clone()), Calls::Number(call));
    }
    let token = app.token(&OLGA);
    let admitted = app.post("/v1/fortnox/sync", &token, &json!({ "full": true })).await.expect(202);
    fortnox.held_times(1).await;
    for number in 100..115 {
        fortnox.delete_customer(company, &number.to_string()).unwrap();
    }
    fortnox.delete_customer(company, "2").unwrap();
    fortnox.delete_customer(company, "9000").unwrap();
    fortnox.create_customers(company, 7).unwrap();
    gates[0].open();
    fortnox.held_times(2).await;
    for number in 115..130 {
        fortnox.delete_customer(company, &number.to_string()).unwrap();
    }
    gates[1].open();
    app.stack.fortnox.drained().await;
    let job = app.get(admitted["job"]["href"].as_str().unwrap(), &token).await.expect(200);
    assert_eq!(job["status"], "succeeded", "{job} {}", app.logs());
    let calls = asked(fortnox, before);
    // One for those that are inactive, and 21 pages.
    assert_eq!(calls.len(), 22, "{calls:#?}");
    assert_eq!(fortnox.refused_by_limit(company), 0);
    // All that are there are here, once. Who was deleted after they had been read is found by the next full pass, one by one.
    let (there, here) = numbers(&app, company).await;
    assert_eq!(there.difference(&here).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(app.db.count("select count(*) - count(distinct customer_number) from fortnox_customers").await, 0);
    succeeded(&app, &json!({ "full": true })).await;
    let (there, here) = numbers(&app, company).await;
    assert_eq!(there, here);
    assert_eq!(fortnox.refused_by_limit(company), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_is_interrupted_goes_on_where_it_was() {
    let app = TestApp::start().await;
    let company = connected(&app).await;
    let fortnox = &app.stack.sandbox.fortnox;
    fortnox.create_customers(company, 1500).unwrap();
    let before = fortnox.requests().len();
    // Two pages are read; then Fortnox is away.
    for call in 4..8 {
        fortnox.arrange(Call::Rest, Fault::BadGateway, Calls::Number(call));
    }
    let job = read(&app, &json!({})).await;
    assert_eq!((&job["status"], &job["waiting"]["reason"]), (&json!("queued"), &json!("fortnox_unavailable")), "{job}");
    assert_eq!((&job["progress"]["step"], &job["progress"]["read"]["customers"]), (&json!("customers"), &json!(980)));
    assert_eq!((&job["progress"]["of"]["customers"], &job["attempts"]), (&json!(1503), &json!(0)));
    let shown = app.get("/v1/fortnox/sync", &app.token(&OLGA)).await.expect(200);
    assert_eq!((&shown["progress"]["read"]["customers"], &shown["read_at"]), (&json!(980), &Value::Null), "{shown}");
    fortnox.clear_faults();
    app.db.run("update jobs set run_after = now() where job_type = 'fortnox_sync'").await;
    app.stack.sweep().await.unwrap();
    app.stack.fortnox.drained().await;
    assert_eq!(app.db.text("select status from jobs where job_type = 'fortnox_sync'").await, "succeeded");
    let (there, here) = numbers(&app, company).await;
    assert_eq!(there, here);
    let calls = asked(fortnox, before);
    let pages = |offset: &str| {
        calls.iter().filter(|path| path.contains(&format!("offset={offset}&")) && !path.contains("filter")).count()
    };
    // The page that failed was asked for twice, and no other.
    assert_eq!((pages("0"), pages("480"), pages("960"), pages("1440")), (1, 1, 2, 1), "{calls:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_changed_is_read_by_itself_and_a_deletion_is_found_by_the_full_pass_alone() {
    let app = TestApp::start().await;
    let company = connected(&app).await;
    let fortnox = &app.stack.sandbox.fortnox;
    fortnox.create_customers(company, 600).unwrap();
    assert_eq!(succeeded(&app, &json!({})).await["full"], true);
    // A day later, by both clocks: what is older than two hours before the last reading is not asked for.
    fortnox.advance(86_400);
    app.db
        .run(
            "update fortnox_sync_state set customers_since = customers_since + interval '1 day', accounts_since = accounts_since + interval '1 day';
             update org_integrations set expires_at = now()",
        )
        .await;
    fortnox.update_customer(company, "7", &json!({ "Name": "Nytt Namn AB" })).unwrap();
    fortnox.delete_customer(company, "8").unwrap();
    let result = succeeded(&app, &json!({})).await;
    assert_eq!(
        (&result["full"], &result["read"]["customers"], &result["deleted_customers"]),
        (&json!(false), &json!(1), &json!(0))
    );
    let name = "select data ->> 'Name' from fortnox_customers where customer_number = '7'";
    assert_eq!(app.db.text(name).await, "Nytt Namn AB");
    let deleted = "select count(*) from fortnox_customers where deleted_at is not null";
    assert_eq!(app.db.count(deleted).await, 0);
    // All else is there, though it was not read.
    assert_eq!(app.db.count("select count(*) from fortnox_customers").await, 603);
    assert!(app.db.count("select count(*) from fortnox_accounts").await > 20);

    let result = succeeded(&app, &json!({ "full": true })).await;
    assert_eq!((&result["full"], &result["deleted_customers"]), (&json!(true), &json!(1)), "{result}");
    let gone = "select string_agg(customer_number, ' ') from fortnox_customers where deleted_at is not null";
    assert_eq!(app.db.text(gone).await, "8");
    assert_eq!(app.db.count("select count(*) from fortnox_customers").await, 603, "it stays");
    // One that is seen again is there again.
    app.db.run("update fortnox_customers set deleted_at = now() where customer_number = '9'").await;
    succeeded(&app, &json!({ "full": true })).await;
    assert_eq!(app.db.text(gone).await, "8");
    // Nobody asked for one twice that is known to be gone.
    let single = |path: &&String| path.starts_with("/3/customers/8");
    assert_eq!(asked(fortnox, 0).iter().filter(single).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_series_and_years_that_are_gone_are_gone_here() {
    let app = TestApp::start().await;
    let company = connected(&app).await;
    let fortnox = &app.stack.sandbox.fortnox;
    succeeded(&app, &json!({})).await;
    let (year, other) = (fortnox.year_id(company, 2026).unwrap(), fortnox.year_id(company, 2027).unwrap());
    let accounts = format!("select count(*) from fortnox_accounts where year_id = {year}");
    let before = app.db.count(&accounts).await;
    fortnox.remove_account(company, year, 1930).unwrap();
    fortnox.remove_series(company, year, "SP").unwrap();
    fortnox.remove_year(company, other).unwrap();
    succeeded(&app, &json!({})).await;
    // What has changed does not tell of an account that is gone.
    assert_eq!(app.db.count(&accounts).await, before);
    succeeded(&app, &json!({ "full": true })).await;
    assert_eq!(app.db.count(&accounts).await, before - 1);
    let rest = format!(
        "select (select count(*) from fortnox_accounts where year_id = {other}) || ' ' || (select count(*) from fortnox_years)
                || ' ' || (select count(*) from fortnox_voucher_series where code = 'SP')"
    );
    assert_eq!(app.db.text(&rest).await, "0 3 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_licence_or_the_consent_does_not_cover_is_left_out_and_named() {
    let app = TestApp::start().await;
    let company = connected(&app).await;
    let fortnox = &app.stack.sandbox.fortnox;
    fortnox.set_licence(company, "customer", false).unwrap();
    fortnox.set_licence(company, "costcenter", false).unwrap();
    let result = succeeded(&app, &json!({})).await;
    assert_eq!(
        result["failed"],
        json!({ "customers": "licence_missing", "cost_centers": "licence_missing" }),
        "{result}"
    );
    assert_eq!(result["read"]["years"], 4);
    assert!(app.db.count("select count(*) from fortnox_accounts").await > 20);
    // Nothing was read to its end, so the next reading is of everything.
    let unread = "select count(*) from fortnox_sync_state where customers_since is null and accounts_since is not null";
    assert_eq!(app.db.count(unread).await, 1);
    assert_eq!(app.db.count("select count(*) from fortnox_customers where deleted_at is null").await, 3);
    fortnox.set_licence(company, "customer", true).unwrap();
    let result = succeeded(&app, &json!({})).await;
    assert_eq!((&result["full"], &result["failed"]), (&json!(true), &json!({ "cost_centers": "licence_missing" })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_ends_the_job_and_nothing_is_queued_until_a_person_connects_again() {
    let app = TestApp::start().await;
    let company = connected(&app).await;
    app.stack.sandbox.fortnox.revoke_consent(company);
    app.db.run("update org_integrations set expires_at = now()").await;
    let job = read(&app, &json!({})).await;
    assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!("fortnox_reconnect")), "{job}");
    let token = app.token(&OLGA);
    app.post("/v1/fortnox/sync", &token, &json!({})).await.expect_error(409, "fortnox_not_connected");
    app.db.run("update org_integrations set sync_after = now() - interval '1 day'").await;
    assert_eq!(app.stack.look_after_fortnox().await.unwrap()["syncs_queued"], 0);
    assert_eq!(app.stack.look_after_fortnox().await.unwrap()["tokens"]["to_reconnect"], 1);
    alarms::rings(&app, "fortnox-reconnect", 1.0);
    assert_eq!(connect(&app, &OLGA, company).await, "connected");
    succeeded(&app, &json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn customers_of_a_company_that_was_connected_before_are_nobodys() {
    let app = TestApp::start().await;
    connected(&app).await;
    succeeded(&app, &json!({})).await;
    app.db
        .run("update fortnox_customers set client_id = (select id from clients where org_id = fortnox_customers.org_id limit 1) where customer_number = '1'")
        .await;
    app.post("/v1/fortnox/connection/disconnect", &app.token(&OLGA), &Value::Null).await.expect(200);
    let other = app.stack.sandbox.fortnox.create_company("Another AB", "556600-1122");
    app.stack.sandbox.fortnox.delete_customer(other, "3").unwrap();
    assert_eq!(connect(&app, &OLGA, other).await, "connected");
    succeeded(&app, &json!({})).await;
    let (there, here) = numbers(&app, other).await;
    assert_eq!(there, here);
    assert_eq!(app.db.count("select count(*) from fortnox_customers where client_id is not null").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_queues_a_reading_an_hour_and_a_full_one_a_night_and_each_once() {
    let app = TestApp::start().await;
    let queued = async || {
        let done = app.stack.look_after_fortnox().await.unwrap();
        app.stack.fortnox.drained().await;
        done["syncs_queued"].as_i64().unwrap()
    };
    assert_eq!(queued().await, 0, "nothing is connected");
    connected(&app).await;
    assert_eq!((queued().await, queued().await), (1, 0), "{}", app.logs());
    let full = "select result ->> 'full' from fortnox_sync_state";
    assert_eq!(app.db.text(full).await, "true");
    let later = async |change: &str| {
        app.db.run(&format!("update org_integrations set sync_after = sync_after - interval '{change}'")).await
    };
    later("59 minutes").await;
    assert_eq!(queued().await, 0);
    later("2 minutes").await;
    assert_eq!((queued().await, app.db.text(full).await), (1, "false".to_owned()));
    // A night later.
    app.db.run("update fortnox_sync_state set full_at = now() - interval '25 hours'").await;
    later("61 minutes").await;
    assert_eq!((queued().await, app.db.text(full).await), (1, "true".to_owned()));
    // One that fails is tried again a quarter of an hour later; while it is open no other begins.
    app.stack.sandbox.fortnox.arrange(Call::Rest, Fault::BadGateway, Calls::Every);
    later("61 minutes").await;
    assert_eq!(queued().await, 1);
    app.db.run("update jobs set status = 'failed', finished_at = now(), lease_token = null, lease_until = null").await;
    later("14 minutes").await;
    assert_eq!(queued().await, 0);
    app.stack.sandbox.fortnox.clear_faults();
    later("2 minutes").await;
    assert_eq!(
        (queued().await, app.db.text("select status from jobs where job_type = 'fortnox_sync'").await),
        (1, "succeeded".to_owned())
    );
    // A switch that is off queues none.
    app.db.run("update system_settings set value = 'false' where key = 'fortnox.enabled'").await;
    later("61 minutes").await;
    assert_eq!(queued().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_night_begins_between_two_and_three_in_sweden_summer_and_winter() {
    let app = TestApp::start().await;
    let night = |at: &str| format!("select app.fortnox_night('{NORD}', '{at}')::text");
    let minute = app.db.count(&format!("select abs(hashtextextended('{NORD}'::text, 1) % 60)")).await;
    let at = |day: &str, hour: i64| format!("{day} {hour:02}:{minute:02}:00+00");
    assert_eq!(app.db.text(&night("2026-07-10 12:00+00")).await, at("2026-07-10", 0));
    assert_eq!(app.db.text(&night("2026-12-10 12:00+00")).await, at("2026-12-10", 1));
    assert_eq!(app.db.text(&night("2026-12-10 00:30+00")).await, at("2026-12-09", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_that_nobody_uses_is_renewed_after_twenty_days_and_its_age_is_measured() {
    let app = TestApp::start().await;
    connected(&app).await;
    let age = async |days: i64| {
        app.db
            .run(&format!("update org_integrations set issued_at = now() - interval '{days} days', expires_at = now()"))
            .await;
        app.stack.look_after_fortnox().await.unwrap()
    };
    app.db.run("update system_settings set value = 'false' where key = 'fortnox.enabled'").await;
    let young = age(19).await;
    assert_eq!((&young["tokens_renewed"], &young["tokens"]["oldest_days"]), (&json!(0), &json!(19.0)), "{young}");
    let renewals = || app.stack.sandbox.fortnox.token_requests().get("refresh_token").copied().unwrap_or_default();
    assert_eq!(renewals(), 0);
    let old = age(21).await;
    assert_eq!((&old["tokens_renewed"], &old["tokens"]["oldest_days"]), (&json!(1), &json!(0.0)), "{old}");
    assert_eq!((renewals(), app.stack.look_after_fortnox().await.unwrap()["tokens_renewed"].clone()), (1, json!(0)));
    let logs = app.logs();
    assert!(
        logs.contains("\"FortnoxTokenAgeDays\":19") && logs.contains("\"FortnoxConnectionsToReconnect\":0"),
        "{logs}"
    );
    // While it cannot be renewed it grows older.
    app.stack.fault("fortnox", "refuse", Calls::Every).unwrap();
    let mut watch = alarms::Watch::new();
    for (days, rings) in [(29, false), (30, true)] {
        watch.period(&app);
        age(days).await;
        watch.period(&app);
        assert_eq!(watch.value("fortnox-token-age").map(f64::floor), Some(f64::from(i32::try_from(days).unwrap())));
        assert_eq!(watch.rings("fortnox-token-age"), rings, "{days} days");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reading_is_open_at_a_time_and_a_key_that_comes_again_begins_none() {
    let app = TestApp::start().await;
    connected(&app).await;
    app.stack.fortnox.pause();
    let (olga, adam) = (app.token(&OLGA), app.token(&ADAM));
    let ask = async |token: &str, key: Option<&str>| {
        let body = json!({ "full": true });
        app.send_keyed(Method::POST, "/v1/fortnox/sync", token, Some(&body), key).await.expect(202)["job"]["id"].clone()
    };
    let first = ask(&olga, Some("one")).await;
    let (second, third) = tokio::join!(ask(&adam, None), ask(&olga, None));
    assert_eq!((&first, &first), (&second, &third));
    assert_eq!(app.db.count("select count(*) from jobs where job_type = 'fortnox_sync'").await, 1);
    app.stack.fortnox.resume();
    app.stack.fortnox.drained().await;
    assert_eq!(app.db.text("select status from jobs where job_type = 'fortnox_sync'").await, "succeeded");
    assert_eq!(ask(&olga, Some("one")).await, first);
    assert_eq!(app.db.text("select status from jobs where job_type = 'fortnox_sync'").await, "succeeded");
    let other = app.send_keyed(Method::POST, "/v1/fortnox/sync", &olga, Some(&json!({})), Some("one")).await;
    other.expect_error(422, "idempotency_key_reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_who_manage_integrations_have_it_read_and_nobody_else_does() {
    let app = TestApp::start().await;
    connected(&app).await;
    for person in [DORA, CLEO, UMA] {
        let refused = app.post("/v1/fortnox/sync", &app.token(&person), &json!({})).await;
        assert_eq!(refused.status, 403, "{} {}", person.email, refused.body);
        let refused = app.get("/v1/fortnox/sync", &app.token(&person)).await;
        assert_eq!(refused.status, 403, "{} {}", person.email, refused.body);
    }
    let agent = app.agent_token(&RENATA).await;
    app.post("/v1/fortnox/sync", &agent, &json!({})).await.expect_error(403, "people_only");
    app.get("/v1/fortnox/customers", &agent).await.expect_error(403, "people_only");
    app.post("/v1/fortnox/sync", &app.token(&OSCAR), &json!({})).await.expect_error(409, "fortnox_not_connected");
    assert_eq!(app.db.count("select count(*) from jobs where job_type = 'fortnox_sync'").await, 0);
    // A consultant sees the customers of their clients alone, and a client's person none.
    let client = "select client_id from client_consultants where user_id = ";
    app.db
        .run(&format!(
            "update fortnox_customers set client_id = ({client}'{}' and org_id = '{NORD}') where customer_number = '2'",
            CLEO.id
        ))
        .await;
    let seen = async |token: &str| {
        let page = app.get("/v1/fortnox/customers", token).await.expect(200);
        page["customers"].as_array().unwrap().iter().map(|row| row["customer_number"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(seen(&app.token(&OLGA)).await, ["1", "2", "3"]);
    assert_eq!(seen(&app.token(&CLEO)).await, ["2"]);
    assert_eq!(seen(&app.token(&UMA)).await, Vec::<Value>::new());
    assert_eq!(app.db.count(&format!("select count(*) from fortnox_sync_state where org_id = '{BRICK}'")).await, 0);
}
