//! Where an organisation stands, of whatever subscriptions and invoices it has.

use std::{cell::Cell, collections::BTreeMap};

use integration_tests::{
    Server, TestDatabase,
    acting::Actor,
    people::{BRICK, NORD, OLGA, OSCAR},
};
use proptest::{prelude::*, test_runner::TestRunner};
use sandbox::stripe::Outcome;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use uuid::Uuid;

use super::{an_hour_ago, overview, plan, settled, subscribed};

/// Prices, the plan each stands for, and its rank. The last stands for none.
const PRICES: [(&str, Option<(&str, i32)>); 5] = [
    ("p_solo", Some(("solo", 0))),
    ("p_studio", Some(("studio", 1))),
    ("p_atelier", Some(("atelier", 1))),
    ("p_enterprise", Some(("enterprise", 2))),
    ("p_addon", None),
];
/// Those that give a plan.
const GIVE: [&str; 3] = ["trialing", "active", "past_due"];

#[derive(Debug, Clone)]
struct Subscription {
    id: String,
    status: &'static str,
    created: i64,
    prices: Vec<usize>,
    collection_paused: bool,
    cancels: bool,
}

#[derive(Debug, Clone)]
struct Invoice {
    id: String,
    status: &'static str,
    created: i64,
    currency: &'static str,
    /// The total, what of it is due, and what remains of that; Stripe may leave out either.
    amount: i64,
    due: Option<i64>,
    remaining: Option<i64>,
    attempted: bool,
    /// Until when it is to be paid, in seconds from now, if it is sent.
    due_at: Option<i64>,
    /// Whose it is, by place.
    subscription: Option<usize>,
    /// What was told of attempts, and when: whether the payer must act.
    attempts: Vec<(bool, i64)>,
}

/// What one organisation has.
#[derive(Debug, Clone)]
struct Books {
    subscriptions: Vec<Subscription>,
    invoices: Vec<Invoice>,
    disputes: Vec<&'static str>,
}

fn a_subscription() -> impl Strategy<Value = Subscription> {
    let status = prop_oneof![
        2 => prop::sample::select(vec!["incomplete", "incomplete_expired"]),
        5 => prop::sample::select(vec!["trialing", "active", "past_due", "canceled", "unpaid", "paused"]),
    ];
    let prices = prop::collection::vec(0..PRICES.len(), 1..3);
    (status, 0..3_i64, prices, prop::bool::weighted(0.15), prop::bool::weighted(0.2)).prop_map(
        |(status, created, prices, collection_paused, cancels)| Subscription {
            id: String::new(),
            status,
            created,
            prices,
            collection_paused,
            cancels,
        },
    )
}

fn an_invoice() -> impl Strategy<Value = Invoice> {
    let status = prop_oneof![6 => Just("open"), 1 => prop::sample::select(vec!["draft", "paid", "void", "uncollectible", "deleted"])];
    let money = (
        prop::sample::select(vec!["SEK", "SEK", "EUR"]),
        1..500_i64,
        prop::option::of(0..400_i64),
        prop::option::weighted(0.8, 0..300_i64),
    );
    let due_at = prop::option::of(prop::sample::select(vec![-86_400_i64, 0, 86_400]));
    let attempts = prop::collection::vec((any::<bool>(), 0..3_i64), 0..3);
    (status, 0..3_i64, money, any::<bool>(), due_at, prop::option::weighted(0.8, 0..2_usize), attempts).prop_map(
        |(status, created, (currency, amount, due, remaining), attempted, due_at, subscription, attempts)| Invoice {
            id: String::new(),
            status,
            created,
            currency,
            amount,
            due,
            remaining,
            attempted,
            due_at,
            subscription,
            attempts,
        },
    )
}

fn books(whose: &'static str) -> impl Strategy<Value = Books> {
    let disputes = prop_oneof![
        6 => Just(Vec::new()),
        1 => prop::collection::vec(prop::sample::select(vec!["needs_response", "warning_under_review", "won", "lost"]), 1..3),
    ];
    (prop::collection::vec(a_subscription(), 0..4), prop::collection::vec(an_invoice(), 0..5), disputes).prop_map(
        move |(mut subscriptions, mut invoices, disputes)| {
            // Ids are in no order: they tell nothing of the time.
            for (at, subscription) in subscriptions.iter_mut().enumerate() {
                subscription.id = format!("sub_{whose}{}", at * 7 % 5);
            }
            for (at, invoice) in invoices.iter_mut().enumerate() {
                invoice.id = format!("in_{whose}{}", at * 7 % 5);
                invoice.subscription = invoice.subscription.filter(|place| *place < subscriptions.len());
            }
            Books { subscriptions, invoices, disputes }
        },
    )
}

