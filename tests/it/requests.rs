//! Every request that the product takes, once: the routes that docs/FEATURES.md lists, and for each that takes a POST one that works. Tests
//! of what all routes share go through them (routes.rs).

use std::collections::{BTreeMap, BTreeSet};

use integration_tests::{
    Answer, TestApp,
    people::{DORA, LAKESIDE, LIVING, NORD, OLGA, Person, SVEN},
    render_body, small_photo,
};
use reqwest::Method;
use sandbox::stripe::PRICE;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    approvals::{books_read, voucher},
    fortnox::vouchers::{propose, shown},
};

/// Where an app's page of billing is.
pub(crate) const APP: &str = "http://localhost:3000/billing";
/// A submission that was approved.
const SUBMISSION: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0009_0002);
/// A lead that nobody has.
pub(crate) const LEAD: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0009_0001);

/// A social account that is connected.
const ACCOUNT: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0009_0003);

/// Another, for one request alone.
const LEAVING: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0009_0005);

/// A conversation of the first.
const THREAD: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0009_0004);
/// A reply in it that waits.
const REPLY: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0009_0005);

/// The routes of the table in docs/FEATURES.md, each with the methods it takes.
pub(crate) fn routes() -> BTreeMap<String, BTreeSet<Method>> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/FEATURES.md")).unwrap();
    let mut routes = BTreeMap::<String, BTreeSet<Method>>::new();
    for cell in page.lines().filter(|line| line.starts_with("| `")).flat_map(|line| line.split('`')) {
        if let Some((method @ ("GET" | "POST"), path)) = cell.split_once(' ') {
            routes.entry(path.to_owned()).or_default().insert(method.parse().unwrap());
        }
    }
    assert!(routes.len() >= 15, "{routes:?}");
    routes
}

/// A request that works, and another under the same path.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// As docs/FEATURES.md names it.
    pub(crate) route: &'static str,
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
    /// Another body, which works as well.
    pub(crate) other: Value,
    /// A body with every text that there may be, whatever else it says. `null` where there is none.
    pub(crate) full: Value,
}

impl Ask {
    pub(crate) async fn send(&self, app: &TestApp, person: &Person, body: Option<&Value>, key: Option<&str>) -> Answer {
        app.send_keyed(Method::POST, &self.path, &app.token(person), body, key).await
    }

    /// The request with a key of its own.
    pub(crate) async fn keyed(&self, app: &TestApp, key: &str) -> Answer {
        self.send(app, &OLGA, self.body.as_ref(), Some(key)).await
    }
}

