//! Whatever order, number and quality of deliveries arrives, the rows that come of it are the same.

use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use integration_tests::{
    Server, TestApp, TestDatabase,
    people::{NORD, OLGA},
};
use proptest::{prelude::*, test_runner::TestRunner};
use sandbox::{
    Moment, Tap, Verdict,
    stripe::{
        self, InvoiceFacts, InvoiceStatus, LineFacts, Outcome, PRICE, PriceFacts, Shape, SubscriptionFacts,
        SubscriptionStatus,
    },
};
use serde_json::{Value, json};
use shared::{config::Env, db::Database, secrets::Secrets};
use stripe_webhook::{event, facts, record};

use super::{a_minute_passes, an_hour_ago, badly, delivered, link, subscribed, tables, value};

const START: i64 = 1_790_000_000;

/// What happens to an object: the type of the event, the object then, and the second.
type Happening = (String, Value, i64);

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![3 => Just(Shape::Current), 1 => Just(Shape::Legacy)]
}

/// The life of an invoice, by transitions that Stripe allows. Seconds between two of them may be none.
fn invoice_life() -> impl Strategy<Value = Vec<Happening>> {
    let step = (0..4_u8, 0..3_i64, shape());
    (1..6_i64, prop::collection::vec(step, 1..6)).prop_map(|(amount, steps)| {
        let mut invoice = InvoiceFacts::new("in_X", "cus_X", START);
        invoice.lines.push(LineFacts {
            id: "il_X".to_owned(),
            amount: amount * 1000,
            description: "studio".to_owned(),
            price: None,
            quantity: 1,
            period_start: START,
            period_end: START + 2_592_000,
            subscription_item: None,
            proration: false,
        });
        let mut at = START;
        let mut life = vec![("invoice.created".to_owned(), invoice.render(Shape::Current), at)];
        for (choice, pause, shape) in steps {
            at += pause;
            let kind = match (invoice.status, choice) {
                (InvoiceStatus::Draft, 0) => {
                    life.push(("invoice.deleted".to_owned(), invoice.render(shape), at));
                    return life;
                }
                (InvoiceStatus::Draft, _) => {
                    invoice.status = InvoiceStatus::Open;
                    invoice.number = Some("A-1".to_owned());
                    invoice.finalized_at = Some(at);
                    "invoice.finalized"
                }
                (InvoiceStatus::Open, 0) => {
                    invoice.attempt_count += 1;
                    invoice.next_payment_attempt = Some(at + 86_400);
                    "invoice.payment_failed"
                }
                (InvoiceStatus::Open, 1) => {
                    invoice.status = InvoiceStatus::Uncollectible;
                    invoice.marked_uncollectible_at = Some(at);
                    "invoice.marked_uncollectible"
                }
                (InvoiceStatus::Open | InvoiceStatus::Uncollectible, 2) => {
                    invoice.status = InvoiceStatus::Void;
                    invoice.voided_at = Some(at);
                    "invoice.voided"
                }
                (InvoiceStatus::Open | InvoiceStatus::Uncollectible, _) => {
                    invoice.status = InvoiceStatus::Paid;
                    invoice.amount_paid = invoice.total();
                    invoice.paid_at = Some(at);
                    "invoice.paid"
                }
                (InvoiceStatus::Paid | InvoiceStatus::Void, _) => break,
            };
            life.push((kind.to_owned(), invoice.render(shape), at));
        }
        life
    })
}

/// The life of a subscription: any of its statuses may follow any other until it ends.
fn subscription_life() -> impl Strategy<Value = Vec<Happening>> {
    let step = (0..6_u8, 0..2_i64, shape());
    prop::collection::vec(step, 1..6).prop_map(|steps| {
        let price = PriceFacts::new(PRICE, 12_500, START);
        let mut subscription = SubscriptionFacts::new("sub_X", "cus_X", price, START);
        subscription.status = SubscriptionStatus::Incomplete;
        let mut at = START;
        let mut life = vec![("customer.subscription.created".to_owned(), subscription.render(Shape::Current), at)];
        for (choice, pause, shape) in steps {
            at += pause;
            if choice == 5 {
                subscription.status = SubscriptionStatus::Canceled;
                subscription.canceled_at = Some(at);
                subscription.ended_at = Some(at);
                life.push(("customer.subscription.deleted".to_owned(), subscription.render(shape), at));
                return life;
            }
            subscription.status = [
                SubscriptionStatus::Active,
                SubscriptionStatus::PastDue,
                SubscriptionStatus::Unpaid,
                SubscriptionStatus::Trialing,
                SubscriptionStatus::Active,
            ][usize::from(choice)];
            if choice == 4 {
                subscription.cancel_at_period_end = !subscription.cancel_at_period_end;
            }
            life.push(("customer.subscription.updated".to_owned(), subscription.render(shape), at));
        }
        life
    })
}

