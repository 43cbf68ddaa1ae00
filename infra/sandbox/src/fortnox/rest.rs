//! The API: who may ask, how often, and which answer belongs to which path.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use axum::{
    Extension, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{
    Fault, Fortnox, json, lock, oauth,
    params::Query,
    refusal::Refusal,
    world::{Company, World},
};
use crate::{
    Script,
    consent::{get, pairs},
};

/// How many requests are remembered.
const REMEMBERED: usize = 20_000;
/// The most a request may hold, in bytes.
const MAX_REQUEST: usize = 1024 * 1024;

/// A request, whatever it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// When it came, by the sandbox's clock, in unix milliseconds.
    pub at: i64,
    /// The method.
    pub method: String,
    /// The path, with the query.
    pub path: String,
    /// For whom its token speaks, expired or not.
    pub tenant: Option<i64>,
    /// The status it was answered with, or 0 if it was not answered yet. Also that of an answer that was lost.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// What was asked.
#[derive(Default)]
pub(super) struct Log {
    requests: VecDeque<Recorded>,
    forgotten: usize,
    token_requests: BTreeMap<String, usize>,
}

impl Log {
    /// Its place, to note the status at.
    fn record(&mut self, request: Recorded) -> usize {
        if self.requests.len() == REMEMBERED {
            self.requests.pop_front();
            self.forgotten += 1;
        }
        self.requests.push_back(request);
        self.forgotten + self.requests.len() - 1
    }

    fn answered(&mut self, place: usize, status: u16) {
        let found = place.checked_sub(self.forgotten).and_then(|at| self.requests.get_mut(at));
        if let Some(request) = found {
            request.status = status;
        }
    }
}

/// Whether the rate limit lets this call through.
#[derive(Debug, Clone, Copy)]
struct Admitted(bool);

pub(crate) fn router(fortnox: &Arc<Fortnox>, script: &Arc<Script>) -> Router {
    let router = Router::new().fallback(answer).with_state(Arc::clone(fortnox));
    script.direct(router).layer(from_fn_with_state(Arc::clone(fortnox), record))
}

