//! Access tokens of connected companies: renewed by one process at a time, whichever asks, and stored before they are used.
//!
//! A refresh token can be used once. So before it is sent, a transaction locks the connection's row and marks it as being renewed;
//! a process that asks meanwhile waits for what is stored. A process that dies leaves the mark, and another goes on after [`LEASE`] with the token that is
//! stored. If the provider had issued a pair that nobody stored, it refuses that token: then the connection says `reconnect`, and is left
//! alone until a person consents again.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    clients::fortnox::{Fortnox, FortnoxError, Issued},
    db::{Clock, Database, DbError},
    seal::{Aad, SealError, SealingKey},
    secrets::{Secret, SecretError, SecretValue, Secrets},
    store::{
        StoreError,
        integrations::{self, Connection, SealedTokens, Unrenewed},
    },
};

/// How long a process may be renewing before another takes over. Longer than a token request with its retries.
pub const LEASE: TimeDelta = TimeDelta::seconds(60);
/// An access token that ends sooner than this is renewed first.
const SOON: TimeDelta = TimeDelta::seconds(60);
/// How long another's renewal is waited for, where nobody says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(100);
/// How often a pair that was issued is offered to the database: what is not stored is lost.
const STORING: u32 = 6;

/// Why there is no access token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The organisation has not connected the provider, or has disconnected it.
    #[error("the provider is not connected")]
    NotConnected,
    /// The tokens are lost or not accepted any more; a person must consent again.
    #[error("a person must connect the provider again")]
    Reconnect,
    /// Another process is renewing and has not come to an end; ask again shortly.
    #[error("the tokens are being renewed")]
    Busy,
    /// The provider did not help; it may another time.
    #[error("the provider issued no token")]
    Provider(#[source] FortnoxError),
    /// The sealing key is not to be had.
    #[error("the sealing key is not available")]
    Secret(#[from] SecretError),
    /// What is stored does not open.
    #[error("a sealed token does not open")]
    Seal(#[from] SealError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No transaction could be begun or ended.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Lets act for a company until it ends. Prints as redacted.
#[derive(Debug, Clone)]
pub struct AccessToken {
    token: SecretString,
    /// The company, as the provider calls it.
    pub tenant: String,
}

impl AccessToken {
    /// The token, for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.token.expose_secret()
    }
}

/// Issues tokens.
#[expect(
    async_fn_in_trait,
    reason = "a function works on one event at a time, and sends nothing of it to another thread"
)]
pub trait Issuer {
    /// As `org_integrations.provider` has it.
    const PROVIDER: &'static str;

    /// Asks for tokens once.
    ///
    /// # Errors
    /// [`FortnoxError`].
    async fn issue(&self, grant: &Grant) -> Result<Issued, FortnoxError>;
}

impl Issuer for Arc<Fortnox> {
    const PROVIDER: &'static str = "fortnox";

    async fn issue(&self, grant: &Grant) -> Result<Issued, FortnoxError> {
        match grant {
            Grant::RefreshToken(token) => self.refresh(token.expose_secret()).await,
            Grant::ClientCredentials { tenant } => self.client_credentials(tenant).await,
        }
    }
}

/// What tokens are asked for with.
#[derive(Debug)]
pub enum Grant {
    /// Used up by asking.
    RefreshToken(SecretString),
    /// A consent that lasts: asking may be repeated.
    ClientCredentials {
        /// The company.
        tenant: String,
    },
}

/// The keys that tokens are sealed with: the current one, and the one before it while it is rotated.
#[derive(Debug)]
pub struct TokenKeys {
    current: SealingKey,
    previous: Option<SealingKey>,
}

impl TokenKeys {
    /// Fetches them. Call it before a transaction: nothing calls the network inside one.
    ///
    /// # Errors
    /// [`TokenError::Secret`] or [`TokenError::Seal`] if a key is missing or not 32 bytes of base64.
    pub async fn fetch(secrets: &Secrets) -> Result<Self, TokenError> {
        let current = SealingKey::from_secret(&secrets.get(Secret::IntegrationKey).await?)?;
        let previous = secrets.previous(Secret::IntegrationKey).await?;
        Ok(Self { current, previous: previous.as_ref().map(SealingKey::from_secret).transpose()? })
    }

