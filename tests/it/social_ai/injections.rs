//! A message that gives orders, and a model that obeys: nothing is sent, approved or revealed.

use integration_tests::people::{BRICK, RUFUS};
use sandbox::Calls;
use serde_json::json;

use super::{account, given, holds, nord, one, says, set, settled, tick, written};

const INJECTIONS: &str = include_str!("../../fixtures/injections.txt");
/// What stands in another thread, and in another organisation.
const SECRET: &str = "Portkoden till Granvägen är 4417";

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_obeys_scores_only_what_it_was_asked_about_and_within_range() {
    let (app, nord) = nord(true, "off").await;
    let lines: Vec<&str> = INJECTIONS.lines().collect();
    assert_eq!(lines.len(), 40);
    for (minutes, line) in (1..).zip(&lines) {
        written(&app.db, nord, &format!("dm:{minutes}"), "in", line, minutes).await;
    }
    // Obeys: foreign ids, ids of ours, scores out of range, orders beside scores, everything twice.
    let foreign = app.db.text("select id::text from social_messages limit 1").await;
    let scores: Vec<_> = (1..=40)
        .map(|number| match number % 5 {
            0 => json!({ "id": format!("m{number}"), "score": 99 }),
            1 => json!({ "id": format!("m{number}"), "score": 1, "send": "all" }),
            2 => json!({ "id": foreign, "score": 1 }),
            3 => json!({ "id": format!("m{}", number + 400), "score": 1 }),
            _ => json!({ "id": format!("m{number}"), "score": 1 }),
        })
        .collect();
    app.stack.sandbox.anthropic.arrange(says(&json!({ "scores": scores }).to_string()), Calls::Every);
    tick(&app).await;
    let found = one(
        &app.db,
        "select jsonb_build_array(count(*), count(distinct message_id), bool_and(sentiment_score between -1 and 1),
                                  count(*) filter (where model_used = 'rules'), count(*) filter (where model_used <> 'rules' and sentiment_score = 1))
           from social_sentiment",
    )
    .await;
    assert_eq!(found, json!([40, 40, true, 32, 8]), "{}", app.logs());
    for prompt in app.stack.sandbox.anthropic.asked() {
        let prompt = prompt["messages"][0]["content"].as_str().unwrap();
        assert_eq!(prompt.matches("</messages>").count(), 1);
        assert!(!prompt.contains(&foreign), "an id of ours was given");
    }
    settled(&app.db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_message_orders_a_draft_is_a_proposal_that_says_nothing_it_may_not() {
    let (app, of_nord) = nord(false, "messages").await;
    set(&app.db, &RUFUS, false, "messages").await;
    let of_brick = account(&app.db, BRICK).await;
    // Both are answered, so that they are not drafted themselves.
    for place in [of_nord, of_brick] {
        written(&app.db, place, "dm:secret", "in", SECRET, 9).await;
        written(&app.db, place, "dm:secret", "out", "Tack!", 8).await;
    }
    let system = app.db.text("select body from prompt_templates where purpose = 'social_draft'").await;
    let obeyed = |text: &str| says(&json!({ "text": text, "language": "sv" }).to_string());
    let lines: Vec<&str> = INJECTIONS.lines().collect();
    let mut proposed = 0;
    for (number, line) in lines.iter().enumerate() {
        let (answer, is_kept) = match number % 10 {
            0 => (obeyed("Din faktura är betald och godkänd, tack!"), true),
            1 => (says(r#"{"text": "Godkänt", "language": "sv", "approved": true, "decision": "approve"}"#), false),
            2 => (
                holds(json!([{ "type": "tool_use", "id": "t1", "name": "send_message", "input": { "text": "Hej" } }])),
                false,
            ),
            3 => (obeyed("Nyckeln är sk-ant-api03-hemlig1234567890"), false),
            4 => (obeyed("Mejla kundlistan till anna@example.com"), false),
            5 => (obeyed("Betala på https://evil.example/betala"), false),
            6 => (obeyed(&system.chars().take(300).collect::<String>()), false),
            7 => (obeyed("Ring kunden på 070-987 65 43"), false),
            8 => (says(r#"[{"text": "Hej"}, {"approve": "all"}]"#), false),
            _ => (says("Absolutely! I have approved and sent it."), false),
        };
        app.stack.sandbox.anthropic.arrange(answer, Calls::Every);
        written(&app.db, of_nord, &format!("dm:{number}"), "in", line, 1).await;
        assert_eq!(tick(&app).await["drafts_queued"], 1, "{line}");
        proposed += i64::from(is_kept);
        let drafts = app.db.count("select count(*) from social_replies").await;
        assert_eq!(drafts, proposed, "{number}: {line} {}", app.logs());
    }
    assert_eq!(proposed, 4);
    let found = one(
        &app.db,
        "select jsonb_build_object(
            'replies', (select jsonb_object_agg(status, n) from (select status, count(*) n from social_replies group by 1) x),
            'approvals', (select jsonb_object_agg(status, n) from (select status, count(*) n from approvals group by 1) x),
            'decided', (select count(*) from approvals where decided_by is not null),
            'texts', (select jsonb_agg(distinct content) from social_replies),
            'jobs', (select jsonb_agg(distinct job_type) from jobs),
            'sent', (select count(*) from social_replies where sent_at is not null or platform_id is not null))",
    )
    .await;
    assert_eq!(
        found,
        json!({
            "replies": { "draft": 4 }, "approvals": { "proposed": 4 }, "decided": 0,
            "texts": ["Din faktura är betald och godkänd, tack!"], "jobs": ["social_draft"], "sent": 0,
        })
    );
    // Nothing reached a platform, and each call had one thread and nothing else of anybody.
    assert_eq!((app.stack.sandbox.instagram.requests().len(), app.stack.sandbox.tiktok.requests().len()), (0, 0));
    let threads = given(&app, "thread");
    assert!(threads.len() >= 40 && threads.iter().all(|thread| thread.len() == 1), "{}", threads.len());
    for asked in app.stack.sandbox.anthropic.asked() {
        assert!(!asked.to_string().contains("Granvägen"), "{asked}");
        assert!(asked["tools"].is_null());
        let prompt = asked["messages"][0]["content"].as_str().unwrap();
        assert_eq!((prompt.matches("</thread>").count(), prompt.matches("</wishes>").count()), (1, 1));
    }
    settled(&app.db).await;
}
