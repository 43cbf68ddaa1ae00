//! Posts and comments: pages that shift, replies, deletions, and an account that is disconnected meanwhile.

use integration_tests::TestApp;
use sandbox::{
    Calls, Fault, Gate,
    instagram::{Call, MediaKind},
    tiktok,
};
use serde_json::{Value, json};

use super::{business, display, go_on, inbox, instagram, read, succeeded};
use crate::social_webhook::merged;

/// Reads everything there is to read once, of each platform.
pub(super) async fn every_statement(app: &TestApp) {
    let (account, at) = instagram(app).await;
    let world = &app.stack.sandbox.instagram;
    let (eva, media) = (world.add_person("eva", None), world.publish(&at.id, MediaKind::Image, Some("soffa")).unwrap());
    let comment = world.comment(&media, &eva, "fin", None).unwrap();
    let said = world.message(&at.id, &eva, "hej").unwrap();
    for _ in 0..21 {
        world.message(&at.id, &eva, "mer").unwrap();
    }
    succeeded(app, account).await;
    world.advance(5);
    world.delete_comment(&comment).unwrap();
    let _gone_already = world.unsend(&said);
    succeeded(app, account).await;
    world.delete_media(&media).unwrap();
    succeeded(app, account).await;
    world.arrange(Call::Media, Fault::RateLimited, Calls::Number(1));
    read(app, account).await;
    app.db.run("update social_pace set next_at = now()").await;
    go_on(app).await;
    world.revoke_tokens_in(&at.id, 0);
    read(app, account).await;
    let (account, at) = business(app).await;
    let world = &app.stack.sandbox.tiktok;
    let (video, eva) = (world.publish(&at.open_id, "stol").unwrap(), world.add_person("eva"));
    world.comment(&video, &eva, "fin", None).unwrap();
    succeeded(app, account).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_the_platform_fails_to_answer_for_keeps_no_other_from_being_read_and_goes_on_where_it_was() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let eva = world.add_person("eva", None);
    let older = world.publish(&at.id, MediaKind::Image, Some("stol")).unwrap();
    world.advance(60);
    let newer = world.publish(&at.id, MediaKind::Image, Some("soffa")).unwrap();
    world.comment(&older, &eva, "of the older", None).unwrap();
    for number in 0..55 {
        world.comment(&newer, &eva, &format!("c{number}"), None).unwrap();
    }
    world.advance(5);
    // The newest is read first: its second page is not answered.
    world.arrange(Call::Comments, Fault::Transient(1), Calls::Number(2));
    let result = succeeded(&app, account).await;
    assert_eq!((&result["comments"]["posts"], &result["comments"]["failed_posts"]), (&json!(1), &json!(1)), "{result}");
    assert_eq!(app.db.count("select count(*) from social_messages where content = 'of the older'").await, 1);
    assert_eq!(app.db.count("select count(*) from social_messages").await, 51);
    let asked = world.requests().len();
    assert_eq!(succeeded(&app, account).await["comments"]["new"], 5);
    let pages = world.requests()[asked..].iter().filter(|request| request.path.ends_with("/comments")).count();
    assert_eq!(pages, 1, "it goes on at its second page");
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_do_not_come_keep_neither_their_page_nor_themselves_from_being_read() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let eva = world.add_person("eva", None);
    let media = world.publish(&at.id, MediaKind::Image, Some("soffa")).unwrap();
    let first = world.comment(&media, &eva, "vad kostar den?", None).unwrap();
    world.advance(1);
    for number in 0..60 {
        world.comment(&media, &eva, &format!("r{number}"), Some(&first)).unwrap();
    }
    world.advance(5);
    // The page lists fifty replies; the rest are asked for then.
    world.arrange(Call::Comments, Fault::Transient(1), Calls::Number(2));
    succeeded(&app, account).await;
    assert_eq!(app.db.count("select count(*) from social_messages").await, 51);
    let asked = world.requests().len();
    assert_eq!(succeeded(&app, account).await["comments"]["new"], 10);
    let requests = world.requests();
    let pages = requests[asked..].iter().map(|request| request.path.rsplit('/').next().unwrap());
    let pages: Vec<&str> = pages.filter(|page| ["comments", "replies"].contains(page)).collect();
    assert_eq!(pages, ["replies"], "it goes on at the replies");
    assert_eq!(app.db.count("select count(*) from social_messages where deleted_at is null").await, 61);
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_that_are_there_but_not_listed_do_not_hide_one_that_is_gone() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let gone = world.publish(&at.id, MediaKind::Image, None).unwrap();
    world.advance(60);
    let hidden: Vec<String> = (0..55).map(|_| world.publish(&at.id, MediaKind::Image, None).unwrap()).collect();
    world.advance(5);
    assert_eq!(succeeded(&app, account).await["media"]["new"], 56);
    for post in &hidden {
        world.set_listed(post, false).unwrap();
    }
    world.delete_media(&gone).unwrap();
    // Fifty of the 56 are asked for each time, whichever they are.
    let mut deleted = 0;
    for _ in 0..12 {
        deleted += succeeded(&app, account).await["media"]["deleted"].as_i64().unwrap();
    }
    assert_eq!(deleted, 1);
    let which = "select string_agg(platform_id, ' ') from social_media where deleted_at is not null";
    assert_eq!(app.db.text(which).await, gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_and_replies_of_every_page_are_read_and_only_where_their_count_changed() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let eva = world.add_person("eva", None);
    let media = world.publish(&at.id, MediaKind::Image, Some("soffa")).unwrap();
    let other = world.publish(&at.id, MediaKind::Reel, None).unwrap();
    for number in 0..55 {
        world.comment(&media, &eva, &format!("c{number}"), None).unwrap();
    }
    let first = world.comment(&other, &eva, "vad kostar den?", None).unwrap();
    world.advance(1);
    world.own_comment(&at.id, &other, "1200 kr", Some(&first)).unwrap();
    for number in 0..60 {
        world.comment(&other, &eva, &format!("r{number}"), Some(&first)).unwrap();
    }
    world.hide_comment(&first, true).unwrap();
    world.advance(5);
    let result = succeeded(&app, account).await;
    assert_eq!((&result["media"]["listed"], &result["media"]["new"]), (&json!(2), &json!(2)), "{result}");
    assert_eq!((&result["comments"]["posts"], &result["comments"]["new"]), (&json!(2), &json!(117)), "{result}");
    let thread = format!(
        "select message_count || ' ' || unread_count || ' ' || media_id from social_threads where thread_id = 'comment:{first}'"
    );
    assert_eq!(app.db.text(&thread).await, format!("62 61 {other}"));
    let own = "select direction || ' ' || message_type || ' ' || hidden from social_messages where content = '1200 kr'";
    assert_eq!(app.db.text(own).await, "out reply false");
    assert_eq!(app.db.text("select hidden::text from social_messages where content = 'vad kostar den?'").await, "true");

    // Nothing changed: no comment is asked for.
    let asked = world.requests().len();
    assert_eq!(succeeded(&app, account).await["comments"]["posts"], 0);
    assert!(!world.requests()[asked..].iter().any(|request| request.path.ends_with("/comments")));
    // A day later recent posts are looked at all the same: what is hidden now changed no count.
    app.db.run("update social_media set comments_at = comments_at - interval '25 hours'").await;
    world.hide_comment(&first, false).unwrap();
    world.advance(5);
    let result = succeeded(&app, account).await;
    assert_eq!(result["comments"]["posts"], 2, "{result}");
    assert_eq!(
        app.db.text("select hidden::text from social_messages where content = 'vad kostar den?'").await,
        "false"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_and_a_post_that_are_gone_are_found_missing_and_those_that_are_only_not_listed_are_not() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let eva = world.add_person("eva", None);
    let media = world.publish(&at.id, MediaKind::Image, Some("soffa")).unwrap();
    let gone = world.publish(&at.id, MediaKind::Image, Some("stol")).unwrap();
    let first = world.comment(&media, &eva, "a", None).unwrap();
    world.advance(1);
    world.comment(&media, &eva, "b", None).unwrap();
    world.advance(1);
    world.comment(&media, &eva, "c", None).unwrap();
    world.advance(5);
    succeeded(&app, account).await;
    assert_eq!(inbox(&app).await, "a b c");
    world.delete_comment(&first).unwrap();
    world.delete_media(&gone).unwrap();
    world.advance(5);
    let result = succeeded(&app, account).await;
    assert_eq!((&result["comments"]["missing"], &result["media"]["deleted"]), (&json!(1), &json!(1)), "{result}");
    assert_eq!(inbox(&app).await, "-! b c");
    let confirmed = world.requests();
    assert!(confirmed.iter().any(|request| request.path.ends_with(&format!("/{first}")) && request.status == 400));

    // An empty page that has a next one is not the end.
    world.empty_pages(2);
    world.comment(&media, &eva, "d", None).unwrap();
    world.advance(5);
    succeeded(&app, account).await;
    assert_eq!(inbox(&app).await, "-! b c d");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_a_list_leaves_out_is_deleted_only_if_it_is_not_there_by_its_id() {
    let app = TestApp::start().await;
    let (graph, tiktok) = (&app.stack.sandbox.instagram, &app.stack.sandbox.tiktok);
    let (account, at) = instagram(&app).await;
    let [hidden, gone] = [(); 2].map(|()| graph.publish(&at.id, MediaKind::Image, None).unwrap());
    let mut posts = vec![(account, hidden, gone)];
    for (account, at) in [business(&app).await, display(&app).await] {
        let [hidden, gone] = [(); 2].map(|()| tiktok.publish(&at.open_id, "stol").unwrap());
        posts.push((account, hidden, gone));
    }
    graph.advance(5);
    tiktok.advance(5);
    for (account, ..) in &posts {
        assert_eq!(succeeded(&app, *account).await["media"]["new"], 2);
    }
    graph.set_listed(&posts[0].1, false).unwrap();
    graph.delete_media(&posts[0].2).unwrap();
    for (_, hidden, gone) in &posts[1..] {
        tiktok.set_listed(hidden, false).unwrap();
        tiktok.delete_video(gone).unwrap();
    }
    for (account, _, gone) in &posts {
        // The list is empty, and complete.
        let media = succeeded(&app, *account).await["media"].clone();
        assert_eq!((&media["listed"], &media["complete"], &media["deleted"]), (&json!(0), &json!(true), &json!(1)));
        let deleted = format!(
            "select string_agg(platform_id, ' ') from social_media where account_id = '{account}' and deleted_at is not null"
        );
        assert_eq!(app.db.text(&deleted).await, *gone);
    }
    // One that the platform does not tell about is left as it is.
    graph.set_listed(&posts[0].1, true).unwrap();
    graph.delete_media(&posts[0].1).unwrap();
    graph.arrange(Call::Object, Fault::Transient(2), Calls::Number(1));
    for deleted in [0, 1] {
        assert_eq!(succeeded(&app, posts[0].0).await["media"]["deleted"], deleted, "{}", app.logs());
        graph.clear_faults();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_shifted_while_it_was_read_is_read_once_more() {
    let app = TestApp::start().await;
    let (account, at) = business(&app).await;
    let world = &app.stack.sandbox.tiktok;
    let (video, eva) = (world.publish(&at.open_id, "stol").unwrap(), world.add_person("eva"));
    let mut ids = Vec::new();
    for number in 0..35 {
        world.advance(1);
        ids.push(world.comment(&video, &eva, &format!("c{number}"), None).unwrap());
    }
    world.advance(5);
    // The first page is answered and not let go before one of it is deleted: the next begins after one that was not read.
    let gate = Gate::default();
    world.arrange(tiktok::Call::Comments, Fault::Held(gate.clone()), Calls::Number(1));
    let token = app.token(&integration_tests::people::OLGA);
    app.post(&format!("/v1/social/accounts/{account}/fetch"), &token, &Value::Null).await.expect(202);
    world.held_times(1).await;
    world.delete_comment(&ids[30]).unwrap();
    gate.open();
    app.stack.social.drained().await;
    assert_eq!(app.db.count("select count(*) from social_messages").await, 35, "{}", app.logs());
    let again = app.db.text("select result #>> '{read,comments,read_again}' from jobs where job_type = 'social_fetch'");
    assert_eq!(again.await, "1");
    // What was deleted meanwhile is found by the next reading: the count is another.
    world.advance(5);
    assert_eq!(succeeded(&app, account).await["comments"]["missing"], 1);
    assert_eq!(app.db.text("select platform_id from social_messages where deleted_at is not null").await, ids[30]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_with_more_pages_than_one_reading_asks_for_is_read_on_by_the_next() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let (media, eva) = (world.publish(&at.id, MediaKind::Image, None).unwrap(), world.add_person("eva", None));
    for number in 0..55 {
        world.comment(&media, &eva, &format!("c{number}"), None).unwrap();
    }
    world.advance(5);
    let gate = Gate::default();
    world.arrange(Call::Comments, Fault::Held(gate.clone()), Calls::Number(1));
    let token = app.token(&integration_tests::people::OLGA);
    app.post(&format!("/v1/social/accounts/{account}/fetch"), &token, &Value::Null).await.expect(202);
    world.held_times(1).await;
    // The second page and those that follow have nothing, and sixty pages are asked for.
    world.empty_pages(60);
    gate.open();
    app.stack.social.drained().await;
    let comments = "select count(*) from social_messages";
    assert_eq!(app.db.count(comments).await, 50, "{}", app.logs());
    let pages = || world.requests().iter().filter(|request| request.path.ends_with("/comments")).count();
    assert_eq!(pages(), 60);
    // What is written now is on the first page, which the count says there is a reason to read.
    world.empty_pages(0);
    world.comment(&media, &eva, "ny", None).unwrap();
    world.advance(5);
    succeeded(&app, account).await;
    assert_eq!((app.db.count(comments).await, pages()), (55, 61));
    succeeded(&app, account).await;
    assert_eq!((app.db.count(comments).await, pages()), (56, 63));
    assert_eq!(succeeded(&app, account).await["comments"]["posts"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tiktok_comments_have_their_status_their_replies_and_large_ids() {
    let app = TestApp::start().await;
    let (account, at) = business(&app).await;
    let world = &app.stack.sandbox.tiktok;
    let (video, eva) = (world.publish(&at.open_id, "stol").unwrap(), world.add_person("eva"));
    let first = world.comment(&video, &eva, "vad kostar den?", None).unwrap();
    world.advance(1);
    world.own_comment(&video, "900 kr", Some(&first)).unwrap();
    world.advance(1);
    let hidden = world.comment(&video, &eva, "fy", None).unwrap();
    world.hide_comment(&hidden).unwrap();
    world.advance(5);
    let result = succeeded(&app, account).await;
    assert_eq!((&result["comments"]["new"], &result["media"]["new"]), (&json!(3), &json!(1)), "{result}");
    let rows = "select string_agg(message_type || ' ' || direction || ' ' || hidden || ' ' || thread_id, ', ' order by received_at) from social_messages";
    let wanted =
        format!("comment in false comment:{first}, reply out false comment:{first}, comment in true comment:{hidden}");
    assert_eq!(app.db.text(rows).await, wanted);
    assert!(first.parse::<u64>().unwrap() > 1 << 53, "{first}");
    world.delete_comment(&hidden).unwrap();
    world.advance(5);
    assert_eq!(succeeded(&app, account).await["comments"]["missing"], 1);
    assert_eq!(inbox(&app).await, "vad kostar den? 900 kr -!");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_that_tiktok_delivers_without_its_text_is_read_by_its_id() {
    let app = TestApp::start().await;
    let (account, at) = business(&app).await;
    let world = &app.stack.sandbox.tiktok;
    let (video, eva) = (world.publish(&at.open_id, "stol").unwrap(), world.add_person("eva"));
    let old = ["a", "b"].map(|text| world.comment(&video, &eva, text, None).unwrap());
    world.advance(5);
    succeeded(&app, account).await;
    world.deliver_all().await;
    merged(&app).await;
    app.stack.social.drained().await;
    // As many come as go, so that the count does not say that there is something to read.
    app.stack.social.pause();
    for comment in &old {
        world.delete_comment(comment).unwrap();
    }
    world.advance(5);
    let first = world.comment(&video, &eva, "vad kostar den?", None).unwrap();
    world.advance(5);
    world.own_comment(&video, "900 kr", Some(&first)).unwrap();
    let attempts = world.deliver_all().await;
    assert!(attempts.iter().all(|attempt| attempt.succeeded), "{attempts:?}");
    merged(&app).await;
    assert_eq!(inbox(&app).await, "-! -! - -");
    let asked = world.requests().len();
    app.stack.social.resume();
    app.stack.social.drained().await;
    assert_eq!(inbox(&app).await, "-! -! vad kostar den? 900 kr", "{}", app.logs());
    let own =
        "select message_type || ' ' || direction || ' ' || thread_id from social_messages where content = '900 kr'";
    assert_eq!(app.db.text(own).await, format!("reply out comment:{first}"));
    let requests = world.requests()[asked..].to_vec();
    let comments: Vec<_> = requests.iter().filter(|request| request.path.contains("/comment/")).collect();
    assert_eq!(comments.len(), 1, "{comments:?}");
    assert!(comments[0].query.contains(&format!("comment_ids=%5B%22{first}%22%5D")), "{comments:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_display_interface_gives_posts_and_totals_and_nothing_else() {
    let app = TestApp::start().await;
    let (account, at) = display(&app).await;
    let world = &app.stack.sandbox.tiktok;
    for number in 0..25 {
        world.publish(&at.open_id, &format!("v{number}")).unwrap();
    }
    world.set_followers(&at.open_id, 4321).unwrap();
    let job = read(&app, account).await;
    let read = &job["result"]["read"];
    assert_eq!(
        (&read["media"]["listed"], &read["comments"], &read["messages"]),
        (&json!(25), &Value::Null, &Value::Null),
        "{job}"
    );
    let followers =
        "select value::bigint::text from social_analytics where metric_type = 'follower_count' and media_id is null";
    assert_eq!(app.db.text(followers).await, "4321");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_of_an_account_that_is_disconnected_while_it_is_read() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let eva = world.add_person("eva", None);
    let media = world.publish(&at.id, MediaKind::Image, None).unwrap();
    world.comment(&media, &eva, "hemligt", None).unwrap();
    let gate = Gate::default();
    world.arrange(Call::Comments, Fault::Held(gate.clone()), Calls::Number(1));
    let token = app.token(&integration_tests::people::OLGA);
    let admitted = app.post(&format!("/v1/social/accounts/{account}/fetch"), &token, &Value::Null).await.expect(202);
    world.held_times(1).await;
    app.db.run("update social_accounts set status = 'disconnected', access_token = null").await;
    gate.open();
    app.stack.social.drained().await;
    let job = app.get(admitted["job"]["href"].as_str().unwrap(), &token).await.expect(200);
    assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!("account_disconnected")), "{job}");
    assert_eq!(inbox(&app).await, "");
    assert_eq!(app.db.text("select fetch_error from social_accounts").await, "account_disconnected");
    let again = app.post(&format!("/v1/social/accounts/{account}/fetch"), &token, &Value::Null).await;
    again.expect_error(409, "account_disconnected");
}
