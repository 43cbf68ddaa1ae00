//! Platform B: an account's days, its videos, and where its events go.

use chrono::{DateTime, NaiveDate, TimeDelta};
use serde_json::{Map, Value, json};

use super::{
    display::page,
    params::{self, Query},
    refusal::Refusal,
    world::{Account, Platform, Token, Video, World},
};
use crate::post;

/// What `business/get/` knows of an account itself.
const ACCOUNT: [&str; 7] = [
    "is_business_account",
    "username",
    "display_name",
    "profile_image",
    "followers_count",
    "audience_countries",
    "audience_genders",
];
/// What it knows of each day, in `metrics`.
const DAILY: [&str; 6] = ["profile_views", "video_views", "likes", "comments", "shares", "audience_activity"];
/// What `business/video/list/` knows of a video.
const VIDEO: [&str; 17] = [
    "item_id",
    "create_time",
    "thumbnail_url",
    "share_url",
    "embed_url",
    "caption",
    "video_views",
    "video_duration",
    "likes",
    "comments",
    "shares",
    "reach",
    "full_video_watched_rate",
    "total_time_watched",
    "average_time_watched",
    "impression_sources",
    "audience_countries",
];
/// How many days there are when nothing is said, and at most. Neither is on our provider page.
const DAYS: (i64, i64) = (7, 60);
/// Types of events that have a callback of their own. Only the first is on our provider page.
const EVENT_TYPES: [&str; 2] = ["DIRECT_MESSAGE", "COMMENT"];

fn invalid(message: &str) -> Refusal {
    Refusal::invalid(Platform::Business, message)
}

/// The account of the request, which must be that of its token.
pub(super) fn own<'a>(account: &'a Account, query: &Query) -> Result<&'a Account, Refusal> {
    let asked = query.required("business_id")?;
    if asked == account.open_id { Ok(account) } else { Err(Refusal::scope(Platform::Business)) }
}

/// The fields that are asked for, of those known. One that is broken fails the call.
fn fields(world: &World, query: &Query, known: &[&str]) -> Result<Option<Vec<String>>, Refusal> {
    let Some(fields) = query.strings("fields")? else { return Ok(None) };
    if fields.is_empty() || fields.iter().any(|field| !known.contains(&field.as_str())) {
        return Err(query.invalid("fields"));
    }
    if fields.iter().any(|field| world.broken_metrics.contains(field)) {
        return Err(Refusal::internal(Platform::Business));
    }
    Ok(Some(fields))
}

/// `GET /business/get/`. A day of which nothing is known is not among the metrics, and a figure that is not known not in its day.
pub(super) fn get(world: &World, account: &Account, token: &Token, query: &Query) -> Result<Value, Refusal> {
    query.only(&["business_id", "fields", "start_date", "end_date"])?;
    own(account, query)?;
    let known: Vec<&str> = ACCOUNT.iter().chain(&DAILY).chain(&["metrics"]).copied().collect();
    let fields = fields(world, query, &known)?.ok_or_else(|| query.invalid("fields"))?;
    token.allows("user.info.basic")?;
    let all = fields.iter().any(|field| field == "metrics");
    let daily: Vec<&str> =
        DAILY.iter().copied().filter(|name| all || fields.iter().any(|field| field == name)).collect();
    let mut data = Map::new();
    for field in &fields {
        let value = match field.as_str() {
            "is_business_account" => json!(true),
            "username" => json!(account.username),
            "display_name" => json!(account.display_name),
            "profile_image" => json!(format!("https://p16.example/{}.jpeg?x-expires=1", account.open_id)),
            "followers_count" => json!(account.followers),
            "audience_countries" => json!([{ "country": "SE", "percentage": 1.0 }]),
            "audience_genders" => json!([{ "gender": "Female", "percentage": 0.5 }]),
            _ => continue,
        };
        data.insert(field.clone(), value);
    }
    if !daily.is_empty() {
        token.allows("user.insights")?;
        let mut metrics = Vec::new();
        for day in days(query, world.now())? {
            let figure = |name: &str| account.daily.get(&(day, name.to_owned())).copied();
            let mut row = Map::new();
            for name in daily.iter().chain(&["followers_count"]) {
                row.extend(figure(name).map(|value| ((*name).to_owned(), json!(value))));
            }
            if !row.is_empty() {
                row.insert("date".to_owned(), json!(day.to_string()));
                metrics.push(Value::Object(row));
            }
        }
        data.insert("metrics".to_owned(), json!(metrics));
    }
    Ok(Value::Object(data))
}

