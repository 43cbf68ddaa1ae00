//! One call to a model, for how far a lead's score should move: its row before it is made and after, and its price.

use std::time::{Duration, Instant};

use serde_json::json;
use shared::{
    ai::{
        AiError, Charge, Usage,
        call::{self, Call},
    },
    db::ServiceTx,
    jobs::Claimed,
    limits::{self, Amounts, Counted, Reserved},
    secrets::Secret,
    store::{
        StoreError,
        leads::LookedAt,
        models::Model,
        provider_calls::{self, NewCall},
    },
    worker::Stop,
};
use uuid::Uuid;

use crate::{
    brief,
    job::{AGENT, Adjustment, Ask, Held, Hold, PURPOSE, Paid},
    state::State,
};

/// The most tokens an answer may take.
const MAX_TOKENS: u32 = 512;
/// What is kept of the function's time for what follows the call.
const MARGIN: Duration = Duration::from_secs(10);

/// What the call is expected to use, for its reservation: on the high side, since what is not used is given back.
pub(crate) const EXPECTED: Usage = Usage {
    // Twenty notes of a thousand characters are some five thousand tokens.
    input: 7000,
    output: MAX_TOKENS as u64,
    cache_read: 0,
    cache_write_5m: 0,
    cache_write_1h: 0,
    image_output: 0,
};

/// Asks once, the next model where the provider does not know the one before. Without a usable answer, the code of why: the rules serve
/// then, so nothing is gained by asking again.
///
/// # Errors
/// [`Stop`] if the job is not this worker's any more, was cancelled, or the database does not answer.
pub(crate) async fn ask(
    state: &State,
    held: &Held,
    lead: &LookedAt,
    ask: &Ask,
    deadline: Instant,
) -> Result<Result<Paid, &'static str>, Stop> {
    let mut unknown = None;
    for model in &ask.models.models {
        let hold = match unknown {
            None => ask.hold,
            Some(_) => match hold_again(state, held, model).await? {
                Ok(hold) => hold,
                Err(code) => return Ok(Err(code)),
            },
        };
        match ask_one(state, held, lead, &ask.template, model, hold, deadline).await? {
            Err(code) if code == AiError::UnknownModel.code() => unknown = Some(code),
            other => return Ok(other),
        }
    }
    Ok(Err(unknown.unwrap_or("model_price_unknown")))
}

/// Exchanges what is held for one model for what another needs; or the code of why there is no room for it.
async fn hold_again(state: &State, held: &Held, model: &Model) -> Result<Result<Hold, &'static str>, Stop> {
    let job = &held.job;
    state
        .db
        .service(job.org_id, async |tx| {
            // A worker whose lease is over would give back what another one holds.
            held.go_on(tx).await?;
            limits::refund_job(tx, job.id).await?;
            Ok::<_, Stop>(hold(tx, job, model).await?)
        })
        .await
}

/// Reserves what one model's advice is expected to use; or the code of why there is no room for it.
///
/// # Errors
/// [`StoreError::Database`].
pub(crate) async fn hold(
    tx: &mut ServiceTx,
    job: &Claimed,
    model: &Model,
) -> Result<Result<Hold, &'static str>, StoreError> {
    let Ok(reserved) = Charge::reserved(&EXPECTED, &model.prices) else { return Ok(Err("model_price_unknown")) };
    let amounts = Amounts { requests: 1, tokens: reserved.tokens, cost_micro_usd: reserved.cost_micro_usd };
    // Nobody asked where the schedule did, and a lead belongs to no project.
    let counted = Counted { agent: AGENT, user_id: job.created_by, project_id: None };
    Ok(match limits::reserve(tx, job.id, counted, amounts).await? {
        Reserved::Active(reservation_id) => Ok(Hold { reservation_id, reserved }),
        Reserved::Reached(waiting) => Err(waiting.code()),
        Reserved::Never { .. } => Err("limit_too_small"),
    })
}

async fn ask_one(
    state: &State,
    held: &Held,
    lead: &LookedAt,
    template: &str,
    model: &Model,
    hold: Hold,
    deadline: Instant,
) -> Result<Result<Paid, &'static str>, Stop> {
    let (job, id) = (&held.job, Uuid::now_v7());
    let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(MARGIN);
    let new = NewCall {
        id,
        org_id: job.org_id,
        job_id: job.id,
        reservation_id: hold.reservation_id,
        attempt: job.attempt,
        purpose: PURPOSE,
        provider: &model.provider,
        model: &model.model,
        reserved: hold.reserved,
    };
    let begun = state.db.service(job.org_id, async |tx| {
        held.go_on(tx).await?;
        Ok::<_, Stop>(provider_calls::insert(tx, new).await?)
    });
    begun.await?;

    let schema = json!({
        "type": "object",
        "properties": { "adjustment": {"type": "integer"}, "reason": {"type": "string"} },
        "required": ["adjustment", "reason"],
        "additionalProperties": false,
    });
    let prompt = brief::prompt(lead);
    let call = Call { id, org_id: job.org_id, model, reserved: hold.reserved, secret: Secret::AnthropicApiKey, left };
    let made = call::make(&state.db, &state.secrets, &call, async |key| {
        let answered = state.claude.answer(key, &model.model, template, &prompt, &schema, MAX_TOKENS).await?;
        let metered = answered.metered;
        // Without a reason nothing is moved.
        answered.try_map(|value| match serde_json::from_value::<Adjustment>(value) {
            Ok(adjustment) if !adjustment.reason.trim().is_empty() => Ok(adjustment),
            _ => Err(AiError::Malformed { metered }),
        })
    })
    .await?;
    Ok(match (made.answer, made.unpriced) {
        (Ok(value), None) => Ok(Paid {
            call_id: id,
            reservation_id: hold.reservation_id,
            model: model.model.clone(),
            value,
            charge: made.charge,
        }),
        (Ok(_), Some(_)) => Err("model_price_unknown"),
        (Err(error), _) => Err(error.code()),
    })
}
