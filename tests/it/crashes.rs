//! A worker, a connection or a whole database that goes away in the middle, at every step there is.
//!
//! The steps are not listed by hand: a run is watched on its wires, and each exchange with a server is a step.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use integration_tests::{
    OwnServer, Setup, TestApp, abreast, full,
    people::{DORA, LAKESIDE, NORD},
    render_body, sample, small_photo,
};
use reqwest::Method;
use sandbox::{Moment, Tap, Verdict};
use serde_json::Value;
use tokio::sync::Notify;

/// At how many of its steps the database is restarted.
const RESTARTS: usize = 8;
/// How many back offices stand at once.
const ABREAST: usize = 3;

fn tap_all(app: &TestApp, tap: Option<&Tap>) {
    for (_, wire) in &app.stack.wires {
        wire.tap(tap.cloned());
    }
}

/// Counts the moments of this kind, and does something at the one of a number.
fn at_step(wanted: Moment, number: usize, act: impl Fn() + Send + Sync + 'static) -> (Tap, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let tap: Tap = Arc::new(move |_, moment| {
        if moment == wanted && seen.fetch_add(1, Ordering::SeqCst) + 1 == number {
            act();
            return Verdict::Cut;
        }
        Verdict::Pass
    });
    (tap, count)
}

/// How many steps a worker takes from its start to the end of a render.
async fn steps_of_a_worker(app: &TestApp) -> usize {
    let (tap, count) = at_step(Moment::Asked, usize::MAX, || {});
    work(app, &tap).await;
    count.load(Ordering::SeqCst)
}

