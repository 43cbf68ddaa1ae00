//! Many open leads: the work grows as they do and no faster, and one organisation's trouble is no other's.

use std::collections::BTreeMap;

use integration_tests::{
    Server, TestApp, TestDatabase,
    people::{ADAM, BRICK, DAN, DORA, NORD, SVEN},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{lead, set, takes};

/// Has Atelier Nord work through nights and weekends, so that patience counts hours of the clock.
async fn clock_hours(db: &TestDatabase) {
    let columns = "patience_hours, work_days, work_from, work_until";
    set(db, columns, "48, '{1,2,3,4,5,6,7}', '00:00', '24:00'").await;
}

/// How many blocks a query reads.
async fn blocks(db: &TestDatabase, query: &str) -> i64 {
    let explained: Value =
        sqlx::query_scalar(AssertSqlSafe(format!("explain (analyze, buffers, format json) {query}")))
            .fetch_one(&mut db.admin().await)
            .await
            .unwrap();
    let plan = &explained[0]["Plan"];
    plan["Shared Hit Blocks"].as_i64().unwrap() + plan["Shared Read Blocks"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn four_times_as_many_open_leads_take_four_times_the_work() {
    for server in crate::SERVERS {
        let db = TestDatabase::new(server).await;
        takes(&db, &SVEN, 100).await;
        clock_hours(&db).await;
        // Let lie, with notes that are as old.
        let come = async |from: i32, to: i32| {
            db.run(&format!(
                "set session_replication_role = replica;
                 insert into leads (org_id, client_name, assigned_to, assigned_at, created_at, updated_at)
                 select '{NORD}', 'Lead', '{}', at, at, at from generate_series({from}, {to}) n, lateral (select now() - interval '90 days' - n * interval '1 minute') x (at);
                 insert into lead_notes (org_id, lead_id, note, created_at) select org_id, id, 'note', created_at from leads where client_name = 'Lead';
                 update leads set client_name = 'Known' where client_name = 'Lead'",
                SVEN.id
            ))
            .await;
            // Outside the transaction of the rest.
            db.run("vacuum analyze leads").await;
            db.run("vacuum analyze lead_notes").await;
        };
        let query = format!("select from app.leads_to_assign('{NORD}', null, 48)");
        come(1, 500).await;
        let few = blocks(&db, &query).await;
        come(501, 2000).await;
        let many = blocks(&db, &query).await;
        // Four times, and what there is once.
        assert!(many < 5 * few, "{server:?}: {few} blocks for 500 leads, {many} for 2000");
    }
}

/// Why somebody is to be found for a lead, computed apart from the database.
fn why(leads: &BTreeMap<Uuid, Open>, capacities: &BTreeMap<Uuid, usize>, id: Uuid) -> Option<&'static str> {
    let of = &leads[&id];
    let Some(person) = of.person else { return Some("unassigned") };
    let earlier = leads.iter().filter(|(other, lead)| {
        lead.person == Some(person)
            && (lead.given_minutes_ago, **other) != (of.given_minutes_ago, id)
            && (std::cmp::Reverse(lead.given_minutes_ago), **other) < (std::cmp::Reverse(of.given_minutes_ago), id)
    });
    if capacities.get(&person).is_some_and(|most| earlier.count() >= *most) {
        return Some("over_capacity");
    }
    let patience = 48 * 60;
    let touched = of.given_minutes_ago.min(of.changed_minutes_ago);
    let noted = of.noted_minutes_ago.is_some_and(|noted| noted < patience);
    (touched > patience && !noted).then_some("waited")
}

/// An open lead. Times in minutes before now; none is at the edge of the patience.
#[derive(Debug, Clone, Copy)]
struct Open {
    person: Option<Uuid>,
    given_minutes_ago: i32,
    changed_minutes_ago: i32,
    noted_minutes_ago: Option<i32>,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_lead_is_the_same_of_it_alone_and_among_all_and_as_the_rules_have_it() {
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let db = TestDatabase::new(Server::Postgres18).await;
        clock_hours(&db).await;
        // Olga takes none, and whoever has left has none.
        let people = [SVEN, DORA, ADAM];
        let mut capacities = BTreeMap::new();
        for person in &people[..2] {
            let most = random.random_range(0..8);
            takes(&db, person, most).await;
            capacities.insert(person.id, usize::try_from(most).unwrap());
        }
        let mut minutes = || random.random_range(0..60) * 100 + 1;
        let leads: BTreeMap<Uuid, Open> = (1..=30)
            .map(|number| {
                let open = Open {
                    person: None,
                    given_minutes_ago: minutes(),
                    changed_minutes_ago: minutes(),
                    noted_minutes_ago: None,
                };
                (lead(number), open)
            })
            .collect();
        let leads: BTreeMap<Uuid, Open> = leads
            .into_iter()
            .map(|(id, open)| {
                let person = random.random_bool(0.85).then(|| people[random.random_range(0..people.len())].id);
                let noted_minutes_ago = random.random_bool(0.4).then(|| random.random_range(0..60) * 100 + 1);
                (id, Open { person, noted_minutes_ago, ..open })
            })
            .collect();
        let rows: Vec<Value> = leads
            .iter()
            .map(|(id, open)| {
                json!({ "id": id, "person": open.person, "given": open.given_minutes_ago, "changed": open.changed_minutes_ago, "noted": open.noted_minutes_ago })
            })
            .collect();
        db.run(&format!(
            "set session_replication_role = replica;
             create temporary table made as
             select * from jsonb_to_recordset('{}') x (id uuid, person uuid, given integer, changed integer, noted integer);
             insert into leads (id, org_id, client_name, assigned_to, assigned_at, created_at, updated_at)
             select id, '{NORD}', 'Lead', person, case when person is not null then now() - given * interval '1 minute' end,
                    now() - given * interval '1 minute', now() - changed * interval '1 minute' from made;
             insert into lead_notes (org_id, lead_id, note, created_at)
             select '{NORD}', id, 'note', now() - noted * interval '1 minute' from made where noted is not null;
             insert into leads (org_id, client_name, status, closed_at) values ('{NORD}', 'Ended', 'won', now());
             insert into leads (org_id, client_name) values ('{BRICK}', 'Theirs')",
            json!(rows)
        ))
        .await;
        let said = async |query: &str| -> BTreeMap<Uuid, String> {
            let rows: Vec<(Uuid, String)> =
                sqlx::query_as(AssertSqlSafe(query.to_owned())).fetch_all(&mut db.admin().await).await.unwrap();
            rows.into_iter().collect()
        };
        let wanted: BTreeMap<Uuid, String> =
            leads.keys().filter_map(|id| Some((*id, why(&leads, &capacities, *id)?.to_owned()))).collect();
        let among_all = said(&format!("select lead_id, why from app.leads_to_assign('{NORD}', null, 48)")).await;
        assert_eq!(among_all, wanted, "seed {seed}: {leads:#?} {capacities:?}");
        let alone = said(&format!(
            "select w.lead_id, w.why from leads l cross join lateral app.leads_to_assign('{NORD}', l.id, 48) w"
        ))
        .await;
        assert_eq!(alone, wanted, "seed {seed}: {leads:#?} {capacities:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_whose_leads_cannot_be_looked_at_keeps_no_other_from_theirs() {
    let app = TestApp::start().await;
    takes(&app.db, &SVEN, 5).await;
    app.db
        .run(&format!(
            "insert into lead_capacity (org_id, user_id, max_open) values ('{BRICK}', '{}', 5);
             insert into lead_assignment_settings (org_id, enabled, min_auc, max_brier, ai_bound)
             select id, true, null, null, 0 from organizations;
             insert into leads (id, org_id, client_name) values ('{}', '{NORD}', 'Ours'), ('{}', '{NORD}', 'Waiting'), ('{}', '{BRICK}', 'Theirs'), ('{}', '{BRICK}', 'Waiting');
             -- Waits for room, was looked at long ago, and there is room.
             insert into jobs (org_id, job_type, unique_key, payload, run_after, wait_reason)
             select org_id, 'lead_assign', id::text, jsonb_build_object('lead_id', id, 'asked_at', now()), now() + interval '1 hour',
                    jsonb_build_object('reason', 'everybody_full', 'at', now() - interval '1 hour')
               from leads where client_name = 'Waiting';
             -- What nobody can read is Brick & Beam's alone: a job that was called off, and one that waits.
             insert into jobs (org_id, job_type, status, unique_key, payload, finished_at)
             select org_id, 'lead_assign', 'cancelled', id::text, '{{\"by_schedule\": \"perhaps\"}}', now() from leads where client_name = 'Theirs';
             update jobs set wait_reason = wait_reason || '{{\"at\": \"yesterday or so\"}}' where org_id = '{BRICK}' and status = 'queued'",
            DAN.id,
            lead(1),
            lead(2),
            lead(3),
            lead(4)
        ))
        .await;
    let told = app.stack.look_after_leads().await.unwrap();
    assert_eq!((&told["leads_queued"], &told["leads_woken"]), (&json!(1), &json!(1)), "{told} {}", app.logs());
    app.stack.sweep().await.unwrap();
    app.stack.leads.drained().await;
    let given = "select count(*) from leads where assigned_to is not null and org_id = ";
    assert_eq!(app.db.count(&format!("{given} '{NORD}'")).await, 2, "{}", app.logs());
    assert_eq!(app.db.count(&format!("{given} '{BRICK}'")).await, 0);
    // It is told of, with the organisation.
    let logged = app.logs();
    for what in ["an organisation's leads could not be queued", "an organisation's leads could not be woken"] {
        assert!(
            logged.lines().any(|line| line.contains(what) && line.contains(&BRICK.to_string())),
            "{what}: {logged}"
        );
    }
}
