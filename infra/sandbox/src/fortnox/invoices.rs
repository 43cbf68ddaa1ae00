//! Customer invoices, unpaid and paid. The API here reads them only; people write them.

use chrono::{Days, NaiveDate};
use serde_json::{Value, json};

use super::{
    books::kronor,
    clock::{stockholm, stockholm_minute},
    params::{self, PAGES, Query},
    refusal::Refusal,
    world::{Company, CustomerNumber},
};

/// What a list can be searched by. Fortnox has a dozen more, which the sandbox refuses.
const SEARCHES: [&str; 7] = [
    "customernumber",
    "customername",
    "documentnumber",
    "ocr",
    "externalinvoicereference1",
    "externalinvoicereference2",
    "yourordernumber",
];

const FILTERS: [&str; 5] = ["cancelled", "fullypaid", "unpaid", "unpaidoverdue", "unbooked"];

/// An invoice to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInvoice {
    /// A customer's number.
    pub customer: String,
    /// When it is dated.
    pub date: NaiveDate,
    /// What is sold, without VAT, in öre.
    pub net: i64,
    /// VAT, in percent of it.
    pub vat: i64,
    /// Where the sale is booked.
    pub account: u16,
    /// What the row says.
    pub description: String,
    /// `ExternalInvoiceReference1`.
    pub reference: Option<String>,
}

impl NewInvoice {
    /// An invoice for sales with 25 % VAT.
    #[must_use]
    pub fn new(customer: impl Into<String>, date: NaiveDate, net: i64) -> Self {
        Self {
            customer: customer.into(),
            date,
            net,
            vat: 25,
            account: 3001,
            description: "Konsultarvode".to_owned(),
            reference: None,
        }
    }
}

/// An invoice.
#[derive(Debug, Clone)]
pub(super) struct Invoice {
    number: i64,
    asked: NewInvoice,
    customer_name: String,
    /// What is left to pay, in öre.
    balance: i64,
    paid_on: Option<NaiveDate>,
    booked: bool,
    cancelled: bool,
    modified: i64,
}

impl Invoice {
    fn vat(&self) -> i64 {
        self.asked.net * self.asked.vat / 100
    }

    fn total(&self) -> i64 {
        self.asked.net + self.vat()
    }

    fn ocr(&self) -> String {
        format!("{}{}", self.number, self.number % 10)
    }

    fn due(&self) -> NaiveDate {
        self.asked.date.checked_add_days(Days::new(30)).unwrap_or(self.asked.date)
    }

    fn item(&self, url: &str, year: Option<i64>) -> Value {
        let voucher = self.booked.then_some(self.number);
        json!({
            "@url": format!("{url}/3/invoices/{}", self.number), "Balance": kronor(self.balance), "Booked": self.booked,
            "Cancelled": self.cancelled, "CostCenter": "", "Currency": "SEK", "CurrencyRate": "1", "CurrencyUnit": 1,
            "CustomerName": self.customer_name, "CustomerNumber": self.asked.customer,
            "DocumentNumber": self.number.to_string(), "DueDate": self.due(),
            "ExternalInvoiceReference1": self.asked.reference.as_deref().unwrap_or_default(),
            "ExternalInvoiceReference2": "", "FinalPayDate": self.paid_on, "InvoiceDate": self.asked.date,
            "InvoiceType": "INVOICE", "NoxFinans": false, "OCR": self.ocr(),
            "Project": "", "Sent": true, "TermsOfPayment": "30", "Total": kronor(self.total()), "VoucherNumber": voucher,
            "VoucherSeries": self.booked.then_some("B"), "VoucherYear": year.filter(|_| self.booked), "WayOfDelivery": "",
        })
    }

    fn detail(&self, url: &str, year: Option<i64>) -> Value {
        let mut detail = self.item(url, year);
        // A list writes some numbers as texts that are numbers by themselves, and the other way round.
        detail["CurrencyRate"] = json!(1);
        let fields = json!({
            "AccountingMethod": "ACCRUAL", "Address1": null, "Address2": null, "City": null, "Comments": "",
            "Country": "Sverige", "Credit": "false", "Gross": kronor(self.asked.net), "Net": kronor(self.asked.net),
            "InvoiceRows": [{
                "AccountNumber": self.asked.account, "ArticleNumber": "", "CostCenter": null, "DeliveredQuantity": "1.00",
                "Description": self.asked.description, "Discount": 0, "DiscountType": "PERCENT", "HouseWork": false,
                "Price": kronor(self.asked.net), "PriceExcludingVAT": kronor(self.asked.net), "Project": "", "RowId": 1,
                "Total": kronor(self.asked.net), "TotalExcludingVAT": kronor(self.asked.net), "Unit": "st",
                "VAT": self.asked.vat, "VATCode": null,
            }],
            "Labels": [], "Language": "SV", "OrganisationNumber": "", "OurReference": "", "RoundOff": 0,
            "TotalToPay": kronor(self.total()), "TotalVAT": kronor(self.vat()), "VATIncluded": false,
            "YourOrderNumber": "", "YourReference": "", "ZipCode": null,
        });
        if let (Value::Object(detail), Value::Object(fields)) = (&mut detail, fields) {
            detail.extend(fields);
        }
        json!({ "Invoice": detail })
    }

    fn searched(&self, field: &str) -> String {
        match field {
            "customernumber" => self.asked.customer.clone(),
            "customername" => self.customer_name.clone(),
            "documentnumber" => self.number.to_string(),
            "ocr" => self.ocr(),
            "externalinvoicereference1" => self.asked.reference.clone().unwrap_or_default(),
            _ => String::new(),
        }
    }

