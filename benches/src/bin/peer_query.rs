//! The smallest function that asks Postgres: `lambda_http`, `sqlx`, one connection, one query. No token, no tenant, no policy.

use lambda_http::{Body, Error, Request, Response, run, service_fn};
use sqlx::{Connection, PgConnection};
use tokio::sync::Mutex;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let kept: Mutex<Option<PgConnection>> = Mutex::default();
    let kept = &kept;
    run(service_fn(move |_: Request| async move {
        let mut kept = kept.lock().await;
        let conn = match kept.as_mut() {
            Some(conn) => conn,
            None => {
                #[expect(clippy::disallowed_methods, reason = "a peer has no settings of its own")]
                let conn = PgConnection::connect(&std::env::var("DATABASE_URL")?).await?;
                kept.insert(conn)
            }
        };
        let answer: i64 =
            sqlx::query_scalar("select count(*) from pg_class where oid < $1").bind(20_000_i64).fetch_one(conn).await?;
        Ok::<_, Error>(Response::new(Body::from(answer.to_string())))
    }))
    .await
}
