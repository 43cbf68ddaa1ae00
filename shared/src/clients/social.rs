//! What the clients of social platforms have in common: one exchange with a bounded answer, the time of the platform's clock, how much of a
//! limit is used, and why a platform was of no help.

use std::time::Duration;

use bytes::BytesMut;
use chrono::{DateTime, Utc};
use http::{HeaderMap, header};
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::http_client;
use crate::social::MAX_ID;

/// The most an answer may hold, in bytes: a page of conversations with twenty messages each is far below it.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// How long one call may take, unless a setting says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a platform was of no help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SocialError {
    /// It cannot be reached: nothing was sent.
    #[error("the platform cannot be reached: {0}")]
    Unsent(String),
    /// It was sent and no whole answer came, or the platform is away behind its proxy: what was asked for may have happened.
    #[error("the platform does not answer: {0}")]
    Away(String),
    /// It failed for once.
    #[error("the platform failed for once: {code}")]
    Transient {
        /// Its code, or the HTTP status.
        code: i64,
    },
    /// It was asked too often.
    #[error("the platform was asked too often: {code}")]
    Limited {
        /// Whether the limit is the whole application's.
        app: bool,
        /// Its code.
        code: i64,
        /// When it says that it may be asked again.
        wait: Option<Duration>,
    },
    /// The access token is not accepted any more.
    #[error("the platform does not accept the access token: {code}")]
    Token {
        /// Its code.
        code: i64,
    },
    /// What was asked for is not there, or not for this token.
    #[error("the platform has no such object")]
    Missing,
    /// A parameter is not accepted, such as a metric that is gone.
    #[error("the platform does not accept a parameter: {code} {subcode}")]
    Parameter {
        /// Its code.
        code: i64,
        /// What it says more exactly, 0 if nothing.
        subcode: i64,
    },
    /// The token, or the platform's rules, do not allow this.
    #[error("the platform does not permit this: {code} {subcode}")]
    Forbidden {
        /// Its code.
        code: i64,
        /// What it says more exactly, 0 if nothing.
        subcode: i64,
    },
    /// Too few people saw a post for figures.
    #[error("too few people saw it")]
    FewViewers,
    /// It refused, and would again.
    #[error("the platform refused: {status} {code}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its code, 0 if it gave none.
        code: i64,
    },
    /// The answer is not as documented.
    #[error("the platform's answer is not as documented")]
    Malformed,
}

/// How much of its limits was used, in per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Of the whole application's.
    pub app: i64,
    /// Of the account's.
    pub account: i64,
    /// How long the platform will refuse the account.
    pub regain: Option<Duration>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What it says.
    pub body: Value,
    /// What time it was at the platform, in milliseconds since 1970, to the second. None if it did not say.
    pub at: Option<i64>,
    /// How much of the limits was used, as far as it said.
    pub usage: Usage,
}

/// An answer of any status.
pub(super) struct Exchange {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// None if it is no JSON.
    pub(super) body: Option<Value>,
}

impl Exchange {
    /// What time it was at the platform.
    pub(super) fn at(&self) -> Option<i64> {
        let text = self.headers.get(header::DATE)?.to_str().ok()?;
        Some(DateTime::parse_from_rfc2822(text).ok()?.timestamp_millis())
    }

    /// A header in JSON.
    pub(super) fn header(&self, name: &str) -> Value {
        let text = self.headers.get(name).and_then(|value| value.to_str().ok());
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

/// An HTTP client that is built when it is first needed, since that reads the system's certificates.
#[derive(Debug)]
pub(super) struct Lazy {
    client: OnceCell<Client>,
    timeout: Duration,
}

impl Lazy {
    pub(super) const fn new(timeout: Duration) -> Self {
        Self { client: OnceCell::const_new(), timeout }
    }

    pub(super) async fn client(&self) -> Result<&Client, SocialError> {
        let built = self.client.get_or_try_init(async || http_client(self.timeout)).await;
        built.map_err(|error| SocialError::Unsent(error.without_url().to_string()))
    }
}

/// Sends a request and reads the answer, of any status. No error names the address, which may hold a token.
pub(super) async fn exchange(request: RequestBuilder) -> Result<Exchange, SocialError> {
    let failed = |error: reqwest::Error| {
        let unsent = error.is_connect() || error.is_builder();
        let text = error.without_url().to_string();
        if unsent { SocialError::Unsent(text) } else { SocialError::Away(text) }
    };
    let mut response = request.header(header::ACCEPT, "application/json").send().await.map_err(failed)?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let mut bytes = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if bytes.len() + chunk.len() > MAX_ANSWER {
            return Err(SocialError::Malformed);
        }
        bytes.extend_from_slice(&chunk);
    }
    let body = serde_json::from_slice(&bytes).ok();
    if body.is_none() && status >= 500 {
        return Err(SocialError::Away(format!("status {status}")));
    }
    Ok(Exchange { status, headers, body })
}

/// An id, whether it comes as text or as a whole number of 64 bits. None where it is empty, too long, or a number that is not whole.
#[must_use]
pub fn id(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        _ => return None,
    };
    (!text.is_empty() && text.len() <= MAX_ID && !text.contains('\0')).then_some(text)
}

/// A count, whether it comes as a number or as text.
#[must_use]
pub fn count(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// A text that is not empty.
#[must_use]
pub fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

/// A time as Meta writes it, in `2026-11-30T10:11:12+0000`, which is not that of RFC 3339.
#[must_use]
pub fn time(value: &Value) -> Option<DateTime<Utc>> {
    let text = value.as_str()?;
    let parsed = DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%z").or_else(|_| DateTime::parse_from_rfc3339(text));
    Some(parsed.ok()?.to_utc())
}

/// As a segment of a path.
#[must_use]
pub fn segment(text: &str) -> String {
    let mut segment = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_lose_nothing_in_either_form() {
        assert_eq!(id(&json!(7_600_000_000_000_000_001_u64)).as_deref(), Some("7600000000000000001"));
        assert_eq!(id(&json!("17841400000000000")).as_deref(), Some("17841400000000000"));
        for none in [json!(1.5), json!(""), json!(null), json!([])] {
            assert_eq!(id(&none), None, "{none}");
        }
    }

    #[test]
    fn an_id_leads_to_no_other_path() {
        assert_eq!(segment("a/../b?c=ö."), "a%2F%2E%2E%2Fb%3Fc%3D%C3%B6%2E");
    }
}
