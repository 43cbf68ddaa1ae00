//! Insights: figures of media and of accounts. One metric that is not there fails the whole call; what is not known yet is left out.

use chrono::{DateTime, NaiveDate, TimeDelta};
use serde_json::{Value, json};

use super::{
    nodes::Reader,
    params::Query,
    refusal::Refusal,
    world::{Media, MediaKind},
};

const FEED: [&str; 10] = [
    "views",
    "reach",
    "likes",
    "comments",
    "shares",
    "saved",
    "total_interactions",
    "follows",
    "profile_visits",
    "profile_activity",
];
const REELS: [&str; 10] = [
    "views",
    "reach",
    "likes",
    "comments",
    "shares",
    "saved",
    "total_interactions",
    "ig_reels_avg_watch_time",
    "ig_reels_video_view_total_time",
    "reels_skip_rate",
];
const STORY: [&str; 9] = [
    "views",
    "reach",
    "replies",
    "shares",
    "total_interactions",
    "navigation",
    "follows",
    "profile_visits",
    "profile_activity",
];
/// Metrics of an account that come as one value for all days.
const TOTALS: [&str; 11] = [
    "reach",
    "views",
    "accounts_engaged",
    "total_interactions",
    "likes",
    "comments",
    "shares",
    "saves",
    "replies",
    "follows_and_unfollows",
    "profile_links_taps",
];
/// Metrics of an account that come day by day. That there are no others is the sandbox's stricter reading.
const SERIES: [&str; 3] = ["reach", "follower_count", "online_followers"];
/// Not to be had below so many followers.
const MANY_FOLLOWERS: i64 = 100;
/// The longest range. Not on our provider page.
const MOST_DAYS: i64 = 30;
const DAY: i64 = 24 * 60 * 60;

/// The metrics that are asked for: one of `known` each, and none twice.
fn metrics<'q>(query: &'q Query, known: &[&str]) -> Result<Vec<&'q str>, Refusal> {
    let asked: Vec<&str> = query.required("metric")?.split(',').collect();
    for (at, metric) in asked.iter().enumerate() {
        if !known.contains(metric) {
            let known = known.join(", ");
            return Err(Refusal::parameter(format!("metric[{at}] must be one of the following values: {known}")));
        }
        if asked[..at].contains(metric) {
            return Err(Refusal::parameter(format!("metric[{at}] comes twice")));
        }
    }
    Ok(asked)
}

fn title(metric: &str) -> String {
    metric.replace('_', " ")
}

impl Reader<'_> {
    /// Fails if a metric is broken.
    fn working(&self, asked: &[&str]) -> Result<(), Refusal> {
        match asked.iter().find_map(|metric| Some((*metric, self.world.broken_metrics.get(*metric)?))) {
            Some((metric, 100)) => Err(Refusal::parameter(format!("The metric {metric} is no longer supported"))),
            Some((_, code)) => Err(Refusal::transient(*code)),
            None => Ok(()),
        }
    }

    pub(super) fn media_insights(&self, media: &Media, query: &Query) -> Result<Value, Refusal> {
        query.only(&[&["metric", "period"]])?;
        if query.get("period").is_some_and(|period| period != "lifetime") {
            return Err(Refusal::parameter("period must be lifetime"));
        }
        let known: &[&str] = match media.kind {
            MediaKind::Image | MediaKind::Video | MediaKind::Carousel => &FEED,
            MediaKind::Reel => &REELS,
            MediaKind::Story => &STORY,
        };
        let asked = metrics(query, known)?;
        self.working(&asked)?;
        if let Some(metric) = asked.iter().find(|metric| media.refused_metrics.contains(**metric)) {
            return Err(Refusal::parameter(format!("The metric {metric} is not supported for this media")));
        }
        if media.few_viewers {
            return Err(Refusal::few_viewers());
        }
        // A story's figures are gone with it.
        let over = media.kind == MediaKind::Story && self.now - media.at > DAY * 1000;
        let data = asked.iter().filter_map(|metric| {
            let value = media.figures.get(*metric).filter(|_| !over)?;
            Some(json!({
                "name": metric, "period": "lifetime", "values": [{ "value": value }], "title": title(metric),
                "description": title(metric), "id": format!("{}/insights/{metric}/lifetime", media.id),
            }))
        });
        Ok(json!({ "data": data.collect::<Vec<_>>() }))
    }

    pub(super) fn account_insights(&self, query: &Query) -> Result<Value, Refusal> {
        query.only(&[&["metric", "period", "metric_type", "since", "until"]])?;
        if query.required("period")? != "day" {
            return Err(Refusal::parameter("period must be day"));
        }
        let series = match query.required("metric_type")? {
            "time_series" => true,
            "total_value" => false,
            _ => return Err(Refusal::parameter("metric_type must be total_value or time_series")),
        };
        let asked = metrics(query, if series { &SERIES } else { &TOTALS })?;
        let for_many = ["follower_count", "online_followers"];
        if self.account.followers < MANY_FOLLOWERS && asked.iter().any(|metric| for_many.contains(metric)) {
            let message = "follower_count and online_followers are not supported for fewer than 100 followers";
            return Err(Refusal::parameter(message));
        }
        self.working(&asked)?;
        let days = self.days(query)?;
        let data = asked.iter().filter_map(|metric| {
            let figure = |day: &NaiveDate| {
                let value = self.account.figures.get(&((*metric).to_owned(), *day))?;
                Some((day.succ_opt()?, *value))
            };
            let found: Vec<(NaiveDate, i64)> = days.iter().filter_map(figure).collect();
            if found.is_empty() {
                return None;
            }
            let mut row = json!({
                "name": metric, "period": "day", "title": title(metric), "description": title(metric),
                "id": format!("{}/insights/{metric}/day", self.account.id),
            });
            if series {
                let value = |(end, value): &(NaiveDate, i64)| {
                    json!({ "value": value, "end_time": format!("{end}T00:00:00+0000") })
                };
                row["values"] = found.iter().map(value).collect();
            } else {
                row["total_value"] = json!({ "value": found.iter().map(|(_, value)| value).sum::<i64>() });
            }
            Some(row)
        });
        Ok(json!({ "data": data.collect::<Vec<_>>() }))
    }

    /// The whole days from `since` to `until`, in unix seconds, or else yesterday. Days here are those of UTC, which our provider page
    /// does not say.
    fn days(&self, query: &Query) -> Result<Vec<NaiveDate>, Refusal> {
        let seconds = |name: &str| {
            let number = |text: &str| text.parse::<i64>().map_err(|_| Refusal::parameter(format!("{name} is no time")));
            query.get(name).map(number).transpose()
        };
        let today = self.now.div_euclid(1000 * DAY) * DAY;
        let (since, until) = match (seconds("since")?, seconds("until")?) {
            (None, None) => (today - DAY, today),
            (Some(since), Some(until)) if since < until => (since, until),
            _ => return Err(Refusal::parameter("since and until must come together, in this order")),
        };
        if until - since > MOST_DAYS * DAY {
            let message = "There cannot be more than 30 days (2592000 s) between since and until";
            return Err(Refusal::parameter(message));
        }
        let day = |at: i64| DateTime::from_timestamp(at, 0).unwrap_or_default().date_naive();
        // Days of another time zone stand for those that they share their noon with.
        let (first, count) = (day(since + DAY / 2), (until - since + DAY / 2) / DAY);
        Ok((0..count).map(|after| first + TimeDelta::days(after)).collect())
    }
}
