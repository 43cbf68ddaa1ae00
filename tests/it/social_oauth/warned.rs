//! A consent that is about to end: people are notified fourteen days before, once for each token.

use integration_tests::{
    TestApp,
    acting::Actor,
    people::{NORD, OLGA},
};
use serde_json::json;

use super::{Way, connected};

/// When people are asked to look.
const NOW: &str = "2026-12-01 12:00:00+00";

/// How many accounts people are notified of at a time.
async fn warned(app: &TestApp, at: &str) -> i64 {
    let mut system = app.db.begin_as(&Actor::service(NORD)).await;
    let warned: i32 = sqlx::query_scalar("select app.warn_of_ending_consents($1::timestamptz, 200)")
        .bind(at)
        .fetch_one(&mut system)
        .await
        .unwrap();
    sqlx::Executor::execute(&mut system, "commit").await.unwrap();
    warned.into()
}

async fn ends_in(app: &TestApp, interval: &str) {
    app.db
        .run(&format!("update social_accounts set consent_ends_at = timestamptz '{NOW}' + interval '{interval}'"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_notified_fourteen_days_before_a_consent_ends_and_once_for_each_token() {
    let app = TestApp::start().await;
    for way in Way::ALL {
        let (_, id) = connected(&app, way, &OLGA).await;
        ends_in(&app, "14 days 1 second").await;
        assert_eq!(warned(&app, NOW).await, 0, "{way:?}: a second before that");
        ends_in(&app, "14 days").await;
        assert_eq!(warned(&app, NOW).await, 1, "{way:?}: at that moment");
        assert_eq!(warned(&app, NOW).await, 0, "{way:?}: once");
        ends_in(&app, "13 days 23 hours 59 minutes 59 seconds").await;
        assert_eq!(warned(&app, NOW).await, 0, "{way:?}: for the same token");
        // Another token that ends soon as well, met a second after.
        app.db.run("update social_accounts set token_version = token_version + 1").await;
        assert_eq!(warned(&app, NOW).await, 1, "{way:?}: for another token");
        let subjects = "select distinct subject - 'ends_at' as subject, subject ? 'ends_at' as ends from notifications where user_id = '@'";
        let subjects =
            app.db.ask(&Actor::role("postgres"), &subjects.replace('@', &OLGA.id.to_string())).await.unwrap();
        let provider = if way == Way::Instagram { "instagram" } else { "tiktok" };
        let subject = json!({ "account_id": id, "provider": provider, "status": "ending" });
        assert_eq!(subjects, json!([{ "subject": subject, "ends": true }]));
        app.db.run("delete from notifications; delete from social_accounts").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_notifies_and_an_account_that_is_not_connected_has_nothing_to_lose() {
    let app = TestApp::start().await;
    connected(&app, Way::Instagram, &OLGA).await;
    app.db.run("update social_accounts set consent_ends_at = now() + interval '13 days', fetch_after = now() + interval '1 hour'").await;
    assert_eq!(app.stack.look_after_social().await.unwrap()["consents_ending"], 1);
    assert_eq!(app.stack.look_after_social().await.unwrap()["consents_ending"], 0);
    app.db.run("update social_accounts set warned_version = null, status = 'needs_reconsent'").await;
    assert_eq!(app.stack.look_after_social().await.unwrap()["consents_ending"], 0);
}
