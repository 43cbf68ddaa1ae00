//! Render requests, their parameters and results.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{StoreError, access::Member, provider_calls::Charge};
use crate::db::{CallerTx, ServiceTx, Tx};

/// What was wished for; each is free text or absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    /// As in `scandinavian`.
    pub style: Option<String>,
    /// Furniture.
    pub furnishings: Option<String>,
    /// Light.
    pub lighting: Option<String>,
    /// Walls.
    pub walls: Option<String>,
    /// Floor.
    pub flooring: Option<String>,
    /// What is seen outside.
    pub exterior: Option<String>,
}

/// A request to be admitted.
#[derive(Debug, Clone)]
pub struct NewRender<'a> {
    /// Its id.
    pub id: Uuid,
    /// Its job's id.
    pub job_id: Uuid,
    /// The project it is for.
    pub project_id: Uuid,
    /// The request whose result it goes on from.
    pub parent_id: Option<Uuid>,
    /// `bucket/path` of the picture it starts from.
    pub input_file_path: &'a str,
    /// The image model.
    pub model: &'a str,
    /// How many pictures, 1 to 4.
    pub variants: i16,
    /// What was wished for.
    pub parameters: &'a Parameters,
}

/// Stores a request with its parameters and admits its job, as the caller.
///
/// # Errors
/// [`StoreError::NotFound`] if the project or parent is not the caller's to see.
pub async fn insert(
    tx: &mut CallerTx,
    member: Member,
    render: &NewRender<'_>,
    max_attempts: i32,
) -> Result<(), StoreError> {
    let project = sqlx::query_scalar!(
        "select id from public.projects where org_id = $1 and id = $2",
        member.org_id,
        render.project_id
    )
    .fetch_optional(tx.conn()?)
    .await?;
    if project.is_none() {
        return Err(StoreError::NotFound { entity: "project" });
    }
    sqlx::query!(
        "insert into public.render_requests
             (id, org_id, user_id, agent_id, project_id, parent_id, job_id, input_file_path, model, variants)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        render.id,
        member.org_id,
        member.user_id,
        member.agent_id,
        render.project_id,
        render.parent_id,
        render.job_id,
        render.input_file_path,
        render.model,
        render.variants
    )
    .execute(tx.conn()?)
    .await?;
    let wished = render.parameters;
    sqlx::query!(
        "insert into public.render_parameters
             (org_id, request_id, style, furnishings, lighting, walls, flooring, exterior)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        member.org_id,
        render.id,
        wished.style,
        wished.furnishings,
        wished.lighting,
        wished.walls,
        wished.flooring,
        wished.exterior
    )
    .execute(tx.conn()?)
    .await?;
    sqlx::query_scalar!("select app.admit_render_job($1, $2, $3)", render.job_id, render.id, max_attempts)
        .fetch_one(tx.conn()?)
        .await?;
    Ok(())
}

/// Where the newest result of a request is, if the caller may see it.
///
/// # Errors
/// [`StoreError::NotFound`] if there is no such request for them, or it has no result yet.
pub async fn get_result_path(tx: &mut CallerTx, org_id: Uuid, request_id: Uuid) -> Result<String, StoreError> {
    sqlx::query_scalar!(
        "select output_file_path from public.render_results where org_id = $1 and request_id = $2 order by variant limit 1",
        org_id,
        request_id
    )
    .fetch_optional(tx.conn()?)
    .await?
    .ok_or(StoreError::NotFound { entity: "parent_result" })
}

/// A request as the caller may see it.
#[derive(Debug, Clone)]
pub struct Render {
    /// Its id.
    pub id: Uuid,
    /// Its organisation.
    pub org_id: Uuid,
    /// Whose it is, unless an agent's.
    pub user_id: Option<Uuid>,
    /// Whose it is, unless a person's.
    pub agent_id: Option<Uuid>,
    /// The project.
    pub project_id: Uuid,
    /// What it goes on from.
    pub parent_id: Option<Uuid>,
    /// Its job.
    pub job_id: Uuid,
    /// `bucket/path` of the picture it starts from.
    pub input_file_path: String,
    /// The image model.
    pub model: String,
    /// How many pictures.
    pub variants: i16,
    /// `queued`, `running`, `completed`, `failed` or `cancelled`.
    pub status: String,
    /// `{"code","detail"}` if it failed.
    pub error: Option<Value>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub completed_at: Option<DateTime<Utc>>,
    /// Wishes: as in [`Parameters`].
    pub style: Option<String>,
    /// See [`Parameters`].
    pub furnishings: Option<String>,
    /// See [`Parameters`].
    pub lighting: Option<String>,
    /// See [`Parameters`].
    pub walls: Option<String>,
    /// See [`Parameters`].
    pub flooring: Option<String>,
    /// See [`Parameters`].
    pub exterior: Option<String>,
    /// The job's status, if the caller may see the job.
    pub job_status: Option<String>,
    /// Why the job waits.
    pub waiting: Option<Value>,
    /// Its results, as a JSON array of [`StoredResult`].
    pub results: Value,
}

