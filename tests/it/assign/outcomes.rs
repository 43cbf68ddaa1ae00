//! How scores met outcomes, what that lets an organisation switch on, and trying it on leads that came before.

use integration_tests::{
    TestApp,
    people::{BRICK, DORA, NORD, OLGA, SVEN},
};
use reqwest::Method;
use serde_json::json;

use super::{a_minute, come, lead, one, set, takes};

/// Scores with outcomes, ties among them.
fn outcomes() -> Vec<(f64, bool)> {
    (0..60_u32)
        .map(|n| {
            let score = f64::from((n * 37) % 20) * 5.0;
            // More are won the higher they were, and some against all odds.
            (score, (n * 13) % 23 < (score / 5.0) as u32 + 1)
        })
        .collect()
}

/// AUC and Brier score by their definitions: over each pair of a won and a lost lead; over each lead.
fn computed(outcomes: &[(f64, bool)]) -> (f64, f64) {
    let (mut wins, mut pairs, mut squares) = (0.0, 0.0, 0.0);
    for (score, won) in outcomes {
        squares += (score / 100.0 - f64::from(u8::from(*won))).powi(2);
        for (other, other_won) in outcomes {
            if *won && !other_won {
                pairs += 1.0;
                wins += if score > other {
                    1.0
                } else if score == other {
                    0.5
                } else {
                    0.0
                };
            }
        }
    }
    (wins / pairs, squares / outcomes.len() as f64)
}

