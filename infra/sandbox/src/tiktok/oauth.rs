//! Consent and tokens. One page asks for both platforms, by the client key; each platform gives out tokens in a way of its own:
//!
//! - A takes forms and answers flat, with errors in a word under `error`.
//! - B takes JSON and answers in its envelope, with errors in a number, and calls the code `auth_code` and the key `client_id`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use axum::{
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use url::Url;

use super::{
    TikTok, params,
    refusal::{Refusal, log_id, success},
    rest::Call,
    world::{Platform, Token, World},
};
use crate::{
    Calls, Consent, Fault, Key,
    consent::{self, Pairs, Turned, get, pairs},
    front::{self, header_text},
};

/// How long a code can be exchanged, in milliseconds. Not on our provider page.
const CODE_MS: i64 = 10 * 60 * 1000;
/// How long an access token is accepted, in seconds.
pub(super) const ACCESS_S: i64 = 7200;
/// How long a refresh token can be used, in seconds: 180 days.
const REFRESH_S: i64 = 15_552_000;
/// What an authorization request consists of.
const CARRIED: [&str; 7] =
    ["client_key", "response_type", "scope", "redirect_uri", "state", "code_challenge", "code_challenge_method"];

/// The application at one platform.
pub(super) struct App {
    pub(super) id: String,
    pub(super) secret: Key,
    pub(super) redirect_uris: BTreeSet<String>,
}

/// What a code stands for.
#[derive(Debug)]
pub(super) struct Code {
    open_id: String,
    platform: Platform,
    scopes: BTreeSet<String>,
    redirect_uri: String,
    challenge: Option<String>,
    given: i64,
}

/// A refresh token.
#[derive(Debug)]
pub(super) struct Refresh {
    open_id: String,
    platform: Platform,
    scopes: BTreeSet<String>,
    given: i64,
    /// Whether it was used or revoked.
    dead: bool,
}

/// An access token and the refresh token beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// For two hours.
    pub access_token: String,
    /// For 180 days, and once.
    pub refresh_token: String,
}

struct Asked {
    platform: Platform,
    redirect_uri: String,
    state: String,
    scopes: Vec<String>,
    challenge: Option<String>,
}

impl World {
    pub(super) fn app(&self, platform: Platform) -> &App {
        match platform {
            Platform::Display => &self.display,
            Platform::Business => &self.business,
        }
    }

    /// Everything that is checked before a person is asked. A wrong key or address leads nowhere, and anything else back.
    fn asked(&self, pairs: &Pairs) -> Result<Asked, Turned> {
        let key = get(pairs, "client_key");
        let found = [Platform::Display, Platform::Business].into_iter().find(|of| key == Some(&self.app(*of).id));
        let Some(platform) = found else { return Turned::page("We couldn't log in with TikTok: client_key") };
        let uri = get(pairs, "redirect_uri").filter(|uri| self.app(platform).redirect_uris.contains(*uri));
        let Some(redirect_uri) = uri else { return Turned::page("We couldn't log in with TikTok: redirect_uri") };
        let state = get(pairs, "state");
        let refuse = |error: &str, description: &str| {
            let mut pairs = vec![("error", error), ("error_description", description)];
            pairs.extend(state.map(|state| ("state", state)));
            Err(Turned::back(redirect_uri, &pairs))
        };
        let Some(state) = state else { return refuse("invalid_request", "The state is missing.") };
        if get(pairs, "response_type") != Some("code") {
            return refuse("unsupported_response_type", "The response type must be code.");
        }
        let Some(scopes) = consent::scopes(pairs, platform.scopes()) else {
            return refuse("invalid_scope", "The requested scope is invalid, unknown, or malformed.");
        };
        let challenge = get(pairs, "code_challenge").map(str::to_owned);
        if challenge.is_some() && get(pairs, "code_challenge_method") != Some("S256") {
            return refuse("invalid_request", "The code challenge method must be S256.");
        }
        Ok(Asked { platform, redirect_uri: redirect_uri.to_owned(), state: state.to_owned(), scopes, challenge })
    }

