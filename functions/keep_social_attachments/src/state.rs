//! What one cold start builds. Nothing here connects to anything before it is used.

use std::sync::Arc;

use shared::{
    clients::{instagram::Instagram, social_apps::SocialApps, tiktok::TikTok},
    db::{Clock, Database},
    download::Downloader,
    functions::SOCIAL_ATTACHMENTS,
    lambda,
    objects::Objects,
    queue::Queue,
    state::Parts,
    tokens::Tokens,
};

/// Everything the function holds between events; no per-request data.
#[derive(Debug)]
pub struct State {
    pub(crate) clock: Clock,
    pub(crate) db: Database,
    pub(crate) downloader: Downloader,
    pub(crate) instagram: Instagram,
    pub(crate) objects: Objects,
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
            clock: parts.clock,
            downloader: parts.downloader()?,
            instagram: parts.instagram()?,
            objects: parts.objects()?,
            queue: parts.queue(SOCIAL_ATTACHMENTS.variable)?,
            tiktok: parts.tiktok()?,
            tokens: Tokens::of_accounts(&parts, db.clone())?,
            db,
        })
    }
}
