//! Schedules: a part that fails is reported and keeps no other part from its work.

use std::collections::BTreeSet;

use integration_tests::{
    TestApp,
    people::{DORA, NORD},
};
use local::functions::FUNCTIONS;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::alarms::Watch;

/// The parts of each schedule, and the database function without which a part fails.
const PARTS: [(&str, &[(&str, &str)]); 8] = [
    (
        "sweep",
        &[
            ("reservations_expired", "expired_reservations"),
            ("keys_forgotten", "forget_idempotency_keys"),
            ("jobs_released", "release_waiting_jobs"),
            ("jobs_woken", "due_jobs"),
            ("approvals_aged", "ageing_approvals"),
            ("models_ending", "notice_ending_models"),
            ("mails_delivered", "due_mail_orgs"),
            ("documents_delivered", "due_outbox_orgs"),
        ],
    ),
    (
        "reconcile",
        &[
            ("jobs_done", "due_jobs_of"),
            ("events_applied", "left_stripe_events"),
            ("events_looked_up", "unclear_stripe_events"),
            ("compared", "begin_reconciliation"),
            ("stale_compared", "stale_stripe_objects"),
            ("meter_reports", "unreported_costs"),
        ],
    ),
    (
        "accounting",
        &[
            ("comparisons_queued", "queue_reconciliations"),
            ("payments_queued", "queue_payment_reads"),
            ("differences", "accounting_differences"),
        ],
    ),
    (
        "leads",
        &[
            ("organisations_stopped", "due_lead_checks"),
            ("leads_scored", "unscored_leads"),
            ("leads_woken", "waiting_lead_orgs"),
            ("leads_queued", "lead_orgs"),
        ],
    ),
    ("insights", &[("night", "due_insights")]),
    (
        "fortnox",
        &[
            ("syncs_queued", "due_fortnox_syncs"),
            ("tokens_renewed", "idle_fortnox_tokens"),
            ("tokens", "fortnox_token_ages"),
        ],
    ),
    (
        "social",
        &[
            ("fetches_queued", "due_social_fetches"),
            ("events_queued", "requeue_social_events"),
            ("files_queued", "requeue_social_attachments"),
            ("events_forgotten", "forget_social_events"),
            ("consents_ending", "warn_of_ending_consents"),
            ("readings", "social_readings"),
        ],
    ),
    ("social-ai", &[("sentiment_queued", "queue_social_sentiment"), ("drafts_queued", "queue_social_drafts")]),
];

/// Takes a database function from the functions' role.
async fn take(app: &TestApp, function: &str) {
    app.db.run(&format!("revoke execute on function app.{function} from public, spine_service")).await;
}

async fn give_back(app: &TestApp, function: &str) {
    app.db.run(&format!("grant execute on function app.{function} to spine_service")).await;
}

