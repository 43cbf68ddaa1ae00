//! Google's Gemini API: makes its picture from the one it was sent, visibly changed.

use std::{io::Cursor, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, imageops::FilterType};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{Canned, Key};

/// What the cheaper image models return at most.
const LONG_SIDE: u32 = 1024;
const MODELS: [&str; 3] = ["gemini-2.5-flash-image", "gemini-3-pro-image", "gemini-3.1-flash-image"];

struct Gemini {
    key: Key,
}

pub(crate) fn router(key: Key) -> Router {
    Router::new().route("/v1beta/models/{call}", post(generate)).with_state(Arc::new(Gemini { key }))
}

fn refuse(status: StatusCode, name: &str, message: &str, details: Value) -> Response {
    let body = json!({ "error": { "code": status.as_u16(), "message": message, "status": name, "details": details } });
    (status, Json(body)).into_response()
}

async fn generate(
    State(gemini): State<Arc<Gemini>>,
    Path(call): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if headers.get("x-goog-api-key").is_none_or(|key| key.as_bytes() != gemini.key.get().as_bytes()) {
        let details = json!([{ "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID" }]);
        return refuse(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", "API key not valid.", details);
    }
    let Some(model) = call.strip_suffix(":generateContent").filter(|model| MODELS.contains(model)) else {
        return refuse(StatusCode::NOT_FOUND, "NOT_FOUND", "the model is not found", json!([]));
    };
    let parts = || {
        body["contents"].as_array().into_iter().flatten().filter_map(|content| content["parts"].as_array()).flatten()
    };
    let prompt = parts().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n");
    let sent = parts()
        .find_map(|part| part["inlineData"]["data"].as_str())
        .and_then(|data| STANDARD.decode(data).ok())
        .and_then(|bytes| image::load_from_memory(&bytes).ok());
    let Some(sent) = sent else {
        return refuse(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", "Unable to process input image.", json!([]));
    };
    let mut png = Cursor::new(Vec::new());
    if redecorate(&sent, &prompt).write_to(&mut png, ImageFormat::Png).is_err() {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "An internal error has occurred.", json!([]));
    }
    let (text_tokens, picture_tokens) = (prompt.len().div_ceil(4), 1290);
    Json(json!({
        "candidates": [{
            "index": 0, "finishReason": "STOP",
            "content": { "role": "model", "parts": [
                { "text": "Here is the room." },
                { "inlineData": { "mimeType": "image/png", "data": STANDARD.encode(png.into_inner()) } },
            ] },
        }],
        "usageMetadata": {
            "promptTokenCount": text_tokens + 258, "candidatesTokenCount": picture_tokens + 5,
            "totalTokenCount": text_tokens + 258 + picture_tokens + 5,
            "promptTokensDetails": [
                { "modality": "TEXT", "tokenCount": text_tokens }, { "modality": "IMAGE", "tokenCount": 258 } ],
            "candidatesTokensDetails": [{ "modality": "IMAGE", "tokenCount": picture_tokens }],
        },
        "modelVersion": model, "responseId": Uuid::new_v4().simple().to_string(),
    }))
    .into_response()
}

/// The same room under another light, with a panelled wall and a rug: the same for the same prompt.
fn redecorate(sent: &DynamicImage, prompt: &str) -> DynamicImage {
    let small = if sent.width().max(sent.height()) > LONG_SIDE {
        sent.resize(LONG_SIDE, LONG_SIDE, FilterType::Triangle)
    } else {
        sent.clone()
    };
    let seed = prompt.bytes().fold(17_u32, |seed, byte| seed.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let accent = [[46, 92, 110], [122, 74, 52], [70, 104, 66], [112, 66, 98]][(seed % 4) as usize];
    let source = small.to_rgb8();
    let (width, height) = source.dimensions();
    let picture = RgbImage::from_fn(width, height, |x, y| {
        let Rgb([red, green, blue]) = *source.get_pixel(x, y);
        let light = (u32::from(red) * 3 + u32::from(green) * 6 + u32::from(blue)) / 10;
        // Evening light.
        let mut warm = [u32::from(red) * 11 / 10 + 14, u32::from(green) + 4, u32::from(blue) * 8 / 10];
        if y < height * 55 / 100 && light > 90 {
            // Panelling in the accent colour, where the wall is.
            let line = x % (width / 14).max(4) < 3;
            let weight = if line { 75 } else { 55 };
            for (channel, accent) in warm.iter_mut().zip(accent) {
                *channel = (*channel * (100 - weight) + (accent * light / 110) * weight) / 100;
            }
        }
        let across = (f64::from(x) / f64::from(width) - 0.5) / 0.34;
        let down = (f64::from(y) / f64::from(height) - 0.86) / 0.09;
        let ring = across.hypot(down);
        if ring < 1.0 {
            let stripe = ((ring * 7.0) as u32).is_multiple_of(2);
            let cloth = if stripe { [226, 214, 190] } else { accent };
            for (channel, cloth) in warm.iter_mut().zip(cloth) {
                *channel = (*channel + cloth * 3) / 4;
            }
        }
        Rgb(warm.map(|channel| u8::try_from(channel.min(255)).unwrap_or(255)))
    });
    DynamicImage::ImageRgb8(picture)
}

/// What it can be told to answer, by name, as the API documents each.
#[must_use]
pub fn faults() -> Vec<(&'static str, Canned)> {
    let error = |code: u16, status: &str, details: Value| {
        Canned::Answer(
            code,
            json!({ "error": { "code": code, "message": status, "status": status, "details": details } }),
        )
    };
    let quota = |id: &str, delay: &str| {
        json!([
            { "@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{ "quotaId": id }] },
            { "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay },
        ])
    };
    let usage = |pictures: u64| {
        json!({
            "promptTokenCount": 300, "candidatesTokenCount": pictures + 5, "totalTokenCount": pictures + 305,
            "candidatesTokensDetails": [{ "modality": "IMAGE", "tokenCount": pictures }],
        })
    };
    let stopped = |reason: &str| {
        Canned::Answer(
            200,
            json!({ "candidates": [{ "index": 0, "finishReason": reason }], "usageMetadata": usage(0),
                    "modelVersion": "gemini-2.5-flash-image", "responseId": "sandbox" }),
        )
    };
    let picture = |bytes: &[u8]| {
        Canned::Answer(
            200,
            json!({
                "candidates": [{ "index": 0, "finishReason": "STOP", "content": { "role": "model", "parts": [
                    { "inlineData": { "mimeType": "image/png", "data": STANDARD.encode(bytes) } } ] } }],
                "usageMetadata": usage(1290), "modelVersion": "gemini-2.5-flash-image", "responseId": "sandbox",
            }),
        )
    };
    let png = |width, height| {
        let mut png = Cursor::new(Vec::new());
        // Writing to memory does not fail.
        let _ = RgbImage::new(width, height).write_to(&mut png, ImageFormat::Png);
        png.into_inner()
    };
    let blocked = json!({
        "promptFeedback": { "blockReason": "PROHIBITED_CONTENT", "safetyRatings": [] },
        "usageMetadata": { "promptTokenCount": 300, "totalTokenCount": 300 },
    });
    let whole = png(256, 192);
    vec![
        ("blocked", Canned::Answer(200, blocked)),
        ("blocked-image", stopped("IMAGE_SAFETY")),
        ("no-image", stopped("NO_IMAGE")),
        ("truncated", stopped("MAX_TOKENS")),
        (
            "no-candidate",
            Canned::Answer(200, json!({ "usageMetadata": { "promptTokenCount": 300, "totalTokenCount": 300 } })),
        ),
        ("broken-picture", picture(&whole[..whole.len() / 2])),
        ("wrong-shape", picture(&png(192, 512))),
        ("minute-quota", error(429, "RESOURCE_EXHAUSTED", quota("GenerateRequestsPerMinutePerProjectPerModel", "1s"))),
        ("day-quota", error(429, "RESOURCE_EXHAUSTED", quota("GenerateRequestsPerDayPerProjectPerModel", "2s"))),
        ("overloaded", error(503, "UNAVAILABLE", json!([]))),
        ("internal", error(500, "INTERNAL", json!([]))),
        ("deadline", error(504, "DEADLINE_EXCEEDED", json!([]))),
        ("bad-key", error(400, "INVALID_ARGUMENT", json!([{ "reason": "API_KEY_INVALID" }]))),
        ("invalid", error(400, "INVALID_ARGUMENT", json!([]))),
        ("unknown-model", error(404, "NOT_FOUND", json!([]))),
        ("garbage", Canned::Garbage(b"{\"candidates\": [{\"content\": \xc3")),
        // Both occur, from the API itself and from gateways before it.
        ("no-usage", Canned::Changed(vec![("/usageMetadata", None)])),
        (
            "no-details",
            Canned::Changed(vec![(
                "/usageMetadata",
                Some(json!({ "promptTokenCount": 300, "candidatesTokenCount": 1290 })),
            )]),
        ),
    ]
}
