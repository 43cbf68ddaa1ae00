//! Anthropic's Messages API: structured answers that conform to the schema asked for.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{Canned, Key, Models};

/// What is served at first. An alias such as `claude-haiku-latest` is none.
pub(crate) const MODELS: [&str; 8] = [
    "claude-fable-5-1",
    "claude-haiku-4-5-20251001",
    "claude-haiku-5-5",
    "claude-opus-4-8",
    "claude-opus-5",
    "claude-opus-5-5",
    "claude-sonnet-5",
    "claude-sonnet-5-5",
];

struct Anthropic {
    key: Key,
    models: Models,
}

pub(crate) fn router(key: Key, models: Models) -> Router {
    Router::new().route("/v1/messages", post(messages)).with_state(Arc::new(Anthropic { key, models }))
}

fn refuse(status: StatusCode, kind: &str, message: &str) -> Response {
    let body = json!({
        "type": "error", "error": { "type": kind, "message": message }, "request_id": format!("req_{}", Uuid::new_v4().simple()),
    });
    (status, Json(body)).into_response()
}

async fn messages(State(anthropic): State<Arc<Anthropic>>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if headers.get("x-api-key").is_none_or(|key| key.as_bytes() != anthropic.key.get().as_bytes()) {
        return refuse(StatusCode::UNAUTHORIZED, "authentication_error", "invalid x-api-key");
    }
    if !headers.contains_key("anthropic-version") {
        return refuse(StatusCode::BAD_REQUEST, "invalid_request_error", "anthropic-version: header is required");
    }
    let (Some(model), Some(messages), Some(_)) =
        (body["model"].as_str(), body["messages"].as_array(), body["max_tokens"].as_u64())
    else {
        return refuse(StatusCode::BAD_REQUEST, "invalid_request_error", "model, max_tokens and messages are required");
    };
    if !anthropic.models.has(model) {
        return refuse(StatusCode::NOT_FOUND, "not_found_error", &format!("model: {model}"));
    }
    let prompt = messages.iter().filter_map(|message| message["content"].as_str()).collect::<Vec<_>>().join("\n");
    let format = &body["output_config"]["format"];
    let text = if format["type"] == "json_schema" {
        let properties = &format["schema"]["properties"];
        if properties["bullets"].is_object() {
            summarise(&prompt).to_string()
        } else if properties["scores"].is_object() {
            score(&prompt).to_string()
        } else if properties["language"].is_object() {
            json!({ "text": "Tack för ditt meddelande! Vi återkommer så snart vi kan.", "language": "sv" }).to_string()
        } else {
            conform(&format["schema"], &prompt).to_string()
        }
    } else {
        describe(&prompt)
    };
    let read = prompt.len() + body["system"].as_str().map_or(0, str::len);
    let answer = json!({
        "id": format!("msg_{}", Uuid::new_v4().simple()), "type": "message", "role": "assistant", "model": model,
        "content": [{ "type": "text", "text": text }], "stop_reason": "end_turn", "stop_sequence": null, "stop_details": null,
        "usage": {
            // About four characters a token, as English has.
            "input_tokens": read.div_ceil(4), "output_tokens": text.len().div_ceil(4),
            "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "cache_creation": { "ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0 },
            "output_tokens_details": { "thinking_tokens": 0 }, "service_tier": "standard",
        },
    });
    ([("request-id", format!("req_{}", Uuid::new_v4().simple()))], Json(answer)).into_response()
}

/// An object with every property the schema requires, told from the prompt.
fn conform(schema: &Value, prompt: &str) -> Value {
    let mut object = Map::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let value = match property["type"].as_str() {
            Some("string") if name == "prompt" => json!(describe(prompt)),
            Some("string") if name == "decision" => json!(format!("Chosen for the wishes given: {}", describe(prompt))),
            Some("string") => json!("people, text, distorted geometry"),
            Some("integer" | "number") => json!(1),
            Some("boolean") => json!(true),
            Some("array") => json!([]),
            _ => Value::Null,
        };
        object.insert(name.clone(), value);
    }
    Value::Object(object)
}

