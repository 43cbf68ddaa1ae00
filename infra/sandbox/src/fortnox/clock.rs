//! What a clock in Sweden shows.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, TimeDelta, Timelike};

/// The wall clock in Sweden, which is what `lastmodified` is compared with, as far as is known: UTC+1, and UTC+2 from the last Sunday of March to the last
/// Sunday of October, 01:00 UTC each. An hour in autumn comes twice, as it does there.
pub(super) fn stockholm(at: i64) -> NaiveDateTime {
    let utc = DateTime::from_timestamp_millis(at).unwrap_or_default().naive_utc();
    let summer = |month| {
        let last = NaiveDate::from_ymd_opt(utc.year(), month, 31)?;
        let sunday = last - TimeDelta::days(i64::from(last.weekday().num_days_from_sunday()));
        sunday.and_hms_opt(1, 0, 0)
    };
    let is_summer = summer(3).is_some_and(|begins| utc >= begins) && summer(10).is_some_and(|ends| utc < ends);
    utc + TimeDelta::hours(if is_summer { 2 } else { 1 })
}

/// The same without its seconds: Fortnox keeps minutes.
pub(super) fn stockholm_minute(at: i64) -> NaiveDateTime {
    let local = stockholm(at);
    local.date().and_hms_opt(local.hour(), local.minute(), 0).unwrap_or(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swedish_time_changes_on_the_last_sundays_of_march_and_october() {
        let check = |utc: &str, local: &str| {
            let at = DateTime::parse_from_rfc3339(utc).unwrap().timestamp_millis();
            assert_eq!(stockholm_minute(at).to_string(), local);
        };
        check("2026-03-29T00:59:59Z", "2026-03-29 01:59:00");
        check("2026-03-29T01:00:00Z", "2026-03-29 03:00:00");
        check("2026-10-25T00:59:59Z", "2026-10-25 02:59:00");
        check("2026-10-25T01:00:00Z", "2026-10-25 02:00:00");
        check("2026-12-31T23:30:00Z", "2027-01-01 00:30:00");
    }
}
