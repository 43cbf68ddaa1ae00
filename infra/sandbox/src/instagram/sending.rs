//! What the application writes: messages, private replies, answers to comments; and hiding comments. Each writing is listed by
//! [`Instagram::sent`] and has the webhook that the same act in the app has.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::{
    Instagram,
    messages::NewMessage,
    nodes::Node,
    refusal::Refusal,
    rest::{Asked, COMMENTS, MESSAGES},
    world::{Comment, World},
};
use crate::front::{Sent, SentKind, catch_up};

/// How long after the person's last message the account may write, in milliseconds.
const WINDOW_MS: i64 = 24 * 60 * 60 * 1000;
/// How long after a comment it may be replied to in private, in milliseconds.
const PRIVATE_REPLY_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// The most bytes of a message's text.
const MOST_TEXT: usize = 1000;
/// The most characters of a comment. Not on our provider page: the page on writing comments has it.
const MOST_COMMENT: usize = 300;

/// Why an account's messages are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The account is temporarily restricted from sending: 10, subcode 1893063.
    Restricted,
    /// The person is unavailable: 551.
    Unavailable,
    /// It is blocked by policy: 368.
    Policy,
    /// The owner of the account disabled access to messages: 200, subcode 2534041.
    AccessDisabled,
    /// The person blocked the account: 100, subcode 2534029.
    Blocked,
}

fn object<'a>(body: &'a Map<String, Value>, name: &str, known: &[&str]) -> Result<&'a Map<String, Value>, Refusal> {
    let object = body.get(name).and_then(Value::as_object);
    let object = object.ok_or_else(|| Refusal::parameter(format!("The parameter {name} is required")))?;
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(Refusal::parameter(format!("Invalid keys \"{key}\" were found in param \"{name}\""))),
        None => Ok(object),
    }
}

impl World {
    fn allows(&self, token: &str, scope: &str) -> Result<(), Refusal> {
        let allowed = self.tokens.get(token).is_some_and(|token| token.scopes.contains(scope));
        if allowed { Ok(()) } else { Err(Refusal::permission()) }
    }

    fn note(&mut self, account: &str, id: &str, kind: SentKind, to: &str, text: &str) {
        let sent = Sent { id: id.to_owned(), kind, to: to.to_owned(), text: text.to_owned() };
        self.sent.push((account.to_owned(), sent));
    }

    /// `POST /{account}/messages`. Tags and answers to a message (`reply_to`) are not known here.
    pub(super) fn send(&mut self, account: &str, id: &str, asked: &Asked<'_>) -> Result<Value, Refusal> {
        if !matches!(self.reader(account, asked.token, false)?.node(id), Some(Node::Account)) {
            return Err(Refusal::missing(id));
        }
        self.allows(asked.token, MESSAGES)?;
        asked.query.only(&[])?;
        // The pages show JSON alone, so the sandbox takes nothing else.
        let body = asked.json.as_ref().ok_or_else(|| Refusal::parameter("The body must be a JSON object"))?;
        if let Some(unknown) = body.keys().find(|key| !["recipient", "message"].contains(&key.as_str())) {
            return Err(Refusal::parameter(format!("Invalid parameter {unknown}")));
        }
        let recipient = object(body, "recipient", &["id", "comment_id"])?;
        let text = object(body, "message", &["text"])?.get("text").and_then(Value::as_str).unwrap_or_default();
        if text.is_empty() {
            return Err(Refusal::parameter("The parameter message[text] is required"));
        }
        if text.len() > MOST_TEXT {
            return Err(Refusal::parameter("Length of param message[text] must be less than or equal to 1000"));
        }
        let named = |name: &str| recipient.get(name).and_then(Value::as_str).map(str::to_owned);
        let (person, to, kind) = match (named("id"), named("comment_id")) {
            (Some(person), None) if recipient.len() == 1 => (person.clone(), person, SentKind::Message),
            (None, Some(comment)) if recipient.len() == 1 => {
                self.allows(asked.token, COMMENTS)?;
                (self.commenter(account, asked.token, &comment)?, comment, SentKind::PrivateReply)
            }
            _ => return Err(Refusal::parameter("The parameter recipient must have one of id and comment_id")),
        };
        if let Some(refused) = self.accounts.get(account).and_then(|account| account.refused) {
            return Err(Refusal::refused(refused));
        }
        match kind {
            SentKind::Message => self.within_window(account, &person)?,
            _ => {
                if let Some(comment) = self.comments.get_mut(&to) {
                    comment.replied = true;
                }
            }
        }
        let mid = self.say(account, &person, &NewMessage::from(text)).map_err(|_| Refusal::unknown_person())?;
        self.note(account, &mid, kind, &to, text);
        Ok(json!({ "recipient_id": person, "message_id": mid }))
    }

