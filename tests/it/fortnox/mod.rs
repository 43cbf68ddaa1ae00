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
use reqwest::{Response, header};
use serde_json::Value;
use url::Url;

/// Where the app is that people come back to.
const APP: &str = "http://localhost:3000/settings?tab=books";

fn browser() -> reqwest::Client {
    shared::http_client(std::time::Duration::from_secs(30)).unwrap()
}

/// A browser that is led to Fortnox: where to, and its cookie.
struct AtFortnox {
    consent: String,
    cookie: String,
}

/// Asks as the app does, in the person's browser.
async fn begin(app: &TestApp, person: &Person) -> AtFortnox {
    let answer = start(app, &app.token(person), APP).await;
    let cookie = answer.headers().get(header::SET_COOKIE).map(|cookie| cookie.to_str().unwrap().to_owned());
    let answer: Value = answer.json().await.unwrap();
    let consent = answer["url"].as_str().unwrap_or_else(|| panic!("{answer} {}", app.logs())).to_owned();
    AtFortnox { consent, cookie: cookie.unwrap() }
}

async fn start(app: &TestApp, token: &str, redirect_to: &str) -> Response {
    let mut url = Url::parse(&format!("{}/oauth/fortnox/start", app.stack.url)).unwrap();
    url.query_pairs_mut().append_pair("redirect_to", redirect_to);
    browser().get(url).bearer_auth(token).header(header::ACCEPT, "application/json").send().await.unwrap()
}

/// Comes back from Fortnox with a cookie, or without.
async fn back(url: &Url, cookie: Option<&str>) -> Response {
    let mut request = browser().get(url.clone());
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie.split(';').next().unwrap());
    }
    request.send().await.unwrap()
}

/// What the app reads from the address that the browser is led to; or the code of the page that is shown.
async fn code(answer: Response) -> String {
    if answer.status() == 303 {
        let url = Url::parse(answer.headers()[header::LOCATION].to_str().unwrap()).unwrap();
        assert!(url.as_str().starts_with(APP), "{url}");
        return url.query_pairs().find(|(name, _)| name == "fortnox").unwrap().1.into_owned();
    }
    assert_eq!(
        (answer.status().as_u16(), answer.headers()[header::CONTENT_TYPE].to_str().unwrap()),
        (200, "text/html; charset=utf-8")
    );
    let page = answer.text().await.unwrap();
    let code = page.split("data-code=\"").nth(1).unwrap_or_else(|| panic!("{page}"));
    code.split('"').next().unwrap().to_owned()
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
async fn connect(app: &TestApp, person: &Person, company: i64) -> String {
    let at = begin(app, person).await;
    let url = app.stack.sandbox.fortnox.consent(&at.consent, company, true).unwrap();
    code(back(&url, Some(&at.cookie)).await).await
}
