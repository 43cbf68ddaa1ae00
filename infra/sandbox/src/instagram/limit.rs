//! The rate limits: of the application, of an account (business use case), and the two calls a second of conversations.
//!
//! Only calls that were let through count: our provider page does not say that a refused call prolongs the wait. How the true quota of
//! an account follows from its impressions is left to [`super::Instagram::set_quotas`].

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};

use super::refusal::Refusal;

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
/// How long a quota's window is, in milliseconds.
pub const WINDOW_MS: i64 = 60 * MINUTE;
/// Usage is not in headers before it comes to so many per cent.
pub const SHOWN_FROM_PERCENT: i64 = 10;

#[derive(Debug, Default)]
struct Window(VecDeque<i64>);

impl Window {
    fn used(&mut self, length: i64, now: i64) -> usize {
        while self.0.front().is_some_and(|at| now - at >= length) {
            self.0.pop_front();
        }
        self.0.len()
    }
}

/// All windows.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) app_quota: usize,
    pub(super) account_quota: usize,
    /// Calls a second to the conversations of an account.
    pub(super) conversations: usize,
    app: Window,
    accounts: HashMap<String, Window>,
    talks: HashMap<String, Window>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            app_quota: 100_000,
            account_quota: 4800,
            conversations: 2,
            app: Window::default(),
            accounts: HashMap::new(),
            talks: HashMap::new(),
        }
    }
}

fn percent(used: usize, quota: usize) -> i64 {
    i64::try_from(used * 100 / quota.max(1)).unwrap_or(i64::MAX)
}

impl Limits {
    /// Counts a call, or refuses it.
    pub(super) fn admit(&mut self, account: &str, talks: bool, now: i64) -> Result<(), Refusal> {
        let window = self.accounts.entry(account.to_owned()).or_default();
        if self.app.used(WINDOW_MS, now) >= self.app_quota {
            return Err(Refusal::app_limit());
        }
        if window.used(WINDOW_MS, now) >= self.account_quota {
            return Err(Refusal::account_limit());
        }
        if talks {
            let talks = self.talks.entry(account.to_owned()).or_default();
            if talks.used(SECOND, now) >= self.conversations {
                return Err(Refusal::custom_limit());
            }
            talks.0.push_back(now);
        }
        window.0.push_back(now);
        self.app.0.push_back(now);
        Ok(())
    }

    /// What `X-App-Usage` and `X-Business-Use-Case-Usage` say, once there is enough to say.
    pub(super) fn headers(&mut self, account: &str, now: i64) -> Vec<(&'static str, Value)> {
        let mut shown = Vec::new();
        let usage = |used: i64| json!({ "call_count": used, "total_time": used * 9 / 10, "total_cputime": used / 2 });
        let app = percent(self.app.used(WINDOW_MS, now), self.app_quota);
        if app >= SHOWN_FROM_PERCENT {
            shown.push(("x-app-usage", usage(app)));
        }
        let quota = self.account_quota;
        let Some(window) = self.accounts.get_mut(account) else { return shown };
        let used = percent(window.used(WINDOW_MS, now), quota);
        if used >= SHOWN_FROM_PERCENT {
            let mut business = usage(used);
            business["type"] = json!("instagram");
            business["estimated_time_to_regain_access"] =
                json!(window.0.front().filter(|_| used >= 100).map_or(0, |first| {
                    // Whole minutes, so that who waits for them does not come a moment too early.
                    (first + WINDOW_MS - now + MINUTE - 1) / MINUTE
                }));
            shown.push(("x-business-use-case-usage", json!({ account: [business] })));
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_slide_and_accounts_have_their_own() {
        let mut limits = Limits { account_quota: 2, ..Limits::default() };
        assert!(limits.admit("a", false, 0).is_ok() && limits.admit("a", false, 1).is_ok());
        assert_eq!(limits.admit("a", false, 2), Err(Refusal::account_limit()));
        assert!(limits.admit("b", false, 2).is_ok());
        assert_eq!(limits.headers("a", 30 * MINUTE)[0].1["a"][0]["estimated_time_to_regain_access"], 30);
        assert!(limits.admit("a", false, WINDOW_MS).is_ok());
    }

    #[test]
    fn conversations_have_two_calls_a_second() {
        let mut limits = Limits::default();
        assert!(limits.admit("a", true, 0).is_ok() && limits.admit("a", true, 999).is_ok());
        assert_eq!(limits.admit("a", true, 999), Err(Refusal::custom_limit()));
        assert!(limits.admit("a", false, 999).is_ok());
        assert!(limits.admit("a", true, 1000).is_ok());
    }
}
