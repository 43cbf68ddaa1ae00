//! What clients send, and what it becomes. No I/O.

use serde::Deserialize;
use shared::http::ApiError;

/// The most customers that one import or one page takes.
const MOST: i32 = 1000;
/// The longest customer number.
const LONGEST: usize = 100;

/// What is to be read.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SyncBody {
    #[serde(default)]
    pub(crate) full: bool,
}

/// Which customers are to become clients: those of these numbers, or all.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportBody {
    customer_numbers: Option<Vec<String>>,
    #[serde(default)]
    all: bool,
    after: Option<String>,
    limit: Option<i32>,
}

/// An import that can be asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Import {
    pub(crate) numbers: Option<Vec<String>>,
    pub(crate) after: Option<String>,
    pub(crate) most: i32,
}

impl ImportBody {
    pub(crate) fn parse(self) -> Result<Import, ApiError> {
        let invalid = |detail: &'static str| ApiError::unprocessable("import_invalid", detail);
        match (self.customer_numbers, self.all) {
            (Some(numbers), false) if self.after.is_none() && self.limit.is_none() => {
                let fits = usize::try_from(MOST).is_ok_and(|most| (1..=most).contains(&numbers.len()));
                if !fits || numbers.iter().any(|number| number.is_empty() || !is_number(number)) {
                    return Err(invalid("customer_numbers takes 1 to 1000 numbers of 1 to 100 characters."));
                }
                Ok(Import { numbers: Some(numbers), after: None, most: MOST })
            }
            (None, true) => {
                let most = self.limit.unwrap_or(MOST);
                if !(1..=MOST).contains(&most) {
                    return Err(invalid("limit must be from 1 to 1000."));
                }
                if self.after.as_ref().is_some_and(|after| !is_number(after)) {
                    return Err(invalid("after must be a customer number."));
                }
                Ok(Import { numbers: None, after: self.after, most })
            }
            _ => Err(invalid("Name customer_numbers, or say all: true, with limit and after if need be.")),
        }
    }
}

/// Whether a customer may have this number, or it is empty.
fn is_number(text: &str) -> bool {
    text.len() <= LONGEST && !text.contains(char::is_control)
}

/// Which page of customers is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    #[serde(default)]
    after: String,
    limit: Option<String>,
}

impl PageQuery {
    /// The number that the page comes after, and how many customers it has at most.
    pub(crate) fn parse(&self) -> Result<(&str, i64), ApiError> {
        if !is_number(&self.after) {
            return Err(ApiError::unprocessable("after_invalid", "after must be a customer number."));
        }
        match self.limit.as_deref().map(str::parse) {
            None => Ok((&self.after, 100)),
            Some(Ok(most @ 1..=1000)) => Ok((&self.after, most)),
            Some(_) => Err(ApiError::unprocessable("limit_invalid", "limit must be from 1 to 1000.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_import_names_numbers_or_says_all() {
        let parse = |body| serde_json::from_value::<ImportBody>(body).unwrap().parse();
        let named = parse(json!({ "customer_numbers": ["1", "2"] })).unwrap();
        assert_eq!(named, Import { numbers: Some(vec!["1".to_owned(), "2".to_owned()]), after: None, most: 1000 });
        let all = parse(json!({ "all": true, "limit": 10, "after": "7" })).unwrap();
        assert_eq!(all, Import { numbers: None, after: Some("7".to_owned()), most: 10 });
        for wrong in [
            json!({}),
            json!({ "customer_numbers": [] }),
            json!({ "customer_numbers": [""] }),
            json!({ "customer_numbers": ["1\0"] }),
            json!({ "all": true, "after": "1\n" }),
            json!({ "customer_numbers": ["1"], "all": true }),
            json!({ "customer_numbers": ["1"], "limit": 1 }),
            json!({ "customer_numbers": vec!["1"; 1001] }),
            json!({ "all": true, "limit": 0 }),
            json!({ "all": true, "limit": 1001 }),
        ] {
            assert!(parse(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
