//! All that Stripe knows: objects, and the log of events.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Months, Utc};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{
    invoices::{InvoiceFacts, InvoicePaymentFacts},
    objects::{CustomerFacts, PriceFacts, Shape, SubscriptionFacts, event, previous_attributes},
    payments::{ChargeFacts, DisputeFacts, PaymentIntentFacts, RefundFacts},
    refusal::Refusal,
    sessions::{CheckoutSessionFacts, MeterEvent, PortalSessionFacts},
};

/// What can be kept, found by id and listed.
pub(super) trait Resource: Clone {
    /// As refusals name it.
    const KIND: &'static str;
    fn id(&self) -> &str;
    fn created(&self) -> i64;
    fn render(&self, shape: Shape) -> Value;
}

macro_rules! resource {
    ($($facts:ty: $kind:literal,)*) => { $(
        impl Resource for $facts {
            const KIND: &'static str = $kind;
            fn id(&self) -> &str {
                &self.id
            }
            fn created(&self) -> i64 {
                self.created
            }
            fn render(&self, shape: Shape) -> Value {
                <$facts>::render(self, shape)
            }
        }
    )* };
}

resource! {
    ChargeFacts: "charge",
    CheckoutSessionFacts: "checkout.session",
    CustomerFacts: "customer",
    DisputeFacts: "dispute",
    InvoiceFacts: "invoice",
    InvoicePaymentFacts: "invoice_payment",
    Logged: "event",
    PaymentIntentFacts: "payment_intent",
    PortalSessionFacts: "billing_portal.session",
    PriceFacts: "price",
    RefundFacts: "refund",
    SubscriptionFacts: "subscription",
}

/// Objects of one kind, the oldest first.
pub(super) struct Table<T> {
    rows: Vec<T>,
    at: HashMap<String, usize>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), at: HashMap::new() }
    }
}

impl<T: Resource> Table<T> {
    /// Keeps it, in the place of what has its id.
    pub(super) fn put(&mut self, row: &T) {
        match self.at.get(row.id()) {
            Some(at) => self.rows[*at] = row.clone(),
            None => {
                self.at.insert(row.id().to_owned(), self.rows.len());
                self.rows.push(row.clone());
            }
        }
    }

    pub(super) fn find(&self, id: &str) -> Option<&T> {
        self.at.get(id).map(|at| &self.rows[*at])
    }

    pub(super) fn find_mut(&mut self, id: &str) -> Option<&mut T> {
        self.at.get(id).map(|at| &mut self.rows[*at])
    }

    pub(super) fn get(&self, id: &str) -> Result<T, Refusal> {
        self.find(id).cloned().ok_or_else(|| Refusal::missing(T::KIND, id))
    }

    pub(super) fn all(&self) -> &[T] {
        &self.rows
    }

    pub(super) fn all_mut(&mut self) -> &mut [T] {
        &mut self.rows
    }

    /// As lists have them. Those of one second come in the order in which they were made, reversed.
    pub(super) fn newest_first(&self) -> Vec<&T> {
        let mut rows: Vec<&T> = self.rows.iter().rev().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.created()));
        rows
    }
}

/// An event that came about.
#[derive(Debug, Clone)]
pub(super) struct Logged {
    pub(super) id: String,
    pub(super) created: i64,
    /// What is delivered, but for `pending_webhooks`. Written once, in the shape of that moment.
    pub(super) payload: Value,
    /// What a thin event does not carry; fetched from /v2/core/events.
    pub(super) full: Option<Value>,
    pub(super) delivered: bool,
    /// Stripe will not try again.
    pub(super) given_up: bool,
}

impl Logged {
    fn new(payload: Value, created: i64, full: Option<Value>) -> Self {
        let id = payload["id"].as_str().unwrap_or_default().to_owned();
        Self { id, created, payload, full, delivered: false, given_up: false }
    }

    pub(super) fn render(&self, _: Shape) -> Value {
        let mut payload = self.payload.clone();
        if payload["object"] == "event" {
            payload["pending_webhooks"] = json!(u8::from(!self.delivered));
        }
        payload
    }
}

/// What time it is at Stripe.
#[derive(Debug, Clone, Copy)]
pub(super) enum Clock {
    /// So many seconds ahead of the true time.
    Ahead(i64),
    /// It stands still.
    Set(i64),
}

impl Default for Clock {
    fn default() -> Self {
        Self::Ahead(0)
    }
}

