//! Webhooks of the social platforms: what is due, in which order and bodies, and what came back.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::Value;
use tokio::{sync::Notify, task::JoinSet, time::timeout};
use url::Url;

use crate::{front::lock, post};

/// How long automatic retries wait at first, and at most.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// In which order events are posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// As they came about.
    #[default]
    InOrder,
    /// The newest first.
    Reversed,
    /// As this seed has it, the copies among each other too.
    Shuffled(u64),
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Nothing but ASCII: `\u00e4`, and `\/`.
    Escaped,
    /// As it is, in UTF-8.
    Raw,
}

/// Picks the events that are lost, by what would be posted of each: Instagram's entry, TikTok's body. They are not posted, now or
/// later.
pub type Loses = Arc<dyn Fn(&Value) -> bool + Send + Sync>;

/// How events are posted.
#[derive(Clone)]
pub struct Delivery {
    /// In which order.
    pub order: Order,
    /// How often each.
    pub copies: usize,
    /// How many bodies at the same time.
    pub at_once: usize,
    /// How many events in a body, at most 1000. TikTok always has one.
    pub batch: usize,
    /// Whether events of one account that follow each other in a body share an entry. At Instagram alone.
    pub merged: bool,
    /// Which not at all.
    pub lose: Option<Loses>,
    /// What they are signed with, if not with the application's secret.
    pub signed_with: Option<String>,
    /// When they claim to be signed, in unix seconds, if not now. At TikTok alone.
    pub signed_at: Option<i64>,
    /// How they are written, if not as the platform does it.
    pub written: Option<Written>,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            order: Order::InOrder,
            copies: 1,
            at_once: 1,
            batch: 1,
            merged: false,
            lose: None,
            signed_with: None,
            signed_at: None,
            written: None,
        }
    }
}

/// A body that is ready to be posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The exact bytes.
    pub body: Vec<u8>,
    /// What goes with them, names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The numbers of the events in it.
    pub events: Vec<usize>,
}

/// One post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The numbers of the events in it.
    pub events: Vec<usize>,
    /// What came back, if anything did.
    pub status: Option<u16>,
    /// Whether the platform counts this as delivered.
    pub succeeded: bool,
}

struct Logged<T> {
    event: T,
    settled: bool,
}

/// What came about, the oldest first.
pub(crate) struct Outbox<T>(Vec<Logged<T>>);

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Outbox<T> {
    pub(crate) fn push(&mut self, event: T) {
        self.0.push(Logged { event, settled: false });
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|logged| &logged.event)
    }

    pub(crate) fn settle(&mut self, events: impl IntoIterator<Item = usize>) {
        for at in events {
            if let Some(logged) = self.0.get_mut(at) {
                logged.settled = true;
            }
        }
    }

    /// What is to be posted, in its order and with its copies, and what is lost.
    pub(crate) fn due(&self, delivery: &Delivery, render: impl Fn(&T) -> Value) -> (Vec<(usize, Value)>, Vec<usize>) {
        let (mut due, mut lost) = (Vec::new(), Vec::new());
        for (at, logged) in self.0.iter().enumerate().filter(|(_, logged)| !logged.settled) {
            let payload = render(&logged.event);
            if delivery.lose.as_ref().is_some_and(|lose| lose(&payload)) {
                lost.push(at);
            } else {
                due.extend(std::iter::repeat_n((at, payload), delivery.copies));
            }
        }
        match delivery.order {
            Order::InOrder => {}
            Order::Reversed => due.reverse(),
            Order::Shuffled(seed) => due.shuffle(&mut StdRng::seed_from_u64(seed)),
        }
        (due, lost)
    }
}

/// Where webhooks go, and when by themselves.
#[derive(Default)]
pub(crate) struct Hooks {
    endpoint: Mutex<Option<Url>>,
    by_itself: AtomicBool,
    pub(crate) changed: Notify,
    pub(crate) delivering: tokio::sync::Mutex<()>,
}

impl Hooks {
    pub(crate) fn set_endpoint(&self, url: &str) -> Result<()> {
        *lock(&self.endpoint) = Some(post::local(url)?);
        self.changed.notify_one();
        Ok(())
    }

    pub(crate) fn endpoint(&self) -> Option<Url> {
        lock(&self.endpoint).clone()
    }

    pub(crate) fn deliver_on_change(&self, on: bool) {
        self.by_itself.store(on, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Delivers by itself, while that is wanted.
    pub(crate) async fn run<F: Future<Output = Vec<Attempt>>>(&self, deliver: impl Fn() -> F) {
        let mut wait = WAITS.0;
        loop {
            let failed =
                self.by_itself.load(Ordering::Relaxed) && !deliver().await.iter().all(|attempt| attempt.succeeded);
            if failed {
                // What comes about meanwhile does not wait for what failed.
                let _ = timeout(wait, self.changed.notified()).await;
                wait = WAITS.1.min(wait * 2);
            } else {
                wait = WAITS.0;
                self.changed.notified().await;
            }
        }
    }
}

/// Posts these, so many at a time, each with so much patience.
pub(crate) async fn post_all(
    bodies: Vec<(Url, Prepared)>,
    at_once: usize,
    patience: Duration,
    accepts: fn(u16) -> bool,
) -> Vec<Attempt> {
    let mut attempts = Vec::with_capacity(bodies.len());
    let mut bodies = bodies.into_iter().peekable();
    while bodies.peek().is_some() {
        let mut posts = JoinSet::new();
        for (at, (url, prepared)) in bodies.by_ref().take(at_once.max(1)).enumerate() {
            posts.spawn(async move {
                let status = post::post(&url, &prepared.headers, &prepared.body, patience).await;
                let succeeded = status.is_some_and(accepts);
                (at, Attempt { events: prepared.events, status, succeeded })
            });
        }
        let mut together = posts.join_all().await;
        together.sort_by_key(|(at, _)| *at);
        attempts.extend(together.into_iter().map(|(_, attempt)| attempt));
    }
    attempts
}
