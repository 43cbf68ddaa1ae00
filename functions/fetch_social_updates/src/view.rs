//! What clients get to see.

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use serde_json::Value;
use shared::store::{
    social_accounts::{Listed, Point, Series},
    social_figures::ZONE,
};
use uuid::Uuid;

/// Accounts, and what each can do.
#[derive(Debug, Serialize)]
pub(crate) struct AccountsView {
    accounts: Vec<AccountView>,
}

#[derive(Debug, Serialize)]
struct AccountView {
    id: Uuid,
    platform: String,
    username: String,
    api: String,
    /// `active`, `needs_reconsent` or `disconnected`.
    status: String,
    /// When the last reading that went well began.
    fetched_at: Option<DateTime<Utc>>,
    /// The code of what went wrong in the last reading.
    fetch_error: Option<String>,
    /// When the platform last delivered something.
    event_at: Option<DateTime<Utc>>,
    capabilities: Value,
}

impl AccountsView {
    pub(crate) fn of(listed: Vec<Listed>) -> Self {
        let accounts = listed.into_iter().map(|row| AccountView {
            id: row.id,
            platform: row.platform,
            username: row.username,
            api: row.api,
            status: row.status,
            fetched_at: row.fetched_at,
            fetch_error: row.fetch_error,
            event_at: row.event_at,
            capabilities: row.capabilities,
        });
        Self { accounts: accounts.collect() }
    }
}

/// A series with a point for each day.
#[derive(Debug, Serialize)]
pub(crate) struct SeriesView {
    account_id: Uuid,
    metric: String,
    media_id: Option<String>,
    /// Where the days begin.
    time_zone: &'static str,
    points: Vec<PointView>,
}

#[derive(Debug, Serialize)]
struct PointView {
    day: NaiveDate,
    /// Null: the platform gave nothing.
    value: Option<f64>,
}

impl SeriesView {
    pub(crate) fn of(account_id: Uuid, series: Series, points: Vec<Point>) -> Self {
        let points = points.into_iter().map(|point| PointView { day: point.day, value: point.value });
        Self { account_id, metric: series.metric, media_id: series.media_id, time_zone: ZONE, points: points.collect() }
    }
}
