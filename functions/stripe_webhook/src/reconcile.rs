//! The schedule, every minute: settles what deliveries left open, asks Stripe about what they did not say, compares with what Stripe
//! lists, and tells the meter what agents cost.
//!
//! Each part stands alone: one that fails is logged, told in the result, and does not keep the others from their work.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use serde_json::{Value, json};
use shared::{
    jobs::{self, Claim, Claimed, DueJob, End},
    lambda::{Error, Tick},
    store::{
        StoreError,
        billing::{self, Found, Observation, Reconciliation, UnclearEvent},
    },
};
use uuid::Uuid;

use crate::{
    claim::claim,
    event,
    facts::is_id,
    fetch::{self, fetch, whole},
    meter,
    record::record,
    state::State,
    stripe::{Page, Pages, StripeError, path_of},
};

/// How much one part of one run takes on; the next goes on from there.
const PAGE: i32 = 100;
/// What is left of the invocation's time when no new work is begun.
const RESERVE: Duration = Duration::from_secs(15);
/// How many single failures one part bears before it takes Stripe or the database itself to be away.
pub(crate) const MOST_FAILURES: usize = 5;
/// How long a worker may hold a job.
const LEASE: TimeDelta = TimeDelta::minutes(2);

/// Why a part could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Stripe was of no help.
    #[error(transparent)]
    Stripe(#[from] StripeError),
    /// The time was over; what was done counts.
    #[error("the time was over before everything was compared")]
    Time,
}

impl From<shared::db::DbError> for PartError {
    fn from(error: shared::db::DbError) -> Self {
        Self::Store(error.into())
    }
}

/// Answers a tick. It may come twice: everything here is safe to repeat.
pub(crate) async fn tick(state: &State, tick: Tick) -> Result<Value, Error> {
    let deadline = Instant::now() + tick.remaining.saturating_sub(RESERVE);
    let parts = [
        ("jobs_done", work(state, deadline).await.map(|done| json!(done))),
        ("events_applied", apply_left(state, deadline).await.map(|done| json!(done))),
        ("events_looked_up", look_up(state, deadline).await.map(|done| json!(done))),
        ("compared", compare(state, deadline).await.map(|found| json!(found))),
        ("stale_compared", compare_stale(state, deadline).await.map(|found| json!(found))),
        ("meter_reports", meter::report(state, deadline).await.map(|done| json!(done))),
    ];
    let (mut told, mut failures) = (serde_json::Map::new(), 0);
    let all = parts.len();
    for (name, outcome) in parts {
        let value = outcome.unwrap_or_else(|error| {
            tracing::error!(part = name, %error, "a part of the reconciliation failed");
            failures += 1;
            Value::Null
        });
        told.insert(name.to_owned(), value);
    }
    if failures == all {
        return Err("every part of the reconciliation failed".into());
    }
    let told = Value::Object(told);
    tracing::info!(result = %told, "reconciled");
    Ok(told)
}

