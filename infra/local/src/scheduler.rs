//! EventBridge schedules, on this machine.

use std::sync::Arc;

use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::lambda::{InvokeError, Lambda};

/// Sends one tick to a function, and waits for its answer.
///
/// # Errors
/// [`InvokeError`].
pub async fn tick(function: &Lambda) -> Result<Value, InvokeError> {
    let name = function.function().name;
    let event = json!({
        "version": "0", "id": Uuid::new_v4().to_string(), "detail-type": "Scheduled Event", "source": "aws.events",
        "account": "000000000000", "time": Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true), "region": "local",
        "resources": [format!("arn:aws:events:local:000000000000:rule/{name}")], "detail": {},
    });
    function.invoke(event).await
}

/// Ticks every function that has a schedule, until it is dropped.
#[derive(Debug)]
pub struct Scheduler {
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Scheduler {
    /// Starts ticking; the first tick comes after one period.
    #[must_use]
    pub fn start(functions: &[Arc<Lambda>]) -> Self {
        let scheduled =
            functions.iter().filter_map(|lambda| Some((Arc::clone(lambda), lambda.function().schedule?.every)));
        let tasks = scheduled
            .map(|(lambda, period)| {
                tokio::spawn(async move {
                    loop {
                        tokio::time::sleep(period).await;
                        if let Err(error) = tick(&lambda).await {
                            tracing::error!(function = lambda.function().name, %error, "a scheduled invocation failed");
                        }
                    }
                })
            })
            .collect();
        Self { tasks }
    }
}
