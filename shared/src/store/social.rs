//! The social inbox: accounts, what platforms deliver for them, messages in threads, posts and figures.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{StoreError, social_attachments};
use crate::{
    db::{DirectoryTx, ServiceTx, Tx},
    lead_words::Words,
    social::{Facts, Item, Kind, MAX_ID, Message, Observation},
};

/// The most files that are fetched of one message. Instagram sends ten pictures at most.
const MOST_FILES: usize = 10;

/// An account.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its id.
    pub id: Uuid,
    /// `instagram`, `facebook` or `tiktok`.
    pub platform: String,
    /// Its id at the platform.
    pub platform_id: String,
    /// What it is called there.
    pub username: String,
    /// `instagram_login`, `facebook_login`, `tiktok_display` or `tiktok_business`.
    pub api: String,
    /// `active`, `needs_reconsent` or `disconnected`.
    pub status: String,
    /// The scopes that were granted.
    pub scopes: Vec<String>,
    /// Whether the platform has not been asked to deliver for it since a person consented.
    pub unsubscribed: bool,
    /// When the last reading that went well began.
    pub fetched_at: Option<DateTime<Utc>>,
}

/// The account, held until the transaction ends, so that it is not disconnected meanwhile. The organisation's inbox is locked before it, as
/// every writer of both does.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn hold_account(tx: &mut ServiceTx, org_id: Uuid, account_id: Uuid) -> Result<Option<Account>, StoreError> {
    lock_inbox(tx).await?;
    let account = sqlx::query_as!(
        Account,
        r#"select id, platform, platform_id, username, api, status, scopes, fetched_at,
                  (api = 'instagram_login' and connected_at is not null and subscribed_at is null) as "unsubscribed!"
             from public.social_accounts where org_id = $1 and id = $2 for share"#,
        org_id,
        account_id
    );
    Ok(account.fetch_optional(tx.conn()?).await?)
}

/// The organisation's account with an id of the platform that `provider` delivers for.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn hold_account_of(
    tx: &mut ServiceTx,
    org_id: Uuid,
    provider: &str,
    platform_id: &str,
) -> Result<Option<Account>, StoreError> {
    lock_inbox(tx).await?;
    let account = sqlx::query_as!(
        Account,
        r#"select id, platform, platform_id, username, api, status, scopes, fetched_at,
                  (api = 'instagram_login' and connected_at is not null and subscribed_at is null) as "unsubscribed!"
             from public.social_accounts
          where org_id = $1 and platform = any (case $2 when 'meta' then array['instagram', 'facebook'] else array['tiktok'] end) and platform_id = $3
          -- One that is connected, where another of the id no longer is.
          order by status = 'disconnected', platform limit 1 for share"#,
        org_id,
        provider,
        platform_id
    );
    Ok(account.fetch_optional(tx.conn()?).await?)
}

/// What came of merging observations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Merged {
    /// Items that are new in the inbox.
    pub new: usize,
    /// Items that changed.
    pub changed: usize,
    /// Observations that were left out: an id too long, or a time that no message has.
    pub left_out: usize,
    /// Leads that rules of the organisation made of threads.
    pub leads: usize,
    /// The job that works on files of messages, if it is to be woken after the transaction.
    pub files_job: Option<Uuid>,
}

/// Merges observations of one account's items into the inbox. The account must be held by this transaction.
///
/// The organisation's inbox is locked until the transaction ends, and items are read after that, so that deliveries, readings and people at
/// the same time lose nothing of each other.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn merge(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    observations: &[Observation],
    now: DateTime<Utc>,
) -> Result<Merged, StoreError> {
    let mut merged = Merged::default();
    let mut by_item: BTreeMap<&str, Vec<&Observation>> = BTreeMap::new();
    for seen in observations {
        if fits(seen) {
            by_item.entry(&seen.platform_id).or_default().push(seen);
        } else {
            merged.left_out += 1;
        }
    }
    if by_item.is_empty() {
        return Ok(merged);
    }
    let ids: Vec<String> = by_item.keys().map(|id| (*id).to_owned()).collect();
    let mut stored = lock_items(tx, org_id, account_id, &ids).await?;
    let mut changes = Vec::new();
    for (id, all) in by_item {
        let Some(stored) = stored.remove(id) else { continue };
        let mut item = stored.item.clone();
        all.iter().for_each(|seen| item.merge(seen));
        if item == stored.item {
            continue;
        }
        if !item.is_in_time(now) {
            merged.left_out += all.len();
            continue;
        }
        // What was only shown once more is known to be so later; its message stays as it is.
        let is_shown = item.message.is_some()
            && (stored.item.message != item.message || !stored.item.facts.show_alike(&item.facts));
        match (&stored.item.message, is_shown) {
            (None, true) => merged.new += 1,
            (Some(_), true) => merged.changed += 1,
            (_, false) => {}
        }
        changes.push(Change { platform_id: id.to_owned(), stored, item, is_shown });
    }
    if !changes.is_empty() {
        write(tx, org_id, account_id, &changes).await?;
        merged.leads = apply_rules(tx, org_id, account_id, &changes).await?;
        merged.files_job = admit_files(tx, account_id, &changes).await?;
    }
    Ok(merged)
}

