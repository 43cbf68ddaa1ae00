//! A backup that is restored is the database that was backed up, and where it is not, the check says so.

use std::{collections::BTreeSet, process::Command};

use integration_tests::{
    OwnServer, Server, TestDatabase,
    acting::Actor,
    people::{ADAM, DORA, LAKESIDE, NORD, UMA},
};
use operator::{
    database::Migrations,
    restore::{self, Expected, Mode},
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::SERVERS;

/// A program of Postgres' own. What it printed, if it succeeded.
async fn run(server: Server, program: &str, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(server.program(program));
    command.args(args).env_remove("PGOPTIONS");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(String::from_utf8(output.stdout).unwrap()) } else { Err(said) }
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
        .replace("COMMENT ON EXTENSION", "-- COMMENT ON EXTENSION")
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
    for (actor, statement) in [
        (Actor::person(&ADAM), format!("insert into public.clients (org_id, name) values ('{NORD}', 'Greta')")),
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
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
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
    let (code, said) = restore_check(&whole.url, &[]).await;
    assert_eq!(code, Some(0), "{said}");

    let halves = TestDatabase::empty(server).await;
    load(server, &halves.url, &dump_in_two(server, &db.url, &dumps, false).await).await.unwrap();
    let (code, said) = restore_check(&halves.url, &[]).await;
    assert_eq!(code, Some(1), "{said}");
    let count = entries(&db.url).await.len();
    assert!(said.contains(&format!("{count} entries of the audit log were loaded in replica mode")), "{said}");
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
        let (code, said) = restore_check(&copy, &["--prepare"]).await;
        assert_eq!(code, Some(0), "{said}");
        load(server, &copy, &halves).await.unwrap();
        assert!(restore::prepare(&copy, expected(server).await).await.is_err(), "it is not empty any more");
        assert!(entries(&copy).await == before, "{server:?}");

        // What the old project gives away of what its owner makes, the new one does again, with nothing of ours among it.
        assert_eq!(default_privileges(&copy).await, default_privileges(&project).await);
        assert_eq!(default_privileges(&copy).await.len(), 3);

        // What lies outside the schemas of the dump is missing, and made.
        let found = differences(server, &copy, Mode::Repair).await;
        for line in [
            "missing: trigger spine_profile_of_new_user on auth.users; repaired",
            "missing: policy spine_media_select on storage.objects; repaired",
            "missing: policy spine_topics_select on realtime.messages; repaired",
            "not made by a migration: grant create on schema public to spine_definer; repaired",
        ] {
            assert!(found.contains(line), "{server:?}: {line}: {found:#?}");
        }
        let noted = format!(
            "{} entries of the audit log were loaded in replica mode, past the stamp, by project",
            before.len()
        );
        assert!(found.iter().all(|line| line.ends_with("; repaired") || line.starts_with(&noted)), "{found:#?}");
        assert_eq!(differences(server, &copy, Mode::Repair).await, BTreeSet::new());
        let mut admin = PgConnection::connect(&copys_platform).await.unwrap();
        let sign_up =
            "insert into auth.users (id, email) values ('01900000-0000-7000-8000-000000000999', 'a@b.example')";
        admin.execute(sign_up).await.unwrap();
        let profile = "select count(*) from public.profiles where id = '01900000-0000-7000-8000-000000000999'";
        let profiles: i64 = sqlx::query_scalar(profile).fetch_one(&mut admin).await.unwrap();
        assert_eq!(profiles, 1);

        // In one piece, of our schemas: the platform's rows go first, for foreign keys ask for them. What the new project has already
        // is left out.
        let (whole, platform) = to.project("whole").await;
        PgConnection::connect(&platform).await.unwrap().execute(DUMPING).await.unwrap();
        restore::prepare(&whole, expected(server).await).await.unwrap();
        let people =
            run(server, "pg_dump", &["--data-only", "-n", "auth", "-n", "storage", "-d", &project]).await.unwrap();
        let people = dumps.keep("people.sql", &format!("set session_replication_role = replica;\n{people}"));
        run(server, "psql", &["-q", "-v", "ON_ERROR_STOP=1", "-f", &people, "-d", &whole]).await.unwrap();
        let file = dumps.path("schemas.dump");
        run(server, "pg_dump", &["-Fc", "-n", "public", "-n", "app", "-f", &file, "-d", &project]).await.unwrap();
        let list = run(server, "pg_restore", &["-l", &file]).await.unwrap();
        let list: Vec<&str> = list
            .lines()
            .filter(|line| {
                !(line.contains(" SCHEMA ") || line.contains(" DEFAULT ACL ") && line.ends_with(" postgres"))
            })
            .collect();
        let list = dumps.keep("list", &list.join("\n"));
        run(server, "pg_restore", &["--exit-on-error", "-L", &list, "-d", &whole, &file]).await.unwrap();
        assert!(entries(&whole).await == before, "{server:?}");
        let found = differences(server, &whole, Mode::Repair).await;
        assert!(found.contains("missing: trigger spine_profile_of_new_user on auth.users; repaired"), "{found:#?}");
        assert!(found.iter().all(|line| line.ends_with("; repaired")), "{found:#?}");
        assert_eq!(differences(server, &whole, Mode::Repair).await, BTreeSet::new());
    }
}

