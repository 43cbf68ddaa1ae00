//! Transactions that run as somebody: [`CallerTx`] as a person or agent, [`ServiceTx`] as the system inside one organisation,
//! [`OwnerTx`] as the system inside whichever organisation owns what a provider sent.
//!
//! There is no other way to reach Postgres, and only `shared` can issue SQL through these.
//!
//! Role, claims and organisation are transaction-local and set by the same message that begins the transaction, so a signed-in
//! read takes three round trips: begin with context, the query, commit. One connection per process is kept and no pool: Lambda
//! sends one event at a time, and a pool pings a connection each time it is returned.

use std::{
    io,
    ops::DerefMut,
    str::FromStr,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use serde_json::json;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Either, Execute, Executor, PgConnection, Postgres, SqlStr,
    postgres::{PgDatabaseError, PgQueryResult, PgRow, PgSeverity, PgStatement, PgTypeInfo},
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
    /// The server refused to commit, and has taken everything back.
    #[error("the database refused to commit")]
    Refused(#[source] sqlx::Error),
    /// The server was asked to commit, and it is not known whether it did.
    #[error("the database did not confirm a commit")]
    Unconfirmed(#[source] sqlx::Error),
}

/// How long a transaction may take to begin, connection included; and how long a rollback is waited for.
const BEGIN: Duration = Duration::from_secs(5);
/// How long any other exchange may take: longer than the server lets a statement run, so that its own word of it comes first, and
/// within what a request has.
const EXCHANGE: Duration = Duration::from_secs(26);

/// What a failure of the database says of another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server cannot be reached or cannot serve; it may in a moment.
    Gone,
    /// The server serves, and others were in the way.
    Busy,
    /// The same would happen again.
    Ours,
}

impl Fault {
    /// Tells faults apart: by the kind of error, and of what the server answered by the class of its code.
    pub(crate) fn of(error: &sqlx::Error) -> Self {
        let answered = match error {
            sqlx::Error::Database(answered) => answered,
            // What came was no answer, so nothing else on that connection is.
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => return Self::Gone,
            _ => return Self::Ours,
        };
        let code = answered.code().unwrap_or_default();
        match &*code {
            // Statement timeout, lock timeout, serialization failure, deadlock.
            "57014" | "55P03" | "40001" | "40P01" => Self::Busy,
            // A server that became a standby, and sessions that it ended for their transaction's time.
            "25006" | "25P03" | "25P04" => Self::Gone,
            // Connection, resources, the operator, the system.
            code if ["08", "53", "57P", "58"].iter().any(|class| code.starts_with(class)) => Self::Gone,
            _ => Self::Ours,
        }
    }
}

fn late() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database did not answer in time"))
}

fn lost() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::NotConnected, "the connection was lost before"))
}

/// The door to Postgres. Connects on first use; secret `DATABASE_URL`, settings `DATABASE_MODE`,
/// `DATABASE_CA` and `DATABASE_TIMEOUT_MS`.
#[derive(Debug, Clone)]
pub struct Database {
    secrets: Arc<Secrets>,
    mode: Mode,
    trust: Trust,
    exchange: Duration,
    idle: Arc<Mutex<Option<PgConnection>>>,
}

impl Database {
    /// Reads `DATABASE_MODE` (default `direct`), `DATABASE_CA` and `DATABASE_TIMEOUT_MS`; connects to nothing yet.
    ///
    /// # Errors
    /// [`ConfigError`] if the mode is not one of the two, `DATABASE_CA` holds no certificate, or the time is none.
    pub fn from_env(env: &Env, secrets: Arc<Secrets>) -> Result<Self, ConfigError> {
        let mode = env.parsed("DATABASE_MODE", "`direct` or `transaction_pooler`")?.unwrap_or(Mode::Direct);
        let exchange = env.duration_ms("DATABASE_TIMEOUT_MS", EXCHANGE)?;
        Ok(Self { secrets, mode, trust: Trust::from_env(env)?, exchange, idle: Arc::default() })
    }

