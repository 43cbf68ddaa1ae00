//! Webhooks: posts what was not yet delivered, one event a body.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use chrono::Utc;
use url::Url;

use super::{TikTok, events};
use crate::{
    front::catch_up,
    hooks::{Attempt, Delivery, Prepared, Written, post_all},
};

/// How long an endpoint may take. Not on our provider page, which says "immediately".
const PATIENCE: Duration = Duration::from_secs(5);

impl TikTok {
    /// Where events are posted to from now on, except for those that platform B has another callback for.
    ///
    /// # Errors
    /// If it is no http URL: the sandbox reaches nothing but this machine.
    pub fn set_endpoint(&self, url: &str) -> Result<()> {
        self.hooks.set_endpoint(url)
    }

    /// What would be posted, without posting it: what is not yet delivered and not taken.
    #[must_use]
    pub fn prepare(&self, delivery: &Delivery) -> Vec<Prepared> {
        self.prepared(delivery).0.into_iter().map(|(_, prepared)| prepared).collect()
    }

    /// The same, and then they count as delivered.
    pub fn take(&self, delivery: &Delivery) -> Vec<Prepared> {
        let (prepared, lost) = self.prepared(delivery);
        let prepared: Vec<Prepared> = prepared.into_iter().map(|(_, prepared)| prepared).collect();
        let events = prepared.iter().flat_map(|prepared| prepared.events.iter().copied());
        self.world().outbox.settle(events.chain(lost));
        prepared
    }

    fn prepared(&self, delivery: &Delivery) -> (Vec<(Option<Url>, Prepared)>, Vec<usize>) {
        catch_up(self);
        let secret = delivery.signed_with.clone().unwrap_or_else(|| self.client_secret.get());
        let t = delivery.signed_at.unwrap_or_else(|| Utc::now().timestamp());
        let world = self.world();
        let (due, lost) = world.outbox.due(delivery, |event| event.payload(&self.client_key));
        let events: Vec<_> = world.outbox.all().collect();
        let prepared = due.into_iter().filter_map(|(at, payload)| {
            let event = events.get(at)?;
            let body = events::written(&payload, delivery.written.unwrap_or(Written::Raw));
            let headers = events::headers(event.platform, &body, &secret, t);
            let callback = event.registered().and_then(|kind| world.callbacks.get(kind)).cloned();
            Some((callback, Prepared { body, headers, events: vec![at] }))
        });
        (prepared.collect(), lost)
    }

    /// Posts every event that was not yet answered with 200, one after the other. Nothing without an endpoint.
    pub async fn deliver_all(&self) -> Vec<Attempt> {
        self.deliver_with(Delivery::default()).await
    }

    /// The same, as is said.
    pub async fn deliver_with(&self, delivery: Delivery) -> Vec<Attempt> {
        let _one_at_a_time = self.hooks.delivering.lock().await;
        let otherwise = self.hooks.endpoint();
        let (prepared, lost) = self.prepared(&delivery);
        self.world().outbox.settle(lost);
        let bodies = prepared.into_iter().filter_map(|(url, prepared)| Some((url.or(otherwise.clone())?, prepared)));
        // Exactly 200: another success is a failure here.
        let attempts = post_all(bodies.collect(), delivery.at_once, PATIENCE, |status| status == 200).await;
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
