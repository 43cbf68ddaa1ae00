//! Supabase Auth: publishes its keys, and signs access tokens with the claims that the real one emits.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::Utc;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use p256::{
    SecretKey,
    elliptic_curve::{Generate, sec1::ToSec1Point},
    pkcs8::EncodePrivateKey,
};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

/// The project's auth server.
pub struct Auth {
    issuer: String,
    keys: Mutex<Vec<SigningKey>>,
    /// What the key set holds besides, in front of them.
    entries: Mutex<Vec<Value>>,
    fetches: AtomicUsize,
    down: AtomicBool,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

struct SigningKey {
    kid: String,
    encoding: EncodingKey,
    public: Value,
    /// The public point, uncompressed, as a forger would take it for a shared secret.
    point: Vec<u8>,
}

impl SigningKey {
    fn generate() -> Result<Self> {
        let secret = SecretKey::generate();
        let der = secret.to_pkcs8_der().context("the key cannot be encoded")?;
        let point = secret.public_key().to_sec1_point(false);
        let (x, y) = (point.x().context("no x")?, point.y().context("no y")?);
        let kid = Uuid::new_v4().to_string();
        let public = json!({
            "kty": "EC", "crv": "P-256", "kid": kid, "alg": "ES256", "use": "sig", "key_ops": ["verify"], "ext": true,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        });
        Ok(Self { kid, encoding: EncodingKey::from_ec_der(der.as_bytes()), public, point: point.as_bytes().to_vec() })
    }
}

/// Somebody who signs in.
#[derive(Debug, Clone)]
pub struct User {
    /// `auth.users.id`.
    pub id: Uuid,
    /// Their address.
    pub email: String,
}

impl Auth {
    pub(crate) fn new(url: &str) -> Result<Self> {
        Ok(Self {
            issuer: format!("{url}/auth/v1"),
            keys: Mutex::new(vec![SigningKey::generate()?]),
            entries: Mutex::default(),
            fetches: AtomicUsize::new(0),
            down: AtomicBool::new(false),
        })
    }

    /// The claims of a token for `user` in a new session, working in `org` as the access-token hook puts it.
    #[must_use]
    pub fn claims(&self, user: &User, org: Option<Uuid>) -> Value {
        let now = Utc::now().timestamp();
        let mut claims = json!({
            "iss": self.issuer, "sub": user.id, "aud": "authenticated", "exp": now + 3600, "iat": now,
            "email": user.email, "phone": "", "app_metadata": { "provider": "email", "providers": ["email"] },
            "user_metadata": {}, "role": "authenticated", "aal": "aal1",
            "amr": [{ "method": "password", "timestamp": now }], "session_id": Uuid::new_v4(), "is_anonymous": false,
        });
        if let Some(org) = org {
            claims["org_id"] = json!(org);
        }
        claims
    }

    /// A token with these claims, signed with the newest key.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let key = keys.last().context("there is no key")?;
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(key.kid.clone());
        Ok(jsonwebtoken::encode(&header, claims, &key.encoding)?)
    }

    /// An access token for `user`, working in `org`.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn sign_in(&self, user: &User, org: Option<Uuid>) -> Result<String> {
        self.sign(&self.claims(user, org))
    }

    /// A token as a project signs it that has not left the legacy shared secret.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn sign_legacy(&self, claims: &Value, secret: &str) -> Result<String> {
        Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes()))?)
    }

    /// A forged token: signed with HS256, with the published key taken for a shared secret.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn forge_with_public_key(&self, claims: &Value) -> Result<String> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let key = keys.last().context("there is no key")?;
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(key.kid.clone());
        Ok(jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(&key.point))?)
    }

    /// A forged token: no algorithm, no signature.
    #[must_use]
    pub fn forge_unsigned(&self, claims: &Value) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        format!("{header}.{}.", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    /// A forged token: a true signature, by a key that nobody published.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn forge_with_unknown_key(&self, claims: &Value) -> Result<String> {
        let key = SigningKey::generate()?;
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(key.kid);
        Ok(jsonwebtoken::encode(&header, claims, &key.encoding)?)
    }

    /// Publishes one more EC key, as `entry` has it otherwise than a signing key (null leaves a member out), and signs with it.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn sign_with_entry(&self, claims: &Value, entry: &Value) -> Result<String> {
        let key = SigningKey::generate()?;
        self.publish(key.public, entry, Algorithm::ES256, claims, &key.encoding)
    }

    /// The same with an RSA key: its private part as PKCS#1, its modulus and exponent as a key set has them.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn sign_with_rsa(&self, claims: &Value, pkcs1: &[u8], n: &str, e: &str) -> Result<String> {
        let public = json!({
            "kty": "RSA", "kid": Uuid::new_v4(), "alg": "RS256", "use": "sig", "key_ops": ["verify"], "n": n, "e": e,
        });
        self.publish(public, &json!({}), Algorithm::RS256, claims, &EncodingKey::from_rsa_der(pkcs1))
    }

    fn publish(
        &self,
        mut public: Value,
        entry: &Value,
        algorithm: Algorithm,
        claims: &Value,
        key: &EncodingKey,
    ) -> Result<String> {
        for (name, value) in entry.as_object().into_iter().flatten() {
            public[name] = value.clone();
        }
        let members = public.as_object_mut().context("an entry is an object")?;
        members.retain(|_, value| !value.is_null());
        let mut header = Header::new(algorithm);
        header.kid = public["kid"].as_str().map(str::to_owned);
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(public);
        Ok(jsonwebtoken::encode(&header, claims, key)?)
    }

    /// The id of the key that signs now.
    ///
    /// # Errors
    /// If there is none.
    pub fn key_id(&self) -> Result<String> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.last().context("there is no key")?.kid.clone())
    }

    /// Signs with a new key from now on. The old ones stay published unless `revoke`.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn rotate(&self, revoke: bool) -> Result<()> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if revoke {
            keys.clear();
        }
        keys.push(SigningKey::generate()?);
        Ok(())
    }

    /// How often the key set was fetched.
    #[must_use]
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }

    /// Whether the key set is answered with an error.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }
}

pub(crate) fn router(auth: Arc<Auth>) -> Router {
    Router::new().route("/auth/v1/.well-known/jwks.json", get(jwks)).with_state(auth)
}

async fn jwks(State(auth): State<Arc<Auth>>) -> Response {
    auth.fetches.fetch_add(1, Ordering::Relaxed);
    if auth.down.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let keys = auth.keys.lock().unwrap_or_else(PoisonError::into_inner);
    let entries = auth.entries.lock().unwrap_or_else(PoisonError::into_inner);
    let public: Vec<&Value> = entries.iter().chain(keys.iter().map(|key| &key.public)).collect();
    ([(header::CACHE_CONTROL, "public, max-age=600")], Json(json!({ "keys": public }))).into_response()
}
