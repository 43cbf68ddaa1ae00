//! Fortnox: its tokens, and reads of its API. Source: fortnox.se/developer (authorization, guides: errors, parameters, rate limits) and its
//! OpenAPI document.
//!
//! No call is repeated here. Whether a token request may be made again is for [`crate::tokens`] to decide, and reads count against a limit.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use reqwest::{Client, RequestBuilder, header};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::OnceCell;
use url::{Url, form_urlencoded};

use super::{http_client, oauth::Issued};
use crate::{
    config::{ConfigError, Env},
    secrets::{Secret, SecretError, SecretValue, Secrets},
};

/// The most an answer may hold, in bytes: a page of five hundred customers is under half a megabyte.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// How long one call may take, unless `FORTNOX_TIMEOUT_MS` says otherwise.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(8);
/// What an organisation is asked to consent to, unless `FORTNOX_SCOPES` says otherwise.
const SCOPES: &str = "companyinformation settings bookkeeping customer invoice costcenter";

/// Why Fortnox was of no help.
#[derive(Debug, thiserror::Error)]
pub enum FortnoxError {
    /// Nobody has set it up: there is no client id.
    #[error("Fortnox is not set up")]
    NotSetUp,
    /// The request did not leave: nothing has happened.
    #[error("Fortnox cannot be reached: {0}")]
    Unsent(String),
    /// The request left and no whole answer came: what it asked for may have happened.
    #[error("Fortnox did not answer: {0}")]
    Unanswered(String),
    /// Too many requests, or a failure of its own; it may help another time.
    #[error("Fortnox is busy or failed: {status}")]
    Busy {
        /// HTTP status.
        status: u16,
    },
    /// The code or refresh token was used, has ended, or was never issued; or the consent is gone.
    #[error("Fortnox does not accept the grant")]
    GrantRefused,
    /// The client id or secret is wrong.
    #[error("Fortnox does not accept the client id or secret")]
    ClientRefused,
    /// The access token is not accepted.
    #[error("Fortnox does not accept the access token")]
    Unauthorized,
    /// It refused the request, and would again.
    #[error("Fortnox refused: {status} {code}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its code, 0 if it gave none.
        code: i64,
        /// Its own words.
        words: Words,
    },
    /// The answer is not as documented.
    #[error("Fortnox' answer is not as documented")]
    Malformed,
    /// There is no client secret.
    #[error("Fortnox' client secret is not available")]
    Secret(#[from] SecretError),
}

/// What Fortnox says of a refusal, in Swedish. It may repeat what was sent, so it is for those who may see that, and for no log: prints as
/// redacted.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Words(String);

impl Words {
    /// The words, 500 characters of them at most.
    #[must_use]
    pub fn shown(&self) -> String {
        self.0.chars().filter(|c| *c != '\0').take(500).collect()
    }
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Words(..)")
    }
}

/// A client that is built on first use.
#[derive(Debug)]
pub struct Fortnox {
    auth: String,
    api: String,
    client_id: Option<String>,
    scopes: String,
    service_accounts: bool,
    timeout: Duration,
    client: OnceCell<Client>,
    secrets: Arc<Secrets>,
}

impl Fortnox {
    /// Reads `FORTNOX_CLIENT_ID` (Fortnox is not set up without it), `FORTNOX_AUTH_URL`, `FORTNOX_API_URL`, `FORTNOX_SCOPES`,
    /// `FORTNOX_SERVICE_ACCOUNTS` and `FORTNOX_TIMEOUT_MS` (8 seconds for one call unless set).
    ///
    /// # Errors
    /// [`ConfigError`] for a value that is malformed.
    pub fn from_env(env: &Env, secrets: Arc<Secrets>) -> Result<Self, ConfigError> {
        let base = |name: &str, default: &str| Ok(trimmed(&env.url(name, Some(default))?));
        Ok(Self {
            auth: base("FORTNOX_AUTH_URL", "https://apps.fortnox.se")?,
            api: base("FORTNOX_API_URL", "https://api.fortnox.se")?,
            client_id: env.get("FORTNOX_CLIENT_ID").filter(|id| !id.is_empty()).map(str::to_owned),
            scopes: env.or("FORTNOX_SCOPES", SCOPES).to_owned(),
            service_accounts: env.parsed("FORTNOX_SERVICE_ACCOUNTS", "`true` or `false`")?.unwrap_or(false),
            timeout: env.duration_ms("FORTNOX_TIMEOUT_MS", TIMEOUT)?,
            client: OnceCell::new(),
            secrets,
        })
    }