fn bodies(life: &[Happening]) -> Vec<String> {
    life.iter()
        .enumerate()
        .map(|(number, (kind, object, at))| {
            stripe::event(&format!("evt_X_{number}"), kind, *at, false, event::API_VERSION, object.clone()).to_string()
        })
        .collect()
}

/// All orders of up to four, and sixteen of more; each event once or twice.
fn orders(count: usize, random: &mut impl rand::Rng) -> Vec<Vec<usize>> {
    use rand::seq::SliceRandom;
    let mut all: Vec<Vec<usize>> = vec![Vec::new()];
    for next in 0..count {
        all = all
            .into_iter()
            .flat_map(|order| {
                (0..=order.len()).map(move |place| {
                    let mut longer = order.clone();
                    longer.insert(place, next);
                    longer
                })
            })
            .collect();
        if all.len() > 24 {
            all.shuffle(random);
            all.truncate(16);
        }
    }
    for order in &mut all {
        let again = order.clone();
        order.extend(again.into_iter().filter(|index| index % 2 == 0));
        order.shuffle(random);
    }
    let mut straight: Vec<usize> = (0..count).collect();
    all.push(straight.clone());
    straight.reverse();
    all.push(straight);
    all
}

fn database(db: &TestDatabase) -> Database {
    let env = Env::from_iter([("DATABASE_URL", db.functions_url.as_str())]);
    Database::from_env(&env, Arc::new(Secrets::from_env(&env).unwrap())).unwrap()
}

/// What is told apart by (terminal, second, rank) and by what it says: two of one place that say different things are a tie.
fn has_tie(life: &[Happening]) -> bool {
    let mut places: BTreeMap<(bool, i64, i32), Value> = BTreeMap::new();
    life.iter().any(|(kind, object, at)| {
        let state = facts::read(object, facts::Phase::of(Some(kind))).unwrap().state.unwrap();
        let said = Value::Object(state.facts);
        places.insert((state.terminal, *at, state.rank), said.clone()).is_some_and(|other| other != said)
    })
}

