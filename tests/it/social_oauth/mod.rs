//! How accounts at Instagram and TikTok are connected, and how a connection ends: by a person, by the platform, or in time.

mod connecting;
mod ending;
mod signed;
mod warned;

use integration_tests::{TestApp, people::Person};
use sandbox::{Consent, tiktok::Platform};
use url::Url;

use crate::browser::{Led, back, begin, code};

/// A way to connect an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Instagram,
    Display,
    Business,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Instagram, Self::Display, Self::Business];

    /// Its segment of paths.
    pub(crate) fn segment(self) -> &'static str {
        match self {
            Self::Instagram => "instagram",
            Self::Display => "tiktok",
            Self::Business => "tiktok-business",
        }
    }

    /// The parameter that the app reads the outcome from.
    pub(crate) fn provider(self) -> &'static str {
        match self {
            Self::Instagram => "instagram",
            Self::Display => "tiktok",
            Self::Business => "tiktok_business",
        }
    }

    /// The scope without which nothing is connected, and another.
    fn scopes(self) -> [&'static str; 2] {
        match self {
            Self::Instagram => ["instagram_business_basic", "instagram_business_manage_messages"],
            Self::Display => ["user.info.basic", "video.list"],
            Self::Business => ["user.info.basic", "comment.list"],
        }
    }

    pub(crate) fn platform(self) -> Platform {
        if self == Self::Business { Platform::Business } else { Platform::Display }
    }

    /// A new account at the platform, whose owner was not asked yet. Its id.
    pub(crate) fn account(self, app: &TestApp) -> String {
        match self {
            Self::Instagram => app.stack.sandbox.instagram.add_unconnected("nordateljen", "Nord Ateljé").0,
            Self::Display | Self::Business => {
                app.stack.sandbox.tiktok.add_account("nordateljen", "Nord Ateljé", &[]).open_id
            }
        }
    }

    /// The owner of an account answers what the platform asks. Where the browser is led then.
    pub(crate) fn decide(self, app: &TestApp, led: &Led, account: &str, answer: Consent) -> Url {
        let decided = match self {
            Self::Instagram => app.stack.sandbox.instagram.decide(&led.consent, account, answer),
            Self::Display | Self::Business => app.stack.sandbox.tiktok.decide(&led.consent, account, answer),
        };
        decided.unwrap()
    }

    /// Comes back. How it ended.
    async fn back(self, url: &Url, cookie: Option<&str>) -> String {
        code(back(url, cookie).await, self.provider()).await
    }

    /// The tokens of an account that can be used, at the platform.
    fn live(self, app: &TestApp, account: &str) -> usize {
        match self {
            Self::Instagram => app.stack.sandbox.instagram.issued_tokens(account).len(),
            Self::Display | Self::Business => app.stack.sandbox.tiktok.refresh_tokens(account, self.platform()).len(),
        }
    }
}

/// Connects from beginning to end. How it ended.
pub(crate) async fn connect_as(app: &TestApp, way: Way, person: &Person, account: &str, answer: Consent) -> String {
    let led = begin(app, way.segment(), person).await;
    let url = way.decide(app, &led, account, answer);
    way.back(&url, Some(&led.cookie)).await
}

/// An account that a person has connected, with all scopes. Its id at the platform, and here.
pub(crate) async fn connected(app: &TestApp, way: Way, person: &Person) -> (String, String) {
    let account = way.account(app);
    assert_eq!(connect_as(app, way, person, &account, Consent::All).await, "connected", "{}", app.logs());
    app.stack.social.drained().await;
    let id =
        format!("select id::text from social_accounts where org_id = '{}' and platform_id = '{account}'", person.org);
    let id = app.db.text(&id).await;
    (account, id)
}

/// Every statement that this has.
pub(crate) async fn scenario(app: &TestApp) {
    ending::every_statement(app).await;
    signed::every_statement(app).await;
}
