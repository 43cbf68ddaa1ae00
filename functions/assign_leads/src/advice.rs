//! One call to a model, for how far a lead's score should move: its row before it is made and after, and its price.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use shared::{
    ai::{
        AiError, Charge, Usage,
        call::{self, Call},
    },
    jobs::{self, Claimed, Renewed},
    secrets::Secret,
    store::{
        leads::LookedAt,
        prices::ModelPrice,
        provider_calls::{self, NewCall},
    },
};
use uuid::Uuid;

use crate::{
    brief,
    state::State,
    work::{LEASE, Stop},
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

/// What a model is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adjustment {
    pub(crate) adjustment: i64,
    pub(crate) reason: String,
}

/// How the call is made and paid for.
pub(crate) struct Ask {
    pub(crate) reservation_id: Uuid,
    pub(crate) template: String,
    pub(crate) reserved: Charge,
    pub(crate) prices: Vec<ModelPrice>,
}

/// An answer that was paid for.
pub(crate) struct Paid {
    pub(crate) call_id: Uuid,
    pub(crate) value: Adjustment,
    pub(crate) charge: Charge,
}

/// Asks once. Without a usable answer, the code of why: the rules serve then, so nothing is gained by asking again.
///
/// # Errors
/// [`Stop`] if the job is not this worker's any more, was cancelled, or the database does not answer.
pub(crate) async fn ask(
    state: &State,
    job: &Claimed,
    lead: &LookedAt,
    ask: &Ask,
    deadline: Instant,
) -> Result<Result<Paid, &'static str>, Stop> {
    let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(MARGIN);
    let id = Uuid::now_v7();
    let mut tx = state.db.service_tx(job.org_id).await?;
    match jobs::renew(&mut tx, job, LEASE).await?? {
        Renewed::GoOn => {}
        Renewed::CancelRequested => {
            tx.rollback().await?;
            return Err(Stop::Cancelled);
        }
    }
    let new = NewCall {
        id,
        org_id: job.org_id,
        job_id: job.id,
        reservation_id: ask.reservation_id,
        attempt: job.attempt,
        purpose: "lead_adjustment",
        provider: "anthropic",
        model: &state.claude_model,
        reserved: ask.reserved,
    };
    provider_calls::insert(&mut tx, new).await?;
    tx.commit().await?;

    let schema = json!({
        "type": "object",
        "properties": { "adjustment": {"type": "integer"}, "reason": {"type": "string"} },
        "required": ["adjustment", "reason"],
        "additionalProperties": false,
    });
    let prompt = brief::prompt(lead);
    let call = Call {
        id,
        org_id: job.org_id,
        provider: "anthropic",
        prices: &ask.prices,
        reserved: ask.reserved,
        secret: Secret::AnthropicApiKey,
        left,
    };
    let made = call::make(&state.db, &state.secrets, &call, async |key| {
        let answered =
            state.claude.answer(key, &state.claude_model, &ask.template, &prompt, &schema, MAX_TOKENS).await?;
        let metered = answered.metered;
        // Without a reason nothing is moved.
        answered.try_map(|value| match serde_json::from_value::<Adjustment>(value) {
            Ok(adjustment) if !adjustment.reason.trim().is_empty() => Ok(adjustment),
            _ => Err(AiError::Malformed { metered }),
        })
    })
    .await?;
    Ok(match (made.answer, made.unpriced) {
        (Ok(value), None) => Ok(Paid { call_id: id, value, charge: made.charge }),
        (Ok(_), Some(_)) => Err("model_price_unknown"),
        (Err(error), _) => Err(error.code()),
    })
}
