//! Who may record, and what may be named.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn nobody_records_an_action_who_may_not_and_no_agent_in_anothers_name() {
    let (app, token) = start().await;
    let renata = app.agent_token(&RENATA).await;
    let narrow = app.agent_token(&BLOGGER).await;
    app.db
        .run(&format!(
            "update agent_tokens set scopes = '{{renders:create}}' where token_hash = sha256(convert_to('{narrow}', 'UTF8'))"
        ))
        .await;
    let still = app.db.still().await;
    for person in [DORA, SVEN, CLEO, UMA] {
        let answer = app.post(PATH, &app.token(&person), &with("agent", json!("blogger"))).await;
        answer.expect_error(403, "permission_missing");
    }
    app.post(PATH, &narrow, &draft()).await.expect_error(403, "permission_missing");
    // Working in an organisation that is not theirs.
    let stranger = app.stack.sandbox.auth.sign_in(&DAN.user(), Some(NORD)).unwrap();
    app.post(PATH, &stranger, &with("agent", json!("blogger"))).await.expect_error(403, "organization_missing");
    for agent in ["renderer", "painter", "nobody"] {
        app.post(PATH, &token, &with("agent", json!(agent))).await.expect_error(403, "agent_not_own");
        app.post(PATH, &renata, &with("agent", json!(if agent == "renderer" { "blogger" } else { agent })))
            .await
            .expect_error(403, "agent_not_own");
    }
    // Another organisation's agent, and one that nobody has.
    for agent in ["painter", "nobody"] {
        app.post(PATH, &app.token(&OLGA), &with("agent", json!(agent))).await.expect_error(422, "agent_unknown");
    }
    app.post(PATH, &app.token(&OLGA), &draft()).await.expect_error(422, "agent_missing");
    app.post(PATH, "garbage", &draft()).await.expect_error(401, "token_malformed");
    still.unchanged().await;

    app.post(PATH, &token, &with("agent", json!("blogger"))).await.expect(201);
    app.db.run(&format!("update agents set status = 'paused' where id = '{}'", BLOGGER.id)).await;
    app.post(PATH, &token, &draft()).await.expect_error(401, "agent_token_refused");
    app.db
        .run(&format!(
            "update agents set status = 'active' where id = '{}'; update agent_tokens set revoked_at = now()",
            BLOGGER.id
        ))
        .await;
    app.post(PATH, &token, &draft()).await.expect_error(401, "agent_token_refused");
    assert_eq!(left(&app).await["entries"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_another_organisations_is_answered_like_what_does_not_exist() {
    let (app, token) = start().await;
    let theirs = app.upload(&app.token(&OSCAR), &small_photo()).await;
    let theirs = format!("project-media/{BRICK}/uploads/{}/{theirs}", OSCAR.id);
    let nowhere = format!("project-media/{NORD}/uploads/{}/{}", BLOGGER.id, Uuid::new_v4());
    let still = app.db.still().await;
    let said = async |body: Value| {
        let mut answer = app.post(PATH, &token, &body).await;
        answer.body["request_id"] = json!(null);
        (answer.status.as_u16(), answer.body)
    };
    let own = [json!(LAKESIDE), json!([UMA.id, CLEO.id, DORA.id])];
    for (name, is, alike, status, code) in [
        ("project_id", json!(HARBOUR), json!(Uuid::new_v4()), 404, "project_not_found"),
        ("subjects", json!([DORA.id, OSCAR.id]), json!([DORA.id, Uuid::new_v4()]), 422, "subject_unknown"),
        ("subjects", json!([UMA.id, RENATA.id]), json!([UMA.id, RUFUS.id]), 422, "subject_unknown"),
        ("assets", json!([{ "path": theirs }]), json!([{ "path": nowhere }]), 422, "asset_not_uploaded"),
        (
            "assets",
            json!([{ "path": "project-media/../x" }]),
            json!([{ "upload_id": Uuid::new_v4() }]),
            422,
            "asset_not_uploaded",
        ),
    ] {
        let (is, alike) = (said(with(name, is)).await, said(with(name, alike)).await);
        assert_eq!(is, alike, "{name}");
        assert_eq!((is.0, is.1["code"].as_str()), (status, Some(code)), "{name}: {}", is.1);
    }
    assert!(
        said(with("subjects", json!([DORA.id, OSCAR.id]))).await.1["detail"].as_str().unwrap().contains("subjects[1]")
    );
    still.unchanged().await;
    let [project, subjects] = own;
    app.post(PATH, &token, &with("project_id", project)).await.expect(201);
    app.post(PATH, &token, &with("subjects", subjects)).await.expect(201);

    // What an action was done to is a name and is looked up nowhere: whose it is changes neither the answer nor anything of theirs.
    for lead in [Uuid::new_v4(), HARBOUR] {
        let answered =
            app.post(PATH, &token, &with("resource", json!({ "type": "projects", "id": lead }))).await.expect(201);
        assert_eq!(answered["resource"]["id"], json!(lead));
    }
    assert_eq!(
        app.db.count(&format!("select count(*) from audit_log where org_id = '{BRICK}' and agent is not null")).await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_layer_holds_without_the_handler() {
    let (app, _) = start().await;
    let envelope = |agent: &str, change: Value| {
        let mut envelope = json!({
            "agent": agent, "action": "blog_post.drafted", "resource": { "type": "blog_post", "id": "7" }, "input": {}, "decision": {},
            "output": {}, "subjects": [], "assets": [], "cost": { "requests": 1, "tokens": 0, "cost_micro_usd": 0 },
        });
        for (name, value) in change.as_object().unwrap() {
            envelope[name] = value.clone();
        }
        envelope
    };
    let call = |envelope: &Value, assets: Value| {
        format!(
            "select * from app.record_agent_action('{}', '{envelope}', '{assets}', null, null, null, null)",
            Uuid::new_v4()
        )
    };
    let plain = call(&envelope("blogger", json!({})), json!([]));
    for person in [UMA, CLEO, DORA, SVEN, DAN] {
        let outcome = app.db.ask(&Actor::person(&person).in_function(), &plain).await;
        assert_eq!(outcome.map_err(|refusal| refusal.state), Err("42501".to_owned()), "{}", person.email);
    }
    // Neither through the Data API nor as the system.
    for actor in [Actor::person(&OLGA), Actor::service(NORD), Actor::role("anon")] {
        assert!(app.db.ask(&actor, &plain).await.is_err(), "{}", actor.name);
    }
    let (olga, blogger) = (Actor::person(&OLGA).in_function(), app.db.agent(&BLOGGER).await);
    for (actor, agent, change, refused) in [
        (&blogger, "renderer", json!({}), "agent_not_own"),
        (&blogger, "painter", json!({}), "agent_not_own"),
        (&olga, "painter", json!({}), "agent_unknown"),
        (&olga, "blogger", json!({ "project_id": HARBOUR }), "project_unknown"),
        (&olga, "blogger", json!({ "subjects": [OSCAR.id] }), "subject_unknown"),
        (&olga, "blogger", json!({ "action": "limit.reached" }), "action_reserved"),
        (&olga, "blogger", json!({ "action": "org_members.delete" }), "action_reserved"),
    ] {
        let answer = app.db.ask(actor, &call(&envelope(agent, change), json!([]))).await.unwrap();
        assert_eq!(answer[0]["refused"], refused, "{answer}");
    }
    // A file of another organisation, and amounts that would give something back.
    let file = json!([{ "bucket": "renders", "path": format!("{BRICK}/x/y.png"), "mime": "image/png", "bytes": 1, "sha256": "00".repeat(32) }]);
    let refused = app.db.ask(&olga, &call(&envelope("blogger", json!({})), file)).await.unwrap_err();
    assert_eq!(refused.state, "23514", "{refused:?}");
    for cost in [
        json!({ "requests": -1, "tokens": 0, "cost_micro_usd": 0 }),
        json!({ "requests": 1, "tokens": -5, "cost_micro_usd": 0 }),
        json!({ "requests": 1, "tokens": 0 }),
        json!({}),
    ] {
        let refused =
            app.db.ask(&olga, &call(&envelope("blogger", json!({ "cost": cost })), json!([]))).await.unwrap_err();
        assert_eq!(refused.state, "22023", "{refused:?}");
    }
    let rows = json!({ "entries": 0, "documents": 0, "assets": 0, "deploys": 0, "charges": 0, "keys": 0, "used": 0, "reserved": 0 });
    assert_eq!(left(&app).await, rows);
    // Nor can they write what the function writes for them, or read what another recorded.
    let answered = app.post(PATH, &app.token(&ADAM), &with("agent", json!("blogger"))).await.expect(201);
    let recorded = format!("select app.recorded_agent_action('{}') as it", id(&answered));
    for (actor, known) in [(Actor::person(&ADAM).in_function(), true), (olga.clone(), false), (blogger.clone(), false)]
    {
        let answer = app.db.ask(&actor, &recorded).await.unwrap();
        assert_eq!(answer[0]["it"].is_object(), known, "{}", actor.name);
    }
    for actor in [olga, blogger] {
        let mut conn = app.db.begin_as(&actor).await;
        for statement in [
            format!(
                "insert into public.audit_log (org_id, actor, action, resource_type, metadata) values ('{NORD}', 'user', 'a.b', 'c', '{{\"agent\": \"x\"}}')"
            ),
            format!(
                "insert into public.outbox (org_id, kind, destination, payload) values ('{NORD}', 'document', 'agent_outputs', '{{}}')"
            ),
            format!("insert into public.deploys (org_id, target, version, actor) values ('{NORD}', 'a', 'b', 'c')"),
            format!(
                "insert into public.assets (org_id, kind, bucket, path, mime, bytes, sha256) values ('{NORD}', 'a', 'b', '{NORD}/c', 'd', 1, sha256('x'))"
            ),
            format!(
                "insert into public.billing_events (org_id, kind, quantity, cost_micro_usd, source_table, source_id) values ('{NORD}', 'a', 1, 1, 'b', '{NORD}')"
            ),
            "select app.claim_windows(null, null, null, null, 1, 1, 1)".to_owned(),
        ] {
            let refused = attempt(&mut conn, &statement).await.map_err(|refusal| refusal.state);
            assert_eq!(refused, Err("42501".to_owned()), "{}: {statement}", actor.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_column_of_the_agent_is_what_the_entry_says() {
    let (app, token) = start().await;
    let answered = app.post(PATH, &token, &draft()).await.expect(201);
    let forge = format!(
        "alter table audit_log disable trigger user; update audit_log set agent = 'renderer' where id = '{}'",
        id(&answered)
    );
    let refused = app.db.admin().await.execute(AssertSqlSafe(forge)).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "23514", "{refused}");
}
