//! `./spine migrate --dry-run`: it tells what would happen, and nothing has.

use std::{fs, path::PathBuf};

use integration_tests::TestDatabase;
use local::{
    database::{self, Outcome},
    home,
};

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