    /// What follows when a person signed in with this account and answered: the way back.
    fn decide(&mut self, pairs: &Pairs, open_id: &str, answer: &Consent) -> Result<Turned, Turned> {
        let asked = self.asked(pairs)?;
        let Some(scopes) = answer.granted(&asked.scopes)? else {
            let denied = [
                ("error", "access_denied"),
                ("error_description", "The user has denied the authorization request."),
                ("state", &asked.state),
            ];
            return Ok(Turned::back(&asked.redirect_uri, &denied));
        };
        if !self.accounts.contains_key(open_id) {
            return Turned::page("There is no such account.");
        }
        let granted = scopes.join(",");
        // Codes hold characters that a query escapes.
        let code = format!("{}*0!{}.e1", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 36]>()), rand::random::<u16>());
        let kept = Code {
            open_id: open_id.to_owned(),
            platform: asked.platform,
            scopes: scopes.into_iter().collect(),
            redirect_uri: asked.redirect_uri.clone(),
            challenge: asked.challenge,
            given: self.now(),
        };
        self.codes.insert(code.clone(), kept);
        Ok(Turned::back(&asked.redirect_uri, &[("code", &code), ("scopes", &granted), ("state", &asked.state)]))
    }

    /// The answer to a request that is no call of an API.
    pub(super) fn oauth(&mut self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Option<Response> {
        Some(match (method, uri.path()) {
            (&Method::GET, "/v2/auth/authorize/" | "/v2/auth/authorize") => {
                let pairs = pairs(uri.query().unwrap_or_default().as_bytes());
                match self.asked(&pairs) {
                    Ok(asked) => {
                        let accounts = self.accounts.values();
                        let accounts = accounts.map(|account| (account.open_id.as_str(), account.username.as_str()));
                        let page = ("Sandbox TikTok", "/v2/auth/consent/");
                        consent::ask(page, &pairs, &CARRIED, &asked.scopes, accounts)
                    }
                    Err(turned) => turned.into_response(),
                }
            }
            // Only the page above leads here.
            (&Method::POST, "/v2/auth/consent/") => {
                let form = pairs(body);
                let (open_id, answer) = consent::answered(&form);
                self.decide(&form, &open_id, &answer).unwrap_or_else(|turned| turned).into_response()
            }
            (&Method::POST, "/v2/oauth/token/") => match self.display_token(headers, body) {
                Ok(tokens) => front::json(200, tokens.to_string()),
                Err(refusal) => refusal.answer(self.oauth_error_status),
            },
            (&Method::POST, "/v2/oauth/revoke/") => match self.display_revoke(headers, body) {
                // Its body is empty.
                Ok(()) => StatusCode::OK.into_response(),
                Err(refusal) => refusal.answer(self.oauth_error_status),
            },
            (_, "/v2/auth/authorize/" | "/v2/auth/authorize" | "/v2/auth/consent/") => {
                StatusCode::METHOD_NOT_ALLOWED.into_response()
            }
            (_, "/v2/oauth/token/" | "/v2/oauth/revoke/") => {
                OauthRefusal::request("Only `POST` is supported.").answer(self.oauth_error_status)
            }
            (_, path) => {
                let call = path.strip_prefix("/open_api/v1.3/tt_user/")?;
                let json = header_text(headers, header::CONTENT_TYPE.as_str())
                    .is_some_and(|kind| kind.starts_with("application/json"));
                let invalid = |message| Refusal::invalid(Platform::Business, message);
                let answer = match call {
                    _ if *method != Method::POST => Err(invalid("Unsupported method")),
                    _ if !json => Err(invalid("The content type must be application/json")),
                    "oauth2/token/" => self.business_token(body),
                    "oauth2/refresh_token/" => self.business_refresh(body),
                    "oauth2/revoke/" => self.business_revoke(body),
                    "token_info/get/" => self.token_info(body),
                    _ => Err(invalid(&format!("Unsupported path {path}"))),
                };
                match answer {
                    Ok(data) => front::json(200, success(Platform::Business, &data).to_string()),
                    Err(refusal) => refusal.into_response(),
                }
            }
        })
    }

    /// What the code stands for, if it is known to this platform and asked for with the same address. Then it is used, also if too old.
    fn take_code(
        &mut self,
        platform: Platform,
        code: &str,
        redirect_uri: Option<&str>,
        verifier: Option<&str>,
    ) -> Option<Code> {
        let known = self.codes.get(code)?;
        let challenge = verifier.map(|verifier| URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)));
        // A page says that challenges of desktop applications are in hex, so that is accepted as well.
        let hex = verifier.map(|verifier| hex::encode(Sha256::digest(verifier)));
        let proven = known.challenge.is_none() || [challenge, hex].contains(&known.challenge);
        if known.platform != platform || redirect_uri != Some(&known.redirect_uri) || !proven {
            return None;
        }
        let now = self.now();
        self.codes.remove(code).filter(|known| now - known.given < CODE_MS)
    }

    /// Uses up a refresh token.
    fn spend(&mut self, platform: Platform, token: &str) -> Option<(String, BTreeSet<String>)> {
        let now = self.now();
        let known = self.refresh.get_mut(token).filter(|known| known.platform == platform && known.good(now))?;
        known.dead = true;
        Some((known.open_id.clone(), known.scopes.clone()))
    }

    pub(super) fn issue(&mut self, open_id: &str, platform: Platform, scopes: BTreeSet<String>) -> Issued {
        let access_token = self.issue_access(open_id, platform, scopes.clone());
        let refresh_token = format!("rft.{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let refresh = Refresh { open_id: open_id.to_owned(), platform, scopes, given: self.now(), dead: false };
        self.refresh.insert(refresh_token.clone(), refresh);
        Issued { access_token, refresh_token }
    }

    pub(super) fn issue_access(&mut self, open_id: &str, platform: Platform, scopes: BTreeSet<String>) -> String {
        let token = format!("act.{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let expires = self.now() + ACCESS_S * 1000;
        let kept = Token { account: open_id.to_owned(), platform, expires, revoked: None, scopes };
        self.tokens.insert(token.clone(), kept);
        token
    }

    /// New tokens, as the platform answers with them. Earlier access tokens go on to their own ends.
    fn issued(&mut self, open_id: &str, platform: Platform, scopes: BTreeSet<String>) -> Value {
        let scope = scopes.iter().cloned().collect::<Vec<_>>().join(",");
        let Issued { access_token, refresh_token } = self.issue(open_id, platform, scopes);
        let refresh_expires = match platform {
            Platform::Display => "refresh_expires_in",
            Platform::Business => "refresh_token_expires_in",
        };
        json!({
            "access_token": access_token, "expires_in": ACCESS_S, "open_id": open_id, refresh_expires: REFRESH_S,
            "refresh_token": refresh_token, "scope": scope, "token_type": "Bearer",
        })
    }

    /// Ends everything that an account allowed an application.
    pub(super) fn end(&mut self, open_id: &str, platform: Platform) {
        let now = self.now();
        let tokens = self.tokens.values_mut();
        tokens
            .filter(|token| token.account == open_id && token.platform == platform)
            .for_each(|token| token.revoked = Some(token.revoked.map_or(now, |at| at.min(now))));
        let refresh = self.refresh.values_mut();
        refresh
            .filter(|known| known.open_id == open_id && known.platform == platform)
            .for_each(|known| known.dead = true);
        self.codes.retain(|_, code| code.open_id != open_id || code.platform != platform);
    }

    /// The form of an application that named itself in it.
    fn display_form(&self, headers: &HeaderMap, body: &[u8]) -> Result<Pairs, OauthRefusal> {
        let form = header_text(headers, header::CONTENT_TYPE.as_str())
            .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        if !form {
            return Err(OauthRefusal::request("Only `application/x-www-form-urlencoded` is accepted as Content-Type."));
        }
        let form = pairs(body);
        let secret = self.display.secret.get();
        if get(&form, "client_key") != Some(&self.display.id) || get(&form, "client_secret") != Some(&secret) {
            return Err(OauthRefusal::new("invalid_client", "Client key or secret is incorrect."));
        }
        Ok(form)
    }

    /// `POST /v2/oauth/token/`.
    fn display_token(&mut self, headers: &HeaderMap, body: &[u8]) -> Result<Value, OauthRefusal> {
        let form = self.display_form(headers, body)?;
        let needed = |name: &str| {
            get(&form, name).ok_or_else(|| OauthRefusal::request("The request parameters are malformed or missing."))
        };
        let platform = Platform::Display;
        let (open_id, scopes) = match needed("grant_type")? {
            "authorization_code" => {
                let (code, uri) = (needed("code")?, needed("redirect_uri")?);
                let code = self.take_code(platform, code, Some(uri), get(&form, "code_verifier"));
                let code = code.ok_or(OauthRefusal::grant("Authorization code is invalid or expired."))?;
                (code.open_id, code.scopes)
            }
            "refresh_token" => {
                let spent = self.spend(platform, needed("refresh_token")?);
                spent.ok_or(OauthRefusal::grant("Refresh token is invalid or expired."))?
            }
            // Only for other APIs than the sandbox has.
            "client_credentials" => {
                return Err(OauthRefusal::new("unauthorized_client", "The client is not authorized for this grant."));
            }
            _ => return Err(OauthRefusal::new("unsupported_grant_type", "The grant type is not supported.")),
        };
        Ok(self.issued(&open_id, platform, scopes))
    }

    /// `POST /v2/oauth/revoke/`: everything that the person allowed ends, which has a webhook of its own.
    fn display_revoke(&mut self, headers: &HeaderMap, body: &[u8]) -> Result<(), OauthRefusal> {
        let form = self.display_form(headers, body)?;
        let token = get(&form, "token").ok_or_else(|| OauthRefusal::request("The token is missing."))?;
        let known = self.access(Platform::Display, token).map(|(account, _)| account.open_id.clone());
        let open_id = known.map_err(|_| OauthRefusal::request("The token is invalid."))?;
        self.end(&open_id, Platform::Display);
        self.append(Platform::Display, "authorization.removed", &open_id, json!({ "reason": 5 }));
        Ok(())
    }

    /// A body with these names alone, from the application itself.
    fn business_body(&self, body: &[u8], known: &[&str]) -> Result<Map<String, Value>, Refusal> {
        let names = [&["client_id", "client_secret"], known].concat();
        let asked = params::object(Platform::Business, body, &names)?;
        let secret = self.business.secret.get();
        let text = |name: &str| asked.get(name).and_then(Value::as_str);
        if (text("client_id"), text("client_secret")) == (Some(&self.business.id), Some(&secret)) {
            Ok(asked)
        } else {
            Err(Refusal::client())
        }
    }

    /// `POST /tt_user/oauth2/token/`.
    fn business_token(&mut self, body: &[u8]) -> Result<Value, Refusal> {
        let asked = self.business_body(body, &["grant_type", "auth_code", "redirect_uri", "code_verifier"])?;
        let text = |name: &str| asked.get(name).and_then(Value::as_str);
        if text("grant_type") != Some("authorization_code") {
            return Err(Refusal::invalid(Platform::Business, "grant_type: Invalid parameter"));
        }
        let (code, uri) = (text("auth_code").unwrap_or_default(), text("redirect_uri"));
        let code = self.take_code(Platform::Business, code, uri, text("code_verifier")).ok_or_else(Refusal::code)?;
        Ok(self.issued(&code.open_id, Platform::Business, code.scopes))
    }

    /// `POST /tt_user/oauth2/refresh_token/`.
    fn business_refresh(&mut self, body: &[u8]) -> Result<Value, Refusal> {
        let asked = self.business_body(body, &["grant_type", "refresh_token"])?;
        let text = |name: &str| asked.get(name).and_then(Value::as_str);
        if text("grant_type") != Some("refresh_token") {
            return Err(Refusal::invalid(Platform::Business, "grant_type: Invalid parameter"));
        }
        let token = text("refresh_token").unwrap_or_default();
        let (open_id, scopes) = self.spend(Platform::Business, token).ok_or_else(Refusal::refresh)?;
        Ok(self.issued(&open_id, Platform::Business, scopes))
    }

    /// `POST /tt_user/oauth2/revoke/`.
    fn business_revoke(&mut self, body: &[u8]) -> Result<Value, Refusal> {
        let asked = self.business_body(body, &["access_token"])?;
        let token = asked.get("access_token").and_then(Value::as_str).unwrap_or_default();
        let open_id = self.access(Platform::Business, token)?.0.open_id.clone();
        self.end(&open_id, Platform::Business);
        Ok(json!({}))
    }

    /// `POST /tt_user/token_info/get/`.
    fn token_info(&self, body: &[u8]) -> Result<Value, Refusal> {
        let asked = params::object(Platform::Business, body, &["app_id", "access_token"])?;
        let text = |name: &str| asked.get(name).and_then(Value::as_str);
        if text("app_id") != Some(&self.business.id) {
            return Err(Refusal::client());
        }
        let (account, token) = self.access(Platform::Business, text("access_token").unwrap_or_default())?;
        let scope = token.scopes.iter().cloned().collect::<Vec<_>>().join(",");
        Ok(json!({ "app_id": self.business.id, "scope": scope, "creator_id": account.open_id }))
    }
}

impl Refresh {
    fn good(&self, now: i64) -> bool {
        !self.dead && now - self.given < REFRESH_S * 1000
    }
}

/// An error of platform A's token endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OauthRefusal {
    error: &'static str,
    description: &'static str,
}

