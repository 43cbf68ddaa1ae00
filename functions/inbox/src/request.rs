//! What clients ask for, and what it becomes. No I/O.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::{http::ApiError, store::inbox::Wanted};
use uuid::Uuid;

/// The most that one page has, and how many without a wish.
const MOST: i64 = 100;
const USUAL: i64 = 50;
/// The longest text to look for, in characters.
const LONGEST: usize = 200;

/// A place in a list: the time of the last item that was shown, and its id.
pub(crate) type Place = (DateTime<Utc>, Uuid);

/// Which threads.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ThreadsQuery {
    status: Option<String>,
    kind: Option<String>,
    account: Option<String>,
    assigned_to: Option<String>,
    unread: Option<String>,
    after: Option<String>,
    limit: Option<String>,
}

impl ThreadsQuery {
    /// `person` is who asks, if it is a person.
    pub(crate) fn parse(&self, person: Option<Uuid>) -> Result<Wanted<'_>, ApiError> {
        let one_of = |text: &Option<String>, known: &[&str]| text.as_deref().is_none_or(|text| known.contains(&text));
        if !one_of(&self.status, &["open", "waiting", "closed"]) {
            return Err(invalid("status is open, waiting or closed."));
        }
        if !one_of(&self.kind, &["message", "comment", "mention"]) {
            return Err(invalid("kind is message, comment or mention."));
        }
        let id = |text: &str, why| Uuid::try_parse(text).map_err(|_| invalid(why));
        let account_id =
            self.account.as_deref().map(|text| id(text, "account is the id of an account.")).transpose()?;
        let (assigned_to, unassigned) = match self.assigned_to.as_deref() {
            None => (None, false),
            Some("none") => (None, true),
            Some("me") => match person {
                Some(person) => (Some(person), false),
                None => {
                    return Err(invalid("An agent answers no threads: assigned_to is the id of a person, or none."));
                }
            },
            Some(other) => (Some(id(other, "assigned_to is the id of a person, me or none.")?), false),
        };
        let unread = match self.unread.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(invalid("unread is true or false.")),
        };
        Ok(Wanted {
            status: self.status.as_deref(),
            kind: self.kind.as_deref(),
            account_id,
            assigned_to,
            unassigned,
            unread,
            after: self.after.as_deref().map(place).transpose()?,
            most: most(self.limit.as_deref())?,
        })
    }
}

/// Which messages of a thread.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessagesQuery {
    after: Option<String>,
    limit: Option<String>,
}

impl MessagesQuery {
    pub(crate) fn parse(&self) -> Result<(Option<Place>, i64), ApiError> {
        Ok((self.after.as_deref().map(place).transpose()?, most(self.limit.as_deref())?))
    }
}

/// What to look for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SearchQuery {
    q: String,
    after: Option<String>,
    limit: Option<String>,
}

impl SearchQuery {
    pub(crate) fn parse(&self) -> Result<(&str, Option<Place>, i32), ApiError> {
        let length = self.q.chars().count();
        if !(1..=LONGEST).contains(&length) || self.q.contains('\0') {
            return Err(invalid("q takes 1 to 200 characters."));
        }
        let most = most(self.limit.as_deref())?;
        let after = self.after.as_deref().map(place).transpose()?;
        Ok((&self.q, after, i32::try_from(most).unwrap_or(i32::MAX)))
    }
}

/// What a person says of a lead. The database holds it to its bounds.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeadBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_minor: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    territory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wanted_skills: Option<Vec<String>>,
}

impl LeadBody {
    /// The fields as the database takes them: those that are said.
    pub(crate) fn parse(&self) -> Result<Value, ApiError> {
        let texts = [&self.email, &self.phone, &self.currency, &self.territory].into_iter().flatten();
        if texts.chain(self.wanted_skills.iter().flatten()).any(|text| text.contains('\0')) {
            return Err(ApiError::unprocessable("text_invalid", "A text holds a NUL, which cannot be stored."));
        }
        serde_json::to_value(self).map_err(ApiError::internal)
    }
}

/// A place as it is written: microseconds since 1970, and an id.
pub(crate) fn written((at, id): Place) -> String {
    format!("{}-{id}", at.timestamp_micros())
}

fn place(text: &str) -> Result<Place, ApiError> {
    let read = text
        .split_once('-')
        .and_then(|(at, id)| Some((DateTime::from_timestamp_micros(at.parse().ok()?)?, Uuid::try_parse(id).ok()?)));
    read.filter(|(at, _)| (0..253_402_300_800).contains(&at.timestamp()))
        .ok_or_else(|| invalid("after is what `next` was."))
}

fn most(limit: Option<&str>) -> Result<i64, ApiError> {
    match limit.map(str::parse) {
        None => Ok(USUAL),
        Some(Ok(most)) if (1..=MOST).contains(&most) => Ok(most),
        Some(_) => Err(invalid("limit is 1 to 100.")),
    }
}

fn invalid(detail: &'static str) -> ApiError {
    ApiError::bad_request("query_invalid", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, value: &str) -> Result<Wanted<'static>, ()> {
        let query: &'static ThreadsQuery =
            Box::leak(Box::new(serde_json::from_value(serde_json::json!({ name: value })).map_err(|_| ())?));
        query.parse(Some(Uuid::max())).map_err(|_| ())
    }

    #[test]
    fn a_query_is_taken_within_its_bounds_and_refused_beside_them() {
        assert_eq!(wanted("limit", "1").unwrap().most, 1);
        assert_eq!(wanted("limit", "100").unwrap().most, 100);
        assert_eq!(wanted("status", "open").unwrap().most, USUAL);
        assert_eq!(wanted("assigned_to", "me").unwrap().assigned_to, Some(Uuid::max()));
        assert!(wanted("assigned_to", "none").unwrap().unassigned);
        let last = (DateTime::from_timestamp_micros(1_764_547_170_123_456).unwrap(), Uuid::nil());
        assert_eq!(wanted("after", &written(last)).unwrap().after, Some(last));
        for (name, value) in [
            ("limit", "0"),
            ("limit", "101"),
            ("limit", "x"),
            ("status", "new"),
            ("kind", "dm"),
            ("account", "1"),
            ("assigned_to", "you"),
            ("unread", "1"),
            ("after", "1"),
            ("after", "x-00000000-0000-0000-0000-000000000000"),
            ("after", "99999999999999999999-00000000-0000-0000-0000-000000000000"),
            ("other", "1"),
        ] {
            assert!(wanted(name, value).is_err(), "{name}={value}");
        }
        assert!(ThreadsQuery { assigned_to: Some("me".to_owned()), ..ThreadsQuery::default() }.parse(None).is_err());
    }
}
