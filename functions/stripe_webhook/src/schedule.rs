//! The schedule, every minute: settles what deliveries left open, asks Stripe about what they did not say, compares with what Stripe
//! lists, and tells the meter what agents cost.

use std::time::{Duration, Instant};

use serde_json::Value;
use shared::{
    clients::stripe::{Page, Pages, StripeError, path_of},
    jobs::{self, End},
    lambda::{Error, Tick},
    schedule::{MOST_FAILURES, Schedule},
    store::billing::{self, Found, Observation, Reconciliation, UnclearEvent},
    worker::{self, Outcome, Work},
};
use uuid::Uuid;

use crate::{
    claim::claim,
    error::StepError,
    event,
    facts::is_id,
    fetch::{self, fetch, whole},
    meter,
    record::record,
    state::State,
    work::BillingJobs,
};

/// How much one part of one run takes on; the next goes on from there.
const PAGE: i32 = 100;
/// What each part leaves of the invocation's time.
const KEPT_BACK: Duration = Duration::from_secs(15);

/// Answers a tick. It may come twice: everything here is safe to repeat.
pub(crate) async fn tick(state: &State, tick: &Tick) -> Result<Value, Error> {
    let mut schedule = Schedule::begin("the reconciliation", tick, KEPT_BACK);
    schedule.part("jobs_done", async |deadline| work(state, deadline).await).await;
    schedule.part("events_applied", async |deadline| apply_left(state, deadline).await).await;
    schedule.part("events_looked_up", async |deadline| look_up(state, deadline).await).await;
    schedule.part("compared", async |deadline| compare(state, deadline).await).await;
    schedule.part("stale_compared", async |deadline| compare_stale(state, deadline).await).await;
    schedule.part("meter_reports", async |deadline| meter::report(state, deadline).await).await;
    schedule.end()
}

/// Works on jobs that deliveries left. How many are done.
async fn work(state: &State, deadline: Instant) -> Result<usize, StepError> {
    let due = state.db.directory(async |tx| jobs::due_of(tx, BillingJobs::JOB_TYPES, PAGE).await).await?;
    let (mut done, mut failures) = (0, 0);
    for job in due {
        match worker::take(&BillingJobs(state), job.org_id, job.job_id, deadline).await {
            Ok(Outcome::NoTime) => break,
            Ok(Outcome::Ended(End::Succeeded { .. })) => done += 1,
            Ok(Outcome::Ended(_) | Outcome::Nothing | Outcome::Stale) => {}
            // What cannot be done for one organisation is done for the others.
            Err(_) if failures < MOST_FAILURES => failures += 1,
            Err(error) => return Err(StepError::Worker(error)),
        }
    }
    Ok(done)
}

