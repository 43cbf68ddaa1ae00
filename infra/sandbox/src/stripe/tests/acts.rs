use serde_json::json;

use super::{App, NOW};
use crate::stripe::{InvoiceStatus, Metadata, Outcome, PRICE, SubscriptionStatus, trigger_types};

const PAYMENT: [&str; 5] = [
    "charge.succeeded",
    "payment_intent.succeeded",
    "invoice_payment.paid",
    "invoice.paid",
    "invoice.payment_succeeded",
];

fn with<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<&'a str> {
    [before, after].concat()
}

#[tokio::test]
async fn a_payer_without_an_account_becomes_a_customer_with_a_paid_subscription() {
    let app = App::start().await;
    let form = format!(
        "mode=subscription&line_items[0][price]={PRICE}&line_items[0][quantity]=3&customer_email=dora%40studio.example\
         &client_reference_id=org-1&subscription_data[metadata][org]=1&success_url=https%3A%2F%2Fstudio.example"
    );
    let session = app.post("/v1/checkout/sessions", &form).await;
    let id = session.body["id"].as_str().unwrap();

    let done = app.stripe.complete_checkout(id).unwrap();

    let made = ["customer.created", "customer.subscription.created", "invoice.created", "invoice.finalized"];
    assert_eq!(app.types(&done.events), [made.as_slice(), &PAYMENT, &["checkout.session.completed"]].concat());
    let subscription = app.stripe.subscription(&done.id).unwrap();
    assert_eq!(subscription.status, SubscriptionStatus::Active);
    assert_eq!(subscription.metadata["org"], "1");
    assert_eq!(subscription.current_period(), (NOW, 1_702_592_000)); // until 14 December
    let invoice = app.stripe.invoice(subscription.latest_invoice.as_ref().unwrap()).unwrap();
    assert_eq!((invoice.status, invoice.amount_paid, invoice.amount_remaining()), (InvoiceStatus::Paid, 37_500, 0));
    assert_eq!(app.stripe.customer(&subscription.customer).unwrap().email.as_deref(), Some("dora@studio.example"));
    let completed = app.event(&done.events, "checkout.session.completed");
    let object = &completed["data"]["object"];
    assert_eq!((&object["payment_status"], &object["client_reference_id"]), (&json!("paid"), &json!("org-1")));
    assert_eq!(object["subscription"], json!(subscription.id));
    assert!(app.stripe.complete_checkout(id).is_err(), "a session is completed once");
}

#[tokio::test]
async fn a_renewal_that_is_paid_moves_the_period_on() {
    let app = App::start().await;
    let subscription = app.subscribe();
    let before = app.stripe.subscription(&subscription).unwrap();

    let done = app.stripe.renew(&subscription, Outcome::Paid).unwrap();

    let made = ["customer.subscription.updated", "invoice.created", "invoice.finalized"];
    assert_eq!(app.types(&done.events), with(&made, &PAYMENT));
    let after = app.stripe.subscription(&subscription).unwrap();
    assert_eq!(after.current_period().0, before.current_period().1);
    assert_eq!(after.latest_invoice, Some(done.id.clone()));
    let updated = app.event(&done.events, "customer.subscription.updated");
    let previous = &updated["data"]["previous_attributes"];
    assert_eq!(previous["items"]["data"][0]["current_period_end"], json!(before.current_period().1));
    assert_eq!(previous["status"], json!(null), "only what changed");
    let invoice = app.stripe.invoice(&done.id).unwrap();
    assert_eq!(invoice.period_end, after.current_period().0);
    assert_eq!(invoice.lines[0].period_end, after.current_period().1);
}

#[tokio::test]
async fn what_was_used_is_paid_with_the_next_invoice() {
    let app = App::start().await;
    app.stripe.create_metered_price("price_renders", 300, "renders");
    let form = format!(
        "mode=subscription&line_items[0][price]={PRICE}&line_items[0][quantity]=1&line_items[1][price]=price_renders\
         &success_url=http%3A%2F%2Fs.example"
    );
    let session = app.post("/v1/checkout/sessions", &form).await;
    assert_eq!(session.body["amount_total"], 12_500);
    let subscription = app.stripe.complete_checkout(session.body["id"].as_str().unwrap()).unwrap().id;
    let customer = app.stripe.subscription(&subscription).unwrap().customer;
    for (name, of, value) in
        [("renders", &*customer, 20), ("renders", &customer, 5), ("renders", "cus_x", 9), ("other", &customer, 9)]
    {
        let form = format!("event_name={name}&payload[stripe_customer_id]={of}&payload[value]={value}");
        assert_eq!(app.post("/v1/billing/meter_events", &form).await.status, 200);
    }

    let amounts =
        |invoice: &str| app.stripe.invoice(invoice).unwrap().lines.iter().map(|line| line.amount).collect::<Vec<_>>();
    let first = app.stripe.subscription(&subscription).unwrap().latest_invoice.unwrap();
    assert_eq!(amounts(&first), [12_500, 0]);
    let second = app.stripe.renew(&subscription, Outcome::Paid).unwrap().id;
    assert_eq!(amounts(&second), [12_500, 25 * 300]);
    let third = app.stripe.renew(&subscription, Outcome::Paid).unwrap().id;
    assert_eq!(amounts(&third), [12_500, 0]);
}

