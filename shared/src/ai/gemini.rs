//! Google's Gemini API, for pictures made from a picture.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use url::Url;

use super::{
    AiError, Answered, Picture, Usage,
    wire::{Exchange, LazyHttp},
};
use crate::secrets::SecretValue;

/// A client of `POST /v1beta/models/{model}:generateContent`.
#[derive(Debug)]
pub struct Gemini {
    http: LazyHttp,
    base_url: String,
}

impl Gemini {
    /// A client of the API at `base_url` that waits at most `timeout` for an answer. Connects to nothing yet.
    #[must_use]
    pub fn new(base_url: &Url, timeout: Duration) -> Self {
        Self { http: LazyHttp::new(timeout), base_url: base_url.as_str().trim_end_matches('/').to_owned() }
    }

    /// Has `model` make a picture of `picture` as `prompt` says, in a documented `aspect_ratio` such as `4:3`.
    ///
    /// # Errors
    /// [`AiError`]; a blocked prompt and an answer without a picture come with status 200 and are errors all the same.
    pub async fn render(
        &self,
        key: &SecretValue,
        model: &str,
        prompt: &str,
        picture: &Picture,
        aspect_ratio: &str,
    ) -> Result<Answered<Picture>, AiError> {
        let mut headers = HeaderMap::new();
        let mut secret = HeaderValue::from_str(key.expose()).map_err(|_| AiError::BadKey)?;
        secret.set_sensitive(true);
        headers.insert("x-goog-api-key", secret);
        let body = json!({
            "contents": [{ "role": "user", "parts": [
                { "text": prompt },
                { "inlineData": { "mimeType": picture.mime, "data": STANDARD.encode(&picture.bytes) } },
            ] }],
            "generationConfig": {
                "responseModalities": ["TEXT", "IMAGE"],
                "imageConfig": { "aspectRatio": aspect_ratio },
            },
        });
        let url = format!("{}/v1beta/models/{model}:generateContent", self.base_url);
        let exchange = self.http.post(&url, headers, &body).await?;
        if exchange.status == 200 { read(&exchange.body) } else { Err(refused(&exchange)) }
    }
}

/// In the documented order: a blocked prompt, no candidates, why it stopped, and only then the parts.
fn read(body: &Value) -> Result<Answered<Picture>, AiError> {
    let usage = read_usage(&body["usageMetadata"]);
    if let Some(reason) = body["promptFeedback"]["blockReason"].as_str() {
        return Err(AiError::Blocked { reason: reason.to_owned(), usage });
    }
    let candidate = body["candidates"].get(0).ok_or(AiError::Malformed { usage })?;
    let finish_reason = candidate["finishReason"].as_str().unwrap_or("FINISH_REASON_UNSPECIFIED");
    match finish_reason {
        "SAFETY"
        | "RECITATION"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_RECITATION"
        | "IMAGE_PROHIBITED_CONTENT" => return Err(AiError::Blocked { reason: finish_reason.to_owned(), usage }),
        "MAX_TOKENS" => return Err(AiError::Truncated { usage }),
        _ => {}
    }
    // Text and pictures interleave, and a part marked as a thought may hold an interim picture.
    let part = candidate["content"]["parts"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|part| part["thought"] != true && part["inlineData"].is_object())
        .ok_or_else(|| AiError::NoImage { finish_reason: finish_reason.to_owned(), usage })?;
    let mime = part["inlineData"]["mimeType"].as_str().unwrap_or("application/octet-stream").to_owned();
    let data = part["inlineData"]["data"].as_str().unwrap_or_default();
    let bytes = STANDARD.decode(data).map_err(|_| AiError::Malformed { usage })?;
    let provider_request_id = body["responseId"].as_str().map(str::to_owned);
    Ok(Answered { value: Picture { mime, bytes }, usage, provider_request_id })
}

/// `promptTokenCount` includes what came from the cache; thoughts are billed as output and counted apart from it. Counts
/// may come as JSON strings, and those that are zero do not come at all.
fn read_usage(usage: &Value) -> Usage {
    let count = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default();
    let answered = count(&usage["candidatesTokenCount"]);
    let pictures: u64 = usage["candidatesTokensDetails"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|detail| detail["modality"] == "IMAGE")
        .map(|detail| count(&detail["tokenCount"]))
        .sum::<u64>()
        .min(answered);
    let (prompt, cached) = (count(&usage["promptTokenCount"]), count(&usage["cachedContentTokenCount"]));
    Usage {
        input: prompt.saturating_sub(cached),
        output: (answered - pictures).saturating_add(count(&usage["thoughtsTokenCount"])),
        cache_read: cached,
        image_output: pictures,
        ..Usage::default()
    }
}

