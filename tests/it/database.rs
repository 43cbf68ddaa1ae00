//! What holds if every handler is wrong: roles, policies, grants. On the oldest and the newest Postgres.

use integration_tests::{
    TestDatabase,
    people::{ADAM, CLEO, DORA, NORD, OLGA, SVEN, UMA},
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
            "model_roles",
            "models",
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
async fn what_belongs_to_agents_people_or_the_system_is_written_by_no_other() {
    // An agent asks for renders as a person does, and replays them by key.
    let made_by_agents = ["idempotency_keys", "render_parameters", "render_requests"];
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let mut admin = db.admin().await;
        // Every column with its owner: its own line, else that of its table.
        let owned = "with owned as (
                         select c.oid, c.relname, a.attname, coalesce(of_column.owner, of_table.owner) as owner
                           from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                           left join data_ownership of_table on of_table.table_name = c.relname and of_table.column_name is null
                           left join data_ownership of_column on of_column.table_name = c.relname and of_column.column_name = a.attname
                          where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and c.relname <> '_sqlx_migrations')";
        let unowned = format!("{owned} select relname || '.' || attname from owned where owner is null");
        assert_eq!(names(&mut admin, &unowned).await, Vec::<String>::new());
        let written = format!(
            "{owned} select w.role || ' ' || v.verb || ' ' || o.relname || '.' || o.attname || ' of ' || o.owner
               from owned o, (values ('anon', 'nobody'), ('authenticated', 'human'), ('spine_agent', 'agent')) w (role, owner),
                    (values ('insert'), ('update')) v (verb)
              where w.owner <> o.owner and has_column_privilege(w.role, o.oid, o.attname, v.verb)
                and not (w.role = 'spine_agent' and v.verb = 'insert' and o.relname = any ('{{{}}}'))
              order by 1",
            made_by_agents.join(",")
        );
        assert_eq!(names(&mut admin, &written).await, Vec::<String>::new());
        // The exceptions are needed: what is not granted any more is not to be listed.
        for table in made_by_agents {
            let granted = format!(
                "select count(*) from pg_class where oid = 'public.{table}'::regclass and has_any_column_privilege('spine_agent', oid, 'insert')"
            );
            assert_eq!(db.count(&granted).await, 1, "{table}");
        }
        // A column's line goes before its table's, both ways.
        let both = "select t.table_name || '.' || c.column_name || ': ' || t.owner || ' but ' || c.owner
                      from data_ownership t join data_ownership c on c.table_name = t.table_name and c.column_name is not null
                     where t.column_name is null order by 1";
        assert_eq!(
            names(&mut admin, both).await,
            [
                "approvals.decided_at: system but human",
                "approvals.decided_by: system but human",
                "approvals.first_step_at: system but human",
                "approvals.first_step_by: system but human",
                "approvals.proposed_by: system but human",
                "approvals.reason: system but human",
                "approvals.status: system but human",
                "client_accounting.approved_by: human but system",
                "client_accounting.fortnox_write_approved_at: human but system",
                "leads.assigned_at: human but agent",
                "leads.assigned_to: human but agent",
                "notifications.read_at: system but human",
                "organizations.plan: human but system",
                "organizations.stripe_customer_id: human but system",
                "proposals.brain_status: human but agent",
                "render_requests.completed_at: human but system",
                "render_requests.error: human but system",
                "render_requests.status: human but system",
                "social_messages.status: system but human",
                "social_threads.assigned_to: system but human",
                "social_threads.status: system but human",
                "submissions.reviewed_at: human but system",
                "submissions.submitted_at: human but system",
                "templates.is_system: human but system",
            ]
        );
        for (role, column, may) in [
            ("authenticated", "leads.assigned_to", false),
            ("spine_agent", "leads.assigned_to", true),
            ("authenticated", "leads.status", true),
            ("spine_agent", "leads.status", false),
            ("authenticated", "proposals.brain_status", false),
            ("spine_agent", "proposals.brain_status", true),
            ("authenticated", "social_messages.status", true),
            ("authenticated", "social_messages.content", false),
            ("authenticated", "organizations.name", true),
            ("authenticated", "organizations.plan", false),
        ] {
            let (table, attribute) = column.split_once('.').unwrap();
            let granted = format!(
                "select has_column_privilege('{role}', 'public.{table}', '{attribute}', 'update')::int::bigint"
            );
            assert_eq!(db.count(&granted).await == 1, may, "{role} updates {column}");
        }
        let unknown = "select table_name || coalesce('.' || column_name, '') from data_ownership d
                        where not exists (select from information_schema.columns c
                                           where c.table_schema = 'public' and c.table_name = d.table_name
                                             and (d.column_name is null or d.column_name = c.column_name))";
        assert_eq!(names(&mut admin, unknown).await, Vec::<String>::new());
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

#[tokio::test(flavor = "multi_thread")]
async fn a_login_of_a_test_hashes_its_password_once() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let hashed = "select count(*) from pg_authid where rolname in ('postgres', 'spine_functions') and rolpassword like 'SCRAM-SHA-256$1:%'";
        assert_eq!(db.count(hashed).await, 2, "{server:?}");
        db.login().await;
    }
}
