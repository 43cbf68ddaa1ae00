//! What may be an organisation's zone, who sets it and who sees it.

use integration_tests::{
    TestDatabase,
    acting::Actor,
    people::{ADAM, BRICK, DORA, NORD, OLGA, OSCAR},
};
use serde_json::json;

use super::one;
use crate::SERVERS;

fn moved(zone: &str) -> String {
    format!("update organizations set time_zone = '{zone}' where id = '{NORD}'")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_is_a_name_of_the_tz_database_with_a_slash_or_utc() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let admin = Actor::person(&ADAM);
        for zone in [
            "Europe/Stockholm",
            "America/Argentina/Buenos_Aires",
            "America/Port-au-Prince",
            "Etc/GMT+5",
            "Etc/UTC",
            "UTC",
        ] {
            assert_eq!(db.change(&admin, &moved(zone)).await, Ok(1), "{zone}");
            assert_eq!(one(&db, &format!("select time_zone from organizations where id = '{NORD}'")).await, zone);
        }
        // Postgres takes each of these for a zone of its own making, or under another spelling, but for the last ones.
        for zone in [
            "Sthlm+1",
            "CEST",
            "CET",
            "EST5EDT",
            "utc",
            "europe/stockholm",
            "EUROPE/STOCKHOLM",
            "posix/Europe/Stockholm",
            "right/UTC",
            "Europe/Stockholm+1",
            "Foo/Bar-3",
            "+02:00",
            "",
            " UTC",
            "Europe/Stockholm ",
            "Europe/Atlantis",
            "../Europe/Stockholm",
        ] {
            let refusal = db.change(&admin, &moved(zone)).await.unwrap_err();
            assert_eq!((refusal.state.as_str(), refusal.code.as_str()), ("PT422", "time_zone_unknown"), "{zone}");
        }
        let made =
            "insert into organizations (id, name, slug, time_zone) values (gen_random_uuid(), 'n', 'new-one', 'CEST')";
        let refusal = db.change(&Actor::role("postgres"), made).await.unwrap_err();
        assert_eq!(refusal.code, "time_zone_unknown");
        assert_eq!(one(&db, &format!("select time_zone from organizations where id = '{NORD}'")).await, "UTC");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_may_change_the_organisation_set_its_zone_and_everybody_in_it_sees_it() {
    let db = TestDatabase::new(SERVERS[0]).await;
    for person in [&DORA, &OSCAR] {
        assert_eq!(db.change(&Actor::person(person), &moved("Asia/Kolkata")).await, Ok(0), "{}", person.email);
    }
    assert_eq!(db.change(&Actor::person(&OLGA), &moved("Asia/Kolkata")).await, Ok(1));
    let shown = db.ask(&Actor::person(&DORA), "select slug, time_zone from public.my_organizations()").await.unwrap();
    assert_eq!(shown, json!([{ "slug": "atelier-nord", "time_zone": "Asia/Kolkata" }]));
    assert_eq!(one(&db, &format!("select time_zone from organizations where id = '{BRICK}'")).await, "UTC");
    let told = "select new_values ->> 'time_zone' from audit_log where action = 'organizations.update'";
    assert_eq!(one(&db, told).await, "Asia/Kolkata");
}