fn days(query: &Query, now: i64) -> Result<Vec<NaiveDate>, Refusal> {
    let date = |name: &str| query.get(name).map(|text| text.parse().map_err(|_| query.invalid(name))).transpose();
    let today = DateTime::from_timestamp_millis(now).unwrap_or_default().date_naive();
    let last: NaiveDate = date("end_date")?.unwrap_or(today - TimeDelta::days(1));
    let first = date("start_date")?.unwrap_or(last - TimeDelta::days(DAYS.0 - 1));
    let count = (last - first).num_days() + 1;
    if !(1..=DAYS.1).contains(&count) {
        return Err(query.invalid("start_date"));
    }
    Ok((0..count).map(|after| first + TimeDelta::days(after)).collect())
}

impl Video {
    fn row(&self, world: &World, fields: &[String]) -> Value {
        let link = format!("https://www.tiktok.com/@x/video/{}", self.id);
        let row = fields.iter().filter_map(|field| {
            let value = match field.as_str() {
                "item_id" => json!(self.id),
                "create_time" => json!((self.at / 1000).to_string()),
                "thumbnail_url" => json!(format!("https://p16.example/{}.jpeg?x-expires=1", self.id)),
                "share_url" | "embed_url" => json!(link),
                "caption" => json!(self.description),
                "video_duration" => json!(15.0),
                "comments" => json!(world.comments_of(self).count()),
                // Figures come late: until then they are not there.
                figure => self.figures.get(figure)?.clone(),
            };
            Some((field.clone(), value))
        });
        Value::Object(row.collect())
    }
}

/// `GET /business/video/list/`.
pub(super) fn video_list(world: &World, account: &Account, token: &Token, query: &Query) -> Result<Value, Refusal> {
    query.only(&["business_id", "fields", "filters", "cursor", "max_count"])?;
    own(account, query)?;
    let fields = fields(world, query, &VIDEO)?.unwrap_or_else(|| vec!["item_id".to_owned()]);
    token.allows("video.list")?;
    let only: Option<Vec<String>> = match query.get("filters") {
        None => None,
        Some(text) => {
            let filters: Value = serde_json::from_str(text).map_err(|_| query.invalid("filters"))?;
            let ids = serde_json::from_value(filters["video_ids"].clone()).map_err(|_| query.invalid("filters"))?;
            Some(ids)
        }
    };
    let mut videos = world.videos_of(account);
    videos.retain(|video| only.as_ref().map_or(!video.unlisted, |only| only.contains(&video.id)));
    let before = query.integer("cursor", i64::MAX)?.filter(|cursor| *cursor != 0).unwrap_or(i64::MAX);
    let (page, cursor, has_more) = page(&videos, before, query.rows("max_count", 10, 20)?);
    let videos: Vec<Value> = page.iter().map(|video| video.row(world, &fields)).collect();
    Ok(json!({ "videos": videos, "cursor": cursor, "has_more": has_more }))
}

/// Whether these are the application's own key and secret.
fn known_app(id: Option<&str>, secret: Option<&str>, app: (&str, &str)) -> Result<(), Refusal> {
    if (id, secret) == (Some(app.0), Some(app.1)) { Ok(()) } else { Err(Refusal::scope(Platform::Business)) }
}

/// `GET /business/webhook/list/`.
pub(super) fn webhook_list(world: &World, query: &Query, app: (&str, &str)) -> Result<Value, Refusal> {
    query.only(&["app_id", "secret", "event_type"])?;
    known_app(query.get("app_id"), query.get("secret"), app)?;
    let kind = query.required("event_type")?;
    if !EVENT_TYPES.contains(&kind) {
        return Err(query.invalid("event_type"));
    }
    let callback = world.callbacks.get(kind).map(|url| json!({ "event_type": kind, "callback_url": url.as_str() }));
    Ok(callback.unwrap_or_else(|| json!({})))
}

/// `POST /business/webhook/update/`: one callback for each type of event.
pub(super) fn webhook_update(world: &mut World, body: &[u8], app: (&str, &str)) -> Result<Value, Refusal> {
    let asked = params::object(Platform::Business, body, &["app_id", "secret", "event_type", "callback_url"])?;
    let text = |name: &str| asked.get(name).and_then(Value::as_str);
    known_app(text("app_id"), text("secret"), app)?;
    let kind = text("event_type").filter(|kind| EVENT_TYPES.contains(kind)).ok_or_else(|| invalid("event_type"))?;
    // The true one takes https alone; the sandbox reaches nothing but this machine.
    let url = text("callback_url").and_then(|url| post::local(url).ok()).ok_or_else(|| invalid("callback_url"))?;
    let callback = json!({ "app_id": app.0, "event_type": kind, "callback_url": url.as_str() });
    world.callbacks.insert(kind.to_owned(), url);
    Ok(callback)
}
