//! Wakes workers: a message says "look", and the job's row says the rest.

use std::time::Duration;

use aws_sdk_sqs::{
    Client,
    config::{BehaviorVersion, retry::RetryConfig},
    error::DisplayErrorContext,
};
use serde_json::json;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::{
    aws::{self, Aws},
    config::{ConfigError, Env},
};

const ATTEMPT: Duration = Duration::from_secs(1);
const OPERATION: Duration = Duration::from_secs(2);

/// One SQS queue. The client is built on first use.
#[derive(Debug)]
pub struct Queue {
    url: String,
    aws: Aws,
    client: OnceCell<Client>,
}

impl Queue {
    /// The queue whose URL is in `variable`.
    ///
    /// # Errors
    /// [`ConfigError`] if the URL or what the AWS client needs is missing.
    pub fn from_env(env: &Env, variable: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            url: env.required(variable, "the URL of an SQS queue")?.to_owned(),
            aws: Aws::from_env(env, "AWS_ENDPOINT_URL_SQS")?,
            client: OnceCell::new(),
        })
    }

    /// Tells a worker to look at a job. Best effort, two seconds at most: what is lost here the sweep finds. Whether it was sent.
    pub async fn wake(&self, job_id: Uuid, org_id: Uuid) -> bool {
        let client = self.client.get_or_init(async || self.build()).await;
        let body = json!({ "job_id": job_id, "org_id": org_id }).to_string();
        match client.send_message().queue_url(&self.url).message_body(body).send().await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(job.id = %job_id, error = %DisplayErrorContext(&error), "a worker was not woken");
                false
            }
        }
    }

    fn build(&self) -> Client {
        let mut config = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(self.aws.region.clone())
            .credentials_provider(self.aws.credentials.clone())
            .http_client(aws::http_client())
            .timeout_config(aws::timeouts(ATTEMPT, OPERATION))
            .retry_config(RetryConfig::standard().with_max_attempts(2));
        if let Some(endpoint) = &self.aws.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Client::from_conf(config.build())
    }
}
