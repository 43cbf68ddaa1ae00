//! Vouchers that were approved: what is to be sent, the intent that stands before it is, and what came of it.

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::db::{DirectoryTx, ServiceTx};

/// What there is to do about an approved voucher.
#[derive(Debug, Clone)]
pub struct Step {
    /// `begin`, `busy` while another of its series is in flight, `send` again, `search` for it, or `ended`.
    pub step: String,
    /// The approval's status.
    pub status: String,
    /// The voucher's series.
    pub series: Option<String>,
    /// On which day it is booked.
    pub voucher_date: Option<NaiveDate>,
    /// The id of the financial year.
    pub year_id: Option<i64>,
    /// What it is found by.
    pub token: String,
    /// The number that the series was to give next, before it was sent.
    pub next_number: Option<i64>,
    /// When it was sent last.
    pub sent_at: Option<DateTime<Utc>>,
    /// The company that it was approved for.
    pub company: String,
}

/// What there is to do about an approval, if there is one.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn step(tx: &mut ServiceTx, approval_id: Uuid) -> Result<Option<Step>, StoreError> {
    let step = sqlx::query_as!(
        Step,
        r#"select step as "step!", status as "status!", series, voucher_date, year_id, token as "token!", next_number, sent_at,
                  external_tenant_id as "company!"
             from app.accounting_write_state($1) where step is not null"#,
        approval_id
    );
    Ok(step.fetch_optional(tx.conn()?).await?)
}

/// A voucher that may be sent, once; or why not.
#[derive(Debug, Clone)]
pub struct Begun {
    /// What was approved.
    pub payload: Option<Value>,
    /// What it is found by.
    pub token: Option<String>,
    /// `series_busy`, or why it may not be sent.
    pub refused: Option<String>,
}

/// Writes down that a voucher is being sent, if it still may be. `searched`: it was sent before, and Fortnox has not got it.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn begin(
    tx: &mut ServiceTx,
    approval_id: Uuid,
    next_number: Option<i64>,
    searched: bool,
) -> Result<Begun, StoreError> {
    let begun = sqlx::query_as!(
        Begun,
        "select payload, token, refused from app.begin_accounting_write($1, $2, $3)",
        approval_id,
        next_number,
        searched
    );
    Ok(begun.fetch_one(tx.conn()?).await?)
}

/// What came of sending a voucher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// Fortnox has it, under this number.
    Executed(i64),
    /// It was refused, and would be again: a code, and Fortnox' own words.
    Failed(String, String),
    /// Fortnox did not say.
    Unknown,
    /// It is certain that Fortnox has not got it.
    Unsent,
}

/// Says what came of sending a voucher. False if it has ended.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn end(tx: &mut ServiceTx, approval_id: Uuid, sent: &Sent) -> Result<bool, StoreError> {
    let (outcome, number, code, words) = match sent {
        Sent::Executed(number) => ("executed", Some(*number), None, None),
        Sent::Failed(code, words) => ("failed", None, Some(code.as_str()), Some(words.as_str())),
        Sent::Unknown => ("unknown", None, None, None),
        Sent::Unsent => ("unsent", None, None, None),
    };
    let ended = sqlx::query_scalar!(
        r#"select app.end_accounting_write($1, $2, $3, $4, $5) as "ended!""#,
        approval_id,
        outcome,
        number,
        code,
        words
    );
    Ok(ended.fetch_one(tx.conn()?).await?)
}

/// A series of a year that we have written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// Its code.
    pub series: String,
    /// The id of the financial year.
    pub year_id: i64,
}

/// The series that we have written to in a company.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn series(tx: &mut ServiceTx, org_id: Uuid, company: &str) -> Result<Vec<Series>, StoreError> {
    let series = sqlx::query_as!(
        Series,
        "select distinct series, year_id from public.accounting_executions
          where org_id = $1 and external_tenant_id = $2 order by series, year_id",
        org_id,
        company
    );
    Ok(series.fetch_all(tx.conn()?).await?)
}

/// An execution, as a night's comparison looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// The approval.
    pub approval_id: Uuid,
    /// What the voucher is found by.
    pub token: String,
    /// The number that Fortnox gave it.
    pub voucher_number: Option<i64>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// When it was sent last.
    pub sent_at: Option<DateTime<Utc>>,
    /// Whether a job goes on with it.
    pub worked_on: bool,
}

