//! Stripe's API, as far as billing calls it. Each call is made once more where that may help: all are safe to repeat.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use chrono::DateTime;
use reqwest::{Client, RequestBuilder, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tokio::{sync::OnceCell, time::Instant};
use url::{Url, form_urlencoded};

use super::http_client;
use crate::secrets::{Secret, SecretError, SecretValue, Secrets};

/// The version of the API that answers and events are read in.
pub const API_VERSION: &str = "2026-07-29.dahlia";

/// The most an answer may hold, in bytes: a page of a hundred invoices is under one megabyte.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How long before a call is made once more.
const PAUSE: Duration = Duration::from_millis(300);

/// Why Stripe was of no help.
#[derive(Debug, thiserror::Error)]
pub enum StripeError {
    /// There is no such object.
    #[error("Stripe has no such object")]
    Missing,
    /// It refused the request, and would again.
    #[error("Stripe refused: {status} {code}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its code or type; never its message, which may repeat what was sent.
        code: String,
    },
    /// It may help another time.
    #[error("Stripe cannot be reached or is busy: {0}")]
    Unavailable(String),
    /// The answer is not as documented.
    #[error("Stripe's answer is not as documented")]
    Malformed,
    /// What it shows is of live mode where test mode counts, or the other way round.
    #[error("Stripe's key is of the other mode")]
    WrongMode,
    /// There is no key.
    #[error("Stripe's key is not available")]
    Secret(#[from] SecretError),
}

impl StripeError {
    /// Whether it makes sense to ask again. A key that is refused or may not do this is somebody's to mend, and says nothing of what was
    /// asked about.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Missing => false,
            Self::Refused { status, .. } => matches!(status, 401 | 403 | 404),
            Self::Unavailable(_) | Self::Malformed | Self::WrongMode | Self::Secret(_) => true,
        }
    }
}

/// An answer, and when it was so.
#[derive(Debug)]
pub struct Fetched {
    /// The body.
    pub body: Bytes,
    /// A second, by Stripe's clock, in which what it says was already or still so.
    pub observed_at_s: i64,
}

impl Fetched {
    /// The body as JSON.
    ///
    /// # Errors
    /// [`StripeError::Malformed`] if it is none.
    pub fn json(&self) -> Result<Value, StripeError> {
        serde_json::from_slice(&self.body).map_err(|_| StripeError::Malformed)
    }
}

/// A client that is built on first use.
#[derive(Debug)]
pub struct Stripe {
    base: String,
    timeout: Duration,
    client: OnceCell<Client>,
    secrets: Arc<Secrets>,
}

impl Stripe {
    /// A client of the API at `base`, such as `https://api.stripe.com`, that waits at most `timeout` for an answer.
    #[must_use]
    pub fn new(base: &Url, timeout: Duration, secrets: Arc<Secrets>) -> Self {
        Self { base: base.as_str().trim_end_matches('/').to_owned(), timeout, client: OnceCell::new(), secrets }
    }

    /// Asks for what `path` names, with query parameters.
    ///
    /// # Errors
    /// [`StripeError`].
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Fetched, StripeError> {
        let query = encode(query);
        let url =
            if query.is_empty() { format!("{}{path}", self.base) } else { format!("{}{path}?{query}", self.base) };
        self.call(|client| client.get(&url)).await
    }

    /// Posts a form. `key` makes it safe to repeat: the same key has one effect.
    ///
    /// # Errors
    /// [`StripeError`].
    pub async fn post(&self, path: &str, form: &[(&str, &str)], key: &str) -> Result<Value, StripeError> {
        let (url, body) = (format!("{}{path}", self.base), encode(form));
        let ask = |client: &Client| {
            client
                .post(&url)
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .header("idempotency-key", key)
                .body(body.clone())
        };
        self.call(ask).await?.json()
    }

    /// Calls, and once more if it may help: both kinds of call are safe to repeat.
    async fn call(&self, build: impl Fn(&Client) -> RequestBuilder) -> Result<Fetched, StripeError> {
        let client = self
            .client
            .get_or_try_init(async || http_client(self.timeout))
            .await
            .map_err(|error| StripeError::Unavailable(error.without_url().to_string()))?;
        let key = self.secrets.get(Secret::StripeApiKey).await?;
        match Self::once(build(client), &key).await {
            Err(StripeError::Refused { status: 401, .. }) => {
                let fresh = self.secrets.refetch(Secret::StripeApiKey, &key).await?;
                Self::once(build(client), &fresh).await
            }
            Err(error @ (StripeError::Unavailable(_) | StripeError::Malformed)) => {
                tracing::warn!(%error, "Stripe is asked once more");
                tokio::time::sleep(PAUSE.mul_f64(1.0 + rand::random::<f64>())).await;
                Self::once(build(client), &key).await
            }
            other => other,
        }
    }

