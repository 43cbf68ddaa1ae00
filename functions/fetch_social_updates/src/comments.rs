//! Comments: those of posts whose count of comments changed, and once a day those of recent posts. Comments that are known and listed no more
//! are asked for one by one before they count as missing.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use serde_json::{Value, json};
use shared::{
    clients::social::{SocialError, id, segment},
    social::Observation,
    store::{
        social::Merged,
        social_posts::{self, Unread as Post},
    },
    worker::Stop,
};

use crate::{
    instagram,
    job::Cursor,
    reading::{Reading, Seen, Unread, add},
    tiktok,
};

/// The most posts whose comments one reading reads.
const MOST_POSTS: i64 = 200;
/// The most pages of comments of a post.
const MOST_PAGES: usize = 60;
/// The most comments of a post that are asked for one by one in one reading.
const ONE_BY_ONE: usize = 50;
/// The most comments that TikTok is asked for by their ids in one reading.
const MOST_TEXTLESS: i64 = 200;
/// How many it is asked for at once.
const AT_ONCE: usize = 30;
/// How far back comments without text are looked for.
const TEXTLESS: TimeDelta = TimeDelta::days(30);

#[derive(Default)]
struct Total {
    merged: Merged,
    posts: usize,
    missing: usize,
    shifted: usize,
    failed: usize,
}

/// A page of comments, with their replies as far as they are listed.
struct Page {
    answer: Seen,
    seen: Vec<Observation>,
    next: Option<String>,
    /// Comments with more replies than are listed, and where those follow.
    more: Vec<(String, String)>,
}

pub(crate) async fn read(reading: &Reading<'_>, cursor: &mut Cursor) -> Result<(), Unread> {
    let (org, account, now) = (reading.org_id(), reading.account_id(), reading.now());
    let mut total = Total::default();
    let unread = reading
        .state
        .db
        .service(org, async |tx| social_posts::unread_media(tx, org, account, now, MOST_POSTS).await)
        .await?;
    for post in unread {
        match of_post(reading, &post, &mut total).await {
            Ok(()) => total.posts += 1,
            // Gone since it was listed, or closed: the others are read.
            Err(Unread::Refused(error)) => {
                tracing::info!(%error, "the comments of a post cannot be read");
                total.failed += 1;
            }
            Err(error) => return Err(error),
        }
    }
    if !reading.is_instagram() {
        textless(reading, &mut total).await?;
    }
    cursor.result = json!({
        "posts": total.posts, "new": total.merged.new, "changed": total.merged.changed, "missing": total.missing,
        "left_out": total.merged.left_out, "read_again": total.shifted, "failed_posts": total.failed,
    });
    Ok(())
}

/// Reads the comments of a post to their end.
async fn of_post(reading: &Reading<'_>, post: &Post, total: &mut Total) -> Result<(), Unread> {
    let (org, account) = (reading.org_id(), reading.account_id());
    let (mut seen, first, mut is_complete) = walk(reading, post, total).await?;
    let wanted = post.comments_count.and_then(|count| usize::try_from(count).ok()).unwrap_or_default();
    if is_complete && seen.len() < wanted {
        // What came or went meanwhile moved what follows it to another page.
        total.shifted += 1;
        let again = walk(reading, post, total).await?;
        seen.extend(again.0);
        is_complete = again.2;
    }
    let mut is_settled = is_complete;
    if is_complete {
        let until = first.time();
        let known = reading.state.db.service(org, async |tx| {
            // TikTok lists replies in part, and gives none by its id: that one is not listed says nothing.
            let replies = reading.is_instagram();
            social_posts::known_comments(tx, org, account, &post.platform_id, until, replies).await
        });
        let unlisted: Vec<String> = known.await?.into_iter().filter(|id| !seen.contains(id)).collect();
        is_settled = unlisted.len() <= ONE_BY_ONE;
        let asked: Vec<String> = unlisted.into_iter().take(ONE_BY_ONE).collect();
        let found = confirm(reading, &post.platform_id, &asked, first.at).await?;
        total.missing += found.iter().filter(|seen| seen.place.is_none()).count();
        add(&mut total.merged, reading.merge(&found).await?);
    }
    if is_settled {
        let now = reading.now();
        reading.keep(async |tx| Ok::<_, Stop>(social_posts::end_comments(tx, org, account, post, now).await?)).await?;
    }
    Ok(())
}

/// Walks through the pages. The ids seen, the first answer, and whether this is all there are.
async fn walk(reading: &Reading<'_>, post: &Post, total: &mut Total) -> Result<(BTreeSet<String>, Seen, bool), Unread> {
    let (mut seen, mut first, mut after) = (BTreeSet::new(), None, None);
    for pages in 1.. {
        let page = page(reading, &post.platform_id, after.as_deref()).await?;
        let mut observed = page.seen;
        for (comment, after) in page.more {
            observed.extend(replies(reading, &post.platform_id, &comment, after).await?);
        }
        seen.extend(observed.iter().map(|seen| seen.platform_id.clone()));
        add(&mut total.merged, reading.merge(&observed).await?);
        let first = first.get_or_insert(page.answer);
        match page.next {
            None => return Ok((seen, Seen { body: Value::Null, at: first.at }, true)),
            Some(_) if pages == MOST_PAGES => return Ok((seen, Seen { body: Value::Null, at: first.at }, false)),
            next => after = next,
        }
    }
    Err(Unread::Stream("malformed"))
}

