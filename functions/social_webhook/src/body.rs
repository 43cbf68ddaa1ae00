//! A delivered body, split into entries. What an entry says is not looked at here, but for the account that it is for.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use shared::{clients::social::id, store::social_events::Entry};

use crate::json::time_of;

/// The most entries of a body. Meta says that it sends up to a thousand.
const MAX_ENTRIES: usize = 5000;
/// The most bytes of an entry, as `webhook_events.raw` takes them.
const MAX_ENTRY: usize = 2 * 1024 * 1024;
/// The longest name of a type that is kept.
const MAX_TYPE: usize = 100;

/// A body's entries, and how many of them name no account.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Split<'a> {
    pub(crate) entries: Vec<Entry<'a>>,
    pub(crate) malformed: usize,
}

#[derive(Deserialize)]
struct MetaBody<'a> {
    #[serde(borrow)]
    entry: Vec<&'a RawValue>,
}

/// Members that hold what people wrote are not read here: one that is no text keeps the entry from nothing.
#[derive(Deserialize)]
struct MetaEntry<'a> {
    id: Value,
    field: Option<Value>,
    #[serde(borrow)]
    messaging: Option<&'a RawValue>,
    #[serde(borrow)]
    changes: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct MetaChange {
    field: String,
}

/// Splits what Meta delivers. `None` if it is no JSON of that shape. An entry keeps the bytes that it had in the body.
pub(crate) fn split_meta(body: &[u8]) -> Option<Split<'_>> {
    // Examples in Meta's documentation are wrapped in a list.
    let bodies = match serde_json::from_slice::<MetaBody<'_>>(body) {
        Ok(one) => vec![one],
        Err(_) => serde_json::from_slice::<Vec<MetaBody<'_>>>(body).ok()?,
    };
    let mut split = Split::default();
    for raw in bodies.into_iter().flat_map(|body| body.entry) {
        let account =
            serde_json::from_str::<MetaEntry<'_>>(raw.get()).ok().and_then(|entry| Some((id(&entry.id)?, entry)));
        match account {
            Some((account, entry)) if split.entries.len() < MAX_ENTRIES && raw.get().len() <= MAX_ENTRY => {
                split.entries.push(Entry { account, event_type: entry.kind(), raw: raw.get().as_bytes() });
            }
            _ => split.malformed += 1,
        }
    }
    Some(split)
}

impl MetaEntry<'_> {
    fn kind(&self) -> String {
        let changed = || {
            let changes: Vec<MetaChange> = serde_json::from_str(self.changes?.get()).ok()?;
            changes.into_iter().next().map(|change| change.field)
        };
        let name = self.field.as_ref().and_then(Value::as_str).map(str::to_owned).or_else(changed);
        named(name.unwrap_or_else(|| if self.messaging.is_some() { "messaging" } else { "unknown" }.to_owned()))
    }
}

#[derive(Deserialize)]
struct TiktokBody {
    event: Value,
    user_openid: Value,
    create_time: Option<Value>,
}

/// What TikTok delivers is one event. `None` if it is no JSON of that shape.
pub(crate) fn split_tiktok(body: &[u8]) -> Option<Split<'_>> {
    let read: TiktokBody = serde_json::from_slice(body).ok()?;
    let is_event = read.create_time.as_ref().is_none_or(|time| time_of(time).is_some());
    let is_event = is_event && body.len() <= MAX_ENTRY;
    let (Some(account), Some(event), true) = (id(&read.user_openid), read.event.as_str(), is_event) else {
        return Some(Split { entries: Vec::new(), malformed: 1 });
    };
    let entry = Entry { account, event_type: named(event.to_owned()), raw: body };
    Some(Split { entries: vec![entry], malformed: 0 })
}

/// A name as it can be stored.
fn named(name: String) -> String {
    name.chars().filter(|character| !character.is_control()).take(MAX_TYPE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_its_bytes_and_a_malformed_one_spoils_no_other() {
        let body = br#"{"object":"instagram","entry":[ {"id":"1", "time":1 ,"messaging":[]},5,{"time":2},{"id":17841400000000001,"changes":[{"field":"comments"}]},
            {"id":"3","field":"com\u0000ments"}]}"#;
        let split = split_meta(body).unwrap();
        let seen: Vec<(&str, &str)> =
            split.entries.iter().map(|entry| (entry.account.as_str(), entry.event_type.as_str())).collect();
        assert_eq!(seen, [("1", "messaging"), ("17841400000000001", "comments"), ("3", "comments")]);
        assert_eq!(split.entries[0].raw, br#"{"id":"1", "time":1 ,"messaging":[]}"#);
        assert_eq!(split.malformed, 2);
        let wrapped = [b"[", body.as_slice(), b"]"].concat();
        assert_eq!(split_meta(&wrapped).unwrap().entries.len(), 3);
        for odd in ["", "null", "{}", r#"{"entry":1}"#, r#"{"entry":[{"id":"1"}]"#, "[1]"] {
            assert_eq!(split_meta(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn tiktoks_event_is_one_entry_with_all_its_bytes() {
        let body = br#"{"client_key":"k","event":"im_receive_msg","create_time":1,"user_openid":"o","content":"{}"}"#;
        let split = split_tiktok(body).unwrap();
        assert_eq!(
            split.entries,
            [Entry { account: "o".to_owned(), event_type: "im_receive_msg".to_owned(), raw: body }]
        );
        assert_eq!(split_tiktok(br#"{"event":1,"user_openid":"o"}"#).unwrap().malformed, 1);
        assert_eq!(split_tiktok(br#"{"event":"x"}"#), None);
    }
}
