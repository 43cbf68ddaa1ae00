//! What one cold start builds. Nothing here connects to anything before it is used.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use shared::{
    ai::claude::Claude,
    auth::Authenticator,
    config::Env,
    db::{Clock, Database},
    lambda,
    queue::Queue,
    secrets::Secrets,
};

/// Everything the function holds between events; no per-request data.
#[derive(Debug)]
pub struct State {
    pub(crate) auth: Authenticator,
    pub(crate) claude: Claude,
    /// The model that writes.
    pub(crate) model: String,
    /// The one that writes where the first cannot be had or afforded.
    pub(crate) cheaper_model: String,
    pub(crate) clock: Clock,
    pub(crate) db: Database,
    pub(crate) queue: Queue,
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
        let timeout = env.duration_ms("ANTHROPIC_TIMEOUT_MS", Duration::from_secs(60))?;
        Ok(Self {
            auth: Authenticator::from_env(&env, Arc::clone(&secrets))?,
            claude: Claude::new(&env.url("ANTHROPIC_BASE_URL", Some("https://api.anthropic.com"))?, timeout),
            model: env.or("INSIGHTS_MODEL", "claude-sonnet-5-5").to_owned(),
            cheaper_model: env.or("INSIGHTS_CHEAPER_MODEL", "claude-haiku-5-5").to_owned(),
            clock: Utc::now,
            db: Database::from_env(&env, Arc::clone(&secrets))?,
            queue: Queue::from_env(&env, "INSIGHTS_QUEUE_URL")?,
            secrets,
        })
    }
}
