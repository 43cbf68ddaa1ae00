//! What a provider was asked, and what it is told to answer instead of the truth.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::Value;

/// How many requests are kept.
const KEPT: usize = 1000;

/// An answer that was prepared.
#[derive(Debug, Clone)]
pub enum Canned {
    /// This status, these headers, this body.
    Answer(u16, Vec<(String, String)>, Value),
    /// The true answer, after a while.
    Slow(Duration),
    /// Nothing, for longer than anyone waits.
    Hang,
}

impl Canned {
    /// A status and a body.
    #[must_use]
    pub fn answer(status: u16, body: Value) -> Self {
        Self::Answer(status, Vec::new(), body)
    }
}

/// One provider's memory and instructions.
#[derive(Debug, Default)]
pub struct Script {
    next: Mutex<VecDeque<Canned>>,
    asked: Mutex<VecDeque<Value>>,
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

    /// Records a request; answers it if an answer was prepared.
    pub(crate) async fn meet(&self, body: &Value) -> Option<Response> {
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.len() == KEPT {
                asked.pop_front();
            }
            asked.push_back(body.clone());
        }
        let canned = self.next.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match canned? {
            Canned::Answer(status, headers, body) => {
                let mut response =
                    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), axum::Json(body))
                        .into_response();
                for (name, value) in headers {
                    if let (Ok(name), Ok(value)) =
                        (name.parse::<axum::http::HeaderName>(), axum::http::HeaderValue::from_str(&value))
                    {
                        response.headers_mut().insert(name, value);
                    }
                }
                Some(response)
            }
            Canned::Slow(delay) => {
                tokio::time::sleep(delay).await;
                None
            }
            Canned::Hang => {
                tokio::time::sleep(Duration::from_secs(600)).await;
                None
            }
        }
    }
}
