use url::{Url, form_urlencoded};

use super::*;
use crate::{
    Consent, Fault,
    ask::send,
    instagram::{Call, sign_request},
    storage::mac,
};

const BACK: &str = "https://spine.example/oauth/instagram/callback";
const ALL: &str = "instagram_business_basic,instagram_business_manage_messages,instagram_business_manage_comments";
const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

fn encoded(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// The pairs with these in the place of others, those that are empty left out.
fn changed<'a>(pairs: &[(&'a str, &'a str)], changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut pairs = pairs.to_vec();
    pairs.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    pairs.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
    pairs
}

fn query(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
}

impl App {
    fn authorize_url(&self, changes: &[(&str, &str)]) -> String {
        self.instagram.register(BACK);
        let client = self.instagram.client_id();
        let asked = [
            ("client_id", client.as_str()),
            ("redirect_uri", BACK),
            ("response_type", "code"),
            ("scope", ALL),
            ("state", "s1"),
        ];
        format!("http://{}/oauth/authorize?{}", self.address, encoded(&changed(&asked, changes)))
    }

    fn code(&self, account: &str, answer: Consent) -> String {
        query(&self.instagram.decide(&self.authorize_url(&[]), account, answer).unwrap(), "code").unwrap()
    }

    async fn exchange(&self, code: &str, changes: &[(&str, &str)]) -> Answer {
        let (client, secret) = (self.instagram.client_id(), self.instagram.client_secret().get());
        let asked = [
            ("client_id", client.as_str()),
            ("client_secret", &secret),
            ("grant_type", "authorization_code"),
            ("redirect_uri", BACK),
            ("code", code),
        ];
        let form = encoded(&changed(&asked, changes));
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        call(self.address, "POST", "/oauth/access_token", &headers, &form).await
    }

    async fn lengthen(&self, token: &str, secret: &str) -> Answer {
        let asked = [("grant_type", "ig_exchange_token"), ("client_secret", secret), ("access_token", token)];
        call(self.address, "GET", &format!("/access_token?{}", encoded(&asked)), &[], "").await
    }

    async fn refresh(&self, token: &str) -> Answer {
        let asked = [("grant_type", "ig_refresh_token"), ("access_token", token)];
        call(self.address, "GET", &format!("/refresh_access_token?{}", encoded(&asked)), &[], "").await
    }

    async fn short_token(&self, account: &str, answer: Consent) -> String {
        let answer = self.exchange(&self.code(account, answer), &[]).await;
        answer.good()["data"][0]["access_token"].as_str().unwrap().to_owned()
    }

    async fn with(&self, token: &str, method: &str, path: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        call(self.address, method, &format!("/v27.0/{path}"), &[("authorization", &bearer)], "").await
    }
}

impl Answer {
    fn token(&self) -> &str {
        self.good()["access_token"].as_str().unwrap()
    }

    /// How a code's exchange says no.
    #[track_caller]
    fn flat_error(&self) {
        assert_eq!((self.status, &self.body["error_type"]), (400, &json!("OAuthException")), "{}", self.text);
        assert!(self.body["code"] == 400 && self.body["error_message"].is_string() && self.body["error"].is_null());
    }
}

#[tokio::test]
async fn a_person_agrees_on_a_page_and_comes_back_with_a_code_or_a_denial() {
    let app = App::start().await;
    let url = app.authorize_url(&[("state", "a&b\"<c>")]);
    let path = url.split_once(&app.address.to_string()).unwrap().1.to_owned();
    let page = call(app.address, "GET", &path, &[], "").await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("value=\"a&amp;b&quot;&lt;c&gt;\""), "{}", page.text);
    assert!(page.text.contains(&format!("<button name=\"account\" value=\"{}\">Allow as gronskar", app.account.id)));

    let form = path.split_once('?').unwrap().1;
    let answer = async |rest: &str| {
        let answer = call(app.address, "POST", "/oauth/consent", &[], &format!("{form}&{rest}")).await;
        assert_eq!(answer.status, 302, "{}", answer.text);
        Url::parse(&answer.headers["location"]).unwrap()
    };
    let allowed = answer(&format!("granted=instagram_business_basic&account={}", app.account.id)).await;
    assert!(allowed.as_str().starts_with(&format!("{BACK}?code=")) && allowed.as_str().ends_with("#_"), "{allowed}");
    assert_eq!(query(&allowed, "state").unwrap(), "a&b\"<c>");
    let exchanged = app.exchange(&query(&allowed, "code").unwrap(), &[]).await;
    assert_eq!(exchanged.good()["data"][0]["permissions"], "instagram_business_basic");
    let denied = answer("account=").await;
    let named = |name: &str| query(&denied, name);
    assert_eq!(
        (named("error").as_deref(), named("error_reason").as_deref()),
        (Some("access_denied"), Some("user_denied"))
    );
    assert!(named("error_description").is_some() && named("code").is_none());
    assert_eq!(named("state").unwrap(), "a&b\"<c>");
}

