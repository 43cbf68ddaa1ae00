//! Nobody is given more than they take, and those who are alike are given alike: under concurrency, and whatever a team is like.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use integration_tests::{
    Server, TestApp, TestDatabase,
    acting::Actor,
    full,
    people::{NORD, OLGA},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{ask, come, lead, one, whole};

/// Somebody of a team, by number.
const fn member(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_000a_0000 + number)
}

/// So many people who join Atelier Nord as sales.
async fn team(db: &TestDatabase, count: u128) {
    for number in 1..=count {
        db.run(&format!(
            "insert into auth.users (id, email) values ('{0}', 'm{number}@atelier-nord.example');
             insert into org_members (org_id, user_id, role_id) values ('{NORD}', '{0}', '00000000-0000-7000-8000-000000000004')",
            member(number)
        ))
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_calls_at_once_over_a_thousand_leads_give_each_once_and_twenty_people_alike() {
    let app = TestApp::start().await;
    team(&app.db, 20).await;
    come(&app.db, 1, 1000).await;
    app.db
        .run("insert into lead_capacity (org_id, user_id, max_open) select org_id, user_id, 60 from org_members where user_id::text like '%0a00__'")
        .await;
    let token = app.token(&OLGA);
    // Every tenth is asked for twice, by somebody else at the same time.
    let calls = (1..=1000).chain((1..=1000).step_by(10));
    let statuses: Vec<u16> = stream::iter(calls)
        .map(|number| {
            let (app, token) = (&app, &token);
            async move { ask(app, token, lead(number)).await.status.as_u16() }
        })
        .buffer_unordered(100)
        .collect()
        .await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?} {}", app.logs());
    let each = one(&app.db, "select jsonb_build_array(count(*), min(n), max(n), sum(n)) from (select count(*) as n from leads where assigned_to is not null group by assigned_to) x").await;
    // Fifty each: one more or less would be within the bound, two would not.
    assert_eq!((&each[0], &each[3]), (&json!(20), &json!(1000)), "{each}");
    assert!(each[2].as_i64().unwrap() - each[1].as_i64().unwrap() <= 1, "{each}");
    whole(&app.db).await;
    assert_eq!(app.db.count("select count(*) from lead_assignments").await, 1000);

    // Two hundred places are free for the next three hundred: the rest wait, and nobody has more than sixty.
    come(&app.db, 1001, 300).await;
    let statuses: Vec<u16> = stream::iter(1001..=1300)
        .map(|number| {
            let (app, token) = (&app, &token);
            async move { ask(app, token, lead(number)).await.status.as_u16() }
        })
        .buffer_unordered(100)
        .collect()
        .await;
    let given = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!((given, statuses.iter().filter(|status| **status == 202).count()), (200, 100), "{statuses:?}");
    let most =
        "select max(n) from (select count(*) as n from leads where assigned_to is not null group by assigned_to) x";
    assert_eq!(app.db.count(most).await, 60);
    assert_eq!(app.db.count("select count(*) from jobs where wait_reason ->> 'reason' = 'everybody_full'").await, 100);
    whole(&app.db).await;
}

/// One of a generated team.
#[derive(Debug, Clone)]
struct Colleague {
    max_open: i32,
    skills: BTreeSet<&'static str>,
    territories: BTreeSet<&'static str>,
    available: bool,
}

/// A generated lead.
#[derive(Debug, Clone)]
struct Wish {
    skills: BTreeSet<&'static str>,
    territory: Option<&'static str>,
}

fn some_of(words: &'static [&'static str]) -> impl Strategy<Value = BTreeSet<&'static str>> {
    proptest::sample::subsequence(words, 0..=words.len()).prop_map(|chosen| chosen.into_iter().collect())
}

const SKILLS: &[&str] = &["kitchens", "lighting", "gardens"];
const TERRITORIES: &[&str] = &["north", "south"];

fn teams() -> impl Strategy<Value = (Vec<Colleague>, Vec<Wish>)> {
    let colleague = (0..5_i32, some_of(SKILLS), some_of(TERRITORIES), prop::bool::weighted(0.8))
        .prop_map(|(max_open, skills, territories, available)| Colleague { max_open, skills, territories, available });
    let wish = (some_of(SKILLS), prop::option::of(prop::sample::select(TERRITORIES)))
        .prop_map(|(skills, territory)| Wish { skills, territory });
    (prop::collection::vec(colleague, 0..=6), prop::collection::vec(wish, 1..=14))
}

fn array(words: &BTreeSet<&str>) -> String {
    format!("'{{{}}}'", words.iter().copied().collect::<Vec<_>>().join(","))
}

