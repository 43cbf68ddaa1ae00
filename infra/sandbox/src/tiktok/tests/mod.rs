mod faults;
mod reading;
mod webhooks;

use std::{net::SocketAddr, sync::Arc};

use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use url::form_urlencoded::byte_serialize;

use super::{Connected, Platform, TikTok};
use crate::{
    Script,
    ask::{Answer, call},
    front::router,
};

/// 2026-06-15T10:00:00Z.
const NOW: i64 = 1_781_517_600;

/// A TikTok whose clock stands still, an account on both platforms, a person, and what asks it.
struct App {
    tiktok: Arc<TikTok>,
    script: Arc<Script>,
    address: SocketAddr,
    account: Connected,
    person: String,
    server: JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl App {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tiktok = TikTok::new(address);
        tiktok.set_clock(NOW);
        let script = Arc::new(Script::default());
        let server = crate::serve(listener, router(&tiktok, &script));
        let account = tiktok.add_account("gronskar", "Grönskär", &[Platform::Display, Platform::Business]);
        let person = tiktok.add_person("eva.berg");
        Self { tiktok, script, address, account, person, server }
    }

    fn publish(&self) -> String {
        self.tiktok.publish(&self.account.open_id, "Ny film").unwrap()
    }

    /// Platform A: fields in the query, and a body if the call has one.
    async fn display(&self, path: &str, fields: &str, body: Option<&Value>) -> Answer {
        let bearer = format!("Bearer {}", self.account.display_token.as_ref().unwrap());
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let (method, body) = body.map_or(("GET", String::new()), |body| ("POST", body.to_string()));
        call(self.address, method, &format!("/v2/{path}?fields={fields}"), &headers, &body).await
    }

    /// Platform B, with these parameters and the account's id.
    async fn business(&self, path: &str, parameters: &[(&str, &str)]) -> Answer {
        let token = self.account.business_token.as_ref().unwrap();
        let mut path = format!("/open_api/v1.3/business/{path}?business_id={}", self.account.open_id);
        for (name, value) in parameters {
            path.push_str(&format!("&{name}={}", byte_serialize(value.as_bytes()).collect::<String>()));
        }
        call(self.address, "GET", &path, &[("access-token", token)], "").await
    }

    async fn comments(&self, video: &str, parameters: &[(&str, &str)]) -> Answer {
        self.business("comment/list/", &[&[("video_id", video)], parameters].concat()).await
    }
}

impl Answer {
    /// The data of a success, of either platform.
    #[track_caller]
    fn data(&self) -> &Value {
        assert_eq!(self.status, 200, "{}", self.text);
        let fine = self.body["error"]["code"] == "ok" || self.body["code"] == 0;
        assert!(fine, "{}", self.text);
        &self.body["data"]
    }

    /// One field of every row of a list.
    #[track_caller]
    fn each(&self, list: &str, field: &str) -> Vec<&str> {
        self.data()[list].as_array().unwrap().iter().map(|row| row[field].as_str().unwrap()).collect()
    }

    /// An error of platform A.
    #[track_caller]
    fn word(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.body["error"]["code"].as_str()), (status, Some(code)), "{}", self.text);
        assert!(self.body["error"]["log_id"].is_string() && self.body["error"]["message"].is_string());
    }

    /// An error of platform B.
    #[track_caller]
    fn number(&self, code: i64) {
        assert_eq!((self.status, self.body["code"].as_i64()), (200, Some(code)), "{}", self.text);
        assert!(self.body["request_id"].is_string() && self.body["message"].is_string());
    }
}
