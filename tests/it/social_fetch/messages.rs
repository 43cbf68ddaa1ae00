//! Messages: pages, gaps, edits, deletions, and what cannot be read any more.

use integration_tests::TestApp;
use serde_json::json;

use super::{go_on, inbox, instagram, read, succeeded};

const DAY: i64 = 24 * 60 * 60;

#[tokio::test(flavor = "multi_thread")]
async fn every_page_of_conversations_is_read_and_the_same_twice_is_the_same_as_once() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    for number in 0..30 {
        let person = world.add_person(&format!("person{number}"), None);
        world.message(&at.id, &person, "hej").unwrap();
    }
    let eva = world.add_person("eva", Some("Eva Ek"));
    world.message(&at.id, &eva, "går det att få soffan i grönt?").unwrap();
    world.advance(1);
    world.answer(&at.id, &eva, "ja!").unwrap();
    let result = succeeded(&app, account).await;
    assert_eq!(
        (&result["messages"]["conversations"], &result["messages"]["new"]),
        (&json!(31), &json!(32)),
        "{result}"
    );
    let pages = || {
        let requests = world.requests();
        requests.iter().filter(|request| request.path.ends_with("/conversations") && request.status == 200).count()
    };
    assert_eq!(pages(), 2);
    let thread = "select t.kind || ' ' || t.counterpart_name || ' ' || t.message_count || ' ' || t.unread_count || ' ' || m.direction
                    from social_threads t join social_messages m using (thread_id) where m.content = 'ja!'";
    assert_eq!(app.db.text(thread).await, "message eva 2 1 out");

    // An hour later what is within the overlap is looked at once more, and nothing is new.
    world.advance(3600);
    assert_eq!(succeeded(&app, account).await["messages"]["new"], 0);
    assert_eq!(pages(), 4);
    // After that one is new: one page is asked for, and no other conversation looked at.
    world.advance(3600);
    world.message(&at.id, &eva, "tack").unwrap();
    let result = succeeded(&app, account).await;
    assert_eq!((&result["messages"]["conversations"], &result["messages"]["new"]), (&json!(1), &json!(1)), "{result}");
    assert_eq!(pages(), 5);
    assert_eq!(app.db.count("select count(*) from social_messages").await, 33);
    let cursors = "select string_agg(stream, ' ' order by stream) from social_cursors where cursor is not null";
    assert_eq!(app.db.text(cursors).await, "account_figures comments media media_figures messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_during_a_days_outage_is_all_there_afterwards_and_nothing_is_there_twice() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let eva = world.add_person("eva", None);
    world.message(&at.id, &eva, "a").unwrap();
    succeeded(&app, account).await;
    world.outage(503, DAY);
    let job = read(&app, account).await;
    assert_eq!((&job["status"], &job["error"]["code"]), (&json!("queued"), &json!("platform_unavailable")), "{job}");
    for hour in 0..24 {
        // More people than a page has.
        let person = world.add_person(&format!("person{hour}"), None);
        world.message(&at.id, &person, "b").unwrap();
        world.message(&at.id, &person, "c").unwrap();
        world.advance(DAY / 24);
    }
    for _ in 0..4 {
        let person = world.add_person("later", None);
        world.message(&at.id, &person, "d").unwrap();
    }
    go_on(&app).await;
    assert_eq!(
        app.db.text("select status from jobs where job_type = 'social_fetch'").await,
        "succeeded",
        "{}",
        app.logs()
    );
    let counts = "select string_agg(content || n, ' ' order by content) from (select content, count(*) n from social_messages group by 1) c";
    assert_eq!(app.db.text(counts).await, "a1 b24 c24 d4");
    assert_eq!(app.db.count("select count(*) - count(distinct platform_id) from social_messages").await, 0);
    assert_eq!(succeeded(&app, account).await["messages"]["new"], 0);
    assert_eq!(app.db.text(counts).await, "a1 b24 c24 d4");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_and_a_deletion_that_nobody_delivered_are_read() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let eva = world.add_person("eva", None);
    let first = world.message(&at.id, &eva, "först").unwrap();
    world.advance(2);
    let second = world.message(&at.id, &eva, "sedan").unwrap();
    world.advance(2);
    world.message(&at.id, &eva, "sist").unwrap();
    world.advance(2);
    succeeded(&app, account).await;
    assert_eq!(inbox(&app).await, "först sedan sist");
    world.advance(5);
    world.edit_message(&first, "redan").unwrap();
    world.unsend(&second).unwrap();
    let result = succeeded(&app, account).await;
    assert_eq!(result["messages"]["missing"], 1, "{result}");
    assert_eq!(inbox(&app).await, "redan -! sist");
    // It stays so, and is counted once.
    world.advance(5);
    assert_eq!(succeeded(&app, account).await["messages"]["missing"], 0);
    assert_eq!(inbox(&app).await, "redan -! sist");
    assert_eq!(app.db.text("select message_count || ' ' || unread_count from social_threads").await, "3 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_the_platform_shows_no_longer_are_counted_and_those_before_are_not_taken_for_deleted() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let eva = world.add_person("eva", None);
    for number in 0..3 {
        world.message(&at.id, &eva, format!("m{number}").as_str()).unwrap();
        world.advance(2);
    }
    succeeded(&app, account).await;
    world.advance(60);
    for number in 3..30 {
        world.message(&at.id, &eva, format!("m{number}").as_str()).unwrap();
        world.advance(2);
    }
    let result = succeeded(&app, account).await;
    // 27 are new, and twenty can be read.
    assert_eq!((&result["messages"]["new"], &result["messages"]["beyond_reach"]), (&json!(20), &json!(7)), "{result}");
    assert_eq!(app.db.count("select count(*) from social_messages where deleted_at is null").await, 23);
    let result = succeeded(&app, account).await;
    assert_eq!((&result["messages"]["new"], &result["messages"]["beyond_reach"]), (&json!(0), &json!(0)), "{result}");
}
