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
    store::models::Model,
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

    /// Has `model` make a picture of `picture` as `prompt` says, in a documented `aspect_ratio` such as `4:3` and the size that is set for
    /// the model: newer ones take both, older ones only the ratio.
    ///
    /// # Errors
    /// [`AiError`]; a blocked prompt and an answer without a picture come with status 200 and are errors all the same.
    pub async fn render(
        &self,
        key: &SecretValue,
        model: &Model,
        prompt: &str,
        picture: &Picture,
        aspect_ratio: &str,
    ) -> Result<Answered<Picture>, AiError> {
        let mut headers = HeaderMap::new();
        let mut secret = HeaderValue::from_str(key.expose()).map_err(|_| AiError::BadKey)?;
        secret.set_sensitive(true);
        headers.insert("x-goog-api-key", secret);
        let mut image_config = json!({ "aspectRatio": aspect_ratio });
        if let Some(size) = &model.image_size {
            image_config["imageSize"] = json!(size);
        }
        let body = json!({
            "contents": [{ "role": "user", "parts": [
                { "text": prompt },
                { "inlineData": { "mimeType": picture.mime, "data": STANDARD.encode(&picture.bytes) } },
            ] }],
            "generationConfig": {
                "responseModalities": ["TEXT", "IMAGE"],
                "imageConfig": image_config,
            },
        });
        let url = format!("{}/v1beta/models/{}:generateContent", self.base_url, model.model);
        let exchange = self.http.post(&url, headers, &body).await?;
        if exchange.status == 200 { read(model.thinks, &exchange.body) } else { Err(refused(&exchange)) }
    }
}

/// In the documented order: a blocked prompt, no candidates, why it stopped, and only then the parts.
fn read(thinks: bool, body: &Value) -> Result<Answered<Picture>, AiError> {
    let metered = meter(thinks, body);
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
    let (mime, data) = parts(body)
        .filter(|part| part["thought"] != true)
        .find_map(inline)
        .ok_or_else(|| AiError::NoImage { finish_reason: finish_reason.to_owned(), metered })?;
    let bytes = STANDARD.decode(data).map_err(|_| AiError::Malformed { metered })?;
    let provider_request_id = body["responseId"].as_str().map(str::to_owned);
    Ok(Answered { value: Picture { mime: mime.to_owned(), bytes }, metered, provider_request_id })
}

