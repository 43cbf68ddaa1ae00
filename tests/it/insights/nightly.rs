//! Every night, for every organisation that wants it: once, fairly, and for those who see the whole.

use integration_tests::{
    Server, TestApp, TestDatabase,
    acting::Actor,
    people::{ADAM, BRICK, DORA, NORD, OSCAR, SVEN},
};
use serde_json::{Value, json};

use super::{a_quarter, ask, figure, leads, written};

/// Nightly insights are due, whatever time it is.
async fn night_falls(app: &TestApp) {
    app.db.run("update system_settings set value = '-60' where key = 'insights.nightly_from'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_that_wants_them_finds_its_insights_in_the_morning_and_another_none() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    leads(&app, BRICK, 1, "won", "ads", None, 9).await;
    night_falls(&app).await;
    assert_eq!(app.stack.nightly_insights().await.unwrap(), json!({ "due": 0, "made": 0, "failed": 0 }));
    let wanted = "insert into public.insight_settings (org_id, tables, periods) values ('{org}', '{leads,render_requests}', '{week,month}')";
    let admin = Actor::person(&ADAM);
    assert_eq!(app.db.change(&admin, &wanted.replace("{org}", &NORD.to_string())).await, Ok(1));
    for person in [&SVEN, &DORA, &OSCAR] {
        let refusal =
            app.db.change(&Actor::person(person), &wanted.replace("{org}", &NORD.to_string())).await.unwrap_err();
        assert_eq!(refusal.state, "42501", "{}", person.email);
    }

    assert_eq!(app.stack.nightly_insights().await.unwrap(), json!({ "due": 4, "made": 4, "failed": 0 }));
    let shown = written(&app, &ADAM, "leads", "week").await;
    assert_eq!(
        (shown["served_by"].as_str(), figure(&shown, "total.current")),
        (Some("model"), &json!(12)),
        "{}",
        app.logs()
    );
    // What the system sees is what an admin does: asking finds nothing changed.
    let asked = ask(&app, &ADAM, "leads", "week").await.expect(200);
    assert_eq!(asked["id"], shown["id"]);
    // A salesperson's are made when they ask, and they are not shown the others.
    let sven = app.get("/v1/insights/leads", &app.token(&SVEN)).await.expect(200);
    assert_eq!(sven["insights"], json!([]));
    assert_eq!(app.db.count(&format!("select count(*) from ai_insights where org_id = '{BRICK}'")).await, 0);
    assert_eq!(app.db.count("select count(*) from ai_insights where user_id is not null").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_night_that_is_told_twice_or_by_two_at_once_happens_once() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    night_falls(&app).await;
    app.db.run("insert into insight_settings (org_id) select id from organizations").await;
    let (one, two) = tokio::join!(app.stack.nightly_insights(), app.stack.nightly_insights());
    let made = |told: Value| told["made"].as_i64().unwrap();
    assert_eq!(made(one.unwrap()) + made(two.unwrap()), 18);
    app.stack.insights.drained().await;
    let calls = app.stack.sandbox.anthropic.asked().len();
    assert_eq!(app.stack.nightly_insights().await.unwrap()["due"], 0);
    // Even if rows of the period change later: an ended period is told of once a night.
    leads(&app, NORD, 1, "new", "website", None, 7).await;
    assert_eq!(app.stack.nightly_insights().await.unwrap()["due"], 0);
    app.stack.insights.drained().await;
    assert_eq!(app.stack.sandbox.anthropic.asked().len(), calls);
    let doubled = "select count(*) from (select from ai_insights group by org_id, table_name, period, period_start, audience having count(*) > 1) x";
    assert_eq!(app.db.count(doubled).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_shared_between_organisations_and_minutes_are_spread_over_the_hour() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(
        "insert into organizations (id, name, slug) select gen_random_uuid(), 'o' || n, 'org-' || n from generate_series(1, 598) n;
         insert into insight_settings (org_id, tables) select id, '{leads,projects,no_such_table}' from organizations",
    )
    .await;
    let system = Actor::role("spine_service");
    let due = async |at: &str, most: i32| {
        db.ask(&system, &format!("select * from app.due_insights('{at}', {most})"))
            .await
            .unwrap()
            .as_array()
            .unwrap()
            .clone()
    };
    // The first of everybody before the second of anybody.
    let page = due("2026-11-21 03:00+00", 600).await;
    let orgs: std::collections::BTreeSet<&str> = page.iter().map(|row| row["org_id"].as_str().unwrap()).collect();
    assert_eq!((page.len(), orgs.len()), (600, 600));
    // From two o'clock on, a minute's worth each minute.
    assert!(due("2026-11-21 01:59:59+00", 1000).await.is_empty());
    let by_half = due("2026-11-21 02:29:30+00", 1000).await;
    let orgs: std::collections::BTreeSet<&str> = by_half.iter().map(|row| row["org_id"].as_str().unwrap()).collect();
    assert!((240..360).contains(&orgs.len()), "{}", orgs.len());
    let minutes = "select max(n) from (select count(*) as n from organizations group by app.insight_minute(id)) x";
    assert!(db.count(minutes).await < 30);
    // Nobody else is told whose turn it is.
    for role in ["authenticated", "spine_caller", "spine_agent", "anon"] {
        let refusal = db.ask(&Actor::role(role), "select * from app.due_insights(now(), 1)").await.unwrap_err();
        assert_eq!(refusal.state, "42501", "{role}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_switch_holds_the_night_too() {
    let app = TestApp::start().await;
    a_quarter(&app).await;
    night_falls(&app).await;
    app.db.run(&format!("insert into insight_settings (org_id) values ('{NORD}')")).await;
    app.db.run("update system_settings set value = 'false' where key = 'insights.enabled'").await;
    assert_eq!(app.stack.nightly_insights().await.unwrap()["made"], 0);
    app.db.run("update system_settings set value = 'true' where key = 'insights.enabled'").await;
    assert_eq!(app.stack.nightly_insights().await.unwrap()["made"], 9);
}
