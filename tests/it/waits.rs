//! What waits for a limit or a switch goes on when that is changed, within one sweep, and nothing else does.

use chrono::{DateTime, Utc};
use integration_tests::{
    Server, TestApp, TestDatabase,
    acting::Actor,
    people::{ADAM, BRICK, DAN, DORA, HARBOUR, LAKESIDE, NORD, OLGA, Person},
};
use reqwest::Method;
use sandbox::Calls;
use serde_json::{Value, json};
use sqlx::Executor;
use uuid::Uuid;

/// Where a job of a render stands.
#[derive(Debug, Clone, PartialEq)]
struct Stands {
    run_after: DateTime<Utc>,
    waiting: Option<Value>,
    attempts: i32,
}

async fn stands(app: &TestApp, render: &Value) -> Stands {
    let id: Uuid = render["job"]["id"].as_str().unwrap().parse().unwrap();
    let (run_after, waiting, attempts) =
        sqlx::query_as("select run_after, wait_reason, attempts from jobs where id = $1 and status = 'queued'")
            .bind(id)
            .fetch_one(&mut app.db.admin().await)
            .await
            .unwrap();
    Stands { run_after, waiting, attempts }
}

/// Both organisations' renderers may do one thing a month, for each of this scope, and have done it.
async fn used_up(app: &TestApp, scope: &str) {
    app.db
        .run(&format!(
            "delete from agent_limits;
             insert into agent_limits (org_id, agent, scope, period, max_requests)
             select id, 'renderer', '{scope}', 'month', 1 from organizations union all
             select id, 'analyst', '{scope}', 'month', 1 from organizations;
             insert into agent_usage (org_id, agent, scope, scope_id, period, period_start, used_requests)
             select o.org::uuid, 'renderer', s.scope, s.id::uuid, p.period, date_trunc(p.period, now(), 'UTC'), 1
               from (values ('{NORD}', '{DORA}', '{LAKESIDE}'), ('{BRICK}', '{DAN}', '{HARBOUR}')) o (org, person, project)
              cross join lateral (values ('agent', o.org), ('user', o.person), ('project', o.project)) s (scope, id)
              cross join (values ('day'), ('month')) p (period)
                 on conflict (org_id, agent, scope, scope_id, period, period_start) do update set used_requests = 1",
            DORA = DORA.id,
            DAN = DAN.id
        ))
        .await;
}

/// A render that waits, as it was answered.
async fn held(app: &TestApp, person: &Person, project: Uuid, reason: &str) -> Value {
    let render = app.request_render(&app.token(person), project).await.expect(202);
    assert_eq!(render["waiting"]["reason"], reason, "{render}");
    render
}

