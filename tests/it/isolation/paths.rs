//! A stored path says where it leads: whatever is tidied up, decoded or cut on its way to storage, it stays in its organisation's
//! folder.

use integration_tests::{
    Server, TestDatabase,
    acting::{Actor, attempt},
    people::{BRICK, DORA, NORD},
};
use sqlx::AssertSqlSafe;

use super::world::World;

/// What may stand between a folder and a file.
const CROOKED: [&str; 18] = [
    "/../",
    "/./",
    "//",
    "/a/../",
    "/..//",
    "/a/..\\",
    "\\..\\",
    "\\",
    "%2f",
    "%2F..%2F",
    "/%2e%2e/",
    "/.%2E/",
    "/%252e%252e%252f",
    "/\u{1}",
    "/a\n/",
    "/\u{7f}/",
    "/\u{85}/",
    "/\t",
];
const STRAIGHT: [&str; 6] = ["/", "/a/b/", "/a.b/..c/", "/.../", "/Kök & sal (1)/", "/a-_+=,'/"];

fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', "''"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stored_path_leads_where_it_says() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let world = World::make(&db).await;
    let mut conn = db.begin_as(&Actor::role("postgres")).await;
    let columns: Vec<(String, String)> = sqlx::query_as(
        "select c.relname::text, a.attname::text from pg_class c
           join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.atttypid = 'text'::regtype
          where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attname ~ '(^|_)path$' order by 1, 2",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    let found: Vec<String> = columns.iter().map(|(table, column)| format!("{table}.{column}")).collect();
    assert_eq!(
        found,
        [
            "assets.path",
            "blog_media.file_path",
            "project_images.file_path",
            "render_requests.input_file_path",
            "render_results.output_file_path",
            "social_attachments.path",
        ]
    );
    let mut wrong = Vec::new();
    for (table, column) in columns {
        let line = world.lines.iter().find(|line| line.name == table).unwrap();
        let key = world.key_here(line).unwrap();
        let is = format!("select {column} from public.{table} t where {key}");
        let is: String = sqlx::query_scalar(AssertSqlSafe(is)).fetch_one(&mut conn).await.unwrap();
        let (folder, file) = is.rsplit_once('/').unwrap();
        let elsewhere = folder.replace(&NORD.to_string(), &BRICK.to_string());
        let mut crooked: Vec<String> = CROOKED.iter().map(|between| format!("{folder}{between}{file}")).collect();
        crooked.extend(["", "/", "/..", "/."].map(|end| format!("{folder}{end}")));
        crooked.extend([
            String::new(),
            format!("/{is}"),
            format!("../{is}"),
            format!("{folder}/../{elsewhere}/{file}"),
            format!("{elsewhere}/{file}"),
            format!("{folder}/{}", "a".repeat(500)),
        ]);
        let straight = STRAIGHT.map(|between| format!("{folder}{between}{file}"));
        for (paths, refusal) in [(crooked, Err("23514".to_owned())), (straight.to_vec(), Ok(1))] {
            for path in paths {
                let set = format!("update public.{table} t set {column} = {} where {key}", quoted(&path));
                let outcome = attempt(&mut conn, &set).await.map_err(|refusal| refusal.state);
                if outcome != refusal {
                    wrong.push(format!("{table}.{column} {path:?}: {outcome:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_stored_under_a_name_that_leads_where_it_says() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let mut conn = db.begin_as(&Actor::person(&DORA)).await;
    let store = |name: &str| {
        format!(
            "insert into storage.objects (bucket_id, name, owner_id) values ('project-media', {}, '{}')",
            quoted(name),
            DORA.id
        )
    };
    let moved =
        |name: &str| format!("{}; update storage.objects set name = {}", store(&format!("{NORD}/first")), quoted(name));
    let mut wrong = Vec::new();
    for (all, expected) in [(CROOKED.as_slice(), Err("42501".to_owned())), (STRAIGHT.as_slice(), Ok(()))] {
        for between in all {
            let name = format!("{NORD}/a{between}b.jpg");
            for statement in [store(&name), moved(&name)] {
                let outcome = attempt(&mut conn, &statement).await.map(|_| ()).map_err(|refusal| refusal.state);
                if outcome != expected {
                    wrong.push(format!("{statement}: {outcome:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
