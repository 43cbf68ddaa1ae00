//! An entry of Meta's: parts under `messaging`, `standby` and `changes`, or a change without a wrapper.

use chrono::DateTime;
use serde_json::Value;
use shared::{
    social::{Attachment, Kind, Life, Observation, Place, Precision, Reaction, Thread},
    store::social_figures::Figure,
};

use crate::{
    json::{member, text, time_of},
    said::Read,
};

/// The most parts of an entry.
const MAX_PARTS: usize = 2000;
/// The longest address that is kept.
const MAX_URL: usize = 2000;

pub(crate) fn read(account: &str, entry: &Value, read: &mut Read) {
    let at = entry.get("time").and_then(time_of);
    let list = |name: &str| entry.get(name).map(|parts| parts.as_array().map(Vec::as_slice));
    let mut parts = 0;
    for name in ["messaging", "standby"] {
        match list(name) {
            None => {}
            Some(None) => read.unparsed += 1,
            Some(Some(all)) => {
                parts += all.len();
                all.iter().take(MAX_PARTS).for_each(|part| messaging(account, part, read));
            }
        }
    }
    match list("changes") {
        None => {}
        Some(None) => read.unparsed += 1,
        Some(Some(all)) => {
            parts += all.len();
            all.iter().take(MAX_PARTS).for_each(|part| change(account, at, part, read));
        }
    }
    if entry.get("field").is_some() {
        parts += 1;
        change(account, at, entry, read);
    }
    if parts == 0 && read.unparsed == 0 {
        read.ignored = 1;
    }
}

