use super::*;
use crate::fortnox::{Account, Rule, Series, Voucher, VoucherRow};

/// A voucher that the books take in 2026.
fn good() -> Value {
    json!({ "Voucher": {
        "Description": "Hyra juni (sp-7f3k2q)", "TransactionDate": "2026-06-15", "VoucherSeries": "SP",
        "VoucherRows": [
            { "Account": 5010, "Debit": 15000.5, "Credit": 0, "TransactionInformation": "Å/Ä: lokal 3" },
            { "Account": 1930, "Debit": 0, "Credit": 15000.5 },
        ],
    }})
}

/// The good voucher with something else at this pointer, or without it.
fn changed(pointer: &str, value: Option<Value>) -> Value {
    let mut voucher = good();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = voucher.pointer_mut(&format!("/Voucher{parent}")).unwrap();
    match (parent, value) {
        (Value::Object(fields), Some(value)) => drop(fields.insert(name.to_owned(), value)),
        (Value::Object(fields), None) => drop(fields.remove(name)),
        (Value::Array(rows), Some(value)) => rows[name.parse::<usize>().unwrap()] = value,
        _ => panic!("nothing at {pointer}"),
    }
    voucher
}

/// An app whose company is asked to book in 2026, and is expected to refuse.
struct Books {
    app: App,
    token: String,
    path: String,
}

impl Books {
    async fn open() -> Self {
        let app = App::start().await;
        let token = app.connect().await;
        let path = format!("/3/vouchers?financialyear={}", app.year(2026));
        Self { app, token, path }
    }

    /// The answer to a voucher that must not be stored.
    async fn refuse(&self, voucher: &Value) -> Answer {
        let before = self.app.fortnox.vouchers(self.app.tenant);
        let answer = self.app.post(&self.token, &self.path, voucher).await;
        assert_eq!(self.app.fortnox.vouchers(self.app.tenant), before, "nothing was stored");
        answer
    }

    async fn refuse_changed(&self, pointer: &str, value: Value) -> Answer {
        self.refuse(&changed(pointer, Some(value))).await
    }

    async fn book(&self, voucher: &Value) -> Answer {
        let answer = self.app.post(&self.token, &self.path, voucher).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer
    }
}

#[tokio::test]
async fn a_voucher_is_stored_and_numbered_within_series_and_year() {
    let books = Books::open().await;
    let first = books.book(&good()).await;
    let voucher = &first.body["Voucher"];
    assert_eq!((&voucher["VoucherNumber"], &voucher["VoucherSeries"]), (&json!(1), &json!("SP")));
    assert_eq!((&voucher["Year"], &voucher["ReferenceType"]), (&json!(books.app.year(2026)), &json!("MANUAL")));
    assert_eq!(
        (&voucher["VoucherRows"][0]["Debit"], &voucher["VoucherRows"][0]["Credit"]),
        (&json!(15000.5), &json!(0))
    );
    assert_eq!(voucher["VoucherRows"][0]["Description"], "Lokalhyra");
    assert!(first.text.contains(r"\u00c5\/\u00c4: lokal 3"), "{}", first.text);
    assert_eq!(books.book(&good()).await.body["Voucher"]["VoucherNumber"], 2, "the same twice is two vouchers");

    let before = changed("/TransactionDate", Some(json!("2025-12-31")));
    let path = format!("/3/vouchers?financialyear={}", books.app.year(2025));
    let other = books.app.post(&books.token, &path, &before).await;
    assert_eq!(other.body["Voucher"]["VoucherNumber"], 1, "another year counts for itself");

    let stored = books.app.fortnox.vouchers(books.app.tenant);
    assert_eq!(stored.len(), 3);
    assert_eq!((stored[0].rows[0].debit, stored[0].rows[1].credit), (1_500_050, 1_500_050));
    let path = format!("/3/vouchers/SP/1?financialyear={}", books.app.year(2026));
    assert_eq!(books.app.get(&books.token, &path).await.ok(), &first.body);
}

