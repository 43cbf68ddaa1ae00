//! A text from one model: reserved before each call, its row written before it and after, and every number checked before it counts.

use std::time::{Duration, Instant};

use shared::{
    ai::{
        AiError, Charge, Metered,
        call::{self, Call, Failed, Wanted},
    },
    limits::{Counted, Waiting},
    secrets::Secret,
    store::models::Model,
    worker::Stop,
};
use uuid::Uuid;

use crate::{
    job::{AGENT, Held, PURPOSE, Plan, Written},
    state::State,
    text::{self, Complaint, Draft},
};

/// The most tokens an answer may take.
pub(crate) const MAX_TOKENS: u32 = 2048;
/// How often a model is asked for the same text: once more with the complaint about the first.
const TRIES: u32 = 2;
/// What is kept of the function's time for storing the text or giving the job back.
const MARGIN: Duration = Duration::from_secs(10);
/// A call is not begun with less time than this.
const SHORTEST: Duration = Duration::from_secs(1);

/// What helps against a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Help {
    /// To wait: the provider's hint, if it gave one.
    Wait(Option<Duration>),
    /// To wait until the tenant's own limit has room.
    Window(Waiting),
    /// Another model.
    Model,
    /// Nothing that models do: the template.
    Template,
}

/// Why a model gave no text that can be shown.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: &'static str,
    pub(crate) detail: String,
    pub(crate) help: Help,
}

impl Failure {
    /// Whether the provider knows no such model, so that another one may do.
    pub(crate) fn is_unknown_model(&self) -> bool {
        self.code == AiError::UnknownModel.code()
    }
}

impl From<AiError> for Failure {
    fn from(error: AiError) -> Self {
        // No wildcard arm: a new error must choose here.
        let help = match &error {
            AiError::RateLimited { .. }
            | AiError::Overloaded { .. }
            | AiError::Timeout
            | AiError::Unreachable
            | AiError::Unanswered { .. }
            | AiError::NoKey => Help::Wait(error.retry_after()),
            AiError::QuotaSpent | AiError::SpendCap | AiError::UnknownModel | AiError::InvalidRequest => Help::Model,
            AiError::Blocked { .. }
            | AiError::Refused { .. }
            | AiError::Truncated { .. }
            | AiError::Malformed { .. }
            | AiError::NoImage { .. }
            | AiError::BadKey => Help::Template,
        };
        Self { code: error.code(), detail: error.to_string(), help }
    }
}

/// Why an answer cannot be shown.
enum Unusable {
    /// There is none, or it cannot be read.
    Unanswered(AiError),
    /// It says what the figures do not.
    Untrue(Complaint, Metered),
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
            Self::Untrue(complaint, _) => complaint.code(),
        }
    }

    fn metered(&self) -> Option<Metered> {
        match self {
            Self::Unanswered(error) => error.metered(),
            Self::Untrue(_, metered) => Some(*metered),
        }
    }
}

/// A call that was reserved and written down, and may be made.
struct Begun {
    call_id: Uuid,
    reservation_id: Uuid,
    reserved: Charge,
}

/// Asks `model` for a text; once more, with what was wrong, if the first cannot be shown or read.
pub(crate) async fn text(
    state: &State,
    held: &Held,
    plan: &Plan,
    model: &Model,
    deadline: Instant,
) -> Result<Result<Written, Failure>, Stop> {
    let schema = text::schema();
    let mut prompt = plan.prompt.clone();
    let mut tries = 0;
    loop {
        tries += 1;
        // Boxed: the compiler follows types of futures to a limited depth.
        let begun = match Box::pin(begin(state, held, plan, model, &prompt, deadline)).await? {
            Ok(begun) => begun,
            Err(failure) => return Ok(Err(failure)),
        };
        let call = Call {
            id: begun.call_id,
            org_id: held.job.org_id,
            model,
            reserved: begun.reserved,
            secret: Secret::AnthropicApiKey,
            left: left(deadline),
        };
        // On the heap: within the function's own future it is deeper than the compiler looks.
        let made = Box::pin(call::make(&state.db, &state.secrets, &call, async |key| {
            let answered = state.claude.answer(key, &model.model, &plan.system, &prompt, &schema, MAX_TOKENS).await?;
            let metered = answered.metered;
            answered.try_map(|value| {
                let draft: Draft = serde_json::from_value(value).map_err(|_| AiError::Malformed { metered })?;
                text::check(draft, &plan.figures).map_err(|complaint| Unusable::Untrue(complaint, metered))
            })
        }))
        .await?;
        if made.unpriced.is_some() {
            return Ok(Err(no_price()));
        }
        let complaint = match made.answer {
            Ok(text) => {
                let (reservation_id, charge) = (begun.reservation_id, made.charge);
                return Ok(Ok(Written { text, model: model.model.clone(), charge, reservation_id }));
            }
            Err(Unusable::Untrue(complaint, _)) if tries < TRIES => {
                tracing::warn!(job.id = %held.job.id, code = complaint.code(), "a text is asked for again");
                format!("Your last answer could not be shown. {}", complaint.told())
            }
            Err(Unusable::Untrue(complaint, _)) => {
                let detail = "The model's text does not agree with the figures.".to_owned();
                return Ok(Err(Failure { code: complaint.code(), detail, help: Help::Template }));
            }
            Err(Unusable::Unanswered(AiError::Truncated { .. } | AiError::Malformed { .. })) if tries < TRIES => {
                "Your last answer could not be read. Give the whole object, and keep it short.".to_owned()
            }
            Err(Unusable::Unanswered(error)) => return Ok(Err(error.into())),
        };
        prompt = format!("{}\n\n{complaint}", plan.prompt);
    }
}

/// The time there is for a call.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).saturating_sub(MARGIN)
}

/// Nothing that could be called has a price.
pub(crate) fn no_price() -> Failure {
    Failure {
        code: "model_price_unknown",
        detail: "There is no price for the model in model_prices, so it was not called.".to_owned(),
        help: Help::Model,
    }
}

/// Reserves what the call may use, after what earlier calls of the job have spent was counted, and writes that it is about to be made.
async fn begin(
    state: &State,
    held: &Held,
    plan: &Plan,
    model: &Model,
    prompt: &str,
    deadline: Instant,
) -> Result<Result<Begun, Failure>, Stop> {
    let job = &held.job;
    if left(deadline) < SHORTEST {
        let detail = "The worker's time was over; another goes on.".to_owned();
        return Ok(Err(Failure { code: "time_out", detail, help: Help::Wait(None) }));
    }
    let wanted = Wanted {
        // Nightly work is nobody's, and an insight is of no project.
        counted: Counted { agent: AGENT, user_id: job.created_by, project_id: None },
        purpose: PURPOSE,
        model,
        characters: plan.system.chars().count() + prompt.chars().count(),
        max_tokens: MAX_TOKENS,
        used: None,
    };
    Ok(match call::begin(&state.db, held, wanted).await? {
        call::Begun::Reserved { call_id, reservation_id, reserved } => Ok(Begun { call_id, reservation_id, reserved }),
        call::Begun::NoPrice => Err(no_price()),
        call::Begun::Reached(waiting) => {
            let (code, detail) = (waiting.code(), waiting.detail());
            Err(Failure { code, detail, help: Help::Window(waiting) })
        }
        call::Begun::TooLarge { scope } => {
            let detail = format!("This alone is more than the {scope}'s limit allows.");
            Err(Failure { code: "limit_too_small", detail, help: Help::Model })
        }
    })
}
