//! What clients send, and what it becomes. No I/O.

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use shared::http::ApiError;
use uuid::Uuid;

/// A path segment that should be a lead's id: what is none is nobody's.
pub(crate) fn lead_id(text: &str) -> Result<Uuid, ApiError> {
    Uuid::try_parse(text).map_err(|_| ApiError::not_found("lead"))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DryRunBody {
    days: Option<i64>,
}

impl DryRunBody {
    /// Since when leads are looked at: a month, unless told otherwise.
    pub(crate) fn since(&self, now: DateTime<Utc>) -> Result<DateTime<Utc>, ApiError> {
        match self.days.unwrap_or(30) {
            days @ 1..=92 => Ok(now - TimeDelta::days(days)),
            _ => Err(ApiError::unprocessable("days_invalid", "days must be from 1 to 92.")),
        }
    }
}

/// Settings to change; what is not named stays. A floor that is null does not hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettingsBody {
    enabled: Option<bool>,
    #[serde(default, deserialize_with = "named")]
    min_auc: Option<Option<f64>>,
    #[serde(default, deserialize_with = "named")]
    max_brier: Option<Option<f64>>,
    min_outcomes: Option<i64>,
    ai_bound: Option<i64>,
    patience_hours: Option<i64>,
    work_days: Option<Vec<i64>>,
    work_from: Option<String>,
    work_until: Option<String>,
}

/// Tells null from absent.
fn named<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<f64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl SettingsBody {
    /// What the database is to set.
    pub(crate) fn parse(&self) -> Result<Value, ApiError> {
        let mut wanted = Map::new();
        if let Some(enabled) = self.enabled {
            wanted.insert("enabled".to_owned(), json!(enabled));
        }
        for (name, floor) in [("min_auc", self.min_auc), ("max_brier", self.max_brier)] {
            match floor {
                None => continue,
                Some(Some(value)) if !(0.0..=1.0).contains(&value) => {
                    return Err(invalid(name, "a number from 0 to 1, or null for none"));
                }
                Some(value) => wanted.insert(name.to_owned(), json!(value)),
            };
        }
        for (name, value, range) in [
            ("min_outcomes", self.min_outcomes, 2..=10_000),
            ("ai_bound", self.ai_bound, 0..=50),
            ("patience_hours", self.patience_hours, 1..=2160),
        ] {
            match value {
                None => continue,
                Some(value) if !range.contains(&value) => {
                    return Err(invalid(name, &format!("from {} to {}", range.start(), range.end())));
                }
                Some(value) => wanted.insert(name.to_owned(), json!(value)),
            };
        }
        if let Some(days) = &self.work_days {
            if !(1..=7).contains(&days.len()) || days.iter().any(|day| !(1..=7).contains(day)) {
                return Err(invalid("work_days", "one to seven days of the week, 1 for Monday to 7 for Sunday"));
            }
            wanted.insert("work_days".to_owned(), json!(days));
        }
        for (name, time) in [("work_from", &self.work_from), ("work_until", &self.work_until)] {
            let Some(time) = time else { continue };
            // Midnight at a day's end is an hour that clocks do not show.
            let is_end_of_day = name == "work_until" && time == "24:00";
            if !is_end_of_day && !is_time_of_day(time) {
                return Err(invalid(name, "a time of day such as 08:00"));
            }
            wanted.insert(name.to_owned(), json!(time));
        }
        if wanted.is_empty() {
            return Err(ApiError::unprocessable(
                "settings_empty",
                "Name what to set: enabled, min_auc, max_brier, min_outcomes, ai_bound, patience_hours, work_days, work_from or work_until.",
            ));
        }
        Ok(Value::Object(wanted))
    }
}

/// Whether this is a time of day in hours and minutes, as `08:00`.
fn is_time_of_day(text: &str) -> bool {
    text.len() == 5 && NaiveTime::parse_from_str(text, "%H:%M").is_ok()
}

/// Whose leads are to be moved.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MoveBody {
    pub(crate) user_id: Uuid,
}

fn invalid(name: &str, wanted: &str) -> ApiError {
    ApiError::unprocessable("setting_invalid", format!("{name} must be {wanted}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_that_is_null_is_set_and_one_that_is_absent_is_not() {
        let body: SettingsBody = serde_json::from_value(json!({ "min_auc": null, "ai_bound": 0 })).unwrap();
        assert_eq!(body.parse().unwrap(), json!({ "min_auc": null, "ai_bound": 0 }));
    }

    #[test]
    fn a_shift_may_end_at_midnight() {
        let wanted = json!({ "work_days": [1, 7], "work_from": "00:00", "work_until": "24:00" });
        let body: SettingsBody = serde_json::from_value(wanted.clone()).unwrap();
        assert_eq!(body.parse().unwrap(), wanted);
    }

    #[test]
    fn what_no_setting_can_be_is_refused() {
        for wrong in [
            json!({}),
            json!({ "min_auc": 1.1 }),
            json!({ "ai_bound": 51 }),
            json!({ "patience_hours": 0 }),
            json!({ "work_days": [] }),
            json!({ "work_days": [0] }),
            json!({ "work_days": [8] }),
            json!({ "work_days": [1, 2, 3, 4, 5, 6, 7, 7] }),
            json!({ "work_from": "24:00" }),
            json!({ "work_from": "8:00" }),
            json!({ "work_until": "24:01" }),
            json!({ "work_until": "17:00:30" }),
        ] {
            let body: SettingsBody = serde_json::from_value(wrong.clone()).unwrap();
            assert!(body.parse().is_err(), "{wrong}");
        }
    }
}
