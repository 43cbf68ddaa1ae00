//! What tests stand on: a database of their own, copied from a migrated template, and a whole back office in front of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")]
#![expect(clippy::disallowed_methods, reason = "the environment says where a test's servers are")]

pub mod acting;
pub mod errors;
pub mod people;
mod sample;
mod servers;
pub mod tls;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use local::{
    database,
    home::Home,
    pooler::{PgBouncer, Program},
    servers::{Postgres, Version},
    stack::{self, Stack, StackConfig},
    testbed::{self, Template},
};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::{
    people::{Agent, Person},
    servers::{directory, place},
};
pub use crate::{
    sample::{full, sample, seed},
    servers::{binaries, bootstrap},
};
pub use local::testbed::Locale;

/// What Supabase does when a client connects to Realtime: partitions of messages, from yesterday to three days ahead.
pub const CONNECT_TO_REALTIME: &str = "
    do $$
    declare
        day date;
    begin
        for day in select generate_series(current_date - 1, current_date + 3, interval '1 day') loop
            execute format('create table if not exists realtime.%I partition of realtime.messages for values from (%L) to (%L)',
                           'messages_' || to_char(day, 'YYYY_MM_DD'), day, day + 1);
        end loop;
    end
    $$";

/// Which Postgres a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The oldest supported.
    Postgres16,
    /// The one everything runs on.
    Postgres18,
}

impl Server {
    /// What names of variables end with.
    fn suffix(self) -> &'static str {
        match self {
            Self::Postgres16 => "_16",
            Self::Postgres18 => "",
        }
    }

    fn version(self) -> Version {
        match self {
            Self::Postgres16 => Version::V16,
            Self::Postgres18 => Version::V18,
        }
    }

    /// A program that came with it, such as `pg_dump`.
    pub fn program(self, name: &str) -> PathBuf {
        PathBuf::from(place(&format!("SPINE_TEST_POSTGRES_BIN{}", self.suffix()))).join(name)
    }

    fn admin_url(self) -> String {
        place(&format!("SPINE_TEST_DATABASE_URL{}", self.suffix()))
    }

    /// What databases of a locale are copied from.
    async fn template(self, locale: Locale) -> &'static Template {
        static TEMPLATES: [OnceCell<Template>; 3] = [const { OnceCell::const_new() }; 3];
        let kept = match (self, locale) {
            (Self::Postgres16, Locale::C) => &TEMPLATES[0],
            (Self::Postgres18, Locale::C) => &TEMPLATES[1],
            (Self::Postgres18, Locale::CUtf8) => &TEMPLATES[2],
            (Self::Postgres16, Locale::CUtf8) => panic!("Postgres 16 has no builtin locales"),
        };
        let make = async || testbed::template(&local::home::root(), &self.admin_url(), locale).await.unwrap();
        kept.get_or_init(make).await
    }
}

/// The locale of a test's databases: `SPINE_TEST_LOCALE`, `c` or `c_utf8`, else one or the other by the test's name and the seed, so that a run
/// goes through about half of the suite in each. `./spine test --full` goes through all of it in both.
fn locale(server: Server) -> Locale {
    match (server, std::env::var("SPINE_TEST_LOCALE").as_deref()) {
        (Server::Postgres16, _) | (Server::Postgres18, Ok("c")) => Locale::C,
        (Server::Postgres18, Ok("c_utf8")) => Locale::CUtf8,
        (Server::Postgres18, Ok(other)) => panic!("SPINE_TEST_LOCALE is c or c_utf8, and not {other:?}"),
        (Server::Postgres18, Err(_)) => {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            let even = Sha256::digest(format!("{} {test}", seed()))[0].is_multiple_of(2);
            if even { Locale::C } else { Locale::CUtf8 }
        }
    }
}

