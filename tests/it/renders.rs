//! A photo's way to a finished render.

use integration_tests::{
    TestApp,
    people::{ADAM, DAN, DORA, HARBOUR, LAKESIDE, LOFT, NORD, OSCAR, SVEN, UMA},
    render_body, small_photo,
};
use process_render_request::mark;
use reqwest::Method;
use sandbox::Canned;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_photo_becomes_a_stored_render_with_its_cost_and_its_trail() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let upload = app.upload(&token, &sandbox::photo::room_photo().unwrap()).await;
    let mut body = render_body(LAKESIDE, upload);
    body["variants"] = json!(2);
    let admitted = app.post("/v1/render-requests", &token, &body).await.expect(202);
    let id = admitted["id"].as_str().unwrap();

    let render = app.finished(&token, id).await;

    assert_eq!(render["status"], "completed", "{render} {}", app.logs());
    assert_eq!(render["results"].as_array().unwrap().len(), 2);
    for result in render["results"].as_array().unwrap() {
        let picture = app.download(result["url"].as_str().unwrap()).await;
        assert_eq!(mark::read_mark(&picture).as_deref(), Some(mark::DIGITAL_SOURCE_TYPE));
        assert_eq!((result["width"].as_i64(), result["height"].as_i64()), (Some(1024), Some(768)));
        assert!(!picture.windows(6).any(|six| six == b"Exif\0\0"));
        assert_eq!(result["served_by"], "model");
    }
    let count = async |query: &str| app.db.count(query).await;
    let cost = render["cost_micro_usd"].as_i64().unwrap();
    assert!(cost > 2 * 67_200, "two pictures cost {cost}");
    assert_eq!(count("select sum(cost_micro_usd)::bigint from provider_calls").await, cost);
    assert_eq!(count("select sum(cost_micro_usd)::bigint from billing_events").await, cost);
    assert_eq!(count("select sum(used_cost_micro_usd)::bigint from agent_usage where scope = 'agent'").await, cost);
    assert_eq!(
        count("select sum(reserved_requests + reserved_tokens + reserved_cost_micro_usd)::bigint from agent_usage")
            .await,
        0
    );
    assert_eq!(count("select renders from render_counters").await, 2);
    assert_eq!(count("select count(*) from assets where kind = 'render' and length(sha256) = 32").await, 2);
    assert_eq!(count("select count(*) from usage_reservations where state = 'settled'").await, 1);
    // Delivered at once, or by the sweep where MongoDB took longer than the half second that the worker gives it.
    app.db.run("update outbox set next_attempt_at = now() where delivered_at is null").await;
    app.stack.sweep().await.unwrap();
    assert_eq!(count("select count(*) from outbox where delivered_at is not null").await, 1);
    let document = app.document(NORD, id).await.unwrap();
    assert_eq!(document["path"], format!("orgs/{NORD}/agent_outputs/{id}"));
    let job = app.get(admitted["job"]["href"].as_str().unwrap(), &token).await.expect(200);
    assert_eq!(job["status"], "succeeded");
    // Nobody is connected to Realtime, as mostly: functions must not log a warning for each row they write.
    assert_eq!(count("select count(*) from pg_inherits where inhparent = 'realtime.messages'::regclass").await, 0);
    assert!(!app.logs().contains("WarnSendingBroadcastMessage"), "{}", app.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_render_is_invisible_to_other_organisations() {
    let app = TestApp::start().await;
    let (alice, mallory) = (app.token(&DORA), app.token(&OSCAR));
    let render = app.request_render(&alice, LAKESIDE).await.expect(202);
    let (id, job) = (render["id"].as_str().unwrap(), render["job"]["id"].as_str().unwrap());
    app.stack.renders.drained().await;

    // 404 rather than 403: the reply must not confirm that it exists.
    app.get(&format!("/v1/render-requests/{id}"), &mallory).await.expect_error(404, "render_request_not_found");
    app.get(&format!("/v1/jobs/{job}"), &mallory).await.expect_error(404, "job_not_found");
    app.send(Method::POST, &format!("/v1/jobs/{job}/cancel"), &mallory, None).await.expect_error(404, "job_not_found");
    app.send(Method::POST, &format!("/v1/render-requests/{id}/process"), &mallory, None)
        .await
        .expect_error(404, "render_request_not_found");
    // Nor may they render for another's project, from another's upload or result.
    app.request_render(&mallory, LAKESIDE).await.expect_error(404, "project_not_found");
    let upload = app.upload(&alice, &small_photo()).await;
    app.post("/v1/render-requests", &mallory, &render_body(HARBOUR, upload))
        .await
        .expect_error(422, "photo_not_uploaded");
    let mut body = render_body(HARBOUR, upload);
    body["upload_id"] = json!(null);
    body["parent_id"] = json!(id);
    app.post("/v1/render-requests", &mallory, &body).await.expect_error(404, "parent_result_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_their_own_requests_and_reviewers_see_all() {
    let app = TestApp::start().await;
    let uma = app.token(&UMA);
    let render = app.request_render(&uma, LAKESIDE).await.expect(202);
    let path = format!("/v1/render-requests/{}", render["id"].as_str().unwrap());
    app.get(&path, &uma).await.expect(200);
    app.get(&path, &app.token(&DORA)).await.expect(200);
    app.get(&path, &app.token(&ADAM)).await.expect(200);
    app.get(&path, &app.token(&SVEN)).await.expect_error(404, "render_request_not_found");
    app.get(&path, &app.token(&DAN)).await.expect_error(404, "render_request_not_found");
    // A client's person renders for what is shared with them, and sales does not render.
    app.request_render(&uma, LOFT).await.expect_error(404, "project_not_found");
    app.post("/v1/uploads", &app.token(&SVEN), &json!({ "content_type": "image/png", "bytes": 5 }))
        .await
        .expect_error(403, "permission_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_key_makes_one_render_and_another_request_under_it_none() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let upload = app.upload(&token, &small_photo()).await;
    let body = render_body(LAKESIDE, upload);
    let send = async || {
        app.send_keyed(Method::POST, "/v1/render-requests", &token, Some(&body), Some("once")).await.expect(202)
    };
    let answers = futures::future::join_all((0..8).map(|_| send())).await;
    assert!(answers.iter().all(|answer| answer["id"] == answers[0]["id"]), "{answers:?}");
    assert_eq!(app.db.count("select count(*) from render_requests").await, 1);
    assert_eq!(app.db.count("select count(*) from jobs").await, 1);

    let mut other = body.clone();
    other["variants"] = json!(2);
    app.send_keyed(Method::POST, "/v1/render-requests", &token, Some(&other), Some("once"))
        .await
        .expect_error(422, "idempotency_key_reused");
    let uploads = async || {
        let wanted = json!({ "content_type": "image/jpeg", "bytes": 10 });
        let answer = app.send_keyed(Method::POST, "/v1/uploads", &token, Some(&wanted), Some("up")).await;
        answer.expect(201)["upload_id"].clone()
    };
    assert_eq!(uploads().await, uploads().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_render_goes_on_from_an_earlier_result() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let first = app.request_render(&token, LAKESIDE).await.expect(202);
    let first_id = first["id"].as_str().unwrap();
    app.finished(&token, first_id).await;
    let body = json!({ "project_id": LAKESIDE, "parent_id": first_id, "parameters": { "flooring": "cork" } });
    let second = app.post("/v1/render-requests", &token, &body).await.expect(202);
    let second = app.finished(&token, second["id"].as_str().unwrap()).await;
    assert_eq!((second["status"].as_str(), second["parent_id"].as_str()), (Some("completed"), Some(first_id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_prompt_fails_with_its_name_and_costs_the_tenant_nothing() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    app.stack.sandbox.gemini.then(Canned::Answer(200, json!({ "promptFeedback": { "blockReason": "SAFETY" } })));
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    let id = render["id"].as_str().unwrap();
    let shown = app.finished(&token, id).await;
    assert_eq!((shown["status"].as_str(), shown["error"]["code"].as_str()), (Some("failed"), Some("prompt_blocked")));
    assert_eq!(app.db.count("select count(*) from billing_events").await, 0);
    assert_eq!(app.db.count("select sum(used_requests + reserved_requests)::bigint from agent_usage").await, 0);
    assert_eq!(app.db.count("select count(*) from audit_log where action = 'render.failed'").await, 1);

    // Asked again, it goes through.
    app.send(Method::POST, &format!("/v1/render-requests/{id}/process"), &token, None).await.expect(202);
    assert_eq!(app.finished(&token, id).await["status"], "completed");
    app.send(Method::POST, &format!("/v1/render-requests/{id}/process"), &token, None)
        .await
        .expect_error(409, "render_request_completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_photo_that_is_cut_off_fails_and_says_what_to_change() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let photo = small_photo();
    let upload = app.upload(&token, &photo[..photo.len() * 3 / 4]).await;
    let render = app.post("/v1/render-requests", &token, &render_body(LAKESIDE, upload)).await.expect(202);
    let shown = app.finished(&token, render["id"].as_str().unwrap()).await;
    assert_eq!(shown["error"]["code"], "photo_damaged");
    assert_eq!(shown["error"]["detail"], "The photo is damaged or was cut off; upload it again.");
    assert_eq!(app.db.count("select count(*) from provider_calls").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_switch_stops_admission_and_holds_what_is_queued() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let upload = app.upload(&token, &small_photo()).await;
    app.stack.renders.pause();
    let queued = app.request_render(&token, LAKESIDE).await.expect(202);
    app.db.run("update system_settings set value = 'false' where key = 'renders.enabled'").await;

    let refused = app.post("/v1/render-requests", &token, &render_body(LAKESIDE, upload)).await;
    assert!(refused.headers.contains_key("retry-after"));
    refused.expect_error(503, "rendering_paused");
    app.stack.renders.resume();
    let held = app.finished(&token, queued["id"].as_str().unwrap()).await;
    assert_eq!((held["status"].as_str(), held["waiting"]["reason"].as_str()), (Some("queued"), Some("paused")));
    assert_eq!(app.db.count("select count(*) from provider_calls").await, 0);

    app.db.run("update system_settings set value = 'true' where key = 'renders.enabled'").await;
    app.db.run("update jobs set run_after = now()").await;
    app.stack.sweep().await.unwrap();
    assert_eq!(app.finished(&token, queued["id"].as_str().unwrap()).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_pooler_changes_nothing_but_the_round_trips() {
    let app = TestApp::with(&[("DATABASE_MODE", "transaction_pooler")]).await;
    let token = app.token(&DORA);
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    assert_eq!(app.finished(&token, render["id"].as_str().unwrap()).await["status"], "completed");
}
