//! Insights: figures of one table over a period, for whom they were made, and what is said of them.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{StoreError, access::Member, provider_calls::Charge};
use crate::{
    db::{CallerTx, DirectoryTx, ServiceTx, Tx},
    telemetry,
};

/// How long a text that answers the same prompt is as good as a new one.
const FRESH: TimeDelta = TimeDelta::days(7);
/// How long it is better than none.
const STALE: TimeDelta = TimeDelta::days(90);

/// A table that insights may be asked of.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name.
    pub table_name: String,
    /// The permission with which one sees all of it.
    pub whole: String,
    /// The permission to ask about what one sees oneself, if that may be asked.
    pub own: Option<String>,
    /// Whether the caller has the first.
    pub may_whole: bool,
    /// Whether the caller has the second.
    pub may_own: bool,
}

/// For whom an insight is made: everybody who has a permission, or one person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience {
    /// The permission it is made for.
    pub permission: String,
    /// The person, where it rests on what they alone see.
    pub user_id: Option<Uuid>,
}

/// An insight as it is stored.
#[derive(Debug, Clone)]
pub struct Insight {
    /// Its id.
    pub id: Uuid,
    /// Its organisation.
    pub org_id: Uuid,
    /// The table it is of.
    pub table_name: String,
    /// `day`, `week` or `month`.
    pub period: String,
    /// When the period began.
    pub period_start: DateTime<Utc>,
    /// The permission it was made for.
    pub audience: String,
    /// The person it was made for, if it is one's own.
    pub user_id: Option<Uuid>,
    /// The analyst's job; none where there is nothing to tell.
    pub job_id: Option<Uuid>,
    /// Whether that job is still to end.
    pub open: bool,
    /// The headline.
    pub headline: Option<String>,
    /// `[{"text","figures":[id]}]`.
    pub bullets: Value,
    /// Headline and bullets as one text.
    pub summary: String,
    /// As `app.insight_figures` gives them.
    pub figures: Value,
    /// SHA-256 of the figures.
    pub figures_digest: Option<Vec<u8>>,
    /// `model`, `cache`, `stale_cache`, `cheaper_model` or `default_template`.
    pub served_by: String,
    /// Why it was not the model.
    pub instead_because: Option<String>,
    /// The model that wrote it.
    pub model: Option<String>,
    /// The version of the template it was told.
    pub template_version: Option<i32>,
    /// When the figures were computed.
    pub created_at: DateTime<Utc>,
    /// When the text was last written.
    pub updated_at: DateTime<Utc>,
}

/// A text about figures.
#[derive(Debug, Clone)]
pub struct Text {
    /// One sentence.
    pub headline: String,
    /// `[{"text","figures":[id]}]`.
    pub bullets: Value,
    /// All of it.
    pub summary: String,
}

/// Figures to be kept, with what can be said of them at once.
#[derive(Debug, Clone)]
pub struct NewInsight<'a> {
    /// Chosen by the caller.
    pub id: Uuid,
    /// The analyst's job, if there is anything for them to say.
    pub job_id: Option<Uuid>,
    /// The organisation.
    pub org_id: Uuid,
    /// For whom.
    pub audience: &'a Audience,
    /// Of which table.
    pub table_name: &'a str,
    /// `day`, `week` or `month`.
    pub period: &'a str,
    /// When it began.
    pub period_start: DateTime<Utc>,
    /// As `app.insight_figures` gave them.
    pub figures: &'a Value,
    /// What the person might see then, where they are one's own.
    pub seen_as: Option<&'a str>,
    /// SHA-256 of them.
    pub figures_digest: [u8; 32],
    /// What is said until somebody says it better.
    pub text: &'a Text,
    /// Why it is said so.
    pub instead_because: &'a str,
}

/// How a text came about.
#[derive(Debug, Clone, Copy)]
pub struct Provenance<'a> {
    /// The rung of the ladder.
    pub served_by: &'a str,
    /// Why it was not the model that was asked first.
    pub instead_because: Option<&'a str>,
    /// The model that wrote it.
    pub model: Option<&'a str>,
    /// The template it was told.
    pub template_version: Option<i32>,
    /// SHA-256 of what it was told.
    pub prompt_digest: Option<[u8; 32]>,
}

/// A text that was written for the same prompt and audience.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The text.
    pub text: Text,
    /// Who wrote it.
    pub model: Option<String>,
    /// Whether it is as good as a new one.
    pub fresh: bool,
}

/// A nightly insight that is not there yet.
#[derive(Debug, Clone)]
pub struct Due {
    /// Whose.
    pub org_id: Uuid,
    /// Of which table.
    pub table_name: String,
    /// For which period.
    pub period: String,
    /// For whom: everybody with this permission.
    pub audience: String,
}

