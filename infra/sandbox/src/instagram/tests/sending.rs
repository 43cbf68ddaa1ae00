use super::*;
use crate::{
    Calls, Fault, SentKind,
    ask::send,
    instagram::{Call, MediaKind, Refused},
};

const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

impl App {
    async fn post(&self, path: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {}", self.account.token);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        call(self.address, "POST", &format!("/v27.0/{path}"), &headers, &body.to_string()).await
    }

    async fn write(&self, recipient: &Value, text: &str) -> Answer {
        self.post("me/messages", &json!({ "recipient": recipient, "message": { "text": text } })).await
    }

    async fn write_to(&self, person: &str, text: &str) -> Answer {
        self.write(&json!({ "id": person }), text).await
    }

    /// What was sent, without ids.
    fn sent(&self) -> Vec<(SentKind, String, String)> {
        self.instagram.sent(&self.account.id).into_iter().map(|sent| (sent.kind, sent.to, sent.text)).collect()
    }
}

#[tokio::test]
async fn a_message_is_sent_within_24_hours_of_the_persons_last_and_comes_back_as_an_echo() {
    let app = App::start().await;
    let (ig, account) = (&app.instagram, &app.account.id);
    app.write_to("1", "hej").await.graph_error(100, Some(2_534_014));
    app.write_to(&app.person, "hej").await.graph_error(100, Some(2_534_014));
    ig.message(account, &app.person, "Hej?").unwrap();
    ig.advance(DAY - 1);
    let answer = app.write_to(&app.person, "Hej å").await;
    let mid = answer.good()["message_id"].as_str().unwrap().to_owned();
    assert_eq!(answer.body["recipient_id"], json!(app.person));
    let echo = &ig.entries()[1];
    assert_eq!(content(echo), json!({ "message": { "mid": mid, "text": "Hej å", "is_echo": true } }));
    assert_eq!(echo["messaging"][0]["sender"]["id"], json!(account));
    assert_eq!(app.get(&format!("{mid}?fields=message")).await.good()["message"], "Hej å");
    // The account's own message opens nothing.
    app.write_to(&app.person, "Och?").await.graph_error(10, Some(2_534_022));
    ig.message(account, &app.person, "Ja").unwrap();
    assert_eq!(
        app.post(
            &format!("{account}/messages"),
            &json!({
                "recipient": { "id": app.person }, "message": { "text": "ja" },
            })
        )
        .await
        .status,
        200
    );
    let to = |text: &str| (SentKind::Message, app.person.clone(), text.to_owned());
    assert_eq!(app.sent(), [to("Hej å"), to("ja")]);
    assert_eq!(ig.sent(account)[0].id, mid);
}

#[tokio::test]
async fn what_is_no_message_is_refused_and_not_sent() {
    let app = App::start().await;
    app.instagram.message(&app.account.id, &app.person, "Hej").unwrap();
    let to = json!({ "id": app.person });
    for body in [
        json!({ "recipient": to }),
        json!({ "message": { "text": "x" } }),
        json!({ "recipient": to, "message": { "text": "" } }),
        json!({ "recipient": to, "message": { "text": "x", "attachment": {} } }),
        json!({ "recipient": to, "message": { "text": "x" }, "tag": "HUMAN_AGENT" }),
        json!({ "recipient": { "id": app.person, "comment_id": "1" }, "message": { "text": "x" } }),
        json!({ "recipient": {}, "message": { "text": "x" } }),
        json!([]),
    ] {
        app.post("me/messages", &body).await.graph_error(100, None);
    }
    app.write_to(&app.person, &"å".repeat(501)).await.graph_error(100, None);
    let form = format!("/v27.0/me/messages?access_token={}", app.account.token);
    call(app.address, "POST", &form, &[], "message=x").await.graph_error(100, None);
    app.post("1/messages", &json!({})).await.graph_error(100, Some(33));
    assert!(app.sent().is_empty());
    assert_eq!(app.write_to(&app.person, &"å".repeat(500)).await.status, 200);

    for (why, code, subcode) in [
        (Refused::Restricted, 10, Some(1_893_063)),
        (Refused::Unavailable, 551, None),
        (Refused::Policy, 368, None),
        (Refused::AccessDisabled, 200, Some(2_534_041)),
        (Refused::Blocked, 100, Some(2_534_029)),
    ] {
        app.instagram.refuse_sending(&app.account.id, Some(why)).unwrap();
        app.write_to(&app.person, "x").await.graph_error(code, subcode);
    }
    app.instagram.refuse_sending(&app.account.id, None).unwrap();
    app.instagram.set_scopes(&app.account.id, &["instagram_business_basic"]);
    app.write_to(&app.person, "x").await.graph_error(10, None);
    assert_eq!(app.sent().len(), 1);
}

