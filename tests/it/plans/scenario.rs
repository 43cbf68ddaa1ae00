//! Everything that functions do, once or a few times: whatever a request, a delivery, a queue or a schedule makes them send.

use integration_tests::{
    TestApp,
    people::{DORA, LAKESIDE, NORD, OLGA, RENATA},
    render_body, small_photo,
};
use reqwest::Method;
use sandbox::{
    Calls,
    stripe::{Delivery, Outcome, PRICE},
};
use serde_json::{Value, json};
use uuid::Uuid;

/// All of it.
pub(super) async fn everything(app: &TestApp) {
    unlimited(app).await;
    renders(app).await;
    leads(app).await;
    insights(app).await;
    agent_actions(app).await;
    crate::fortnox::scenario(app).await;
    crate::social_ai::scenario(app).await;
    crate::social_fetch::scenario(app).await;
    crate::social_webhook::scenario(app).await;
    crate::social_oauth::scenario(app).await;
    crate::social_replies::scenario(app).await;
    crate::social_lead::scenario(app).await;
    crate::social_files::scenario(app).await;
    crate::notifications::scenario(app).await;
    billing(app).await;
    reconciliation(app).await;
}

async fn unlimited(app: &TestApp) {
    app.db.run(&format!("delete from agent_limits where org_id = '{NORD}'")).await;
}

async fn tick(app: &TestApp) {
    app.a_minute_passes().await;
    app.stack.look_after_leads().await.unwrap();
    app.stack.sweep().await.unwrap();
    app.stack.leads.drained().await;
    app.stack.insights.drained().await;
}

async fn renders(app: &TestApp) {
    let token = app.token(&DORA);
    let body = render_body(LAKESIDE, app.upload(&token, &small_photo()).await);
    let ask = async |key: Option<&str>| {
        app.send_keyed(Method::POST, "/v1/render-requests", &token, Some(&body), key).await.expect(202)
    };
    let id = |render: &Value| render["id"].as_str().unwrap().to_owned();
    let first = ask(Some("once")).await;
    assert_eq!(id(&ask(Some("once")).await), id(&first));
    assert_eq!(app.finished(&token, &id(&first)).await["status"], "completed", "{}", app.logs());
    app.get(first["job"]["href"].as_str().unwrap(), &token).await.expect(200);

    // One that goes on from it, and an agent's own.
    let mut child = body.clone();
    child.as_object_mut().unwrap().remove("upload_id");
    child["parent_id"] = first["id"].clone();
    app.post("/v1/render-requests", &token, &child).await.expect(202);
    let agent = app.agent_token(&RENATA).await;
    let own = app.request_render(&agent, LAKESIDE).await.expect(202);
    assert_eq!(app.finished(&agent, &id(&own)).await["status"], "completed", "{}", app.logs());

    // One whose usage nobody reports.
    app.stack.fault("gemini", "no-usage", Calls::Every).unwrap();
    let unreported = ask(None).await;
    assert_eq!(app.finished(&token, &id(&unreported)).await["status"], "completed", "{}", app.logs());
    app.stack.fault("gemini", "none", Calls::Every).unwrap();

    // One whose model is gone.
    app.stack.fault("gemini", "unknown-model", Calls::Number(1)).unwrap();
    let gone = ask(None).await;
    assert_eq!(app.finished(&token, &id(&gone)).await["status"], "completed", "{}", app.logs());
    app.db.run("update models set missed_at = null").await;

    // One that fails.
    app.stack.fault("gemini", "blocked", Calls::Every).unwrap();
    let refused = ask(None).await;
    assert_eq!(app.finished(&token, &id(&refused)).await["status"], "failed", "{}", app.logs());
    app.stack.fault("gemini", "none", Calls::Every).unwrap();

    // Cancelled and asked for again; held by a limit, which goes.
    app.stack.renders.pause();
    let again = ask(None).await;
    app.send_cancel(&again, &token).await;
    let process = format!("/v1/render-requests/{}/process", id(&again));
    app.send(Method::POST, &process, &token, None).await.expect(202);
    app.db.run("update usage_reservations set expires_at = now() - interval '1 second' where state = 'active'").await;
    app.stack.sweep().await.unwrap();
    app.stack.renders.resume();
    app.a_minute_passes().await;
    app.db
        .run(&format!(
            "insert into agent_limits (org_id, agent, scope, period, max_requests) values ('{}', 'renderer', 'agent', 'month', 1)",
            NORD
        ))
        .await;
    let held = ask(None).await;
    assert_eq!(held["waiting"]["reason"], "limit");
    app.a_minute_passes().await;
    unlimited(app).await;
    let process = format!("/v1/render-requests/{}/process", id(&held));
    app.send(Method::POST, &process, &token, None).await.expect(202);
    app.a_minute_passes().await;

    // Served from the cache, then by nothing, for want of a quota; and never told to MongoDB.
    app.stack.fault("gemini", "day-quota", Calls::Every).unwrap();
    app.stack.fault("mongodb", "reset", Calls::Every).unwrap();
    let cached = ask(None).await;
    let cached = app.finished(&token, &id(&cached)).await;
    assert_eq!(cached["results"][0]["served_by"], "cache", "{cached} {}", app.logs());
    app.db.run("update outbox set next_attempt_at = now() where delivered_at is null").await;
    app.stack.sweep().await.unwrap();
    app.stack.fault("gemini", "none", Calls::Every).unwrap();
    app.stack.fault("mongodb", "none", Calls::Every).unwrap();
    app.a_minute_passes().await;
    assert_eq!(app.db.count("select count(*) from outbox where delivered_at is null").await, 0);
    // A document that MongoDB has no place for.
    app.db
        .run(&format!(
            "insert into outbox (id, org_id, kind, destination, payload) values (gen_random_uuid(), '{NORD}', 'document', 'nowhere', '{{}}')"
        ))
        .await;
    app.stack.sweep().await.unwrap();
    assert_eq!(
        app.db.count("select count(*) from outbox where last_error is not null and delivered_at is null").await,
        1
    );
}

