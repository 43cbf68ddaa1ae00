//! Figures: what a platform does not give is a gap, what it refuses is not asked for again, and one that fails leaves the others.

use chrono::{Days, NaiveDate};
use integration_tests::{TestApp, people::OLGA};
use sandbox::instagram::{Call, MediaKind};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{business, instagram, succeeded};

/// Today and days before it, where figures' days begin.
async fn days(app: &TestApp) -> [NaiveDate; 4] {
    let today = app.db.text("select (now() at time zone 'UTC')::date::text").await;
    let today: NaiveDate = today.parse().unwrap();
    [0, 1, 2, 3].map(|back| today - Days::new(back))
}

async fn series(app: &TestApp, account: Uuid, query: &str) -> Value {
    let path = format!("/v1/social/accounts/{account}/analytics?{query}");
    app.get(&path, &app.token(&OLGA)).await.expect(200)
}

/// The values of a series alone.
fn values(series: &Value) -> Vec<Value> {
    series["points"].as_array().unwrap().iter().map(|point| point["value"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_has_a_point_for_each_day_and_null_where_the_platform_gave_nothing() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let [today, yesterday, before, first] = days(&app).await;
    world.set_figure(&at.id, "reach", today, Some(7)).unwrap();
    world.set_figure(&at.id, "reach", before, Some(0)).unwrap();
    world.set_figure(&at.id, "reach", first, Some(12)).unwrap();
    succeeded(&app, account).await;
    let query = format!("metric=reach&from={first}&to={today}");
    let shown = series(&app, account, &query).await;
    assert_eq!(values(&shown), [json!(12.0), json!(0.0), Value::Null, json!(7.0)], "{shown}");
    assert_eq!((&shown["points"][0]["day"], &shown["time_zone"]), (&json!(first), &json!("UTC")));
    // It comes late, and another is corrected; what is older than two days is not read again.
    world.set_figure(&at.id, "reach", yesterday, Some(5)).unwrap();
    world.set_figure(&at.id, "reach", today, Some(9)).unwrap();
    world.set_figure(&at.id, "reach", first, Some(99)).unwrap();
    succeeded(&app, account).await;
    assert_eq!(values(&series(&app, account, &query).await), [json!(12.0), json!(0.0), json!(5.0), json!(9.0)]);
    let empty = series(&app, account, &format!("metric=views&from={first}&to={today}")).await;
    assert_eq!(values(&empty), [Value::Null, Value::Null, Value::Null, Value::Null]);
    assert_eq!(app.db.count("select count(*) from social_analytics where metric_type = 'views'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metric_that_is_refused_leaves_the_others_and_is_not_asked_for_again() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let [today, ..] = days(&app).await;
    for metric in ["reach", "views", "saves"] {
        world.set_figure(&at.id, metric, today, Some(3)).unwrap();
    }
    let media = world.publish(&at.id, MediaKind::Image, None).unwrap();
    world.set_media_figure(&media, "likes", Some(4)).unwrap();
    world.set_media_figure(&media, "saved", Some(5)).unwrap();
    world.break_metric("saves", 100);
    world.break_metric("saved", 100);
    let result = succeeded(&app, account).await;
    assert_eq!(result["account_figures"]["refused"], json!(["saves"]), "{result}");
    assert_eq!(result["media_figures"]["refused"], json!([format!("{media}.saved")]), "{result}");
    let known = "select string_agg(metric_type, ' ' order by metric_type) from social_analytics
                  where metric_type in ('reach', 'views', 'saves', 'likes', 'saved')";
    assert_eq!(app.db.text(known).await, "likes reach views");
    let asked = world.requests().len();
    app.db.run("update social_media set figures_at = null").await;
    succeeded(&app, account).await;
    let insights: Vec<String> = world.requests()[asked..]
        .iter()
        .filter(|request| request.path.ends_with("/insights"))
        .map(|request| request.query.clone())
        .collect();
    assert!(!insights.is_empty() && insights.iter().all(|query| !query.contains("save")), "{insights:?}");
    // One that fails for once is asked for the next time.
    world.clear_faults();
    world.break_metric("views", 2);
    app.db.run("update social_media set figures_at = null").await;
    let result = succeeded(&app, account).await;
    assert_eq!(result["account_figures"]["failed_metrics"], json!(["views"]), "{result}");
    world.clear_faults();
    assert_eq!(succeeded(&app, account).await["account_figures"]["failed_metrics"], json!([]));

    let retired =
        ["impressions", "plays", "video_views", "clips_replays_count", "website_clicks", "engagement", "profile_views"];
    for request in world.requests() {
        assert!(!retired.iter().any(|metric| request.query.contains(metric)), "{}", request.query);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metric_that_one_post_refuses_is_read_of_the_others_and_not_asked_for_of_that_post_again() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let publish = || {
        world.advance(1);
        let media = world.publish(&at.id, MediaKind::Image, None).unwrap();
        world.set_media_figure(&media, "likes", Some(4)).unwrap();
        world.set_media_figure(&media, "saved", Some(5)).unwrap();
        media
    };
    // The newest is asked first.
    let (other, odd) = (publish(), publish());
    world.refuse_metric_of(&odd, "saved").unwrap();
    let known = format!(
        "select string_agg(case media_id when '{odd}' then 'odd ' else 'other ' end || metric_type, ', ' order by 1) from social_analytics
          where media_id is not null"
    );
    let result = succeeded(&app, account).await;
    assert_eq!(app.db.text(&known).await, "odd likes, other likes, other saved", "{result}");
    assert_eq!(result["media_figures"]["refused"], json!([format!("{odd}.saved")]));
    let asked = world.requests().len();
    app.db.run("update social_media set figures_at = null").await;
    succeeded(&app, account).await;
    let requests = world.requests()[asked..].to_vec();
    let of = |media: &str| -> Vec<bool> {
        let asked = requests.iter().filter(|request| request.path.ends_with(&format!("/{media}/insights")));
        asked.map(|request| request.query.contains("saved")).collect()
    };
    assert_eq!((of(&odd), of(&other)), (vec![false], vec![true]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_too_few_people_saw_has_no_figures_and_its_series_is_one_of_gaps() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let (few, seen) =
        (world.publish(&at.id, MediaKind::Image, None).unwrap(), world.publish(&at.id, MediaKind::Reel, None).unwrap());
    world.set_few_viewers(&few, true).unwrap();
    world.set_media_figure(&few, "views", Some(2)).unwrap();
    world.set_media_figure(&seen, "views", Some(250)).unwrap();
    let result = succeeded(&app, account).await;
    assert_eq!(
        (&result["media_figures"]["figures"], &result["media_figures"]["without"]),
        (&json!(1), &json!(1)),
        "{result}"
    );
    let [today, yesterday, ..] = days(&app).await;
    let of = async |media: &str| {
        values(&series(&app, account, &format!("metric=views&from={yesterday}&to={today}&media={media}")).await)
    };
    assert_eq!((of(&few).await, of(&seen).await), (vec![Value::Null; 2], vec![Value::Null, json!(250.0)]));
    // They are not asked for again before three hours have passed.
    let asked = world.requests().len();
    succeeded(&app, account).await;
    let again = world.requests()[asked..].iter().filter(|request| request.path.contains(&seen)).count();
    assert_eq!(again, 0);
    assert_eq!(world.faults_met(Call::Insights), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tiktok_figures_are_those_of_its_days_and_a_field_that_fails_leaves_the_posts() {
    let app = TestApp::start().await;
    let (account, at) = business(&app).await;
    let world = &app.stack.sandbox.tiktok;
    let [today, yesterday, before, _] = days(&app).await;
    world.set_figure(&at.open_id, "video_views", before, Some(40)).unwrap();
    world.set_figure(&at.open_id, "video_views", today, Some(0)).unwrap();
    let video = world.publish(&at.open_id, "stol").unwrap();
    world.set_video_figure(&video, "reach", Some(json!(33))).unwrap();
    succeeded(&app, account).await;
    let shown = series(&app, account, &format!("metric=video_views&from={before}&to={today}")).await;
    assert_eq!(values(&shown), [json!(40.0), Value::Null, json!(0.0)], "{shown}");
    let reach = series(&app, account, &format!("metric=reach&from={yesterday}&to={today}&media={video}")).await;
    assert_eq!(values(&reach), [Value::Null, json!(33.0)], "{reach}");
    world.break_metric("reach");
    world.publish(&at.open_id, "bord").unwrap();
    let result = succeeded(&app, account).await;
    assert_eq!((&result["media"]["listed"], &result["media"]["new"]), (&json!(2), &json!(1)), "{result}");
}
