//! The job of the analyst: what it is about, and what is gathered as it is claimed.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use shared::{
    ai::{Charge, models::Choice},
    store::insights::{Insight, Text},
    worker,
};
use uuid::Uuid;

use crate::figures::Figures;

/// The agent that writes, as `agent_limits.agent` names it.
pub(crate) const AGENT: &str = "analyst";
/// What a model is chosen for, as `model_roles.purpose` names it.
pub(crate) const PURPOSE: &str = "insight_summary";
/// The kill switch.
pub(crate) const SWITCH: &str = "insights.enabled";

/// What the job is about.
#[derive(Debug, Deserialize)]
pub(crate) struct Payload {
    pub(crate) insight_id: Uuid,
    /// When somebody last asked for it.
    pub(crate) asked_at: Option<DateTime<Utc>>,
}

/// A job that a worker holds.
pub(crate) type Held = worker::Held<Payload>;

/// What is gathered as the job is claimed.
pub(crate) struct Plan {
    /// When somebody last asked for it.
    pub(crate) asked_at: DateTime<Utc>,
    pub(crate) insight: Insight,
    pub(crate) figures: Figures,
    /// The prompt of the system, from the template.
    pub(crate) system: String,
    pub(crate) template_version: i32,
    /// The prompt, from the figures.
    pub(crate) prompt: String,
    /// SHA-256 of both.
    pub(crate) digest: [u8; 32],
    /// The models that may write. There may be none with a price.
    pub(crate) models: Choice,
}

/// A text whose every number is one of the figures.
pub(crate) struct Written {
    pub(crate) text: Text,
    pub(crate) model: String,
    pub(crate) charge: Charge,
    /// What pays for it, and is to be settled with it.
    pub(crate) reservation_id: Uuid,
}
