//! The API: who may ask, what was asked before, and which answer belongs to which path.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    Stripe,
    form::Form,
    lock,
    objects::{CURRENT, Shape},
    pages,
    refusal::Refusal,
    world::{World, new_id},
};
use crate::Script;

/// How long an answer is kept for its idempotency key.
const KEPT: i64 = 24 * 3600;
/// How many requests are remembered.
const REMEMBERED: usize = 1000;
/// The most a request may hold, in bytes.
const MAX_REQUEST: usize = 1024 * 1024;

/// A request to the API, whatever it was answered.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The parameters of query and body, in order.
    pub parameters: Vec<(String, String)>,
    /// `Stripe-Version`.
    pub version: Option<String>,
    /// `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// `Stripe-Request-Trigger`.
    pub trigger: Option<String>,
    /// What it was answered with as `request-id`.
    pub request_id: String,
}

/// What the API remembers of those who ask.
#[derive(Default)]
pub(super) struct Kept {
    requests: VecDeque<Recorded>,
    answers: HashMap<String, Answered>,
}

impl Kept {
    fn record(&mut self, request: Recorded) {
        if self.requests.len() == REMEMBERED {
            self.requests.pop_front();
        }
        self.requests.push_back(request);
    }
}

/// The first answer to an idempotency key.
struct Answered {
    at: i64,
    asked: String,
    status: StatusCode,
    body: Value,
}

/// What this request is answered with as `request-id`.
#[derive(Clone)]
struct RequestId(String);

/// One request, as far as an answer depends on it.
pub(super) struct Asked<'a> {
    pub(super) path: &'a str,
    pub(super) form: Form,
    pub(super) shape: Shape,
    /// What events say of the request that they come of.
    pub(super) request: Value,
}

pub(crate) fn router(stripe: &Arc<Stripe>, script: &Arc<Script>) -> Router {
    let pages = Router::new()
        .route("/c/pay/{session}", get(pages::checkout).post(pages::pay))
        .route("/p/session/{session}", get(pages::portal).post(pages::leave));
    let router = pages.fallback(answer).with_state(Arc::clone(stripe));
    script.direct(router).layer(from_fn_with_state(Arc::clone(stripe), record))
}

impl Stripe {
    /// The latest requests, whatever they were answered, the oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.kept).requests.iter().cloned().collect()
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Outside of the script, so that what was answered with a fault is known as well.
async fn record(State(stripe): State<Arc<Stripe>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_REQUEST).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let request_id = new_id("req");
    let mut parameters = Form::parse(parts.uri.query().unwrap_or_default().as_bytes()).0;
    parameters.extend(Form::parse(&body).0);
    lock(&stripe.kept).record(Recorded {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        parameters,
        version: text(&parts.headers, "stripe-version"),
        idempotency_key: text(&parts.headers, "idempotency-key"),
        trigger: text(&parts.headers, "stripe-request-trigger"),
        request_id: request_id.clone(),
    });
    parts.extensions.insert(RequestId(request_id.clone()));
    let version = parts.headers.get("stripe-version").cloned();
    let mut response = next.run(Request::from_parts(parts, Body::from(body))).await;
    let headers = response.headers_mut();
    headers.insert("stripe-version", version.unwrap_or(HeaderValue::from_static(CURRENT)));
    if let Ok(request_id) = request_id.parse() {
        headers.insert("request-id", request_id);
    }
    // By the clock that dates events, so that an answer is as old as what it says.
    let date = chrono::DateTime::from_timestamp(stripe.now(), 0).unwrap_or_default();
    if let Ok(date) = date.format("%a, %d %b %Y %H:%M:%S GMT").to_string().parse() {
        headers.insert("date", date);
    }
    response
}

