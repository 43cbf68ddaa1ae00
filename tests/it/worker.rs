//! What a worker does for every kind of work, seen through each function that has one: attempts, cancellation, switches, leases, lost calls,
//! reservations, and the row that a failure leaves.
//!
//! Each test does the same to a job of every kind, in one back office, and names the kinds for which it did not hold.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use integration_tests::{
    TestApp,
    acting::Actor,
    people::{BRICK, DORA, LAKESIDE, NORD, OLGA, OSCAR, SVEN},
    render_body, small_photo,
};
use sandbox::Calls;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::{assign, insights};

/// A kind of job, by the function that works on it. Stripe's has two kinds here that ask nothing of Stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Render,
    Insight,
    Lead,
    StripeClaim,
    StripePlan,
}

const ALL: [Kind; 5] = [Kind::Render, Kind::Insight, Kind::Lead, Kind::StripeClaim, Kind::StripePlan];
/// Those that a model works for.
const PAID: [Kind; 3] = [Kind::Render, Kind::Insight, Kind::Lead];

impl Kind {
    const fn job_type(self) -> &'static str {
        match self {
            Self::Render => "render",
            Self::Insight => "insight",
            Self::Lead => "lead_assign",
            Self::StripeClaim => "stripe_claim",
            Self::StripePlan => "stripe_plan",
        }
    }

    /// A new job that no worker has looked at. Its queue is paused.
    async fn admitted(self, app: &TestApp) -> Uuid {
        let admitted = match self {
            Self::Render => {
                app.stack.renders.pause();
                let token = app.token(&DORA);
                let upload = app.upload(&token, &small_photo()).await;
                app.post("/v1/render-requests", &token, &render_body(LAKESIDE, upload)).await.expect(202)
            }
            Self::Insight => {
                app.stack.insights.pause();
                // Other figures, and so another insight.
                insights::leads(app, NORD, 1, "new", "website", None, 1).await;
                insights::ask(app, &OLGA, "leads", "week").await.expect(202)
            }
            Self::Lead => {
                app.stack.leads.pause();
                let number = 1 + u128::try_from(app.db.count("select count(*) from jobs").await).unwrap();
                assign::come(&app.db, number, 1).await;
                assign::ask(app, &app.token(&OLGA), assign::lead(number)).await.expect(202)
            }
            Self::StripeClaim | Self::StripePlan => {
                let id = Uuid::now_v7();
                let job_type = self.job_type();
                app.db
                    .run(&format!("insert into jobs (id, org_id, job_type) values ('{id}', '{NORD}', '{job_type}')"))
                    .await;
                return id;
            }
        };
        admitted["job"]["id"].as_str().unwrap().parse().unwrap()
    }

    /// Has a worker look at what is due.
    async fn work(self, app: &TestApp) {
        let queue = match self {
            Self::Render => &app.stack.renders,
            Self::Insight => &app.stack.insights,
            Self::Lead => &app.stack.leads,
            Self::StripeClaim | Self::StripePlan => {
                app.stack.reconcile().await.unwrap();
                return;
            }
        };
        queue.resume();
        queue.drained().await;
    }
}

/// A back office in which every kind of job has something to do.
async fn office() -> TestApp {
    let app = TestApp::start().await;
    app.db.run("delete from agent_limits").await;
    assign::takes(&app.db, &SVEN, 1000).await;
    assign::set(&app.db, "ai_bound", "10").await;
    insights::a_quarter(&app).await;
    app
}

/// Checks it of each kind, and names all for which it does not hold.
async fn each(kinds: &[Kind], check: impl AsyncFn(&TestApp, Kind)) {
    let app = office().await;
    let mut wrong = Vec::new();
    for kind in kinds {
        if AssertUnwindSafe(check(&app, *kind)).catch_unwind().await.is_err() {
            wrong.push(*kind);
        }
        app.db.run("drop function if exists public.meanwhile() cascade").await;
    }
    assert!(wrong.is_empty(), "it does not hold of {wrong:?}; their failures are above\n{}", app.logs());
}

