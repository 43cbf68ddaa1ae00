//! What TikTok's answers say, of both interfaces.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use shared::{
    clients::social::{count, id, text},
    social::{Kind, Observation, Place, Precision, Thread},
    store::social_posts::Media,
};

/// Fields of a video of the Display API.
pub(crate) const DISPLAYED: &str =
    "id,create_time,share_url,video_description,title,like_count,comment_count,share_count,view_count";
/// Counts in a profile of the Display API, as they are now.
pub(crate) const PROFILE: [&str; 4] = ["follower_count", "following_count", "likes_count", "video_count"];
/// Fields of an account of the API for Business.
pub(crate) const ACCOUNT_FIELDS: &str = r#"["username","followers_count","metrics"]"#;
/// Figures of an account of the API for Business, by day.
pub(crate) const ACCOUNT_FIGURES: [&str; 6] =
    ["followers_count", "profile_views", "video_views", "likes", "comments", "shares"];
/// Figures of a video: their fields in either interface, and what they are called here.
pub(crate) const VIDEO_FIGURES: [(&str, &str); 12] = [
    ("video_views", "video_views"),
    ("likes", "likes"),
    ("comments", "comments"),
    ("shares", "shares"),
    ("reach", "reach"),
    ("full_video_watched_rate", "full_video_watched_rate"),
    ("total_time_watched", "total_time_watched"),
    ("average_time_watched", "average_time_watched"),
    ("view_count", "video_views"),
    ("like_count", "likes"),
    ("comment_count", "comments"),
    ("share_count", "shares"),
];

/// Fields of a video of the API for Business; with figures, if the account allows those.
pub(crate) fn video_fields(figures: bool) -> String {
    let mut fields = vec!["item_id", "create_time", "share_url", "caption", "likes", "comments"];
    if figures {
        fields.extend(
            VIDEO_FIGURES
                .iter()
                .take(8)
                .map(|(field, _)| *field)
                .filter(|field| !["likes", "comments"].contains(field)),
        );
    }
    json!(fields).to_string()
}

/// The cursor of the page that follows, if one does.
pub(crate) fn next(body: &Value) -> Option<String> {
    if body["has_more"] != true {
        return None;
    }
    id(&body["cursor"])
}

/// A time in seconds, which comes as text or as a number.
fn time(value: &Value) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(count(value)?, 0)
}

/// The id of a video in either interface.
pub(crate) fn video_id(video: &Value) -> Option<String> {
    id(&video["item_id"]).or_else(|| id(&video["id"]))
}

/// A video.
pub(crate) fn media(video: &Value) -> Option<Media> {
    let either = |one: &str, other: &str| text(&video[one]).or(text(&video[other])).map(str::to_owned);
    Some(Media {
        platform_id: video_id(video)?,
        kind: "video".to_owned(),
        caption: either("caption", "video_description"),
        permalink: text(&video["share_url"]).map(str::to_owned),
        published_at: time(&video["create_time"])?,
        like_count: count(&video["likes"]).or_else(|| count(&video["like_count"])),
        comments_count: count(&video["comments"]).or_else(|| count(&video["comment_count"])),
    })
}

/// What a list of comments says, their replies included. None if it is no list.
pub(crate) fn comments(body: &Value, video_id: &str, at: i64) -> Option<Vec<Observation>> {
    let mut seen = Vec::new();
    for listed in body["comments"].as_array()? {
        seen.extend(comment(listed, video_id, None, at));
        let parent = id(&listed["comment_id"]);
        for reply in listed["reply_list"].as_array().into_iter().flatten() {
            seen.extend(comment(reply, video_id, parent.as_deref(), at));
        }
    }
    Some(seen)
}

fn comment(comment: &Value, video_id: &str, parent: Option<&str>, at: i64) -> Option<Observation> {
    let platform_id = id(&comment["comment_id"])?;
    // A first comment may name itself, or zero.
    let own = id(&comment["parent_comment_id"]).filter(|parent| parent != "0" && *parent != platform_id);
    let parent_id = own.or_else(|| parent.map(str::to_owned));
    Some(Observation {
        platform_id,
        at,
        place: Some(Place {
            kind: if parent_id.is_some() { Kind::Reply } else { Kind::Comment },
            thread: Thread::Comments,
            outgoing: comment["owner"] == true,
            sent_at: time(&comment["create_time"])?,
            precision: Precision::Second,
        }),
        text: comment.get("text").map(|said| text(said).map(str::to_owned)),
        sender_id: id(&comment["unique_identifier"]).or_else(|| id(&comment["user_id"])),
        sender_name: text(&comment["username"]).map(str::to_owned),
        parent_id,
        media_id: Some(id(&comment["video_id"]).unwrap_or_else(|| video_id.to_owned())),
        hidden: text(&comment["status"]).map(|status| status != "PUBLIC"),
        ..Observation::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_has_its_time_in_seconds_as_text_and_a_status_that_hides_it() {
        let body = json!({ "comments": [{
            "comment_id": "7600000000000000001", "video_id": "7", "create_time": "1790000000", "text": "hej", "status": "HIDDEN",
            "owner": false, "unique_identifier": "u", "username": "eva",
            "reply_list": [{ "comment_id": "7600000000000000002", "create_time": 1_790_000_060, "text": "svar", "status": "PUBLIC", "owner": true }],
        }] });
        let seen = comments(&body, "7", 5).unwrap();
        assert_eq!((seen[0].hidden, seen[0].sender_id.as_deref()), (Some(true), Some("u")));
        let times: Vec<i64> = seen.iter().filter_map(|seen| Some(seen.place.as_ref()?.sent_at.timestamp())).collect();
        assert_eq!(times, [1_790_000_000, 1_790_000_060]);
        assert_eq!((seen[1].parent_id.as_deref(), seen[1].hidden), (Some("7600000000000000001"), Some(false)));
        assert!(seen[1].place.as_ref().unwrap().outgoing);
        assert_eq!(comments(&json!({}), "7", 5), None);
    }

    #[test]
    fn pages_end_where_there_is_no_more_whatever_the_cursor_is() {
        assert_eq!(next(&json!({ "cursor": 20, "has_more": false })), None);
        assert_eq!(next(&json!({ "cursor": 20, "has_more": true })).as_deref(), Some("20"));
    }
}
