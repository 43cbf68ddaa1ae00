//! Who is told what: as far as they see the rows, and never what was made for others.

use integration_tests::{
    TestApp,
    acting::Actor,
    people::{ADAM, CLEO, DORA, LIVING, MAX, NORD, OLGA, OSCAR, Person, RENATA, SVEN, UMA},
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{a_quarter, ask, figure, leads, written};

#[tokio::test(flavor = "multi_thread")]
async fn a_salesperson_is_told_of_their_own_leads_and_another_organisation_of_nothing() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    leads(&app, NORD, 1, "new", "ads", Some(&SVEN), 3).await;
    let admin = ask(&app, &ADAM, "leads", "week").await.expect(202);
    let sven = ask(&app, &SVEN, "leads", "week").await.expect(202);
    let oscar = ask(&app, &OSCAR, "leads", "week").await.expect(200);
    assert_eq!((figure(&admin, "total.current"), figure(&sven, "total.current")), (&json!(15), &json!(8)));
    assert_eq!(figure(&oscar, "total.current"), 0);
    assert_eq!(oscar["instead_because"], "nothing_to_tell");
    assert_eq!(admin["audience"], json!({ "permission": "leads:read_all", "own": false }));
    assert_eq!(sven["audience"], json!({ "permission": "leads:update", "own": true }));

    // Each is shown the one that was made for them.
    for (person, of) in [(&ADAM, &admin), (&OLGA, &admin), (&SVEN, &sven), (&OSCAR, &oscar)] {
        assert_eq!(written(&app, person, "leads", "week").await["id"], of["id"], "{}", person.email);
    }
    // And finds no other by another way: an admin has no business in what one person's figures say.
    let seen = async |person: &Person| {
        let rows = app.db.ask(&Actor::person(person), "select id from public.ai_insights").await.unwrap();
        rows.as_array().unwrap().iter().map(|row| row["id"].clone()).collect::<Vec<Value>>()
    };
    assert_eq!(seen(&ADAM).await, [admin["id"].clone()]);
    assert_eq!(seen(&SVEN).await, [sven["id"].clone()]);
    assert_eq!(seen(&OSCAR).await, [oscar["id"].clone()]);
    assert!(seen(&DORA).await.is_empty() && seen(&UMA).await.is_empty());
    // Nor in the log, where it is sealed.
    let logged =
        "select count(*) from audit_log where action = 'insight.written' and output ->> 'said' like '%new leads%'";
    assert_eq!(app.db.count(logged).await, 1);
    let sealed = format!("select count(*) from audit_log where output #>> '{{said,subject}}' = '{}'", SVEN.id);
    assert_eq!(app.db.count(&sealed).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn consultants_and_clients_ask_about_what_they_see_and_others_are_refused_by_name() {
    let app = TestApp::start().await;
    app.db
        .run(&format!(
            "insert into templates (id, org_id, name, type) values ('01900000-0000-7000-8000-0000000000e1', '{NORD}', 't', 'form');
             insert into clients (id, org_id, name) values ('01900000-0000-7000-8000-0000000000e2', '{NORD}', 'Elsewhere');
             -- Whatever is made by hand begins as a draft; these are long past that.
             alter table submissions disable trigger user;
             insert into submissions (org_id, client_id, template_id, status, submitted_at, created_at)
             select '{NORD}', case when n <= 6 then '{LIVING}'::uuid else '01900000-0000-7000-8000-0000000000e2' end,
                    '01900000-0000-7000-8000-0000000000e1', 'submitted', now(), date_trunc('week', now(), 'UTC') - interval '2 days'
               from generate_series(1, 15) n;
             alter table submissions enable trigger user"
        ))
        .await;
    for (person, sees) in [(&ADAM, 15), (&MAX, 15), (&CLEO, 6), (&UMA, 6)] {
        let insight = ask(&app, person, "submissions", "week").await.expect(202);
        assert_eq!(figure(&insight, "total.current"), sees, "{}", person.email);
        assert_eq!(insight["audience"]["own"], person.id != ADAM.id, "{}", person.email);
    }
    app.stack.insights.drained().await;
    let still = app.db.still().await;
    for (person, table) in [
        (&CLEO, "leads"),
        (&UMA, "leads"),
        (&DORA, "leads"),
        (&SVEN, "submissions"),
        (&DORA, "invoices"),
        (&SVEN, "provider_calls"),
        (&CLEO, "social_messages"),
        (&SVEN, "projects"),
    ] {
        let refused = ask(&app, person, table, "week").await.expect_error(403, "permission_missing");
        assert!(refused["detail"].as_str().unwrap().contains(':'), "{refused}");
        app.get(&format!("/v1/insights/{table}"), &app.token(person)).await.expect_error(403, "permission_missing");
    }
    still.unchanged().await;
    let agent = app.agent_token(&RENATA).await;
    app.post("/v1/insights/leads", &agent, &json!({ "period": "week" })).await.expect_error(403, "people_only");
    let tables = app.get("/v1/insights", &app.token(&DORA)).await.expect(200);
    let scope = |name: &str| {
        tables["tables"].as_array().unwrap().iter().find(|table| table["table_name"] == name).unwrap()["scope"].clone()
    };
    assert_eq!(
        (scope("projects"), scope("render_requests"), scope("leads")),
        (json!("whole"), json!("whole"), Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ones_own_figures_go_with_the_rights_they_rest_on() {
    let app = TestApp::start().await;
    app.db
        .run(&format!(
            "insert into templates (id, org_id, name, type) values ('01900000-0000-7000-8000-0000000000e1', '{NORD}', 't', 'form');
             alter table submissions disable trigger user;
             insert into submissions (org_id, client_id, template_id, status, submitted_at, created_at)
             select '{NORD}', '{LIVING}', '01900000-0000-7000-8000-0000000000e1', 'submitted', now(), date_trunc('week', now(), 'UTC') - interval '2 days'
               from generate_series(1, 6);
             alter table submissions enable trigger user"
        ))
        .await;
    leads(&app, NORD, 1, "new", "ads", Some(&SVEN), 6).await;
    for (person, table, loses, regains) in [
        (
            &CLEO,
            "submissions",
            format!("delete from client_consultants where user_id = '{}'", CLEO.id),
            format!(
                "insert into client_consultants (org_id, client_id, user_id) values ('{NORD}', '{LIVING}', '{}')",
                CLEO.id
            ),
        ),
        (
            &SVEN,
            "leads",
            format!(
                "update org_members set role_id = '00000000-0000-7000-8000-000000000003' where user_id = '{}'",
                SVEN.id
            ),
            format!(
                "update org_members set role_id = '00000000-0000-7000-8000-000000000004' where user_id = '{}'",
                SVEN.id
            ),
        ),
    ] {
        let made = ask(&app, person, table, "week").await.expect(202);
        assert_eq!(figure(&made, "total.current"), 6);
        app.stack.insights.drained().await;
        let seen = async || {
            let rows = app.db.ask(&Actor::person(person), "select id from public.ai_insights").await.unwrap();
            let shown = app.get(&format!("/v1/insights/{table}"), &app.token(person)).await;
            (rows.as_array().unwrap().len(), shown.body["insights"].as_array().map_or(0, Vec::len))
        };
        assert_eq!(seen().await, (1, 1), "{}", person.email);
        app.db.run(&loses).await;
        assert_eq!(seen().await, (0, 0), "{}", person.email);
        app.db.run(&regains).await;
        assert_eq!(seen().await, (1, 1), "{}", person.email);
    }
    // Of whole tables an agent reads what its role opens.
    ask(&app, &ADAM, "submissions", "week").await.expect(202);
    ask(&app, &ADAM, "leads", "week").await.expect(202);
    let agent = app.db.agent(&RENATA).await;
    let seen = app.db.ask(&agent, "select audience from public.ai_insights").await.unwrap();
    assert_eq!(seen, json!([{ "audience": "leads:read_all" }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_that_are_as_they_were_before_are_shown_again() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    let first = ask(&app, &ADAM, "leads", "week").await.expect(202);
    leads(&app, NORD, 1, "new", "event", None, 1).await;
    let second = ask(&app, &ADAM, "leads", "week").await.expect(202);
    assert_eq!(written(&app, &ADAM, "leads", "week").await["id"], second["id"]);
    app.db.run("delete from leads where source = 'event'").await;
    ask(&app, &ADAM, "leads", "week").await.expect(200);
    assert_eq!(written(&app, &ADAM, "leads", "week").await["id"], first["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_for_some_is_never_served_to_more() {
    let app = TestApp::start().await;
    // Both see the very same rows, so that the figures are the same; the audiences are not.
    leads(&app, NORD, 1, "won", "referral", Some(&SVEN), 8).await;
    let sven = ask(&app, &SVEN, "leads", "week").await.expect(202);
    let own = written(&app, &SVEN, "leads", "week").await;
    assert_eq!(own["served_by"], "model", "{}", app.logs());
    let admin = ask(&app, &ADAM, "leads", "week").await.expect(202);
    assert_eq!(sven["figures"], admin["figures"]);
    assert_ne!(sven["id"], admin["id"]);
    let whole = written(&app, &ADAM, "leads", "week").await;
    // Not even the words: a call of its own.
    assert_eq!(whole["served_by"], "model");
    assert_eq!(app.stack.sandbox.anthropic.asked().len(), 2);
    // Somebody of the same audience is served what is there.
    let olga = ask(&app, &OLGA, "leads", "week").await.expect(200);
    assert_eq!((olga["id"].clone(), olga["served_by"].clone()), (whole["id"].clone(), whole["served_by"].clone()));
    assert_eq!(app.stack.sandbox.anthropic.asked().len(), 2);
    // Whoever loses the permission is shown nothing of it.
    app.db
        .run(&format!(
            "update org_members set role_id = '00000000-0000-7000-8000-000000000003' where user_id = '{}'",
            ADAM.id
        ))
        .await;
    app.get("/v1/insights/leads", &app.token(&ADAM)).await.expect_error(403, "permission_missing");
    let seen = app.db.ask(&Actor::person(&ADAM), "select id from public.ai_insights").await.unwrap();
    assert_eq!(seen, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insight_is_kept_for_no_audience_that_its_maker_is_not_of() {
    let app = TestApp::start().await;
    let insert = |audience: &str, user: Option<&Person>| {
        let user = user.map_or("null".to_owned(), |person| format!("'{}'", person.id));
        format!(
            "insert into public.ai_insights (org_id, table_name, period_start, period, audience, user_id, seen_as, summary, figures, served_by)
             values ('{NORD}', 'leads', now(), 'week', '{audience}', {user}, case when {user} is not null then app.seen_as() end, 's', '{{}}', 'model')"
        )
    };
    let sven = Actor::person(&SVEN).in_function();
    for (audience, user) in [("leads:read_all", None), ("insights:read_all", None), ("leads:update", Some(&ADAM))] {
        let refusal = app.db.change(&sven, &insert(audience, user)).await.unwrap_err();
        assert_eq!(refusal.state, "42501", "{audience}: {refusal:?}");
    }
    assert_eq!(app.db.change(&sven, &insert("leads:update", Some(&SVEN))).await, Ok(1));
    // Through the Data API nobody makes any.
    let refusal = app.db.change(&Actor::person(&ADAM), &insert("leads:read_all", None)).await.unwrap_err();
    assert_eq!(refusal.state, "42501");
    // Nor does anybody queue work on what is not theirs.
    let of = app.db.ask(&Actor::role("postgres"), "select id from public.ai_insights").await.unwrap()[0]["id"].clone();
    let call = format!("select app.admit_insight_job('{}')", of.as_str().unwrap());
    assert_eq!(app.db.ask(&Actor::person(&ADAM).in_function(), &call).await.unwrap_err().state, "42501");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named_and_nothing_changes() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    let token = app.token(&ADAM);
    let still = app.db.still().await;
    for table in ["audit_log", "profiles", "lead_notes", "leads; drop table leads", "LEADS", "leads'", "jobs"] {
        let path = format!("/v1/insights/{}", table.replace(' ', "%20"));
        let refused =
            app.post(&path, &token, &json!({ "period": "week" })).await.expect_error(404, "insight_table_unknown");
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains("leads, projects, provider_calls") && !detail.contains("audit_log"), "{detail}");
    }
    for (body, status, code) in [
        (json!({ "period": "year" }), 422, "period_unknown"),
        (json!({ "period": "week'; --" }), 422, "period_unknown"),
        (json!({}), 400, "body_invalid"),
        (json!({ "period": "week", "audience": "leads:read_all" }), 400, "body_invalid"),
        (json!({ "period": 7 }), 400, "body_invalid"),
    ] {
        app.post("/v1/insights/leads", &token, &body).await.expect_error(status, code);
    }
    let body = json!({ "period": "week" });
    app.send(Method::DELETE, "/v1/insights/leads", &token, None).await.expect_error(405, "method_not_allowed");
    app.send_keyed(Method::POST, "/v1/insights/leads", &token, Some(&body), Some(&"k".repeat(256)))
        .await
        .expect_error(400, "idempotency_key_invalid");
    app.send(Method::POST, "/v1/insights/leads/week", &token, Some(&body)).await.expect_error(404, "route_not_found");
    assert_eq!(app.send(Method::POST, "/v1/insights/leads", "no token", Some(&body)).await.status, 401);
    still.unchanged().await;
    app.db.run("update system_settings set value = 'false' where key = 'insights.enabled'").await;
    let still = app.db.still().await;
    ask(&app, &ADAM, "leads", "week").await.expect_error(503, "insights_paused");
    // But for the row that every such answer leaves.
    assert_eq!(app.db.count("select count(*) from error_logs").await, 1);
    app.db.run("delete from error_logs").await;
    still.unchanged().await;
}