/// The parts that a function's log says have failed, since so many bytes of it.
fn said_to_have_failed(app: &TestApp, function: &str, since: usize) -> BTreeSet<String> {
    let log = std::fs::read_to_string(app.stack.logs.join(format!("{function}.log"))).unwrap();
    let lines = log[since..].lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let failed = lines.filter(|line| line["level"] == "ERROR");
    failed.filter_map(|line| line["part"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_of_each_schedule_that_fails_alone_is_reported_and_the_others_run() {
    let app = TestApp::start().await;
    let known: BTreeSet<&str> = PARTS.iter().map(|(schedule, _)| *schedule).collect();
    let scheduled = FUNCTIONS.iter().filter_map(|function| function.schedule.map(|schedule| schedule.name));
    assert_eq!(known, scheduled.collect(), "the schedules whose parts are broken here, and those there are");
    for (schedule, parts) in PARTS {
        let function = FUNCTIONS.iter().find(|one| one.schedule.is_some_and(|own| own.name == schedule)).unwrap().name;
        let healthy = app.stack.tick(schedule).await.unwrap();
        if schedule != "insights" {
            let named: BTreeSet<&str> = healthy.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(named, parts.iter().map(|(part, _)| *part).collect(), "{schedule}");
        }
        for (broken, needs) in parts {
            let since = std::fs::read(app.stack.logs.join(format!("{function}.log"))).unwrap().len();
            take(&app, needs).await;
            let tick = app.stack.tick(schedule).await;
            give_back(&app, needs).await;
            assert_eq!(
                said_to_have_failed(&app, function, since),
                BTreeSet::from([(*broken).to_owned()]),
                "{schedule} without {needs}"
            );
            // With its only part a tick fails.
            if parts.len() == 1 {
                tick.unwrap_err();
                continue;
            }
            let tick = tick.unwrap_or_else(|error| panic!("{schedule} without {needs}: {error}"));
            for (part, _) in parts {
                // That there is nothing to compare yet is a null too.
                if *part != "compared" {
                    assert_eq!(tick[part].is_null(), part == broken, "{schedule} without {needs}: {part} of {tick}");
                }
            }
        }
    }
}

/// Gives every part of the sweep something to do.
async fn something_for_each_part(app: &TestApp, number: usize) {
    let id = uuid::Uuid::from_bytes(Sha256::digest(format!("job {number}"))[..16].try_into().unwrap());
    app.db
        .run(&format!(
            "update jobs set status = 'cancelled', finished_at = now() where status = 'queued';
             insert into jobs (id, org_id, job_type, payload) values ('{id}', '{NORD}', 'render', '{{}}');
             insert into jobs (org_id, job_type, payload, run_after, wait_reason)
             values ('{NORD}', 'render', '{{}}', now() + interval '1 hour', '{{\"reason\": \"paused\"}}');
             insert into idempotency_keys (org_id, actor_id, key, operation, request_hash, resource_id, created_at)
             values ('{NORD}', gen_random_uuid(), 'k', 'o', 'x', gen_random_uuid(), now() - interval '2 days');
             insert into usage_reservations (org_id, job_id, agent, requests, tokens, cost_micro_usd, windows, expires_at)
             values ('{NORD}', '{id}', 'renderer', 1, 1, 1, '[]', now() - interval '1 hour');
             insert into approvals (org_id, kind, subject_table, subject_id, payload_digest, status, decided_at, expires_at)
             values ('{NORD}', 'voucher', 'accounting_writes', app.uuidv7(), sha256('x'), 'proposed', null, now());
             update models set retires_at = now() + interval '29 days', noticed_end = null where model = 'claude-haiku-5-5';
             insert into outbox (org_id, kind, destination, payload)
             values ('{NORD}', 'document', 'agent_outputs', '{{\"kind\": \"render\"}}');
             set role spine_definer;
             select app.notify('{NORD}', '{}', 'approval_waits', '{{}}', '{number}')",
            DORA.id
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_part_of_the_sweep_fails_the_others_do_their_work() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    let (_, parts) = PARTS[0];
    something_for_each_part(&app, 0).await;
    let healthy = app.stack.sweep().await.unwrap();
    for (part, _) in parts {
        assert!(healthy[part].as_u64() >= Some(1), "{part}: {healthy}");
    }
    for (number, (broken, needs)) in parts.iter().enumerate() {
        something_for_each_part(&app, number + 1).await;
        take(&app, needs).await;
        let swept = app.stack.sweep().await.unwrap();
        give_back(&app, needs).await;
        for (part, _) in parts {
            let wanted = if part == broken { None } else { Some(1) };
            assert!(
                swept[part].as_u64() >= wanted && swept[part].is_null() == wanted.is_none(),
                "{broken}, {part}: {swept}"
            );
        }
        // What it left is done once it can be.
        let next = app.stack.sweep().await.unwrap();
        assert!(next[*broken].as_u64() >= Some(1), "{broken}: {next}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_fails_in_each_of_three_minutes_rings() {
    let app = TestApp::start().await;
    for (schedule, alarm) in [("sweep", "sweep-part-failures"), ("reconcile", "stripe-part-failures")] {
        let (_, parts) = PARTS.iter().find(|(name, _)| *name == schedule).unwrap();
        let mut watch = Watch::new();
        for (part, needs) in *parts {
            take(&app, needs).await;
            for minute in 1..=3 {
                app.stack.tick(schedule).await.unwrap();
                watch.period(&app);
                assert_eq!(watch.value(alarm), Some(1.0), "{part}");
                assert_eq!(watch.rings(alarm), minute == 3, "{part}, minute {minute}");
            }
            give_back(&app, needs).await;
            app.stack.tick(schedule).await.unwrap();
            watch.period(&app);
            assert_eq!((watch.value(alarm), watch.rings(alarm)), (None, false), "{part}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_of_which_every_part_fails_is_a_failed_invocation() {
    let app = TestApp::start().await;
    app.stack.fault("postgres", "refuse", sandbox::Calls::Every).unwrap();
    for (schedule, _) in PARTS {
        app.stack.tick(schedule).await.unwrap_err();
    }
    let mut watch = Watch::new();
    let queue = json!({ "QueueName": { "Fn::GetAtt": ["SweepDeadLetters", "QueueName"] } });
    // AWS writes its record to the destination that the template names for it.
    let sweep = &crate::template::template()["Resources"]["Sweep"]["Properties"]["EventInvokeConfig"];
    assert_eq!(
        sweep["DestinationConfig"]["OnFailure"]["Destination"],
        json!({ "Fn::GetAtt": ["SweepDeadLetters", "Arn"] })
    );
    for (records, rings) in [(0.0, false), (1.0, true)] {
        watch.counted(&[("AWS/SQS", "ApproximateNumberOfMessagesVisible", queue.clone(), records)]);
        assert_eq!(watch.rings("sweep-dead-letters"), rings, "{records}");
    }
}
