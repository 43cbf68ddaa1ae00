//! What is read of a company as it is connected.

use serde_json::{Value, json};
use shared::clients::fortnox::{Fortnox, FortnoxError};

/// How many customers a page has; the most that Fortnox gives.
const PAGE: &str = "500";
/// How many pages are read at once. A company with more is read to its end by the next synchronisation.
const PAGES: u32 = 8;

/// A company.
#[derive(Debug)]
pub(crate) struct Company {
    /// Its number at Fortnox, which client credentials name as `TenantId`.
    pub(crate) tenant: String,
    /// What is shown of it: name, organisation number, financial years and voucher series.
    pub(crate) shown: Value,
    /// Numbers of its customers, and each as it was listed.
    pub(crate) customers: (Vec<String>, Vec<Value>),
}

/// Reads what an organisation has to know of its company.
pub(crate) async fn read(fortnox: &Fortnox, token: &str) -> Result<Company, FortnoxError> {
    let information = fortnox.get(token, "/3/companyinformation", &[]).await?;
    let information = &information["CompanyInformation"];
    let tenant = number(&information["DatabaseNumber"]).ok_or(FortnoxError::Malformed)?;
    let years = fortnox.get(token, "/3/financialyears", &[]).await?;
    let years: Vec<Value> = items(&years, "FinancialYears")?
        .iter()
        .map(|year| {
            json!({ "id": year["Id"], "from": year["FromDate"], "to": year["ToDate"], "method": year["AccountingMethod"] })
        })
        .collect();
    let series = fortnox.get(token, "/3/voucherseries", &[]).await?;
    let series: Vec<Value> = items(&series, "VoucherSeriesCollection")?
        .iter()
        .map(|series| {
            json!({ "code": series["Code"], "description": series["Description"], "manual": series["Manual"], "year": series["Year"] })
        })
        .collect();
    let shown = json!({
        "name": information["CompanyName"],
        // Both spellings are met: with z here, with s on customers.
        "organisation_number": text(&information["OrganizationNumber"]).or(text(&information["OrganisationNumber"])),
        "financial_years": years,
        "voucher_series": series,
    });
    Ok(Company { tenant, shown, customers: customers(fortnox, token).await? })
}

async fn customers(fortnox: &Fortnox, token: &str) -> Result<(Vec<String>, Vec<Value>), FortnoxError> {
    let (mut numbers, mut data) = (Vec::new(), Vec::new());
    for page in 1..=PAGES {
        let page = page.to_string();
        let listed = fortnox
            .get(token, "/3/customers", &[("limit", PAGE), ("page", &page), ("sortby", "customernumber")])
            .await?;
        for customer in items(&listed, "Customers")? {
            let number = number(&customer["CustomerNumber"]).ok_or(FortnoxError::Malformed)?;
            // Pages shift when customers come and go between two of them.
            if !numbers.contains(&number) {
                numbers.push(number);
                data.push(customer.clone());
            }
        }
        let pages = &listed["MetaInformation"]["@TotalPages"];
        let pages = pages.as_i64().or_else(|| pages.as_str()?.parse().ok()).unwrap_or_default();
        if page.parse::<i64>().is_ok_and(|page| page >= pages) {
            break;
        }
    }
    Ok((numbers, data))
}

fn items<'a>(body: &'a Value, key: &str) -> Result<&'a Vec<Value>, FortnoxError> {
    body[key].as_array().ok_or(FortnoxError::Malformed)
}

/// A number, which comes as a number or as text.
fn number(value: &Value) -> Option<String> {
    value.as_i64().map(|number| number.to_string()).or_else(|| text(value).map(str::to_owned))
}

/// A text that says something: what is unset comes as null or empty.
fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}
