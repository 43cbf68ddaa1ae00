//! What one cold start builds. Nothing here connects to anything before it is used.

use std::{sync::Arc, time::Duration};

use shared::{
    auth::Authenticator,
    clients::claude::Claude,
    db::{Clock, Database},
    lambda,
    queue::Queue,
    secrets::Secrets,
    state::Parts,
};

/// Everything the function holds between events; no per-request data.
#[derive(Debug)]
pub struct State {
    pub(crate) auth: Authenticator,
    pub(crate) claude: Claude,
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
        let parts = Parts::from_process()?;
        Ok(Self {
            auth: parts.auth()?,
            claude: parts.claude(Duration::from_secs(60))?,
            clock: parts.clock,
            db: parts.db()?,
            queue: parts.queue("INSIGHTS_QUEUE_URL")?,
            secrets: parts.secrets,
        })
    }
}
