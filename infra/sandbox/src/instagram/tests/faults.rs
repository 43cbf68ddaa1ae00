use std::time::{Duration, Instant};

use super::*;
use crate::{Calls, Canned, Fault, Gate, ask::send, instagram::Call};

#[tokio::test]
async fn tokens_expire_and_are_revoked_at_a_moment() {
    let app = App::start().await;
    app.instagram.expire_tokens_in(&app.account.id, 60);
    assert_eq!(app.ask_at_once("GET", "me").await.status, 200);
    app.instagram.advance(60);
    app.ask_at_once("GET", "me").await.graph_error(190, Some(463));
    let token = app.instagram.new_token(&app.account.id).unwrap();
    let path = format!("/v27.0/me?access_token={token}");
    assert_eq!(call(app.address, "GET", &path, &[], "").await.status, 200);
    app.instagram.revoke_tokens_in(&app.account.id, 10);
    assert_eq!(call(app.address, "GET", &path, &[], "").await.status, 200);
    app.instagram.advance(10);
    call(app.address, "GET", &path, &[], "").await.graph_error(190, Some(458));
}

#[tokio::test]
async fn usage_is_in_headers_once_there_is_enough_and_calls_beyond_the_quota_are_refused() {
    let app = App::start().await;
    app.instagram.set_quotas(100, 20);
    let usage = |answer: &Answer, name: &str| -> Option<Value> {
        answer.headers.get(name).map(|text| serde_json::from_str(text).unwrap())
    };
    let first = app.ask_at_once("GET", "me").await;
    assert_eq!(usage(&first, "x-business-use-case-usage"), None);
    let second = app.ask_at_once("GET", "me").await;
    let business = usage(&second, "x-business-use-case-usage").unwrap();
    assert_eq!(
        business[&app.account.id],
        json!([{
            "type": "instagram", "call_count": 10, "total_time": 9, "total_cputime": 5,
            "estimated_time_to_regain_access": 0,
        }])
    );
    assert_eq!(usage(&second, "x-app-usage"), None);
    app.instagram.advance(90);
    for _ in 2..20 {
        assert_eq!(app.ask_at_once("GET", "me").await.status, 200);
    }
    let refused = app.ask_at_once("GET", "me").await;
    refused.graph_error(80_002, None);
    let business = usage(&refused, "x-business-use-case-usage").unwrap();
    // Minutes: the first two calls leave the hour in 58.5 of them.
    assert_eq!(business[&app.account.id][0]["estimated_time_to_regain_access"], 59);
    assert_eq!(usage(&refused, "x-app-usage").unwrap()["call_count"], 20);
    app.instagram.advance(59 * 60);
    assert_eq!(app.ask_at_once("GET", "me").await.status, 200);
    app.instagram.set_quotas(3, 20);
    app.ask_at_once("GET", "me").await.graph_error(4, None);
}

#[tokio::test]
async fn conversations_take_two_calls_a_second() {
    let app = App::start().await;
    let mid = app.instagram.message(&app.account.id, &app.person, "Hej").unwrap();
    let list = "me/conversations?platform=instagram";
    assert_eq!(app.ask_at_once("GET", list).await.status, 200);
    assert_eq!(app.ask_at_once("GET", &format!("{mid}?fields=message")).await.status, 200);
    app.ask_at_once("GET", list).await.graph_error(613, None);
    assert_eq!(app.ask_at_once("GET", "me").await.status, 200, "other calls are not concerned");
    app.instagram.advance(1);
    assert_eq!(app.ask_at_once("GET", list).await.status, 200);
}

#[tokio::test]
async fn every_answer_is_dated_by_this_clock() {
    let app = App::start().await;
    assert_eq!(app.get("me").await.headers["date"], "Mon, 15 Jun 2026 10:00:00 GMT");
    app.script.then(Canned::Answer(500, json!({})));
    assert_eq!(app.get("me").await.headers["date"], "Mon, 15 Jun 2026 10:00:01 GMT");
}

#[tokio::test]
async fn an_outage_lasts_for_its_time() {
    let app = App::start().await;
    app.instagram.outage(503, 30);
    let down = app.ask_at_once("GET", "me").await;
    assert_eq!((down.status, down.headers["content-type"].as_str()), (503, "text/html; charset=utf-8"));
    app.instagram.advance(29);
    assert_eq!(app.ask_at_once("GET", "me").await.status, 503);
    app.instagram.advance(1);
    assert_eq!(app.ask_at_once("GET", "me").await.status, 200);
}

#[tokio::test]
async fn calls_of_a_kind_go_wrong() {
    let app = App::start().await;
    let with = async |call: Call, fault: Fault| {
        app.instagram.arrange(call, fault, Calls::Next(1));
        app.get("me/media").await
    };
    let transient = with(Call::Media, Fault::Transient(2)).await;
    assert_eq!((transient.status, &transient.body["error"]["code"]), (500, &json!(2)));
    with(Call::Any, Fault::RateLimited).await.graph_error(80_002, None);
    assert_eq!(with(Call::Media, Fault::Down(504)).await.status, 504);
    assert_eq!(with(Call::Comments, Fault::Down(504)).await.status, 200);
    let (begun, slow) = (Instant::now(), Duration::from_millis(20));
    assert_eq!(with(Call::Media, Fault::Slow(slow)).await.status, 200);
    assert!(begun.elapsed() >= slow);
    assert_eq!((app.instagram.faults_met(Call::Media), app.instagram.faults_met(Call::Comments)), (3, 0));

    app.instagram.arrange(Call::Media, Fault::Lost, Calls::Next(1));
    let bearer = format!("Bearer {}", app.account.token);
    assert_eq!(send(app.address, "GET", "/v27.0/me/media", &[("authorization", &bearer)], "").await, "");
    let gate = Gate::default();
    app.instagram.arrange(Call::Media, Fault::Held(gate.clone()), Calls::Next(1));
    let (answer, ()) = tokio::join!(app.get("me/media"), async {
        app.instagram.held_times(1).await;
        gate.open();
    });
    assert_eq!(answer.status, 200);
    app.instagram.arrange(Call::Media, Fault::Down(503), Calls::Every);
    app.instagram.clear_faults();
    assert_eq!(app.get("me/media").await.status, 200);
}

#[tokio::test]
async fn what_can_be_scripted_is_worded_as_the_api_words_it() {
    let app = App::start().await;
    for (name, canned) in crate::instagram::faults() {
        app.script.then(canned);
        let answer = app.get("me").await;
        assert!(answer.status != 200 || ["empty-list", "no-list", "nothing", "garbage"].contains(&name), "{name}");
    }
}
