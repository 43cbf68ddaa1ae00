//! The pages people are sent to: one to choose a company and agree on, and one that leads nowhere.

use std::fmt::Write;

use axum::{http::StatusCode, response::Response};

use crate::consent::{escape, page};

/// What an authorization request consists of. Anything else could answer in the person's place.
const CARRIED: [&str; 7] =
    ["client_id", "response_type", "scope", "state", "redirect_uri", "access_type", "account_type"];

/// What is asked for, the companies to choose from, and the two buttons. The request is carried along in hidden fields.
pub(super) fn consent<'a>(
    asked: &[(String, String)],
    scopes: &[String],
    companies: impl Iterator<Item = (i64, &'a str)>,
) -> Response {
    let mut body = String::from("<p>An application asks for access to:</p><ul>");
    // Writing to a string cannot fail.
    for scope in scopes {
        let _ = write!(body, "<li>{}</li>", escape(scope));
    }
    body.push_str("</ul><form method=\"post\" action=\"/oauth-v1/consent\">");
    for (name, value) in asked.iter().filter(|(name, _)| CARRIED.contains(&name.as_str())) {
        let _ = write!(body, "<input type=\"hidden\" name=\"{}\" value=\"{}\">", escape(name), escape(value));
    }
    body.push_str("<select name=\"company\">");
    for (tenant, name) in companies {
        let _ = write!(body, "<option value=\"{tenant}\">{}</option>", escape(name));
    }
    body.push_str(
        "</select><button name=\"decision\" value=\"allow\">Allow</button>\
         <button name=\"decision\" value=\"deny\">Deny</button></form>",
    );
    page(StatusCode::OK, "Sandbox Fortnox", &body)
}

pub(super) fn dead_end(text: &str) -> Response {
    page(StatusCode::BAD_REQUEST, "Sandbox Fortnox", &format!("<p>{}</p>", escape(text)))
}

/// What stands in front of Fortnox when it is down.
pub(super) fn bad_gateway() -> Response {
    page(StatusCode::BAD_GATEWAY, "502 Bad Gateway", "<p>The server could not be reached.</p>")
}