impl OauthRefusal {
    pub(super) fn new(error: &'static str, description: &'static str) -> Self {
        Self { error, description }
    }

    fn grant(description: &'static str) -> Self {
        Self::new("invalid_grant", description)
    }

    fn request(description: &'static str) -> Self {
        Self::new("invalid_request", description)
    }

    pub(super) fn answer(&self, status: u16) -> Response {
        let body = json!({ "error": self.error, "error_description": self.description, "log_id": log_id() });
        front::json(status, body.to_string())
    }
}

fn prefix(platform: Platform) -> &'static str {
    match platform {
        Platform::Display => "display:",
        Platform::Business => "business:",
    }
}

/// The platform and the grant that a request for tokens names.
pub(super) fn grant(uri: &Uri, body: &[u8]) -> Option<String> {
    let (platform, grant) = match uri.path() {
        "/v2/oauth/token/" => (Platform::Display, get(&pairs(body), "grant_type").map(str::to_owned)),
        "/open_api/v1.3/tt_user/oauth2/token/" | "/open_api/v1.3/tt_user/oauth2/refresh_token/" => {
            let asked: Value = serde_json::from_slice(body).unwrap_or_default();
            (Platform::Business, asked["grant_type"].as_str().map(str::to_owned))
        }
        _ => return None,
    };
    Some(format!("{}{}", prefix(platform), grant.unwrap_or_default()))
}

