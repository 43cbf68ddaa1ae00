//! Reads one step after another, and writes down with each page how far it is.

use std::time::{Duration, Instant};

use chrono::{DateTime, Days, Utc};
use serde_json::{Value, json};
use shared::{
    books::{self, PAGE, ReadError, Reader},
    clients::fortnox::FortnoxError,
    db::ServiceTx,
    jobs,
    pace::PaceError,
    store::fortnox::{self, Found},
    worker::{Failure, Stop},
};

use crate::{
    job::{Held, Plan},
    pass::{Pass, Step},
    state::State,
    walk,
};

/// What is left to the next attempt, rather than to be cut off.
const KEPT_BACK: Duration = Duration::from_secs(20);
/// How many customers are asked for one by one between two looks at the clock.
const ONE_BY_ONE: i64 = 10;
/// How many customers of one pass are asked whether they are persons.
const MOST_PERSONS: usize = 50;
/// How many days ago a year may have ended whose accounts are of use.
const ENDED: Days = Days::new(3 * 366);
/// When to ask again after Fortnox said that there were too many.
const TOO_MANY: Duration = Duration::from_secs(10);

/// Reads on behalf of a job.
pub(crate) struct Reading<'a> {
    pub(crate) state: &'a State,
    pub(crate) held: &'a Held,
    pub(crate) plan: &'a Plan,
    pub(crate) reader: Reader<'a>,
    pub(crate) deadline: Instant,
    pub(crate) pass: Pass,
    /// Whether this attempt has got anywhere.
    pub(crate) moved: bool,
}

/// Why a step did not come to its end.
enum Unread {
    /// The pass goes on without this.
    Resource(&'static str),
    Stop(Stop),
}

impl<E: Into<Stop>> From<E> for Unread {
    fn from(error: E) -> Self {
        Self::Stop(error.into())
    }
}

impl Reading<'_> {
    /// Reads to the end of the pass.
    pub(crate) async fn run(&mut self) -> Result<(), Stop> {
        while let Some(step) = self.pass.step {
            if self.deadline.saturating_duration_since(Instant::now()) < KEPT_BACK {
                return Err(self.later((self.state.clock)(), "goes_on", None));
            }
            // Boxed, since all steps within each other are more than the compiler will lay out.
            match Box::pin(self.step(step)).await {
                Ok(()) => self.moved = true,
                Err(Unread::Resource(code)) => {
                    tracing::warn!(resource = step.resource(), code, "something of Fortnox cannot be read");
                    self.pass.failed.insert(step.resource().to_owned(), code.to_owned());
                    self.pass.go_to(step.after_resource());
                    self.keep(async |_, _| Ok(())).await?;
                }
                Err(Unread::Stop(stop)) => return Err(stop),
            }
        }
        Ok(())
    }

    /// One page of a step.
    async fn step(&mut self, step: Step) -> Result<(), Unread> {
        match step {
            Step::Inactive => self.inactive().await,
            Step::Customers => self.customers().await,
            Step::Deletions => self.deletions().await,
            Step::Persons => self.persons().await,
            Step::LockedPeriod => self.locked_period().await,
            Step::Years => self.years().await,
            Step::VoucherSeries => self.voucher_series().await,
            Step::Accounts => self.accounts().await,
            Step::CostCenters => self.cost_centers().await,
        }
    }

    async fn inactive(&mut self) -> Result<(), Unread> {
        let since = self.pass.since(self.plan.customers_since);
        let listed = self.page("/3/customers", &[("sortby", "customernumber"), ("filter", "inactive")], since).await?;
        let numbers: Vec<String> =
            books::customers(&listed).map_err(unclear)?.into_iter().map(|customer| customer.number).collect();
        match self.pass.walk.step(numbers.clone()) {
            walk::Step::Back => {}
            walk::Step::Joined(_) => self.pass.inactive.extend(numbers),
            walk::Step::End(_) => {
                self.pass.inactive.extend(numbers);
                self.pass.go_to(Step::Inactive.next());
            }
        }
        Ok(self.keep(async |_, _| Ok(())).await?)
    }

    async fn customers(&mut self) -> Result<(), Unread> {
        let since = self.pass.since(self.plan.customers_since);
        let listed = self.page("/3/customers", &[("sortby", "customernumber")], since).await?;
        let customers = books::customers(&listed).map_err(unclear)?;
        let step = self.pass.walk.step(customers.iter().map(|customer| customer.number.clone()).collect());
        self.counted("customers", step, &listed);
        if let walk::Step::End(_) = step {
            self.pass.go_to(if self.pass.full { Some(Step::Deletions) } else { Some(Step::Persons) });
        }
        let kept = self.keep(async |tx, pass| {
            if step == walk::Step::Back {
                return Ok(());
            }
            fortnox::keep_customers(tx, self.held.job.org_id, Some(pass.id), &customers, &pass.inactive).await?;
            Ok(())
        });
        Ok(kept.await?)
    }

