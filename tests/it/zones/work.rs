//! Working hours, by which patience with leads is measured.

use integration_tests::TestDatabase;

use super::one;
use crate::SERVERS;

#[tokio::test(flavor = "multi_thread")]
async fn patience_counts_hours_of_work_in_the_organisations_zone() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let office = "'{1,2,3,4,5}', '08:00', '17:00'";
        let always = "'{1,2,3,4,5,6,7}', '00:00', '24:00'";
        for (now, hours, zone, work, since) in [
            // A Monday evening, and then the Friday before.
            ("2026-11-30 16:00+00", 9, "Europe/Stockholm", office, "2026-11-30 07:00:00+00"),
            ("2026-11-30 16:00+00", 10, "Europe/Stockholm", office, "2026-11-27 15:00:00+00"),
            // Nothing is worked at night or on a Sunday.
            ("2026-11-30 06:59:59.999999+00", 1, "Europe/Stockholm", office, "2026-11-27 15:00:00+00"),
            ("2026-11-30 07:00:00+00", 1, "Europe/Stockholm", office, "2026-11-27 15:00:00+00"),
            ("2026-11-30 07:00:00.000001+00", 1, "Europe/Stockholm", office, "2026-11-27 15:00:00.000001+00"),
            ("2026-11-29 12:00+00", 1, "Europe/Stockholm", office, "2026-11-27 15:00:00+00"),
            ("2026-11-30 22:00+00", 9, "America/New_York", office, "2026-11-30 13:00:00+00"),
            ("2026-11-30 11:30+00", 9, "Asia/Kolkata", office, "2026-11-30 02:30:00+00"),
            // Days of 23, 25 and 24.5 hours, worked through.
            ("2026-03-29 22:00+00", 24, "Europe/Stockholm", always, "2026-03-28 22:00:00+00"),
            ("2026-03-29 22:00+00", 9, "Europe/Stockholm", "'{7}', '00:00', '10:00'", "2026-03-28 23:00:00+00"),
            ("2026-10-25 23:00+00", 11, "Europe/Stockholm", "'{7}', '00:00', '10:00'", "2026-10-24 22:00:00+00"),
            ("2026-04-04 16:00+00", 3, "Australia/Lord_Howe", "'{7}', '00:00', '03:00'", "2026-04-04 13:00:00+00"),
            // A date that was skipped has no hours.
            ("2012-01-02 12:00+00", 60, "Pacific/Apia", always, "2011-12-31 00:00:00+00"),
            ("2011-12-31 03:00+00", 9, "Pacific/Apia", "'{1,2,3,4,5,6,7}', '08:00', '17:00'", "2011-12-30 18:00:00+00"),
            (
                "2011-12-31 03:00+00",
                10,
                "Pacific/Apia",
                "'{1,2,3,4,5,6,7}', '08:00', '17:00'",
                "2011-12-30 02:00:00+00",
            ),
        ] {
            let found =
                one(&db, &format!("select app.working_time_before('{now}', {hours}, '{zone}', {work})::text")).await;
            assert_eq!(found, since, "{hours} h before {now} in {zone}");
        }
        // As much as may be set, of the fewest hours.
        let most = "select app.working_time_before('2026-11-30 16:00+00', 2160, 'Europe/Stockholm', '{1}', '08:00', '09:00') < '1986-01-01'";
        assert_eq!(one(&db, most).await, "true");
    }
}