#[tokio::test]
async fn a_comment_is_replied_to_in_private_once_within_seven_days() {
    let app = App::start().await;
    let (ig, account) = (&app.instagram, &app.account.id);
    let media = ig.publish(account, MediaKind::Image, None).unwrap();
    let comments: Vec<_> = ["a", "b"].map(|text| ig.comment(&media, &app.person, text, None).unwrap()).into();
    let own = ig.own_comment(account, &media, "c", None).unwrap();
    let to = |comment: &str| json!({ "comment_id": comment });
    ig.advance(7 * DAY - 1);
    let answer = app.write(&to(&comments[0]), "Hej").await;
    assert_eq!(answer.good()["recipient_id"], json!(app.person));
    assert!(ig.conversation(account, &app.person).is_some());
    app.write(&to(&comments[0]), "Hej").await.graph_error(10_900, None);
    app.write_to(&app.person, "Hej").await.graph_error(10, Some(2_534_022));
    app.write(&to(&own), "Hej").await.graph_error(100, Some(2_534_014));
    ig.advance(1);
    app.write(&to(&comments[1]), "Hej").await.graph_error(10, Some(2_534_022));
    app.write(&to("1"), "Hej").await.graph_error(100, Some(33));
    assert_eq!(app.sent(), [(SentKind::PrivateReply, comments[0].clone(), "Hej".to_owned())]);
}

#[tokio::test]
async fn comments_are_answered_and_hidden() {
    let app = App::start().await;
    let (ig, account) = (&app.instagram, &app.account.id);
    let media = ig.publish(account, MediaKind::Image, None).unwrap();
    let comment = ig.comment(&media, &app.person, "Fint", None).unwrap();
    let answer = app.post(&format!("{comment}/replies"), &json!({ "message": "Tack" })).await;
    let reply = answer.good()["id"].as_str().unwrap().to_owned();
    let form = app.ask_at_once("POST", &format!("{comment}/replies?message=Igen")).await;
    assert!(form.good()["id"].is_string());
    let event = &ig.entries()[1]["value"];
    assert_eq!(
        (&event["id"], &event["from"]["id"], &event["parent_id"]),
        (&json!(reply), &json!(account), &json!(comment))
    );
    app.post(&format!("{comment}/replies"), &json!({ "message": "" })).await.graph_error(100, None);
    app.post(&format!("{comment}/replies"), &json!({ "message": "x".repeat(301) })).await.graph_error(100, None);
    app.post("1/replies", &json!({ "message": "x" })).await.graph_error(100, Some(33));

    let hide = async |id: &str, value: &str| app.ask_at_once("POST", &format!("{id}?hide={value}")).await;
    assert_eq!(hide(&comment, "true").await.good(), &json!({ "success": true }));
    assert!(ig.is_hidden(&comment).unwrap());
    hide(&comment, "false").await.good();
    assert!(!ig.is_hidden(&comment).unwrap());
    hide(&reply, "true").await.good();
    assert!(!ig.is_hidden(&reply).unwrap(), "its own comments are shown all the same");
    hide(&comment, "1").await.graph_error(100, None);
    hide(&media, "true").await.graph_error(100, Some(33));
    assert_eq!(app.sent().iter().map(|(kind, ..)| *kind).collect::<Vec<_>>(), [SentKind::Reply, SentKind::Reply]);
    ig.set_scopes(account, &["instagram_business_basic"]);
    app.post(&format!("{comment}/replies"), &json!({ "message": "x" })).await.graph_error(10, None);
    hide(&comment, "true").await.graph_error(10, None);
}

#[tokio::test]
async fn a_message_whose_connection_is_closed_was_sent_or_was_not_or_is_sent_later() {
    let app = App::start().await;
    let (ig, account) = (&app.instagram, &app.account.id);
    ig.message(account, &app.person, "Hej").unwrap();
    let body = json!({ "recipient": { "id": app.person }, "message": { "text": "x" } }).to_string();
    let bearer = format!("Bearer {}", app.account.token);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let write = async |fault: Fault| {
        ig.arrange(Call::Send, fault, Calls::Next(1));
        assert_eq!(send(app.address, "POST", "/v27.0/me/messages", &headers, &body).await, "");
        ig.sent(account).len()
    };
    assert_eq!(write(Fault::Dropped).await, 0);
    assert_eq!(write(Fault::Lost).await, 1);
    assert_eq!(write(Fault::Late(30)).await, 1);
    ig.advance(29);
    assert_eq!((ig.sent(account).len(), ig.entries().len()), (1, 2));
    ig.advance(1);
    assert_eq!((ig.sent(account).len(), ig.entries().len()), (2, 3));
    assert_eq!(ig.faults_met(Call::Send), 3);
    assert_eq!(app.get("me/conversations?platform=instagram").await.rows().len(), 1);
    assert_eq!(ig.sent(account).len(), 2, "it is carried out once");
}
