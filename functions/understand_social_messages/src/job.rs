//! The jobs: what they are about, and what is gathered as one is claimed.

use serde::Deserialize;
use shared::{
    ai::{Charge, models::Choice},
    store::social_ai::{ToDraft, Unscored},
    worker,
};
use uuid::Uuid;

/// The agent whose limits count, as `agent_limits.agent` names it.
pub(crate) const AGENT: &str = "social_assistant";
/// What models are chosen for, as `model_roles.purpose` names it.
pub(crate) const SENTIMENT: &str = "social_sentiment";
/// See [`SENTIMENT`].
pub(crate) const DRAFT: &str = "social_draft";
/// The kill switch.
pub(crate) const SWITCH: &str = "social.enabled";

/// What the job is about. Empty where it is the scoring of an organisation's messages.
#[derive(Debug, Deserialize)]
pub(crate) struct Payload {
    /// The thread that a draft is for.
    pub(crate) thread_id: Option<Uuid>,
    /// The message that it answers.
    pub(crate) message_id: Option<Uuid>,
}

/// A job that a worker holds.
pub(crate) type Held = worker::Held<Payload>;

/// What is to be done.
pub(crate) enum Plan {
    /// Nothing any more, for the reason that this code names.
    Nothing(String),
    /// Messages are to be scored.
    Score { agent_id: Uuid, system: String, messages: Vec<Unscored>, models: Choice },
    /// An answer is to be drafted.
    Draft { thread_id: Uuid, message_id: Uuid, system: String, wanted: ToDraft, models: Choice },
}

/// What pays for an answer that was used.
#[derive(Debug, Clone)]
pub(crate) struct Paid {
    /// The model that answered.
    pub(crate) model: String,
    /// The reservation that is to be settled with it.
    pub(crate) reservation_id: Uuid,
    pub(crate) call_id: Uuid,
    pub(crate) charge: Charge,
}
