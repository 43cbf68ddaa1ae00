//! The HTTP side of a function: requests in, replies and problem+json (RFC 9457) out. The only module that names a status code.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::{
    audit::AuditError,
    auth::AuthError,
    db::{Database, DbError, Fault},
    store::{StoreError, error_logs, idempotency::KeyedRequest},
    telemetry,
};

/// The most a JSON body may hold, in bytes.
const MAX_JSON_BYTES: usize = 64 * 1024;

/// The code of every answer that says that the database is away.
const DATABASE_UNAVAILABLE: &str = "database_unavailable";
/// How long an answer waits for its failure to be written down.
const NOTE: Duration = Duration::from_millis(500);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request, as the HTTP API sent it. The body is as on the wire: base64 is undone.
#[derive(Debug, Clone)]
pub struct HttpRequest {
    /// Method.
    pub method: Method,
    /// Path, percent-coded as it came.
    pub path: String,
    /// What followed the path's question mark, percent-coded as it came; empty if nothing did.
    pub query: Box<str>,
    /// Headers; names are lower case.
    pub headers: HeaderMap,
    /// Body; empty if there was none.
    pub body: Bytes,
    /// The gateway's id of the request.
    pub request_id: String,
    /// The client's address.
    pub source_ip: Option<String>,
}

impl HttpRequest {
    /// The path's segments, without empty ones at either end.
    #[must_use]
    pub fn segments(&self) -> Vec<&str> {
        self.path.trim_matches('/').split('/').collect()
    }

    /// The value of a cookie that the browser sent along.
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let sent = self.headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
        let mut pairs = sent.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Whether the client says that it takes JSON, as programs do and browsers' pages do not.
    #[must_use]
    pub fn accepts_json(&self) -> bool {
        let accepted = self.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        accepted
            .split(',')
            .any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")))
    }

    /// The client's own name for itself, cut to what is worth keeping.
    #[must_use]
    pub fn user_agent(&self) -> Option<&str> {
        let text = self.headers.get(header::USER_AGENT)?.to_str().ok()?;
        Some(text.get(..256).unwrap_or(text))
    }
}

/// Parses a JSON body into a wire type.
///
/// # Errors
/// [`ApiError`] that names the field or position which is wrong; never the value.
pub fn json<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, ApiError> {
    json_within(request, MAX_JSON_BYTES)
}

/// As [`json`], for a route that takes a body of up to `most` bytes.
///
/// # Errors
/// As [`json`].
pub fn json_within<T: DeserializeOwned>(request: &HttpRequest, most: usize) -> Result<T, ApiError> {
    let is_json = request.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|kind| {
        kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    });
    if !is_json {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content_type_unsupported",
            "Send the body as JSON, with the header `Content-Type: application/json`.",
        ));
    }
    if request.body.len() > most {
        return Err(ApiError::too_large(format!(
            "The body may hold at most {} KiB; put files through an upload.",
            most / 1024
        )));
    }
    serde_json::from_slice(&request.body).map_err(|error| {
        // serde names unknown or missing fields and positions; where it would quote a value, only the position is kept.
        let text = error.to_string();
        let safe = text.starts_with("missing field") || text.starts_with("unknown field") || text.starts_with("EOF");
        let detail = if safe {
            format!("The body is not what was expected: {text}.")
        } else {
            format!("The body is not what was expected, at line {} column {}.", error.line(), error.column())
        };
        ApiError::new(StatusCode::BAD_REQUEST, "body_invalid", detail)
    })
}

/// Parses the parameters of the query into a wire type, whose fields are texts.
///
/// # Errors
/// [`ApiError`] that names a parameter which is unknown or missing, or says that one came twice.
pub fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, ApiError> {
    let invalid = |detail: String| ApiError::bad_request("query_invalid", detail);
    let mut named = serde_json::Map::new();
    for (name, value) in url::form_urlencoded::parse(request.query.as_bytes()) {
        if named.insert(name.into_owned(), json!(value)).is_some() {
            return Err(invalid("A parameter of the query came twice.".to_owned()));
        }
    }
    serde_json::from_value(named.into())
        .map_err(|error| invalid(format!("The query is not what was expected: {error}.")))
}

