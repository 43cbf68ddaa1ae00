//! Query parameters, as the guide "Parameters" has them: lower case, and none that a resource does not know.

use chrono::{NaiveDate, NaiveDateTime};
use serde_json::{Value, json};
use url::form_urlencoded::parse;

use super::refusal::Refusal;

/// What every list takes.
pub(super) const PAGES: [&str; 3] = ["limit", "page", "offset"];
/// Rows on a page when nothing is said.
const DEFAULT_LIMIT: usize = 100;
/// The most rows on a page. Whether Fortnox refuses more or gives fewer is not documented; the sandbox refuses.
const MOST: usize = 500;

/// The parameters of one request.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(encoded: &str) -> Self {
        Self(parse(encoded.as_bytes()).into_owned().collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Refuses what is in none of these lists, and what comes twice.
    pub(super) fn only(&self, known: &[&[&str]]) -> Result<(), Refusal> {
        for (at, (name, _)) in self.0.iter().enumerate() {
            let twice = self.0[..at].iter().any(|(before, _)| before == name);
            if twice || !known.iter().any(|names| names.contains(&name.as_str())) {
                return Err(Refusal::parameter());
            }
        }
        Ok(())
    }

    /// The one of these that is searched by. Two at a time are refused.
    pub(super) fn search(&self, fields: &[&str]) -> Result<Option<(&str, &str)>, Refusal> {
        let mut searched = self.0.iter().filter(|(name, _)| fields.contains(&name.as_str()));
        let first = searched.next().map(|(name, value)| (name.as_str(), value.as_str()));
        if searched.next().is_some() { Err(Refusal::parameter()) } else { Ok(first) }
    }

    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, Refusal> {
        self.get(name).map(|value| value.parse().map_err(|_| Refusal::parameter())).transpose()
    }

    pub(super) fn date(&self, name: &str) -> Result<Option<NaiveDate>, Refusal> {
        self.get(name).map(|value| date(value).ok_or_else(Refusal::parameter)).transpose()
    }

    /// `2019-03-10 12:30`, or a date alone. In Swedish time, to the minute.
    pub(super) fn last_modified(&self) -> Result<Option<NaiveDateTime>, Refusal> {
        let Some(text) = self.get("lastmodified") else { return Ok(None) };
        let minute = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").ok();
        let midnight = || date(text)?.and_hms_opt(0, 0, 0);
        minute.or_else(midnight).map(Some).ok_or_else(Refusal::parameter)
    }

    /// Whether `sortorder` asks for the last one first.
    pub(super) fn descending(&self) -> Result<bool, Refusal> {
        match self.get("sortorder") {
            None | Some("ascending") => Ok(false),
            Some("descending") => Ok(true),
            Some(_) => Err(Refusal::parameter()),
        }
    }

    /// The rows of the page that is asked for, and what is said of all pages. Pages are cut when they are asked for: a row that goes
    /// away moves all that follow it.
    pub(super) fn page<'a, T>(&self, rows: &'a [T]) -> Result<(&'a [T], Value), Refusal> {
        let natural = |name| match self.integer(name) {
            Ok(number) => number.map(usize::try_from).transpose().map_err(|_| Refusal::parameter()),
            Err(refusal) => Err(refusal),
        };
        let limit = natural("limit")?.unwrap_or(DEFAULT_LIMIT);
        let (page, offset) = (natural("page")?, natural("offset")?);
        if !(1..=MOST).contains(&limit) || page == Some(0) || (page.is_some() && offset.is_some()) {
            return Err(Refusal::parameter());
        }
        let skipped = offset.unwrap_or_else(|| (page.unwrap_or(1) - 1).saturating_mul(limit));
        let begin = skipped.min(rows.len());
        let meta = json!({
            "@TotalResources": rows.len(), "@TotalPages": rows.len().div_ceil(limit), "@CurrentPage": skipped / limit + 1,
        });
        Ok((&rows[begin..(begin + limit).min(rows.len())], meta))
    }
}

/// `2014-12-01`, and no other way to write it.
pub(super) fn date(text: &str) -> Option<NaiveDate> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    (date.to_string() == text).then_some(date)
}

/// `ILIKE '%value%'`, without its wildcards.
pub(super) fn contains(text: &str, value: &str) -> bool {
    text.to_lowercase().contains(&value.to_lowercase())
}
