//! Customers: the register that changes while it is read.

use serde_json::{Map, Value, json};

use super::{
    clock::stockholm_minute,
    fields,
    params::{self, PAGES, Query},
    refusal::Refusal,
    world::{Company, CustomerNumber},
};

/// The longest name, and the longest text where nothing else is documented.
const TEXT: usize = 1024;
const TYPES: &[&str] = &["PRIVATE", "COMPANY"];
const VAT_TYPES: &[&str] = &["SEVAT", "SEREVERSEDVAT", "EUREVERSEDVAT", "EUVAT", "EXPORT"];

/// What a list can be searched by, and the field that it looks at.
const SEARCHES: [(&str, &str); 9] = [
    ("customernumber", "CustomerNumber"),
    ("name", "Name"),
    ("zipcode", "ZipCode"),
    ("city", "City"),
    ("email", "Email"),
    ("phone", "Phone1"),
    ("organisationnumber", "OrganisationNumber"),
    ("gln", "GLN"),
    ("glndelivery", "GLNDelivery"),
];

/// Texts that are null in a customer of whom only the name was given.
#[rustfmt::skip]
const NULL: [&str; 30] = [
    "Address1", "Address2", "City", "CostCenter", "DeliveryAddress1", "DeliveryAddress2", "DeliveryCity", "DeliveryCountry",
    "DeliveryCountryCode", "DeliveryFax", "DeliveryName", "DeliveryPhone1", "DeliveryPhone2", "DeliveryZipCode",
    "ExternalReference", "Fax", "GLN", "GLNDelivery", "InvoiceAdministrationFee", "InvoiceDiscount", "InvoiceFreight",
    "Phone1", "Phone2", "SalesAccount", "VisitingAddress", "VisitingCity", "VisitingCountry", "VisitingCountryCode",
    "VisitingZipCode", "ZipCode",
];
/// Texts that are empty in it.
#[rustfmt::skip]
const EMPTY: [&str; 19] = [
    "Comments", "Email", "EmailInvoice", "EmailInvoiceBCC", "EmailInvoiceCC", "EmailOffer", "EmailOfferBCC", "EmailOfferCC",
    "EmailOrder", "EmailOrderBCC", "EmailOrderCC", "InvoiceRemark", "OurReference", "Project", "TermsOfDelivery", "VATNumber",
    "WWW", "WayOfDelivery", "YourReference",
];
/// What a body may not say.
const READ_ONLY: [&str; 4] = ["@url", "Country", "DeliveryCountry", "VisitingCountry"];

/// A customer.
#[derive(Debug, Clone)]
pub(super) struct Customer {
    /// As the API writes it by itself, but for `@url`.
    pub(super) detail: Map<String, Value>,
    pub(super) modified: i64,
}

impl Customer {
    fn new(number: &str, now: i64) -> Self {
        let mut detail = Map::new();
        detail.extend(NULL.map(|name| (name.to_owned(), Value::Null)));
        detail.extend(EMPTY.map(|name| (name.to_owned(), json!(""))));
        let rest = json!({
            "Active": true, "Country": "Sverige", "CountryCode": "SE", "Currency": "SEK", "CustomerNumber": number,
            "DefaultDeliveryTypes": { "Invoice": "PRINT", "Order": "PRINT", "Offer": "PRINT" },
            "DefaultTemplates": {
                "Order": "DEFAULTTEMPLATE", "Offer": "DEFAULTTEMPLATE", "Invoice": "DEFAULTTEMPLATE",
                "CashInvoice": "DEFAULTTEMPLATE",
            },
            "Name": "", "OrganisationNumber": "", "PriceList": "A", "ShowPriceVATIncluded": false, "TermsOfPayment": "30",
            "Type": "COMPANY", "VATType": "SEVAT",
        });
        if let Value::Object(rest) = rest {
            detail.extend(rest);
        }
        Self { detail, modified: now }
    }

