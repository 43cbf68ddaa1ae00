//! Fortnox: companies with their books and customers, the consent page and the tokens, and the API.
//!
//! OAuth (`/oauth-v1/`) and the API (`/3/`) are one server at one address, where the real one has two. What it demands and answers is
//! what these pages say: the developer pages on authorization, the guides "Parameters", "Responses", "Errors", "Rate limits", "Formats
//! and encoding" and "Scopes" (fortnox.se/developer), and the OpenAPI document of the API (api.fortnox.se/apidocs). Where they are
//! silent, the sandbox takes the stricter reading, and says so beside it.
//!
//! What people do by hand are methods of [`Fortnox`] (`acts.rs`); what goes wrong is arranged with [`Fortnox::arrange`].

mod acts;
mod books;
mod chart;
mod clock;
mod customers;
mod faults;
mod fields;
mod grants;
mod invoices;
mod json;
mod limit;
mod oauth;
mod pages;
mod params;
mod refusal;
mod registers;
mod rest;
mod rules;
mod world;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Result, bail, ensure};
use tokio::sync::watch;
use url::Url;

pub use books::{Account, CostCenter, Rule, Series, Voucher, VoucherRow};
pub use faults::{Call, Fault};
pub use invoices::NewInvoice;
pub use limit::{MOST, WINDOW_MS};
pub use refusal::UNDOCUMENTED;
pub use rest::Recorded;
pub(crate) use rest::router;
pub use world::OrgNumberSpelling;

use crate::{Key, clock::Clock, consent::pairs};
use grants::Grants;
use limit::Limits;
use oauth::Turned;
use world::{App, SCOPES, World};

/// Fortnox, for one application.
pub struct Fortnox {
    client_id: String,
    client_secret: Key,
    world: Mutex<World>,
    log: Mutex<rest::Log>,
    faults: Mutex<faults::Faults>,
    /// How many answers were held back.
    held: watch::Sender<usize>,
}

impl std::fmt::Debug for Fortnox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fortnox").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fortnox {
    pub(crate) fn new(address: SocketAddr) -> Arc<Self> {
        let (client_id, client_secret) = (Key::generate("").get(), Key::generate(""));
        let app = App {
            client_id: client_id.clone(),
            client_secret: client_secret.clone(),
            redirect_uri: "http://127.0.0.1/oauth/fortnox/callback".to_owned(),
            scopes: SCOPES.map(str::to_owned).into(),
            service_accounts: false,
        };
        let world = World {
            clock: Clock::default(),
            app,
            companies: BTreeMap::new(),
            grants: Grants::default(),
            limits: Limits::default(),
            url: format!("http://{address}"),
        };
        Arc::new(Self {
            client_id,
            client_secret,
            world: Mutex::new(world),
            log: Mutex::default(),
            faults: Mutex::default(),
            held: watch::Sender::default(),
        })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// The application's id.
    #[must_use]
    pub fn client_id(&self) -> String {
        self.client_id.clone()
    }

    /// The application's secret.
    #[must_use]
    pub fn client_secret(&self) -> Key {
        self.client_secret.clone()
    }

    /// Registers another redirect URI, in the place of the one before.
    pub fn set_redirect_uri(&self, uri: &str) {
        uri.clone_into(&mut self.world().app.redirect_uri);
    }

    /// The redirect URI that is registered.
    #[must_use]
    pub fn redirect_uri(&self) -> String {
        self.world().app.redirect_uri.clone()
    }

    /// Registers these scopes, and no others. At first there are all that the sandbox knows.
    pub fn set_scopes(&self, scopes: &[&str]) {
        self.world().app.scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect::<BTreeSet<_>>();
    }

    /// Whether the application may have service accounts. At first it may not.
    pub fn set_service_accounts(&self, enabled: bool) {
        self.world().app.service_accounts = enabled;
    }

    /// Stops the clock at this moment, in unix seconds.
    pub fn set_clock(&self, at: i64) {
        let mut world = self.world();
        world.clock.set_pace(0.0);
        world.clock.set(at * 1000);
    }

    /// Moves the clock on, whether it stands still or not: tokens age, and the window of the rate limit slides.
    pub fn advance(&self, seconds: i64) {
        let mut world = self.world();
        let now = world.now();
        world.clock.set(now + seconds * 1000);
    }

    /// Lets the clock run so many times as fast as true time.
    pub fn set_pace(&self, pace: f64) {
        self.world().clock.set_pace(pace);
    }

    /// What time it is here, in unix seconds.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.world().now().div_euclid(1000)
    }

    /// Does as a person does in a browser: opens the page, chooses a company, and allows or denies. Where the browser ends up, which is
    /// the application also if it was refused.
    ///
    /// # Errors
    /// If the page leads nowhere: a wrong client, a redirect URI that is not the registered one, or no such company.
    pub fn consent(&self, authorize_url: &str, company: i64, allow: bool) -> Result<Url> {
        let url = Url::parse(authorize_url)?;
        ensure!(url.path() == "/oauth-v1/auth", "this is not the consent page: {authorize_url}");
        let asked = pairs(url.query().unwrap_or_default().as_bytes());
        match self.world().decide(&asked, company, allow) {
            Ok(url) => Ok(url),
            Err(Turned::Back(url)) => Ok(*url),
            Err(Turned::Page(text)) => bail!(text),
        }
    }
}
