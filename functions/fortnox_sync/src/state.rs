//! What one cold start builds. Nothing here connects to anything before it is used.

use std::sync::Arc;

use shared::{
    auth::Authenticator,
    clients::fortnox::Fortnox,
    db::{Clock, Database},
    functions::FORTNOX,
    lambda,
    pace::Pace,
    queue::Queue,
    state::Parts,
    tokens::{PATIENCE, Tokens},
};

/// Everything the function holds between events; no per-request data.
#[derive(Debug)]
pub struct State {
    pub(crate) auth: Authenticator,
    pub(crate) clock: Clock,
    pub(crate) db: Database,
    pub(crate) fortnox: Arc<Fortnox>,
    pub(crate) pace: Pace,
    pub(crate) queue: Queue,
    pub(crate) tokens: Tokens<Arc<Fortnox>>,
}

impl State {
    /// Reads the environment.
    ///
    /// # Errors
    /// Names the variable that is missing or wrong.
    pub fn from_env() -> Result<Self, lambda::Error> {
        let parts = Parts::from_process()?;
        let (db, fortnox) = (parts.db()?, Arc::new(parts.fortnox()?));
        Ok(Self {
            auth: parts.auth()?,
            clock: parts.clock,
            pace: parts.pace(db.clone())?,
            queue: parts.queue(FORTNOX.variable)?,
            tokens: Tokens {
                db: db.clone(),
                issuer: Arc::clone(&fortnox),
                secrets: parts.secrets,
                clock: parts.clock,
                patience: PATIENCE,
            },
            db,
            fortnox,
        })
    }
}
