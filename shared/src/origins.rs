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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_counts_by_its_origin_and_not_by_how_it_begins() {
        let set = ["https://app.example.com", "https://other.example.com:8443", "http://localhost:3000"];
        let origins = Origins(set.into_iter().map(|origin| Url::parse(origin).unwrap()).collect());
        for (given, kept) in [
            ("https://app.example.com", "https://app.example.com/"),
            ("https://app.example.com:443/a", "https://app.example.com/a"),
            ("https://APP.example.com/a?b#c", "https://app.example.com/a?b#c"),
            ("https://other.example.com:8443/", "https://other.example.com:8443/"),
            ("http://localhost:3000/a", "http://localhost:3000/a"),
        ] {
            assert_eq!(origins.address("field", given).unwrap().as_str(), kept, "{given}");
        }
        for given in [
            // Each begins as one that is set.
            "https://app.example.com.evil.example/",
            "https://app.example.community/",
            "https://app.example.com-evil.example/",
            "https://app.example.comevil.example/",
            "https://app.example.com%2eevil.example/",
            "https://app.example.com:444/",
            "https://app.example.com:4430/",
            "https://app.example.com:8443/",
            "https://app.example.com@evil.example/",
            "https://app.example.com:443@evil.example/",
            "https://app.example.com.:80/",
            "https://app.example.com./",
            "https://other.example.com:84430/",
            "https://other.example.com:8443.evil.example/",
            "https://other.example.com/",
            "http://localhost:30000/",
            "http://localhost:3000.evil.example/",
            // Each holds one elsewhere.
            "https://evil.example/https://app.example.com/",
            "https://evil.example/?https://app.example.com",
            "https://evil.example/#https://app.example.com",
            "https://evil-app.example.com/",
            "https://www.app.example.com/",
            "http://app.example.com/",
            "http://app.example.com:443/",
            "https://localhost:3000/",
            "https://example.com/",
        ] {
            assert!(origins.address("field", given).is_err(), "{given}");
        }
    }
}
