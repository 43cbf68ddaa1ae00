//! Platform B: what the application writes, and what it fetches of messages. Each writing is listed by [`TikTok::sent`] and has the
//! webhook that the same act in the app has.

use anyhow::{Context, Result, ensure};
use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use url::form_urlencoded::byte_serialize;

use super::{
    TikTok,
    messages::NewMessage,
    params,
    refusal::Refusal,
    world::{Account, File, Platform, Token, World},
};
use crate::front::{Sent, SentKind, catch_up};

/// The most characters of a comment. Not on our provider page: it is what the app takes.
const MOST_COMMENT: usize = 150;

fn invalid(name: &str) -> Refusal {
    Refusal::invalid(Platform::Business, &format!("{name}: Invalid parameter"))
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str, Refusal> {
    object.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).ok_or_else(|| invalid(name))
}

/// A body with these names alone, for the account of its token.
fn own(account: &Account, body: &[u8], known: &[&str]) -> Result<Map<String, Value>, Refusal> {
    let asked = params::object(Platform::Business, body, &[&["business_id"], known].concat())?;
    if text(&asked, "business_id")? == account.open_id { Ok(asked) } else { Err(Refusal::scope(Platform::Business)) }
}

fn object<'a>(body: &'a Map<String, Value>, name: &str, key: &str) -> Result<&'a str, Refusal> {
    let object = body.get(name).and_then(Value::as_object).filter(|object| object.len() == 1);
    text(object.ok_or_else(|| invalid(name))?, key)
}

/// What a request asks to be written, checked.
pub(super) enum Writing {
    Message { person: String, conversation: String, text: String, answered: Option<String> },
    Reply { video: String, comment: String, text: String },
}

/// `POST /business/message/send/`: text, in a conversation that a person began. Pictures are not known here.
pub(super) fn message(account: &Account, token: &Token, body: &[u8]) -> Result<Writing, Refusal> {
    let known = ["recipient_type", "recipient", "message_type", "text", "referenced_message_info"];
    let asked = own(account, body, &known)?;
    token.allows("message.list.send")?;
    for (name, only) in [("recipient_type", "CONVERSATION"), ("message_type", "TEXT")] {
        if text(&asked, name)? != only {
            return Err(invalid(name));
        }
    }
    let said = object(&asked, "text", "body")?;
    let conversation = text(&asked, "recipient")?;
    let referenced = asked.contains_key("referenced_message_info");
    let answered = referenced.then(|| object(&asked, "referenced_message_info", "referenced_message_id"));
    let talk = account.talks.iter().find(|talk| talk.id == conversation).ok_or_else(|| invalid("recipient"))?;
    // Only who was written to may write.
    if talk.closed || !talk.begun {
        return Err(Refusal::closed());
    }
    Ok(Writing::Message {
        person: talk.person.clone(),
        conversation: conversation.to_owned(),
        text: said.to_owned(),
        answered: answered.transpose()?.map(str::to_owned),
    })
}

/// `POST /business/comment/reply/create/`.
pub(super) fn reply(world: &World, account: &Account, token: &Token, body: &[u8]) -> Result<Writing, Refusal> {
    let asked = own(account, body, &["video_id", "comment_id", "text"])?;
    token.allows("comment.list.manage")?;
    let (video, comment, said) = (text(&asked, "video_id")?, text(&asked, "comment_id")?, text(&asked, "text")?);
    if said.chars().count() > MOST_COMMENT {
        return Err(invalid("text"));
    }
    let owned = world.videos.get(video).filter(|video| video.owner == account.open_id && !video.deleted);
    owned.ok_or_else(|| invalid("video_id"))?;
    let on = world.comments.get(comment).filter(|comment| comment.video == video && !comment.deleted);
    on.ok_or_else(|| invalid("comment_id"))?;
    Ok(Writing::Reply { video: video.to_owned(), comment: comment.to_owned(), text: said.to_owned() })
}

