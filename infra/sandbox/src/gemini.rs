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

use crate::{Canned, Key, Models};

/// What a picture's long side has at 1K, in pixels.
const LONG_SIDE: u32 = 1024;
/// What a model that thinks takes for that, in tokens.
const THOUGHTS: u64 = 60;
/// The ratios that every image model takes.
const RATIOS: [&str; 10] = ["1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"];
/// Those that the newer flash models take too.
const MORE_RATIOS: [&str; 4] = ["1:4", "4:1", "1:8", "8:1"];

/// An image model, as it is documented.
struct Known {
    id: &'static str,
    /// The sizes that `imageSize` may ask for, each with the tokens that a picture of it takes; the first is what it makes unasked. One
    /// without a name cannot be asked for.
    sizes: &'static [(&'static str, u64)],
    more_ratios: bool,
    thinks: bool,
}

/// Those whose names end in `-preview` are gone.
const KNOWN: [Known; 4] = [
    Known { id: "gemini-2.5-flash-image", sizes: &[("", 1290)], more_ratios: false, thinks: false },
    Known {
        id: "gemini-3-pro-image",
        sizes: &[("1K", 1120), ("2K", 1120), ("4K", 2000)],
        more_ratios: false,
        thinks: true,
    },
    Known {
        id: "gemini-3.1-flash-image",
        sizes: &[("1K", 1120), ("512", 747), ("2K", 1680), ("4K", 2520)],
        more_ratios: true,
        thinks: true,
    },
    Known { id: "gemini-3.1-flash-lite-image", sizes: &[("1K", 1120)], more_ratios: true, thinks: true },
];

pub(crate) fn models() -> Models {
    Models::new(&KNOWN.map(|known| known.id))
}

struct Gemini {
    key: Key,
    models: Models,
}

pub(crate) fn router(key: Key, models: Models) -> Router {
    Router::new().route("/v1beta/models/{call}", post(generate)).with_state(Arc::new(Gemini { key, models }))
}

