//! One file, from its address or from what the platform gives one for.

use std::time::Duration;

use serde_json::json;
use shared::{
    clients::{
        instagram::attachments,
        social::{Answer, SocialError, segment, text},
    },
    download::{DownloadError, Downloaded},
    social::Attachment,
    store::{
        social_attachments::{Became, Source, Taken},
        social_pace,
        social_tokens::{self, Refused},
    },
    tokens::{AccessToken, TokenError},
    worker::Stop,
};
use tokio::time::sleep;
use uuid::Uuid;

use crate::state::State;

/// The largest file that is kept. Instagram's own limit for a video or a voice message in a conversation.
const MOST_BYTES: u64 = 25 * 1024 * 1024;
/// How long a file waits before its second attempt. Then twice as long each time.
const FIRST_WAIT: Duration = Duration::from_secs(30);
/// The longest that it waits.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// The longest that a call waits for its turn within this invocation.
const MOST_WAIT: Duration = Duration::from_secs(2);
/// How long the application rests where a platform does not say.
const REST: Duration = Duration::from_secs(60);

/// Why a file is not at hand.
pub(crate) enum Halt {
    /// What becomes of it.
    Became(Became),
    /// Why the job stops.
    Stop(Stop),
}

impl<E: Into<Stop>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Stop(error.into())
    }
}

/// Another attempt, later.
pub(crate) fn later(code: &str, taken: &Taken) -> Became {
    let doublings = u32::try_from(taken.attempts - 1).unwrap_or_default().min(7);
    let wait = (FIRST_WAIT * 2_u32.pow(doublings)).min(LONGEST_WAIT);
    Became::Later { code: code.to_owned(), wait, counts: true }
}

/// The file.
pub(crate) async fn file(state: &State, org_id: Uuid, taken: &Taken, source: &Source) -> Result<Downloaded, Halt> {
    if source.account_status == "disconnected" {
        return Err(Halt::Became(Became::Refused("account_disconnected".to_owned())));
    }
    let call = Call { state, org_id, taken, source };
    let part = source.attachments.iter().find(|part| part.file_key().as_ref() == Some(&taken.source_key));
    // A later look at the message gave it another address, and that one has a row of its own.
    let Some(part) = part else { return Err(Halt::Became(Became::Unwanted)) };
    let fetched = match &part.url {
        Some(url) => match state.downloader.download(url, MOST_BYTES).await {
            Err(DownloadError::Gone) if source.api == "instagram_login" => match call.fresh_url(part).await? {
                Some(fresh) => state.downloader.download(&fresh, MOST_BYTES).await,
                None => Err(DownloadError::Gone),
            },
            other => other,
        },
        None => state.downloader.download(&call.media_url(part).await?, MOST_BYTES).await,
    };
    fetched.map_err(|error| {
        Halt::Became(match error {
            error if error.is_transient() => later(error.code(), taken),
            DownloadError::Gone => Became::Gone(error.code().to_owned()),
            error => Became::Refused(error.code().to_owned()),
        })
    })
}

/// A file that the platform is asked for.
struct Call<'a> {
    state: &'a State,
    org_id: Uuid,
    taken: &'a Taken,
    source: &'a Source,
}

