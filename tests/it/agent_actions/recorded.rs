//! What is recorded.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_action_is_there_once_with_all_that_belongs_to_it_however_often_it_is_told() {
    let (app, token) = start().await;
    limit(&app, "blogger", "user", 10).await;
    let upload = app.upload(&token, &small_photo()).await;
    let mut body = draft();
    body["project_id"] = json!(LAKESIDE);
    body["subjects"] = json!([UMA.id]);
    body["assets"] = json!([{ "upload_id": upload }]);
    body["deploy"] = json!({
        "target": "blog", "version": "7", "status": "succeeded", "started_at": "2026-11-29T10:00:00Z",
        "finished_at": "2026-11-29T10:01:00Z", "metadata": { "url": "https://example.com/7" },
    });
    body["cost"] = json!({ "requests": 2, "tokens": 900, "cost_micro_usd": 1234 });
    let first = keyed(&app, &token, &body, "once").await.expect(201);
    let id = id(&first);
    assert_eq!(
        (&first["agent"], &first["action"], &first["usage"]),
        (
            &json!("blogger"),
            &json!("blog_post.drafted"),
            &json!({ "requests": 2, "tokens": 900, "cost_micro_usd": 1234 })
        )
    );
    for _ in 0..2 {
        assert_eq!(keyed(&app, &token, &body, "once").await.expect(201), first);
    }
    // One upload has a key row of its own only where it was sent with one.
    let rows = json!({ "entries": 1, "documents": 1, "assets": 1, "deploys": 1, "charges": 1, "keys": 1, "used": 2, "reserved": 0 });
    assert_eq!(left(&app).await, rows);

    let entry = one(&app, &format!("select to_jsonb(a) from audit_log a where id = '{id}'")).await;
    assert_eq!(
        json!([entry["actor"], entry["agent_id"], entry["user_id"], entry["org_id"], entry["agent"], entry["action"]]),
        json!(["agent", BLOGGER.id, null, NORD, "blogger", "blog_post.drafted"])
    );
    assert_eq!(
        json!([
            entry["resource_type"],
            entry["record_id"],
            entry["input"],
            entry["decision"],
            entry["output"],
            entry["subject_ids"]
        ]),
        json!(["blog_post", "draft-7", draft()["input"], draft()["decision"], draft()["output"], [UMA.id]])
    );
    assert_eq!(
        entry["metadata"],
        json!({
            "agent": "blogger", "assets": first["assets"], "deploy": first["deploy"], "project_id": LAKESIDE,
            "cost": { "requests": 2, "tokens": 900, "cost_micro_usd": 1234 },
        })
    );
    assert!(entry["request_id"].is_string() && entry["ip"].as_str().is_some_and(|ip| ip.starts_with("v1.")), "{entry}");
    assert_eq!(app.db.count("select count(*) from audit_log where digest <> app.audit_digest(audit_log)").await, 0);

    let asset = one(&app, "select to_jsonb(a) from assets a").await;
    assert_eq!(
        json!([
            asset["id"],
            asset["bucket"],
            asset["path"],
            asset["mime"],
            asset["bytes"],
            asset["created_by_agent"],
            asset["source_id"]
        ]),
        json!([
            first["assets"][0],
            "project-media",
            format!("{NORD}/uploads/{}/{upload}", BLOGGER.id),
            "image/jpeg",
            small_photo().len(),
            BLOGGER.id,
            id
        ])
    );
    let digest = "select count(*) from assets where sha256 = ";
    let known = format!("{digest} sha256(decode('{}', 'hex'))", hex::encode(small_photo()));
    assert_eq!(app.db.count(&known).await, 1);
    let deploy = one(&app, "select to_jsonb(d) - 'created_at' - 'org_id' from deploys d").await;
    assert_eq!(
        deploy,
        json!({
            "id": first["deploy"], "target": "blog", "version": "7", "status": "succeeded", "actor": "blogger",
            "started_at": "2026-11-29T10:00:00+00:00", "finished_at": "2026-11-29T10:01:00+00:00",
            "metadata": { "url": "https://example.com/7" },
        })
    );
    let charge = "select jsonb_build_array(org_id, kind, quantity, cost_micro_usd, estimated, source_table, source_id) from billing_events";
    assert_eq!(one(&app, charge).await, json!([NORD, "agent_action", 2, 1234, false, "audit_log", id]));
    // In every window that counts it: the limit's, and the month of the agent as a whole.
    let windows = "select jsonb_agg(jsonb_build_array(agent, scope, scope_id, period, used_requests, used_tokens, used_cost_micro_usd) order by scope) from agent_usage";
    assert_eq!(
        one(&app, windows).await,
        json!([
            ["blogger", "agent", NORD, "month", 2, 900, 1234],
            ["blogger", "user", BLOGGER.id, "month", 2, 900, 1234]
        ])
    );

    let document = app.document(NORD, &id).await.expect("the document is delivered before the answer");
    for (name, value) in [
        ("kind", json!("agent_action")),
        ("agent", json!("blogger")),
        ("action", json!("blog_post.drafted")),
        ("resource", json!({ "type": "blog_post", "id": "draft-7" })),
        ("input", draft()["input"].clone()),
        ("decision", draft()["decision"].clone()),
        ("output", draft()["output"].clone()),
        ("subjects", json!([UMA.id])),
        ("assets", first["assets"].clone()),
        ("deploy", first["deploy"].clone()),
        ("project_id", json!(LAKESIDE)),
        ("recorded_by", json!(BLOGGER.id)),
    ] {
        assert_eq!(document[name], value, "{name}: {document}");
    }
    assert_eq!(app.document(BRICK, &id).await, None);
    keyed(&app, &token, &draft(), "once").await.expect_error(422, "idempotency_key_reused");
    assert_eq!(left(&app).await, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_costs_nothing_is_charged_to_nobody_and_a_known_file_is_recorded_once() {
    let (app, token) = start().await;
    let upload = app.upload(&token, &small_photo()).await;
    let path = format!("project-media/{NORD}/uploads/{}/{upload}", BLOGGER.id);
    let drafted = app.post(PATH, &token, &with("assets", json!([{ "upload_id": upload }]))).await.expect(201);
    let again = app.post(PATH, &token, &with("assets", json!([{ "path": path }]))).await.expect(201);
    assert_eq!(again["assets"], drafted["assets"]);
    assert_ne!(again["id"], drafted["id"]);
    let rows = json!({ "entries": 2, "documents": 2, "assets": 1, "deploys": 0, "charges": 0, "keys": 0, "used": 2, "reserved": 0 });
    assert_eq!(left(&app).await, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_records_for_an_agent_of_their_organisation_in_their_own_name() {
    let (app, _) = start().await;
    let answered = app.post(PATH, &app.token(&ADAM), &with("agent", json!("blogger"))).await.expect(201);
    let entry = one(&app, &format!("select to_jsonb(a) from audit_log a where id = '{}'", id(&answered))).await;
    assert_eq!(
        json!([entry["actor"], entry["user_id"], entry["agent_id"], entry["agent"], entry["subject_ids"]]),
        json!(["user", ADAM.id, null, "blogger", [ADAM.id]])
    );
    assert!(entry["user_agent"].is_null() || entry["user_agent"].as_str().unwrap().starts_with("v1."));
    // Of a kind that has a limit and no agent of its own.
    app.post(PATH, &app.token(&OLGA), &with("agent", json!("analyst"))).await.expect(201);
    let counted =
        "select jsonb_object_agg(agent, used_requests) from agent_usage where scope = 'agent' and period = 'month'";
    assert_eq!(one(&app, counted).await, json!({ "blogger": 1, "analyst": 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_mongodb_an_action_is_recorded_and_its_document_follows() {
    let (app, token) = start().await;
    app.stack.fault("mongodb", "refuse", Calls::Every).unwrap();
    let answered = app.post(PATH, &token, &draft()).await.expect(201);
    app.stack.fault("mongodb", "none", Calls::Every).unwrap();
    assert_eq!(app.document(NORD, &id(&answered)).await, None);
    app.a_minute_passes().await;
    assert_eq!(app.document(NORD, &id(&answered)).await.unwrap()["action"], "blog_post.drafted");
}

/// Cuts the connection at one moment of one exchange with Postgres. Whether it came to that is counted.
fn cut_at(wanted: Moment, number: usize) -> (Tap, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let tap: Tap = Arc::new(move |_, moment| {
        let cut = moment == wanted && seen.fetch_add(1, Ordering::SeqCst) + 1 == number;
        if cut { Verdict::Cut } else { Verdict::Pass }
    });
    (tap, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_at_any_step_records_an_action_once() {
    let (app, token) = start().await;
    let mut body = with("assets", json!([{ "upload_id": app.upload(&token, &small_photo()).await }]));
    body["deploy"] =
        json!({ "target": "blog", "version": "7", "status": "running", "started_at": "2026-11-29T10:00:00Z" });
    body["cost"] = json!({ "cost_micro_usd": 5 });
    let mut actions = BTreeSet::new();
    for wire in ["postgres", "mongodb", "storage"] {
        for moment in [Moment::Asked, Moment::Answered] {
            for number in 1.. {
                let key = format!("{wire}-{moment:?}-{number}");
                let (tap, seen) = cut_at(moment, number);
                app.stack.wire(wire).unwrap().tap(Some(tap));
                let answer = keyed(&app, &token, &body, &key).await;
                app.stack.wire(wire).unwrap().tap(None);
                assert!(answer.status == 201 || answer.status == 503, "{key}: {} {}", answer.status, answer.body);
                let again = keyed(&app, &token, &body, &key).await.expect(201);
                if answer.status == 201 {
                    assert_eq!(again["id"], answer.body["id"], "{key}");
                }
                actions.insert(id(&again));
                if seen.load(Ordering::SeqCst) < number {
                    break;
                }
            }
        }
    }
    assert!(actions.len() > 25, "only {} steps were seen", actions.len());
    let rows = left(&app).await;
    for what in ["entries", "documents", "deploys", "charges", "keys", "used"] {
        assert_eq!(rows[what], actions.len(), "{what}: {rows}");
    }
    assert_eq!((&rows["assets"], &rows["reserved"]), (&json!(1), &json!(0)));
    app.a_minute_passes().await;
    assert_eq!(app.db.count("select count(*) from outbox where delivered_at is null").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_request_sent_many_times_at_once_one_is_recorded_and_all_are_answered_with_it() {
    let (app, token) = start().await;
    // Room for one: a repetition is no second use.
    limit(&app, "blogger", "agent", 1).await;
    let body = draft();
    let answers = join_all((0..8).map(|_| keyed(&app, &token, &body, "once"))).await;
    let ids: BTreeSet<String> = answers.into_iter().map(|answer| id(&answer.expect(201))).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let rows = left(&app).await;
    assert_eq!((&rows["entries"], &rows["used"], &rows["keys"]), (&json!(1), &json!(1), &json!(1)), "{rows}");
}
