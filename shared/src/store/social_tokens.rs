//! Tokens of social accounts, as they are sealed, and how an account is connected and its consent lost.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    StoreError,
    integrations::{Connection, SealedTokens, Unrenewed},
};
use crate::db::{DirectoryTx, ServiceTx};

/// The account's tokens. None where there is no such account.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn find(tx: &mut ServiceTx, org_id: Uuid, account_id: Uuid) -> Result<Option<Connection>, StoreError> {
    let found = sqlx::query_as!(
        Connection,
        r#"select case status when 'active' then 'connected' when 'needs_reconsent' then 'reconnect' else status end as "status!",
                  platform_id as "tenant?", api,
                  case api when 'instagram_login' then 'extension' when 'facebook_login' then 'none' else 'refresh_token' end as "grant_type!",
                  access_token, refresh_token, token_version as version, token_expires_at as expires_at, issued_at, refreshing_since
             from public.social_accounts where org_id = $1 and id = $2"#,
        org_id,
        account_id
    );
    Ok(found.fetch_optional(tx.conn()?).await?)
}

/// As [`find`], and no other transaction reads it so before this one ends.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn lock(tx: &mut ServiceTx, org_id: Uuid, account_id: Uuid) -> Result<Option<Connection>, StoreError> {
    sqlx::query!("select id from public.social_accounts where org_id = $1 and id = $2 for update", org_id, account_id)
        .fetch_optional(tx.conn()?)
        .await?;
    find(tx, org_id, account_id).await
}

/// Marks that tokens are being renewed from now on. For a row that is locked.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn begin_refresh(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.social_accounts set refreshing_since = $3 where org_id = $1 and id = $2",
        org_id,
        account_id,
        now
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Stores renewed tokens, unless others were stored since `version` was read. Whether it did.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn store_tokens(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    version: i32,
    tokens: &SealedTokens<'_>,
) -> Result<bool, StoreError> {
    let stored = sqlx::query!(
        "update public.social_accounts
            set access_token = $4, refresh_token = $5, token_expires_at = $6, issued_at = $7, consent_ends_at = coalesce($8, consent_ends_at),
                token_version = token_version + 1, refreshing_since = null, uncertain_since = null
          where org_id = $1 and id = $2 and token_version = $3 and status = 'active'",
        org_id,
        account_id,
        version,
        tokens.access_token,
        tokens.refresh_token,
        tokens.expires_at,
        tokens.issued_at,
        tokens.consent_ends_at
    );
    Ok(stored.execute(tx.conn()?).await?.rows_affected() == 1)
}

/// Writes down that tokens of `version` were not renewed. Nothing happens if others were stored since. Whether it did.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn not_renewed(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    version: i32,
    what: Unrenewed,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let written = sqlx::query!(
        "update public.social_accounts
            set refreshing_since = null,
                uncertain_since = case when $4 then coalesce(uncertain_since, $6) else uncertain_since end,
                status = case when $5 then 'needs_reconsent' else status end,
                fetch_error = case when $5 then 'social_reconsent' else fetch_error end,
                lost_why = case when $5 then case when consent_ends_at <= $6 then 'consent_ended' else 'token_refused' end else lost_why end
          where org_id = $1 and id = $2 and token_version = $3 and status = 'active'",
        org_id,
        account_id,
        version,
        what == Unrenewed::Uncertain,
        what == Unrenewed::Lost,
        now
    );
    Ok(written.execute(tx.conn()?).await?.rows_affected() == 1)
}

/// What a consent brought.
#[derive(Debug)]
pub struct NewAccount<'a> {
    /// `instagram` or `tiktok`.
    pub platform: &'a str,
    /// `instagram_login`, `tiktok_display` or `tiktok_business`.
    pub api: &'a str,
    /// The account's id at the platform.
    pub platform_id: &'a str,
    /// Who consented, as the platform calls them towards this application, where that is another id.
    pub app_scoped_id: Option<&'a str>,
    /// What the account is called.
    pub username: &'a str,
    /// What was granted, as it came back.
    pub scopes: &'a [String],
    /// Who consented.
    pub connected_by: Uuid,
    /// Its tokens.
    pub tokens: SealedTokens<'a>,
}

