//! What deliveries leave open, the schedule settles.

use integration_tests::{
    TestApp,
    people::{BRICK, NORD, OLGA, OSCAR},
};
use sandbox::{
    Calls,
    stripe::{Delivery, Outcome},
};
use serde_json::json;

use super::{a_minute_passes, an_hour_ago, badly, delivered, one, overview, plan, subscribed, tables};

/// Lets the reconciliation begin again.
async fn due(app: &TestApp) {
    app.db.run("update billing_reconciliations set started_at = started_at - interval '1 hour'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_events_and_drifted_rows_are_repaired_and_reported() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    let (_, subscription) = subscribed(&app, &OLGA).await;
    let invoice = stripe.renew(&subscription, Outcome::Failed).unwrap().id;
    let lost = Delivery { lose: Some(std::sync::Arc::new(|_| true)), ..Delivery::default() };
    delivered(&app, lost).await;
    assert_eq!(overview(&app, &OLGA).await["state"], "active");
    // From thirty days back, a day at a time, until it has caught up.
    let mut missed = 0;
    for _ in 0..35 {
        let told = a_minute_passes(&app).await;
        missed += told["compared"]["missed"].as_i64().unwrap_or(0);
    }
    assert!(missed >= 3, "{missed}\n{}", app.logs());
    let seen = overview(&app, &OLGA).await;
    assert_eq!((seen["state"].as_str(), seen["open_invoice_id"].as_str()), (Some("past_due"), Some(invoice.as_str())));
    assert!(app.db.count("select count(*) from billing_reconciliations where finished_at is not null").await >= 30);
    // Caught up, it rests.
    assert_eq!(a_minute_passes(&app).await["compared"], json!(null));

    // Stripe's object is another than the row, and no event tells of it: it is asked about once nothing was heard of it for a day.
    let truth = tables(&app.db).await;
    drift(&app).await;
    stripe.advance(60);
    due(&app).await;
    let told = a_minute_passes(&app).await;
    assert_eq!(told["stale_compared"]["drifted"], 1, "{told}");
    let seen = overview(&app, &OLGA).await;
    assert_eq!(
        (seen["state"].as_str(), seen["open_invoice_id"].as_str()),
        (Some("past_due"), Some(invoice.as_str())),
        "{seen}"
    );
    assert_eq!(tables(&app.db).await["invoices"], truth["invoices"]);
    due(&app).await;
    let told = a_minute_passes(&app).await;
    assert_eq!(
        (told["compared"]["drifted"].as_i64(), told["compared"]["missed"].as_i64()),
        (Some(0), Some(0)),
        "{told}"
    );
}

/// The subscription is not as Stripe has it, and was not heard of for days.
async fn drift(app: &TestApp) {
    app.db
        .run(
            "alter table stripe_objects disable trigger stripe_objects_touch;
             update stripe_objects set facts = facts || '{\"status\": \"active\"}', digest = 'x', compared_at = now() - interval '2 days'
              where kind = 'subscription';
             alter table stripe_objects enable trigger stripe_objects_touch;
             update subscriptions set status = 'active'",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconciliation_reads_every_page_of_what_stripe_lists() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    let (customer, _) = subscribed(&app, &OLGA).await;
    // One more than a page has of each: invoices, and events that tell of them.
    for amount in 1..=101 {
        stripe.create_draft_invoice(&customer, amount).unwrap();
    }
    let lost = Delivery { lose: Some(std::sync::Arc::new(|_| true)), ..Delivery::default() };
    delivered(&app, lost).await;
    let invoices = "select count(*) from invoices where status = 'draft'";
    assert_eq!(app.db.count(invoices).await, 0);
    // A run over the last three hours, and not one a day from a month ago on.
    let again = "delete from billing_reconciliations;
                 insert into billing_reconciliations (since, until, started_at, finished_at)
                 select at - interval '1 hour', at, at, at from (select now() - interval '3 hours' as at) t";
    app.db.run(again).await;
    let report = a_minute_passes(&app).await["compared"].clone();
    let events = "select count(*) from webhook_events where event_type = 'invoice.created' and event_id like 'evt_%'";
    assert_eq!((app.db.count(events).await, app.db.count(invoices).await), (102, 101), "{report}");
    let (listed, missed, compared) =
        (report["listed"].as_i64(), report["missed"].as_i64(), report["compared"].as_i64());
    // One subscription and its invoice are there besides.
    assert!(missed >= Some(101) && listed > missed && compared == Some(103), "{report}");
    assert_eq!(report["drifted"], 0, "{report}");

    // Every row differs from Stripe's object, and no event says so.
    app.db
        .run(
            "update stripe_objects set facts = facts || '{\"amount_due\": 7}', digest = 'x' where kind = 'invoice';
             update invoices set amount = 7 where status = 'draft'",
        )
        .await;
    app.db.run(again).await;
    let report = a_minute_passes(&app).await["compared"].clone();
    assert_eq!(
        (&report["compared"], &report["drifted"], &report["missed"]),
        (&json!(103), &json!(102), &json!(0)),
        "{report}"
    );
    let sum = "select sum(amount)::bigint from invoices where status = 'draft'";
    assert_eq!(app.db.count(sum).await, (1..=101).sum::<i64>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_goes_on_from_where_it_began() {
    let app = an_hour_ago().await;
    subscribed(&app, &OLGA).await;
    for fault in ["api-error", "garbage", "no-list", "reset", "bad-key", "rate-limit"] {
        app.stack.fault("stripe", fault, Calls::Every).unwrap();
        let told = a_minute_passes(&app).await;
        assert!(told["compared"].is_null(), "{fault}: {told}");
        app.stack.fault("stripe", "none", Calls::Every).unwrap();
    }
    assert_eq!(app.db.count("select count(*) from billing_reconciliations where finished_at is not null").await, 0);
    let since = "select count(distinct date_trunc('minute', since)) from billing_reconciliations";
    assert!(app.db.count(since).await <= 2, "each began where the first did");
    let told = a_minute_passes(&app).await;
    assert!(told["compared"].is_object(), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispute_that_names_no_customer_finds_its_organisation() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    let (_, subscription) = subscribed(&app, &OLGA).await;
    let invoice = stripe.renew(&subscription, Outcome::Paid).unwrap().id;
    stripe.dispute(&invoice).unwrap();
    // Only the dispute itself arrives.
    let only = Delivery {
        lose: Some(std::sync::Arc::new(|event| !event["type"].as_str().unwrap().starts_with("charge.dispute"))),
        ..Delivery::default()
    };
    delivered(&app, only).await;
    let unowned = app.db.count("select count(*) from webhook_events where status = 'unowned'").await;
    assert!(unowned > 0);
    app.stack.fault("stripe", "api-error", Calls::Every).unwrap();
    a_minute_passes(&app).await;
    app.stack.fault("stripe", "none", Calls::Every).unwrap();
    let told = a_minute_passes(&app).await;
    assert_eq!(
        told["events_looked_up"],
        unowned,
        "{told}
{}",
        app.logs()
    );
    assert_eq!(overview(&app, &OLGA).await["state"], "disputed");
    assert_eq!(one(&app.db, "select org_id::text from stripe_objects where kind = 'dispute'").await, NORD.to_string());
    // A charge of somebody who is no tenant stays nobody's, and is asked about once.
    stripe.trigger("charge.dispute.created", None).unwrap();
    delivered(&app, Delivery::default()).await;
    a_minute_passes(&app).await;
    assert_eq!(a_minute_passes(&app).await["events_looked_up"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thin_event_is_accepted_and_what_it_is_about_fetched() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    subscribed(&app, &OLGA).await;
    stripe.trigger("v1.billing.meter.error_report_triggered", None).unwrap();
    delivered(&app, badly(1)).await;
    assert_eq!(app.db.count("select count(*) from webhook_events where status = 'received'").await, 1);
    a_minute_passes(&app).await;
    assert_eq!(app.db.count("select count(*) from webhook_events where status = 'received'").await, 0);
    let asked: Vec<String> = stripe.requests().iter().map(|request| request.path.clone()).collect();
    assert!(asked.iter().any(|path| path.starts_with("/v2/core/events/")), "{asked:?}");
}

/// The midnight up to which days are summed: a day is, a quarter of an hour after its end.
const TODAY: &str = "date_trunc('day', now() - interval '15 minutes', 'UTC')";

/// An hour has passed at Stripe's, whose clock is ours again: its meter takes nothing from more than five minutes ahead of it, and
/// yesterday's last second is, in the first hour of a day.
fn the_hour_passes(stripe: &sandbox::stripe::Stripe) {
    stripe.set_clock(chrono::Utc::now().timestamp());
}

#[tokio::test(flavor = "multi_thread")]
async fn costs_are_told_to_the_meter_once_whatever_happens_on_the_way() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    let (customer, _) = subscribed(&app, &OLGA).await;
    let spend = async |org: uuid::Uuid, days: i32, cost: i64| {
        app.db
            .run(&format!(
                "insert into billing_events (org_id, kind, quantity, cost_micro_usd, source_table, source_id, created_at)
                 values ('{org}', 'render', 1, {cost}, 't', gen_random_uuid(), {TODAY} - interval '{days} days' + interval '12 hours')"
            ))
            .await;
    };
    for (days, cost) in [(1, 100), (1, 23), (2, 4000), (0, 777)] {
        spend(NORD, days, cost).await;
    }
    the_hour_passes(stripe);
    // Whoever has no customer is not metered.
    spend(BRICK, 1, 5).await;
    // Known for longer than these costs.
    app.db.run("update stripe_objects set created_at = now() - interval '5 days' where kind = 'customer'").await;
    spend(NORD, 9, 1_000_000).await;
    // Refused, unanswered, answered by nothing: told again under the same name.
    app.stack.fault("stripe", "lost", Calls::Next(2)).unwrap();
    a_minute_passes(&app).await;
    app.stack.fault("stripe", "api-error", Calls::Next(2)).unwrap();
    a_minute_passes(&app).await;
    a_minute_passes(&app).await;
    a_minute_passes(&app).await;
    let mut told: Vec<u64> = stripe.meter_events().iter().map(sandbox::stripe::MeterEvent::value).collect();
    told.sort_unstable();
    assert_eq!(told, [123, 4000], "{}", app.logs());
    assert!(stripe.meter_events().iter().all(|event| event.render().to_string().contains(&customer)));
    assert_eq!(app.db.count("select count(*) from meter_reports where status = 'reported'").await, 2);
    // What comes late is in a report of its own.
    spend(NORD, 1, 9).await;
    a_minute_passes(&app).await;
    assert_eq!(stripe.meter_events().iter().map(sandbox::stripe::MeterEvent::value).sum::<u64>(), 4132);
    let sums = "select sum(cost_micro_usd)::bigint from billing_events where meter_report_id is not null";
    assert_eq!(app.db.count(sums).await, 4132);
    // Tried a day ago and never answered: nobody can tell any more, so a person decides.
    spend(NORD, 2, 50).await;
    app.stack.fault("stripe", "lost", Calls::Every).unwrap();
    a_minute_passes(&app).await;
    app.stack.fault("stripe", "none", Calls::Every).unwrap();
    app.db.run("update meter_reports set first_tried_at = now() - interval '25 hours' where status = 'open'").await;
    a_minute_passes(&app).await;
    assert_eq!(
        app.db.count("select count(*) from meter_reports where status = 'uncertain' and cost_micro_usd = 50").await,
        1
    );
    assert_eq!(plan(&app, NORD).await, "studio");
}

#[tokio::test(flavor = "multi_thread")]
async fn costs_of_one_organisation_that_cannot_be_summed_keep_no_other_from_the_meter() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    for person in [&OLGA, &OSCAR] {
        subscribed(&app, person).await;
    }
    the_hour_passes(stripe);
    // Two costs of Brick & Beam's are more than any report holds.
    app.db
        .run(&format!(
            "update stripe_objects set created_at = now() - interval '5 days' where kind = 'customer';
             insert into billing_events (org_id, kind, quantity, cost_micro_usd, source_table, source_id, created_at)
             select org::uuid, 'render', 1, cost, 't', gen_random_uuid(), {TODAY} - interval '12 hours'
               from (values ('{BRICK}', {most}), ('{BRICK}', {most}), ('{NORD}', 70)) c (org, cost)",
            most = i64::MAX
        ))
        .await;
    a_minute_passes(&app).await;
    let told: Vec<u64> = stripe.meter_events().iter().map(sandbox::stripe::MeterEvent::value).collect();
    assert_eq!(told, [70], "{}", app.logs());
    let logged = app.logs();
    let named =
        |line: &str| line.contains("an organisation's costs could not be summed") && line.contains(&BRICK.to_string());
    assert!(logged.lines().any(named), "{logged}");
    crate::alarms::rings(&app, "stripe-left-to-people", 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cost_counts_for_the_meter_from_when_its_organisation_is_known_to_pay() {
    let app = an_hour_ago().await;
    let spend = async |cost: i64| {
        app.db
            .run(&format!(
                "insert into billing_events (org_id, kind, quantity, cost_micro_usd, source_table, source_id, created_at)
                 values ('{NORD}', 'render', 1, {cost}, 't', gen_random_uuid(), {TODAY} - interval '12 hours')"
            ))
            .await;
    };
    // Before there is a customer, and while the organisation is without one for a while.
    spend(5).await;
    let (customer, _) = subscribed(&app, &OLGA).await;
    the_hour_passes(&app.stack.sandbox.stripe);
    app.db.run("update stripe_objects set created_at = now() - interval '2 days' where kind = 'customer'").await;
    app.db.run(&format!("update organizations set stripe_customer_id = null where id = '{NORD}'")).await;
    spend(7).await;
    let metered = async || app.db.count("select count(*) from billing_events where metered").await;
    assert_eq!(metered().await, 1, "what was spent as the customer came is metered");
    a_minute_passes(&app).await;
    assert_eq!(app.db.count("select count(*) from meter_reports").await, 0);
    super::link(&app.db, &customer).await;
    assert_eq!(metered().await, 2);
    a_minute_passes(&app).await;
    // As before: since when the customer is known decides.
    let told: Vec<u64> =
        app.stack.sandbox.stripe.meter_events().iter().map(sandbox::stripe::MeterEvent::value).collect();
    assert_eq!(told, [12], "{}", app.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thin_event_about_what_is_owned_is_fetched_and_holds_nobody_up() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    let (_, subscription) = subscribed(&app, &OLGA).await;
    let invoice = stripe.renew(&subscription, Outcome::Failed).unwrap().id;
    let lost = Delivery { lose: Some(std::sync::Arc::new(|_| true)), ..Delivery::default() };
    delivered(&app, lost).await;
    stripe.push_event(json!({
        "id": "evt_thin", "object": "v2.core.event", "type": "v1.invoice.payment_failed", "livemode": false,
        "created": chrono::Utc::now().to_rfc3339(),
        "related_object": { "id": invoice, "type": "invoice", "url": format!("/v1/invoices/{invoice}") },
    }));
    delivered(&app, badly(1)).await;
    // Something else of theirs is claimed meanwhile: the loop ends.
    app.db
        .run(&format!("insert into jobs (org_id, job_type, unique_key) values ('{NORD}', 'stripe_claim', 'x')"))
        .await;
    let told = a_minute_passes(&app).await;
    assert_eq!(told["events_looked_up"], 1, "{told}\n{}", app.logs());
    assert_eq!(overview(&app, &OLGA).await["open_invoice_id"], json!(invoice));
    assert_eq!(app.db.count("select count(*) from webhook_events where status = 'received'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_cannot_be_fetched_hold_up_no_other_and_are_not_taken_for_gone() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    let (customer, subscription) = subscribed(&app, &OLGA).await;
    let draft = stripe.create_draft_invoice(&customer, 900).unwrap().id;
    delivered(&app, badly(1)).await;
    stripe.delete_draft(&draft).unwrap();
    let lost = Delivery { lose: Some(std::sync::Arc::new(|_| true)), ..Delivery::default() };
    delivered(&app, lost).await;
    // Three that Stripe does not know, one of which is open.
    app.db
        .run(&format!(
            "insert into stripe_objects (org_id, stripe_id, kind, facts, terminal, observed_at, rank, digest, told_by)
             select '{NORD}', id, kind, jsonb_build_object('status', status), false, now() - interval '9 days', 0, 'x', gen_random_uuid()
               from (values ('in_unknown', 'invoice', 'open'), ('sub_unknown', 'subscription', 'active'), ('in_other', 'invoice', 'uncollectible')) v (id, kind, status);
             update stripe_objects set compared_at = now() - interval '2 days', facts = case when kind = 'subscription' and stripe_id = '{subscription}' then facts || '{{\"status\": \"paused\"}}' else facts end,
                    digest = case when stripe_id = '{subscription}' then 'x' else digest end"
        ))
        .await;
    let told = a_minute_passes(&app).await;
    assert_eq!(told["stale_compared"]["drifted"], 2, "{told}\n{}", app.logs());
    let status = async |id: &str| {
        one(&app.db, &format!("select facts ->> 'status' from stripe_objects where stripe_id = '{id}'")).await
    };
    assert_eq!((status(&subscription).await.as_str(), status(&draft).await.as_str()), ("active", "deleted"));
    assert_eq!((status("in_unknown").await.as_str(), status("in_other").await.as_str()), ("open", "uncollectible"));
    assert!(told["compared"].is_object(), "{told}");
    // Asked about today, whatever came of it.
    assert_eq!(a_minute_passes(&app).await["stale_compared"]["compared"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_refused_decides_nothing() {
    let app = an_hour_ago().await;
    let stripe = &app.stack.sandbox.stripe;
    let (_, subscription) = subscribed(&app, &OLGA).await;
    let invoice = stripe.renew(&subscription, Outcome::Paid).unwrap().id;
    stripe.dispute(&invoice).unwrap();
    let only = Delivery {
        lose: Some(std::sync::Arc::new(|event| !event["type"].as_str().unwrap().starts_with("charge.dispute"))),
        ..Delivery::default()
    };
    delivered(&app, only).await;
    the_hour_passes(stripe);
    app.db
        .run(&format!(
            "update stripe_objects set created_at = now() - interval '5 days' where kind = 'customer';
             insert into billing_events (org_id, kind, quantity, cost_micro_usd, source_table, source_id, created_at)
             values ('{NORD}', 'render', 1, 5, 't', gen_random_uuid(), {TODAY} - interval '12 hours')"
        ))
        .await;
    for fault in ["bad-key", "forbidden"] {
        app.stack.fault("stripe", fault, Calls::Every).unwrap();
        a_minute_passes(&app).await;
        app.stack.fault("stripe", "none", Calls::Every).unwrap();
    }
    assert_eq!(app.db.count("select count(*) from meter_reports where status <> 'open'").await, 0);
    assert_eq!(app.db.count("select count(*) from webhook_events where looked_up_at is not null").await, 0);
    a_minute_passes(&app).await;
    assert_eq!(stripe.meter_events().len(), 1);
    assert_eq!(overview(&app, &OLGA).await["state"], "disputed");
}
