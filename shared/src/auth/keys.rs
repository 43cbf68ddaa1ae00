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

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        sync::{Arc, Mutex},
    };

    use serde_json::json;

    use super::*;

    /// Publishes keys on this machine.
    #[derive(Default)]
    struct Issuer {
        /// What it says of how long its keys may be kept, and the names of its keys; `None` while it is down.
        says: Mutex<Option<(&'static str, Vec<&'static str>)>>,
        asked: Mutex<usize>,
    }

    impl Issuer {
        /// One that publishes a key named `a`, and a key set that knows of none yet.
        fn new(cache_control: &'static str) -> (Arc<Self>, KeySet) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/keys", listener.local_addr().unwrap());
            let issuer = Arc::new(Self { says: Mutex::new(Some((cache_control, vec!["a"]))), ..Self::default() });
            let answering = Arc::downgrade(&issuer);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let (Some(issuer), Ok(mut stream)) = (answering.upgrade(), stream) else { return };
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                    *issuer.asked.lock().unwrap() += 1;
                    let _ = stream.write_all(issuer.answer().as_bytes());
                }
            });
            (issuer, KeySet::new(url))
        }

        fn answer(&self) -> String {
            let Some((cache_control, keys)) = self.says.lock().unwrap().clone() else {
                return "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned();
            };
            let n = URL_SAFE_NO_PAD.encode([0xff; 256]);
            let keys = keys.iter().map(|kid| json!({ "kty": "RSA", "kid": kid, "n": n, "e": "AQAB" }));
            let body = json!({ "keys": keys.collect::<Vec<_>>() }).to_string();
            let length = body.len();
            format!(
                "HTTP/1.1 200 OK\r\ncache-control: {cache_control}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            )
        }

        fn publishes(&self, keys: &[&'static str]) {
            *self.says.lock().unwrap() = Some(("max-age=60", keys.to_vec()));
        }

        fn is_down(&self) {
            *self.says.lock().unwrap() = None;
        }

        fn asked(&self) -> usize {
            *self.asked.lock().unwrap()
        }
    }

    /// So many milliseconds after the key set was first fetched.
    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_800_000_000_000 + ms).unwrap()
    }

    async fn find(set: &KeySet, kid: &str, ms: i64) -> Result<(), AuthError> {
        set.find(kid, at(ms)).await.map(|_| ())
    }

    #[tokio::test]
    async fn keys_are_kept_as_long_as_their_issuer_says_within_bounds() {
        for (cache_control, seconds) in [
            ("max-age=0", 60),
            ("max-age=59", 60),
            ("max-age=61", 61),
            ("public, max-age=300", 300),
            ("max-age=599", 599),
            ("max-age=601", 600),
            ("no-store", 600),
        ] {
            let (issuer, set) = Issuer::new(cache_control);
            for (ms, asked) in [(0, 1), (1, 1), (seconds * 1000 - 1, 1), (seconds * 1000, 2)] {
                assert_eq!(find(&set, "a", ms).await, Ok(()), "{cache_control}: {ms}");
                assert_eq!(issuer.asked(), asked, "{cache_control}: {ms}");
            }
        }
    }

    #[tokio::test]
    async fn while_the_issuer_is_down_its_keys_hold_for_an_hour_and_no_longer() {
        const HOUR: i64 = 3_600_000;
        // Whether or not it was asked for them meanwhile.
        for asked in [&[][..], &[60_000, 1_800_000, HOUR - 30_000]] {
            let (issuer, set) = Issuer::new("max-age=60");
            assert_eq!(find(&set, "a", 0).await, Ok(()));
            issuer.is_down();
            for ms in asked {
                assert_eq!(find(&set, "a", *ms).await, Ok(()), "{ms}");
                assert_eq!(find(&set, "unknown", *ms).await, Err(AuthError::KeysUnavailable), "{ms}");
            }
            for (ms, outcome) in [
                (HOUR - 1, Ok(())),
                (HOUR, Ok(())),
                (HOUR + 1, Err(AuthError::KeysUnavailable)),
                (24 * HOUR, Err(AuthError::KeysUnavailable)),
            ] {
                assert_eq!(find(&set, "a", ms).await, outcome, "{ms}");
            }
            // It is back, and its key with it.
            issuer.publishes(&["a"]);
            assert_eq!(find(&set, "a", 25 * HOUR).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn a_withdrawn_key_holds_until_the_next_fetch_and_never_again() {
        let (issuer, set) = Issuer::new("max-age=60");
        assert_eq!(find(&set, "a", 0).await, Ok(()));
        issuer.publishes(&["b"]);
        assert_eq!(find(&set, "a", 59_999).await, Ok(()));
        assert_eq!(find(&set, "a", 60_000).await, Err(AuthError::UnknownKey));
        assert_eq!(find(&set, "b", 60_000).await, Ok(()));
        issuer.is_down();
        assert_eq!(find(&set, "a", 119_999).await, Err(AuthError::UnknownKey));
        assert_eq!(find(&set, "a", 120_000).await, Err(AuthError::KeysUnavailable));
        assert_eq!(find(&set, "b", 120_000).await, Ok(()));
    }

    #[tokio::test]
    async fn an_unknown_key_or_a_failure_makes_the_issuer_be_asked_again_after_thirty_seconds() {
        let (issuer, set) = Issuer::new("max-age=600");
        for (ms, asked) in [(0, 1), (1, 1), (29_999, 1), (30_000, 2), (59_999, 2), (60_000, 3)] {
            assert_eq!(find(&set, "unknown", ms).await, Err(AuthError::UnknownKey), "{ms}");
            assert_eq!(issuer.asked(), asked, "{ms}");
        }
        issuer.is_down();
        for (ms, asked) in [(660_000, 4), (689_999, 4), (690_000, 5)] {
            assert_eq!(find(&set, "a", ms).await, Ok(()), "{ms}");
            assert_eq!(issuer.asked(), asked, "{ms}");
        }
    }
}