/// Has files of messages fetched, and those of messages that are gone deleted. Most messages have none, and cost nothing here.
async fn admit_files(tx: &mut ServiceTx, account_id: Uuid, changes: &[Change]) -> Result<Option<Uuid>, StoreError> {
    let (mut files, mut deleted) = (Vec::new(), Vec::new());
    for change in changes.iter().filter(|change| change.is_shown) {
        let Some(message) = &change.item.message else { continue };
        let before = change.stored.item.message.as_ref();
        let was_gone = change.stored.item.facts.gone_at().is_some();
        if change.item.facts.gone_at().is_some() {
            let may_have = matches!(message.kind, Kind::Message | Kind::StoryReply);
            if before.is_some() && !was_gone && may_have {
                deleted.push(change.stored.message_id);
            }
        } else if was_gone || before.is_none_or(|before| before.attachments != message.attachments) {
            let keys = message.attachments.iter().filter_map(|part| Some((part.kind.as_str(), part.file_key()?)));
            let keys: BTreeMap<String, &str> = keys.take(MOST_FILES).map(|(kind, key)| (key, kind)).collect();
            let id = change.stored.message_id;
            files.extend(keys.iter().map(|(key, kind)| json!({ "message_id": id, "kind": kind, "key": key })));
        }
    }
    if files.is_empty() && deleted.is_empty() {
        return Ok(None);
    }
    social_attachments::admit(tx, account_id, &Value::Array(files), &deleted).await
}

async fn lock_inbox(tx: &mut ServiceTx) -> Result<(), StoreError> {
    sqlx::query!("select app.lock_inbox()").execute(tx.conn()?).await?;
    Ok(())
}

/// Whether every id of an observation can be stored.
fn fits(seen: &Observation) -> bool {
    let ids = [Some(&seen.platform_id), seen.sender_id.as_ref(), seen.parent_id.as_ref(), seen.media_id.as_ref()];
    !seen.platform_id.is_empty() && ids.into_iter().flatten().all(|id| id.len() <= MAX_ID && !id.contains('\0'))
}

/// An item as it is stored.
#[derive(Debug)]
struct Stored {
    message_id: Uuid,
    received_at: Option<DateTime<Utc>>,
    item: Item,
}

/// An item that changed.
#[derive(Debug)]
struct Change {
    platform_id: String,
    stored: Stored,
    item: Item,
    /// Whether its message is to be written.
    is_shown: bool,
}

async fn lock_items(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    ids: &[String],
) -> Result<BTreeMap<String, Stored>, StoreError> {
    lock_inbox(tx).await?;
    sqlx::query!(
        "insert into public.social_message_keys (org_id, account_id, platform_id)
         select $1, $2, x.id from unnest($3::text[]) x (id)
         on conflict (org_id, account_id, platform_id) do nothing",
        org_id,
        account_id,
        ids
    )
    .execute(tx.conn()?)
    .await?;
    let rows = sqlx::query!(
        r#"select k.platform_id, k.message_id, k.facts, k.received_at,
                  m.message_type as "message_type?", m.direction as "direction?", m.thread_id, m.content, m.attachments as "attachments?",
                  m.sender_id, m.sender_name, m.parent_id, m.media_id, m.edited_at
             from public.social_message_keys k
             left join public.social_messages m on m.org_id = k.org_id and m.id = k.message_id and m.received_at = k.received_at
            where k.org_id = $1 and k.account_id = $2 and k.platform_id = any ($3)"#,
        org_id,
        account_id,
        ids
    )
    .fetch_all(tx.conn()?)
    .await?;
    let mut items = BTreeMap::new();
    for row in rows {
        let facts: Facts =
            serde_json::from_value(row.facts).map_err(|error| StoreError::Unreadable { what: "facts", error })?;
        let kind = row.message_type.as_deref().and_then(Kind::of);
        let message = match (kind, row.received_at, row.attachments) {
            (Some(kind), Some(received_at), Some(attachments)) => Some(Message {
                kind,
                outgoing: row.direction.as_deref() == Some("out"),
                thread_id: row.thread_id.unwrap_or_default(),
                received_at,
                content: row.content,
                attachments: serde_json::from_value(attachments)
                    .map_err(|error| StoreError::Unreadable { what: "attachments", error })?,
                sender_id: row.sender_id,
                sender_name: row.sender_name,
                parent_id: row.parent_id,
                media_id: row.media_id,
                edited_at: row.edited_at,
            }),
            _ => None,
        };
        let stored = Stored { message_id: row.message_id, received_at: row.received_at, item: Item { facts, message } };
        items.insert(row.platform_id, stored);
    }
    Ok(items)
}

