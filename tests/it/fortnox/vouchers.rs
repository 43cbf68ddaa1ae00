//! Approved vouchers: written once, whatever Fortnox answers or does not; refused before, or reported after, and never half-written.

use integration_tests::{
    TestApp,
    acting::Actor,
    people::{ADAM, CLEO, LIVING, NORD, OLGA, OSCAR, Person, RENATA, UMA},
};
use reqwest::Method;
use sandbox::{
    Calls,
    fortnox::{Call, Fault, Voucher},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::connect;
use crate::approvals::{ACCOUNTANT, ANNA, books_read, voucher};

/// A connected organisation whose books were read, and whose client's books are open. Sven is an accountant. The company.
pub(crate) async fn office(app: &TestApp) -> i64 {
    let company = app.stack.sandbox.fortnox.create_company("Nordic Interiors AB", "556677-8899");
    assert_eq!(connect(app, &OLGA, company).await, "connected", "{}", app.logs());
    books_read(&app.db, NORD).await;
    app.db
        .run(&format!(
            "update org_members set role_id = '{ACCOUNTANT}' where org_id = '{NORD}' and user_id = '{}';
             set session_replication_role = replica;
             insert into client_accounting (org_id, client_id, customer_number, can_write, fortnox_write_approved_at, approved_by)
             values ('{NORD}', '{LIVING}', '1', true, now(), '{}')",
            ANNA.id, ADAM.id
        ))
        .await;
    company
}

/// Proposes a voucher as Cleo. The approval's id.
pub(crate) async fn propose(app: &TestApp, voucher: &Value) -> Uuid {
    let body = json!({ "client_id": LIVING, "voucher": voucher });
    let answer = app.post("/v1/accounting/vouchers", &app.token(&CLEO), &body).await.expect(201);
    answer["approval_id"].as_str().unwrap().parse().unwrap()
}

/// The approval as this person sees it.
pub(crate) async fn shown(app: &TestApp, person: &Person, id: Uuid) -> Value {
    app.get(&format!("/v1/approvals/{id}"), &app.token(person)).await.expect(200)
}

/// Approves as Anna. What it is then.
pub(crate) async fn approve(app: &TestApp, id: Uuid) -> Value {
    let digest = shown(app, &ANNA, id).await["digest"].clone();
    app.post(&format!("/v1/approvals/{id}/approve"), &app.token(&ANNA), &json!({ "digest": digest })).await.expect(200)
}

/// Proposes and approves. The approval's id, when its worker has looked at it once.
pub(crate) async fn approved(app: &TestApp, voucher: &Value) -> Uuid {
    let id = propose(app, voucher).await;
    approve(app, id).await;
    app.stack.queue("accounting").unwrap().drained().await;
    id
}

/// What waits is looked at again.
pub(crate) async fn again(app: &TestApp) {
    app.db.run("update jobs set run_after = now() where status = 'queued'").await;
    app.stack.sweep().await.unwrap();
    app.stack.queue("accounting").unwrap().drained().await;
}

/// Lets so much time pass since a voucher was sent.
async fn sent_ago(app: &TestApp, interval: &str) {
    app.db
        .run(&format!("set session_replication_role = replica; update accounting_executions set sent_at = now() - interval '{interval}'"))
        .await;
}

fn written(app: &TestApp, company: i64) -> Vec<Voucher> {
    app.stack.sandbox.fortnox.vouchers(company)
}

async fn status(app: &TestApp, id: Uuid) -> String {
    app.db.text(&format!("select status from approvals where id = '{id}'")).await
}

/// How many vouchers were asked for, written or not.
fn posts(app: &TestApp) -> usize {
    let requests = app.stack.sandbox.fortnox.requests();
    requests.iter().filter(|request| request.method == "POST" && request.path.starts_with("/3/vouchers?")).count()
}

/// Every statement that this has: proposed by hand, approved, refused, decided in bulk, written, searched for and compared.
pub(super) async fn scenario(app: &TestApp) {
    let company = office(app).await;
    let id = approved(app, &voucher()).await;
    app.stack.sandbox.fortnox.lose_next_voucher_answer();
    let lost = approved(app, &voucher()).await;
    sent_ago(app, "10 seconds").await;
    again(app).await;
    assert_eq!((status(app, id).await, status(app, lost).await), ("executed".to_owned(), "executed".to_owned()));
    let token = app.token(&ANNA);
    app.get("/v1/approvals?limit=1", &token).await.expect(200);
    let refused = propose(app, &voucher()).await;
    app.post(&format!("/v1/approvals/{refused}/refuse"), &token, &json!({})).await.expect(200);
    let decisions = json!({ "decisions": [{ "id": refused, "decision": "refuse" }] });
    for _ in 0..2 {
        app.send_keyed(Method::POST, "/v1/approvals/decisions", &token, Some(&decisions), Some("bulk"))
            .await
            .expect(200);
    }
    let own = json!({ "own_proposals": false });
    app.post("/v1/approvals/settings", &app.token(&OLGA), &own).await.expect(200);
    super::proposals::scenario(app, company).await;
    super::compared::night(app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_voucher_is_written_once_in_the_year_of_its_date_and_found_by_its_token() {
    let app = TestApp::start().await;
    let company = office(&app).await;
    let mut wanted = voucher();
    wanted["description"] = json!("Hyra Åkes lokal, 50 %");
    wanted["rows"][0]["cost_center"] = json!("AVD1");
    wanted["rows"][0]["text"] = json!("november");
    wanted["rows"][0]["debit"] = json!(99_999_999_999_999_i64);
    wanted["rows"][1]["credit"] = json!(99_999_999_999_999_i64);
    let id = approved(&app, &wanted).await;
    let approval = shown(&app, &ANNA, id).await;
    assert_eq!(
        (&approval["status"], &approval["voucher_number"], &approval["series"], &approval["year_id"]),
        (&json!("executed"), &json!(1), &json!("SP"), &json!(2)),
        "{approval} {}",
        app.logs()
    );
    let token = approval["token"].as_str().unwrap();
    let [voucher] = &written(&app, company)[..] else { panic!("{:?}", written(&app, company)) };
    // The year that a person chose last is 2024.
    assert_eq!((voucher.year, voucher.series.as_str(), voucher.number), (2, "SP", 1));
    assert_eq!(voucher.description, format!("Hyra Åkes lokal, 50 % ({token})"));
    let rows: Vec<_> = voucher
        .rows
        .iter()
        .map(|row| {
            (row.account, row.debit, row.credit, row.cost_center.as_deref(), row.transaction_information.as_deref())
        })
        .collect();
    assert_eq!(
        rows,
        [(5010, 99_999_999_999_999, 0, Some("AVD1"), Some("november")), (1930, 0, 99_999_999_999_999, None, None)]
    );
    // Nothing is left to be done, and looking again does nothing.
    again(&app).await;
    approve(&app, id).await;
    again(&app).await;
    assert_eq!((written(&app, company).len(), posts(&app)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_whose_answer_was_lost_is_found_and_not_sent_again() {
    let app = TestApp::start().await;
    let company = office(&app).await;
    app.stack.sandbox.fortnox.lose_next_voucher_answer();
    let id = approved(&app, &voucher()).await;
    assert_eq!((status(&app, id).await.as_str(), written(&app, company).len()), ("unknown", 1), "{}", app.logs());
    // Not before it can have appeared.
    sent_ago(&app, "2 seconds").await;
    again(&app).await;
    assert_eq!(status(&app, id).await, "unknown");
    sent_ago(&app, "10 seconds").await;
    again(&app).await;
    let approval = shown(&app, &ANNA, id).await;
    assert_eq!((&approval["status"], &approval["voucher_number"]), (&json!("executed"), &json!(1)), "{}", app.logs());
    assert_eq!((written(&app, company).len(), posts(&app)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_that_did_not_arrive_is_sent_again_only_after_two_minutes_and_a_search() {
    let app = TestApp::start().await;
    let company = office(&app).await;
    app.stack.sandbox.fortnox.arrange(Call::Voucher, Fault::BadGateway, Calls::Next(1));
    let id = approved(&app, &voucher()).await;
    assert_eq!((status(&app, id).await.as_str(), posts(&app)), ("unknown", 1), "{}", app.logs());
    for (ago, sent) in [("10 seconds", 1), ("115 seconds", 1), ("121 seconds", 2)] {
        sent_ago(&app, ago).await;
        again(&app).await;
        assert_eq!(posts(&app), sent, "{ago}");
    }
    assert_eq!((status(&app, id).await.as_str(), written(&app, company).len()), ("executed", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_workers_that_have_searched_for_a_voucher_one_sends_it() {
    let app = TestApp::start().await;
    office(&app).await;
    app.stack.sandbox.fortnox.arrange(Call::Voucher, Fault::BadGateway, Calls::Next(1));
    let id = approved(&app, &voucher()).await;
    sent_ago(&app, "121 seconds").await;
    let begin = format!("select refused from app.begin_accounting_write('{id}', 1, true)");
    for refused in [Value::Null, json!("not_approved")] {
        let begun = app.db.ask(&Actor::service(NORD), &begin).await.unwrap();
        assert_eq!(begun[0]["refused"], refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_that_landed_on_another_day_of_its_series_is_found_by_its_number() {
    let app = TestApp::start().await;
    let company = office(&app).await;
    app.stack.sandbox.fortnox.arrange(Call::Voucher, Fault::BadGateway, Calls::Next(1));
    let id = approved(&app, &voucher()).await;
    let token = shown(&app, &ANNA, id).await["token"].as_str().unwrap().to_owned();
    for (description, day) in [("Another's".to_owned(), 1), (format!("Moved ({token})"), 2)] {
        let other = Voucher {
            year: 2,
            series: "SP".to_owned(),
            number: 0,
            description,
            transaction_date: chrono::NaiveDate::from_ymd_opt(2026, 11, day).unwrap(),
            comments: None,
            cost_center: None,
            rows: Vec::new(),
        };
        app.stack.sandbox.fortnox.add_voucher(company, other).unwrap();
    }
    sent_ago(&app, "121 seconds").await;
    again(&app).await;
    let approval = shown(&app, &ANNA, id).await;
    assert_eq!((&approval["status"], &approval["voucher_number"]), (&json!("executed"), &json!(2)), "{}", app.logs());
    assert_eq!(posts(&app), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_voucher_of_a_series_is_in_flight_at_a_time() {
    let app = TestApp::start().await;
    let company = office(&app).await;
    app.stack.sandbox.fortnox.arrange(Call::Voucher, Fault::BadGateway, Calls::Next(1));
    let first = approved(&app, &voucher()).await;
    let second = approved(&app, &voucher()).await;
    assert_eq!((status(&app, first).await.as_str(), status(&app, second).await.as_str()), ("unknown", "approved"));
    assert_eq!((posts(&app), written(&app, company).len()), (1, 0));
    sent_ago(&app, "121 seconds").await;
    for _ in 0..3 {
        again(&app).await;
    }
    let numbers: Vec<i64> = written(&app, company).iter().map(|voucher| voucher.number).collect();
    assert_eq!(numbers, [1, 2], "{}", app.logs());
    assert_eq!((status(&app, first).await.as_str(), status(&app, second).await.as_str()), ("executed", "executed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_sent_is_sent_again_without_a_search() {
    let app = TestApp::start().await;
    let company = office(&app).await;
    app.stack.sandbox.fortnox.arrange(Call::Voucher, Fault::RateLimited, Calls::Next(1));
    let id = approved(&app, &voucher()).await;
    assert_eq!((status(&app, id).await.as_str(), written(&app, company).len()), ("executing", 0), "{}", app.logs());
    again(&app).await;
    assert_eq!((status(&app, id).await.as_str(), written(&app, company).len()), ("executed", 1), "{}", app.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_fortnox_did_not_answer_is_not_sent_again() {
    let app = TestApp::start().await;
    let company = office(&app).await;
    app.stack.sandbox.fortnox.arrange(Call::Voucher, Fault::BadGateway, Calls::Next(1));
    let id = approved(&app, &voucher()).await;
    app.db.run(&format!("update client_accounting set can_write = false where client_id = '{LIVING}'")).await;
    sent_ago(&app, "121 seconds").await;
    again(&app).await;
    let approval = shown(&app, &ANNA, id).await;
    assert_eq!(
        (&approval["status"], &approval["refusal_code"], posts(&app), written(&app, company).len()),
        (&json!("failed"), &json!("writing_not_allowed"), 1, 0),
        "{}",
        app.logs()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_that_may_be_in_one_company_is_not_looked_for_in_another() {
    let app = TestApp::start().await;
    let company = office(&app).await;
    app.stack.sandbox.fortnox.lose_next_voucher_answer();
    let id = approved(&app, &voucher()).await;
    let other = app.stack.sandbox.fortnox.create_company("Another AB", "556600-1122");
    assert_eq!(connect(&app, &OLGA, other).await, "connected", "{}", app.logs());
    // Customers' numbers and leave to write are of the first company.
    let open = "select count(*) from client_accounting where can_write or customer_number is not null";
    assert_eq!(app.db.count(open).await, 0);
    sent_ago(&app, "121 seconds").await;
    again(&app).await;
    assert_eq!((status(&app, id).await.as_str(), posts(&app)), ("unknown", 1), "{}", app.logs());
    // Connected with the first again, it is found there.
    assert_eq!(connect(&app, &OLGA, company).await, "connected", "{}", app.logs());
    again(&app).await;
    assert_eq!((status(&app, id).await.as_str(), posts(&app)), ("executed", 1), "{}", app.logs());
    assert_eq!(written(&app, other), []);
}

/// What Fortnox refuses when it has come that far, since the books changed after they were read.
#[tokio::test(flavor = "multi_thread")]
async fn what_fortnox_refuses_is_reported_with_its_words_and_nothing_is_half_written() {
    type Change = fn(&sandbox::fortnox::Fortnox, i64);
    let app = TestApp::start().await;
    let company = office(&app).await;
    let cases: [(Change, &str, &str); 6] = [
        (
            |fortnox, company| fortnox.set_locked_period(company, "2026-12-31".parse().ok()).unwrap(),
            "period_locked",
            "har låst perioden",
        ),
        (
            |fortnox, company| {
                fortnox.set_locked_period(company, None).unwrap();
                fortnox.set_account_active(company, 2, 5010, false).unwrap();
            },
            "fortnox_refused",
            "är inte aktivt",
        ),
        (|fortnox, company| fortnox.remove_account(company, 2, 5010).unwrap(), "account_unknown", "hitta konto"),
        (
            |fortnox, company| {
                let mut account = sandbox::fortnox::Account::new(5010, "Lokalhyra");
                account.cost_center = sandbox::fortnox::Rule::Mandatory;
                fortnox.put_account(company, 2, account).unwrap();
            },
            "cost_center_missing",
            "ostnadsställe",
        ),
        (
            |fortnox, company| {
                fortnox.put_account(company, 2, sandbox::fortnox::Account::new(5010, "Lokalhyra")).unwrap();
                fortnox.set_series_manual(company, 2, "SP", false).unwrap();
            },
            "fortnox_refused",
            "inte manuell",
        ),
        (
            |fortnox, company| {
                fortnox.set_series_manual(company, 2, "SP", true).unwrap();
                fortnox.set_licence(company, "bookkeeping", false).unwrap();
            },
            "fortnox_read_refused",
            "",
        ),
    ];
    for (change, code, words) in cases {
        change(&app.stack.sandbox.fortnox, company);
        let id = approved(&app, &voucher()).await;
        let approval = shown(&app, &ANNA, id).await;
        if words.is_empty() {
            // Not even the number could be read: nothing was begun.
            assert_eq!(approval["status"], "approved", "{code} {approval}");
            let error = app.db.text("select last_error ->> 'code' from jobs where status = 'queued'").await;
            assert_eq!(error, code);
            continue;
        }
        assert_eq!((&approval["status"], &approval["refusal_code"]), (&json!("failed"), &json!(code)), "{approval}");
        let said = approval["refusal_message"].as_str().unwrap();
        assert!(said.contains(words), "{code}: {said}");
        // What it says is for those who may see the approval, and for no log.
        assert!(!app.logs().contains(words), "{code}");
    }
    assert_eq!(written(&app, company), []);
    // Each is of the past, and does not keep the next from being written.
    app.stack.sandbox.fortnox.set_licence(company, "bookkeeping", true).unwrap();
    again(&app).await;
    assert_eq!(written(&app, company).len(), 1, "{}", app.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_voucher_is_refused_as_it_is_proposed() {
    let app = TestApp::start().await;
    office(&app).await;
    app.db.run("update fortnox_sync_state set locked_until = '2026-01-31'").await;
    let cases: Vec<(&str, Value, &str)> = vec![
        ("/rows/0/debit", json!(150_001), "voucher_unbalanced"),
        ("/rows/0/debit", json!(-150_000), "amount_invalid"),
        ("/rows/0/debit", json!(1500.5), "amount_invalid"),
        ("/rows/0/debit", json!("150000"), "amount_invalid"),
        ("/rows/0/debit", json!(100_000_000_000_000_i64), "amount_invalid"),
        ("/rows/0/credit", json!(1), "row_one_sided"),
        ("/rows/0/debit", json!(0), "row_one_sided"),
        ("/rows/0/account", json!(4999), "account_unknown"),
        ("/rows/0/account", json!(6990), "account_inactive"),
        ("/rows/0/account", json!(5800), "cost_center_missing"),
        ("/rows/0/account", json!(999), "account_invalid"),
        ("/rows/0/account", json!("5010"), "account_invalid"),
        ("/rows/1/cost_center", json!("AVD1"), "cost_center_not_allowed"),
        ("/rows/0/cost_center", json!("GAMMAL"), "cost_center_unknown"),
        ("/rows/0/cost_center", json!("NOSUCH"), "cost_center_unknown"),
        ("/rows/0/cost_center", json!("TOOLONG"), "cost_center_invalid"),
        ("/rows/0/text", json!("x".repeat(101)), "text_invalid"),
        ("/rows/0/text", json!("a [b]"), "characters_refused"),
        ("/rows/0/project", json!("1"), "row_invalid"),
        ("/rows", json!([]), "rows_invalid"),
        ("/series", json!("B"), "series_unknown"),
        ("/series", json!("A"), "series_not_manual"),
        ("/series", json!("S P"), "series_invalid"),
        ("/date", json!("2026-01-31"), "period_locked"),
        ("/date", json!("2024-12-31"), "financial_year_missing"),
        ("/date", json!("2027-01-01"), "financial_year_missing"),
        ("/date", json!("2026-02-30"), "date_invalid"),
        ("/date", json!("30/11 2026"), "date_invalid"),
        ("/description", json!("  "), "description_invalid"),
        ("/description", json!("x".repeat(181)), "description_invalid"),
        ("/description", json!("Hyra \"lokal\""), "characters_refused"),
        ("/description", json!("Hyra 🙂"), "characters_refused"),
        ("/description", json!("a{b}"), "characters_refused"),
        ("/year", json!(2), "voucher_invalid"),
    ];
    let token = app.token(&CLEO);
    for (place, value, code) in cases {
        let mut wanted = voucher();
        let (parent, field) = place.rsplit_once('/').unwrap();
        wanted.pointer_mut(parent).unwrap()[field] = value.clone();
        let body = json!({ "client_id": LIVING, "voucher": wanted });
        let answer = app.post("/v1/accounting/vouchers", &token, &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body["code"].as_str()),
            (422, Some(code)),
            "{place} {value} {}",
            answer.body
        );
    }
    assert_eq!(app.db.count("select count(*) from accounting_writes").await, 0);
    // Beside each edge: what just fits is taken.
    for (place, value) in [
        ("/date", json!("2026-02-01")),
        ("/date", json!("2026-12-31")),
        ("/description", json!("x".repeat(180))),
        ("/description", json!("A\u{30a}kes gård, 50 % – nr #1")),
        ("/rows/0/text", json!("å".repeat(100))),
    ] {
        let mut wanted = voucher();
        let (parent, field) = place.rsplit_once('/').unwrap();
        wanted.pointer_mut(parent).unwrap()[field] = value;
        propose(&app, &wanted).await;
    }
    // A letter and its ring are one character, as Fortnox wants it.
    let composed = "select count(*) from accounting_writes where payload ->> 'description' like 'Åkes gård%'";
    assert_eq!(app.db.count(composed).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_proposal_with_the_same_key_is_one() {
    let app = TestApp::start().await;
    office(&app).await;
    let body = json!({ "client_id": LIVING, "voucher": voucher() });
    let token = app.token(&CLEO);
    let send = async |body: &Value| {
        app.send_keyed(Method::POST, "/v1/accounting/vouchers", &token, Some(body), Some("rent")).await
    };
    let first = send(&body).await.expect(201);
    let both = futures::future::join(send(&body), send(&body)).await;
    assert_eq!((both.0.expect(201), both.1.expect(201)), (first.clone(), first));
    let mut other = body.clone();
    other["voucher"]["description"] = json!("Another");
    send(&other).await.expect_error(422, "idempotency_key_reused");
    assert_eq!(app.db.count("select count(*) from approvals").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn approvals_are_shown_to_those_whom_they_concern_and_decided_by_people() {
    let app = TestApp::start().await;
    office(&app).await;
    let (older, newer) = (propose(&app, &voucher()).await, propose(&app, &voucher()).await);
    for (person, seen) in [(&ANNA, 2), (&CLEO, 2), (&ADAM, 2), (&UMA, 0), (&OSCAR, 0)] {
        let listed = app.get("/v1/approvals", &app.token(person)).await.expect(200);
        assert_eq!(listed["approvals"].as_array().unwrap().len(), seen, "{}", person.email);
        let one = app.get(&format!("/v1/approvals/{older}"), &app.token(person)).await;
        assert_eq!(one.status.as_u16(), if seen > 0 { 200 } else { 404 }, "{}", person.email);
    }
    // Page by page, the newest first.
    let token = app.token(&ANNA);
    let first = app.get("/v1/approvals?limit=1&status=proposed", &token).await.expect(200);
    assert_eq!((&first["approvals"][0]["id"], &first["next"]), (&json!(newer), &json!(newer)));
    let second = app.get(&format!("/v1/approvals?limit=1&before={newer}"), &token).await.expect(200);
    assert_eq!(second["approvals"][0]["id"], json!(older));
    let end = app.get(&format!("/v1/approvals?before={older}"), &token).await.expect(200);
    assert_eq!((&end["approvals"], &end["next"]), (&json!([]), &Value::Null));
    app.get("/v1/approvals?status=lost", &token).await.expect_error(422, "status_unknown");
    // An agent proposes, and decides about nothing.
    let agent = app.agent_token(&RENATA).await;
    let digest = shown(&app, &ANNA, older).await["digest"].clone();
    let approve = json!({ "digest": digest });
    let path = format!("/v1/approvals/{older}/approve");
    app.post(&path, &agent, &approve).await.expect_error(403, "people_only");
    app.post(&path, &app.token(&CLEO), &approve).await.expect_error(403, "approval_not_allowed");
    app.post(&path, &app.token(&OSCAR), &approve).await.expect_error(404, "approval_not_found");
    app.post(&path, &token, &json!({ "digest": "00" })).await.expect_error(409, "payload_changed");
    app.post(&path, &token, &approve).await.expect(200);
}
