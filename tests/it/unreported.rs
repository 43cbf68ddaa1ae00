//! Usage that a provider does not report is charged as it was reserved, and is never free.

use integration_tests::{
    TestApp, abreast,
    people::{DORA, LAKESIDE, NORD, OLGA, SVEN},
    render_body, small_photo,
};
use reqwest::Method;
use sandbox::{Calls, Canned, Moment, Tap, Verdict};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

/// How many back offices stand at once.
const ABREAST: usize = 3;

/// What was charged for a render, wherever it is written, and what was reserved for it.
async fn charged(app: &TestApp, id: &str) -> Value {
    sqlx::query_scalar(AssertSqlSafe(format!(
        "select jsonb_build_object(
             'reserved', (select sum(u.cost_micro_usd) from usage_reservations u where u.job_id = r.job_id and u.state = 'settled'),
             'billed', (select sum(b.cost_micro_usd) from billing_events b where b.source_id = r.id),
             'results', (select sum(x.cost_micro_usd) from render_results x where x.request_id = r.id),
             'calls', (select sum(c.cost_micro_usd) from provider_calls c where c.job_id = r.job_id),
             'picture', (select sum(c.cost_micro_usd) from provider_calls c where c.job_id = r.job_id and c.provider = 'gemini'),
             'estimated', jsonb_build_array((select b.estimated from billing_events b where b.source_id = r.id),
                 (select x.estimated from render_results x where x.request_id = r.id),
                 (select j.result -> 'estimated' from jobs j where j.id = r.job_id),
                 (select a.output -> 'estimated' from audit_log a where a.record_id = r.id::text and a.action = 'render.completed'),
                 (select o.payload -> 'estimated' from outbox o where o.id = r.id)),
             'estimated_calls', (select jsonb_agg(c.provider) filter (where c.estimated) from provider_calls c where c.job_id = r.job_id))
           from render_requests r where r.id = '{id}'"
    )))
    .fetch_one(&mut app.db.admin().await)
    .await
    .unwrap()
}

/// How often the metric was counted.
fn counted(app: &TestApp, provider: &str) -> usize {
    let lines = app.logs().lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Vec<_>>();
    lines.iter().filter(|line| line["CostsEstimated"] == 1.0 && line["provider"] == provider).count()
}

