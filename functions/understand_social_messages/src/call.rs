//! One call to the model: reserved before it, its row written before it and after.

use std::time::{Duration, Instant};

use serde_json::Value;
use shared::{
    ai::{
        AiError, Metered,
        call::{self, Begun, Call, Failed, Wanted},
        models::Choice,
    },
    limits::{Counted, Waiting},
    secrets::Secret,
    store::models::Model,
    worker::Stop,
};
use uuid::Uuid;

use crate::{
    job::{AGENT, Held, Paid},
    state::State,
};

/// What is kept of the function's time for what follows the call.
const MARGIN: Duration = Duration::from_secs(10);
/// A call is not begun with less time than this.
const SHORTEST: Duration = Duration::from_secs(1);

/// What a model is asked.
pub(crate) struct Question<'a> {
    /// As `provider_calls.purpose` names it.
    pub(crate) purpose: &'static str,
    /// The models that may be asked.
    pub(crate) models: &'a Choice,
    pub(crate) system: &'a str,
    pub(crate) prompt: &'a str,
    pub(crate) schema: &'a Value,
    /// The most tokens an answer may take.
    pub(crate) max_tokens: u32,
}

/// Why an answer cannot be used.
pub(crate) enum Unusable {
    /// There is none, or it cannot be read.
    Unanswered(AiError),
    /// It says what it may not.
    Unfit(&'static str, Metered),
}

impl From<AiError> for Unusable {
    fn from(error: AiError) -> Self {
        Self::Unanswered(error)
    }
}

impl Failed for Unusable {
    fn code(&self) -> &'static str {
        match self {
            Self::Unanswered(error) => error.code(),
            Self::Unfit(code, _) => code,
        }
    }

    fn metered(&self) -> Option<Metered> {
        match self {
            Self::Unanswered(error) => error.metered(),
            Self::Unfit(_, metered) => Some(*metered),
        }
    }
}

/// What came of a call.
pub(crate) enum Asked<T> {
    /// An answer that is used, and what pays for it.
    Answered(T, Paid),
    /// None that can be used.
    Unusable(Unusable),
    /// The organisation's limit has no room for it now.
    Reached(Waiting),
    /// It was not made and will not be: no price, more than a limit ever has room for, or no time.
    Barred(&'static str),
}

/// Asks once, the next model where the provider does not know the one before. An answer under `before` was used: its reservation is settled
/// before another is made.
///
/// # Errors
/// [`Stop`] if the job is not this worker's any more, was cancelled, or the database does not answer.
pub(crate) async fn ask<T>(
    state: &State,
    held: &Held,
    question: &Question<'_>,
    before: Option<Paid>,
    deadline: Instant,
    read: impl Fn(Value, Metered) -> Result<T, Unusable>,
) -> Result<Asked<T>, Stop> {
    let mut used = before.map(|before| before.reservation_id);
    let mut asked = Asked::Barred("model_price_unknown");
    for model in &question.models.models {
        asked = ask_one(state, held, question, model, used.take(), deadline, &read).await?;
        if !matches!(asked, Asked::Unusable(Unusable::Unanswered(AiError::UnknownModel))) {
            break;
        }
    }
    Ok(asked)
}

async fn ask_one<T>(
    state: &State,
    held: &Held,
    question: &Question<'_>,
    model: &Model,
    used: Option<Uuid>,
    deadline: Instant,
    read: &impl Fn(Value, Metered) -> Result<T, Unusable>,
) -> Result<Asked<T>, Stop> {
    let job = &held.job;
    let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(MARGIN);
    if left < SHORTEST {
        return Ok(Asked::Barred("time_out"));
    }
    let wanted = Wanted {
        // The system asks, and a message is of no project.
        counted: Counted { agent: AGENT, user_id: None, project_id: None },
        purpose: question.purpose,
        model,
        characters: question.system.chars().count() + question.prompt.chars().count(),
        max_tokens: question.max_tokens,
        used,
    };
    let (call_id, reservation_id, reserved) = match call::begin(&state.db, held, wanted).await? {
        Begun::Reserved { call_id, reservation_id, reserved } => (call_id, reservation_id, reserved),
        Begun::NoPrice => return Ok(Asked::Barred("model_price_unknown")),
        Begun::Reached(waiting) => return Ok(Asked::Reached(waiting)),
        Begun::TooLarge { .. } => return Ok(Asked::Barred("limit_too_small")),
    };
    let call = Call { id: call_id, org_id: job.org_id, model, reserved, secret: Secret::AnthropicApiKey, left };
    let made = call::make(&state.db, &state.secrets, &call, async |key| {
        let Question { system, prompt, schema, max_tokens, .. } = question;
        let answered = state.claude.answer(key, &model.model, system, prompt, schema, *max_tokens).await?;
        let metered = answered.metered;
        answered.try_map(|value| read(value, metered))
    })
    .await?;
    Ok(match (made.answer, made.unpriced) {
        (Ok(answer), None) => {
            Asked::Answered(answer, Paid { model: model.model.clone(), reservation_id, call_id, charge: made.charge })
        }
        (Ok(_), Some(_)) => Asked::Barred("model_price_unknown"),
        (Err(unusable), _) => Asked::Unusable(unusable),
    })
}
