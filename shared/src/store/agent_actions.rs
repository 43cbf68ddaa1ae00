//! What agents did, as agents or people report it: recorded whole by one statement, and listed from the audit log.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::StoreError;
use crate::{db::CallerTx, envelope::Envelope, limits::Waiting};

/// A file that an action made, as it was read from storage.
#[derive(Debug, Clone, Serialize)]
pub struct StoredFile {
    /// The bucket.
    pub bucket: &'static str,
    /// The path in it.
    pub path: String,
    /// The media type, by what the bytes are.
    pub mime: &'static str,
    /// How many bytes.
    pub bytes: usize,
    /// SHA-256 of the bytes, in hex.
    pub sha256: String,
}

/// What an action brought out.
#[derive(Debug, Clone, Serialize)]
pub struct Deploy {
    /// Where to, 1 to 200 characters.
    pub target: String,
    /// What, 1 to 200 characters.
    pub version: String,
    /// `pending`, `running`, `succeeded`, `failed` or `cancelled`.
    pub status: &'static str,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended: for the last three only.
    pub finished_at: Option<DateTime<Utc>>,
    /// Anything else, an object.
    pub metadata: Value,
}

/// An action to be recorded.
#[derive(Debug)]
pub struct NewAction<'a> {
    /// Its id, which is the audit entry's and the document's.
    pub id: Uuid,
    /// What was done; its assets and its deploy are filled in as they are recorded.
    pub envelope: &'a Envelope<'a>,
    /// The files it made.
    pub assets: &'a [StoredFile],
    /// What it brought out.
    pub deploy: Option<&'a Deploy>,
    /// Where from, sealed.
    pub ip: Option<String>,
    /// With what, sealed.
    pub user_agent: Option<String>,
    /// The request.
    pub request_id: &'a str,
}

/// An action that is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Recorded {
    /// The agent, as `agent_limits.agent` names it.
    pub agent: String,
    /// Its files' rows, in the order they were named.
    pub assets: Vec<Uuid>,
    /// Its deploy's row.
    pub deploy: Option<Uuid>,
}

/// What came of an attempt to record.
#[derive(Debug)]
pub enum Outcome {
    /// All of it was recorded.
    Recorded(Recorded),
    /// A limit has no room for it. Nothing was recorded but that, which has to be committed.
    Reached(Waiting),
    /// The action alone is larger than the limit of this scope.
    Never {
        /// `user`, `project` or `agent`.
        scope: String,
    },
    /// It may not be recorded.
    Refused {
        /// Why: `action_reserved`, `agent_missing`, `agent_not_own`, `agent_unknown`, `project_unknown`, `subject_unknown` or `too_large`.
        why: String,
        /// Which of several, from 0.
        place: Option<i32>,
    },
}

/// Records an action in the caller's name, or says why not.
///
/// # Errors
/// [`StoreError::Database`], also if the caller may not record actions.
pub async fn record(tx: &mut CallerTx, new: &NewAction<'_>) -> Result<Outcome, StoreError> {
    let row = sqlx::query!(
        r#"select agent_name, asset_ids, deploy_id, refused, place, reached_scope, opens_at
             from app.record_agent_action($1, $2, $3, $4, $5, $6, $7)"#,
        new.id,
        new.envelope.to_json(),
        json!(new.assets),
        new.deploy.map(|deploy| json!(deploy)),
        new.ip,
        new.user_agent,
        new.request_id
    )
    .fetch_one(tx.conn()?)
    .await?;
    if let Some(why) = row.refused {
        return Ok(Outcome::Refused { why, place: row.place });
    }
    match (row.reached_scope, row.opens_at) {
        (Some(scope), Some(until)) => Ok(Outcome::Reached(Waiting::reached(scope, until))),
        (Some(scope), None) => Ok(Outcome::Never { scope }),
        (None, _) => Ok(Outcome::Recorded(Recorded {
            agent: row.agent_name.unwrap_or_default(),
            assets: row.asset_ids.unwrap_or_default(),
            deploy: row.deploy_id,
        })),
    }
}

