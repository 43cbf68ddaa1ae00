//! The world: accounts, people, videos with comments, and conversations.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::NaiveDate;
use serde_json::Value;
use url::Url;

use super::{
    events::Event,
    oauth::{App, Code, Refresh},
    refusal::Refusal,
};
use crate::{Sent, clock::Clock, hooks::Outbox};

/// One of the two platforms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Platform {
    /// A: TikTok for Developers, the Display API.
    Display,
    /// B: the TikTok API for Business.
    Business,
}

impl Platform {
    /// What a person may allow.
    pub(super) fn scopes(self) -> &'static [&'static str] {
        match self {
            Self::Display => &["user.info.basic", "user.info.profile", "user.info.stats", "video.list"],
            Self::Business => &[
                "user.info.basic",
                "user.info.username",
                "user.info.stats",
                "user.info.profile",
                "user.account.type",
                "user.insights",
                "video.list",
                "video.insights",
                "comment.list",
                "comment.list.manage",
                "message.list.read",
                "message.list.send",
                "message.list.manage",
            ],
        }
    }
}

#[derive(Debug)]
pub(super) struct Account {
    pub(super) open_id: String,
    pub(super) username: String,
    pub(super) display_name: String,
    pub(super) followers: i64,
    /// The oldest first.
    pub(super) videos: Vec<String>,
    pub(super) talks: Vec<Talk>,
    pub(super) daily: BTreeMap<(NaiveDate, String), i64>,
}

#[derive(Debug)]
pub(super) struct Person {
    pub(super) username: String,
}

#[derive(Debug)]
pub(super) struct Talk {
    pub(super) id: String,
    pub(super) person: String,
    /// When the newest message was written, in unix milliseconds.
    pub(super) last: i64,
    /// Whether the person ever wrote.
    pub(super) begun: bool,
    /// Whether the account may write no more.
    pub(super) closed: bool,
}

/// What a media id stands for.
#[derive(Debug)]
pub(super) struct File {
    pub(super) kind: String,
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Video {
    pub(super) id: String,
    pub(super) owner: String,
    pub(super) description: String,
    /// Unix milliseconds, and no two of an account have the same.
    pub(super) at: i64,
    pub(super) deleted: bool,
    /// Whether lists leave it out all the same.
    pub(super) unlisted: bool,
    /// By the names of platform B.
    pub(super) figures: BTreeMap<String, Value>,
    /// All comments, the oldest first, answers among them.
    pub(super) comments: Vec<String>,
}

/// Who sees a comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Public,
    Hidden,
    FriendsOnly,
}

#[derive(Debug)]
pub(super) struct Comment {
    pub(super) id: String,
    pub(super) video: String,
    /// The comment it answers, which is never an answer itself.
    pub(super) parent: Option<String>,
    /// A person, or the account's open id.
    pub(super) author: String,
    pub(super) username: String,
    pub(super) owner: bool,
    pub(super) text: String,
    pub(super) at: i64,
    pub(super) likes: i64,
    pub(super) status: Status,
    pub(super) deleted: bool,
}

#[derive(Debug)]
pub(super) struct Token {
    pub(super) account: String,
    pub(super) platform: Platform,
    pub(super) expires: i64,
    pub(super) revoked: Option<i64>,
    pub(super) scopes: BTreeSet<String>,
}

pub(super) struct World {
    pub(super) clock: Clock,
    /// Where the server is.
    pub(super) url: String,
    /// The application at platform A.
    pub(super) display: App,
    /// The application at platform B.
    pub(super) business: App,
    /// The status of errors from platform A's token endpoints.
    pub(super) oauth_error_status: u16,
    pub(super) accounts: BTreeMap<String, Account>,
    pub(super) people: BTreeMap<String, Person>,
    pub(super) videos: BTreeMap<String, Video>,
    pub(super) comments: BTreeMap<String, Comment>,
    pub(super) tokens: BTreeMap<String, Token>,
    pub(super) codes: BTreeMap<String, Code>,
    pub(super) refresh: BTreeMap<String, Refresh>,
    pub(super) files: BTreeMap<String, File>,
    /// What was sent, and for which account.
    pub(super) sent: Vec<(String, Sent)>,
    /// When each account called each path.
    pub(super) calls: BTreeMap<(String, String), VecDeque<i64>>,
    /// How many calls a minute.
    pub(super) quota: usize,
    /// Where each type of event goes, by `webhook/update`.
    pub(super) callbacks: BTreeMap<String, Url>,
    pub(super) broken_metrics: BTreeSet<String>,
    pub(super) outbox: Outbox<Event>,
}

impl World {
    pub(super) fn now(&self) -> i64 {
        self.clock.now()
    }

    /// The account that a token speaks for on this platform, and the token.
    pub(super) fn access(&self, platform: Platform, token: &str) -> Result<(&Account, &Token), Refusal> {
        let (now, refused) = (self.now(), || Refusal::token(platform));
        let token = self.tokens.get(token).filter(|token| token.platform == platform).ok_or_else(refused)?;
        if token.expires <= now || token.revoked.is_some_and(|at| at <= now) {
            return Err(refused());
        }
        Ok((self.accounts.get(&token.account).ok_or_else(refused)?, token))
    }

    /// The videos of an account, the newest first.
    pub(super) fn videos_of(&self, account: &Account) -> Vec<&Video> {
        let all = account.videos.iter().rev().filter_map(|id| self.videos.get(id));
        all.filter(|video| !video.deleted).collect()
    }

    /// The comments on a video that are not deleted.
    pub(super) fn comments_of(&self, video: &Video) -> impl Iterator<Item = &Comment> {
        video.comments.iter().filter_map(|id| self.comments.get(id)).filter(|comment| !comment.deleted)
    }
}

impl Token {
    pub(super) fn allows(&self, scope: &str) -> Result<(), Refusal> {
        if self.scopes.contains(scope) { Ok(()) } else { Err(Refusal::scope(self.platform)) }
    }
}

/// An id of 19 digits: more than a double holds, and less than a signed 64-bit integer.
pub(super) fn new_id() -> String {
    rand::random_range(7_000_000_000_000_000_000_i64..8_000_000_000_000_000_000).to_string()
}

/// A long id, as those of messages and conversations are.
pub(super) fn long_id() -> String {
    let bytes: [u8; 48] = std::array::from_fn(|_| rand::random());
    format!("u5{}==", STANDARD.encode(bytes))
}
