//! The applications that organisations connect their social accounts with: consent, and tokens. Sources: developers.facebook.com (Instagram
//! Platform: business login, `access_token`, `refresh_access_token`), developers.tiktok.com (OAuth: user access token management) and
//! business-api.tiktok.com/portal/docs.
//!
//! No call is repeated here: whether a token request may be made again is for [`crate::tokens`] to decide.

use std::sync::Arc;

use reqwest::RequestBuilder;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::{
    oauth::Issued,
    social::{Exchange, Lazy, SocialError, TIMEOUT, count, exchange, id, text},
};
use crate::{
    config::{ConfigError, Env},
    secrets::{Secret, SecretError, SecretValue, Secrets},
};

/// What an organisation is asked to consent to, unless a setting says otherwise. The capabilities of accounts say what each is for.
const INSTAGRAM_SCOPES: &str = "instagram_business_basic,instagram_business_manage_messages,instagram_business_manage_comments,\
                                instagram_business_manage_insights";
const TIKTOK_SCOPES: &str = "user.info.basic,user.info.profile,user.info.stats,video.list";
const TIKTOK_BUSINESS_SCOPES: &str = "user.info.basic,user.info.username,user.info.stats,user.info.profile,user.account.type,user.insights,\
     message.list.read,message.list.send,message.list.manage,comment.list,comment.list.manage,video.list,video.insights";

/// An interface of a platform that an organisation can consent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Api {
    /// Instagram's API with Instagram Login.
    Instagram,
    /// TikTok's Display API.
    TikTokDisplay,
    /// TikTok's API for Business.
    TikTokBusiness,
}

impl Api {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Instagram, Self::TikTokDisplay, Self::TikTokBusiness];

    /// As `social_accounts.api` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Instagram => "instagram_login",
            Self::TikTokDisplay => "tiktok_display",
            Self::TikTokBusiness => "tiktok_business",
        }
    }

    /// As `social_accounts.platform` has it.
    #[must_use]
    pub const fn platform(self) -> &'static str {
        match self {
            Self::Instagram => "instagram",
            Self::TikTokDisplay | Self::TikTokBusiness => "tiktok",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|api| api.name() == name)
    }

    const fn secret(self) -> Secret {
        match self {
            Self::Instagram => Secret::InstagramClientSecret,
            Self::TikTokDisplay => Secret::TiktokClientSecret,
            Self::TikTokBusiness => Secret::TiktokBusinessClientSecret,
        }
    }
}

/// Why no tokens were issued.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// There is no client id, or the interface has no consent.
    #[error("the application is not set up at the platform")]
    NotSetUp,
    /// The request did not leave: nothing has happened.
    #[error("the platform cannot be reached: {0}")]
    Unsent(String),
    /// The request left and no whole answer came: what it asked for may have happened.
    #[error("the platform did not answer: {0}")]
    Unanswered(String),
    /// Too many requests, or a failure of its own; it may help another time.
    #[error("the platform is busy or failed: {status}")]
    Busy {
        /// HTTP status.
        status: u16,
    },
    /// The code or token was used, has ended, or was never issued; or the consent is gone.
    #[error("the platform does not accept the grant: {code}")]
    GrantRefused {
        /// The platform's code, 0 if it gave none.
        code: i64,
    },
    /// The client id or secret is wrong.
    #[error("the platform does not accept the client id or secret")]
    ClientRefused,
    /// It refused, and would again.
    #[error("the platform refused: {status} {code}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The platform's code, 0 if it gave none.
        code: i64,
    },
    /// The answer is not as documented.
    #[error("the platform's answer is not as documented")]
    Malformed,
    /// There is no client secret.
    #[error("the client secret is not available")]
    Secret(#[from] SecretError),
}

