//! What answers say.

use serde::Serialize;
use shared::store::approvals::{Approval, Decided};
use uuid::Uuid;

/// Approvals, the newest first.
#[derive(Debug, Serialize)]
pub(crate) struct ListView {
    pub(crate) approvals: Vec<Approval>,
    /// Where the next page goes on, if there is one: as `before`.
    pub(crate) next: Option<Uuid>,
}

/// What was proposed.
#[derive(Debug, Serialize)]
pub(crate) struct ProposedView {
    pub(crate) approval_id: Uuid,
    pub(crate) href: String,
}

impl ProposedView {
    pub(crate) fn new(approval_id: Uuid) -> Self {
        Self { approval_id, href: format!("/v1/approvals/{approval_id}") }
    }
}

/// What came of each decision.
#[derive(Debug, Serialize)]
pub(crate) struct DecisionsView {
    pub(crate) decisions: Vec<Decided>,
}

/// What is set.
#[derive(Debug, Serialize)]
pub(crate) struct SettingsView {
    pub(crate) own_proposals: bool,
}
