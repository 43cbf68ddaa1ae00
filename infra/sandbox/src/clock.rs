//! What time it is at a provider.

use std::time::Instant;

use chrono::Utc;

/// A clock that can be set, moved on, and run faster or slower than true time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
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
    pub(crate) fn now(&self) -> i64 {
        // Tests last for minutes: neither cast loses anything then.
        #[expect(clippy::cast_possible_truncation, reason = "minutes in milliseconds fit")]
        let passed = (self.since.elapsed().as_secs_f64() * 1000.0 * self.pace) as i64;
        self.shown + passed
    }

    pub(crate) fn set(&mut self, at: i64) {
        *self = Self { shown: at, since: Instant::now(), ..*self };
    }

    pub(crate) fn set_pace(&mut self, pace: f64) {
        *self = Self { shown: self.now(), since: Instant::now(), pace };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
