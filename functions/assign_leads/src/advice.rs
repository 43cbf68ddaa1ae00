//! One call to a model, for how far a lead's score should move: its row before it is made and after, and its price.

use std::time::{Duration, Instant};

use serde_json::json;
use shared::{
    ai::{
        AiError, Usage,
        call::{self, Call},
    },
    secrets::Secret,
    store::{
        leads::LookedAt,
        provider_calls::{self, NewCall},
    },
    worker::Stop,
};
use uuid::Uuid;

use crate::{
    brief,
    job::{Adjustment, Ask, Held, Paid},
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

/// Asks once. Without a usable answer, the code of why: the rules serve then, so nothing is gained by asking again.
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
    let (job, id) = (&held.job, Uuid::now_v7());
    let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(MARGIN);
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