/// Leads that were scored so and ended so, numbered from here on.
async fn ended(app: &TestApp, first: u128, outcomes: &[(f64, bool)]) {
    come(&app.db, first, outcomes.len() as u128).await;
    for (number, (score, won)) in (first..).zip(outcomes) {
        let (id, status) = (lead(number), if *won { "won" } else { "lost" });
        app.db
            .run(&format!(
                "insert into lead_scoring (org_id, lead_id, score, rationale, factors, model, created_at) values
                     ('{NORD}', '{id}', 100 - {score}, 'first', '{{}}', 'rules', now() - interval '9 days'),
                     ('{NORD}', '{id}', {score}, 'last before it ended', '{{}}', 'rules', now() - interval '3 days'),
                     ('{NORD}', '{id}', 50, 'after', '{{}}', 'rules', now());
                 update leads set status = '{status}', closed_at = now() - interval '1 day' where id = '{id}'"
            ))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_says_what_scores_were_worth_and_weak_ones_switch_nothing_on() {
    let app = TestApp::start().await;
    let olga = app.token(&OLGA);
    let settings = "/v1/leads/assignments/settings";
    let report = async || app.get("/v1/leads/assignments/report", &olga).await.expect(200);
    assert_eq!(report().await["outcomes"], 0);
    let before = app.db.digest().await;
    app.post(settings, &olga, &json!({ "enabled": true })).await.expect_error(409, "outcomes_too_few");
    assert_eq!(app.db.digest().await, before);

    let outcomes = outcomes();
    ended(&app, 1, &outcomes).await;
    // Never scored, too long ago, and another organisation's.
    app.db
        .run(&format!(
            "insert into leads (org_id, client_name, status, closed_at) values
                 ('{NORD}', 'Unscored', 'won', now()), ('{NORD}', 'Long ago', 'won', now() - interval '2 years'), ('{BRICK}', 'Theirs', 'won', now())"
        ))
        .await;
    let (auc, brier) = computed(&outcomes);
    let told = report().await;
    let close = |name: &str, wanted: f64| (told[name].as_f64().unwrap() - wanted).abs() < 1e-6;
    assert!(close("auc", auc) && close("brier", brier), "{told} {auc} {brier}");
    let won = outcomes.iter().filter(|(_, won)| *won).count();
    assert_eq!(
        (&told["outcomes"], &told["won"], &told["lost"], &told["unscored"]),
        (&json!(60), &json!(won), &json!(60 - won), &json!(1))
    );
    assert!(auc > 0.6 && auc < 0.95, "{auc}");

    let before = app.db.digest().await;
    for wanted in [
        json!({ "enabled": true, "min_auc": 0.999, "max_brier": null }),
        json!({ "enabled": true, "min_auc": null, "max_brier": 0.001 }),
    ] {
        app.post(settings, &olga, &wanted).await.expect_error(409, "scores_too_weak");
    }
    app.post(settings, &olga, &json!({ "enabled": true, "min_outcomes": 61 }))
        .await
        .expect_error(409, "outcomes_too_few");
    assert_eq!(app.db.digest().await, before, "a refused request changed something");
    let set = app
        .post(settings, &olga, &json!({ "enabled": true, "min_auc": 0.5, "max_brier": 0.5, "ai_bound": 0 }))
        .await
        .expect(200);
    assert_eq!((&set["settings"]["enabled"], &set["settings"]["patience_hours"]), (&json!(true), &json!(18)), "{set}");
    assert_eq!(report().await["settings"]["ai_bound"], 0);
    assert_eq!(app.db.count("select count(*) from audit_log where action like 'lead_assignment_settings.%'").await, 1);

    // Outcomes that go the other way: it stops by itself, and is told.
    takes(&app.db, &SVEN, 100).await;
    come(&app.db, 900, 1).await;
    a_minute(&app).await;
    assert_eq!(app.db.count("select count(*) from leads where assigned_to is not null").await, 1, "{}", app.logs());
    let inverse: Vec<(f64, bool)> = (0..80).map(|n| (f64::from(n), n < 40)).collect();
    ended(&app, 200, &inverse).await;
    come(&app.db, 901, 1).await;
    a_minute(&app).await;
    let stopped = report().await["settings"].clone();
    assert_eq!(
        (&stopped["enabled"], &stopped["stop_reason"]["code"]),
        (&json!(false), &json!("scores_too_weak")),
        "{stopped}"
    );
    assert_eq!(app.db.count("select count(*) from leads where assigned_to is not null").await, 1);
    let told = one(&app.db, "select jsonb_build_array(actor, decision ->> 'code', output ->> 'outcomes') from audit_log where action = 'lead_assignment.stopped'").await;
    assert_eq!(told, json!(["system", "scores_too_weak", "140"]));
    app.post(settings, &olga, &json!({ "enabled": true })).await.expect_error(409, "scores_too_weak");
    // Without a floor it is the organisation's own affair.
    let set =
        app.post(settings, &olga, &json!({ "enabled": true, "min_auc": null, "max_brier": null })).await.expect(200);
    assert_eq!((&set["settings"]["enabled"], &set["settings"]["stop_reason"]), (&json!(true), &json!(null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_who_would_have_been_given_last_months_leads_and_writes_nothing() {
    let app = TestApp::start().await;
    takes(&app.db, &SVEN, 3).await;
    takes(&app.db, &DORA, 3).await;
    come(&app.db, 1, 12).await;
    // One a day, the oldest too long ago; the first that counts ended before the last came. Sven has one from before.
    for number in 1..=12 {
        app.db
            .run(&format!(
                "update leads set created_at = now() - interval '{} days' where id = '{}'",
                36 - 3 * number,
                lead(number)
            ))
            .await;
    }
    app.db
        .run(&format!(
            "update leads set status = 'lost', closed_at = now() - interval '10 days' where id = '{}';
             update leads set assigned_to = '{}' where id = '{}';
             insert into lead_notes (org_id, lead_id, note) values ('{NORD}', '{}', 'Written later.')",
            lead(3),
            SVEN.id,
            lead(1),
            lead(4)
        ))
        .await;
    let before = app.db.digest().await;
    let olga = app.token(&OLGA);
    let told = app.send(Method::POST, "/v1/leads/assignments/dry-run", &olga, None).await.expect(200);
    let since = app.post("/v1/leads/assignments/dry-run", &olga, &json!({ "days": 2 })).await.expect(200);
    assert_eq!(app.db.digest().await, before, "a dry run wrote something");
    assert_eq!(since["leads"], 1);
    // Ten came within the month. Five places are free, and one more once a lead had ended.
    let assignments = told["assignments"].as_array().unwrap();
    assert_eq!((&told["leads"], assignments.len()), (&json!(10), 10), "{told}");
    assert_eq!(told["given"], 6, "{told}");
    let first = &assignments[0];
    assert_eq!(
        (&first["lead_id"], &first["would_get"], &first["was_given_to"]),
        (&json!(lead(3)), &json!(DORA.id), &json!(null))
    );
    // Of what came later nothing was known then.
    assert!(assignments[1]["score"] == assignments[2]["score"], "{told}");
    let waiting = assignments.iter().filter(|one| one["waiting"] == "everybody_full").count();
    assert_eq!(waiting, 4, "{told}");
    let each = told["people"].as_array().unwrap().iter().map(|one| one["leads"].as_i64().unwrap()).collect::<Vec<_>>();
    assert_eq!((each.iter().sum::<i64>(), each.iter().max()), (6, Some(&4)), "{told}");
    // Switched on, nothing of that has happened.
    set(&app.db, "ai_bound", "0").await;
    assert_eq!(app.db.count("select count(*) from lead_assignments").await, 0);
}
