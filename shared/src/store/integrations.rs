//! Organisations' connections with outside systems: consent that was begun, and tokens as they are sealed.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::{
    clients::oauth::Issued,
    db::{CallerTx, DirectoryTx, ServiceTx},
};

/// A connection, with its tokens sealed.
#[derive(Debug, Clone)]
pub struct Connection {
    /// `connected`, `reconnect`, `expired`, `revoked` or `disconnected`.
    pub status: String,
    /// The company, as the provider calls it.
    pub tenant: Option<String>,
    /// Which interface of the provider they are for.
    pub api: String,
    /// `refresh_token`, `client_credentials`, `extension` where the access token itself is extended, or `none`.
    pub grant_type: String,
    /// Sealed.
    pub access_token: Option<String>,
    /// Sealed.
    pub refresh_token: Option<String>,
    /// Rises each time that tokens are stored.
    pub version: i32,
    /// When the access token ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// When the tokens were issued.
    pub issued_at: Option<DateTime<Utc>>,
    /// Since when a process is renewing them.
    pub refreshing_since: Option<DateTime<Utc>>,
}

/// The connection with `provider`, if there ever was one.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn find(tx: &mut ServiceTx, org_id: Uuid, provider: &str) -> Result<Option<Connection>, StoreError> {
    let found = sqlx::query_as!(
        Connection,
        r#"select status, external_tenant_id as tenant, provider as api, grant_type, access_token, refresh_token, token_version as version,
                  expires_at, issued_at, refreshing_since
             from public.org_integrations where org_id = $1 and provider = $2"#,
        org_id,
        provider
    );
    Ok(found.fetch_optional(tx.conn()?).await?)
}

/// As [`find`], and no other transaction reads it so before this one ends.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn lock(tx: &mut ServiceTx, org_id: Uuid, provider: &str) -> Result<Option<Connection>, StoreError> {
    let found = sqlx::query_as!(
        Connection,
        r#"select status, external_tenant_id as tenant, provider as api, grant_type, access_token, refresh_token, token_version as version,
                  expires_at, issued_at, refreshing_since
             from public.org_integrations where org_id = $1 and provider = $2 for update"#,
        org_id,
        provider
    );
    Ok(found.fetch_optional(tx.conn()?).await?)
}

/// Marks that tokens are being renewed from now on. For a row that is locked.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn begin_refresh(
    tx: &mut ServiceTx,
    org_id: Uuid,
    provider: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.org_integrations set refreshing_since = $3 where org_id = $1 and provider = $2",
        org_id,
        provider,
        now
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Tokens to be stored, sealed.
#[derive(Debug, Clone)]
pub struct SealedTokens<'a> {
    /// The access token.
    pub access_token: &'a str,
    /// The refresh token; `None` keeps none.
    pub refresh_token: Option<&'a str>,
    /// When the access token ends.
    pub expires_at: DateTime<Utc>,
    /// When they were issued.
    pub issued_at: DateTime<Utc>,
    /// When a person must consent again unless tokens are renewed before, if the provider says so.
    pub consent_ends_at: Option<DateTime<Utc>>,
}

impl<'a> SealedTokens<'a> {
    /// What was issued at `now`, sealed.
    #[must_use]
    pub fn of(issued: &Issued, access_token: &'a str, refresh_token: Option<&'a str>, now: DateTime<Utc>) -> Self {
        let after = |seconds| now + TimeDelta::seconds(seconds);
        Self {
            access_token,
            refresh_token,
            expires_at: after(issued.expires_in_s),
            issued_at: now,
            consent_ends_at: issued.consent_ends_in_s.map(after),
        }
    }
}

/// Stores renewed tokens, unless others were stored since `version` was read. Whether it did.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn store_tokens(
    tx: &mut ServiceTx,
    org_id: Uuid,
    provider: &str,
    version: i32,
    tokens: &SealedTokens<'_>,
) -> Result<bool, StoreError> {
    let stored = sqlx::query!(
        "update public.org_integrations
            set access_token = $4, refresh_token = $5, expires_at = $6, issued_at = $7, token_version = token_version + 1,
                refreshing_since = null, uncertain_since = null
          where org_id = $1 and provider = $2 and token_version = $3 and status = 'connected'",
        org_id,
        provider,
        version,
        tokens.access_token,
        tokens.refresh_token,
        tokens.expires_at,
        tokens.issued_at
    );
    Ok(stored.execute(tx.conn()?).await?.rows_affected() == 1)
}

/// What became of an attempt to renew tokens that brought none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unrenewed {
    /// The provider was not reached, or refused for a reason of its own: the next attempt begins as this one did.
    Untouched,
    /// It is not known whether it has taken the refresh token.
    Uncertain,
    /// It takes these tokens no more: a person must consent again.
    Lost,
}

/// Writes down that tokens of `version` were not renewed. Nothing happens if others were stored since. Whether it did.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn not_renewed(
    tx: &mut ServiceTx,
    org_id: Uuid,
    provider: &str,
    version: i32,
    what: Unrenewed,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let written = sqlx::query!(
        "update public.org_integrations
            set refreshing_since = null,
                uncertain_since = case when $4 then coalesce(uncertain_since, $6) else uncertain_since end,
                status = case when $5 then 'reconnect' else status end
          where org_id = $1 and provider = $2 and token_version = $3 and status = 'connected'",
        org_id,
        provider,
        version,
        what == Unrenewed::Uncertain,
        what == Unrenewed::Lost,
        now
    );
    Ok(written.execute(tx.conn()?).await?.rows_affected() == 1)
}

