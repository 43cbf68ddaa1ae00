//! Transactions that run as somebody: [`CallerTx`] as a person or agent, [`ServiceTx`] as the system inside one organisation,
//! [`OwnerTx`] as the system inside whichever organisation owns what a provider sent.
//!
//! There is no other way to reach Postgres, and only `shared` can issue SQL through these.
//!
//! Role, claims and organisation are transaction-local and set by the same message that begins the transaction, so a signed-in
//! read takes three round trips: begin with context, the query, commit. One connection per process is kept and no pool: Lambda
//! sends one event at a time, and a pool pings a connection each time it is returned.

use std::{ops::DerefMut, str::FromStr, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures::{future::BoxFuture, stream::BoxStream};
use serde_json::json;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Either, Execute, Executor, PgConnection, Postgres, SqlStr,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::timeout,
};
use uuid::Uuid;

use crate::{
    auth::{Caller, Identity},
    config::{ConfigError, Env},
    postgres::Trust,
    secrets::{Secret, SecretError, Secrets},
};

/// How the database is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Straight, or through a session pooler: statements are prepared once by name.
    Direct,
    /// Through a transaction pooler: no statement has a name, which costs a second round trip each.
    TransactionPooler,
}

impl FromStr for Mode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "direct" => Ok(Self::Direct),
            "transaction_pooler" => Ok(Self::TransactionPooler),
            _ => Err("expected `direct` or `transaction_pooler`"),
        }
    }
}

