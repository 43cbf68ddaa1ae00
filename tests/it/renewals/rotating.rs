//! Where a refresh token is used up by asking: a pair that was issued and lost.

use integration_tests::{TestApp, pooler};
use shared::tokens::TokenError;

use super::{
    PATIENCE,
    flows::Flow,
    processes::{PROCESSES, fifty, is_a_part},
    want_a_token,
};

pub(super) async fn of_fifty_processes_whose_pair_was_issued_and_lost_none_goes_on_asking(flow: Flow, name: &str) {
    if is_a_part() {
        return want_a_token().await;
    }
    let app = TestApp::start().await;
    let (pooler, _home) = pooler(&app.db, 4).await;
    let held = flow.connected(&app).await;
    held.lose_next(&app);
    let had = fifty(&held.settings(&app, &pooler.url), name).await;
    assert!(had.iter().all(|said| said.starts_with("error ")), "{had:?}");
    assert!(had.iter().filter(|said| said.contains("Reconnect")).count() >= PROCESSES - 1, "{had:?}");
    // The one that was lost, and the one that was refused, which says that it was.
    assert_eq!(held.renewals(&app), 2);
    assert!(held.is(&app, "status = '<waits>'").await);
}

pub(super) async fn a_pair_that_was_issued_and_lost_ends_in_reconnect_and_is_not_asked_for_again_and_again(
    flow: Flow,
    _: &str,
) {
    let app = TestApp::start().await;
    let held = flow.connected(&app).await;
    let door = held.door(&app, PATIENCE);
    held.lose_next(&app);
    let lost = door.access().await;
    assert!(matches!(lost, Err(TokenError::Provider(_))), "{lost:?}");
    assert!(held.is(&app, "status = '<holds>' and uncertain_since is not null and refreshing_since is null").await);
    // It is not known yet whether it was taken: once more, and it was.
    for _ in 0..3 {
        let refused = door.access().await;
        assert!(matches!(refused, Err(TokenError::Reconnect)), "{refused:?}");
    }
    assert_eq!(held.renewals(&app), 2);
    assert!(held.is(&app, "status = '<waits>'").await);
    // A person consents again.
    held.connect(&app).await;
    door.access().await.unwrap();
}
