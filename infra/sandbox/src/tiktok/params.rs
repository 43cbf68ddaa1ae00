//! Query parameters and JSON bodies: none that an endpoint does not know.

use serde_json::{Map, Value};
use url::form_urlencoded::parse;

use super::{refusal::Refusal, world::Platform};

/// The parameters of one request.
#[derive(Debug, Clone)]
pub(super) struct Query {
    platform: Platform,
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn parse(platform: Platform, encoded: &str) -> Self {
        Self { platform, pairs: parse(encoded.as_bytes()).into_owned().collect() }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn invalid(&self, name: &str) -> Refusal {
        Refusal::invalid(self.platform, &format!("{name}: Invalid parameter"))
    }

    /// Refuses what is not in this list, and what comes twice.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        for (at, (name, _)) in self.pairs.iter().enumerate() {
            let twice = self.pairs[..at].iter().any(|(before, _)| before == name);
            if twice || !known.contains(&name.as_str()) {
                return Err(self.invalid(name));
            }
        }
        Ok(())
    }

    pub(super) fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).filter(|value| !value.is_empty()).ok_or_else(|| self.invalid(name))
    }

    pub(super) fn integer(&self, name: &str, most: i64) -> Result<Option<i64>, Refusal> {
        let number = |text: &str| text.parse().ok().filter(|number| (0..=most).contains(number));
        self.get(name).map(|text| number(text).ok_or_else(|| self.invalid(name))).transpose()
    }

    /// How many rows, at least one.
    pub(super) fn rows(&self, name: &str, otherwise: usize, most: i64) -> Result<usize, Refusal> {
        match self.integer(name, most)? {
            None => Ok(otherwise),
            Some(0) => Err(self.invalid(name)),
            Some(rows) => usize::try_from(rows).map_err(|_| self.invalid(name)),
        }
    }

    /// One of these words.
    pub(super) fn word<'a>(&self, name: &str, words: &[&'a str], otherwise: &'a str) -> Result<&'a str, Refusal> {
        let Some(text) = self.get(name) else { return Ok(otherwise) };
        words.iter().find(|word| **word == text).copied().ok_or_else(|| self.invalid(name))
    }

    /// An array of strings in JSON, as platform B takes lists.
    pub(super) fn strings(&self, name: &str) -> Result<Option<Vec<String>>, Refusal> {
        self.get(name).map(|text| serde_json::from_str(text).map_err(|_| self.invalid(name))).transpose()
    }

    /// Words with commas between them, as platform A takes fields: each one of those known, and none twice.
    pub(super) fn fields(&self, known: &[&'static str]) -> Result<Vec<&'static str>, Refusal> {
        let mut fields = Vec::new();
        for asked in self.required("fields")?.split(',') {
            let field = known.iter().find(|field| **field == asked).filter(|field| !fields.contains(*field));
            fields.push(*field.ok_or_else(|| self.invalid("fields"))?);
        }
        Ok(fields)
    }
}

/// A body in JSON that knows these names alone.
pub(super) fn object(platform: Platform, body: &[u8], known: &[&str]) -> Result<Map<String, Value>, Refusal> {
    let invalid = |message: &str| Refusal::invalid(platform, message);
    // Both platforms take no body for an empty one.
    let body = if body.is_empty() { b"{}" } else { body };
    let object: Map<String, Value> = serde_json::from_slice(body).map_err(|_| invalid("The body is no JSON object"))?;
    match object.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(invalid(&format!("{name}: Invalid parameter"))),
        None => Ok(object),
    }
}
