//! Ten thousand events that are wrong in some way, into every function: no panic, no 500, nothing half written.

use std::sync::atomic::{AtomicUsize, Ordering};

use integration_tests::{
    TestApp, full,
    people::{DORA, LAKESIDE, NORD},
    render_body, seed, small_photo,
};
use local::{gateway, lambda::InvokeError};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::{
    Method,
    header::{HeaderMap, HeaderValue},
};
use serde_json::{Value, json};
use uuid::Uuid;

/// How many events there are, and how many of them CI sends.
const EVENTS: u64 = 10_000;
const SAMPLE: u64 = 3_000;
const LANES: usize = 4;

/// What a field is replaced by.
fn odd_value(random: &mut impl Rng) -> Value {
    let long = "x".repeat(random.random_range(0..5000));
    let mut deep = json!(1);
    for _ in 0..random.random_range(1..100) {
        deep = json!([deep]);
    }
    [
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(u64::MAX),
        json!(1e308),
        json!(0.1),
        json!(""),
        json!("\u{0}"),
        json!("\u{202e}'; drop table jobs; --"),
        json!("../../../etc/passwd"),
        json!(Uuid::nil()),
        json!(Uuid::from_u128(random.random())),
        json!([]),
        json!({}),
        json!({ "$gt": "" }),
        json!(long),
        deep,
    ]
    .choose(random)
    .unwrap()
    .clone()
}

/// Every place in a value, as a JSON pointer.
pub(crate) fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        Value::Array(items) => items.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (name, child) in children {
        let place = format!("{at}/{name}");
        places(child, &place, found);
        found.push(place);
    }
}

/// Replaces, removes, adds or moves something, once or a few times.
pub(crate) fn mutate(value: &mut Value, random: &mut impl Rng) {
    for _ in 0..random.random_range(1..4) {
        let mut found = Vec::new();
        places(value, "", &mut found);
        let Some(place) = found.choose(random).cloned() else { return };
        let (parent, name) = place.rsplit_once('/').unwrap();
        match random.random_range(0..4) {
            0 => {
                if let Some(fields) = value.pointer_mut(parent).and_then(Value::as_object_mut) {
                    fields.remove(name);
                }
            }
            1 => {
                if let Some(fields) = value.pointer_mut(parent).and_then(Value::as_object_mut) {
                    fields.insert(format!("{name}x"), odd_value(random));
                }
            }
            2 => {
                let other = found.choose(random).and_then(|other| value.pointer(other)).cloned().unwrap_or_default();
                if let Some(target) = value.pointer_mut(&place) {
                    *target = other;
                }
            }
            _ => {
                if let Some(target) = value.pointer_mut(&place) {
                    *target = odd_value(random);
                }
            }
        }
    }
}

/// Flips, cuts, doubles or inserts bytes.
fn mutate_bytes(bytes: &mut Vec<u8>, random: &mut impl Rng) {
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..4) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes.truncate(at),
            2 => bytes.insert(at, random.random()),
            _ => {
                let copy = bytes[at..].to_vec();
                bytes.extend(copy.iter().take(40));
            }
        }
    }
}

struct Seeds {
    token: String,
    render: Value,
    upload: Uuid,
    job: String,
    id: String,
}

