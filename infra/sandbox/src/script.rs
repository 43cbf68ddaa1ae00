//! What a provider was asked, and what it is told to answer instead of the truth.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::Value;
use tokio::sync::{Notify, watch};

/// How many requests are kept.
const KEPT: usize = 1000;

/// An answer that was prepared.
#[derive(Debug, Clone)]
pub enum Canned {
    /// This status and this body.
    Answer(u16, Value),
    /// The true answer, once the gate is opened.
    Held(Gate),
}

/// Holds an answer back until it is opened, so that a test does what it must in between without guessing how long that takes.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Notify>);

impl Gate {
    /// Lets one answer go.
    pub fn open(&self) {
        self.0.notify_one();
    }
}

/// One provider's memory and instructions.
#[derive(Debug, Default)]
pub struct Script {
    next: Mutex<VecDeque<Canned>>,
    asked: Mutex<VecDeque<Value>>,
    count: watch::Sender<usize>,
}

impl Script {
    /// The next request that is not yet spoken for gets this answer.
    pub fn then(&self, canned: Canned) {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).push_back(canned);
    }

    /// Bodies of the requests so far, the oldest first.
    #[must_use]
    pub fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Waits until there was a request.
    pub async fn was_asked(&self) {
        let mut count = self.count.subscribe();
        // The sender lives as long as we do.
        let _ = count.wait_for(|count| *count > 0).await;
    }

    /// Records a request; answers it if an answer was prepared.
    pub(crate) async fn meet(&self, body: &Value) -> Option<Response> {
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.len() == KEPT {
                asked.pop_front();
            }
            asked.push_back(body.clone());
        }
        self.count.send_modify(|count| *count += 1);
        let canned = self.next.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match canned? {
            Canned::Answer(status, body) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Some((status, axum::Json(body)).into_response())
            }
            Canned::Held(gate) => {
                gate.0.notified().await;
                None
            }
        }
    }
}
