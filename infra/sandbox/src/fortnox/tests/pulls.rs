use super::*;
use crate::fortnox::{CostCenter, NewInvoice, OrgNumberSpelling};

#[tokio::test]
async fn the_company_spells_its_organisation_number_with_a_z_and_with_or_without_a_dash() {
    let app = App::start().await;
    let token = app.connect().await;
    let read = async || {
        let information = app.get(&token, "/3/companyinformation").await;
        let settings = app.get(&token, "/3/settings/company").await;
        let information = &information.ok()["CompanyInformation"];
        let settings = &settings.ok()["CompanySettings"];
        assert_eq!(
            (&information["DatabaseNumber"], &settings["DatabaseNumber"]),
            (&json!(app.tenant), &json!(app.tenant))
        );
        assert_eq!(
            (&information["CompanyName"], &settings["Name"]),
            (&json!("Grönskär & Co AB"), &json!("Grönskär & Co AB"))
        );
        assert_eq!(
            (&information["VisitAddress"], &settings["VisitAddress"]),
            (&Value::Null, &json!("")),
            "unset is null or empty"
        );
        assert_eq!(information["OrganizationNumber"], settings["OrganizationNumber"]);
        assert!(information.get("OrganisationNumber").is_none());
        information["OrganizationNumber"].as_str().unwrap().to_owned()
    };
    assert_eq!(read().await, "556677-8899");
    app.fortnox.set_org_number_spelling(app.tenant, OrgNumberSpelling::Plain).unwrap();
    assert_eq!(read().await, "5566778899");
}

#[tokio::test]
async fn ids_of_years_are_not_the_years() {
    let app = App::start().await;
    let token = app.connect().await;
    let all = app.get(&token, "/3/financialyears").await;
    assert_eq!(all.column("FinancialYears", "Id"), ["1", "2", "3", "4"]);
    assert_eq!(all.column("FinancialYears", "FromDate"), ["2025-01-01", "2026-01-01", "2024-01-01", "2027-01-01"]);
    assert_eq!(all.column("FinancialYears", "AccountingMethod"), ["ACCRUAL"; 4]);
    for name in ["date", "Date"] {
        let one = app.get(&token, &format!("/3/financialyears/?{name}=2024-12-31")).await;
        assert_eq!(one.column("FinancialYears", "Id"), ["3"]);
    }
    let none = app.get(&token, "/3/financialyears?date=2031-01-01").await;
    assert_eq!((none.column("FinancialYears", "Id"), none.meta()), (vec![], [0, 0, 1]));
    assert_eq!(app.get(&token, "/3/financialyears/3").await.ok()["FinancialYear"]["ToDate"], "2024-12-31");
    app.get(&token, "/3/financialyears/2026").await.missing(2_000_729, "Kan inte hitta räkenskapsåret.");
}

