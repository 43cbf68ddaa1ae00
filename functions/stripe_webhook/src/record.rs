//! Observations into the database: as they come, as they are claimed, and anew.

use shared::{
    db::Database,
    store::{
        StoreError,
        billing::{self, Observation, Recorded},
    },
};
use uuid::Uuid;

use crate::event;

/// How many events one transaction hands over.
const PAGE: i32 = 100;

/// Records an observation in the organisation that owns it: begin and find the owner, one call, commit.
///
/// What the database will not take, whoever sends it and however often, is recorded as failed, so that nobody sends it for days
/// and somebody looks at it.
///
/// # Errors
/// [`StoreError`] if the database cannot be reached or is busy: then it is worth sending again.
pub async fn record(db: &Database, observation: &Observation, raw: &[u8]) -> Result<Recorded, StoreError> {
    match attempt(db, observation, raw).await {
        Err(error) if is_final(&error) => {
            tracing::error!(event.id = %observation.event_id, code = code(&error), "an event could not be applied");
            let failed = Observation {
                state: None,
                status: Some("failed"),
                error: Some(format!("the database refused it: {}", code(&error))),
                ..observation.clone()
            };
            attempt(db, &failed, raw).await
        }
        other => other,
    }
}

async fn attempt(db: &Database, observation: &Observation, raw: &[u8]) -> Result<Recorded, StoreError> {
    let object = observation.object_id.as_deref().unwrap_or_default();
    let mut tx = db.stripe_tx(object, &observation.refs).await?;
    match billing::record(&mut tx, observation, raw).await {
        Ok(recorded) => {
            tx.commit().await?;
            Ok(recorded)
        }
        Err(error) => {
            // The error worth telling is the first; a failed rollback closes the connection, which undoes it too.
            let _ = tx.rollback().await;
            Err(error)
        }
    }
}

fn code(error: &StoreError) -> String {
    error.database_code().unwrap_or_default()
}

/// Whether the data is to blame: values out of range, constraints, policies. All else may pass.
fn is_final(error: &StoreError) -> bool {
    let code = code(error);
    ["22", "23", "42501", "54"].iter().any(|class| code.starts_with(class))
}

/// Applies the events that waited for this organisation. How many.
pub(crate) async fn claim(db: &Database, org: Uuid, now_s: i64) -> Result<usize, StoreError> {
    let mut tx = db.service_tx(org).await?;
    let events = billing::claim_events(&mut tx, org, PAGE).await?;
    tx.commit().await?;
    for stored in &events {
        let observation = event::read(&stored.raw, now_s).observation;
        let mut tx = db.service_tx(org).await?;
        billing::record(&mut tx, &observation, &stored.raw).await?;
        tx.commit().await?;
    }
    Ok(events.len())
}

/// Rebuilds an organisation's billing from what is stored of Stripe's events: its objects are forgotten and every event is applied
/// again, in one transaction, so that nobody sees it half done. How many events.
///
/// # Errors
/// [`StoreError`]; then everything is as it was.
pub async fn rebuild(db: &Database, org: Uuid, now_s: i64) -> Result<usize, StoreError> {
    let mut tx = db.service_tx(org).await?;
    billing::forget_objects(&mut tx).await?;
    let (mut after, mut count) = (None, 0);
    loop {
        let events = billing::list_events(&mut tx, org, after, i64::from(PAGE)).await?;
        let Some(last) = events.last() else { break };
        after = Some(last.id);
        count += events.len();
        for stored in &events {
            let read = event::read(&stored.raw, now_s).observation;
            billing::record(&mut tx, &Observation { again: true, ..read }, &stored.raw).await?;
        }
    }
    billing::remove_untold(&mut tx, org).await?;
    tx.commit().await?;
    Ok(count)
}