/// Why no transaction could be begun or ended.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The connection string is not to be had.
    #[error("the database's address is not available")]
    Secret(#[from] SecretError),
    /// The server refused or was not reached.
    #[error("the database is not reachable")]
    Database(#[from] sqlx::Error),
    /// The server did not answer.
    #[error("the database did not answer in time")]
    Timeout,
    /// The caller is an agent whose token does not stand: unknown, expired or revoked, or the agent is paused.
    #[error("the agent's token does not stand")]
    AgentRefused,
}

/// How long a transaction may take to begin, connection included.
const BEGIN: Duration = Duration::from_secs(5);

/// The door to Postgres. Connects on first use; secret `DATABASE_URL`, settings `DATABASE_MODE` and `DATABASE_CA`.
#[derive(Debug, Clone)]
pub struct Database {
    secrets: Arc<Secrets>,
    mode: Mode,
    trust: Trust,
    idle: Arc<Mutex<Option<PgConnection>>>,
}

impl Database {
    /// Reads `DATABASE_MODE` (default `direct`) and `DATABASE_CA`; connects to nothing yet.
    ///
    /// # Errors
    /// [`ConfigError`] if the mode is not one of the two, or `DATABASE_CA` holds no certificate.
    pub fn from_env(env: &Env, secrets: Arc<Secrets>) -> Result<Self, ConfigError> {
        let mode = env.parsed("DATABASE_MODE", "`direct` or `transaction_pooler`")?.unwrap_or(Mode::Direct);
        Ok(Self { secrets, mode, trust: Trust::from_env(env)?, idle: Arc::default() })
    }

    /// Begins a transaction in which every statement runs as `caller`. The same message asks whether an agent's token stands.
    ///
    /// # Errors
    /// [`DbError`] if the database cannot be reached or refuses the login; [`DbError::AgentRefused`].
    pub async fn caller_tx(&self, caller: &Caller) -> Result<CallerTx, DbError> {
        let (role, asks) = match caller.identity {
            Identity::Person { .. } => ("spine_caller", ""),
            Identity::Agent { .. } => ("spine_agent", "; select where app.agent_id() is not null"),
        };
        let headers = caller.org.map_or_else(String::new, |org| json!({ "spine-org": org }).to_string());
        let settings =
            [("request.jwt.claims", caller.claims_json()), ("request.headers", headers), ("role", role.to_owned())];
        let tx = CallerTx(self.begin(begin_statement(&settings) + asks).await?);
        // One row from the settings, and one from what is asked.
        if !asks.is_empty() && tx.answered < 2 {
            tx.rollback().await?;
            return Err(DbError::AgentRefused);
        }
        Ok(tx)
    }

    /// Begins a transaction of the system, confined to `org`.
    ///
    /// # Errors
    /// [`DbError`] as above.
    pub async fn service_tx(&self, org: Uuid) -> Result<ServiceTx, DbError> {
        let settings = [("app.service_org", org.to_string()), ("role", "spine_service".to_owned())];
        Ok(ServiceTx(self.begin(begin_statement(&settings)).await?))
    }

    /// Begins a transaction of the system in no organisation: it sees no tenant's row, and may only ask the functions that
    /// answer "whose is this?" with ids.
    ///
    /// # Errors
    /// [`DbError`] as above.
    pub async fn directory_tx(&self) -> Result<DirectoryTx, DbError> {
        Ok(DirectoryTx(self.begin(begin_statement(&[("role", "spine_service".to_owned())])).await?))
    }

    /// Begins a transaction of the system in the organisation that owns an object of Stripe's, found by the object's id and by
    /// those it names; in none, if nobody is known. The same message begins and finds.
    ///
    /// # Errors
    /// [`DbError`] as above.
    pub async fn stripe_tx(&self, object: &str, refs: &[String]) -> Result<OwnerTx, DbError> {
        let begin = begin_statement(&[("role", "spine_service".to_owned())]);
        let statement =
            format!("{begin}; select app.enter_stripe({}, {}::jsonb)", text(object), text(&json!(refs).to_string()));
        Ok(OwnerTx(self.begin(statement).await?))
    }

    async fn begin(&self, statement: String) -> Result<Tx, DbError> {
        let mut idle = Arc::clone(&self.idle).lock_owned().await;
        // A connection that slept through a freeze may be dead, and one whose other end is gone may not say so: nothing has been
        // asked of it yet, so once more with a new one.
        if let Some(mut kept) = idle.take()
            && let Ok(Ok(begun)) = timeout(BEGIN, kept.execute(AssertSqlSafe(statement.clone()))).await
        {
            return Ok(Tx { conn: Some(kept), idle, mode: self.mode, answered: begun.rows_affected() });
        }
        let connected = timeout(BEGIN, async {
            let mut conn = self.connect().await?;
            let begun = conn.execute(AssertSqlSafe(statement)).await?;
            Ok::<_, DbError>((conn, begun))
        });
        let (conn, begun) = connected.await.map_err(|_| DbError::Timeout)??;
        Ok(Tx { conn: Some(conn), idle, mode: self.mode, answered: begun.rows_affected() })
    }

    async fn connect(&self) -> Result<PgConnection, DbError> {
        let url = self.secrets.get(Secret::DatabaseUrl).await?;
        match self.login(url.expose()).await {
            Err(sqlx::Error::Database(error)) if matches!(error.code().as_deref(), Some("28P01" | "28000")) => {
                let url = self.secrets.refetch(Secret::DatabaseUrl, &url).await?;
                Ok(self.login(url.expose()).await?)
            }
            other => Ok(other?),
        }
    }

    async fn login(&self, url: &str) -> Result<PgConnection, sqlx::Error> {
        let mut options = self.trust.options(url)?.application_name("spine").disable_statement_logging();
        if self.mode == Mode::TransactionPooler {
            options = options.statement_cache_capacity(0);
        }
        PgConnection::connect_with(&options).await
    }
}

/// One message: begin, then every setting. Values are hex-coded, so no text of a token can end the literal it stands in.
fn begin_statement(settings: &[(&'static str, String)]) -> String {
    let settings: Vec<String> =
        settings.iter().map(|(name, value)| format!("set_config('{name}', {}, true)", text(value))).collect();
    format!("begin; select {}", settings.join(", "))
}

/// Text as a literal that nothing in it can end.
fn text(value: &str) -> String {
    format!("convert_from(decode('{}', 'hex'), 'UTF8')", hex::encode(value))
}

/// An open transaction, whoever it runs as.
///
/// Dropped without an end, it takes its connection with it: the server rolls back as the socket closes, and nothing half done
/// is ever handed to the next user.
#[derive(Debug)]
pub struct Tx {
    conn: Option<PgConnection>,
    idle: OwnedMutexGuard<Option<PgConnection>>,
    mode: Mode,
    /// How many rows the message answered that began it.
    answered: u64,
}

impl Tx {
    /// Visible to `shared` only: functions cannot issue SQL.
    pub(crate) fn conn(&mut self) -> Result<Conn<'_>, sqlx::Error> {
        let named = self.mode == Mode::Direct;
        // Absent only after an end, which consumes the transaction.
        self.conn.as_mut().map(|inner| Conn { inner, named }).ok_or(sqlx::Error::PoolClosed)
    }

    async fn end(mut self, statement: &'static str) -> Result<(), DbError> {
        if let Some(mut conn) = self.conn.take() {
            conn.execute(statement).await?;
            *self.idle = Some(conn);
        }
        Ok(())
    }
}

macro_rules! transaction {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(Tx);

        impl $name {
            /// Makes what was done visible to others.
            ///
            /// # Errors
            /// [`DbError`] if the server did not confirm; then it is unknown whether it happened.
            pub async fn commit(self) -> Result<(), DbError> {
                self.0.end("commit").await
            }

            /// Undoes everything, and waits until it is undone.
            ///
            /// # Errors
            /// [`DbError`] if the server did not confirm; the connection is then closed, which undoes it too.
            pub async fn rollback(self) -> Result<(), DbError> {
                self.0.end("rollback").await
            }
        }

        impl std::ops::Deref for $name {
            type Target = Tx;
            fn deref(&self) -> &Tx {
                &self.0
            }
        }

        impl DerefMut for $name {
            fn deref_mut(&mut self) -> &mut Tx {
                &mut self.0
            }
        }
    };
}

transaction!(
    /// A transaction in which every statement runs as one verified person or agent.
    CallerTx
);
transaction!(
    /// A transaction of the system, confined to one organisation.
    ServiceTx
);
transaction!(
    /// A transaction of the system in no organisation: ids from single-purpose functions, and no rows.
    DirectoryTx
);

transaction!(
    /// A transaction of the system, confined to the organisation that owns what a provider sent; if nobody is known to, it sees no
    /// tenant's row.
    OwnerTx
);

/// A connection that names its statements or does not, as the connection setting says.
#[derive(Debug)]
pub(crate) struct Conn<'c> {
    inner: &'c mut PgConnection,
    named: bool,
}

/// A query whose statement gets a name only where the connection allows it.
struct Named<E> {
    query: E,
    named: bool,
}

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Named<E> {
    fn sql(self) -> SqlStr {
        self.query.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.query.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<sqlx::postgres::PgArguments>, sqlx::error::BoxDynError> {
        self.query.take_arguments()
    }

    fn persistent(&self) -> bool {
        self.named && self.query.persistent()
    }
}

impl<'c> Executor<'c> for Conn<'c> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.inner.fetch_many(Named { query, named: self.named })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.inner.fetch_optional(Named { query, named: self.named })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        self.inner.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        self.inner.describe(sql)
    }
}

/// The clock a function is given: production passes [`Utc::now`], tests what they need.
pub type Clock = fn() -> DateTime<Utc>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_claim_can_end_the_literal_it_stands_in() {
        let statement = begin_statement(&[("request.jwt.claims", "{\"a\":\"'; drop table x; --\"}".to_owned())]);
        assert!(!statement.contains("drop table"));
        assert_eq!(statement.matches('\'').count(), 8);
    }
}
