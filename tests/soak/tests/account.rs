//! The account finds nothing where nothing is wrong, and names what is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")]

use std::collections::{BTreeMap, BTreeSet};

use integration_tests::{
    TestApp,
    acting::Actor,
    mongodb_uri,
    people::{BRICK, DORA, LAKESIDE, NORD, OLGA, SVEN},
    render_body, small_photo,
};
use reqwest::Method;
use sandbox::{Calls, stripe::PRICE};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use soak::account::{Accepted, Answers, CHECKS, Evidence, account, answers, ask, logs, references};

const LEAD: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0009_0001);

/// One of everything: renders that were completed, failed and called off, an insight, a lead, a limit and a subscription.
async fn one_of_everything() -> (TestApp, Evidence) {
    // Boxed, since state machines nested so deeply are more than the compiler will lay out.
    let app = Box::pin(TestApp::start()).await;
    let mut accepted = Vec::new();
    Box::pin(renders(&app, &mut accepted)).await;
    Box::pin(insight(&app, &mut accepted)).await;
    Box::pin(lead(&app, &mut accepted)).await;
    let customers = Box::pin(subscription(&app, &mut accepted)).await;
    let made = format!(
        "insert into public.agent_limits (org_id, agent, scope, period, max_requests) values ('{NORD}', 'renderer', 'agent', 'hour', 900)"
    );
    app.db.change(&Actor::person(&OLGA), &made).await.unwrap();
    let limit = "select id from public.agent_limits where period = 'hour'";
    let limit: Uuid = sqlx::query_scalar(limit).fetch_one(&mut app.db.admin().await).await.unwrap();
    accepted.push(of("limit made", limit, None));

    // Documents of insights and leads are left to the sweep.
    app.stack.sweep().await.unwrap();
    let stripe = &app.stack.sandbox.stripe;
    let delivered: BTreeSet<String> =
        stripe.events().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    let database = url::Url::parse(&app.db.url).unwrap().path().trim_start_matches('/').to_owned();
    let personal = vec![DORA.email.to_owned(), "for Greta".to_owned()];
    let evidence = Evidence::new(accepted, personal, vec![(DORA.id, NORD), (OLGA.id, NORD)]);
    let files = app.stack.logs.parent().unwrap().join("storage");
    let evidence = evidence.of_sandbox(&app.stack.sandbox, &customers, &delivered).of_files(&files).unwrap();
    let evidence = Box::pin(evidence.of_documents(&mongodb_uri(), &database)).await.unwrap();
    (app, evidence)
}

fn of(kind: &'static str, id: Uuid, key: Option<&str>) -> Accepted {
    Accepted { kind, org: NORD, id, key: key.map(str::to_owned), actor: OLGA.id }
}

fn id(value: &Value) -> Uuid {
    value.as_str().unwrap().parse().unwrap()
}

async fn renders(app: &TestApp, accepted: &mut Vec<Accepted>) {
    let token = app.token(&DORA);
    for (key, fault) in [("two variants", None), ("a photo that is blocked", Some("blocked")), ("called off", None)] {
        let mut body = render_body(LAKESIDE, app.upload(&token, &small_photo()).await);
        body["variants"] = json!(2);
        if let Some(fault) = fault {
            app.stack.fault("gemini", fault, Calls::Next(1)).unwrap();
        }
        let off = key == "called off";
        if off {
            app.stack.renders.pause();
        }
        let render =
            app.send_keyed(Method::POST, "/v1/render-requests", &token, Some(&body), Some(key)).await.expect(202);
        if off {
            app.send_cancel(&render, &token).await;
            accepted.push(Accepted { actor: DORA.id, ..of("cancel", id(&render["job"]["id"]), None) });
            app.stack.renders.resume();
        }
        app.stack.renders.drained().await;
        accepted.push(Accepted { actor: DORA.id, ..of("render", id(&render["id"]), Some(key)) });
    }
}

async fn insight(app: &TestApp, accepted: &mut Vec<Accepted>) {
    app.db
        .run(&format!(
            "insert into leads (org_id, client_name, source, status, created_at, closed_at)
             select '{NORD}', 'Lead ' || n, 'website', 'won', now() - interval '30 hours' * n, now() from generate_series(1, 40) n"
        ))
        .await;
    let asked = app.post("/v1/insights/leads", &app.token(&OLGA), &json!({ "period": "month" })).await.expect(202);
    app.stack.insights.drained().await;
    accepted.push(of("insight", id(&asked["id"]), None));
}