/// The request's idempotency key, if it has one, with the hash that tells a replay from another request.
///
/// # Errors
/// [`ApiError`] if the key is empty, too long or not printable ASCII.
pub fn idempotency(request: &HttpRequest, operation: &'static str) -> Result<Option<KeyedRequest>, ApiError> {
    let Some(value) = request.headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=255).contains(&key.len()) => {
            let mut hash = Sha256::new();
            hash.update(request.path.as_bytes());
            hash.update([0]);
            hash.update(&request.body);
            Ok(Some(KeyedRequest { key: key.to_owned(), operation, hash: hash.finalize().into() }))
        }
        _ => Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "idempotency_key_invalid",
            "Idempotency-Key takes 1 to 255 printable ASCII characters.",
        )),
    }
}

/// Makes a response of what a route came to. A failure of ours or of a provider, 500 and above, leaves a row in `error_logs` for a
/// person to find: its code, the function and the request's id.
pub async fn answer(db: &Database, request: &HttpRequest, outcome: Result<HttpResponse, ApiError>) -> HttpResponse {
    let error = match outcome {
        Ok(response) => return response,
        Err(error) => error,
    };
    // A database that is away is not asked once more: the client waits for its answer.
    if error.status.is_server_error() && error.code != DATABASE_UNAVAILABLE {
        note(db, &format!("The request {} was answered {} {}.", request.request_id, error.status.as_u16(), error.code))
            .await;
    }
    error.into_response(&request.request_id)
}

/// Writes a row of `error_logs` in a transaction of its own. Best effort: the answer is the same whether it was written or not.
async fn note(db: &Database, message: &str) {
    let written = timeout(NOTE, async {
        match telemetry::organisation() {
            Some(org) => db.service(org, async |tx| error_logs::insert(tx, Some(org), message).await).await,
            None => db.directory(async |tx| error_logs::insert(tx, None, message).await).await,
        }
    });
    match written.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "a failure was not written down"),
        Err(_) => tracing::warn!("a failure was not written down in time"),
    }
}

/// A successful answer: status, headers and what becomes its JSON body.
#[derive(Debug)]
pub struct Reply<T> {
    status: StatusCode,
    headers: HeaderMap,
    body: T,
}

impl<T: Serialize> Reply<T> {
    /// 200.
    pub fn ok(body: T) -> Self {
        Self { status: StatusCode::OK, headers: HeaderMap::new(), body }
    }

    /// 201.
    pub fn created(body: T) -> Self {
        Self { status: StatusCode::CREATED, ..Self::ok(body) }
    }

    /// 202: the work goes on, and `location` tells how far it is.
    pub fn accepted(location: &str, body: T) -> Self {
        let mut reply = Self { status: StatusCode::ACCEPTED, ..Self::ok(body) };
        if let Ok(value) = HeaderValue::from_str(location) {
            reply.headers.insert(header::LOCATION, value);
        }
        reply
    }

    /// Adds when to ask again.
    #[must_use]
    pub fn retry_at(mut self, at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Self {
        if let Some(at) = at {
            self.headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds_until(at, now)));
        }
        self
    }

    /// With the body as JSON.
    ///
    /// # Errors
    /// [`ApiError`] if the body cannot be written as JSON.
    pub fn into_response(self) -> Result<HttpResponse, ApiError> {
        let body = serde_json::to_vec(&self.body).map_err(ApiError::internal)?;
        Ok(HttpResponse::new(self.status, self.headers, "application/json", body))
    }
}

/// An answer, ready for the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: BTreeMap<String, String>,
    /// Body, always text.
    pub body: String,
}

impl HttpResponse {
    fn new(status: StatusCode, headers: HeaderMap, content_type: &str, body: Vec<u8>) -> Self {
        let mut all: BTreeMap<String, String> = headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
            .collect();
        all.insert("content-type".to_owned(), content_type.to_owned());
        // Every answer is somebody's: no cache between here and them may keep it.
        all.insert("cache-control".to_owned(), "no-store".to_owned());
        Self { status: status.as_u16(), headers: all, body: String::from_utf8_lossy(&body).into_owned() }
    }