#[tokio::test]
async fn vouchers_are_listed_without_rows_by_year_series_and_dates() {
    let books = Books::open().await;
    for day in ["2026-03-01", "2026-02-01", "2026-03-01"] {
        books.book(&changed("/TransactionDate", Some(json!(day)))).await;
    }
    let year = books.app.year(2026);
    let by_hand = Voucher {
        year,
        series: "A".to_owned(),
        number: 0,
        description: "Bankavgift".to_owned(),
        transaction_date: day("2026-03-01"),
        comments: None,
        cost_center: None,
        rows: [(6570, 100, 0), (1930, 0, 100)]
            .map(|(account, debit, credit)| VoucherRow {
                account,
                debit,
                credit,
                cost_center: None,
                transaction_information: None,
            })
            .into(),
    };
    assert_eq!(books.app.fortnox.add_voucher(books.app.tenant, by_hand).unwrap(), 1);
    let list = async |path: String| books.app.get(&books.token, &path).await;
    let all = list(format!("/3/vouchers?financialyear={year}")).await;
    assert_eq!(all.column("Vouchers", "VoucherSeries"), ["A", "SP", "SP", "SP"]);
    assert!(all.body["Vouchers"][0].get("VoucherRows").is_none());
    let query = format!("/3/vouchers/sublist/SP?financialyear={year}&fromdate=2026-03-01&todate=2026-03-01");
    assert_eq!(list(query).await.column("Vouchers", "VoucherNumber"), ["1", "3"]);
    let by_date = list("/3/vouchers?financialyeardate=2026-12-31&limit=1&page=2&sortorder=descending".to_owned()).await;
    assert_eq!((by_date.column("Vouchers", "VoucherNumber"), by_date.meta()), (vec!["2".to_owned()], [4, 4, 2]));
    let elsewhere = list("/3/vouchers".to_owned()).await;
    assert_eq!(elsewhere.meta(), [0, 0, 1], "without a year it is the one that a person chose last");
    list(format!("/3/vouchers?financialyear={year}&lastmodified=2026-01-01")).await.refused(
        400,
        2_000_588,
        "Ogiltig parameter i anropet.",
    );
    list(format!("/3/vouchers/sublist/X?financialyear={year}"))
        .await
        .missing(2_000_729, "Kan inte hitta verifikationsserien.");
    list(format!("/3/vouchers/SP/9?financialyear={year}")).await.missing(2_000_729, "Kan inte hitta verifikationen.");
}

#[tokio::test]
async fn without_a_year_a_voucher_goes_where_a_person_looked_last() {
    let mut books = Books::open().await;
    books.path = "/3/vouchers".to_owned();
    let outside = books.refuse(&good()).await;
    outside.uncoded("Datumet 2026-06-15 ligger utanför räkenskapsåret 2024-01-01 - 2024-12-31.");
    let old = changed("/TransactionDate", Some(json!("2024-06-15")));
    assert_eq!(books.book(&old).await.body["Voucher"]["Year"], books.app.year(2024));
    books.app.fortnox.choose_year(books.app.tenant, books.app.year(2026)).unwrap();
    assert_eq!(books.book(&good()).await.body["Voucher"]["Year"], books.app.year(2026));
}

#[tokio::test]
async fn a_voucher_is_neither_changed_nor_deleted() {
    let books = Books::open().await;
    books.book(&good()).await;
    for method in ["PUT", "DELETE"] {
        let path = format!("/3/vouchers/SP/1?financialyear={}", books.app.year(2026));
        let answer = books.app.ask(&books.token, method, &path, &[], &good().to_string()).await;
        answer.refused(405, UNDOCUMENTED, "Metoden är inte tillåten.");
    }
    assert_eq!(books.app.fortnox.vouchers(books.app.tenant).len(), 1);
}

#[tokio::test]
async fn a_voucher_needs_description_date_series_and_rows() {
    let books = Books::open().await;
    for field in ["Description", "TransactionDate", "VoucherSeries", "VoucherRows"] {
        let message = format!("Fältet {field} måste anges.");
        books.refuse(&changed(&format!("/{field}"), None)).await.uncoded(&message);
        books.refuse_changed(&format!("/{field}"), Value::Null).await.uncoded(&message);
    }
    books.refuse_changed("/Description", json!("  ")).await.uncoded("Fältet Description måste anges.");
    books.refuse_changed("/VoucherRows", json!([])).await.uncoded("Fältet VoucherRows måste anges.");
}

#[tokio::test]
async fn a_row_needs_an_account() {
    let books = Books::open().await;
    books.refuse(&changed("/VoucherRows/0/Account", None)).await.uncoded("Fältet Account måste anges.");
    let text = books.refuse_changed("/VoucherRows/0/Account", json!("hyra")).await;
    text.refused(400, 2_000_108, "Värdet måste vara numeriskt (hyra)");
}

