use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

/// How the token endpoint says no.
#[track_caller]
fn refused(answer: &Answer, status: u16, content_type: &str, error: &str, description: &str) {
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (status, content_type), "{}", answer.text);
    assert_eq!(answer.body, json!({ "error": error, "error_description": description }));
}

const HTML: &str = "text/html; charset=UTF-8";

#[tokio::test]
async fn a_person_agrees_on_a_page_and_the_browser_comes_back_with_a_code() {
    let app = App::start().await;
    let url = app.authorize_url(&[("state", "a&b\"<c>"), ("company", "1")]);
    let path = url.split_once(&app.address.to_string()).unwrap().1;
    let page = call(app.address, "GET", path, &[], "").await;
    assert_eq!((page.status, page.headers["content-type"].as_str()), (200, "text/html; charset=utf-8"));
    assert!(page.text.contains("value=\"a&amp;b&quot;&lt;c&gt;\""), "{}", page.text);
    assert!(page.text.contains(&format!("<option value=\"{}\">Grönskär &amp; Co AB</option>", app.tenant)));
    assert!(!page.text.contains("name=\"company\" value"), "the request does not choose for the person");

    let form = path.split_once('?').unwrap().1.replace("company=1", "");
    let answer = async |decision: &str| {
        let body = format!("{form}&company={}&decision={decision}", app.tenant);
        let answer = call(app.address, "POST", "/oauth-v1/consent", &[], &body).await;
        assert_eq!(answer.status, 302, "{}", answer.text);
        Url::parse(&answer.headers["location"]).unwrap()
    };
    let allowed = answer("allow").await;
    assert!(allowed.as_str().starts_with(&app.fortnox.redirect_uri()));
    assert_eq!(query(&allowed, "state").unwrap(), "a&b\"<c>");
    assert_eq!(app.exchange(&query(&allowed, "code").unwrap()).await.status, 200);
    let denied = answer("deny").await;
    assert_eq!(query(&denied, "error").unwrap(), "access_denied");
    assert!(query(&denied, "error_description").is_some() && query(&denied, "code").is_none());
    assert_eq!(query(&denied, "state").unwrap(), "a&b\"<c>");
}

#[tokio::test]
async fn what_is_wrong_with_the_request_is_said_before_anybody_signs_in() {
    let app = App::start().await;
    let check = async |changes: &[(&str, &str)], error: &str| {
        let url = app.authorize_url(changes);
        let path = url.split_once(&app.address.to_string()).unwrap().1;
        let answer = call(app.address, "GET", path, &[], "").await;
        assert_eq!(answer.status, 302, "{changes:?}: {}", answer.text);
        let back = Url::parse(&answer.headers["location"]).unwrap();
        assert_eq!(query(&back, "error").as_deref(), Some(error), "{changes:?}");
        let stateless = changes.iter().any(|(name, _)| *name == "state");
        assert_eq!(query(&back, "state").is_none(), stateless);
    };
    check(&[("state", "")], "invalid_request").await;
    check(&[("response_type", "token")], "unsupported_response_type").await;
    check(&[("scope", "")], "invalid_scope").await;
    check(&[("scope", "customer payroll")], "invalid_scope").await;
    check(&[("scope", "Customer")], "invalid_scope").await;
    check(&[("access_type", "online")], "invalid_request").await;
    check(&[("account_type", "service")], "invalid_request").await;
    app.fortnox.set_service_accounts(true);
    check(&[("account_type", "person")], "invalid_request").await;
    app.fortnox.set_scopes(&["customer"]);
    check(&[("scope", "customer invoice")], "invalid_scope").await;

    let unknown = app.authorize_url(&[("client_id", "nobody")]);
    let path = unknown.split_once(&app.address.to_string()).unwrap().1;
    let answer = call(app.address, "GET", path, &[], "").await;
    assert_eq!(answer.status, 400);
    assert!(answer.text.contains("Auth code or ClientID supplied is invalid"));
}

#[tokio::test]
async fn another_redirect_uri_is_refused_only_once_somebody_agreed() {
    let app = App::start().await;
    let url = app.authorize_url(&[("redirect_uri", "https://evil.example/")]);
    let path = url.split_once(&app.address.to_string()).unwrap().1;
    assert_eq!(call(app.address, "GET", path, &[], "").await.status, 200);
    for allow in [true, false] {
        let refused = app.fortnox.consent(&url, app.tenant, allow).unwrap_err();
        assert!(refused.to_string().contains("redirect URI"), "{refused}");
    }
    let scope = app.authorize_url(&[("redirect_uri", "https://evil.example/"), ("scope", "none")]);
    let back = app.fortnox.consent(&scope, app.tenant, true).unwrap();
    assert!(
        back.as_str().starts_with(&app.fortnox.redirect_uri()),
        "nothing leads to an address that is not registered"
    );
    assert!(app.fortnox.consent(&app.authorize_url(&[]), 1, true).is_err(), "no such company");
}

