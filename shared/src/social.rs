//! What is known of a message, a comment or a mention, from what a platform delivers and what is read of it.
//!
//! Deliveries repeat, come late and out of order, and readings show the same items once more. An [`Observation`] says what was so at a time
//! of the platform's clock. An [`Item`] merges observations, and neither their order nor how often each comes changes the result: for
//! each thing that can change, the latest observation counts; a deletion that the platform announced is final; and what is unknown never
//! replaces what is known.

use std::{cmp::Ordering, collections::BTreeMap};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The most characters that an id of a platform has.
pub const MAX_ID: usize = 450;
/// The most characters that are kept of a text. A longer one is cut: no platform allows it.
pub const MAX_TEXT: usize = 20_000;
/// The most characters that are kept of a name.
const MAX_NAME: usize = 300;
/// The most attachments that are kept of a message, and reactions to it.
const MAX_PARTS: usize = 50;

/// What an item is. Where two observations differ, the later of this list counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A message to or from one person.
    Message,
    /// A message that answers a story.
    StoryReply,
    /// A comment on a post of the account.
    Comment,
    /// A comment that answers another.
    Reply,
    /// The account was named elsewhere.
    Mention,
}

impl Kind {
    /// As `social_messages.message_type` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::StoryReply => "story_reply",
            Self::Comment => "comment",
            Self::Reply => "reply",
            Self::Mention => "mention",
        }
    }

    /// From its name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        [Self::Message, Self::StoryReply, Self::Comment, Self::Reply, Self::Mention]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// Where an item belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thread {
    /// The conversation with a person, or one with an id of its own.
    Direct(String),
    /// The comments under the first of them, which is this one if it answers none.
    Comments,
    /// A post of another account that names this one.
    Mention(String),
}

/// What makes an observation one of an item, and not only something about one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What it is.
    pub kind: Kind,
    /// Where it belongs.
    pub thread: Thread,
    /// Whether the account wrote it.
    pub outgoing: bool,
    /// When it was written.
    pub sent_at: DateTime<Utc>,
    /// How well that is known.
    pub precision: Precision,
}

/// How well the time of an item is known. Where two observations differ, the better one counts; of two that are as good, the earlier time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Precision {
    /// It is the time of a delivery about it.
    #[serde(rename = "d")]
    Delivery,
    /// To the second.
    #[serde(rename = "s")]
    Second,
    /// To the millisecond.
    #[serde(rename = "m")]
    Millisecond,
}

/// Something that a message has besides its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// The platform's word for it, as in `image`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it is. Such addresses expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Its id at the platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Parameters of an address that sign it, or say how it is to be served: they differ each time that the same file is shown.
const SIGNING: [&str; 8] = ["signature", "oh", "oe", "ccb", "efg", "stp", "edm", "ig_cache_key"];

impl Attachment {
    /// Whether it can be stored.
    fn is_plain(&self) -> bool {
        [Some(&self.kind), self.url.as_ref(), self.id.as_ref()].into_iter().flatten().all(|text| !text.contains('\0'))
    }

    /// What makes it the same file when it is shown again: the platform's id, or the SHA-256 of its address without what signs it. None for
    /// what is no file, such as a post that was passed on. A file without an address is one that the platform is asked for by its id.
    #[must_use]
    pub fn file_key(&self) -> Option<String> {
        const FILES: [&str; 8] = ["image", "video", "audio", "file", "ig_reel", "reel", "story", "story_mention"];
        let is_file = FILES.contains(&self.kind.as_str());
        match (&self.url, &self.id) {
            (Some(_), Some(id)) if is_file && id.len() <= MAX_ID => Some(format!("id:{id}")),
            (Some(url), _) if is_file => Some(format!("url:{}", hex::encode(Sha256::digest(unsigned(url))))),
            // TikTok has no call for videos.
            (None, Some(id)) if self.kind == "image" && id.len() <= MAX_ID => Some(format!("id:{id}")),
            _ => None,
        }
    }
}

/// An address without the parameters that sign it. Meta's have the file's id in another, so that not all can be left out.
fn unsigned(url: &str) -> String {
    let Some((place, query)) = url.split_once('?') else { return url.to_owned() };
    let signs = |part: &&str| {
        let name = part.split('=').next().unwrap_or_default();
        SIGNING.contains(&name) || name.starts_with("_nc_")
    };
    let kept: Vec<&str> = query.split('&').filter(|part| !signs(part)).collect();
    format!("{place}?{}", kept.join("&"))
}

/// A reaction of one person to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reaction {
    /// Who reacts.
    pub by: String,
    /// With what. None: they took it back.
    pub emoji: Option<String>,
}

