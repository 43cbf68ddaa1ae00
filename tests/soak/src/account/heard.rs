//! What was heard from outside and read in the logs.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Answers, Finding};

/// Answers that are documented and expected here: route (`*` for all), status, code.
const DOCUMENTED: [(&str, u16, &str); 16] = [
    ("*", 503, "database_unavailable"),
    ("*", 503, "time_out"),
    ("*", 503, "secret_unavailable"),
    ("*", 503, "keys_unavailable"),
    ("*", 503, "storage_unavailable"),
    ("*", 503, "stripe_unavailable"),
    ("*", 502, "stripe_refused"),
    ("POST /v1/render-requests", 422, "idempotency_key_reused"),
    ("POST /v1/render-requests", 422, "limit_too_small"),
    ("POST /v1/render-requests/{id}/process", 422, "limit_too_small"),
    ("POST /v1/render-requests/{id}/process", 409, "render_request_completed"),
    ("GET /v1/render-requests/{id} by a stranger", 404, "render_request_not_found"),
    ("POST /v1/billing/checkout", 409, "subscription_exists"),
    ("POST /v1/billing/checkout", 409, "checkout_completed"),
    ("POST /v1/billing/portal", 409, "customer_missing"),
    ("POST /webhooks/stripe, forged", 400, "signature_invalid"),
];

/// Answers that are not documented, or that nobody here should get. `killed` processes that answered requests account for as many answers
/// of the gateway's own, which have no code.
#[must_use]
pub fn answers(answers: &Answers, mut killed: usize) -> Vec<Finding> {
    let mut findings = Vec::new();
    for ((route, status, code), count) in answers {
        let documented = (200..300).contains(status)
            || DOCUMENTED
                .iter()
                .any(|(of, known, named)| (*of == "*" || of == route) && known == status && named == code);
        if documented {
            continue;
        }
        let mut count = *count;
        if (*status, code.as_str()) == (500, "-") {
            let explained = count.min(killed);
            killed -= explained;
            count -= explained;
        }
        if count > 0 {
            let what = if *status == 0 { "no answer".to_owned() } else { format!("{status} {code}") };
            findings.push(Finding::new("answers.documented", format!("{route}: {what}, {count} times")));
        }
    }
    findings
}

/// What a function's log must not hold: a panic, an answer of 500, or one of the values that are `secret`.
#[must_use]
pub fn logs(function: &str, log: &str, secret: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut failed: BTreeMap<String, usize> = BTreeMap::new();
    for line in log.lines() {
        if line.contains("panicked at") {
            findings.push(Finding::new("logs.panics", format!("{function}: {}", shown(line))));
        }
        if let Some(value) = secret.iter().find(|value| line.contains(value.as_str())) {
            findings.push(Finding::new("logs.personal", format!("{function} logged {value}: {}", shown(line))));
        }
        let Ok(told) = serde_json::from_str::<Value>(line) else { continue };
        if told["status"] == 500 {
            let cause = told["cause"].as_str().or(told["error"].as_str()).unwrap_or("no cause");
            *failed.entry(format!("{}: {cause}", told["code"].as_str().unwrap_or("-"))).or_default() += 1;
        }
    }
    findings.extend(
        failed.into_iter().map(|(what, count)| {
            Finding::new("logs.failures", format!("{function} answered 500 {what}, {count} times"))
        }),
    );
    findings
}

fn shown(line: &str) -> String {
    line.chars().take(300).collect()
}
