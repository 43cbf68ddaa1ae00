//! A call that is paid for: between the row that its worker wrote before it and the end of that row.

use std::time::Duration;

use chrono::Utc;
use serde_json::json;
use tokio::time::timeout;
use uuid::Uuid;

use super::{AiError, Answered, Charge, Metered, UnknownPrice, Usage, cost_micro_usd};
use crate::{
    db::Database,
    limits::{self, Amounts, Counted, Reserved, Waiting},
    secrets::{Secret, SecretError, SecretValue, Secrets},
    store::{
        StoreError,
        models::{self, Model},
        provider_calls::{self, CallEnd, NewCall},
    },
    telemetry::{Unit, metric},
    worker::{Held, Stop},
};

/// A call to Anthropic that a job is about to make.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What is counted under the organisation's limits.
    pub counted: Counted<'a>,
    /// As `provider_calls.purpose` names it.
    pub purpose: &'static str,
    /// The model, with its prices.
    pub model: &'a Model,
    /// The characters of everything that it is given.
    pub characters: usize,
    /// The most tokens an answer may take.
    pub max_tokens: u32,
    /// A reservation that an earlier call of the job has used: it is settled first.
    pub used: Option<Uuid>,
}

/// What came of reserving a call.
#[derive(Debug)]
pub enum Begun {
    /// It may be made, once.
    Reserved {
        /// Of its row.
        call_id: Uuid,
        /// What pays for it.
        reservation_id: Uuid,
        /// What was reserved.
        reserved: Charge,
    },
    /// The model has no price, so that it is not called.
    NoPrice,
    /// A limit has no room for it now.
    Reached(Waiting),
    /// It alone is more than a limit ever has room for.
    TooLarge {
        /// Whose limit.
        scope: String,
    },
}

/// Reserves what a call may use, after what earlier calls of the job have spent was counted, and writes down that it is about to be made.
///
/// # Errors
/// [`Stop`] if the job is not this worker's any more, was cancelled, or the database does not answer.
pub async fn begin<P>(db: &Database, held: &Held<P>, wanted: Wanted<'_>) -> Result<Begun, Stop> {
    let job = &held.job;
    let expected = expected(wanted.characters, wanted.max_tokens);
    db.service(job.org_id, async |tx| {
        // A worker whose lease is over would give back what another one holds.
        held.go_on(tx).await?;
        if let Some(used) = wanted.used {
            limits::settle(tx, used, 1).await?;
        }
        let Ok(reserved) = Charge::reserved(&expected, &wanted.model.prices) else { return Ok(Begun::NoPrice) };
        limits::refund_job(tx, job.id).await?;
        let amounts = Amounts { requests: 1, tokens: reserved.tokens, cost_micro_usd: reserved.cost_micro_usd };
        let reservation_id = match limits::reserve(tx, job.id, wanted.counted, amounts).await? {
            Reserved::Active(reservation_id) => reservation_id,
            Reserved::Reached(waiting) => return Ok(Begun::Reached(waiting)),
            Reserved::Never { scope } => return Ok(Begun::TooLarge { scope }),
        };
        let call_id = Uuid::now_v7();
        let new = NewCall {
            id: call_id,
            org_id: job.org_id,
            job_id: job.id,
            reservation_id,
            attempt: job.attempt,
            purpose: wanted.purpose,
            provider: &wanted.model.provider,
            model: &wanted.model.model,
            reserved,
        };
        provider_calls::insert(tx, new).await?;
        Ok(Begun::Reserved { call_id, reservation_id, reserved })
    })
    .await
}

/// What a call for text is expected to use. Two characters are a token at least: on the high side, since what is not used is given back.
#[must_use]
pub fn expected(characters: usize, max_tokens: u32) -> Usage {
    let input = u64::try_from(characters).unwrap_or(u64::MAX) / 2;
    Usage { input, output: u64::from(max_tokens), ..Usage::default() }
}

/// What a call is made with.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Of its row, see [`provider_calls::insert`].
    pub id: Uuid,
    /// The organisation it is made for.
    pub org_id: Uuid,
    /// The model, with its prices.
    pub model: &'a Model,
    /// What was reserved for it.
    pub reserved: Charge,
    /// The key.
    pub secret: Secret,
    /// How long it may take.
    pub left: Duration,
}

