//! What an agent does with social messages: scores and drafts, through the real schedule, queue and worker, with the sandbox's model.

mod access;
mod drafts;
mod figure;
mod injections;
mod sentiment;

use integration_tests::{
    TestApp, TestDatabase,
    people::{Agent, NORD, RENATA},
};
use sandbox::Canned;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

/// The one value of a query, asked as superuser.
async fn one(db: &TestDatabase, query: &str) -> Value {
    let query = format!("select coalesce(to_jsonb(one), 'null') from ({query}) x (one)");
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut db.admin().await).await.unwrap()
}

/// Has an organisation's agent work for its inbox.
async fn set(db: &TestDatabase, agent: &Agent, sentiment: bool, drafts: &str) {
    db.run(&format!(
        "insert into social_ai_settings (org_id, agent_id, sentiment, drafts, instruction)
         values ('{}', '{}', {sentiment}, '{drafts}', 'Svara vänligt, på svenska.')
         on conflict (org_id) do update set sentiment = excluded.sentiment, drafts = excluded.drafts",
        agent.org, agent.id
    ))
    .await;
}

/// An account of Instagram that an organisation has connected.
async fn account(db: &TestDatabase, org: Uuid) -> Uuid {
    db.run("select app.ensure_social_month(now()), app.ensure_social_month(now() - interval '3 days')").await;
    let insert = format!(
        "insert into social_accounts (org_id, platform, platform_id, username, api, scopes)
         values ('{org}', 'instagram', '{}', 'nord', 'instagram_login',
                 '{{instagram_business_basic,instagram_business_manage_messages,instagram_business_manage_comments}}') returning id::text",
        Uuid::new_v4()
    );
    db.text(&insert).await.parse().unwrap()
}

/// Something that was written in a thread of an account, so many minutes ago. Its id.
async fn written(db: &TestDatabase, account: Uuid, thread: &str, direction: &str, text: &str, minutes: i64) -> Uuid {
    let kind = if thread.starts_with("dm:") { "message" } else { "comment" };
    let id = Uuid::now_v7();
    // A comment's thread begins with it.
    let platform_id = thread.strip_prefix("comment:").map_or_else(|| id.to_string(), str::to_owned);
    let text = text.replace('\'', "''");
    db.run(&format!(
        "insert into social_threads (org_id, account_id, thread_id, kind, counterpart_id)
         select org_id, id, '{thread}', '{kind}', 'person' from social_accounts where id = '{account}' on conflict do nothing;
         insert into social_message_keys (org_id, account_id, platform_id, message_id, received_at)
         select org_id, id, '{platform_id}', '{id}', now() - interval '{minutes} minutes' from social_accounts where id = '{account}';
         insert into social_messages (id, org_id, account_id, message_type, content, sender_id, received_at, thread_id, platform_id, direction)
         select message_id, org_id, account_id, '{kind}', '{text}', 'person', received_at, '{thread}', platform_id, '{direction}'
           from social_message_keys where message_id = '{id}'"
    ))
    .await;
    id
}

/// An organisation with an account and an agent that works for it.
async fn nord(sentiment: bool, drafts: &str) -> (TestApp, Uuid) {
    let app = TestApp::start().await;
    set(&app.db, &RENATA, sentiment, drafts).await;
    let account = account(&app.db, NORD).await;
    (app, account)
}

/// One tick of the schedule, and all that follows from it.
async fn tick(app: &TestApp) -> Value {
    let found = app.stack.understand_social().await.unwrap();
    app.stack.social_ai.drained().await;
    found
}

/// A model's answer with this text.
fn says(text: &str) -> Canned {
    holds(json!([{ "type": "text", "text": text }]))
}

/// A model's answer with this content.
fn holds(content: Value) -> Canned {
    Canned::Answer(
        200,
        json!({
            "id": "msg_sandbox", "type": "message", "role": "assistant", "model": "claude-haiku-5-5",
            "content": content, "stop_reason": "end_turn", "stop_sequence": null,
            "usage": { "input_tokens": 900, "output_tokens": 40, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0 },
        }),
    )
}

/// The texts that the model was given in its calls, as it reads them.
fn given(app: &TestApp, mark: &str) -> Vec<Vec<Value>> {
    let read = |asked: &Value| {
        let prompt = asked["messages"][0]["content"].as_str()?;
        let data = prompt.split(&format!("<{mark}>\n")).nth(1)?.split(&format!("\n</{mark}>")).next()?;
        serde_json::from_str::<Vec<Value>>(data).ok()
    };
    app.stack.sandbox.anthropic.asked().iter().filter_map(read).collect()
}

/// Checks that nothing is held any more and every call has an end.
async fn settled(db: &TestDatabase) {
    let left = "select (select count(*) from usage_reservations where state = 'active')
                     + (select coalesce(sum(reserved_requests + reserved_tokens + reserved_cost_micro_usd), 0) from agent_usage)
                     + (select count(*) from provider_calls where outcome is null)";
    assert_eq!(db.count(&format!("select ({left})::bigint")).await, 0);
}

/// Every statement that this has.
pub(crate) async fn scenario(app: &TestApp) {
    set(&app.db, &RENATA, true, "all").await;
    let account = account(&app.db, NORD).await;
    written(&app.db, account, "dm:scenario", "in", "Hej, vad kostar ett kök?", 5).await;
    let found = tick(app).await;
    assert_eq!((&found["sentiment_queued"], &found["drafts_queued"]), (&json!(1), &json!(1)), "{found} {}", app.logs());
    assert_eq!(app.db.count("select count(*) from social_replies where status = 'draft'").await, 1, "{}", app.logs());
    app.db.run("delete from social_ai_settings").await;
}