async fn leads(app: &TestApp) {
    let owner = app.token(&OLGA);
    app.db
        .run(&format!(
            "insert into lead_capacity (org_id, user_id, max_open) values ('{0}', '{1}', 12);
             insert into leads (id, org_id, client_name, created_at) select gen_random_uuid(), '{0}', 'New', now() - n * interval '1 hour' from generate_series(1, 20) n;
             insert into leads (id, org_id, client_name, status, closed_at, created_at)
             select gen_random_uuid(), '{0}', 'Ended', case n % 2 when 0 then 'won' else 'lost' end, now(), now() - n * interval '1 day' from generate_series(1, 6) n",
            NORD, DORA.id
        ))
        .await;
    let settings = async |wanted: Value| {
        app.post("/v1/leads/assignments/settings", &owner, &wanted).await.expect(200);
    };
    let lead = async |at: i64| -> Uuid {
        let asked = "select id from leads where org_id = $1 and status = 'new' and assigned_to is null order by created_at limit 1 offset $2";
        sqlx::query_scalar(asked).bind(NORD).bind(at).fetch_one(&mut app.db.admin().await).await.unwrap()
    };
    app.get("/v1/leads/assignments/report", &owner).await.expect(200);
    app.post("/v1/leads/assignments/dry-run", &owner, &json!({})).await.expect(200);
    settings(json!({ "min_auc": null, "max_brier": null, "ai_bound": 0 })).await;
    let (first, second) = (lead(0).await, lead(1).await);
    let assign = async |lead: Uuid| {
        app.send_keyed(Method::POST, &format!("/v1/leads/{lead}/assign"), &owner, None, Some(&lead.to_string())).await
    };
    assign(first).await.expect(200);
    app.get(&format!("/v1/leads/{first}/assignment"), &owner).await.expect(200);
    settings(json!({ "ai_bound": 10 })).await;
    assign(second).await.expect(202);
    app.stack.leads.drained().await;
    assert_eq!(app.db.count("select count(*) from billing_events where kind = 'lead_score' and source_table = 'lead_assignments' and created_at > now() - interval '1 hour'").await, 1, "{}", app.logs());
    settings(json!({ "ai_bound": 0, "enabled": true })).await;
    app.stack.look_after_leads().await.unwrap();
    tick(app).await;
    // Some wait, and there is room again; some were let lie, and some are too many.
    app.db
        .run(&format!(
            "update jobs set wait_reason = jsonb_set(wait_reason, '{{at}}', '\"2026-01-01T00:00:00Z\"') where job_type = 'lead_assign' and status = 'queued';
             update lead_capacity set max_open = 15 where org_id = '{0}';
             update leads set closed_at = now() where org_id = '{0}' and status = 'won';
             set session_replication_role = replica;
             update leads set assigned_at = now() - interval '9 days', updated_at = now() - interval '9 days'
              where org_id = '{0}' and id in (select id from leads where org_id = '{0}' and assigned_to is not null limit 2)",
            NORD
        ))
        .await;
    app.stack.look_after_leads().await.unwrap();
    tick(app).await;
    // Away: what she has is to be somebody else's, and nobody else takes any.
    app.db.run("update lead_capacity set available = false").await;
    app.post("/v1/leads/assignments/move", &owner, &json!({ "user_id": DORA.id })).await.expect(200);
    app.stack.leads.drained().await;
}

