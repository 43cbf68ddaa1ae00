//! Triggers to capabilities.

use std::time::Instant;

use shared::{
    lambda::{Answer, Error, Trigger},
    worker,
};

use crate::{state::State, work::Files};

/// Answers a batch of the queue.
///
/// # Errors
/// None towards the queue; this function has no schedule and no route.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    match trigger {
        Trigger::Queue(batch) => {
            let deadline = Instant::now() + batch.remaining;
            Ok(batch.each(async |message| worker::process(&Files(state), message, deadline).await).await)
        }
        Trigger::Http(_) => Err("keep_social_attachments has no route".into()),
        Trigger::Schedule(_) => Err("keep_social_attachments has no schedule".into()),
    }
}
