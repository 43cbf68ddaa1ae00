//! What agents did that are not Spine's own: recorded whole, once, in the right name and within limits, or not at all.

mod access;
mod limits;
mod list;
mod own;
mod personal;
mod recorded;
mod refused;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::{StreamExt, future::join_all, stream};
use integration_tests::{
    Answer, TestApp,
    acting::{Actor, attempt},
    people::{ADAM, Agent, BRICK, CLEO, DAN, DORA, HARBOUR, LAKESIDE, NORD, OLGA, OSCAR, RENATA, RUFUS, SVEN, UMA},
    small_photo,
};
use reqwest::Method;
use sandbox::{Calls, Moment, Tap, Verdict};
use serde_json::{Value, json};
use shared::{
    seal::{Aad, SealingKey, SubjectKey},
    secrets::SecretValue,
};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

const PATH: &str = "/v1/agent-actions";

/// An agent of Atelier Nord that is none of Spine's, and one of the other organisation.
const BLOGGER: Agent = Agent { id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0a11), org: NORD };
const PAINTER: Agent = Agent { id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0a12), org: BRICK };

async fn start() -> (TestApp, String) {
    let app = TestApp::start().await;
    app.db
        .run(&format!(
            "insert into agents (id, org_id, name, kind, role_id) values
                 ('{}', '{NORD}', 'Bruno', 'blogger', '00000000-0000-7000-8000-000000000007'),
                 ('{}', '{BRICK}', 'Pia', 'painter', '00000000-0000-7000-8000-000000000007')",
            BLOGGER.id, PAINTER.id
        ))
        .await;
    let token = app.agent_token(&BLOGGER).await;
    (app, token)
}

fn draft() -> Value {
    json!({
        "action": "blog_post.drafted", "resource": { "type": "blog_post", "id": "draft-7" },
        "input": { "topic": "lime plaster" }, "decision": { "why": "asked for twice" }, "output": { "words": 812 },
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut body = draft();
    body[name] = value;
    body
}

async fn limit(app: &TestApp, agent: &str, scope: &str, requests: u32) {
    app.db
        .run(&format!(
            "insert into agent_limits (org_id, agent, scope, period, max_requests) values ('{NORD}', '{agent}', '{scope}', 'month', {requests})"
        ))
        .await;
}

async fn one(app: &TestApp, query: &str) -> Value {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut app.db.admin().await).await.unwrap()
}

async fn keyed(app: &TestApp, token: &str, body: &Value, key: &str) -> Answer {
    app.send_keyed(Method::POST, PATH, token, Some(body), Some(key)).await
}

fn id(answer: &Value) -> String {
    answer["id"].as_str().unwrap().to_owned()
}

/// How many rows there are of everything that an action leaves.
async fn left(app: &TestApp) -> Value {
    one(
        app,
        "select jsonb_build_object(
             'entries', (select count(*) from audit_log where agent is not null), 'documents', (select count(*) from outbox where kind = 'document'),
             'assets', (select count(*) from assets), 'deploys', (select count(*) from deploys),
             'charges', (select count(*) from billing_events), 'keys', (select count(*) from idempotency_keys),
             'used', (select coalesce(sum(used_requests), 0) from agent_usage where scope = 'agent' and period = 'month'),
             'reserved', (select coalesce(sum(reserved_requests + reserved_tokens + reserved_cost_micro_usd), 0) from agent_usage))",
    )
    .await
}
