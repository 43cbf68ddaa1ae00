//! Nobody gives themselves what they do not have, whatever way they try.

use integration_tests::{
    Server, TestApp, TestDatabase,
    people::{ADAM, BRICK, CLEO, DAN, DORA, LAKESIDE, LOFT, NORD, OLGA, RENATA, SVEN, UMA},
};
use sandbox::Canned;
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor, PgConnection};

const OWNER_ROLE: &str = "00000000-0000-7000-8000-000000000001";

async fn changes(conn: &mut PgConnection, statement: &str) -> u64 {
    conn.execute("savepoint attempt").await.unwrap();
    let done = conn.execute(AssertSqlSafe(statement.to_owned())).await;
    conn.execute("rollback to savepoint attempt").await.unwrap();
    done.map(|done| done.rows_affected()).unwrap_or(0)
}

/// Gives somebody a role of the organisation's own that allows just this.
async fn give(db: &TestDatabase, person: uuid::Uuid, resource: &str, action: &str) {
    db.run(&format!(
        "with made as (insert into roles (org_id, name) values ('{NORD}', 'special') returning id),
              allowed as (insert into permissions (org_id, role_id, resource, action) select '{NORD}', id, '{resource}', '{action}' from made)
         update org_members set role_id = (select id from made) where org_id = '{NORD}' and user_id = '{person}'"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_a_role_that_allows_more_than_their_own() {
    let db = TestDatabase::new(Server::Postgres18).await;
    give(&db, SVEN.id, "members", "update").await;
    let mut sven = db.data_api(&SVEN.claims()).await;
    let rise = format!("update public.org_members set role_id = '{OWNER_ROLE}' where user_id = '{}'", SVEN.id);
    assert_eq!(changes(&mut sven, &rise).await, 0);
    // An owner may, so the check is not a wall.
    let mut olga = db.data_api(&OLGA.claims()).await;
    assert_eq!(changes(&mut olga, &rise).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_widens_a_role_beyond_their_own() {
    let db = TestDatabase::new(Server::Postgres18).await;
    give(&db, SVEN.id, "roles", "update").await;
    let mut sven = db.data_api(&SVEN.claims()).await;
    let widen = |resource: &str, action: &str| {
        format!(
            "insert into public.permissions (org_id, role_id, resource, action) select '{NORD}', id, '{resource}', '{action}' from public.roles where name = 'special'"
        )
    };
    assert_eq!(changes(&mut sven, &widen("*", "*")).await, 0);
    assert_eq!(changes(&mut sven, &widen("audit", "read")).await, 0);
    let mut olga = db.data_api(&OLGA.claims()).await;
    assert_eq!(changes(&mut olga, &widen("audit", "read")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_of_another_organisation_mean_nothing_here() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(&format!(
        "insert into roles (id, org_id, name) values ('01900000-0000-7000-8000-00000000beef', '{BRICK}', 'theirs')"
    ))
    .await;
    let mut adam = db.data_api(&ADAM.claims()).await;
    let theirs = "01900000-0000-7000-8000-00000000beef";
    assert_eq!(
        changes(
            &mut adam,
            &format!("update public.org_members set role_id = '{theirs}' where user_id = '{}'", DORA.id)
        )
        .await,
        0
    );
    let agent = format!(
        "insert into public.agents (org_id, name, kind, role_id) values ('{NORD}', 'x', 'renderer', '{theirs}')"
    );
    assert_eq!(changes(&mut adam, &agent).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_keeps_an_owner_and_its_members_join_by_consent() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let mut olga = db.data_api(&OLGA.claims()).await;
    assert_eq!(changes(&mut olga, &format!("delete from public.org_members where user_id = '{}'", OLGA.id)).await, 0);
    assert_eq!(changes(&mut olga, &format!("delete from public.org_members where user_id = '{}'", SVEN.id)).await, 1);
    let stranger = format!(
        "insert into public.org_members (org_id, user_id, role_id) values ('{NORD}', '{}', '{OWNER_ROLE}')",
        DAN.id
    );
    assert_eq!(changes(&mut olga, &stranger).await, 0);
    // Deleting the whole organisation is not what the rule is about.
    db.run(&format!("delete from organizations where id = '{NORD}'")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agent_token_stays_revoked() {
    let app = TestApp::start().await;
    app.agent_token(&RENATA).await;
    let mut adam = app.db.data_api(&ADAM.claims()).await;
    assert_eq!(changes(&mut adam, "update public.agent_tokens set revoked_at = now()").await, 1);
    app.db.run("update agent_tokens set revoked_at = now()").await;
    assert_eq!(changes(&mut adam, "update public.agent_tokens set revoked_at = null").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_approves_a_project_is_who_is_said_to_have() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let mut dora = db.data_api(&DORA.claims()).await;
    let approve =
        format!("update public.projects set approved_by = '{}' where id = '{LOFT}' returning approved_by", DAN.id);
    let by: uuid::Uuid = sqlx::query_scalar(AssertSqlSafe(approve)).fetch_one(&mut dora).await.unwrap();
    assert_eq!(by, DORA.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_layer_holds_for_anothers_job_without_the_handler() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    let render = app.request_render(&app.token(&DORA), LAKESIDE).await.expect(202);
    app.db.run("update jobs set status = 'failed', finished_at = now()").await;
    let (id, job) = (render["id"].as_str().unwrap(), render["job"]["id"].as_str().unwrap());
    for person in [UMA, CLEO] {
        let mut caller = app.db.acting("spine_caller", &person.claims()).await;
        let was: Option<String> = sqlx::query_scalar(AssertSqlSafe(format!("select app.requeue_render('{id}')")))
            .fetch_one(&mut caller)
            .await
            .unwrap();
        assert_eq!(was, None);
        let cancelled: Option<String> = sqlx::query_scalar(AssertSqlSafe(format!("select app.cancel_job('{job}')")))
            .fetch_one(&mut caller)
            .await
            .unwrap();
        assert_eq!(cancelled, None);
        let reserve = format!(
            "select reservation_id from app.reserve_usage('{job}', 'renderer', '{}', '{LAKESIDE}', 200, 1, 1)",
            DORA.id
        );
        assert_eq!(changes(&mut caller, &reserve).await, 0, "{} reserves in Dora's name", person.email);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_on_cost_alone_binds_and_failing_is_no_way_around_it() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    app.db.run("delete from agent_limits").await;
    app.db
        .run(&format!(
            "insert into agent_limits (org_id, agent, scope, period, max_cost_micro_usd) values ('{NORD}', 'renderer', 'agent', 'month', 100000)"
        ))
        .await;
    // Each answer has no picture and costs all the same.
    let empty = json!({
        "candidates": [{ "finishReason": "IMAGE_OTHER" }],
        "usageMetadata": { "promptTokenCount": 258, "candidatesTokenCount": 1290, "candidatesTokensDetails": [{ "modality": "IMAGE", "tokenCount": 1290 }] },
    });
    let mut admitted = 0;
    for _ in 0..4 {
        // Made again once, in the same attempt.
        app.stack.sandbox.gemini.arrange(Canned::Answer(200, empty.clone()), sandbox::Calls::Next(2));
        let render = app.request_render(&token, LAKESIDE).await.expect(202);
        if render["waiting"].is_null() {
            admitted += 1;
            app.stack.renders.drained().await;
            app.send_cancel(&render, &token).await;
        }
    }
    let used = app.db.count("select used_cost_micro_usd from agent_usage where scope = 'agent'").await;
    assert_eq!(used, app.db.count("select sum(cost_micro_usd)::bigint from provider_calls").await);
    assert!((1..=2).contains(&admitted) && used <= 100_000, "{admitted} admitted, {used} spent");
    assert_eq!(app.db.count("select count(*) from billing_events").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_alone_exceeds_a_limit_is_refused_rather_than_kept_waiting() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    app.db.run("update agent_limits set max_requests = 1").await;
    let upload = app.upload(&token, &integration_tests::small_photo()).await;
    let mut body = integration_tests::render_body(LAKESIDE, upload);
    body["variants"] = json!(2);
    app.post("/v1/render-requests", &token, &body).await.expect_error(422, "limit_too_small");
    assert_eq!(app.db.count("select count(*) from jobs").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_project_was_deleted_ends_and_holds_nothing() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    app.request_render(&app.token(&DORA), LAKESIDE).await.expect(202);
    app.db.run(&format!("delete from projects where id = '{LAKESIDE}'")).await;
    app.stack.renders.resume();
    app.stack.renders.drained().await;
    assert_eq!(
        app.db
            .count("select count(*) from jobs where status = 'failed' and last_error ->> 'code' = 'render_deleted'")
            .await,
        1
    );
    assert_eq!(app.db.count("select sum(reserved_requests)::bigint from agent_usage").await, 0);
    assert!(app.stack.renders.dead_letters().is_empty());
}