    /// Whether the person wrote within the last 24 hours. One who never wrote has no id for this account.
    fn within_window(&self, account: &str, person: &str) -> Result<(), Refusal> {
        let talk = self.accounts.get(account).and_then(|account| account.with(person));
        let talk = talk.ok_or_else(Refusal::unknown_person)?;
        let last = talk.messages.iter().filter(|message| !message.from_us).map(|message| message.at).max();
        if last.is_some_and(|at| self.now() - at < WINDOW_MS) { Ok(()) } else { Err(Refusal::window()) }
    }

    /// Who wrote a comment that can be replied to in private.
    fn commenter(&self, account: &str, token: &str, id: &str) -> Result<String, Refusal> {
        let comment = self.own_medium(account, token, id)?;
        if comment.author == account {
            return Err(Refusal::unknown_person());
        }
        // Neither code is on our provider page.
        if comment.replied {
            return Err(Refusal::replied());
        }
        if self.now() - comment.at >= PRIVATE_REPLY_MS {
            return Err(Refusal::window());
        }
        Ok(comment.author.clone())
    }

    /// A comment on a medium of the account.
    fn own_medium(&self, account: &str, token: &str, id: &str) -> Result<&Comment, Refusal> {
        let reader = self.reader(account, token, false)?;
        let found = matches!(reader.node(id), Some(Node::Comment(comment)) if comment.mentions.is_none());
        self.comments.get(id).filter(|_| found).ok_or_else(|| Refusal::missing(id))
    }

    /// `POST /{comment}/replies`.
    pub(super) fn reply(&mut self, account: &str, id: &str, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let media = self.own_medium(account, asked.token, id)?.media.clone();
        self.allows(asked.token, COMMENTS)?;
        asked.query.only(&[&["message"]])?;
        let text = asked.query.required("message")?;
        if text.chars().count() > MOST_COMMENT {
            return Err(Refusal::parameter(format!("The comment must have at most {MOST_COMMENT} characters")));
        }
        let username = self.accounts.get(account).map(|account| account.username.clone()).unwrap_or_default();
        let reply = self.add_comment(&media, (account, &username), text, Some(id), None);
        let reply = reply.map_err(|_| Refusal::missing(id))?;
        self.note(account, &reply, SentKind::Reply, id, text);
        Ok(json!({ "id": reply }))
    }

    /// `POST /{comment}?hide=`. The account's own comments are shown all the same.
    pub(super) fn hide(&mut self, account: &str, id: &str, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let own = self.own_medium(account, asked.token, id)?.author == account;
        self.allows(asked.token, COMMENTS)?;
        asked.query.only(&[&["hide"]])?;
        let hidden = match asked.query.required("hide")? {
            "true" => true,
            "false" => false,
            _ => return Err(Refusal::parameter("The parameter hide must be a boolean")),
        };
        if let Some(comment) = self.comments.get_mut(id).filter(|_| !own) {
            comment.hidden = hidden;
        }
        Ok(json!({ "success": true }))
    }
}

/// What the application sends.
impl Instagram {
    /// What was sent for this account through the API, in order: messages, private replies, and answers to comments.
    #[must_use]
    pub fn sent(&self, account: &str) -> Vec<Sent> {
        catch_up(self);
        self.world().sent.iter().filter(|(of, _)| of == account).map(|(_, sent)| sent.clone()).collect()
    }

    /// Refuses the account's messages for this reason, or, without one, no more.
    pub fn refuse_sending(&self, account: &str, why: Option<Refused>) -> Result<()> {
        let mut world = self.world();
        world.accounts.get_mut(account).with_context(|| format!("there is no account {account}"))?.refused = why;
        Ok(())
    }

    /// Whether a comment is hidden.
    pub fn is_hidden(&self, comment: &str) -> Result<bool> {
        catch_up(self);
        Ok(self.world().comments.get(comment).with_context(|| format!("there is no comment {comment}"))?.hidden)
    }
}
