//! A person's browser, on the way to a provider and back.

use integration_tests::{TestApp, people::Person};
use reqwest::{Response, header};
use serde_json::Value;
use url::Url;

/// Where the app is that people come back to.
pub(crate) const APP: &str = "http://localhost:3000/settings?tab=books";

pub(crate) fn browser() -> reqwest::Client {
    shared::http_client(std::time::Duration::from_secs(30)).unwrap()
}

/// A browser that is led to a provider: where to, and its cookie.
#[derive(Debug)]
pub(crate) struct Led {
    pub(crate) consent: String,
    pub(crate) cookie: String,
}

/// Asks as the app does, in the person's browser. `segment` is the provider's in paths.
pub(crate) async fn begin(app: &TestApp, segment: &str, person: &Person) -> Led {
    let answer = start(app, segment, &app.token(person), APP).await;
    let cookie = answer.headers().get(header::SET_COOKIE).map(|cookie| cookie.to_str().unwrap().to_owned());
    let answer: Value = answer.json().await.unwrap();
    let consent = answer["url"].as_str().unwrap_or_else(|| panic!("{answer} {}", app.logs())).to_owned();
    Led { consent, cookie: cookie.unwrap() }
}

pub(crate) async fn start(app: &TestApp, segment: &str, token: &str, redirect_to: &str) -> Response {
    let mut url = Url::parse(&format!("{}/oauth/{segment}/start", app.stack.url)).unwrap();
    url.query_pairs_mut().append_pair("redirect_to", redirect_to);
    browser().get(url).bearer_auth(token).header(header::ACCEPT, "application/json").send().await.unwrap()
}

/// Comes back from the provider with a cookie, or without.
pub(crate) async fn back(url: &Url, cookie: Option<&str>) -> Response {
    let mut request = browser().get(url.clone());
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie.split(';').next().unwrap());
    }
    request.send().await.unwrap()
}

/// What the app reads from the address that the browser is led to, under the provider's name; or the code of the page that is shown.
pub(crate) async fn code(answer: Response, provider: &str) -> String {
    if answer.status() == 303 {
        let url = Url::parse(answer.headers()[header::LOCATION].to_str().unwrap()).unwrap();
        assert!(url.as_str().starts_with(APP), "{url}");
        return url.query_pairs().find(|(name, _)| name == provider).unwrap().1.into_owned();
    }
    assert_eq!(
        (answer.status().as_u16(), answer.headers()[header::CONTENT_TYPE].to_str().unwrap()),
        (200, "text/html; charset=utf-8")
    );
    let page = answer.text().await.unwrap();
    let code = page.split("data-code=\"").nth(1).unwrap_or_else(|| panic!("{page}"));
    code.split('"').next().unwrap().to_owned()
}