    /// Whether the app has service accounts, so that access tokens are had by client credentials and no refresh token is used.
    #[must_use]
    pub fn service_accounts(&self) -> bool {
        self.service_accounts
    }

    /// Where a person consents. `state` comes back with them to `redirect_uri`.
    ///
    /// # Errors
    /// [`FortnoxError::NotSetUp`].
    pub fn consent_url(&self, state: &str, redirect_uri: &str) -> Result<String, FortnoxError> {
        let id = self.client_id.as_deref().ok_or(FortnoxError::NotSetUp)?;
        let mut query = vec![
            ("client_id", id),
            ("redirect_uri", redirect_uri),
            ("scope", self.scopes.as_str()),
            ("state", state),
            ("access_type", "offline"),
            ("response_type", "code"),
        ];
        if self.service_accounts {
            query.push(("account_type", "service"));
        }
        // Spaces as %20: Fortnox takes no `+` between scopes.
        Ok(format!("{}/oauth-v1/auth?{}", self.auth, encode(&query).replace('+', "%20")))
    }

    /// Exchanges the code that a consent gave, within ten minutes and once.
    ///
    /// # Errors
    /// [`FortnoxError`].
    pub async fn exchange(&self, code: &str, redirect_uri: &str) -> Result<Issued, FortnoxError> {
        self.token(&[("grant_type", "authorization_code"), ("code", code), ("redirect_uri", redirect_uri)], None).await
    }

    /// The next pair of tokens, for a refresh token that is used up by this.
    ///
    /// # Errors
    /// [`FortnoxError`].
    pub async fn refresh(&self, refresh_token: &str) -> Result<Issued, FortnoxError> {
        self.token(&[("grant_type", "refresh_token"), ("refresh_token", refresh_token)], None).await
    }

    /// An access token for a company that has consented to a service account. Safe to repeat.
    ///
    /// # Errors
    /// [`FortnoxError`].
    pub async fn client_credentials(&self, tenant: &str) -> Result<Issued, FortnoxError> {
        self.token(&[("grant_type", "client_credentials")], Some(tenant)).await
    }

