//! S3-compatible storage, as Supabase Storage offers it: objects are files in a directory, and every request must be signed
//! (AWS Signature Version 4, in the header or in the URL).

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, request::Parts},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::Key;

/// The region it says it is in.
pub const REGION: &str = "eu-north-1";
/// How far the clocks of client and server may be apart.
const SKEW: TimeDelta = TimeDelta::minutes(15);

struct Storage {
    directory: PathBuf,
    key_id: String,
    key: Key,
}

pub(crate) fn router(directory: PathBuf, key_id: String, key: Key) -> Router {
    Router::new().fallback(answer).with_state(Arc::new(Storage { directory, key_id, key }))
}

fn refuse(status: StatusCode, code: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    );
    (status, [(header::CONTENT_TYPE, "application/xml")], body).into_response()
}

async fn answer(State(storage): State<Arc<Storage>>, parts: Parts, body: Bytes) -> Response {
    if let Err(code) = check(&storage, &parts, &body, Utc::now()) {
        return refuse(StatusCode::FORBIDDEN, code);
    }
    let object = parts.uri.path().trim_start_matches('/');
    let plain = |segment: &str| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && segment.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    if !object.contains('/') || !object.split('/').all(plain) {
        return refuse(StatusCode::BAD_REQUEST, "InvalidURI");
    }
    let path = storage.directory.join(object);
    let done = match parts.method {
        Method::PUT => store(&path, &body).await.map(|()| ([(header::ETAG, etag(&body))], ()).into_response()),
        Method::GET | Method::HEAD => read(&path, &parts).await,
        // As S3 does, whether there is anything or not.
        Method::DELETE => match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(StatusCode::NO_CONTENT.into_response()),
        },
        _ => return refuse(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    };
    match done {
        Ok(response) => response,
        Err(error) if error.kind() == io::ErrorKind::NotFound => refuse(StatusCode::NOT_FOUND, "NoSuchKey"),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
    }
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", hex::encode(&Sha256::digest(bytes)[..16]))
}

/// Whole or not at all: written aside, then moved.
async fn store(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    let aside = path.with_extension(format!("{}.part", Uuid::new_v4()));
    tokio::fs::write(&aside, bytes).await?;
    tokio::fs::rename(&aside, path).await
}

async fn read(path: &Path, parts: &Parts) -> io::Result<Response> {
    let modified: DateTime<Utc> = tokio::fs::metadata(path).await?.modified()?.into();
    let bytes = tokio::fs::read(path).await?;
    let kind = if bytes.starts_with(b"\x89PNG") { "image/png" } else { "image/jpeg" };
    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::CONTENT_LENGTH, bytes.len().to_string()),
        (header::ETAG, etag(&bytes)),
        (header::LAST_MODIFIED, modified.format("%a, %d %b %Y %H:%M:%S GMT").to_string()),
    ];
    if parts.method == Method::HEAD {
        return Ok((headers, Body::empty()).into_response());
    }
    let Some((from, to)) = range(text(&parts.headers, "range"), bytes.len()) else {
        return Ok((headers, Body::from(bytes)).into_response());
    };
    let mut response = (headers, Body::from(bytes[from..=to].to_vec())).into_response();
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let length = (to - from + 1).to_string();
    for (name, value) in
        [(header::CONTENT_LENGTH, length), (header::CONTENT_RANGE, format!("bytes {from}-{to}/{}", bytes.len()))]
    {
        response.headers_mut().insert(name, HeaderValue::from_str(&value).map_err(io::Error::other)?);
    }
    Ok(response)
}

/// The first and last byte that a `Range` header asks for, of so many.
fn range(header: &str, bytes: usize) -> Option<(usize, usize)> {
    let (from, to) = header.strip_prefix("bytes=")?.split_once('-')?;
    let (from, to) = (from.parse::<usize>().ok()?, to.parse::<usize>().ok()?.min(bytes.checked_sub(1)?));
    (from <= to).then_some((from, to))
}

/// What a request says of its own signature.
struct Signed {
    scope: String,
    headers: String,
    signature: String,
    time: DateTime<Utc>,
    payload: String,
}

