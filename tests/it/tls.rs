//! Postgres on another host is reached by verified TLS, or not at all.

use std::{fmt::Debug, path::Path, process::Command, sync::Arc};

use futures::future::LocalBoxFuture;
use integration_tests::{
    Server, TestDatabase,
    people::NORD,
    tls::{Authority, ELSEWHERE, Front},
};
use local::{database, home};
use operator::{rebuild, vectors};
use shared::{config::Env, db::Database, secrets::Secrets};

/// How a URL can ask for less, and for what the rule is.
const MODES: [&str; 9] = [
    "",
    "?sslmode=disable",
    "?sslmode=allow",
    "?sslmode=prefer",
    "?sslmode=require",
    "?sslmode=verify-ca",
    "?sslmode=verify-full",
    "?ssl-mode=DISABLE",
    "?sslmode=verify-full&sslmode=disable",
];

/// Begins a transaction as functions do.
async fn begins(url: &str, ca: &str) -> Result<(), String> {
    let env = Env::from_iter([("DATABASE_URL", url), ("DATABASE_CA", ca)]);
    let database = Database::from_env(&env, Arc::new(Secrets::from_env(&env).unwrap())).unwrap();
    let tx = database.service_tx(NORD).await.map_err(|error| format!("{error:?}"))?;
    tx.rollback().await.map_err(|error| format!("{error:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_reaches_another_host_by_verified_tls_or_not_at_all() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let (own, other) = (Authority::new(), Authority::new());
    let fronts = [
        ("a certificate for this host", Some(own.server(ELSEWHERE, false)), true),
        ("a certificate for another host", Some(own.server("db.example.com", false)), false),
        ("a certificate that has expired", Some(own.server(ELSEWHERE, true)), false),
        ("a certificate of another authority", Some(other.server(ELSEWHERE, false)), false),
        ("no TLS", None, false),
    ];
    for (what, tls, good) in fronts {
        let front = Front::before(&db.functions_url, tls).await;
        for mode in MODES {
            let url = format!("{}{mode}", front.url(&db.functions_url, ELSEWHERE));
            for (trusted, ca) in [("its authority", own.pem.as_str()), ("no authority", "")] {
                let reached = begins(&url, ca).await;
                let wanted = good && !ca.is_empty();
                assert_eq!(reached.is_ok(), wanted, "{what}, {trusted} trusted, {mode}: {reached:?}");
            }
        }
        assert_eq!(front.unprotected(), 0, "{what}: the login went out unprotected");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_this_machine_the_url_decides() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let plain = Front::before(&db.functions_url, None).await;
    let own = Authority::new();
    let tls = Front::before(&db.functions_url, Some(own.server("127.0.0.1", false))).await;
    for host in ["127.0.0.1", "localhost"] {
        for mode in ["", "?sslmode=disable", "?sslmode=prefer"] {
            let url = format!("{}{mode}", plain.url(&db.functions_url, host));
            assert_eq!(begins(&url, "").await, Ok(()), "{host}{mode}");
        }
        for mode in ["?sslmode=require", "?sslmode=verify-full"] {
            let url = format!("{}{mode}", plain.url(&db.functions_url, host));
            assert!(begins(&url, "").await.is_err(), "{host}{mode}");
        }
    }
    let url = format!("{}?sslmode=verify-full", tls.url(&db.functions_url, "127.0.0.1"));
    assert_eq!((begins(&url, &own.pem).await, begins(&url, "").await.is_err()), (Ok(()), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_only_the_query_names_is_another_host_too() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let front = Front::before(&db.functions_url, None).await;
    let here = front.url(&db.functions_url, "localhost");
    for parameter in ["host=0.0.0.0", "hostaddr=0.0.0.0", "hostaddr=0.0.0.0&sslmode=disable"] {
        assert!(begins(&format!("{here}?{parameter}"), "").await.is_err(), "{parameter}");
    }
    assert_eq!(front.unprotected(), 0);
}

fn said<T: Debug>(outcome: anyhow::Result<T>) -> Result<String, String> {
    outcome.map(|done| format!("{done:?}")).map_err(|error| format!("{error:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_verifies_the_server_it_is_pointed_at() {
    type Door = for<'a> fn(&'a Path, &'a str) -> LocalBoxFuture<'a, Result<String, String>>;
    let doors: [(&str, Door); 7] = [
        ("migrate", |root, url| Box::pin(async move { said(database::migrate(root, url).await) })),
        ("migrate --dry-run", |root, url| Box::pin(async move { said(database::dry_run(root, url).await) })),
        ("seed", |root, url| Box::pin(async move { said(database::seed(root, url).await) })),
        ("functions_url", |_, url| Box::pin(async move { said(database::functions_url(url).await) })),
        ("create", |_, url| Box::pin(async move { said(database::create(url, "never", None).await) })),
        ("vector-index", |_, url| Box::pin(async move { said(vectors::drop(url, "atelier-nord").await) })),
        ("rebuild-billing", |_, url| Box::pin(async move { said(rebuild::rebuild(url, "atelier-nord").await) })),
    ];
    let db = TestDatabase::new(Server::Postgres18).await;
    let plain = Front::before(&db.url, None).await;
    let stranger = Front::before(&db.url, Some(Authority::new().server(ELSEWHERE, false))).await;
    let root = home::root();
    for (name, door) in doors {
        for (front, what) in [(&plain, "no TLS"), (&stranger, "a stranger's certificate")] {
            let url = format!("{}?sslmode=disable", front.url(&db.url, ELSEWHERE));
            let outcome = door(&root, &url).await;
            assert!(outcome.is_err(), "{name} before {what}: {outcome:?}");
        }
        assert_eq!(plain.unprotected() + stranger.unprotected(), 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_another_authority_from_its_environment() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let own = Authority::new();
    let front = Front::before(&db.url, Some(own.server(ELSEWHERE, false))).await;
    let url = front.url(&db.url, ELSEWHERE);
    let file = std::env::temp_dir().join(format!("{}.pem", uuid::Uuid::new_v4()));
    std::fs::write(&file, &own.pem).unwrap();
    let migrate = async |ca: String| {
        let mut command = Command::new(integration_tests::binaries().join("spine-local"));
        command
            .args(["migrate", "--dry-run"])
            .env("DATABASE_URL", &url)
            .env("DATABASE_CA", ca)
            .env_remove("MONGODB_URI");
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for ca in [own.pem.clone(), file.display().to_string(), own.pem.replace('\n', "\\n")] {
        let (code, said) = migrate(ca).await;
        assert_eq!(code, Some(0), "{said}");
    }
    let (code, said) = migrate(String::new()).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("certificate") && said.contains("DATABASE_CA"), "{said}");
    let (code, said) = migrate("not a certificate\n".to_owned()).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("DATABASE_CA"), "{said}");
    std::fs::remove_file(file).unwrap();
}
