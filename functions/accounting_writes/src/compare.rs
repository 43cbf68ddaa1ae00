//! The night's comparison: each series that we have written to, with what Fortnox has there.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    pace::Side,
    store::accounting::{self, Comparison, Execution, Sent, Series},
    worker::Stop,
};
use uuid::Uuid;

use crate::{
    books::{Books, Listed},
    state::State,
    voucher::token_in,
};

/// How long after it was sent a voucher is given up that no job goes on with and Fortnox has not got.
const GIVEN_UP: TimeDelta = TimeDelta::hours(1);
/// The most problems that are named.
const NAMED: usize = 200;

/// What a comparison of one series came to.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) series: Series,
    pub(crate) found: Comparison,
    /// Executions of which it was not known what came of them, and now is.
    pub(crate) settled: Vec<(Uuid, Sent)>,
}

/// Compares all series of the organisation's company.
pub(crate) async fn compare(state: &State, org_id: Uuid, deadline: Instant) -> Result<(String, Vec<Compared>), Stop> {
    let books = Books::open(state, org_id, deadline).await?;
    let company = books.company().to_owned();
    let all = state.db.service(org_id, async |tx| accounting::series(tx, org_id, &company).await).await?;
    let mut compared = Vec::new();
    for series in all {
        // What we have is read first: what is executed meanwhile is there in excess, and is looked at the next night.
        let ours = state.db.service(org_id, async |tx| accounting::executions(tx, org_id, &company, &series).await);
        let ours = ours.await?;
        let theirs = books.vouchers(Side::Read, &series.series, series.year_id, None).await?;
        let (found, settled) = differences(&ours, &theirs, (state.clock)());
        compared.push(Compared { series, found, settled });
    }
    Ok((company, compared))
}

/// What differs, and what is settled by it.
fn differences(ours: &[Execution], theirs: &[Listed], now: DateTime<Utc>) -> (Comparison, Vec<(Uuid, Sent)>) {
    let mut there: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for voucher in theirs {
        if let Some(token) = token_in(&voucher.description) {
            there.entry(token).or_default().push(voucher.number);
        }
    }
    let (mut problems, mut settled) = (Vec::new(), Vec::new());
    let mut problem = |code: &str, token: Option<&str>, number: Option<i64>| {
        problems.push(json!({ "code": code, "token": token, "number": number }));
    };
    for execution in ours {
        let token = execution.token.as_str();
        let numbers = there.remove(token).unwrap_or_default();
        for extra in numbers.iter().skip(1) {
            problem("written_twice", Some(token), Some(*extra));
        }
        match (execution.ended_at, execution.voucher_number, numbers.first()) {
            (Some(_), Some(_), None) => problem("missing_at_fortnox", Some(token), execution.voucher_number),
            (Some(_), Some(number), Some(found)) if number != *found => {
                problem("number_differs", Some(token), Some(*found));
            }
            (Some(_), None, Some(found)) => problem("written_though_failed", Some(token), Some(*found)),
            (None, _, Some(found)) if !execution.worked_on => {
                settled.push((execution.approval_id, Sent::Executed(*found)));
            }
            (None, _, None) if !execution.worked_on && is_past(execution.sent_at, now) => {
                let code = "not_written".to_owned();
                settled.push((execution.approval_id, Sent::Failed(code, String::new())));
            }
            _ => {}
        }
    }
    for (token, numbers) in there {
        problem("unknown_here", Some(token), numbers.first().copied());
    }
    others(theirs, &mut problem);
    let count = |some: usize| i32::try_from(some).unwrap_or(i32::MAX);
    let written = ours.iter().filter(|execution| execution.voucher_number.is_some()).count();
    let with_token = theirs.iter().filter(|voucher| token_in(&voucher.description).is_some()).count();
    problems.truncate(NAMED);
    (Comparison { ours: count(written), theirs: count(with_token), problems: Value::Array(problems) }, settled)
}