/// The plan a subscription gives, the best first.
fn gives(subscription: &Subscription) -> Option<(std::cmp::Reverse<i32>, &'static str)> {
    let plans = subscription.prices.iter().filter_map(|price| PRICES[*price].1);
    plans.map(|(plan, rank)| (std::cmp::Reverse(rank), plan)).min()
}

/// The subscription that the overview is about: one that gives the plan they have; else what comes closest to one.
fn shown(books: &Books) -> Option<&Subscription> {
    let stages = [&GIVE[..], &["unpaid", "paused"], &["incomplete"], &["canceled"], &["incomplete_expired"]];
    for stage in stages {
        let mut left: Vec<&Subscription> =
            books.subscriptions.iter().filter(|subscription| stage.contains(&subscription.status)).collect();
        if stage == GIVE
            && let Some(best) = left.iter().filter_map(|subscription| gives(subscription)).min()
        {
            left.retain(|subscription| gives(subscription) == Some(best));
        }
        // Of several, one that is paid and goes on.
        for good in [|of: &Subscription| of.status != "past_due", |of: &Subscription| !of.cancels] {
            if left.iter().any(|subscription| good(subscription)) {
                left.retain(|subscription| good(subscription));
            }
        }
        left.sort_by_key(|subscription| (subscription.created, &subscription.id));
        if let Some(newest) = left.last() {
            return Some(newest);
        }
    }
    None
}

fn remaining(invoice: &Invoice) -> i64 {
    invoice.remaining.or(invoice.due).unwrap_or(invoice.amount)
}

/// How much is wrong with an open invoice: 3 the payer must act, 2 a charge failed, 1 it was sent and is late, 0 nothing.
fn trouble(books: &Books, invoice: &Invoice, shown: Option<&Subscription>) -> u8 {
    let of = invoice.subscription.map(|place| &books.subscriptions[place]);
    // The first invoice of a subscription that never began is no debt: it lapses.
    let lapses =
        of.is_some_and(|of| of.status.starts_with("incomplete") && shown.is_none_or(|shown| shown.id != of.id));
    // Of two in one second, that they must act says more.
    let last = invoice.attempts.iter().max_by_key(|(act, at)| (*at, *act));
    match (last, invoice.due_at) {
        _ if lapses => 0,
        (Some((true, _)), _) => 3,
        (_, Some(due)) => u8::from(due <= 0),
        (_, None) if invoice.attempted => 2,
        _ => 0,
    }
}

/// What the overview should say.
fn expected(org: Uuid, books: &Books) -> Value {
    let shown = shown(books);
    let mut open: Vec<&Invoice> =
        books.invoices.iter().filter(|invoice| invoice.status == "open" && remaining(invoice) > 0).collect();
    open.sort_by_key(|invoice| (std::cmp::Reverse(trouble(books, invoice, shown)), invoice.created, &invoice.id));
    let mut amounts = BTreeMap::new();
    for invoice in &open {
        *amounts.entry(invoice.currency).or_insert(0) += remaining(invoice);
    }
    let worst = open.first().map_or(0, |invoice| trouble(books, invoice, shown));
    let disputes = books.disputes.iter().filter(|status| !["won", "lost"].contains(status)).count();
    let state = match (shown, worst) {
        _ if disputes > 0 => "disputed",
        (None, _) => "none",
        (Some(of), worst) => match (of.status, worst) {
            ("active" | "trialing", _) if of.collection_paused => "collection_paused",
            ("active" | "trialing" | "past_due" | "unpaid" | "incomplete", 3) => "action_required",
            ("active" | "trialing", 2) => "payment_failed",
            ("active" | "trialing", 1) => "past_due",
            ("active" | "trialing", _) if of.cancels => "canceling",
            (status, _) => status,
        },
    };
    json!({
        "org_id": org, "state": state, "subscription": shown.map(|of| &of.id), "status": shown.map(|of| of.status),
        "invoice": open.first().map(|invoice| &invoice.id), "amount": open.first().map(|invoice| amounts[invoice.currency]),
        "currency": open.first().map(|invoice| invoice.currency), "invoices": open.len(), "amounts": amounts,
        "disputes": disputes,
    })
}

