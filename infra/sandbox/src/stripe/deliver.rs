//! Webhooks: posts what was not yet delivered, and signs it anew each time.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Result;
use chrono::Utc;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::Value;
use tokio::{task::JoinSet, time::timeout};
use url::Url;

use super::{Stripe, lock, sign::sign};
use crate::{Order, post};

/// How long an endpoint may take. Not on our provider page, since Stripe does not say.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long automatic retries wait at first, and at most.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Picks the events, by what would be posted, that Stripe loses: they are not posted, now or later.
pub type Loses = Arc<dyn Fn(&Value) -> bool + Send + Sync>;

/// How events are posted.
#[derive(Clone)]
pub struct Delivery {
    /// In which order.
    pub order: Order,
    /// How often each.
    pub copies: usize,
    /// How many at the same time.
    pub at_once: usize,
    /// Which not at all.
    pub lose: Option<Loses>,
    /// When they claim to be signed, in unix seconds, if not now.
    pub signed_at: Option<i64>,
}

impl Default for Delivery {
    fn default() -> Self {
        Self { order: Order::InOrder, copies: 1, at_once: 1, lose: None, signed_at: None }
    }
}

/// One post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The event's id.
    pub event: String,
    /// What came back, if anything did.
    pub status: Option<u16>,
}

impl Attempt {
    /// Whether Stripe counts this as delivered: 2xx, and a redirect is none.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

impl Stripe {
    /// Where events are posted to from now on.
    ///
    /// # Errors
    /// If it is no http URL: the sandbox reaches nothing but this machine.
    pub fn set_endpoint(&self, url: &str) -> Result<()> {
        let url = post::local(url)?;
        *lock(&self.endpoint) = Some(url);
        self.world().changed.notify_one();
        Ok(())
    }

    /// Posts every event that was not yet answered with 2xx, one after the other. Nothing without an endpoint.
    pub async fn deliver_all(&self) -> Vec<Attempt> {
        self.deliver_with(Delivery::default()).await
    }

    /// The same, with faults.
    pub async fn deliver_with(&self, delivery: Delivery) -> Vec<Attempt> {
        let _one_at_a_time = self.delivering.lock().await;
        let Some(url) = lock(&self.endpoint).clone() else { return Vec::new() };
        let mut due = self.due(delivery.lose.as_ref(), delivery.copies);
        match delivery.order {
            Order::InOrder => {}
            Order::Reversed => due.reverse(),
            Order::Shuffled(seed) => due.shuffle(&mut StdRng::seed_from_u64(seed)),
        }
        let mut attempts = Vec::with_capacity(due.len());
        for together in due.chunks(delivery.at_once.max(1)) {
            attempts.extend(self.post_together(&url, together, delivery.signed_at).await);
        }
        attempts
    }

    /// Posts one event again, delivered or not, as by hand. What comes back keeps no automatic delivery from being made.
    pub async fn resend(&self, event: &str) -> Option<Attempt> {
        let url = lock(&self.endpoint).clone()?;
        let body = {
            let world = self.world();
            written(&world.log.find(event)?.render(world.shape))
        };
        let status = post(&url, &body, &sign(&body, &self.secrets(), Utc::now().timestamp())).await;
        Some(Attempt { event: event.to_owned(), status })
    }

    /// Whether events are delivered by themselves, soon after they come about, and failures retried.
    pub fn deliver_on_change(&self, on: bool) {
        self.on_change.store(on, Ordering::Relaxed);
        self.world().changed.notify_one();
    }

    /// Delivers by itself, while that is wanted.
    pub(crate) async fn run(self: Arc<Self>) {
        let changed = Arc::clone(&self.world().changed);
        let mut wait = WAITS.0;
        loop {
            let failed =
                self.on_change.load(Ordering::Relaxed) && !self.deliver_all().await.iter().all(Attempt::succeeded);
            if failed {
                // Whatever comes about meanwhile does not wait for what failed.
                let _ = timeout(wait, changed.notified()).await;
                wait = WAITS.1.min(wait * 2);
            } else {
                wait = WAITS.0;
                changed.notified().await;
            }
        }
    }

    fn due(&self, lose: Option<&Loses>, copies: usize) -> Vec<(String, Vec<u8>)> {
        let mut world = self.world();
        let shape = world.shape;
        let mut due = Vec::new();
        for logged in world.log.all_mut().iter_mut().filter(|logged| !logged.delivered && !logged.given_up) {
            let payload = logged.render(shape);
            if lose.is_some_and(|lose| lose(&payload)) {
                logged.given_up = true;
                continue;
            }
            due.extend(std::iter::repeat_n((logged.id.clone(), written(&payload)), copies));
        }
        due
    }

    async fn post_together(&self, url: &Url, due: &[(String, Vec<u8>)], signed_at: Option<i64>) -> Vec<Attempt> {
        let mut posts = JoinSet::new();
        for (at, (id, body)) in due.iter().enumerate() {
            let signature = sign(body, &self.secrets(), signed_at.unwrap_or_else(|| Utc::now().timestamp()));
            let (url, id, body) = (url.clone(), id.clone(), body.clone());
            posts.spawn(async move { (at, Attempt { event: id, status: post(&url, &body, &signature).await }) });
        }
        let mut attempts = posts.join_all().await;
        attempts.sort_by_key(|(at, _)| *at);
        let mut world = self.world();
        for (_, attempt) in attempts.iter().filter(|(_, attempt)| attempt.succeeded()) {
            if let Some(logged) = world.log.find_mut(&attempt.event) {
                logged.delivered = true;
            }
        }
        attempts.into_iter().map(|(_, attempt)| attempt).collect()
    }
}

/// Indented, as Stripe writes what it posts, so that nobody gets away with signing what they parsed and wrote again.
fn written(payload: &Value) -> Vec<u8> {
    format!("{payload:#}").into_bytes()
}

async fn post(url: &Url, body: &[u8], signature: &str) -> Option<u16> {
    let headers = [
        ("accept", "*/*; q=0.5, application/xml".to_owned()),
        ("user-agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)".to_owned()),
        ("content-type", "application/json; charset=utf-8".to_owned()),
        ("stripe-signature", signature.to_owned()),
    ];
    post::post(url, &headers, body, PATIENCE).await
}
