//! What is left for the sweep to deliver: how much of it at once, to whom first, and what becomes of it while MongoDB is away.

use std::sync::Arc;

use integration_tests::{
    TestApp, TestDatabase,
    people::{BRICK, NORD},
};
use sandbox::{Calls, Moment, Verdict};
use serde_json::{Value, json};
use uuid::Uuid;

/// Documents of an organisation that have been due for so long, with these ids from a number on.
async fn due(db: &TestDatabase, org: Uuid, first: u32, count: u32, since: &str) {
    db.run(&format!(
        "insert into outbox (id, org_id, kind, destination, payload, next_attempt_at)
         select ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '{org}', 'document', 'agent_outputs',
                jsonb_build_object('kind', 'render', 'n', n, 'text', repeat('x', 500)), now() - interval '{since}'
           from generate_series({first}, {first} + {count} - 1) n"
    ))
    .await;
}

fn numbered(number: u32) -> String {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + u128::from(number)).to_string()
}

async fn undelivered(db: &TestDatabase) -> i64 {
    db.count("select count(*) from outbox where delivered_at is null").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_delivered_by_one_sweep_and_holds_up_nobody() {
    let app = TestApp::start().await;
    due(&app.db, NORD, 1, 2_000, "1 hour").await;
    due(&app.db, BRICK, 20_001, 3, "1 second").await;
    let before = app.stack.wire("mongodb").unwrap().exchanges();

    let swept = app.stack.sweep().await.unwrap();

    assert_eq!(swept["documents_delivered"], 2_003, "{swept} {}", app.logs());
    assert_eq!(undelivered(&app.db).await, 0);
    for (org, number) in [(NORD, 1), (NORD, 1_000), (NORD, 2_000), (BRICK, 20_003)] {
        let document = app.document(org, &numbered(number)).await.unwrap();
        assert_eq!((&document["n"], &document["org_id"]), (&json!(number), &json!(org)));
    }
    // The organisation that came last waits for one batch of the other's at most, and a batch is one exchange with MongoDB.
    let ahead = format!(
        "select count(*) from outbox where org_id = '{NORD}' and delivered_at < (select min(delivered_at) from outbox where org_id = '{BRICK}')"
    );
    assert!(app.db.count(&ahead).await <= 100, "{} went ahead", app.db.count(&ahead).await);
    let exchanges = app.stack.wire("mongodb").unwrap().exchanges() - before;
    assert!(exchanges <= 40, "{exchanges} exchanges with MongoDB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_stops_delivering_at_the_first_failure_of_mongodb_and_the_next_goes_on() {
    let app = TestApp::start().await;
    due(&app.db, NORD, 1, 60, "1 hour").await;
    due(&app.db, BRICK, 1_001, 60, "1 second").await;
    for fault in ["refuse", "reset", "hang", "garbage-bytes", "lost", "half"] {
        app.stack.fault("mongodb", fault, Calls::Every).unwrap();
        let swept = app.stack.sweep().await.unwrap();
        assert_eq!(swept["documents_delivered"], 0, "{fault}: {swept}");
        let tried = "select count(distinct org_id) from outbox where attempts > 0 or last_error is not null";
        assert_eq!(app.db.count(tried).await, 1, "{fault}: the other organisation's were tried as well");
        app.stack.fault("mongodb", "none", Calls::Every).unwrap();
        app.db.run("update outbox set attempts = 0, last_error = null").await;
        // It is no document's fault, so none of them waits longer for it.
        let put_off = "select count(*) from outbox where next_attempt_at > now()";
        assert_eq!(app.db.count(put_off).await, 0, "{fault}: documents were put off");
    }
    let swept = app.stack.sweep().await.unwrap();
    assert_eq!((&swept["documents_delivered"], undelivered(&app.db).await), (&json!(120), 0), "{swept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_ends_at_mongodb_has_done_everything_else() {
    let app = TestApp::start().await;
    due(&app.db, NORD, 1, 1, "1 hour").await;
    app.db
        .run(&format!(
            "insert into idempotency_keys (org_id, actor_id, key, operation, request_hash, resource_id, created_at)
             values ('{NORD}', gen_random_uuid(), 'k', 'o', 'x', gen_random_uuid(), now() - interval '2 days');
             insert into jobs (id, org_id, job_type, payload, max_attempts) values ('{NORD}', '{NORD}', 'render', '{{}}', 5);
             insert into usage_reservations (org_id, job_id, agent, requests, tokens, cost_micro_usd, windows, expires_at)
             values ('{NORD}', '{NORD}', 'renderer', 1, 1, 1, '[]', now() - interval '1 hour')"
        ))
        .await;
    app.stack.renders.pause();
    let sweep = Arc::clone(app.stack.function("Sweep").unwrap());
    let tap: sandbox::Tap = Arc::new(move |_, moment| {
        if moment == Moment::Asked {
            sweep.kill();
        }
        Verdict::Cut
    });
    app.stack.wire("mongodb").unwrap().tap(Some(tap));
    app.stack.sweep().await.unwrap_err();
    assert_eq!(app.db.count("select count(*) from idempotency_keys").await, 0);
    assert_eq!(app.db.count("select count(*) from usage_reservations where state = 'expired'").await, 1);
    assert_eq!(app.stack.renders.waiting().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_mongodb_does_not_take_is_put_off_alone() {
    let app = TestApp::start().await;
    due(&app.db, NORD, 1, 20, "1 hour").await;
    // One has no collection to go to, one is no document, and another organisation has a document of the third's id.
    app.db
        .run(&format!(
            "update outbox set destination = 'nowhere' where id = '{}';
             update outbox set payload = '[1]' where id = '{}'",
            numbered(3),
            numbered(5)
        ))
        .await;
    app.put_document(BRICK, &numbered(7), json!({ "kind": "theirs" })).await;

    let swept = app.stack.sweep().await.unwrap();

    assert_eq!(swept["documents_delivered"], 17, "{swept} {}", app.logs());
    for number in [3, 5, 7] {
        let put_off = format!(
            "select count(*) from outbox where id = '{}' and delivered_at is null and attempts = 1 and last_error is not null
                and next_attempt_at > now()",
            numbered(number)
        );
        assert_eq!(app.db.count(&put_off).await, 1, "{number}");
    }
    assert_eq!(app.document(BRICK, &numbered(7)).await.unwrap()["kind"], "theirs");
    assert_eq!(app.document(NORD, &numbered(7)).await, None::<Value>);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_does_not_answer_is_asked_once_in_a_sweep() {
    let app = TestApp::start().await;
    app.db
        .run(&format!(
            "insert into jobs (org_id, job_type, payload, max_attempts) select '{NORD}', 'render', '{{}}', 5 from generate_series(1, 10)"
        ))
        .await;
    app.stack.fault("queue", "reset", Calls::Every).unwrap();
    let swept = app.stack.sweep().await.unwrap();
    assert_eq!(swept["jobs_woken"], 0, "{swept}");
    // A message is sent twice at most.
    let met = app.stack.wire("queue").unwrap().faults_met();
    assert!((1..=2).contains(&met), "the queue was asked {met} times");
}
