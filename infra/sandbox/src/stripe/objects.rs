//! Stripe's objects as facts, and how two generations of its API write them down.
//!
//! Everything here is pure, so that a test can tell a history without a server.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

/// The current API version.
pub const CURRENT: &str = "2026-07-29.dahlia";
/// An API version from before subscriptions, payments and prices moved within invoices (2025-03-31.basil).
pub const LEGACY: &str = "2024-06-20";
/// When they moved.
const BASIL: &str = "2025-03-31";

/// What is attached to an object by its owner.
pub type Metadata = BTreeMap<String, String>;

/// The generation of the API an object is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    /// Of today.
    #[default]
    Current,
    /// From before 2025-03-31.
    Legacy,
}

impl Shape {
    /// What events of this shape carry as `api_version`.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Current => CURRENT,
            Self::Legacy => LEGACY,
        }
    }

    /// The shape that a `Stripe-Version` asks for.
    #[must_use]
    pub fn of_version(version: &str) -> Self {
        if version < BASIL { Self::Legacy } else { Self::Current }
    }
}

/// A customer.
#[derive(Debug, Clone, PartialEq)]
pub struct CustomerFacts {
    pub id: String,
    pub created: i64,
    pub livemode: bool,
    pub email: Option<String>,
    pub name: Option<String>,
    pub default_payment_method: Option<String>,
    pub metadata: Metadata,
    pub deleted: bool,
}

impl CustomerFacts {
    /// A customer with nothing but an id.
    #[must_use]
    pub fn new(id: impl Into<String>, created: i64) -> Self {
        Self {
            id: id.into(),
            created,
            livemode: false,
            email: None,
            name: None,
            default_payment_method: None,
            metadata: Metadata::new(),
            deleted: false,
        }
    }

    /// As the API writes it. One that was deleted is three fields.
    #[must_use]
    pub fn render(&self, _: Shape) -> Value {
        if self.deleted {
            return json!({ "id": self.id, "object": "customer", "deleted": true });
        }
        json!({
            "id": self.id, "object": "customer", "created": self.created, "livemode": self.livemode,
            "email": self.email, "name": self.name, "phone": null, "address": null, "currency": null, "balance": 0,
            "delinquent": false, "description": null, "metadata": self.metadata,
            "invoice_settings": { "default_payment_method": self.default_payment_method, "footer": null },
        })
    }
}

/// A price, of a product of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceFacts {
    pub id: String,
    pub created: i64,
    pub product: String,
    pub unit_amount: i64,
    pub currency: String,
    /// `month` or `year`.
    pub interval: &'static str,
}

impl PriceFacts {
    /// A monthly price.
    #[must_use]
    pub fn new(id: impl Into<String>, unit_amount: i64, created: i64) -> Self {
        let id = id.into();
        let product = format!("prod_{}", id.strip_prefix("price_").unwrap_or(&id));
        Self { id, created, product, unit_amount, currency: "sek".to_owned(), interval: "month" }
    }

    /// As the API writes it.
    #[must_use]
    pub fn render(&self, _: Shape) -> Value {
        json!({
            "id": self.id, "object": "price", "active": true, "billing_scheme": "per_unit", "created": self.created,
            "currency": self.currency, "livemode": false, "lookup_key": null, "metadata": {}, "product": self.product,
            "recurring": { "interval": self.interval, "interval_count": 1, "usage_type": "licensed" },
            "type": "recurring", "unit_amount": self.unit_amount, "unit_amount_decimal": self.unit_amount.to_string(),
        })
    }

    /// As the plan it was before there were prices.
    #[must_use]
    pub fn render_plan(&self) -> Value {
        json!({
            "id": self.id, "object": "plan", "active": true, "amount": self.unit_amount, "created": self.created,
            "currency": self.currency, "interval": self.interval, "interval_count": 1, "livemode": false,
            "metadata": {}, "product": self.product,
        })
    }
}

/// Where a subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionStatus {
    Incomplete,
    IncompleteExpired,
    Trialing,
    Active,
    PastDue,
    Canceled,
    Unpaid,
    Paused,
}

impl SubscriptionStatus {
    /// Whether it is over for good.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Canceled | Self::IncompleteExpired)
    }
}