/// Gives an organisation these books, and no others.
async fn write(conn: &mut PgConnection, org: Uuid, books: &Books) {
    let tables = ["subscriptions", "invoices", "webhook_events", "stripe_objects"];
    let gone = tables.map(|table| format!("delete from {table} where org_id = '{org}'")).join("; ");
    conn.execute(AssertSqlSafe(gone)).await.unwrap();
    let subscriptions: Vec<Value> = books
        .subscriptions
        .iter()
        .map(|of| {
            json!({
                "id": of.id, "status": of.status, "created": of.created, "paused": of.collection_paused, "cancels": of.cancels,
                "prices": of.prices.iter().map(|price| PRICES[*price].0).collect::<Vec<_>>(),
            })
        })
        .collect();
    let invoices: Vec<Value> = books
        .invoices
        .iter()
        .map(|of| {
            json!({
                "id": of.id, "status": of.status, "created": of.created, "currency": of.currency, "amount": of.amount, "due": of.due,
                "remaining": of.remaining, "attempted": of.attempted, "due_at": of.due_at,
                "subscription": of.subscription.map(|place| &books.subscriptions[place].id), "attempts": of.attempts,
            })
        })
        .collect();
    sqlx::query(
        "insert into subscriptions (org_id, stripe_subscription_id, stripe_price_id, stripe_price_ids, status, created_at, collection_paused,
                cancel_at_period_end)
         select $1, id, prices[1], prices, status, to_timestamp(created), paused, cancels
           from jsonb_to_recordset($2) as x (id text, prices text[], status text, created bigint, paused boolean, cancels boolean)",
    )
    .bind(org)
    .bind(json!(subscriptions))
    .execute(&mut *conn)
    .await
    .unwrap();
    sqlx::query(
        "insert into invoices (org_id, stripe_invoice_id, amount, amount_due, amount_remaining, currency, status, created_at, attempted, due_at,
                stripe_subscription_id)
         select $1, id, amount, due, remaining, currency, status, to_timestamp(created), attempted, now() + make_interval(secs => due_at), subscription
           from jsonb_to_recordset($2) as x (id text, amount bigint, due bigint, remaining bigint, currency text, status text, created bigint,
                attempted boolean, due_at bigint, subscription text)",
    )
    .bind(org)
    .bind(json!(invoices))
    .execute(&mut *conn)
    .await
    .unwrap();
    sqlx::query(
        "insert into webhook_events (provider, event_id, org_id, raw, status, object_id, event_type, occurred_at)
         select 'stripe', gen_random_uuid()::text, $1, '', 'applied', x.id,
                case when (a -> 0)::boolean then 'invoice.payment_action_required' else 'invoice.payment_failed' end, to_timestamp((a -> 1)::bigint)
           from jsonb_to_recordset($2) as x (id text, attempts jsonb) cross join jsonb_array_elements(x.attempts) a",
    )
    .bind(org)
    .bind(json!(invoices))
    .execute(&mut *conn)
    .await
    .unwrap();
    sqlx::query(
        "insert into stripe_objects (org_id, stripe_id, kind, facts, terminal, observed_at, rank, digest, told_by)
         select $1, gen_random_uuid()::text, 'dispute', jsonb_build_object('status', status), false, now(), 0, '', gen_random_uuid()
           from jsonb_array_elements_text($2) status",
    )
    .bind(org)
    .bind(json!(books.disputes))
    .execute(&mut *conn)
    .await
    .unwrap();
}

