//! One approved voucher, from its intent to a number at Fortnox.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    books::integer,
    clients::fortnox::FortnoxError,
    pace::Side,
    store::accounting::{self, Sent, Step},
    worker::{Failure, Stop},
};
use uuid::Uuid;

use crate::{
    books::{self, Books},
    job::Held,
    state::State,
    voucher::{Voucher, token_in},
};

/// How long after a request without an answer its voucher is looked for first: what was lost on the way back is there.
const FIRST_LOOK: TimeDelta = TimeDelta::seconds(3);
/// How long after it the voucher may still appear. Only then is one that is not there sent again.
const MAY_APPEAR: TimeDelta = TimeDelta::minutes(2);
/// What a request and the writing down of its answer may take. With less time left nothing is sent.
const SENDING: Duration = Duration::from_secs(20);
/// How many vouchers of others are looked at one by one. A series that has more of them since is left to the night's comparison.
const OTHERS: i64 = 50;

/// Sends an approved voucher, unless it is there.
pub(crate) async fn send(
    state: &State,
    held: &Held,
    approval_id: Uuid,
    step: &Step,
    deadline: Instant,
) -> Result<Sent, Stop> {
    let (Some(series), Some(day), Some(year_id)) = (&step.series, step.voucher_date, step.year_id) else {
        return Err(Stop::failed("voucher_invalid", "What was approved is no voucher."));
    };
    let books = Books::open(state, held.job.org_id, deadline).await?;
    // Another company's books say nothing of a voucher that was sent to the first, and are not what was approved.
    if books.company() != step.company {
        return Err(books::waits(state, "fortnox_other_company"));
    }
    let now = (state.clock)();
    let searched = step.step == "search";
    if searched {
        let sent_at = step.sent_at.unwrap_or(now);
        waits_until(sent_at + FIRST_LOOK, now)?;
        let day = day.to_string();
        let listed = books.vouchers(Side::Write, series, year_id, Some(&day)).await?;
        let ours = listed.iter().find(|voucher| token_in(&voucher.description) == Some(&step.token));
        if let Some(found) = ours {
            return Ok(Sent::Executed(found.number));
        }
        waits_until(sent_at + MAY_APPEAR, now)?;
    }
    let next = books.next_number(series, year_id).await?;
    if searched && let Some(found) = among_others(&books, step, series, year_id, next).await? {
        return Ok(Sent::Executed(found));
    }
    // The slot first: from the intent to the request no time passes.
    let mut not_begun = None;
    let posted = books.call(Side::Write, async |token| {
        let begun = if deadline.saturating_duration_since(Instant::now()) < SENDING {
            Err(no_time(state))
        } else {
            begin(state, held, approval_id, next, searched).await
        };
        match begun {
            Ok(Ok(voucher)) => {
                let (year, body) = (voucher.year_id.to_string(), voucher.body(&step.token));
                state.fortnox.post(token, "/3/vouchers", &[("financialyear", &year)], &body).await
            }
            other => {
                not_begun = Some(other);
                Ok(Value::Null)
            }
        }
    });
    let posted = posted.await?;
    match not_begun {
        None => Ok(what_came(posted)),
        Some(Ok(Err(code))) => refused(state, &step.step, code),
        Some(Err(stop)) => Err(stop),
        Some(Ok(Ok(_))) => Err(no_time(state)),
    }
}

