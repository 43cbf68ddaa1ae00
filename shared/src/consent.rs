//! Consent at a provider, in the browser that asked for it: how a person is sent there, what they come back with, and where they go then.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::{Url, form_urlencoded};
use uuid::Uuid;

use crate::{
    auth::{Authenticator, Caller, Identity},
    db::{CallerTx, Clock, Database},
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    origins::Origins,
    store::{
        StoreError,
        access::{self, Member},
        idempotency::{self, KeyedRequest},
        integrations,
    },
    telemetry,
    tokens::TokenError,
};

/// Longer parameters come from no provider: a state has 43 characters, and the longest code some hundred.
const MAX_PARAMETER: usize = 2048;

/// The way to one provider, and back.
#[derive(Debug)]
pub struct Door<'a> {
    /// Who asks.
    pub auth: &'a Authenticator,
    /// The database.
    pub db: &'a Database,
    /// The time.
    pub clock: Clock,
    /// Apps that people may be sent back to afterwards.
    pub return_origins: &'a Origins,
    /// As `oauth_states.provider` has it. The parameter is called so that the app reads the outcome from.
    pub provider: &'static str,
    /// What people call it. Has no character that HTML would need to escape.
    pub name: &'static str,
}

/// What a person allowed who came back.
#[derive(Debug)]
pub struct Given {
    /// Which organisation is to be connected.
    pub org_id: Uuid,
    /// Who consented.
    pub user_id: Uuid,
    /// To be exchanged for tokens, once.
    pub code: String,
}

/// A person who came back.
#[derive(Debug)]
pub struct Back {
    /// Where they want to be. None where that is not known.
    redirect_to: Option<String>,
    /// What they allowed.
    pub given: Result<Given, NotConnected>,
}

/// A way that connecting ends without a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotConnected {
    /// Stable, for programs.
    pub code: &'static str,
    /// For people. Has no character that HTML would need to escape.
    pub text: Cow<'static, str>,
}

/// Why a connection was not written down.
#[derive(Debug)]
pub enum Failed {
    /// The person reads it in their browser.
    NotConnected(NotConnected),
    /// Something of ours.
    Ours(ApiError),
}

impl From<NotConnected> for Failed {
    fn from(why: NotConnected) -> Self {
        Self::NotConnected(why)
    }
}

impl<E: Into<ApiError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Ours(error.into())
    }
}

/// Where to send a person who connects.
#[derive(Debug, Serialize)]
struct StartView {
    /// To be opened in the person's browser, once.
    url: String,
    expires_at: DateTime<Utc>,
}

/// Who begins, and where they want to be afterwards.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StartQuery {
    redirect_to: String,
}

/// Who ends a connection.
#[derive(Debug)]
pub struct Ending {
    caller: Caller,
    keyed: Option<KeyedRequest>,
    /// The person, and their organisation.
    pub member: Member,
    /// Whether they have ended it before, with the same key.
    pub is_done: bool,
}