    /// 303: leads a browser elsewhere. What it came with is not told there.
    #[must_use]
    pub fn see_other(location: &str) -> Self {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(location) {
            headers.insert(header::LOCATION, value);
        }
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        Self::new(StatusCode::SEE_OTHER, headers, "text/plain; charset=utf-8", Vec::new())
    }

    /// 200: text that a program asked for, and nothing else.
    #[must_use]
    pub fn plain(text: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Self::new(StatusCode::OK, headers, "text/plain; charset=utf-8", text.as_bytes().to_vec())
    }

    /// 200: a page for a person whom no app waits for. Texts of our own, with nothing that HTML would need to escape; `code` says the same to
    /// a program.
    #[must_use]
    pub fn page(title: &str, text: &str, code: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
        );
        let page = format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{title}</title>\n<h1>{title}</h1>\n<p data-code=\"{code}\">{text}</p>\n</html>\n"
        );
        Self::new(StatusCode::OK, headers, "text/html; charset=utf-8", page.into_bytes())
    }

    /// Sets a cookie, as `Set-Cookie` has it.
    #[must_use]
    pub fn with_cookie(mut self, cookie: &str) -> Self {
        self.headers.insert("set-cookie".to_owned(), cookie.to_owned());
        self
    }
}

/// A failed request: what the client may see, and what only the log may see.
///
/// Deliberately not `Display`, so the cause cannot be formatted into a body.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: Cow<'static, str>,
    detail: Cow<'static, str>,
    retry_after_s: Option<i64>,
    allow: Option<&'static str>,
    members: Option<Box<Value>>,
    cause: Option<BoxError>,
}

