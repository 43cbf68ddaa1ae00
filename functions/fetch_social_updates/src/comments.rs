//! Comments: those of posts whose count of comments changed, and once a day those of recent posts. Comments that are known and listed no more
//! are asked for one by one before they count as missing.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta};
use serde_json::json;
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
    job::{Cursor, Walk},
    reading::{Reading, Seen, Unread, add},
    tiktok,
};

/// The most posts whose comments one reading reads.
const MOST_POSTS: i64 = 200;
/// How long a walk through the comments of a post is gone on with.
const WALK: TimeDelta = TimeDelta::days(1);
/// The most pages of comments and replies of a post in one reading.
const MOST_PAGES: usize = 60;
/// The most comments of a post whose deletion is looked for.
const MOST_SEEN: usize = 20_000;
/// After how many posts in a row that the platform fails to answer for it is not asked for others.
const MOST_FAILED: usize = 3;
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
    let oldest = (now - WALK).timestamp_millis();
    cursor.walks.retain(|_, walk| walk.at > oldest);
    let unread = reading
        .state
        .db
        .service(org, async |tx| social_posts::unread_media(tx, org, account, now, MOST_POSTS).await)
        .await?;
    let mut in_a_row = 0;
    for post in unread {
        match of_post(reading, &post, &mut cursor.walks, &mut total).await {
            Ok(()) => (total.posts, in_a_row) = (total.posts + 1, 0),
            // Gone since it was listed, or closed: the others are read.
            Err(Unread::Refused(error)) => {
                tracing::info!(%error, "the comments of a post cannot be read");
                (total.failed, in_a_row) = (total.failed + 1, 0);
            }
            // As where a post has more than the platform can answer for. The next reading goes on with it.
            Err(Unread::Stream(_)) if in_a_row + 1 < MOST_FAILED => {
                (total.failed, in_a_row) = (total.failed + 1, in_a_row + 1);
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

/// Reads the comments of a post to their end, from where that stopped before.
async fn of_post(
    reading: &Reading<'_>,
    post: &Post,
    walks: &mut BTreeMap<String, Walk>,
    total: &mut Total,
) -> Result<(), Unread> {
    let (org, account, media_id) = (reading.org_id(), reading.account_id(), post.platform_id.as_str());
    let begun = walks.remove(media_id);
    let mut walk = begun.unwrap_or_else(|| Walk { count: post.comments_count, ..Walk::default() });
    let settled = match walk_on(reading, media_id, &mut walk, total).await {
        Ok(true) => settle(reading, media_id, &mut walk, total).await,
        other => other,
    };
    match settled {
        Ok(true) => {
            // As many as there were when the walk began: what came since is another count.
            let read = Post { platform_id: post.platform_id.clone(), comments_count: walk.count };
            let now = reading.now();
            reading
                .keep(async |tx| Ok::<_, Stop>(social_posts::end_comments(tx, org, account, &read, now).await?))
                .await
        }
        Err(Unread::Refused(error)) => Err(Unread::Refused(error)),
        // The time is over, or there is more than one reading asks for, or the platform fails: the next goes on here.
        unsettled => {
            walks.insert(media_id.to_owned(), walk);
            unsettled.map(|_| ())
        }
    }
}

/// Walks on through the pages and through the replies that they do not list. Whether everything was read.
async fn walk_on(reading: &Reading<'_>, media_id: &str, walk: &mut Walk, total: &mut Total) -> Result<bool, Unread> {
    let mut has_begun_again = false;
    for _ in 0..MOST_PAGES {
        if let Some((comment, after)) = walk.replies.last().cloned() {
            let (seen, next) = match replies(reading, media_id, &comment, &after).await {
                // Gone since it was listed: the others are read.
                Err(Unread::Refused(error)) => {
                    tracing::info!(%error, "the replies to a comment cannot be read");
                    (Vec::new(), None)
                }
                answer => answer?,
            };
            keep(reading, walk, seen, total).await?;
            walk.replies.pop();
            walk.replies.extend(next.map(|next| (comment, next)));
        } else if !walk.is_listed {
            let page = match page(reading, media_id, walk.after.as_deref()).await {
                // The platform knows the place no longer.
                Err(Unread::Refused(SocialError::Parameter { .. })) if walk.after.is_some() && !has_begun_again => {
                    (walk.after, has_begun_again) = (None, true);
                    continue;
                }
                page => page?,
            };
            if walk.at == 0 {
                walk.at = page.answer.at;
            }
            keep(reading, walk, page.seen, total).await?;
            walk.replies = page.more;
            walk.after = page.next;
            walk.is_listed = walk.after.is_none();
        }
        if walk.is_listed && walk.replies.is_empty() {
            let wanted = walk.count.and_then(|count| usize::try_from(count).ok()).unwrap_or_default();
            // What came or went meanwhile moved what follows it to another page.
            let is_short = !walk.is_second && walk.seen.len() < wanted.min(MOST_SEEN);
            if !is_short {
                walk.is_complete = true;
                break;
            }
            total.shifted += 1;
            (walk.is_second, walk.is_listed) = (true, false);
        }
    }
    Ok(walk.is_complete)
}

/// Merges what an answer showed, and remembers that it was seen.
async fn keep(reading: &Reading<'_>, walk: &mut Walk, seen: Vec<Observation>, total: &mut Total) -> Result<(), Unread> {
    add(&mut total.merged, reading.merge(&seen).await?);
    if walk.seen.len() < MOST_SEEN {
        walk.seen.extend(seen.into_iter().map(|seen| seen.platform_id));
    }
    Ok(())
}

/// Asks for comments that are known and that a whole walk did not see. Whether these were all.
async fn settle(reading: &Reading<'_>, media_id: &str, walk: &mut Walk, total: &mut Total) -> Result<bool, Unread> {
    if walk.seen.len() >= MOST_SEEN {
        return Ok(true);
    }
    let (org, account) = (reading.org_id(), reading.account_id());
    let until = DateTime::from_timestamp_millis(walk.at).unwrap_or_default();
    let known = reading.state.db.service(org, async |tx| {
        // TikTok lists replies in part, and gives none by its id: that one is not listed says nothing.
        let replies = reading.is_instagram();
        social_posts::known_comments(tx, org, account, media_id, until, replies).await
    });
    let unlisted: Vec<String> = known.await?.into_iter().filter(|id| !walk.seen.contains(id)).collect();
    let asked = &unlisted[..unlisted.len().min(ONE_BY_ONE)];
    let found = confirm(reading, media_id, asked, walk.at).await?;
    total.missing += found.iter().filter(|seen| seen.place.is_none()).count();
    add(&mut total.merged, reading.merge(&found).await?);
    walk.seen.extend(asked.iter().cloned());
    Ok(asked.len() == unlisted.len())
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

/// A page of the replies to a comment that are not listed with it, and where the next is.
async fn replies(
    reading: &Reading<'_>,
    media_id: &str,
    comment: &str,
    after: &str,
) -> Result<(Vec<Observation>, Option<String>), Unread> {
    let query = [("fields", instagram::REPLY), ("limit", "50"), ("after", after)];
    let answer = reading.graph(&format!("{}/replies", segment(comment)), &query).await?;
    let listed = answer.body["data"].as_array().into_iter().flatten();
    let seen = listed
        .filter_map(|reply| instagram::comment(&reading.plan.account, media_id, Some(comment), reply, answer.at))
        .collect();
    Ok((seen, instagram::next(&answer.body)))
}

/// Asks for comments that are not listed. What is not there is missing since `at`; one that the platform refuses or fails to answer for stays as
/// it is.
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
            Err(Unread::Refused(_) | Unread::Stream(_)) => {}
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
        let answer = match reading.business("business/comment/list", &query).await {
            Ok(answer) => answer,
            Err(Unread::Refused(_) | Unread::Stream(_)) => continue,
            Err(error) => return Err(error),
        };
        let Some(seen) = tiktok::comments(&answer.body, media_id, answer.at) else { continue };
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
                Err(Unread::Refused(_) | Unread::Stream(_)) => total.failed += 1,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
