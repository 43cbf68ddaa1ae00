//! Nothing is stored of what is not signed by who it says it is from.

use chrono::Utc;
use integration_tests::{TestApp, people::NORD, seed};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use sandbox::{instagram as events, tiktok};
use serde_json::json;

use super::{connect, merged, meta, post, tiktok_at, value};

const OWN: &str = "17841400000000001";

fn said(text: &str) -> Vec<u8> {
    let at = Utc::now().timestamp_millis();
    let message =
        events::messaging("9001", OWN, at, json!({ "message": { "mid": format!("m-{text}"), "text": text } }));
    events::body(&[events::messaging_entry(OWN, at, message)], sandbox::Written::Escaped)
}

async fn stored(app: &TestApp) -> i64 {
    app.db.count("select count(*) from webhook_events").await
}

#[tokio::test(flavor = "multi_thread")]
async fn metas_subscription_is_confirmed_to_one_who_knows_the_token_and_refused_to_others() {
    let app = TestApp::start().await;
    let token = app.stack.sandbox.instagram.verify_token().get();
    let (challenge, status, body) = app.stack.sandbox.instagram.challenge(&token).await.unwrap();
    assert_eq!((status, body), (200, challenge));
    let (_, status, body) = app.stack.sandbox.instagram.challenge("wrong").await.unwrap();
    assert_eq!(status, 403);
    assert!(body.contains("verify_token_invalid"), "{body}");
    let url = |query: &str| format!("/webhooks/meta?{query}");
    for (query, code) in [
        (format!("hub.mode=unsubscribe&hub.challenge=1&hub.verify_token={token}"), "verify_token_invalid"),
        (format!("hub.mode=subscribe&hub.challenge=%3Cb%3E&hub.verify_token={token}"), "verify_token_invalid"),
        (
            format!("hub.mode=subscribe&hub.challenge={}&hub.verify_token={token}", "1".repeat(201)),
            "verify_token_invalid",
        ),
        ("hub.mode=subscribe&hub.challenge=1&hub.verify_token=".to_owned(), "verify_token_invalid"),
        (format!("hub.mode=subscribe&hub.verify_token={token}"), "query_invalid"),
    ] {
        let status = if code == "query_invalid" { 400 } else { 403 };
        app.get(&url(&query), "").await.expect_error(status, code);
    }
    // Of several tokens, each.
    app.stack.sandbox.secrets.set("META_VERIFY_TOKENS", &format!("other {token}"));
    let (challenge, status, body) = app.stack.sandbox.instagram.challenge(&token).await.unwrap();
    assert_eq!((status, body), (200, challenge));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_holds_for_the_bytes_as_they_came_escaped_and_raw() {
    let app = TestApp::start().await;
    connect(&app, NORD, "instagram", OWN).await;
    let at = Utc::now().timestamp_millis();
    for (mid, written) in [("escaped", sandbox::Written::Escaped), ("raw", sandbox::Written::Raw)] {
        let message = events::messaging("9001", OWN, at, json!({ "message": { "mid": mid, "text": "åäö </b>" } }));
        let body = events::body(&[events::messaging_entry(OWN, at, message)], written);
        assert_eq!(body.is_ascii(), mid == "escaped");
        meta(&app, &body).await.expect(200);
    }
    merged(&app).await;
    let texts = value(
        &app.db,
        "select jsonb_agg(jsonb_build_array(platform_id, content) order by platform_id) from social_messages",
    )
    .await;
    assert_eq!(texts, json!([["escaped", "åäö </b>"], ["raw", "åäö </b>"]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_or_signature_that_was_changed_is_refused_and_leaves_nothing() {
    let app = TestApp::start().await;
    connect(&app, NORD, "instagram", OWN).await;
    let secret = app.stack.sandbox.instagram.app_secret().get();
    let body = said("hej");
    let good = events::headers(&body, &secret);
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        TestRng::from_seed(RngAlgorithm::ChaCha, &[u8::try_from(seed() % 256).unwrap(); 32]),
    );
    for _ in 0..60 {
        let (at, bit) = (0..body.len(), 0..8_u8).new_tree(&mut runner).unwrap().current();
        let mut changed = body.clone();
        changed[at] ^= 1 << bit;
        post(&app, "/webhooks/meta", &good, &changed).await.expect_error(400, "signature_invalid");
        let header = "[ -~]{0,120}".new_tree(&mut runner).unwrap().current();
        let forged = [("x-hub-signature-256", header)];
        post(&app, "/webhooks/meta", &forged, &body).await.expect_error(400, "signature_invalid");
    }
    // Signed with another secret, under the old scheme alone, or not at all.
    post(&app, "/webhooks/meta", &events::headers(&body, "other"), &body).await.expect_error(400, "signature_invalid");
    let old = [("x-hub-signature", events::sign_sha1(&body, &secret))];
    post(&app, "/webhooks/meta", &old, &body).await.expect_error(400, "signature_invalid");
    post(&app, "/webhooks/meta", &[], &body).await.expect_error(400, "signature_invalid");
    // TikTok's endpoint does not believe Meta's signature.
    post(&app, "/webhooks/tiktok", &good, &body).await.expect_error(400, "signature_invalid");
    assert_eq!(stored(&app).await, 0);
    post(&app, "/webhooks/meta", &good, &body).await.expect(200);
    assert_eq!(stored(&app).await, 1);
    crate::alarms::rings(&app, "social-refused", 124.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_overlap_while_one_is_reset_and_a_new_one_is_fetched_at_once() {
    let app = TestApp::start().await;
    connect(&app, NORD, "instagram", OWN).await;
    meta(&app, &said("first")).await.expect(200);
    let old = app.stack.sandbox.instagram.app_secret().get();
    let new = app.stack.sandbox.instagram.app_secret().roll();
    app.stack.sandbox.secrets.set("META_APP_SECRETS", &format!("{old} {new}"));
    meta(&app, &said("second")).await.expect(200);
    let body = said("third");
    post(&app, "/webhooks/meta", &events::headers(&body, &old), &body).await.expect(200);
    assert_eq!(stored(&app).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn tiktoks_deliveries_count_for_as_long_as_it_sends_them_again_and_no_longer() {
    let app = TestApp::start().await;
    connect(&app, NORD, "tiktok", "open-1").await;
    let content = |id: &str| {
        json!({ "conversation_id": "c", "message_id": id, "type": "text", "timestamp": Utc::now().timestamp_millis(), "from": "u", "to": "b",
                "from_user": { "id": "p", "role": "personal_account" }, "to_user": { "id": "open-1", "role": "business_account" },
                "unique_identifier": "p", "is_follower": true, "text": { "body": "hej" } })
    };
    let body = |id: &str| {
        tiktok::body("key", "im_receive_msg", Utc::now().timestamp(), "open-1", &content(id)).to_string().into_bytes()
    };
    let now = Utc::now().timestamp();
    let longest = 72 * 3600 + 300;
    // Seconds go by while this is sent: the edges themselves are tested beside the function.
    for (id, age, taken) in [
        ("now", 0, true),
        ("late", longest - 60, true),
        ("too-late", longest + 60, false),
        ("ahead", -240, true),
        ("too-far", -360, false),
    ] {
        let answer = tiktok_at(&app, &body(id), now - age).await;
        if taken {
            assert_eq!(answer.expect(200)["stored"], 1, "{id}");
        } else {
            answer.expect_error(400, "signature_invalid");
        }
    }
    // The same event once more, signed again: known.
    let again = body("again");
    for (at, stored) in [(now, 1), (now + 1, 0), (now, 0)] {
        assert_eq!(tiktok_at(&app, &again, at).await.expect(200)["stored"], stored);
    }
    merged(&app).await;
    assert_eq!(app.db.count("select count(*) from social_messages").await, 4);
}
