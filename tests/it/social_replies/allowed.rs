//! Who may write a reply, what can be answered and until when, and what a repeated request does.

use integration_tests::{
    TestApp,
    people::{ADAM, CLEO, DORA, OLGA, OSCAR, RENATA, RUFUS},
};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use super::{Shop, Way};

#[tokio::test(flavor = "multi_thread")]
async fn only_those_who_may_answer_do_and_an_agent_drafts_alone() {
    let app = TestApp::start().await;
    let shop = Shop::open(&app).await;
    let thread = shop.written(Way::InstagramMessage).await;
    for person in [&DORA, &CLEO] {
        shop.answer(person, thread, "message", "Hej").await.expect_error(403, "permission_missing");
    }
    // Another organisation's thread is none.
    shop.answer(&OSCAR, thread, "message", "Hej").await.expect_error(404, "thread_not_found");
    let reply = shop.answered(thread, Way::InstagramMessage, "Hej").await;
    let path = format!("/v1/social/replies/{reply}");
    app.get(&path, &app.token(&OSCAR)).await.expect_error(404, "reply_not_found");
    app.get(&path, &app.token(&DORA)).await.expect_error(403, "permission_missing");
    let listed = app.get(&format!("/v1/social/replies?thread={thread}"), &app.token(&ADAM)).await.expect(200);
    assert_eq!(listed["replies"][0]["id"], json!(reply));
    let theirs = app.get(&format!("/v1/social/replies?thread={thread}"), &app.token(&OSCAR)).await.expect(200);
    assert_eq!(theirs["replies"], json!([]));
    let (draft, approval) = shop.drafted(thread, "message", "Utkast").await;
    assert_eq!(shop.shown(draft).await["status"], "draft");
    let rufus = app.agent_token(&RUFUS).await;
    let body = json!({ "thread_id": thread, "kind": "message", "text": "Hej" });
    app.post("/v1/social/replies", &rufus, &body).await.expect_error(404, "thread_not_found");
    // An agent decides about nothing, cancels nothing, and who only reads may not approve.
    let renata = app.agent_token(&RENATA).await;
    app.post(&format!("/v1/social/replies/{draft}/cancel"), &renata, &json!({})).await.expect_error(403, "people_only");
    app.post(&format!("/v1/approvals/{approval}/approve"), &renata, &json!({ "digest": "0".repeat(64) }))
        .await
        .expect_error(403, "people_only");
    app.get(&format!("/v1/approvals/{approval}"), &app.token(&DORA)).await.expect_error(404, "approval_not_found");
    app.get(&format!("/v1/approvals/{approval}"), &app.token(&OSCAR)).await.expect_error(404, "approval_not_found");
    shop.again().await;
    assert_eq!(shop.arrived(Way::InstagramMessage).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_window_is_open_to_its_last_moment_and_what_cannot_be_answered_is_refused_by_name() {
    let app = TestApp::start().await;
    let shop = Shop::open(&app).await;
    let message = shop.written(Way::InstagramMessage).await;
    let comment = shop.written(Way::InstagramComment).await;
    let video = shop.written(Way::TikTokComment).await;
    // In the first week of a month that is another month.
    app.db.run("select app.ensure_social_month(now() - interval '7 days')").await;
    let replica = "set session_replication_role = replica;";
    for (change, thread, kind, text, outcome) in [
        (
            "update social_threads set last_incoming_at = now() - interval '23 hours 59 minutes'",
            message,
            "message",
            "Hej",
            Ok(()),
        ),
        (
            "update social_threads set last_incoming_at = now() - interval '24 hours'",
            message,
            "message",
            "Hej",
            Err((409, "window_closed")),
        ),
        ("update social_threads set last_incoming_at = now()", message, "message", "Hej", Ok(())),
        (
            "update social_messages set received_at = now() - interval '7 days' where message_type = 'comment'; update social_message_keys k set received_at = m.received_at from social_messages m where m.id = k.message_id",
            comment,
            "private",
            "Hej",
            Err((409, "window_closed")),
        ),
        // The comment itself is answered at any time.
        ("", comment, "comment", "Hej", Ok(())),
        (
            "update social_messages set received_at = now() - interval '6 days 23 hours 59 minutes' where message_type = 'comment'; update social_message_keys k set received_at = m.received_at from social_messages m where m.id = k.message_id",
            comment,
            "private",
            "Hej",
            Ok(()),
        ),
        ("", comment, "private", "Hej igen", Err((409, "private_reply_used"))),
        ("", comment, "message", "Hej", Err((409, "not_offered"))),
        ("", message, "comment", "Hej", Err((409, "not_offered"))),
        ("", video, "private", "Hej", Err((409, "not_offered"))),
        ("", message, "message", " \n", Err((422, "content_invalid"))),
        ("", message, "shout", "Hej", Err((422, "kind_unknown"))),
        ("", message, "hide", "Hej", Err((422, "content_invalid"))),
        (
            "update social_messages set deleted_at = now(), content = null where message_type = 'comment'",
            comment,
            "comment",
            "Hej",
            Err((409, "comment_gone")),
        ),
        (
            "update social_accounts set scopes = '{instagram_business_basic}' where platform = 'instagram'",
            message,
            "message",
            "Hej",
            Err((409, "scope_missing")),
        ),
        (
            "update social_accounts set status = 'needs_reconsent'",
            message,
            "message",
            "Hej",
            Err((409, "social_reconsent")),
        ),
        (
            "update social_accounts set status = 'disconnected'",
            message,
            "message",
            "Hej",
            Err((409, "account_disconnected")),
        ),
    ] {
        app.db.run(&format!("{replica} {change}")).await;
        let answer = shop.answer(&OLGA, thread, kind, text).await;
        match outcome {
            Ok(()) => {
                answer.expect(202);
                shop.worked().await;
            }
            Err((status, code)) => {
                answer.expect_error(status, code);
            }
        }
    }
    shop.answer(&OLGA, Uuid::now_v7(), "message", "Hej").await.expect_error(404, "thread_not_found");
    app.db.run(&format!("{replica} update social_accounts set status = 'active', scopes = '{{instagram_business_basic,instagram_business_manage_comments}}'")).await;
    // What is written below a reply, the platform files below the first comment: it is answered there.
    let body = json!({ "thread_id": comment, "kind": "comment", "text": "Hej", "message_id": Uuid::now_v7() });
    app.post("/v1/social/replies", &app.token(&OLGA), &body).await.expect_error(422, "message_unexpected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_has_a_thousand_bytes_at_instagram_and_not_a_thousand_letters() {
    let app = TestApp::start().await;
    let shop = Shop::open(&app).await;
    let thread = shop.written(Way::InstagramMessage).await;
    shop.answered(thread, Way::InstagramMessage, &"ö".repeat(500)).await;
    shop.answer(&OLGA, thread, "message", &"ö".repeat(501)).await.expect_error(422, "content_too_long");
    let video = shop.written(Way::TikTokMessage).await;
    shop.answer(&OLGA, video, "message", &"ö".repeat(2201)).await.expect_error(422, "content_invalid");
    assert_eq!(shop.arrived(Way::InstagramMessage).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_one_reply_and_one_that_has_not_left_can_be_cancelled() {
    let app = TestApp::start().await;
    let shop = Shop::open(&app).await;
    let thread = shop.written(Way::InstagramMessage).await;
    let (token, queue) = (app.token(&OLGA), app.stack.queue("social-replies").unwrap());
    queue.pause();
    let body = json!({ "thread_id": thread, "kind": "message", "text": "Hej" });
    let mut ids = Vec::new();
    for _ in 0..2 {
        let sent =
            app.send_keyed(Method::POST, "/v1/social/replies", &token, Some(&body), Some("one")).await.expect(202);
        ids.push(sent["reply"]["id"].clone());
    }
    assert_eq!(ids[0], ids[1]);
    let other = json!({ "thread_id": thread, "kind": "message", "text": "Nej" });
    app.send_keyed(Method::POST, "/v1/social/replies", &token, Some(&other), Some("one"))
        .await
        .expect_error(422, "idempotency_key_reused");
    let path = format!("/v1/social/replies/{}/cancel", ids[0].as_str().unwrap());
    for _ in 0..2 {
        assert_eq!(app.post(&path, &token, &json!({})).await.expect(200)["status"], "cancelled");
    }
    queue.resume();
    shop.again().await;
    assert_eq!(shop.arrived(Way::InstagramMessage).len(), 0);
    let id = shop.answered(thread, Way::InstagramMessage, "Hej").await;
    app.post(&format!("/v1/social/replies/{id}/cancel"), &token, &json!({})).await.expect_error(409, "reply_not_open");
    assert_eq!(shop.arrived(Way::InstagramMessage).len(), 1);
}
