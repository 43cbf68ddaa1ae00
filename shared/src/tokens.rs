//! Access tokens of connected companies and social accounts: renewed by one process at a time, whichever asks, and stored before they are used.
//!
//! A refresh token can be used once, at Fortnox and TikTok. So before it is sent, a transaction locks the connection's row and marks it as being renewed;
//! a process that asks meanwhile waits for what is stored. A process that dies leaves the mark, and another goes on after [`LEASE`] with the token that is
//! stored. If the provider had issued a pair that nobody stored, it refuses that token: then the connection says `reconnect`, and is left
//! alone until a person consents again.
//!
//! Instagram has no refresh token: its access token, which lasts sixty days, is extended while it lasts. Asking for that may be repeated, and
//! the token serves meanwhile.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    audit,
    clients::{
        fortnox::{Fortnox, FortnoxError},
        oauth::Issued,
        social_apps::{AppError, SocialApps},
    },
    config::ConfigError,
    db::{Clock, Database, DbError, ServiceTx},
    seal::{Aad, SealError, SealingKey},
    secrets::{Secret, SecretError, SecretValue, Secrets},
    state::Parts,
    store::{
        StoreError,
        integrations::{self, Connection, SealedTokens, Unrenewed},
        social_tokens::{self, Lost},
    },
};

/// How long a process may be renewing before another takes over. Longer than a token request with its retries.
pub const LEASE: TimeDelta = TimeDelta::seconds(60);
/// An access token that ends sooner than this is renewed first.
const SOON: TimeDelta = TimeDelta::seconds(60);
/// How old a token must be that is extended. Source: developers.facebook.com, reference "refresh_access_token".
const EXTENDED_FROM: TimeDelta = TimeDelta::hours(24);
/// How long before its end a token is extended.
const EXTENDED_AHEAD: TimeDelta = TimeDelta::days(30);
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
    Provider(#[source] Refusal),
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
    /// The company or account, as the provider calls it.
    pub tenant: String,
    /// Which of the holder's tokens this is: the number rises each time that tokens are stored.
    pub version: i32,
    /// When it ends. None where the provider has not said.
    pub ends_at: Option<DateTime<Utc>>,
}

impl AccessToken {
    /// The token, for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.token.expose_secret()
    }
}

/// Who holds tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// An organisation, of a provider in `org_integrations`.
    Integration(&'static str),
    /// A row of `social_accounts`.
    Account(Uuid),
}

impl Holder {
    async fn find(self, tx: &mut ServiceTx, org_id: Uuid) -> Result<Option<Connection>, StoreError> {
        match self {
            Self::Integration(provider) => integrations::find(tx, org_id, provider).await,
            Self::Account(id) => social_tokens::find(tx, org_id, id).await,
        }
    }

    async fn lock(self, tx: &mut ServiceTx, org_id: Uuid) -> Result<Option<Connection>, StoreError> {
        match self {
            Self::Integration(provider) => integrations::lock(tx, org_id, provider).await,
            Self::Account(id) => social_tokens::lock(tx, org_id, id).await,
        }
    }

    async fn begin_refresh(self, tx: &mut ServiceTx, org_id: Uuid, now: DateTime<Utc>) -> Result<(), StoreError> {
        match self {
            Self::Integration(provider) => integrations::begin_refresh(tx, org_id, provider, now).await,
            Self::Account(id) => social_tokens::begin_refresh(tx, org_id, id, now).await,
        }
    }

    async fn store_tokens(
        self,
        tx: &mut ServiceTx,
        org_id: Uuid,
        version: i32,
        tokens: &SealedTokens<'_>,
    ) -> Result<bool, StoreError> {
        match self {
            Self::Integration(provider) => integrations::store_tokens(tx, org_id, provider, version, tokens).await,
            Self::Account(id) => social_tokens::store_tokens(tx, org_id, id, version, tokens).await,
        }
    }

    async fn not_renewed(
        self,
        tx: &mut ServiceTx,
        org_id: Uuid,
        version: i32,
        what: Unrenewed,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        match self {
            Self::Integration(provider) => integrations::not_renewed(tx, org_id, provider, version, what, now).await,
            Self::Account(id) => social_tokens::not_renewed(tx, org_id, id, version, what, now).await,
        }
    }

