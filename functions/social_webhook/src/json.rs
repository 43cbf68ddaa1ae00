//! Values as platforms write them: ids as text or as whole numbers beyond 2^53, times in seconds or milliseconds.

use serde_json::Value;
use shared::clients::social::id;

/// The id of a member. Zero is how TikTok says that there is none.
pub(crate) fn member(value: &Value, name: &str) -> Option<String> {
    id(value.get(name)?).filter(|id| id != "0")
}

/// Text of a member, without what Postgres does not store.
pub(crate) fn text(value: &Value, name: &str) -> Option<String> {
    Some(value.get(name)?.as_str()?.replace('\0', "")).filter(|text| !text.is_empty())
}

/// A time in milliseconds. What is too small to be that is in seconds: the earliest milliseconds that are taken for such are of 1973.
pub(crate) fn time_of(value: &Value) -> Option<i64> {
    let number = match value {
        Value::String(text) => text.parse().ok()?,
        other => other.as_i64()?,
    };
    match number {
        1..100_000_000_000 => number.checked_mul(1000),
        100_000_000_000..100_000_000_000_000 => Some(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, json};

    use super::*;

    #[test]
    fn ids_keep_every_digit_and_times_their_unit() {
        let large: Value = from_str("7599999999999999999").unwrap();
        assert_eq!(id(&large).unwrap(), "7599999999999999999");
        assert_eq!(id(&json!("7599999999999999999")), id(&large));
        for odd in ["1.5", "1e30", "null", "\"\"", "[]", "\"a\\u0000\"", "99999999999999999999999"] {
            assert_eq!(id(&from_str(odd).unwrap()), None, "{odd}");
        }
        assert_eq!(member(&json!({ "a": 0 }), "a"), None);
        assert_eq!(time_of(&json!(1_700_000_000)), Some(1_700_000_000_000));
        assert_eq!(time_of(&json!("1700000000")), Some(1_700_000_000_000));
        assert_eq!(time_of(&json!(1_700_000_000_123_i64)), Some(1_700_000_000_123));
        assert_eq!(time_of(&json!(99_999_999_999_i64)), Some(99_999_999_999_000));
        assert_eq!(time_of(&json!(100_000_000_000_i64)), Some(100_000_000_000));
        for odd in [json!(0), json!(-1), json!(i64::MAX), json!(1.5), json!("x"), json!(null)] {
            assert_eq!(time_of(&odd), None, "{odd}");
        }
    }
}
