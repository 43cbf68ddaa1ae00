//! What a person must approve before it is done: proposed, shown, decided, and aged. The database's functions alone move it; what they refuse
//! has their code.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::db::{CallerTx, DirectoryTx, ServiceTx};

/// An approval, as people see it.
#[derive(Debug, Clone, Serialize)]
pub struct Approval {
    /// Its id.
    pub id: Uuid,
    /// What it is about, as in `voucher`.
    pub kind: String,
    /// Whose books it is about.
    pub client_id: Option<Uuid>,
    /// `proposed`; then `refused`, `expired`, `approved` or `overdue`; then `executing`, `unknown`, `executed` or `failed`.
    pub status: String,
    /// SHA-256 of what is to be done, in hex. Approving takes it, so that what was shown is what is approved.
    pub digest: String,
    /// The person who proposed it.
    pub proposed_by: Option<Uuid>,
    /// The agent that proposed it.
    pub proposed_by_agent: Option<Uuid>,
    /// The person who decided.
    pub decided_by: Option<Uuid>,
    /// When.
    pub decided_at: Option<DateTime<Utc>>,
    /// Why it was refused.
    pub reason: Option<String>,
    /// When a proposer approved their own proposal for the first time.
    pub first_step_at: Option<DateTime<Utc>>,
    /// Until when it can be decided and executed.
    pub expires_at: DateTime<Utc>,
    /// When it was proposed.
    pub created_at: DateTime<Utc>,
    /// What is to be done.
    pub payload: Option<Value>,
    /// What it was made from, as in `submission <id> approval SP`.
    pub source_key: Option<String>,
    /// The company whose books they are.
    pub company: Option<String>,
    /// What the voucher is found by at Fortnox.
    pub token: Option<String>,
    /// The number that Fortnox gave it, in `series` and `year_id`.
    pub voucher_number: Option<i64>,
    /// The voucher's series.
    pub series: Option<String>,
    /// The financial year.
    pub year_id: Option<i64>,
    /// Why it was not written.
    pub refusal_code: Option<String>,
    /// The same, in Fortnox' own words.
    pub refusal_message: Option<String>,
}

/// Which approvals a list is to have.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Those of this status.
    pub status: Option<String>,
    /// Those about this client.
    pub client_id: Option<Uuid>,
    /// Those that are older than this one.
    pub before: Option<Uuid>,
    /// How many at most.
    pub most: i64,
}

/// Approvals that the caller may see, the newest first.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn list(tx: &mut CallerTx, org_id: Uuid, wanted: &Wanted) -> Result<Vec<Approval>, StoreError> {
    let listed = sqlx::query_as!(
        Approval,
        r#"select id as "id!", kind as "kind!", client_id, status as "status!", digest as "digest!", proposed_by, proposed_by_agent, decided_by,
                  decided_at, reason, first_step_at, expires_at as "expires_at!", created_at as "created_at!", payload, source_key, company,
                  token, voucher_number, series, year_id, refusal_code, refusal_message
             from public.approval_details
            where org_id = $1 and ($2::text is null or status = $2) and ($3::uuid is null or client_id = $3)
              and ($4::uuid is null or (created_at, id) < (select b.created_at, b.id from public.approvals b where b.id = $4))
            order by created_at desc, id desc limit $5"#,
        org_id,
        wanted.status,
        wanted.client_id,
        wanted.before,
        wanted.most
    );
    Ok(listed.fetch_all(tx.conn()?).await?)
}

/// One approval that the caller may see.
///
/// # Errors
/// [`StoreError::NotFound`], [`StoreError::Database`].
pub async fn get(tx: &mut CallerTx, org_id: Uuid, id: Uuid) -> Result<Approval, StoreError> {
    let found = sqlx::query_as!(
        Approval,
        r#"select id as "id!", kind as "kind!", client_id, status as "status!", digest as "digest!", proposed_by, proposed_by_agent, decided_by,
                  decided_at, reason, first_step_at, expires_at as "expires_at!", created_at as "created_at!", payload, source_key, company,
                  token, voucher_number, series, year_id, refusal_code, refusal_message
             from public.approval_details where org_id = $1 and id = $2"#,
        org_id,
        id
    );
    found.fetch_optional(tx.conn()?).await?.ok_or(StoreError::NotFound { entity: "approval" })
}

/// Proposes a voucher to a client's books, for `lasts_s` seconds. The approval's id.
///
/// # Errors
/// [`StoreError::Database`] with the code of what is wrong with it.
pub async fn propose_voucher(
    tx: &mut CallerTx,
    client_id: Uuid,
    voucher: &Value,
    lasts_s: f64,
) -> Result<Uuid, StoreError> {
    let id = sqlx::query_scalar!(
        r#"select public.propose_accounting_write($1, 'voucher', $2, make_interval(secs => $3)) as "id!""#,
        client_id,
        voucher,
        lasts_s
    );
    Ok(id.fetch_one(tx.conn()?).await?)
}

