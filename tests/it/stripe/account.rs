//! People subscribe, fail to pay, pay, and leave.

use integration_tests::{
    acting::Actor,
    people::{ADAM, BRICK, CLEO, DORA, NORD, OLGA, OSCAR, SVEN, UMA},
};
use reqwest::Method;
use sandbox::stripe::{Outcome, PRICE};
use serde_json::json;

use super::{
    APP, a_minute_passes, an_hour_ago, badly, delivered, link, one, open_checkout, overview, plan, session_of, settled,
    subscribed,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_subscribes_fails_to_pay_pays_is_disputed_and_leaves() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    assert_eq!(overview(&app, &OLGA).await["state"], "none");
    let (customer, subscription) = subscribed(&app, &OLGA).await;
    assert_eq!(plan(&app, NORD).await, "studio");
    assert_eq!(
        one(&app.db, &format!("select stripe_customer_id from organizations where id = '{NORD}'")).await,
        customer
    );
    let seen = overview(&app, &OLGA).await;
    assert_eq!((&seen["state"], &seen["stripe_subscription_id"]), (&json!("active"), &json!(subscription)), "{seen}");
    assert_eq!(plan(&app, BRICK).await, "free");

    let invoice = stripe.renew(&subscription, Outcome::Failed).unwrap().id;
    settled(&app, 2).await;
    let seen = overview(&app, &OLGA).await;
    assert_eq!(
        (seen["state"].as_str(), seen["open_invoice_id"].as_str()),
        (Some("past_due"), Some(invoice.as_str())),
        "{seen}"
    );
    assert_eq!(seen["open_amount"], 12_500, "{seen}");
    // While Stripe still tries to collect, they keep what they have.
    assert_eq!(plan(&app, NORD).await, "studio");

    stripe.retry_payment(&invoice, Outcome::ActionRequired).unwrap();
    settled(&app, 3).await;
    assert_eq!(overview(&app, &OLGA).await["state"], "action_required");
    stripe.retry_payment(&invoice, Outcome::Paid).unwrap();
    settled(&app, 4).await;
    assert_eq!(overview(&app, &OLGA).await["state"], "active");

    let refund = stripe.refund(&invoice, 500).unwrap().id;
    let dispute = stripe.dispute(&invoice).unwrap().id;
    settled(&app, 5).await;
    assert_eq!(overview(&app, &OLGA).await["state"], "disputed");
    let adjustments = app
        .db
        .ask(
            &Actor::person(&OLGA),
            "select stripe_id, kind, amount, currency, stripe_invoice_id from public.billing_adjustments order by kind",
        )
        .await
        .unwrap();
    assert_eq!(
        adjustments,
        json!([
            { "stripe_id": dispute, "kind": "dispute", "amount": 12_500, "currency": "SEK", "stripe_invoice_id": invoice },
            { "stripe_id": refund, "kind": "refund", "amount": 500, "currency": "SEK", "stripe_invoice_id": invoice },
        ])
    );
    stripe.close_dispute(&dispute, true).unwrap();
    stripe.cancel(&subscription, true).unwrap();
    settled(&app, 6).await;
    assert_eq!(overview(&app, &OLGA).await["state"], "canceling");
    stripe.cancel(&subscription, false).unwrap();
    settled(&app, 7).await;
    assert_eq!(overview(&app, &OLGA).await["state"], "canceled");
    assert_eq!(plan(&app, NORD).await, "free");
    // Nobody else sees any of it, and each change of a plan was audited.
    for (person, rows) in [(&OSCAR, 1), (&DORA, 0), (&SVEN, 0), (&CLEO, 0), (&UMA, 0)] {
        let seen = app.db.ask(&Actor::person(person), "select * from public.billing_overview").await.unwrap();
        assert_eq!(seen.as_array().unwrap().len(), rows, "{}: {seen}", person.email);
    }
    let plans = "select count(*) from audit_log where action = 'organizations.update' and new_values ? 'plan' and new_values ->> 'plan' <> old_values ->> 'plan'";
    assert_eq!(app.db.count(plans).await, 2);
    assert_eq!(
        app.db.count("select count(*) from webhook_events where status in ('failed', 'unparsed', 'unowned')").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_is_opened_once_for_a_key_and_once_for_a_price() {
    let app = an_hour_ago().await;
    let olga = app.token(&OLGA);
    let body = json!({ "price": PRICE, "success_url": format!("{APP}?s={{CHECKOUT_SESSION_ID}}"), "cancel_url": APP });
    let keyed = async || app.send_keyed(Method::POST, "/v1/billing/checkout", &olga, Some(&body), Some("k")).await;
    let first = keyed().await.expect(201);
    assert_eq!(keyed().await.expect(200)["url"], first["url"]);
    // Without a key of its own it is the same wish.
    assert_eq!(app.post("/v1/billing/checkout", &app.token(&ADAM), &body).await.expect(200)["url"], first["url"]);
    assert_eq!(app.db.count("select count(*) from billing_checkouts").await, 1);
    let session = session_of(&app, &first).await;
    let opened = app.stack.sandbox.stripe.checkout(&session).unwrap();
    assert_eq!(opened.client_reference_id.as_deref(), first["id"].as_str());
    assert!(opened.success_url.unwrap().ends_with("?s={CHECKOUT_SESSION_ID}"));
    assert_eq!(app.db.count("select count(*) from audit_log where action = 'billing.checkout_opened'").await, 1);

    // Another price replaces it, so that not both can be paid.
    app.stack.sandbox.stripe.create_price("price_other", 5000);
    app.db.run("insert into plan_prices (stripe_price_id, plan) values ('price_other', 'solo')").await;
    let other = json!({ "price": "price_other", "success_url": APP, "cancel_url": APP });
    app.post("/v1/billing/checkout", &olga, &other).await.expect(201);
    assert_eq!(app.stack.sandbox.stripe.checkout(&session).unwrap().status, "expired");

    let (_, _) = subscribed(&app, &OSCAR).await;
    open_checkout(&app, &OSCAR).await.expect_error(409, "subscription_exists");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_bought_is_refused_by_name_and_nothing_changes() {
    let app = an_hour_ago().await;
    let olga = app.token(&OLGA);
    let still = app.db.still().await;
    let body = |price: &str, url: &str| json!({ "price": price, "success_url": url, "cancel_url": APP });
    for (token, body, status, code) in [
        (&app.token(&DORA), body(PRICE, APP), 403, "permission_missing"),
        (&app.token(&SVEN), body(PRICE, APP), 403, "permission_missing"),
        (&app.token(&CLEO), body(PRICE, APP), 403, "permission_missing"),
        (&app.token(&UMA), body(PRICE, APP), 403, "permission_missing"),
        (&olga, body("price_none", APP), 422, "price_unknown"),
        (&olga, body("'; drop", APP), 422, "price_invalid"),
        (&olga, body(PRICE, "https://evil.example/x"), 422, "return_url_unknown"),
        (&olga, body(PRICE, "http://localhost:3000@evil.example/"), 422, "return_url_unknown"),
        (&olga, body(PRICE, "http://user@localhost:3000/"), 422, "return_url_unknown"),
        (&olga, body(PRICE, "javascript:alert(1)"), 422, "return_url_unknown"),
        (&olga, json!({ "price": PRICE }), 400, "body_invalid"),
    ] {
        app.post("/v1/billing/checkout", token, &body).await.expect_error(status, code);
    }
    app.post("/v1/billing/portal", &olga, &json!({ "return_url": APP })).await.expect_error(409, "customer_missing");
    app.post("/v1/billing/portal", &app.token(&DORA), &json!({ "return_url": APP }))
        .await
        .expect_error(403, "permission_missing");
    app.send(Method::GET, "/v1/billing/checkout", &olga, None).await.expect_error(405, "method_not_allowed");
    app.get("/v1/billing/nothing", &olga).await.expect_error(404, "route_not_found");
    still.unchanged().await;
    assert!(app.stack.sandbox.stripe.requests().is_empty());

    subscribed(&app, &OLGA).await;
    let portal = app.post("/v1/billing/portal", &olga, &json!({ "return_url": APP })).await.expect(201);
    assert!(portal["url"].as_str().unwrap().contains("/p/session/"), "{portal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_that_stripe_does_not_take_can_be_asked_for_again() {
    let app = an_hour_ago().await;
    let olga = app.token(&OLGA);
    let body = json!({ "price": PRICE, "success_url": APP, "cancel_url": APP });
    let keyed = async || app.send_keyed(Method::POST, "/v1/billing/checkout", &olga, Some(&body), Some("k")).await;
    app.stack.fault("stripe", "api-error", sandbox::Calls::Next(2)).unwrap();
    keyed().await.expect_error(503, "stripe_unavailable");
    app.stack.fault("stripe", "forbidden", sandbox::Calls::Next(1)).unwrap();
    keyed().await.expect_error(502, "stripe_refused");
    // The answer is lost on its way: Stripe has made a session, and the same key finds it.
    app.stack.fault("stripe", "lost", sandbox::Calls::Next(1)).unwrap();
    let checkout = keyed().await.expect(201);
    assert_eq!(app.db.count("select count(*) from billing_checkouts").await, 1);
    let made = app.stack.sandbox.stripe.requests();
    let keys: std::collections::BTreeSet<_> =
        made.iter().filter_map(|request| request.idempotency_key.clone()).collect();
    assert_eq!(keys.len(), 1, "{made:?}");
    assert!(checkout["url"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_come_before_their_customer_is_linked_wait_and_are_claimed() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    let customer = stripe.create_customer(Some("payer@example.com"), Default::default()).id;
    let draft = stripe.create_draft_invoice(&customer, 700).unwrap().id;
    stripe.finalize(&draft).unwrap();
    delivered(&app, badly(1)).await;
    assert_eq!(app.db.count("select count(*) from webhook_events where org_id is not null").await, 0);
    assert!(app.db.count("select count(*) from webhook_events where status = 'unowned'").await > 0);
    assert_eq!(app.db.count("select count(*) from invoices").await, 0);
    // By an operator's hand: the schedule claims them.
    link(&app.db, &customer).await;
    a_minute_passes(&app).await;
    assert_eq!(one(&app.db, "select status from invoices").await, "open");
    assert_eq!(app.db.count("select count(*) from webhook_events where status in ('unowned', 'received')").await, 0);
    assert_eq!(app.db.count(&format!("select count(*) from webhook_events where org_id <> '{NORD}'")).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_who_pay_at_once_are_both_heard_and_somebody_is_told() {
    let app = an_hour_ago().await;
    let olga = app.token(&OLGA);
    let body = json!({ "price": PRICE, "success_url": APP, "cancel_url": APP });
    let mut customers = Vec::new();
    let mut sessions = Vec::new();
    for key in ["one", "two"] {
        let answer = app.send_keyed(Method::POST, "/v1/billing/checkout", &olga, Some(&body), Some(key)).await;
        sessions.push(session_of(&app, &answer.expect(201)).await);
        // It is believed to be over, and is not: Stripe's word of it was late.
        app.db.run("update billing_checkouts set status = 'expired'").await;
    }
    for session in sessions {
        let subscription = app.stack.sandbox.stripe.complete_checkout(&session).unwrap().id;
        customers.push(app.stack.sandbox.stripe.subscription(&subscription).unwrap().customer);
        app.stack.sandbox.stripe.advance(60);
    }
    app.stack.sandbox.stripe.advance(60);
    delivered(&app, badly(3)).await;
    a_minute_passes(&app).await;
    assert_eq!(app.db.count(&format!("select count(*) from subscriptions where org_id = '{NORD}'")).await, 2);
    assert_eq!(app.db.count("select count(*) from webhook_events where status = 'unowned'").await, 0);
    let first = one(&app.db, &format!("select stripe_customer_id from organizations where id = '{NORD}'")).await;
    // The one who paid first, in whatever order it was told.
    assert_eq!(first, customers[0]);
    assert_eq!(app.db.count("select count(*) from billing_checkouts where status = 'complete'").await, 2);
    assert_eq!(
        app.db.count("select count(*) from error_logs where error_message like 'A second Stripe customer%'").await,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_follows_the_price_and_the_map_of_prices() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    let (_, subscription) = subscribed(&app, &OLGA).await;
    stripe.create_price("price_big", 90_000);
    stripe.change_price(&subscription, "price_big").unwrap();
    delivered(&app, badly(1)).await;
    // A price that stands for no plan entitles to none.
    assert_eq!(plan(&app, NORD).await, "free");
    app.db.run("insert into plan_prices (stripe_price_id, plan, rank) values ('price_big', 'enterprise', 5)").await;
    let told = a_minute_passes(&app).await;
    assert_eq!((plan(&app, NORD).await.as_str(), told["plans_settled"].as_u64()), ("enterprise", Some(1)), "{told}");
    // Whoever never subscribed has the plan that an operator gave them.
    app.db.run(&format!("update organizations set plan = 'friend' where id = '{BRICK}'")).await;
    a_minute_passes(&app).await;
    assert_eq!(plan(&app, BRICK).await, "friend");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_that_was_just_paid_is_not_opened_again_beside_it() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    stripe.create_price("price_other", 5000);
    app.db.run("insert into plan_prices (stripe_price_id, plan) values ('price_other', 'solo')").await;
    let checkout = open_checkout(&app, &OLGA).await.expect(201);
    stripe.complete_checkout(&session_of(&app, &checkout).await).unwrap();
    // Nothing of it was delivered yet.
    let other = json!({ "price": "price_other", "success_url": APP, "cancel_url": APP });
    app.post("/v1/billing/checkout", &app.token(&OLGA), &other).await.expect_error(409, "checkout_completed");
    app.stack.sandbox.stripe.advance(60);
    settled(&app, 1).await;
    app.post("/v1/billing/checkout", &app.token(&OLGA), &other).await.expect_error(409, "subscription_exists");
    assert_eq!(plan(&app, NORD).await, "studio");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_at_once_is_shown_one_page() {
    let app = an_hour_ago().await;
    let body = json!({ "price": PRICE, "success_url": APP, "cancel_url": APP });
    let (olga, adam) = (app.token(&OLGA), app.token(&ADAM));
    let asks = (0..12).map(|number| {
        let (token, key) = (if number % 2 == 0 { &olga } else { &adam }, format!("k{number}"));
        let (app, body) = (&app, &body);
        async move {
            let answer = app.send_keyed(Method::POST, "/v1/billing/checkout", token, Some(body), Some(&key)).await;
            assert!(answer.status.is_success(), "{}", answer.body);
            answer.body["url"].as_str().unwrap().to_owned()
        }
    });
    let urls: std::collections::BTreeSet<String> = futures::future::join_all(asks).await.into_iter().collect();
    assert_eq!(urls.len(), 1, "{urls:?}");
    assert_eq!(app.db.count("select count(*) from billing_checkouts").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_whose_customer_was_deleted_can_subscribe_again() {
    let app = an_hour_ago().await;
    let (customer, subscription) = subscribed(&app, &OLGA).await;
    app.stack.sandbox.stripe.cancel(&subscription, false).unwrap();
    app.stack.sandbox.stripe.delete_customer(&customer).unwrap();
    settled(&app, 2).await;
    assert_eq!(plan(&app, NORD).await, "free");
    app.post("/v1/billing/portal", &app.token(&OLGA), &json!({ "return_url": APP }))
        .await
        .expect_error(409, "customer_missing");
    let (again, _) = subscribed(&app, &OLGA).await;
    assert_ne!(again, customer);
    assert_eq!(one(&app.db, &format!("select stripe_customer_id from organizations where id = '{NORD}'")).await, again);
    assert_eq!(plan(&app, NORD).await, "studio");
}
