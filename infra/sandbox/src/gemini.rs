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

use crate::Script;

/// What the cheaper image models return at most.
const LONG_SIDE: u32 = 1024;
const MODELS: [&str; 3] = ["gemini-2.5-flash-image", "gemini-3-pro-image", "gemini-3.1-flash-image"];

struct Gemini {
    key: String,
    script: Arc<Script>,
}

pub(crate) fn router(key: String, script: Arc<Script>) -> Router {
    Router::new().route("/v1beta/models/{call}", post(generate)).with_state(Arc::new(Gemini { key, script }))
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
    if let Some(canned) = gemini.script.meet(&body).await {
        return canned;
    }
    if headers.get("x-goog-api-key").is_none_or(|key| key.as_bytes() != gemini.key.as_bytes()) {
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