async fn insights(app: &TestApp) {
    let owner = app.token(&OLGA);
    app.get("/v1/insights", &owner).await.expect(200);
    app.db
        .run(&format!(
            "insert into leads (org_id, client_name, created_at)
             select '{}', 'Week', date_trunc('week', now(), 'UTC') - w * interval '1 week' + n * interval '1 hour'
               from generate_series(1, 8) w, generate_series(1, 8) n",
            NORD
        ))
        .await;
    for key in ["one", "two"] {
        let answer = app
            .send_keyed(Method::POST, "/v1/insights/leads", &owner, Some(&json!({ "period": "week" })), Some(key))
            .await;
        assert!(answer.status.is_success(), "{}", answer.body);
        app.stack.insights.drained().await;
    }
    let shown = app.get("/v1/insights/leads", &owner).await.expect(200);
    assert_eq!(shown["insights"][0]["served_by"], "model", "{shown} {}", app.logs());
    // Asked again while it is on its way.
    app.stack.insights.pause();
    for _ in 0..2 {
        app.post("/v1/insights/leads", &owner, &json!({ "period": "month" })).await.expect(202);
    }
    app.stack.insights.resume();
    // What one person sees, and every night.
    let designer = app.token(&DORA);
    app.post("/v1/insights/render_requests", &designer, &json!({ "period": "month" })).await;
    app.db
        .run(&format!(
            "update system_settings set value = '-60' where key = 'insights.nightly_from'; insert into insight_settings (org_id) values ('{}')",
            NORD
        ))
        .await;
    app.stack.nightly_insights().await.unwrap();
    app.stack.insights.drained().await;
    app.stack.nightly_insights().await.unwrap();
}

async fn agent_actions(app: &TestApp) {
    let agent = app.agent_token(&RENATA).await;
    let body = json!({
        "action": "report.sent", "resource": { "type": "report", "id": "7" }, "project_id": LAKESIDE, "subjects": [OLGA.id],
        "input": { "for": { "personal": "Olga", "subject": OLGA.id } },
        "assets": [{ "upload_id": app.upload(&agent, &small_photo()).await }],
        "deploy": { "target": "web", "version": "1", "status": "running", "started_at": "2026-01-01T00:00:00Z" },
        "cost": { "cost_micro_usd": 5 },
    });
    for key in ["one", "one", "two"] {
        app.send_keyed(Method::POST, "/v1/agent-actions", &agent, Some(&body), Some(key)).await.expect(201);
    }
    let owner = app.token(&OLGA);
    for query in ["", "agent=renderer"] {
        let page = app.get(&format!("/v1/agent-actions?limit=1&{query}"), &owner).await.expect(200);
        let next = page["next"].as_str().unwrap();
        app.get(&format!("/v1/agent-actions?limit=1&{query}&after={next}"), &owner).await.expect(200);
    }
}

async fn delivered(app: &TestApp, only: impl Fn(&Value) -> bool + Send + Sync + 'static) {
    let lose = Delivery { lose: Some(std::sync::Arc::new(move |event| !only(event))), ..Delivery::default() };
    for attempt in app.stack.sandbox.stripe.deliver_with(lose).await {
        assert!(attempt.succeeded(), "{attempt:?}\n{}", app.logs());
    }
    app.stack.sandbox.stripe.advance(60);
}

