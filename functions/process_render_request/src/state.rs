//! What one cold start builds. Nothing here connects to anything before it is used.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use shared::{
    ai::{claude::Claude, gemini::Gemini},
    auth::Authenticator,
    config::Env,
    db::{Clock, Database},
    documents::Documents,
    lambda,
    objects::Objects,
    queue::Queue,
    secrets::Secrets,
};

/// Everything the function holds between events; no per-request data.
#[derive(Debug)]
pub struct State {
    pub(crate) auth: Authenticator,
    pub(crate) claude: Claude,
    pub(crate) claude_model: String,
    pub(crate) clock: Clock,
    pub(crate) db: Database,
    pub(crate) documents: Documents,
    pub(crate) gemini: Gemini,
    pub(crate) objects: Objects,
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
        let claude_timeout = env.duration_ms("ANTHROPIC_TIMEOUT_MS", Duration::from_secs(60))?;
        let gemini_timeout = env.duration_ms("GEMINI_TIMEOUT_MS", Duration::from_secs(120))?;
        Ok(Self {
            auth: Authenticator::from_env(&env, Arc::clone(&secrets))?,
            claude: Claude::new(&env.url("ANTHROPIC_BASE_URL", Some("https://api.anthropic.com"))?, claude_timeout),
            claude_model: env.or("ANTHROPIC_MODEL", "claude-haiku-5-5").to_owned(),
            clock: Utc::now,
            db: Database::from_env(&env, Arc::clone(&secrets))?,
            documents: Documents::from_env(&env, Arc::clone(&secrets))?,
            gemini: Gemini::new(
                &env.url("GEMINI_BASE_URL", Some("https://generativelanguage.googleapis.com"))?,
                gemini_timeout,
            ),
            objects: Objects::from_env(&env, Arc::clone(&secrets))?,
            queue: Queue::from_env(&env, "RENDER_QUEUE_URL")?,
            secrets,
        })
    }
}
