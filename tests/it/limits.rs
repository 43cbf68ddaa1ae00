//! Limits hold under concurrency, and what they hold back is done later.

use futures::{StreamExt, stream};
use integration_tests::{
    TestApp,
    people::{DORA, LAKESIDE, NORD},
    render_body, small_photo,
};

async fn cap(app: &TestApp, scope: &str, requests: u32) {
    app.db.run("delete from agent_limits").await;
    app.db
        .run(&format!(
            "insert into agent_limits (org_id, agent, scope, period, max_requests) values ('{NORD}', 'renderer', '{scope}', 'month', {requests})"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_at_once_against_a_cap_of_fifty_admit_fifty_and_queue_the_rest() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    cap(&app, "project", 50).await;
    let token = app.token(&DORA);
    let upload = app.upload(&token, &small_photo()).await;
    let body = render_body(LAKESIDE, upload);

    let answers: Vec<_> = stream::iter(0..200)
        .map(|_| async { app.post("/v1/render-requests", &token, &body).await })
        .buffer_unordered(50)
        .collect()
        .await;

    let mut waiting = 0;
    for answer in answers {
        let retry_after = answer.headers.contains_key("retry-after");
        let body = answer.expect(202);
        if body["waiting"].is_null() {
            continue;
        }
        waiting += 1;
        assert_eq!(
            (body["waiting"]["reason"].as_str(), body["waiting"]["scope"].as_str()),
            (Some("limit"), Some("project"))
        );
        let until: chrono::DateTime<chrono::Utc> = body["waiting"]["until"].as_str().unwrap().parse().unwrap();
        assert!(until > chrono::Utc::now() && retry_after);
    }
    assert_eq!(waiting, 150);
    assert_eq!(app.db.count("select count(*) from usage_reservations where state = 'active'").await, 50);
    assert_eq!(app.db.count("select reserved_requests from agent_usage where scope = 'project'").await, 50);
    // The agent's own count, which stands in no limit's way, agrees: a refusal took everything back.
    assert_eq!(app.db.count("select reserved_requests from agent_usage where scope = 'agent'").await, 50);
    assert_eq!(
        app.db.count("select count(*) from jobs where run_after > now() and wait_reason is not null").await,
        150
    );
    assert_eq!(app.stack.renders.waiting().len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_limit_held_back_is_rendered_when_the_window_opens() {
    for scope in ["user", "project", "agent"] {
        let app = TestApp::start().await;
        cap(&app, scope, 1).await;
        let token = app.token(&DORA);
        app.request_render(&token, LAKESIDE).await.expect(202);
        let held = app.request_render(&token, LAKESIDE).await.expect(202);
        assert_eq!(held["waiting"]["scope"], scope);
        let id = held["id"].as_str().unwrap();
        app.stack.renders.drained().await;

        // Too early: a worker that looks all the same finds the limit still reached.
        app.db.run("update jobs set run_after = now() where status = 'queued'").await;
        app.stack.sweep().await.unwrap();
        let still = app.finished(&token, id).await;
        assert_eq!((still["status"].as_str(), still["waiting"]["scope"].as_str()), (Some("queued"), Some(scope)));
        assert_eq!(app.db.count("select attempts::bigint from jobs where status = 'queued'").await, 0);

        // The window is over: what was used belongs to an earlier one.
        app.db.run("update agent_usage set period_start = period_start - interval '1 month'").await;
        app.db.run("update jobs set run_after = now() where status = 'queued'").await;
        app.stack.sweep().await.unwrap();
        assert_eq!(app.finished(&token, id).await["status"], "completed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_whose_time_is_over_is_given_back_once() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    let token = app.token(&DORA);
    app.request_render(&token, LAKESIDE).await.expect(202);
    app.db.run("update usage_reservations set expires_at = now() - interval '1 second'").await;
    assert_eq!(app.stack.sweep().await.unwrap()["reservations_expired"], 1);
    assert_eq!(app.stack.sweep().await.unwrap()["reservations_expired"], 0);
    assert_eq!(app.db.count("select sum(reserved_requests)::bigint from agent_usage").await, 0);
    assert_eq!(app.db.count("select count(*) from usage_reservations where state = 'expired'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_price_is_refused_and_never_free() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    app.db.run("delete from model_prices where unit = 'image_output'").await;
    app.request_render(&token, LAKESIDE).await.expect_error(503, "model_price_unknown");
    assert_eq!(app.db.count("select count(*) from render_requests").await, 0);
    assert_eq!(app.db.count("select count(*) from jobs").await, 0);
}