    const fn aad(self, org_id: Uuid, column: &str) -> Aad<'_> {
        let table = match self {
            Self::Integration(_) => "org_integrations",
            Self::Account(_) => "social_accounts",
        };
        Aad { org_id, table, column, key_version: 1 }
    }
}

/// Why a provider issued no tokens.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Fortnox did not.
    #[error(transparent)]
    Fortnox(#[from] FortnoxError),
    /// A social platform did not.
    #[error(transparent)]
    Social(#[from] AppError),
}

impl Refusal {
    /// What it says of the tokens that were asked for with.
    fn says(&self, grant: &Grant) -> Unrenewed {
        let is_used_up = matches!(grant, Grant::RefreshToken(_));
        match self {
            Self::Fortnox(FortnoxError::GrantRefused) | Self::Social(AppError::GrantRefused { .. }) => Unrenewed::Lost,
            // Sent, and perhaps taken; to repeat what is not used up does no harm.
            Self::Fortnox(FortnoxError::Unanswered(_) | FortnoxError::Malformed)
            | Self::Social(AppError::Unanswered(_) | AppError::Malformed)
                if is_used_up =>
            {
                Unrenewed::Uncertain
            }
            Self::Fortnox(FortnoxError::Busy { status }) | Self::Social(AppError::Busy { status })
                if is_used_up && *status >= 500 =>
            {
                Unrenewed::Uncertain
            }
            _ => Unrenewed::Untouched,
        }
    }
}

/// Issues tokens.
#[expect(
    async_fn_in_trait,
    reason = "a function works on one event at a time, and sends nothing of it to another thread"
)]
pub trait Issuer {
    /// Asks for tokens once. `api` is as [`Connection::api`] has it.
    ///
    /// # Errors
    /// [`Refusal`].
    async fn issue(&self, api: &str, grant: &Grant) -> Result<Issued, Refusal>;
}

impl Issuer for Arc<Fortnox> {
    async fn issue(&self, _: &str, grant: &Grant) -> Result<Issued, Refusal> {
        Ok(match grant {
            Grant::RefreshToken(token) => self.refresh(token.expose_secret()).await?,
            Grant::ClientCredentials { tenant } => self.client_credentials(tenant).await?,
            Grant::Extension(_) => return Err(FortnoxError::GrantRefused.into()),
        })
    }
}

impl Issuer for Arc<SocialApps> {
    async fn issue(&self, api: &str, grant: &Grant) -> Result<Issued, Refusal> {
        Ok(match grant {
            Grant::RefreshToken(token) | Grant::Extension(token) => self.renew(api, token.expose_secret()).await?,
            Grant::ClientCredentials { .. } => return Err(AppError::GrantRefused { code: 0 }.into()),
        })
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
    /// An access token that lasts still, to be extended: asking may be repeated.
    Extension(SecretString),
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

    /// Seals a token for its column of the holder's row.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal(&self, org_id: Uuid, holder: Holder, column: &str, token: &str) -> Result<String, SealError> {
        self.current.seal(&holder.aad(org_id, column), token.as_bytes())
    }

    /// Opens a sealed token, such as a refresh token to revoke it.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn open(&self, org_id: Uuid, holder: Holder, column: &str, sealed: &str) -> Result<SecretValue, SealError> {
        Ok(self.open_at(&holder.aad(org_id, column), sealed)?.expose_secret().to_owned().into())
    }

    fn open_at(&self, aad: &Aad<'_>, sealed: &str) -> Result<SecretString, SealError> {
        let opened = match (self.current.open(aad, sealed), &self.previous) {
            (Err(SealError::Refused), Some(previous)) => previous.open(aad, sealed),
            (outcome, _) => outcome,
        };
        Ok(String::from_utf8(opened?).map_err(|_| SealError::Malformed)?.into())
    }
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

/// Has a social account wait for a person, since the platform took its consent back at `at`, and writes that to the audit log. Nothing happens
/// where a person consented again since, or it waits already for that reason.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn lose_consent(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    lost: Lost<'_>,
    at: DateTime<Utc>,
    request_id: Option<&str>,
) -> Result<(), StoreError> {
    if social_tokens::lose(tx, org_id, account_id, lost, at).await? {
        let entry = audit::Entry {
            action: "social_account.consent_lost",
            resource_type: "social_accounts",
            record_id: account_id.to_string(),
            decision: json!({ "why": lost.why(), "at": at }),
            request_id,
            ..audit::Entry::default()
        };
        audit::append(tx, &entry).await?;
    }
    Ok(())
}