/// Whether an item is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Life {
    /// It is, if this observation shows its text, and else that is not said.
    #[default]
    Shown,
    /// A list that should have it has not. A later observation may show it again.
    Missing,
    /// The platform says that it was deleted. That is final.
    Deleted,
}

/// What was so of one item at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observation {
    /// Its id at the platform.
    pub platform_id: String,
    /// The platform's time of this, in milliseconds since 1970.
    pub at: i64,
    /// What and where it is.
    pub place: Option<Place>,
    /// Whether it is there.
    pub life: Life,
    /// Its text; none inside, if it has none. Nothing, if this does not show it.
    pub text: Option<Option<String>>,
    /// What it has besides. Nothing, if this does not say, or shows no text.
    pub attachments: Option<Vec<Attachment>>,
    /// Whether its text is an edit by who wrote it.
    pub edited: bool,
    /// Who wrote it.
    pub sender_id: Option<String>,
    /// What they call themselves.
    pub sender_name: Option<String>,
    /// The comment that it answers.
    pub parent_id: Option<String>,
    /// The post that it is about.
    pub media_id: Option<String>,
    /// Whether it is hidden from others.
    pub hidden: Option<bool>,
    /// A reaction to it.
    pub reaction: Option<Reaction>,
    /// Whether the other side has seen it.
    pub seen: bool,
}

/// When each thing was so. What the order of arrival must not decide, and what arrived before the item itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    #[serde(rename = "sent", default, skip_serializing_if = "Option::is_none")]
    precision: Option<Precision>,
    #[serde(rename = "text", default, skip_serializing_if = "Option::is_none")]
    text_at: Option<i64>,
    #[serde(rename = "parts", default, skip_serializing_if = "Option::is_none")]
    attachments_at: Option<i64>,
    #[serde(rename = "name", default, skip_serializing_if = "Option::is_none")]
    name_at: Option<i64>,
    #[serde(rename = "missing", default, skip_serializing_if = "Option::is_none")]
    missing_at: Option<i64>,
    #[serde(rename = "deleted", default, skip_serializing_if = "Option::is_none")]
    deleted_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hidden: Option<(i64, bool)>,
    #[serde(rename = "seen", default, skip_serializing_if = "Option::is_none")]
    seen_at: Option<i64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    reactions: BTreeMap<String, (i64, Option<String>)>,
}

/// An item as `social_messages` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Whether the account wrote it.
    pub outgoing: bool,
    /// Where it belongs: `dm:`, `comment:` or `mention:` and an id.
    pub thread_id: String,
    /// When it was written, as well as that is known.
    pub received_at: DateTime<Utc>,
    /// Its text. None also after a deletion.
    pub content: Option<String>,
    /// What it has besides.
    pub attachments: Vec<Attachment>,
    /// Who wrote it.
    pub sender_id: Option<String>,
    /// What they call themselves.
    pub sender_name: Option<String>,
    /// The comment that it answers.
    pub parent_id: Option<String>,
    /// The post that it is about.
    pub media_id: Option<String>,
    /// When it was last edited, if the platform said so.
    pub edited_at: Option<DateTime<Utc>>,
}

/// All that is known of an item.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Item {
    /// When each thing was so.
    pub facts: Facts,
    /// The item. None while only something about it is known.
    pub message: Option<Message>,
}

impl Facts {
    /// When it was deleted at the platform, or found missing there.
    #[must_use]
    pub fn gone_at(&self) -> Option<DateTime<Utc>> {
        let missing = self.missing_at.filter(|missing| self.text_at.is_none_or(|shown| *missing > shown));
        self.deleted_at.or(missing).and_then(DateTime::from_timestamp_millis)
    }

    /// Whether a message looks the same with these facts as with others.
    #[must_use]
    pub fn show_alike(&self, other: &Self) -> bool {
        (self.gone_at(), self.hidden(), self.seen_at()) == (other.gone_at(), other.hidden(), other.seen_at())
            && self.reactions() == other.reactions()
    }

    /// Whether it is hidden from others.
    #[must_use]
    pub fn hidden(&self) -> bool {
        self.hidden.is_some_and(|(_, hidden)| hidden)
    }

    /// When the other side saw it.
    #[must_use]
    pub fn seen_at(&self) -> Option<DateTime<Utc>> {
        self.seen_at.and_then(DateTime::from_timestamp_millis)
    }

    /// Who reacts with what.
    #[must_use]
    pub fn reactions(&self) -> BTreeMap<&str, &str> {
        let given = self.reactions.iter().filter_map(|(by, (_, emoji))| Some((by.as_str(), emoji.as_deref()?)));
        given.collect()
    }

