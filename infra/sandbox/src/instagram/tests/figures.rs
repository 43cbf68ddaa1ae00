use chrono::NaiveDate;

use super::*;
use crate::instagram::MediaKind;

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

#[tokio::test]
async fn media_have_the_metrics_of_their_kind_and_one_wrong_one_fails_all() {
    let app = App::start().await;
    let publish = |kind| app.instagram.publish(&app.account.id, kind, None).unwrap();
    let (image, reel, story) = (publish(MediaKind::Image), publish(MediaKind::Reel), publish(MediaKind::Story));
    let get = async |media: &str, metrics: &str| app.get(&format!("{media}/insights?metric={metrics}")).await;
    assert_eq!(get(&image, "views,reach").await.good(), &json!({ "data": [] }), "nothing is known yet");
    app.instagram.set_media_figure(&image, "views", Some(123)).unwrap();
    let answer = get(&image, "views,reach").await;
    assert_eq!(answer.rows().len(), 1);
    let views = &answer.rows()[0];
    assert_eq!(
        (&views["name"], &views["period"], &views["values"], id(views)),
        (&json!("views"), &json!("lifetime"), &json!([{ "value": 123 }]), &*format!("{image}/insights/views/lifetime"))
    );
    assert_eq!(get(&reel, "ig_reels_avg_watch_time,reels_skip_rate").await.status, 200);
    assert_eq!(get(&story, "replies,navigation").await.status, 200);
    let wrong = [
        (&image, "views,impressions"),
        (&image, "plays"),
        (&image, "total_likes"),
        (&image, "ig_reels_avg_watch_time"),
        (&image, "navigation"),
        (&reel, "replies"),
        (&story, "saved"),
        (&image, "views,views"),
        (&image, ""),
    ];
    for (media, metrics) in wrong {
        get(media, metrics).await.graph_error(100, None);
    }
    app.instagram.set_few_viewers(&image, true).unwrap();
    get(&image, "views").await.graph_error(10, None);
    app.instagram.set_media_figure(&story, "views", Some(5)).unwrap();
    assert_eq!(get(&story, "views").await.rows().len(), 1);
    app.instagram.advance(25 * 60 * 60);
    assert!(get(&story, "views").await.rows().is_empty(), "a story's figures last for a day");
}

#[tokio::test]
async fn a_broken_metric_fails_every_call_that_names_it() {
    let app = App::start().await;
    let media = app.instagram.publish(&app.account.id, MediaKind::Image, None).unwrap();
    let get = async |metrics: &str| app.get(&format!("{media}/insights?metric={metrics}")).await;
    app.instagram.break_metric("saved", 100);
    app.instagram.break_metric("reach", 2);
    get("views,saved").await.graph_error(100, None);
    let transient = get("views,reach").await;
    assert_eq!((transient.status, &transient.body["error"]["is_transient"]), (500, &json!(true)));
    assert_eq!(get("views").await.status, 200);
    app.instagram.clear_faults();
    assert_eq!(get("views,saved,reach").await.status, 200);
    app.instagram.refuse_metric_of(&media, "saved").unwrap();
    get("views,saved").await.graph_error(100, None);
    assert_eq!(get("views").await.status, 200);
    let other = app.instagram.publish(&app.account.id, MediaKind::Image, None).unwrap();
    assert_eq!(app.get(&format!("{other}/insights?metric=views,saved")).await.status, 200);
}

#[tokio::test]
async fn an_accounts_days_are_summed_or_come_one_by_one_with_their_gaps() {
    let app = App::start().await;
    let set = |metric, day, value| app.instagram.set_figure(&app.account.id, metric, day, value).unwrap();
    set("reach", day("2026-06-11"), Some(10));
    set("reach", day("2026-06-13"), Some(0));
    set("reach", day("2026-06-14"), Some(7));
    set("views", day("2026-06-14"), Some(70));
    let (since, until) = (1_781_136_000, 1_781_481_600);
    let range = format!("period=day&since={since}&until={until}");
    let get = async |query: &str| app.get(&format!("me/insights?{query}")).await;
    let series = get(&format!("metric=reach&metric_type=time_series&{range}")).await;
    assert_eq!(
        series.rows()[0]["values"],
        json!([
            { "value": 10, "end_time": "2026-06-12T00:00:00+0000" },
            { "value": 0, "end_time": "2026-06-14T00:00:00+0000" },
            { "value": 7, "end_time": "2026-06-15T00:00:00+0000" },
        ])
    );
    let totals = get(&format!("metric=reach,views,saves&metric_type=total_value&{range}")).await;
    let totals: Vec<_> = totals.rows().iter().map(|row| (&row["name"], &row["total_value"]["value"])).collect();
    assert_eq!(totals, [(&json!("reach"), &json!(17)), (&json!("views"), &json!(70))]);
    let yesterday = get("metric=reach&metric_type=total_value&period=day").await;
    assert_eq!(yesterday.rows()[0]["total_value"]["value"], 7);
    set("reach", day("2026-06-14"), None);
    assert!(get("metric=reach&metric_type=total_value&period=day").await.rows().is_empty());

    for wrong in [
        "metric=reach&metric_type=total_value".to_owned(),
        "metric=reach&period=day".to_owned(),
        "metric=reach&metric_type=total_value&period=week".to_owned(),
        "metric=views&metric_type=time_series&period=day".to_owned(),
        "metric=follower_count&metric_type=total_value&period=day".to_owned(),
        "metric=website_clicks&metric_type=total_value&period=day".to_owned(),
        "metric=impressions&metric_type=total_value&period=day".to_owned(),
        format!("metric=reach&metric_type=total_value&period=day&since={since}"),
        format!("metric=reach&metric_type=total_value&period=day&since={since}&until={}", since + 31 * 86_400),
    ] {
        get(&wrong).await.graph_error(100, None);
    }
}

#[tokio::test]
async fn follower_count_needs_a_hundred_followers() {
    let app = App::start().await;
    app.instagram.set_figure(&app.account.id, "follower_count", day("2026-06-14"), Some(3)).unwrap();
    let path = "me/insights?metric=reach,follower_count&metric_type=time_series&period=day";
    assert_eq!(app.get(path).await.rows().len(), 1);
    app.instagram.set_followers(&app.account.id, 99).unwrap();
    app.get(path).await.graph_error(100, None);
    app.instagram.set_followers(&app.account.id, 100).unwrap();
    assert_eq!(app.get(path).await.status, 200);
}
