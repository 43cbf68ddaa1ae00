//! Deliveries and readings end in the same inbox, in any order.

use std::{collections::BTreeMap, io::Write};

use chrono::{DateTime, Utc};
use futures::future::join_all;
use integration_tests::{Server, TestDatabase, full, people::NORD, seed};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::Value;
use shared::{
    db::Database,
    social::Observation,
    store::{StoreError, social},
};
use social_webhook::read;
use uuid::Uuid;

use super::{
    accounts, door,
    model::{Accounts, Arrival, BEGINS, Sort, World, world},
};

/// How many items a world has: two of every sort.
const ITEMS: usize = 24;

/// An account of each platform.
struct Connected {
    instagram: Uuid,
    tiktok: Uuid,
    names: Accounts,
}

async fn connect(db: &TestDatabase, count: usize) -> Vec<Connected> {
    let all: Vec<Connected> = (0..count)
        .map(|number| Connected {
            instagram: Uuid::now_v7(),
            tiktok: Uuid::now_v7(),
            names: Accounts { instagram: format!("1784{number:013}"), tiktok: format!("open-{number}") },
        })
        .collect();
    let of = |pick: fn(&Connected) -> (Uuid, String)| -> Vec<(Uuid, String)> { all.iter().map(pick).collect() };
    accounts(db, NORD, "instagram", &of(|one| (one.instagram, one.names.instagram.clone()))).await;
    accounts(db, NORD, "tiktok", &of(|one| (one.tiktok, one.names.tiktok.clone()))).await;
    all
}

/// What arrives, as observations of one of the accounts: each delivery once or twice, in any order.
fn shuffled(world: &World, connected: &Connected, rng: &mut StdRng) -> Vec<(Uuid, Vec<Observation>)> {
    let mut all = Vec::new();
    for arrival in &world.arrivals {
        for _ in 0..rng.random_range(1..3) {
            all.push(match arrival {
                Arrival::Shown(tiktok, seen) => {
                    (if *tiktok { connected.tiktok } else { connected.instagram }, vec![(**seen).clone()])
                }
                Arrival::Delivered(provider, raw) => {
                    let (account, name) = match *provider {
                        "meta" => (connected.instagram, &connected.names.instagram),
                        _ => (connected.tiktok, &connected.names.tiktok),
                    };
                    let said = read(provider, name, raw);
                    assert_eq!(said.status(), "applied", "{}", String::from_utf8_lossy(raw));
                    (account, said.observations)
                }
            });
        }
    }
    all.shuffle(rng);
    all
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(BEGINS + 3_600_000).unwrap()
}

/// Merges what arrives in batches of any size.
async fn arrive(door: &Database, arriving: &[(Uuid, Vec<Observation>)], rng: &mut impl Rng) {
    let mut rest = arriving;
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(rng.random_range(1..=rest.len()));
        rest = after;
        let merged = door.service(NORD, async |tx| {
            let mut accounts: Vec<Uuid> = batch.iter().map(|(account, _)| *account).collect();
            accounts.sort();
            accounts.dedup();
            for account in accounts {
                let of = batch.iter().filter(|(of, _)| *of == account);
                let seen: Vec<Observation> = of.flat_map(|(_, seen)| seen.clone()).collect();
                let merged = social::merge(tx, NORD, account, &seen, now()).await?;
                assert_eq!(merged.left_out, 0);
            }
            Ok::<_, StoreError>(())
        });
        merged.await.unwrap();
    }
}

/// What the inbox shows, by account.
async fn inboxes(db: &TestDatabase) -> BTreeMap<Uuid, Value> {
    let shown = db
        .text(
            "with shown as (
                select account_id, jsonb_agg(jsonb_build_object(
                        'id', platform_id, 'type', message_type, 'direction', direction, 'thread', thread_id,
                        'at', (extract(epoch from received_at) * 1000)::bigint, 'text', content, 'hidden', hidden,
                        'deleted', deleted_at is not null, 'reactions', reactions, 'edited', (extract(epoch from edited_at) * 1000)::bigint,
                        'seen', (extract(epoch from seen_at) * 1000)::bigint, 'parent', parent_id,
                        'attachments', jsonb_array_length(attachments)) order by platform_id collate \"C\") as messages
                  from social_messages group by account_id),
             counted as (
                select account_id, jsonb_agg(jsonb_build_object(
                        'id', thread_id, 'messages', message_count, 'unread', unread_count,
                        'last', (extract(epoch from last_message_at) * 1000)::bigint,
                        'came', (extract(epoch from last_incoming_at) * 1000)::bigint) order by thread_id collate \"C\") as threads
                  from social_threads group by account_id)
             select coalesce(jsonb_object_agg(account_id, jsonb_build_object('messages', messages, 'threads', threads)), '{}')::text
               from shown full join counted using (account_id)",
        )
        .await;
    serde_json::from_str(&shown).unwrap()
}

/// Worlds whose deliveries and readings arrive in any order, each in accounts of its own.
async fn check(db: &TestDatabase, count: usize, rng: &mut StdRng) {
    let door = door(db).await;
    let mut wanted = Vec::new();
    for connected in connect(db, count).await {
        let world = world(rng, ITEMS, &connected.names);
        let arriving = shuffled(&world, &connected, rng);
        arrive(&door, &arriving, rng).await;
        wanted.push((connected, world));
    }
    compare(db, &wanted).await;
}

async fn compare(db: &TestDatabase, wanted: &[(Connected, World)]) {
    let shown = inboxes(db).await;
    for (connected, world) in wanted {
        for (tiktok, account) in [(false, connected.instagram), (true, connected.tiktok)] {
            assert_eq!(shown.get(&account), Some(&world.inbox(tiktok)), "{:#?}", world.things);
        }
    }
    assert_eq!(shown.len(), wanted.len() * 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn push_and_pull_of_the_same_items_in_any_interleaving_end_in_the_same_inbox() {
    assert_eq!(ITEMS % Sort::ALL.len(), 0, "every sort is as frequent");
    let (mut rng, mut interleavings) = (StdRng::seed_from_u64(seed()), 0);
    // A database for each hundred, so that its tables stay small.
    for _ in 0..if full() { 100 } else { 2 } {
        let db = TestDatabase::new(Server::Postgres18).await;
        check(&db, 100, &mut rng).await;
        interleavings += 100;
    }
    writeln!(std::io::stdout(), "{interleavings} interleavings of {ITEMS} items ended in the same inbox").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_and_readings_at_the_same_time_lose_nothing_of_each_other() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let mut rng = StdRng::seed_from_u64(seed());
    let mut wanted = Vec::new();
    for connected in connect(&db, 5).await {
        let world = world(&mut rng, ITEMS, &connected.names);
        let arriving = shuffled(&world, &connected, &mut rng);
        let parts: Vec<_> = arriving.chunks(arriving.len().div_ceil(4)).collect();
        let doors = join_all((0..parts.len()).map(|_| door(&db))).await;
        let seeds: Vec<StdRng> = parts.iter().map(|_| StdRng::seed_from_u64(rng.random())).collect();
        let at_once = parts.iter().zip(&doors).zip(seeds).map(|((part, door), mut rng)| async move {
            arrive(door, part, &mut rng).await;
        });
        join_all(at_once).await;
        wanted.push((connected, world));
    }
    compare(&db, &wanted).await;
}