    fn text(&self, field: &str) -> &str {
        self.detail.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    fn url(&self, url: &str) -> Value {
        json!(format!("{url}/3/customers/{}", self.text("CustomerNumber")))
    }

    /// As lists have it: fewer fields, and one telephone.
    fn item(&self, url: &str) -> Value {
        let field = |name: &str| self.detail.get(name).cloned().unwrap_or_default();
        // What is not set is null by itself, and empty here.
        let filled = |name: &str| json!(self.text(name));
        json!({
            "@url": self.url(url), "Address1": filled("Address1"), "Address2": filled("Address2"), "City": filled("City"),
            "CustomerNumber": field("CustomerNumber"), "Email": field("Email"), "Name": field("Name"),
            "OrganisationNumber": field("OrganisationNumber"), "Phone": filled("Phone1"), "ZipCode": filled("ZipCode"),
        })
    }

    /// By itself, in the wrapper of its resource.
    pub(super) fn detail(&self, url: &str) -> Value {
        let mut detail = self.detail.clone();
        detail.insert("@url".to_owned(), self.url(url));
        json!({ "Customer": detail })
    }

    /// Takes what a body says. Null says nothing.
    fn take(&mut self, fields: Map<String, Value>, now: i64) {
        self.detail.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
        self.modified = now;
    }
}

/// Checks what a body says of a customer.
fn check(fields: &Map<String, Value>) -> Result<(), Refusal> {
    let known = Customer::new("", 0).detail;
    if fields.keys().any(|name| READ_ONLY.contains(&name.as_str()) || !known.contains_key(name)) {
        return Err(Refusal::field());
    }
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        match name.as_str() {
            "Active" | "ShowPriceVATIncluded" if !value.is_boolean() => return Err(Refusal::not_boolean(value)),
            "Active" | "ShowPriceVATIncluded" => {}
            "InvoiceAdministrationFee" | "InvoiceDiscount" | "InvoiceFreight" | "SalesAccount" => {
                fields::number(value)?;
            }
            "DefaultDeliveryTypes" | "DefaultTemplates" if !value.is_object() => return Err(Refusal::body()),
            "DefaultDeliveryTypes" | "DefaultTemplates" => {}
            _ => {
                fields::text(fields, name, longest(name))?;
            }
        }
    }
    for (name, values) in [("Type", TYPES), ("VATType", VAT_TYPES)] {
        let given = fields.get(name).and_then(Value::as_str);
        if given.is_some_and(|given| !values.contains(&given)) {
            return Err(Refusal::body());
        }
    }
    Ok(())
}

/// The longest text of a field, in characters.
fn longest(field: &str) -> usize {
    match field {
        "CountryCode" | "DeliveryCountryCode" | "VisitingCountryCode" => 2,
        "Currency" => 3,
        "ZipCode" | "DeliveryZipCode" | "VisitingZipCode" => 10,
        "GLN" | "GLNDelivery" => 13,
        "OurReference" | "YourReference" => 50,
        "VisitingAddress" | "VisitingCity" | "WWW" => 128,
        _ => TEXT,
    }
}

fn missing() -> Refusal {
    Refusal::missing(2_000_433, "Kan inte hitta kunden.")
}

impl Company {
    /// A new customer under the next number.
    pub(super) fn add_customer(&mut self, name: &str, org_number: Option<&str>, now: i64) -> String {
        let number = self.free_number();
        let mut customer = Customer::new(&number, now);
        customer.detail.insert("Name".to_owned(), json!(name));
        customer.detail.insert("OrganisationNumber".to_owned(), json!(org_number.unwrap_or_default()));
        self.keep(&number, customer);
        number
    }

    fn keep(&mut self, number: &str, customer: Customer) {
        self.used_numbers.insert(number.to_owned());
        self.customers.insert(CustomerNumber::from(number), customer);
    }

    fn free_number(&self) -> String {
        // One is given out for each that was, so that the search is short.
        let mut number = self.used_numbers.len() + 1;
        while self.used_numbers.contains(&number.to_string()) {
            number += 1;
        }
        number.to_string()
    }

