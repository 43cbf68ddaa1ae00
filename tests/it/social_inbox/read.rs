//! Who reads the inbox, and what they get of it, page by page.

use integration_tests::{
    TestApp,
    acting::Actor,
    people::{ADAM, BRICK, CLEO, NORD, OLGA, OSCAR, RENATA, SVEN, UMA},
};
use serde_json::{Value, json};
use shared::{
    social::{Kind, Life, Observation, Place, Precision, Thread},
    store::social,
};
use uuid::Uuid;

use super::{accounts, door};

const ACCOUNT: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0016_0001);
const THEIRS: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0016_0002);

fn message(id: &str, with: &str, second: i64, text: &str) -> Observation {
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
        text: Some(Some(text.to_owned())),
        sender_id: Some(with.to_owned()),
        sender_name: Some(format!("@{with}")),
        ..Observation::default()
    }
}

/// An inbox of five threads, a comment and a message that was deleted, and another organisation's.
async fn filled(app: &TestApp) {
    accounts(&app.db, NORD, "instagram", &[(ACCOUNT, "1".to_owned())]).await;
    accounts(&app.db, BRICK, "instagram", &[(THEIRS, "2".to_owned())]).await;
    let door = door(&app.db).await;
    let mut seen: Vec<Observation> =
        (0..5).map(|n| message(&format!("m{n}"), &format!("p{n}"), n, "Vad kostar soffan?")).collect();
    seen.push(message("m5", "p0", 10, "Och fåtöljen?"));
    seen.push(message("m6", "p1", 11, "glöm soffan"));
    seen.push(Observation {
        platform_id: "m6".to_owned(),
        at: 1_764_540_012_000,
        life: Life::Deleted,
        ..Observation::default()
    });
    let comment = message("c1", "p9", 20, "Snygg soffgrupp!");
    let place = comment.place.clone().map(|place| Place { kind: Kind::Comment, thread: Thread::Comments, ..place });
    seen.push(Observation { place, media_id: Some("media-1".to_owned()), ..comment });
    let merged = door.service(NORD, async |tx| social::merge(tx, NORD, ACCOUNT, &seen, chrono::Utc::now()).await).await;
    assert_eq!(merged.unwrap().new, 8);
    let other = [message("x", "p0", 0, "deras soffa")];
    door.service(BRICK, async |tx| social::merge(tx, BRICK, THEIRS, &other, chrono::Utc::now()).await).await.unwrap();
}

