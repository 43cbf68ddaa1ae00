//! An endpoint for webhooks, in tests.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use url::form_urlencoded::parse;

/// What an endpoint got.
#[derive(Clone)]
pub(crate) struct Got {
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    pub(crate) fn event(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn id(&self) -> String {
        self.event()["id"].as_str().unwrap().to_owned()
    }
}

#[derive(Default)]
struct Inbox {
    got: Mutex<Vec<Got>>,
    answers: Mutex<VecDeque<u16>>,
    count: watch::Sender<usize>,
}

/// An endpoint that answers 200, unless it is to answer otherwise, and the challenge that it is asked.
pub(crate) struct Endpoint {
    pub(crate) url: String,
    inbox: Arc<Inbox>,
    server: JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Endpoint {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/webhooks/provider?from=sandbox", listener.local_addr().unwrap());
        let inbox = Arc::new(Inbox::default());
        let server = crate::serve(listener, Router::new().fallback(receive).with_state(Arc::clone(&inbox)));
        Self { url, inbox, server }
    }

    pub(crate) fn answer(&self, statuses: &[u16]) {
        self.inbox.answers.lock().unwrap().extend(statuses);
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.inbox.got.lock().unwrap().clone()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.got().iter().map(Got::id).collect()
    }

    pub(crate) async fn got_times(&self, times: usize) {
        self.inbox.count.subscribe().wait_for(|count| *count >= times).await.unwrap();
    }
}

async fn receive(State(inbox): State<Arc<Inbox>>, uri: Uri, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    let status = inbox.answers.lock().unwrap().pop_front().unwrap_or(200);
    let asked = parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect::<HashMap<_, _>>();
    inbox.got.lock().unwrap().push(Got { uri, headers, body });
    inbox.count.send_modify(|count| *count += 1);
    (StatusCode::from_u16(status).unwrap(), asked.get("hub.challenge").cloned().unwrap_or_default())
}
