//! Leads: who is given them, by what score, and how scores met outcomes.
//!
//! The database decides: scores, ranks and assigns under one lock, so that what a function computes cannot differ from it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{StoreError, provider_calls::Charge};
use crate::db::{CallerTx, DirectoryTx, ServiceTx, Tx};

/// A lead before it is assigned.
#[derive(Debug, Clone, Deserialize)]
pub struct LookedAt {
    /// `due`, `already_assigned` or `lead_closed`.
    pub outcome: String,
    /// Whether anybody could take it.
    pub free: bool,
    /// Whether the organisation has leads assigned by themselves.
    pub enabled: bool,
    /// How far a model may move its score, in points; 0 asks none.
    pub ai_bound: i32,
    /// The score by the rules, with its factors, where a model may be asked.
    pub rules: Value,
    /// What a model may be told, once `personal` is struck from it.
    pub facts: Value,
    /// Name, e-mail address and phone number, as far as there are any.
    pub personal: Vec<Option<String>>,
}

/// What a model asked for, or why it was not heard.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Advice {
    /// Points to move the score by; the database bounds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adjustment: Option<i64>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The code of what kept it from being heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
    /// The job that it is done in, for the audit entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<Uuid>,
    /// Who asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<Uuid>,
    /// The call to the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_id: Option<Uuid>,
}

/// What came of an assignment.
#[derive(Debug, Clone, Deserialize)]
pub struct Assigned {
    /// `assigned`, `reassigned`, `already_assigned`, `waiting`, `lead_closed` or `lead_not_found`.
    pub outcome: String,
    /// Who has the lead, and why this person, as people see it.
    #[serde(default)]
    pub assignment: Value,
    /// `{"reason","detail"}` if nobody can take it.
    #[serde(default)]
    pub waiting: Option<Value>,
}

/// A lead to be scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueLead {
    /// Its organisation.
    pub org_id: Uuid,
    /// Its id.
    pub lead_id: Uuid,
}

fn decode<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, StoreError> {
    serde_json::from_value(value).map_err(|error| StoreError::Database(sqlx::Error::Decode(Box::new(error))))
}

/// What the database refuses for want of a permission is told as such.
fn named(permission: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |error| {
        let code = error.as_database_error().and_then(|error| error.code());
        if code.as_deref() == Some("PT403") { StoreError::Forbidden { permission } } else { error.into() }
    }
}

/// What there is to know before an assignment costs anything. `None` if there is no such lead.
///
/// # Errors
/// [`StoreError::Forbidden`], [`StoreError::Database`].
pub async fn look(tx: &mut Tx, lead_id: Uuid) -> Result<Option<LookedAt>, StoreError> {
    let looked = sqlx::query_scalar!("select app.look_at_lead($1)", lead_id)
        .fetch_one(tx.conn()?)
        .await
        .map_err(named("leads:read_all"))?;
    looked.map(decode).transpose()
}

/// Scores a lead, gives it to whoever suits it best and tells why, in one call; a lead that is well where it is stays there.
///
/// # Errors
/// [`StoreError::Forbidden`], [`StoreError::Database`].
pub async fn assign(tx: &mut Tx, lead_id: Uuid, advice: &Advice) -> Result<Assigned, StoreError> {
    let advice = serde_json::to_value(advice).unwrap_or_default();
    let told = sqlx::query_scalar!("select app.assign_lead($1, $2)", lead_id, advice)
        .fetch_one(tx.conn()?)
        .await
        .map_err(named("leads:read_all"))?;
    decode(told.unwrap_or_default())
}

/// Queues the assignment of a lead, once for a lead. Its job; `None` if there is no such lead.
///
/// # Errors
/// [`StoreError::Forbidden`], [`StoreError::Database`].
pub async fn admit_job(
    tx: &mut Tx,
    lead_id: Uuid,
    run_after: DateTime<Utc>,
    waiting: Option<&Value>,
) -> Result<Option<Uuid>, StoreError> {
    sqlx::query_scalar!("select app.admit_lead_job($1, $2, $3)", lead_id, run_after, waiting)
        .fetch_one(tx.conn()?)
        .await
        .map_err(named("leads:read_all"))
}

/// Who has a lead, and why this person; with everybody's parts for those who see all leads.
///
/// # Errors
/// [`StoreError::NotFound`] if there is no such lead, or not for the caller.
pub async fn get_assignment(tx: &mut CallerTx, lead_id: Uuid) -> Result<Value, StoreError> {
    sqlx::query_scalar!("select app.read_lead_assignment($1)", lead_id)
        .fetch_one(tx.conn()?)
        .await?
        .ok_or(StoreError::NotFound { entity: "lead" })
}

/// Organisations that have leads assigned by themselves, in another order each time.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn orgs(tx: &mut DirectoryTx, most: i32) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(r#"select app.lead_orgs($1) as "org!""#, most).fetch_all(tx.conn()?).await?)
}