#[test]
fn every_order_and_number_of_deliveries_ends_in_the_same_rows() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let test_db = runtime.block_on(async {
        let db = TestDatabase::new(Server::Postgres18).await;
        link(&db, "cus_X").await;
        db
    });
    let db = database(&test_db);
    let (cases, ties, resolved) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() });
    let both = prop_oneof![invoice_life(), subscription_life()];
    let outcome = runner.run(&both, |life| {
        use rand::SeedableRng;
        cases.set(cases.get() + 1);
        let case: u64 = cases.get();
        let bodies = bodies(&life);
        let mut random = rand::rngs::StdRng::seed_from_u64(case);
        let mut rows: Vec<(Vec<usize>, Value)> = Vec::new();
        for (number, order) in orders(bodies.len(), &mut random).into_iter().enumerate() {
            // Each order has an object of its own, and all of them one customer.
            let own = format!("{case}o{number}");
            let row = runtime.block_on(async {
                for index in &order {
                    let body = bodies[*index].replace("in_X", &format!("in_{own}")).replace("sub_X", &format!("sub_{own}"));
                    let body = body.replace("evt_X", &format!("evt_{own}"));
                    let observation = event::read(body.as_bytes(), START).observation;
                    let recorded = record(&db, &observation, body.as_bytes()).await.unwrap();
                    assert!(["applied", "superseded", "duplicate"].contains(&recorded.outcome.as_str()), "{recorded:?}");
                }
                let wanted = format!(
                    "select coalesce((select to_jsonb(i) - '{{id,updated_at,stripe_invoice_id}}'::text[] from invoices i where stripe_invoice_id = 'in_{own}'),
                                     (select to_jsonb(s) - '{{id,updated_at,stripe_subscription_id}}'::text[] from subscriptions s where stripe_subscription_id = 'sub_{own}'))"
                );
                let row = value(&test_db, &wanted).await.to_string();
                // Addresses have the object's id in them.
                serde_json::from_str(&row.replace(&format!("_{own}"), "_X")).unwrap()
            });
            rows.push((order, row));
        }
        let (_, last) = rows.iter().find(|(order, _)| order.is_sorted()).unwrap().clone();
        for (order, row) in &rows {
            prop_assert_eq!(row, &last, "order {:?} of {:?}", order, life);
        }
        // And they are what happened last, unless two states of one second cannot be told apart: then Stripe is asked.
        let (kind, object, _) = life.last().unwrap();
        let truth = facts::read(object, facts::Phase::of(Some(kind))).unwrap().state.unwrap();
        if has_tie(&life) {
            ties.set(ties.get() + 1);
        } else {
            resolved.set(resolved.get() + 1);
            prop_assert_eq!(&last["status"], &truth.facts["status"], "{:?}", life);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(ties.get() > 0 && resolved.get() > 5, "{ties:?} ties, {resolved:?} without");
    runtime.block_on(async {
        let settling = test_db.count("select count(*) from jobs where job_type = 'stripe_settle'").await;
        assert!(settling > 0, "nobody asks Stripe about ties");
        drop(test_db);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn states_of_one_second_are_settled_by_asking_stripe() {
    for seed in 0..3 {
        let app = an_hour_ago().await;
        let stripe = &app.stack.sandbox.stripe;
        let (customer, subscription) = subscribed(&app, &OLGA).await;
        // Everything from here on happens within one second.
        stripe.create_price("price_big", 90_000);
        app.db.run("insert into plan_prices values ('price_big', 'enterprise')").await;
        for price in ["price_big", PRICE, "price_big", PRICE] {
            stripe.change_price(&subscription, price).unwrap();
        }
        let draft = stripe.create_draft_invoice(&customer, 700).unwrap().id;
        stripe.finalize(&draft).unwrap();
        stripe.void(&draft).unwrap();
        let deleted = stripe.create_draft_invoice(&customer, 900).unwrap().id;
        stripe.delete_draft(&deleted).unwrap();
        delivered(&app, badly(seed)).await;
        a_minute_passes(&app).await;
        let is = value(
            &app.db,
            "select jsonb_build_object('price', (select stripe_price_id from subscriptions),
            'plan', (select plan from organizations where slug = 'atelier-nord'),
            'settled', (select count(*) from jobs where job_type = 'stripe_settle' and status = 'succeeded'),
            'fetched', (select count(*) from webhook_events where event_type = 'fetched'))",
        )
        .await;
        assert_eq!((&is["price"], &is["plan"]), (&json!(PRICE), &json!("studio")), "{is}\n{}", app.logs());
        assert!(is["settled"].as_i64() > Some(0) && is["fetched"].as_i64() > Some(0), "{is}");
        for (invoice, status) in [(&draft, "void"), (&deleted, "deleted")] {
            let row =
                value(&app.db, &format!("select to_jsonb(i) from invoices i where stripe_invoice_id = '{invoice}'"))
                    .await;
            assert_eq!(row["status"], status, "{row}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_rebuilds_the_tables_exactly() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    let (_, subscription) = subscribed(&app, &OLGA).await;
    let invoice = stripe.renew(&subscription, Outcome::Failed).unwrap().id;
    stripe.set_shape(Shape::Legacy);
    stripe.retry_payment(&invoice, Outcome::Paid).unwrap();
    stripe.refund(&invoice, 100).unwrap();
    delivered(&app, badly(9)).await;
    // Some of it comes from asking.
    app.db.run("alter table stripe_objects disable trigger stripe_objects_touch; update stripe_objects set compared_at = now() - interval '2 days'; alter table stripe_objects enable trigger stripe_objects_touch").await;
    a_minute_passes(&app).await;
    // What was kept without effect stays without, and what could not be applied holds nothing up.
    app.db
        .run(&format!(
            "insert into webhook_events (provider, event_id, org_id, raw, status, error, event_type)
             select 'stripe', event_id || x.status, '{NORD}', convert_to(replace(convert_from(raw, 'UTF8'), '\"active\"', '\"paused\"'), 'UTF8'), x.status, 'of the other mode', event_type
               from webhook_events, (values ('ignored'), ('failed')) x (status) where event_type like 'customer.subscription.%'"
        ))
        .await;
    let audited = app.db.count("select count(*) from audit_log where action like 'stripe.%'").await;
    let before = tables(&app.db).await;
    app.db
        .run(&format!(
            "update invoices set amount = 1, status = 'open';
             delete from subscriptions;
             insert into invoices (org_id, stripe_invoice_id, amount, currency, status) values ('{NORD}', 'in_forged', 1, 'SEK', 'paid');
             update organizations set plan = 'enterprise' where id = '{NORD}'"
        ))
        .await;
    assert_ne!(tables(&app.db).await, before);
    let count = stripe_webhook::rebuild(&database(&app.db), NORD, START).await.unwrap();
    assert!(count > 8, "{count}");
    let after = tables(&app.db).await;
    for part in ["invoices", "subscriptions", "objects", "plans"] {
        assert_eq!(after[part], before[part], "{part}");
    }
    assert_eq!(app.db.count("select count(*) from audit_log where action like 'stripe.%'").await, audited);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_at_any_step_of_a_delivery_leaves_all_of_it_or_none() {
    let app = TestApp::start().await;
    let (_, subscription) = subscribed(&app, &OLGA).await;
    let stripe = &app.stack.sandbox.stripe;
    let whole = "select count(*) from webhook_events e where e.status = 'applied' and e.event_type like 'invoice%'
                   and exists (select from stripe_objects o where o.stripe_id = e.object_id)
                   and exists (select from invoices i where i.stripe_invoice_id = e.object_id)";
    let told = "select count(*) from webhook_events e where e.status = 'applied' and e.event_type like 'invoice.%'
                   and not exists (select from audit_log a where a.action = 'stripe.' || e.event_type and a.record_id = e.object_id)
                   and exists (select from stripe_objects o where o.told_by = e.id)";
    // Begin, record, commit: cut before each, and after.
    for step in 0..3 {
        for moment in [Moment::Asked, Moment::Answered] {
            let seen = Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let count = Arc::clone(&seen);
            let tap: Tap = Arc::new(move |_, now| {
                if now == moment && count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == step {
                    return Verdict::Cut;
                }
                Verdict::Pass
            });
            stripe.renew(&subscription, Outcome::Paid).unwrap();
            app.stack.wire("postgres").unwrap().tap(Some(tap));
            stripe.deliver_all().await;
            app.stack.wire("postgres").unwrap().tap(None);
            assert!(seen.load(std::sync::atomic::Ordering::SeqCst) > step, "the cut was not met");
            // Stripe sends it again.
            delivered(&app, badly(1)).await;
            assert_eq!(app.db.count(told).await, 0, "cut at {step}, {moment:?}: an effect without its entry");
        }
    }
    let events = app
        .db
        .count("select count(*) from webhook_events where event_type like 'invoice.%' and status = 'applied'")
        .await;
    assert_eq!(app.db.count(whole).await, events);
    let sent = i64::try_from(stripe.events().len()).unwrap();
    assert_eq!(app.db.count("select count(*) from webhook_events").await, sent);
    assert_eq!(app.db.count("select count(*) from invoices where status = 'paid'").await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_current_shapes_say_the_same() {
    let app = TestApp::start().await;
    let stripe = &app.stack.sandbox.stripe;
    let (_, subscription) = subscribed(&app, &OLGA).await;
    let invoice = stripe.renew(&subscription, Outcome::Paid).unwrap().id;
    for (facts, legacy) in [
        (
            stripe.invoice(&invoice).unwrap().render(Shape::Current),
            stripe.invoice(&invoice).unwrap().render(Shape::Legacy),
        ),
        (
            stripe.subscription(&subscription).unwrap().render(Shape::Current),
            stripe.subscription(&subscription).unwrap().render(Shape::Legacy),
        ),
    ] {
        let read = |object: &Value| facts::read(object, facts::Phase::Later).unwrap();
        assert_eq!(read(&facts).state, read(&legacy).state);
        assert!(read(&facts).state.unwrap().facts["status"].is_string());
    }
}
