//! Models that agents may call, as an operator set them, and what they cost.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::StoreError;
use crate::db::{DirectoryTx, ServiceTx, Tx};

/// A price in force: micro-USD per million units.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ModelPrice {
    /// `input`, `output`, `cache_read`, `cache_write_5m`, `cache_write_1h` or `image_output`.
    pub unit: String,
    /// Prompt tokens above which this price holds for the whole request; 0 is the base price.
    pub tier: i64,
    /// Micro-USD per million units.
    pub micro_usd_per_million: i64,
}

/// A model that an agent may call for a purpose. One that is disabled is none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// As in `provider_calls.purpose`.
    pub purpose: String,
    /// `default`, `cheaper` or `spare`.
    pub role: String,
    /// `anthropic` for text, `gemini` for pictures.
    pub provider: String,
    /// Its id at the provider.
    pub model: String,
    /// From when on the provider does not serve it. `None` is not known.
    pub retires_at: Option<DateTime<Utc>>,
    /// When the provider last said that it knows no such model.
    pub missed_at: Option<DateTime<Utc>>,
    /// Whether it may think before it answers.
    pub thinks: bool,
    /// The most tokens one picture takes. `None` for a model that makes none.
    pub picture_tokens: Option<i32>,
    /// The size that a picture is asked for in, such as `1K`. `None` for a model that takes none.
    pub image_size: Option<String>,
    /// What it costs at the moment asked for: the newest price of each unit and tier. Empty if it has none.
    pub prices: Vec<ModelPrice>,
}

/// Every model that `agent` may call, for all of its purposes, with its prices at `now`; in one round trip, and for whoever this
/// transaction runs as.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn list(tx: &mut Tx, agent: &str, now: DateTime<Utc>) -> Result<Vec<Model>, StoreError> {
    let rows = sqlx::query!(
        r#"select r.purpose, r.role, m.provider, m.model, m.retires_at, m.missed_at, m.thinks, m.picture_tokens, m.image_size,
                  (select coalesce(jsonb_agg(p), '[]')
                     from (select distinct on (x.unit, x.tier) x.unit, x.tier, x.micro_usd_per_million
                             from public.model_prices x
                            where x.provider = m.provider and x.model = m.model and x.effective_from <= $2
                            order by x.unit, x.tier, x.effective_from desc) p) as "prices!"
             from public.model_roles r
             join public.models m on m.provider = r.provider and m.model = r.model
            where r.agent = $1 and m.enabled"#,
        agent,
        now
    )
    .fetch_all(tx.conn()?)
    .await?;
    let read = rows.into_iter().map(|row| {
        Ok(Model {
            prices: serde_json::from_value(row.prices).map_err(|error| sqlx::Error::Decode(error.into()))?,
            purpose: row.purpose,
            role: row.role,
            provider: row.provider,
            model: row.model,
            retires_at: row.retires_at,
            missed_at: row.missed_at,
            thinks: row.thinks,
            picture_tokens: row.picture_tokens,
            image_size: row.image_size,
        })
    });
    read.collect()
}

/// Notes that the provider knows no such model, so that others go before it for an hour.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn miss(tx: &mut ServiceTx, provider: &str, model: &str) -> Result<(), StoreError> {
    sqlx::query_scalar!("select app.miss_model($1, $2)", provider, model).fetch_one(tx.conn()?).await?;
    Ok(())
}

/// A model in use whose end is near or past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// As in [`Model::provider`].
    pub provider: String,
    /// Its id at the provider.
    pub model: String,
    /// When the provider ends it.
    pub retires_at: DateTime<Utc>,
}

/// Models in use that end within thirty days and were not reported yet: each once for each end.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn notice_ending(tx: &mut DirectoryTx) -> Result<Vec<Ending>, StoreError> {
    Ok(sqlx::query_as!(
        Ending,
        r#"select provider as "provider!", model as "model!", retires_at as "retires_at!" from app.notice_ending_models()"#
    )
    .fetch_all(tx.conn()?)
    .await?)
}
