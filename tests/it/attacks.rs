//! Ways around the schema that somebody tried once, each of which worked then.

use integration_tests::{
    Server, TestDatabase,
    acting::{Actor, attempt, pid},
    people::{ADAM, BRICK, CLEO, DAN, DORA, LIVING, NORD, OLGA, RENATA, SVEN, UMA},
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::SERVERS;

const OWNER_ROLE: &str = "00000000-0000-7000-8000-000000000001";

const fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0007_0000 + number)
}

/// Gives somebody a role of the organisation's own that allows just this.
async fn give(db: &TestDatabase, person: Uuid, permissions: &[(&str, &str)]) {
    for (resource, action) in permissions {
        db.run(&format!(
            "insert into roles (id, org_id, name) values ('{role}', '{NORD}', 'some') on conflict do nothing;
             insert into permissions (org_id, role_id, resource, action) values ('{NORD}', '{role}', '{resource}', '{action}');
             update org_members set role_id = '{role}' where org_id = '{NORD}' and user_id = '{person}'",
            role = id(1)
        ))
        .await;
    }
}

/// A form with one question that must be answered, assigned to Lakeside Living, and a submission that Uma began.
async fn with_form(db: &TestDatabase, answered: bool) {
    db.run(&format!(
        "insert into templates (id, org_id, name, type, created_by) values ('{form}', '{NORD}', 'Brief', 'form', '{cleo}');
         insert into template_questions (id, org_id, template_id, position, kind, label, required)
             values ('{question}', '{NORD}', '{form}', 1, 'text', 'Name', true);
         insert into client_templates (org_id, client_id, template_id) values ('{NORD}', '{LIVING}', '{form}');
         insert into submissions (id, org_id, client_id, template_id, created_by) values ('{submission}', '{NORD}', '{LIVING}', '{form}', '{uma}')",
        form = id(2),
        question = id(3),
        submission = id(4),
        cleo = CLEO.id,
        uma = UMA.id
    ))
    .await;
    if answered {
        db.run(&format!(
            "insert into submission_answers (org_id, submission_id, question_id, value) values ('{NORD}', '{}', '{}', '\"x\"')",
            id(4),
            id(3)
        ))
        .await;
    }
}

fn submit() -> String {
    format!("update public.submissions set status = 'submitted' where id = '{}'", id(4))
}

