//! A plain model of a platform: items, what happens to them, and what is delivered and read of it. It knows nothing of how observations are merged.

use chrono::{DateTime, Utc};
use rand::{Rng, RngExt, seq::IndexedRandom};
use serde_json::{Value, json};
use shared::social::{Kind, Life, Observation, Place, Precision, Thread};

/// When the first thing happens: half a minute before a month ends, in milliseconds.
pub(super) const BEGINS: i64 = 1_764_547_170_000;
/// How long things happen, in milliseconds.
const LASTS: i64 = 120_000;

/// What an item is here, and with it how it is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// A message from a person.
    In,
    /// A message of the account, which comes back as an echo.
    Out,
    /// A message with an answer to a story.
    Story,
    /// A button of ours that was pressed.
    Postback,
    /// A comment, with its place in a list of changes.
    Comment,
    /// A comment, with its place on the entry.
    BareComment,
    /// An answer to the first comment of the world.
    Reply,
    /// A comment of the account's own.
    OwnComment,
    /// A post of another account that names this one. It cannot be read.
    Mention,
    /// A comment at TikTok, which is delivered without its text.
    Tiktok,
    /// An answer to it there.
    TiktokReply,
    /// A message at TikTok, which cannot be read.
    TiktokMessage,
}

impl Sort {
    pub(super) const ALL: [Self; 12] = [
        Self::In,
        Self::Out,
        Self::Story,
        Self::Postback,
        Self::Comment,
        Self::BareComment,
        Self::Reply,
        Self::OwnComment,
        Self::Mention,
        Self::Tiktok,
        Self::TiktokReply,
        Self::TiktokMessage,
    ];

    pub(super) fn is_tiktok(self) -> bool {
        matches!(self, Self::Tiktok | Self::TiktokReply | Self::TiktokMessage)
    }

    fn is_direct(self) -> bool {
        matches!(self, Self::In | Self::Out | Self::Story | Self::Postback | Self::TiktokMessage)
    }

    fn is_read(self) -> bool {
        !matches!(self, Self::Mention | Self::TiktokMessage)
    }

    fn is_ours(self) -> bool {
        matches!(self, Self::Out | Self::OwnComment)
    }

    fn kind(self) -> Kind {
        match self {
            Self::In | Self::Out | Self::Postback | Self::TiktokMessage => Kind::Message,
            Self::Story => Kind::StoryReply,
            Self::Comment | Self::BareComment | Self::OwnComment | Self::Tiktok => Kind::Comment,
            Self::Reply | Self::TiktokReply => Kind::Reply,
            Self::Mention => Kind::Mention,
        }
    }
}

