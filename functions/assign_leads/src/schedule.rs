//! The schedule, every minute: stops organisations whose scores have become too weak, scores new leads, wakes those that wait where there is
//! room again, and queues leads that somebody is to be found for.
//!
//! Each part stands alone: one that fails is logged, told in the result, and does not keep the others from their work.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use shared::{
    db::ServiceTx,
    lambda::{Error, Tick},
    store::{StoreError, leads, settings},
    telemetry::{Unit, metric},
};
use uuid::Uuid;

use crate::{handler::SWITCH, state::State};

/// How much one run takes on; the next goes on from there.
const PAGE: i32 = 500;
/// How many organisations one run asks; who comes first differs from run to run.
const ORGANISATIONS: i32 = 1000;
/// What is left of the invocation's time when no new work is begun.
const RESERVE: Duration = Duration::from_secs(10);

/// Answers a tick. It may come twice: everything here is safe to repeat.
pub(crate) async fn tick(state: &State, tick: Tick) -> Result<Value, Error> {
    let deadline = Instant::now() + tick.remaining.saturating_sub(RESERVE);
    let now = (state.clock)();
    let parts = [
        ("organisations_stopped", stop_weak(state, deadline, now).await),
        ("leads_scored", score_new(state, deadline).await),
        ("leads_woken", wake_waiting(state, deadline).await),
        ("leads_queued", queue_due(state, deadline, now).await),
    ];
    let (mut told, mut failures) = (serde_json::Map::new(), 0);
    for (name, outcome) in parts {
        let value = outcome.map_or_else(
            |error| {
                tracing::error!(part = name, %error, "a part of the leads' schedule failed");
                failures += 1;
                Value::Null
            },
            |count| json!(count),
        );
        told.insert(name.to_owned(), value);
    }
    if failures == told.len() {
        return Err("every part of the leads' schedule failed".into());
    }
    let told = Value::Object(told);
    tracing::info!(result = %told, "leads looked after");
    Ok(told)
}

/// Stops assigning by itself where scores have fallen below the floor. In how many organisations.
async fn stop_weak(state: &State, deadline: Instant, now: DateTime<Utc>) -> Result<usize, StoreError> {
    let mut tx = state.db.directory_tx().await?;
    let due = leads::due_checks(&mut tx, PAGE).await?;
    tx.rollback().await?;
    let mut stopped = 0;
    for org in due {
        if Instant::now() >= deadline {
            break;
        }
        let missed = match check(state, org).await {
            Ok(missed) => missed,
            // Others behind it have scores too.
            Err(error) => {
                tracing::error!(part = "organisations_stopped", org.id = %org, %error, "an organisation's scores could not be looked at");
                continue;
            }
        };
        if let Some(missed) = missed {
            tracing::warn!(org.id = %org, %missed, "leads are not assigned by themselves any more: scores are too weak");
            metric(now, "LeadAssignmentsStopped", Unit::Count, 1.0, &[]);
            stopped += 1;
        }
    }
    Ok(stopped)
}

async fn check(state: &State, org: Uuid) -> Result<Option<Value>, StoreError> {
    let mut tx = state.db.service_tx(org).await?;
    let missed = leads::check_scores(&mut tx).await;
    match missed {
        Ok(missed) => {
            tx.commit().await?;
            Ok(missed)
        }
        Err(error) => {
            // The error worth telling is the first; a failed rollback closes the connection, which undoes it too.
            let _ = tx.rollback().await;
            Err(error)
        }
    }
}