    /// Runs `work` in a transaction in which every statement runs as `caller`: commits what succeeds, and undoes what fails.
    ///
    /// The work is boxed, since a function's steps within each other are more than the compiler will lay out.
    ///
    /// # Errors
    /// The work's own, or [`DbError`] if the transaction could not be begun or ended; [`DbError::Unconfirmed`] if it is not known whether
    /// it was committed.
    pub async fn caller<T, E: From<DbError>>(
        &self,
        caller: &Caller,
        work: impl AsyncFnOnce(&mut CallerTx) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut tx = self.caller_tx(caller).await?;
        let outcome = Box::pin(work(&mut tx)).await;
        tx.conclude(outcome).await
    }

    /// As [`Database::caller`], as the system inside `org`.
    ///
    /// # Errors
    /// As [`Database::caller`].
    pub async fn service<T, E: From<DbError>>(
        &self,
        org: Uuid,
        work: impl AsyncFnOnce(&mut ServiceTx) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut tx = self.service_tx(org).await?;
        let outcome = Box::pin(work(&mut tx)).await;
        tx.conclude(outcome).await
    }

    /// As [`Database::caller`], as the system in no organisation.
    ///
    /// # Errors
    /// As [`Database::caller`].
    pub async fn directory<T, E: From<DbError>>(
        &self,
        work: impl AsyncFnOnce(&mut DirectoryTx) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut tx = self.directory_tx().await?;
        let outcome = Box::pin(work(&mut tx)).await;
        tx.conclude(outcome).await
    }