fn check(storage: &Storage, parts: &Parts, body: &[u8], now: DateTime<Utc>) -> Result<(), &'static str> {
    let query = pairs(&parts.uri);
    let presigned = query.iter().any(|(name, _)| name == "X-Amz-Signature");
    let authorization = text(&parts.headers, "authorization");
    let signed = if presigned { from_query(&query, now)? } else { from_header(authorization, parts, body, now)? };

    let mut scope = signed.scope.split('/');
    let (key_id, date, region) =
        (scope.next().unwrap_or_default(), scope.next().unwrap_or_default(), scope.next().unwrap_or_default());
    if key_id != storage.key_id {
        return Err("InvalidAccessKeyId");
    }
    let mut canonical_query: Vec<String> = query
        .iter()
        .filter(|(name, _)| name != "X-Amz-Signature")
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    canonical_query.sort();
    let mut canonical_headers = String::new();
    for name in signed.headers.split(';') {
        canonical_headers.push_str(&format!("{name}:{}\n", text(&parts.headers, name).trim()));
    }
    let canonical = format!(
        "{}\n{}\n{}\n{canonical_headers}\n{}\n{}",
        parts.method,
        parts.uri.path(),
        canonical_query.join("&"),
        signed.headers,
        signed.payload
    );
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{}\n{date}/{region}/s3/aws4_request\n{}",
        signed.time.format("%Y%m%dT%H%M%SZ"),
        hex::encode(Sha256::digest(canonical))
    );
    let mut key = mac(format!("AWS4{}", storage.key.get()).as_bytes(), date);
    for part in [region, "s3", "aws4_request"] {
        key = mac(&key, part);
    }
    // In constant time would be better against an attacker; this one has none.
    if hex::encode(mac(&key, &to_sign)) == signed.signature { Ok(()) } else { Err("SignatureDoesNotMatch") }
}

fn from_query(query: &[(String, String)], now: DateTime<Utc>) -> Result<Signed, &'static str> {
    let find = |wanted: &str| query.iter().find(|(name, _)| name == wanted).map_or("", |(_, value)| value.as_str());
    let time = time(find("X-Amz-Date"))?;
    let lifetime: i64 = find("X-Amz-Expires").parse().map_err(|_| "AuthorizationQueryParametersError")?;
    if now < time - SKEW || now >= time + TimeDelta::seconds(lifetime.clamp(0, 604_800)) {
        return Err("AccessDenied");
    }
    // Of what these two may hold, only these are percent-coded in a URL.
    let scope = find("X-Amz-Credential").replace("%2F", "/");
    let headers = find("X-Amz-SignedHeaders").replace("%3B", ";");
    let signature = find("X-Amz-Signature").to_owned();
    Ok(Signed { scope, headers, signature, time, payload: "UNSIGNED-PAYLOAD".to_owned() })
}

fn from_header(authorization: &str, parts: &Parts, body: &[u8], now: DateTime<Utc>) -> Result<Signed, &'static str> {
    let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or("AccessDenied")?;
    let find = |wanted: &str| {
        fields.split(',').find_map(|field| field.trim().strip_prefix(wanted)).map(str::to_owned).ok_or("AccessDenied")
    };
    let time = time(text(&parts.headers, "x-amz-date"))?;
    if (now - time).abs() > SKEW {
        return Err("RequestTimeTooSkewed");
    }
    let payload = text(&parts.headers, "x-amz-content-sha256").to_owned();
    if payload != "UNSIGNED-PAYLOAD" && payload != hex::encode(Sha256::digest(body)) {
        return Err("XAmzContentSHA256Mismatch");
    }
    Ok(Signed {
        scope: find("Credential=")?,
        headers: find("SignedHeaders=")?,
        signature: find("Signature=")?,
        time,
        payload,
    })
}

fn time(text: &str) -> Result<DateTime<Utc>, &'static str> {
    NaiveDateTime::parse_from_str(text, "%Y%m%dT%H%M%SZ").map(|time| time.and_utc()).map_err(|_| "AccessDenied")
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The query as it stands in the URL, still percent-coded, since that is what is signed.
fn pairs(uri: &Uri) -> Vec<(String, String)> {
    let query = uri.query().unwrap_or_default();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

pub(crate) fn mac(key: &[u8], data: impl AsRef<[u8]>) -> Vec<u8> {
    // HMAC takes keys of any length.
    let mut padded = hmac::digest::Key::<Hmac<Sha256>>::default();
    let hashed;
    let key = if key.len() > padded.len() {
        hashed = Sha256::digest(key).to_vec();
        &hashed
    } else {
        key
    };
    padded.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let mut mac = Hmac::<Sha256>::new(&padded);
    mac.update(data.as_ref());
    mac.finalize().into_bytes().to_vec()
}
