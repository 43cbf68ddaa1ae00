//! Secrets: names until the moment of use.
//!
//! They come from environment variables, or from one AWS Secrets Manager document where `SECRETS_ARN` is set. Read on first
//! need, kept for a while, and read again at once when a provider refuses the one that is kept.

use std::{collections::HashMap, fmt, time::Duration};

use aws_sdk_secretsmanager::{Client, error::ProvideErrorMetadata};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::{Mutex, OnceCell},
    time::Instant,
};

use crate::{
    aws::{self, Aws},
    config::{ConfigError, Env},
};

const FETCH_ATTEMPT: Duration = Duration::from_secs(2);
const FETCH: Duration = Duration::from_secs(5);
/// How long to leave Secrets Manager alone after a fetch that did not help.
const QUIET: Duration = Duration::from_secs(30);

/// What a function may ask for. The name is that of the environment variable; in the document it is lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Secret {
    /// Where functions log in to Postgres.
    DatabaseUrl,
    /// Where MongoDB is, and the login.
    MongodbUri,
    /// The legacy shared secret of a Supabase project.
    SupabaseJwtSecret,
    /// Anthropic's key.
    AnthropicApiKey,
    /// Gemini's key.
    GeminiApiKey,
    /// The S3 key's id.
    StorageS3AccessKeyId,
    /// The S3 key.
    StorageS3SecretAccessKey,
    /// What wraps the audit log's subject keys: 32 bytes in base64.
    AuditKey,
    /// Stripe's key, restricted to what billing reads and opens.
    StripeApiKey,
    /// Signing secrets of the live endpoint, with spaces between while one is rolled.
    StripeWebhookSecrets,
    /// Signing secrets of the test endpoint, likewise.
    StripeWebhookSecretsTest,
    /// The secret of the app that organisations connect their Fortnox with.
    FortnoxClientSecret,
    /// What seals the tokens of organisations' connections: 32 bytes in base64.
    IntegrationKey,
    /// Where mail is handed in, and the login: `smtp://` or `smtps://`.
    MailUrl,
    /// Secrets that Meta signs deliveries with, with spaces between: the Meta app's and the Instagram app's, and another while one is reset.
    MetaAppSecrets,
    /// What Meta must name when it asks whether deliveries are wanted; several likewise.
    MetaVerifyTokens,
    /// Secrets that TikTok signs deliveries with, likewise.
    TiktokClientSecrets,
    /// The secret of the app that organisations connect their Instagram accounts with.
    InstagramClientSecret,
    /// The same at TikTok, for its Display API.
    TiktokClientSecret,
    /// The same for its API for Business.
    TiktokBusinessClientSecret,
}

impl Secret {
    /// Every one.
    pub const ALL: [Self; 20] = [
        Self::DatabaseUrl,
        Self::MongodbUri,
        Self::SupabaseJwtSecret,
        Self::AnthropicApiKey,
        Self::GeminiApiKey,
        Self::StorageS3AccessKeyId,
        Self::StorageS3SecretAccessKey,
        Self::AuditKey,
        Self::StripeApiKey,
        Self::StripeWebhookSecrets,
        Self::StripeWebhookSecretsTest,
        Self::FortnoxClientSecret,
        Self::IntegrationKey,
        Self::MailUrl,
        Self::MetaAppSecrets,
        Self::MetaVerifyTokens,
        Self::TiktokClientSecrets,
        Self::InstagramClientSecret,
        Self::TiktokClientSecret,
        Self::TiktokBusinessClientSecret,
    ];

