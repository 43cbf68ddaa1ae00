//! What jobs of this function are about.

use serde::Deserialize;
use shared::worker;
use uuid::Uuid;

/// The kill switch in `system_settings`.
pub(crate) const SWITCH: &str = "accounting.enabled";

/// What is to be done, as `jobs.payload` says.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Payload {
    /// Write what was approved.
    Write { approval_id: Uuid },
    /// Compare our series with Fortnox'.
    Reconcile {},
    /// Propose vouchers for invoices that were paid.
    Payments {},
}

/// A job that this worker holds.
pub(crate) type Held = worker::Held<Payload>;
