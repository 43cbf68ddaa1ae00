//! Stripe shows ten entries of a list within an object and says that there are more. Until all of them were asked for, the list decides
//! nothing.

use integration_tests::{
    TestApp,
    people::{BRICK, NORD, OLGA, OSCAR},
};
use sandbox::{
    Calls,
    stripe::{
        self, Delivery, InvoiceFacts, InvoiceStatus, ItemFacts, LineFacts, Outcome, PRICE, PriceFacts, Shape,
        SubscriptionFacts,
    },
};
use serde_json::{Value, json};
use stripe_webhook::event::API_VERSION;
use uuid::Uuid;

use super::{
    a_minute_passes, an_hour_ago, badly, delivered, link, open_checkout, plan, settled, subscribed, tables, value,
};

/// So many prices, each known to Stripe; the last is the plan's, or none is.
fn prices(app: &TestApp, count: usize, sold: bool) -> Vec<String> {
    let stripe = &app.stack.sandbox.stripe;
    let mut prices: Vec<String> = (1..=count).map(|number| format!("price_addon_{number}")).collect();
    for price in &prices {
        stripe.put_price(&PriceFacts::new(price, 100, stripe.now()));
    }
    if sold {
        prices[count - 1] = PRICE.to_owned();
    }
    prices
}

/// Puts a subscription on these prices.
fn put_on(app: &TestApp, subscription: &str, prices: &[String]) {
    let prices: Vec<&str> = prices.iter().map(String::as_str).collect();
    app.stack.sandbox.stripe.change_prices(subscription, &prices).unwrap();
}

/// The plan, and the prices of a subscription.
async fn stands(app: &TestApp, org: Uuid, subscription: &str) -> (String, Value) {
    let prices =
        format!("select to_jsonb(stripe_price_ids) from subscriptions where stripe_subscription_id = '{subscription}'");
    (plan(app, org).await, value(&app.db, &prices).await)
}

async fn all_lost(app: &TestApp) {
    delivered(app, Delivery { lose: Some(std::sync::Arc::new(|_| true)), ..Delivery::default() }).await;
}