/// Why there is no answer that can be used, in the words of whoever asked.
pub trait Failed: From<AiError> {
    /// Stable code, for `provider_calls.outcome`.
    fn code(&self) -> &'static str;
    /// What was paid for it. `None` if the provider bills nothing.
    fn metered(&self) -> Option<Metered>;
}

impl Failed for AiError {
    fn code(&self) -> &'static str {
        self.code()
    }

    fn metered(&self) -> Option<Metered> {
        self.metered()
    }
}

/// What came of a call.
#[derive(Debug)]
pub struct Made<T, E> {
    /// What was asked for, or why there is none.
    pub answer: Result<T, E>,
    /// What it is charged with.
    pub charge: Charge,
    /// A unit it used that has no price.
    pub unpriced: Option<UnknownPrice>,
}

/// Makes the call and ends its row. `answer` is given the key; once more with a newer one, if the provider refused it and there is one.
///
/// # Errors
/// [`StoreError`] if its end could not be written; the call is then found as lost.
pub async fn make<T, E: Failed>(
    db: &Database,
    secrets: &Secrets,
    call: &Call<'_>,
    answer: impl AsyncFn(&SecretValue) -> Result<Answered<T>, E>,
) -> Result<Made<T, E>, StoreError> {
    let answered = match timeout(call.left, keyed(secrets, call.secret, answer)).await {
        Ok(answered) => answered,
        Err(_) => Err(AiError::Unanswered { timed_out: true }.into()),
    };
    let Model { provider, model, prices, .. } = call.model;
    let metered = match &answered {
        Ok(answered) => Some(answered.metered),
        Err(failed) => failed.metered(),
    };
    let charge = metered.map_or_else(Charge::default, |metered| Charge::settled(&metered, call.reserved, prices));
    let unpriced = metered.and_then(|metered| cost_micro_usd(&metered.usage, prices).err());
    if charge.estimated {
        let unreported = metered.and_then(|metered| metered.unreported);
        tracing::warn!(call.id = %call.id, provider, unreported, "a call is charged as it was reserved");
        metric(Utc::now(), "CostsEstimated", Unit::Count, 1.0, &[("provider", provider)]);
    }
    let unknown = answered.as_ref().is_err_and(|failed| failed.code() == AiError::UnknownModel.code());
    if unknown {
        tracing::error!(call.id = %call.id, provider, model, "the provider knows no such model; others go before it for an hour");
        metric(Utc::now(), "ModelsUnknown", Unit::Count, 1.0, &[("provider", provider)]);
    }
    let end = CallEnd {
        outcome: match (&answered, &unpriced) {
            (Err(failed), _) => failed.code(),
            (Ok(_), Some(_)) => "model_price_unknown",
            (Ok(_), None) => "ok",
        },
        // The tokens are kept either way.
        usage: metered.map(|metered| json!(metered.usage)),
        charge,
        provider_request_id: answered.as_ref().ok().and_then(|answered| answered.provider_request_id.as_deref()),
    };
    db.service(call.org_id, async |tx| {
        if unknown {
            models::miss(tx, provider, model).await?;
        }
        provider_calls::update_end(tx, call.id, &end).await
    })
    .await?;
    Ok(Made { answer: answered.map(|answered| answered.value), charge, unpriced })
}

async fn keyed<T, E: Failed>(
    secrets: &Secrets,
    secret: Secret,
    answer: impl AsyncFn(&SecretValue) -> Result<Answered<T>, E>,
) -> Result<Answered<T>, E> {
    let unavailable = |error: SecretError| {
        tracing::error!(%secret, %error, "a provider's key is not available");
        E::from(AiError::NoKey)
    };
    let key = secrets.get(secret).await.map_err(unavailable)?;
    match answer(&key).await {
        Err(failed) if failed.code() == AiError::BadKey.code() => {
            let newer = secrets.refetch(secret, &key).await.map_err(unavailable)?;
            if newer.same(&key) { Err(failed) } else { answer(&newer).await }
        }
        other => other,
    }
}