/// The resource that gets it, and the event.
fn event(seeds: &Seeds, random: &mut StdRng) -> (&'static str, Value) {
    // A sweep wakes every job that waits, so there are few of them.
    let kind = if random.random_bool(0.005) { 9 } else { random.random_range(0..9) };
    if kind == 8 {
        let mut message = json!({ "job_id": seeds.job, "org_id": NORD });
        if random.random_bool(0.8) {
            mutate(&mut message, random);
        }
        let mut event = json!({ "Records": [{
            "messageId": Uuid::from_u128(random.random()), "receiptHandle": "r", "body": message.to_string(),
            "attributes": { "ApproximateReceiveCount": "1" }, "messageAttributes": {}, "md5OfBody": "",
            "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:local:000000000000:renders", "awsRegion": "local",
        }] });
        if random.random_bool(0.5) {
            mutate(&mut event, random);
        }
        return ("ProcessRenderRequestWorker", event);
    }
    if kind == 9 {
        let mut event = json!({
            "version": "0", "id": "tick", "detail-type": "Scheduled Event", "source": "aws.events",
            "time": "2026-11-21T08:00:00Z", "resources": [], "detail": {},
        });
        mutate(&mut event, random);
        return ("Sweep", event);
    }
    let (method, path, body) = match kind {
        0 | 1 => (Method::POST, "/v1/render-requests".to_owned(), render_body(LAKESIDE, seeds.upload)),
        2 => (Method::POST, "/v1/render-requests".to_owned(), seeds.render.clone()),
        3 => (Method::POST, "/v1/uploads".to_owned(), json!({ "content_type": "image/jpeg", "bytes": 5 })),
        4 => (Method::POST, format!("/v1/render-requests/{}/process", seeds.id), Value::Null),
        5 => (Method::GET, format!("/v1/render-requests/{}", seeds.id), Value::Null),
        6 => (Method::GET, format!("/v1/jobs/{}", seeds.job), Value::Null),
        _ => (Method::POST, format!("/v1/jobs/{}/cancel", seeds.job), Value::Null),
    };
    let resource = if path.starts_with("/v1/jobs") { "Jobs" } else { "ProcessRenderRequestHttp" };
    let mut headers = HeaderMap::new();
    let mut token = seeds.token.clone();
    if random.random_bool(0.15) {
        let mut bytes = token.into_bytes();
        mutate_bytes(&mut bytes, random);
        token = String::from_utf8_lossy(&bytes).into_owned();
    }
    for (name, value) in [
        ("authorization", format!("Bearer {token}")),
        ("content-type", "application/json".to_owned()),
        ("idempotency-key", format!("{:x}", random.random_range(0_u64..500))),
        ("spine-org", if random.random_bool(0.1) { odd_value(random).to_string() } else { NORD.to_string() }),
    ] {
        if let (true, Ok(value)) = (random.random_bool(0.97), HeaderValue::from_str(&value)) {
            headers.insert(name, value);
        }
    }
    let mut body = body;
    if random.random_bool(0.7) && body.is_object() {
        mutate(&mut body, random);
    }
    let mut bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    if random.random_bool(0.2) {
        mutate_bytes(&mut bytes, random);
    }
    let mut path = path;
    if random.random_bool(0.2) {
        let mut text = path.into_bytes();
        mutate_bytes(&mut text, random);
        path = String::from_utf8_lossy(&text).into_owned();
    }
    let mut event = gateway::to_event(&method, &path, None, &headers, &bytes.into(), ([127, 0, 0, 1], 9).into());
    if random.random_bool(0.15) {
        mutate(&mut event, random);
    }
    (resource, event)
}

