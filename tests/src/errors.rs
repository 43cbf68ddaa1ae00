//! Every error that a client may get, as it was reviewed: its status, its code and its text, with `{}` where a value varies.

/// One error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// The HTTP status.
    pub status: u16,
    /// What programs go by.
    pub code: &'static str,
    /// What people read.
    pub detail: &'static str,
}

/// The list in `errors.txt`, in its order.
pub fn all() -> impl Iterator<Item = Known> {
    include_str!("errors.txt").lines().map(|line| {
        let mut parts = line.splitn(3, ' ');
        let mut next = || parts.next().unwrap_or_else(|| panic!("tests/src/errors.txt: {line}"));
        Known { status: next().parse().unwrap(), code: next(), detail: next() }
    })
}

impl Known {
    /// Whether a text is this one, with some value for each `{}`.
    pub fn says(&self, text: &str) -> bool {
        let mut parts = self.detail.split("{}");
        let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
        let parts: Vec<&str> = parts.collect();
        let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
        for part in middle {
            // A value has a character at least, so it is looked for behind one.
            let behind = rest.chars().next().map_or(0, char::len_utf8);
            match rest[behind..].find(part) {
                Some(at) if behind > 0 => rest = &rest[behind + at + part.len()..],
                _ => return false,
            }
        }
        rest.len() > last.len() && rest.ends_with(last)
    }
}

/// Checks that an error with this status, code and text is on the list.
#[track_caller]
pub fn check(status: u16, code: &str, detail: &str) {
    let known = all().any(|known| known.status == status && known.code == code && known.says(detail));
    assert!(known, "tests/src/errors.txt has no line for: {status} {code} {detail}");
}
