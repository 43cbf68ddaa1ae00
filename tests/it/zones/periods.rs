//! Days, weeks and months of zones.

use integration_tests::{
    TestDatabase,
    acting::Actor,
    people::{ADAM, BRICK, NORD},
    sample,
};
use serde_json::{Value, json};

use super::{one, rows};
use crate::SERVERS;

/// How many zones a run that is not a full one goes through, beside those that are known to be odd.
const ZONES: usize = 15;
/// Half hours, half-hour clock changes, clocks that go back over midnight or skip it, a date that was skipped, the ends of the world.
const ODD: [&str; 10] = [
    "Europe/Stockholm",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/Havana",
    "Atlantic/Azores",
    "America/St_Johns",
    "Africa/Cairo",
    "Pacific/Kiritimati",
];

/// Walks through a zone's periods over ten years, asked at their first and last moments. What is wrong; null if nothing.
const WALK: &str = "
    create function pg_temp.walk(p_zone text, p_from date, p_years integer) returns text language plpgsql as $$
    declare
        v_period text;
        v_at timestamptz;
        v_end timestamptz := app.day_start((p_from + make_interval(years => p_years))::date, p_zone);
        p record;
        l record;
        v_longest interval;
    begin
        foreach v_period in array array['day', 'week', 'month'] loop
            v_at := app.day_start(p_from, p_zone);
            v_longest := case v_period when 'day' then interval '26 hours' when 'week' then interval '7 days 2 hours' else interval '31 days 2 hours' end;
            while v_at < v_end loop
                p := app.zone_period(v_period, v_at, p_zone);
                l := app.zone_period(v_period, p.period_end - interval '1 microsecond', p_zone);
                if p.period_start <> v_at and v_at > app.day_start(p_from, p_zone) then
                    return format('%s %s: a gap or an overlap at %s, %s', p_zone, v_period, v_at, p.period_start);
                elsif l is distinct from p then
                    return format('%s %s: the last moment of %s is in %s', p_zone, v_period, p, l);
                elsif p.period_end <= p.period_start or p.period_end - p.period_start > v_longest then
                    return format('%s %s: %s is too long or too short', p_zone, v_period, p);
                elsif v_period = 'day' and (p.period_start at time zone p_zone)::date <> p.first_day then
                    return format('%s %s: %s begins on another day', p_zone, v_period, p);
                end if;
                v_at := p.period_end;
            end loop;
        end loop;
        return null;
    end
    $$;";

async fn walked(db: &TestDatabase, zones: &[String], from: &str) -> Value {
    let mut admin = db.admin().await;
    sqlx::raw_sql(WALK).execute(&mut admin).await.unwrap();
    sqlx::query_scalar("select coalesce(jsonb_agg(w), '[]') from (select pg_temp.walk(z, $2::text::date, 10) w from unnest($1) z) x where w is not null")
        .bind(zones)
        .bind(from)
        .fetch_one(&mut admin)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_every_zone_days_weeks_and_months_have_neither_gap_nor_overlap_over_ten_years() {
    let db = TestDatabase::new(SERVERS[0]).await;
    let all: Vec<String> = serde_json::from_value(
        rows(&db, "select name from pg_timezone_names where app.is_time_zone(name) order by name")
            .await
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["name"].clone())
            .collect(),
    )
    .unwrap();
    assert!(all.len() > 400, "{}", all.len());
    let mut zones = sample(all, ZONES);
    zones.extend(ODD.map(str::to_owned));
    zones.sort();
    zones.dedup();
    assert_eq!(walked(&db, &zones, "2026-01-01").await, json!([]));
    // Years in which dates were skipped and clocks went back over midnight; Toronto's midnights are of a longer time ago.
    let odd = ODD.map(str::to_owned);
    assert_eq!(walked(&db, &odd, "2004-01-01").await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn days_are_as_long_as_clocks_make_them() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        for (zone, day, hours) in [
            ("Europe/Stockholm", "2026-03-28", 24.0),
            ("Europe/Stockholm", "2026-03-29", 23.0),
            ("Europe/Stockholm", "2026-10-25", 25.0),
            ("America/New_York", "2026-03-08", 23.0),
            ("America/New_York", "2026-11-01", 25.0),
            ("Asia/Kolkata", "2026-03-29", 24.0),
            ("Australia/Lord_Howe", "2026-04-05", 24.5),
            ("Australia/Lord_Howe", "2026-10-04", 23.5),
            ("Pacific/Apia", "2011-12-29", 24.0),
            ("Pacific/Apia", "2011-12-30", 0.0),
            ("Pacific/Apia", "2011-12-31", 24.0),
            // Midnight comes twice: the day is the longer one, and the one before is not.
            ("America/Havana", "2026-10-31", 24.0),
            ("America/Havana", "2026-11-01", 25.0),
            ("Atlantic/Azores", "2026-10-25", 25.0),
        ] {
            let length = format!(
                "select extract(epoch from app.day_start('{day}'::date + 1, '{zone}') - app.day_start('{day}', '{zone}'))::float8 / 3600"
            );
            assert_eq!(one(&db, &length).await.parse::<f64>().unwrap(), hours, "{zone} {day}");
        }
        for (zone, at, day) in [
            ("Europe/Stockholm", "2026-03-28 22:59:59.999999+00", "2026-03-28"),
            ("Europe/Stockholm", "2026-03-28 23:00:00+00", "2026-03-29"),
            ("Europe/Stockholm", "2026-03-29 21:59:59.999999+00", "2026-03-29"),
            ("Europe/Stockholm", "2026-03-29 22:00:00+00", "2026-03-30"),
            ("Asia/Kolkata", "2026-11-30 18:29:59.999999+00", "2026-11-30"),
            ("Asia/Kolkata", "2026-11-30 18:30:00+00", "2026-12-01"),
            ("Pacific/Apia", "2011-12-30 09:59:59.999999+00", "2011-12-29"),
            ("Pacific/Apia", "2011-12-30 10:00:00+00", "2011-12-31"),
            ("America/Havana", "2026-11-01 03:59:59.999999+00", "2026-10-31"),
            ("America/Havana", "2026-11-01 04:00:00+00", "2026-11-01"),
            ("America/Havana", "2026-11-01 05:00:00+00", "2026-11-01"),
        ] {
            let of = format!("select first_day from app.zone_period('day', '{at}', '{zone}')");
            assert_eq!(one(&db, &of).await, day, "{zone} {at}");
        }
    }
}

