//! What clients get to see.

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::store::billing::Checkout;
use uuid::Uuid;

/// Where to send the person.
#[derive(Debug, Serialize)]
pub(crate) struct PageView {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Uuid>,
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<DateTime<Utc>>,
}

impl PageView {
    pub(crate) fn of_checkout(checkout: &Checkout, url: String) -> Self {
        Self { id: Some(checkout.id), url, expires_at: Some(checkout.expires_at) }
    }

    pub(crate) fn of_portal(url: String) -> Self {
        Self { id: None, url, expires_at: None }
    }
}
