//! Processes that want tokens: each has a connection, a client and a cache of secrets of its own.

use std::{collections::BTreeMap, io::Write, process::Stdio, sync::Arc, time::Duration};

use integration_tests::TestApp;
use shared::{
    clients::{fortnox::Fortnox, social_apps::SocialApps},
    config::Env,
    db::Database,
    secrets::Secrets,
    tokens::Tokens,
};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

/// How many processes want a token at once.
pub(crate) const PROCESSES: usize = 50;

/// What the environment of a process says.
pub(crate) type Settings = BTreeMap<String, String>;

/// The settings of a process that reaches the database at `url`.
pub(crate) fn settings(app: &TestApp, url: &str) -> Settings {
    let sandbox = &app.stack.sandbox;
    let key = std::fs::read_to_string(app.stack.logs.parent().unwrap().join("integration.key")).unwrap();
    let fortnox = format!("http://{}", sandbox.addresses.fortnox);
    let instagram = format!("http://{}", sandbox.addresses.instagram);
    let tiktok = format!("http://{}", sandbox.addresses.tiktok);
    [
        ("DATABASE_URL", url.to_owned()),
        ("DATABASE_MODE", "transaction_pooler".to_owned()),
        ("INTEGRATION_KEY", key.trim().to_owned()),
        ("FORTNOX_CLIENT_ID", sandbox.fortnox.client_id()),
        ("FORTNOX_CLIENT_SECRET", sandbox.fortnox.client_secret().get()),
        ("FORTNOX_AUTH_URL", fortnox.clone()),
        ("FORTNOX_API_URL", fortnox),
        ("INSTAGRAM_CLIENT_ID", sandbox.instagram.client_id()),
        ("INSTAGRAM_CLIENT_SECRET", sandbox.instagram.client_secret().get()),
        ("INSTAGRAM_GRAPH_URL", instagram),
        ("TIKTOK_CLIENT_KEY", sandbox.tiktok.client_key()),
        ("TIKTOK_CLIENT_SECRET", sandbox.tiktok.client_secret().get()),
        ("TIKTOK_BUSINESS_CLIENT_ID", sandbox.tiktok.business_client_id()),
        ("TIKTOK_BUSINESS_CLIENT_SECRET", sandbox.tiktok.business_client_secret().get()),
        ("TIKTOK_API_URL", tiktok.clone()),
        ("TIKTOK_BUSINESS_URL", tiktok),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The door to Fortnox' tokens.
pub(crate) fn fortnox(settings: &Settings, patience: Duration) -> Tokens<Arc<Fortnox>> {
    door(settings, patience, |env, secrets| Arc::new(Fortnox::from_env(env, secrets).unwrap()))
}

/// The door to social accounts' tokens.
pub(crate) fn social(settings: &Settings, patience: Duration) -> Tokens<Arc<SocialApps>> {
    door(settings, patience, |env, secrets| Arc::new(SocialApps::from_env(env, secrets).unwrap()))
}

fn door<I>(settings: &Settings, patience: Duration, issuer: impl FnOnce(&Env, Arc<Secrets>) -> I) -> Tokens<I> {
    let env = Env::from_iter(settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let secrets = Arc::new(Secrets::from_env(&env).unwrap());
    Tokens {
        db: Database::from_env(&env, Arc::clone(&secrets)).unwrap(),
        issuer: issuer(&env, Arc::clone(&secrets)),
        secrets,
        clock: chrono::Utc::now,
        patience,
    }
}

/// Set in the processes that a test starts of itself.
const IS_A_PART: &str = "SPINE_TEST_IS_A_PART";

/// Whether this is one of the processes that a test has started of itself: it does its part, and the test is another process's.
pub(crate) fn is_a_part() -> bool {
    std::env::var_os(IS_A_PART).is_some()
}

/// A process of the test of this name, which begins once it is given its settings.
pub(crate) fn another(test: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(IS_A_PART, "");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn().unwrap()
}

/// Has a process begin.
pub(crate) async fn give(process: &mut Child, settings: &Settings) {
    let mut input = process.stdin.take().unwrap();
    let line = serde_json::to_string(settings).unwrap();
    input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
}

/// The test of this name starts fifty processes of itself, which begin at the same moment. What each says.
pub(crate) async fn fifty(settings: &Settings, test: &str) -> Vec<String> {
    let mut processes: Vec<Child> = (0..PROCESSES).map(|_| another(test)).collect();
    // All have started before the first is given what it takes to begin.
    for process in &mut processes {
        give(process, settings).await;
    }
    let ended = futures::future::join_all(processes.into_iter().map(|process| process.wait_with_output())).await;
    let said = ended.into_iter().map(|output| String::from_utf8(output.unwrap().stdout).unwrap());
    said.map(|said| {
        let line = said.lines().find_map(|line| line.strip_prefix("said "));
        line.unwrap_or_else(|| panic!("a process said {said}")).to_owned()
    })
    .collect()
}

/// What the process that started this one gave it.
pub(crate) fn given() -> Settings {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

pub(crate) fn say(what: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\nsaid {what}").unwrap();
}
