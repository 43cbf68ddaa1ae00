//! What differs between those whose tokens are renewed.

use std::{sync::Arc, time::Duration};

use integration_tests::{
    TestApp,
    people::{NORD, OLGA},
};
use sandbox::{Calls, Consent, Fault, Gate, fortnox, instagram, tiktok};
use shared::{
    clients::{fortnox::Fortnox, social_apps::SocialApps},
    db::Clock,
    tokens::{AccessToken, TokenError, Tokens},
};
use uuid::Uuid;

use super::processes::{self, Settings};
use crate::social_oauth::{self, Way};

const DAY: i64 = 24 * 60 * 60;

/// Whose tokens are renewed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Fortnox,
    Instagram,
    TikTokDisplay,
    TikTokBusiness,
}

/// One that Olga's organisation has connected.
pub(crate) struct Held {
    flow: Flow,
    /// The company or account at the provider.
    subject: String,
    account: Option<Uuid>,
}

/// The door of one process.
pub(crate) enum Door {
    Fortnox(Tokens<Arc<Fortnox>>),
    Social(Tokens<Arc<SocialApps>>, Uuid),
}

impl Door {
    /// As the settings of a process say.
    pub(crate) fn of(settings: &Settings, patience: Duration) -> Self {
        match settings.get("ACCOUNT") {
            Some(account) => Self::Social(processes::social(settings, patience), account.parse().unwrap()),
            None => Self::Fortnox(processes::fortnox(settings, patience)),
        }
    }

    /// The same at another time.
    pub(crate) fn at(mut self, clock: Clock) -> Self {
        match &mut self {
            Self::Fortnox(tokens) => tokens.clock = clock,
            Self::Social(tokens, _) => tokens.clock = clock,
        }
        self
    }

    pub(crate) async fn access(&self) -> Result<AccessToken, TokenError> {
        match self {
            Self::Fortnox(tokens) => tokens.access(NORD).await,
            Self::Social(tokens, account) => tokens.access(NORD, *account).await,
        }
    }
}

impl Flow {
    fn way(self) -> Option<Way> {
        match self {
            Self::Fortnox => None,
            Self::Instagram => Some(Way::Instagram),
            Self::TikTokDisplay => Some(Way::Display),
            Self::TikTokBusiness => Some(Way::Business),
        }
    }

    /// Where tokens are, when they end, and what it is called that they hold and that a person must connect again.
    fn columns(self) -> [&'static str; 4] {
        match self {
            Self::Fortnox => ["org_integrations", "expires_at", "connected", "reconnect"],
            _ => ["social_accounts", "token_expires_at", "active", "needs_reconsent"],
        }
    }

    /// Connects, and has the access token end in a minute less a second.
    pub(crate) async fn connected(self, app: &TestApp) -> Held {
        let held = match self.way() {
            None => {
                let company = app.stack.sandbox.fortnox.create_company("Nordic Interiors AB", "556677-8899");
                Held { flow: self, subject: company.to_string(), account: None }
            }
            Some(way) => Held { flow: self, subject: way.account(app), account: None },
        };
        held.connect(app).await;
        let account = match self {
            Self::Fortnox => None,
            _ => Some(app.db.text("select id::text from social_accounts").await.parse().unwrap()),
        };
        let held = Held { account, ..held };
        held.ends_in(app, "59 seconds").await;
        held
    }
}

impl Held {
    /// Connects it, or connects it again.
    pub(crate) async fn connect(&self, app: &TestApp) {
        let outcome = match self.flow.way() {
            None => crate::fortnox::connect(app, &OLGA, self.subject.parse().unwrap()).await,
            Some(way) => social_oauth::connect_as(app, way, &OLGA, &self.subject, Consent::All).await,
        };
        assert_eq!(outcome, "connected", "{}", app.logs());
        app.stack.social.drained().await;
    }

    /// A door of another process.
    pub(crate) fn door(&self, app: &TestApp, patience: Duration) -> Door {
        Door::of(&self.settings(app, &app.db.functions_url), patience)
    }

    /// The settings of another process.
    pub(crate) fn settings(&self, app: &TestApp, url: &str) -> Settings {
        let mut settings = processes::settings(app, url);
        settings.extend(self.account.map(|account| ("ACCOUNT".to_owned(), account.to_string())));
        settings
    }

    /// Has the access token end in so long, of which a day has passed already since it was issued.
    pub(crate) async fn ends_in(&self, app: &TestApp, interval: &str) {
        let [table, ends, ..] = self.flow.columns();
        app.db.run(&format!("update {table} set {ends} = now() + interval '{interval}'")).await;
        if self.flow == Flow::Instagram {
            app.stack.sandbox.instagram.advance(DAY);
        }
    }

