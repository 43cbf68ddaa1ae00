//! The HTTP API, on this machine: requests become events of payload version 2.0, and answers become responses.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::Utc;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use uuid::Uuid;

use crate::lambda::{HTTP_API_TIMEOUT, InvokeError, Lambda};

/// What the HTTP API takes at most.
const MAX_BODY: usize = 10 * 1024 * 1024;

/// A gateway that listens until it is dropped.
#[derive(Debug)]
pub struct Gateway {
    server: JoinHandle<()>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Gateway {
    /// Serves the functions' routes on `listener`.
    #[must_use]
    pub fn start(listener: TcpListener, functions: Vec<Arc<Lambda>>) -> Self {
        let router = Router::new().fallback(answer).with_state(Arc::new(functions));
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, service).await;
        });
        Self { server }
    }
}

async fn answer(
    State(functions): State<Arc<Vec<Arc<Lambda>>>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    let leads = |prefix: &str| path == prefix || path.starts_with(&format!("{prefix}/"));
    let Some(lambda) = functions.iter().find(|lambda| lambda.function().routes.iter().any(|route| leads(route))) else {
        return message(StatusCode::NOT_FOUND, "Not Found");
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return message(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large");
    };
    let event = to_event(&parts.method, parts.uri.path(), parts.uri.query(), &parts.headers, &body, peer);
    match tokio::time::timeout(HTTP_API_TIMEOUT, lambda.invoke(event)).await {
        Ok(Ok(answer)) => to_response(&answer),
        Ok(Err(InvokeError::TimedOut)) | Err(_) => message(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"),
        Ok(Err(error)) => {
            tracing::error!(function = lambda.function().name, %error, "invocation failed");
            message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
        }
    }
}

fn message(status: StatusCode, text: &str) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], json!({ "message": text }).to_string()).into_response()
}

/// A request as the HTTP API hands it on, payload version 2.0.
#[must_use]
pub fn to_event(
    method: &Method,
    path: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    body: &Bytes,
    peer: SocketAddr,
) -> Value {
    let mut joined: BTreeMap<&str, String> = BTreeMap::new();
    let mut cookies = Vec::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        if name == header::COOKIE {
            cookies.extend(value.split("; ").map(str::to_owned));
            continue;
        }
        joined.entry(name.as_str()).and_modify(|all| *all = format!("{all},{value}")).or_insert(value);
    }
    let source_ip = joined
        .get("x-forwarded-for")
        .and_then(|chain| chain.split(',').next())
        .map_or_else(|| peer.ip().to_string(), |first| first.trim().to_owned());
    let content_type = joined.get("content-type").map(String::as_str).unwrap_or_default();
    let textual = content_type.starts_with("text/")
        || ["json", "xml", "javascript", "x-www-form-urlencoded"].iter().any(|kind| content_type.contains(kind));
    let text = std::str::from_utf8(body).ok().filter(|_| textual);
    let now = Utc::now();
    let mut event = json!({
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": query.unwrap_or_default(),
        "headers": joined,
        "requestContext": {
            "accountId": "000000000000", "apiId": "local", "domainName": "localhost", "domainPrefix": "localhost",
            "http": {
                "method": method.as_str(), "path": path, "protocol": "HTTP/1.1", "sourceIp": source_ip,
                "userAgent": joined.get("user-agent").cloned().unwrap_or_default(),
            },
            "requestId": Uuid::new_v4().to_string(), "routeKey": "$default", "stage": "$default",
            "time": now.format("%d/%b/%Y:%H:%M:%S +0000").to_string(), "timeEpoch": now.timestamp_millis(),
        },
        "isBase64Encoded": text.is_none() && !body.is_empty(),
    });
    if !cookies.is_empty() {
        event["cookies"] = json!(cookies);
    }
    // Absent when empty.
    if !body.is_empty() {
        event["body"] = text.map_or_else(|| json!(STANDARD.encode(body)), |text| json!(text));
    }
    event
}

/// A function's answer as the HTTP API understands it: with a status, or JSON that becomes a 200.
fn to_response(answer: &Value) -> Response {
    let Some(status) = answer["statusCode"].as_u64().and_then(|status| u16::try_from(status).ok()) else {
        return ([(header::CONTENT_TYPE, "application/json")], answer.to_string()).into_response();
    };
    let text = answer["body"].as_str().unwrap_or_default();
    let body = if answer["isBase64Encoded"] == true { STANDARD.decode(text).unwrap_or_default() } else { text.into() };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in answer["headers"].as_object().into_iter().flatten() {
        if let (Ok(name), Some(Ok(value))) = (name.parse::<HeaderName>(), value.as_str().map(HeaderValue::from_str)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
