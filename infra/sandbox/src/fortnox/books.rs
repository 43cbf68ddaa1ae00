//! The books of one company: years with their accounts and series, cost centers, vouchers; and how the API writes them down.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde_json::{Value, json};

/// Money in öre, as the API writes it: a whole number where it is one, a fraction where it is not.
pub(super) fn kronor(ore: i64) -> Value {
    if ore % 100 == 0 {
        json!(ore / 100)
    } else {
        // Fourteen digits fit into a double.
        #[expect(clippy::cast_precision_loss, reason = "amounts have 14 digits at most")]
        let amount = ore as f64 / 100.0;
        json!(amount)
    }
}

/// Whether rows on an account carry something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// They may.
    Allowed,
    /// They must.
    Mandatory,
    /// They must not.
    NotAllowed,
}

impl Rule {
    fn name(self) -> &'static str {
        match self {
            Self::Allowed => "ALLOWED",
            Self::Mandatory => "MANDATORY",
            Self::NotAllowed => "NOTALLOWED",
        }
    }
}

/// An account, of one year.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// From 1000 to 9999.
    pub number: u16,
    /// Its name.
    pub description: String,
    /// The code of the tax form's line.
    pub sru: u16,
    /// The VAT code that is preset.
    pub vat_code: Option<String>,
    /// Whether it can be posted to.
    pub active: bool,
    /// Whether rows carry a cost center.
    pub cost_center: Rule,
    /// Whether rows carry a project.
    pub project: Rule,
    /// Whether rows carry transaction information.
    pub transaction_information: Rule,
    pub(super) modified: i64,
}

impl Account {
    /// An active account with nothing special about it.
    #[must_use]
    pub fn new(number: u16, description: impl Into<String>) -> Self {
        Self {
            number,
            description: description.into(),
            sru: 7513,
            vat_code: None,
            active: true,
            cost_center: Rule::Allowed,
            project: Rule::Allowed,
            transaction_information: Rule::Allowed,
            modified: 0,
        }
    }

    /// As lists have it.
    pub(super) fn item(&self, url: &str, year: i64) -> Value {
        json!({
            "@url": format!("{url}/3/accounts/{}?financialyear={year}", self.number), "Active": self.active,
            "BalanceBroughtForward": 0, "CostCenter": null, "CostCenterSettings": self.cost_center.name(),
            "Description": self.description, "Number": self.number, "Project": "", "ProjectSettings": self.project.name(),
            "SRU": self.sru, "VATCode": self.vat_code, "Year": year,
        })
    }

    /// By itself.
    pub(super) fn detail(&self, url: &str, year: i64) -> Value {
        let mut detail = self.item(url, year);
        // A list writes what is not set as null, and this as nothing.
        detail["VATCode"] = json!(self.vat_code.as_deref().unwrap_or_default());
        detail["BalanceCarriedForward"] = json!(0);
        detail["OpeningQuantities"] = Value::Null;
        detail["QuantitySettings"] = json!("ALLOWED");
        detail["QuantityUnit"] = json!("");
        detail["TransactionInformation"] = Value::Null;
        detail["TransactionInformationSettings"] = json!(self.transaction_information.name());
        detail
    }
}

/// A series that vouchers are numbered in, of one year.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// At most 10 letters and digits.
    pub code: String,
    /// Its name.
    pub description: String,
    /// Whether the API may post to it.
    pub manual: bool,
}

impl Series {
    /// A series.
    #[must_use]
    pub fn new(code: impl Into<String>, description: impl Into<String>, manual: bool) -> Self {
        Self { code: code.into(), description: description.into(), manual }
    }

    /// As lists have it: without the next number.
    pub(super) fn item(&self, url: &str, year: i64) -> Value {
        json!({
            "@url": format!("{url}/3/voucherseries/{}?financialyear={year}", self.code), "Code": self.code,
            "Description": self.description, "Manual": self.manual, "Year": year, "Approver": null,
        })
    }

    /// By itself.
    pub(super) fn detail(&self, url: &str, year: i64, next: i64) -> Value {
        let mut detail = self.item(url, year);
        detail["NextVoucherNumber"] = json!(next);
        detail
    }
}

/// A cost center.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostCenter {
    /// What rows name it by: at most 6 characters.
    pub code: String,
    /// Its name.
    pub description: String,
    /// Whether rows may name it.
    pub active: bool,
}

impl CostCenter {
    pub(super) fn render(&self, url: &str) -> Value {
        json!({
            "@url": format!("{url}/3/costcenters/{}", self.code), "Code": self.code, "Description": self.description,
            "Note": "", "Active": self.active,
        })
    }
}

/// A financial year with what belongs to it alone.
#[derive(Debug, Clone)]
pub(super) struct Year {
    pub(super) id: i64,
    pub(super) from: NaiveDate,
    pub(super) to: NaiveDate,
    pub(super) accounts: BTreeMap<u16, Account>,
    pub(super) series: BTreeMap<String, Series>,
}

impl Year {
    pub(super) fn holds(&self, date: NaiveDate) -> bool {
        (self.from..=self.to).contains(&date)
    }

    pub(super) fn render(&self, url: &str) -> Value {
        json!({
            "@url": format!("{url}/3/financialyears/{}", self.id), "Id": self.id, "FromDate": self.from, "ToDate": self.to,
            "AccountChartType": "BAS 2024", "AccountingMethod": "ACCRUAL",
        })
    }
}

/// A row of a voucher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoucherRow {
    /// The account's number.
    pub account: u16,
    /// In öre.
    pub debit: i64,
    /// In öre.
    pub credit: i64,
    /// The code of the cost center.
    pub cost_center: Option<String>,
    /// At most 100 characters.
    pub transaction_information: Option<String>,
}

/// A voucher. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voucher {
    /// The id of its financial year.
    pub year: i64,
    /// The code of its series.
    pub series: String,
    /// Its number in series and year.
    pub number: i64,
    /// At most 200 characters.
    pub description: String,
    /// On which day it is booked.
    pub transaction_date: NaiveDate,
    /// At most 1000 characters.
    pub comments: Option<String>,
    /// The code of the cost center of the whole.
    pub cost_center: Option<String>,
    /// What is booked.
    pub rows: Vec<VoucherRow>,
}

impl Voucher {
    /// As lists have it: without rows.
    pub(super) fn item(&self, url: &str) -> Value {
        json!({
            "@url": format!("{url}/3/vouchers/{}/{}?financialyear={}", self.series, self.number, self.year),
            "Comments": self.comments, "Description": self.description, "ReferenceNumber": "",
            "ReferenceType": "MANUAL", "TransactionDate": self.transaction_date, "VoucherNumber": self.number,
            "VoucherSeries": self.series, "Year": self.year, "ApprovalState": 0,
        })
    }

    /// By itself.
    pub(super) fn detail(&self, url: &str, accounts: &BTreeMap<u16, Account>) -> Value {
        let row = |row: &VoucherRow| {
            json!({
                "Account": row.account, "CostCenter": row.cost_center.as_deref().unwrap_or_default(),
                "Credit": kronor(row.credit), "Debit": kronor(row.debit),
                "Description": accounts.get(&row.account).map(|account| account.description.as_str()), "Project": "",
                "Quantity": 0, "Removed": false,
                "TransactionInformation": row.transaction_information.as_deref().unwrap_or_default(),
            })
        };
        let mut detail = self.item(url);
        detail["CostCenter"] = json!(self.cost_center.as_deref().unwrap_or_default());
        detail["Project"] = json!("");
        detail["VoucherRows"] = self.rows.iter().map(row).collect();
        detail
    }
}
