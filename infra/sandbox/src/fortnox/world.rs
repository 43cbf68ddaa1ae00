//! The world: the application as the developer portal knows it, and the companies that use Fortnox.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use serde_json::{Value, json};

use super::{
    books::{CostCenter, Series, Voucher, Year},
    chart,
    customers::Customer,
    grants::Grants,
    invoices::Invoice,
    limit::Limits,
    refusal::Refusal,
};
use crate::{Key, clock::Clock};

/// All scopes that the sandbox knows.
pub(super) const SCOPES: [&str; 6] =
    ["companyinformation", "settings", "bookkeeping", "customer", "invoice", "costcenter"];

/// The application, as it is registered in the developer portal.
#[derive(Debug)]
pub(super) struct App {
    pub(super) client_id: String,
    pub(super) client_secret: Key,
    pub(super) redirect_uri: String,
    pub(super) scopes: BTreeSet<String>,
    pub(super) service_accounts: bool,
}

/// How a company's own organisation number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OrgNumberSpelling {
    /// `556677-8899`.
    #[default]
    Dashed,
    /// `5566778899`.
    Plain,
}

/// A company and all its data.
#[derive(Debug)]
pub(super) struct Company {
    /// `DatabaseNumber`, and `TenantId`.
    pub(super) tenant: i64,
    pub(super) name: String,
    /// Its ten digits.
    org_number: String,
    pub(super) spelling: OrgNumberSpelling,
    /// In the order in which they were opened.
    pub(super) years: Vec<Year>,
    /// The id of the year that a person chose last.
    pub(super) preselected: i64,
    pub(super) locked_until: Option<NaiveDate>,
    pub(super) cost_centers: Vec<CostCenter>,
    pub(super) customers: BTreeMap<CustomerNumber, Customer>,
    /// Numbers that were used once.
    pub(super) used_numbers: BTreeSet<String>,
    pub(super) vouchers: Vec<Voucher>,
    pub(super) invoices: Vec<Invoice>,
    /// Scopes without a licence.
    pub(super) unlicensed: BTreeSet<String>,
    pub(super) api_licence: bool,
    /// Whether the person who is asked administers the system.
    pub(super) administrator: bool,
}

/// A customer number, in the order of lists: numbers by value, then the rest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CustomerNumber(u64, String);

impl From<&str> for CustomerNumber {
    fn from(text: &str) -> Self {
        Self(text.parse().unwrap_or(u64::MAX), text.to_owned())
    }
}

impl Company {
    pub(super) fn new(tenant: i64, name: &str, org_number: &str, now: i64) -> Self {
        // The ids are those of the order in which years were opened, which was not that of the calendar.
        let years = [(1, 2025), (2, 2026), (3, 2024), (4, 2027)].map(|(id, year)| Year::open(id, year, now)).into();
        let cost_center = |code: &str, description: &str, active| CostCenter {
            code: code.to_owned(),
            description: description.to_owned(),
            active,
        };
        let mut company = Self {
            tenant,
            name: name.to_owned(),
            org_number: org_number.chars().filter(char::is_ascii_digit).collect(),
            spelling: OrgNumberSpelling::default(),
            years,
            preselected: 3,
            locked_until: None,
            cost_centers: vec![
                cost_center("AVD1", "Avdelning Öst", true),
                cost_center("AVD2", "Avdelning Väst", true),
                cost_center("GAMMAL", "Nedlagd avdelning", false),
            ],
            customers: BTreeMap::new(),
            used_numbers: BTreeSet::new(),
            vouchers: Vec::new(),
            invoices: Vec::new(),
            unlicensed: BTreeSet::new(),
            api_licence: true,
            administrator: true,
        };
        // One number with a dash, one without, and one that is missing.
        for (name, org_number) in
            [("Åkes Bygg & Plåt AB", Some("556012-5790")), ("Ödmans Rör HB", Some("9696651234")), ("Eva Berg", None)]
        {
            company.add_customer(name, org_number, now);
        }
        company
    }

