//! The outside world as real servers that speak the documented wire formats: Supabase Auth's key set and storage, AWS Secrets
//! Manager, Anthropic, Gemini, Stripe, Fortnox, Instagram, TikTok, and a mail server.
//!
//! Keys are made per run. What is sent is recorded, the next answers can be told to be something else, and a [`Wire`] in front of
//! any server spoils what passes.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

pub mod anthropic;
#[cfg(test)]
mod ask;
pub mod auth;
mod clock;
mod consent;
#[cfg(test)]
mod endpoint;
mod escaped;
pub mod fortnox;
mod front;
pub mod gemini;
mod hooks;
pub mod instagram;
pub mod mail;
mod models;
pub mod photo;
mod plan;
mod post;
mod script;
pub mod secrets;
pub mod storage;
pub mod stripe;
pub mod tiktok;
mod wire;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use axum::Router;
use tokio::{net::TcpListener, task::JoinHandle};

pub use consent::Consent;
pub use front::{Fault, Recorded, Sent, SentKind};
pub use hooks::{Attempt, Delivery, Loses, Order, Prepared, Written};
pub use models::Models;
pub use plan::Calls;
pub use script::{Canned, Gate, Script};
pub use wire::{Moment, Tap, Verdict, Wire, WireFault};

/// A key that a provider accepts, and no other.
#[derive(Debug, Clone)]
pub struct Key(Arc<Mutex<String>>);

impl Key {
    fn generate(prefix: &str) -> Self {
        Self(Arc::new(Mutex::new(format!("{prefix}{:032x}", rand::random::<u128>()))))
    }

    /// The key.
    #[must_use]
    pub fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Accepts a new key from now on, and the old one no more. The new one.
    pub fn roll(&self) -> String {
        let mut key = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let prefix = key.get(..key.len().saturating_sub(32)).unwrap_or_default();
        *key = format!("{prefix}{:032x}", rand::random::<u128>());
        key.clone()
    }
}

/// All providers, running until this is dropped.
#[derive(Debug)]
pub struct Sandbox {
    /// Signs people in.
    pub auth: Arc<auth::Auth>,
    /// What Anthropic accepts.
    pub anthropic_key: Key,
    /// What Gemini accepts.
    pub gemini_key: Key,
    /// The id of storage's key.
    pub storage_key_id: String,
    /// What storage accepts.
    pub storage_key: Key,
    /// What Anthropic was asked, and what it should answer next.
    pub anthropic: Arc<Script>,
    /// The models that Anthropic serves.
    pub anthropic_models: Models,
    /// What Gemini was asked, and what it should answer next.
    pub gemini: Arc<Script>,
    /// The models that Gemini serves.
    pub gemini_models: Models,
    /// Customers, subscriptions and invoices.
    pub stripe: Arc<stripe::Stripe>,
    /// What Stripe should answer next. What it was asked it knows itself.
    pub stripe_script: Arc<Script>,
    /// Companies, their books and their consents.
    pub fortnox: Arc<fortnox::Fortnox>,
    /// What Fortnox should answer next. What it was asked it knows itself.
    pub fortnox_script: Arc<Script>,
    /// Accounts at Instagram, what people write to them, and their figures.
    pub instagram: Arc<instagram::Instagram>,
    /// What Instagram should answer next. What it was asked it knows itself.
    pub instagram_script: Arc<Script>,
    /// Accounts at TikTok, on either of its platforms.
    pub tiktok: Arc<tiktok::TikTok>,
    /// What TikTok should answer next. What it was asked it knows itself.
    pub tiktok_script: Arc<Script>,
    /// Where all mail ends up.
    pub mailbox: Arc<mail::Mailbox>,
    /// The secret document.
    pub secrets: Arc<secrets::SecretStore>,
    /// Where each server listens.
    pub addresses: Addresses,
    supabase_url: String,
    servers: Vec<JoinHandle<()>>,
}

/// Where each server listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The key set.
    pub auth: SocketAddr,
    /// S3-compatible storage.
    pub storage: SocketAddr,
    /// Secrets Manager.
    pub secrets: SocketAddr,
    /// Anthropic.
    pub anthropic: SocketAddr,
    /// Gemini.
    pub gemini: SocketAddr,
    /// Stripe.
    pub stripe: SocketAddr,
    /// Fortnox: OAuth and the API.
    pub fortnox: SocketAddr,
    /// Instagram: what stands for `www.instagram.com`, `api.instagram.com` and `graph.instagram.com`.
    pub instagram: SocketAddr,
    /// TikTok: the page to agree on, and both platforms, `/v2/` and `/open_api/v1.3/`.
    pub tiktok: SocketAddr,
    /// The mail server: SMTP.
    pub mail: SocketAddr,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for server in &self.servers {
            server.abort();
        }
    }
}

