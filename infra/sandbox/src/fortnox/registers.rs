//! The registers that people keep and the API reads: accounts, series, years, cost centers, the locked period. And vouchers.

use serde_json::{Value, json};

use super::{
    books::{Account, Series, Voucher, Year},
    fields,
    params::{PAGES, Query},
    refusal::Refusal,
    rules,
    world::Company,
};
use crate::fortnox::clock::stockholm_minute;

/// How a year is named in a query.
const YEAR: [&str; 2] = ["financialyear", "financialyeardate"];

fn listed(key: &str, meta: &Value, rows: Vec<Value>) -> Value {
    json!({ "MetaInformation": meta, key: rows })
}

impl Company {
    /// The year that a query names by its id or by a day, or else the one that a person chose last.
    fn queried(&self, query: &Query) -> Result<&Year, Refusal> {
        match (query.integer("financialyear")?, query.date("financialyeardate")?) {
            (Some(_), Some(_)) => Err(Refusal::parameter()),
            (None, Some(day)) => self.year_of(day).ok_or_else(|| Refusal::uncoded("Kan inte hitta räkenskapsåret.")),
            (id, None) => self.chosen(id),
        }
    }

    /// `GET /3/settings/lockedperiod`.
    pub(super) fn locked_period(&self) -> Value {
        json!({ "LockedPeriod": { "EndDate": self.locked_until } })
    }

    /// `GET /3/financialyears`. The guides write `date`, the OpenAPI document `Date`; which one Fortnox needs is not known.
    pub(super) fn list_years(&self, query: &Query, url: &str) -> Result<Value, Refusal> {
        query.only(&[&PAGES, &["date", "Date"]])?;
        let day = query.date("date")?.or(query.date("Date")?);
        let years: Vec<&Year> = self.years.iter().filter(|year| day.is_none_or(|day| year.holds(day))).collect();
        let (rows, meta) = query.page(&years)?;
        Ok(listed("FinancialYears", &meta, rows.iter().map(|year| year.render(url)).collect()))
    }

    /// `GET /3/financialyears/{id}`.
    pub(super) fn financial_year(&self, id: &str, url: &str) -> Result<Value, Refusal> {
        let found = id.parse().ok().and_then(|id| self.year(id));
        let found = found.ok_or_else(|| Refusal::missing(2_000_729, "Kan inte hitta räkenskapsåret."))?;
        Ok(json!({ "FinancialYear": found.render(url) }))
    }

    /// `GET /3/accounts`.
    pub(super) fn list_accounts(&self, query: &Query, url: &str) -> Result<Value, Refusal> {
        query.only(&[&PAGES, &YEAR, &["lastmodified", "sru", "sortby", "sortorder"]])?;
        let year = self.queried(query)?;
        let (since, sru) = (query.last_modified()?, query.integer("sru")?);
        if query.get("sortby").is_some_and(|by| by != "number") {
            return Err(Refusal::parameter());
        }
        let wanted = |account: &&Account| {
            since.is_none_or(|since| stockholm_minute(account.modified) >= since)
                && sru.is_none_or(|sru| i64::from(account.sru) == sru)
        };
        let mut accounts: Vec<&Account> = year.accounts.values().filter(wanted).collect();
        if query.descending()? {
            accounts.reverse();
        }
        let (rows, meta) = query.page(&accounts)?;
        Ok(listed("Accounts", &meta, rows.iter().map(|account| account.item(url, year.id)).collect()))
    }

    /// `GET /3/accounts/{number}`.
    pub(super) fn account(&self, number: &str, query: &Query, url: &str) -> Result<Value, Refusal> {
        query.only(&[&YEAR])?;
        let year = self.queried(query)?;
        let found = number.parse().ok().and_then(|number: u16| year.accounts.get(&number));
        let found = found.ok_or_else(|| Refusal::missing(2_000_423, "Kan inte hitta kontot."))?;
        Ok(json!({ "Account": found.detail(url, year.id) }))
    }

    /// `GET /3/voucherseries`.
    pub(super) fn list_series(&self, query: &Query, url: &str) -> Result<Value, Refusal> {
        query.only(&[&PAGES, &YEAR])?;
        let year = self.queried(query)?;
        let series: Vec<&Series> = year.series.values().collect();
        let (rows, meta) = query.page(&series)?;
        Ok(listed("VoucherSeriesCollection", &meta, rows.iter().map(|series| series.item(url, year.id)).collect()))
    }

    /// `GET /3/voucherseries/{code}`.
    pub(super) fn series(&self, code: &str, query: &Query, url: &str) -> Result<Value, Refusal> {
        query.only(&[&YEAR])?;
        let year = self.queried(query)?;
        let found = year.series.get(code).ok_or_else(missing_series)?;
        Ok(json!({ "VoucherSeries": found.detail(url, year.id, self.next_number(year.id, code)) }))
    }