impl Fortnox {
    /// The latest requests, whatever they were answered, in the order in which they came.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.log).requests.iter().cloned().collect()
    }

    /// How many token requests there were, by grant, whatever they were answered.
    #[must_use]
    pub fn token_requests(&self) -> BTreeMap<String, usize> {
        lock(&self.log).token_requests.clone()
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn bearer(headers: &HeaderMap) -> &str {
    text(headers, header::AUTHORIZATION).strip_prefix("Bearer ").unwrap_or_default()
}

/// Outside of the script, so that what was answered with a fault is known as well, and counts for the rate.
async fn record(State(fortnox): State<Arc<Fortnox>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_REQUEST).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let path = parts.uri.path();
    let (at, tenant, admitted) = {
        let mut world = fortnox.world();
        let at = world.now();
        let tenant = world.grants.tenant_of(bearer(&parts.headers)).filter(|_| path.starts_with("/3/"));
        (at, tenant, tenant.is_none_or(|tenant| world.limits.admit(tenant, at)))
    };
    let place = {
        let mut log = lock(&fortnox.log);
        if path == "/oauth-v1/token" {
            let form = pairs(&body);
            let grant = get(&form, "grant_type").unwrap_or_default().to_owned();
            *log.token_requests.entry(grant).or_default() += 1;
        }
        log.record(Recorded {
            at,
            method: parts.method.to_string(),
            path: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            tenant,
            status: 0,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    parts.extensions.insert(Admitted(admitted));
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    lock(&fortnox.log).answered(place, response.status().as_u16());
    response
}

async fn answer(
    State(fortnox): State<Arc<Fortnox>>,
    Extension(admitted): Extension<Admitted>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let fault = fortnox.meet(&method, uri.path());
    if let Some(instead) = fault.as_ref().and_then(Fault::instead) {
        return instead;
    }
    if let Some(Fault::Slow(by)) = fault {
        tokio::time::sleep(by).await;
    }
    let answer = fortnox.respond(admitted, &method, &uri, &headers, &body);
    if let Some(Fault::Held(gate)) = &fault {
        fortnox.held.send_modify(|held| *held += 1);
        gate.opened().await;
    }
    match fault {
        Some(fault) => fault.spoil(answer),
        None => answer,
    }
}

impl Fortnox {
    fn respond(&self, admitted: Admitted, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Response {
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        let mut world = self.world();
        if !path.starts_with("/3/") {
            return oauth::answer(&mut world, method, path, query, headers, body);
        }
        match world.rest(admitted, method, path, &Query::parse(query), headers, body) {
            Ok((status, body)) => json::answer(status, "application/json", json::text(&body)),
            Err(refusal) => refusal.into_response(),
        }
    }
}

/// The scope that a resource needs.
fn scope(resource: &[&str]) -> Result<&'static str, Refusal> {
    match resource {
        ["companyinformation", ..] => Ok("companyinformation"),
        ["settings", "company" | "lockedperiod"] => Ok("settings"),
        ["customers", ..] => Ok("customer"),
        ["accounts" | "voucherseries" | "financialyears" | "vouchers", ..] => Ok("bookkeeping"),
        ["costcenters", ..] => Ok("costcenter"),
        ["invoices", ..] => Ok("invoice"),
        _ => Err(Refusal::path()),
    }
}

impl World {
    /// Checks in this order: the token, the rate, the path, licences and scope, headers; then the resource itself.
    fn rest(
        &mut self,
        Admitted(admitted): Admitted,
        method: &Method,
        path: &str,
        query: &Query,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(u16, Value), Refusal> {
        let now = self.now();
        let access = self.grants.access(bearer(headers), now).ok_or_else(Refusal::token)?;
        let company = self.companies.get_mut(&access.tenant).ok_or_else(Refusal::token)?;
        if !admitted {
            return Err(Refusal::too_many());
        }
        let segments: Vec<&str> = path.trim_matches('/').split('/').skip(1).collect();
        let scope = scope(&segments)?;
        if !company.api_licence {
            return Err(Refusal::api_licence());
        }
        if !access.scopes.iter().any(|given| given == scope) {
            return Err(Refusal::scope());
        }
        if company.unlicensed.contains(scope) {
            return Err(Refusal::licence());
        }
        // Fortnox has a default; a client that relies on it is not what we want.
        if !text(headers, header::ACCEPT).contains("application/json") {
            return Err(Refusal::invalid(1_000_030, "Invalid response type"));
        }
        let writes = method == Method::POST || method == Method::PUT;
        if writes && !text(headers, header::CONTENT_TYPE).starts_with("application/json") {
            return Err(Refusal::invalid(1_000_031, "Invalid content type"));
        }
        match *method {
            Method::GET => company.read(&segments, query, &self.url, now).map(|body| (200, body)),
            Method::POST => company.create(&segments, query, body, &self.url, now).map(|body| (201, body)),
            Method::PUT => company.update(&segments, query, body, &self.url, now).map(|body| (200, body)),
            _ => Err(Refusal::method()),
        }
    }
}

impl Company {
    fn read(&self, segments: &[&str], query: &Query, url: &str, now: i64) -> Result<Value, Refusal> {
        let alone = || query.only(&[]);
        match segments {
            ["companyinformation"] => alone().map(|()| self.information()),
            ["settings", "company"] => alone().map(|()| self.settings()),
            ["settings", "lockedperiod"] => alone().map(|()| self.locked_period()),
            ["customers"] => self.list_customers(query, url),
            ["customers", number] => alone().and_then(|()| self.customer(number, url)),
            ["accounts"] => self.list_accounts(query, url),
            ["accounts", number] => self.account(number, query, url),
            ["voucherseries"] => self.list_series(query, url),
            ["voucherseries", code] => self.series(code, query, url),
            ["financialyears"] => self.list_years(query, url),
            ["financialyears", id] => alone().and_then(|()| self.financial_year(id, url)),
            ["costcenters"] => self.list_cost_centers(query, url),
            ["costcenters", code] => alone().and_then(|()| self.cost_center(code, url)),
            ["vouchers"] | ["vouchers", "sublist"] => self.list_vouchers(None, query, url),
            ["vouchers", "sublist", series] => self.list_vouchers(Some(series), query, url),
            ["vouchers", series, number] => self.voucher(series, number, query, url),
            ["invoices"] => self.list_invoices(query, url, now),
            ["invoices", number] => alone().and_then(|()| self.invoice(number, url)),
            _ => Err(Refusal::path()),
        }
    }

    fn create(&mut self, segments: &[&str], query: &Query, body: &[u8], url: &str, now: i64) -> Result<Value, Refusal> {
        match segments {
            ["customers"] => query.only(&[]).and_then(|()| self.create_customer(body, url, now)),
            ["voucherseries"] => self.create_series(query, body, url),
            ["vouchers"] => self.create_voucher(query, body, url),
            _ => Err(Refusal::method()),
        }
    }

    fn update(&mut self, segments: &[&str], query: &Query, body: &[u8], url: &str, now: i64) -> Result<Value, Refusal> {
        match segments {
            ["customers", number] => query.only(&[]).and_then(|()| self.update_customer(number, body, url, now)),
            _ => Err(Refusal::method()),
        }
    }
}
