//! Anthropic's Messages API, for answers of a given JSON shape.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use url::Url;

use super::wire::{self, Counts, Exchange, LazyHttp, count};
use crate::{
    ai::{AiError, Answered, Metered, Usage},
    secrets::SecretValue,
};

/// The version of the API this client speaks.
const VERSION: &str = "2023-06-01";

/// A client of `POST /v1/messages`.
#[derive(Debug)]
pub struct Claude {
    http: LazyHttp,
    url: String,
}

impl Claude {
    /// A client of the API at `base_url` that waits at most `timeout` for an answer. Connects to nothing yet.
    #[must_use]
    pub fn new(base_url: &Url, timeout: Duration) -> Self {
        Self { http: LazyHttp::new(timeout), url: format!("{}/v1/messages", base_url.as_str().trim_end_matches('/')) }
    }

    /// Asks `model` for a JSON object that conforms to `schema`.
    ///
    /// No sampling parameters are sent: models that always think refuse them.
    ///
    /// # Errors
    /// [`AiError`]; a refusal and a cut-off answer come with status 200 and are errors all the same.
    pub async fn answer(
        &self,
        key: &SecretValue,
        model: &str,
        system: &str,
        prompt: &str,
        schema: &Value,
        max_tokens: u32,
    ) -> Result<Answered<Value>, AiError> {
        let mut headers = HeaderMap::new();
        let mut secret = HeaderValue::from_str(key.expose()).map_err(|_| AiError::BadKey)?;
        secret.set_sensitive(true);
        headers.insert("x-api-key", secret);
        headers.insert("anthropic-version", HeaderValue::from_static(VERSION));
        let body = json!({
            "model": model,
            "max_tokens": max_tokens,
            "system": system,
            "messages": [{ "role": "user", "content": prompt }],
            "output_config": { "format": { "type": "json_schema", "schema": schema } },
        });
        let exchange = self.http.post(&self.url, headers, &body).await?;
        if exchange.status == 200 { read(&exchange) } else { Err(refused(&exchange)) }
    }
}

fn read(exchange: &Exchange) -> Result<Answered<Value>, AiError> {
    let body = &exchange.body;
    let metered = meter(body);
    match body["stop_reason"].as_str() {
        Some("refusal") => return Err(AiError::Refused { metered }),
        Some("max_tokens" | "model_context_window_exceeded") => return Err(AiError::Truncated { metered }),
        _ => {}
    }
    // Thinking may come first: the block is found by its type.
    let text = body["content"]
        .as_array()
        .and_then(|blocks| blocks.iter().find(|block| block["type"] == "text"))
        .and_then(|block| block["text"].as_str())
        .ok_or(AiError::Malformed { metered })?;
    let value = serde_json::from_str(text).map_err(|_| AiError::Malformed { metered })?;
    let provider_request_id =
        exchange.headers.get("request-id").and_then(|id| id.to_str().ok()).or_else(|| body["id"].as_str());
    Ok(Answered { value, metered, provider_request_id: provider_request_id.map(str::to_owned) })
}

/// `input_tokens` excludes the tokens read from or written to the cache, and each count is there even where it is zero. A field beside
/// them says which cache was written to; without it, the dearer one is assumed.
fn meter(body: &Value) -> Metered {
    let usage = &body["usage"];
    let mut counts = Counts::new(usage, count);
    let input = counts.required("input_tokens");
    let output = counts.required("output_tokens");
    let written = counts.required("cache_creation_input_tokens");
    let cache_read = counts.required("cache_read_input_tokens");
    let split = |name: &str| count(&usage["cache_creation"][name]);
    let (five_minutes, hour) = match (split("ephemeral_5m_input_tokens"), split("ephemeral_1h_input_tokens")) {
        (Some(five_minutes), Some(hour)) => (five_minutes.max(written.saturating_sub(hour)), hour),
        _ => (0, written),
    };
    let usage =
        Usage { input, output, cache_read, cache_write_5m: five_minutes, cache_write_1h: hour, image_output: 0 };
    // A prompt has tokens, and so has content.
    let wrote = body["content"].as_array().is_some_and(|blocks| !blocks.is_empty());
    let unreported = counts.unreported.or(match usage {
        _ if usage.prompt_tokens() == 0 => Some("input_tokens"),
        _ if wrote && output == 0 => Some("output_tokens"),
        _ => None,
    });
    Metered { usage, unreported }
}

