//! What a function builds at its cold start, from the environment. Nothing here connects to anything before it is used.

use std::{sync::Arc, time::Duration};

use chrono::Utc;

#[cfg(feature = "ai")]
use crate::clients::{claude::Claude, gemini::Gemini};
#[cfg(feature = "documents")]
use crate::documents::Documents;
#[cfg(feature = "mail")]
use crate::mail::Mailer;
#[cfg(feature = "objects")]
use crate::objects::Objects;
#[cfg(feature = "queue")]
use crate::queue::Queue;
use crate::{
    auth::Authenticator,
    clients::{fortnox::Fortnox, instagram::Instagram, social_apps::SocialApps, stripe::Stripe, tiktok::TikTok},
    config::{ConfigError, Env},
    db::{Clock, Database},
    download::Downloader,
    pace::Pace,
    secrets::Secrets,
};

/// The environment, and what everything that is built from it shares. Each method builds one part; its errors name the variable that is
/// missing or malformed.
#[derive(Debug)]
pub struct Parts {
    /// For settings of the function's own.
    pub env: Env,
    /// One cache of secrets for all parts.
    pub secrets: Arc<Secrets>,
    /// The time.
    pub clock: Clock,
}

impl Parts {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_process() -> Result<Self, ConfigError> {
        let env = Env::from_process();
        let secrets = Arc::new(Secrets::from_env(&env)?);
        Ok(Self { env, secrets, clock: Utc::now })
    }

    /// What checks callers' tokens.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn auth(&self) -> Result<Authenticator, ConfigError> {
        Authenticator::from_env(&self.env, Arc::clone(&self.secrets))
    }

    /// The door to Postgres. Clones share its connection.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn db(&self) -> Result<Database, ConfigError> {
        Database::from_env(&self.env, Arc::clone(&self.secrets))
    }

    /// The door to MongoDB.
    ///
    /// # Errors
    /// [`ConfigError`].
    #[cfg(feature = "documents")]
    pub fn documents(&self) -> Result<Documents, ConfigError> {
        Documents::from_env(&self.env, Arc::clone(&self.secrets))
    }

    /// What sends mail; none where mail is not set up.
    ///
    /// # Errors
    /// [`ConfigError`].
    #[cfg(feature = "mail")]
    pub fn mailer(&self) -> Result<Option<Mailer>, ConfigError> {
        Mailer::from_env(&self.env, Arc::clone(&self.secrets))
    }

    /// The door to file storage.
    ///
    /// # Errors
    /// [`ConfigError`].
    #[cfg(feature = "objects")]
    pub fn objects(&self) -> Result<Objects, ConfigError> {
        Objects::from_env(&self.env, Arc::clone(&self.secrets))
    }

    /// The queue whose URL is in `variable`.
    ///
    /// # Errors
    /// [`ConfigError`].
    #[cfg(feature = "queue")]
    pub fn queue(&self, variable: &str) -> Result<Queue, ConfigError> {
        Queue::from_env(&self.env, variable)
    }

    /// Anthropic's API. `timeout` is for one call, unless `ANTHROPIC_TIMEOUT_MS` says otherwise.
    ///
    /// # Errors
    /// [`ConfigError`].
    #[cfg(feature = "ai")]
    pub fn claude(&self, timeout: Duration) -> Result<Claude, ConfigError> {
        let timeout = self.env.duration_ms("ANTHROPIC_TIMEOUT_MS", timeout)?;
        Ok(Claude::new(&self.env.url("ANTHROPIC_BASE_URL", Some("https://api.anthropic.com"))?, timeout))
    }

    /// Google's API for pictures. `timeout` is for one call, unless `GEMINI_TIMEOUT_MS` says otherwise.
    ///
    /// # Errors
    /// [`ConfigError`].
    #[cfg(feature = "ai")]
    pub fn gemini(&self, timeout: Duration) -> Result<Gemini, ConfigError> {
        let timeout = self.env.duration_ms("GEMINI_TIMEOUT_MS", timeout)?;
        Ok(Gemini::new(&self.env.url("GEMINI_BASE_URL", Some("https://generativelanguage.googleapis.com"))?, timeout))
    }

    /// Stripe's API. `timeout` is for one call, unless `STRIPE_TIMEOUT_MS` says otherwise.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn stripe(&self, timeout: Duration) -> Result<Stripe, ConfigError> {
        let timeout = self.env.duration_ms("STRIPE_TIMEOUT_MS", timeout)?;
        let base = self.env.url("STRIPE_BASE_URL", Some("https://api.stripe.com"))?;
        Ok(Stripe::new(&base, timeout, Arc::clone(&self.secrets)))
    }

    /// Fortnox' API.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn fortnox(&self) -> Result<Fortnox, ConfigError> {
        Fortnox::from_env(&self.env, Arc::clone(&self.secrets))
    }

    /// Instagram's API.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn instagram(&self) -> Result<Instagram, ConfigError> {
        Instagram::from_env(&self.env)
    }

    /// What fetches files from addresses that strangers chose.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn downloader(&self) -> Result<Downloader, ConfigError> {
        Downloader::from_env(&self.env)
    }

    /// TikTok's two interfaces.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn tiktok(&self) -> Result<TikTok, ConfigError> {
        TikTok::from_env(&self.env)
    }

    /// The applications that organisations connect their social accounts with.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn social_apps(&self) -> Result<SocialApps, ConfigError> {
        SocialApps::from_env(&self.env, Arc::clone(&self.secrets))
    }

    /// The pace of calls to Fortnox, through `db`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn pace(&self, db: Database) -> Result<Pace, ConfigError> {
        Pace::from_env(&self.env, db)
    }
}
