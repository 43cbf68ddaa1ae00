//! One reply, from its intent to what the platform calls it.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    clients::social::{Answer, SocialError, segment},
    store::{
        social_pace,
        social_replies::{self, Plan, Sent},
        social_tokens::{self, Refused},
    },
    tokens::{AccessToken, TokenError},
    worker::{Failure, Stop},
};
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    job::Held,
    outcome::{self, Known, id_at},
    search::{Found, search},
    state::State,
};

/// How long after a request without an answer its reply is looked for first: what was lost on the way back is there.
const FIRST_LOOK: TimeDelta = TimeDelta::seconds(3);
/// How long after it the reply may still appear. Only then is one that is not there sent again.
const MAY_APPEAR: TimeDelta = TimeDelta::minutes(2);
/// How long after it one is given up that cannot be looked for and was not delivered. It is not sent again.
const GIVEN_UP: TimeDelta = TimeDelta::hours(24);
/// How often a reply is sent, each time after it was looked for.
const MOST_ATTEMPTS: i32 = 3;
/// What a request and the writing down of its answer may take. With less time left nothing is sent.
const SENDING: Duration = Duration::from_secs(20);
/// The longest that a call waits for its turn within this invocation.
const MOST_WAIT: Duration = Duration::from_secs(2);
/// How far calls about an account's conversations lie apart: it has two a second, and calls take unlike times to arrive.
const TALKS_GAP: Duration = Duration::from_millis(550);
/// How long a worker leaves a reply to another.
const SHORTLY: Duration = Duration::from_secs(5);
/// How long the application rests where a platform does not say.
const REST: Duration = Duration::from_secs(60);

/// What came of a reply, and when by the platform's clock, if it said.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) sent: Sent,
    pub(crate) at: Option<i64>,
}

impl From<Sent> for Done {
    fn from(sent: Sent) -> Self {
        Self { sent, at: None }
    }
}

/// Sends a reply, unless it is there.
pub(crate) async fn send(state: &State, held: &Held, plan: &Plan, deadline: Instant) -> Result<Done, Stop> {
    let (org_id, now) = (held.job.org_id, (state.clock)());
    let is_sent = plan.status != "queued";
    let token = match state.tokens.access(org_id, plan.account_id).await {
        Ok(token) => Some(token),
        // What is known here says so, by its name, as the reply is begun; one that was sent can be looked for in what was delivered.
        Err(TokenError::NotConnected | TokenError::Reconnect) => None,
        Err(TokenError::Db(error)) => return Err(error.into()),
        Err(TokenError::Store(error)) => return Err(error.into()),
        Err(TokenError::Seal(error)) if !is_sent => {
            tracing::error!(%error, "a token cannot be opened");
            return Ok(Sent::Failed("token_unreadable").into());
        }
        Err(error) if is_sent => {
            tracing::warn!(%error, "there is no access token to look with");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "there is no access token");
            return Err(later(state, REST, "platform_unavailable"));
        }
    };
    if is_sent {
        let sent_at = plan.sent_at.unwrap_or(now);
        waits_until(sent_at + FIRST_LOOK, now)?;
        // To hide twice is to hide.
        let found = match plan.kind.as_str() {
            "hide" | "show" => Found::No,
            kind => {
                let gap = if kind == "comment" { Duration::ZERO } else { TALKS_GAP };
                take_turn(state, plan, gap).await?;
                search(state, org_id, plan, token.as_ref(), sent_at).await?
            }
        };
        match found {
            Found::Yes(id) => return Ok(Sent::Made(Some(id)).into()),
            Found::Unknown if now >= sent_at + GIVEN_UP => return Ok(Sent::Lost("not_known").into()),
            // The longer it is gone, the less likely it is to appear.
            Found::Unknown => {
                let gone = (now - sent_at).to_std().unwrap_or_default();
                return Err(later(
                    state,
                    (gone / 4).clamp(Duration::from_secs(5), Duration::from_secs(900)),
                    "unanswered",
                ));
            }
            Found::No => waits_until(sent_at + MAY_APPEAR, now)?,
        }
        if plan.attempts >= MOST_ATTEMPTS {
            return Ok(Sent::Lost("unanswered").into());
        }
    }
    take_turn(state, plan, Duration::ZERO).await?;
    let begun = begin(state, held, plan, deadline).await?;
    match (begun.as_deref(), &token) {
        (None, Some(token)) => post(state, org_id, plan, token).await,
        // The database has the account as connected, so that it was connected again at this moment.
        (None, None) => Ok(Sent::Unsent.into()),
        (Some(refused), _) => barred(state, is_sent, refused),
    }
}

/// Writes the intent down, in a transaction of its own: it stands before anything is sent. Returns why it may not be sent.
async fn begin(state: &State, held: &Held, plan: &Plan, deadline: Instant) -> Result<Option<String>, Stop> {
    if deadline.saturating_duration_since(Instant::now()) < SENDING {
        return Err(later(state, Duration::ZERO, "no_time_left"));
    }
    let (org_id, id) = (held.job.org_id, held.payload.reply_id);
    state
        .db
        .service(org_id, async |tx| {
            held.go_on(tx).await?;
            let mut seen = plan.seen_ids.clone();
            if plan.sent_at.is_none() && plan.content.is_some() {
                seen = social_replies::same_words(tx, org_id, plan, None).await?;
            }
            Ok::<_, Stop>(social_replies::begin(tx, id, plan.sent_at, &seen).await?.refused)
        })
        .await
}

