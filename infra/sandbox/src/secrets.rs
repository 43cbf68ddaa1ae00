//! AWS Secrets Manager, as far as one document goes: its current and its previous version.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};

/// The document's name.
pub const ARN: &str = "arn:aws:secretsmanager:eu-north-1:000000000000:secret:spine-local";

type Document = BTreeMap<String, String>;

/// One secret document. Names are lower case.
#[derive(Debug, Default)]
pub struct SecretStore(Mutex<(Document, Option<Document>)>);

impl SecretStore {
    fn versions(&self) -> MutexGuard<'_, (Document, Option<Document>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a value as if it had always been so.
    pub fn set(&self, name: &str, value: &str) {
        self.versions().0.insert(name.to_ascii_lowercase(), value.to_owned());
    }

    /// The current value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        self.versions().0.get(&name.to_ascii_lowercase()).cloned()
    }

    /// Stores a new version with this value changed; the one before becomes the previous version.
    pub fn rotate(&self, name: &str, value: &str) {
        let mut versions = self.versions();
        let before = versions.0.clone();
        versions.0.insert(name.to_ascii_lowercase(), value.to_owned());
        versions.1 = Some(before);
    }
}

pub(crate) fn router(store: Arc<SecretStore>) -> Router {
    Router::new().route("/", post(answer)).with_state(store)
}

async fn answer(State(store): State<Arc<SecretStore>>, headers: HeaderMap, body: Bytes) -> Response {
    // The SDK names its own JSON type, which is why the body is read here.
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let refuse =
        |kind: &str| (StatusCode::BAD_REQUEST, Json(json!({ "__type": kind, "Message": kind }))).into_response();
    if headers.get("x-amz-target").is_none_or(|target| target != "secretsmanager.GetSecretValue") {
        return refuse("InvalidRequestException");
    }
    let versions = store.versions();
    let stage = request["VersionStage"].as_str().unwrap_or("AWSCURRENT");
    let document = match stage {
        "AWSPREVIOUS" => versions.1.as_ref(),
        _ => Some(&versions.0),
    };
    match document {
        Some(document) if request["SecretId"] == ARN => {
            let text = json!(document).to_string();
            Json(json!({ "ARN": ARN, "Name": "spine-local", "SecretString": text, "VersionStages": [stage] }))
                .into_response()
        }
        _ => refuse("ResourceNotFoundException"),
    }
}