/// Writes threads, then messages, whose triggers count in them, then what is known of each item.
async fn write(tx: &mut ServiceTx, org_id: Uuid, account_id: Uuid, changes: &[Change]) -> Result<(), StoreError> {
    let shown: Vec<(&Change, &Message)> = changes
        .iter()
        .filter(|change| change.is_shown)
        .filter_map(|change| Some((change, change.item.message.as_ref()?)))
        .collect();
    if !shown.is_empty() {
        keep_threads(tx, org_id, account_id, &shown).await?;
        let mut months: Vec<String> = Vec::new();
        for (_, message) in &shown {
            let month = message.received_at.format("%Y-%m-01T00:00:00Z").to_string();
            if !months.contains(&month) {
                months.push(month);
            }
        }
        sqlx::query!(
            "select app.ensure_social_month(m::timestamptz) from unnest($1::text[]) m order by m",
            &months as &[String]
        )
        .fetch_all(tx.conn()?)
        .await?;
    }
    let rows = Value::Array(shown.iter().map(|(change, message)| row_of(change, message)).collect());
    // A message that has another time may move to another month.
    sqlx::query!(
        "with x as (select * from jsonb_to_recordset($3) x (id uuid, is_new boolean, was_at timestamptz, platform_id text, message_type text,
                        direction text, thread_id text, received_at timestamptz, content text, attachments jsonb, sender_id text,
                        sender_name text, parent_id text, media_id text, reactions jsonb, hidden boolean, edited_at timestamptz,
                        seen_at timestamptz, deleted_at timestamptz)),
              new as (
                insert into public.social_messages (id, org_id, account_id, platform_id, message_type, direction, thread_id, received_at, content,
                        attachments, sender_id, sender_name, parent_id, media_id, reactions, hidden, edited_at, seen_at, deleted_at)
                select x.id, $1, $2, x.platform_id, x.message_type, x.direction, x.thread_id, x.received_at, x.content, x.attachments,
                       x.sender_id, x.sender_name, x.parent_id, x.media_id, x.reactions, x.hidden, x.edited_at, x.seen_at, x.deleted_at
                  from x where x.is_new)
         update public.social_messages m
            set message_type = x.message_type, direction = x.direction, thread_id = x.thread_id, received_at = x.received_at,
                content = x.content, attachments = x.attachments, sender_id = x.sender_id, sender_name = x.sender_name,
                parent_id = x.parent_id, media_id = x.media_id, reactions = x.reactions, hidden = x.hidden, edited_at = x.edited_at,
                seen_at = x.seen_at, deleted_at = x.deleted_at
           from x where not x.is_new and m.org_id = $1 and m.id = x.id and m.received_at = x.was_at",
        org_id,
        account_id,
        rows
    )
    .execute(tx.conn()?)
    .await?;
    let facts: Vec<Value> = changes
        .iter()
        .map(|change| {
            let at = change.item.message.as_ref().map(|message| message.received_at);
            json!({ "platform_id": change.platform_id, "facts": change.item.facts, "received_at": at })
        })
        .collect();
    sqlx::query!(
        "update public.social_message_keys k set facts = x.facts, received_at = x.received_at
           from jsonb_to_recordset($3) x (platform_id text, facts jsonb, received_at timestamptz)
          where k.org_id = $1 and k.account_id = $2 and k.platform_id = x.platform_id",
        org_id,
        account_id,
        Value::Array(facts)
    )
    .execute(tx.conn()?)
    .await?;
    // A comment that proved to answer another leaves the thread that it would have begun.
    let left: Vec<String> = shown
        .iter()
        .filter_map(|(change, message)| {
            let before = change.stored.item.message.as_ref()?;
            (before.thread_id != message.thread_id).then(|| before.thread_id.clone())
        })
        .collect();
    if !left.is_empty() {
        sqlx::query!(
            "delete from public.social_threads t
              where t.org_id = $1 and t.account_id = $2 and t.thread_id = any ($3) and t.message_count = 0
                and not exists (select from public.social_replies r where r.org_id = $1 and r.thread_id = t.id)",
            org_id,
            account_id,
            &left
        )
        .execute(tx.conn()?)
        .await?;
    }
    Ok(())
}