    /// As the company writes it itself.
    pub(super) fn org_number(&self) -> String {
        match (self.spelling, self.org_number.split_at_checked(6)) {
            (OrgNumberSpelling::Dashed, Some((first, last))) => format!("{first}-{last}"),
            _ => self.org_number.clone(),
        }
    }

    pub(super) fn year(&self, id: i64) -> Option<&Year> {
        self.years.iter().find(|year| year.id == id)
    }

    pub(super) fn year_mut(&mut self, id: i64) -> Option<&mut Year> {
        self.years.iter_mut().find(|year| year.id == id)
    }

    pub(super) fn year_of(&self, date: NaiveDate) -> Option<&Year> {
        self.years.iter().find(|year| year.holds(date))
    }

    /// The year that is asked for, or else the one that a person chose last.
    pub(super) fn chosen(&self, asked: Option<i64>) -> Result<&Year, Refusal> {
        let missing = || Refusal::uncoded("Kan inte hitta räkenskapsåret.");
        self.year(asked.unwrap_or(self.preselected)).ok_or_else(missing)
    }

    pub(super) fn next_number(&self, year: i64, series: &str) -> i64 {
        let numbers = self.vouchers.iter().filter(|v| v.year == year && v.series == series).map(|v| v.number);
        numbers.max().unwrap_or_default() + 1
    }

    /// `GET /3/companyinformation`: its organisation number has a z, and what is not set is null.
    pub(super) fn information(&self) -> Value {
        json!({ "CompanyInformation": {
            "Address": "Storgatan 1", "City": "Växjö", "CountryCode": "SE", "DatabaseNumber": self.tenant,
            "CompanyName": self.name, "OrganizationNumber": self.org_number(), "VisitAddress": null, "VisitCity": null,
            "VisitCountryCode": null, "VisitZipCode": null, "ZipCode": "352 30",
        }})
    }

    /// `GET /3/settings/company`: what is not set is empty.
    pub(super) fn settings(&self) -> Value {
        json!({ "CompanySettings": {
            "Address": "Storgatan 1", "BG": "", "BIC": "", "BranchCode": "", "City": "Växjö", "ContactFirstName": "",
            "ContactLastName": "", "Country": "Sverige", "CountryCode": "SE", "DatabaseNumber": self.tenant,
            "Domicile": "Växjö", "Email": "", "Fax": "", "IBAN": "", "Name": self.name,
            "OrganizationNumber": self.org_number(), "PG": "", "Phone1": "", "Phone2": "", "TaxEnabled": true,
            "VATNumber": format!("SE{}01", self.org_number), "VisitAddress": "", "VisitCity": "", "VisitCountry": "",
            "VisitCountryCode": "", "VisitName": "", "VisitZipCode": "", "WWW": "", "ZipCode": "352 30",
        }})
    }
}

impl Year {
    /// A calendar year, with the accounts and series of a new company.
    pub(super) fn open(id: i64, calendar: i32, now: i64) -> Self {
        let day = |month, day| NaiveDate::from_ymd_opt(calendar, month, day).unwrap_or_default();
        let series = [
            Series::new("A", "Redovisning", false),
            Series::new("B", "Kundfakturor", false),
            Series::new("SP", "Spine", true),
        ];
        Self {
            id,
            from: day(1, 1),
            to: day(12, 31),
            accounts: chart::accounts(now).collect(),
            series: series.into_iter().map(|series| (series.code.clone(), series)).collect(),
        }
    }
}

pub(super) struct World {
    pub(super) clock: Clock,
    pub(super) app: App,
    pub(super) companies: BTreeMap<i64, Company>,
    pub(super) grants: Grants,
    pub(super) limits: Limits,
    /// Where the API is, for the addresses in its answers.
    pub(super) url: String,
}

impl World {
    pub(super) fn now(&self) -> i64 {
        self.clock.now()
    }
}
