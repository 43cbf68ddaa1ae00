mod faults;
mod oauth;
mod pulls;
mod refusals;
mod vouchers;

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, NaiveDate};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use url::{Url, form_urlencoded};

use super::{Fortnox, UNDOCUMENTED, router};
use crate::{
    Script,
    ask::{Answer, call},
};

/// What the sandbox knows of scopes, as an authorization request names them.
const ALL: &str = "companyinformation settings bookkeeping customer invoice costcenter";

/// A Fortnox whose clock stands still, one company, and what asks it.
struct App {
    fortnox: Arc<Fortnox>,
    script: Arc<Script>,
    address: SocketAddr,
    tenant: i64,
    server: JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

impl App {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fortnox = Fortnox::new(address);
        fortnox.set_clock(DateTime::parse_from_rfc3339("2026-06-15T10:00:00Z").unwrap().timestamp());
        let script = Arc::new(Script::default());
        let server = crate::serve(listener, router(&fortnox, &script));
        let tenant = fortnox.create_company("Grönskär & Co AB", "556677-8899");
        Self { fortnox, script, address, tenant, server }
    }

    /// An authorization request with these parameters, those that are empty left out.
    fn authorize_url(&self, changes: &[(&str, &str)]) -> String {
        let (client, uri) = (self.fortnox.client_id(), self.fortnox.redirect_uri());
        let mut pairs = vec![
            ("client_id", client.as_str()),
            ("redirect_uri", &uri),
            ("response_type", "code"),
            ("scope", ALL),
            ("state", "s1"),
            ("access_type", "offline"),
        ];
        pairs.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
        pairs.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        format!("http://{}/oauth-v1/auth?{query}", self.address)
    }

    /// The code that consent gives.
    fn code(&self, tenant: i64, changes: &[(&str, &str)]) -> String {
        let back = self.fortnox.consent(&self.authorize_url(changes), tenant, true).unwrap();
        query(&back, "code").unwrap()
    }

    fn basic(&self) -> String {
        format!(
            "Basic {}",
            STANDARD.encode(format!("{}:{}", self.fortnox.client_id(), self.fortnox.client_secret().get()))
        )
    }

    async fn oauth(&self, path: &str, headers: &[(&str, &str)], form: &[(&str, &str)]) -> Answer {
        let basic = self.basic();
        let mut all = vec![("authorization", basic.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        all.retain(|(name, _)| !headers.iter().any(|(given, _)| given == name));
        all.extend(headers.iter().filter(|(_, value)| !value.is_empty()));
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        call(self.address, "POST", path, &all, &form).await
    }

    async fn token(&self, form: &[(&str, &str)]) -> Answer {
        self.oauth("/oauth-v1/token", &[], form).await
    }

    async fn exchange(&self, code: &str) -> Answer {
        let uri = self.fortnox.redirect_uri();
        self.token(&[("grant_type", "authorization_code"), ("code", code), ("redirect_uri", &uri)]).await
    }

    async fn refresh(&self, token: &str) -> Answer {
        self.token(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }

    /// An access token for the company.
    async fn connect(&self) -> String {
        self.connect_with(self.tenant, ALL).await
    }

    async fn connect_with(&self, tenant: i64, scopes: &str) -> String {
        let answer = self.exchange(&self.code(tenant, &[("scope", scopes)])).await;
        answer.body["access_token"].as_str().unwrap().to_owned()
    }

    async fn ask(&self, token: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        let mut all = vec![("authorization", bearer.as_str()), ("accept", "application/json")];
        if !body.is_empty() {
            all.push(("content-type", "application/json"));
        }
        all.retain(|(name, _)| !headers.iter().any(|(given, _)| given == name));
        all.extend(headers.iter().filter(|(_, value)| !value.is_empty()));
        let answer = call(self.address, method, path, &all, body).await;
        // Calls come one after another and the clock stands still: without this the rate limit would be met.
        self.fortnox.advance(1);
        answer
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        self.ask(token, "GET", path, &[], "").await
    }

    async fn post(&self, token: &str, path: &str, body: &Value) -> Answer {
        self.ask(token, "POST", path, &[], &body.to_string()).await
    }

    /// The id of a year of the company.
    fn year(&self, calendar: i32) -> i64 {
        self.fortnox.year_id(self.tenant, calendar).unwrap()
    }
}

fn query(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
}

impl Answer {
    /// Validation, or a right that is missing: lower case.
    #[track_caller]
    fn refused(&self, status: u16, code: i64, message: &str) {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/json");
        assert_eq!(self.body, json!({ "ErrorInformation": { "error": 1, "message": message, "code": code } }));
        assert!(self.text.is_ascii(), "{}", self.text);
    }

    /// Validation for which no code is documented.
    #[track_caller]
    fn uncoded(&self, message: &str) {
        self.refused(400, UNDOCUMENTED, message);
    }

    /// It is not there: capitalised.
    #[track_caller]
    fn missing(&self, code: i64, message: &str) {
        assert_eq!(self.status, 404, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/json");
        assert_eq!(self.body, json!({ "ErrorInformation": { "Error": 1, "Message": message, "Code": code } }));
    }

    #[track_caller]
    fn ok(&self) -> &Value {
        assert_eq!(self.status, 200, "{}", self.text);
        &self.body
    }

    /// One field of every row of a list.
    #[track_caller]
    fn column(&self, list: &str, field: &str) -> Vec<String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.ok()[list].as_array().unwrap().iter().map(|row| text(&row[field])).collect()
    }

    /// How many there are in all, how many pages, and which one this is.
    #[track_caller]
    fn meta(&self) -> [i64; 3] {
        ["@TotalResources", "@TotalPages", "@CurrentPage"]
            .map(|name| self.ok()["MetaInformation"][name].as_i64().unwrap())
    }
}
