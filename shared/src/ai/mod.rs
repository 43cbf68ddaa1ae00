//! Claude and Gemini: requests as their providers document them, answers as typed outcomes, and what they cost.
//!
//! A provider's error bodies never appear in an error's text: they may quote the prompt.

pub mod call;
pub mod models;

use std::time::Duration;

use serde::Serialize;

use crate::store::models::ModelPrice;
pub use crate::store::provider_calls::Charge;

/// Tokens of one answer, each counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Prompt tokens that came from no cache.
    pub input: u64,
    /// Text tokens of the answer, thinking included.
    pub output: u64,
    /// Prompt tokens read from the provider's cache.
    pub cache_read: u64,
    /// Prompt tokens written to the five-minute cache.
    pub cache_write_5m: u64,
    /// Prompt tokens written to the one-hour cache.
    pub cache_write_1h: u64,
    /// Tokens of pictures in the answer.
    pub image_output: u64,
}

impl Usage {
    /// Each unit that has a price of its own, by its name in `model_prices`.
    fn units(&self) -> [(&'static str, u64); 6] {
        [
            ("input", self.input),
            ("output", self.output),
            ("cache_read", self.cache_read),
            ("cache_write_5m", self.cache_write_5m),
            ("cache_write_1h", self.cache_write_1h),
            ("image_output", self.image_output),
        ]
    }

    /// All tokens, whatever they cost.
    #[must_use]
    pub fn total_tokens(&self) -> i64 {
        i64::try_from(self.units().iter().fold(0_u64, |sum, (_, tokens)| sum.saturating_add(*tokens)))
            .unwrap_or(i64::MAX)
    }

    /// Tokens of the prompt, which decide the price tier.
    pub(crate) fn prompt_tokens(&self) -> u64 {
        [self.cache_read, self.cache_write_5m, self.cache_write_1h].into_iter().fold(self.input, u64::saturating_add)
    }
}

/// What an answer says it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metered {
    /// Its parts, as far as they are reported.
    pub usage: Usage,
    /// The first billed part that is absent or is no count, by the provider's name for it.
    pub unreported: Option<&'static str>,
}

impl Metered {
    /// A request was sent, and no answer says what it took.
    pub const UNKNOWN: Self = Self {
        usage: Usage { input: 0, output: 0, cache_read: 0, cache_write_5m: 0, cache_write_1h: 0, image_output: 0 },
        unreported: Some("usage"),
    };
}

impl Charge {
    /// What is reserved for a call that is expected to use so much.
    ///
    /// # Errors
    /// [`UnknownPrice`] if a unit of it has none.
    pub fn reserved(expected: &Usage, prices: &[ModelPrice]) -> Result<Self, UnknownPrice> {
        let cost_micro_usd = cost_micro_usd(expected, prices)?;
        Ok(Self { tokens: expected.total_tokens(), cost_micro_usd, estimated: true })
    }

    /// What an answer costs that reports so much: the sum of its parts if each is reported and has a price, else no less than was
    /// `reserved`.
    #[must_use]
    pub fn settled(metered: &Metered, reserved: Self, prices: &[ModelPrice]) -> Self {
        let tokens = metered.usage.total_tokens();
        match (cost_micro_usd(&metered.usage, prices), metered.unreported) {
            (Ok(cost_micro_usd), None) => Self { tokens, cost_micro_usd, estimated: false },
            (cost, _) => Self {
                tokens: tokens.max(reserved.tokens),
                cost_micro_usd: cost.unwrap_or_default().max(reserved.cost_micro_usd),
                estimated: true,
            },
        }
    }
}

/// A unit was used that has no price. It is refused, never free.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no price for the unit {unit}")]
pub struct UnknownPrice {
    /// As in `model_prices.unit`.
    pub unit: &'static str,
}

