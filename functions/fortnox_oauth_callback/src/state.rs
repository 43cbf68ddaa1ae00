//! What one cold start builds. Nothing here connects to anything before it is used.

use std::sync::Arc;

use shared::{
    auth::Authenticator,
    clients::fortnox::Fortnox,
    db::{Clock, Database},
    lambda,
    origins::Origins,
    pace::Pace,
    secrets::Secrets,
    state::Parts,
};
use url::Url;

/// Everything the function holds between events; no per-request data.
#[derive(Debug)]
pub struct State {
    pub(crate) auth: Authenticator,
    pub(crate) clock: Clock,
    pub(crate) db: Database,
    pub(crate) fortnox: Fortnox,
    pub(crate) pace: Pace,
    /// Where Fortnox sends people back to: this function's own address, as it is registered there. None where nobody has set Fortnox up.
    pub(crate) redirect_url: Option<Url>,
    /// Apps that people may be sent back to afterwards.
    pub(crate) return_origins: Origins,
    pub(crate) secrets: Arc<Secrets>,
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
            pace: parts.pace(db.clone())?,
            db,
            fortnox: parts.fortnox()?,
            // Empty where the template has none to name.
            redirect_url: parts
                .env
                .get("FORTNOX_REDIRECT_URL")
                .filter(|url| !url.is_empty())
                .map_or(Ok(None), |_| parts.env.url("FORTNOX_REDIRECT_URL", None).map(Some))?,
            return_origins: Origins::from_env(&parts.env, "FORTNOX_RETURN_ORIGINS")?,
            secrets: parts.secrets,
        })
    }
}
