//! Every alarm of template.yaml has a test in which its value crosses the threshold. Values come from the functions' logs, and for what AWS
//! counts by itself from the local servers that stand for AWS.

mod watch;

use std::{collections::BTreeMap, fs};

use integration_tests::{
    TestApp,
    people::{DORA, LAKESIDE, OLGA},
    render_body, small_photo,
};
use local::{
    functions::{FUNCTIONS, QUEUES},
    home,
    lambda::InvokeError,
};
use sandbox::Calls;
use serde_json::{Value, json};

pub(crate) use self::watch::Watch;
use crate::template::{of_type, template};

/// Alarms, their thresholds, and the tests in which they ring. Those of every function and of every queue follow from the lists of these.
const ALARMS: [(&str, f64, &str); 35] = [
    ("accounting-differences", 1.0, "fortnox::compared::each_night_our_series_are_compared_in_both_directions"),
    ("api-5xx", 5.0, "alarms::one_answer_in_twenty_that_is_5xx_rings"),
    (
        "approvals-overdue",
        1.0,
        "notifications::mail::the_sweep_ages_approvals_counts_the_red_ones_and_mails_what_is_overdue",
    ),
    (
        "approvals-unknown",
        1.0,
        "notifications::mail::the_sweep_ages_approvals_counts_the_red_ones_and_mails_what_is_overdue",
    ),
    (
        "fortnox-reconnect",
        1.0,
        "fortnox::sync::a_connection_that_is_lost_ends_the_job_and_nothing_is_queued_until_a_person_connects_again",
    ),
    (
        "fortnox-token-age",
        30.0,
        "fortnox::sync::a_refresh_token_that_nobody_uses_is_renewed_after_twenty_days_and_its_age_is_measured",
    ),
    ("limiter-unavailable", 5.0, "agent_actions::limits::where_the_limiter_cannot_answer_nothing_is_recorded"),
    ("mail-failed", 1.0, "notifications::mail::a_mail_that_is_put_off_comes_later_and_one_that_is_refused_is_given_up"),
    ("models-ending", 1.0, "models::the_sweep_tells_an_operator_of_each_end_once"),
    ("models-unknown", 1.0, "models::a_picture_model_that_is_gone_is_replaced_and_the_brief_is_bought_once"),
    ("render-worker-slow", 270_000.0, "alarms::a_run_that_takes_nine_tenths_of_its_time_rings"),
    ("renders-failed", 5.0, "alarms::five_pictures_that_were_given_up_ring"),
    (
        "social-events-failed",
        1.0,
        "social_webhook::outcomes::what_the_database_refuses_fails_by_itself_and_the_rest_is_merged",
    ),
    ("social-reading-age", 120.0, "alarms::an_account_that_was_not_read_for_two_hours_rings"),
    (
        "social-reconnect",
        1.0,
        "social_fetch::limits::a_token_that_is_refused_has_the_account_wait_for_a_person_who_is_notified",
    ),
    (
        "social-refused",
        20.0,
        "social_webhook::verified::a_body_or_signature_that_was_changed_is_refused_and_leaves_nothing",
    ),
    ("stripe-events-failed", 1.0, "stripe::hostile::what_is_signed_and_not_understood_is_kept_and_answered_with_200"),
    (
        "stripe-left-to-people",
        1.0,
        "stripe::reconcile::costs_of_one_organisation_that_cannot_be_summed_keep_no_other_from_the_meter",
    ),
    ("stripe-part-failures", 1.0, "schedules::a_part_that_fails_in_each_of_three_minutes_rings"),
    ("stripe-reconcile-slow", 270_000.0, "alarms::a_run_that_takes_nine_tenths_of_its_time_rings"),
    ("stripe-refused", 20.0, "stripe::hostile::what_is_not_signed_gets_one_answer_and_leaves_no_row"),
    ("sweep-dead-letters", 1.0, "schedules::a_tick_of_which_every_part_fails_is_a_failed_invocation"),
    ("sweep-not-running", 1.0, "alarms::a_sweep_that_does_not_begin_rings"),
    ("sweep-part-failures", 1.0, "schedules::a_part_that_fails_in_each_of_three_minutes_rings"),
    ("throttles", 1.0, "alarms::a_function_that_aws_refuses_to_run_rings"),
    ("accounting-queue-age", 3_600.0, AGES),
    ("fortnox-queue-age", 1_800.0, AGES),
    ("insights-queue-age", 21_600.0, AGES),
    ("lead-queue-age", 900.0, AGES),
    ("render-queue-age", 900.0, AGES),
    ("social-ai-queue-age", 3_600.0, AGES),
    ("social-attachments-queue-age", 1_800.0, AGES),
    ("social-events-queue-age", 900.0, AGES),
    ("social-queue-age", 1_800.0, AGES),
    ("social-replies-queue-age", 900.0, AGES),
];

