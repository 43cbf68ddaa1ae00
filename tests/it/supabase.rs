//! The migrations ask for no more than the role `postgres` of a Supabase project may do.

use integration_tests::{CONNECT_TO_REALTIME, OwnServer};
use local::database;
use sqlx::{Connection, Executor, PgConnection};

#[tokio::test(flavor = "multi_thread")]
async fn the_migrations_run_as_a_role_that_is_no_superuser() {
    let server = OwnServer::start().await;
    let (project, platform) = server.project("project").await;
    let mut admin = PgConnection::connect(&platform).await.unwrap();
    let done = database::migrate(&local::home::root(), &project).await.unwrap_or_else(|error| panic!("{error:#}"));
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