/// Has a new worker process work on a new render, watched by `tap`. The render's id.
async fn work(app: &TestApp, tap: &Tap) -> String {
    app.stack.renders.pause();
    let render = app.request_render(&app.token(&DORA), LAKESIDE).await.expect(202);
    app.stack.function("ProcessRenderRequestWorker").unwrap().retire();
    tap_all(app, Some(tap));
    app.stack.renders.resume();
    app.stack.renders.drained().await;
    tap_all(app, None);
    render["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_worker_killed_at_any_step_leaves_one_result_one_charge_and_one_trail() {
    let steps =
        tokio::runtime::Runtime::new().unwrap().block_on(async { steps_of_a_worker(&TestApp::start().await).await });
    assert!(steps > 20, "only {steps} steps were seen");
    let cases = sample(at_every(steps), 24);
    let lost = Arc::new(AtomicUsize::new(0));
    let chunks: Vec<_> = cases.chunks(cases.len().div_ceil(ABREAST)).map(<[_]>::to_vec).collect();
    abreast(ABREAST, chunks, |chunk| killed_at(chunk, Arc::clone(&lost)));
    // Killed while a model was at work, twice over, and once more as its answer was written down.
    let lost = lost.load(Ordering::SeqCst);
    assert!(lost >= 4 || !full(), "{lost} calls are recorded as lost");
}

/// Both moments of each step.
fn at_every(steps: usize) -> Vec<(Moment, usize)> {
    (1..=steps).flat_map(|number| [(Moment::Asked, number), (Moment::Answered, number)]).collect()
}

async fn killed_at(steps: Vec<(Moment, usize)>, lost: Arc<AtomicUsize>) {
    let app = TestApp::start().await;
    app.db.run("delete from agent_limits").await;
    for (moment, number) in steps {
        let worker = Arc::clone(app.stack.function("ProcessRenderRequestWorker").unwrap());
        let (tap, _) = at_step(moment, number, move || {
            worker.kill();
        });
        let id = work(&app, &tap).await;
        app.a_minute_passes().await;
        app.made_exactly_once(NORD, &id)
            .await
            .unwrap_or_else(|wrong| panic!("killed at step {number}, {moment:?}: {wrong}\n{}", app.logs()));
    }
    let renders = app.db.count("select count(*) from render_requests").await;
    assert_eq!(app.db.count("select sum(renders)::bigint from render_counters").await, renders);
    // Every cost is somebody's: the tenant's, or the house's for what was lost or could not be used.
    let used = "select used_cost_micro_usd from agent_usage where scope = 'agent' and period = 'month'";
    let spent = "select sum(cost_micro_usd)::bigint from provider_calls";
    assert_eq!(app.db.count(used).await, app.db.count(spent).await);
    let here = app.db.count("select count(*) from provider_calls where outcome = 'lost'").await;
    lost.fetch_add(usize::try_from(here).unwrap(), Ordering::SeqCst);
}

/// Asks for a render with a key, again and again until it is admitted. The render.
async fn insist(app: &TestApp, body: &Value, key: &str) -> Value {
    let token = app.token(&DORA);
    // As long as a server takes to come back on a machine that does other things too.
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(60) {
        let answer = app.send_keyed(Method::POST, "/v1/render-requests", &token, Some(body), Some(key)).await;
        if answer.status == 202 {
            return answer.body;
        }
        assert!(answer.status.is_server_error(), "{} {}", answer.status, answer.body);
    }
    panic!("it was never admitted: {}", app.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_at_any_step_admits_one_render_and_finishes_it_once() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let body = render_body(LAKESIDE, app.upload(&token, &small_photo()).await);
    // As many renders as there are steps: this is not about limits.
    app.db.run("delete from agent_limits").await;
    insist(&app, &body, "warm").await;
    app.stack.renders.drained().await;
    let (tap, count) = at_step(Moment::Asked, usize::MAX, || {});
    tap_all(&app, Some(&tap));
    insist(&app, &body, "count").await;
    app.stack.renders.drained().await;
    tap_all(&app, None);
    let steps = count.load(Ordering::SeqCst);
    assert!(steps > 30, "only {steps} steps were seen");

    let cases = sample(at_every(steps), 24);
    for &(moment, number) in &cases {
        let (tap, _) = at_step(moment, number, || {});
        tap_all(&app, Some(&tap));
        let key = format!("{moment:?}-{number}");
        let render = insist(&app, &body, &key).await;
        app.stack.renders.drained().await;
        tap_all(&app, None);
        app.a_minute_passes().await;
        app.made_exactly_once(NORD, render["id"].as_str().unwrap())
            .await
            .unwrap_or_else(|wrong| panic!("cut at step {number}, {moment:?}: {wrong}\n{}", app.logs()));
    }
    let renders = app.db.count("select count(*) from render_requests").await;
    assert_eq!(usize::try_from(renders).unwrap(), cases.len() + 2);
    let idle = "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'";
    assert_eq!(app.db.count(idle).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_restarted_in_the_middle_loses_and_doubles_nothing() {
    let mut server = OwnServer::start().await;
    let db = server.database().await;
    let mut app = TestApp::set_up(Setup { db: Some(db), ..Setup::default() }).await;
    let body = render_body(LAKESIDE, app.upload(&app.token(&DORA), &small_photo()).await);
    let watched = async |app: &TestApp, tap: &Tap, key: &str| {
        app.stack.wire("postgres").unwrap().tap(Some(Arc::clone(tap)));
        let render = insist(app, &body, key).await;
        app.stack.renders.drained().await;
        app.stack.wire("postgres").unwrap().tap(None);
        render["id"].as_str().unwrap().to_owned()
    };
    // Counted the second time: the first has connections to make.
    let mut steps = 0;
    for key in ["warm", "count"] {
        let (tap, count) = at_step(Moment::Asked, usize::MAX, || {});
        watched(&app, &tap, key).await;
        steps = count.load(Ordering::SeqCst);
    }

    for (index, number) in (1..=steps).step_by(steps.div_ceil(RESTARTS)).enumerate() {
        let moment = if index % 2 == 0 { Moment::Asked } else { Moment::Answered };
        let gone = Arc::new(Notify::new());
        let told = Arc::clone(&gone);
        let (tap, _) = at_step(moment, number, move || told.notify_one());
        let key = format!("restart-{number}");
        let restart = async {
            gone.notified().await;
            server.restart().await
        };
        // The server goes down while the render is on its way, and is back on another port.
        let render = async {
            let id = watched(&app, &tap, &key).await;
            // A run with a step less has met nothing, and is followed by a restart.
            gone.notify_one();
            id
        };
        let (id, ()) = tokio::join!(render, async {
            let address = restart.await;
            app.stack.wire("postgres").unwrap().lead_to(address);
        });
        server.moved(&mut app.db);
        app.a_minute_passes().await;
        app.made_exactly_once(NORD, &id)
            .await
            .unwrap_or_else(|wrong| panic!("restarted at step {number}: {wrong}\n{}", app.logs()));
    }
}
