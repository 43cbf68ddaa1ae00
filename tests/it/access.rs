//! How people come in, choose where they work and let others in: the functions of the Data API and the access-token hook.

use std::collections::BTreeSet;

use futures::future::join_all;
use integration_tests::{
    Server, TestApp, TestDatabase,
    acting::{Actor, Refusal, asked, pid},
    people::{
        ADAM, BRICK, CLEO, DAN, DORA, HOTELS, LAKESIDE, LIVING, MAX, NORD, OLGA, OSCAR, RENATA, RUFUS, SVEN, UMA,
    },
};
use serde_json::{Value, json};
use sqlx::Executor;
use uuid::Uuid;

const SERVERS: [Server; 2] = [Server::Postgres16, Server::Postgres18];
const OWNER_ROLE: &str = "00000000-0000-7000-8000-000000000001";
const DESIGNER_ROLE: &str = "00000000-0000-7000-8000-000000000003";
const NOBODY: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0fff);

/// A session, by number.
fn session(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0005_0000 + number)
}

/// The one value a call answers.
async fn told(db: &TestDatabase, actor: &Actor, call: &str) -> Value {
    let rows = db.ask(actor, &format!("select {call} as it")).await;
    rows.unwrap_or_else(|refusal| panic!("{}: {call}: {refusal:?}", actor.name))[0]["it"].clone()
}

/// The organisations a person sees: one, or none.
async fn where_they_work(db: &TestDatabase, actor: &Actor) -> Vec<Uuid> {
    let rows = db.ask(actor, "select id from public.organizations").await.unwrap();
    rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().parse().unwrap()).collect()
}

/// What the auth server is told when it signs a token for a session.
async fn hook(db: &TestDatabase, user: Uuid, session: Uuid) -> Value {
    let event = json!({ "user_id": user, "claims": { "sub": user, "session_id": session } });
    told(db, &Actor::role("supabase_auth_admin"), &format!("app.custom_access_token_hook('{event}')")).await
}

