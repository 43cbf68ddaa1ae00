//! What one cold start builds. Nothing here connects to anything before it is used.

use std::{str::FromStr, sync::Arc, time::Duration};

use shared::{
    auth::Authenticator,
    clients::stripe::Stripe,
    db::{Clock, Database},
    lambda,
    origins::Origins,
    secrets::{Secret, Secrets},
    state::Parts,
};

/// Which of Stripe's two worlds counts here. The other one's events are verified with its own secrets, kept, and have no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Real money.
    Live,
    /// Stripe's test mode.
    Test,
}

impl Mode {
    /// Where its signing secrets are.
    pub(crate) const fn secrets(self) -> Secret {
        match self {
            Self::Live => Secret::StripeWebhookSecrets,
            Self::Test => Secret::StripeWebhookSecretsTest,
        }
    }

    pub(crate) const fn livemode(self) -> bool {
        matches!(self, Self::Live)
    }
}

impl FromStr for Mode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "live" => Ok(Self::Live),
            "test" => Ok(Self::Test),
            _ => Err("expected `live` or `test`"),
        }
    }
}

/// Everything the function holds between events; no per-request data.
#[derive(Debug)]
pub struct State {
    pub(crate) auth: Authenticator,
    pub(crate) clock: Clock,
    pub(crate) db: Database,
    /// The meter that costs are told to; none unless costs are billed by use.
    pub(crate) meter: Option<String>,
    pub(crate) mode: Mode,
    /// How long after a reconciliation the next one begins.
    pub(crate) reconcile_every: chrono::Duration,
    /// Origins that Stripe may send people back to.
    pub(crate) return_origins: Origins,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) stripe: Stripe,
}

impl State {
    /// Reads the environment.
    ///
    /// # Errors
    /// Names the variable that is missing or wrong.
    pub fn from_env() -> Result<Self, lambda::Error> {
        let parts = Parts::from_process()?;
        let env = &parts.env;
        let every = env.duration_ms("STRIPE_RECONCILE_EVERY_MS", Duration::from_secs(600))?;
        Ok(Self {
            auth: parts.auth()?,
            clock: parts.clock,
            db: parts.db()?,
            // Empty where the template has none to name.
            meter: env.get("STRIPE_METER_EVENT").filter(|name| !name.is_empty()).map(str::to_owned),
            mode: env.parsed("STRIPE_MODE", "`live` or `test`")?.unwrap_or(Mode::Live),
            reconcile_every: chrono::Duration::from_std(every)?,
            return_origins: Origins::from_env(env, "BILLING_RETURN_ORIGINS")?,
            stripe: parts.stripe(Duration::from_secs(20))?,
            secrets: parts.secrets,
        })
    }
}
