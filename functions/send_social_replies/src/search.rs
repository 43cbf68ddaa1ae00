//! Looks for a reply that was sent and not confirmed: among what was delivered, then at the platform, where it can be asked.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    clients::social::{Answer, SocialError, count, id, segment, text, time},
    store::social_replies::{self, Plan},
    tokens::AccessToken,
    worker::Stop,
};
use uuid::Uuid;

use crate::state::State;

/// How far the platform's clock may be behind ours.
const SKEW: TimeDelta = TimeDelta::seconds(60);
/// How many messages of a conversation Instagram shows.
const SHOWN: usize = 20;
/// The most pages of a comment's replies that are looked through.
const PAGES: usize = 10;

/// What a search came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is there.
    Yes(String),
    /// It is not there now.
    No,
    /// The platform cannot be asked, or does not answer: nothing is known.
    Unknown,
}

/// Something that the account has written, as the platform shows it.
#[derive(Debug)]
struct Written {
    id: String,
    at: DateTime<Utc>,
    text: String,
}

/// Looks for what a reply that was sent at `sent_at` has made.
pub(crate) async fn search(
    state: &State,
    org_id: Uuid,
    plan: &Plan,
    token: Option<&AccessToken>,
    sent_at: DateTime<Utc>,
) -> Result<Found, Stop> {
    let since = sent_at - SKEW;
    // A private reply is in another thread than the comment that it answers.
    let is_here = plan.kind != "private";
    let here = state.db.service(org_id, async |tx| social_replies::same_words(tx, org_id, plan, Some(since)).await);
    if let Some(found) = here.await?.into_iter().filter(|_| is_here).rfind(|id| !plan.seen_ids.contains(id)) {
        return Ok(Found::Yes(found));
    }
    let Some(token) = token else { return Ok(Found::Unknown) };
    let written = match (plan.platform.as_str(), plan.kind.as_str()) {
        ("instagram", "message") => conversation(state, plan, token, &plan.target_id, since).await,
        ("instagram", "private") => match &plan.author_id {
            Some(author) => conversation(state, plan, token, author, since).await,
            None => return Ok(Found::Unknown),
        },
        ("instagram", "comment") => replies(state, plan, token).await,
        ("tiktok", "comment") => comments(state, plan, token).await,
        // TikTok's conversations cannot be read: only a delivery says what was sent.
        _ => return Ok(Found::Unknown),
    };
    let written = match written {
        Ok(written) => written,
        Err(error) => {
            tracing::warn!(%error, "a reply could not be looked for");
            return Ok(Found::Unknown);
        }
    };
    let mut ids: Vec<(DateTime<Utc>, String)> = written
        .into_iter()
        .filter(|one| one.at >= since && Some(one.text.trim()) == plan.content.as_deref())
        .map(|one| (one.at, one.id))
        .filter(|(_, id)| !plan.seen_ids.contains(id))
        .collect();
    ids.sort();
    let all: Vec<String> = ids.into_iter().map(|(_, id)| id).collect();
    let others =
        state.db.service(org_id, async |tx| social_replies::made_by_others(tx, org_id, plan.account_id, &all).await);
    let others = others.await?;
    // TikTok lists replies in part: that one is not listed says nothing.
    let otherwise = if plan.platform == "tiktok" { Found::Unknown } else { Found::No };
    Ok(all.into_iter().find(|id| !others.contains(id)).map_or(otherwise, Found::Yes))
}

/// The newest messages of the account in the conversation with a person.
async fn conversation(
    state: &State,
    plan: &Plan,
    token: &AccessToken,
    with: &str,
    since: DateTime<Utc>,
) -> Result<Vec<Written>, SocialError> {
    let fields = "messages.limit(20){id,created_time,from,to,message}";
    let query = [("platform", "instagram"), ("user_id", with), ("fields", fields)];
    let answer = state.instagram.get(token.expose(), "me/conversations", &query).await?;
    let talks = list(&answer, "data")?;
    let messages: Vec<&Value> = talks.iter().filter_map(|talk| talk["messages"]["data"].as_array()).flatten().collect();
    // There are more than can be read, and what was not seen may be among them.
    if messages.len() >= SHOWN
        && messages.iter().filter_map(|message| time(&message["created_time"])).all(|at| at >= since)
    {
        return Err(SocialError::Malformed);
    }
    Ok(messages
        .into_iter()
        .filter(|message| id(&message["from"]["id"]).as_deref() == Some(plan.account_platform_id.as_str()))
        .filter_map(|message| {
            Some(Written {
                id: id(&message["id"])?,
                at: time(&message["created_time"])?,
                text: text(&message["message"])?.to_owned(),
            })
        })
        .collect())
}

/// What the account has written below a comment.
async fn replies(state: &State, plan: &Plan, token: &AccessToken) -> Result<Vec<Written>, SocialError> {
    let path = format!("{}/replies", segment(&plan.target_id));
    let (mut written, mut after) = (Vec::new(), None::<String>);
    for _ in 0..PAGES {
        let mut query = vec![("fields", "id,text,username,timestamp,from"), ("limit", "50")];
        query.extend(after.as_deref().map(|after| ("after", after)));
        let answer = state.instagram.get(token.expose(), &path, &query).await?;
        let own = list(&answer, "data")?.iter().filter(|reply| {
            id(&reply["from"]["id"]).as_deref() == Some(plan.account_platform_id.as_str())
                || text(&reply["username"]).is_some_and(|name| name.eq_ignore_ascii_case(&plan.username))
        });
        written.extend(own.filter_map(|reply| {
            Some(Written {
                id: id(&reply["id"])?,
                at: time(&reply["timestamp"])?,
                text: text(&reply["text"])?.to_owned(),
            })
        }));
        let paging = &answer.body["paging"];
        after = text(&paging["next"]).and(text(&paging["cursors"]["after"])).map(str::to_owned);
        if after.is_none() {
            return Ok(written);
        }
    }
    // There are more than are looked through: what was not seen may be among them.
    Err(SocialError::Malformed)
}

/// The same at TikTok.
async fn comments(state: &State, plan: &Plan, token: &AccessToken) -> Result<Vec<Written>, SocialError> {
    let video = plan.media_id.as_deref().ok_or(SocialError::Missing)?;
    let ids = json!([plan.target_id]).to_string();
    let query = [
        ("business_id", plan.account_platform_id.as_str()),
        ("video_id", video),
        ("comment_ids", ids.as_str()),
        ("include_replies", "true"),
        ("status", "ALL"),
    ];
    let answer = state.tiktok.business(token.expose(), "business/comment/list", &query).await?;
    let replies = list(&answer, "comments")?.iter().filter_map(|comment| comment["reply_list"].as_array()).flatten();
    Ok(replies
        .filter(|reply| reply["owner"] == true)
        .filter_map(|reply| {
            Some(Written {
                id: id(&reply["comment_id"])?,
                at: DateTime::from_timestamp(count(&reply["create_time"])?, 0)?,
                text: text(&reply["text"])?.to_owned(),
            })
        })
        .collect())
}

fn list<'a>(answer: &'a Answer, name: &str) -> Result<&'a Vec<Value>, SocialError> {
    answer.body[name].as_array().ok_or(SocialError::Malformed)
}