/// The comparison with Stripe has caught up until so many hours ago, and is due.
async fn compared_until(app: &TestApp, hours: i32) {
    app.db
        .run(&format!(
            "delete from billing_reconciliations;
             insert into billing_reconciliations (since, until, started_at, finished_at)
             select at - interval '1 day', at, now() - interval '1 day', at from (select now() - interval '{hours} hours' as at) x"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_whose_price_is_the_eleventh_is_kept_lost_and_gained_as_stripe_has_it() {
    let app = an_hour_ago().await;
    let (_, nords) = subscribed(&app, &OLGA).await;
    let (_, bricks) = subscribed(&app, &OSCAR).await;
    for (round, sold) in [(1, true), (2, false), (3, true), (4, false)] {
        let before = plan(&app, NORD).await;
        if round > 2 {
            // In the same second it was something else, in full: what is asked for at once is not newer than that.
            put_on(&app, &nords, &prices(&app, 1, !sold));
        }
        let prices = prices(&app, 11, sold);
        put_on(&app, &nords, &prices);
        delivered(&app, badly(round)).await;
        let now = if sold { "studio" } else { "free" };
        let meanwhile = plan(&app, NORD).await;
        assert!([before.as_str(), now].contains(&meanwhile.as_str()), "round {round}: {meanwhile} meanwhile");
        a_minute_passes(&app).await;
        assert_eq!(stands(&app, NORD, &nords).await, (now.to_owned(), json!(prices)), "round {round}\n{}", app.logs());
        if round == 2 {
            // Each change is in the log once, however often it was heard of and asked about.
            let audited = "select count(*) from audit_log where action = 'organizations.update' and new_values ->> 'plan' <> old_values ->> 'plan'";
            assert_eq!(app.db.count(audited).await, 3, "two began to pay, and one lost a plan");
        }
    }
    assert_eq!(stands(&app, BRICK, &bricks).await, ("studio".to_owned(), json!([PRICE])));
    assert_eq!(app.db.count("select count(*) from webhook_events where status = 'received'").await, 0);
}

/// How an organisation's books learn of a change.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// An event is delivered.
    Delivered,
    /// The same, while who owns it is not known yet.
    Claimed,
    /// An event that carries no object.
    Thin,
    /// The event is lost, and found in Stripe's list.
    Missed,
    /// No event tells of it; the subscription is in Stripe's list.
    Listed,
    /// No event tells of it, and nothing was heard of the subscription for a day.
    Stale,
}

const WAYS: [Way; 6] = [Way::Delivered, Way::Claimed, Way::Thin, Way::Missed, Way::Listed, Way::Stale];

impl Way {
    /// Changes the prices of Atelier Nord's subscription, and has it heard of.
    async fn tell(&self, app: &TestApp, subscription: &str, prices: &[String]) {
        let stripe = &app.stack.sandbox.stripe;
        match self {
            Self::Listed | Self::Stale => {
                let mut facts = stripe.subscription(subscription).unwrap();
                let of = facts.items[0].clone();
                let item = |price: &String| ItemFacts {
                    id: format!("si_{price}_{}", stripe.now()),
                    price: PriceFacts::new(price, 100, stripe.now()),
                    ..of.clone()
                };
                facts.items = prices.iter().map(item).collect();
                stripe.put_subscription(&facts);
            }
            _ => put_on(app, subscription, prices),
        }
        match self {
            Self::Delivered => delivered(app, badly(7)).await,
            Self::Claimed => {
                let customer = stripe.subscription(subscription).unwrap().customer;
                app.db
                    .run(&format!(
                        "create table kept as select * from stripe_objects;
                         delete from stripe_objects; update organizations set stripe_customer_id = null where id = '{NORD}'"
                    ))
                    .await;
                delivered(app, badly(7)).await;
                app.db.run("insert into stripe_objects select * from kept; drop table kept").await;
                link(&app.db, &customer).await;
            }
            Self::Thin => {
                all_lost(app).await;
                stripe.push_event(json!({
                    "id": format!("evt_thin_{}", stripe.now()), "object": "v2.core.event", "livemode": false,
                    "type": "v1.customer.subscription.updated", "created": chrono::Utc::now().to_rfc3339(),
                    "related_object": { "id": subscription, "type": "subscription", "url": format!("/v1/subscriptions/{subscription}") },
                }));
                delivered(app, badly(7)).await;
            }
            Self::Missed | Self::Listed => {
                all_lost(app).await;
                compared_until(app, 3).await;
            }
            Self::Stale => {
                app.db.run("update stripe_objects set compared_at = now() - interval '2 days'").await;
            }
        }
        a_minute_passes(app).await;
        stripe.advance(60);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn however_a_long_list_comes_it_is_read_to_its_end_before_it_decides() {
    let app = an_hour_ago().await;
    let (_, subscription) = subscribed(&app, &OLGA).await;
    compared_until(&app, 0).await;
    // At the edges of what an object shows and of what a page lists.
    for (count, ways) in [(11, &WAYS[..]), (10, &WAYS[..1]), (100, &WAYS[..1]), (101, &WAYS[..1]), (230, &WAYS[..1])] {
        for way in ways {
            for sold in [false, true] {
                let prices = prices(&app, count, sold);
                way.tell(&app, &subscription, &prices).await;
                let now = if sold { "studio" } else { "free" };
                let stands = stands(&app, NORD, &subscription).await;
                assert_eq!(stands, (now.to_owned(), json!(prices)), "{way:?} of {count}\n{}", app.logs());
            }
        }
    }
    let odd = "select count(*) from webhook_events where status in ('received', 'unowned', 'unparsed', 'failed')";
    assert_eq!(app.db.count(odd).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_rest_of_a_list_is_not_to_be_had_what_was_known_stands() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    let (_, subscription) = subscribed(&app, &OLGA).await;
    compared_until(&app, 0).await;
    let (mut known, mut sold) = (json!([PRICE]), true);
    let whole = ["api-error", "no-list", "nothing", "bad-key", "forbidden", "reset"];
    // The second answer is the first page of the list, the third the same once more.
    let second = ["api-error", "no-list", "empty-list", "endless-list", "missing"];
    for (fault, only) in whole.map(|fault| (fault, false)).into_iter().chain(second.map(|fault| (fault, true))) {
        let plan = if sold { "studio" } else { "free" };
        sold = !sold;
        let prices = prices(&app, 12, sold);
        put_on(&app, &subscription, &prices);
        let calls = if only { vec![Calls::Number(2), Calls::Number(3)] } else { vec![Calls::Every] };
        for calls in calls {
            app.stack.fault("stripe", fault, calls).unwrap();
        }
        // It is taken whatever becomes of the rest: Stripe must not send it for days.
        delivered(&app, Delivery::default()).await;
        assert_eq!(stands(&app, NORD, &subscription).await, (plan.to_owned(), known.clone()), "{fault}, {only}");
        if !only {
            a_minute_passes(&app).await;
            let stands = stands(&app, NORD, &subscription).await;
            assert_eq!(stands, (plan.to_owned(), known.clone()), "{fault}, a minute later");
        }
        app.stack.fault("stripe", "none", Calls::Every).unwrap();
        let waits = "select count(*) from webhook_events where status = 'received' and error is not null";
        assert_eq!(app.db.count(waits).await, 1, "{fault}, {only}: what waits can be seen");
        a_minute_passes(&app).await;
        known = json!(prices);
        let plan = if sold { "studio" } else { "free" };
        let stands = stands(&app, NORD, &subscription).await;
        assert_eq!(stands, (plan.to_owned(), known.clone()), "{fault}, {only}\n{}", app.logs());
        assert_eq!(app.db.count(waits).await, 0, "{fault}, {only}");
        stripe.advance(60);
    }
    // Stripe does not know it: a person must look, and until then nothing changes.
    let plan = plan(&app, NORD).await;
    put_on(&app, &subscription, &prices(&app, 13, !sold));
    app.stack.fault("stripe", "missing", Calls::Every).unwrap();
    delivered(&app, Delivery::default()).await;
    assert_eq!(stands(&app, NORD, &subscription).await, (plan, known));
    assert_eq!(
        app.db.count("select count(*) from webhook_events where status = 'failed' and error is not null").await,
        1
    );
}

/// An open invoice of so many lines, the last of which ends last.
fn long_invoice(id: &str, customer: &str, lines: usize, at: i64) -> InvoiceFacts {
    let mut invoice = InvoiceFacts::new(id, customer, at);
    let line = |number: usize| LineFacts {
        id: format!("il_{id}_{number}"),
        amount: 100,
        description: "studio".to_owned(),
        price: None,
        quantity: 1,
        period_start: at - i64::try_from(number).unwrap(),
        period_end: at + 100 * i64::try_from(number).unwrap(),
        subscription_item: None,
        proration: false,
    };
    invoice.lines = (1..=lines).map(line).collect();
    (invoice.status, invoice.number, invoice.finalized_at) = (InvoiceStatus::Open, Some("A-1".to_owned()), Some(at));
    invoice
}

#[tokio::test(flavor = "multi_thread")]
async fn the_period_of_an_invoice_is_that_of_all_its_lines() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    let (customer, _) = subscribed(&app, &OLGA).await;
    compared_until(&app, 0).await;
    let row = async |id: &str| {
        value(
            &app.db,
            &format!(
                "select coalesce((select jsonb_build_array(status, amount, extract(epoch from period_start)::bigint, extract(epoch from period_end)::bigint)
                                    from invoices where stripe_invoice_id = '{id}'), '[]')"
            ),
        )
        .await
    };
    for lines in [10_usize, 11, 120] {
        let (id, at) = (format!("in_long_{lines}"), stripe.now());
        let invoice = long_invoice(&id, &customer, lines, at);
        stripe.put_invoice(&invoice);
        let event = format!("evt_{id}");
        stripe.push_event(stripe::event(
            &event,
            "invoice.finalized",
            at,
            false,
            API_VERSION,
            invoice.render(Shape::Current),
        ));
        app.stack.fault("stripe", "api-error", Calls::Every).unwrap();
        delivered(&app, badly(1)).await;
        app.stack.fault("stripe", "none", Calls::Every).unwrap();
        let count = i64::try_from(lines).unwrap();
        let whole = json!(["open", 100 * count, at - count, at + 100 * count]);
        assert_eq!(row(&id).await, if lines > 10 { json!([]) } else { whole.clone() }, "{lines} while Stripe is away");
        a_minute_passes(&app).await;
        assert_eq!(row(&id).await, whole, "{lines}\n{}", app.logs());
        stripe.advance(60);
    }
    // A draft that was deleted is no longer to be had, and needs no more lines to be gone.
    let (id, at) = ("in_gone", stripe.now());
    let draft = InvoiceFacts { status: InvoiceStatus::Draft, ..long_invoice(id, &customer, 12, at) };
    for (event, kind, at) in [("evt_made", "invoice.created", at), ("evt_gone", "invoice.deleted", at + 1)] {
        let event = stripe::event(event, kind, at, false, API_VERSION, draft.render(Shape::Current));
        stripe.push_event(event);
    }
    settled(&app, 1).await;
    // Since when until when it would have been, its ten lines do not say.
    assert_eq!(row(id).await, json!(["deleted", 1200, null, null]), "{}", app.logs());
    assert_eq!(
        app.db.count("select count(*) from webhook_events where status in ('received', 'failed', 'unparsed')").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_takes_no_decision_from_a_list_that_was_cut_short() {
    let app = an_hour_ago().await;
    let (_, subscription) = subscribed(&app, &OLGA).await;
    let prices = prices(&app, 11, true);
    put_on(&app, &subscription, &prices);
    settled(&app, 1).await;
    app.stack.sandbox.stripe.renew(&subscription, Outcome::Failed).unwrap();
    settled(&app, 2).await;
    let before = tables(&app.db).await;
    assert_eq!(before["subscriptions"][0]["stripe_price_ids"], json!(prices));
    operator::rebuild::rebuild(&app.db.url, "atelier-nord").await.unwrap();
    assert_eq!(tables(&app.db).await, before);

    // As it was left by whoever took ten items for all of them: nothing else tells of the subscription.
    app.db
        .run(
            "delete from webhook_events where event_type = 'fetched' or event_type = 'customer.subscription.created';
             update webhook_events set status = 'applied' where event_type like 'customer.subscription.%'",
        )
        .await;
    operator::rebuild::rebuild(&app.db.url, "atelier-nord").await.unwrap();
    assert_eq!(plan(&app, NORD).await, "studio", "nothing is known of the subscription, so nothing was decided");
    app.db.run("update webhook_events set received_at = received_at - interval '5 minutes'").await;
    a_minute_passes(&app).await;
    assert_eq!(stands(&app, NORD, &subscription).await, ("studio".to_owned(), json!(prices)), "{}", app.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_empty_and_says_that_more_follow_ends_no_comparison() {
    let app = an_hour_ago().await;
    let (_, subscription) = subscribed(&app, &OLGA).await;
    let invoice = app.stack.sandbox.stripe.renew(&subscription, Outcome::Failed).unwrap().id;
    all_lost(&app).await;
    compared_until(&app, 3).await;
    app.stack.fault("stripe", "endless-list", Calls::Every).unwrap();
    let told = a_minute_passes(&app).await;
    assert_eq!(told["compared"], json!(null), "{told}");
    app.stack.fault("stripe", "none", Calls::Every).unwrap();
    // The window is tried again, and what was lost is found.
    a_minute_passes(&app).await;
    let status = format!("select to_jsonb(status) from invoices where stripe_invoice_id = '{invoice}'");
    assert_eq!(value(&app.db, &status).await, "open", "{}", app.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_subscription_of_eleven_items_gives_its_plan() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    let customer = stripe.create_customer(None, sandbox::stripe::Metadata::new()).id;
    link(&app.db, &customer).await;
    let (now, id) = (stripe.now(), "sub_long");
    let mut facts = SubscriptionFacts::new(id, &customer, PriceFacts::new(PRICE, 12_500, now), now);
    facts.items = prices(&app, 11, true)
        .iter()
        .map(|price| ItemFacts {
            id: format!("si_{price}"),
            price: PriceFacts::new(price, 100, now),
            ..facts.items[0].clone()
        })
        .collect();
    stripe.put_subscription(&facts);
    stripe.push_event(stripe::event(
        "evt_long",
        "customer.subscription.created",
        now,
        false,
        API_VERSION,
        facts.render(Shape::Current),
    ));
    settled(&app, 1).await;
    assert_eq!(plan(&app, NORD).await, "studio", "{}", app.logs());
    open_checkout(&app, &OLGA).await.expect_error(409, "subscription_exists");
    // A list that does not say that it is all is not.
    for (number, said) in [Value::Null, json!("false"), json!(0)].into_iter().enumerate() {
        let mut short = SubscriptionFacts { items: facts.items[..1].to_vec(), ..facts.clone() }.render(Shape::Current);
        short["items"]["has_more"] = said.clone();
        let (event, kind) = (format!("evt_short_{number}"), "customer.subscription.updated");
        stripe.push_event(stripe::event(&event, kind, stripe.now(), false, API_VERSION, short));
        settled(&app, 2).await;
        assert_eq!(plan(&app, NORD).await, "studio", "{said}");
        let ended = format!("select to_jsonb(status) from webhook_events where event_id = '{event}'");
        assert_eq!(value(&app.db, &ended).await, "superseded", "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_what_was_asked_for_decides_nothing() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    let (_, subscription) = subscribed(&app, &OLGA).await;
    compared_until(&app, 0).await;
    for fault in ["nothing", "empty-list"] {
        let paid = stripe.renew(&subscription, Outcome::Paid).unwrap().id;
        let failed = stripe.renew(&subscription, Outcome::Failed).unwrap().id;
        let dispute = stripe.dispute(&paid).unwrap().id;
        // A dispute that names no customer, and an event that carries no object, are all that comes.
        let only = |event: &Value| !event["type"].as_str().unwrap().starts_with("charge.dispute");
        delivered(&app, Delivery { lose: Some(std::sync::Arc::new(only)), ..Delivery::default() }).await;
        stripe.push_event(json!({
            "id": format!("evt_thin_{fault}").replace('-', "_"), "object": "v2.core.event", "livemode": false,
            "type": "v1.invoice.payment_failed", "created": chrono::Utc::now().to_rfc3339(),
            "related_object": { "id": failed, "type": "invoice", "url": format!("/v1/invoices/{failed}") },
        }));
        delivered(&app, badly(1)).await;
        app.stack.fault("stripe", fault, Calls::Every).unwrap();
        a_minute_passes(&app).await;
        app.stack.fault("stripe", "none", Calls::Every).unwrap();
        a_minute_passes(&app).await;
        let known = format!(
            "select jsonb_build_array((select facts ->> 'status' from stripe_objects where stripe_id = '{dispute}'),
                                      (select status from invoices where stripe_invoice_id = '{failed}'))"
        );
        assert_eq!(value(&app.db, &known).await, json!(["needs_response", "open"]), "{fault}\n{}", app.logs());
        stripe.retry_payment(&failed, Outcome::Paid).unwrap();
        all_lost(&app).await;
    }
}
