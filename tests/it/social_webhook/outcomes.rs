//! What comes of deliveries: in the inbox, or as an outcome with a name.

use chrono::Utc;
use integration_tests::{
    TestApp,
    acting::Actor,
    people::{NORD, OLGA},
};
use sandbox::{
    Delivery, Order,
    instagram::{self as events, MediaKind, NewMessage},
};
use serde_json::{Value, json};
use sqlx::Executor;

use super::{connect, merged, meta, tiktok_at, value};
use crate::jobs::until_waiting;

const OWN: &str = "17841400000000001";

async fn delivered(app: &TestApp, entry: Value) {
    meta(app, &events::body(&[entry], sandbox::Written::Escaped)).await.expect(200);
    merged(app).await;
}

/// What became of the entries, in the order they came.
async fn outcomes(app: &TestApp) -> Value {
    value(
        &app.db,
        "select jsonb_agg(jsonb_build_array(event_type, status, error) order by received_at, id) from webhook_events",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_delivery_ends_in_the_inbox_however_badly_it_is_delivered() {
    let app = TestApp::start().await;
    let instagram = &app.stack.sandbox.instagram;
    let nord = instagram.add_account("atelier.nord", "Atelier Nord");
    connect(&app, NORD, "instagram", &nord.id).await;
    let greta = instagram.add_person("greta", Some("Greta"));
    let first = instagram.message(&nord.id, &greta, "Hej! Vad kostar soffan? åäö").unwrap();
    instagram.react(&first, Some("❤")).unwrap();
    instagram.edit_message(&first, "Hej! Vad kostar fåtöljen?").unwrap();
    let unsent = instagram.message(&nord.id, &greta, "glöm det").unwrap();
    instagram.unsend(&unsent).unwrap();
    let answer = instagram.answer(&nord.id, &greta, "4 900 kr").unwrap();
    instagram.seen(&answer).unwrap();
    let story = instagram
        .message(&nord.id, &greta, NewMessage::from("fin!").in_reply_to_story("77", "https://cdn.example/story"))
        .unwrap();
    let post = instagram.publish(&nord.id, MediaKind::Image, Some("Ny fåtölj")).unwrap();
    let comment = instagram.comment(&post, &greta, "Finns den i grönt?", None).unwrap();
    let own = instagram.own_comment(&nord.id, &post, "Ja!", Some(&comment)).unwrap();
    for (order, copies, merged_entries) in [(Order::Shuffled(3), 2, false), (Order::Reversed, 1, true)] {
        let attempts = instagram
            .deliver_with(Delivery { order, copies, batch: 3, merged: merged_entries, ..Delivery::default() })
            .await;
        assert!(attempts.iter().all(|attempt| attempt.succeeded), "{attempts:?} {}", app.logs());
    }
    merged(&app).await;
    let shown = value(
        &app.db,
        "select jsonb_object_agg(platform_id, jsonb_build_array(message_type, direction, content, reactions, deleted_at is not null, seen_at is not null)) from social_messages",
    )
    .await;
    assert_eq!(
        shown,
        json!({
            first: ["message", "in", "Hej! Vad kostar fåtöljen?", { greta.clone(): "❤" }, false, false],
            unsent: ["message", "in", null, {}, true, false],
            answer: ["message", "out", "4 900 kr", {}, false, true],
            story: ["story_reply", "in", "fin!", {}, false, false],
            comment: ["comment", "in", "Finns den i grönt?", {}, false, false],
            own: ["reply", "out", "Ja!", {}, false, false],
        })
    );
    let threads = value(
        &app.db,
        "select jsonb_object_agg(kind, jsonb_build_array(message_count, unread_count)) from social_threads",
    )
    .await;
    assert_eq!(threads, json!({ "message": [4, 2], "comment": [2, 1] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_or_broken_has_an_outcome_with_a_name_and_keeps_nothing_else_from_its_effect() {
    let app = TestApp::start().await;
    connect(&app, NORD, "instagram", OWN).await;
    let at = Utc::now().timestamp_millis();
    let said =
        |mid: &str, at: i64| events::messaging("9001", OWN, at, json!({ "message": { "mid": mid, "text": "hej" } }));
    delivered(&app, json!({ "id": OWN, "time": at, "changes": [{ "field": "live_videos", "value": {} }] })).await;
    delivered(
        &app,
        json!({ "id": OWN, "time": at, "messaging": [said("good", at), { "sender": 5 }, said("also-good", at)] }),
    )
    .await;
    delivered(&app, json!({ "id": OWN, "time": at, "messaging": [said("old", 1_000_000_000_000), said("third", at)] }))
        .await;
    delivered(&app, json!({ "id": OWN, "time": at, "messaging": "?" })).await;
    delivered(&app, json!({ "id": OWN, "time": at })).await;
    // What Postgres does not store is left out of a text, and what is too long for a platform is cut.
    let long = format!("a\u{0}b{}", "å".repeat(30_000));
    delivered(
        &app,
        events::messaging_entry(
            OWN,
            at,
            events::messaging("9001", OWN, at, json!({ "message": { "mid": "long", "text": long } })),
        ),
    )
    .await;
    assert_eq!(
        outcomes(&app).await,
        json!([
            ["live_videos", "ignored", null],
            ["messaging", "unparsed", "parts_unparsed"],
            ["messaging", "unparsed", "parts_out_of_range"],
            ["messaging", "unparsed", "parts_unparsed"],
            ["unknown", "ignored", null],
            ["messaging", "applied", null],
        ])
    );
    let kept = value(&app.db, "select jsonb_object_agg(platform_id, left(content, 4)) from social_messages").await;
    assert_eq!(kept, json!({ "good": "hej", "also-good": "hej", "third": "hej", "long": "abåå" }));
    assert_eq!(
        app.db.count("select length(content)::bigint from social_messages where platform_id = 'long'").await,
        20_000
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_refuses_fails_by_itself_and_the_rest_is_merged() {
    let app = TestApp::start().await;
    connect(&app, NORD, "instagram", OWN).await;
    app.db.run("alter table social_messages add constraint no_cats check (content <> 'cat')").await;
    let at = Utc::now().timestamp_millis();
    let entries: Vec<Value> = ["dog", "cat", "bird"]
        .iter()
        .map(|text| {
            events::messaging_entry(
                OWN,
                at,
                events::messaging("9001", OWN, at, json!({ "message": { "mid": text, "text": text } })),
            )
        })
        .collect();
    meta(&app, &events::body(&entries, sandbox::Written::Raw)).await.expect(200);
    merged(&app).await;
    let statuses = value(&app.db, "select jsonb_object_agg(convert_from(raw, 'UTF8')::jsonb #>> '{messaging,0,message,text}', jsonb_build_array(status, error)) from webhook_events").await;
    assert_eq!(
        statuses,
        json!({ "dog": ["applied", null], "cat": ["failed", "the database refused it: 23514"], "bird": ["applied", null] })
    );
    crate::alarms::rings(&app, "social-events-failed", 1.0);
    assert_eq!(app.db.count("select count(*) from social_messages").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_comes_before_one_that_fails_while_that_is_tried_is_not_taken_for_it() {
    let app = TestApp::start().await;
    connect(&app, NORD, "instagram", OWN).await;
    // A cat is refused, and the second time that is tried only once the test lets it.
    app.db
        .run(
            "create sequence tries;
             create function refuse() returns trigger language plpgsql security definer as $$ begin
                 perform pg_advisory_xact_lock(nextval('public.tries'));
                 raise check_violation;
             end $$;
             create trigger no_cats before insert on social_messages for each row when (new.content = 'cat') execute function refuse()",
        )
        .await;
    let mut gate = app.db.admin().await;
    gate.execute("select pg_advisory_lock(2)").await.unwrap();
    let at = Utc::now().timestamp_millis();
    let entry = |text: &str| {
        let said = events::messaging("9001", OWN, at, json!({ "message": { "mid": text, "text": text } }));
        events::body(&[events::messaging_entry(OWN, at, said)], sandbox::Written::Raw)
    };
    meta(&app, &entry("cat")).await.expect(200);
    until_waiting(&app.db, 1).await;
    meta(&app, &entry("dog")).await.expect(200);
    let earlier = "update webhook_events set received_at = received_at - interval '1 hour' where position('dog'::bytea in raw) > 0";
    app.db.run(earlier).await;
    gate.execute("select pg_advisory_unlock(2)").await.unwrap();
    merged(&app).await;
    let wanted = json!([["messaging", "applied", null], ["messaging", "failed", "the database refused it: 23514"]]);
    assert_eq!(outcomes(&app).await, wanted);
    assert_eq!(app.db.text("select string_agg(content, ' ') from social_messages").await, "dog");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_for_an_account_that_was_disconnected_meanwhile_is_nobodys() {
    let app = TestApp::start().await;
    let account = connect(&app, NORD, "instagram", OWN).await;
    app.db.run("update system_settings set value = 'false' where key = 'social.enabled'").await;
    let at = Utc::now().timestamp_millis();
    let entry = |mid: &str| {
        events::messaging_entry(
            OWN,
            at,
            events::messaging("9001", OWN, at, json!({ "message": { "mid": mid, "text": "hej" } })),
        )
    };
    delivered(&app, entry("before")).await;
    assert_eq!(
        outcomes(&app).await,
        json!([["messaging", "received", null]]),
        "work is paused, and what is delivered is stored"
    );
    app.db.run(&format!("update social_accounts set status = 'disconnected' where id = '{account}'")).await;
    let after = meta(&app, &events::body(&[entry("after")], sandbox::Written::Raw)).await.expect(200);
    assert_eq!(after["stored"], 0);
    app.db
        .run(
            "update system_settings set value = 'true' where key = 'social.enabled'; update jobs set run_after = now()",
        )
        .await;
    app.a_minute_passes().await;
    app.stack.sweep().await.unwrap();
    merged(&app).await;
    assert_eq!(outcomes(&app).await, json!([["messaging", "ignored", "account_disconnected"]]));
    assert_eq!(app.db.count("select count(*) from social_messages").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_was_disconnected_at_one_platform_is_delivered_to_the_account_that_is_connected() {
    let app = TestApp::start().await;
    let [former, account] = [connect(&app, NORD, "facebook", OWN).await, connect(&app, NORD, "instagram", OWN).await];
    app.db.run(&format!("update social_accounts set status = 'disconnected' where id = '{former}'")).await;
    let at = Utc::now().timestamp_millis();
    let content = json!({ "message": { "mid": "m", "text": "hej" } });
    delivered(&app, events::messaging_entry(OWN, at, events::messaging("9001", OWN, at, content))).await;
    assert_eq!(outcomes(&app).await, json!([["messaging", "applied", null]]));
    assert_eq!(app.db.text("select account_id::text from social_messages").await, account.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn tiktoks_loss_of_access_has_an_account_wait_unless_it_was_connected_since_and_a_person_is_notified_once() {
    let app = TestApp::start().await;
    let (account, connected) = crate::social_fetch::business(&app).await;
    let connected_at = "update social_accounts set connected_at = to_timestamp(1700000000) + interval '1 second' * ";
    app.db.run(&format!("{connected_at} 0.5")).await;
    let removed = async |at: i64| {
        let body = json!({
            "client_key": "k", "event": "authorization.removed", "create_time": at, "user_openid": connected.open_id,
            "content": "{\"reason\": 1}"
        });
        tiktok_at(&app, body.to_string().as_bytes(), Utc::now().timestamp()).await.expect(200);
        merged(&app).await;
        app.stack.social.drained().await;
        let state = format!(
            "select status || ' ' || coalesce(lost_why, '-') || ' ' || (access_token is not null)::text from social_accounts where id = '{account}'"
        );
        app.db.text(&state).await
    };
    // Late, about a consent before this one, whose token the platform takes.
    assert_eq!(removed(1_699_999_999).await, "active - true", "{}", app.logs());
    // In the second in which a person consented, it is not known which came first.
    for at in [1_700_000_000, 1_700_000_001] {
        assert_eq!(removed(at).await, "needs_reconsent authorization_removed false");
    }
    let notified =
        value(&app.db, &format!("select jsonb_agg(kind) from notifications where user_id = '{}'", OLGA.user().id))
            .await;
    assert_eq!(notified, json!(["connection_needs_person"]));
    let logged = value(
        &app.db,
        "select jsonb_agg(decision ->> 'why') from audit_log where action = 'social_account.consent_lost'",
    )
    .await;
    assert_eq!(logged, json!(["authorization_removed"]));
    // A person connects it again, and what was said before comes once more.
    app.db.run(&format!("{connected_at} 60, status = 'active', lost_why = null")).await;
    assert_eq!(removed(1_700_000_059).await, "active - false");
    // Deliveries go on to be stored and merged: what was said is not lost for that.
    let one = json!(["authorization.removed", "applied", null]);
    assert_eq!(outcomes(&app).await, json!([one, one, one, one]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_being_stored_as_the_work_ends_is_worked_on_too() {
    let app = TestApp::start().await;
    connect(&app, NORD, "instagram", OWN).await;
    let at = Utc::now().timestamp_millis();
    let entry = |mid: &str| {
        let content = json!({ "message": { "mid": mid, "text": "hej" } });
        events::messaging_entry(OWN, at, events::messaging("9001", OWN, at, content))
    };
    app.stack.queue("social-events").unwrap().pause();
    meta(&app, &events::body(&[entry("first")], sandbox::Written::Raw)).await.expect(200);
    // It finds the job open, and does not commit yet.
    let mut second = app.db.begin_as(&Actor::service(NORD)).await;
    let raw = entry("second").to_string();
    let stored: i64 = sqlx::query_scalar(
        "select stored from app.take_social_events('meta', sha256('body'), array[$1], array['messaging'], array[$2])",
    )
    .bind(OWN)
    .bind(raw.as_bytes())
    .fetch_one(&mut second)
    .await
    .unwrap();
    assert_eq!(stored, 1);
    app.stack.queue("social-events").unwrap().resume();
    app.db.until("select exists (select from pg_stat_activity where datname = current_database() and wait_event = 'advisory')").await;
    assert_eq!(
        app.db.count("select count(*) from social_messages").await,
        1,
        "the first is merged, and its work does not end"
    );
    second.execute("commit").await.unwrap();
    merged(&app).await;
    let done = json!(["messaging", "applied", null]);
    assert_eq!(outcomes(&app).await, json!([done, done]));
    assert_eq!(app.db.count("select count(*) from social_messages").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_makes_the_platform_send_it_again() {
    let app = TestApp::start().await;
    connect(&app, NORD, "instagram", OWN).await;
    let at = Utc::now().timestamp_millis();
    let body = events::body(
        &[events::messaging_entry(
            OWN,
            at,
            events::messaging("9001", OWN, at, json!({ "message": { "mid": "m", "text": "hej" } })),
        )],
        sandbox::Written::Escaped,
    );
    app.stack.fault("postgres", "refuse", sandbox::Calls::Every).unwrap();
    let refused = meta(&app, &body).await;
    assert!(refused.status.is_server_error(), "{}", refused.status);
    app.stack.fault("postgres", "none", sandbox::Calls::Every).unwrap();
    meta(&app, &body).await.expect(200);
    merged(&app).await;
    assert_eq!(app.db.count("select count(*) from social_messages").await, 1);
}

/// Every statement that deliveries and the inbox have.
pub(crate) async fn every_statement(app: &TestApp) {
    let account = connect(app, NORD, "instagram", OWN).await;
    connect(app, NORD, "tiktok", "open-9").await;
    let at = Utc::now().timestamp_millis();
    let said = events::messaging("9001", OWN, at, json!({ "message": { "mid": "m1", "text": "hej soffa" } }));
    delivered(app, events::messaging_entry(OWN, at, said)).await;
    let comment = |parent: Option<&str>| {
        let mut value =
            json!({ "id": "c2", "from": { "id": "9001", "username": "greta" }, "text": "t", "media": { "id": "m" } });
        if let Some(parent) = parent {
            value["parent_id"] = json!(parent);
        }
        events::change_entry(events::Flavour::FacebookLogin, OWN, at / 1000, "comments", value)
    };
    // One that proves to be a reply leaves its thread.
    delivered(app, comment(None)).await;
    delivered(app, comment(Some("c1"))).await;
    let story = json!({ "media_id": "77", "views": 5, "reach": 4 });
    delivered(app, events::change_entry(events::Flavour::FacebookLogin, OWN, at / 1000, "story_insights", story)).await;
    for (event, content) in [
        (
            "comment.update",
            r#"{"comment_id":7599999999999999999,"video_id":1,"parent_comment_id":0,"comment_type":"comment","comment_action":"insert","timestamp":1764547170}"#,
        ),
        ("authorization.removed", r#"{"reason":1}"#),
    ] {
        let body = json!({ "client_key": "k", "event": event, "create_time": at / 1000, "user_openid": "open-9", "content": content });
        tiktok_at(app, body.to_string().as_bytes(), Utc::now().timestamp()).await.expect(200);
        merged(app).await;
    }
    let token = app.token(&OLGA);
    let threads = app.get("/v1/inbox/threads?limit=1", &token).await.expect(200);
    app.get(threads["threads"][0]["href"].as_str().unwrap(), &token).await.expect(200);
    app.get("/v1/inbox/search?q=soffa", &token).await.expect(200);
    app.db.run(&format!("update social_accounts set status = 'disconnected' where id = '{account}'")).await;
}