impl From<SocialError> for AppError {
    fn from(error: SocialError) -> Self {
        match error {
            SocialError::Unsent(text) => Self::Unsent(text),
            SocialError::Away(text) => Self::Unanswered(text),
            SocialError::Transient { .. } => Self::Busy { status: 500 },
            SocialError::Limited { .. } => Self::Busy { status: 429 },
            SocialError::Token { code } => Self::GrantRefused { code },
            SocialError::Malformed => Self::Malformed,
            SocialError::Refused { status, code } => Self::Refused { status, code },
            SocialError::Parameter { code, .. } | SocialError::Forbidden { code, .. } => {
                Self::Refused { status: 400, code }
            }
            SocialError::Missing | SocialError::FewViewers => Self::Refused { status: 400, code: 0 },
        }
    }
}

/// Clients that are built on first use.
#[derive(Debug)]
pub struct SocialApps {
    instagram_www: String,
    instagram_api: String,
    instagram_graph: String,
    tiktok_www: String,
    tiktok_display: String,
    tiktok_business: String,
    /// As [`Api::ALL`] has them.
    client_ids: [Option<String>; 3],
    scopes: [String; 3],
    http: Lazy,
    secrets: Arc<Secrets>,
}

impl SocialApps {
    /// Reads `INSTAGRAM_CLIENT_ID`, `TIKTOK_CLIENT_KEY` and `TIKTOK_BUSINESS_CLIENT_ID`, without which an interface is not set up; `INSTAGRAM_SCOPES`,
    /// `TIKTOK_SCOPES` and `TIKTOK_BUSINESS_SCOPES`; where the platforms are (`INSTAGRAM_WWW_URL`, `INSTAGRAM_API_URL`, `INSTAGRAM_GRAPH_URL`,
    /// `TIKTOK_WWW_URL`, `TIKTOK_API_URL`, `TIKTOK_BUSINESS_URL`); and `SOCIAL_OAUTH_TIMEOUT_MS` (10 seconds for one call unless set).
    ///
    /// # Errors
    /// [`ConfigError`] for a value that is malformed.
    pub fn from_env(env: &Env, secrets: Arc<Secrets>) -> Result<Self, ConfigError> {
        let base = |name: &str, default: &str| {
            Ok::<_, ConfigError>(env.url(name, Some(default))?.as_str().trim_end_matches('/').to_owned())
        };
        let given = |name: &str| env.get(name).filter(|value| !value.is_empty()).map(str::to_owned);
        let or = |name: &str, default: &str| given(name).unwrap_or_else(|| default.to_owned());
        Ok(Self {
            instagram_www: base("INSTAGRAM_WWW_URL", "https://www.instagram.com")?,
            instagram_api: base("INSTAGRAM_API_URL", "https://api.instagram.com")?,
            instagram_graph: base("INSTAGRAM_GRAPH_URL", "https://graph.instagram.com")?,
            tiktok_www: base("TIKTOK_WWW_URL", "https://www.tiktok.com")?,
            tiktok_display: base("TIKTOK_API_URL", "https://open.tiktokapis.com")?,
            tiktok_business: base("TIKTOK_BUSINESS_URL", "https://business-api.tiktok.com")?,
            client_ids: ["INSTAGRAM_CLIENT_ID", "TIKTOK_CLIENT_KEY", "TIKTOK_BUSINESS_CLIENT_ID"].map(given),
            scopes: [
                or("INSTAGRAM_SCOPES", INSTAGRAM_SCOPES),
                or("TIKTOK_SCOPES", TIKTOK_SCOPES),
                or("TIKTOK_BUSINESS_SCOPES", TIKTOK_BUSINESS_SCOPES),
            ],
            http: Lazy::new(env.duration_ms("SOCIAL_OAUTH_TIMEOUT_MS", TIMEOUT)?),
            secrets,
        })
    }

    fn client_id(&self, api: Api) -> Result<&str, AppError> {
        let [instagram, display, business] = &self.client_ids;
        let id = match api {
            Api::Instagram => instagram,
            Api::TikTokDisplay => display,
            Api::TikTokBusiness => business,
        };
        id.as_deref().ok_or(AppError::NotSetUp)
    }

