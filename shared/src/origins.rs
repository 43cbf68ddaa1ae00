//! Apps that a person may be sent back to from a provider's page.

use url::Url;

use crate::{
    config::{ConfigError, Env},
    http::ApiError,
};

/// The longest address that is taken.
const MAX_ADDRESS: usize = 2_000;

/// Origins of apps, as a setting names them.
#[derive(Debug, Clone)]
pub struct Origins(Vec<Url>);

impl Origins {
    /// Reads a variable with origins and commas between, such as `https://app.example.com`. Without it, no address is taken.
    ///
    /// # Errors
    /// [`ConfigError`] if one is none.
    pub fn from_env(env: &Env, name: &str) -> Result<Self, ConfigError> {
        let expected = "origins of the apps, with commas between, such as https://app.example.com";
        let malformed = || ConfigError::Malformed { name: name.to_owned(), expected };
        let origins = env.or(name, "").split(',').map(str::trim).filter(|origin| !origin.is_empty());
        let origins = origins.map(|origin| Url::parse(origin).ok().filter(Url::has_host).ok_or_else(malformed));
        Ok(Self(origins.collect::<Result<_, _>>()?))
    }

    /// An address of one of the apps. It is kept and sent as it was parsed, not as it was written, so that the next parser finds no other
    /// in it.
    ///
    /// # Errors
    /// [`ApiError`] `return_url_unknown`, which names `field`.
    pub fn address(&self, field: &'static str, text: &str) -> Result<Url, ApiError> {
        understand(text)
            .filter(|url| self.0.iter().any(|origin| origin.origin() == url.origin()))
            .filter(|url| url.as_str().len() <= MAX_ADDRESS)
            .ok_or_else(|| {
                ApiError::unprocessable(
                    "return_url_unknown",
                    format!("`{field}` must be an address of one of the apps that are set up, such as https://app.example.com/billing."),
                )
            })
    }
}

/// An address on the web, if it can be read in one way only. Parsers differ in what they drop (control characters), what they take for a
/// slash (backslashes), what they add (missing slashes), and where they find the host behind the name of a user.
fn understand(text: &str) -> Option<Url> {
    let (scheme, rest) = text.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?;
    if host.is_empty() || host.contains('@') || text.contains(|c: char| c.is_control() || c == '\\') {
        return None;
    }
    // The scheme that was written, since of `blob:http://…` the origin is that of the address within.
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && scheme.eq_ignore_ascii_case(url.scheme()))
}
