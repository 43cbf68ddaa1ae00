//! Who says what an agent does with the inbox, and what the agent may do then.

use integration_tests::{
    Server, TestDatabase,
    acting::Actor,
    people::{ADAM, BRICK, DORA, NORD, OSCAR, RENATA, RUFUS, SVEN},
};
use serde_json::json;
use uuid::Uuid;

use super::{account, one, set, written};

#[tokio::test(flavor = "multi_thread")]
async fn owners_and_admins_choose_an_agent_of_their_organisation_and_nobody_else_does() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let choose = |org: Uuid, agent: Uuid| {
        format!("insert into social_ai_settings (org_id, agent_id, drafts) values ('{org}', '{agent}', 'all')")
    };
    for person in [&DORA, &SVEN, &OSCAR] {
        let refused = db.change(&Actor::person(person), &choose(NORD, RENATA.id)).await.unwrap_err();
        assert_eq!(refused.state, "42501", "{refused:?}");
    }
    let foreign = db.change(&Actor::person(&ADAM), &choose(NORD, RUFUS.id)).await.unwrap_err();
    assert_eq!(foreign.state, "23503", "{foreign:?}");
    assert_eq!(db.change(&Actor::person(&ADAM), &choose(NORD, RENATA.id)).await.unwrap(), 1);
    let long = format!("update social_ai_settings set instruction = '{}'", "a".repeat(1001));
    assert_eq!(db.change(&Actor::person(&ADAM), &long).await.unwrap_err().state, "23514");
    assert_eq!(db.ask(&Actor::person(&SVEN), "select 1 from social_ai_settings").await.unwrap(), json!([]));
    let entry = "select new_values - 'org_id' from audit_log where action = 'social_ai_settings.insert'";
    assert_eq!(one(&db, entry).await, json!({ "agent_id": RENATA.id, "sentiment": true, "drafts": "all" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_for_one_organisation_reaches_nothing_of_another() {
    let db = TestDatabase::new(Server::Postgres18).await;
    for agent in [&RENATA, &RUFUS] {
        set(&db, agent, true, "all").await;
    }
    let theirs = account(&db, BRICK).await;
    let message = written(&db, theirs, "dm:1", "in", "Hej", 1).await;
    let thread = db.text("select id::text from social_threads").await;
    let at = db.text("select received_at::text from social_messages").await;
    let nord = Actor::service(NORD);
    let score = |agent: Uuid| {
        format!(
            "select app.score_social_messages('{agent}', (select jsonb_agg(jsonb_build_object('id', '{message}', 'at', '{at}'::timestamptz, 'score', 1, 'model', 'm'))))"
        )
    };
    assert_eq!(db.ask(&nord, &score(RUFUS.id)).await.unwrap_err().state, "42501");
    assert_eq!(db.ask(&nord, &score(RENATA.id)).await.unwrap(), json!([{ "score_social_messages": 0 }]));
    let unscored = "select jsonb_array_length(messages) as n from app.unscored_social_messages(40)";
    assert_eq!(db.ask(&nord, unscored).await.unwrap(), json!([{ "n": 0 }]));
    assert_eq!(db.ask(&Actor::service(BRICK), unscored).await.unwrap(), json!([{ "n": 1 }]));
    let draft = format!("select app.social_draft_of('{thread}', '{message}') ->> 'outcome' as it");
    assert_eq!(db.ask(&nord, &draft).await.unwrap(), json!([{ "it": "thread_gone" }]));
    assert_eq!(db.ask(&Actor::service(BRICK), &draft).await.unwrap(), json!([{ "it": "due" }]));
    let keep = |agent: Uuid| {
        format!(
            "select refused as it from app.keep_social_draft('{agent}', '{thread}', '{message}', 'message', 'Hej', 'm')"
        )
    };
    assert_eq!(db.ask(&nord, &keep(RENATA.id)).await.unwrap(), json!([{ "it": "thread_gone" }]));
    assert_eq!(db.ask(&Actor::service(BRICK), &keep(RENATA.id)).await.unwrap(), json!([{ "it": "agent_may_not" }]));
    assert_eq!(db.count("select count(*) from social_replies").await, 0);
    assert_eq!(db.count("select count(*) from social_sentiment").await, 0);
    // People and agents do none of this themselves.
    for actor in [Actor::person(&ADAM), db.agent(&RENATA).await] {
        for call in [score(RENATA.id), draft.clone(), keep(RENATA.id), unscored.to_owned()] {
            assert_eq!(db.ask(&actor, &call).await.unwrap_err().state, "42501", "{call}");
        }
    }
}
