use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use super::{Answer, App, NOW, call};
use crate::stripe::{Metadata, Outcome, PRICE, PriceFacts, faults};

const INVALID: &str = "invalid_request_error";

#[tokio::test]
async fn only_the_key_opens_the_api() {
    let app = App::start().await;
    let key = app.stripe.key().get();
    let basic = |user: &str| format!("Basic {}", STANDARD.encode(format!("{user}:")));
    let with = async |value: String| app.ask("GET", "/v1/events", &[("authorization", &value)], "").await;
    assert_eq!(with(basic(&key)).await.status, 200);
    assert_eq!(with(format!("Bearer {key}")).await.status, 200);
    with("Bearer sk_test_wrong".to_owned()).await.error(401, INVALID, None);
    with(basic("sk_test_wrong")).await.error(401, INVALID, None);
    with(key.clone()).await.error(401, INVALID, None);
    call(app.address, "GET", "/v1/events", &[], "").await.error(401, INVALID, None);
    app.stripe.key().roll();
    with(format!("Bearer {key}")).await.error(401, INVALID, None);
}

#[tokio::test]
async fn every_answer_has_a_request_id_a_date_and_a_version() {
    let app = App::start().await;
    let answer = app.ask("GET", "/v1/nothing?a=b", &[("stripe-version", "2024-06-20")], "").await;
    answer.error(404, INVALID, None);
    assert!(answer.headers["request-id"].starts_with("req_"));
    assert!(answer.headers.contains_key("date"));
    assert_eq!(answer.headers["stripe-version"], "2024-06-20");
    let recorded = &app.stripe.requests()[0];
    assert_eq!(recorded.version.as_deref(), Some("2024-06-20"));
    assert_eq!((recorded.method.as_str(), recorded.path.as_str()), ("GET", "/v1/nothing"));
    assert_eq!(recorded.request_id, answer.headers["request-id"]);
}

#[tokio::test]
async fn a_key_that_is_repeated_is_answered_as_before() {
    let app = App::start().await;
    let post = async |key: &str, form: &str| app.ask("POST", "/v1/customers", &[("idempotency-key", key)], form).await;
    let first = post("k1", "email=a%40b.example&metadata[org]=7").await;
    let again = post("k1", "email=a%40b.example&metadata[org]=7").await;
    assert_eq!((first.status, first.body["metadata"]["org"].as_str()), (200, Some("7")));
    assert_eq!(first.body, again.body);
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(app.stripe.events().len(), 1);
    post("k1", "email=c%40b.example").await.error(400, "idempotency_error", None);
    assert_ne!(post("k2", "email=a%40b.example&metadata[org]=7").await.body["id"], first.body["id"]);
    app.stripe.advance(24 * 3600);
    assert_ne!(post("k1", "email=a%40b.example&metadata[org]=7").await.body["id"], first.body["id"]);
}

#[tokio::test]
async fn a_customer_is_changed_and_the_event_names_the_request() {
    let app = App::start().await;
    let made = app.post("/v1/customers", "email=a%40b.example&metadata[org]=7&metadata[old]=1").await;
    let path = format!("/v1/customers/{}", made.body["id"].as_str().unwrap());
    let changed = app.ask("POST", &path, &[("idempotency-key", "k1")], "name=Dora&metadata[old]=").await;
    assert_eq!((&changed.body["name"], &changed.body["metadata"]), (&json!("Dora"), &json!({ "org": "7" })));
    let event = &app.stripe.events()[1];
    assert_eq!(event["request"], json!({ "id": changed.headers["request-id"], "idempotency_key": "k1" }));
    assert_eq!(event["data"]["previous_attributes"]["name"], json!(null));
    app.subscribe();
    assert_eq!(app.stripe.events()[2]["request"]["id"], json!(null), "nobody asked for that");
    assert_eq!(app.get("/v1/customers?email=a%40b.example").await.ids().len(), 1);
}

#[tokio::test]
async fn ids_are_expanded_to_what_they_stand_for() {
    let app = App::start().await;
    let subscription = app.subscribe();
    let path = format!("/v1/subscriptions/{subscription}?expand[]=customer&expand[]=latest_invoice.payments");
    let found = app.get(&path).await;
    assert_eq!(found.body["customer"]["object"], "customer");
    assert_eq!(found.body["latest_invoice"]["payments"]["data"][0]["object"], "invoice_payment");
    let listed = app.get("/v1/invoices?expand[]=data.payments.data.payment.payment_intent.latest_charge").await;
    let payment = &listed.body["data"][0]["payments"]["data"][0]["payment"];
    assert_eq!(payment["payment_intent"]["latest_charge"]["object"], "charge");
    app.get("/v1/invoices?expand[]=data.colour").await.error(400, INVALID, None);
}