/// What became of one item over time.
#[derive(Debug, Clone)]
pub(super) struct Thing {
    pub(super) sort: Sort,
    pub(super) id: String,
    born: i64,
    /// Its texts, each since when.
    texts: Vec<(i64, String)>,
    edited: Option<i64>,
    deleted: Option<i64>,
    hidden: Vec<(i64, bool)>,
    reactions: Vec<(i64, Option<&'static str>)>,
    seen: Option<i64>,
    with: String,
    parent: Option<String>,
}

/// Something that arrives.
#[derive(Debug, Clone)]
pub(super) enum Arrival {
    /// A delivered entry: by whom, and its bytes.
    Delivered(&'static str, Vec<u8>),
    /// What a reading showed of one item.
    Shown(bool, Box<Observation>),
}

/// Accounts that a world is about: Instagram's and TikTok's id.
#[derive(Debug, Clone)]
pub(super) struct Accounts {
    pub(super) instagram: String,
    pub(super) tiktok: String,
}

/// A world of items, and all that arrives of it, in the order that it came about.
#[derive(Debug)]
pub(super) struct World {
    pub(super) things: Vec<Thing>,
    pub(super) arrivals: Vec<Arrival>,
    readings: Vec<i64>,
}

/// Makes a world: `count` items of every sort with edits, deletions and reactions, and three readings, the last of them at the end.
pub(super) fn world(rng: &mut impl Rng, count: usize, accounts: &Accounts) -> World {
    let ends = BEGINS + LASTS;
    let mut things: Vec<Thing> = Vec::new();
    for place in 0..count {
        let sort = Sort::ALL[place % Sort::ALL.len()];
        let root = |wanted| things.iter().find(|thing: &&Thing| thing.sort == wanted).map(|thing| thing.id.clone());
        let parent = match sort {
            Sort::Reply => root(Sort::Comment),
            Sort::TiktokReply => root(Sort::Tiktok),
            _ => None,
        };
        things.push(thing(rng, sort, place, parent));
    }
    let readings = vec![rng.random_range(BEGINS..ends), rng.random_range(BEGINS..ends), ends + 1000];
    let mut arrivals = Vec::new();
    for thing in &things {
        arrivals.extend(thing.deliveries(accounts));
        arrivals.extend(readings.iter().filter_map(|at| thing.reading(*at)));
    }
    World { things, arrivals, readings }
}

fn thing(rng: &mut impl Rng, sort: Sort, place: usize, parent: Option<String>) -> Thing {
    let ends = BEGINS + LASTS;
    let born = rng.random_range(BEGINS..BEGINS + LASTS / 2);
    let later = |rng: &mut dyn Rng| rng.random_range(born + 1..ends);
    let texts = ["hej", "åäö", "I would like to book", "nej tack", "<b>&\"'"];
    let text = |rng: &mut dyn Rng| format!("{} {place}", texts.choose(rng).unwrap());
    let id = if sort.is_tiktok() && !sort.is_direct() {
        // Beyond 2^53, where a floating-point number no longer holds every digit.
        (7_599_999_999_999_999_000_u64 + u64::try_from(place).unwrap()).to_string()
    } else if sort == Sort::Mention {
        format!("mention:{}", 18_000_000_000_000_000_u64 + u64::try_from(place).unwrap())
    } else {
        format!("item-{place}")
    };
    let mut all = vec![(born, text(rng))];
    let mut thing = Thing {
        sort,
        id,
        born,
        texts: Vec::new(),
        edited: None,
        deleted: None,
        hidden: Vec::new(),
        reactions: Vec::new(),
        seen: None,
        with: format!("person-{}", place % 3),
        parent,
    };
    let edits = matches!(sort, Sort::In | Sort::Story);
    if edits && rng.random_bool(0.4) {
        let at = later(rng);
        thing.edited = Some(at);
        all.push((at, text(rng)));
    }
    if sort != Sort::Mention && sort != Sort::TiktokMessage && rng.random_bool(0.3) {
        // After its edits and reactions: a deleted item has none.
        thing.deleted = Some(ends - rng.random_range(1..1000));
    }
    if matches!(sort, Sort::Tiktok | Sort::TiktokReply) {
        for hidden in [true, false].into_iter().take(rng.random_range(0..3)) {
            let at = thing.hidden.last().map_or(born, |(at, _)| *at);
            thing.hidden.push((rng.random_range(at + 1..at + 20_000), hidden));
        }
    }
    if sort.is_direct() && !sort.is_tiktok() {
        for emoji in [Some("❤"), None, Some("👍")].into_iter().take(rng.random_range(0..4)) {
            let at = thing.reactions.last().map_or(born, |(at, _)| *at);
            thing.reactions.push((rng.random_range(at + 1..at + 10_000), emoji));
        }
    }
    if sort == Sort::Out && rng.random_bool(0.5) {
        thing.seen = Some(later(rng));
    }
    thing.texts = all;
    thing
}

/// A time of readings: whole seconds, as the `Date` of an answer has it.
fn to_second(at: i64) -> i64 {
    at.div_euclid(1000) * 1000
}

fn time(at: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(at).unwrap()
}

impl Thing {
    /// All that is delivered of it.
    fn deliveries(&self, accounts: &Accounts) -> Vec<Arrival> {
        if self.sort.is_tiktok() { self.tiktok(accounts) } else { self.meta(accounts) }
    }