/// Consent and tokens.
impl TikTok {
    /// The application's id at platform B, which is the `client_key` of its authorization requests.
    #[must_use]
    pub fn business_client_id(&self) -> String {
        self.world().business.id.clone()
    }

    /// The application's secret at platform B. Deliveries are signed with [`TikTok::client_secret`] all the same.
    #[must_use]
    pub fn business_client_secret(&self) -> Key {
        self.world().business.secret.clone()
    }

    /// Registers a redirect URI for the application at this platform, beside those that are registered.
    pub fn register(&self, platform: Platform, redirect_uri: &str) {
        let mut world = self.world();
        let app = match platform {
            Platform::Display => &mut world.display,
            Platform::Business => &mut world.business,
        };
        app.redirect_uris.insert(redirect_uri.to_owned());
    }

    /// The status of errors from platform A's token endpoints. At first 200, since the pages leave it open and a client that looks at the
    /// status alone would take an error for tokens.
    pub fn set_oauth_error_status(&self, status: u16) {
        self.world().oauth_error_status = status;
    }

    /// Does as a person does in a browser: opens the page, signs in with this account, and answers. Where the browser ends up, which is the
    /// application also if most of what is wrong with the request is.
    ///
    /// # Errors
    /// If the page leads nowhere: a wrong client key, a redirect URI that is not registered, no such account, or a scope that is allowed
    /// and was not asked for.
    pub fn decide(&self, consent_url: &str, open_id: &str, answer: Consent) -> Result<Url> {
        let url = Url::parse(consent_url)?;
        let is_page = url.path().trim_end_matches('/') == "/v2/auth/authorize";
        ensure!(is_page, "this is not the consent page: {consent_url}");
        let asked = pairs(url.query().unwrap_or_default().as_bytes());
        self.world().decide(&asked, open_id, &answer).unwrap_or_else(|turned| turned).url()
    }

