//! A soak: minutes of mixed load while wires, providers, workers and servers fail, and then an account of everything that was accepted.
//!
//! The load and the faults are in `load` and `faults`, each lane from a seed of its own; `drain` lets time pass until nothing is left
//! to do; [`account`] compares what was accepted with what is there. README.md beside this crate says how to read what it prints.

pub mod account;
mod cast;
mod drain;
mod faults;
mod ground;
mod ledger;
mod load;
mod report;

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use anyhow::Result;
use operator::rebuild;
use sqlx::Connection;

use crate::{
    account::Evidence,
    cast::{LEAD_MARK, Organisation, WISH_MARK},
    ground::{DOCUMENTS, Ground},
    ledger::{Book, Finding, Ledger},
    load::Soak,
};
pub use report::Outcome;

/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(5);
/// The first comparisons with Stripe look at a month, a day at a time.
const MONTH: usize = 32;

/// Of a soak at least so long everything that can happen must have happened.
const LONG: Duration = Duration::from_secs(8 * 60);
/// What is accepted in one.
const KINDS: [&str; 12] = [
    "render",
    "cancel",
    "process sent",
    "insight",
    "lead",
    "lead asked for",
    "lead ended",
    "limit made",
    "limit changed",
    "limit deleted",
    "checkout",
    "portal",
];

/// Runs a soak of so long. Dropped before it ends, everything it has started stops.
///
/// # Errors
/// If servers cannot be started or asked; not if something is unaccounted for.
pub async fn run(load: Duration, seed: u64) -> Result<Outcome> {
    report::line(&format!("soak of {} s, seed {seed}", load.as_secs()));
    // Boxed, here and below, since state machines nested so deeply are more than the compiler will lay out.
    let ground = Box::pin(Ground::start()).await?;
    let cast = cast::gather(&ground).await?;
    let ledger = Ledger::default();
    let http = shared::http_client(Duration::from_secs(60))?;
    for _ in 0..MONTH {
        ground.stack.reconcile().await?;
    }
    let begun = Instant::now();
    let soak = Soak { ground: &ground, ledger: &ledger, http, seed, until: begun + load };
    report::line(&format!("logs of the functions: {}", ground.stack.logs.display()));
    let all = Box::pin(async {
        tokio::try_join!(load::run(&soak, &cast), faults::run(&soak))?;
        let loaded = begun.elapsed().as_secs();
        drain::settle(&soak).await;
        Ok::<_, anyhow::Error>(loaded)
    });
    let loaded = tokio::select! {
        done = async { tokio::try_join!(all, faults::ticks(&soak)) } => done?.0,
        never = progress(&soak, begun) => match never {},
    };
    let drained = Box::pin(drain::drain(&soak, &cast, report::line)).await?;
    report::line(&match drained {
        Some(rounds) => format!("drained after {rounds} rounds; accounting"),
        None => "not drained; accounting for what there is".to_owned(),
    });
    let findings = Box::pin(findings(&soak, &cast, load)).await?;
    let mut conn = ground.admin().await?;
    let figures = report::figures(&soak, &mut conn, (loaded, begun.elapsed().as_secs() - loaded)).await?;
    conn.close().await?;
    if !findings.is_empty() {
        report::line(&format!("logs of the functions: {}", ground.keep_logs(seed)?.display()));
    }
    Ok(Outcome { figures, findings })
}

/// Tells how far it is, for ever.
async fn progress(soak: &Soak<'_>, begun: Instant) -> Infallible {
    loop {
        tokio::time::sleep(PROGRESS).await;
        let waiting = soak.ground.stack.renders.waiting().len();
        let accepted = ["render", "insight", "lead asked for", "checkout"].map(|kind| soak.ledger.count(kind));
        let book = soak.ledger.book();
        let faults: usize = book.faults.values().map(|injected| injected.arranged).sum();
        report::line(&format!(
            "{:>4} s: {} renders, {} insights, {} leads, {} checkouts accepted; {} events taken; {waiting} messages wait; {faults} faults, \
             {} kills, {} restarts; {} requests sent again",
            begun.elapsed().as_secs(),
            accepted[0],
            accepted[1],
            accepted[2],
            accepted[3],
            book.delivered.len(),
            book.kills.values().sum::<usize>(),
            book.restarts.values().sum::<usize>(),
            book.retries,
        ));
    }
}