    /// Where a person consents. `state` comes back with them to `redirect_uri`.
    ///
    /// # Errors
    /// [`AppError::NotSetUp`].
    pub fn consent_url(&self, api: Api, state: &str, redirect_uri: &str) -> Result<String, AppError> {
        let id = self.client_id(api)?;
        let [instagram, display, business] = &self.scopes;
        let (base, id_name, scopes) = match api {
            Api::Instagram => (format!("{}/oauth/authorize", self.instagram_www), "client_id", instagram),
            // Not `client_id`, for either of its interfaces.
            Api::TikTokDisplay => (format!("{}/v2/auth/authorize/", self.tiktok_www), "client_key", display),
            Api::TikTokBusiness => (format!("{}/v2/auth/authorize/", self.tiktok_www), "client_key", business),
        };
        let query = encode(&[
            (id_name, id),
            ("redirect_uri", redirect_uri),
            ("response_type", "code"),
            ("scope", scopes),
            ("state", state),
        ]);
        Ok(format!("{base}?{query}"))
    }

    /// Exchanges the code that a consent gave, once. Instagram's token is exchanged for one that lasts at the same time.
    ///
    /// # Errors
    /// [`AppError`].
    pub async fn exchange(&self, api: Api, code: &str, redirect_uri: &str) -> Result<Issued, AppError> {
        match api {
            Api::Instagram => {
                let short = self
                    .ask(api, async |secret| {
                        let form = [
                            ("client_id", self.client_id(api)?),
                            ("client_secret", secret),
                            ("grant_type", "authorization_code"),
                            ("redirect_uri", redirect_uri),
                            ("code", code),
                        ];
                        let url = format!("{}/oauth/access_token", self.instagram_api);
                        Ok(form_of(self.http.client().await?.post(url), &form))
                    })
                    .await?;
                // Both shapes are met.
                let granted = if short["data"][0].is_object() { &short["data"][0] } else { &short };
                let token = text(&granted["access_token"]).ok_or(AppError::Malformed)?;
                let lasting = self
                    .ask(api, async |secret| {
                        let query = encode(&[
                            ("grant_type", "ig_exchange_token"),
                            ("client_secret", secret),
                            ("access_token", token),
                        ]);
                        let url = format!("{}/access_token?{query}", self.instagram_graph);
                        Ok(self.http.client().await?.get(url))
                    })
                    .await?;
                Ok(Issued { scopes: scopes(&granted["permissions"]), ..instagram(&lasting, id(&granted["user_id"]))? })
            }
            Api::TikTokDisplay => {
                self.tiktok(&[("grant_type", "authorization_code"), ("code", code), ("redirect_uri", redirect_uri)])
                    .await
            }
            Api::TikTokBusiness => {
                let grant =
                    json!({ "grant_type": "authorization_code", "auth_code": code, "redirect_uri": redirect_uri });
                self.business("token", &grant).await
            }
        }
    }

