//! One whole back office: functions, gateway, queue, and the sandbox they call, on databases that are given. Many can run side
//! by side in one process.

use std::{
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use operator::documents;
pub use operator::documents::prepare as prepare_documents;
use sandbox::{
    Calls, Canned, Sandbox, Wire, WireFault, anthropic, gemini, instagram, mail, secrets, storage, stripe, tiktok,
};
use shared::{
    documents::Collection,
    seal::{Aad, SealingKey},
    secrets::Secret,
};
use tokio::net::TcpListener;
use url::Url;

use crate::{
    functions::{FORTNOX, FUNCTIONS, Function, INSIGHTS, LEADS, QUEUES, RENDERS, SOCIAL, SOCIAL_AI},
    gateway::Gateway,
    lambda::{Environment, InvokeError, Lambda},
    queue::{Consumer, Endpoint, Queue},
    scheduler,
};

/// The meter that agents' costs are told to.
pub const METER: &str = "spine_agent_cost";

/// What a stack stands on.
#[derive(Debug, Clone)]
pub struct StackConfig {
    /// Where functions log in.
    pub database_url: String,
    /// The MongoDB-wire server.
    pub mongodb_uri: String,
    /// The database on it.
    pub mongodb_database: String,
    /// Where the functions' binaries are.
    pub binaries: PathBuf,
    /// A directory of this stack's own, for files and logs.
    pub directory: PathBuf,
    /// The gateway's port; 0 for any.
    pub port: u16,
    /// How long a failed message waits.
    pub visibility: Duration,
    /// When a worker's invocation is cut off, instead of as [`FUNCTIONS`] says.
    pub worker_timeout: Option<Duration>,
    /// Whether functions reach everything through wires, which can be spoilt and watched, or straight.
    pub wired: bool,
    /// Variables that are set or replaced in every function's environment.
    pub overrides: Environment,
}

/// A running back office. It stops when this is dropped.
#[derive(Debug)]
pub struct Stack {
    /// Where clients send requests.
    pub url: String,
    /// The outside world.
    pub sandbox: Sandbox,
    /// Every queue.
    pub queues: Vec<Arc<Queue>>,
    /// The queue of renders.
    pub renders: Arc<Queue>,
    /// The queue of leads to be assigned.
    pub leads: Arc<Queue>,
    /// The queue of insights.
    pub insights: Arc<Queue>,
    /// The queue of readings of Fortnox.
    pub fortnox: Arc<Queue>,
    /// The queue of readings of social accounts.
    pub social: Arc<Queue>,
    /// The queue of social messages to be scored or answered.
    pub social_ai: Arc<Queue>,
    /// The functions, by resource.
    pub functions: Vec<Arc<Lambda>>,
    /// What functions reach, each through a wire that can be spoilt.
    pub wires: Vec<(&'static str, Wire)>,
    /// The functions' environment.
    pub environment: Environment,
    /// Opens what the functions sealed, 32 bytes in base64.
    pub audit_key: String,
    /// Seals tokens of connections, 32 bytes in base64.
    pub integration_key: String,
    /// Logs of the functions, a file each.
    pub logs: PathBuf,
    _gateway: Gateway,
    _consumers: Vec<Consumer>,
    _endpoint: Endpoint,
}

impl Stack {
    /// Brings everything up. Function processes start when they are first needed.
    ///
    /// # Errors
    /// If a port or directory cannot be had.
    pub async fn start(config: StackConfig) -> Result<Self> {
        let files = config.directory.join("storage");
        std::fs::create_dir_all(&files)?;
        let logs = config.directory.join("logs");
        std::fs::create_dir_all(&logs)?;
        let sandbox = Sandbox::start(files).await?;
        let queues = Vec::from(QUEUES.map(|queue| Queue::new(queue.name, config.visibility)));
        let named = |wanted: &str| queues.iter().find(|queue| queue.name() == wanted).map(Arc::clone);
        let missing = "a queue is not in the list of queues";
        let renders = named(RENDERS.name).context(missing)?;
        let leads = named(LEADS.name).context(missing)?;
        let insights = named(INSIGHTS.name).context(missing)?;
        let fortnox = named(FORTNOX.name).context(missing)?;
        let social = named(SOCIAL.name).context(missing)?;
        let social_ai = named(SOCIAL_AI.name).context(missing)?;
        let endpoint = Endpoint::start(queues.clone()).await?;
        let listener = TcpListener::bind(("127.0.0.1", config.port))
            .await
            .with_context(|| format!("port {} is taken", config.port))?;
        let url = format!("http://{}", listener.local_addr()?);

        let at = sandbox.addresses;
        let mut wires = Vec::new();
        let mut addresses = Vec::new();
        for (name, upstream) in [
            ("storage", at.storage),
            ("secrets", at.secrets),
            ("anthropic", at.anthropic),
            ("gemini", at.gemini),
            ("stripe", at.stripe),
            ("fortnox", at.fortnox),
            ("instagram", at.instagram),
            ("tiktok", at.tiktok),
            ("mail", at.mail),
            ("queue", endpoint.address),
        ] {
            if config.wired {
                let wire = Wire::open(name, upstream).await?;
                addresses.push((name, wire.address()));
                wires.push((name, wire));
            } else {
                addresses.push((name, upstream));
            }
        }
        let through = |wanted: &str| {
            let found = addresses.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, address)| format!("http://{address}")).unwrap_or_default()
        };
        // Those that a test or a pooler puts elsewhere are watched there.
        let given = |secret: Secret, otherwise: String| {
            let found = config.overrides.iter().find(|(name, _)| name == secret.name());
            found.map_or(otherwise, |(_, value)| value.clone())
        };
        let mut database_url = given(Secret::DatabaseUrl, config.database_url.clone());
        let mut mongodb_uri = given(Secret::MongodbUri, config.mongodb_uri.clone());
        if config.wired {
            database_url = wired(&mut wires, "postgres", &database_url).await?;
            mongodb_uri = wired(&mut wires, "mongodb", &mongodb_uri).await?;
        }

        let audit_key = kept_key(&config.directory.join("audit.key"))?;
        let mail_at = addresses.iter().find(|(name, _)| *name == "mail").map_or(at.mail, |(_, address)| *address);
        let mail_url = format!("smtp://{}:{}@{mail_at}", mail::USER, sandbox.mailbox.password().get());
        let integration_key = kept_key(&config.directory.join("integration.key"))?;
        sandbox.fortnox.set_redirect_uri(&format!("{url}/oauth/fortnox/callback"));
        sandbox.instagram.register(&format!("{url}/oauth/instagram/callback"));
        sandbox.tiktok.register(tiktok::Platform::Display, &format!("{url}/oauth/tiktok/callback"));
        sandbox.tiktok.register(tiktok::Platform::Business, &format!("{url}/oauth/tiktok-business/callback"));
        for (secret, value) in [
            (Secret::DatabaseUrl, &database_url),
            (Secret::MongodbUri, &mongodb_uri),
            (Secret::AnthropicApiKey, &sandbox.anthropic_key.get()),
            (Secret::GeminiApiKey, &sandbox.gemini_key.get()),
            (Secret::StorageS3AccessKeyId, &sandbox.storage_key_id),
            (Secret::StorageS3SecretAccessKey, &sandbox.storage_key.get()),
            (Secret::AuditKey, &audit_key),
            (Secret::StripeApiKey, &sandbox.stripe.key().get()),
            (Secret::StripeWebhookSecretsTest, &sandbox.stripe.secrets().join(" ")),
            (Secret::FortnoxClientSecret, &sandbox.fortnox.client_secret().get()),
            (Secret::IntegrationKey, &integration_key),
            (Secret::MailUrl, &mail_url),
            (Secret::MetaAppSecrets, &sandbox.instagram.app_secret().get()),
            (Secret::MetaVerifyTokens, &sandbox.instagram.verify_token().get()),
            (Secret::TiktokClientSecrets, &sandbox.tiktok.client_secret().get()),
        ] {
            sandbox.secrets.set(secret.name(), value);
        }
        for (name, secret) in [
            ("INSTAGRAM_CLIENT_SECRET", sandbox.instagram.client_secret()),
            ("TIKTOK_CLIENT_SECRET", sandbox.tiktok.client_secret()),
            ("TIKTOK_BUSINESS_CLIENT_SECRET", sandbox.tiktok.business_client_secret()),
        ] {
            sandbox.secrets.set(name, &secret.get());
        }
        let mut environment: Environment = [
            ("SECRETS_ARN", secrets::ARN.to_owned()),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", through("secrets")),
            ("MONGODB_DATABASE", config.mongodb_database),
            ("SUPABASE_URL", sandbox.supabase_url()),
            ("ANTHROPIC_BASE_URL", through("anthropic")),
            ("GEMINI_BASE_URL", through("gemini")),
            ("STRIPE_BASE_URL", through("stripe")),
            ("STRIPE_MODE", "test".to_owned()),
            ("STRIPE_METER_EVENT", METER.to_owned()),
            ("BILLING_RETURN_ORIGINS", "http://localhost:3000".to_owned()),
            ("FORTNOX_AUTH_URL", through("fortnox")),
            ("FORTNOX_API_URL", through("fortnox")),
            ("FORTNOX_CLIENT_ID", sandbox.fortnox.client_id()),
            ("FORTNOX_REDIRECT_URL", sandbox.fortnox.redirect_uri()),
            ("FORTNOX_RETURN_ORIGINS", "http://localhost:3000".to_owned()),
            ("INSTAGRAM_WWW_URL", through("instagram")),
            ("INSTAGRAM_API_URL", through("instagram")),
            ("INSTAGRAM_GRAPH_URL", through("instagram")),
            ("INSTAGRAM_CLIENT_ID", sandbox.instagram.client_id()),
            ("SOCIAL_REDIRECT_BASE_URL", url.clone()),
            ("SOCIAL_RETURN_ORIGINS", "http://localhost:3000".to_owned()),
            ("TIKTOK_WWW_URL", through("tiktok")),
            ("TIKTOK_API_URL", through("tiktok")),
            ("TIKTOK_BUSINESS_URL", through("tiktok")),
            ("TIKTOK_CLIENT_KEY", sandbox.tiktok.client_key()),
            ("TIKTOK_BUSINESS_CLIENT_ID", sandbox.tiktok.business_client_id()),
            // The sandbox's files of messages.
            ("DOWNLOAD_ALLOWED_HOSTS", at.tiktok.to_string()),
            ("MAIL_FROM", "Spine <no-reply@spine.example>".to_owned()),
            ("APP_URL", "http://localhost:3000".to_owned()),
            ("STORAGE_S3_ENDPOINT", through("storage")),
            ("STORAGE_S3_REGION", storage::REGION.to_owned()),
            ("AWS_ENDPOINT_URL_SQS", through("queue")),
            ("AWS_REGION", "eu-north-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "local".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
            ("LOG_LEVEL", "info".to_owned()),
            ("RUST_BACKTRACE", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        environment.extend(
            QUEUES
                .map(|queue| (queue.variable.to_owned(), format!("{}/000000000000/{}", through("queue"), queue.name))),
        );
        for (name, value) in config.overrides {
            if [Secret::DatabaseUrl, Secret::MongodbUri].iter().any(|secret| secret.name() == name) {
                continue;
            }
            if Secret::ALL.iter().any(|secret| secret.name() == name) {
                sandbox.secrets.set(&name, &value);
                continue;
            }
            environment.retain(|(known, _)| *known != name);
            environment.push((name, value));
        }
        let functions: Vec<Arc<Lambda>> = FUNCTIONS
            .iter()
            .map(|function| {
                let timeout = config.worker_timeout.filter(|_| function.queue.is_some()).unwrap_or(function.timeout);
                let binary = config.binaries.join(function.binary);
                Arc::new(Lambda::new(Function { timeout, ..*function }, binary, environment.clone(), &logs))
            })
            .collect();
        let consumers = functions
            .iter()
            .filter_map(|worker| {
                let wanted = worker.function().queue?.name;
                let queue = queues.iter().find(|queue| queue.name() == wanted)?;
                Some(Consumer::start(Arc::clone(queue), Arc::clone(worker)))
            })
            .collect();
        let gateway = Gateway::start(listener, functions.clone());
        sandbox.stripe.set_endpoint(&format!("{url}/webhooks/stripe"))?;
        sandbox.instagram.set_endpoint(&format!("{url}/webhooks/meta"))?;
        sandbox.tiktok.set_endpoint(&format!("{url}/webhooks/tiktok"))?;
        Ok(Self {
            url,
            sandbox,
            queues,
            renders,
            leads,
            insights,
            fortnox,
            social,
            social_ai,
            functions,
            wires,
            environment,
            audit_key,
            integration_key,
            logs,
            _gateway: gateway,
            _consumers: consumers,
            _endpoint: endpoint,
        })
    }

    /// The function of this resource name.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<&Arc<Lambda>> {
        self.functions.iter().find(|lambda| lambda.function().name == name)
    }

    /// The queue of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn queue(&self, name: &str) -> Result<&Arc<Queue>> {
        let found = self.queues.iter().find(|queue| queue.name() == name);
        found.with_context(|| format!("there is no queue {name}"))
    }

    /// The wire to a server functions reach.
    ///
    /// # Errors
    /// Names the wires there are.
    pub fn wire(&self, wanted: &str) -> Result<&Wire> {
        let found = self.wires.iter().find(|(name, _)| *name == wanted).map(|(_, wire)| wire);
        found.with_context(|| {
            let names: Vec<&str> = self.wires.iter().map(|(name, _)| *name).collect();
            format!("there is no wire to {wanted}; there are: {}", names.join(", "))
        })
    }

    /// The models that `target` serves.
    fn models(&self, target: &str) -> Option<&sandbox::Models> {
        match target {
            "anthropic" => Some(&self.sandbox.anthropic_models),
            "gemini" => Some(&self.sandbox.gemini_models),
            _ => None,
        }
    }

    /// Makes calls to `target` go wrong, by the names that [`faults`] lists. `none` ends what was arranged.
    ///
    /// # Errors
    /// Names what there is, if there is no such target or fault.
    pub fn fault(&self, target: &str, fault: &str, calls: Calls) -> Result<()> {
        let wire = self.wire(target)?;
        let script = match target {
            "anthropic" => Some(&self.sandbox.anthropic),
            "gemini" => Some(&self.sandbox.gemini),
            "stripe" => Some(&self.sandbox.stripe_script),
            "fortnox" => Some(&self.sandbox.fortnox_script),
            "instagram" => Some(&self.sandbox.instagram_script),
            "tiktok" => Some(&self.sandbox.tiktok_script),
            _ => None,
        };
        if fault == "none" {
            wire.clear();
            script.inspect(|script| script.clear());
            self.models(target).inspect(|models| models.restore());
            if target == "mail" {
                self.sandbox.mailbox.mend();
            }
            return Ok(());
        }
        if let Some(fault) = wire_fault(fault) {
            wire.arrange(fault, calls);
            return Ok(());
        }
        if let (Some(model), Some(models)) = (fault.strip_prefix("retired:"), self.models(target)) {
            if models.retire(model) {
                return Ok(());
            }
            bail!("{target} does not serve {model}; it serves: {}", models.list().join(", "));
        }
        if let Some(fault) = mail::fault(fault).filter(|_| target == "mail") {
            self.sandbox.mailbox.arrange(fault, calls);
            return Ok(());
        }
        let known = answers(target);
        match (script, known.into_iter().find(|(name, _)| *name == fault)) {
            (Some(script), Some((_, canned))) => script.arrange(canned, calls),
            _ => bail!("{target} has no fault {fault}; it has: {}", faults(target).join(", ")),
        }
        Ok(())
    }

    /// One tick of the schedule of this name. What it did, as the function says itself.
    ///
    /// # Errors
    /// [`InvokeError`]; `Gone` if there is no such schedule.
    pub async fn tick(&self, schedule: &str) -> Result<serde_json::Value, InvokeError> {
        let named = |lambda: &&Arc<Lambda>| lambda.function().schedule.is_some_and(|own| own.name == schedule);
        scheduler::tick(self.functions.iter().find(named).ok_or(InvokeError::Gone)?).await
    }

    /// One tick of the sweep's schedule. What it did, as it says itself.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn sweep(&self) -> Result<serde_json::Value, InvokeError> {
        self.tick("sweep").await
    }

    /// One tick of the schedule that finds leads to assign. What it did, as it says itself.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn look_after_leads(&self) -> Result<serde_json::Value, InvokeError> {
        self.tick("leads").await
    }

    /// One tick of the schedule that has Fortnox read. What it did, as it says itself.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn look_after_fortnox(&self) -> Result<serde_json::Value, InvokeError> {
        self.tick("fortnox").await
    }

    /// One tick of the schedule that makes nightly insights. What it did, as it says itself.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn nightly_insights(&self) -> Result<serde_json::Value, InvokeError> {
        self.tick("insights").await
    }

    /// The access token of a social account, sealed as functions open it.
    ///
    /// # Errors
    /// If the stack's key is none.
    pub fn seal_account_token(&self, org_id: uuid::Uuid, token: &str) -> Result<String> {
        let key = SealingKey::from_secret(&self.integration_key.clone().into())?;
        let place = Aad { org_id, table: "social_accounts", column: "access_token", key_version: 1 };
        Ok(key.seal(&place, token.as_bytes())?)
    }

    /// One tick of the schedule that looks after social accounts. What it did, as it says itself.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn look_after_social(&self) -> Result<serde_json::Value, InvokeError> {
        self.tick("social").await
    }

    /// One tick of the schedule that has social messages scored and answered. What it did, as it says itself.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn understand_social(&self) -> Result<serde_json::Value, InvokeError> {
        self.tick("social-ai").await
    }

    /// One tick of the schedule that compares billing with Stripe. What it did, as it says itself.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn reconcile(&self) -> Result<serde_json::Value, InvokeError> {
        self.tick("reconcile").await
    }
}

