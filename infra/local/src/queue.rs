//! SQS, on this machine: takes `SendMessage` as the AWS SDK sends it, and delivers batches to a worker as Lambda does.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::Utc;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::JoinHandle,
};
use uuid::Uuid;

use crate::lambda::Lambda;

/// How often a message is delivered before it is a dead letter.
const MAX_RECEIVES: u32 = 5;

#[derive(Debug, Clone)]
struct Message {
    id: String,
    body: String,
    receives: u32,
    sent_ms: i64,
}

/// A queue and what is in it.
#[derive(Debug)]
pub struct Queue {
    name: String,
    visibility: Duration,
    ready: Mutex<VecDeque<Message>>,
    dead: Mutex<Vec<String>>,
    arrived: Notify,
    /// Messages sent and not yet done with.
    open: watch::Sender<usize>,
    paused: watch::Sender<bool>,
}

impl Queue {
    /// An empty queue, whose failed messages come again after `visibility`.
    #[must_use]
    pub fn new(name: &str, visibility: Duration) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            visibility,
            ready: Mutex::default(),
            dead: Mutex::default(),
            arrived: Notify::new(),
            open: watch::Sender::new(0),
            paused: watch::Sender::new(false),
        })
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a message.
    pub fn send(&self, body: &str) -> String {
        let message = Message {
            id: Uuid::new_v4().to_string(),
            body: body.to_owned(),
            receives: 0,
            sent_ms: Utc::now().timestamp_millis(),
        };
        let id = message.id.clone();
        self.open.send_modify(|open| *open += 1);
        self.put_back(message);
        id
    }

    fn put_back(&self, message: Message) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).push_back(message);
        self.arrived.notify_one();
    }

    /// Delivers nothing until [`Queue::resume`].
    pub fn pause(&self) {
        self.paused.send_replace(true);
    }

    /// Delivers again.
    pub fn resume(&self) {
        self.paused.send_replace(false);
    }

    /// Bodies of the messages waiting now.
    #[must_use]
    pub fn waiting(&self) -> Vec<String> {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.iter().map(|message| message.body.clone()).collect()
    }

    /// Bodies of the messages that failed too often.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<String> {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts every dead letter back, as an operator's redrive does. How many there were.
    pub fn redrive(&self) -> usize {
        let dead = std::mem::take(&mut *self.dead.lock().unwrap_or_else(PoisonError::into_inner));
        for body in &dead {
            self.send(body);
        }
        dead.len()
    }

    /// Waits until every message sent so far is done with or dead.
    pub async fn drained(&self) {
        let mut open = self.open.subscribe();
        // The sender lives as long as we do.
        let _ = open.wait_for(|open| *open == 0).await;
    }

    fn take(&self, most: usize) -> Vec<Message> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let count = ready.len().min(most);
        ready.drain(..count).collect()
    }

    fn done(&self) {
        self.open.send_modify(|open| *open = open.saturating_sub(1));
    }
}