fn approve() -> String {
    format!(
        "insert into public.submission_reviews (org_id, submission_id, decision) values ('{NORD}', '{}', 'approved')",
        id(4)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_an_organisation_that_is_gone_opens_nothing_of_it() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let dora = Actor::person(&DORA);
    let call = format!("public.create_organization_with_context('Mine', 'mine', '{BRICK}')");
    let made = db.ask(&dora, &format!("select org_id from {call}")).await.unwrap();
    let org = made[0]["org_id"].as_str().unwrap();
    assert_ne!(org, BRICK.to_string(), "an id is of one's own, whatever it was made from");
    db.run(&format!("delete from organizations where id = '{org}'")).await;
    let still = db.still().await;
    still.refused(&dora, &call, "PT409", "id_taken").await;
    still.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_can_make_a_temporary_table_cannot_hang_the_definers_triggers_on_it() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let triggers = db
        .ask(
            &Actor::role("postgres"),
            "select p.proname from pg_proc p where p.pronamespace = 'app'::regnamespace and p.prorettype = 'trigger'::regtype",
        )
        .await
        .unwrap();
    let triggers: Vec<_> =
        triggers.as_array().unwrap().iter().map(|row| row["proname"].as_str().unwrap().to_owned()).collect();
    assert!(triggers.len() > 10);
    for role in ["spine_caller", "spine_agent", "spine_service", "authenticated", "anon"] {
        let mut conn = db.begin_as(&Actor::role(role)).await;
        attempt(&mut conn, "create temp table made (id uuid, org_id uuid)").await.unwrap();
        conn.execute("create temp table made (id uuid, org_id uuid)").await.unwrap();
        for trigger in &triggers {
            let hang = format!("create trigger x after insert on made for each row execute function app.{trigger}()");
            let refusal = attempt(&mut conn, &hang).await.unwrap_err();
            assert_eq!(refusal.state, "42501", "{role}: {hang}: {refusal:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_anothers_submission_is_refused_alike_whatever_there_is() {
    let db = TestDatabase::new(Server::Postgres18).await;
    with_form(&db, true).await;
    let probe = |submission: Uuid, question: Uuid| {
        format!(
            "insert into public.submission_answers (org_id, submission_id, question_id, value) values ('{NORD}', '{submission}', '{question}', '1')"
        )
    };
    let dan = Actor::person(&DAN);
    let mut told = Vec::new();
    for (submission, question) in [(id(4), id(3)), (id(4), id(99)), (id(99), id(3))] {
        told.push(db.change(&dan, &probe(submission, question)).await.unwrap_err());
    }
    db.change(&Actor::person(&UMA), &submit()).await.unwrap();
    told.push(db.change(&dan, &probe(id(4), id(3))).await.unwrap_err());
    assert!(told.iter().all(|refusal| refusal.state == "42501" && *refusal == told[0]), "{told:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_invites_somebody_who_may_do_more_than_they_may() {
    let db = TestDatabase::new(Server::Postgres18).await;
    give(&db, SVEN.id, &[("members", "read"), ("members", "update")]).await;
    let still = db.still().await;
    for call in [
        "public.create_invitation('consultant', 'me@sven.example', null, 'manager')".to_owned(),
        "public.create_invitation('consultant', 'me@sven.example')".to_owned(),
        format!("public.create_invitation('member', 'me@sven.example', '{OWNER_ROLE}')"),
    ] {
        still.refused(&Actor::person(&SVEN), &call, "PT422", "role_unknown").await;
    }
    still.unchanged().await;
    db.ask(&Actor::person(&ADAM), "select public.create_invitation('consultant', 'a@b.example', null, 'manager')")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_ends_with_whoever_gave_it() {
    let leaves = format!("delete from org_members where user_id = '{}'", ADAM.id);
    let falls = format!(
        "update org_members set role_id = '00000000-0000-7000-8000-000000000004' where user_id = '{}'",
        ADAM.id
    );
    for change in [leaves, falls] {
        ends_with(&change).await;
    }
}

async fn ends_with(change: &str) {
    let db = TestDatabase::new(Server::Postgres18).await;
    let call = format!("select public.create_invitation('member', '{}', '{OWNER_ROLE}') as it", DAN.email);
    let made = db.ask(&Actor::person(&ADAM), &call).await.unwrap();
    let token = made[0]["it"]["token"].as_str().unwrap().to_owned();
    db.run(change).await;
    let still = db.still().await;
    let dan = Actor::person(&DAN).with("email", json!(DAN.email));
    still.refused(&dan, &format!("public.accept_invitation('{token}')"), "PT409", "invitation_ended").await;
    still.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_owners_who_step_down_at_once_leave_one() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(&format!("update org_members set role_id = '{OWNER_ROLE}' where user_id = '{}'", ADAM.id)).await;
    let down = |person: Uuid| {
        format!(
            "update public.org_members set role_id = '00000000-0000-7000-8000-000000000004' where org_id = '{NORD}' and user_id = '{person}'"
        )
    };
    let mut olga = db.begin_as(&Actor::person(&OLGA)).await;
    olga.execute(AssertSqlSafe(down(OLGA.id))).await.unwrap();
    let mut adam = db.begin_as(&Actor::person(&ADAM)).await;
    let waiter = pid(&mut adam).await;
    let second = tokio::spawn(async move { adam.execute(AssertSqlSafe(down(ADAM.id))).await.map(|_| ()) });
    db.until_blocked(waiter).await;
    olga.execute("commit").await.unwrap();
    assert!(second.await.unwrap().is_err());
    let owners = format!("select count(*) from org_members where org_id = '{NORD}' and role_id = '{OWNER_ROLE}'");
    assert_eq!(db.count(&owners).await, 1);
}

/// Uma, one of Lakeside's people, who is a consultant of this client too. There is another client besides.
async fn consulting(db: &TestDatabase, client: Uuid) -> Actor {
    db.run(&format!(
        "insert into clients (id, org_id, name) values ('{other}', '{NORD}', 'Other');
         insert into org_consultants (org_id, user_id) values ('{NORD}', '{uma}');
         insert into client_consultants (org_id, client_id, user_id) values ('{NORD}', '{client}', '{uma}');
         insert into client_accounting (org_id, client_id, customer_number) values ('{NORD}', '{LIVING}', '1'), ('{NORD}', '{other}', '2')",
        other = id(5),
        uma = UMA.id
    ))
    .await;
    Actor::person(&UMA)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hat_lends_the_other_nothing() {
    let db = TestDatabase::new(Server::Postgres18).await;
    with_form(&db, true).await;
    let uma = consulting(&db, id(5)).await;
    db.change(&uma, &submit()).await.unwrap();
    assert_eq!(db.change(&uma, &approve()).await.unwrap_err().state, "42501");
    let seen = db.ask(&uma, "select client_id from public.client_accounting").await.unwrap();
    assert_eq!(seen, json!([{ "client_id": id(5) }]));
    // Whose hat it is may.
    assert_eq!(db.change(&Actor::person(&CLEO), &approve()).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_own_person_has_no_consultants_rights_over_that_client() {
    let db = TestDatabase::new(Server::Postgres18).await;
    with_form(&db, true).await;
    let uma = consulting(&db, LIVING).await;
    db.change(&uma, &submit()).await.unwrap();
    let assign = format!(
        "insert into public.client_templates (org_id, client_id, template_id) select '{NORD}', '{LIVING}', id from public.templates"
    );
    // As one of the client's consultants, and as one who manages the consultants of all clients.
    for (role, others) in [("consultant", json!([])), ("manager", json!([{ "client_id": id(5) }]))] {
        db.run(&format!("update org_consultants set role = '{role}' where user_id = '{}'", UMA.id)).await;
        let consulted = db
            .ask(&uma.clone().in_function(), "select unnest(app.my_consulted_client_ids()) as client_id")
            .await
            .unwrap();
        assert_eq!(consulted, others, "{role}");
        let seen = db.ask(&uma, "select client_id from public.client_accounting").await.unwrap();
        assert_eq!(seen, others, "{role}");
        // What they handed in themselves, and what another person did.
        for author in [UMA.id, CLEO.id] {
            db.run(&format!("update submissions set created_by = '{author}'")).await;
            assert_eq!(db.change(&uma, &approve()).await.unwrap_err().state, "42501", "{role}");
        }
        db.run("delete from client_templates").await;
        assert_eq!(db.change(&uma, &assign).await.unwrap_err().state, "42501", "{role}");
    }
    // The client's person no more, they are its consultant.
    db.run(&format!("delete from client_users where user_id = '{}'", UMA.id)).await;
    assert_eq!(db.change(&uma, &assign).await, Ok(1));
    assert_eq!(db.change(&uma, &approve()).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_answered_is_and_what_was_decided_keeps_its_question() {
    let db = TestDatabase::new(Server::Postgres18).await;
    with_form(&db, false).await;
    let uma = Actor::person(&UMA);
    let refusal = db.change(&uma, &submit()).await.unwrap_err();
    assert_eq!((refusal.state.as_str(), refusal.code.as_str()), ("PT422", "answers_missing"));
    let answer = |value: &str| {
        format!(
            "insert into public.submission_answers (org_id, submission_id, question_id, value) values ('{NORD}', '{}', '{}', '{value}')",
            id(4),
            id(3)
        )
    };
    db.change(&uma, &answer("\"\"")).await.unwrap();
    assert_eq!(db.change(&uma, &submit()).await.unwrap_err().code, "answers_missing");
    db.change(&uma, "update public.submission_answers set value = '\"Uma\"'").await.unwrap();
    let reword = "update public.template_questions set label = 'Do you agree to pay a million?'";
    assert_eq!(db.change(&Actor::person(&CLEO), reword).await, Ok(1), "until it is handed in");
    db.change(&uma, &submit()).await.unwrap();
    db.change(&Actor::person(&CLEO), &approve()).await.unwrap();
    let refusal = db.change(&Actor::person(&ADAM), &reword.replace("million", "billion")).await.unwrap_err();
    assert_eq!((refusal.state.as_str(), refusal.code.as_str()), ("PT409", "question_answered"));
}

#[tokio::test(flavor = "multi_thread")]
async fn leave_to_write_to_one_customers_books_is_none_for_anothers() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let adam = Actor::person(&ADAM);
    let change = async |what: &str| {
        db.change(&adam, &format!("update public.client_accounting set {what}")).await.unwrap();
        db.ask(&Actor::role("postgres"), "select can_write, approved_by from client_accounting").await.unwrap()
    };
    let add = format!(
        "insert into public.client_accounting (org_id, client_id, customer_number) values ('{NORD}', '{LIVING}', '1')"
    );
    db.change(&adam, &add).await.unwrap();
    assert_eq!(change("can_write = true").await, json!([{ "can_write": true, "approved_by": ADAM.id }]));
    assert_eq!(change("customer_number = '2'").await, json!([{ "can_write": false, "approved_by": null }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_neither_dates_what_it_says_nor_says_it_as_the_rules() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(&format!("insert into leads (id, org_id, client_name) values ('{}', '{NORD}', 'Lena')", id(6))).await;
    let renata = db.agent(&RENATA).await;
    let score = |columns: &str, values: &str| {
        format!(
            "insert into public.lead_scoring (org_id, lead_id, score, rationale, factors{columns}) values ('{NORD}', '{}', 100, 'r', '{{}}'{values})",
            id(6)
        )
    };
    for (columns, values) in [(", model, created_at", ", 'm', '9999-01-01'"), (", model", ", 'rules'")] {
        assert_eq!(db.change(&renata, &score(columns, values)).await.unwrap_err().state, "42501");
    }
    assert_eq!(db.change(&renata, &score(", model", ", 'm'")).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_over_many_rows_is_told_by_one_message() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(&format!(
        "insert into leads (org_id, client_name) select '{NORD}', 'Lead ' || n from generate_series(1, 500) n"
    ))
    .await;
    db.connect_to_realtime().await;
    db.change(&Actor::person(&OLGA), "update public.leads set source = 'event'").await.unwrap();
    let told = db
        .ask(
            &Actor::role("postgres"),
            "select topic, payload -> 'count' as rows, payload -> 'ids' as ids from realtime.messages order by topic",
        )
        .await
        .unwrap();
    let topic = |table: &str| json!({ "topic": format!("org:{NORD}:{table}"), "rows": 500, "ids": null });
    assert_eq!(told, json!([topic("audit_log"), topic("leads")]));
    assert_eq!(db.count("select count(*) from audit_log where action = 'leads.update'").await, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_organisation_has_limits_from_the_start() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let made = db
        .ask(&Actor::person(&DAN), "select org_id from public.create_organization_with_context('New')")
        .await
        .unwrap();
    let limits = format!(
        "select count(*) from agent_limits where org_id = '{}' and max_cost_micro_usd > 0",
        made[0]["org_id"].as_str().unwrap()
    );
    assert_eq!(db.count(&limits).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_finds_the_organisations_to_choose_from() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let mine = "select id from public.my_organizations() order by id";
    assert_eq!(db.ask(&Actor::person(&CLEO), mine).await.unwrap(), json!([{ "id": NORD }, { "id": BRICK }]));
    assert_eq!(db.ask(&Actor::person(&DAN), mine).await.unwrap(), json!([{ "id": BRICK }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_persons_key_is_gone_in_that_organisation_alone() {
    let db = TestDatabase::new(Server::Postgres18).await;
    for org in [NORD, BRICK] {
        db.run(&format!(
            "insert into subject_keys (org_id, subject_id, wrapped_key) values ('{org}', '{}', 'w')",
            CLEO.id
        ))
        .await;
    }
    let erase = format!("select app.destroy_subject_key('{}') as done", CLEO.id);
    let system = Actor::service(NORD);
    assert_eq!(db.ask(&system, &erase).await.unwrap(), json!([{ "done": true }]));
    assert_eq!(db.ask(&system, &erase).await.unwrap(), json!([{ "done": false }]));
    let left = format!("select count(*) from subject_keys where wrapped_key is not null and org_id = '{BRICK}'");
    assert_eq!(
        (db.count(&left).await, db.count("select count(*) from subject_keys where destroyed_at is not null").await),
        (1, 1)
    );
    // Whoever had no key gets none from now on.
    let forget = format!(
        "select app.destroy_subject_key('{dora}') as done, app.subject_key('{dora}', 'fresh') as key",
        dora = DORA.id
    );
    assert_eq!(db.ask(&system, &forget).await.unwrap(), json!([{ "done": true, "key": null }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_puts_nobody_on_a_client_again() {
    let db = TestDatabase::new(Server::Postgres18).await;
    give(&db, SVEN.id, &[("clients", "create")]).await;
    db.run(&format!("insert into org_consultants (org_id, user_id) values ('{NORD}', '{}')", SVEN.id)).await;
    let make = format!("select public.create_client_with_context('{NORD}', 'New', id => '{}') as id", id(9));
    let made = db.ask(&Actor::person(&ADAM), &make).await.unwrap();
    assert_eq!(db.ask(&Actor::person(&SVEN), &make).await, Ok(made));
    let assigned = format!("select count(*) from client_consultants where user_id = '{}'", SVEN.id);
    assert_eq!(db.count(&assigned).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consultant_does_not_decide_about_what_they_began() {
    let db = TestDatabase::new(Server::Postgres18).await;
    with_form(&db, true).await;
    db.run(&format!("update submissions set created_by = '{}'", CLEO.id)).await;
    db.change(&Actor::person(&CLEO), &submit()).await.unwrap();
    assert_eq!(db.change(&Actor::person(&CLEO), &approve()).await.unwrap_err().state, "42501");
    assert_eq!(db.change(&Actor::person(&ADAM), &approve()).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cascade_that_changes_a_row_twice_is_told_as_what_happened() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(&format!(
        "insert into approvals (org_id, kind, subject_table, subject_id, client_id, payload_digest, proposed_by, first_step_by, expires_at)
         values ('{NORD}', 'voucher', 'accounting_writes', app.uuidv7(), '{LIVING}', sha256('x'), '{sven}', '{sven}', now() + interval '1 day');
         delete from auth.users where id = '{sven}'",
        sven = SVEN.id
    ))
    .await;
    let told = db
        .ask(
            &Actor::role("postgres"),
            "select metadata -> 'changed' as it, subject_ids from audit_log where action = 'approvals.update' order by 1",
        )
        .await
        .unwrap();
    let change = |column: &str| json!({ "it": [column], "subject_ids": [SVEN.id] });
    assert_eq!(told, json!([change("first_step_by"), change("proposed_by")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_does_not_come_to_an_account_that_goes() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(&format!(
        "insert into social_accounts (id, org_id, platform, platform_id, username) values ('{}', '{NORD}', 'tiktok', 'x', 'u');
         select app.ensure_social_month('2026-01-15')",
        id(8)
    ))
    .await;
    let insert = format!(
        "insert into public.social_messages (org_id, account_id, message_type, received_at, platform_id) values ('{NORD}', '{}', 'comment', '2026-01-15', 'p')",
        id(8)
    );
    let mut writer = db.begin_as(&Actor::service(NORD)).await;
    writer.execute(AssertSqlSafe(insert.clone())).await.unwrap();
    let mut remover = db.admin().await;
    let waiter = pid(&mut remover).await;
    let remove = format!("delete from social_accounts where id = '{}'", id(8));
    let removed = tokio::spawn(async move { remover.execute(AssertSqlSafe(remove)).await.map(|_| ()) });
    db.until_blocked(waiter).await;
    writer.execute("commit").await.unwrap();
    removed.await.unwrap().unwrap();
    assert_eq!(db.count("select count(*) from social_messages").await, 0);
    assert!(db.change(&Actor::service(NORD), &insert).await.is_err());
}

/// What a name may mean that nobody should read, and of those columns the ones that say nothing secret.
#[tokio::test(flavor = "multi_thread")]
async fn no_token_hash_or_key_is_anybodys_to_read() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let read = db
        .ask(
            &Actor::role("postgres"),
            "select distinct c.relname || '.' || a.attname as it
               from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped,
                    unnest(array['anon', 'authenticated', 'spine_caller', 'spine_agent']) r
              where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v') and c.relname <> '_sqlx_migrations'
                and a.attname ~ '(token|secret|hash|key|verifier|signature|raw|stripe|payload|state_)'
                and has_column_privilege(r, c.oid, a.attnum, 'select') order by 1",
        )
        .await
        .unwrap();
    let read: Vec<_> = read.as_array().unwrap().iter().map(|row| row["it"].as_str().unwrap()).collect();
    assert_eq!(
        read,
        [
            // What a voucher is found by at Fortnox, where all who see the books read it.
            "accounting_executions.token",
            // What is to be written to a client's books is what its readers approve.
            "accounting_writes.payload",
            "accounting_writes.payload_hash",
            "accounting_writes.source_key",
            "accounting_writes.token",
            "agent_limits.max_tokens",
            "agent_usage.reserved_tokens",
            "agent_usage.used_tokens",
            "approval_details.payload",
            "approval_details.source_key",
            "approval_details.token",
            // Who approves says that it is this.
            "approvals.payload_digest",
            "audit_seals.signature",
            "billing_adjustments.stripe_id",
            "billing_adjustments.stripe_invoice_id",
            "billing_checkouts.stripe_price_id",
            "billing_overview.stripe_price_id",
            "billing_overview.stripe_subscription_id",
            "idempotency_keys.key",
            "idempotency_keys.request_hash",
            "invoices.stripe_invoice_id",
            "invoices.stripe_subscription_id",
            "jobs.actual_tokens",
            "jobs.lease_token",
            "jobs.payload",
            "jobs.unique_key",
            // How many a picture takes.
            "models.picture_tokens",
            // To open a page of Stripe's for them, inside a function.
            "organizations.stripe_customer_id",
            "plan_prices.stripe_price_id",
            "provider_calls.tokens",
            "render_results.cost_tokens",
            "social_accounts.token_expires_at",
            // The platform's id of a file, or a digest of where it was.
            "social_attachments.source_key",
            "stripe_objects.stripe_id",
            "subscriptions.stripe_price_id",
            "subscriptions.stripe_price_ids",
            "subscriptions.stripe_subscription_id",
            "unproposed_vouchers.source_key",
            "usage_report.max_tokens",
            "usage_report.reserved_tokens",
            "usage_report.used_tokens",
            "usage_reservations.spent_tokens",
            "usage_reservations.tokens",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_no_id_is_read_as_none() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let id = "01900000-0000-7000-8000-000000000001";
        for (text, read) in [
            (format!("'{id}'"), json!(id)),
            ("upper('01900000-0000-7000-8000-00000000000a')".to_owned(), json!("01900000-0000-7000-8000-00000000000a")),
            ("null".to_owned(), json!(null)),
            ("'x'".to_owned(), json!(null)),
            ("''".to_owned(), json!(null)),
            (format!("'{id}0'"), json!(null)),
            (format!("' {id}'"), json!(null)),
            ("repeat('-', 36)".to_owned(), json!(null)),
            ("concat('x', random())".to_owned(), json!(null)),
        ] {
            for role in ["spine_caller", "spine_service", "postgres"] {
                let read_as = db.ask(&Actor::role(role), &format!("select app.as_uuid({text}) as it")).await;
                assert_eq!(read_as, Ok(json!([{ "it": read }])), "{role}: {text}");
            }
            // Where a plan is made for it, as for a condition.
            let found = format!("select count(*)::integer as it from organizations where id = app.as_uuid({text})");
            let one = i32::from(read == json!(id));
            assert_eq!(db.ask(&Actor::role("postgres"), &found).await, Ok(json!([{ "it": one }])), "{text}");
        }
    }
}