    /// The environment variable's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DatabaseUrl => "DATABASE_URL",
            Self::MongodbUri => "MONGODB_URI",
            Self::SupabaseJwtSecret => "SUPABASE_JWT_SECRET",
            Self::AnthropicApiKey => "ANTHROPIC_API_KEY",
            Self::GeminiApiKey => "GEMINI_API_KEY",
            Self::StorageS3AccessKeyId => "STORAGE_S3_ACCESS_KEY_ID",
            Self::StorageS3SecretAccessKey => "STORAGE_S3_SECRET_ACCESS_KEY",
            Self::AuditKey => "AUDIT_KEY",
            Self::StripeApiKey => "STRIPE_API_KEY",
            Self::StripeWebhookSecrets => "STRIPE_WEBHOOK_SECRETS",
            Self::StripeWebhookSecretsTest => "STRIPE_WEBHOOK_SECRETS_TEST",
            Self::FortnoxClientSecret => "FORTNOX_CLIENT_SECRET",
            Self::IntegrationKey => "INTEGRATION_KEY",
            Self::MailUrl => "MAIL_URL",
            Self::MetaAppSecrets => "META_APP_SECRETS",
            Self::MetaVerifyTokens => "META_VERIFY_TOKENS",
            Self::TiktokClientSecrets => "TIKTOK_CLIENT_SECRETS",
            Self::InstagramClientSecret => "INSTAGRAM_CLIENT_SECRET",
            Self::TiktokClientSecret => "TIKTOK_CLIENT_SECRET",
            Self::TiktokBusinessClientSecret => "TIKTOK_BUSINESS_CLIENT_SECRET",
        }
    }

    /// Whether this checks what was made earlier, so that its previous version must go on being accepted after a rotation.
    const fn verifies(self) -> bool {
        matches!(self, Self::SupabaseJwtSecret | Self::AuditKey | Self::IntegrationKey)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The value of a secret. Prints as redacted; read it with [`SecretValue::expose`] in the call that needs it.
#[derive(Clone, Debug)]
pub struct SecretValue(SecretString);

impl SecretValue {
    /// The value, for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether both are the same value.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl From<String> for SecretValue {
    fn from(value: String) -> Self {
        Self(value.into())
    }
}

/// Why there is no secret to use.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Nobody set it.
    #[error("the secret {0} is not set")]
    Missing(Secret),
    /// The document is not what it should be.
    #[error("the secret document is not a JSON object of strings")]
    Malformed,
    /// Secrets Manager refused or did not answer.
    #[error("the secret document could not be read: {0}")]
    Unavailable(String),
    /// What the AWS client needs is missing.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

type Document = HashMap<String, SecretValue>;

/// The secrets of this function.
///
/// A call that a provider refused as unauthenticated is tried once more, with what [`Secrets::refetch`] returns.
pub struct Secrets(Source);

/// Nothing of what it holds.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

enum Source {
    Environment(Env),
    Document(Box<SecretDocument>),
}

impl Secrets {
    /// Reads `SECRETS_ARN` and `SECRETS_TTL_MS` (five minutes unless set), and nothing else: fetching waits for the first need.
    ///
    /// # Errors
    /// [`ConfigError`] if the time to live is malformed.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let Some(arn) = env.get("SECRETS_ARN") else { return Ok(Self(Source::Environment(env.clone()))) };
        Ok(Self(Source::Document(Box::new(SecretDocument {
            arn: arn.to_owned(),
            ttl: env.duration_ms("SECRETS_TTL_MS", Duration::from_secs(300))?,
            env: env.clone(),
            client: OnceCell::new(),
            current: Mutex::new(None),
            previous: Mutex::new(None),
        }))))
    }

    /// The current value.
    ///
    /// # Errors
    /// [`SecretError::Missing`] if nobody set it; the others if the document cannot be had. A value past its time to live is
    /// still returned when Secrets Manager is down: an old key that works is better than none.
    pub async fn get(&self, secret: Secret) -> Result<SecretValue, SecretError> {
        self.find(secret).await?.ok_or(SecretError::Missing(secret))
    }

    /// The current value, or `None` if nobody set it.
    ///
    /// # Errors
    /// As [`Secrets::get`], without `Missing`.
    pub async fn find(&self, secret: Secret) -> Result<Option<SecretValue>, SecretError> {
        match &self.0 {
            Source::Environment(env) => Ok(env.get(secret.name()).map(|value| value.to_owned().into())),
            Source::Document(document) => document.find(secret, None).await,
        }
    }

    /// What to use instead of `failed`, which a provider has just refused.
    ///
    /// Reads the document again unless somebody else has done so since `failed` was handed out; many callers that fail
    /// together cause one read. The answer may equal `failed`: then the key is simply wrong.
    ///
    /// # Errors
    /// As [`Secrets::get`].
    pub async fn refetch(&self, secret: Secret, failed: &SecretValue) -> Result<SecretValue, SecretError> {
        match &self.0 {
            Source::Environment(_) => self.get(secret).await,
            Source::Document(document) => {
                document.find(secret, Some(failed)).await?.ok_or(SecretError::Missing(secret))
            }
        }
    }

    /// The version before the current one, for checking what was signed or sealed before a rotation. `None` where there is none,
    /// and always for secrets that authenticate us to others.
    ///
    /// It is `<NAME>_PREVIOUS`, in the environment or, in lower case, in the document. A document without it has its own previous
    /// version asked, which lasts only until any other value of the document is changed.
    ///
    /// # Errors
    /// As [`Secrets::get`], without `Missing`.
    pub async fn previous(&self, secret: Secret) -> Result<Option<SecretValue>, SecretError> {
        match &self.0 {
            _ if !secret.verifies() => Ok(None),
            Source::Environment(env) => Ok(env.get(&format!("{secret}_PREVIOUS")).map(|value| value.to_owned().into())),
            Source::Document(document) => match document.named_previous(secret).await? {
                None => document.find_previous(secret).await,
                named => Ok(named),
            },
        }
    }
}

