//! Query parameters: none that an edge does not know, and none of those that version 27 took away.

use serde_json::{Map, Value};
use url::form_urlencoded::{Serializer, parse};

use super::{
    fields::{self, Field},
    refusal::Refusal,
};

/// What is gone for new applications since 2026-11-04, on every version.
const GONE: [&str; 5] = ["ids", "method", "date_format", "callback", "batch"];
/// What every list takes.
pub(super) const PAGES: [&str; 2] = ["limit", "after"];
/// Rows on a page when nothing is said.
const DEFAULT_LIMIT: usize = 25;
/// The most rows on a page. What more gets is not on our provider page; the sandbox refuses.
const MOST: usize = 100;

/// The parameters of one request.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(encoded: &str) -> Self {
        Self(parse(encoded.as_bytes()).into_owned().collect())
    }

    /// With what a body holds: the pairs of a form, or what is plain in a JSON object.
    pub(super) fn and_body(mut self, body: &[u8], json: Option<&Map<String, Value>>) -> Self {
        match json {
            None => self.0.extend(parse(body).into_owned()),
            Some(object) => self.0.extend(object.iter().filter_map(|(name, value)| match value {
                Value::String(text) => Some((name.clone(), text.clone())),
                Value::Bool(_) | Value::Number(_) => Some((name.clone(), value.to_string())),
                Value::Null | Value::Array(_) | Value::Object(_) => None,
            })),
        }
        self
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Refuses what is in none of these lists, and what comes twice.
    pub(super) fn only(&self, known: &[&[&str]]) -> Result<(), Refusal> {
        for (at, (name, _)) in self.0.iter().enumerate() {
            if GONE.contains(&name.as_str()) {
                return Err(Refusal::parameter(format!("The parameter {name} is not available to this app")));
            }
            let twice = self.0[..at].iter().any(|(before, _)| before == name);
            let is_known = name == "access_token" || known.iter().any(|names| names.contains(&name.as_str()));
            if twice || !is_known {
                return Err(Refusal::parameter(format!("Invalid parameter {name}")));
            }
        }
        Ok(())
    }

    pub(super) fn required(&self, name: &str) -> Result<&str, Refusal> {
        let found = self.get(name).filter(|value| !value.is_empty());
        found.ok_or_else(|| Refusal::parameter(format!("The parameter {name} is required")))
    }

    /// The fields that are asked for, or else these.
    pub(super) fn fields(&self, otherwise: &[&str]) -> Result<Vec<Field>, Refusal> {
        self.get("fields").map_or_else(|| Ok(Field::plains(otherwise)), fields::parse)
    }

    pub(super) fn limit(&self) -> Result<usize, Refusal> {
        self.get("limit").map_or(Ok(DEFAULT_LIMIT), |text| {
            limit(text.parse().map_err(|_| Refusal::parameter("The parameter limit must be a number"))?)
        })
    }

    /// The same with another cursor, to ask for the next page.
    pub(super) fn with_after(&self, cursor: &str, token: &str) -> String {
        let kept = self.0.iter().filter(|(name, _)| name != "after" && name != "access_token");
        let mut written = Serializer::new(String::new());
        written.extend_pairs(kept).append_pair("after", cursor).append_pair("access_token", token);
        written.finish()
    }
}

pub(super) fn limit(rows: usize) -> Result<usize, Refusal> {
    if (1..=MOST).contains(&rows) {
        Ok(rows)
    } else {
        Err(Refusal::parameter(format!("The parameter limit must be between 1 and {MOST}")))
    }
}
