//! The migrations ask for no more than the role `postgres` of a Supabase project may do.

use integration_tests::{CONNECT_TO_REALTIME, OwnServer};
use local::database;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

/// Makes what a new project is: the platform's roles and schemas belong to the platform, and the project's own role is no superuser.
const PROJECT: &str = "
    create role supabase_admin;
    create role project login createrole password 'project';
    grant anon, authenticated, service_role to project with admin option;
    grant create on database project to project;
    grant usage, create on schema public to project with grant option;
    grant usage on schema extensions to project with grant option;
    create extension vector with schema extensions;
    -- Everything that the project makes in public is granted to the API roles.
    alter default privileges for role project in schema public grant all on tables to anon, authenticated, service_role;
    alter default privileges for role project in schema public grant all on sequences to anon, authenticated, service_role;
    alter default privileges for role project in schema public grant all on functions to anon, authenticated, service_role;
    grant usage on schema auth, storage, realtime to project with grant option;
    grant references (id), trigger on auth.users to project;
    -- What its own tool lends it: making policies on these, and buckets.
    alter table storage.objects owner to project;
    alter table realtime.messages owner to project;
    grant all on storage.buckets to project;";

#[tokio::test(flavor = "multi_thread")]
async fn the_migrations_run_as_a_role_that_is_no_superuser() {
    let server = OwnServer::start().await;
    let url = server.empty("project").await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let root = local::home::root();
    let baseline = std::fs::read_to_string(root.join("infra/postgres/baseline.sql")).unwrap();
    admin.execute(AssertSqlSafe(baseline)).await.unwrap();
    admin.execute(PROJECT).await.unwrap();

    let project = database::with_login(&url, "project", "project").unwrap();
    let done = database::migrate(&root, &project).await.unwrap_or_else(|error| panic!("{error:#}"));
    assert!(done.applied.len() > 15 && done.before == 0, "{done:?}");

    // It owns none of what it made but what only it may do there, and the thing works: a sign-up leaves its profile.
    admin
        .execute("insert into auth.users (id, email) values ('01900000-0000-7000-8000-000000000999', 'a@b.example')")
        .await
        .unwrap();
    let profiles: i64 = sqlx::query_scalar("select count(*) from public.profiles").fetch_one(&mut admin).await.unwrap();
    assert_eq!(profiles, 1);
    let owned: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relowner = 'project'::regrole and relnamespace in ('public'::regnamespace, 'app'::regnamespace)
            and relkind in ('r', 'p', 'v') order by 1",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    assert_eq!(owned, ["_sqlx_migrations"]);
    // That is closed all the same; what the platform grants of other things stays.
    let open = "select has_table_privilege('anon', 'public._sqlx_migrations', 'select, insert, update, delete')";
    assert!(!sqlx::query_scalar::<_, bool>(open).fetch_one(&mut admin).await.unwrap());
    let platforms = "select count(*) from pg_default_acl where defaclrole = 'project'::regrole and 'anon'::regrole in (select grantee from aclexplode(defaclacl))";
    assert_eq!(sqlx::query_scalar::<_, i64>(platforms).fetch_one(&mut admin).await.unwrap(), 3);
    // What is told is told in the name of the one role that may tell it.
    admin.execute(CONNECT_TO_REALTIME).await.unwrap();
    admin.execute("insert into public.organizations (name, slug) values ('Some', 'some')").await.unwrap();
    let told: Vec<String> =
        sqlx::query_scalar("select payload ->> 'table' from realtime.messages").fetch_all(&mut admin).await.unwrap();
    // The organisation, and the limits it begins with.
    assert_eq!(told, ["audit_log", "audit_log"]);
}
