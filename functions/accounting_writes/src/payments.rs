//! Invoices at Fortnox that were paid, and the vouchers that are proposed for them.

use std::time::Instant;

use chrono::{DateTime, Days, Utc};
use serde_json::{Value, json};
use shared::{
    books::{date, integer, word},
    db::ServiceTx,
    pace::Side,
    store::{
        StoreError,
        accounting::{self, PaidInvoice},
    },
    worker::{Failure, Stop},
};
use uuid::Uuid;

use crate::{books::Books, state::State};

const PAGE: &str = "500";
/// The most pages that one look reads.
const PAGES: u32 = 200;
/// How many payments that could not be proposed are tried again in each look.
const RETRIED: i32 = 200;
/// How far back the first look goes.
const FIRST: Days = Days::new(30);
/// How far back each look goes beyond the last. Fortnox writes times in Swedish time, to the minute.
const OVERLAP: Days = Days::new(1);

/// What a look at payments found.
#[derive(Debug)]
pub(crate) struct Paid {
    invoices: Vec<PaidInvoice>,
    read_until: DateTime<Utc>,
}

/// Reads the invoices that were paid since the last look.
pub(crate) async fn read(state: &State, org_id: Uuid, deadline: Instant) -> Result<Paid, Stop> {
    let books = Books::open(state, org_id, deadline).await?;
    let begun = (state.clock)();
    let last = state.db.service(org_id, async |tx| accounting::payments_read_until(tx, org_id).await).await?;
    let since = last.map_or_else(|| begun.checked_sub_days(FIRST), |last| last.checked_sub_days(OVERLAP));
    let since = since.unwrap_or(begun).date_naive().to_string();
    let mut invoices = Vec::new();
    for page in 1..=PAGES {
        let page_text = page.to_string();
        let query =
            [("filter", "fullypaid"), ("lastmodified", since.as_str()), ("limit", PAGE), ("page", page_text.as_str())];
        let read = books.get(Side::Read, "/3/invoices", &query).await?;
        let items = read["Invoices"].as_array().ok_or_else(malformed)?;
        invoices.extend(items.iter().filter_map(paid));
        let pages = integer(&read["MetaInformation"]["@TotalPages"]).ok_or_else(malformed)?;
        if i64::from(page) >= pages {
            return Ok(Paid { invoices, read_until: begun });
        }
    }
    let detail = "More invoices were paid since the last look than one look reads; nothing was proposed for them.";
    Err(Stop::failed("fortnox_too_many_payments", detail))
}

/// An invoice that was paid, if what a list says of it is enough.
fn paid(item: &Value) -> Option<PaidInvoice> {
    #[expect(clippy::cast_possible_truncation, reason = "amounts have 14 digits at most")]
    let total_ore = item["Total"].as_f64().map(|total| (total * 100.0).round() as i64)?;
    Some(PaidInvoice {
        number: word(&item["DocumentNumber"]).filter(|text| text.len() <= 40)?,
        customer_number: word(&item["CustomerNumber"])?,
        paid_on: date(&item["FinalPayDate"])?,
        total_ore,
        reference: word(&item["ExternalInvoiceReference1"]),
    })
}

/// Proposes a voucher for each, in the transaction that ends the job. How many came to what.
pub(crate) async fn propose(tx: &mut ServiceTx, org_id: Uuid, paid: &Paid) -> Result<Value, StoreError> {
    let mut outcomes = json!({});
    for invoice in &paid.invoices {
        let outcome = accounting::propose_payment(tx, invoice).await?;
        outcomes[&outcome] = json!(outcomes[&outcome].as_i64().unwrap_or_default() + 1);
    }
    accounting::retry_payments(tx, RETRIED).await?;
    accounting::keep_payments_read_until(tx, org_id, paid.read_until).await?;
    Ok(json!({ "invoices": paid.invoices.len(), "outcomes": outcomes }))
}

fn malformed() -> Stop {
    Stop::Retry(Failure::new("fortnox_malformed", "Fortnox' answer is not as documented."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invoice_is_read_whether_its_numbers_are_text_or_numbers() {
        let item = json!({
            "DocumentNumber": "12", "CustomerNumber": 7, "FinalPayDate": "2026-11-30", "Total": 1250.5,
            "ExternalInvoiceReference1": "",
        });
        let read = PaidInvoice {
            number: "12".to_owned(),
            customer_number: "7".to_owned(),
            paid_on: "2026-11-30".parse().unwrap(),
            total_ore: 125_050,
            reference: None,
        };
        assert_eq!(paid(&item), Some(read));
        for missing in ["DocumentNumber", "CustomerNumber", "FinalPayDate", "Total"] {
            let mut without = item.clone();
            without[missing] = Value::Null;
            assert_eq!(paid(&without), None, "{missing}");
        }
    }
}
