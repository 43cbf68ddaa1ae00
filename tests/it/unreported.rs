//! What a provider does not report of a call is charged as it was reserved, and is never free.

use integration_tests::{
    TestApp, abreast,
    people::{DORA, LAKESIDE},
};
use sandbox::Canned;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

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
             'picture', (select sum(c.cost_micro_usd) from provider_calls c where c.job_id = r.job_id and c.provider = 'gemini'))
           from render_requests r where r.id = '{id}'"
    )))
    .fetch_one(&mut app.db.admin().await)
    .await
    .unwrap()
}

/// Has a render made while the next answer of `provider` is this one. Its id.
async fn render(app: &TestApp, provider: &str, answer: Canned) -> String {
    let sandbox = &app.stack.sandbox;
    let script = if provider == "gemini" { &sandbox.gemini } else { &sandbox.anthropic };
    script.then(answer);
    let token = app.token(&DORA);
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    let id = render["id"].as_str().unwrap().to_owned();
    let shown = app.finished(&token, &id).await;
    assert_eq!(shown["status"], "completed", "{shown} {}", app.logs());
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_without_modality_details_costs_what_its_totals_say() {
    let app = TestApp::start().await;
    let usage = json!({ "promptTokenCount": 300, "candidatesTokenCount": 1290 });
    let id = render(&app, "gemini", Canned::Changed(vec![("/usageMetadata", Some(usage))])).await;
    let charged = charged(&app, &id).await;
    // 300 tokens at 0.30 and 1,290 at 30 dollars a million: what came was a picture.
    assert_eq!(charged["picture"], 38_790, "{charged}");
    assert_eq!((&charged["results"], &charged["calls"]), (&charged["billed"], &charged["billed"]), "{charged}");
}

/// What stands where a count belongs.
fn no_counts() -> Vec<Option<Value>> {
    vec![None, Some(Value::Null), Some(json!(-1)), Some(json!("many")), Some(json!(12.5))]
}

/// Answers in which a part that is billed is not reported: by which provider, at which pointer, and what stands there.
fn unreported() -> Vec<(&'static str, &'static str, Option<Value>)> {
    let mut cases = Vec::new();
    for pointer in ["/usageMetadata/promptTokenCount", "/usageMetadata/candidatesTokenCount", "/usageMetadata"] {
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
        "/usage",
    ] {
        cases.extend(no_counts().into_iter().map(|value| ("anthropic", pointer, value)));
    }
    cases
}

async fn charged_as_reserved(cases: Vec<(&'static str, &'static str, Option<Value>)>) {
    let app = TestApp::start().await;
    for (provider, pointer, value) in cases {
        let case = format!("{pointer}: {value:?}");
        let id = render(&app, provider, Canned::Changed(vec![(pointer, value)])).await;
        let charged = charged(&app, &id).await;
        assert!(charged["billed"].as_i64() >= charged["reserved"].as_i64(), "{case}: {charged}");
        assert_eq!(
            (&charged["results"], &charged["calls"]),
            (&charged["billed"], &charged["billed"]),
            "{case}: {charged}"
        );
    }
}

#[test]
fn a_part_that_is_not_reported_is_charged_as_reserved() {
    let cases = unreported();
    let chunks: Vec<_> = cases.chunks(cases.len().div_ceil(ABREAST)).map(<[_]>::to_vec).collect();
    abreast(ABREAST, chunks, charged_as_reserved);
}
