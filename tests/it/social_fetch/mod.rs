//! Readings of social accounts: what they bring, where they go on, and what they leave out.

mod comments;
mod figures;
mod limits;
mod messages;
mod requests;

use integration_tests::{
    TestApp,
    people::{OLGA, Person},
};
use sandbox::{instagram, tiktok};
use serde_json::Value;
use uuid::Uuid;

/// What an account of Instagram allowed.
const INSTAGRAM: &str = "{instagram_business_basic,instagram_business_manage_messages,instagram_business_manage_comments,instagram_business_manage_insights}";
/// What an account of TikTok's API for Business allowed.
const BUSINESS: &str = "{user.info.basic,user.insights,comment.list,video.list,video.insights,message.list.read}";
/// What an account of TikTok's Display API allowed.
const DISPLAY: &str = "{user.info.basic,user.info.stats,video.list}";

/// Connects an account, as a person's consent would.
pub(crate) async fn connect(
    app: &TestApp,
    person: &Person,
    (platform, api, scopes): (&str, &str, &str),
    (platform_id, username, token): (&str, &str, &str),
) -> Uuid {
    let sealed = app.stack.seal_account_token(person.org, token).unwrap();
    let insert = format!(
        "insert into social_accounts (org_id, platform, platform_id, username, api, scopes, access_token)
         values ('{}', '{platform}', '{platform_id}', '{username}', '{api}', '{scopes}', '{sealed}') returning id::text",
        person.org
    );
    app.db.text(&insert).await.parse().unwrap()
}

/// An account of Instagram that Olga's organisation has connected.
pub(crate) async fn instagram(app: &TestApp) -> (Uuid, instagram::Connected) {
    let connected = app.stack.sandbox.instagram.add_account("nordateljen", "Nord Ateljé");
    let known = (connected.id.as_str(), "nordateljen", connected.token.as_str());
    (connect(app, &OLGA, ("instagram", "instagram_login", INSTAGRAM), known).await, connected)
}

/// An account of TikTok's API for Business that Olga's organisation has connected.
pub(crate) async fn business(app: &TestApp) -> (Uuid, tiktok::Connected) {
    let connected = app.stack.sandbox.tiktok.add_account("nordateljen", "Nord Ateljé", &[tiktok::Platform::Business]);
    let token = connected.business_token.clone().unwrap();
    let known = (connected.open_id.as_str(), "nordateljen", token.as_str());
    (connect(app, &OLGA, ("tiktok", "tiktok_business", BUSINESS), known).await, connected)
}

/// An account of TikTok's Display API that Olga's organisation has connected.
pub(crate) async fn display(app: &TestApp) -> (Uuid, tiktok::Connected) {
    let connected = app.stack.sandbox.tiktok.add_account("nordateljen", "Nord Ateljé", &[tiktok::Platform::Display]);
    let token = connected.display_token.clone().unwrap();
    let known = (connected.open_id.as_str(), "nordateljen", token.as_str());
    (connect(app, &OLGA, ("tiktok", "tiktok_display", DISPLAY), known).await, connected)
}

/// Has an account read, and waits until nothing is left to do at once. The job.
pub(crate) async fn read(app: &TestApp, account: Uuid) -> Value {
    let token = app.token(&OLGA);
    let admitted = app.post(&format!("/v1/social/accounts/{account}/fetch"), &token, &Value::Null).await.expect(202);
    app.stack.social.drained().await;
    app.get(admitted["job"]["href"].as_str().unwrap(), &token).await.expect(200)
}

/// The same, for a reading that goes well. What it came to.
pub(crate) async fn succeeded(app: &TestApp, account: Uuid) -> Value {
    let job = read(app, account).await;
    assert_eq!(job["status"], "succeeded", "{job} {}", app.logs());
    assert_eq!(job["result"]["failed"], serde_json::json!({}), "{job}");
    job["result"]["read"].clone()
}

/// Makes a job that waits due, and has it worked on.
async fn go_on(app: &TestApp) {
    app.db.run("update jobs set run_after = now() where job_type = 'social_fetch'").await;
    app.stack.sweep().await.unwrap();
    app.stack.social.drained().await;
}

/// What of messages and comments is there, as text: `content`, in the order of the platform's times.
async fn inbox(app: &TestApp) -> String {
    app.db
        .text(
            "select coalesce(string_agg(coalesce(content, '-') || case when deleted_at is not null then '!' else '' end, ' ' order by received_at, content), '')
               from social_messages",
        )
        .await
}

/// Every statement that readings have.
pub(crate) async fn scenario(app: &TestApp) {
    comments::every_statement(app).await;
    requests::every_statement(app).await;
}
