//! The documents of a MongoDB server, as functions see them.

use std::sync::Arc;

use anyhow::{Context, Result};
use shared::{config::Env, documents::Documents, secrets::Secrets};

/// Opens a database; no server is reached yet.
///
/// # Errors
/// If the address is none.
pub fn open(uri: &str, database: &str) -> Result<Documents> {
    let env = Env::from_iter([("MONGODB_URI", uri), ("MONGODB_DATABASE", database)]);
    let secrets = Arc::new(Secrets::from_env(&env)?);
    Ok(Documents::from_env(&env, secrets)?)
}

/// Creates the collections with their validators and indexes, or mends them. What was done, in words.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub async fn prepare(uri: &str, database: &str) -> Result<Vec<String>> {
    open(uri, database)?.ensure_schema().await.context("MongoDB's collections cannot be made")
}