/// What the stored connection asks for.
enum Look {
    Lasts(AccessToken),
    Renewing,
    /// `meanwhile` serves if nothing comes of it.
    Renew {
        version: i32,
        api: String,
        grant: Grant,
        meanwhile: Option<AccessToken>,
    },
    /// It has ended, and nothing renews it.
    Ended {
        version: i32,
    },
}

/// What is stored of an access token.
enum Kept {
    Lasts(AccessToken),
    /// It lasts, and is to be extended.
    Due(AccessToken),
    Over,
}

impl Tokens<Arc<Fortnox>> {
    /// An access token of the organisation's company that lasts a minute at least.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn access(&self, org_id: Uuid) -> Result<AccessToken, TokenError> {
        self.access_of(org_id, Holder::Integration("fortnox")).await
    }
}

impl Tokens<Arc<SocialApps>> {
    /// The door to access tokens of social accounts, through `db`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn of_accounts(parts: &Parts, db: Database) -> Result<Self, ConfigError> {
        Ok(Self {
            db,
            issuer: Arc::new(parts.social_apps()?),
            secrets: Arc::clone(&parts.secrets),
            clock: parts.clock,
            patience: PATIENCE,
        })
    }

    /// An access token of the account that lasts a minute at least. One that is to be extended is extended first, if that works.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn access(&self, org_id: Uuid, account_id: Uuid) -> Result<AccessToken, TokenError> {
        self.access_of(org_id, Holder::Account(account_id)).await
    }
}

impl<I: Issuer> Tokens<I> {
    async fn access_of(&self, org_id: Uuid, holder: Holder) -> Result<AccessToken, TokenError> {
        let keys = TokenKeys::fetch(&self.secrets).await?;
        let begun = Instant::now();
        loop {
            match self.db.service(org_id, async |tx| self.look(tx, org_id, holder, &keys).await).await? {
                Look::Lasts(token) => return Ok(token),
                Look::Renewing if begun.elapsed() > self.patience => return Err(TokenError::Busy),
                Look::Renewing => sleep(PAUSE.mul_f64(1.0 + rand::random::<f64>())).await,
                Look::Renew { version, api, grant, meanwhile } => {
                    let renewed = self.renew(org_id, holder, &keys, version, &api, &grant).await;
                    match (renewed, meanwhile) {
                        (Err(TokenError::Provider(_)), Some(token)) => return Ok(token),
                        (renewed, _) => renewed?,
                    }
                }
                Look::Ended { version } => {
                    self.not_renewed(org_id, holder, version, Unrenewed::Lost).await?;
                    return Err(TokenError::Reconnect);
                }
            }
        }
    }

    async fn look(
        &self,
        tx: &mut ServiceTx,
        org_id: Uuid,
        holder: Holder,
        keys: &TokenKeys,
    ) -> Result<Look, TokenError> {
        let now = (self.clock)();
        let found = holder.find(tx, org_id).await?.ok_or(TokenError::NotConnected)?;
        if let Kept::Lasts(token) = kept(&found, org_id, holder, keys, now)? {
            return Ok(Look::Lasts(token));
        }
        let found = holder.lock(tx, org_id).await?.ok_or(TokenError::NotConnected)?;
        let meanwhile = match kept(&found, org_id, holder, keys, now)? {
            Kept::Lasts(token) => return Ok(Look::Lasts(token)),
            Kept::Due(token) => Some(token),
            Kept::Over => None,
        };
        if found.refreshing_since.is_some_and(|since| now < since + LEASE) {
            return Ok(meanwhile.map_or(Look::Renewing, Look::Lasts));
        }
        let version = found.version;
        let tenant = found.tenant.clone().ok_or(TokenError::Reconnect)?;
        let grant = match (found.grant_type.as_str(), &found.refresh_token, &found.access_token) {
            ("client_credentials", ..) => Grant::ClientCredentials { tenant },
            ("refresh_token", Some(sealed), _) => {
                Grant::RefreshToken(keys.open_at(&holder.aad(org_id, "refresh_token"), sealed)?)
            }
            ("extension", _, Some(sealed)) if found.expires_at.is_some_and(|ends| now < ends) => {
                Grant::Extension(keys.open_at(&holder.aad(org_id, "access_token"), sealed)?)
            }
            // A company that was connected without tokens is as it was.
            _ if matches!(holder, Holder::Integration(_)) => return Err(TokenError::Reconnect),
            _ => return Ok(Look::Ended { version }),
        };
        holder.begin_refresh(tx, org_id, now).await?;
        Ok(Look::Renew { version, api: found.api, grant, meanwhile })
    }

