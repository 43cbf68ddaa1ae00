//! Tokens of companies and accounts: one renewal at a time, stored before it is used, and an end that says what a person has to do. The same tests
//! for each way to connect: those of `rotating` where a refresh token is used up by asking, and those of `extended` where it is not.

mod extended;
mod flows;
pub(crate) mod processes;
mod rotating;

use std::time::Duration;

use chrono::{DateTime, Utc};
use integration_tests::{TestApp, people::OLGA, pooler};
use sandbox::Gate;
use shared::tokens::TokenError;

use self::{
    flows::{Door, Flow},
    processes::{another, fifty, give, given, is_a_part, say},
};

const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the tests of a way to connect, each of the function of its name. It is given the way, and the test's own name.
macro_rules! tests_of {
    ($($module:ident: $flow:ident [$($of:ident),+];)+) => {
        $(mod $module { $(tests_of!(@ $module $flow $of);)+ })+
    };
    (@ $module:ident $flow:ident every) => {
        tests_of!(# $module $flow:
            of_fifty_processes_that_need_a_token_at_once_one_asks_and_all_have_the_same,
            a_token_is_renewed_a_minute_before_it_ends_and_not_before_that,
            a_provider_that_fails_without_taking_the_token_is_asked_again_later,
            a_process_that_died_while_renewing_is_waited_for_a_minute_and_then_replaced,
            a_process_killed_between_issue_and_storage_costs_a_consent_where_tokens_rotate_and_nothing_where_they_do_not
        );
    };
    (@ $module:ident $flow:ident rotating) => {
        tests_of!(# $module $flow:
            of_fifty_processes_whose_pair_was_issued_and_lost_none_goes_on_asking,
            a_pair_that_was_issued_and_lost_ends_in_reconnect_and_is_not_asked_for_again_and_again
        );
    };
    (# $module:ident $flow:ident: $($test:ident),+) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            let name = concat!("renewals::", stringify!($module), "::", stringify!($test));
            crate::renewals::$test(crate::renewals::Flow::$flow, name).await;
        })+
    };
}

tests_of! {
    fortnox: Fortnox [every, rotating];
    instagram: Instagram [every];
    tiktok_display: TikTokDisplay [every, rotating];
    tiktok_business: TikTokBusiness [every, rotating];
}

use rotating::{
    a_pair_that_was_issued_and_lost_ends_in_reconnect_and_is_not_asked_for_again_and_again,
    of_fifty_processes_whose_pair_was_issued_and_lost_none_goes_on_asking,
};

/// The part of a process that wants a token.
async fn want_a_token() {
    say(&match Door::of(&given(), Duration::from_secs(60)).access().await {
        Ok(token) => format!("token {}", token.expose()),
        Err(error) => format!("error {error:?}"),
    });
}

async fn of_fifty_processes_that_need_a_token_at_once_one_asks_and_all_have_the_same(flow: Flow, name: &str) {
    if is_a_part() {
        return want_a_token().await;
    }
    let app = TestApp::start().await;
    let (pooler, _home) = pooler(&app.db, 4).await;
    let held = flow.connected(&app).await;
    let before = held.good(&app);
    let mut had = fifty(&held.settings(&app, &pooler.url), name).await;
    assert!(had.iter().all(|said| said.starts_with("token ")), "{had:?}");
    had.dedup();
    assert_eq!(had.len(), 1, "they have different tokens");
    assert_eq!(held.renewals(&app), 1);
    // What is stored is what is good.
    let after = held.good(&app);
    assert!(after.iter().any(|token| !before.contains(token)), "{after:?}");
    assert_eq!(after.len(), if flow == Flow::Instagram { before.len() + 1 } else { 1 });
    held.ends_in(&app, "1 second").await;
    Door::of(&held.settings(&app, &pooler.url), Duration::from_secs(60)).access().await.unwrap();
    assert_eq!(held.renewals(&app), 2);
    assert!(held.is(&app, "token_version = 3 and refreshing_since is null").await);
}

