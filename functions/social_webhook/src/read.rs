//! Reads delivered entries.

use std::borrow::Cow;

use crate::{meta, said::Read, tiktok};

/// Reads an entry that `provider` delivered for `account`. One part that cannot be read keeps none of the others from being read.
#[must_use]
pub fn read(provider: &str, account: &str, raw: &[u8]) -> Read {
    let parsed = serde_json::from_slice(&whole(raw));
    let mut read = Read::default();
    match (provider, parsed) {
        ("meta", Ok(entry)) => meta::read(account, &entry, &mut read),
        ("tiktok", Ok(event)) => tiktok::read(account, &event, &mut read),
        _ => read.unparsed = 1,
    }
    read
}

/// JSON in which half of a character of two halves, as a text has that was cut there, stands for the sign of one that is unknown: no text
/// holds a half.
fn whole(raw: &[u8]) -> Cow<'_, [u8]> {
    let half = |at: usize| {
        let digits = raw.get(at..at + 6)?.strip_prefix(br"\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut mended, mut at) = (Cow::Borrowed(raw), 0);
    while at < raw.len() {
        if raw[at] != b'\\' {
            at += 1;
            continue;
        }
        let step = match half(at) {
            Some(0xd800..=0xdbff) if matches!(half(at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                mended.to_mut()[at + 2..at + 6].copy_from_slice(b"fffd");
                6
            }
            Some(_) => 6,
            // Another escape: what follows the backslash belongs to it.
            None => 2,
        };
        at += step;
    }
    mended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_character_is_one_that_is_unknown_and_all_else_stays() {
        for (raw, text) in [
            (r#""\ud83d\ude00""#, "😀"),
            (r#""a\ud83d""#, "a\u{fffd}"),
            (r#""\ude00b""#, "\u{fffd}b"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀"),
            (r#""\\ud83d \u00e4""#, "\\ud83d ä"),
        ] {
            assert_eq!(serde_json::from_slice::<String>(&whole(raw.as_bytes())).unwrap(), text, "{raw}");
        }
        assert!(matches!(whole(br#""\u00e4 \" \\""#), Cow::Borrowed(_)));
    }

    #[test]
    fn an_entry_with_half_a_character_is_read() {
        let raw = br#"{"id":"1","messaging":[{"sender":{"id":"9"},"timestamp":1700000000000,"message":{"mid":"m","text":"hej \ud83d"}}]}"#;
        let said = read("meta", "1", raw);
        assert_eq!(
            (said.status(), said.observations[0].text.clone()),
            ("applied", Some(Some("hej \u{fffd}".to_owned())))
        );
    }
}
