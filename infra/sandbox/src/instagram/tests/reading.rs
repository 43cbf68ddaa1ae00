use super::*;
use crate::instagram::{MediaKind, NewMessage};

#[tokio::test]
async fn an_account_has_two_ids_and_is_found_by_either() {
    let app = App::start().await;
    let fields = "?fields=user_id,username,name,account_type,followers_count,media_count";
    let me = app.get(&format!("me{fields}")).await;
    assert_eq!(
        me.good(),
        &json!({
            "id": app.account.scoped_id, "user_id": app.account.id, "username": "gronskar", "name": "Grönskär & Co",
            "account_type": "BUSINESS", "followers_count": 1200, "media_count": 0,
        })
    );
    assert!(is_large(&app.account.id) && is_large(&app.account.scoped_id));
    assert_eq!(app.get(&format!("{}{fields}", app.account.id)).await.body, me.body);
    assert_eq!(app.get(&format!("{}{fields}", app.account.scoped_id)).await.body, me.body);
}

#[tokio::test]
async fn the_token_may_be_in_the_query_and_is_not_recorded() {
    let app = App::start().await;
    let path = format!("/v27.0/me?fields=id&access_token={}", app.account.token);
    assert_eq!(call(app.address, "GET", &path, &[], "").await.status, 200);
    call(app.address, "GET", "/v27.0/me?access_token=wrong", &[], "").await.graph_error(190, None);
    call(app.address, "GET", "/v27.0/me", &[], "").await.graph_error(190, None);
    let requests = app.instagram.requests();
    assert_eq!(
        (requests[0].path.as_str(), requests[0].query.as_str(), requests[0].status),
        ("/v27.0/me", "fields=id", 200)
    );
    assert_eq!((&requests[0].account, requests[0].at), (&Some(app.account.id.clone()), NOW * 1000));
    assert_eq!((&requests[1].account, requests[1].status), (&None, 400));
}

#[tokio::test]
async fn what_is_not_documented_is_refused() {
    let app = App::start().await;
    let other = app.instagram.add_account("annan", "Annan");
    let theirs = app.instagram.publish(&other.id, MediaKind::Image, None).unwrap();
    for path in ["", "me/media/1", "me//media", "/"] {
        app.get(path).await.graph_error(2500, None);
    }
    for path in [
        "me?fields=birthday",
        "me?field=id",
        "me?fields=id&fields=id",
        "me?ids=1,2",
        "me?method=delete",
        "me?date_format=U",
        "me?fields=id.as(x)",
        "me?fields=",
        "me/media?limit=0",
        "me/media?limit=101",
        "me/media?after=25",
        "me/stories",
        "me/conversations",
        "me/conversations?platform=messenger",
        "me/media?fields=id,children",
    ] {
        app.get(path).await.graph_error(100, None);
    }
    for id in ["1", "x", &theirs, &other.id] {
        app.get(id).await.graph_error(100, Some(33));
    }
    app.ask_at_once("DELETE", "me").await.graph_error(100, None);
    let bearer = format!("Bearer {}", app.account.token);
    for version in ["v26.0", "v28.0", "me"] {
        call(app.address, "GET", &format!("/{version}/me"), &[("authorization", &bearer)], "")
            .await
            .graph_error(2500, None);
    }
}

#[tokio::test]
async fn media_come_newest_first_with_the_times_of_the_graph_api() {
    let app = App::start().await;
    let publish = |kind, caption| app.instagram.publish(&app.account.id, kind, caption).unwrap();
    let image = publish(MediaKind::Image, Some("Åhå"));
    app.instagram.advance(60);
    let reel = publish(MediaKind::Reel, None);
    let story = publish(MediaKind::Story, None);
    let fields = "id,caption,media_type,media_product_type,timestamp,username,like_count,comments_count,thumbnail_url";
    let answer = app.get(&format!("me/media?fields={fields}")).await;
    assert_eq!(answer.listed(), [&reel, &image], "stories are in no list");
    assert_eq!(
        answer.rows()[1],
        json!({
            "id": image, "caption": "Åhå", "media_type": "IMAGE", "media_product_type": "FEED", "username": "gronskar",
            "timestamp": "2026-06-15T10:00:00+0000", "like_count": 0, "comments_count": 0,
        })
    );
    assert!(answer.rows()[0].get("caption").is_none() && answer.rows()[0]["thumbnail_url"].is_string());
    assert!(answer.body["paging"].get("next").is_none());
    assert_eq!(app.get(&format!("{story}?fields=media_product_type")).await.good()["media_product_type"], "STORY");
}

