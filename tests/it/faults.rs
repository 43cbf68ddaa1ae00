//! What providers and servers do wrong, and what becomes of a render then.

use std::{collections::BTreeMap, time::Duration};

use integration_tests::{
    Setup, TestApp, abreast,
    people::{DORA, LAKESIDE, NORD},
    render_body, sample, small_photo,
};
use reqwest::Method;
use sandbox::{Calls, anthropic, gemini};
use serde_json::json;

/// How many back offices stand at once.
const ABREAST: usize = 6;

/// What is to become of a render whose provider answers so every time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It fails with this code after so many calls.
    Fails(&'static str, usize),
    /// It is queued again, for a later attempt, with this code after so many calls.
    Again(&'static str, usize),
    /// It waits for a quota with this code.
    Waits(&'static str),
    /// It is completed by this rung.
    Served(&'static str),
}

fn fates() -> BTreeMap<(&'static str, &'static str), Fate> {
    use Fate::{Again, Fails, Served, Waits};
    [
        (("anthropic", "rate-limit"), Again("provider_rate_limited", 3)),
        (("anthropic", "spend-cap"), Served("default_template")),
        (("anthropic", "spend-limit"), Served("default_template")),
        (("anthropic", "overloaded"), Again("provider_overloaded", 3)),
        (("anthropic", "api-error"), Again("provider_overloaded", 3)),
        (("anthropic", "timeout"), Again("provider_timeout", 3)),
        (("anthropic", "bad-key"), Fails("provider_key_refused", 1)),
        // Each of the models that may be asked is.
        (("anthropic", "unknown-model"), Fails("provider_model_unknown", 2)),
        (("anthropic", "refusal"), Fails("model_refused", 1)),
        (("anthropic", "truncated"), Fails("answer_truncated", 2)),
        (("anthropic", "malformed"), Fails("answer_malformed", 2)),
        (("anthropic", "wrong-number"), Fails("answer_malformed", 2)),
        (("anthropic", "incomplete"), Fails("answer_malformed", 2)),
        (("anthropic", "empty"), Fails("answer_malformed", 2)),
        (("anthropic", "garbage"), Fails("answer_malformed", 2)),
        (("anthropic", "no-usage"), Served("model")),
        (("gemini", "blocked"), Fails("prompt_blocked", 1)),
        (("gemini", "blocked-image"), Fails("prompt_blocked", 1)),
        (("gemini", "no-image"), Fails("answer_without_image", 2)),
        (("gemini", "truncated"), Fails("answer_truncated", 2)),
        (("gemini", "no-candidate"), Fails("answer_malformed", 2)),
        (("gemini", "broken-picture"), Fails("render_not_a_picture", 2)),
        (("gemini", "wrong-shape"), Fails("render_wrong_shape", 2)),
        (("gemini", "minute-quota"), Again("provider_rate_limited", 3)),
        (("gemini", "day-quota"), Waits("provider_quota_spent")),
        (("gemini", "overloaded"), Again("provider_overloaded", 3)),
        (("gemini", "internal"), Again("provider_overloaded", 3)),
        (("gemini", "deadline"), Again("provider_timeout", 3)),
        (("gemini", "bad-key"), Fails("provider_key_refused", 1)),
        (("gemini", "invalid"), Fails("provider_request_invalid", 1)),
        (("gemini", "unknown-model"), Fails("provider_model_unknown", 4)),
        (("gemini", "garbage"), Fails("answer_malformed", 2)),
        (("gemini", "data-url"), Served("model")),
        (("gemini", "no-usage"), Served("model")),
        (("gemini", "no-details"), Served("model")),
    ]
    .into()
}

async fn meets_its_fate(target: &'static str, fault: &'static str, fate: Fate) {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    app.stack.fault(target, fault, Calls::Every).unwrap();

    let admitted = app.request_render(&token, LAKESIDE).await.expect(202);
    let id = admitted["id"].as_str().unwrap();
    let shown = app.finished(&token, id).await;

    let case = format!("{target} {fault}: {shown}\n{}", app.logs());
    let asked = if target == "gemini" { app.stack.sandbox.gemini.asked() } else { app.stack.sandbox.anthropic.asked() };
    let job = app.get(admitted["job"]["href"].as_str().unwrap(), &token).await.expect(200);
    match fate {
        Fate::Fails(code, calls) => {
            assert_eq!(
                (shown["status"].as_str(), shown["error"]["code"].as_str()),
                (Some("failed"), Some(code)),
                "{case}"
            );
            assert!(shown["error"]["detail"].as_str().unwrap().len() > 20, "{case}");
            assert_eq!(asked.len(), calls, "{case}");
            // Given back, but for what was really spent.
            assert_eq!(
                app.db.count("select count(*) from usage_reservations where state = 'active'").await,
                0,
                "{case}"
            );
            assert_eq!(
                app.db.count("select sum(reserved_requests + used_requests)::bigint from agent_usage").await,
                0,
                "{case}"
            );
            assert_eq!(
                app.db.count("select count(*) from audit_log where action = 'render.failed'").await,
                1,
                "{case}"
            );
        }
        Fate::Again(code, calls) => {
            assert_eq!(
                (shown["status"].as_str(), job["error"]["code"].as_str()),
                (Some("queued"), Some(code)),
                "{case}"
            );
            assert_eq!((asked.len(), job["attempts"].as_u64()), (calls, Some(1)), "{case}");
            assert_eq!(app.db.count("select count(*) from jobs where lease_token is not null").await, 0, "{case}");
        }
        Fate::Waits(code) => {
            assert_eq!(
                (shown["status"].as_str(), shown["waiting"]["reason"].as_str()),
                (Some("queued"), Some(code)),
                "{case}"
            );
            assert!(shown["waiting"]["until"].is_string() && job["attempts"] == 0, "{case}");
            assert_eq!(
                app.db.count("select count(*) from usage_reservations where state = 'active'").await,
                0,
                "{case}"
            );
        }
        Fate::Served(rung) => {
            assert_eq!(
                (shown["status"].as_str(), shown["results"][0]["served_by"].as_str()),
                (Some("completed"), Some(rung)),
                "{case}"
            );
        }
    }
    assert_eq!(
        app.db.count("select count(*) from provider_calls where outcome is null or outcome = ''").await,
        0,
        "{case}"
    );
    if !matches!(fate, Fate::Served(_)) {
        assert_eq!(app.db.count("select count(*) from billing_events").await, 0, "{case}");
        // Once the provider is well, what waits goes on by itself, and what failed can be asked for again.
        app.stack.fault(target, "none", Calls::Every).unwrap();
        if matches!(fate, Fate::Fails(..)) {
            app.send(Method::POST, &format!("/v1/render-requests/{id}/process"), &token, None).await.expect(202);
            assert_eq!(app.finished(&token, id).await["status"], "completed", "{case}");
        } else {
            app.a_minute_passes().await;
            app.made_exactly_once(NORD, id).await.unwrap_or_else(|wrong| panic!("{wrong}\n{case}"));
        }
    }
}

#[test]
fn every_wrong_answer_of_a_provider_has_its_name_and_its_fate() {
    let fates = fates();
    let known: Vec<(&str, &str)> = [("anthropic", anthropic::faults()), ("gemini", gemini::faults())]
        .into_iter()
        .flat_map(|(target, faults)| faults.into_iter().map(move |(fault, _)| (target, fault)))
        .collect();
    for case in &known {
        assert!(fates.contains_key(case), "{case:?} has no fate");
    }
    assert_eq!(known.len(), fates.len());
    abreast(ABREAST, fates, |((target, fault), fate)| meets_its_fate(target, fault, fate));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_answer_in_the_middle_is_made_good_in_the_same_attempt() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    app.stack.fault("gemini", "wrong-shape", Calls::Number(1)).unwrap();
    app.stack.fault("anthropic", "overloaded", Calls::Number(1)).unwrap();
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    let id = render["id"].as_str().unwrap();
    let shown = app.finished(&token, id).await;
    assert_eq!(shown["status"], "completed", "{}", app.logs());
    assert_eq!(app.db.count("select attempts::bigint from jobs").await, 1);
    // The tenant pays for the picture it got; its limits count both.
    let outcomes = "select count(*) from provider_calls where outcome";
    assert_eq!(app.db.count(&format!("{outcomes} = 'render_wrong_shape' and cost_micro_usd > 0")).await, 1);
    assert_eq!(app.db.count(&format!("{outcomes} = 'ok'")).await, 2);
    let billed = app.db.count("select sum(cost_micro_usd)::bigint from billing_events").await;
    let ok = app.db.count("select sum(cost_micro_usd)::bigint from provider_calls where outcome = 'ok'").await;
    assert_eq!(billed, ok);
    let used =
        app.db.count("select used_cost_micro_usd from agent_usage where scope = 'agent' and period = 'month'").await;
    assert_eq!(used, app.db.count("select sum(cost_micro_usd)::bigint from provider_calls").await);
    assert_eq!(app.db.count("select sum(reserved_cost_micro_usd)::bigint from agent_usage").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_ends_the_retries_that_an_overload_began() {
    for (second, status, code, calls) in [
        ("blocked", "failed", "prompt_blocked", 2),
        // The cheaper model is asked, too.
        ("day-quota", "queued", "provider_quota_spent", 3),
        ("wrong-shape", "failed", "render_wrong_shape", 2),
    ] {
        let app = TestApp::start().await;
        let token = app.token(&DORA);
        app.stack.fault("gemini", "overloaded", Calls::Number(1)).unwrap();
        app.stack.fault("gemini", second, Calls::Every).unwrap();
        let render = app.request_render(&token, LAKESIDE).await.expect(202);
        let shown = app.finished(&token, render["id"].as_str().unwrap()).await;
        let told = shown["error"]["code"].as_str().or(shown["waiting"]["reason"].as_str());
        assert_eq!((shown["status"].as_str(), told), (Some(status), Some(code)), "{second}: {shown}");
        assert_eq!(app.stack.sandbox.gemini.asked().len(), calls, "{second}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_no_limit_has_room_for_waits_for_the_next_window() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    // Room for one call, and not for another after one that was paid for in vain.
    app.db.run("delete from agent_limits").await;
    app.db
        .run(&format!(
            "insert into agent_limits (org_id, agent, scope, period, max_cost_micro_usd)
             values ('{NORD}', 'renderer', 'agent', 'day', 110000)"
        ))
        .await;
    app.stack.fault("gemini", "wrong-shape", Calls::Number(1)).unwrap();
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    let shown = app.finished(&token, render["id"].as_str().unwrap()).await;
    let job = app.get(render["job"]["href"].as_str().unwrap(), &token).await.expect(200);
    assert_eq!(
        (shown["status"].as_str(), job["error"]["code"].as_str()),
        (Some("queued"), Some("limit_reached")),
        "{job}"
    );
    assert_eq!((app.stack.sandbox.gemini.asked().len(), job["attempts"].as_u64()), (1, Some(1)));
    assert_eq!(app.db.count("select count(*) from usage_reservations where state = 'active'").await, 0);
    app.db.run("update agent_usage set period_start = period_start - interval '1 day' where period = 'day'").await;
    app.a_minute_passes().await;
    app.made_exactly_once(NORD, render["id"].as_str().unwrap())
        .await
        .unwrap_or_else(|wrong| panic!("{wrong} {}", app.logs()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_gives_its_job_back_before_it_is_cut_off() {
    let app = TestApp::set_up(Setup { worker_timeout: Some(Duration::from_secs(20)), ..Setup::default() }).await;
    let token = app.token(&DORA);
    app.stack.fault("gemini", "hang", Calls::Every).unwrap();
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    let shown = app.finished(&token, render["id"].as_str().unwrap()).await;
    assert_eq!(shown["status"], "queued", "{}", app.logs());
    assert_eq!(app.db.count("select count(*) from jobs where lease_token is null and last_error is not null").await, 1);
    assert!(app.stack.renders.dead_letters().is_empty());
    app.stack.fault("gemini", "none", Calls::Every).unwrap();
    app.a_minute_passes().await;
    app.made_exactly_once(NORD, render["id"].as_str().unwrap()).await.unwrap();
}

/// What a client may be told while something is down.
const TOLD: [&str; 4] = ["storage_unavailable", "secret_unavailable", "database_unavailable", "keys_unavailable"];

async fn survives(target: &'static str, fault: &'static str) {
    let timeouts = [("ANTHROPIC_TIMEOUT_MS", "1500"), ("GEMINI_TIMEOUT_MS", "3000"), ("STORAGE_TIMEOUT_MS", "1500")];
    let app = TestApp::with(&timeouts).await;
    let token = app.token(&DORA);
    let upload = app.upload(&token, &small_photo()).await;
    let body = render_body(LAKESIDE, upload);
    app.stack.fault(target, fault, Calls::Every).unwrap();

    let ask = async || app.send_keyed(Method::POST, "/v1/render-requests", &token, Some(&body), Some("once")).await;
    let mut answer = ask().await;
    if answer.status != 202 {
        let code = answer.body["code"].as_str().unwrap_or_default().to_owned();
        assert!(
            answer.status == 503 && TOLD.contains(&code.as_str()),
            "{target} {fault}: {} {}",
            answer.status,
            answer.body
        );
        assert!(answer.headers.contains_key("retry-after"), "{target} {fault}: {}", answer.body);
    } else {
        app.stack.renders.drained().await;
        app.a_minute_passes().await;
    }
    assert!(app.stack.wire(target).unwrap().faults_met() > 0, "{target} {fault}: nobody met it");
    // Well again: the client repeats what was refused, and nobody does anything else.
    app.stack.fault(target, "none", Calls::Every).unwrap();
    if answer.status != 202 {
        answer = ask().await;
    }
    let id = answer.expect(202)["id"].as_str().unwrap().to_owned();
    app.stack.renders.drained().await;
    let mut last = Ok(());
    // As many attempts as a job has, and one for what they leave.
    for _ in 0..6 {
        app.a_minute_passes().await;
        last = app.made_exactly_once(NORD, &id).await;
        if last.is_ok() {
            break;
        }
    }
    last.unwrap_or_else(|wrong| panic!("{target} {fault}: {wrong}\n{}", app.logs()));
    assert_eq!(app.db.count("select count(*) from render_requests").await, 1, "{target} {fault}");
    assert_eq!(app.db.count("select renders from render_counters").await, 1, "{target} {fault}");
}

#[test]
fn whatever_is_down_slow_or_lying_nothing_is_lost_and_nothing_doubled() {
    let targets = ["postgres", "mongodb", "storage", "anthropic", "gemini", "queue", "secrets"];
    let faults = ["refuse", "hang", "reset", "slow:400", "garbage-bytes", "half", "lost"];
    let cases = targets.into_iter().flat_map(|target| faults.into_iter().map(move |fault| (target, fault)));
    abreast(ABREAST, sample(cases.collect(), 21), |(target, fault)| survives(target, fault));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_replayed_by_putting_it_back() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    // Every delivery is killed in the middle, until the queue has had enough.
    let worker = std::sync::Arc::clone(app.stack.function("ProcessRenderRequestWorker").unwrap());
    let tap: sandbox::Tap = std::sync::Arc::new(move |_, moment| {
        if moment == sandbox::Moment::Asked {
            worker.kill();
        }
        sandbox::Verdict::Cut
    });
    app.stack.renders.pause();
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    app.stack.wire("postgres").unwrap().tap(Some(tap));
    app.stack.renders.resume();
    app.stack.renders.drained().await;
    assert_eq!(app.stack.renders.dead_letters().len(), 1);
    app.stack.wire("postgres").unwrap().tap(None);

    assert_eq!(app.stack.renders.redrive(), 1);
    app.stack.renders.drained().await;
    app.a_minute_passes().await;
    app.made_exactly_once(NORD, render["id"].as_str().unwrap()).await.unwrap();
    assert!(app.stack.renders.dead_letters().is_empty());
    assert_eq!(json!(app.stack.renders.waiting()), json!([]));
}