    /// Tokens for all scopes, as if the account had allowed everything and the code had been exchanged.
    pub fn connect(&self, open_id: &str, platform: Platform) -> Result<Issued> {
        let mut world = self.world();
        world.account_mut(open_id)?;
        let scopes = platform.scopes().iter().map(|scope| (*scope).to_owned()).collect();
        Ok(world.issue(open_id, platform, scopes))
    }

    /// The refresh tokens of an account that can still be used.
    #[must_use]
    pub fn refresh_tokens(&self, open_id: &str, platform: Platform) -> Vec<String> {
        let world = self.world();
        let now = world.now();
        let good = |known: &Refresh| known.open_id == open_id && known.platform == platform && known.good(now);
        world.refresh.iter().filter(|(_, known)| good(known)).map(|(token, _)| token.clone()).collect()
    }

    /// How many requests for tokens there were at this platform, by grant, answered or refused.
    #[must_use]
    pub fn token_requests(&self, platform: Platform) -> BTreeMap<String, usize> {
        let all = self.front.token_requests();
        all.iter()
            .filter_map(|(grant, count)| Some((grant.strip_prefix(prefix(platform))?.to_owned(), *count)))
            .collect()
    }

    /// The next request for tokens, at either platform, is carried out, tokens rotated and all, and its answer never arrives.
    pub fn lose_next_token_answer(&self) {
        self.arrange(Call::Token, Fault::Lost, Calls::Next(1));
    }
}
