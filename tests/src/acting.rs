//! Acting as somebody in the database itself, and what came of it.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::{
    TestDatabase,
    people::{Agent, Person},
};

/// Whoever acts: a role of the database with what it was told of its caller.
#[derive(Debug, Clone)]
pub struct Actor {
    /// What a failed check calls them.
    pub name: String,
    /// The role.
    pub role: &'static str,
    /// Claims of the token.
    pub claims: Value,
    /// Headers of the request.
    pub headers: Value,
    /// The one organisation of the system.
    pub service_org: Option<Uuid>,
}

impl Actor {
    /// A role that nobody is behind.
    #[must_use]
    pub fn role(role: &'static str) -> Self {
        Self { name: role.to_owned(), role, claims: json!({}), headers: json!({}), service_org: None }
    }

    /// A person through the Data API, with these claims.
    #[must_use]
    pub fn claiming(claims: Value) -> Self {
        Self { name: claims.to_string(), claims, ..Self::role("authenticated") }
    }

    /// A person through the Data API, working in their organisation.
    #[must_use]
    pub fn person(person: &Person) -> Self {
        Self { name: person.email.to_owned(), ..Self::claiming(person.claims()) }
    }

    /// A person through the Data API, in a session, with a token that names no organisation.
    #[must_use]
    pub fn in_session(person: &Person, session: Uuid) -> Self {
        let claims = json!({ "sub": person.id, "email": person.email, "session_id": session, "role": "authenticated" });
        Self { name: person.email.to_owned(), ..Self::claiming(claims) }
    }

    /// The system at work for one organisation.
    #[must_use]
    pub fn service(org: Uuid) -> Self {
        Self { service_org: Some(org), ..Self::role("spine_service") }
    }

    /// The same, inside a function.
    #[must_use]
    pub fn in_function(self) -> Self {
        Self { role: "spine_caller", ..self }
    }

    /// The same, with a claim set.
    #[must_use]
    pub fn with(mut self, claim: &str, value: Value) -> Self {
        self.claims[claim] = value;
        self
    }

    /// The same, with the header that chooses an organisation.
    #[must_use]
    pub fn with_org_header(mut self, org: &str) -> Self {
        self.headers = json!({ "spine-org": org });
        self
    }
}

/// Why the database refused a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// SQLSTATE.
    pub state: String,
    /// The message: of a named error its stable code.
    pub code: String,
    /// The detail: of a named error a sentence.
    pub detail: String,
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        let sqlx::Error::Database(error) = error else { panic!("not an answer of the database: {error}") };
        let detail = error
            .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
            .and_then(|error| error.detail())
            .unwrap_or_default()
            .to_owned();
        Self {
            state: error.code().map(|code| code.into_owned()).unwrap_or_default(),
            code: error.message().to_owned(),
            detail,
        }
    }
}

impl TestDatabase {
    /// A transaction of this actor.
    pub async fn begin_as(&self, actor: &Actor) -> PgConnection {
        let mut conn = self.admin().await;
        conn.execute("begin").await.unwrap();
        sqlx::query(
            "select set_config('request.jwt.claims', $1, true), set_config('request.headers', $2, true),
                    set_config('app.service_org', $3, true), set_config('role', $4, true)",
        )
        .bind(actor.claims.to_string())
        .bind(actor.headers.to_string())
        .bind(actor.service_org.map(|org| org.to_string()).unwrap_or_default())
        .bind(actor.role)
        .execute(&mut conn)
        .await
        .unwrap();
        conn
    }

    /// What a query answers this actor, as a list of JSON objects, in a transaction of its own that is committed.
    pub async fn ask(&self, actor: &Actor, query: &str) -> Result<Value, Refusal> {
        let mut conn = self.begin_as(actor).await;
        let answer = asked(&mut conn, query).await;
        // After a refusal this takes back what there is.
        conn.execute("commit").await?;
        conn.close().await.unwrap();
        answer
    }

    /// How many rows a statement of this actor touches, in a transaction of its own that is committed.
    pub async fn change(&self, actor: &Actor, statement: &str) -> Result<u64, Refusal> {
        let mut conn = self.begin_as(actor).await;
        let done = conn.execute(AssertSqlSafe(statement.to_owned())).await;
        conn.execute("commit").await?;
        conn.close().await.unwrap();
        Ok(done?.rows_affected())
    }

