//! Models are rows: which is called, what it costs, when it ends, and what happens where its provider does not know it.

use integration_tests::{
    Server, TestApp, TestDatabase,
    people::{DORA, LAKESIDE, NORD},
    render_body, small_photo,
};
use sandbox::Calls;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection};

use crate::alarms;

const FLASH: &str = "gemini-3.1-flash-image";
const LITE: &str = "gemini-3.1-flash-lite-image";
const PRO: &str = "gemini-3-pro-image";
const OLDER: &str = "gemini-2.5-flash-image";
const HAIKU: &str = "claude-haiku-5-5";
const SONNET: &str = "claude-sonnet-5-5";

/// Has a render made by the model that is named, or by none in particular. The render.
async fn render(app: &TestApp, model: Option<&str>) -> Value {
    let token = app.token(&DORA);
    let upload = app.upload(&token, &small_photo()).await;
    let mut body = render_body(LAKESIDE, upload);
    body["model"] = json!(model);
    let admitted = app.post("/v1/render-requests", &token, &body).await.expect(202);
    app.finished(&token, admitted["id"].as_str().unwrap()).await
}

/// The model that made the render's picture, on which rung, and why it was that one.
async fn made(app: &TestApp, shown: &Value) -> Value {
    assert_eq!(shown["status"], "completed", "{shown} {}", app.logs());
    let result = &shown["results"][0];
    let why =
        format!("select result -> 'instead_because' from jobs where id = '{}'", shown["job"]["id"].as_str().unwrap());
    json!([result["model_used"], result["served_by"], one(app, &why).await])
}

async fn one(app: &TestApp, query: &str) -> Value {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut app.db.admin().await).await.unwrap()
}

/// The calls of a render in their order: for what, to which model, how each ended, and whether it cost something.
async fn calls(app: &TestApp, shown: &Value) -> Value {
    let query = format!(
        "select jsonb_agg(jsonb_build_array(purpose, model, outcome, cost_micro_usd > 0) order by started_at, id)
           from provider_calls where job_id = '{}'",
        shown["job"]["id"].as_str().unwrap()
    );
    one(app, &query).await
}

/// How often the alarm's metric was counted.
fn counted(app: &TestApp, metric: &str, provider: Option<&str>) -> usize {
    let lines: Vec<Value> = app.logs().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    lines.iter().filter(|line| line[metric] == 1.0 && line["provider"].as_str() == provider).count()
}

fn retire(app: &TestApp, provider: &str, model: &str) {
    app.stack.fault(provider, &format!("retired:{model}"), Calls::Every).unwrap();
}