/// A database of one test alone; dropped when the test ends.
#[derive(Debug)]
pub struct TestDatabase {
    admin_url: String,
    name: String,
    /// Where the superuser of this database logs in: to look and to arrange, never to be tested.
    pub url: String,
    /// Where functions log in.
    pub functions_url: String,
}

impl TestDatabase {
    /// Copies the template, in the locale that is this test's turn.
    pub async fn new(server: Server) -> Self {
        Self::in_locale(server, locale(server)).await
    }

    /// Makes one with nothing in it.
    pub async fn empty(server: Server) -> Self {
        let (admin_url, template) = (server.admin_url(), server.template(Locale::C).await);
        let name = format!("t_{}", Uuid::new_v4().simple());
        let url = database::create(&admin_url, &name, None).await.unwrap();
        let functions_url = database::with_database(&template.functions_url, &name).unwrap();
        Self { admin_url, name, url, functions_url }
    }

    /// Copies the template of a locale.
    pub async fn in_locale(server: Server, locale: Locale) -> Self {
        let (admin_url, template) = (server.admin_url(), server.template(locale).await);
        let name = format!("t_{}", Uuid::new_v4().simple());
        let url = testbed::copy(&admin_url, template, &name).await.unwrap();
        let functions_url = database::with_database(&template.functions_url, &name).unwrap();
        Self { admin_url, name, url, functions_url }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection as superuser.
    pub async fn admin(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// A connection as the functions' login role.
    pub async fn login(&self) -> PgConnection {
        PgConnection::connect(&self.functions_url).await.unwrap()
    }

    /// What a person's token reaches through the Data API: a transaction as `authenticated` with these claims.
    pub async fn data_api(&self, claims: &Value) -> PgConnection {
        self.acting("authenticated", claims).await
    }

    /// A transaction in `role` with these claims.
    pub async fn acting(&self, role: &str, claims: &Value) -> PgConnection {
        let mut conn = self.admin().await;
        conn.execute("begin").await.unwrap();
        sqlx::query("select set_config('request.jwt.claims', $1, true), set_config('role', $2, true)")
            .bind(claims.to_string())
            .bind(role)
            .execute(&mut conn)
            .await
            .unwrap();
        conn
    }

    /// One number, asked as superuser.
    pub async fn count(&self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut self.admin().await).await.unwrap()
    }

    /// One text, asked as superuser.
    pub async fn text(&self, query: &str) -> String {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut self.admin().await).await.unwrap()
    }

    /// Has a client connect to Realtime, which keeps what is sent from then on.
    pub async fn connect_to_realtime(&self) {
        self.run(CONNECT_TO_REALTIME).await;
    }

    /// Runs a statement as superuser.
    pub async fn run(&self, statement: &str) {
        self.admin().await.execute(AssertSqlSafe(statement.to_owned())).await.unwrap();
    }
}

/// Makes a database with the baseline what a Supabase project is.
const PROJECT: &str = "
    do $$
    begin
        if not exists (select from pg_roles where rolname = 'supabase_admin') then
            create role supabase_admin;
            create role project login createrole password 'project';
            grant anon, authenticated, service_role to project with admin option;
        end if;
    end $$;
    grant create on database <name> to project;
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

/// A Postgres of one test alone, which it may restart.
#[derive(Debug)]
pub struct OwnServer {
    home: Home,
    version: Version,
    postgres: Option<Postgres>,
}

impl OwnServer {
    /// Starts the newest.
    pub async fn start() -> Self {
        Self::of(Server::Postgres18).await
    }

    /// Starts one.
    pub async fn of(server: Server) -> Self {
        let (home, version) = (Home::open().unwrap(), server.version());
        let postgres = Some(Postgres::start(&home, version, Some(&home.run.join("own"))).await.unwrap());
        Self { home, version, postgres }
    }

    fn admin_url(&self) -> &str {
        &self.postgres.as_ref().unwrap().admin_url
    }

    /// Where the superuser logs in.
    pub fn url(&self) -> String {
        self.admin_url().to_owned()
    }

