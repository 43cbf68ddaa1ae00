//! What clients get back.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use shared::{
    social::sentiment_label,
    store::inbox::{Found, Message, Thread},
};
use uuid::Uuid;

use crate::request::written;

/// A page of threads.
#[derive(Debug, Serialize)]
pub(crate) struct ThreadsView {
    threads: Vec<ThreadView>,
    /// What `after` is to be for the next page; null at the end.
    next: Option<String>,
}

impl ThreadsView {
    pub(crate) fn of(mut found: Vec<Thread>, most: i64) -> Self {
        let goes_on = cut(&mut found, most);
        let next = found.last().filter(|_| goes_on).map(|last| written((last.last_message_at, last.id)));
        let view = |thread: Thread| {
            let last = thread.last_message_id.map(|id| {
                json!({ "id": id, "direction": thread.last_direction, "text": thread.last_content, "deleted_at": thread.last_deleted_at })
            });
            ThreadView { last_message: last, ..ThreadView::of(thread) }
        };
        Self { threads: found.into_iter().map(view).collect(), next }
    }
}

/// A thread.
#[derive(Debug, Serialize)]
pub(crate) struct ThreadView {
    id: Uuid,
    href: String,
    account: Value,
    kind: String,
    status: String,
    assigned_to: Option<Uuid>,
    counterpart: Value,
    media_id: Option<String>,
    messages_total: i32,
    unread: i32,
    last_message_at: DateTime<Utc>,
    last_incoming_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_message: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<MessageView>>,
    /// What `after` is to be for earlier messages; null at the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Option<String>>,
}

impl ThreadView {
    fn of(thread: Thread) -> Self {
        Self {
            id: thread.id,
            href: format!("/v1/inbox/threads/{}", thread.id),
            account: json!({ "id": thread.account_id, "platform": thread.platform, "username": thread.username }),
            kind: thread.kind,
            status: thread.status,
            assigned_to: thread.assigned_to,
            counterpart: json!({ "id": thread.counterpart_id, "name": thread.counterpart_name }),
            media_id: thread.media_id,
            messages_total: thread.message_count,
            unread: thread.unread_count,
            last_message_at: thread.last_message_at,
            last_incoming_at: thread.last_incoming_at,
            last_message: None,
            messages: None,
            next: None,
        }
    }

    pub(crate) fn with_messages(thread: Thread, mut found: Vec<Message>, most: i64) -> Self {
        let goes_on = cut(&mut found, most);
        let next = found.last().filter(|_| goes_on).map(|last| written((last.received_at, last.id)));
        let messages = found.into_iter().map(MessageView::from).collect();
        Self { messages: Some(messages), next: Some(next), ..Self::of(thread) }
    }
}

/// A message.
#[derive(Debug, Serialize)]
struct MessageView {
    id: Uuid,
    platform_id: String,
    #[serde(rename = "type")]
    kind: String,
    direction: String,
    status: String,
    /// Null where there is none, where the platform has not shown it yet, and after a deletion.
    text: Option<String>,
    sender: Value,
    at: DateTime<Utc>,
    parent_id: Option<String>,
    attachments: Value,
    /// What became of the files among them.
    files: Value,
    reactions: Value,
    hidden: bool,
    edited_at: Option<DateTime<Utc>>,
    seen_at: Option<DateTime<Utc>>,
    deleted_at: Option<DateTime<Utc>>,
    /// How it sounds, once it was scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    sentiment: Option<Value>,
}

impl From<Message> for MessageView {
    fn from(message: Message) -> Self {
        let model = &message.sentiment_model;
        let sentiment = message
            .sentiment_score
            .map(|score| json!({ "score": score, "label": sentiment_label(score), "model": model }));
        Self {
            id: message.id,
            platform_id: message.platform_id,
            kind: message.message_type,
            direction: message.direction,
            status: message.status,
            text: message.content,
            sender: json!({ "id": message.sender_id, "name": message.sender_name }),
            at: message.received_at,
            parent_id: message.parent_id,
            attachments: message.attachments,
            files: message.files,
            reactions: message.reactions,
            hidden: message.hidden,
            edited_at: message.edited_at,
            seen_at: message.seen_at,
            deleted_at: message.deleted_at,
            sentiment,
        }
    }
}

/// What a search found.
#[derive(Debug, Serialize)]
pub(crate) struct FoundView {
    messages: Vec<Value>,
    /// What `after` is to be for earlier ones; null if there are none.
    next: Option<String>,
}

impl FoundView {
    pub(crate) fn of(found: Vec<Found>, most: i32) -> Self {
        let full = usize::try_from(most).is_ok_and(|most| found.len() >= most);
        let next = found.last().filter(|_| full).map(|last| written((last.received_at, last.id)));
        let view = |found: Found| {
            json!({
                "id": found.id,
                "thread": { "id": found.thread_id, "href": format!("/v1/inbox/threads/{}", found.thread_id) },
                "account": { "id": found.account_id },
                "type": found.message_type,
                "direction": found.direction,
                "sender": { "name": found.sender_name },
                "text": found.content,
                "at": found.received_at,
            })
        };
        Self { messages: found.into_iter().map(view).collect(), next }
    }
}

/// The lead of a thread.
#[derive(Debug, Serialize)]
pub(crate) struct LeadView {
    id: Uuid,
    thread: Value,
}

impl LeadView {
    pub(crate) fn of(id: Uuid, thread: Uuid) -> Self {
        Self { id, thread: json!({ "id": thread, "href": format!("/v1/inbox/threads/{thread}") }) }
    }
}

/// Leaves out what is more than `most`. Whether there was more.
fn cut<T>(found: &mut Vec<T>, most: i64) -> bool {
    let most = usize::try_from(most).unwrap_or_default();
    let goes_on = found.len() > most;
    found.truncate(most);
    goes_on
}
