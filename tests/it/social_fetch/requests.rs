//! By HTTP and by the schedule: whose accounts, what is due, and what is forgotten.

use integration_tests::{
    TestApp,
    people::{NORD, OLGA, OSCAR, UMA},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{instagram, succeeded};

/// Reads of accounts and figures, and ticks.
pub(super) async fn every_statement(app: &TestApp) {
    let token = app.token(&OLGA);
    app.stack.look_after_social().await.unwrap();
    app.stack.social.drained().await;
    app.get("/v1/social/accounts", &token).await.expect(200);
    let own = format!("select id::text from social_accounts where org_id = '{}' limit 1", OLGA.org);
    let account = app.db.text(&own).await;
    let series = format!("/v1/social/accounts/{account}/analytics?metric=reach&from=2026-11-01&to=2026-11-30");
    app.get(&series, &token).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_of_another_organisation_is_not_there() {
    let app = TestApp::start().await;
    let (account, _) = instagram(&app).await;
    let theirs = app.token(&OSCAR);
    for id in [account.to_string(), Uuid::nil().to_string(), "x".to_owned()] {
        let fetch = app.post(&format!("/v1/social/accounts/{id}/fetch"), &theirs, &Value::Null).await;
        fetch.expect_error(404, "social_account_not_found");
        let series = format!("/v1/social/accounts/{id}/analytics?metric=reach&from=2026-11-01&to=2026-11-30");
        app.get(&series, &theirs).await.expect_error(404, "social_account_not_found");
    }
    assert_eq!(app.get("/v1/social/accounts", &theirs).await.expect(200)["accounts"], json!([]));
    assert_eq!(app.db.count("select count(*) from jobs").await, 0);
    assert!(app.stack.sandbox.instagram.requests().is_empty());
    // Nor is it a client's, and an agent asks for nothing.
    let uma = app.token(&UMA);
    app.post(&format!("/v1/social/accounts/{account}/fetch"), &uma, &Value::Null)
        .await
        .expect_error(403, "permission_missing");
    app.get("/v1/social/accounts", &uma).await.expect_error(403, "permission_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_shown_with_what_it_can_do_and_how_its_last_reading_went() {
    let app = TestApp::start().await;
    let (account, _) = instagram(&app).await;
    let token = app.token(&OLGA);
    let shown = app.get("/v1/social/accounts", &token).await.expect(200)["accounts"][0].clone();
    assert_eq!(
        (&shown["id"], &shown["status"], &shown["fetched_at"]),
        (&json!(account), &json!("active"), &Value::Null),
        "{shown}"
    );
    let capabilities = shown["capabilities"].as_array().unwrap();
    let messages = capabilities.iter().find(|capability| capability["capability"] == "messages").unwrap();
    assert_eq!((&messages["availability"], &messages["delivered"]), (&json!("available"), &json!(true)), "{shown}");
    succeeded(&app, account).await;
    let shown = app.get("/v1/social/accounts", &token).await.expect(200)["accounts"][0].clone();
    assert!(shown["fetched_at"].is_string() && shown["fetch_error"].is_null(), "{shown}");
    assert!(!shown.to_string().contains("token"), "{shown}");
    for wrong in
        ["", "metric=reach", "metric=REACH&from=2026-11-01&to=2026-11-02", "metric=reach&from=2025-11-01&to=2026-11-30"]
    {
        let answer = app.get(&format!("/v1/social/accounts/{account}/analytics?{wrong}"), &token).await;
        assert_eq!(answer.status, 422, "{wrong}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_queues_what_is_due_once_and_at_another_time_for_each_account() {
    let app = TestApp::start().await;
    instagram(&app).await;
    app.stack.social.pause();
    let queued = async || app.stack.look_after_social().await.unwrap()["fetches_queued"].clone();
    assert_eq!((queued().await, queued().await), (json!(1), json!(0)));
    app.stack.social.resume();
    app.stack.social.drained().await;
    assert_eq!(
        app.db.text("select status from jobs where job_type = 'social_fetch'").await,
        "succeeded",
        "{}",
        app.logs()
    );
    let next = "select (fetch_after between now() + interval '11 minutes' and now() + interval '19 minutes')::text from social_accounts";
    assert_eq!((app.db.text(next).await, queued().await), ("true".to_owned(), json!(0)));
    // Switched off, nothing is queued and nothing read.
    app.db.run("update social_accounts set fetch_after = now(); update system_settings set value = 'false' where key = 'social.enabled'").await;
    assert_eq!(queued().await, json!(0));
    let logs = app.logs();
    assert!(
        logs.contains("\"SocialOldestReadingMinutes\":") && logs.contains("\"SocialAccountsToReconnect\":0"),
        "{logs}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_a_week_ago_is_forgotten_once_it_was_worked_on() {
    let app = TestApp::start().await;
    app.db
        .run(&format!(
            "set session_replication_role = replica;
             insert into webhook_events (provider, event_id, org_id, raw, event_type, object_id, status, received_at)
             select 'meta', kind || status, '{NORD}', 'x', 'messages', '1', status, now() - age
               from (values ('old', 'applied', interval '8 days'), ('old', 'received', interval '8 days'), ('new', 'applied', interval '6 days'))
                    e (kind, status, age)"
        ))
        .await;
    let tick = app.stack.look_after_social().await.unwrap();
    assert_eq!(tick["events_forgotten"], 1, "{tick}");
    assert_eq!(
        app.db.text("select string_agg(event_id, ' ' order by event_id) from webhook_events").await,
        "newapplied oldreceived"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_asks_for_one_reading_and_an_open_one_is_the_answer_to_another_person() {
    let app = TestApp::start().await;
    let (account, _) = instagram(&app).await;
    app.stack.social.pause();
    let path = format!("/v1/social/accounts/{account}/fetch");
    let ask = async |key: Option<&str>| {
        let token = app.token(&OLGA);
        let answer = app.send_keyed(reqwest::Method::POST, &path, &token, None, key).await;
        answer.expect(202)["job"]["id"].clone()
    };
    let (first, again, other) = (ask(Some("a")).await, ask(Some("a")).await, ask(None).await);
    assert_eq!((&first, &first), (&again, &other));
    assert_eq!(app.db.count("select count(*) from jobs where job_type = 'social_fetch'").await, 1);
}