/// The type and the data of the picture in a part. Gateways make a `data:` URL within text of it.
fn inline(part: &Value) -> Option<(&str, &str)> {
    let inline = &part["inlineData"];
    if inline.is_object() {
        let mime = inline["mimeType"].as_str().unwrap_or("application/octet-stream");
        return Some((mime, inline["data"].as_str().unwrap_or_default()));
    }
    let text = part["text"].as_str()?;
    let (_, url) = text.split_once("data:image/")?;
    let (kind, data) = url.split_once(";base64,")?;
    let mime = match kind {
        "png" => "image/png",
        "jpeg" | "jpg" => "image/jpeg",
        "webp" => "image/webp",
        _ => return None,
    };
    let end = data.find(|c: char| !c.is_ascii_alphanumeric() && !"+/=".contains(c)).unwrap_or(data.len());
    Some((mime, &data[..end]))
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
fn meter(thinks: bool, body: &Value) -> Metered {
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
            None if thoughts == 0 && thinks => Some("thoughtsTokenCount"),
            None => None,
        }
    });
    let pictures = picture_tokens(usage, answered, parts(body).any(|part| inline(part).is_some()));
    let usage = Usage {
        input: prompt.saturating_sub(cached) + tools,
        output: answered.saturating_sub(pictures) + thoughts,
        cache_read: cached,
        image_output: pictures,
        ..Usage::default()
    };
    Metered { usage, unreported }
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

    /// Of a model that does not think, and of one that may.
    const PLAIN: bool = false;
    const THINKING: bool = true;

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
        let answered = read(PLAIN, &body).unwrap();
        assert_eq!(answered.value.bytes, [1, 2, 3]);
        let usage = Usage { input: 270, output: 20, image_output: 1290, ..Usage::default() };
        assert_eq!(answered.metered, Metered { usage, unreported: None });
    }

    #[test]
    fn a_data_url_within_text_is_the_picture_and_paid_for_as_one() {
        let body = |text: &str, thought: bool| {
            json!({
                "candidates": [{ "finishReason": "STOP", "content": { "parts": [{ "text": text, "thought": thought }] } }],
                "usageMetadata": { "promptTokenCount": 270, "candidatesTokenCount": 1303 },
            })
        };
        for (text, mime) in [
            ("Here: ![room](data:image/png;base64,AQID) as asked.", "image/png"),
            ("data:image/jpeg;base64,AQID", "image/jpeg"),
        ] {
            let answered = read(PLAIN, &body(text, false)).unwrap();
            assert_eq!((answered.value.mime.as_str(), answered.value.bytes.as_slice()), (mime, &[1, 2, 3][..]));
            let usage = Usage { input: 270, image_output: 1303, ..Usage::default() };
            assert_eq!(answered.metered, Metered { usage, unreported: None });
        }
        for none in [
            "No data: image/png;base64,AQID",
            "data:image/svg+xml;base64,AQID",
            "data:text/html;base64,AQID",
            "data:image/png",
        ] {
            assert_eq!(read(PLAIN, &body(none, false)).unwrap_err().code(), "answer_without_image", "{none}");
        }
        let interim = read(PLAIN, &body("data:image/png;base64,AQID", true)).unwrap_err();
        assert_eq!(interim.code(), "answer_without_image");
        let broken = read(PLAIN, &body("data:image/png;base64,AQI", false)).unwrap_err();
        assert_eq!(broken.code(), "answer_malformed");
    }

    #[test]
    fn blocked_prompts_and_answers_without_a_picture_are_told_apart() {
        let blocked = read(PLAIN, &json!({ "promptFeedback": { "blockReason": "SAFETY" } })).unwrap_err();
        assert_eq!(blocked, AiError::Blocked { reason: "SAFETY".to_owned(), metered: Metered::UNKNOWN });
        let none = read(PLAIN, &json!({ "candidates": [{ "finishReason": "NO_IMAGE" }] })).unwrap_err();
        assert_eq!(none.code(), "answer_without_image");
        let safety = read(PLAIN, &json!({ "candidates": [{ "finishReason": "IMAGE_SAFETY" }] })).unwrap_err();
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
            assert_eq!(meter(PLAIN, &picture(usage)), Metered { usage: parts, unreported: None }, "{details}");
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
        let check = |thinks: bool, body: Value, unreported: Option<&str>| {
            assert_eq!(meter(thinks, &body).unreported, unreported, "{thinks} {body}");
        };
        let totals = json!({ "promptTokenCount": 300, "candidatesTokenCount": 1290 });
        check(PLAIN, picture(totals.clone()), None);
        check(THINKING, picture(totals.clone()), Some("thoughtsTokenCount"));
        let with = |total: u64| {
            let mut usage = totals.clone();
            usage["totalTokenCount"] = json!(total);
            picture(usage)
        };
        check(THINKING, with(1590), None);
        check(PLAIN, with(1591), Some("totalTokenCount"));
        let blocked = |usage: Value| json!({ "promptFeedback": { "blockReason": "SAFETY" }, "usageMetadata": usage });
        check(PLAIN, blocked(json!({ "promptTokenCount": 300, "totalTokenCount": 300 })), None);
        check(PLAIN, blocked(json!({ "promptTokenCount": 300 })), Some("candidatesTokenCount"));
        check(PLAIN, picture(json!({ "promptTokenCount": 300, "totalTokenCount": 300 })), Some("candidatesTokenCount"));
        check(
            PLAIN,
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
