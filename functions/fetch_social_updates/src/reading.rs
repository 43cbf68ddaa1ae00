//! What reading every stream has in common: calls within the platform's pace, and rows that are kept only while the account may be read.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    clients::social::{Answer, SocialError, Usage},
    db::ServiceTx,
    social::Observation,
    store::{
        social::{self, Merged},
        social_pace,
        social_tokens::{self, Refused},
    },
    tokens::AccessToken,
    worker::{Failure, Stop},
};
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    instagram,
    job::{self, Cursor, Held, Plan},
    state::State,
};

/// What is left of the invocation's time when no call is begun any more: a call, and putting the job back.
const KEPT_BACK: Duration = Duration::from_secs(20);
/// The longest that a call waits for its turn within this invocation.
const MOST_WAIT: Duration = Duration::from_secs(2);
/// How far conversations' calls of an account lie apart: it has two a second, and calls take unlike times to arrive.
const TALKS_GAP: Duration = Duration::from_millis(550);
/// How much of a limit is used, in per cent, when the application rests by itself.
const RESTS_AT: i64 = 90;
/// How long it rests where the platform does not say. A short limit's window is a second, and the others' an hour that slides.
const REST: Duration = Duration::from_secs(5 * 60);
/// Codes of limits whose window is short.
const SHORT_LIMITS: [i64; 2] = [613, 429];
/// How long it rests after one of these.
const SHORT_REST: Duration = Duration::from_secs(60);

/// Reads on behalf of a job.
pub(crate) struct Reading<'a> {
    pub(crate) state: &'a State,
    pub(crate) held: &'a Held,
    pub(crate) plan: &'a Plan,
    pub(crate) token: AccessToken,
    pub(crate) deadline: Instant,
}

/// Why a stream was not read to its end.
#[derive(Debug)]
pub(crate) enum Unread {
    /// The reading goes on without this stream.
    Stream(&'static str),
    /// The platform does not answer anything.
    Away,
    /// The platform refused a call. Without a reason to bear that, the reading goes on without this stream.
    Refused(SocialError),
    Stop(Stop),
}

impl<E: Into<Stop>> From<E> for Unread {
    fn from(error: E) -> Self {
        Self::Stop(error.into())
    }
}

/// An answer, and what time it was at the platform.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) body: Value,
    /// In milliseconds since 1970, to the second.
    pub(crate) at: i64,
}

impl Seen {
    pub(crate) fn time(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.at).unwrap_or_default()
    }
}

/// What a refusal is called where people see it.
pub(crate) const fn code(error: &SocialError) -> &'static str {
    match error {
        SocialError::Missing => "missing",
        SocialError::Parameter { .. } => "parameter_refused",
        SocialError::Forbidden { .. } => "forbidden",
        SocialError::FewViewers => "few_viewers",
        SocialError::Malformed => "malformed",
        _ => "refused",
    }
}