    fn meta(&self, accounts: &Accounts) -> Vec<Arrival> {
        let account = &accounts.instagram;
        let entry = |at: i64, part: Value| {
            let mut entry = json!({ "id": account, "time": at });
            entry.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            Arrival::Delivered("meta", entry.to_string().into_bytes())
        };
        let ours = self.sort.is_ours();
        let (from, to) = if ours { (account, &self.with) } else { (&self.with, account) };
        let direct = |at: i64, from: &str, to: &str, part: Value| {
            let mut item = json!({ "sender": { "id": from }, "recipient": { "id": to }, "timestamp": at });
            item.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            entry(at, json!({ "messaging": [item] }))
        };
        let first = &self.texts[0].1;
        let mut all = Vec::new();
        match self.sort {
            Sort::In | Sort::Out | Sort::Story => {
                let mut message = json!({ "mid": self.id, "text": first });
                if ours {
                    message["is_echo"] = json!(true);
                }
                if self.sort == Sort::Story {
                    message["reply_to"] = json!({ "story": { "id": "story-1", "url": "https://cdn.example/s" } });
                }
                all.push(direct(self.born, from, to, json!({ "message": message })));
                if let Some(at) = self.edited {
                    let edit = json!({ "mid": self.id, "text": self.texts[1].1, "num_edit": 1 });
                    all.push(direct(at, from, to, json!({ "message_edit": edit })));
                }
                if let Some(at) = self.deleted {
                    all.push(direct(at, from, to, json!({ "message": { "mid": self.id, "is_deleted": true } })));
                }
            }
            Sort::Postback => {
                let pressed = json!({ "mid": self.id, "title": first, "payload": "BOOK" });
                all.push(direct(self.born, from, to, json!({ "postback": pressed })));
            }
            Sort::Mention => {
                let value = json!({ "media_id": &self.id["mention:".len()..] });
                all.push(entry(self.born / 1000, json!({ "changes": [{ "field": "mentions", "value": value }] })));
            }
            _ => {
                let from = json!({ "id": if ours { account } else { &self.with }, "username": self.name(ours) });
                let mut value = json!({ "id": self.id, "from": from, "text": first, "media": { "id": "media-1" } });
                if let Some(parent) = &self.parent {
                    value["parent_id"] = json!(parent);
                }
                // Deletion is not delivered.
                let change = json!({ "field": "comments", "value": value });
                let part = if self.sort == Sort::BareComment { change } else { json!({ "changes": [change] }) };
                all.push(entry(self.born / 1000, part));
            }
        }
        for (at, emoji) in &self.reactions {
            let reaction = match emoji {
                Some(emoji) => json!({ "mid": self.id, "action": "react", "reaction": "other", "emoji": emoji }),
                None => json!({ "mid": self.id, "action": "unreact" }),
            };
            all.push(direct(*at, &self.with, account, json!({ "reaction": reaction })));
        }
        if let Some(at) = self.seen {
            all.push(direct(at, &self.with, account, json!({ "read": { "mid": self.id } })));
        }
        all
    }

    fn tiktok(&self, accounts: &Accounts) -> Vec<Arrival> {
        let account = &accounts.tiktok;
        let event = |name: &str, at: i64, content: String| {
            let event = json!({ "client_key": "k", "event": name, "create_time": at / 1000, "user_openid": account, "content": content });
            Arrival::Delivered("tiktok", event.to_string().into_bytes())
        };
        if self.sort == Sort::TiktokMessage {
            let content = json!({
                "conversation_id": format!("c-{}", self.with), "message_id": self.id, "type": "text", "timestamp": self.born, "from": self.name(false),
                "from_user": { "id": self.with, "role": "personal_account" }, "to_user": { "id": account, "role": "business_account" },
                "unique_identifier": self.with, "text": { "body": self.texts[0].1 }
            });
            return vec![event("im_receive_msg", self.born, content.to_string())];
        }
        let comment = |at: i64, action: &str| {
            // Ids are whole numbers here, not texts.
            let parent = self.parent.as_deref().unwrap_or("0");
            let kind = if self.parent.is_some() { "reply" } else { "comment" };
            let content = format!(
                r#"{{"comment_id":{},"video_id":7500000000000000001,"parent_comment_id":{parent},"comment_type":"{kind}","comment_action":"{action}","unique_identifier":"{}","timestamp":{at}}}"#,
                self.id, self.with
            );
            event("comment.update", at, content)
        };
        let mut all = vec![comment(self.born, "insert")];
        all.extend(
            self.hidden
                .iter()
                .map(|(at, hidden)| comment(*at, if *hidden { "set_to_hidden" } else { "set_to_public" })),
        );
        all.extend(self.deleted.map(|at| comment(at, "delete")));
        all
    }

    fn name(&self, ours: bool) -> String {
        if ours { "nord".to_owned() } else { format!("@{}", self.with) }
    }