/// Why a reply is not sent. One that was sent before and is not known to be there stays unknown.
fn barred(state: &State, is_sent: bool, refused: &str) -> Result<Done, Stop> {
    let code = match refused {
        "thread_busy" => {
            let wait = Duration::from_millis(500 + u64::from(rand::random::<u16>() % 1500));
            return Err(later(state, wait, "thread_busy"));
        }
        // Another worker has it, or it has ended, which the next look shows.
        "not_open" => return Err(later(state, SHORTLY, "thread_busy")),
        "not_approved" => return Err(Stop::Cancelled),
        "account_disconnected" => "account_disconnected",
        "social_reconsent" => "social_reconsent",
        "thread_gone" => "thread_gone",
        "scope_missing" => "scope_missing",
        "region_excluded" => "region_excluded",
        "window_closed" => "window_closed",
        "comment_gone" => "comment_gone",
        "approval_expired" => "approval_expired",
        "payload_changed" => "payload_changed",
        "right_revoked" => "right_revoked",
        "policy_changed" => "policy_changed",
        _ => "not_offered",
    };
    Ok(if is_sent { Sent::Lost(code) } else { Sent::Failed(code) }.into())
}

/// Waits for the account's turn to call the platform; the one after it follows `gap` later.
async fn take_turn(state: &State, plan: &Plan, gap: Duration) -> Result<(), Stop> {
    let turn = state.db.directory(async |tx| {
        social_pace::take_turn(tx, &plan.platform, &plan.account_platform_id, gap, MOST_WAIT).await
    });
    let turn = turn.await?;
    if turn.wait > MOST_WAIT {
        return Err(later(state, turn.wait, turn.why.as_deref().unwrap_or("platform_busy")));
    }
    sleep(turn.wait).await;
    Ok(())
}

/// Sends, once.
async fn post(state: &State, org_id: Uuid, plan: &Plan, token: &AccessToken) -> Result<Done, Stop> {
    let is_instagram = plan.platform == "instagram";
    let outcome = if is_instagram { instagram(state, plan, token).await } else { tiktok(state, plan, token).await };
    let at = outcome.as_ref().ok().and_then(|answer| answer.at);
    let path: &[&str] = match (is_instagram, plan.kind.as_str()) {
        (true, "message" | "private") => &["message_id"],
        (true, _) => &["id"],
        (false, "message") => &["message", "message_id"],
        (false, _) => &["comment_id"],
    };
    let made = |body: &Value| match plan.kind.as_str() {
        "hide" | "show" => (body["success"] == true).then_some(None),
        _ => id_at(body, path),
    };
    let sent = match outcome::of(is_instagram, outcome, made) {
        Known::Sent(sent) => sent,
        Known::Token => {
            let now = (state.clock)();
            let refused = state.db.service(org_id, async |tx| {
                social_tokens::token_refused(tx, org_id, plan.account_id, token.version, now).await
            });
            match refused.await? {
                Refused::Lost => Sent::Failed("social_reconsent"),
                Refused::GoesOn => Sent::Unsent,
            }
        }
        Known::Limited(app, wait) => {
            let account = (!app).then_some(plan.account_platform_id.as_str());
            let wait = wait.unwrap_or(REST);
            state
                .db
                .directory(async |tx| social_pace::rest(tx, &plan.platform, account, wait, "limited").await)
                .await?;
            Sent::Unsent
        }
    };
    Ok(Done { sent, at })
}

async fn instagram(state: &State, plan: &Plan, token: &AccessToken) -> Result<Answer, SocialError> {
    let (token, text) = (token.expose(), plan.content.as_deref().unwrap_or_default());
    let target = segment(&plan.target_id);
    match plan.kind.as_str() {
        "message" | "private" => {
            let recipient = if plan.kind == "message" {
                json!({ "id": plan.target_id })
            } else {
                json!({ "comment_id": plan.target_id })
            };
            let body = json!({ "recipient": recipient, "message": { "text": text } });
            let path = format!("{}/messages", segment(&plan.account_platform_id));
            state.instagram.post(token, &path, &[], Some(&body)).await
        }
        "comment" => state.instagram.post(token, &format!("{target}/replies"), &[("message", text)], None).await,
        kind => {
            let hide = if kind == "hide" { "true" } else { "false" };
            state.instagram.post(token, &target, &[("hide", hide)], None).await
        }
    }
}

async fn tiktok(state: &State, plan: &Plan, token: &AccessToken) -> Result<Answer, SocialError> {
    let (path, body) = match plan.kind.as_str() {
        "message" => (
            "business/message/send",
            json!({
                "business_id": plan.account_platform_id, "recipient_type": "CONVERSATION", "recipient": plan.target_id,
                "message_type": "TEXT", "text": { "body": plan.content },
            }),
        ),
        _ => (
            "business/comment/reply/create",
            json!({
                "business_id": plan.account_platform_id, "video_id": plan.media_id, "comment_id": plan.target_id,
                "text": plan.content,
            }),
        ),
    };
    state.tiktok.business_post(token.expose(), path, &body).await
}

fn waits_until(until: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), Stop> {
    if now >= until {
        return Ok(());
    }
    let why = json!({ "reason": "unanswered", "until": until });
    Err(Stop::Snooze { until, why, failure: None, counts: false })
}

/// Another look, which is no attempt that counts.
fn later(state: &State, wait: Duration, reason: &str) -> Stop {
    let until = (state.clock)() + TimeDelta::from_std(wait).unwrap_or_else(|_| TimeDelta::hours(1));
    Stop::Snooze { until, why: json!({ "reason": reason, "until": until }), failure: None, counts: false }
}

/// Why a job failed, for those who see jobs. The reply says more.
pub(crate) fn failure(code: &'static str) -> Failure {
    Failure::new("reply_not_sent", format!("The reply was not sent: {code}."))
}
