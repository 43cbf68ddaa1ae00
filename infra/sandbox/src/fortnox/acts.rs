//! What people do in Fortnox by hand, and what a test can look at. None of it asks for a token or counts for the rate.

use anyhow::{Context, Result, bail};
use chrono::{Datelike, NaiveDate};
use serde_json::{Value, json};

use super::{
    Fortnox,
    books::{Account, CostCenter, Series, Voucher, Year},
    invoices::NewInvoice,
    world::{Company, OrgNumberSpelling},
};

impl Fortnox {
    fn within<T>(&self, tenant: i64, act: impl FnOnce(&mut Company, i64) -> Option<T>) -> Result<T> {
        let mut world = self.world();
        let now = world.now();
        let company = world.companies.get_mut(&tenant).with_context(|| format!("there is no company {tenant}"))?;
        act(company, now).context("there is no such thing in this company")
    }

    fn in_year<T>(&self, tenant: i64, year: i64, act: impl FnOnce(&mut Year, i64) -> Option<T>) -> Result<T> {
        self.within(tenant, |company, now| act(company.year_mut(year)?, now))
    }

    /// A company that uses Fortnox, with the years 2024 to 2027, a chart of accounts and three customers. Its `DatabaseNumber`, which
    /// no company of another sandbox is likely to have.
    ///
    /// The series `SP` is manual, `A` and `B` are not. The year that a person chose last is 2024.
    pub fn create_company(&self, name: &str, org_number: &str) -> i64 {
        let mut world = self.world();
        let tenant = loop {
            let tenant = i64::from(rand::random_range(100_000..100_000_000_u32));
            if !world.companies.contains_key(&tenant) {
                break tenant;
            }
        };
        let company = Company::new(tenant, name, org_number, world.now());
        world.companies.insert(tenant, company);
        tenant
    }
}

/// Books. Each fails if there is no such company, year, account or series.
impl Fortnox {
    /// The id of a calendar year.
    pub fn year_id(&self, tenant: i64, calendar_year: i32) -> Result<i64> {
        self.within(tenant, |company, _| {
            company.years.iter().find(|year| year.from.year() == calendar_year).map(|year| year.id)
        })
    }

    /// Opens a calendar year, with accounts and series of its own. Its id.
    pub fn open_year(&self, tenant: i64, calendar_year: i32) -> Result<i64> {
        self.within(tenant, |company, now| {
            let id = company.years.iter().map(|year| year.id).max().unwrap_or_default() + 1;
            company.years.push(Year::open(id, calendar_year, now));
            Some(id)
        })
    }

    /// Removes a year, as if it had not been opened yet.
    pub fn remove_year(&self, tenant: i64, year: i64) -> Result<()> {
        self.within(tenant, |company, _| {
            company.year(year)?;
            company.years.retain(|known| known.id != year);
            Some(())
        })
    }

    /// A person chooses the year they work in, which is what a request without a year gets.
    pub fn choose_year(&self, tenant: i64, year: i64) -> Result<()> {
        self.within(tenant, |company, _| {
            company.preselected = company.year(year)?.id;
            Some(())
        })
    }

    /// Locks everything up to this day, or nothing.
    pub fn set_locked_period(&self, tenant: i64, until: Option<NaiveDate>) -> Result<()> {
        self.within(tenant, |company, _| {
            company.locked_until = until;
            Some(())
        })
    }

    /// Adds an account to a year, or replaces it there.
    pub fn put_account(&self, tenant: i64, year: i64, account: Account) -> Result<()> {
        self.in_year(tenant, year, |year, now| {
            year.accounts.insert(account.number, Account { modified: now, ..account });
            Some(())
        })
    }

    /// Removes an account from a year.
    pub fn remove_account(&self, tenant: i64, year: i64, number: u16) -> Result<()> {
        self.in_year(tenant, year, |year, _| year.accounts.remove(&number).map(drop))
    }

    /// Changes an account of a year.
    pub fn change_account(&self, tenant: i64, year: i64, number: u16, change: impl FnOnce(&mut Account)) -> Result<()> {
        self.in_year(tenant, year, |year, now| {
            let account = year.accounts.get_mut(&number)?;
            change(account);
            account.modified = now;
            Some(())
        })
    }

    /// Whether an account can be posted to in a year.
    pub fn set_account_active(&self, tenant: i64, year: i64, number: u16, active: bool) -> Result<()> {
        self.change_account(tenant, year, number, |account| account.active = active)
    }

    /// Adds a series to a year, or replaces it there.
    pub fn put_series(&self, tenant: i64, year: i64, series: Series) -> Result<()> {
        self.in_year(tenant, year, |year, _| {
            year.series.insert(series.code.clone(), series);
            Some(())
        })
    }

    /// Removes a series from a year.
    pub fn remove_series(&self, tenant: i64, year: i64, code: &str) -> Result<()> {
        self.in_year(tenant, year, |year, _| year.series.remove(code).map(drop))
    }

    /// Whether the API may post to a series in a year.
    pub fn set_series_manual(&self, tenant: i64, year: i64, code: &str, manual: bool) -> Result<()> {
        self.in_year(tenant, year, |year, _| {
            year.series.get_mut(code)?.manual = manual;
            Some(())
        })
    }

    /// Adds a cost center, or replaces it.
    pub fn put_cost_center(&self, tenant: i64, center: CostCenter) -> Result<()> {
        self.within(tenant, |company, _| {
            company.cost_centers.retain(|known| known.code != center.code);
            company.cost_centers.push(center);
            Some(())
        })
    }

