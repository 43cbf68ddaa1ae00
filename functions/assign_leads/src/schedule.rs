//! The schedule, every minute: stops organisations whose scores have become too weak, scores new leads, wakes those that wait where there is
//! room again, and queues leads that somebody is to be found for.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::Value;
use shared::{
    db::ServiceTx,
    lambda::{Error, Tick},
    schedule::Schedule,
    store::{StoreError, leads, settings},
    telemetry::{Unit, metric},
};
use uuid::Uuid;

use crate::{job::SWITCH, state::State};

/// How much one run takes on; the next goes on from there.
const PAGE: i32 = 500;
/// How many organisations one run asks; who comes first differs from run to run.
const ORGANISATIONS: i32 = 1000;
/// What each part leaves of the invocation's time.
const KEPT_BACK: Duration = Duration::from_secs(10);

/// Answers a tick. It may come twice: everything here is safe to repeat.
pub(crate) async fn tick(state: &State, tick: &Tick) -> Result<Value, Error> {
    let now = (state.clock)();
    let mut schedule = Schedule::begin("the leads' schedule", tick, KEPT_BACK);
    schedule.part("organisations_stopped", async |deadline| stop_weak(state, deadline, now).await).await;
    schedule.part("leads_scored", async |deadline| score_new(state, deadline).await).await;
    schedule.part("leads_woken", async |deadline| wake_waiting(state, deadline).await).await;
    schedule.part("leads_queued", async |deadline| queue_due(state, deadline, now).await).await;
    schedule.end()
}

/// Stops assigning by itself where scores have fallen below the floor. In how many organisations.
async fn stop_weak(state: &State, deadline: Instant, now: DateTime<Utc>) -> Result<usize, StoreError> {
    let due = state.db.directory(async |tx| leads::due_checks(tx, PAGE).await).await?;
    let mut stopped = 0;
    for org in due {
        if Instant::now() >= deadline {
            break;
        }
        let missed = match state.db.service(org, async |tx| leads::check_scores(tx).await).await {
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

/// Scores new leads by the rules. How many.
async fn score_new(state: &State, deadline: Instant) -> Result<usize, StoreError> {
    let new = state.db.directory(async |tx| {
        let on = settings::enabled(tx, SWITCH).await?;
        if on { leads::unscored(tx, PAGE).await } else { Ok(Vec::new()) }
    });
    let mut scored = 0;
    for lead in new.await? {
        if Instant::now() >= deadline {
            break;
        }
        match state.db.service(lead.org_id, async |tx| leads::score_new(tx, lead.lead_id).await).await {
            Ok(()) => scored += 1,
            // Its transaction could not be begun or ended, nor will the next.
            Err(error @ StoreError::Transaction(_)) => return Err(error),
            // It ended or went meanwhile, or the next tick tries again.
            Err(error) => tracing::warn!(lead.id = %lead.lead_id, %error, "a new lead was not scored"),
        }
    }
    Ok(scored)
}

/// Has leads that wait for room looked at where there is some again; the sweep sends the messages. How many.
async fn wake_waiting(state: &State, deadline: Instant) -> Result<usize, StoreError> {
    let orgs = state.db.directory(async |tx| leads::waiting_orgs(tx, ORGANISATIONS).await).await?;
    let mut woken = 0;
    for org in orgs {
        if Instant::now() >= deadline {
            break;
        }
        match state.db.service(org, async |tx| leads::wake_waiting(tx).await).await {
            Ok(some) => woken += usize::try_from(some).unwrap_or_default(),
            Err(error @ StoreError::Transaction(_)) => return Err(error),
            Err(error) => {
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
    let orgs = state.db.directory(async |tx| {
        let on = settings::enabled(tx, SWITCH).await?;
        if on { leads::orgs(tx, ORGANISATIONS).await } else { Ok(Vec::new()) }
    });
    let orgs = orgs.await?;
    let (mut queued, mut queue_answers) = (0_i32, true);
    for (after, org) in (0..orgs.len()).rev().zip(orgs) {
        if Instant::now() >= deadline {
            break;
        }
        let waiting = i32::try_from(after).unwrap_or(i32::MAX).saturating_add(1);
        let most = ((PAGE - queued) / waiting).max(1);
        let jobs = match state.db.service(org, async |tx| admit_due(tx, most, now).await).await {
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
async fn admit_due(tx: &mut ServiceTx, most: i32, now: DateTime<Utc>) -> Result<Vec<Uuid>, StoreError> {
    let mut jobs = Vec::new();
    for lead in leads::due(tx, most).await? {
        jobs.extend(leads::admit_job(tx, lead, now, None).await?);
    }
    Ok(jobs)
}
