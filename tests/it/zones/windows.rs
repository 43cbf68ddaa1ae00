//! Windows of limits: an organisation's days and months, and what a change of its zone does to them.

use integration_tests::{
    Server, TestDatabase,
    acting::Actor,
    people::{ADAM, BRICK, NORD},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::{one, rows};

/// Has the organisation change its zone at this moment, as the trigger does now.
async fn changed(db: &TestDatabase, at: &str, zone: &str) {
    db.run(&format!(
        "select app.keep_windows_of(id, time_zone, '{at}') from organizations where id = '{NORD}';
         set session_replication_role = replica; update organizations set time_zone = '{zone}' where id = '{NORD}'"
    ))
    .await;
}

/// The window that a moment lies in, as `start end day`.
async fn window(db: &TestDatabase, org: uuid::Uuid, period: &str, at: &str) -> String {
    let shown = "to_char(x at time zone 'UTC', 'MM-DD HH24:MI')";
    let (start, end) = (shown.replace('x', "period_start"), shown.replace('x', "period_end"));
    one(
        db,
        &format!(
            "select concat_ws(' ', {start}, {end}, first_day) from organizations o, app.limit_window(o.id, o.time_zone, '{period}', '{at}') where o.id = '{org}'"
        ),
    )
    .await
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_open_window_ends_as_it_would_have_and_the_first_of_a_zone_begins_there_shorter_to_the_east_and_longer_to_the_west()
 {
    let db = TestDatabase::new(Server::Postgres18).await;
    let day = async |at: &str| window(&db, NORD, "day", at).await;
    let month = async |at: &str| window(&db, NORD, "month", at).await;
    changed(&db, "2026-11-30 15:00+00", "America/New_York").await;
    assert_eq!(day("2026-11-30 23:59:59.999999+00").await, "11-30 00:00 12-01 00:00 2026-11-30");
    // There it is still the thirtieth, whose window is over.
    assert_eq!(day("2026-12-01 00:00+00").await, "12-01 00:00 12-02 05:00 2026-12-01");
    assert_eq!(day("2026-12-02 04:59:59.999999+00").await, "12-01 00:00 12-02 05:00 2026-12-01");
    assert_eq!(day("2026-12-02 05:00+00").await, "12-02 05:00 12-03 05:00 2026-12-02");
    assert_eq!(month("2026-11-30 23:59:59.999999+00").await, "11-01 00:00 12-01 00:00 2026-11-01");
    assert_eq!(month("2026-12-01 00:00+00").await, "12-01 00:00 01-01 05:00 2026-12-01");
    assert_eq!(month("2027-01-01 05:00+00").await, "01-01 05:00 02-01 05:00 2027-01-01");
    // To the east, in the middle of the first window of the zone before.
    changed(&db, "2026-12-01 15:00+00", "Pacific/Auckland").await;
    assert_eq!(day("2026-12-02 04:59:59.999999+00").await, "12-01 00:00 12-02 05:00 2026-12-01");
    assert_eq!(day("2026-12-02 05:00+00").await, "12-02 05:00 12-02 11:00 2026-12-02");
    assert_eq!(day("2026-12-02 10:59:59.999999+00").await, "12-02 05:00 12-02 11:00 2026-12-02");
    assert_eq!(day("2026-12-02 11:00+00").await, "12-02 11:00 12-03 11:00 2026-12-03");
    assert_eq!(month("2027-01-01 04:59:59.999999+00").await, "12-01 00:00 01-01 05:00 2026-12-01");
    assert_eq!(month("2027-01-01 05:00+00").await, "01-01 05:00 01-31 11:00 2027-01-01");
    // And back: the second of December is over, and so is the third once its window has ended.
    changed(&db, "2026-12-02 06:00+00", "America/New_York").await;
    assert_eq!(day("2026-12-02 10:59:59.999999+00").await, "12-02 05:00 12-02 11:00 2026-12-02");
    assert_eq!(day("2026-12-02 11:00+00").await, "12-02 11:00 12-04 05:00 2026-12-03");
    assert_eq!(day("2026-12-04 05:00+00").await, "12-04 05:00 12-05 05:00 2026-12-04");
    // There and back within one window changes nothing.
    changed(&db, "2026-12-05 06:00+00", "Asia/Kolkata").await;
    changed(&db, "2026-12-05 07:00+00", "America/New_York").await;
    assert_eq!(day("2026-12-05 08:00+00").await, "12-05 05:00 12-06 05:00 2026-12-05");
    assert_eq!(day("2026-12-06 05:00+00").await, "12-06 05:00 12-07 05:00 2026-12-06");
    // Hours are those of UTC, in Kolkata too.
    changed(&db, "2026-12-08 06:00+00", "Asia/Kolkata").await;
    assert_eq!(window(&db, NORD, "hour", "2026-12-12 06:10+00").await, "12-12 06:00 12-12 07:00 2026-12-12");
    assert_eq!(day("2026-12-12 18:29:59.999999+00").await, "12-11 18:30 12-12 18:30 2026-12-12");
    assert_eq!(day("2026-12-12 18:30+00").await, "12-12 18:30 12-13 18:30 2026-12-13");
    // Another organisation has its own.
    assert_eq!(window(&db, BRICK, "day", "2026-12-12 06:10+00").await, "12-12 00:00 12-13 00:00 2026-12-12");
}

#[tokio::test(flavor = "multi_thread")]
async fn however_often_a_zone_is_changed_windows_follow_each_other_and_no_day_is_had_twice() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let zones = [
        "UTC",
        "America/New_York",
        "Pacific/Kiritimati",
        "Etc/GMT+12",
        "Asia/Kolkata",
        "Australia/Lord_Howe",
        "Europe/Stockholm",
    ];
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        // Hours at which it is looked, and at some of them the zone is another from then on.
        let steps: Vec<Value> = (0..24 * 40)
            .map(|hour| {
                let zone = random.random_bool(0.15).then(|| zones[random.random_range(0..zones.len())]);
                json!({ "minutes": hour * 60 + random.random_range(0..60), "zone": zone })
            })
            .collect();
        let walk = format!(
            "do $$
             declare
                 s record; w record; p record; v_zone text := 'UTC'; v_at timestamptz; v_days integer := 0;
             begin
                 delete from public.limit_windows;
                 create temporary table if not exists wrong (what text);
                 for s in select * from jsonb_to_recordset('{}') x (minutes integer, zone text) loop
                     v_at := timestamptz '2026-10-01 00:00+00' + s.minutes * interval '1 minute';
                     w := app.limit_window('{NORD}', v_zone, 'day', v_at);
                     if w.period_start > v_at or w.period_end <= v_at then
                         insert into wrong values (format('%s is not in %s', v_at, w));
                     elsif p is not null and w is distinct from p then
                         v_days := v_days + 1;
                         -- Looked at each hour or so: a window shorter than that may be passed over.
                         if w.first_day <= p.first_day or w.period_start < p.period_end or w.period_start > p.period_end + interval '2 hours' then
                             insert into wrong values (format('%s follows %s', w, p));
                         end if;
                     end if;
                     p := w;
                     if s.zone is not null then
                         perform app.keep_windows_of('{NORD}', v_zone, v_at);
                         v_zone := s.zone;
                     end if;
                 end loop;
                 if v_days > 41 then
                     insert into wrong values (format('%s windows in forty days', v_days));
                 end if;
             end
             $$",
            json!(steps)
        );
        let mut admin = db.admin().await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(walk)).execute(&mut admin).await.unwrap();
        let wrong: Vec<String> = sqlx::query_scalar("select what from wrong").fetch_all(&mut admin).await.unwrap();
        assert_eq!(wrong, Vec::<String>::new(), "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_of_a_window_stays_used_when_the_zone_is_another_and_another_again() {
    for server in crate::SERVERS {
        let db = TestDatabase::new(server).await;
        db.run(
            "delete from agent_limits;
             insert into agent_limits (org_id, agent, scope, period, max_requests) select id, 'analyst', 'agent', 'day', 3 from organizations"
        )
        .await;
        // As the functions that claim do, which are the definer's.
        db.run(
            "create function public.claim(org uuid) returns jsonb language sql security definer as $$
                 select jsonb_build_object('taken', c.windows is not null, 'opens_at', c.opens_at)
                   from app.claim_windows(org, 'analyst', null, null, 1, 1, 1) c
             $$;
             grant execute on function public.claim(uuid) to spine_service",
        )
        .await;
        let claim = async |org: uuid::Uuid| {
            let claimed = format!("select public.claim('{org}') as it");
            db.ask(&Actor::service(org), &claimed).await.unwrap()[0]["it"].clone()
        };
        let days = format!("select count(*) from agent_usage where org_id = '{NORD}' and period = 'day'");
        for zone in ["Pacific/Kiritimati", "Etc/GMT+12", "UTC"] {
            assert_eq!(claim(NORD).await["taken"], true, "{zone}");
            let change = format!("update organizations set time_zone = '{zone}' where id = '{NORD}'");
            db.change(&Actor::person(&ADAM), &change).await.unwrap();
        }
        let stored =
            one(&db, &format!("select period_end from agent_usage where org_id = '{NORD}' and period = 'day'")).await;
        for zone in ["Asia/Kolkata", "America/New_York", "Pacific/Auckland"] {
            let change = format!("update organizations set time_zone = '{zone}' where id = '{NORD}'");
            db.change(&Actor::person(&ADAM), &change).await.unwrap();
            let refused = claim(NORD).await;
            assert_eq!(
                (&refused["taken"], refused["opens_at"].as_str().unwrap()),
                (&json!(false), stored.as_str()),
                "{zone}"
            );
        }
        assert_eq!(db.count(&days).await, 1);
        let shown = db
            .ask(
                &Actor::person(&ADAM),
                "select used_requests + reserved_requests as n, period_end from usage_report where period = 'day'",
            )
            .await
            .unwrap();
        assert_eq!(shown, json!([{ "n": 3, "period_end": stored }]));
        // The other organisation has its own window, of its own zone.
        assert_eq!(claim(BRICK).await["taken"], true);
        // Once the window is over, the next begins where it ended.
        db.run(&format!(
            "update limit_windows set period_start = now() - interval '25 hours', period_end = now() - interval '1 minute',
                    first_day = (now() - interval '1 minute')::date - 1 where period = 'day';
             update agent_usage set period_start = now() - interval '25 hours', period_end = now() - interval '1 minute'
              where org_id = '{NORD}' and period = 'day'"
        ))
        .await;
        assert_eq!(claim(NORD).await["taken"], true);
        let follows = format!(
            "select bool_and(u.period_start = k.period_end) from agent_usage u join limit_windows k on k.org_id = u.org_id and k.period = 'day'
              where u.org_id = '{NORD}' and u.period = 'day' and u.period_end > now()"
        );
        assert_eq!(one(&db, &follows).await, "true");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renders_are_counted_in_the_month_of_the_organisations_limits() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let month = format!("select app.render_month('{NORD}')");
    db.run(&format!(
        "insert into limit_windows values ('{NORD}', 'month', now() - interval '3 days', now() + interval '1 day', '2019-05-01')"
    ))
    .await;
    assert_eq!(one(&db, &month).await, "2019-05-01");
    let system = Actor::service(NORD);
    db.ask(&system, &format!("select app.count_renders('{}', 2)", ADAM.id)).await.unwrap();
    db.ask(&system, &format!("select app.count_renders('{}', 1)", ADAM.id)).await.unwrap();
    let counted = rows(&db, "select actor_id, period_start, renders from render_counters").await;
    assert_eq!(counted, json!([{ "actor_id": ADAM.id, "period_start": "2019-05-01", "renders": 3 }]));
}
