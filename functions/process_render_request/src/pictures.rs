//! The pictures of a render, as they were asked for: a brief by Claude, each variant by the image model, checked, marked and stored.

use std::time::Instant;

use serde_json::json;
use shared::{
    ai::{AiError, Picture},
    limits::Amounts,
    objects::ObjectPath,
    secrets::Secret,
    store::models::Model,
    worker::GIVING_BACK,
};
use uuid::Uuid;

use crate::{
    call::{self, Ask},
    job::{BRIEF, Bill, Brief, Finished, InHand, Made, PICTURE, Paid, no_price, price, wishes},
    mark::{Marked, mark_render},
    outcome::{BRIEF_MAX_TOKENS, Failure, Halt, expected_brief, expected_pictures},
    photo::{self, CheckedRender, Photo},
};

/// How far a render was made as asked: what is kept of it if it cannot be.
#[derive(Default)]
pub(crate) struct Attempt {
    /// The brief, which is paid for.
    pub(crate) brief: Option<Paid<Brief>>,
    /// Which of the models for pictures was called last.
    pub(crate) at: usize,
}

/// The brief by Claude, the pictures by the model that was asked for, or by the next of those that the provider knows. The brief is bought
/// once, and stays with the caller if the pictures fail.
pub(crate) async fn as_asked(hand: InHand<'_>, photo: &Photo, attempt: &mut Attempt) -> Result<Finished, Halt> {
    let plan = hand.plan;
    attempt.brief = Some(write_brief(hand).await?);
    let mut instead = plan.pictures.instead;
    loop {
        let model = plan.picture(attempt.at)?;
        let Some(brief) = &attempt.brief else { return Err(no_price().into()) };
        let failure = match make_pictures(hand, photo, &brief.value, model).await {
            Ok(made) => {
                return Ok(Finished {
                    brief: attempt.brief.take(),
                    made,
                    model: model.model.clone(),
                    served_by: if instead.is_some() && plan.is_cheaper(model)? { "cheaper_model" } else { "model" },
                    template: Some(format!("render_brief {}", plan.template_version)),
                    instead,
                });
            }
            Err(Halt::Failed(failure)) if failure.is_unknown_model() => failure,
            Err(halt) => return Err(halt),
        };
        let Ok(next) = plan.picture(attempt.at + 1) else { return Err(failure.into()) };
        hold_for(hand, model, next).await?;
        attempt.at += 1;
        instead = Some(failure.code);
    }
}

/// Reserves for the pictures of `next` what they may cost more than those of `model`.
pub(crate) async fn hold_for(hand: InHand<'_>, model: &Model, next: &Model) -> Result<(), Halt> {
    let of = |model: &Model| price(&expected_pictures(model, hand.plan.render.variants), model);
    let (held, needed) = (of(model)?, of(next)?);
    if needed.tokens <= held.tokens && needed.cost_micro_usd <= held.cost_micro_usd {
        return Ok(());
    }
    let requests = i64::from(hand.plan.render.variants);
    let amounts = Amounts { requests, tokens: needed.tokens, cost_micro_usd: needed.cost_micro_usd };
    call::reserve_again(hand, amounts).await
}

/// By the first of the models that the provider knows.
async fn write_brief(hand: InHand<'_>) -> Result<Paid<Brief>, Halt> {
    let plan = hand.plan;
    let mut unknown = None;
    for model in &plan.briefs.models {
        if unknown.is_some() {
            call::reserve_again(hand, plan.expected(model, plan.picture(0)?)?).await?;
        }
        match write_brief_by(hand, model).await {
            Err(Halt::Failed(failure)) if failure.is_unknown_model() => unknown = Some(failure),
            other => return other,
        }
    }
    Err(unknown.unwrap_or_else(no_price).into())
}

async fn write_brief_by(hand: InHand<'_>, model: &Model) -> Result<Paid<Brief>, Halt> {
    let schema = json!({
        "type": "object",
        "properties": { "prompt": {"type": "string"}, "negative": {"type": "string"}, "decision": {"type": "string"} },
        "required": ["prompt", "negative", "decision"],
        "additionalProperties": false,
    });
    let prompt = format!("Write the brief for these wishes.\n{}", wishes(&hand.plan.render));
    let reserved = price(&expected_brief(model), model)?;
    let ask = Ask { purpose: BRIEF, model, reserved, secret: Secret::AnthropicApiKey };
    call::paid(hand, &ask, async |key| {
        let claude = &hand.state.claude;
        let answered =
            claude.answer(key, &model.model, &hand.plan.template, &prompt, &schema, BRIEF_MAX_TOKENS).await?;
        let metered = answered.metered;
        answered.try_map(|value| {
            let brief: Brief = serde_json::from_value(value).map_err(|_| AiError::Malformed { metered })?;
            Ok(Brief { model: model.model.clone(), ..brief })
        })
    })
    .await
}

/// Makes, checks, marks and stores each variant.
pub(crate) async fn make_pictures(
    hand: InHand<'_>,
    photo: &Photo,
    brief: &Brief,
    model: &Model,
) -> Result<Vec<Made>, Halt> {
    let reserved = price(&expected_pictures(model, 1), model)?;
    let input = Picture { mime: "image/jpeg".to_owned(), bytes: photo.bytes.clone() };
    let mut made = Vec::new();
    for variant in 1..=hand.plan.render.variants {
        let prompt =
            format!("{}\nAvoid: {}\nVariant {variant} of {}.", brief.prompt, brief.negative, hand.plan.render.variants);
        let ask = Ask { purpose: PICTURE, model, reserved, secret: Secret::GeminiApiKey };
        let picture: Paid<(CheckedRender, Marked)> = call::paid(hand, &ask, async |key| {
            let answered = hand.state.gemini.render(key, model, &prompt, &input, photo.aspect_ratio).await?;
            let metered = answered.metered;
            // A picture that cannot be used was paid for all the same.
            answered.try_map(|picture| {
                photo::check_render(&picture.bytes, photo.width, photo.height)
                    .and_then(|checked| {
                        let marked = mark_render(&picture.bytes, &checked)?;
                        Ok((checked, marked))
                    })
                    .map_err(|error| Failure { metered: Some(Box::new(metered)), ..Failure::from(error) })
            })
        })
        .await?;
        let (checked, marked) = picture.value;
        let new = NewPicture {
            variant,
            edges_kept: photo.outline.kept_in(&checked.outline),
            checked,
            bytes: marked.bytes.into(),
            credentials_removed: marked.credentials_removed,
            bill: Some(picture.bill),
        };
        made.push(keep(hand, new).await?);
    }
    Ok(made)
}

/// A picture that is to be stored.
pub(crate) struct NewPicture {
    pub(crate) variant: i16,
    pub(crate) checked: CheckedRender,
    pub(crate) bytes: bytes::Bytes,
    /// How much of the photo's geometry it keeps, as [`photo::Outline::kept_in`] measures it.
    pub(crate) edges_kept: Option<f32>,
    pub(crate) credentials_removed: bool,
    pub(crate) bill: Option<Bill>,
}

/// Stores a picture under this request while there is time. A bucket that is not there is storage's fault, and no photo is missing.
pub(crate) async fn keep(hand: InHand<'_>, new: NewPicture) -> Result<Made, Halt> {
    let NewPicture { variant, checked, bytes, edges_kept, credentials_removed, bill } = new;
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
        edges_kept,
        credentials_removed,
        bill,
    })
}
