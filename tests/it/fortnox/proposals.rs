//! Vouchers that are proposed by themselves: for a submission that was approved, for an invoice that was paid.

use integration_tests::{
    Server, TestApp, TestDatabase,
    acting::Actor,
    people::{BRICK, CLEO, LIVING, MAX, NORD, OLGA, OSCAR, Person, SVEN, UMA},
    seed,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sandbox::fortnox::NewInvoice;
use serde_json::{Value, json};
use uuid::Uuid;

use super::vouchers::again;
use crate::approvals::{ANNA, approve, books, call, digest};

const FORM: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_f001);
/// Its questions: an amount, another, and a text.
const FEE: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_f011);
const COSTS: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_f012);
const NOTE: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_f013);

/// Arranged past every trigger: what is tested begins with a review.
async fn arrange(db: &TestDatabase, statements: &str) {
    db.run(&format!("set session_replication_role = replica; {statements}")).await;
}

async fn form(db: &TestDatabase) {
    arrange(
        db,
        &format!(
            "insert into templates (id, org_id, name, type) values ('{FORM}', '{NORD}', 'Årsavtal [2026]', 'form');
             insert into template_questions (id, org_id, template_id, position, kind, label) values
                 ('{FEE}', '{NORD}', '{FORM}', 1, 'money', 'Fee'), ('{COSTS}', '{NORD}', '{FORM}', 2, 'table', 'Costs'),
                 ('{NOTE}', '{NORD}', '{FORM}', 3, 'text', 'Note')"
        ),
    )
    .await;
}

/// `question, event, account, side, VAT code, series, cost center`, as SQL has them.
async fn mapped(db: &TestDatabase, mappings: &[(Uuid, &str)]) {
    for (question, values) in mappings {
        arrange(
            db,
            &format!(
                "insert into template_question_accounting (org_id, question_id, event, account, side, vat_code, voucher_series, cost_center)
                 values ('{NORD}', '{question}', {values})"
            ),
        )
        .await;
    }
}

/// A submission of the client that was handed in with these answers.
async fn handed_in(db: &TestDatabase, answers: &[(Uuid, Value)]) -> Uuid {
    let id = Uuid::now_v7();
    arrange(
        db,
        &format!(
            "insert into submissions (id, org_id, client_id, template_id, status, submitted_at)
             values ('{id}', '{NORD}', '{LIVING}', '{FORM}', 'submitted', now())"
        ),
    )
    .await;
    for (at, (question, value)) in answers.iter().enumerate() {
        // Answers of one question beyond the first stand in rows of a table's.
        let parent = Uuid::now_v7();
        arrange(
            db,
            &format!(
                "insert into submission_answers (id, org_id, submission_id, question_id, value) values ('{parent}', '{NORD}', '{id}', '{NOTE}', '\"{at}\"')
                 on conflict do nothing;
                 insert into submission_answers (org_id, submission_id, question_id, parent_id, row_index, value)
                 select '{NORD}', '{id}', '{question}', a.id, {at}, '{value}' from submission_answers a where a.submission_id = '{id}' and a.question_id = '{NOTE}'"
            ),
        )
        .await;
    }
    id
}

async fn review(db: &TestDatabase, person: &Person, submission: Uuid) {
    let row = format!(
        "insert into public.submission_reviews (org_id, submission_id, decision) values ('{NORD}', '{submission}', 'approved')"
    );
    assert_eq!(db.change(&Actor::person(person), &row).await, Ok(1));
}

/// What was proposed for a submission, and by whom.
async fn proposed(db: &TestDatabase, submission: Uuid) -> Value {
    let asked = format!(
        "select a.id, a.status, a.proposed_by, w.source_key, w.payload from approvals a join accounting_writes w on w.id = a.subject_id
          where w.submission_id = '{submission}' order by w.source_key, a.created_at"
    );
    db.ask(&Actor::role("postgres"), &asked).await.unwrap()
}

async fn unproposed(db: &TestDatabase) -> Value {
    db.ask(&Actor::role("postgres"), "select source_key, problems from unproposed_vouchers").await.unwrap()
}

