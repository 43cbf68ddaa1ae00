//! OAuth, as the developer pages "Authorization", "Get authorization code", "Get access token", "Get refresh token" and "Revoke
//! access token" have it, and the announcement of client credentials.
//!
//! Scopes, state and response type are looked at before a person signs in, the redirect URI only afterwards. A refusal goes to the
//! registered redirect URI, never to one that was only asked for.

use axum::{
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use url::Url;

use super::{
    grants::Consent,
    json, pages,
    world::{App, World},
};
use crate::consent::{Pairs, get, pairs};

/// What a browser sees instead of a page to agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turned {
    /// A page that leads nowhere.
    Page(String),
    /// The way back to the application.
    Back(Box<Url>),
}

/// An authorization request that a person may be asked about.
pub(super) struct Asked {
    redirect_uri: Option<String>,
    state: String,
    pub(super) scopes: Vec<String>,
    offline: bool,
    service: bool,
}

fn back(to: &str, pairs: &[(&str, &str)]) -> Turned {
    match Url::parse(to) {
        Ok(mut url) => {
            url.query_pairs_mut().extend_pairs(pairs);
            Turned::Back(Box::new(url))
        }
        Err(_) => Turned::Page("The registered redirect URI is no address.".to_owned()),
    }
}

impl App {
    fn refuse(&self, state: Option<&str>, error: &str, description: &str) -> Turned {
        let mut pairs = vec![("error", error), ("error_description", description)];
        pairs.extend(state.map(|state| ("state", state)));
        back(&self.redirect_uri, &pairs)
    }

    /// Everything that is checked before a person signs in.
    pub(super) fn asked(&self, pairs: &Pairs) -> Result<Asked, Turned> {
        if get(pairs, "client_id") != Some(&self.client_id) {
            return Err(Turned::Page("Auth code or ClientID supplied is invalid".to_owned()));
        }
        let state = get(pairs, "state");
        let refuse = |error: &str, description: &str| Err(self.refuse(state, error, description));
        let Some(state) = state else { return refuse("invalid_request", "The state is missing") };
        if get(pairs, "response_type") != Some("code") {
            return refuse("unsupported_response_type", "The response type must be code");
        }
        let scopes: Vec<String> =
            get(pairs, "scope").unwrap_or_default().split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect();
        // It does not say which.
        if scopes.is_empty() || scopes.iter().any(|scope| !self.scopes.contains(scope)) {
            return refuse("invalid_scope", "One or more scopes are invalid");
        }
        let access_type = get(pairs, "access_type");
        if access_type.is_some_and(|given| given != "offline") {
            return refuse("invalid_request", "The access type must be offline");
        }
        let service = match get(pairs, "account_type") {
            None => false,
            Some("service") if self.service_accounts => true,
            Some("service") => return refuse("invalid_request", "Client does not allow service account"),
            Some(_) => return refuse("invalid_request", "The account type must be service"),
        };
        let redirect_uri = get(pairs, "redirect_uri").map(str::to_owned);
        Ok(Asked { redirect_uri, state: state.to_owned(), scopes, offline: access_type.is_some(), service })
    }
}

impl World {
    /// What follows when a person signed in, chose a company and answered: the way back.
    pub(super) fn decide(&mut self, pairs: &Pairs, tenant: i64, allow: bool) -> Result<Url, Turned> {
        let asked = self.app.asked(pairs)?;
        if asked.redirect_uri.as_ref().is_some_and(|asked| *asked != self.app.redirect_uri) {
            return Err(Turned::Page("The redirect URI does not match the registered one.".to_owned()));
        }
        let refuse = |description| Err(self.app.refuse(Some(&asked.state), "access_denied", description));
        if !allow {
            return refuse("The resource owner or authorization server denied the request");
        }
        let Some(company) = self.companies.get(&tenant) else {
            return Err(Turned::Page("There is no such company.".to_owned()));
        };
        if asked.service && !company.administrator {
            return refuse("Only a system administrator can allow a service account");
        }
        let consent = Consent { tenant, scopes: asked.scopes, offline: asked.offline, service: asked.service };
        let now = self.now();
        let code = self.grants.consent(consent, asked.redirect_uri, now);
        match back(&self.app.redirect_uri, &[("code", &code), ("state", &asked.state)]) {
            Turned::Back(url) => Ok(*url),
            page @ Turned::Page(_) => Err(page),
        }
    }

    /// `GET /oauth-v1/auth`.
    pub(super) fn authorize(&self, query: &str) -> Response {
        let pairs = pairs(query.as_bytes());
        match self.app.asked(&pairs) {
            Ok(asked) => {
                let companies = self.companies.values().map(|company| (company.tenant, company.name.as_str()));
                pages::consent(&pairs, &asked.scopes, companies)
            }
            Err(turned) => turned.into_response(),
        }
    }

    /// `POST /oauth-v1/consent`, which only the page above leads to.
    pub(super) fn consented(&mut self, body: &[u8]) -> Response {
        let pairs = pairs(body);
        let tenant = get(&pairs, "company").and_then(|company| company.parse().ok()).unwrap_or_default();
        match self.decide(&pairs, tenant, get(&pairs, "decision") == Some("allow")) {
            Ok(url) => Turned::Back(Box::new(url)).into_response(),
            Err(turned) => turned.into_response(),
        }
    }