/// Makes leads of threads in which the other side wrote what a rule of the organisation looks for. Only text that is seen for the first time
/// counts, and the database is asked for rules only where there is some. How many leads.
async fn apply_rules(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    changes: &[Change],
) -> Result<usize, StoreError> {
    let mut written: Vec<(&Message, &str)> = changes.iter().filter_map(Change::first_text).collect();
    let Some(latest) = written.iter().map(|(message, _)| message.received_at).max() else { return Ok(0) };
    let rules = sqlx::query!(
        "select id, kinds, words, created_at from public.social_lead_rules
          where org_id = $1 and enabled and created_at <= $3 and (account_id is null or account_id = $2)
          order by created_at, id",
        org_id,
        account_id,
        latest
    )
    .fetch_all(tx.conn()?)
    .await?;
    if rules.is_empty() {
        return Ok(0);
    }
    let phrases: Vec<Vec<Words>> =
        rules.iter().map(|rule| rule.words.iter().map(|word| Words::of(word)).collect()).collect();
    written.sort_by_key(|(message, _)| message.received_at);
    let mut found = Vec::new();
    for (message, text) in written {
        let kind = match message.kind {
            Kind::Message | Kind::StoryReply => "message",
            Kind::Comment | Kind::Reply => "comment",
            Kind::Mention => "mention",
        };
        let words = Words::of(text);
        let first = rules.iter().zip(&phrases).find(|(rule, phrases)| {
            rule.created_at <= message.received_at
                && rule.kinds.iter().any(|wanted| wanted == kind)
                && phrases.iter().any(|phrase| words.contain(phrase))
        });
        if let Some((rule, _)) = first {
            found.push(json!({ "thread_id": message.thread_id, "rule_id": rule.id, "at": message.received_at,
                               "sender_id": message.sender_id, "sender_name": message.sender_name }));
        }
    }
    if found.is_empty() {
        return Ok(0);
    }
    let made =
        sqlx::query_scalar!(r#"select app.make_leads_by_rules($1, $2) as "made!""#, account_id, Value::Array(found));
    Ok(usize::try_from(made.fetch_one(tx.conn()?).await?).unwrap_or_default())
}

impl Change {
    /// The text of an incoming message that had none before. None also where it is deleted.
    fn first_text(&self) -> Option<(&Message, &str)> {
        let message = self.item.message.as_ref()?;
        let had_text = self.stored.item.message.as_ref().is_some_and(|before| before.content.is_some());
        let is_new = self.is_shown && !message.outgoing && !had_text && self.item.facts.gone_at().is_none();
        Some((message, message.content.as_deref().filter(|_| is_new)?))
    }
}

fn row_of(change: &Change, message: &Message) -> Value {
    let facts = &change.item.facts;
    json!({
        "id": change.stored.message_id,
        "is_new": change.stored.item.message.is_none(),
        "was_at": change.stored.received_at,
        "platform_id": change.platform_id,
        "message_type": message.kind.name(),
        "direction": if message.outgoing { "out" } else { "in" },
        "thread_id": message.thread_id,
        "received_at": message.received_at,
        "content": message.content,
        "attachments": message.attachments,
        "sender_id": message.sender_id,
        "sender_name": message.sender_name,
        "parent_id": message.parent_id,
        "media_id": message.media_id,
        "reactions": facts.reactions(),
        "hidden": facts.hidden(),
        "edited_at": message.edited_at,
        "seen_at": facts.seen_at(),
        "deleted_at": facts.gone_at(),
    })
}

/// Makes the threads of messages, and names who is on their other side.
async fn keep_threads(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    shown: &[(&Change, &Message)],
) -> Result<(), StoreError> {
    #[derive(Default)]
    struct Thread<'a> {
        kind: &'static str,
        media_id: Option<&'a str>,
        // When the name was given, the name, the id.
        named: Option<(DateTime<Utc>, Option<&'a str>, Option<&'a str>)>,
    }
    let mut threads: BTreeMap<&str, Thread<'_>> = BTreeMap::new();
    for (change, message) in shown {
        let thread = threads.entry(&message.thread_id).or_default();
        thread.kind = match message.kind {
            Kind::Message | Kind::StoryReply => "message",
            Kind::Comment | Kind::Reply => "comment",
            Kind::Mention if message.thread_id.starts_with("mention:") => "mention",
            Kind::Mention => "comment",
        };
        thread.media_id = thread.media_id.max(message.media_id.as_deref());
        let at = change.item.facts.named_at().unwrap_or_default();
        if message.names_counterpart() && (message.sender_id.is_some() || message.sender_name.is_some()) {
            let name = (at, message.sender_name.as_deref(), message.sender_id.as_deref());
            thread.named = thread.named.max(Some(name));
        }
    }
    let rows: Vec<Value> = threads
        .iter()
        .map(|(id, thread)| {
            let (at, name, with) = thread.named.map_or((None, None, None), |(at, name, with)| (Some(at), name, with));
            json!({ "id": id, "kind": thread.kind, "media_id": thread.media_id, "at": at, "name": name, "with": with })
        })
        .collect();
    sqlx::query!(
        r#"insert into public.social_threads as t (org_id, account_id, thread_id, kind, counterpart_id, counterpart_name, named_at, media_id)
         select $1, $2, x.id, x.kind, x."with", x.name, x.at, x.media_id
           from jsonb_to_recordset($3) x (id text, kind text, media_id text, at timestamptz, name text, "with" text) order by x.id
         on conflict (org_id, account_id, thread_id) do update
            set counterpart_id = greatest(t.counterpart_id, excluded.counterpart_id),
                counterpart_name = case when excluded.counterpart_name is not null
                                         and (excluded.named_at, excluded.counterpart_name) >= (coalesce(t.named_at, '-infinity'), coalesce(t.counterpart_name, ''))
                                        then excluded.counterpart_name else t.counterpart_name end,
                named_at = greatest(t.named_at, excluded.named_at),
                media_id = greatest(t.media_id, excluded.media_id)
          where (t.counterpart_id, t.named_at, t.media_id)
                is distinct from (greatest(t.counterpart_id, excluded.counterpart_id), greatest(t.named_at, excluded.named_at),
                                  greatest(t.media_id, excluded.media_id))
             or excluded.counterpart_name is distinct from t.counterpart_name and excluded.named_at = t.named_at"#,
        org_id,
        account_id,
        Value::Array(rows)
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Queues the reading of an account, or finds the job that is open. For a person in their own name, or the system. None where the account
/// is not one that can be read.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn admit_fetch(tx: &mut Tx, account_id: Uuid) -> Result<Option<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!("select app.admit_social_fetch($1)", account_id).fetch_one(tx.conn()?).await?)
}

/// An account that is to be read.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    /// Its organisation.
    pub org_id: Uuid,
    /// The account.
    pub account_id: Uuid,
}

