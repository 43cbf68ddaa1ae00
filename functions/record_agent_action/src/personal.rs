//! Personal values in what an agent sends: `{"personal": "text", "subject": id}`, anywhere. Each becomes what its subject's key seals, before
//! anything is stored, so that destroying the key erases it from the audit log and from the document alike.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use shared::{audit::Subject, seal::SealError};
use uuid::Uuid;

/// The name that marks a personal value. No object may have it otherwise, so that none is stored unsealed by mistake.
const MARK: &str = "personal";

/// Reads an object that is marked: its text and whose it is. None if it is not marked; an error if it is, and is not of that shape.
fn marked(object: &Map<String, Value>) -> Option<Result<(&str, Uuid), ()>> {
    let text = object.get(MARK)?;
    let subject = object.get("subject").and_then(Value::as_str).and_then(|id| Uuid::try_parse(id).ok());
    Some(match (text.as_str(), subject, object.len()) {
        (Some(text), Some(subject), 2) => Ok((text, subject)),
        _ => Err(()),
    })
}

/// Whose personal values `value` has.
///
/// # Errors
/// If an object is marked and is not of the shape.
pub(crate) fn subjects(value: &Value, found: &mut Vec<Uuid>) -> Result<(), ()> {
    match value {
        Value::Object(object) => match marked(object) {
            Some(marked) => {
                found.push(marked?.1);
                Ok(())
            }
            None => object.values().try_for_each(|value| subjects(value, found)),
        },
        Value::Array(values) => values.iter().try_for_each(|value| subjects(value, found)),
        _ => Ok(()),
    }
}

/// `value` with each personal value sealed for the audit log's `field`; null for a person who was erased, or whose key is not among `keys`.
///
/// # Errors
/// [`SealError`] if the cipher refuses.
pub(crate) fn sealed(value: &Value, field: &'static str, keys: &BTreeMap<Uuid, Subject>) -> Result<Value, SealError> {
    Ok(match value {
        Value::Object(object) => match marked(object) {
            Some(Ok((text, subject))) => match keys.get(&subject) {
                Some(key) => key.seal(field, text)?,
                None => Value::Null,
            },
            // Refused before; and if not, not stored.
            Some(Err(())) => Value::Null,
            None => {
                let fields = object.iter().map(|(name, value)| Ok((name.clone(), sealed(value, field, keys)?)));
                Value::Object(fields.collect::<Result<_, SealError>>()?)
            }
        },
        Value::Array(values) => {
            Value::Array(values.iter().map(|value| sealed(value, field, keys)).collect::<Result<_, _>>()?)
        }
        other => other.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_marked_object_has_a_text_and_a_subject_and_nothing_else() {
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let found = |value: Value| {
            let mut found = Vec::new();
            subjects(&value, &mut found).map(|()| found)
        };
        assert_eq!(found(json!({ "a": 1 })), Ok(vec![]));
        assert_eq!(found(json!({ "subject": one })), Ok(vec![]));
        let nested = json!({ "a": [{ "personal": "x", "subject": one }, { "b": { "personal": "", "subject": two } }] });
        assert_eq!(found(nested), Ok(vec![one, two]));
        for wrong in [
            json!({ "personal": "x" }),
            json!({ "personal": "x", "subject": "nobody" }),
            json!({ "personal": 1, "subject": one }),
            json!({ "personal": null, "subject": one }),
            json!({ "personal": { "personal": "x", "subject": one }, "subject": one }),
            json!({ "personal": "x", "subject": one, "more": 1 }),
        ] {
            assert_eq!(found(json!([[wrong]])), Err(()), "{wrong}");
        }
    }

    #[test]
    fn what_has_no_key_is_not_kept() {
        let value = json!({ "a": [{ "personal": "Greta", "subject": Uuid::nil() }], "b": "kept" });
        assert_eq!(sealed(&value, "input", &BTreeMap::new()).unwrap(), json!({ "a": [null], "b": "kept" }));
    }
}