impl Sandbox {
    /// Starts every provider on a free port of its own; stored objects are files in `files`.
    ///
    /// # Errors
    /// If a port cannot be had or a key not be made.
    pub async fn start(files: PathBuf) -> Result<Self> {
        let mut servers = Vec::new();
        let supabase = TcpListener::bind("127.0.0.1:0").await?;
        let auth_address = supabase.local_addr()?;
        let supabase_url = format!("http://{auth_address}");
        let auth = Arc::new(auth::Auth::new(&supabase_url)?);
        servers.push(serve(supabase, auth::router(Arc::clone(&auth))));

        // Its pages are told with their address, too.
        let stripe_listener = TcpListener::bind("127.0.0.1:0").await?;
        let stripe_address = stripe_listener.local_addr()?;
        let stripe = stripe::Stripe::new(Key::generate("sk_test_"), stripe_address);
        let stripe_script = Arc::new(Script::default());
        servers.push(serve(stripe_listener, stripe::router(&stripe, &stripe_script)));
        servers.push(tokio::spawn(Arc::clone(&stripe).run()));

        let fortnox_listener = TcpListener::bind("127.0.0.1:0").await?;
        let fortnox_address = fortnox_listener.local_addr()?;
        let fortnox = fortnox::Fortnox::new(fortnox_address);
        let fortnox_script = Arc::new(Script::default());
        servers.push(serve(fortnox_listener, fortnox::router(&fortnox, &fortnox_script)));

        let instagram_listener = TcpListener::bind("127.0.0.1:0").await?;
        let instagram_address = instagram_listener.local_addr()?;
        let instagram = instagram::Instagram::new(instagram_address);
        let instagram_script = Arc::new(Script::default());
        servers.push(serve(instagram_listener, front::router(&instagram, &instagram_script)));
        servers.push(tokio::spawn(Arc::clone(&instagram).run()));

        let tiktok_listener = TcpListener::bind("127.0.0.1:0").await?;
        let tiktok_address = tiktok_listener.local_addr()?;
        let tiktok = tiktok::TikTok::new(tiktok_address);
        let tiktok_script = Arc::new(Script::default());
        servers.push(serve(tiktok_listener, front::router(&tiktok, &tiktok_script)));
        servers.push(tokio::spawn(Arc::clone(&tiktok).run()));

        let mail_listener = TcpListener::bind("127.0.0.1:0").await?;
        let mail_address = mail_listener.local_addr()?;
        let mailbox = Arc::new(mail::Mailbox::new());
        servers.push(tokio::spawn(Arc::clone(&mailbox).serve(mail_listener)));

        let anthropic_key = Key::generate("sk-ant-sandbox-");
        let anthropic = Arc::new(Script::default());
        let gemini_key = Key::generate("AIza-sandbox-");
        let gemini = Arc::new(Script::default());
        let (anthropic_models, gemini_models) = (Models::new(&anthropic::MODELS), gemini::models());
        let (storage_key_id, storage_key) = (format!("{:032x}", rand::random::<u128>()), Key::generate(""));
        let store = Arc::new(secrets::SecretStore::default());
        let mut addresses = Vec::new();
        for router in [
            storage::router(files, storage_key_id.clone(), storage_key.clone()),
            secrets::router(Arc::clone(&store)),
            anthropic.direct(anthropic::router(anthropic_key.clone(), anthropic_models.clone())),
            gemini.direct(gemini::router(gemini_key.clone(), gemini_models.clone())),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            addresses.push(listener.local_addr()?);
            servers.push(serve(listener, router));
        }
        let addresses = Addresses {
            auth: auth_address,
            storage: addresses[0],
            secrets: addresses[1],
            anthropic: addresses[2],
            gemini: addresses[3],
            stripe: stripe_address,
            fortnox: fortnox_address,
            instagram: instagram_address,
            tiktok: tiktok_address,
            mail: mail_address,
        };
        Ok(Self {
            auth,
            anthropic_key,
            gemini_key,
            storage_key_id,
            storage_key,
            anthropic,
            anthropic_models,
            gemini,
            gemini_models,
            stripe,
            stripe_script,
            fortnox,
            fortnox_script,
            instagram,
            instagram_script,
            tiktok,
            tiktok_script,
            mailbox,
            secrets: store,
            addresses,
            supabase_url,
            servers,
        })
    }

    /// Who signs tokens, as `SUPABASE_URL` has it. It leads past every [`Wire`].
    #[must_use]
    pub fn supabase_url(&self) -> String {
        self.supabase_url.clone()
    }
}

fn serve(listener: TcpListener, router: Router) -> JoinHandle<()> {
    let router = router.layer(axum::extract::DefaultBodyLimit::max(60 * 1024 * 1024));
    tokio::spawn(async move {
        let _ = axum::serve(listener, router).await;
    })
}
