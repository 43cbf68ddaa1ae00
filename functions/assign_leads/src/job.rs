//! The job of an assignment: what it is about, and what is gathered as it is claimed.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use shared::{
    ai::{Charge, models::Choice},
    store::leads::LookedAt,
    worker,
};
use uuid::Uuid;

/// The agent that moves scores, as `agent_limits.agent` names it.
pub(crate) const AGENT: &str = "lead_assigner";
/// What a model is chosen for, as `model_roles.purpose` names it.
pub(crate) const PURPOSE: &str = "lead_adjustment";
/// The kill switch.
pub(crate) const SWITCH: &str = "leads.enabled";
/// How long a lead waits that nobody can take, before it is looked at again.
pub(crate) const WAIT: TimeDelta = TimeDelta::minutes(5);

/// What the job is about.
#[derive(Debug, Deserialize)]
pub(crate) struct Payload {
    pub(crate) lead_id: Uuid,
    /// When it was last asked for.
    pub(crate) asked_at: Option<DateTime<Utc>>,
    /// Whether the schedule asked, and no person.
    #[serde(default)]
    pub(crate) by_schedule: bool,
}

/// A job that a worker holds.
pub(crate) type Held = worker::Held<Payload>;

/// How the score is come by.
pub(crate) enum Plan {
    /// By the rules; with why no model is asked, where one could be.
    Rules(Option<&'static str>),
    /// A model is asked, and the rules serve if it gives no answer.
    Model(Box<LookedAt>, Ask),
}

/// How a model is called, and what pays for it.
pub(crate) struct Ask {
    pub(crate) template: String,
    /// The models that may be asked; there is one at least.
    pub(crate) models: Choice,
    /// For the first of them.
    pub(crate) hold: Hold,
}

/// What is held for a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hold {
    pub(crate) reservation_id: Uuid,
    pub(crate) reserved: Charge,
}

/// What a model is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adjustment {
    pub(crate) adjustment: i64,
    pub(crate) reason: String,
}

/// An answer that was paid for.
pub(crate) struct Paid {
    pub(crate) call_id: Uuid,
    pub(crate) reservation_id: Uuid,
    pub(crate) model: String,
    pub(crate) value: Adjustment,
    pub(crate) charge: Charge,
}
