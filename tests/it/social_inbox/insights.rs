//! Insights of figures of social accounts: sums by metric, and what is unknown is not zero.

use integration_tests::{
    Server, TestDatabase,
    acting::Actor,
    people::{BRICK, NORD, OLGA},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::accounts;

fn value(figures: &Value, id: &str) -> Value {
    let all = figures["figures"].as_array().unwrap();
    all.iter().find(|figure| figure["id"] == id).map_or(Value::Null, |figure| figure["value"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_of_accounts_are_summed_by_metric_and_those_of_posts_and_of_others_are_left_out() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let (own, theirs) = (Uuid::now_v7(), Uuid::now_v7());
    accounts(&db, NORD, "instagram", &[(own, "1".to_owned())]).await;
    accounts(&db, BRICK, "instagram", &[(theirs, "2".to_owned())]).await;
    // Monday the 5th to Sunday the 11th, and the day after; one day of likes is unknown, and of shares all but four are.
    db.run(&format!(
        "insert into social_analytics (org_id, account_id, metric_type, value, recorded_at)
         select '{NORD}', '{own}', m.name, m.value, d from generate_series('2026-01-05'::timestamptz, '2026-01-12', '1 day') d
          cross join (values ('views', 10), ('likes', 2), ('shares', 1), ('reach', 5)) m (name, value)
          where not (m.name = 'likes' and d = '2026-01-07') and not (m.name = 'shares' and d > '2026-01-08');
         insert into social_analytics (org_id, account_id, metric_type, value, recorded_at, media_id)
         select '{NORD}', '{own}', 'views', 1000, d, 'post' from generate_series('2026-01-05'::timestamptz, '2026-01-11', '1 day') d;
         insert into social_analytics (org_id, account_id, metric_type, value, recorded_at)
         select '{BRICK}', '{theirs}', 'views', 100000, d from generate_series('2026-01-05'::timestamptz, '2026-01-11', '1 day') d"
    ))
    .await;
    let caller = Actor { role: "spine_caller", ..Actor::person(&OLGA) };
    let seen = db
        .ask(&caller, "select app.insight_figures('social_analytics', 'week', '2026-01-13 12:00+00') as it")
        .await
        .unwrap();
    let figures = &seen[0]["it"];
    assert_eq!(value(figures, "views.current"), json!(70));
    assert_eq!(value(figures, "likes.current"), json!(12), "six days that are known, and no zero for the seventh");
    assert_eq!(value(figures, "shares.current"), Value::Null, "four values are too few to be published");
    assert_eq!(value(figures, "reach.current"), Value::Null, "what does not add up over days is not summed");
    assert_eq!(value(figures, "views.previous"), Value::Null, "a week without figures is unknown");
}