async fn answer(
    State(stripe): State<Arc<Stripe>>,
    Extension(RequestId(id)): Extension<RequestId>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(refusal) = stripe.admit(&headers) {
        return refusal.into_response();
    }
    let shape = text(&headers, "stripe-version").map_or(Shape::Current, |version| Shape::of_version(&version));
    let key = text(&headers, "idempotency-key");
    let request = json!({ "id": id, "idempotency_key": key });
    let asked = |encoded| Asked { path: uri.path(), form: Form::parse(encoded), shape, request };
    let answered = match method {
        Method::GET => stripe.read(&asked(uri.query().unwrap_or_default().as_bytes())),
        Method::POST => {
            let kind = text(&headers, "content-type").unwrap_or_default();
            if !body.is_empty() && !kind.starts_with("application/x-www-form-urlencoded") {
                Err(Refusal::invalid("", "The request body must be application/x-www-form-urlencoded."))
            } else if let Some(key) = key {
                return stripe.write_once(&key, &asked(&body), &body);
            } else {
                stripe.write(&asked(&body))
            }
        }
        _ => Err(unrecognized(&method, uri.path())),
    };
    match answered {
        Ok(body) => Json(body).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

pub(super) fn unrecognized(method: &Method, path: &str) -> Refusal {
    Refusal { status: 404, ..Refusal::invalid("", format!("Unrecognized request URL ({method}: {path}).")) }
}

impl Stripe {
    /// Whether the key is ours, given as a bearer or as the user of Basic authentication.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let refuse = |message: &str| Refusal { status: 401, ..Refusal::invalid("", message) };
        let given = text(headers, header::AUTHORIZATION.as_str()).unwrap_or_default();
        let key = match given.split_once(' ') {
            Some(("Bearer", key)) => key.to_owned(),
            Some(("Basic", encoded)) => {
                let decoded = STANDARD.decode(encoded).unwrap_or_default();
                String::from_utf8_lossy(&decoded).trim_end_matches(':').to_owned()
            }
            _ => return Err(refuse("You did not provide an API key.")),
        };
        if key == self.key.get() { Ok(()) } else { Err(refuse("Invalid API Key provided: sk_test_****")) }
    }

    /// Answers a repeated request as the first time, whatever that was, and refuses another under the same key.
    fn write_once(&self, key: &str, asked: &Asked<'_>, body: &[u8]) -> Response {
        let now = self.now();
        let fingerprint = format!("{} {}", asked.path, String::from_utf8_lossy(body));
        // Held meanwhile: two requests with one key must not both be the first.
        let mut kept = lock(&self.kept);
        let known = kept.answers.get(key).filter(|answered| now - answered.at < KEPT);
        if let Some(known) = known {
            if known.asked != fingerprint {
                let message =
                    "Keys for idempotent requests can only be used with the same parameters they were first used with.";
                return Refusal { kind: "idempotency_error", ..Refusal::invalid("", message) }.into_response();
            }
            return (known.status, [("idempotent-replayed", "true")], Json(known.body.clone())).into_response();
        }
        let (status, body) = match self.write(asked) {
            Ok(body) => (StatusCode::OK, body),
            Err(refusal) => (refusal.http_status(), refusal.body()),
        };
        kept.answers.insert(key.to_owned(), Answered { at: now, asked: fingerprint, status, body: body.clone() });
        (status, Json(body)).into_response()
    }

    /// What POST does.
    fn write(&self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let mut world = self.world();
        world.request = asked.request.clone();
        let answered = Self::change(&mut world, asked);
        world.request = Value::Null;
        world.expand(answered?, asked)
    }

    fn change(world: &mut World, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let form = &asked.form;
        match segments(asked.path).as_slice() {
            ["v1", "customers"] => {
                form.only(&["email", "name", "metadata"])?;
                let id = world.create_customer(form.owned("email"), form.owned("name"), form.map("metadata"));
                Ok(world.customers.get(&id)?.render(asked.shape))
            }
            ["v1", "customers", id] => {
                form.only(&["email", "name", "metadata"])?;
                world.update_customer(id, form)?;
                Ok(world.customers.get(id)?.render(asked.shape))
            }
            ["v1", "checkout", "sessions"] => world.open_checkout(asked),
            ["v1", "checkout", "sessions", id, "expire"] => {
                form.only(&[])?;
                world.expire_checkout(id)?;
                Ok(world.checkouts.get(id)?.render(asked.shape))
            }
            ["v1", "billing_portal", "sessions"] => world.open_portal(asked),
            ["v1", "billing", "meter_events"] => world.report_usage(asked),
            _ => Err(unrecognized(&Method::POST, asked.path)),
        }
    }

    /// What GET does.
    fn read(&self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let world = self.world();
        let found = Self::find(&world, asked)?;
        world.expand(found, asked)
    }

    fn find(world: &World, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let shape = asked.shape;
        match segments(asked.path).as_slice() {
            ["v1", "events"] => world.list_events(asked),
            ["v1", "events", id] => world.event(id),
            ["v2", "core", "events", id] => world.thin_event(id),
            ["v1", "customers"] => world.list_customers(asked),
            ["v1", "customers", id] => Ok(world.customers.get(id)?.render(shape)),
            ["v1", "prices"] => world.list_prices(asked),
            ["v1", "prices", id] => Ok(world.prices.get(id)?.render(shape)),
            ["v1", "subscriptions"] => world.list_subscriptions(asked),
            ["v1", "subscriptions", id] => Ok(world.subscriptions.get(id)?.render(shape)),
            ["v1", "subscription_items"] => world.list_items(asked),
            ["v1", "invoices"] => world.list_invoices(asked),
            ["v1", "invoices", id] => Ok(world.invoice(id)?.render(shape)),
            ["v1", "invoices", id, "lines"] => world.list_lines(asked, id),
            ["v1", "invoice_payments"] => world.list_payments(asked),
            ["v1", "invoice_payments", id] => Ok(world.invoice_payments.get(id)?.render(shape)),
            ["v1", "charges"] => world.list_charges(asked),
            ["v1", "charges", id] => Ok(world.charges.get(id)?.render(shape)),
            ["v1", "payment_intents", id] => Ok(world.payment_intents.get(id)?.render(shape)),
            ["v1", "disputes"] => world.list_disputes(asked),
            ["v1", "disputes", id] => Ok(world.disputes.get(id)?.render(shape)),
            ["v1", "refunds"] => world.list_refunds(asked),
            ["v1", "refunds", id] => Ok(world.refunds.get(id)?.render(shape)),
            ["v1", "checkout", "sessions"] => world.list_checkouts(asked),
            ["v1", "checkout", "sessions", id] => Ok(world.checkouts.get(id)?.render(shape)),
            // There is one for every name. Not on our provider page: what it looks like.
            ["v1", "billing", "meters", id] if id.starts_with("mtr_") => Ok(json!({
                "id": id, "object": "billing.meter", "display_name": id, "event_name": id.trim_start_matches("mtr_"),
                "livemode": false, "status": "active",
            })),
            _ => Err(unrecognized(&Method::GET, asked.path)),
        }
    }
}

fn segments(path: &str) -> Vec<&str> {
    path.trim_matches('/').split('/').collect()
}
