//! What one cold start builds. Nothing here connects to anything before it is used.

use shared::{db::Database, documents::Documents, lambda, queue::Queue, state::Parts};

/// Everything the function holds between events.
#[derive(Debug)]
pub struct State {
    pub(crate) db: Database,
    pub(crate) documents: Documents,
    pub(crate) leads: Queue,
    pub(crate) renders: Queue,
    pub(crate) insights: Queue,
}

impl State {
    /// Reads the environment.
    ///
    /// # Errors
    /// Names the variable that is missing or wrong.
    pub fn from_env() -> Result<Self, lambda::Error> {
        let parts = Parts::from_process()?;
        Ok(Self {
            db: parts.db()?,
            documents: parts.documents()?,
            leads: parts.queue("LEAD_QUEUE_URL")?,
            renders: parts.queue("RENDER_QUEUE_URL")?,
            insights: parts.queue("INSIGHTS_QUEUE_URL")?,
        })
    }
}