/// Connects an account, or connects it again. Its id. Where it was read before, reading goes on from there.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn connect(tx: &mut ServiceTx, org_id: Uuid, new: &NewAccount<'_>) -> Result<Uuid, StoreError> {
    let id = sqlx::query_scalar!(
        "insert into public.social_accounts as a
             (org_id, platform, api, platform_id, app_scoped_id, username, scopes, connected_by, connected_at, access_token, refresh_token,
              token_expires_at, issued_at, consent_ends_at, token_version)
         values ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp(), $9, $10, $11, $12, $13, 1)
         on conflict (org_id, platform, platform_id) do update
            set status = 'active', api = excluded.api, app_scoped_id = excluded.app_scoped_id, username = excluded.username,
                scopes = excluded.scopes, connected_by = excluded.connected_by, connected_at = excluded.connected_at,
                access_token = excluded.access_token, refresh_token = excluded.refresh_token, token_expires_at = excluded.token_expires_at,
                issued_at = excluded.issued_at, consent_ends_at = excluded.consent_ends_at, token_version = a.token_version + 1,
                refreshing_since = null, uncertain_since = null, subscribed_at = null, lost_why = null, fetch_error = null
         returning id",
        org_id,
        new.platform,
        new.api,
        new.platform_id,
        new.app_scoped_id,
        new.username,
        new.scopes,
        new.connected_by,
        new.tokens.access_token,
        new.tokens.refresh_token,
        new.tokens.expires_at,
        new.tokens.issued_at,
        new.tokens.consent_ends_at
    );
    Ok(id.fetch_one(tx.conn()?).await?)
}

/// An account that is about to be disconnected, or has been.
#[derive(Debug)]
pub struct Connected {
    /// `instagram_login`, `facebook_login`, `tiktok_display` or `tiktok_business`.
    pub api: String,
    /// The platform's id of it.
    pub platform_id: String,
    /// `active`, `needs_reconsent` or `disconnected`.
    pub status: String,
    /// Sealed.
    pub access_token: Option<String>,
    /// Sealed.
    pub refresh_token: Option<String>,
}

/// An account with its tokens. None where there is no such account.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn connected(tx: &mut ServiceTx, org_id: Uuid, account_id: Uuid) -> Result<Option<Connected>, StoreError> {
    let found = sqlx::query_as!(
        Connected,
        "select api, platform_id, status, access_token, refresh_token from public.social_accounts where org_id = $1 and id = $2",
        org_id,
        account_id
    );
    Ok(found.fetch_optional(tx.conn()?).await?)
}

/// Whether another organisation has connected the same account through this API.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn connected_elsewhere(tx: &mut ServiceTx, api: &str, platform_id: &str) -> Result<bool, StoreError> {
    let elsewhere =
        sqlx::query_scalar!(r#"select app.social_connected_elsewhere($1, $2) as "elsewhere!""#, api, platform_id);
    Ok(elsewhere.fetch_one(tx.conn()?).await?)
}

/// Ends a connection: its tokens go, what was read through it stays. Whether there was one.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn disconnect(tx: &mut ServiceTx, org_id: Uuid, account_id: Uuid) -> Result<bool, StoreError> {
    let ended = sqlx::query!(
        "update public.social_accounts
            set status = 'disconnected', access_token = null, refresh_token = null, token_expires_at = null, consent_ends_at = null,
                refreshing_since = null, uncertain_since = null, token_version = token_version + 1
          where org_id = $1 and id = $2 and status <> 'disconnected'",
        org_id,
        account_id
    );
    Ok(ended.execute(tx.conn()?).await?.rows_affected() == 1)
}

/// What is to be done about an access token that a platform refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Other tokens were stored meanwhile, or will be by the refresh token: go on.
    GoesOn,
    /// A person must connect the account again.
    Lost,
}

