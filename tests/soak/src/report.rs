//! The figures of a run, as a table or as JSON.

use std::io::Write;

use anyhow::Result;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    ledger::{Book, Finding},
    load::Soak,
};

/// How many findings of one check are printed.
const SHOWN: usize = 20;

/// Progress.
pub(crate) fn line(text: &str) {
    // Nobody listening is no reason to stop.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A result.
pub(crate) fn out(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Figures by what they are of, in the order in which they are shown.
    pub figures: Vec<(String, Value)>,
    /// What is not accounted for.
    pub findings: Vec<Finding>,
}

impl Outcome {
    /// As a table for people.
    pub fn print(&self) {
        for (name, value) in &self.figures {
            match value {
                Value::Object(parts) if parts.is_empty() => out(&format!("{name:<28} none")),
                Value::Object(parts) => {
                    out(name);
                    for (part, value) in parts {
                        out(&format!("  {part:<58} {}", shown(value)));
                    }
                }
                value => out(&format!("{name:<28} {}", shown(value))),
            }
        }
        out("");
        let mut checks: Vec<&str> = self.findings.iter().map(|finding| finding.check.as_str()).collect();
        checks.dedup();
        for check in checks {
            let of: Vec<&Finding> = self.findings.iter().filter(|finding| finding.check == check).collect();
            out(&format!("BAD {check}: {}", of.len()));
            for finding in of.iter().take(SHOWN) {
                out(&format!("      {}", finding.item));
            }
            if of.len() > SHOWN {
                out(&format!("      and {} more", of.len() - SHOWN));
            }
        }
        out(&match self.findings.len() {
            0 => "everything is accounted for".to_owned(),
            count => format!("{count} items are not accounted for"),
        });
    }

    /// As one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        let figures: serde_json::Map<String, Value> = self.figures.iter().cloned().collect();
        json!({ "figures": figures, "unaccounted": self.findings })
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The figures that the rows give: each query answers with a name and a number.
const COUNTED: [(&str, &str); 8] = [
    ("renders by end", "select status || coalesce(' ' || (error ->> 'code'), ''), count(*) from public.render_requests group by 1"),
    ("renders completed by", "select served_by || ', ' || model_used, count(*) from public.render_results group by 1"),
    ("jobs by end", "select job_type || ' ' || status, count(*) from public.jobs group by 1"),
    ("insights served by", "select served_by || coalesce(' because of ' || instead_because, ''), count(*) from public.ai_insights group by 1"),
    ("charges", "select kind || ', micro-USD', sum(cost_micro_usd)::bigint from public.billing_events group by 1
                 union all select kind || ', rows', count(*) from public.billing_events group by 1"),
    ("calls of models", "select provider || ' ' || outcome, count(*) from public.provider_calls group by 1
                         union all select provider || ', micro-USD', coalesce(sum(cost_micro_usd), 0)::bigint from public.provider_calls group by 1"),
    ("reservations", "select state, count(*) from public.usage_reservations group by 1"),
    ("rows", "select 'audit entries', count(*) from public.audit_log union all select o.kind || 's', count(*) from public.outbox o group by o.kind
              union all select 'events of Stripe, ' || status, count(*) from public.webhook_events group by status
              union all select 'invoices', count(*) from public.invoices union all select 'leads assigned', count(*) from public.lead_assignments
              union all select 'second attempts of renders', coalesce(sum(attempts - 1) filter (where attempts > 1), 0)::bigint from public.jobs where job_type = 'render'"),
];

/// All figures: what was done, and what came of it.
pub(crate) async fn figures(
    soak: &Soak<'_>,
    conn: &mut PgConnection,
    seconds: (u64, u64),
) -> Result<Vec<(String, Value)>> {
    let mut figures = {
        let book = soak.ledger.book();
        let mut figures = vec![
            ("seed".to_owned(), json!(soak.seed)),
            ("load, seconds".to_owned(), json!(seconds.0)),
            ("drain, seconds".to_owned(), json!(seconds.1)),
        ];
        figures.extend(told(&book));
        figures
    };
    for (name, query) in COUNTED {
        let mut rows: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(query)).fetch_all(&mut *conn).await?;
        rows.sort();
        figures.push((
            name.to_owned(),
            rows.into_iter().map(|(name, count)| (name, json!(count))).collect::<serde_json::Map<_, _>>().into(),
        ));
    }
    let stack = &soak.ground.stack;
    let dead: serde_json::Map<String, Value> =
        stack.queues.iter().map(|queue| (queue.name().to_owned(), json!(queue.dead_letters().len()))).collect();
    figures.push(("dead letters".to_owned(), dead.into()));
    Ok(figures)
}

fn told(book: &Book) -> Vec<(String, Value)> {
    let mut accepted: serde_json::Map<String, Value> = serde_json::Map::new();
    for kind in book.accepted.iter().map(|accepted| accepted.kind) {
        let count = accepted.get(kind).and_then(Value::as_u64).unwrap_or_default() + 1;
        accepted.insert(kind.to_owned(), json!(count));
    }
    let of = |pairs: Vec<(String, Value)>| Value::Object(pairs.into_iter().collect());
    let faults = book.faults.iter().map(|((target, fault), injected)| {
        let shown = if fault.starts_with("answers") {
            json!(injected.arranged)
        } else {
            json!(format!("{} times, met by {} exchanges", injected.arranged, injected.met))
        };
        (format!("{target} {fault}"), shown)
    });
    let answers = book.answers.iter().map(|((route, status, code), count)| {
        let code = if code == "-" { String::new() } else { format!(" {code}") };
        (format!("{route} {status}{code}"), json!(count))
    });
    let ticks = book
        .ticks
        .iter()
        .map(|(name, (all, failed))| (name.clone(), json!(format!("{all}, of which {failed} failed"))));
    vec![
        ("accepted".to_owned(), accepted.into()),
        ("requests sent again".to_owned(), json!(book.retries)),
        ("requests given up".to_owned(), json!(book.given_up)),
        ("answers".to_owned(), of(answers.collect())),
        (
            "posts of Stripe by answer".to_owned(),
            of(book.deliveries.iter().map(|(status, count)| (status.to_string(), json!(count))).collect()),
        ),
        ("faults arranged".to_owned(), of(faults.collect())),
        (
            "processes killed at work".to_owned(),
            of(book.kills.iter().map(|(name, count)| (name.clone(), json!(count))).collect()),
        ),
        (
            "servers restarted".to_owned(),
            of(book.restarts.iter().map(|(name, count)| (name.clone(), json!(count))).collect()),
        ),
        ("ticks of schedules".to_owned(), of(ticks.collect())),
    ]
}
