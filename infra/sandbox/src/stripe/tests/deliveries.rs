use std::sync::Arc;

use chrono::Utc;
use serde_json::json;

use super::{App, Endpoint};
use crate::{
    Sandbox,
    stripe::{Delivery, Metadata, Order, sign},
};

async fn both() -> (App, Endpoint) {
    let (app, endpoint) = (App::start().await, Endpoint::start().await);
    app.stripe.set_endpoint(&endpoint.url).unwrap();
    (app, endpoint)
}

fn customers(app: &App, count: usize) -> Vec<String> {
    (0..count).flat_map(|_| app.stripe.create_customer(None, Metadata::new()).events).collect()
}

#[tokio::test]
async fn what_is_delivered_is_signed_as_it_is_and_delivered_once() {
    let (app, endpoint) = both().await;
    let ids = customers(&app, 1);
    let attempts = app.stripe.deliver_all().await;
    assert_eq!(attempts.len(), 1);
    assert_eq!((attempts[0].event.as_str(), attempts[0].status), (ids[0].as_str(), Some(200)));
    let got = &endpoint.got()[0];
    assert_eq!(got.header("content-type"), "application/json; charset=utf-8");
    assert_eq!(got.header("user-agent"), "Stripe/1.0 (+https://stripe.com/docs/webhooks)");
    assert_eq!(got.event()["pending_webhooks"], 1);
    let header = got.header("stripe-signature");
    let t: i64 = header.strip_prefix("t=").unwrap().split(',').next().unwrap().parse().unwrap();
    assert!((Utc::now().timestamp() - t).abs() < 60, "it is signed when it is sent, not when it came about");
    assert_eq!(header, sign(&got.body, &app.stripe.secrets(), t));

    assert!(app.stripe.deliver_all().await.is_empty());
    assert_eq!(app.stripe.events()[0]["pending_webhooks"], 0);
}

