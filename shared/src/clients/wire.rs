//! What the models' clients need of HTTP: a client built on first use, bounded bodies, and errors without a word of the body.

use std::{sync::OnceLock, time::Duration};

use http::HeaderMap;
use serde_json::Value;

use super::http_client;
use crate::ai::{AiError, Metered};

/// The most an answer may hold, in bytes: a 4K picture in base64 is far below it.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// An HTTP client that is built when it is first needed, since that reads the system's certificates.
#[derive(Debug)]
pub(super) struct LazyHttp {
    client: OnceLock<reqwest::Client>,
    timeout: Duration,
}

/// An answer of any status, as JSON.
pub(super) struct Exchange {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl LazyHttp {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { client: OnceLock::new(), timeout }
    }

    fn client(&self) -> Result<&reqwest::Client, AiError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let built = http_client(self.timeout).map_err(|_| AiError::Unreachable)?;
        Ok(self.client.get_or_init(|| built))
    }

    /// Posts JSON and reads the answer, whatever its status.
    pub(super) async fn post(&self, url: &str, headers: HeaderMap, body: &Value) -> Result<Exchange, AiError> {
        let request = self.client()?.post(url).headers(headers).json(body);
        let mut response = request.send().await.map_err(|error| failed(&error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
            if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(AiError::Malformed { metered: Metered::UNKNOWN });
            }
            bytes.extend_from_slice(&chunk);
        }
        let body = match serde_json::from_slice(&bytes) {
            Ok(body) => body,
            // An error page of a proxy is no JSON; its status still tells what happened.
            Err(_) if status >= 400 => Value::Null,
            Err(_) => return Err(AiError::Malformed { metered: Metered::UNKNOWN }),
        };
        Ok(Exchange { status, headers, body })
    }
}

fn failed(error: &reqwest::Error) -> AiError {
    match (error.is_connect() || error.is_builder(), error.is_timeout()) {
        (true, true) => AiError::Timeout,
        (true, false) => AiError::Unreachable,
        (false, timed_out) => AiError::Unanswered { timed_out },
    }
}

/// `retry-after-ms` or `retry-after` in seconds. A date is not worth a parser: the caller's own back-off serves.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let seconds = number("retry-after-ms").map(|ms| ms / 1000.0).or_else(|| number("retry-after"))?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Reads the counts of tokens in a provider's `usage`, and remembers the first that is none.
pub(super) struct Counts<'a> {
    pub(super) usage: &'a Value,
    read: fn(&Value) -> Option<u64>,
    pub(super) unreported: Option<&'static str>,
}

impl<'a> Counts<'a> {
    pub(super) fn new(usage: &'a Value, read: fn(&Value) -> Option<u64>) -> Self {
        Self { usage, read, unreported: (!usage.is_object()).then_some("usage") }
    }

    /// A count that every answer has.
    pub(super) fn required(&mut self, name: &'static str) -> u64 {
        (self.read)(&self.usage[name]).unwrap_or_else(|| self.miss(name))
    }

    /// A count that is left out where it is zero.
    pub(super) fn optional(&mut self, name: &'static str) -> u64 {
        self.usage.get(name).map_or(0, |value| (self.read)(value).unwrap_or_else(|| self.miss(name)))
    }

    fn miss(&mut self, name: &'static str) -> u64 {
        self.unreported.get_or_insert(name);
        0
    }
}

/// A count of tokens. A number that no answer can reach is none: it would be priced all the same.
pub(super) fn count(value: &Value) -> Option<u64> {
    value.as_u64().filter(|count| *count <= u64::from(u32::MAX))
}
