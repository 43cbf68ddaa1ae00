use super::*;
use crate::{Calls, Canned, Fault, ask::send, tiktok::Call};

const GET: (&str, &str) = ("fields", r#"["username"]"#);

#[tokio::test]
async fn tokens_live_for_two_hours_and_can_be_revoked() {
    let app = App::start().await;
    app.tiktok.advance(7199);
    assert_eq!(app.display("user/info/", "open_id", None).await.status, 200);
    app.tiktok.advance(1);
    app.display("user/info/", "open_id", None).await.word(401, "access_token_invalid");
    app.business("get/", &[GET]).await.number(40_105);
    let token = app.tiktok.new_token(&app.account.open_id, Platform::Display).unwrap();
    let get = async || {
        let bearer = format!("Bearer {token}");
        call(app.address, "GET", "/v2/user/info/?fields=open_id", &[("authorization", &bearer)], "").await
    };
    app.tiktok.revoke_tokens_in(&app.account.open_id, 5);
    assert_eq!(get().await.status, 200);
    app.tiktok.advance(5);
    get().await.word(401, "access_token_invalid");
}

#[tokio::test]
async fn the_601st_call_in_a_minute_is_refused() {
    let app = App::start().await;
    app.tiktok.set_quota(3);
    for _ in 0..3 {
        assert_eq!(app.display("user/info/", "open_id", None).await.status, 200);
    }
    app.display("user/info/", "open_id", None).await.word(429, "rate_limit_exceeded");
    assert_eq!(app.display("video/list/", "id", Some(&json!({}))).await.status, 200, "each path has its own");
    app.tiktok.advance(60);
    assert_eq!(app.display("user/info/", "open_id", None).await.status, 200);
    app.tiktok.set_quota(0);
    app.business("get/", &[GET]).await.number(40_100);
}

#[tokio::test]
async fn calls_of_a_kind_go_wrong_as_either_platform_words_it() {
    let app = App::start().await;
    let with = async |call: Call, fault: Fault| {
        app.tiktok.arrange(call, fault, Calls::Next(1));
        app.display("user/info/", "open_id", None).await
    };
    with(Call::Account, Fault::Transient(1)).await.word(500, "internal_error");
    with(Call::Any, Fault::RateLimited).await.word(429, "rate_limit_exceeded");
    assert_eq!(with(Call::Account, Fault::Down(504)).await.status, 504);
    assert_eq!(with(Call::Videos, Fault::Down(504)).await.status, 200);
    app.tiktok.clear_faults();
    app.tiktok.arrange(Call::Account, Fault::RateLimited, Calls::Next(1));
    app.business("get/", &[GET]).await.number(40_100);
    app.tiktok.arrange(Call::Comments, Fault::Transient(1), Calls::Next(1));
    app.comments("1", &[]).await.number(50_000);
    app.tiktok.break_metric("reach");
    app.business("video/list/", &[("fields", r#"["item_id","reach"]"#)]).await.number(50_000);
    assert_eq!(app.business("video/list/", &[("fields", r#"["item_id"]"#)]).await.body["code"], 0);
    app.tiktok.arrange(Call::Videos, Fault::Lost, Calls::Next(1));
    app.tiktok.clear_faults();
    assert_eq!(app.business("video/list/", &[("fields", r#"["reach"]"#)]).await.body["code"], 0);
    app.tiktok.arrange(Call::Any, Fault::Lost, Calls::Next(1));
    assert_eq!(send(app.address, "GET", "/v2/user/info/", &[], "").await, "");
    assert_eq!(app.tiktok.faults_met(Call::Account), 3);
    app.tiktok.outage(503, 10);
    assert_eq!(app.business("get/", &[GET]).await.status, 503);
    app.tiktok.advance(10);
    assert_eq!(app.business("get/", &[GET]).await.status, 200);
}

#[tokio::test]
async fn every_call_is_remembered_and_dated() {
    let app = App::start().await;
    assert_eq!(app.business("get/", &[GET]).await.headers["date"], "Mon, 15 Jun 2026 10:00:00 GMT");
    app.script.then(Canned::Answer(500, json!({})));
    app.display("video/list/", "id", Some(&json!({ "max_count": 1 }))).await;
    let requests = app.tiktok.requests();
    assert_eq!(
        (requests[0].path.as_str(), &requests[0].account),
        ("/open_api/v1.3/business/get/", &Some(app.account.open_id.clone()))
    );
    assert_eq!(
        (requests[1].status, requests[1].query.as_str(), requests[1].body.as_str()),
        (500, "fields=id", r#"{"max_count":1}"#)
    );
}