#[tokio::test]
async fn lists_are_walked_in_both_directions() {
    let app = App::start().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.extend(app.stripe.create_customer(None, Metadata::new()).events);
        app.stripe.advance(1);
    }
    made.reverse();
    let check = |answer: &Answer, ids: &[String], more: bool| {
        assert_eq!((answer.ids(), &answer.body["has_more"]), (ids.iter().map(String::as_str).collect(), &json!(more)));
        assert_eq!((&answer.body["object"], &answer.body["url"]), (&json!("list"), &json!("/v1/events")));
    };
    check(&app.get("/v1/events").await, &made, false);
    check(&app.get("/v1/events?limit=2").await, &made[..2], true);
    check(&app.get(&format!("/v1/events?limit=2&starting_after={}", made[1])).await, &made[2..4], true);
    check(&app.get(&format!("/v1/events?limit=2&starting_after={}", made[3])).await, &made[4..], false);
    check(&app.get(&format!("/v1/events?limit=2&ending_before={}", made[4])).await, &made[2..4], true);
    check(&app.get(&format!("/v1/events?limit=2&ending_before={}", made[1])).await, &made[..1], false);
    app.get("/v1/events?limit=101").await.error(400, INVALID, None);
    app.get("/v1/events?limit=0").await.error(400, INVALID, None);
    app.get("/v1/events?limit=many").await.error(400, INVALID, None);
    app.get("/v1/events?starting_after=evt_none").await.error(400, INVALID, Some("resource_missing"));
}

#[tokio::test]
async fn items_beyond_the_ten_that_are_shown_are_listed_page_by_page() {
    let app = App::start().await;
    let subscription = app.subscribe();
    let prices: Vec<String> = (0..25).map(|number| format!("price_{number}")).collect();
    for price in &prices {
        app.stripe.put_price(&PriceFacts::new(price, 100, NOW));
    }
    app.stripe.change_prices(&subscription, &prices.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let shown = app.get(&format!("/v1/subscriptions/{subscription}")).await.body["items"].clone();
    assert_eq!((shown["data"].as_array().unwrap().len(), &shown["has_more"]), (10, &json!(true)));

    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/subscription_items?subscription={subscription}{after}");
        let answer = app.get(&path).await;
        assert!(answer.ids().len() <= 10, "{}", answer.body);
        found.extend(answer.body["data"].as_array().unwrap().iter().map(|item| item["price"]["id"].clone()));
        if answer.body["has_more"] == false {
            break;
        }
        after = format!("&starting_after={}", answer.ids().last().unwrap());
    }
    assert_eq!(json!(found), json!(prices));
    assert_eq!(app.get(&format!("/v1/subscription_items?subscription={subscription}&limit=100")).await.ids().len(), 25);
    app.get("/v1/subscription_items").await.error(400, INVALID, Some("parameter_missing"));
    app.get("/v1/subscription_items?subscription=sub_none").await.error(400, INVALID, Some("resource_missing"));
}

#[tokio::test]
async fn events_are_found_by_time_and_type_for_thirty_days() {
    let app = App::start().await;
    let old = app.stripe.create_customer(None, Metadata::new());
    app.stripe.advance(10);
    let new = app.stripe.update_card(&old.id).unwrap();
    let find =
        async |query: String| app.get(&format!("/v1/events?{query}")).await.body["data"].as_array().unwrap().len();
    assert_eq!(find(format!("created[gte]={}", NOW + 10)).await, 2);
    assert_eq!(find(format!("created[gt]={NOW}&created[lte]={}", NOW + 10)).await, 2);
    assert_eq!(find(format!("created[lt]={}", NOW + 10)).await, 1);
    assert_eq!(find(format!("created={NOW}")).await, 1);
    assert_eq!(find("types[]=customer.created&types[]=customer.updated".to_owned()).await, 2);
    assert_eq!(find("types%5B0%5D=customer.created".to_owned()).await, 1);
    assert_eq!(find("type=customer.*".to_owned()).await, 2);
    let path = format!("/v1/events/{}", old.events[0]);
    assert_eq!(app.get(&path).await.body["type"], "customer.created");
    app.stripe.advance(30 * 24 * 3600 - 5);
    app.get(&path).await.error(404, INVALID, Some("resource_missing"));
    assert_eq!(find(String::new()).await, new.events.len());
}