/// What every call, reservation and charge of the organisation adds up to.
async fn adds_up(app: &TestApp) {
    let query = "select jsonb_build_array((select sum(cost_micro_usd) from provider_calls) = (select sum(cost_micro_usd) from billing_events),
                        (select sum(used_cost_micro_usd) from agent_usage where scope = 'agent' and period = 'month') = (select sum(cost_micro_usd) from provider_calls),
                        (select count(*) from usage_reservations where state = 'active'))";
    assert_eq!(one(app, query).await, json!([true, true, 0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_changed_counts_from_the_next_request_on() {
    let app = TestApp::start().await;
    let first = render(&app, None).await;
    assert_eq!((made(&app, &first).await, &first["model"]), (json!([FLASH, "model", null]), &json!(FLASH)));
    assert_eq!(
        app.stack.sandbox.gemini.asked()[0]["generationConfig"]["imageConfig"],
        json!({ "aspectRatio": "4:3", "imageSize": "1K" })
    );
    let costs = "select jsonb_agg(cost_micro_usd order by started_at) -> -1 from provider_calls";
    // 1,120 tokens of a picture at 60 dollars a million, 65 of text and thoughts at 3, and the prompt.
    let cost = one(&app, costs).await.as_i64().unwrap();
    assert!((67_200 + 195..67_700).contains(&cost), "{cost}");

    // Another default, at another price, in another size: the processes are the same.
    app.db
        .run(&format!(
            "update model_roles set model = case role when 'default' then '{LITE}' else '{FLASH}' end
              where purpose = 'render_picture' and role in ('default', 'cheaper');
             update model_prices set micro_usd_per_million = 10 * micro_usd_per_million where model = '{LITE}' and unit = 'image_output';
             update models set image_size = null where model = '{LITE}'"
        ))
        .await;
    let second = render(&app, None).await;
    assert_eq!((made(&app, &second).await, &second["model"]), (json!([LITE, "model", null]), &json!(LITE)));
    assert_eq!(app.stack.sandbox.gemini.asked()[1]["generationConfig"]["imageConfig"], json!({ "aspectRatio": "4:3" }));
    let cost = one(&app, costs).await.as_i64().unwrap();
    assert!((336_000..337_000).contains(&cost), "{cost}");
    // Each was kept under the model that made it.
    app.stack.fault("gemini", "day-quota", Calls::Every).unwrap();
    for (model, kept) in [(FLASH, Some("cache")), (LITE, Some("cache")), (PRO, None)] {
        let shown = render(&app, Some(model)).await;
        assert_eq!(shown["results"][0]["served_by"].as_str(), kept, "{model}: {shown}");
        assert_eq!(shown["results"][0]["model_used"].as_str(), kept.map(|_| model));
    }
    // What is disabled, or has no role, cannot be named.
    app.db.run(&format!("update models set enabled = false where model = '{PRO}'")).await;
    let token = app.token(&DORA);
    let upload = app.upload(&token, &small_photo()).await;
    let mut body = render_body(LAKESIDE, upload);
    body["model"] = json!(PRO);
    let refused = app.post("/v1/render-requests", &token, &body).await.expect_error(422, "model_unknown");
    assert_eq!(refused["detail"], format!("model must be one of: {LITE}, {FLASH}, {OLDER}."), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_model_that_is_gone_is_replaced_and_the_brief_is_bought_once() {
    let app = TestApp::start().await;
    retire(&app, "gemini", FLASH);
    let shown = render(&app, None).await;
    assert_eq!(made(&app, &shown).await, json!([LITE, "cheaper_model", "provider_model_unknown"]));
    assert_eq!(
        calls(&app, &shown).await,
        json!([
            ["render_brief", HAIKU, "ok", true],
            ["render_picture", FLASH, "provider_model_unknown", false],
            ["render_picture", LITE, "ok", true],
        ])
    );
    adds_up(&app).await;
    assert_eq!(
        (counted(&app, "ModelsUnknown", Some("gemini")), counted(&app, "ModelsUnknown", Some("anthropic"))),
        (1, 0)
    );
    alarms::rings(&app, "models-unknown", 1.0);
    assert!(app.logs().contains("the provider knows no such model"), "{}", app.logs());
    // A makeshift is not kept as if it were the answer.
    assert_eq!(app.db.count("select count(*) from ai_cache").await, 0);

    // The next one does not ask for it at all, before the brief is bought.
    let shown = render(&app, Some(FLASH)).await;
    assert_eq!(made(&app, &shown).await, json!([LITE, "cheaper_model", "provider_model_unknown"]));
    assert_eq!(
        calls(&app, &shown).await,
        json!([["render_brief", HAIKU, "ok", true], ["render_picture", LITE, "ok", true]])
    );
    assert_eq!(counted(&app, "ModelsUnknown", Some("gemini")), 1);

    // After an hour it is asked for again.
    app.stack.fault("gemini", "none", Calls::Every).unwrap();
    app.db.run("update models set missed_at = missed_at - interval '1 hour'").await;
    assert_eq!(made(&app, &render(&app, None).await).await, json!([FLASH, "model", null]));
    adds_up(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_for_briefs_that_is_gone_is_replaced_by_the_next() {
    let app = TestApp::start().await;
    retire(&app, "anthropic", HAIKU);
    let shown = render(&app, None).await;
    assert_eq!(made(&app, &shown).await, json!([FLASH, "model", null]));
    assert_eq!(
        calls(&app, &shown).await,
        json!([
            ["render_brief", HAIKU, "provider_model_unknown", false],
            ["render_brief", SONNET, "ok", true],
            ["render_picture", FLASH, "ok", true],
        ])
    );
    let told = "select decision -> 'brief_model' from audit_log where action = 'render.completed'";
    assert_eq!(one(&app, told).await, SONNET);
    assert_eq!(counted(&app, "ModelsUnknown", Some("anthropic")), 1);
    adds_up(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dearer_model_in_place_of_one_that_is_gone_is_reserved_for_and_exceeds_no_limit() {
    let app = TestApp::start().await;
    retire(&app, "gemini", LITE);
    // Room for the cheap model and the brief; not for the dear one.
    app.db
        .run(&format!(
            "delete from agent_limits;
             insert into agent_limits (org_id, agent, scope, period, max_cost_micro_usd) values ('{NORD}', 'renderer', 'agent', 'month', 60000)"
        ))
        .await;
    let shown = render(&app, Some(LITE)).await;
    assert_eq!((&shown["status"], &shown["error"]["code"]), (&json!("failed"), &json!("limit_too_small")), "{shown}");
    assert_eq!(
        calls(&app, &shown).await,
        json!([["render_brief", HAIKU, "ok", true], ["render_picture", LITE, "provider_model_unknown", false]])
    );
    app.db.run("update agent_limits set max_cost_micro_usd = 200000; update models set missed_at = null").await;
    let shown = render(&app, Some(LITE)).await;
    assert_eq!(made(&app, &shown).await, json!([FLASH, "model", "provider_model_unknown"]));
    let held =
        "select jsonb_agg(cost_micro_usd > 71000 order by created_at) from usage_reservations where state = 'settled'";
    assert_eq!(one(&app, held).await, json!([true]), "the picture was made under what was reserved for it");
    assert_eq!(app.db.count("select count(*) from usage_reservations where state = 'active'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_model_is_left_the_render_fails_and_the_brief_was_bought_once() {
    let app = TestApp::start().await;
    app.stack.fault("gemini", "unknown-model", Calls::Every).unwrap();
    let shown = render(&app, None).await;
    assert_eq!(
        (&shown["status"], &shown["error"]["code"]),
        (&json!("failed"), &json!("provider_model_unknown")),
        "{shown}"
    );
    let made = calls(&app, &shown).await;
    let asked: Vec<_> = made.as_array().unwrap().iter().map(|call| (call[0].as_str(), call[1].as_str())).collect();
    let picture = Some("render_picture");
    assert_eq!(
        asked,
        [
            (Some("render_brief"), Some(HAIKU)),
            (picture, Some(FLASH)),
            (picture, Some(LITE)),
            (picture, Some(PRO)),
            (picture, Some(OLDER))
        ]
    );
    assert_eq!(app.db.count("select count(*) from usage_reservations where state = 'active'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_has_ended_is_taken_only_if_there_is_no_other() {
    let app = TestApp::start().await;
    // Its end is past, whichever source is right about the day.
    let older = render(&app, Some(OLDER)).await;
    assert_eq!((made(&app, &older).await, &older["model"]), (json!([FLASH, "model", "model_retired"]), &json!(OLDER)));
    let ends = async |model: &str, when: &str| {
        app.db.run(&format!("update models set retires_at = now() + interval '{when}' where model = '{model}'")).await;
    };
    ends(FLASH, "1 hour").await;
    assert_eq!(made(&app, &render(&app, None).await).await, json!([FLASH, "model", null]));
    ends(FLASH, "-1 microsecond").await;
    assert_eq!(made(&app, &render(&app, None).await).await, json!([LITE, "cheaper_model", "model_retired"]));
    assert_eq!(counted(&app, "ModelsUnknown", Some("gemini")), 0);
    app.db.run(&format!("update models set enabled = model = '{OLDER}' where provider = 'gemini'")).await;
    assert_eq!(made(&app, &render(&app, None).await).await, json!([OLDER, "model", null]));
    let sent = app.stack.sandbox.gemini.asked();
    assert_eq!(sent.last().unwrap()["generationConfig"]["imageConfig"], json!({ "aspectRatio": "4:3" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_price_is_passed_over_and_never_free() {
    let app = TestApp::start().await;
    app.db.run(&format!("delete from model_prices where model = '{FLASH}' and unit = 'image_output'")).await;
    let shown = render(&app, None).await;
    assert_eq!(made(&app, &shown).await, json!([LITE, "model", "model_price_unknown"]));
    assert_eq!(
        calls(&app, &shown).await,
        json!([["render_brief", HAIKU, "ok", true], ["render_picture", LITE, "ok", true]])
    );
    // A price that is not in force yet is none.
    app.db
        .run(&format!("update model_prices set effective_from = now() + interval '1 hour' where model = '{HAIKU}'"))
        .await;
    let shown = render(&app, None).await;
    assert_eq!(
        calls(&app, &shown).await,
        json!([["render_brief", SONNET, "ok", true], ["render_picture", LITE, "ok", true]])
    );
    app.db.run("delete from model_prices where unit = 'image_output'").await;
    app.request_render(&app.token(&DORA), LAKESIDE).await.expect_error(503, "model_price_unknown");
    // Nor is one that nobody gave a model to.
    app.db.run("delete from model_roles where agent = 'renderer'").await;
    let token = app.token(&DORA);
    let upload = app.upload(&token, &small_photo()).await;
    let mut body = render_body(LAKESIDE, upload);
    body["model"] = Value::Null;
    app.post("/v1/render-requests", &token, &body).await.expect_error(503, "model_price_unknown");
    adds_up(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_a_gateway_put_into_text_is_used_and_paid_for() {
    let app = TestApp::start().await;
    app.stack.fault("gemini", "data-url", Calls::Number(1)).unwrap();
    let shown = render(&app, None).await;
    assert_eq!(made(&app, &shown).await, json!([FLASH, "model", null]));
    assert_eq!((&shown["results"][0]["width"], &shown["results"][0]["height"]), (&json!(256), &json!(192)), "{shown}");
    assert_eq!(calls(&app, &shown).await[1], json!(["render_picture", FLASH, "ok", true]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_told_from_thirty_days_before_it_on_and_once() {
    for server in [Server::Postgres16, Server::Postgres18] {
        let db = TestDatabase::new(server).await;
        let mut conn = db.admin().await;
        // Nothing of what a new installation has is news.
        let told = async |when: &str, of: &str| -> Value {
            let mut conn = db.admin().await;
            // In one transaction, so that now is the same throughout.
            let mut tx = conn.begin().await.unwrap();
            for statement in [
                "update models set retires_at = null".to_owned(),
                format!(
                    "update models set retires_at = now() + interval '{when}', noticed_end = null where model = '{of}'"
                ),
            ] {
                sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx).await.unwrap();
            }
            let query = "select coalesce(jsonb_agg(model), '[]') from app.notice_ending_models()";
            let first: Value = sqlx::query_scalar(query).fetch_one(&mut *tx).await.unwrap();
            let again: Value = sqlx::query_scalar(query).fetch_one(&mut *tx).await.unwrap();
            assert_eq!(again, json!([]), "{when}");
            first
        };
        let fresh: Value =
            sqlx::query_scalar("select coalesce(jsonb_agg(model), '[]') from app.notice_ending_models()")
                .fetch_one(&mut conn)
                .await
                .unwrap();
        assert_eq!(fresh, json!([]));
        assert_eq!(told("30 days 1 microsecond", FLASH).await, json!([]));
        assert_eq!(told("30 days", FLASH).await, json!([FLASH]));
        assert_eq!(told("30 days -1 microsecond", HAIKU).await, json!([HAIKU]));
        assert_eq!(told("-1 day", SONNET).await, json!([SONNET]));
        // A model that no agent has, and one that is switched off, end without a word.
        db.run(&format!(
            "update models set enabled = false where model = '{LITE}'; delete from model_roles where model = '{PRO}'"
        ))
        .await;
        assert_eq!(told("1 day", LITE).await, json!([]));
        assert_eq!(told("1 day", PRO).await, json!([]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_tells_an_operator_of_each_end_once() {
    let app = TestApp::start().await;
    assert_eq!(app.stack.sweep().await.unwrap()["models_ending"], 0, "{}", app.logs());
    alarms::is_silent(&app, "models-ending", None);
    let ends = async |days: u32, models: &str| {
        app.db
            .run(&format!("update models set retires_at = now() + interval '{days} days' where model in ({models})"))
            .await;
        app.stack.sweep().await.unwrap()["models_ending"].clone()
    };
    assert_eq!(ends(31, &format!("'{FLASH}'")).await, 0);
    assert_eq!(ends(29, &format!("'{FLASH}', '{HAIKU}'")).await, 2, "{}", app.logs());
    assert_eq!(app.stack.sweep().await.unwrap()["models_ending"], 0);
    assert_eq!(counted(&app, "ModelsEnding", None), 2);
    assert!(app.logs().contains("a model that is in use ends within thirty days"), "{}", app.logs());
    // Another end is other news.
    assert_eq!(ends(3, &format!("'{HAIKU}'")).await, 1);
    assert_eq!(counted(&app, "ModelsEnding", None), 3);
    alarms::rings(&app, "models-ending", 3.0);
}