/// A result as stored.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct StoredResult {
    /// Its id.
    pub id: Uuid,
    /// `bucket/path`.
    pub output_file_path: String,
    /// `image/png`, `image/jpeg` or `image/webp`.
    pub mime: String,
    /// Pixels.
    pub width: i32,
    /// Pixels.
    pub height: i32,
    /// Size of the file.
    pub bytes: i64,
    /// Tokens.
    pub cost_tokens: i64,
    /// Micro-USD.
    pub cost_micro_usd: i64,
    /// Whether the provider did not report all that it bills.
    pub estimated: bool,
    /// The model that made it.
    pub model_used: String,
    /// `model`, `cache`, …
    pub served_by: String,
    /// The share of the photo's long straight edges that it has too, from 0 to 1. `None` for a photo with hardly any.
    pub edges_kept: Option<f32>,
}

/// The request with its parameters, job and results, in one round trip; for whoever this transaction runs as.
///
/// # Errors
/// [`StoreError::NotFound`] if there is none, or not for them.
pub async fn get(tx: &mut Tx, id: Uuid) -> Result<Render, StoreError> {
    sqlx::query_as!(
        Render,
        r#"select r.id, r.org_id, r.user_id, r.agent_id, r.project_id, r.parent_id, r.job_id, r.input_file_path, r.model,
                  r.variants, r.status, r.error, r.created_at, r.completed_at,
                  p.style, p.furnishings, p.lighting, p.walls, p.flooring, p.exterior,
                  j.status as "job_status?", j.wait_reason as "waiting?",
                  coalesce((select jsonb_agg(to_jsonb(x) order by x.variant) from public.render_results x
                             where x.org_id = r.org_id and x.request_id = r.id), '[]') as "results!"
             from public.render_requests r
             join public.render_parameters p on p.org_id = r.org_id and p.request_id = r.id
             left join public.jobs j on j.org_id = r.org_id and j.id = r.job_id
            where r.id = $1"#,
        id
    )
    .fetch_optional(tx.conn()?)
    .await?
    .ok_or(StoreError::NotFound { entity: "render_request" })
}

/// Queues the request again if it has failed or was cancelled. The status its job had.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn requeue(tx: &mut CallerTx, id: Uuid) -> Result<String, StoreError> {
    sqlx::query_scalar!("select app.requeue_render($1)", id)
        .fetch_one(tx.conn()?)
        .await?
        .ok_or(StoreError::NotFound { entity: "render_request" })
}

/// Sets the request's status, as its job goes on.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn update_status(
    tx: &mut ServiceTx,
    org_id: Uuid,
    id: Uuid,
    status: &str,
    error: Option<&Value>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.render_requests
            set status = $3, error = $4,
                completed_at = case when $3 in ('completed', 'failed', 'cancelled') then now() end
          where org_id = $1 and id = $2",
        org_id,
        id,
        status,
        error
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// A finished picture.
#[derive(Debug, Clone)]
pub struct NewResult<'a> {
    /// Its id.
    pub id: Uuid,
    /// Which of the variants, from 1.
    pub variant: i16,
    /// The bucket it is in.
    pub bucket: &'a str,
    /// Its path there.
    pub path: &'a str,
    /// `image/png`, `image/jpeg` or `image/webp`.
    pub mime: &'a str,
    /// Pixels.
    pub width: i32,
    /// Pixels.
    pub height: i32,
    /// Size of the file.
    pub bytes: i64,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// The share of the photo's long straight edges that it has too, from 0 to 1.
    pub edges_kept: Option<f32>,
    /// What its calls are charged with.
    pub charge: Charge,
    /// The model that made it.
    pub model_used: &'a str,
    /// `model`, `cache`, …
    pub served_by: &'a str,
}

/// Stores a result with its asset, and counts it as finished for whoever asked.
///
/// # Errors
/// [`StoreError::Database`], also if the variant has a result already.
pub async fn insert_result(tx: &mut ServiceTx, render: &Render, result: &NewResult<'_>) -> Result<(), StoreError> {
    let file = format!("{}/{}", result.bucket, result.path);
    sqlx::query!(
        "insert into public.render_results
             (id, org_id, request_id, variant, output_file_path, mime, width, height, bytes, cost_tokens, cost_micro_usd,
              estimated, model_used, served_by, edges_kept)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        result.id,
        render.org_id,
        render.id,
        result.variant,
        file,
        result.mime,
        result.width,
        result.height,
        result.bytes,
        result.charge.tokens,
        result.charge.cost_micro_usd,
        result.charge.estimated,
        result.model_used,
        result.served_by,
        result.edges_kept
    )
    .execute(tx.conn()?)
    .await?;
    sqlx::query!(
        "insert into public.assets
             (org_id, kind, bucket, path, mime, bytes, sha256, created_by_user, created_by_agent, source_table, source_id)
         values ($1, 'render', $2, $3, $4, $5, $6, $7, $8, 'render_results', $9)",
        render.org_id,
        result.bucket,
        result.path,
        result.mime,
        result.bytes,
        result.sha256.as_slice(),
        render.user_id,
        render.agent_id,
        result.id
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Counts `renders` finished for `actor_id`, and charges the organisation for them, once for a request.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn charge(
    tx: &mut ServiceTx,
    render: &Render,
    actor_id: Uuid,
    renders: i64,
    charge: Charge,
) -> Result<(), StoreError> {
    sqlx::query_scalar!("select app.count_renders($1, $2)", actor_id, renders).fetch_one(tx.conn()?).await?;
    sqlx::query!(
        "insert into public.billing_events (org_id, kind, quantity, cost_micro_usd, estimated, source_table, source_id)
         values ($1, 'render', $2, $3, $4, 'render_requests', $5)",
        render.org_id,
        renders,
        charge.cost_micro_usd,
        charge.estimated,
        render.id
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}
