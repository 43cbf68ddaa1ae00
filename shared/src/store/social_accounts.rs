//! Social accounts as people and the schedule see them: what they can do, their figures, and how old their readings are.

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{StoreError, social_figures::ZONE};
use crate::db::{CallerTx, DirectoryTx};

/// An account, for people.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its id.
    pub id: Uuid,
    /// `instagram`, `facebook` or `tiktok`.
    pub platform: String,
    /// What it is called there.
    pub username: String,
    /// Which interface of the platform its token is for.
    pub api: String,
    /// `active`, `needs_reconsent` or `disconnected`.
    pub status: String,
    /// When the last reading that went well began.
    pub fetched_at: Option<DateTime<Utc>>,
    /// The code of what went wrong in the last reading.
    pub fetch_error: Option<String>,
    /// When the platform last delivered something for it.
    pub event_at: Option<DateTime<Utc>>,
    /// `[{"capability", "delivered", "read", "availability", "missing_scopes", "note"}]`.
    pub capabilities: Value,
}

/// The organisation's accounts that the caller may see, the oldest first. No more than a thousand.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn list(tx: &mut CallerTx, org_id: Uuid) -> Result<Vec<Listed>, StoreError> {
    let listed = sqlx::query_as!(
        Listed,
        r#"select a.id, a.platform, a.username, a.api, a.status, a.fetched_at, a.fetch_error, a.event_at,
                  (select coalesce(jsonb_agg(jsonb_build_object('capability', c.capability, 'delivered', c.delivered, 'read', c.read,
                                                                'availability', c.availability, 'missing_scopes', c.missing_scopes,
                                                                'note', c.note) order by c.capability), '[]')
                     from public.social_account_capabilities c where c.org_id = a.org_id and c.account_id = a.id) as "capabilities!"
             from public.social_accounts a where a.org_id = $1 order by a.created_at, a.id limit 1000"#,
        org_id
    );
    Ok(listed.fetch_all(tx.conn()?).await?)
}

/// The status of an account that the caller may see.
///
/// # Errors
/// [`StoreError::NotFound`], also for an account of another organisation; [`StoreError::Database`].
pub async fn status(tx: &mut CallerTx, org_id: Uuid, account_id: Uuid) -> Result<String, StoreError> {
    let status = sqlx::query_scalar!(
        "select status from public.social_accounts where org_id = $1 and id = $2",
        org_id,
        account_id
    );
    status.fetch_optional(tx.conn()?).await?.ok_or(StoreError::NotFound { entity: "social_account" })
}

/// A day of a series.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// The day.
    pub day: NaiveDate,
    /// How much. None: the platform gave nothing.
    pub value: Option<f64>,
}

/// Which series is wanted.
#[derive(Debug, Clone)]
pub struct Series {
    /// What it counts.
    pub metric: String,
    /// The post. None: the account.
    pub media_id: Option<String>,
    /// The first day.
    pub from: NaiveDate,
    /// The last day.
    pub to: NaiveDate,
}

/// A series with a point for each day.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn series(
    tx: &mut CallerTx,
    org_id: Uuid,
    account_id: Uuid,
    wanted: &Series,
) -> Result<Vec<Point>, StoreError> {
    let points = sqlx::query_as!(
        Point,
        r#"select d.day as "day!", a.value::float8 as value
             from (select $5::date + n as day from generate_series(0, $6::date - $5::date) n) d
             left join public.social_analytics a
               on a.org_id = $1 and a.account_id = $2 and a.metric_type = $3 and a.media_id is not distinct from $4
              and a.recorded_at = d.day::timestamp at time zone $7
            order by d.day"#,
        org_id,
        account_id,
        wanted.metric,
        wanted.media_id,
        wanted.from,
        wanted.to,
        ZONE
    );
    Ok(points.fetch_all(tx.conn()?).await?)
}

/// How readings are, of all organisations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Readings {
    /// How many accounts wait for a person.
    pub to_reconnect: i64,
    /// How many minutes ago the reading of the account began that was read longest ago.
    pub oldest_minutes: f64,
}

/// How readings are, of all organisations.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn readings(tx: &mut DirectoryTx, now: DateTime<Utc>) -> Result<Readings, StoreError> {
    let readings = sqlx::query_as!(
        Readings,
        r#"select to_reconnect as "to_reconnect!", oldest_minutes as "oldest_minutes!" from app.social_readings($1)"#,
        now
    );
    Ok(readings.fetch_one(tx.conn()?).await?)
}

/// Queues the work on entries that were delivered and that no open job is about, of `most` organisations at most. How many.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn requeue_events(tx: &mut DirectoryTx, most: i32) -> Result<usize, StoreError> {
    let queued = sqlx::query!("select org_id, job_id from app.requeue_social_events($1)", most);
    Ok(queued.fetch_all(tx.conn()?).await?.len())
}

/// Deletes what platforms delivered before a time and was worked on, `most` at most. How many.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn forget_events(tx: &mut DirectoryTx, before: DateTime<Utc>, most: i32) -> Result<i64, StoreError> {
    let gone = sqlx::query_scalar!(r#"select app.forget_social_events($1, $2) as "gone!""#, before, most);
    Ok(gone.fetch_one(tx.conn()?).await?)
}
