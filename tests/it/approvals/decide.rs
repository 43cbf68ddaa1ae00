//! Proposing and deciding: by whom, about what, until when.

use integration_tests::{
    Server, TestDatabase,
    acting::Actor,
    people::{ADAM, BRICK, CLEO, DORA, HOTELS, LIVING, MAX, NORD, OLGA, OSCAR, RENATA, UMA},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{ANNA, approve, books, call, digest, propose, proposed, status, stored, voucher};

const NOBODY: &str = "01900000-0000-7000-8000-00000000ffff";

#[tokio::test(flavor = "multi_thread")]
async fn consultants_propose_for_their_clients_agents_and_accountants_for_all_and_nobody_else() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    let spare = Uuid::now_v7();
    db.run(&format!("insert into clients (id, org_id, name) values ('{spare}', '{NORD}', 'Another')")).await;
    let agent = db.agent(&RENATA).await;
    for (actor, client, by) in [
        (Actor::person(&CLEO), LIVING, json!([CLEO.id, null])),
        (Actor::person(&MAX), spare, json!([MAX.id, null])),
        (Actor::person(&ANNA), spare, json!([ANNA.id, null])),
        (Actor::person(&OLGA).in_function(), spare, json!([OLGA.id, null])),
        (agent.clone(), spare, json!([null, RENATA.id])),
    ] {
        let id = call(&db, &actor, &propose(client, &voucher())).await;
        let row = db
            .ask(
                &Actor::role("postgres"),
                &format!(
                    "select a.org_id, a.client_id, a.status, jsonb_build_array(a.proposed_by, a.proposed_by_agent) as by,
                            w.payload, w.external_tenant_id, a.payload_digest = sha256(convert_to(w.payload::text, 'UTF8')) as same,
                            a.expires_at - a.created_at as lasts
                       from approvals a join accounting_writes w on w.id = a.subject_id where a.id = {id}",
                    id = id.to_string().replace('"', "'")
                ),
            )
            .await
            .unwrap();
        let expected = json!([{
            "org_id": NORD, "client_id": client, "status": "proposed", "by": by, "payload": stored(), "external_tenant_id": "100",
            "same": true, "lasts": "7 days",
        }]);
        assert_eq!(row, expected, "{}", actor.name);
    }
    let still = db.still().await;
    for (actor, client) in [
        (Actor::person(&CLEO), spare),
        (Actor::person(&CLEO), HOTELS),
        (Actor::person(&ANNA), HOTELS),
        (agent.clone(), HOTELS),
        (Actor::person(&ANNA), NOBODY.parse().unwrap()),
    ] {
        still.refused(&actor, &propose(client, &voucher()), "PT404", "client_not_found").await;
    }
    for actor in [Actor::person(&DORA), Actor::person(&UMA), Actor::person(&OSCAR).with_org_header(&NORD.to_string())] {
        still.refused(&actor, &propose(LIVING, &voucher()), "PT403", "proposal_not_allowed").await;
    }
    let cleo = Actor::person(&CLEO);
    let lasting =
        |lasts: &str| format!("public.propose_accounting_write('{LIVING}', 'voucher', '{}', '{lasts}')", voucher());
    still.refused(&cleo, &lasting("59 seconds"), "PT422", "expiry_invalid").await;
    still.refused(&cleo, &lasting("31 days 1 second"), "PT422", "expiry_invalid").await;
    still.refused(&cleo, &propose(LIVING, &json!([])), "PT422", "payload_invalid").await;
    let long = json!({ "description": "x".repeat(262_144) });
    still.refused(&cleo, &propose(LIVING, &long), "PT422", "payload_invalid").await;
    let invoice = format!("public.propose_accounting_write('{LIVING}', 'invoice', '{{}}')");
    still.refused(&cleo, &invoice, "PT422", "kind_unknown").await;
    still.unchanged().await;

    db.run(&format!("update org_integrations set status = 'disconnected' where org_id = '{NORD}'")).await;
    let still = db.still().await;
    still.refused(&cleo, &propose(LIVING, &voucher()), "PT409", "not_connected").await;
    still.unchanged().await;
    assert_eq!(db.count("select count(*) from approvals where expires_at - created_at <> '7 days'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_person_with_the_right_approves_what_was_shown_to_them() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    let id = proposed(&db).await;
    let anna = Actor::person(&ANNA);
    let shown = digest(&db, &anna, id).await;
    let still = db.still().await;
    // The proposer sees it, and has no right to decide; others see nothing of it.
    still.refused(&Actor::person(&CLEO), &approve(id, &shown), "PT403", "approval_not_allowed").await;
    still.refused(&Actor::person(&MAX), &approve(id, &shown), "PT403", "approval_not_allowed").await;
    for stranger in [Actor::person(&DORA), Actor::person(&UMA), Actor::person(&OSCAR)] {
        still.refused(&stranger, &approve(id, &shown), "PT404", "approval_not_found").await;
        still.refused(&stranger, &format!("public.refuse('{id}')"), "PT404", "approval_not_found").await;
    }
    still.refused(&anna, &approve(NOBODY.parse().unwrap(), &shown), "PT404", "approval_not_found").await;
    for other in [
        shown.replace(&shown[..1], if shown.starts_with('0') { "1" } else { "0" }),
        shown[..62].to_owned(),
        String::new(),
    ] {
        still.refused(&anna, &approve(id, &other), "PT409", "payload_changed").await;
    }
    still.unchanged().await;

    assert_eq!(call(&db, &anna, &approve(id, &shown)).await, "approved");
    // Twice is once; another comes too late to decide otherwise than by withdrawing it.
    let still = db.still().await;
    assert_eq!(call(&db, &anna, &approve(id, &shown)).await, "approved");
    still.refused(&Actor::person(&ADAM), &approve(id, &shown), "PT409", "approval_decided").await;
    still.unchanged().await;
    let row = format!(
        "select decided_by, policy_version, decided_at between created_at and now() as timely from approvals where id = '{id}'"
    );
    let row = db.ask(&Actor::role("postgres"), &row).await.unwrap();
    assert_eq!(row, json!([{ "decided_by": ANNA.id, "policy_version": 0, "timely": true }]));
    let entries = "select user_id, new_values ->> 'status' as status from audit_log where resource_type = 'approvals' order by id";
    let entries = db.ask(&Actor::role("postgres"), entries).await.unwrap();
    assert_eq!(
        entries,
        json!([{ "user_id": CLEO.id, "status": "proposed" }, { "user_id": ANNA.id, "status": "approved" }])
    );
    assert_eq!(call(&db, &Actor::person(&ADAM), &format!("public.refuse('{id}', 'wrong month')")).await, "refused");
    let still = db.still().await;
    still.refused(&anna, &approve(id, &shown), "PT409", "approval_decided").await;
    still.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_ends_a_proposal_at_its_very_moment_and_a_new_one_takes_its_place() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    let anna = Actor::person(&ANNA);
    let expires = async |id: Uuid, when: &str| {
        db.run(&format!(
            "set session_replication_role = replica; update approvals set expires_at = {when} where id = '{id}'; set session_replication_role = origin"
        ))
        .await;
    };
    // The clock runs on between two statements, so "at it" is the moment that has just passed.
    let id = proposed(&db).await;
    let shown = digest(&db, &anna, id).await;
    expires(id, "now()").await;
    let still = db.still().await;
    still.refused(&anna, &approve(id, &shown), "PT409", "approval_expired").await;
    still.unchanged().await;
    expires(id, "now() + interval '1 minute'").await;
    assert_eq!(call(&db, &anna, &approve(id, &shown)).await, "approved");

    // Approved or not, what is over ends as expired, and does not stand in the way of the same subject.
    let subject: Value =
        db.ask(&Actor::role("postgres"), &format!("select subject_id from approvals where id = '{id}'")).await.unwrap();
    let again = format!(
        "app.open_approval('{NORD}', 'voucher', 'accounting_writes', '{}', '{LIVING}', sha256('x'), null, null, '7 days')",
        subject[0]["subject_id"].as_str().unwrap()
    );
    let refusal = db.ask(&Actor::role("postgres"), &format!("select {again}")).await.unwrap_err();
    assert_eq!(refusal.code, "approval_open");
    expires(id, "now()").await;
    let next: Uuid = call(&db, &Actor::role("postgres"), &again).await.as_str().unwrap().parse().unwrap();
    assert_eq!((status(&db, id).await.as_str(), status(&db, next).await.as_str()), ("expired", "proposed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeps_part_expires_at_the_end_and_marks_overdue_after_an_hour_in_one_organisation() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    let anna = Actor::person(&ANNA);
    // Now is what the transaction that looks says it is, so that edges are met exactly.
    let mut ids = Vec::new();
    for _ in 0..6 {
        let id = proposed(&db).await;
        ids.push(id);
    }
    for id in &ids[3..] {
        let shown = digest(&db, &anna, *id).await;
        call(&db, &anna, &approve(*id, &shown)).await;
    }
    let mut conn = db.admin().await;
    let run = async |conn: &mut sqlx::PgConnection, statement: String| {
        sqlx::Executor::execute(&mut *conn, sqlx::AssertSqlSafe(statement)).await.unwrap();
    };
    run(&mut conn, "begin; set local session_replication_role = replica".to_owned()).await;
    for (id, column, when) in [
        (ids[0], "expires_at", "now() - interval '1 microsecond'"),
        (ids[1], "expires_at", "now()"),
        (ids[2], "expires_at", "now() + interval '1 microsecond'"),
        (ids[3], "decided_at", "now() - interval '1 hour 0.000001 seconds'"),
        (ids[4], "decided_at", "now() - interval '1 hour'"),
        (ids[5], "decided_at", "now() - interval '59 minutes 59.999999 seconds'"),
    ] {
        run(&mut conn, format!("update approvals set {column} = {when} where id = '{id}'")).await;
    }
    run(&mut conn, "set local session_replication_role = origin".to_owned()).await;
    let act = |org: Uuid| {
        format!("select set_config('app.service_org', '{org}', true), set_config('role', 'spine_service', true)")
    };
    run(&mut conn, act(BRICK)).await;
    let orgs: Vec<Uuid> = sqlx::query_scalar("select app.ageing_approvals()").fetch_all(&mut conn).await.unwrap();
    assert_eq!(orgs, [NORD]);
    let aged: (i32, i32) = sqlx::query_as("select * from app.age_approvals()").fetch_one(&mut conn).await.unwrap();
    assert_eq!(aged, (0, 0));
    run(&mut conn, act(NORD)).await;
    let aged: (i32, i32) = sqlx::query_as("select * from app.age_approvals()").fetch_one(&mut conn).await.unwrap();
    assert_eq!(aged, (2, 2));
    run(&mut conn, "commit".to_owned()).await;
    let mut statuses = Vec::new();
    for id in &ids {
        statuses.push(status(&db, *id).await);
    }
    assert_eq!(statuses, ["expired", "expired", "proposed", "overdue", "overdue", "approved"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ones_own_proposal_takes_an_owners_leave_and_two_steps_ten_minutes_apart() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    let (olga, adam) = (Actor::person(&OLGA), Actor::person(&ADAM));
    let id: Uuid = call(&db, &olga, &propose(LIVING, &voucher())).await.as_str().unwrap().parse().unwrap();
    let shown = digest(&db, &olga, id).await;
    let still = db.still().await;
    still.refused(&olga, &approve(id, &shown), "PT403", "own_proposal").await;
    still.refused(&adam, "public.allow_own_approvals(true)", "PT403", "owner_only").await;
    still
        .refused(
            &Actor::person(&OSCAR).with_org_header(&NORD.to_string()),
            "public.allow_own_approvals(true)",
            "PT403",
            "owner_only",
        )
        .await;
    still.unchanged().await;

    assert_eq!(call(&db, &olga, "public.allow_own_approvals(true)").await, true);
    let entry = "select user_id, new_values ->> 'own_proposals' as own from audit_log where resource_type = 'approval_settings'";
    assert_eq!(db.ask(&Actor::role("postgres"), entry).await.unwrap(), json!([{ "user_id": OLGA.id, "own": "true" }]));
    assert_eq!(call(&db, &olga, &approve(id, &shown)).await, "proposed");
    let first = async |ago: &str| {
        db.run(&format!("update approvals set first_step_at = now() - interval '{ago}' where id = '{id}'")).await;
    };
    // A clock that runs: just before ten minutes is a second before, since this takes less.
    first("9 minutes 59 seconds").await;
    let still = db.still().await;
    let early = db.ask(&olga, &format!("select {}", approve(id, &shown))).await;
    if let Err(refusal) = early {
        assert_eq!((refusal.state.as_str(), refusal.code.as_str()), ("PT409", "second_step_too_early"));
        still.unchanged().await;
    }
    first("10 minutes").await;
    assert_eq!(call(&db, &olga, &approve(id, &shown)).await, "approved");
    let row = format!("select decided_by, policy_version from approvals where id = '{id}'");
    assert_eq!(
        db.ask(&Actor::role("postgres"), &row).await.unwrap(),
        json!([{ "decided_by": OLGA.id, "policy_version": 1 }])
    );

    // Another person's decision needs no second step, and an owner who forbids it again takes the ground from what was approved so.
    assert_eq!(call(&db, &olga, "public.allow_own_approvals(false)").await, false);
    let begun =
        db.ask(&Actor::service(NORD), &format!("select refused from app.begin_execution('{id}')")).await.unwrap();
    assert_eq!(begun, json!([{ "refused": "policy_changed" }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_are_decided_one_by_one() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    let anna = Actor::person(&ANNA);
    let (first, second, third) = (proposed(&db).await, proposed(&db).await, proposed(&db).await);
    let own: Uuid = call(&db, &anna, &propose(LIVING, &voucher())).await.as_str().unwrap().parse().unwrap();
    let shown = digest(&db, &anna, first).await;
    let decisions = json!([
        { "id": first, "decision": "approve", "digest": shown },
        { "id": own, "decision": "approve", "digest": shown },
        { "id": second, "decision": "refuse", "reason": "twice" },
        { "id": third, "decision": "approve", "digest": "0".repeat(64) },
        { "id": NOBODY, "decision": "approve", "digest": shown },
        { "id": third, "decision": "wait" },
    ]);
    let answer = db.ask(&anna, &format!("select * from public.decide_approvals('{decisions}')")).await.unwrap();
    let is = |id: &dyn std::fmt::Display, status: Value, code: Value| json!({ "id": id.to_string(), "status": status, "code": code });
    assert_eq!(
        answer,
        json!([
            is(&first, json!("approved"), Value::Null),
            is(&own, Value::Null, json!("own_proposal")),
            is(&second, json!("refused"), Value::Null),
            is(&third, Value::Null, json!("payload_changed")),
            is(&NOBODY, Value::Null, json!("approval_not_found")),
            is(&third, Value::Null, json!("decision_unknown")),
        ])
    );
    let entries = "select count(distinct record_id) from audit_log where action = 'approvals.update'";
    assert_eq!(db.count(entries).await, 2);
    let still = db.still().await;
    let many = json!(vec![json!({ "id": first, "decision": "refuse" }); 201]);
    for wrong in [json!([]), json!({}), many] {
        still
            .refused(
                &anna,
                &format!("(select count(*) from public.decide_approvals('{wrong}'))"),
                "PT422",
                "decisions_invalid",
            )
            .await;
    }
    still.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_lets_a_voucher_be_sent_once_and_again_only_after_a_search() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    let id = proposed(&db).await;
    let anna = Actor::person(&ANNA);
    let digest = digest(&db, &anna, id).await;
    call(&db, &anna, &approve(id, &digest)).await;
    let system = Actor::service(NORD);
    let begin = async |searched: bool| {
        let begun =
            format!("(select coalesce(b.refused, b.token) from app.begin_accounting_write('{id}', 1, {searched}) b)");
        call(&db, &system, &begun).await.as_str().unwrap().to_owned()
    };
    let end = async |outcome: &str| {
        let number = if outcome == "executed" { "1" } else { "null" };
        call(&db, &system, &format!("app.end_accounting_write('{id}', '{outcome}', {number}, null, null)")).await
    };
    assert!(begin(false).await.starts_with("sp-"));
    assert_eq!(begin(false).await, "not_approved", "it was sent");
    // It is certain that it was not.
    assert_eq!(end("unsent").await, json!(true));
    assert!(begin(false).await.starts_with("sp-"));
    // A second time that is not certain: the first may appear yet.
    assert_eq!(end("unsent").await, json!(true));
    assert_eq!(begin(false).await, "not_approved");
    assert_eq!(end("unknown").await, json!(true));
    assert_eq!(begin(false).await, "not_approved");
    assert_eq!(begin(true).await, "not_approved", "another has searched and sent it a moment ago");
    db.run(
        "set session_replication_role = replica; update accounting_executions set sent_at = now() - interval '1 minute'",
    )
    .await;
    assert!(begin(true).await.starts_with("sp-"));
    assert_eq!(end("executed").await, json!(true));
    for searched in [false, true] {
        assert_eq!(begin(searched).await, "not_approved", "it is done");
    }
    assert_eq!(end("failed").await, json!(false));
    assert_eq!(status(&db, id).await, "executed");
}