const AGES: &str = "alarms::a_message_that_nothing_takes_rings_for_its_queue";
const ERRORS: &str = "alarms::an_invocation_that_fails_rings_for_its_function";
const DEAD: &str = "alarms::a_message_that_fails_five_times_rings_for_its_queue";

/// Checks that what functions logged so far, taken as one period, comes to this value, and that the alarm rings.
#[track_caller]
pub(crate) fn rings(app: &TestApp, name: &str, value: f64) {
    let mut watch = Watch::new();
    watch.period(app);
    assert_eq!(watch.value(name), Some(value), "{name}\n{}", app.logs());
    assert!(watch.rings(name), "{name} does not ring at {value}");
}

/// Checks that what functions logged so far, taken as one period, comes to this value, and that the alarm does not ring.
#[track_caller]
pub(crate) fn is_silent(app: &TestApp, name: &str, value: Option<f64>) {
    let mut watch = Watch::new();
    watch.period(app);
    assert_eq!((watch.value(name), watch.rings(name)), (value, false), "{name}\n{}", app.logs());
}

/// The text of a test: from its name to the end of its body.
fn body(test: &str) -> Option<String> {
    let (module, name) = test.rsplit_once("::")?;
    let path = home::root().join("tests/it").join(module.replace("::", "/"));
    let files = [path.with_extension("rs"), path.join("mod.rs")];
    let text = files.iter().find_map(|file| fs::read_to_string(file).ok())?;
    let (before, rest) = text.split_once(&format!("fn {name}("))?;
    // Not one that is switched off.
    let before = before.strip_suffix("async ").unwrap_or(before);
    let attributes: Vec<&str> = before.lines().rev().take_while(|line| line.starts_with('#')).collect();
    let runs =
        attributes.iter().any(|line| line.contains("test")) && !attributes.iter().any(|line| line.contains("ignore"));
    runs.then(|| rest.split("\n}\n").next().unwrap_or_default().to_owned())
}