#[tokio::test]
async fn accounts_are_those_of_a_year() {
    let app = App::start().await;
    let token = app.connect().await;
    let (before, this) = (app.year(2025), app.year(2026));
    app.fortnox.remove_account(app.tenant, this, 6530).unwrap();
    let list = async |year: i64| app.get(&token, &format!("/3/accounts?financialyear={year}&limit=500")).await;
    assert!(list(before).await.column("Accounts", "Number").contains(&"6530".to_owned()));
    let accounts = list(this).await;
    assert!(!accounts.column("Accounts", "Number").contains(&"6530".to_owned()));
    assert!(accounts.meta()[0] >= 40);
    assert!(accounts.column("Accounts", "Year").iter().all(|year| *year == this.to_string()));
    for setting in ["ALLOWED", "MANDATORY", "NOTALLOWED"] {
        assert!(accounts.column("Accounts", "CostCenterSettings").contains(&setting.to_owned()));
    }
    assert!(accounts.column("Accounts", "Active").contains(&"false".to_owned()));
    assert!(accounts.text.contains(r"\/3\/accounts\/1930?financialyear="));

    let one = async |number: &str| app.get(&token, &format!("/3/accounts/{number}?financialyear={this}")).await;
    let rent = one("5010").await;
    assert_eq!(rent.ok()["Account"]["Description"], "Lokalhyra");
    assert_eq!(rent.body["Account"]["TransactionInformationSettings"], "ALLOWED");
    assert_eq!(one("2641").await.ok()["Account"]["VATCode"], "I");
    one("6530").await.missing(2_000_423, "Kan inte hitta kontot.");
    one("x").await.missing(2_000_423, "Kan inte hitta kontot.");

    let preselected = app.get(&token, "/3/accounts?limit=1").await;
    assert_eq!(preselected.column("Accounts", "Year"), [app.year(2024).to_string()]);
    app.fortnox.advance(3600);
    let token = app.connect().await;
    app.fortnox.set_account_active(app.tenant, this, 5010, false).unwrap();
    let path = format!("/3/accounts?financialyear={this}&lastmodified=2026-06-15%2013:00");
    assert_eq!(app.get(&token, &path).await.column("Accounts", "Number"), ["5010"]);
    let by_line = app.get(&token, &format!("/3/accounts?financialyear={this}&sru=7281&sortorder=descending")).await;
    assert_eq!(by_line.column("Accounts", "Number"), ["1940", "1930", "1920", "1910"]);
}

#[tokio::test]
async fn a_list_of_series_tells_no_next_number() {
    let app = App::start().await;
    let token = app.connect().await;
    let list = app.get(&token, &format!("/3/voucherseries?financialyear={}", app.year(2026))).await;
    assert_eq!(list.column("VoucherSeriesCollection", "Code"), ["A", "B", "SP"]);
    assert_eq!(list.column("VoucherSeriesCollection", "Manual"), ["false", "false", "true"]);
    assert!(list.body["VoucherSeriesCollection"][0].get("NextVoucherNumber").is_none());
}

#[tokio::test]
async fn cost_centers_and_an_open_period_are_read() {
    let app = App::start().await;
    let token = app.connect().await;
    let open = app.get(&token, "/3/settings/lockedperiod").await;
    assert_eq!(open.ok(), &json!({ "LockedPeriod": { "EndDate": null } }));
    let center = CostCenter { code: "NY".to_owned(), description: "Ny".to_owned(), active: true };
    app.fortnox.put_cost_center(app.tenant, center).unwrap();
    let list = app.get(&token, "/3/costcenters").await;
    assert_eq!(list.column("CostCenters", "Code"), ["AVD1", "AVD2", "GAMMAL", "NY"]);
    assert_eq!(list.column("CostCenters", "Active"), ["true", "true", "false", "true"]);
    assert_eq!(app.get(&token, "/3/costcenters/AVD1").await.ok()["CostCenter"]["Description"], "Avdelning Öst");
    app.get(&token, "/3/costcenters/X").await.missing(2_000_729, "Kan inte hitta kostnadsstället.");
}

#[tokio::test]
async fn customers_come_in_pages_in_the_order_of_their_numbers() {
    let app = App::start().await;
    let token = app.connect().await;
    app.fortnox.create_customers(app.tenant, 117).unwrap();
    let first = app.get(&token, "/3/customers").await;
    assert_eq!(first.meta(), [120, 2, 1]);
    let expected: Vec<String> = (1..=100).map(|number| number.to_string()).collect();
    assert_eq!(first.column("Customers", "CustomerNumber"), expected);
    let last = app.get(&token, "/3/customers?page=3&limit=50").await;
    assert_eq!((last.meta(), last.column("Customers", "CustomerNumber").len()), ([120, 3, 3], 20));
    let by_offset = app.get(&token, "/3/customers?offset=119&limit=500").await;
    assert_eq!(by_offset.column("Customers", "CustomerNumber"), ["120"]);
    let beyond = app.get(&token, "/3/customers?page=9").await;
    assert_eq!((beyond.meta(), beyond.column("Customers", "Name").len()), ([120, 2, 9], 0));
    let by_name = app.get(&token, "/3/customers?sortby=name&sortorder=descending&limit=2").await;
    assert_eq!(by_name.column("Customers", "Name"), ["Ödmans Rör HB", "Åkes Bygg & Plåt AB"]);
}

