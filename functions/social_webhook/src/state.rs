//! What one cold start builds. Nothing here connects to anything before it is used.

use std::sync::Arc;

use shared::{
    db::{Clock, Database},
    functions::{SOCIAL, SOCIAL_ATTACHMENTS, SOCIAL_EVENTS},
    lambda,
    queue::Queue,
    secrets::Secrets,
    state::Parts,
};

/// Everything the function holds between events; no per-request data.
#[derive(Debug)]
pub struct State {
    pub(crate) clock: Clock,
    pub(crate) db: Database,
    /// Where the work on what was delivered waits.
    pub(crate) events: Queue,
    /// Where files of messages wait.
    pub(crate) files: Queue,
    /// Where readings of accounts wait.
    pub(crate) readings: Queue,
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
            clock: parts.clock,
            db: parts.db()?,
            events: parts.queue(SOCIAL_EVENTS.variable)?,
            files: parts.queue(SOCIAL_ATTACHMENTS.variable)?,
            readings: parts.queue(SOCIAL.variable)?,
            secrets: parts.secrets,
        })
    }
}
