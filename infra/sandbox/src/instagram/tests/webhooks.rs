use std::sync::Arc;

use super::*;
use crate::{
    Delivery, Loses, Order, Written,
    endpoint::{Endpoint, Got},
    instagram::{Flavour, MediaKind, NewMessage, sign, sign_sha1},
};

fn entries(got: &Got) -> Vec<Value> {
    got.event()["entry"].as_array().unwrap().clone()
}

async fn both() -> (App, Endpoint) {
    let (app, endpoint) = (App::start().await, Endpoint::start().await);
    app.instagram.set_endpoint(&endpoint.url).unwrap();
    (app, endpoint)
}

#[tokio::test]
async fn the_challenge_is_asked_as_the_page_says() {
    let (app, endpoint) = both().await;
    let (challenge, status, body) = app.instagram.challenge("mytoken").await.unwrap();
    assert_eq!((status, &body), (200, &challenge));
    let query = endpoint.got()[0].uri.query().unwrap().to_owned();
    assert_eq!(query, format!("from=sandbox&hub.mode=subscribe&hub.challenge={challenge}&hub.verify_token=mytoken"));
    endpoint.answer(&[403]);
    assert_eq!(app.instagram.challenge("x").await.unwrap().1, 403);
}

#[tokio::test]
async fn every_act_sends_what_the_page_shows() {
    let app = App::start().await;
    let (ig, account, person) = (&app.instagram, &app.account.id, &app.person);
    let hej = ig.message(account, person, "hej").unwrap();
    let picture = ig.message(account, person, NewMessage::attachment("image", "https://x.example/1")).unwrap();
    let reply = ig.message(account, person, NewMessage::from("ja").in_reply_to(&hej)).unwrap();
    let story =
        ig.message(account, person, NewMessage::from("oj").in_reply_to_story("9", "https://x.example")).unwrap();
    let ad = ig.message(account, person, NewMessage::from("pris?").from_ad("r", "77")).unwrap();
    let odd = ig.message(account, person, NewMessage::unsupported()).unwrap();
    let quick = ig.message(account, person, NewMessage::from("Ja").quick_reply("YES")).unwrap();
    let echo = ig.answer(account, person, "svar").unwrap();
    ig.edit_message(&hej, "hejsan").unwrap();
    ig.react(&hej, Some("❤")).unwrap();
    ig.react(&hej, None).unwrap();
    ig.seen(&echo).unwrap();
    let back = ig.postback(account, person, "Boka", "BOOK").unwrap();
    ig.referral(account, person, "shop").unwrap();
    ig.unsend(&hej).unwrap();
    assert_eq!(
        ig.entries()[0],
        json!({
            "id": account, "time": NOW * 1000,
            "messaging": [{
                "sender": { "id": person }, "recipient": { "id": account }, "timestamp": NOW * 1000,
                "message": { "mid": hej, "text": "hej" },
            }],
        })
    );
    let entries = ig.entries();
    assert_eq!(
        (&entries[7]["messaging"][0]["sender"]["id"], &entries[7]["messaging"][0]["recipient"]["id"]),
        (&json!(account), &json!(person)),
        "an echo goes the other way"
    );
    let attachment = json!({ "type": "image", "payload": { "url": "https://x.example/1" } });
    let referral = json!({
        "ref": "r", "ad_id": "77", "source": "ADS", "type": "OPEN_THREAD",
        "ads_context_data": { "ad_title": "Annons", "photo_url": "https://cdn.example/ad.jpg" },
    });
    let expected = [
        json!({ "message": { "mid": picture, "attachments": [attachment] } }),
        json!({ "message": { "mid": reply, "text": "ja", "reply_to": { "mid": hej } } }),
        json!({
            "message": { "mid": story, "text": "oj", "reply_to": { "story": { "id": "9", "url": "https://x.example" } } },
        }),
        json!({ "message": { "mid": ad, "text": "pris?", "referral": referral } }),
        json!({ "message": { "mid": odd, "is_unsupported": true } }),
        json!({ "message": { "mid": quick, "text": "Ja", "quick_reply": { "payload": "YES" } } }),
        json!({ "message": { "mid": echo, "text": "svar", "is_echo": true } }),
        json!({ "message_edit": { "mid": hej, "text": "hejsan", "num_edit": 1 } }),
        json!({ "reaction": { "mid": hej, "action": "react", "reaction": "love", "emoji": "❤" } }),
        json!({ "reaction": { "mid": hej, "action": "unreact" } }),
        json!({ "read": { "mid": echo } }),
        json!({ "postback": { "mid": back, "title": "Boka", "payload": "BOOK" } }),
        json!({ "referral": { "ref": "shop", "source": "IGME-SOURCE-LINK", "type": "OPEN_THREAD" } }),
        json!({ "message": { "mid": hej, "is_deleted": true } }),
    ];
    assert_eq!(entries[1..].iter().map(content).collect::<Vec<_>>(), expected);
    assert!(hej.len() > 60);
}

