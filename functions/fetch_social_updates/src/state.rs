//! What one cold start builds. Nothing here connects to anything before it is used.

use std::sync::Arc;

use shared::{
    auth::Authenticator,
    clients::{instagram::Instagram, social_apps::SocialApps, tiktok::TikTok},
    db::{Clock, Database},
    functions::{SOCIAL, SOCIAL_ATTACHMENTS},
    lambda,
    queue::Queue,
    state::Parts,
    tokens::Tokens,
};

/// Everything the function holds between events; no per-request data.
#[derive(Debug)]
pub struct State {
    pub(crate) auth: Authenticator,
    pub(crate) clock: Clock,
    pub(crate) db: Database,
    /// Where files of messages wait.
    pub(crate) files: Queue,
    pub(crate) instagram: Instagram,
    pub(crate) queue: Queue,
    pub(crate) tiktok: TikTok,
    pub(crate) tokens: Tokens<Arc<SocialApps>>,
}

impl State {
    /// Reads the environment.
    ///
    /// # Errors
    /// Names the variable that is missing or wrong.
    pub fn from_env() -> Result<Self, lambda::Error> {
        let parts = Parts::from_process()?;
        let db = parts.db()?;
        Ok(Self {
            auth: parts.auth()?,
            clock: parts.clock,
            files: parts.queue(SOCIAL_ATTACHMENTS.variable)?,
            instagram: parts.instagram()?,
            queue: parts.queue(SOCIAL.variable)?,
            tiktok: parts.tiktok()?,
            tokens: Tokens::of_accounts(&parts, db.clone())?,
            db,
        })
    }
}
