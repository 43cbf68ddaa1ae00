//! One call to a model: its row before it is made and after, its price, and its retries.

use std::time::{Duration, Instant};

use shared::{
    ai::{
        Answered, Charge, Metered,
        call::{self, Call, Failed},
    },
    jobs::{self, Renewed},
    limits::{self, Reserved},
    secrets::{Secret, SecretValue},
    store::{
        prices::ModelPrice,
        provider_calls::{self, NewCall},
    },
};
use uuid::Uuid;

use super::{Failure, Held, LEASE, Retry, State, Stop};

/// How often a call is made again in the same attempt.
const RETRIES: u32 = 2;
/// The longest an attempt waits between two of them; a longer wait gives the job back instead.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// What is kept of the function's time for what follows a call: looking at a picture, storing it, and ending the job or giving it
/// back.
const MARGIN: Duration = Duration::from_secs(15);
/// A call is not begun with less time than this.
const SHORTEST: Duration = Duration::from_secs(1);

/// A call to a model that was made and paid for.
pub(super) struct Paid<T> {
    pub(super) value: T,
    pub(super) bill: Bill,
}

/// What a call is charged with, and what was reserved for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bill {
    pub(super) call_id: Uuid,
    pub(super) charge: Charge,
    pub(super) reserved: Charge,
}

impl Failed for Failure {
    fn code(&self) -> &'static str {
        self.code
    }

    fn metered(&self) -> Option<Metered> {
        self.metered.as_deref().copied()
    }
}

/// What is called, at whose price and until when.
pub(super) struct Ask<'a> {
    pub(super) purpose: &'static str,
    pub(super) provider: &'static str,
    pub(super) model: &'a str,
    pub(super) prices: &'a [ModelPrice],
    /// What was reserved for it.
    pub(super) reserved: Charge,
    pub(super) secret: Secret,
    /// When the function is cut off.
    pub(super) deadline: Instant,
}

/// Makes the call, and makes it again while that may help and there is time.
///
/// `answer` gets the key and returns an answer that can be used, or why there is none and what that cost.
pub(super) async fn paid<T>(
    state: &State,
    held: &Held,
    ask: &Ask<'_>,
    answer: impl AsyncFn(&SecretValue) -> Result<Answered<T>, Failure>,
) -> Result<Paid<T>, Stop> {
    let mut tries = 0;
    loop {
        let failure = match once(state, held, ask, &answer).await {
            Err(Stop::Failed(failure)) => failure,
            other => return other,
        };
        let most = match failure.retry {
            Retry::Once => 1,
            Retry::Later => RETRIES,
            Retry::Never | Retry::Quota => 0,
        };
        let pause = failure.pause(tries + 1, rand::random());
        if tries >= most || pause > LONGEST_PAUSE || left(ask.deadline) < pause + SHORTEST {
            return Err(failure.into());
        }
        tries += 1;
        tracing::warn!(job.id = %held.job.id, code = failure.code, tries, "a call is made again");
        if failure.metered.is_some() {
            reserve_again(state, held).await?;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Counts what was spent and reserves anew, since an answer that cannot be used is paid for: retries exceed no cap.
async fn reserve_again(state: &State, held: &Held) -> Result<(), Stop> {
    let mut tx = state.db.service_tx(held.job.org_id).await?;
    // Whoever's lease is over would give back what another worker holds.
    if jobs::renew(&mut tx, &held.job, LEASE).await?? == Renewed::CancelRequested {
        tx.rollback().await?;
        return Err(Stop::Cancelled);
    }
    limits::refund_job(&mut tx, held.job.id).await?;
    let reserved = limits::reserve(&mut tx, held.job.id, super::counted(&held.job, &held.render), held.amounts).await?;
    tx.commit().await?;
    match reserved {
        Reserved::Active(reservation) => held.reservation.set(reservation),
        Reserved::Reached(waiting) => return Err(Stop::Limited(waiting)),
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
    state: &State,
    held: &Held,
    ask: &Ask<'_>,
    answer: &impl AsyncFn(&SecretValue) -> Result<Answered<T>, Failure>,
) -> Result<Paid<T>, Stop> {
    let job = &held.job;
    if left(ask.deadline) < SHORTEST {
        return Err(Failure::passing("time_out", "The worker's time was over; another goes on.").into());
    }
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
        reservation_id: held.reservation.get(),
        attempt: job.attempt,
        purpose: ask.purpose,
        provider: ask.provider,
        model: ask.model,
        reserved: ask.reserved,
    };
    provider_calls::insert(&mut tx, new).await?;
    tx.commit().await?;

    let call = Call {
        id,
        org_id: job.org_id,
        provider: ask.provider,
        prices: ask.prices,
        reserved: ask.reserved,
        secret: ask.secret,
        left: left(ask.deadline),
    };
    let made = call::make(&state.db, &state.secrets, &call, answer).await?;
    let value = made.answer?;
    if made.unpriced.is_some() {
        return Err(Failure::permanent("model_price_unknown", "The model used a unit that has no price.").into());
    }
    Ok(Paid { value, bill: Bill { call_id: id, charge: made.charge, reserved: ask.reserved } })
}