#[tokio::test]
async fn pages_shift_when_a_customer_is_deleted_between_them() {
    let app = App::start().await;
    let token = app.connect().await;
    app.fortnox.create_customers(app.tenant, 3).unwrap();
    let page = async |page: u8| {
        app.get(&token, &format!("/3/customers?limit=3&page={page}")).await.column("Customers", "CustomerNumber")
    };
    assert_eq!(page(1).await, ["1", "2", "3"]);
    app.fortnox.delete_customer(app.tenant, "2").unwrap();
    assert_eq!(page(2).await, ["5", "6"], "nobody is shown the fourth");
    assert_eq!(page(1).await, ["1", "3", "4"]);
}

#[tokio::test]
async fn a_list_and_a_customer_by_itself_differ() {
    let app = App::start().await;
    let token = app.connect().await;
    let list = app.get(&token, "/3/customers?limit=1").await;
    assert!(list.text.contains(r#""Name":"\u00c5kes Bygg & Pl\u00e5t AB""#), "{}", list.text);
    assert!(list.text.contains(r"\/3\/customers\/1"));
    let item = &list.ok()["Customers"][0];
    let one = app.get(&token, "/3/customers/1").await;
    let detail = &one.ok()["Customer"];
    assert_eq!((&item["Address1"], &detail["Address1"]), (&json!(""), &Value::Null));
    assert_eq!((&item["Phone"], &detail["Phone1"]), (&json!(""), &Value::Null));
    assert!(item.get("Phone1").is_none() && detail.get("Phone").is_none() && item.get("Active").is_none());
    assert_eq!(detail["CustomerNumber"], "1");
    assert_eq!((&detail["VATType"], &detail["Type"]), (&json!("SEVAT"), &json!("COMPANY")));
    app.get(&token, "/3/customers/4").await.missing(2_000_433, "Kan inte hitta kunden.");
}

#[tokio::test]
async fn customers_are_searched_by_parts_of_one_field() {
    let app = App::start().await;
    let token = app.connect().await;
    app.fortnox.create_customers(app.tenant, 9).unwrap();
    let numbers = async |query: &str| {
        app.get(&token, &format!("/3/customers?{query}")).await.column("Customers", "CustomerNumber")
    };
    assert_eq!(numbers("customernumber=1").await, ["1", "10", "11", "12"]);
    assert_eq!(numbers("name=bygg%20%26").await, ["1"]);
    assert_eq!(numbers("organisationnumber=556012-5790").await, ["1"]);
    assert!(numbers("organisationnumber=5560125790").await.is_empty(), "a dash is a character like others");
    assert_eq!(numbers("organisationnumber=969665").await, ["2"]);
    app.fortnox.update_customer(app.tenant, "3", &json!({ "Active": false, "Email": "Eva@Example.se" })).unwrap();
    assert_eq!(numbers("filter=inactive").await, ["3"]);
    assert_eq!(numbers("filter=active&name=eva").await, Vec::<String>::new());
    assert_eq!(numbers("email=eva@").await, ["3"]);
}

#[tokio::test]
async fn last_modified_is_swedish_time_to_the_minute() {
    let app = App::start().await;
    app.fortnox.set_clock(DateTime::parse_from_rfc3339("2026-06-15T12:34:56Z").unwrap().timestamp());
    let token = app.connect().await;
    app.fortnox.update_customer(app.tenant, "2", &json!({ "City": "Malmö" })).unwrap();
    let since = async |text: &str| {
        let path = format!("/3/customers?lastmodified={}", text.replace(' ', "%20"));
        app.get(&token, &path).await.column("Customers", "CustomerNumber")
    };
    assert_eq!(since("2026-06-15 14:34").await, ["2"], "two hours ahead of UTC in summer, and the same minute counts");
    assert!(since("2026-06-15 14:35").await.is_empty());
    assert_eq!(since("2026-06-15").await, ["1", "2", "3"]);
    app.fortnox.delete_customer(app.tenant, "2").unwrap();
    assert!(since("2026-06-15 14:34").await.is_empty(), "a deletion is not reported");
}

#[tokio::test]
async fn a_customer_is_made_and_changed_in_part() {
    let app = App::start().await;
    let token = app.connect().await;
    let made = app.post(&token, "/3/customers", &json!({ "Customer": { "Name": "Nytt AB", "City": "Lund" } })).await;
    assert_eq!((made.status, &made.body["Customer"]["CustomerNumber"]), (201, &json!("4")));
    let put = async |body: Value| app.ask(&token, "PUT", "/3/customers/4", &[], &body.to_string()).await;
    let changed = put(json!({ "Customer": { "City": "", "Email": "a@b.se", "Name": null } })).await;
    let customer = &changed.ok()["Customer"];
    assert_eq!(
        (&customer["City"], &customer["Email"], &customer["Name"]),
        (&json!(""), &json!("a@b.se"), &json!("Nytt AB"))
    );
    put(json!({ "Customer": { "Name": "" } })).await.uncoded("Fältet Name måste anges.");
    put(json!({ "Customer": { "CustomerNumber": "5" } })).await.refused(400, 2_001_399, "Felaktigt fältnamn");
    let gone = app.ask(&token, "PUT", "/3/customers/9", &[], "{\"Customer\":{}}").await;
    gone.missing(2_000_433, "Kan inte hitta kunden.");
    assert_eq!(app.fortnox.customers(app.tenant)[3]["Email"], "a@b.se");
}

#[tokio::test]
async fn a_customer_that_breaks_the_rules_is_refused() {
    let app = App::start().await;
    let token = app.connect().await;
    let post = async |name: &str, value: Value| {
        let mut customer = json!({ "Customer": { "Name": "A" } });
        customer["Customer"][name] = value;
        app.post(&token, "/3/customers", &customer).await
    };
    post("Name", json!("")).await.uncoded("Fältet Name måste anges.");
    post("Name", json!("a".repeat(1025))).await.uncoded("Värdet i fältet Name är för långt, högst 1024 tecken.");
    for (field, most) in [("ZipCode", 10), ("CountryCode", 2), ("YourReference", 50), ("WWW", 128), ("Email", 1024)] {
        let message = format!("Värdet i fältet {field} är för långt, högst {most} tecken.");
        post(field, json!("a".repeat(most + 1))).await.uncoded(&message);
    }
    post("City", json!("<b>")).await.refused(400, 2_000_359, "Värdet innehåller ej tillåtna tecken. (<b>)");
    post("Active", json!("ja")).await.refused(400, 2_000_134, "Värdet måste vara en boolean (ja)");
    post("SalesAccount", json!("x")).await.refused(400, 2_000_108, "Värdet måste vara numeriskt (x)");
    for field in ["Country", "@url", "Nickname", "name"] {
        post(field, json!("x")).await.refused(400, 2_001_399, "Felaktigt fältnamn");
    }
    for (field, value) in [
        ("Type", json!("UNDEFINED")),
        ("VATType", json!("x")),
        ("Email", json!(1)),
        ("DefaultDeliveryTypes", json!("x")),
    ] {
        post(field, value).await.refused(400, 2_001_392, "Ingen eller felaktig typ av data.");
    }
    let used = "Kundnummer 2 används redan. Kundnumret har redan använts men blivit raderat.";
    post("CustomerNumber", json!("2")).await.refused(400, 2_000_637, used);
    app.fortnox.delete_customer(app.tenant, "2").unwrap();
    post("CustomerNumber", json!("2")).await.refused(400, 2_000_637, used);
    assert_eq!(app.fortnox.customers(app.tenant).len(), 2);
}

#[tokio::test]
async fn invoices_tell_what_is_paid() {
    let app = App::start().await;
    let token = app.connect().await;
    let invoice = |customer: &str, date: &str, net| NewInvoice::new(customer, day(date), net);
    let make = |new: NewInvoice| app.fortnox.create_invoice(app.tenant, new).unwrap();
    let paid = make(invoice("1", "2026-05-01", 100_050));
    make(invoice("2", "2026-05-01", 20_000));
    let cancelled = make(invoice("1", "2026-06-14", 30_000));
    let fresh = make(NewInvoice { reference: Some("sp-abc-1".to_owned()), ..invoice("3", "2026-06-14", 40_000) });
    assert!(app.fortnox.create_invoice(app.tenant, invoice("99", "2026-05-01", 1)).is_err());
    app.fortnox.advance(60);
    app.fortnox.cancel_invoice(app.tenant, cancelled).unwrap();
    app.fortnox.pay_invoice(app.tenant, paid, day("2026-06-10")).unwrap();
    app.fortnox.pay_part_of_invoice(app.tenant, fresh, day("2026-06-15"), 10_000).unwrap();

    let list = async |query: &str| app.get(&token, &format!("/3/invoices?{query}")).await;
    let numbers = async |query: &str| list(query).await.column("Invoices", "DocumentNumber");
    assert_eq!(numbers("").await, ["1", "2", "3", "4"]);
    assert_eq!(numbers("filter=fullypaid").await, ["1"]);
    assert_eq!(numbers("filter=unpaid").await, ["2", "4"]);
    assert_eq!(numbers("filter=unpaidoverdue").await, ["2"]);
    assert_eq!(numbers("filter=cancelled").await, ["3"]);
    assert!(numbers("filter=unbooked").await.is_empty());
    assert_eq!(numbers("customernumber=1&sortby=total").await, ["3", "1"]);
    assert_eq!(numbers("ocr=44&sortby=customernumber").await, ["4"]);
    assert_eq!(numbers("externalinvoicereference1=sp-abc-1").await, ["4"]);
    assert_eq!(numbers("fromdate=2026-06-01&todate=2026-06-30&sortorder=descending").await, ["4", "3"]);
    assert_eq!(numbers("fromfinalpaydate=2026-06-10&tofinalpaydate=2026-06-10").await, ["1"]);
    assert_eq!(numbers("lastmodified=2026-06-15%2012:01").await, ["1", "3", "4"]);
    assert_eq!(numbers(&format!("financialyear={}", app.year(2025))).await, Vec::<String>::new());
    list("filter=paid").await.refused(400, 2_000_587, "Ett ogiltigt filter har använts.");

    let listed = &list("limit=1").await.body["Invoices"][0];
    assert_eq!((&listed["Total"], &listed["Balance"]), (&json!(1250.62), &json!(0)));
    assert_eq!((&listed["FinalPayDate"], &listed["VoucherYear"]), (&json!("2026-06-10"), &json!(app.year(2026))));
    let open = app.get(&token, "/3/invoices/4").await;
    let open = &open.ok()["Invoice"];
    assert_eq!((&open["Total"], &open["Balance"], &open["FinalPayDate"]), (&json!(500), &json!(400), &Value::Null));
    assert_eq!((&open["InvoiceRows"][0]["AccountNumber"], &open["TotalVAT"]), (&json!(3001), &json!(100)));
    assert_eq!(
        (&listed["CurrencyRate"], &open["CurrencyRate"]),
        (&json!("1"), &json!(1)),
        "a text here, a number there"
    );
    app.get(&token, "/3/invoices/9").await.missing(2_000_434, "Kan inte hitta fakturan.");
}

#[tokio::test]
async fn ten_thousand_customers_are_twenty_full_pages() {
    let app = App::start().await;
    let token = app.connect().await;
    app.fortnox.create_customers(app.tenant, 9997).unwrap();
    let mut numbers = std::collections::BTreeSet::new();
    for page in 1..=20 {
        let answer = app.get(&token, &format!("/3/customers?limit=500&page={page}")).await;
        assert_eq!(answer.meta(), [10_000, 20, page]);
        numbers.extend(answer.column("Customers", "CustomerNumber"));
    }
    assert_eq!(numbers.len(), 10_000);
}
