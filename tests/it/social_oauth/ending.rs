//! Disconnecting, by a person.

use integration_tests::{
    TestApp,
    people::{ADAM, BRICK, OLGA, OSCAR, RENATA, UMA},
};
use sandbox::{Calls, Consent, Fault, tiktok};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Way, connect_as, connected};

fn path(id: &str) -> String {
    format!("/v1/social/connections/{id}/disconnect")
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnecting_takes_the_consent_back_and_keeps_what_was_read() {
    let app = TestApp::start().await;
    for way in Way::ALL {
        let (account, id) = connected(&app, way, &OLGA).await;
        if way == Way::Instagram {
            let eva = app.stack.sandbox.instagram.add_person("eva", None);
            app.stack.sandbox.instagram.message(&account, &eva, "hej").unwrap();
            crate::social_fetch::succeeded(&app, id.parse().unwrap()).await;
        }
        // An access token that has ended is renewed first: the consent is to go, not the token alone.
        app.db
            .run(&format!(
                "update social_accounts set token_expires_at = now() where id = '{id}' and api <> 'instagram_login'"
            ))
            .await;
        app.post(&path(&id), &app.token(&UMA), &Value::Null).await.expect_error(403, "permission_missing");
        app.post(&path(&id), &app.agent_token(&RENATA).await, &Value::Null).await.expect_error(403, "people_only");
        app.post(&path(&id), &app.token(&OSCAR), &Value::Null).await.expect_error(404, "social_account_not_found");
        assert!(way.live(&app, &account) > 0);
        for person in [&OLGA, &ADAM] {
            let shown = app.post(&path(&id), &app.token(person), &Value::Null).await.expect(200);
            assert_eq!(shown, json!({ "account_id": id, "status": "disconnected" }), "{}", app.logs());
        }
        // Instagram has no call for it: its owner removes the application there.
        assert_eq!(way.live(&app, &account) > 0, way == Way::Instagram, "{way:?} {}", app.logs());
        let left = format!(
            "select count(*) from social_accounts where id = '{id}' and access_token is null and refresh_token is null and consent_ends_at is null"
        );
        assert_eq!(app.db.count(&left).await, 1);
        let entries = format!(
            "select count(*) from audit_log where action = 'social_account.disconnected' and record_id = '{id}'"
        );
        assert_eq!(app.db.count(&entries).await, 1);
    }
    assert_eq!(app.db.text("select string_agg(content, ' ') from social_messages").await, "hej");
    for id in [Uuid::nil().to_string(), "x".to_owned()] {
        app.post(&path(&id), &app.token(&OLGA), &Value::Null).await.expect_error(404, "social_account_not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnecting_leaves_another_organisation_its_consent_to_the_same_account() {
    let app = TestApp::start().await;
    for way in [Way::Display, Way::Business] {
        let (account, id) = connected(&app, way, &OLGA).await;
        assert_eq!(connect_as(&app, way, &OSCAR, &account, Consent::All).await, "connected", "{}", app.logs());
        app.post(&path(&id), &app.token(&OLGA), &Value::Null).await.expect(200);
        assert!(way.live(&app, &account) > 0, "{way:?}: the consent of the other organisation is gone");
        // A consent that is not kept is not taken back either.
        let basic = match way {
            Way::Business => "comment.list",
            _ => "video.list",
        };
        assert_eq!(connect_as(&app, way, &OLGA, &account, Consent::only(&[basic])).await, "scope_missing");
        assert!(way.live(&app, &account) > 0, "{way:?}: the consent of the other organisation is gone");
        // The last one takes it back.
        let theirs =
            format!("select id::text from social_accounts where org_id = '{BRICK}' and platform_id = '{account}'");
        let theirs = app.db.text(&theirs).await;
        app.post(&path(&theirs), &app.token(&OSCAR), &Value::Null).await.expect(200);
        assert_eq!(way.live(&app, &account), 0, "{way:?} {}", app.logs());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_with_the_same_key_does_not_end_a_connection_that_was_made_since() {
    let app = TestApp::start().await;
    let (account, id) = connected(&app, Way::Display, &OLGA).await;
    let again = async || {
        let sent = app.send_keyed(reqwest::Method::POST, &path(&id), &app.token(&OLGA), None, Some("once")).await;
        sent.expect(200)["status"].clone()
    };
    assert_eq!(again().await, "disconnected");
    assert_eq!(connect_as(&app, Way::Display, &OLGA, &account, Consent::All).await, "connected");
    assert_eq!(again().await, "active");
    let same = format!("select count(*) from social_accounts where id = '{id}' and status = 'active'");
    assert_eq!(app.db.count(&same).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_is_away_keeps_nobody_from_disconnecting() {
    let app = TestApp::start().await;
    let (_, id) = connected(&app, Way::Business, &OLGA).await;
    app.stack.fault("tiktok", "reset", Calls::Every).unwrap();
    let shown = app.post(&path(&id), &app.token(&OLGA), &Value::Null).await.expect(200);
    assert_eq!(shown["status"], "disconnected");
    assert_eq!(app.db.count("select count(*) from social_accounts where access_token is null").await, 1);
}

/// Every statement that connecting and disconnecting have.
pub(super) async fn every_statement(app: &TestApp) {
    let (_, id) = connected(app, Way::Display, &OLGA).await;
    let ends = format!("update social_accounts set token_expires_at = now() where id = '{id}'");
    app.db.run(&ends).await;
    crate::social_fetch::read(app, id.parse().unwrap()).await;
    app.db.run(&ends).await;
    app.stack.sandbox.tiktok.arrange(tiktok::Call::Token, Fault::RateLimited, Calls::Next(1));
    crate::social_fetch::read(app, id.parse().unwrap()).await;
    app.post(&path(&id), &app.token(&OLGA), &Value::Null).await.expect(200);
    let account = Way::Business.account(app);
    assert_eq!(
        connect_as(app, Way::Business, &OLGA, &account, Consent::only(&["comment.list"])).await,
        "scope_missing"
    );
}