/// Leads of this organisation that somebody is to be found for, the most promising first; none unless it has them assigned by
/// themselves.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn due(tx: &mut ServiceTx, most: i32) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(r#"select app.due_leads_here($1) as "lead!""#, most).fetch_all(tx.conn()?).await?)
}

/// New leads without a score, shared fairly between organisations.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn unscored(tx: &mut DirectoryTx, most: i32) -> Result<Vec<DueLead>, StoreError> {
    Ok(sqlx::query_as!(
        DueLead,
        r#"select org_id as "org_id!", lead_id as "lead_id!" from app.unscored_leads($1)"#,
        most
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// Stores a new lead's score by the rules, if it has none.
///
/// # Errors
/// [`StoreError::Database`], also if there is no such lead any more, or it has ended.
pub async fn score_new(tx: &mut ServiceTx, lead_id: Uuid) -> Result<(), StoreError> {
    sqlx::query!("select from app.score_new_lead($1)", lead_id).execute(tx.conn()?).await?;
    Ok(())
}

/// Organisations in which leads wait for somebody to have room, in another order each time.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn waiting_orgs(tx: &mut DirectoryTx, most: i32) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(r#"select app.waiting_lead_orgs($1) as "org!""#, most).fetch_all(tx.conn()?).await?)
}

/// Has leads of this organisation that wait for room looked at where there is some again. How many.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn wake_waiting(tx: &mut ServiceTx) -> Result<i32, StoreError> {
    Ok(sqlx::query_scalar!(r#"select app.wake_leads_here() as "woken!""#).fetch_one(tx.conn()?).await?)
}

/// Organisations whose scores are to be looked at again.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn due_checks(tx: &mut DirectoryTx, most: i32) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(r#"select app.due_lead_checks($1) as "org!""#, most).fetch_all(tx.conn()?).await?)
}

/// Stops assigning by itself if scores do not hold to the organisation's floors any more. What was missed, if anything.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn check_scores(tx: &mut ServiceTx) -> Result<Option<Value>, StoreError> {
    Ok(sqlx::query_scalar!("select app.check_lead_scores()").fetch_one(tx.conn()?).await?)
}

/// How scores met outcomes, and what is set.
///
/// # Errors
/// [`StoreError::Forbidden`], [`StoreError::Database`].
pub async fn report(tx: &mut CallerTx) -> Result<Value, StoreError> {
    let report =
        sqlx::query_scalar!("select app.lead_report()").fetch_one(tx.conn()?).await.map_err(named("leads:manage"))?;
    Ok(report.unwrap_or_default())
}

/// Sets what `wanted` names: `{"settings"}`; or `{"refused": {"code","detail"}, "report"}`, and nothing is changed.
///
/// # Errors
/// [`StoreError::Forbidden`], [`StoreError::Database`].
pub async fn configure(tx: &mut CallerTx, wanted: &Value) -> Result<Value, StoreError> {
    let told = sqlx::query_scalar!("select app.configure_lead_assignment($1)", wanted)
        .fetch_one(tx.conn()?)
        .await
        .map_err(named("leads:manage"))?;
    Ok(told.unwrap_or_default())
}

/// What became of the wish to move an absent person's leads.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Moving {
    /// `person_not_found` or `person_not_absent`: then nothing was queued.
    pub refused: Option<String>,
    /// The jobs that find another person for a lead each, the most promising first.
    pub queued: Vec<Uuid>,
    /// How many of the person's open leads no job is at work on yet.
    pub left: i64,
}

/// Queues the assignment of the open leads of a person who is absent, `most` of them, each to the person who suits it best.
///
/// # Errors
/// [`StoreError::Forbidden`], [`StoreError::Database`].
pub async fn move_from(tx: &mut CallerTx, user_id: Uuid, most: i32) -> Result<Moving, StoreError> {
    let told = sqlx::query_scalar!("select app.move_leads_of($1, $2)", user_id, most)
        .fetch_one(tx.conn()?)
        .await
        .map_err(named("leads:manage"))?;
    decode(told.unwrap_or_default())
}

/// Who would have been given the leads that came since then, `most` of them. Writes nothing.
///
/// # Errors
/// [`StoreError::Forbidden`], [`StoreError::Database`].
pub async fn dry_run(tx: &mut CallerTx, since: DateTime<Utc>, most: i32) -> Result<Value, StoreError> {
    let told = sqlx::query_scalar!("select app.dry_run_leads($1, $2)", since, most)
        .fetch_one(tx.conn()?)
        .await
        .map_err(named("leads:manage"))?;
    Ok(told.unwrap_or_default())
}

/// Charges the organisation for the advice that an assignment was made with, once for an assignment.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn charge(tx: &mut ServiceTx, org_id: Uuid, assignment_id: Uuid, charge: Charge) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into public.billing_events (org_id, kind, quantity, cost_micro_usd, estimated, source_table, source_id)
         values ($1, 'lead_score', 1, $2, $3, 'lead_assignments', $4)",
        org_id,
        charge.cost_micro_usd,
        charge.estimated,
        assignment_id
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}
