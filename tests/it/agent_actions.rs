//! What agents did that are not Spine's own: recorded whole, once, in the right name and within limits, or not at all.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::{StreamExt, future::join_all, stream};
use integration_tests::{
    Answer, TestApp,
    acting::{Actor, attempt},
    people::{ADAM, Agent, BRICK, CLEO, DAN, DORA, HARBOUR, LAKESIDE, NORD, OLGA, OSCAR, RENATA, RUFUS, SVEN, UMA},
    small_photo,
};
use reqwest::Method;
use sandbox::{Calls, Moment, Tap, Verdict};
use serde_json::{Value, json};
use shared::{
    seal::{Aad, SealingKey, SubjectKey},
    secrets::SecretValue,
};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

const PATH: &str = "/v1/agent-actions";

/// An agent of Atelier Nord that is none of Spine's, and one of the other organisation.
const BLOGGER: Agent = Agent { id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0a11), org: NORD };
const PAINTER: Agent = Agent { id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0a12), org: BRICK };

async fn start() -> (TestApp, String) {
    let app = TestApp::start().await;
    app.db
        .run(&format!(
            "insert into agents (id, org_id, name, kind, role_id) values
                 ('{}', '{NORD}', 'Bruno', 'blogger', '00000000-0000-7000-8000-000000000007'),
                 ('{}', '{BRICK}', 'Pia', 'painter', '00000000-0000-7000-8000-000000000007')",
            BLOGGER.id, PAINTER.id
        ))
        .await;
    let token = app.agent_token(&BLOGGER).await;
    (app, token)
}

fn draft() -> Value {
    json!({
        "action": "blog_post.drafted", "resource": { "type": "blog_post", "id": "draft-7" },
        "input": { "topic": "lime plaster" }, "decision": { "why": "asked for twice" }, "output": { "words": 812 },
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut body = draft();
    body[name] = value;
    body
}

async fn limit(app: &TestApp, agent: &str, scope: &str, requests: u32) {
    app.db
        .run(&format!(
            "insert into agent_limits (org_id, agent, scope, period, max_requests) values ('{NORD}', '{agent}', '{scope}', 'month', {requests})"
        ))
        .await;
}

async fn one(app: &TestApp, query: &str) -> Value {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut app.db.admin().await).await.unwrap()
}

async fn keyed(app: &TestApp, token: &str, body: &Value, key: &str) -> Answer {
    app.send_keyed(Method::POST, PATH, token, Some(body), Some(key)).await
}

fn id(answer: &Value) -> String {
    answer["id"].as_str().unwrap().to_owned()
}

/// How many rows there are of everything that an action leaves.
async fn left(app: &TestApp) -> Value {
    one(
        app,
        "select jsonb_build_object(
             'entries', (select count(*) from audit_log where agent is not null), 'documents', (select count(*) from outbox),
             'assets', (select count(*) from assets), 'deploys', (select count(*) from deploys),
             'charges', (select count(*) from billing_events), 'keys', (select count(*) from idempotency_keys),
             'used', (select coalesce(sum(used_requests), 0) from agent_usage where scope = 'agent' and period = 'month'),
             'reserved', (select coalesce(sum(reserved_requests + reserved_tokens + reserved_cost_micro_usd), 0) from agent_usage))",
    )
    .await
}

// What is recorded ---------------------------------------------------------------------------------------------------------

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
    let told = app.post(PATH, &app.token(&ADAM), &with("agent", json!("blogger"))).await.expect(201);
    let entry = one(&app, &format!("select to_jsonb(a) from audit_log a where id = '{}'", id(&told))).await;
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
    let told = app.post(PATH, &token, &draft()).await.expect(201);
    app.stack.fault("mongodb", "none", Calls::Every).unwrap();
    assert_eq!(app.document(NORD, &id(&told)).await, None);
    app.a_minute_passes().await;
    assert_eq!(app.document(NORD, &id(&told)).await.unwrap()["action"], "blog_post.drafted");
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

