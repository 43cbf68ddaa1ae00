//! Forms that clients fill in and consultants decide about: one life cycle, and nothing besides it.

use futures::future::join_all;
use integration_tests::{
    Server, TestDatabase,
    acting::{Actor, Refusal, attempt, pid},
    people::{ADAM, CLEO, DORA, LIVING, MAX, NORD, OLGA, OSCAR, RENATA, SVEN, ULF, UMA},
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use uuid::Uuid;

const SERVERS: [Server; 2] = [Server::Postgres16, Server::Postgres18];
const STATUSES: [&str; 5] = ["draft", "submitted", "changes_requested", "approved", "rejected"];

const fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0006_0000 + number)
}
/// A form of Cleo's with a text, a number and a table, assigned to Lakeside Living.
const FORM: Uuid = id(1);
const NAME: Uuid = id(0x11);
const AREA: Uuid = id(0x12);
const ROOMS: Uuid = id(0x13);
/// Another form of the organisation, which nobody is to fill in, and a question of it.
const OTHER_FORM: Uuid = id(2);
const OTHER_QUESTION: Uuid = id(0x21);
/// A form that came with Spine.
const SYSTEM_FORM: Uuid = id(3);
const SYSTEM_QUESTION: Uuid = id(0x31);

/// A database with the forms.
async fn with_forms(server: Server) -> TestDatabase {
    let db = TestDatabase::new(server).await;
    db.run(&format!(
        "insert into templates (id, org_id, name, type, is_system, created_by) values
             ('{FORM}', '{NORD}', 'Brief', 'form', false, '{cleo}'), ('{OTHER_FORM}', '{NORD}', 'Other', 'form', false, '{dora}'),
             ('{SYSTEM_FORM}', '{NORD}', 'Standard', 'form', true, null);
         insert into template_questions (id, org_id, template_id, position, kind, label) values
             ('{NAME}', '{NORD}', '{FORM}', 1, 'text', 'Name'), ('{AREA}', '{NORD}', '{FORM}', 2, 'number', 'Area'),
             ('{ROOMS}', '{NORD}', '{FORM}', 3, 'table', 'Rooms'), ('{OTHER_QUESTION}', '{NORD}', '{OTHER_FORM}', 1, 'text', 'Other'),
             ('{SYSTEM_QUESTION}', '{NORD}', '{SYSTEM_FORM}', 1, 'text', 'Standard');
         insert into client_templates (org_id, client_id, template_id) values ('{NORD}', '{LIVING}', '{FORM}')",
        cleo = CLEO.id,
        dora = DORA.id,
    ))
    .await;
    db
}

/// A submission of a client with one answer, that Uma began and that came as far as this.
async fn submission_of(db: &TestDatabase, client: Uuid, submission: Uuid, status: &str) {
    db.run(&format!(
        "insert into submissions (id, org_id, client_id, template_id, created_by) values ('{submission}', '{NORD}', '{client}', '{FORM}', '{}');
         insert into submission_answers (org_id, submission_id, question_id, value) values ('{NORD}', '{submission}', '{NAME}', '\"Uma\"')",
        UMA.id
    ))
    .await;
    if status != "draft" {
        db.run(&format!("update submissions set status = 'submitted' where id = '{submission}'")).await;
    }
    if !["draft", "submitted"].contains(&status) {
        db.run(&review(submission, status)).await;
    }
}

async fn submission(db: &TestDatabase, submission: Uuid, status: &str) {
    submission_of(db, LIVING, submission, status).await;
}

fn review(submission: Uuid, decision: &str) -> String {
    format!(
        "insert into public.submission_reviews (org_id, submission_id, decision, feedback) values ('{NORD}', '{submission}', '{decision}', 'why')"
    )
}

fn answer(submission: Uuid, question: Uuid) -> String {
    format!(
        "insert into public.submission_answers (org_id, submission_id, question_id, value) values ('{NORD}', '{submission}', '{question}', '80')"
    )
}

