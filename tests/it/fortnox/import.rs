//! Customers become clients: matched, made once, reported, and never let anything be written.

use integration_tests::{
    Answer, TestApp,
    people::{BRICK, CLEO, DORA, LIVING, MAX, NORD, OLGA, OSCAR, RENATA, UMA},
};
use serde_json::{Value, json};

use super::sync::{connected, read};

async fn import(app: &TestApp, body: &Value) -> Value {
    let answer = app.post("/v1/fortnox/customers/import", &app.token(&OLGA), body).await;
    assert_eq!(answer.status, 200, "{} {}", answer.body, app.logs());
    answer.body
}

/// A company with customers that were read.
async fn with_customers(app: &TestApp, customers: &[(&str, Option<&str>)]) -> i64 {
    let company = connected(app).await;
    let fortnox = &app.stack.sandbox.fortnox;
    for number in ["1", "2", "3"] {
        fortnox.delete_customer(company, number).unwrap();
    }
    for (name, org_number) in customers {
        fortnox.create_customer(company, name, *org_number).unwrap();
    }
    let job = read(app, &json!({ "full": true })).await;
    assert_eq!(job["status"], "succeeded", "{job} {}", app.logs());
    company
}

/// Customer numbers of a list in a report.
fn numbers(report: &Value, outcome: &str) -> Vec<String> {
    let entries = report[outcome].as_array().unwrap_or_else(|| panic!("{report}"));
    entries.iter().map(|entry| entry["customer_number"].as_str().unwrap().to_owned()).collect()
}

/// Outcome, reason or way of matching, by customer number.
fn outcome(report: &Value, number: &str) -> String {
    for outcome in ["created", "linked", "already", "conflicting", "skipped"] {
        for entry in report[outcome].as_array().unwrap() {
            if entry["customer_number"] == number {
                let why = entry["reason"].as_str().or(entry["by"].as_str()).unwrap_or_default();
                return format!("{outcome} {why}").trim_end().to_owned();
            }
        }
    }
    panic!("{number} is not in {report}")
}