/// A back office in which each route that a person may post to has something to do, and a request to each.
pub(crate) async fn world() -> (TestApp, Vec<Ask>) {
    let app = TestApp::start().await;
    let token = app.token(&OLGA);
    app.stack.renders.pause();
    app.stack.leads.pause();
    app.stack.insights.pause();
    app.stack.queue("accounting").unwrap().pause();
    app.stack.fortnox.pause();
    app.stack.social.pause();
    app.stack.queue("social-replies").unwrap().pause();
    let upload = app.upload(&token, &small_photo()).await;
    let render = app.post("/v1/render-requests", &token, &render_body(LAKESIDE, upload)).await.expect(202);
    let id = render["id"].as_str().unwrap();
    let cancelled = app.post("/v1/render-requests", &token, &render_body(LAKESIDE, upload)).await.expect(202);
    let job = cancelled["job"]["id"].as_str().unwrap();
    let customer = app.stack.sandbox.stripe.create_customer(None, Default::default()).id;
    app.db
        .run(&format!(
            "delete from agent_limits;
             update jobs set status = 'failed', last_error = '{{}}', finished_at = now() where id = '{}';
             update render_requests set status = 'failed' where id = '{id}';
             insert into lead_capacity (org_id, user_id, max_open) values ('{NORD}', '{}', 1000);
             insert into lead_capacity (org_id, user_id, available) values ('{NORD}', '{}', false);
             insert into leads (id, org_id, client_name) values ('{LEAD}', '{NORD}', 'Lead');
             insert into social_accounts (id, org_id, platform, platform_id, username, scopes)
             values ('{ACCOUNT}', '{NORD}', 'instagram', '1', 'nord', '{{instagram_business_basic,instagram_business_manage_messages}}');
             insert into social_threads (id, org_id, account_id, thread_id, kind, counterpart_id, last_message_at, last_incoming_at)
             values ('{THREAD}', '{NORD}', '{ACCOUNT}', 'dm:1', 'message', '1', '2026-11-29 12:00+00', now());
             insert into social_replies (id, org_id, account_id, thread_id, kind, target_id, content, created_by)
             values ('{REPLY}', '{NORD}', '{ACCOUNT}', '{THREAD}', 'message', '1', 'Hello', '{}');
             insert into social_accounts (id, org_id, platform, platform_id, username) values ('{LEAVING}', '{NORD}', 'instagram', '2', 'nord2');
             insert into org_integrations (org_id, provider, status, external_tenant_id) values ('{NORD}', 'fortnox', 'connected', '1');
             update organizations set stripe_customer_id = '{customer}' where id = '{NORD}'",
            render["job"]["id"].as_str().unwrap(),
            SVEN.id,
            DORA.id,
            OLGA.id
        ))
        .await;
    let ask = |route: &'static str, path: String, body: Option<Value>, other: Value| {
        let full = body.clone().unwrap_or_default();
        Ask { route, path, body, other, full }
    };
    let with_texts = |ask: Ask, texts: Value| {
        let mut full = ask.full;
        full.as_object_mut().unwrap().extend(texts.as_object().unwrap().clone());
        Ask { full, ..ask }
    };
    let mut two = render_body(LAKESIDE, upload);
    two["variants"] = json!(2);
    let calm: serde_json::Map<String, Value> = ["style", "furnishings", "lighting", "walls", "flooring", "exterior"]
        .map(|wish| (wish.to_owned(), json!("calm")))
        .into_iter()
        .collect();
    let action = json!({
        "agent": "renderer", "action": "report.sent", "resource": { "type": "report", "id": "7" }, "assets": [{ "upload_id": upload }],
    });
    let mut asks = vec![
        ask(
            "/v1/uploads",
            "/v1/uploads".to_owned(),
            Some(json!({ "content_type": "image/jpeg", "bytes": 10 })),
            json!({ "content_type": "image/jpeg", "bytes": 11 }),
        ),
        with_texts(
            ask("/v1/render-requests", "/v1/render-requests".to_owned(), Some(render_body(LAKESIDE, upload)), two),
            json!({ "parent_id": id, "model": "gemini-3.1-flash-image", "parameters": calm }),
        ),
        ask(
            "/v1/render-requests/{id}/process",
            format!("/v1/render-requests/{id}/process"),
            None,
            json!({ "again": true }),
        ),
        ask("/v1/jobs/{id}/cancel", format!("/v1/jobs/{job}/cancel"), None, json!({ "again": true })),
        with_texts(
            ask(
                "/v1/agent-actions",
                "/v1/agent-actions".to_owned(),
                Some(action),
                json!({ "agent": "renderer", "action": "report.sent", "resource": { "type": "report", "id": "8" } }),
            ),
            json!({
                "project_id": LAKESIDE, "input": { "a": "b" }, "decision": { "a": ["b"] }, "output": { "a": { "b": "c" } },
                "subjects": [OLGA.id], "assets": [{ "upload_id": upload }, { "path": "renders/x" }],
                "deploy": {
                    "target": "blog", "version": "7", "status": "failed", "started_at": "2026-01-01T00:00:00Z",
                    "finished_at": "2026-01-01T00:00:00Z", "metadata": { "a": "b" },
                },
            }),
        ),
        ask(
            "/v1/insights/{table_name}",
            "/v1/insights/leads".to_owned(),
            Some(json!({ "period": "week" })),
            json!({ "period": "month" }),
        ),
        ask("/v1/fortnox/sync", "/v1/fortnox/sync".to_owned(), Some(json!({ "full": true })), json!({ "full": false })),
        ask(
            "/v1/fortnox/customers/import",
            "/v1/fortnox/customers/import".to_owned(),
            Some(json!({ "customer_numbers": ["1"] })),
            json!({ "customer_numbers": ["2"] }),
        ),
        ask(
            "/v1/fortnox/connection/disconnect",
            "/v1/fortnox/connection/disconnect".to_owned(),
            None,
            json!({ "again": true }),
        ),
        ask(
            "/v1/social/accounts/{id}/fetch",
            format!("/v1/social/accounts/{ACCOUNT}/fetch"),
            None,
            json!({ "again": true }),
        ),
        ask(
            "/v1/social/replies",
            "/v1/social/replies".to_owned(),
            Some(json!({ "thread_id": THREAD, "kind": "message", "text": "Hello" })),
            json!({ "thread_id": THREAD, "kind": "message", "text": "Hi" }),
        ),
        ask(
            "/v1/social/replies/{id}/cancel",
            format!("/v1/social/replies/{REPLY}/cancel"),
            None,
            json!({ "again": true }),
        ),
        ask(
            "/v1/social/connections/{id}/disconnect",
            format!("/v1/social/connections/{LEAVING}/disconnect"),
            None,
            json!({ "again": true }),
        ),
        ask("/v1/leads/{id}/assign", format!("/v1/leads/{LEAD}/assign"), None, json!({ "again": true })),
        ask(
            "/v1/leads/assignments/dry-run",
            "/v1/leads/assignments/dry-run".to_owned(),
            Some(json!({ "days": 3 })),
            json!({ "days": 4 }),
        ),
        ask(
            "/v1/leads/assignments/move",
            "/v1/leads/assignments/move".to_owned(),
            Some(json!({ "user_id": DORA.id })),
            json!({ "user_id": SVEN.id }),
        ),
        ask(
            "/v1/leads/assignments/settings",
            "/v1/leads/assignments/settings".to_owned(),
            Some(json!({ "ai_bound": 0 })),
            json!({ "ai_bound": 5 }),
        ),
        ask(
            "/v1/billing/checkout",
            "/v1/billing/checkout".to_owned(),
            Some(json!({ "price": PRICE, "success_url": APP, "cancel_url": APP })),
            json!({ "price": "price_other", "success_url": APP, "cancel_url": APP }),
        ),
        ask(
            "/v1/billing/portal",
            "/v1/billing/portal".to_owned(),
            Some(json!({ "return_url": APP })),
            json!({ "return_url": format!("{APP}?other") }),
        ),
    ];
    let lead = json!({ "territory": "North", "wanted_skills": ["kitchens"] });
    asks.push(with_texts(
        ask(
            "/v1/inbox/threads/{id}/lead",
            format!("/v1/inbox/threads/{THREAD}/lead"),
            Some(lead),
            json!({ "territory": "South" }),
        ),
        json!({ "email": "p@x.example", "phone": "+46 70 123 45 67", "currency": "SEK" }),
    ));
    // Before the connection is ended.
    asks.splice(0..0, approvals(&app).await);
    app.stack.sandbox.stripe.create_price("price_other", 5000);
    app.db.run("insert into plan_prices (stripe_price_id, plan) values ('price_other', 'solo')").await;
    // All but those that providers sign.
    let posts: BTreeSet<String> =
        routes().into_iter().filter(|(_, takes)| takes.contains(&Method::POST)).map(|(route, _)| route).collect();
    let asked: BTreeSet<String> = asks
        .iter()
        .map(|ask| ask.route.to_owned())
        .chain(["meta", "stripe", "tiktok"].map(|provider| format!("/webhooks/{provider}")))
        .chain(["deauthorized", "deletion"].map(|said| format!("/oauth/instagram/{said}")))
        .collect();
    assert_eq!(asked, posts, "each route of docs/FEATURES.md that takes a POST has a request here, and no other");
    (app, asks)
}

