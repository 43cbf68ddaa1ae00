//! Counts of threads are right under concurrent changes of messages.

use futures::future::join_all;
use integration_tests::{
    Server, TestDatabase,
    acting::Actor,
    people::{ADAM, BRICK, NORD, OLGA, OSCAR, SVEN, UMA},
};
use serde_json::{Value, json};
use shared::{
    social::{Kind, Life, Observation, Place, Precision, Thread},
    store::{StoreError, social},
};
use uuid::Uuid;

use super::{accounts, door};

const ACCOUNT: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0016_0001);

fn message(id: &str, with: &str, second: i64) -> Observation {
    let sent_at = chrono::DateTime::from_timestamp(1_764_540_000 + second, 0).unwrap();
    Observation {
        platform_id: id.to_owned(),
        at: sent_at.timestamp_millis(),
        place: Some(Place {
            kind: Kind::Message,
            thread: Thread::Direct(with.to_owned()),
            outgoing: false,
            sent_at,
            precision: Precision::Millisecond,
        }),
        text: Some(Some(format!("text of {id}"))),
        sender_id: Some(with.to_owned()),
        sender_name: Some(format!("@{with}")),
        ..Observation::default()
    }
}

async fn merge(door: &shared::db::Database, seen: &[Observation]) {
    let merged = door.service(NORD, async |tx| social::merge(tx, NORD, ACCOUNT, seen, chrono::Utc::now()).await);
    merged.await.map_err(|error: StoreError| format!("{error:?}")).unwrap();
}

async fn thread(db: &TestDatabase, with: &str) -> Value {
    let shown = db
        .text(&format!(
            "select jsonb_build_object('status', status, 'messages', message_count, 'unread', unread_count, 'name', counterpart_name)::text
               from social_threads where thread_id = 'dm:{with}'"
        ))
        .await;
    serde_json::from_str(&shown).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_counts_are_right_after_people_and_deliveries_changed_messages_at_once() {
    let db = TestDatabase::new(Server::Postgres18).await;
    accounts(&db, NORD, "instagram", &[(ACCOUNT, "1".to_owned())]).await;
    let doors = join_all((0..3).map(|_| door(&db))).await;
    merge(&doors[0], &(0..60).map(|n| message(&format!("m{n}"), ["a", "b", "c"][n % 3], 0)).collect::<Vec<_>>()).await;
    let deliver = doors.iter().enumerate().map(|(worker, door)| async move {
        for round in 0..10 {
            let id = 100 + worker * 100 + round;
            let gone = Observation {
                platform_id: format!("m{}", worker * 10 + round),
                at: 1_764_540_900_000,
                life: Life::Deleted,
                ..Observation::default()
            };
            merge(door, &[message(&format!("m{id}"), ["a", "b", "c"][(worker + round) % 3], 5), gone]).await;
        }
    });
    let read = [(OLGA, 0), (ADAM, 1), (OLGA, 2)].map(|(person, part)| {
        let db = &db;
        async move {
            for round in 0..10 {
                let id = format!("m{}", part * 10 + round);
                let mark = format!(
                    "update public.social_messages set status = 'read' where platform_id in ('{id}', 'm{}')",
                    59 - round
                );
                db.change(&Actor::person(&person), &mark).await.unwrap();
            }
        }
    });
    futures::join!(join_all(deliver), join_all(read));
    let wrong = db
        .count(
            "select count(*) from social_threads t
              cross join lateral (select count(*) as messages, count(*) filter (where m.status = 'new' and m.deleted_at is null) as unread,
                                         max(m.received_at) as last
                                    from social_messages m where m.thread_id = t.thread_id) m
              where (t.message_count, t.unread_count, t.last_message_at, t.last_incoming_at) is distinct from (m.messages, m.unread, m.last, m.last)",
        )
        .await;
    assert_eq!(wrong, 0);
    assert_eq!(db.count("select sum(message_count) from social_threads").await, 90);
    assert_eq!(db.count("select sum(unread_count) from social_threads").await, 90 - 30 - 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_thread_opens_again_when_something_later_arrives_and_not_for_what_is_older() {
    let db = TestDatabase::new(Server::Postgres18).await;
    accounts(&db, NORD, "instagram", &[(ACCOUNT, "1".to_owned())]).await;
    let door = door(&db).await;
    merge(&door, &[message("m1", "a", 0)]).await;
    let close = "update public.social_threads set status = 'closed', assigned_to = (select auth.uid())";
    for person in [&SVEN, &UMA, &OSCAR] {
        assert_ne!(db.change(&Actor::person(person), close).await.ok(), Some(1), "{}", person.email);
    }
    assert_eq!(db.change(&Actor::person(&OLGA), close).await, Ok(1));
    merge(&door, &[message("m2", "a", 10)]).await;
    assert_eq!(thread(&db, "a").await, json!({ "status": "closed", "messages": 2, "unread": 2, "name": "@a" }));
    let seconds = chrono::Utc::now().timestamp() - 1_764_540_000 + 60;
    merge(&door, &[message("m3", "a", seconds)]).await;
    assert_eq!(thread(&db, "a").await["status"], "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_another_organisation_has_too_is_its_own_there() {
    let db = TestDatabase::new(Server::Postgres18).await;
    accounts(&db, NORD, "instagram", &[(ACCOUNT, "1".to_owned())]).await;
    let theirs = Uuid::now_v7();
    accounts(&db, BRICK, "instagram", &[(theirs, "1".to_owned())]).await;
    let door = door(&db).await;
    merge(&door, &[message("m1", "a", 0)]).await;
    let merged = door.service(BRICK, async |tx| {
        social::merge(tx, BRICK, theirs, &[message("m1", "a", 0)], chrono::Utc::now()).await
    });
    assert_eq!(merged.await.unwrap().new, 1);
    // Nothing is written into an account of another organisation.
    let crossed = door.service(BRICK, async |tx| {
        social::merge(tx, BRICK, ACCOUNT, &[message("m9", "a", 0)], chrono::Utc::now()).await
    });
    assert_eq!(crossed.await.unwrap_err().database_code().as_deref(), Some("23503"));
    for (person, org) in [(&OLGA, NORD), (&OSCAR, BRICK)] {
        let seen = db.ask(&Actor::person(person), "select org_id, thread_id from public.social_threads").await.unwrap();
        assert_eq!(seen, json!([{ "org_id": org, "thread_id": "dm:a" }]));
    }
}
