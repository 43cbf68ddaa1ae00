//! The world: accounts, people, media with comments, and conversations.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::NaiveDate;
use serde_json::Value;

use super::{
    events::{Event, Flavour, What},
    limit::Limits,
    oauth::{App, Code},
    sending::Refused,
};
use crate::{Sent, clock::Clock, hooks::Outbox};

/// Everything an account can be subscribed to here.
pub(super) const WEBHOOK_FIELDS: [&str; 14] = [
    "comments",
    "live_comments",
    "mentions",
    "messages",
    "message_edit",
    "message_reactions",
    "messaging_postbacks",
    "messaging_referral",
    "messaging_seen",
    "messaging_optins",
    "messaging_handover",
    "standby",
    "story_insights",
    "message_echoes",
];

/// What a person may allow.
pub(super) const SCOPES: [&str; 5] = [
    "instagram_business_basic",
    "instagram_business_manage_messages",
    "instagram_business_manage_comments",
    "instagram_business_content_publish",
    "instagram_business_manage_insights",
];

/// What a medium is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaKind {
    /// A picture in the feed.
    Image,
    /// A film in the feed.
    Video,
    /// Several pictures in the feed.
    Carousel,
    /// A reel.
    Reel,
    /// A story, which lists of media do not show.
    Story,
}

impl MediaKind {
    /// `media_type`.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Image | Self::Story => "IMAGE",
            Self::Video | Self::Reel => "VIDEO",
            Self::Carousel => "CAROUSEL_ALBUM",
        }
    }

    /// `media_product_type`.
    pub(super) fn product(self) -> &'static str {
        match self {
            Self::Image | Self::Video | Self::Carousel => "FEED",
            Self::Reel => "REELS",
            Self::Story => "STORY",
        }
    }
}

#[derive(Debug)]
pub(super) struct Account {
    /// `user_id`, which webhooks name.
    pub(super) id: String,
    /// `id`, which is the application's own.
    pub(super) scoped_id: String,
    pub(super) username: String,
    pub(super) name: String,
    pub(super) followers: i64,
    pub(super) follows: i64,
    /// Those that are shown in lists, the oldest first.
    pub(super) media: Vec<String>,
    pub(super) conversations: Vec<Conversation>,
    pub(super) subscribed: BTreeSet<String>,
    /// Why its messages are refused.
    pub(super) refused: Option<Refused>,
    pub(super) figures: BTreeMap<(String, NaiveDate), i64>,
}

#[derive(Debug)]
pub(super) struct Person {
    pub(super) username: String,
    pub(super) name: Option<String>,
}

#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) id: String,
    pub(super) person: String,
    /// The oldest first.
    pub(super) messages: Vec<Message>,
    /// Whether it is in the request folder.
    pub(super) request: bool,
    /// When something last happened, and the how manieth happening of the world that was.
    pub(super) updated: (i64, u64),
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) id: String,
    pub(super) at: i64,
    pub(super) from_us: bool,
    pub(super) text: Option<String>,
    /// As webhooks write them.
    pub(super) attachments: Vec<Value>,
    pub(super) reply_to: Option<Value>,
    pub(super) unsupported: bool,
    pub(super) deleted: bool,
    pub(super) edits: i64,
    /// The emoji, if the other one reacted.
    pub(super) reaction: Option<String>,
}

#[derive(Debug)]
pub(super) struct Media {
    pub(super) id: String,
    /// An account; none for a medium of an account that is not here.
    pub(super) owner: Option<String>,
    pub(super) kind: MediaKind,
    pub(super) caption: Option<String>,
    pub(super) at: i64,
    pub(super) deleted: bool,
    pub(super) likes: i64,
    pub(super) figures: BTreeMap<String, i64>,
    pub(super) few_viewers: bool,
    /// Metrics that it does not have, which fail every call that names one.
    pub(super) refused_metrics: BTreeSet<String>,
    /// Whether lists leave it out all the same.
    pub(super) unlisted: bool,
    /// All comments, the oldest first, replies among them.
    pub(super) comments: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Comment {
    pub(super) id: String,
    pub(super) media: String,
    /// Who wrote it: an IGSID, or an account's id.
    pub(super) author: String,
    pub(super) username: String,
    pub(super) text: String,
    pub(super) at: i64,
    pub(super) likes: i64,
    /// The comment it answers, which is never an answer itself.
    pub(super) parent: Option<String>,
    pub(super) hidden: bool,
    pub(super) deleted: bool,
    /// Whether it was replied to in private.
    pub(super) replied: bool,
    /// The account that it mentions on another account's medium.
    pub(super) mentions: Option<String>,
}

#[derive(Debug)]
pub(super) struct Token {
    pub(super) account: String,
    /// Whether it is for 60 days, and not for an hour.
    pub(super) long_lived: bool,
    pub(super) given: i64,
    pub(super) expires: i64,
    pub(super) revoked: Option<i64>,
    pub(super) scopes: BTreeSet<String>,
}

pub(super) struct World {
    pub(super) clock: Clock,
    pub(super) app: App,
    pub(super) flavour: Flavour,
    /// Where the API is, version included.
    pub(super) url: String,
    pub(super) accounts: BTreeMap<String, Account>,
    pub(super) people: BTreeMap<String, Person>,
    pub(super) media: BTreeMap<String, Media>,
    pub(super) comments: BTreeMap<String, Comment>,
    pub(super) tokens: HashMap<String, Token>,
    pub(super) codes: HashMap<String, Code>,
    /// What was sent, and for which account.
    pub(super) sent: Vec<(String, Sent)>,
    pub(super) limits: Limits,
    pub(super) outbox: Outbox<Event>,
    /// Metrics that every call fails with, and the code.
    pub(super) broken_metrics: BTreeMap<String, i64>,
    /// How many of the next pages are empty.
    pub(super) empty_pages: usize,
    /// How many happenings there were.
    pub(super) happenings: u64,
}

impl World {
    pub(super) fn now(&self) -> i64 {
        self.clock.now()
    }

    /// Appends an event, if the account is subscribed to its field.
    pub(super) fn append(&mut self, account: &str, field: &str, what: What) {
        let at = self.now();
        let subscribed = self.accounts.get(account).is_some_and(|account| account.subscribed.contains(field));
        if subscribed {
            self.outbox.push(Event { account: account.to_owned(), at, what });
        }
    }

    pub(super) fn happening(&mut self) -> u64 {
        self.happenings += 1;
        self.happenings
    }
}

impl Account {
    pub(super) fn conversation(&self, id: &str) -> Option<&Conversation> {
        self.conversations.iter().find(|conversation| conversation.id == id)
    }

    pub(super) fn with(&self, person: &str) -> Option<&Conversation> {
        self.conversations.iter().find(|conversation| conversation.person == person)
    }
}

/// An id of 17 digits, which no double holds.
pub(super) fn new_id(prefix: &str) -> String {
    let digits = 17 - prefix.len();
    let below = 10_u64.pow(u32::try_from(digits).unwrap_or(1));
    format!("{prefix}{:0digits$}", rand::random_range(0..below))
}

/// A long id, as those of messages and conversations are.
pub(super) fn long_id(of: &str) -> String {
    format!("aWdf{}ZD", URL_SAFE_NO_PAD.encode(format!("{of}:{:032x}", rand::random::<u128>())))
}
