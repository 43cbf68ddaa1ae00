//! What serves a render while a provider's quota is spent: the result of the same input, made earlier for the same person; else
//! the default template through the cheapest model; else nothing, and the job waits.

use std::time::Instant;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::{
    objects::{ObjectError, ObjectPath},
    store::{cache, prices, renders},
};

use super::{
    Brief, Failure, Finished, Held, MODELS, Made, Paid, Photo, Retry, State, Stop, expected_usage, keep, make_pictures,
    photo, wishes,
};

/// What makes two renders the same: photo, wishes, model, number of pictures and template.
pub(super) fn key(held: &Held, photo: &Photo) -> [u8; 32] {
    let input = json!([
        "render",
        super::hex(&photo.sha256),
        wishes(&held.render),
        held.render.model,
        held.render.variants,
        held.template_version,
    ]);
    Sha256::digest(input.to_string()).into()
}

/// What is kept of a finished render: where its pictures are.
pub(super) fn kept(made: &[Made]) -> Value {
    json!({ "paths": made.iter().map(|made| made.path.to_string()).collect::<Vec<_>>() })
}

/// Serves the render by the best rung there is.
///
/// # Errors
/// [`Stop::Waiting`] with the `spent` quota if there is none.
pub(super) async fn serve(
    state: &State,
    held: &Held,
    photo: &Photo,
    deadline: Instant,
    brief: Option<Paid<Brief>>,
    spent: Failure,
) -> Result<Finished, Stop> {
    tracing::warn!(job.id = %held.job.id, code = spent.code, "a quota is spent; something else has to serve");
    if let Some((made, fresh)) = from_cache(state, held, photo, deadline).await? {
        return Ok(Finished {
            brief,
            made,
            model: held.render.model.clone(),
            template: None,
            served_by: if fresh { "cache" } else { "stale_cache" },
            instead: Some(spent.code),
        });
    }
    // With a brief in hand it was the picture's model that is spent; asking for the same again would be no other rung.
    let (cheapest, written) = (MODELS[0], brief.is_some());
    if written && held.render.model == cheapest {
        return Err(Stop::Waiting(spent));
    }
    let mut tx = state.db.service_tx(held.job.org_id).await?;
    let cheapest_prices = prices::list(&mut tx, "gemini", cheapest, (state.clock)()).await?;
    let (template, version) = renders::get_template(&mut tx, held.job.org_id, "render_picture", "en").await?;
    tx.rollback().await?;
    // What has no price is not called, here either.
    let expected = expected_usage(cheapest, held.render.variants).pictures;
    if shared::ai::cost_micro_usd(&expected, &cheapest_prices).is_err() {
        return Err(Stop::Waiting(spent));
    }

    let ours = Brief {
        prompt: format!("{template}\n{}", wishes(&held.render)),
        negative: "people, text, distorted geometry".to_owned(),
        decision: String::new(),
    };
    let text = brief.as_ref().map_or(&ours, |brief| &brief.value);
    match make_pictures(state, held, photo, deadline, text, cheapest, &cheapest_prices).await {
        Ok(made) => Ok(Finished {
            served_by: if written { "cheaper_model" } else { "default_template" },
            template: Some(if written {
                format!("render_brief {}", held.template_version)
            } else {
                format!("render_picture {version}")
            }),
            brief,
            made,
            model: cheapest.to_owned(),
            instead: Some(spent.code),
        }),
        Err(Stop::Failed(failure)) if failure.retry == Retry::Quota => Err(Stop::Waiting(spent)),
        Err(stop) => Err(stop),
    }
}

/// The pictures of the same render, copied under this request. `None` if there are none, or one of them is gone.
async fn from_cache(
    state: &State,
    held: &Held,
    photo: &Photo,
    deadline: Instant,
) -> Result<Option<(Vec<Made>, bool)>, Stop> {
    let org_id = held.job.org_id;
    let actor = held.job.created_by.unwrap_or_default();
    let mut tx = state.db.service_tx(org_id).await?;
    let found = cache::find(&mut tx, org_id, actor, &key(held, photo), (state.clock)()).await?;
    tx.rollback().await?;
    let Some(found) = found else { return Ok(None) };

    let objects = state.objects.for_org(org_id);
    let paths = found.response["paths"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut made = Vec::new();
    for (variant, path) in (1..=held.render.variants).zip(paths) {
        let bytes = match ObjectPath::parse(org_id, path) {
            Ok(path) => objects.get(&path, MAX_RESULT).await,
            Err(error) => Err(error),
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(ObjectError::NotFound | ObjectError::Path | ObjectError::TooLarge { .. }) => return Ok(None),
            Err(error) => return Err(Failure::from_storage(error).into()),
        };
        let Ok(checked) = photo::check_render(&bytes, photo.width, photo.height) else { return Ok(None) };
        made.push(keep(state, held, deadline, variant, checked, bytes, None).await?);
    }
    Ok((made.len() == usize::from(held.render.variants.unsigned_abs())).then_some((made, found.fresh)))
}

/// The most a stored result may hold, in bytes.
const MAX_RESULT: u64 = 32 * 1024 * 1024;