#[tokio::test]
async fn pages_shift_when_something_comes_in_front_and_may_be_empty() {
    let app = App::start().await;
    let publish = || app.instagram.publish(&app.account.id, MediaKind::Image, None).unwrap();
    let media: Vec<String> = (0..6).map(|_| publish()).collect();
    let first = app.get("me/media?limit=2").await;
    assert_eq!(first.listed(), [&media[5], &media[4]]);
    let after = first.body["paging"]["cursors"]["after"].as_str().unwrap();
    publish();
    let second = app.get(&format!("me/media?limit=2&after={after}")).await;
    assert_eq!(second.listed(), [&media[4], &media[3]], "one comes twice");

    // The next address says all that was said.
    let next = second.body["paging"]["next"].as_str().unwrap();
    let path = next.strip_prefix(&format!("http://{}", app.address)).unwrap();
    app.instagram.delete_media(&media[2]).unwrap();
    app.instagram.delete_media(&media[1]).unwrap();
    let third = call(app.address, "GET", path, &[], "").await;
    assert!(third.rows().is_empty());
    assert!(third.body["paging"]["next"].is_string(), "an empty page is not the end");
    let after = third.body["paging"]["cursors"]["after"].as_str().unwrap();
    let last = app.get(&format!("me/media?limit=2&after={after}")).await;
    assert_eq!(last.listed(), [&media[0]]);
    assert!(last.body["paging"].get("next").is_none());

    app.instagram.empty_pages(2);
    assert_eq!(app.pages("me/media?limit=3").await.len(), 5);
    assert_eq!(app.instagram.requests().len(), 4 + 2 + 3);
    let nothing = app.instagram.add_account("tom", "Tom");
    app.instagram.set_scopes(&app.account.id, &[]);
    app.get("me/media").await.graph_error(10, None);
    let path = format!("/v27.0/me/media?access_token={}", nothing.token);
    assert_eq!(call(app.address, "GET", &path, &[], "").await.good(), &json!({ "data": [] }));
}

#[tokio::test]
async fn comments_are_nested_newest_first_and_gone_when_they_are_deleted() {
    let app = App::start().await;
    let media = app.instagram.publish(&app.account.id, MediaKind::Image, None).unwrap();
    let first = app.instagram.comment(&media, &app.person, "Fint!", None).unwrap();
    let second = app.instagram.comment(&media, &app.person, "Pris?", None).unwrap();
    let reply = app.instagram.own_comment(&app.account.id, &media, "Tack!", Some(&first)).unwrap();
    let below = app.instagram.comment(&media, &app.person, "Varsågod", Some(&reply)).unwrap();
    app.instagram.hide_comment(&second, true).unwrap();
    let fields = "id,text,username,timestamp,like_count,parent_id,hidden,from,replies{id,text,parent_id,from}";
    let answer = app.get(&format!("{media}/comments?fields={fields}")).await;
    assert_eq!(answer.listed(), [&second, &first]);
    let root = &answer.rows()[1];
    assert_eq!(
        (root["text"].as_str(), root["hidden"].as_bool(), root.get("parent_id")),
        (Some("Fint!"), Some(false), None)
    );
    assert_eq!(root["from"], json!({ "id": app.person, "username": "eva.berg" }));
    assert_eq!(answer.rows()[0]["hidden"], true);
    assert!(answer.rows()[0].get("replies").is_none());
    let replies = root["replies"]["data"].as_array().unwrap();
    assert_eq!(texts(replies), ["Varsågod", "Tack!"]);
    assert_eq!((id(&replies[0]), &replies[0]["parent_id"]), (below.as_str(), &json!(first)), "it answers the root");
    assert_eq!(id(&replies[1]["from"]), app.account.id);
    assert_eq!(app.get(&format!("{first}/replies?fields=text&limit=1")).await.listed(), [&below]);
    assert_eq!(app.pages(&format!("{media}/comments?limit=1&fields=text")).await.len(), 2);

    let entries = app.instagram.entries().len();
    app.instagram.delete_comment(&first).unwrap();
    assert_eq!(app.instagram.entries().len(), entries, "there is no webhook for it");
    for gone in [&first, &reply, &below] {
        app.get(&format!("{gone}?fields=text")).await.graph_error(100, Some(33));
    }
    assert_eq!(app.get(&format!("{media}/comments")).await.listed(), [&second]);
    assert!(is_large(&second) && is_large(&media));
}