/// A subscription, of one item.
#[derive(Debug, Clone, PartialEq)]
pub struct SubscriptionFacts {
    pub id: String,
    pub created: i64,
    pub livemode: bool,
    pub customer: String,
    pub status: SubscriptionStatus,
    pub item: String,
    pub price: PriceFacts,
    pub quantity: u64,
    pub current_period_start: i64,
    pub current_period_end: i64,
    pub cancel_at: Option<i64>,
    pub cancel_at_period_end: bool,
    pub canceled_at: Option<i64>,
    pub ended_at: Option<i64>,
    pub trial_end: Option<i64>,
    pub latest_invoice: Option<String>,
    pub metadata: Metadata,
}

impl SubscriptionFacts {
    /// An active one that began when it was created, for 30 days.
    #[must_use]
    pub fn new(id: impl Into<String>, customer: impl Into<String>, price: PriceFacts, created: i64) -> Self {
        let id = id.into();
        Self {
            item: format!("si_{}", id.strip_prefix("sub_").unwrap_or(&id)),
            id,
            created,
            livemode: false,
            customer: customer.into(),
            status: SubscriptionStatus::Active,
            price,
            quantity: 1,
            current_period_start: created,
            current_period_end: created + 30 * 24 * 3600,
            cancel_at: None,
            cancel_at_period_end: false,
            canceled_at: None,
            ended_at: None,
            trial_end: None,
            latest_invoice: None,
            metadata: Metadata::new(),
        }
    }

    /// As the API writes it.
    #[must_use]
    pub fn render(&self, shape: Shape) -> Value {
        let mut item = json!({
            "id": self.item, "object": "subscription_item", "created": self.created, "discounts": [], "metadata": {},
            "plan": self.price.render_plan(), "price": self.price.render(shape), "quantity": self.quantity,
            "subscription": self.id, "tax_rates": [],
        });
        if shape == Shape::Current {
            item["current_period_start"] = json!(self.current_period_start);
            item["current_period_end"] = json!(self.current_period_end);
        }
        let url = format!("/v1/subscription_items?subscription={}", self.id);
        let mut subscription = json!({
            "id": self.id, "object": "subscription", "created": self.created, "livemode": self.livemode,
            "customer": self.customer, "status": self.status, "currency": self.price.currency,
            "items": { "object": "list", "data": [item], "has_more": false, "total_count": 1, "url": url },
            "billing_cycle_anchor": self.created, "start_date": self.created, "collection_method": "charge_automatically",
            "cancel_at": self.cancel_at, "cancel_at_period_end": self.cancel_at_period_end,
            "canceled_at": self.canceled_at, "ended_at": self.ended_at,
            "cancellation_details": { "comment": null, "feedback": null, "reason": null },
            "days_until_due": null, "default_payment_method": null, "description": null, "discounts": [],
            "latest_invoice": self.latest_invoice, "metadata": self.metadata, "pause_collection": null,
            "pending_update": null, "schedule": null, "test_clock": null,
            "trial_start": self.trial_end.map(|_| self.created), "trial_end": self.trial_end,
        });
        if self.canceled_at.is_some() {
            subscription["cancellation_details"]["reason"] = json!("cancellation_requested");
        }
        match shape {
            Shape::Current => subscription["billing_mode"] = json!({ "type": "classic" }),
            Shape::Legacy => {
                subscription["current_period_start"] = json!(self.current_period_start);
                subscription["current_period_end"] = json!(self.current_period_end);
                subscription["discount"] = Value::Null;
                subscription["plan"] = self.price.render_plan();
                subscription["quantity"] = json!(self.quantity);
            }
        }
        subscription
    }
}

/// What an event carries around its object.
///
/// `api_version` is that of the endpoint; `data.previous_attributes` is for whoever updates something to add.
#[must_use]
pub fn event(id: &str, kind: &str, created: i64, livemode: bool, api_version: &str, object: Value) -> Value {
    json!({
        "id": id, "object": "event", "api_version": api_version, "created": created, "type": kind, "livemode": livemode,
        "pending_webhooks": 1, "request": { "id": null, "idempotency_key": null }, "data": { "object": object },
    })
}

/// What changed between two renderings, with the old values: for `data.previous_attributes`.
///
/// Objects are descended into, a changed list is given whole.
#[must_use]
pub fn previous_attributes(before: &Value, after: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return before.clone() };
    let changed = after.iter().filter_map(|(name, new)| {
        let old = before.get(name).unwrap_or(&Value::Null);
        (old != new).then(|| (name.clone(), previous_attributes(old, new)))
    });
    Value::Object(changed.collect())
}
