//! What the social platforms have in common as servers: they remember what they were asked, and some calls go wrong.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use chrono::DateTime;
use futures::stream;
use tokio::sync::watch;

use crate::{Calls, Gate, Script, plan::Plan};

/// How many requests are remembered.
const REMEMBERED: usize = 20_000;
/// The most a request may hold, in bytes.
const MAX_REQUEST: usize = 1024 * 1024;

/// A request, answered or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// When it came, by the sandbox's clock, in unix milliseconds.
    pub at: i64,
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The query as it came, without the access token.
    pub query: String,
    /// For which account its token speaks, expired or not.
    pub account: Option<String>,
    /// The status it was answered with, or 0 if it was not carried out, or not yet. Also that of an answer that was lost.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// What goes wrong with a call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is carried out, and the connection is closed before a byte of the answer.
    Lost,
    /// It is not carried out, and the connection is closed likewise.
    Dropped,
    /// The connection is closed likewise, and it is carried out so many seconds later by the sandbox's clock: at the next call, act or
    /// look at what was sent from then on.
    Late(i64),
    /// It is answered once the gate is opened.
    Held(Gate),
    /// It is answered this much later.
    Slow(Duration),
    /// It is answered with this status, 503 or 504, and a page in HTML.
    Down(u16),
    /// It fails for once, with this code at Instagram, which has 1 and 2.
    Transient(i64),
    /// It is refused as if the rate were too high.
    RateLimited,
}

/// How something was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentKind {
    /// A message to a person at Instagram, and in a conversation at TikTok.
    Message,
    /// A message to a person who commented, named by the comment.
    PrivateReply,
    /// A public answer to a comment.
    Reply,
}

/// Something that the application sent through the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The id that it got.
    pub id: String,
    /// How.
    pub kind: SentKind,
    /// The person, the conversation or the comment that the request named.
    pub to: String,
    /// What it says.
    pub text: String,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A provider behind this.
pub(crate) trait Provider: Send + Sync + 'static {
    /// The kinds of calls that faults are arranged for.
    type Call: Copy + Eq + Hash + Send + Sync;

    fn front(&self) -> &Front<Self::Call>;
    /// Unix time in milliseconds.
    fn clock(&self) -> i64;
    /// For which account the request's token speaks.
    fn account_of(&self, uri: &Uri, headers: &HeaderMap) -> Option<String>;
    /// The kinds that a request belongs to, the narrowest first.
    fn kinds(&self, method: &Method, path: &str) -> Vec<Self::Call>;
    /// The grant that a request for tokens names.
    fn grant(&self, uri: &Uri, body: &[u8]) -> Option<String>;
    /// How it words a fault that keeps it from answering.
    fn refuse(&self, fault: &Fault, path: &str) -> Option<Response>;
    fn respond(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Response;
}

/// A request that is carried out later.
struct Later {
    due: i64,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

/// What was asked, and what is to go wrong.
pub(crate) struct Front<C> {
    log: Mutex<(VecDeque<Recorded>, usize)>,
    token_requests: Mutex<BTreeMap<String, usize>>,
    later: Mutex<Vec<Later>>,
    plans: Mutex<HashMap<C, Plan<Fault>>>,
    /// The status it answers with until this moment.
    outage: Mutex<Option<(u16, i64)>>,
    held: watch::Sender<usize>,
}

impl<C> Default for Front<C> {
    fn default() -> Self {
        Self {
            log: Mutex::default(),
            token_requests: Mutex::default(),
            later: Mutex::default(),
            plans: Mutex::default(),
            outage: Mutex::default(),
            held: watch::Sender::default(),
        }
    }
}

impl<C: Copy + Eq + Hash> Front<C> {
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        lock(&self.log).0.iter().cloned().collect()
    }

    /// How many requests for tokens there were, by grant, answered or refused.
    pub(crate) fn token_requests(&self) -> BTreeMap<String, usize> {
        lock(&self.token_requests).clone()
    }

    pub(crate) fn arrange(&self, call: C, fault: Fault, calls: Calls) {
        lock(&self.plans).entry(call).or_default().arrange(fault, calls);
    }

    pub(crate) fn clear(&self) {
        lock(&self.plans).values_mut().for_each(Plan::clear);
        *lock(&self.outage) = None;
    }

    pub(crate) fn met(&self, call: C) -> usize {
        lock(&self.plans).get(&call).map_or(0, Plan::met)
    }

    pub(crate) fn set_outage(&self, status: u16, until: i64) {
        *lock(&self.outage) = Some((status, until));
    }

    pub(crate) async fn held_times(&self, times: usize) {
        let mut held = self.held.subscribe();
        // The sender lives as long as we do.
        let _ = held.wait_for(|held| *held >= times).await;
    }

