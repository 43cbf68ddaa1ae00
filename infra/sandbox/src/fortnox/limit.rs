//! The rate limit: 25 calls in any 5 seconds, per client and tenant, whatever token they carry.
//!
//! There is one client here, so tenants are counted. Only calls that were let through fill the window: the guide "Rate limits" does
//! not say that a refused call prolongs the wait. The attempts are counted beside, for tests.

use std::collections::{HashMap, VecDeque};

/// How many calls a window holds.
pub const MOST: usize = 25;
/// How long a window is, in milliseconds.
pub const WINDOW_MS: i64 = 5000;

#[derive(Debug, Default)]
struct Window {
    passed: VecDeque<i64>,
    attempts: VecDeque<i64>,
    most: usize,
    refused: usize,
}

/// The windows of all tenants.
#[derive(Debug, Default)]
pub(super) struct Limits(HashMap<i64, Window>);

impl Limits {
    /// Counts a call, and says whether it is let through.
    pub(super) fn admit(&mut self, tenant: i64, now: i64) -> bool {
        let window = self.0.entry(tenant).or_default();
        for times in [&mut window.passed, &mut window.attempts] {
            while times.front().is_some_and(|at| now - at >= WINDOW_MS) {
                times.pop_front();
            }
        }
        window.attempts.push_back(now);
        window.most = window.most.max(window.attempts.len());
        let admitted = window.passed.len() < MOST;
        if admitted {
            window.passed.push_back(now);
        } else {
            window.refused += 1;
        }
        admitted
    }

    pub(super) fn most(&self, tenant: i64) -> usize {
        self.0.get(&tenant).map_or(0, |window| window.most)
    }

    pub(super) fn refused(&self, tenant: i64) -> usize {
        self.0.get(&tenant).map_or(0, |window| window.refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_slides() {
        let mut limits = Limits::default();
        for at in 0..25 {
            assert!(limits.admit(1, at * 100));
        }
        assert!(!limits.admit(1, 4999), "the first is not yet 5 s ago");
        assert!(limits.admit(1, 5000));
        assert!(!limits.admit(1, 5001));
        assert!(limits.admit(2, 5001), "another tenant has a window of its own");
        assert_eq!((limits.most(1), limits.refused(1)), (27, 2));
    }
}
