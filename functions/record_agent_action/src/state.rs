//! What one cold start builds. Nothing here connects to anything before it is used.

use std::sync::Arc;

use shared::{
    auth::Authenticator,
    db::{Clock, Database},
    documents::Documents,
    lambda,
    objects::Objects,
    secrets::Secrets,
    state::Parts,
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
        let parts = Parts::from_process()?;
        Ok(Self {
            auth: parts.auth()?,
            clock: parts.clock,
            db: parts.db()?,
            documents: parts.documents()?,
            objects: parts.objects()?,
            secrets: parts.secrets,
        })
    }
}