    /// `POST /3/voucherseries`: a series of one year.
    pub(super) fn create_series(&mut self, query: &Query, body: &[u8], url: &str) -> Result<Value, Refusal> {
        query.only(&[&YEAR])?;
        let id = self.queried(query)?.id;
        let given = fields::wrapped(body, "VoucherSeries")?;
        fields::only(&given, &["Code", "Description", "Manual"])?;
        let code = fields::required(&given, "Code", rules::SERIES)?;
        if !code.chars().all(char::is_alphanumeric) {
            return Err(Refusal::not_alphanumeric(&code));
        }
        let description = fields::required(&given, "Description", 200)?;
        let manual = match given.get("Manual") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(manual)) => *manual,
            Some(other) => return Err(Refusal::not_boolean(other)),
        };
        let next = self.next_number(id, &code);
        let year = self.year_mut(id).ok_or_else(missing_series)?;
        if year.series.contains_key(&code) {
            return Err(Refusal::uncoded(format!("Verifikationsserien finns redan ({code})")));
        }
        let series = Series::new(code.clone(), description, manual);
        let detail = series.detail(url, id, next);
        year.series.insert(code, series);
        Ok(json!({ "VoucherSeries": detail }))
    }

    /// `GET /3/costcenters`.
    pub(super) fn list_cost_centers(&self, query: &Query, url: &str) -> Result<Value, Refusal> {
        query.only(&[&PAGES, &["sortorder"]])?;
        let (rows, meta) = query.page(&self.cost_centers)?;
        Ok(listed("CostCenters", &meta, rows.iter().map(|center| center.render(url)).collect()))
    }

    /// `GET /3/costcenters/{code}`.
    pub(super) fn cost_center(&self, code: &str, url: &str) -> Result<Value, Refusal> {
        let found = self.cost_centers.iter().find(|center| center.code == code);
        let found = found.ok_or_else(|| Refusal::missing(2_000_729, "Kan inte hitta kostnadsstället."))?;
        Ok(json!({ "CostCenter": found.render(url) }))
    }

    /// `GET /3/vouchers`, and `GET /3/vouchers/sublist/{series}`. There is no `lastmodified`: a voucher never changes.
    pub(super) fn list_vouchers(&self, series: Option<&str>, query: &Query, url: &str) -> Result<Value, Refusal> {
        query.only(&[&PAGES, &YEAR, &["fromdate", "todate", "sortorder"]])?;
        let year = self.queried(query)?;
        if series.is_some_and(|series| !year.series.contains_key(series)) {
            return Err(missing_series());
        }
        let (from, to) = (query.date("fromdate")?, query.date("todate")?);
        let wanted = |voucher: &&Voucher| {
            voucher.year == year.id
                && series.is_none_or(|series| voucher.series == series)
                && from.is_none_or(|from| voucher.transaction_date >= from)
                && to.is_none_or(|to| voucher.transaction_date <= to)
        };
        let mut vouchers: Vec<&Voucher> = self.vouchers.iter().filter(wanted).collect();
        vouchers.sort_by(|a, b| (&a.series, a.number).cmp(&(&b.series, b.number)));
        if query.descending()? {
            vouchers.reverse();
        }
        let (rows, meta) = query.page(&vouchers)?;
        Ok(listed("Vouchers", &meta, rows.iter().map(|voucher| voucher.item(url)).collect()))
    }

    /// `GET /3/vouchers/{series}/{number}`.
    pub(super) fn voucher(&self, series: &str, number: &str, query: &Query, url: &str) -> Result<Value, Refusal> {
        query.only(&[&YEAR])?;
        let year = self.queried(query)?;
        let is = |voucher: &&Voucher| {
            voucher.year == year.id && voucher.series == series && voucher.number.to_string() == number
        };
        let found = self.vouchers.iter().find(is);
        let found = found.ok_or_else(|| Refusal::missing(2_000_729, "Kan inte hitta verifikationen."))?;
        Ok(json!({ "Voucher": found.detail(url, &year.accounts) }))
    }

    /// `POST /3/vouchers`: without a year it lands in the one that a person chose last. There is nothing that makes a repeated
    /// request the same voucher.
    pub(super) fn create_voucher(&mut self, query: &Query, body: &[u8], url: &str) -> Result<Value, Refusal> {
        query.only(&[&["financialyear"]])?;
        let mut voucher = rules::parse(body)?;
        voucher.year = rules::check(self, query.integer("financialyear")?, &voucher)?;
        voucher.number = self.next_number(voucher.year, &voucher.series);
        let year = self.chosen(Some(voucher.year))?;
        let detail = voucher.detail(url, &year.accounts);
        self.vouchers.push(voucher);
        Ok(json!({ "Voucher": detail }))
    }
}

fn missing_series() -> Refusal {
    Refusal::missing(2_000_729, "Kan inte hitta verifikationsserien.")
}