/// A model that is not served, as the API says it.
fn not_found(model: &str) -> Response {
    let message = format!(
        "models/{model} is not found for API version v1beta, or is not supported for generateContent. Call ListModels to see the list of available models and their supported methods."
    );
    let body = json!({ "error": { "code": 404, "message": message, "status": "NOT_FOUND" } });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

/// The tokens that a picture takes as this request wants it; or what is wrong with its `imageConfig`.
fn picture_tokens(known: &Known, config: &Value) -> Result<u64, String> {
    if let Some(ratio) = config.get("aspectRatio") {
        let ratio = ratio.as_str().unwrap_or_default();
        if !(RATIOS.contains(&ratio) || known.more_ratios && MORE_RATIOS.contains(&ratio)) {
            return Err(format!("Invalid value at 'generation_config.image_config.aspect_ratio': \"{ratio}\""));
        }
    }
    let Some(size) = config.get("imageSize") else { return Ok(known.sizes[0].1) };
    let asked = known.sizes.iter().find(|(name, _)| !name.is_empty() && Some(*name) == size.as_str());
    asked.map(|(_, tokens)| *tokens).ok_or_else(|| "Image size is not supported by this model.".to_owned())
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
    let Some(model) = call.strip_suffix(":generateContent") else { return not_found(&call) };
    let Some(known) = KNOWN.iter().find(|known| known.id == model).filter(|_| gemini.models.has(model)) else {
        return not_found(model);
    };
    let picture_tokens = match picture_tokens(known, &body["generationConfig"]["imageConfig"]) {
        Ok(tokens) => tokens,
        Err(wrong) => return refuse(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", &wrong, json!([])),
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
    let text_tokens = prompt.len().div_ceil(4) as u64;
    let mut parts = vec![
        json!({ "text": "Here is the room." }),
        json!({ "inlineData": { "mimeType": "image/png", "data": STANDARD.encode(png.into_inner()) } }),
    ];
    let mut usage = json!({
        "promptTokenCount": text_tokens + 258, "candidatesTokenCount": picture_tokens + 5,
        "totalTokenCount": text_tokens + 258 + picture_tokens + 5,
        "promptTokensDetails": [
            { "modality": "TEXT", "tokenCount": text_tokens }, { "modality": "IMAGE", "tokenCount": 258 } ],
        "candidatesTokensDetails": [{ "modality": "IMAGE", "tokenCount": picture_tokens }],
    });
    if known.thinks {
        // What it tried on its way is no answer, and is billed as text.
        let interim = json!({ "mimeType": "image/png", "data": STANDARD.encode(blank(1, 1)) });
        parts.splice(
            0..0,
            [json!({ "text": "The wall first.", "thought": true }), json!({ "inlineData": interim, "thought": true })],
        );
        usage["thoughtsTokenCount"] = json!(THOUGHTS);
        usage["totalTokenCount"] = json!(text_tokens + 258 + picture_tokens + 5 + THOUGHTS);
    }
    Json(json!({
        "candidates": [{
            "index": 0, "finishReason": "STOP", "content": { "role": "model", "parts": parts },
        }],
        "usageMetadata": usage,
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

fn blank(width: u32, height: u32) -> Vec<u8> {
    let mut png = Cursor::new(Vec::new());
    // Writing to memory does not fail.
    let _ = RgbImage::new(width, height).write_to(&mut png, ImageFormat::Png);
    png.into_inner()
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
                    "modelVersion": "gemini-3.1-flash-image", "responseId": "sandbox" }),
        )
    };
    let picture = |bytes: &[u8]| {
        Canned::Answer(
            200,
            json!({
                "candidates": [{ "index": 0, "finishReason": "STOP", "content": { "role": "model", "parts": [
                    { "inlineData": { "mimeType": "image/png", "data": STANDARD.encode(bytes) } } ] } }],
                "usageMetadata": usage(1290), "modelVersion": "gemini-3.1-flash-image", "responseId": "sandbox",
            }),
        )
    };
    let blocked = json!({
        "promptFeedback": { "blockReason": "PROHIBITED_CONTENT", "safetyRatings": [] },
        "usageMetadata": { "promptTokenCount": 300, "totalTokenCount": 300 },
    });
    let whole = blank(256, 192);
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
        ("wrong-shape", picture(&blank(192, 512))),
        ("minute-quota", error(429, "RESOURCE_EXHAUSTED", quota("GenerateRequestsPerMinutePerProjectPerModel", "1s"))),
        ("day-quota", error(429, "RESOURCE_EXHAUSTED", quota("GenerateRequestsPerDayPerProjectPerModel", "2s"))),
        ("overloaded", error(503, "UNAVAILABLE", json!([]))),
        ("internal", error(500, "INTERNAL", json!([]))),
        ("deadline", error(504, "DEADLINE_EXCEEDED", json!([]))),
        ("bad-key", error(400, "INVALID_ARGUMENT", json!([{ "reason": "API_KEY_INVALID" }]))),
        ("invalid", error(400, "INVALID_ARGUMENT", json!([]))),
        ("unknown-model", error(404, "NOT_FOUND", json!([]))),
        ("garbage", Canned::Garbage(b"{\"candidates\": [{\"content\": \xc3")),
        // What a gateway before the API may make of a picture.
        (
            "data-url",
            Canned::Changed(vec![(
                "/candidates/0/content/parts",
                Some(json!([{ "text": format!("![room](data:image/png;base64,{})", STANDARD.encode(&whole)) }])),
            )]),
        ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_or_ratio_that_a_model_does_not_take_is_refused() {
        let tokens = |id: &str, config: Value| {
            let known = KNOWN.iter().find(|known| known.id == id).unwrap();
            picture_tokens(known, &config).ok()
        };
        let (flash, lite, pro) = ("gemini-3.1-flash-image", "gemini-3.1-flash-lite-image", "gemini-3-pro-image");
        assert_eq!(tokens(flash, json!({})), Some(1120));
        assert_eq!(tokens(flash, json!({ "aspectRatio": "8:1", "imageSize": "512" })), Some(747));
        assert_eq!(tokens(flash, json!({ "aspectRatio": "4:3", "imageSize": "4K" })), Some(2520));
        assert_eq!(tokens(flash, json!({ "aspectRatio": "4:3", "imageSize": "4k" })), None);
        assert_eq!(tokens(lite, json!({ "imageSize": "512" })), None);
        assert_eq!(tokens(pro, json!({ "aspectRatio": "8:1" })), None);
        assert_eq!(tokens(pro, json!({ "aspectRatio": "7:5" })), None);
        let older = "gemini-2.5-flash-image";
        assert_eq!(tokens(older, json!({ "aspectRatio": "5:4" })), Some(1290));
        assert_eq!(tokens(older, json!({ "imageSize": "1K" })), None);
        assert_eq!(tokens(older, json!({ "imageSize": "" })), None);
    }
}