#[tokio::test]
async fn whatever_is_no_2xx_is_tried_again_and_signed_anew() {
    let (app, endpoint) = both().await;
    let ids = customers(&app, 4);
    endpoint.answer(&[500, 302, 400, 204]);
    let statuses: Vec<_> = app.stripe.deliver_all().await.iter().map(|attempt| attempt.status).collect();
    assert_eq!(statuses, [Some(500), Some(302), Some(400), Some(204)]);

    let secret = app.stripe.roll_secret();
    app.stripe.retire_old_secrets();
    assert_eq!(app.stripe.secrets(), [secret]);
    let again = app.stripe.deliver_all().await;

    assert_eq!(again.iter().map(|attempt| &attempt.event).collect::<Vec<_>>(), [&ids[0], &ids[1], &ids[2]]);
    let got = endpoint.got();
    assert_eq!(got[0].body, got[4].body);
    assert_ne!(got[0].header("stripe-signature"), got[4].header("stripe-signature"));
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_gets_it_later() {
    let (app, endpoint) = both().await;
    customers(&app, 1);
    let url = endpoint.url.clone();
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    app.stripe.set_endpoint(&format!("http://{unused}")).unwrap();
    assert_eq!(app.stripe.deliver_all().await[0].status, None);
    app.stripe.set_endpoint(&url).unwrap();
    assert_eq!(app.stripe.deliver_all().await[0].status, Some(200));
}

#[tokio::test]
async fn a_rolled_secret_signs_beside_the_old_one() {
    let (app, endpoint) = both().await;
    app.stripe.roll_secret();
    customers(&app, 1);
    app.stripe.deliver_all().await;
    assert_eq!(endpoint.got()[0].header("stripe-signature").matches(",v1=").count(), 2);
}

#[tokio::test]
async fn events_come_more_than_once_and_in_another_order() {
    let (app, endpoint) = both().await;
    let mut ids = customers(&app, 6);
    app.stripe.deliver_with(Delivery { order: Order::Reversed, copies: 2, at_once: 2, ..Delivery::default() }).await;
    let mut got = endpoint.ids();
    assert_eq!(got.len(), 12);
    got.dedup();
    ids.reverse();
    assert_eq!(got, ids);

    let ids = customers(&app, 6);
    app.stripe.deliver_with(Delivery { order: Order::Shuffled(7), ..Delivery::default() }).await;
    let shuffled = endpoint.ids().split_off(12);
    assert_ne!(shuffled, ids);
    assert!(ids.iter().all(|id| shuffled.contains(id)));
}

#[tokio::test]
async fn what_is_lost_never_comes_but_is_listed_as_undelivered() {
    let (app, endpoint) = both().await;
    let ids = customers(&app, 2);
    let lost = ids[0].clone();
    let lose: crate::stripe::Loses = Arc::new(move |event| event["id"] == *lost);
    app.stripe.deliver_with(Delivery { lose: Some(lose), ..Delivery::default() }).await;
    assert!(app.stripe.deliver_all().await.is_empty());
    assert_eq!(endpoint.ids(), [ids[1].clone()]);
    assert_eq!(app.get("/v1/events?delivery_success=false").await.ids(), [&ids[0]]);
    assert_eq!(app.get("/v1/events?delivery_success=true").await.ids(), [&ids[1]]);

    let resent = app.stripe.resend(&ids[0]).await.unwrap();
    assert!(resent.succeeded());
    assert_eq!(endpoint.ids(), [ids[1].clone(), ids[0].clone()]);
}

#[tokio::test]
async fn a_delivery_can_claim_another_time() {
    let (app, endpoint) = both().await;
    customers(&app, 1);
    app.stripe.deliver_with(Delivery { signed_at: Some(1000), ..Delivery::default() }).await;
    let got = &endpoint.got()[0];
    assert_eq!(got.header("stripe-signature"), sign(&got.body, &app.stripe.secrets(), 1000));
}

#[tokio::test]
async fn a_thin_event_carries_no_data_and_is_fetched() {
    let (app, endpoint) = both().await;
    let made = app.stripe.trigger("v1.billing.meter.error_report_triggered", None).unwrap();
    app.stripe.deliver_all().await;
    let thin = endpoint.got()[0].event();
    assert_eq!((&thin["object"], &thin["created"]), (&json!("v2.core.event"), &json!("2023-11-14T22:13:20.000Z")));
    assert!(thin.get("data").is_none() && thin.get("api_version").is_none() && thin.get("pending_webhooks").is_none());
    let full = app.get(&format!("/v2/core/events/{}", made[0])).await;
    assert_eq!(full.body["data"]["reason"]["error_count"], 1);
    let related = app.get(thin["related_object"]["url"].as_str().unwrap()).await;
    assert_eq!(related.body["id"], thin["related_object"]["id"]);
    app.get(&format!("/v1/events/{}", made[0])).await.error(404, "invalid_request_error", Some("resource_missing"));
    assert!(app.get("/v1/events").await.ids().is_empty());
}

#[tokio::test]
async fn events_go_out_by_themselves_and_failures_again() {
    let (app, endpoint) = both().await;
    endpoint.answer(&[503]);
    let running = tokio::spawn(Arc::clone(&app.stripe).run());
    app.stripe.deliver_on_change(true);
    let ids = customers(&app, 1);
    endpoint.got_times(2).await;
    assert_eq!(endpoint.ids(), [ids[0].clone(), ids[0].clone()]);
    running.abort();
}

#[tokio::test]
async fn nothing_goes_out_after_the_sandbox_is_gone() {
    let files = std::env::temp_dir().join(format!("sandbox-{:x}", rand::random::<u128>()));
    let sandbox = Sandbox::start(files).await.unwrap();
    let endpoint = Endpoint::start().await;
    let stripe = Arc::clone(&sandbox.stripe);
    stripe.set_endpoint(&endpoint.url).unwrap();
    stripe.deliver_on_change(true);
    stripe.create_customer(None, Metadata::new());
    endpoint.got_times(1).await;
    drop(sandbox);
    while Arc::strong_count(&stripe) > 1 {
        tokio::task::yield_now().await;
    }
    stripe.create_customer(None, Metadata::new());
    tokio::task::yield_now().await;
    assert_eq!(endpoint.got().len(), 1);
}

#[tokio::test]
async fn only_this_machine_is_an_endpoint() {
    let app = App::start().await;
    for wrong in ["https://127.0.0.1/", "http://studio.example/", "nowhere"] {
        assert!(app.stripe.set_endpoint(wrong).is_err(), "{wrong}");
    }
}
