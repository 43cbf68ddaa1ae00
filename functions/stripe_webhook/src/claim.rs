//! Events that waited: for who owns them, or for the rest of a list that was cut short.

use std::{collections::BTreeMap, time::Instant};

use shared::{
    clients::stripe::StripeError,
    store::billing::{self, Observation, StoredEvent},
};
use uuid::Uuid;

use crate::{
    error::StepError,
    event::{self, without_effect},
    fetch::fetch,
    record::{PAGE, count, record_in},
    state::State,
};

/// How many objects that cannot be fetched one run bears before it takes Stripe itself to be away.
const MOST_FAILURES: usize = 3;

/// Applies a page of the events that waited for this organisation. How many of them wait no more.
///
/// # Errors
/// [`StepError`] if the database cannot be reached. What Stripe does not show in full now goes on waiting.
pub(crate) async fn claim(state: &State, org: Uuid, deadline: Instant) -> Result<usize, StepError> {
    let events = state.db.service(org, async |tx| billing::claim_events(tx, org, PAGE).await).await?;
    let now_s = (state.clock)().timestamp();
    let (mut applied, mut partial) = (0, BTreeMap::<String, Vec<(&StoredEvent, Observation)>>::new());
    for stored in &events {
        let observation = event::read(&stored.raw, now_s).observation;
        if let (true, Some(object)) = (observation.partial, observation.object_id.clone()) {
            partial.entry(object).or_default().push((stored, observation));
            continue;
        }
        // Whose it is may be known by more than it says itself.
        let recorded = record_in(&state.db, Some(org), &observation, &stored.raw).await?;
        applied += usize::from(!matches!(recorded.outcome.as_str(), "received" | "duplicate"));
    }
    let mut failures = 0;
    for (object_id, waiting) in partial {
        if failures >= MOST_FAILURES || Instant::now() >= deadline {
            break;
        }
        match complete(state, org, &object_id, waiting).await {
            Ok(closed) => applied += closed,
            Err(StepError::Stripe(error)) => {
                tracing::warn!(object.id = object_id, %error, "an object cannot be read in full yet");
                failures += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(applied)
}

/// Fetches an object of which events showed a part, and ends those that it overtakes. How many.
async fn complete(
    state: &State,
    org: Uuid,
    object_id: &str,
    waiting: Vec<(&StoredEvent, Observation)>,
) -> Result<usize, StepError> {
    // Until which second what was fetched is newer than any event.
    let overtakes = match fetch(state, org, object_id).await {
        Ok(raw) => {
            let read = event::read(&raw, 0).observation;
            let recorded = record_in(&state.db, Some(org), &read, &raw).await?;
            match (&read.state, recorded.outcome.as_str()) {
                // What can change no more overtakes every event.
                (Some(told), "applied" | "superseded" | "duplicate") if told.terminal => Some(i64::MAX),
                (Some(_), "applied") => Some(read.occurred_at),
                // Something newer was known: asked again later, until the answer is newer.
                _ => Some(i64::MIN),
            }
        }
        Err(StepError::Stripe(StripeError::Missing)) => None,
        Err(error) => return Err(error),
    };
    let mut ended = 0;
    for (stored, observation) in waiting {
        let end = match overtakes {
            Some(second) if second <= observation.occurred_at => continue,
            Some(_) => Observation { partial: false, status: Some("superseded"), error: None, ..observation },
            None => missing(object_id, observation),
        };
        let recorded = record_in(&state.db, Some(org), &end, &stored.raw).await?;
        if recorded.outcome == "failed" {
            tracing::warn!(event.id = end.event_id, object.id = object_id, "Stripe has no such object");
            count((state.clock)(), "recorded", "failed");
        }
        ended += 1;
    }
    Ok(ended)
}

/// An event about an object that Stripe does not have. A draft of an invoice may have been deleted since; nothing else can be, so that a
/// person must look.
fn missing(object_id: &str, observation: Observation) -> Observation {
    let ended = without_effect(observation, "Stripe has no such object");
    let status = if object_id.starts_with("in_") { "ignored" } else { "failed" };
    Observation { status: Some(status), ..ended }
}