#[tokio::test]
async fn comments_and_mentions_have_webhooks_in_either_flavour() {
    let app = App::start().await;
    let (ig, account, person) = (&app.instagram, &app.account.id, &app.person);
    let media = ig.publish(account, MediaKind::Reel, None).unwrap();
    let first = ig.comment(&media, person, "Fint", None).unwrap();
    let own = ig.own_comment(account, &media, "Tack", Some(&first)).unwrap();
    let (foreign, mention) = ig.mention(account, person, "titta").unwrap();
    ig.mention_in_caption(account, "Hos").unwrap();
    let from = json!({ "id": person, "username": "eva.berg" });
    let value = |id: &str, from: &Value, text: &str, media: &str, product: &str| {
        let media = json!({ "id": media, "media_product_type": product });
        json!({ "id": id, "from": from, "text": text, "media": media })
    };
    let mut second = value(&own, &json!({ "id": account, "username": "gronskar" }), "Tack", &media, "REELS");
    second["parent_id"] = json!(first);
    let values = [
        value(&first, &from, "Fint", &media, "REELS"),
        second,
        value(&mention, &from, "@gronskar titta", &foreign, "FEED"),
    ];
    let expected = values.map(|value| json!({ "id": account, "time": NOW, "field": "comments", "value": value }));
    assert_eq!(ig.entries(), expected);
    assert_eq!(app.get(&format!("{mention}?fields=text")).await.good()["text"], "@gronskar titta");
    app.get(&foreign).await.graph_error(100, Some(33));

    ig.set_flavour(Flavour::FacebookLogin);
    let caption = ig.mention_in_caption(account, "Hos").unwrap();
    let changes: Vec<Value> = ig.entries().iter().map(|entry| entry["changes"][0].clone()).collect();
    assert_eq!((&changes[0]["field"], &changes[0]["value"]["comment_id"]), (&json!("comments"), &json!(first)));
    assert!(changes[0]["value"].get("id").is_none());
    let mention_change = json!({ "field": "mentions", "value": { "media_id": foreign, "comment_id": mention } });
    assert_eq!(changes[2], mention_change);
    assert_eq!(changes[3], json!({ "field": "mentions", "value": { "media_id": caption } }));
}

#[tokio::test]
async fn an_account_has_webhooks_for_what_it_subscribed_to() {
    let app = App::start().await;
    let subscribe = async |fields: &str| {
        app.ask_at_once("POST", &format!("{}/subscribed_apps?subscribed_fields={fields}", app.account.id)).await
    };
    assert_eq!(subscribe("messages,comments").await.good(), &json!({ "success": true }));
    let mid = app.instagram.message(&app.account.id, &app.person, "hej").unwrap();
    app.instagram.react(&mid, Some("😀")).unwrap();
    assert_eq!(app.instagram.entries().len(), 1);
    subscribe("messages,likes").await.graph_error(100, None);
    subscribe("").await.graph_error(100, None);
    assert_eq!(app.instagram.subscribed(&app.account.id).unwrap(), ["comments", "messages"]);
}

#[tokio::test]
async fn bodies_are_escaped_signed_as_they_are_and_delivered_once() {
    let (app, endpoint) = both().await;
    app.instagram.message(&app.account.id, &app.person, "åäö / 😀").unwrap();
    let prepared = app.instagram.prepare(&Delivery::default());
    let attempts = app.instagram.deliver_all().await;
    assert_eq!((attempts.len(), attempts[0].status, attempts[0].succeeded), (1, Some(200), true));
    let got = &endpoint.got()[0];
    let text = std::str::from_utf8(&got.body).unwrap();
    assert!(text.contains(r"\u00e5\u00e4\u00f6 \/ \ud83d\ude00") && text.is_ascii(), "{text}");
    let secret = app.instagram.app_secret().get();
    assert_eq!(got.header("x-hub-signature-256"), sign(&got.body, &secret));
    assert_eq!(got.header("x-hub-signature"), sign_sha1(&got.body, &secret));
    assert_eq!(got.header("content-type"), "application/json");
    assert_eq!(prepared[0].body, got.body);
    for (name, value) in &prepared[0].headers {
        assert_eq!(got.header(name), value);
    }
    assert!(app.instagram.deliver_all().await.is_empty());

    app.instagram.message(&app.account.id, &app.person, "åäö").unwrap();
    let raw = Delivery { written: Some(Written::Raw), signed_with: Some("other".to_owned()), ..Delivery::default() };
    app.instagram.deliver_with(raw).await;
    let got = &endpoint.got()[1];
    assert!(std::str::from_utf8(&got.body).unwrap().contains("åäö"));
    assert_eq!(got.header("x-hub-signature-256"), sign(&got.body, "other"));
}

