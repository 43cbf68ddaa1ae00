//! Organisations subscribe, pay or do not, and cancel; Stripe tells of it badly, and somebody forges.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Result;
use chrono::Utc;
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use sandbox::stripe::{self, Delivery, InvoiceStatus, Order, Outcome, PRICE, Stripe};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Ask, Soak};
use crate::cast::{BIG_PRICE, Organisation, sign_in};

/// Where an app of the organisations' is.
const APP: &str = "http://localhost:3000/billing";
/// Events of this type and sort are lost, one of so many.
const LOSSES: u64 = 10;

pub(super) async fn lane(soak: &Soak<'_>, org: &Organisation) -> Result<()> {
    let mut random = soak.random(&format!("billing {}", org.id));
    let token = sign_in(soak.ground, &org.owner)?;
    let stripe = &soak.ground.stack.sandbox.stripe;
    let mut number = 0;
    let mut subscription: Option<String> = None;
    let mut invoices: Vec<String> = Vec::new();
    while soak.goes_on() {
        soak.pause(&mut random, Duration::from_secs(3)).await;
        number += 1;
        let current = subscription.as_ref().and_then(|id| stripe.subscription(id));
        let Some(current) = current.filter(|current| !current.status.has_ended()) else {
            subscription = subscribe(soak, org, &token, number, &mut random).await;
            continue;
        };
        invoices.extend(current.latest_invoice.clone());
        if random.random_bool(0.15) {
            let (body, key) = (json!({ "return_url": APP }), format!("portal-{}-{number}", org.id));
            let route = "POST /v1/billing/portal";
            let ask = Ask { route, path: "/v1/billing/portal", token: &token, body: Some(&body), key: Some(&key) };
            if soak.insist(ask).await.is_some_and(|answer| answer.status == 201) {
                soak.ledger.accept("portal", org.id, org.id, Some(&key), org.owner.id);
            }
        }
        // What Stripe refuses to do did not happen.
        let _ = act(stripe, &current.id, &current.customer, &mut invoices, &mut random);
    }
    Ok(())
}

/// Opens a checkout and completes it, or lets it expire. The subscription.
async fn subscribe(
    soak: &Soak<'_>,
    org: &Organisation,
    token: &str,
    number: usize,
    random: &mut StdRng,
) -> Option<String> {
    let price = *[PRICE, PRICE, BIG_PRICE].choose(random).unwrap_or(&PRICE);
    let body = json!({ "price": price, "success_url": APP, "cancel_url": APP });
    let (route, key) = ("POST /v1/billing/checkout", format!("checkout-{}-{number}", org.id));
    let ask = Ask { route, path: "/v1/billing/checkout", token, body: Some(&body), key: Some(&key) };
    let answer = if random.random_bool(0.2) {
        let (one, other) = tokio::join!(soak.insist(ask), soak.insist(ask));
        one.or(other)
    } else {
        soak.insist(ask).await
    };
    let answer = answer.filter(|answer| matches!(answer.status, 200 | 201))?;
    let id: Uuid = answer.body["id"].as_str()?.parse().ok()?;
    soak.ledger.accept("checkout", org.id, id, Some(&key), org.owner.id);
    let session = soak.confirmed(async || session_of(soak, id).await).await??;
    let stripe = &soak.ground.stack.sandbox.stripe;
    if random.random_bool(0.1) {
        let _ = stripe.expire_checkout(&session);
        return None;
    }
    let subscription = stripe.complete_checkout(&session).ok()?.id;
    let customer = stripe.subscription(&subscription)?.customer;
    soak.ledger.book().customers.insert(customer, org.id);
    Some(subscription)
}

async fn session_of(soak: &Soak<'_>, checkout: Uuid) -> Result<Option<String>> {
    let found = "select session_id from public.billing_checkouts where id = $1";
    soak.ground.with(async |conn| Ok(sqlx::query_scalar(found).bind(checkout).fetch_one(conn).await?)).await
}