#[test]
fn the_overview_says_of_any_books_what_a_plain_model_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let db = runtime.block_on(TestDatabase::new(Server::Postgres18));
    let conn = runtime.block_on(async {
        let mut conn = db.admin().await;
        let plans: Vec<Value> = PRICES
            .iter()
            .filter_map(|(price, plan)| plan.map(|(plan, rank)| json!({ "price": price, "plan": plan, "rank": rank })))
            .collect();
        sqlx::query("insert into plan_prices (stripe_price_id, plan, rank) select price, plan, rank from jsonb_to_recordset($1) as x (price text, plan text, rank integer)")
            .bind(json!(plans))
            .execute(&mut conn)
            .await
            .unwrap();
        tokio::sync::Mutex::new(conn)
    });
    let states = Cell::new(BTreeMap::<String, usize>::new());
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&(books("a"), books("b")), |(nords, bricks)| {
        let seen = runtime.block_on(async {
            let mut conn = conn.lock().await;
            write(&mut conn, NORD, &nords).await;
            write(&mut conn, BRICK, &bricks).await;
            let query = "select org_id, state, stripe_subscription_id as subscription, subscription_status as status, open_invoice_id as invoice,
                                open_amount as amount, open_currency as currency, open_invoices as invoices, open_amounts as amounts,
                                open_disputes as disputes
                           from public.billing_overview";
            let mut seen = Vec::new();
            for person in [&OLGA, &OSCAR] {
                seen.push(db.ask(&Actor::person(person), query).await.unwrap());
            }
            seen
        });
        for (seen, (org, books)) in seen.iter().zip([(NORD, &nords), (BRICK, &bricks)]) {
            let expected = expected(org, books);
            let mut counted = states.take();
            *counted.entry(expected["state"].as_str().unwrap().to_owned()).or_default() += 1;
            states.set(counted);
            prop_assert_eq!(seen, &json!([expected]), "{:#?}", books);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let states = states.take();
    assert!(states.len() > 9, "most states were met: {states:?}");
}

#[test]
fn what_comes_after_a_running_subscription_does_not_hide_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let db = runtime.block_on(TestDatabase::new(Server::Postgres18));
    let stands = |subscriptions: Vec<Subscription>, invoices: Vec<Invoice>| {
        runtime.block_on(async {
            let books = Books { subscriptions, invoices, disputes: Vec::new() };
            write(&mut db.admin().await, NORD, &books).await;
            let query = "select state, stripe_subscription_id from public.billing_overview";
            db.ask(&Actor::person(&OLGA), query).await.unwrap()
        })
    };
    let of = |id: &str, status, created| Subscription {
        id: id.to_owned(),
        status,
        created,
        prices: vec![1],
        collection_paused: false,
        cancels: false,
    };
    for newer in ["incomplete", "incomplete_expired", "unpaid", "paused", "canceled", "past_due"] {
        for running in ["active", "trialing"] {
            let seen = stands(vec![of("sub_runs", running, 1), of("sub_newer", newer, 2)], Vec::new());
            let runs = json!([{ "state": running, "stripe_subscription_id": "sub_runs" }]);
            assert_eq!(seen, runs, "{newer} after {running}");
        }
    }
    // What is owed for one that never began is nothing, unless it is all there is.
    let first = Invoice {
        id: "in_1".to_owned(),
        status: "open",
        created: 2,
        currency: "SEK",
        amount: 100,
        due: Some(100),
        remaining: Some(100),
        attempted: true,
        due_at: None,
        subscription: Some(0),
        attempts: vec![(true, 2)],
    };
    let never_began = of("sub_newer", "incomplete", 2);
    let seen = stands(vec![never_began.clone(), of("sub_runs", "active", 1)], vec![first.clone()]);
    assert_eq!(seen, json!([{ "state": "active", "stripe_subscription_id": "sub_runs" }]));
    let seen = stands(vec![never_began], vec![first]);
    assert_eq!(seen, json!([{ "state": "action_required", "stripe_subscription_id": "sub_newer" }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_sent_invoices_owes_them_from_the_start_and_is_late_once_they_are_due() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    let (_, subscription) = subscribed(&app, &OLGA).await;
    let stands = async || {
        let seen = overview(&app, &OLGA).await;
        (seen["state"].as_str().unwrap().to_owned(), seen["open_invoices"].clone(), seen["open_amount"].clone())
    };
    stripe.send_invoices(&subscription, 30).unwrap();
    let first = stripe.renew(&subscription, Outcome::Paid).unwrap().id;
    settled(&app, 1).await;
    assert_eq!(stands().await, ("active".to_owned(), json!(1), json!(12_500)));
    // Another is due at once; Stripe has not said yet that it is late.
    stripe.send_invoices(&subscription, 0).unwrap();
    let second = stripe.renew(&subscription, Outcome::Paid).unwrap().id;
    settled(&app, 2).await;
    assert_eq!(stands().await, ("past_due".to_owned(), json!(2), json!(25_000)));
    assert_eq!(overview(&app, &OLGA).await["open_invoice_id"], json!(second));
    stripe.fall_due(&second).unwrap();
    settled(&app, 3).await;
    assert_eq!(stands().await, ("past_due".to_owned(), json!(2), json!(25_000)));
    assert_eq!(plan(&app, NORD).await, "studio");
    stripe.retry_payment(&second, Outcome::Paid).unwrap();
    settled(&app, 4).await;
    assert_eq!(stands().await, ("active".to_owned(), json!(1), json!(12_500)));
    stripe.retry_payment(&first, Outcome::Paid).unwrap();
    settled(&app, 5).await;
    assert_eq!(stands().await, ("active".to_owned(), json!(0), json!(null)));
}
