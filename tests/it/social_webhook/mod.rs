//! What Meta and TikTok deliver, through the deployed function: who is believed, what is stored for whom, and what comes of it.

mod outcomes;
mod split;
mod verified;

use integration_tests::{Answer, TestApp, TestDatabase};
use sandbox::{instagram, tiktok};
use serde_json::Value;
use uuid::Uuid;

use crate::social_inbox::accounts;

/// An account of an organisation at a platform.
pub(crate) async fn connect(app: &TestApp, org: Uuid, platform: &str, platform_id: &str) -> Uuid {
    let id = Uuid::now_v7();
    accounts(&app.db, org, platform, &[(id, platform_id.to_owned())]).await;
    id
}

/// Posts a body with these headers.
async fn post(app: &TestApp, path: &str, headers: &[(&str, String)], body: &[u8]) -> Answer {
    let mut request = app.client.post(format!("{}{path}", app.stack.url)).body(body.to_vec());
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    integration_tests::answer(request).await
}

/// Posts a body as Meta does.
pub(crate) async fn meta(app: &TestApp, body: &[u8]) -> Answer {
    let secret = app.stack.sandbox.instagram.app_secret().get();
    post(app, "/webhooks/meta", &instagram::headers(body, &secret), body).await
}

/// Posts a body as TikTok does, signed at this time.
async fn tiktok_at(app: &TestApp, body: &[u8], at: i64) -> Answer {
    let secret = app.stack.sandbox.tiktok.client_secret().get();
    post(app, "/webhooks/tiktok", &tiktok::headers(tiktok::Platform::Business, body, &secret, at), body).await
}

/// Waits until all that was stored is merged.
pub(crate) async fn merged(app: &TestApp) {
    app.stack.queue("social-events").unwrap().drained().await;
}

/// Every statement that deliveries and the inbox have.
pub(crate) async fn scenario(app: &TestApp) {
    outcomes::every_statement(app).await;
}

/// One JSON value.
async fn value(db: &TestDatabase, query: &str) -> Value {
    serde_json::from_str(&db.text(&format!("select ({query})::text")).await).unwrap()
}