/// What `usage` costs in micro-USD at `prices`, rounded up.
///
/// The tier is chosen by the prompt's tokens and holds for the whole request, output included. `prices` are those of one
/// model; see [`crate::store::models::list`].
///
/// # Errors
/// [`UnknownPrice`] for the first unit that was used and has none.
pub fn cost_micro_usd(usage: &Usage, prices: &[ModelPrice]) -> Result<i64, UnknownPrice> {
    let prompt = i64::try_from(usage.prompt_tokens()).unwrap_or(i64::MAX);
    let mut millionths: i128 = 0;
    for (unit, tokens) in usage.units().into_iter().filter(|(_, tokens)| *tokens > 0) {
        let price = prices
            .iter()
            .filter(|price| price.unit == unit && (price.tier == 0 || prompt > price.tier))
            .max_by_key(|price| price.tier)
            .ok_or(UnknownPrice { unit })?;
        millionths += i128::from(tokens) * i128::from(price.micro_usd_per_million);
    }
    Ok(i64::try_from((millionths + 999_999) / 1_000_000).unwrap_or(i64::MAX))
}

/// An answer that can be used.
#[derive(Debug, Clone)]
pub struct Answered<T> {
    /// What was asked for.
    pub value: T,
    /// What it took.
    pub metered: Metered,
    /// The provider's id of the request, to ask them about it.
    pub provider_request_id: Option<String>,
}

impl<T> Answered<T> {
    /// Makes something else of what was asked for, or says why that cannot be done.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn try_map<U, E>(self, change: impl FnOnce(T) -> Result<U, E>) -> Result<Answered<U>, E> {
        Ok(Answered {
            value: change(self.value)?,
            metered: self.metered,
            provider_request_id: self.provider_request_id,
        })
    }
}

/// A picture as bytes.
#[derive(Debug, Clone)]
pub struct Picture {
    /// As in `image/png`; from a provider, what it claims.
    pub mime: String,
    /// The file.
    pub bytes: Vec<u8>,
}

/// Why a provider gave no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AiError {
    /// The prompt was blocked before anything was made.
    #[error("The provider blocked the request ({reason}); change the wishes or the photo.")]
    Blocked {
        /// The provider's word for it.
        reason: String,
        /// What was paid for it, as far as the answer tells.
        metered: Metered,
    },
    /// The model declined.
    #[error("The model declined the request; change the wishes.")]
    Refused {
        /// What was paid for it.
        metered: Metered,
    },
    /// The answer ended before it was complete.
    #[error("The model's answer was cut off.")]
    Truncated {
        /// What was paid for it.
        metered: Metered,
    },
    /// The answer is not what was asked for.
    #[error("The provider's answer could not be read.")]
    Malformed {
        /// What was paid for it, as far as the answer tells.
        metered: Metered,
    },
    /// The answer has no picture.
    #[error("The model answered without a picture ({finish_reason}).")]
    NoImage {
        /// The provider's word for why it stopped.
        finish_reason: String,
        /// What was paid for it.
        metered: Metered,
    },
    /// Too many requests this minute.
    #[error("The provider is limiting requests.")]
    RateLimited {
        /// When it said to come back.
        retry_after: Option<Duration>,
    },
    /// The day's quota is spent.
    #[error("The provider's daily quota is spent.")]
    QuotaSpent,
    /// The spending limit set at the provider is reached.
    #[error("The spending limit at the provider is reached.")]
    SpendCap,
    /// The provider is overloaded or broken for now.
    #[error("The provider is overloaded.")]
    Overloaded {
        /// When it said to come back.
        retry_after: Option<Duration>,
    },
    /// The key was refused.
    #[error("The provider refused the key.")]
    BadKey,
    /// The provider knows no such model.
    #[error("The provider knows no such model.")]
    UnknownModel,
    /// The provider found the request wrong.
    #[error("The provider found the request invalid.")]
    InvalidRequest,
    /// No connection in time, or the provider's own word that it took too long.
    #[error("The provider did not answer in time.")]
    Timeout,
    /// No connection.
    #[error("The provider could not be reached.")]
    Unreachable,
    /// The request was sent, and no whole answer came: it is not known whether the provider bills it.
    #[error("The provider was asked and gave no answer.")]
    Unanswered {
        /// Whether that was for want of time, and not since the connection broke.
        timed_out: bool,
    },
    /// There is no key to ask with.
    #[error("The provider's key could not be read.")]
    NoKey,
}

