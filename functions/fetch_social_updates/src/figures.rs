//! Figures: of the account for each day, and of posts as they are now. What a platform does not give has no row, and is not zero.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    clients::social::{SocialError, count, segment},
    store::social_figures::{self, Day, Figure},
    worker::Stop,
};

use crate::{
    job::{Cursor, Stream},
    reading::{Reading, Unread},
    tiktok,
};

/// How many days back figures are filled in.
const BACK: i32 = 30;
/// How many days before today are read each time: figures come up to 48 hours late.
const LATE: usize = 2;
/// When a day without figures is asked for again.
const AGAIN: TimeDelta = TimeDelta::days(1);
/// How long a metric that was refused is not asked for.
const REFUSED: TimeDelta = TimeDelta::days(7);
/// How old a post's figures become before they are read again.
const FRESH: TimeDelta = TimeDelta::hours(3);
/// The most posts that are measured in one reading.
const MOST_POSTS: i64 = 100;

/// Metrics of an account that come as one value for a day. None of those that Instagram retired: `impressions`, `profile_views`,
/// `website_clicks`, `email_contacts`, …
const DAILY: [&str; 10] = [
    "reach",
    "views",
    "accounts_engaged",
    "total_interactions",
    "likes",
    "comments",
    "shares",
    "saves",
    "replies",
    "profile_links_taps",
];
/// Metrics of an account that come as a series.
const SERIES: [&str; 1] = ["follower_count"];
/// Counts in the profile, as they are now.
const PROFILE: [&str; 3] = ["followers_count", "follows_count", "media_count"];
/// Metrics of a post. None of those that Instagram retired: `impressions`, `plays`, `video_views`, `clips_replays_count`, …
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

impl Reading<'_> {
    /// Today and the days before it, the latest first.
    pub(crate) async fn days(&self, back: i32) -> Result<Vec<Day>, Unread> {
        let (org, account, now) = (self.org_id(), self.account_id(), self.now());
        Ok(self.state.db.service(org, async |tx| social_figures::days(tx, org, account, now, back).await).await?)
    }

    async fn keep_figures(&self, figures: &[Figure]) -> Result<(), Unread> {
        let (org, account) = (self.org_id(), self.account_id());
        self.keep(async |tx| Ok(social_figures::keep_figures(tx, org, account, figures).await?)).await
    }
}

/// Figures of the account: those of the last days, and those of days before that have none.
pub(crate) async fn of_account(reading: &Reading<'_>, cursor: &mut Cursor) -> Result<(), Unread> {
    let now = reading.now();
    let days = reading.days(BACK).await?;
    let Some(today) = days.first().copied() else { return Ok(()) };
    let mut kept = totals(reading, today).await?;
    match reading.plan.account.api.as_str() {
        "tiktok_display" => {}
        "tiktok_business" => kept += tiktok_days(reading, &days).await?,
        _ => {
            let (oldest, mut failed) = (days.last().map_or(today.date, |day| day.date), Vec::new());
            cursor.refused.retain(|_, until| *until > now);
            cursor.asked.retain(|day, _| *day >= oldest);
            for (back, day) in days.iter().enumerate() {
                let was_asked = cursor.asked.get(&day.date).is_some_and(|asked| *asked + AGAIN > now);
                if back > LATE && (day.known || was_asked) {
                    continue;
                }
                let figures = of_day(reading, cursor, *day, &mut failed).await?;
                kept += figures.len();
                reading.keep_figures(&figures).await?;
                cursor.asked.insert(day.date, now);
            }
            cursor.result = json!({ "figures": kept, "refused": cursor.refused.keys().collect::<Vec<_>>(), "failed_metrics": failed });
            return Ok(());
        }
    }
    cursor.result = json!({ "figures": kept });
    Ok(())
}

/// What the profile counts now, which is today's.
async fn totals(reading: &Reading<'_>, today: Day) -> Result<usize, Unread> {
    let (profile, fields): (Value, &[&str]) = match reading.plan.account.api.as_str() {
        "tiktok_business" => return Ok(0),
        "tiktok_display" => {
            let fields = tiktok::PROFILE.join(",");
            let answer = reading.call(false, async |state, token| state.tiktok.user(token, &fields).await).await?;
            (answer.body["user"].clone(), &tiktok::PROFILE)
        }
        _ => (reading.graph("me", &[("fields", &PROFILE.join(","))]).await?.body, &PROFILE),
    };
    let figures: Vec<Figure> =
        fields.iter().filter_map(|field| Some(of_account_figure(field, today, number(&profile[*field])?))).collect();
    reading.keep_figures(&figures).await?;
    Ok(figures.len())
}

