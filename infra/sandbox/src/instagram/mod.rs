//! Instagram: accounts with their media, comments, conversations and figures, the API with Instagram Login, and the webhooks.
//!
//! What it demands and answers is what the pages on the Instagram Platform, the Graph API and its webhooks say, as of version 27. Where
//! they are silent, the sandbox takes the stricter reading, and says so beside it.
//!
//! What people do are methods of [`Instagram`] (`acts.rs`, `messages.rs`): each changes the world and, at most, appends one event,
//! which [`Instagram::deliver_all`] posts. What goes wrong is arranged with [`Instagram::arrange`].

mod acts;
mod deliver;
mod events;
mod fields;
mod figures;
mod limit;
mod messages;
mod nodes;
mod oauth;
mod pages;
mod params;
mod refusal;
mod rest;
mod sending;
mod world;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use chrono::DateTime;
use serde_json::json;

pub use acts::Connected;
pub use events::{
    Flavour, MOST_ENTRIES, body, change_entry, headers, merged, messaging, messaging_entry, sign, sign_sha1,
};
pub use limit::{SHOWN_FROM_PERCENT, WINDOW_MS};
pub use messages::NewMessage;
pub use oauth::{Issued, sign_request};
pub use rest::Call;
pub use sending::Refused;
pub use world::MediaKind;

use crate::{
    Calls, Canned, Fault, Key, Recorded,
    clock::Clock,
    front::{Front, catch_up, lock},
    hooks::Hooks,
};
use world::World;

/// The version it speaks, and no other.
pub const VERSION: &str = "v27.0";

/// Instagram, for one application.
pub struct Instagram {
    client_id: String,
    app_secret: Key,
    verify_token: Key,
    world: Mutex<World>,
    front: Front<Call>,
    hooks: Hooks,
}

impl std::fmt::Debug for Instagram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instagram").finish_non_exhaustive()
    }
}

/// `2019-04-05T07:56:32+0000`, of unix milliseconds.
fn stamp(at: i64) -> String {
    DateTime::from_timestamp_millis(at).unwrap_or_default().format("%Y-%m-%dT%H:%M:%S%z").to_string()
}

impl Instagram {
    pub(crate) fn new(address: SocketAddr) -> Arc<Self> {
        let client_id = rand::random_range(1_000_000_000_000_000_u64..10_000_000_000_000_000).to_string();
        let app_secret = Key::generate("");
        let app = oauth::App {
            client_id: client_id.clone(),
            secret: app_secret.clone(),
            redirect_uris: std::collections::BTreeSet::new(),
            flat: false,
        };
        let world = World {
            clock: Clock::default(),
            app,
            flavour: Flavour::default(),
            url: format!("http://{address}/{VERSION}"),
            accounts: BTreeMap::new(),
            people: BTreeMap::new(),
            media: BTreeMap::new(),
            comments: BTreeMap::new(),
            tokens: HashMap::new(),
            codes: HashMap::new(),
            sent: Vec::new(),
            limits: limit::Limits::default(),
            outbox: crate::hooks::Outbox::default(),
            broken_metrics: BTreeMap::new(),
            empty_pages: 0,
            happenings: 0,
        };
        Arc::new(Self {
            client_id,
            app_secret,
            verify_token: Key::generate("verify-"),
            world: Mutex::new(world),
            front: Front::default(),
            hooks: Hooks::default(),
        })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// What deliveries are signed with.
    #[must_use]
    pub fn app_secret(&self) -> Key {
        self.app_secret.clone()
    }

    /// What the subscription's challenge carries.
    #[must_use]
    pub fn verify_token(&self) -> Key {
        self.verify_token.clone()
    }

    /// In which of the two shapes webhooks are written from now on, those that are due included.
    pub fn set_flavour(&self, flavour: Flavour) {
        self.world().flavour = flavour;
    }
}

/// The clock.
impl Instagram {
    /// Stops it at this moment, in unix seconds.
    pub fn set_clock(&self, at: i64) {
        let mut world = self.world();
        world.clock.set_pace(0.0);
        world.clock.set(at * 1000);
        drop(world);
        catch_up(self);
    }

    /// Moves it on, whether it stands still or not: tokens age, and the windows of the rate limits slide.
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
impl Instagram {
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

    /// Nothing goes wrong any more, metrics included.
    pub fn clear_faults(&self) {
        self.front.clear();
        let mut world = self.world();
        world.broken_metrics.clear();
        world.empty_pages = 0;
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

    /// Makes every call that names this metric fail with this code: 100 as if it were gone, 1 or 2 as if for once.
    pub fn break_metric(&self, metric: &str, code: i64) {
        self.world().broken_metrics.insert(metric.to_owned(), code);
    }

    /// How many calls an hour the whole application and each account have. At first 100,000 and 4800.
    pub fn set_quotas(&self, app: usize, account: usize) {
        let mut world = self.world();
        world.limits.app_quota = app;
        world.limits.account_quota = account;
    }

    /// How many calls a second the conversations of an account have. At first two.
    pub fn set_conversation_limit(&self, calls: usize) {
        self.world().limits.conversations = calls;
    }

    /// The next so many pages are empty and have a next one.
    pub fn empty_pages(&self, pages: usize) {
        self.world().empty_pages = pages;
    }
}

/// Answers that can be scripted, by name, as the API documents each.
#[must_use]
pub fn faults() -> Vec<(&'static str, Canned)> {
    let error = |refusal: refusal::Refusal| refusal.body();
    vec![
        ("transient", Canned::Answer(500, error(refusal::Refusal::transient(2)))),
        ("app-limit", Canned::Answer(400, error(refusal::Refusal::app_limit()))),
        ("rate-limit", Canned::Answer(400, error(refusal::Refusal::account_limit()))),
        ("conversation-limit", Canned::Answer(400, error(refusal::Refusal::custom_limit()))),
        ("bad-token", Canned::Answer(400, error(refusal::Refusal::token()))),
        ("revoked", Canned::Answer(400, error(refusal::Refusal::revoked()))),
        ("expired", Canned::Answer(400, error(refusal::Refusal::expired(0)))),
        ("missing", Canned::Answer(400, error(refusal::Refusal::missing("1")))),
        ("permission", Canned::Answer(400, error(refusal::Refusal::permission()))),
        ("unavailable", Canned::Answer(503, json!({}))),
        ("empty-list", Canned::Answer(200, json!({ "data": [] }))),
        ("no-list", Canned::Answer(200, json!({ "paging": {} }))),
        ("nothing", Canned::Answer(200, json!({}))),
        ("garbage", Canned::Garbage(b"{\"data\": [{\"id\": \xc3")),
    ]
}