#[tokio::test]
async fn invoices_and_subscriptions_are_found_by_who_and_what() {
    let app = App::start().await;
    let subscription = app.subscribe();
    let other = app.subscribe();
    let open = app.stripe.renew(&subscription, Outcome::Failed).unwrap().id;
    let customer = app.stripe.subscription(&subscription).unwrap().customer;
    let count = async |path: String| app.get(&path).await.ids().len();
    assert_eq!(count(format!("/v1/invoices?customer={customer}&status=paid")).await, 2);
    assert_eq!(app.get(&format!("/v1/invoices?subscription={subscription}&status=open")).await.ids(), [open.as_str()]);
    assert_eq!(count(format!("/v1/invoices?created[gte]={}", NOW + 1)).await, 0);
    app.stripe.cancel(&other, false).unwrap();
    assert_eq!(app.get("/v1/subscriptions").await.ids(), [subscription.as_str()]);
    assert_eq!(count(format!("/v1/subscriptions?status=all&customer={customer}")).await, 2);
    assert_eq!(app.get("/v1/subscriptions?status=canceled").await.ids(), [other.as_str()]);
    assert_eq!(app.get(&format!("/v1/subscriptions/{other}")).await.body["status"], "canceled");
    assert_eq!(app.get("/v1/subscriptions?status=past_due").await.ids(), [subscription.as_str()]);
}

#[tokio::test]
async fn a_deleted_draft_is_no_longer_to_be_had() {
    let app = App::start().await;
    let customer = app.stripe.create_customer(None, Metadata::new()).id;
    let draft = app.stripe.create_draft_invoice(&customer, 700).unwrap().id;
    assert_eq!(app.get(&format!("/v1/invoices/{draft}")).await.body["amount_due"], 700);
    app.stripe.delete_draft(&draft).unwrap();
    app.get(&format!("/v1/invoices/{draft}")).await.error(404, INVALID, Some("resource_missing"));
    assert!(app.get("/v1/invoices").await.ids().is_empty());
}

#[tokio::test]
async fn the_payment_of_an_invoice_leads_to_its_charge_refunds_and_disputes() {
    let app = App::start().await;
    let invoice = app.stripe.subscription(&app.subscribe()).unwrap().latest_invoice.unwrap();
    let payments = app.get(&format!("/v1/invoice_payments?invoice={invoice}")).await;
    let payment = &payments.body["data"][0];
    assert_eq!((&payment["status"], &payment["amount_paid"]), (&json!("paid"), &json!(12_500)));
    let intent = payment["payment"]["payment_intent"].as_str().unwrap();
    let found = format!("/v1/invoice_payments?payment[type]=payment_intent&payment[payment_intent]={intent}");
    assert_eq!(app.get(&found).await.ids(), payments.ids());
    let expanded = app.get(&format!("/v1/invoices/{invoice}?expand[]=payments")).await;
    assert_eq!(&expanded.body["payments"]["data"][0], payment);
    let intent = app.get(&format!("/v1/payment_intents/{intent}")).await;
    let charge = intent.body["latest_charge"].as_str().unwrap();
    let refund = app.stripe.refund(&invoice, 100).unwrap().id;
    let dispute = app.stripe.dispute(&invoice).unwrap().id;
    assert_eq!(app.get(&format!("/v1/refunds?charge={charge}")).await.ids(), [refund.as_str()]);
    assert_eq!(app.get(&format!("/v1/disputes?charge={charge}")).await.ids(), [dispute.as_str()]);
    assert_eq!(app.get(&format!("/v1/disputes/{dispute}")).await.body["charge"], charge);
    assert_eq!(app.get(&format!("/v1/refunds/{refund}")).await.body["amount"], 100);
    assert_eq!(app.get(&format!("/v1/charges/{charge}")).await.body["amount_refunded"], 100);
    let lines = app.get(&format!("/v1/invoices/{invoice}/lines")).await;
    assert_eq!(lines.body["data"][0]["pricing"]["price_details"]["price"], PRICE);
}

fn session_form(more: &str) -> String {
    format!(
        "mode=subscription&line_items%5B0%5D%5Bprice%5D={PRICE}&line_items%5B0%5D%5Bquantity%5D=1\
         &success_url=http%3A%2F%2Fstudio.example%2Fdone%3Fs%3D%7BCHECKOUT_SESSION_ID%7D{more}"
    )
}

