//! TikTok: accounts with their videos, comments, messages and figures, the two APIs, and the webhooks.
//!
//! One server at one address for what are two platforms with tokens of their own: A, TikTok for Developers (`/v2/`), and B, the TikTok
//! API for Business (`/open_api/v1.3/`). What they demand and answer is what their pages and public integrations say. Where they are
//! silent, the sandbox takes the stricter reading, and says so beside it.
//!
//! What people do are methods of [`TikTok`] (`acts.rs`, `messages.rs`): each changes the world and, at most, appends one event, which
//! [`TikTok::deliver_all`] posts. What goes wrong is arranged with [`TikTok::arrange`].

mod acts;
mod business;
mod comments;
mod deliver;
mod display;
mod events;
mod messages;
mod oauth;
mod params;
mod refusal;
mod rest;
mod sending;
mod world;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use serde_json::json;

pub use acts::{Connected, PostEvent};
pub use events::{body, headers, sign, signature};
pub use messages::NewMessage;
pub use oauth::Issued;
pub use rest::Call;
pub use world::Platform;

use crate::{
    Calls, Canned, Fault, Key, Recorded,
    clock::Clock,
    front::{Front, catch_up, lock},
    hooks::{Hooks, Outbox},
};
use refusal::Refusal;
use world::World;

/// TikTok, for one application.
pub struct TikTok {
    client_key: String,
    client_secret: Key,
    world: Mutex<World>,
    front: Front<Call>,
    hooks: Hooks,
}

impl std::fmt::Debug for TikTok {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TikTok").finish_non_exhaustive()
    }
}

impl TikTok {
    pub(crate) fn new(address: SocketAddr) -> Arc<Self> {
        let client_key = format!("aw{:014x}", rand::random::<u64>() >> 8);
        let client_secret = Key::generate("");
        let business_id = rand::random_range(7_000_000_000_000_000_000_i64..8_000_000_000_000_000_000).to_string();
        let app = |id: String, secret: Key| oauth::App { id, secret, redirect_uris: BTreeSet::new() };
        let world = World {
            clock: Clock::default(),
            url: format!("http://{address}"),
            display: app(client_key.clone(), client_secret.clone()),
            business: app(business_id, Key::generate("")),
            oauth_error_status: 200,
            accounts: BTreeMap::new(),
            people: BTreeMap::new(),
            videos: BTreeMap::new(),
            comments: BTreeMap::new(),
            tokens: BTreeMap::new(),
            codes: BTreeMap::new(),
            refresh: BTreeMap::new(),
            files: BTreeMap::new(),
            sent: Vec::new(),
            calls: BTreeMap::new(),
            quota: 600,
            callbacks: BTreeMap::new(),
            broken_metrics: BTreeSet::new(),
            outbox: Outbox::default(),
        };
        Arc::new(Self {
            client_key,
            client_secret,
            world: Mutex::new(world),
            front: Front::default(),
            hooks: Hooks::default(),
        })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// The application's key, which is `app_id` on platform B.
    #[must_use]
    pub fn client_key(&self) -> String {
        self.client_key.clone()
    }

    /// The application's secret, which deliveries are signed with.
    #[must_use]
    pub fn client_secret(&self) -> Key {
        self.client_secret.clone()
    }
}

/// The clock.
impl TikTok {
    /// Stops it at this moment, in unix seconds. Signatures are still dated truly.
    pub fn set_clock(&self, at: i64) {
        let mut world = self.world();
        world.clock.set_pace(0.0);
        world.clock.set(at * 1000);
        drop(world);
        catch_up(self);
    }

    /// Moves it on, whether it stands still or not: tokens age, and the windows of the rate limit slide.
    pub fn advance(&self, seconds: i64) {
        let mut world = self.world();
        let now = world.now();
        world.clock.set(now + seconds * 1000);
        drop(world);
        catch_up(self);
    }

    /// Lets it run so many times as fast as true time.
    pub fn set_pace(&self, pace: f64) {
        self.world().clock.set_pace(pace);
    }

    /// What time it is here, in unix seconds.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.world().now().div_euclid(1000)
    }
}

/// What goes wrong.
impl TikTok {
    /// The latest requests, answered or refused, in the order in which they came.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.front.requests()
    }

    /// Makes these calls go wrong.
    pub fn arrange(&self, call: Call, fault: Fault, calls: Calls) {
        self.front.arrange(call, fault, calls);
    }

    /// Answers everything with 503 or 504 for so many seconds of this clock.
    pub fn outage(&self, status: u16, seconds: i64) {
        self.front.set_outage(status, self.world().now() + seconds * 1000);
    }

    /// Nothing goes wrong any more.
    pub fn clear_faults(&self) {
        self.front.clear();
        self.world().broken_metrics.clear();
    }

    /// How many calls of this kind met a fault.
    #[must_use]
    pub fn faults_met(&self, call: Call) -> usize {
        self.front.met(call)
    }

    /// Waits until so many answers were held back.
    pub async fn held_times(&self, times: usize) {
        self.front.held_times(times).await;
    }

    /// Makes every call that asks platform B for this field fail.
    pub fn break_metric(&self, field: &str) {
        self.world().broken_metrics.insert(field.to_owned());
    }

    /// How many calls a minute each account has to each path. At first 600.
    pub fn set_quota(&self, calls: usize) {
        self.world().quota = calls;
    }
}

/// Answers that can be scripted, by name, as the APIs document each. Those that begin with `b-` are platform B's.
#[must_use]
pub fn faults() -> Vec<(&'static str, Canned)> {
    let (a, b) = (Platform::Display, Platform::Business);
    let canned = |refusal: Refusal| Canned::Answer(refusal.status(), refusal.body());
    vec![
        ("rate-limit", canned(Refusal::rate(a))),
        ("bad-token", canned(Refusal::token(a))),
        ("internal-error", canned(Refusal::internal(a))),
        ("invalid", canned(Refusal::invalid(a, "invalid"))),
        ("b-rate-limit", canned(Refusal::rate(b))),
        ("b-bad-token", canned(Refusal::token(b))),
        ("b-internal-error", canned(Refusal::internal(b))),
        ("b-invalid", canned(Refusal::invalid(b, "invalid"))),
        ("unavailable", Canned::Answer(503, json!({}))),
        ("nothing", Canned::Answer(200, json!({}))),
        ("garbage", Canned::Garbage(b"{\"data\": {\"videos\": [\xc3")),
    ]
}
