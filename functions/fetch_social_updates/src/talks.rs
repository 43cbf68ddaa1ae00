//! Messages: conversations, the one with the newest message first, until they are older than what was read before.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    clients::social::{SocialError, id, segment, time},
    social::Observation,
    store::{social::Merged, social_reading},
};

use crate::{
    instagram,
    job::Cursor,
    reading::{Reading, Seen, Unread, add},
    state::State,
};

/// How far back conversations are read again.
const OVERLAP: TimeDelta = TimeDelta::minutes(10);
/// The most pages of conversations that one reading asks for.
const MOST_PAGES: usize = 40;
/// The most messages that one page has asked for by themselves.
const MOST_ASKED: usize = 20;
/// How many conversations a page has.
const PAGE: &str = "25";

/// A conversation as a page shows it.
struct Talk {
    id: String,
    with: String,
    seen: Vec<Observation>,
    /// The ids that it lists.
    listed: BTreeSet<String>,
    /// When the oldest of them was written, and its id.
    oldest: Option<(DateTime<Utc>, String)>,
    /// Where its older messages follow, if there are some.
    older: Option<String>,
}

pub(crate) async fn read(reading: &Reading<'_>, cursor: &mut Cursor) -> Result<(), Unread> {
    let since = cursor.since(OVERLAP);
    let (mut read_to, mut after) = (None, None::<String>);
    let (mut total, mut conversations, mut beyond, mut missing) = (Merged::default(), 0, 0, 0);
    let mut cut = false;
    for page in 1.. {
        let mut query = vec![("platform", "instagram"), ("fields", instagram::CONVERSATION), ("limit", PAGE)];
        if let Some(after) = &after {
            query.push(("after", after));
        }
        let answer = reading.graph("me/conversations", &query).await?;
        read_to.get_or_insert(answer.at);
        let listed = answer.body["data"].as_array().ok_or(Unread::Stream("malformed"))?;
        let is_old =
            |talk: &&Value| since.is_some_and(|since| time(&talk["updated_time"]).is_some_and(|at| at < since));
        let talks: Vec<Talk> =
            listed.iter().filter(|talk| !is_old(talk)).filter_map(|talk| shown(reading, talk, answer.at)).collect();
        conversations += talks.len();
        // Asked before they are kept: what is known then was known before this reading.
        for talk in &talks {
            // It is a count for people: a conversation that does not tell it is read all the same.
            beyond += match unreached(reading, talk).await {
                Err(Unread::Refused(_) | Unread::Stream(_)) => 0,
                other => other?,
            };
        }
        let listed_here: Vec<Observation> = talks.iter().flat_map(|talk| talk.seen.iter().cloned()).collect();
        add(&mut total, reading.merge(&listed_here).await?);
        let gone = gone(reading, &talks, &answer).await?;
        missing += gone.len();
        add(&mut total, reading.merge(&gone).await?);
        after = instagram::next(&answer.body);
        // They come with the newest message first.
        if after.is_none() || listed.last().is_some_and(|talk| is_old(&talk)) {
            break;
        }
        if page == MOST_PAGES {
            cut = true;
            break;
        }
    }
    cursor.read_to = read_to;
    cursor.result = json!({
        "conversations": conversations, "new": total.new, "changed": total.changed, "missing": missing, "beyond_reach": beyond,
        "left_out": total.left_out, "cut": cut,
    });
    Ok(())
}

fn shown(reading: &Reading<'_>, talk: &Value, at: i64) -> Option<Talk> {
    let account = &reading.plan.account;
    let with = instagram::counterpart(account, talk)?;
    let messages = talk["messages"]["data"].as_array().map_or(&[][..], Vec::as_slice);
    Some(Talk {
        id: id(&talk["id"])?,
        seen: messages.iter().flat_map(|message| instagram::message(account, &with, message, at)).collect(),
        listed: messages.iter().filter_map(|message| id(&message["id"])).collect(),
        oldest: messages.iter().filter_map(|said| Some((time(&said["created_time"])?, id(&said["id"])?))).min(),
        older: instagram::next(&talk["messages"]),
        with,
    })
}

/// How many messages of a conversation cannot be read any more, and were never seen. If the oldest that is listed was known, those before it
/// were either known or counted before.
async fn unreached(reading: &Reading<'_>, talk: &Talk) -> Result<usize, Unread> {
    let Some(older) = &talk.older else { return Ok(0) };
    if let Some((_, oldest)) = &talk.oldest
        && !known(reading, std::slice::from_ref(oldest)).await?.is_empty()
    {
        return Ok(0);
    }
    let query = [("fields", "id,created_time"), ("limit", "100"), ("after", older.as_str())];
    let answer = reading.graph(&format!("{}/messages", segment(&talk.id)), &query).await?;
    let ids: Vec<String> =
        answer.body["data"].as_array().into_iter().flatten().filter_map(|message| id(&message["id"])).collect();
    let known = known(reading, &ids).await?;
    Ok(ids.iter().filter(|id| !known.contains(*id)).count())
}

async fn known(reading: &Reading<'_>, ids: &[String]) -> Result<BTreeSet<String>, Unread> {
    let (org, account) = (reading.org_id(), reading.account_id());
    let known = reading.state.db.service(org, async |tx| social_reading::known_ids(tx, org, account, ids).await);
    Ok(known.await?)
}

/// Messages that are known here, that a conversation should list and does not, and that the platform does not have by themselves either. A list
/// that ends, or has nothing, says nothing of what is older than the oldest that it has.
async fn gone(reading: &Reading<'_>, talks: &[Talk], answer: &Seen) -> Result<Vec<Observation>, Unread> {
    let (org, account, until) = (reading.org_id(), reading.account_id(), answer.time());
    let (mut gone, mut asked) = (Vec::new(), 0);
    for talk in talks {
        let Some((oldest, _)) = &talk.oldest else { continue };
        // Times here may be more exact than those listed.
        let from = *oldest + TimeDelta::seconds(1);
        let thread = format!("dm:{}", talk.with);
        let known = reading
            .state
            .db
            .service(org, async |tx| social_reading::known_messages(tx, org, account, &thread, from, until).await)
            .await?;
        for id in known.into_iter().filter(|known| !talk.listed.contains(known)) {
            // A button that was pressed has no id of the platform's.
            if id.starts_with("postback:") || asked == MOST_ASKED {
                continue;
            }
            asked += 1;
            let path = segment(&id);
            let ask = async |state: &State, token: &str| state.instagram.get(token, &path, &[("fields", "id")]).await;
            match reading.call(true, ask).await {
                Err(Unread::Refused(SocialError::Missing)) => gone.push(instagram::missing(id, answer.at)),
                Ok(_) | Err(Unread::Refused(_) | Unread::Stream(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(gone)
}
