//! Tells Stripe's meter what agents cost: once for each day of each organisation.

use std::time::Instant;

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use shared::{
    clients::stripe::StripeError,
    schedule::MOST_FAILURES,
    store::billing::{self, MeterReport},
};
use uuid::Uuid;

use crate::{error::StepError, state::State};

/// How much one run takes on.
const PAGE: i32 = 100;
/// How long after midnight a day is summed: longer than any transaction takes to commit what began before.
const SETTLING: TimeDelta = TimeDelta::minutes(15);
/// How long Stripe tells a repeated report from a new one, less an hour.
const REMEMBERED: TimeDelta = TimeDelta::hours(23);
/// Stripe's answer to an identifier it has.
const KNOWN: &str = "duplicate_meter_event";

/// Sums days that have ended, and reports what is not reported yet. How many were reported. Nothing unless a meter is set.
///
/// A report is a row first, and told under the row's id: a repetition within a day is known to Stripe, which counts it once. After that
/// nobody could tell, so one that was tried and never answered is left to a person rather than charged twice.
pub(crate) async fn report(state: &State, deadline: Instant) -> Result<usize, StepError> {
    let Some(meter) = &state.meter else { return Ok(0) };
    let now = (state.clock)();
    let before = ended_before(now);
    let orgs = state.db.directory(async |tx| billing::unreported_costs(tx, before, PAGE).await).await?;
    let mut failures = 0;
    for org in orgs {
        match state.db.service(org, async |tx| billing::insert_meter_reports(tx, org, before).await).await {
            Ok(_) => {}
            // What cannot be summed for one organisation is summed for the others.
            Err(error) if failures < MOST_FAILURES => {
                tracing::error!(org.id = %org, %error, "an organisation's costs could not be summed");
                failures += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }

    let open = state.db.directory(async |tx| billing::open_meter_reports(tx, PAGE).await).await?;
    let mut reported = 0;
    for (org, id) in open {
        if Instant::now() >= deadline {
            break;
        }
        reported += usize::from(report_one(state, meter, org, id, now).await?);
    }
    Ok(reported)
}

/// Midnight before which everything is committed.
fn ended_before(now: DateTime<Utc>) -> DateTime<Utc> {
    (now - SETTLING).date_naive().and_time(NaiveTime::MIN).and_utc()
}

async fn report_one(state: &State, meter: &str, org: Uuid, id: Uuid, now: DateTime<Utc>) -> Result<bool, StepError> {
    let report = state.db.service(org, async |tx| billing::try_meter_report(tx, id).await).await?;
    let Some(report) = report else { return Ok(false) };
    let (status, error) = if report.first_tried_at.is_some_and(|at| now - at > REMEMBERED) {
        ("uncertain", Some("Stripe did not answer for a day".to_owned()))
    } else {
        match tell(state, meter, &report).await {
            Ok(()) => ("reported", None),
            Err(StripeError::Refused { code, .. }) if code == KNOWN => ("reported", None),
            Err(error) if error.passes() => {
                tracing::warn!(report.id = %id, %error, "the meter was not told; the next run tries again");
                return Ok(false);
            }
            Err(error) => ("refused", Some(error.to_string())),
        }
    };
    if let Some(error) = &error {
        tracing::error!(report.id = %id, org.id = %org, status, error, "a cost was not reported: a person must look");
    }
    let error = error.as_deref();
    state.db.service(org, async |tx| billing::end_meter_report(tx, id, status, error).await).await?;
    Ok(status == "reported")
}

async fn tell(state: &State, meter: &str, report: &MeterReport) -> Result<(), StripeError> {
    let identifier = report.id.to_string();
    // Within the period it is for, and never ahead of Stripe's clock.
    let at = report.period_end - TimeDelta::seconds(1);
    let (at, value) = (at.timestamp().to_string(), report.cost_micro_usd.to_string());
    let form = [
        ("event_name", meter),
        ("identifier", &identifier),
        ("timestamp", &at),
        ("payload[stripe_customer_id]", &report.customer_id),
        ("payload[value]", &value),
    ];
    state.stripe.post("/v1/billing/meter_events", &form, &format!("meter-{identifier}")).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_summed_once_its_last_transaction_must_have_ended() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        for (now, before) in [
            ("2026-11-21T12:00:00Z", "2026-11-21T00:00:00Z"),
            ("2026-11-21T00:14:59Z", "2026-11-20T00:00:00Z"),
            ("2026-11-21T00:15:00Z", "2026-11-21T00:00:00Z"),
        ] {
            assert_eq!(ended_before(at(now)), at(before), "{now}");
        }
    }
}