fn of_account_figure(metric: &str, day: Day, value: f64) -> Figure {
    Figure { metric: metric.to_owned(), day: day.date, media_id: None, value }
}

#[expect(clippy::cast_precision_loss, reason = "no count of a platform comes near 2^53")]
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| count(value).map(|count| count as f64))
}

/// Instagram's figures of one day.
async fn of_day(
    reading: &Reading<'_>,
    cursor: &mut Cursor,
    day: Day,
    failed: &mut Vec<String>,
) -> Result<Vec<Figure>, Unread> {
    let path = format!("{}/insights", segment(&reading.plan.account.platform_id));
    let (since, until) = (day.from.timestamp().to_string(), day.until.timestamp().to_string());
    let mut figures = Vec::new();
    for (metrics, kind) in [(&DAILY[..], "total_value"), (&SERIES[..], "time_series")] {
        let query = [("period", "day"), ("metric_type", kind), ("since", since.as_str()), ("until", until.as_str())];
        let answers = together(reading, cursor, "", metrics, failed, &path, &query).await?;
        for answer in answers {
            for row in answer["data"].as_array().into_iter().flatten() {
                // A series of one day has one value.
                let last = row["values"].as_array().and_then(|values| values.last());
                let value = number(&row["total_value"]["value"]).or_else(|| number(&last?["value"]));
                let metric = row["name"].as_str().filter(|name| metrics.contains(name));
                figures.extend(metric.zip(value).map(|(metric, value)| of_account_figure(metric, day, value)));
            }
        }
    }
    Ok(figures)
}

/// Asks for metrics together, and one by one where that fails: one that is not supported fails the whole call. Which it was is remembered, of
/// `post` alone or, where that is empty, of the account: what one post does not have, others of its kind may have.
async fn together(
    reading: &Reading<'_>,
    cursor: &mut Cursor,
    post: &str,
    metrics: &[&str],
    failed: &mut Vec<String>,
    path: &str,
    query: &[(&str, &str)],
) -> Result<Vec<Value>, Unread> {
    let key = |metric: &str| if post.is_empty() { metric.to_owned() } else { format!("{post}.{metric}") };
    let wanted: Vec<&str> =
        metrics.iter().copied().filter(|metric| !cursor.refused.contains_key(&key(metric))).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let ask = async |metrics: &str| {
        let mut all = vec![("metric", metrics)];
        all.extend(query);
        reading.graph(path, &all).await
    };
    match ask(&wanted.join(",")).await {
        Ok(answer) => return Ok(vec![answer.body]),
        Err(Unread::Refused(SocialError::Parameter { .. }) | Unread::Stream("platform_failed")) => {}
        Err(error) => return Err(error),
    }
    let (mut answers, mut refused) = (Vec::new(), Vec::new());
    for metric in wanted {
        match ask(metric).await {
            Ok(answer) => answers.push(answer.body),
            Err(Unread::Refused(SocialError::Parameter { .. })) => refused.push(key(metric)),
            Err(Unread::Stream("platform_failed")) => {
                if !failed.contains(&key(metric)) {
                    failed.push(key(metric));
                }
            }
            Err(error) => return Err(error),
        }
    }
    // Where every metric is refused it is the day that has none, and others have, or the post is not to be measured yet.
    if !answers.is_empty() {
        cursor.refused.extend(refused.into_iter().map(|metric| (metric, reading.now() + REFUSED)));
    }
    Ok(answers)
}

