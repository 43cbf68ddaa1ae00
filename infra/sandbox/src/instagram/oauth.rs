//! Instagram Login: the page to agree on (`www.instagram.com`), the exchange of its code (`api.instagram.com`), and long-lived tokens
//! (`graph.instagram.com`, without a version). One server stands for all three.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use axum::{
    http::{HeaderMap, Method, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use url::Url;

use super::{
    Instagram,
    params::Query,
    refusal::{FlatRefusal, Refusal},
    rest::{BASIC, Call, scope_of},
    world::{SCOPES, Token, World},
};
use crate::{
    Calls, Consent, Fault, Key,
    consent::{self, Pairs, Turned, get, pairs},
    escaped,
    front::{self, header_text},
    storage::mac,
};

/// How long a code can be exchanged, in milliseconds.
const CODE_MS: i64 = 60 * 60 * 1000;
/// How long a short-lived token is accepted, in seconds.
const SHORT_S: i64 = 60 * 60;
/// How long a long-lived token is accepted, in seconds, as the page shows it: 56 seconds less than 60 days.
const LONG_S: i64 = 5_183_944;
/// How old a long-lived token must be to be refreshed, in milliseconds.
const REFRESHED_FROM_MS: i64 = 24 * 60 * 60 * 1000;
/// What an authorization request consists of.
const CARRIED: [&str; 5] = ["client_id", "redirect_uri", "response_type", "scope", "state"];

/// The application.
pub(super) struct App {
    pub(super) client_id: String,
    pub(super) secret: Key,
    pub(super) redirect_uris: BTreeSet<String>,
    /// Whether the code's exchange is answered without `data` around it.
    pub(super) flat: bool,
}

/// What a code stands for.
#[derive(Debug)]
pub(super) struct Code {
    account: String,
    scopes: Vec<String>,
    redirect_uri: String,
    given: i64,
}

/// A token that is accepted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The token.
    pub token: String,
    /// Whether it is one of the 60 days, and not of the hour.
    pub long_lived: bool,
    /// Until when, in unix seconds.
    pub expires_at: i64,
    /// What it allows.
    pub scopes: Vec<String>,
}

struct Asked {
    redirect_uri: String,
    state: String,
    scopes: Vec<String>,
}

impl App {
    /// Everything that is checked before a person is asked. Whether anything of it leads back to the application is not on our provider
    /// page: here nothing does.
    fn asked(&self, pairs: &Pairs) -> Result<Asked, Turned> {
        if get(pairs, "client_id") != Some(&self.client_id) {
            return Turned::page("Invalid Request: Request parameters are invalid: Invalid platform app");
        }
        let Some(redirect_uri) = get(pairs, "redirect_uri").filter(|uri| self.redirect_uris.contains(*uri)) else {
            return Turned::page("Invalid Request: Request parameters are invalid: Invalid redirect_uri");
        };
        if get(pairs, "response_type") != Some("code") {
            return Turned::page("Invalid Request: Request parameters are invalid: Invalid response_type");
        }
        let scopes = consent::scopes(pairs, &SCOPES);
        // Every other scope builds on the basic one. That a request without it is refused is the sandbox's reading.
        let Some(scopes) = scopes.filter(|scopes| scopes.iter().any(|scope| scope == BASIC)) else {
            return Turned::page("Invalid Request: Request parameters are invalid: Invalid scope");
        };
        // The pages recommend a state; the sandbox demands it.
        let Some(state) = get(pairs, "state") else {
            return Turned::page("Invalid Request: Request parameters are invalid: Invalid state");
        };
        Ok(Asked { redirect_uri: redirect_uri.to_owned(), state: state.to_owned(), scopes })
    }
}