#[tokio::test]
async fn somebody_pays_on_the_page_of_a_session() {
    let app = App::start().await;
    let customer = app.stripe.create_customer(Some("dora@studio.example"), Metadata::new()).id;
    let session = app.post("/v1/checkout/sessions", &session_form(&format!("&customer={customer}"))).await;
    let (id, url) = (session.body["id"].as_str().unwrap(), session.body["url"].as_str().unwrap());
    let path = url.strip_prefix(&format!("http://{}", app.address)).unwrap();
    let page = call(app.address, "GET", path, &[], "").await;
    assert!(page.text.contains("125.00 SEK") && page.text.contains("<form method=\"post\">"), "{}", page.text);

    let paid = call(app.address, "POST", path, &[], "").await;

    assert_eq!(
        (paid.status, paid.headers["location"].as_str()),
        (303, format!("http://studio.example/done?s={id}").as_str())
    );
    let session = app.get(&format!("/v1/checkout/sessions/{id}")).await;
    assert_eq!((&session.body["status"], &session.body["url"]), (&json!("complete"), &json!(null)));
    assert_eq!(session.body["customer"], json!(customer));
    assert_eq!(call(app.address, "POST", path, &[], "").await.status, 404);
    app.post(&format!("/v1/checkout/sessions/{id}/expire"), "").await.error(400, INVALID, None);

    let portal = app
        .post("/v1/billing_portal/sessions", &format!("customer={customer}&return_url=http%3A%2F%2Fs.example"))
        .await;
    let path = portal.body["url"].as_str().unwrap().strip_prefix(&format!("http://{}", app.address)).unwrap();
    assert!(call(app.address, "GET", path, &[], "").await.text.contains("http://s.example"));
    assert_eq!(call(app.address, "POST", path, &[], "").await.headers["location"], "http://s.example");
    let subscription = session.body["subscription"].as_str().unwrap();
    assert!(app.stripe.subscription(subscription).unwrap().cancel_at_period_end);
}

#[tokio::test]
async fn a_session_that_cannot_be_is_refused() {
    let app = App::start().await;
    let open = async |form: &str| app.post("/v1/checkout/sessions", form).await;
    open("mode=subscription").await.error(400, INVALID, Some("parameter_missing"));
    open(&session_form("&customer=cus_none")).await.error(400, INVALID, Some("resource_missing"));
    open(&session_form("").replace(PRICE, "price_none")).await.error(400, INVALID, Some("resource_missing"));
    open(&session_form("").replace("quantity%5D=1", "quantity%5D=0")).await.error(400, INVALID, None);
    open(&session_form("&line_items[2][price]=price_1")).await.error(400, INVALID, None);
    open(&session_form("&subscription_data[trial_period_days]=3")).await.error(400, INVALID, None);
    open(&session_form("&colour=red")).await.error(400, INVALID, Some("parameter_unknown"));
    open(&session_form("&expires_at=1")).await.error(400, INVALID, None);
    for url in [
        "studio.example",
        "http%3Astudio.example",
        "http%3A%2F%2Fa%00b.example",
        "http%3A%5C%5Ca.example",
        "javascript%3A1",
    ] {
        open(&session_form(&format!("&cancel_url={url}"))).await.error(400, INVALID, Some("url_invalid"));
    }
    let json = [("content-type", "application/json")];
    app.ask("POST", "/v1/checkout/sessions", &json, "{}").await.error(400, INVALID, None);

    let session = open(&session_form("")).await;
    let expired = app.post(&format!("/v1/checkout/sessions/{}/expire", session.body["id"].as_str().unwrap()), "").await;
    assert_eq!((&expired.body["status"], &expired.body["url"]), (&json!("expired"), &json!(null)));
    assert_eq!(app.stripe.events()[0]["type"], "checkout.session.expired");
}

#[tokio::test]
async fn usage_is_reported_once_a_day_under_one_identifier() {
    let app = App::start().await;
    let report = async |more: &str| {
        let form =
            format!("event_name=renders&payload[stripe_customer_id]=cus_1&payload[value]=25&identifier=m1{more}");
        app.post("/v1/billing/meter_events", &form).await
    };
    let first = report("").await;
    assert_eq!((&first.body["object"], &first.body["timestamp"]), (&json!("billing.meter_event"), &json!(NOW)));
    report("").await.error(400, INVALID, None);
    report("&identifier=m2&timestamp=1").await.error(400, INVALID, None);
    app.stripe.advance(24 * 3600);
    assert_eq!(report("").await.status, 200);
    let kept = app.stripe.meter_events();
    assert_eq!((kept.len(), kept[0].payload["value"].as_str()), (2, "25"));
}

#[tokio::test]
async fn every_fault_is_answered_as_it_is_called() {
    let app = App::start().await;
    let statuses = [
        ("rate-limit", 429),
        ("api-error", 500),
        ("bad-key", 401),
        ("missing", 404),
        ("idempotency", 409),
        ("garbage", 200),
        ("empty-list", 200),
        ("endless-list", 200),
    ];
    for (name, status) in statuses {
        let (_, canned) = faults().into_iter().find(|(known, _)| *known == name).unwrap();
        app.script.then(canned);
        let answer = app.get("/v1/events").await;
        assert_eq!(answer.status, status, "{name}");
        assert!(answer.headers.contains_key("request-id"), "{name}");
        assert_eq!(answer.body.is_null(), name == "garbage");
    }
    assert_eq!(app.get("/v1/events").await.body["data"], json!([]));
    assert_eq!(app.stripe.requests().len(), statuses.len() + 1);
}