    /// Asks the provider once and writes down what came of it. Then the row says how to go on: by these tokens, or by others that were
    /// stored meanwhile.
    async fn renew(
        &self,
        org_id: Uuid,
        holder: Holder,
        keys: &TokenKeys,
        version: i32,
        api: &str,
        grant: &Grant,
    ) -> Result<(), TokenError> {
        let refusal = match self.issuer.issue(api, grant).await {
            Ok(issued) => return self.store(org_id, holder, keys, version, grant, &issued).await,
            Err(refusal) => refusal,
        };
        let what = refusal.says(grant);
        tracing::warn!(error = %refusal, ?holder, ?what, "no tokens were issued");
        match (self.not_renewed(org_id, holder, version, what).await?, what) {
            // Others were stored meanwhile, so that this refusal says nothing of them.
            (false, Unrenewed::Lost) => Ok(()),
            (true, Unrenewed::Lost) => Err(TokenError::Reconnect),
            _ => Err(TokenError::Provider(refusal)),
        }
    }

    async fn not_renewed(
        &self,
        org_id: Uuid,
        holder: Holder,
        version: i32,
        what: Unrenewed,
    ) -> Result<bool, TokenError> {
        let now = (self.clock)();
        let written = self
            .db
            .service(org_id, async |tx| Ok::<_, TokenError>(holder.not_renewed(tx, org_id, version, what, now).await?));
        written.await
    }

    async fn store(
        &self,
        org_id: Uuid,
        holder: Holder,
        keys: &TokenKeys,
        version: i32,
        grant: &Grant,
        issued: &Issued,
    ) -> Result<(), TokenError> {
        let access_token = keys.seal(org_id, holder, "access_token", &issued.access_token)?;
        let seal_refresh = |token: &str| keys.seal(org_id, holder, "refresh_token", token);
        // A provider that sends no new refresh token keeps the old one in use.
        let refresh_token = match (&issued.refresh_token, grant) {
            (Some(token), _) => Some(seal_refresh(token)?),
            (None, Grant::RefreshToken(token)) => Some(seal_refresh(token.expose_secret())?),
            (None, Grant::ClientCredentials { .. } | Grant::Extension(_)) => None,
        };
        let tokens = SealedTokens::of(issued, &access_token, refresh_token.as_deref(), (self.clock)());
        let mut failed = 0;
        loop {
            let stored = self.db.service(org_id, async |tx| {
                Ok::<_, TokenError>(holder.store_tokens(tx, org_id, version, &tokens).await?)
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

/// What is stored of an access token. An error says that none will be had.
fn kept(
    found: &Connection,
    org_id: Uuid,
    holder: Holder,
    keys: &TokenKeys,
    now: DateTime<Utc>,
) -> Result<Kept, TokenError> {
    match found.status.as_str() {
        "connected" => {}
        "reconnect" | "expired" | "revoked" => return Err(TokenError::Reconnect),
        _ => return Err(TokenError::NotConnected),
    }
    let (Some(sealed), Some(tenant)) = (&found.access_token, &found.tenant) else { return Ok(Kept::Over) };
    // One without an end lasts.
    if found.expires_at.is_some_and(|ends| now + SOON >= ends) {
        return Ok(Kept::Over);
    }
    let token = AccessToken {
        token: keys.open_at(&holder.aad(org_id, "access_token"), sealed)?,
        tenant: tenant.clone(),
        version: found.version,
        ends_at: found.expires_at,
    };
    let is_due = found.grant_type == "extension"
        && found.expires_at.is_some_and(|ends| now + EXTENDED_AHEAD >= ends)
        && found.issued_at.is_some_and(|issued| now >= issued + EXTENDED_FROM);
    Ok(if is_due { Kept::Due(token) } else { Kept::Lasts(token) })
}