/// How well somebody suits a lead with so many open, computed apart from the database.
fn suits(colleague: &Colleague, wish: &Wish, open: i32) -> f64 {
    let territory =
        wish.territory.is_none_or(|wanted| colleague.territories.is_empty() || colleague.territories.contains(wanted));
    if !colleague.available || !territory || open >= colleague.max_open {
        return 0.0;
    }
    let has = wish.skills.intersection(&colleague.skills).count() as f64;
    let skills = if wish.skills.is_empty() { 1.0 } else { (has / wish.skills.len() as f64).max(0.2) };
    skills * f64::from(colleague.max_open - open) / f64::from(colleague.max_open)
}

async fn gives_as_it_says(db: &TestDatabase, team: &[Colleague], wishes: &[Wish]) {
    let mut arranged = "delete from leads; delete from lead_capacity;".to_owned();
    for (number, colleague) in (1..).zip(team) {
        arranged += &format!(
            "insert into lead_capacity (org_id, user_id, max_open, skills, territories, available) values ('{NORD}', '{}', {}, {}, {}, {});",
            member(number),
            colleague.max_open,
            array(&colleague.skills),
            array(&colleague.territories),
            colleague.available
        );
    }
    for (number, wish) in (1..).zip(wishes) {
        arranged += &format!(
            "insert into leads (id, org_id, client_name, wanted_skills, territory) values ('{}', '{NORD}', 'Lead', {}, {});",
            lead(number),
            array(&wish.skills),
            wish.territory.map_or_else(|| "null".to_owned(), |text| format!("'{text}'"))
        );
    }
    db.run(&arranged).await;
    let ids: Vec<String> = (1..).zip(wishes).map(|(number, _)| lead(number).to_string()).collect();
    let call = format!("select app.assign_lead(id, null) as it from unnest('{{{}}}'::uuid[]) id", ids.join(","));
    let answers = db.ask(&Actor::service(NORD), &call).await.unwrap();
    let mut open: BTreeMap<Uuid, i32> = BTreeMap::new();
    for (place, wish) in wishes.iter().enumerate() {
        let told = &answers[place]["it"];
        let people: Vec<(Uuid, f64, f64)> = (1..)
            .zip(team)
            .map(|(number, colleague)| {
                let has = open.get(&member(number)).copied().unwrap_or_default();
                (member(number), suits(colleague, wish, has), f64::from(has) / f64::from(colleague.max_open.max(1)))
            })
            .collect();
        let best = people.iter().map(|(_, suits, _)| *suits).fold(0.0, f64::max);
        if best == 0.0 {
            assert_eq!(told["outcome"], "waiting", "{team:?} {wish:?}: {told}");
            assert_eq!(told["assignment"]["assigned_to"], Value::Null);
            continue;
        }
        assert_eq!(told["outcome"], "assigned", "{team:?} {wish:?}: {told}");
        let chosen: Uuid = told["assignment"]["assigned_to"].as_str().unwrap().parse().unwrap();
        let (_, suited, load) = people.iter().find(|(id, ..)| *id == chosen).unwrap();
        // Among those within a tenth of the best, nobody has less to do.
        assert!(*suited >= 0.9 * best - 1e-5, "{team:?} {wish:?}: {told}");
        let least = people
            .iter()
            .filter(|(_, suits, _)| *suits >= 0.9 * best + 1e-5)
            .map(|(.., load)| *load)
            .fold(f64::MAX, f64::min);
        assert!(*load <= least + 1e-9, "{team:?} {wish:?}: {told}");
        *open.entry(chosen).or_default() += 1;
    }
    whole_of_these(db, &open).await;
}

/// What is stored is what was answered.
async fn whole_of_these(db: &TestDatabase, open: &BTreeMap<Uuid, i32>) {
    let stored = one(db, "select coalesce(jsonb_object_agg(assigned_to, n), '{}') from (select assigned_to, count(*) as n from leads where assigned_to is not null group by 1) x").await;
    assert_eq!(stored, json!(open));
    let broken = "select count(*) from lead_capacity c where (select count(*) from leads l where l.assigned_to = c.user_id) > c.max_open";
    assert_eq!(db.count(broken).await, 0);
}

#[test]
fn whatever_a_team_is_like_the_lead_goes_to_somebody_who_suits_and_has_room() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let db = runtime.block_on(async {
        let db = TestDatabase::new(Server::Postgres18).await;
        team(&db, 6).await;
        db
    });
    let mut runner =
        TestRunner::new(Config { cases: if full() { 200 } else { 60 }, max_shrink_iters: 100, ..Config::default() });
    runner
        .run(&teams(), |(team, wishes)| {
            runtime.block_on(gives_as_it_says(&db, &team, &wishes));
            Ok(())
        })
        .unwrap();
    runtime.block_on(async move { drop(db) });
}