#[tokio::test]
async fn a_request_that_is_wrong_leads_nowhere() {
    let app = App::start().await;
    for changes in [
        ("client_id", "1"),
        ("redirect_uri", "https://spine.example/oauth/instagram/callback/"),
        ("response_type", "token"),
        ("scope", ""),
        ("scope", "instagram_business_manage_messages"),
        ("scope", "instagram_business_basic,business_basic"),
        ("scope", "instagram_business_basic instagram_business_manage_messages"),
        ("state", ""),
    ] {
        let url = app.authorize_url(&[changes]);
        let path = url.split_once(&app.address.to_string()).unwrap().1;
        assert_eq!(call(app.address, "GET", path, &[], "").await.status, 400, "{changes:?}");
        assert!(app.instagram.decide(&url, &app.account.id, Consent::Denied).is_err(), "{changes:?}");
    }
    let url = app.authorize_url(&[]);
    assert!(app.instagram.decide(&url, "1", Consent::All).is_err(), "no such account");
    let insights = Consent::only(&["instagram_business_manage_insights"]);
    assert!(app.instagram.decide(&url, &app.account.id, insights).is_err(), "it was not asked for");
}

#[tokio::test]
async fn a_code_is_exchanged_once_within_an_hour_by_the_application_it_was_given_to() {
    let app = App::start().await;
    let code = app.code(&app.account.id, Consent::All);
    app.exchange(&code, &[("client_id", "1")]).await.flat_error();
    app.exchange(&code, &[("client_secret", "x")]).await.flat_error();
    app.exchange(&code, &[("grant_type", "refresh_token")]).await.flat_error();
    app.exchange(&code, &[("redirect_uri", "https://spine.example/")]).await.flat_error();
    app.exchange(&format!("{code}#_"), &[]).await.flat_error();
    app.instagram.advance(HOUR - 1);
    let answer = app.exchange(&code, &[]).await;
    let data = &answer.good()["data"][0];
    assert_eq!((&data["user_id"], &data["permissions"]), (&json!(app.account.scoped_id), &json!(ALL)));
    app.exchange(&code, &[]).await.flat_error();
    let old = app.code(&app.account.id, Consent::All);
    app.instagram.advance(HOUR);
    app.exchange(&old, &[]).await.flat_error();
    app.exchange("AQBnone", &[]).await.flat_error();

    app.instagram.set_flat_exchange(true);
    let flat = app.exchange(&app.code(&app.account.id, Consent::only(&["instagram_business_basic"])), &[]).await;
    assert_eq!(flat.good()["permissions"], json!(["instagram_business_basic"]));
    assert_eq!(flat.body["user_id"].to_string(), app.account.scoped_id);
    assert_eq!(app.instagram.token_requests()["authorization_code"], 9);
    assert_eq!(app.instagram.token_requests()["refresh_token"], 1);
}

#[tokio::test]
async fn a_token_of_an_hour_becomes_one_of_60_days_that_is_refreshed_after_a_day() {
    let app = App::start().await;
    let (account, _) = app.instagram.add_unconnected("annan", "Annan");
    let secret = app.instagram.client_secret().get();
    let short = app.short_token(&account, Consent::All).await;
    let me = "me?fields=user_id,username,name,account_type,profile_picture_url";
    let shown = app.with(&short, "GET", me).await;
    assert_eq!(shown.good()["user_id"], json!(account));
    assert_ne!(shown.body["id"], shown.body["user_id"]);

    app.lengthen(&short, "x").await.graph_error(100, None);
    app.lengthen("x", &secret).await.graph_error(190, None);
    let long = app.lengthen(&short, &secret).await;
    assert_eq!(long.good(), &json!({ "access_token": long.token(), "token_type": "bearer", "expires_in": 5_183_944 }));
    let long = long.token().to_owned();
    app.lengthen(&long, &secret).await.graph_error(100, None);
    app.refresh(&short).await.graph_error(10, None);
    app.instagram.advance(HOUR);
    app.with(&short, "GET", "me").await.graph_error(190, Some(463));
    app.lengthen(&short, &secret).await.graph_error(190, Some(463));
    app.instagram.advance(DAY - HOUR - 1);
    app.refresh(&long).await.graph_error(10, None);
    app.instagram.advance(1);
    let fresh = app.refresh(&long).await.token().to_owned();
    assert_ne!(fresh, long);
    let issued: Vec<_> = app.instagram.issued_tokens(&account).into_iter().map(|issued| issued.token).collect();
    assert_eq!(issued, [long.clone(), fresh.clone()], "the one before goes on");
    app.instagram.advance(5_183_944 - DAY);
    app.refresh(&long).await.graph_error(190, Some(463));
    assert_eq!(app.with(&fresh, "GET", "me").await.status, 200);
    assert_eq!(app.instagram.token_requests()["ig_refresh_token"], 4);
    assert_eq!(app.instagram.token_requests()["ig_exchange_token"], 5);
}

