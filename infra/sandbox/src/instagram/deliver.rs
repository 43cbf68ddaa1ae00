//! Webhooks: the subscription's challenge, and posting what was not yet delivered.

use std::{
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Instagram, MOST_ENTRIES, events};
use crate::{
    front::catch_up,
    hooks::{Attempt, Delivery, Prepared, Written, post_all},
    post,
};

/// How long an endpoint may take: the stricter of the two that the pages name.
const PATIENCE: Duration = Duration::from_secs(5);

impl Instagram {
    /// Where events are posted to from now on.
    ///
    /// # Errors
    /// If it is no http URL: the sandbox reaches nothing but this machine.
    pub fn set_endpoint(&self, url: &str) -> Result<()> {
        self.hooks.set_endpoint(url)
    }

    /// Asks the endpoint the subscription's challenge with this verify token, as when the endpoint is entered in the dashboard. The
    /// challenge, and the status and body that came back.
    ///
    /// # Errors
    /// If there is no endpoint, or it does not answer.
    pub async fn challenge(&self, verify_token: &str) -> Result<(String, u16, String)> {
        static ASKED: AtomicUsize = AtomicUsize::new(1_158_201_444);
        let challenge = ASKED.fetch_add(1, Ordering::Relaxed).to_string();
        let mut url = self.hooks.endpoint().context("there is no endpoint")?;
        url.query_pairs_mut()
            .append_pair("hub.mode", "subscribe")
            .append_pair("hub.challenge", &challenge)
            .append_pair("hub.verify_token", verify_token);
        let (status, body) = post::get(&url, PATIENCE).await.context("no answer to the challenge")?;
        Ok((challenge, status, body))
    }

    /// What would be posted, without posting it: what is not yet delivered and not taken.
    #[must_use]
    pub fn prepare(&self, delivery: &Delivery) -> Vec<Prepared> {
        self.prepared(delivery).0
    }

    /// The same, and then they count as delivered.
    pub fn take(&self, delivery: &Delivery) -> Vec<Prepared> {
        let (prepared, lost) = self.prepared(delivery);
        let events = prepared.iter().flat_map(|prepared| prepared.events.iter().copied());
        self.world().outbox.settle(events.chain(lost));
        prepared
    }

    fn prepared(&self, delivery: &Delivery) -> (Vec<Prepared>, Vec<usize>) {
        catch_up(self);
        let secret = delivery.signed_with.clone().unwrap_or_else(|| self.app_secret.get());
        let (due, lost) = {
            let world = self.world();
            world.outbox.due(delivery, |event| event.entry(world.flavour))
        };
        let together = due.chunks(delivery.batch.clamp(1, MOST_ENTRIES)).map(|due| {
            let entries: Vec<Value> = due.iter().map(|(_, entry)| entry.clone()).collect();
            let entries = if delivery.merged { events::merged(entries) } else { entries };
            let body = events::body(&entries, delivery.written.unwrap_or(Written::Escaped));
            let headers = events::headers(&body, &secret);
            Prepared { body, headers, events: due.iter().map(|(at, _)| *at).collect() }
        });
        (together.collect(), lost)
    }

    /// Posts every event that was not yet answered with 2xx, one after the other. Nothing without an endpoint.
    pub async fn deliver_all(&self) -> Vec<Attempt> {
        self.deliver_with(Delivery::default()).await
    }

    /// The same, as is said.
    pub async fn deliver_with(&self, delivery: Delivery) -> Vec<Attempt> {
        let _one_at_a_time = self.hooks.delivering.lock().await;
        let Some(url) = self.hooks.endpoint() else { return Vec::new() };
        let (prepared, lost) = self.prepared(&delivery);
        self.world().outbox.settle(lost);
        let bodies = prepared.into_iter().map(|prepared| (url.clone(), prepared)).collect();
        let attempts = post_all(bodies, delivery.at_once, PATIENCE, |status| (200..300).contains(&status)).await;
        let delivered = attempts.iter().filter(|attempt| attempt.succeeded);
        self.world().outbox.settle(delivered.flat_map(|attempt| attempt.events.iter().copied()));
        attempts
    }

    /// Whether events are delivered by themselves, soon after they come about, and failures retried.
    pub fn deliver_on_change(&self, on: bool) {
        self.hooks.deliver_on_change(on);
    }

    /// Delivers by itself, while that is wanted.
    pub(crate) async fn run(self: Arc<Self>) {
        self.hooks.run(|| self.deliver_all()).await;
    }
}
