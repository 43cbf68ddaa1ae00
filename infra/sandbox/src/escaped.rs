//! JSON as servers in PHP write it: slashes escaped, and nothing but ASCII.

use std::fmt::Write;

use serde_json::Value;

/// The text of a body.
pub(crate) fn text(body: &Value) -> String {
    let plain = body.to_string();
    let mut escaped = String::with_capacity(plain.len() + plain.len() / 8);
    // Outside of strings JSON has neither slashes nor letters beyond ASCII.
    for c in plain.chars() {
        match c {
            '/' => escaped.push_str("\\/"),
            c if c.is_ascii() => escaped.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn slashes_and_letters_beyond_ascii_are_escaped() {
        assert_eq!(text(&json!({ "a/b": "Åsa 😀" })), r#"{"a\/b":"\u00c5sa \ud83d\ude00"}"#);
    }
}
