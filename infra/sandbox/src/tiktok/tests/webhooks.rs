use std::sync::Arc;

use chrono::Utc;

use super::*;
use crate::{
    Delivery, Loses, Order, Written,
    endpoint::Endpoint,
    tiktok::{NewMessage, PostEvent, sign},
};

/// What an event says, read a second time.
fn content(event: &Value) -> Value {
    serde_json::from_str(event["content"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_comments_ids_are_numbers_beyond_what_a_double_holds() {
    let app = App::start().await;
    let video = app.publish();
    assert!(app.tiktok.events().is_empty(), "a video has no webhook");
    let first = app.tiktok.comment(&video, &app.person, "Fint!", None).unwrap();
    let reply = app.tiktok.own_comment(&video, "Tack!", Some(&first)).unwrap();
    app.tiktok.hide_comment(&first).unwrap();
    app.tiktok.show_comment_to_friends(&first).unwrap();
    app.tiktok.show_comment(&first).unwrap();
    app.tiktok.delete_comment(&reply).unwrap();
    let events = app.tiktok.events();
    let text = events[0]["content"].as_str().unwrap();
    assert!(text.contains(&format!("\"comment_id\":{first},")) && first.parse::<i64>().unwrap() > 1 << 53, "{text}");
    let number = |id: &str| id.parse::<i64>().unwrap();
    let event = |id: &str, parent: i64, kind: &str, action: &str, author: &str| {
        json!({
            "comment_id": number(id), "video_id": number(&video), "parent_comment_id": parent, "comment_type": kind,
            "comment_action": action, "unique_identifier": author, "timestamp": NOW,
        })
    };
    let us = &app.account.open_id;
    let expected = [
        event(&first, 0, "comment", "insert", &app.person),
        event(&reply, number(&first), "reply", "insert", us),
        event(&first, 0, "comment", "set_to_hidden", &app.person),
        event(&first, 0, "comment", "set_to_friends_only", &app.person),
        event(&first, 0, "comment", "set_to_public", &app.person),
        event(&reply, number(&first), "reply", "delete", us),
    ];
    assert_eq!(events.iter().map(content).collect::<Vec<_>>(), expected);
    assert_eq!(
        (&events[0]["event"], &events[0]["create_time"], &events[0]["user_openid"], &events[0]["client_key"]),
        (&json!("comment.update"), &json!(NOW), &json!(us), &json!(app.tiktok.client_key()))
    );
}

#[tokio::test]
async fn messages_are_sent_as_the_page_shows() {
    let app = App::start().await;
    let (tiktok, us, person) = (&app.tiktok, &app.account.open_id, &app.person);
    let hello = tiktok.message(us, person, "hello").unwrap();
    tiktok.message(us, person, NewMessage::image("m1")).unwrap();
    tiktok.message(us, person, NewMessage::share_post("7")).unwrap();
    tiktok.message(us, person, NewMessage::sticker()).unwrap();
    let answer = tiktok.answer(us, person, NewMessage::from("hej").in_reply_to(&hello)).unwrap();
    tiktok.mark_read(us, person).unwrap();
    let events = tiktok.events();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    let incoming = "im_receive_msg";
    assert_eq!(names, [incoming, incoming, incoming, incoming, "im_send_msg", "im_mark_read_msg"]);
    let contents: Vec<Value> = events.iter().map(content).collect();
    let conversation = tiktok.conversation(us, person).unwrap();
    assert_eq!(
        contents[0],
        json!({
            "conversation_id": conversation, "message_id": hello, "type": "text", "timestamp": NOW * 1000,
            "from": "eva.berg", "to": "gronskar", "from_user": { "id": person, "role": "personal_account" },
            "to_user": { "id": us, "role": "business_account" }, "unique_identifier": person, "is_follower": true,
            "text": { "body": "hello" },
        })
    );
    assert_eq!((&contents[1]["type"], &contents[1]["image"]), (&json!("image"), &json!({ "media_id": "m1" })));
    assert_eq!(contents[2]["share_post"]["video_id"], "7");
    assert_eq!((&contents[3]["type"], contents[3].get("sticker")), (&json!("sticker"), None));
    let echo = &contents[4];
    assert_eq!(
        (&echo["message_id"], &echo["from_user"]["id"], &echo["to_user"]["id"]),
        (&json!(answer), &json!(us), &json!(person))
    );
    assert_eq!(echo["referenced_message_info"], json!({ "referenced_message_id": hello }));
    assert_eq!(contents[5]["read"], json!({ "last_read_timestamp": NOW * 1000 }));
    assert!(contents.iter().all(|content| content["conversation_id"] == *conversation));

    let display = tiktok.add_account("a", "A", &[Platform::Display]).open_id;
    tiktok.message(&display, person, "hello").unwrap();
    assert_eq!(tiktok.events().len(), 6, "messages are platform B's alone");
}

#[tokio::test]
async fn posts_and_the_end_of_an_authorization_are_sent_by_platform_a() {
    let app = App::start().await;
    let us = &app.account.open_id;
    let publish = app.tiktok.post_event(us, PostEvent::PubliclyAvailable, Some("7")).unwrap();
    app.tiktok.post_event(us, PostEvent::NoLongerPublicalyAvailable, None).unwrap();
    app.tiktok.remove_authorization(us, 1).unwrap();
    app.display("user/info/", "open_id", None).await.word(401, "access_token_invalid");
    app.tiktok.message(us, &app.person, "hej").unwrap();
    let events = app.tiktok.events();
    let post = json!({ "publish_id": publish, "publish_type": "DIRECT_PUBLISH", "post_id": "7" });
    assert_eq!(content(&events[0]), post);
    assert_eq!(events[1]["event"], "post.publish.no_longer_publicaly_available");
    assert_eq!((&events[2]["event"], content(&events[2])), (&json!("authorization.removed"), json!({ "reason": 1 })));
    app.tiktok.push_event(Platform::Display, us, "video.publish.completed", json!({ "share_id": "video.1" }));
    assert_eq!(content(&app.tiktok.events()[3]), json!({ "share_id": "video.1" }));
    assert_eq!(events.len(), 3, "there are no webhooks without an authorization");
}

#[tokio::test]
async fn bodies_are_signed_as_they_are_and_only_200_counts() {
    let (app, endpoint) = (App::start().await, Endpoint::start().await);
    app.tiktok.set_endpoint(&endpoint.url).unwrap();
    app.tiktok.message(&app.account.open_id, &app.person, "åäö / 😀").unwrap();
    endpoint.answer(&[204, 500, 302]);
    for _ in 0..3 {
        assert!(!app.tiktok.deliver_all().await[0].succeeded);
    }
    assert!(app.tiktok.deliver_all().await[0].succeeded);
    assert!(app.tiktok.deliver_all().await.is_empty());
    let got = &endpoint.got()[3];
    let header = got.header("tiktok-signature");
    let t: i64 = header.strip_prefix("t=").unwrap().split(',').next().unwrap().parse().unwrap();
    assert!((Utc::now().timestamp() - t).abs() < 60, "it is signed when it is sent, not when it came about");
    let secret = app.tiktok.client_secret().get();
    assert_eq!(header, sign(&got.body, &secret, t));
    assert_eq!(got.header("webhook-schema-version"), "1.0");
    assert!(!got.header("x-tt-logid").is_empty());
    assert!(std::str::from_utf8(&got.body).unwrap().contains("åäö / 😀"));

    app.tiktok.remove_authorization(&app.account.open_id, 4).unwrap();
    let delivery = Delivery {
        signed_at: Some(1000),
        signed_with: Some("other".to_owned()),
        written: Some(Written::Escaped),
        ..Delivery::default()
    };
    let prepared = app.tiktok.prepare(&delivery);
    app.tiktok.deliver_with(delivery).await;
    let got = &endpoint.got()[4];
    assert_eq!(got.header("tiktok-signature"), sign(&got.body, "other", 1000));
    assert_eq!((prepared[0].body.as_slice(), prepared[0].headers.len()), (&*got.body, 3));
    assert!(!got.headers.contains_key("webhook-schema-version"), "platform A does not send it");
}

#[tokio::test]
async fn events_are_doubled_disordered_and_lost() {
    let (app, endpoint) = (App::start().await, Endpoint::start().await);
    app.tiktok.set_endpoint(&endpoint.url).unwrap();
    for n in 0..5 {
        app.tiktok.message(&app.account.open_id, &app.person, &*format!("m{n}")).unwrap();
    }
    let lose: Loses = Arc::new(|event| event["content"].as_str().unwrap().contains("\"m4\""));
    let delivery =
        Delivery { order: Order::Reversed, copies: 2, at_once: 2, batch: 9, lose: Some(lose), ..Delivery::default() };
    assert_eq!(app.tiktok.deliver_with(delivery).await.len(), 8);
    let mut got: Vec<String> =
        endpoint.got().iter().map(|got| content(&got.event())["text"]["body"].as_str().unwrap().to_owned()).collect();
    got.dedup();
    assert_eq!(got, ["m3", "m2", "m1", "m0"]);
    assert!(app.tiktok.take(&Delivery::default()).is_empty());
    app.tiktok.message(&app.account.open_id, &app.person, "m5").unwrap();
    assert_eq!(app.tiktok.take(&Delivery::default()).len(), 1);
    assert!(app.tiktok.deliver_all().await.is_empty());
}

#[tokio::test]
async fn each_type_of_event_has_one_callback() {
    let (app, first, second) = (App::start().await, Endpoint::start().await, Endpoint::start().await);
    app.tiktok.set_endpoint(&first.url).unwrap();
    let (key, secret) = (app.tiktok.client_key(), app.tiktok.client_secret().get());
    let update = async |body: Value| {
        let path = "/open_api/v1.3/business/webhook/update/";
        call(app.address, "POST", path, &[("content-type", "application/json")], &body.to_string()).await
    };
    let body = |secret: &str, kind: &str, url: &str| json!({ "app_id": key, "secret": secret, "event_type": kind, "callback_url": url });
    update(body("x", "DIRECT_MESSAGE", &second.url)).await.number(40_001);
    update(body(&secret, "OTHER", &second.url)).await.number(40_002);
    update(body(&secret, "DIRECT_MESSAGE", "http://studio.example/")).await.number(40_002);
    assert_eq!(update(body(&secret, "DIRECT_MESSAGE", &second.url)).await.data()["callback_url"], second.url);
    let list = async |kind: &str| {
        let path = format!("/open_api/v1.3/business/webhook/list/?app_id={key}&secret={secret}&event_type={kind}");
        call(app.address, "GET", &path, &[], "").await.data().clone()
    };
    assert_eq!(list("DIRECT_MESSAGE").await["callback_url"], second.url);
    assert_eq!(list("COMMENT").await, json!({}));
    app.tiktok.message(&app.account.open_id, &app.person, "hej").unwrap();
    app.tiktok.comment(&app.publish(), &app.person, "Fint", None).unwrap();
    app.tiktok.deliver_all().await;
    assert_eq!((second.got()[0].event()["event"].clone(), second.got().len()), (json!("im_receive_msg"), 1));
    assert_eq!((first.got()[0].event()["event"].clone(), first.got().len()), (json!("comment.update"), 1));
}

#[tokio::test]
async fn acts_that_name_nothing_fail_and_send_nothing() {
    let app = App::start().await;
    let tiktok = &app.tiktok;
    assert!(tiktok.message("1", &app.person, "x").is_err() && tiktok.message(&app.account.open_id, "1", "x").is_err());
    assert!(tiktok.comment("1", &app.person, "x", None).is_err() && tiktok.own_comment("1", "x", None).is_err());
    assert!(tiktok.delete_comment("1").is_err() && tiktok.publish("1", "x").is_err());
    assert!(tiktok.remove_authorization("1", 1).is_err());
    assert!(tiktok.events().is_empty());
}
