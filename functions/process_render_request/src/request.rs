//! What clients send, and what it becomes. No I/O.

use serde::Deserialize;
use shared::{http::ApiError, store::renders::Parameters};
use uuid::Uuid;

use crate::header::MAX_BYTES;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUploadBody {
    content_type: String,
    bytes: u64,
}

/// A photo about to be uploaded.
#[derive(Debug)]
pub(crate) struct NewUpload {
    pub(crate) content_type: &'static str,
}

impl NewUpload {
    pub(crate) fn parse(body: &NewUploadBody) -> Result<Self, ApiError> {
        let content_type = match body.content_type.as_str() {
            "image/jpeg" => "image/jpeg",
            "image/png" => "image/png",
            "image/webp" => "image/webp",
            _ => {
                return Err(ApiError::unprocessable(
                    "photo_type_unsupported",
                    "content_type must be image/jpeg, image/png or image/webp; export a HEIC photo as JPEG.",
                ));
            }
        };
        let most = MAX_BYTES as u64;
        if !(1..=most).contains(&body.bytes) {
            return Err(ApiError::unprocessable(
                "photo_size_invalid",
                format!("bytes must be the size of the file, from 1 to {most}."),
            ));
        }
        Ok(Self { content_type })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRenderBody {
    project_id: Uuid,
    upload_id: Option<Uuid>,
    parent_id: Option<Uuid>,
    #[serde(default)]
    parameters: ParametersBody,
    model: Option<String>,
    variants: Option<i16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParametersBody {
    style: Option<String>,
    furnishings: Option<String>,
    lighting: Option<String>,
    walls: Option<String>,
    flooring: Option<String>,
    exterior: Option<String>,
}

/// A render to be admitted.
#[derive(Debug)]
pub(crate) struct NewRenderRequest {
    pub(crate) project_id: Uuid,
    /// The photo; without one, the parent's result is what the render starts from.
    pub(crate) upload_id: Option<Uuid>,
    pub(crate) parent_id: Option<Uuid>,
    pub(crate) parameters: Parameters,
    /// The image model, if one is named; whether there is such a one, the database knows.
    pub(crate) model: Option<String>,
    pub(crate) variants: i16,
}

impl NewRenderRequest {
    pub(crate) fn parse(body: NewRenderBody) -> Result<Self, ApiError> {
        if body.upload_id.is_none() && body.parent_id.is_none() {
            return Err(ApiError::unprocessable(
                "photo_missing",
                "Give upload_id (from POST /v1/uploads) or parent_id (an earlier render to go on from).",
            ));
        }
        // Whether there is such a model the database knows; what is no plain id is none.
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if body.model.as_ref().is_some_and(|model| !(1..=100).contains(&model.len()) || !model.chars().all(plain)) {
            return Err(ApiError::unprocessable("model_unknown", "model must be the id of an image model."));
        }
        let variants = body.variants.unwrap_or(1);
        if !(1..=4).contains(&variants) {
            return Err(ApiError::unprocessable("variants_invalid", "variants must be from 1 to 4."));
        }
        let wished = body.parameters;
        let parameters = Parameters {
            style: wish("style", wished.style)?,
            furnishings: wish("furnishings", wished.furnishings)?,
            lighting: wish("lighting", wished.lighting)?,
            walls: wish("walls", wished.walls)?,
            flooring: wish("flooring", wished.flooring)?,
            exterior: wish("exterior", wished.exterior)?,
        };
        if parameters == Parameters::default() {
            return Err(ApiError::unprocessable(
                "parameters_empty",
                "Wish for something: style, furnishings, lighting, walls, flooring or exterior.",
            ));
        }
        Ok(Self {
            project_id: body.project_id,
            upload_id: body.upload_id,
            parent_id: body.parent_id,
            parameters,
            model: body.model,
            variants,
        })
    }
}

/// Trims a wish; empty is absent. Control characters are refused: they are nobody's wish, and Postgres takes no NUL.
fn wish(name: &str, value: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(value) = value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    if value.chars().count() > 500 || value.chars().any(|c| c.is_control() && c != '\n') {
        return Err(ApiError::unprocessable(
            "parameter_invalid",
            format!("parameters.{name} takes up to 500 characters of plain text."),
        ));
    }
    Ok(Some(value))
}

/// A path segment that should be an id: what is none is nobody's.
pub(crate) fn id(text: &str, entity: &str) -> Result<Uuid, ApiError> {
    Uuid::try_parse(text).map_err(|_| ApiError::not_found(entity))
}