    /// Adds a row as this actor, in a transaction of its own that is committed. The id that it was given.
    pub async fn add(&self, actor: &Actor, statement: &str) -> Result<Uuid, Refusal> {
        let mut conn = self.begin_as(actor).await;
        let added = sqlx::query_scalar(AssertSqlSafe(format!("{statement} returning id"))).fetch_one(&mut conn).await;
        conn.execute("commit").await?;
        conn.close().await.unwrap();
        Ok(added?)
    }

    /// An agent that has signed in.
    pub async fn agent(&self, agent: &Agent) -> Actor {
        let hash: String = sqlx::query_scalar(
            "insert into public.agent_tokens (org_id, agent_id, token_hash) values ($1, $2, sha256($3)) returning encode(token_hash, 'hex')",
        )
        .bind(agent.org)
        .bind(agent.id)
        .bind(Uuid::new_v4().as_bytes().as_slice())
        .fetch_one(&mut self.admin().await)
        .await
        .unwrap();
        Actor { claims: json!({ "agent_token_sha256": hash }), ..Actor::role("spine_agent") }
    }

    /// A digest of every row of every table in schema public, in one query.
    pub async fn digest(&self) -> String {
        let mut admin = self.admin().await;
        // Compiling a query of so many parts takes longer than answering it.
        admin.execute("set jit = off").await.unwrap();
        let each: String = sqlx::query_scalar(
            "select string_agg(format('select %1$L || md5(coalesce(string_agg(t::text, e''\\n'' order by t::text), '''')) as d from public.%1$I t',
                                      relname), ' union all ')
               from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')",
        )
        .fetch_one(&mut admin)
        .await
        .unwrap();
        let whole = format!("select string_agg(d, ' ' order by d) from ({each}) x");
        sqlx::query_scalar(AssertSqlSafe(whole)).fetch_one(&mut admin).await.unwrap()
    }

    /// Remembers every row of every table in schema public, to see that refusals leave them as they are.
    pub async fn still(&self) -> Still<'_> {
        Still { db: self, digest: self.digest().await }
    }

    /// Waits until a connection waits for a lock of another.
    pub async fn until_blocked(&self, pid: i32) {
        self.until(&format!("select cardinality(pg_blocking_pids({pid})) > 0")).await;
    }

    /// Waits until a query says yes.
    ///
    /// # Panics
    /// If it does not within half a minute.
    pub async fn until(&self, query: &str) {
        let mut admin = self.admin().await;
        let said = async {
            while !sqlx::query_scalar::<_, bool>(AssertSqlSafe(query)).fetch_one(&mut admin).await.unwrap() {}
        };
        tokio::time::timeout(Duration::from_secs(30), said).await.unwrap_or_else(|_| panic!("not so: {query}"));
    }
}

/// A database in which nothing is to change.
#[derive(Debug)]
pub struct Still<'a> {
    db: &'a TestDatabase,
    digest: String,
}

impl Still<'_> {
    /// Checks that a call is refused by this name, and that it says why.
    pub async fn refused(&self, actor: &Actor, call: &str, state: &str, code: &str) {
        let Err(refusal) = self.db.ask(actor, &format!("select {call}")).await else {
            panic!("{}: {call} was not refused", actor.name)
        };
        assert_eq!((refusal.state.as_str(), refusal.code.as_str()), (state, code), "{}: {call}", actor.name);
        assert!(refusal.detail.len() > 20 && refusal.detail.ends_with('.'), "{call}: {refusal:?}");
    }

    /// Checks that nothing did.
    pub async fn unchanged(self) {
        assert_eq!(self.db.digest().await, self.digest, "a refused call changed something");
    }
}

/// What a query answers in the acting transaction, as a list of JSON objects.
pub async fn asked(conn: &mut PgConnection, query: &str) -> Result<Value, Refusal> {
    let listed = format!("select coalesce(jsonb_agg(to_jsonb(asked)), '[]') from ({query}) asked");
    Ok(sqlx::query_scalar(AssertSqlSafe(listed)).fetch_one(conn).await?)
}

/// Which server process a connection is.
pub async fn pid(conn: &mut PgConnection) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(conn).await.unwrap()
}

/// Tries a statement in the acting transaction and takes it back. How many rows it touched.
pub async fn attempt(conn: &mut PgConnection, statement: &str) -> Result<u64, Refusal> {
    conn.execute("savepoint attempt").await.unwrap();
    let done = conn.execute(AssertSqlSafe(statement.to_owned())).await;
    conn.execute("rollback to savepoint attempt").await.unwrap();
    Ok(done?.rows_affected())
}