    /// Ends a refresh token. One that is not known any more is as good as ended.
    ///
    /// # Errors
    /// [`FortnoxError`].
    pub async fn revoke(&self, refresh_token: &str) -> Result<(), FortnoxError> {
        let form = [("token_type_hint", "refresh_token"), ("token", refresh_token)];
        match self.ask_token_server("revoke", &form, None).await {
            Ok(_) | Err(FortnoxError::GrantRefused) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads what `path` names, such as `/3/companyinformation`.
    ///
    /// # Errors
    /// [`FortnoxError`].
    pub async fn get(&self, access_token: &str, path: &str, query: &[(&str, &str)]) -> Result<Value, FortnoxError> {
        let request = self.client().await?.get(self.address(path, query));
        asked(request, access_token).await
    }

    /// Makes what `body` says. It is made once for each call: Fortnox has no key by which a repeated call is the same.
    ///
    /// # Errors
    /// [`FortnoxError`]. After [`FortnoxError::Unanswered`], [`FortnoxError::Malformed`] and [`FortnoxError::Busy`] with a status of 500 or more
    /// it may have been made.
    pub async fn post(
        &self,
        access_token: &str,
        path: &str,
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<Value, FortnoxError> {
        let request = self.client().await?.post(self.address(path, query));
        let request = request.header(header::CONTENT_TYPE, "application/json").body(body.to_string());
        asked(request, access_token).await
    }

    fn address(&self, path: &str, query: &[(&str, &str)]) -> String {
        let query = encode(query);
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}{path}{mark}{query}", self.api)
    }

    async fn token(&self, form: &[(&str, &str)], tenant: Option<&str>) -> Result<Issued, FortnoxError> {
        #[derive(Deserialize)]
        struct Answer {
            access_token: String,
            refresh_token: Option<String>,
            #[serde(default)]
            scope: String,
            expires_in: i64,
        }
        let body = self.ask_token_server("token", form, tenant).await?;
        // It is JSON under every content type: text/plain and text/html were recorded.
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| FortnoxError::Malformed)?;
        if answer.access_token.is_empty() || !(1..=86_400).contains(&answer.expires_in) {
            return Err(FortnoxError::Malformed);
        }
        Ok(Issued {
            access_token: answer.access_token,
            refresh_token: answer.refresh_token.filter(|token| !token.is_empty()),
            scopes: answer.scope.split_whitespace().map(str::to_owned).collect(),
            expires_in_s: answer.expires_in,
            consent_ends_in_s: None,
            subject: None,
        })
    }

    async fn ask_token_server(
        &self,
        what: &str,
        form: &[(&str, &str)],
        tenant: Option<&str>,
    ) -> Result<BytesMut, FortnoxError> {
        let secret = self.secrets.get(Secret::FortnoxClientSecret).await?;
        match self.ask_once(what, form, tenant, &secret).await {
            // Refused before the grant was looked at, so that it is not used up.
            Err(FortnoxError::ClientRefused) => {
                let fresh = self.secrets.refetch(Secret::FortnoxClientSecret, &secret).await?;
                self.ask_once(what, form, tenant, &fresh).await
            }
            other => other,
        }
    }

    async fn ask_once(
        &self,
        what: &str,
        form: &[(&str, &str)],
        tenant: Option<&str>,
        secret: &SecretValue,
    ) -> Result<BytesMut, FortnoxError> {
        let id = self.client_id.as_deref().ok_or(FortnoxError::NotSetUp)?;
        let mut request = self
            .client()
            .await?
            .post(format!("{}/oauth-v1/{what}", self.auth))
            .basic_auth(id, Some(secret.expose()))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(encode(form));
        if let Some(tenant) = tenant {
            request = request.header("tenantid", tenant);
        }
        let (status, body) = exchanged(request).await?;
        match (status, oauth_error(&body).as_deref()) {
            (200..=299, _) => Ok(body),
            (429 | 500..=599, _) => Err(FortnoxError::Busy { status }),
            (_, Some("invalid_grant")) => Err(FortnoxError::GrantRefused),
            (_, Some("invalid_client")) | (401, _) => Err(FortnoxError::ClientRefused),
            _ => Err(FortnoxError::Refused { status, code: 0, words: Words::default() }),
        }
    }

    async fn client(&self) -> Result<&Client, FortnoxError> {
        let built = self.client.get_or_try_init(async || http_client(self.timeout)).await;
        built.map_err(|error| FortnoxError::Unsent(error.without_url().to_string()))
    }
}

fn trimmed(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

fn encode(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

async fn exchanged(request: RequestBuilder) -> Result<(u16, BytesMut), FortnoxError> {
    let failed = |error: reqwest::Error| {
        let unsent = error.is_connect() || error.is_builder();
        let text = error.without_url().to_string();
        if unsent { FortnoxError::Unsent(text) } else { FortnoxError::Unanswered(text) }
    };
    let mut response = request.send().await.map_err(failed)?;
    let status = response.status().as_u16();
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(FortnoxError::Malformed);
        }
        body.extend_from_slice(&chunk);
    }
    Ok((status, body))
}

/// An answer of the API.
async fn asked(request: RequestBuilder, access_token: &str) -> Result<Value, FortnoxError> {
    let request = request.bearer_auth(access_token).header(header::ACCEPT, "application/json");
    let (status, body) = exchanged(request).await?;
    match status {
        200..=299 => serde_json::from_slice(&body).map_err(|_| FortnoxError::Malformed),
        401 => Err(FortnoxError::Unauthorized),
        429 | 500..=599 => Err(FortnoxError::Busy { status }),
        _ => {
            let (code, words) = refusal_of(&body);
            Err(FortnoxError::Refused { status, code, words })
        }
    }
}

/// `{"error"}`, as the token endpoint has it.
fn oauth_error(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    Some(body["error"].as_str()?.to_owned())
}

/// `{"ErrorInformation":{"Code","Message"}}`, in either spelling.
fn refusal_of(body: &[u8]) -> (i64, Words) {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let either = |one: &str, other: &str| {
        let information = &body["ErrorInformation"];
        if information[one].is_null() { information[other].clone() } else { information[one].clone() }
    };
    let words = either("Message", "message").as_str().unwrap_or_default().to_owned();
    (either("Code", "code").as_i64().unwrap_or_default(), Words(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_in_both_spellings_and_is_zero_where_there_is_none() {
        for (body, code) in [
            (r#"{"ErrorInformation":{"Error":1,"Message":"Kan inte hitta kunden.","Code":2000433}}"#, 2_000_433),
            (r#"{"ErrorInformation":{"error":1,"message":"Kan inte hitta kunden.","code":2000587}}"#, 2_000_587),
            (r#"{"message":"unauthorized"}"#, 0),
            ("<html>", 0),
        ] {
            let (read, words) = refusal_of(body.as_bytes());
            assert_eq!(read, code, "{body}");
            let shown = if code == 0 { "" } else { "Kan inte hitta kunden." };
            assert_eq!((words.shown().as_str(), format!("{words:?}").as_str()), (shown, "Words(..)"));
        }
    }
}
