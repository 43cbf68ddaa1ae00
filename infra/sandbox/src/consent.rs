//! Consent to an application at the social platforms: what a person is asked, what they answer, and where their browser goes then.

use std::fmt::Write;

use anyhow::{Result, bail};
use axum::{
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use url::{Url, form_urlencoded::parse};

/// A query or form, in order.
pub(crate) type Pairs = Vec<(String, String)>;

pub(crate) fn pairs(encoded: &[u8]) -> Pairs {
    parse(encoded).into_owned().collect()
}

/// The first value of this name that is not empty.
pub(crate) fn get<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
}

/// What a person answers when a social platform asks them about an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consent {
    /// They allow everything that is asked for.
    All,
    /// They allow these scopes alone.
    Only(Vec<String>),
    /// They allow nothing.
    Denied,
}

impl Consent {
    /// They allow these scopes alone.
    #[must_use]
    pub fn only(scopes: &[&str]) -> Self {
        Self::Only(scopes.iter().map(|scope| (*scope).to_owned()).collect())
    }

    /// The allowed ones of the scopes that are asked for, in the order of the request. Nothing if the person denied.
    pub(crate) fn granted(&self, asked: &[String]) -> Result<Option<Vec<String>>, Turned> {
        match self {
            Self::All => Ok(Some(asked.to_vec())),
            Self::Only(scopes) if scopes.is_empty() => Turned::page("No scope is allowed."),
            Self::Only(scopes) if scopes.iter().all(|scope| asked.contains(scope)) => {
                Ok(Some(asked.iter().filter(|scope| scopes.contains(scope)).cloned().collect()))
            }
            Self::Only(_) => Turned::page("A scope is allowed that was not asked for."),
            Self::Denied => Ok(None),
        }
    }
}

/// What a browser sees instead of a page to agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Turned {
    /// A page that leads nowhere.
    Page(String),
    /// The way back to the application.
    Back(Box<Url>),
}

impl Turned {
    pub(crate) fn page<T>(text: &str) -> Result<T, Self> {
        Err(Self::Page(text.to_owned()))
    }

    /// The address of the application with these parameters.
    pub(crate) fn back(redirect_uri: &str, pairs: &[(&str, &str)]) -> Self {
        match Url::parse(redirect_uri) {
            Ok(mut url) => {
                url.query_pairs_mut().extend_pairs(pairs);
                Self::Back(Box::new(url))
            }
            Err(_) => Self::Page("The registered redirect URI is no address.".to_owned()),
        }
    }

    /// Where the browser ends up.
    ///
    /// # Errors
    /// On a page that leads nowhere: what it says.
    pub(crate) fn url(self) -> Result<Url> {
        match self {
            Self::Back(url) => Ok(*url),
            Self::Page(text) => bail!(text),
        }
    }
}

impl IntoResponse for Turned {
    fn into_response(self) -> Response {
        match self {
            Self::Page(text) => page(StatusCode::BAD_REQUEST, "Sandbox", &format!("<p>{}</p>", escape(&text))),
            Self::Back(url) => (StatusCode::FOUND, [(header::LOCATION, url.to_string())]).into_response(),
        }
    }
}

/// Scopes with commas between them: at least one, all of them known, and none twice.
pub(crate) fn scopes(pairs: &Pairs, known: &[&str]) -> Option<Vec<String>> {
    let mut scopes = Vec::new();
    for scope in get(pairs, "scope")?.split(',') {
        if !known.contains(&scope) || scopes.iter().any(|before| before == scope) {
            return None;
        }
        scopes.push(scope.to_owned());
    }
    Some(scopes)
}

/// A form that the page below sends: which account agreed, and to which scopes. Nothing for the account if the person cancelled.
pub(crate) fn answered(form: &Pairs) -> (String, Consent) {
    let granted = form.iter().filter(|(name, _)| name == "granted").map(|(_, scope)| scope.clone()).collect();
    match get(form, "account") {
        Some(account) => (account.to_owned(), Consent::Only(granted)),
        None => (String::new(), Consent::Denied),
    }
}

/// A page with the scopes that are asked for, a button for each account, and one to cancel. The parts of the request that `carried` names
/// go along in hidden fields: any others could answer in the person's place.
pub(crate) fn ask<'a>(
    (title, action): (&str, &str),
    asked: &Pairs,
    carried: &[&str],
    scopes: &[String],
    accounts: impl Iterator<Item = (&'a str, &'a str)>,
) -> Response {
    let mut body = format!("<p>An application asks for access to:</p><form method=\"post\" action=\"{action}\">");
    // Writing to a string cannot fail.
    for (name, value) in asked.iter().filter(|(name, _)| carried.contains(&name.as_str())) {
        let _ = write!(body, "<input type=\"hidden\" name=\"{}\" value=\"{}\">", escape(name), escape(value));
    }
    for scope in scopes.iter().map(|scope| escape(scope)) {
        let _ = write!(
            body,
            "<p><label><input type=\"checkbox\" name=\"granted\" value=\"{scope}\" checked> {scope}</label></p>"
        );
    }
    for (id, name) in accounts {
        let _ = write!(body, "<button name=\"account\" value=\"{}\">Allow as {}</button> ", escape(id), escape(name));
    }
    body.push_str("<button name=\"account\" value=\"\">Cancel</button></form>");
    page(StatusCode::OK, title, &body)
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

pub(crate) fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\
         <body><h1>{title}</h1>{body}</body></html>"
    );
    (status, Html(html)).into_response()
}
