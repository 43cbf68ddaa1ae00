//! What goes wrong meanwhile: wires that spoil what passes, providers that refuse, workers that are killed, servers that stop.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures::{
    FutureExt,
    future::{LocalBoxFuture, join_all},
};
use local::{lambda::Lambda, scheduler};
use rand::{
    RngExt,
    seq::{IndexedRandom, SliceRandom},
};
use sandbox::{Calls, anthropic, gemini, stripe};
use uuid::Uuid;

use crate::{ground::Stop, load::Soak};

/// Wires that are spoilt side by side, one of each lane at a time.
pub(crate) const WIRES: [&[&str]; 2] =
    [&["postgres", "mongodb", "queue"], &["storage", "secrets", "anthropic", "gemini", "stripe"]];
/// How, and for how long at most, in milliseconds.
const SPOILT: [(&str, u64); 8] = [
    ("slow:150", 4000),
    ("slow:900", 2500),
    ("hang", 1200),
    ("reset", 2500),
    ("refuse", 2500),
    ("garbage-bytes", 1500),
    ("half", 2000),
    ("lost", 2500),
];
/// Answers that no provider gives of what is there, or that a person has to mend: what follows from them is right and is not what the
/// world says.
const LIES: [(&str, &str); 9] = [
    ("stripe", "empty-list"),
    ("stripe", "missing"),
    ("stripe", "nothing"),
    ("stripe", "bad-key"),
    ("stripe", "forbidden"),
    ("stripe", "invalid"),
    ("stripe", "idempotency"),
    ("stripe", "card-declined"),
    ("anthropic", "unknown-model"),
];
/// Who is killed at work, and whose jobs are then left behind. Those that answer requests are killed as well.
pub(crate) const KILLED: [(&str, &[&str]); 8] = [
    ("ProcessRenderRequestWorker", &["render"]),
    ("ProcessRenderRequestWorker", &["render"]),
    ("GenerateAiInsightsWorker", &["insight"]),
    ("AssignLeadsWorker", &["lead_assign"]),
    ("StripeWebhookReconcile", &["stripe_settle", "stripe_claim"]),
    ("StripeWebhookHttp", &[]),
    ("ProcessRenderRequestHttp", &[]),
    ("Sweep", &[]),
];
/// Schedules and how often they tick here; once a minute in production.
pub(crate) const SCHEDULES: [(&str, Duration); 4] = [
    ("Sweep", Duration::from_secs(4)),
    ("AssignLeadsWorker", Duration::from_secs(5)),
    ("GenerateAiInsightsWorker", Duration::from_secs(7)),
    ("StripeWebhookReconcile", Duration::from_secs(5)),
];

/// How long a fault that nobody met lasts beyond its time.
const UNMET: Duration = Duration::from_secs(3);
/// How long somebody waits for a process to be at work, to kill it.
const IDLE: Duration = Duration::from_secs(5);

