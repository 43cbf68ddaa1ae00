//! Pages people are sent to, and meter events, as facts.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::objects::{Metadata, PriceFacts, Shape};

/// A page on which somebody subscribes.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckoutSessionFacts {
    pub id: String,
    pub created: i64,
    pub livemode: bool,
    /// `open`, `complete` or `expired`.
    pub status: &'static str,
    pub customer: Option<String>,
    pub customer_email: Option<String>,
    pub client_reference_id: Option<String>,
    pub metadata: Metadata,
    /// What the subscription will have as its metadata.
    pub subscription_metadata: Metadata,
    /// What is subscribed to, and how many of each.
    pub line_items: Vec<(PriceFacts, u64)>,
    pub success_url: Option<String>,
    pub cancel_url: Option<String>,
    pub url: String,
    pub expires_at: i64,
    pub subscription: Option<String>,
    pub invoice: Option<String>,
}

impl CheckoutSessionFacts {
    /// An open session of nobody yet, with its page at `base`.
    #[must_use]
    pub fn new(id: &str, line_items: Vec<(PriceFacts, u64)>, base: &str, created: i64) -> Self {
        Self {
            id: id.to_owned(),
            created,
            livemode: false,
            status: "open",
            customer: None,
            customer_email: None,
            client_reference_id: None,
            metadata: Metadata::new(),
            subscription_metadata: Metadata::new(),
            line_items,
            success_url: None,
            cancel_url: None,
            url: format!("{base}/c/pay/{id}"),
            expires_at: created + 24 * 3600,
            subscription: None,
            invoice: None,
        }
    }

    /// What is to be paid now: what will be used is paid later.
    #[must_use]
    pub fn amount(&self) -> i64 {
        let now = self.line_items.iter().filter(|(price, _)| price.meter.is_none());
        now.map(|(price, quantity)| price.unit_amount * i64::try_from(*quantity).unwrap_or(i64::MAX)).sum()
    }

    /// In which currency.
    #[must_use]
    pub fn currency(&self) -> &str {
        self.line_items.first().map_or("", |(price, _)| &price.currency)
    }

    /// As the API writes it.
    #[must_use]
    pub fn render(&self, shape: Shape) -> Value {
        let complete = self.status == "complete";
        let details = json!({ "email": self.customer_email, "name": null, "phone": null, "address": null });
        json!({
            "id": self.id, "object": "checkout.session", "created": self.created, "livemode": self.livemode,
            "mode": "subscription", "status": self.status, "payment_status": if complete { "paid" } else { "unpaid" },
            "amount_subtotal": self.amount(), "amount_total": self.amount(), "currency": self.currency(),
            "customer": self.customer, "customer_email": self.customer_email,
            "customer_details": if complete { details } else { Value::Null },
            "client_reference_id": self.client_reference_id, "metadata": self.metadata,
            "subscription": self.subscription, "invoice": self.invoice, "payment_intent": null, "setup_intent": null,
            "success_url": self.success_url, "cancel_url": self.cancel_url, "expires_at": self.expires_at,
            // Only an open session has a page.
            "url": (self.status == "open").then_some(&self.url),
            "ui_mode": match shape { Shape::Current => "hosted_page", Shape::Legacy => "hosted" },
        })
    }
}

/// A page on which a customer sees to their subscriptions. Not on our provider page.
#[derive(Debug, Clone, PartialEq)]
pub struct PortalSessionFacts {
    pub id: String,
    pub created: i64,
    pub customer: String,
    pub return_url: Option<String>,
    pub url: String,
}

impl PortalSessionFacts {
    /// As the API writes it.
    #[must_use]
    pub fn render(&self, _: Shape) -> Value {
        json!({
            "id": self.id, "object": "billing_portal.session", "created": self.created, "livemode": false,
            "configuration": "bpc_sandbox", "customer": self.customer, "return_url": self.return_url, "url": self.url,
        })
    }
}

/// Usage that was reported.
#[derive(Debug, Clone, PartialEq)]
pub struct MeterEvent {
    pub event_name: String,
    pub identifier: String,
    pub timestamp: i64,
    /// Of which `stripe_customer_id` and `value` are what meters read unless told otherwise.
    pub payload: BTreeMap<String, String>,
    pub created: i64,
}

impl MeterEvent {
    /// How much was used.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.payload.get("value").and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// As the API writes it.
    #[must_use]
    pub fn render(&self) -> Value {
        json!({
            "object": "billing.meter_event", "created": self.created, "event_name": self.event_name,
            "identifier": self.identifier, "livemode": false, "payload": self.payload, "timestamp": self.timestamp,
        })
    }
}
