//! What an agent did, in one shape for all agents: ours and those that others run. The audit entry and the document in `agent_outputs` are
//! both made of it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{audit::Entry, limits::Amounts};

/// One action of an agent. Personal values in it must have been sealed by a [`crate::audit::Subject`].
#[derive(Debug, Clone, Serialize)]
pub struct Envelope<'a> {
    /// The agent, as `agent_limits.agent` names it. None where the database knows it from the caller's token.
    pub agent: Option<&'a str>,
    /// What was done, as in `render.completed`.
    pub action: &'a str,
    /// What it was done to.
    pub resource: Resource<'a>,
    /// The project it was done for.
    pub project_id: Option<Uuid>,
    /// What went in.
    pub input: Value,
    /// What was decided, and why.
    pub decision: Value,
    /// What came out.
    pub output: Value,
    /// Whose personal data it touches.
    pub subjects: Vec<Uuid>,
    /// Files it made, as `assets.id`.
    pub assets: Vec<Uuid>,
    /// What it brought out, as `deploys.id`.
    pub deploy: Option<Uuid>,
    /// What counted against the agent's limits.
    pub cost: Amounts,
    /// What served: `model`, or what stood in for it. None for agents that others run.
    pub served_by: Option<&'a str>,
    /// When it was done.
    pub at: DateTime<Utc>,
}

/// What an action was done to. It is a name and is not looked up: what it names may be elsewhere, or gone.
#[derive(Debug, Clone, Serialize)]
pub struct Resource<'a> {
    /// The table, or what else things of its kind are called.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// Which of them.
    pub id: String,
}

impl Envelope<'_> {
    /// The audit entry. Its metadata are the agent and `metadata`, which must be an object.
    #[must_use]
    pub fn entry(&self, metadata: Value) -> Entry<'_> {
        Entry {
            action: self.action,
            resource_type: self.resource.kind,
            record_id: self.resource.id.clone(),
            input: self.input.clone(),
            decision: self.decision.clone(),
            output: self.output.clone(),
            metadata: joined(json!({ "agent": self.agent }), metadata),
            subject_ids: self.subjects.clone(),
            ..Entry::default()
        }
    }

    /// The document for `agent_outputs`: the envelope, its `kind`, and `more`, which must be an object.
    #[must_use]
    pub fn document(&self, kind: &str, more: Value) -> Value {
        joined(joined(self.to_json(), json!({ "kind": kind })), more)
    }

    /// The envelope as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        // A struct of plain values: there is nothing in it that JSON cannot say.
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// One object with the fields of both; where both have one, the second's.
fn joined(first: Value, second: Value) -> Value {
    let fields = |value| match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let mut all = fields(first);
    all.extend(fields(second));
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_and_document_hold_the_same_action() {
        let envelope = Envelope {
            agent: Some("renderer"),
            action: "render.completed",
            resource: Resource { kind: "render_requests", id: "r".to_owned() },
            project_id: None,
            input: json!({ "a": 1 }),
            decision: json!({ "b": 2 }),
            output: json!({ "c": 3 }),
            subjects: vec![Uuid::from_u128(1)],
            assets: Vec::new(),
            deploy: None,
            cost: Amounts { requests: 1, tokens: 2, cost_micro_usd: 3 },
            served_by: Some("model"),
            at: DateTime::UNIX_EPOCH,
        };
        let entry = envelope.entry(json!({ "job_id": "j" }));
        assert_eq!(entry.metadata, json!({ "agent": "renderer", "job_id": "j" }));
        let document = envelope.document("render", json!({ "request_id": "r" }));
        assert_eq!((&document["input"], &document["decision"]), (&entry.input, &entry.decision));
        assert_eq!((&document["output"], &document["subjects"]), (&entry.output, &json!(entry.subject_ids)));
        assert_eq!(document["resource"], json!({ "type": entry.resource_type, "id": entry.record_id }));
        assert_eq!(document["cost"], json!({ "requests": 1, "tokens": 2, "cost_micro_usd": 3 }));
        assert_eq!((&document["kind"], &document["request_id"]), (&json!("render"), &json!("r")));
    }
}