async fn lead(app: &TestApp, accepted: &mut Vec<Accepted>) {
    app.db
        .run(&format!(
            "insert into lead_capacity (org_id, user_id, max_open) values ('{NORD}', '{}', 9);
             insert into lead_assignment_settings (org_id, ai_bound) values ('{NORD}', 10);
             insert into leads (id, org_id, client_name) values ('{LEAD}', '{NORD}', 'Lead')",
            SVEN.id
        ))
        .await;
    app.send(Method::POST, &format!("/v1/leads/{LEAD}/assign"), &app.token(&OLGA), None).await.expect(202);
    app.stack.leads.drained().await;
    accepted.extend([of("lead", LEAD, None), of("lead asked for", LEAD, None)]);
}

/// The organisation's customers.
async fn subscription(app: &TestApp, accepted: &mut Vec<Accepted>) -> BTreeMap<String, Uuid> {
    let page = "http://localhost:3000/billing";
    let body = json!({ "price": PRICE, "success_url": page, "cancel_url": page });
    let checkout = app.post("/v1/billing/checkout", &app.token(&OLGA), &body).await.expect(201);
    let checkout = id(&checkout["id"]);
    accepted.push(of("checkout", checkout, None));
    let session: String = sqlx::query_scalar("select session_id from billing_checkouts where id = $1")
        .bind(checkout)
        .fetch_one(&mut app.db.admin().await)
        .await
        .unwrap();
    let stripe = &app.stack.sandbox.stripe;
    let subscription = stripe.complete_checkout(&session).unwrap().id;
    for attempt in stripe.deliver_all().await {
        assert!(attempt.succeeded(), "{attempt:?}\n{}", app.logs());
    }
    while app.db.count("select count(*) from jobs where status = 'queued'").await > 0 {
        app.db.run("update jobs set run_after = now()").await;
        app.stack.reconcile().await.unwrap();
    }
    BTreeMap::from([(stripe.subscription(&subscription).unwrap().customer, NORD)])
}

