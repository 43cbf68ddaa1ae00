//! Who is calling: people by Supabase access token, agents by a token of Spine's own.
//!
//! A person's token is checked here, by the key its issuer publishes. An agent's is only hashed here: the database resolves it as a
//! transaction begins and again at every statement, so a revoked one is powerless at once.

mod keys;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use http::{HeaderMap, header};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use self::keys::KeySet;
use crate::{
    config::{ConfigError, Env},
    secrets::{Secret, SecretError, Secrets},
};

/// The most a token may hold, in bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// How far the clocks of issuer and function may differ, in seconds.
const LEEWAY_S: i64 = 30;
/// What an agent's token begins with; 43 characters of base64url follow.
const AGENT_PREFIX: &str = "spine_agent_";

/// Somebody whose token holds. Which organisation they may work in is the database's to say.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub identity: Identity,
    /// The organisation they named for this request, in the header `Spine-Org`.
    pub org: Option<Uuid>,
}

/// A person or an agent.
#[derive(Debug, Clone)]
pub enum Identity {
    /// A person, signed in through Supabase Auth.
    Person {
        /// Their id.
        user_id: Uuid,
        /// The token's claims, without what its bearer may edit.
        claims: Map<String, Value>,
    },
    /// An agent.
    Agent {
        /// SHA-256 of its token.
        token_hash: [u8; 32],
    },
}

impl Caller {
    /// What the transaction's `request.jwt.claims` say.
    pub(crate) fn claims_json(&self) -> String {
        match &self.identity {
            Identity::Person { claims, .. } => Value::Object(claims.clone()).to_string(),
            Identity::Agent { token_hash } => json!({ "agent_token_sha256": hex::encode(token_hash) }).to_string(),
        }
    }
}

/// Why a request's token does not hold. None tells anything of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is none.
    #[error("Sign in, and send the access token as `Authorization: Bearer …`.")]
    Missing,
    /// It is no token at all, of a kind that is never accepted, or has a claim of another type than its own.
    #[error("The access token is malformed.")]
    Malformed,
    /// Its algorithm is not the one its key is for.
    #[error("The access token's algorithm is not accepted.")]
    Algorithm,
    /// No key of the issuer is known by its `kid`.
    #[error("The access token was signed with a key that is not known.")]
    UnknownKey,
    /// The signature does not match.
    #[error("The access token's signature does not match.")]
    Signature,
    /// It was issued by somebody else.
    #[error("The access token was issued by another party.")]
    Issuer,
    /// It was issued for somebody else.
    #[error("The access token was issued for another audience.")]
    Audience,
    /// It has expired, or says no time at which it will.
    #[error("The access token has expired; refresh it.")]
    Expired,
    /// It is not valid yet, or says that it was issued in the future.
    #[error("The access token is not valid yet.")]
    NotYet,
    /// It is no signed-in person's: another role, or no user id.
    #[error("The access token is not a signed-in person's.")]
    Role,
    /// An anonymous sign-in.
    #[error("Anonymous sign-ins are not members.")]
    Anonymous,
    /// The header `Spine-Org` is no id.
    #[error("The header `Spine-Org` takes an organisation's id.")]
    Organisation,
    /// The issuer's keys cannot be fetched: not the caller's fault.
    #[error("The issuer's keys cannot be fetched.")]
    KeysUnavailable,
}

impl AuthError {
    /// Stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_algorithm_refused",
            Self::UnknownKey => "token_key_unknown",
            Self::Signature => "token_signature_invalid",
            Self::Issuer => "token_issuer_wrong",
            Self::Audience => "token_audience_wrong",
            Self::Expired => "token_expired",
            Self::NotYet => "token_not_yet_valid",
            Self::Role => "token_role_refused",
            Self::Anonymous => "anonymous_not_allowed",
            Self::Organisation => "organization_header_invalid",
            Self::KeysUnavailable => "keys_unavailable",
        }
    }
}

impl From<SecretError> for AuthError {
    fn from(error: SecretError) -> Self {
        tracing::error!(%error, "the legacy token secret cannot be fetched");
        Self::KeysUnavailable
    }
}

/// Checks tokens. Settings: `SUPABASE_URL`; secret: `SUPABASE_JWT_SECRET` where a project still signs with a shared one.
#[derive(Debug)]
pub struct Authenticator {
    issuer: String,
    keys: KeySet,
    secrets: Arc<Secrets>,
}

