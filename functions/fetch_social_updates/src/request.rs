//! What clients send, and what it becomes. No I/O.

use chrono::NaiveDate;
use serde::Deserialize;
use shared::{http::ApiError, social::MAX_ID, store::social_accounts::Series};

/// The most days that one series has.
const MOST_DAYS: i64 = 366;

/// Which series is wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeriesQuery {
    metric: Option<String>,
    from: Option<String>,
    to: Option<String>,
    media: Option<String>,
}

impl SeriesQuery {
    pub(crate) fn parse(self) -> Result<Series, ApiError> {
        let is_metric =
            |name: &String| (1..=60).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let metric = self.metric.filter(is_metric).ok_or_else(|| {
            ApiError::unprocessable(
                "metric_invalid",
                "metric names what is counted, as in reach: 1 to 60 of a-z and _.",
            )
        })?;
        let date = |text: Option<String>| {
            // No other way of writing a date, and no year that a calendar of the database has not.
            let text = text.filter(|text| text.len() == 10)?;
            NaiveDate::parse_from_str(&text, "%Y-%m-%d").ok()
        };
        let days =
            date(self.from).zip(date(self.to)).filter(|(from, to)| (0..MOST_DAYS).contains(&(*to - *from).num_days()));
        let (from, to) = days.ok_or_else(|| {
            ApiError::unprocessable(
                "days_invalid",
                "from and to must be days such as 2026-11-30, in this order, with 366 days at most.",
            )
        })?;
        if self.media.as_ref().is_some_and(|id| id.is_empty() || id.len() > MAX_ID || id.contains(char::is_control)) {
            return Err(ApiError::unprocessable("media_invalid", "media must be the platform's id of a post."));
        }
        Ok(Series { metric, media_id: self.media, from, to })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_series_names_a_metric_and_366_days_at_most() {
        let parse = |query| serde_json::from_value::<SeriesQuery>(query).unwrap().parse();
        let series = parse(json!({ "metric": "reach", "from": "2026-01-01", "to": "2027-01-01" })).unwrap();
        assert_eq!(((series.to - series.from).num_days(), series.media_id), (365, None));
        for wrong in [
            json!({}),
            json!({ "metric": "reach" }),
            json!({ "metric": "Reach", "from": "2026-01-01", "to": "2026-01-01" }),
            json!({ "metric": "reach", "from": "2026-01-02", "to": "2026-01-01" }),
            json!({ "metric": "reach", "from": "2026-01-01", "to": "2027-01-02" }),
            json!({ "metric": "reach", "from": "2026-1-1", "to": "2026-01-01" }),
            json!({ "metric": "reach", "from": "2026-01-01", "to": "2026-02-30" }),
            json!({ "metric": "reach", "from": "2026-01-01", "to": "2026-01-01", "media": "" }),
            json!({ "metric": "reach", "from": "2026-01-01", "to": "2026-01-01", "media": "a\u{0}" }),
        ] {
            assert!(parse(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