/// A moment at which nothing else happens.
fn noon() -> DateTime<Utc> {
    DateTime::from_timestamp(1_798_800_000, 0).unwrap()
}

async fn a_token_is_renewed_a_minute_before_it_ends_and_not_before_that(flow: Flow, _: &str) {
    let app = TestApp::start().await;
    let held = flow.connected(&app).await;
    let door = held.door(&app, PATIENCE).at(noon);
    let left = async |left: &str| {
        let set = format!(
            "<ends> = to_timestamp(1798800000) + interval '{left}', issued_at = to_timestamp(1798800000) - interval '1 hour'"
        );
        held.set(&app, &set).await;
        door.access().await.unwrap();
        held.renewals(&app)
    };
    assert_eq!(left("60.000001 seconds").await, 0);
    assert_eq!(left("60 seconds").await, 1);
    let stored = "<ends> > to_timestamp(1798800000) + interval '59 minutes' and issued_at = to_timestamp(1798800000) and refreshing_since is null";
    assert!(held.is(&app, stored).await);
}

async fn a_provider_that_fails_without_taking_the_token_is_asked_again_later(flow: Flow, _: &str) {
    let app = TestApp::start().await;
    let held = flow.connected(&app).await;
    let door = held.door(&app, PATIENCE);
    for too_many in [true, false] {
        held.refuse_next(&app, too_many);
        let failed = door.access().await;
        assert!(matches!(failed, Err(TokenError::Provider(_))), "{failed:?}");
        assert!(held.is(&app, "status = '<holds>' and refreshing_since is null").await);
    }
    door.access().await.unwrap();
    assert!(held.is(&app, "uncertain_since is null").await);
}

async fn a_process_that_died_while_renewing_is_waited_for_a_minute_and_then_replaced(flow: Flow, _: &str) {
    let app = TestApp::start().await;
    let held = flow.connected(&app).await;
    let door = held.door(&app, Duration::from_millis(300));
    held.renewing_since(&app, "50 seconds").await;
    let waited = door.access().await;
    assert!(matches!(waited, Err(TokenError::Busy)), "{waited:?}");
    assert_eq!(held.renewals(&app), 0);
    held.renewing_since(&app, "60 seconds").await;
    door.access().await.unwrap();
    assert_eq!(held.renewals(&app), 1);
}

async fn a_process_killed_between_issue_and_storage_costs_a_consent_where_tokens_rotate_and_nothing_where_they_do_not(
    flow: Flow,
    name: &str,
) {
    if is_a_part() {
        return want_a_token().await;
    }
    let app = TestApp::start().await;
    let held = flow.connected(&app).await;
    let before = held.good(&app);
    let gate = Gate::default();
    held.hold_next(&app, &gate);
    let mut process = another(name);
    give(&mut process, &held.settings(&app, &app.db.functions_url)).await;
    held.is_held(&app).await;
    // The provider has issued it, and nothing is stored.
    assert_ne!(held.good(&app), before);
    process.kill().await.unwrap();
    gate.open();
    assert!(held.is(&app, "token_version = 1 and refreshing_since is not null and status = '<holds>'").await);

    let door = held.door(&app, PATIENCE);
    held.renewing_since(&app, "61 seconds").await;
    let next = door.access().await;
    assert_eq!(held.renewals(&app), 2);
    if flow == Flow::Instagram {
        next.unwrap();
        assert!(held.is(&app, "token_version = 2 and status = '<holds>'").await);
        return;
    }
    assert!(matches!(next, Err(TokenError::Reconnect)), "{next:?}");
    assert!(held.is(&app, "status = '<waits>'").await);
    let notified = format!(
        "select count(*) from notifications where kind = 'connection_needs_person' and user_id = '{}'",
        OLGA.id
    );
    assert_eq!(app.db.count(&notified).await, 1);
    held.connect(&app).await;
    door.access().await.unwrap();
    assert!(held.is(&app, "status = '<holds>'").await);
}
