//! What a provider was asked, and what it is told to answer instead of the truth.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header::CONTENT_LENGTH},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::plan::{Calls, Plan};

/// How many requests are kept.
const KEPT: usize = 1000;
/// The most a request may hold, in bytes.
const MAX_REQUEST: usize = 64 * 1024 * 1024;

/// An answer that was prepared.
#[derive(Debug, Clone)]
pub enum Canned {
    /// This status and this body.
    Answer(u16, Value),
    /// The same, with headers that say when to come back.
    Hinted(u16, Vec<(&'static str, &'static str)>, Value),
    /// These bytes, whatever they are, with status 200 and as JSON.
    Garbage(&'static [u8]),
    /// The true answer, once the gate is opened.
    Held(Gate),
    /// The true answer, with what is at each of these JSON pointers replaced, or left out.
    Changed(Vec<(&'static str, Option<Value>)>),
}

/// Holds an answer back until it is opened, so that a test does what it must in between without guessing how long that takes.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Notify>);

impl Gate {
    /// Lets one answer go.
    pub fn open(&self) {
        self.0.notify_one();
    }

    pub(crate) async fn opened(&self) {
        self.0.notified().await;
    }
}

/// One provider's memory and instructions.
#[derive(Debug, Default)]
pub struct Script {
    plan: Mutex<Plan<Canned>>,
    asked: Mutex<VecDeque<Value>>,
    count: watch::Sender<usize>,
}

impl Script {
    fn plan(&self) -> MutexGuard<'_, Plan<Canned>> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request that is not yet spoken for gets this answer.
    pub fn then(&self, canned: Canned) {
        self.arrange(canned, Calls::Next(1));
    }

    /// These requests get this answer.
    pub fn arrange(&self, canned: Canned, calls: Calls) {
        self.plan().arrange(canned, calls);
    }

    /// The truth again.
    pub fn clear(&self) {
        self.plan().clear();
    }

    /// Bodies of the requests so far, the oldest first.
    #[must_use]
    pub fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// How many requests there were, those that are no longer kept included.
    #[must_use]
    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Waits until there were so many requests.
    pub async fn was_asked_times(&self, times: usize) {
        let mut count = self.count.subscribe();
        // The sender lives as long as we do.
        let _ = count.wait_for(|count| *count >= times).await;
    }

    /// Waits until there was a request.
    pub async fn was_asked(&self) {
        self.was_asked_times(1).await;
    }

    /// Puts this script before every answer of `router`.
    pub(crate) fn direct(self: &Arc<Self>, router: Router) -> Router {
        router.layer(from_fn_with_state(Arc::clone(self), play))
    }

    fn record(&self, body: &[u8]) -> Option<Canned> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() == KEPT {
            asked.pop_front();
        }
        asked.push_back(serde_json::from_slice(body).unwrap_or(Value::Null));
        drop(asked);
        self.count.send_modify(|count| *count += 1);
        self.plan().meet()
    }
}

async fn play(State(script): State<Arc<Script>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_REQUEST).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let answer = |status, headers: Vec<(&'static str, &'static str)>, body: Value| {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(body)).into_response();
        for (name, value) in headers {
            response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        response
    };
    match script.record(&body) {
        Some(Canned::Answer(status, body)) => return answer(status, Vec::new(), body),
        Some(Canned::Hinted(status, headers, body)) => return answer(status, headers, body),
        Some(Canned::Garbage(bytes)) => return ([("content-type", "application/json")], bytes).into_response(),
        Some(Canned::Held(gate)) => gate.opened().await,
        Some(Canned::Changed(changes)) => {
            return changed(next.run(Request::from_parts(parts, Body::from(body))).await, changes).await;
        }
        None => {}
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}

async fn changed(answer: Response, changes: Vec<(&'static str, Option<Value>)>) -> Response {
    let (mut parts, body) = answer.into_parts();
    let bytes = to_bytes(body, MAX_REQUEST).await.unwrap_or_default();
    let mut body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    for (pointer, value) in changes {
        let (parent, name) = pointer.rsplit_once('/').unwrap_or_default();
        if let Some(Value::Object(fields)) = body.pointer_mut(parent) {
            match value {
                Some(value) => fields.insert(name.to_owned(), value),
                None => fields.remove(name),
            };
        }
    }
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(body.to_string()))
}