/// Applies what waited for an organisation, page by page.
async fn claim_all(state: &State, org: Uuid, deadline: Instant) -> Result<usize, StepError> {
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
async fn apply_left(state: &State, deadline: Instant) -> Result<usize, StepError> {
    let orgs = state.db.directory(async |tx| billing::left_events(tx, PAGE).await).await?;
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

/// Asks Stripe about events of which too little is known to say whose they are. How many were looked up.
async fn look_up(state: &State, deadline: Instant) -> Result<usize, StepError> {
    let unclear = state.db.directory(async |tx| billing::unclear_events(tx, PAGE).await).await?;
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

async fn look_up_one(state: &State, waiting: &UnclearEvent, deadline: Instant) -> Result<(), StepError> {
    let thin = waiting.event_type.as_deref().is_some_and(|kind| kind.starts_with("v1.") || kind.starts_with("v2."));
    let found = if thin { thin_event(state, waiting).await } else { ownerless(state, waiting).await };
    let (refs, status) = match found {
        Err(StepError::Stripe(error)) if !error.passes() => {
            tracing::info!(event.id = waiting.event_id, %error, "nothing more is to be learned of an event");
            (Vec::new(), if thin { "ignored" } else { "unowned" })
        }
        other => other?,
    };
    let owner = state.db.directory(async |tx| billing::tell_event(tx, waiting.id, &refs, status).await).await?;
    if let Some(org) = owner.filter(|_| !thin) {
        claim_all(state, org, deadline).await?;
    }
    Ok(())
}

/// Fetches a thin event, and the object it is about, which is recorded if it is of a kind that billing needs.
async fn thin_event(state: &State, waiting: &UnclearEvent) -> Result<(Vec<String>, &'static str), StepError> {
    let (event, _) = fetch::get(state, &format!("/v2/core/events/{}", waiting.event_id), &[]).await?;
    let Some(path) = event["related_object"]["url"].as_str().filter(|path| is_path(path)) else {
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
async fn ownerless(state: &State, waiting: &UnclearEvent) -> Result<(Vec<String>, &'static str), StepError> {
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
async fn compare(state: &State, deadline: Instant) -> Result<Option<Found>, StepError> {
    let (every, now) = (state.reconcile_every, (state.clock)());
    let run = state.db.directory(async |tx| billing::begin_reconciliation(tx, every, now).await).await?;
    let Some(run) = run else { return Ok(None) };
    let mut found = Found::default();
    let outcome = compare_window(state, &run, &mut found, deadline).await;
    let error = outcome.as_ref().err().map(ToString::to_string);
    let error = error.as_deref();
    state.db.directory(async |tx| billing::end_reconciliation(tx, run.id, found, error).await).await?;
    outcome?;
    Ok(Some(found))
}

async fn compare_window(
    state: &State,
    run: &Reconciliation,
    found: &mut Found,
    deadline: Instant,
) -> Result<(), StepError> {
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

async fn next_page(state: &State, pages: &mut Pages, deadline: Instant) -> Result<Option<Page>, StepError> {
    if !pages.ended && Instant::now() >= deadline {
        return Err(StepError::Time);
    }
    Ok(pages.next(&state.stripe).await?)
}

/// Compares objects that may still change and of which nothing was heard for a day; repairs what differs. Each stands alone.
async fn compare_stale(state: &State, deadline: Instant) -> Result<Found, StepError> {
    let stale = state.db.directory(async |tx| billing::stale_objects(tx, PAGE).await).await?;
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
async fn record_missed(state: &State, page: &Page) -> Result<i32, StepError> {
    let ids: Vec<String> = page.items.iter().map(|item| item.id.clone()).collect();
    let unknown = state.db.directory(async |tx| billing::unknown_events(tx, &ids).await).await?;
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
async fn record_adrift(state: &State, page: &Page, deadline: Instant) -> Result<i32, StepError> {
    let mut objects = Vec::new();
    for item in &page.items {
        // One with long lists takes requests of its own.
        if Instant::now() >= deadline {
            return Err(StepError::Time);
        }
        let object = serde_json::from_str(item.raw.get()).map_err(|_| StripeError::Malformed)?;
        objects.push(whole(state, object, page.observed_at_s).await?);
    }
    record_drift(state, objects).await
}

async fn record_drift(state: &State, raws: Vec<Vec<u8>>) -> Result<i32, StepError> {
    let read: Vec<(Observation, Vec<u8>)> = raws
        .into_iter()
        .map(|raw| (event::read(&raw, 0).observation, raw))
        .filter(|(read, _)| read.state.is_some())
        .collect();
    let observations: Vec<Observation> = read.iter().map(|(observation, _)| observation.clone()).collect();
    let different = state.db.directory(async |tx| billing::adrift(tx, &observations).await).await?;
    let mut drifted = 0;
    for (observation, raw) in read {
        let Some((org, object)) = different.iter().find(|(_, id)| Some(id) == observation.object_id.as_ref()) else {
            continue;
        };
        let recorded = record(&state.db, &observation, &raw).await?;
        tracing::warn!(org.id = %org, object.id = object, outcome = recorded.outcome, "billing was not as Stripe has it");
        drifted += 1;
    }
    Ok(drifted)
}
