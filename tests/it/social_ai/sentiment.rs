//! How messages sound: in batches, under limits, and by rules where no model says.

use integration_tests::people::{BRICK, NORD, OLGA, RENATA, RUFUS};
use sandbox::{Calls, Canned, Gate};
use serde_json::{Value, json};

use super::{account, given, nord, one, says, set, settled, tick, written};

/// So many messages of as many people, the last one the newest.
async fn many(app: &integration_tests::TestApp, account: uuid::Uuid, count: i64) {
    for number in 0..count {
        written(&app.db, account, &format!("dm:{number}"), "in", &format!("Hej {number}"), 1000 - number).await;
    }
}

const BY: &str = "select coalesce(jsonb_object_agg(model_used, n), '{}') from (select model_used, count(*) n from social_sentiment group by 1) x";

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_scored_newest_first_in_batches_by_the_agent_and_paid_for() {
    let (app, account) = nord(true, "off").await;
    many(&app, account, 45).await;
    written(&app.db, account, "dm:0", "out", "Vi svarar", 1).await;
    let found = tick(&app).await;
    assert_eq!((&found["sentiment_queued"], &found["drafts_queued"]), (&json!(1), &json!(0)), "{found}");
    assert_eq!(one(&app.db, BY).await, json!({ "claude-haiku-5-5": 45 }), "{}", app.logs());
    let given = given(&app, "messages");
    assert_eq!(given.iter().map(Vec::len).collect::<Vec<_>>(), [40, 5]);
    assert_eq!((&given[0][0]["text"], &given[0][39]["text"]), (&json!("Hej 44"), &json!("Hej 5")));
    assert_eq!((&given[0][0]["id"], &given[1][0]["text"]), (&json!("m1"), &json!("Hej 4")));
    assert_eq!(
        app.db.count("select count(*) from social_messages where scored_at is null and direction = 'in'").await,
        0
    );
    // One entry for each batch, with counts and cost, and no text.
    let entries = one(
        &app.db,
        &format!(
            "select jsonb_agg(jsonb_build_array(agent, metadata -> 'acting_agent_id', decision -> 'by_model', output -> 'written',
                    (output ->> 'cost_micro_usd')::bigint > 0) order by id)
               from audit_log where org_id = '{NORD}' and action = 'social_sentiment.scored'"
        ),
    )
    .await;
    assert_eq!(
        entries,
        json!([["social_assistant", RENATA.id, 40, 40, true], ["social_assistant", RENATA.id, 5, 5, true]])
    );
    assert_eq!(app.db.count("select count(*) from audit_log where audit_log::text like '%Hej %'").await, 0);
    // People read it with the message.
    let olga = app.token(&OLGA);
    let thread = app.db.text("select id::text from social_threads where thread_id = 'dm:44'").await;
    let shown = app.get(&format!("/v1/inbox/threads/{thread}"), &olga).await.expect(200);
    assert_eq!(
        shown["messages"][0]["sentiment"],
        json!({ "score": 0.5, "label": "positive", "model": "claude-haiku-5-5" }),
        "{shown}"
    );
    let usage = one(&app.db, "select jsonb_build_array(used_requests, used_cost_micro_usd = (select sum(cost_micro_usd) from provider_calls),
                                     used_cost_micro_usd = (select sum(cost_micro_usd) from billing_events))
                                from agent_usage where agent = 'social_assistant' and period = 'month'").await;
    assert_eq!(usage, json!([2, true, true]));
    settled(&app.db).await;
    // Nothing is left, and nothing is asked again.
    assert_eq!(tick(&app).await["sentiment_queued"], 0);
    assert_eq!(app.stack.sandbox.anthropic.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn swedish_and_english_reach_the_model_as_they_were_written() {
    let (app, account) = nord(true, "off").await;
    let texts = ["Åh vad fint det blev! Älskar köket ❤️", "It's \"great\" <3 & more\nthanks", "Räksmörgås – 100 %?"];
    for (minutes, text) in (1..).zip(texts) {
        written(&app.db, account, "dm:1", "in", text, minutes).await;
    }
    written(&app.db, account, "comment:77", "in", "Fin soffa", 4).await;
    tick(&app).await;
    let found: Vec<Value> = given(&app, "messages")[0].iter().map(|message| message["text"].clone()).collect();
    assert_eq!(found, [texts[0], texts[1], texts[2], "Fin soffa"].map(Value::from));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_messages_of_one_organisation() {
    let (app, of_nord) = nord(true, "off").await;
    set(&app.db, &RUFUS, true, "off").await;
    let of_brick = account(&app.db, BRICK).await;
    many(&app, of_nord, 3).await;
    written(&app.db, of_brick, "dm:b", "in", "Brick", 1).await;
    assert_eq!(tick(&app).await["sentiment_queued"], 2);
    let mut batches: Vec<Vec<Value>> = given(&app, "messages")
        .iter()
        .map(|batch| batch.iter().map(|message| message["text"].clone()).collect())
        .collect();
    batches.sort_by_key(Vec::len);
    assert_eq!(batches, [vec![json!("Brick")], vec![json!("Hej 2"), json!("Hej 1"), json!("Hej 0")]]);
    let crossed = "select count(*) from social_sentiment s join social_messages m on m.id = s.message_id and m.org_id <> s.org_id";
    assert_eq!(app.db.count(crossed).await, 0);
    assert_eq!(app.db.count("select count(*) from social_sentiment").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_answer_leaves_out_is_asked_once_more_and_then_scored_by_rules() {
    let (app, account) = nord(true, "off").await;
    for (minutes, text) in (1..).zip(["Underbart kök!", "Hemskt dåligt.", "Vad kostar det?", "Fint"]) {
        written(&app.db, account, "dm:1", "in", text, minutes).await;
    }
    let anthropic = &app.stack.sandbox.anthropic;
    anthropic
        .then(says(r#"{"scores": [{"id": "m1", "score": 0.9}, {"id": "m2", "score": 7}, {"id": "m9", "score": 1}]}"#));
    anthropic.then(says(
        r#"{"scores": [{"id": "m1", "score": -1}, {"id": "m4", "score": 0.4}, {"id": "m3", "score": "0"}]}"#,
    ));
    tick(&app).await;
    let scores = one(
        &app.db,
        "select jsonb_agg(jsonb_build_array(m.content, s.model_used, s.sentiment_score > 0.15, s.sentiment_score < -0.15) order by m.received_at desc)
           from social_messages m join social_sentiment s on s.message_id = m.id",
    )
    .await;
    assert_eq!(
        scores,
        json!([
            ["Underbart kök!", "claude-haiku-5-5", true, false],
            ["Hemskt dåligt.", "rules", false, true],
            ["Vad kostar det?", "rules", false, false],
            ["Fint", "claude-haiku-5-5", true, false],
        ]),
        "{}",
        app.logs()
    );
    assert_eq!(
        one(&app.db, "select sentiment_score from social_sentiment where sentiment_score > 0.8").await,
        json!(0.9)
    );
    assert_eq!(given(&app, "messages").iter().map(Vec::len).collect::<Vec<_>>(), [4, 3]);
    settled(&app.db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_model_does_wrong_rules_score_after_two_tries() {
    let (app, account) = nord(true, "off").await;
    for (number, fault) in
        ["malformed", "truncated", "refusal", "overloaded", "bad-key", "rate-limit", "garbage"].iter().enumerate()
    {
        written(&app.db, account, &format!("dm:{number}"), "in", "Underbart!", 5).await;
        app.stack.fault("anthropic", fault, Calls::Every).unwrap();
        tick(&app).await;
        let asked = app.db.count("select count(*) from provider_calls").await;
        assert_eq!(asked, 2 * (i64::try_from(number).unwrap() + 1), "{fault}: {}", app.logs());
        let rows = app
            .db
            .count("select count(*) from social_sentiment where model_used = 'rules' and sentiment_score > 0.5")
            .await;
        assert_eq!(rows, i64::try_from(number).unwrap() + 1, "{fault}");
        settled(&app.db).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_limit_is_reached_in_the_middle_rules_score_the_rest_and_nothing_is_spent_over_it() {
    let (app, account) = nord(true, "off").await;
    many(&app, account, 45).await;
    app.db
        .run(&format!(
            "delete from agent_limits; insert into agent_limits (org_id, agent, scope, period, max_requests) values ('{NORD}', 'social_assistant', 'agent', 'month', 1)"
        ))
        .await;
    tick(&app).await;
    assert_eq!(one(&app.db, BY).await, json!({ "claude-haiku-5-5": 40, "rules": 5 }), "{}", app.logs());
    assert_eq!(app.stack.sandbox.anthropic.count(), 1);
    let used = "select used_requests from agent_usage where agent = 'social_assistant' and period = 'month'";
    assert_eq!(one(&app.db, used).await, json!(1));
    let result = one(&app.db, "select result from jobs where job_type = 'social_sentiment'").await;
    assert_eq!((&result["by_rules"], &result["instead_because"]), (&json!(5), &json!("limit_reached")), "{result}");
    settled(&app.db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_deleted_while_the_model_thinks_is_not_scored_and_two_ticks_score_once() {
    let (app, account) = nord(true, "off").await;
    let gone = written(&app.db, account, "dm:1", "in", "Fel nummer", 2).await;
    written(&app.db, account, "dm:1", "in", "Hej", 1).await;
    let gate = Gate::default();
    app.stack.sandbox.anthropic.then(Canned::Held(gate.clone()));
    app.stack.understand_social().await.unwrap();
    app.stack.sandbox.anthropic.was_asked().await;
    app.db.run(&format!("update social_messages set deleted_at = now(), content = null where id = '{gone}'")).await;
    assert_eq!(app.stack.understand_social().await.unwrap()["sentiment_queued"], 0);
    gate.open();
    app.stack.social_ai.drained().await;
    assert_eq!(one(&app.db, BY).await, json!({ "claude-haiku-5-5": 1 }), "{}", app.logs());
    assert_eq!(app.db.count(&format!("select count(*) from social_sentiment where message_id = '{gone}'")).await, 0);
    assert_eq!(tick(&app).await["sentiment_queued"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_setting_a_right_or_the_switch_nothing_is_read_by_a_model() {
    let (app, account) = nord(false, "off").await;
    written(&app.db, account, "dm:1", "in", "Hej", 1).await;
    let pause = format!("update agents set status = 'paused' where id = '{}'", RENATA.id);
    let role = "update agents set status = 'active', role_id = '00000000-0000-7000-8000-000000000006'";
    let switch = "update agents set role_id = '00000000-0000-7000-8000-000000000007'; update system_settings set value = 'false' where key = 'social.enabled'";
    let on = "update social_ai_settings set sentiment = true, drafts = 'all'";
    for statement in ["select 1", on, &pause, role, switch, "delete from social_ai_settings"] {
        // What is chosen first serves once: then it is taken away.
        if statement == on {
            app.db.run(&format!("{on}; {pause}")).await;
        } else {
            app.db.run(statement).await;
        }
        let found = tick(&app).await;
        assert_eq!((&found["sentiment_queued"], &found["drafts_queued"]), (&json!(0), &json!(0)), "{statement}");
    }
    assert_eq!(app.stack.sandbox.anthropic.count(), 0);
    assert_eq!(app.db.count("select count(*) from social_sentiment").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_paused_while_its_job_waits_does_nothing() {
    let (app, account) = nord(true, "all").await;
    written(&app.db, account, "dm:1", "in", "Hej", 1).await;
    app.stack.social_ai.pause();
    app.stack.understand_social().await.unwrap();
    app.db.run("update agents set status = 'paused'").await;
    app.stack.social_ai.resume();
    app.stack.social_ai.drained().await;
    let outcomes = one(&app.db, "select jsonb_agg(result -> 'outcome' order by job_type) from jobs").await;
    assert_eq!(outcomes, json!(["agent_may_not", "sentiment_off"]), "{}", app.logs());
    assert_eq!(app.stack.sandbox.anthropic.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_scored_by_the_next_model_where_the_first_is_gone() {
    let (app, account) = nord(true, "off").await;
    many(&app, account, 2).await;
    app.stack.fault("anthropic", "retired:claude-haiku-5-5", Calls::Every).unwrap();
    tick(&app).await;
    assert_eq!(one(&app.db, BY).await, json!({ "claude-sonnet-5-5": 2 }), "{}", app.logs());
    let calls = "select jsonb_agg(jsonb_build_array(model, outcome) order by started_at) from provider_calls";
    assert_eq!(
        one(&app.db, calls).await,
        json!([["claude-haiku-5-5", "provider_model_unknown"], ["claude-sonnet-5-5", "ok"]])
    );
    settled(&app.db).await;
}
