use super::*;

#[tokio::test]
async fn platform_a_shows_an_account_as_its_page_does() {
    let app = App::start().await;
    let video = app.publish();
    app.tiktok.set_video_figure(&video, "likes", Some(json!(5))).unwrap();
    let answer =
        app.display("user/info/", "open_id,display_name,username,follower_count,likes_count,video_count", None).await;
    assert_eq!(
        answer.data(),
        &json!({ "user": {
            "open_id": app.account.open_id, "display_name": "Grönskär", "username": "gronskar", "follower_count": 900,
            "likes_count": 5, "video_count": 1,
        }})
    );
    assert_eq!((&answer.body["error"]["code"], &answer.body["error"]["message"]), (&json!("ok"), &json!("")));
    app.tiktok.set_scopes(&app.account.open_id, &["user.info.basic"]);
    assert_eq!(app.display("user/info/", "open_id", None).await.data()["user"]["open_id"], app.account.open_id);
    app.display("user/info/", "open_id,follower_count", None).await.word(401, "scope_not_authorized");
    app.display("user/info/", "username", None).await.word(401, "scope_not_authorized");
    app.display("video/list/", "id", Some(&json!({}))).await.word(401, "scope_not_authorized");
}

#[tokio::test]
async fn platform_a_pages_videos_by_the_millisecond() {
    let app = App::start().await;
    let videos: Vec<String> = (0..5).map(|_| app.publish()).collect();
    let list = async |body: Value| {
        app.display("video/list/", "id,create_time,video_description,view_count", Some(&body)).await
    };
    let first = list(json!({ "max_count": 2 })).await;
    assert_eq!(first.each("videos", "id"), [&*videos[4], &*videos[3]]);
    let shown = json!({ "id": videos[4], "create_time": NOW, "video_description": "Ny film", "view_count": 0 });
    assert_eq!(first.data()["videos"][0], shown);
    assert_eq!(first.data()["has_more"], true);
    let cursor = first.data()["cursor"].as_i64().unwrap();
    assert_eq!(cursor, NOW * 1000 + 3);
    app.publish();
    app.tiktok.delete_video(&videos[1]).unwrap();
    let second = list(json!({ "max_count": 2, "cursor": cursor })).await;
    assert_eq!(second.each("videos", "id"), [&*videos[2], &*videos[0]]);
    assert_eq!(second.data()["has_more"], false);
    assert_eq!(list(json!({})).await.each("videos", "id").len(), 5);
    for wrong in [json!({ "max_count": 21 }), json!({ "max_count": 0 }), json!({ "cursor": "1" }), json!({ "page": 1 })]
    {
        list(wrong).await.word(400, "invalid_params");
    }
    let asked = json!({ "filters": { "video_ids": [videos[0], videos[1], "1"] } });
    assert_eq!(app.display("video/query/", "id", Some(&asked)).await.each("videos", "id"), [&*videos[0]]);
    app.tiktok.set_listed(&videos[0], false).unwrap();
    assert!(!list(json!({})).await.each("videos", "id").contains(&&*videos[0]));
    assert_eq!(app.display("video/query/", "id", Some(&asked)).await.each("videos", "id"), [&*videos[0]]);
    let many = json!({ "filters": { "video_ids": vec!["1"; 21] } });
    for wrong in [json!({}), json!({ "filters": { "video_ids": [1] } }), many] {
        app.display("video/query/", "id", Some(&wrong)).await.word(400, "invalid_params");
    }
}

#[tokio::test]
async fn platform_a_refuses_what_is_not_documented() {
    let app = App::start().await;
    for fields in ["", "id", "open_id,open_id", "birthday"] {
        app.display("user/info/", fields, None).await.word(400, "invalid_params");
    }
    app.display("user/info", "open_id", None).await.word(400, "invalid_params");
    app.display("user/info/", "open_id", Some(&json!({}))).await.word(400, "invalid_params");
    app.display("video/list/", "id", None).await.word(400, "invalid_params");
    app.display("video/list/", "id&cursor=1", Some(&json!({}))).await.word(400, "invalid_params");
    let bearer = format!("Bearer {}", app.account.display_token.as_ref().unwrap());
    let path = "/v2/video/list/?fields=id";
    call(app.address, "POST", path, &[("authorization", &bearer)], "{}").await.word(400, "invalid_params");
    let business = format!("Bearer {}", app.account.business_token.as_ref().unwrap());
    for wrong in ["Bearer x", "", &business, bearer.strip_prefix("Bearer ").unwrap()] {
        let headers = [("authorization", wrong)];
        call(app.address, "GET", "/v2/user/info/?fields=open_id", &headers, "").await.word(401, "access_token_invalid");
    }
}

