//! What reaches the platform: once, also when it does not answer, and the state says what is known.

use std::time::Duration;

use integration_tests::{
    TestApp, full,
    people::{ADAM, OLGA},
    sample,
};
use sandbox::{Calls, Fault, SentKind, instagram, tiktok};
use serde_json::{Value, json};

use super::{Shop, Way};

impl Shop<'_> {
    /// Makes the next reply of this way go wrong.
    fn arrange(&self, way: Way, fault: Fault) {
        let (instagram, tiktok) = (&self.app.stack.sandbox.instagram, &self.app.stack.sandbox.tiktok);
        match way {
            Way::InstagramMessage | Way::InstagramPrivate => {
                instagram.arrange(instagram::Call::Send, fault, Calls::Next(1));
            }
            Way::InstagramComment => instagram.arrange(instagram::Call::Reply, fault, Calls::Next(1)),
            Way::TikTokMessage => tiktok.arrange(tiktok::Call::Send, fault, Calls::Next(1)),
            Way::TikTokComment => tiktok.arrange(tiktok::Call::Reply, fault, Calls::Next(1)),
        }
    }
}

/// Every statement that sending has.
pub(super) async fn every_statement(shop: &Shop<'_>) {
    let app = shop.app;
    for way in Way::ALL {
        let thread = shop.written(way).await;
        shop.arrange(way, Fault::Lost);
        let id = shop.answered(thread, way, "Hej").await;
        shop.sent_ago("5 seconds").await;
        shop.again().await;
        shop.shown(id).await;
        let token = app.token(&ADAM);
        app.get(&format!("/v1/social/replies?thread={thread}"), &token).await.expect(200);
    }
    let thread = shop.written(Way::InstagramMessage).await;
    let (_, approval) = shop.drafted(thread, "message", "Ja.").await;
    shop.approve(&ADAM, approval).await.expect(200);
    let queue = app.stack.queue("social-replies").unwrap();
    queue.pause();
    let waiting = shop.answer(&OLGA, thread, "message", "Nej.").await.expect(202);
    let path = format!("/v1/social/replies/{}/cancel", waiting["reply"]["id"].as_str().unwrap());
    app.post(&path, &app.token(&OLGA), &json!({})).await.expect(200);
    queue.resume();
    // Two search the platform at once, and one is found that another has made.
    shop.arrange(Way::InstagramMessage, Fault::Dropped);
    shop.answered(thread, Way::InstagramMessage, "Hej").await;
    shop.sent_ago("121 seconds").await;
    shop.again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_reply_is_sent_as_it_was_written_and_shown_in_its_thread_at_once() {
    let app = TestApp::start().await;
    let shop = Shop::open(&app).await;
    for way in Way::ALL {
        let thread = shop.written(way).await;
        let text = format!("Hej! Ja, vi har öppet & väntar på er 100 % ({way:?})");
        let id = shop.answered(thread, way, &text).await;
        let reply = shop.shown(id).await;
        assert_eq!(
            (&reply["status"], &reply["created_by"], &reply["approval_id"]),
            (&json!("sent"), &json!(OLGA.id), &Value::Null),
            "{way:?} {reply} {}",
            app.logs()
        );
        let arrived = shop.arrived(way);
        let last = arrived.last().unwrap();
        assert_eq!((last.text.as_str(), json!(last.id)), (text.as_str(), reply["platform_id"].clone()), "{way:?}");
        let kind = match way.kind() {
            "message" => SentKind::Message,
            "private" => SentKind::PrivateReply,
            _ => SentKind::Reply,
        };
        assert_eq!(last.kind, kind);
        let shown = || async {
            shop.app
                .db
                .text(&format!(
                    "select string_agg(direction || ' ' || content, '|' order by received_at)
                       from social_messages where content = '{text}'"
                ))
                .await
        };
        // A private reply is in a conversation that the platform names.
        if way != Way::InstagramPrivate {
            assert_eq!(shown().await, format!("out {text}"), "{way:?}");
        }
        shop.delivered().await;
        assert_eq!(shown().await, format!("out {text}"), "{way:?}: what is delivered of it is the same");
        shop.again().await;
    }
    assert_eq!((shop.arrived(Way::InstagramMessage).len(), shop.arrived(Way::TikTokMessage).len()), (3, 2));
}

/// How many ways and silences are tried, unless all.
const SILENCES: usize = 7;

/// What a platform may do with a reply.
#[derive(Debug, Clone, Copy)]
enum Silence {
    Lost,
    Dropped,
    Late,
    Away,
    Failed,
    Limited,
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_platform_answers_or_does_not_a_reply_arrives_once_at_most_and_its_state_is_true() {
    let app = TestApp::start().await;
    let shop = Shop::open(&app).await;
    let silences = [Silence::Lost, Silence::Dropped, Silence::Late, Silence::Away, Silence::Failed, Silence::Limited];
    let all: Vec<_> = Way::ALL.into_iter().flat_map(|way| silences.map(|silence| (way, silence))).collect();
    for (way, silence) in if full() { all } else { sample(all, SILENCES) } {
        let thread = shop.written(way).await;
        let before = shop.arrived(way).len();
        shop.arrange(
            way,
            match silence {
                Silence::Lost => Fault::Lost,
                Silence::Dropped => Fault::Dropped,
                Silence::Late => Fault::Late(60),
                Silence::Away => Fault::Down(503),
                Silence::Failed => Fault::Transient(2),
                Silence::Limited => Fault::RateLimited,
            },
        );
        let text = format!("{way:?} {silence:?}");
        let id = shop.answered(thread, way, &text).await;
        let first = shop.shown(id).await["status"].clone();
        let unsent = matches!(silence, Silence::Limited);
        assert_eq!(first, if unsent { "queued" } else { "unknown" }, "{text} {}", app.logs());
        app.db.run("delete from social_pace").await;
        // A job that was doubled, and one that comes too early.
        shop.app
            .db
            .run(&format!(
                "insert into jobs (org_id, job_type, payload, max_attempts, unique_key)
                 select org_id, job_type, payload, 20, 'doubled ' || unique_key from jobs where unique_key = '{id}'"
            ))
            .await;
        shop.again().await;
        app.stack.sandbox.instagram.advance(61);
        app.stack.sandbox.tiktok.advance(61);
        shop.sent_ago("5 seconds").await;
        shop.again().await;
        shop.sent_ago("121 seconds").await;
        for _ in 0..2 {
            shop.again().await;
        }
        let reply = shop.shown(id).await;
        let arrived: Vec<_> = shop.arrived(way).split_off(before);
        assert!(arrived.len() <= 1, "{text}: {arrived:?}");
        // TikTok's conversations cannot be read, and its list of replies is no whole one: what is not found there is not known, and not sent again.
        let is_known = match way {
            Way::TikTokMessage => unsent,
            Way::TikTokComment => unsent || arrived.len() == 1,
            _ => true,
        };
        let wanted = if is_known { ("sent", 1) } else { ("unknown", arrived.len()) };
        assert_eq!((reply["status"].as_str().unwrap(), arrived.len()), wanted, "{text} {reply} {}", app.logs());
        if is_known {
            assert_eq!(reply["platform_id"], json!(arrived[0].id), "{text}");
        }
        // What is delivered of it says so; what never is, is given up after a day, and stays unknown.
        shop.delivered().await;
        shop.sent_ago(if is_known || arrived.len() == 1 { "10 minutes" } else { "24 hours" }).await;
        shop.again().await;
        let reply = shop.shown(id).await;
        let wanted =
            if is_known || arrived.len() == 1 { ("sent", Value::Null) } else { ("unknown", json!("not_known")) };
        assert_eq!((reply["status"].as_str().unwrap(), reply["code"].clone()), wanted, "{text} {}", app.logs());
        assert!(!reply["ended_at"].is_null(), "{text} {reply}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_with_the_same_words_as_one_before_it_is_not_taken_for_that_one() {
    let app = TestApp::start().await;
    let shop = Shop::open(&app).await;
    let thread = shop.written(Way::InstagramMessage).await;
    let first = shop.answered(thread, Way::InstagramMessage, "Ja").await;
    shop.arrange(Way::InstagramMessage, Fault::Dropped);
    let second = shop.answered(thread, Way::InstagramMessage, "Ja").await;
    // One is in flight in a thread: a third waits.
    let third = shop.answered(thread, Way::InstagramMessage, "Ja").await;
    let status = async |id| shop.shown(id).await["status"].clone();
    assert_eq!((status(second).await, status(third).await), (json!("unknown"), json!("queued")), "{}", app.logs());
    shop.sent_ago("5 seconds").await;
    shop.again().await;
    assert_eq!(status(second).await, "unknown", "it was taken for the first");
    shop.sent_ago("121 seconds").await;
    for _ in 0..3 {
        shop.again().await;
    }
    let ids = [shop.shown(first).await, shop.shown(second).await, shop.shown(third).await];
    let made: Vec<&str> = ids.iter().map(|reply| reply["platform_id"].as_str().unwrap_or("none")).collect();
    let arrived: Vec<String> = shop.arrived(Way::InstagramMessage).into_iter().map(|sent| sent.id).collect();
    assert_eq!(made, arrived, "{}", app.logs());
    assert_eq!(arrived.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_platform_refuses_has_its_name_and_is_not_tried_again() {
    let app = TestApp::start().await;
    let shop = Shop::open(&app).await;
    let instagram = &app.stack.sandbox.instagram;
    let thread = shop.written(Way::InstagramMessage).await;
    for (why, code) in [
        (instagram::Refused::Restricted, "sending_restricted"),
        (instagram::Refused::Unavailable, "recipient_unavailable"),
        (instagram::Refused::Policy, "blocked_by_policy"),
        (instagram::Refused::AccessDisabled, "messages_disabled"),
        (instagram::Refused::Blocked, "blocked_by_recipient"),
    ] {
        instagram.refuse_sending(&shop.instagram.id, Some(why)).unwrap();
        let id = shop.answered(thread, Way::InstagramMessage, "Hej").await;
        shop.again().await;
        let reply = shop.shown(id).await;
        assert_eq!((&reply["status"], &reply["code"]), (&json!("failed"), &json!(code)), "{}", app.logs());
    }
    instagram.refuse_sending(&shop.instagram.id, None).unwrap();
    // The window is over at the platform, though not by what is known here.
    instagram.advance(24 * 3600);
    let id = shop.answered(thread, Way::InstagramMessage, "Hej").await;
    let reply = shop.shown(id).await;
    assert_eq!((&reply["status"], &reply["code"]), (&json!("failed"), &json!("window_closed")), "{}", app.logs());
    // TikTok's refusals come with status 200.
    let tiktok = &app.stack.sandbox.tiktok;
    let thread = shop.written(Way::TikTokMessage).await;
    let conversation = tiktok.conversation(&shop.tiktok.open_id, &shop.timo).unwrap();
    tiktok.close_conversation(&conversation, true).unwrap();
    let id = shop.answered(thread, Way::TikTokMessage, "Hej").await;
    let reply = shop.shown(id).await;
    assert_eq!((&reply["status"], &reply["code"]), (&json!("failed"), &json!("platform_refused")), "{}", app.logs());
    assert_eq!((shop.arrived(Way::InstagramMessage).len(), shop.arrived(Way::TikTokMessage).len()), (0, 0));
    let failed = "select count(*) from audit_log where action = 'social_reply.failed'";
    assert_eq!(app.db.count(failed).await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_is_hidden_and_shown_again_and_doing_it_twice_after_silence_does_no_harm() {
    let app = TestApp::start().await;
    let shop = Shop::open(&app).await;
    let instagram = &app.stack.sandbox.instagram;
    let thread = shop.written(Way::InstagramComment).await;
    let comment = app.db.text("select platform_id from social_messages where message_type = 'comment'").await;
    let token = app.token(&OLGA);
    for (kind, hidden) in [("hide", true), ("show", false)] {
        instagram.arrange(instagram::Call::Hide, Fault::Lost, Calls::Next(1));
        let body = json!({ "thread_id": thread, "kind": kind });
        let answer = app.post("/v1/social/replies", &token, &body).await.expect(202);
        shop.worked().await;
        let id = answer["reply"]["id"].as_str().unwrap().parse().unwrap();
        shop.sent_ago("121 seconds").await;
        shop.again().await;
        assert_eq!(shop.shown(id).await["status"], "sent", "{}", app.logs());
        assert_eq!(instagram.is_hidden(&comment).unwrap(), hidden);
        let here = "select hidden::text from social_messages where message_type = 'comment'";
        assert_eq!(app.db.text(here).await, hidden.to_string());
    }
    // TikTok names no call for it.
    let thread = shop.written(Way::TikTokComment).await;
    let body = json!({ "thread_id": thread, "kind": "hide" });
    app.post("/v1/social/replies", &token, &body).await.expect_error(409, "not_offered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_is_sent_when_a_person_approves_it_and_the_log_says_who_wrote_it_and_who_approved() {
    let app = TestApp::start().await;
    let shop = Shop::open(&app).await;
    let thread = shop.written(Way::InstagramMessage).await;
    let (reply, approval) = shop.drafted(thread, "message", "Ja, till klockan sex.").await;
    shop.again().await;
    assert_eq!(
        (shop.shown(reply).await["status"].clone(), shop.arrived(Way::InstagramMessage).len()),
        (json!("draft"), 0)
    );
    let shown = app.get(&format!("/v1/approvals/{approval}"), &app.token(&ADAM)).await.expect(200);
    assert_eq!(
        (&shown["kind"], &shown["status"], &shown["payload"]["content"]),
        (&json!("message"), &json!("proposed"), &json!("Ja, till klockan sex.")),
        "{shown}"
    );
    shop.approve(&ADAM, approval).await.expect(200);
    shop.again().await;
    let reply = shop.shown(reply).await;
    assert_eq!(
        (&reply["status"], &reply["approved_by"], &reply["created_by"]),
        (&json!("sent"), &json!(ADAM.id), &Value::Null),
        "{}",
        app.logs()
    );
    let status = "select status || ' ' || execution from approvals";
    assert_eq!(app.db.text(status).await, format!("executed {}", reply["platform_id"].as_str().unwrap()));
    let entry = shop
        .app
        .db
        .text(
            "select jsonb_build_object('decision', decision, 'metadata', metadata, 'text', audit_log::text like '%klockan%')::text
               from audit_log where action = 'social_reply.sent'",
        )
        .await;
    let entry: Value = serde_json::from_str(&entry).unwrap();
    assert_eq!(
        (&entry["decision"]["approved_by"], &entry["decision"]["approval_id"], &entry["text"]),
        (&json!(ADAM.id), &json!(approval), &json!(false))
    );
    assert_eq!(entry["metadata"]["written_by_agent"], json!(integration_tests::people::RENATA.id), "{entry}");
    assert_eq!(shop.arrived(Way::InstagramMessage).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_whose_approval_is_revoked_or_whose_window_or_rules_are_over_is_not_sent() {
    type Change = fn(&str) -> String;
    let cases: [(Change, &str, &str); 6] = [
        (|_| String::new(), "revoked", "refused"),
        (
            |_| "update social_threads set last_incoming_at = now() - interval '24 hours'".to_owned(),
            "failed",
            "window_closed",
        ),
        (|_| "update social_accounts set status = 'disconnected'".to_owned(), "failed", "account_disconnected"),
        (|_| "update social_accounts set status = 'needs_reconsent'".to_owned(), "failed", "social_reconsent"),
        (
            |reply| format!("update social_replies set content = 'Ja, gratis.' where id = '{reply}'"),
            "failed",
            "payload_changed",
        ),
        (
            |_| {
                format!(
                    "update org_members set role_id = '00000000-0000-7000-8000-000000000004' where user_id = '{}'",
                    ADAM.id
                )
            },
            "failed",
            "right_revoked",
        ),
    ];
    for (change, outcome, code) in cases {
        let app = TestApp::start().await;
        let shop = Shop::open(&app).await;
        let thread = shop.written(Way::InstagramMessage).await;
        let queue = app.stack.queue("social-replies").unwrap();
        queue.pause();
        let (reply, approval) = shop.drafted(thread, "message", "Ja.").await;
        shop.approve(&ADAM, approval).await.expect(200);
        let change = change(&reply.to_string());
        if change.is_empty() {
            let path = format!("/v1/approvals/{approval}/refuse");
            app.post(&path, &app.token(&ADAM), &json!({})).await.expect(200);
        } else {
            app.db.run(&format!("set session_replication_role = replica; {change}")).await;
        }
        queue.resume();
        shop.again().await;
        let status =
            app.db.text(&format!("select status || ' ' || code from social_replies where id = '{reply}'")).await;
        let wanted = if outcome == "revoked" { format!("cancelled {code}") } else { format!("{outcome} {code}") };
        assert_eq!((status, shop.arrived(Way::InstagramMessage).len()), (wanted, 0), "{}", app.logs());
        let approval = app.db.text(&format!("select status from approvals where id = '{approval}'")).await;
        assert_eq!(approval, if outcome == "revoked" { "refused" } else { "failed" }, "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_at_once_send_a_reply_once() {
    let app = TestApp::start().await;
    let shop = Shop::open(&app).await;
    let thread = shop.written(Way::InstagramMessage).await;
    shop.arrange(Way::InstagramMessage, Fault::Slow(Duration::from_millis(300)));
    let queue = app.stack.queue("social-replies").unwrap();
    queue.pause();
    let answer = shop.answer(&OLGA, thread, "message", "En gång").await.expect(202);
    let id = answer["reply"]["id"].as_str().unwrap();
    shop.app
        .db
        .run(&format!(
            "insert into jobs (org_id, job_type, payload, max_attempts, unique_key)
             select org_id, job_type, payload, 20, n || ' ' || unique_key from jobs, generate_series(1, 5) n where unique_key = '{id}'"
        ))
        .await;
    app.stack.sweep().await.unwrap();
    queue.resume();
    shop.worked().await;
    shop.again().await;
    assert_eq!(shop.shown(id.parse().unwrap()).await["status"], "sent", "{}", app.logs());
    assert_eq!(shop.arrived(Way::InstagramMessage).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_whose_job_is_cancelled_ends_and_keeps_no_other_of_its_thread_waiting() {
    let app = TestApp::start().await;
    let shop = Shop::open(&app).await;
    let thread = shop.written(Way::TikTokMessage).await;
    shop.arrange(Way::TikTokMessage, Fault::Dropped);
    let lost = shop.answered(thread, Way::TikTokMessage, "Hej").await;
    let queue = app.stack.queue("social-replies").unwrap();
    queue.pause();
    let (draft, approval) = shop.drafted(thread, "message", "Ja.").await;
    shop.approve(&ADAM, approval).await.expect(200);
    for (reply, status, code) in [(lost, "unknown", "job_cancelled"), (draft, "cancelled", "job_cancelled")] {
        let job = app.db.text(&format!("select id::text from jobs where unique_key = '{reply}'")).await;
        let approver = app.token(if reply == lost { &OLGA } else { &ADAM });
        app.post(&format!("/v1/jobs/{job}/cancel"), &approver, &json!({})).await.expect(200);
        let reply = shop.shown(reply).await;
        assert_eq!((&reply["status"], &reply["code"]), (&json!(status), &json!(code)), "{}", app.logs());
        assert!(!reply["ended_at"].is_null());
    }
    assert_eq!(app.db.text("select status || ' ' || execution from approvals").await, "failed job_cancelled");
    queue.resume();
    let next = shop.answered(thread, Way::TikTokMessage, "Hej igen").await;
    assert_eq!(shop.shown(next).await["status"], "sent", "{}", app.logs());
    assert_eq!(shop.arrived(Way::TikTokMessage).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_after_silence_is_compared_as_platforms_keep_it() {
    let app = TestApp::start().await;
    let shop = Shop::open(&app).await;
    let thread = shop.written(Way::InstagramMessage).await;
    let id = shop.answered(thread, Way::InstagramMessage, " \r\nHej\r\ndå! \n").await;
    let reply = shop.shown(id).await;
    assert_eq!((&reply["status"], &reply["text"]), (&json!("sent"), &json!("Hej\ndå!")), "{}", app.logs());
    assert_eq!(shop.arrived(Way::InstagramMessage)[0].text, "Hej\ndå!");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_went_on_beyond_what_can_be_read_says_nothing_of_a_reply() {
    let app = TestApp::start().await;
    let shop = Shop::open(&app).await;
    let thread = shop.written(Way::InstagramMessage).await;
    shop.arrange(Way::InstagramMessage, Fault::Lost);
    let id = shop.answered(thread, Way::InstagramMessage, "Hej").await;
    let instagram = &app.stack.sandbox.instagram;
    for n in 0..20 {
        instagram.message(&shop.instagram.id, &shop.lena, format!("och {n}").as_str()).unwrap();
    }
    // Nothing of it is delivered.
    instagram.take(&sandbox::Delivery::default());
    shop.sent_ago("121 seconds").await;
    shop.again().await;
    assert_eq!(shop.shown(id).await["status"], "unknown", "{}", app.logs());
    assert_eq!(shop.arrived(Way::InstagramMessage).len(), 1);
}