    /// Changes fields, whatever they are. False if there is no such customer.
    pub(super) fn change_customer(&mut self, number: &str, fields: Map<String, Value>, now: i64) -> bool {
        let found = self.customers.get_mut(&CustomerNumber::from(number));
        found.map(|customer| customer.take(fields, now)).is_some()
    }

    /// `GET /3/customers`.
    pub(super) fn list_customers(&self, query: &Query, url: &str) -> Result<Value, Refusal> {
        let searches = SEARCHES.map(|(name, _)| name);
        query.only(&[&PAGES, &["lastmodified", "sortby", "sortorder", "filter"], &searches])?;
        let active = match query.get("filter") {
            None => None,
            Some("active") => Some(true),
            Some("inactive") => Some(false),
            Some(_) => return Err(Refusal::filter()),
        };
        let since = query.last_modified()?;
        let search = query.search(&searches)?;
        let field = |asked| SEARCHES.iter().find(|(name, _)| *name == asked).map_or("", |(_, field)| field);
        let search = search.map(|(name, value)| (field(name), value));
        let wanted = |customer: &&Customer| {
            active.is_none_or(|active| customer.detail.get("Active") == Some(&json!(active)))
                && since.is_none_or(|since| stockholm_minute(customer.modified) >= since)
                && search.is_none_or(|(field, value)| params::contains(customer.text(field), value))
        };
        let mut rows: Vec<&Customer> = self.customers.values().filter(wanted).collect();
        match query.get("sortby") {
            None | Some("customernumber") => {}
            Some("name") => rows.sort_by_key(|customer| customer.text("Name").to_lowercase()),
            Some(_) => return Err(Refusal::parameter()),
        }
        if query.descending()? {
            rows.reverse();
        }
        let (rows, meta) = query.page(&rows)?;
        let rows: Vec<_> = rows.iter().map(|customer| customer.item(url)).collect();
        Ok(json!({ "MetaInformation": meta, "Customers": rows }))
    }

    /// `GET /3/customers/{number}`.
    pub(super) fn customer(&self, number: &str, url: &str) -> Result<Value, Refusal> {
        let found = self.customers.get(&CustomerNumber::from(number)).ok_or_else(missing)?;
        Ok(found.detail(url))
    }

    /// `POST /3/customers`.
    pub(super) fn create_customer(&mut self, body: &[u8], url: &str, now: i64) -> Result<Value, Refusal> {
        let fields = fields::wrapped(body, "Customer")?;
        check(&fields)?;
        fields::required(&fields, "Name", TEXT)?;
        let number = match fields::text(&fields, "CustomerNumber", TEXT)? {
            Some(number) if self.used_numbers.contains(&number) => {
                let message =
                    format!("Kundnummer {number} används redan. Kundnumret har redan använts men blivit raderat.");
                return Err(Refusal::invalid(2_000_637, message));
            }
            Some(number) => number,
            None => self.free_number(),
        };
        let mut customer = Customer::new(&number, now);
        customer.take(fields, now);
        customer.detail.insert("CustomerNumber".to_owned(), json!(number));
        let detail = customer.detail(url);
        self.keep(&number, customer);
        Ok(detail)
    }

    /// `PUT /3/customers/{number}`: what is left out stays as it is.
    pub(super) fn update_customer(&mut self, number: &str, body: &[u8], url: &str, now: i64) -> Result<Value, Refusal> {
        let customer = self.customers.get_mut(&CustomerNumber::from(number)).ok_or_else(missing)?;
        let fields = fields::wrapped(body, "Customer")?;
        check(&fields)?;
        if fields.get("Name").is_some_and(|name| !name.is_null()) {
            fields::required(&fields, "Name", TEXT)?;
        }
        if fields.get("CustomerNumber").is_some_and(|given| *given != json!(number)) {
            return Err(Refusal::field());
        }
        customer.take(fields, now);
        Ok(customer.detail(url))
    }
}
