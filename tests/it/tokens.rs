//! Who gets in.

use integration_tests::{
    TestApp,
    people::{BRICK, CLEO, DORA, LAKESIDE, NORD, RENATA, RUFUS},
};
use sandbox::auth::User;
use serde_json::{Value, json};
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
    app.get(&path, &renata).await.expect_error(404, "render_request_not_found");
    app.post("/v1/uploads", &renata, &json!({ "content_type": "image/png", "bytes": 1 }))
        .await
        .expect_error(403, "organization_missing");
    refused(&app, "spine_agent_short", 401, "token_malformed").await;
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
