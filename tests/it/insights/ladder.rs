//! What serves when nothing changed, and when the model cannot be had or afforded.

use futures::future::join_all;
use integration_tests::{
    TestApp,
    people::{ADAM, NORD, OLGA},
    sample,
};
use reqwest::Method;
use sandbox::Calls;
use serde_json::{Value, json};

use super::{a_minute_passes, a_quarter, ask, leads, settled, written};

fn by(insight: &Value) -> (Option<&str>, Option<&str>) {
    (insight["served_by"].as_str(), insight["instead_because"].as_str())
}

/// Limits the analyst. The month goes on for a day at least, since a limit that opens within the hour is waited for.
async fn cap(app: &TestApp, what: &str, period: &str, most: i64) {
    app.db
        .run(&format!(
            "delete from agent_limits;
             insert into limit_windows (org_id, period, period_start, period_end, first_day)
             select '{NORD}', 'month', w.period_start, w.period_end + interval '1 day', w.first_day
               from app.limit_window('{NORD}', 'UTC', 'month', now()) w;
             insert into agent_limits (org_id, agent, scope, period, {what}) values ('{NORD}', 'analyst', 'agent', '{period}', {most})"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_changed_nobody_is_called_again() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    let first = written(&app, &ADAM, "leads", "week").await;
    let again = ask(&app, &ADAM, "leads", "week").await.expect(200);
    assert_eq!(again, first);
    assert_eq!(app.stack.sandbox.anthropic.asked().len(), 1);
    // Another lead changes the figures.
    leads(&app, NORD, 1, "new", "website", None, 1).await;
    let changed = ask(&app, &ADAM, "leads", "week").await.expect(202);
    assert_ne!(changed["id"], first["id"]);
    assert_eq!(written(&app, &ADAM, "leads", "week").await["id"], changed["id"]);
    assert_eq!(app.stack.sandbox.anthropic.asked().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_at_once_are_given_one_insight_and_one_call_is_paid() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    let answers = join_all((0..12).map(|n| ask(&app, if n % 2 == 0 { &ADAM } else { &OLGA }, "leads", "week"))).await;
    let ids: std::collections::BTreeSet<String> =
        answers.into_iter().map(|answer| answer.body["id"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    app.stack.insights.drained().await;
    assert_eq!(app.stack.sandbox.anthropic.asked().len(), 1);
    assert_eq!(app.db.count("select count(*) from jobs where job_type = 'insight'").await, 1);
    settled(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_key_answers_with_what_it_made_and_another_request_under_it_is_refused() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    let token = app.token(&ADAM);
    let send = async |body: &Value| {
        app.send_keyed(Method::POST, "/v1/insights/leads", &token, Some(body), Some("key-1")).await
    };
    let first = send(&json!({ "period": "week" })).await.expect(202);
    app.stack.insights.drained().await;
    leads(&app, NORD, 1, "lost", "ads", None, 6).await;
    let again = send(&json!({ "period": "week" })).await.expect(200);
    assert_eq!(again["id"], first["id"]);
    assert_eq!(app.db.count("select count(*) from ai_insights").await, 1);
    send(&json!({ "period": "month" })).await.expect_error(422, "idempotency_key_reused");
    assert_eq!(app.db.count("select count(*) from ai_insights").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_provider_is_waited_for_in_the_queue() {
    for fault in ["rate-limit", "overloaded", "timeout", "api-error", "reset"] {
        let app = TestApp::start().await;
        a_quarter(&app).await;
        app.stack.fault("anthropic", fault, Calls::Next(1)).unwrap();
        ask(&app, &ADAM, "leads", "week").await.expect(202);
        let waiting = written(&app, &ADAM, "leads", "week").await;
        assert_eq!((by(&waiting).0, waiting["pending"].as_bool()), (Some("default_template"), Some(true)), "{fault}");
        settled(&app).await;
        a_minute_passes(&app).await;
        let shown = written(&app, &ADAM, "leads", "week").await;
        assert_eq!(by(&shown), (Some("model"), None), "{fault}: {}", app.logs());
        settled(&app).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_stays_away_leaves_the_templates_text_and_is_asked_again_later() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    app.stack.fault("anthropic", "overloaded", Calls::Every).unwrap();
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    app.stack.insights.drained().await;
    for _ in 0..3 {
        a_minute_passes(&app).await;
    }
    let shown = written(&app, &ADAM, "leads", "week").await;
    assert_eq!(
        (by(&shown), shown["pending"].as_bool()),
        ((Some("default_template"), Some("provider_overloaded")), Some(false))
    );
    // Three attempts, and the cheaper model once.
    assert_eq!(app.stack.sandbox.anthropic.asked().len(), 4);
    settled(&app).await;
    // Whoever asks at once again is told the same; in a quarter of an hour the analyst tries again.
    ask(&app, &ADAM, "leads", "week").await.expect(200);
    app.stack.fault("anthropic", "none", Calls::Every).unwrap();
    app.db
        .run("alter table ai_insights disable trigger ai_insights_touch; update ai_insights set updated_at = now() - interval '16 minutes';
              alter table ai_insights enable trigger ai_insights_touch")
        .await;
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    assert_eq!(by(&written(&app, &ADAM, "leads", "week").await), (Some("model"), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_quota_is_served_by_what_was_written_before_or_by_the_cheaper_model() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    let first = written(&app, &ADAM, "leads", "week").await;
    // The same numbers once more, as in another week: words that were written for them serve, and no call is made.
    let again = "delete from jobs; update ai_insights set figures_digest = sha256('another week'), period_start = period_start - interval '7 days'";
    app.db
        .run(&format!(
            "delete from provider_calls; delete from usage_reservations; update ai_insights set job_id = null; {again}"
        ))
        .await;
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    let cached = written(&app, &ADAM, "leads", "week").await;
    assert_eq!(by(&cached), (Some("cache"), Some("same_figures")), "{}", app.logs());
    assert_eq!((&cached["headline"], &cached["bullets"]), (&first["headline"], &first["bullets"]));
    assert_eq!(app.stack.sandbox.anthropic.asked().len(), 1);

    // Old words are no better than new ones, and better than none.
    let age = "alter table ai_insights disable trigger ai_insights_touch;
               delete from ai_insights where served_by = 'cache'; update ai_insights set updated_at = now() - interval '8 days';
               alter table ai_insights enable trigger ai_insights_touch";
    app.db.run(age).await;
    app.stack.fault("anthropic", "spend-cap", Calls::Every).unwrap();
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    let stale = written(&app, &ADAM, "leads", "week").await;
    assert_eq!(by(&stale), (Some("stale_cache"), Some("provider_spend_cap")), "{}", app.logs());
    assert_eq!(stale["headline"], first["headline"]);

    app.db.run("delete from ai_insights").await;
    app.stack.fault("anthropic", "none", Calls::Every).unwrap();
    app.stack.fault("anthropic", "spend-cap", Calls::Next(1)).unwrap();
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    let cheaper = written(&app, &ADAM, "leads", "week").await;
    assert_eq!(by(&cheaper), (Some("cheaper_model"), Some("provider_spend_cap")), "{}", app.logs());
    assert_eq!(cheaper["model"], "claude-haiku-5-5");
    assert_eq!(app.db.count("select count(*) from usage_reservations where state = 'active'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_is_exceeded_by_no_rung() {
    // No requests left for the month: nothing is called, and the template speaks.
    let app = TestApp::start().await;
    a_quarter(&app).await;
    cap(&app, "max_requests", "month", 1).await;
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    assert_eq!(by(&written(&app, &ADAM, "leads", "week").await).0, Some("model"));
    ask(&app, &ADAM, "leads", "day").await.expect(200);
    ask(&app, &ADAM, "leads", "month").await.expect(202);
    let shown = written(&app, &ADAM, "leads", "month").await;
    assert_eq!(by(&shown), (Some("default_template"), Some("limit_reached")), "{}", app.logs());
    assert_eq!(app.stack.sandbox.anthropic.asked().len(), 1);
    settled(&app).await;

    // No money for the dear model, and enough for the cheaper one.
    let app = TestApp::start().await;
    a_quarter(&app).await;
    cap(&app, "max_cost_micro_usd", "month", 3000).await;
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    let shown = written(&app, &ADAM, "leads", "week").await;
    assert_eq!(by(&shown), (Some("cheaper_model"), Some("limit_too_small")), "{}", app.logs());
    settled(&app).await;

    // A wrong number was paid for: what it cost counts before the second try, for which there is no room then.
    let app = TestApp::start().await;
    a_quarter(&app).await;
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    app.stack.insights.drained().await;
    let one = app.db.count("select cost_micro_usd from usage_reservations").await;
    let app = TestApp::start().await;
    a_quarter(&app).await;
    cap(&app, "max_cost_micro_usd", "month", one + 100).await;
    app.stack.fault("anthropic", "wrong-number", Calls::Every).unwrap();
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    let shown = written(&app, &ADAM, "leads", "week").await;
    assert_eq!(by(&shown).0, Some("default_template"));
    let used =
        app.db.count("select used_cost_micro_usd from agent_usage where scope = 'agent' and period = 'month'").await;
    assert!(used > 100 && used <= one + 100, "{used} of {one}");
    let asked = app.stack.sandbox.anthropic.asked();
    assert_eq!(asked.iter().filter(|asked| asked["model"] == "claude-sonnet-5-5").count(), 1, "{used}");
    settled(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_opens_soon_is_waited_for() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    cap(&app, "max_requests", "minute", 1).await;
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    assert_eq!(by(&written(&app, &ADAM, "leads", "week").await).0, Some("model"));
    // As if all of this happened within the minute, whenever it turns.
    app.db
        .run("update agent_usage set used_requests = 1 where period = 'minute';
              insert into agent_usage (org_id, agent, scope, scope_id, period, period_start, used_requests)
              select org_id, agent, scope, scope_id, period, period_start + interval '1 minute', 1 from agent_usage where period = 'minute'
              on conflict do nothing")
        .await;
    ask(&app, &ADAM, "leads", "month").await.expect(202);
    let waiting = written(&app, &ADAM, "leads", "month").await;
    assert_eq!(
        (by(&waiting).0, waiting["pending"].as_bool()),
        (Some("default_template"), Some(true)),
        "{}",
        app.logs()
    );
    assert_eq!(
        app.db.count("select count(*) from jobs where wait_reason ->> 'reason' = 'limit' and attempts = 0").await,
        1
    );
    app.db.run("delete from agent_limits").await;
    a_minute_passes(&app).await;
    assert_eq!(by(&written(&app, &ADAM, "leads", "month").await), (Some("model"), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_price_nothing_is_called_and_without_figures_nothing_is_asked() {
    let app = TestApp::start().await;
    let few = ask(&app, &ADAM, "leads", "week").await.expect(200);
    assert_eq!(by(&few), (Some("default_template"), Some("nothing_to_tell")));
    assert!(few["job"].is_null());
    a_quarter(&app).await;
    app.db.run("delete from model_prices where provider = 'anthropic'").await;
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    let shown = written(&app, &ADAM, "leads", "week").await;
    assert_eq!(by(&shown), (Some("default_template"), Some("model_price_unknown")));
    assert!(app.stack.sandbox.anthropic.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_is_replaced_and_its_call_is_told_as_lost() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    let gate = sandbox::Gate::default();
    app.stack.sandbox.anthropic.then(sandbox::Canned::Held(gate.clone()));
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    app.stack.sandbox.anthropic.was_asked().await;
    app.db.run("update jobs set lease_token = gen_random_uuid()").await;
    gate.open();
    app.stack.insights.drained().await;
    // Whoever lost the job writes nothing of it.
    assert_eq!(app.db.count("select count(*) from ai_insights where served_by = 'model'").await, 0);
    assert_eq!(app.db.count("select count(*) from billing_events").await, 0);
    a_minute_passes(&app).await;
    assert_eq!(by(&written(&app, &ADAM, "leads", "week").await), (Some("model"), None), "{}", app.logs());
    assert_eq!(app.db.count("select count(*) from billing_events").await, 1);
    settled(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_cut_off_at_any_moment_writes_a_text_once_and_charges_for_it_once() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    let cases =
        sample(["reset", "lost"].into_iter().flat_map(|fault| (1..=14).map(move |call| (fault, call))).collect(), 14);
    for &(fault, call) in &cases {
        // Other figures, and so another insight.
        leads(&app, NORD, 1, "new", "website", None, 1).await;
        app.stack.insights.pause();
        let asked = ask(&app, &ADAM, "leads", "week").await.expect(202);
        app.stack.fault("postgres", fault, Calls::Number(call)).unwrap();
        app.stack.insights.resume();
        app.stack.insights.drained().await;
        app.stack.fault("postgres", "none", Calls::Every).unwrap();
        for _ in 0..2 {
            a_minute_passes(&app).await;
        }
        let shown = written(&app, &ADAM, "leads", "week").await;
        assert_eq!(shown["id"], asked["id"], "{fault} {call}");
        assert_eq!(by(&shown), (Some("model"), None), "{fault} {call}: {}", app.logs());
        settled(&app).await;
    }
    let met = app.stack.wire("postgres").unwrap().faults_met();
    assert!(met > cases.len() / 2, "{met} faults of {} were met", cases.len());
    for each in [
        "select count(*) from ai_insights where served_by = 'model'",
        "select count(distinct source_id) from billing_events",
        "select count(*) from billing_events",
        "select count(*) from audit_log where action = 'insight.written'",
    ] {
        assert_eq!(app.db.count(each).await, i64::try_from(cases.len()).unwrap(), "{each}");
    }
    assert_eq!(app.db.count("select count(*) from jobs where status <> 'succeeded'").await, 0);
    assert!(app.stack.insights.dead_letters().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_cancelled_calls_no_model_any_more_and_holds_nothing() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    let token = app.token(&ADAM);
    // While it waits, and while a model is at work: what that answers is paid for and kept.
    for (at_work, by_whom) in [(false, "default_template"), (true, "model")] {
        leads(&app, NORD, 1, "new", "website", None, 1).await;
        let gate = sandbox::Gate::default();
        if at_work {
            app.stack.sandbox.anthropic.then(sandbox::Canned::Held(gate.clone()));
        } else {
            app.stack.insights.pause();
        }
        let asked = ask(&app, &ADAM, "leads", "week").await.expect(202);
        if at_work {
            app.stack.sandbox.anthropic.was_asked().await;
        }
        let cancel = format!("{}/cancel", asked["job"]["href"].as_str().unwrap());
        assert!(app.send(Method::POST, &cancel, &token, None).await.status.is_success());
        gate.open();
        app.stack.insights.resume();
        let shown = written(&app, &ADAM, "leads", "week").await;
        assert_eq!(
            (by(&shown).0, shown["pending"].as_bool()),
            (Some(by_whom), Some(false)),
            "{at_work}: {}",
            app.logs()
        );
        settled(&app).await;
    }
    assert_eq!(app.db.count("select count(*) from jobs where status = 'cancelled'").await, 1);
    assert_eq!(app.db.count("select count(*) from billing_events").await, 1);
    assert_eq!(app.stack.sandbox.anthropic.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_gone_or_has_ended_is_replaced_by_the_cheaper_one() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    app.stack.fault("anthropic", "retired:claude-sonnet-5-5", Calls::Every).unwrap();
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    let shown = written(&app, &ADAM, "leads", "week").await;
    assert_eq!(by(&shown), (Some("cheaper_model"), Some("provider_model_unknown")), "{}", app.logs());
    assert_eq!(shown["model"], "claude-haiku-5-5");
    settled(&app).await;
    // Known to be gone, or known to have ended: it is not asked first.
    for (because, change) in [
        ("provider_model_unknown", "delete from ai_insights"),
        (
            "model_retired",
            "delete from ai_insights; update models set missed_at = null, retires_at = now() where model = 'claude-sonnet-5-5'",
        ),
    ] {
        app.db.run(change).await;
        let before = app.stack.sandbox.anthropic.count();
        ask(&app, &ADAM, "leads", "week").await.expect(202);
        let shown = written(&app, &ADAM, "leads", "week").await;
        assert_eq!(by(&shown), (Some("cheaper_model"), Some(because)), "{}", app.logs());
        assert_eq!(app.stack.sandbox.anthropic.count(), before + 1);
    }
}