impl Reading<'_> {
    pub(crate) fn org_id(&self) -> Uuid {
        self.held.job.org_id
    }

    pub(crate) fn account_id(&self) -> Uuid {
        self.plan.account.id
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        (self.state.clock)()
    }

    /// Whether the account is Instagram's.
    pub(crate) fn is_instagram(&self) -> bool {
        self.plan.account.platform == "instagram"
    }

    /// Makes a call in its turn. `talks`: it is one of conversations.
    pub(crate) async fn call(
        &self,
        talks: bool,
        ask: impl AsyncFnOnce(&State, &str) -> Result<Answer, SocialError>,
    ) -> Result<Seen, Unread> {
        if self.deadline.saturating_duration_since(Instant::now()) < KEPT_BACK {
            return Err(Unread::Stop(self.later(Duration::ZERO, "goes_on", None)));
        }
        let gap = if talks { TALKS_GAP } else { Duration::ZERO };
        let (platform, id) = (&self.plan.account.platform, &self.plan.account.platform_id);
        let turn =
            self.state.db.directory(async |tx| social_pace::take_turn(tx, platform, id, gap, MOST_WAIT).await).await?;
        if turn.wait > MOST_WAIT {
            return Err(Unread::Stop(self.later(turn.wait, turn.why.as_deref().unwrap_or("platform_busy"), None)));
        }
        sleep(turn.wait).await;
        match ask(self.state, self.token.expose()).await {
            Ok(answer) => {
                self.heed(answer.usage).await?;
                let at = answer.at.unwrap_or_else(|| self.now().timestamp() * 1000);
                Ok(Seen { body: answer.body, at })
            }
            Err(error) => Err(self.failed(error).await?),
        }
    }

    /// As [`Reading::call`], for a read of Instagram.
    pub(crate) async fn graph(&self, path: &str, query: &[(&str, &str)]) -> Result<Seen, Unread> {
        let talks = instagram::is_of_conversations(path);
        self.call(talks, async |state, token| state.instagram.get(token, path, query).await).await
    }

    /// As [`Reading::call`], for a read of TikTok's API for Business.
    pub(crate) async fn business(&self, path: &str, query: &[(&str, &str)]) -> Result<Seen, Unread> {
        let mut all = vec![("business_id", self.plan.account.platform_id.as_str())];
        all.extend(query);
        self.call(false, async |state, token| state.tiktok.business(token, path, &all).await).await
    }

    /// Rests before a limit is reached, so that what is left of it serves answers to people.
    async fn heed(&self, usage: Usage) -> Result<(), Stop> {
        if usage.app >= RESTS_AT {
            self.rest(true, REST, "app_usage").await?;
        }
        if usage.account >= RESTS_AT || usage.regain.is_some() {
            self.rest(false, usage.regain.unwrap_or(REST), "account_usage").await?;
        }
        Ok(())
    }

    async fn rest(&self, app: bool, rest: Duration, why: &str) -> Result<(), Stop> {
        let (platform, id) = (&self.plan.account.platform, self.plan.account.platform_id.as_str());
        let account = (!app).then_some(id);
        self.state.db.directory(async |tx| social_pace::rest(tx, platform, account, rest, why).await).await?;
        Ok(())
    }

    /// What becomes of this reading after a call that failed.
    async fn failed(&self, error: SocialError) -> Result<Unread, Stop> {
        Ok(match error {
            SocialError::Away(_) | SocialError::Unsent(_) => {
                tracing::warn!(%error, "a social platform does not answer");
                Unread::Away
            }
            SocialError::Transient { .. } => {
                tracing::warn!(%error, "a social platform failed");
                Unread::Stream("platform_failed")
            }
            SocialError::Limited { app, code, wait } => {
                let otherwise = if SHORT_LIMITS.contains(&code) { SHORT_REST } else { REST };
                let wait = wait.unwrap_or(otherwise);
                self.rest(app, wait, "limited").await?;
                let failure = Failure::new("platform_limited", "The platform was asked too often.");
                Unread::Stop(self.later(wait, "limited", Some(failure)))
            }
            SocialError::Token { .. } => Unread::Stop(self.token_refused(&error).await?),
            error => Unread::Refused(error),
        })
    }

    /// The account waits for a person, who is notified; unless it has other tokens meanwhile, or gets them by its refresh token: then this goes on with
    /// those.
    async fn token_refused(&self, error: &SocialError) -> Result<Stop, Stop> {
        tracing::warn!(%error, "the token of a social account is refused");
        let (org, account, version, now) = (self.org_id(), self.account_id(), self.token.version, self.now());
        let refused = self.state.db.service(org, async |tx| {
            self.held.go_on(tx).await?;
            Ok::<_, Stop>(social_tokens::token_refused(tx, org, account, version, now).await?)
        });
        Ok(match refused.await? {
            Refused::Lost => job::reconsent(),
            Refused::GoesOn => self.later(Duration::ZERO, "goes_on", None),
        })
    }

    fn later(&self, wait: Duration, reason: &str, failure: Option<Failure>) -> Stop {
        let until = self.now() + TimeDelta::from_std(wait).unwrap_or_else(|_| TimeDelta::days(1));
        Stop::Snooze { until, why: json!({ "reason": reason, "until": until }), failure, counts: false }
    }

    /// Writes something in a transaction of its own, in which the account is held: nothing is kept of one that was disconnected.
    pub(crate) async fn keep<T>(
        &self,
        write: impl AsyncFnOnce(&mut ServiceTx) -> Result<T, Stop>,
    ) -> Result<T, Unread> {
        let kept = self.state.db.service(self.org_id(), async |tx| {
            self.held.go_on(tx).await?;
            let account = social::hold_account(tx, self.org_id(), self.account_id()).await?;
            job::may_be_read(&account.ok_or_else(job::disconnected)?.status)?;
            write(tx).await
        });
        Ok(kept.await?)
    }

    /// Merges what a page showed.
    pub(crate) async fn merge(&self, seen: &[Observation]) -> Result<Merged, Unread> {
        let now = self.now();
        let merged =
            self.keep(async |tx| Ok(social::merge(tx, self.org_id(), self.account_id(), seen, now).await?)).await?;
        if let Some(job) = merged.files_job {
            self.state.files.wake(job, self.org_id()).await; // best effort: the sweep finds what this loses
        }
        Ok(merged)
    }
}

/// Adds what was merged to a count.
pub(crate) fn add(total: &mut Merged, merged: Merged) {
    total.new += merged.new;
    total.changed += merged.changed;
    total.left_out += merged.left_out;
    total.leads += merged.leads;
}

impl Cursor {
    /// The time from which on a stream is read, `overlap` before where it was read to. None: all of it.
    pub(crate) fn since(&self, overlap: TimeDelta) -> Option<DateTime<Utc>> {
        Some(DateTime::from_timestamp_millis(self.read_to?)? - overlap)
    }
}
