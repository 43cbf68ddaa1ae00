//! Clients of providers' APIs, and the HTTP client that they call out with.

#[cfg(feature = "ai")]
pub mod claude;
pub mod fortnox;
#[cfg(feature = "ai")]
pub mod gemini;
pub mod instagram;
pub mod oauth;
pub mod social;
pub mod social_apps;
pub mod stripe;
pub mod tiktok;
#[cfg(feature = "ai")]
mod wire;

use std::{sync::Arc, time::Duration};

/// Makes ring the TLS provider of this process. Whoever comes first decides; all who ask here ask for the same.
pub(crate) fn install_tls_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that another thread was faster.
        let _: Result<(), Arc<_>> = rustls::crypto::ring::default_provider().install_default();
    }
}

/// A client that gives up on connecting after 5 seconds and on a whole exchange after `timeout`, and follows no redirects.
///
/// Redirects are refused since a provider that answers with one could lead a request, and the key in it, elsewhere. Building
/// one reads the system's certificates: build it once, on first need.
///
/// # Errors
/// If the system's certificates cannot be read.
pub fn http_client(timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    client_builder(timeout).build()
}

/// As [`http_client`], for one that needs more settings.
pub(crate) fn client_builder(timeout: Duration) -> reqwest::ClientBuilder {
    install_tls_provider();
    reqwest::Client::builder()
        .connect_timeout(timeout.min(Duration::from_secs(5)))
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent("spine")
}
