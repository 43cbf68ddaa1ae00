//! Every secret can be rotated while functions run, as docs/OPERATIONS.md says.

use integration_tests::{
    Server, Setup, TestApp, TestDatabase,
    people::{DORA, LAKESIDE, NORD},
};
use local::database::with_login;
use sqlx::{AssertSqlSafe, Executor};

/// A render from warm functions, made exactly once.
async fn renders(app: &TestApp, why: &str) {
    let render = app.request_render(&app.token(&DORA), LAKESIDE).await.expect(202);
    let id = render["id"].as_str().unwrap();
    app.stack.renders.drained().await;
    app.a_minute_passes().await;
    app.made_exactly_once(NORD, id).await.unwrap_or_else(|wrong| panic!("{why}: {wrong}\n{}", app.logs()));
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_and_storage_keys_are_read_again_when_they_are_refused() {
    let app = TestApp::start().await;
    let sandbox = &app.stack.sandbox;
    renders(&app, "warm").await;
    // Functions hold the old key for five minutes; the provider takes only the new one.
    sandbox.secrets.rotate("ANTHROPIC_API_KEY", &sandbox.anthropic_key.roll());
    renders(&app, "anthropic").await;
    sandbox.secrets.rotate("GEMINI_API_KEY", &sandbox.gemini_key.roll());
    renders(&app, "gemini").await;
    assert_eq!(app.db.count("select count(*) from provider_calls where outcome <> 'ok'").await, 0);
    assert_eq!(app.db.count("select max(attempts)::bigint from jobs").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_key_is_read_again_when_it_is_refused() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    // The photo is there before; URLs signed with a key that is gone are worth nothing, so the old key outlives them.
    let upload = app.upload(&token, &integration_tests::small_photo()).await;
    let sandbox = &app.stack.sandbox;
    sandbox.secrets.rotate("STORAGE_S3_SECRET_ACCESS_KEY", &sandbox.storage_key.roll());
    let body = integration_tests::render_body(LAKESIDE, upload);
    let render = app.post("/v1/render-requests", &token, &body).await.expect(202);
    app.stack.renders.drained().await;
    app.a_minute_passes().await;
    app.made_exactly_once(NORD, render["id"].as_str().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_login_is_read_again_when_it_is_refused() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let mut admin = db.admin().await;
    let [first, second] = ["first", "second"].map(|name| format!("{name}_{}", uuid::Uuid::new_v4().simple()));
    for login in [&first, &second] {
        let made = format!(
            "create role {login} login noinherit password 'a-password';
             grant spine_caller, spine_agent, spine_service to {login} with inherit false, set true"
        );
        admin.execute(AssertSqlSafe(made)).await.unwrap();
    }
    let url = with_login(&db.functions_url, &first, "a-password").unwrap();
    let app = TestApp::set_up(Setup { db: Some(db), overrides: &[("DATABASE_URL", &url)], ..Setup::default() }).await;
    renders(&app, "warm").await;

    // The recipe: another login, the document, and only then the first one goes, with what it still holds open.
    let now = app.stack.sandbox.secrets.get("DATABASE_URL").unwrap();
    app.stack.sandbox.secrets.rotate("DATABASE_URL", &with_login(&now, &second, "a-password").unwrap());
    renders(&app, "both hold").await;
    admin.execute(AssertSqlSafe(format!("alter role {first} nologin"))).await.unwrap();
    let cut = format!("select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = '{first}'");
    assert!(app.db.count(&cut).await >= 2);
    renders(&app, "the first login is gone").await;
    let users = format!("select count(*) from pg_stat_activity where usename = '{second}'");
    assert!(app.db.count(&users).await >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_token_secret_is_rotated_while_both_hold() {
    let (old, new) = ("the-old-legacy-secret-0123456789abcdef", "the-new-legacy-secret-0123456789abcdef");
    let app = TestApp::with(&[("SUPABASE_JWT_SECRET", old)]).await;
    let auth = &app.stack.sandbox.auth;
    let signed = |secret: &str| auth.sign_legacy(&auth.claims(&DORA.user(), Some(NORD)), secret).unwrap();
    let path = "/v1/jobs/01900000-0000-7000-8000-00000000ffff";
    app.get(path, &signed(old)).await.expect_error(404, "job_not_found");
    // Written with the old one beside it. The process that knows only the old one reads again as a token of the new one comes.
    app.stack.sandbox.secrets.set("SUPABASE_JWT_SECRET_PREVIOUS", old);
    app.stack.sandbox.secrets.rotate("SUPABASE_JWT_SECRET", new);
    app.get(path, &signed(new)).await.expect_error(404, "job_not_found");
    app.get(path, &signed(old)).await.expect_error(404, "job_not_found");
    // Whoever forges makes functions read once in a while, not at every token.
    let wire = app.stack.wire("secrets").unwrap();
    let before = wire.exchanges();
    for _ in 0..10 {
        app.get(path, &signed("another-secret-altogether-0123456789ab"))
            .await
            .expect_error(401, "token_signature_invalid");
    }
    assert!(wire.exchanges() - before <= 2, "{} reads", wire.exchanges() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_key_is_rotated_for_good_with_the_old_one_named_beside_it() {
    let app = TestApp::start().await;
    renders(&app, "warm").await;
    let secrets = &app.stack.sandbox.secrets;
    let old = secrets.get("AUDIT_KEY").unwrap();
    secrets.set("AUDIT_KEY_PREVIOUS", &old);
    secrets.rotate("AUDIT_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    // Another value changes later: the document's own previous version knows nothing of the old key then.
    secrets.rotate("LOG_NOTE", "anything");
    secrets.rotate("LOG_NOTE", "anything else");
    for lambda in &app.stack.functions {
        lambda.retire();
    }
    renders(&app, "rotated").await;
}
