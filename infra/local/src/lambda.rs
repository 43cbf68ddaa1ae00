//! Lambda, on this machine: processes that poll the runtime API, one event at a time each, started when they are needed.

use std::{
    collections::VecDeque,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::Bytes,
    extract::{Path as UrlPath, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chrono::Utc;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
};
use uuid::Uuid;

use crate::functions::Function;

/// Names the planted bug that a build of `./spine mutants` has on.
pub const MUTANT: &str = "SPINE_MUTANT";

/// An invocation that gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// The function answered with an error, or panicked.
    #[error("the function failed: {0}")]
    Failed(Value),
    /// Its process ended in the middle.
    #[error("the function's process ended")]
    Gone,
    /// It took longer than it may.
    #[error("the function ran out of time")]
    TimedOut,
    /// It could not be started.
    #[error("the function cannot be started: {0}")]
    NotStarted(String),
}

/// A function's environment variables.
pub type Environment = Vec<(String, String)>;

/// One function and its processes. They end when this is dropped.
#[derive(Debug)]
pub struct Lambda {
    function: Function,
    binary: PathBuf,
    environment: Environment,
    log: PathBuf,
    permits: Semaphore,
    started: AtomicUsize,
    idle: Mutex<Vec<Worker>>,
    /// Processes that work on an event now.
    running: Mutex<Vec<u32>>,
}

type Outcome = std::result::Result<Value, InvokeError>;

/// An event on its way to a process.
struct Invocation {
    event: Value,
    deadline_ms: i64,
    answer: oneshot::Sender<Outcome>,
}

/// A process and the runtime API it polls.
#[derive(Debug)]
struct Worker {
    child: Child,
    events: mpsc::UnboundedSender<Invocation>,
    server: JoinHandle<()>,
}

/// A process that works on an event, for as long as this is held: also until whoever invoked it waits no longer, since its number may be
/// another's then.
struct AtWork<'a> {
    running: &'a Mutex<Vec<u32>>,
    pid: Option<u32>,
}

impl<'a> AtWork<'a> {
    fn begin(running: &'a Mutex<Vec<u32>>, pid: Option<u32>) -> Self {
        running.lock().unwrap_or_else(PoisonError::into_inner).extend(pid);
        Self { running, pid }
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| Some(*other) != self.pid);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        self.server.abort();
    }
}

impl Lambda {
    /// A function that is this `binary`; no process is started yet.
    #[must_use]
    pub fn new(function: Function, binary: PathBuf, environment: Environment, logs: &Path) -> Self {
        Self {
            binary,
            started: AtomicUsize::new(0),
            log: logs.join(format!("{}.log", function.name)),
            permits: Semaphore::new(function.concurrency),
            idle: Mutex::default(),
            running: Mutex::default(),
            function,
            environment,
        }
    }

    /// Which function this is.
    #[must_use]
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// How many processes were started so far.
    #[must_use]
    pub fn started(&self) -> usize {
        self.started.load(Ordering::Relaxed)
    }

