//! The pace of calls: no 26th in any window, a fair part for reads and for writes, and slots of the dead.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use integration_tests::{
    TestApp,
    people::{BRICK, NORD, OLGA},
    pooler,
};
use sandbox::{
    Calls,
    fortnox::{Call, Fault, MOST, WINDOW_MS},
};
use shared::{
    clients::fortnox::{Fortnox, FortnoxError},
    db::Database,
    pace::{Pace, PaceError, Side},
    tokens::Tokens,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{connect, tokens::process};
use crate::renewals::processes::{self, PROCESSES, fifty, given, is_a_part, say};

/// What one process does: it has a connection and a client of its own.
struct Process {
    tokens: Tokens<Arc<Fortnox>>,
    token: String,
    pace: Pace,
}

impl Process {
    async fn begin(app: &TestApp, url: &str, window: Duration) -> Self {
        let tokens = process(app, url, Duration::from_secs(60));
        let token = tokens.access(NORD).await.unwrap().expose().to_owned();
        let pace = Pace { db: tokens.db.clone(), window, call: Duration::from_secs(8) };
        Self { tokens, token, pace }
    }

    async fn read(&self, side: Side) -> Result<(), PaceError> {
        let call = async || self.tokens.issuer.get(&self.token, "/3/companyinformation", &[]).await.map(drop);
        self.pace.call(NORD, side, soon(), call).await?.unwrap();
        Ok(())
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A connected company at a Fortnox whose clock is so much faster that its window lasts this long, and has nothing in it.
async fn paced(app: &TestApp, window: Duration) -> i64 {
    let fortnox = &app.stack.sandbox.fortnox;
    let company = fortnox.create_company("Nordic Interiors AB", "556677-8899");
    assert_eq!(connect(app, &OLGA, company).await, "connected", "{}", app.logs());
    app.db
        .run("update org_integrations set expires_at = now() + interval '1 day'; update fortnox_call_slots set free_at = '-infinity', side = null")
        .await;
    // Its token lasts an hour.
    fortnox.advance(60);
    let millis = u32::try_from(WINDOW_MS).unwrap();
    fortnox.set_pace(f64::from(millis) / 1000.0 / window.as_secs_f64());
    company
}

/// Takes a slot, if there is one now, and never gives it back.
async fn take(pace: &Pace, org: Uuid, side: Side) -> Result<(), PaceError> {
    pace.slot(org, side, Instant::now()).await.map(|_slot| ())
}

fn pace(db: Database, window: Duration) -> Pace {
    Pace { db, window, call: Duration::from_secs(3600) }
}

/// The window of the test below.
const SHORT: Duration = Duration::from_millis(500);

/// The part of a process that makes calls.
async fn make_calls() {
    let tokens = processes::fortnox(&given(), Duration::from_secs(60));
    let token = tokens.access(NORD).await.unwrap().expose().to_owned();
    let pace = Pace { db: tokens.db.clone(), window: SHORT, call: Duration::from_secs(8) };
    let side = if std::process::id().is_multiple_of(2) { Side::Read } else { Side::Write };
    let process = Process { tokens, token, pace };
    for _ in 0..3 {
        process.read(side).await.unwrap();
    }
    say("3 calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_processes_never_make_a_26th_call_in_any_window() {
    if is_a_part() {
        return make_calls().await;
    }
    let app = TestApp::start().await;
    let (pooler, _home) = pooler(&app.db, 4).await;
    let company = paced(&app, SHORT).await;
    let said = fifty(
        &processes::settings(&app, &pooler.url),
        "fortnox::pace::fifty_processes_never_make_a_26th_call_in_any_window",
    )
    .await;
    assert_eq!(said, vec!["3 calls"; PROCESSES]);
    let fortnox = &app.stack.sandbox.fortnox;
    assert_eq!(fortnox.refused_by_limit(company), 0);
    let most = fortnox.most_in_any_window(company);
    assert!(most <= MOST, "{most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_three_hundred_writes_and_as_many_reads_wait_each_side_gets_two_fifths() {
    let app = TestApp::start().await;
    let (pooler, _home) = pooler(&app.db, 4).await;
    let window = Duration::from_secs(1);
    let company = paced(&app, window).await;
    let passed: Arc<Mutex<Vec<Side>>> = Arc::default();
    // Twelve writes of each process wait in line for its one connection. Writes come first, so that they hold all slots when reads begin.
    let processes = futures::future::join_all(
        (0..PROCESSES).map(|_| async { Arc::new(Process::begin(&app, &pooler.url, window).await) }),
    );
    let processes = processes.await;
    let begin = |side: Side, processes: &[Arc<Process>]| -> Vec<_> {
        let waiting = processes.iter().flat_map(|process| std::iter::repeat_n(process, 12));
        let task = |process: &Arc<Process>| {
            let (process, passed) = (Arc::clone(process), Arc::clone(&passed));
            tokio::spawn(async move {
                if process.read(side).await.is_ok() {
                    passed.lock().unwrap().push(side);
                }
            })
        };
        waiting.map(task).collect()
    };
    let (writers, readers) = processes.split_at(PROCESSES / 2);
    let mut tasks = begin(Side::Write, writers);
    let count = || passed.lock().unwrap().len();
    until(|| count() >= MOST).await;
    tasks.extend(begin(Side::Read, readers));
    // From when both have waited for a window: four windows.
    until(|| count() >= 3 * MOST).await;
    let begun = count();
    until(|| count() >= begun + 4 * MOST).await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    let passed = passed.lock().unwrap();
    let mut sides = BTreeMap::new();
    for side in &passed[begun..begun + 4 * MOST] {
        *sides.entry(format!("{side:?}")).or_insert(0) += 1;
    }
    assert!(sides["Read"] * 5 >= 2 * 4 * MOST && sides["Write"] * 5 >= 2 * 4 * MOST, "{sides:?}");
    let fortnox = &app.stack.sandbox.fortnox;
    assert_eq!(fortnox.refused_by_limit(company), 0);
    assert!(fortnox.most_in_any_window(company) <= MOST);
}

/// Looks again and again, and gives up where it does not come to hold.
async fn until(holds: impl Fn() -> bool) {
    let held = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), held).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_is_alone_has_all_slots_and_one_that_comes_later_gets_its_part_of_them() {
    let app = TestApp::start().await;
    let db = process(&app, &app.db.functions_url, Duration::ZERO).db;
    let pace = pace(db, Duration::from_secs(3600));
    for _ in 0..MOST {
        take(&pace, NORD, Side::Write).await.unwrap();
    }
    let held = async |side: &str| {
        app.db
            .count(&format!("select count(*) from fortnox_call_slots where side = '{side}' and free_at > now()"))
            .await
    };
    assert_eq!(held("write").await, 25);
    let full = take(&pace, NORD, Side::Read).await;
    assert!(matches!(full, Err(PaceError::Full { .. })), "{full:?}");
    // As slots come free, writes get none while they hold 14; reads, of which nobody waits against, get the rest.
    app.db.run("update fortnox_call_slots set free_at = now() where slot <= 12").await;
    take(&pace, NORD, Side::Write).await.unwrap();
    let full = take(&pace, NORD, Side::Write).await;
    assert!(matches!(full, Err(PaceError::Full { .. })), "{full:?}");
    for _ in 0..11 {
        take(&pace, NORD, Side::Read).await.unwrap();
    }
    assert_eq!((held("write").await, held("read").await), (14, 11));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_of_a_process_that_died_comes_back_when_its_lease_ends_and_another_organisations_is_free() {
    let app = TestApp::start().await;
    let db = process(&app, &app.db.functions_url, Duration::ZERO).db;
    let pace = pace(db, Duration::from_millis(100));
    for _ in 0..MOST {
        take(&pace, NORD, Side::Read).await.unwrap();
    }
    let full = take(&pace, NORD, Side::Read).await;
    assert!(matches!(full, Err(PaceError::Full { .. })), "{full:?}");
    let leases = "select count(*) from fortnox_call_slots
                   where free_at between now() + interval '59 minutes' and now() + interval '61 minutes'";
    assert_eq!(app.db.count(leases).await, 25);
    take(&pace, BRICK, Side::Read).await.unwrap();
    // An hour later.
    app.db.run("update fortnox_call_slots set free_at = free_at - interval '61 minutes' where slot = 7").await;
    take(&pace, NORD, Side::Read).await.unwrap();
    let full = take(&pace, NORD, Side::Read).await;
    assert!(matches!(full, Err(PaceError::Full { .. })), "{full:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_held_a_window_after_its_call_longer_after_a_refusal_and_to_its_lease_if_nobody_answered() {
    let app = TestApp::start().await;
    let window = Duration::from_secs(600);
    paced(&app, Duration::from_secs(5)).await;
    let mut process = Process::begin(&app, &app.db.functions_url, window).await;
    process.pace.call = Duration::from_secs(3600);
    let minutes = async || {
        let held = "select coalesce(string_agg(round(extract(epoch from free_at - now()) / 60)::text, ' ' order by free_at), '')
                      from fortnox_call_slots where free_at > now()";
        app.db.text(held).await
    };
    let read = async || {
        let call = async || process.tokens.issuer.get(&process.token, "/3/companyinformation", &[]).await;
        process.pace.call(NORD, Side::Read, soon(), call).await.unwrap()
    };
    read().await.unwrap();
    assert_eq!(minutes().await, "10");
    app.stack.sandbox.fortnox.arrange(Call::Rest, Fault::Lost, Calls::Next(1));
    let lost = read().await;
    assert!(matches!(lost, Err(FortnoxError::Unanswered(_))), "{lost:?}");
    assert_eq!(minutes().await, "10 70");
    app.stack.sandbox.fortnox.arrange(Call::Rest, Fault::RateLimited, Calls::Next(1));
    let refused = read().await;
    assert!(matches!(refused, Err(FortnoxError::Busy { status: 429 })), "{refused:?}");
    assert_eq!(minutes().await, "20 20 70");
}
