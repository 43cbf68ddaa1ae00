//! What the API lets a body say: names of fields, kinds of values, lengths and characters.

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// The object that a body wraps in the name of its resource.
pub(super) fn wrapped(body: &[u8], name: &str) -> Result<Map<String, Value>, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Refusal::body());
    }
    let body: Value = serde_json::from_slice(body).map_err(|_| Refusal::syntax())?;
    let Value::Object(mut body) = body else { return Err(Refusal::body()) };
    let Some(Value::Object(resource)) = body.remove(name) else { return Err(Refusal::body()) };
    if body.is_empty() { Ok(resource) } else { Err(Refusal::field()) }
}

/// Refuses fields that are none of these: unknown ones, and those that can only be read.
pub(super) fn only(object: &Map<String, Value>, known: &[&str]) -> Result<(), Refusal> {
    if object.keys().all(|name| known.contains(&name.as_str())) { Ok(()) } else { Err(Refusal::field()) }
}

/// Whether Fortnox stores the character, by the list of the guide "Formats and encoding".
pub(super) fn allowed(c: char) -> bool {
    const SIGNS: &str = "–:.`´',;^¤#%§£$€¢¥©™°&/()=+-*_!?²³®½@ \u{a0}\n\r";
    c.is_alphabetic() || c.is_ascii_digit() || SIGNS.contains(c)
}

/// A text of allowed characters, if there is one. An empty one counts as none.
pub(super) fn text(object: &Map<String, Value>, field: &str, most: usize) -> Result<Option<String>, Refusal> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => {
            checked(field, text, most)?;
            Ok((!text.is_empty()).then(|| text.clone()))
        }
        Some(_) => Err(Refusal::body()),
    }
}

pub(super) fn checked(field: &str, text: &str, most: usize) -> Result<(), Refusal> {
    if text.chars().count() > most {
        return Err(Refusal::too_long(field, most));
    }
    if text.chars().all(allowed) { Ok(()) } else { Err(Refusal::characters(text)) }
}

/// A text that must be there.
pub(super) fn required(object: &Map<String, Value>, field: &str, most: usize) -> Result<String, Refusal> {
    text(object, field, most)?.filter(|text| !text.trim().is_empty()).ok_or_else(|| Refusal::required(field))
}

/// A number's digits, whether it is written as a number or as a text.
pub(super) fn number(value: &Value) -> Result<String, Refusal> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return Err(Refusal::not_numeric(value)),
    };
    if text.parse::<f64>().is_ok_and(f64::is_finite) { Ok(text) } else { Err(Refusal::not_numeric(value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_any_language_are_allowed_and_quotes_brackets_and_emoji_are_not() {
        let check = |text: &str, is: bool| {
            for c in text.chars() {
                assert_eq!(allowed(c), is, "{c:?}");
            }
        };
        check("aZ09åäöÅÄÖéłøÆжλ東 –:.`´',;^¤#%§£$€¢¥©™°&/()=+-*_!?²³®½@\u{a0}\n\r", true);
        check("\"<>[]{}|~\\\t\0😀…”", false);
    }
}