    /// How many processes work on an event now.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The most memory that any process which waits for work has held, in bytes, where the system tells.
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let peaks = idle.iter().filter_map(|worker| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", worker.child.id()?)).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
        });
        peaks.max()
    }

    /// The time that the processes which wait for work have spent on a processor, where the system tells.
    #[must_use]
    pub fn cpu(&self) -> Option<Duration> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = 0;
        for worker in idle.iter() {
            for task in std::fs::read_dir(format!("/proc/{}/task", worker.child.id()?)).ok()? {
                let told = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
                sum += told.split(' ').next()?.parse::<u64>().ok()?;
            }
        }
        Some(Duration::from_nanos(sum))
    }

    /// Ends the processes that wait for work, so that the next event meets a cold start.
    pub fn retire(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Kills every process that works on an event, in the middle of it. How many there were.
    pub fn kill(&self) -> usize {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let killed = running.len();
        for pid in running.drain(..) {
            // Already gone is as good.
            let _ = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        killed
    }

    /// Has a process work on `event`, and waits for its answer.
    ///
    /// # Errors
    /// [`InvokeError`]; the process is ended unless it answered.
    pub async fn invoke(&self, event: Value) -> Outcome {
        let Ok(_permit) = self.permits.acquire().await else { return Err(InvokeError::Gone) };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut worker = match idle {
            Some(worker) => worker,
            None => self.start().await.map_err(|error| InvokeError::NotStarted(format!("{error:#}")))?,
        };
        let (answer, answered) = oneshot::channel();
        let timeout = self.function.timeout;
        let deadline_ms = Utc::now().timestamp_millis() + i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        let at_work = AtWork::begin(&self.running, worker.child.id());
        if worker.events.send(Invocation { event, deadline_ms, answer }).is_err() {
            return Err(InvokeError::Gone);
        }
        let outcome = tokio::select! {
            outcome = answered => outcome.unwrap_or(Err(InvokeError::Gone)),
            _ = worker.child.wait() => Err(InvokeError::Gone),
            () = tokio::time::sleep(timeout) => Err(InvokeError::TimedOut),
        };
        drop(at_work);
        if matches!(outcome, Ok(_) | Err(InvokeError::Failed(_))) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
        }
        outcome
    }

    async fn start(&self) -> Result<Worker> {
        self.started.fetch_add(1, Ordering::Relaxed);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (events, received) = mpsc::unbounded_channel();
        let api = Arc::new(RuntimeApi {
            name: self.function.name,
            received: tokio::sync::Mutex::new(received),
            pending: Mutex::default(),
        });
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .route("/2018-06-01/runtime/init/error", post(init_error))
            .layer(axum::extract::DefaultBodyLimit::max(6 * 1024 * 1024))
            .with_state(api);
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.binary)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .envs(operator::env(MUTANT).map(|name| (MUTANT, name)))
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", self.function.name)
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be run; build the workspace first", self.binary.display()))?;
        Ok(Worker { child, events, server })
    }
}

/// What one process polls.
struct RuntimeApi {
    name: &'static str,
    received: tokio::sync::Mutex<mpsc::UnboundedReceiver<Invocation>>,
    /// One at a time, by what Lambda promises; a queue, since the process and not we keep it.
    pending: Mutex<VecDeque<(String, oneshot::Sender<Outcome>)>>,
}

impl RuntimeApi {
    fn finish(&self, id: &str, outcome: Outcome) -> StatusCode {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = pending.iter().position(|(known, _)| known == id) else { return StatusCode::BAD_REQUEST };
        if let Some((_, answer)) = pending.remove(place) {
            // Whoever waited may have given up.
            let _ = answer.send(outcome);
        }
        StatusCode::ACCEPTED
    }
}

async fn next(State(api): State<Arc<RuntimeApi>>) -> Response {
    let Some(invocation) = api.received.lock().await.recv().await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let id = Uuid::new_v4().to_string();
    let mut headers = HeaderMap::new();
    let arn = format!("arn:aws:lambda:local:000000000000:function:{}", api.name);
    for (name, value) in [
        ("lambda-runtime-aws-request-id", id.clone()),
        ("lambda-runtime-deadline-ms", invocation.deadline_ms.to_string()),
        ("lambda-runtime-invoked-function-arn", arn),
        ("lambda-runtime-trace-id", "Root=1-00000000-000000000000000000000000;Sampled=0".to_owned()),
        ("content-type", "application/json".to_owned()),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    api.pending.lock().unwrap_or_else(PoisonError::into_inner).push_back((id, invocation.answer));
    (headers, invocation.event.to_string()).into_response()
}

async fn response(State(api): State<Arc<RuntimeApi>>, UrlPath(id): UrlPath<String>, body: Bytes) -> StatusCode {
    let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    api.finish(&id, Ok(value))
}

async fn error(State(api): State<Arc<RuntimeApi>>, UrlPath(id): UrlPath<String>, body: Bytes) -> StatusCode {
    let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    api.finish(&id, Err(InvokeError::Failed(value)))
}

async fn init_error() -> StatusCode {
    // The process ends right after, which is how it is noticed.
    StatusCode::ACCEPTED
}

/// How long a client of the HTTP API waits at most.
pub const HTTP_API_TIMEOUT: Duration = Duration::from_secs(30);
