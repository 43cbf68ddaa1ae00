//! Deliveries that are forged, damaged or of the other mode.

use integration_tests::{
    Setup, TestApp,
    people::{BRICK, NORD, OLGA, OSCAR},
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::StatusCode;
use sandbox::stripe::{self, InvoiceFacts, Shape, sign};
use serde_json::{Value, json};
use stripe_webhook::event::API_VERSION;

use super::{badly, delivered, link, one, plan, subscribed, tables};
use crate::alarms;

/// Posts a body with this header. The status, and the body's outcome or code.
async fn post(app: &TestApp, header: Option<&str>, body: &[u8]) -> (u16, String) {
    let mut request = app
        .client
        .post(format!("{}/webhooks/stripe", app.stack.url))
        .header("content-type", "application/json; charset=utf-8")
        .body(body.to_vec());
    if let Some(header) = header {
        request = request.header("stripe-signature", header);
    }
    let response = request.send().await.unwrap();
    let (status, body) = (response.status(), response.json::<Value>().await.unwrap_or_default());
    (status.as_u16(), body["outcome"].as_str().or(body["code"].as_str()).unwrap_or_default().to_owned())
}

/// The same, signed now with a secret that is active.
async fn post_signed(app: &TestApp, body: &[u8]) -> (u16, String) {
    let header = sign(body, &app.stack.sandbox.stripe.secrets(), chrono::Utc::now().timestamp());
    post(app, Some(&header), body).await
}

fn invoice_event(id: &str, customer: &str, change: impl FnOnce(&mut Value)) -> Value {
    let at = chrono::Utc::now().timestamp();
    let invoice = InvoiceFacts::new(format!("in_{id}"), customer, at).render(Shape::Current);
    let mut event = stripe::event(&format!("evt_{id}"), "invoice.created", at, false, API_VERSION, invoice);
    change(&mut event);
    event
}

async fn events(app: &TestApp) -> i64 {
    app.db.count("select count(*) from webhook_events").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_signed_gets_one_answer_and_leaves_no_row() {
    let app = TestApp::start().await;
    link(&app.db, "cus_1").await;
    let still = app.db.still().await;
    let body = invoice_event("1", "cus_1", |_| {}).to_string().into_bytes();
    let secrets = app.stack.sandbox.stripe.secrets();
    let now = chrono::Utc::now().timestamp();
    let good = sign(&body, &secrets, now);
    let other = sign(&body, &["whsec_other".to_owned()], now);
    for (header, body) in [
        (None, body.clone()),
        (Some(""), body.clone()),
        (Some("bad_header"), body.clone()),
        (Some(other.as_str()), body.clone()),
        (Some(sign(&body, &secrets, now - 400).as_str()), body.clone()),
        (Some(sign(&body, &secrets, now + 400).as_str()), body.clone()),
        (Some(good.replace("v1=", "v0=").as_str()), body.clone()),
        (Some(good.as_str()), [&body[..], b" "].concat()),
        (Some(good.as_str()), Vec::new()),
        // Signed as of test mode, and says that it is live.
        (None, Vec::new()),
    ] {
        assert_eq!(post(&app, header, &body).await, (400, "signature_invalid".to_owned()), "{header:?}");
    }
    let live = invoice_event("2", "cus_1", |event| event["livemode"] = json!(true)).to_string();
    assert_eq!(post_signed(&app, live.as_bytes()).await, (400, "signature_invalid".to_owned()));
    let large = vec![b' '; 2 * 1024 * 1024 + 1];
    assert_eq!(post_signed(&app, &large).await.0, 413);
    still.unchanged().await;
    // Each has its name in the log, and a metric.
    let logs = app.logs();
    for reason in [
        "not_signed",
        "header_malformed",
        "signature_mismatch",
        "timestamp_stale",
        "timestamp_in_future",
        "scheme_missing",
        "mode_mismatch",
    ] {
        assert!(logs.contains(&format!("\"outcome\":\"{reason}\"")), "{reason}\n{logs}");
    }
    assert!(!logs.contains("whsec_") && !logs.contains(good.as_str()));
    assert_eq!(post(&app, Some(&good), &body).await, (200, "applied".to_owned()));
    // Of the twelve that were refused none is believed more when it comes again.
    alarms::is_silent(&app, "stripe-refused", Some(12.0));
    for refused in 13..=20 {
        alarms::is_silent(&app, "stripe-refused", Some(f64::from(refused - 1)));
        assert_eq!(post(&app, Some(&other), &body).await.0, 400);
    }
    alarms::rings(&app, "stripe-refused", 20.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_secret_is_learnt_at_once_and_an_old_one_counts_until_it_is_retired() {
    let app = TestApp::with(&[("SECRETS_TTL_MS", "3600000")]).await;
    let stripe = &app.stack.sandbox.stripe;
    link(&app.db, "cus_1").await;
    let old = stripe.secrets();
    let body = |id: &str| invoice_event(id, "cus_1", |_| {}).to_string();
    assert_eq!(post_signed(&app, body("1").as_bytes()).await.0, 200);
    let new = stripe.roll_secret();
    app.stack.sandbox.secrets.set("STRIPE_WEBHOOK_SECRETS_TEST", &format!("{} {new}", old[0]));
    let now = chrono::Utc::now().timestamp();
    // The function has the old document in memory: the delivery that is signed with the new secret alone makes it look.
    let only_new = sign(body("2").as_bytes(), std::slice::from_ref(&new), now);
    assert_eq!(post(&app, Some(&only_new), body("2").as_bytes()).await, (200, "applied".to_owned()));
    let only_old = sign(body("3").as_bytes(), &old, now);
    assert_eq!(post(&app, Some(&only_old), body("3").as_bytes()).await, (200, "applied".to_owned()));
    // Both are in one header while it is rolled.
    assert_eq!(post_signed(&app, body("4").as_bytes()).await, (200, "applied".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_the_other_mode_are_kept_and_change_nothing() {
    let app = TestApp::with(&[("STRIPE_MODE", "live"), ("STRIPE_WEBHOOK_SECRETS", "whsec_live")]).await;
    link(&app.db, "cus_1").await;
    let test = invoice_event("1", "cus_1", |_| {}).to_string();
    assert_eq!(post_signed(&app, test.as_bytes()).await, (200, "ignored".to_owned()));
    assert_eq!(app.db.count("select count(*) from invoices").await, 0);
    let live = invoice_event("2", "cus_1", |event| event["livemode"] = json!(true)).to_string();
    let header = sign(live.as_bytes(), &["whsec_live".to_owned()], chrono::Utc::now().timestamp());
    assert_eq!(post(&app, Some(&header), live.as_bytes()).await, (200, "applied".to_owned()));
    // A secret of one mode says nothing of the other.
    let crossed = sign(test.as_bytes(), &["whsec_live".to_owned()], chrono::Utc::now().timestamp());
    assert_eq!(post(&app, Some(&crossed), test.as_bytes()).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_one_tenant_never_touches_another() {
    let app = TestApp::start().await;
    let (nords, _) = subscribed(&app, &OLGA).await;
    let (bricks, bricks_subscription) = subscribed(&app, &OSCAR).await;
    let of_brick = format!(
        "select md5(string_agg(x::text, '' order by x::text)) from (
            select to_jsonb(i) x from invoices i where org_id = '{BRICK}' union all select to_jsonb(s) from subscriptions s where org_id = '{BRICK}'
            union all select to_jsonb(o) from stripe_objects o where org_id = '{BRICK}' union all select to_jsonb(g) from organizations g where id = '{BRICK}'
            union all select to_jsonb(a) from audit_log a where org_id = '{BRICK}' union all select to_jsonb(w) from webhook_events w where org_id = '{BRICK}') y"
    );
    let before = one(&app.db, &of_brick).await;
    let checkout = one(&app.db, &format!("select id::text from billing_checkouts where org_id = '{BRICK}'")).await;
    for (id, change) in [
        ("a", json!({ "metadata": { "org_id": BRICK, "customer": bricks, "stripe_customer_id": bricks } })),
        ("b", json!({ "customer_email": "oscar@brick-and-beam.example", "client_reference_id": checkout })),
        ("c", json!({ "description": bricks, "number": bricks })),
        // Parts that name the other's objects: its owner is not sure then, so it is nobody's.
        (
            "d",
            json!({ "parent": { "type": "subscription_details", "subscription_details": { "subscription": bricks_subscription } } }),
        ),
        ("e", json!({ "payment_intent": bricks })),
    ] {
        let event = invoice_event(id, &nords, |event| {
            for (name, value) in change.as_object().unwrap() {
                event["data"]["object"][name] = value.clone();
            }
        });
        assert_eq!(post_signed(&app, event.to_string().as_bytes()).await.0, 200);
    }
    assert_eq!(one(&app.db, &of_brick).await, before);
    for id in ["a", "b", "c"] {
        assert_eq!(
            one(&app.db, &format!("select org_id::text from invoices where stripe_invoice_id = 'in_{id}'")).await,
            NORD.to_string()
        );
    }
    // Another's checkout in the address of a payment link: the customer is not the organisation's.
    let at = chrono::Utc::now().timestamp();
    for reference in [json!(BRICK), json!(uuid::Uuid::new_v4())] {
        let session = json!({
            "id": format!("cs_{at}"), "object": "checkout.session", "status": "complete", "mode": "subscription", "payment_status": "paid",
            "customer": "cus_mallory", "client_reference_id": reference, "metadata": { "org_id": BRICK }, "currency": "sek", "livemode": false,
        });
        let event = stripe::event(
            &format!("evt_{reference}").replace('"', ""),
            "checkout.session.completed",
            at,
            false,
            API_VERSION,
            session,
        );
        assert_eq!(post_signed(&app, event.to_string().as_bytes()).await, (200, "unowned".to_owned()));
    }
    // The id of a checkout that is over, or that has a session: whoever learnt of it gets nothing by it.
    for change in [
        "status = 'expired', session_id = 'cs_real'",
        "status = 'creating', session_id = null, expires_at = now() - interval '1 s'",
    ] {
        app.db.run(&format!("update billing_checkouts set {change} where id = '{checkout}'")).await;
        let session = json!({
            "id": format!("cs_late_{}", change.len()), "object": "checkout.session", "status": "complete", "mode": "subscription",
            "customer": "cus_mallory", "client_reference_id": checkout, "currency": "sek", "livemode": false,
        });
        let event = stripe::event(
            &format!("evt_late_{}", change.len()),
            "checkout.session.completed",
            at,
            false,
            API_VERSION,
            session,
        );
        assert_eq!(post_signed(&app, event.to_string().as_bytes()).await, (200, "unowned".to_owned()), "{change}");
    }
    assert_eq!(
        one(&app.db, &format!("select stripe_customer_id from organizations where id = '{BRICK}'")).await,
        bricks
    );
    // Somebody's object under the same id, told of by another's customer.
    let theirs =
        one(&app.db, &format!("select stripe_invoice_id from invoices where org_id = '{BRICK}' limit 1")).await;
    let stolen = invoice_event("s", &nords, |event| event["data"]["object"]["id"] = json!(theirs));
    post_signed(&app, stolen.to_string().as_bytes()).await;
    assert_eq!(
        one(&app.db, &format!("select org_id::text from invoices where stripe_invoice_id = '{theirs}'")).await,
        BRICK.to_string()
    );
    assert_eq!(plan(&app, BRICK).await, "studio");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_and_not_understood_is_kept_and_answered_with_200() {
    let app = TestApp::start().await;
    link(&app.db, "cus_1").await;
    let mut deep = "[".repeat(5000);
    deep.push_str(&"]".repeat(5000));
    let wrong = |id: &str, change: fn(&mut Value)| invoice_event(id, "cus_1", change).to_string().into_bytes();
    for (name, body, outcome) in [
        ("nothing", Vec::new(), "unparsed"),
        ("no JSON", b"\xff\xfe\x00 not json".to_vec(), "unparsed"),
        ("deep", deep.clone().into_bytes(), "unparsed"),
        (
            "deep in an event",
            format!("{{\"id\":\"evt_deep\",\"object\":\"event\",\"data\":{deep}}}").into_bytes(),
            "unparsed",
        ),
        ("a megabyte", format!("{{\"id\":\"evt_mb\",\"pad\":\"{}\"}}", "x".repeat(1_000_000)).into_bytes(), "unparsed"),
        ("a huge number", br#"{"id":"evt_n","object":"event","created":1e999}"#.to_vec(), "unparsed"),
        ("no id", wrong("1", |event| event["id"] = Value::Null), "unparsed"),
        ("an id with a NUL", wrong("2", |event| event["id"] = json!("evt_\u{0}")), "unparsed"),
        ("no type", wrong("3", |event| event["type"] = Value::Null), "unparsed"),
        ("no object", wrong("4", |event| event["data"] = json!({})), "unparsed"),
        ("amount as text", wrong("5", |event| event["data"]["object"]["total"] = json!("12")), "unparsed"),
        ("amount beyond numbers", wrong("6", |event| event["data"]["object"]["total"] = json!(1e300)), "unparsed"),
        ("a status of tomorrow", wrong("7", |event| event["data"]["object"]["status"] = json!("sleeping")), "unparsed"),
        ("no currency", wrong("8", |event| event["data"]["object"]["currency"] = json!("crowns")), "unparsed"),
        ("a time out of range", wrong("9", |event| event["data"]["object"]["created"] = json!(i64::MAX)), "unparsed"),
        ("a version with a NUL", wrong("16", |event| event["api_version"] = json!("2026\u{0}")), "applied"),
        ("created before time", wrong("10", |event| event["created"] = json!(-1)), "unparsed"),
        (
            "an address that is a script",
            wrong("11", |event| event["data"]["object"]["invoice_pdf"] = json!("javascript:x")),
            "unparsed",
        ),
        ("a kind we do not know", wrong("12", |event| event["data"]["object"]["object"] = json!("llama")), "ignored"),
        ("a type we do not know", wrong("13", |event| event["type"] = json!("invoice.levitated")), "applied"),
        ("a coming invoice", wrong("14", |event| event["data"]["object"]["id"] = json!("upcoming_in_1")), "ignored"),
        ("a coming invoice of old", wrong("15", |event| event["data"]["object"]["id"] = Value::Null), "ignored"),
    ] {
        let before = events(&app).await;
        assert_eq!(post_signed(&app, &body).await, (200, outcome.to_owned()), "{name}\n{}", app.logs());
        assert_eq!(events(&app).await, before + 1, "{name}");
        // A second time it is known.
        assert_eq!(post_signed(&app, &body).await.0, 200, "{name}");
        assert_eq!(events(&app).await, before + 1, "{name}");
    }
    assert_eq!(app.db.count("select count(*) from invoices").await, 2);
    let raw =
        "select count(*) from webhook_events where status = 'unparsed' and error is not null and length(raw) >= 0";
    assert!(app.db.count(raw).await > 10);
    // Whose it is, where that can be told.
    assert!(
        app.db
            .count(&format!("select count(*) from webhook_events where status = 'unparsed' and org_id = '{NORD}'"))
            .await
            > 5
    );
    assert!(!app.logs().contains("panicked"));
    // Seventeen, of which the ten that have no id to be known by count each time.
    alarms::rings(&app, "stripe-events-failed", 27.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_damaged_deliveries_make_no_panic_and_none_is_accepted_unsigned() {
    let app = TestApp::start().await;
    subscribed(&app, &OLGA).await;
    let bodies: Vec<Vec<u8>> =
        app.stack.sandbox.stripe.events().iter().map(|event| event.to_string().into_bytes()).collect();
    let secrets = app.stack.sandbox.stripe.secrets();
    let before = tables(&app.db).await;
    let count = events(&app).await;
    let mut random = StdRng::seed_from_u64(5);
    for round in 0..1500 {
        let mut body = bodies.choose(&mut random).unwrap().clone();
        let (original, signed) = (body.clone(), sign(&body, &secrets, chrono::Utc::now().timestamp()));
        let mut header = signed.clone().into_bytes();
        // One of them is damaged; the signature does not hold then.
        let target = if random.random_bool(0.5) { &mut body } else { &mut header };
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..target.len());
            match random.random_range(0..3) {
                0 => target[at] ^= 1 << random.random_range(0..7),
                1 => target.truncate(at.max(1)),
                _ => target.insert(at, random.random_range(33..126)),
            }
        }
        let text: String =
            header.iter().map(|byte| char::from(*byte)).filter(|c| !c.is_control() && c.is_ascii()).collect();
        let (status, _) = post(&app, Some(&text), &body).await;
        // Damage to what does not count, as the other scheme, leaves a signature that holds: of an event that is known.
        let counts = |header: &str| {
            header
                .split(',')
                .filter(|item| item.starts_with("t=") || item.starts_with("v1="))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let harmless =
            body == original && counts(&text) == counts(&signed) && !text.split(',').any(|item| !item.contains('='));
        assert_eq!(status, if harmless { 200 } else { 400 }, "round {round}: {text} for {signed}");
    }
    assert_eq!(events(&app).await, count, "something damaged was recorded");
    assert_eq!(tables(&app.db).await, before);
    // Damaged before it was signed: recorded each, and nobody panics.
    for _ in 0..500 {
        let mut event: Value = serde_json::from_slice(bodies.choose(&mut random).unwrap()).unwrap();
        event["id"] = json!(format!("evt_{}", random.random::<u32>()));
        crate::mutations::mutate(&mut event, &mut random);
        let (status, outcome) = post_signed(&app, event.to_string().as_bytes()).await;
        // One may say that it is live, which its secret is not.
        let refused = status == StatusCode::BAD_REQUEST.as_u16() && event["livemode"] == json!(true);
        assert!(status == 200 || refused, "{status} {outcome} for {event}\n{}", app.logs());
    }
    let logs = app.logs();
    assert!(!logs.contains("panicked"), "{logs}");
    assert_eq!(app.db.count(&format!("select count(*) from invoices where org_id <> '{NORD}'")).await, 0);
    assert_eq!(app.db.count("select count(*) from webhook_events where status = 'failed'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nul_in_any_text_of_an_event_is_kept_and_fails_nothing() {
    let app = TestApp::start().await;
    subscribed(&app, &OLGA).await;
    let events = app.stack.sandbox.stripe.events();
    let before = tables(&app.db).await;
    let mut tried = 0;
    for kind in [
        "customer.created",
        "customer.subscription.created",
        "invoice.paid",
        "checkout.session.completed",
        "charge.succeeded",
    ] {
        let event = events.iter().find(|event| event["type"] == kind).unwrap();
        let mut texts = Vec::new();
        crate::mutations::places(event, "", &mut texts);
        texts.retain(|place| event.pointer(place).is_some_and(Value::is_string));
        for place in texts {
            let mut damaged = event.clone();
            damaged["id"] = json!(format!("evt_nul_{tried}"));
            let text = damaged.pointer_mut(&place).unwrap();
            *text = json!(format!("{}\u{0}", text.as_str().unwrap()));
            let (status, outcome) = post_signed(&app, damaged.to_string().as_bytes()).await;
            assert_eq!(status, 200, "{kind}{place}: {outcome}");
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
    assert_eq!(app.db.count("select count(*) from webhook_events where status = 'failed'").await, 0);
    assert_eq!(tables(&app.db).await["plans"], before["plans"]);
    assert!(!app.logs().contains("request failed"), "{}", app.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_cannot_be_recorded_is_answered_5xx_and_comes_again() {
    let app = TestApp::set_up(Setup::default()).await;
    link(&app.db, "cus_1").await;
    let body = invoice_event("1", "cus_1", |_| {}).to_string();
    app.stack.fault("postgres", "refuse", sandbox::Calls::Every).unwrap();
    assert_eq!(post_signed(&app, body.as_bytes()).await.0, 503);
    app.stack.fault("postgres", "none", sandbox::Calls::Every).unwrap();
    assert_eq!(post_signed(&app, body.as_bytes()).await, (200, "applied".to_owned()));
    assert_eq!(post_signed(&app, body.as_bytes()).await, (200, "duplicate".to_owned()));
    // Another event that says the same is known by what it says.
    let again = body.replace("evt_1", "evt_1b");
    post_signed(&app, again.as_bytes()).await;
    assert_eq!(app.db.count("select count(*) from audit_log where action like 'stripe.%'").await, 1);
    delivered(&app, badly(1)).await;
}