    /// A customer that a full pass did not see has been deleted, or was renumbered while pages moved: each is asked for by itself.
    async fn deletions(&mut self) -> Result<(), Unread> {
        let (org_id, pass_id) = (self.held.job.org_id, self.pass.id);
        let unseen =
            self.state.db.service(org_id, async |tx| fortnox::unseen_customers(tx, org_id, pass_id, ONE_BY_ONE).await);
        let unseen = unseen.await?;
        if unseen.is_empty() {
            self.pass.go_to(Step::Deletions.next());
        }
        let found = self.found(unseen).await?;
        self.pass.deleted += found.iter().filter(|(_, found)| *found == Found::Deleted).count();
        Ok(self.keep_found(found).await?)
    }

    async fn persons(&mut self) -> Result<(), Unread> {
        let org_id = self.held.job.org_id;
        let asked = self.pass.read.get("persons").copied().unwrap_or_default();
        let unclear = self.state.db.service(org_id, async |tx| {
            fortnox::unclear_customers(tx, org_id, if asked < MOST_PERSONS { ONE_BY_ONE } else { 0 }).await
        });
        let unclear = unclear.await?;
        if unclear.is_empty() {
            self.pass.go_to(Step::Persons.next());
        } else {
            self.pass.count("persons", unclear.len());
        }
        let found = self.found(unclear).await?;
        Ok(self.keep_found(found).await?)
    }

    async fn locked_period(&mut self) -> Result<(), Unread> {
        let answer = self.get("/3/settings/lockedperiod", &[]).await?;
        let until = books::date(&answer["LockedPeriod"]["EndDate"]);
        self.pass.go_to(Step::LockedPeriod.next());
        let kept = self.keep(async |tx, _| Ok(fortnox::keep_locked_until(tx, self.held.job.org_id, until).await?));
        Ok(kept.await?)
    }

    async fn years(&mut self) -> Result<(), Unread> {
        let listed = self.page("/3/financialyears", &[], None).await?;
        let years = books::years(&listed).map_err(unclear)?;
        let useful = (self.state.clock)().date_naive() - ENDED;
        self.pass.years = years.iter().filter(|year| year.to >= useful).map(|year| year.id).collect();
        self.pass.count("years", years.len());
        self.pass.go_to(Step::Years.next());
        let kept = self.keep(async |tx, _| Ok(fortnox::keep_years(tx, self.held.job.org_id, &years).await?));
        Ok(kept.await?)
    }

    async fn voucher_series(&mut self) -> Result<(), Unread> {
        let Some(year) = self.pass.years.get(self.pass.year).copied() else {
            self.pass.go_to(Step::VoucherSeries.next());
            return Ok(());
        };
        let listed = self.page("/3/voucherseries", &[("financialyear", &year.to_string())], None).await?;
        let series = books::series(&listed).map_err(unclear)?;
        self.pass.count("voucher_series", series.len());
        self.pass.year += 1;
        let kept = self.keep(async |tx, _| Ok(fortnox::keep_series(tx, self.held.job.org_id, year, &series).await?));
        Ok(kept.await?)
    }

    async fn accounts(&mut self) -> Result<(), Unread> {
        let Some(year) = self.pass.years.get(self.pass.year).copied() else {
            self.pass.go_to(Step::Accounts.next());
            return Ok(());
        };
        let since = self.pass.since(self.plan.accounts_since);
        let listed =
            self.page("/3/accounts", &[("financialyear", &year.to_string()), ("sortby", "number")], since).await?;
        let accounts = books::accounts(&listed).map_err(unclear)?;
        let step = self.pass.walk.step(accounts.iter().map(|account| account.number.to_string()).collect());
        self.counted("accounts", step, &listed);
        let ended = matches!(step, walk::Step::End(_));
        if ended {
            self.pass.walk = walk::Walk::default();
            self.pass.year += 1;
        }
        let kept = self.keep(async |tx, pass| {
            let org_id = self.held.job.org_id;
            if step != walk::Step::Back {
                fortnox::keep_accounts(tx, org_id, year, pass.id, &accounts).await?;
            }
            if ended && pass.full {
                fortnox::drop_unseen_accounts(tx, org_id, year, pass.id).await?;
            }
            Ok(())
        });
        Ok(kept.await?)
    }

    async fn cost_centers(&mut self) -> Result<(), Unread> {
        let listed = self.page("/3/costcenters", &[], None).await?;
        let centers = books::cost_centers(&listed).map_err(unclear)?;
        self.pass.count("cost_centers", centers.len());
        self.pass.go_to(None);
        let kept = self.keep(async |tx, _| Ok(fortnox::keep_cost_centers(tx, self.held.job.org_id, &centers).await?));
        Ok(kept.await?)
    }

    fn counted(&mut self, resource: &str, step: walk::Step, listed: &Value) {
        if let walk::Step::Joined(new) | walk::Step::End(new) = step {
            self.pass.count(resource, new);
        }
        if let (Some(total), "customers") = (books::total(listed), resource) {
            self.pass.of.insert(resource.to_owned(), total);
        }
    }

