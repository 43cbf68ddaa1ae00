//! What is refused.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_action_says_what_to_change_and_leaves_nothing() {
    let (app, token) = start().await;
    let text = |bytes: usize| json!({ "a": "x".repeat(bytes - 8) });
    // Short in JSON and long in the log: a number takes one byte there and twelve here.
    let numbers = json!({ "a": vec![1; 32_000] });
    let mut many = with("input", numbers.clone());
    many["decision"] = numbers.clone();
    let still = app.db.still().await;
    for (body, status, code) in [
        (with("agent", json!("a\nb")), 422, "agent_invalid"),
        (with("action", json!("drafted")), 422, "action_invalid"),
        (with("action", json!("Blog.drafted")), 422, "action_invalid"),
        (with("action", json!("render.completed")), 422, "action_reserved"),
        (with("action", json!("blog_posts.insert")), 422, "action_reserved"),
        (with("resource", json!({ "type": "x y", "id": "7" })), 422, "resource_invalid"),
        (with("input", text(65_537)), 422, "value_too_large"),
        (with("output", json!({ "a": { "$set": 1 } })), 422, "value_invalid"),
        (with("output", json!({ "a": u64::MAX })), 422, "value_invalid"),
        (with("decision", json!({ "a": "\0" })), 422, "value_invalid"),
        (many, 422, "value_too_large"),
        (with("input", json!({ "a": { "personal": "Greta", "subject": UMA.id } })), 422, "personal_invalid"),
        (with("subjects", json!([UMA.id, UMA.id])), 422, "subjects_invalid"),
        (with("assets", json!([{}])), 422, "assets_invalid"),
        (with("cost", json!({ "requests": 0 })), 422, "cost_invalid"),
        (with("cost", json!({ "tokens": -1 })), 422, "cost_invalid"),
        (
            with("deploy", json!({ "target": "a", "version": "b", "status": "done", "started_at": "x" })),
            422,
            "deploy_invalid",
        ),
        (with("input", json!([])), 400, "body_invalid"),
        (with("cost", json!({ "requests": 1.5 })), 400, "body_invalid"),
        (with("subjects", json!(["x"])), 400, "body_invalid"),
        (with("org_id", json!(BRICK)), 400, "body_invalid"),
        (json!({ "action": "a.b" }), 400, "body_invalid"),
    ] {
        keyed(&app, &token, &body, "k").await.expect_error(status, code);
    }
    app.post_raw(PATH, &token, "application/json", vec![b' '; 256 * 1024 + 1])
        .await
        .expect_error(413, "body_too_large");
    app.post_raw(PATH, &token, "text/plain", b"{}".to_vec()).await.expect_error(415, "content_type_unsupported");
    still.unchanged().await;
    // At the edge, all three at once, and it arrives in both databases.
    let mut full = with("input", text(65_536));
    full["decision"] = text(65_536);
    full["output"] = text(65_536);
    let answered = keyed(&app, &token, &full, "k").await.expect(201);
    assert_eq!(app.document(NORD, &id(&answered)).await.unwrap()["output"], text(65_536));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_too_large_or_empty_is_refused_before_anything_is_recorded() {
    let (app, token) = start().await;
    let put = async |bytes: usize| {
        let wanted = json!({ "content_type": "image/jpeg", "bytes": 10 });
        let upload = app.post("/v1/uploads", &token, &wanted).await.expect(201);
        let sent = app.client.put(upload["url"].as_str().unwrap()).body(vec![0xff; bytes]).send().await.unwrap();
        assert_eq!(sent.status(), 200);
        json!([{ "upload_id": upload["upload_id"] }])
    };
    for (bytes, code) in [(20 * 1024 * 1024 + 1, "asset_too_large"), (0, "asset_empty")] {
        let problem = app.post(PATH, &token, &with("assets", put(bytes).await)).await.expect_error(422, code);
        assert!(problem["detail"].as_str().unwrap().contains("assets[0]"), "{problem}");
    }
    assert_eq!(left(&app).await["entries"], 0);
    app.post(PATH, &token, &with("assets", put(20 * 1024 * 1024).await)).await.expect(201);
    let kind = "select jsonb_build_array(mime, bytes) from assets";
    assert_eq!(one(&app, kind).await, json!(["application/octet-stream", 20 * 1024 * 1024]));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_storage_an_action_with_a_file_is_not_recorded_and_one_without_is() {
    let (app, token) = start().await;
    let upload = app.upload(&token, &small_photo()).await;
    app.stack.fault("storage", "refuse", Calls::Every).unwrap();
    let answer = app.post(PATH, &token, &with("assets", json!([{ "upload_id": upload }]))).await;
    assert!(answer.headers.contains_key("retry-after"));
    answer.expect_error(503, "storage_unavailable");
    assert_eq!(left(&app).await["entries"], 0);
    app.post(PATH, &token, &draft()).await.expect(201);
}