#[tokio::test]
async fn a_code_is_exchanged_once_within_ten_minutes_for_its_redirect_uri() {
    let app = App::start().await;
    let wrong = "Auth code or ClientID supplied is invalid";
    let code = app.code(app.tenant, &[]);
    let without = app.token(&[("grant_type", "authorization_code"), ("code", &code)]).await;
    refused(&without, 400, HTML, "invalid_grant", wrong);
    let elsewhere =
        [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", "http://127.0.0.1/elsewhere")];
    refused(&app.token(&elsewhere).await, 400, HTML, "invalid_grant", wrong);
    assert_eq!(app.exchange(&code).await.status, 200);
    refused(&app.exchange(&code).await, 400, HTML, "invalid_grant", wrong);
    refused(&app.exchange("none").await, 400, HTML, "invalid_grant", wrong);

    let (in_time, late) = (app.code(app.tenant, &[]), app.code(app.tenant, &[]));
    app.fortnox.advance(599);
    assert_eq!(app.exchange(&in_time).await.status, 200);
    app.fortnox.advance(1);
    refused(&app.exchange(&late).await, 400, HTML, "invalid_grant", wrong);

    let silent = app.code(app.tenant, &[("redirect_uri", "")]);
    assert_eq!(app.token(&[("grant_type", "authorization_code"), ("code", &silent)]).await.status, 200);
}

#[tokio::test]
async fn tokens_name_tenant_and_scopes_and_are_valid_for_an_hour() {
    let app = App::start().await;
    let answer = app.exchange(&app.code(app.tenant, &[("scope", "customer companyinformation")])).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.body["scope"], "customer companyinformation");
    assert_eq!((&answer.body["expires_in"], &answer.body["token_type"]), (&json!(3600), &json!("bearer")));
    let token = answer.body["access_token"].as_str().unwrap();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["tenantId"], app.tenant);
    assert_eq!(claims["scope"], json!(["customer", "companyinformation"]));
    assert_eq!(claims["exp"], app.fortnox.now() + 3600);

    let company = app.get(token, "/3/companyinformation").await;
    assert_eq!(company.ok()["CompanyInformation"]["DatabaseNumber"], app.tenant);
    app.fortnox.advance(3598);
    assert_eq!(app.get(token, "/3/companyinformation").await.status, 200);
    let expired = app.get(token, "/3/companyinformation").await;
    assert_eq!((expired.status, &expired.body), (401, &json!({ "message": "unauthorized" })));
}

#[tokio::test]
async fn a_refresh_token_works_once_and_for_45_days() {
    let app = App::start().await;
    let first = app.exchange(&app.code(app.tenant, &[])).await.body["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(app.fortnox.refresh_tokens(app.tenant), [first.as_str()]);
    let rotated = app.refresh(&first).await;
    let second = rotated.body["refresh_token"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    refused(&app.refresh(&first).await, 400, HTML, "invalid_grant", "Invalid refresh token");
    assert_eq!(app.fortnox.refresh_tokens(app.tenant), [second.as_str()], "what came of it stays");

    app.fortnox.advance(45 * 24 * 3600 - 1);
    let third = app.refresh(&second).await.body["refresh_token"].as_str().unwrap().to_owned();
    app.fortnox.advance(45 * 24 * 3600);
    refused(&app.refresh(&third).await, 400, HTML, "invalid_grant", "Invalid refresh token");
    assert!(app.fortnox.refresh_tokens(app.tenant).is_empty());
    assert_eq!(app.fortnox.token_requests()["refresh_token"], 4);
    assert_eq!(app.fortnox.token_requests()["authorization_code"], 1);
}

#[tokio::test]
async fn two_refreshes_at_once_have_one_winner() {
    let app = App::start().await;
    let token = app.exchange(&app.code(app.tenant, &[])).await.body["refresh_token"].as_str().unwrap().to_owned();
    let (a, b) = tokio::join!(app.refresh(&token), app.refresh(&token));
    let mut statuses = [a.status, b.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400]);
}

#[tokio::test]
async fn without_offline_access_there_is_no_refresh_token() {
    let app = App::start().await;
    let answer = app.exchange(&app.code(app.tenant, &[("access_type", "")])).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.get("refresh_token").is_none(), "{}", answer.text);
}