impl Door<'_> {
    /// Begins to connect, for a person who is signed in, in the browser that asks: the answer sets its cookie. So a person who was lured to an
    /// address that another person began does not connect their own with another's organisation. `consent_url` has the provider's page for a state.
    ///
    /// An app that asks for JSON is given the address to open; another client is led there at once.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn start(
        &self,
        request: &HttpRequest,
        redirect_url: &Url,
        consent_url: impl FnOnce(&str) -> Result<String, ApiError>,
    ) -> Result<HttpResponse, ApiError> {
        let caller = self.auth.authenticate(&request.headers, (self.clock)()).await?;
        let wanted: StartQuery = http::query(request)?;
        let redirect_to = self.return_origins.address("redirect_to", &wanted.redirect_to)?;
        let entered =
            self.db.caller(&caller, async |tx| self.enter(tx, &caller, "connects", "; an agent cannot consent.").await);
        let member = entered.await?;
        let (returned, browser) = (random(), random());
        // Before anything is written, this says whether the provider is set up.
        let url = consent_url(&returned)?;
        let begun = self.db.service(member.org_id, async |tx| {
            integrations::begin_consent(
                tx,
                member.org_id,
                member.actor_id,
                self.provider,
                &hash(&returned),
                &hash(&browser),
                redirect_to.as_str(),
            )
            .await
        });
        let expires_at = begun.await?;
        let response = if request.accepts_json() {
            Reply::ok(StartView { url, expires_at }).into_response()?
        } else {
            HttpResponse::see_other(&url)
        };
        Ok(response.with_cookie(&cookie(self.provider, &browser, is_secure(redirect_url))))
    }

    /// A person comes back. The state is used up by it, where it is the right browser that brings it.
    ///
    /// # Errors
    /// [`ApiError`] if the database failed.
    pub async fn back(&self, request: &HttpRequest, redirect_url: &Url) -> Result<Back, ApiError> {
        let query = CallbackQuery::parse(&request.query);
        let Some(returned) = &query.state else {
            return Ok(Back { redirect_to: None, given: Err(self.unusable("unknown")) });
        };
        let name = cookie_name(self.provider, is_secure(redirect_url));
        let browser = request.cookie(&name).filter(|value| value.len() <= MAX_PARAMETER).map(hash);
        let used = self.db.directory(async |tx| {
            let browser = browser.as_ref().map(<[u8; 32]>::as_slice);
            integrations::use_state(tx, self.provider, &hash(returned), browser).await
        });
        let used = used.await?;
        let given = match (used.outcome.as_str(), used.org_id, used.user_id) {
            ("ok", Some(org_id), Some(user_id)) => {
                telemetry::works_for(org_id, Some(user_id));
                match (query.error, query.code) {
                    (Some(error), _) => Err(self.refused(&error)),
                    (None, Some(code)) => Ok(Given { org_id, user_id, code }),
                    (None, None) => Err(self.refused("")),
                }
            }
            (outcome, ..) => Err(self.unusable(outcome)),
        };
        Ok(Back { redirect_to: used.redirect_to, given })
    }

    /// Leads the browser back to the app, which reads the outcome from the address; or shows a page, where the app is not known.
    ///
    /// # Errors
    /// [`Failed::Ours`].
    pub fn leave(&self, back: &Back, outcome: Result<(), Failed>) -> Result<HttpResponse, ApiError> {
        let (code, text) = match outcome {
            Ok(()) => ("connected", Cow::Owned(format!("{} is connected. You can close this page.", self.name))),
            Err(Failed::NotConnected(why)) => (why.code, why.text),
            Err(Failed::Ours(error)) => return Err(error),
        };
        if let Some(mut url) = back.redirect_to.as_deref().and_then(|url| Url::parse(url).ok()) {
            url.query_pairs_mut().append_pair(self.provider, code);
            return Ok(HttpResponse::see_other(url.as_str()));
        }
        Ok(HttpResponse::page(self.name, &text, code))
    }

    /// A person wants to end a connection.
    ///
    /// # Errors
    /// [`ApiError`], also for one who may not.
    pub async fn ending(&self, request: &HttpRequest, operation: &'static str) -> Result<Ending, ApiError> {
        let caller = self.auth.authenticate(&request.headers, (self.clock)()).await?;
        let keyed = http::idempotency(request, operation)?;
        let entered = self.db.caller(&caller, async |tx| {
            let member = self.enter(tx, &caller, "disconnects", ".").await?;
            let earlier = match &keyed {
                Some(keyed) => idempotency::find(tx, member, keyed).await?,
                None => None,
            };
            Ok::<_, ApiError>((member, earlier.is_some()))
        });
        let (member, is_done) = entered.await?;
        Ok(Ending { caller, keyed, member, is_done })
    }

    /// A person who may connect and disconnect.
    async fn enter(&self, tx: &mut CallerTx, caller: &Caller, verb: &str, end: &str) -> Result<Member, ApiError> {
        if matches!(caller.identity, Identity::Agent { .. }) {
            return Err(ApiError::forbidden("people_only", format!("A person {verb} {}{end}", self.name)));
        }
        Ok(access::enter(tx, "integrations:manage").await?)
    }

    /// What the database said of a state that may not be used.
    fn unusable(&self, outcome: &str) -> NotConnected {
        let name = self.name;
        let (code, text) = match outcome {
            "expired" => (
                "state_expired",
                format!("This took longer than ten minutes. Go back to the app and connect {name} again."),
            ),
            "replayed" => (
                "state_replayed",
                format!("This link was used before. Go back to the app to see whether {name} is connected."),
            ),
            "foreign" => (
                "state_foreign",
                "Connecting was begun in another browser. Finish it there, or go back to the app and begin again here."
                    .to_owned(),
            ),
            "revoked" => (
                "permission_missing",
                format!("You may not connect {name} for this organisation any more. Ask an owner or admin."),
            ),
            _ => (
                "state_unknown",
                format!("This link is not one that we made. Go back to the app and connect {name} again."),
            ),
        };
        NotConnected { code, text: text.into() }
    }

    /// What `error` means that comes back instead of a code.
    fn refused(&self, error: &str) -> NotConnected {
        let name = self.name;
        let (code, text) = match error {
            "access_denied" => {
                ("consent_refused", format!("You did not allow the connection in {name}. Nothing was connected."))
            }
            "invalid_scope" => (
                "scope_unknown",
                format!("The app asks {name} for something that it is not registered for. Tell its operator."),
            ),
            _ => (
                "consent_failed",
                format!(
                    "{name} ended this without a connection. Try again, and tell the operator of the app if it stays so."
                ),
            ),
        };
        NotConnected { code, text: text.into() }
    }
}