async fn billing(app: &TestApp) {
    let stripe = &app.stack.sandbox.stripe;
    stripe.set_clock(chrono::Utc::now().timestamp() - 3600);
    let owner = app.token(&OLGA);
    stripe.create_price("price_other", 5000);
    app.db
        .run("insert into plan_prices (stripe_price_id, plan) values ('price_other', 'solo') on conflict do nothing")
        .await;
    let back = "http://localhost:3000/billing";
    let checkout = async |price: &str| -> String {
        let body = json!({ "price": price, "success_url": back, "cancel_url": back });
        let opened = app.send_keyed(Method::POST, "/v1/billing/checkout", &owner, Some(&body), Some(price)).await;
        let id: Uuid = opened.expect(201)["id"].as_str().unwrap().parse().unwrap();
        let session = "select session_id from billing_checkouts where id = $1";
        sqlx::query_scalar(session).bind(id).fetch_one(&mut app.db.admin().await).await.unwrap()
    };
    checkout("price_other").await;
    let session = checkout(PRICE).await;
    let subscription = stripe.complete_checkout(&session).unwrap().id;
    delivered(app, |_| true).await;
    app.post("/v1/billing/portal", &owner, &json!({ "return_url": back })).await.expect(201);
    let customer = stripe.subscription(&subscription).unwrap().customer;
    let draft = stripe.create_draft_invoice(&customer, 900).unwrap().id;
    delivered(app, |_| true).await;
    stripe.delete_draft(&draft).unwrap();
    let invoice = stripe.renew(&subscription, Outcome::Failed).unwrap().id;
    delivered(app, |_| true).await;
    stripe.retry_payment(&invoice, Outcome::Paid).unwrap();
    stripe.change_price(&subscription, "price_other").unwrap();
    delivered(app, |_| true).await;
    stripe.update_card(&customer).unwrap();
    stripe.refund(&invoice, 100).unwrap();
    stripe.dispute(&invoice).unwrap();
    // What is lost is found by the reconciliation, and what names no customer is looked up.
    delivered(app, |event| event["type"].as_str().is_some_and(|kind| kind.starts_with("charge.dispute"))).await;
    stripe.push_event(json!({
        "id": format!("evt_thin_{}", NORD.simple()), "object": "v2.core.event", "type": "v1.invoice.payment_failed", "livemode": false,
        "created": chrono::Utc::now().to_rfc3339(),
        "related_object": { "id": invoice, "type": "invoice", "url": format!("/v1/invoices/{invoice}") },
    }));
    delivered(app, |_| true).await;
    // Of somebody who is nobody's, and everything else that Stripe sends.
    stripe.trigger("customer.subscription.created", None).unwrap();
    delivered(app, |_| true).await;
    app.db
        .run(&format!(
            "update stripe_objects set created_at = now() - interval '5 days' where kind = 'customer' and org_id = '{0}';
             insert into billing_events (org_id, kind, quantity, cost_micro_usd, source_table, source_id, created_at)
             values ('{0}', 'render', 1, 50, 't', gen_random_uuid(), date_trunc('day', now(), 'UTC') - interval '12 hours');
             insert into plan_prices (stripe_price_id, plan, rank) values ('{PRICE}', 'studio', 9) on conflict (stripe_price_id) do update set rank = 9",
            NORD
        ))
        .await;
}

async fn reconciliation(app: &TestApp) {
    let stripe = &app.stack.sandbox.stripe;
    for _ in 0..2 {
        app.db
            .run(&format!(
                "update billing_reconciliations set started_at = started_at - interval '2 hours', until = now() - interval '3 hours' where started_at > now() - interval '1 day';
                 update jobs set run_after = now() where status = 'queued';
                 insert into jobs (org_id, job_type, unique_key, payload)
                 select '{0}', 'stripe_settle', s.stripe_id || now(), jsonb_build_object('object_id', s.stripe_id)
                   from stripe_objects s where s.org_id = '{0}' and s.kind = 'subscription';
                 insert into jobs (org_id, job_type, unique_key) values ('{0}', 'stripe_claim', now()::text);
                 update webhook_events set status = 'received', received_at = now() - interval '1 hour'
                  where id in (select id from webhook_events where org_id = '{0}' and status = 'applied' and provider = 'stripe' limit 1);
                 alter table stripe_objects disable trigger stripe_objects_touch;
                 update stripe_objects set compared_at = now() - interval '2 days', digest = 'x', facts = facts || '{{\"status\": \"paused\"}}'
                  where org_id = '{0}' and kind in ('subscription', 'invoice') and not terminal;
                 alter table stripe_objects enable trigger stripe_objects_touch",
                NORD
            ))
            .await;
        stripe.advance(60);
        app.stack.reconcile().await.unwrap();
    }
    app.db.run(&format!("update organizations set plan = 'other' where id = '{NORD}'")).await;
    app.stack.reconcile().await.unwrap();
    tick(app).await;
}
