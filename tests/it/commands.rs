//! Commands that start servers of their own, and what they do to servers that were there before.

use std::{net::TcpListener, process::Command};

use integration_tests::{
    Server, TestDatabase,
    people::{BRICK, NORD},
};
use local::{
    database,
    home::Home,
    servers::{Mongo, Postgres, Version},
};
use serde_json::Value;
use uuid::Uuid;

/// What a command said, and with what code it ended.
struct Ended {
    code: Option<i32>,
    out: String,
    said: String,
}

fn run(args: &[&str], variables: &[(&str, &str)]) -> Ended {
    let output = Command::new(integration_tests::binaries().join("spine-local"))
        .args(args)
        .env_remove("DATABASE_URL")
        .env_remove("MONGODB_URI")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code(), out: text(&output.stdout), said: text(&output.stderr) }
}

/// Servers that somebody else runs, of which the password and everything that is stored must stay.
struct Production {
    home: Home,
    _postgres: Postgres,
    mongo: Mongo,
    url: String,
}

impl Production {
    async fn start() -> Self {
        let home = Home::open().unwrap();
        let postgres = Postgres::start(&home, Version::V18, None).await.unwrap();
        let mongo = Mongo::start(&home, None).await.unwrap();
        let url = database::create(&postgres.admin_url, "prod", None).await.unwrap();
        database::migrate(&home.root, &url).await.unwrap();
        let production = Self { home, _postgres: postgres, mongo, url };
        production.execute("alter role spine_functions password 'production'").await;
        production
    }

    async fn execute(&self, statement: &'static str) {
        use sqlx::{Connection, Executor};
        let mut conn = sqlx::PgConnection::connect(&self.url).await.unwrap();
        conn.execute(statement).await.unwrap();
    }

    /// Passwords, and how many rows of what a demo would add to.
    async fn state(&self) -> (Vec<Option<String>>, Vec<i64>) {
        use sqlx::Connection;
        let mut conn = sqlx::PgConnection::connect(&self.url).await.unwrap();
        let passwords = sqlx::query_scalar("select rolpassword from pg_authid order by rolname");
        let rows = sqlx::query_scalar(
            "select count(*) from auth.users union all select count(*) from public.organizations
             union all select count(*) from public.plan_prices union all select count(*) from public._sqlx_migrations",
        );
        (passwords.fetch_all(&mut conn).await.unwrap(), rows.fetch_all(&mut conn).await.unwrap())
    }
}

/// A port that is taken: an `up` that got so far as to listen would end.
fn taken_port() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    (listener, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_and_up_touch_no_server_that_the_environment_alone_names() {
    let production = Production::start().await;
    let (_listener, port) = taken_port();
    let before = production.state().await;
    for args in [["demo", "--json"].as_slice(), &["up", "--port", &port]] {
        for (variable, value, flag) in [
            ("DATABASE_URL", production.url.as_str(), "--database-url"),
            ("MONGODB_URI", &production.mongo.uri, "--mongodb-uri"),
        ] {
            let ended = run(args, &[(variable, value)]);
            assert_eq!(ended.code, Some(2), "{args:?} with {variable}: {}", ended.said);
            assert!(ended.said.contains(variable) && ended.said.contains(flag), "{}", ended.said);
            // Neither the one nor anything that it might have printed on the way.
            assert!(!ended.said.contains("postgres://") && ended.out.is_empty(), "{} {}", ended.said, ended.out);
            assert_eq!(production.state().await, before, "{args:?} with {variable}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_holds_other_organisations_than_the_seeds_is_refused() {
    let production = Production::start().await;
    let (_listener, port) = taken_port();
    database::seed(&production.home.root, &production.url).await.unwrap();
    let login = database::with_login(&production.url, "spine_functions", "production").unwrap();
    let other = Uuid::from_u128(7);
    let store = |org: Uuid| {
        let uri = production.mongo.uri.clone();
        async move {
            let client = mongodb::Client::with_uri_str(&uri).await.unwrap();
            let documents = client.database("spine").collection("agent_outputs");
            documents.insert_one(mongodb::bson::doc! { "org_id": org.to_string() }).await.unwrap();
        }
    };
    let refused = async |flag: &str, value: &str, why: &str| {
        let before = production.state().await;
        for args in [["demo", "--json"].as_slice(), &["up", "--port", &port]] {
            let ended = run(&[args, &[flag, value]].concat(), &[]);
            assert_eq!(ended.code, Some(2), "{args:?} {flag}: {}", ended.said);
            assert!(ended.said.contains(flag) && ended.said.contains(why), "{why}: {}", ended.said);
            assert_eq!(production.state().await, before, "{args:?} {flag}");
        }
    };
    // This login would see no organisation whichever there are.
    refused("--database-url", &login, "cannot see").await;
    production.execute("insert into public.organizations (name, slug) values ('Somebody', 'somebodys')").await;
    refused("--database-url", &production.url, "somebodys").await;
    store(NORD).await;
    store(BRICK).await;
    store(other).await;
    refused("--mongodb-uri", &production.mongo.uri, &other.to_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_on_servers_that_are_named_changes_no_password_and_leaves_no_login() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let roles = "select coalesce(string_agg(rolname || ' ' || coalesce(rolpassword, ''), ',' order by rolname), '') from pg_authid where rolname ~ '^spine'";
    let state = async || db.text(roles).await;
    let before = state().await;
    let uri = integration_tests::mongodb_uri();
    let ended = run(&["demo", "--json", "--database-url", &db.url, "--mongodb-uri", &uri], &[]);
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.out, ended.said);
    let steps: Vec<Value> = ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(steps.len() > 20 && steps.iter().all(|step| step["ok"] == true), "{}", ended.out);
    for step in steps {
        assert!(step["detail"].as_str().unwrap().contains(|digit: char| digit.is_ascii_digit()), "{step}");
    }
    assert_eq!(state().await, before);
    // It ran there, and nowhere else.
    assert_eq!(db.count("select count(*) from render_requests where status = 'completed'").await, 1);
}
