//! Drafts: one for each message that waits for an answer, each for a person to approve.

use integration_tests::{
    TestApp,
    acting::Actor,
    people::{NORD, OLGA, RENATA},
};
use sandbox::{Calls, Canned, Gate};
use serde_json::{Value, json};

use super::{given, nord, one, says, settled, tick, written};

const DRAFTS: &str =
    "select coalesce(jsonb_agg(jsonb_build_array(r.kind, r.status, a.status, r.content) order by r.id), '[]')
                        from social_replies r left join approvals a on a.subject_id = r.id";

async fn outcomes(app: &TestApp) -> Value {
    one(
        &app.db,
        "select jsonb_agg(result -> 'outcome' order by created_at, id) from jobs where job_type = 'social_draft'",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_is_drafted_once_for_a_person_to_approve() {
    let (app, account) = nord(false, "messages").await;
    written(&app.db, account, "dm:1", "out", "Välkommen!", 60).await;
    let asked = written(&app.db, account, "dm:1", "in", "Kan ni komma på torsdag?", 5).await;
    written(&app.db, account, "comment:5", "in", "Fin soffa", 5).await;
    app.stack.sandbox.anthropic.then(says(r#"{"text": "Ja, torsdag går bra!", "language": "sv"}"#));
    assert_eq!(tick(&app).await["drafts_queued"], 1);
    assert_eq!(
        one(&app.db, DRAFTS).await,
        json!([["message", "draft", "proposed", "Ja, torsdag går bra!"]]),
        "{}",
        app.logs()
    );
    let by = "select jsonb_build_array(created_by_agent, created_by, model) from social_replies";
    assert_eq!(one(&app.db, by).await, json!([RENATA.id, null, "claude-haiku-5-5"]));
    let prompt = app.stack.sandbox.anthropic.asked()[0]["messages"][0]["content"].as_str().unwrap().to_owned();
    assert!(prompt.contains("Svara vänligt, på svenska."), "{prompt}");
    assert_eq!(
        given(&app, "thread"),
        [vec![
            json!({ "from": "company", "text": "Välkommen!" }),
            json!({ "from": "person", "text": "Kan ni komma på torsdag?" })
        ]]
    );
    let entry = one(
        &app.db,
        "select jsonb_build_array(agent, metadata -> 'acting_agent_id', input -> 'message_id', (output ->> 'cost_micro_usd')::bigint > 0)
           from audit_log where action = 'social_reply.drafted'",
    );
    assert_eq!(entry.await, json!(["social_assistant", RENATA.id, asked, true]));
    assert_eq!(app.db.count("select count(*) from audit_log where audit_log::text like '%torsdag%'").await, 0);
    settled(&app.db).await;

    // Refused, it is not drafted again for that message; for the next one it is.
    let refused = app.db.ask(&Actor::person(&OLGA), "select refuse(id, 'Nej') from approvals").await;
    assert!(refused.is_ok(), "{refused:?}");
    assert_eq!(tick(&app).await["drafts_queued"], 0);
    written(&app.db, account, "dm:1", "in", "Hallå?", 0).await;
    assert_eq!(tick(&app).await["drafts_queued"], 1, "{}", app.logs());
    assert_eq!(app.db.count("select count(*) from social_replies where status = 'draft'").await, 1);
    assert_eq!(app.stack.sandbox.instagram.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_are_drafted_only_where_that_is_chosen_and_old_or_closed_threads_never() {
    let (app, account) = nord(false, "all").await;
    written(&app.db, account, "comment:5", "in", "Fin soffa, finns den i grönt?", 5).await;
    // The window of the platform is nearly over.
    written(&app.db, account, "dm:old", "in", "Hej", 23 * 60 + 5).await;
    written(&app.db, account, "dm:closed", "in", "Hej", 5).await;
    app.db.run("update social_threads set status = 'closed' where thread_id = 'dm:closed'").await;
    written(&app.db, account, "dm:answered", "in", "Hej", 5).await;
    written(&app.db, account, "dm:answered", "out", "Hej!", 4).await;
    assert_eq!(tick(&app).await["drafts_queued"], 1);
    let drafts = one(&app.db, DRAFTS).await;
    assert_eq!(
        (&drafts[0][0], &drafts[0][1], drafts.as_array().unwrap().len()),
        (&json!("comment"), &json!("draft"), 1),
        "{}",
        app.logs()
    );
    // Of an account that is connected no more nothing is drafted.
    written(&app.db, account, "dm:new", "in", "Hej", 1).await;
    app.db.run("update social_accounts set status = 'disconnected'").await;
    assert_eq!(tick(&app).await["drafts_queued"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_in_the_limit_a_draft_waits_for_it_and_people_see_that() {
    let (app, account) = nord(false, "messages").await;
    app.db
        .run(&format!(
            "delete from agent_limits; insert into agent_limits (org_id, agent, scope, period, max_requests) values ('{NORD}', 'social_assistant', 'agent', 'month', 1)"
        ))
        .await;
    written(&app.db, account, "dm:1", "in", "Hej", 2).await;
    tick(&app).await;
    written(&app.db, account, "dm:2", "in", "Hej", 1).await;
    tick(&app).await;
    assert_eq!(app.db.count("select count(*) from social_replies").await, 1, "{}", app.logs());
    let waits = "select jsonb_build_array(status, wait_reason -> 'reason', run_after > now(), attempts) from jobs where status <> 'succeeded'";
    assert_eq!(one(&app.db, waits).await, json!(["queued", "limit", true, 0]));
    assert_eq!(app.stack.sandbox.anthropic.count(), 1);
    settled(&app.db).await;
    // With room it is made.
    app.db.run("update agent_limits set max_requests = 5, updated_at = clock_timestamp()").await;
    app.stack.sweep().await.unwrap();
    app.stack.social_ai.drained().await;
    assert_eq!(app.db.count("select count(*) from social_replies where status = 'draft'").await, 2, "{}", app.logs());
    settled(&app.db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_deleted_or_followed_while_the_model_thinks_is_not_drafted() {
    for (number, meanwhile) in [
        "insert into social_messages (id, org_id, account_id, message_type, content, received_at, thread_id, platform_id, direction)
         select app.uuidv7(), org_id, account_id, 'message', 'Vi svarar själva', now(), thread_id, 'own', 'out' from social_messages",
        "update social_messages set deleted_at = now(), content = null",
        "update social_threads set status = 'closed'",
        "update social_accounts set status = 'disconnected'",
        "update agents set status = 'paused'",
        "update social_ai_settings set drafts = 'off'",
    ]
    .into_iter()
    .enumerate()
    {
        let (app, account) = nord(false, "messages").await;
        written(&app.db, account, "dm:1", "in", "Hej", 2).await;
        let gate = Gate::default();
        app.stack.sandbox.anthropic.then(Canned::Held(gate.clone()));
        app.stack.understand_social().await.unwrap();
        app.stack.sandbox.anthropic.was_asked().await;
        app.db.run(meanwhile).await;
        gate.open();
        app.stack.social_ai.drained().await;
        let expected =
            ["superseded", "superseded", "answered", "account_disconnected", "agent_may_not", "drafts_off"][number];
        assert_eq!(outcomes(&app).await, json!([expected]), "{meanwhile} {}", app.logs());
        assert_eq!(app.db.count("select count(*) from social_replies").await, 0, "{meanwhile}");
        // The call was made, and is paid for.
        assert_eq!(one(&app.db, "select used_cost_micro_usd > 0 from agent_usage where period = 'month'").await, json!(true));
        settled(&app.db).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_was_given_up_keeps_no_later_message_from_its_draft() {
    let (app, account) = nord(false, "messages").await;
    written(&app.db, account, "dm:1", "in", "Hej", 60).await;
    app.db
        .run(
            "insert into social_replies (org_id, account_id, thread_id, kind, target_id, content, status, code, sent_at, ended_at, created_at)
             select org_id, account_id, id, 'message', 'x', 'Hej', 'unknown', 'not_known', now() - interval '50 minutes', now(), now() - interval '50 minutes'
               from social_threads",
        )
        .await;
    written(&app.db, account, "dm:1", "in", "Hallå?", 2).await;
    tick(&app).await;
    assert_eq!(app.db.count("select count(*) from social_replies where status = 'draft'").await, 1, "{}", app.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_may_decline_and_what_cannot_be_shown_is_asked_for_once_more() {
    let (app, account) = nord(false, "messages").await;
    let anthropic = &app.stack.sandbox.anthropic;
    written(&app.db, account, "dm:1", "in", "ok", 2).await;
    anthropic.then(says(r#"{"text": null, "language": null}"#));
    tick(&app).await;
    written(&app.db, account, "dm:2", "in", "Hej", 2).await;
    anthropic.then(says(r#"{"text": "Se https://evil.example", "language": "sv"}"#));
    anthropic.then(says(r#"{"text": "Hej!", "language": "sv"}"#));
    tick(&app).await;
    written(&app.db, account, "dm:3", "in", "Hej", 2).await;
    anthropic.then(says("Hej hej"));
    anthropic.then(says(r#"{"text": "   ", "language": "sv"}"#));
    tick(&app).await;
    assert_eq!(outcomes(&app).await, json!(["declined", "proposed", "draft_unusable"]), "{}", app.logs());
    assert_eq!(one(&app.db, DRAFTS).await, json!([["message", "draft", "proposed", "Hej!"]]));
    assert_eq!(anthropic.count(), 5);
    // A provider that is away for a moment is asked again later.
    written(&app.db, account, "dm:4", "in", "Hej", 2).await;
    app.stack.fault("anthropic", "overloaded", Calls::Next(1)).unwrap();
    tick(&app).await;
    assert_eq!(
        app.db
            .count(
                "select count(*) from jobs where status = 'queued' and last_error ->> 'code' = 'provider_overloaded'"
            )
            .await,
        1
    );
    app.db.run("update jobs set run_after = now() where status = 'queued'").await;
    app.stack.sweep().await.unwrap();
    app.stack.social_ai.drained().await;
    assert_eq!(outcomes(&app).await, json!(["declined", "proposed", "draft_unusable", "proposed"]), "{}", app.logs());
    settled(&app.db).await;
}