    /// Has a process renew it since so long ago.
    pub(crate) async fn renewing_since(&self, app: &TestApp, ago: &str) {
        let [table, ..] = self.flow.columns();
        app.db.run(&format!("update {table} set refreshing_since = now() - interval '{ago}'")).await;
    }

    /// Sets columns of its row.
    pub(crate) async fn set(&self, app: &TestApp, columns: &str) {
        let [table, ends, ..] = self.flow.columns();
        app.db.run(&format!("update {table} set {}", columns.replace("<ends>", ends))).await;
    }

    /// Whether its row is so.
    pub(crate) async fn is(&self, app: &TestApp, so: &str) -> bool {
        let [table, ends, holds, waits] = self.flow.columns();
        let so = so.replace("<ends>", ends).replace("<holds>", holds).replace("<waits>", waits);
        app.db.count(&format!("select count(*) from {table} where {so}")).await == 1
    }

    /// How many times tokens were asked for that replace others.
    pub(crate) fn renewals(&self, app: &TestApp) -> usize {
        let sandbox = &app.stack.sandbox;
        let (requests, grant) = match self.flow {
            Flow::Fortnox => (sandbox.fortnox.token_requests(), "refresh_token"),
            Flow::Instagram => (sandbox.instagram.token_requests(), "ig_refresh_token"),
            Flow::TikTokDisplay => (sandbox.tiktok.token_requests(tiktok::Platform::Display), "refresh_token"),
            Flow::TikTokBusiness => (sandbox.tiktok.token_requests(tiktok::Platform::Business), "refresh_token"),
        };
        requests.get(grant).copied().unwrap_or_default()
    }

    /// The tokens that get others, as the provider accepts them now. At Instagram those are access tokens.
    pub(crate) fn good(&self, app: &TestApp) -> Vec<String> {
        let sandbox = &app.stack.sandbox;
        match self.flow {
            Flow::Fortnox => sandbox.fortnox.refresh_tokens(self.subject.parse().unwrap()),
            Flow::Instagram => {
                let issued = sandbox.instagram.issued_tokens(&self.subject);
                issued.into_iter().filter(|issued| issued.long_lived).map(|issued| issued.token).collect()
            }
            Flow::TikTokDisplay => sandbox.tiktok.refresh_tokens(&self.subject, tiktok::Platform::Display),
            Flow::TikTokBusiness => sandbox.tiktok.refresh_tokens(&self.subject, tiktok::Platform::Business),
        }
    }

    /// The next request for tokens is carried out, and its answer never arrives.
    pub(crate) fn lose_next(&self, app: &TestApp) {
        match self.flow {
            Flow::Fortnox => app.stack.sandbox.fortnox.lose_next_token_answer(),
            Flow::Instagram => app.stack.sandbox.instagram.lose_next_token_answer(),
            Flow::TikTokDisplay | Flow::TikTokBusiness => app.stack.sandbox.tiktok.lose_next_token_answer(),
        }
    }

    /// The next request for tokens is not carried out: there were too many, or something before the provider failed.
    pub(crate) fn refuse_next(&self, app: &TestApp, too_many: bool) {
        let fault = if too_many { Fault::RateLimited } else { Fault::Down(503) };
        let next = Calls::Next(1);
        match self.flow {
            Flow::Fortnox => {
                let fault = if too_many { fortnox::Fault::RateLimited } else { fortnox::Fault::BadGateway };
                app.stack.sandbox.fortnox.arrange(fortnox::Call::Token, fault, next);
            }
            Flow::Instagram => app.stack.sandbox.instagram.arrange(instagram::Call::Token, fault, next),
            Flow::TikTokDisplay | Flow::TikTokBusiness => {
                app.stack.sandbox.tiktok.arrange(tiktok::Call::Token, fault, next);
            }
        }
    }

    /// The next request for tokens is carried out, and answered once the gate is opened.
    pub(crate) fn hold_next(&self, app: &TestApp, gate: &Gate) {
        let (gate, next) = (gate.clone(), Calls::Next(1));
        match self.flow {
            Flow::Fortnox => {
                app.stack.sandbox.fortnox.arrange(fortnox::Call::Token, fortnox::Fault::Held(gate), next);
            }
            Flow::Instagram => app.stack.sandbox.instagram.arrange(instagram::Call::Token, Fault::Held(gate), next),
            Flow::TikTokDisplay | Flow::TikTokBusiness => {
                app.stack.sandbox.tiktok.arrange(tiktok::Call::Token, Fault::Held(gate), next);
            }
        }
    }

    /// Waits until a request is held.
    pub(crate) async fn is_held(&self, app: &TestApp) {
        match self.flow {
            Flow::Fortnox => app.stack.sandbox.fortnox.held_times(1).await,
            Flow::Instagram => app.stack.sandbox.instagram.held_times(1).await,
            Flow::TikTokDisplay | Flow::TikTokBusiness => app.stack.sandbox.tiktok.held_times(1).await,
        }
    }
}
