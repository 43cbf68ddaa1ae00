//! What every minute costs where there is nothing to do.

use std::collections::BTreeMap;

use integration_tests::{Server, Setup, TestApp, TestDatabase};

use super::{SMALL, fill};

/// How many rows of history each table has at first, and then.
const FEW: u32 = 400;
const MANY: u32 = 2000;

/// Has every schedule come once; the back office is brought up for it and taken down.
async fn a_minute(db: TestDatabase) -> TestDatabase {
    let app = TestApp::set_up(Setup { db: Some(db), ..Setup::default() }).await;
    app.stack.look_after_leads().await.unwrap();
    app.stack.nightly_insights().await.unwrap();
    app.stack.reconcile().await.unwrap();
    app.stack.sweep().await.unwrap();
    let TestApp { db, .. } = app;
    db
}

/// How many blocks of each table and its indexes the functions have read so far. Told when their connections end.
async fn blocks(db: &TestDatabase) -> BTreeMap<String, i64> {
    let connected = format!(
        "select count(*) from pg_stat_activity where usename = 'spine_functions' and datname = '{}'",
        db.name()
    );
    while db.count(&connected).await > 0 {
        tokio::task::yield_now().await;
    }
    let read = "select relname::text, (heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit + idx_blks_read, 0))::bigint from pg_statio_user_tables";
    let read: Vec<(String, i64)> = sqlx::query_as(read).fetch_all(&mut db.admin().await).await.unwrap();
    read.into_iter().collect()
}

/// More history: organisations that pay, have insights made every night and need none, spend without a customer, and events of others.
async fn history(db: &TestDatabase, samples: &[fill::Sample], rows: std::ops::RangeInclusive<u32>) {
    let empty = fill::fill(db, samples, &rows).await;
    assert!(empty.is_empty(), "{empty:#?}");
    let (from, to) = (rows.start(), rows.end());
    db.run(&format!(
        "set session_replication_role = replica;
         update insight_settings set nightly = true, tables = '{{no_such_table}}';
         update system_settings set value = '-60' where key = 'insights.nightly_from';
         insert into webhook_events (provider, event_id, raw, status, object_id, refs)
         select 'stripe', 'evt_' || n, 'x', 'unowned', 'in_' || n, array['in_' || n, 'cus_' || n] from generate_series({from}, {to}) n;
         insert into organizations (id, name, slug, plan, stripe_customer_id)
         select gen_random_uuid(), 'Payer', 'payer-' || n, 'studio', 'cus_payer' || n from generate_series({from}, {to}) n;
         insert into subscriptions (org_id, stripe_subscription_id, stripe_price_id, stripe_price_ids, status)
         select id, 'sub_' || slug, p.stripe_price_id, array[p.stripe_price_id], 'active'
           from organizations o cross join (select * from plan_prices where plan = 'studio' limit 1) p
          where slug like 'payer-%' on conflict do nothing;
         reset session_replication_role;
         insert into billing_events (org_id, kind, quantity, cost_micro_usd, source_table, source_id, created_at)
         select o.id, 'render', 1, 1, 't', gen_random_uuid(), now() - interval '2 days' from organizations o where stripe_customer_id is null"
    ))
    .await;
    db.run("vacuum analyze").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_in_which_nothing_is_due_reads_no_more_the_longer_the_history_is() {
    let template = TestDatabase::new(Server::Postgres18).await;
    let samples = fill::samples(&template, &SMALL.map(|(table, _)| table)).await;
    let mut db = TestDatabase::new(Server::Postgres18).await;
    let mut read = Vec::new();
    for rows in [1..=FEW, FEW + 1..=MANY] {
        history(&db, &samples, rows).await;
        // What is due at first is done, and the functions' own rows are there.
        db = a_minute(db).await;
        db.run("vacuum analyze").await;
        let before = blocks(&db).await;
        db = a_minute(db).await;
        let mut now = blocks(&db).await;
        now.iter_mut().for_each(|(table, blocks)| *blocks -= before[table]);
        read.push(now);
    }
    // A page more here and there is no scan.
    let grown = read[1].iter().map(|(table, blocks)| (table, read[0][table], *blocks));
    let grown: Vec<_> = grown.filter(|(_, few, many)| *many > few + 15).collect();
    assert!(grown.is_empty(), "blocks read beside {FEW} and {MANY} rows of history: {grown:?}");
}
