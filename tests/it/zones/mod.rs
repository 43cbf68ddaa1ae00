//! Time zones: whose days, weeks and months an organisation's are, and what a change of zone does to what is counted by them.

mod names;
mod nights;
mod periods;
mod windows;
mod work;

use integration_tests::TestDatabase;
use serde_json::Value;
use sqlx::AssertSqlSafe;

/// The one value of a query, as text, asked as superuser in UTC.
async fn one(db: &TestDatabase, query: &str) -> String {
    let query = format!("select coalesce(to_jsonb(one) #>> '{{}}', 'null') from ({query}) x (one)");
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut db.admin().await).await.unwrap()
}

/// What a query gives of rows, as JSON.
async fn rows(db: &TestDatabase, query: &str) -> Value {
    let query = format!("select coalesce(jsonb_agg(to_jsonb(x)), '[]') from ({query}) x");
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut db.admin().await).await.unwrap()
}
