//! The APIs: who may ask, how often, and which answer belongs to which path.

use axum::{
    http::{HeaderMap, Method, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{
    TikTok, business, comments, display,
    oauth::{self, OauthRefusal},
    params::Query,
    refusal::{Refusal, success},
    sending,
    world::{Account, Platform, Token, World},
};
use crate::{
    Fault,
    front::{self, Front, Provider, header_text},
};

/// The window of the rate limit, in milliseconds.
const WINDOW_MS: i64 = 60_000;

/// Calls that a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// All of them.
    Any,
    /// `/v2/user/info/` and `business/get/`.
    Account,
    /// `/v2/video/…` and `business/video/list/`.
    Videos,
    /// `business/comment/list/`.
    Comments,
    /// `business/webhook/…`.
    Webhooks,
    /// Tokens for a code, for a refresh token, and their end, at either platform.
    Token,
    /// `business/message/send/`.
    Send,
    /// `business/comment/reply/create/`.
    Reply,
}

fn platform(path: &str) -> Platform {
    if path.starts_with("/open_api/") { Platform::Business } else { Platform::Display }
}

fn token<'a>(uri: &Uri, headers: &'a HeaderMap) -> &'a str {
    match platform(uri.path()) {
        Platform::Business => header_text(headers, "access-token").unwrap_or_default(),
        Platform::Display => {
            let header = header_text(headers, header::AUTHORIZATION.as_str()).unwrap_or_default();
            header.strip_prefix("Bearer ").unwrap_or_default()
        }
    }
}

impl Provider for TikTok {
    type Call = Call;

    fn front(&self) -> &Front<Call> {
        &self.front
    }

    fn clock(&self) -> i64 {
        self.world().now()
    }

    fn account_of(&self, uri: &Uri, headers: &HeaderMap) -> Option<String> {
        self.world().tokens.get(token(uri, headers)).map(|token| token.account.clone())
    }

    fn kinds(&self, _method: &Method, path: &str) -> Vec<Call> {
        let kind = match path.trim_end_matches('/') {
            "/v2/user/info" | "/open_api/v1.3/business/get" => Call::Account,
            "/open_api/v1.3/business/comment/list" => Call::Comments,
            "/open_api/v1.3/business/message/send" => Call::Send,
            "/open_api/v1.3/business/comment/reply/create" => Call::Reply,
            path if path.starts_with("/v2/oauth/") || path.starts_with("/open_api/v1.3/tt_user/") => Call::Token,
            path if path.contains("/video/") => Call::Videos,
            path if path.contains("/webhook/") => Call::Webhooks,
            _ => return vec![Call::Any],
        };
        vec![kind, Call::Any]
    }

    fn grant(&self, uri: &Uri, body: &[u8]) -> Option<String> {
        oauth::grant(uri, body)
    }

    fn refuse(&self, fault: &Fault, path: &str) -> Option<Response> {
        let oauth = path.starts_with("/v2/oauth/");
        match fault {
            // Which of these words TikTok has, and which statuses with them, is not certain.
            Fault::Transient(_) if oauth => Some(OauthRefusal::new("server_error", "Something is wrong.").answer(500)),
            Fault::RateLimited if oauth => {
                Some(OauthRefusal::new("temporarily_unavailable", "Too many requests.").answer(429))
            }
            Fault::Transient(_) => Some(Refusal::internal(platform(path)).into_response()),
            Fault::RateLimited => Some(Refusal::rate(platform(path)).into_response()),
            Fault::Lost | Fault::Dropped | Fault::Late(_) | Fault::Held(_) | Fault::Slow(_) | Fault::Down(_) => None,
        }
    }