impl ApiError {
    fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code: code.into(),
            detail: detail.into(),
            retry_after_s: None,
            allow: None,
            members: None,
            cause: None,
        }
    }

    /// 400: not what this route takes, and not worth trying again.
    pub fn bad_request(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 413.
    pub fn too_large(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    }

    /// 502: somebody we asked on the caller's behalf refused. The cause is logged.
    pub fn bad_gateway(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, code, detail)
    }

    /// 422: well formed, and not acceptable. `detail` says what to change.
    pub fn unprocessable(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// 403: who asks may not, whatever they change about the request.
    pub fn forbidden(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail)
    }

    /// 404 for a name that is not on a list; `detail` says what is.
    pub fn unknown(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// 404, also for what belongs to another organisation: the answer must not confirm that it exists.
    #[must_use]
    pub fn not_found(entity: &str) -> Self {
        let words = entity.replace('_', " ");
        Self::new(StatusCode::NOT_FOUND, format!("{entity}_not_found"), format!("There is no such {words}."))
    }

    /// 404 for a path that is no route.
    #[must_use]
    pub fn no_route() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "route_not_found",
            "There is nothing at this path; docs/FEATURES.md lists the routes.",
        )
    }

    /// 405. `allow` names the methods that the path takes, as in `GET, POST`.
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("This path does not take this method; it takes {allow}.");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail) }
    }

    /// 409: the state it is in forbids it.
    pub fn conflict(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// 429: what was asked for has no room now, and will have when `until` has come.
    pub fn too_many(
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Self {
        let retry_after_s = Some(seconds_until(until, now));
        Self { retry_after_s, ..Self::new(StatusCode::TOO_MANY_REQUESTS, code, detail) }
    }

    /// 503, with when to try again.
    pub fn unavailable(code: &'static str, detail: impl Into<Cow<'static, str>>, retry_after_s: i64) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail) }
    }

    /// 500. The cause is logged, and the body carries no word of it.
    pub fn internal(cause: impl Into<BoxError>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                "Something went wrong on our side; give the request id when you ask about it.",
            )
        }
    }

    /// What a failure of the database is to the client.
    fn of_database(fault: Fault, cause: impl Into<BoxError>) -> Self {
        let (code, detail, retry_after_s) = match fault {
            Fault::Gone => (DATABASE_UNAVAILABLE, "The database cannot be reached; try again shortly.", 5),
            Fault::Busy => ("database_busy", "The database is busy; try again shortly.", 1),
            Fault::Ours => return Self::internal(cause),
        };
        Self::unavailable(code, detail, retry_after_s).because(cause)
    }

    /// Adds the fields of an object to the body, as RFC 9457 provides.
    #[must_use]
    pub fn with(mut self, members: Value) -> Self {
        self.members = Some(Box::new(members));
        self
    }

    /// Records what the client must not see.
    #[must_use]
    pub fn because(mut self, cause: impl Into<BoxError>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// As problem+json; logs the cause, once.
    #[must_use]
    pub fn into_response(self, request_id: &str) -> HttpResponse {
        if self.status.is_server_error() {
            let cause = self.cause.as_deref().map(chain).unwrap_or_default();
            tracing::error!(code = %self.code, status = self.status.as_u16(), cause, "request failed");
        } else {
            tracing::info!(code = %self.code, status = self.status.as_u16(), "request refused");
        }
        let mut body = json!({
            "type": format!("urn:spine:problem:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
            "request_id": request_id,
        });
        for (name, value) in self.members.iter().filter_map(|members| members.as_object()).flatten() {
            body[name] = value.clone();
        }
        let mut headers = HeaderMap::new();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(methods) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let mut response =
            HttpResponse::new(self.status, headers, "application/problem+json", body.to_string().into_bytes());
        response.headers.insert(HeaderName::from_static("x-request-id").to_string(), request_id.to_owned());
        response
    }
}

/// An error and what caused it, on one line.
fn chain(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if let Some(refused) = error.refusal()
            && let Ok(status) = StatusCode::from_u16(refused.status)
        {
            return Self::new(status, refused.code, refused.detail);
        }
        // No wildcard arm: a new variant must choose its status here.
        match error {
            StoreError::NotFound { entity } => Self::not_found(entity),
            StoreError::Forbidden { permission } => Self::new(
                StatusCode::FORBIDDEN,
                "permission_missing",
                format!("Your role does not include `{permission}`; an owner or admin can grant it."),
            ),
            StoreError::NoOrganisation => Self::new(
                StatusCode::FORBIDDEN,
                "organization_missing",
                "You are in no organisation, or your session has ended. Name yours in the header `Spine-Org`, or sign in again.",
            ),
            StoreError::KeyReused => Self::unprocessable(
                "idempotency_key_reused",
                "This Idempotency-Key came with another request; use a new key for a new request.",
            ),
            StoreError::Database(ref failed) => Self::of_database(Fault::of(failed), error),
            StoreError::Unreadable { .. } => Self::internal(error),
            StoreError::Transaction(error) => error.into(),
        }
    }
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        match &error {
            DbError::AgentRefused => Self::new(
                StatusCode::UNAUTHORIZED,
                "agent_token_refused",
                "The agent's token is unknown, has expired or was revoked, or the agent is paused; ask an admin for a new one.",
            ),
            // A transaction that cannot begin is a fault of the moment, or one that an operator mends.
            DbError::Secret(_) | DbError::Database(_) | DbError::Timeout => Self::of_database(Fault::Gone, error),
            DbError::Refused(refused) => Self::of_database(Fault::of(refused), error),
            DbError::Unconfirmed(_) => Self::unavailable(
                DATABASE_UNAVAILABLE,
                "The database did not confirm this, and it may have happened: send it again with the same Idempotency-Key.",
                5,
            )
            .because(error),
        }
    }
}

impl From<AuditError> for ApiError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Store(error) => error.into(),
            AuditError::Secret(_) => {
                Self::unavailable("secret_unavailable", "A key cannot be fetched; try again shortly.", 5).because(error)
            }
            AuditError::Seal(_) => Self::internal(error),
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::KeysUnavailable => {
                Self::unavailable("keys_unavailable", "The key set that tokens are checked with cannot be fetched.", 5)
            }
            AuthError::Anonymous => Self::new(
                StatusCode::FORBIDDEN,
                "anonymous_not_allowed",
                "Anonymous sign-ins belong to no organisation; sign in with an account.",
            ),
            other => Self::new(StatusCode::UNAUTHORIZED, other.code(), other.to_string()),
        }
    }
}

/// The whole seconds after which a time has come, at least one: a client that waits for fewer comes too early.
fn seconds_until(at: DateTime<Utc>, now: DateTime<Utc>) -> i64 {
    let left = at - now;
    (left.num_seconds() + i64::from(left.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests;
