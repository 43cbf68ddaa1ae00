//! A pass: one reading of a Fortnox from beginning to end, over as many jobs' attempts as that takes.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::store::fortnox::SyncState;
use uuid::Uuid;

use crate::walk::Walk;

/// One that is older begins again: what it has read is out of date.
const TOO_OLD: TimeDelta = TimeDelta::days(1);
/// How far back changes are asked for before the last reading. Fortnox compares minutes of a clock in Sweden, as far as is known, and an hour
/// in autumn comes twice there.
const OVERLAP: TimeDelta = TimeDelta::hours(2);

/// What is read, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// Which customers are not in use: their list does not say it of each.
    Inactive,
    Customers,
    /// Asks for each customer that a full pass did not see.
    Deletions,
    /// Asks for customers of whom it is not clear whether they are persons.
    Persons,
    LockedPeriod,
    Years,
    VoucherSeries,
    Accounts,
    CostCenters,
}

impl Step {
    /// What it is called in results, where several steps are about one thing.
    pub(crate) const fn resource(self) -> &'static str {
        match self {
            Self::Inactive | Self::Customers | Self::Deletions | Self::Persons => "customers",
            Self::LockedPeriod => "locked_period",
            Self::Years => "years",
            Self::VoucherSeries => "voucher_series",
            Self::Accounts => "accounts",
            Self::CostCenters => "cost_centers",
        }
    }

    pub(crate) const fn next(self) -> Option<Self> {
        match self {
            Self::Inactive => Some(Self::Customers),
            Self::Customers => Some(Self::Deletions),
            Self::Deletions => Some(Self::Persons),
            Self::Persons => Some(Self::LockedPeriod),
            Self::LockedPeriod => Some(Self::Years),
            Self::Years => Some(Self::VoucherSeries),
            Self::VoucherSeries => Some(Self::Accounts),
            Self::Accounts => Some(Self::CostCenters),
            Self::CostCenters => None,
        }
    }

    /// Where to go on if this cannot be read.
    pub(crate) fn after_resource(self) -> Option<Self> {
        let mut next = self.next();
        while let Some(step) = next.filter(|step| step.resource() == self.resource()) {
            next = step.next();
        }
        next
    }
}

/// How far a pass is. Written down with each page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pass {
    pub(crate) id: Uuid,
    pub(crate) began_at: DateTime<Utc>,
    /// Whether everything is read, and not what has changed only.
    pub(crate) full: bool,
    /// None at its end.
    pub(crate) step: Option<Step>,
    pub(crate) walk: Walk,
    /// Customers that are not in use.
    pub(crate) inactive: Vec<String>,
    /// Years whose series and accounts are read.
    pub(crate) years: Vec<i64>,
    /// Which of them is at hand.
    pub(crate) year: usize,
    /// How many rows were read, by resource.
    pub(crate) read: BTreeMap<String, usize>,
    /// How many there are in all, where Fortnox said so.
    pub(crate) of: BTreeMap<String, i64>,
    pub(crate) deleted: usize,
    /// What could not be read, and why.
    pub(crate) failed: BTreeMap<String, String>,
}

impl Pass {
    /// The one that is to go on, or another.
    pub(crate) fn of(state: &SyncState, now: DateTime<Utc>) -> Self {
        let kept = state.pass.as_ref().and_then(|pass| Self::deserialize(pass).ok());
        let wanted = state.full_wanted || state.customers_since.is_none();
        kept.filter(|pass| now < pass.began_at + TOO_OLD && (pass.full || !wanted)).unwrap_or_else(|| Self {
            id: Uuid::now_v7(),
            began_at: now,
            full: wanted,
            step: Some(Step::Inactive),
            walk: Walk::default(),
            inactive: Vec::new(),
            years: Vec::new(),
            year: 0,
            read: BTreeMap::new(),
            of: BTreeMap::new(),
            deleted: 0,
            failed: BTreeMap::new(),
        })
    }

    /// `lastmodified` of what is asked for: everything in a full pass, and where nothing was read to its end before.
    pub(crate) fn since(&self, since: Option<DateTime<Utc>>) -> Option<String> {
        let since = since.filter(|_| !self.full)?;
        Some((since - OVERLAP).format("%Y-%m-%d %H:%M").to_string())
    }

    pub(crate) fn count(&mut self, resource: &str, rows: usize) {
        *self.read.entry(resource.to_owned()).or_default() += rows;
    }

    pub(crate) fn go_to(&mut self, step: Option<Step>) {
        self.step = step;
        self.walk = Walk::default();
        self.year = 0;
    }

    /// For people to see.
    pub(crate) fn progress(&self) -> Value {
        json!({
            "began_at": self.began_at, "full": self.full, "step": self.step, "read": self.read, "of": self.of,
            "deleted_customers": self.deleted, "failed": self.failed,
        })
    }

    /// The same at the end.
    pub(crate) fn result(&self) -> Value {
        json!({
            "began_at": self.began_at, "full": self.full, "read": self.read, "deleted_customers": self.deleted,
            "failed": self.failed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn changes_are_asked_for_two_hours_before_the_last_reading_and_everything_in_a_full_pass() {
        let since = Some(at("2026-11-30T01:30:40Z"));
        let mut pass =
            Pass::of(&SyncState { customers_since: since, ..SyncState::default() }, at("2026-11-30T03:00:00Z"));
        assert_eq!(pass.since(since).as_deref(), Some("2026-11-29 23:30"));
        assert_eq!(pass.since(None), None);
        pass.full = true;
        assert_eq!(pass.since(since), None);
    }

    #[test]
    fn a_pass_goes_on_unless_it_is_a_day_old_or_all_is_wanted_now() {
        let now = at("2026-11-30T03:00:00Z");
        let since = Some(now);
        let begun = Pass::of(&SyncState { customers_since: since, ..SyncState::default() }, now);
        assert!(!begun.full);
        let kept = |full_wanted, now| {
            let pass = serde_json::to_value(&begun).ok();
            Pass::of(&SyncState { pass, full_wanted, customers_since: since, ..SyncState::default() }, now).id
                == begun.id
        };
        assert!(kept(false, now + TimeDelta::hours(23)));
        assert!(!kept(false, now + TimeDelta::hours(24)));
        assert!(!kept(true, now));
        let garbled = SyncState { pass: Some(json!({ "id": 1 })), ..SyncState::default() };
        assert!(Pass::of(&garbled, now).full);
    }

    #[test]
    fn what_cannot_be_read_is_left_out_with_all_its_steps() {
        assert_eq!(Step::Inactive.after_resource(), Some(Step::LockedPeriod));
        assert_eq!(Step::Persons.after_resource(), Some(Step::LockedPeriod));
        assert_eq!(Step::Accounts.after_resource(), Some(Step::CostCenters));
        assert_eq!(Step::CostCenters.after_resource(), None);
    }
}
