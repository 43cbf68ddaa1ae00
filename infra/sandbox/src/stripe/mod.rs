//! Stripe: a world of customers, subscriptions and invoices, its API, and the webhooks that tell what happens in it.
//!
//! What people and time do are methods of [`Stripe`] (`acts.rs`): each changes the world and appends events, which
//! [`Stripe::deliver_all`] posts, signed, to the endpoint. The API (`rest.rs`) reads the same world.

mod acts;
mod billing;
mod deliver;
mod expand;
mod form;
mod invoices;
mod lists;
mod objects;
mod open;
mod pages;
mod payments;
mod refusal;
mod rest;
mod sessions;
mod sign;
mod trigger;
mod world;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};

use serde_json::{Value, json};
use url::Url;

pub use billing::Outcome;
pub use deliver::{Attempt, Delivery, Loses};
pub use invoices::{InvoiceFacts, InvoicePaymentFacts, InvoiceStatus, LineFacts};
pub use objects::{
    CURRENT, CustomerFacts, ItemFacts, LEGACY, Metadata, PriceFacts, Shape, SubscriptionFacts, SubscriptionStatus,
    event, previous_attributes,
};
pub use payments::{ChargeFacts, DisputeFacts, PaymentIntentFacts, RefundFacts};
pub use refusal::Refusal;
pub use rest::Recorded;
pub(crate) use rest::router;
pub use sessions::{CheckoutSessionFacts, MeterEvent, PortalSessionFacts};
pub use sign::{sign, signature};
pub use trigger::trigger_types;

pub use crate::hooks::Order;
use crate::{Canned, Key};
use world::{Clock, World};

/// The price there is from the start: 125.00 kronor a month.
pub const PRICE: &str = "price_sandbox";

/// What an act came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// What was made or changed.
    pub id: String,
    /// The events that tell of it, in order.
    pub events: Vec<String>,
}

/// Stripe, in test mode.
pub struct Stripe {
    key: Key,
    world: Mutex<World>,
    secrets: Mutex<Vec<String>>,
    endpoint: Mutex<Option<Url>>,
    on_change: AtomicBool,
    delivering: tokio::sync::Mutex<()>,
    kept: Mutex<rest::Kept>,
}

impl std::fmt::Debug for Stripe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stripe").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn new_secret() -> String {
    format!("whsec_{:032x}", rand::random::<u128>())
}

impl Stripe {
    pub(crate) fn new(key: Key, address: SocketAddr) -> Arc<Self> {
        let mut world = World { url: format!("http://{address}"), ..World::default() };
        let now = world.now();
        world.prices.put(&PriceFacts::new(PRICE, 12_500, now));
        Arc::new(Self {
            key,
            world: Mutex::new(world),
            secrets: Mutex::new(vec![new_secret()]),
            endpoint: Mutex::default(),
            on_change: AtomicBool::new(false),
            delivering: tokio::sync::Mutex::default(),
            kept: Mutex::default(),
        })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// Changes the world, and tells with which events.
    fn watch<T>(&self, act: impl FnOnce(&mut World) -> T) -> (T, Vec<String>) {
        let mut world = self.world();
        let before = world.log.all().len();
        let done = act(&mut world);
        (done, world.events_since(before))
    }

    fn act(&self, act: impl FnOnce(&mut World) -> Result<String, Refusal>) -> Result<Act, Refusal> {
        let (id, events) = self.watch(act);
        Ok(Act { id: id?, events })
    }

    /// The API key it accepts.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key.clone()
    }

