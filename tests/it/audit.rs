//! The audit log tells what happened, to those who may know, for good.

use base64::{Engine, engine::general_purpose::STANDARD};
use integration_tests::{
    Server, TestApp, TestDatabase,
    people::{DORA, LAKESIDE, NORD, OLGA, OSCAR},
};
use serde_json::{Value, json};
use shared::{
    seal::{Aad, SealingKey, SubjectKey},
    secrets::SecretValue,
};
use sqlx::Executor;

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_holds_input_decision_and_output_with_personal_values_sealed() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    let id = render["id"].as_str().unwrap();
    app.finished(&token, id).await;

    let mut admin = app.db.admin().await;
    let (entry, wrapped): (Value, String) = sqlx::query_as(
        "select to_jsonb(a), k.wrapped_key from audit_log a, subject_keys k where action = 'render.completed' and k.subject_id = $1",
    )
    .bind(DORA.id)
    .fetch_one(&mut admin)
    .await
    .unwrap();
    for part in ["input", "decision", "output"] {
        assert!(entry[part].as_object().is_some_and(|part| !part.is_empty()), "{part}: {entry}");
    }
    let whole: String = sqlx::query_scalar("select string_agg(to_jsonb(a)::text, ' ') from audit_log a")
        .fetch_one(&mut admin)
        .await
        .unwrap();
    assert!(!whole.contains("Greta") && !whole.contains("127.0.0.1") && !whole.contains(DORA.email), "{whole}");

    // Whoever holds the key reads it, in its place only.
    assert_eq!(STANDARD.decode(&app.stack.audit_key).unwrap().len(), 32);
    let master = SealingKey::from_secret(&SecretValue::from(app.stack.audit_key.clone())).unwrap();
    let key = SubjectKey::unwrap(&wrapped, &master, None, NORD, DORA.id).unwrap();
    let aad = Aad { org_id: NORD, table: "audit_log", column: "input", key_version: 1 };
    let sealed = entry["input"]["wishes"]["sealed"].as_str().unwrap();
    assert!(String::from_utf8(key.open(&aad, sealed).unwrap()).unwrap().contains("Greta"));
    assert!(key.open(&Aad { column: "decision", ..aad }, sealed).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_persons_requests_go_on_without_their_values() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    app.request_render(&token, LAKESIDE).await.expect(202);
    app.stack.renders.drained().await;
    app.db.run("update subject_keys set wrapped_key = null, destroyed_at = now()").await;
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    assert_eq!(app.finished(&token, render["id"].as_str().unwrap()).await["status"], "completed");
    assert_eq!(app.db.count("select count(*) from audit_log where input -> 'wishes' = 'null'").await, 1);
    assert_eq!(app.db.count("select count(*) from audit_log where digest <> app.audit_digest(audit_log)").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_changes_the_log_and_every_digest_can_be_computed_again() {
    let app = TestApp::start().await;
    app.request_render(&app.token(&DORA), LAKESIDE).await.expect(202);
    app.stack.renders.drained().await;
    for timezone in ["UTC", "Asia/Kathmandu"] {
        let mut admin = app.db.admin().await;
        admin.execute(sqlx::AssertSqlSafe(format!("set timezone = '{timezone}'"))).await.unwrap();
        let wrong: i64 =
            sqlx::query_scalar("select count(*) from audit_log where digest <> app.audit_digest(audit_log)")
                .fetch_one(&mut admin)
                .await
                .unwrap();
        assert_eq!(wrong, 0);
    }
    for setup in ["reset all", "set session_replication_role = replica", "set role spine_owner"] {
        for change in ["update audit_log set action = 'x'", "delete from audit_log", "truncate audit_log"] {
            let mut admin = app.db.admin().await;
            admin.execute(setup).await.unwrap();
            let error = admin.execute(change).await.unwrap_err();
            assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501", "{setup}; {change}: {error}");
        }
    }
    assert!(app.db.count("select count(*) from audit_log").await >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_read_by_its_organisations_admins_alone() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let mut admin = db.acting("spine_service", &json!({})).await;
    sqlx::query("select set_config('app.service_org', $1, true)")
        .bind(NORD.to_string())
        .execute(&mut admin)
        .await
        .unwrap();
    admin
        .execute("select app.append_audit('x', 'y', 'z', '{}', '{}', '{}', '{}', null, null, null, null)")
        .await
        .unwrap();
    admin.execute("commit").await.unwrap();
    for (person, seen) in [(OLGA, 1_i64), (DORA, 0), (OSCAR, 0)] {
        let mut conn = db.data_api(&person.claims()).await;
        let rows: i64 = sqlx::query_scalar("select count(*) from public.audit_log").fetch_one(&mut conn).await.unwrap();
        assert_eq!(rows, seen, "{}", person.email);
    }
}
