//! Posts: the whole list of an account. Posts that are known and listed no more are asked for by their ids before they count as deleted.

use chrono::TimeDelta;
use serde_json::{Value, json};
use shared::{
    clients::social::{SocialError, count, segment},
    store::{
        social_figures::{self, Figure},
        social_posts::{self, Media},
    },
};

use crate::{
    instagram,
    job::{Cursor, Stream},
    reading::{Reading, Seen, Unread},
    tiktok,
};

/// The most posts that one reading looks at.
const MOST: usize = 1000;
/// The most posts that are asked for by their ids in one reading.
const MOST_ASKED: i64 = 50;
/// How many TikTok is asked for at once.
const AT_ONCE: usize = 20;
/// How old a post may be whose figures are kept.
const MEASURED: TimeDelta = TimeDelta::days(30);

/// A page of posts.
struct Page {
    answer: Seen,
    rows: Vec<Value>,
    next: Option<String>,
}

pub(crate) async fn read(reading: &Reading<'_>, cursor: &mut Cursor) -> Result<(), Unread> {
    let (org, account) = (reading.org_id(), reading.account_id());
    let (mut read_to, mut after, mut ids) = (None, None, Vec::new());
    let (mut new, mut unclear) = (0, 0);
    let is_complete = loop {
        let page = page(reading, after.as_deref()).await?;
        read_to.get_or_insert((page.answer.at, page.answer.time()));
        let media: Vec<Media> = page.rows.iter().filter_map(|row| shown(reading, row)).collect();
        unclear += page.rows.len() - media.len();
        let figures = figures(reading, &page.rows, &media).await?;
        new += reading
            .keep(async |tx| {
                social_figures::keep_figures(tx, org, account, &figures).await?;
                Ok(social_posts::keep_media(tx, org, account, &media).await?)
            })
            .await?;
        ids.extend(media.into_iter().map(|media| media.platform_id));
        match page.next {
            None => break unclear == 0,
            Some(_) if ids.len() >= MOST => break false,
            next => after = next,
        }
    };
    let mut deleted = 0;
    if let (true, Some((_, at))) = (is_complete, read_to) {
        let unlisted = reading
            .state
            .db
            .service(org, async |tx| social_posts::unlisted_media(tx, org, account, &ids, at, MOST_ASKED).await)
            .await?;
        let gone = gone(reading, &unlisted).await?;
        deleted = reading.keep(async |tx| Ok(social_posts::drop_media(tx, org, account, &gone, at).await?)).await?;
    }
    cursor.read_to = read_to.map(|(at, _)| at);
    cursor.result =
        json!({ "listed": ids.len(), "new": new, "deleted": deleted, "unclear": unclear, "complete": is_complete });
    Ok(())
}

async fn page(reading: &Reading<'_>, after: Option<&str>) -> Result<Page, Unread> {
    let (answer, list, next) = match reading.plan.account.api.as_str() {
        "tiktok_business" => {
            let ask = async |figures| {
                let fields = tiktok::video_fields(figures);
                let mut query = vec![("fields", fields.as_str()), ("max_count", "20")];
                query.extend(after.map(|after| ("cursor", after)));
                reading.business("business/video/list", &query).await
            };
            let answer = match ask(reading.plan.reads(Stream::MediaFigures)).await {
                // A figure that fails does not keep the posts from being read.
                Err(Unread::Stream("platform_failed") | Unread::Refused(SocialError::Parameter { .. })) => {
                    ask(false).await?
                }
                answer => answer?,
            };
            let (list, next) = (answer.body["videos"].clone(), tiktok::next(&answer.body));
            (answer, list, next)
        }
        "tiktok_display" => {
            let after = after.and_then(|after| after.parse().ok());
            let ask =
                reading.call(false, async |state, token| state.tiktok.videos(token, tiktok::DISPLAYED, after).await);
            let answer = ask.await?;
            let (list, next) = (answer.body["videos"].clone(), tiktok::next(&answer.body));
            (answer, list, next)
        }
        _ => {
            let mut query = vec![("fields", instagram::MEDIA), ("limit", "100")];
            query.extend(after.map(|after| ("after", after)));
            let answer =
                reading.graph(&format!("{}/media", segment(&reading.plan.account.platform_id)), &query).await?;
            let (list, next) = (answer.body["data"].clone(), instagram::next(&answer.body));
            (answer, list, next)
        }
    };
    let Value::Array(rows) = list else { return Err(Unread::Stream("malformed")) };
    Ok(Page { answer, rows, next })
}

/// Which of these posts the platform does not have by their ids either. One that it refuses or fails to tell about is not among them.
async fn gone(reading: &Reading<'_>, unlisted: &[String]) -> Result<Vec<String>, Unread> {
    let (mut gone, at_once) = (Vec::new(), if reading.is_instagram() { 1 } else { AT_ONCE });
    for asked in unlisted.chunks(at_once) {
        match there(reading, asked).await {
            Ok(Some(there)) => gone.extend(asked.iter().filter(|id| !there.contains(id)).cloned()),
            Err(Unread::Refused(SocialError::Missing)) if reading.is_instagram() => gone.extend_from_slice(asked),
            Ok(None) | Err(Unread::Refused(_) | Unread::Stream(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(gone)
}

/// Which of these posts the platform has. None if its answer does not say.
async fn there(reading: &Reading<'_>, ids: &[String]) -> Result<Option<Vec<String>>, Unread> {
    let answer = match reading.plan.account.api.as_str() {
        "tiktok_business" => {
            let wanted = json!({ "video_ids": ids }).to_string();
            let query = [("fields", r#"["item_id"]"#), ("filters", wanted.as_str()), ("max_count", "20")];
            reading.business("business/video/list", &query).await?
        }
        "tiktok_display" => {
            reading.call(false, async |state, token| state.tiktok.videos_by_id(token, "id", ids).await).await?
        }
        _ => {
            for id in ids {
                reading.graph(&segment(id), &[("fields", "id")]).await?;
            }
            return Ok(Some(ids.to_vec()));
        }
    };
    let videos = answer.body["videos"].as_array().filter(|_| tiktok::next(&answer.body).is_none());
    Ok(videos.map(|videos| videos.iter().filter_map(tiktok::video_id).collect()))
}

fn shown(reading: &Reading<'_>, row: &Value) -> Option<Media> {
    if reading.is_instagram() { instagram::media(row) } else { tiktok::media(row) }
}

/// TikTok's figures of posts come with their list.
async fn figures(reading: &Reading<'_>, rows: &[Value], media: &[Media]) -> Result<Vec<Figure>, Unread> {
    if reading.is_instagram() || !reading.plan.reads(Stream::MediaFigures) {
        return Ok(Vec::new());
    }
    let Some(today) = reading.days(0).await?.first().map(|day| day.date) else { return Ok(Vec::new()) };
    let recent = media.iter().filter(|media| media.published_at > reading.now() - MEASURED);
    let of = |media: &Media| {
        let row = rows.iter().find(|row| tiktok::video_id(row).as_deref() == Some(media.platform_id.as_str()));
        let figures = tiktok::VIDEO_FIGURES.iter().filter_map(move |(field, metric)| {
            let value = &row?[*field];
            let value = value.as_f64().or_else(|| count(value).map(|count| count as f64))?;
            Some((*metric, value))
        });
        let media_id = media.platform_id.clone();
        figures
            .map(move |(metric, value)| Figure {
                metric: metric.to_owned(),
                day: today,
                media_id: Some(media_id.clone()),
                value,
            })
            .collect::<Vec<_>>()
    };
    Ok(recent.flat_map(of).collect())
}