/// A consumer that delivers until it is dropped.
#[derive(Debug)]
pub struct Consumer {
    task: JoinHandle<()>,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Consumer {
    /// Delivers the queue's messages to `worker`, as many batches at once as it runs invocations.
    #[must_use]
    pub fn start(queue: Arc<Queue>, worker: Arc<Lambda>) -> Self {
        let task = tokio::spawn(async move {
            let mut paused = queue.paused.subscribe();
            loop {
                if paused.wait_for(|paused| !*paused).await.is_err() {
                    return;
                }
                let batch = queue.take(worker.function().batch);
                if batch.is_empty() {
                    tokio::select! {
                        () = queue.arrived.notified() => {}
                        _ = paused.changed() => {}
                    }
                    continue;
                }
                tokio::spawn(deliver(Arc::clone(&queue), Arc::clone(&worker), batch));
            }
        });
        Self { task }
    }
}

async fn deliver(queue: Arc<Queue>, worker: Arc<Lambda>, batch: Vec<Message>) {
    let records: Vec<Value> = batch
        .iter()
        .map(|message| {
            json!({
                "messageId": message.id, "receiptHandle": Uuid::new_v4().to_string(), "body": message.body,
                "attributes": {
                    "ApproximateReceiveCount": (message.receives + 1).to_string(), "SentTimestamp": message.sent_ms.to_string(),
                    "SenderId": "local", "ApproximateFirstReceiveTimestamp": Utc::now().timestamp_millis().to_string(),
                },
                "messageAttributes": {}, "md5OfBody": "", "eventSource": "aws:sqs",
                "eventSourceARN": format!("arn:aws:sqs:local:000000000000:{}", queue.name), "awsRegion": "local",
            })
        })
        .collect();
    let failed = match worker.invoke(json!({ "Records": records })).await {
        Ok(answer) => failed_items(&answer, &batch),
        Err(error) => {
            tracing::warn!(queue = queue.name, %error, "a batch failed");
            batch.iter().map(|message| message.id.clone()).collect()
        }
    };
    for mut message in batch {
        if !failed.contains(&message.id) {
            queue.done();
            continue;
        }
        message.receives += 1;
        if message.receives >= MAX_RECEIVES {
            queue.dead.lock().unwrap_or_else(PoisonError::into_inner).push(message.body);
            queue.done();
            continue;
        }
        let queue = Arc::clone(&queue);
        tokio::spawn(async move {
            tokio::time::sleep(queue.visibility).await;
            queue.put_back(message);
        });
    }
}

/// Which messages come again. Anything but a list of known ids means all of them, as it does to SQS.
fn failed_items(answer: &Value, batch: &[Message]) -> Vec<String> {
    let all = || batch.iter().map(|message| message.id.clone()).collect();
    let failures = match answer {
        Value::Null => return Vec::new(),
        Value::Object(fields) if fields.is_empty() => return Vec::new(),
        other => match other["batchItemFailures"].as_array() {
            Some(failures) => failures,
            None => return all(),
        },
    };
    let mut failed = Vec::new();
    for failure in failures {
        match failure["itemIdentifier"].as_str() {
            Some(id) if batch.iter().any(|message| message.id == id) => failed.push(id.to_owned()),
            _ => return all(),
        }
    }
    failed
}

/// The endpoint that functions send to, by the SDK's JSON protocol.
#[derive(Debug)]
pub struct Endpoint {
    server: JoinHandle<()>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Endpoint {
    /// Serves `queues` by name.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(queues: Vec<Arc<Queue>>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let queues: HashMap<String, Arc<Queue>> = queues.into_iter().map(|queue| (queue.name.clone(), queue)).collect();
        let router = Router::new().fallback(receive).with_state(Arc::new(queues));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { server, address })
    }
}

async fn receive(State(queues): State<Arc<HashMap<String, Arc<Queue>>>>, headers: HeaderMap, body: Bytes) -> Response {
    let refuse = |kind: &str| {
        let body = json!({ "__type": format!("com.amazonaws.sqs#{kind}"), "message": kind });
        (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, "application/x-amz-json-1.0")], body.to_string())
            .into_response()
    };
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let Ok(request) = serde_json::from_slice::<Value>(&body) else { return refuse("InvalidMessageContents") };
    if target != "AmazonSQS.SendMessage" {
        return refuse("UnsupportedOperation");
    }
    let name = request["QueueUrl"].as_str().and_then(|url| url.rsplit('/').next()).unwrap_or_default();
    let (Some(queue), Some(message)) = (queues.get(name), request["MessageBody"].as_str()) else {
        return refuse("QueueDoesNotExist");
    };
    let id = queue.send(message);
    // The SDK checks the digest only where one is given.
    ([(header::CONTENT_TYPE, "application/x-amz-json-1.0")], json!({ "MessageId": id }).to_string()).into_response()
}
