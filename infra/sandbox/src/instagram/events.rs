//! Webhooks: their shapes in both flavours, and how they are signed.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use crate::{escaped, hooks::Written, storage::mac};

/// The most entries in a body.
pub const MOST_ENTRIES: usize = 1000;

/// Which of the two APIs an application uses, which shows in the shape of webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flavour {
    /// Instagram API with Instagram Login: `field` and `value` on the entry itself.
    #[default]
    InstagramLogin,
    /// Instagram API with Facebook Login: `changes`, and `comment_id`.
    FacebookLogin,
}

/// What happened to an account.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) account: String,
    /// Unix milliseconds.
    pub(super) at: i64,
    pub(super) what: What,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    /// One of `messaging`.
    Messaging(Value),
    /// A comment, with its id under `id`.
    Comment(Value),
    /// A mention in a comment on another account's medium, which is a comment of its own under Instagram Login.
    Mention(Value),
    /// An entry as it is given.
    Entry(Value),
}

impl Event {
    /// The entry that it becomes.
    pub(super) fn entry(&self, flavour: Flavour) -> Value {
        match (&self.what, flavour) {
            (What::Entry(entry), _) => entry.clone(),
            (What::Messaging(messaging), _) => messaging_entry(&self.account, self.at, messaging.clone()),
            (What::Mention(value), Flavour::FacebookLogin) => {
                let mut mention = json!({ "media_id": value["media"]["id"] });
                if let Some(id) = value.get("id") {
                    mention["comment_id"] = id.clone();
                }
                change_entry(flavour, &self.account, self.at / 1000, "mentions", mention)
            }
            (What::Comment(value), Flavour::FacebookLogin) => {
                let mut value = value.clone();
                if let Some(id) = value.as_object_mut().and_then(|value| value.remove("id")) {
                    value["comment_id"] = id;
                }
                change_entry(flavour, &self.account, self.at / 1000, "comments", value)
            }
            (What::Comment(value) | What::Mention(value), Flavour::InstagramLogin) => {
                change_entry(flavour, &self.account, self.at / 1000, "comments", value.clone())
            }
        }
    }
}

/// An entry of one of `messaging`, at this time in unix milliseconds.
#[must_use]
pub fn messaging_entry(account: &str, at_ms: i64, messaging: Value) -> Value {
    json!({ "id": account, "time": at_ms, "messaging": [messaging] })
}

/// An entry of one change, at this time in unix seconds.
#[must_use]
pub fn change_entry(flavour: Flavour, account: &str, at: i64, field: &str, value: Value) -> Value {
    match flavour {
        Flavour::InstagramLogin => json!({ "id": account, "time": at, "field": field, "value": value }),
        Flavour::FacebookLogin => {
            json!({ "id": account, "time": at, "changes": [{ "field": field, "value": value }] })
        }
    }
}

/// One of `messaging`: what `content` holds, from `sender` to `recipient` at this time in unix milliseconds.
#[must_use]
pub fn messaging(sender: &str, recipient: &str, at_ms: i64, content: Value) -> Value {
    let mut messaging = json!({ "sender": { "id": sender }, "recipient": { "id": recipient }, "timestamp": at_ms });
    if let (Value::Object(whole), Value::Object(content)) = (&mut messaging, content) {
        whole.extend(content);
    }
    messaging
}

/// Entries that follow each other, for one account and of one kind, made one entry.
#[must_use]
pub fn merged(entries: Vec<Value>) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::with_capacity(entries.len());
    for mut entry in entries {
        let kind = ["messaging", "changes"].into_iter().find(|kind| entry[kind].is_array());
        let before = merged.last_mut().filter(|before| before["id"] == entry["id"]);
        match (kind, before) {
            (Some(kind), Some(before)) if before[kind].is_array() => {
                let (Some(to), Some(from)) = (before[kind].as_array_mut(), entry[kind].as_array_mut()) else {
                    continue;
                };
                to.append(from);
                before["time"] = entry["time"].clone();
            }
            _ => merged.push(entry),
        }
    }
    merged
}

/// The body that holds these entries.
#[must_use]
pub fn body(entries: &[Value], written: Written) -> Vec<u8> {
    let body = json!({ "object": "instagram", "entry": entries });
    match written {
        Written::Escaped => escaped::text(&body).into_bytes(),
        Written::Raw => body.to_string().into_bytes(),
    }
}