#[tokio::test]
async fn a_renewal_that_fails_leaves_the_subscription_past_due_until_it_is_paid() {
    let app = App::start().await;
    let subscription = app.subscribe();
    for (outcome, events) in [
        (Outcome::Failed, ["charge.failed", "payment_intent.payment_failed", "invoice.payment_failed"].as_slice()),
        (Outcome::ActionRequired, &["payment_intent.requires_action", "invoice.payment_action_required"]),
    ] {
        let failed = app.stripe.renew(&subscription, outcome).unwrap();
        let made = ["customer.subscription.updated", "invoice.created", "invoice.finalized"];
        let all = [made.as_slice(), events, &["customer.subscription.updated"]].concat();
        assert_eq!(app.types(&failed.events), all);
        assert_eq!(app.stripe.subscription(&subscription).unwrap().status, SubscriptionStatus::PastDue);
        assert_eq!(app.stripe.invoice(&failed.id).unwrap().status, InvoiceStatus::Open);

        let again = app.stripe.retry_payment(&failed.id, Outcome::Failed).unwrap();
        assert_eq!(app.event(&again.events, "invoice.payment_failed")["data"]["object"]["attempt_count"], 2);

        let paid = app.stripe.retry_payment(&failed.id, Outcome::Paid).unwrap();
        assert_eq!(app.types(&paid.events), with(&PAYMENT, &["customer.subscription.updated"]));
        let updated = app.event(&paid.events, "customer.subscription.updated");
        assert_eq!(updated["data"]["previous_attributes"], json!({ "status": "past_due" }));
        assert_eq!(app.stripe.subscription(&subscription).unwrap().status, SubscriptionStatus::Active);
        assert!(app.stripe.retry_payment(&failed.id, Outcome::Paid).is_err(), "it is paid once");
    }
}

#[tokio::test]
async fn an_invoice_that_is_sent_is_tried_by_nobody_and_late_once_it_is_due() {
    let app = App::start().await;
    let subscription = app.subscribe();
    app.stripe.send_invoices(&subscription, 14).unwrap();
    let sent = app.stripe.renew(&subscription, Outcome::Failed).unwrap();
    let made = ["customer.subscription.updated", "invoice.created", "invoice.finalized", "invoice.sent"];
    assert_eq!(app.types(&sent.events), made);
    let invoice = app.event(&sent.events, "invoice.sent")["data"]["object"].clone();
    assert_eq!((&invoice["collection_method"], &invoice["attempted"]), (&json!("send_invoice"), &json!(false)));
    assert_eq!((&invoice["due_date"], &invoice["status"]), (&json!(NOW + 14 * 24 * 3600), &json!("open")));
    assert!(app.stripe.fall_due(&sent.id).is_err(), "there is time");
    // The customer's own card is declined: they may try another until it is due.
    app.stripe.retry_payment(&sent.id, Outcome::Failed).unwrap();
    assert_eq!(app.stripe.subscription(&subscription).unwrap().status, SubscriptionStatus::Active);
    assert_eq!(app.stripe.invoice(&sent.id).unwrap().next_payment_attempt, None);
    app.stripe.advance(14 * 24 * 3600);
    let late = app.stripe.fall_due(&sent.id).unwrap();
    assert_eq!(app.types(&late.events), ["invoice.overdue", "customer.subscription.updated"]);
    assert_eq!(app.stripe.subscription(&subscription).unwrap().status, SubscriptionStatus::PastDue);
    app.stripe.retry_payment(&sent.id, Outcome::Paid).unwrap();
    assert_eq!(app.stripe.subscription(&subscription).unwrap().status, SubscriptionStatus::Active);
}

