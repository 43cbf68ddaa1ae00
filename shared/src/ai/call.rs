//! A call that is paid for: between the row that its worker wrote before it and the end of that row.

use std::time::Duration;

use chrono::Utc;
use serde_json::json;
use tokio::time::timeout;
use uuid::Uuid;

use super::{AiError, Answered, Charge, Metered, UnknownPrice, cost_micro_usd};
use crate::{
    db::Database,
    secrets::{Secret, SecretError, SecretValue, Secrets},
    store::{
        StoreError,
        prices::ModelPrice,
        provider_calls::{self, CallEnd},
    },
    telemetry::{Unit, metric},
};

/// What a call is made with.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Of its row, see [`provider_calls::insert`].
    pub id: Uuid,
    /// The organisation it is made for.
    pub org_id: Uuid,
    /// `anthropic` or `gemini`.
    pub provider: &'static str,
    /// What it costs.
    pub prices: &'a [ModelPrice],
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
    let metered = match &answered {
        Ok(answered) => Some(answered.metered),
        Err(failed) => failed.metered(),
    };
    let charge = metered.map_or_else(Charge::default, |metered| Charge::settled(&metered, call.reserved, call.prices));
    let unpriced = metered.and_then(|metered| cost_micro_usd(&metered.usage, call.prices).err());
    if charge.estimated {
        let unreported = metered.and_then(|metered| metered.unreported);
        tracing::warn!(call.id = %call.id, provider = call.provider, unreported, "a call is charged as it was reserved");
        metric(Utc::now(), "CostsEstimated", Unit::Count, 1.0, &[("provider", call.provider)]);
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
    db.service(call.org_id, async |tx| provider_calls::update_end(tx, call.id, &end).await).await?;
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
