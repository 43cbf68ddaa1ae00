//! What an organisation's Fortnox has: read within the pace, and understood once.
//!
//! The same field comes as a number or as text, and what is unset as null, empty or not at all.

use chrono::NaiveDate;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    clients::fortnox::{Fortnox, FortnoxError},
    pace::{Pace, PaceError, Side},
};

/// How many rows a page has; the most that Fortnox gives.
pub const PAGE: usize = 500;

/// Why something was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Fortnox was of no help.
    #[error(transparent)]
    Fortnox(#[from] FortnoxError),
    /// The call was not made.
    #[error(transparent)]
    Pace(#[from] PaceError),
}

/// Reads as one organisation.
#[derive(Debug)]
pub struct Reader<'a> {
    /// Fortnox.
    pub fortnox: &'a Fortnox,
    /// When calls may be made.
    pub pace: &'a Pace,
    /// An access token of the organisation's company.
    pub access_token: &'a str,
    /// The organisation, which must exist.
    pub org_id: Uuid,
    /// How long a call is waited for that may not be made yet.
    pub deadline: Instant,
}

impl Reader<'_> {
    /// Reads what `path` names.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, ReadError> {
        let call = async || self.fortnox.get(self.access_token, path, query).await;
        Ok(self.pace.call(self.org_id, Side::Read, self.deadline, call).await??)
    }
}

/// A customer, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    /// Its number.
    pub number: String,
    /// All that was listed.
    pub data: Value,
}

/// A financial year.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Year {
    /// Its id, which is not the calendar year.
    pub id: i64,
    /// Its first day.
    pub from: NaiveDate,
    /// Its last day.
    pub to: NaiveDate,
    /// `ACCRUAL` or `CASH`.
    pub method: Option<String>,
}

/// A series of vouchers, of one year.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// Its code.
    pub code: String,
    /// Its name.
    pub description: String,
    /// Whether the API may add vouchers to it.
    pub manual: bool,
    /// The id of its year.
    pub year: Option<i64>,
}

/// An account, of one year.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// From 1000 to 9999.
    pub number: i32,
    /// Its name.
    pub description: String,
    /// Whether it can be booked on.
    pub active: bool,
    /// The VAT code that is preset.
    pub vat_code: Option<String>,
    /// `ALLOWED`, `MANDATORY` or `NOTALLOWED`.
    pub cost_center_settings: Option<String>,
    /// The same for projects.
    pub project_settings: Option<String>,
}

/// A cost centre.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostCenter {
    /// Its code.
    pub code: String,
    /// Its name.
    pub description: String,
    /// Whether it is in use.
    pub active: bool,
}

/// The customers of a page.
///
/// # Errors
/// [`FortnoxError::Malformed`], as all functions here that read a list.
pub fn customers(listed: &Value) -> Result<Vec<Customer>, FortnoxError> {
    read(listed, "Customers", |item| Some(Customer { number: word(&item["CustomerNumber"])?, data: item.clone() }))
}

/// The financial years of a page.
///
/// # Errors
/// As [`customers`].
pub fn years(listed: &Value) -> Result<Vec<Year>, FortnoxError> {
    read(listed, "FinancialYears", |item| {
        Some(Year {
            id: integer(&item["Id"])?,
            from: date(&item["FromDate"])?,
            to: date(&item["ToDate"])?,
            method: text(&item["AccountingMethod"]).map(str::to_owned),
        })
    })
}

/// The voucher series of a page.
///
/// # Errors
/// As [`customers`].
pub fn series(listed: &Value) -> Result<Vec<Series>, FortnoxError> {
    read(listed, "VoucherSeriesCollection", |item| {
        Some(Series {
            code: word(&item["Code"])?,
            description: described(item),
            manual: flag(&item["Manual"]).unwrap_or_default(),
            year: integer(&item["Year"]),
        })
    })
}

/// The accounts of a page.
///
/// # Errors
/// As [`customers`].
pub fn accounts(listed: &Value) -> Result<Vec<Account>, FortnoxError> {
    let setting = |value: &Value| {
        text(value).filter(|text| ["ALLOWED", "MANDATORY", "NOTALLOWED"].contains(text)).map(str::to_owned)
    };
    read(listed, "Accounts", |item| {
        Some(Account {
            number: i32::try_from(integer(&item["Number"])?).ok()?,
            description: described(item),
            active: flag(&item["Active"])?,
            vat_code: word(&item["VATCode"]),
            cost_center_settings: setting(&item["CostCenterSettings"]),
            project_settings: setting(&item["ProjectSettings"]),
        })
    })
}

/// The cost centres of a page.
///
/// # Errors
/// As [`customers`].
pub fn cost_centers(listed: &Value) -> Result<Vec<CostCenter>, FortnoxError> {
    read(listed, "CostCenters", |item| {
        Some(CostCenter {
            code: word(&item["Code"])?,
            description: described(item),
            active: flag(&item["Active"]).unwrap_or(true),
        })
    })
}

/// How many rows all pages have together.
#[must_use]
pub fn total(listed: &Value) -> Option<i64> {
    integer(&listed["MetaInformation"]["@TotalResources"])
}

fn read<T>(listed: &Value, key: &str, item: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>, FortnoxError> {
    let items = listed[key].as_array().ok_or(FortnoxError::Malformed)?;
    items.iter().map(item).collect::<Option<_>>().ok_or(FortnoxError::Malformed)
}

fn described(item: &Value) -> String {
    text(&item["Description"]).unwrap_or_default().chars().take(1024).collect()
}

/// A name or number as text, whichever it comes as.
#[must_use]
pub fn word(value: &Value) -> Option<String> {
    value.as_i64().map(|number| number.to_string()).or_else(|| text(value).map(str::to_owned))
}

/// A text that says something.
#[must_use]
pub fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

/// A day.
#[must_use]
pub fn date(value: &Value) -> Option<NaiveDate> {
    text(value)?.get(..10)?.parse().ok()
}

/// Yes or no.
#[must_use]
pub fn flag(value: &Value) -> Option<bool> {
    value.as_bool().or_else(|| text(value)?.parse().ok())
}

/// A whole number, whichever it comes as.
#[must_use]
pub fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| text(value)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_is_read_whether_it_comes_as_a_number_or_as_text_and_what_is_unset_is_none() {
        let year = |id: Value| json!({ "FinancialYears": [{ "Id": id, "FromDate": "2026-01-01", "ToDate": "2026-12-31T00:00:00", "AccountingMethod": "" }] });
        let read = years(&year(json!("7"))).unwrap();
        assert_eq!(read, years(&year(json!(7))).unwrap());
        assert_eq!((read[0].id, read[0].to.to_string(), &read[0].method), (7, "2026-12-31".to_owned(), &None));
        assert!(matches!(years(&year(Value::Null)), Err(FortnoxError::Malformed)));
        assert!(matches!(years(&json!({})), Err(FortnoxError::Malformed)));
    }

    #[test]
    fn an_account_says_what_its_rows_must_name() {
        let listed = json!({ "Accounts": [{
            "Number": 4010, "Description": "Inköp", "Active": true, "VATCode": null, "CostCenterSettings": "MANDATORY", "ProjectSettings": "OTHER",
        }] });
        let account = accounts(&listed).unwrap().remove(0);
        assert_eq!(account.cost_center_settings.as_deref(), Some("MANDATORY"));
        assert_eq!((account.vat_code, account.project_settings), (None, None));
    }
}
