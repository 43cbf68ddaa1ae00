//! A backup that is restored is the database that was backed up, and where it is not, the check says so.

use std::process::Command;

use integration_tests::{
    OwnServer, Server, TestDatabase,
    acting::Actor,
    people::{ADAM, DORA, LAKESIDE, NORD, UMA},
};
use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::SERVERS;

/// A program of Postgres' own. What it printed, if it succeeded.
async fn run(server: Server, program: &str, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(server.program(program));
    command.args(args).env_remove("PGOPTIONS");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(String::from_utf8(output.stdout).unwrap()) } else { Err(told) }
}

/// A directory for dumps; it goes when this is dropped.
struct Dumps(std::path::PathBuf);

impl Dumps {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("spine-dumps-{}", Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn keep(&self, name: &str, text: &str) -> String {
        std::fs::write(self.0.join(name), text).unwrap();
        self.path(name)
    }
}

impl Drop for Dumps {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the schemas of a platform hold belongs to the platform: its own dumps leave their definition out.
const PLATFORM: &str = "auth|storage|realtime|extensions";

/// Dumps as Supabase's command line does: the schema without the platform's, and data to be loaded as a replica.
async fn dump_in_two(server: Server, url: &str, dumps: &Dumps, platform: bool) -> (String, String) {
    let mut schema = vec!["--schema-only", "--quote-all-identifiers", "-d", url];
    if platform {
        schema.extend(["--exclude-schema", PLATFORM]);
    }
    let data = ["--data-only", "--quote-all-identifiers", "--exclude-schema", "realtime|extensions", "-d", url];
    let schema = run(server, "pg_dump", &schema).await.unwrap();
    let data = run(server, "pg_dump", &data).await.unwrap();
    let schema = schema
        .replace("CREATE SCHEMA \"", "CREATE SCHEMA IF NOT EXISTS \"")
        .replace("ALTER DEFAULT PRIVILEGES FOR ROLE \"postgres\"", "-- ALTER DEFAULT PRIVILEGES FOR ROLE \"postgres\"");
    let data = format!("SET session_replication_role = replica;\n{data}\nRESET ALL;\n");
    (dumps.keep("schema.sql", &schema), dumps.keep("data.sql", &data))
}

/// Loads both, all or nothing.
async fn load(server: Server, url: &str, (schema, data): &(String, String)) -> Result<String, String> {
    let args =
        ["--single-transaction", "--no-psqlrc", "-q", "-v", "ON_ERROR_STOP=1", "-f", schema, "-f", data, "-d", url];
    run(server, "psql", &args).await
}

/// Every entry of the audit log, column by column.
async fn entries(url: &str) -> Vec<Value> {
    let mut conn = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar("select to_jsonb(a) from public.audit_log a order by a.id").fetch_all(&mut conn).await.unwrap()
}

/// Leaves entries of people, agents and the system of two organisations, some of one statement.
async fn work(db: &TestDatabase) {
    let client = Uuid::new_v4();
    for (actor, statement) in [
        (
            Actor::person(&ADAM),
            format!("insert into public.clients (id, org_id, name) values ('{client}', '{NORD}', 'Greta')"),
        ),
        (Actor::person(&DORA), format!("update public.projects set title = 'New' where id = '{LAKESIDE}'")),
        (Actor::person(&UMA), "update public.profiles set full_name = 'Uma'".to_owned()),
        (
            Actor::service(NORD),
            format!(
                "insert into public.leads (org_id, client_name) select '{NORD}', 'Lead ' || n from generate_series(1, 20) n"
            ),
        ),
    ] {
        assert!(db.change(&actor, &statement).await.unwrap() > 0, "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_keeps_every_entry_of_the_audit_log() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        work(&db).await;
        let (before, dumps) = (entries(&db.url).await, Dumps::new());
        assert!(before.len() > 20);

        let whole = TestDatabase::empty(server).await;
        let file = dumps.path("whole.dump");
        run(server, "pg_dump", &["-Fc", "-f", &file, "-d", &db.url]).await.unwrap();
        run(server, "pg_restore", &["--exit-on-error", "-d", &whole.url, &file]).await.unwrap();
        assert!(entries(&whole.url).await == before, "{server:?}: pg_dump -Fc");

        let halves = TestDatabase::empty(server).await;
        load(server, &halves.url, &dump_in_two(server, &db.url, &dumps, false).await).await.unwrap();
        assert!(entries(&halves.url).await == before, "{server:?}: schema, then data");
    }
}

/// `./spine restore-check`: its exit code, and what it said.
async fn restore_check(url: &str, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(integration_tests::binaries().join("spine-local"));
    command.arg("restore-check").args(args).env("DATABASE_URL", url);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(told).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_fails_after_schema_then_data_and_passes_after_a_whole_dump() {
    let server = Server::Postgres18;
    let db = TestDatabase::new(server).await;
    work(&db).await;
    let dumps = Dumps::new();
    let file = dumps.path("whole.dump");
    run(server, "pg_dump", &["-Fc", "-f", &file, "-d", &db.url]).await.unwrap();
    let whole = TestDatabase::empty(server).await;
    run(server, "pg_restore", &["--exit-on-error", "-d", &whole.url, &file]).await.unwrap();
    let (code, told) = restore_check(&whole.url, &[]).await;
    assert_eq!(code, Some(0), "{told}");

    let halves = TestDatabase::empty(server).await;
    load(server, &halves.url, &dump_in_two(server, &db.url, &dumps, false).await).await.unwrap();
    let (code, told) = restore_check(&halves.url, &[]).await;
    assert_eq!(code, Some(1), "{told}");
    let count = entries(&db.url).await.len();
    assert!(told.contains(&format!("{count} entries of the audit log were loaded in replica mode")), "{told}");
}

/// What a project's own role may do beyond migrating: Supabase's `postgres` owns the database, reads past row-level security, acts as
/// a replica, and reads and loads what its people and files are.
const DUMPING: &str = "
    do $$ begin execute format('alter database %I owner to project', current_database()); end $$;
    alter role project bypassrls;
    grant set on parameter session_replication_role to project;
    grant select, insert on all tables in schema auth, storage to project;";

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_restores_what_the_owner_has_dumped() {
    for server in SERVERS {
        let (from, to) = (OwnServer::of(server).await, OwnServer::of(server).await);
        let (project, platform) = from.project("project").await;
        let root = local::home::root();
        local::database::migrate(&root, &project).await.unwrap();
        local::database::seed(&root, &platform).await.unwrap();
        let (copy, copys_platform) = to.project("project").await;
        for url in [&platform, &copys_platform] {
            PgConnection::connect(url).await.unwrap().execute(DUMPING).await.unwrap();
        }
        let before = entries(&project).await;
        assert!(!before.is_empty());
        let dumps = Dumps::new();
        let halves = dump_in_two(server, &project, &dumps, true).await;

        // Roles are no part of a dump, and without them nothing is loaded.
        let refusal = load(server, &copy, &halves).await.unwrap_err();
        assert!(refusal.contains("role \"spine_") && refusal.contains("does not exist"), "{refusal}");
        let (code, told) = restore_check(&copy, &["--prepare"]).await;
        assert_eq!(code, Some(0), "{told}");
        load(server, &copy, &halves).await.unwrap();
        assert!(entries(&copy).await == before, "{server:?}");

        // What lies outside the schemas of the dump is missing, and made.
        let (code, told) = restore_check(&copy, &[]).await;
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("trigger spine_profile_of_new_user on auth.users"), "{told}");
        let (code, told) = restore_check(&copy, &[]).await;
        assert_eq!(code, Some(0), "{told}");
        let mut admin = PgConnection::connect(&copys_platform).await.unwrap();
        let sign_up =
            "insert into auth.users (id, email) values ('01900000-0000-7000-8000-000000000999', 'a@b.example')";
        admin.execute(sign_up).await.unwrap();
        let profile = "select count(*) from public.profiles where id = '01900000-0000-7000-8000-000000000999'";
        let profiles: i64 = sqlx::query_scalar(profile).fetch_one(&mut admin).await.unwrap();
        assert_eq!(profiles, 1);
    }
}
