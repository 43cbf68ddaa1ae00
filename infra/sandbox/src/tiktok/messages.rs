//! What people write to each other, which webhooks hold and no API reads. Each act fails if what it names is not there, and sends no
//! webhook if the account is not connected to platform B.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    TikTok,
    world::{Talk, World, long_id},
};

/// A message that is written.
#[derive(Debug, Clone)]
pub struct NewMessage {
    kind: &'static str,
    content: Option<Value>,
    answered: Option<String>,
}

impl From<&str> for NewMessage {
    fn from(text: &str) -> Self {
        Self { kind: "text", content: Some(json!({ "body": text })), answered: None }
    }
}

impl NewMessage {
    /// A picture.
    #[must_use]
    pub fn image(media_id: &str) -> Self {
        Self { kind: "image", content: Some(json!({ "media_id": media_id })), answered: None }
    }

    /// A video that is passed on.
    #[must_use]
    pub fn share_post(video: &str) -> Self {
        let embed = format!("https://www.tiktok.com/embed/{video}");
        Self { kind: "share_post", content: Some(json!({ "embed_url": embed, "video_id": video })), answered: None }
    }

    /// A sticker, of which nothing more is shown.
    #[must_use]
    pub fn sticker() -> Self {
        Self { kind: "sticker", content: None, answered: None }
    }

    /// As an answer to this message.
    #[must_use]
    pub fn in_reply_to(mut self, message: &str) -> Self {
        self.answered = Some(message.to_owned());
        self
    }
}

impl World {
    /// The conversation of an account with a person, begun if there is none.
    fn talk(&mut self, open_id: &str, person: &str) -> Result<&mut Talk> {
        self.person(person)?;
        let talks = &mut self.account_mut(open_id)?.talks;
        if !talks.iter().any(|talk| talk.person == person) {
            talks.push(Talk { id: long_id(), person: person.to_owned(), last: 0, begun: false, closed: false });
        }
        talks.iter_mut().find(|talk| talk.person == person).context("a conversation is gone")
    }

    /// What every event of a conversation says: who to whom.
    fn between(&mut self, open_id: &str, person: &str, incoming: bool) -> Result<Value> {
        let conversation = self.talk(open_id, person)?.id.clone();
        let (customer, handle) = (self.person(person)?.username.clone(), self.account_mut(open_id)?.username.clone());
        let them = json!({ "id": person, "role": "personal_account" });
        let us = json!({ "id": open_id, "role": "business_account" });
        let (from, to) = if incoming { ((customer, them), (handle, us)) } else { ((handle, us), (customer, them)) };
        Ok(json!({
            "conversation_id": conversation, "from": from.0, "to": to.0, "from_user": from.1, "to_user": to.1,
            "unique_identifier": person, "timestamp": self.now(),
        }))
    }

    pub(super) fn write(&mut self, open_id: &str, person: &str, new: &NewMessage, incoming: bool) -> Result<String> {
        let (now, id) = (self.now(), long_id());
        let mut content = self.between(open_id, person, incoming)?;
        let talk = self.talk(open_id, person)?;
        talk.last = now;
        talk.begun |= incoming;
        content["message_id"] = json!(id);
        content["type"] = json!(new.kind);
        content["is_follower"] = json!(true);
        if let Some(value) = &new.content {
            content[new.kind] = value.clone();
        }
        if let Some(answered) = &new.answered {
            content["referenced_message_info"] = json!({ "referenced_message_id": answered });
        }
        self.append_business(if incoming { "im_receive_msg" } else { "im_send_msg" }, open_id, content);
        Ok(id)
    }
}

impl TikTok {
    /// A person writes to the account. The message's id.
    pub fn message(&self, open_id: &str, person: &str, message: impl Into<NewMessage>) -> Result<String> {
        let message = message.into();
        self.act(|world| world.write(open_id, person, &message, true))
    }

    /// The account writes to a person, in the app: the webhook is an echo. The message's id.
    pub fn answer(&self, open_id: &str, person: &str, message: impl Into<NewMessage>) -> Result<String> {
        let message = message.into();
        self.act(|world| world.write(open_id, person, &message, false))
    }

    /// The person reads everything that was written so far.
    pub fn mark_read(&self, open_id: &str, person: &str) -> Result<()> {
        self.act(|world| {
            let last = world.talk(open_id, person)?.last;
            let mut content = world.between(open_id, person, true)?;
            // The name of the field is what a public integration reads.
            content["read"] = json!({ "last_read_timestamp": last });
            world.append_business("im_mark_read_msg", open_id, content);
            Ok(())
        })
    }

    /// The conversation of an account with a person.
    #[must_use]
    pub fn conversation(&self, open_id: &str, person: &str) -> Option<String> {
        let world = self.world();
        let found = world.accounts.get(open_id)?.talks.iter().find(|talk| talk.person == person);
        found.map(|talk| talk.id.clone())
    }
}