/// A voucher of ours among those that the series has got since ours was sent, of any day.
async fn among_others(
    books: &Books<'_>,
    step: &Step,
    series: &str,
    year_id: i64,
    next: i64,
) -> Result<Option<i64>, Stop> {
    let first = step.next_number.unwrap_or(next);
    if next - first > OTHERS {
        return Err(Stop::failed(
            "fortnox_series_shared",
            "Fortnox did not answer, and others have written to the series since; the night's comparison looks through all of it.",
        ));
    }
    for candidate in first..next {
        let description = books.description(series, year_id, candidate).await?;
        if description.as_deref().and_then(token_in) == Some(&step.token) {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// Writes the intent down, in a transaction of its own: it stands before anything is sent. The inner error says why it may not be sent.
async fn begin(
    state: &State,
    held: &Held,
    approval_id: Uuid,
    next: i64,
    searched: bool,
) -> Result<Result<Voucher, String>, Stop> {
    state
        .db
        .service(held.job.org_id, async |tx| {
            held.go_on(tx).await?;
            let begun = accounting::begin(tx, approval_id, Some(next), searched).await?;
            if let Some(refused) = begun.refused {
                return Ok(Err(refused));
            }
            let voucher: Result<Voucher, _> = serde_json::from_value(begun.payload.unwrap_or_default());
            match voucher {
                Ok(voucher) if voucher.balances() => Ok(Ok(voucher)),
                // Then the intent is taken back with the transaction.
                _ => Err(Stop::failed("voucher_invalid", "What was approved is no voucher that balances.")),
            }
        })
        .await
}

/// Why a voucher is not sent. Where an execution had begun, it ends; where not, a person can change what stands in its way.
fn refused(state: &State, step: &str, code: String) -> Result<Sent, Stop> {
    match code.as_str() {
        "series_busy" => Err(busy(state)),
        "not_approved" => Err(Stop::Cancelled),
        "writing_not_allowed" | "not_connected" if step == "begin" => Err(books::waits(state, &code)),
        _ if step == "begin" => Err(Stop::Failed(not_sent(&code))),
        _ => Ok(Sent::Failed(code, String::new())),
    }
}

/// Another voucher of the series is in flight.
pub(crate) fn busy(state: &State) -> Stop {
    let until = (state.clock)() + TimeDelta::milliseconds(500 + i64::from(rand::random::<u16>() % 1500));
    Stop::Snooze { until, why: json!({ "reason": "series_busy" }), failure: None, counts: false }
}

/// Why what was approved is not sent, by the database's code.
fn not_sent(code: &str) -> Failure {
    let (code, detail) = match code {
        "expired" => ("approval_expired", "The approval expired before it was executed; it can be proposed again."),
        "payload_changed" => ("payload_changed", "What is to be written is not what was approved."),
        "client_changed" => ("client_changed", "It is another client's than was approved."),
        "right_revoked" => ("right_revoked", "Who approved it may not approve any more; another person can."),
        "policy_changed" => {
            ("policy_changed", "The rules of approval have changed since; it can be proposed again under the new ones.")
        }
        _ => ("approval_not_found", "There is no such approval."),
    };
    Failure::new(code, detail)
}

/// Another worker goes on at once.
fn no_time(state: &State) -> Stop {
    let why = json!({ "reason": "no_time_left" });
    Stop::Snooze { until: (state.clock)(), why, failure: None, counts: false }
}

fn waits_until(until: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), Stop> {
    if now >= until {
        return Ok(());
    }
    let why = json!({ "reason": "fortnox_did_not_answer", "until": until });
    Err(Stop::Snooze { until, why, failure: None, counts: false })
}

/// What Fortnox' answer to a voucher says.
fn what_came(outcome: Result<Value, FortnoxError>) -> Sent {
    let error = match outcome {
        // A number that cannot be read is looked for, as if no answer had come.
        Ok(answer) => return integer(&answer["Voucher"]["VoucherNumber"]).map_or(Sent::Unknown, Sent::Executed),
        Err(error) => error,
    };
    tracing::warn!(%error, "a voucher was not confirmed");
    match error {
        FortnoxError::Refused { code, words, .. } => Sent::Failed(named(code).to_owned(), words.shown()),
        FortnoxError::Unanswered(_) | FortnoxError::Malformed => Sent::Unknown,
        FortnoxError::Busy { status } if status >= 500 => Sent::Unknown,
        // Refused at the door, or never sent.
        FortnoxError::Busy { .. }
        | FortnoxError::Unsent(_)
        | FortnoxError::Unauthorized
        | FortnoxError::NotSetUp
        | FortnoxError::GrantRefused
        | FortnoxError::ClientRefused
        | FortnoxError::Secret(_) => Sent::Unsent,
    }
}

/// A name for Fortnox' code of a refusal. Most of those of vouchers are not published: then its words say it.
fn named(code: i64) -> &'static str {
    match code {
        2_000_359 => "characters_refused",
        2_000_401 => "period_locked",
        2_000_423 | 2_001_304 => "account_unknown",
        2_000_946 => "cost_center_missing",
        2_000_947 => "cost_center_inactive",
        2_000_663 | 2_000_664 => "scope_missing",
        2_001_101 | 2_001_103 => "licence_missing",
        _ => "fortnox_refused",
    }
}

#[cfg(test)]
mod tests {
    use shared::clients::fortnox::Words;

    use super::*;

    fn check(outcome: Result<Value, FortnoxError>, sent: Sent) {
        assert_eq!(what_came(outcome), sent);
    }

    #[test]
    fn only_what_is_certain_is_called_so() {
        check(Ok(json!({ "Voucher": { "VoucherNumber": 7 } })), Sent::Executed(7));
        check(Ok(json!({ "Voucher": { "VoucherNumber": "7" } })), Sent::Executed(7));
        check(Ok(json!({})), Sent::Unknown);
        check(Err(FortnoxError::Unanswered(String::new())), Sent::Unknown);
        check(Err(FortnoxError::Malformed), Sent::Unknown);
        check(Err(FortnoxError::Busy { status: 500 }), Sent::Unknown);
        check(Err(FortnoxError::Busy { status: 429 }), Sent::Unsent);
        check(Err(FortnoxError::Unsent(String::new())), Sent::Unsent);
        check(Err(FortnoxError::Unauthorized), Sent::Unsent);
        let refused = |code| FortnoxError::Refused { status: 400, code, words: Words::default() };
        check(Err(refused(2_000_401)), Sent::Failed("period_locked".to_owned(), String::new()));
        check(Err(refused(1)), Sent::Failed("fortnox_refused".to_owned(), String::new()));
    }
}
