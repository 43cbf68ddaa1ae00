//! The night: our series beside what Fortnox has in them.

use integration_tests::{
    TestApp,
    acting::Actor,
    people::{ADAM, CLEO, OSCAR},
};
use sandbox::{
    Calls,
    fortnox::{Call, Fault, Voucher},
};
use serde_json::{Value, json};

use super::vouchers::{again, approved, office};
use crate::{alarms, approvals::voucher};

/// The next night.
pub(super) async fn night(app: &TestApp) {
    app.db.run("delete from jobs where job_type = 'accounting_reconcile'; update fortnox_sync_state set reconcile_after = now()").await;
    app.stack.tick("accounting").await.unwrap();
    again(app).await;
}

async fn found(app: &TestApp) -> Value {
    let asked =
        "select series, year_id, ours, theirs, problems from accounting_reconciliations order by series, year_id";
    app.db.ask(&Actor::role("postgres"), asked).await.unwrap()
}

/// A voucher that stands at Fortnox and is of the test's making.
fn there(description: String) -> Voucher {
    Voucher {
        year: 2,
        series: "SP".to_owned(),
        number: 0,
        description,
        transaction_date: chrono::NaiveDate::from_ymd_opt(2026, 11, 30).unwrap(),
        comments: None,
        cost_center: None,
        rows: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_night_our_series_are_compared_in_both_directions() {
    let app = TestApp::start().await;
    let company = office(&app).await;
    for _ in 0..2 {
        approved(&app, &voucher()).await;
    }
    night(&app).await;
    assert_eq!(
        found(&app).await,
        json!([{ "series": "SP", "year_id": 2, "ours": 2, "theirs": 2, "problems": [] }]),
        "{}",
        app.logs()
    );
    // Once a night.
    app.stack.tick("accounting").await.unwrap();
    assert_eq!(app.db.count("select count(*) from jobs where job_type = 'accounting_reconcile'").await, 1);

    let fortnox = &app.stack.sandbox.fortnox;
    fortnox.add_voucher(company, there("Of a person".to_owned())).unwrap();
    fortnox.add_voucher(company, there("Of another (sp-0123456789ab)".to_owned())).unwrap();
    app.db.run("set session_replication_role = replica; update accounting_executions set token = 'sp-ffffffffffff' where voucher_number = 1").await;
    night(&app).await;
    let after = found(&app).await;
    let mut problems: Vec<(String, Value)> = after[0]["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| (problem["code"].as_str().unwrap().to_owned(), problem["number"].clone()))
        .collect();
    problems.sort_by_key(|(code, number)| (code.clone(), number.as_i64()));
    assert_eq!(
        problems,
        [
            ("missing_at_fortnox".to_owned(), json!(1)),
            ("of_others".to_owned(), json!(3)),
            ("unknown_here".to_owned(), json!(1)),
            ("unknown_here".to_owned(), json!(4)),
        ]
    );
    // Said where an operator looks, and shown to those who keep the books.
    app.stack.tick("accounting").await.unwrap();
    alarms::rings(&app, "accounting-differences", 4.0);
    for (person, seen) in [(&ADAM, 1), (&CLEO, 0), (&OSCAR, 0)] {
        let rows = app.db.ask(&Actor::person(person), "select series from accounting_reconciliations").await.unwrap();
        assert_eq!(rows.as_array().unwrap().len(), seen, "{}", person.email);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_night_settles_what_no_job_goes_on_with() {
    let app = TestApp::start().await;
    let company = office(&app).await;
    app.stack.sandbox.fortnox.lose_next_voucher_answer();
    let there = approved(&app, &voucher()).await;
    let give_up = "update jobs set status = 'failed', finished_at = now(), lease_token = null, lease_until = null where job_type = 'accounting_write'";
    app.db.run(give_up).await;
    let status = async |id| app.db.text(&format!("select status from approvals where id = '{id}'")).await;
    assert_eq!(status(there).await, "unknown");
    night(&app).await;
    assert_eq!(status(there).await, "executed", "{}", app.logs());

    app.stack.sandbox.fortnox.arrange(Call::Voucher, Fault::BadGateway, Calls::Next(1));
    let gone = approved(&app, &voucher()).await;
    app.db.run(give_up).await;
    night(&app).await;
    assert_eq!(status(gone).await, "unknown", "it may appear yet");
    app.db.run("set session_replication_role = replica; update accounting_executions set sent_at = now() - interval '61 minutes' where ended_at is null").await;
    night(&app).await;
    assert_eq!(status(gone).await, "failed");
    let why =
        app.db.text(&format!("select refusal_code from accounting_executions where approval_id = '{gone}'")).await;
    assert_eq!((why.as_str(), app.stack.sandbox.fortnox.vouchers(company).len()), ("not_written", 1));
    // The series is free again.
    let next = approved(&app, &voucher()).await;
    assert_eq!(status(next).await, "executed", "{}", app.logs());
}
