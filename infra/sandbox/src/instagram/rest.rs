//! The API: who may ask, how often, and which answer belongs to which path.

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{
    Instagram, VERSION,
    nodes::{Node, Reader},
    oauth,
    params::{PAGES, Query},
    refusal::{FlatRefusal, Refusal},
    world::{WEBHOOK_FIELDS, World},
};
use crate::{
    Fault, escaped,
    front::{self, Front, Provider, header_text},
};

/// Calls that a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// All of them.
    Any,
    /// One object by its id, `me` included.
    Object,
    /// The list of media.
    Media,
    /// Comments of a medium, and answers to a comment.
    Comments,
    /// Conversations, and messages of one.
    Conversations,
    /// Figures of a medium or an account.
    Insights,
    /// `subscribed_apps`.
    Subscribe,
    /// A code's exchange, and long-lived tokens.
    Token,
    /// A message that is sent, private replies included.
    Send,
    /// An answer to a comment that is written.
    Reply,
    /// Hiding a comment, or showing it again.
    Hide,
}

pub(super) const BASIC: &str = "instagram_business_basic";
pub(super) const COMMENTS: &str = "instagram_business_manage_comments";
pub(super) const MESSAGES: &str = "instagram_business_manage_messages";
const INSIGHTS: &str = "instagram_business_manage_insights";

/// The scope that events of this field need.
pub(super) fn scope_of(field: &str) -> &'static str {
    match field {
        "comments" | "live_comments" | "mentions" => COMMENTS,
        "story_insights" => INSIGHTS,
        _ => MESSAGES,
    }
}

/// A call of the API.
pub(super) struct Asked<'a> {
    method: &'a Method,
    path: &'a str,
    /// The query, and what the body holds beside it.
    pub(super) query: Query,
    /// The body, if it is a JSON object and says so.
    pub(super) json: Option<Map<String, Value>>,
    pub(super) token: &'a str,
}