    async fn once(request: RequestBuilder, key: &SecretValue) -> Result<Fetched, StripeError> {
        let begun = Instant::now();
        let unavailable = |error: reqwest::Error| StripeError::Unavailable(error.without_url().to_string());
        let mut response = request
            .bearer_auth(key.expose())
            .header("stripe-version", API_VERSION)
            .send()
            .await
            .map_err(unavailable)?;
        let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
        let status = response.status();
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(StripeError::Malformed);
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            return Err(refusal(status, &body));
        }
        // The state was read between asking and answering. Taken as early as it can have been: what is said of a later second may
        // be newer, and counts more.
        let took = i64::try_from(begun.elapsed().as_secs_f64().ceil() as u64).unwrap_or(1);
        let observed_at_s = date.ok_or(StripeError::Malformed)?.timestamp() - took;
        Ok(Fetched { body: body.freeze(), observed_at_s })
    }
}

/// A list of Stripe's, page by page.
#[derive(Debug)]
pub struct Pages {
    path: String,
    query: Vec<(&'static str, String)>,
    after: Option<String>,
    /// Whether there is no further page.
    pub ended: bool,
}

/// Some of a list, and when it was so.
#[derive(Debug)]
pub struct Page {
    /// In the list's order.
    pub items: Vec<Item>,
    /// As of [`Fetched`].
    pub observed_at_s: i64,
}

/// An object as a list has it.
#[derive(Debug)]
pub struct Item {
    /// Its id.
    pub id: String,
    /// As it came.
    pub raw: Box<RawValue>,
}

impl Pages {
    /// All that `path` lists with these query parameters, a hundred at a time.
    pub fn of(path: impl Into<String>, mut query: Vec<(&'static str, String)>) -> Self {
        query.push(("limit", "100".to_owned()));
        Self { path: path.into(), query, after: None, ended: false }
    }

    /// The next page; `None` after the last.
    ///
    /// # Errors
    /// [`StripeError`]; the same page can be asked for again.
    pub async fn next(&mut self, stripe: &Stripe) -> Result<Option<Page>, StripeError> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<Box<RawValue>>,
            has_more: bool,
        }
        #[derive(Deserialize)]
        struct Named {
            id: String,
        }
        if self.ended {
            return Ok(None);
        }
        let mut query: Vec<(&str, &str)> = self.query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        query.extend(self.after.as_deref().map(|after| ("starting_after", after)));
        let Fetched { body, observed_at_s } = stripe.get(&self.path, &query).await?;
        let list: List = serde_json::from_slice(&body).map_err(|_| StripeError::Malformed)?;
        let mut items = Vec::new();
        for raw in list.data {
            let named: Named = serde_json::from_str(raw.get()).map_err(|_| StripeError::Malformed)?;
            items.push(Item { id: named.id, raw });
        }
        let last = items.last().map(|item| item.id.clone());
        // More is to come, and this page does not say after what: where the list ends is not known.
        if list.has_more && (last.is_none() || last == self.after) {
            return Err(StripeError::Malformed);
        }
        (self.after, self.ended) = (last, !list.has_more);
        Ok(Some(Page { items, observed_at_s }))
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> StripeError {
    let error = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let word = |name: &str| error["error"][name].as_str().filter(|text| text.len() <= 100).map(str::to_owned);
    let code = word("code").or_else(|| word("type")).unwrap_or_default();
    match status.as_u16() {
        // The second API has a word of its own.
        404 if code == "resource_missing" || code == "not_found" => StripeError::Missing,
        409 | 429 | 500..=599 => StripeError::Unavailable(format!("{status} {code}")),
        status => StripeError::Refused { status, code },
    }
}

fn encode(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Where an object is asked for, by the beginning of its id. `None` for a kind that billing does not ask for.
#[must_use]
pub fn path_of(object_id: &str) -> Option<String> {
    let (prefix, _) = object_id.split_once('_')?;
    let list = match prefix {
        "cus" => "customers",
        "in" => "invoices",
        "sub" => "subscriptions",
        "cs" => "checkout/sessions",
        "inpay" => "invoice_payments",
        "ch" | "py" => "charges",
        "pi" => "payment_intents",
        "re" | "pyr" => "refunds",
        "dp" | "du" => "disputes",
        _ => return None,
    };
    Some(format!("/v1/{list}/{object_id}"))
}
