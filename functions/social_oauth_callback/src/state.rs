//! What one cold start builds. Nothing here connects to anything before it is used.

use std::{sync::Arc, time::Duration};

use shared::{
    auth::Authenticator,
    clients::{instagram::Instagram, social_apps::SocialApps, tiktok::TikTok},
    db::{Clock, Database},
    functions::SOCIAL,
    lambda,
    origins::Origins,
    queue::Queue,
    secrets::Secrets,
    state::Parts,
    tokens::Tokens,
};
use url::Url;

/// How long a renewal by another process is waited for. A person waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything the function holds between events; no per-request data.
#[derive(Debug)]
pub struct State {
    pub(crate) apps: Arc<SocialApps>,
    pub(crate) auth: Authenticator,
    pub(crate) clock: Clock,
    pub(crate) db: Database,
    pub(crate) instagram: Instagram,
    /// Where readings of accounts wait.
    pub(crate) readings: Queue,
    /// What the addresses begin with that platforms lead people back to. None where no platform is set up.
    pub(crate) redirect_base: Option<Url>,
    /// Apps that people may be sent back to afterwards.
    pub(crate) return_origins: Origins,
    pub(crate) secrets: Arc<Secrets>,
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
        let apps = Arc::new(parts.social_apps()?);
        // Empty where the template has none to name.
        let base = parts.env.get("SOCIAL_REDIRECT_BASE_URL").filter(|url| !url.is_empty());
        Ok(Self {
            apps: Arc::clone(&apps),
            auth: parts.auth()?,
            clock: parts.clock,
            instagram: parts.instagram()?,
            readings: parts.queue(SOCIAL.variable)?,
            redirect_base: base.map_or(Ok(None), |_| parts.env.url("SOCIAL_REDIRECT_BASE_URL", None).map(Some))?,
            return_origins: Origins::from_env(&parts.env, "SOCIAL_RETURN_ORIGINS")?,
            secrets: Arc::clone(&parts.secrets),
            tiktok: parts.tiktok()?,
            tokens: Tokens {
                db: db.clone(),
                issuer: apps,
                secrets: parts.secrets,
                clock: parts.clock,
                patience: PATIENCE,
            },
            db,
        })
    }
}