#[tokio::test]
async fn a_subscription_is_cancelled_with_its_period_or_at_once() {
    let app = App::start().await;
    let subscription = app.subscribe();
    let later = app.stripe.cancel(&subscription, true).unwrap();
    assert_eq!(app.types(&later.events), ["customer.subscription.updated"]);
    assert_eq!(app.stripe.subscription(&subscription).unwrap().status, SubscriptionStatus::Active);

    let ended = app.stripe.renew(&subscription, Outcome::Paid).unwrap();
    assert_eq!(app.types(&ended.events), ["customer.subscription.deleted"]);
    assert_eq!(app.event(&ended.events, "customer.subscription.deleted")["data"]["object"]["status"], "canceled");

    let other = app.subscribe();
    let ended = app.stripe.cancel(&other, false).unwrap();
    assert_eq!(app.types(&ended.events), ["customer.subscription.deleted"]);
    assert!(app.stripe.renew(&other, Outcome::Paid).is_err());
    assert!(app.stripe.cancel(&other, false).is_err());
}

#[tokio::test]
async fn an_invoice_moves_as_documented_and_no_other_way() {
    let app = App::start().await;
    let stripe = &app.stripe;
    let customer = stripe.create_customer(None, Metadata::new()).id;
    let draft = || stripe.create_draft_invoice(&customer, 5000).unwrap().id;
    let status = |id: &str| stripe.invoice(id).unwrap().status;

    let deleted = draft();
    assert!(stripe.void(&deleted).is_err() && stripe.mark_uncollectible(&deleted).is_err());
    assert!(stripe.retry_payment(&deleted, Outcome::Paid).is_err());
    assert_eq!(app.types(&stripe.delete_draft(&deleted).unwrap().events), ["invoice.deleted"]);
    assert!(stripe.finalize(&deleted).is_err());

    let void = draft();
    assert_eq!(app.types(&stripe.finalize(&void).unwrap().events), ["invoice.finalized"]);
    assert!(stripe.finalize(&void).is_err() && stripe.delete_draft(&void).is_err());
    assert_eq!(app.types(&stripe.void(&void).unwrap().events), ["invoice.voided"]);
    assert_eq!(status(&void), InvoiceStatus::Void);
    assert!(stripe.void(&void).is_err() && stripe.retry_payment(&void, Outcome::Paid).is_err());

    let lost = draft();
    stripe.finalize(&lost).unwrap();
    let marked = stripe.mark_uncollectible(&lost).unwrap();
    assert_eq!(app.types(&marked.events), ["invoice.marked_uncollectible"]);
    assert!(stripe.mark_uncollectible(&lost).is_err());
    assert_eq!(app.types(&stripe.retry_payment(&lost, Outcome::Paid).unwrap().events), PAYMENT);
    assert_eq!(status(&lost), InvoiceStatus::Paid);
    assert!(stripe.void(&lost).is_err());
}

#[tokio::test]
async fn money_is_given_back_up_to_what_was_paid() {
    let app = App::start().await;
    let invoice = app.stripe.subscription(&app.subscribe()).unwrap().latest_invoice.unwrap();
    let part = app.stripe.refund(&invoice, 2500).unwrap();
    assert_eq!(app.types(&part.events), ["refund.created", "charge.refunded"]);
    let refunded = app.event(&part.events, "charge.refunded");
    assert_eq!(refunded["data"]["object"]["refunded"], false);
    assert_eq!(refunded["data"]["previous_attributes"], json!({ "amount_refunded": 0 }));
    assert!(app.stripe.refund(&invoice, 10_001).is_err());
    let rest = app.stripe.refund(&invoice, 10_000).unwrap();
    assert_eq!(app.event(&rest.events, "charge.refunded")["data"]["object"]["refunded"], true);
    assert_eq!(app.stripe.invoice(&invoice).unwrap().status, InvoiceStatus::Paid, "an invoice stays paid");
}

#[tokio::test]
async fn a_dispute_is_opened_and_closed_once() {
    let app = App::start().await;
    let invoice = app.stripe.subscription(&app.subscribe()).unwrap().latest_invoice.unwrap();
    let opened = app.stripe.dispute(&invoice).unwrap();
    assert_eq!(app.types(&opened.events), ["charge.dispute.created", "charge.dispute.funds_withdrawn"]);
    assert!(app.stripe.dispute(&invoice).is_err());
    let closed = app.stripe.close_dispute(&opened.id, true).unwrap();
    assert_eq!(app.types(&closed.events), ["charge.dispute.closed", "charge.dispute.funds_reinstated"]);
    assert_eq!(app.event(&closed.events, "charge.dispute.closed")["data"]["object"]["status"], "won");
    assert!(app.stripe.close_dispute(&opened.id, false).is_err());
}

