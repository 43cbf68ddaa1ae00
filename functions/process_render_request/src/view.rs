//! What clients get to see.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use shared::{
    http::ApiError,
    objects::{ObjectPath, Objects, SignedUrl},
    store::renders::{Render, StoredResult},
};
use uuid::Uuid;

use crate::{header::MAX_BYTES, outcome::storage_unavailable};

/// Where and how to put a photo.
#[derive(Debug, Serialize)]
pub(crate) struct UploadView {
    upload_id: Uuid,
    method: &'static str,
    url: String,
    headers: BTreeMap<&'static str, &'static str>,
    expires_at: DateTime<Utc>,
    max_bytes: usize,
}

impl UploadView {
    pub(crate) fn new(upload_id: Uuid, content_type: &'static str, signed: SignedUrl) -> Self {
        Self {
            upload_id,
            method: "PUT",
            url: signed.url.to_string(),
            headers: BTreeMap::from([("content-type", content_type)]),
            expires_at: signed.expires_at,
            max_bytes: MAX_BYTES,
        }
    }
}

/// An admitted request: where its job stands and what it waits for.
#[derive(Debug, Serialize)]
pub(crate) struct AdmittedView {
    id: Uuid,
    status: String,
    job: JobLink,
    waiting: Option<Value>,
}

#[derive(Debug, Serialize)]
struct JobLink {
    id: Uuid,
    status: Option<String>,
    href: String,
}

impl JobLink {
    fn of(render: &Render) -> Self {
        Self { id: render.job_id, status: render.job_status.clone(), href: format!("/v1/jobs/{}", render.job_id) }
    }
}

impl From<&Render> for AdmittedView {
    fn from(render: &Render) -> Self {
        Self { id: render.id, status: render.status.clone(), job: JobLink::of(render), waiting: render.waiting.clone() }
    }
}

impl AdmittedView {
    pub(crate) fn waiting_until(&self) -> Option<DateTime<Utc>> {
        until(self.waiting.as_ref())
    }
}

fn until(waiting: Option<&Value>) -> Option<DateTime<Utc>> {
    waiting?.get("until")?.as_str()?.parse().ok()
}

/// A request with its results.
#[derive(Debug, Serialize)]
pub(crate) struct RenderView {
    id: Uuid,
    project_id: Uuid,
    parent_id: Option<Uuid>,
    status: String,
    model: String,
    variants: i16,
    parameters: Value,
    created_at: DateTime<Utc>,
    completed_at: Option<DateTime<Utc>>,
    job: JobLink,
    waiting: Option<Value>,
    error: Option<Value>,
    cost_micro_usd: i64,
    estimated: bool,
    results: Vec<ResultView>,
}

#[derive(Debug, Serialize)]
struct ResultView {
    id: Uuid,
    url: String,
    expires_at: DateTime<Utc>,
    mime: String,
    width: i32,
    height: i32,
    bytes: i64,
    model_used: String,
    served_by: String,
    geometry: Option<GeometryView>,
    cost_micro_usd: i64,
    cost_tokens: i64,
    estimated: bool,
}

/// How much of the photo's room a result has kept.
#[derive(Debug, Serialize)]
struct GeometryView {
    measure: &'static str,
    value: f32,
}

impl RenderView {
    /// Signs a URL for each result.
    pub(crate) async fn new(objects: &Objects, render: Render, now: DateTime<Utc>) -> Result<Self, ApiError> {
        let stored: Vec<StoredResult> = serde_json::from_value(render.results.clone()).map_err(ApiError::internal)?;
        let objects = objects.for_org(render.org_id);
        let mut results = Vec::with_capacity(stored.len());
        for result in stored {
            let path = ObjectPath::parse(render.org_id, &result.output_file_path).map_err(ApiError::internal)?;
            let signed = objects.download_url(&path, now).await.map_err(storage_unavailable)?;
            results.push(ResultView {
                id: result.id,
                url: signed.url.to_string(),
                expires_at: signed.expires_at,
                mime: result.mime,
                width: result.width,
                height: result.height,
                bytes: result.bytes,
                model_used: result.model_used,
                served_by: result.served_by,
                geometry: result.edges_kept.map(|value| GeometryView { measure: "edges_kept", value }),
                cost_micro_usd: result.cost_micro_usd,
                cost_tokens: result.cost_tokens,
                estimated: result.estimated,
            });
        }
        Ok(Self {
            job: JobLink::of(&render),
            parameters: json!({
                "style": render.style, "furnishings": render.furnishings, "lighting": render.lighting,
                "walls": render.walls, "flooring": render.flooring, "exterior": render.exterior,
            }),
            id: render.id,
            project_id: render.project_id,
            parent_id: render.parent_id,
            status: render.status,
            model: render.model,
            variants: render.variants,
            created_at: render.created_at,
            completed_at: render.completed_at,
            waiting: render.waiting,
            error: render.error,
            cost_micro_usd: results.iter().map(|result| result.cost_micro_usd).sum(),
            estimated: results.iter().any(|result| result.estimated),
            results,
        })
    }

    pub(crate) fn waiting_until(&self) -> Option<DateTime<Utc>> {
        until(self.waiting.as_ref())
    }
}
