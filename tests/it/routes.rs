//! Behaviour that every route shares: the methods it takes, what a key makes of a repetition, its answer to a NUL, and while the
//! database is away.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use integration_tests::{
    Answer, TestApp,
    people::{ADAM, NORD, OLGA, SVEN},
};
use local::functions::FUNCTIONS;
use reqwest::Method;
use sandbox::{Calls, Moment, Tap, Verdict, WireFault};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::requests::{APP, Ask, all, routes, world};

/// Connections that hold a transaction open and do nothing.
const IDLE: &str =
    "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'";

#[tokio::test(flavor = "multi_thread")]
async fn every_route_says_which_methods_it_takes_and_takes_no_other() {
    let app = TestApp::start().await;
    let token = app.token(&OLGA);
    for (route, takes) in routes() {
        let path = route.replace("{id}", &NORD.to_string()).replace("{table_name}", "leads");
        let allow = takes.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let answer = app.send(method.clone(), &path, &token, None).await;
            let case = format!("{method} {path}: {} {}", answer.status, answer.body);
            assert_ne!(answer.body["code"], "route_not_found", "{case}");
            if takes.contains(&method) {
                assert_ne!(answer.status, 405, "{case}");
                assert!(!answer.headers.contains_key("allow"), "{case}");
            } else {
                assert_eq!(answer.headers.get("allow").map(|allow| allow.to_str().unwrap()), Some(&*allow), "{case}");
                answer.expect_error(405, "method_not_allowed");
            }
        }
        // What is below or beside a route is none.
        for beside in [format!("{path}/a/b/c"), format!("{path}x/y")] {
            let answer = app.get(&beside, &token).await;
            assert_eq!(answer.status, 404, "{beside}: {}", answer.body);
        }
    }
}

#[test]
fn every_path_that_leads_to_a_function_is_documented() {
    let documented = routes();
    for prefix in FUNCTIONS.iter().flat_map(|function| function.routes) {
        let listed = documented.keys().any(|route| route == prefix || route.starts_with(&format!("{prefix}/")));
        assert!(listed, "docs/FEATURES.md lists no route under {prefix}");
    }
}