#[derive(Default)]
pub(super) struct World {
    pub(super) clock: Clock,
    pub(super) shape: Shape,
    pub(super) customers: Table<CustomerFacts>,
    pub(super) prices: Table<PriceFacts>,
    pub(super) subscriptions: Table<SubscriptionFacts>,
    pub(super) invoices: Table<InvoiceFacts>,
    /// How many invoices were finalized.
    pub(super) numbered: u64,
    pub(super) invoice_payments: Table<InvoicePaymentFacts>,
    pub(super) payment_intents: Table<PaymentIntentFacts>,
    pub(super) charges: Table<ChargeFacts>,
    pub(super) refunds: Table<RefundFacts>,
    pub(super) disputes: Table<DisputeFacts>,
    pub(super) checkouts: Table<CheckoutSessionFacts>,
    pub(super) portals: Table<PortalSessionFacts>,
    pub(super) meter_events: Vec<MeterEvent>,
    pub(super) log: Table<Logged>,
    pub(super) changed: Arc<Notify>,
    /// Where its pages are.
    pub(super) url: String,
    /// What events of this type say instead of the truth.
    pub(super) overrides: Option<(String, Value)>,
    /// Of which request events come, if of any.
    pub(super) request: Value,
}

impl World {
    pub(super) fn now(&self) -> i64 {
        match self.clock {
            Clock::Ahead(by) => Utc::now().timestamp() + by,
            Clock::Set(at) => at,
        }
    }

    /// Appends an event about this object as it is now.
    pub(super) fn emit<T: Resource>(&mut self, kind: &str, about: &T) -> String {
        let object = about.render(self.shape);
        self.emit_value(kind, object)
    }

    /// Appends an event about an object that changed.
    pub(super) fn emit_changed<T: Resource>(&mut self, kind: &str, before: &T, after: &T) -> String {
        let (before, object) = (before.render(self.shape), after.render(self.shape));
        let previous = previous_attributes(&before, &object);
        let mut payload = self.event_of(kind, object);
        payload["data"]["previous_attributes"] = previous;
        self.append(payload)
    }

    pub(super) fn emit_value(&mut self, kind: &str, object: Value) -> String {
        let payload = self.event_of(kind, object);
        self.append(payload)
    }

    fn event_of(&self, kind: &str, mut object: Value) -> Value {
        if let Some((_, with)) = self.overrides.as_ref().filter(|(overridden, _)| overridden == kind) {
            merge(&mut object, with);
        }
        let live = object["livemode"] == true;
        let mut payload = event(&new_id("evt"), kind, self.now(), live, self.shape.api_version(), object);
        if !self.request.is_null() {
            payload["request"] = self.request.clone();
        }
        payload
    }

    pub(super) fn append(&mut self, payload: Value) -> String {
        let created = payload["created"].as_i64().unwrap_or_else(|| self.now());
        self.log_event(Logged::new(payload, created, None))
    }

    /// Appends a thin event: `data` is left to be fetched.
    pub(super) fn append_thin(&mut self, thin: Value, data: Value) -> String {
        let mut full = thin.clone();
        full["data"] = data;
        let created = self.now();
        self.log_event(Logged::new(thin, created, Some(full)))
    }

    fn log_event(&mut self, logged: Logged) -> String {
        self.log.put(&logged);
        self.changed.notify_one();
        logged.id
    }

    /// The ids of the events since there were so many.
    pub(super) fn events_since(&self, count: usize) -> Vec<String> {
        self.log.all().iter().skip(count).map(|logged| logged.id.clone()).collect()
    }
}

/// Merges a JSON object into another: what is an object in both is merged in turn, all else replaced.
pub(super) fn merge(into: &mut Value, with: &Value) {
    match (into, with) {
        (Value::Object(into), Value::Object(with)) => {
            for (name, value) in with {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (into, with) => *into = with.clone(),
    }
}

/// An id as Stripe makes them; they tell nothing of the order.
pub(super) fn new_id(prefix: &str) -> String {
    let letters = rand::rng().sample_iter(rand::distr::Alphanumeric).take(24).map(char::from);
    format!("{prefix}_{}", letters.collect::<String>())
}

/// When the period ends that begins at `start`.
pub(super) fn period_after(start: i64, interval: &str) -> i64 {
    let months = Months::new(if interval == "year" { 12 } else { 1 });
    let end = DateTime::from_timestamp(start, 0).and_then(|start| start.checked_add_months(months));
    end.map_or(start + 30 * 24 * 3600, |end| end.timestamp())
}