/// Requests about vouchers, of an organisation that is connected and whose books were read.
async fn approvals(app: &TestApp) -> Vec<Ask> {
    app.db
        .run(&format!(
            "insert into org_integrations (org_id, provider, status, external_tenant_id) values ('{NORD}', 'fortnox', 'connected', '1')
             on conflict do nothing;
             set session_replication_role = replica;
             insert into templates (id, org_id, name, type) values ('{SUBMISSION}', '{NORD}', 'Form', 'form');
             insert into submissions (id, org_id, client_id, template_id, status, submitted_at, reviewed_at)
             values ('{SUBMISSION}', '{NORD}', '{LIVING}', '{SUBMISSION}', 'approved', now(), now())"
        ))
        .await;
    books_read(&app.db, NORD).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(propose(app, &voucher()).await);
    }
    let digest = shown(app, &OLGA, ids[0]).await["digest"].clone();
    let decision = |id| json!({ "decisions": [{ "id": id, "decision": "refuse", "digest": digest, "reason": "no" }] });
    let wanted = |description: &str| {
        let mut voucher = voucher();
        voucher["description"] = json!(description);
        json!({ "client_id": LIVING, "voucher": voucher })
    };
    let ask = |route: &'static str, id: Uuid, body: Option<Value>, other: Value| {
        let full = body.clone().unwrap_or_default();
        Ask { route, path: route.replace("{id}", &id.to_string()), body, other, full }
    };
    vec![
        ask("/v1/approvals/{id}/approve", ids[0], Some(json!({ "digest": digest })), json!({ "digest": "0" })),
        ask("/v1/approvals/{id}/refuse", ids[1], Some(json!({ "reason": "no" })), json!({ "reason": "never" })),
        ask("/v1/approvals/decisions", ids[2], Some(decision(ids[2])), decision(ids[3])),
        ask(
            "/v1/approvals/settings",
            ids[0],
            Some(json!({ "own_proposals": true })),
            json!({ "own_proposals": false }),
        ),
        ask("/v1/accounting/vouchers", ids[0], Some(wanted("Rent")), wanted("Power")),
        ask("/v1/accounting/submissions/{id}/propose", SUBMISSION, None, json!({ "again": true })),
    ]
}