fn refused(exchange: &Exchange) -> AiError {
    // Some endpoints wrap the error in an array of one.
    let error = match &exchange.body {
        Value::Array(wrapped) => wrapped.first().map_or(&Value::Null, |first| &first["error"]),
        body => &body["error"],
    };
    let details = || error["details"].as_array().into_iter().flatten();
    let reason = |wanted: &str| details().any(|detail| detail["reason"] == wanted);
    let retry_after = details().find_map(|detail| duration(detail["retryDelay"].as_str()?));
    match exchange.status {
        400 if reason("API_KEY_INVALID") => AiError::BadKey,
        401 | 403 => AiError::BadKey,
        404 => AiError::UnknownModel,
        429 => {
            let daily = details()
                .filter_map(|detail| detail["violations"].as_array())
                .flatten()
                .any(|violation| violation["quotaId"].as_str().is_some_and(|id| id.contains("PerDay")));
            // Spent for the day, however soon it says to come back.
            if daily { AiError::QuotaSpent } else { AiError::RateLimited { retry_after } }
        }
        408 | 504 => AiError::Timeout,
        499 | 500.. => AiError::Overloaded { retry_after },
        _ => AiError::InvalidRequest,
    }
}

/// A proto duration, such as `34s` or `1.5s`.
fn duration(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.strip_suffix('s')?.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thought_is_not_the_picture() {
        let body = json!({
            "candidates": [{ "finishReason": "STOP", "content": { "parts": [
                { "thought": true, "inlineData": { "mimeType": "image/png", "data": "AAAA" } },
                { "text": "Here" },
                { "inlineData": { "mimeType": "image/png", "data": "AQID" } },
            ] } }],
            "usageMetadata": { "promptTokenCount": "270", "candidatesTokenCount": 1303, "thoughtsTokenCount": 7,
                "candidatesTokensDetails": [{ "modality": "IMAGE", "tokenCount": 1290 }] },
        });
        let answered = read(&body).unwrap();
        assert_eq!(answered.value.bytes, [1, 2, 3]);
        assert_eq!(answered.usage, Usage { input: 270, output: 20, image_output: 1290, ..Usage::default() });
    }

    #[test]
    fn blocked_prompts_and_answers_without_a_picture_are_told_apart() {
        let blocked = read(&json!({ "promptFeedback": { "blockReason": "SAFETY" } })).unwrap_err();
        assert_eq!(blocked, AiError::Blocked { reason: "SAFETY".to_owned(), usage: Usage::default() });
        let none = read(&json!({ "candidates": [{ "finishReason": "NO_IMAGE" }] })).unwrap_err();
        assert_eq!(none.code(), "answer_without_image");
        let safety = read(&json!({ "candidates": [{ "finishReason": "IMAGE_SAFETY" }] })).unwrap_err();
        assert_eq!(safety.code(), "prompt_blocked");
    }

    #[test]
    fn a_daily_quota_is_spent_however_soon_it_says_to_come_back() {
        let of = |id: &str| {
            refused(&Exchange {
                status: 429,
                headers: HeaderMap::new(),
                body: json!([{ "error": { "details": [
                    { "violations": [{ "quotaId": id }] }, { "retryDelay": "1.5s" } ] } }]),
            })
        };
        assert_eq!(of("GenerateRequestsPerDayPerProject"), AiError::QuotaSpent);
        let minute = of("GenerateRequestsPerMinutePerProject");
        assert_eq!(minute, AiError::RateLimited { retry_after: Some(Duration::from_millis(1500)) });
    }

    #[test]
    fn a_bad_key_is_a_400() {
        let body = json!({ "error": { "code": 400, "details": [{ "reason": "API_KEY_INVALID" }] } });
        assert_eq!(refused(&Exchange { status: 400, headers: HeaderMap::new(), body }), AiError::BadKey);
    }
}