    /// A person books a voucher by hand, in a manual series or not. Returns the number it gets, in place of the one it has.
    pub fn add_voucher(&self, tenant: i64, voucher: Voucher) -> Result<i64> {
        self.within(tenant, |company, _| {
            let number = company.next_number(voucher.year, &voucher.series);
            company.vouchers.push(Voucher { number, ..voucher });
            Some(number)
        })
    }

    /// The vouchers of a company, in the order in which they were booked.
    #[must_use]
    pub fn vouchers(&self, tenant: i64) -> Vec<Voucher> {
        self.within(tenant, |company, _| Some(company.vouchers.clone())).unwrap_or_default()
    }
}

/// Customers and invoices. Each fails if there is no such company, customer or invoice.
impl Fortnox {
    /// A new customer. Its number.
    pub fn create_customer(&self, tenant: i64, name: &str, org_number: Option<&str>) -> Result<String> {
        self.within(tenant, |company, now| Some(company.add_customer(name, org_number, now)))
    }

    /// So many new customers, each with an organisation number of its own; every other one has a dash in it. Their numbers.
    pub fn create_customers(&self, tenant: i64, count: usize) -> Result<Vec<String>> {
        self.within(tenant, |company, now| {
            let first = company.used_numbers.len() + 1;
            let add = |serial: usize| {
                let (area, tail) = (560_000 + serial / 10_000, serial % 10_000);
                let dash = if serial.is_multiple_of(2) { "-" } else { "" };
                company.add_customer(&format!("Kund {serial:06} AB"), Some(&format!("{area}{dash}{tail:04}")), now)
            };
            Some((first..first + count).map(add).collect())
        })
    }

    /// Changes fields of a customer, whether the API would take them or not.
    pub fn update_customer(&self, tenant: i64, number: &str, fields: &Value) -> Result<()> {
        let Value::Object(fields) = fields else { bail!("fields are an object") };
        self.within(tenant, |company, now| company.change_customer(number, fields.clone(), now).then_some(()))
    }

    /// Deletes a customer. Its number is never given out again, and no list tells of it.
    pub fn delete_customer(&self, tenant: i64, number: &str) -> Result<()> {
        self.within(tenant, |company, _| company.customers.remove(&number.into()).map(drop))
    }

    /// The customers of a company, as the API writes each by itself but for `@url`, in the order of lists.
    #[must_use]
    pub fn customers(&self, tenant: i64) -> Vec<Value> {
        let all = |company: &Company| company.customers.values().map(|customer| json!(customer.detail)).collect();
        self.within(tenant, |company, _| Some(all(company))).unwrap_or_default()
    }

    /// Sends and books an invoice. Its number.
    pub fn create_invoice(&self, tenant: i64, invoice: NewInvoice) -> Result<i64> {
        self.within(tenant, |company, now| company.add_invoice(invoice, now))
    }

    /// An invoice is paid in full: nothing is left, and `FinalPayDate` is set.
    pub fn pay_invoice(&self, tenant: i64, number: i64, on: NaiveDate) -> Result<()> {
        self.within(tenant, |company, now| company.pay_invoice(number, on, None, now).then_some(()))
    }

    /// Some of an invoice is paid, in öre.
    pub fn pay_part_of_invoice(&self, tenant: i64, number: i64, on: NaiveDate, ore: i64) -> Result<()> {
        self.within(tenant, |company, now| company.pay_invoice(number, on, Some(ore), now).then_some(()))
    }

    /// Cancels an invoice.
    pub fn cancel_invoice(&self, tenant: i64, number: i64) -> Result<()> {
        self.within(tenant, |company, now| company.cancel_invoice(number, now).then_some(()))
    }
}

/// The company itself. Each fails if there is no such company.
impl Fortnox {
    /// How the company's own organisation number is written.
    pub fn set_org_number_spelling(&self, tenant: i64, spelling: OrgNumberSpelling) -> Result<()> {
        self.within(tenant, |company, _| {
            company.spelling = spelling;
            Some(())
        })
    }

    /// Whether the company has the licence that a scope needs.
    pub fn set_licence(&self, tenant: i64, scope: &str, licensed: bool) -> Result<()> {
        self.within(tenant, |company, _| {
            if licensed {
                company.unlicensed.remove(scope);
            } else {
                company.unlicensed.insert(scope.to_owned());
            }
            Some(())
        })
    }

    /// Whether the company has the licence for integrations at all.
    pub fn set_api_licence(&self, tenant: i64, licensed: bool) -> Result<()> {
        self.within(tenant, |company, _| {
            company.api_licence = licensed;
            Some(())
        })
    }

    /// Whether the person who is asked for consent administers the company, which a service account needs.
    pub fn set_administrator(&self, tenant: i64, administrator: bool) -> Result<()> {
        self.within(tenant, |company, _| {
            company.administrator = administrator;
            Some(())
        })
    }

    /// Somebody removes the integration in Fortnox: codes, tokens and the service account end at once.
    pub fn revoke_consent(&self, tenant: i64) {
        self.world().grants.end(tenant);
    }

    /// The refresh tokens of a company that can still be used.
    #[must_use]
    pub fn refresh_tokens(&self, tenant: i64) -> Vec<String> {
        let world = self.world();
        world.grants.live(tenant, world.now())
    }

    /// The most calls for this company in any window of 5 s, those that were refused included.
    #[must_use]
    pub fn most_in_any_window(&self, tenant: i64) -> usize {
        self.world().limits.most(tenant)
    }

    /// How many calls for this company were one too many.
    #[must_use]
    pub fn refused_by_limit(&self, tenant: i64) -> usize {
        self.world().limits.refused(tenant)
    }
}
