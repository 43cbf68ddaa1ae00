//! Bad input is told what to change, and leaves nothing behind.

use integration_tests::{
    TestApp,
    people::{DORA, LAKESIDE, OSCAR},
    render_body, small_photo,
};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

async fn nothing_is_left(app: &TestApp) {
    for table in [
        "render_requests",
        "render_parameters",
        "jobs",
        "usage_reservations",
        "agent_usage",
        // What was seeded is told as well.
        "audit_log where user_id is not null or action like 'render%'",
        "idempotency_keys",
    ] {
        assert_eq!(app.db.count(&format!("select count(*) from {table}")).await, 0, "{table}");
    }
    assert!(app.stack.renders.waiting().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_render_request_says_what_to_change_and_leaves_nothing() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let upload = app.upload(&token, &small_photo()).await;
    let good = render_body(LAKESIDE, upload);
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    let long = "x".repeat(501);
    for (body, status, code) in [
        (with("upload_id", Value::Null), 422, "photo_missing"),
        (with("upload_id", json!(Uuid::new_v4())), 422, "photo_not_uploaded"),
        (with("upload_id", json!("../../etc/passwd")), 400, "body_invalid"),
        (with("parent_id", json!(Uuid::new_v4())), 404, "parent_result_not_found"),
        (with("project_id", json!(Uuid::new_v4())), 404, "project_not_found"),
        (with("model", json!("gemini-1")), 422, "model_unknown"),
        (with("variants", json!(0)), 422, "variants_invalid"),
        (with("variants", json!(5)), 422, "variants_invalid"),
        (with("variants", json!(1e300)), 400, "body_invalid"),
        (with("parameters", json!({})), 422, "parameters_empty"),
        (with("parameters", json!({ "style": "  " })), 422, "parameters_empty"),
        (with("parameters", json!({ "style": long })), 422, "parameter_invalid"),
        (with("parameters", json!({ "style": "a\u{0}b" })), 422, "parameter_invalid"),
        (with("parameters", json!({ "colour": "red" })), 400, "body_invalid"),
        (with("status", json!("completed")), 400, "body_invalid"),
        (json!([]), 400, "body_invalid"),
    ] {
        let answer = app.send_keyed(Method::POST, "/v1/render-requests", &token, Some(&body), Some("k")).await;
        answer.expect_error(status, code);
    }
    app.post_raw("/v1/render-requests", &token, "application/json", b"{\"a\":\xff}".to_vec())
        .await
        .expect_error(400, "body_invalid");
    app.post_raw("/v1/render-requests", &token, "text/plain", b"{}".to_vec())
        .await
        .expect_error(415, "content_type_unsupported");
    app.post_raw("/v1/render-requests", &token, "application/json", vec![b' '; 70_000])
        .await
        .expect_error(413, "body_too_large");
    let key = "k".repeat(256);
    app.send_keyed(Method::POST, "/v1/render-requests", &token, Some(&good), Some(&key))
        .await
        .expect_error(400, "idempotency_key_invalid");
    nothing_is_left(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_upload_or_path_says_what_to_change() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    for (body, code) in [
        (json!({ "content_type": "image/heic", "bytes": 5 }), "photo_type_unsupported"),
        (json!({ "content_type": "image/jpeg", "bytes": 0 }), "photo_size_invalid"),
        (json!({ "content_type": "image/jpeg", "bytes": 52_428_801 }), "photo_size_invalid"),
    ] {
        app.post("/v1/uploads", &token, &body).await.expect_error(422, code);
    }
    app.get("/v1/uploads", &token).await.expect_error(405, "method_not_allowed");
    app.get("/v1/render-requests/not-an-id", &token).await.expect_error(404, "render_request_not_found");
    app.get("/v1/render-requests/a/b/c", &token).await.expect_error(404, "route_not_found");
    app.get(&format!("/v1/jobs/{}", Uuid::new_v4()), &token).await.expect_error(404, "job_not_found");
    assert_eq!(app.get("/v2/anything", &token).await.status, 404);
    nothing_is_left(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_url_puts_one_object_and_nothing_else() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let wanted = json!({ "content_type": "image/jpeg", "bytes": 10 });
    let upload = app.post("/v1/uploads", &token, &wanted).await.expect(201);
    let url = upload["url"].as_str().unwrap();
    let client = shared::http_client(std::time::Duration::from_secs(30)).unwrap();
    let put = async |url: String| client.put(url).body(vec![1; 10]).send().await.unwrap().status().as_u16();
    let other = format!("/uploads/{}", OSCAR.id);
    assert_eq!(put(url.replace(&format!("/uploads/{}", DORA.id), &other)).await, 403);
    assert_eq!(put(url.replace("project-media", "renders")).await, 403);
    assert_eq!(put(url.replace("X-Amz-Expires=900", "X-Amz-Expires=90000")).await, 403);
    assert_eq!(put(url.split('?').next().unwrap().to_owned()).await, 403);
    assert_eq!(client.get(url).send().await.unwrap().status(), 403);
    assert_eq!(put(url.to_owned()).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_photo_larger_than_announced_is_refused_at_the_door() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let wanted = json!({ "content_type": "image/jpeg", "bytes": 10 });
    let upload = app.post("/v1/uploads", &token, &wanted).await.expect(201);
    let client = shared::http_client(std::time::Duration::from_secs(30)).unwrap();
    let put = client.put(upload["url"].as_str().unwrap()).body(vec![0xff; 50 * 1024 * 1024 + 1]).send().await.unwrap();
    assert_eq!(put.status(), 200);
    let body = render_body(LAKESIDE, upload["upload_id"].as_str().unwrap().parse().unwrap());
    app.post("/v1/render-requests", &token, &body).await.expect_error(422, "photo_too_large");
    nothing_is_left(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_tells_a_token_a_wish_or_an_address() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    app.finished(&token, render["id"].as_str().unwrap()).await;
    app.get("/v1/jobs/x", "garbage").await.expect_error(404, "job_not_found");
    let logs = app.logs();
    assert!(logs.contains("render begins"), "{logs}");
    for secret in [&token, "Greta", DORA.email, &app.stack.sandbox.gemini_key.get(), &app.stack.audit_key] {
        assert!(!logs.contains(secret), "the log tells {secret}");
    }
}
