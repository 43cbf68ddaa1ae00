//! What Instagram's answers say.

use serde_json::Value;
use shared::{
    clients::{
        instagram::attachments,
        social::{id, text, time},
    },
    social::{Kind, Life, Observation, Place, Precision, Reaction, Thread},
    store::{social::Account, social_posts::Media},
};

/// Fields of a conversation. Only its twenty newest messages can be read.
pub(crate) const CONVERSATION: &str = "id,updated_time,participants,messages.limit(20){id,created_time,from,to,message,attachments,shares,story,\
                                       reactions,is_unsupported}";
/// Fields of a post.
pub(crate) const MEDIA: &str = "id,caption,media_type,media_product_type,permalink,timestamp,like_count,comments_count";
/// Fields of a comment, and of its replies.
pub(crate) const COMMENT: &str = "id,text,username,timestamp,hidden,from,parent_id,replies.limit(50){id,text,username,timestamp,hidden,from,parent_id}";
/// Fields of one comment or reply.
pub(crate) const REPLY: &str = "id,text,username,timestamp,hidden,from,parent_id";

/// Whether a call counts among those of conversations.
pub(crate) fn is_of_conversations(path: &str) -> bool {
    path.ends_with("conversations") || path.ends_with("/messages")
}

/// The cursor of the page that follows, if one does. A page may be empty and have one.
pub(crate) fn next(list: &Value) -> Option<String> {
    text(&list["paging"]["next"])?;
    text(&list["paging"]["cursors"]["after"]).map(str::to_owned)
}

/// Whether an author is the account itself.
fn is_own(account: &Account, id: Option<&str>, name: Option<&str>) -> bool {
    id == Some(account.platform_id.as_str()) || name.is_some_and(|name| name.eq_ignore_ascii_case(&account.username))
}

/// The other side of a conversation.
pub(crate) fn counterpart(account: &Account, conversation: &Value) -> Option<String> {
    let people = conversation["participants"]["data"].as_array()?;
    let other = people.iter().find(|person| !is_own(account, id(&person["id"]).as_deref(), text(&person["username"])));
    id(&other?["id"])
}

/// What a message says, and what people think of it. Nothing of one that is too old to be read.
pub(crate) fn message(account: &Account, with: &str, message: &Value, at: i64) -> Vec<Observation> {
    let (Some(platform_id), Some(sent_at)) = (id(&message["id"]), time(&message["created_time"])) else {
        return Vec::new();
    };
    let from = &message["from"];
    let (sender_id, sender_name) = (id(&from["id"]), text(&from["username"]).map(str::to_owned));
    if !from.is_object() && message.get("message").is_none() {
        return Vec::new();
    }
    let kind = if message["story"]["reply_to"].is_object() { Kind::StoryReply } else { Kind::Message };
    let shown = Observation {
        platform_id: platform_id.clone(),
        at,
        place: Some(Place {
            kind,
            thread: Thread::Direct(with.to_owned()),
            outgoing: is_own(account, sender_id.as_deref(), sender_name.as_deref()),
            sent_at,
            precision: Precision::Second,
        }),
        text: Some(text(&message["message"]).map(str::to_owned)),
        attachments: attachments(message),
        sender_id,
        sender_name,
        ..Observation::default()
    };
    let reactions = message["reactions"]["data"].as_array().into_iter().flatten().flat_map(|reaction| {
        let emoji = text(&reaction["emoji"]).or(text(&reaction["reaction"])).map(str::to_owned);
        let people = reaction["users"].as_array().into_iter().flatten();
        people
            .filter_map(|person| id(&person["id"]))
            .map(move |by| Reaction { by, emoji: emoji.clone() })
            .collect::<Vec<_>>()
    });
    let reactions = reactions.map(|reaction| Observation {
        platform_id: platform_id.clone(),
        at,
        reaction: Some(reaction),
        ..Observation::default()
    });
    let mut seen: Vec<Observation> = reactions.collect();
    seen.insert(0, shown);
    seen
}

/// What a comment or a reply says. `parent` is the comment that it was listed below.
pub(crate) fn comment(
    account: &Account,
    media_id: &str,
    parent: Option<&str>,
    comment: &Value,
    at: i64,
) -> Option<Observation> {
    let parent_id = id(&comment["parent_id"]).or_else(|| parent.map(str::to_owned));
    let (sender_id, sender_name) =
        (id(&comment["from"]["id"]), text(&comment["username"]).or(text(&comment["from"]["username"])));
    Some(Observation {
        platform_id: id(&comment["id"])?,
        at,
        place: Some(Place {
            kind: if parent_id.is_some() { Kind::Reply } else { Kind::Comment },
            thread: Thread::Comments,
            outgoing: is_own(account, sender_id.as_deref(), sender_name),
            sent_at: time(&comment["timestamp"])?,
            precision: Precision::Second,
        }),
        text: comment.get("text").map(|said| text(said).map(str::to_owned)),
        attachments: None,
        sender_id,
        sender_name: sender_name.map(str::to_owned),
        parent_id,
        media_id: Some(media_id.to_owned()),
        hidden: comment["hidden"].as_bool(),
        ..Observation::default()
    })
}

/// An item that a list which should have it has not.
pub(crate) fn missing(platform_id: String, at: i64) -> Observation {
    Observation { platform_id, at, life: Life::Missing, ..Observation::default() }
}

/// A post.
pub(crate) fn media(media: &Value) -> Option<Media> {
    let kind = text(&media["media_product_type"]).unwrap_or("feed").to_ascii_lowercase();
    Some(Media {
        platform_id: id(&media["id"])?,
        kind: if kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') { kind } else { "feed".to_owned() },
        caption: text(&media["caption"]).map(str::to_owned),
        permalink: text(&media["permalink"]).map(str::to_owned),
        published_at: time(&media["timestamp"])?,
        like_count: shared::clients::social::count(&media["like_count"]),
        comments_count: shared::clients::social::count(&media["comments_count"]),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_have_an_offset_without_a_colon() {
        let wanted = chrono::DateTime::parse_from_rfc3339("2019-04-05T05:56:32Z").unwrap();
        assert_eq!(time(&json!("2019-04-05T07:56:32+0200")), Some(wanted.to_utc()));
        assert_eq!(time(&json!("yesterday")), None);
    }

    #[test]
    fn a_message_that_is_listed_without_what_was_attached_leaves_that_as_it_was_delivered() {
        let listed = json!({ "message": "hej" });
        assert_eq!(attachments(&listed), None);
        let shown = json!({ "attachments": { "data": [{ "image_data": { "url": "https://x" } }] } });
        assert_eq!(attachments(&shown).unwrap()[0].kind, "image");
    }

    #[test]
    fn a_list_ends_where_no_page_follows_even_if_it_has_a_cursor() {
        let cursors = json!({ "after": "QVFI" });
        assert_eq!(
            next(&json!({ "data": [], "paging": { "cursors": cursors, "next": "https://x" } })).as_deref(),
            Some("QVFI")
        );
        assert_eq!(next(&json!({ "data": [], "paging": { "cursors": cursors } })), None);
    }
}