/// What we have sent to a series of a year.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn executions(
    tx: &mut ServiceTx,
    org_id: Uuid,
    company: &str,
    series: &Series,
) -> Result<Vec<Execution>, StoreError> {
    let executions = sqlx::query_as!(
        Execution,
        r#"select e.approval_id, e.token, e.voucher_number, e.ended_at, e.sent_at,
                  exists (select from public.jobs j where j.org_id = e.org_id and j.job_type = 'accounting_write'
                             and j.unique_key = e.approval_id::text and j.status in ('queued', 'running')) as "worked_on!"
             from public.accounting_executions e
            where e.org_id = $1 and e.external_tenant_id = $2 and e.series = $3 and e.year_id = $4"#,
        org_id,
        company,
        series.series,
        series.year_id
    );
    Ok(executions.fetch_all(tx.conn()?).await?)
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// How many vouchers we have written.
    pub ours: i32,
    /// How many of ours Fortnox has.
    pub theirs: i32,
    /// `[{"code","token","number"}]`.
    pub problems: Value,
}

/// Keeps what a comparison of a series found, in place of the one before.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn keep_comparison(
    tx: &mut ServiceTx,
    org_id: Uuid,
    company: &str,
    series: &Series,
    found: &Comparison,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into public.accounting_reconciliations (org_id, external_tenant_id, series, year_id, ours, theirs, problems)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (org_id, external_tenant_id, series, year_id) do update
            set checked_at = now(), ours = excluded.ours, theirs = excluded.theirs, problems = excluded.problems",
        org_id,
        company,
        series.series,
        series.year_id,
        found.ours,
        found.theirs,
        found.problems
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Queues the comparisons of a night, once for each organisation. How many.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn queue_comparisons(tx: &mut DirectoryTx, most: i32) -> Result<i32, StoreError> {
    let queued = sqlx::query_scalar!(r#"select app.queue_reconciliations($1) as "queued!""#, most);
    Ok(queued.fetch_one(tx.conn()?).await?)
}

/// How many differences with Fortnox the last comparisons found, over all organisations.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn differences(tx: &mut DirectoryTx) -> Result<i64, StoreError> {
    let found = sqlx::query_scalar!(r#"select app.accounting_differences() as "found!""#);
    Ok(found.fetch_one(tx.conn()?).await?)
}

/// An invoice at Fortnox that was paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaidInvoice {
    /// Its number.
    pub number: String,
    /// Whose it is.
    pub customer_number: String,
    /// When the last of it was paid.
    pub paid_on: NaiveDate,
    /// Its total in öre.
    pub total_ore: i64,
    /// What it refers to: a submission's id, if it was made for one.
    pub reference: Option<String>,
}

/// Until when payments were read, if they were.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn payments_read_until(tx: &mut ServiceTx, org_id: Uuid) -> Result<Option<DateTime<Utc>>, StoreError> {
    let read_until =
        sqlx::query_scalar!("select read_until from public.accounting_payment_reads where org_id = $1", org_id);
    Ok(read_until.fetch_optional(tx.conn()?).await?)
}

/// Remembers until when payments were read.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn keep_payments_read_until(
    tx: &mut ServiceTx,
    org_id: Uuid,
    read_until: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into public.accounting_payment_reads (org_id, read_until) values ($1, $2)
         on conflict (org_id) do update set read_until = excluded.read_until",
        org_id,
        read_until
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Proposes the vouchers of an invoice that was paid. What came of it: `proposed`, `already`, `problems`, `unmatched` where it is of no one
/// submission, or `other_customer`.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn propose_payment(tx: &mut ServiceTx, invoice: &PaidInvoice) -> Result<String, StoreError> {
    let outcome = sqlx::query_scalar!(
        r#"select app.propose_payment_vouchers($1, $2, $3, $4, $5) as "outcome!""#,
        invoice.number,
        invoice.customer_number,
        invoice.paid_on,
        invoice.total_ore,
        invoice.reference
    );
    Ok(outcome.fetch_one(tx.conn()?).await?)
}

/// Tries again what could not be proposed for invoices that were paid. How many.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn retry_payments(tx: &mut ServiceTx, most: i32) -> Result<i32, StoreError> {
    let tried = sqlx::query_scalar!(r#"select app.retry_payment_vouchers($1) as "tried!""#, most);
    Ok(tried.fetch_one(tx.conn()?).await?)
}

/// Queues a look at payments where vouchers are mapped to them, four times an hour. How many.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn queue_payments(tx: &mut DirectoryTx, most: i32) -> Result<i32, StoreError> {
    let queued = sqlx::query_scalar!(r#"select app.queue_payment_reads($1) as "queued!""#, most);
    Ok(queued.fetch_one(tx.conn()?).await?)
}