fn pay(number: u32, customer: &str, ore: i64, reference: Option<&str>) -> String {
    let reference = reference.map_or("null".to_owned(), |reference| format!("'{reference}'"));
    format!("app.propose_payment_vouchers('{number}', '{customer}', '2026-11-30', {ore}, {reference})")
}

/// What a night and a quarter of an hour do of it.
pub(super) async fn scenario(app: &TestApp, company: i64) {
    form(&app.db).await;
    mapped(
        &app.db,
        &[
            (FEE, "'payment', '1930', 'debit', null, 'SP', null"),
            (FEE, "'payment', '1510', 'credit', null, 'SP', null"),
        ],
    )
    .await;
    let submission = handed_in(&app.db, &[(FEE, json!(100))]).await;
    review(&app.db, &CLEO, submission).await;
    let token = app.token(&OLGA);
    app.post(&format!("/v1/accounting/submissions/{submission}/propose"), &token, &Value::Null).await.expect(200);
    app.get(&format!("/v1/accounting/templates/{FORM}/problems"), &token).await.expect(200);
    let fortnox = &app.stack.sandbox.fortnox;
    let day = chrono::NaiveDate::from_ymd_opt(2026, 11, 29).unwrap();
    let paid = fortnox.create_invoice(company, NewInvoice::new("1", day, 8_000)).unwrap();
    fortnox.pay_invoice(company, paid, day).unwrap();
    for _ in 0..2 {
        app.db.run("delete from jobs where job_type = 'accounting_payments'; update fortnox_sync_state set payments_after = now()").await;
        app.stack.tick("accounting").await.unwrap();
        again(app).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_submission_proposes_what_it_is_mapped_to_in_the_name_of_who_approved_it() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    form(&db).await;
    mapped(
        &db,
        &[
            (FEE, "'approval', '1510', 'debit', null, 'SP', null"),
            (FEE, "'approval', '3001', 'credit', 'MP1', 'SP', 'AVD1'"),
        ],
    )
    .await;
    let submission = handed_in(&db, &[(FEE, json!(1000)), (FEE, json!("250,10"))]).await;
    review(&db, &CLEO, submission).await;
    let all = proposed(&db, submission).await;
    let today = db.text("select ((now() at time zone 'Europe/Stockholm')::date)::text").await;
    // 1250.10 with 25 % VAT in it is 1000.08 and 250.02. What Fortnox refuses is left out of the form's name.
    assert_eq!(
        (&all[0]["status"], &all[0]["proposed_by"], &all[0]["source_key"], &all[0]["payload"]),
        (
            &json!("proposed"),
            &json!(CLEO.id),
            &json!(format!("submission {submission} approval SP")),
            &json!({
                "series": "SP", "date": today, "year_id": 2, "description": "Årsavtal 2026: Lakeside Living",
                "rows": [
                    { "account": 1510, "debit": 125_010, "credit": 0 },
                    { "account": 2611, "debit": 0, "credit": 25_002 },
                    { "account": 3001, "debit": 0, "credit": 100_008, "cost_center": "AVD1" },
                ],
            })
        ),
        "{all} {}",
        unproposed(&db).await
    );
    assert_eq!(all.as_array().unwrap().len(), 1);
    // Whoever approved the submission is its proposer, and another approves the voucher.
    let id: Uuid = all[0]["id"].as_str().unwrap().parse().unwrap();
    let anna = Actor::person(&ANNA);
    let digest = digest(&db, &anna, id).await;
    assert_eq!(call(&db, &anna, &approve(id, &digest)).await, json!("approved"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accountant_who_approved_a_submission_does_not_approve_its_voucher() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    form(&db).await;
    mapped(
        &db,
        &[
            (FEE, "'approval', '1510', 'debit', null, 'SP', null"),
            (FEE, "'approval', '5010', 'credit', null, 'SP', null"),
        ],
    )
    .await;
    let submission = handed_in(&db, &[(FEE, json!(1))]).await;
    review(&db, &OLGA, submission).await;
    let id: Uuid = proposed(&db, submission).await[0]["id"].as_str().unwrap().parse().unwrap();
    let olga = Actor::person(&OLGA);
    let digest = digest(&db, &olga, id).await;
    let refused = db.ask(&olga, &format!("select {}", approve(id, &digest))).await.unwrap_err();
    assert_eq!(refused.code, "own_proposal");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_reported_and_the_review_stands_and_it_is_proposed_when_it_can_be() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    form(&db).await;
    mapped(
        &db,
        &[
            (FEE, "'approval', '1510', 'debit', null, 'SP', null"),
            (FEE, "'approval', '5800', 'credit', null, 'SP', null"),
            (COSTS, "'approval', '5010', 'debit', null, 'B', null"),
            (COSTS, "'approval', '1930', 'credit', null, 'B', null"),
        ],
    )
    .await;
    let submission = handed_in(&db, &[(FEE, json!(100)), (COSTS, json!("much"))]).await;
    review(&db, &CLEO, submission).await;
    assert_eq!(db.text(&format!("select status from submissions where id = '{submission}'")).await, "approved");
    let problem = |code: &str| json!({ "code": code });
    let missing = unproposed(&db).await;
    let mut codes: Vec<Value> = missing[0]["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| problem(found["code"].as_str().unwrap()))
        .collect();
    codes.dedup();
    assert_eq!(codes, [problem("answer_not_an_amount"), problem("cost_center_missing")], "{missing}");
    assert_eq!(proposed(&db, submission).await, json!([]));
    // A person mends one: that one is proposed, once, and the other is still reported.
    arrange(&db, "update template_question_accounting set cost_center = 'AVD1' where account = '5800'").await;
    let cleo = Actor::person(&CLEO);
    let propose = format!("public.propose_submission_vouchers('{submission}')");
    let first = call(&db, &cleo, &propose).await;
    assert_eq!((first["proposed"].as_array().unwrap().len(), &first["already"]), (1, &json!(0)), "{first}");
    let second = call(&db, &cleo, &propose).await;
    assert_eq!((&second["proposed"], &second["already"]), (&json!([]), &json!(1)), "{second}");
    assert_eq!(unproposed(&db).await[0]["problems"].as_array().unwrap().len(), 1);
    arrange(&db, &format!("update submission_answers set value = '-5' where question_id = '{COSTS}'")).await;
    arrange(
        &db,
        &format!("insert into fortnox_voucher_series (org_id, year_id, code, manual) values ('{NORD}', 2, 'B', true)"),
    )
    .await;
    let third = call(&db, &cleo, &propose).await;
    assert_eq!((third["proposed"].as_array().unwrap().len(), &third["already"]), (1, &json!(1)), "{third}");
    assert_eq!(unproposed(&db).await, json!([]));
    // What is negative is booked on the other side.
    let rows = proposed(&db, submission).await[0]["payload"]["rows"].clone();
    assert_eq!(
        rows,
        json!([{ "account": 1930, "debit": 500, "credit": 0 }, { "account": 5010, "debit": 0, "credit": 500 }])
    );
    // In the name of who approved the submission, whoever asks for it.
    assert_eq!(proposed(&db, submission).await[1]["proposed_by"], json!(CLEO.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_amount_is_named_and_keeps_no_review_from_being_made() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    form(&db).await;
    mapped(
        &db,
        &[
            (FEE, "'approval', '1510', 'debit', null, 'SP', null"),
            (FEE, "'approval', '5010', 'credit', null, 'SP', null"),
        ],
    )
    .await;
    for (answer, code) in [
        // A thousand or one and a quarter: not for us to guess.
        (json!("1,250"), "answer_not_an_amount"),
        (json!("1.000"), "answer_not_an_amount"),
        (json!(12.345), "answer_not_an_amount"),
        (json!(1e30), "answer_not_an_amount"),
        (json!("123456789012"), "answer_not_an_amount"),
        (json!(true), "answer_not_an_amount"),
        (json!({ "amount": 1 }), "answer_not_an_amount"),
        (json!("12345678901.25"), ""),
        (json!(250.10), ""),
        (json!("250,1"), ""),
    ] {
        let submission = handed_in(&db, &[(FEE, answer.clone())]).await;
        review(&db, &CLEO, submission).await;
        assert_eq!(proposed(&db, submission).await.as_array().unwrap().len(), usize::from(code.is_empty()), "{answer}");
        let named = format!(
            "select coalesce(max(problems -> 0 ->> 'code'), '') from unproposed_vouchers where submission_id = '{submission}'"
        );
        assert_eq!(db.text(&named).await, code, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_proposal_of_a_submission_does_not_stand_in_the_way_of_the_next() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    form(&db).await;
    mapped(
        &db,
        &[
            (FEE, "'approval', '1510', 'debit', null, 'SP', null"),
            (FEE, "'approval', '5010', 'credit', null, 'SP', null"),
        ],
    )
    .await;
    let submission = handed_in(&db, &[(FEE, json!(100))]).await;
    review(&db, &CLEO, submission).await;
    let propose = format!("public.propose_submission_vouchers('{submission}')");
    for (status, expires, already) in [
        ("proposed", "1 second", 1),
        ("approved", "1 second", 1),
        ("unknown", "-1 second", 1),
        ("executed", "-1 second", 1),
        ("proposed", "-1 microsecond", 0),
        ("expired", "-1 second", 0),
        ("refused", "1 second", 0),
        ("failed", "1 second", 0),
    ] {
        arrange(
            &db,
            &format!(
                "delete from approvals where id <> (select id from approvals order by created_at limit 1);
                 update approvals set status = '{status}', expires_at = clock_timestamp() + interval '{expires}' + interval '5 minutes' * ({already}),
                        decided_at = now(), began_at = now()"
            ),
        )
        .await;
        let answer = call(&db, &Actor::person(&CLEO), &propose).await;
        assert_eq!(answer["already"], json!(already), "{status} {expires}: {answer}");
        assert_eq!(answer["proposed"].as_array().unwrap().len(), 1 - already, "{status} {expires}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_sees_a_submission_and_may_propose_has_it_proposed_again() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    form(&db).await;
    let submission = handed_in(&db, &[]).await;
    let propose = format!("select public.propose_submission_vouchers('{submission}')");
    for (person, code) in [
        (&CLEO, "submission_not_approved"),
        (&SVEN, "submission_not_approved"),
        (&MAX, "submission_not_approved"),
        (&UMA, "proposal_not_allowed"),
        (&OSCAR, "submission_not_found"),
    ] {
        let refused = db.ask(&Actor::person(person), &propose).await.unwrap_err();
        assert_eq!(refused.code, code, "{}", person.email);
    }
    for actor in [Actor::service(NORD), Actor::role("anon")] {
        assert_eq!(db.ask(&actor, &propose).await.unwrap_err().state, "42501");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invoice_that_was_paid_proposes_for_the_submission_that_it_refers_to_or_alone_has_its_total() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    form(&db).await;
    mapped(
        &db,
        &[
            (FEE, "'payment', '1930', 'debit', null, 'SP', null"),
            (FEE, "'payment', '1510', 'credit', null, 'SP', null"),
        ],
    )
    .await;
    let mut submissions = Vec::new();
    for amount in [100, 200, 200] {
        let submission = handed_in(&db, &[(FEE, json!(amount))]).await;
        review(&db, &CLEO, submission).await;
        assert_eq!(proposed(&db, submission).await, json!([]), "nothing is mapped to approval");
        submissions.push(submission);
    }
    let system = Actor::service(NORD);
    let named = submissions[1].to_string();
    for (payment, outcome) in [
        (pay(1, "2", 10_000, None), "other_customer"),
        (pay(1, "1", 10_001, None), "unmatched"),
        // Of two with this total it is not known which was paid.
        (pay(1, "1", 20_000, None), "unmatched"),
        (pay(1, "1", 10_000, None), "proposed"),
        (pay(1, "1", 10_000, None), "already"),
        (pay(2, "1", 10_000, None), "unmatched"),
        (pay(3, "1", 77, Some(&named)), "unmatched"),
        (pay(3, "1", 20_000, Some(&named)), "proposed"),
        // Another invoice for the same is not what was paid.
        (pay(6, "1", 20_000, Some(&named)), "unmatched"),
        // Now one is left.
        (pay(4, "1", 20_000, Some("order 17")), "proposed"),
        (pay(5, "1", 20_000, Some("01900000-0000-7000-8000-00000000ffff")), "unmatched"),
    ] {
        assert_eq!(call(&db, &system, &payment).await, json!(outcome), "{payment}");
    }
    let keys: Vec<Value> =
        futures::future::join_all(submissions.iter().map(async |id| proposed(&db, *id).await[0]["source_key"].clone()))
            .await;
    assert_eq!(keys, ["invoice 1 payment SP", "invoice 3 payment SP", "invoice 4 payment SP"]);
    assert_eq!(call(&db, &Actor::service(BRICK), &pay(1, "1", 10_000, None)).await, json!("unmatched"));
    // What was refused is not proposed again by itself; what expired is, for the same submission.
    for (status, outcome) in [("refused", "already"), ("failed", "already"), ("expired", "proposed")] {
        let first = "select id from approvals order by created_at limit 1";
        arrange(
            &db,
            &format!(
                "update approvals set status = '{status}', began_at = now(), decided_at = now() where id = ({first})"
            ),
        )
        .await;
        assert_eq!(call(&db, &system, &pay(1, "1", 10_000, None)).await, json!(outcome), "{status}");
    }
    assert_eq!(proposed(&db, submissions[0]).await.as_array().unwrap().len(), 2);
    // What is unmatched is kept, and tried again when its submission is there.
    assert_eq!(call(&db, &system, &pay(9, "1", 30_000, None)).await, json!("unmatched"));
    let late = handed_in(&db, &[(FEE, json!(300))]).await;
    review(&db, &CLEO, late).await;
    call(&db, &system, "app.retry_payment_vouchers(100)").await;
    assert_eq!(proposed(&db, late).await[0]["source_key"], "invoice 9 payment SP");
    let kept = unproposed(&db).await;
    let kept: Vec<&str> = kept.as_array().unwrap().iter().map(|row| row["source_key"].as_str().unwrap()).collect();
    assert!(!kept.contains(&"invoice 9 payment") && kept.contains(&"invoice 5 payment"), "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_invoice_at_fortnox_becomes_a_proposal_within_a_quarter_of_an_hour() {
    let app = TestApp::start().await;
    let company = super::vouchers::office(&app).await;
    form(&app.db).await;
    mapped(
        &app.db,
        &[
            (FEE, "'payment', '1930', 'debit', null, 'SP', null"),
            (FEE, "'payment', '1510', 'credit', null, 'SP', null"),
        ],
    )
    .await;
    let submission = handed_in(&app.db, &[(FEE, json!(125))]).await;
    review(&app.db, &CLEO, submission).await;
    let fortnox = &app.stack.sandbox.fortnox;
    let day = chrono::NaiveDate::from_ymd_opt(2026, 11, 29).unwrap();
    let paid = fortnox.create_invoice(company, NewInvoice::new("1", day, 10_000)).unwrap();
    let unpaid = fortnox.create_invoice(company, NewInvoice::new("1", day, 10_000)).unwrap();
    assert_ne!(paid, unpaid);
    app.stack.tick("accounting").await.unwrap();
    again(&app).await;
    assert_eq!(proposed(&app.db, submission).await, json!([]), "nothing is paid");
    fortnox.pay_invoice(company, paid, day).unwrap();
    for _ in 0..2 {
        // The next quarter.
        app.db.run("delete from jobs where job_type = 'accounting_payments'; update fortnox_sync_state set payments_after = now()").await;
        app.stack.tick("accounting").await.unwrap();
        again(&app).await;
    }
    let all = proposed(&app.db, submission).await;
    assert_eq!(all.as_array().unwrap().len(), 1, "{all} {}", app.logs());
    assert_eq!(
        (&all[0]["source_key"], &all[0]["payload"]["date"], &all[0]["payload"]["rows"][0]),
        (
            &json!(format!("invoice {paid} payment SP")),
            &json!("2026-11-29"),
            &json!({ "account": 1510, "debit": 0, "credit": 12_500 })
        )
    );
}

/// Whatever is mapped and answered: what is proposed balances, holds every answer once, and is a whole number of öre.
#[tokio::test(flavor = "multi_thread")]
async fn every_voucher_that_is_proposed_balances() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    form(&db).await;
    let mut rng = StdRng::seed_from_u64(seed());
    let (mut vouchers, mut unbalanced) = (0, 0);
    for _ in 0..60 {
        arrange(&db, "delete from template_question_accounting; delete from unproposed_vouchers").await;
        let mut mappings = Vec::new();
        for question in [FEE, COSTS] {
            // One side may be missing, which cannot balance.
            for side in ["debit", "credit"].into_iter().take(if rng.random_ratio(1, 8) { 1 } else { 2 }) {
                let (account, vat) =
                    [("1510", "null"), ("3001", "'MP1'"), ("3002", "'MP2'"), ("5010", "null")][rng.random_range(0..4)];
                mappings.push((question, format!("'approval', '{account}', '{side}', {vat}, 'SP', null")));
            }
        }
        let rows: Vec<(Uuid, &str)> = mappings.iter().map(|(question, values)| (*question, values.as_str())).collect();
        mapped(&db, &rows).await;
        let mut answers = Vec::new();
        for question in [FEE, COSTS] {
            for _ in 0..rng.random_range(0..4) {
                let ore: i64 = rng.random_range(-1_000_000..1_000_000);
                let text = format!("{}{}.{:02}", if ore < 0 { "-" } else { "" }, ore.abs() / 100, ore.abs() % 100);
                answers.push((question, if rng.random() { json!(text) } else { serde_json::from_str(&text).unwrap() }));
            }
        }
        let submission = handed_in(&db, &answers).await;
        review(&db, &CLEO, submission).await;
        let all = proposed(&db, submission).await;
        for voucher in all.as_array().unwrap() {
            let sum = |side: &str| -> i64 {
                voucher["payload"]["rows"].as_array().unwrap().iter().map(|row| row[side].as_i64().unwrap()).sum()
            };
            assert_eq!(sum("debit"), sum("credit"), "{mappings:?} {answers:?} {voucher}");
            vouchers += 1;
        }
        if all == json!([]) && !answers.is_empty() {
            unbalanced += 1;
        }
    }
    assert!(vouchers > 20 && unbalanced > 0, "{vouchers} vouchers, {unbalanced} without");
}

#[tokio::test(flavor = "multi_thread")]
async fn mappings_are_checked_against_the_books_as_they_were_read() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    form(&db).await;
    mapped(
        &db,
        &[
            (FEE, "'approval', '1510', 'debit', null, 'SP', null"),
            (FEE, "'approval', '4999', 'credit', null, 'SP', null"),
            (FEE, "'payment', '6990', 'debit', null, 'A', null"),
            (COSTS, "'approval', '3002', 'credit', 'MP1', 'SP', 'NOSUCH'"),
            (NOTE, "'approval', '5800', 'debit', null, 'C', null"),
            (NOTE, "'approval', '3001', 'debit', 'MP3', 'C', null"),
        ],
    )
    .await;
    let check = format!("public.check_accounting_mappings('{FORM}')");
    let found = call(&db, &Actor::person(&CLEO), &check).await;
    let mut codes: Vec<String> = found["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| format!("{} {}", problem["code"].as_str().unwrap(), problem["account"]))
        .collect();
    codes.sort();
    codes.dedup();
    assert_eq!(
        codes,
        [
            "account_inactive 6990",
            "account_unknown 4999",
            "cost_center_missing 5800",
            "cost_center_unknown 3002",
            "question_not_an_amount null",
            "series_not_manual null",
            "series_unknown null",
            "side_missing null",
            "vat_account_missing 3001",
            "vat_code_differs 3001",
            "vat_code_differs 3002",
        ],
        "{found}"
    );
    for (person, state) in [(&UMA, "PT404"), (&OSCAR, "PT404")] {
        let refused = db.ask(&Actor::person(person), &format!("select {check}")).await.unwrap_err();
        assert_eq!(refused.state, state, "{}", person.email);
    }
    arrange(&db, "update fortnox_sync_state set tenant = 'another'").await;
    let unread = call(&db, &Actor::person(&CLEO), &check).await;
    assert_eq!(unread, json!({ "problems": [{ "code": "books_not_read" }] }));
}