    /// Counts a call. The fault of the narrower kind goes first, and an outage before all.
    fn meet(&self, kinds: &[C], now: i64) -> Option<Fault> {
        let mut plans = lock(&self.plans);
        let met: Vec<_> = kinds.iter().map(|kind| plans.entry(*kind).or_default().meet()).collect();
        let outage = lock(&self.outage).filter(|(_, until)| now < *until).map(|(status, _)| Fault::Down(status));
        outage.or_else(|| met.into_iter().flatten().next())
    }

    /// Its place, to note the status at.
    fn record(&self, request: Recorded) -> usize {
        let (requests, forgotten) = &mut *lock(&self.log);
        if requests.len() == REMEMBERED {
            requests.pop_front();
            *forgotten += 1;
        }
        requests.push_back(request);
        *forgotten + requests.len() - 1
    }

    fn answered(&self, place: usize, status: u16) {
        let (requests, forgotten) = &mut *lock(&self.log);
        if let Some(request) = place.checked_sub(*forgotten).and_then(|at| requests.get_mut(at)) {
            request.status = status;
        }
    }
}

/// Carries out the late requests whose time has come.
pub(crate) fn catch_up<P: Provider>(provider: &P) {
    let now = provider.clock();
    let mut due: Vec<Later> = lock(&provider.front().later).extract_if(.., |later| later.due <= now).collect();
    due.sort_by_key(|later| later.due);
    for later in due {
        provider.respond(&later.method, &later.uri, &later.headers, &later.body);
    }
}

pub(crate) fn router<P: Provider>(provider: &Arc<P>, script: &Arc<Script>) -> Router {
    let router = Router::new().fallback(answer::<P>).with_state(Arc::clone(provider));
    script.direct(router).layer(from_fn_with_state(Arc::clone(provider), record::<P>))
}

/// Outside of the script, so that what was answered with a fault is known as well.
async fn record<P: Provider>(State(provider): State<Arc<P>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_REQUEST).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let query = parts.uri.query().unwrap_or_default();
    let shown: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("access_token=")).collect();
    if let Some(grant) = provider.grant(&parts.uri, &body) {
        *lock(&provider.front().token_requests).entry(grant).or_default() += 1;
    }
    let at = provider.clock();
    let place = provider.front().record(Recorded {
        at,
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: shown.join("&"),
        account: provider.account_of(&parts.uri, &parts.headers),
        status: 0,
        body: String::from_utf8_lossy(&body).into_owned(),
    });
    let mut response = next.run(Request::from_parts(parts, Body::from(body))).await;
    if response.extensions().get::<NotDone>().is_none() {
        provider.front().answered(place, response.status().as_u16());
    }
    let date = DateTime::from_timestamp_millis(at).unwrap_or_default().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    if let Ok(date) = HeaderValue::from_str(&date) {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

async fn answer<P: Provider>(
    State(provider): State<Arc<P>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let front = provider.front();
    catch_up(&*provider);
    let fault = front.meet(&provider.kinds(&method, uri.path()), provider.clock());
    match &fault {
        Some(Fault::Down(status)) => return down(*status),
        Some(Fault::Dropped) => return not_done(),
        Some(Fault::Late(seconds)) => {
            let due = provider.clock() + seconds * 1000;
            lock(&front.later).push(Later { due, method, uri, headers, body });
            return not_done();
        }
        Some(Fault::Slow(by)) => tokio::time::sleep(*by).await,
        Some(fault) => {
            if let Some(refused) = provider.refuse(fault, uri.path()) {
                return refused;
            }
        }
        None => {}
    }
    let answer = provider.respond(&method, &uri, &headers, &body);
    match &fault {
        Some(Fault::Held(gate)) => {
            front.held.send_modify(|held| *held += 1);
            gate.opened().await;
            answer
        }
        Some(Fault::Lost) => lost(answer),
        _ => answer,
    }
}

/// What a proxy in front of it says, which is no JSON.
fn down(status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let page = format!("<!DOCTYPE html><html><head><title>Error</title></head><body><h1>{status}</h1></body></html>");
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

/// Marks an answer to a request that was not carried out.
#[derive(Clone)]
struct NotDone;

fn not_done() -> Response {
    let mut answer = lost(Response::default());
    answer.extensions_mut().insert(NotDone);
    answer
}

fn lost(answer: Response) -> Response {
    let (mut parts, _) = answer.into_parts();
    parts.headers.clear();
    // A body that fails at once closes the connection before the head is written.
    let lost = stream::iter([Err::<Bytes, _>(io::Error::other("lost"))]);
    Response::from_parts(parts, Body::from_stream(lost))
}

/// An answer in JSON.
pub(crate) fn json(status: u16, body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "application/json; charset=UTF-8")], body).into_response()
}

pub(crate) fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