impl Call<'_> {
    /// Where the message shows the file now, after its address has expired. None where it does not, or cannot be read.
    async fn fresh_url(&self, part: &Attachment) -> Result<Option<String>, Halt> {
        let path = segment(&self.source.message_platform_id);
        let fields = [("fields", "id,created_time,from,to,message,attachments,shares,story")];
        let answer = self.ask(async |token| self.state.instagram.get(token, &path, &fields).await).await?;
        let shown = answer.as_ref().and_then(|answer| attachments(&answer.body)).unwrap_or_default();
        let url = |found: &Attachment| found.url.clone().filter(|fresh| Some(fresh) != part.url.as_ref());
        if let Some(same) = shown.iter().find(|shown| shown.file_key().as_ref() == Some(&self.taken.source_key)) {
            return Ok(url(same));
        }
        // A read has other addresses than a delivery. Where both have one of its kind, it is that.
        let of_kind = |all: &[Attachment]| all.iter().filter(|one| one.kind == part.kind).count();
        if of_kind(&shown) == 1 && of_kind(&self.source.attachments) == 1 {
            return Ok(shown.iter().find(|shown| shown.kind == part.kind).and_then(url));
        }
        Ok(None)
    }

    /// Where TikTok has the file, for some minutes.
    async fn media_url(&self, part: &Attachment) -> Result<String, Halt> {
        let body = json!({
            "business_id": self.source.account_platform_id,
            "conversation_id": self.source.place.strip_prefix("dm:"),
            "message_id": self.source.message_platform_id,
            "media_id": part.id,
            "media_type": part.kind.to_uppercase(),
        });
        let path = "business/message/media/download";
        let answer = self.ask(async |token| self.state.tiktok.business_post(token, path, &body).await).await?;
        let answer = answer.ok_or_else(|| Halt::Became(Became::Gone("gone".to_owned())))?;
        let url = text(&answer.body["download_url"]).map(str::to_owned);
        url.ok_or_else(|| Halt::Became(later("platform_unavailable", self.taken)))
    }

    /// Asks the platform in the account's turn. None where it has no such thing any more.
    async fn ask(&self, call: impl AsyncFnOnce(&str) -> Result<Answer, SocialError>) -> Result<Option<Answer>, Halt> {
        let token = self.token().await?;
        self.take_turn().await?;
        let error = match call(token.expose()).await {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => error,
        };
        tracing::warn!(%error, "a platform gave no address of a file");
        Err(Halt::Became(match error {
            SocialError::Missing => return Ok(None),
            SocialError::Unsent(_) | SocialError::Away(_) | SocialError::Transient { .. } | SocialError::Malformed => {
                later("platform_unavailable", self.taken)
            }
            SocialError::Token { .. } => self.refused(&token).await?,
            SocialError::Limited { app, wait, .. } => {
                let (platform, id) = (&self.source.platform, self.source.account_platform_id.as_str());
                let (account, wait) = ((!app).then_some(id), wait.unwrap_or(REST));
                let rest = async |tx: &mut _| social_pace::rest(tx, platform, account, wait, "limited").await;
                self.state.db.directory(rest).await?;
                Became::Later { code: "platform_busy".to_owned(), wait, counts: false }
            }
            SocialError::Forbidden { .. } | SocialError::FewViewers => Became::Refused("not_permitted".to_owned()),
            SocialError::Parameter { .. } | SocialError::Refused { .. } => {
                Became::Refused("platform_refused".to_owned())
            }
        }))
    }

    async fn token(&self) -> Result<AccessToken, Halt> {
        match self.state.tokens.access(self.org_id, self.taken.account_id).await {
            Ok(token) => Ok(token),
            Err(TokenError::NotConnected | TokenError::Reconnect) => Err(Halt::Became(reconsent())),
            Err(TokenError::Db(error)) => Err(error.into()),
            Err(TokenError::Store(error)) => Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "there is no access token");
                Err(Halt::Became(later("platform_unavailable", self.taken)))
            }
        }
    }

    async fn take_turn(&self) -> Result<(), Halt> {
        let (platform, id) = (&self.source.platform, &self.source.account_platform_id);
        let turn = self
            .state
            .db
            .directory(async |tx| social_pace::take_turn(tx, platform, id, Duration::ZERO, MOST_WAIT).await)
            .await?;
        if turn.wait > MOST_WAIT {
            let code = "platform_busy".to_owned();
            return Err(Halt::Became(Became::Later { code, wait: turn.wait, counts: false }));
        }
        sleep(turn.wait).await;
        Ok(())
    }

    /// The account waits for a person, unless it has other tokens meanwhile or gets them by its refresh token.
    async fn refused(&self, token: &AccessToken) -> Result<Became, Halt> {
        let (org_id, account_id, now) = (self.org_id, self.taken.account_id, (self.state.clock)());
        let refused = self
            .state
            .db
            .service(org_id, async |tx| social_tokens::token_refused(tx, org_id, account_id, token.version, now).await);
        Ok(match refused.await? {
            Refused::Lost => reconsent(),
            Refused::GoesOn => later("platform_unavailable", self.taken),
        })
    }
}

/// A person must connect the account again first.
fn reconsent() -> Became {
    Became::Later { code: "social_reconsent".to_owned(), wait: LONGEST_WAIT, counts: true }
}
