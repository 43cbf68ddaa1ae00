//! Spine's own agents.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn spines_own_agents_write_the_same_envelope() {
    let (app, token) = start().await;
    let olga = app.token(&OLGA);
    app.post(PATH, &token, &draft()).await.expect(201);
    let render = app.request_render(&app.token(&DORA), LAKESIDE).await.expect(202);
    assert_eq!(app.finished(&olga, &id(&render)).await["status"], "completed", "{}", app.logs());
    let lead = Uuid::new_v4();
    app.db
        .run(&format!(
            "insert into leads (org_id, client_name, created_at)
             select '{NORD}', 'Week', date_trunc('week', now(), 'UTC') - w * interval '1 week' + n * interval '1 hour'
               from generate_series(1, 8) w, generate_series(1, 8) n;
             insert into lead_capacity (org_id, user_id, max_open) values ('{NORD}', '{}', 100);
             insert into leads (id, org_id, client_name) values ('{lead}', '{NORD}', 'Lead')",
            SVEN.id
        ))
        .await;
    app.post("/v1/insights/leads", &olga, &json!({ "period": "week" })).await.expect(202);
    app.post("/v1/leads/assignments/settings", &olga, &json!({ "ai_bound": 10 })).await.expect(200);
    app.send(Method::POST, &format!("/v1/leads/{lead}/assign"), &olga, None).await.expect(202);
    app.stack.insights.drained().await;
    app.stack.leads.drained().await;
    app.a_minute_passes().await;
    assert_eq!(app.db.count("select count(*) from outbox where delivered_at is null").await, 0);

    let documents =
        one(&app, "select jsonb_object_agg(payload ->> 'kind', payload || jsonb_build_object('id', id)) from outbox")
            .await;
    let kinds: Vec<_> = documents.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(kinds, ["agent_action", "insight", "lead_assignment", "render"], "{}", app.logs());
    let envelope = [
        "kind",
        "agent",
        "action",
        "resource",
        "project_id",
        "input",
        "decision",
        "output",
        "subjects",
        "assets",
        "deploy",
        "cost",
        "served_by",
        "at",
    ];
    for (kind, agent, requests) in [
        ("agent_action", "blogger", 1),
        ("insight", "analyst", 1),
        ("lead_assignment", "lead_assigner", 1),
        ("render", "renderer", 1),
    ] {
        let document = &documents[kind];
        for name in envelope {
            assert!(document.get(name).is_some(), "{kind} has no {name}: {document}");
        }
        assert_eq!(
            (&document["agent"], &document["cost"]["requests"]),
            (&json!(agent), &json!(requests)),
            "{document}"
        );
        // The entry describes the same action, and its agent is found by it.
        let entry = one(
            &app,
            &format!(
                "select to_jsonb(a) from audit_log a where agent = '{agent}' and action = '{}' and resource_type = '{}' and record_id = '{}'",
                document["action"].as_str().unwrap(),
                document["resource"]["type"].as_str().unwrap(),
                document["resource"]["id"].as_str().unwrap()
            ),
        )
        .await;
        assert_eq!(entry["metadata"]["agent"], agent);
        if kind != "lead_assignment" {
            assert_eq!(
                json!([entry["input"], entry["decision"], entry["output"], entry["subject_ids"]]),
                json!([document["input"], document["decision"], document["output"], document["subjects"]]),
                "{kind}"
            );
        }
        let stored = app.document(NORD, document["id"].as_str().unwrap()).await.unwrap();
        assert_eq!(stored["action"], document["action"]);
    }
    let cost = "select sum(cost_micro_usd)::bigint from billing_events";
    let costs: i64 = kinds.iter().map(|kind| documents[kind]["cost"]["cost_micro_usd"].as_i64().unwrap()).sum();
    assert_eq!(app.db.count(cost).await, costs);
    let agents: BTreeSet<String> = app.get(PATH, &olga).await.expect(200)["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| action["agent"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(agents.into_iter().collect::<Vec<_>>(), ["analyst", "blogger", "lead_assigner", "renderer"]);
}
