//! One company's books at Fortnox: each call within the limit that all instances share, and what each failure means for a job.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use serde_json::{Value, json};
use shared::{
    books::integer,
    clients::fortnox::FortnoxError,
    pace::{PaceError, Side},
    tokens::{AccessToken, TokenError},
    worker::{Failure, Stop},
};
use uuid::Uuid;

use crate::state::State;

/// How many items a page has; the most that Fortnox gives.
const PAGE: &str = "500";
/// The most pages of one list that are read: a series of a year with more is no series of ours.
const PAGES: u32 = 200;
/// The shortest that a job waits for a slot.
const SHORTEST: Duration = Duration::from_secs(1);
/// How long a job waits that a person must do something about.
pub(crate) const PERSON: TimeDelta = TimeDelta::minutes(10);

/// The books of the company that an organisation has connected.
pub(crate) struct Books<'a> {
    state: &'a State,
    org_id: Uuid,
    token: AccessToken,
    deadline: Instant,
}

/// A voucher, as a list has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) number: i64,
    pub(crate) description: String,
}

impl<'a> Books<'a> {
    /// With a token that lasts.
    pub(crate) async fn open(state: &'a State, org_id: Uuid, deadline: Instant) -> Result<Self, Stop> {
        match state.tokens.access(org_id).await {
            Ok(token) => Ok(Self { state, org_id, token, deadline }),
            Err(error @ (TokenError::NotConnected | TokenError::Reconnect)) => Err(waits_for_a_person(state, &error)),
            Err(TokenError::Db(error)) => Err(error.into()),
            Err(TokenError::Store(error)) => Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "there is no access token");
                Err(later(state, Failure::new("fortnox_unavailable", "Fortnox gives no access token now.")))
            }
        }
    }

    /// The company, as Fortnox calls it.
    pub(crate) fn company(&self) -> &str {
        &self.token.tenant
    }

    /// One call, in a slot of the limit.
    pub(crate) async fn call<T>(
        &self,
        side: Side,
        call: impl AsyncFnOnce(&str) -> Result<T, FortnoxError>,
    ) -> Result<Result<T, FortnoxError>, Stop> {
        let paced =
            self.state.pace.call(self.org_id, side, self.deadline.into(), async || call(self.token.expose()).await);
        match paced.await {
            Ok(outcome) => Ok(outcome),
            Err(PaceError::Full { retry_after }) => Err(Stop::Snooze {
                until: (self.state.clock)() + retry_after.max(SHORTEST),
                why: json!({ "reason": "fortnox_rate" }),
                failure: None,
                counts: false,
            }),
            Err(PaceError::Store(error)) => Err(error.into()),
            Err(PaceError::Db(error)) => Err(error.into()),
        }
    }

    /// Reads.
    pub(crate) async fn get(&self, side: Side, path: &str, query: &[(&str, &str)]) -> Result<Value, Stop> {
        let fortnox = &self.state.fortnox;
        let read = self.call(side, async |token| fortnox.get(token, path, query).await).await?;
        read.map_err(|error| unread(self.state, error))
    }

    /// The number that a series gives next in a year.
    pub(crate) async fn next_number(&self, series: &str, year_id: i64) -> Result<i64, Stop> {
        let (path, year) = (format!("/3/voucherseries/{series}"), year_id.to_string());
        let read = self.get(Side::Write, &path, &[("financialyear", &year)]).await?;
        integer(&read["VoucherSeries"]["NextVoucherNumber"]).ok_or_else(malformed)
    }

    /// Vouchers of a series in a year, of one day or of all.
    pub(crate) async fn vouchers(
        &self,
        side: Side,
        series: &str,
        year_id: i64,
        day: Option<&str>,
    ) -> Result<Vec<Listed>, Stop> {
        let (path, year) = (format!("/3/vouchers/sublist/{series}"), year_id.to_string());
        let mut vouchers = Vec::new();
        for page in 1..=PAGES {
            let page_text = page.to_string();
            let mut query = vec![("financialyear", year.as_str()), ("limit", PAGE), ("page", page_text.as_str())];
            query.extend(day.into_iter().flat_map(|day| [("fromdate", day), ("todate", day)]));
            let read = self.get(side, &path, &query).await?;
            for item in read["Vouchers"].as_array().ok_or_else(malformed)? {
                vouchers.push(Listed {
                    number: integer(&item["VoucherNumber"]).ok_or_else(malformed)?,
                    description: item["Description"].as_str().unwrap_or_default().to_owned(),
                });
            }
            let pages = integer(&read["MetaInformation"]["@TotalPages"]).ok_or_else(malformed)?;
            if i64::from(page) >= pages {
                return Ok(vouchers);
            }
        }
        Err(Stop::failed("fortnox_series_too_long", "The series has more vouchers in this year than are compared."))
    }

    /// A voucher's description, if there is one under this number.
    pub(crate) async fn description(&self, series: &str, year_id: i64, number: i64) -> Result<Option<String>, Stop> {
        let (path, year) = (format!("/3/vouchers/{series}/{number}"), year_id.to_string());
        let (fortnox, query) = (&self.state.fortnox, [("financialyear", year.as_str())]);
        match self.call(Side::Write, async |token| fortnox.get(token, &path, &query).await).await? {
            Ok(read) => Ok(read["Voucher"]["Description"].as_str().map(str::to_owned)),
            Err(FortnoxError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(unread(self.state, error)),
        }
    }
}

/// A job that goes on when a person has connected Fortnox.
fn waits_for_a_person(state: &State, error: &TokenError) -> Stop {
    let reason = if matches!(error, TokenError::Reconnect) { "fortnox_reconnect" } else { "fortnox_not_connected" };
    waits(state, reason)
}

/// A job that goes on when a person has changed what `reason` names.
pub(crate) fn waits(state: &State, reason: &str) -> Stop {
    let until = (state.clock)() + PERSON;
    Stop::Snooze { until, why: json!({ "reason": reason, "until": until }), failure: None, counts: false }
}

/// Another attempt, which is none that counts: what a person approved outlasts an outage, as long as the approval holds.
fn later(state: &State, failure: Failure) -> Stop {
    let until = (state.clock)() + TimeDelta::seconds(30 + i64::from(rand::random::<u16>() % 30));
    let why = json!({ "reason": failure.code, "until": until });
    Stop::Snooze { until, why, failure: Some(failure), counts: false }
}

/// A read that failed: nothing has happened, and another attempt may help.
fn unread(state: &State, error: FortnoxError) -> Stop {
    tracing::warn!(%error, "Fortnox could not be read");
    match error {
        FortnoxError::Refused { status, code, .. } => {
            let detail = format!("Fortnox refused to be read: {status}, code {code}.");
            later(state, Failure::new("fortnox_read_refused", detail))
        }
        _ => later(state, Failure::new("fortnox_unavailable", "Fortnox does not answer now.")),
    }
}

fn malformed() -> Stop {
    Stop::Retry(Failure::new("fortnox_malformed", "Fortnox' answer is not as documented."))
}
