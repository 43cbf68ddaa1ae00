//! What clients get to see.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use shared::{
    limits::Amounts,
    store::agent_actions::{Action, Recorded},
};
use uuid::Uuid;

use crate::request::NewAction;

/// An action that was recorded.
#[derive(Debug, Serialize)]
pub(crate) struct RecordedView {
    id: Uuid,
    agent: String,
    action: String,
    resource: ResourceView,
    assets: Vec<Uuid>,
    deploy: Option<Uuid>,
    /// What counted against the agent's limits.
    usage: Amounts,
}

#[derive(Debug, Serialize)]
struct ResourceView {
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
}

impl RecordedView {
    pub(crate) fn new(id: Uuid, wanted: NewAction, recorded: Recorded) -> Self {
        Self {
            id,
            agent: recorded.agent,
            action: wanted.action,
            resource: ResourceView { kind: wanted.resource_type, id: Some(wanted.resource_id) },
            assets: recorded.assets,
            deploy: recorded.deploy,
            usage: wanted.cost,
        }
    }
}

/// Some actions of a longer list, the newest first.
#[derive(Debug, Serialize)]
pub(crate) struct ListView {
    actions: Vec<ActionView>,
    /// What to give as `after` for the next page; null on the last.
    next: Option<Uuid>,
}

impl ListView {
    /// Of `found`, which has one more than `most` if the list goes on.
    pub(crate) fn new(mut found: Vec<Action>, most: u8) -> Self {
        let goes_on = found.len() > usize::from(most);
        found.truncate(most.into());
        let next = found.last().filter(|_| goes_on).map(|last| last.id);
        Self { actions: found.into_iter().map(ActionView::from).collect(), next }
    }
}

/// An action, as the audit log has it.
#[derive(Debug, Serialize)]
struct ActionView {
    id: Uuid,
    at: DateTime<Utc>,
    agent: String,
    /// Who reported it.
    actor: ActorView,
    action: String,
    resource: ResourceView,
    input: Option<Value>,
    decision: Option<Value>,
    output: Option<Value>,
    metadata: Value,
    subjects: Vec<Uuid>,
}

#[derive(Debug, Serialize)]
struct ActorView {
    #[serde(rename = "type")]
    kind: String,
    id: Option<Uuid>,
}

impl From<Action> for ActionView {
    fn from(action: Action) -> Self {
        Self {
            id: action.id,
            at: action.occurred_at,
            agent: action.agent,
            actor: ActorView { kind: action.actor, id: action.user_id.or(action.agent_id) },
            action: action.action,
            resource: ResourceView { kind: action.resource_type, id: action.record_id },
            input: action.input,
            decision: action.decision,
            output: action.output,
            metadata: action.metadata,
            subjects: action.subject_ids,
        }
    }
}
