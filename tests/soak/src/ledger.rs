//! What the outside was told: what was accepted, what every answer was, and what the soak did to make it hard.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

/// Something that was promised: a 2xx, or a commit that was confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// What, as in `render`.
    pub kind: &'static str,
    /// In which organisation.
    pub org: Uuid,
    /// What was made or changed.
    pub id: Uuid,
    /// Under which idempotency key, if one was sent.
    pub key: Option<String>,
    /// By whom.
    pub actor: Uuid,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Finding {
    /// Which check says so.
    pub check: String,
    /// What it is about, in words that name it.
    pub item: String,
}

impl Finding {
    pub(crate) fn new(check: &str, item: impl Into<String>) -> Self {
        Self { check: check.to_owned(), item: item.into() }
    }
}

/// How often a fault was arranged, and how many exchanges met it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Injected {
    pub(crate) arranged: usize,
    pub(crate) met: usize,
}

/// All that is remembered of a run.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) accepted: Vec<Accepted>,
    /// Answers by route, status (0: none came) and code.
    pub(crate) answers: BTreeMap<(String, u16, String), usize>,
    /// What was wrong at the moment it was seen.
    pub(crate) seen: Vec<Finding>,
    /// Requests that were sent again under the same key because the answer was an error or none.
    pub(crate) retries: usize,
    /// Requests that were not sent again any more.
    pub(crate) given_up: usize,
    /// Events that were answered with 2xx.
    pub(crate) delivered: BTreeSet<String>,
    /// Posts of events by status (0: no answer).
    pub(crate) deliveries: BTreeMap<u16, usize>,
    /// Customers by the organisation whose checkout they completed.
    pub(crate) customers: BTreeMap<String, Uuid>,
    /// By wire or provider, and fault.
    pub(crate) faults: BTreeMap<(String, String), Injected>,
    /// Processes that were killed at work, by function.
    pub(crate) kills: BTreeMap<String, usize>,
    /// Servers that were stopped and started again, by server and manner.
    pub(crate) restarts: BTreeMap<String, usize>,
    /// Ticks of schedules by function, and how many failed.
    pub(crate) ticks: BTreeMap<String, (usize, usize)>,
}

/// The book, shared by everybody who acts.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Book>);

impl Ledger {
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn accept(&self, kind: &'static str, org: Uuid, id: Uuid, key: Option<&str>, actor: Uuid) {
        self.book().accepted.push(Accepted { kind, org, id, key: key.map(str::to_owned), actor });
    }

    pub(crate) fn saw(&self, check: &str, item: impl Into<String>) {
        self.book().seen.push(Finding::new(check, item));
    }

    pub(crate) fn answered(&self, route: &str, status: u16, code: &str) {
        *self.book().answers.entry((route.to_owned(), status, code.to_owned())).or_default() += 1;
    }

    /// How many of this kind were accepted.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.book().accepted.iter().filter(|accepted| accepted.kind == kind).count()
    }
}