/// Scores new leads by the rules. How many.
async fn score_new(state: &State, deadline: Instant) -> Result<usize, StoreError> {
    let mut tx = state.db.directory_tx().await?;
    let on = settings::enabled(&mut tx, SWITCH).await?;
    let new = if on { leads::unscored(&mut tx, PAGE).await? } else { Vec::new() };
    tx.rollback().await?;
    let mut scored = 0;
    for lead in new {
        if Instant::now() >= deadline {
            break;
        }
        let mut tx = state.db.service_tx(lead.org_id).await?;
        match leads::score_new(&mut tx, lead.lead_id).await {
            Ok(()) => {
                tx.commit().await?;
                scored += 1;
            }
            // It ended or went meanwhile, or the next tick tries again.
            Err(error) => {
                let _ = tx.rollback().await;
                tracing::warn!(lead.id = %lead.lead_id, %error, "a new lead was not scored");
            }
        }
    }
    Ok(scored)
}

/// Has leads that wait for room looked at where there is some again; the sweep sends the messages. How many.
async fn wake_waiting(state: &State, deadline: Instant) -> Result<usize, StoreError> {
    let mut tx = state.db.directory_tx().await?;
    let orgs = leads::waiting_orgs(&mut tx, ORGANISATIONS).await?;
    tx.rollback().await?;
    let mut woken = 0;
    for org in orgs {
        if Instant::now() >= deadline {
            break;
        }
        let mut tx = state.db.service_tx(org).await?;
        match leads::wake_waiting(&mut tx).await {
            Ok(some) => {
                tx.commit().await?;
                woken += usize::try_from(some).unwrap_or_default();
            }
            Err(error) => {
                let _ = tx.rollback().await;
                tracing::error!(part = "leads_woken", org.id = %org, %error, "an organisation's leads could not be woken");
            }
        }
    }
    Ok(woken)
}

/// Queues leads that nobody has, or whose people have too many or let them lie. How many.
///
/// Each organisation is asked alone, so that what cannot be done for one is done for the others. What some do not need of the page is
/// for those that come after them.
async fn queue_due(state: &State, deadline: Instant, now: DateTime<Utc>) -> Result<usize, StoreError> {
    let mut tx = state.db.directory_tx().await?;
    let on = settings::enabled(&mut tx, SWITCH).await?;
    let orgs = if on { leads::orgs(&mut tx, ORGANISATIONS).await? } else { Vec::new() };
    tx.rollback().await?;
    let (mut queued, mut queue_answers) = (0_i32, true);
    for (after, org) in (0..orgs.len()).rev().zip(orgs) {
        if Instant::now() >= deadline {
            break;
        }
        let waiting = i32::try_from(after).unwrap_or(i32::MAX).saturating_add(1);
        let jobs = match queue_of(state, org, ((PAGE - queued) / waiting).max(1), now).await {
            Ok(jobs) => jobs,
            Err(error) => {
                tracing::error!(part = "leads_queued", org.id = %org, %error, "an organisation's leads could not be queued");
                continue;
            }
        };
        queued = queued.saturating_add(i32::try_from(jobs.len()).unwrap_or(i32::MAX));
        for job in jobs {
            // A queue that does not answer is not waited for each time: the sweep wakes what this leaves.
            queue_answers = queue_answers && Instant::now() < deadline && state.queue.wake(job, org).await;
        }
    }
    Ok(usize::try_from(queued).unwrap_or_default())
}

/// Queues leads of one organisation, `most` of them at most. Their jobs.
async fn queue_of(state: &State, org: Uuid, most: i32, now: DateTime<Utc>) -> Result<Vec<Uuid>, StoreError> {
    let mut tx = state.db.service_tx(org).await?;
    match admit_due(&mut tx, most, now).await {
        Ok(jobs) => {
            tx.commit().await?;
            Ok(jobs)
        }
        Err(error) => {
            // The error worth telling is the first; a failed rollback closes the connection, which undoes it too.
            let _ = tx.rollback().await;
            Err(error)
        }
    }
}

async fn admit_due(tx: &mut ServiceTx, most: i32, now: DateTime<Utc>) -> Result<Vec<Uuid>, StoreError> {
    let mut jobs = Vec::new();
    for lead in leads::due(tx, most).await? {
        jobs.extend(leads::admit_job(tx, lead, now, None).await?);
    }
    Ok(jobs)
}