#[test]
fn thousands_of_wrong_events_make_no_panic_no_500_and_nothing_half_written() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (app, seeds) = runtime.block_on(async {
        let app = TestApp::start().await;
        let token = app.token(&DORA);
        // What is admitted stays queued: these are about the doors.
        app.stack.renders.pause();
        app.db.run("delete from agent_limits").await;
        let upload = app.upload(&token, &small_photo()).await;
        let first = app.post("/v1/render-requests", &token, &render_body(LAKESIDE, upload)).await.expect(202);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let seeds = Seeds {
            render: json!({ "project_id": LAKESIDE, "parent_id": first["id"], "parameters": { "style": "x" } }),
            job: text(&first["job"]["id"]),
            id: text(&first["id"]),
            upload,
            token,
        };
        (app, seeds)
    });
    let (admitted, failed, answered) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let lanes = u64::try_from(LANES).unwrap();
    // Another seed begins elsewhere among the ten thousand.
    let (begin, count) = if full() { (0, EVENTS) } else { (seed().wrapping_mul(SAMPLE) % EVENTS, SAMPLE) };
    let lane = async |lane| {
        for seed in (lane..count).step_by(LANES).map(|number| (begin + number) % EVENTS) {
            let mut random = StdRng::seed_from_u64(seed);
            let (resource, event) = event(&seeds, &mut random);
            let lambda = app.stack.function(resource).unwrap();
            let shown = || format!("event {seed} to {resource}: {event}");
            match lambda.invoke(event.clone()).await {
                Ok(answer) if resource == "ProcessRenderRequestHttp" || resource == "Jobs" => {
                    let status = answer["statusCode"].as_u64().unwrap_or_default();
                    assert!((200..500).contains(&status), "{status} {answer}\n{}", shown());
                    answered.fetch_add(1, Ordering::Relaxed);
                    let made = status == 202 && answer["headers"]["location"].is_string();
                    admitted.fetch_add(usize::from(made), Ordering::Relaxed);
                }
                Ok(_) => {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                // An event that is none of a function's is a failed invocation, and says why.
                Err(InvokeError::Failed(told)) => {
                    let why = told["errorMessage"].as_str().unwrap_or_default();
                    assert!(!why.is_empty() && !why.contains("panicked"), "{told}\n{}", shown());
                    failed.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => panic!("{error}\n{}", shown()),
            }
        }
    };
    runtime.block_on(futures::future::join_all((0..lanes).map(lane)));
    let (admitted, answered, failed) = (admitted.into_inner(), answered.into_inner(), failed.into_inner());
    let hundredth = usize::try_from(count / 100).unwrap();
    assert!(
        admitted > hundredth && answered > 80 * hundredth && failed > hundredth,
        "{admitted} admitted, {answered} answered, {failed} failed"
    );

    runtime.block_on(async {
        assert!(!app.logs().contains("panicked"), "a function panicked");
        for (half, query) in [
            ("a request without parameters", "select count(*) from render_requests r where not exists (select from render_parameters p where p.request_id = r.id)"),
            ("a request without a job", "select count(*) from render_requests r where not exists (select from jobs j where j.id = r.job_id)"),
            ("a job without a request", "select count(*) from jobs j where not exists (select from render_requests r where r.job_id = j.id)"),
            ("a request without a trail", "select count(*) from render_requests r where not exists (select from audit_log a where a.record_id = r.id::text and a.action = 'render.requested')"),
            ("a trail without a request", "select count(*) from audit_log a where a.action = 'render.requested' and not exists (select from render_requests r where r.id::text = a.record_id)"),
            ("a queued job without a reservation", "select count(*) from jobs j where j.status = 'queued' and j.attempts = 0 and j.last_error is null and not exists (select from usage_reservations u where u.job_id = j.id and u.state = 'active')"),
            ("a cancelled job with one", "select count(*) from usage_reservations u join jobs j on j.id = u.job_id where u.state = 'active' and j.status in ('cancelled', 'failed', 'succeeded')"),
            ("a key without what it made", "select count(*) from idempotency_keys k
                where case k.operation when 'POST /v1/uploads' then false -- It makes no row.
                           when 'POST /v1/jobs/{id}/cancel' then not exists (select from jobs j where j.id = k.resource_id)
                           else not exists (select from render_requests r where r.id = k.resource_id) end"),
            ("another tenant's row", "select count(*) from render_requests where org_id <> '01900000-0000-7000-8000-000000000001'"),
        ] {
            assert_eq!(app.db.count(query).await, 0, "{half}");
        }
        let reserved = "select (select sum(reserved_requests) from agent_usage where scope = 'agent' and period = 'month')::bigint
                             - (select coalesce(sum(requests), 0) from usage_reservations where state = 'active')::bigint";
        assert_eq!(app.db.count(reserved).await, 0);
        drop(app);
    });
}