    /// `POST /oauth-v1/token`.
    pub(super) fn token(&mut self, headers: &HeaderMap, body: &[u8]) -> Response {
        match self.exchange(headers, body) {
            Ok(consent) => {
                let now = self.now();
                match self.grants.issue(&consent, now) {
                    Ok(tokens) => json::answer(200, "application/json", json::text(&tokens)),
                    Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                }
            }
            Err(refusal) => refusal.into_response(),
        }
    }

    fn exchange(&mut self, headers: &HeaderMap, body: &[u8]) -> Result<Consent, OauthRefusal> {
        let form = self.app.authenticated(headers, body)?;
        let now = self.now();
        let needed = |name: &str| get(&form, name).ok_or_else(|| OauthRefusal::request(format!("{name} is missing")));
        match needed("grant_type")? {
            "authorization_code" => {
                let (code, uri) = (needed("code")?, get(&form, "redirect_uri"));
                let consent = self.grants.take_code(code, uri, &self.app.redirect_uri, now);
                consent.ok_or(OauthRefusal::grant("Auth code or ClientID supplied is invalid"))
            }
            "refresh_token" => {
                let consent = self.grants.spend(needed("refresh_token")?, now);
                consent.ok_or(OauthRefusal::grant("Invalid refresh token"))
            }
            "client_credentials" => {
                if get(&form, "scope").is_some() {
                    return Err(OauthRefusal::request("scope is not a parameter of this grant".to_owned()));
                }
                let tenant = headers.get("tenantid").and_then(|tenant| tenant.to_str().ok());
                let Some(tenant) = tenant else {
                    return Err(OauthRefusal::request("The header TenantId is missing".to_owned()));
                };
                let consent = tenant.parse().ok().and_then(|tenant| self.grants.service(tenant));
                consent.ok_or(OauthRefusal::grant("There is no consent for the tenant"))
            }
            _ => Err(OauthRefusal::other("unsupported_grant_type", "The grant type is not supported".to_owned())),
        }
    }

    /// `POST /oauth-v1/revoke`. Only a refresh token can be revoked.
    pub(super) fn revoke(&mut self, headers: &HeaderMap, body: &[u8]) -> Response {
        let form = match self.app.authenticated(headers, body) {
            Ok(form) => form,
            Err(refusal) => return refusal.into_response(),
        };
        match (get(&form, "token_type_hint"), get(&form, "token")) {
            (Some("refresh_token"), Some(token)) => {
                let revoked = self.grants.revoke(token);
                json::answer(200, "application/json", json::text(&json!({ "revoked": revoked })))
            }
            _ => OauthRefusal::request("token_type_hint and token are needed".to_owned()).into_response(),
        }
    }
}

impl App {
    /// The form of a client that named itself by Basic authentication. Credentials in the form count for nothing.
    fn authenticated(&self, headers: &HeaderMap, body: &[u8]) -> Result<Pairs, OauthRefusal> {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let encoded = header(header::AUTHORIZATION).strip_prefix("Basic ").unwrap_or_default();
        let expected = format!("{}:{}", self.client_id, self.client_secret.get());
        if STANDARD.decode(encoded).unwrap_or_default() != expected.as_bytes() {
            return Err(OauthRefusal::client());
        }
        if !header(header::CONTENT_TYPE).starts_with("application/x-www-form-urlencoded") {
            return Err(OauthRefusal::request("The body must be application/x-www-form-urlencoded".to_owned()));
        }
        Ok(pairs(body))
    }
}

/// How the token endpoint says no. Each kind has a content type of its own, as was recorded; the last one was not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OauthRefusal {
    status: u16,
    content_type: &'static str,
    error: &'static str,
    description: String,
}

impl OauthRefusal {
    fn client() -> Self {
        Self {
            status: 401,
            content_type: "text/plain;charset=UTF-8",
            error: "invalid_client",
            description: "The client credentials are invalid".to_owned(),
        }
    }

    fn grant(description: &str) -> Self {
        Self {
            status: 400,
            content_type: "text/html; charset=UTF-8",
            error: "invalid_grant",
            description: description.to_owned(),
        }
    }

    fn other(error: &'static str, description: String) -> Self {
        Self { status: 400, content_type: "application/json", error, description }
    }

    fn request(description: String) -> Self {
        Self::other("invalid_request", description)
    }
}

impl IntoResponse for OauthRefusal {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.error, "error_description": self.description });
        json::answer(self.status, self.content_type, json::text(&body))
    }
}

impl IntoResponse for Turned {
    fn into_response(self) -> Response {
        match self {
            Self::Page(text) => pages::dead_end(&text),
            Self::Back(url) => (StatusCode::FOUND, [(header::LOCATION, url.to_string())]).into_response(),
        }
    }
}

/// Which of these three an OAuth path is, and nothing else is.
pub(super) fn answer(
    world: &mut World,
    method: &Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    match (method, path) {
        (&Method::GET, "/oauth-v1/auth") => world.authorize(query),
        (&Method::POST, "/oauth-v1/consent") => world.consented(body),
        (&Method::POST, "/oauth-v1/token") => world.token(headers, body),
        (&Method::POST, "/oauth-v1/revoke") => world.revoke(headers, body),
        (_, "/oauth-v1/auth" | "/oauth-v1/consent" | "/oauth-v1/token" | "/oauth-v1/revoke") => {
            StatusCode::METHOD_NOT_ALLOWED.into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}