async fn client(app: &TestApp, name: &str, org_number: Option<&str>) {
    let number = org_number.map_or("null".to_owned(), |number| format!("'{number}'"));
    app.db.run(&format!("insert into clients (org_id, name, org_number) values ('{NORD}', '{name}', {number})")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn customers_are_matched_by_number_then_by_name_and_the_rest_become_clients() {
    let app = TestApp::start().await;
    client(&app, "Alfa Bygg AB", Some("5560125790")).await;
    client(&app, "  BETA   rör ab ", None).await;
    client(&app, "Gamma AB", Some("5599887766")).await;
    client(&app, "Delta AB", None).await;
    client(&app, "Delta AB", None).await;
    client(&app, "Epsilon AB", Some("5566001122")).await;
    client(&app, "Epsilon Två AB", Some("5566001122")).await;
    client(&app, "Zeta AB", None).await;
    app.db.run("update clients set status = 'archived' where name = 'Zeta AB'").await;
    // Another organisation's client is no match.
    app.db
        .run(&format!("insert into clients (org_id, name, org_number) values ('{BRICK}', 'Eta AB', '5577001122')"))
        .await;
    let company = with_customers(
        &app,
        &[
            ("Något annat namn", Some("165560125790")), // 4: with a century, and another name
            ("Beta Rör AB", Some("556999-1234")),       // 5
            ("Gamma AB", Some("556111-2233")),          // 6: the client of this name has another number
            ("Delta AB", None),                         // 7
            ("Epsilon AB", Some("556600-1122")),        // 8
            ("Zeta AB", None),                          // 9
            ("Eta AB", Some("557700-1122")),            // 10
            ("Alfa igen", Some("556012-5790")),         // 11: the client of this number has customer 4
            ("Theta AB", None),                         // 12
            ("Theta  ab", None),                        // 13: the same name in the same import
        ],
    )
    .await;
    let report = import(&app, &json!({ "all": true })).await;
    let told: Vec<String> = (4..14).map(|number| outcome(&report, &number.to_string())).collect();
    assert_eq!(
        told,
        [
            // By number as texts sort: 10 to 13 come before 4.
            "conflicting client_has_another_customer",
            "linked name",
            "created",
            "conflicting several_clients_by_name",
            "conflicting several_clients_by_org_number",
            "conflicting client_archived",
            "created",
            "linked org_number",
            "created",
            "conflicting client_has_another_customer",
        ],
        "{report}"
    );
    assert_eq!(report["next"], Value::Null);
    let made = "select string_agg(c.name || ' ' || coalesce(c.org_number, '-') || ' ' || a.customer_number, ', ' order by c.name)
                  from client_accounting a join clients c on c.id = a.client_id";
    assert_eq!(
        app.db.text(made).await,
        "  BETA   rör ab  5569991234 5, Alfa Bygg AB 5560125790 11, Eta AB 5577001122 10, Gamma AB 5561112233 6, Theta AB - 12"
    );
    assert_eq!(app.db.count("select count(*) from fortnox_customers where client_id is not null").await, 5);
    // The same again is the same.
    let again = import(&app, &json!({ "all": true })).await;
    assert_eq!((again["created"].clone(), again["linked"].clone()), (json!([]), json!([])), "{again}");
    assert_eq!(numbers(&again, "already"), ["10", "11", "12", "5", "6"]);
    assert_eq!(again["conflicting"], report["conflicting"]);
    // A list shows what each is linked to.
    let page = app.get("/v1/fortnox/customers?limit=2&after=10", &app.token(&OLGA)).await.expect(200);
    let page: Vec<Value> = page["customers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| json!([row["customer_number"], row["client"]["name"]]))
        .collect();
    assert_eq!(page, [json!(["11", "Alfa Bygg AB"]), json!(["12", "Theta AB"])]);
    let _ = company;
}

#[tokio::test(flavor = "multi_thread")]
async fn persons_inactive_ones_and_those_without_a_name_are_skipped_and_say_why() {
    let app = TestApp::start().await;
    let company = with_customers(
        &app,
        &[
            ("Eva Berg", Some("19800101-1234")),   // 4: a person's number
            ("Evas Blommor", Some("800101-1234")), // 5: she trades in her own name
            ("Vilande AB", Some("556300-1122")),   // 6
            ("Namnlös", Some("556300-2233")),      // 7
            ("Borta AB", Some("556300-3344")),     // 8
        ],
    )
    .await;
    let fortnox = &app.stack.sandbox.fortnox;
    fortnox.update_customer(company, "4", &json!({ "Type": "PRIVATE" })).unwrap();
    fortnox.update_customer(company, "6", &json!({ "Active": false })).unwrap();
    fortnox.update_customer(company, "7", &json!({ "Name": " " })).unwrap();
    fortnox.delete_customer(company, "8").unwrap();
    app.db.run("update fortnox_customers set kind = null").await;
    read(&app, &json!({ "full": true })).await;
    let body = json!({ "customer_numbers": ["4", "5", "6", "7", "8", "4711", "5"] });
    let report = import(&app, &body).await;
    let told: Vec<String> = ["4", "5", "6", "7", "8", "4711"].iter().map(|number| outcome(&report, number)).collect();
    assert_eq!(
        told,
        ["skipped private", "created", "skipped inactive", "skipped no_name", "skipped not_found", "skipped not_found"],
        "{report}"
    );
    // As long as nobody has asked, a person's number is a person's.
    app.db.run("update fortnox_customers set kind = null, client_id = null; delete from client_accounting").await;
    assert_eq!(outcome(&import(&app, &body).await, "5"), "skipped private");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_at_once_and_two_at_once_make_each_client_once() {
    let app = TestApp::start().await;
    let company = connected(&app).await;
    app.stack.sandbox.fortnox.create_customers(company, 1200).unwrap();
    read(&app, &json!({})).await;
    let clients = "select count(*) from clients where org_number is not null";
    let all = json!({ "all": true });
    let (one, two) = tokio::join!(import(&app, &all), import(&app, &all));
    let created = |report: &Value| report["created"].as_array().unwrap().len();
    let (first, second) = if created(&one) > 0 { (one, two) } else { (two, one) };
    // Eva Berg has no number, and is made by name.
    assert_eq!((created(&first), created(&second)), (1000, 0), "{second}");
    assert_eq!(numbers(&second, "already").len(), 1000);
    assert_eq!(first["next"], second["next"]);
    let rest = import(&app, &json!({ "all": true, "after": first["next"] })).await;
    assert_eq!((created(&rest), &rest["next"]), (203, &Value::Null));
    assert_eq!(app.db.count(clients).await, 1202);
    let pairs = "select count(*) from client_accounting a join fortnox_customers f on f.client_id = a.client_id and f.customer_number = a.customer_number";
    assert_eq!(app.db.count(pairs).await, 1203);
    // Nothing may be written to any of their books.
    let may = "select count(*) from client_accounting where can_write or fortnox_write_approved_at is not null or approved_by is not null";
    assert_eq!(app.db.count(may).await, 0);
    let told = format!("select count(*) from audit_log where action = 'clients.insert' and user_id = '{}'", OLGA.id);
    assert_eq!(app.db.count(&told).await, 1203);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_fails_as_a_whole_and_leaves_what_people_have_set() {
    let app = TestApp::start().await;
    with_customers(&app, &[("Alfa AB", Some("556012-5790")), ("Beta AB", None)]).await;
    // A person has given a client the number of a customer, and let it be written to.
    let olga = app.token(&OLGA);
    app.db
        .run(&format!(
            "insert into client_accounting (org_id, client_id, customer_number, can_write, fortnox_write_approved_at) values ('{NORD}', '{LIVING}', '5', true, now())"
        ))
        .await;
    // Something fails while the second is made.
    app.db
        .run(
            "create function public.refuse_beta() returns trigger language plpgsql as 'begin if new.customer_number = ''4'' then raise exception ''no''; end if; return new; end';
             create trigger refuse_beta before insert on client_accounting for each row execute function public.refuse_beta()",
        )
        .await;
    let failed = app.post("/v1/fortnox/customers/import", &olga, &json!({ "customer_numbers": ["5", "4"] })).await;
    assert_eq!(failed.status, 500, "{}", failed.body);
    assert_eq!(app.db.count("select count(*) from fortnox_customers where client_id is not null").await, 0);
    app.db.run("drop trigger refuse_beta on client_accounting").await;
    let report = import(&app, &json!({ "customer_numbers": ["5", "4"] })).await;
    assert_eq!((outcome(&report, "5").as_str(), outcome(&report, "4").as_str()), ("linked accounting", "created"));
    let kept =
        "select string_agg(customer_number || ' ' || can_write, ', ' order by customer_number) from client_accounting";
    assert_eq!(app.db.text(kept).await, "4 false, 5 true");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_people_who_may_change_accounting_and_make_clients_import() {
    let app = TestApp::start().await;
    connected(&app).await;
    let ask = async |token: String| -> Answer {
        app.post("/v1/fortnox/customers/import", &token, &json!({ "customer_numbers": ["1"] })).await
    };
    for person in [DORA, CLEO, MAX, UMA] {
        let refused = ask(app.token(&person)).await;
        assert_eq!(refused.status, 403, "{} {}", person.email, refused.body);
    }
    ask(app.agent_token(&RENATA).await).await.expect_error(403, "people_only");
    // Customer 1 is none of theirs.
    let report = ask(app.token(&OSCAR)).await.expect(200);
    assert_eq!(outcome(&report, "1"), "skipped not_found");
    let clients = app.db.count("select count(*) from clients").await;
    assert_eq!(outcome(&ask(app.token(&OLGA)).await.expect(200), "1"), "created");
    assert_eq!(app.db.count("select count(*) from clients").await, clients + 1);
    app.post("/v1/fortnox/customers/import", &app.token(&OLGA), &json!({ "all": false }))
        .await
        .expect_error(422, "import_invalid");
}
