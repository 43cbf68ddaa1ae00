//! What one cold start builds. Nothing here connects to anything before it is used.

use shared::{
    auth::Authenticator,
    db::{Clock, Database},
    lambda,
    state::Parts,
};

/// Everything the function holds between events; no per-request data.
#[derive(Debug)]
pub struct State {
    pub(crate) auth: Authenticator,
    pub(crate) clock: Clock,
    pub(crate) db: Database,
}

impl State {
    /// Reads the environment.
    ///
    /// # Errors
    /// Names the variable that is missing or wrong.
    pub fn from_env() -> Result<Self, lambda::Error> {
        let parts = Parts::from_process()?;
        Ok(Self { auth: parts.auth()?, clock: parts.clock, db: parts.db()? })
    }
}