    /// Seals a token for its column of the organisation's row.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal(&self, org_id: Uuid, column: &str, token: &str) -> Result<String, SealError> {
        self.current.seal(&aad(org_id, column), token.as_bytes())
    }

    /// Opens a sealed refresh token, to revoke it.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn open_refresh_token(&self, org_id: Uuid, sealed: &str) -> Result<SecretValue, SealError> {
        Ok(self.open(org_id, "refresh_token", sealed)?.expose_secret().to_owned().into())
    }

    /// Seals the access token of a social account.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal_of_account(&self, org_id: Uuid, token: &str) -> Result<String, SealError> {
        self.current.seal(&account_aad(org_id), token.as_bytes())
    }

    /// Opens the access token of a social account.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn open_of_account(&self, org_id: Uuid, sealed: &str) -> Result<SecretString, SealError> {
        self.open_at(&account_aad(org_id), sealed)
    }

    fn open(&self, org_id: Uuid, column: &str, sealed: &str) -> Result<SecretString, SealError> {
        self.open_at(&aad(org_id, column), sealed)
    }

    fn open_at(&self, aad: &Aad<'_>, sealed: &str) -> Result<SecretString, SealError> {
        let opened = match (self.current.open(aad, sealed), &self.previous) {
            (Err(SealError::Refused), Some(previous)) => previous.open(aad, sealed),
            (outcome, _) => outcome,
        };
        Ok(String::from_utf8(opened?).map_err(|_| SealError::Malformed)?.into())
    }
}

const fn account_aad(org_id: Uuid) -> Aad<'static> {
    Aad { org_id, table: "social_accounts", column: "access_token", key_version: 1 }
}

fn aad(org_id: Uuid, column: &str) -> Aad<'_> {
    Aad { org_id, table: "org_integrations", column, key_version: 1 }
}

/// The door to access tokens of one provider.
#[derive(Debug)]
pub struct Tokens<I> {
    /// The database.
    pub db: Database,
    /// Who issues them.
    pub issuer: I,
    /// Where the sealing key is.
    pub secrets: Arc<Secrets>,
    /// The time.
    pub clock: Clock,
    /// How long another's renewal is waited for.
    pub patience: Duration,
}

/// What the stored connection asks for.
enum Look {
    Fresh(AccessToken),
    Renewing,
    Renew { version: i32, grant: Grant },
}

