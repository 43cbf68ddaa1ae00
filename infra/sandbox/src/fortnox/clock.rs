//! What time it is at Fortnox, and what a clock in Sweden shows then.

use std::time::Instant;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, TimeDelta, Timelike, Utc};

/// A clock that can be set, moved on, and run faster or slower than true time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// The time shown at `since`, in milliseconds.
    shown: i64,
    since: Instant,
    pace: f64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { shown: Utc::now().timestamp_millis(), since: Instant::now(), pace: 1.0 }
    }
}

impl Clock {
    /// Unix time in milliseconds.
    pub(super) fn now(&self) -> i64 {
        // Tests last for minutes: neither cast loses anything then.
        #[expect(clippy::cast_possible_truncation, reason = "minutes in milliseconds fit")]
        let passed = (self.since.elapsed().as_secs_f64() * 1000.0 * self.pace) as i64;
        self.shown + passed
    }

    pub(super) fn set(&mut self, at: i64) {
        *self = Self { shown: at, since: Instant::now(), ..*self };
    }

    pub(super) fn set_pace(&mut self, pace: f64) {
        *self = Self { shown: self.now(), since: Instant::now(), pace };
    }
}

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

    #[test]
    fn a_clock_that_is_set_goes_on_at_its_pace() {
        let mut clock = Clock::default();
        clock.set_pace(0.0);
        clock.set(1000);
        let begun = Instant::now();
        while begun.elapsed().as_millis() < 2 {}
        assert_eq!(clock.now(), 1000);
    }
}