/// Who asks, in which organisation, and all tables that may be asked, with what the caller may ask of each.
///
/// # Errors
/// [`StoreError::NoOrganisation`], [`StoreError::Database`].
pub async fn enter(tx: &mut CallerTx) -> Result<(Member, Vec<Source>), StoreError> {
    let rows = sqlx::query!(
        r#"select e.org_id, e.user_id, s.table_name as "table_name!", s.whole as "whole!", s.own,
                  app.may(s.whole) as "may_whole!", app.may(s.own) as "may_own!"
             from app.enter('insights:read') e cross join app.insight_sources() s order by s.table_name"#
    )
    .fetch_all(tx.conn()?)
    .await?;
    let found = rows.first().and_then(|row| Some((row.org_id?, row.user_id?)));
    let Some((org_id, user_id)) = found else { return Err(StoreError::NoOrganisation) };
    telemetry::works_for(org_id, Some(user_id));
    let sources = rows.into_iter().map(|row| Source {
        table_name: row.table_name,
        whole: row.whole,
        own: row.own,
        may_whole: row.may_whole,
        may_own: row.may_own,
    });
    Ok((Member { org_id, actor_id: user_id, user_id: Some(user_id), agent_id: None }, sources.collect()))
}

/// Figures, and what decided which rows they rest on.
#[derive(Debug, Clone)]
pub struct Computed {
    /// As `app.insight_figures` gives them.
    pub figures: Value,
    /// What the person may see, as of the same moment; see `app.seen_as`.
    pub seen_as: Option<String>,
}

/// The figures of a table over the last whole period before `now`, as far as whoever runs this transaction may see its rows.
///
/// # Errors
/// [`StoreError::Database`], also if there is no such table or period.
pub async fn figures(tx: &mut Tx, table: &str, period: &str, now: DateTime<Utc>) -> Result<Computed, StoreError> {
    Ok(sqlx::query_as!(
        Computed,
        r#"select app.insight_figures($1, $2, $3) as "figures!", app.seen_as() as seen_as"#,
        table,
        period,
        now
    )
    .fetch_one(tx.conn()?)
    .await?)
}

/// Keeps figures. False if the same are kept already for this audience, or are being kept at this moment by another.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn insert(tx: &mut Tx, new: &NewInsight<'_>) -> Result<bool, StoreError> {
    let inserted = sqlx::query!(
        "insert into public.ai_insights (id, org_id, table_name, period_start, period, audience, user_id, summary, headline, bullets,
                                         figures, served_by, instead_because, job_id, figures_digest, seen_as)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'default_template', $12, $13, $14,
                 $15) on conflict do nothing",
        new.id,
        new.org_id,
        new.table_name,
        new.period_start,
        new.period,
        new.audience.permission,
        new.audience.user_id,
        new.text.summary,
        new.text.headline,
        new.text.bullets,
        new.figures,
        new.instead_because,
        new.job_id,
        new.figures_digest.as_slice(),
        new.seen_as
    )
    .execute(tx.conn()?)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// Queues the analyst's work on an insight; once more, if it has ended.
///
/// # Errors
/// [`StoreError::Database`], also if the insight is not for whoever runs this transaction.
pub async fn admit_job(tx: &mut Tx, id: Uuid) -> Result<(), StoreError> {
    sqlx::query_scalar!("select app.admit_insight_job($1)", id).fetch_one(tx.conn()?).await?;
    Ok(())
}

/// Has the analyst's work on an insight looked at now, if it waits for a limit or a switch. Whether it does.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn hurry_job(tx: &mut CallerTx, id: Uuid) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(r#"select app.hurry_insight_job($1) as "hurried!""#, id).fetch_one(tx.conn()?).await?)
}

/// Tells that an insight's figures, computed once more, are the same: it is the one to be shown.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn confirm(tx: &mut Tx, id: Uuid) -> Result<(), StoreError> {
    sqlx::query_scalar!("select app.confirm_insight($1)", id).fetch_one(tx.conn()?).await?;
    Ok(())
}

/// The insight of these very figures for this audience.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn find_same(
    tx: &mut Tx,
    org_id: Uuid,
    audience: &Audience,
    figures_digest: &[u8; 32],
) -> Result<Option<Insight>, StoreError> {
    Ok(sqlx::query_as!(
        Insight,
        r#"select id, org_id, table_name, period, period_start, audience, user_id, job_id, app.job_is_open(job_id) as "open!",
                  headline, bullets, summary, figures, figures_digest, served_by, instead_because, model, template_version,
                  created_at, updated_at
             from public.ai_insights
            where org_id = $1 and audience = $2 and user_id is not distinct from $3 and figures_digest = $4"#,
        org_id,
        audience.permission,
        audience.user_id,
        figures_digest.as_slice()
    )
    .fetch_optional(tx.conn()?)
    .await?)
}

