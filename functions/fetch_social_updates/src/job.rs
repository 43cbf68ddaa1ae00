//! What jobs of this function are about, and what is written down of each stream.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::{
    store::{social::Account, social_reading::Begun},
    worker::{self, Stop},
};
use uuid::Uuid;

/// Which account is to be read.
#[derive(Debug, Deserialize)]
pub(crate) struct Payload {
    pub(crate) account_id: Uuid,
}

/// A job that a worker holds.
pub(crate) type Held = worker::Held<Payload>;

/// What is gathered as the job is claimed.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) account: Account,
    pub(crate) begun: Begun,
}

/// What is read of an account, in this order: what people wait for comes first, and comments after the posts they are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    Messages,
    Media,
    Comments,
    AccountFigures,
    MediaFigures,
}

impl Stream {
    pub(crate) const ALL: [Self; 5] =
        [Self::Messages, Self::Media, Self::Comments, Self::AccountFigures, Self::MediaFigures];

    /// As `social_cursors.stream` and `social_capabilities.capability` have it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Media => "media",
            Self::Comments => "comments",
            Self::AccountFigures => "account_figures",
            Self::MediaFigures => "media_figures",
        }
    }
}

/// How far a stream was read. A platform's own cursors are kept only in walks, since they expire.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Cursor {
    /// The platform's time, in milliseconds, at which the last reading began that came to its end.
    pub(crate) read_to: Option<i64>,
    /// Metrics that the platform refused, of the account or, with its id before them, of a post, and until when they are not asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) refused: BTreeMap<String, DateTime<Utc>>,
    /// Days without figures, and when they were last asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) asked: BTreeMap<NaiveDate, DateTime<Utc>>,
    /// Walks through the comments of posts that did not come to their end, by post.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) walks: BTreeMap<String, Walk>,
    /// What the last reading came to, for people to see.
    pub(crate) result: Value,
}

/// How far the comments of a post were walked through.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Walk {
    /// The platform's time, in milliseconds, of its first page.
    pub(crate) at: i64,
    /// How many comments the post had when it began.
    pub(crate) count: Option<i64>,
    /// Where the next page is. None: at the beginning.
    pub(crate) after: Option<String>,
    /// Comments with more replies than the pages list, and where those follow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) replies: Vec<(String, String)>,
    /// The ids of all comments seen, or asked for by their ids.
    pub(crate) seen: BTreeSet<String>,
    /// Whether this is the second time through the pages, since those of the first time had fewer comments than there are.
    pub(crate) is_second: bool,
    /// Whether the last page was read.
    pub(crate) is_listed: bool,
    /// Whether everything was read.
    pub(crate) is_complete: bool,
}

impl Plan {
    /// How far a stream was read before.
    pub(crate) fn cursor(&self, stream: Stream) -> Cursor {
        let kept = self.begun.cursors.get(stream.name());
        // One that is not understood is as good as none: everything is read again, and the same twice is the same as once.
        kept.and_then(|(_, cursor)| Cursor::deserialize(cursor).ok()).unwrap_or_default()
    }

    /// Whether a stream was read since this reading was asked for, by an attempt before this one.
    pub(crate) fn is_served(&self, stream: Stream) -> bool {
        let read = self.begun.cursors.get(stream.name()).map(|(began_at, _)| *began_at);
        read.zip(self.begun.wanted_at).is_some_and(|(read, wanted)| read > wanted)
    }

    /// Whether a stream can be read, and is not barred.
    pub(crate) fn reads(&self, stream: Stream) -> bool {
        self.begun.streams.get(stream.name()).is_some_and(Option::is_none)
    }
}

/// What a reading came to.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// What was read, by stream.
    pub(crate) read: BTreeMap<&'static str, Value>,
    /// What could not be read, and why.
    pub(crate) failed: BTreeMap<&'static str, &'static str>,
    /// What the account does not allow, and why.
    pub(crate) left_out: BTreeMap<&'static str, String>,
}

impl Done {
    /// For people to see.
    pub(crate) fn result(&self, began_at: DateTime<Utc>) -> Value {
        json!({ "began_at": began_at, "read": self.read, "failed": self.failed, "left_out": self.left_out })
    }

    /// The code of what went wrong first.
    pub(crate) fn error(&self) -> Option<&'static str> {
        self.failed.values().next().copied()
    }
}

/// Whether an account of this status can be read.
pub(crate) fn may_be_read(status: &str) -> Result<(), Stop> {
    match status {
        "active" => Ok(()),
        "needs_reconsent" => Err(reconsent()),
        _ => Err(disconnected()),
    }
}

pub(crate) fn disconnected() -> Stop {
    Stop::failed("account_disconnected", "The account is not connected any more.")
}

pub(crate) fn reconsent() -> Stop {
    Stop::failed("social_reconsent", "The platform refuses the account's token; a person must connect it again.")
}