    /// What a reading at a time shows of it: that it is there, or that it is missing, or nothing if it was not there yet.
    fn reading(&self, at: i64) -> Option<Arrival> {
        if !self.sort.is_read() || self.born > to_second(at) {
            return None;
        }
        let seen = Observation { platform_id: self.id.clone(), at: to_second(at), ..Observation::default() };
        if self.deleted.is_some_and(|deleted| deleted <= to_second(at)) {
            return Some(Arrival::Shown(self.sort.is_tiktok(), Box::new(Observation { life: Life::Missing, ..seen })));
        }
        let ours = self.sort.is_ours();
        let sender = if ours && self.sort.is_direct() { None } else { Some(self.with.clone()) };
        let shown = Observation {
            place: Some(Place {
                // A list of messages does not say that one answers a story.
                kind: if self.sort == Sort::Story { Kind::Message } else { self.sort.kind() },
                thread: if self.sort.is_direct() { Thread::Direct(self.with.clone()) } else { Thread::Comments },
                outgoing: ours,
                sent_at: time(to_second(self.born)),
                precision: Precision::Second,
            }),
            text: Some(Some(self.text_at(to_second(at)).to_owned())),
            sender_id: if self.sort.is_direct() || self.sort.is_tiktok() { sender } else { None },
            sender_name: Some(self.name(ours)),
            parent_id: self.parent.clone(),
            media_id: (!self.sort.is_direct()).then(|| self.media().to_owned()),
            hidden: self.sort.is_tiktok().then(|| self.hidden_at(to_second(at))),
            ..seen
        };
        Some(Arrival::Shown(self.sort.is_tiktok(), Box::new(shown)))
    }

    fn media(&self) -> &'static str {
        if self.sort.is_tiktok() { "7500000000000000001" } else { "media-1" }
    }

    fn text_at(&self, at: i64) -> &str {
        &self.texts.iter().rev().find(|(since, _)| *since <= at).unwrap_or(&self.texts[0]).1
    }

    fn hidden_at(&self, at: i64) -> bool {
        self.hidden.iter().rev().find(|(since, _)| *since <= at).is_some_and(|(_, hidden)| *hidden)
    }

    /// What the inbox is to show of it.
    fn row(&self, world: &World) -> Value {
        let ends = BEGINS + LASTS + 1000;
        let shown_by = world
            .readings
            .iter()
            .filter(|at| self.born <= to_second(**at) && self.deleted.is_none_or(|deleted| deleted > to_second(**at)));
        let was_shown = self.sort.is_read() && shown_by.count() > 0;
        // A message says when it was written. A comment's time is that of its delivery until it is read.
        let at = match (self.sort.is_direct(), was_shown, self.sort.is_tiktok()) {
            (true, ..) => self.born,
            (false, false, true) => self.born,
            (false, ..) => to_second(self.born),
        };
        let ours = self.sort.is_ours();
        let delivers_text = !matches!(self.sort, Sort::Mention | Sort::Tiktok | Sort::TiktokReply);
        let text = (self.deleted.is_none() && (delivers_text || was_shown)).then(|| self.text_at(ends));
        let reaction = self.reactions.last().and_then(|(_, emoji)| *emoji);
        json!({
            "id": self.id,
            "type": self.sort.kind().name(),
            "direction": if ours { "out" } else { "in" },
            "thread": self.thread(),
            "at": at,
            "text": text,
            "hidden": self.hidden_at(ends),
            "deleted": self.deleted.is_some(),
            "reactions": reaction.map_or_else(|| json!({}), |emoji| json!({ self.with.clone(): emoji })),
            "edited": self.edited,
            "seen": self.seen,
            "parent": self.parent,
            "attachments": if self.sort == Sort::Story && self.deleted.is_none() { 1 } else { 0 },
        })
    }

    fn thread(&self) -> String {
        match self.sort {
            Sort::Mention => self.id.clone(),
            Sort::TiktokMessage => format!("dm:c-{}", self.with),
            sort if sort.is_direct() => format!("dm:{}", self.with),
            _ => format!("comment:{}", self.parent.as_ref().unwrap_or(&self.id)),
        }
    }
}

impl World {
    /// What the inbox is to show in the end: messages by id, and threads by theirs, of one platform.
    pub(super) fn inbox(&self, tiktok: bool) -> Value {
        let mut messages: Vec<Value> =
            self.things.iter().filter(|thing| thing.sort.is_tiktok() == tiktok).map(|thing| thing.row(self)).collect();
        messages.sort_by_key(|message| message["id"].as_str().unwrap().to_owned());
        let mut threads = std::collections::BTreeMap::<String, (i64, i64, i64, Option<i64>)>::new();
        for message in &messages {
            let thread = threads.entry(message["thread"].as_str().unwrap().to_owned()).or_default();
            let at = message["at"].as_i64().unwrap();
            let came = message["direction"] == "in";
            thread.0 += 1;
            thread.1 += i64::from(came && message["deleted"] == false);
            thread.2 = thread.2.max(at);
            thread.3 = thread.3.max(came.then_some(at));
        }
        let threads: Vec<Value> = threads
            .into_iter()
            .map(|(id, (messages, unread, last, came))| json!({ "id": id, "messages": messages, "unread": unread, "last": last, "came": came }))
            .collect();
        json!({ "messages": messages, "threads": threads })
    }
}