#[test]
fn every_alarm_has_a_test_in_which_it_rings() {
    let mut wanted: BTreeMap<String, (f64, &str)> =
        ALARMS.into_iter().map(|(name, threshold, test)| (name.to_owned(), (threshold, test))).collect();
    wanted.extend(FUNCTIONS.iter().map(|function| (format!("{}-errors", function.alarm), (1.0, ERRORS))));
    wanted.extend(QUEUES.iter().map(|queue| (format!("{}-dead-letters", queue.alarm), (1.0, DEAD))));
    for queue in QUEUES {
        assert!(wanted.contains_key(&format!("{}-queue-age", queue.alarm)), "{}", queue.name);
    }
    let template = template();
    let mut found = BTreeMap::new();
    for (id, alarm) in of_type(&template, "AWS::CloudWatch::Alarm") {
        let name = alarm["AlarmName"]["Fn::Sub"].as_str().unwrap().trim_start_matches("${AWS::StackName}-").to_owned();
        let Some((threshold, test)) = wanted.get(&name) else { panic!("{id}: no test makes {name} ring; see ALARMS") };
        assert_eq!(alarm["Threshold"].as_f64(), Some(*threshold), "{id}");
        let body = body(test).unwrap_or_else(|| panic!("{name}: there is no test {test}"));
        // One alarm is named in its test; those of one kind are gone through there.
        let named = body.contains(&format!("\"{name}\"")) || [ERRORS, DEAD, AGES].contains(test);
        assert!(named && body.contains("rings("), "{name}: {test} does not look whether it rings");
        found.insert(name, (*threshold, *test));
    }
    assert_eq!(found, wanted, "the alarms of template.yaml, and those of ALARMS");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_that_fails_rings_for_its_function() {
    let app = TestApp::start().await;
    let mut watch = Watch::new();
    let mut failures = Vec::new();
    for function in FUNCTIONS {
        let answer = app.stack.function(function.name).unwrap().invoke(json!({ "source": "unknown" })).await;
        let failed = f64::from(u8::from(matches!(answer, Err(InvokeError::Failed(_)))));
        failures.push((function, failed));
    }
    let errors = |name: &str| json!({ "FunctionName": { "Ref": name } });
    for (function, failed) in failures {
        watch.counted(&[("AWS/Lambda", "Errors", errors(function.name), failed)]);
        let ring: Vec<&str> = FUNCTIONS
            .iter()
            .filter(|other| watch.rings(&format!("{}-errors", other.alarm)))
            .map(|other| other.name)
            .collect();
        assert_eq!(ring, [function.name]);
        watch.counted(&[("AWS/Lambda", "Errors", errors(function.name), 0.0)]);
        assert!(!watch.rings(&format!("{}-errors", function.alarm)), "{}", function.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_fails_five_times_rings_for_its_queue() {
    let app = TestApp::start().await;
    let mut watch = Watch::new();
    for queue in QUEUES {
        app.stack.queue(queue.name).unwrap().send("not json");
    }
    for queue in QUEUES {
        let alarm = format!("{}-dead-letters", queue.alarm);
        let local = app.stack.queue(queue.name).unwrap();
        let dead = json!({ "QueueName": { "Fn::GetAtt": [format!("{}DeadLetters", queue.resource), "QueueName"] } });
        watch.counted(&[("AWS/SQS", "ApproximateNumberOfMessagesVisible", dead.clone(), 0.0)]);
        assert!(!watch.rings(&alarm), "{alarm}");
        local.drained().await;
        let letters = u32::try_from(local.dead_letters().len()).unwrap();
        watch.counted(&[("AWS/SQS", "ApproximateNumberOfMessagesVisible", dead, f64::from(letters))]);
        assert_eq!((watch.value(&alarm), watch.rings(&alarm)), (Some(1.0), true), "{alarm}");
    }
}

#[test]
fn a_message_that_nothing_takes_rings_for_its_queue() {
    let (template, mut watch) = (template(), Watch::new());
    for queue in QUEUES {
        let alarm = format!("{}-queue-age", queue.alarm);
        let (_, age, _) = ALARMS.into_iter().find(|(name, ..)| *name == alarm).unwrap();
        let id = format!("{}Queue", queue.resource);
        let measured = json!({ "QueueName": { "Fn::GetAtt": [id, "QueueName"] } });
        for (seconds, rings) in [(age - 1.0, false), (age, true)] {
            watch.counted(&[("AWS/SQS", "ApproximateAgeOfOldestMessage", measured.clone(), seconds)]);
            assert_eq!(watch.rings(&alarm), rings, "{alarm} at {seconds} s");
        }
        // It is deleted, unseen, only long after.
        let kept = template["Resources"][&id]["Properties"]["MessageRetentionPeriod"].as_f64().unwrap();
        assert!(kept > 2.0 * age, "{alarm}: messages are kept for {kept} s");
    }
}

#[test]
fn a_run_that_takes_nine_tenths_of_its_time_rings() {
    let mut watch = Watch::new();
    for (alarm, name) in
        [("render-worker-slow", "ProcessRenderRequestWorker"), ("stripe-reconcile-slow", "StripeWebhookReconcile")]
    {
        let function = FUNCTIONS.into_iter().find(|function| function.name == name).unwrap();
        let nine_tenths = function.timeout.as_secs_f64() * 900.0;
        for (took, rings) in [(nine_tenths - 1.0, false), (nine_tenths, true)] {
            watch.counted(&[("AWS/Lambda", "Duration", json!({ "FunctionName": { "Ref": name } }), took)]);
            assert_eq!(watch.rings(alarm), rings, "{alarm} at {took} ms");
        }
    }
}

#[test]
fn a_function_that_aws_refuses_to_run_rings() {
    let mut watch = Watch::new();
    for function in FUNCTIONS {
        for (refused, rings) in [(0.0, false), (1.0, true)] {
            let of = json!({ "FunctionName": { "Ref": function.name } });
            watch.counted(&[("AWS/Lambda", "Throttles", of, refused)]);
            assert_eq!(watch.rings("throttles"), rings, "{}: {refused}", function.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_does_not_begin_rings() {
    let (app, mut watch) = (TestApp::start().await, Watch::new());
    app.stack.sweep().await.unwrap();
    let begun = app.logs().lines().filter(|line| line.contains("the sweep ends")).count();
    let of = json!({ "FunctionName": { "Ref": "Sweep" } });
    watch.counted(&[("AWS/Lambda", "Invocations", of, f64::from(u32::try_from(begun).unwrap()))]);
    assert_eq!((watch.value("sweep-not-running"), watch.rings("sweep-not-running")), (Some(1.0), false));
    // AWS measures nothing at all of a function that does not run.
    watch.counted(&[]);
    assert_eq!((watch.value("sweep-not-running"), watch.rings("sweep-not-running")), (None, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_answer_in_twenty_that_is_5xx_rings() {
    let (app, mut watch) = (TestApp::start().await, Watch::new());
    let olga = app.token(&OLGA);
    let (mut all, mut errors) = (0_u32, 0_u32);
    let mut ask = async |token: &str, watch: &mut Watch| {
        let status = app.get("/v1/insights", token).await.status;
        (all, errors) = (all + 1, errors + u32::from(status.is_server_error()));
        let of = json!({ "ApiId": { "Ref": "Api" } });
        watch.counted(&[
            ("AWS/ApiGateway", "5xx", of.clone(), f64::from(errors)),
            ("AWS/ApiGateway", "Count", of, f64::from(all)),
        ]);
        watch.value("api-5xx")
    };
    app.stack.fault("postgres", "refuse", Calls::Every).unwrap();
    // Two bad answers at night are no alarm, however large a part of all they are.
    for _ in 0..2 {
        assert_eq!(ask(&olga, &mut watch).await, Some(0.0));
        assert!(!watch.rings("api-5xx"));
    }
    assert_eq!(ask(&olga, &mut watch).await, Some(100.0));
    assert!(watch.rings("api-5xx"));
    app.stack.fault("postgres", "none", Calls::Every).unwrap();
    for answers in 4..=61 {
        let rate = ask("no-token", &mut watch).await;
        assert_eq!(rate, Some(300.0 / f64::from(answers)));
        assert_eq!(watch.rings("api-5xx"), answers <= 60, "{answers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_pictures_that_were_given_up_ring() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let upload = app.upload(&token, &small_photo()).await;
    let render = async |fault: &str, variants: u32| {
        app.stack.fault("gemini", fault, Calls::Every).unwrap();
        let mut body = render_body(LAKESIDE, upload);
        body["variants"] = json!(variants);
        let render = app.post("/v1/render-requests", &token, &body).await.expect(202);
        let shown: Value = app.finished(&token, render["id"].as_str().unwrap()).await;
        app.stack.fault("gemini", "none", Calls::Every).unwrap();
        shown["status"].as_str().unwrap().to_owned()
    };
    // What a model declines, and what is made, is no fault.
    assert_eq!(render("blocked", 4).await, "failed");
    assert_eq!(render("none", 1).await, "completed");
    is_silent(&app, "renders-failed", None);
    assert_eq!(render("no-candidate", 4).await, "failed");
    is_silent(&app, "renders-failed", Some(4.0));
    assert_eq!(render("no-candidate", 1).await, "failed");
    rings(&app, "renders-failed", 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_was_not_read_for_two_hours_rings() {
    let (app, mut watch) = (TestApp::start().await, Watch::new());
    crate::social_fetch::instagram(&app).await;
    app.db.run("update system_settings set value = 'false' where key = 'social.enabled'").await;
    for (minutes, rings) in [(119, false), (120, true)] {
        app.db.run(&format!("update social_accounts set fetched_at = now() - interval '{minutes} minutes'")).await;
        watch.period(&app);
        app.stack.look_after_social().await.unwrap();
        watch.period(&app);
        // Some seconds go by on a busy machine.
        let value = watch.value("social-reading-age").unwrap();
        assert!((f64::from(minutes)..f64::from(minutes) + 0.9).contains(&value), "{value}");
        assert_eq!(watch.rings("social-reading-age"), rings, "{value}");
    }
}
