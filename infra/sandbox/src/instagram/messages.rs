//! What people write to each other. Each act fails if what it names is not there.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Instagram,
    events::{What, messaging},
    world::{Conversation, Message, World, long_id},
};

/// A message that is written.
#[derive(Debug, Clone, Default)]
pub struct NewMessage {
    text: Option<String>,
    attachments: Vec<Value>,
    reply_to: Option<Value>,
    referral: Option<Value>,
    quick_reply: Option<String>,
    unsupported: bool,
}

impl From<&str> for NewMessage {
    fn from(text: &str) -> Self {
        Self { text: Some(text.to_owned()), ..Self::default() }
    }
}

impl NewMessage {
    /// An attachment alone: `image`, `video`, `audio`, `file`, `ig_post`, `ig_reel`, `reel`, `story_mention`, …
    #[must_use]
    pub fn attachment(kind: &str, url: &str) -> Self {
        Self::default().and_attachment(kind, url)
    }

    /// With an attachment more.
    #[must_use]
    pub fn and_attachment(mut self, kind: &str, url: &str) -> Self {
        self.attachments.push(json!({ "type": kind, "payload": { "url": url } }));
        self
    }

    /// Something that the API cannot show.
    #[must_use]
    pub fn unsupported() -> Self {
        Self { unsupported: true, ..Self::default() }
    }

    /// As an answer to this message.
    #[must_use]
    pub fn in_reply_to(mut self, mid: &str) -> Self {
        self.reply_to = Some(json!({ "mid": mid }));
        self
    }

    /// As an answer to a story.
    #[must_use]
    pub fn in_reply_to_story(mut self, id: &str, url: &str) -> Self {
        self.reply_to = Some(json!({ "story": { "id": id, "url": url } }));
        self
    }

    /// After a click on an advertisement.
    #[must_use]
    pub fn from_ad(mut self, reference: &str, ad: &str) -> Self {
        let context = json!({ "ad_title": "Annons", "photo_url": "https://cdn.example/ad.jpg" });
        self.referral = Some(json!({
            "ref": reference, "ad_id": ad, "source": "ADS", "type": "OPEN_THREAD", "ads_context_data": context,
        }));
        self
    }

    /// By tapping a quick reply.
    #[must_use]
    pub fn quick_reply(mut self, payload: &str) -> Self {
        self.quick_reply = Some(payload.to_owned());
        self
    }

    /// `message`, as webhooks write it.
    fn content(&self, mid: &str) -> Value {
        let mut message = json!({ "mid": mid });
        let fields = [
            ("text", self.text.as_ref().map(|text| json!(text))),
            ("attachments", Some(json!(self.attachments)).filter(|_| !self.attachments.is_empty())),
            ("reply_to", self.reply_to.clone()),
            ("referral", self.referral.clone()),
            ("quick_reply", self.quick_reply.as_ref().map(|payload| json!({ "payload": payload }))),
            ("is_unsupported", self.unsupported.then_some(json!(true))),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                message[name] = value;
            }
        }
        message
    }
}

impl World {
    /// Keeps a message, in a conversation that is begun if there is none. Its id.
    fn keep(&mut self, account: &str, person: &str, from_us: bool, new: &NewMessage) -> Result<String> {
        ensure!(self.people.contains_key(person), "there is no person {person}");
        let (at, updated) = (self.now(), self.happening());
        let known = self.accounts.get_mut(account).with_context(|| format!("there is no account {account}"))?;
        if known.with(person).is_none() {
            known.conversations.push(Conversation {
                id: long_id(&format!("ig_dm:{account}")),
                person: person.to_owned(),
                messages: Vec::new(),
                request: false,
                updated: (at, updated),
            });
        }
        let id = long_id(&format!("ig_dm_item:{account}"));
        let message = Message {
            id: id.clone(),
            at,
            from_us,
            text: new.text.clone(),
            attachments: new.attachments.clone(),
            reply_to: new.reply_to.clone(),
            unsupported: new.unsupported,
            deleted: false,
            edits: 0,
            reaction: None,
        };
        if let Some(conversation) = known.conversations.iter_mut().find(|conversation| conversation.person == person) {
            conversation.messages.push(message);
            conversation.updated = (at, updated);
        }
        Ok(id)
    }

    /// The account writes to a person, which has an echo. The message's id.
    pub(super) fn say(&mut self, account: &str, person: &str, new: &NewMessage) -> Result<String> {
        let mid = self.keep(account, person, true, new)?;
        let mut content = new.content(&mid);
        content["is_echo"] = json!(true);
        let echo = messaging(account, person, self.now(), json!({ "message": content }));
        self.append(account, "messages", What::Messaging(echo));
        Ok(mid)
    }

    fn by_person(&mut self, account: &str, person: &str, field: &str, content: Value) {
        let at = self.now();
        self.append(account, field, What::Messaging(messaging(person, account, at, content)));
    }