fn submit(submission: Uuid) -> String {
    format!("update public.submissions set status = 'submitted' where id = '{submission}'")
}

async fn status(db: &TestDatabase, submission: Uuid) -> Value {
    let query = format!("select status from submissions where id = '{submission}'");
    db.ask(&Actor::role("postgres"), &query).await.unwrap()[0]["status"].clone()
}

fn code(done: Result<u64, Refusal>) -> String {
    done.map_or_else(|refusal| refusal.code, |rows| format!("{rows} rows"))
}

/// Starts a statement that will wait for another's lock; what came of it, committed.
async fn waiting(db: &TestDatabase, actor: &Actor, statement: String) -> tokio::task::JoinHandle<Result<u64, Refusal>> {
    let mut conn = db.begin_as(actor).await;
    let waiter = pid(&mut conn).await;
    let task = tokio::spawn(async move {
        let done = conn.execute(AssertSqlSafe(statement)).await;
        conn.execute("commit").await?;
        Ok(done?.rows_affected())
    });
    db.until_blocked(waiter).await;
    task
}

async fn commit(mut conn: PgConnection) {
    conn.execute("commit").await.unwrap();
}

// Who may do what, when ----------------------------------------------------------------------------------------------------

/// All there is: whatever is not here is refused to everybody. Nothing is here of what was approved or rejected.
const ALLOWED: [(&str, &[&str], &[&str]); 4] = [
    // A consultant does not see what the client has not handed in.
    (
        "draft",
        &["move to submitted", "answer", "change an answer", "remove an answer", "delete"],
        &["uma", "adam", "olga", "postgres"],
    ),
    (
        "changes_requested",
        &["move to submitted", "answer", "change an answer", "remove an answer"],
        &["uma", "cleo", "max", "adam", "olga", "postgres"],
    ),
    (
        "submitted",
        &["review as changes_requested", "review as approved", "review as rejected"],
        &["cleo", "max", "adam", "olga", "postgres"],
    ),
    // What was handed in is deleted by an operator alone.
    ("submitted", &["delete"], &["postgres"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_actor_moves_a_submission_as_declared_and_in_no_other_way() {
    let db = with_forms(Server::Postgres18).await;
    let mut wanted: Vec<String> = ALLOWED
        .iter()
        .flat_map(|(status, acts, actors)| {
            acts.iter().flat_map(move |act| actors.iter().map(move |actor| format!("{status}: {act}: {actor}")))
        })
        .chain(["changes_requested: delete: postgres".to_owned()])
        .collect();
    let mut actors: Vec<(&str, Actor)> = [
        ("uma", &UMA),
        ("cleo", &CLEO),
        ("max", &MAX),
        ("dora", &DORA),
        ("sven", &SVEN),
        ("adam", &ADAM),
        ("olga", &OLGA),
        ("oscar", &OSCAR),
        ("ulf", &ULF),
    ]
    .map(|(name, person)| (name, Actor::person(person)))
    .to_vec();
    actors.push(("uma in a function", Actor::person(&UMA).in_function()));
    actors.push(("oscar in Nord", Actor::person(&OSCAR).with("org_id", json!(NORD))));
    actors.push(("renata", db.agent(&RENATA).await));
    actors.push(("the system", Actor::service(NORD)));
    // Not the definer, by whose hand a review moves what it is about.
    for role in ["anon", "spine_functions", "spine_owner", "postgres"] {
        actors.push((role, Actor::role(role)));
    }
    for (number, status) in (0x100..).zip(STATUSES) {
        submission(&db, id(number), status).await;
    }
    let mut found = Vec::new();
    for (name, actor) in &actors {
        let mut conn = db.begin_as(actor).await;
        for (number, status) in (0x100..).zip(STATUSES) {
            let it = id(number);
            let mut acts = vec![
                ("answer".to_owned(), answer(it, AREA)),
                (
                    "change an answer".to_owned(),
                    format!("update public.submission_answers set value = '1' where submission_id = '{it}'"),
                ),
                (
                    "remove an answer".to_owned(),
                    format!("delete from public.submission_answers where submission_id = '{it}'"),
                ),
                ("delete".to_owned(), format!("delete from public.submissions where id = '{it}'")),
            ];
            for to in STATUSES.iter().filter(|to| **to != status) {
                let change = format!("update public.submissions set status = '{to}' where id = '{it}'");
                acts.push((format!("move to {to}"), change));
            }
            for decision in STATUSES {
                acts.push((format!("review as {decision}"), review(it, decision)));
            }
            for (act, statement) in acts {
                if attempt(&mut conn, &statement).await.is_ok_and(|rows| rows > 0) {
                    found.push(format!("{status}: {act}: {name}"));
                }
            }
        }
    }
    // Inside a function a person is themselves.
    let inside: Vec<_> = wanted
        .iter()
        .filter_map(|line| line.strip_suffix(": uma"))
        .map(|line| format!("{line}: uma in a function"))
        .collect();
    wanted.extend(inside);
    wanted.sort_unstable();
    found.sort_unstable();
    let (more, less): (Vec<_>, Vec<_>) = (
        found.iter().filter(|line| !wanted.contains(line)).collect(),
        wanted.iter().filter(|line| !found.contains(line)).collect(),
    );
    assert!(
        more.is_empty() && less.is_empty(),
        "allowed beyond what is declared: {more:#?}\nrefused against it: {less:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_stays_as_it_is_for_every_role() {
    for server in SERVERS {
        let db = with_forms(server).await;
        let open = id(0x100);
        submission(&db, open, "draft").await;
        for (number, decision) in [(0x101, "approved"), (0x102, "rejected")] {
            let it = id(number);
            submission(&db, it, decision).await;
            let changes = [
                "status = 'draft'".to_owned(),
                "status = 'submitted'".to_owned(),
                "submitted_at = now()".to_owned(),
                "reviewed_at = null".to_owned(),
                "created_at = now()".to_owned(),
                format!("created_by = '{}'", OLGA.id),
                // Forgetting who began it is what deleting them does; nothing rides along.
                "created_by = null, submitted_at = now()".to_owned(),
                format!("template_id = '{OTHER_FORM}'"),
                format!("id = '{}'", id(0x200)),
            ];
            let mut statements: Vec<String> = changes
                .iter()
                .map(|change| format!("update public.submissions set {change} where id = '{it}'"))
                .collect();
            statements.extend([
                format!("delete from public.submissions where id = '{it}'"),
                answer(it, AREA),
                format!("update public.submission_answers set value = '1' where submission_id = '{it}'"),
                // Neither out of it nor into it.
                format!("update public.submission_answers set submission_id = '{open}', question_id = '{AREA}' where submission_id = '{it}'"),
                format!("update public.submission_answers set submission_id = '{it}', question_id = '{AREA}' where submission_id = '{open}'"),
                format!("delete from public.submission_answers where submission_id = '{it}'"),
                review(it, "changes_requested"),
                review(it, "approved"),
            ]);
            for role in ["postgres", "spine_owner", "spine_definer", "spine_service", "service_role"] {
                let mut conn = db.begin_as(&Actor { service_org: Some(NORD), ..Actor::role(role) }).await;
                for statement in &statements {
                    let done = attempt(&mut conn, statement).await;
                    assert!(!matches!(done, Ok(rows) if rows > 0), "{role}: {statement}");
                    if role == "postgres" {
                        let refusal = done.expect_err(statement);
                        assert_eq!(refusal.state, "PT409", "{statement}: {refusal:?}");
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decided_submission_goes_with_its_client_and_its_organisation_and_outlives_its_people() {
    let db = with_forms(Server::Postgres18).await;
    let client = id(0x300);
    db.run(&format!("insert into clients (id, org_id, name) values ('{client}', '{NORD}', 'Passing')")).await;
    submission_of(&db, client, id(0x100), "approved").await;
    submission(&db, id(0x101), "approved").await;
    submission(&db, id(0x102), "rejected").await;
    db.run(&format!("update submission_reviews set reviewer_id = '{}'", CLEO.id)).await;

    db.run(&format!("delete from auth.users where id in ('{}', '{}')", UMA.id, CLEO.id)).await;
    let kept = "select count(*) from submissions s join submission_answers a on a.submission_id = s.id
                  join submission_reviews r on r.submission_id = s.id
                 where s.status in ('approved', 'rejected') and s.created_by is null and r.reviewer_id is null";
    assert_eq!(db.count(kept).await, 3);

    db.run(&format!("delete from clients where id = '{client}'")).await;
    assert_eq!(db.count(kept).await, 2);
    db.run(&format!("delete from organizations where id = '{NORD}'")).await;
    for table in ["submissions", "submission_answers", "submission_reviews", "template_questions"] {
        assert_eq!(db.count(&format!("select count(*) from {table}")).await, 0, "{table}");
    }
}

// What each side sees ------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn each_side_sees_its_own_state_of_one_life_cycle_and_no_consultant_a_clients_draft() {
    for server in SERVERS {
        let db = with_forms(server).await;
        for (number, status) in (0x100..).zip(STATUSES) {
            submission(&db, id(number), status).await;
        }
        let client =
            [Some("to_fill_in"), Some("being_reviewed"), Some("to_correct"), Some("accepted"), Some("not_accepted")];
        let reviewer = [None, Some("to_review"), Some("with_client"), Some("approved"), Some("rejected")];
        let admin = [Some("with_client"), Some("to_review"), Some("with_client"), Some("approved"), Some("rejected")];
        let nothing = [None; 5];
        for (person, wanted) in [
            (&UMA, client),
            (&CLEO, reviewer),
            (&MAX, reviewer),
            (&ADAM, admin),
            (&OLGA, admin),
            (&DORA, nothing),
            (&SVEN, nothing),
            (&OSCAR, nothing),
            (&ULF, nothing),
        ] {
            let actor = Actor::person(person);
            for ((number, status), state) in (0x100..).zip(STATUSES).zip(wanted) {
                let it = id(number);
                let feedback = ["changes_requested", "approved", "rejected"].contains(&status).then_some("why");
                let states = format!("select state, feedback from public.submission_states where id = '{it}'");
                let wanted: Vec<_> =
                    state.iter().map(|state| json!({ "state": state, "feedback": feedback })).collect();
                assert_eq!(db.ask(&actor, &states).await.unwrap(), json!(wanted), "{}: {status}", person.email);
                let answers = format!("select value from public.submission_answers where submission_id = '{it}'");
                let wanted: Vec<_> = state.iter().map(|_| json!({ "value": "Uma" })).collect();
                assert_eq!(db.ask(&actor, &answers).await.unwrap(), json!(wanted), "{}: {status}", person.email);
            }
        }
        // What a consultant began for the client they see, and so does the client.
        let begin = format!(
            "insert into public.submissions (org_id, client_id, template_id) values ('{NORD}', '{LIVING}', '{FORM}')"
        );
        let begun = db.add(&Actor::person(&CLEO), &begin).await.unwrap();
        for (person, state) in [(&CLEO, "with_client"), (&UMA, "to_fill_in")] {
            let states = format!("select state from public.submission_states where id = '{begun}'");
            assert_eq!(db.ask(&Actor::person(person), &states).await.unwrap(), json!([{ "state": state }]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_begins_as_a_draft_of_a_form_that_the_client_is_to_fill_in() {
    let db = with_forms(Server::Postgres18).await;
    let uma = Actor::person(&UMA);
    let begin = |client: Uuid, form: Uuid| {
        format!(
            "insert into public.submissions (org_id, client_id, template_id) values ('{NORD}', '{client}', '{form}')"
        )
    };
    let other = id(0x300);
    db.run(&format!(
        "insert into clients (id, org_id, name) values ('{other}', '{NORD}', 'Other');
         insert into client_templates (org_id, client_id, template_id) values ('{NORD}', '{other}', '{FORM}')"
    ))
    .await;
    for (actor, statement, wanted) in [
        (&uma, begin(LIVING, FORM), true),
        (&uma, begin(LIVING, OTHER_FORM), false),
        (&uma, begin(other, FORM), false),
        (&Actor::person(&CLEO), begin(other, FORM), false),
        (&Actor::person(&MAX), begin(other, FORM), true),
        (&Actor::person(&DORA), begin(LIVING, FORM), false),
        (&Actor::person(&ULF), begin(LIVING, FORM), false),
    ] {
        assert_eq!(db.change(actor, &statement).await.is_ok(), wanted, "{}: {statement}", actor.name);
    }
    // Nobody skips a step, an operator either.
    db.run(&format!(
        "insert into submissions (org_id, client_id, template_id, status, submitted_at, reviewed_at) values ('{NORD}', '{LIVING}', '{FORM}', 'approved', now(), now())"
    ))
    .await;
    assert_eq!(db.count("select count(*) from submissions where status <> 'draft' or submitted_at is not null or reviewed_at is not null").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_asked_for_and_made_until_it_is_approved() {
    let db = with_forms(Server::Postgres18).await;
    let (uma, cleo) = (Actor::person(&UMA), Actor::person(&CLEO));
    let it = id(0x100);
    submission(&db, it, "draft").await;
    for round in ["first", "second"] {
        assert_eq!(db.change(&uma, &submit(it)).await, Ok(1), "{round}");
        assert_eq!(code(db.change(&uma, &answer(it, AREA)).await), "submission_not_open");
        assert_eq!(db.change(&cleo, &review(it, "changes_requested")).await, Ok(1), "{round}");
        let change = format!("update public.submission_answers set value = '\"{round}\"' where submission_id = '{it}'");
        assert_eq!(db.change(&uma, &change).await, Ok(1), "{round}");
    }
    db.change(&uma, &submit(it)).await.unwrap();
    let undecided = format!(
        "insert into public.submission_reviews (org_id, submission_id, decision) values ('{NORD}', '{it}', 'rejected')"
    );
    assert_eq!(db.change(&cleo, &undecided).await.unwrap_err().state, "23514", "a refusal says why");
    assert_eq!(db.change(&cleo, &review(it, "approved")).await, Ok(1));
    assert_eq!(status(&db, it).await, "approved");
    let told = db
        .ask(&uma, "select decision, reviewer_id from public.submission_reviews order by created_at, id")
        .await
        .unwrap();
    let by_cleo = |decision| json!({ "decision": decision, "reviewer_id": CLEO.id });
    assert_eq!(told, json!(["changes_requested", "changes_requested", "approved"].map(by_cleo)));
}

// Answers ------------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_nested_in_an_answer_of_the_same_submission() {
    for server in SERVERS {
        let db = with_forms(server).await;
        let uma = Actor::person(&UMA);
        let (it, other) = (id(0x100), id(0x101));
        submission(&db, it, "draft").await;
        submission(&db, other, "draft").await;
        let put = |submission: Uuid, question: Uuid, parent: Option<Uuid>, row: &str| {
            let parent = parent.map_or("null".to_owned(), |parent| format!("'{parent}'"));
            format!(
                "insert into public.submission_answers (org_id, submission_id, question_id, parent_id, row_index, value)
                 values ('{NORD}', '{submission}', '{question}', {parent}, {row}, '1')"
            )
        };
        let table = db.add(&uma, &put(it, ROOMS, None, "null")).await.unwrap();
        let elsewhere = db.add(&uma, &put(other, ROOMS, None, "null")).await.unwrap();
        for (statement, wanted) in [
            (put(it, NAME, Some(table), "0"), "1 rows"),
            (put(it, AREA, Some(table), "0"), "1 rows"),
            (put(it, NAME, Some(table), "1"), "1 rows"),
            // Beside one another, not in one place.
            (put(it, NAME, Some(table), "1"), "submission_answers_place_key"),
            (put(it, ROOMS, None, "null"), "submission_answers_place_key"),
            (put(it, NAME, Some(elsewhere), "0"), "submission_answers_org_id_submission_id_parent_id_fkey"),
            (put(it, NAME, Some(id(0x499)), "0"), "submission_answers_org_id_submission_id_parent_id_fkey"),
            (put(it, AREA, Some(table), "null"), "submission_answers_row_check"),
            (put(it, AREA, None, "0"), "submission_answers_row_check"),
            (put(it, AREA, Some(table), "-1"), "submission_answers_row_check"),
            (put(it, OTHER_QUESTION, None, "null"), "question_not_in_template"),
            (put(it, OTHER_QUESTION, Some(table), "0"), "question_not_in_template"),
        ] {
            let told = code(db.change(&uma, &statement).await);
            assert!(told.contains(wanted), "{told}: {statement}");
        }
        let rows = format!("select count(*) from submission_answers where parent_id = '{table}'");
        assert_eq!(db.count(&rows).await, 3);
        let remove = format!("delete from public.submission_answers where id = '{table}'");
        assert_eq!(db.change(&uma, &remove).await, Ok(1));
        assert_eq!(db.count(&rows).await, 0);
        // A draft goes with all that was answered.
        assert_eq!(db.change(&uma, &format!("delete from public.submissions where id = '{other}'")).await, Ok(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_lands_after_the_decision() {
    let db = with_forms(Server::Postgres18).await;
    let (uma, olga) = (Actor::person(&UMA), Actor::person(&OLGA));

    // Answered first: handing in waits, and the decision is about that answer too.
    let it = id(0x100);
    submission(&db, it, "draft").await;
    let mut answering = db.begin_as(&uma).await;
    answering.execute(AssertSqlSafe(answer(it, AREA))).await.unwrap();
    let submitting = waiting(&db, &olga, submit(it)).await;
    commit(answering).await;
    assert_eq!(submitting.await.unwrap(), Ok(1));
    db.change(&olga, &review(it, "approved")).await.unwrap();
    assert_eq!(db.count(&format!("select count(*) from submission_answers where submission_id = '{it}'")).await, 2);

    // Handed in and decided first: the answer waits, whatever it saw when it began, and is told.
    let change = |it: Uuid| format!("update public.submission_answers set value = '2' where submission_id = '{it}'");
    let remove = |it: Uuid| format!("delete from public.submission_answers where submission_id = '{it}'");
    for (number, late) in [(0x101, answer(id(0x101), AREA)), (0x102, change(id(0x102))), (0x103, remove(id(0x103)))] {
        let it = id(number);
        submission(&db, it, "changes_requested").await;
        let mut deciding = db.begin_as(&olga).await;
        deciding.execute(AssertSqlSafe(submit(it))).await.unwrap();
        deciding.execute(AssertSqlSafe(review(it, "approved"))).await.unwrap();
        let answering = waiting(&db, &uma, late).await;
        commit(deciding).await;
        assert_eq!(code(answering.await.unwrap()), "submission_not_open");
        let kept =
            format!("select count(*) from submission_answers where submission_id = '{it}' and value = '\"Uma\"'");
        assert_eq!(db.count(&kept).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_reviewers_at_once_one_decides_and_the_others_are_told() {
    let db = with_forms(Server::Postgres18).await;
    let it = id(0x100);
    submission(&db, it, "submitted").await;
    let mut first = db.begin_as(&Actor::person(&CLEO)).await;
    first.execute(AssertSqlSafe(review(it, "approved"))).await.unwrap();
    let second = waiting(&db, &Actor::person(&MAX), review(it, "rejected")).await;
    commit(first).await;
    assert_eq!(code(second.await.unwrap()), "submission_not_submitted");
    assert_eq!(status(&db, it).await, "approved");

    let it = id(0x101);
    submission(&db, it, "submitted").await;
    let people = [&CLEO, &MAX, &ADAM, &OLGA].map(Actor::person);
    let (yes, no) = (review(it, "approved"), review(it, "rejected"));
    let all = join_all((0..12).map(|n| db.change(&people[n % 4], if n % 2 == 0 { &yes } else { &no }))).await;
    assert_eq!(all.iter().filter(|done| **done == Ok(1)).count(), 1, "{all:?}");
    assert!(all.into_iter().filter(Result::is_err).all(|done| code(done) == "submission_not_submitted"));
    let agrees = format!(
        "select count(*) from submissions s join submission_reviews r on r.submission_id = s.id and r.decision = s.status where s.id = '{it}'"
    );
    assert_eq!(db.count(&agrees).await, 1);
}

// Accounting ---------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_change_a_template_says_where_its_answers_are_booked() {
    let db = with_forms(Server::Postgres18).await;
    let mapping = |question: Uuid, values: &str| {
        format!(
            "insert into public.template_question_accounting (org_id, question_id, event, account, side, voucher_series) values ('{NORD}', '{question}', {values})"
        )
    };
    let good = "'approval', '3001', 'credit', 'A'";
    // Of Cleo's form, of Dora's, of the one that came with Spine.
    for (name, actor, wanted) in [
        ("cleo", Actor::person(&CLEO), [true, false, false]),
        ("max", Actor::person(&MAX), [false, false, false]),
        ("dora", Actor::person(&DORA), [true, true, false]),
        ("adam", Actor::person(&ADAM), [true, true, false]),
        ("olga", Actor::person(&OLGA), [true, true, false]),
        ("sven", Actor::person(&SVEN), [false, false, false]),
        ("uma", Actor::person(&UMA), [false, false, false]),
        ("oscar", Actor::person(&OSCAR), [false, false, false]),
        ("renata", db.agent(&RENATA).await, [false, false, false]),
        ("the system", Actor::service(NORD), [false, false, false]),
        ("anon", Actor::role("anon"), [false, false, false]),
    ] {
        let mut conn = db.begin_as(&actor).await;
        for (question, wanted) in [NAME, OTHER_QUESTION, SYSTEM_QUESTION].into_iter().zip(wanted) {
            let done = attempt(&mut conn, &mapping(question, good)).await;
            assert_eq!(done == Ok(1), wanted, "{name}: {question}: {done:?}");
        }
    }
    let mut cleo = db.begin_as(&Actor::person(&CLEO)).await;
    for values in [
        "'refund', '3001', 'credit', 'A'",
        "'approval', '301', 'credit', 'A'",
        "'approval', '0301', 'credit', 'A'",
        "'approval', '9301', 'credit', 'A'",
        "'approval', '3O01', 'credit', 'A'",
        "'approval', '3001', 'left', 'A'",
        "'approval', '3001', 'credit', 'a'",
        "'approval', null, 'credit', 'A'",
    ] {
        let refusal = attempt(&mut cleo, &mapping(NAME, values)).await.expect_err(values);
        assert!(["23514", "23502"].contains(&refusal.state.as_str()), "{values}: {refusal:?}");
    }
    cleo.execute(AssertSqlSafe(mapping(NAME, good))).await.unwrap();
    assert_eq!(attempt(&mut cleo, &mapping(NAME, good)).await.unwrap_err().state, "23505", "the same twice");
    cleo.execute("commit").await.unwrap();
    // Seen by the makers of templates, and by no client.
    for (person, seen) in [(&CLEO, 1), (&DORA, 1), (&ADAM, 1), (&UMA, 0), (&SVEN, 0), (&OSCAR, 0)] {
        let rows = db.ask(&Actor::person(person), "select from public.template_question_accounting").await.unwrap();
        assert_eq!(rows.as_array().unwrap().len(), seen, "{}", person.email);
    }
}