fn change(account: &str, at: Option<i64>, part: &Value, read: &mut Read) {
    let (Some(field), Some(value), Some(at)) = (part.get("field").and_then(Value::as_str), part.get("value"), at)
    else {
        read.unparsed += 1;
        return;
    };
    let seen = match field {
        "comments" | "live_comments" => comment(account, at, value),
        "mentions" => mention(at, value),
        "story_insights" => {
            story(at, value, read);
            return;
        }
        "messages"
        | "message_echoes"
        | "message_edit"
        | "message_reactions"
        | "messaging_postbacks"
        | "messaging_seen" => {
            messaging(account, value, read);
            return;
        }
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

/// A comment on one of the account's posts. The time is that of the delivery: none is given for the comment.
fn comment(account: &str, at: i64, value: &Value) -> Option<Observation> {
    let platform_id = member(value, "id").or_else(|| member(value, "comment_id"))?;
    let from = value.get("from").unwrap_or(&Value::Null);
    let sender_id = member(from, "id");
    let parent_id = member(value, "parent_id").filter(|parent| *parent != platform_id);
    Some(Observation {
        at,
        place: Some(Place {
            kind: if parent_id.is_some() { Kind::Reply } else { Kind::Comment },
            thread: Thread::Comments,
            outgoing: sender_id.as_deref() == Some(account),
            sent_at: DateTime::from_timestamp_millis(at)?,
            precision: Precision::Delivery,
        }),
        text: Some(text(value, "text")),
        sender_id,
        sender_name: text(from, "username"),
        parent_id,
        media_id: value.get("media").and_then(|media| member(media, "id")),
        platform_id,
        ..Observation::default()
    })
}

/// The account was named in a comment or in the caption of another account's post.
fn mention(at: i64, value: &Value) -> Option<Observation> {
    let media = member(value, "media_id")?;
    let comment = member(value, "comment_id");
    Some(Observation {
        platform_id: comment.clone().unwrap_or_else(|| format!("mention:{media}")),
        at,
        place: Some(Place {
            kind: Kind::Mention,
            thread: if comment.is_some() { Thread::Comments } else { Thread::Mention(media.clone()) },
            outgoing: false,
            sent_at: DateTime::from_timestamp_millis(at)?,
            precision: Precision::Delivery,
        }),
        media_id: Some(media),
        ..Observation::default()
    })
}

/// The figures of a story that has ended.
fn story(at: i64, value: &Value, read: &mut Read) {
    let (Some(media), Some(members), Some(at)) =
        (member(value, "media_id"), value.as_object(), DateTime::from_timestamp_millis(at))
    else {
        read.unparsed += 1;
        return;
    };
    for metric in ["views", "reach", "replies", "taps_forward", "taps_back", "exits"] {
        // In some regions `replies` is always 0.
        let known = members.get(metric).and_then(Value::as_f64).filter(|value| *value > 0.0 || metric != "replies");
        if let Some(value) = known.filter(|value| (0.0..1e15).contains(value)) {
            read.figures.push(Figure {
                media_id: Some(media.clone()),
                metric: metric.to_owned(),
                value,
                day: at.date_naive(),
            });
        }
    }
}

fn messaging(account: &str, part: &Value, read: &mut Read) {
    let party = |name: &str| part.get(name).and_then(|party| member(party, "id"));
    let (sender, recipient, at) = (party("sender"), party("recipient"), part.get("timestamp").and_then(time_of));
    let (Some(sender), Some(at)) = (sender, at) else {
        read.unparsed += 1;
        return;
    };
    let echo = part.pointer("/message/is_echo").and_then(Value::as_bool).unwrap_or(false);
    let outgoing = sender == account || echo;
    let Some(with) = (if outgoing { recipient } else { Some(sender.clone()) }) else {
        read.unparsed += 1;
        return;
    };
    let Some(sent_at) = DateTime::from_timestamp_millis(at) else {
        read.unparsed += 1;
        return;
    };
    let place = |precision| {
        Some(Place { kind: Kind::Message, thread: Thread::Direct(with.clone()), outgoing, sent_at, precision })
    };
    let about = |part: &Value| Some(Observation { platform_id: member(part, "mid")?, at, ..Observation::default() });
    let seen = if let Some(said) = part.get("message") {
        message(&sender, said, at, place(Precision::Millisecond))
    } else if let Some(edit) = part.get("message_edit") {
        about(edit).map(|seen| Observation {
            place: place(Precision::Delivery),
            text: Some(text(edit, "text")),
            edited: true,
            sender_id: Some(sender),
            ..seen
        })
    } else if let Some(reaction) = part.get("reaction") {
        about(reaction).map(|seen| Observation { reaction: Some(reacted(sender, reaction)), ..seen })
    } else if let Some(seen) = part.get("read") {
        if seen.get("mid").is_none() {
            read.ignored += 1;
            return;
        }
        about(seen).map(|seen| Observation { seen: true, ..seen })
    } else if let Some(postback) = part.get("postback") {
        Some(Observation {
            platform_id: member(postback, "mid").unwrap_or_else(|| format!("postback:{sender}:{at}")),
            at,
            place: place(Precision::Millisecond),
            text: Some(text(postback, "title")),
            sender_id: Some(sender),
            ..Observation::default()
        })
    } else {
        // A referral, an opt-in, a handover: no message was written.
        read.ignored += 1;
        return;
    };
    match seen {
        Some(seen) => read.observations.push(seen),
        None => read.unparsed += 1,
    }
}

fn message(sender: &str, said: &Value, at: i64, place: Option<Place>) -> Option<Observation> {
    let seen = Observation { platform_id: member(said, "mid")?, at, ..Observation::default() };
    if said.get("is_deleted").and_then(Value::as_bool) == Some(true) {
        return Some(Observation { life: Life::Deleted, ..seen });
    }
    let mut attachments = attachments(said);
    if said.get("is_unsupported").and_then(Value::as_bool) == Some(true) {
        attachments.push(Attachment { kind: "unsupported".to_owned(), url: None, id: None });
    }
    if let Some(referral) = said.get("referral") {
        attachments.push(Attachment { kind: "referral".to_owned(), url: None, id: member(referral, "ad_id") });
    }
    let story = said.pointer("/reply_to/story");
    if let Some(story) = story {
        attachments.push(Attachment { kind: "story".to_owned(), url: address(story), id: member(story, "id") });
    }
    Some(Observation {
        place: place.map(|place| Place { kind: if story.is_some() { Kind::StoryReply } else { place.kind }, ..place }),
        text: Some(text(said, "text")),
        attachments: Some(attachments),
        sender_id: Some(sender.to_owned()),
        parent_id: said.get("reply_to").and_then(|replied| member(replied, "mid")),
        media_id: story.and_then(|story| member(story, "id")),
        ..seen
    })
}

fn attachments(said: &Value) -> Vec<Attachment> {
    let all = said.get("attachments").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let parts = all.iter().filter_map(|part| {
        let payload = part.get("payload").unwrap_or(&Value::Null);
        let id = ["id", "ig_post_media_id", "reel_video_id"].iter().find_map(|name| member(payload, name));
        let kind: String = text(part, "type")?.chars().take(40).collect();
        // What was `share` is `ig_post` since 2026-04-27.
        let kind = if kind == "share" { "ig_post".to_owned() } else { kind };
        Some(Attachment { kind, url: address(payload), id })
    });
    parts.collect()
}

/// An address under `url`, if it is one that can be fetched.
fn address(value: &Value) -> Option<String> {
    text(value, "url").filter(|url| url.len() <= MAX_URL && (url.starts_with("https://") || url.starts_with("http://")))
}

fn reacted(by: String, reaction: &Value) -> Reaction {
    let taken_back = reaction.get("action").and_then(Value::as_str) == Some("unreact");
    let emoji = || text(reaction, "emoji").or_else(|| text(reaction, "reaction")).unwrap_or_else(|| "other".to_owned());
    let emoji = (!taken_back).then(emoji).map(|emoji| emoji.chars().take(40).collect());
    Reaction { by, emoji }
}