/// Works on jobs that deliveries left. How many.
async fn work(state: &State, deadline: Instant) -> Result<usize, PartError> {
    let mut tx = state.db.directory_tx().await?;
    let due = jobs::due_of(&mut tx, &["stripe_settle", "stripe_claim", "stripe_plan"], PAGE).await?;
    tx.rollback().await?;
    let (mut done, mut failures) = (0, 0);
    for job in due {
        if Instant::now() >= deadline {
            break;
        }
        match work_on(state, &job, deadline).await {
            Ok(ended) => done += usize::from(ended),
            // What cannot be done for one organisation is done for the others.
            Err(error) if failures < MOST_FAILURES => {
                tracing::error!(job.id = %job.job_id, org.id = %job.org_id, %error, "a job of billing could not be worked on");
                failures += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

async fn work_on(state: &State, due: &DueJob, deadline: Instant) -> Result<bool, PartError> {
    let mut tx = state.db.service_tx(due.org_id).await?;
    let claimed = jobs::claim(&mut tx, due.org_id, due.job_id, Uuid::now_v7(), LEASE).await?;
    tx.commit().await?;
    let Claim::Held(job) = claimed else { return Ok(false) };
    let outcome = match job.job_type.as_str() {
        "stripe_claim" => claim_all(state, job.org_id, deadline).await.map(|claimed| json!({ "claimed": claimed })),
        "stripe_plan" => settle_plan(state, &job).await,
        _ => settle(state, &job).await,
    };
    let later = |seconds: i64, waiting: &str, told: Option<Value>| End::Later {
        run_after: (state.clock)() + TimeDelta::seconds(seconds),
        waiting: Some(json!({ "reason": waiting })),
        error: told,
        counts: false,
    };
    let end = match outcome {
        // Something newer is known, or the answer was not newer than what it was to decide: asked again, until it is.
        Ok(result) if result["outcome"] == "superseded" => later(10, "newer_answer", None),
        Ok(result) => End::Succeeded { result, tokens: 0 },
        Err(error) => {
            let told = json!({ "code": "stripe_settle_failed", "detail": error.to_string() });
            tracing::warn!(job.id = %job.id, %error, "a job of billing failed");
            match error {
                PartError::Stripe(error) if !error.passes() => End::Failed { error: told },
                // However long Stripe or the database is away: what is left open stays so until it is settled.
                _ => later(60, "stripe_unavailable", Some(told)),
            }
        }
    };
    let mut tx = state.db.service_tx(job.org_id).await?;
    // Of a stale lease another worker ends the job; what was recorded is the same, whoever did it.
    let _ = jobs::end(&mut tx, &job, &end).await?;
    tx.commit().await?;
    Ok(matches!(end, End::Succeeded { .. }))
}

/// Applies what waited for an organisation, page by page.
async fn claim_all(state: &State, org: Uuid, deadline: Instant) -> Result<usize, PartError> {
    let mut all = 0;
    while Instant::now() < deadline {
        match claim(state, org, deadline).await? {
            0 => break,
            some => all += some,
        }
    }
    Ok(all)
}

/// Applies events whose owner is known and that have no effect yet, because whoever claimed them was cut off. How many.
async fn apply_left(state: &State, deadline: Instant) -> Result<usize, PartError> {
    let mut tx = state.db.directory_tx().await?;
    let orgs = billing::left_events(&mut tx, PAGE).await?;
    tx.rollback().await?;
    let (mut applied, mut failures) = (0, 0);
    for org in orgs {
        match claim_all(state, org, deadline).await {
            Ok(some) => applied += some,
            Err(error) if failures < MOST_FAILURES => {
                tracing::error!(org.id = %org, %error, "an organisation's events could not be applied");
                failures += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(applied)
}

/// Gives the organisation the plan it pays for, after prices were mapped to others or somebody gave it another.
async fn settle_plan(state: &State, job: &Claimed) -> Result<Value, PartError> {
    let mut tx = state.db.service_tx(job.org_id).await?;
    let plan = billing::settle_plan(&mut tx, job.org_id).await?;
    tx.commit().await?;
    Ok(json!({ "plan": plan }))
}

/// Asks Stripe for the object as it is, and records that.
async fn settle(state: &State, job: &Claimed) -> Result<Value, PartError> {
    let object_id = job.payload["object_id"].as_str().filter(|id| is_id(id)).unwrap_or_default();
    let raw = fetch(state, job.org_id, object_id).await?;
    let recorded = record(&state.db, &event::read(&raw, (state.clock)().timestamp()).observation, &raw).await?;
    Ok(json!({ "outcome": recorded.outcome }))
}

/// Asks Stripe about events of which too little is known to say whose they are. How many were looked up.
async fn look_up(state: &State, deadline: Instant) -> Result<usize, PartError> {
    let mut tx = state.db.directory_tx().await?;
    let unclear = billing::unclear_events(&mut tx, PAGE).await?;
    tx.rollback().await?;
    let (mut done, mut failures) = (0, 0);
    for waiting in unclear {
        if Instant::now() >= deadline {
            break;
        }
        match look_up_one(state, &waiting, deadline).await {
            Ok(()) => done += 1,
            // One of which nothing can be learned now hides no other; of several, Stripe itself is to blame.
            Err(error) if failures < MOST_FAILURES => {
                tracing::warn!(event.id = waiting.event_id, %error, "an event could not be looked up");
                failures += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

async fn look_up_one(state: &State, waiting: &UnclearEvent, deadline: Instant) -> Result<(), PartError> {
    let thin = waiting.event_type.as_deref().is_some_and(|kind| kind.starts_with("v1.") || kind.starts_with("v2."));
    let told = if thin { thin_event(state, waiting).await } else { ownerless(state, waiting).await };
    let (refs, status) = match told {
        Err(PartError::Stripe(error)) if !error.passes() => {
            tracing::info!(event.id = waiting.event_id, %error, "nothing more is to be learned of an event");
            (Vec::new(), if thin { "ignored" } else { "unowned" })
        }
        other => other?,
    };
    let mut tx = state.db.directory_tx().await?;
    let owner = billing::tell_event(&mut tx, waiting.id, &refs, status).await?;
    tx.commit().await?;
    if let Some(org) = owner.filter(|_| !thin) {
        claim_all(state, org, deadline).await?;
    }
    Ok(())
}

/// Fetches a thin event, and the object it is about, which is recorded if it is of a kind that billing needs.
async fn thin_event(state: &State, waiting: &UnclearEvent) -> Result<(Vec<String>, &'static str), PartError> {
    let (told, _) = fetch::get(state, &format!("/v2/core/events/{}", waiting.event_id), &[]).await?;
    let Some(path) = told["related_object"]["url"].as_str().filter(|path| is_path(path)) else {
        return Ok((Vec::new(), "ignored"));
    };
    let (object, observed_at_s) = fetch::get(state, path, &[]).await?;
    let raw = whole(state, object, observed_at_s).await?;
    let observation = event::read(&raw, observed_at_s).observation;
    if observation.state.is_none() {
        return Ok((Vec::new(), "ignored"));
    }
    record(&state.db, &observation, &raw).await?;
    Ok((Vec::new(), "applied"))
}

/// A path of Stripe's API and nothing that leads elsewhere.
fn is_path(path: &str) -> bool {
    (path.starts_with("/v1/") || path.starts_with("/v2/")) && path.split('/').skip(1).all(is_id)
}

/// Follows an object to the customer it belongs to: through its charge, payment or invoice.
async fn ownerless(state: &State, waiting: &UnclearEvent) -> Result<(Vec<String>, &'static str), PartError> {
    let object_id = waiting.object_id.as_deref().unwrap_or_default();
    let (mut refs, mut next) = (Vec::new(), vec![object_id.to_owned()]);
    // A dispute names a charge, which names a customer: three steps are more than there are.
    for _ in 0..3 {
        let mut found = Vec::new();
        for id in &next {
            let Some(path) = path_of(id) else { continue };
            let (object, _) = fetch::get(state, &path, &[]).await?;
            for name in ["customer", "charge", "payment_intent", "invoice", "latest_charge"] {
                let id = object[name].as_str().or_else(|| object[name]["id"].as_str());
                found.extend(id.filter(|id| is_id(id)).map(str::to_owned));
            }
        }
        refs.extend(found.iter().cloned());
        if found.is_empty() || found.iter().any(|id| id.starts_with("cus_")) {
            break;
        }
        next = found.into_iter().filter(|id| !id.starts_with("cus_")).take(5).collect();
    }
    refs.sort_unstable();
    refs.dedup();
    Ok((refs, "unowned"))
}

/// Compares with what Stripe lists since the last run; repairs what differs. `None` if the last run is recent.
async fn compare(state: &State, deadline: Instant) -> Result<Option<Found>, PartError> {
    let mut tx = state.db.directory_tx().await?;
    let run = billing::begin_reconciliation(&mut tx, state.reconcile_every, (state.clock)()).await?;
    tx.commit().await?;
    let Some(run) = run else { return Ok(None) };
    let mut found = Found::default();
    let outcome = compare_window(state, &run, &mut found, deadline).await;
    let error = outcome.as_ref().err().map(ToString::to_string);
    let mut tx = state.db.directory_tx().await?;
    billing::end_reconciliation(&mut tx, run.id, found, error.as_deref()).await?;
    tx.commit().await?;
    outcome?;
    Ok(Some(found))
}

async fn compare_window(
    state: &State,
    run: &Reconciliation,
    found: &mut Found,
    deadline: Instant,
) -> Result<(), PartError> {
    let window = |more: &[(&'static str, &str)]| {
        let mut query = vec![
            ("created[gte]", run.since.timestamp().to_string()),
            ("created[lte]", run.until.timestamp().to_string()),
        ];
        query.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        query
    };
    let mut events = Pages::of("/v1/events", window(&[]));
    while let Some(page) = next_page(state, &mut events, deadline).await? {
        found.listed += i32::try_from(page.items.len()).unwrap_or(i32::MAX);
        found.missed += record_missed(state, &page).await?;
    }
    for (path, more) in [("/v1/subscriptions", &[("status", "all")][..]), ("/v1/invoices", &[][..])] {
        let mut objects = Pages::of(path, window(more));
        while let Some(page) = next_page(state, &mut objects, deadline).await? {
            found.compared += i32::try_from(page.items.len()).unwrap_or(i32::MAX);
            found.drifted += record_adrift(state, &page, deadline).await?;
        }
    }
    Ok(())
}

async fn next_page(state: &State, pages: &mut Pages, deadline: Instant) -> Result<Option<Page>, PartError> {
    if !pages.ended && Instant::now() >= deadline {
        return Err(PartError::Time);
    }
    Ok(pages.next(&state.stripe).await?)
}

/// Compares objects that may still change and of which nothing was heard for a day; repairs what differs. Each stands alone.
async fn compare_stale(state: &State, deadline: Instant) -> Result<Found, PartError> {
    let mut tx = state.db.directory_tx().await?;
    let stale = billing::stale_objects(&mut tx, PAGE).await?;
    tx.rollback().await?;
    let (mut found, mut failures) = (Found::default(), 0);
    for (org, object_id) in stale {
        if Instant::now() >= deadline {
            break;
        }
        match fetch(state, org, &object_id).await {
            Ok(raw) => {
                found.compared += 1;
                found.drifted += record_drift(state, vec![raw]).await?;
            }
            Err(error) if failures < MOST_FAILURES => {
                tracing::warn!(object.id = object_id, %error, "an object could not be compared");
                failures += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Records the events of a page that never arrived. How many.
async fn record_missed(state: &State, page: &Page) -> Result<i32, PartError> {
    let mut tx = state.db.directory_tx().await?;
    let ids: Vec<String> = page.items.iter().map(|item| item.id.clone()).collect();
    let unknown = billing::unknown_events(&mut tx, &ids).await?;
    tx.rollback().await?;
    let mut missed = 0;
    // The newest come first: what is older was so before.
    for item in page.items.iter().rev().filter(|item| unknown.contains(&item.id)) {
        let raw = item.raw.get().as_bytes();
        let delivery = event::read(raw, page.observed_at_s);
        if delivery.livemode.is_some_and(|live| live != state.mode.livemode()) {
            return Err(StripeError::WrongMode.into());
        }
        let recorded = record(&state.db, &delivery.observation, raw).await?;
        missed += i32::from(recorded.outcome != "duplicate");
    }
    Ok(missed)
}

/// Records the objects of a page that are not as they are stored. How many.
async fn record_adrift(state: &State, page: &Page, deadline: Instant) -> Result<i32, PartError> {
    let mut objects = Vec::new();
    for item in &page.items {
        // One with long lists takes requests of its own.
        if Instant::now() >= deadline {
            return Err(PartError::Time);
        }
        let object = serde_json::from_str(item.raw.get()).map_err(|_| StripeError::Malformed)?;
        objects.push(whole(state, object, page.observed_at_s).await?);
    }
    record_drift(state, objects).await
}

async fn record_drift(state: &State, raws: Vec<Vec<u8>>) -> Result<i32, PartError> {
    let read: Vec<(Observation, Vec<u8>)> = raws
        .into_iter()
        .map(|raw| (event::read(&raw, 0).observation, raw))
        .filter(|(read, _)| read.state.is_some())
        .collect();
    let observations: Vec<Observation> = read.iter().map(|(observation, _)| observation.clone()).collect();
    let mut tx = state.db.directory_tx().await?;
    let adrift = billing::adrift(&mut tx, &observations).await?;
    tx.rollback().await?;
    let mut drifted = 0;
    for (observation, raw) in read {
        let Some((org, object)) = adrift.iter().find(|(_, id)| Some(id) == observation.object_id.as_ref()) else {
            continue;
        };
        let recorded = record(&state.db, &observation, &raw).await?;
        tracing::warn!(org.id = %org, object.id = object, outcome = recorded.outcome, "billing was not as Stripe has it");
        drifted += 1;
    }
    Ok(drifted)
}