/// TikTok's figures of an account, by its own days.
async fn tiktok_days(reading: &Reading<'_>, days: &[Day]) -> Result<usize, Unread> {
    let (Some(first), Some(last)) = (days.last(), days.first()) else { return Ok(0) };
    let (first, last) = (first.date.to_string(), last.date.to_string());
    let query = [("fields", tiktok::ACCOUNT_FIELDS), ("start_date", first.as_str()), ("end_date", last.as_str())];
    let answer = reading.business("business/get", &query).await?;
    let by_date: BTreeMap<String, Day> = days.iter().map(|day| (day.date.to_string(), *day)).collect();
    let now = number(&answer.body["followers_count"]);
    let mut figures: Vec<Figure> = days
        .first()
        .zip(now)
        .map(|(today, now)| of_account_figure("followers_count", *today, now))
        .into_iter()
        .collect();
    for row in answer.body["metrics"].as_array().into_iter().flatten() {
        let Some(day) = row["date"].as_str().and_then(|date| by_date.get(date)) else { continue };
        for metric in tiktok::ACCOUNT_FIGURES {
            figures.extend(number(&row[metric]).map(|value| of_account_figure(metric, *day, value)));
        }
    }
    reading.keep_figures(&figures).await?;
    Ok(figures.len())
}

/// Figures of posts of the last thirty days, as they are now. TikTok's come with the list of posts.
pub(crate) async fn of_posts(reading: &Reading<'_>, cursor: &mut Cursor) -> Result<(), Unread> {
    if !reading.is_instagram() {
        cursor.result = json!({ "with": Stream::Media.name() });
        return Ok(());
    }
    let (org, account, now) = (reading.org_id(), reading.account_id(), reading.now());
    let Some(today) = reading.days(0).await?.first().copied() else { return Ok(()) };
    cursor.refused.retain(|_, until| *until > now);
    let posts = reading
        .state
        .db
        .service(org, async |tx| social_figures::unmeasured_media(tx, org, account, now, now - FRESH, MOST_POSTS).await)
        .await?;
    let (mut kept, mut few, mut failed) = (0, 0, Vec::new());
    for post in posts {
        let metrics: &[&str] = match post.kind.as_str() {
            "reels" => &REELS,
            "story" => &STORY,
            _ => &FEED,
        };
        let path = format!("{}/insights", segment(&post.platform_id));
        let answers = match together(reading, cursor, &post.platform_id, metrics, &mut failed, &path, &[]).await {
            Ok(answers) => answers,
            // One post that has none, or may not be measured, keeps no other from being measured.
            Err(Unread::Refused(_)) => {
                few += 1;
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let figures: Vec<Figure> = answers
            .iter()
            .flat_map(|answer| answer["data"].as_array().into_iter().flatten())
            .filter_map(|row| {
                let metric = row["name"].as_str().filter(|name| metrics.contains(name))?;
                let value = number(&row["values"][0]["value"]).filter(|value| is_known(&post.kind, metric, *value))?;
                Some(Figure {
                    metric: metric.to_owned(),
                    day: today.date,
                    media_id: Some(post.platform_id.clone()),
                    value,
                })
            })
            .collect();
        kept += figures.len();
        measured(reading, &post.platform_id, &figures, now).await?;
    }
    cursor.result = json!({
        "figures": kept, "without": few, "refused": cursor.refused.keys().collect::<Vec<_>>(), "failed_metrics": failed,
    });
    Ok(())
}

async fn measured(reading: &Reading<'_>, post: &str, figures: &[Figure], now: DateTime<Utc>) -> Result<(), Unread> {
    let (org, account) = (reading.org_id(), reading.account_id());
    let kept = reading.keep(async |tx| {
        social_figures::keep_figures(tx, org, account, figures).await?;
        Ok::<_, Stop>(social_figures::measured(tx, org, account, post, now).await?)
    });
    kept.await
}

/// Instagram says that a story has no replies where it does not count them.
fn is_known(kind: &str, metric: &str, value: f64) -> bool {
    !(kind == "story" && metric == "replies" && value == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_replies_to_a_story_are_unknown_and_no_likes_of_a_post_are_none() {
        assert!(!is_known("story", "replies", 0.0));
        assert!(
            is_known("story", "replies", 1.0) && is_known("story", "shares", 0.0) && is_known("feed", "likes", 0.0)
        );
    }

    #[test]
    fn retired_metrics_are_not_asked_for() {
        let retired = [
            "impressions",
            "plays",
            "video_views",
            "clips_replays_count",
            "website_clicks",
            "engagement",
            "profile_views",
        ];
        for asked in [&DAILY[..], &SERIES, &FEED, &REELS, &STORY] {
            assert!(asked.iter().all(|metric| !retired.contains(metric)), "{asked:?}");
        }
    }
}