    /// As [`Database::caller`], as the system in the organisation that owns an object of Stripe's; see [`Database::stripe_tx`].
    ///
    /// # Errors
    /// As [`Database::caller`].
    pub async fn stripe<T, E: From<DbError>>(
        &self,
        object: &str,
        refs: &[String],
        work: impl AsyncFnOnce(&mut OwnerTx) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut tx = self.stripe_tx(object, refs).await?;
        let outcome = Box::pin(work(&mut tx)).await;
        tx.conclude(outcome).await
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
        let limit = self.exchange.min(BEGIN);
        // A connection that slept through a freeze may be dead, and one whose other end is gone may not say so: nothing has been
        // asked of it yet, so once more with a new one.
        let kept = match idle.take() {
            Some(mut kept) => match timeout(limit, kept.execute(AssertSqlSafe(statement.clone()))).await {
                Ok(Ok(begun)) => Some((kept, begun)),
                _ => None,
            },
            None => None,
        };
        let (conn, begun) = match kept {
            Some(begun) => begun,
            None => {
                let connected = timeout(limit, async {
                    let mut conn = self.connect().await?;
                    let begun = conn.execute(AssertSqlSafe(statement)).await?;
                    Ok::<_, DbError>((conn, begun))
                });
                connected.await.map_err(|_| DbError::Timeout)??
            }
        };
        let answered = begun.rows_affected();
        Ok(Tx { conn: Some(conn), lost: false, idle, mode: self.mode, answered, exchange: self.exchange })
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

/// Text as a literal that nothing in it can end. It has the collation that columns have: `convert_from` takes a name, and what is made
/// from a name has the collation of names, which no index of text serves.
fn text(value: &str) -> String {
    format!(r#"convert_from(decode('{}', 'hex'), 'UTF8') collate "default""#, hex::encode(value))
}

/// An open transaction, whoever it runs as.
///
/// Dropped without an end, or after an exchange that was not answered, it takes its connection with it: the server rolls back as the
/// socket closes, and nothing half done is ever handed to the next user.
#[derive(Debug)]
pub struct Tx {
    conn: Option<PgConnection>,
    /// Whether an exchange failed in a way after which nothing more can be asked.
    lost: bool,
    idle: OwnedMutexGuard<Option<PgConnection>>,
    mode: Mode,
    /// How many rows the message answered that began it.
    answered: u64,
    exchange: Duration,
}

impl Tx {
    /// Visible to `shared` only: functions cannot issue SQL.
    pub(crate) fn conn(&mut self) -> Result<Conn<'_>, sqlx::Error> {
        if self.lost {
            return Err(lost());
        }
        let (named, limit) = (self.mode == Mode::Direct, self.exchange);
        // Absent only after an end, which consumes the transaction.
        let inner = self.conn.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        Ok(Conn { inner, lost: &mut self.lost, named, limit })
    }

    async fn end(mut self, statement: &'static str, limit: Duration) -> Result<(), sqlx::Error> {
        let Some(mut conn) = self.conn.take() else { return Ok(()) };
        if self.lost {
            // Dropped here, which closes it.
            return Err(lost());
        }
        timeout(limit, conn.execute(statement)).await.map_err(|_| late())??;
        *self.idle = Some(conn);
        Ok(())
    }

    async fn commit(self) -> Result<(), DbError> {
        let (limit, asked) = (self.exchange, !self.lost);
        self.end("commit", limit).await.map_err(|error| match error {
            sqlx::Error::Database(_) if Fault::of(&error) != Fault::Gone => DbError::Refused(error),
            error if asked => DbError::Unconfirmed(error),
            error => DbError::Database(error),
        })
    }

    async fn rollback(self) -> Result<(), DbError> {
        let limit = self.exchange.min(BEGIN);
        Ok(self.end("rollback", limit).await?)
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
            /// [`DbError::Unconfirmed`] if the server did not answer: then it is unknown whether it happened.
            pub async fn commit(self) -> Result<(), DbError> {
                self.0.commit().await
            }

            /// Undoes everything, and waits until it is undone.
            ///
            /// # Errors
            /// [`DbError`] if the server did not confirm; the connection is then closed, which undoes it too.
            pub async fn rollback(self) -> Result<(), DbError> {
                self.0.rollback().await
            }

            async fn conclude<T, E: From<DbError>>(self, outcome: Result<T, E>) -> Result<T, E> {
                match outcome {
                    Ok(value) => {
                        self.commit().await?;
                        Ok(value)
                    }
                    Err(error) => {
                        // The first error is the cause. A rollback that fails closes the connection, which undoes everything too.
                        if let Err(error) = self.rollback().await {
                            tracing::debug!(%error, "a rollback was not confirmed");
                        }
                        Err(error)
                    }
                }
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

/// A connection that names its statements or does not, as the connection setting says, and waits for each so long.
#[derive(Debug)]
pub(crate) struct Conn<'c> {
    inner: &'c mut PgConnection,
    lost: &'c mut bool,
    named: bool,
    limit: Duration,
}

/// Whether nothing more can be asked after this.
fn loses(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(answered) => {
            let severity = answered.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::severity);
            matches!(severity, Some(PgSeverity::Fatal | PgSeverity::Panic))
        }
        other => Fault::of(other) == Fault::Gone,
    }
}

/// What comes of a statement, until its time is over.
fn within<'e, T: 'e>(
    mut answer: BoxStream<'e, Result<T, sqlx::Error>>,
    limit: Duration,
    lost: &'e mut bool,
) -> BoxStream<'e, Result<T, sqlx::Error>> {
    let mut over = Box::pin(tokio::time::sleep(limit));
    stream::poll_fn(move |cx| {
        if *lost {
            return Poll::Ready(None);
        }
        let next = match answer.poll_next_unpin(cx) {
            Poll::Pending => {
                ready!(over.as_mut().poll(cx));
                Some(Err(late()))
            }
            Poll::Ready(next) => next,
        };
        if let Some(Err(error)) = &next {
            *lost = loses(error);
        }
        Poll::Ready(next)
    })
    .boxed()
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
        let Self { inner, lost, named, limit } = self;
        within(inner.fetch_many(Named { query, named }), limit, lost)
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let Self { inner, lost, named, limit } = self;
        let row = inner.fetch_optional(Named { query, named });
        Box::pin(async move {
            let row = timeout(limit, row).await.unwrap_or_else(|_| Err(late()));
            row.inspect_err(|error| *lost = loses(error))
        })
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