    /// When the platform gave the sender's name.
    #[must_use]
    pub fn named_at(&self) -> Option<DateTime<Utc>> {
        self.name_at.and_then(DateTime::from_timestamp_millis)
    }
}

impl Message {
    /// Who is on the other side of its thread, as far as this item says: the sender of an incoming message, or of the first comment.
    #[must_use]
    pub fn names_counterpart(&self) -> bool {
        !self.outgoing && self.kind != Kind::Reply
    }
}

impl Item {
    /// Merges what was observed.
    pub fn merge(&mut self, seen: &Observation) {
        let at = seen.at;
        match seen.life {
            Life::Shown => {}
            Life::Missing => self.facts.missing_at = self.facts.missing_at.max(Some(at)),
            Life::Deleted => keep_least(&mut self.facts.deleted_at, at),
        }
        if let Some(hidden) = seen.hidden {
            self.facts.hidden = self.facts.hidden.max(Some((at, hidden)));
        }
        if seen.seen {
            keep_least(&mut self.facts.seen_at, at);
        }
        if let Some(Reaction { by, emoji }) = &seen.reaction {
            let known = self.facts.reactions.len() < MAX_PARTS || self.facts.reactions.contains_key(by);
            let new = (at, emoji.clone());
            if known && self.facts.reactions.get(by).is_none_or(|old| *old < new) {
                self.facts.reactions.insert(by.clone(), new);
            }
        }
        if let Some(place) = &seen.place {
            self.put(seen, place);
        }
        let Some(message) = &mut self.message else { return };
        let gone = self.facts.gone_at().is_some();
        if gone {
            message.content = None;
        }
        // Shown again after it was missing, it has what was shown since.
        if gone || self.facts.missing_at.is_some_and(|missing| Some(missing) >= self.facts.attachments_at) {
            message.attachments.clear();
        }
    }

    /// Merges an observation of the item itself.
    fn put(&mut self, seen: &Observation, place: &Place) {
        let facts = &mut self.facts;
        let message = self.message.get_or_insert_with(|| Message {
            kind: place.kind,
            outgoing: place.outgoing,
            thread_id: String::new(),
            received_at: place.sent_at,
            content: None,
            attachments: Vec::new(),
            sender_id: None,
            sender_name: None,
            parent_id: None,
            media_id: None,
            edited_at: None,
        });
        message.kind = message.kind.max(place.kind);
        message.outgoing |= place.outgoing;
        match facts.precision.cmp(&Some(place.precision)) {
            Ordering::Less => (facts.precision, message.received_at) = (Some(place.precision), place.sent_at),
            Ordering::Equal => message.received_at = message.received_at.min(place.sent_at),
            Ordering::Greater => {}
        }
        for (known, new) in [
            (&mut message.sender_id, &seen.sender_id),
            (&mut message.parent_id, &seen.parent_id),
            (&mut message.media_id, &seen.media_id),
        ] {
            if *known < *new {
                known.clone_from(new);
            }
        }
        let thread_id = match &place.thread {
            Thread::Direct(with) => format!("dm:{with}"),
            Thread::Comments => format!("comment:{}", message.parent_id.as_ref().unwrap_or(&seen.platform_id)),
            Thread::Mention(media) => format!("mention:{media}"),
        };
        // That it answers another comment is known from what names the other.
        if message.thread_id.is_empty() || message.parent_id.is_some() || message.thread_id < thread_id {
            message.thread_id = thread_id;
        }
        if let Some(text) = &seen.text {
            let text = text.as_deref().map(plain).filter(|text| !text.is_empty());
            // An edit may have the very time of what it edits.
            let was_edited = message.edited_at.map(|at| at.timestamp_millis()) == Some(seen.at);
            if later(&mut facts.text_at, seen.at, || (was_edited, &message.content) < (seen.edited, &text)) {
                message.content = text;
            }
            if seen.edited {
                message.edited_at = message.edited_at.max(DateTime::from_timestamp_millis(seen.at));
            }
            if let Some(parts) = &seen.attachments {
                let parts: Vec<Attachment> =
                    parts.iter().filter(|part| part.is_plain()).take(MAX_PARTS).cloned().collect();
                if later(&mut facts.attachments_at, seen.at, || message.attachments < parts) {
                    message.attachments = parts;
                }
            }
        }
        if let Some(name) = seen.sender_name.as_deref().map(plain)
            && later(&mut facts.name_at, seen.at, || message.sender_name.as_ref() < Some(&name))
        {
            message.sender_name = Some(name.chars().take(MAX_NAME).collect());
        }
    }

