//! What one cold start builds. Nothing here connects to anything before it is used.

use std::{sync::Arc, time::Duration};

use shared::{
    clients::claude::Claude,
    db::{Clock, Database},
    functions::SOCIAL_AI,
    lambda,
    queue::Queue,
    secrets::Secrets,
    state::Parts,
};

/// Everything the function holds between events; no per-request data.
#[derive(Debug)]
pub struct State {
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
            claude: parts.claude(Duration::from_secs(40))?,
            clock: parts.clock,
            db: parts.db()?,
            queue: parts.queue(SOCIAL_AI.variable)?,
            secrets: parts.secrets,
        })
    }
}