#[tokio::test(flavor = "multi_thread")]
async fn seven_renders_that_a_limit_holds_are_made_once_it_is_raised_or_deleted() {
    let app = TestApp::start().await;
    let owner = Actor::person(&OLGA);
    for change in ["update public.agent_limits set max_requests = 100", "delete from public.agent_limits"] {
        used_up(&app, "agent").await;
        let mut renders = Vec::new();
        for _ in 0..7 {
            renders.push(held(&app, &DORA, LAKESIDE, "limit").await);
        }
        app.db.change(&owner, change).await.unwrap();
        assert_eq!(app.stack.sweep().await.unwrap()["jobs_released"], 7, "{}", app.logs());
        for render in renders {
            let made = app.finished(&app.token(&DORA), render["id"].as_str().unwrap()).await;
            assert_eq!((&made["status"], &made["waiting"]), (&json!("completed"), &Value::Null), "{change}: {made}");
        }
        // A wait costs no attempt.
        assert_eq!(app.db.count("select max(attempts)::bigint from jobs").await, 1);
        assert_eq!(app.stack.sweep().await.unwrap()["jobs_released"], 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_the_limit_that_a_job_waits_for_releases_it_and_no_other() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    let (ours, brick) =
        (format!("org_id = '{NORD}' and agent = 'renderer'"), format!("org_id = '{BRICK}' and agent = 'renderer'"));
    for (scope, own, other) in [("user", DORA.id, "project"), ("project", LAKESIDE, "agent"), ("agent", NORD, "user")] {
        let except = |whose: Uuid| {
            format!(
                "insert into agent_limits (org_id, agent, scope, scope_id, period, max_requests) values ('{NORD}', 'renderer', '{scope}', '{whose}', 'month', 5)"
            )
        };
        // Whether ours goes on, and Brick & Beam's.
        let cases = [
            ("nothing happens", "select".to_owned(), [false, false]),
            ("raised", format!("update agent_limits set max_requests = 2 where {ours}"), [true, false]),
            ("of another kind", format!("update agent_limits set max_requests = null, max_tokens = 1 where {ours}"), [true, false]),
            ("lowered", format!("update agent_limits set max_requests = 0 where {ours}"), [true, false]),
            ("deleted", format!("delete from agent_limits where {ours}"), [true, false]),
            ("made again", format!("with gone as (delete from agent_limits where {ours} returning *)
                                    insert into agent_limits (org_id, agent, scope, period, max_requests) select org_id, agent, scope, 'month', 1 from gone"), [true, false]),
            ("an exception of this one", except(own), [true, false]),
            ("an exception of another", except(Uuid::from_u128(9)), [false, false]),
            ("of another period", format!("update agent_limits set period = 'day' where {ours}"), [true, false]),
            ("of another scope", format!("update agent_limits set scope = '{other}' where {ours}"), [true, false]),
            ("another warning", "update agent_limits set warn_percent = 50".to_owned(), [false, false]),
            ("another agent's deleted", "delete from agent_limits where agent = 'analyst'".to_owned(), [false, false]),
            ("another organisation's raised", format!("update agent_limits set max_requests = 2 where {brick}"), [false, true]),
            ("all deleted", "delete from agent_limits".to_owned(), [true, true]),
        ];
        for (what, change, goes_on) in cases {
            used_up(&app, scope).await;
            let renders = [held(&app, &DORA, LAKESIDE, "limit").await, held(&app, &DAN, HARBOUR, "limit").await];
            let before = [stands(&app, &renders[0]).await, stands(&app, &renders[1]).await];
            app.db.run(&change).await;
            let begun = Utc::now();
            let released = app.stack.sweep().await.unwrap()["jobs_released"].clone();
            let ended = Utc::now();
            for ((render, before), goes_on) in renders.iter().zip(before).zip(goes_on) {
                let now = stands(&app, render).await;
                if goes_on {
                    assert!((begun..=ended).contains(&now.run_after), "{scope}, {what}: {now:?}");
                    assert_eq!((now.waiting, now.attempts), (None, 0), "{scope}, {what}");
                } else {
                    assert_eq!(now, before, "{scope}, {what}");
                    let month = "select (date_trunc('month', now(), 'UTC') + interval '1 month') = $1";
                    let asked = sqlx::query_scalar::<_, bool>(month).bind(now.run_after);
                    assert!(asked.fetch_one(&mut app.db.admin().await).await.unwrap(), "{scope}, {what}: {now:?}");
                }
            }
            assert_eq!(released, goes_on.iter().filter(|goes_on| **goes_on).count(), "{scope}, {what}");
            for (render, person) in renders.iter().zip([&DORA, &DAN]) {
                app.send_cancel(render, &app.token(person)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_still_has_no_room_holds_a_released_job_again_at_no_cost() {
    let app = TestApp::start().await;
    used_up(&app, "user").await;
    let render = held(&app, &DORA, LAKESIDE, "limit").await;
    // A second limit, which nobody saw so far, stands in the way too.
    app.db
        .run(&format!(
            "delete from agent_limits where scope = 'user';
             insert into agent_limits (org_id, agent, scope, period, max_requests) values ('{NORD}', 'renderer', 'project', 'day', 1)"
        ))
        .await;
    app.stack.sweep().await.unwrap();
    app.stack.renders.drained().await;
    let now = stands(&app, &render).await;
    let waiting = now.waiting.clone().unwrap();
    assert_eq!(
        (&waiting["reason"], &waiting["scope"], now.attempts),
        (&json!("limit"), &json!("project"), 0),
        "{waiting}"
    );
    let day = "select (date_trunc('day', now(), 'UTC') + interval '1 day') = $1";
    assert!(sqlx::query_scalar::<_, bool>(day).bind(now.run_after).fetch_one(&mut app.db.admin().await).await.unwrap());
    // It is looked at once for a change, and not every minute.
    assert_eq!(app.stack.sweep().await.unwrap()["jobs_released"], 0);
    assert_eq!(stands(&app, &render).await, now);
    app.db.run("delete from agent_limits").await;
    app.stack.sweep().await.unwrap();
    assert_eq!(app.finished(&app.token(&DORA), render["id"].as_str().unwrap()).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_goes_while_a_job_is_being_made_to_wait_for_it_is_not_missed() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let job = Uuid::now_v7();
    db.run(&format!(
        "delete from agent_limits;
         insert into jobs (id, org_id, job_type) values ('{job}', '{NORD}', 'render');
         insert into agent_limits (org_id, agent, scope, period, max_requests) values ('{NORD}', 'renderer', 'agent', 'month', 1);
         insert into agent_usage (org_id, agent, scope, scope_id, period, period_start, used_requests)
         values ('{NORD}', 'renderer', 'agent', '{NORD}', 'month', date_trunc('month', now(), 'UTC'), 1)"
    ))
    .await;
    let released = async || {
        let system = Actor::role("spine_service");
        db.ask(&system, "select app.release_waiting_jobs() as released").await.unwrap()[0]["released"].clone()
    };
    // Refused, and not yet written down, when somebody deletes the limit and a sweep passes.
    let mut refused = db.begin_as(&Actor::service(NORD)).await;
    let wait: Value = sqlx::query_scalar(
        "select jsonb_build_object('reason', 'limit', 'scope', r.reached_scope, 'until', r.opens_at, 'limit', r.reached_limit)
           from app.reserve_usage($1, 'renderer', null, null, 1, 0, 0) r",
    )
    .bind(job)
    .fetch_one(&mut refused)
    .await
    .unwrap();
    db.change(&Actor::person(&OLGA), "delete from public.agent_limits").await.unwrap();
    assert_eq!(released().await, 0);
    sqlx::query("select app.postpone_job($1, now() + interval '1 day', $2)")
        .bind(job)
        .bind(&wait)
        .execute(&mut refused)
        .await
        .unwrap();
    refused.execute("commit").await.unwrap();
    assert_eq!(released().await, 1, "{wait}");
    // Nobody but the system lets jobs run.
    for role in ["anon", "authenticated", "spine_caller", "spine_agent"] {
        let refusal = db.ask(&Actor::role(role), "select app.release_waiting_jobs()").await.unwrap_err();
        assert_eq!(refusal.state, "42501", "{role}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_provider_is_no_limits_business() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    used_up(&app, "agent").await;
    app.db.run("update agent_limits set max_requests = 50").await;
    app.stack.fault("gemini", "day-quota", Calls::Every).unwrap();
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    app.stack.renders.drained().await;
    let quota = stands(&app, &render).await;
    assert_eq!(quota.waiting.as_ref().unwrap()["reason"], "provider_quota_spent");
    // Nor is one that is tried again in a while.
    app.stack.fault("gemini", "none", Calls::Every).unwrap();
    app.stack.fault("gemini", "overloaded", Calls::Every).unwrap();
    let later = app.request_render(&token, LAKESIDE).await.expect(202);
    app.stack.renders.drained().await;
    app.db
        .run("update jobs set run_after = now() + interval '1 hour' where wait_reason is null and status = 'queued'")
        .await;
    let backs_off = stands(&app, &later).await;
    assert_eq!((&backs_off.waiting, backs_off.attempts), (&None, 1));

    app.db.run("delete from agent_limits").await;
    assert_eq!(app.stack.sweep().await.unwrap()["jobs_released"], 0);
    for (render, before) in [(&render, quota), (&later, backs_off)] {
        assert_eq!(stands(&app, render).await, before);
        // Nor does asking again make the provider's day shorter.
        let path = format!("/v1/render-requests/{}/process", render["id"].as_str().unwrap());
        app.send(Method::POST, &path, &token, None).await.expect(202);
        assert_eq!(stands(&app, render).await, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processing_a_render_again_asks_its_limit_again() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    used_up(&app, "user").await;
    let render = held(&app, &DORA, LAKESIDE, "limit").await;
    let path = format!("/v1/render-requests/{}/process", render["id"].as_str().unwrap());
    let process = async |person: &Person| app.send(Method::POST, &path, &app.token(person), None).await;
    // It still has no room, and says so.
    let still = process(&DORA).await;
    assert!(still.headers.contains_key("retry-after"));
    let still = still.expect(202);
    assert_eq!((&still["status"], &still["waiting"]), (&json!("queued"), &render["waiting"]));
    let before = stands(&app, &render).await;
    // Now something else is in the way.
    app.db.run("update agent_limits set period = 'day'").await;
    let waiting = process(&DORA).await.expect(202)["waiting"].clone();
    let until: DateTime<Utc> = waiting["until"].as_str().unwrap().parse().unwrap();
    assert!(until <= before.run_after && until == stands(&app, &render).await.run_after, "{waiting}");
    // Too small for it ever.
    app.db.run("update agent_limits set max_requests = 0").await;
    process(&DORA).await.expect_error(422, "limit_too_small");
    assert_eq!(stands(&app, &render).await.waiting.unwrap()["until"], waiting["until"]);

    app.db.run("update agent_limits set max_requests = 2").await;
    let answer = process(&DORA).await.expect(202);
    assert_eq!(answer["waiting"], Value::Null, "{answer}");
    assert_eq!(app.finished(&token, render["id"].as_str().unwrap()).await["status"], "completed", "{}", app.logs());

    // Somebody who may see it has it looked at, and it counts for whose it is.
    used_up(&app, "user").await;
    let render = held(&app, &DORA, LAKESIDE, "limit").await;
    let path = format!("/v1/render-requests/{}/process", render["id"].as_str().unwrap());
    app.db.run("update agent_limits set max_requests = 2").await;
    let answer = app.send(Method::POST, &path, &app.token(&ADAM), None).await.expect(202);
    assert_eq!(answer["waiting"], Value::Null, "{answer}");
    assert_eq!(app.finished(&token, render["id"].as_str().unwrap()).await["status"], "completed", "{}", app.logs());
    let used = "select jsonb_object_agg(scope_id, used_requests) from agent_usage where scope = 'user' and period = 'month' and used_requests > 0 and org_id = $1";
    let used: Value = sqlx::query_scalar(used).bind(NORD).fetch_one(&mut app.db.admin().await).await.unwrap();
    assert_eq!(used, json!({ DORA.id.to_string(): 2 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_a_limit_held_in_the_middle_goes_on_too_and_counts() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    // Room for one call, and for no other after one that was paid for in vain, by the cheaper model either.
    app.db
        .run(&format!(
            "delete from agent_limits;
             insert into agent_limits (org_id, agent, scope, period, max_cost_micro_usd) values ('{NORD}', 'renderer', 'agent', 'day', 90000)"
        ))
        .await;
    app.stack.fault("gemini", "wrong-shape", Calls::Number(1)).unwrap();
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    let shown = app.finished(&token, render["id"].as_str().unwrap()).await;
    assert_eq!((&shown["status"], &shown["waiting"]["reason"]), (&json!("queued"), &json!("limit")), "{shown}");
    assert_eq!(stands(&app, &render).await.attempts, 1);
    app.db.run("update agent_limits set max_cost_micro_usd = 1000000").await;
    assert_eq!(app.stack.sweep().await.unwrap()["jobs_released"], 1);
    app.stack.renders.drained().await;
    app.made_exactly_once(NORD, render["id"].as_str().unwrap())
        .await
        .unwrap_or_else(|wrong| panic!("{wrong} {}", app.logs()));
    assert_eq!(app.db.count("select attempts::bigint from jobs").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insight_that_a_limit_holds_goes_on_when_it_is_raised_or_when_somebody_asks_again() {
    let app = TestApp::start().await;
    let olga = app.token(&OLGA);
    app.db
        .run(
            "insert into leads (org_id, client_name, created_at)
             select o.id, 'n', date_trunc('week', now(), 'UTC') - w * interval '1 week' + interval '1 hour' from organizations o, generate_series(1, 9) w, generate_series(1, 6);
             delete from agent_limits;
             insert into agent_limits (org_id, agent, scope, period, max_requests) select id, 'analyst', 'agent', 'hour', 1 from organizations;
             -- Whenever the hour turns.
             insert into agent_usage (org_id, agent, scope, scope_id, period, period_start, used_requests)
             select id, 'analyst', 'agent', id, 'hour', date_trunc('hour', now(), 'UTC') + n * interval '1 hour', 1 from organizations, generate_series(0, 1) n",
        )
        .await;
    let theirs = app.token(&integration_tests::people::OSCAR);
    let ask = async |token: &str, period: &str| {
        app.post("/v1/insights/leads", token, &json!({ "period": period })).await.expect(202)
    };
    ask(&olga, "week").await;
    ask(&theirs, "week").await;
    app.stack.insights.drained().await;
    let waits = async |org: Uuid| -> Vec<(DateTime<Utc>, Value)> {
        let query = "select run_after, wait_reason from jobs where job_type = 'insight' and status = 'queued' and wait_reason is not null and org_id = $1";
        sqlx::query_as(query).bind(org).fetch_all(&mut app.db.admin().await).await.unwrap()
    };
    let before = [waits(NORD).await, waits(BRICK).await];
    for waits in &before {
        assert_eq!((waits.len(), &waits[0].1["reason"], &waits[0].1["scope"]), (1, &json!("limit"), &json!("agent")));
    }
    assert_eq!(app.stack.sweep().await.unwrap()["jobs_released"], 0);
    // Asked again, it is looked at, and waits again.
    ask(&olga, "week").await;
    app.stack.insights.drained().await;
    assert_eq!(waits(NORD).await.len(), 1);
    assert_eq!(app.db.count("select max(attempts)::bigint from jobs").await, 0);

    app.db.run(&format!("update agent_limits set max_requests = 5 where org_id = '{NORD}'")).await;
    assert_eq!(app.stack.sweep().await.unwrap()["jobs_released"], 1);
    app.stack.insights.drained().await;
    let shown = app.get("/v1/insights/leads", &olga).await.expect(200);
    assert_eq!(shown["insights"][0]["served_by"], "model", "{shown} {}", app.logs());
    assert_eq!([waits(NORD).await, waits(BRICK).await], [Vec::new(), before[1].clone()]);
    // No sweep is needed where somebody asks.
    app.db.run("delete from agent_limits").await;
    ask(&theirs, "week").await;
    app.stack.insights.drained().await;
    let shown = app.get("/v1/insights/leads", &theirs).await.expect(200);
    assert_eq!(shown["insights"][0]["served_by"], "model", "{shown} {}", app.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_switch_has_paused_goes_on_at_the_first_sweep_after_it_is_on() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    app.stack.renders.pause();
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    let switch = async |to: bool, key: &str| {
        app.db.run(&format!("update system_settings set value = '{to}' where key = '{key}'")).await;
    };
    switch(false, "renders.enabled").await;
    app.stack.renders.resume();
    app.stack.renders.drained().await;
    let paused = stands(&app, &render).await;
    assert_eq!(paused.waiting.as_ref().unwrap()["reason"], "paused");
    assert!(paused.run_after > Utc::now());
    // While it is off, and while another is on, it waits.
    switch(false, "leads.enabled").await;
    switch(true, "leads.enabled").await;
    assert_eq!(app.stack.sweep().await.unwrap()["jobs_released"], 0);
    assert_eq!(stands(&app, &render).await, paused);
    switch(true, "renders.enabled").await;
    assert_eq!(app.stack.sweep().await.unwrap()["jobs_released"], 1);
    assert_eq!(app.finished(&token, render["id"].as_str().unwrap()).await["status"], "completed", "{}", app.logs());
}
