//! One call to a model: its row before it is made and after, its price, and its retries.

use std::time::{Duration, Instant};

use serde_json::json;
use shared::{
    ai::{
        Answered, Charge, Metered,
        call::{self, Call, Failed},
    },
    limits::{self, Amounts, Reserved},
    secrets::{Secret, SecretValue},
    store::{
        models::Model,
        provider_calls::{self, NewCall},
    },
    worker::{self, Stop},
};
use uuid::Uuid;

use crate::{
    job::{Bill, InHand, Paid, counted},
    outcome::{Failure, Halt, Retry},
};

/// How often a call is made again in the same attempt.
const RETRIES: u32 = 2;
/// The longest an attempt waits between two of them; a longer wait gives the job back instead.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// What is kept of the function's time for what follows a call: looking at a picture, storing it, and ending the job or giving it
/// back.
const MARGIN: Duration = Duration::from_secs(15);
/// A call is not begun with less time than this.
const SHORTEST: Duration = Duration::from_secs(1);

impl Failed for Failure {
    fn code(&self) -> &'static str {
        self.code
    }

    fn metered(&self) -> Option<Metered> {
        self.metered.as_deref().copied()
    }
}

/// What is called, and what pays for it.
pub(crate) struct Ask<'a> {
    pub(crate) purpose: &'static str,
    pub(crate) model: &'a Model,
    /// What was reserved for it.
    pub(crate) reserved: Charge,
    pub(crate) secret: Secret,
}

/// Makes the call, and makes it again while that may help and there is time.
///
/// `answer` gets the key and returns an answer that can be used, or why there is none and what that cost.
pub(crate) async fn paid<T>(
    hand: InHand<'_>,
    ask: &Ask<'_>,
    answer: impl AsyncFn(&SecretValue) -> Result<Answered<T>, Failure>,
) -> Result<Paid<T>, Halt> {
    let mut tries = 0;
    loop {
        let failure = match once(hand, ask, &answer).await {
            Err(Halt::Failed(failure)) => failure,
            other => return other,
        };
        let most = match failure.retry {
            Retry::Once => 1,
            Retry::Later => RETRIES,
            Retry::Never | Retry::Quota => 0,
        };
        let pause = failure.pause(tries + 1, rand::random());
        if tries >= most || pause > LONGEST_PAUSE || left(hand.deadline) < pause + SHORTEST {
            return Err(failure.into());
        }
        tries += 1;
        tracing::warn!(job.id = %hand.held.job.id, code = failure.code, tries, "a call is made again");
        if failure.metered.is_some() {
            reserve_again(hand, hand.plan.amounts.get()).await?;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Counts what was spent and reserves `amounts` again, since an answer that cannot be used is paid for, and another model costs
/// something else: no call exceeds a cap.
pub(crate) async fn reserve_again(hand: InHand<'_>, amounts: Amounts) -> Result<(), Halt> {
    let InHand { state, held, plan, .. } = hand;
    let reserved = state.db.service(held.job.org_id, async |tx| {
        // A worker whose lease is over would give back what another one holds.
        held.go_on(tx).await?;
        limits::refund_job(tx, held.job.id).await?;
        Ok::<_, Stop>(limits::reserve(tx, held.job.id, counted(&held.job, &plan.render), amounts).await?)
    });
    match reserved.await? {
        Reserved::Active(reservation) => {
            plan.reservation.set(reservation);
            plan.amounts.set(amounts);
        }
        Reserved::Reached(waiting) => {
            // It costs an attempt, since a call was paid for: without an end to that, a model that answers nonsense would be asked again in
            // every window.
            let failure = Some(worker::Failure::new(waiting.code(), waiting.detail()));
            return Err(Stop::Snooze { until: waiting.until, why: json!(waiting), failure, counts: true }.into());
        }
        Reserved::Never { scope } => {
            let detail = format!("Another try is more than the {scope}'s limit allows.");
            return Err(Failure::permanent("limit_too_small", detail).into());
        }
    }
    Ok(())
}

/// The time there is for calls.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).saturating_sub(MARGIN)
}

async fn once<T>(
    hand: InHand<'_>,
    ask: &Ask<'_>,
    answer: &impl AsyncFn(&SecretValue) -> Result<Answered<T>, Failure>,
) -> Result<Paid<T>, Halt> {
    let InHand { state, held, plan, deadline } = hand;
    if left(deadline) < SHORTEST {
        return Err(Failure::passing("time_out", "The worker's time was over; another goes on.").into());
    }
    let id = Uuid::now_v7();
    let new = NewCall {
        id,
        org_id: held.job.org_id,
        job_id: held.job.id,
        reservation_id: plan.reservation.get(),
        attempt: held.job.attempt,
        purpose: ask.purpose,
        provider: &ask.model.provider,
        model: &ask.model.model,
        reserved: ask.reserved,
    };
    let begun = state.db.service(held.job.org_id, async |tx| {
        held.go_on(tx).await?;
        Ok::<_, Stop>(provider_calls::insert(tx, new).await?)
    });
    begun.await?;

    let call = Call {
        id,
        org_id: held.job.org_id,
        model: ask.model,
        reserved: ask.reserved,
        secret: ask.secret,
        left: left(deadline),
    };
    let made = call::make(&state.db, &state.secrets, &call, answer).await?;
    let value = made.answer?;
    if made.unpriced.is_some() {
        return Err(Failure::permanent("model_price_unknown", "The model used a unit that has no price.").into());
    }
    Ok(Paid { value, bill: Bill { call_id: id, charge: made.charge, reserved: ask.reserved } })
}