/// One document in Secrets Manager: a JSON object whose keys are the variable names in lower case.
struct SecretDocument {
    arn: String,
    ttl: Duration,
    env: Env,
    client: OnceCell<Client>,
    current: Mutex<Option<Cached>>,
    previous: Mutex<Option<Cached>>,
}

struct Cached {
    document: Document,
    fetched: Instant,
    /// No more fetches until then: the last one failed, or brought the very value that was refused.
    quiet_until: Option<Instant>,
}

impl SecretDocument {
    async fn find(&self, secret: Secret, failed: Option<&SecretValue>) -> Result<Option<SecretValue>, SecretError> {
        // Held across the fetch, so that callers who need the same document wait for one fetch instead of starting their own.
        let mut cached = self.current.lock().await;
        let refused = |cached: &Cached| match (lookup(&cached.document, secret), failed) {
            (Some(value), Some(failed)) => value.same(failed),
            _ => false,
        };
        self.refresh(&mut cached, "AWSCURRENT", refused).await?;
        Ok(cached.as_ref().and_then(|cached| lookup(&cached.document, secret)))
    }

    /// What stands in the current version under the name of the previous value.
    async fn named_previous(&self, secret: Secret) -> Result<Option<SecretValue>, SecretError> {
        let mut cached = self.current.lock().await;
        self.refresh(&mut cached, "AWSCURRENT", |_| false).await?;
        let name = format!("{}_previous", secret.name().to_ascii_lowercase());
        Ok(cached.as_ref().and_then(|cached| cached.document.get(&name).cloned()))
    }

    async fn find_previous(&self, secret: Secret) -> Result<Option<SecretValue>, SecretError> {
        // What was current until a moment ago is previous now: read again whenever the current version was.
        let current = self.current.lock().await.as_ref().map(|current| current.fetched);
        let mut cached = self.previous.lock().await;
        let overtaken = |cached: &Cached| current.is_some_and(|current| cached.fetched < current);
        self.refresh(&mut cached, "AWSPREVIOUS", overtaken).await?;
        Ok(cached.as_ref().and_then(|cached| lookup(&cached.document, secret)))
    }

    async fn refresh(
        &self,
        cached: &mut Option<Cached>,
        stage: &str,
        refused: impl Fn(&Cached) -> bool,
    ) -> Result<(), SecretError> {
        if let Some(kept) = cached {
            let fresh = kept.fetched.elapsed() < self.ttl && !refused(kept);
            if fresh || kept.quiet_until.is_some_and(|until| Instant::now() < until) {
                return Ok(());
            }
        }
        match (self.fetch(stage).await, cached.as_mut()) {
            (Ok(document), _) => {
                let mut fetched = Cached { document, fetched: Instant::now(), quiet_until: None };
                fetched.quiet_until = refused(&fetched).then(|| Instant::now() + QUIET);
                *cached = Some(fetched);
            }
            (Err(error), Some(kept)) => {
                tracing::warn!(%error, stage, "keeping the secrets read earlier");
                kept.quiet_until = Some(Instant::now() + QUIET);
            }
            (Err(error), None) => return Err(error),
        }
        Ok(())
    }