/// The value of `X-Hub-Signature-256`.
#[must_use]
pub fn sign(body: &[u8], secret: &str) -> String {
    format!("sha256={}", hex::encode(mac(secret.as_bytes(), body)))
}

/// The value of `X-Hub-Signature`, which is sent beside it still.
#[must_use]
pub fn sign_sha1(body: &[u8], secret: &str) -> String {
    // HMAC takes keys of any length.
    let mut padded = hmac::digest::Key::<Hmac<Sha1>>::default();
    let hashed = Sha1::digest(secret.as_bytes());
    let key = if secret.len() > padded.len() { hashed.as_slice() } else { secret.as_bytes() };
    padded.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let mut mac = Hmac::<Sha1>::new(&padded);
    mac.update(body);
    format!("sha1={}", hex::encode(mac.finalize().into_bytes()))
}

/// What goes with a body that is posted.
#[must_use]
pub fn headers(body: &[u8], secret: &str) -> Vec<(&'static str, String)> {
    vec![
        ("accept", "*/*".to_owned()),
        ("user-agent", "facebookexternalua".to_owned()),
        ("content-type", "application/json".to_owned()),
        ("x-hub-signature", sign_sha1(body, secret)),
        ("x-hub-signature-256", sign(body, secret)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "meta_app_secret_test";

    #[test]
    fn signatures_are_those_of_the_vectors() {
        let check = |body: &str, expected: &str| {
            assert_eq!(sign(body.as_bytes(), SECRET), format!("sha256={expected}"), "{body}");
        };
        check(
            r#"{"object":"instagram","entry":[{"id":"17841400000000000","time":1700000000,"messaging":[]}]}"#,
            "91c5d94b3a953830abbaa20fccc7ad3d63604738a70f56e35e4833eff532dd26",
        );
        check(r#"{"text":"\u00e4\u00f6\u00e5"}"#, "e8473264b157ecd8822805025b2053c005e31cccc7bab366668976639f9023a7");
        check(r#"{"text":"äöå"}"#, "3cf2cc384e3f2ca536bda1a87f301f3fa90775b005d3b9cff36e6be32cd17eaa");
    }

    #[test]
    fn the_old_signature_is_that_of_rfc_2202() {
        let wanted = "sha1=effcdf6ae5eb2fa2d27416d5f184df9c259a7c79";
        assert_eq!(sign_sha1(b"what do ya want for nothing?", "Jefe"), wanted);
    }

    #[test]
    fn both_flavours_write_a_comment_as_their_pages_do() {
        let value = json!({ "id": "1", "text": "t", "media": { "id": "m" } });
        let event = |what: What| Event { account: "17841400000000000".to_owned(), at: 1_700_000_000_123, what };
        let comment = event(What::Comment(value.clone()));
        assert_eq!(
            comment.entry(Flavour::InstagramLogin),
            json!({ "id": "17841400000000000", "time": 1_700_000_000, "field": "comments", "value": value })
        );
        let changed = json!({ "comment_id": "1", "text": "t", "media": { "id": "m" } });
        assert_eq!(
            comment.entry(Flavour::FacebookLogin),
            json!({
                "id": "17841400000000000", "time": 1_700_000_000,
                "changes": [{ "field": "comments", "value": changed }],
            })
        );
        assert_eq!(
            event(What::Mention(value)).entry(Flavour::FacebookLogin)["changes"],
            json!([{ "field": "mentions", "value": { "media_id": "m", "comment_id": "1" } }])
        );
    }

    #[test]
    fn entries_of_an_account_are_merged_where_they_follow_each_other() {
        let entry = |account: &str, at| messaging_entry(account, at, json!({ "at": at }));
        let comment = change_entry(Flavour::InstagramLogin, "a", 4, "comments", json!({}));
        let made = merged(vec![entry("a", 1), entry("a", 2), entry("b", 3), comment.clone(), entry("a", 5)]);
        let expected = json!({ "id": "a", "time": 2, "messaging": [{ "at": 1 }, { "at": 2 }] });
        assert_eq!(made, [expected, entry("b", 3), comment, entry("a", 5)]);
    }
}
