use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use url::{Url, form_urlencoded};

use super::*;
use crate::{Calls, Consent, Fault, ask::send, tiktok::Call};

const BACK: &str = "https://spine.example/oauth/tiktok/callback";
const DAY: i64 = 24 * 60 * 60;
const A: Platform = Platform::Display;
const B: Platform = Platform::Business;

fn encoded(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

fn query(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
}

impl App {
    fn authorize_url(&self, platform: Platform, changes: &[(&str, &str)]) -> String {
        self.tiktok.register(platform, BACK);
        let (key, scope) = match platform {
            A => (self.tiktok.client_key(), "user.info.basic,video.list"),
            B => (self.tiktok.business_client_id(), "user.info.basic,message.list.send,comment.list"),
        };
        let mut asked = vec![
            ("client_key", key.as_str()),
            ("response_type", "code"),
            ("scope", scope),
            ("redirect_uri", BACK),
            ("state", "s1"),
        ];
        asked.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
        asked.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
        format!("http://{}/v2/auth/authorize/?{}", self.address, encoded(&asked))
    }

    fn decide(&self, platform: Platform, answer: Consent) -> Url {
        self.tiktok.decide(&self.authorize_url(platform, &[]), &self.account.open_id, answer).unwrap()
    }

    fn code(&self, platform: Platform) -> String {
        query(&self.decide(platform, Consent::All), "code").unwrap()
    }

    fn display_form(&self, pairs: &[(&str, &str)]) -> String {
        let (key, secret) = (self.tiktok.client_key(), self.tiktok.client_secret().get());
        encoded(&[&[("client_key", key.as_str()), ("client_secret", secret.as_str())], pairs].concat())
    }

    async fn form(&self, path: &str, form: &str) -> Answer {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        call(self.address, "POST", &format!("/v2/oauth/{path}/"), &headers, form).await
    }

    async fn display_token(&self, pairs: &[(&str, &str)]) -> Answer {
        self.form("token", &self.display_form(pairs)).await
    }

    async fn exchange(&self, code: &str) -> Answer {
        self.display_token(&[("grant_type", "authorization_code"), ("code", code), ("redirect_uri", BACK)]).await
    }

    async fn refresh(&self, token: &str) -> Answer {
        self.display_token(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }

    async fn business_token(&self, path: &str, pairs: &[(&str, &str)]) -> Answer {
        let mut body = json!({
            "client_id": self.tiktok.business_client_id(),
            "client_secret": self.tiktok.business_client_secret().get(),
        });
        for (name, value) in pairs {
            body[*name] = json!(value);
        }
        let path = format!("/open_api/v1.3/tt_user/oauth2/{path}/");
        call(self.address, "POST", &path, &[("content-type", "application/json")], &body.to_string()).await
    }

    async fn business_exchange(&self, code: &str) -> Answer {
        let asked = [("grant_type", "authorization_code"), ("auth_code", code), ("redirect_uri", BACK)];
        self.business_token("token", &asked).await
    }

    async fn business_refresh(&self, token: &str) -> Answer {
        self.business_token("refresh_token", &[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }

    async fn user_info(&self, token: &str) -> u16 {
        let bearer = format!("Bearer {token}");
        call(self.address, "GET", "/v2/user/info/?fields=open_id", &[("authorization", &bearer)], "").await.status
    }
}

impl Answer {
    #[track_caller]
    fn oauth_error(&self, error: &str) {
        assert_eq!((self.status, self.body["error"].as_str()), (200, Some(error)), "{}", self.text);
        assert!(self.body["error_description"].is_string() && self.body["log_id"].is_string());
    }

    #[track_caller]
    fn text_of(&self, name: &str) -> String {
        let of = if self.body["data"].is_object() { &self.body["data"] } else { &self.body };
        of[name].as_str().unwrap_or_else(|| panic!("{}", self.text)).to_owned()
    }
}

#[tokio::test]
async fn a_person_agrees_on_a_page_and_comes_back_with_a_code_or_a_denial() {
    let app = App::start().await;
    let url = app.authorize_url(A, &[("state", "a&b\"<c>")]);
    let path = url.split_once(&app.address.to_string()).unwrap().1.to_owned();
    let page = call(app.address, "GET", &path, &[], "").await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("value=\"a&amp;b&quot;&lt;c&gt;\"") && page.text.contains("Allow as gronskar"));
    let form = path.split_once('?').unwrap().1;
    let answer = async |rest: &str| {
        let answer = call(app.address, "POST", "/v2/auth/consent/", &[], &format!("{form}&{rest}")).await;
        assert_eq!(answer.status, 302, "{}", answer.text);
        Url::parse(&answer.headers["location"]).unwrap()
    };
    let allowed = answer(&format!("granted=user.info.basic&account={}", app.account.open_id)).await;
    assert_eq!(query(&allowed, "state").unwrap(), "a&b\"<c>");
    assert_eq!(query(&allowed, "scopes").unwrap(), "user.info.basic");
    assert_eq!(app.exchange(&query(&allowed, "code").unwrap()).await.text_of("scope"), "user.info.basic");
    let denied = answer("account=").await;
    assert_eq!(query(&denied, "error").as_deref(), Some("access_denied"));
    assert!(query(&denied, "code").is_none() && query(&denied, "error_description").is_some());
    assert_eq!(query(&denied, "state").unwrap(), "a&b\"<c>");
}

#[tokio::test]
async fn a_request_that_is_wrong_leads_back_with_an_error_or_nowhere() {
    let app = App::start().await;
    let decide = |platform: Platform, change: (&str, &str)| {
        app.tiktok.decide(&app.authorize_url(platform, &[change]), &app.account.open_id, Consent::All)
    };
    for (change, error) in [
        (("state", ""), "invalid_request"),
        (("response_type", "token"), "unsupported_response_type"),
        (("scope", ""), "invalid_scope"),
        (("scope", "user.info.basic video.list"), "invalid_scope"),
        (("scope", "message.list.send"), "invalid_scope"),
        (("code_challenge", "x"), "invalid_request"),
    ] {
        let back = decide(A, change).unwrap();
        assert_eq!(query(&back, "error").as_deref(), Some(error), "{change:?}");
        assert!(back.as_str().starts_with(BACK));
    }
    assert!(decide(A, ("client_key", "x")).is_err());
    assert!(decide(A, ("redirect_uri", "https://spine.example/oauth/tiktok/callback/")).is_err());
    assert!(decide(B, ("redirect_uri", "https://other.example/")).is_err());
    assert!(app.tiktok.decide(&app.authorize_url(A, &[]), "x", Consent::All).is_err());
}

#[tokio::test]
async fn platform_a_exchanges_a_code_once_and_rotates_refresh_tokens() {
    let app = App::start().await;
    let code = app.code(A);
    assert!(code.contains('*') && code.contains('!'), "codes need decoding");
    let wrong = [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", "https://spine.example/")];
    app.display_token(&wrong).await.oauth_error("invalid_grant");
    app.form("token", &app.display_form(&wrong).replace("client_secret=", "client_secret=x"))
        .await
        .oauth_error("invalid_client");
    app.business_exchange(&code).await.number(40_110);
    let first = app.exchange(&code).await;
    assert_eq!(
        first.body,
        json!({
            "access_token": first.text_of("access_token"), "expires_in": 7200, "open_id": app.account.open_id,
            "refresh_expires_in": 15_552_000, "refresh_token": first.text_of("refresh_token"),
            "scope": "user.info.basic,video.list", "token_type": "Bearer",
        })
    );
    app.exchange(&code).await.oauth_error("invalid_grant");
    assert_eq!(app.user_info(&first.text_of("access_token")).await, 200);
    let old = first.text_of("refresh_token");
    let second = app.refresh(&old).await.text_of("refresh_token");
    assert_ne!(second, old);
    app.refresh(&old).await.oauth_error("invalid_grant");
    assert_eq!(app.tiktok.refresh_tokens(&app.account.open_id, A), [second.as_str()]);
    app.tiktok.advance(180 * DAY);
    app.refresh(&second).await.oauth_error("invalid_grant");
    let late = app.code(A);
    app.tiktok.advance(600);
    app.exchange(&late).await.oauth_error("invalid_grant");
    app.display_token(&[("grant_type", "client_credentials")]).await.oauth_error("unauthorized_client");
    app.display_token(&[("grant_type", "password")]).await.oauth_error("unsupported_grant_type");
    app.display_token(&[]).await.oauth_error("invalid_request");
    app.tiktok.set_oauth_error_status(400);
    assert_eq!(app.refresh("rft.x").await.status, 400);
    assert_eq!(app.tiktok.token_requests(A)["refresh_token"], 4);
    assert_eq!(app.tiktok.token_requests(B)["authorization_code"], 1);
}

#[tokio::test]
async fn a_challenge_asks_for_its_verifier() {
    let app = App::start().await;
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest("verifier"));
    let changes = [("code_challenge", challenge.as_str()), ("code_challenge_method", "S256")];
    let back = app.tiktok.decide(&app.authorize_url(A, &changes), &app.account.open_id, Consent::All).unwrap();
    let code = query(&back, "code").unwrap();
    app.exchange(&code).await.oauth_error("invalid_grant");
    let with = async |verifier: &str| {
        let asked = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", BACK),
            ("code_verifier", verifier),
        ];
        app.display_token(&asked).await
    };
    with("other").await.oauth_error("invalid_grant");
    assert!(with("verifier").await.body["access_token"].is_string());
}

#[tokio::test]
async fn platform_b_answers_in_its_envelope_and_rotates_likewise() {
    let app = App::start().await;
    let granted = app.decide(B, Consent::only(&["message.list.send"]));
    let code = query(&granted, "code").unwrap();
    app.exchange(&code).await.oauth_error("invalid_grant");
    app.business_token("token", &[("client_secret", "x")]).await.number(40_001);
    app.business_token("token", &[("code", &code)]).await.number(40_002);
    let first = app.business_exchange(&code).await;
    assert_eq!(
        first.data(),
        &json!({
            "access_token": first.text_of("access_token"), "expires_in": 7200, "open_id": app.account.open_id,
            "refresh_token_expires_in": 15_552_000, "refresh_token": first.text_of("refresh_token"),
            "scope": "message.list.send", "token_type": "Bearer",
        })
    );
    app.business_exchange(&code).await.number(40_110);
    let old = first.text_of("refresh_token");
    let second = app.business_refresh(&old).await;
    app.business_refresh(&old).await.number(40_107);
    let access = second.text_of("access_token");
    let body = json!({ "app_id": app.tiktok.business_client_id(), "access_token": access }).to_string();
    let json = [("content-type", "application/json")];
    let info = call(app.address, "POST", "/open_api/v1.3/tt_user/token_info/get/", &json, &body).await;
    assert_eq!(info.data()["creator_id"], json!(app.account.open_id));
    app.business_token("revoke", &[("access_token", &access)]).await.data();
    assert!(app.tiktok.refresh_tokens(&app.account.open_id, B).is_empty());
    app.business_refresh(&second.text_of("refresh_token")).await.number(40_107);
    app.business_token("revoke", &[("access_token", &access)]).await.number(40_105);
}

#[tokio::test]
async fn the_answer_to_a_refresh_is_lost_and_the_token_rotated_all_the_same() {
    let app = App::start().await;
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let issued = app.tiktok.connect(&app.account.open_id, A).unwrap();
    let form = app.display_form(&[("grant_type", "refresh_token"), ("refresh_token", &issued.refresh_token)]);
    app.tiktok.arrange(Call::Token, Fault::Dropped, Calls::Next(1));
    assert_eq!(send(app.address, "POST", "/v2/oauth/token/", &headers, &form).await, "");
    assert_eq!(app.tiktok.refresh_tokens(&app.account.open_id, A), [issued.refresh_token.as_str()]);
    app.tiktok.lose_next_token_answer();
    assert_eq!(send(app.address, "POST", "/v2/oauth/token/", &headers, &form).await, "");
    let live = app.tiktok.refresh_tokens(&app.account.open_id, A);
    assert!(live.len() == 1 && live[0] != issued.refresh_token);
    app.form("token", &form).await.oauth_error("invalid_grant");
    app.tiktok.arrange(Call::Token, Fault::Transient(1), Calls::Next(1));
    let failed = app.form("token", &form).await;
    assert_eq!((failed.status, &failed.body["error"]), (500, &json!("server_error")));
}

#[tokio::test]
async fn revoking_ends_everything_and_says_so() {
    let app = App::start().await;
    let issued = app.tiktok.connect(&app.account.open_id, A).unwrap();
    let answer = app.form("revoke", &app.display_form(&[("token", &issued.access_token)])).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    assert_eq!(app.user_info(&issued.access_token).await, 401);
    app.refresh(&issued.refresh_token).await.oauth_error("invalid_grant");
    let event = &app.tiktok.events()[0];
    assert_eq!((&event["event"], &event["content"]), (&json!("authorization.removed"), &json!("{\"reason\":5}")));
    let again = app.tiktok.connect(&app.account.open_id, A).unwrap();
    app.tiktok.remove_authorization(&app.account.open_id, 1).unwrap();
    app.refresh(&again.refresh_token).await.oauth_error("invalid_grant");
}