/// What the project's role gives away of everything that it makes in `public`.
async fn default_privileges(url: &str) -> Vec<String> {
    let query = "select defaclobjtype::text || ' ' || defaclacl::text from pg_default_acl
                  where defaclrole = 'project'::regrole and defaclnamespace = 'public'::regnamespace order by 1";
    sqlx::query_scalar(query).fetch_all(&mut PgConnection::connect(url).await.unwrap()).await.unwrap()
}

// In process, against what migrations make on the same server ---------------------------------------------------------------

/// What migrations make, read once from a database that they have just made.
async fn expected(server: Server) -> &'static Expected {
    static READ: [OnceCell<Expected>; 2] = [const { OnceCell::const_new() }; 2];
    let read = async { Expected::read(&mut TestDatabase::new(server).await.admin().await).await.unwrap() };
    READ[usize::from(server == Server::Postgres18)].get_or_init(|| read).await
}

/// Every difference, a line each.
async fn differences(server: Server, url: &str, mode: Mode) -> BTreeSet<String> {
    let found = restore::check(&Migrations::built_in(), url, expected(server).await, mode).await.unwrap();
    found.iter().map(ToString::to_string).collect()
}

fn set<I: IntoIterator<Item = S>, S: Into<String>>(lines: I) -> BTreeSet<String> {
    lines.into_iter().map(Into::into).collect()
}

async fn lines(db: &TestDatabase, query: &str) -> BTreeSet<String> {
    let rows: Vec<String> =
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(&mut db.admin().await).await.unwrap();
    set(rows)
}

