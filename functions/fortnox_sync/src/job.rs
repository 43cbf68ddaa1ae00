//! What jobs of this function are about.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use shared::worker;

use crate::pass::Pass;

/// What the job is about: the organisation's Fortnox, and there is one.
#[derive(Debug, Deserialize)]
pub(crate) struct Payload {}

/// A job that a worker holds.
pub(crate) type Held = worker::Held<Payload>;

/// What is gathered as the job is claimed.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) pass: Pass,
    pub(crate) customers_since: Option<DateTime<Utc>>,
    pub(crate) accounts_since: Option<DateTime<Utc>>,
}