/// What is done to the rows, and which check must name it.
fn wrongs() -> Vec<(&'static str, String)> {
    let elsewhere = |table: &str| format!("update {table} set org_id = '{BRICK}'");
    let plain = [
        ("renders.kept", "delete from render_requests where status = 'completed'"),
        ("renders.once", "delete from idempotency_keys where key = 'two variants'"),
        ("renders.once", "update soak_accepted set key = 'one' where kind = 'render'; update soak_accepted set actor_id = null where kind = 'render'"),
        ("renders.ended", "update render_requests set status = 'running' where status = 'failed'"),
        ("renders.ended", "delete from jobs where status = 'failed'"),
        ("renders.named", "update render_requests set error = '{\"code\": \"because\", \"detail\": \"Because it is so.\"}' where status = 'failed'"),
        ("renders.named", "update render_requests set error = null where status = 'failed'"),
        ("renders.results", "delete from render_results where variant = 2"),
        ("renders.results", "delete from assets"),
        ("renders.pictures", "update assets set sha256 = sha256('another')"),
        ("renders.pictures", "delete from soak_files where path like 'renders/%'"),
        ("renders.trail", "delete from audit_log where action = 'render.failed'"),
        ("renders.trail", "update audit_log set action = 'render.completed' where action = 'render.failed'"),
        ("renders.cancelled", "update jobs set status = 'succeeded' where status = 'cancelled'"),
        ("renders.counted", "update render_counters set renders = renders + 1"),
        ("charges.renders", "update billing_events set cost_micro_usd = cost_micro_usd - 1 where kind = 'render'"),
        ("charges.renders", "delete from billing_events where kind = 'render'"),
        ("charges.renders", "update billing_events set estimated = true where kind = 'render'"),
        ("charges.renders", "update billing_events set source_id = r.id from render_requests r where kind = 'render' and r.status = 'failed'"),
        ("charges.renders", "update render_results set cost_micro_usd = cost_micro_usd + 1 where variant = 1"),
        ("charges.insights", "delete from billing_events where kind = 'insight'"),
        ("charges.leads", "update billing_events set cost_micro_usd = cost_micro_usd + 1 where kind = 'lead_score'"),
        ("charges.leads", "delete from billing_events where kind = 'lead_score'"),
        ("charges.sources", "update billing_events set source_id = gen_random_uuid() where kind = 'insight'"),
        ("calls.ended", "update provider_calls set finished_at = null, outcome = null where purpose = 'render_brief'"),
        ("calls.priced", "update provider_calls set cost_micro_usd = cost_micro_usd - 1 where purpose = 'render_picture'"),
        ("calls.priced", "update provider_calls set usage = usage || '{\"image_output\": 99999}' where purpose = 'render_picture'"),
        ("calls.counted", "delete from provider_calls where provider = 'gemini'"),
        ("calls.counted", "update soak_asked set requests = requests - 1"),
        ("usage.held", "update usage_reservations set state = 'active' where state = 'refunded'"),
        ("usage.windows", "update agent_usage set used_cost_micro_usd = used_cost_micro_usd + 1"),
        ("usage.windows", "update agent_usage set reserved_tokens = 1"),
        ("usage.windows", "delete from agent_usage"),
        ("usage.negative", "update agent_usage set used_tokens = -1"),
        ("jobs.ended", "update jobs set status = 'queued' where status = 'failed'"),
        ("jobs.named", "update jobs set last_error = null where status = 'failed'"),
        ("insights.kept", "delete from ai_insights"),
        ("insights.kept", "update ai_insights set served_by = 'default_template', instead_because = 'text_on_its_way'"),
        ("insights.trail", "delete from audit_log where action = 'insight.written'"),
        ("leads.kept", "delete from leads where client_name = 'Lead'"),
        ("leads.assigned", "update leads set assigned_to = null where client_name = 'Lead'"),
        ("leads.once", "delete from lead_assignments"),
        ("leads.once", "delete from audit_log where action = 'lead.assigned'"),
        ("documents.delivered", "update outbox set delivered_at = null"),
        ("documents.equal", "update outbox set payload = payload || '{\"tokens\": -1}'"),
        ("documents.equal", "delete from soak_documents"),
        ("documents.equal", "update soak_documents set body = body || '{\"path\": \"orgs/another\"}'"),
        ("documents.known", "delete from outbox"),
        ("documents.renders", "update outbox set payload = payload - 'request_id'"),
        ("stripe.kept", "delete from webhook_events where event_type = 'invoice.paid'"),
        ("stripe.bodies", "update webhook_events set raw = convert_to(jsonb_set(convert_from(raw, 'UTF8')::jsonb, '{data,object,livemode}', 'true')::text, 'UTF8')"),
        ("stripe.applied", "update webhook_events set status = 'failed' where event_type = 'invoice.paid'"),
        ("stripe.owners", "update webhook_events set org_id = null where event_type = 'invoice.paid'"),
        ("stripe.owners", "delete from soak_customers"),
        ("stripe.subscriptions", "update subscriptions set status = 'past_due'"),
        ("stripe.subscriptions", "delete from subscriptions"),
        ("stripe.invoices", "update invoices set amount_remaining = 1"),
        ("stripe.invoices", "delete from soak_invoices"),
        ("stripe.plans", "update organizations set plan = 'free'"),
        ("stripe.forged", "insert into webhook_events (provider, event_id, raw) values ('stripe', 'evt_forged_1', 'x')"),
        ("stripe.metered", "insert into meter_reports (org_id, period_start, period_end, quantity, cost_micro_usd, customer_id, status)
                            select id, now(), now() + interval '1 day', 1, 1, 'cus_x', 'reported' from organizations"),
        ("stripe.metered", "insert into soak_metered values ('nobody''s', 1)"),
        ("audit.digests", "update audit_log set output = '{}' where action = 'render.completed'"),
        ("audit.trail", "delete from audit_log where action = 'agent_limits.insert'"),
        ("audit.trail", "delete from audit_log where action = 'billing.checkout_opened'"),
        (
            "audit.once",
            "update audit_log set action = 'billing.checkout_opened', record_id = 'one' where action in ('render.completed', 'render.failed')",
        ),
        ("audit.personal", "update audit_log set metadata = metadata || '{\"wishes\": \"lime plaster for Greta\"}' where action = 'render.completed'"),
    ];
    let moved = [
        ("stripe.owners", "webhook_events"),
        ("organisations.apart", "outbox"),
        ("organisations.apart", "jobs"),
        ("organisations.apart", "render_requests"),
    ];
    plain
        .into_iter()
        .map(|(check, wrong)| (check, wrong.to_owned()))
        .chain(moved.map(|(check, table)| (check, elsewhere(table))))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_right_is_accounted_for_and_each_row_that_is_wrong_is_named() {
    let (app, evidence) = Box::pin(one_of_everything()).await;
    let mut conn = app.db.admin().await;
    evidence.load(&mut conn).await.unwrap();
    assert_eq!(account(&mut conn).await.unwrap(), [], "{}", app.logs());

    let wrongs = wrongs();
    for check in CHECKS {
        let mut tried = 0;
        for (_, wrong) in wrongs.iter().filter(|(named, _)| *named == check.name) {
            conn.execute(
                "begin; set local session_replication_role = replica; alter table audit_log disable trigger user",
            )
            .await
            .unwrap();
            // Where rows may not be, by a constraint, the database would refuse what the check is to find.
            conn.execute("alter table assets drop constraint assets_path_check").await.unwrap();
            conn.execute("alter table render_requests drop constraint render_requests_input_file_path_check")
                .await
                .unwrap();
            let done =
                conn.execute(AssertSqlSafe(wrong.clone())).await.unwrap_or_else(|error| panic!("{wrong}: {error}"));
            let found = ask(&mut conn, check).await.unwrap();
            assert!(!found.is_empty() && done.rows_affected() > 0, "{}: {wrong} is not found", check.name);
            assert!(found.iter().all(|finding| finding.item.len() > 20), "{found:?}");
            conn.execute("rollback").await.unwrap();
            tried += 1;
        }
        assert!(tried > 0, "nobody has seen {} fail", check.name);
    }

    conn.execute("begin; set local session_replication_role = replica").await.unwrap();
    // The path alone would have it refused.
    conn.execute("alter table render_results drop constraint render_results_output_file_path_check").await.unwrap();
    conn.execute(AssertSqlSafe(format!("update render_results set org_id = '{BRICK}'"))).await.unwrap();
    assert_eq!(references(&mut conn).await.unwrap().len(), 2);
    conn.execute("rollback").await.unwrap();
    assert_eq!(account(&mut conn).await.unwrap(), []);
}

#[test]
fn an_answer_that_is_not_documented_is_named_unless_its_process_was_killed() {
    let check = |route: &str, status: u16, code: &str, killed: usize, found: usize| {
        let heard = Answers::from([((route.to_owned(), status, code.to_owned()), 3)]);
        assert_eq!(answers(&heard, killed).len(), found, "{route} {status} {code}, {killed} killed");
    };
    check("POST /v1/uploads", 201, "-", 0, 0);
    check("POST /v1/uploads", 503, "database_unavailable", 0, 0);
    check("POST /v1/uploads", 503, "-", 9, 1);
    check("POST /v1/uploads", 500, "internal_error", 9, 1);
    check("POST /v1/uploads", 500, "-", 2, 1);
    check("POST /v1/uploads", 500, "-", 3, 0);
    check("POST /v1/uploads", 0, "-", 9, 1);
    check("POST /v1/uploads", 422, "idempotency_key_reused", 0, 1);
    check("POST /v1/render-requests", 422, "idempotency_key_reused", 0, 0);
}

#[test]
fn a_log_holds_no_panic_no_failure_and_nothing_personal() {
    let secret = ["dora@atelier-nord.example".to_owned()];
    let check = |line: &str, found: &[&str]| {
        let checks: Vec<String> = logs("Jobs", line, &secret).into_iter().map(|finding| finding.check).collect();
        assert_eq!(checks, found, "{line}");
    };
    check(r#"{"level":"INFO","message":"request refused","status":404,"code":"job_not_found"}"#, &[]);
    check(r#"{"level":"ERROR","message":"request failed","status":503,"code":"database_unavailable"}"#, &[]);
    check(r#"{"level":"ERROR","message":"request failed","status":500,"code":"internal_error"}"#, &["logs.failures"]);
    check("thread 'main' panicked at src/lib.rs:1:1:", &["logs.panics"]);
    check(r#"{"message":"mail to dora@atelier-nord.example"}"#, &["logs.personal"]);
}
