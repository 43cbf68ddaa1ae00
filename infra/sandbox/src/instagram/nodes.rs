//! What the API shows of each object, and the lists below them.

use serde_json::{Value, json};

use super::{
    fields::{Field, object, written},
    pages::Asked,
    params::{self, Query},
    refusal::Refusal,
    stamp,
    world::{Account, Comment, Conversation, Media, MediaKind, Message, World},
};

/// How many messages of a conversation can be read.
const READABLE: usize = 20;
/// How long a thread in the request folder is listed, in milliseconds.
const REQUESTS_LISTED: i64 = 30 * 24 * 60 * 60 * 1000;

const PROFILE: [&str; 9] = [
    "id",
    "user_id",
    "username",
    "name",
    "account_type",
    "profile_picture_url",
    "followers_count",
    "follows_count",
    "media_count",
];
const MEDIA: [&str; 11] = [
    "id",
    "caption",
    "media_type",
    "media_product_type",
    "media_url",
    "permalink",
    "thumbnail_url",
    "timestamp",
    "username",
    "like_count",
    "comments_count",
];
const COMMENT: [&str; 10] =
    ["id", "text", "username", "timestamp", "like_count", "parent_id", "hidden", "from", "media", "replies"];
const CONVERSATION: [&str; 4] = ["id", "updated_time", "participants", "messages"];
const MESSAGE: [&str; 11] = [
    "id",
    "created_time",
    "from",
    "to",
    "message",
    "attachments",
    "shares",
    "story",
    "reactions",
    "is_unsupported",
    "reply_to",
];
const PERSON: [&str; 8] = [
    "id",
    "name",
    "username",
    "profile_pic",
    "follower_count",
    "is_verified_user",
    "is_user_follow_business",
    "is_business_follow_user",
];

/// One request's view of the world.
pub(super) struct Reader<'a> {
    pub(super) world: &'a World,
    pub(super) account: &'a Account,
    pub(super) token: &'a str,
    pub(super) now: i64,
    pub(super) empty: bool,
}