#[tokio::test]
async fn a_deleted_customer_has_no_subscription_left() {
    let app = App::start().await;
    let subscription = app.subscribe();
    let customer = app.stripe.subscription(&subscription).unwrap().customer;
    let carded = app.stripe.update_card(&customer).unwrap();
    assert_eq!(app.types(&carded.events), ["payment_method.attached", "customer.updated"]);

    let deleted = app.stripe.delete_customer(&customer).unwrap();

    assert_eq!(app.types(&deleted.events), ["customer.subscription.deleted", "customer.deleted"]);
    assert!(app.stripe.delete_customer(&customer).is_err());
    let answer = app.get(&format!("/v1/customers/{customer}")).await;
    assert_eq!(answer.body, json!({ "id": customer, "object": "customer", "deleted": true }));
}

#[tokio::test]
async fn a_change_of_price_tells_the_old_one() {
    let app = App::start().await;
    let subscription = app.subscribe();
    app.stripe.create_price("price_large", 49_900);
    let changed = app.stripe.change_price(&subscription, "price_large").unwrap();
    let event = app.event(&changed.events, "customer.subscription.updated");
    assert_eq!(event["data"]["object"]["items"]["data"][0]["price"]["id"], "price_large");
    assert_eq!(event["data"]["previous_attributes"]["items"]["data"][0]["price"]["id"], PRICE);
    assert!(app.stripe.change_price(&subscription, "price_none").is_err());
}

#[tokio::test]
async fn events_of_one_second_share_it_until_the_clock_moves() {
    let app = App::start().await;
    let first = app.stripe.trigger("customer.created", None).unwrap();
    app.stripe.advance(1);
    let second = app.stripe.trigger("customer.created", None).unwrap();
    assert_eq!(app.event(&first, "customer.created")["created"], NOW);
    assert_eq!(app.event(&second, "customer.created")["created"], NOW + 1);
}

#[tokio::test]
async fn every_listed_type_comes_about_alone_and_after_all_others() {
    let shared = App::start().await;
    for kind in trigger_types() {
        let fresh = App::start().await;
        for app in [&fresh, &shared] {
            let made = app.stripe.trigger(kind, None).unwrap();
            assert!(app.types(&made).iter().any(|made| made == kind), "{kind}: {:?}", app.types(&made));
        }
    }
}

#[tokio::test]
async fn a_type_that_no_act_leads_to_is_about_the_newest_of_its_kind() {
    let app = App::start().await;
    let subscription = app.subscribe();
    let invoice = app.stripe.subscription(&subscription).unwrap().latest_invoice.unwrap();
    let about = |kind: &str| {
        let made = app.stripe.trigger(kind, None).unwrap();
        assert_eq!(app.types(&made), [kind]);
        app.event(&made, kind)["data"]["object"]["id"].clone()
    };
    assert_eq!(about("customer.subscription.paused"), json!(subscription));
    assert_eq!(about("invoice.sent"), json!(invoice));
    let upcoming = about("invoice.upcoming");
    assert!(upcoming.as_str().unwrap().starts_with("upcoming_in_"), "what is yet to come is no invoice of ours");
}

#[tokio::test]
async fn unknown_types_are_made_up_and_overrides_reach_the_event() {
    let app = App::start().await;
    let made = app.stripe.trigger("customer.tax_id.created", Some(json!({ "country": "SE" }))).unwrap();
    let event = app.event(&made, "customer.tax_id.created");
    assert_eq!(
        (&event["data"]["object"]["object"], &event["data"]["object"]["country"]),
        (&json!("tax_id"), &json!("SE"))
    );

    let made = app.stripe.trigger("invoice.paid", Some(json!({ "status_transitions": { "paid_at": 7 } }))).unwrap();
    let (paid, finalized) = (app.event(&made, "invoice.paid"), app.event(&made, "invoice.finalized"));
    assert_eq!(paid["data"]["object"]["status_transitions"]["paid_at"], 7);
    assert_eq!(paid["data"]["object"]["status_transitions"]["finalized_at"], NOW, "what is not overridden stays");
    assert_eq!(finalized["data"]["object"]["status_transitions"]["paid_at"], json!(null));

    for wrong in ["", "invoice", "Invoice.paid", "invoice..paid"] {
        assert!(app.stripe.trigger(wrong, None).is_err(), "{wrong}");
    }
}