#[tokio::test]
async fn an_account_must_be_in_the_chart_of_that_year() {
    let books = Books::open().await;
    let (tenant, this, before) = (books.app.tenant, books.app.year(2026), books.app.year(2025));
    for number in [5011, 999, 10_000] {
        let answer = books.refuse_changed("/VoucherRows/0/Account", json!(number)).await;
        answer.refused(400, 2_001_304, &format!("Kunde inte hitta konto ({number})"));
    }
    books.app.fortnox.put_account(tenant, before, Account::new(5011, "Hyra av garage")).unwrap();
    let answer = books.refuse_changed("/VoucherRows/0/Account", json!(5011)).await;
    answer.refused(400, 2_001_304, "Kunde inte hitta konto (5011)");
    books.app.fortnox.put_account(tenant, this, Account::new(5011, "Hyra av garage")).unwrap();
    books.book(&changed("/VoucherRows/0/Account", Some(json!("5011")))).await;
    books.app.fortnox.remove_account(tenant, this, 5011).unwrap();
    books.refuse_changed("/VoucherRows/0/Account", json!(5011)).await.refused(
        400,
        2_001_304,
        "Kunde inte hitta konto (5011)",
    );
}

#[tokio::test]
async fn an_inactive_account_is_refused() {
    let books = Books::open().await;
    books.refuse_changed("/VoucherRows/0/Account", json!(6990)).await.uncoded("Konto \"6990\" är inte aktivt.");
    books.app.fortnox.set_account_active(books.app.tenant, books.app.year(2026), 5010, false).unwrap();
    books.refuse(&good()).await.uncoded("Konto \"5010\" är inte aktivt.");
}

#[tokio::test]
async fn a_series_must_be_there_and_manual_in_that_year() {
    let books = Books::open().await;
    let (tenant, year) = (books.app.tenant, books.app.year(2026));
    books.refuse_changed("/VoucherSeries", json!("X")).await.uncoded("Ogiltig verifikationsserie angiven");
    books.refuse_changed("/VoucherSeries", json!("A")).await.uncoded("Verifikationsserien är inte manuell (A)");
    books.app.fortnox.put_series(tenant, books.app.year(2025), Series::new("X", "Extra", true)).unwrap();
    books.refuse_changed("/VoucherSeries", json!("X")).await.uncoded("Ogiltig verifikationsserie angiven");
    books.app.fortnox.set_series_manual(tenant, year, "SP", false).unwrap();
    books.refuse(&good()).await.uncoded("Verifikationsserien är inte manuell (SP)");
    books.app.fortnox.set_series_manual(tenant, year, "A", true).unwrap();
    books.book(&changed("/VoucherSeries", Some(json!("A")))).await;
}

#[tokio::test]
async fn a_date_must_be_in_the_year_that_is_named() {
    let books = Books::open().await;
    let outside = books.refuse_changed("/TransactionDate", json!("2025-12-31")).await;
    outside.uncoded("Datumet 2025-12-31 ligger utanför räkenskapsåret 2026-01-01 - 2026-12-31.");
    let unknown = books.refuse_changed("/TransactionDate", json!("2028-01-01")).await;
    unknown.uncoded("Räkenskapsår för datumet 2028-01-01 har inte skapats.");
    for text in ["2026-6-15", "15/6", "2026-02-30"] {
        books.refuse_changed("/TransactionDate", json!(text)).await.uncoded(&format!("Ogiltigt datum ({text})"));
    }
    let mut wrong = Books::open().await;
    for year in ["2026", "99"] {
        wrong.path = format!("/3/vouchers?financialyear={year}");
        wrong.refuse(&good()).await.uncoded("Kan inte hitta räkenskapsåret.");
    }
    wrong.path = "/3/vouchers?financialyear=x".to_owned();
    wrong.refuse(&good()).await.refused(400, 2_000_588, "Ogiltig parameter i anropet.");
}

#[tokio::test]
async fn a_year_that_was_not_opened_is_missing() {
    let books = Books::open().await;
    books.app.fortnox.remove_year(books.app.tenant, books.app.year(2027)).unwrap();
    let answer = books.refuse_changed("/TransactionDate", json!("2027-01-02")).await;
    answer.uncoded("Räkenskapsår för datumet 2027-01-02 har inte skapats.");
    let id = books.app.fortnox.open_year(books.app.tenant, 2027).unwrap();
    let path = format!("/3/vouchers?financialyear={id}");
    let next = changed("/TransactionDate", Some(json!("2027-01-02")));
    assert_eq!(books.app.post(&books.token, &path, &next).await.status, 201);
}