    async fn fetch(&self, stage: &str) -> Result<Document, SecretError> {
        let client = self.client.get_or_try_init(|| async { client(&self.env) }).await?;
        match client.get_secret_value().secret_id(&self.arn).version_stage(stage).send().await {
            Ok(answer) => parse(answer.secret_string().ok_or(SecretError::Malformed)?),
            // A secret that was never rotated has no previous version.
            Err(error)
                if stage == "AWSPREVIOUS"
                    && error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) =>
            {
                Ok(Document::new())
            }
            Err(error) => Err(SecretError::Unavailable(told(&error))),
        }
    }
}

/// The chain of an error's texts, and its code. Never its debug form, which holds the answer's body: that is the document itself.
fn told(error: &(impl std::error::Error + ProvideErrorMetadata)) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        told.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    format!("{told} ({})", error.code().unwrap_or("no code"))
}

fn lookup(document: &Document, secret: Secret) -> Option<SecretValue> {
    document.get(&secret.name().to_ascii_lowercase()).cloned()
}

fn parse(text: &str) -> Result<Document, SecretError> {
    let strings: HashMap<String, String> = serde_json::from_str(text).map_err(|_| SecretError::Malformed)?;
    Ok(strings.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name, value.into())).collect())
}

fn client(env: &Env) -> Result<Client, ConfigError> {
    let Aws { region, credentials, endpoint } = Aws::from_env(env, "AWS_ENDPOINT_URL_SECRETS_MANAGER")?;
    let mut config = aws_sdk_secretsmanager::Config::builder()
        .behavior_version_latest()
        .region(region)
        .credentials_provider(credentials)
        .http_client(aws::http_client())
        .timeout_config(aws::timeouts(FETCH_ATTEMPT, FETCH));
    config.set_endpoint_url(endpoint);
    Ok(Client::from_conf(config.build()))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
    use serde_json::{Value, json};

    use super::*;

    /// Secrets Manager as far as one document goes: the current and the previous version, and how often they were asked for.
    #[derive(Default)]
    struct Manager {
        versions: std::sync::Mutex<(Option<String>, Option<String>)>,
        /// The whole document, instead of one made of a version.
        whole: std::sync::Mutex<Option<String>>,
        /// Whether the answer is cut off.
        broken: std::sync::Mutex<bool>,
        asked: AtomicUsize,
    }

    async fn answer(State(manager): State<Arc<Manager>>, body: String) -> axum::response::Response {
        let (status, Json(answer)) = decide(&manager, &body);
        let text = answer.to_string();
        let end = if *manager.broken.lock().unwrap() { text.len() - 1 } else { text.len() };
        axum::response::IntoResponse::into_response((status, text[..end].to_owned()))
    }

    fn decide(manager: &Manager, body: &str) -> (StatusCode, Json<Value>) {
        manager.asked.fetch_add(1, Ordering::SeqCst);
        let (current, previous) = manager.versions.lock().unwrap().clone();
        let request: Value = serde_json::from_str(body).unwrap();
        if let Some(whole) = manager.whole.lock().unwrap().clone() {
            return (StatusCode::OK, Json(json!({"Name": "spine", "SecretString": whole})));
        }
        match if request["VersionStage"] == "AWSPREVIOUS" { previous } else { current } {
            Some(key) => (
                StatusCode::OK,
                Json(
                    json!({"Name": "spine", "SecretString": json!({"gemini_api_key": key, "audit_key": key}).to_string()}),
                ),
            ),
            None => (StatusCode::BAD_REQUEST, Json(json!({"__type": "ResourceNotFoundException", "Message": "no"}))),
        }
    }

    async fn secrets_in(manager: &Arc<Manager>) -> Secrets {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/", post(answer)).with_state(manager.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Secrets::from_env(&Env::from_iter([
            ("SECRETS_ARN", "arn:aws:secretsmanager:eu-north-1:1:secret:spine"),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", &format!("http://{address}")),
            ("AWS_REGION", "eu-north-1"),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "key"),
        ]))
        .unwrap()
    }

    #[tokio::test]
    async fn a_refused_secret_is_read_again_once_for_all_who_failed() {
        let manager = Arc::new(Manager::default());
        *manager.versions.lock().unwrap() = (Some("one".into()), None);
        let secrets = secrets_in(&manager).await;
        let old = secrets.get(Secret::GeminiApiKey).await.unwrap();
        assert_eq!(secrets.get(Secret::GeminiApiKey).await.unwrap().expose(), "one");
        assert_eq!(manager.asked.load(Ordering::SeqCst), 1);

        *manager.versions.lock().unwrap() = (Some("two".into()), Some("one".into()));
        let both =
            tokio::join!(secrets.refetch(Secret::GeminiApiKey, &old), secrets.refetch(Secret::GeminiApiKey, &old));

        assert_eq!((both.0.unwrap().expose(), both.1.unwrap().expose()), ("two", "two"));
        assert_eq!(manager.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn only_verifying_secrets_have_a_previous_version() {
        let manager = Arc::new(Manager::default());
        *manager.versions.lock().unwrap() = (Some("two".into()), Some("one".into()));
        let secrets = secrets_in(&manager).await;

        assert_eq!(secrets.previous(Secret::AuditKey).await.unwrap().unwrap().expose(), "one");
        assert!(secrets.previous(Secret::GeminiApiKey).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_read_is_not_told() {
        let manager = Arc::new(Manager::default());
        *manager.broken.lock().unwrap() = true;
        *manager.whole.lock().unwrap() = Some("a-very-secret-value".to_owned());
        let error = secrets_in(&manager).await.get(Secret::AuditKey).await.unwrap_err();
        let told = format!("{error} {error:?} {:?}", std::error::Error::source(&error).map(ToString::to_string));
        assert!(!told.contains("a-very-secret-value"), "{told}");
    }

    #[tokio::test]
    async fn a_previous_value_that_is_named_outlives_the_next_version() {
        let manager = Arc::new(Manager::default());
        *manager.whole.lock().unwrap() = Some(json!({"audit_key": "two", "audit_key_previous": "one"}).to_string());
        let secrets = secrets_in(&manager).await;
        assert_eq!(secrets.previous(Secret::AuditKey).await.unwrap().unwrap().expose(), "one");
        assert_eq!(manager.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_document_never_rotated_has_no_previous_version() {
        let manager = Arc::new(Manager::default());
        *manager.versions.lock().unwrap() = (Some("one".into()), None);
        assert!(secrets_in(&manager).await.previous(Secret::AuditKey).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn secrets_read_earlier_outlive_an_outage() {
        let manager = Arc::new(Manager::default());
        *manager.versions.lock().unwrap() = (Some("one".into()), None);
        let secrets = secrets_in(&manager).await;
        let old = secrets.get(Secret::GeminiApiKey).await.unwrap();
        *manager.versions.lock().unwrap() = (None, None);

        assert_eq!(secrets.refetch(Secret::GeminiApiKey, &old).await.unwrap().expose(), "one");
    }

    #[tokio::test]
    async fn the_environment_serves_where_there_is_no_document() {
        let env =
            Env::from_iter([("AUDIT_KEY", "two"), ("AUDIT_KEY_PREVIOUS", "one"), ("GEMINI_API_KEY_PREVIOUS", "x")]);
        let secrets = Secrets::from_env(&env).unwrap();
        assert_eq!(secrets.get(Secret::AuditKey).await.unwrap().expose(), "two");
        assert_eq!(secrets.previous(Secret::AuditKey).await.unwrap().unwrap().expose(), "one");
        assert!(secrets.previous(Secret::GeminiApiKey).await.unwrap().is_none());
        assert!(matches!(secrets.get(Secret::GeminiApiKey).await, Err(SecretError::Missing(Secret::GeminiApiKey))));
        assert!(!format!("{:?}", secrets.get(Secret::AuditKey).await).contains("two"));
    }
}
