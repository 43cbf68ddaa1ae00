//! Observations into the database: as they come, as they are claimed, and anew.

use chrono::{DateTime, Utc};
use shared::{
    db::{Database, ServiceTx},
    store::{
        StoreError,
        billing::{self, Observation, Recorded},
    },
    telemetry::{Unit, metric},
};
use uuid::Uuid;

use crate::event;

/// How many events one transaction hands over.
pub(crate) const PAGE: i32 = 100;

/// Records an observation in the organisation that owns it: begin and find the owner, one call, commit.
///
/// What the database will not take, whoever sends it and however often, is recorded as failed, so that nobody sends it for days
/// and somebody looks at it.
///
/// # Errors
/// [`StoreError`] if the database cannot be reached or is busy: then it is worth sending again.
pub async fn record(db: &Database, observation: &Observation, raw: &[u8]) -> Result<Recorded, StoreError> {
    record_in(db, None, observation, raw).await
}

/// The same, in an organisation whose event it was found to be; `None` finds out.
pub(crate) async fn record_in(
    db: &Database,
    org: Option<Uuid>,
    observation: &Observation,
    raw: &[u8],
) -> Result<Recorded, StoreError> {
    match attempt(db, org, observation, raw).await {
        Err(error) if is_final(&error) => {
            tracing::error!(event.id = %observation.event_id, code = code(&error), "an event could not be applied");
            let failed = Observation {
                state: None,
                status: Some("failed"),
                error: Some(format!("the database refused it: {}", code(&error))),
                ..observation.clone()
            };
            attempt(db, org, &failed, raw).await
        }
        other => other,
    }
}

async fn attempt(
    db: &Database,
    org: Option<Uuid>,
    observation: &Observation,
    raw: &[u8],
) -> Result<Recorded, StoreError> {
    match org {
        Some(org) => db.service(org, async |tx| billing::record(tx, observation, raw).await).await,
        None => {
            let object = observation.object_id.as_deref().unwrap_or_default();
            db.stripe(object, &observation.refs, async |tx| billing::record(tx, observation, raw).await).await
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

/// Rebuilds an organisation's billing from what is stored of Stripe's events: its objects are forgotten and every event that had or could
/// have had an effect is applied again, in one transaction, so that nobody sees it half done. Deliveries wait meanwhile. How many events.
///
/// # Errors
/// [`StoreError`]; then everything is as it was.
pub async fn rebuild(db: &Database, org: Uuid, now_s: i64) -> Result<usize, StoreError> {
    db.service(org, async |tx| rebuild_in(tx, org, now_s).await).await
}

async fn rebuild_in(tx: &mut ServiceTx, org: Uuid, now_s: i64) -> Result<usize, StoreError> {
    billing::begin_rebuild(tx, org).await?;
    let (mut after, mut count, mut partial) = (None, 0, Vec::new());
    loop {
        let events = billing::list_events(tx, org, after, i64::from(PAGE)).await?;
        let Some(last) = events.last() else { break };
        after = Some(last.id);
        // What was ignored, as of the other mode, or could not be applied, would be so again, or must.
        let applied = |status: &str| matches!(status, "applied" | "superseded" | "unparsed");
        for stored in events.iter().filter(|stored| applied(&stored.status)) {
            count += 1;
            let read = Observation { again: true, ..event::read(&stored.raw, now_s).observation };
            if read.partial {
                partial.push((read, stored.raw.clone()));
            } else {
                billing::record(tx, &read, &stored.raw).await?;
            }
        }
    }
    // At last, when it is known of which objects nothing else tells: those are asked for.
    for (read, raw) in partial {
        billing::record(tx, &read, &raw).await?;
    }
    billing::remove_untold(tx, org).await?;
    Ok(count)
}

/// Counts what came of an event.
pub(crate) fn count(now: DateTime<Utc>, what: &str, outcome: &str) {
    metric(now, "stripe_events", Unit::Count, 1.0, &[("what", what), ("outcome", outcome)]);
}