/// Has a render made while the next answer of `provider` is this one. The render.
async fn render(app: &TestApp, provider: &str, answer: Canned) -> Value {
    let sandbox = &app.stack.sandbox;
    let script = if provider == "gemini" { &sandbox.gemini } else { &sandbox.anthropic };
    script.then(answer);
    let token = app.token(&DORA);
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    let shown = app.finished(&token, render["id"].as_str().unwrap()).await;
    assert_eq!(shown["status"], "completed", "{shown} {}", app.logs());
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_without_modality_details_costs_what_its_totals_say() {
    let app = TestApp::start().await;
    let usage = json!({ "promptTokenCount": 300, "candidatesTokenCount": 1120, "totalTokenCount": 1420 });
    let shown = render(&app, "gemini", Canned::Changed(vec![("/usageMetadata", Some(usage))])).await;
    let charged = charged(&app, shown["id"].as_str().unwrap()).await;
    // 300 tokens at 0.50 and 1,120 at 60 dollars a million: what came was a picture.
    assert_eq!(charged["picture"], 67_350, "{charged}");
    assert_eq!((&charged["results"], &charged["calls"]), (&charged["billed"], &charged["billed"]), "{charged}");
    // Every part was reported: which of them is a picture's is all that was not.
    assert_eq!(
        (&charged["estimated"], &charged["estimated_calls"]),
        (&json!([false, false, false, false, false]), &Value::Null)
    );
    assert_eq!((&shown["estimated"], &shown["results"][0]["estimated"]), (&json!(false), &json!(false)), "{shown}");
    assert_eq!(counted(&app, "gemini"), 0);
}

/// What stands where a count belongs.
fn no_counts() -> Vec<Option<Value>> {
    vec![None, Some(Value::Null), Some(json!(-1)), Some(json!("many")), Some(json!(12.5))]
}

/// Answers in which a part that is billed is not reported: by which provider, at which pointer, and what stands there.
fn unreported() -> Vec<(&'static str, &'static str, Option<Value>)> {
    let mut cases = Vec::new();
    for (provider, pointer) in [("gemini", "/usageMetadata"), ("anthropic", "/usage")] {
        cases.extend(no_counts().into_iter().take(2).map(|value| (provider, pointer, value)));
    }
    for pointer in ["/usageMetadata/promptTokenCount", "/usageMetadata/candidatesTokenCount"] {
        cases.extend(no_counts().into_iter().map(|value| ("gemini", pointer, value)));
    }
    // Left out where they are zero.
    for pointer in ["/usageMetadata/cachedContentTokenCount", "/usageMetadata/thoughtsTokenCount"] {
        cases.extend(no_counts().into_iter().skip(1).map(|value| ("gemini", pointer, value)));
    }
    // More than the parts that it names.
    cases.push(("gemini", "/usageMetadata/totalTokenCount", Some(json!(9000))));
    for pointer in [
        "/usage/input_tokens",
        "/usage/output_tokens",
        "/usage/cache_creation_input_tokens",
        "/usage/cache_read_input_tokens",
    ] {
        cases.extend(no_counts().into_iter().map(|value| ("anthropic", pointer, value)));
    }
    cases
}

async fn charged_as_reserved(cases: Vec<(&'static str, &'static str, Option<Value>)>) {
    let app = TestApp::start().await;
    let used = "select used_cost_micro_usd from agent_usage where scope = 'agent' and period = 'month'";
    for (provider, pointer, value) in cases {
        let case = format!("{pointer}: {value:?}");
        let (metric, shown) =
            (counted(&app, provider), render(&app, provider, Canned::Changed(vec![(pointer, value)])).await);
        let charged = charged(&app, shown["id"].as_str().unwrap()).await;
        assert!(charged["billed"].as_i64() >= charged["reserved"].as_i64(), "{case}: {charged}");
        assert_eq!(
            (&charged["results"], &charged["calls"]),
            (&charged["billed"], &charged["billed"]),
            "{case}: {charged}"
        );
        assert_eq!(charged["estimated"], json!([true, true, true, true, true]), "{case}: {charged}");
        assert_eq!(charged["estimated_calls"], json!([provider]), "{case}: {charged}");
        assert_eq!(shown["cost_micro_usd"], charged["billed"], "{case}: {shown}");
        assert_eq!((&shown["estimated"], &shown["results"][0]["estimated"]), (&json!(true), &json!(true)), "{case}");
        assert_eq!(counted(&app, provider), metric + 1, "{case}");
    }
    // Limits count what was charged.
    let spent = "select sum(cost_micro_usd)::bigint from provider_calls";
    assert_eq!(app.db.count(used).await, app.db.count(spent).await);
}

#[test]
fn a_part_that_is_not_reported_is_charged_as_reserved() {
    let cases = unreported();
    let chunks: Vec<_> = cases.chunks(cases.len().div_ceil(ABREAST)).map(<[_]>::to_vec).collect();
    abreast(ABREAST, chunks, charged_as_reserved);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_of_several_that_is_not_reported_charges_all_as_reserved() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let upload = app.upload(&token, &small_photo()).await;
    let mut body = render_body(LAKESIDE, upload);
    body["variants"] = json!(4);
    app.stack.fault("gemini", "no-usage", Calls::Number(3)).unwrap();
    let render = app.post("/v1/render-requests", &token, &body).await.expect(202);
    let shown = app.finished(&token, render["id"].as_str().unwrap()).await;
    let found = "select count(*) from billing_events b join usage_reservations u on u.state = 'settled'
                 where b.estimated and b.cost_micro_usd between u.cost_micro_usd and u.cost_micro_usd + 4
                   and b.cost_micro_usd = (select sum(cost_micro_usd) from provider_calls)
                   and b.cost_micro_usd = (select sum(cost_micro_usd) from render_results)";
    assert_eq!(app.db.count(found).await, 1, "{shown}");
    assert_eq!(app.db.count("select count(*) from provider_calls where estimated").await, 1);
    assert_eq!(app.db.count("select count(*) from render_results where estimated and variant in (1, 3)").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_charged_beyond_its_calls_counts_though_their_reservation_has_ended() {
    let app = TestApp::start().await;
    // The brief does not say what it used, and the first picture is none, so that the second is made under another reservation.
    app.stack.fault("anthropic", "no-usage", Calls::Every).unwrap();
    app.stack.fault("gemini", "no-image", Calls::Number(1)).unwrap();
    let token = app.token(&DORA);
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    let shown = app.finished(&token, render["id"].as_str().unwrap()).await;
    assert_eq!((&shown["status"], &shown["estimated"]), (&json!("completed"), &json!(true)), "{shown}");
    assert_eq!(app.db.count("select count(*) from usage_reservations where state = 'refunded'").await, 1);
    let used = "select used_cost_micro_usd from agent_usage where scope = 'agent' and period = 'month'";
    let calls = "select sum(cost_micro_usd)::bigint from provider_calls";
    assert_eq!(app.db.count(used).await, app.db.count(calls).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_never_answered_counts_as_it_was_reserved_and_is_billed_to_nobody() {
    let app = TestApp::with(&[("GEMINI_TIMEOUT_MS", "3000")]).await;
    let token = app.token(&DORA);
    for (number, fault) in ["hang", "lost", "half", "reset"].into_iter().enumerate() {
        app.stack.fault("gemini", fault, Calls::Number(1)).unwrap();
        let render = app.request_render(&token, LAKESIDE).await.expect(202);
        let shown = app.finished(&token, render["id"].as_str().unwrap()).await;
        assert_eq!((&shown["status"], &shown["estimated"]), (&json!("completed"), &json!(false)), "{fault}: {shown}");
        let count = async |condition: &str| {
            app.db
                .count(&format!("select count(*) from provider_calls where provider = 'gemini' and {condition}"))
                .await
        };
        let so_far = i64::try_from(number).unwrap() + 1;
        // 2,500 tokens in, 1,000 out and a picture's 1,120.
        assert_eq!(
            count("estimated and cost_micro_usd = 71450 and outcome like 'provider_%'").await,
            so_far,
            "{fault}"
        );
        assert_eq!(count("not estimated and outcome = 'ok'").await, so_far, "{fault}");
    }
    // Nothing is billed for what is refused.
    for fault in ["overloaded", "minute-quota"] {
        app.stack.fault("gemini", fault, Calls::Every).unwrap();
        let render = app.request_render(&token, LAKESIDE).await.expect(202);
        app.finished(&token, render["id"].as_str().unwrap()).await;
        assert_eq!(app.db.count(&free(&render)).await, 3, "{fault}: {}", app.logs());
        app.stack.fault("gemini", "none", Calls::Every).unwrap();
    }
    let used = "select used_cost_micro_usd from agent_usage where scope = 'agent' and period = 'month'";
    assert!(app.db.count(used).await >= 4 * 39_950 + 4 * 38_700);
    assert_eq!(app.db.count("select count(*) from billing_events where estimated").await, 0);
}

/// Counts calls of a render that cost nothing for sure.
fn free(render: &Value) -> String {
    format!(
        "select count(*) from provider_calls where job_id = '{}' and provider = 'gemini' and cost_micro_usd = 0 and not estimated",
        render["job"]["id"].as_str().unwrap()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_found_no_connection_costs_nothing() {
    // Nobody listens there.
    let app = TestApp::with(&[("GEMINI_BASE_URL", "http://127.0.0.1:1")]).await;
    let token = app.token(&DORA);
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    app.finished(&token, render["id"].as_str().unwrap()).await;
    assert_eq!(app.db.count(&free(&render)).await, 3, "{}", app.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_and_a_score_that_are_not_reported_are_charged_as_reserved() {
    let app = TestApp::start().await;
    let olga = app.token(&OLGA);
    let lead = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0009_0001);
    app.db
        .run(&format!(
            "insert into lead_capacity (org_id, user_id, max_open) values ('{NORD}', '{}', 100);
             insert into lead_assignment_settings (org_id, ai_bound) values ('{NORD}', 10);
             insert into leads (id, org_id, client_name) values ('{lead}', '{NORD}', 'Lead');
             insert into leads (org_id, client_name, source, created_at)
             select '{NORD}', 'Lead', 'website', now() - interval '1 week' * (n % 12 + 1) from generate_series(1, 100) n",
            SVEN.id
        ))
        .await;
    app.stack.fault("anthropic", "no-usage", Calls::Every).unwrap();
    app.send(Method::POST, &format!("/v1/leads/{lead}/assign"), &olga, None).await.expect(202);
    app.stack.leads.drained().await;
    app.post("/v1/insights/leads", &olga, &json!({ "period": "week" })).await.expect(202);
    app.stack.insights.drained().await;
    for kind in ["lead_score", "insight"] {
        let found = format!(
            "select count(*) from billing_events b
               join provider_calls c on c.cost_micro_usd = b.cost_micro_usd and c.estimated and c.outcome = 'ok'
               join usage_reservations u on u.id = c.reservation_id and u.cost_micro_usd = c.cost_micro_usd and u.tokens = c.tokens
              where b.kind = '{kind}' and b.estimated and b.cost_micro_usd > 0"
        );
        assert_eq!(app.db.count(&found).await, 1, "{kind}: {}", app.logs());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_lost_with_its_worker_counts_as_it_was_reserved() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let worker = std::sync::Arc::clone(app.stack.function("ProcessRenderRequestWorker").unwrap());
    let tap: Tap = std::sync::Arc::new(move |_, moment| {
        if moment == Moment::Answered {
            worker.kill();
        }
        Verdict::Pass
    });
    app.stack.wire("gemini").unwrap().tap(Some(tap));
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    app.stack.renders.drained().await;
    app.stack.wire("gemini").unwrap().tap(None);
    app.a_minute_passes().await;
    app.made_exactly_once(NORD, render["id"].as_str().unwrap()).await.unwrap();
    let lost = "select count(*) from provider_calls where outcome = 'lost' and estimated and cost_micro_usd = 71450";
    assert!(app.db.count(lost).await >= 1);
    assert_eq!(app.db.count("select count(*) from billing_events where estimated").await, 0);
    let used = "select used_cost_micro_usd from agent_usage where scope = 'agent' and period = 'month'";
    let spent = "select sum(cost_micro_usd)::bigint from provider_calls";
    assert_eq!(app.db.count(used).await, app.db.count(spent).await);
    assert!(counted(&app, "gemini") >= 1);
}