/// A key of 32 bytes in base64, made once and kept with the data: what it sealed could not be opened with another.
fn kept_key(file: &Path) -> Result<String> {
    if let Ok(kept) = std::fs::read_to_string(file) {
        return Ok(kept);
    }
    let made = STANDARD.encode(rand::random::<[u8; 32]>());
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(made.as_bytes())?;
    Ok(made)
}

/// The wire to a server on this machine, as a URL; the URL itself for one elsewhere, whose name its certificate is for.
async fn wired(wires: &mut Vec<(&'static str, Wire)>, name: &'static str, url: &str) -> Result<String> {
    let mut url = Url::parse(url).with_context(|| format!("the address of {name} is not a URL"))?;
    let here = url.host_str().is_some_and(|host| host == "127.0.0.1" || host == "localhost");
    let (true, Some(port)) = (here, url.port()) else { return Ok(url.into()) };
    let wire = Wire::open(name, SocketAddr::from(([127, 0, 0, 1], port))).await?;
    if url.set_host(Some("127.0.0.1")).is_err() || url.set_port(Some(wire.address().port())).is_err() {
        bail!("the address of {name} names no host");
    }
    wires.push((name, wire));
    Ok(url.into())
}

/// What can go wrong with calls to `target`, by name.
#[must_use]
pub fn faults(target: &str) -> Vec<String> {
    let wire = ["slow", "hang", "reset", "refuse", "garbage-bytes", "half", "lost"].map(str::to_owned);
    let slow = "slow:MILLISECONDS".to_owned();
    let answers = answers(target).into_iter().map(|(name, _)| name.to_owned());
    let mail = mail::FAULTS.iter().filter(|_| target == "mail").map(|(name, _)| (*name).to_owned());
    let models = ["anthropic", "gemini"].contains(&target).then(|| "retired:MODEL".to_owned());
    wire.into_iter().chain([slow]).chain(answers).chain(models).chain(mail).collect()
}

fn answers(target: &str) -> Vec<(&'static str, Canned)> {
    match target {
        "anthropic" => anthropic::faults(),
        "gemini" => gemini::faults(),
        "stripe" => stripe::faults(),
        "instagram" => instagram::faults(),
        "tiktok" => tiktok::faults(),
        _ => Vec::new(),
    }
}

fn wire_fault(name: &str) -> Option<WireFault> {
    if let Some(by) = name.strip_prefix("slow:") {
        return Some(WireFault::Slow(Duration::from_millis(by.parse().ok()?)));
    }
    Some(match name {
        "slow" => WireFault::Slow(Duration::from_secs(2)),
        "hang" => WireFault::Hang,
        "reset" => WireFault::Reset,
        "refuse" => WireFault::Refuse,
        "garbage-bytes" => WireFault::Garbage,
        "half" => WireFault::Half,
        "lost" => WireFault::Lost,
        _ => return None,
    })
}

/// An organisation that has documents on the server and is none of `known`, if there is one.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub async fn other_documents(uri: &str, database: &str, known: &[uuid::Uuid]) -> Result<Option<String>> {
    documents::open(uri, database)?.other_than(known).await.context("MongoDB cannot be read")
}

/// A document of an organisation among the agents' outputs, through the same door that functions use.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub async fn find_document(
    uri: &str,
    database: &str,
    org: uuid::Uuid,
    id: uuid::Uuid,
) -> Result<Option<serde_json::Value>> {
    Ok(documents::open(uri, database)?.for_org(org).find(Collection::AgentOutputs, id).await?)
}

/// Puts a document of an organisation among the agents' outputs, through the same door.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub async fn put_document(
    uri: &str,
    database: &str,
    org: uuid::Uuid,
    id: uuid::Uuid,
    document: serde_json::Value,
) -> Result<()> {
    Ok(documents::open(uri, database)?.for_org(org).put(Collection::AgentOutputs, id, document).await?)
}