/// The token of a request: in the header, or else in the query.
fn token(uri: &Uri, headers: &HeaderMap) -> String {
    let bearer = header_text(headers, header::AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
    let query = Query::parse(uri.query().unwrap_or_default());
    bearer.or(query.get("access_token")).unwrap_or_default().to_owned()
}

impl Provider for Instagram {
    type Call = Call;

    fn front(&self) -> &Front<Call> {
        &self.front
    }

    fn clock(&self) -> i64 {
        self.world().now()
    }

    fn account_of(&self, uri: &Uri, headers: &HeaderMap) -> Option<String> {
        self.world().tokens.get(&token(uri, headers)).map(|token| token.account.clone())
    }

    fn kinds(&self, method: &Method, path: &str) -> Vec<Call> {
        let writes = *method == Method::POST;
        let kind = match path.rsplit('/').next().unwrap_or_default() {
            "authorize" | "consent" => return vec![Call::Any],
            "access_token" | "refresh_access_token" => Call::Token,
            "messages" if writes => Call::Send,
            "replies" if writes => Call::Reply,
            "media" => Call::Media,
            "comments" | "replies" => Call::Comments,
            "conversations" | "messages" => Call::Conversations,
            "insights" => Call::Insights,
            "subscribed_apps" => Call::Subscribe,
            _ if writes => Call::Hide,
            _ => Call::Object,
        };
        vec![kind, Call::Any]
    }

    fn grant(&self, uri: &Uri, body: &[u8]) -> Option<String> {
        oauth::grant(uri, body)
    }

    fn refuse(&self, fault: &Fault, path: &str) -> Option<Response> {
        let exchange = path == "/oauth/access_token";
        match fault {
            Fault::Transient(_) if exchange => Some(FlatRefusal::transient().into_response()),
            Fault::RateLimited if exchange => Some(FlatRefusal::rate().into_response()),
            Fault::Transient(code) => Some(Refusal::transient(*code).into_response()),
            Fault::RateLimited => Some(Refusal::account_limit().into_response()),
            Fault::Lost | Fault::Dropped | Fault::Late(_) | Fault::Held(_) | Fault::Slow(_) | Fault::Down(_) => None,
        }
    }

    fn respond(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Response {
        let token = token(uri, headers);
        let mut world = self.world();
        if let Some(response) = world.oauth(method, uri, headers, body) {
            return response;
        }
        let (mut response, account) = match world.token(&token) {
            Ok(account) => {
                let is_json = header_text(headers, header::CONTENT_TYPE.as_str())
                    .is_some_and(|kind| kind.starts_with("application/json"));
                let json = is_json.then(|| serde_json::from_slice(body).unwrap_or_default());
                let mut query = Query::parse(uri.query().unwrap_or_default());
                if *method == Method::POST {
                    query = query.and_body(body, json.as_ref());
                }
                let asked = Asked { method, path: uri.path(), query, json, token: &token };
                let answer = match world.rest(&account, &asked) {
                    Ok(body) => front::json(200, escaped::text(&body)),
                    Err(refusal) => refusal.into_response(),
                };
                (answer, account)
            }
            Err(refusal) => return refusal.into_response(),
        };
        if *method == Method::POST {
            self.hooks.changed.notify_one();
        }
        let now = world.now();
        for (name, usage) in world.limits.headers(&account, now) {
            if let Ok(value) = HeaderValue::from_str(&usage.to_string()) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}

impl World {
    /// For which account a token speaks.
    pub(super) fn token(&self, token: &str) -> Result<String, Refusal> {
        let (now, token) = (self.now(), self.tokens.get(token).ok_or_else(Refusal::token)?);
        if token.revoked.is_some_and(|at| at <= now) {
            return Err(Refusal::revoked());
        }
        if token.expires <= now {
            return Err(Refusal::expired(token.expires));
        }
        Ok(token.account.clone())
    }

    /// Checks in this order: the path, the rate, the object, the scope, the parameters.
    fn rest(&mut self, account: &str, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let Asked { method, path, query, token, .. } = asked;
        let now = self.now();
        let rest =
            path.strip_prefix('/').and_then(|path| path.split_once('/')).filter(|(version, _)| *version == VERSION);
        let segments: Vec<&str> = rest.ok_or_else(|| Refusal::path(path))?.1.split('/').collect();
        let (id, edge) = match segments[..] {
            [id] if !id.is_empty() => (id, None),
            [id, edge] if !id.is_empty() && !edge.is_empty() => (id, Some(edge)),
            _ => return Err(Refusal::path(path)),
        };
        let talks = edge == Some("conversations")
            || matches!(self.reader(account, token, false)?.node(id), Some(Node::Conversation(_) | Node::Message(..)));
        self.limits.admit(account, talks, now)?;
        match (*method, edge) {
            (&Method::POST, Some("subscribed_apps")) => return self.subscribe(account, id, query, token),
            (&Method::POST, Some("messages")) => return self.send(account, id, asked),
            (&Method::POST, Some("replies")) => return self.reply(account, id, asked),
            (&Method::POST, None) => return self.hide(account, id, asked),
            _ => {}
        }
        if *method != Method::GET {
            return Err(Refusal::parameter(format!("Unsupported {} request", method.as_str().to_lowercase())));
        }
        let empty = self.empty_pages > 0 && edge.is_some_and(|edge| edge != "insights");
        self.empty_pages -= usize::from(empty);
        let reader = self.reader(account, token, empty)?;
        let node = reader.node(id).ok_or_else(|| Refusal::missing(id))?;
        let (scope, known): (&str, &[&[&str]]) = match (&node, edge) {
            (Node::Account, None) => (BASIC, &[&["fields"]]),
            (Node::Account, Some("media")) => (BASIC, &[&["fields"], &PAGES]),
            (Node::Account, Some("conversations")) => (MESSAGES, &[&["platform", "user_id", "fields"], &PAGES]),
            (Node::Account | Node::Media(_), Some("insights")) => (INSIGHTS, &[]),
            (Node::Media(_), None) => (BASIC, &[&["fields"]]),
            (Node::Media(_), Some("comments")) | (Node::Comment(_), Some("replies")) => {
                (COMMENTS, &[&["fields"], &PAGES])
            }
            (Node::Comment(_), None) => (COMMENTS, &[&["fields"]]),
            (Node::Conversation(_), Some("messages")) => (MESSAGES, &[&["fields"], &PAGES]),
            (Node::Conversation(_) | Node::Message(..) | Node::Person(_), None) => (MESSAGES, &[&["fields"]]),
            (_, Some(edge)) => return Err(Refusal::field("node", edge)),
        };
        if !self.tokens.get(*token).is_some_and(|token| token.scopes.contains(scope)) {
            return Err(Refusal::permission());
        }
        if edge != Some("insights") {
            query.only(known)?;
        }
        match (&node, edge) {
            (Node::Account, Some("media")) => reader.all_media(query),
            (Node::Account, Some("conversations")) => reader.conversations(query),
            (Node::Account, Some(_)) => reader.account_insights(query),
            (Node::Media(media), Some("comments")) => reader.comments_of(media, query),
            (Node::Media(media), Some(_)) => reader.media_insights(media, query),
            (Node::Comment(comment), Some(_)) => reader.replies(comment, query),
            (Node::Conversation(talk), Some(_)) => reader.messages_of(talk, query),
            (node, _) => reader.object(node, query),
        }
    }

    pub(super) fn reader<'a>(&'a self, account: &str, token: &'a str, empty: bool) -> Result<Reader<'a>, Refusal> {
        let account = self.accounts.get(account).ok_or_else(Refusal::token)?;
        Ok(Reader { world: self, account, token, now: self.now(), empty })
    }

    fn subscribe(&mut self, account: &str, id: &str, query: &Query, token: &str) -> Result<Value, Refusal> {
        if !matches!(self.reader(account, token, false)?.node(id), Some(Node::Account)) {
            return Err(Refusal::missing(id));
        }
        query.only(&[&["subscribed_fields"]])?;
        let fields = query.required("subscribed_fields")?.split(',').map(str::to_owned).collect::<Vec<_>>();
        if let Some(unknown) = fields.iter().find(|field| !WEBHOOK_FIELDS.contains(&field.as_str())) {
            return Err(Refusal::parameter(format!("subscribed_fields must not hold {unknown}")));
        }
        // Fields of scopes that were not granted bring nothing, and are accepted all the same.
        let scopes = self.tokens.get(token).map(|token| token.scopes.clone()).unwrap_or_default();
        if let Some(account) = self.accounts.get_mut(account) {
            account.subscribed = fields.into_iter().filter(|field| scopes.contains(scope_of(field))).collect();
        }
        Ok(json!({ "success": true }))
    }
}