/// An object that a path names.
pub(super) enum Node<'a> {
    Account,
    Media(&'a Media),
    Comment(&'a Comment),
    Conversation(&'a Conversation),
    Message(&'a Conversation, &'a Message),
    Person(&'a str),
}

impl<'a> Reader<'a> {
    /// What an id stands for, for this account.
    pub(super) fn node(&self, id: &'a str) -> Option<Node<'a>> {
        let account = self.account;
        if id == "me" || id == account.id || id == account.scoped_id {
            return Some(Node::Account);
        }
        let owned = |media: &&Media| media.owner.as_deref() == Some(&account.id) && !media.deleted;
        if let Some(media) = self.world.media.get(id) {
            return Some(media).filter(owned).map(Node::Media);
        }
        if let Some(comment) = self.world.comments.get(id) {
            let ours = self.world.media.get(&comment.media).is_some_and(|media| owned(&media));
            let named = comment.mentions.as_deref() == Some(&account.id);
            return Some(comment).filter(|comment| !comment.deleted && (ours || named)).map(Node::Comment);
        }
        if let Some(conversation) = account.conversation(id) {
            return Some(Node::Conversation(conversation));
        }
        for conversation in &account.conversations {
            if let Some(message) = conversation.messages.iter().find(|message| message.id == id) {
                let readable = Self::readable(conversation, message);
                return Some(message).filter(|_| readable).map(|message| Node::Message(conversation, message));
            }
        }
        self.world.people.contains_key(id).then_some(Node::Person(id))
    }

    fn list(&self, edge: &str, query: &Query, limit: usize, after: Option<&str>) -> Asked<'a> {
        Asked {
            url: &self.world.url,
            edge: edge.to_owned(),
            query: query.clone(),
            token: self.token,
            limit,
            after: after.map(str::to_owned),
            empty: self.empty,
        }
    }

    /// A list by its own path.
    pub(super) fn edge(&self, edge: &str, query: &Query) -> Result<Asked<'a>, Refusal> {
        Ok(self.list(edge, query, query.limit()?, query.get("after")))
    }

    /// A list within an object, and the fields that are asked for in it.
    fn within(&self, edge: &str, field: &Field, otherwise: &[&str]) -> Result<(Asked<'a>, Vec<Field>), Refusal> {
        let fields = if field.sub.is_empty() { Field::plains(otherwise) } else { field.sub.clone() };
        let limit = params::limit(field.limit.unwrap_or(25))?;
        let query = Query::parse(&format!("fields={}&limit={limit}", written(&fields)));
        Ok((self.list(edge, &query, limit, field.after.as_deref()), fields))
    }

    pub(super) fn profile(&self, fields: &[Field]) -> Result<Value, Refusal> {
        let account = self.account;
        let shown = account.media.iter().filter(|id| self.world.media.get(*id).is_some_and(|media| !media.deleted));
        object("IGUser", &PROFILE, fields, |field| {
            Ok(Some(match field.name.as_str() {
                "user_id" => json!(account.id),
                "username" => json!(account.username),
                "name" => json!(account.name),
                "account_type" => json!("BUSINESS"),
                "profile_picture_url" => json!(format!("https://cdn.example/{}.jpg?oe=1", account.id)),
                "followers_count" => json!(account.followers),
                "follows_count" => json!(account.follows),
                "media_count" => json!(shown.clone().count()),
                _ => json!(account.scoped_id),
            }))
        })
    }

    pub(super) fn media(&self, media: &Media, fields: &[Field]) -> Result<Value, Refusal> {
        let comments = media.comments.iter().filter_map(|id| self.world.comments.get(id));
        let film = matches!(media.kind, MediaKind::Video | MediaKind::Reel);
        object("IGMedia", &MEDIA, fields, |field| {
            Ok(match field.name.as_str() {
                "caption" => media.caption.as_ref().map(|caption| json!(caption)),
                "media_type" => Some(json!(media.kind.media_type())),
                "media_product_type" => Some(json!(media.kind.product())),
                "media_url" => Some(json!(format!("https://cdn.example/{}?oe=1", media.id))),
                "permalink" => Some(json!(format!("https://www.instagram.com/p/{}/", media.id))),
                "thumbnail_url" => film.then(|| json!(format!("https://cdn.example/{}.jpg?oe=1", media.id))),
                "timestamp" => Some(json!(stamp(media.at))),
                "username" => Some(json!(self.account.username)),
                "like_count" => Some(json!(media.likes)),
                "comments_count" => Some(json!(comments.clone().filter(|comment| !comment.deleted).count())),
                _ => Some(json!(media.id)),
            })
        })
    }

    /// The account's media, the newest first, without stories.
    pub(super) fn all_media(&self, query: &Query) -> Result<Value, Refusal> {
        let fields = query.fields(&["id"])?;
        // Fields are looked at even if there is nothing to show.
        object("IGMedia", &MEDIA, &fields, |_| Ok(None))?;
        let rows: Vec<&Media> = self.account.media.iter().rev().filter_map(|id| self.world.media.get(id)).collect();
        self.edge(&format!("{}/media", self.account.id), query)?.page(&rows, |media| {
            if media.deleted || media.unlisted { Ok(None) } else { self.media(media, &fields).map(Some) }
        })
    }

    pub(super) fn comment(&self, comment: &Comment, fields: &[Field]) -> Result<Value, Refusal> {
        object("IGComment", &COMMENT, fields, |field| {
            Ok(match field.name.as_str() {
                "text" => Some(json!(comment.text)),
                "username" => Some(json!(comment.username)),
                "timestamp" => Some(json!(stamp(comment.at))),
                "like_count" => Some(json!(comment.likes)),
                "parent_id" => comment.parent.as_ref().map(|parent| json!(parent)),
                "hidden" => Some(json!(comment.hidden)),
                "from" => Some(json!({ "id": comment.author, "username": comment.username })),
                "media" => Some(json!({ "id": comment.media })),
                "replies" => {
                    let (asked, fields) =
                        self.within(&format!("{}/replies", comment.id), field, &["id", "text", "timestamp"])?;
                    let replies = self.replies_of(comment);
                    if replies.iter().all(|reply| reply.deleted) {
                        return Ok(None);
                    }
                    Some(self.comments(&asked, &replies, &fields)?)
                }
                _ => Some(json!(comment.id)),
            })
        })
    }

    fn replies_of(&self, comment: &Comment) -> Vec<&'a Comment> {
        let on = self.world.media.get(&comment.media).map_or(&[][..], |media| &media.comments);
        let all = on.iter().rev().filter_map(|id| self.world.comments.get(id));
        all.filter(|reply| reply.parent.as_deref() == Some(&comment.id)).collect()
    }

    fn comments(&self, asked: &Asked<'_>, rows: &[&Comment], fields: &[Field]) -> Result<Value, Refusal> {
        object("IGComment", &COMMENT, fields, |_| Ok(None))?;
        asked.page(rows, |comment| if comment.deleted { Ok(None) } else { self.comment(comment, fields).map(Some) })
    }

    /// The comments of a medium that answer no other, the newest first.
    pub(super) fn comments_of(&self, media: &Media, query: &Query) -> Result<Value, Refusal> {
        let fields = query.fields(&["id", "text", "timestamp"])?;
        let all = media.comments.iter().rev().filter_map(|id| self.world.comments.get(id));
        let rows: Vec<&Comment> = all.filter(|comment| comment.parent.is_none()).collect();
        self.comments(&self.edge(&format!("{}/comments", media.id), query)?, &rows, &fields)
    }

    /// The answers to a comment, the newest first.
    pub(super) fn replies(&self, comment: &Comment, query: &Query) -> Result<Value, Refusal> {
        let fields = query.fields(&["id", "text", "timestamp"])?;
        let asked = self.edge(&format!("{}/replies", comment.id), query)?;
        self.comments(&asked, &self.replies_of(comment), &fields)
    }

    fn readable(conversation: &Conversation, message: &Message) -> bool {
        let newest = conversation.messages.iter().rev().filter(|message| !message.deleted).take(READABLE);
        newest.into_iter().any(|newest| newest.id == message.id)
    }

    fn us(&self) -> Value {
        json!({ "id": self.account.id, "username": self.account.username })
    }

    fn them(&self, person: &str) -> Value {
        let username = self.world.people.get(person).map(|person| person.username.as_str());
        json!({ "id": person, "username": username.unwrap_or_default() })
    }

    pub(super) fn conversation(&self, conversation: &Conversation, fields: &[Field]) -> Result<Value, Refusal> {
        object("IGConversation", &CONVERSATION, fields, |field| {
            Ok(Some(match field.name.as_str() {
                "updated_time" => json!(stamp(conversation.updated.0)),
                "participants" => json!({ "data": [self.us(), self.them(&conversation.person)] }),
                "messages" => {
                    let (asked, fields) =
                        self.within(&format!("{}/messages", conversation.id), field, &["id", "created_time"])?;
                    self.messages(&asked, conversation, &fields)?
                }
                _ => json!(conversation.id),
            }))
        })
    }

    /// The account's conversations, that with the newest message first, and those that are asked for alone.
    pub(super) fn conversations(&self, query: &Query) -> Result<Value, Refusal> {
        if query.required("platform")? != "instagram" {
            return Err(Refusal::parameter("The parameter platform must be instagram"));
        }
        let fields = query.fields(&["id", "updated_time"])?;
        object("IGConversation", &CONVERSATION, &fields, |_| Ok(None))?;
        let mut rows: Vec<&Conversation> = self.account.conversations.iter().collect();
        rows.retain(|row| query.get("user_id").is_none_or(|person| row.person == person));
        rows.retain(|row| !row.request || self.now - row.updated.0 <= REQUESTS_LISTED);
        rows.sort_by_key(|row| std::cmp::Reverse(row.updated.1));
        self.edge(&format!("{}/conversations", self.account.id), query)?
            .page(&rows, |row| self.conversation(row, &fields).map(Some))
    }

    /// The messages of a conversation, the newest first. Those that cannot be read any more have ids and times alone.
    fn messages(&self, asked: &Asked<'_>, conversation: &Conversation, fields: &[Field]) -> Result<Value, Refusal> {
        object("IGMessage", &MESSAGE, fields, |_| Ok(None))?;
        let known = Field::plains(&["id", "created_time"]);
        let rows: Vec<&Message> = conversation.messages.iter().rev().collect();
        asked.page(&rows, |message| {
            if message.deleted {
                return Ok(None);
            }
            let readable = Self::readable(conversation, message);
            self.message(conversation, message, if readable { fields } else { &known }).map(Some)
        })
    }

    pub(super) fn messages_of(&self, conversation: &Conversation, query: &Query) -> Result<Value, Refusal> {
        let fields = query.fields(&["id", "created_time"])?;
        self.messages(&self.edge(&format!("{}/messages", conversation.id), query)?, conversation, &fields)
    }

    pub(super) fn message(
        &self,
        conversation: &Conversation,
        message: &Message,
        fields: &[Field],
    ) -> Result<Value, Refusal> {
        let (us, them) = (self.us(), self.them(&conversation.person));
        let (from, to) = if message.from_us { (us, them) } else { (them, us) };
        object("IGMessage", &MESSAGE, fields, |field| {
            let of_kind = |shared: bool| {
                let kept = message.attachments.iter().filter(move |attachment| is_share(attachment) == shared);
                kept.collect::<Vec<_>>()
            };
            Ok(match field.name.as_str() {
                "created_time" => Some(json!(stamp(message.at))),
                "from" => Some(from.clone()),
                "to" => Some(json!({ "data": [to] })),
                // What says nothing has an empty text here, and none in webhooks.
                "message" => Some(json!(message.text.as_deref().unwrap_or_default())),
                "attachments" => list(of_kind(false), attachment),
                "shares" => list(of_kind(true), |share| json!({ "link": share["payload"]["url"] })),
                "story" => message
                    .reply_to
                    .as_ref()
                    .and_then(|reply| reply.get("story"))
                    .map(|story| json!({ "reply_to": { "link": story["url"], "id": story["id"] } })),
                "reactions" => message.reaction.as_ref().map(
                    |emoji| json!({ "data": [{ "reaction": emoji, "users": [self.them(&conversation.person)] }] }),
                ),
                "is_unsupported" => message.unsupported.then_some(json!(true)),
                "reply_to" => message.reply_to.as_ref().filter(|reply| reply.get("mid").is_some()).cloned(),
                _ => Some(json!(message.id)),
            })
        })
    }

    /// A person, once they have written.
    pub(super) fn person(&self, id: &str, fields: &[Field]) -> Result<Value, Refusal> {
        let written = self.account.with(id).is_some_and(|talk| talk.messages.iter().any(|message| !message.from_us));
        let person = self.world.people.get(id).filter(|_| written).ok_or_else(Refusal::consent)?;
        object("IGBusinessScopedUser", &PERSON, fields, |field| {
            Ok(match field.name.as_str() {
                "name" => person.name.as_ref().map(|name| json!(name)),
                "username" => Some(json!(person.username)),
                "profile_pic" => Some(json!(format!("https://cdn.example/{id}.jpg?oe=1"))),
                "follower_count" => Some(json!(42)),
                "is_verified_user" | "is_business_follow_user" => Some(json!(false)),
                "is_user_follow_business" => Some(json!(true)),
                _ => Some(json!(id)),
            })
        })
    }

    /// One object.
    pub(super) fn object(&self, node: &Node<'_>, query: &Query) -> Result<Value, Refusal> {
        match node {
            Node::Account => self.profile(&query.fields(&["id"])?),
            Node::Media(media) => self.media(media, &query.fields(&["id"])?),
            Node::Comment(comment) => self.comment(comment, &query.fields(&["id", "text", "timestamp"])?),
            Node::Conversation(talk) => self.conversation(talk, &query.fields(&["id", "updated_time"])?),
            Node::Message(talk, message) => self.message(talk, message, &query.fields(&["id", "created_time"])?),
            Node::Person(id) => self.person(id, &query.fields(&["id", "name"])?),
        }
    }
}

fn kind(attachment: &Value) -> &str {
    attachment["type"].as_str().unwrap_or_default()
}

fn is_share(attachment: &Value) -> bool {
    matches!(kind(attachment), "share" | "ig_post" | "ig_reel" | "reel" | "story_mention")
}

fn list(rows: Vec<&Value>, render: impl Fn(&Value) -> Value) -> Option<Value> {
    (!rows.is_empty()).then(|| json!({ "data": rows.into_iter().map(render).collect::<Vec<_>>() }))
}

fn attachment(attachment: &Value) -> Value {
    let url = &attachment["payload"]["url"];
    match kind(attachment) {
        "image" => json!({ "image_data": { "url": url, "preview_url": url } }),
        "video" => json!({ "video_data": { "url": url, "preview_url": url } }),
        _ => json!({ "file_url": url }),
    }
}
