//! What of Fortnox' tokens is its own: service accounts. The rest is as for others (`crate::renewals`).

use std::{sync::Arc, time::Duration};

use integration_tests::{
    TestApp,
    people::{NORD, OLGA},
};
use sandbox::{
    Calls,
    fortnox::{Call, Fault},
};
use shared::{
    clients::fortnox::Fortnox,
    tokens::{TokenError, Tokens},
};

use super::connect;
use crate::renewals::processes;

/// What a process of its own has.
pub(super) fn process(app: &TestApp, url: &str, patience: Duration) -> Tokens<Arc<Fortnox>> {
    processes::fortnox(&processes::settings(app, url), patience)
}

async fn ends_in(app: &TestApp, interval: &str) {
    app.db.run(&format!("update org_integrations set expires_at = now() + interval '{interval}'")).await;
}

/// Has tokens renewed, and then not.
pub(super) async fn renewed_and_not(app: &TestApp) {
    let tokens = process(app, &app.db.functions_url, Duration::from_secs(5));
    ends_in(app, "1 second").await;
    tokens.access(NORD).await.unwrap();
    ends_in(app, "1 second").await;
    app.stack.sandbox.fortnox.arrange(Call::Token, Fault::RateLimited, Calls::Next(1));
    tokens.access(NORD).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_service_accounts_no_refresh_token_is_kept_and_a_lost_answer_costs_nothing() {
    let app = TestApp::with(&[("FORTNOX_SERVICE_ACCOUNTS", "true")]).await;
    app.stack.sandbox.fortnox.set_service_accounts(true);
    let company = app.stack.sandbox.fortnox.create_company("Nordic Interiors AB", "556677-8899");
    assert_eq!(connect(&app, &OLGA, company).await, "connected", "{}", app.logs());
    ends_in(&app, "59 seconds").await;
    let kept =
        "select count(*) from org_integrations where grant_type = 'client_credentials' and refresh_token is null";
    assert_eq!(app.db.count(kept).await, 1);
    let tokens = process(&app, &app.db.functions_url, Duration::from_secs(5));
    app.stack.sandbox.fortnox.lose_next_token_answer();
    let lost = tokens.access(NORD).await;
    assert!(matches!(lost, Err(TokenError::Provider(_))), "{lost:?}");
    tokens.access(NORD).await.unwrap();
    let asked = app.stack.sandbox.fortnox.token_requests();
    assert_eq!((asked.get("client_credentials"), asked.get("refresh_token")), (Some(&2), None));
    assert_eq!(app.db.text("select status from org_integrations").await, "connected");
}
