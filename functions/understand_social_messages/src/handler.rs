//! Triggers to capabilities: messages of the queue, and the schedule.

use std::time::Instant;

use shared::{
    lambda::{Answer, Error, Trigger},
    worker,
};

use crate::{schedule, state::State, work::Understanding};

/// Answers a batch of the queue, or a tick.
///
/// # Errors
/// None towards the queue; to the schedule, if every part of its work failed.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    match trigger {
        Trigger::Http(_) => Err("understand_social_messages answers no HTTP requests".into()),
        Trigger::Queue(batch) => {
            let deadline = Instant::now() + batch.remaining;
            Ok(batch.each(async |message| worker::process(&Understanding(state), message, deadline).await).await)
        }
        Trigger::Schedule(tick) => schedule::tick(state, &tick).await.map(Answer::Schedule),
    }
}
