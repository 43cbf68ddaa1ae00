//! Fortnox: how it is connected, and whose tokens are used.

mod compared;
mod import;
mod killed;
mod oauth;
mod pace;
mod proposals;
mod sync;
mod tokens;
pub(crate) mod vouchers;

use integration_tests::{
    TestApp,
    people::{OLGA, Person},
};
use reqwest::Response;
use serde_json::Value;

use crate::browser::{self, Led, back};

/// A browser that is led to Fortnox.
async fn begin(app: &TestApp, person: &Person) -> Led {
    browser::begin(app, "fortnox", person).await
}

async fn start(app: &TestApp, token: &str, redirect_to: &str) -> Response {
    browser::start(app, "fortnox", token, redirect_to).await
}

async fn code(answer: Response) -> String {
    browser::code(answer, "fortnox").await
}

/// Every statement that this has: connected, asked for, read, imported, renewed and not renewed, disconnected, and read of another company.
pub(crate) async fn scenario(app: &TestApp) {
    let company = app.stack.sandbox.fortnox.create_company("Nordic Interiors AB", "556677-8899");
    assert_eq!(connect(app, &OLGA, company).await, "connected", "{}", app.logs());
    app.get("/v1/fortnox/connection", &app.token(&OLGA)).await.expect(200);
    sync::read_and_imported(app, company).await;
    tokens::renewed_and_not(app).await;
    app.post("/v1/fortnox/connection/disconnect", &app.token(&OLGA), &Value::Null).await.expect(200);
    let other = app.stack.sandbox.fortnox.create_company("Another AB", "556600-1122");
    assert_eq!(connect(app, &OLGA, other).await, "connected", "{}", app.logs());
    sync::read(app, &serde_json::json!({})).await;
    vouchers::scenario(app).await;
}

/// Connects from beginning to end. How it ended.
pub(crate) async fn connect(app: &TestApp, person: &Person, company: i64) -> String {
    let at = begin(app, person).await;
    let url = app.stack.sandbox.fortnox.consent(&at.consent, company, true).unwrap();
    code(back(&url, Some(&at.cookie)).await).await
}
