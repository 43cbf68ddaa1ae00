//! Bad input is told what to change, and leaves nothing behind.

use std::collections::BTreeSet;

use integration_tests::{
    TestApp,
    people::{DORA, LAKESIDE, OLGA, OSCAR},
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
        (json!({ "content_type": "image/jpeg", "bytes": 30_000_000 }), "photo_size_invalid"),
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
    let put = client.put(upload["url"].as_str().unwrap()).body(vec![0xff; 21 * 1024 * 1024]).send().await.unwrap();
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

/// Every route that takes a POST from a client, as docs/FEATURES.md names it: where it is, and a body with all of its texts.
fn posts(upload: Uuid) -> Vec<(&'static str, String, Value)> {
    let some = Uuid::new_v4();
    let mut render = render_body(LAKESIDE, upload);
    render["parent_id"] = json!(some);
    render["model"] = json!("gemini-2.5-flash-image");
    for wish in ["style", "furnishings", "lighting", "walls", "flooring", "exterior"] {
        render["parameters"][wish] = json!("calm");
    }
    let app = "http://localhost:3000/billing";
    vec![
        ("/v1/uploads", "/v1/uploads".to_owned(), json!({ "content_type": "image/jpeg", "bytes": 5 })),
        ("/v1/render-requests", "/v1/render-requests".to_owned(), render),
        ("/v1/render-requests/{id}/process", format!("/v1/render-requests/{some}/process"), Value::Null),
        ("/v1/insights/{table_name}", "/v1/insights/leads".to_owned(), json!({ "period": "week" })),
        (
            "/v1/agent-actions",
            "/v1/agent-actions".to_owned(),
            json!({
                "agent": "analyst", "action": "blog_post.drafted", "resource": { "type": "blog_post", "id": "draft-7" },
                "project_id": LAKESIDE, "input": { "a": "b" }, "decision": { "a": ["b"] }, "output": { "a": { "b": "c" } },
                "subjects": [OLGA.id], "assets": [{ "upload_id": some }, { "path": "renders/x" }],
                "deploy": {
                    "target": "blog", "version": "7", "status": "failed", "started_at": "2026-01-01T00:00:00Z",
                    "finished_at": "2026-01-01T00:00:00Z", "metadata": { "a": "b" },
                },
            }),
        ),
        ("/v1/jobs/{id}/cancel", format!("/v1/jobs/{some}/cancel"), Value::Null),
        (
            "/v1/billing/checkout",
            "/v1/billing/checkout".to_owned(),
            json!({ "price": "price_sandbox", "success_url": app, "cancel_url": app }),
        ),
        ("/v1/billing/portal", "/v1/billing/portal".to_owned(), json!({ "return_url": app })),
        ("/v1/leads/{id}/assign", format!("/v1/leads/{some}/assign"), Value::Null),
        ("/v1/leads/assignments/dry-run", "/v1/leads/assignments/dry-run".to_owned(), json!({ "days": 30 })),
        ("/v1/leads/assignments/settings", "/v1/leads/assignments/settings".to_owned(), json!({ "ai_bound": 5 })),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nul_in_any_text_of_any_request_is_the_clients_to_change() {
    let app = TestApp::start().await;
    let token = app.token(&OLGA);
    let upload = app.upload(&token, &small_photo()).await;
    let page = include_str!("../../docs/FEATURES.md");
    let named: BTreeSet<&str> = page
        .split("`POST ")
        .skip(1)
        .filter_map(|rest| rest.split(['`', ' ']).next())
        .filter(|path| path.starts_with("/v1/"))
        .map(|path| if path.starts_with("/v1/insights/") { "/v1/insights/{table_name}" } else { path })
        .collect();
    let posts = posts(upload);
    assert_eq!(
        posts.iter().map(|(name, ..)| *name).collect::<BTreeSet<_>>(),
        named,
        "each route of docs/FEATURES.md has its case"
    );

    let still = app.db.still().await;
    let mut tried = 0;
    for (name, path, body) in &posts {
        let mut texts = Vec::new();
        crate::mutations::places(body, "", &mut texts);
        texts.retain(|place| body.pointer(place).is_some_and(Value::is_string));
        for place in texts {
            let text = body.pointer(&place).and_then(Value::as_str).unwrap();
            let middle = text.len() / 2;
            for damaged in [
                "\0".to_owned(),
                format!("\0{text}"),
                format!("{}\0{}", &text[..middle], &text[middle..]),
                format!("{text}\0"),
                format!("{text}\0\0"),
            ] {
                let mut body = body.clone();
                *body.pointer_mut(&place).unwrap() = json!(damaged);
                let answer = app.post(path, &token, &body).await;
                // An id is none with a NUL in it: then the body is of another shape.
                let status = if Uuid::try_parse(text).is_ok() { 400 } else { 422 };
                assert_eq!(answer.status, status, "{name}{place} {damaged:?}: {}", answer.body);
                tried += 1;
            }
        }
        // Names of fields, and what the path names.
        if body.is_object() {
            let mut body = body.clone();
            body["a\0"] = json!("\0");
            app.post(path, &token, &body).await.expect_error(400, "body_invalid");
        }
        for at in path.match_indices('/').map(|(at, _)| at).skip(1) {
            let answer = app.post(&format!("{}/%00{}", &path[..at], &path[at + 1..]), &token, body).await;
            assert!(answer.status.is_client_error(), "{name}: {}", answer.body);
        }
    }
    assert!(tried > 60, "{tried}");
    still.unchanged().await;
}