#[tokio::test]
async fn a_locked_period_is_closed_up_to_its_last_day() {
    let books = Books::open().await;
    books.app.fortnox.set_locked_period(books.app.tenant, Some(day("2026-06-15"))).unwrap();
    let message = "Grönskär & Co AB har låst perioden t.o.m. 2026-06-15. Lås upp perioden för att fortsätta.";
    books.refuse(&good()).await.refused(400, 2_000_401, message);
    books.book(&changed("/TransactionDate", Some(json!("2026-06-16")))).await;
    let locked = books.app.get(&books.token, "/3/settings/lockedperiod").await;
    assert_eq!(locked.ok(), &json!({ "LockedPeriod": { "EndDate": "2026-06-15" } }));
}

#[tokio::test]
async fn rows_that_do_not_balance_are_refused() {
    let books = Books::open().await;
    let off = books.refuse_changed("/VoucherRows/0/Debit", json!(15000.49)).await;
    off.uncoded("Verifikationen balanserar inte, differens -0.01");
    let off = books.refuse_changed("/VoucherRows/1/Credit", json!(0)).await;
    off.uncoded("Verifikationen balanserar inte, differens 15000.50");
}

#[tokio::test]
async fn an_amount_has_two_decimals_and_fourteen_digits_at_most() {
    let books = Books::open().await;
    let debit = async |value: Value| books.refuse_changed("/VoucherRows/0/Debit", value).await;
    debit(json!(0.125)).await.uncoded("Beloppet har fler än två decimaler (0.125)");
    debit(json!(0.1 + 0.2)).await.uncoded("Beloppet har fler än två decimaler (0.30000000000000004)");
    debit(json!("1.234")).await.uncoded("Beloppet har fler än två decimaler (1.234)");
    debit(json!(10_000_000_000_000_i64)).await.uncoded("Beloppet är för stort, högst 14 siffror (10000000000000)");
    debit(json!("1000000000000.00")).await.uncoded("Beloppet är för stort, högst 14 siffror (1000000000000.00)");
    let huge = debit(json!(1e30)).await;
    huge.uncoded("Beloppet är för stort, högst 14 siffror (1000000000000000000000000000000)");
    debit(json!("mycket")).await.refused(400, 2_000_108, "Värdet måste vara numeriskt (mycket)");
    debit(json!(true)).await.refused(400, 2_000_108, "Värdet måste vara numeriskt (true)");
    let mut most = changed("/VoucherRows/0/Debit", Some(json!("999999999999.99")));
    most["Voucher"]["VoucherRows"][1]["Credit"] = json!(999_999_999_999.99);
    books.book(&most).await;
}

#[tokio::test]
async fn an_amount_is_not_negative() {
    let books = Books::open().await;
    let answer = books.refuse_changed("/VoucherRows/0/Debit", json!(-1)).await;
    answer.uncoded("Beloppet får inte vara negativt (-1)");
    let answer = books.refuse_changed("/VoucherRows/1/Credit", json!(-0.5)).await;
    answer.uncoded("Beloppet får inte vara negativt (-0.5)");
}

#[tokio::test]
async fn a_row_is_on_one_side() {
    let books = Books::open().await;
    let answer = books.refuse_changed("/VoucherRows/0/Credit", json!(1)).await;
    answer.uncoded("En rad kan inte ha både debet och kredit.");
}

#[tokio::test]
async fn characters_outside_of_the_list_are_refused() {
    let books = Books::open().await;
    for text in ["a\"b", "<a>", "[sp-1]", "{a}", "a|b", "~", "a\\b", "😀", "tab\there", "…"] {
        for pointer in ["/Description", "/Comments", "/VoucherRows/0/TransactionInformation"] {
            let answer = books.refuse_changed(pointer, json!(text)).await;
            answer.refused(400, 2_000_359, &format!("Värdet innehåller ej tillåtna tecken. ({text})"));
        }
    }
    let allowed =
        "Åäö é ł 東 – : . ` ´ ' , ; ^ ¤ # % § £ $ € ¢ ¥ © ™ ° & / ( ) = + - * _ ! ? ² ³ ® ½ @ \u{a0} rad\r\nrad";
    let booked = books.book(&changed("/Comments", Some(json!(allowed)))).await;
    assert_eq!(booked.body["Voucher"]["Comments"], allowed);
}