    /// A database with nothing in it, by this name. Its URL.
    pub async fn empty(&self, name: &str) -> String {
        database::create(self.admin_url(), name, None).await.unwrap()
    }

    /// What a new Supabase project is, by this name: the platform's roles and schemas belong to the platform, and the project's own
    /// role, which migrates, dumps and restores, is no superuser. The URLs of that role and of the platform's superuser.
    pub async fn project(&self, name: &str) -> (String, String) {
        let platform = self.empty(name).await;
        let mut admin = PgConnection::connect(&platform).await.unwrap();
        let baseline = std::fs::read_to_string(self.home.root.join("infra/postgres/baseline.sql")).unwrap();
        admin.execute(AssertSqlSafe(baseline)).await.unwrap();
        admin.execute(AssertSqlSafe(PROJECT.replace("<name>", name))).await.unwrap();
        (database::with_login(&platform, "project", "project").unwrap(), platform)
    }

    /// A migrated database with the seeded people.
    pub async fn database(&self) -> TestDatabase {
        let name = format!("t_{}", Uuid::new_v4().simple());
        let url = database::create(self.admin_url(), &name, None).await.unwrap();
        database::migrate(&self.home.root, &url).await.unwrap();
        database::seed(&self.home.root, &url).await.unwrap();
        let functions_url = database::functions_url(&url).await.unwrap();
        TestDatabase { admin_url: self.admin_url().to_owned(), name, url, functions_url }
    }

    /// Stops the server and starts it again with the same data. Where it listens then.
    pub async fn restart(&mut self) -> SocketAddr {
        let postgres = self.postgres.take();
        // Waiting for it to stop blocks, and others go on meanwhile.
        tokio::task::spawn_blocking(move || drop(postgres)).await.unwrap();
        let again = Postgres::start(&self.home, self.version, Some(&self.home.run.join("own"))).await.unwrap();
        let port = url::Url::parse(&again.admin_url).unwrap().port().unwrap();
        self.postgres = Some(again);
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Tells a database where its server is now.
    pub fn moved(&self, db: &mut TestDatabase) {
        db.admin_url = self.admin_url().to_owned();
        db.url = database::with_database(&db.admin_url, &db.name).unwrap();
    }
}

/// A transaction pooler before a database, with so many server connections. A test that needs one fails where there is no PgBouncer.
pub async fn pooler(db: &TestDatabase, size: usize) -> (PgBouncer, Home) {
    let path = place("SPINE_TEST_PGBOUNCER");
    assert!(
        !path.is_empty(),
        "there is no PgBouncer, and this test goes through one: install it, such as by apt install pgbouncer"
    );
    let program = Program { path: path.into(), libraries: place("SPINE_TEST_PGBOUNCER_LIBRARIES").into() };
    let home = Home::open().unwrap();
    let secret = db.text("select rolpassword from pg_authid where rolname = 'spine_functions'").await;
    let pooler = PgBouncer::start(&home, &program, &db.functions_url, Some(&secret), size).await.unwrap();
    (pooler, home)
}

/// What Postgres 18 has logged so far, of every database. A line says which, as in `<user@database>`.
pub fn database_log() -> String {
    String::from_utf8_lossy(&std::fs::read(place("SPINE_TEST_DATABASE_LOG")).unwrap()).into_owned()
}

/// Where moto answers for AWS.
pub fn aws_url() -> String {
    place("SPINE_TEST_AWS_URL")
}

/// Where the MongoDB-wire server is.
pub fn mongodb_uri() -> String {
    place("SPINE_TEST_MONGODB_URI")
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (admin_url, name) = (self.admin_url.clone(), self.name.clone());
        // A runtime of its own: the test's may be ending.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(database::drop(&admin_url, &name))
        });
        let _ = dropped.join();
    }
}

