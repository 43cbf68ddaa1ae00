//! What one cold start builds. Nothing here connects to anything before it is used.

use shared::{db::Database, documents::Documents, functions, lambda, mail::Mailer, queue::Queue, state::Parts};

/// Everything the function holds between events.
#[derive(Debug)]
pub struct State {
    pub(crate) db: Database,
    pub(crate) documents: Documents,
    pub(crate) mailer: Option<Mailer>,
    pub(crate) queues: Vec<(functions::Queue, Queue)>,
}

impl State {
    /// Reads the environment.
    ///
    /// # Errors
    /// Names the variable that is missing or wrong.
    pub fn from_env() -> Result<Self, lambda::Error> {
        let parts = Parts::from_process()?;
        let queues = functions::QUEUES.into_iter().map(|queue| Ok((queue, parts.queue(queue.variable)?)));
        let queues = queues.collect::<Result<_, lambda::Error>>()?;
        Ok(Self { db: parts.db()?, documents: parts.documents()?, mailer: parts.mailer()?, queues })
    }
}