async fn names(app: &TestApp, token: &str, query: &str) -> Vec<String> {
    let page = app.get(&format!("/v1/inbox/threads{query}"), token).await.expect(200);
    let threads = page["threads"].as_array().unwrap();
    threads.iter().map(|thread| thread["counterpart"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_come_the_latest_first_page_by_page_and_by_what_is_asked_of_them() {
    let app = TestApp::start().await;
    filled(&app).await;
    let token = app.token(&OLGA);
    assert_eq!(names(&app, &token, "").await, ["@p9", "@p1", "@p0", "@p4", "@p3", "@p2"]);
    let first = app.get("/v1/inbox/threads?limit=2", &token).await.expect(200);
    let latest = &first["threads"][1];
    assert_eq!(latest["unread"], 1, "what was deleted is not new");
    assert_eq!(latest["messages_total"], 2);
    assert_eq!(latest["last_message"]["text"], Value::Null);
    assert_ne!(latest["last_message"]["deleted_at"], Value::Null);
    let mut after = first["next"].as_str().unwrap().to_owned();
    let mut seen = vec!["@p9".to_owned(), "@p1".to_owned()];
    for pages in 0.. {
        let page = app.get(&format!("/v1/inbox/threads?limit=2&after={after}"), &token).await.expect(200);
        seen.extend(
            page["threads"].as_array().unwrap().iter().map(|t| t["counterpart"]["name"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else {
            assert_eq!(pages, 1, "six threads are three pages, the last of which has no next");
            break;
        };
        after = next.to_owned();
    }
    assert_eq!(seen, ["@p9", "@p1", "@p0", "@p4", "@p3", "@p2"]);
    app.db
        .run(&format!(
            "update social_threads set assigned_to = '{}' where thread_id = 'dm:p3'; update social_threads set status = 'closed' where thread_id = 'dm:p4'",
            ADAM.user().id
        ))
        .await;
    app.db.run("update social_messages set status = 'read' where sender_id in ('p0', 'p2')").await;
    for (query, wanted) in [
        ("?kind=comment", vec!["@p9"]),
        ("?status=closed", vec!["@p4"]),
        ("?unread=true", vec!["@p9", "@p1", "@p4", "@p3"]),
        ("?assigned_to=none&kind=message&status=open", vec!["@p1", "@p0", "@p2"]),
        ("?assigned_to=me", vec![]),
        (&format!("?account={ACCOUNT}&limit=1"), vec!["@p9"]),
        (&format!("?account={THEIRS}"), vec![]),
    ] {
        assert_eq!(names(&app, &token, query).await, wanted, "{query}");
    }
    assert_eq!(names(&app, &app.token(&ADAM), "?assigned_to=me").await, ["@p3"]);
    app.get("/v1/inbox/threads?limit=0", &token).await.expect_error(400, "query_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_shows_its_messages_and_those_of_other_organisations_are_not_there() {
    let app = TestApp::start().await;
    filled(&app).await;
    let token = app.token(&OLGA);
    let all = app.get("/v1/inbox/threads", &token).await.expect(200);
    let href = all["threads"][2]["href"].as_str().unwrap().to_owned();
    let thread = app.get(&format!("{href}?limit=1"), &token).await.expect(200);
    assert_eq!(thread["messages"][0]["text"], "Och fåtöljen?");
    assert_eq!(thread["counterpart"], json!({ "id": "p0", "name": "@p0" }));
    let next = thread["next"].as_str().unwrap();
    let earlier = app.get(&format!("{href}?limit=1&after={next}"), &token).await.expect(200);
    assert_eq!(earlier["messages"][0]["text"], "Vad kostar soffan?");
    assert_eq!(earlier["next"], Value::Null);
    app.get(&href, &app.token(&OSCAR)).await.expect_error(404, "thread_not_found");
    app.get(&format!("/v1/inbox/threads/{}", Uuid::now_v7()), &token).await.expect_error(404, "thread_not_found");
    app.get("/v1/inbox/threads/x", &token).await.expect_error(404, "thread_not_found");
    // Agents with social:read read messages; people without it are refused.
    let agent = app.agent_token(&RENATA).await;
    assert_eq!(app.get(&href, &agent).await.expect(200)["messages_total"], 2);
    for person in [&SVEN, &CLEO, &UMA] {
        for path in [href.as_str(), "/v1/inbox/threads", "/v1/inbox/search?q=soffan"] {
            let refused = app.get(path, &app.token(person)).await;
            assert!(refused.status.as_u16() == 403, "{} {path}: {}", person.email, refused.status);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_finds_words_and_their_beginnings_in_ones_own_organisation_alone() {
    let app = TestApp::start().await;
    filled(&app).await;
    let found = async |person, query: &str| -> Vec<String> {
        let page = app.get(&format!("/v1/inbox/search?q={query}"), &app.token(person)).await.expect(200);
        page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| message["text"].as_str().unwrap().to_owned())
            .collect()
    };
    // The latest first; what was deleted has no words.
    assert_eq!(found(&OLGA, "soffan").await, ["Vad kostar soffan?"; 5]);
    assert_eq!(found(&OLGA, "soff").await[0], "Snygg soffgrupp!");
    assert_eq!(found(&OLGA, "f%C3%A5t%C3%B6ljen").await, ["Och fåtöljen?"]);
    assert_eq!(found(&OLGA, "kostar%20soff").await.len(), 5);
    assert_eq!(found(&OLGA, "deras").await, Vec::<String>::new());
    assert_eq!(found(&OSCAR, "soffa").await, ["deras soffa"]);
    assert_eq!(found(&OLGA, "x%27%20%7C%20%27y").await, Vec::<String>::new());
    let token = app.token(&OLGA);
    let page = app.get("/v1/inbox/search?q=soffan&limit=2", &token).await.expect(200);
    let mut seen = vec![page["messages"][0]["id"].clone(), page["messages"][1]["id"].clone()];
    let next = page["next"].as_str().unwrap();
    let rest = app.get(&format!("/v1/inbox/search?q=soffan&after={next}"), &token).await.expect(200);
    seen.extend(rest["messages"].as_array().unwrap().iter().map(|message| message["id"].clone()));
    assert_eq!(seen.iter().map(Value::to_string).collect::<std::collections::BTreeSet<_>>().len(), 5);
    app.get("/v1/inbox/search?q=%3F", &token).await.expect_error(422, "query_empty");
    app.get("/v1/inbox/search?q=", &token).await.expect_error(400, "query_invalid");
    app.get("/v1/inbox/search", &token).await.expect_error(400, "query_invalid");
    // The same by the Data API, in one's own name.
    let call = "select count(*) as it from public.search_social_messages('soffan')";
    assert_eq!(app.db.ask(&Actor::person(&OLGA), call).await.unwrap()[0]["it"], 5);
    assert_eq!(app.db.ask(&Actor::person(&SVEN), call).await.unwrap_err().state, "PT403");
    assert_eq!(app.db.ask(&Actor::role("anon"), call).await.unwrap_err().state, "42501");
}
