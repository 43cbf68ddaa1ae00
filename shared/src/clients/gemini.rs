//! Google's Gemini API, for pictures made from a picture.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use url::Url;

use super::wire::{Counts, Exchange, LazyHttp, count};
use crate::{
    ai::{AiError, Answered, Metered, Picture, Usage},
    secrets::SecretValue,
};

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
        if exchange.status == 200 { read(model, &exchange.body) } else { Err(refused(&exchange)) }
    }
}

/// In the documented order: a blocked prompt, no candidates, why it stopped, and only then the parts.
fn read(model: &str, body: &Value) -> Result<Answered<Picture>, AiError> {
    let metered = meter(model, body);
    if let Some(reason) = body["promptFeedback"]["blockReason"].as_str() {
        return Err(AiError::Blocked { reason: reason.to_owned(), metered });
    }
    let candidate = body["candidates"].get(0).ok_or(AiError::Malformed { metered })?;
    let finish_reason = candidate["finishReason"].as_str().unwrap_or("FINISH_REASON_UNSPECIFIED");
    match finish_reason {
        "SAFETY"
        | "RECITATION"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_RECITATION"
        | "IMAGE_PROHIBITED_CONTENT" => return Err(AiError::Blocked { reason: finish_reason.to_owned(), metered }),
        "MAX_TOKENS" => return Err(AiError::Truncated { metered }),
        _ => {}
    }
    // Text and pictures interleave, and a part marked as a thought may hold an interim picture.
    let part = parts(body)
        .find(|part| part["thought"] != true && part["inlineData"].is_object())
        .ok_or_else(|| AiError::NoImage { finish_reason: finish_reason.to_owned(), metered })?;
    let mime = part["inlineData"]["mimeType"].as_str().unwrap_or("application/octet-stream").to_owned();
    let data = part["inlineData"]["data"].as_str().unwrap_or_default();
    let bytes = STANDARD.decode(data).map_err(|_| AiError::Malformed { metered })?;
    let provider_request_id = body["responseId"].as_str().map(str::to_owned);
    Ok(Answered { value: Picture { mime, bytes }, metered, provider_request_id })
}

/// Parts of the first candidate.
fn parts(body: &Value) -> impl Iterator<Item = &Value> {
    body["candidates"][0]["content"]["parts"].as_array().into_iter().flatten()
}

/// A count, which may come as a JSON string.
fn number(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => count(&Value::from(text.parse::<u64>().ok()?)),
        other => count(other),
    }
}

/// `promptTokenCount` includes what came from the cache; thoughts are billed as output and counted apart from it.
///
/// Counts that are zero do not come at all, so an absent one is zero only where nothing speaks against it: the answer's own total, its
/// content, or a model that thinks.
fn meter(model: &str, body: &Value) -> Metered {
    let usage = &body["usageMetadata"];
    let mut counts = Counts::new(usage, number);
    let prompt = counts.required("promptTokenCount");
    let cached = counts.optional("cachedContentTokenCount");
    let tools = counts.optional("toolUsePromptTokenCount");
    let thoughts = counts.optional("thoughtsTokenCount");
    let answered = counts.optional("candidatesTokenCount");
    let unreported = counts.unreported.or_else(|| {
        let total = number(&usage["totalTokenCount"]);
        let content = parts(body).next().is_some();
        match total {
            _ if prompt == 0 => Some("promptTokenCount"),
            _ if content && answered == 0 => Some("candidatesTokenCount"),
            Some(total) => (total > prompt + tools + thoughts + answered).then_some("totalTokenCount"),
            None if answered == 0 => Some("candidatesTokenCount"),
            None if thoughts == 0 && thinks(model) => Some("thoughtsTokenCount"),
            None => None,
        }
    });
    let pictures = picture_tokens(usage, answered, parts(body).any(|part| part["inlineData"].is_object()));
    let usage = Usage {
        input: prompt.saturating_sub(cached) + tools,
        output: answered.saturating_sub(pictures) + thoughts,
        cache_read: cached,
        image_output: pictures,
        ..Usage::default()
    };
    Metered { usage, unreported }
}

/// The older models do not think, and a model that is not known may.
fn thinks(model: &str) -> bool {
    !model.starts_with("gemini-2")
}

