//! A call that is paid for: between the row that its worker wrote before it and the end of that row.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;
use uuid::Uuid;

use super::{AiError, Answered, UnknownPrice, Usage, cost_micro_usd};
use crate::{
    db::Database,
    secrets::{Secret, SecretError, SecretValue, Secrets},
    store::{
        StoreError,
        prices::ModelPrice,
        provider_calls::{self, CallEnd},
    },
};

/// What a call is made with.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Of its row, see [`provider_calls::insert`].
    pub id: Uuid,
    /// The organisation it is made for.
    pub org_id: Uuid,
    /// What it costs.
    pub prices: &'a [ModelPrice],
    /// The key.
    pub secret: Secret,
    /// How long it may take.
    pub left: Duration,
}

/// Why there is no answer that can be used, in the words of whoever asked.
pub trait Failed: From<AiError> {
    /// Stable code, for `provider_calls.outcome`.
    fn code(&self) -> &'static str;
    /// What was paid for it.
    fn usage(&self) -> Option<Usage>;
}

impl Failed for AiError {
    fn code(&self) -> &'static str {
        self.code()
    }

    fn usage(&self) -> Option<Usage> {
        self.usage().copied()
    }
}

/// What came of a call.
#[derive(Debug)]
pub struct Made<T, E> {
    /// What was asked for, or why there is none.
    pub answer: Result<T, E>,
    /// Tokens of all kinds.
    pub tokens: i64,
    /// In micro-USD. What has no price is told, and is never free.
    pub cost_micro_usd: Result<i64, UnknownPrice>,
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
        Err(_) => Err(AiError::Timeout.into()),
    };
    let usage = match &answered {
        Ok(answered) => Some(answered.usage),
        Err(failed) => failed.usage(),
    };
    let tokens = usage.as_ref().map(Usage::total_tokens).unwrap_or_default();
    let cost_micro_usd = usage.map_or(Ok(0), |usage| cost_micro_usd(&usage, call.prices));
    let end = CallEnd {
        outcome: match (&answered, &cost_micro_usd) {
            (Err(failed), _) => failed.code(),
            (Ok(_), Err(_)) => "model_price_unknown",
            (Ok(_), Ok(_)) => "ok",
        },
        // The tokens are kept either way.
        usage: usage.map(|usage| json!(usage)),
        tokens,
        cost_micro_usd: cost_micro_usd.as_ref().copied().unwrap_or_default(),
        provider_request_id: answered.as_ref().ok().and_then(|answered| answered.provider_request_id.as_deref()),
    };
    let mut tx = db.service_tx(call.org_id).await?;
    provider_calls::update_end(&mut tx, call.id, &end).await?;
    tx.commit().await?;
    Ok(Made { answer: answered.map(|answered| answered.value), tokens, cost_micro_usd })
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
