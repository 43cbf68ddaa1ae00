//! The outside world as real HTTP servers that speak the documented wire formats: Supabase Auth's key set, Anthropic, Gemini.
//!
//! Keys are made per run. What is sent is recorded, and the next answers can be told to be something else.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod anthropic;
pub mod auth;
mod gemini;
pub mod photo;
mod script;

use std::sync::Arc;

use anyhow::Result;
use axum::Router;
use tokio::{net::TcpListener, task::JoinHandle};

pub use script::{Canned, Gate, Script};

/// All providers, running until this is dropped.
#[derive(Debug)]
pub struct Sandbox {
    /// Signs people in.
    pub auth: Arc<auth::Auth>,
    /// What Anthropic accepts.
    pub anthropic_key: String,
    /// What Gemini accepts.
    pub gemini_key: String,
    /// What Anthropic was asked, and what it should answer next.
    pub anthropic: Arc<Script>,
    /// What Gemini was asked, and what it should answer next.
    pub gemini: Arc<Script>,
    supabase_url: String,
    anthropic_url: String,
    gemini_url: String,
    servers: Vec<JoinHandle<()>>,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for server in &self.servers {
            server.abort();
        }
    }
}

impl Sandbox {
    /// Starts every provider on a free port of its own.
    ///
    /// # Errors
    /// If a port cannot be had or a key not be made.
    pub async fn start() -> Result<Self> {
        let mut servers = Vec::new();
        let supabase = TcpListener::bind("127.0.0.1:0").await?;
        let supabase_url = format!("http://{}", supabase.local_addr()?);
        let auth = Arc::new(auth::Auth::new(&supabase_url)?);
        servers.push(serve(supabase, auth::router(Arc::clone(&auth))));

        let anthropic_key = format!("sk-ant-sandbox-{:032x}", rand::random::<u128>());
        let anthropic = Arc::new(Script::default());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let anthropic_url = format!("http://{}", listener.local_addr()?);
        servers.push(serve(listener, anthropic::router(anthropic_key.clone(), Arc::clone(&anthropic))));

        let gemini_key = format!("AIza-sandbox-{:032x}", rand::random::<u128>());
        let gemini = Arc::new(Script::default());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let gemini_url = format!("http://{}", listener.local_addr()?);
        servers.push(serve(listener, gemini::router(gemini_key.clone(), Arc::clone(&gemini))));

        Ok(Self {
            auth,
            anthropic_key,
            gemini_key,
            anthropic,
            gemini,
            supabase_url,
            anthropic_url,
            gemini_url,
            servers,
        })
    }

    /// For `SUPABASE_URL`.
    #[must_use]
    pub fn supabase_url(&self) -> String {
        self.supabase_url.clone()
    }

    /// For `ANTHROPIC_BASE_URL`.
    #[must_use]
    pub fn anthropic_url(&self) -> String {
        self.anthropic_url.clone()
    }

    /// For `GEMINI_BASE_URL`.
    #[must_use]
    pub fn gemini_url(&self) -> String {
        self.gemini_url.clone()
    }
}

fn serve(listener: TcpListener, router: Router) -> JoinHandle<()> {
    let router = router.layer(axum::extract::DefaultBodyLimit::max(40 * 1024 * 1024));
    tokio::spawn(async move {
        let _ = axum::serve(listener, router).await;
    })
}