    /// Whether its time is one that a message can have: since 2004, and not after tomorrow.
    #[must_use]
    pub fn is_in_time(&self, now: DateTime<Utc>) -> bool {
        let first = DateTime::from_timestamp(1_072_915_200, 0).unwrap_or_default();
        self.message
            .as_ref()
            .is_none_or(|message| message.received_at >= first && message.received_at < now + TimeDelta::days(1))
    }
}

/// Whether something observed at `at` replaces what was known; of two at the same time, what `greater` says.
fn later(known_at: &mut Option<i64>, at: i64, greater: impl FnOnce() -> bool) -> bool {
    let replaces = known_at.is_none_or(|known| known < at || known == at && greater());
    if replaces {
        *known_at = Some(at);
    }
    replaces
}

fn keep_least(known: &mut Option<i64>, at: i64) {
    *known = Some(known.map_or(at, |known| known.min(at)));
}

/// A text as it can be stored: without NUL, which Postgres does not take, and not longer than [`MAX_TEXT`].
pub(crate) fn plain(text: &str) -> String {
    cut(text).replace('\0', "")
}

/// The beginning of a text, up to [`MAX_TEXT`] characters.
fn cut(text: &str) -> &str {
    text.char_indices().nth(MAX_TEXT).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

/// A score above this sounds positive, and one below its negative sounds negative.
const NEUTRAL: f64 = 0.15;

/// What a score from -1 to 1 is called: `positive`, `neutral` or `negative`.
#[must_use]
pub fn sentiment_label(score: f64) -> &'static str {
    if score > NEUTRAL {
        "positive"
    } else if score < -NEUTRAL {
        "negative"
    } else {
        "neutral"
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_observation() -> impl Strategy<Value = Observation> {
        let place = prop::option::weighted(
            0.7,
            (
                prop_oneof![Just(Kind::Comment), Just(Kind::Reply), Just(Kind::Mention)],
                any::<bool>(),
                0_i64..4,
                0_usize..3,
            )
                .prop_map(|(kind, outgoing, second, precision)| Place {
                    kind,
                    thread: Thread::Comments,
                    outgoing,
                    sent_at: DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap(),
                    precision: [Precision::Delivery, Precision::Second, Precision::Millisecond][precision],
                }),
        );
        let life = prop_oneof![3 => Just(Life::Shown), 2 => Just(Life::Missing), 1 => Just(Life::Deleted)];
        let word = || prop::option::of("[ab]{1,2}");
        let shown = (prop::option::of(word()), prop::option::of(prop::collection::vec("[ab]", 0..2)), any::<bool>());
        let people = (word(), word(), word(), word());
        let about = (prop::option::of(any::<bool>()), prop::option::of(("[xy]", word())), any::<bool>());
        (0_i64..6, place, life, shown, people, about).prop_map(
            |(at, place, life, (text, parts, edited), (sender, name, parent, media), (hidden, reaction, seen))| {
                Observation {
                    platform_id: "own".to_owned(),
                    at,
                    life,
                    text: place.as_ref().and(text),
                    attachments: place
                        .as_ref()
                        .and(parts)
                        .map(|parts| parts.into_iter().map(|kind| Attachment { kind, url: None, id: None }).collect()),
                    edited,
                    sender_id: sender,
                    sender_name: name,
                    parent_id: parent,
                    media_id: media,
                    hidden,
                    reaction: reaction.map(|(by, emoji)| Reaction { by, emoji }),
                    seen,
                    place,
                }
            },
        )
    }

    fn merged<'a>(all: impl IntoIterator<Item = &'a Observation>) -> Item {
        let mut item = Item::default();
        for one in all {
            item.merge(one);
        }
        item
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn neither_order_nor_number_of_observations_changes_an_item(
            (all, order) in prop::collection::vec(any_observation(), 1..9).prop_flat_map(|all| {
                let places: Vec<usize> = (0..all.len()).chain(0..all.len()).collect();
                (Just(all), Just(places).prop_shuffle())
            })
        ) {
            let item = merged(&all);
            let shuffled = merged(order.iter().map(|place| &all[*place]));
            prop_assert_eq!(&item.message, &shuffled.message);
            prop_assert_eq!(item.facts, shuffled.facts);
        }
    }

    #[test]
    fn a_file_is_the_same_under_another_signature_and_another_where_anything_else_differs() {
        let file = |url: &str| Attachment { kind: "image".to_owned(), url: Some(url.to_owned()), id: None };
        let meta = |asset: &str, signature: &str| {
            file(&format!("https://lookaside.fbsbx.com/ig_messaging_cdn/?asset_id={asset}&signature={signature}"))
        };
        assert_eq!(meta("1", "a").file_key(), meta("1", "b").file_key());
        assert_ne!(meta("1", "a").file_key(), meta("2", "a").file_key());
        let cdn = |name: &str, rest: &str| file(&format!("https://scontent.example/v/{name}.jpg?_nc_cat=1&{rest}"));
        assert_eq!(cdn("1", "oh=1&oe=2").file_key(), cdn("1", "oh=3&oe=4").file_key());
        assert_ne!(cdn("1", "oh=1").file_key(), cdn("2", "oh=1").file_key());
    }

    #[test]
    fn what_is_no_file_has_no_key() {
        let made = |kind: &str, url: Option<&str>, id: Option<&str>| {
            let part = Attachment { kind: kind.to_owned(), url: url.map(str::to_owned), id: id.map(str::to_owned) };
            part.file_key()
        };
        assert_eq!(made("image", None, Some("7")).as_deref(), Some("id:7"));
        assert_eq!(made("story", Some("https://x"), Some("7")).as_deref(), Some("id:7"));
        for none in [
            made("ig_post", Some("https://x"), Some("7")),
            made("share_post", Some("https://x"), None),
            made("sticker", None, Some("7")),
            made("image", None, None),
            made("unsupported", None, None),
        ] {
            assert_eq!(none, None);
        }
    }

    fn comment(at: i64, text: &str) -> Observation {
        Observation {
            platform_id: "c".to_owned(),
            at,
            place: Some(Place {
                kind: Kind::Comment,
                thread: Thread::Comments,
                outgoing: false,
                sent_at: DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
                precision: Precision::Second,
            }),
            text: Some(Some(text.to_owned())),
            ..Observation::default()
        }
    }

    #[test]
    fn a_reading_that_misses_an_item_deletes_it_until_a_later_one_shows_it() {
        let missing =
            Observation { platform_id: "c".to_owned(), at: 20, life: Life::Missing, ..Observation::default() };
        let item = merged([&comment(10, "a"), &missing]);
        assert_eq!(item.facts.gone_at().unwrap().timestamp_millis(), 20);
        assert_eq!(item.message.unwrap().content, None);
        // As old as the reading that shows it: there.
        assert_eq!(merged([&missing, &comment(20, "a")]).facts.gone_at(), None);
        let item = merged([&comment(10, "a"), &missing, &comment(21, "b")]);
        assert_eq!(item.message.unwrap().content.as_deref(), Some("b"));
    }

    #[test]
    fn what_the_platform_says_it_deleted_stays_deleted() {
        let deleted =
            Observation { platform_id: "c".to_owned(), at: 20, life: Life::Deleted, ..Observation::default() };
        let item = merged([&deleted, &comment(10, "a"), &comment(30, "b")]);
        assert_eq!(item.facts.gone_at().unwrap().timestamp_millis(), 20);
        assert_eq!(item.message.unwrap().content, None);
    }

    #[test]
    fn an_edit_counts_though_it_has_the_time_of_what_it_edits() {
        let edit = Observation { edited: true, ..comment(10, "a") };
        for all in [[&comment(10, "b"), &edit], [&edit, &comment(10, "b")]] {
            assert_eq!(merged(all).message.unwrap().content.as_deref(), Some("a"));
        }
    }

    #[test]
    fn the_first_announcement_of_a_deletion_says_when_it_was() {
        let deleted =
            |at| Observation { platform_id: "c".to_owned(), at, life: Life::Deleted, ..Observation::default() };
        for order in [[20, 25], [25, 20]] {
            let item = merged(&order.map(deleted));
            assert_eq!(item.facts.gone_at().unwrap().timestamp_millis(), 20);
        }
    }

    #[test]
    fn what_was_attached_before_an_item_went_missing_stays_away_when_it_is_shown_again() {
        let attachment = Attachment { kind: "image".to_owned(), url: None, id: None };
        let first = Observation { attachments: Some(vec![attachment]), ..comment(20, "a") };
        let missing =
            Observation { platform_id: "c".to_owned(), at: 20, life: Life::Missing, ..Observation::default() };
        for all in [[&first, &missing, &comment(30, "a")], [&missing, &comment(30, "a"), &first]] {
            let message = merged(all).message.unwrap();
            assert_eq!((message.content.as_deref(), message.attachments.len()), (Some("a"), 0));
        }
    }

    #[test]
    fn a_text_is_cut_between_characters_where_it_is_longer_than_any_platform_allows() {
        let text = "å".repeat(MAX_TEXT);
        assert_eq!(cut(&text), text);
        assert_eq!(cut(&format!("{text}ä")), text);
    }
}
