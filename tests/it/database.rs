//! What holds if every handler is wrong: roles, policies, grants. On the oldest and the newest Postgres.

use integration_tests::{
    TestDatabase,
    people::{ADAM, BRICK, CLEO, DAN, DORA, NORD, OLGA, OSCAR, Person, SVEN, UMA},
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor, PgConnection};

use crate::SERVERS;

async fn names(conn: &mut PgConnection, query: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(conn).await.unwrap()
}

/// Tries a statement inside the acting transaction, and takes it back. How many rows it touched, unless it was refused.
async fn attempt(conn: &mut PgConnection, statement: &str) -> Option<u64> {
    conn.execute("savepoint attempt").await.unwrap();
    let done = conn.execute(AssertSqlSafe(statement.to_owned())).await;
    conn.execute("rollback to savepoint attempt").await.unwrap();
    done.ok().map(|done| done.rows_affected())
}

/// How many rows a counting query sees. A table that gives its asker no path refuses: as good as none. Any other error is one.
async fn visible(conn: &mut PgConnection, query: &str) -> i64 {
    match sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(conn).await {
        Ok(rows) => rows,
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("permission denied for table"), "{query}: {text}");
            0
        }
    }
}

/// Whether the statement does something; a refusal or no row at all is nothing.
async fn does_something(conn: &mut PgConnection, statement: &str) -> bool {
    attempt(conn, statement).await.is_some_and(|rows| rows > 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_role_has_no_right_but_to_become_caller_agent_or_service() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let mut login = db.login().await;
        let plain: bool = sqlx::query_scalar(
            "select not (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication or rolinherit)
               from pg_roles where rolname = current_user",
        )
        .fetch_one(&mut login)
        .await
        .unwrap();
        assert!(plain);
        let roles = names(&mut login, "select rolname from pg_roles where rolname !~ '^pg_' order by 1").await;
        let mut possible = Vec::new();
        for role in roles {
            if login.execute(AssertSqlSafe(format!("set role \"{role}\""))).await.is_ok() {
                possible.push(role);
            }
            login.execute("reset role").await.unwrap();
        }
        assert_eq!(possible, ["spine_agent", "spine_caller", "spine_functions", "spine_service"]);
        for table in names(&mut db.admin().await, "select tablename from pg_tables where schemaname = 'public'").await {
            assert!(
                login.execute(AssertSqlSafe(format!("select from public.\"{table}\" limit 1"))).await.is_err(),
                "{table}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_own_token_forges_nothing_through_the_data_api() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        // Something of each kind to tamper with.
        db.run(&format!(
            "insert into jobs (id, org_id, job_type, created_by) values ('01900000-0000-7000-8000-00000000f001', '{NORD}', 'render', '{dora}');
             insert into usage_reservations (org_id, job_id, agent, requests, tokens, cost_micro_usd, windows, expires_at)
             values ('{NORD}', '01900000-0000-7000-8000-00000000f001', 'renderer', 1, 1, 1, '[]', now());
             insert into agent_usage (org_id, agent, scope, scope_id, period, period_start) values ('{NORD}', 'renderer', 'agent', '{NORD}', 'month', now());
             insert into billing_events (org_id, kind, quantity, cost_micro_usd, source_table, source_id) values ('{NORD}', 'render', 1, 1, 't', '{NORD}');
             insert into error_logs (org_id, service, error_message) values ('{NORD}', 's', 'e')",
            dora = DORA.id
        ))
        .await;
        let system = [
            "audit_log",
            "jobs",
            "agent_usage",
            "usage_reservations",
            "provider_calls",
            "billing_events",
            "outbox",
            "idempotency_keys",
            "render_results",
            "render_counters",
            "ai_cache",
            "assets",
            "error_logs",
            "subject_keys",
            "system_settings",
            "model_prices",
            "user_sessions",
            "data_ownership",
            "render_requests",
            "render_parameters",
        ];
        for person in [OLGA, ADAM, DORA, SVEN, CLEO, UMA] {
            let mut conn = db.data_api(&person.claims()).await;
            for table in system {
                for statement in [
                    format!("insert into public.{table} select * from public.{table}"),
                    format!("insert into public.{table} default values"),
                    format!("delete from public.{table}"),
                    format!("truncate public.{table}"),
                ] {
                    assert!(!does_something(&mut conn, &statement).await, "{}: {statement}", person.email);
                }
                let columns = names(
                    &mut db.admin().await,
                    &format!("select attname::text from pg_attribute where attrelid = 'public.{table}'::regclass and attnum > 0 and not attisdropped"),
                )
                .await;
                for column in columns {
                    let statement = format!("update public.{table} set \"{column}\" = \"{column}\"");
                    assert!(!does_something(&mut conn, &statement).await, "{}: {statement}", person.email);
                }
            }
            // Still oneself: a statement that ended the transaction would have ended the test's meaning too.
            assert_eq!(names(&mut conn, "select current_user::text").await, ["authenticated"]);
            let plan = "update public.organizations set plan = 'enterprise'";
            assert!(!does_something(&mut conn, plan).await, "{}: {plan}", person.email);
            for call in [
                "select app.append_audit('x', 'y', 'z', '{}', '{}', '{}', '{}', null, null, null, null)",
                "select app.cancel_job('01900000-0000-7000-8000-00000000f001')",
                "select * from app.due_jobs(10)",
                "select app.setting('renders.enabled')",
            ] {
                assert_eq!(attempt(&mut conn, call).await, None, "{}: {call}", person.email);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_is_confined_to_the_organisation_in_its_context() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let mut service = db.acting("spine_service", &json!({})).await;
        assert!(names(&mut service, "select title from public.projects").await.is_empty());
        sqlx::query("select set_config('app.service_org', $1, true)")
            .bind(NORD.to_string())
            .execute(&mut service)
            .await
            .unwrap();
        let titles = names(&mut service, "select title from public.projects order by 1").await;
        assert_eq!(titles, ["Lakeside apartment", "Workshop loft"]);
    }
}
