//! What Meta says of consents: who is believed, whose accounts wait for a person then, and what is answered.

use integration_tests::{
    Answer, TestApp,
    acting::Actor,
    people::{BRICK, NORD, OLGA, OSCAR},
};
use sandbox::{Consent, instagram::sign_request};
use serde_json::{Value, json};

use super::{Way, connect_as, connected};

const DEAUTHORIZED: &str = "/oauth/instagram/deauthorized";
const DELETION: &str = "/oauth/instagram/deletion";

async fn post(app: &TestApp, path: &str, form: &str) -> Answer {
    let request = app
        .client
        .post(format!("{}{path}", app.stack.url))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form.to_owned());
    integration_tests::answer(request).await
}

/// How an account is: its state, why, and whether it has tokens.
async fn state(app: &TestApp, id: &str) -> String {
    let state = "select status || ' ' || coalesce(lost_why, '-') || ' ' || (access_token is not null)::text from social_accounts where id = '@'";
    app.db.text(&state.replace('@', id)).await
}

/// A payload of now, about a person.
fn payload(user: &Value) -> Value {
    json!({ "algorithm": "HMAC-SHA256", "issued_at": chrono::Utc::now().timestamp(), "user_id": user })
}

async fn scoped_id(app: &TestApp, id: &str) -> String {
    app.db.text(&format!("select app_scoped_id from social_accounts where id = '{id}'")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_removes_the_application_has_their_accounts_wait_for_a_person_in_each_organisation() {
    let app = TestApp::start().await;
    let (account, id) = connected(&app, Way::Instagram, &OLGA).await;
    assert_eq!(connect_as(&app, Way::Instagram, &OSCAR, &account, Consent::All).await, "connected");
    let theirs = app.db.text(&format!("select id::text from social_accounts where org_id = '{BRICK}'")).await;
    let (_, other) = connected(&app, Way::Instagram, &OLGA).await;
    app.stack.social.drained().await;

    let form = app.stack.sandbox.instagram.deauthorize(&account).unwrap();
    let answer = post(&app, DEAUTHORIZED, &form).await.expect(200);
    assert_eq!(answer, json!({ "received": true }));
    for id in [&id, &theirs] {
        assert_eq!(state(&app, id).await, "needs_reconsent deauthorized false", "{}", app.logs());
    }
    assert_eq!(state(&app, &other).await, "active - true");
    let entries = "select org_id, actor, decision ->> 'why' as why, record_id from audit_log where action = 'social_account.consent_lost' order by org_id";
    let entries = app.db.ask(&Actor::role("postgres"), entries).await.unwrap();
    let entry = |org, id: &str| json!({ "org_id": org, "actor": "system", "why": "deauthorized", "record_id": id });
    assert_eq!(entries, json!([entry(NORD, &id), entry(BRICK, &theirs)]));
    let notified = "select count(*) from notifications where kind = 'connection_needs_person' and user_id = '@'";
    for person in [&OLGA, &OSCAR] {
        assert_eq!(app.db.count(&notified.replace('@', &person.id.to_string())).await, 1);
    }
    // Once more, and of a person who is not known: the same answer, and nothing changes.
    let secret = app.stack.sandbox.instagram.client_secret().get();
    let unknown = format!("signed_request={}", sign_request(&payload(&json!("999")), &secret));
    let still = app.db.still().await;
    for form in [&form, &unknown] {
        assert_eq!(post(&app, DEAUTHORIZED, form).await.expect(200), answer);
    }
    still.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_meta_said_before_a_person_consented_again_changes_nothing() {
    let app = TestApp::start().await;
    let (account, id) = connected(&app, Way::Instagram, &OLGA).await;
    let form = app.stack.sandbox.instagram.deauthorize(&account).unwrap();
    post(&app, DEAUTHORIZED, &form).await.expect(200);
    assert_eq!(state(&app, &id).await, "needs_reconsent deauthorized false");
    assert_eq!(connect_as(&app, Way::Instagram, &OLGA, &account, Consent::All).await, "connected");
    app.stack.social.drained().await;
    // A second later than it was said.
    app.db
        .run("update social_accounts set connected_at = date_trunc('second', connected_at) + interval '1 second'")
        .await;
    post(&app, DEAUTHORIZED, &form).await.expect(200);
    assert_eq!(state(&app, &id).await, "active - true");
    // Within the second it is not known which came first: nothing is read by a consent that may be over.
    let at: i64 = app.db.count("select extract(epoch from connected_at)::bigint from social_accounts").await;
    let user = scoped_id(&app, &id).await;
    let secret = app.stack.sandbox.instagram.client_secret().get();
    let said = json!({ "algorithm": "HMAC-SHA256", "issued_at": at, "user_id": user });
    app.db.run("update social_accounts set connected_at = connected_at + interval '999 milliseconds'").await;
    post(&app, DEAUTHORIZED, &format!("signed_request={}", sign_request(&said, &secret))).await.expect(200);
    assert_eq!(state(&app, &id).await, "needs_reconsent deauthorized false");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_metas_own_signature_is_believed() {
    let app = TestApp::start().await;
    let (_, id) = connected(&app, Way::Instagram, &OLGA).await;
    let user = json!(scoped_id(&app, &id).await);
    let secret = app.stack.sandbox.instagram.client_secret().get();
    let good = payload(&user);
    let signed = sign_request(&good, &secret);
    let (signature, encoded) = signed.split_once('.').unwrap();
    let with = |member: &str, value: Value| {
        let mut changed = good.clone();
        changed[member] = value;
        changed
    };
    let elsewhere = sign_request(&with("user_id", json!("999")), &secret);
    let flipped = |text: &str, at: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let forged = [
        String::new(),
        "x".to_owned(),
        format!(".{encoded}"),
        format!("{signature}."),
        encoded.to_owned(),
        sign_request(&good, "another secret"),
        sign_request(&good, ""),
        format!("{}.{encoded}", flipped(signature, 0)),
        format!("{}.{encoded}", flipped(signature, 42)),
        format!("{signature}.{}", flipped(encoded, encoded.len() - 1)),
        format!("{}.{encoded}", elsewhere.split_once('.').unwrap().0),
        // Signed, and of another kind, or from the future.
        sign_request(&with("algorithm", json!("none")), &secret),
        sign_request(&with("algorithm", json!("HMAC-SHA1")), &secret),
        sign_request(&with("algorithm", Value::Null), &secret),
        sign_request(&with("issued_at", json!(chrono::Utc::now().timestamp() + 3600)), &secret),
        sign_request(&with("issued_at", Value::Null), &secret),
        sign_request(&with("user_id", Value::Null), &secret),
        sign_request(&json!([]), &secret),
    ];
    let still = app.db.still().await;
    for path in [DEAUTHORIZED, DELETION] {
        for text in &forged {
            let form =
                url::form_urlencoded::Serializer::new(String::new()).append_pair("signed_request", text).finish();
            post(&app, path, &form).await.expect_error(403, "signature_invalid");
        }
        post(&app, path, "").await.expect_error(403, "signature_invalid");
        post(&app, path, &format!("signed_request={}", "A".repeat(20_000))).await.expect_error(413, "body_too_large");
    }
    still.unchanged().await;
    // As browsers escape it, with padding, and with an id that is a number: it is believed.
    let number: u64 = user.as_str().unwrap().parse().unwrap();
    let signed = sign_request(&with("user_id", json!(number)), &secret);
    let form = format!("other=1&signed_request={}", signed.replace('.', "=.").replace('=', "%3D").replace('.', "%2E"));
    post(&app, DEAUTHORIZED, &form).await.expect(200);
    assert_eq!(state(&app, &id).await, "needs_reconsent deauthorized false");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_just_reset_and_those_of_the_app_at_meta_are_believed_as_well() {
    let app = TestApp::start().await;
    let (_, id) = connected(&app, Way::Instagram, &OLGA).await;
    let said = payload(&json!(scoped_id(&app, &id).await));
    // Read before the reset.
    let secret = app.stack.sandbox.instagram.client_secret().get();
    let unknown = format!("signed_request={}", sign_request(&payload(&json!("999")), &secret));
    post(&app, DEAUTHORIZED, &unknown).await.expect(200);
    app.stack.sandbox.secrets.set("META_APP_SECRETS", "first second-of-two");
    let form = format!("signed_request={}", sign_request(&said, "second-of-two"));
    post(&app, DEAUTHORIZED, &form).await.expect(200);
    assert_eq!(state(&app, &id).await, "needs_reconsent deauthorized false");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_their_data_deleted_is_given_a_code_and_sees_what_became_of_it() {
    let app = TestApp::start().await;
    let world = &app.stack.sandbox.instagram;
    let (account, id) = connected(&app, Way::Instagram, &OLGA).await;
    let eva = world.add_person("eva", None);
    world.message(&account, &eva, "hej").unwrap();
    crate::social_fetch::succeeded(&app, id.parse().unwrap()).await;

    let answer = post(&app, DELETION, &world.request_deletion(&account).unwrap()).await.expect(200);
    let code = answer["confirmation_code"].as_str().unwrap();
    assert!(code.len() == 32 && code.bytes().all(|byte| byte.is_ascii_hexdigit()), "{answer}");
    assert_eq!(answer["url"], format!("{}{DELETION}?code={code}", app.stack.url));
    assert_eq!(state(&app, &id).await, "needs_reconsent deletion_asked false");
    let page = app.client.get(answer["url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(page.status(), 200);
    let page = page.text().await.unwrap();
    assert!(page.contains("data-code=\"deleted\"") && page.contains("its own policy"), "{page}");
    // What people wrote to the organisation is the organisation's.
    assert_eq!(app.db.text("select string_agg(content, ' ') from social_messages").await, "hej");
    // A second later the same: the code too.
    world.advance(1);
    let still = app.db.still().await;
    let again = post(&app, DELETION, &world.request_deletion(&account).unwrap()).await.expect(200);
    assert_eq!(again, answer);
    // One who is not known is answered alike, and there is nothing to see.
    let secret = world.client_secret().get();
    let unknown = format!("signed_request={}", sign_request(&payload(&json!("999")), &secret));
    let unknown = post(&app, DELETION, &unknown).await.expect(200);
    assert_ne!(unknown["confirmation_code"], answer["confirmation_code"]);
    let get = async |code: &str| app.get(&format!("{DELETION}?code={code}"), &app.token(&OLGA)).await;
    for code in [unknown["confirmation_code"].as_str().unwrap(), &"0".repeat(32), &code.to_uppercase(), "x", ""] {
        get(code).await.expect_error(404, "deletion_not_found");
    }
    still.unchanged().await;
}

/// Every statement that this has.
pub(super) async fn every_statement(app: &TestApp) {
    let (account, _) = connected(app, Way::Instagram, &OLGA).await;
    let answer =
        post(app, DELETION, &app.stack.sandbox.instagram.request_deletion(&account).unwrap()).await.expect(200);
    app.client.get(answer["url"].as_str().unwrap()).send().await.unwrap();
}
