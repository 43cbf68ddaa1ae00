//! Codes, tokens and consents: what was given out, and what of it still holds.

use std::collections::{BTreeMap, HashMap};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use uuid::Uuid;

/// How long a code can be exchanged, in milliseconds.
const CODE_MS: i64 = 10 * 60 * 1000;
/// How long an access token is accepted, in seconds.
const ACCESS_S: i64 = 3600;
/// How long a refresh token can be used, in milliseconds.
const REFRESH_MS: i64 = 45 * 24 * 3600 * 1000;

/// What a person agreed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Consent {
    pub(super) tenant: i64,
    pub(super) scopes: Vec<String>,
    /// A refresh token was asked for.
    pub(super) offline: bool,
    /// It is a service account that acts.
    pub(super) service: bool,
}

#[derive(Debug)]
struct Code {
    consent: Consent,
    /// As the authorization request had it, if it had one.
    redirect_uri: Option<String>,
    given: i64,
}

#[derive(Debug)]
struct Refresh {
    consent: Consent,
    given: i64,
    spent: bool,
}

/// A token that the API accepts.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub(super) tenant: i64,
    pub(super) scopes: Vec<String>,
    expires: i64,
}

/// Everything that was given out.
pub(super) struct Grants {
    signing: EncodingKey,
    codes: HashMap<String, Code>,
    refresh: BTreeMap<String, Refresh>,
    access: HashMap<String, Access>,
    service: BTreeMap<i64, Vec<String>>,
}

impl Default for Grants {
    fn default() -> Self {
        // Nobody else knows it, as nobody knows that of the real one: its tokens cannot be verified.
        let signing = EncodingKey::from_secret(&rand::random::<[u8; 32]>());
        let (codes, refresh) = (HashMap::new(), BTreeMap::new());
        Self { signing, codes, refresh, access: HashMap::new(), service: BTreeMap::new() }
    }
}

impl Grants {
    /// Keeps a consent, and gives out the code for it.
    pub(super) fn consent(&mut self, consent: Consent, redirect_uri: Option<String>, now: i64) -> String {
        if consent.service {
            self.service.insert(consent.tenant, consent.scopes.clone());
        }
        let code = Uuid::new_v4().to_string();
        self.codes.insert(code.clone(), Code { consent, redirect_uri, given: now });
        code
    }

    /// The consent behind a code. The code is gone afterwards, also if it was too old.
    pub(super) fn take_code(
        &mut self,
        code: &str,
        redirect_uri: Option<&str>,
        registered: &str,
        now: i64,
    ) -> Option<Consent> {
        let known = self.codes.get(code)?;
        let same = match &known.redirect_uri {
            Some(sent) => redirect_uri == Some(sent),
            None => redirect_uri.is_none_or(|sent| sent == registered),
        };
        if !same {
            return None;
        }
        let known = self.codes.remove(code)?;
        (now - known.given < CODE_MS).then_some(known.consent)
    }

    /// The consent behind a refresh token, which is spent by this.
    pub(super) fn spend(&mut self, token: &str, now: i64) -> Option<Consent> {
        let known = self.refresh.get_mut(token).filter(|known| !known.spent && now - known.given < REFRESH_MS)?;
        known.spent = true;
        Some(known.consent.clone())
    }

    /// The consent of a service account.
    pub(super) fn service(&self, tenant: i64) -> Option<Consent> {
        let scopes = self.service.get(&tenant)?.clone();
        Some(Consent { tenant, scopes, offline: false, service: true })
    }

    /// New tokens, as the token endpoint answers with them.
    pub(super) fn issue(&mut self, consent: &Consent, now: i64) -> Result<Value, jsonwebtoken::errors::Error> {
        let seconds = now.div_euclid(1000);
        let claims = json!({
            "iss": "https://apps.fortnox.se/oauth-v1", "sub": format!("1@{}", consent.tenant), "jti": Uuid::new_v4(),
            "tenantId": consent.tenant, "scope": consent.scopes, "iat": seconds, "exp": seconds + ACCESS_S,
        });
        let token = jsonwebtoken::encode(&Header::default(), &claims, &self.signing)?;
        let expires = now + ACCESS_S * 1000;
        let access = Access { tenant: consent.tenant, scopes: consent.scopes.clone(), expires };
        self.access.insert(token.clone(), access);
        let mut answer = json!({
            "access_token": token, "scope": consent.scopes.join(" "), "expires_in": ACCESS_S, "token_type": "bearer",
        });
        if consent.offline {
            let refresh = Uuid::new_v4().to_string();
            answer["refresh_token"] = json!(refresh);
            self.refresh.insert(refresh, Refresh { consent: consent.clone(), given: now, spent: false });
        }
        Ok(answer)
    }

    /// Whether there was such a refresh token to revoke.
    pub(super) fn revoke(&mut self, token: &str) -> bool {
        self.refresh.get_mut(token).is_some_and(|known| !std::mem::replace(&mut known.spent, true))
    }

    /// Ends all that a company agreed to.
    pub(super) fn end(&mut self, tenant: i64) {
        self.service.remove(&tenant);
        self.codes.retain(|_, code| code.consent.tenant != tenant);
        self.refresh.retain(|_, refresh| refresh.consent.tenant != tenant);
        self.access.retain(|_, access| access.tenant != tenant);
    }

    /// For whom a token speaks, expired or not.
    pub(super) fn tenant_of(&self, token: &str) -> Option<i64> {
        self.access.get(token).map(|access| access.tenant)
    }

    pub(super) fn access(&self, token: &str, now: i64) -> Option<Access> {
        self.access.get(token).filter(|access| now < access.expires).cloned()
    }

    /// The refresh tokens that can still be used.
    pub(super) fn live(&self, tenant: i64, now: i64) -> Vec<String> {
        let live = |known: &Refresh| known.consent.tenant == tenant && !known.spent && now - known.given < REFRESH_MS;
        self.refresh.iter().filter(|(_, known)| live(known)).map(|(token, _)| token.clone()).collect()
    }
}