    /// The page that the walk is at.
    async fn page(&self, path: &str, query: &[(&str, &str)], since: Option<String>) -> Result<Value, Unread> {
        let (limit, offset) = (PAGE.to_string(), self.pass.walk.offset.to_string());
        let mut all = vec![("limit", limit.as_str()), ("offset", offset.as_str())];
        all.extend(query);
        if let Some(since) = &since {
            all.push(("lastmodified", since));
        }
        self.get(path, &all).await
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Unread> {
        self.reader.get(path, query).await.map_err(|error| self.unread(error))
    }

    /// Asks for customers one by one.
    async fn found(&self, numbers: Vec<String>) -> Result<Vec<(String, Found)>, Unread> {
        let mut found = Vec::new();
        for number in numbers {
            match self.reader.get(&format!("/3/customers/{}", segment(&number)), &[]).await {
                Ok(answer) => {
                    let customer = &answer["Customer"];
                    let kind = books::text(&customer["Type"]).filter(|kind| ["PRIVATE", "COMPANY"].contains(kind));
                    let there =
                        Found::There { active: books::flag(&customer["Active"]), kind: kind.map(str::to_owned) };
                    found.push((number, there));
                }
                Err(ReadError::Fortnox(FortnoxError::Refused { status: 404, .. })) => {
                    found.push((number, Found::Deleted));
                }
                Err(error) => return Err(self.unread(error)),
            }
        }
        Ok(found)
    }

    async fn keep_found(&self, found: Vec<(String, Found)>) -> Result<(), Stop> {
        let kept = self.keep(async |tx, pass| {
            for (number, found) in &found {
                fortnox::keep_found(tx, self.held.job.org_id, pass.id, number, found).await?;
            }
            Ok(())
        });
        kept.await
    }

    /// Writes down what was read, and how far the pass is, in one transaction; and holds the job for longer.
    async fn keep(&self, write: impl AsyncFnOnce(&mut ServiceTx, &Pass) -> Result<(), Stop>) -> Result<(), Stop> {
        let org_id = self.held.job.org_id;
        let kept = self.state.db.service(org_id, async |tx| {
            self.held.go_on(tx).await?;
            write(tx, &self.pass).await?;
            let pass = serde_json::to_value(&self.pass).map_err(|error| Stop::Unavailable(Box::new(error)))?;
            fortnox::keep_pass(tx, org_id, &pass).await?;
            jobs::show_progress(tx, &self.held.job, &self.pass.progress()).await?;
            Ok::<_, Stop>(())
        });
        kept.await
    }

    fn unread(&self, error: ReadError) -> Unread {
        let error = match error {
            ReadError::Fortnox(error) => error,
            ReadError::Pace(PaceError::Full { retry_after }) => {
                let now = (self.state.clock)();
                return Unread::Stop(self.later(now + retry_after, "fortnox_busy", None));
            }
            ReadError::Pace(PaceError::Store(error)) => return error.into(),
            ReadError::Pace(PaceError::Db(error)) => return error.into(),
        };
        match error {
            // Codes of fortnox.se/developer, guide "errors": scope missing; no licence for the scope; no licence for the API.
            FortnoxError::Refused { code: 2_000_663 | 2_000_664, .. } => Unread::Resource("scope_missing"),
            FortnoxError::Refused { code: 2_001_101 | 2_001_103, .. } => Unread::Resource("licence_missing"),
            FortnoxError::Refused { status: 403, .. } => Unread::Resource("forbidden"),
            FortnoxError::Refused { .. } => Unread::Resource("refused"),
            error => Unread::Stop(self.again(&error)),
        }
    }

    /// Another time, from where this is. An attempt that got somewhere does not count.
    fn again(&self, error: &FortnoxError) -> Stop {
        tracing::warn!(%error, "Fortnox was not read to its end");
        let mut failure = Failure::new("fortnox_unavailable", "Fortnox did not answer as it should.");
        if matches!(error, FortnoxError::Busy { status: 429 }) {
            failure =
                Failure { retry_after: Some(TOO_MANY), ..Failure::new("fortnox_busy", "Fortnox is asked too often.") };
        }
        if self.moved {
            let wait = failure.retry_after.unwrap_or(Duration::from_secs(2));
            return self.later((self.state.clock)() + wait, failure.code, Some(failure));
        }
        Stop::Retry(failure)
    }

    #[expect(clippy::unused_self, reason = "reads as what becomes of this reading")]
    fn later(&self, until: DateTime<Utc>, reason: &'static str, failure: Option<Failure>) -> Stop {
        Stop::Snooze { until, why: json!({ "reason": reason, "until": until }), failure, counts: false }
    }
}

/// An answer that is not as documented is no reason to give up the rest.
fn unclear(_: FortnoxError) -> Unread {
    Unread::Resource("malformed")
}

/// As a segment of a path.
fn segment(text: &str) -> String {
    let mut segment = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_customer_number_leads_to_no_other_path() {
        assert_eq!(super::segment("a-1/../b ö?"), "a-1%2F..%2Fb%20%C3%B6%3F");
    }
}