impl Authenticator {
    /// Reads the settings; fetches nothing yet.
    ///
    /// # Errors
    /// [`ConfigError`] that names the variable.
    pub fn from_env(env: &Env, secrets: Arc<Secrets>) -> Result<Self, ConfigError> {
        let url = env.url("SUPABASE_URL", None)?;
        let issuer = format!("{}/auth/v1", url.as_str().trim_end_matches('/'));
        let keys = KeySet::new(format!("{issuer}/.well-known/jwks.json"));
        Ok(Self { issuer, keys, secrets })
    }

    /// Who sent these headers.
    ///
    /// # Errors
    /// [`AuthError`]; all but [`AuthError::KeysUnavailable`] and [`AuthError::Organisation`] mean that they must sign in again.
    pub async fn authenticate(&self, headers: &HeaderMap, now: DateTime<Utc>) -> Result<Caller, AuthError> {
        let org = match headers.get("spine-org") {
            None => None,
            Some(value) => {
                let text = value.to_str().map_err(|_| AuthError::Organisation)?;
                Some(Uuid::try_parse(text).map_err(|_| AuthError::Organisation)?)
            }
        };
        let token = bearer(headers)?;
        let identity = match token.strip_prefix(AGENT_PREFIX) {
            Some(secret) => agent(token, secret)?,
            None => self.person(token, now).await?,
        };
        Ok(Caller { identity, org })
    }

    async fn person(&self, token: &str, now: DateTime<Utc>) -> Result<Identity, AuthError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Malformed)?;
        if header.crit.is_some() {
            return Err(AuthError::Malformed);
        }
        let claims = match header.alg {
            Algorithm::ES256 | Algorithm::RS256 => {
                let kid = header.kid.as_deref().ok_or(AuthError::UnknownKey)?;
                let key = self.keys.find(kid, now).await?;
                // The key says which algorithm it is for; the token does not choose.
                if key.algorithm != header.alg {
                    return Err(AuthError::Algorithm);
                }
                verify(token, &key.key, key.algorithm)?
            }
            Algorithm::HS256 => self.legacy(token).await?,
            _ => return Err(AuthError::Algorithm),
        };
        check(claims, &self.issuer, now)
    }

    /// A shared secret, where the project has one: never a published key taken for one.
    async fn legacy(&self, token: &str) -> Result<Map<String, Value>, AuthError> {
        let Some(secret) = self.secrets.find(Secret::SupabaseJwtSecret).await? else {
            return Err(AuthError::Algorithm);
        };
        let verify_with = |secret: &str| verify(token, &DecodingKey::from_secret(secret.as_bytes()), Algorithm::HS256);
        let refused = match verify_with(secret.expose()) {
            Err(AuthError::Signature) => AuthError::Signature,
            outcome => return outcome,
        };
        if let Some(previous) = self.secrets.previous(Secret::SupabaseJwtSecret).await?
            && let Ok(claims) = verify_with(previous.expose())
        {
            return Ok(claims);
        }
        // It may have been rotated since it was read; whoever forges causes one read in a while.
        let newer = self.secrets.refetch(Secret::SupabaseJwtSecret, &secret).await?;
        if newer.same(&secret) { Err(refused) } else { verify_with(newer.expose()) }
    }
}

/// Whose token with these claims is, where its signature holds.
fn check(mut claims: Map<String, Value>, issuer: &str, now: DateTime<Utc>) -> Result<Identity, AuthError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let number = |name: &str| claims.get(name).and_then(Value::as_f64);
    if text("iss") != Some(issuer) {
        return Err(AuthError::Issuer);
    }
    let meant = match claims.get("aud") {
        Some(Value::String(one)) => one == "authenticated",
        Some(Value::Array(many)) => many.iter().all(Value::is_string) && many.iter().any(|one| one == "authenticated"),
        _ => false,
    };
    if !meant {
        return Err(AuthError::Audience);
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds since 1970 are exact in an f64 for the next 285 million years"
    )]
    let (now, leeway) = (now.timestamp() as f64, LEEWAY_S as f64);
    if number("exp").is_none_or(|exp| exp + leeway <= now) {
        return Err(AuthError::Expired);
    }
    let wrong =
        |(name, value): (&String, &Value)| !is_of_its_type(name, value) || name.contains('\0') || holds_nul(value);
    if claims.iter().any(wrong) {
        return Err(AuthError::Malformed);
    }
    if ["nbf", "iat"].into_iter().filter_map(number).any(|from| from - leeway > now) {
        return Err(AuthError::NotYet);
    }
    if text("role") != Some("authenticated") {
        return Err(AuthError::Role);
    }
    if claims.get("is_anonymous") == Some(&Value::Bool(true)) {
        return Err(AuthError::Anonymous);
    }
    let user_id = text("sub").and_then(|sub| Uuid::try_parse(sub).ok()).ok_or(AuthError::Role)?;
    // Its bearer edits it: nothing may ever come to rest on it.
    claims.remove("user_metadata");
    // Ours alone to set; see `app.agent_token`.
    claims.remove("agent_token_sha256");
    Ok(Identity::Person { user_id, claims })
}

