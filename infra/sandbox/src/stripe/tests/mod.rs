mod acts;
mod api;
mod deliveries;
mod shapes;

use std::{net::SocketAddr, sync::Arc};

use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{Stripe, router, world::new_id};
use crate::{
    Key, Script,
    ask::{Answer, call},
    endpoint::Endpoint,
};

/// A Stripe whose clock stands still, and what asks it.
struct App {
    stripe: Arc<Stripe>,
    script: Arc<Script>,
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

const NOW: i64 = 1_700_000_000;

impl App {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stripe = Stripe::new(Key::generate("sk_test_"), address);
        stripe.set_clock(NOW);
        let script = Arc::new(Script::default());
        let server = crate::serve(listener, router(&stripe, &script));
        Self { stripe, script, address, server }
    }

    /// Somebody subscribes to the price there is.
    fn subscribe(&self) -> String {
        let made = self.stripe.trigger("customer.subscription.created", None).unwrap();
        let created = self.event(&made, "customer.subscription.created");
        created["data"]["object"]["id"].as_str().unwrap().to_owned()
    }

    /// The first of these events that has this type.
    fn event(&self, ids: &[String], kind: &str) -> Value {
        let events = self.stripe.events();
        let found = events.iter().find(|event| event["type"] == kind && ids.iter().any(|id| event["id"] == **id));
        found.unwrap_or_else(|| panic!("no {kind}")).clone()
    }

    /// The types of these events, in order.
    fn types(&self, ids: &[String]) -> Vec<String> {
        let events = self.stripe.events();
        let of =
            |id: &String| events.iter().find(|event| event["id"] == **id).unwrap()["type"].as_str().unwrap().to_owned();
        ids.iter().map(of).collect()
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    async fn post(&self, path: &str, form: &str) -> Answer {
        self.ask("POST", path, &[("idempotency-key", &new_id("key"))], form).await
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], form: &str) -> Answer {
        let bearer = format!("Bearer {}", self.stripe.key().get());
        let mut all = vec![("authorization", bearer.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        all.retain(|(name, _)| !headers.iter().any(|(given, _)| given == name));
        all.extend_from_slice(headers);
        call(self.address, method, path, &all, form).await
    }
}

impl Answer {
    fn ids(&self) -> Vec<&str> {
        self.body["data"].as_array().unwrap().iter().map(|object| object["id"].as_str().unwrap()).collect()
    }

    fn error(&self, status: u16, kind: &str, code: Option<&str>) {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.body["error"]["type"], kind, "{}", self.text);
        assert_eq!(self.body["error"]["code"].as_str(), code, "{}", self.text);
    }
}