impl World {
    /// What follows when a person signed in with this account and answered: the way back.
    fn decide(&mut self, pairs: &Pairs, account: &str, answer: &Consent) -> Result<Turned, Turned> {
        let asked = self.app.asked(pairs)?;
        let Some(scopes) = answer.granted(&asked.scopes)? else {
            let pairs = [
                ("error", "access_denied"),
                ("error_reason", "user_denied"),
                ("error_description", "The user denied your request."),
                ("state", &asked.state),
            ];
            return Ok(Turned::back(&asked.redirect_uri, &pairs));
        };
        let Some(known) = self.accounts.get_mut(account) else {
            return Turned::page("There is no such account.");
        };
        // Events of scopes that are new come once the account is subscribed again, those of scopes that are gone no more. That earlier
        // tokens lose the scopes that are gone is the sandbox's reading.
        let holds = |scope: &str| scopes.iter().any(|granted| granted == scope);
        known.subscribed.retain(|field| holds(scope_of(field)));
        let earlier = self.tokens.values_mut().filter(|token| token.account == account);
        earlier.for_each(|token| token.scopes.retain(|scope| holds(scope)));
        let code = format!("AQB{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 48]>()));
        let redirect_uri = asked.redirect_uri.clone();
        let given = self.now();
        self.codes.insert(code.clone(), Code { account: account.to_owned(), scopes, redirect_uri, given });
        match Turned::back(&asked.redirect_uri, &[("code", &code), ("state", &asked.state)]) {
            Turned::Back(mut url) => {
                url.set_fragment(Some("_"));
                Ok(Turned::Back(url))
            }
            page @ Turned::Page(_) => Err(page),
        }
    }

    /// The answer to a request that is no call of the versioned API.
    pub(super) fn oauth(&mut self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Option<Response> {
        let query = uri.query().unwrap_or_default();
        let answered = |answer: Result<Value, Refusal>| match answer {
            Ok(body) => front::json(200, escaped::text(&body)),
            Err(refusal) => refusal.into_response(),
        };
        Some(match (method, uri.path()) {
            (&Method::GET, "/oauth/authorize") => self.authorize(query),
            // Only the page above leads here.
            (&Method::POST, "/oauth/consent") => {
                let form = pairs(body);
                let (account, answer) = consent::answered(&form);
                self.decide(&form, &account, &answer).unwrap_or_else(|turned| turned).into_response()
            }
            (&Method::POST, "/oauth/access_token") => match self.exchange(headers, body) {
                Ok(body) => front::json(200, escaped::text(&body)),
                Err(refusal) => refusal.into_response(),
            },
            (&Method::GET, "/access_token") => answered(self.lengthen(&Query::parse(query))),
            (&Method::GET, "/refresh_access_token") => answered(self.refresh(&Query::parse(query))),
            (_, "/oauth/access_token") => FlatRefusal::new("Unsupported method").into_response(),
            (_, "/oauth/authorize" | "/oauth/consent" | "/access_token" | "/refresh_access_token") => {
                Refusal::parameter(format!("Unsupported {} request", method.as_str().to_lowercase())).into_response()
            }
            _ => return None,
        })
    }

    fn authorize(&self, query: &str) -> Response {
        let pairs = pairs(query.as_bytes());
        match self.app.asked(&pairs) {
            Ok(asked) => {
                let accounts = self.accounts.values().map(|account| (account.id.as_str(), account.username.as_str()));
                let page = ("Sandbox Instagram", "/oauth/consent");
                consent::ask(page, &pairs, &CARRIED, &asked.scopes, accounts)
            }
            Err(turned) => turned.into_response(),
        }
    }

    /// `POST /oauth/access_token`: a code for a token of an hour.
    fn exchange(&mut self, headers: &HeaderMap, body: &[u8]) -> Result<Value, FlatRefusal> {
        let form = header_text(headers, header::CONTENT_TYPE.as_str())
            .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        // The older pages show a multipart form as well.
        if !form {
            return Err(FlatRefusal::new("The body must be application/x-www-form-urlencoded"));
        }
        let form = pairs(body);
        let secret = self.app.secret.get();
        if get(&form, "client_id") != Some(&self.app.client_id) {
            return Err(FlatRefusal::new("Invalid platform app"));
        }
        if get(&form, "client_secret") != Some(&secret) {
            return Err(FlatRefusal::new("Error validating client secret."));
        }
        if get(&form, "grant_type") != Some("authorization_code") {
            return Err(FlatRefusal::new("Invalid grant_type"));
        }
        let now = self.now();
        let code = get(&form, "code").unwrap_or_default();
        let Some(known) = self.codes.get(code) else {
            return Err(FlatRefusal::new("Matching code was not found or was already used"));
        };
        if get(&form, "redirect_uri") != Some(&known.redirect_uri) {
            return Err(FlatRefusal::new(
                "Error validating verification code. Please make sure your redirect_uri is identical to the one you used in the OAuth \
                 dialog request",
            ));
        }
        let Some(known) = self.codes.remove(code).filter(|known| now - known.given < CODE_MS) else {
            return Err(FlatRefusal::new("This authorization code has expired"));
        };
        let scoped_id = self.accounts.get(&known.account).map(|account| account.scoped_id.clone()).unwrap_or_default();
        let permissions = known.scopes.join(",");
        let scopes: BTreeSet<String> = known.scopes.iter().cloned().collect();
        let token = self.issue(&known.account, false, scopes, SHORT_S);
        Ok(if self.app.flat {
            // The older pages show the id as a number, beyond what a double holds.
            let user_id: u64 = scoped_id.parse().unwrap_or_default();
            json!({ "access_token": token, "user_id": user_id, "permissions": known.scopes })
        } else {
            json!({ "data": [{ "access_token": token, "user_id": scoped_id, "permissions": permissions }] })
        })
    }

    /// `GET /access_token`: a token of an hour for one of 60 days. That a token of 60 days is refused, and that one of an hour may be used
    /// again, is the sandbox's reading.
    fn lengthen(&mut self, query: &Query) -> Result<Value, Refusal> {
        query.only(&[&["grant_type", "client_secret"]])?;
        if query.required("grant_type")? != "ig_exchange_token" {
            return Err(Refusal::parameter("Invalid grant_type"));
        }
        // Its code is not on our provider page.
        if query.required("client_secret")? != self.app.secret.get() {
            return Err(Refusal::parameter("Error validating client secret."));
        }
        let (account, known) = self.granted(query.required("access_token")?)?;
        if known.long_lived {
            return Err(Refusal::parameter("The access token is not short-lived"));
        }
        let scopes = known.scopes.clone();
        Ok(self.issued(&account, scopes))
    }

    /// `GET /refresh_access_token`: another token of 60 days. The one before goes on to its own end.
    fn refresh(&mut self, query: &Query) -> Result<Value, Refusal> {
        query.only(&[&["grant_type"]])?;
        if query.required("grant_type")? != "ig_refresh_token" {
            return Err(Refusal::parameter("Invalid grant_type"));
        }
        let now = self.now();
        let (account, known) = self.granted(query.required("access_token")?)?;
        // Which code a token of an hour and one that is too young get is not on our provider page.
        if !known.long_lived || now - known.given < REFRESHED_FROM_MS {
            return Err(Refusal::permission());
        }
        let scopes = known.scopes.clone();
        Ok(self.issued(&account, scopes))
    }

    /// A token that is good and allows the basic scope, which both calls need.
    fn granted(&self, token: &str) -> Result<(String, &Token), Refusal> {
        let account = self.token(token)?;
        let known = self.tokens.get(token).filter(|known| known.scopes.contains(BASIC));
        Ok((account, known.ok_or_else(Refusal::permission)?))
    }

    fn issued(&mut self, account: &str, scopes: BTreeSet<String>) -> Value {
        let token = self.issue(account, true, scopes, LONG_S);
        json!({ "access_token": token, "token_type": "bearer", "expires_in": LONG_S })
    }

    /// Gives out a token for so many seconds.
    pub(super) fn issue(&mut self, account: &str, long_lived: bool, scopes: BTreeSet<String>, seconds: i64) -> String {
        let token = format!("IGAA{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let given = self.now();
        let (account, expires) = (account.to_owned(), given + seconds * 1000);
        self.tokens.insert(token.clone(), Token { account, long_lived, given, expires, revoked: None, scopes });
        token
    }
}

/// The grant that a request for tokens names.
pub(super) fn grant(uri: &Uri, body: &[u8]) -> Option<String> {
    let form = match uri.path() {
        "/oauth/access_token" => pairs(body),
        "/access_token" | "/refresh_access_token" => pairs(uri.query().unwrap_or_default().as_bytes()),
        _ => return None,
    };
    Some(get(&form, "grant_type").unwrap_or_default().to_owned())
}

/// A `signed_request`, as it is posted to the callbacks for removed applications and for deletions, signed with this secret.
#[must_use]
pub fn sign_request(payload: &Value, secret: &str) -> String {
    let payload = URL_SAFE_NO_PAD.encode(payload.to_string());
    format!("{}.{payload}", URL_SAFE_NO_PAD.encode(mac(secret.as_bytes(), &payload)))
}

/// Consent and tokens.
impl Instagram {
    /// The application's id.
    #[must_use]
    pub fn client_id(&self) -> String {
        self.client_id.clone()
    }

    /// The application's secret, which deliveries are signed with as well.
    #[must_use]
    pub fn client_secret(&self) -> Key {
        self.app_secret.clone()
    }

    /// Registers a redirect URI, beside those that are registered.
    pub fn register(&self, redirect_uri: &str) {
        self.world().app.redirect_uris.insert(redirect_uri.to_owned());
    }

    /// Whether a code's exchange is answered with `access_token`, `user_id` as a number and `permissions` as a list, as the older pages have
    /// it, and not with these in `data`. At first it is not.
    pub fn set_flat_exchange(&self, flat: bool) {
        self.world().app.flat = flat;
    }

    /// Does as a person does in a browser: opens the page, signs in with this account, and answers. Where the browser ends up.
    ///
    /// # Errors
    /// If the page leads nowhere: the request is wrong, there is no such account, or a scope is allowed that was not asked for.
    pub fn decide(&self, consent_url: &str, account: &str, answer: Consent) -> Result<Url> {
        let url = Url::parse(consent_url)?;
        ensure!(url.path() == "/oauth/authorize", "this is not the consent page: {consent_url}");
        let asked = pairs(url.query().unwrap_or_default().as_bytes());
        self.world().decide(&asked, account, &answer).unwrap_or_else(|turned| turned).url()
    }

    /// How many requests for tokens there were, by grant, answered or refused.
    #[must_use]
    pub fn token_requests(&self) -> BTreeMap<String, usize> {
        self.front.token_requests()
    }

    /// The next request for a token is carried out, and its answer never arrives.
    pub fn lose_next_token_answer(&self) {
        self.arrange(Call::Token, Fault::Lost, Calls::Next(1));
    }

    /// The tokens of an account that are accepted now, the oldest first.
    #[must_use]
    pub fn issued_tokens(&self, account: &str) -> Vec<Issued> {
        let world = self.world();
        let now = world.now();
        let good = |token: &&Token| token.expires > now && token.revoked.is_none_or(|at| at > now);
        let of = world.tokens.iter().filter(|(_, token)| token.account == account && good(token));
        let mut issued: Vec<(i64, Issued)> = of
            .map(|(name, token)| {
                let scopes = token.scopes.iter().cloned().collect();
                let expires_at = token.expires.div_euclid(1000);
                (token.given, Issued { token: name.clone(), long_lived: token.long_lived, expires_at, scopes })
            })
            .collect();
        issued.sort_by(|(at, one), (other_at, other)| (at, &one.token).cmp(&(other_at, &other.token)));
        issued.into_iter().map(|(_, issued)| issued).collect()
    }

    /// The person removes the application: its tokens, codes and subscriptions end. The form that is posted to the callback.
    pub fn deauthorize(&self, account: &str) -> Result<String> {
        self.revoke_tokens_in(account, 0);
        self.set_subscribed(account, &[])?;
        self.world().codes.retain(|_, code| code.account != account);
        self.signed_request(account)
    }

    /// The person asks for the deletion of their data. The form that is posted to the callback.
    pub fn request_deletion(&self, account: &str) -> Result<String> {
        self.signed_request(account)
    }

    fn signed_request(&self, account: &str) -> Result<String> {
        let world = self.world();
        let known = world.accounts.get(account).with_context(|| format!("there is no account {account}"))?;
        let payload = json!({
            "algorithm": "HMAC-SHA256", "issued_at": world.now().div_euclid(1000), "user_id": known.scoped_id,
        });
        Ok(format!("signed_request={}", sign_request(&payload, &self.app_secret.get())))
    }
}