/// How many were refused by this name; none may be refused by another.
fn refusals(answers: &[Result<Value, Refusal>], code: &str) -> usize {
    let refusals: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(refusals.iter().all(|refusal| refusal.code == code), "{refusals:?}");
    refusals.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_function_of_the_data_api_is_callable_by_those_it_is_declared_for_and_nobody_else() {
    let people: &[&str] = &["authenticated", "spine_caller"];
    let functions: &[&str] = &["spine_agent", "spine_caller", "spine_service"];
    let declared = [
        ("accept_invitation", people),
        ("add_client_consultant_safe", people),
        ("allow_own_approvals", people),
        ("answer_social_thread", people),
        ("approve", people),
        ("archive_old_projects", &["authenticated", "spine_caller", "spine_service"]),
        ("cancel_social_reply", people),
        ("check_accounting_mappings", people),
        ("create_client_with_context", people),
        ("create_invitation", people),
        ("create_organization_with_context", people),
        ("decide_approvals", people),
        ("draft_social_reply", &["spine_agent"]),
        ("increment_render_counter", functions),
        ("issue_agent_token", people),
        ("log_audit_action", functions),
        ("make_lead_of_thread", people),
        ("my_organizations", people),
        ("propose_accounting_write", &["authenticated", "spine_agent", "spine_caller"]),
        ("propose_submission_vouchers", people),
        ("refuse", people),
        ("revoke_session", people),
        ("search_clients", &["authenticated", "spine_agent", "spine_caller", "spine_service"]),
        ("search_org_brain", &["authenticated", "spine_agent", "spine_caller", "spine_service"]),
        ("search_social_messages", &["authenticated", "spine_agent", "spine_caller"]),
        ("set_active_context", people),
        ("update_lead_score", &["authenticated", "spine_agent", "spine_caller", "spine_service"]),
    ];
    let declared: Vec<_> = declared.iter().map(|(name, roles)| json!({ "name": name, "roles": roles })).collect();
    let executors = "select p.proname as name,
                            (select coalesce(jsonb_agg(r.rolname order by r.rolname), '[]') from pg_roles r
                              where r.rolname in ('anon', 'authenticated', 'authenticator', 'service_role', 'supabase_auth_admin', 'spine_caller',
                                                  'spine_agent', 'spine_service', 'spine_functions')
                                and has_function_privilege(r.oid, p.oid, 'execute')) as roles
                       from pg_proc p";
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let found = format!("{executors} where p.pronamespace = 'public'::regnamespace order by 1");
        assert_eq!(db.ask(&Actor::role("postgres"), &found).await.unwrap(), json!(declared));
        // The hook lists sessions for whoever it is told of: only the auth server may say so.
        let hook = format!("{executors} where p.proname = 'custom_access_token_hook'");
        let callers = db.ask(&Actor::role("postgres"), &hook).await.unwrap();
        assert_eq!(callers[0]["roles"], json!(["supabase_auth_admin"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_a_standing_session_of_an_account_gets_anything_done() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(&format!(
        "insert into user_sessions (id, user_id, expires_at, revoked_at) values
             ('{}', '{olga}', null, now()), ('{}', '{olga}', now() - interval '1 second', null), ('{}', '{}', null, null)",
        session(1),
        session(2),
        session(3),
        DORA.id,
        olga = OLGA.id,
    ))
    .await;
    let olga = Actor::person(&OLGA).with("email", json!(OLGA.email));
    let callers = [
        (olga.clone().with("sub", json!(null)), "sign_in_required"),
        (olga.clone().with("sub", json!("olga")), "sign_in_required"),
        (olga.clone().with("is_anonymous", json!(true)), "sign_in_required"),
        (olga.clone().with("session_id", json!(session(1))), "session_revoked"),
        (olga.clone().with("session_id", json!(session(2))), "session_revoked"),
        (olga.clone().with("session_id", json!(session(3))), "session_revoked"),
        (olga.with("sub", json!(NOBODY)), "account_unknown"),
    ];
    let calls = [
        "public.create_organization_with_context('New')".to_owned(),
        format!("public.create_client_with_context('{NORD}', 'New')"),
        format!("public.add_client_consultant_safe('{LIVING}', '{}')", CLEO.id),
        format!("public.set_active_context('{NORD}')"),
        format!("public.revoke_session('{}')", session(1)),
        "public.create_invitation('consultant', 'new@consultants.example')".to_owned(),
        "public.accept_invitation('token')".to_owned(),
        format!("public.issue_agent_token('{}')", RENATA.id),
        format!("public.propose_accounting_write('{LIVING}', 'voucher', '{{}}')"),
        format!("public.propose_submission_vouchers('{NOBODY}')"),
        format!("public.check_accounting_mappings('{NOBODY}')"),
        format!("public.approve('{NOBODY}', '')"),
        format!("public.refuse('{NOBODY}')"),
        "public.allow_own_approvals(true)".to_owned(),
        "public.search_social_messages('word')".to_owned(),
        format!("public.answer_social_thread('{NOBODY}', 'message', 'x')"),
        format!("public.cancel_social_reply('{NOBODY}')"),
        format!("public.make_lead_of_thread('{NOBODY}')"),
    ];
    let still = db.still().await;
    for (caller, code) in &callers {
        for call in &calls {
            still.refused(caller, call, "PT401", code).await;
        }
    }
    still.unchanged().await;
}

// Organisations ------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_is_made_with_its_owner_and_is_where_the_session_works_from_then_on() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let dora = Actor::in_session(&DORA, session(1));
        let made =
            db.ask(&dora, "select * from public.create_organization_with_context('  Dora & Töchter  ')").await.unwrap();
        let org: Uuid = made[0]["org_id"].as_str().unwrap().parse().unwrap();
        assert_eq!(made[0]["org_slug"], "dora-t-chter");
        assert_eq!(where_they_work(&db, &dora).await, [org]);
        let rows = db.ask(&dora, "select name, plan from public.organizations").await.unwrap();
        assert_eq!(rows, json!([{ "name": "Dora & Töchter", "plan": "free" }]));
        let members = db.ask(&dora, "select user_id, role_id from public.org_members").await.unwrap();
        assert_eq!(members, json!([{ "user_id": DORA.id, "role_id": OWNER_ROLE }]));
        // Where the name is taken, the slug made from it gives way.
        let again = told(&db, &dora, "public.create_organization_with_context('Dora & Töchter')").await;
        assert!(again["org_slug"].as_str().unwrap().starts_with("dora-t-chter-"), "{again}");
        for (name, slug) in [("木", "organization"), ("Ö1", "1-org"), ("1 2", "1-2")] {
            let made = told(&db, &dora, &format!("public.create_organization_with_context('{name}')")).await;
            assert_eq!(made["org_slug"], slug);
        }
        let named = format!("public.create_organization_with_context('D', ' Own-1 ', '{}')", session(9));
        let made = told(&db, &dora, &named).await;
        assert_eq!(made["org_slug"], "own-1");
        assert_eq!(told(&db, &dora, &named).await, made, "the same id makes nothing twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_that_cannot_be_is_refused_by_name() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let dora = Actor::in_session(&DORA, session(1));
    let long = "x".repeat(201);
    let still = db.still().await;
    for (arguments, state, code) in [
        ("null", "PT422", "name_invalid"),
        ("''", "PT422", "name_invalid"),
        ("'   '", "PT422", "name_invalid"),
        (&format!("'{long}'"), "PT422", "name_invalid"),
        ("'New', ''", "PT422", "slug_invalid"),
        ("'New', 'a'", "PT422", "slug_invalid"),
        ("'New', '-ab'", "PT422", "slug_invalid"),
        ("'New', 'a--b'", "PT422", "slug_invalid"),
        ("'New', 'a b'", "PT422", "slug_invalid"),
        (&format!("'New', '{long}'"), "PT422", "slug_invalid"),
        ("'New', 'Atelier-Nord'", "PT409", "slug_taken"),
    ] {
        still.refused(&dora, &format!("public.create_organization_with_context({arguments})"), state, code).await;
    }
    still.unchanged().await;
    for number in 0..20 {
        told(&db, &dora, &format!("public.create_organization_with_context('Org {number}')")).await;
    }
    let one_more = "public.create_organization_with_context('One more')";
    let still = db.still().await;
    still.refused(&dora, one_more, "PT422", "too_many_organizations").await;
    still.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_callers_with_one_id_make_one_organisation() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let id = session(7);
    let call = format!("select * from public.create_organization_with_context('Once', null, '{id}')");
    let dora = Actor::in_session(&DORA, session(1));
    let answers = join_all((0..20).map(|_| db.ask(&dora, &call))).await;
    let once = answers[0].clone().unwrap();
    assert_eq!(once[0]["org_slug"], "once");
    assert!(answers.iter().all(|answer| answer.as_ref() == Ok(&once)), "{answers:?}");
    assert_eq!(db.count("select count(*) from organizations where name = 'Once'").await, 1);
    let members = format!("select count(*) from org_members where org_id = '{}'", once[0]["org_id"].as_str().unwrap());
    assert_eq!(db.count(&members).await, 1);
    // Two people: each has one, and learns nothing of the other's.
    let call = format!("select org_id from public.create_organization_with_context('Both', null, '{}')", session(8));
    let people = [&DORA, &SVEN].map(Actor::person);
    let answers = join_all((0..20).map(|n| db.ask(&people[n % 2], &call))).await;
    let orgs: BTreeSet<String> = answers.into_iter().map(|answer| answer.unwrap().to_string()).collect();
    assert_eq!(orgs.len(), 2);
    let owners = "select count(*) from org_members m join organizations o on o.id = m.org_id where o.name = 'Both'";
    assert_eq!(db.count(owners).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_callers_with_one_slug_one_gets_it() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let people = [&OLGA, &ADAM, &DORA, &SVEN].map(Actor::person);
    let call = "select * from public.create_organization_with_context('New', 'the-one')";
    let answers = join_all((0..20).map(|n| db.ask(&people[n % 4], call))).await;
    assert_eq!(refusals(&answers, "slug_taken"), 19);
    assert_eq!(db.count("select count(*) from organizations where name = 'New'").await, 1);
    assert_eq!(db.count("select count(*) from org_members where created_at > now() - interval '1 minute' and org_id not in (select id from organizations where slug <> 'the-one')").await, 1);
}

// Clients ------------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_made_by_staff_and_managers_and_is_where_the_session_works() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let call = |id: u128| {
            format!(
                "public.create_client_with_context('{NORD}', ' New ', 'new@client.example', '+46', 'Street', '{}')",
                session(id)
            )
        };
        for (person, id, assigned) in
            [(&ADAM, 10, json!([])), (&MAX, 11, json!([{ "user_id": MAX.id, "role": "lead" }]))]
        {
            let actor = Actor::in_session(person, session(id)).with("org_id", json!(NORD));
            let made = told(&db, &actor, &call(id)).await;
            assert_eq!(told(&db, &actor, &call(id)).await, made);
            let made = made.as_str().unwrap();
            let client = format!("select name, email, phone, address, status from public.clients where id = '{made}'");
            assert_eq!(
                db.ask(&actor, &client).await.unwrap(),
                json!([{ "name": "New", "email": "new@client.example", "phone": "+46", "address": "Street", "status": "active" }])
            );
            let consultants = format!("select user_id, role from client_consultants where client_id = '{made}'");
            assert_eq!(db.ask(&Actor::role("postgres"), &consultants).await.unwrap(), assigned);
            let context = db.ask(&actor, "select org_id, client_id from public.active_contexts").await.unwrap();
            assert_eq!(context, json!([{ "org_id": NORD, "client_id": made }]));
        }
        // The same id again, for another client.
        let still = db.still().await;
        let other = format!("public.create_client_with_context('{NORD}', 'Other', id => '{}')", session(10));
        still.refused(&Actor::person(&ADAM), &other, "PT409", "id_taken").await;
        still.unchanged().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_may_not_be_made_is_refused_by_name() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let long = "x".repeat(501);
    let still = db.still().await;
    for (person, arguments, state, code) in [
        (&OLGA, format!("'{BRICK}', 'New'"), "PT404", "organization_not_found"),
        (&OLGA, format!("'{NOBODY}', 'New'"), "PT404", "organization_not_found"),
        (&OLGA, "null, 'New'".to_owned(), "PT404", "organization_not_found"),
        (&OSCAR, format!("'{NORD}', 'New'"), "PT404", "organization_not_found"),
        (&DORA, format!("'{NORD}', 'New'"), "PT403", "clients_create_forbidden"),
        (&SVEN, format!("'{NORD}', 'New'"), "PT403", "clients_create_forbidden"),
        (&CLEO, format!("'{NORD}', 'New'"), "PT403", "clients_create_forbidden"),
        (&UMA, format!("'{NORD}', 'New'"), "PT403", "clients_create_forbidden"),
        (&OLGA, format!("'{NORD}', null"), "PT422", "name_invalid"),
        (&OLGA, format!("'{NORD}', ' '"), "PT422", "name_invalid"),
        (&OLGA, format!("'{NORD}', '{long}'"), "PT422", "name_invalid"),
        (&OLGA, format!("'{NORD}', 'New', '{long}'"), "PT422", "contact_invalid"),
        (&OLGA, format!("'{NORD}', 'New', null, '{long}'"), "PT422", "contact_invalid"),
        (&OLGA, format!("'{NORD}', 'New', null, null, '{long}'"), "PT422", "contact_invalid"),
    ] {
        let call = format!("public.create_client_with_context({arguments})");
        still
            .refused(&Actor::in_session(person, session(1)).with("org_id", json!(person.org)), &call, state, code)
            .await;
    }
    // One who belongs to nothing here, whatever the token says.
    let call = format!("public.create_client_with_context('{NORD}', 'New')");
    let oscar = Actor::person(&OSCAR).with("org_id", json!(NORD));
    still.refused(&oscar, &call, "PT404", "organization_not_found").await;
    still.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_callers_put_a_consultant_on_a_client_once() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let assigned = || async {
        let query = format!("select user_id, role from client_consultants where client_id = '{LIVING}' order by 1");
        db.ask(&Actor::role("postgres"), &query).await.unwrap()
    };
    let call = format!("select public.add_client_consultant_safe('{LIVING}', '{}')", MAX.id);
    let actors = [&OLGA, &ADAM, &MAX].map(Actor::person);
    let answers = join_all((0..20).map(|n| db.ask(&actors[n % 3], &call))).await;
    assert_eq!(refusals(&answers, ""), 0);
    let cleo = json!({ "user_id": CLEO.id, "role": "consultant" });
    assert_eq!(assigned().await, json!([cleo, { "user_id": MAX.id, "role": "consultant" }]));
    told(&db, &actors[0], &format!("public.add_client_consultant_safe('{LIVING}', '{}', 'lead')", MAX.id)).await;
    assert_eq!(assigned().await, json!([cleo, { "user_id": MAX.id, "role": "lead" }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_be_put_on_a_client_is_refused_by_name() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let archived = session(20);
    db.run(&format!(
        "insert into clients (id, org_id, name, status) values ('{archived}', '{NORD}', 'Old', 'archived')"
    ))
    .await;
    db.run(&format!("insert into clients (id, org_id, name) values ('{}', '{NORD}', 'Other')", session(21))).await;
    let still = db.still().await;
    for (person, arguments, state, code) in [
        (&OLGA, format!("'{LIVING}', '{}'", DORA.id), "PT422", "consultant_not_in_organization"),
        (&OLGA, format!("'{LIVING}', '{}'", UMA.id), "PT422", "consultant_not_in_organization"),
        (&OLGA, format!("'{LIVING}', '{}'", OSCAR.id), "PT422", "consultant_not_in_organization"),
        (&OLGA, format!("'{LIVING}', '{NOBODY}'"), "PT422", "consultant_not_in_organization"),
        (&OLGA, format!("'{LIVING}', null"), "PT422", "consultant_not_in_organization"),
        // A consultant there is nobody here.
        (&OSCAR, format!("'{HOTELS}', '{}'", MAX.id), "PT422", "consultant_not_in_organization"),
        (&OLGA, format!("'{HOTELS}', '{}'", CLEO.id), "PT404", "client_not_found"),
        (&OLGA, format!("'{NOBODY}', '{}'", CLEO.id), "PT404", "client_not_found"),
        (&OLGA, format!("null, '{}'", CLEO.id), "PT404", "client_not_found"),
        (&OSCAR, format!("'{LIVING}', '{}'", CLEO.id), "PT404", "client_not_found"),
        (&CLEO, format!("'{}', '{}'", session(21), CLEO.id), "PT404", "client_not_found"),
        (&SVEN, format!("'{LIVING}', '{}'", CLEO.id), "PT404", "client_not_found"),
        (&CLEO, format!("'{LIVING}', '{}', 'lead'", CLEO.id), "PT403", "clients_update_forbidden"),
        (&DORA, format!("'{LIVING}', '{}'", CLEO.id), "PT403", "clients_update_forbidden"),
        (&UMA, format!("'{LIVING}', '{}'", CLEO.id), "PT403", "clients_update_forbidden"),
        (&OLGA, format!("'{archived}', '{}'", CLEO.id), "PT409", "client_archived"),
        (&OLGA, format!("'{LIVING}', '{}', 'owner'", CLEO.id), "PT422", "role_unknown"),
        (&OLGA, format!("'{LIVING}', '{}', ''", CLEO.id), "PT422", "role_unknown"),
        (&OLGA, format!("'{LIVING}', '{}', null", CLEO.id), "PT422", "role_unknown"),
    ] {
        let call = format!("public.add_client_consultant_safe({arguments})");
        still.refused(&Actor::person(person), &call, state, code).await;
    }
    still.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consultant_who_is_removed_meanwhile_is_on_no_client_afterwards() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let remove = format!("delete from public.org_consultants where user_id = '{}'", MAX.id);
    let add = format!("select public.add_client_consultant_safe('{LIVING}', '{}')", MAX.id);
    let left = format!("select count(*) from client_consultants where user_id = '{}'", MAX.id);

    // Put on first: the removal waits, then takes that along.
    let mut adding = db.begin_as(&Actor::person(&OLGA)).await;
    asked(&mut adding, &add).await.unwrap();
    let mut removing = db.begin_as(&Actor::person(&ADAM)).await;
    let remover = pid(&mut removing).await;
    let statement = remove.clone();
    let removed = tokio::spawn(async move {
        let done = removing.execute(sqlx::AssertSqlSafe(statement)).await.unwrap().rows_affected();
        removing.execute("commit").await.unwrap();
        done
    });
    db.until_blocked(remover).await;
    adding.execute("commit").await.unwrap();
    assert_eq!(removed.await.unwrap(), 1);
    assert_eq!(db.count(&left).await, 0);

    // Removed first: who adds them waits, and is told.
    db.run(&format!("insert into org_consultants (org_id, user_id) values ('{NORD}', '{}')", MAX.id)).await;
    let mut removing = db.begin_as(&Actor::person(&ADAM)).await;
    removing.execute(sqlx::AssertSqlSafe(remove)).await.unwrap();
    let mut adding = db.begin_as(&Actor::person(&OLGA)).await;
    let adder = pid(&mut adding).await;
    let added = tokio::spawn(async move { asked(&mut adding, &add).await });
    db.until_blocked(adder).await;
    removing.execute("commit").await.unwrap();
    assert_eq!(added.await.unwrap().unwrap_err().code, "consultant_not_in_organization");
    assert_eq!(db.count(&left).await, 0);
}

// Where a session works -----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn two_sessions_of_one_person_work_in_two_organisations_and_do_not_disturb_each_other() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let (one, two) = (Actor::in_session(&CLEO, session(1)), Actor::in_session(&CLEO, session(2)));
        assert!(where_they_work(&db, &one).await.is_empty());
        told(&db, &one, &format!("public.set_active_context('{NORD}')")).await;
        told(&db, &two, &format!("public.set_active_context('{BRICK}')")).await;
        for _ in 0..2 {
            assert_eq!(where_they_work(&db, &one).await, [NORD]);
            assert_eq!(where_they_work(&db, &two).await, [BRICK]);
        }
        told(&db, &one, &format!("public.set_active_context('{BRICK}')")).await;
        told(&db, &two, &format!("public.set_active_context('{NORD}')")).await;
        assert_eq!(where_they_work(&db, &one).await, [BRICK]);
        assert_eq!(where_they_work(&db, &two).await, [NORD]);
        // The session of somebody else is nobody's to work in.
        let dora = Actor::in_session(&DORA, session(1));
        assert!(where_they_work(&db, &dora).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_goes_before_the_token_and_the_token_before_the_session() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let cleo = Actor::in_session(&CLEO, session(1));
    let check = async |actor: Actor, wanted: &[Uuid]| {
        assert_eq!(where_they_work(&db, &actor).await, wanted, "{} {}", actor.claims, actor.headers);
    };
    told(&db, &cleo, &format!("public.set_active_context('{BRICK}')")).await;
    let token = cleo.clone().with("org_id", json!(NORD));
    check(cleo.clone(), &[BRICK]).await;
    check(token.clone(), &[NORD]).await;
    check(token.clone().with_org_header(&BRICK.to_string()), &[BRICK]).await;
    check(cleo.clone().with_org_header(&NORD.to_string()), &[NORD]).await;
    // What one does not belong to, or what is nothing, does not fall back to something else.
    check(token.clone().with_org_header(&NOBODY.to_string()), &[]).await;
    check(token.clone().with_org_header("atelier-nord"), &[]).await;
    check(token.with_org_header(""), &[]).await;
    check(cleo.with("org_id", json!(NOBODY)), &[]).await;
    check(Actor::person(&DORA).with_org_header(&BRICK.to_string()), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_is_chosen_among_ones_own_organisations_and_clients() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let other = session(30);
    db.run(&format!("insert into clients (id, org_id, name) values ('{other}', '{NORD}', 'Other')")).await;
    let still = db.still().await;
    for (person, arguments, code) in [
        (&DORA, format!("'{BRICK}'"), "organization_not_found"),
        (&DORA, format!("'{NOBODY}'"), "organization_not_found"),
        (&DORA, "null".to_owned(), "organization_not_found"),
        (&DORA, format!("'{NORD}', '{HOTELS}'"), "client_not_found"),
        (&DORA, format!("'{NORD}', '{NOBODY}'"), "client_not_found"),
        (&CLEO, format!("'{NORD}', '{other}'"), "client_not_found"),
        (&CLEO, format!("'{BRICK}', '{LIVING}'"), "client_not_found"),
        (&UMA, format!("'{NORD}', '{other}'"), "client_not_found"),
    ] {
        let call = format!("public.set_active_context({arguments})");
        still.refused(&Actor::in_session(person, session(1)), &call, "PT404", code).await;
    }
    let call = format!("public.set_active_context('{NORD}')");
    still.refused(&Actor::person(&DORA), &call, "PT422", "session_required").await;
    still.unchanged().await;
    for (number, person, client) in [(1, &DORA, other), (2, &CLEO, LIVING), (3, &MAX, other), (4, &UMA, LIVING)] {
        let call = format!("public.set_active_context('{NORD}', '{client}')");
        told(&db, &Actor::in_session(person, session(number)), &call).await;
        let token = hook(&db, person.id, session(number)).await;
        assert_eq!((&token["claims"]["org_id"], &token["claims"]["spine_client_id"]), (&json!(NORD), &json!(client)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_names_the_sessions_organisation_or_the_only_one_there_is() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let org = async |user: Uuid, number: u128| hook(&db, user, session(number)).await["claims"]["org_id"].clone();
        assert_eq!(org(DORA.id, 1).await, json!(NORD));
        assert_eq!(org(UMA.id, 2).await, json!(NORD));
        assert_eq!(org(CLEO.id, 3).await, json!(null));
        told(&db, &Actor::in_session(&CLEO, session(3)), &format!("public.set_active_context('{BRICK}')")).await;
        assert_eq!(org(CLEO.id, 3).await, json!(BRICK));
        assert_eq!(org(CLEO.id, 4).await, json!(null));
        // A choice does not outlive belonging there: the one organisation left is named.
        db.run(&format!("delete from org_consultants where org_id = '{BRICK}'")).await;
        assert_eq!(org(CLEO.id, 3).await, json!(NORD));
        assert_eq!(org(NOBODY, 5).await, json!(null));
        // Each session is listed, so that it can be found and ended; that of nobody is not.
        let listed = db.ask(&Actor::person(&CLEO), "select id from public.user_sessions order by 1").await.unwrap();
        assert_eq!(listed, json!([{ "id": session(3) }, { "id": session(4) }]));
        assert_eq!(db.count("select count(*) from user_sessions").await, 4);
        // Claims that the auth server put there stay.
        let event = json!({ "user_id": DORA.id, "claims": { "sub": DORA.id, "aal": "aal2" } });
        let token =
            told(&db, &Actor::role("supabase_auth_admin"), &format!("app.custom_access_token_hook('{event}')")).await;
        assert_eq!(token, json!({ "claims": { "sub": DORA.id, "aal": "aal2", "org_id": NORD } }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_session_sees_nothing_and_its_token_is_not_renewed() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let dora = |number| Actor::in_session(&DORA, session(number)).with("org_id", json!(NORD));
        for number in 1..=3 {
            hook(&db, DORA.id, session(number)).await;
        }
        // From another session, twice; and the one the token is of, though nobody listed it.
        for _ in 0..2 {
            told(&db, &dora(2), &format!("public.revoke_session('{}')", session(1))).await;
        }
        let unlisted = format!("select public.revoke_session('{}')", session(4));
        let answers = join_all((0..5).map(|_| async {
            let mut conn = db.begin_as(&dora(4)).await;
            let answer = asked(&mut conn, &unlisted).await;
            conn.execute("commit").await.unwrap();
            answer
        }))
        .await;
        assert!(answers.iter().any(Result::is_ok));
        refusals(&answers, "session_revoked");
        db.run(&format!("update user_sessions set expires_at = now() where id = '{}'", session(3))).await;
        for number in [1, 3, 4] {
            assert!(where_they_work(&db, &dora(number)).await.is_empty());
            for table in ["projects", "org_members", "clients"] {
                let rows = db.ask(&dora(number), &format!("select from public.{table}")).await.unwrap();
                assert_eq!(rows, json!([]), "{table}");
            }
            let token = hook(&db, DORA.id, session(number)).await;
            assert_eq!((token["error"]["http_code"].clone(), token["claims"].clone()), (json!(403), json!(null)));
        }
        // The other one goes on; and no session is renewed for somebody whose it is not.
        assert_eq!(where_they_work(&db, &dora(2)).await, [NORD]);
        assert_eq!(hook(&db, SVEN.id, session(2)).await["error"]["http_code"], json!(403));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_ends_a_session_that_is_not_theirs() {
    let db = TestDatabase::new(Server::Postgres18).await;
    hook(&db, SVEN.id, session(1)).await;
    let dora = Actor::in_session(&DORA, session(2));
    let still = db.still().await;
    for wanted in [format!("'{}'", session(1)), format!("'{NOBODY}'"), "null".to_owned()] {
        still.refused(&dora, &format!("public.revoke_session({wanted})"), "PT404", "session_not_found").await;
    }
    still.refused(&Actor::person(&DORA), "public.revoke_session(null)", "PT404", "session_not_found").await;
    still.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_belongs_to_nothing_any_more_sees_nothing_though_their_token_says_otherwise() {
    let db = TestDatabase::new(Server::Postgres18).await;
    for (person, remove) in [
        (&DORA, "delete from org_members where user_id = "),
        (&CLEO, "delete from org_consultants where user_id = "),
        (&UMA, "delete from client_users where user_id = "),
    ] {
        let actor = Actor::person(person);
        assert_eq!(where_they_work(&db, &actor).await, [NORD]);
        db.run(&format!("{remove} '{}'", person.id)).await;
        assert!(where_they_work(&db, &actor).await.is_empty());
        let tables = "select table_name as it from information_schema.tables where table_schema = 'public' and table_type = 'BASE TABLE'";
        let tables = db.ask(&Actor::role("postgres"), tables).await.unwrap();
        for table in tables.as_array().unwrap().iter().map(|row| row["it"].as_str().unwrap()) {
            // Built-in roles, and what is everybody's own.
            let mine = match table {
                "roles" | "permissions" => "where org_id is not null",
                "profiles" => "where id <> app.uid()",
                "data_ownership" => continue,
                _ => "",
            };
            let mut conn = db.begin_as(&Actor { role: "spine_caller", ..actor.clone() }).await;
            match asked(&mut conn, &format!("select from public.{table} {mine}")).await {
                Ok(rows) => assert_eq!(rows, json!([]), "{} still sees {table}", person.email),
                Err(refusal) => assert_eq!(refusal.state, "42501", "{table}: {refusal:?}"),
            }
        }
    }
}

// Invitations --------------------------------------------------------------------------------------------------------------

/// Invites somebody. The token that would be sent.
async fn invite(db: &TestDatabase, actor: &Actor, arguments: &str) -> String {
    let made = told(db, actor, &format!("public.create_invitation({arguments})")).await;
    made["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn people_join_by_accepting_what_was_sent_to_their_address() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let dan = Actor::in_session(&DAN, session(1)).with("email", json!("Dan@Brick-and-Beam.example"));
        for (inviter, arguments, joined) in [
            (
                &OLGA,
                format!("'member', ' DAN@brick-and-beam.example ', '{DESIGNER_ROLE}'"),
                "org_members where role_id = '00000000-0000-7000-8000-000000000003' and",
            ),
            (&ADAM, format!("'consultant', '{}'", DAN.email), "org_consultants where role = 'consultant' and"),
            (
                &MAX,
                format!("'client_user', '{}', client_id => '{LIVING}', role => 'admin'", DAN.email),
                "client_users where role = 'admin' and",
            ),
        ] {
            let before = db.count("select count(*) from invitations where accepted_at is not null").await;
            let token = invite(&db, &Actor::person(inviter), &arguments).await;
            assert!(token.len() >= 43);
            let kept = format!("select count(*) from invitations i where i::text like '%{token}%'");
            assert_eq!(db.count(&kept).await, 0, "the token itself is kept nowhere");
            let call = format!("select public.accept_invitation('{token}') as it");
            let answers = join_all((0..20).map(|_| db.ask(&dan, &call))).await;
            assert!(answers.iter().all(|answer| *answer == Ok(json!([{ "it": NORD }]))), "{answers:?}");
            let rows = format!("select count(*) from {joined} org_id = '{NORD}' and user_id = '{}'", DAN.id);
            assert_eq!(db.count(&rows).await, 1, "{arguments}");
            let accepted = "select count(*) from invitations where accepted_at is not null";
            assert_eq!(db.count(accepted).await, before + 1);
            assert_eq!(where_they_work(&db, &dan).await, [NORD]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_that_may_not_be_sent_is_refused_by_name() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let theirs = session(40);
    db.run(&format!("insert into roles (id, org_id, name) values ('{theirs}', '{BRICK}', 'theirs')")).await;
    let archived = session(41);
    db.run(&format!(
        "insert into clients (id, org_id, name, status) values ('{archived}', '{NORD}', 'Old', 'archived')"
    ))
    .await;
    // Somebody who may invite, and is no owner.
    db.run(&format!(
        "with made as (insert into roles (org_id, name) values ('{NORD}', 'host') returning id),
              allowed as (insert into permissions (org_id, role_id, resource, action) select '{NORD}', id, 'members', 'update' from made)
         update org_members set role_id = (select id from made) where user_id = '{}'",
        SVEN.id
    ))
    .await;
    let long = "x".repeat(320);
    let still = db.still().await;
    for (person, arguments, state, code) in [
        (&DORA, format!("'member', 'a@b.example', '{DESIGNER_ROLE}'"), "PT403", "invite_forbidden"),
        (&DORA, "'consultant', 'a@b.example'".to_owned(), "PT403", "invite_forbidden"),
        (&CLEO, format!("'client_user', 'a@b.example', client_id => '{LIVING}'"), "PT403", "invite_forbidden"),
        (&MAX, "'consultant', 'a@b.example', role => 'manager'".to_owned(), "PT403", "invite_forbidden"),
        (&UMA, format!("'client_user', 'a@b.example', client_id => '{LIVING}'"), "PT403", "invite_forbidden"),
        (&OLGA, "null, 'a@b.example'".to_owned(), "PT422", "kind_unknown"),
        (&OLGA, "'', 'a@b.example'".to_owned(), "PT422", "kind_unknown"),
        (&OLGA, "'owner', 'a@b.example'".to_owned(), "PT422", "kind_unknown"),
        (&OLGA, "'consultant', null".to_owned(), "PT422", "email_invalid"),
        (&OLGA, "'consultant', ''".to_owned(), "PT422", "email_invalid"),
        (&OLGA, "'consultant', 'a'".to_owned(), "PT422", "email_invalid"),
        (&OLGA, "'consultant', 'a b@c'".to_owned(), "PT422", "email_invalid"),
        (&OLGA, "'consultant', 'a@b@c'".to_owned(), "PT422", "email_invalid"),
        (&OLGA, format!("'consultant', 'a@{long}'"), "PT422", "email_invalid"),
        (&OLGA, "'consultant', 'a@b.example', role => 'owner'".to_owned(), "PT422", "role_unknown"),
        (&OLGA, "'consultant', 'a@b.example', role => ''".to_owned(), "PT422", "role_unknown"),
        (&OLGA, "'member', 'a@b.example'".to_owned(), "PT422", "role_unknown"),
        (&OLGA, format!("'member', 'a@b.example', '{NOBODY}'"), "PT422", "role_unknown"),
        (&OLGA, format!("'member', 'a@b.example', '{theirs}'"), "PT422", "role_unknown"),
        (&SVEN, format!("'member', 'a@b.example', '{OWNER_ROLE}'"), "PT422", "role_unknown"),
        (
            &OLGA,
            format!("'client_user', 'a@b.example', client_id => '{LIVING}', role => 'lead'"),
            "PT422",
            "role_unknown",
        ),
        (&OLGA, "'client_user', 'a@b.example'".to_owned(), "PT404", "client_not_found"),
        (&OLGA, format!("'client_user', 'a@b.example', client_id => '{HOTELS}'"), "PT404", "client_not_found"),
        (&OLGA, format!("'client_user', 'a@b.example', client_id => '{archived}'"), "PT404", "client_not_found"),
    ] {
        still.refused(&Actor::person(person), &format!("public.create_invitation({arguments})"), state, code).await;
    }
    let elsewhere = Actor::person(&OLGA).with("org_id", json!(BRICK));
    let call = "public.create_invitation('consultant', 'a@b.example')";
    still.refused(&elsewhere, call, "PT404", "organization_not_found").await;
    still.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_lets_in_its_addressee_once_and_in_time() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let olga = Actor::person(&OLGA);
    let dan = Actor::in_session(&DAN, session(1));
    let accept = |token: &str| format!("public.accept_invitation('{token}')");
    let token = invite(&db, &olga, &format!("'consultant', '{}'", DAN.email)).await;
    // Another's, one that never was, one of nobody: the same answer.
    let no_email = dan.clone().with("email", json!(null));
    let still = db.still().await;
    for (actor, call) in [
        (&Actor::in_session(&OSCAR, session(2)), accept(&token)),
        (&no_email, accept(&token)),
        (&dan, accept(&token.to_lowercase())),
        (&dan, accept("")),
        (&dan, "public.accept_invitation(null)".to_owned()),
    ] {
        still.refused(actor, &call, "PT404", "invitation_not_found").await;
    }
    still.unchanged().await;
    let ended = async |token: &str, state: &str, code: &str| {
        let still = db.still().await;
        still.refused(&dan, &accept(token), state, code).await;
        still.unchanged().await;
    };
    db.run("update invitations set expires_at = now()").await;
    ended(&token, "PT409", "invitation_ended").await;
    // Used by an account that had the address before.
    db.run(&format!(
        "update invitations set expires_at = now() + interval '1 day', accepted_at = now(), accepted_by = '{}'",
        SVEN.id
    ))
    .await;
    ended(&token, "PT409", "invitation_ended").await;
    // Used, and removed since.
    let token = invite(&db, &olga, &format!("'consultant', '{}'", DAN.email)).await;
    told(&db, &dan, &accept(&token)).await;
    assert_eq!(
        db.change(&olga, &format!("delete from public.org_consultants where user_id = '{}'", DAN.id)).await,
        Ok(1)
    );
    ended(&token, "PT409", "invitation_ended").await;
    // Taken back.
    let token = invite(&db, &olga, &format!("'consultant', '{}'", DAN.email)).await;
    assert_eq!(db.change(&olga, "delete from public.invitations where accepted_at is null").await, Ok(1));
    ended(&token, "PT404", "invitation_not_found").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accepting_makes_nobody_less_than_they_are() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let token = invite(&db, &Actor::person(&OLGA), &format!("'member', '{}', '{DESIGNER_ROLE}'", OLGA.email)).await;
    let still = db.still().await;
    let olga = Actor::in_session(&OLGA, session(1));
    still.refused(&olga, &format!("public.accept_invitation('{token}')"), "PT409", "already_member").await;
    still.unchanged().await;
}

// Agents -------------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn an_issued_token_signs_its_agent_in_with_its_scopes_and_until_it_ends() {
    let app = TestApp::start().await;
    let adam = Actor::person(&ADAM);
    let issue = async |arguments: &str| {
        let made = told(&app.db, &adam, &format!("public.issue_agent_token({arguments})")).await;
        (made["token_id"].as_str().unwrap().to_owned(), made["token"].as_str().unwrap().to_owned())
    };
    let (id, token) = issue(&format!("'{}'", RENATA.id)).await;
    app.request_render(&token, LAKESIDE).await.expect(202);
    let (_, reads) = issue(&format!("'{}', array['projects:read'], now() + interval '1 hour'", RENATA.id)).await;
    app.post("/v1/uploads", &reads, &json!({ "content_type": "image/png", "bytes": 10 }))
        .await
        .expect_error(403, "permission_missing");
    let kept = format!("select count(*) from agent_tokens t where t::text like '%{token}%'");
    assert_eq!(app.db.count(&kept).await, 0, "the token itself is kept nowhere");
    app.db
        .change(&adam, &format!("update public.agent_tokens set revoked_at = now() where id = '{id}'"))
        .await
        .unwrap();
    app.post("/v1/uploads", &token, &json!({ "content_type": "image/png", "bytes": 10 }))
        .await
        .expect_error(401, "agent_token_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_not_be_issued_is_refused_by_name() {
    let db = TestDatabase::new(Server::Postgres18).await;
    // Somebody who may run agents, and may not do what they do.
    db.run(&format!(
        "with made as (insert into roles (org_id, name) values ('{NORD}', 'keeper') returning id),
              allowed as (insert into permissions (org_id, role_id, resource, action) select '{NORD}', id, 'agents', '*' from made)
         update org_members set role_id = (select id from made) where user_id = '{}'",
        SVEN.id
    ))
    .await;
    let still = db.still().await;
    for (person, arguments, state, code) in [
        (&OLGA, format!("'{}'", RUFUS.id), "PT404", "agent_not_found"),
        (&OLGA, format!("'{NOBODY}'"), "PT404", "agent_not_found"),
        (&OLGA, "null".to_owned(), "PT404", "agent_not_found"),
        (&DORA, format!("'{}'", RENATA.id), "PT404", "agent_not_found"),
        (&UMA, format!("'{}'", RENATA.id), "PT404", "agent_not_found"),
        (&OSCAR, format!("'{}'", RENATA.id), "PT404", "agent_not_found"),
        (&SVEN, format!("'{}'", RENATA.id), "PT403", "agents_update_forbidden"),
        (&OLGA, format!("'{}', array['everything']", RENATA.id), "PT422", "scope_invalid"),
        (&OLGA, format!("'{}', array['*:*']", RENATA.id), "PT422", "scope_invalid"),
        (&OLGA, format!("'{}', array[null]::text[]", RENATA.id), "PT422", "scope_invalid"),
        (&OLGA, format!("'{}', array['']", RENATA.id), "PT422", "scope_invalid"),
        (&OLGA, format!("'{}', array_fill('a:b'::text, array[101])", RENATA.id), "PT422", "scope_invalid"),
        (&OLGA, format!("'{}', null, now()", RENATA.id), "PT422", "expires_at_past"),
        (&OLGA, format!("'{}', null, '-infinity'", RENATA.id), "PT422", "expires_at_past"),
    ] {
        still.refused(&Actor::person(person), &format!("public.issue_agent_token({arguments})"), state, code).await;
    }
    still.unchanged().await;
}

// What functions record ----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn an_action_is_logged_as_done_by_whoever_runs_the_transaction() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let dora = Actor::person(&DORA).in_function();
        let renata = db.agent(&RENATA).await;
        let call =
            |user: Uuid| format!("public.log_audit_action('projects', '{LAKESIDE}', 'project.exported', '{user}')");
        for (actor, user) in [(&dora, DORA.id), (&renata, RENATA.id), (&Actor::service(NORD), UMA.id)] {
            told(&db, actor, &call(user)).await;
        }
        let rows = db
            .ask(
                &Actor::role("postgres"),
                "select actor, user_id, agent_id, org_id, resource_type, record_id, metadata from audit_logs
                  where action = 'project.exported' order by actor desc",
            )
            .await
            .unwrap();
        let entry = |actor, user: Option<Uuid>, agent: Option<Uuid>, metadata: Value| {
            json!({ "actor": actor, "user_id": user, "agent_id": agent, "org_id": NORD, "resource_type": "projects",
                    "record_id": LAKESIDE, "metadata": metadata })
        };
        assert_eq!(
            rows,
            json!([
                entry("user", Some(DORA.id), None, json!({})),
                entry("system", None, None, json!({ "on_behalf_of": UMA.id })),
                entry("agent", None, Some(RENATA.id), json!({})),
            ])
        );
        let long = "x".repeat(201);
        let nowhere = Actor::person(&DORA).in_function().with("org_id", json!(BRICK));
        let still = db.still().await;
        for (actor, arguments, state, code) in [
            (&dora, format!("'t', 'r', 'a', '{}'", OLGA.id), "PT403", "user_id_not_own"),
            (&dora, "'t', 'r', 'a', null".to_owned(), "PT403", "user_id_not_own"),
            (&renata, format!("'t', 'r', 'a', '{}'", DORA.id), "PT403", "user_id_not_own"),
            (&dora, format!("'t', 'r', '{long}', '{}'", DORA.id), "PT422", "action_invalid"),
            (&dora, format!("'t', 'r', '', '{}'", DORA.id), "PT422", "action_invalid"),
            (&dora, format!("'t', 'r', null, '{}'", DORA.id), "PT422", "action_invalid"),
            (&dora, format!("null, 'r', 'a', '{}'", DORA.id), "PT422", "action_invalid"),
            (&dora, format!("'t', '{long}', 'a', '{}'", DORA.id), "PT422", "action_invalid"),
            (&nowhere, format!("'t', 'r', 'a', '{}'", DORA.id), "PT403", "organization_missing"),
            (&Actor::role("spine_agent"), "'t', 'r', 'a', null".to_owned(), "PT403", "organization_missing"),
            (&Actor::role("spine_service"), "'t', 'r', 'a', null".to_owned(), "PT403", "organization_missing"),
        ] {
            still.refused(actor, &format!("public.log_audit_action({arguments})"), state, code).await;
        }
        still.unchanged().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_callers_at_a_limit_of_thirty_count_exactly_thirty_renders() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        db.run(&format!(
            "insert into agent_limits (org_id, agent, scope, period, max_requests) values ('{NORD}', 'renderer', 'user', 'month', 30)"
        ))
        .await;
        let dora = Actor::person(&DORA).in_function();
        let call = format!("select public.increment_render_counter('{}') as it", DORA.id);
        let answers = join_all((0..50).map(|_| db.ask(&dora, &call))).await;
        assert_eq!(refusals(&answers, "render_limit_reached"), 20);
        let mut counts: Vec<_> = answers.iter().flatten().map(|rows| rows[0]["it"].as_i64().unwrap()).collect();
        counts.sort_unstable();
        assert_eq!(counts, (1..=30).collect::<Vec<_>>());
        assert_eq!(db.count("select renders::bigint from render_counters").await, 30);
        // Each person and agent has a limit of their own, and a person's own limit goes before that of everybody.
        let sven = Actor::person(&SVEN).in_function();
        let his = format!("public.increment_render_counter('{}')", SVEN.id);
        assert_eq!(told(&db, &sven, &his).await, json!(1));
        let renata = db.agent(&RENATA).await;
        assert_eq!(told(&db, &renata, &format!("public.increment_render_counter('{}')", RENATA.id)).await, json!(1));
        db.run(&format!(
            "insert into agent_limits (org_id, agent, scope, scope_id, period, max_requests) values
                 ('{NORD}', 'renderer', 'user', '{}', 'month', 31), ('{NORD}', 'renderer', 'user', '{}', 'month', 0)",
            DORA.id, UMA.id
        ))
        .await;
        assert_eq!(told(&db, &dora, &format!("public.increment_render_counter('{}')", DORA.id)).await, json!(31));
        let uma = Actor::person(&UMA).in_function();
        let still = db.still().await;
        for (actor, user, state, code) in [
            (&dora, json!(DORA.id), "PT429", "render_limit_reached"),
            (&uma, json!(UMA.id), "PT429", "render_limit_reached"),
            (&dora, json!(SVEN.id), "PT403", "user_id_not_own"),
            (&renata, json!(DORA.id), "PT403", "user_id_not_own"),
            (&dora, json!(null), "PT403", "user_id_not_own"),
            (&Actor::service(NORD), json!(DAN.id), "PT404", "user_not_found"),
            (&Actor::service(NORD), json!(RUFUS.id), "PT404", "user_not_found"),
            (&Actor::service(NORD), json!(null), "PT404", "user_not_found"),
            (&Actor::service(NORD), json!(DORA.id), "PT429", "render_limit_reached"),
        ] {
            let user = user.as_str().map_or("null".to_owned(), |user| format!("'{user}'"));
            still.refused(actor, &format!("public.increment_render_counter({user})"), state, code).await;
        }
        still.unchanged().await;
        // The system counts in others' names.
        let count = format!("public.increment_render_counter('{}')", SVEN.id);
        assert_eq!(told(&db, &Actor::service(NORD), &count).await, json!(2));
    }
}