/// One thing that people or time do at Stripe.
fn act(
    stripe: &Stripe,
    subscription: &str,
    customer: &str,
    invoices: &mut Vec<String>,
    random: &mut StdRng,
) -> Result<(), stripe::Refusal> {
    let invoice = invoices.choose(random).cloned().unwrap_or_default();
    let outcome = *[Outcome::Paid, Outcome::Paid, Outcome::Failed, Outcome::ActionRequired]
        .choose(random)
        .unwrap_or(&Outcome::Paid);
    match random.random_range(0..14) {
        0..=2 => invoices.push(stripe.renew(subscription, outcome)?.id),
        3 | 4 => drop(stripe.retry_payment(&invoice, outcome)?),
        5 => {
            let price = if random.random_bool(0.5) { PRICE } else { BIG_PRICE };
            stripe.change_price(subscription, price)?;
        }
        6 => drop(stripe.cancel(subscription, true)?),
        7 => drop(stripe.cancel(subscription, false)?),
        8 | 9 => {
            let draft = stripe.create_draft_invoice(customer, random.random_range(100..90_000))?.id;
            match random.random_range(0..4) {
                0 => drop(stripe.delete_draft(&draft)?),
                1 => {
                    stripe.finalize(&draft)?;
                    stripe.mark_uncollectible(&draft)?;
                }
                _ => drop(stripe.finalize(&draft)?),
            }
            invoices.push(draft);
        }
        10 => {
            let open = stripe.invoice(&invoice).is_some_and(|found| found.status == InvoiceStatus::Open);
            if open && random.random_bool(0.5) {
                stripe.void(&invoice)?;
            }
        }
        11 => drop(stripe.refund(&invoice, 100)?),
        12 => {
            let dispute = stripe.dispute(&invoice)?.id;
            stripe.close_dispute(&dispute, random.random_bool(0.5))?;
        }
        _ => drop(stripe.update_card(customer)?),
    }
    Ok(())
}

/// Posts what came about: out of order, twice, some of it never; sends old events again; and forges.
pub(super) async fn deliveries(soak: &Soak<'_>) -> Result<()> {
    let mut random = soak.random("deliveries");
    let stripe = &soak.ground.stack.sandbox.stripe;
    // Somebody who is no customer of anybody's, and says to be one.
    let stranger = stripe.create_customer(Some("stranger@example.org"), BTreeMap::new()).id;
    while soak.goes_on() {
        soak.pause(&mut random, Duration::from_millis(900)).await;
        let salt = random.random::<u64>();
        let delivery = Delivery {
            order: match random.random_range(0..3) {
                0 => Order::InOrder,
                1 => Order::Reversed,
                _ => Order::Shuffled(salt),
            },
            copies: random.random_range(1..3),
            at_once: random.random_range(1..5),
            lose: Some(Arc::new(move |event: &Value| digest(event, salt).is_multiple_of(LOSSES))),
            // Signed long ago, some of them: refused, and posted again.
            signed_at: random.random_bool(0.05).then(|| Utc::now().timestamp() - 1000),
        };
        let attempts = stripe.deliver_with(delivery).await;
        {
            let mut book = soak.ledger.book();
            for attempt in attempts {
                *book.deliveries.entry(attempt.status.unwrap_or_default()).or_default() += 1;
                if attempt.succeeded() {
                    book.delivered.insert(attempt.event);
                }
            }
        }
        if random.random_bool(0.2) {
            let known: Vec<String> = soak.ledger.book().delivered.iter().cloned().collect();
            if let Some(event) = known.choose(&mut random)
                && let Some(attempt) = stripe.resend(event).await
            {
                *soak.ledger.book().deliveries.entry(attempt.status.unwrap_or_default()).or_default() += 1;
            }
        }
        if random.random_bool(0.1) {
            let _ = stripe.create_draft_invoice(&stranger, 4200);
        }
        if random.random_bool(0.15) {
            forge(soak, random.random::<u32>()).await;
        }
    }
    Ok(())
}

/// What decides whether an event is lost: the same for both of its copies.
fn digest(event: &Value, salt: u64) -> u64 {
    let id = event["id"].as_str().unwrap_or_default();
    id.bytes().fold(salt | 1, |digest, byte| digest.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)) >> 8
}

/// Posts an event that is signed with a guessed secret.
async fn forge(soak: &Soak<'_>, number: u32) {
    let body = json!({ "id": format!("evt_forged_{number}"), "object": "event", "type": "invoice.paid" }).to_string();
    let signature = stripe::sign(body.as_bytes(), &["whsec_guessed".to_owned()], Utc::now().timestamp());
    let url = format!("{}/webhooks/stripe", soak.ground.stack.url);
    let sent = soak.http.post(url).header("stripe-signature", signature).body(body).send().await;
    let Ok(response) = sent else { return };
    let status = response.status().as_u16();
    let code = response.json::<Value>().await.unwrap_or(Value::Null);
    let code = code["code"].as_str().unwrap_or("-").to_owned();
    soak.ledger.answered("POST /webhooks/stripe, forged", status, &code);
    if status < 300 {
        soak.ledger.saw("stripe.forged", format!("evt_forged_{number} was answered with {status}"));
    }
}
