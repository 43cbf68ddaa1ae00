//! What is read of a company as it is connected.

use serde_json::{Value, json};
use shared::{
    books::{self, Customer, PAGE, ReadError, Reader},
    clients::fortnox::FortnoxError,
};

/// How many pages of customers are read at once. The first synchronisation reads a company with more to its end.
const PAGES: usize = 8;

/// A company.
#[derive(Debug)]
pub(crate) struct Company {
    /// Its number at Fortnox, which client credentials name as `TenantId`.
    pub(crate) tenant: String,
    /// What is shown of it: name, organisation number, financial years and voucher series.
    pub(crate) shown: Value,
    pub(crate) customers: Vec<Customer>,
}

/// Reads what an organisation has to know of its company.
pub(crate) async fn read(reader: &Reader<'_>) -> Result<Company, ReadError> {
    let information = reader.get("/3/companyinformation", &[]).await?;
    let information = &information["CompanyInformation"];
    let tenant = books::word(&information["DatabaseNumber"]).ok_or(FortnoxError::Malformed)?;
    let years = books::years(&reader.get("/3/financialyears", &[]).await?)?;
    let years: Vec<Value> = years
        .iter()
        .map(|year| json!({ "id": year.id, "from": year.from, "to": year.to, "method": year.method }))
        .collect();
    let series = books::series(&reader.get("/3/voucherseries", &[]).await?)?;
    let series: Vec<Value> = series
        .iter()
        .map(|series| {
            json!({ "code": series.code, "description": series.description, "manual": series.manual, "year": series.year })
        })
        .collect();
    let shown = json!({
        "name": information["CompanyName"],
        // Both spellings are met: with z here, with s on customers.
        "organisation_number":
            books::text(&information["OrganizationNumber"]).or(books::text(&information["OrganisationNumber"])),
        "financial_years": years,
        "voucher_series": series,
    });
    Ok(Company { tenant, shown, customers: customers(reader).await? })
}

async fn customers(reader: &Reader<'_>) -> Result<Vec<Customer>, ReadError> {
    let mut customers: Vec<Customer> = Vec::new();
    for page in 0..PAGES {
        let (limit, offset) = (PAGE.to_string(), (page * PAGE).to_string());
        let query = [("limit", limit.as_str()), ("offset", offset.as_str()), ("sortby", "customernumber")];
        let listed = books::customers(&reader.get("/3/customers", &query).await?)?;
        let is_last = listed.len() < PAGE;
        for customer in listed {
            // Pages shift when customers come and go between two of them.
            if !customers.iter().any(|known| known.number == customer.number) {
                customers.push(customer);
            }
        }
        if is_last {
            break;
        }
    }
    Ok(customers)
}