/// Everything that is not accounted for.
async fn findings(soak: &Soak<'_>, cast: &[Organisation], load: Duration) -> Result<Vec<Finding>> {
    let Soak { ground, ledger, .. } = soak;
    let (accepted, customers, delivered, killed) = {
        let book = ledger.book();
        let answering = book.kills.iter().filter(|(name, _)| name.contains("Http") || name.starts_with("Jobs"));
        let killed = answering.map(|(_, count)| count).sum();
        (book.accepted.clone(), book.customers.clone(), book.delivered.clone(), killed)
    };
    let secret = secrets(ground, cast);
    let evidence = Evidence::new(accepted, secret.clone(), people(cast))
        .of_sandbox(&ground.stack.sandbox, &customers, &delivered)
        .of_files(&ground.files())?
        .of_documents(&ground.mongodb_uri(), DOCUMENTS)
        .await?;
    let mut conn = ground.admin().await?;
    evidence.load(&mut conn).await?;
    let mut findings = account::account(&mut conn).await?;
    conn.close().await?;
    for org in cast {
        let rebuilt = rebuild::rebuild(&ground.admin_url(), &org.slug).await?;
        findings.extend(
            rebuilt.changes.iter().map(|change| Finding::new("stripe.rebuilt", format!("{}: {change}", org.slug))),
        );
    }
    for (function, log) in ground.logs()? {
        findings.extend(account::logs(&function, &log, &secret));
    }
    for asked in ground.stack.sandbox.anthropic.asked() {
        if asked.to_string().contains(LEAD_MARK) {
            findings.push(Finding::new("leads.told", format!("a model was told of a lead by name: {asked}")));
        }
    }
    let book = ledger.book();
    if load >= LONG {
        findings.extend(idle(&book));
    }
    findings.extend(account::answers(&book.answers, killed));
    findings.extend(book.seen.iter().cloned());
    drop(book);
    findings.sort();
    Ok(findings)
}

/// Events that were to happen and never did: what is then accounted for says little.
fn idle(book: &Book) -> Vec<Finding> {
    let accepted = KINDS.iter().filter(|kind| book.accepted.iter().all(|accepted| accepted.kind != **kind));
    let met = faults::WIRES
        .iter()
        .flat_map(|wires| wires.iter())
        .filter(|wire| book.faults.iter().all(|((target, _), injected)| target != *wire || injected.met == 0));
    let restarts = ["postgres, fast", "postgres, immediate", "mongodb"];
    let restarted = restarts.iter().filter(|server| !book.restarts.contains_key(**server));
    let killed = faults::KILLED.iter().map(|(name, _)| name).filter(|name| !book.kills.contains_key(**name));
    accepted
        .map(|kind| format!("no {kind} was accepted"))
        .chain(met.map(|wire| format!("no fault of {wire} was met")))
        .chain(restarted.map(|server| format!("{server} was not restarted")))
        .chain(killed.map(|name| format!("no {name} was killed")))
        .map(|item| Finding::new("soak.idle", item))
        .collect()
}

/// What may be read nowhere: names, addresses, wishes, keys and tokens.
fn secrets(ground: &Ground, cast: &[Organisation]) -> Vec<String> {
    let sandbox = &ground.stack.sandbox;
    let people = cast.iter().flat_map(|org| [&org.owner, &org.designer, &org.sales]).map(|person| person.email.clone());
    let agents = cast.iter().filter_map(|org| Some(org.agent.as_ref()?.1.clone()));
    [
        LEAD_MARK.to_owned(),
        WISH_MARK.to_owned(),
        sandbox.anthropic_key.get(),
        sandbox.gemini_key.get(),
        sandbox.stripe.key().get(),
    ]
    .into_iter()
    .chain(sandbox.stripe.secrets())
    .chain(people)
    .chain(agents)
    .collect()
}

/// People and agents who work in one organisation alone.
fn people(cast: &[Organisation]) -> Vec<(uuid::Uuid, uuid::Uuid)> {
    let all = cast.iter().flat_map(|org| {
        let agent = org.agent.as_ref().map(|(id, _)| (*id, org.id));
        [&org.owner, &org.designer, &org.sales].map(|person| (person.id, person.org)).into_iter().chain(agent)
    });
    all.collect()
}