#[tokio::test]
async fn platform_b_shows_an_account_with_its_days_and_their_gaps() {
    let app = App::start().await;
    let set = |metric, day: &str, value| {
        app.tiktok.set_figure(&app.account.open_id, metric, day.parse().unwrap(), value).unwrap();
    };
    set("video_views", "2026-06-12", Some(10));
    set("likes", "2026-06-12", Some(0));
    set("video_views", "2026-06-14", Some(20));
    let fields = r#"["username","display_name","followers_count","is_business_account","video_views","likes"]"#;
    let answer = app.business("get/", &[("fields", fields)]).await;
    assert_eq!(
        answer.data(),
        &json!({
            "username": "gronskar", "display_name": "Grönskär", "followers_count": 900, "is_business_account": true,
            "metrics": [
                { "date": "2026-06-12", "video_views": 10, "likes": 0 }, { "date": "2026-06-14", "video_views": 20 },
            ],
        })
    );
    assert_eq!(answer.body["message"], "OK");
    let fields = ("fields", r#"["metrics"]"#);
    let range = [fields, ("start_date", "2026-06-14"), ("end_date", "2026-06-14")];
    assert_eq!(app.business("get/", &range).await.data()["metrics"].as_array().unwrap().len(), 1);
    for wrong in [
        &[][..],
        &[("fields", "username")],
        &[("fields", r#"["birthday"]"#)],
        &[("fields", "[]")],
        &[fields, ("start_date", "2026-06-14"), ("end_date", "2026-06-13")],
        &[fields, ("start_date", "14/6")],
        &[fields, ("page", "1")],
    ] {
        app.business("get/", wrong).await.number(40_002);
    }
}

#[tokio::test]
async fn platform_b_shows_videos_with_what_is_known_of_them() {
    let app = App::start().await;
    let videos: Vec<String> = (0..3).map(|_| app.publish()).collect();
    app.tiktok.set_video_figure(&videos[2], "reach", Some(json!(40))).unwrap();
    app.tiktok.set_video_figure(&videos[2], "average_time_watched", Some(json!(3.5))).unwrap();
    let fields = r#"["item_id","create_time","caption","reach","average_time_watched","comments"]"#;
    let answer = app.business("video/list/", &[("fields", fields), ("max_count", "2")]).await;
    assert_eq!(
        answer.data()["videos"],
        json!([
            {
                "item_id": videos[2], "create_time": NOW.to_string(), "caption": "Ny film", "reach": 40,
                "average_time_watched": 3.5, "comments": 0,
            },
            { "item_id": videos[1], "create_time": NOW.to_string(), "caption": "Ny film", "comments": 0 },
        ])
    );
    let cursor = answer.data()["cursor"].to_string();
    let rest = app.business("video/list/", &[("cursor", &cursor)]).await;
    assert_eq!((rest.each("videos", "item_id"), &rest.data()["has_more"]), (vec![&*videos[0]], &json!(false)));
    let filters = format!(r#"{{"video_ids":["{}"]}}"#, videos[1]);
    let one = app.business("video/list/", &[("filters", &filters)]).await;
    assert_eq!(one.each("videos", "item_id"), [&*videos[1]]);
    app.business("video/list/", &[("max_count", "21")]).await.number(40_002);
    app.business("video/list/", &[("fields", r#"["id"]"#)]).await.number(40_002);
}

#[tokio::test]
async fn comments_come_in_every_documented_way() {
    let app = App::start().await;
    let video = app.publish();
    let first = app.tiktok.comment(&video, &app.person, "Fint!", None).unwrap();
    let reply = app.tiktok.own_comment(&video, "Tack!", Some(&first)).unwrap();
    let below = app.tiktok.comment(&video, &app.person, "Varsågod", Some(&reply)).unwrap();
    let second = app.tiktok.comment(&video, &app.person, "Pris?", None).unwrap();
    let third = app.tiktok.comment(&video, &app.person, "Hm", None).unwrap();
    app.tiktok.like_comment(&first, 9).unwrap();
    app.tiktok.hide_comment(&third).unwrap();
    let ids = async |parameters: &[(&str, &str)]| -> Vec<String> {
        let answer = app.comments(&video, parameters).await;
        answer.each("comments", "comment_id").into_iter().map(str::to_owned).collect()
    };
    assert_eq!(ids(&[]).await, [&*second, &*first]);
    assert_eq!(ids(&[("status", "ALL")]).await, [&*third, &*second, &*first]);
    assert_eq!(ids(&[("status", "ALL"), ("sort_order", "asc")]).await, [&*first, &*second, &*third]);
    assert_eq!(ids(&[("sort_field", "likes")]).await, [&*first, &*second]);
    assert_eq!(ids(&[("sort_field", "replies"), ("sort_order", "asc")]).await, [&*second, &*first]);
    assert_eq!(ids(&[("sort_order", "smart")]).await, [&*first, &*second]);
    assert_eq!(ids(&[("comment_ids", &format!(r#"["{first}","1"]"#))]).await, [&*first]);

    let only = format!(r#"["{first}"]"#);
    let answer = app.comments(&video, &[("include_replies", "true"), ("comment_ids", &only)]).await;
    let comment = &answer.data()["comments"][0];
    let image = format!("https://p16.example/{}.jpeg?x-expires=1", app.person);
    assert_eq!(
        comment.as_object().unwrap().iter().filter(|(name, _)| *name != "reply_list").collect::<Vec<_>>(),
        json!({
            "comment_id": first, "video_id": video, "user_id": app.person, "unique_identifier": app.person,
            "create_time": NOW.to_string(), "text": "Fint!", "likes": 9, "replies": 2, "owner": false, "liked": false,
            "pinned": false, "status": "PUBLIC", "username": "eva.berg", "profile_image": image,
        })
        .as_object()
        .unwrap()
        .iter()
        .collect::<Vec<_>>()
    );
    let replies = comment["reply_list"].as_array().unwrap();
    assert_eq!((&replies[0]["comment_id"], &replies[1]["comment_id"]), (&json!(below), &json!(reply)));
    assert_eq!((&replies[1]["owner"], &replies[0]["parent_comment_id"]), (&json!(true), &json!(first)));

    let page = app.comments(&video, &[("max_count", "1")]).await;
    assert_eq!((&page.data()["cursor"], &page.data()["has_more"]), (&json!(1), &json!(true)));
    app.tiktok.comment(&video, &app.person, "Ny", None).unwrap();
    assert_eq!(ids(&[("max_count", "1"), ("cursor", "1")]).await, [&*second], "pages shift");
    app.tiktok.delete_comment(&first).unwrap();
    assert_eq!(ids(&[("comment_ids", &only)]).await, Vec::<String>::new());
    for wrong in [
        ("max_count", "31"),
        ("max_count", "0"),
        ("status", "HIDDEN"),
        ("sort_field", "text"),
        ("sort_order", "up"),
        ("include_replies", "1"),
        ("comment_ids", "1"),
        ("page", "1"),
        ("cursor", "x"),
    ] {
        app.comments(&video, &[wrong]).await.number(40_002);
    }
    app.comments("1", &[]).await.number(40_002);
    app.business("comment/list/", &[]).await.number(40_002);
}

#[tokio::test]
async fn platform_b_answers_200_to_everything() {
    let app = App::start().await;
    let path = format!("/open_api/v1.3/business/get/?business_id={}&fields=[\"username\"]", app.account.open_id);
    let path = path.replace('"', "%22");
    let display = app.account.display_token.clone().unwrap();
    for wrong in ["x", &display] {
        call(app.address, "GET", &path, &[("access-token", wrong)], "").await.number(40_105);
    }
    let bearer = format!("Bearer {}", app.account.business_token.as_ref().unwrap());
    call(app.address, "GET", &path, &[("authorization", &bearer)], "").await.number(40_105);
    app.business("get", &[]).await.number(40_002);
    let other = app.tiktok.add_account("annan", "Annan", &[Platform::Business]);
    assert_eq!(other.display_token, None);
    let token = other.business_token.unwrap();
    call(app.address, "GET", &path, &[("access-token", &token)], "").await.number(40_001);
    app.tiktok.set_scopes(&app.account.open_id, &["user.info.basic"]);
    app.business("get/", &[("fields", r#"["likes"]"#)]).await.number(40_001);
    app.comments(&app.publish(), &[]).await.number(40_001);
}
