//! Leads that are made of social threads: by a person, by a rule of the organisation, and what becomes of them.

mod hand;
mod rules;

use chrono::{DateTime, TimeDelta, Utc};
use integration_tests::{
    Answer, TestApp, TestDatabase,
    people::{NORD, OLGA, Person},
};
use serde_json::{Value, json};
use shared::{
    db::Database,
    social::{Kind, Observation, Place, Precision, Thread},
    store::social::{self, Merged},
};
use uuid::Uuid;

/// An account of Atelier Nord.
const ACCOUNT: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0019_0001);

/// A message that a person wrote to an account.
fn message(id: &str, with: &str, at: DateTime<Utc>, text: &str) -> Observation {
    Observation {
        platform_id: id.to_owned(),
        at: at.timestamp_millis(),
        place: Some(Place {
            kind: Kind::Message,
            thread: Thread::Direct(with.to_owned()),
            outgoing: false,
            sent_at: at,
            precision: Precision::Millisecond,
        }),
        text: Some(Some(text.to_owned())),
        sender_id: Some(with.to_owned()),
        sender_name: Some(format!("@{with}")),
        ..Observation::default()
    }
}

/// The same as a comment of `with`; `answers` another.
fn comment(id: &str, with: &str, at: DateTime<Utc>, text: &str, answers: Option<&str>) -> Observation {
    let kind = if answers.is_some() { Kind::Reply } else { Kind::Comment };
    let said = message(id, with, at, text);
    let place = said.place.map(|place| Place { kind, thread: Thread::Comments, ..place });
    Observation { place, parent_id: answers.map(str::to_owned), media_id: Some("media-1".to_owned()), ..said }
}

/// Merges what was seen of an account.
async fn merge(door: &Database, org: Uuid, account: Uuid, seen: &[Observation]) -> Merged {
    door.service(org, async |tx| social::merge(tx, org, account, seen, Utc::now()).await).await.unwrap()
}

/// A thread's id, by its place at the platform.
async fn thread(db: &TestDatabase, place: &str) -> Uuid {
    db.text(&format!("select id::text from social_threads where thread_id = '{place}'")).await.parse().unwrap()
}

/// Asks for a lead of a thread.
async fn make(app: &TestApp, person: &Person, thread: Uuid, fields: &Value) -> Answer {
    app.post(&format!("/v1/inbox/threads/{thread}/lead"), &app.token(person), fields).await
}

/// One JSON value.
async fn value(db: &TestDatabase, query: &str) -> Value {
    serde_json::from_str(&db.text(&format!("select coalesce(({query})::text, 'null')")).await).unwrap()
}

/// Which leads were made: the other side's name, by whom or what, and whether the lead is still there.
async fn made(db: &TestDatabase) -> Value {
    value(
        db,
        "select jsonb_agg(jsonb_build_array(t.thread_id, r.name, s.made_by is not null, s.lead_id is not null) order by t.thread_id)
           from social_leads s join social_threads t on t.id = s.thread_id left join social_lead_rules r on r.id = s.rule_id",
    )
    .await
}

/// A rule, made an hour ago.
async fn rule(db: &TestDatabase, org: Uuid, name: &str, words: &str, more: &[(&str, &str)]) {
    let mut columns = "org_id, name, words".to_owned();
    let mut values = format!("'{org}', '{name}', '{words}'");
    for (column, value) in more {
        columns += &format!(", {column}");
        values += &format!(", {value}");
    }
    if more.iter().all(|(column, _)| *column != "created_at") {
        columns += ", created_at";
        values += ", now() - interval '1 hour'";
    }
    db.run(&format!("insert into social_lead_rules ({columns}) values ({values})")).await;
}

/// Every statement that leads of threads have.
pub(crate) async fn scenario(app: &TestApp) {
    let account = Uuid::now_v7();
    crate::social_inbox::accounts(&app.db, NORD, "instagram", &[(account, "leads".to_owned())]).await;
    rule(&app.db, NORD, "scenario", "{offert}", &[]).await;
    let door = crate::social_inbox::door(&app.db).await;
    let at = Utc::now() - TimeDelta::minutes(1);
    let seen = [message("lead-1", "lead-p1", at, "offert"), message("lead-2", "lead-p2", at, "hej")];
    assert_eq!(merge(&door, NORD, account, &seen).await.leads, 1);
    let by_hand = thread(&app.db, "dm:lead-p2").await;
    let path = format!("/v1/inbox/threads/{by_hand}/lead");
    let body = json!({ "email": "p2@lakeside.example" });
    app.send_keyed(reqwest::Method::POST, &path, &app.token(&OLGA), Some(&body), Some("lead")).await.expect(200);
    app.send_keyed(reqwest::Method::POST, &path, &app.token(&OLGA), Some(&body), Some("lead")).await.expect(200);
}