    fn respond(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Response {
        let platform = platform(uri.path());
        let query = Query::parse(platform, uri.query().unwrap_or_default());
        let json = header_text(headers, header::CONTENT_TYPE.as_str())
            .is_some_and(|kind| kind.starts_with("application/json"));
        let secret = self.client_secret.get();
        let mut world = self.world();
        if *method == Method::POST {
            self.hooks.changed.notify_one();
        }
        if let Some(response) = world.oauth(method, uri, headers, body) {
            return response;
        }
        if *method == Method::GET && uri.path() == "/media/" {
            return world.file(query.get("id"));
        }
        let asked = Asked { method, path: uri.path(), query, body, json, token: token(uri, headers) };
        match world.answer(platform, &asked, (&self.client_key, &secret)) {
            Ok(data) => front::json(200, success(platform, &data).to_string()),
            Err(refusal) => refusal.into_response(),
        }
    }
}

struct Asked<'a> {
    method: &'a Method,
    path: &'a str,
    query: Query,
    body: &'a [u8],
    /// Whether the body is said to be JSON.
    json: bool,
    token: &'a str,
}

impl World {
    /// Checks in this order: the path and its method, the token, the rate; then the request itself.
    fn answer(&mut self, platform: Platform, asked: &Asked<'_>, app: (&str, &str)) -> Result<Value, Refusal> {
        let method = match asked.path {
            "/v2/user/info/"
            | "/open_api/v1.3/business/get/"
            | "/open_api/v1.3/business/video/list/"
            | "/open_api/v1.3/business/comment/list/"
            | "/open_api/v1.3/business/webhook/list/" => Method::GET,
            "/v2/video/list/"
            | "/v2/video/query/"
            | "/open_api/v1.3/business/webhook/update/"
            | "/open_api/v1.3/business/message/send/"
            | "/open_api/v1.3/business/message/media/download/"
            | "/open_api/v1.3/business/comment/reply/create/" => Method::POST,
            // What an unknown path gets is not on our provider page.
            path => return Err(Refusal::invalid(platform, &format!("Unsupported path {path}"))),
        };
        if *asked.method != method {
            return Err(Refusal::invalid(platform, "Unsupported method"));
        }
        if method == Method::POST && !asked.json {
            return Err(Refusal::invalid(platform, "The content type must be application/json"));
        }
        match asked.path {
            "/open_api/v1.3/business/webhook/list/" => return business::webhook_list(self, &asked.query, app),
            "/open_api/v1.3/business/webhook/update/" => return business::webhook_update(self, asked.body, app),
            _ => {}
        }
        let open_id = self.access(platform, asked.token)?.0.open_id.clone();
        self.admit(platform, &open_id, asked.path)?;
        let (account, token) = self.access(platform, asked.token)?;
        let writing = match asked.path {
            "/open_api/v1.3/business/message/send/" => sending::message(account, token, asked.body)?,
            "/open_api/v1.3/business/comment/reply/create/" => sending::reply(self, account, token, asked.body)?,
            _ => return self.read(account, token, asked),
        };
        self.carry_out(&open_id, writing)
    }

    fn read(&self, account: &Account, token: &Token, asked: &Asked<'_>) -> Result<Value, Refusal> {
        match asked.path {
            "/v2/user/info/" => display::user_info(self, account, token, &asked.query),
            "/v2/video/list/" => display::video_list(self, account, token, &asked.query, asked.body),
            "/v2/video/query/" => display::video_query(self, account, token, &asked.query, asked.body),
            "/open_api/v1.3/business/message/media/download/" => sending::download(self, account, token, asked.body),
            "/open_api/v1.3/business/get/" => business::get(self, account, token, &asked.query),
            "/open_api/v1.3/business/video/list/" => business::video_list(self, account, token, &asked.query),
            _ => comments::list(self, account, token, &asked.query),
        }
    }

    /// Counts a call, or refuses it. That platform B counts as A does is the sandbox's reading.
    fn admit(&mut self, platform: Platform, open_id: &str, path: &str) -> Result<(), Refusal> {
        let (now, quota) = (self.now(), self.quota);
        let calls = self.calls.entry((open_id.to_owned(), path.to_owned())).or_default();
        while calls.front().is_some_and(|at| now - at >= WINDOW_MS) {
            calls.pop_front();
        }
        if calls.len() >= quota {
            return Err(Refusal::rate(platform));
        }
        calls.push_back(now);
        Ok(())
    }
}
