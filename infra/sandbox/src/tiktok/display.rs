//! Platform A: who an account is, and its videos.

use serde_json::{Map, Value, json};

use super::{
    params::{self, Query},
    refusal::Refusal,
    world::{Account, Platform, Token, Video, World},
};

const BASIC: [&str; 6] = ["open_id", "union_id", "avatar_url", "avatar_url_100", "avatar_large_url", "display_name"];
const PROFILE: [&str; 4] = ["bio_description", "profile_deep_link", "is_verified", "username"];
const STATS: [&str; 4] = ["follower_count", "following_count", "likes_count", "video_count"];
const VIDEO: [&str; 15] = [
    "id",
    "create_time",
    "cover_image_url",
    "share_url",
    "video_description",
    "duration",
    "height",
    "width",
    "title",
    "embed_html",
    "embed_link",
    "like_count",
    "comment_count",
    "share_count",
    "view_count",
];
/// Videos on a page when nothing is said.
const DEFAULT_COUNT: i64 = 10;
/// The most videos on a page, or asked for by id.
const MOST: usize = 20;

fn invalid(message: &str) -> Refusal {
    Refusal::invalid(Platform::Display, message)
}

/// `GET /v2/user/info/`.
pub(super) fn user_info(world: &World, account: &Account, token: &Token, query: &Query) -> Result<Value, Refusal> {
    query.only(&["fields"])?;
    let known: Vec<&'static str> = BASIC.iter().chain(&PROFILE).chain(&STATS).copied().collect();
    let fields = query.fields(&known)?;
    for (scope, of) in [("user.info.basic", &BASIC[..]), ("user.info.profile", &PROFILE), ("user.info.stats", &STATS)] {
        if fields.iter().any(|field| of.contains(field)) {
            token.allows(scope)?;
        }
    }
    let videos = world.videos_of(account);
    let likes: i64 = videos.iter().map(|video| video.count("likes")).sum();
    let avatar = format!("https://p16.example/{}.jpeg?x-expires=1", account.open_id);
    let user = fields.into_iter().map(|field| {
        let value = match field {
            "open_id" => json!(account.open_id),
            "union_id" => json!(format!("u-{}", account.open_id)),
            "avatar_url" | "avatar_url_100" | "avatar_large_url" => json!(avatar),
            "display_name" => json!(account.display_name),
            "bio_description" => json!(""),
            "profile_deep_link" => json!(format!("https://vm.example/{}/", account.username)),
            "is_verified" => json!(false),
            "username" => json!(account.username),
            "follower_count" => json!(account.followers),
            "following_count" => json!(7),
            "likes_count" => json!(likes),
            _ => json!(videos.len()),
        };
        (field.to_owned(), value)
    });
    Ok(json!({ "user": user.collect::<Map<_, _>>() }))
}

impl Video {
    /// A count by the name of platform B, or none yet.
    pub(super) fn count(&self, figure: &str) -> i64 {
        self.figures.get(figure).and_then(Value::as_i64).unwrap_or_default()
    }

    fn shown(&self, world: &World, fields: &[&'static str]) -> Value {
        let link = format!("https://www.tiktok.com/@x/video/{}", self.id);
        let shown = fields.iter().map(|field| {
            let value = match *field {
                "id" => json!(self.id),
                "create_time" => json!(self.at / 1000),
                "cover_image_url" => json!(format!("https://p16.example/{}.jpeg?x-expires=1", self.id)),
                "share_url" | "embed_link" => json!(link),
                "video_description" => json!(self.description),
                "duration" => json!(15),
                "height" => json!(1024),
                "width" => json!(576),
                "title" => json!(""),
                "embed_html" => json!(format!("<blockquote cite=\"{link}\"></blockquote>")),
                "like_count" => json!(self.count("likes")),
                "comment_count" => json!(world.comments_of(self).count()),
                "share_count" => json!(self.count("shares")),
                _ => json!(self.count("video_views")),
            };
            ((*field).to_owned(), value)
        });
        Value::Object(shown.collect())
    }
}

/// `POST /v2/video/list/`: fields in the query, the page in the body.
pub(super) fn video_list(
    world: &World,
    account: &Account,
    token: &Token,
    query: &Query,
    body: &[u8],
) -> Result<Value, Refusal> {
    query.only(&["fields"])?;
    let fields = query.fields(&VIDEO)?;
    token.allows("video.list")?;
    let asked = params::object(Platform::Display, body, &["cursor", "max_count"])?;
    let integer = |name: &str| match asked.get(name) {
        None => Ok(None),
        Some(value) => value.as_i64().map(Some).ok_or_else(|| invalid(&format!("{name} must be an integer"))),
    };
    let most = usize::try_from(integer("max_count")?.unwrap_or(DEFAULT_COUNT)).unwrap_or_default();
    if !(1..=MOST).contains(&most) {
        return Err(invalid("max_count must be between 1 and 20"));
    }
    let before = integer("cursor")?.filter(|cursor| *cursor != 0).unwrap_or(i64::MAX);
    let mut listed = world.videos_of(account);
    listed.retain(|video| !video.unlisted);
    let (page, cursor, has_more) = page(&listed, before, most);
    let videos: Vec<Value> = page.iter().map(|video| video.shown(world, &fields)).collect();
    Ok(json!({ "videos": videos, "cursor": cursor, "has_more": has_more }))
}

/// The newest videos that were created before a moment, the moment that the next page ends at, and whether there is one.
pub(super) fn page<'a>(videos: &[&'a Video], before: i64, most: usize) -> (Vec<&'a Video>, i64, bool) {
    let older: Vec<&Video> = videos.iter().filter(|video| video.at < before).copied().collect();
    let page: Vec<&Video> = older.iter().take(most).copied().collect();
    let cursor = page.last().map_or(0, |video| video.at);
    let has_more = older.len() > page.len();
    (page, cursor, has_more)
}

/// `POST /v2/video/query/`: videos of the account by their ids. Those of others are left out.
pub(super) fn video_query(
    world: &World,
    account: &Account,
    token: &Token,
    query: &Query,
    body: &[u8],
) -> Result<Value, Refusal> {
    query.only(&["fields"])?;
    let fields = query.fields(&VIDEO)?;
    token.allows("video.list")?;
    let asked = params::object(Platform::Display, body, &["filters"])?;
    let ids = asked.get("filters").and_then(|filters| filters["video_ids"].as_array());
    let ids = ids.filter(|ids| (1..=MOST).contains(&ids.len()) && ids.iter().all(Value::is_string));
    let ids = ids.ok_or_else(|| invalid("filters.video_ids must hold 1 to 20 strings"))?;
    let videos = world.videos_of(account);
    let found = videos.iter().filter(|video| ids.iter().any(|id| *id == *video.id));
    Ok(json!({ "videos": found.map(|video| video.shown(world, &fields)).collect::<Vec<_>>() }))
}
