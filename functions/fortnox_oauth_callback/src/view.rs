//! What clients get to see.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use shared::store::integrations::Shown;

/// Whether Fortnox is connected.
#[derive(Debug, Serialize)]
pub(crate) struct ConnectionView {
    /// `connected`; `reconnect`, when a person must consent again; `disconnected`; `none`, if it never was.
    status: String,
    company: Option<Value>,
    scopes: Vec<String>,
    updated_at: Option<DateTime<Utc>>,
}

impl From<Option<Shown>> for ConnectionView {
    fn from(shown: Option<Shown>) -> Self {
        match shown {
            Some(shown) => Self {
                status: shown.status,
                company: Some(shown.company),
                scopes: shown.scopes,
                updated_at: Some(shown.updated_at),
            },
            None => Self { status: "none".to_owned(), company: None, scopes: Vec::new(), updated_at: None },
        }
    }
}