/// One JSON value, asked as superuser.
async fn value(app: &TestApp, query: &str) -> Value {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut app.db.admin().await).await.unwrap()
}

/// The job's row.
async fn row(app: &TestApp, job: Uuid) -> Value {
    value(app, &format!("select to_jsonb(j) from jobs j where id = '{job}'")).await
}

/// What `error_logs` says of the job, as those read it who may.
async fn logged(app: &TestApp, job: Uuid) -> Value {
    let rows = format!("select service, error_message from public.error_logs where error_message like '%{job}%'");
    app.db.ask(&Actor::person(&OLGA), &rows).await.unwrap()
}

/// How often models were asked.
fn asked(app: &TestApp) -> usize {
    app.stack.sandbox.anthropic.asked().len() + app.stack.sandbox.gemini.asked().len()
}

/// States of the job's reservations, the oldest first.
async fn reservations(app: &TestApp, job: Uuid) -> Value {
    let states = "select coalesce(jsonb_agg(state order by created_at, id), '[]') from usage_reservations";
    value(app, &format!("{states} where job_id = '{job}'")).await
}

/// Has the job hold a reservation, if it holds none.
async fn reserve(app: &TestApp, job: Uuid) {
    let mut service = app.db.begin_as(&Actor::service(NORD)).await;
    let reserve = format!("select app.reserve_usage('{job}', 'renderer', null, null, 1, 10, 10)");
    service.execute(AssertSqlSafe(reserve)).await.unwrap();
    service.execute("commit").await.unwrap();
    assert_eq!(reservations(app, job).await, json!(["active"]));
}

/// Has somebody change the job between the transaction that claims it and the worker's next one.
async fn meanwhile(app: &TestApp, change: &str) {
    app.db
        .run(&format!(
            "create function public.meanwhile() returns trigger language plpgsql security definer as $$
             begin
                 if old.status = 'queued' and new.status = 'running' then
                     update public.jobs set {change} where id = new.id and status = 'running';
                 end if;
                 return null;
             end $$;
             create constraint trigger meanwhile after update on public.jobs deferrable initially deferred
                 for each row execute function public.meanwhile()"
        ))
        .await;
}

/// As after a worker that died in the first attempt.
async fn left_by_a_dead_worker(app: &TestApp, job: Uuid) {
    app.db
        .run(&format!(
            "update jobs set status = 'running', attempts = 1, lease_token = gen_random_uuid(), lease_until = now() - interval '1 second'
              where id = '{job}'"
        ))
        .await;
}

/// The row that a failed job leaves: codes and ids.
fn failed(service: &str, job: Uuid, kind: Kind, attempt: u32, most: &Value, code: &str) -> Value {
    let message = format!("The job {job} ({}) failed in attempt {attempt} of {most}: {code}.", kind.job_type());
    json!([{ "service": service, "error_message": message }])
}