impl AiError {
    /// Stable code, for `provider_calls.outcome` and for people.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Blocked { .. } => "prompt_blocked",
            Self::Refused { .. } => "model_refused",
            Self::Truncated { .. } => "answer_truncated",
            Self::Malformed { .. } => "answer_malformed",
            Self::NoImage { .. } => "answer_without_image",
            Self::RateLimited { .. } => "provider_rate_limited",
            Self::QuotaSpent => "provider_quota_spent",
            Self::SpendCap => "provider_spend_cap",
            Self::Overloaded { .. } => "provider_overloaded",
            Self::BadKey => "provider_key_refused",
            Self::UnknownModel => "provider_model_unknown",
            Self::InvalidRequest => "provider_request_invalid",
            Self::Timeout | Self::Unanswered { timed_out: true } => "provider_timeout",
            Self::Unreachable | Self::Unanswered { timed_out: false } => "provider_unreachable",
            Self::NoKey => "secret_unavailable",
        }
    }

    /// When the provider said to come back.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } | Self::Overloaded { retry_after } => *retry_after,
            _ => None,
        }
    }

    /// What the failed call took. `None` where the provider bills nothing, since it did no work.
    #[must_use]
    pub fn metered(&self) -> Option<Metered> {
        match self {
            Self::Blocked { metered, .. }
            | Self::Refused { metered }
            | Self::Truncated { metered }
            | Self::Malformed { metered }
            | Self::NoImage { metered, .. } => Some(*metered),
            Self::Unanswered { .. } => Some(Metered::UNKNOWN),
            Self::RateLimited { .. }
            | Self::QuotaSpent
            | Self::SpendCap
            | Self::Overloaded { .. }
            | Self::BadKey
            | Self::UnknownModel
            | Self::InvalidRequest
            | Self::Timeout
            | Self::Unreachable
            | Self::NoKey => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn price(unit: &str, tier: i64, micro_usd_per_million: i64) -> ModelPrice {
        ModelPrice { unit: unit.to_owned(), tier, micro_usd_per_million }
    }

    #[test]
    fn a_used_unit_without_a_price_is_refused_and_an_unused_one_is_not() {
        let prices = [price("input", 0, 100_000)];
        let used = Usage { input: 10, output: 1, ..Usage::default() };
        assert_eq!(cost_micro_usd(&used, &prices), Err(UnknownPrice { unit: "output" }));
        assert_eq!(cost_micro_usd(&Usage { input: 10, ..Usage::default() }, &prices), Ok(1));
        assert_eq!(cost_micro_usd(&Usage { input: 10, ..Usage::default() }, &[]), Err(UnknownPrice { unit: "input" }));
    }

    #[test]
    fn a_long_prompt_prices_the_whole_request() {
        let prices = [
            price("input", 0, 100_000),
            price("output", 0, 500_000),
            price("input", 100_000, 500_000),
            price("output", 100_000, 2_500_000),
        ];
        let at = |input| cost_micro_usd(&Usage { input, output: 1000, ..Usage::default() }, &prices);
        assert_eq!(at(100_000), Ok(10_000 + 500));
        assert_eq!(at(100_001), Ok(50_001 + 2_500));
    }

    proptest! {
        #[test]
        fn a_charge_is_never_below_the_reservation_unless_all_is_reported(
            parts in proptest::array::uniform6(0_u64..100_000), unreported: bool, priced in 0_usize..7,
            reserved in 0_i64..1_000_000,
        ) {
            let [input, output, cache_read, cache_write_5m, cache_write_1h, image_output] = parts;
            let usage = Usage { input, output, cache_read, cache_write_5m, cache_write_1h, image_output };
            let prices: Vec<_> = usage.units().iter().take(priced).map(|(unit, _)| price(unit, 0, 3_000_000)).collect();
            let metered = Metered { usage, unreported: unreported.then_some("x") };
            let reserved = Charge { tokens: reserved, cost_micro_usd: reserved, estimated: true };
            let charge = Charge::settled(&metered, reserved, &prices);
            let exact = cost_micro_usd(&usage, &prices).ok();
            prop_assert_eq!(charge.estimated, unreported || exact.is_none());
            match exact {
                Some(exact) if !unreported => prop_assert_eq!(charge.cost_micro_usd, exact),
                exact => prop_assert!(charge.cost_micro_usd >= reserved.cost_micro_usd.max(exact.unwrap_or_default())),
            }
        }
    }

    #[test]
    fn a_picture_costs_what_the_provider_says() {
        let prices = [price("input", 0, 300_000), price("image_output", 0, 30_000_000)];
        let usage = Usage { input: 270, image_output: 1290, ..Usage::default() };
        assert_eq!(cost_micro_usd(&usage, &prices), Ok(38_781));
    }
}
