//! Figures of social accounts and of their posts, by day.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::StoreError;
use crate::db::ServiceTx;

/// Whose days figures are of, as of insights: organisations have no time zone of their own.
pub const ZONE: &str = "UTC";

/// A figure of an account or of a post.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What it counts.
    pub metric: String,
    /// The day.
    pub day: NaiveDate,
    /// The post. None: the account.
    pub media_id: Option<String>,
    /// How much.
    pub value: f64,
}

/// Writes down figures; a later figure of the same day replaces an earlier one.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn keep_figures(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    figures: &[Figure],
) -> Result<(), StoreError> {
    let rows: BTreeMap<(&str, NaiveDate, Option<&str>), Value> = figures
        .iter()
        .map(|figure| {
            let row = json!({ "metric": figure.metric, "day": figure.day, "media_id": figure.media_id, "value": figure.value });
            ((figure.metric.as_str(), figure.day, figure.media_id.as_deref()), row)
        })
        .collect();
    sqlx::query!(
        "insert into public.social_analytics as a (org_id, account_id, metric_type, value, recorded_at, media_id)
         select $1, $2, x.metric, x.value, x.day::timestamp at time zone $4, x.media_id
           from jsonb_to_recordset($3) x (metric text, day date, media_id text, value numeric) order by 3, 5, 6
         on conflict on constraint social_analytics_place_key do update set value = excluded.value where a.value <> excluded.value",
        org_id,
        account_id,
        Value::Array(rows.into_values().collect()),
        ZONE
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// A day, and when it begins and ends.
#[derive(Debug, Clone, Copy)]
pub struct Day {
    /// The day.
    pub date: NaiveDate,
    /// Its beginning.
    pub from: DateTime<Utc>,
    /// The beginning of the next.
    pub until: DateTime<Utc>,
    /// Whether there is a figure of the account for it.
    pub known: bool,
}

/// Today and the days before it, `back` of them, the latest first.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn days(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    now: DateTime<Utc>,
    back: i32,
) -> Result<Vec<Day>, StoreError> {
    let days = sqlx::query_as!(
        Day,
        r#"with day as (
             select ($3::timestamptz at time zone $5)::date - n as date from generate_series(0, $4::integer) n)
         select d.date as "date!", d.date::timestamp at time zone $5 as "from!", (d.date + 1)::timestamp at time zone $5 as "until!",
                exists (select from public.social_analytics a
                         where a.org_id = $1 and a.account_id = $2 and a.media_id is null
                           and a.metric_type in ('reach', 'views', 'video_views', 'profile_views')
                           and a.recorded_at = d.date::timestamp at time zone $5) as "known!"
           from day d order by d.date desc"#,
        org_id,
        account_id,
        now,
        back,
        ZONE
    );
    Ok(days.fetch_all(tx.conn()?).await?)
}

/// A post whose figures are to be read.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Its id at the platform.
    pub platform_id: String,
    /// What it is.
    pub kind: String,
}

/// Posts of thirty days whose figures are older than `before`, the longest ago first, `most` at most.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn unmeasured_media(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    now: DateTime<Utc>,
    before: DateTime<Utc>,
    most: i64,
) -> Result<Vec<Measured>, StoreError> {
    let media = sqlx::query_as!(
        Measured,
        "select platform_id, kind from public.social_media
          where org_id = $1 and account_id = $2 and deleted_at is null and published_at > $3::timestamptz - interval '30 days'
            and coalesce(figures_at, '-infinity') < $4
          order by figures_at nulls first, published_at desc limit $5",
        org_id,
        account_id,
        now,
        before,
        most
    );
    Ok(media.fetch_all(tx.conn()?).await?)
}

/// Writes down when the figures of a post were read.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn measured(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    media_id: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.social_media set figures_at = $4 where org_id = $1 and account_id = $2 and platform_id = $3",
        org_id,
        account_id,
        media_id,
        now
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}
