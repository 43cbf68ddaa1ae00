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

/// How much of a list within an object is shown: the rest is to be listed.
pub(super) const SHOWN: usize = 10;

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
            "delinquent": false, "description": null, "invoice_prefix": "SANDBOX", "metadata": self.metadata,
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
    /// The `event_name` of the usage that is paid for with this, if that is what is paid for.
    pub meter: Option<String>,
}

impl PriceFacts {
    /// A monthly price, for each of a quantity.
    #[must_use]
    pub fn new(id: impl Into<String>, unit_amount: i64, created: i64) -> Self {
        let id = id.into();
        let product = format!("prod_{}", id.strip_prefix("price_").unwrap_or(&id));
        Self { id, created, product, unit_amount, currency: "sek".to_owned(), interval: "month", meter: None }
    }

    fn usage_type(&self) -> &'static str {
        if self.meter.is_some() { "metered" } else { "licensed" }
    }

    /// As the API writes it.
    #[must_use]
    pub fn render(&self, _: Shape) -> Value {
        let meter = self.meter.as_ref().map(|event_name| format!("mtr_{event_name}"));
        json!({
            "id": self.id, "object": "price", "active": true, "billing_scheme": "per_unit", "created": self.created,
            "currency": self.currency, "livemode": false, "lookup_key": null, "metadata": {}, "product": self.product,
            "recurring": {
                "interval": self.interval, "interval_count": 1, "usage_type": self.usage_type(), "meter": meter,
            },
            "type": "recurring", "unit_amount": self.unit_amount, "unit_amount_decimal": self.unit_amount.to_string(),
        })
    }

    /// As the plan it was before there were prices.
    #[must_use]
    pub fn render_plan(&self) -> Value {
        json!({
            "id": self.id, "object": "plan", "active": true, "amount": self.unit_amount, "created": self.created,
            "currency": self.currency, "interval": self.interval, "interval_count": 1, "livemode": false,
            "metadata": {}, "product": self.product, "usage_type": self.usage_type(),
        })
    }
}

/// How money is collected: the customer is sent an invoice, or charged.
pub(super) fn collection_method(sent: bool) -> &'static str {
    if sent { "send_invoice" } else { "charge_automatically" }
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

/// What is subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemFacts {
    pub id: String,
    pub price: PriceFacts,
    /// Of no meaning where usage is paid for.
    pub quantity: u64,
    pub current_period_start: i64,
    pub current_period_end: i64,
}

/// A subscription.
#[derive(Debug, Clone, PartialEq)]
pub struct SubscriptionFacts {
    pub id: String,
    pub created: i64,
    pub livemode: bool,
    pub customer: String,
    pub status: SubscriptionStatus,
    pub items: Vec<ItemFacts>,
    pub cancel_at: Option<i64>,
    pub cancel_at_period_end: bool,
    pub canceled_at: Option<i64>,
    pub ended_at: Option<i64>,
    pub trial_end: Option<i64>,
    pub latest_invoice: Option<String>,
    /// How long the customer has to pay an invoice that is sent to them; none if they are charged.
    pub days_until_due: Option<i64>,
    pub metadata: Metadata,
}

impl SubscriptionFacts {
    /// An active one that began when it was created, for 30 days.
    #[must_use]
    pub fn new(id: impl Into<String>, customer: impl Into<String>, price: PriceFacts, created: i64) -> Self {
        let id = id.into();
        let item = ItemFacts {
            id: format!("si_{}", id.strip_prefix("sub_").unwrap_or(&id)),
            price,
            quantity: 1,
            current_period_start: created,
            current_period_end: created + 30 * 24 * 3600,
        };
        Self {
            id,
            items: vec![item],
            created,
            livemode: false,
            customer: customer.into(),
            status: SubscriptionStatus::Active,
            cancel_at: None,
            cancel_at_period_end: false,
            canceled_at: None,
            ended_at: None,
            trial_end: None,
            latest_invoice: None,
            days_until_due: None,
            metadata: Metadata::new(),
        }
    }

    /// From when the first of its items is paid for, and until when the last.
    #[must_use]
    pub fn current_period(&self) -> (i64, i64) {
        let start = self.items.iter().map(|item| item.current_period_start).min();
        let end = self.items.iter().map(|item| item.current_period_end).max();
        (start.unwrap_or(self.created), end.unwrap_or(self.created))
    }

    /// One of its items, as the API writes it.
    #[must_use]
    pub fn render_item(&self, item: &ItemFacts, shape: Shape) -> Value {
        let mut rendered = json!({
            "id": item.id, "object": "subscription_item", "created": self.created, "discounts": [], "metadata": {},
            "plan": item.price.render_plan(), "price": item.price.render(shape), "subscription": self.id, "tax_rates": [],
        });
        if item.price.meter.is_none() {
            rendered["quantity"] = json!(item.quantity);
        }
        if shape == Shape::Current {
            rendered["current_period_start"] = json!(item.current_period_start);
            rendered["current_period_end"] = json!(item.current_period_end);
        }
        rendered
    }

    /// As the API writes it.
    #[must_use]
    pub fn render(&self, shape: Shape) -> Value {
        let shown: Vec<Value> = self.items.iter().take(SHOWN).map(|item| self.render_item(item, shape)).collect();
        let url = format!("/v1/subscription_items?subscription={}", self.id);
        let mut subscription = json!({
            "id": self.id, "object": "subscription", "created": self.created, "livemode": self.livemode,
            "customer": self.customer, "status": self.status, "currency": self.items.first().map(|item| &item.price.currency),
            "items": {
                "object": "list", "total_count": self.items.len(), "data": shown, "has_more": self.items.len() > SHOWN,
                "url": url,
            },
            "billing_cycle_anchor": self.created, "start_date": self.created, "collection_method": collection_method(self.days_until_due.is_some()),
            "cancel_at": self.cancel_at, "cancel_at_period_end": self.cancel_at_period_end,
            "canceled_at": self.canceled_at, "ended_at": self.ended_at,
            "cancellation_details": { "comment": null, "feedback": null, "reason": null },
            "days_until_due": self.days_until_due, "default_payment_method": null, "description": null, "discounts": [],
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
                let (start, end) = self.current_period();
                subscription["current_period_start"] = json!(start);
                subscription["current_period_end"] = json!(end);
                subscription["discount"] = Value::Null;
                // Only of a subscription to one thing.
                let only = if let [only] = self.items.as_slice() { Some(only) } else { None };
                subscription["plan"] = json!(only.map(|item| item.price.render_plan()));
                subscription["quantity"] = json!(only.map(|item| item.quantity));
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
    let null = Value::Null;
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    let changed = names.filter_map(|name| {
        let (old, new) = (before.get(name).unwrap_or(&null), after.get(name).unwrap_or(&null));
        (old != new).then(|| (name.clone(), previous_attributes(old, new)))
    });
    Value::Object(changed.collect())
}
