use serde_json::{Value, json};

use super::App;
use crate::stripe::{
    CURRENT, InvoiceFacts, LEGACY, LineFacts, PriceFacts, Shape, SubscriptionFacts, event, previous_attributes,
};

fn invoice() -> InvoiceFacts {
    let price = PriceFacts::new("price_1", 12_500, 5);
    let line = LineFacts {
        id: "il_1".to_owned(),
        amount: 12_500,
        description: "Rooms".to_owned(),
        price: Some(price),
        quantity: 1,
        period_start: 10,
        period_end: 20,
        subscription_item: Some("si_1".to_owned()),
        proration: false,
    };
    InvoiceFacts {
        subscription: Some("sub_1".to_owned()),
        charge: Some("ch_1".to_owned()),
        payment_intent: Some("pi_1".to_owned()),
        lines: vec![line],
        ..InvoiceFacts::new("in_1", "cus_1", 5)
    }
}

fn absent(object: &Value, names: &[&str]) {
    for name in names {
        assert!(object.get(name).is_none(), "{name} in {object}");
    }
}

#[test]
fn an_invoice_of_today_tells_its_subscription_in_its_parent() {
    let rendered = invoice().render(Shape::Current);
    assert_eq!(rendered["parent"]["subscription_details"]["subscription"], "sub_1");
    absent(&rendered, &["subscription", "paid", "charge", "payment_intent", "quote", "tax", "total_tax_amounts"]);
    let line = &rendered["lines"]["data"][0];
    assert_eq!(line["pricing"]["price_details"], json!({ "price": "price_1", "product": "prod_1" }));
    assert_eq!(line["parent"]["subscription_item_details"]["subscription_item"], "si_1");
    assert_eq!(line["parent"]["invoice_item_details"], Value::Null);
    absent(line, &["price", "plan", "type", "proration", "subscription_item"]);
}

#[test]
fn an_invoice_of_old_tells_its_subscription_itself() {
    let rendered = invoice().render(Shape::Legacy);
    assert_eq!(rendered["subscription"], "sub_1");
    assert_eq!((&rendered["charge"], &rendered["payment_intent"]), (&json!("ch_1"), &json!("pi_1")));
    assert_eq!(rendered["paid"], false);
    absent(&rendered, &["parent", "total_taxes"]);
    let line = &rendered["lines"]["data"][0];
    assert_eq!((&line["price"]["id"], &line["type"]), (&json!("price_1"), &json!("subscription")));
    absent(line, &["parent", "pricing", "taxes"]);
}

#[test]
fn the_period_of_a_subscription_moved_to_its_items() {
    let facts = SubscriptionFacts::new("sub_1", "cus_1", PriceFacts::new("price_1", 100, 5), 5);
    let (current, legacy) = (facts.render(Shape::Current), facts.render(Shape::Legacy));
    absent(&current, &["current_period_start", "current_period_end", "discount"]);
    assert_eq!(current["items"]["data"][0]["current_period_end"], json!(facts.current_period().1));
    assert_eq!(legacy["current_period_end"], json!(facts.current_period().1));
    absent(&legacy["items"]["data"][0], &["current_period_start", "current_period_end"]);
}

#[test]
fn an_invoice_holds_ten_lines_and_says_that_there_are_more() {
    let mut long = invoice();
    long.lines = vec![long.lines[0].clone(); 11];
    let rendered = long.render(Shape::Current);
    assert_eq!(rendered["lines"]["data"].as_array().unwrap().len(), 10);
    assert_eq!(rendered["lines"]["has_more"], true);
}

#[test]
fn a_subscription_holds_ten_items_and_says_that_there_are_more() {
    let mut wide = SubscriptionFacts::new("sub_1", "cus_1", PriceFacts::new("price_1", 100, 5), 5);
    for (count, more) in [(10, false), (11, true)] {
        wide.items = vec![wide.items[0].clone(); count];
        for shape in [Shape::Current, Shape::Legacy] {
            let items = &wide.render(shape)["items"];
            assert_eq!((items["data"].as_array().unwrap().len(), &items["has_more"]), (10, &json!(more)));
            assert_eq!(items["total_count"], count);
        }
    }
}

#[test]
fn versions_before_basil_are_legacy() {
    assert_eq!(Shape::of_version("2025-02-24.acacia"), Shape::Legacy);
    assert_eq!(Shape::of_version("2025-03-31.basil"), Shape::Current);
    assert_eq!((Shape::of_version(CURRENT), Shape::of_version(LEGACY)), (Shape::Current, Shape::Legacy));
}

#[test]
fn an_event_wraps_any_object() {
    let wrapped = event("evt_1", "invoice.paid", 9, true, CURRENT, json!({ "id": "in_1" }));
    assert_eq!(wrapped["data"]["object"]["id"], "in_1");
    assert_eq!((&wrapped["created"], &wrapped["livemode"]), (&json!(9), &json!(true)));
}

#[test]
fn previous_attributes_hold_changed_keys_and_whole_lists() {
    let before = json!({ "a": 1, "b": { "c": 2, "d": 3, "gone": 4 }, "e": [1, 2], "f": null });
    let after = json!({ "a": 1, "b": { "c": 2, "d": 4, "new": 5 }, "e": [1, 3], "f": 5 });
    let previous = json!({ "b": { "d": 3, "gone": 4, "new": null }, "e": [1, 2], "f": null });
    assert_eq!(previous_attributes(&before, &after), previous);
}

#[tokio::test]
async fn events_are_written_for_the_endpoint_and_answers_for_the_asker() {
    let app = App::start().await;
    app.stripe.set_shape(Shape::Legacy);
    let subscription = app.subscribe();
    let events = app.stripe.events();
    let paid = events.iter().find(|event| event["type"] == "invoice.paid").unwrap();
    assert_eq!(paid["api_version"], LEGACY);
    assert_eq!(paid["data"]["object"]["subscription"], json!(subscription));
    app.stripe.set_shape(Shape::Current);
    assert!(app.stripe.events().contains(paid), "what was written stays as it is");

    let path = format!("/v1/invoices/{}", paid["data"]["object"]["id"].as_str().unwrap());
    assert_eq!(app.get(&path).await.body["parent"]["subscription_details"]["subscription"], json!(subscription));
    let old = app.ask("GET", &path, &[("stripe-version", "2024-06-20")], "").await;
    assert_eq!(old.body["subscription"], json!(subscription));
    let charge = format!("/v1/charges/{}", old.body["charge"].as_str().unwrap());
    assert!(app.get(&charge).await.body.get("invoice").is_none());
    assert_eq!(app.ask("GET", &charge, &[("stripe-version", "2024-06-20")], "").await.body["invoice"], old.body["id"]);
}