fn refused(exchange: &Exchange) -> AiError {
    let kind = exchange.body["error"]["type"].as_str().unwrap_or_default();
    let message = exchange.body["error"]["message"].as_str().unwrap_or_default();
    let retry_after = wire::retry_after(&exchange.headers);
    match (exchange.status, kind) {
        (401 | 403, _) => AiError::BadKey,
        (402, _) => AiError::SpendCap,
        // A spend limit set at the provider is a 400; only its text tells it from a wrong request.
        (400, _) if message.contains("usage limit") || message.contains("spend") => AiError::SpendCap,
        (404, _) => AiError::UnknownModel,
        // The tier's monthly cap is a 429 that says no time to come back.
        (429, _) if retry_after.is_none() => AiError::SpendCap,
        (429, _) => AiError::RateLimited { retry_after },
        (408 | 504, _) => AiError::Timeout,
        (409 | 500.., _) => AiError::Overloaded { retry_after },
        _ => AiError::InvalidRequest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(status: u16, body: Value) -> Exchange {
        Exchange { status, headers: HeaderMap::new(), body }
    }

    #[test]
    fn the_answer_is_found_behind_thinking() {
        let body = json!({
            "id": "msg_1", "stop_reason": "end_turn", "future_key": 1,
            "content": [{"type": "thinking", "thinking": "…"}, {"type": "text", "text": "{\"a\":1}"}],
            "usage": {"input_tokens": 12, "output_tokens": 5, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 4,
                      "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10}},
        });
        let answered = read(&exchange(200, body)).unwrap();
        assert_eq!(answered.value, json!({"a": 1}));
        let usage =
            Usage { input: 12, output: 5, cache_read: 4, cache_write_5m: 20, cache_write_1h: 10, image_output: 0 };
        assert_eq!(answered.metered, Metered { usage, unreported: None });
    }

    #[test]
    fn a_refusal_and_a_cut_off_answer_are_errors_that_cost() {
        let body = |stop: &str| {
            json!({"stop_reason": stop, "content": [{"type": "text", "text": "{}"}], "usage": {
                "input_tokens": 3, "output_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}})
        };
        let usage = Usage { input: 3, output: 1, ..Usage::default() };
        let metered = Metered { usage, unreported: None };
        assert_eq!(read(&exchange(200, body("refusal"))).unwrap_err(), AiError::Refused { metered });
        assert_eq!(read(&exchange(200, body("max_tokens"))).unwrap_err(), AiError::Truncated { metered });
    }

    #[test]
    fn tokens_written_to_a_cache_that_is_not_named_went_to_the_dearer_one() {
        let body = json!({"usage": {
            "input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 0}});
        let usage = Usage { input: 1, output: 1, cache_write_1h: 30, ..Usage::default() };
        assert_eq!(meter(&body), Metered { usage, unreported: None });
    }

    #[test]
    fn statuses_become_outcomes() {
        let of = |status, kind: &str| refused(&exchange(status, json!({"error": {"type": kind, "message": "m"}})));
        assert_eq!(of(401, "authentication_error"), AiError::BadKey);
        assert_eq!(of(404, "not_found_error"), AiError::UnknownModel);
        assert_eq!(of(429, "rate_limit_error"), AiError::SpendCap);
        assert_eq!(of(529, "overloaded_error"), AiError::Overloaded { retry_after: None });
        assert_eq!(of(400, "invalid_request_error"), AiError::InvalidRequest);
    }
}
