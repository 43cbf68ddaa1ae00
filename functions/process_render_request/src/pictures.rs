//! The pictures of a render, as they were asked for: a brief by Claude, each variant by the image model, checked, marked and stored.

use std::time::Instant;

use serde_json::json;
use shared::{
    ai::{AiError, Charge, Picture, Usage},
    objects::ObjectPath,
    secrets::Secret,
    store::prices::ModelPrice,
    worker::GIVING_BACK,
};
use uuid::Uuid;

use crate::{
    call::{self, Ask},
    job::{Bill, Brief, Finished, InHand, Made, Paid, wishes},
    mark::mark_ai_generated,
    outcome::{BRIEF_MAX_TOKENS, Failure, Halt, expected_usage},
    photo::{self, CheckedRender, Photo},
};

/// The brief by Claude, the pictures by the model that was asked for. The brief stays with the caller if the pictures fail.
pub(crate) async fn as_asked(
    hand: InHand<'_>,
    photo: &Photo,
    brief: &mut Option<Paid<Brief>>,
) -> Result<Finished, Halt> {
    let written = &*brief.insert(write_brief(hand).await?);
    let model = &hand.plan.render.model;
    let made = make_pictures(hand, photo, &written.value, model, &hand.plan.picture_prices).await?;
    Ok(Finished {
        brief: brief.take(),
        made,
        model: model.clone(),
        served_by: "model",
        template: Some(format!("render_brief {}", hand.plan.template_version)),
        instead: None,
    })
}

async fn write_brief(hand: InHand<'_>) -> Result<Paid<Brief>, Halt> {
    let schema = json!({
        "type": "object",
        "properties": { "prompt": {"type": "string"}, "negative": {"type": "string"}, "decision": {"type": "string"} },
        "required": ["prompt", "negative", "decision"],
        "additionalProperties": false,
    });
    let prompt = format!("Write the brief for these wishes.\n{}", wishes(&hand.plan.render));
    let ask = Ask {
        purpose: "render_brief",
        provider: "anthropic",
        model: &hand.state.claude_model,
        prices: &hand.plan.brief_prices,
        reserved: reserved(&expected_usage(&hand.plan.render.model, 1).brief, &hand.plan.brief_prices)?,
        secret: Secret::AnthropicApiKey,
    };
    call::paid(hand, &ask, async |key| {
        let answered = hand
            .state
            .claude
            .answer(key, &hand.state.claude_model, &hand.plan.template, &prompt, &schema, BRIEF_MAX_TOKENS)
            .await?;
        let metered = answered.metered;
        answered
            .try_map(|value| serde_json::from_value(value).map_err(|_| Failure::from(AiError::Malformed { metered })))
    })
    .await
}

/// Makes, checks, marks and stores each variant.
pub(crate) async fn make_pictures(
    hand: InHand<'_>,
    photo: &Photo,
    brief: &Brief,
    model: &str,
    prices: &[ModelPrice],
) -> Result<Vec<Made>, Halt> {
    let reserved = reserved(&expected_usage(model, 1).pictures, prices)?;
    let input = Picture { mime: "image/jpeg".to_owned(), bytes: photo.bytes.clone() };
    let mut made = Vec::new();
    for variant in 1..=hand.plan.render.variants {
        let prompt =
            format!("{}\nAvoid: {}\nVariant {variant} of {}.", brief.prompt, brief.negative, hand.plan.render.variants);
        let ask = Ask {
            purpose: "render_picture",
            provider: "gemini",
            model,
            prices,
            reserved,
            secret: Secret::GeminiApiKey,
        };
        let picture: Paid<(CheckedRender, Vec<u8>)> = call::paid(hand, &ask, async |key| {
            let answered = hand.state.gemini.render(key, model, &prompt, &input, photo.aspect_ratio).await?;
            let metered = answered.metered;
            // A picture that cannot be used was paid for all the same.
            answered.try_map(|picture| {
                photo::check_render(&picture.bytes, photo.width, photo.height)
                    .and_then(|checked| Ok((checked, mark_ai_generated(&picture.bytes)?)))
                    .map_err(|error| Failure { metered: Some(Box::new(metered)), ..Failure::from(error) })
            })
        })
        .await?;
        let (checked, bytes) = picture.value;
        made.push(keep(hand, variant, checked, bytes.into(), Some(picture.bill)).await?);
    }
    Ok(made)
}

/// Stores a picture under this request while there is time, with the `bill` for it. A bucket that is not there is storage's fault, and
/// no photo is missing.
pub(crate) async fn keep(
    hand: InHand<'_>,
    variant: i16,
    checked: CheckedRender,
    bytes: bytes::Bytes,
    bill: Option<Bill>,
) -> Result<Made, Halt> {
    let org_id = hand.held.job.org_id;
    let id = Uuid::now_v7();
    let path = ObjectPath::render(org_id, hand.plan.render.id, id, checked.extension);
    let (size, sha256) = (bytes.len(), photo::sha256(&bytes));
    let left = hand.deadline.saturating_duration_since(Instant::now()).saturating_sub(GIVING_BACK);
    match tokio::time::timeout(left, hand.state.objects.for_org(org_id).put(&path, bytes, checked.mime)).await {
        Ok(stored) => stored.map_err(Failure::from_storage)?,
        Err(_) => return Err(Failure::passing("time_out", "The worker's time was over; another goes on.").into()),
    }
    Ok(Made {
        id,
        variant,
        path,
        mime: checked.mime,
        width: checked.width,
        height: checked.height,
        bytes: size,
        sha256,
        bill,
    })
}

/// What is reserved for one call. The claim has seen that there are prices.
fn reserved(expected: &Usage, prices: &[ModelPrice]) -> Result<Charge, Failure> {
    Charge::reserved(expected, prices).map_err(|_| {
        Failure::permanent("model_price_unknown", "There is no price for the model, so it was not called.")
    })
}
