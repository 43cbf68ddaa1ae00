//! `./spine migrate`: it says what it will do, and does all of it or says where it stopped. With `--dry-run` nothing happens.

use std::{fs, path::PathBuf, process::Command};

use integration_tests::{OwnServer, TestDatabase};
use local::{
    database::{self, Outcome},
    home,
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::SERVERS;

/// A checkout with these migrations beside the project's own.
fn checkout(own: &[(&str, &str)]) -> PathBuf {
    let root = std::env::temp_dir().join(format!("spine-migrations-{}", uuid::Uuid::new_v4().simple()));
    fs::create_dir_all(root.join("migrations")).unwrap();
    fs::create_dir_all(root.join("infra/postgres")).unwrap();
    let baseline = "infra/postgres/baseline.sql";
    fs::copy(home::root().join(baseline), root.join(baseline)).unwrap();
    for file in fs::read_dir(home::root().join("migrations")).unwrap().flatten() {
        fs::copy(file.path(), root.join("migrations").join(file.file_name())).unwrap();
    }
    for (name, text) in own {
        fs::write(root.join("migrations").join(format!("{name}.sql")), text).unwrap();
    }
    root
}

/// What a database has: everything in the catalogue that somebody made, and what was applied.
async fn contents(db: &TestDatabase) -> Vec<i64> {
    let mut counts = Vec::new();
    for table in ["pg_class", "pg_proc", "pg_policy", "pg_namespace", "pg_extension", "pg_constraint", "pg_trigger"] {
        counts.push(db.count(&format!("select count(*) from {table}")).await);
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_of_an_empty_database_leaves_it_empty() {
    for server in SERVERS {
        let db = TestDatabase::empty(server).await;
        let before = contents(&db).await;
        let tried = database::dry_run(&home::root(), &db.url).await.unwrap();
        let files = fs::read_dir(home::root().join("migrations")).unwrap().count() - 1;
        assert_eq!((tried.before, tried.pending.len()), (0, files));
        assert!(tried.pending.iter().all(|(_, outcome)| *outcome == Outcome::Works), "{:?}", tried.pending);
        assert_eq!(contents(&db).await, before, "{server:?}");

        // What was said to work does, and then nothing is left to do.
        let done = database::migrate(&home::root(), &db.url).await.unwrap();
        assert_eq!(done.applied.len(), files);
        let again = database::dry_run(&home::root(), &db.url).await.unwrap();
        assert_eq!((again.before, again.pending), (files, Vec::new()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_names_the_migration_that_fails_and_takes_back_those_before_it() {
    let root = checkout(&[
        (
            "20990101000000_create_widgets",
            "set local role spine_owner; create table public.widgets (id uuid primary key);",
        ),
        (
            "20990102000000_index_widgets",
            "-- no-transaction\ncreate index concurrently widgets_idx on public.widgets (id);",
        ),
        ("20990103000000_commit_widgets", "create table public.kept (id uuid); commit;"),
        // The role of the first one has ended with its own transaction.
        ("20990104000000_name_widgets", "create role widgets_role; alter table public.widgets add column name text;"),
        ("20990105000000_break_widgets", "alter table public.widgets add column name text;"),
        ("20990106000000_drop_widgets", "drop table public.widgets;"),
    ]);
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let before = (contents(&db).await, db.count("select count(*) from _sqlx_migrations").await);
        let tried = database::dry_run(&root, &db.url).await.unwrap();
        assert_eq!(i64::try_from(tried.before).unwrap(), before.1);
        let told: Vec<(&str, &str)> = tried
            .pending
            .iter()
            .map(|(name, outcome)| {
                let outcome = match outcome {
                    Outcome::Works => "works",
                    Outcome::Untried(why) => why,
                    Outcome::Fails(why) if why.contains("column \"name\" of relation \"widgets\" already exists") => {
                        "fails"
                    }
                    Outcome::Fails(why) => why.as_str(),
                };
                (name.as_str(), outcome)
            })
            .collect();
        assert_eq!(
            told,
            [
                ("20990101000000_create_widgets", "works"),
                ("20990102000000_index_widgets", "it begins with -- no-transaction"),
                ("20990103000000_commit_widgets", "it ends its transaction itself"),
                ("20990104000000_name_widgets", "works"),
                ("20990105000000_break_widgets", "fails"),
            ]
        );
        assert_eq!(
            (contents(&db).await, db.count("select count(*) from _sqlx_migrations").await),
            before,
            "{server:?}"
        );
        assert_eq!(db.count("select count(*) from pg_roles where rolname = 'widgets_role'").await, 0);
    }
    fs::remove_dir_all(root).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_refuses_a_database_whose_migrations_are_not_these() {
    let db = TestDatabase::new(SERVERS[1]).await;
    db.run("update _sqlx_migrations set checksum = 'x' where version = 20261121000100").await;
    let error = database::dry_run(&home::root(), &db.url).await.unwrap_err().to_string();
    assert!(error.contains("20261121000100") && error.contains("changed"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_says_what_it_will_do_before_it_does_it() {
    let db = TestDatabase::empty(SERVERS[1]).await;
    let files = fs::read_dir(home::root().join("migrations")).unwrap().count() - 1;
    for (dry, before) in [(true, 0), (false, 0), (false, files)] {
        let output = Command::new(integration_tests::binaries().join("spine-local"))
            .args(["migrate", "--dry-run"].iter().take(if dry { 2 } else { 1 }))
            .env("DATABASE_URL", &db.url)
            .env_remove("MONGODB_URI")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let place = |what: &str| said.find(what).unwrap_or_else(|| panic!("{what} is not said: {said}"));
        let told = [
            place("baseline: "),
            place("roles of the whole server: "),
            place("passwords: "),
            place("default privileges: "),
            place(&format!("migrations: {before} applied before, {} to apply", files - before)),
            place(&format!(" {before} before")),
        ];
        assert!(told.is_sorted(), "{said}");
        for role in ["anon", "service_role", "spine_owner", "spine_functions"] {
            assert!(said.contains(role), "{role} is not named: {said}");
        }
        assert!(!said.contains("postgres://"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_says_where_it_stopped_and_the_next_run_goes_on_from_there() {
    let create = (
        "20990101000000_create_widgets",
        "set local role spine_owner; create table public.widgets (id uuid primary key); reset role;",
    );
    let failing = ("20990102000000_break_widgets", "create table public.half (id uuid); select 1 / 0;");
    let outside = ("20990102000000_break_widgets", "-- no-transaction\nselect 1 / 0");
    let never = ("20990103000000_drop_widgets", "drop table public.widgets;");
    let mended = ("20990102000000_break_widgets", "select 1;");
    let applied = "select count(*) from _sqlx_migrations where version >= 20990101000000";
    for (broken, left) in [(failing, "Nothing of it was done"), (outside, "part of it may be done")] {
        let db = TestDatabase::new(SERVERS[1]).await;
        let before = db.count("select count(*) from _sqlx_migrations").await;
        let root = checkout(&[create, broken, never]);
        let error = database::migrate(&root, &db.url).await.unwrap_err().to_string();
        for part in [
            "20990102000000_break_widgets",
            "division by zero",
            left,
            "1 in this run",
            &format!("{before} before it"),
            "not begun: 1",
        ] {
            assert!(error.contains(part), "{part} is not said: {error}");
        }
        assert_eq!(db.count(applied).await, 1);
        assert_eq!(db.count("select count(*) from pg_class where relname = 'half'").await, 0);
        fs::remove_dir_all(root).unwrap();

        let root = checkout(&[create, mended, never]);
        let done = database::migrate(&root, &db.url).await.unwrap();
        assert_eq!(done.applied, [mended.0, never.0]);
        fs::remove_dir_all(root).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_that_fails_leaves_nothing() {
    let root = checkout(&[]);
    let path = root.join("infra/postgres/baseline.sql");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}; select 1 / 0;")).unwrap();
    let db = TestDatabase::empty(SERVERS[1]).await;
    let before = contents(&db).await;
    let error = format!("{:#}", database::migrate(&root, &db.url).await.unwrap_err());
    assert!(error.contains("baseline.sql") && error.contains("nothing was done"), "{error}");
    assert_eq!(contents(&db).await, before);
    fs::remove_dir_all(root).unwrap();
}

/// What a login needs that is no superuser, and how each is taken away.
const RIGHTS: [(&str, &str); 8] = [
    ("CREATEROLE", "alter role app nocreaterole"),
    (
        "CREATE on the database",
        "do $$ begin execute format('revoke create on database %I from app', current_database()); end $$",
    ),
    ("CREATE on the schema public", "revoke create on schema public from app"),
    ("USAGE on the schema public", "revoke usage on schema public from app"),
    ("the extension vector", "drop extension vector"),
    ("in the schema extensions", "alter extension vector set schema public"),
    ("USAGE on the schema extensions", "alter schema extensions owner to postgres"),
    ("ownership of the schema auth", "create schema auth"),
];

/// Each right that an error says is missing, with the statement that gives it.
fn missing(error: &str) -> Vec<(String, String)> {
    let lines = error.lines().skip(1).filter_map(|line| line.trim().split_once(": "));
    lines.map(|(right, remedy)| (right.to_owned(), remedy.to_owned())).collect()
}

async fn count(conn: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(conn).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_no_superuser_migrates_or_is_told_which_right_it_lacks_and_what_gives_it() {
    let (server, root) = (OwnServer::start().await, home::root());
    let prepare = async |name: &str, login: &str| {
        let url = server.empty(name).await;
        let mut admin = PgConnection::connect(&url).await.unwrap();
        let statements = format!(
            "do $$ begin if to_regrole('{login}') is null then create role {login} login password 'app'; end if; end $$;
             alter role {login} createrole;
             grant create on database {name} to {login};
             grant usage, create on schema public to {login} with grant option;
             create schema extensions authorization {login};
             create extension vector with schema extensions"
        );
        admin.execute(AssertSqlSafe(statements)).await.unwrap();
        (admin, database::with_login(&url, login, "app").unwrap())
    };
    let give = async |admin: &mut PgConnection, error: &str| {
        for (right, remedy) in missing(error) {
            admin
                .execute(AssertSqlSafe(remedy.clone()))
                .await
                .unwrap_or_else(|refusal| panic!("{right}: {remedy}: {refusal}"));
        }
    };
    let works = async |url: &str| {
        let tried = database::dry_run(&root, url).await.unwrap_or_else(|error| panic!("{error:#}"));
        assert!(tried.pending.iter().all(|(_, outcome)| *outcome == Outcome::Works), "{:?}", tried.pending);
    };
    let ours = "select count(*) from pg_roles where rolname ~ '^(spine|anon|auth|service)'";
    let tables = "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname !~ '^(pg_|information_)'";
    for (number, (right, revoke)) in RIGHTS.into_iter().enumerate() {
        let (mut admin, url) = prepare(&format!("case_{number}"), "app").await;
        admin.execute(revoke).await.unwrap();
        let before = count(&mut admin, tables).await;
        let error = database::migrate(&root, &url).await.unwrap_err().to_string();
        let named: Vec<String> = missing(&error).into_iter().map(|(right, _)| right).collect();
        assert!(named.len() == 1 && named[0].contains(right), "{right}: {error}");
        // Not even what would have been allowed was done.
        assert_eq!((count(&mut admin, ours).await, count(&mut admin, tables).await), (0, before), "{right}");
        give(&mut admin, &error).await;
        works(&url).await;
    }

    let (mut admin, url) = prepare("whole", "app").await;
    database::migrate(&root, &url).await.unwrap_or_else(|error| panic!("{error:#}"));
    assert!(database::migrate(&root, &url).await.unwrap().applied.is_empty());
    let signed_up = "insert into auth.users (id, email) values ('01900000-0000-7000-8000-000000000999', 'a@b.example')";
    admin.execute(signed_up).await.unwrap();
    assert_eq!(count(&mut admin, "select count(*) from public.profiles").await, 1);
    assert_eq!(count(&mut admin, "select count(*) from pg_roles where rolname ~ '^spine' and rolbypassrls").await, 0);

    // Another login, another database: the roles are there, and are the first one's.
    let (mut admin, url) = prepare("second", "another").await;
    let error = database::migrate(&root, &url).await.unwrap_err().to_string();
    let named = missing(&error);
    assert!(named.iter().any(|(right, _)| right == "the role spine_owner with admin option"), "{error}");
    give(&mut admin, &error).await;
    works(&url).await;

    // And one that comes to the first one's database later.
    let grant = "create role later login createrole password 'app'; grant create on database whole to later;
                 grant usage, create on schema public to later with grant option";
    let (url, mut admin) = {
        let url = database::with_login(&url, "later", "app").unwrap();
        (
            database::with_database(&url, "whole").unwrap(),
            PgConnection::connect(&database::with_database(&server.url(), "whole").unwrap()).await.unwrap(),
        )
    };
    admin.execute(grant).await.unwrap();
    let error = database::migrate(&root, &url).await.unwrap_err().to_string();
    for right in
        ["the role spine_owner", "ownership of the schema auth", "ownership of the table public._sqlx_migrations"]
    {
        assert!(missing(&error).iter().any(|(named, _)| named == right), "{right}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_in_the_database_beside_spine_is_granted_to_nobody() {
    let old = "alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
               alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
               alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
               delete from _sqlx_migrations where version = 20261129010100";
    let theirs =
        "create table public.theirs (id bigserial); create function public.theirs() returns int language sql return 1;
                  revoke execute on function public.theirs() from public";
    let open = "select count(*) from unnest(array['anon', 'authenticated', 'service_role', 'spine_caller', 'spine_service']) r
                 where has_table_privilege(r, 'public.theirs', 'select, insert, update, delete')
                    or has_sequence_privilege(r, 'public.theirs_id_seq', 'usage, select') or has_function_privilege(r, 'public.theirs()', 'execute')";
    let kept = "select coalesce(string_agg(distinct defaclrole::regrole::text, ',' order by defaclrole::regrole::text), '') from pg_default_acl";
    for server in SERVERS {
        // A new database, and one that an earlier release has migrated.
        for earlier in [false, true] {
            let db = TestDatabase::empty(server).await;
            database::migrate(&home::root(), &db.url).await.unwrap();
            if earlier {
                db.run(old).await;
                database::migrate(&home::root(), &db.url).await.unwrap();
            }
            db.run(theirs).await;
            assert_eq!(db.count(open).await, 0, "{server:?}, earlier: {earlier}");
            // What is ours to say is of what our own roles make.
            assert_eq!(db.text(kept).await, "spine_definer,spine_owner");
        }
    }
}