#[tokio::test]
async fn the_answer_to_a_token_request_is_lost_and_the_token_is_given_out_all_the_same() {
    let app = App::start().await;
    let (account, _) = app.instagram.add_unconnected("annan", "Annan");
    let code = app.code(&account, Consent::All);
    let form = {
        let (client, secret) = (app.instagram.client_id(), app.instagram.client_secret().get());
        encoded(&[
            ("client_id", &client),
            ("client_secret", &secret),
            ("grant_type", "authorization_code"),
            ("redirect_uri", BACK),
            ("code", &code),
        ])
    };
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    app.instagram.arrange(Call::Token, Fault::Dropped, crate::Calls::Next(1));
    assert_eq!(send(app.address, "POST", "/oauth/access_token", &headers, &form).await, "");
    assert!(app.instagram.issued_tokens(&account).is_empty(), "what is dropped is not done");
    app.instagram.lose_next_token_answer();
    assert_eq!(send(app.address, "POST", "/oauth/access_token", &headers, &form).await, "");
    assert_eq!(app.instagram.issued_tokens(&account).len(), 1);
    app.exchange(&code, &[]).await.flat_error();
    app.instagram.arrange(Call::Token, Fault::RateLimited, crate::Calls::Next(1));
    let limited = app.exchange(&code, &[]).await;
    assert_eq!((limited.status, &limited.body["error_type"]), (429, &json!("OAuthRateLimitException")));
    let statuses: Vec<u16> = app.instagram.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [0, 200, 400, 429]);
}

#[tokio::test]
async fn scopes_that_are_granted_later_bring_events_once_the_account_is_subscribed_again() {
    let app = App::start().await;
    let (account, _) = app.instagram.add_unconnected("annan", "Annan");
    let fields = "subscribed_apps?subscribed_fields=messages,comments";
    let basic = ["instagram_business_basic", "instagram_business_manage_messages"];
    let token = app.short_token(&account, Consent::only(&basic)).await;
    assert!(app.instagram.subscribed(&account).unwrap().is_empty());
    let answer = app.with(&token, "POST", &format!("{account}/{fields}")).await;
    assert_eq!(answer.good(), &json!({ "success": true }));
    assert_eq!(app.instagram.subscribed(&account).unwrap(), ["messages"]);

    let token = app.short_token(&account, Consent::All).await;
    assert_eq!(app.instagram.subscribed(&account).unwrap(), ["messages"], "nothing new without another subscription");
    app.with(&token, "POST", &format!("{account}/{fields}")).await.good();
    assert_eq!(app.instagram.subscribed(&account).unwrap(), ["comments", "messages"]);
    app.short_token(&account, Consent::only(&basic[..1])).await;
    assert!(app.instagram.subscribed(&account).unwrap().is_empty());
    app.with(&token, "GET", "me/conversations?platform=instagram").await.graph_error(10, None);
}

#[tokio::test]
async fn who_removes_the_application_is_named_in_a_signed_request_and_its_tokens_end() {
    let app = App::start().await;
    let secret = app.instagram.client_secret().get();
    let check = |form: &str| {
        let (signature, payload) = form.strip_prefix("signed_request=").unwrap().split_once('.').unwrap();
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        assert_eq!(URL_SAFE_NO_PAD.decode(signature).unwrap(), mac(secret.as_bytes(), payload));
        let payload: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        assert_eq!(payload, json!({ "algorithm": "HMAC-SHA256", "issued_at": NOW, "user_id": app.account.scoped_id }));
    };
    check(&app.instagram.request_deletion(&app.account.id).unwrap());
    assert_eq!(app.ask_at_once("GET", "me").await.status, 200);
    let code = app.code(&app.account.id, Consent::All);
    check(&app.instagram.deauthorize(&app.account.id).unwrap());
    app.ask_at_once("GET", "me").await.graph_error(190, Some(458));
    app.exchange(&code, &[]).await.flat_error();
    app.instagram.message(&app.account.id, &app.person, "hej").unwrap();
    assert!(app.instagram.entries().is_empty() && app.instagram.issued_tokens(&app.account.id).is_empty());
    assert!(app.instagram.deauthorize("1").is_err());
}

#[test]
fn a_signed_request_is_that_of_the_vector() {
    // By `printf PAYLOAD | openssl dgst -sha256 -hmac secret -binary`, in base64url.
    let signed = sign_request(&json!({ "user_id": "1" }), "secret");
    assert_eq!(signed.split_once('.').unwrap().1, "eyJ1c2VyX2lkIjoiMSJ9");
    assert_eq!(signed.split_once('.').unwrap().0, "fybQBcRxWVTrDKE85d0et4F6Z48_4aM3gOebTQwqdJ4");
}