/// Every request there is: those with a key, and those that read.
pub(crate) fn all(asks: &[Ask]) -> Vec<(Method, String, Option<Value>)> {
    let posts = asks.iter().map(|ask| (Method::POST, ask.path.clone(), ask.body.clone()));
    let id = asks.iter().find_map(|ask| ask.path.strip_suffix("/process")).unwrap();
    let job = asks.iter().find_map(|ask| ask.path.strip_suffix("/cancel")).unwrap();
    let approval = asks.iter().find_map(|ask| ask.path.strip_suffix("/approve")).unwrap();
    // What browsers open leads them on, and what providers ask is no client's: they are tried by tests of their own.
    let is_ours = |route: &str| !route.starts_with("/oauth/") && !route.starts_with("/webhooks/");
    let gets = routes().into_iter().filter(|(route, takes)| takes.contains(&Method::GET) && is_ours(route));
    let gets = gets.map(|(route, _)| {
        let path = match route.as_str() {
            "/v1/render-requests/{id}" => id.to_owned(),
            "/v1/jobs/{id}" => job.to_owned(),
            "/v1/approvals/{id}" => approval.to_owned(),
            "/v1/accounting/templates/{id}/problems" => route.replace("{id}", &SUBMISSION.to_string()),
            "/v1/inbox/threads/{id}" => format!("/v1/inbox/threads/{THREAD}"),
            "/v1/inbox/search" => "/v1/inbox/search?q=word".to_owned(),
            "/v1/social/replies" => format!("/v1/social/replies?thread={THREAD}"),
            "/v1/social/replies/{id}" => format!("/v1/social/replies/{REPLY}"),
            "/v1/social/accounts/{id}/analytics" => {
                format!("/v1/social/accounts/{ACCOUNT}/analytics?metric=reach&from=2026-11-29&to=2026-11-30")
            }
            other => other.replace("{id}", &LEAD.to_string()).replace("{table_name}", "leads"),
        };
        (Method::GET, path, None)
    });
    posts.chain(gets).collect()
}