#[tokio::test]
async fn texts_have_a_greatest_length() {
    let books = Books::open().await;
    let limits = [
        ("/Description", "Description", 200),
        ("/VoucherRows/1/TransactionInformation", "TransactionInformation", 100),
        ("/Comments", "Comments", 1000),
    ];
    for (pointer, field, most) in limits {
        let answer = books.refuse_changed(pointer, json!("å".repeat(most + 1))).await;
        answer.uncoded(&format!("Värdet i fältet {field} är för långt, högst {most} tecken."));
        books.book(&changed(pointer, Some(json!("å".repeat(most))))).await;
    }
    let long = books.refuse_changed("/VoucherSeries", json!("A".repeat(11))).await;
    long.uncoded("Värdet i fältet VoucherSeries är för långt, högst 10 tecken.");
    let sign = books.refuse_changed("/VoucherSeries", json!("A-B")).await;
    sign.refused(400, 2_000_106, "Värdet måste vara alfanumeriskt (A-B)");
}

#[tokio::test]
async fn a_cost_center_is_given_where_the_account_demands_it() {
    let books = Books::open().await;
    let row = |center: Value| json!({ "Account": 5800, "Debit": 15000.5, "CostCenter": center });
    let answer = books.refuse_changed("/VoucherRows/0", row(Value::Null)).await;
    answer.refused(400, 2_000_946, "Kostnadsställe är obligatoriskt på konto 5800.");
    let mut whole = changed("/VoucherRows/0", Some(row(json!(""))));
    whole["Voucher"]["CostCenter"] = json!("AVD1");
    let answer = books.refuse(&whole).await;
    answer.refused(400, 2_000_946, "Kostnadsställe är obligatoriskt på konto 5800.");
    let booked = books.book(&changed("/VoucherRows/0", Some(row(json!("AVD1"))))).await;
    assert_eq!(booked.body["Voucher"]["VoucherRows"][0]["CostCenter"], "AVD1");
    let (tenant, year) = (books.app.tenant, books.app.year(2026));
    books.app.fortnox.change_account(tenant, year, 5010, |account| account.cost_center = Rule::Mandatory).unwrap();
    books.refuse(&good()).await.refused(400, 2_000_946, "Kostnadsställe är obligatoriskt på konto 5010.");
}

#[tokio::test]
async fn a_cost_center_is_not_given_where_the_account_forbids_it() {
    let books = Books::open().await;
    let answer = books.refuse_changed("/VoucherRows/1/CostCenter", json!("AVD1")).await;
    answer.uncoded("Kostnadsställe är inte tillåtet på konto 1930.");
}

#[tokio::test]
async fn transaction_information_and_projects_are_given_where_the_account_demands_them() {
    let books = Books::open().await;
    let rule = |number: u16, set: fn(&mut Account)| {
        books.app.fortnox.change_account(books.app.tenant, books.app.year(2026), number, set).unwrap();
    };
    rule(1930, |account| account.transaction_information = Rule::Mandatory);
    books.refuse(&good()).await.uncoded("Transaktionsinformation är obligatorisk på konto 1930.");
    books.book(&changed("/VoucherRows/1/TransactionInformation", Some(json!("x")))).await;
    rule(1930, |account| account.transaction_information = Rule::NotAllowed);
    let given = books.refuse_changed("/VoucherRows/1/TransactionInformation", json!("x")).await;
    given.uncoded("Transaktionsinformation är inte tillåten på konto 1930.");
    rule(5010, |account| account.project = Rule::Mandatory);
    books.refuse(&good()).await.uncoded("Projekt är obligatoriskt på konto 5010.");
    let path = format!("/3/accounts/5010?financialyear={}", books.app.year(2026));
    assert_eq!(books.app.get(&books.token, &path).await.ok()["Account"]["ProjectSettings"], "MANDATORY");
}

#[tokio::test]
async fn a_cost_center_is_one_that_the_company_has_and_uses() {
    let books = Books::open().await;
    for pointer in ["/VoucherRows/0/CostCenter", "/CostCenter"] {
        let answer = books.refuse_changed(pointer, json!("AVD9")).await;
        answer.uncoded("Kunde inte hämta/hitta kostnadsställe (AVD9)");
        let answer = books.refuse_changed(pointer, json!("GAMMAL")).await;
        answer.refused(400, 2_000_947, "Kostnadsstället GAMMAL är inte aktivt.");
    }
}

