//! When an organisation's night begins.

use integration_tests::{
    TestDatabase,
    acting::Actor,
    people::{BRICK, NORD},
};

use crate::SERVERS;

#[tokio::test(flavor = "multi_thread")]
async fn a_night_begins_at_two_in_the_organisations_zone_and_is_closed_for_that_zones_day() {
    let db = TestDatabase::new(SERVERS[0]).await;
    db.run(&format!(
        "insert into insight_settings (org_id, tables, periods) select id, '{{leads}}', '{{day}}' from organizations;
         update organizations set time_zone = 'America/New_York' where id = '{NORD}'"
    ))
    .await;
    let system = Actor::role("spine_service");
    let minute = db.count(&format!("select app.insight_minute('{NORD}')::bigint")).await;
    let due = async |at: &str| {
        let query = format!("select org_id from app.due_insights('{at}', 100) where org_id = '{NORD}'");
        db.ask(&system, &query).await.unwrap().as_array().unwrap().len()
    };
    // Two o'clock and the organisation's minute are five hours later there.
    let first = format!("2026-11-21 07:{minute:02}:00+00");
    assert_eq!(due("2026-11-21 06:59:59+00").await, 0);
    assert_eq!(due(&first).await, 1);
    assert_eq!(due("2026-11-21 03:59:59+00").await, 1, "the evening of the day before, whose night was not closed");
    let made = |start: &str| {
        format!(
            "insert into ai_insights (org_id, table_name, period_start, period, audience, summary, figures, served_by, figures_digest)
             values ('{NORD}', 'leads', '{start}', 'day', 'leads:read_all', 's', '{{}}', 'default_template', sha256('{start}'))"
        )
    };
    // The last whole day there is the one that ended at five o'clock of UTC.
    db.run(&made("2026-11-20 00:00+00")).await;
    assert_eq!(due(&first).await, 1);
    db.run(&made("2026-11-20 05:00+00")).await;
    assert_eq!(due(&first).await, 0);
    db.ask(&system, &format!("select app.close_insight_nights('{first}')")).await.unwrap();
    let closed = format!("select made_until::text from insight_settings where org_id = '{NORD}'");
    assert_eq!(db.text(&closed).await, "2026-11-21");
    assert_eq!(
        db.count(&format!(
            "select count(*) from insight_settings where org_id = '{BRICK}' and made_until = '-infinity'"
        ))
        .await,
        1
    );
    // The rest of that day, which ends in the next one of UTC, and the next night.
    assert_eq!(due("2026-11-22 04:59:59+00").await, 0);
    assert_eq!(due(&format!("2026-11-22 07:{minute:02}:00+00")).await, 1);
}
