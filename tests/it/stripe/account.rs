//! People subscribe, fail to pay, pay, and leave.

use std::cell::Cell;

use integration_tests::{
    acting::Actor,
    people::{ADAM, BRICK, CLEO, DORA, NORD, OLGA, OSCAR, SVEN, UMA},
};
use proptest::{prelude::*, test_runner::TestRunner};
use reqwest::Method;
use sandbox::{
    Calls, Canned, Gate,
    stripe::{Outcome, PRICE},
};
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
async fn a_checkout_that_is_asked_for_twice_at_once_is_told_once() {
    let app = an_hour_ago().await;
    // Both have asked Stripe before either can write down what it said.
    let script = &app.stack.sandbox.stripe_script;
    let gates = [Gate::default(), Gate::default()];
    for gate in &gates {
        script.then(Canned::Held(gate.clone()));
    }
    let (one, other, ()) = tokio::join!(open_checkout(&app, &OLGA), open_checkout(&app, &OLGA), async {
        script.was_asked_times(2).await;
        gates.iter().for_each(Gate::open);
    });
    assert_eq!(one.expect(201)["url"], other.expect(201)["url"]);
    assert_eq!(app.db.count("select count(*) from billing_checkouts").await, 1);
    assert_eq!(app.db.count("select count(*) from audit_log where action = 'billing.checkout_opened'").await, 1);
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

/// What is no address of an app, however a browser would read it.
fn wrong_addresses() -> Vec<String> {
    let mut wrong = [
        // Control characters, which some readers drop and Postgres refuses.
        "http://localhost:3000/\0",
        "\0http://localhost:3000/",
        "http://localhost:3000/?a=\0",
        "http://local\0host:3000/",
        "http://local\thost:3000/",
        "http://localhost:3000/\r\nset-cookie: a=b",
        "\nhttp://localhost:3000/",
        "http://localhost:3000/\u{7f}",
        "http://localhost:3000/\u{85}",
        " http://localhost:3000/",
        // Backslashes, which some readers take for slashes.
        "http:\\\\localhost:3000\\",
        "http://localhost:3000\\@evil.example/",
        "http://localhost:3000/a\\b",
        "http://localhost:3000/?a=\\",
        // Whoever is named before the host.
        "http://user@localhost:3000/",
        "http://user:password@localhost:3000/",
        "http://:password@localhost:3000/",
        "http://@localhost:3000/",
        "http://:@localhost:3000/",
        "http://localhost:3000@evil.example/",
        // Slashes that are missing, or too many.
        "http:localhost:3000/",
        "http:/localhost:3000/",
        "http:///localhost:3000/",
        "http:////localhost:3000/",
        "localhost:3000/",
        "//localhost:3000/",
        "/billing",
        "",
        // Other schemes, one of which has the origin of what is within.
        "blob:http://localhost:3000/x",
        "javascript:alert(1)",
        "data:text/html,x",
        "https://localhost:3000/",
        "ftp://localhost:3000/",
        // Other places.
        "http://localhost:3001/",
        "http://localhost/",
        "http://localhost.evil.example:3000/",
        // Those that begin as an app's.
        "http://localhost:30000/",
        "http://localhost:3000.evil.example/",
        "http://localhost:3000-evil.example/",
        "https://evil.example/?http://localhost:3000/",
    ]
    .map(str::to_owned)
    .to_vec();
    wrong.push(format!("http://localhost:3000/{}", "x".repeat(2000)));
    // Short as it is written, and long as it is sent.
    wrong.push(format!("http://localhost:3000/{}", "é".repeat(400)));
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_to_come_back_to_that_can_be_read_in_two_ways_is_refused() {
    let app = an_hour_ago().await;
    subscribed(&app, &OSCAR).await;
    let (olga, oscar) = (app.token(&OLGA), app.token(&OSCAR));
    let (still, asked) = (app.db.still().await, app.stack.sandbox.stripe.requests().len());
    for url in wrong_addresses() {
        for (path, token, field) in [
            ("/v1/billing/checkout", &olga, "success_url"),
            ("/v1/billing/checkout", &olga, "cancel_url"),
            ("/v1/billing/portal", &oscar, "return_url"),
        ] {
            let mut body = match path {
                "/v1/billing/portal" => json!({}),
                _ => json!({ "price": PRICE, "success_url": APP, "cancel_url": APP }),
            };
            body[field] = json!(url);
            let answer = app.post(path, token, &body).await;
            assert_eq!(answer.status, 422, "{field} {url:?}: {}", answer.body);
            answer.expect_error(422, "return_url_unknown");
        }
    }
    still.unchanged().await;
    assert_eq!(app.stack.sandbox.stripe.requests().len(), asked, "Stripe was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_to_come_back_to_is_stored_and_sent_as_it_was_understood() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    subscribed(&app, &OSCAR).await;
    let (olga, oscar) = (app.token(&OLGA), app.token(&OSCAR));
    for (given, kept) in [
        ("http://localhost:3000", "http://localhost:3000/"),
        ("http://localhost:3000?a=b", "http://localhost:3000/?a=b"),
        ("HTTP://LocalHost:3000/Billing", "http://localhost:3000/Billing"),
        ("http://localhost:03000/a/./b/../c", "http://localhost:3000/a/c"),
        ("http://localhost:3000/a b?c d#e f", "http://localhost:3000/a%20b?c%20d#e%20f"),
        ("http://localhost:3000/a ", "http://localhost:3000/a"),
        ("http://localhost:3000/é?é\"<>", "http://localhost:3000/%C3%A9?%C3%A9%22%3C%3E"),
        ("http://localhost:3000/%00", "http://localhost:3000/%00"),
        ("http://localhost:3000/a@b?c=d@e", "http://localhost:3000/a@b?c=d@e"),
        // Stripe fills this in.
        ("http://localhost:3000/?s={CHECKOUT_SESSION_ID}", "http://localhost:3000/?s={CHECKOUT_SESSION_ID}"),
        ("http://localhost:3000/é/{CHECKOUT_SESSION_ID}", "http://localhost:3000/%C3%A9/{CHECKOUT_SESSION_ID}"),
    ] {
        app.db.run("delete from billing_checkouts").await;
        let body = json!({ "price": PRICE, "success_url": given, "cancel_url": given });
        let checkout = app.post("/v1/billing/checkout", &olga, &body).await.expect(201);
        let session = stripe.checkout(&session_of(&app, &checkout).await).unwrap();
        assert_eq!(
            (session.success_url.as_deref(), session.cancel_url.as_deref()),
            (Some(kept), Some(kept)),
            "{given}"
        );
        assert_eq!(one(&app.db, "select success_url from billing_checkouts").await, kept, "{given}");
        assert_eq!(one(&app.db, "select cancel_url from billing_checkouts").await, kept, "{given}");
        app.post("/v1/billing/portal", &oscar, &json!({ "return_url": given })).await.expect(201);
        assert_eq!(returned_to(&app).as_deref(), Some(kept), "{given}");
    }
}

/// The address that Stripe was told last.
fn returned_to(app: &integration_tests::TestApp) -> Option<String> {
    let asked = app.stack.sandbox.stripe.requests().pop().unwrap();
    asked.parameters.into_iter().find(|(name, _)| name == "return_url").map(|(_, value)| value)
}

/// Addresses put together from what makes them go wrong.
fn any_address() -> impl Strategy<Value = String> {
    let pieces = vec![
        "http",
        "https",
        ":",
        "/",
        "//",
        "\\",
        "@",
        "localhost:3000",
        "localhost",
        "evil.example",
        "user",
        "\0",
        "\n",
        "\t",
        " ",
        "é",
        "%00",
        "%2f",
        "?",
        "#",
        "{CHECKOUT_SESSION_ID}",
        "..",
        ".",
        "[",
        "]",
        "blob:",
        "\u{202e}",
        "\u{2028}",
        "。",
        "０",
    ];
    let pieces = prop::collection::vec(prop::sample::select(pieces), 0..6).prop_map(|pieces| pieces.concat());
    let start = prop_oneof![4 => Just("http://localhost:3000"), 1 => Just("http://localhost:3000/"), 1 => Just("http:"), 1 => Just("")];
    (start, prop_oneof![pieces, any::<String>()]).prop_map(|(start, rest)| format!("{start}{rest}"))
}

#[test]
fn whatever_address_is_given_stripe_gets_an_app_of_ours_or_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let app = runtime.block_on(async {
        let app = an_hour_ago().await;
        subscribed(&app, &OLGA).await;
        app
    });
    let token = app.token(&OLGA);
    let (taken, refused) = (Cell::new(0), Cell::new(0));
    let config = ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&any_address(), |given| {
        let answer = runtime.block_on(app.post("/v1/billing/portal", &token, &json!({ "return_url": given })));
        if answer.status == 422 {
            refused.set(refused.get() + 1);
            prop_assert_eq!(&answer.body["code"], "return_url_unknown");
            return Ok(());
        }
        prop_assert_eq!(answer.status.as_u16(), 201, "{:?}: {}", given, answer.body);
        taken.set(taken.get() + 1);
        let sent = returned_to(&app).unwrap();
        prop_assert!(sent.starts_with("http://localhost:3000/"), "{given:?} was sent as {sent}");
        prop_assert!(sent.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'), "{given:?} was sent as {sent}");
        // It is what was given, and whoever reads it reads the same.
        let read = |text: &str| {
            url::Url::parse(text).unwrap().as_str().replace("%7BCHECKOUT_SESSION_ID%7D", "{CHECKOUT_SESSION_ID}")
        };
        prop_assert_eq!(read(&given), sent.clone());
        prop_assert_eq!(read(&sent), sent);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(taken.get() > 20 && refused.get() > 20, "{} taken, {} refused", taken.get(), refused.get());
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
    a_minute_passes(&app).await;
    assert_eq!(plan(&app, NORD).await, "enterprise");
    // What the price stands for changes, or somebody gives the organisation another plan: a minute later it has what it pays for.
    for (change, wanted) in [
        ("update plan_prices set plan = 'atelier' where stripe_price_id = 'price_big'", "atelier"),
        ("update organizations set plan = 'gift' where slug = 'atelier-nord'", "atelier"),
        ("delete from plan_prices where stripe_price_id = 'price_big'", "free"),
        ("insert into plan_prices (stripe_price_id, plan, rank) values ('price_big', 'enterprise', 5)", "enterprise"),
    ] {
        app.db.run(change).await;
        let told = a_minute_passes(&app).await;
        assert_eq!((plan(&app, NORD).await.as_str(), &told["jobs_done"]), (wanted, &json!(1)), "{change}: {told}");
    }
    assert_eq!(a_minute_passes(&app).await["jobs_done"], 0, "nothing is left to be settled");
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
async fn a_checkout_of_which_it_is_not_known_that_it_ended_has_no_other_opened_beside_it() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    stripe.create_price("price_other", 5000);
    app.db.run("insert into plan_prices (stripe_price_id, plan) values ('price_other', 'solo')").await;
    let checkout = open_checkout(&app, &OLGA).await.expect(201);
    let other = json!({ "price": "price_other", "success_url": APP, "cancel_url": APP });
    // Stripe does not end it, and says that it is open; or says nothing of it.
    for second in ["none", "nothing", "empty-list"] {
        app.stack.fault("stripe", "forbidden", Calls::Number(1)).unwrap();
        if second != "none" {
            app.stack.fault("stripe", second, Calls::Number(2)).unwrap();
        }
        app.post("/v1/billing/checkout", &app.token(&OLGA), &other).await.expect_error(502, "stripe_refused");
        assert_eq!(app.db.count("select count(*) from billing_checkouts where status = 'open'").await, 1, "{second}");
        assert_eq!(stripe.checkout(&session_of(&app, &checkout).await).unwrap().status, "open", "{second}");
    }
    app.post("/v1/billing/checkout", &app.token(&OLGA), &other).await.expect(201);
    assert_eq!(stripe.checkout(&session_of(&app, &checkout).await).unwrap().status, "expired");
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