/// One insight that whoever runs this transaction may see.
///
/// # Errors
/// [`StoreError::NotFound`], [`StoreError::Database`].
pub async fn get(tx: &mut Tx, id: Uuid) -> Result<Insight, StoreError> {
    sqlx::query_as!(
        Insight,
        r#"select id, org_id, table_name, period, period_start, audience, user_id, job_id, app.job_is_open(job_id) as "open!",
                  headline, bullets, summary, figures, figures_digest, served_by, instead_because, model, template_version,
                  created_at, updated_at
             from public.ai_insights where id = $1"#,
        id
    )
    .fetch_optional(tx.conn()?)
    .await?
    .ok_or(StoreError::NotFound { entity: "insight" })
}

/// The insight of a table for this audience whose figures were found to be so last, of each period.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn list_latest(
    tx: &mut CallerTx,
    org_id: Uuid,
    table: &str,
    audience: &Audience,
) -> Result<Vec<Insight>, StoreError> {
    Ok(sqlx::query_as!(
        Insight,
        r#"select distinct on (period) id, org_id, table_name, period, period_start, audience, user_id, job_id,
                  app.job_is_open(job_id) as "open!", headline, bullets, summary, figures, figures_digest, served_by,
                  instead_because, model, template_version, created_at, updated_at
             from public.ai_insights
            where org_id = $1 and table_name = $2 and audience = $3 and user_id is not distinct from $4
              and figures_digest is not null
            order by period, computed_at desc, period_start desc, created_at desc"#,
        org_id,
        table,
        audience.permission,
        audience.user_id
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// The newest text that a model wrote for the same audience and the same prompt, unless it is too old for any use.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn find_text(
    tx: &mut ServiceTx,
    insight: &Insight,
    prompt_digest: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<Option<Kept>, StoreError> {
    let row = sqlx::query!(
        r#"select headline as "headline!", bullets, summary, model, updated_at from public.ai_insights
            where org_id = $1 and table_name = $2 and period = $3 and audience = $4 and user_id is not distinct from $5
              and prompt_digest = $6 and served_by in ('model', 'cheaper_model') and headline is not null and updated_at > $7
            order by updated_at desc limit 1"#,
        insight.org_id,
        insight.table_name,
        insight.period,
        insight.audience,
        insight.user_id,
        prompt_digest.as_slice(),
        now - STALE
    )
    .fetch_optional(tx.conn()?)
    .await?;
    Ok(row.map(|row| Kept {
        text: Text { headline: row.headline, bullets: row.bullets, summary: row.summary },
        model: row.model,
        fresh: row.updated_at > now - FRESH,
    }))
}

/// Writes what is said of an insight and how that came about; without a text, the one that is there stays.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn update_text(
    tx: &mut ServiceTx,
    id: Uuid,
    text: Option<&Text>,
    provenance: &Provenance<'_>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.ai_insights
            set headline = coalesce($2, headline), bullets = coalesce($3, bullets), summary = coalesce($4, summary),
                served_by = $5, instead_because = $6, model = $7, template_version = $8, prompt_digest = $9
          where id = $1",
        id,
        text.map(|text| text.headline.as_str()),
        text.map(|text| &text.bullets),
        text.map(|text| text.summary.as_str()),
        provenance.served_by,
        provenance.instead_because,
        provenance.model,
        provenance.template_version,
        provenance.prompt_digest.as_ref().map(<[u8; 32]>::as_slice)
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Charges the organisation for a text, once.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn charge(tx: &mut ServiceTx, insight: &Insight, charge: Charge) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into public.billing_events (org_id, kind, quantity, cost_micro_usd, estimated, source_table, source_id)
         values ($1, 'insight', 1, $2, $3, 'ai_insights', $4) on conflict do nothing",
        insight.org_id,
        charge.cost_micro_usd,
        charge.estimated,
        insight.id
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Nightly insights that are due, shared fairly between organisations.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn due(tx: &mut DirectoryTx, now: DateTime<Utc>, most: i32) -> Result<Vec<Due>, StoreError> {
    Ok(sqlx::query_as!(
        Due,
        r#"select org_id as "org_id!", table_name as "table_name!", period as "period!", audience as "audience!"
             from app.due_insights($1, $2)"#,
        now,
        most
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// Has organisations whose night's insights are all there left alone until the next night. How many.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn close_nights(tx: &mut DirectoryTx, now: DateTime<Utc>) -> Result<i32, StoreError> {
    Ok(sqlx::query_scalar!(r#"select app.close_insight_nights($1) as "closed!""#, now).fetch_one(tx.conn()?).await?)
}