/// `POST /business/message/media/download/`: where the file of a message is.
pub(super) fn download(world: &World, account: &Account, token: &Token, body: &[u8]) -> Result<Value, Refusal> {
    let asked = own(account, body, &["conversation_id", "message_id", "media_id", "media_type"])?;
    token.allows("message.list.read")?;
    // Videos are not sent here, and other words are not on our provider page.
    if text(&asked, "media_type")? != "IMAGE" {
        return Err(invalid("media_type"));
    }
    let named = ["conversation_id", "message_id"].map(|name| text(&asked, name).map(|value| (name, value)));
    let media = text(&asked, "media_id")?;
    let [conversation, message] = named;
    let (conversation, message) = (conversation?, message?);
    // Messages are kept as their events alone.
    let is_asked = |content: &Value| {
        [conversation, message].iter().all(|(name, value)| content[*name] == **value)
            && content["image"]["media_id"] == media
    };
    let known = world.outbox.all().any(|event| event.open_id == account.open_id && is_asked(&event.content));
    if !known || !world.files.contains_key(media) {
        return Err(invalid("media_id"));
    }
    let media: String = byte_serialize(media.as_bytes()).collect();
    Ok(json!({ "download_url": format!("{}/media/?id={media}", world.url) }))
}

impl World {
    /// Carries out what was asked. The data of the answer.
    pub(super) fn carry_out(&mut self, open_id: &str, writing: Writing) -> Result<Value, Refusal> {
        // What it names was looked up before.
        let gone = |_| Refusal::internal(Platform::Business);
        let (id, kind, to, said, data) = match writing {
            Writing::Message { person, conversation, text, answered } => {
                let mut new = NewMessage::from(text.as_str());
                if let Some(answered) = answered {
                    new = new.in_reply_to(&answered);
                }
                let id = self.write(open_id, &person, &new, false).map_err(gone)?;
                let data = json!({ "message": { "message_id": id } });
                (id, SentKind::Message, conversation, text, data)
            }
            Writing::Reply { video, comment, text } => {
                let username = self.accounts.get(open_id).map(|account| account.username.clone()).unwrap_or_default();
                let id = self.add_comment(&video, (open_id, &username, true), &text, Some(&comment)).map_err(gone)?;
                let parent = self.comments.get(&id).and_then(|reply| reply.parent.clone());
                let data = json!({
                    "comment_id": id, "parent_comment_id": parent, "video_id": video, "user_id": open_id,
                    "create_time": (self.now() / 1000).to_string(), "text": text,
                });
                (id, SentKind::Reply, comment, text, data)
            }
        };
        self.sent.push((open_id.to_owned(), Sent { id, kind, to, text: said }));
        Ok(data)
    }

    /// `GET /media/`: a file, to whom has its address.
    pub(super) fn file(&self, id: Option<&str>) -> Response {
        match id.and_then(|id| self.files.get(id)) {
            Some(file) => ([(header::CONTENT_TYPE, file.kind.clone())], file.bytes.clone()).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        }
    }
}

/// What the application sends and fetches.
impl TikTok {
    /// What was sent for this account through the API, in order.
    #[must_use]
    pub fn sent(&self, open_id: &str) -> Vec<Sent> {
        catch_up(self);
        self.world().sent.iter().filter(|(of, _)| of == open_id).map(|(_, sent)| sent.clone()).collect()
    }

    /// Whether a conversation takes no more messages of the account. Which code TikTok has for that, and after how long it comes to it, is
    /// not on our provider page: the sandbox's 40301 is a guess.
    pub fn close_conversation(&self, conversation: &str, closed: bool) -> Result<()> {
        let mut world = self.world();
        let mut talks = world.accounts.values_mut().flat_map(|account| account.talks.iter_mut());
        let talk = talks.find(|talk| talk.id == conversation);
        talk.with_context(|| format!("there is no conversation {conversation}"))?.closed = closed;
        Ok(())
    }

    /// The file that a `media_id` of a message stands for.
    pub fn set_media(&self, media_id: &str, content_type: &str, bytes: &[u8]) -> Result<()> {
        ensure!(!media_id.is_empty(), "a media id is not empty");
        let file = File { kind: content_type.to_owned(), bytes: bytes.to_vec() };
        self.world().files.insert(media_id.to_owned(), file);
        Ok(())
    }
}