#[tokio::test]
async fn conversations_come_with_their_messages_and_the_twenty_newest_can_be_read() {
    let app = App::start().await;
    let quiet = app.instagram.add_person("tyst", None);
    app.instagram.answer(&app.account.id, &quiet, "Hej!").unwrap();
    app.instagram.advance(1);
    let mids: Vec<String> =
        (0..22).map(|n| app.instagram.message(&app.account.id, &app.person, &*format!("m{n}")).unwrap()).collect();
    let fields = "id,updated_time,participants,messages.limit(30){id,created_time,from,to,message}";
    let answer = app.get(&format!("me/conversations?platform=instagram&fields={fields}")).await;
    assert_eq!(answer.rows().len(), 2);
    let talk = &answer.rows()[0];
    assert_eq!(app.instagram.conversation(&app.account.id, &app.person).as_deref(), Some(id(talk)));
    assert_eq!(talk["updated_time"], "2026-06-15T10:00:01+0000");
    let (us, them) =
        (json!({ "id": app.account.id, "username": "gronskar" }), json!({ "id": app.person, "username": "eva.berg" }));
    assert_eq!(talk["participants"]["data"], json!([us, them]));
    let messages = talk["messages"]["data"].as_array().unwrap();
    assert_eq!(
        messages[0],
        json!({
            "id": mids[21], "created_time": "2026-06-15T10:00:01+0000", "from": them, "to": { "data": [us] },
            "message": "m21",
        })
    );
    assert_eq!((messages.len(), messages[20].get("message"), id(&messages[20])), (22, None, mids[1].as_str()));
    app.get(&format!("{}?fields=message", mids[1])).await.graph_error(100, Some(33));
    assert_eq!(app.get(&format!("{}?fields=message", mids[2])).await.good()["message"], "m2");

    app.instagram.unsend(&mids[21]).unwrap();
    app.instagram.edit_message(&mids[20], "ändrat").unwrap();
    let path = format!("{}?fields=messages.limit(1){{message}}", id(talk));
    let read = app.get(&path).await;
    assert!(read.good()["messages"]["data"].as_array().unwrap().is_empty());
    assert!(read.body["messages"]["paging"]["next"].is_string());
    let rest = app.pages(&format!("{}/messages?fields=message&limit=10", id(talk))).await;
    assert_eq!((rest.len(), &rest[0]["message"]), (21, &json!("ändrat")));
    app.get(&format!("{}?fields=message", mids[21])).await.graph_error(100, Some(33));
    assert!(app.get(&format!("{}?fields=message", mids[1])).await.status == 200, "it is one of the newest now");

    let only = app.get(&format!("me/conversations?platform=instagram&user_id={quiet}")).await;
    assert_eq!(only.rows().len(), 1);
}

#[tokio::test]
async fn a_silent_request_is_listed_for_thirty_days() {
    let app = App::start().await;
    app.instagram.message(&app.account.id, &app.person, "Hej").unwrap();
    app.instagram.set_request(&app.account.id, &app.person, true).unwrap();
    let day = 24 * 60 * 60;
    let listed = async || app.get("me/conversations?platform=instagram").await.rows().len();
    app.instagram.advance(30 * day - 60);
    assert_eq!(listed().await, 1);
    app.instagram.advance(120);
    assert_eq!(listed().await, 0);
    app.instagram.set_request(&app.account.id, &app.person, false).unwrap();
    assert_eq!(listed().await, 1);
}

#[tokio::test]
async fn messages_show_what_is_attached_to_them() {
    let app = App::start().await;
    let send = |message: NewMessage| app.instagram.message(&app.account.id, &app.person, message).unwrap();
    let plain = send("Se här".into());
    let picture = send(NewMessage::attachment("image", "https://cdn.example/1.jpg"));
    let shared = send(NewMessage::attachment("ig_post", "https://cdn.example/2").in_reply_to(&plain));
    let story = send(NewMessage::from("Oj!").in_reply_to_story("9", "https://cdn.example/3"));
    let odd = send(NewMessage::unsupported());
    app.instagram.react(&plain, Some("❤")).unwrap();
    let fields = "?fields=message,attachments,shares,story,reactions,is_unsupported,reply_to";
    let mut read = Vec::new();
    for mid in [&plain, &picture, &shared, &story, &odd] {
        let mut message = app.get(&format!("{mid}{fields}")).await.good().clone();
        assert_eq!(message.as_object_mut().unwrap().remove("id"), Some(json!(mid)));
        read.push(message);
    }
    let url = "https://cdn.example/1.jpg";
    let them = json!({ "id": app.person, "username": "eva.berg" });
    assert_eq!(
        read,
        [
            json!({ "message": "Se här", "reactions": { "data": [{ "reaction": "❤", "users": [them] }] } }),
            json!({ "message": "", "attachments": { "data": [{ "image_data": { "url": url, "preview_url": url } }] } }),
            json!({
                "message": "", "shares": { "data": [{ "link": "https://cdn.example/2" }] }, "reply_to": { "mid": plain },
            }),
            json!({ "message": "Oj!", "story": { "reply_to": { "link": "https://cdn.example/3", "id": "9" } } }),
            json!({ "message": "", "is_unsupported": true }),
        ]
    );
}

#[tokio::test]
async fn a_person_is_shown_once_they_have_written() {
    let app = App::start().await;
    let path = format!("{}?fields=name,username", app.person);
    app.get(&path).await.graph_error(230, None);
    app.instagram.answer(&app.account.id, &app.person, "Hej").unwrap();
    app.get(&path).await.graph_error(230, None);
    app.instagram.message(&app.account.id, &app.person, "Hej").unwrap();
    let person = json!({ "id": app.person, "name": "Eva Berg", "username": "eva.berg" });
    assert_eq!(app.get(&path).await.good(), &person);
    let nameless = app.instagram.add_person("x", None);
    app.instagram.message(&app.account.id, &nameless, "Hej").unwrap();
    let path = format!("{nameless}?fields=name,username");
    assert_eq!(app.get(&path).await.good(), &json!({ "id": nameless, "username": "x" }));
}
