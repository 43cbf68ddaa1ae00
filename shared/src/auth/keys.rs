//! The keys an issuer publishes, kept for as long as it says and fetched again when a token names one that is not among them.

use std::{sync::OnceLock, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use http::header;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::AuthError;

const FETCH: Duration = Duration::from_secs(3);
/// Bounds on how long a key set is kept, whatever its issuer says.
const KEEP: (i64, i64) = (60, 600);
/// How long it is used beyond that while the issuer does not answer.
const STALE: TimeDelta = TimeDelta::hours(1);
/// How often, at most, unknown keys and failures make it be fetched again.
const AGAIN: TimeDelta = TimeDelta::seconds(30);
const MAX_KEYS: usize = 32;
const MAX_BYTES: usize = 64 * 1024;
/// The shortest modulus of RSA that a signature is believed by (RFC 7518, 3.3).
const MIN_RSA_BITS: u32 = 2048;

/// A published key and the one algorithm it is for.
#[derive(Clone)]
pub(super) struct PublicKey {
    pub(super) key: DecodingKey,
    pub(super) algorithm: Algorithm,
}

#[derive(Debug)]
pub(super) struct KeySet {
    url: String,
    client: OnceLock<reqwest::Client>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    keys: Vec<(String, PublicKey)>,
    fetched: Option<DateTime<Utc>>,
    tried: Option<DateTime<Utc>>,
    fresh_until: Option<DateTime<Utc>>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("keys", &self.keys.len()).field("fetched", &self.fetched).finish()
    }
}

#[derive(Deserialize)]
struct Published {
    keys: Vec<Value>,
}

impl KeySet {
    pub(super) fn new(url: String) -> Self {
        Self { url, client: OnceLock::new(), kept: Mutex::default() }
    }

    /// The key named `kid`. Callers that come together wait for one fetch.
    pub(super) async fn find(&self, kid: &str, now: DateTime<Utc>) -> Result<PublicKey, AuthError> {
        let mut kept = self.kept.lock().await;
        let fresh = kept.fresh_until.is_some_and(|until| now < until);
        let found = kept.get(kid);
        if let (true, Some(key)) = (fresh, &found) {
            return Ok(key.clone());
        }
        // Anyone can send an unknown kid: that must not become a stream of requests to the issuer.
        let may_fetch = kept.tried.is_none_or(|tried| now - tried >= AGAIN) || kept.fetched.is_none();
        if may_fetch {
            kept.tried = Some(now);
            match self.fetch().await {
                Ok((keys, seconds)) => {
                    kept.keys = keys;
                    kept.fetched = Some(now);
                    kept.fresh_until = Some(now + TimeDelta::seconds(seconds.clamp(KEEP.0, KEEP.1)));
                    return kept.get(kid).ok_or(AuthError::UnknownKey);
                }
                Err(error) => tracing::warn!(error, "the issuer's key set cannot be fetched"),
            }
        }
        match (found, kept.fetched) {
            (Some(key), Some(fetched)) if now - fetched <= STALE => Ok(key),
            (None, Some(_)) if fresh => Err(AuthError::UnknownKey),
            _ => Err(AuthError::KeysUnavailable),
        }
    }

    /// The keys and for how many seconds the issuer lets them be kept.
    async fn fetch(&self) -> Result<(Vec<(String, PublicKey)>, i64), &'static str> {
        let client = match self.client.get() {
            Some(client) => client,
            None => {
                let built = crate::http_client(FETCH).map_err(|_| "no HTTP client")?;
                self.client.get_or_init(|| built)
            }
        };
        let mut response = client.get(&self.url).send().await.map_err(|_| "no answer")?;
        if !response.status().is_success() {
            return Err("an answer that is no success");
        }
        let max_age = response.headers().get(header::CACHE_CONTROL).and_then(|value| max_age(value.to_str().ok()?));
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|_| "half an answer")? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_BYTES {
                return Err("an answer beyond all bounds");
            }
        }
        let published: Published = serde_json::from_slice(&bytes).map_err(|_| "an answer that is no key set")?;
        // A key of a kind not known here is somebody else's business, not a reason to refuse the rest.
        let keys = published.keys.into_iter().filter_map(usable).take(MAX_KEYS).collect();
        Ok((keys, max_age.unwrap_or(KEEP.1)))
    }
}

impl Kept {
    fn get(&self, kid: &str) -> Option<PublicKey> {
        self.keys.iter().find(|(id, _)| id == kid).map(|(_, key)| key.clone())
    }
}

/// A key to verify signatures with, of one of the two accepted kinds. A shared secret that was published is not one.
fn usable(value: Value) -> Option<(String, PublicKey)> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let meant = jwk.common.public_key_use.as_ref().is_none_or(|meant| *meant == PublicKeyUse::Signature)
        && jwk.common.key_operations.as_ref().is_none_or(|does| does.contains(&KeyOperations::Verify));
    if !meant {
        return None;
    }
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::RSA(rsa) if bits(&rsa.n)? >= MIN_RSA_BITS => (Algorithm::RS256, KeyAlgorithm::RS256),
        _ => return None,
    };
    if jwk.common.key_algorithm.is_some_and(|stated| stated != named) {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some((jwk.common.key_id?, PublicKey { key, algorithm }))
}

/// How long a number is in bits; `None` if it is not written as a key set writes numbers.
fn bits(number: &str) -> Option<u32> {
    let bytes = URL_SAFE_NO_PAD.decode(number).ok()?;
    let significant = bytes.iter().position(|byte| *byte != 0).map_or(&[][..], |first| &bytes[first..]);
    let leading = significant.first().map_or(0, |byte| byte.leading_zeros());
    Some(u32::try_from(significant.len()).ok()? * 8 - leading)
}

fn max_age(cache_control: &str) -> Option<i64> {
    cache_control.split(',').find_map(|part| part.trim().strip_prefix("max-age=")?.parse().ok())
}