/// Waits until something is so, or for so long.
async fn until(longest: Duration, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() && begun.elapsed() < longest {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Everything that goes wrong, until the time is over.
pub(crate) async fn run(soak: &Soak<'_>) -> Result<()> {
    let mut lanes: Vec<LocalBoxFuture<'_, Result<()>>> = Vec::new();
    for wires in WIRES {
        lanes.push(spoil(soak, wires).boxed_local());
    }
    lanes.push(mislead(soak).boxed_local());
    lanes.push(kill(soak).boxed_local());
    lanes.push(restart_postgres(soak).boxed_local());
    lanes.push(restart_mongo(soak).boxed_local());
    join_all(lanes).await.into_iter().collect()
}

/// Schedules tick, until the time is over and their last ticks have ended.
pub(crate) async fn ticks(soak: &Soak<'_>) -> Result<()> {
    join_all(SCHEDULES.map(|(function, period)| tick(soak, function, period))).await;
    Ok(())
}

async fn spoil(soak: &Soak<'_>, wires: &[&str]) -> Result<()> {
    let mut random = soak.random(&format!("wires {}", wires.join(" ")));
    while soak.goes_on() {
        soak.pause(&mut random, Duration::from_millis(2500)).await;
        let (Some(name), Some((fault, longest))) = (wires.choose(&mut random), SPOILT.choose(&mut random)) else {
            break;
        };
        let span = Duration::from_millis(random.random_range(200..*longest));
        let wire = soak.ground.stack.wire(name)?;
        let before = wire.faults_met();
        soak.ground.stack.fault(name, fault, Calls::Every)?;
        tokio::time::sleep(span).await;
        // One that nobody met would be none.
        until(UNMET, || wire.faults_met() > before).await;
        wire.clear();
        let met = wire.faults_met() - before;
        let mut book = soak.ledger.book();
        let injected = book.faults.entry(((*name).to_owned(), (*fault).to_owned())).or_default();
        injected.arranged += 1;
        injected.met += met;
    }
    Ok(())
}

async fn mislead(soak: &Soak<'_>) -> Result<()> {
    let mut random = soak.random("providers");
    let known: Vec<(&str, &str)> =
        [("anthropic", anthropic::faults()), ("gemini", gemini::faults()), ("stripe", stripe::faults())]
            .into_iter()
            .flat_map(|(target, faults)| faults.into_iter().map(move |(fault, _)| (target, fault)))
            .filter(|fault| !LIES.contains(fault))
            .collect();
    while soak.goes_on() {
        soak.pause(&mut random, Duration::from_secs(3)).await;
        let Some((target, fault)) = known.choose(&mut random) else { break };
        let calls = random.random_range(1..3);
        soak.ground.stack.fault(target, fault, Calls::Next(calls))?;
        let mut book = soak.ledger.book();
        book.faults.entry(((*target).to_owned(), format!("answers {fault}"))).or_default().arranged += calls;
    }
    Ok(())
}

async fn kill(soak: &Soak<'_>) -> Result<()> {
    let mut random = soak.random("kills");
    let mut victims = KILLED;
    victims.shuffle(&mut random);
    for (name, kinds) in victims.iter().cycle() {
        soak.pause(&mut random, Duration::from_secs(3)).await;
        if !soak.goes_on() {
            break;
        }
        let Some(function) = soak.ground.stack.function(name) else { continue };
        until(IDLE, || function.busy() > 0).await;
        // What they hold is theirs until its lease ends; nobody else is at work under these tokens.
        let Ok(tokens) = leases(soak, kinds).await else { continue };
        let killed = function.kill();
        if killed > 0 {
            *soak.ledger.book().kills.entry((*name).to_owned()).or_default() += killed;
            soak.confirmed(async || end_leases(soak, &tokens).await).await;
        }
    }
    Ok(())
}

async fn leases(soak: &Soak<'_>, kinds: &[&str]) -> Result<Vec<Uuid>> {
    let kinds: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
    let held = "select lease_token from public.jobs where job_type = any ($1) and status = 'running'";
    soak.ground.with(async |conn| Ok(sqlx::query_scalar(held).bind(kinds).fetch_all(conn).await?)).await
}

/// Lets the leases of workers that are gone end, as if their minutes had passed.
async fn end_leases(soak: &Soak<'_>, tokens: &[Uuid]) -> Result<()> {
    let end = "update public.jobs set lease_until = now() where lease_token = any ($1)";
    soak.ground.with(async |conn| Ok(sqlx::query(end).bind(tokens).execute(conn).await?)).await?;
    Ok(())
}

async fn restart_postgres(soak: &Soak<'_>) -> Result<()> {
    let mut random = soak.random("postgres");
    let whole = soak.until.saturating_duration_since(Instant::now());
    // Once in 75 seconds, and in a short soak both ways all the same.
    let times = u32::try_from(whole.as_secs() / 75).unwrap_or(u32::MAX).max(2);
    for turn in 0..times {
        soak.pause(&mut random, (whole / (times + 1)).min(Duration::from_secs(60))).await;
        if !soak.goes_on() {
            break;
        }
        let (stop, manner) = if turn % 2 == 0 { (Stop::Fast, "fast") } else { (Stop::Immediate, "immediate") };
        soak.ground.restart_postgres(stop, Duration::from_millis(random.random_range(200..4000))).await?;
        *soak.ledger.book().restarts.entry(format!("postgres, {manner}")).or_default() += 1;
    }
    Ok(())
}

async fn restart_mongo(soak: &Soak<'_>) -> Result<()> {
    let mut random = soak.random("mongodb");
    let whole = soak.until.saturating_duration_since(Instant::now());
    let times = u32::try_from(whole.as_secs() / 120).unwrap_or(u32::MAX).max(1);
    for _ in 0..times {
        soak.pause(&mut random, (whole / (times + 1)).min(Duration::from_secs(100))).await;
        if !soak.goes_on() {
            break;
        }
        soak.ground.restart_mongo(Duration::from_secs(random.random_range(4..15))).await?;
        *soak.ledger.book().restarts.entry("mongodb".to_owned()).or_default() += 1;
    }
    Ok(())
}

async fn tick(soak: &Soak<'_>, name: &'static str, period: Duration) {
    let mut random = soak.random(name);
    while soak.goes_on() {
        soak.pause(&mut random, period).await;
        if let Some(function) = soak.ground.stack.function(name) {
            tick_once(soak, name, function).await;
        }
    }
}

/// One tick of a schedule. Whether it ended without an error.
pub(crate) async fn tick_once(soak: &Soak<'_>, name: &str, function: &Lambda) -> bool {
    // After the load has ended nothing is waited for longer than this.
    let done = tokio::time::timeout(Duration::from_secs(70), scheduler::tick(function)).await;
    let failed = !matches!(done, Ok(Ok(_)));
    let mut book = soak.ledger.book();
    let ticks = book.ticks.entry(name.to_owned()).or_default();
    ticks.0 += 1;
    ticks.1 += usize::from(failed);
    !failed
}