/// How many of the tokens that were `answered` are those of pictures: as the details say, and all of them where they do not, since
/// a picture's tokens cost most. Text is often not among the details.
fn picture_tokens(usage: &Value, answered: u64, has_picture: bool) -> u64 {
    let details = usage["candidatesTokensDetails"].as_array();
    let other_than_text = details.into_iter().flatten().filter(|detail| detail["modality"] != "TEXT");
    match other_than_text.map(|detail| number(&detail["tokenCount"])).sum::<Option<u64>>() {
        Some(pictures) if pictures > 0 => pictures,
        Some(_) if details.is_some() && !has_picture => 0,
        _ => answered,
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

    const FLASH: &str = "gemini-2.5-flash-image";

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
        let answered = read(FLASH, &body).unwrap();
        assert_eq!(answered.value.bytes, [1, 2, 3]);
        let usage = Usage { input: 270, output: 20, image_output: 1290, ..Usage::default() };
        assert_eq!(answered.metered, Metered { usage, unreported: None });
    }

    #[test]
    fn blocked_prompts_and_answers_without_a_picture_are_told_apart() {
        let blocked = read(FLASH, &json!({ "promptFeedback": { "blockReason": "SAFETY" } })).unwrap_err();
        assert_eq!(blocked, AiError::Blocked { reason: "SAFETY".to_owned(), metered: Metered::UNKNOWN });
        let none = read(FLASH, &json!({ "candidates": [{ "finishReason": "NO_IMAGE" }] })).unwrap_err();
        assert_eq!(none.code(), "answer_without_image");
        let safety = read(FLASH, &json!({ "candidates": [{ "finishReason": "IMAGE_SAFETY" }] })).unwrap_err();
        assert_eq!(safety.code(), "prompt_blocked");
    }

    fn picture(usage: Value) -> Value {
        json!({
            "candidates": [{ "finishReason": "STOP", "content": { "parts": [
                { "inlineData": { "mimeType": "image/png", "data": "AQID" } } ] } }],
            "usageMetadata": usage,
        })
    }

    #[test]
    fn tokens_that_no_detail_explains_are_those_of_the_picture() {
        let check = |details: Value, pictures: u64, text: u64| {
            let usage =
                json!({ "promptTokenCount": 300, "candidatesTokenCount": 1303, "candidatesTokensDetails": details });
            let parts = Usage { input: 300, output: text, image_output: pictures, ..Usage::default() };
            assert_eq!(meter(FLASH, &picture(usage)), Metered { usage: parts, unreported: None }, "{details}");
        };
        check(json!([{ "modality": "IMAGE", "tokenCount": 1290 }]), 1290, 13);
        check(
            json!([{ "modality": "TEXT", "tokenCount": 13 }, { "modality": "IMAGE", "tokenCount": "1290" }]),
            1290,
            13,
        );
        // More than the whole.
        check(json!([{ "modality": "IMAGE", "tokenCount": 2000 }]), 2000, 0);
        for none in [
            json!(null),
            json!([]),
            json!("IMAGE"),
            json!([{ "modality": "TEXT", "tokenCount": 13 }]),
            json!([{ "modality": "IMAGE", "tokenCount": -1 }]),
            json!([{ "modality": "IMAGE" }]),
            json!([{ "modality": "IMAGE", "tokenCount": 1290 }, { "modality": "SMELL", "tokenCount": null }]),
        ] {
            check(none, 1303, 0);
        }
    }

    #[test]
    fn an_absent_count_is_zero_only_where_nothing_speaks_against_it() {
        let check = |model: &str, body: Value, unreported: Option<&str>| {
            assert_eq!(meter(model, &body).unreported, unreported, "{model} {body}");
        };
        let totals = json!({ "promptTokenCount": 300, "candidatesTokenCount": 1290 });
        check(FLASH, picture(totals.clone()), None);
        check("gemini-3-pro-image", picture(totals.clone()), Some("thoughtsTokenCount"));
        let with = |total: u64| {
            let mut usage = totals.clone();
            usage["totalTokenCount"] = json!(total);
            picture(usage)
        };
        check("gemini-3-pro-image", with(1590), None);
        check(FLASH, with(1591), Some("totalTokenCount"));
        let blocked = |usage: Value| json!({ "promptFeedback": { "blockReason": "SAFETY" }, "usageMetadata": usage });
        check(FLASH, blocked(json!({ "promptTokenCount": 300, "totalTokenCount": 300 })), None);
        check(FLASH, blocked(json!({ "promptTokenCount": 300 })), Some("candidatesTokenCount"));
        check(FLASH, picture(json!({ "promptTokenCount": 300, "totalTokenCount": 300 })), Some("candidatesTokenCount"));
        check(
            FLASH,
            picture(json!({ "promptTokenCount": u64::MAX, "candidatesTokenCount": 1290 })),
            Some("promptTokenCount"),
        );
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