/// Whether a claim that a token may do without is of its type. One of another type is its issuer's mistake, and its meaning is not to
/// be guessed: `nbf` as a text would hold from the beginning.
fn is_of_its_type(name: &str, value: &Value) -> bool {
    match name {
        "nbf" | "iat" => value.is_number(),
        "is_anonymous" => value.is_boolean(),
        "jti" | "session_id" | "org_id" | "spine_client_id" | "email" | "phone" | "aal" => value.is_string(),
        // The auth server writes null for a user that it did not make.
        "amr" => value.is_array() || value.is_null(),
        "app_metadata" => value.is_object() || value.is_null(),
        _ => true,
    }
}

/// Whether there is a NUL in a text of it, which a `jsonb` of Postgres cannot hold.
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(holds_nul),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let value = headers.get(header::AUTHORIZATION).ok_or(AuthError::Missing)?;
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(AuthError::Malformed)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > MAX_TOKEN_BYTES {
        return Err(AuthError::Malformed);
    }
    Ok(token)
}

fn agent(token: &str, secret: &str) -> Result<Identity, AuthError> {
    let shaped = secret.len() == 43 && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !shaped {
        return Err(AuthError::Malformed);
    }
    Ok(Identity::Agent { token_hash: Sha256::digest(token.as_bytes()).into() })
}

/// The claims of a token whose signature holds. Times are checked against the caller's clock, not the library's.
fn verify(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Map<String, Value>, AuthError> {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    match jsonwebtoken::decode::<Map<String, Value>>(token, key, &validation) {
        Ok(data) => Ok(data.claims),
        Err(error) => Err(match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => AuthError::Signature,
            jsonwebtoken::errors::ErrorKind::InvalidAlgorithm => AuthError::Algorithm,
            _ => AuthError::Malformed,
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    /// Whether a token is let in that says this of its times, in half seconds from now.
    #[track_caller]
    fn let_in(times: &[(&str, i64)]) -> Result<(), AuthError> {
        let mut claims = json!({
            "iss": "i", "aud": "authenticated", "role": "authenticated", "sub": Uuid::nil(), "exp": NOW + 3600, "iat": NOW,
        });
        for (name, halves) in times {
            #[expect(clippy::cast_precision_loss, reason = "half seconds of these times are exact")]
            let at = (2 * NOW + halves) as f64 / 2.0;
            claims[*name] = json!(at);
        }
        let Value::Object(claims) = claims else { unreachable!() };
        check(claims, "i", DateTime::from_timestamp(NOW, 0).unwrap()).map(|_| ())
    }

    #[test]
    fn clocks_may_differ_by_thirty_seconds_and_no_more() {
        assert_eq!(let_in(&[("exp", -61)]), Err(AuthError::Expired));
        assert_eq!(let_in(&[("exp", -60)]), Err(AuthError::Expired));
        assert_eq!(let_in(&[("exp", -59)]), Ok(()));
        for claim in ["nbf", "iat"] {
            assert_eq!(let_in(&[(claim, 59)]), Ok(()));
            assert_eq!(let_in(&[(claim, 60)]), Ok(()));
            assert_eq!(let_in(&[(claim, 61)]), Err(AuthError::NotYet));
        }
    }

    proptest! {
        #[test]
        fn a_token_is_let_in_between_its_times(exp in -200..200_i64, nbf in -200..200_i64, iat in -200..200_i64) {
            let expected = match () {
                () if exp <= -60 => Err(AuthError::Expired),
                () if nbf > 60 || iat > 60 => Err(AuthError::NotYet),
                () => Ok(()),
            };
            prop_assert_eq!(let_in(&[("exp", exp), ("nbf", nbf), ("iat", iat)]), expected);
        }
    }
}
