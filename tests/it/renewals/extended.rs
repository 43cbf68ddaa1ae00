//! Where a token is extended while it lasts: when, and what serves meanwhile. Instagram's.

use integration_tests::TestApp;
use sandbox::{Calls, Fault, Gate, instagram::Call};
use shared::tokens::TokenError;

use super::{PATIENCE, flows::Flow, noon};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_extended_from_a_day_old_on_and_in_its_last_thirty_days() {
    let app = TestApp::start().await;
    let held = Flow::Instagram.connected(&app).await;
    let door = held.door(&app, PATIENCE).at(noon);
    for (age, left, asked) in [
        ("23 hours 59 minutes 59 seconds", "20 days", 0),
        ("24 hours", "30 days 1 second", 0),
        ("24 hours", "30 days", 1),
        ("24 hours 1 second", "20 days", 1),
        ("59 days", "1 day", 1),
        // It is renewed as it ends, even where it is said to be younger than a day.
        ("1 hour", "60 seconds", 1),
    ] {
        app.stack.sandbox.instagram.advance(24 * 60 * 60);
        let set = format!(
            "<ends> = to_timestamp(1798800000) + interval '{left}', issued_at = to_timestamp(1798800000) - interval '{age}'"
        );
        held.set(&app, &set).await;
        let before = held.renewals(&app);
        door.access().await.unwrap();
        assert_eq!(held.renewals(&app) - before, asked, "{age} old, {left} left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_that_there_is_serves_while_an_extension_fails_and_nothing_is_lost_with_an_answer() {
    let app = TestApp::start().await;
    let held = Flow::Instagram.connected(&app).await;
    let door = held.door(&app, PATIENCE);
    held.set(&app, "<ends> = now() + interval '20 days', issued_at = now() - interval '2 days'").await;
    let world = &app.stack.sandbox.instagram;
    let mut served = Vec::new();
    for fault in [Fault::RateLimited, Fault::Transient(2), Fault::Down(503), Fault::Dropped, Fault::Lost] {
        world.arrange(Call::Token, fault, Calls::Next(1));
        served.push(door.access().await.unwrap().expose().to_owned());
        assert!(held.is(&app, "token_version = 1 and status = '<holds>' and refreshing_since is null").await);
    }
    served.dedup();
    assert_eq!((served.len(), held.renewals(&app)), (1, 5));
    // Sent, and nothing came back: to ask again does no harm.
    assert!(held.is(&app, "uncertain_since is null").await);
    let extended = door.access().await.unwrap();
    assert!(extended.expose() != served[0] && extended.version == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_process_extends_a_token_the_others_use_the_one_that_there_is() {
    let app = TestApp::start().await;
    let held = Flow::Instagram.connected(&app).await;
    held.set(&app, "<ends> = now() + interval '20 days', issued_at = now() - interval '2 days'").await;
    let gate = Gate::default();
    held.hold_next(&app, &gate);
    let (first, second) = (held.door(&app, PATIENCE), held.door(&app, PATIENCE));
    let others = async {
        held.is_held(&app).await;
        let version = second.access().await.unwrap().version;
        gate.open();
        version
    };
    let (extending, other) = futures::join!(first.access(), others);
    assert_eq!((extending.unwrap().version, other), (2, 1));
    assert_eq!(held.renewals(&app), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_refused_or_over_has_the_account_wait_for_a_person() {
    let app = TestApp::start().await;
    let held = Flow::Instagram.connected(&app).await;
    let door = held.door(&app, PATIENCE);
    held.set(&app, "<ends> = now(), consent_ends_at = now()").await;
    let over = door.access().await;
    assert!(matches!(over, Err(TokenError::Reconnect)), "{over:?}");
    assert!(held.is(&app, "status = '<waits>' and lost_why = 'consent_ended'").await);
    assert_eq!(held.renewals(&app), 0);

    held.connect(&app).await;
    held.ends_in(&app, "59 seconds").await;
    let account = app.db.text("select platform_id from social_accounts").await;
    app.stack.sandbox.instagram.revoke_tokens_in(&account, 0);
    let refused = door.access().await;
    assert!(matches!(refused, Err(TokenError::Reconnect)), "{refused:?}");
    assert!(held.is(&app, "status = '<waits>' and lost_why = 'token_refused'").await);
}
