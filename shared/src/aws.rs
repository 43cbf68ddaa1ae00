//! What every AWS client is built from.

use std::sync::OnceLock;

use aws_sdk_secretsmanager::config::{Credentials, Region, SharedHttpClient, timeout::TimeoutConfig};
use aws_smithy_http_client::{Builder, tls};

use crate::config::{ConfigError, Env};
use std::time::Duration;

/// Region and credentials as Lambda gives them: in the environment, and unchanged for as long as the process lives.
///
/// Read here rather than through `aws-config`, whose chain of files, metadata endpoints and single sign-on no function uses
/// and every function would link.
#[derive(Clone, Debug)]
pub(crate) struct Aws {
    pub(crate) region: Region,
    pub(crate) credentials: Credentials,
    pub(crate) endpoint: Option<String>,
}

impl Aws {
    /// `endpoint_variable` names what overrides the service's address, such as `AWS_ENDPOINT_URL_SQS`.
    pub(crate) fn from_env(env: &Env, endpoint_variable: &str) -> Result<Self, ConfigError> {
        let key_id = env.required("AWS_ACCESS_KEY_ID", "an access key id; Lambda sets it")?;
        let key = env.required("AWS_SECRET_ACCESS_KEY", "a secret access key; Lambda sets it")?;
        let token = env.get("AWS_SESSION_TOKEN").map(str::to_owned);
        Ok(Self {
            region: Region::new(env.required("AWS_REGION", "an AWS region, such as eu-north-1")?.to_owned()),
            credentials: Credentials::new(key_id, key, token, None, "environment"),
            endpoint: env.get(endpoint_variable).or_else(|| env.get("AWS_ENDPOINT_URL")).map(str::to_owned),
        })
    }
}

/// One HTTP client for all AWS services: certificates are read once.
pub(crate) fn http_client() -> SharedHttpClient {
    static CLIENT: OnceLock<SharedHttpClient> = OnceLock::new();
    let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    CLIENT.get_or_init(|| Builder::new().tls_provider(ring).build_https()).clone()
}

/// Gives up on an attempt, and on the whole operation with its retries, after these.
pub(crate) fn timeouts(attempt: Duration, operation: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(attempt)
        .operation_attempt_timeout(attempt)
        .operation_timeout(operation)
        .build()
}