impl<I: Issuer> Tokens<I> {
    /// An access token of the organisation's company that lasts a minute at least.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn access(&self, org_id: Uuid) -> Result<AccessToken, TokenError> {
        let keys = TokenKeys::fetch(&self.secrets).await?;
        let begun = Instant::now();
        loop {
            match self.db.service(org_id, async |tx| self.look(tx, org_id, &keys).await).await? {
                Look::Fresh(token) => return Ok(token),
                Look::Renewing if begun.elapsed() > self.patience => return Err(TokenError::Busy),
                Look::Renewing => sleep(PAUSE.mul_f64(1.0 + rand::random::<f64>())).await,
                Look::Renew { version, grant } => self.renew(org_id, &keys, version, &grant).await?,
            }
        }
    }

    async fn look(&self, tx: &mut crate::db::ServiceTx, org_id: Uuid, keys: &TokenKeys) -> Result<Look, TokenError> {
        let now = (self.clock)();
        let found = integrations::find(tx, org_id, I::PROVIDER).await?.ok_or(TokenError::NotConnected)?;
        if let Some(token) = fresh(&found, org_id, keys, now)? {
            return Ok(Look::Fresh(token));
        }
        let found = integrations::lock(tx, org_id, I::PROVIDER).await?.ok_or(TokenError::NotConnected)?;
        if let Some(token) = fresh(&found, org_id, keys, now)? {
            return Ok(Look::Fresh(token));
        }
        if found.refreshing_since.is_some_and(|since| now < since + LEASE) {
            return Ok(Look::Renewing);
        }
        let tenant = found.tenant.clone().ok_or(TokenError::Reconnect)?;
        let grant = match (found.grant_type.as_str(), &found.refresh_token) {
            ("client_credentials", _) => Grant::ClientCredentials { tenant },
            (_, Some(sealed)) => Grant::RefreshToken(keys.open(org_id, "refresh_token", sealed)?),
            (_, None) => return Err(TokenError::Reconnect),
        };
        integrations::begin_refresh(tx, org_id, I::PROVIDER, now).await?;
        Ok(Look::Renew { version: found.version, grant })
    }

    /// Asks the provider once and writes down what came of it. Then the row says how to go on: by these tokens, or by others that were
    /// stored meanwhile.
    async fn renew(&self, org_id: Uuid, keys: &TokenKeys, version: i32, grant: &Grant) -> Result<(), TokenError> {
        let error = match self.issuer.issue(grant).await {
            Ok(issued) => return self.store(org_id, keys, version, grant, &issued).await,
            Err(error) => error,
        };
        let what = match (&error, grant) {
            (FortnoxError::GrantRefused, _) => Unrenewed::Lost,
            // Sent, and perhaps taken; to repeat a client's credentials does no harm.
            (FortnoxError::Unanswered(_) | FortnoxError::Malformed, Grant::RefreshToken(_)) => Unrenewed::Uncertain,
            (FortnoxError::Busy { status }, Grant::RefreshToken(_)) if *status >= 500 => Unrenewed::Uncertain,
            _ => Unrenewed::Untouched,
        };
        tracing::warn!(%error, provider = I::PROVIDER, ?what, "no tokens were issued");
        let now = (self.clock)();
        let written = self.db.service(org_id, async |tx| {
            Ok::<_, TokenError>(integrations::not_renewed(tx, org_id, I::PROVIDER, version, what, now).await?)
        });
        match (written.await?, what) {
            // Others were stored meanwhile, so that this refusal says nothing of them.
            (false, Unrenewed::Lost) => Ok(()),
            (true, Unrenewed::Lost) => Err(TokenError::Reconnect),
            _ => Err(TokenError::Provider(error)),
        }
    }

    async fn store(
        &self,
        org_id: Uuid,
        keys: &TokenKeys,
        version: i32,
        grant: &Grant,
        issued: &Issued,
    ) -> Result<(), TokenError> {
        let access_token = keys.seal(org_id, "access_token", &issued.access_token)?;
        // A provider that sends no new refresh token keeps the old one in use.
        let refresh_token = match (&issued.refresh_token, grant) {
            (Some(token), _) => Some(keys.seal(org_id, "refresh_token", token)?),
            (None, Grant::RefreshToken(token)) => Some(keys.seal(org_id, "refresh_token", token.expose_secret())?),
            (None, Grant::ClientCredentials { .. }) => None,
        };
        let now = (self.clock)();
        let tokens = SealedTokens {
            access_token: &access_token,
            refresh_token: refresh_token.as_deref(),
            expires_at: now + TimeDelta::seconds(issued.expires_in_s),
            issued_at: now,
        };
        let mut failed = 0;
        loop {
            let stored = self.db.service(org_id, async |tx| {
                Ok::<_, TokenError>(integrations::store_tokens(tx, org_id, I::PROVIDER, version, &tokens).await?)
            });
            match stored.await {
                // False if they were stored already, by a try that was not confirmed, or if the connection was ended or made again.
                Ok(_) => return Ok(()),
                Err(error) if failed == STORING => return Err(error),
                Err(error) => {
                    failed += 1;
                    tracing::warn!(%error, "tokens were not stored; once more");
                    sleep(PAUSE * 2_u32.pow(failed)).await;
                }
            }
        }
    }
}

/// The stored access token, if it lasts. An error says that none will be had.
fn fresh(
    found: &Connection,
    org_id: Uuid,
    keys: &TokenKeys,
    now: DateTime<Utc>,
) -> Result<Option<AccessToken>, TokenError> {
    match found.status.as_str() {
        "connected" => {}
        "reconnect" | "expired" | "revoked" => return Err(TokenError::Reconnect),
        _ => return Err(TokenError::NotConnected),
    }
    let (Some(sealed), Some(expires_at), Some(tenant)) = (&found.access_token, found.expires_at, &found.tenant) else {
        return Ok(None);
    };
    if now + SOON >= expires_at {
        return Ok(None);
    }
    Ok(Some(AccessToken { token: keys.open(org_id, "access_token", sealed)?, tenant: tenant.clone() }))
}
