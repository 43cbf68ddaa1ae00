//! Asking for an assignment: who gets the lead and why, who may ask, and what is said where nobody can take it.

use integration_tests::{
    TestApp,
    people::{ADAM, BRICK, CLEO, DORA, NORD, OLGA, OSCAR, RENATA, SVEN, UMA},
};
use reqwest::Method;
use sandbox::Calls;
use serde_json::json;
use uuid::Uuid;

use super::{a_minute, ask, come, lead, one, takes, whole};

#[tokio::test(flavor = "multi_thread")]
async fn leads_that_have_ended_take_no_room() {
    let app = TestApp::start().await;
    let olga = app.token(&OLGA);
    takes(&app.db, &SVEN, 2).await;
    come(&app.db, 1, 7).await;
    let has = async |numbers: &[u128], status: &str| {
        let closed = if ["won", "lost"].contains(&status) { "now()" } else { "null" };
        for number in numbers {
            app.db
                .run(&format!(
                    "update leads set assigned_to = '{}', status = '{status}', closed_at = {closed} where id = '{}'",
                    SVEN.id,
                    lead(*number)
                ))
                .await;
        }
    };
    let given = async |number: u128| {
        app.db
            .count(&format!("select count(*) from leads where id = '{}' and assigned_to = '{}'", lead(number), SVEN.id))
            .await
    };
    has(&[1, 3], "won").await;
    has(&[2], "lost").await;
    // Three have ended, and two are his to have open.
    for (number, open, room) in [(4, 0, 1.0), (5, 1, 0.5)] {
        let answer = ask(&app, &olga, lead(number)).await.expect(200);
        let reason = &answer["assignment"]["reason"];
        assert_eq!((&reason["open"], &reason["room"]), (&json!(open), &json!(room)), "{answer}");
        assert_eq!(given(number).await, 1, "lead {number}");
    }
    ask(&app, &olga, lead(6)).await.expect(202);
    app.stack.leads.drained().await;
    assert_eq!(given(6).await, 0);
    let waits = "select count(*) from jobs where job_type = 'lead_assign' and status = 'queued'";
    assert_eq!(app.db.count(waits).await, 1);
    let a_while_ago = "update jobs set wait_reason = jsonb_set(wait_reason, '{at}', to_jsonb(now() - interval '6 minutes')) where status = 'queued'";
    // One that waits is woken once there is room, and not before.
    app.db.run(a_while_ago).await;
    assert_eq!(app.stack.look_after_leads().await.unwrap()["leads_woken"], 0);
    has(&[4], "lost").await;
    app.db.run(a_while_ago).await;
    assert_eq!(app.stack.look_after_leads().await.unwrap()["leads_woken"], 1);
    app.stack.sweep().await.unwrap();
    app.stack.leads.drained().await;
    assert_eq!((given(6).await, app.db.count(waits).await), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_is_given_to_whoever_suits_it_best_and_it_is_told_why() {
    let app = TestApp::start().await;
    come(&app.db, 1, 1).await;
    app.db
        .run(&format!(
            "update leads set wanted_skills = '{{Kitchens,Lighting}}', territory = 'North', source = 'referral';
             insert into lead_capacity (org_id, user_id, max_open, skills, territories) values
                 ('{NORD}', '{}', 5, '{{kitchens,lighting}}', '{{north}}'), ('{NORD}', '{}', 50, '{{kitchens}}', '{{}}'),
                 ('{NORD}', '{}', 50, '{{kitchens,lighting}}', '{{south}}')",
            SVEN.id, DORA.id, ADAM.id
        ))
        .await;
    let olga = app.token(&OLGA);
    let answer = ask(&app, &olga, lead(1)).await.expect(200);
    let told = &answer["assignment"];
    assert_eq!((&answer["outcome"], &told["assigned_to"]), (&json!("assigned"), &json!(SVEN.id)), "{answer}");
    assert_eq!((&told["decided_by"], &told["reason"]["weighed"]), (&json!("rules"), &json!(3)), "{answer}");
    // Asked again, with a key or without, it is the same.
    let again = app
        .send_keyed(Method::POST, &format!("/v1/leads/{}/assign", lead(1)), &olga, None, Some("once"))
        .await
        .expect(200);
    assert_eq!((&again["outcome"], &again["assignment"]), (&json!("already_assigned"), told));
    app.send_keyed(Method::POST, &format!("/v1/leads/{}/assign", lead(2)), &olga, None, Some("once"))
        .await
        .expect_error(422, "idempotency_key_reused");

    // The score is what the database says it is, to everybody.
    let by_rules = one(&app.db, &format!("select score from app.lead_score('{NORD}', '{}', now())", lead(1))).await;
    let stored = one(&app.db, "select jsonb_build_array(score, model) from lead_scoring").await;
    assert_eq!((&stored, &told["score"]), (&json!([by_rules, "rules"]), &by_rules));
    let updated = integration_tests::acting::Actor::service(NORD);
    let updated = app.db.ask(&updated, &format!("select public.update_lead_score('{}') as it", lead(1))).await.unwrap();
    assert_eq!(updated[0]["it"], by_rules);

    let entry = one(
        &app.db,
        "select jsonb_build_object('actor', actor, 'by', user_id, 'record', record_id, 'input', input, 'decision', decision, 'output', output)
           from audit_log where action = 'lead.assigned'",
    )
    .await;
    assert_eq!((&entry["actor"], &entry["by"], &entry["record"]), (&json!("user"), &json!(OLGA.id), &json!(lead(1))));
    assert_eq!((&entry["output"]["assigned_to"], &entry["input"]["why"]), (&json!(SVEN.id), &json!("unassigned")));
    assert_eq!(entry["decision"]["weighed"].as_array().unwrap().len(), 3, "{entry}");
    assert_eq!(entry["input"]["factors"].as_object().unwrap().len(), 6, "{entry}");

    // Whoever sees the lead reads why; the others' parts only who sees all leads.
    let path = format!("/v1/leads/{}/assignment", lead(1));
    assert_eq!(app.get(&path, &olga).await.expect(200)["candidates"].as_array().unwrap().len(), 3);
    let own = app.get(&path, &app.token(&SVEN)).await.expect(200);
    assert_eq!((own["reason"]["skills"].as_f64(), own.get("candidates")), (Some(1.0), None), "{own}");
    app.get(&path, &app.token(&DORA)).await.expect_error(404, "lead_not_found");
    app.get(&path, &app.token(&OSCAR)).await.expect_error(404, "lead_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_may_ask_where_its_role_and_its_token_allow() {
    let app = TestApp::start().await;
    come(&app.db, 1, 2).await;
    takes(&app.db, &SVEN, 9).await;
    let renata = app.agent_token(&RENATA).await;
    let answer = ask(&app, &renata, lead(1)).await.expect(200);
    assert_eq!(answer["assignment"]["assigned_to"], json!(SVEN.id));
    let by = one(&app.db, "select jsonb_agg(distinct jsonb_build_array(actor, agent_id)) from audit_log where action like 'lead%' and action <> 'leads.insert' and actor = 'agent'").await;
    assert_eq!(by, json!([["agent", RENATA.id]]));
    assert_eq!(one(&app.db, "select actor from audit_log where action = 'lead.assigned'").await, json!("agent"));
    // Of the lead only what agents own has changed.
    let changed = one(&app.db, "select metadata -> 'changed' from audit_log where action = 'leads.update'").await;
    assert_eq!(changed, json!(["assigned_at", "assigned_to"]));
    for path in ["report", "dry-run", "settings", "move"] {
        let method = if path == "report" { Method::GET } else { Method::POST };
        let body = match path {
            "settings" => Some(json!({ "enabled": true })),
            "move" => Some(json!({ "user_id": SVEN.id })),
            _ => None,
        };
        let answer = app.send(method, &format!("/v1/leads/assignments/{path}"), &renata, body.as_ref()).await;
        answer.expect_error(403, "permission_missing");
    }
    app.db.run("update agent_tokens set scopes = array['leads:read']").await;
    ask(&app, &renata, lead(2)).await.expect_error(403, "permission_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_and_whatever_cannot_be_is_refused_by_name_and_nothing_changes() {
    let app = TestApp::start().await;
    come(&app.db, 1, 3).await;
    takes(&app.db, &SVEN, 9).await;
    app.db
        .run(&format!(
            "update leads set status = 'won', closed_at = now() where id = '{}';
             update leads set status = 'lost', closed_at = now() where id = '{}';
             insert into leads (id, org_id, client_name) values ('{}', '{BRICK}', 'Theirs')",
            lead(2),
            lead(3),
            lead(9)
        ))
        .await;
    let stranger = app.stack.sandbox.auth.sign_in(&OSCAR.user(), Some(NORD)).unwrap();
    let before = app.db.digest().await;
    for person in [&SVEN, &DORA, &CLEO, &UMA] {
        ask(&app, &app.token(person), lead(1)).await.expect_error(403, "permission_missing");
        app.get("/v1/leads/assignments/report", &app.token(person)).await.expect_error(403, "permission_missing");
        let dry_run = app.send(Method::POST, "/v1/leads/assignments/dry-run", &app.token(person), None).await;
        dry_run.expect_error(403, "permission_missing");
    }
    ask(&app, &stranger, lead(1)).await.expect_error(403, "organization_missing");
    let olga = app.token(&OLGA);
    ask(&app, &olga, lead(9)).await.expect_error(404, "lead_not_found");
    ask(&app, &olga, Uuid::nil()).await.expect_error(404, "lead_not_found");
    app.send(Method::POST, "/v1/leads/none/assign", &olga, None).await.expect_error(404, "lead_not_found");
    ask(&app, &olga, lead(2)).await.expect_error(409, "lead_closed");
    ask(&app, &olga, lead(3)).await.expect_error(409, "lead_closed");
    app.get(&format!("/v1/leads/{}/assign", lead(1)), &olga).await.expect_error(405, "method_not_allowed");
    app.get("/v1/leads/x/y/z", &olga).await.expect_error(404, "route_not_found");
    let settings = "/v1/leads/assignments/settings";
    app.post(settings, &olga, &json!({})).await.expect_error(422, "settings_empty");
    app.post(settings, &olga, &json!({ "ai_bound": 51 })).await.expect_error(422, "setting_invalid");
    app.post(settings, &olga, &json!({ "org_id": BRICK })).await.expect_error(400, "body_invalid");
    let dry_run = app.post("/v1/leads/assignments/dry-run", &olga, &json!({ "days": 93 })).await;
    dry_run.expect_error(422, "days_invalid");
    assert_eq!(app.db.digest().await, before, "a refused request changed something");

    app.db.run("update system_settings set value = 'false' where key = 'leads.enabled'").await;
    let paused = ask(&app, &olga, lead(1)).await;
    assert!(paused.headers.contains_key("retry-after"));
    paused.expect_error(503, "lead_assignment_paused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_nobody_can_take_waits_with_a_reason_until_somebody_can() {
    let app = TestApp::start().await;
    come(&app.db, 1, 1).await;
    app.db.run("update leads set territory = 'north'").await;
    let olga = app.token(&OLGA);
    let capacity = |change: &str| format!("update lead_capacity set {change}");
    let set_up = [
        (String::new(), "nobody_takes_leads"),
        (
            format!("insert into lead_capacity (org_id, user_id, max_open) values ('{NORD}', '{}', 0)", SVEN.id),
            "everybody_full",
        ),
        (capacity("max_open = 3, territories = '{south}'"), "territory_not_covered"),
        (capacity("territories = '{}', available = false"), "nobody_available"),
    ];
    let mut job = String::new();
    for (statement, reason) in set_up {
        app.db.run(&statement).await;
        let answer = ask(&app, &olga, lead(1)).await;
        assert!(answer.headers.contains_key("retry-after"), "{reason}");
        let body = answer.expect(202);
        assert_eq!((&body["outcome"], &body["waiting"]["reason"]), (&json!("waiting"), &json!(reason)), "{body}");
        job = body["job"]["href"].as_str().unwrap().to_owned();
        let job = app.get(&job, &olga).await.expect(200);
        assert_eq!((&job["status"], &job["waiting"]["reason"]), (&json!("queued"), &json!(reason)), "{job}");
    }
    a_minute(&app).await;
    assert_eq!(app.get(&job, &olga).await.expect(200)["status"], "queued");
    // One job, however often it was asked for; it tries again by itself, and costs no attempt.
    assert_eq!(app.db.count("select count(*) from jobs where attempts = 0").await, 1);
    app.db.run(&capacity("available = true")).await;
    a_minute(&app).await;
    let done = app.get(&job, &olga).await.expect(200);
    assert_eq!(
        (&done["status"], &done["result"]["assignment"]["assigned_to"]),
        (&json!("succeeded"), &json!(SVEN.id)),
        "{done} {}",
        app.logs()
    );
    assert_eq!(one(&app.db, "select actor from audit_log where action = 'lead.assigned'").await, json!("system"));
    whole(&app.db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_at_any_moment_leaves_all_of_an_assignment_or_nothing() {
    let app = TestApp::start().await;
    takes(&app.db, &SVEN, 100).await;
    let olga = app.token(&OLGA);
    let mut number = 0;
    for fault in ["reset", "lost", "half"] {
        for call in 1..=8 {
            number += 1;
            come(&app.db, number, 1).await;
            app.stack.fault("postgres", fault, Calls::Number(call)).unwrap();
            let answer = ask(&app, &olga, lead(number)).await;
            app.stack.fault("postgres", "none", Calls::Every).unwrap();
            assert!([200, 500, 503].contains(&answer.status.as_u16()), "{fault} {call}: {}", answer.body);
            whole(&app.db).await;
            let after = ask(&app, &olga, lead(number)).await.expect(200);
            assert_eq!(after["assignment"]["assigned_to"], json!(SVEN.id), "{fault} {call}");
            whole(&app.db).await;
        }
    }
    assert!(app.stack.wire("postgres").unwrap().faults_met() > 10);
    assert_eq!(app.db.count("select count(*) from lead_assignments").await, 24);
}
