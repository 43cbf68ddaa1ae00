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
async fn no_table_shows_a_row_of_another_organisation_to_anyone() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let tenant_tables = names(
            &mut db.admin().await,
            "select c.relname::text from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'org_id'
              where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'",
        )
        .await;
        assert!(tenant_tables.len() > 20);
        for (org, project, user, agent, client) in [
            (
                NORD,
                "01900000-0000-7000-8000-0000000000a1",
                DORA.id,
                "01900000-0000-7000-8000-000000000a01",
                "01900000-0000-7000-8000-000000000c01",
            ),
            (
                BRICK,
                "01900000-0000-7000-8000-0000000000b1",
                DAN.id,
                "01900000-0000-7000-8000-000000000a02",
                "01900000-0000-7000-8000-000000000c02",
            ),
        ] {
            db.run(&format!(
                "do $$ declare job uuid := gen_random_uuid(); req uuid := gen_random_uuid(); res uuid := gen_random_uuid(); role uuid := gen_random_uuid();
                 begin
                     perform set_config('app.service_org', '{org}', true);
                     insert into roles (id, org_id, name) values (role, '{org}', 'own');
                     insert into permissions (org_id, role_id, resource, action) values ('{org}', role, 'x', 'y');
                     insert into active_contexts (session_id, user_id, org_id) values (gen_random_uuid(), '{user}', '{org}');
                     insert into client_consultants (org_id, client_id, user_id) values ('{org}', '{client}', '{cleo}') on conflict do nothing;
                     insert into agent_tokens (org_id, agent_id, token_hash) values ('{org}', '{agent}', sha256(job::text::bytea));
                     insert into project_images (org_id, project_id, file_path) values ('{org}', '{project}', '{org}/x');
                     insert into project_tags (org_id, project_id, tag) values ('{org}', '{project}', 'x');
                     insert into jobs (id, org_id, job_type, created_by) values (job, '{org}', 'render', '{user}');
                     insert into render_requests (id, org_id, user_id, project_id, job_id, input_file_path, model)
                         values (req, '{org}', '{user}', '{project}', job, 'b/{org}/x', 'm');
                     insert into render_parameters (org_id, request_id) values ('{org}', req);
                     insert into render_results (org_id, request_id, variant, output_file_path, mime, width, height, bytes, cost_tokens, cost_micro_usd, model_used, served_by)
                         values ('{org}', req, 1, 'x', 'x', 1, 1, 1, 1, 1, 'm', 'model');
                     insert into render_counters values ('{org}', '{user}', now(), 1);
                     insert into assets (org_id, kind, bucket, path, mime, bytes, sha256) values ('{org}', 'k', 'b', '{org}/x', 'm', 1, sha256('x'));
                     insert into agent_usage (org_id, agent, scope, scope_id, period, period_start) values ('{org}', 'renderer', 'agent', '{org}', 'day', now());
                     insert into usage_reservations (id, org_id, job_id, agent, requests, tokens, cost_micro_usd, windows, expires_at)
                         values (res, '{org}', job, 'renderer', 1, 1, 1, '[]', now());
                     insert into provider_calls (org_id, job_id, reservation_id, attempt, purpose, provider, model) values ('{org}', job, res, 1, 'p', 'p', 'm');
                     insert into ai_cache (org_id, visibility, audience_id, key, response, fresh_until, stale_until)
                         values ('{org}', 'organisation', '{org}', 'k', '{{}}', now(), now());
                     insert into prompt_templates (org_id, purpose, body) values ('{org}', 'p', 'b');
                     insert into billing_events (org_id, kind, quantity, cost_micro_usd, source_table, source_id) values ('{org}', 'k', 1, 1, 't', req);
                     insert into outbox (org_id, kind, destination, payload) values ('{org}', 'document', 'd', '{{}}');
                     insert into idempotency_keys (org_id, actor_id, key, operation, request_hash, resource_id) values ('{org}', '{user}', 'k', 'o', 'h', req);
                     insert into error_logs (org_id, service, error_message) values ('{org}', 's', 'e');
                     insert into subject_keys (org_id, subject_id, wrapped_key) values ('{org}', '{user}', 'w');
                     insert into audit_log (org_id, actor, action, resource_type) values ('{org}', 'system', 'a', 't');
                 end $$",
                cleo = CLEO.id
            ))
            .await;
        }
        for table in &tenant_tables {
            let both = db.count(&format!("select count(distinct org_id) from {table}")).await;
            assert_eq!(both, 2, "{table} has nothing that could be seen by the wrong people");
        }
        let oscar_in_nord = json!({ "sub": OSCAR.id, "org_id": NORD, "role": "authenticated" });
        let anonymous = json!({ "sub": DORA.id, "org_id": NORD, "role": "authenticated", "is_anonymous": true });
        let people: Vec<Person> = vec![OLGA, ADAM, DORA, SVEN, CLEO, UMA, OSCAR];
        for table in &tenant_tables {
            for person in &people {
                let mut conn = db.data_api(&person.claims()).await;
                let foreign = format!("select count(*) from public.{table} where org_id <> '{}'", person.org);
                let rows = visible(&mut conn, &foreign).await;
                assert_eq!(rows, 0, "{} sees rows of others in {table}", person.email);
            }
            if table == "active_contexts" {
                // Whose rows belong to a person and not to an organisation: each sees their own choice, wherever it leads.
                continue;
            }
            for claims in [&oscar_in_nord, &anonymous, &json!({}), &json!({ "role": "anon" })] {
                let mut conn = db.data_api(claims).await;
                let any = format!("select count(*) from public.{table} where org_id is not null");
                let rows = visible(&mut conn, &any).await;
                assert_eq!(rows, 0, "{claims} sees rows in {table}");
            }
        }
        // The check can fail: one's own rows are there.
        let mut dora = db.data_api(&DORA.claims()).await;
        assert_eq!(names(&mut dora, "select title from public.projects").await.len(), 2);
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
