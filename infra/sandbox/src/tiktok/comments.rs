//! Platform B: the comments on a video.

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::{
    business::own,
    params::Query,
    refusal::Refusal,
    world::{Account, Comment, Status, Token, World},
};

/// The most comments on a page, and when nothing is said.
const COUNTS: (i64, usize) = (30, 20);

const KNOWN: [&str; 9] = [
    "business_id",
    "video_id",
    "comment_ids",
    "include_replies",
    "status",
    "sort_field",
    "sort_order",
    "cursor",
    "max_count",
];

impl Comment {
    fn shown(&self, replies: &[&Self], nested: bool) -> Value {
        let status = match self.status {
            Status::Public => "PUBLIC",
            Status::Hidden => "SELF_ONLY",
            Status::FriendsOnly => "FRIENDS_ONLY",
        };
        let mut shown = json!({
            "comment_id": self.id, "video_id": self.video, "user_id": self.author, "unique_identifier": self.author,
            "create_time": (self.at / 1000).to_string(), "text": self.text, "likes": self.likes,
            "replies": replies.len(), "owner": self.owner, "liked": false, "pinned": false, "status": status,
            "username": self.username, "profile_image": format!("https://p16.example/{}.jpeg?x-expires=1", self.author),
            "parent_comment_id": self.parent.as_ref().unwrap_or(&self.id),
        });
        if self.parent.is_none() {
            // What is no answer has no parent.
            shown.as_object_mut().map(|shown| shown.remove("parent_comment_id"));
            if nested {
                shown["reply_list"] = replies.iter().map(|reply| reply.shown(&[], false)).collect();
            }
        }
        shown
    }
}

/// `GET /business/comment/list/`: the comments on one video that answer no other. The cursor is an offset, so what comes in front moves
/// all that follows.
pub(super) fn list(world: &World, account: &Account, token: &Token, query: &Query) -> Result<Value, Refusal> {
    query.only(&KNOWN)?;
    own(account, query)?;
    let video = query.required("video_id")?;
    let video = world.videos.get(video).filter(|video| video.owner == account.open_id && !video.deleted);
    let video = video.ok_or_else(|| query.invalid("video_id"))?;
    token.allows("comment.list")?;
    let only = query.strings("comment_ids")?;
    if only.as_ref().is_some_and(|only| only.is_empty() || only.len() > 30) {
        return Err(query.invalid("comment_ids"));
    }
    let nested = query.word("include_replies", &["true", "false"], "false")? == "true";
    // Which of the two goes without saying is not on our provider page.
    let public = query.word("status", &["ALL", "PUBLIC"], "PUBLIC")? == "PUBLIC";
    let field = query.word("sort_field", &["likes", "replies", "create_time"], "create_time")?;
    let order = query.word("sort_order", &["asc", "desc", "smart"], "desc")?;
    let visible = |comment: &&Comment| !public || comment.status == Status::Public;
    let all: Vec<&Comment> = world.comments_of(video).filter(visible).collect();
    let answers = |of: &Comment| -> Vec<&Comment> {
        all.iter().rev().filter(|reply| reply.parent.as_deref() == Some(&of.id)).copied().collect()
    };
    // In the order in which they were written; the newest first is what follows where the rest is equal.
    let mut rows: Vec<(usize, &Comment)> =
        all.iter().copied().enumerate().filter(|(_, row)| row.parent.is_none()).collect();
    rows.retain(|(_, row)| only.as_ref().is_none_or(|only| only.contains(&row.id)));
    let key = |(place, row): &(usize, &Comment)| match field {
        _ if order == "smart" => (row.likes, *place),
        "likes" => (row.likes, *place),
        "replies" => (i64::try_from(answers(row).len()).unwrap_or_default(), *place),
        _ => (row.at, *place),
    };
    if order == "asc" {
        rows.sort_by_key(key);
    } else {
        rows.sort_by_key(|row| Reverse(key(row)));
    }
    let begin = usize::try_from(query.integer("cursor", i64::MAX)?.unwrap_or_default()).unwrap_or(usize::MAX);
    let begin = begin.min(rows.len());
    let end = (begin + query.rows("max_count", COUNTS.1, COUNTS.0)?).min(rows.len());
    let shown: Vec<Value> = rows[begin..end].iter().map(|(_, row)| row.shown(&answers(row), nested)).collect();
    Ok(json!({ "comments": shown, "cursor": end, "has_more": end < rows.len() }))
}
