//! Wire types and their meaning.

use serde::Deserialize;
use shared::{http::ApiError, origins::Origins};

use crate::facts::is_name;

/// What Stripe replaces in an address by the id of the session.
const SESSION_ID: &str = "{CHECKOUT_SESSION_ID}";

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
    pub(crate) fn parse(self, origins: &Origins) -> Result<NewCheckout, ApiError> {
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
    pub(crate) fn parse(self, origins: &Origins) -> Result<String, ApiError> {
        come_back(origins, "return_url", &self.return_url)
    }
}

/// Where Stripe sends the person back to: only to an app of ours.
fn come_back(origins: &Origins, field: &'static str, text: &str) -> Result<String, ApiError> {
    // A path is percent-coded, and Stripe looks for this.
    Ok(String::from(origins.address(field, text)?).replace("%7BCHECKOUT_SESSION_ID%7D", SESSION_ID))
}