/// A back office with a database of its own.
#[derive(Debug)]
pub struct TestApp {
    /// The functions and what they stand in.
    pub stack: Stack,
    /// Their database.
    pub db: TestDatabase,
    /// What requests are sent with.
    pub client: Client,
    mongodb_uri: String,
    mongodb_database: String,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: reqwest::header::HeaderMap,
    /// JSON body.
    pub body: Value,
}

impl Answer {
    /// The body, if the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }

    /// Checks that it is a problem with this status and code, that its text is one of the known ones, and that it names the request.
    #[track_caller]
    pub fn expect_error(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status.as_u16(), self.body["code"].as_str()), (status, Some(code)), "{}", self.body);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        errors::check(status, code, self.body["detail"].as_str().unwrap_or_default());
        let (kind, title) = (format!("urn:spine:problem:{code}"), self.status.canonical_reason());
        assert_eq!(
            (self.body["type"].as_str(), self.body["title"].as_str()),
            (Some(kind.as_str()), title),
            "{}",
            self.body
        );
        assert_eq!(self.body["status"], status, "{}", self.body);
        assert!(self.body["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{}", self.body);
        self.body
    }
}

/// Runs `case` for every one of `cases`, so many at once, each lane a thread with a runtime of its own. Every case is run; those
/// that failed are told together.
pub fn abreast<C: Send, F: Future<Output = ()>>(
    most: usize,
    cases: impl IntoIterator<Item = C>,
    case: impl Fn(C) -> F + Sync,
) {
    let waiting = std::sync::Mutex::new(cases.into_iter().collect::<std::collections::VecDeque<C>>());
    let next = || waiting.lock().unwrap().pop_front();
    let failed: usize = std::thread::scope(|scope| {
        let lane = || {
            let mut failed = 0;
            while let Some(next) = next() {
                let one = std::panic::AssertUnwindSafe(|| {
                    let runtime =
                        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
                    runtime.block_on(case(next));
                });
                failed += usize::from(std::panic::catch_unwind(one).is_err());
            }
            failed
        };
        let lanes: Vec<_> = (0..most).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).sum()
    });
    assert_eq!(failed, 0, "{failed} cases failed; each is told above");
}

/// What a test wants otherwise.
#[derive(Debug, Default)]
pub struct Setup<'a> {
    /// Variables and secrets of the functions that are set or replaced.
    pub overrides: &'a [(&'a str, &'a str)],
    /// When a worker's invocation is cut off.
    pub worker_timeout: Option<Duration>,
    /// A database made elsewhere, instead of a new one.
    pub db: Option<TestDatabase>,
}

impl TestApp {
    /// Everything up, on Postgres 18.
    pub async fn start() -> Self {
        Self::set_up(Setup::default()).await
    }

    /// Everything up, with variables of the functions' environment set or replaced.
    pub async fn with(overrides: &[(&str, &str)]) -> Self {
        Self::set_up(Setup { overrides, ..Setup::default() }).await
    }

    /// Everything up, as the test wants it.
    pub async fn set_up(setup: Setup<'_>) -> Self {
        let db = match setup.db {
            Some(db) => db,
            None => TestDatabase::new(Server::Postgres18).await,
        };
        let mongodb_uri = mongodb_uri();
        let mongodb_database = db.name.clone();
        stack::prepare_documents(&mongodb_uri, &mongodb_database).await.unwrap();
        let config = StackConfig {
            database_url: db.functions_url.clone(),
            mongodb_uri: mongodb_uri.clone(),
            mongodb_database: mongodb_database.clone(),
            binaries: binaries(),
            directory: directory().join(&db.name),
            port: 0,
            visibility: Duration::from_millis(50),
            worker_timeout: setup.worker_timeout,
            wired: true,
            overrides: setup.overrides.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        };
        let stack = Stack::start(config).await.unwrap();
        let client = shared::http_client(Duration::from_secs(60)).unwrap();
        Self { stack, db, client, mongodb_uri, mongodb_database }
    }

