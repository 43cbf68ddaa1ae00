//! An event of TikTok's. What it says is JSON in a text, and has ids as text or as whole numbers.

use chrono::DateTime;
use serde_json::Value;
use shared::social::{Attachment, Kind, Life, Observation, Place, Precision, Thread};

use crate::{
    json::{member, text, time_of},
    said::Read,
};

pub(crate) fn read(account: &str, event: &Value, read: &mut Read) {
    let name = event.get("event").and_then(Value::as_str).unwrap_or_default();
    let at = event.get("create_time").and_then(time_of);
    // Content is parsed a second time.
    let content =
        event.get("content").and_then(Value::as_str).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let seen = match (name, content, at) {
        ("authorization.removed", _, Some(at)) => {
            // It is said in seconds: to the end of that second.
            read.removed = Some(if at % 1000 == 0 { at + 999 } else { at });
            return;
        }
        // It is not known which consent is meant: reading the account says whether the one it has still holds.
        ("authorization.removed", ..) => {
            read.fetch = true;
            return;
        }
        (name, ..) if name.starts_with("post.publish.") || name.starts_with("video.publish.") => {
            read.fetch = true;
            return;
        }
        ("im_receive_msg" | "im_send_msg", Some(content), _) => message(account, name == "im_send_msg", &content),
        ("im_mark_read_msg", Some(content), Some(at)) => {
            // A whole conversation may be marked: then it is not said which messages.
            let Some(platform_id) = member(&content, "message_id") else {
                read.ignored += 1;
                return;
            };
            Some(Observation {
                platform_id,
                at: content.get("timestamp").and_then(time_of).unwrap_or(at),
                seen: true,
                ..Observation::default()
            })
        }
        ("comment.update", Some(content), Some(at)) => {
            let seen = comment(at, &content);
            // The text is not delivered: it is read.
            read.fetch |= seen.as_ref().is_some_and(|seen| seen.place.is_some());
            seen
        }
        ("im_receive_msg" | "im_send_msg" | "im_mark_read_msg" | "comment.update", ..) => None,
        _ => {
            read.ignored += 1;
            return;
        }
    };
    match seen {
        Some(seen) => read.observations.push(seen),
        None => read.unparsed += 1,
    }
}

fn message(account: &str, sent: bool, content: &Value) -> Option<Observation> {
    let at = content.get("timestamp").and_then(time_of)?;
    let party = |name: &str| content.get(name).and_then(|party| member(party, "id"));
    let outgoing = sent || party("to_user").is_some_and(|to| to != account);
    let kind: String = text(content, "type")?.chars().take(40).collect();
    let attachment = match kind.as_str() {
        "text" => None,
        kind => {
            let part = content.get(kind).unwrap_or(&Value::Null);
            let url = text(part, "embed_url").filter(|url| url.len() <= 2000 && url.starts_with("https://"));
            let id = ["media_id", "video_id", "sticker_id"].iter().find_map(|name| member(part, name));
            Some(Attachment { kind: kind.to_owned(), url, id })
        }
    };
    Some(Observation {
        platform_id: member(content, "message_id")?,
        at,
        place: Some(Place {
            kind: Kind::Message,
            thread: Thread::Direct(member(content, "conversation_id")?),
            outgoing,
            sent_at: DateTime::from_timestamp_millis(at)?,
            precision: Precision::Millisecond,
        }),
        text: Some(content.get("text").and_then(|part| text(part, "body"))),
        attachments: Some(attachment.into_iter().collect()),
        sender_id: party("from_user"),
        sender_name: text(content, "from"),
        parent_id: content.get("referenced_message_info").and_then(|info| member(info, "referenced_message_id")),
        ..Observation::default()
    })
}

fn comment(at: i64, content: &Value) -> Option<Observation> {
    let at = content.get("timestamp").and_then(time_of).unwrap_or(at);
    let platform_id = member(content, "comment_id")?;
    let parent_id = member(content, "parent_comment_id").filter(|parent| *parent != platform_id);
    let is_reply = parent_id.is_some() || content.get("comment_type").and_then(Value::as_str) == Some("reply");
    let seen = Observation { platform_id, at, ..Observation::default() };
    Some(match content.get("comment_action").and_then(Value::as_str)? {
        "insert" => Observation {
            place: Some(Place {
                kind: if is_reply { Kind::Reply } else { Kind::Comment },
                thread: Thread::Comments,
                outgoing: false,
                sent_at: DateTime::from_timestamp_millis(at)?,
                precision: Precision::Delivery,
            }),
            // Whose it is, ours too, is known when it is read.
            parent_id,
            media_id: member(content, "video_id"),
            ..seen
        },
        "delete" => Observation { life: Life::Deleted, ..seen },
        "set_to_hidden" | "set_to_friends_only" => Observation { hidden: Some(true), ..seen },
        "set_to_public" => Observation { hidden: Some(false), ..seen },
        _ => return None,
    })
}