impl Ending {
    /// Remembers the key and reads what is shown afterwards.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn finish<T>(
        &self,
        db: &Database,
        shown: impl AsyncFnOnce(&mut CallerTx) -> Result<T, StoreError>,
    ) -> Result<T, ApiError> {
        let found = db.caller(&self.caller, async |tx| {
            if let Some(keyed) = &self.keyed {
                idempotency::remember(tx, self.member, keyed, Uuid::now_v7()).await?;
            }
            Ok::<_, ApiError>(shown(tx).await?)
        });
        found.await
    }
}

/// The answer where no key is to be had to seal tokens with, or to open them.
#[must_use]
pub fn unsealed(error: TokenError) -> ApiError {
    ApiError::unavailable("secret_unavailable", "A key cannot be fetched; try again shortly.", 5).because(error)
}

/// What a provider sends a person back with.
#[derive(Debug, Default, PartialEq, Eq)]
struct CallbackQuery {
    state: Option<String>,
    code: Option<String>,
    error: Option<String>,
}

impl CallbackQuery {
    /// Where a parameter comes twice the first counts; unknown ones are ignored.
    fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "state" => &mut parsed.state,
                "code" => &mut parsed.code,
                "error" => &mut parsed.error,
                _ => continue,
            };
            if place.is_none() && (1..=MAX_PARAMETER).contains(&value.len()) {
                *place = Some(value.into_owned());
            }
        }
        parsed
    }
}

/// Has the browser keep `value` for as long as what was begun lasts. Sent along when the provider leads the person back, and to no script.
fn cookie(provider: &str, value: &str, secure: bool) -> String {
    let secured = if secure { "; Secure" } else { "" };
    format!("{}={value}; Path=/; Max-Age=600; HttpOnly; SameSite=Lax{secured}", cookie_name(provider, secure))
}

/// With the prefix that no other host of the domain can set, wherever browsers take it.
fn cookie_name(provider: &str, secure: bool) -> String {
    format!("{}spine_{provider}", if secure { "__Host-" } else { "" })
}

fn is_secure(redirect_url: &Url) -> bool {
    redirect_url.scheme() == "https"
}

/// 256 random bits.
fn random() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_read_once_within_bounds() {
        let some = |text: &str| Some(text.to_owned());
        let long = "x".repeat(2049);
        for (query, state, code, error) in [
            ("state=a&code=b", some("a"), some("b"), None),
            ("state=a&state=b&code=c&more=d", some("a"), some("c"), None),
            ("error=access_denied&error_description=no&state=a%20b", some("a b"), None, some("access_denied")),
            (&format!("state={long}&code="), None, None, None),
            ("", None, None, None),
        ] {
            assert_eq!(CallbackQuery::parse(query), CallbackQuery { state, code, error }, "{query}");
        }
    }

    #[test]
    fn a_cookie_over_https_is_of_this_host_alone() {
        assert_eq!(cookie("x", "v", true), "__Host-spine_x=v; Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure");
        assert_eq!(cookie("x", "v", false), "spine_x=v; Path=/; Max-Age=600; HttpOnly; SameSite=Lax");
    }
}
