//! Reads delivered entries.

use crate::{meta, said::Read, tiktok};

/// Reads an entry that `provider` delivered for `account`. One part that cannot be read keeps none of the others from being read.
#[must_use]
pub fn read(provider: &str, account: &str, raw: &[u8]) -> Read {
    let parsed = serde_json::from_slice(raw);
    let mut read = Read::default();
    match (provider, parsed) {
        ("meta", Ok(entry)) => meta::read(account, &entry, &mut read),
        ("tiktok", Ok(event)) => tiktok::read(account, &event, &mut read),
        _ => read.unparsed = 1,
    }
    read
}
