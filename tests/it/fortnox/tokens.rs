//! Tokens: one renewal at a time, stored before it is used, and an end that says what a person has to do.

use std::{collections::BTreeMap, io::Write, process::Stdio, sync::Arc, time::Duration};

use integration_tests::{
    TestApp,
    people::{NORD, OLGA},
    pooler,
};
use sandbox::{
    Calls,
    fortnox::{Call, Fault},
};
use shared::{
    clients::fortnox::Fortnox,
    config::Env,
    db::Database,
    secrets::Secrets,
    tokens::{TokenError, Tokens},
};

use tokio::io::AsyncWriteExt;

use super::connect;

/// How many processes want a token at once.
const PROCESSES: usize = 50;

/// What the environment of a process says.
fn settings(app: &TestApp, url: &str) -> BTreeMap<String, String> {
    let fortnox = &app.stack.sandbox.fortnox;
    let key = std::fs::read_to_string(app.stack.logs.parent().unwrap().join("integration.key")).unwrap();
    let at = format!("http://{}", app.stack.sandbox.addresses.fortnox);
    let secret = fortnox.client_secret().get();
    let id = fortnox.client_id();
    [
        ("DATABASE_URL", url),
        ("DATABASE_MODE", "transaction_pooler"),
        ("INTEGRATION_KEY", key.trim()),
        ("FORTNOX_CLIENT_ID", id.as_str()),
        ("FORTNOX_CLIENT_SECRET", secret.as_str()),
        ("FORTNOX_AUTH_URL", at.as_str()),
        ("FORTNOX_API_URL", at.as_str()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// What a process of its own has: a connection, a client, a cache of secrets.
pub(super) fn process(app: &TestApp, url: &str, patience: Duration) -> Tokens<Arc<Fortnox>> {
    of(&settings(app, url), patience)
}

fn of(settings: &BTreeMap<String, String>, patience: Duration) -> Tokens<Arc<Fortnox>> {
    let env = Env::from_iter(settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let secrets = Arc::new(Secrets::from_env(&env).unwrap());
    Tokens {
        db: Database::from_env(&env, Arc::clone(&secrets)).unwrap(),
        issuer: Arc::new(Fortnox::from_env(&env, Arc::clone(&secrets)).unwrap()),
        secrets,
        clock: chrono::Utc::now,
        patience,
    }
}

/// Set in the processes that a test starts of itself.
const IS_A_PART: &str = "SPINE_TEST_IS_A_PART";

/// Whether this is one of the processes that a test has started of itself: it does its part, and the test is another process's.
pub(super) fn is_a_part() -> bool {
    std::env::var_os(IS_A_PART).is_some()
}

/// The test of this name starts fifty processes of itself, which begin at the same moment. What each says.
pub(super) async fn fifty(app: &TestApp, url: &str, test: &str) -> Vec<String> {
    let settings = serde_json::to_string(&settings(app, url)).unwrap();
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture"]).env(IS_A_PART, "");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        processes.push(command.spawn().unwrap());
    }
    // All have started before the first is given what it takes to begin.
    for process in &mut processes {
        let mut input = process.stdin.take().unwrap();
        input.write_all(format!("{settings}\n").as_bytes()).await.unwrap();
    }
    let ended = futures::future::join_all(processes.into_iter().map(|process| process.wait_with_output())).await;
    let said = ended.into_iter().map(|output| String::from_utf8(output.unwrap().stdout).unwrap());
    said.map(|said| {
        let line = said.lines().find_map(|line| line.strip_prefix("said "));
        line.unwrap_or_else(|| panic!("a process said {said}")).to_owned()
    })
    .collect()
}

/// What a process of its own has, as the one that started it says.
pub(super) fn started() -> Tokens<Arc<Fortnox>> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    of(&serde_json::from_str(&line).unwrap(), Duration::from_secs(60))
}

pub(super) fn say(what: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\nsaid {what}").unwrap();
}

/// The part of a process that wants a token.
async fn want_a_token() {
    say(&match started().access(NORD).await {
        Ok(token) => format!("token {}", token.expose()),
        Err(error) => format!("error {error:?}"),
    });
}

/// A connected organisation whose access token is about to end.
async fn connected(app: &TestApp) -> i64 {
    let company = app.stack.sandbox.fortnox.create_company("Nordic Interiors AB", "556677-8899");
    assert_eq!(connect(app, &OLGA, company).await, "connected", "{}", app.logs());
    ends_in(app, "59 seconds").await;
    company
}

async fn ends_in(app: &TestApp, interval: &str) {
    app.db.run(&format!("update org_integrations set expires_at = now() + interval '{interval}'")).await;
}

/// Has tokens renewed, and then not.
pub(super) async fn renewed_and_not(app: &TestApp) {
    let tokens = process(app, &app.db.functions_url, Duration::from_secs(5));
    ends_in(app, "1 second").await;
    tokens.access(NORD).await.unwrap();
    ends_in(app, "1 second").await;
    app.stack.sandbox.fortnox.arrange(Call::Token, Fault::RateLimited, Calls::Next(1));
    tokens.access(NORD).await.unwrap_err();
}

fn renewals(app: &TestApp) -> usize {
    app.stack.sandbox.fortnox.token_requests().get("refresh_token").copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_processes_that_need_a_token_at_once_one_asks_and_all_have_the_same() {
    if is_a_part() {
        return want_a_token().await;
    }
    let app = TestApp::start().await;
    let Some((pooler, _home)) = pooler(&app.db, 4).await else { return };
    let company = connected(&app).await;
    let before = app.stack.sandbox.fortnox.refresh_tokens(company);
    let mut had = fifty(
        &app,
        &pooler.url,
        "fortnox::tokens::of_fifty_processes_that_need_a_token_at_once_one_asks_and_all_have_the_same",
    )
    .await;
    assert!(had.iter().all(|said| said.starts_with("token ")), "{had:?}");
    had.dedup();
    assert_eq!(had.len(), 1, "they have different tokens");
    assert_eq!(renewals(&app), 1);
    // The pair that is stored is the one that is good.
    let after = app.stack.sandbox.fortnox.refresh_tokens(company);
    assert!(after.len() == 1 && after != before, "{after:?}");
    ends_in(&app, "1 second").await;
    process(&app, &pooler.url, Duration::from_secs(60)).access(NORD).await.unwrap();
    assert_eq!((renewals(&app), app.db.count("select token_version::bigint from org_integrations").await), (2, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_processes_whose_pair_was_issued_and_lost_none_goes_on_asking() {
    if is_a_part() {
        return want_a_token().await;
    }
    let app = TestApp::start().await;
    let Some((pooler, _home)) = pooler(&app.db, 4).await else { return };
    connected(&app).await;
    app.stack.sandbox.fortnox.lose_next_token_answer();
    let had = fifty(
        &app,
        &pooler.url,
        "fortnox::tokens::of_fifty_processes_whose_pair_was_issued_and_lost_none_goes_on_asking",
    )
    .await;
    assert!(had.iter().all(|said| said.starts_with("error ")), "{had:?}");
    assert!(had.iter().filter(|said| said.contains("Reconnect")).count() >= PROCESSES - 1, "{had:?}");
    // The one that was lost, and the one that was refused, which says that it was.
    assert_eq!(renewals(&app), 2);
    assert_eq!(app.db.text("select status from org_integrations").await, "reconnect");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_a_minute_before_it_ends_and_not_before_that() {
    let app = TestApp::start().await;
    connected(&app).await;
    let tokens = process(&app, &app.db.functions_url, Duration::from_secs(5));
    ends_in(&app, "75 seconds").await;
    tokens.access(NORD).await.unwrap();
    assert_eq!(renewals(&app), 0);
    ends_in(&app, "60 seconds").await;
    tokens.access(NORD).await.unwrap();
    assert_eq!(renewals(&app), 1);
    let hour = "select count(*) from org_integrations where expires_at > now() + interval '59 minutes' and refreshing_since is null";
    assert_eq!(app.db.count(hour).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_was_issued_and_lost_ends_in_reconnect_and_is_not_asked_for_again_and_again() {
    let app = TestApp::start().await;
    let company = connected(&app).await;
    let tokens = process(&app, &app.db.functions_url, Duration::from_secs(5));
    app.stack.sandbox.fortnox.lose_next_token_answer();
    let lost = tokens.access(NORD).await;
    assert!(matches!(lost, Err(TokenError::Provider(_))), "{lost:?}");
    let uncertain = "select count(*) from org_integrations where status = 'connected' and uncertain_since is not null and refreshing_since is null";
    assert_eq!(app.db.count(uncertain).await, 1);
    // Nobody knows yet whether it was taken: once more, and it was.
    for _ in 0..3 {
        let refused = tokens.access(NORD).await;
        assert!(matches!(refused, Err(TokenError::Reconnect)), "{refused:?}");
    }
    assert_eq!(renewals(&app), 2);
    assert_eq!(app.db.text("select status from org_integrations").await, "reconnect");
    // A person consents again.
    assert_eq!(connect(&app, &OLGA, company).await, "connected");
    tokens.access(NORD).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_fails_without_taking_the_token_is_asked_again_later() {
    let app = TestApp::start().await;
    connected(&app).await;
    let tokens = process(&app, &app.db.functions_url, Duration::from_secs(5));
    for fault in [Fault::RateLimited, Fault::BadGateway] {
        app.stack.sandbox.fortnox.arrange(Call::Token, fault, Calls::Next(1));
        let failed = tokens.access(NORD).await;
        assert!(matches!(failed, Err(TokenError::Provider(_))), "{failed:?}");
        assert_eq!(app.db.text("select status from org_integrations").await, "connected");
    }
    tokens.access(NORD).await.unwrap();
    assert_eq!(app.db.count("select count(*) from org_integrations where uncertain_since is null").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_died_while_renewing_is_waited_for_a_minute_and_then_replaced() {
    let app = TestApp::start().await;
    connected(&app).await;
    let tokens = process(&app, &app.db.functions_url, Duration::from_millis(300));
    let since = async |ago: &str| {
        app.db.run(&format!("update org_integrations set refreshing_since = now() - interval '{ago}'")).await;
    };
    since("50 seconds").await;
    let waited = tokens.access(NORD).await;
    assert!(matches!(waited, Err(TokenError::Busy)), "{waited:?}");
    assert_eq!(renewals(&app), 0);
    since("60 seconds").await;
    tokens.access(NORD).await.unwrap();
    assert_eq!(renewals(&app), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_service_accounts_no_refresh_token_is_kept_and_a_lost_answer_costs_nothing() {
    let app = TestApp::with(&[("FORTNOX_SERVICE_ACCOUNTS", "true")]).await;
    app.stack.sandbox.fortnox.set_service_accounts(true);
    connected(&app).await;
    let kept =
        "select count(*) from org_integrations where grant_type = 'client_credentials' and refresh_token is null";
    assert_eq!(app.db.count(kept).await, 1);
    let tokens = process(&app, &app.db.functions_url, Duration::from_secs(5));
    app.stack.sandbox.fortnox.lose_next_token_answer();
    let lost = tokens.access(NORD).await;
    assert!(matches!(lost, Err(TokenError::Provider(_))), "{lost:?}");
    tokens.access(NORD).await.unwrap();
    let asked = app.stack.sandbox.fortnox.token_requests();
    assert_eq!((asked.get("client_credentials"), asked.get("refresh_token")), (Some(&2), None));
    assert_eq!(app.db.text("select status from org_integrations").await, "connected");
}
