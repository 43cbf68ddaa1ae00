//! Who gets in.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use integration_tests::{
    Server, TestApp, TestDatabase,
    acting::asked,
    answer,
    people::{BRICK, CLEO, DORA, LAKESIDE, NORD, RENATA, RUFUS},
};
use reqwest::Method;
use sandbox::auth::User;
use serde_json::{Value, json, value::RawValue};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

/// A path that anyone signed in gets a 404 from, and nobody else.
const PATH: &str = "/v1/jobs/01900000-0000-7000-8000-00000000dead";

async fn refused(app: &TestApp, token: &str, status: u16, code: &str) {
    app.get(PATH, token).await.expect_error(status, code);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_accepted_only_whole_and_from_the_issuer() {
    let app = TestApp::start().await;
    let auth = &app.stack.sandbox.auth;
    let good = auth.claims(&DORA.user(), Some(DORA.org));
    app.get(PATH, &auth.sign(&good).unwrap()).await.expect_error(404, "job_not_found");

    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        auth.sign(&claims).unwrap()
    };
    let now = chrono::Utc::now().timestamp();
    refused(&app, &with("exp", json!(now - 31)), 401, "token_expired").await;
    refused(&app, &with("exp", Value::Null), 401, "token_expired").await;
    refused(&app, &with("nbf", json!(now + 3600)), 401, "token_not_yet_valid").await;
    refused(&app, &with("aud", json!("somebody-else")), 401, "token_audience_wrong").await;
    refused(&app, &with("iss", json!("https://evil.example/auth/v1")), 401, "token_issuer_wrong").await;
    refused(&app, &with("role", json!("service_role")), 401, "token_role_refused").await;
    refused(&app, &with("sub", json!("dora")), 401, "token_role_refused").await;
    refused(&app, &with("is_anonymous", json!(true)), 403, "anonymous_not_allowed").await;
    refused(&app, &auth.forge_unsigned(&good), 401, "token_malformed").await;
    refused(&app, &auth.forge_with_public_key(&good).unwrap(), 401, "token_algorithm_refused").await;
    refused(&app, &auth.forge_with_unknown_key(&good).unwrap(), 401, "token_key_unknown").await;
    refused(&app, "garbage", 401, "token_malformed").await;
    refused(&app, &"x".repeat(9000), 401, "token_malformed").await;

    let mut tampered = auth.sign(&good).unwrap();
    let middle = tampered.len() / 2;
    let other = if &tampered[middle..=middle] == "A" { "B" } else { "A" };
    tampered.replace_range(middle..=middle, other);
    assert_eq!(app.get(PATH, &tampered).await.status, 401);

    // An array of audiences is as good as one.
    app.get(PATH, &with("aud", json!(["other", "authenticated"]))).await.expect_error(404, "job_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_secret_is_taken_only_where_one_is_configured() {
    let app = TestApp::with(&[("SUPABASE_JWT_SECRET", "a-legacy-secret-of-some-length-0123456789")]).await;
    let auth = &app.stack.sandbox.auth;
    let claims = auth.claims(&DORA.user(), Some(DORA.org));
    let signed = |secret: &str| auth.sign_legacy(&claims, secret).unwrap();
    app.get(PATH, &signed("a-legacy-secret-of-some-length-0123456789")).await.expect_error(404, "job_not_found");
    refused(&app, &signed("another-secret-of-some-length-0123456789"), 401, "token_signature_invalid").await;
    refused(&app, &auth.forge_with_public_key(&claims).unwrap(), 401, "token_signature_invalid").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_is_found_and_unknown_ones_do_not_flood_the_issuer() {
    let app = TestApp::start().await;
    let auth = &app.stack.sandbox.auth;
    let old = app.token(&DORA);
    auth.rotate(false).unwrap();
    let new = app.token(&DORA);
    app.get(PATH, &new).await.expect_error(404, "job_not_found");
    app.get(PATH, &old).await.expect_error(404, "job_not_found");

    let before = auth.fetches();
    let claims = auth.claims(&DORA.user(), Some(DORA.org));
    for _ in 0..20 {
        refused(&app, &auth.forge_with_unknown_key(&claims).unwrap(), 401, "token_key_unknown").await;
    }
    assert!(auth.fetches() <= before + 1, "{} fetches for 20 unknown keys", auth.fetches() - before);

    // Known keys serve on while the issuer is down.
    auth.set_down(true);
    app.get(PATH, &new).await.expect_error(404, "job_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_never_answered_is_not_the_callers_fault() {
    let app = TestApp::start().await;
    app.stack.sandbox.auth.set_down(true);
    let answer = app.get(PATH, &app.token(&DORA)).await;
    assert!(answer.headers.contains_key("retry-after"));
    answer.expect_error(503, "keys_unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_session_sees_nothing_although_its_token_holds() {
    let app = TestApp::start().await;
    let claims = app.stack.sandbox.auth.claims(&DORA.user(), Some(DORA.org));
    let token = app.stack.sandbox.auth.sign(&claims).unwrap();
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    let path = format!("/v1/render-requests/{}", render["id"].as_str().unwrap());
    app.get(&path, &token).await.expect(200);

    let session = claims["session_id"].as_str().unwrap();
    app.db
        .run(&format!(
            "insert into public.user_sessions (id, user_id, revoked_at) values ('{session}', '{}', now())",
            DORA.id
        ))
        .await;

    app.get(&path, &token).await.expect_error(404, "render_request_not_found");
    let wanted = json!({ "content_type": "image/jpeg", "bytes": 10 });
    app.post("/v1/uploads", &token, &wanted).await.expect_error(403, "organization_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_token_works_in_its_organisation_until_it_is_revoked() {
    let app = TestApp::start().await;
    let renata = app.agent_token(&RENATA).await;
    let rufus = app.agent_token(&RUFUS).await;
    let render = app.request_render(&renata, LAKESIDE).await.expect(202);
    let path = format!("/v1/render-requests/{}", render["id"].as_str().unwrap());
    app.get(&path, &renata).await.expect(200);
    app.get(&path, &rufus).await.expect_error(404, "render_request_not_found");
    app.request_render(&rufus, LAKESIDE).await.expect_error(404, "project_not_found");

    app.db.run("update public.agent_tokens set revoked_at = now()").await;
    app.get(&path, &renata).await.expect_error(401, "agent_token_refused");
    refused(&app, "spine_agent_short", 401, "token_malformed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_token_that_does_not_stand_is_refused_by_every_route() {
    let app = TestApp::start().await;
    let token = app.agent_token(&RENATA).await;
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    app.stack.renders.drained().await;
    let (render, job) = (render["id"].as_str().unwrap(), render["job"]["href"].as_str().unwrap());
    let lead = Uuid::new_v4();
    app.db.run(&format!("insert into leads (id, org_id, client_name) values ('{lead}', '{NORD}', 'Lena')")).await;
    let upload = app.upload(&token, &integration_tests::small_photo()).await;
    let routes = [
        (Method::GET, job.to_owned(), None),
        (Method::POST, format!("{job}/cancel"), None),
        (Method::GET, format!("/v1/render-requests/{render}"), None),
        (Method::POST, format!("/v1/render-requests/{render}/process"), None),
        (Method::POST, "/v1/render-requests".to_owned(), Some(integration_tests::render_body(LAKESIDE, upload))),
        (Method::POST, "/v1/uploads".to_owned(), Some(json!({ "content_type": "image/png", "bytes": 1 }))),
        (Method::GET, "/v1/insights".to_owned(), None),
        (Method::GET, "/v1/insights/leads".to_owned(), None),
        (Method::POST, "/v1/insights/leads".to_owned(), Some(json!({ "period": "week" }))),
        (Method::POST, format!("/v1/leads/{lead}/assign"), None),
        (Method::GET, format!("/v1/leads/{lead}/assignment"), None),
        (Method::GET, "/v1/leads/assignments/report".to_owned(), None),
        (Method::POST, "/v1/billing/portal".to_owned(), Some(json!({ "return_url": "http://localhost:3000/billing" }))),
    ];
    let standing = "update agent_tokens set revoked_at = null, expires_at = null; update agents set status = 'active'";
    // Each leads somewhere while the token stands, so it is the token that is refused.
    for (method, path, body) in &routes {
        let answer = app.send(method.clone(), path, &token, body.as_ref()).await;
        assert!(
            ![400, 401, 405, 422].contains(&answer.status.as_u16()) && answer.body["code"] != "route_not_found",
            "{method} {path}: {} {}",
            answer.status,
            answer.body
        );
    }
    let unknown = format!("spine_agent_{}", "x".repeat(43));
    let mut wrong = Vec::new();
    for (state, change, token) in [
        ("unknown", "select 1", &unknown),
        ("revoked", "update agent_tokens set revoked_at = now()", &token),
        ("expired", "update agent_tokens set expires_at = now()", &token),
        ("of a paused agent", "update agents set status = 'paused'", &token),
    ] {
        app.db.run(&format!("{standing}; {change}")).await;
        for (method, path, body) in &routes {
            let answer = app.send(method.clone(), path, token, body.as_ref()).await;
            if (answer.status.as_u16(), answer.body["code"].as_str()) != (401, Some("agent_token_refused")) {
                wrong.push(format!("{state}: {method} {path}: {} {}", answer.status, answer.body["code"]));
            } else {
                assert_eq!(answer.headers["www-authenticate"], "Bearer");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    app.db.run(&format!("{standing}; update agent_tokens set expires_at = now() + interval '1 hour'")).await;
    app.get(PATH, &token).await.expect_error(404, "job_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_token_stands_until_the_moment_it_expires_or_is_revoked() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let renata = db.agent(&RENATA).await;
    let mut conn = db.admin().await;
    for (expires_at, revoked_at, status, stands) in [
        ("null", "null", "active", true),
        ("now() + interval '1 microsecond'", "null", "active", true),
        ("now()", "null", "active", false),
        ("now() - interval '1 microsecond'", "null", "active", false),
        ("null", "now() - interval '1 microsecond'", "active", false),
        ("null", "now()", "active", false),
        // Revoked is revoked, whatever the clock of whoever did it said.
        ("null", "now() + interval '1 hour'", "active", false),
        ("null", "null", "paused", false),
        ("now() + interval '1 hour'", "null", "paused", false),
    ] {
        // `now()` is one moment all through a transaction.
        conn.execute("begin").await.unwrap();
        let state = format!(
            "update agent_tokens set expires_at = {expires_at}, revoked_at = {revoked_at}; update agents set status = '{status}';
             select set_config('request.jwt.claims', '{}', true), set_config('role', 'spine_agent', true)",
            renata.claims
        );
        conn.execute(AssertSqlSafe(state)).await.unwrap();
        let who =
            "select app.agent_id() as id, app.agent_org_id() as org, app.agent_may('renders:create') as may".to_owned();
        let who = asked(&mut conn, &who).await.unwrap();
        let (id, org) = if stands { (json!(RENATA.id), json!(NORD)) } else { (Value::Null, Value::Null) };
        assert_eq!(who, json!([{ "id": id, "org": org, "may": stands }]), "{expires_at}, {revoked_at}, {status}");
        conn.execute("rollback").await.unwrap();
    }
}

/// Of which JSON types a claim may be with any value, and lets its bearer in; `None` where that is any.
const CLAIMS: [(&str, Option<&[&str]>); 19] = [
    ("iss", Some(&[])),
    ("sub", Some(&[])),
    ("aud", Some(&[])),
    ("exp", Some(&[])),
    ("role", Some(&[])),
    ("iat", Some(&["number"])),
    ("nbf", Some(&["number"])),
    ("jti", Some(&["string"])),
    ("session_id", Some(&["string"])),
    ("org_id", Some(&["string"])),
    ("spine_client_id", Some(&["string"])),
    ("email", Some(&["string"])),
    ("phone", Some(&["string"])),
    ("aal", Some(&["string"])),
    ("amr", Some(&["array", "null"])),
    ("app_metadata", Some(&["object", "null"])),
    ("is_anonymous", Some(&["false"])),
    // Its bearer's own, and one that a hook may add.
    ("user_metadata", None),
    ("shoe_size", None),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_another_type_than_its_own_is_refused() {
    let app = TestApp::start().await;
    let auth = &app.stack.sandbox.auth;
    let good = auth.claims(&DORA.user(), Some(DORA.org));
    let values = [
        ("null", Value::Null),
        ("true", json!(true)),
        ("false", json!(false)),
        ("number", json!(1)),
        ("string", json!("text")),
        ("array", json!([])),
        ("object", json!({})),
    ];
    let mut wrong = Vec::new();
    for (claim, types) in CLAIMS {
        for (kind, value) in &values {
            let mut claims = good.clone();
            claims[claim] = value.clone();
            let answer = app.get(PATH, &auth.sign(&claims).unwrap()).await;
            let status = match (claim, *kind) {
                // Whoever says they are anonymous is believed.
                ("is_anonymous", "true") => 403,
                _ if types.is_none_or(|types| types.contains(kind)) => 404,
                _ => 401,
            };
            if answer.status != status {
                wrong
                    .push(format!("{claim} as {kind}: {} instead of {status}: {}", answer.status, answer.body["code"]));
            }
        }
    }
    // Whom it is for may be said in a list, of texts alone.
    for (aud, status) in [
        (json!(["authenticated"]), 404),
        (json!(["other", "authenticated"]), 404),
        (json!(["authenticated", 1]), 401),
        (json!([null, "authenticated"]), 401),
        (json!([["authenticated"]]), 401),
    ] {
        let mut claims = good.clone();
        claims["aud"] = aud.clone();
        let answer = app.get(PATH, &auth.sign(&claims).unwrap()).await;
        if answer.status != status {
            wrong.push(format!("aud {aud}: {} instead of {status}", answer.status));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_cannot_hold_is_no_claim() {
    let app = TestApp::start().await;
    let auth = &app.stack.sandbox.auth;
    let good = auth.claims(&DORA.user(), Some(DORA.org)).to_string();
    let mut wrong = Vec::new();
    for (more, status) in [
        (r#""x":"\\u0000""#.to_owned(), 404),
        (r#""x":"a\u0000b""#.to_owned(), 401),
        (r#""jti":"\u0000""#.to_owned(), 401),
        (r#""a\u0000":1"#.to_owned(), 401),
        (r#""x":{"y":[1,{"z":["\u0000"]}]}"#.to_owned(), 401),
        (r#""x":{"y":[{"\u0000":null}]}"#.to_owned(), 401),
        (r#""x":"\ud800""#.to_owned(), 401),
        (r#""x":"\ud83d\ude00""#.to_owned(), 404),
        (r#""x":1e400"#.to_owned(), 401),
        (r#""x":1e308"#.to_owned(), 404),
        (r#""x":-12345678901234567890123"#.to_owned(), 404),
        (format!(r#""x":{}{}"#, "[".repeat(100), "]".repeat(100)), 404),
        (format!(r#""x":{}{}"#, "[".repeat(1000), "]".repeat(1000)), 401),
    ] {
        let claims = RawValue::from_string(good.replacen('{', &format!("{{{more},"), 1)).unwrap();
        let answer = app.get(PATH, &auth.sign(&claims).unwrap()).await;
        if answer.status != status {
            wrong.push(format!("{more}: {} instead of {status}: {}", answer.status, answer.body["code"]));
        }
    }
    // In a claim that there is already, its bearer's own included.
    for claim in ["sub", "session_id", "org_id", "email", "user_metadata"] {
        let mut claims = auth.claims(&DORA.user(), Some(DORA.org));
        let was = claims[claim].as_str().unwrap_or_default().to_owned();
        claims[claim] = if claim == "user_metadata" { json!({ "name": "\0" }) } else { json!(was + "\0") };
        let answer = app.get(PATH, &auth.sign(&claims).unwrap()).await;
        if answer.status != 401 {
            wrong.push(format!("{claim}: {} {}", answer.status, answer.body["code"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_key_verifies_only_what_it_is_meant_for() {
    let app = TestApp::start().await;
    let auth = &app.stack.sandbox.auth;
    let claims = auth.claims(&DORA.user(), Some(DORA.org));
    let mut tokens = Vec::new();
    for (entry, verifies) in [
        (json!({}), true),
        (json!({ "use": null }), true),
        (json!({ "key_ops": null }), true),
        (json!({ "use": null, "key_ops": null, "alg": null }), true),
        (json!({ "use": null, "key_ops": ["sign", "verify"] }), true),
        (json!({ "use": "enc" }), false),
        (json!({ "use": "enc", "key_ops": null }), false),
        (json!({ "use": "SIG" }), false),
        (json!({ "use": 7 }), false),
        (json!({ "key_ops": ["sign"] }), false),
        (json!({ "use": null, "key_ops": ["deriveBits", "deriveKey"] }), false),
        (json!({ "use": null, "key_ops": ["Verify"] }), false),
        (json!({ "key_ops": [] }), false),
        (json!({ "key_ops": "verify" }), false),
        (json!({ "alg": "ECDH-ES" }), false),
        (json!({ "alg": "ES384" }), false),
    ] {
        tokens.push((entry.to_string(), auth.sign_with_entry(&claims, &entry).unwrap(), verifies));
    }
    let keys: Value = serde_json::from_str(include_str!("../fixtures/keys/rsa.json")).unwrap();
    for (bits, verifies) in [("1024", false), ("2047", false), ("2048", true)] {
        let text = |name: &str| keys[bits][name].as_str().unwrap();
        let pkcs1 = STANDARD.decode(text("pkcs1")).unwrap();
        // Zeros in front of a number do not make it longer.
        let padded = URL_SAFE_NO_PAD.encode([vec![0; 200], URL_SAFE_NO_PAD.decode(text("n")).unwrap()].concat());
        for n in [text("n"), &padded] {
            let token = auth.sign_with_rsa(&claims, &pkcs1, n, text("e")).unwrap();
            tokens.push((format!("RSA of {bits} bits"), token, verifies));
        }
    }
    // Forty keys for something else do not crowd out one that verifies, nor does one of the same name.
    for _ in 0..40 {
        auth.sign_with_entry(&claims, &json!({ "use": "enc" })).unwrap();
    }
    auth.sign_with_entry(&claims, &json!({ "use": "enc", "kid": auth.key_id().unwrap() })).unwrap();
    tokens.push(("the signing key".to_owned(), auth.sign(&claims).unwrap(), true));
    let mut wrong = Vec::new();
    for (key, token, verifies) in tokens {
        let answer = app.get(PATH, &token).await;
        let expected = if verifies { (404, "job_not_found") } else { (401, "token_key_unknown") };
        if (answer.status.as_u16(), answer.body["code"].as_str().unwrap()) != expected {
            wrong.push(format!("{key}: {} {}", answer.status, answer.body["code"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_chooses_among_ones_own_organisations_and_no_other() {
    let app = TestApp::start().await;
    let auth = &app.stack.sandbox.auth;
    let upload = json!({ "content_type": "image/jpeg", "bytes": 10 });
    let client = shared::http_client(std::time::Duration::from_secs(30)).unwrap();
    let with_org = async |token: &str, org: &str| {
        let request = client.post(format!("{}/v1/uploads", app.stack.url)).bearer_auth(token).header("spine-org", org);
        let response = request.json(&upload).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let cleo = auth.sign_in(&CLEO.user(), None).unwrap();
    let dora = app.token(&DORA);
    for org in [NORD, BRICK] {
        let (status, body) = with_org(&cleo, &org.to_string()).await;
        assert_eq!(status, 201, "{body}");
        assert!(body["url"].as_str().unwrap().contains(&format!("/project-media/{org}/uploads/")));
    }
    assert_eq!(with_org(&dora, &BRICK.to_string()).await.0, 403);
    assert_eq!(with_org(&dora, "not-an-id").await.0, 401);
    let nobody = auth.sign_in(&User { id: Uuid::new_v4(), email: "no@body.example".to_owned() }, Some(NORD)).unwrap();
    app.post("/v1/uploads", &nobody, &upload).await.expect_error(403, "organization_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_of_one_person_is_another_in_each_of_their_organisations() {
    let app = TestApp::start().await;
    let cleo = app.stack.sandbox.auth.sign_in(&CLEO.user(), None).unwrap();
    let upload = async |org: Uuid, bytes: u32| {
        let request = app.client.post(format!("{}/v1/uploads", app.stack.url)).bearer_auth(&cleo);
        let request = request.header("spine-org", org.to_string()).header("idempotency-key", "once");
        answer(request.json(&json!({ "content_type": "image/jpeg", "bytes": bytes }))).await
    };
    let (nord, brick) = (upload(NORD, 10).await.expect(201), upload(BRICK, 20).await.expect(201));
    for (org, made, bytes, others) in [(NORD, &nord, 10, 20), (BRICK, &brick, 20, 10)] {
        assert!(made["url"].as_str().unwrap().contains(&format!("/project-media/{org}/uploads/")), "{made}");
        assert_eq!(upload(org, bytes).await.expect(201)["upload_id"], made["upload_id"]);
        upload(org, others).await.expect_error(422, "idempotency_key_reused");
    }
    assert_ne!(nord["upload_id"], brick["upload_id"]);
    let keys = "select count(*) from idempotency_keys where key = 'once'";
    assert_eq!(app.db.count(keys).await, 2);
}
