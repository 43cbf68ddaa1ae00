//! Wire types and their meaning.

use serde::Deserialize;
use shared::http::ApiError;
use url::Url;

use crate::facts::is_name;

/// What Stripe replaces in an address by the id of the session.
const SESSION_ID: &str = "{CHECKOUT_SESSION_ID}";
/// The most an address may hold, in bytes.
const MAX_ADDRESS: usize = 2000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCheckoutBody {
    price: String,
    success_url: String,
    cancel_url: String,
}

/// A page that a person wants to pay on.
#[derive(Debug)]
pub(crate) struct NewCheckout {
    /// A price of Stripe's.
    pub(crate) price: String,
    /// Where Stripe sends a person who paid.
    pub(crate) success: String,
    /// Where it sends a person who did not.
    pub(crate) cancel: String,
}

impl NewCheckoutBody {
    /// `origins` are those of the apps that Stripe may send people back to.
    pub(crate) fn parse(self, origins: &[Url]) -> Result<NewCheckout, ApiError> {
        if !is_name(&self.price) {
            return Err(ApiError::unprocessable(
                "price_invalid",
                "`price` is the id of a Stripe price, as in price_1AbC.",
            ));
        }
        let success = come_back(origins, "success_url", &self.success_url)?;
        let cancel = come_back(origins, "cancel_url", &self.cancel_url)?;
        Ok(NewCheckout { price: self.price, success, cancel })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPortalBody {
    return_url: String,
}

impl NewPortalBody {
    /// Where Stripe sends the person back to. `origins` as for a checkout.
    pub(crate) fn parse(self, origins: &[Url]) -> Result<String, ApiError> {
        come_back(origins, "return_url", &self.return_url)
    }
}

/// Where Stripe sends the person back to: only to an app of ours. The address is kept and sent as it was parsed, not as it was written, so
/// that the next parser finds no other in it.
fn come_back(origins: &[Url], field: &'static str, text: &str) -> Result<String, ApiError> {
    understand(text)
        .filter(|url| origins.iter().any(|origin| origin.origin() == url.origin()))
        // A path is percent-coded, and Stripe looks for this.
        .map(|url| String::from(url).replace("%7BCHECKOUT_SESSION_ID%7D", SESSION_ID))
        .filter(|url| url.len() <= MAX_ADDRESS)
        .ok_or_else(|| {
            ApiError::unprocessable(
                "return_url_unknown",
                format!("`{field}` must be an address of one of the apps that are set up, such as https://app.example.com/billing."),
            )
        })
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
