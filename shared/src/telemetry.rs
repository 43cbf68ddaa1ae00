//! Logs as JSON lines, and metrics in CloudWatch's embedded format. Neither ever carries a body, a token or personal data.

use std::{cell::Cell, io::Write, sync::OnceLock};

use chrono::{DateTime, Utc};
use serde_json::json;
use tracing_subscriber::EnvFilter;
use uuid::Uuid;

static FUNCTION: OnceLock<&'static str> = OnceLock::new();

/// The function this process is.
pub(crate) fn function() -> &'static str {
    FUNCTION.get().copied().unwrap_or("unknown")
}

tokio::task_local! {
    /// The organisation that this invocation works for, once that is known.
    static ORGANISATION: Cell<Option<Uuid>>;
}

/// Runs one invocation, so that what is learned of it stays with it.
pub(crate) async fn invocation<T>(work: impl Future<Output = T>) -> T {
    ORGANISATION.scope(Cell::new(None), work).await
}

/// Records the organisation that the invocation works for, and the person or agent there, if there is one: on every line that it logs from here on, and
/// in the row of its failure. Call it with what the database said, never with what a client did.
pub fn works_for(org_id: Uuid, actor_id: Option<Uuid>) {
    let span = tracing::Span::current();
    span.record("org.id", tracing::field::display(org_id));
    if let Some(actor_id) = actor_id {
        span.record("actor.id", tracing::field::display(actor_id));
    }
    // An error means that this is no invocation, but a test or a tool.
    let _ = ORGANISATION.try_with(|known| known.set(Some(org_id)));
}

/// The organisation that this invocation works for, if it is known.
pub(crate) fn organisation() -> Option<Uuid> {
    ORGANISATION.try_with(Cell::get).ok().flatten()
}

/// Starts logging for this process. `LOG_LEVEL` filters as tracing does, `info` without it. Later calls change nothing.
pub fn init(function: &'static str) {
    // Of a second name the first is kept, as of logging itself.
    let _ = FUNCTION.set(function);
    let level = crate::config::Env::from_process();
    let filter = EnvFilter::try_new(level.or("LOG_LEVEL", "info")).unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_target(false)
        .with_env_filter(filter)
        .finish();
    // An error means that logging has begun already.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// The unit of a metric, by its CloudWatch name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Milliseconds.
    Milliseconds,
}

/// Writes one measurement for CloudWatch to pick out of the log, by function and `dimensions`.
///
/// These must have few values each: every combination is a metric that is paid for.
pub fn metric(now: DateTime<Utc>, name: &str, unit: Unit, value: f64, dimensions: &[(&str, &str)]) {
    let dimensions = [&[("function", function())], dimensions].concat();
    let line = embedded(now.timestamp_millis(), name, unit, value, &dimensions);
    // A measurement that cannot be written is not worth failing for.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn embedded(now_ms: i64, name: &str, unit: Unit, value: f64, dimensions: &[(&str, &str)]) -> serde_json::Value {
    let names: Vec<&str> = dimensions.iter().map(|(name, _)| *name).collect();
    let unit = match unit {
        Unit::Count => "Count",
        Unit::Milliseconds => "Milliseconds",
    };
    let mut line = json!({
        "_aws": {
            "Timestamp": now_ms,
            "CloudWatchMetrics": [{
                "Namespace": "Spine", "Dimensions": [names], "Metrics": [{ "Name": name, "Unit": unit }],
            }],
        },
        name: value,
    });
    for (name, value) in dimensions {
        line[*name] = json!(value);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_names_its_dimensions_and_carries_their_values() {
        let line = embedded(1, "renders", Unit::Count, 1.0, &[("outcome", "completed")]);
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["outcome"]]));
        assert_eq!(line["outcome"], "completed");
        assert_eq!(line["renders"], 1.0);
    }
}
