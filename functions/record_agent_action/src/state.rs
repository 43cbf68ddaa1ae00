//! What one cold start builds. Nothing here connects to anything before it is used.

use std::sync::Arc;

use chrono::Utc;
use shared::{
    auth::Authenticator,
    config::Env,
    db::{Clock, Database},
    documents::Documents,
    lambda,
    objects::Objects,
    secrets::Secrets,
};

/// Everything the function holds between events; no per-request data.
#[derive(Debug)]
pub struct State {
    pub(crate) auth: Authenticator,
    pub(crate) clock: Clock,
    pub(crate) db: Database,
    pub(crate) documents: Documents,
    pub(crate) objects: Objects,
    pub(crate) secrets: Arc<Secrets>,
}

impl State {
    /// Reads the environment.
    ///
    /// # Errors
    /// Names the variable that is missing or wrong.
    pub fn from_env() -> Result<Self, lambda::Error> {
        let env = Env::from_process();
        let secrets = Arc::new(Secrets::from_env(&env)?);
        Ok(Self {
            auth: Authenticator::from_env(&env, Arc::clone(&secrets))?,
            clock: Utc::now,
            db: Database::from_env(&env, Arc::clone(&secrets))?,
            documents: Documents::from_env(&env, Arc::clone(&secrets))?,
            objects: Objects::from_env(&env, Arc::clone(&secrets))?,
            secrets,
        })
    }
}