/// A summary of the figures in the prompt, each told as it is and named by its id.
fn summarise(prompt: &str) -> Value {
    let figures = prompt.find('{').and_then(|start| {
        let mut values = serde_json::Deserializer::from_str(&prompt[start..]).into_iter::<Value>();
        values.next()?.ok()
    });
    let figures = figures.map_or(Value::Null, |mut told| told["figures"].take());
    let mut said = figures.as_array().into_iter().flatten().filter_map(|figure| {
        let (id, what, text) = (figure["id"].as_str()?, figure["what"].as_str()?, figure["text"].as_str()?);
        Some(json!({ "text": format!("Analyst: {what}: {text}."), "figures": [id] }))
    });
    let headline = said.next().unwrap_or_else(|| json!({ "text": "Nothing to tell.", "figures": [] }));
    json!({ "headline": headline, "bullets": said.take(4).collect::<Vec<_>>() })
}

/// A score for each message of the prompt: one that is the same each time, and no judgement.
fn score(prompt: &str) -> Value {
    let messages = prompt.find("\n[").and_then(|start| {
        let mut values = serde_json::Deserializer::from_str(&prompt[start..]).into_iter::<Value>();
        values.next()?.ok()
    });
    let scores = messages.iter().flat_map(|messages| messages.as_array().into_iter().flatten()).map(|message| {
        let length = message["text"].as_str().map_or(0, str::len);
        json!({ "id": message["id"], "score": if length % 2 == 0 { 0.5 } else { -0.5 } })
    });
    json!({ "scores": scores.collect::<Vec<_>>() })
}

/// The wishes in the prompt, as one instruction.
fn describe(prompt: &str) -> String {
    let wishes = prompt.find('{').and_then(|start| serde_json::from_str::<Map<String, Value>>(&prompt[start..]).ok());
    let told: Vec<String> =
        wishes.into_iter().flatten().filter_map(|(name, value)| Some(format!("{name}: {}", value.as_str()?))).collect();
    format!("Redecorate this room, keeping its geometry. {}", told.join("; "))
}

/// What it can be told to answer, by name, as the API documents each.
#[must_use]
pub fn faults() -> Vec<(&'static str, Canned)> {
    let error = |kind: &str, message: &str| json!({ "type": "error", "error": { "type": kind, "message": message }, "request_id": "req_sandbox" });
    let message = |stop: &str, content: Value| {
        json!({
            "id": "msg_sandbox", "type": "message", "role": "assistant", "model": "claude-haiku-5-5", "content": content,
            "stop_reason": stop, "stop_sequence": null,
            "stop_details": if stop == "refusal" { json!({ "type": "refusal", "category": null }) } else { Value::Null },
            "usage": { "input_tokens": 200, "output_tokens": 20, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0 },
        })
    };
    let text = |text: &str| json!([{ "type": "text", "text": text }]);
    vec![
        ("rate-limit", Canned::Hinted(429, vec![("retry-after", "1")], error("rate_limit_error", "rate limited"))),
        ("spend-cap", Canned::Answer(429, error("rate_limit_error", "the monthly limit is reached"))),
        (
            "spend-limit",
            Canned::Answer(400, error("invalid_request_error", "You have reached your specified API usage limits.")),
        ),
        ("overloaded", Canned::Answer(529, error("overloaded_error", "Overloaded"))),
        ("api-error", Canned::Answer(500, error("api_error", "Internal server error"))),
        ("timeout", Canned::Answer(504, error("timeout_error", "timed out"))),
        ("bad-key", Canned::Answer(401, error("authentication_error", "invalid x-api-key"))),
        ("unknown-model", Canned::Answer(404, error("not_found_error", "model: claude-none"))),
        ("refusal", Canned::Answer(200, message("refusal", json!([])))),
        ("truncated", Canned::Answer(200, message("max_tokens", text("{\"prompt\": \"A room wi")))),
        ("malformed", Canned::Answer(200, message("end_turn", text("Here is your brief: a lovely room.")))),
        (
            "wrong-number",
            Canned::Answer(
                200,
                message(
                    "end_turn",
                    text(
                        r#"{"headline": {"text": "New leads rose to 987654.", "figures": ["total.current"]}, "bullets": []}"#,
                    ),
                ),
            ),
        ),
        ("incomplete", Canned::Answer(200, message("end_turn", text("{\"prompt\": \"a room\"}")))),
        ("empty", Canned::Answer(200, message("end_turn", json!([{ "type": "thinking", "thinking": "…" }])))),
        ("garbage", Canned::Garbage(b"{\"id\": \"msg_\xff\xfe, ")),
        ("no-usage", Canned::Changed(vec![("/usage", None)])),
    ]
}
