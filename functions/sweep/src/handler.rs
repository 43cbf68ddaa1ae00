//! Triggers: the schedule alone.

use shared::lambda::{Answer, Error, Trigger};

use crate::{schedule, state::State};

/// Answers a tick. It may come twice: everything here is safe to repeat.
///
/// # Errors
/// If every part failed, so that Lambda counts a failed invocation and its alarm sounds.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    let Trigger::Schedule(tick) = trigger else { return Err("sweep answers its schedule only".into()) };
    schedule::tick(state, &tick).await.map(Answer::Schedule)
}