/// Accounts that are to be read now, `most` at most.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn due_fetches(tx: &mut DirectoryTx, now: DateTime<Utc>, most: i32) -> Result<Vec<Due>, StoreError> {
    let due = sqlx::query_as!(
        Due,
        r#"select org_id as "org_id!", account_id as "account_id!" from app.due_social_fetches($1, $2)"#,
        now,
        most
    );
    Ok(due.fetch_all(tx.conn()?).await?)
}

/// What a reading of an account came to.
#[derive(Debug, Clone, Copy)]
pub struct Fetched<'a> {
    /// When it began.
    pub began_at: DateTime<Utc>,
    /// The code of what went wrong, if not all went well.
    pub error: Option<&'a str>,
    /// When the next is due, unless one was asked for after this one began.
    pub next_at: DateTime<Utc>,
}

/// Ends the reading of an account.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn end_fetch(
    tx: &mut ServiceTx,
    org_id: Uuid,
    account_id: Uuid,
    fetched: &Fetched<'_>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.social_accounts
            set fetched_at = case when $4::text is null then $3 else fetched_at end, fetch_error = $4,
                fetch_after = case when wanted_at > $3 then now() else $5 end
          where org_id = $1 and id = $2",
        org_id,
        account_id,
        fetched.began_at,
        fetched.error,
        fetched.next_at
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}