#[tokio::test]
async fn what_is_no_2xx_is_tried_again() {
    let (app, endpoint) = both().await;
    for n in 0..4 {
        app.instagram.message(&app.account.id, &app.person, &*format!("m{n}")).unwrap();
    }
    endpoint.answer(&[500, 302, 401, 204]);
    let statuses: Vec<_> = app.instagram.deliver_all().await.iter().map(|attempt| attempt.status).collect();
    assert_eq!(statuses, [Some(500), Some(302), Some(401), Some(204)]);
    let again = app.instagram.deliver_all().await;
    assert_eq!(again.iter().map(|attempt| &attempt.events).collect::<Vec<_>>(), [&[0], &[1], &[2]]);
    let got = endpoint.got();
    assert_eq!(got[0].body, got[4].body);
}

#[tokio::test]
async fn entries_of_many_accounts_share_a_body_in_any_order() {
    let (app, endpoint) = both().await;
    let other = app.instagram.add_account("annan", "Annan");
    for n in 0..6 {
        let account = if n % 2 == 0 { &app.account.id } else { &other.id };
        app.instagram.message(account, &app.person, &*format!("m{n}")).unwrap();
    }
    let lose: Loses = Arc::new(|entry| entry["messaging"][0]["message"]["text"] == "m5");
    let delivery = Delivery {
        batch: 4,
        copies: 2,
        at_once: 3,
        order: Order::Shuffled(7),
        lose: Some(lose),
        ..Delivery::default()
    };
    let attempts = app.instagram.deliver_with(delivery).await;
    assert_eq!(attempts.iter().map(|attempt| attempt.events.len()).collect::<Vec<_>>(), [4, 4, 2]);
    let text = |entry: &Value| entry["messaging"][0]["message"]["text"].as_str().unwrap().to_owned();
    let mut got: Vec<String> =
        endpoint.got().iter().flat_map(|got| entries(got).iter().map(text).collect::<Vec<_>>()).collect();
    let came = got.clone();
    got.sort();
    assert_eq!(got, ["m0", "m0", "m1", "m1", "m2", "m2", "m3", "m3", "m4", "m4"]);
    assert_ne!(came, got);
    assert!(app.instagram.deliver_all().await.is_empty(), "what is lost never comes");
}

#[tokio::test]
async fn what_is_taken_is_not_delivered_and_may_share_entries() {
    let app = App::start().await;
    for n in 0..3 {
        app.instagram.message(&app.account.id, &app.person, &*format!("m{n}")).unwrap();
    }
    let delivery = Delivery { batch: 1000, merged: true, ..Delivery::default() };
    assert_eq!(app.instagram.prepare(&delivery), app.instagram.prepare(&delivery));
    let taken = app.instagram.take(&delivery);
    let body: Value = serde_json::from_slice(&taken[0].body).unwrap();
    assert_eq!((taken.len(), &taken[0].events), (1, &vec![0, 1, 2]));
    assert_eq!(body["object"], "instagram");
    let entries = body["entry"].as_array().unwrap();
    assert_eq!((entries.len(), entries[0]["messaging"].as_array().unwrap().len()), (1, 3));
    assert!(app.instagram.prepare(&delivery).is_empty());
}

#[tokio::test]
async fn an_entry_is_sent_as_it_is_given() {
    let (app, endpoint) = both().await;
    app.instagram.message(&app.account.id, &app.person, "hej").unwrap();
    let odd = json!({ "id": "1", "time": "soon", "field": "story_insights", "value": null });
    app.instagram.push_entry(odd.clone());
    app.instagram.deliver_with(Delivery { batch: 2, ..Delivery::default() }).await;
    assert_eq!(entries(&endpoint.got()[0])[1], odd);
}

#[tokio::test]
async fn events_go_out_by_themselves_and_failures_again() {
    let (app, endpoint) = both().await;
    endpoint.answer(&[503]);
    let running = tokio::spawn(Arc::clone(&app.instagram).run());
    app.instagram.deliver_on_change(true);
    app.instagram.message(&app.account.id, &app.person, "hej").unwrap();
    endpoint.got_times(2).await;
    let got = endpoint.got();
    assert_eq!(got[0].body, got[1].body);
    running.abort();
}

#[tokio::test]
async fn acts_that_name_nothing_fail_and_send_nothing() {
    let app = App::start().await;
    let ig = &app.instagram;
    assert!(ig.message("1", &app.person, "x").is_err());
    assert!(ig.message(&app.account.id, "1", "x").is_err());
    assert!(ig.referral(&app.account.id, &app.person, "x").is_err());
    assert!(ig.unsend("x").is_err() && ig.comment("1", &app.person, "x", None).is_err());
    assert!(ig.publish("1", MediaKind::Image, None).is_err() && ig.delete_comment("1").is_err());
    assert!(ig.set_endpoint("https://127.0.0.1/").is_err() && ig.set_endpoint("http://studio.example/").is_err());
    assert!(ig.entries().is_empty());
}
