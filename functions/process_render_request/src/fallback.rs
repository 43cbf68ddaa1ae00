//! What serves a render while a provider's quota is spent: the result of the same input, made earlier for the same person; else
//! the cheaper model, with the default template where there is no brief; else nothing, and the job waits.

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::{
    objects::{ObjectError, ObjectPath},
    store::{cache, models::Model, templates},
    worker::Stop,
};

use crate::{
    job::{Brief, Finished, InHand, Made, Plan, wishes},
    mark::{Marked, mark_render},
    outcome::{Failure, Halt, Retry},
    photo::{self, Photo},
    pictures::{Attempt, NewPicture, hold_for, keep, make_pictures},
};

/// How long a render may wait for a provider's quota before it is given up.
const LONGEST_WAIT: TimeDelta = TimeDelta::days(7);
/// The most a stored result may hold, in bytes.
const MAX_RESULT: u64 = 32 * 1024 * 1024;

/// What makes two renders the same: photo, wishes, model, number of pictures and template.
pub(crate) fn key(plan: &Plan, photo: &Photo, model: &str) -> [u8; 32] {
    let input = json!([
        "render",
        hex::encode(photo.sha256),
        wishes(&plan.render),
        model,
        plan.render.variants,
        plan.template_version,
    ]);
    Sha256::digest(input.to_string()).into()
}

/// What is kept of a finished render: where its pictures are.
pub(crate) fn kept(made: &[Made]) -> Value {
    json!({ "paths": made.iter().map(|made| made.path.to_string()).collect::<Vec<_>>() })
}

/// Serves the render by the best rung there is, after this attempt to make it as asked; `spent` says which quota is.
///
/// # Errors
/// That the job waits for the quota, if there is no rung.
pub(crate) async fn serve(hand: InHand<'_>, photo: &Photo, attempt: Attempt, spent: Failure) -> Result<Finished, Halt> {
    let InHand { state, held, plan, .. } = hand;
    tracing::warn!(job.id = %held.job.id, code = spent.code, "a quota is spent; something else has to serve");
    let (asked, brief) = (plan.picture(attempt.at)?, attempt.brief);
    if let Some((made, fresh)) = from_cache(hand, photo, asked).await? {
        return Ok(Finished {
            brief,
            made,
            model: asked.model.clone(),
            template: None,
            served_by: if fresh { "cache" } else { "stale_cache" },
            instead: Some(spent.code),
        });
    }
    let written = brief.is_some();
    let Some(cheaper) = cheaper(plan, asked, written) else { return Err(wait_for_quota(hand, spent).into()) };
    if cheaper.model != asked.model {
        hold_for(hand, asked, cheaper).await?;
    }
    let read =
        state.db.service(held.job.org_id, async |tx| templates::get(tx, held.job.org_id, "render_picture", "en").await);
    let (template, version) = read.await?;

    let ours = Brief {
        prompt: format!("{template}\n{}", wishes(&plan.render)),
        negative: "people, text, distorted geometry".to_owned(),
        decision: String::new(),
        model: String::new(),
    };
    let text = brief.as_ref().map_or(&ours, |brief| &brief.value);
    match make_pictures(hand, photo, text, cheaper).await {
        Ok(made) => Ok(Finished {
            served_by: if written { "cheaper_model" } else { "default_template" },
            template: Some(if written {
                format!("render_brief {}", plan.template_version)
            } else {
                format!("render_picture {version}")
            }),
            brief,
            made,
            model: cheaper.model.clone(),
            instead: Some(spent.code),
        }),
        Err(Halt::Failed(failure)) if failure.retry == Retry::Quota || failure.is_unknown_model() => {
            Err(wait_for_quota(hand, spent).into())
        }
        Err(halt) => Err(halt),
    }
}

/// The cheaper model. With a brief in hand it was the picture's model that is spent, so it is another one; without, it was the brief's, and
/// what was asked for will do if there is none that is cheaper.
fn cheaper<'a>(plan: &'a Plan, asked: &'a Model, written: bool) -> Option<&'a Model> {
    plan.pictures.cheaper(asked).or_else(|| (!written).then_some(asked))
}

/// The job waits until the quota is renewed; or fails, if it has waited for too long. Nothing is held meanwhile: it may be a day.
fn wait_for_quota(hand: InHand<'_>, spent: Failure) -> Stop {
    let now = (hand.state.clock)();
    if now - hand.plan.render.created_at >= LONGEST_WAIT {
        return Halt::Failed(spent).into();
    }
    // Those that wait for the same morning do not all come in its first second.
    let until = quota_renewed_at(spent.code, now) + TimeDelta::seconds(rand::random_range(0..600));
    let why = json!({ "reason": spent.code, "detail": spent.detail, "until": until });
    Stop::Snooze { until, why, failure: None, counts: false }
}

/// When a provider's quota is renewed. Gemini's days end at midnight in California, which is 8:00 UTC in winter and an hour
/// earlier in summer; a spending limit is raised by a person, so it is asked again within the hour.
fn quota_renewed_at(code: &str, now: DateTime<Utc>) -> DateTime<Utc> {
    if code != "provider_quota_spent" {
        return now + TimeDelta::hours(1);
    }
    let today = now.date_naive().and_time(NaiveTime::MIN).and_utc() + TimeDelta::hours(8);
    if today > now { today } else { today + TimeDelta::days(1) }
}

/// The pictures of the same render, copied under this request. `None` if there are none, or one of them is gone.
async fn from_cache(hand: InHand<'_>, photo: &Photo, model: &Model) -> Result<Option<(Vec<Made>, bool)>, Halt> {
    let InHand { state, held, plan, .. } = hand;
    let org_id = held.job.org_id;
    let actor = held.job.created_by.unwrap_or_default();
    let (key, now) = (key(plan, photo, &model.model), (state.clock)());
    let found = state.db.service(org_id, async |tx| cache::find(tx, org_id, actor, &key, now).await).await?;
    let Some(found) = found else { return Ok(None) };

    let objects = state.objects.for_org(org_id);
    let paths = found.response["paths"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut made = Vec::new();
    for (variant, path) in (1..=plan.render.variants).zip(paths) {
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
        let edges_kept = photo.outline.kept_in(&checked.outline);
        // A picture that was kept by an earlier version may have what is taken out today.
        let Ok(Marked { bytes, credentials_removed }) = mark_render(&bytes, &checked) else { return Ok(None) };
        made.push(
            keep(
                hand,
                NewPicture { variant, checked, bytes: bytes.into(), edges_kept, credentials_removed, bill: None },
            )
            .await?,
        );
    }
    Ok((made.len() == usize::from(plan.render.variants.unsigned_abs())).then_some((made, found.fresh)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daily_quota_is_renewed_in_the_morning_and_a_cap_asked_again_within_the_hour() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let renewed = |now| quota_renewed_at("provider_quota_spent", at(now));
        assert_eq!(renewed("2026-11-21T07:59:59Z"), at("2026-11-21T08:00:00Z"));
        assert_eq!(renewed("2026-11-21T08:00:00Z"), at("2026-11-22T08:00:00Z"));
        assert_eq!(quota_renewed_at("provider_spend_cap", at("2026-11-21T08:00:00Z")), at("2026-11-21T09:00:00Z"));
    }
}