    /// A token of this person, working in their organisation.
    pub fn token(&self, person: &Person) -> String {
        self.stack.sandbox.auth.sign_in(&person.user(), Some(person.org)).unwrap()
    }

    /// Sends a request with a token.
    pub async fn send(&self, method: Method, path: &str, token: &str, body: Option<&Value>) -> Answer {
        self.send_keyed(method, path, token, body, None).await
    }

    /// Sends a request with a token and an idempotency key.
    pub async fn send_keyed(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.stack.url)).bearer_auth(token);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        answer(request).await
    }

    /// Sends a POST with these very bytes.
    pub async fn post_raw(&self, path: &str, token: &str, content_type: &str, body: Vec<u8>) -> Answer {
        let request = self
            .client
            .post(format!("{}{path}", self.stack.url))
            .bearer_auth(token)
            .header("content-type", content_type)
            .body(body);
        answer(request).await
    }

    /// Sends a GET.
    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.send(Method::GET, path, token, None).await
    }

    /// Sends a POST.
    pub async fn post(&self, path: &str, token: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, token, Some(body)).await
    }

    /// Uploads a file as a photo. Its upload id.
    pub async fn upload(&self, token: &str, photo: &[u8]) -> Uuid {
        // An empty file is not announced as one.
        let wanted = json!({ "content_type": "image/jpeg", "bytes": photo.len().max(1) });
        let upload = self.post("/v1/uploads", token, &wanted).await.expect(201);
        let put = self.client.put(upload["url"].as_str().unwrap()).body(photo.to_vec()).send().await.unwrap();
        assert!(put.status().is_success(), "{}", put.status());
        upload["upload_id"].as_str().unwrap().parse().unwrap()
    }

    /// Uploads a small photo and asks for a render of it. The answer.
    pub async fn request_render(&self, token: &str, project: Uuid) -> Answer {
        let upload = self.upload(token, &small_photo()).await;
        self.post("/v1/render-requests", token, &render_body(project, upload)).await
    }

    /// Cancels the job of a render that was admitted, whatever became of it.
    pub async fn send_cancel(&self, render: &Value, token: &str) {
        let path = format!("{}/cancel", render["job"]["href"].as_str().unwrap());
        self.send(Method::POST, &path, token, None).await.expect(200);
    }

    /// Waits until the queue is empty, then shows the render.
    pub async fn finished(&self, token: &str, id: &str) -> Value {
        self.stack.renders.drained().await;
        self.get(&format!("/v1/render-requests/{id}"), token).await.expect(200)
    }

    /// Lets time pass: leases end, waits are over, and the sweep does what it does every minute.
    pub async fn a_minute_passes(&self) {
        self.db
            .run(
                "update jobs set lease_until = now() - interval '1 second' where status = 'running';
                 update jobs set run_after = now() where status = 'queued';
                 update outbox set next_attempt_at = now() where delivered_at is null",
            )
            .await;
        // What it cannot do now it does the next time.
        let _ = self.stack.sweep().await;
        self.stack.renders.drained().await;
        // On a busy machine half a second is short, and the next minute's sweep delivers what a worker then leaves.
        if self.db.count("select count(*) from outbox where delivered_at is null").await > 0 {
            self.db.run("update outbox set next_attempt_at = now() where delivered_at is null").await;
            let _ = self.stack.sweep().await;
        }
    }

    /// Checks that a render was made, paid for, told of and written down exactly once, and that nothing is held any more.
    pub async fn made_exactly_once(&self, org: Uuid, id: &str) -> Result<(), String> {
        let render = sqlx::query_scalar::<_, Value>(AssertSqlSafe(format!(
            "select jsonb_build_object(
                 'status', r.status,
                 'job', j.status,
                 'results', (select count(*) from render_results x where x.request_id = r.id),
                 'assets', (select count(*) from assets a join render_results x on x.id = a.source_id where x.request_id = r.id),
                 'billed', (select count(*) from billing_events b where b.source_id = r.id),
                 'requested', (select count(*) from audit_log a where a.record_id = r.id::text and a.action = 'render.requested'),
                 'completed', (select count(*) from audit_log a where a.record_id = r.id::text and a.action = 'render.completed'),
                 'held', (select count(*) from usage_reservations u where u.job_id = r.job_id and u.state = 'active'),
                 'settled', (select count(*) from usage_reservations u where u.job_id = r.job_id and u.state = 'settled'),
                 'open_calls', (select count(*) from provider_calls c where c.job_id = r.job_id and c.finished_at is null),
                 'undelivered', (select count(*) from outbox o where o.payload ->> 'request_id' = r.id::text and o.delivered_at is null),
                 'reserved', (select coalesce(sum(reserved_requests + reserved_tokens + reserved_cost_micro_usd), 0) from agent_usage
                               where not exists (select from usage_reservations u where u.state = 'active')))
               from render_requests r join jobs j on j.id = r.job_id where r.id = '{id}'"
        )))
        .fetch_one(&mut self.db.admin().await)
        .await
        .map_err(|error| error.to_string())?;
        let wanted = json!({
            "status": "completed", "job": "succeeded", "results": 1, "assets": 1, "billed": 1, "requested": 1, "completed": 1,
            "held": 0, "settled": 1, "open_calls": 0, "undelivered": 0, "reserved": 0,
        });
        if render != wanted {
            return Err(format!("{render}"));
        }
        match self.document(org, id).await {
            Some(document) if document["request_id"] == id => Ok(()),
            other => Err(format!("the document is {other:?}")),
        }
    }

    /// A file behind a signed URL.
    pub async fn download(&self, url: &str) -> Vec<u8> {
        let response = self.client.get(url).send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.status());
        response.bytes().await.unwrap().to_vec()
    }

    /// A document among the agents' outputs.
    pub async fn document(&self, org: Uuid, id: &str) -> Option<Value> {
        stack::find_document(&self.mongodb_uri, &self.mongodb_database, org, id.parse().unwrap()).await.unwrap()
    }

    /// Puts a document among the agents' outputs of an organisation.
    pub async fn put_document(&self, org: Uuid, id: &str, document: Value) {
        stack::put_document(&self.mongodb_uri, &self.mongodb_database, org, id.parse().unwrap(), document)
            .await
            .unwrap();
    }

    /// Issues a token to an agent, as an operator would.
    pub async fn agent_token(&self, agent: &Agent) -> String {
        let secret: String =
            format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()).chars().take(43).collect();
        let token = format!("spine_agent_{secret}");
        sqlx::query("insert into public.agent_tokens (org_id, agent_id, token_hash) values ($1, $2, sha256(convert_to($3, 'UTF8')))")
            .bind(agent.org)
            .bind(agent.id)
            .bind(&token)
            .execute(&mut self.db.admin().await)
            .await
            .unwrap();
        token
    }

    /// What the functions logged.
    pub fn logs(&self) -> String {
        let files = std::fs::read_dir(&self.stack.logs).unwrap().flatten();
        files.filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect()
    }
}

/// Sends a request that was built by hand.
pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = response.bytes().await.unwrap();
    Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
}

/// A photo that is quick to work on.
pub fn small_photo() -> Vec<u8> {
    let picture =
        image::RgbImage::from_fn(160, 120, |x, y| image::Rgb([u8::try_from(x).unwrap(), u8::try_from(y).unwrap(), 90]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

/// A request for a render of an upload.
pub fn render_body(project: Uuid, upload: Uuid) -> Value {
    json!({
        "project_id": project, "upload_id": upload, "model": "gemini-3.1-flash-image", "variants": 1,
        "parameters": { "style": "japandi", "walls": "lime plaster for Greta" },
    })
}