/// Six leads of an organisation at each of these moments.
fn leads(org: uuid::Uuid, moments: &[&str]) -> String {
    let moments: Vec<String> = moments.iter().map(|at| format!("('{at}'::timestamptz)")).collect();
    format!(
        "insert into leads (org_id, client_name, created_at) select '{org}', 'n', at from (values {}) m (at), generate_series(1, 6)",
        moments.join(", ")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_of_the_organisations_days_at_once_and_anothers_stay_theirs() {
    let db = TestDatabase::new(SERVERS[0]).await;
    // The day of Stockholm that is an hour shorter: its first moment and its last, and the ones beside them.
    let edges = [
        "2026-03-28 22:59:59.999999+00",
        "2026-03-28 23:00:00+00",
        "2026-03-29 21:59:59.999999+00",
        "2026-03-29 22:00:00+00",
    ];
    db.run(&leads(NORD, &edges)).await;
    db.run(&leads(BRICK, &edges)).await;
    let told = async |org: uuid::Uuid, period: &str| {
        let figures = format!("select app.insight_figures('leads', '{period}', '2026-03-30 06:00+00') as it");
        let it = db.ask(&Actor::service(org), &figures).await.unwrap()[0]["it"].clone();
        let points = it["series"][0]["points"].as_array().unwrap().clone();
        (
            it["time_zone"].clone(),
            it["period_start"].clone(),
            it["period_end"].clone(),
            points[points.len() - 2].clone(),
            points[points.len() - 1].clone(),
        )
    };
    let utc =
        (json!("UTC"), json!("2026-03-29T00:00:00+00:00"), json!("2026-03-30T00:00:00+00:00"), json!(12), json!(12));
    assert_eq!(told(NORD, "day").await, utc);
    db.change(
        &Actor::person(&ADAM),
        &format!("update organizations set time_zone = 'Europe/Stockholm' where id = '{NORD}'"),
    )
    .await
    .unwrap();
    let stockholm = (
        json!("Europe/Stockholm"),
        json!("2026-03-28T23:00:00+00:00"),
        json!("2026-03-29T22:00:00+00:00"),
        json!(6),
        json!(12),
    );
    assert_eq!(told(NORD, "day").await, stockholm);
    assert_eq!(told(BRICK, "day").await, utc);
    let week = told(NORD, "week").await;
    assert_eq!(
        (week.1, week.2, week.4),
        (json!("2026-03-22T23:00:00+00:00"), json!("2026-03-29T22:00:00+00:00"), json!(18))
    );
    // Midnight of Havana comes twice, and what came in the first of its hours is of the new day.
    db.change(
        &Actor::person(&ADAM),
        &format!("update organizations set time_zone = 'America/Havana' where id = '{NORD}'"),
    )
    .await
    .unwrap();
    db.run("delete from leads").await;
    db.run(&leads(
        NORD,
        &[
            "2026-11-01 03:59:59.999999+00",
            "2026-11-01 04:30:00+00",
            "2026-11-01 05:30:00+00",
            "2026-11-02 05:00:00+00",
        ],
    ))
    .await;
    let it = db
        .ask(&Actor::service(NORD), "select app.insight_figures('leads', 'day', '2026-11-02 12:00+00') as it")
        .await
        .unwrap()[0]["it"]
        .clone();
    let points = it["series"][0]["points"].as_array().unwrap();
    assert_eq!((&points[12], &points[13]), (&json!(6), &json!(12)), "{it}");
    // A platform's day is a day of UTC.
    let social = db
        .ask(
            &Actor::service(NORD),
            "select app.insight_figures('social_analytics', 'day', '2026-11-02 12:00+00') ->> 'time_zone' as it",
        )
        .await
        .unwrap();
    assert_eq!(social[0]["it"], "UTC");
}