#[tokio::test]
async fn only_basic_authentication_counts_at_the_token_endpoint() {
    let app = App::start().await;
    let (id, secret) = (app.fortnox.client_id(), app.fortnox.client_secret().get());
    let text = "text/plain;charset=UTF-8";
    let form =
        [("grant_type", "refresh_token"), ("refresh_token", "x"), ("client_id", &id), ("client_secret", &secret)];
    let wrong = format!("Basic {}", STANDARD.encode(format!("{id}:wrong")));
    let bearer = format!("Bearer {secret}");
    for header in ["", &wrong, &bearer] {
        for path in ["/oauth-v1/token", "/oauth-v1/revoke"] {
            let answer = app.oauth(path, &[("authorization", header)], &form).await;
            refused(&answer, 401, text, "invalid_client", "The client credentials are invalid");
        }
    }
    app.fortnox.client_secret().roll();
    let old = format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
    let answer = app.oauth("/oauth-v1/token", &[("authorization", &old)], &form).await;
    refused(&answer, 401, text, "invalid_client", "The client credentials are invalid");
}

#[tokio::test]
async fn a_malformed_token_request_is_refused() {
    let app = App::start().await;
    let json = "application/json";
    let other = app.oauth("/oauth-v1/token", &[("content-type", json)], &[("grant_type", "refresh_token")]).await;
    refused(&other, 400, json, "invalid_request", "The body must be application/x-www-form-urlencoded");
    refused(&app.token(&[]).await, 400, json, "invalid_request", "grant_type is missing");
    let password = app.token(&[("grant_type", "password")]).await;
    refused(&password, 400, json, "unsupported_grant_type", "The grant type is not supported");
    let bare = app.token(&[("grant_type", "refresh_token")]).await;
    refused(&bare, 400, json, "invalid_request", "refresh_token is missing");
    assert_eq!(call(app.address, "GET", "/oauth-v1/token", &[], "").await.status, 405);
    assert_eq!(call(app.address, "GET", "/oauth-v1/other", &[], "").await.status, 404);
}

#[tokio::test]
async fn client_credentials_need_a_service_account_and_give_no_refresh_token() {
    let app = App::start().await;
    let tenant = app.tenant.to_string();
    let form = [("grant_type", "client_credentials")];
    let ask = async |tenant: &str| app.oauth("/oauth-v1/token", &[("tenantid", tenant)], &form).await;
    let none = "There is no consent for the tenant";
    refused(&ask("").await, 400, "application/json", "invalid_request", "The header TenantId is missing");
    app.code(app.tenant, &[]);
    refused(&ask(&tenant).await, 400, HTML, "invalid_grant", none);

    app.fortnox.set_service_accounts(true);
    let service = app.authorize_url(&[("account_type", "service"), ("scope", "customer")]);
    app.fortnox.set_administrator(app.tenant, false).unwrap();
    let back = app.fortnox.consent(&service, app.tenant, true).unwrap();
    assert_eq!(query(&back, "error").unwrap(), "access_denied");
    refused(&ask(&tenant).await, 400, HTML, "invalid_grant", none);

    app.fortnox.set_administrator(app.tenant, true).unwrap();
    app.fortnox.consent(&service, app.tenant, true).unwrap();
    let scoped = [("grant_type", "client_credentials"), ("scope", "customer")];
    let scoped = app.oauth("/oauth-v1/token", &[("tenantid", &tenant)], &scoped).await;
    refused(&scoped, 400, "application/json", "invalid_request", "scope is not a parameter of this grant");
    let answer = ask(&tenant).await;
    assert_eq!((answer.status, &answer.body["scope"]), (200, &json!("customer")));
    assert!(answer.body.get("refresh_token").is_none());
    let token = answer.body["access_token"].as_str().unwrap().to_owned();
    assert_eq!(app.get(&token, "/3/customers").await.status, 200);

    app.fortnox.revoke_consent(app.tenant);
    refused(&ask(&tenant).await, 400, HTML, "invalid_grant", none);
    assert_eq!(app.get(&token, "/3/customers").await.status, 401);
}

#[tokio::test]
async fn a_refresh_token_can_be_revoked_and_an_access_token_cannot() {
    let app = App::start().await;
    let tokens = app.exchange(&app.code(app.tenant, &[])).await.body;
    let (access, refresh) = (tokens["access_token"].as_str().unwrap(), tokens["refresh_token"].as_str().unwrap());
    let revoke = async |hint: &str, token: &str| {
        app.oauth("/oauth-v1/revoke", &[], &[("token_type_hint", hint), ("token", token)]).await
    };
    let hint = revoke("access_token", access).await;
    refused(&hint, 400, "application/json", "invalid_request", "token_type_hint and token are needed");
    assert_eq!(revoke("refresh_token", refresh).await.ok(), &json!({ "revoked": true }));
    assert_eq!(revoke("refresh_token", refresh).await.ok(), &json!({ "revoked": false }));
    refused(&app.refresh(refresh).await, 400, HTML, "invalid_grant", "Invalid refresh token");
    assert_eq!(app.get(access, "/3/customers").await.status, 200);
}
