//! One whole back office: functions, gateway, queue, and the sandbox they call, on databases that are given. Many can run side
//! by side in one process.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use sandbox::Sandbox;
use shared::{
    config::Env,
    documents::{Collection, Documents},
    secrets::{SecretValue, Secrets},
};
use tokio::net::TcpListener;

use crate::{
    functions::{FUNCTIONS, RENDERS},
    gateway::{Gateway, STORAGE_PREFIX, Storage},
    lambda::{Environment, InvokeError, Lambda},
    queue::{Consumer, Endpoint, Queue},
    scheduler,
};

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
    /// The queue of renders.
    pub renders: Arc<Queue>,
    /// The functions, by resource.
    pub functions: Vec<Arc<Lambda>>,
    /// Opens what the functions sealed, 32 bytes in base64.
    pub audit_key: String,
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
        let sandbox = Sandbox::start().await?;
        let renders = Queue::new(RENDERS, config.visibility);
        let endpoint = Endpoint::start(vec![Arc::clone(&renders)]).await?;
        let listener = TcpListener::bind(("127.0.0.1", config.port))
            .await
            .with_context(|| format!("port {} is taken", config.port))?;
        let url = format!("http://{}", listener.local_addr()?);
        let files = config.directory.join("storage");
        std::fs::create_dir_all(&files)?;
        let logs = config.directory.join("logs");
        std::fs::create_dir_all(&logs)?;

        let signing_key = format!("{:032x}", rand::random::<u128>());
        let audit_key = STANDARD.encode(rand::random::<[u8; 32]>());
        let environment: Vec<(&str, String)> = vec![
            ("DATABASE_URL", config.database_url),
            ("MONGODB_URI", config.mongodb_uri),
            ("MONGODB_DATABASE", config.mongodb_database),
            ("SUPABASE_URL", sandbox.supabase_url()),
            ("ANTHROPIC_BASE_URL", sandbox.anthropic_url()),
            ("ANTHROPIC_API_KEY", sandbox.anthropic_key.clone()),
            ("GEMINI_BASE_URL", sandbox.gemini_url()),
            ("GEMINI_API_KEY", sandbox.gemini_key.clone()),
            ("STORAGE_URL", format!("file://{}", files.display())),
            ("STORAGE_PUBLIC_URL", format!("{url}{STORAGE_PREFIX}")),
            ("STORAGE_SIGNING_KEY", signing_key.clone()),
            ("AUDIT_KEY", audit_key.clone()),
            ("RENDER_QUEUE_URL", endpoint.queue_url(RENDERS)),
            ("AWS_ENDPOINT_URL_SQS", endpoint.url.clone()),
            ("AWS_REGION", "eu-north-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "local".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
            ("LOG_LEVEL", "info".to_owned()),
            ("RUST_BACKTRACE", "1".to_owned()),
        ];
        let mut environment: Environment =
            environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        for (name, value) in config.overrides {
            environment.retain(|(known, _)| *known != name);
            environment.push((name, value));
        }
        let functions: Vec<Arc<Lambda>> = FUNCTIONS
            .iter()
            .map(|function| Arc::new(Lambda::new(*function, &config.binaries, environment.clone(), &logs)))
            .collect();
        let workers = functions.iter().filter(|lambda| lambda.function().queue == Some(RENDERS));
        let consumers = workers.map(|worker| Consumer::start(Arc::clone(&renders), Arc::clone(worker))).collect();
        let storage = Storage { directory: files, key: SecretValue::from(signing_key) };
        let gateway = Gateway::start(listener, functions.clone(), storage)?;
        Ok(Self {
            url,
            sandbox,
            renders,
            functions,
            audit_key,
            logs,
            _gateway: gateway,
            _consumers: consumers,
            _endpoint: endpoint,
        })
    }

    /// One tick of the sweep's schedule. What it did, as it says itself.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn sweep(&self) -> Result<serde_json::Value, InvokeError> {
        let sweep = self.functions.iter().find(|lambda| lambda.function().name == "Sweep").ok_or(InvokeError::Gone)?;
        scheduler::tick(sweep).await
    }
}

/// Creates the MongoDB collections with their validators and indexes.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub async fn prepare_documents(uri: &str, database: &str) -> Result<()> {
    documents(uri, database)?.ensure_schema().await.context("MongoDB's collections cannot be made")
}

fn documents(uri: &str, database: &str) -> Result<Documents> {
    let env = Env::from_iter([("MONGODB_URI", uri), ("MONGODB_DATABASE", database)]);
    let secrets = Arc::new(Secrets::from_env(&env)?);
    Ok(Documents::from_env(&env, secrets)?)
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
    Ok(documents(uri, database)?.for_org(org).find(Collection::AgentOutputs, id).await?)
}
