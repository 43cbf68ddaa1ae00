use super::*;
use crate::{
    Calls, Fault, SentKind,
    ask::send,
    tiktok::{Call, NewMessage},
};

impl App {
    async fn post(&self, path: &str, body: &Value) -> Answer {
        let token = self.account.business_token.as_ref().unwrap();
        let headers = [("access-token", token.as_str()), ("content-type", "application/json")];
        call(self.address, "POST", &format!("/open_api/v1.3/business/{path}/"), &headers, &body.to_string()).await
    }

    fn to(&self, conversation: &str, text: &str) -> Value {
        json!({
            "business_id": self.account.open_id, "recipient_type": "CONVERSATION", "recipient": conversation,
            "message_type": "TEXT", "text": { "body": text },
        })
    }

    fn content(&self, event: usize) -> Value {
        serde_json::from_str(self.tiktok.events()[event]["content"].as_str().unwrap()).unwrap()
    }
}

#[tokio::test]
async fn a_message_is_sent_in_a_conversation_that_a_person_began_and_comes_back_as_an_echo() {
    let app = App::start().await;
    let (tiktok, open_id) = (&app.tiktok, &app.account.open_id);
    app.post("message/send", &app.to("u5x==", "hej")).await.number(40_002);
    let other = tiktok.add_person("kalle");
    tiktok.answer(open_id, &other, "i appen").unwrap();
    app.post("message/send", &app.to(&tiktok.conversation(open_id, &other).unwrap(), "hej")).await.number(40_301);

    let asked = tiktok.message(open_id, &app.person, "Hej?").unwrap();
    let talk = tiktok.conversation(open_id, &app.person).unwrap();
    let mut body = app.to(&talk, "Hej å");
    body["referenced_message_info"] = json!({ "referenced_message_id": asked });
    let answer = app.post("message/send", &body).await;
    let id = answer.data()["message"]["message_id"].as_str().unwrap().to_owned();
    assert_eq!(tiktok.events()[2]["event"], "im_send_msg");
    let echo = app.content(2);
    assert_eq!((&echo["message_id"], &echo["conversation_id"]), (&json!(id), &json!(talk)));
    assert_eq!((&echo["text"]["body"], &echo["from_user"]["id"]), (&json!("Hej å"), &json!(open_id)));
    assert_eq!(echo["referenced_message_info"]["referenced_message_id"], json!(asked));
    let sent = tiktok.sent(open_id);
    assert_eq!((sent.len(), &sent[0].id, sent[0].kind, &sent[0].to), (1, &id, SentKind::Message, &talk));

    tiktok.close_conversation(&talk, true).unwrap();
    app.post("message/send", &app.to(&talk, "Och?")).await.number(40_301);
    tiktok.close_conversation(&talk, false).unwrap();
    for (name, value) in [
        ("business_id", json!("x")),
        ("recipient_type", json!("USER")),
        ("message_type", json!("IMAGE")),
        ("text", json!({ "body": "" })),
        ("text", json!("hej")),
        ("more", json!(1)),
    ] {
        let mut wrong = app.to(&talk, "hej");
        wrong[name] = value;
        app.post("message/send", &wrong).await.number(if name == "business_id" { 40_001 } else { 40_002 });
    }
    tiktok.set_scopes(open_id, &["message.list.read"]);
    app.post("message/send", &app.to(&talk, "hej")).await.number(40_001);
    assert_eq!(tiktok.sent(open_id).len(), 1);
}

#[tokio::test]
async fn a_message_whose_connection_is_closed_was_sent_or_was_not_or_is_sent_later() {
    let app = App::start().await;
    let (tiktok, open_id) = (&app.tiktok, &app.account.open_id);
    tiktok.message(open_id, &app.person, "Hej").unwrap();
    let body = app.to(&tiktok.conversation(open_id, &app.person).unwrap(), "x").to_string();
    let token = app.account.business_token.as_ref().unwrap();
    let headers = [("access-token", token.as_str()), ("content-type", "application/json")];
    let write = async |fault: Fault| {
        tiktok.arrange(Call::Send, fault, Calls::Next(1));
        assert_eq!(send(app.address, "POST", "/open_api/v1.3/business/message/send/", &headers, &body).await, "");
        tiktok.sent(open_id).len()
    };
    assert_eq!(write(Fault::Dropped).await, 0);
    assert_eq!(write(Fault::Lost).await, 1);
    assert_eq!(write(Fault::Late(5)).await, 1);
    tiktok.advance(5);
    assert_eq!((tiktok.sent(open_id).len(), tiktok.events().len()), (2, 3));
}

#[tokio::test]
async fn a_comment_is_answered() {
    let app = App::start().await;
    let (tiktok, open_id) = (&app.tiktok, &app.account.open_id);
    let video = app.publish();
    let comment = tiktok.comment(&video, &app.person, "Fint", None).unwrap();
    let body = |text: &str, comment: &str| json!({ "business_id": open_id, "video_id": video, "comment_id": comment, "text": text });
    let answer = app.post("comment/reply/create", &body("Tack", &comment)).await;
    let reply = answer.data()["comment_id"].as_str().unwrap().to_owned();
    assert_eq!(
        answer.data(),
        &json!({
            "comment_id": reply, "parent_comment_id": comment, "video_id": video, "user_id": open_id,
            "create_time": NOW.to_string(), "text": "Tack",
        })
    );
    assert_eq!(app.content(1)["comment_id"].to_string(), reply);
    app.post("comment/reply/create", &body("", &comment)).await.number(40_002);
    app.post("comment/reply/create", &body(&"x".repeat(151), &comment)).await.number(40_002);
    app.post("comment/reply/create", &body("x", "1")).await.number(40_002);
    tiktok.arrange(Call::Reply, Fault::RateLimited, Calls::Next(1));
    app.post("comment/reply/create", &body("x", &comment)).await.number(40_100);
    let sent = tiktok.sent(open_id);
    assert_eq!((sent.len(), sent[0].kind, &sent[0].to, sent[0].text.as_str()), (1, SentKind::Reply, &comment, "Tack"));
}

#[tokio::test]
async fn a_file_of_a_message_is_fetched_from_its_address() {
    let app = App::start().await;
    let (tiktok, open_id) = (&app.tiktok, &app.account.open_id);
    let message = tiktok.message(open_id, &app.person, NewMessage::image("m/1+")).unwrap();
    let body = json!({
        "business_id": open_id, "conversation_id": tiktok.conversation(open_id, &app.person).unwrap(),
        "message_id": message, "media_id": "m/1+", "media_type": "IMAGE",
    });
    app.post("message/media/download", &body).await.number(40_002);
    tiktok.set_media("m/1+", "image/png", b"picture").unwrap();
    let answer = app.post("message/media/download", &body).await;
    let url = answer.data()["download_url"].as_str().unwrap().to_owned();
    let path = url.strip_prefix(&format!("http://{}", app.address)).unwrap();
    let file = call(app.address, "GET", path, &[], "").await;
    assert_eq!((file.text.as_str(), file.headers["content-type"].as_str()), ("picture", "image/png"));
    assert_eq!(call(app.address, "GET", "/media/?id=x", &[], "").await.status, 404);
    let mut other = body.clone();
    other["message_id"] = json!("x");
    app.post("message/media/download", &other).await.number(40_002);
}
