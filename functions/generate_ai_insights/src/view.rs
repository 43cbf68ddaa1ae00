//! What clients get to see.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use shared::store::insights::{Insight, Source};
use uuid::Uuid;

use crate::request::PERIODS;

/// An insight: what is said, the figures it rests on, and series ready for charts.
#[derive(Debug, Serialize)]
pub(crate) struct InsightView {
    id: Uuid,
    table_name: String,
    period: String,
    period_start: DateTime<Utc>,
    period_end: Value,
    /// Whose day, week or month it is. Null in insights from before organisations had a zone: UTC.
    time_zone: Value,
    audience: AudienceView,
    headline: Option<String>,
    bullets: Value,
    summary: String,
    figures: Value,
    series: Value,
    breakdowns: Value,
    /// The least number of rows a published number rests on; a point that is null rests on fewer.
    least: Value,
    served_by: String,
    instead_because: Option<String>,
    model: Option<String>,
    template_version: Option<i32>,
    figures_digest: String,
    /// Whether the analyst is still to write; what is said meanwhile is the template's.
    pending: bool,
    job: Option<JobLink>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

#[derive(Debug, Serialize)]
struct AudienceView {
    /// What one must be allowed to read it.
    permission: String,
    /// Whether it rests on what the asker alone sees, and is theirs alone.
    own: bool,
}

#[derive(Debug, Serialize)]
struct JobLink {
    id: Uuid,
    href: String,
}

impl From<Insight> for InsightView {
    fn from(mut insight: Insight) -> Self {
        let mut part = |name: &str| insight.figures.get_mut(name).map(Value::take).unwrap_or_default();
        Self {
            period_end: part("period_end"),
            time_zone: part("time_zone"),
            figures: part("figures"),
            series: part("series"),
            breakdowns: part("breakdowns"),
            least: part("least"),
            id: insight.id,
            table_name: insight.table_name,
            period: insight.period,
            period_start: insight.period_start,
            audience: AudienceView { permission: insight.audience, own: insight.user_id.is_some() },
            headline: insight.headline,
            bullets: insight.bullets,
            summary: insight.summary,
            served_by: insight.served_by,
            instead_because: insight.instead_because,
            model: insight.model,
            template_version: insight.template_version,
            figures_digest: insight
                .figures_digest
                .unwrap_or_default()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            pending: insight.open,
            job: insight.job_id.map(|id| JobLink { id, href: format!("/v1/jobs/{id}") }),
            created_at: insight.created_at,
            updated_at: insight.updated_at,
        }
    }
}

/// The newest insight of each period.
#[derive(Debug, Serialize)]
pub(crate) struct LatestView {
    pub(crate) table_name: String,
    pub(crate) insights: Vec<InsightView>,
}

/// What may be asked.
#[derive(Debug, Serialize)]
pub(crate) struct TablesView {
    tables: Vec<TableView>,
    periods: [&'static str; 3],
}

#[derive(Debug, Serialize)]
struct TableView {
    table_name: String,
    /// `whole`, `own`, or null where the caller may not ask.
    scope: Option<&'static str>,
}

impl From<Vec<Source>> for TablesView {
    fn from(sources: Vec<Source>) -> Self {
        let tables = sources.into_iter().map(|source| TableView {
            scope: if source.may_whole { Some("whole") } else { source.may_own.then_some("own") },
            table_name: source.table_name,
        });
        Self { tables: tables.collect(), periods: PERIODS }
    }
}