    /// Whether a filter lets it through.
    fn is(&self, filter: &str, today: NaiveDate) -> bool {
        let paid = self.balance == 0;
        match filter {
            "cancelled" => self.cancelled,
            "unbooked" => !self.booked,
            "fullypaid" => !self.cancelled && paid,
            "unpaid" => !self.cancelled && !paid,
            "unpaidoverdue" => !self.cancelled && !paid && self.due() < today,
            _ => false,
        }
    }
}

impl Company {
    /// An invoice that was booked and sent. None if there is no such customer.
    pub(super) fn add_invoice(&mut self, asked: NewInvoice, now: i64) -> Option<i64> {
        let customer = self.customers.get(&CustomerNumber::from(asked.customer.as_str()))?;
        let customer_name = customer.detail.get("Name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = i64::try_from(self.invoices.len()).unwrap_or(i64::MAX - 1) + 1;
        let mut invoice = Invoice {
            number,
            asked,
            customer_name,
            balance: 0,
            paid_on: None,
            booked: true,
            cancelled: false,
            modified: now,
        };
        invoice.balance = invoice.total();
        self.invoices.push(invoice);
        Some(number)
    }

    fn find_invoice(&self, number: &str) -> Option<&Invoice> {
        self.invoices.iter().find(|invoice| invoice.number.to_string() == number)
    }

    /// Pays some of an invoice, or all that is left. False if there is no such invoice.
    pub(super) fn pay_invoice(&mut self, number: i64, on: NaiveDate, ore: Option<i64>, now: i64) -> bool {
        let Some(invoice) = self.invoices.iter_mut().find(|invoice| invoice.number == number) else { return false };
        invoice.balance -= ore.unwrap_or(invoice.balance);
        invoice.paid_on = (invoice.balance == 0).then_some(on);
        invoice.modified = now;
        true
    }

    /// Cancels an invoice. False if there is no such invoice.
    pub(super) fn cancel_invoice(&mut self, number: i64, now: i64) -> bool {
        let Some(invoice) = self.invoices.iter_mut().find(|invoice| invoice.number == number) else { return false };
        invoice.cancelled = true;
        invoice.modified = now;
        true
    }

    /// `GET /3/invoices`.
    pub(super) fn list_invoices(&self, query: &Query, url: &str, now: i64) -> Result<Value, Refusal> {
        let globals = ["lastmodified", "sortby", "sortorder", "filter", "fromdate", "todate", "financialyear"];
        query.only(&[&PAGES, &globals, &["fromfinalpaydate", "tofinalpaydate"], &SEARCHES])?;
        let (since, search) = (query.last_modified()?, query.search(&SEARCHES)?);
        let year = query.integer("financialyear")?.map(|id| self.chosen(Some(id))).transpose()?;
        let (from, to) = (query.date("fromdate")?, query.date("todate")?);
        let (paid_from, paid_to) = (query.date("fromfinalpaydate")?, query.date("tofinalpaydate")?);
        let today = stockholm(now).date();
        let filter = query.get("filter");
        if filter.is_some_and(|filter| !FILTERS.contains(&filter)) {
            return Err(Refusal::filter());
        }
        let wanted = |invoice: &&Invoice| {
            filter.is_none_or(|filter| invoice.is(filter, today))
                && since.is_none_or(|since| stockholm_minute(invoice.modified) >= since)
                && search.is_none_or(|(field, value)| params::contains(&invoice.searched(field), value))
                && year.is_none_or(|year| year.holds(invoice.asked.date))
                && from.is_none_or(|from| invoice.asked.date >= from)
                && to.is_none_or(|to| invoice.asked.date <= to)
                && paid_from.is_none_or(|from| invoice.paid_on.is_some_and(|paid| paid >= from))
                && paid_to.is_none_or(|to| invoice.paid_on.is_some_and(|paid| paid <= to))
        };
        let mut rows: Vec<&Invoice> = self.invoices.iter().filter(wanted).collect();
        match query.get("sortby") {
            None | Some("documentnumber") => {}
            Some("customername") => rows.sort_by(|a, b| a.customer_name.cmp(&b.customer_name)),
            Some("customernumber") => rows.sort_by_key(|invoice| CustomerNumber::from(invoice.asked.customer.as_str())),
            Some("invoicedate") => rows.sort_by_key(|invoice| invoice.asked.date),
            Some("total") => rows.sort_by_key(|invoice| invoice.total()),
            Some(_) => return Err(Refusal::parameter()),
        }
        if query.descending()? {
            rows.reverse();
        }
        let (rows, meta) = query.page(&rows)?;
        let rows: Vec<_> = rows.iter().map(|invoice| invoice.item(url, self.voucher_year(invoice))).collect();
        Ok(json!({ "MetaInformation": meta, "Invoices": rows }))
    }

    fn voucher_year(&self, invoice: &Invoice) -> Option<i64> {
        self.year_of(invoice.asked.date).map(|year| year.id)
    }

    /// `GET /3/invoices/{number}`.
    pub(super) fn invoice(&self, number: &str, url: &str) -> Result<Value, Refusal> {
        let found = self.find_invoice(number);
        let found = found.ok_or_else(|| Refusal::missing(2_000_434, "Kan inte hitta fakturan."))?;
        Ok(found.detail(url, self.voucher_year(found)))
    }
}