    /// A message that is not deleted, whose account, whose person.
    fn message_mut(&mut self, mid: &str) -> Result<(String, String, &mut Message)> {
        for account in self.accounts.values_mut() {
            for conversation in &mut account.conversations {
                let found = conversation.messages.iter_mut().find(|message| message.id == mid && !message.deleted);
                if let Some(message) = found {
                    return Ok((account.id.clone(), conversation.person.clone(), message));
                }
            }
        }
        anyhow::bail!("there is no message {mid}")
    }
}

impl Instagram {
    fn act<T>(&self, change: impl FnOnce(&mut World) -> Result<T>) -> Result<T> {
        let done = change(&mut self.world());
        self.hooks.changed.notify_one();
        done
    }

    /// A person writes to the account. The message's id.
    pub fn message(&self, account: &str, person: &str, message: impl Into<NewMessage>) -> Result<String> {
        let message = message.into();
        self.act(|world| {
            let mid = world.keep(account, person, false, &message)?;
            world.by_person(account, person, "messages", json!({ "message": message.content(&mid) }));
            Ok(mid)
        })
    }

    /// The account writes to a person, in the app: the webhook is an echo. The message's id.
    pub fn answer(&self, account: &str, person: &str, message: impl Into<NewMessage>) -> Result<String> {
        let message = message.into();
        self.act(|world| world.say(account, person, &message))
    }

    /// The person edits a message.
    pub fn edit_message(&self, mid: &str, text: &str) -> Result<()> {
        self.act(|world| {
            let (account, person, message) = world.message_mut(mid)?;
            ensure!(!message.from_us, "the account's own messages are not edited here");
            message.text = Some(text.to_owned());
            message.edits += 1;
            let edit = json!({ "message_edit": { "mid": mid, "text": text, "num_edit": message.edits } });
            world.by_person(&account, &person, "message_edit", edit);
            Ok(())
        })
    }

    /// Who wrote a message takes it back.
    pub fn unsend(&self, mid: &str) -> Result<()> {
        self.act(|world| {
            let (account, person, message) = world.message_mut(mid)?;
            message.deleted = true;
            let from_us = message.from_us;
            let at = world.now();
            let mut content = json!({ "mid": mid, "is_deleted": true });
            let content = if from_us {
                content["is_echo"] = json!(true);
                messaging(&account, &person, at, json!({ "message": content }))
            } else {
                messaging(&person, &account, at, json!({ "message": content }))
            };
            world.append(&account, "messages", What::Messaging(content));
            Ok(())
        })
    }

    /// The person reacts to a message, or, without an emoji, no more.
    pub fn react(&self, mid: &str, emoji: Option<&str>) -> Result<()> {
        self.act(|world| {
            let (account, person, message) = world.message_mut(mid)?;
            message.reaction = emoji.map(str::to_owned);
            let reaction = match emoji {
                Some(emoji) => {
                    let name = if emoji == "❤" { "love" } else { "other" };
                    json!({ "mid": mid, "action": "react", "reaction": name, "emoji": emoji })
                }
                None => json!({ "mid": mid, "action": "unreact" }),
            };
            world.by_person(&account, &person, "message_reactions", json!({ "reaction": reaction }));
            Ok(())
        })
    }

    /// The person sees a message of the account.
    pub fn seen(&self, mid: &str) -> Result<()> {
        self.act(|world| {
            let (account, person, _) = world.message_mut(mid)?;
            world.by_person(&account, &person, "messaging_seen", json!({ "read": { "mid": mid } }));
            Ok(())
        })
    }

    /// The person taps a button, which is a message that says its title. The message's id.
    pub fn postback(&self, account: &str, person: &str, title: &str, payload: &str) -> Result<String> {
        self.act(|world| {
            let mid = world.keep(account, person, false, &NewMessage::from(title))?;
            let postback = json!({ "postback": { "mid": mid, "title": title, "payload": payload } });
            world.by_person(account, person, "messaging_postbacks", postback);
            Ok(mid)
        })
    }

    /// The person comes back to a conversation by a link, and writes nothing.
    pub fn referral(&self, account: &str, person: &str, reference: &str) -> Result<()> {
        self.act(|world| {
            let known = world.accounts.get(account).with_context(|| format!("there is no account {account}"))?;
            known.with(person).with_context(|| format!("{person} has not written"))?;
            let referral =
                json!({ "referral": { "ref": reference, "source": "IGME-SOURCE-LINK", "type": "OPEN_THREAD" } });
            world.by_person(account, person, "messaging_referral", referral);
            Ok(())
        })
    }

    /// The id of the conversation with a person.
    #[must_use]
    pub fn conversation(&self, account: &str, person: &str) -> Option<String> {
        self.world().accounts.get(account)?.with(person).map(|conversation| conversation.id.clone())
    }

    /// Whether the conversation with a person is in the request folder, whose threads are not listed after 30 days of silence.
    pub fn set_request(&self, account: &str, person: &str, request: bool) -> Result<()> {
        let mut world = self.world();
        let known = world.accounts.get_mut(account).with_context(|| format!("there is no account {account}"))?;
        let found = known.conversations.iter_mut().find(|conversation| conversation.person == person);
        found.with_context(|| format!("{person} has not written"))?.request = request;
        Ok(())
    }
}