/// Approves what was shown with `digest`. What it is then: `proposed` after the first of two steps.
///
/// # Errors
/// [`StoreError::Database`] with the code of why not.
pub async fn approve(tx: &mut CallerTx, id: Uuid, digest: &str) -> Result<String, StoreError> {
    let status = sqlx::query_scalar!(r#"select public.approve($1, $2) as "status!""#, id, digest);
    Ok(status.fetch_one(tx.conn()?).await?)
}

/// Refuses what was proposed, or approved and not begun.
///
/// # Errors
/// [`StoreError::Database`] with the code of why not.
pub async fn refuse(tx: &mut CallerTx, id: Uuid, reason: Option<&str>) -> Result<String, StoreError> {
    let status = sqlx::query_scalar!(r#"select public.refuse($1, $2) as "status!""#, id, reason);
    Ok(status.fetch_one(tx.conn()?).await?)
}

/// What came of one of several decisions.
#[derive(Debug, Clone, Serialize)]
pub struct Decided {
    /// The approval.
    pub id: Option<Uuid>,
    /// What it is now.
    pub status: Option<String>,
    /// Why it was not decided.
    pub code: Option<String>,
}

/// Decides about each by itself: `[{"id","decision","digest","reason"}]`.
///
/// # Errors
/// [`StoreError::Database`] if that is no list of decisions.
pub async fn decide(tx: &mut CallerTx, decisions: &Value) -> Result<Vec<Decided>, StoreError> {
    let decided = sqlx::query_as!(
        Decided,
        r#"select id as "id?", status as "status?", code as "code?" from public.decide_approvals($1)"#,
        decisions
    );
    Ok(decided.fetch_all(tx.conn()?).await?)
}

/// Lets people approve their own proposals, or forbids it.
///
/// # Errors
/// [`StoreError::Database`] with `owner_only`.
pub async fn allow_own(tx: &mut CallerTx, own: bool) -> Result<bool, StoreError> {
    let allowed = sqlx::query_scalar!(r#"select public.allow_own_approvals($1) as "allowed!""#, own);
    Ok(allowed.fetch_one(tx.conn()?).await?)
}

/// The jobs that the caller's decisions have queued, of these approvals.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn jobs_of(tx: &mut CallerTx, org_id: Uuid, approvals: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
    let keys: Vec<String> = approvals.iter().map(Uuid::to_string).collect();
    let jobs = sqlx::query_scalar!(
        "select id from public.jobs
          where org_id = $1 and job_type = 'accounting_write' and unique_key = any ($2) and status = 'queued'",
        org_id,
        &keys
    );
    Ok(jobs.fetch_all(tx.conn()?).await?)
}

/// What approvals are that the caller may see.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn statuses(tx: &mut CallerTx, org_id: Uuid, ids: &[Uuid]) -> Result<Vec<Decided>, StoreError> {
    let found = sqlx::query_as!(
        Decided,
        r#"select id as "id?", status as "status?", null::text as code from public.approvals where org_id = $1 and id = any ($2)"#,
        org_id,
        ids
    );
    Ok(found.fetch_all(tx.conn()?).await?)
}

/// Proposes what an approved submission is mapped to: `{"proposed":[ids],"already":[…],"problems":[…]}`.
///
/// # Errors
/// [`StoreError::Database`] with the code of why not.
pub async fn propose_submission(tx: &mut CallerTx, submission_id: Uuid) -> Result<Value, StoreError> {
    let proposed =
        sqlx::query_scalar!(r#"select public.propose_submission_vouchers($1) as "proposed!""#, submission_id);
    Ok(proposed.fetch_one(tx.conn()?).await?)
}

/// What a template's mappings lack in the books as they were read last: `{"problems":[{"code","question_id","account"}]}`.
///
/// # Errors
/// [`StoreError::Database`] with the code of why not.
pub async fn mapping_problems(tx: &mut CallerTx, template_id: Uuid) -> Result<Value, StoreError> {
    let found = sqlx::query_scalar!(r#"select public.check_accounting_mappings($1) as "found!""#, template_id);
    Ok(found.fetch_one(tx.conn()?).await?)
}

/// Approvals of all organisations that nobody must overlook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Red {
    /// Approved and not executed for an hour.
    pub overdue: i64,
    /// Begun, and with no known outcome.
    pub unknown: i64,
}

/// Organisations in which time does something to an approval.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn ageing_orgs(tx: &mut DirectoryTx) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(r#"select app.ageing_approvals() as "org!""#).fetch_all(tx.conn()?).await?)
}

/// Ends approvals of the transaction's organisation that have expired, and marks those that are overdue. How many of both.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn age(tx: &mut ServiceTx) -> Result<i64, StoreError> {
    let aged = sqlx::query_scalar!(r#"select (a.expired + a.overdue)::bigint as "aged!" from app.age_approvals() a"#);
    Ok(aged.fetch_one(tx.conn()?).await?)
}

/// How many there are that nobody must overlook.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn count_red(tx: &mut DirectoryTx) -> Result<Red, StoreError> {
    let counted =
        sqlx::query_as!(Red, r#"select c.overdue as "overdue!", c.unknown as "unknown!" from app.count_approvals() c"#);
    Ok(counted.fetch_one(tx.conn()?).await?)
}