/// What an answer names: the thing that was made. An upload's address is signed each time.
fn made(answer: &Value) -> Value {
    let page = if answer["upload_id"].is_null() { &answer["url"] } else { &Value::Null };
    json!([answer["id"], answer["upload_id"], answer["job"]["id"], answer["assignment"], answer["settings"], page])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_one_thing_on_every_route_and_refuses_another_request() {
    let (app, asks) = world().await;
    for (number, ask) in asks.iter().enumerate() {
        let key = format!("key-{number}");
        let first = ask.keyed(&app, &key).await;
        assert!(first.status.is_success(), "{}: {} {}", ask.route, first.status, first.body);
        let again = ask.keyed(&app, &key).await;
        assert!(again.status.is_success(), "{}: {} {}", ask.route, again.status, again.body);
        assert_eq!(made(&again.body), made(&first.body), "{}", ask.route);

        let (still, stripe) = (app.db.still().await, app.stack.sandbox.stripe.requests().len());
        let other = ask.send(&app, &OLGA, Some(&ask.other), Some(&key)).await;
        assert_eq!(
            (other.status.as_u16(), &other.body["code"]),
            (422, &json!("idempotency_key_reused")),
            "{ask:?}: {}",
            other.body
        );
        // Nor does it serve for another route.
        let next = &asks[(number + 1) % asks.len()];
        let elsewhere = next.keyed(&app, &key).await;
        assert_eq!(
            (elsewhere.status.as_u16(), &elsewhere.body["code"]),
            (422, &json!("idempotency_key_reused")),
            "{next:?}: {}",
            elsewhere.body
        );
        still.unchanged().await;
        assert_eq!(app.stack.sandbox.stripe.requests().len(), stripe, "{}: Stripe was asked", ask.route);

        // A key is one person's.
        let theirs = ask.send(&app, &ADAM, Some(&ask.other), Some(&key)).await;
        assert_ne!(theirs.body["code"], "idempotency_key_reused", "{}", ask.route);
        let no_key = ask.send(&app, &OLGA, ask.body.as_ref(), Some(&"k".repeat(256))).await;
        no_key.expect_error(400, "idempotency_key_invalid");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_does_nothing_again_that_was_done_meanwhile() {
    let (app, asks) = world().await;
    let ask = |route: &str| asks.iter().find(|ask| ask.route == route).unwrap();
    // Failed again since: a repetition of the first wish to have it made is none to spend on it once more.
    let process = ask("/v1/render-requests/{id}/process");
    process.keyed(&app, "process").await.expect(202);
    app.db
        .run(
            "update jobs set status = 'failed', finished_at = now() where status = 'queued' and attempts = 0;
              update usage_reservations set state = 'refunded', ended_at = now()",
        )
        .await;
    process.keyed(&app, "process").await.expect(202);
    assert_eq!(app.db.count("select count(*) from usage_reservations where state = 'active'").await, 0);
    // Set otherwise since.
    let settings = ask("/v1/leads/assignments/settings");
    settings.keyed(&app, "settings").await.expect(200);
    app.post(&settings.path, &app.token(&OLGA), &json!({ "ai_bound": 7 })).await.expect(200);
    let set = settings.keyed(&app, "settings").await.expect(200);
    assert_eq!(set["settings"]["ai_bound"], 7, "{set}");
}

/// Cuts the connection with Postgres at one moment of one exchange. Whether it came to that is counted.
fn cut_at(wanted: Moment, number: usize) -> (Tap, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let tap: Tap = Arc::new(move |_, moment| {
        let cut = moment == wanted && seen.fetch_add(1, Ordering::SeqCst) + 1 == number;
        if cut { Verdict::Cut } else { Verdict::Pass }
    });
    (tap, count)
}

/// Checks that an answer is right, or that it says when to ask again.
#[track_caller]
fn right_or_later(answer: &Answer, case: &str) {
    if answer.status.is_success() {
        return;
    }
    assert_eq!(
        (answer.status.as_u16(), &answer.body["code"]),
        (503, &json!("database_unavailable")),
        "{case}: {}",
        answer.body
    );
    let wait: u32 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{case}: {wait}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_at_any_step_of_any_request_is_503_and_says_when_to_ask_again() {
    let (app, asks) = world().await;
    let token = app.token(&OLGA);
    let wire = app.stack.wire("postgres").unwrap();
    let mut cuts = 0;
    for (method, path, body) in all(&asks) {
        for moment in [Moment::Asked, Moment::Answered] {
            for number in 1.. {
                let key = format!("{path}-{moment:?}-{number}");
                let send = async || app.send_keyed(method.clone(), &path, &token, body.as_ref(), Some(&key)).await;
                if let Some(render) = path.strip_suffix("/process").and_then(|path| path.rsplit('/').next()) {
                    // So that there is something to do each time.
                    let job = format!("(select job_id from render_requests where id = '{render}')");
                    app.db
                        .run(&format!("update jobs set status = 'failed', finished_at = now() where id = {job}"))
                        .await;
                }
                let (tap, seen) = cut_at(moment, number);
                wire.tap(Some(tap));
                let answer = send().await;
                wire.tap(None);
                let case = format!("{method} {path} cut at step {number}, {moment:?}");
                right_or_later(&answer, &case);
                // Whether or not it was done: the same request again is answered as if nothing had happened.
                let again = send().await;
                assert!(again.status.is_success(), "{case}, again: {} {}", again.status, again.body);
                if seen.load(Ordering::SeqCst) < number {
                    break;
                }
                cuts += 1;
                assert!(number < 60, "{case}: it does not end");
            }
        }
    }
    assert!(cuts > 100, "only {cuts} steps were seen");
    assert_eq!(app.db.count(IDLE).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_falls_silent_at_any_step_is_waited_for_no_longer_than_is_set() {
    let app = TestApp::with(&[("DATABASE_TIMEOUT_MS", "2500")]).await;
    let token = app.token(&OLGA);
    let wire = app.stack.wire("postgres").unwrap();
    let body = json!({ "content_type": "image/jpeg", "bytes": 10 });
    let mut hung = 0;
    for number in 1.. {
        let key = format!("key-{number}");
        let send = async || app.send_keyed(Method::POST, "/v1/uploads", &token, Some(&body), Some(&key)).await;
        // A connection that is kept, so that each number is a step of the request.
        app.send_keyed(Method::POST, "/v1/uploads", &token, Some(&body), None).await.expect(201);
        let met = wire.faults_met();
        wire.arrange(WireFault::Hang, Calls::Number(number));
        let answer = send().await;
        wire.clear();
        right_or_later(&answer, &format!("silent from step {number} on"));
        let first = answer.body["upload_id"].as_str().map(str::to_owned);
        let again = send().await.expect(201);
        assert!(first.is_none_or(|first| again["upload_id"] == first), "{again}");
        if wire.faults_met() == met {
            break;
        }
        hung += 1;
    }
    assert!(hung >= 4, "only {hung} steps were seen");
    // Connections that did not answer are closed, so that the server takes back what was begun.
    assert_eq!(app.db.count(IDLE).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_answers_decides_whether_to_ask_again() {
    let app = TestApp::start().await;
    let token = app.token(&OLGA);
    let body = json!({ "content_type": "image/jpeg", "bytes": 10 });
    let gone = [
        "08000", "08003", "08006", "08P01", "53000", "53100", "53200", "53300", "57P01", "57P02", "57P03", "57P05",
        "25006", "25P03", "25P04", "58000", "58030",
    ];
    let busy = ["40001", "40P01", "55P03", "57014"];
    let ours = ["22012", "23505", "23514", "42501", "42P01", "0A000", "P0001", "XX000", "XX001"];
    let cases = gone
        .map(|state| (state, 503, "database_unavailable"))
        .into_iter()
        .chain(busy.map(|state| (state, 503, "database_busy")))
        .chain(ours.map(|state| (state, 500, "internal_error")));
    for (state, status, code) in cases {
        app.db
            .run(&format!(
                "create or replace function app.enter(wanted text) returns table (org_id uuid, user_id uuid, agent_id uuid, allowed boolean)
                     language plpgsql stable security definer set search_path = '' as $$
                 begin raise exception 'a secret of the database' using errcode = '{state}'; end $$"
            ))
            .await;
        let answer = app.post("/v1/uploads", &token, &body).await;
        assert_eq!(answer.headers.contains_key("retry-after"), status == 503, "{state}: {}", answer.body);
        assert_eq!((answer.status.as_u16(), answer.body["code"].as_str()), (status, Some(code)), "{state}");
        assert!(!answer.body.to_string().contains("secret"), "{state}: {}", answer.body);
    }
}

/// An answer without what is other each time: ids, times, and what is signed or drawn.
fn lasting(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), lasting(value))).collect(),
        Value::Array(values) => values.iter().map(lasting).collect(),
        Value::String(text) => json!(lasting_text(text)),
        other => other.clone(),
    }
}

fn lasting_text(text: &str) -> String {
    let uuid = |part: &str| part.parse::<Uuid>().is_ok();
    if text.parse::<chrono::DateTime<chrono::Utc>>().is_ok() {
        return "<time>".to_owned();
    }
    if text.parse::<chrono::NaiveDate>().is_ok() {
        return "<date>".to_owned();
    }
    if text.starts_with("http://127.0.0.1") {
        return "<address>".to_owned();
    }
    if text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit()) {
        return "<digest>".to_owned();
    }
    if text.starts_with("sp-") && text.len() == 15 {
        return "<token>".to_owned();
    }
    let parts: Vec<&str> = text.split('/').map(|part| if uuid(part) { "<id>" } else { part }).collect();
    parts.join("/")
}

/// Compares an answer with what is kept of it in `snapshots/`. `INSTA_UPDATE=always` rewrites that.
fn looks_as_it_did(name: &str, answer: &Answer) {
    let kept =
        ["allow", "content-type", "location", "retry-after", "www-authenticate"].into_iter().filter_map(|header| {
            let value = answer.headers.get(header)?.to_str().unwrap();
            Some((header.to_owned(), json!(lasting_text(value))))
        });
    let headers: serde_json::Map<String, Value> = kept.collect();
    let shown = json!({ "status": answer.status.as_u16(), "headers": headers, "body": lasting(&answer.body) });
    insta::assert_json_snapshot!(name.replace(' ', "-"), shown);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_of_every_route_looks_as_it_did() {
    let (app, asks) = world().await;
    let token = app.token(&OLGA);
    for (method, path, body) in all(&asks) {
        let answer = app.send(method.clone(), &path, &token, body.as_ref()).await;
        let named = path.split('?').next().unwrap();
        let parts: Vec<&str> =
            named.split('/').skip(1).map(|part| if part.parse::<Uuid>().is_ok() { "id" } else { part }).collect();
        looks_as_it_did(&format!("{method} {}", parts.join(" ")), &answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_of_every_class_of_error_looks_as_it_did() {
    let (app, asks) = world().await;
    let (olga, sven) = (app.token(&OLGA), app.token(&SVEN));
    let send = async |method, path: &str, token: &str, body: Option<&Value>| app.send(method, path, token, body).await;
    let uploads = "/v1/uploads";
    for (name, answer) in [
        ("400 no JSON", app.post_raw(uploads, &olga, "application/json", b"{".to_vec()).await),
        ("401 a malformed token", send(Method::GET, "/v1/insights", "no-token", None).await),
        (
            "403 not theirs to do",
            send(Method::POST, "/v1/billing/portal", &sven, Some(&json!({ "return_url": APP }))).await,
        ),
        ("404 no such thing", send(Method::GET, &format!("/v1/jobs/{}", Uuid::nil()), &olga, None).await),
        ("404 no such route", send(Method::GET, "/v1/jobs/a/b/c", &olga, None).await),
        ("405 another method", send(Method::DELETE, uploads, &olga, None).await),
        ("415 no JSON announced", app.post_raw(uploads, &olga, "text/plain", b"{}".to_vec()).await),
        (
            "422 a value out of bounds",
            send(Method::POST, uploads, &olga, Some(&json!({ "content_type": "image/jpeg", "bytes": 0 }))).await,
        ),
    ] {
        looks_as_it_did(name, &answer);
    }
    let ask = &asks[0];
    ask.keyed(&app, "twice").await;
    looks_as_it_did("422 a key used again", &ask.send(&app, &OLGA, Some(&ask.other), Some("twice")).await);
    app.db.run("update system_settings set value = 'false' where key = 'insights.enabled'").await;
    let paused = send(Method::POST, "/v1/insights/leads", &olga, Some(&json!({ "period": "week" }))).await;
    looks_as_it_did("503 paused", &paused);
    app.stack.fault("postgres", "refuse", Calls::Every).unwrap();
    looks_as_it_did("503 no database", &send(Method::GET, "/v1/insights", &olga, None).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nul_in_any_text_of_any_request_is_the_clients_to_change() {
    let (app, asks) = world().await;
    let token = app.token(&OLGA);
    let still = app.db.still().await;
    let mut tried = 0;
    for Ask { route, path, full: body, .. } in &asks {
        let mut texts = Vec::new();
        crate::mutations::places(body, "", &mut texts);
        texts.retain(|place| body.pointer(place).is_some_and(Value::is_string));
        for place in texts {
            let text = body.pointer(&place).and_then(Value::as_str).unwrap();
            let middle = text.len() / 2;
            for damaged in [
                "\0".to_owned(),
                format!("\0{text}"),
                format!("{}\0{}", &text[..middle], &text[middle..]),
                format!("{text}\0"),
                format!("{text}\0\0"),
            ] {
                let mut body = body.clone();
                *body.pointer_mut(&place).unwrap() = json!(damaged);
                let answer = app.post(path, &token, &body).await;
                // An id is none with a NUL in it: then the body is of another shape.
                let status = if Uuid::try_parse(text).is_ok() { 400 } else { 422 };
                assert_eq!(answer.status, status, "{route}{place} {damaged:?}: {}", answer.body);
                tried += 1;
            }
        }
        // Names of fields, and what the path names.
        if body.is_object() {
            let mut body = body.clone();
            body["a\0"] = json!("\0");
            app.post(path, &token, &body).await.expect_error(400, "body_invalid");
        }
        for at in path.match_indices('/').map(|(at, _)| at).skip(1) {
            let answer = app.post(&format!("{}/%00{}", &path[..at], &path[at + 1..]), &token, body).await;
            assert!(answer.status.is_client_error(), "{route}: {}", answer.body);
        }
    }
    assert!(tried > 60, "{tried}");
    still.unchanged().await;
}
