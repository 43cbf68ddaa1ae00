//! One inbox: what is delivered and what is read, merged; who sees it, and how its threads are counted.

mod counted;
mod insights;
mod interleaved;
mod model;
mod read;

use std::sync::Arc;

use integration_tests::TestDatabase;
use shared::{config::Env, db::Database, secrets::Secrets};
use uuid::Uuid;

/// The system's door to a database.
pub(crate) async fn door(db: &TestDatabase) -> Database {
    let url = local::database::functions_url(&db.url).await.unwrap();
    let env: Env = [("DATABASE_URL".to_owned(), url)].into_iter().collect();
    let secrets = Arc::new(Secrets::from_env(&env).unwrap());
    Database::from_env(&env, secrets).unwrap()
}

/// Connects accounts of an organisation: their platform's ids.
pub(crate) async fn accounts(db: &TestDatabase, org: Uuid, platform: &str, ids: &[(Uuid, String)]) {
    let rows: Vec<String> = ids
        .iter()
        .map(|(id, platform_id)| {
            let api = if platform == "tiktok" { "tiktok_business" } else { "instagram_login" };
            format!("('{id}', '{org}', '{platform}', '{platform_id}', 'nord', '{api}')")
        })
        .collect();
    db.run(&format!(
        "insert into social_accounts (id, org_id, platform, platform_id, username, api) values {}",
        rows.join(", ")
    ))
    .await;
}
