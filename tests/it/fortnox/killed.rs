//! A worker that goes away at any exchange with a server, from the renewal of its token to the voucher's number.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use integration_tests::{
    TestApp, full,
    people::{NORD, OLGA},
    sample,
};
use sandbox::{Moment, Tap, Verdict};
use uuid::Uuid;

use super::{
    connect,
    vouchers::{again, approve, office, propose},
};
use crate::approvals::voucher;

/// At how many of its exchanges a worker is killed, unless at all.
const KILLED: usize = 16;

/// Has a new worker process write a voucher, with a token to be renewed first, watched by `tap`. The approval's id.
async fn work(app: &TestApp, tap: &Tap) -> Uuid {
    let queue = app.stack.queue("accounting").unwrap();
    queue.pause();
    let id = propose(app, &voucher()).await;
    approve(app, id).await;
    app.db.run("update org_integrations set expires_at = now() + interval '1 second'").await;
    app.stack.function("AccountingWritesWorker").unwrap().retire();
    for (_, wire) in &app.stack.wires {
        wire.tap(Some(Arc::clone(tap)));
    }
    queue.resume();
    queue.drained().await;
    for (_, wire) in &app.stack.wires {
        wire.tap(None);
    }
    id
}

/// Leases end and waits are over; a person connects again where the connection says so. Whether one had to.
async fn time_passes(app: &TestApp, company: i64) -> bool {
    let lost = app.db.count("select count(*) from org_integrations where status = 'reconnect'").await == 1;
    if lost {
        assert_eq!(connect(app, &OLGA, company).await, "connected", "{}", app.logs());
    }
    app.db
        .run(
            "set session_replication_role = replica;
             update jobs set lease_until = now() - interval '1 second' where status = 'running';
             update org_integrations set refreshing_since = refreshing_since - interval '61 seconds';
             update accounting_executions set sent_at = now() - interval '121 seconds' where ended_at is null and sent_at is not null",
        )
        .await;
    again(app).await;
    lost
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_exchange_a_worker_leaves_one_voucher_and_a_connection_that_lasts_or_says_reconnect() {
    let app = TestApp::start().await;
    let company = office(&app).await;
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let counting: Tap = Arc::new(move |_, moment| {
        seen.fetch_add(usize::from(moment == Moment::Asked), Ordering::SeqCst);
        Verdict::Pass
    });
    work(&app, &counting).await;
    let steps = count.load(Ordering::SeqCst);
    assert!(steps > 15, "only {steps} exchanges were seen");
    let all: Vec<_> = (1..=steps).flat_map(|number| [(Moment::Asked, number), (Moment::Answered, number)]).collect();
    let cases = if full() { all } else { sample(all, KILLED) };
    let (mut killed, mut reconnected) = (0, 0);
    for (done, (moment, number)) in cases.into_iter().enumerate() {
        let worker = Arc::clone(app.stack.function("AccountingWritesWorker").unwrap());
        let count = AtomicUsize::new(0);
        let was_killed = Arc::new(AtomicUsize::new(0));
        let tell = Arc::clone(&was_killed);
        let tap: Tap = Arc::new(move |_, seen| {
            if seen == moment && count.fetch_add(1, Ordering::SeqCst) + 1 == number {
                tell.store(worker.kill(), Ordering::SeqCst);
                return Verdict::Cut;
            }
            Verdict::Pass
        });
        let id = work(&app, &tap).await;
        killed += was_killed.load(Ordering::SeqCst);
        for _ in 0..4 {
            reconnected += usize::from(time_passes(&app, company).await);
        }
        let status = app.db.text(&format!("select status from approvals where id = '{id}'")).await;
        let written = app.stack.sandbox.fortnox.vouchers(company).len();
        assert_eq!(
            (status.as_str(), written),
            ("executed", done + 2),
            "killed at exchange {number}, {moment:?}\n{}",
            app.logs()
        );
    }
    assert!(killed > 8, "{killed} were killed");
    // Where it was killed between the issue of a pair and its storage, and only there.
    assert!(reconnected * 10 <= killed.max(30), "{reconnected} of {killed}");
    let connected = format!("select count(*) from org_integrations where org_id = '{NORD}' and status = 'connected'");
    assert_eq!(app.db.count(&connected).await, 1);
}