// Who may, and what may be named ----------------------------------------------------------------------------------------

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
        let told =
            app.post(PATH, &token, &with("resource", json!({ "type": "projects", "id": lead }))).await.expect(201);
        assert_eq!(told["resource"]["id"], json!(lead));
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
    let told = app.post(PATH, &app.token(&ADAM), &with("agent", json!("blogger"))).await.expect(201);
    let recorded = format!("select app.recorded_agent_action('{}') as it", id(&told));
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
    let told = app.post(PATH, &token, &draft()).await.expect(201);
    let forge = format!(
        "alter table audit_log disable trigger user; update audit_log set agent = 'renderer' where id = '{}'",
        id(&told)
    );
    let refused = app.db.admin().await.execute(AssertSqlSafe(forge)).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "23514", "{refused}");
}

// What is refused -----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_action_says_what_to_change_and_leaves_nothing() {
    let (app, token) = start().await;
    let text = |bytes: usize| json!({ "a": "x".repeat(bytes - 8) });
    // Short in JSON and long in the log: a number takes one byte there and twelve here.
    let numbers = json!({ "a": vec![1; 32_000] });
    let mut many = with("input", numbers.clone());
    many["decision"] = numbers.clone();
    let still = app.db.still().await;
    for (body, status, code) in [
        (with("agent", json!("a\nb")), 422, "agent_invalid"),
        (with("action", json!("drafted")), 422, "action_invalid"),
        (with("action", json!("Blog.drafted")), 422, "action_invalid"),
        (with("action", json!("render.completed")), 422, "action_reserved"),
        (with("action", json!("blog_posts.insert")), 422, "action_reserved"),
        (with("resource", json!({ "type": "x y", "id": "7" })), 422, "resource_invalid"),
        (with("input", text(65_537)), 422, "value_too_large"),
        (with("output", json!({ "a": { "$set": 1 } })), 422, "value_invalid"),
        (with("output", json!({ "a": u64::MAX })), 422, "value_invalid"),
        (with("decision", json!({ "a": "\0" })), 422, "value_invalid"),
        (many, 422, "value_too_large"),
        (with("input", json!({ "a": { "personal": "Greta", "subject": UMA.id } })), 422, "personal_invalid"),
        (with("subjects", json!([UMA.id, UMA.id])), 422, "subjects_invalid"),
        (with("assets", json!([{}])), 422, "assets_invalid"),
        (with("cost", json!({ "requests": 0 })), 422, "cost_invalid"),
        (with("cost", json!({ "tokens": -1 })), 422, "cost_invalid"),
        (
            with("deploy", json!({ "target": "a", "version": "b", "status": "done", "started_at": "x" })),
            422,
            "deploy_invalid",
        ),
        (with("input", json!([])), 400, "body_invalid"),
        (with("cost", json!({ "requests": 1.5 })), 400, "body_invalid"),
        (with("subjects", json!(["x"])), 400, "body_invalid"),
        (with("org_id", json!(BRICK)), 400, "body_invalid"),
        (json!({ "action": "a.b" }), 400, "body_invalid"),
    ] {
        keyed(&app, &token, &body, "k").await.expect_error(status, code);
    }
    app.post_raw(PATH, &token, "application/json", vec![b' '; 256 * 1024 + 1])
        .await
        .expect_error(413, "body_too_large");
    app.post_raw(PATH, &token, "text/plain", b"{}".to_vec()).await.expect_error(415, "content_type_unsupported");
    still.unchanged().await;
    // At the edge, all three at once, and it arrives in both databases.
    let mut full = with("input", text(65_536));
    full["decision"] = text(65_536);
    full["output"] = text(65_536);
    let told = keyed(&app, &token, &full, "k").await.expect(201);
    assert_eq!(app.document(NORD, &id(&told)).await.unwrap()["output"], text(65_536));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_too_large_or_empty_is_refused_before_anything_is_recorded() {
    let (app, token) = start().await;
    let put = async |bytes: usize| {
        let wanted = json!({ "content_type": "image/jpeg", "bytes": 10 });
        let upload = app.post("/v1/uploads", &token, &wanted).await.expect(201);
        let sent = app.client.put(upload["url"].as_str().unwrap()).body(vec![0xff; bytes]).send().await.unwrap();
        assert_eq!(sent.status(), 200);
        json!([{ "upload_id": upload["upload_id"] }])
    };
    for (bytes, code) in [(20 * 1024 * 1024 + 1, "asset_too_large"), (0, "asset_empty")] {
        let problem = app.post(PATH, &token, &with("assets", put(bytes).await)).await.expect_error(422, code);
        assert!(problem["detail"].as_str().unwrap().contains("assets[0]"), "{problem}");
    }
    assert_eq!(left(&app).await["entries"], 0);
    app.post(PATH, &token, &with("assets", put(20 * 1024 * 1024).await)).await.expect(201);
    let kind = "select jsonb_build_array(mime, bytes) from assets";
    assert_eq!(one(&app, kind).await, json!(["application/octet-stream", 20 * 1024 * 1024]));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_storage_an_action_with_a_file_is_not_recorded_and_one_without_is() {
    let (app, token) = start().await;
    let upload = app.upload(&token, &small_photo()).await;
    app.stack.fault("storage", "refuse", Calls::Every).unwrap();
    let answer = app.post(PATH, &token, &with("assets", json!([{ "upload_id": upload }]))).await;
    assert!(answer.headers.contains_key("retry-after"));
    answer.expect_error(503, "storage_unavailable");
    assert_eq!(left(&app).await["entries"], 0);
    app.post(PATH, &token, &draft()).await.expect(201);
}

// Limits ---------------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn forty_at_once_against_a_limit_of_fifteen_record_fifteen() {
    for scope in ["user", "agent"] {
        let (app, token) = start().await;
        limit(&app, "blogger", scope, 15).await;
        let body = with("cost", json!({ "cost_micro_usd": 7 }));
        let answers: Vec<_> = stream::iter(0..40)
            .map(|_| async { app.post(PATH, &token, &body).await })
            .buffer_unordered(20)
            .collect()
            .await;
        let (mut recorded, mut refused) = (0, 0);
        for answer in answers {
            if answer.status == 201 {
                recorded += 1;
                continue;
            }
            refused += 1;
            assert_eq!(answer.expect_error(429, "limit_reached")["scope"], scope);
        }
        assert_eq!((recorded, refused), (15, 25), "{scope}");
        let rows = left(&app).await;
        assert_eq!(
            rows,
            json!({ "entries": 15, "documents": 15, "assets": 0, "deploys": 0, "charges": 15, "keys": 0, "used": 15, "reserved": 0 })
        );
        // Once each for the window.
        let told = "select jsonb_object_agg(action, n) from (select action, count(*) as n from audit_log where action like 'limit.%' group by 1) x";
        assert_eq!(one(&app, told).await, json!({ "limit.near": 1, "limit.reached": 1 }), "{scope}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_its_limit_an_action_is_refused_until_there_is_room_and_the_key_stays_free() {
    let (app, token) = start().await;
    limit(&app, "blogger", "agent", 1).await;
    app.post(PATH, &token, &draft()).await.expect(201);
    let before = left(&app).await;
    let refused = keyed(&app, &token, &draft(), "later").await;
    let seconds: i64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    let problem = refused.expect_error(429, "limit_reached");
    let until: chrono::DateTime<chrono::Utc> = problem["until"].as_str().unwrap().parse().unwrap();
    let opens: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("select date_trunc('month', now(), 'UTC') + interval '1 month'")
            .fetch_one(&mut app.db.admin().await)
            .await
            .unwrap();
    assert_eq!((until, problem["scope"].as_str()), (opens, Some("agent")));
    let away = (opens - chrono::Utc::now()).num_seconds();
    assert!((away..=away + 60).contains(&seconds), "{seconds} to {opens}");
    assert_eq!(left(&app).await, before, "only the entry of the limit is new");
    let told =
        "select jsonb_agg(jsonb_build_array(actor, agent_id, record_id)) from audit_log where action = 'limit.reached'";
    assert_eq!(one(&app, told).await, json!([["agent", BLOGGER.id, format!("blogger/agent/{NORD}/month")]]));
    // Another body under the same key is no repetition, since nothing was recorded.
    keyed(&app, &token, &with("output", json!({})), "later").await.expect_error(429, "limit_reached");

    app.db.run("update agent_limits set max_requests = 2 where agent = 'blogger'").await;
    let recorded = keyed(&app, &token, &draft(), "later").await.expect(201);
    // A repetition is answered where there is no room for another.
    assert_eq!(keyed(&app, &token, &draft(), "later").await.expect(201), recorded);
    keyed(&app, &token, &draft(), "more").await.expect_error(429, "limit_reached");
    assert_eq!(left(&app).await["used"], 2);
    // Its own limit is no other agent's.
    app.post(PATH, &app.agent_token(&RENATA).await, &draft()).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_alone_is_larger_than_a_limit_is_refused_for_good() {
    let (app, token) = start().await;
    app.db
        .run(&format!(
            "insert into agent_limits (org_id, agent, scope, period, max_requests, max_tokens, max_cost_micro_usd)
             values ('{NORD}', 'blogger', 'project', 'day', 5, 100, 1000)"
        ))
        .await;
    let still = app.db.still().await;
    for cost in [json!({ "requests": 6 }), json!({ "tokens": 101 }), json!({ "cost_micro_usd": 1001 })] {
        let mut body = with("cost", cost);
        body["project_id"] = json!(LAKESIDE);
        app.post(PATH, &token, &body).await.expect_error(422, "limit_too_small");
    }
    still.unchanged().await;
    let mut body = with("cost", json!({ "requests": 5, "tokens": 100, "cost_micro_usd": 1000 }));
    app.post(PATH, &token, &body).await.expect(201);
    body["project_id"] = json!(LAKESIDE);
    app.post(PATH, &token, &body).await.expect(201);
    assert_eq!(app.post(PATH, &token, &body).await.expect_error(429, "limit_reached")["scope"], "project");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_limiter_cannot_answer_nothing_is_recorded() {
    let (app, token) = start().await;
    app.post(PATH, &token, &draft()).await.expect(201);
    let before = left(&app).await;
    let mut holder = app.db.admin().await;
    holder.execute("begin; update agent_usage set used_tokens = used_tokens").await.unwrap();
    let answer = keyed(&app, &token, &draft(), "k").await;
    assert_eq!(answer.headers["retry-after"], "5");
    answer.expect_error(503, "limiter_unavailable");
    holder.execute("rollback").await.unwrap();
    assert_eq!(left(&app).await, before);
    assert!(app.logs().contains("LimiterUnavailable"));
    keyed(&app, &token, &draft(), "k").await.expect(201);
}

// Personal values ----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn personal_values_are_sealed_in_both_databases_and_erased_with_their_key() {
    let (app, token) = start().await;
    let mut body = draft();
    body["subjects"] = json!([UMA.id, DORA.id]);
    body["input"] = json!({ "asked_by": { "personal": "Greta Lind", "subject": UMA.id }, "topic": "plaster" });
    body["decision"] = json!({ "why": [{ "deep": { "personal": "Greta likes lime", "subject": UMA.id } }] });
    body["output"] = json!({ "signed": { "personal": "Dora Designer", "subject": DORA.id } });
    let told = keyed(&app, &token, &body, "k").await.expect(201);
    let entry = one(&app, &format!("select to_jsonb(a) from audit_log a where id = '{}'", id(&told))).await;
    let document = app.document(NORD, &id(&told)).await.unwrap();
    let stored: String = sqlx::query_scalar(
        "select (select string_agg(to_jsonb(a)::text, ' ') from audit_log a) || (select string_agg(to_jsonb(o)::text, ' ') from outbox o)",
    )
    .fetch_one(&mut app.db.admin().await)
    .await
    .unwrap();
    for text in [stored, document.to_string(), app.logs()] {
        for personal in ["Greta", "Dora Designer", "likes lime"] {
            assert!(!text.contains(personal), "{personal} is readable: {text}");
        }
    }
    assert_eq!(entry["subject_ids"], json!([UMA.id, DORA.id]));
    assert_eq!(entry["input"]["topic"], "plaster");

    let master = SealingKey::from_secret(&SecretValue::from(app.stack.audit_key.clone())).unwrap();
    let opened = async |subject: Uuid, column: &'static str, sealed: &Value| -> Option<String> {
        let wrapped: Option<String> = sqlx::query_scalar("select wrapped_key from subject_keys where subject_id = $1")
            .bind(subject)
            .fetch_one(&mut app.db.admin().await)
            .await
            .unwrap();
        let key = SubjectKey::unwrap(&wrapped?, &master, None, NORD, subject).unwrap();
        let aad = Aad { org_id: NORD, table: "audit_log", column, key_version: 1 };
        assert_eq!(sealed["subject"], json!(subject));
        Some(String::from_utf8(key.open(&aad, sealed["sealed"].as_str().unwrap()).unwrap()).unwrap())
    };
    for held in [&entry, &document] {
        assert_eq!(opened(UMA.id, "input", &held["input"]["asked_by"]).await.as_deref(), Some("Greta Lind"));
        assert_eq!(
            opened(UMA.id, "decision", &held["decision"]["why"][0]["deep"]).await.as_deref(),
            Some("Greta likes lime")
        );
        assert_eq!(opened(DORA.id, "output", &held["output"]["signed"]).await.as_deref(), Some("Dora Designer"));
    }
    // The list shows them as they are.
    let listed = app.get(PATH, &app.token(&OLGA)).await.expect(200);
    assert_eq!(listed["actions"][0]["input"], entry["input"]);

    // Erased: what was sealed opens with nothing any more, and what comes later is not kept.
    let erased = format!("select app.destroy_subject_key('{}')", UMA.id);
    app.db.ask(&Actor::service(NORD), &erased).await.unwrap();
    assert_eq!(opened(UMA.id, "input", &entry["input"]["asked_by"]).await, None);
    assert_eq!(opened(DORA.id, "output", &entry["output"]["signed"]).await.as_deref(), Some("Dora Designer"));
    let later = app.post(PATH, &token, &body).await.expect(201);
    let entry = one(&app, &format!("select to_jsonb(a) from audit_log a where id = '{}'", id(&later))).await;
    assert_eq!(entry["input"], json!({ "asked_by": null, "topic": "plaster" }));
    assert_eq!(app.document(NORD, &id(&later)).await.unwrap()["input"], entry["input"]);
    assert_eq!(app.db.count("select count(*) from audit_log where digest <> app.audit_digest(audit_log)").await, 0);
}

// The list ------------------------------------------------------------------------------------------------------------------

async fn listed(app: &TestApp, token: &str, query: &str) -> (Vec<String>, Value) {
    let answer = app.get(&format!("{PATH}?{query}"), token).await.expect(200);
    let ids = answer["actions"].as_array().unwrap().iter().map(id).collect();
    (ids, answer["next"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_are_listed_newest_first_in_pages_by_agent_action_and_time() {
    let (app, token) = start().await;
    let renata = app.agent_token(&RENATA).await;
    let mut made = Vec::new();
    for number in 0..7 {
        let mut body = with("action", json!(if number % 3 == 0 { "blog_post.published" } else { "blog_post.drafted" }));
        body["output"] = json!({ "number": number });
        let by = if number % 2 == 0 { &token } else { &renata };
        made.push(id(&app.post(PATH, by, &body).await.expect(201)));
    }
    // Somebody else's, which nobody here sees.
    app.post(PATH, &app.agent_token(&PAINTER).await, &draft()).await.expect(201);
    let olga = app.token(&OLGA);
    let newest: Vec<String> = made.iter().rev().cloned().collect();
    let of = |numbers: &[usize]| -> Vec<String> { numbers.iter().map(|number| made[*number].clone()).collect() };
    assert_eq!(listed(&app, &olga, "").await, (newest.clone(), Value::Null));
    assert_eq!(listed(&app, &olga, "limit=7").await, (newest.clone(), Value::Null));
    let (first, next) = listed(&app, &olga, "limit=3").await;
    assert_eq!((first, &next), (of(&[6, 5, 4]), &json!(made[4])));
    let (second, next) = listed(&app, &olga, &format!("limit=3&after={}", next.as_str().unwrap())).await;
    assert_eq!((second, &next), (of(&[3, 2, 1]), &json!(made[1])));
    assert_eq!(listed(&app, &olga, &format!("limit=3&after={}", made[1])).await, (of(&[0]), Value::Null));
    assert_eq!(listed(&app, &olga, "agent=blogger").await.0, of(&[6, 4, 2, 0]));
    assert_eq!(listed(&app, &olga, "agent=renderer&limit=2").await, (of(&[5, 3]), json!(made[3])));
    assert_eq!(
        listed(&app, &olga, &format!("agent=renderer&limit=2&after={}", made[3])).await,
        (of(&[1]), Value::Null)
    );
    assert_eq!(listed(&app, &olga, "action=blog_post.published").await.0, of(&[6, 3, 0]));
    assert_eq!(listed(&app, &olga, "agent=blogger&action=blog_post.published").await.0, of(&[6, 0]));
    assert!(listed(&app, &olga, "agent=painter").await.0.is_empty());
    // From a moment on, and before one.
    let all = app.get(PATH, &olga).await.expect(200);
    let at = |number: usize| all["actions"][6 - number]["at"].as_str().unwrap().to_owned();
    assert_eq!(listed(&app, &olga, &format!("from={}", at(5))).await.0, of(&[6, 5]));
    assert_eq!(listed(&app, &olga, &format!("to={}", at(2))).await.0, of(&[1, 0]));
    assert_eq!(listed(&app, &olga, &format!("from={}&to={}&agent=blogger", at(1), at(5))).await.0, of(&[4, 2]));
    let shown = &all["actions"][0];
    assert_eq!(
        json!([shown["agent"], shown["actor"], shown["action"], shown["resource"], shown["output"]]),
        json!(["blogger", { "type": "agent", "id": BLOGGER.id }, "blog_post.published", draft()["resource"], { "number": 6 }])
    );

    for (query, code) in [
        ("limit=0", "query_invalid"),
        ("limit=101", "query_invalid"),
        ("from=yesterday", "query_invalid"),
        ("after=x", "query_invalid"),
        ("order=asc", "query_invalid"),
        ("limit=1&limit=2", "query_invalid"),
        ("agent=%00", "query_invalid"),
    ] {
        app.get(&format!("{PATH}?{query}"), &olga).await.expect_error(400, code);
    }
    // An action of another organisation is no place in this list, and none that nobody made.
    let theirs =
        one(&app, &format!("select to_jsonb(id) from audit_log where org_id = '{BRICK}' and agent is not null")).await;
    for after in [theirs.as_str().unwrap().to_owned(), Uuid::new_v4().to_string()] {
        app.get(&format!("{PATH}?after={after}"), &olga).await.expect_error(404, "agent_action_not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_for_those_who_may_read_the_audit_log() {
    let (app, token) = start().await;
    let told = app.post(PATH, &token, &draft()).await.expect(201);
    for person in [OLGA, ADAM] {
        assert_eq!(listed(&app, &app.token(&person), "").await.0, [id(&told)]);
    }
    assert!(listed(&app, &app.token(&OSCAR), "").await.0.is_empty());
    for person in [DORA, SVEN, CLEO, UMA, DAN] {
        app.get(PATH, &app.token(&person)).await.expect_error(403, "permission_missing");
    }
    app.get(PATH, &token).await.expect_error(403, "people_only");
    app.get(PATH, "spine_agent_0000000000000000000000000000000000000000000")
        .await
        .expect_error(401, "agent_token_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_one_agents_actions_is_found_by_its_index_under_policies() {
    let (app, _) = start().await;
    app.db
        .run(&format!(
            "insert into audit_log (org_id, actor, action, resource_type, metadata)
             select case n % 4 when 0 then '{BRICK}'::uuid else '{NORD}' end, 'system', 'a.b', 'c',
                    case n % 3 when 0 then '{{}}' else jsonb_build_object('agent', 'agent-' || n % 50) end
               from generate_series(1, 20000) n; analyze audit_log"
        ))
        .await;
    let page = "where org_id = '01900000-0000-7000-8000-000000000001' and {} and occurred_at >= 'epoch'
                  and (occurred_at, id) < ('2100-01-01', '00000000-0000-0000-0000-000000000000') order by occurred_at desc, id desc limit 51";
    for (condition, index) in
        [("agent = 'agent-7'", "audit_log_org_id_agent_idx"), ("agent is not null", "audit_log_org_id_acted_idx")]
    {
        let mut conn = app.db.begin_as(&Actor::person(&OLGA).in_function()).await;
        let explain = format!("explain (format json) select * from public.audit_log {}", page.replace("{}", condition));
        let plan: Value = sqlx::query_scalar(AssertSqlSafe(explain)).fetch_one(&mut conn).await.unwrap();
        let plan = plan.to_string();
        assert!(
            plan.contains(index) && !plan.contains("\"Sort\"") && !plan.contains("Seq Scan"),
            "{condition}: {plan}"
        );
    }
}

// Spine's own agents ---------------------------------------------------------------------------------------------------------

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
        // The entry tells of the same action, and its agent is found by it.
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
    let told: i64 = kinds.iter().map(|kind| documents[kind]["cost"]["cost_micro_usd"].as_i64().unwrap()).sum();
    assert_eq!(app.db.count(cost).await, told);
    let agents: BTreeSet<String> = app.get(PATH, &olga).await.expect(200)["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| action["agent"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(agents.into_iter().collect::<Vec<_>>(), ["analyst", "blogger", "lead_assigner", "renderer"]);
}