/// Remembers that a person begins to connect, in a browser: the state and what the browser keeps by their SHA-256, for ten minutes.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn begin_consent(
    tx: &mut ServiceTx,
    org_id: Uuid,
    user_id: Uuid,
    provider: &str,
    state_hash: &[u8],
    browser_hash: &[u8],
    redirect_to: &str,
) -> Result<DateTime<Utc>, StoreError> {
    let expires_at = sqlx::query_scalar!(
        "insert into public.oauth_states (state_hash, org_id, user_id, provider, browser_hash, redirect_to)
         values ($1, $2, $3, $4, $5, $6) returning expires_at",
        state_hash,
        org_id,
        user_id,
        provider,
        browser_hash,
        redirect_to
    );
    Ok(expires_at.fetch_one(tx.conn()?).await?)
}

/// A state that came back.
#[derive(Debug, Clone)]
pub struct UsedState {
    /// `ok`, `unknown`, `expired`, `replayed`, `foreign` or `revoked`.
    pub outcome: String,
    /// Which organisation it was begun for.
    pub org_id: Option<Uuid>,
    /// Who began it.
    pub user_id: Option<Uuid>,
    /// Where the person wants to be afterwards.
    pub redirect_to: Option<String>,
}

/// Uses a state, once, in the browser that began it.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn use_state(
    tx: &mut DirectoryTx,
    provider: &str,
    state_hash: &[u8],
    browser_hash: Option<&[u8]>,
) -> Result<UsedState, StoreError> {
    let used = sqlx::query_as!(
        UsedState,
        r#"select outcome as "outcome!", org_id, user_id, redirect_to from app.use_oauth_state($1, $2, $3)"#,
        state_hash,
        provider,
        browser_hash
    );
    Ok(used.fetch_one(tx.conn()?).await?)
}

/// Whether another organisation has connected this company.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn connected_elsewhere(tx: &mut ServiceTx, provider: &str, tenant: &str) -> Result<bool, StoreError> {
    let elsewhere = sqlx::query_scalar!(r#"select app.connected_elsewhere($1, $2) as "elsewhere!""#, provider, tenant);
    Ok(elsewhere.fetch_one(tx.conn()?).await?)
}

/// What a consent brought.
#[derive(Debug)]
pub struct NewConnection<'a> {
    /// The company, as the provider calls it.
    pub tenant: &'a str,
    /// What is shown of it.
    pub company: &'a Value,
    /// What was consented to.
    pub scopes: &'a [String],
    /// `refresh_token` or `client_credentials`.
    pub grant_type: &'a str,
    /// Who consented.
    pub connected_by: Uuid,
    /// Its tokens.
    pub tokens: SealedTokens<'a>,
}

/// Connects, or connects again.
///
/// # Errors
/// [`StoreError::Database`]; a unique violation if another organisation was faster with the same company.
pub async fn connect(
    tx: &mut ServiceTx,
    org_id: Uuid,
    provider: &str,
    new: &NewConnection<'_>,
) -> Result<Uuid, StoreError> {
    let id = sqlx::query_scalar!(
        "insert into public.org_integrations as i
             (org_id, provider, status, external_tenant_id, company, scopes, grant_type, connected_by, access_token, refresh_token, expires_at,
              issued_at, token_version)
         values ($1, $2, 'connected', $3, $4, $5, $6, $7, $8, $9, $10, $11, 1)
         on conflict (org_id, provider) do update
            set status = 'connected', external_tenant_id = excluded.external_tenant_id, company = excluded.company,
                scopes = excluded.scopes, grant_type = excluded.grant_type, connected_by = excluded.connected_by,
                access_token = excluded.access_token, refresh_token = excluded.refresh_token, expires_at = excluded.expires_at,
                issued_at = excluded.issued_at, token_version = i.token_version + 1, refreshing_since = null, uncertain_since = null,
                sync_after = now()
         returning id",
        org_id,
        provider,
        new.tenant,
        new.company,
        new.scopes,
        new.grant_type,
        new.connected_by,
        new.tokens.access_token,
        new.tokens.refresh_token,
        new.tokens.expires_at,
        new.tokens.issued_at
    );
    Ok(id.fetch_one(tx.conn()?).await?)
}

/// Ends a connection: its tokens go, what was read through it stays. Whether there was one.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn disconnect(tx: &mut ServiceTx, org_id: Uuid, provider: &str) -> Result<bool, StoreError> {
    let ended = sqlx::query!(
        "update public.org_integrations
            set status = 'disconnected', access_token = null, refresh_token = null, expires_at = null, refreshing_since = null,
                uncertain_since = null, token_version = token_version + 1
          where org_id = $1 and provider = $2 and status <> 'disconnected'",
        org_id,
        provider
    );
    Ok(ended.execute(tx.conn()?).await?.rows_affected() == 1)
}

/// A connection, as people see it.
#[derive(Debug, Clone)]
pub struct Shown {
    /// `connected`, `reconnect`, `expired`, `revoked` or `disconnected`.
    pub status: String,
    /// The company, as the provider calls it.
    pub tenant: Option<String>,
    /// What is shown of the company.
    pub company: Value,
    /// What was consented to.
    pub scopes: Vec<String>,
    /// When that changed last.
    pub updated_at: DateTime<Utc>,
}

/// The connection with `provider` that the caller may see.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn shown(tx: &mut CallerTx, org_id: Uuid, provider: &str) -> Result<Option<Shown>, StoreError> {
    let found = sqlx::query_as!(
        Shown,
        "select status, external_tenant_id as tenant, company, scopes, updated_at
           from public.org_integrations where org_id = $1 and provider = $2",
        org_id,
        provider
    );
    Ok(found.fetch_optional(tx.conn()?).await?)
}