#[tokio::test]
async fn a_project_that_is_not_there_is_refused() {
    let books = Books::open().await;
    for pointer in ["/Project", "/VoucherRows/0/Project"] {
        let answer = books.refuse_changed(pointer, json!("P1")).await;
        answer.refused(400, 2_001_161, "Kan inte hitta projektet.");
        books.book(&changed(pointer, Some(json!("")))).await;
    }
}

#[tokio::test]
async fn fields_that_are_unknown_or_only_read_are_refused() {
    let books = Books::open().await;
    for pointer in [
        "/Year",
        "/VoucherNumber",
        "/ReferenceType",
        "/ApprovalState",
        "/description",
        "/@url",
        "/VoucherRows/0/Removed",
        "/VoucherRows/0/Description",
        "/VoucherRows/0/account",
    ] {
        books.refuse_changed(pointer, json!(1)).await.refused(400, 2_001_399, "Felaktigt fältnamn");
    }
    let mut beside = good();
    beside["Other"] = json!({});
    books.refuse(&beside).await.refused(400, 2_001_399, "Felaktigt fältnamn");
}

#[tokio::test]
async fn a_body_is_json_in_the_wrapper_of_its_resource() {
    let books = Books::open().await;
    let raw = async |body: &str| {
        books.app.ask(&books.token, "POST", &books.path, &[("content-type", "application/json")], body).await
    };
    raw("{\"Voucher\":").await.refused(400, 2_002_115, "Error deserializing JSON: JSON_ERROR_SYNTAX");
    for body in ["", "[]", "{}", "{\"Voucher\":[]}", "{\"voucher\":{}}"] {
        raw(body).await.refused(400, 2_001_392, "Ingen eller felaktig typ av data.");
    }
    for pointer in ["/Description", "/VoucherRows", "/VoucherRows/0"] {
        let answer = books.refuse_changed(pointer, json!(7)).await;
        answer.refused(400, 2_001_392, "Ingen eller felaktig typ av data.");
    }
    assert!(books.app.fortnox.vouchers(books.app.tenant).is_empty());
}

#[tokio::test]
async fn headers_say_json() {
    let books = Books::open().await;
    let body = good().to_string();
    let with =
        async |name: &str, value: &str| books.app.ask(&books.token, "POST", &books.path, &[(name, value)], &body).await;
    for value in ["", "application/xml", "text/plain"] {
        with("content-type", value).await.refused(400, 1_000_031, "Invalid content type");
    }
    for value in ["", "*/*", "application/xml"] {
        with("accept", value).await.refused(400, 1_000_030, "Invalid response type");
    }
    assert!(books.app.fortnox.vouchers(books.app.tenant).is_empty());
}

#[tokio::test]
async fn a_series_is_opened_for_one_year() {
    let books = Books::open().await;
    let (this, next) = (books.app.year(2026), books.app.year(2027));
    let post = async |year: i64, body: Value| {
        books.app.post(&books.token, &format!("/3/voucherseries?financialyear={year}"), &body).await
    };
    let series = json!({ "VoucherSeries": { "Code": "NY", "Description": "Ny serie", "Manual": true } });
    let made = post(this, series.clone()).await;
    assert_eq!((made.status, &made.body["VoucherSeries"]["NextVoucherNumber"]), (201, &json!(1)));
    books.book(&changed("/VoucherSeries", Some(json!("NY")))).await;
    let read =
        async |year: i64| books.app.get(&books.token, &format!("/3/voucherseries/NY?financialyear={year}")).await;
    assert_eq!(read(this).await.ok()["VoucherSeries"]["NextVoucherNumber"], 2);
    read(next).await.missing(2_000_729, "Kan inte hitta verifikationsserien.");
    post(this, series).await.uncoded("Verifikationsserien finns redan (NY)");
    let with = |name: &str, value: Value| {
        let mut series = json!({ "VoucherSeries": { "Code": "N2", "Description": "Ny" } });
        series["VoucherSeries"][name] = value;
        series
    };
    post(this, with("Code", json!("-"))).await.refused(400, 2_000_106, "Värdet måste vara alfanumeriskt (-)");
    post(this, with("Manual", json!("ja"))).await.refused(400, 2_000_134, "Värdet måste vara en boolean (ja)");
    post(this, with("Description", json!(""))).await.uncoded("Fältet Description måste anges.");
    post(this, with("NextVoucherNumber", json!(7))).await.refused(400, 2_001_399, "Felaktigt fältnamn");
}
