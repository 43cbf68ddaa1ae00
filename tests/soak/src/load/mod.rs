//! What people, agents and Stripe do all the while. Each lane does one thing after another with pauses, from a seed of its own.

mod billing;
mod insights;
mod leads;
mod limits;
mod renders;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use anyhow::Result;
use futures::{
    FutureExt,
    future::{LocalBoxFuture, join_all},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::{Client, Method};
use serde_json::Value;

use crate::{cast::Organisation, ground::Ground, ledger::Ledger};

/// How often a request is sent in all, under the same key.
const TRIES: usize = 8;
/// The shortest and the longest wait before it is sent again.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// More renders than this in the queue, and nobody asks for another.
const CROWD: usize = 24;

/// A run under way.
pub(crate) struct Soak<'a> {
    pub(crate) ground: &'a Ground,
    pub(crate) ledger: &'a Ledger,
    pub(crate) http: Client,
    pub(crate) seed: u64,
    /// When the load and the faults end.
    pub(crate) until: Instant,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("-")
    }
}

/// A request that may be sent again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    /// What answers are counted under, as in `POST /v1/uploads`.
    pub(crate) route: &'static str,
    pub(crate) path: &'a str,
    pub(crate) token: &'a str,
    pub(crate) body: Option<&'a Value>,
    pub(crate) key: Option<&'a str>,
}

impl Soak<'_> {
    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Randomness of a lane's own: what one does is the same for the same seed, whatever the others do.
    pub(crate) fn random(&self, lane: &str) -> StdRng {
        let mut hash = DefaultHasher::new();
        (self.seed, lane).hash(&mut hash);
        StdRng::seed_from_u64(hash.finish())
    }

    /// Sends it once. `None` if no answer came.
    pub(crate) async fn send(&self, ask: Ask<'_>) -> Option<Answer> {
        let method = if ask.route.starts_with("GET") { Method::GET } else { Method::POST };
        let mut request =
            self.http.request(method, format!("{}{}", self.ground.stack.url, ask.path)).bearer_auth(ask.token);
        if let Some(key) = ask.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = ask.body {
            request = request.json(body);
        }
        let answer = match request.send().await {
            Err(_) => None,
            Ok(response) => {
                let status = response.status().as_u16();
                response
                    .bytes()
                    .await
                    .ok()
                    .map(|bytes| Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
            }
        };
        match &answer {
            Some(answer) => self.ledger.answered(ask.route, answer.status, answer.code()),
            None => self.ledger.answered(ask.route, 0, "-"),
        }
        answer
    }

    /// Sends it until it is answered with anything but a server's error, or not any more. As a client does that was told to retry.
    pub(crate) async fn insist(&self, ask: Ask<'_>) -> Option<Answer> {
        let mut wait = WAITS.0;
        for again in 0..TRIES {
            if again > 0 {
                self.ledger.book().retries += 1;
                tokio::time::sleep(wait).await;
                wait = WAITS.1.min(wait * 2);
            }
            match self.send(ask).await {
                Some(answer) if answer.status < 500 => return Some(answer),
                _ => {}
            }
        }
        self.ledger.book().given_up += 1;
        None
    }

    /// Does something with the database until it is confirmed, or not any more. Whether it was.
    pub(crate) async fn confirmed<T>(&self, act: impl AsyncFn() -> Result<T>) -> Option<T> {
        let mut wait = WAITS.0;
        for _ in 0..TRIES {
            if let Ok(done) = act().await {
                return Some(done);
            }
            tokio::time::sleep(wait).await;
            wait = WAITS.1.min(wait * 2);
        }
        None
    }

    /// Waits for about so long.
    pub(crate) async fn pause(&self, random: &mut StdRng, about: Duration) {
        tokio::time::sleep(about.mul_f64(random.random_range(0.5..1.5))).await;
    }

    /// Whether the renders' queue is as full as it should get.
    fn crowded(&self) -> bool {
        self.ground.stack.renders.waiting().len() >= CROWD
    }
}

/// Runs every lane until the time is over.
pub(crate) async fn run(soak: &Soak<'_>, cast: &[Organisation]) -> Result<()> {
    let mut lanes: Vec<LocalBoxFuture<'_, Result<()>>> = Vec::new();
    for org in cast {
        let stranger = cast.iter().find(|other| other.id != org.id).unwrap_or(org);
        lanes.push(renders::lane(soak, org, renders::Who::Person(&org.designer), stranger).boxed_local());
        match &org.agent {
            Some((id, token)) => {
                lanes.push(renders::lane(soak, org, renders::Who::Agent(*id, token), stranger).boxed_local());
            }
            None => lanes.push(renders::lane(soak, org, renders::Who::Person(&org.owner), stranger).boxed_local()),
        }
        lanes.push(insights::lane(soak, org).boxed_local());
        lanes.push(leads::lane(soak, org).boxed_local());
        lanes.push(limits::lane(soak, org).boxed_local());
        lanes.push(billing::lane(soak, org).boxed_local());
    }
    lanes.push(billing::deliveries(soak).boxed_local());
    join_all(lanes).await.into_iter().collect()
}
