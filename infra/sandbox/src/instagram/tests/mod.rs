mod faults;
mod figures;
mod oauth;
mod reading;
mod sending;
mod webhooks;

use std::{net::SocketAddr, sync::Arc};

use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{Connected, Instagram};
use crate::{
    Script,
    ask::{Answer, call},
    front::router,
};

/// 2026-06-15T10:00:00Z.
const NOW: i64 = 1_781_517_600;

/// An Instagram whose clock stands still, one account, one person, and what asks it.
struct App {
    instagram: Arc<Instagram>,
    script: Arc<Script>,
    address: SocketAddr,
    account: Connected,
    person: String,
    server: JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl App {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let instagram = Instagram::new(address);
        instagram.set_clock(NOW);
        let script = Arc::new(Script::default());
        let server = crate::serve(listener, router(&instagram, &script));
        let account = instagram.add_account("gronskar", "Grönskär & Co");
        let person = instagram.add_person("eva.berg", Some("Eva Berg"));
        Self { instagram, script, address, account, person, server }
    }

    /// Asks while the clock stands still.
    async fn ask_at_once(&self, method: &str, path: &str) -> Answer {
        let bearer = format!("Bearer {}", self.account.token);
        call(self.address, method, &format!("/v27.0/{path}"), &[("authorization", &bearer)], "").await
    }

    async fn get(&self, path: &str) -> Answer {
        let answer = self.ask_at_once("GET", path).await;
        // Calls come one after another and the clock stands still: without this the rate limit would be met.
        self.instagram.advance(1);
        answer
    }

    /// All rows of a list, page after page.
    async fn pages(&self, path: &str) -> Vec<Value> {
        let (mut rows, mut after) = (Vec::new(), String::new());
        for _ in 0..100 {
            let page = self.get(&format!("{path}{after}")).await;
            rows.extend(page.rows().iter().cloned());
            if page.body["paging"]["next"].is_null() {
                return rows;
            }
            after = format!("&after={}", page.body["paging"]["cursors"]["after"].as_str().unwrap());
        }
        panic!("{path} has no end");
    }
}

impl Answer {
    #[track_caller]
    fn good(&self) -> &Value {
        assert_eq!(self.status, 200, "{}", self.text);
        assert!(self.text.is_ascii(), "{}", self.text);
        &self.body
    }

    #[track_caller]
    fn rows(&self) -> &Vec<Value> {
        self.good()["data"].as_array().unwrap()
    }

    #[track_caller]
    fn listed(&self) -> Vec<&str> {
        self.rows().iter().map(|row| row["id"].as_str().unwrap()).collect()
    }

    #[track_caller]
    fn graph_error(&self, code: i64, subcode: Option<i64>) {
        assert_eq!(self.status, 400, "{}", self.text);
        let error = &self.body["error"];
        assert_eq!((error["code"].as_i64(), error["error_subcode"].as_i64()), (Some(code), subcode), "{}", self.text);
        assert!(error["message"].is_string() && error["type"].is_string() && error["fbtrace_id"].is_string());
    }
}

fn id(value: &Value) -> &str {
    value["id"].as_str().unwrap()
}

/// Below what a double holds for certain.
fn is_large(id: &str) -> bool {
    id.parse::<u64>().is_ok_and(|id| id > 1 << 53)
}

fn texts(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["text"].as_str().unwrap()).collect()
}

/// A message as webhooks have it, without what belongs to every one.
fn content(entry: &Value) -> Value {
    let mut messaging = entry["messaging"][0].clone();
    for name in ["sender", "recipient", "timestamp"] {
        messaging.as_object_mut().unwrap().remove(name).unwrap();
    }
    json!(messaging)
}
