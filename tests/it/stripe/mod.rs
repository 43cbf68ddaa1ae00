//! Billing as Stripe says, through the deployed function and the sandbox's Stripe.

mod account;
mod converge;
mod hostile;
mod overview;
mod partial;
mod reconcile;

use integration_tests::{
    Answer, TestApp, TestDatabase,
    people::{NORD, Person},
};
use sandbox::stripe::{Delivery, Order, PRICE};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

/// Where an app of ours is.
const APP: &str = "http://localhost:3000/billing";

/// Everything up, at an hour ago by Stripe's clock: what happens is past, and what is asked for is newer.
async fn an_hour_ago() -> TestApp {
    let app = TestApp::start().await;
    app.stack.sandbox.stripe.set_clock(chrono::Utc::now().timestamp() - 3600);
    app
}

/// Asks for a page to subscribe on.
async fn open_checkout(app: &TestApp, person: &Person) -> Answer {
    let body = json!({ "price": PRICE, "success_url": APP, "cancel_url": APP });
    app.post("/v1/billing/checkout", &app.token(person), &body).await
}

/// The session behind a checkout's page.
async fn session_of(app: &TestApp, checkout: &Value) -> String {
    let id: Uuid = checkout["id"].as_str().unwrap().parse().unwrap();
    one(&app.db, &format!("select session_id from billing_checkouts where id = '{id}'")).await
}

/// Has a person subscribe and everything about it delivered, as badly as Stripe may. (customer, subscription)
async fn subscribed(app: &TestApp, person: &Person) -> (String, String) {
    let checkout = open_checkout(app, person).await.expect(201);
    let session = session_of(app, &checkout).await;
    let subscription = app.stack.sandbox.stripe.complete_checkout(&session).unwrap().id;
    delivered(app, badly(1)).await;
    app.stack.sandbox.stripe.advance(60);
    let customer = app.stack.sandbox.stripe.subscription(&subscription).unwrap().customer;
    (customer, subscription)
}

/// Twice, in an order of this seed.
fn badly(seed: u64) -> Delivery {
    Delivery { order: Order::Shuffled(seed), copies: 2, ..Delivery::default() }
}

/// Delivers what is undelivered, each of which must be taken; a minute goes by at Stripe.
async fn delivered(app: &TestApp, delivery: Delivery) {
    for attempt in app.stack.sandbox.stripe.deliver_with(delivery).await {
        assert!(attempt.succeeded(), "{attempt:?}\n{}", app.logs());
    }
    app.stack.sandbox.stripe.advance(60);
}

/// Delivers it badly, and what is left open is settled.
async fn settled(app: &TestApp, seed: u64) {
    delivered(app, badly(seed)).await;
    a_minute_passes(app).await;
}

/// One text.
async fn one(db: &TestDatabase, query: &str) -> String {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut db.admin().await).await.unwrap()
}

/// One JSON value.
async fn value(db: &TestDatabase, query: &str) -> Value {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut db.admin().await).await.unwrap()
}

async fn plan(app: &TestApp, org: Uuid) -> String {
    one(&app.db, &format!("select plan from organizations where id = '{org}'")).await
}

/// Waits are over, and the schedule comes.
async fn a_minute_passes(app: &TestApp) -> Value {
    app.db
        .run(
            "update jobs set run_after = now(), lease_until = case when status = 'running' then now() end;
             update webhook_events set received_at = received_at - interval '1 minute' where status = 'received'",
        )
        .await;
    app.stack.reconcile().await.unwrap()
}

/// What people see of billing, of everybody, without what says when our rows were written.
async fn tables(db: &TestDatabase) -> Value {
    value(
        db,
        "select jsonb_build_object(
            'invoices', (select jsonb_agg(to_jsonb(i) - '{id,updated_at}'::text[] order by stripe_invoice_id) from invoices i),
            'subscriptions', (select jsonb_agg(to_jsonb(s) - '{id,updated_at}'::text[] order by stripe_subscription_id) from subscriptions s),
            'objects', (select jsonb_agg(to_jsonb(o) - '{told_by,created_at,updated_at,compared_at}'::text[] order by stripe_id) from stripe_objects o),
            'plans', (select jsonb_object_agg(slug, jsonb_build_array(plan, stripe_customer_id)) from organizations))",
    )
    .await
}

/// The organisation's line of the overview, as its owner sees it.
async fn overview(app: &TestApp, person: &Person) -> Value {
    let seen = app
        .db
        .ask(&integration_tests::acting::Actor::person(person), "select * from public.billing_overview")
        .await
        .unwrap();
    seen[0].clone()
}

/// Links a customer to Atelier Nord, as an operator would.
async fn link(db: &TestDatabase, customer: &str) {
    db.run(&format!("update organizations set stripe_customer_id = '{customer}' where id = '{NORD}'")).await;
}