/// Vouchers of others and gaps, in a series that is ours: whose first voucher is. In another, people write as they like.
fn others(theirs: &[Listed], problem: &mut impl FnMut(&str, Option<&str>, Option<i64>)) {
    let Some(first) = theirs.iter().min_by_key(|voucher| voucher.number) else { return };
    if token_in(&first.description).is_none() {
        return;
    }
    for voucher in theirs.iter().filter(|voucher| token_in(&voucher.description).is_none()) {
        problem("of_others", None, Some(voucher.number));
    }
    let numbers: BTreeSet<i64> = theirs.iter().map(|voucher| voucher.number).collect();
    let last = numbers.last().copied().unwrap_or_default();
    for missing in (1..last).filter(|number| !numbers.contains(number)).take(NAMED) {
        problem("gap", None, Some(missing));
    }
}

fn is_past(sent_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
    sent_at.is_none_or(|sent_at| now >= sent_at + GIVEN_UP)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sp-aaaaaaaaaaaa";
    const B: &str = "sp-bbbbbbbbbbbb";

    fn now() -> DateTime<Utc> {
        "2026-11-30T12:00:00Z".parse().unwrap()
    }

    /// Executed with a number; failed without one; or open, sent some seconds ago.
    fn ours(token: &str, number: Option<i64>, open_s: Option<i64>, worked_on: bool) -> Execution {
        Execution {
            approval_id: Uuid::nil(),
            token: token.to_owned(),
            voucher_number: number,
            ended_at: open_s.is_none().then(now),
            sent_at: Some(now() - TimeDelta::seconds(open_s.unwrap_or_default())),
            worked_on,
        }
    }

    fn theirs(number: i64, token: &str) -> Listed {
        Listed { number, description: if token.is_empty() { "Hyra".to_owned() } else { format!("Hyra ({token})") } }
    }

    fn check(ours: &[Execution], theirs: &[Listed], problems: &[(&str, Option<i64>)], settled: &[Sent]) {
        let (found, now_settled) = differences(ours, theirs, now());
        let named: Vec<(&str, Option<i64>)> = found
            .problems
            .as_array()
            .unwrap()
            .iter()
            .map(|problem| (problem["code"].as_str().unwrap(), problem["number"].as_i64()))
            .collect();
        assert_eq!(named, problems);
        assert_eq!(now_settled.into_iter().map(|(_, sent)| sent).collect::<Vec<_>>(), settled);
    }

    #[test]
    fn what_is_the_same_on_both_sides_is_no_problem() {
        check(&[], &[], &[], &[]);
        check(&[ours(A, Some(1), None, false), ours(B, Some(2), None, false)], &[theirs(1, A), theirs(2, B)], &[], &[]);
        // A failed one is on neither side.
        check(&[ours(A, None, None, false)], &[], &[], &[]);
    }

    #[test]
    fn both_directions_are_looked_at() {
        check(&[ours(A, Some(1), None, false)], &[], &[("missing_at_fortnox", Some(1))], &[]);
        check(&[], &[theirs(1, A)], &[("unknown_here", Some(1))], &[]);
        check(&[ours(A, Some(1), None, false)], &[theirs(2, A)], &[("number_differs", Some(2)), ("gap", Some(1))], &[]);
        check(&[ours(A, Some(1), None, false)], &[theirs(1, A), theirs(2, A)], &[("written_twice", Some(2))], &[]);
        check(&[ours(A, None, None, false)], &[theirs(1, A)], &[("written_though_failed", Some(1))], &[]);
    }

    #[test]
    fn what_was_unknown_is_settled_unless_a_job_goes_on_with_it() {
        check(&[ours(A, None, Some(5), false)], &[theirs(1, A)], &[], &[Sent::Executed(1)]);
        check(&[ours(A, None, Some(5), true)], &[theirs(1, A)], &[], &[]);
        let gone = Sent::Failed("not_written".to_owned(), String::new());
        check(&[ours(A, None, Some(3599), false)], &[], &[], &[]);
        check(&[ours(A, None, Some(3600), false)], &[], &[], &[gone]);
        check(&[ours(A, None, Some(3600), true)], &[], &[], &[]);
    }

    #[test]
    fn in_a_series_of_ours_others_and_gaps_are_problems() {
        let both = [ours(A, Some(1), None, false), ours(B, Some(4), None, false)];
        check(&both, &[theirs(1, A), theirs(2, ""), theirs(4, B)], &[("of_others", Some(2)), ("gap", Some(3))], &[]);
        // Where the first is another's, the series is not ours.
        check(&[ours(B, Some(4), None, false)], &[theirs(1, ""), theirs(4, B)], &[], &[]);
    }
}
