//! Nothing but the functions moves an approval, whichever role tries.

use integration_tests::{
    Server, TestDatabase,
    acting::{Actor, attempt},
    people::{ADAM, BRICK, CLEO, LIVING, NORD, OLGA, RENATA, RUFUS, UMA},
};

use super::{ANNA, approve, books, call, digest, proposed, status};

#[tokio::test(flavor = "multi_thread")]
async fn no_role_moves_an_approval_or_what_it_is_about_by_itself() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    let id = proposed(&db).await;
    let anna = Actor::person(&ANNA);
    let shown = digest(&db, &anna, id).await;
    let people = [&OLGA, &ADAM, &ANNA, &CLEO, &UMA].map(Actor::person);
    let in_functions = people.clone().map(Actor::in_function);
    let others = [
        Actor::role("anon"),
        Actor::service(NORD),
        Actor::service(BRICK),
        db.agent(&RENATA).await,
        db.agent(&RUFUS).await,
    ];
    let moves = [
        format!("update public.approvals set status = 'approved', decided_at = now(), decided_by = '{}'", ADAM.id),
        "update public.approvals set status = 'executing', began_at = now(), decided_at = now()".to_owned(),
        "update public.approvals set expires_at = now() + interval '1 year'".to_owned(),
        "update public.approvals set payload_digest = sha256('x')".to_owned(),
        "update public.approvals set policy_version = 9".to_owned(),
        "delete from public.approvals".to_owned(),
        format!(
            "insert into public.approvals (org_id, kind, subject_table, subject_id, client_id, payload_digest, status, decided_by, decided_at, policy_version, expires_at)
             select org_id, kind, subject_table, subject_id, client_id, payload_digest, 'approved', '{}', now(), 0, expires_at from public.approvals",
            ADAM.id
        ),
        "update public.accounting_writes set payload = '{}'".to_owned(),
        format!("update public.accounting_writes set client_id = '{LIVING}'"),
        "update public.accounting_writes set external_tenant_id = '101'".to_owned(),
        "delete from public.accounting_writes".to_owned(),
        format!(
            "insert into public.accounting_writes (org_id, client_id, kind, payload, payload_hash, external_tenant_id)
             values ('{NORD}', '{LIVING}', 'voucher', '{{}}', sha256('x'), '100')"
        ),
        format!("insert into public.approval_settings (org_id, own_proposals) values ('{NORD}', true)"),
        "update public.approval_settings set own_proposals = true".to_owned(),
        "delete from public.approval_settings".to_owned(),
        format!("select app.open_approval('{NORD}', 'voucher', 'accounting_writes', '{id}', '{LIVING}', sha256('x'), null, null, '1 day')"),
    ];
    let executes = [
        format!("select app.begin_execution('{id}')"),
        format!("select app.end_execution('{id}', 'executed', 'A1')"),
        "select app.age_approvals()".to_owned(),
    ];
    let decides = [approve(id, &shown), format!("public.refuse('{id}')"), "public.decide_approvals('[{}]')".to_owned()];
    for actor in people.iter().chain(&in_functions).chain(&others) {
        let mut conn = db.begin_as(actor).await;
        for statement in &moves {
            let outcome = attempt(&mut conn, statement).await.map_err(|refusal| refusal.state);
            assert_eq!(outcome, Err("42501".to_owned()), "{} ({}): {statement}", actor.name, actor.role);
        }
        for statement in executes.iter().filter(|_| actor.role != "spine_service") {
            let outcome = attempt(&mut conn, statement).await.map_err(|refusal| refusal.state);
            assert_eq!(outcome, Err("42501".to_owned()), "{} ({}): {statement}", actor.name, actor.role);
        }
        let decides = decides.iter().filter(|_| !["authenticated", "spine_caller"].contains(&actor.role));
        for statement in decides.map(|call| format!("select {call}")) {
            let outcome = attempt(&mut conn, &statement).await.map_err(|refusal| refusal.state);
            assert_eq!(outcome, Err("42501".to_owned()), "{} ({}): {statement}", actor.name, actor.role);
        }
    }
    assert_eq!(status(&db, id).await, "proposed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_transaction_of_another_organisation_ends_nothing() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    let id = proposed(&db).await;
    let anna = Actor::person(&ANNA);
    let shown = digest(&db, &anna, id).await;
    call(&db, &anna, &approve(id, &shown)).await;
    let (own, other) = (Actor::service(NORD), Actor::service(BRICK));
    let begin = format!("select refused as it from app.begin_execution('{id}')");
    assert_eq!(db.ask(&other, &begin).await.unwrap()[0]["it"], "not_found");
    assert!(db.ask(&own, &begin).await.unwrap()[0]["it"].is_null());
    assert_eq!(call(&db, &other, &format!("app.end_execution('{id}', 'executed', 'A1')")).await, false);
    assert_eq!(status(&db, id).await, "executing");
    // What is unknown may turn out either way; what has ended stays so.
    for (to, moved, is) in [
        ("proposed", false, "executing"),
        ("unknown", true, "unknown"),
        ("executed", true, "executed"),
        ("failed", false, "executed"),
    ] {
        assert_eq!(call(&db, &own, &format!("app.end_execution('{id}', '{to}', 'A1')")).await, moved, "{to}");
        assert_eq!(status(&db, id).await, is);
    }
}

/// Even by a function that is wrong, an approval goes forward only.
#[tokio::test(flavor = "multi_thread")]
async fn an_approval_goes_forward_only_and_stays_what_it_was_proposed_as() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    let steps = ["proposed", "approved", "refused", "expired", "overdue", "executing", "unknown", "executed", "failed"];
    let forward = [
        "proposed approved",
        "proposed refused",
        "proposed expired",
        "approved refused",
        "approved expired",
        "approved overdue",
        "approved executing",
        "overdue refused",
        "overdue expired",
        "overdue executing",
        "executing executed",
        "executing failed",
        "executing unknown",
        "unknown executing",
        "unknown executed",
        "unknown failed",
    ];
    let id = proposed(&db).await;
    let mut conn = db.begin_as(&Actor::role("spine_definer")).await;
    for from in steps {
        for to in steps.into_iter().filter(|to| *to != from) {
            let arranged = format!(
                "update approvals set status = '{from}', decided_at = now(), began_at = now() where id = '{id}'"
            );
            db.run(&format!(
                "set session_replication_role = replica; {arranged}; set session_replication_role = origin"
            ))
            .await;
            let outcome =
                attempt(&mut conn, &format!("update public.approvals set status = '{to}' where id = '{id}'")).await;
            let allowed = forward.contains(&format!("{from} {to}").as_str());
            assert_eq!(
                outcome.map_err(|refusal| refusal.state),
                if allowed { Ok(1) } else { Err("23000".to_owned()) },
                "{from} {to}"
            );
        }
    }
    for column in [
        "payload_digest = sha256('y')",
        "expires_at = now()",
        "client_id = null",
        "subject_id = app.uuidv7()",
        "kind = 'erasure'",
    ] {
        let outcome = attempt(&mut conn, &format!("update public.approvals set {column} where id = '{id}'")).await;
        assert_eq!(outcome.map_err(|refusal| refusal.state), Err("23000".to_owned()), "{column}");
    }
}