/// Writes down that the platform refuses the access token of `version`. One that a refresh token can replace counts as ended; otherwise, and where
/// it is fresh, the account waits for a person, and a trigger notifies those who can connect it again.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn token_refused(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    version: i32,
    now: DateTime<Utc>,
) -> Result<Refused, StoreError> {
    let status = sqlx::query_scalar!(
        "update public.social_accounts a
            set token_expires_at = case when r.renewable then $4 else a.token_expires_at end,
                status = case when r.renewable then a.status else 'needs_reconsent' end,
                fetch_error = case when r.renewable then a.fetch_error else 'social_reconsent' end,
                lost_why = case when r.renewable then a.lost_why else 'token_refused' end
           from (select x.id, x.refresh_token is not null and x.issued_at < $4::timestamptz - interval '5 minutes' as renewable
                   from public.social_accounts x where x.org_id = $1 and x.id = $2) r
          where a.org_id = $1 and a.id = r.id and a.status = 'active' and a.token_version = $3
         returning a.status",
        org_id,
        account_id,
        version,
        now
    );
    let status = status.fetch_optional(tx.conn()?).await?;
    Ok(if status.as_deref() == Some("needs_reconsent") { Refused::Lost } else { Refused::GoesOn })
}

/// Why a consent is lost that the platform took back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost<'a> {
    /// Meta says that the person removed the application.
    Deauthorized,
    /// Meta says that the person wants their data deleted; the code is given to them.
    DeletionAsked {
        /// 32 hexadecimal digits.
        code: &'a str,
    },
    /// TikTok says that the person removed the application, or cannot use it any more.
    AuthorizationRemoved,
}

impl Lost<'_> {
    /// As `social_accounts.lost_why` has it.
    #[must_use]
    pub const fn why(self) -> &'static str {
        match self {
            Self::Deauthorized => "deauthorized",
            Self::DeletionAsked { .. } => "deletion_asked",
            Self::AuthorizationRemoved => "authorization_removed",
        }
    }
}

/// Has an account wait for a person, since the platform took its consent back at `at`. Its tokens go. One that is disconnected stays so, and keeps
/// the code of a deletion. False if it was connected again
/// since, or waits already for that reason.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn lose(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    lost: Lost<'_>,
    at: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let code = match lost {
        Lost::DeletionAsked { code } => Some(code),
        Lost::Deauthorized | Lost::AuthorizationRemoved => None,
    };
    let done = sqlx::query!(
        "update public.social_accounts
            set status = case when status = 'disconnected' then status else 'needs_reconsent' end, fetch_error = 'social_reconsent',
                lost_why = $3, deletion_code = coalesce($4, deletion_code),
                access_token = null, refresh_token = null, token_expires_at = null, consent_ends_at = null, refreshing_since = null,
                uncertain_since = null, token_version = token_version + 1
          where org_id = $1 and id = $2 and (status <> 'disconnected' or $4::text is not null) and (connected_at is null or connected_at <= $5)
            and (status = 'active' or lost_why is distinct from $3 or deletion_code is distinct from coalesce($4, deletion_code))",
        org_id,
        account_id,
        lost.why(),
        code,
        at
    );
    Ok(done.execute(tx.conn()?).await?.rows_affected() == 1)
}

/// Accounts that Meta means by `id`, in all organisations, that were connected before `at`.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn accounts_of(tx: &mut DirectoryTx, id: &str, at: DateTime<Utc>) -> Result<Vec<(Uuid, Uuid)>, StoreError> {
    let found = sqlx::query!(
        r#"select org_id as "org_id!", account_id as "account_id!" from app.social_accounts_of($1, $2)"#,
        id,
        at
    );
    Ok(found.fetch_all(tx.conn()?).await?.into_iter().map(|row| (row.org_id, row.account_id)).collect())
}

/// Whether the deletion of an account's data was asked for under this code.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn knows_deletion(tx: &mut DirectoryTx, code: &str) -> Result<bool, StoreError> {
    let knows = sqlx::query_scalar!(r#"select app.knows_deletion($1) as "knows!""#, code);
    Ok(knows.fetch_one(tx.conn()?).await?)
}

/// Notifies people of consents that end within fourteen days, `most` at most. How many.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn warn_of_ending(tx: &mut DirectoryTx, now: DateTime<Utc>, most: i32) -> Result<i32, StoreError> {
    let warned = sqlx::query_scalar!(r#"select app.warn_of_ending_consents($1, $2) as "warned!""#, now, most);
    Ok(warned.fetch_one(tx.conn()?).await?)
}

/// Writes down that the platform was asked to deliver what happens to an account, by a token of `version`.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn subscribed(tx: &mut ServiceTx, org_id: Uuid, account_id: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.social_accounts set subscribed_at = clock_timestamp() where org_id = $1 and id = $2 and status = 'active'",
        org_id,
        account_id
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}