    /// What deliveries are signed with, the oldest first.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        lock(&self.secrets).clone()
    }

    /// Signs with a new secret as well. The new one.
    pub fn roll_secret(&self) -> String {
        let secret = new_secret();
        lock(&self.secrets).push(secret.clone());
        secret
    }

    /// Signs with the newest secret alone.
    pub fn retire_old_secrets(&self) {
        let mut secrets = lock(&self.secrets);
        let old = secrets.len().saturating_sub(1);
        secrets.drain(..old);
    }

    /// Stops the clock at this moment, in unix seconds. Signatures are still dated truly.
    pub fn set_clock(&self, at: i64) {
        self.world().clock = Clock::Set(at);
    }

    /// Moves the clock on, whether it stands still or not. What is due in between does not happen by itself.
    pub fn advance(&self, seconds: i64) {
        let mut world = self.world();
        world.clock = match world.clock {
            Clock::Ahead(by) => Clock::Ahead(by + seconds),
            Clock::Set(at) => Clock::Set(at + seconds),
        };
    }

    /// What time it is here, in unix seconds.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.world().now()
    }

    /// The API version that events are written in from now on.
    pub fn set_shape(&self, shape: Shape) {
        self.world().shape = shape;
    }

    /// A customer, deleted or not.
    #[must_use]
    pub fn customer(&self, id: &str) -> Option<CustomerFacts> {
        self.world().customers.find(id).cloned()
    }

    /// A subscription, ended or not.
    #[must_use]
    pub fn subscription(&self, id: &str) -> Option<SubscriptionFacts> {
        self.world().subscriptions.find(id).cloned()
    }

    /// An invoice, deleted or not.
    #[must_use]
    pub fn invoice(&self, id: &str) -> Option<InvoiceFacts> {
        self.world().invoices.find(id).cloned()
    }

    /// A checkout session.
    #[must_use]
    pub fn checkout(&self, id: &str) -> Option<CheckoutSessionFacts> {
        self.world().checkouts.find(id).cloned()
    }

    /// Makes a customer so, and tells nobody.
    pub fn put_customer(&self, customer: &CustomerFacts) {
        self.world().customers.put(customer);
    }

    /// Makes a price so, and tells nobody.
    pub fn put_price(&self, price: &PriceFacts) {
        self.world().prices.put(price);
    }

    /// Makes a subscription so, and tells nobody.
    pub fn put_subscription(&self, subscription: &SubscriptionFacts) {
        self.world().subscriptions.put(subscription);
    }

    /// Makes an invoice so, and tells nobody.
    pub fn put_invoice(&self, invoice: &InvoiceFacts) {
        self.world().invoices.put(invoice);
    }

    /// Appends an event as it is given, to be delivered like any other. Its id.
    pub fn push_event(&self, event: Value) -> String {
        let mut world = self.world();
        if event["object"] == "v2.core.event" { world.append_thin(event, Value::Null) } else { world.append(event) }
    }

    /// All events, the oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let world = self.world();
        world.log.all().iter().map(|logged| logged.render(world.shape)).collect()
    }

    /// The usage that was reported.
    #[must_use]
    pub fn meter_events(&self) -> Vec<MeterEvent> {
        self.world().meter_events.clone()
    }
}

/// What its API can be told to answer, by name, as it documents each.
#[must_use]
pub fn faults() -> Vec<(&'static str, Canned)> {
    let error =
        |kind: &str, code: &str, message: &str| json!({ "error": { "type": kind, "code": code, "message": message } });
    // Not on our provider page: rate limits and server errors come without a code that would tell more.
    let plain = |kind: &str, message: &str| json!({ "error": { "type": kind, "message": message } });
    let list =
        |data: Value, more: bool| json!({ "object": "list", "data": data, "has_more": more, "url": "/v1/sandbox" });
    let retry =
        |after: &'static str, should: &'static str| vec![("retry-after", after), ("stripe-should-retry", should)];
    vec![
        (
            "rate-limit",
            Canned::Hinted(
                429,
                retry("1", "true"),
                error("invalid_request_error", "rate_limit", "Request rate limit exceeded."),
            ),
        ),
        (
            "lock-timeout",
            Canned::Answer(
                429,
                error("invalid_request_error", "lock_timeout", "This object cannot be accessed right now."),
            ),
        ),
        ("api-error", Canned::Answer(500, plain("api_error", "An unknown error occurred."))),
        ("unavailable", Canned::Answer(503, plain("api_error", "Stripe is temporarily unavailable."))),
        ("bad-key", Canned::Answer(401, plain("invalid_request_error", "Invalid API Key provided: sk_test_****"))),
        (
            "forbidden",
            Canned::Answer(
                403,
                plain("invalid_request_error", "The provided key does not have the required permissions."),
            ),
        ),
        ("missing", Canned::Answer(404, error("invalid_request_error", "resource_missing", "No such object: 'none'"))),
        ("invalid", Canned::Answer(400, plain("invalid_request_error", "Invalid integer: none"))),
        (
            "idempotency",
            Canned::Answer(
                409,
                error(
                    "idempotency_error",
                    "idempotency_key_in_use",
                    "There is another request with this key in progress.",
                ),
            ),
        ),
        ("card-declined", Canned::Answer(402, error("card_error", "card_declined", "Your card was declined."))),
        ("empty-list", Canned::Answer(200, list(json!([]), false))),
        // Nothing, and more of it: where it ends nobody can tell.
        ("endless-list", Canned::Answer(200, list(json!([]), true))),
        ("no-list", Canned::Answer(200, json!({ "object": "list" }))),
        ("nothing", Canned::Answer(200, json!({}))),
        ("garbage", Canned::Garbage(b"{\"object\": \"list\", \"data\": [{\xc3")),
    ]
}

#[cfg(test)]
mod tests;