/// What the caller has recorded under this id.
///
/// # Errors
/// [`StoreError::NotFound`], [`StoreError::Database`].
pub async fn recorded(tx: &mut CallerTx, id: Uuid) -> Result<Recorded, StoreError> {
    let found = sqlx::query_scalar!("select app.recorded_agent_action($1)", id).fetch_one(tx.conn()?).await?;
    let found = found.ok_or(StoreError::NotFound { entity: "agent_action" })?;
    serde_json::from_value(found).map_err(|error| StoreError::Unreadable { what: "a recorded action", error })
}

/// Whether the caller sees this project.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn sees_project(tx: &mut CallerTx, org_id: Uuid, project_id: Uuid) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"select exists (select from public.projects where org_id = $1 and id = $2) as "there!""#,
        org_id,
        project_id
    )
    .fetch_one(tx.conn()?)
    .await?)
}

/// Which actions to list.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Of this agent only.
    pub agent: Option<&'a str>,
    /// Of this kind only.
    pub action: Option<&'a str>,
    /// From then on.
    pub from: DateTime<Utc>,
    /// Before then.
    pub to: DateTime<Utc>,
    /// Those after this one in the list.
    pub after: Option<Uuid>,
    /// How many at most.
    pub most: u8,
}

/// An action, as the audit log has it. Personal values are sealed.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// Its id.
    pub id: Uuid,
    /// When it was recorded.
    pub occurred_at: DateTime<Utc>,
    /// The agent that did it.
    pub agent: String,
    /// Who reported it: `user`, `agent` or `system`.
    pub actor: String,
    /// The person, if it was one.
    pub user_id: Option<Uuid>,
    /// The agent by its token, if it was one.
    pub agent_id: Option<Uuid>,
    /// What was done.
    pub action: String,
    /// To what kind of thing.
    pub resource_type: String,
    /// To which of them.
    pub record_id: Option<String>,
    /// What went in.
    pub input: Option<Value>,
    /// What was decided.
    pub decision: Option<Value>,
    /// What came out.
    pub output: Option<Value>,
    /// Assets, deploy, cost and the like.
    pub metadata: Value,
    /// Whose personal data it touches.
    pub subject_ids: Vec<Uuid>,
}

/// Actions of the caller's organisation, the newest first, one more than `most` if there are more.
///
/// # Errors
/// [`StoreError::NotFound`] if there is no action [`Wanted::after`], [`StoreError::Database`].
pub async fn list(tx: &mut CallerTx, org_id: Uuid, wanted: &Wanted<'_>) -> Result<Vec<Action>, StoreError> {
    // Before both: an id of all zeros is before every other of the same moment.
    let mut before = (wanted.to, Uuid::nil());
    if let Some(after) = wanted.after {
        let at = sqlx::query_scalar!(
            "select occurred_at from public.audit_log where org_id = $1 and id = $2",
            org_id,
            after
        )
        .fetch_optional(tx.conn()?)
        .await?
        .ok_or(StoreError::NotFound { entity: "agent_action" })?;
        before = before.min((at, after));
    }
    let most = i64::from(wanted.most) + 1;
    // Two statements, so that each has its index for all parameters.
    Ok(match wanted.agent {
        Some(agent) => {
            sqlx::query_as!(
                Action,
                r#"select id, occurred_at, agent as "agent!", actor, user_id, agent_id, action, resource_type, record_id, input, decision, output,
                          metadata, subject_ids
                     from public.audit_log
                    where org_id = $1 and agent = $2 and occurred_at >= $3 and (occurred_at, id) < ($4, $5)
                      and ($6::text is null or action = $6)
                    order by occurred_at desc, id desc limit $7"#,
                org_id,
                agent,
                wanted.from,
                before.0,
                before.1,
                wanted.action,
                most
            )
            .fetch_all(tx.conn()?)
            .await?
        }
        None => {
            sqlx::query_as!(
                Action,
                r#"select id, occurred_at, agent as "agent!", actor, user_id, agent_id, action, resource_type, record_id, input, decision, output,
                          metadata, subject_ids
                     from public.audit_log
                    where org_id = $1 and agent is not null and occurred_at >= $2 and (occurred_at, id) < ($3, $4)
                      and ($5::text is null or action = $5)
                    order by occurred_at desc, id desc limit $6"#,
                org_id,
                wanted.from,
                before.0,
                before.1,
                wanted.action,
                most
            )
            .fetch_all(tx.conn()?)
            .await?
        }
    })
}
