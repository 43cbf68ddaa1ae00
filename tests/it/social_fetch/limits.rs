//! What platforms refuse: tokens, calls beyond a limit, and scopes.

use std::time::Duration;

use integration_tests::{
    Setup, TestApp,
    people::{OLGA, OSCAR},
};
use sandbox::{
    Calls, Fault,
    instagram::{Call, MediaKind},
};
use serde_json::{Value, json};

use super::{INSTAGRAM, business, connect, go_on, instagram, read, succeeded};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_refused_has_the_account_wait_for_a_person_who_is_notified() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    world.revoke_tokens_in(&at.id, 0);
    let job = read(&app, account).await;
    assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!("social_reconsent")), "{job}");
    let kept = "select status || ' ' || fetch_error from social_accounts";
    assert_eq!(app.db.text(kept).await, "needs_reconsent social_reconsent");
    let notified = "select string_agg(distinct kind || ' ' || (subject ->> 'provider') || ' ' || (subject ->> 'account_id'), ', ') from notifications
                     where kind = 'connection_needs_person'";
    assert_eq!(app.db.text(notified).await, format!("connection_needs_person instagram {account}"));
    let again = app.post(&format!("/v1/social/accounts/{account}/fetch"), &app.token(&OLGA), &Value::Null).await;
    again.expect_error(409, "social_reconsent");
    // The schedule leaves it alone, and says that it waits.
    let asked = world.requests().len();
    app.db.run("update social_accounts set fetch_after = now() - interval '1 hour'").await;
    let tick = app.stack.look_after_social().await.unwrap();
    assert_eq!((&tick["fetches_queued"], &tick["readings"]["to_reconnect"]), (&json!(0), &json!(1)), "{tick}");
    crate::alarms::rings(&app, "social-reconnect", 1.0);
    assert_eq!(world.requests().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_refused_while_another_was_stored_is_no_loss() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let eva = world.add_person("eva", None);
    world.message(&at.id, &eva, "hej").unwrap();
    world.revoke_tokens_in(&at.id, 0);
    let gate = sandbox::Gate::default();
    world.arrange(Call::Conversations, Fault::Held(gate.clone()), Calls::Number(1));
    let token = app.token(&OLGA);
    let admitted = app.post(&format!("/v1/social/accounts/{account}/fetch"), &token, &Value::Null).await.expect(202);
    world.held_times(1).await;
    let sealed = app.stack.seal_account_token(OLGA.org, &world.new_token(&at.id).unwrap()).unwrap();
    app.db
        .run(&format!("update social_accounts set access_token = '{sealed}', token_version = token_version + 1"))
        .await;
    gate.open();
    app.stack.social.drained().await;
    go_on(&app).await;
    let job = app.get(admitted["job"]["href"].as_str().unwrap(), &token).await.expect(200);
    assert_eq!(job["status"], "succeeded", "{job} {}", app.logs());
    assert_eq!(app.db.text("select status from social_accounts").await, "active");
    assert_eq!(app.db.count("select count(*) from social_messages").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_asked_too_often_is_left_alone_by_every_organisation_that_connected_the_account() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let known = (at.id.as_str(), "nordateljen", at.token.as_str());
    let theirs = connect(&app, &OSCAR, ("instagram", "instagram_login", INSTAGRAM), known).await;
    world.arrange(Call::Media, Fault::RateLimited, Calls::Number(1));
    let job = read(&app, account).await;
    assert_eq!((&job["status"], &job["waiting"]["reason"]), (&json!("queued"), &json!("limited")), "{job}");
    assert_eq!((&job["attempts"], &job["error"]["code"]), (&json!(0), &json!("platform_limited")), "{job}");
    let asked = world.requests().len();
    let token = app.token(&OSCAR);
    let admitted = app.post(&format!("/v1/social/accounts/{theirs}/fetch"), &token, &Value::Null).await.expect(202);
    app.stack.social.drained().await;
    let job = app.get(admitted["job"]["href"].as_str().unwrap(), &token).await.expect(200);
    assert_eq!((&job["status"], &job["waiting"]["reason"]), (&json!("queued"), &json!("limited")), "{job}");
    assert_eq!(world.requests().len(), asked, "a call was made");
    // When the rest is over, what was read before is not read again.
    app.db.run("update social_pace set next_at = now()").await;
    go_on(&app).await;
    let states = "select string_agg(status, ' ') from jobs where job_type = 'social_fetch'";
    assert_eq!(app.db.text(states).await, "succeeded succeeded", "{}", app.logs());
    let talks = world.requests()[asked..].iter().filter(|request| request.path.ends_with("/conversations")).count();
    assert_eq!(talks, 1, "that of the other organisation");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_rests_before_its_limit_is_reached() {
    let app = TestApp::start().await;
    let (account, _) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    world.set_quotas(100_000, 20);
    let job = read(&app, account).await;
    assert_eq!((&job["status"], &job["waiting"]["reason"]), (&json!("queued"), &json!("account_usage")), "{job}");
    assert!(world.requests().iter().all(|request| request.status == 200));
    let rest = "select (next_at > now() + interval '4 minutes' and next_at < now() + interval '6 minutes')::text from social_pace where scope <> 'app'";
    assert_eq!(app.db.text(rest).await, "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_the_whole_application_has_every_account_of_that_platform_wait() {
    for reason in ["app_usage", "limited"] {
        let app = TestApp::start().await;
        let (account, _) = instagram(&app).await;
        let world = &app.stack.sandbox.instagram;
        let at = world.add_account("sydateljen", "Syd Ateljé");
        let known = (at.id.as_str(), "sydateljen", at.token.as_str());
        let theirs = connect(&app, &OSCAR, ("instagram", "instagram_login", INSTAGRAM), known).await;
        match reason {
            "app_usage" => world.set_quotas(20, 100_000),
            _ => app.stack.fault("instagram", "app-limit", Calls::Number(1)).unwrap(),
        }
        let job = read(&app, account).await;
        assert_eq!((&job["status"], &job["waiting"]["reason"]), (&json!("queued"), &json!(reason)), "{job}");
        let rests = "select string_agg(concat_ws(' ', platform, scope, why), ', ') from social_pace where next_at > now() + interval '4 minutes'";
        assert_eq!(app.db.text(rests).await, format!("instagram app {reason}"));
        let token = app.token(&OSCAR);
        let admitted = app.post(&format!("/v1/social/accounts/{theirs}/fetch"), &token, &Value::Null).await.expect(202);
        app.stack.social.drained().await;
        let job = app.get(admitted["job"]["href"].as_str().unwrap(), &token).await.expect(200);
        assert_eq!((&job["status"], &job["waiting"]["reason"]), (&json!("queued"), &json!(reason)), "{job}");
        let asked = world.requests();
        assert!(asked.iter().all(|request| request.account.as_ref() != Some(&at.id)), "a call was made");
        // TikTok is asked all the same.
        succeeded(&app, business(&app).await.0).await;
        world.set_quotas(100_000, 100_000);
        app.db.run("update social_pace set next_at = now()").await;
        go_on(&app).await;
        let states = "select string_agg(status, ' ') from jobs where job_type = 'social_fetch'";
        assert_eq!(app.db.text(states).await, "succeeded succeeded succeeded", "{}", app.logs());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_runs_out_of_time_goes_on_where_it_was() {
    // Calls are begun in the first four seconds, and the first page of comments takes as long as that.
    let setup = Setup { worker_timeout: Some(Duration::from_secs(24)), ..Setup::default() };
    let app = TestApp::set_up(setup).await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let eva = world.add_person("eva", None);
    world.message(&at.id, &eva, "hej").unwrap();
    let other = world.publish(&at.id, MediaKind::Image, None).unwrap();
    world.comment(&other, &eva, "fin", None).unwrap();
    world.advance(1);
    let media = world.publish(&at.id, MediaKind::Image, None).unwrap();
    for number in 0..120 {
        world.comment(&media, &eva, &format!("c{number}"), None).unwrap();
    }
    world.advance(5);
    world.arrange(Call::Comments, Fault::Slow(Duration::from_secs(4)), Calls::Number(1));
    let job = read(&app, account).await;
    assert_eq!((&job["status"], &job["waiting"]["reason"]), (&json!("queued"), &json!("goes_on")), "{job}");
    assert_eq!((&job["attempts"], &job["error"]), (&json!(0), &Value::Null), "{job}");
    let comments = "select count(*) from social_messages where media_id is not null";
    let shown = app.db.count(comments).await;
    assert!(shown < 121, "{shown}");
    let state = "select status from jobs where job_type = 'social_fetch'";
    while app.db.text(state).await == "queued" {
        go_on(&app).await;
    }
    assert_eq!(app.db.text(state).await, "succeeded", "{}", app.logs());
    assert_eq!(app.db.count(comments).await, 121);
    assert_eq!(app.db.count("select count(*) - count(distinct platform_id) from social_messages").await, 0);
    let requests = world.requests();
    let calls = |end: &str| requests.iter().filter(|request| request.path.ends_with(end)).count();
    assert_eq!((calls("/conversations"), calls("/media")), (1, 1), "streams that were read are not read again");
    assert_eq!(calls("/comments"), 4, "each page of comments is read once");
    let result = succeeded(&app, account).await;
    assert_eq!((&result["comments"]["posts"], &result["comments"]["new"]), (&json!(0), &json!(0)), "{result}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_refused_or_not_allowed_leaves_the_others() {
    let app = TestApp::start().await;
    let (account, at) = instagram(&app).await;
    let world = &app.stack.sandbox.instagram;
    let eva = world.add_person("eva", None);
    world.message(&at.id, &eva, "hej").unwrap();
    world.publish(&at.id, MediaKind::Image, None).unwrap();
    // The person took the right to messages back, which is not known here.
    world.set_scopes(&at.id, &["instagram_business_basic", "instagram_business_manage_comments"]);
    let job = read(&app, account).await;
    assert_eq!(job["status"], "succeeded", "{job}");
    let failed = &job["result"]["failed"];
    assert_eq!((&failed["messages"], &failed["media"]), (&json!("forbidden"), &Value::Null), "{job}");
    assert_eq!(job["result"]["read"]["media"]["new"], 1, "{job}");
    assert_eq!(
        app.db.text("select fetch_error || (fetched_at is null)::text from social_accounts").await,
        "forbiddentrue"
    );
    // Once it is known, it is not asked for.
    app.db.run("update social_accounts set scopes = '{instagram_business_basic}'").await;
    let asked = world.requests().len();
    let job = read(&app, account).await;
    assert_eq!(job["result"]["left_out"]["messages"], "scope_missing", "{job}");
    assert!(!world.requests()[asked..].iter().any(|request| request.path.ends_with("/conversations")));
}