/// Runs a statement for each row of `query`, which spells it.
async fn for_each(db: &TestDatabase, query: &str) {
    db.run(&format!("do $$ declare s text; begin for s in {query} loop execute s; end loop; end $$")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_way_restores_what_the_check_expects() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        work(&db).await;
        let (before, dumps) = (entries(&db.url).await, Dumps::new());
        let none = BTreeSet::<String>::new();
        assert_eq!(differences(server, &db.url, Mode::Look).await, none, "the source itself");

        let whole = TestDatabase::empty(server).await;
        let file = dumps.path("whole.dump");
        run(server, "pg_dump", &["-Fc", "-f", &file, "-d", &db.url]).await.unwrap();
        run(server, "pg_restore", &["--exit-on-error", "-d", &whole.url, &file]).await.unwrap();
        assert_eq!(differences(server, &whole.url, Mode::Repair).await, none);

        // A load is reported once, and nothing else is.
        let halves = TestDatabase::empty(server).await;
        load(server, &halves.url, &dump_in_two(server, &db.url, &dumps, false).await).await.unwrap();
        for (mode, said) in [(Mode::Look, true), (Mode::Repair, true), (Mode::Repair, false)] {
            let found = differences(server, &halves.url, mode).await;
            let wanted = format!(
                "{} entries of the audit log were loaded in replica mode, past the stamp, by postgres",
                before.len()
            );
            assert_eq!(found.iter().filter(|line| line.starts_with(&wanted)).count(), usize::from(said), "{found:?}");
            assert_eq!(found.len(), usize::from(said), "{found:?}");
        }
        // Entries go on where they ended.
        work(&halves).await;
        assert_eq!(differences(server, &halves.url, Mode::Look).await, none);
        assert!(entries(&halves.url).await.len() > before.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_dump_with_its_servers_roles_makes_the_database_on_another_server() {
    let server = Server::Postgres18;
    let db = TestDatabase::new(server).await;
    work(&db).await;
    let (dumps, other) = (Dumps::new(), OwnServer::of(server).await);
    let roles = run(server, "pg_dumpall", &["--roles-only", "-d", &db.url]).await.unwrap();
    let roles: Vec<&str> = roles.lines().filter(|line| !line.contains(" ROLE postgres")).collect();
    let (roles, file) = (dumps.keep("roles.sql", &roles.join("\n")), dumps.path("whole.dump"));
    run(server, "pg_dump", &["-Fc", "-f", &file, "-d", &db.url]).await.unwrap();
    let copy = other.empty("copy").await;
    run(server, "psql", &["-q", "-v", "ON_ERROR_STOP=1", "-f", &roles, "-d", &copy]).await.unwrap();
    run(server, "pg_restore", &["--exit-on-error", "-d", &copy, &file]).await.unwrap();
    assert!(entries(&copy).await == entries(&db.url).await);
    assert_eq!(differences(server, &copy, Mode::Repair).await, BTreeSet::new());

    // Roles belong to the whole server, so what has become of them is asked here.
    let mut admin = PgConnection::connect(&copy).await.unwrap();
    for (damage, said) in [
        (
            "alter role spine_service bypassrls",
            "different: role spine_service is `inherit connection limit -1 bypassrls`",
        ),
        ("alter role spine_owner login", "different: role spine_owner is `inherit connection limit -1 login`"),
        (
            "alter role spine_functions reset statement_timeout",
            "missing: setting statement_timeout of role spine_functions",
        ),
        (
            "alter role spine_functions set statement_timeout = 0",
            "different: setting statement_timeout of role spine_functions",
        ),
        ("revoke spine_agent from spine_functions", "missing: membership spine_functions in spine_agent"),
        ("grant spine_service to authenticated", "not made by a migration: membership authenticated in spine_service"),
        ("grant authenticated to spine_caller with set true", "different: membership spine_caller in authenticated"),
        ("revoke spine_definer from postgres", "missing: membership postgres in spine_definer"),
        (
            "alter default privileges for role spine_owner grant execute on functions to public",
            "missing: default privileges of spine_owner for functions",
        ),
    ] {
        admin.execute(damage).await.unwrap();
        let found = differences(server, &copy, Mode::Repair).await;
        assert_eq!(found.len(), 1, "{damage}: {found:?}");
        assert!(found.iter().all(|line| line.starts_with(said) && line.ends_with("; repaired")), "{damage}: {found:?}");
        assert_eq!(differences(server, &copy, Mode::Look).await, BTreeSet::new(), "{damage}");
    }
    // A login that was replaced stays closed, and who migrates may be allowed to act as the system.
    let allowed = "alter role spine_functions nologin; grant spine_service to postgres;
                   create role spine_functions_b login noinherit; grant spine_caller, spine_agent, spine_service to spine_functions_b";
    admin.execute(allowed).await.unwrap();
    assert_eq!(differences(server, &copy, Mode::Repair).await, BTreeSet::new());
}

/// Every table with its name, and what a difference of it ends with: what lies outside can be made again.
const TABLES: &str = "(select c.oid, c.relname, c.relkind in ('r', 'p') as stored, c.relrowsecurity as guarded,
                              format('%I.%I', n.nspname, c.relname) as name, n.nspname in ('public', 'app') as inside,
                              case when n.nspname in ('public', 'app') then '' else '; can be repaired' end as ending
                         from pg_class c join pg_namespace n on n.oid = c.relnamespace
                        where n.nspname in ('public', 'app', 'auth', 'storage', 'realtime') and not c.relispartition) t";
const FUNCTIONS: &str = "(select p.oid::regprocedure as name from pg_proc p join pg_roles r on r.oid = p.proowner
                           where r.rolname like 'spine%') f";

/// What is lost, in two databases: a query of the statements that take it away, and one of the lines that must then be reported.
fn losses() -> [Vec<[String; 2]>; 2] {
    let policies = format!("pg_policy p join {TABLES} on t.oid = p.polrelid");
    let triggers =
        format!("pg_trigger g join {TABLES} on t.oid = g.tgrelid where not g.tgisinternal and g.tgparentid = 0");
    let constraints = format!(
        "pg_constraint k join {TABLES} on t.oid = k.conrelid where k.contype in ('c', 'f') and k.conparentid = 0 and t.inside"
    );
    // As --no-privileges leaves them.
    let grants = "information_schema.role_table_grants g
                   where g.table_schema = 'public' and g.grantee not in ('spine_owner', 'postgres')";
    let missing = [
        [
            format!("select format('drop policy %I on %s', p.polname, t.name) from {policies}"),
            format!("select format('missing: policy %I on %s%s', p.polname, t.name, t.ending) from {policies}"),
        ],
        [
            format!("select format('drop trigger %I on %s', g.tgname, t.name) from {triggers}"),
            format!("select format('missing: trigger %I on %s%s', g.tgname, t.name, t.ending) from {triggers}"),
        ],
        [
            format!("select format('alter table %s drop constraint %I cascade', t.name, k.conname) from {constraints}"),
            format!("select format('missing: constraint %I of %s', k.conname, t.name) from {constraints}"),
        ],
        [
            format!(
                "select format('revoke %s on %I.%I from %I', g.privilege_type, g.table_schema, g.table_name, g.grantee) from {grants}"
            ),
            format!(
                "select format('missing: grant %s on %I.%I to %I', lower(g.privilege_type), g.table_schema, g.table_name, g.grantee)
                   from {grants}"
            ),
        ],
        [
            "select 'delete from storage.buckets'".to_owned(),
            "select 'missing: bucket ' || id || '; can be repaired' from storage.buckets".to_owned(),
        ],
    ];
    let different = [
        // As --disable-triggers leaves them: what must fire always does not fire for a replica.
        [
            format!(
                "select format('alter table %s disable trigger all; alter table %1$s enable trigger all', t.name)
                   from {TABLES} where t.inside and t.stored"
            ),
            format!(
                "select format('different: trigger %I on %s', g.tgname, t.name) from {triggers} and g.tgenabled = 'A'"
            ),
        ],
        [
            format!("select format('alter table %s disable row level security', t.name) from {TABLES} where t.guarded"),
            format!(
                "select format('different: table %s', t.name) from {TABLES} where t.guarded and t.inside
                 union all
                 select format('different: row security %s is `off` and should be `on`; can be repaired', t.name)
                   from {TABLES} where t.name in ('storage.objects', 'realtime.messages')"
            ),
        ],
        // As --no-owner leaves them.
        [
            format!("select format('alter routine %s owner to postgres', f.name) from {FUNCTIONS}"),
            format!("select format('different: function %s', f.name) from {FUNCTIONS}"),
        ],
        [
            "select 'update storage.buckets set public = true'".to_owned(),
            "select 'different: bucket ' || id from storage.buckets".to_owned(),
        ],
    ];
    [missing.into(), different.into()]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restore_loses_is_named_and_made_again_where_no_dump_holds_it() {
    for server in SERVERS {
        for lost in losses() {
            let db = TestDatabase::new(server).await;
            let mut wanted = BTreeSet::new();
            for [_, said] in &lost {
                // Names are spelled as the check spells them.
                let said =
                    format!("select x.* from (select set_config('search_path', '', false)) s, lateral ({said}) x");
                let said = lines(&db, &said).await;
                assert!(!said.is_empty(), "{lost:?}");
                wanted.extend(said);
            }
            for [loss, _] in &lost {
                for_each(&db, loss).await;
            }
            let found = differences(server, &db.url, Mode::Look).await;
            wanted.retain(|line| !found.iter().any(|found| found == line || found.starts_with(&format!("{line} "))));
            assert!(wanted.is_empty(), "{server:?}: not reported: {wanted:#?}, but {found:#?}");

            let repaired = differences(server, &db.url, Mode::Repair).await;
            assert_eq!(repaired.len(), found.len(), "{server:?}");
            let left = differences(server, &db.url, Mode::Look).await;
            let inside: BTreeSet<String> =
                found.into_iter().filter(|line| !line.ends_with("; can be repaired")).collect();
            assert_eq!(left, inside, "{server:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_asked_for_is_named_where_it_widens_rights() {
    let server = Server::Postgres18;
    let db = TestDatabase::new(server).await;
    db.run(
        "create policy open on public.leads for select to anon using (true);
         grant delete on public.audit_log to authenticated;
         grant update (plan) on public.organizations to authenticated;
         grant execute on function app.append_audit(text, text, text, jsonb, jsonb, jsonb, jsonb, text, text, text, uuid[]) to anon;
         grant create on schema public to spine_definer;
         create function app.meddle() returns trigger language plpgsql as 'begin return null; end';
         create trigger meddle before insert on public.leads for each row execute function app.meddle()",
    )
    .await;
    let wanted = [
        "not made by a migration: grant create on schema public to spine_definer; can be repaired",
        "not made by a migration: grant delete on public.audit_log to authenticated",
        "not made by a migration: grant execute on function app.append_audit(text,text,text,jsonb,jsonb,jsonb,jsonb,text,text,text,uuid[]) to anon",
        "not made by a migration: grant update (plan) on public.organizations to authenticated",
        "not made by a migration: policy open on public.leads",
        "not made by a migration: trigger meddle on public.leads",
    ];
    assert_eq!(differences(server, &db.url, Mode::Look).await, set(wanted));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_grows_with_use_and_what_is_somebody_elses_is_no_difference() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        work(&db).await;
        db.run(&format!(
            "select app.ensure_social_month('2026-01-15');
             create index org_brain_vectors_x on public.org_brain using hnsw (embedding extensions.vector_cosine_ops) where org_id = '{NORD}';
             create table public.shop (id bigint primary key);
             grant all on public.shop to anon;
             alter table public.shop enable row level security;
             create policy all_of_it on public.shop using (true);
             create policy shop_pictures on storage.objects for select to anon using (bucket_id = 'shop');
             insert into storage.buckets (id, name, public) values ('shop', 'shop', true);
             create function public.shop_total() returns int language sql return 1"
        ))
        .await;
        assert_eq!(differences(server, &db.url, Mode::Look).await, BTreeSet::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_lost_altered_or_added_is_noticed() {
    let open = "alter table public.audit_log disable trigger all; alter table app.audit_tallies disable trigger all;";
    let close = "alter table public.audit_log enable trigger all; alter table app.audit_tallies enable trigger all;
                 alter table public.audit_log enable always trigger audit_log_stamp, enable always trigger audit_log_refuse_change,
                                              enable always trigger audit_log_tally;
                 alter table app.audit_tallies enable always trigger audit_tallies_refuse_change;";
    let newest = format!("(select id from audit_log where org_id = '{NORD}' order by id desc limit 1)");
    let digest = format!("update audit_log a set digest = app.audit_digest(a) where id = {newest}");
    let last = format!("(select max(xact) from app.audit_tallies where org_id = '{NORD}')");
    let tally = |whose: &str, found: i64, written: i64| {
        format!(
            "different: the audit log of {whose} holds {found} entries and {written} were written; those of 1 transactions differ"
        )
    };
    let nord = format!("organisation {NORD}");
    for (damage, unlike, tallies) in [
        (format!("delete from audit_log where id = {newest}"), false, vec![(nord.as_str(), -1, 0)]),
        (format!("update audit_log set action = 'x' where id = {newest}"), true, vec![]),
        (format!("update audit_log set digest = sha256('x') where id = {newest}"), true, vec![(&nord, 0, 0)]),
        (format!("update audit_log set action = 'x' where id = {newest}; {digest}"), false, vec![(&nord, 0, 0)]),
        (format!("delete from app.audit_tallies where xact = {last} and org_id = '{NORD}'"), false, vec![(&nord, 0, -20)]),
        (
            format!(
                "insert into audit_log select (jsonb_populate_record(a, jsonb_build_object('id', app.uuidv7()))).* from audit_log a where id = {newest};
                 {digest}"
            ),
            false,
            vec![(&nord, 1, 0)],
        ),
    ] {
        let server = Server::Postgres18;
        let db = TestDatabase::new(server).await;
        work(&db).await;
        let written = db.count(&format!("select count(*) from audit_log where org_id = '{NORD}'")).await;
        let id = lines(&db, &format!("select id::text from {newest} n")).await.pop_first().unwrap();
        db.run(&format!("begin; {open} {damage}; {close} commit")).await;
        let wanted: Vec<String> = unlike
            .then(|| format!("different: entry {id} of the audit log is not what its digest says"))
            .into_iter()
            .chain(tallies.into_iter().map(|(whose, found, said)| tally(whose, written + found, written + said)))
            .collect();
        assert_eq!(differences(server, &db.url, Mode::Repair).await, set(wanted), "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_an_older_schema_stamped_again_are_noticed() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        work(&db).await;
        let all = entries(&db.url).await.len();
        // What the stamp of the first migrations did to entries that were loaded, an hour later.
        db.run(
            "begin; alter table audit_log disable trigger all;
             update audit_log set occurred_at = occurred_at + interval '1 hour', xact = pg_current_xact_id();
             update audit_log a set digest = app.audit_digest(a);
             alter table audit_log enable trigger all;
             alter table audit_log enable always trigger audit_log_stamp, enable always trigger audit_log_refuse_change,
                                   enable always trigger audit_log_tally;
             commit",
        )
        .await;
        let found = differences(server, &db.url, Mode::Look).await;
        let again = found.iter().filter(|line| line.contains("stamped again")).collect::<Vec<_>>();
        assert_eq!(again.len(), 1, "{found:?}");
        assert!(again[0].starts_with(&format!("different: {all} entries of the audit log (")), "{again:?}");
        assert!(found.iter().any(|line| line.contains(&format!("organisation {NORD} holds"))), "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_parent_was_not_restored_is_noticed() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(&format!("set session_replication_role = replica; delete from auth.users where id = '{}'", DORA.id)).await;
    let found = differences(Server::Postgres18, &db.url, Mode::Look).await;
    assert_eq!(found, set(["missing: what 1 rows refer to by profiles_id_fkey of public.profiles"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_is_not_recorded_or_not_as_its_file_is_named() {
    let db = TestDatabase::new(Server::Postgres18).await;
    for (damage, said) in [
        (
            "update _sqlx_migrations set checksum = 'x' where version = 20261121000100",
            "different: migration 20261121000100 is not as its file",
        ),
        (
            "delete from _sqlx_migrations where version = 20261121000100",
            "missing: migration 20261121000100 (create roles); ./spine migrate applies it, and the rest is compared after that",
        ),
        ("delete from _sqlx_migrations", "missing: the record of migrations"),
    ] {
        db.run(damage).await;
        assert_eq!(differences(Server::Postgres18, &db.url, Mode::Look).await, set([said]));
    }
    // With nothing recorded the rest is compared: there is no other way to know what was there.
    db.run("drop table _sqlx_migrations; drop policy leads_select on leads").await;
    let found = differences(Server::Postgres18, &db.url, Mode::Look).await;
    assert!(found.contains("missing: policy leads_select on public.leads"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ways_that_are_not_documented_because_they_lose_something_are_noticed() {
    let server = Server::Postgres18;
    let db = TestDatabase::new(server).await;
    work(&db).await;
    let dumps = Dumps::new();
    let (schema, data) = dump_in_two(server, &db.url, &dumps, false).await;
    let file = dumps.path("whole.dump");
    run(server, "pg_dump", &["-Fc", "-f", &file, "-d", &db.url]).await.unwrap();
    let plain = dumps.keep(
        "plain.sql",
        &std::fs::read_to_string(&data).unwrap().replacen("SET session_replication_role = replica;", "", 1),
    );

    let orphaned = TestDatabase::empty(server).await;
    run(server, "pg_restore", &["--no-owner", "--no-privileges", "-d", &orphaned.url, &file]).await.unwrap();
    let found = differences(server, &orphaned.url, Mode::Look).await;
    assert!(
        found
            .iter()
            .any(|line| line.starts_with("different: function app.append_audit(")
                && line.contains("owned by spine_definer")),
        "{found:?}"
    );
    assert!(found.contains("missing: grant select on public.leads to authenticated"), "{found:?}");

    let disabled = TestDatabase::empty(server).await;
    run(server, "psql", &["-q", "-v", "ON_ERROR_STOP=1", "-f", &schema, "-d", &disabled.url]).await.unwrap();
    run(server, "pg_restore", &["--data-only", "--disable-triggers", "-d", &disabled.url, &file]).await.unwrap();
    let found = differences(server, &disabled.url, Mode::Look).await;
    assert!(
        found.iter().any(|line| line.starts_with("different: trigger audit_log_refuse_change on public.audit_log")),
        "{found:?}"
    );

    // Not as a replica: foreign keys refuse it, and what they let pass is audited as if it happened now.
    let audited = TestDatabase::empty(server).await;
    run(server, "psql", &["-q", "-v", "ON_ERROR_STOP=1", "-f", &schema, "-d", &audited.url]).await.unwrap();
    run(server, "psql", &["-q", "-f", &plain, "-d", &audited.url]).await.unwrap();
    let found = differences(server, &audited.url, Mode::Look).await;
    assert!(found.iter().any(|line| line.starts_with("different: the audit log of organisation")), "{found:?}");
}