impl Kind {
    const fn service(self) -> &'static str {
        match self {
            Self::Render => "process_render_request",
            Self::Insight => "generate_ai_insights",
            Self::Lead => "assign_leads",
            Self::StripeClaim | Self::StripePlan => "stripe_webhook",
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_attempt_of_a_job_is_made() {
    each(&ALL, async |app, kind| {
        let (job, before) = (kind.admitted(app).await, asked(app));
        app.db.run(&format!("update jobs set attempts = max_attempts - 1 where id = '{job}'")).await;
        kind.work(app).await;
        let row = row(app, job).await;
        assert_eq!((&row["status"], &row["attempts"]), (&json!("succeeded"), &row["max_attempts"]), "{row}");
        // By a model, where its work needs one and the organisation has it ask one.
        assert_eq!(row["result"]["instead_because"], Value::Null, "{row}");
        assert_eq!(asked(app) > before, PAID.contains(&kind), "{row}");
        assert_eq!(logged(app, job).await, json!([]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_attempts_are_spent_is_not_tried_once_more() {
    each(&ALL, async |app, kind| {
        let (job, before) = (kind.admitted(app).await, asked(app));
        app.db.run(&format!("update jobs set attempts = max_attempts where id = '{job}'")).await;
        kind.work(app).await;
        let row = row(app, job).await;
        assert_eq!(asked(app), before, "{row}");
        if kind == Kind::Insight {
            // The template serves without another try.
            let seen = (&row["status"], &row["result"]["instead_because"]);
            assert_eq!(seen, (&json!("succeeded"), &json!("attempts_exhausted")), "{row}");
            assert_eq!(logged(app, job).await, json!([]));
        } else {
            let seen = (&row["status"], &row["last_error"]["code"]);
            assert_eq!(seen, (&json!("failed"), &json!("attempts_exhausted")), "{row}");
            let attempt = u32::try_from(row["max_attempts"].as_u64().unwrap()).unwrap() + 1;
            let message = failed(kind.service(), job, kind, attempt, &row["max_attempts"], "attempts_exhausted");
            assert_eq!(logged(app, job).await, message);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_cancelled_while_its_worker_died_is_ended_as_that() {
    each(&ALL, async |app, kind| {
        let (job, before) = (kind.admitted(app).await, asked(app));
        reserve(app, job).await;
        left_by_a_dead_worker(app, job).await;
        app.db.run(&format!("update jobs set cancel_requested_at = now() where id = '{job}'")).await;
        kind.work(app).await;
        let row = row(app, job).await;
        assert_eq!((&row["status"], asked(app)), (&json!("cancelled"), before), "{row}");
        assert_eq!(reservations(app, job).await, json!(["refunded"]));
        assert_eq!(logged(app, job).await, json!([]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_cancelled_at_work_stops_at_its_next_step() {
    each(&ALL, async |app, kind| {
        let (job, before) = (kind.admitted(app).await, asked(app));
        meanwhile(app, "cancel_requested_at = now()").await;
        kind.work(app).await;
        let row = row(app, job).await;
        assert_eq!((&row["status"], asked(app)), (&json!("cancelled"), before), "{row}");
        let held = format!("select count(*) from usage_reservations where job_id = '{job}' and state = 'active'");
        assert_eq!((app.db.count(&held).await, logged(app, job).await), (0, json!([])));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_another_worker_holds_is_let_be() {
    each(&ALL, async |app, kind| {
        let (job, before) = (kind.admitted(app).await, asked(app));
        let other = Uuid::now_v7();
        meanwhile(app, &format!("lease_token = '{other}'")).await;
        kind.work(app).await;
        let row = row(app, job).await;
        assert_eq!((&row["status"], asked(app)), (&json!("running"), before), "{row}");
        assert_eq!((&row["lease_token"], &row["attempts"]), (&json!(other), &json!(1)));
        assert_eq!(logged(app, job).await, json!([]));
        // Nor is it taken from them while their lease lasts.
        app.stack.sweep().await.unwrap();
        kind.work(app).await;
        assert_eq!(self::row(app, job).await, row);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_gives_back_what_it_held_and_leaves_one_row_for_a_person() {
    each(&ALL, async |app, kind| {
        let (job, before) = (kind.admitted(app).await, asked(app));
        reserve(app, job).await;
        app.db.run(&format!("update jobs set payload = '\"of nothing\"' where id = '{job}'")).await;
        kind.work(app).await;
        let row = row(app, job).await;
        let seen = (&row["status"], &row["last_error"]["code"], asked(app));
        assert_eq!(seen, (&json!("failed"), &json!("payload_invalid"), before), "{row}");
        assert_eq!(reservations(app, job).await, json!(["refunded"]));
        let message = failed(kind.service(), job, kind, 1, &row["max_attempts"], "payload_invalid");
        assert_eq!(logged(app, job).await, message);
        let others = app.db.ask(&Actor::person(&OSCAR), "select * from public.error_logs").await.unwrap();
        assert_eq!(others, json!([]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calls_of_a_dead_worker_end_as_lost_and_the_next_gives_back_what_it_held() {
    each(&ALL, async |app, kind| {
        let job = kind.admitted(app).await;
        reserve(app, job).await;
        left_by_a_dead_worker(app, job).await;
        app.db
            .run(&format!(
                "insert into provider_calls (org_id, job_id, reservation_id, attempt, purpose, provider, model, tokens, cost_micro_usd, estimated)
                 select org_id, job_id, id, 1, 'render_brief', 'anthropic', 'm', 3, 4, true from usage_reservations where job_id = '{job}'"
            ))
            .await;
        kind.work(app).await;
        let row = row(app, job).await;
        assert_eq!((&row["status"], &row["attempts"]), (&json!("succeeded"), &json!(2)), "{row}");
        let lost = format!("select count(*) from provider_calls where job_id = '{job}' and model = 'm' and outcome = 'lost'");
        assert_eq!(app.db.count(&lost).await, 1);
        let held = reservations(app, job).await;
        let used: &[&str] = if PAID.contains(&kind) { &["refunded", "settled"] } else { &["refunded"] };
        assert_eq!(held, json!(used));
        assert_eq!(logged(app, job).await, json!([]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_is_off_holds_its_jobs_at_no_cost_until_it_is_on() {
    each(&PAID, async |app, kind| {
        let switch = match kind {
            Kind::Render => "renders.enabled",
            Kind::Insight => "insights.enabled",
            _ => "leads.enabled",
        };
        let (job, before) = (kind.admitted(app).await, asked(app));
        app.db.run(&format!("update system_settings set value = 'false' where key = '{switch}'")).await;
        kind.work(app).await;
        let held = row(app, job).await;
        let seen = (&held["status"], &held["wait_reason"]["reason"], &held["attempts"]);
        assert_eq!(seen, (&json!("queued"), &json!("paused"), &json!(0)), "{held}");
        assert_eq!(asked(app), before);
        // The database keeps microseconds.
        let until = format!(
            "select count(*) from jobs where id = '{job}'
                and run_after between (wait_reason ->> 'until')::timestamptz - interval '1 ms' and (wait_reason ->> 'until')::timestamptz"
        );
        assert_eq!(app.db.count(&until).await, 1, "{held}");
        app.db.run(&format!("update system_settings set value = 'true' where key = '{switch}'")).await;
        app.stack.sweep().await.unwrap();
        kind.work(app).await;
        let row = row(app, job).await;
        assert_eq!((&row["status"], &row["attempts"]), (&json!("succeeded"), &json!(1)), "{row}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_ended_before_it_was_settled_is_a_defect_of_which_nothing_is_kept() {
    each(&PAID, async |app, kind| {
        let job = kind.admitted(app).await;
        // Somebody else ends it while the model's answer is written down.
        app.db
            .run(
                "create function public.meanwhile() returns trigger language plpgsql security definer as $$
                 begin
                     update public.usage_reservations set state = 'refunded', ended_at = now() where id = new.reservation_id;
                     return null;
                 end $$;
                 create trigger meanwhile after update of outcome on public.provider_calls
                     for each row execute function public.meanwhile()",
            )
            .await;
        let billed = "select count(*) from billing_events";
        let before = app.db.count(billed).await;
        kind.work(app).await;
        let row = row(app, job).await;
        assert_eq!((&row["status"], &row["result"]), (&json!("running"), &Value::Null), "{row}");
        assert_eq!(app.db.count(billed).await, before);
        assert!(app.logs().contains(&format!("\"job.id\":\"{job}\",\"reservation.id\"")), "{}", app.logs());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_in_billing_stays_open_however_long_stripe_is_away_and_is_given_up_when_stripe_has_nothing() {
    let app = office().await;
    let job = Uuid::now_v7();
    app.db
        .run(&format!(
            "insert into jobs (id, org_id, job_type, payload) values ('{job}', '{NORD}', 'stripe_settle', '{{\"object_id\": \"sub_none\"}}')"
        ))
        .await;
    app.stack.fault("stripe", "refuse", Calls::Every).unwrap();
    for _ in 0..7 {
        app.db.run("update jobs set run_after = now()").await;
        app.stack.reconcile().await.unwrap();
        let row = row(&app, job).await;
        let seen = (&row["status"], &row["wait_reason"]["reason"], &row["attempts"]);
        assert_eq!(seen, (&json!("queued"), &json!("stripe_unavailable"), &json!(0)), "{row}");
        assert_eq!(logged(&app, job).await, json!([]));
    }
    app.stack.fault("stripe", "none", Calls::Every).unwrap();
    app.db.run("update jobs set run_after = now()").await;
    app.stack.reconcile().await.unwrap();
    let row = row(&app, job).await;
    assert_eq!(
        (&row["status"], &row["last_error"]["code"]),
        (&json!("failed"), &json!("stripe_settle_failed")),
        "{row}"
    );
    let message = format!("The job {job} (stripe_settle) failed in attempt 1 of 5: stripe_settle_failed.");
    assert_eq!(logged(&app, job).await, json!([{ "service": "stripe_webhook", "error_message": message }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_about_a_job_of_another_kind_leaves_that_job_alone() {
    let app = office().await;
    let job = Kind::Lead.admitted(&app).await;
    let before = row(&app, job).await;
    app.stack.renders.send(&json!({ "job_id": job, "org_id": NORD }).to_string());
    app.stack.renders.drained().await;
    assert_eq!(row(&app, job).await, before);
    assert!(app.logs().contains("a message names a job of another kind"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_500_or_above_leaves_one_row_that_names_its_code_and_its_request() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let rows = "select coalesce(jsonb_agg(jsonb_build_array(org_id, service, error_message) order by id), '[]') from error_logs";
    // Whose request it is was known when it failed.
    let upload = app.upload(&token, &small_photo()).await;
    app.db.run("delete from model_prices").await;
    let answer = app.post("/v1/render-requests", &token, &render_body(LAKESIDE, upload)).await;
    let seen = answer.expect_error(503, "model_price_unknown");
    let request = seen["request_id"].as_str().unwrap();
    let message = format!("The request {request} was answered 503 model_price_unknown.");
    assert_eq!(value(&app, rows).await, json!([[NORD, "process_render_request", message]]));

    // And where it was not: what a client says of itself is not believed.
    app.db.run("delete from error_logs").await;
    app.stack.sandbox.auth.set_down(true);
    let request = app.client.get(format!("{}/v1/jobs/{BRICK}", app.stack.url)).header("spine-org", BRICK.to_string());
    let answer = request.bearer_auth(&token).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 503);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["code"], "keys_unavailable", "{body}");
    let message = format!("The request {} was answered 503 keys_unavailable.", body["request_id"].as_str().unwrap());
    assert_eq!(value(&app, rows).await, json!([[null, "jobs", message]]));
    // Such rows are an operator's.
    for actor in [Actor::person(&OLGA), Actor::service(NORD), Actor::role("spine_service")] {
        assert_eq!(app.db.ask(&actor, "select * from public.error_logs").await.unwrap(), json!([]), "{actor:?}");
    }

    // What is refused for the client's own fault leaves none, and neither does a database that is away.
    app.db.run("delete from error_logs").await;
    app.stack.sandbox.auth.set_down(false);
    app.get("/v1/jobs/x", &token).await.expect_error(404, "job_not_found");
    app.stack.fault("postgres", "refuse", Calls::Every).unwrap();
    app.get(&format!("/v1/jobs/{NORD}"), &token).await.expect_error(503, "database_unavailable");
    let met = app.stack.wire("postgres").unwrap().faults_met();
    app.stack.fault("postgres", "none", Calls::Every).unwrap();
    assert_eq!(value(&app, rows).await, json!([]));
    assert!(met <= 2, "the database was asked {met} times while it was away");
}