async fn page(reading: &Reading<'_>, media_id: &str, after: Option<&str>) -> Result<Page, Unread> {
    if !reading.is_instagram() {
        let mut query = vec![
            ("video_id", media_id),
            ("include_replies", "true"),
            ("status", "ALL"),
            ("sort_field", "create_time"),
            ("sort_order", "desc"),
            ("max_count", "30"),
        ];
        query.extend(after.map(|after| ("cursor", after)));
        let answer = reading.business("business/comment/list", &query).await?;
        let seen = tiktok::comments(&answer.body, media_id, answer.at).ok_or(Unread::Stream("malformed"))?;
        let next = tiktok::next(&answer.body);
        return Ok(Page { answer, seen, next, more: Vec::new() });
    }
    let mut query = vec![("fields", instagram::COMMENT), ("limit", "50")];
    query.extend(after.map(|after| ("after", after)));
    let answer = reading.graph(&format!("{}/comments", segment(media_id)), &query).await?;
    let account = &reading.plan.account;
    let (mut seen, mut more) = (Vec::new(), Vec::new());
    for comment in answer.body["data"].as_array().ok_or(Unread::Stream("malformed"))? {
        let own_id = id(&comment["id"]);
        seen.extend(instagram::comment(account, media_id, None, comment, answer.at));
        let replies = &comment["replies"];
        for reply in replies["data"].as_array().into_iter().flatten() {
            seen.extend(instagram::comment(account, media_id, own_id.as_deref(), reply, answer.at));
        }
        more.extend(own_id.zip(instagram::next(replies)));
    }
    let next = instagram::next(&answer.body);
    Ok(Page { answer, seen, next, more })
}

/// The replies to a comment that are not listed with it.
async fn replies(
    reading: &Reading<'_>,
    media_id: &str,
    comment: &str,
    after: String,
) -> Result<Vec<Observation>, Unread> {
    let (mut seen, mut after) = (Vec::new(), Some(after));
    let path = format!("{}/replies", segment(comment));
    for _ in 0..MOST_PAGES {
        let Some(from) = after else { break };
        let query = [("fields", instagram::REPLY), ("limit", "50"), ("after", from.as_str())];
        let answer = reading.graph(&path, &query).await?;
        for reply in answer.body["data"].as_array().into_iter().flatten() {
            seen.extend(instagram::comment(&reading.plan.account, media_id, Some(comment), reply, answer.at));
        }
        after = instagram::next(&answer.body);
    }
    Ok(seen)
}

/// Asks for comments that are not listed. What is not there is missing since `at`.
async fn confirm(reading: &Reading<'_>, media_id: &str, ids: &[String], at: i64) -> Result<Vec<Observation>, Unread> {
    if !reading.is_instagram() {
        return by_ids(reading, media_id, ids, at).await;
    }
    let mut found = Vec::new();
    for id in ids {
        match reading.graph(&segment(id), &[("fields", instagram::REPLY)]).await {
            Ok(answer) => {
                found.extend(instagram::comment(&reading.plan.account, media_id, None, &answer.body, answer.at));
            }
            Err(Unread::Refused(SocialError::Missing)) => found.push(instagram::missing(id.clone(), at)),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Asks TikTok for comments of a video by their ids.
async fn by_ids(reading: &Reading<'_>, media_id: &str, ids: &[String], at: i64) -> Result<Vec<Observation>, Unread> {
    let mut found = Vec::new();
    for ids in ids.chunks(AT_ONCE) {
        let wanted = json!(ids).to_string();
        let query = [
            ("video_id", media_id),
            ("comment_ids", wanted.as_str()),
            ("include_replies", "true"),
            ("status", "ALL"),
            ("max_count", "30"),
        ];
        let answer = reading.business("business/comment/list", &query).await?;
        let seen = tiktok::comments(&answer.body, media_id, answer.at).ok_or(Unread::Stream("malformed"))?;
        let there: BTreeMap<&str, ()> = seen.iter().map(|seen| (seen.platform_id.as_str(), ())).collect();
        // What is on another page is not missing.
        if tiktok::next(&answer.body).is_none() {
            let gone = ids.iter().filter(|id| !there.contains_key(id.as_str()));
            found.extend(gone.map(|id| instagram::missing(id.clone(), at)));
        }
        found.extend(seen);
    }
    Ok(found)
}

/// Reads the text of comments that were delivered: TikTok delivers none.
async fn textless(reading: &Reading<'_>, total: &mut Total) -> Result<(), Unread> {
    let (org, account, since) = (reading.org_id(), reading.account_id(), reading.now() - TEXTLESS);
    let textless = reading
        .state
        .db
        .service(org, async |tx| social_posts::textless_comments(tx, org, account, since, MOST_TEXTLESS).await)
        .await?;
    for (media_id, ids) in textless {
        let query =
            [("video_id", media_id.as_str()), ("status", "ALL"), ("max_count", "30"), ("include_replies", "true")];
        for ids in ids.chunks(AT_ONCE) {
            let wanted = json!(ids).to_string();
            let mut query = query.to_vec();
            query.push(("comment_ids", wanted.as_str()));
            match reading.business("business/comment/list", &query).await {
                Ok(answer) => {
                    let seen = tiktok::comments(&answer.body, &media_id, answer.at).unwrap_or_default();
                    add(&mut total.merged, reading.merge(&seen).await?);
                }
                Err(Unread::Refused(SocialError::Missing | SocialError::Parameter { .. })) => total.failed += 1,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
