//! Delivered at least once, done exactly once.

use std::time::Duration;

use futures::future::join_all;
use integration_tests::{
    Server, TestApp, TestDatabase,
    acting::Actor,
    people::{CLEO, DAN, DORA, LAKESIDE, NORD, OSCAR, RENATA, RUFUS, SVEN, UMA},
};
use reqwest::Method;
use serde_json::json;
use sqlx::Executor;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_message_twice_makes_one_render() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    app.stack.renders.pause();
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    let message = app.stack.renders.waiting()[0].clone();
    for _ in 0..5 {
        app.stack.renders.send(&message);
    }
    app.stack.renders.resume();
    let render = app.finished(&token, render["id"].as_str().unwrap()).await;
    assert_eq!(render["status"], "completed");
    app.stack.renders.send(&message);
    app.stack.renders.drained().await;
    assert_eq!(app.db.count("select count(*) from render_results").await, 1);
    assert_eq!(app.db.count("select count(*) from billing_events").await, 1);
    assert_eq!(app.stack.sandbox.gemini.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_lease_completes_nothing() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    // The model is held; meanwhile the lease ends and somebody else takes the job.
    let gate = sandbox::Gate::default();
    app.stack.sandbox.gemini.then(sandbox::Canned::Held(gate.clone()));
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    app.stack.sandbox.gemini.was_asked().await;
    app.db.run("update jobs set lease_token = gen_random_uuid()").await;
    gate.open();
    let shown = app.finished(&token, render["id"].as_str().unwrap()).await;
    assert_eq!(shown["status"], "running");
    for table in ["render_results", "assets", "billing_events", "outbox", "render_counters"] {
        assert_eq!(app.db.count(&format!("select count(*) from {table}")).await, 0, "{table}");
    }
    assert_eq!(app.db.count("select count(*) from audit_log where action = 'render.completed'").await, 0);

    // The other worker died too: the sweep finds the job, and the next one finishes it.
    app.db.run("update jobs set lease_until = now() - interval '1 second'").await;
    app.stack.sweep().await.unwrap();
    assert_eq!(app.finished(&token, render["id"].as_str().unwrap()).await["status"], "completed");
    assert_eq!(app.db.count("select count(*) from billing_events").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_job_is_cancelled_at_once_and_its_reservation_given_back() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    let uma = app.token(&UMA);
    let render = app.request_render(&uma, LAKESIDE).await.expect(202);
    let job = render["job"]["id"].as_str().unwrap();
    let cancel = format!("/v1/jobs/{job}/cancel");
    app.send(Method::POST, &cancel, &app.token(&SVEN), None).await.expect_error(404, "job_not_found");
    let cancelled = app.send(Method::POST, &cancel, &uma, None).await.expect(200);
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(app.send(Method::POST, &cancel, &uma, None).await.expect(200)["status"], "cancelled");
    assert_eq!(app.db.count("select sum(reserved_requests)::bigint from agent_usage").await, 0);
    assert_eq!(app.db.count("select count(*) from audit_log where action = 'job.cancelled'").await, 1);
    app.stack.renders.resume();
    let shown = app.finished(&uma, render["id"].as_str().unwrap()).await;
    assert_eq!(shown["status"], "cancelled");
    assert!(app.stack.sandbox.gemini.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_a_person_may_not_see_is_not_there_for_them_to_cancel() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    let render = app.request_render(&app.token(&DORA), LAKESIDE).await.expect(202);
    let path = render["job"]["href"].as_str().unwrap();
    let cancel = format!("{path}/cancel");
    let of_another = app.stack.sandbox.auth.sign_in(&OSCAR.user(), Some(NORD)).unwrap();
    let (renata, rufus) = (app.agent_token(&RENATA).await, app.agent_token(&RUFUS).await);
    let still = app.db.still().await;
    // Colleagues without the right, clients' people, consultants, another organisation, and agents.
    for (name, token) in [
        ("sven", app.token(&SVEN)),
        ("uma", app.token(&UMA)),
        ("cleo", app.token(&CLEO)),
        ("oscar", app.token(&OSCAR)),
        ("dan", app.token(&DAN)),
        ("oscar as of nord", of_another),
        ("renata", renata),
        ("rufus", rufus),
    ] {
        let seen = app.get(path, &token).await;
        assert_eq!((name, seen.status.as_u16()), (name, 404), "{}", seen.body);
        for key in [None, Some("k")] {
            let answer = app.send_keyed(Method::POST, &cancel, &token, None, key).await;
            assert_eq!((name, key, answer.status.as_u16()), (name, key, 404), "{}", answer.body);
            let other = format!("/v1/jobs/{}/cancel", uuid::Uuid::now_v7());
            let unknown = app.send_keyed(Method::POST, &other, &token, None, key.map(|_| "other")).await;
            // It looks like one that never was.
            assert_eq!((&answer.body["detail"], answer.status), (&unknown.body["detail"], unknown.status), "{name}");
            answer.expect_error(404, "job_not_found");
        }
    }
    still.unchanged().await;
    assert_eq!(app.db.text("select status from jobs").await, "queued");
}

/// Waits until so many transactions wait for a lock of another.
pub(crate) async fn until_waiting(db: &TestDatabase, many: i64) {
    let waiting = "select count(distinct l.pid) from pg_locks l join pg_stat_activity a using (pid)
                    where not l.granted and a.datname = current_database()";
    let all = async { while db.count(waiting).await < many {} };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("nobody is in their way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_told_to_be_called_off_by_whoever_did_it_and_by_nobody_else() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    let token = app.token(&DORA);
    // Each has read the job before it may change it: both of two, and one whose job ends first.
    for (meanwhile, cancels, status, told) in [
        ("select from jobs where status = 'queued' for update", 2, "cancelled", 1),
        ("update jobs set status = 'succeeded', finished_at = now() where status = 'queued'", 1, "succeeded", 0),
    ] {
        let render = app.request_render(&token, LAKESIDE).await.expect(202);
        let job = render["job"]["id"].as_str().unwrap();
        let mut first = app.db.admin().await;
        first.execute("begin").await.unwrap();
        first.execute(meanwhile).await.unwrap();
        let path = format!("/v1/jobs/{job}/cancel");
        let sent = join_all((0..cancels).map(|_| app.send(Method::POST, &path, &token, None)));
        let (answers, ()) = tokio::join!(sent, async {
            until_waiting(&app.db, cancels).await;
            first.execute("commit").await.unwrap();
        });
        for answer in answers {
            assert_eq!(answer.expect(200)["status"], status);
        }
        let entries = format!("select count(*) from audit_log where action = 'job.cancelled' and record_id = '{job}'");
        assert_eq!(app.db.count(&entries).await, told, "{meanwhile}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_stops_at_its_next_step() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let gate = sandbox::Gate::default();
    app.stack.sandbox.anthropic.then(sandbox::Canned::Held(gate.clone()));
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    app.stack.sandbox.anthropic.was_asked().await;
    let cancel = format!("{}/cancel", render["job"]["href"].as_str().unwrap());
    let shown = app.send(Method::POST, &cancel, &token, None).await.expect(200);
    assert_eq!((shown["status"].as_str(), shown["cancel_requested"].as_bool()), (Some("running"), Some(true)));
    gate.open();
    assert_eq!(app.finished(&token, render["id"].as_str().unwrap()).await["status"], "cancelled");
    assert!(app.stack.sandbox.gemini.asked().is_empty());
    assert_eq!(app.db.count("select count(*) from usage_reservations where state = 'refunded'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_wake_up_is_found_by_the_sweep() {
    let app = TestApp::with(&[("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9")]).await;
    let token = app.token(&DORA);
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    assert!(app.stack.renders.waiting().is_empty());
    // The sweep of this stack cannot reach the queue either; what it would send is sent for it.
    let message = json!({ "job_id": render["job"]["id"], "org_id": NORD }).to_string();
    assert_eq!(app.stack.sweep().await.unwrap()["jobs_woken"], 0);
    app.stack.renders.send(&message);
    assert_eq!(app.finished(&token, render["id"].as_str().unwrap()).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_one_kind_keeps_no_other_kind_waiting() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(&format!(
        "insert into jobs (org_id, job_type, run_after) select '{NORD}', 'insight', now() - interval '1 hour' from generate_series(1, 50);
         insert into jobs (org_id, job_type, run_after) select '{NORD}', 'render', now() - interval '1 minute' from generate_series(1, 3)"
    ))
    .await;
    let due = "select job_type, count(*) as jobs from app.due_jobs(10) group by 1 order by 1";
    let due = db.ask(&Actor::role("spine_service"), due).await.unwrap();
    assert_eq!(due, json!([{ "job_type": "insight", "jobs": 10 }, { "job_type": "render", "jobs": 3 }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_mongodb_did_not_take_is_delivered_by_the_sweep() {
    let app =
        TestApp::with(&[("MONGODB_URI", "mongodb://127.0.0.1:9/?directConnection=true&serverSelectionTimeoutMS=200")])
            .await;
    let token = app.token(&DORA);
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    assert_eq!(app.finished(&token, render["id"].as_str().unwrap()).await["status"], "completed");
    assert_eq!(app.db.count("select count(*) from outbox where delivered_at is null").await, 1);
    assert_eq!(app.stack.sweep().await.unwrap()["documents_delivered"], 0);
    assert_eq!(app.db.count("select count(*) from outbox where delivered_at is null").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_job_ends_among_the_dead_letters() {
    let app = TestApp::start().await;
    app.stack.renders.send("not json");
    app.stack.renders.drained().await;
    assert_eq!(app.stack.renders.dead_letters(), ["not json"]);
}