    /// New tokens for a refresh token, which is used up by this; or at Instagram for the access token itself, which is not. `api` is as
    /// `social_accounts.api` has it.
    ///
    /// # Errors
    /// [`AppError`].
    pub async fn renew(&self, api: &str, token: &str) -> Result<Issued, AppError> {
        match Api::of(api).ok_or(AppError::NotSetUp)? {
            Api::Instagram => {
                let query = encode(&[("grant_type", "ig_refresh_token"), ("access_token", token)]);
                let url = format!("{}/refresh_access_token?{query}", self.instagram_graph);
                instagram(&answered(Api::Instagram, self.http.client().await?.get(url)).await?, None)
            }
            Api::TikTokDisplay => self.tiktok(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await,
            Api::TikTokBusiness => {
                self.business("refresh_token", &json!({ "grant_type": "refresh_token", "refresh_token": token })).await
            }
        }
    }

    /// Takes a consent back, by an access token. Instagram has no call for that: there its person removes the application.
    ///
    /// # Errors
    /// [`AppError`].
    pub async fn revoke(&self, api: Api, access_token: &str) -> Result<(), AppError> {
        let revoked = self
            .ask(api, async |secret| {
                let id = self.client_id(api)?;
                let client = self.http.client().await?;
                Ok(match api {
                    Api::Instagram => return Err(AppError::NotSetUp),
                    Api::TikTokDisplay => form_of(
                        client.post(format!("{}/v2/oauth/revoke/", self.tiktok_display)),
                        &[("client_key", id), ("client_secret", secret), ("token", access_token)],
                    ),
                    Api::TikTokBusiness => client
                        .post(format!("{}/open_api/v1.3/tt_user/oauth2/revoke/", self.tiktok_business))
                        .json(&json!({ "client_id": id, "client_secret": secret, "access_token": access_token })),
                })
            })
            .await;
        match revoked {
            // One that is not known any more is as good as revoked; and TikTok answers with an empty body.
            Ok(_) | Err(AppError::GrantRefused { .. } | AppError::Malformed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn tiktok(&self, grant: &[(&str, &str)]) -> Result<Issued, AppError> {
        let api = Api::TikTokDisplay;
        let body = self
            .ask(api, async |secret| {
                let mut form = vec![("client_key", self.client_id(api)?), ("client_secret", secret)];
                form.extend(grant);
                let url = format!("{}/v2/oauth/token/", self.tiktok_display);
                Ok(form_of(self.http.client().await?.post(url), &form))
            })
            .await?;
        tiktok(&body, "refresh_expires_in")
    }

    async fn business(&self, path: &str, grant: &Value) -> Result<Issued, AppError> {
        let api = Api::TikTokBusiness;
        let body = self
            .ask(api, async |secret| {
                let mut body = grant.clone();
                body["client_id"] = json!(self.client_id(api)?);
                body["client_secret"] = json!(secret);
                let url = format!("{}/open_api/v1.3/tt_user/oauth2/{path}/", self.tiktok_business);
                Ok(self.http.client().await?.post(url).json(&body))
            })
            .await?;
        tiktok(&body["data"], "refresh_token_expires_in")
    }

    /// Sends a request that `build` makes with the client secret. Where that is refused it was looked at before the grant, which is not used
    /// up: once more with the secret that is in force now.
    async fn ask(
        &self,
        api: Api,
        build: impl AsyncFn(&str) -> Result<RequestBuilder, AppError>,
    ) -> Result<Value, AppError> {
        let once = async |secret: &SecretValue| answered(api, build(secret.expose()).await?).await;
        let secret = self.secrets.get(api.secret()).await?;
        match once(&secret).await {
            Err(AppError::ClientRefused) => once(&self.secrets.refetch(api.secret(), &secret).await?).await,
            other => other,
        }
    }
}

fn encode(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

fn form_of(request: RequestBuilder, form: &[(&str, &str)]) -> RequestBuilder {
    request.header("content-type", "application/x-www-form-urlencoded").body(encode(form))
}

/// Scopes, as a text with commas or a list has them.
fn scopes(value: &Value) -> Vec<String> {
    let words: Vec<&str> = match value {
        Value::String(text) => text.split([',', ' ']).collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    words.into_iter().map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// A time that an answer names, in seconds.
fn seconds(value: &Value) -> Option<i64> {
    count(value).filter(|seconds| (1..=10 * 366 * 86_400).contains(seconds))
}

fn instagram(body: &Value, subject: Option<String>) -> Result<Issued, AppError> {
    let (token, lasts) = text(&body["access_token"]).zip(seconds(&body["expires_in"])).ok_or(AppError::Malformed)?;
    Ok(Issued {
        access_token: token.to_owned(),
        refresh_token: None,
        scopes: Vec::new(),
        expires_in_s: lasts,
        consent_ends_in_s: Some(lasts),
        subject,
    })
}

fn tiktok(body: &Value, refresh_expires_in: &str) -> Result<Issued, AppError> {
    let (token, lasts) = text(&body["access_token"]).zip(seconds(&body["expires_in"])).ok_or(AppError::Malformed)?;
    Ok(Issued {
        access_token: token.to_owned(),
        refresh_token: text(&body["refresh_token"]).map(str::to_owned),
        scopes: scopes(&body["scope"]),
        expires_in_s: lasts,
        consent_ends_in_s: seconds(&body[refresh_expires_in]),
        subject: id(&body["open_id"]),
    })
}

async fn answered(api: Api, request: RequestBuilder) -> Result<Value, AppError> {
    read(api, &exchange(request).await?)
}

/// Three platforms, four shapes of an error.
fn read(api: Api, exchanged: &Exchange) -> Result<Value, AppError> {
    let status = exchanged.status;
    if status == 429 {
        return Err(AppError::Busy { status });
    }
    let body = exchanged.body.as_ref().ok_or(AppError::Malformed)?;
    match api {
        Api::Instagram => {
            // `error_message` of the exchange of a code, `error` of the graph.
            let code = count(&body["code"]).or(count(&body["error"]["code"])).unwrap_or_default();
            let words = text(&body["error_message"]).or(text(&body["error"]["message"])).unwrap_or_default();
            if body["error_type"].is_null() && body["error"].is_null() && status < 400 {
                return Ok(body.clone());
            }
            Err(match code {
                _ if is_of_client(words) => AppError::ClientRefused,
                4 | 17 | 32 | 613 => AppError::Busy { status: 429 },
                1 | 2 => AppError::Busy { status: 500 },
                102 | 190 => AppError::GrantRefused { code },
                400 if !body["error_type"].is_null() => AppError::GrantRefused { code },
                _ if status >= 500 => AppError::Busy { status },
                _ => AppError::Refused { status, code },
            })
        }
        // It may come with status 200.
        Api::TikTokDisplay => match body["error"].as_str() {
            None if status < 400 => Ok(body.clone()),
            Some("invalid_grant" | "access_denied") => Err(AppError::GrantRefused { code: 0 }),
            Some("invalid_client" | "unauthorized_client") => Err(AppError::ClientRefused),
            Some("server_error" | "temporarily_unavailable") => Err(AppError::Busy { status: status.max(500) }),
            _ if status >= 500 => Err(AppError::Busy { status }),
            _ => Err(AppError::Refused { status, code: 0 }),
        },
        Api::TikTokBusiness => {
            let Some(code) = count(&body["code"]) else { return Err(AppError::Malformed) };
            let words = text(&body["message"]).unwrap_or_default();
            match code {
                0 => Ok(body.clone()),
                40_016 | 40_100 | 40_133 => Err(AppError::Busy { status: 429 }),
                40_102 | 40_104 | 40_105 | 40_110 => Err(AppError::GrantRefused { code }),
                50_000.. => Err(AppError::Busy { status: 500 }),
                // Its list of codes is not published. A secret that is wrong must not cost the consents of all accounts.
                _ if is_of_client(words) => Err(AppError::ClientRefused),
                _ if words.to_ascii_lowercase().contains("token")
                    || words.to_ascii_lowercase().contains("auth_code") =>
                {
                    Err(AppError::GrantRefused { code })
                }
                _ => Err(AppError::Refused { status, code }),
            }
        }
    }
}

/// Whether a refusal's words are about the application itself.
fn is_of_client(words: &str) -> bool {
    let words = words.to_ascii_lowercase().replace('_', " ");
    ["client secret", "client id", "client key", "app secret"].iter().any(|about| words.contains(about))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn of(api: Api, status: u16, body: Value) -> Result<Value, AppError> {
        read(api, &Exchange { status, headers: HeaderMap::new(), body: Some(body) })
    }

    #[test]
    fn a_refused_grant_is_known_in_each_shape_and_a_refused_client_is_not_taken_for_one() {
        let refused = |outcome: Result<Value, AppError>| match outcome {
            Err(AppError::GrantRefused { .. }) => "grant",
            Err(AppError::ClientRefused) => "client",
            Err(AppError::Busy { .. }) => "busy",
            Err(_) => "other",
            Ok(_) => "none",
        };
        let flat = |words: &str| json!({ "error_type": "OAuthException", "code": 400, "error_message": words });
        let graph = |code: i64, words: &str| json!({ "error": { "code": code, "message": words } });
        let oauth = |error: &str| json!({ "error": error, "error_description": "", "log_id": "1" });
        let business = |code: i64, words: &str| json!({ "code": code, "message": words, "data": {} });
        for (api, status, body, wanted) in [
            (Api::Instagram, 400, flat("Matching code was not found or was already used."), "grant"),
            (Api::Instagram, 400, flat("Invalid client_secret"), "client"),
            (Api::Instagram, 400, graph(190, "Session has expired"), "grant"),
            (Api::Instagram, 400, graph(101, "Error validating client secret."), "client"),
            (Api::Instagram, 400, graph(2, "An unexpected error"), "busy"),
            (Api::Instagram, 400, graph(10, "Not authorised"), "other"),
            (Api::Instagram, 200, json!({ "access_token": "x", "expires_in": 1 }), "none"),
            (Api::TikTokDisplay, 200, oauth("invalid_grant"), "grant"),
            (Api::TikTokDisplay, 401, oauth("invalid_client"), "client"),
            (Api::TikTokDisplay, 400, oauth("invalid_request"), "other"),
            (Api::TikTokDisplay, 429, json!({}), "busy"),
            (Api::TikTokBusiness, 200, business(40_105, "Access token is incorrect or has been revoked."), "grant"),
            (Api::TikTokBusiness, 200, business(40_002, "refresh_token is invalid"), "grant"),
            (Api::TikTokBusiness, 200, business(40_002, "client_secret is incorrect"), "client"),
            (Api::TikTokBusiness, 200, business(40_100, "Too many requests"), "busy"),
            (Api::TikTokBusiness, 200, business(40_002, "redirect_uri differs"), "other"),
            (Api::TikTokBusiness, 200, business(0, "OK"), "none"),
        ] {
            assert_eq!(refused(of(api, status, body.clone())), wanted, "{api:?} {status} {body}");
        }
    }

    #[test]
    fn scopes_are_kept_as_they_come_back_in_either_shape() {
        let wanted = ["a.b".to_owned(), "c".to_owned()];
        assert_eq!(scopes(&json!("a.b,c")), wanted);
        assert_eq!(scopes(&json!(["a.b", " c "])), wanted);
        assert_eq!(scopes(&json!(null)), Vec::<String>::new());
    }

    #[test]
    fn tokens_without_a_sensible_end_are_none() {
        let issued = tiktok(
            &json!({ "access_token": "act", "expires_in": 7200, "refresh_expires_in": 15_552_000, "refresh_token": "rft", "open_id": "o",
                     "scope": "user.info.basic" }),
            "refresh_expires_in",
        )
        .unwrap();
        assert_eq!((issued.expires_in_s, issued.consent_ends_in_s), (7200, Some(15_552_000)));
        assert_eq!((issued.refresh_token.as_deref(), issued.subject.as_deref()), (Some("rft"), Some("o")));
        for lasts in [json!(0), json!(-1), json!(99_999_999_999_i64), json!(null)] {
            let body = json!({ "access_token": "x", "expires_in": lasts });
            assert!(matches!(instagram(&body, None), Err(AppError::Malformed)), "{body}");
        }
    }
}
