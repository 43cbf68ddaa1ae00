//! Limits hold under concurrency, and what they hold back is done later.

use std::sync::Mutex;

use futures::{StreamExt, future::join_all, stream};
use integration_tests::{
    Server, TestApp, TestDatabase,
    acting::Actor,
    people::{ADAM, BRICK, DORA, LAKESIDE, NORD, OLGA, SVEN},
    render_body, sample, small_photo,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

async fn cap(app: &TestApp, scope: &str, requests: u32) {
    app.db.run("delete from agent_limits").await;
    app.db
        .run(&format!(
            "insert into agent_limits (org_id, agent, scope, period, max_requests) values ('{NORD}', 'renderer', '{scope}', 'month', {requests})"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_at_once_against_a_cap_of_fifty_admit_fifty_and_queue_the_rest() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    cap(&app, "project", 50).await;
    let token = app.token(&DORA);
    let upload = app.upload(&token, &small_photo()).await;
    let body = render_body(LAKESIDE, upload);

    let answers: Vec<_> = stream::iter(0..200)
        .map(|_| async { app.post("/v1/render-requests", &token, &body).await })
        .buffer_unordered(50)
        .collect()
        .await;

    let mut waiting = 0;
    for answer in answers {
        let retry_after = answer.headers.contains_key("retry-after");
        let body = answer.expect(202);
        if body["waiting"].is_null() {
            continue;
        }
        waiting += 1;
        assert_eq!(
            (body["waiting"]["reason"].as_str(), body["waiting"]["scope"].as_str()),
            (Some("limit"), Some("project"))
        );
        let until: chrono::DateTime<chrono::Utc> = body["waiting"]["until"].as_str().unwrap().parse().unwrap();
        assert!(until > chrono::Utc::now() && retry_after);
    }
    assert_eq!(waiting, 150);
    assert_eq!(app.db.count("select count(*) from usage_reservations where state = 'active'").await, 50);
    assert_eq!(app.db.count("select reserved_requests from agent_usage where scope = 'project'").await, 50);
    // The agent's own count, which stands in no limit's way, agrees: a refusal took everything back.
    assert_eq!(app.db.count("select reserved_requests from agent_usage where scope = 'agent'").await, 50);
    assert_eq!(
        app.db.count("select count(*) from jobs where run_after > now() and wait_reason is not null").await,
        150
    );
    assert_eq!(app.stack.renders.waiting().len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_limit_waits_until_its_window_ends_and_says_in_how_many_seconds() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    let token = app.token(&DORA);
    for period in ["minute", "hour", "day", "month"] {
        app.db
            .run(&format!(
                "delete from agent_limits; delete from agent_usage;
                 insert into agent_limits (org_id, agent, scope, period, max_requests) values ('{NORD}', 'renderer', 'agent', '{period}', 1)"
            ))
            .await;
        let end = async || -> chrono::DateTime<chrono::Utc> {
            let end = format!("select date_trunc('{period}', now(), 'UTC') + interval '1 {period}'");
            sqlx::query_scalar(sqlx::AssertSqlSafe(end)).fetch_one(&mut app.db.admin().await).await.unwrap()
        };
        // Again, if a window ended in between.
        loop {
            let begun = (end().await, chrono::Utc::now());
            app.request_render(&token, LAKESIDE).await.expect(202);
            let answer = app.request_render(&token, LAKESIDE).await;
            let ended = (end().await, chrono::Utc::now());
            if begun.0 != ended.0 {
                continue;
            }
            let seconds: i64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
            let waiting = answer.expect(202)["waiting"].clone();
            let until: chrono::DateTime<chrono::Utc> = waiting["until"].as_str().unwrap().parse().unwrap();
            assert_eq!(until, ended.0, "{period}: {waiting}");
            let whole = |now: chrono::DateTime<chrono::Utc>| (until - now).num_seconds() + 1;
            assert!((whole(ended.1)..=whole(begun.1)).contains(&seconds), "{period}: {seconds} to {until}");
            let runs =
                format!("select count(*) from jobs where status = 'queued' and run_after = '{}'", until.to_rfc3339());
            assert!(app.db.count(&runs).await > 0, "{period}");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_limit_held_back_is_rendered_when_the_window_opens() {
    for scope in ["user", "project", "agent"] {
        let app = TestApp::start().await;
        cap(&app, scope, 1).await;
        let token = app.token(&DORA);
        app.request_render(&token, LAKESIDE).await.expect(202);
        let held = app.request_render(&token, LAKESIDE).await.expect(202);
        assert_eq!(held["waiting"]["scope"], scope);
        let id = held["id"].as_str().unwrap();
        app.stack.renders.drained().await;

        // Too early: a worker that looks all the same finds the limit still reached.
        app.db.run("update jobs set run_after = now() where status = 'queued'").await;
        app.stack.sweep().await.unwrap();
        let still = app.finished(&token, id).await;
        assert_eq!((still["status"].as_str(), still["waiting"]["scope"].as_str()), (Some("queued"), Some(scope)));
        assert_eq!(app.db.count("select attempts::bigint from jobs where status = 'queued'").await, 0);

        // The window is over: what was used belongs to an earlier one.
        app.db.run("update agent_usage set period_start = period_start - interval '1 month'").await;
        app.db.run("update jobs set run_after = now() where status = 'queued'").await;
        app.stack.sweep().await.unwrap();
        assert_eq!(app.finished(&token, id).await["status"], "completed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_whose_time_is_over_is_given_back_once() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    let token = app.token(&DORA);
    app.request_render(&token, LAKESIDE).await.expect(202);
    app.db.run("update usage_reservations set expires_at = now() - interval '1 second'").await;
    assert_eq!(app.stack.sweep().await.unwrap()["reservations_expired"], 1);
    assert_eq!(app.stack.sweep().await.unwrap()["reservations_expired"], 0);
    assert_eq!(app.db.count("select sum(reserved_requests)::bigint from agent_usage").await, 0);
    assert_eq!(app.db.count("select count(*) from usage_reservations where state = 'expired'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_sweeps_at_once_one_gives_an_expired_reservation_back() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    let token = app.token(&DORA);
    for _ in 0..3 {
        app.request_render(&token, LAKESIDE).await.expect(202);
    }
    let reserved = "select sum(reserved_requests)::bigint from agent_usage where scope = 'agent' and period = 'month'";
    assert_eq!(app.db.count(reserved).await, 3);
    // Two have ended. The third still counts, and hides nothing that was taken away twice.
    app.db
        .run(
            "update usage_reservations set expires_at = now() - interval '1 second'
              where id in (select id from usage_reservations order by id limit 2)",
        )
        .await;
    // One sweep gives both back. Before it commits, another has seen that they are to be given back, and waits.
    let mut first = app.db.login().await;
    as_system(&mut first).await;
    let gives = "select count(*) filter (where app.refund_usage(id, 'expired')) from usage_reservations where expires_at < now()";
    let given: i64 = sqlx::query_scalar(gives).fetch_one(&mut first).await.unwrap();
    assert_eq!(given, 2);
    let commit = async {
        let waits = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')";
        app.db.until(waits).await;
        first.execute("commit").await.unwrap();
    };
    let (second, ()) = tokio::join!(app.stack.sweep(), commit);
    assert_eq!(second.unwrap()["reservations_expired"], 0);
    assert_eq!(app.db.count(reserved).await, 1);
    let counted = "select count(*) from agent_usage where reserved_requests <> 1";
    assert_eq!(app.db.count(counted).await, 0);
    assert_eq!(app.db.count("select count(*) from usage_reservations where state = 'expired'").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_cannot_be_given_back_keeps_no_other_from_it() {
    let app = TestApp::start().await;
    app.db
        .run(&format!(
            "insert into jobs (id, org_id, job_type) select gen_random_uuid(), o::uuid, 'none' from unnest(array['{BRICK}', '{NORD}']) o;
             insert into usage_reservations (org_id, job_id, agent, requests, tokens, cost_micro_usd, windows, expires_at)
             select org_id, id, 'renderer', 1, 1, 1, case org_id when '{BRICK}' then '{{\"windows\": \"unreadable\"}}' else '[]' end::jsonb, now() - interval '1 minute'
               from jobs"
        ))
        .await;
    assert_eq!(app.stack.sweep().await.unwrap()["reservations_expired"], 1, "{}", app.logs());
    let still = format!("select count(*) from usage_reservations where state = 'active' and org_id = '{BRICK}'");
    assert_eq!(
        (
            app.db.count(&still).await,
            app.db.count("select count(*) from usage_reservations where state = 'active'").await
        ),
        (1, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_price_is_refused_and_never_free() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    app.db.run("delete from model_prices where unit = 'image_output'").await;
    app.request_render(&token, LAKESIDE).await.expect_error(503, "model_price_unknown");
    assert_eq!(app.db.count("select count(*) from render_requests").await, 0);
    assert_eq!(app.db.count("select count(*) from jobs").await, 0);
}

/// A call to an agent: whose, for what, and what it is expected to use.
#[derive(Debug, Clone)]
struct Call {
    job: Uuid,
    agent: &'static str,
    user: Option<Uuid>,
    project: Option<Uuid>,
    amounts: [i64; 3],
}

const AGENTS: [&str; 3] = ["renderer", "analyst", "lead_assigner"];
const USERS: u128 = 5;
const PROJECTS: u128 = 4;

/// So many calls by mixed users, projects and agents, each with a job; some are nobody's, some of no project.
async fn calls(db: &TestDatabase, random: &mut StdRng, many: usize) -> Vec<Call> {
    let calls: Vec<Call> = (0..many)
        .map(|_| Call {
            job: Uuid::now_v7(),
            agent: AGENTS[random.random_range(0..AGENTS.len())],
            user: random.random_bool(0.9).then(|| Uuid::from_u128(100 + random.random_range(0..USERS))),
            project: random.random_bool(0.7).then(|| Uuid::from_u128(200 + random.random_range(0..PROJECTS))),
            amounts: [random.random_range(1..=3), random.random_range(0..=900), random.random_range(0..=50_000)],
        })
        .collect();
    let rows: Vec<Value> =
        calls.iter().map(|call| json!({ "id": call.job, "user": call.user, "project": call.project })).collect();
    sqlx::query(
        "insert into jobs (id, org_id, job_type, payload) select (j ->> 'id')::uuid, $1, 'render', j from jsonb_array_elements($2) j",
    )
    .bind(NORD)
    .bind(json!(rows))
    .execute(&mut db.admin().await)
    .await
    .unwrap();
    calls
}

/// Limits for every agent and dimension, so tight that about half of a thousand calls fit: requests, tokens, cost, or several of them, of a
/// month, with an exception for one user and one project; and one of a minute that is never reached.
async fn tight(db: &TestDatabase, random: &mut StdRng) {
    for agent in AGENTS {
        for (scope, share, one) in [("agent", 1, None), ("project", PROJECTS, Some(200)), ("user", USERS, Some(100))] {
            let mut most = |scale: i64| {
                let most = random.random_range(scale / 3..scale) / i64::try_from(share).unwrap();
                if random.random_bool(0.6) { most.to_string() } else { "null".to_owned() }
            };
            // Of each a third of a thousand calls: twice as many requests, 150,000 tokens and 8 dollars.
            let mut limit = |of: &str| {
                format!(
                    "('{NORD}', '{agent}', '{scope}', {of}, 'month', {}, {}, {})",
                    most(660),
                    most(150_000),
                    most(8_000_000)
                )
            };
            let mut limits = vec![limit("null")];
            if let Some(one) = one {
                limits.push(limit(&format!("'{}'", Uuid::from_u128(one))));
            }
            limits.push(format!("('{NORD}', '{agent}', '{scope}', null, 'minute', 1000000, null, null)"));
            db.run(&format!(
                "insert into agent_limits (org_id, agent, scope, scope_id, period, max_requests, max_tokens, max_cost_micro_usd) values {}",
                limits.join(", ")
            ))
            .await;
        }
    }
}

async fn as_system(conn: &mut PgConnection) {
    conn.execute("begin; set local role spine_service").await.unwrap();
    sqlx::query("select set_config('app.service_org', $1, true)")
        .bind(NORD.to_string())
        .execute(&mut *conn)
        .await
        .unwrap();
}

/// Has so many connections work the calls off at once. What each was answered, in the order of the calls.
async fn at_once<T: Send>(
    db: &TestDatabase,
    lanes: usize,
    calls: &[Call],
    work: impl AsyncFn(&mut PgConnection, &Call) -> T,
) -> Vec<T> {
    let next = Mutex::new(0..calls.len());
    let lane = async || {
        let mut conn = db.login().await;
        let mut told = Vec::new();
        while let Some(at) = { next.lock().unwrap().next() } {
            as_system(&mut conn).await;
            told.push((at, work(&mut conn, &calls[at]).await));
            conn.execute("commit").await.unwrap();
        }
        conn.close().await.unwrap();
        told
    };
    let mut told: Vec<_> = join_all((0..lanes).map(|_| lane())).await.into_iter().flatten().collect();
    told.sort_by_key(|(at, _)| *at);
    told.into_iter().map(|(_, told)| told).collect()
}

/// The reservation, if there was room; else the scope that had none.
async fn reserve(conn: &mut PgConnection, call: &Call) -> Result<Uuid, String> {
    let (id, scope): (Option<Uuid>, Option<String>) =
        sqlx::query_as("select reservation_id, reached_scope from app.reserve_usage($1, $2, $3, $4, $5, $6, $7)")
            .bind(call.job)
            .bind(call.agent)
            .bind(call.user)
            .bind(call.project)
            .bind(call.amounts[0])
            .bind(call.amounts[1])
            .bind(call.amounts[2])
            .fetch_one(conn)
            .await
            .unwrap();
    id.ok_or_else(|| scope.unwrap())
}

/// Checks every window against its limit, and against the reservations and calls that it counts.
async fn exact(db: &TestDatabase, when: &str) {
    let over = "select count(*) from agent_usage u
                 cross join lateral (select l.* from agent_limits l
                                      where (l.org_id, l.agent, l.scope, l.period) = (u.org_id, u.agent, u.scope, u.period)
                                        and (l.scope_id = u.scope_id or l.scope_id is null) order by l.scope_id nulls last limit 1) l
                 where u.used_requests + u.reserved_requests > l.max_requests or u.used_tokens + u.reserved_tokens > l.max_tokens
                    or u.used_cost_micro_usd + u.reserved_cost_micro_usd > l.max_cost_micro_usd";
    assert_eq!(db.count(over).await, 0, "{when}: a cap was exceeded");
    // Of a window of a minute only the present one can be told from the others.
    let wrong = "select count(*) from agent_usage u
                  cross join lateral (
                       select coalesce(sum(r.requests) filter (where r.state = 'active'), 0) as rr,
                              coalesce(sum(r.tokens) filter (where r.state = 'active'), 0) as rt,
                              coalesce(sum(r.cost_micro_usd) filter (where r.state = 'active'), 0) as rc,
                              coalesce(sum(r.requests) filter (where r.state = 'settled'), 0) as ur,
                              coalesce(sum(c.tokens), 0) as ut, coalesce(sum(c.cost_micro_usd), 0) as uc
                         from usage_reservations r
                         join jobs j on j.id = r.job_id
                         left join provider_calls c on c.reservation_id = r.id
                        where r.agent = u.agent
                          and case u.scope when 'agent' then true else (j.payload ->> u.scope)::uuid = u.scope_id end) x
                  where u.period = 'month'
                    and (u.reserved_requests, u.reserved_tokens, u.reserved_cost_micro_usd, u.used_requests, u.used_tokens, u.used_cost_micro_usd)
                        is distinct from (x.rr, x.rt, x.rc, x.ur, x.ut, x.uc)";
    assert_eq!(db.count(wrong).await, 0, "{when}: a window does not count what was reserved and used");
}

/// How many of these calls every window has room for, as limits and use stand: of each that was refused, some window must have less
/// room than it needs.
async fn fitting(db: &TestDatabase, calls: &[Call]) -> i64 {
    let calls: Vec<Value> = calls
        .iter()
        .map(|call| {
            let [requests, tokens, cost] = call.amounts;
            json!({ "agent": call.agent, "of": call.user, "project": call.project, "requests": requests, "tokens": tokens, "cost": cost })
        })
        .collect();
    sqlx::query_scalar(
        "select count(*) from jsonb_to_recordset($1) c (agent text, \"of\" uuid, project uuid, requests bigint, tokens bigint, cost bigint)
          where not exists (
                select from (values ('agent', $2::uuid), ('project', c.project), ('user', c.of)) s (scope, scope_id)
                 cross join lateral (
                      select distinct on (l.period) l.* from agent_limits l
                       where l.org_id = $2 and l.agent = c.agent and l.scope = s.scope and (l.scope_id = s.scope_id or l.scope_id is null)
                       order by l.period, l.scope_id nulls last) l
                  left join agent_usage u on u.org_id = $2 and u.agent = c.agent and u.scope = s.scope and u.scope_id = s.scope_id
                   and u.period = l.period and u.period_start = date_trunc(l.period, now(), 'UTC')
                 where s.scope_id is not null
                   and (coalesce(u.used_requests + u.reserved_requests, 0) + c.requests > l.max_requests
                        or coalesce(u.used_tokens + u.reserved_tokens, 0) + c.tokens > l.max_tokens
                        or coalesce(u.used_cost_micro_usd + u.reserved_cost_micro_usd, 0) + c.cost > l.max_cost_micro_usd))",
    )
    .bind(json!(calls))
    .bind(NORD)
    .fetch_one(&mut db.admin().await)
    .await
    .unwrap()
}

/// Ends a reservation, as work that succeeded (with a call that cost half of what was reserved) or failed.
async fn end(conn: &mut PgConnection, call: &Call, reservation: Uuid, succeeded: bool) -> bool {
    let ended = if succeeded { "app.settle_usage($1, $2)" } else { "app.refund_usage($1, 'refunded') and $2 > 0" };
    sqlx::query_scalar::<_, Option<bool>>(sqlx::AssertSqlSafe(format!("select {ended}")))
        .bind(reservation)
        .bind(call.amounts[0])
        .fetch_one(conn)
        .await
        .unwrap()
        == Some(true)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_at_once_exceed_no_cap_leave_none_unused_and_are_given_back_exactly() {
    for seed in sample((0..3).collect(), 1) {
        let mut random = StdRng::seed_from_u64(seed);
        let db = TestDatabase::new(Server::Postgres18).await;
        db.run("delete from agent_limits").await;
        tight(&db, &mut random).await;
        let all = calls(&db, &mut random, 1000).await;

        let answers = at_once(&db, 30, &all, reserve).await;
        exact(&db, &format!("seed {seed}, reserved")).await;
        let (mut held, mut refused) = (Vec::new(), Vec::new());
        for (call, answer) in all.iter().zip(answers) {
            match answer {
                Ok(id) => held.push((call.clone(), id)),
                Err(scope) => {
                    assert!(["agent", "project", "user"].contains(&scope.as_str()), "seed {seed}: {scope}");
                    refused.push(call.clone());
                }
            }
        }
        assert!(held.len() > 50 && refused.len() > 50, "seed {seed}: {} fitted", held.len());
        assert_eq!(fitting(&db, &refused).await, 0, "seed {seed}: room was left unused");

        // Half fails. Every end is told twice, at once, and counts once.
        for (at, (call, id)) in held.iter().enumerate() {
            sqlx::query(
                "insert into provider_calls (org_id, job_id, reservation_id, attempt, purpose, provider, model, finished_at, outcome, tokens, cost_micro_usd)
                 select $1, $2, $3, 1, 'test', 'anthropic', 'm', now(), 'ok', $4, $5 where $6",
            )
            .bind(NORD)
            .bind(call.job)
            .bind(id)
            .bind(call.amounts[1] / 2)
            .bind(call.amounts[2] / 2)
            .bind(at % 4 != 3)
            .execute(&mut db.admin().await)
            .await
            .unwrap();
        }
        let twice: Vec<Call> = held.iter().flat_map(|(call, _)| [call.clone(), call.clone()]).collect();
        let ends: std::collections::HashMap<Uuid, (Uuid, bool)> =
            held.iter().enumerate().map(|(at, (call, id))| (call.job, (*id, at % 2 == 0))).collect();
        let ended = at_once(&db, 30, &twice, async |conn: &mut PgConnection, call: &Call| {
            let (id, succeeded) = ends[&call.job];
            end(conn, call, id, succeeded).await
        })
        .await;
        assert_eq!(ended.iter().filter(|ended| **ended).count(), held.len(), "seed {seed}");
        exact(&db, &format!("seed {seed}, ended")).await;
        assert_eq!(db.count("select count(*) from usage_reservations where state = 'active'").await, 0);
        let reserved = "select coalesce(sum(reserved_requests + reserved_tokens + reserved_cost_micro_usd), 0)::bigint from agent_usage";
        assert_eq!(db.count(reserved).await, 0, "seed {seed}");

        // What was given back has room for others, and for no more than that.
        let answers = at_once(&db, 30, &refused, reserve).await;
        exact(&db, &format!("seed {seed}, reserved again")).await;
        let still: Vec<Call> =
            refused.iter().zip(&answers).filter(|(_, answer)| answer.is_err()).map(|(call, _)| call.clone()).collect();
        assert!(still.len() < refused.len(), "seed {seed}: nothing was given back");
        assert_eq!(fitting(&db, &still).await, 0, "seed {seed}: room was left unused");
    }
}

/// How a reservation ends.
const ENDS: [&[&str]; 4] = [
    &["app.settle_usage($1, $2)"],
    &["app.refund_usage($1, 'refunded') and $2 > 0"],
    &["app.refund_usage($1, 'expired') and $2 > 0"],
    &["app.refund_usage($1, 'expired') and $2 > 0", "app.settle_usage($1, $2)"],
];

/// What a call under the reservation is found to have cost: another answer than was believed, or one that came late.
async fn found_to_cost(conn: &mut PgConnection, reservation: Uuid, tokens: i64, cost: i64) {
    let found = "update provider_calls set tokens = $2, cost_micro_usd = $3 where reservation_id = $1";
    let done = sqlx::query(found).bind(reservation).bind(tokens).bind(cost).execute(conn).await.unwrap();
    assert_eq!(done.rows_affected(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_costs_counts_in_every_window_whenever_it_becomes_known() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run("delete from agent_limits").await;
    let mut random = StdRng::seed_from_u64(0);
    for (at, call) in calls(&db, &mut random, 48).await.iter().enumerate() {
        let mut conn = db.login().await;
        as_system(&mut conn).await;
        let id = reserve(&mut conn, call).await.unwrap();
        conn.execute("commit").await.unwrap();
        db.run(&format!(
            "update usage_reservations set expires_at = now() - interval '1 second' where id = '{id}';
             insert into provider_calls (org_id, job_id, reservation_id, attempt, purpose, provider, model, tokens, cost_micro_usd)
             values ('{NORD}', '{}', '{id}', 1, 'test', 'anthropic', 'm', {}, {})",
            call.job, call.amounts[1], call.amounts[2]
        ))
        .await;
        // Before each end, after it, and once more.
        let ends = ENDS[at % ENDS.len()];
        let (first, second) = (at / ENDS.len() % (ends.len() + 1), ends.len());
        for step in 0..=ends.len() {
            for _ in [first, second].iter().filter(|known| **known == step) {
                as_system(&mut conn).await;
                found_to_cost(&mut conn, id, random.random_range(0..=1800), random.random_range(0..=100_000)).await;
                conn.execute("commit").await.unwrap();
            }
            let Some(end) = ends.get(step) else { continue };
            as_system(&mut conn).await;
            let ended: Option<bool> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select {end}")))
                .bind(id)
                .bind(call.amounts[0])
                .fetch_one(&mut conn)
                .await
                .unwrap();
            assert_eq!(ended, Some(true), "{end}");
            conn.execute("commit").await.unwrap();
        }
        exact(&db, &format!("call {at}: {ends:?}, known at {first} and {second}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cost_that_becomes_known_while_its_reservation_ends_is_counted() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run("delete from agent_limits").await;
    let mut random = StdRng::seed_from_u64(1);
    for (call, ends) in calls(&db, &mut random, 3).await.iter().zip(ENDS) {
        let (mut late, mut ending) = (db.login().await, db.login().await);
        as_system(&mut late).await;
        let id = reserve(&mut late, call).await.unwrap();
        late.execute("commit").await.unwrap();
        db.run(&format!(
            "update usage_reservations set expires_at = now() - interval '1 second' where id = '{id}';
             insert into provider_calls (org_id, job_id, reservation_id, attempt, purpose, provider, model)
             values ('{NORD}', '{}', '{id}', 1, 'test', 'anthropic', 'm')",
            call.job
        ))
        .await;
        as_system(&mut late).await;
        found_to_cost(&mut late, id, 70, 7000).await;
        as_system(&mut ending).await;
        let end = sqlx::AssertSqlSafe(format!("select {}", ends[0]));
        let end =
            async { sqlx::query_scalar::<_, bool>(end).bind(id).bind(1_i64).fetch_one(&mut ending).await.unwrap() };
        // Either it waits for the cost, or the cost for it; this one has begun first.
        let (ended, ()) = tokio::join!(end, async {
            let waits = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')";
            let mut admin = db.admin().await;
            for _ in 0..2000 {
                if sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut admin).await.unwrap() {
                    break;
                }
            }
            late.execute("commit").await.unwrap();
        });
        assert!(ended, "{ends:?}");
        ending.execute("commit").await.unwrap();
        let spent =
            "select used_cost_micro_usd from agent_usage where scope = 'agent' and period = 'month' and agent = ";
        assert_eq!(db.count(&format!("{spent}'{}'", call.agent)).await, 7000, "{ends:?}");
        db.run("delete from agent_usage").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_near_is_told_once_and_shown_beside_its_use() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let admin = Actor::person(&ADAM);
    db.run("delete from agent_limits").await;
    let made = "insert into agent_limits (org_id, agent, scope, period, max_requests, max_tokens, warn_percent)
                values ('{NORD}', 'analyst', 'agent', 'month', 50, 1000000, 60)";
    db.change(&admin, &made.replace("{NORD}", &NORD.to_string())).await.unwrap();
    let mut random = StdRng::seed_from_u64(0);
    let mut all = calls(&db, &mut random, 50).await;
    for call in &mut all {
        (call.agent, call.amounts) = ("analyst", [1, 10, 0]);
    }
    let warnings = "select count(*) from audit_log where action = 'limit.near'";
    let state = async |actor: &Actor| {
        let asked = "select state, percent, used_requests + reserved_requests as requests, max_requests, warned_at is not null as warned
                       from usage_report where agent = 'analyst' and scope = 'agent'";
        db.ask(actor, asked).await.unwrap()
    };

    at_once(&db, 1, &all[..29], reserve).await;
    assert_eq!(db.count(warnings).await, 0);
    let ok = json!([{ "state": "ok", "percent": 58.0, "requests": 29, "max_requests": 50, "warned": false }]);
    assert_eq!(state(&admin).await, ok);

    // The thirtieth passes it, and whoever is there at that moment.
    let answers = at_once(&db, 15, &all[29..49], reserve).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(db.count(warnings).await, 1);
    let told = "select decision, resource_type, record_id from audit_log where action = 'limit.near'";
    let told = db.ask(&Actor::person(&OLGA), told).await.unwrap();
    assert_eq!(
        (&told[0]["resource_type"], &told[0]["record_id"], &told[0]["decision"]["percent"]),
        (&json!("agent_usage"), &json!(format!("analyst/agent/{NORD}/month")), &json!(60.0)),
        "{told}"
    );
    assert_eq!((&state(&admin).await[0]["state"], &state(&admin).await[0]["warned"]), (&json!("near"), &json!(true)));
    at_once(&db, 1, &all[49..], reserve).await;
    assert_eq!((&state(&admin).await[0]["state"], db.count(warnings).await), (&json!("reached"), 1));
    // Neither whoever may not see limits, nor another organisation.
    assert_eq!(state(&Actor::person(&SVEN)).await, json!([]));

    // A new window is told of anew, and the limit's change has its entry.
    db.run("update agent_usage set period_start = period_start - interval '1 month'").await;
    let more = calls(&db, &mut random, 1).await;
    let all = Call { agent: "analyst", amounts: [40, 0, 0], ..more[0].clone() };
    at_once(&db, 1, &[all], reserve).await;
    assert_eq!(db.count(warnings).await, 2);
    db.change(&admin, "update agent_limits set max_requests = 60, warn_percent = 90").await.unwrap();
    assert_eq!(state(&admin).await[0]["state"], "ok");
    let told = "select action from audit_log where resource_type = 'agent_limits' order by id";
    let told = db.ask(&Actor::person(&OLGA), told).await.unwrap();
    assert!(told.as_array().is_some_and(|told| told.len() >= 2), "{told}");
    // Of a claim that is too large for what is left, too; and again once the limit is another.
    db.run(&format!(
        "delete from agent_limits; insert into agent_limits (org_id, agent, scope, period, max_requests) values ('{NORD}', 'renderer', 'agent', 'month', 100)"
    ))
    .await;
    let before = db.count(warnings).await;
    let reached = "select count(*) from audit_log where action = 'limit.reached'";
    let claim = async |requests: i64| {
        let call = Call {
            agent: "renderer",
            amounts: [requests, 0, 0],
            ..calls(&db, &mut StdRng::seed_from_u64(1), 1).await[0].clone()
        };
        at_once(&db, 1, &[call], reserve).await.remove(0).is_ok()
    };
    // What no window has room for is no limit's fault.
    assert!(claim(75).await && !claim(101).await);
    assert_eq!((db.count(warnings).await, db.count(reached).await), (before, 0));
    assert!(!claim(30).await && !claim(30).await);
    assert_eq!((db.count(warnings).await, db.count(reached).await), (before, 1));
    assert!(claim(10).await);
    assert_eq!((db.count(warnings).await, db.count(reached).await), (before + 1, 1));
    db.change(&admin, "update agent_limits set max_requests = 110").await.unwrap();
    assert!(claim(20).await);
    assert_eq!(db.count(warnings).await, before + 2);

    // Whoever means no limit by the largest number is not refused for it.
    let largest = i64::MAX;
    let change = format!(
        "update agent_limits set max_requests = {largest}, max_tokens = {largest}, max_cost_micro_usd = {largest}"
    );
    db.change(&admin, &change).await.unwrap();
    assert!(claim(1).await);
    let refused = db.change(&admin, "update agent_limits set warn_percent = 0").await;
    assert_eq!(refused.unwrap_err().state, "23514");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_wait_for_each_other_are_both_answered() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(&format!(
        "delete from agent_limits;
         insert into agent_limits (org_id, agent, scope, period, max_requests) values
             ('{NORD}', 'analyst', 'agent', 'minute', 1000), ('{NORD}', 'analyst', 'agent', 'month', 1000);
         insert into agent_usage (org_id, agent, scope, scope_id, period, period_start)
         values ('{NORD}', 'analyst', 'agent', '{NORD}', 'month', date_trunc('month', now(), 'UTC'))"
    ))
    .await;
    let mut both = calls(&db, &mut StdRng::seed_from_u64(0), 2).await;
    for call in &mut both {
        (call.agent, call.user, call.project) = ("analyst", None, None);
    }
    let (one, other) = (both[0].clone(), both[1].clone());
    // What a refund holds, whose reservation anew then wants the minute.
    let mut refunding = db.admin().await;
    refunding.execute("begin").await.unwrap();
    refunding.execute("select from agent_usage where period = 'month' for update").await.unwrap();
    refunding.execute("set local role spine_service").await.unwrap();
    sqlx::query("select set_config('app.service_org', $1, true)")
        .bind(NORD.to_string())
        .execute(&mut refunding)
        .await
        .unwrap();
    let mut waiting = db.login().await;
    let pid = integration_tests::acting::pid(&mut waiting).await;
    let waits = tokio::spawn(async move {
        as_system(&mut waiting).await;
        let told = reserve(&mut waiting, &other).await;
        waiting.execute("commit").await.unwrap();
        told
    });
    db.until_blocked(pid).await;
    let told = reserve(&mut refunding, &one).await;
    refunding.execute("commit").await.unwrap();
    let other = waits.await.unwrap();
    let limiter = |told: &Result<Uuid, String>| told.as_ref().is_err_and(|scope| scope == "limiter");
    assert!(limiter(&told) || limiter(&other), "{told:?} {other:?}");
    assert!(told.is_ok() || other.is_ok(), "{told:?} {other:?}");
}

/// Keeps a window of this agent from everybody else, until the connection ends.
async fn hold(app: &TestApp, agent: &str) -> PgConnection {
    app.db
        .run(&format!(
            "insert into agent_usage (org_id, agent, scope, scope_id, period, period_start)
             values ('{NORD}', '{agent}', 'agent', '{NORD}', 'month', date_trunc('month', now(), 'UTC')) on conflict do nothing"
        ))
        .await;
    let mut conn = app.db.admin().await;
    conn.execute("begin; select from agent_usage for update").await.unwrap();
    conn
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_limiter_does_not_answer_no_model_is_called_and_each_agent_does_what_it_is_documented_to() {
    let app = TestApp::start().await;
    app.db
        .run(&format!(
            "delete from agent_limits;
             insert into lead_assignment_settings (org_id, ai_bound) values ('{NORD}', 10);
             insert into lead_capacity (org_id, user_id, max_open) values ('{NORD}', '{}', 5);
             insert into leads (org_id, client_name, created_at)
             select '{NORD}', 'n', date_trunc('week', now(), 'UTC') - interval '1 week' + interval '1 hour' from generate_series(1, 6)",
            SVEN.id
        ))
        .await;
    let (dora, olga) = (app.token(&DORA), app.token(&OLGA));

    // The renderer waits, and loses no attempt.
    let held = hold(&app, "renderer").await;
    let render = app.request_render(&dora, LAKESIDE).await.expect(202);
    assert_eq!(render["waiting"]["reason"], "limiter_unavailable", "{render}");
    assert_eq!(app.db.count("select count(*) from usage_reservations").await, 0);
    held.close().await.unwrap();
    // The analyst waits too; meanwhile the figures are told by template.
    let held = hold(&app, "analyst").await;
    app.post("/v1/insights/leads", &olga, &json!({ "period": "week" })).await.expect(202);
    app.stack.insights.drained().await;
    let shown = &app.get("/v1/insights/leads", &olga).await.expect(200)["insights"][0];
    assert_eq!((&shown["served_by"], &shown["pending"]), (&json!("default_template"), &json!(true)), "{shown}");
    assert_eq!(app.db.count("select attempts::bigint from jobs where job_type = 'insight'").await, 0);
    held.close().await.unwrap();
    // Leads are assigned by rules.
    let held = hold(&app, "lead_assigner").await;
    let lead: String = app.db.ask(&Actor::person(&OLGA), "select id from leads limit 1").await.unwrap()[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let job = app.post(&format!("/v1/leads/{lead}/assign"), &olga, &json!({})).await.expect(202);
    app.stack.leads.drained().await;
    let job = app.get(job["job"]["href"].as_str().unwrap(), &olga).await.expect(200);
    let told = &job["result"];
    assert_eq!(
        (&told["served_by"], &told["instead_because"]),
        (&json!("rules"), &json!("limiter_unavailable")),
        "{job}"
    );
    held.close().await.unwrap();

    assert!(app.stack.sandbox.anthropic.asked().is_empty() && app.stack.sandbox.gemini.asked().is_empty());
    let logs = app.logs();
    for agent in ["renderer", "analyst", "lead_assigner"] {
        let metric = logs.lines().any(|line| line.contains("LimiterUnavailable") && line.contains(agent));
        assert!(metric && logs.contains("the limiter did not answer in time"), "{agent}: {logs}");
    }
    // It answers again, and all that waited is done.
    app.a_minute_passes().await;
    app.stack.insights.drained().await;
    assert_eq!(app.finished(&dora, render["id"].as_str().unwrap()).await["status"], "completed");
    let shown = &app.get("/v1/insights/leads", &olga).await.expect(200)["insights"][0];
    assert_eq!(shown["served_by"], "model", "{shown}");
}
