use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    Calls, Canned, Gate,
    ask::send,
    fortnox::{Call, Fault, MOST},
};

const COMPANY: &str = "/3/companyinformation";

impl App {
    /// Asks while the clock stands still.
    async fn ask_at_once(&self, token: &str, path: &str) -> Answer {
        let headers = [("authorization", format!("Bearer {token}")), ("accept", "application/json".to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        call(self.address, "GET", path, &headers, "").await
    }
}

#[tokio::test]
async fn the_26th_call_in_five_seconds_is_refused_whatever_the_token() {
    let app = App::start().await;
    let (first, second) = (app.connect().await, app.connect().await);
    let other = app.fortnox.create_company("Annat AB", "5590001111");
    let elsewhere = app.connect_with(other, ALL).await;
    for at in 0..MOST {
        let token = if at % 2 == 0 { &first } else { &second };
        assert_eq!(app.ask_at_once(token, COMPANY).await.status, 200);
    }
    let refused = app.ask_at_once(&second, COMPANY).await;
    assert_eq!((refused.status, refused.headers["content-type"].as_str()), (429, "application/json"));
    assert_eq!(refused.body, json!({ "message": "Too many requests" }));
    assert!(!refused.headers.contains_key("retry-after"), "nothing says when to come back");
    assert_eq!(app.ask_at_once(&elsewhere, COMPANY).await.status, 200, "another company is not concerned");
    assert_eq!(app.ask_at_once("nonsense", COMPANY).await.status, 401);
    app.fortnox.advance(4);
    assert_eq!(app.ask_at_once(&first, COMPANY).await.status, 429);
    app.fortnox.advance(1);
    assert_eq!(app.ask_at_once(&first, COMPANY).await.status, 200);
    assert_eq!((app.fortnox.most_in_any_window(app.tenant), app.fortnox.refused_by_limit(app.tenant)), (27, 2));
    assert_eq!(app.fortnox.most_in_any_window(other), 1);
}

#[tokio::test]
async fn what_was_answered_with_a_fault_counts_for_the_rate() {
    let app = App::start().await;
    let token = app.connect().await;
    app.script.arrange(Canned::Answer(500, json!({})), Calls::Next(MOST));
    for _ in 0..MOST {
        assert_eq!(app.ask_at_once(&token, COMPANY).await.status, 500);
    }
    assert_eq!(app.ask_at_once(&token, COMPANY).await.status, 429);
}

#[tokio::test]
async fn a_token_answer_can_be_lost_after_the_tokens_rotated() {
    let app = App::start().await;
    let first = app.exchange(&app.code(app.tenant, &[])).await.body["refresh_token"].as_str().unwrap().to_owned();
    app.fortnox.lose_next_token_answer();
    let (basic, form) = (app.basic(), format!("grant_type=refresh_token&refresh_token={first}"));
    let headers = [("authorization", basic.as_str()), ("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(send(app.address, "POST", "/oauth-v1/token", &headers, &form).await, "", "not a byte came back");
    let live = app.fortnox.refresh_tokens(app.tenant);
    assert_eq!(live.len(), 1);
    assert_ne!(live[0], first);
    assert_eq!(app.refresh(&first).await.status, 400, "the old one is spent");
    assert_eq!(app.fortnox.faults_met(Call::Token), 1);
}

#[tokio::test]
async fn a_voucher_answer_can_be_lost_or_spoilt_after_it_was_stored() {
    let app = App::start().await;
    let token = app.connect().await;
    let voucher = json!({ "Voucher": {
        "Description": "x", "TransactionDate": "2026-01-01", "VoucherSeries": "SP",
        "VoucherRows": [{ "Account": 5010, "Debit": 1 }, { "Account": 1930, "Credit": 1 }],
    }});
    let path = format!("/3/vouchers?financialyear={}", app.year(2026));
    app.fortnox.lose_next_voucher_answer();
    let bearer = format!("Bearer {token}");
    let headers =
        [("authorization", bearer.as_str()), ("accept", "application/json"), ("content-type", "application/json")];
    assert_eq!(send(app.address, "POST", &path, &headers, &voucher.to_string()).await, "");
    assert_eq!(app.fortnox.vouchers(app.tenant).len(), 1);
    assert_eq!(app.fortnox.requests().last().unwrap().status, 201);
    app.fortnox.arrange(Call::Voucher, Fault::Failed, Calls::Next(1));
    app.post(&token, &path, &voucher).await.refused(500, 1_000_003, "System exception");
    assert_eq!(app.fortnox.vouchers(app.tenant).len(), 2);
    app.fortnox.arrange(Call::Voucher, Fault::SystemException, Calls::Next(1));
    app.post(&token, &path, &voucher).await.refused(500, 1_000_003, "System exception");
    assert_eq!(app.fortnox.vouchers(app.tenant).len(), 2);
    assert_eq!(app.post(&token, &path, &voucher).await.body["Voucher"]["VoucherNumber"], 3);
}

#[tokio::test]
async fn an_answer_is_held_back_after_what_was_asked_for_is_done() {
    let app = App::start().await;
    let first = app.exchange(&app.code(app.tenant, &[])).await.body["refresh_token"].as_str().unwrap().to_owned();
    let gate = Gate::default();
    app.fortnox.arrange(Call::Token, Fault::Held(gate.clone()), Calls::Next(1));
    let answered = Cell::new(false);
    let refresh = async {
        let answer = app.refresh(&first).await;
        answered.set(true);
        answer
    };
    let (answer, live) = tokio::join!(refresh, async {
        app.fortnox.held_times(1).await;
        // Another call, so that an answer which is not held back has arrived by now.
        assert_eq!(app.get("nonsense", COMPANY).await.status, 401);
        assert!(!answered.get());
        let live = app.fortnox.refresh_tokens(app.tenant);
        gate.open();
        live
    });
    assert_ne!(live, [first]);
    assert_eq!(answer.ok()["refresh_token"], live[0]);
}

#[tokio::test]
async fn the_api_can_be_limited_down_broken_and_slow() {
    let app = App::start().await;
    let token = app.connect().await;
    let with = async |fault: Fault| {
        app.fortnox.arrange(Call::Rest, fault, Calls::Next(1));
        app.get(&token, COMPANY).await
    };
    assert_eq!(with(Fault::RateLimited).await.status, 429);
    with(Fault::SystemException).await.refused(500, 1_000_003, "System exception");
    let html = with(Fault::BadGateway).await;
    assert_eq!((html.status, html.headers["content-type"].as_str()), (502, "text/html; charset=utf-8"));
    let (begun, slow) = (Instant::now(), Duration::from_millis(50));
    assert_eq!(with(Fault::Slow(slow)).await.status, 200);
    assert!(begun.elapsed() >= slow);
    app.fortnox.arrange(Call::Rest, Fault::BadGateway, Calls::Every);
    app.fortnox.clear_faults();
    assert_eq!(app.get(&token, COMPANY).await.status, 200);
}

#[tokio::test]
async fn the_script_answers_before_fortnox_does() {
    let app = App::start().await;
    let token = app.connect().await;
    app.script.then(Canned::Garbage(b"<html>"));
    assert_eq!(app.get(&token, COMPANY).await.text, "<html>");
    app.script.then(Canned::Changed(vec![("/CompanyInformation/DatabaseNumber", Some(json!(7)))]));
    assert_eq!(app.get(&token, COMPANY).await.ok()["CompanyInformation"]["DatabaseNumber"], 7);
}

#[tokio::test]
async fn every_request_is_remembered_with_its_company_and_status() {
    let app = App::start().await;
    let token = app.connect().await;
    app.get(&token, "/3/customers?limit=1").await;
    app.get("nonsense", "/3/customers").await;
    app.post(&token, "/3/customers", &json!({ "Customer": { "Name": "A" } })).await;
    let seen: Vec<_> = app.fortnox.requests().into_iter().map(|r| (r.method, r.path, r.tenant, r.status)).collect();
    let seen: Vec<_> = seen.iter().map(|(m, p, t, s)| (m.as_str(), p.as_str(), *t, *s)).collect();
    assert_eq!(
        seen,
        [
            ("POST", "/oauth-v1/token", None, 200),
            ("GET", "/3/customers?limit=1", Some(app.tenant), 200),
            ("GET", "/3/customers", None, 401),
            ("POST", "/3/customers", Some(app.tenant), 201),
        ]
    );
    assert_eq!(app.fortnox.requests()[3].body, r#"{"Customer":{"Name":"A"}}"#);
}

#[tokio::test]
async fn the_clock_can_run_faster() {
    let app = App::start().await;
    let token = app.connect().await;
    assert_eq!(app.get(&token, COMPANY).await.status, 200);
    // An hour in less time than a request takes.
    app.fortnox.set_pace(1e9);
    assert_eq!(app.get(&token, COMPANY).await.status, 401, "an hour has passed");
}

#[tokio::test]
async fn things_that_are_not_there_cannot_be_changed_by_hand() {
    let app = App::start().await;
    let fortnox = &app.fortnox;
    assert!(fortnox.create_customers(1, 1).is_err());
    assert!(fortnox.delete_customer(app.tenant, "9").is_err());
    assert!(fortnox.choose_year(app.tenant, 2026).is_err());
    assert!(fortnox.pay_invoice(app.tenant, 1, day("2026-01-01")).is_err());
    assert!(fortnox.set_series_manual(app.tenant, app.year(2026), "X", true).is_err());
    assert!(fortnox.vouchers(1).is_empty());
}
