//! What comes in, understood once.

use serde::Deserialize;
use shared::http::HttpRequest;
use url::form_urlencoded;

/// Longer parameters are nobody's: a state has 43 characters, a code 36.
const MAX_PARAMETER: usize = 512;

/// The cookie that binds what was begun to a browser.
const COOKIE: &str = "spine_fortnox";

/// Who begins, and where they want to be afterwards.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartQuery {
    pub(crate) redirect_to: String,
}

/// What Fortnox sends a person back with.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CallbackQuery {
    pub(crate) state: Option<String>,
    pub(crate) code: Option<String>,
    pub(crate) error: Option<String>,
}

impl CallbackQuery {
    /// Of a parameter that comes twice the first counts; those that nobody asked for are left aside.
    pub(crate) fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "state" => &mut parsed.state,
                "code" => &mut parsed.code,
                "error" => &mut parsed.error,
                _ => continue,
            };
            if place.is_none() && (1..=MAX_PARAMETER).contains(&value.len()) {
                *place = Some(value.into_owned());
            }
        }
        parsed
    }
}

/// What the browser keeps, if it keeps it.
pub(crate) fn browser(request: &HttpRequest, secure: bool) -> Option<&str> {
    request.cookie(&name(secure)).filter(|value| value.len() <= MAX_PARAMETER)
}

/// Has the browser keep `value` for as long as what was begun lasts. Sent along when Fortnox leads the person back, and to no script.
pub(crate) fn cookie(value: &str, secure: bool) -> String {
    let secured = if secure { "; Secure" } else { "" };
    format!("{}={value}; Path=/; Max-Age=600; HttpOnly; SameSite=Lax{secured}", name(secure))
}

/// With the prefix that no other host of the domain can set, wherever browsers take it.
fn name(secure: bool) -> String {
    if secure { format!("__Host-{COOKIE}") } else { COOKIE.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_read_once_within_bounds() {
        let some = |text: &str| Some(text.to_owned());
        let long = "x".repeat(513);
        for (query, state, code, error) in [
            ("state=a&code=b", some("a"), some("b"), None),
            ("state=a&state=b&code=c&more=d", some("a"), some("c"), None),
            ("error=access_denied&error_description=no&state=a%20b", some("a b"), None, some("access_denied")),
            (&format!("state={long}&code="), None, None, None),
            ("", None, None, None),
        ] {
            assert_eq!(CallbackQuery::parse(query), CallbackQuery { state, code, error }, "{query}");
        }
    }
}
