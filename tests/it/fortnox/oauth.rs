//! Connecting and disconnecting: by whom, in which browser, and how it ends.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use integration_tests::{
    TestApp,
    acting::Actor,
    people::{ADAM, BRICK, DORA, NORD, OLGA, OSCAR, RENATA, SVEN, UMA},
};
use reqwest::header;
use sandbox::{Calls, Moment, Verdict};
use serde_json::{Value, json};

use super::{begin, code, connect, start};
use crate::browser::{APP, back, browser};

const COMPANY: (&str, &str) = ("Nordic Interiors AB", "556677-8899");
/// How many customers a company of the sandbox has.
const CUSTOMERS: i64 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_person_connects_and_their_company_is_there_with_its_customers_and_sealed_tokens() {
    let app = TestApp::start().await;
    let fortnox = &app.stack.sandbox.fortnox;
    let company = fortnox.create_company(COMPANY.0, COMPANY.1);
    let none = app.get("/v1/fortnox/connection", &app.token(&OLGA)).await.expect(200);
    assert_eq!(none, json!({ "status": "none", "company": null, "scopes": [], "updated_at": null }));

    assert_eq!(connect(&app, &OLGA, company).await, "connected", "{}", app.logs());
    let shown = app.get("/v1/fortnox/connection", &app.token(&OLGA)).await.expect(200);
    assert_eq!((shown["status"].as_str(), shown["company"]["name"].as_str()), (Some("connected"), Some(COMPANY.0)));
    assert_eq!(shown["company"]["organisation_number"], COMPANY.1);
    let years: Vec<&str> = shown["company"]["financial_years"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|year| year["from"].as_str())
        .collect();
    assert!(years.contains(&"2026-01-01"), "{years:?}");
    let manual = |code: &str| {
        let series = shown["company"]["voucher_series"].as_array().unwrap();
        series.iter().find(|series| series["code"] == code).unwrap()["manual"].as_bool()
    };
    assert_eq!((manual("A"), manual("SP")), (Some(false), Some(true)));

    let row = app
        .db
        .ask(
            &Actor::role("postgres"),
            "select org_id, provider, external_tenant_id, grant_type, connected_by, token_version,
                    access_token like 'v1.1.%' and refresh_token like 'v1.1.%' as sealed,
                    expires_at between now() + interval '59 minutes' and now() + interval '1 hour' as hour
               from org_integrations",
        )
        .await
        .unwrap();
    let expected = json!([{
        "org_id": NORD, "provider": "fortnox", "external_tenant_id": company.to_string(), "grant_type": "refresh_token",
        "connected_by": OLGA.id, "token_version": 1, "sealed": true, "hour": true,
    }]);
    assert_eq!(row, expected);
    let live = fortnox.refresh_tokens(company);
    assert_eq!(live.len(), 1);
    let stored = app.db.text("select string_agg(i::text, '') from org_integrations i").await;
    assert!(!stored.contains(&live[0]) && !app.logs().contains(&live[0]), "a token is readable");
    assert_eq!(
        app.db.count(&format!("select count(*) from fortnox_customers where org_id = '{NORD}'")).await,
        CUSTOMERS
    );
    let entry = "select org_id, actor, metadata ->> 'on_behalf_of' as for, output from audit_log where action = 'integration.connected'";
    let entry = app.db.ask(&Actor::role("postgres"), entry).await.unwrap();
    let output = json!({ "provider": "fortnox", "company": company.to_string(), "customers": CUSTOMERS });
    assert_eq!(entry, json!([{ "org_id": NORD, "actor": "system", "for": OLGA.id, "output": output }]));
    // Again, after a person consented to more: the same row.
    assert_eq!(connect(&app, &ADAM, company).await, "connected");
    assert_eq!(app.db.count("select count(*) from org_integrations where token_version = 2").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_json_a_browser_is_led_to_fortnox_at_once_and_its_cookie_is_no_scripts() {
    let app = TestApp::start().await;
    let company = app.stack.sandbox.fortnox.create_company(COMPANY.0, COMPANY.1);
    let url = format!(
        "{}/oauth/fortnox/start?redirect_to=http%3A%2F%2Flocalhost%3A3000%2Fsettings%3Ftab%3Dbooks",
        app.stack.url
    );
    let answer = browser().get(url).bearer_auth(app.token(&OLGA)).send().await.unwrap();
    assert_eq!(answer.status(), 303);
    let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    for part in ["spine_fortnox=", "HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=600"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let consent = answer.headers()[header::LOCATION].to_str().unwrap().to_owned();
    let asked = url::Url::parse(&consent).unwrap();
    let asked = |name: &str| asked.query_pairs().find(|(known, _)| known == name).unwrap().1.into_owned();
    assert_eq!(
        (asked("access_type").as_str(), asked("response_type").as_str(), asked("state").len()),
        ("offline", "code", 43)
    );
    let url = app.stack.sandbox.fortnox.consent(&consent, company, true).unwrap();
    assert_eq!(code(back(&url, Some(&cookie)).await).await, "connected", "{}", app.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_manage_integrations_begins_and_nobody_else_and_only_for_an_app_of_ours() {
    let app = TestApp::start().await;
    app.db
        .run(&format!(
            "update org_members set role_id = '00000000-0000-7000-8000-000000000008' where org_id = '{NORD}' and user_id = '{}'",
            SVEN.id
        ))
        .await;
    for person in [&OLGA, &ADAM, &SVEN] {
        assert_eq!(start(&app, &app.token(person), APP).await.status(), 200, "{}", person.email);
    }
    assert_eq!(app.db.count("select count(*) from oauth_states").await, 3);
    let refused = async |token: &str, to: &str, status: u16, code: &str| {
        let answer = start(&app, token, to).await;
        let answered = answer.status().as_u16();
        let problem: Value = answer.json().await.unwrap();
        assert_eq!((answered, problem["code"].as_str()), (status, Some(code)), "{to}");
    };
    for person in [&DORA, &UMA] {
        refused(&app.token(person), APP, 403, "permission_missing").await;
    }
    refused(&app.agent_token(&RENATA).await, APP, 403, "people_only").await;
    refused("no-token", APP, 401, "token_malformed").await;
    for to in [
        "https://evil.example/settings",
        "http://localhost:3001/",
        "http://localhost:30000/",
        "http://localhost:3000.evil.example/",
        "//localhost:3000/",
        "javascript:alert(1)",
        "http://a@localhost:3000/",
    ] {
        refused(&app.token(&OLGA), to, 422, "return_url_unknown").await;
    }
    assert_eq!(app.db.count("select count(*) from oauth_states").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_that_connecting_fails_has_its_code_and_leaves_nothing() {
    let app = TestApp::start().await;
    let fortnox = &app.stack.sandbox.fortnox;
    let (theirs, company) =
        (fortnox.create_company("Theirs AB", "556600-0001"), fortnox.create_company(COMPANY.0, COMPANY.1));
    assert_eq!(connect(&app, &OSCAR, theirs).await, "connected", "{}", app.logs());
    let nothing = async |case: &str| {
        let of_nord = format!(
            "select (select count(*) from org_integrations where org_id = '{NORD}') + (select count(*) from fortnox_customers where org_id = '{NORD}')"
        );
        assert_eq!(app.db.count(&of_nord).await, 0, "{case}");
        assert_eq!(
            fortnox.refresh_tokens(company),
            Vec::<String>::new(),
            "{case}: a token that nobody keeps is still good"
        );
    };

    // The person says no.
    let at = begin(&app, &OLGA).await;
    let url = fortnox.consent(&at.consent, company, false).unwrap();
    assert_eq!(code(back(&url, Some(&at.cookie)).await).await, "consent_refused");
    nothing("refused").await;
    // The same way back once more, however it ended.
    assert_eq!(code(back(&url, Some(&at.cookie)).await).await, "state_replayed");

    // Another browser, or one without a cookie; then the right one, which it did not use up.
    let (at, other) = (begin(&app, &OLGA).await, begin(&app, &OLGA).await);
    let url = fortnox.consent(&at.consent, company, false).unwrap();
    for cookie in [None, Some(other.cookie.as_str()), Some("spine_fortnox=x")] {
        assert_eq!(code(back(&url, cookie).await).await, "state_foreign", "{cookie:?}");
    }
    assert_eq!(code(back(&url, Some(&at.cookie)).await).await, "consent_refused");

    // At the moment that ten minutes are over.
    let at = begin(&app, &OLGA).await;
    let url = fortnox.consent(&at.consent, company, true).unwrap();
    app.db.run("update oauth_states set expires_at = now() where used_at is null").await;
    assert_eq!(code(back(&url, Some(&at.cookie)).await).await, "state_expired");
    nothing("expired").await;

    // A state that was never made here, and none at all.
    let mut forged = url.clone();
    forged.set_query(Some("state=forged&code=x"));
    assert_eq!(code(back(&forged, Some(&at.cookie)).await).await, "state_unknown");
    forged.set_query(Some("code=x"));
    assert_eq!(code(back(&forged, Some(&at.cookie)).await).await, "state_unknown");

    // Who began may not connect any more.
    let at = begin(&app, &ADAM).await;
    let url = fortnox.consent(&at.consent, company, true).unwrap();
    let role = async |number: u8| {
        let role = format!("00000000-0000-7000-8000-00000000000{number}");
        app.db
            .run(&format!(
                "update org_members set role_id = '{role}' where org_id = '{NORD}' and user_id = '{}'",
                ADAM.id
            ))
            .await;
    };
    role(3).await;
    assert_eq!(code(back(&url, Some(&at.cookie)).await).await, "permission_missing");
    role(2).await;
    nothing("no right").await;

    // The company's: another organisation's, without a licence, without a scope, and a Fortnox that is away.
    assert_eq!(connect(&app, &OLGA, theirs).await, "company_connected_elsewhere");
    assert_eq!(
        app.db
            .count(&format!("select count(*) from org_integrations where org_id = '{BRICK}' and status = 'connected'"))
            .await,
        1
    );
    nothing("elsewhere").await;
    fortnox.set_licence(company, "bookkeeping", false).unwrap();
    assert_eq!(connect(&app, &OLGA, company).await, "licence_missing");
    nothing("licence").await;
    fortnox.set_licence(company, "bookkeeping", true).unwrap();
    app.stack.fault("fortnox", "reset", Calls::Every).unwrap();
    assert_eq!(connect(&app, &OLGA, company).await, "fortnox_unavailable");
    app.stack.fault("fortnox", "none", Calls::Every).unwrap();
    assert_eq!(connect(&app, &OLGA, company).await, "connected", "{}", app.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consent_that_lacks_a_scope_says_so() {
    let app = TestApp::with(&[("FORTNOX_SCOPES", "companyinformation settings customer")]).await;
    let company = app.stack.sandbox.fortnox.create_company(COMPANY.0, COMPANY.1);
    assert_eq!(connect(&app, &OLGA, company).await, "scope_missing");
    assert_eq!(app.stack.sandbox.fortnox.refresh_tokens(company), Vec::<String>::new());
    // One that the app is not registered for is refused before anybody signs in.
    let app = TestApp::with(&[("FORTNOX_SCOPES", "companyinformation salary")]).await;
    let company = app.stack.sandbox.fortnox.create_company(COMPANY.0, COMPANY.1);
    assert_eq!(connect(&app, &OLGA, company).await, "scope_unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnecting_revokes_the_token_and_keeps_what_was_read() {
    let app = TestApp::start().await;
    let fortnox = &app.stack.sandbox.fortnox;
    let company = fortnox.create_company(COMPANY.0, COMPANY.1);
    assert_eq!(connect(&app, &OLGA, company).await, "connected");
    let path = "/v1/fortnox/connection/disconnect";
    app.post(path, &app.token(&DORA), &Value::Null).await.expect_error(403, "permission_missing");
    assert_eq!(fortnox.refresh_tokens(company).len(), 1);
    for _ in 0..2 {
        let shown = app.post(path, &app.token(&OLGA), &Value::Null).await.expect(200);
        assert_eq!(
            (shown["status"].as_str(), shown["company"]["name"].as_str()),
            (Some("disconnected"), Some(COMPANY.0))
        );
    }
    assert_eq!(fortnox.refresh_tokens(company), Vec::<String>::new());
    let left = "select count(*) from org_integrations where access_token is null and refresh_token is null and expires_at is null";
    assert_eq!(app.db.count(left).await, 1);
    assert_eq!(app.db.count("select count(*) from fortnox_customers").await, CUSTOMERS);
    assert_eq!(app.db.count("select count(*) from audit_log where action = 'integration.disconnected'").await, 1);
    // Another organisation may have it now.
    assert_eq!(connect(&app, &OSCAR, company).await, "connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_at_any_step_of_the_way_back_leaves_all_of_it_or_none_and_a_new_consent_mends_it() {
    let app = TestApp::start().await;
    let fortnox = &app.stack.sandbox.fortnox;
    let company = fortnox.create_company(COMPANY.0, COMPANY.1);
    let wire = app.stack.wire("postgres").unwrap();
    let mut cuts = 0;
    for moment in [Moment::Asked, Moment::Answered] {
        for number in 1.. {
            app.db.run("delete from org_integrations; delete from fortnox_customers").await;
            // This is not about how many requests a company's Fortnox takes in five seconds.
            fortnox.advance(6);
            let logged = "select count(*) from audit_log where action = 'integration.connected'";
            let before = app.db.count(logged).await;
            let at = begin(&app, &OLGA).await;
            let url = fortnox.consent(&at.consent, company, true).unwrap();
            let seen = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&seen);
            wire.tap(Some(Arc::new(move |_, now| {
                let cut = now == moment && count.fetch_add(1, Ordering::SeqCst) + 1 == number;
                if cut { Verdict::Cut } else { Verdict::Pass }
            })));
            let answer = back(&url, Some(&at.cookie)).await;
            wire.tap(None);
            let case = format!("cut at step {number}, {moment:?}");
            assert!([303, 503].contains(&answer.status().as_u16()), "{case}: {}", answer.status());
            let connected = app.db.count("select count(*) from org_integrations").await;
            let entries = app.db.count(logged).await - before;
            let customers = app.db.count("select count(*) from fortnox_customers").await;
            assert_eq!((customers, entries), (connected * CUSTOMERS, connected), "{case}");
            if answer.status() == 303 && connected == 1 {
                assert_eq!(code(answer).await, "connected", "{case}");
            }
            fortnox.advance(6);
            assert_eq!(connect(&app, &OLGA, company).await, "connected", "{case}: {}", app.logs());
            if seen.load(Ordering::SeqCst) < number {
                break;
            }
            cuts += 1;
            assert!(number < 40, "{case}: it does not end");
        }
    }
    assert!(cuts > 10, "only {cuts} steps were seen");
}
