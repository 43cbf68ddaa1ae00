//! One tick of a schedule: parts with names, each of which fails alone.
//!
//! A part that fails is logged, is `null` in the result, and does not keep the others from their work. If every part failed, the tick did,
//! so that Lambda counts a failed invocation and its alarm sounds. A part is given a deadline: the end of the invocation, less what it
//! keeps back for what follows it. After its deadline it begins nothing new; the next tick goes on from there.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::lambda::{Error, Tick};

/// How many single failures a part bears before it takes the database or a provider itself to be away.
pub const MOST_FAILURES: usize = 5;

/// A tick that is being answered.
#[derive(Debug)]
pub struct Schedule {
    name: &'static str,
    end: Instant,
    kept_back: Duration,
    results: Map<String, Value>,
    failed: usize,
}

impl Schedule {
    /// Begins with the first part. `kept_back` is what each part leaves of the invocation's time.
    #[must_use]
    pub fn begin(name: &'static str, tick: &Tick, kept_back: Duration) -> Self {
        tracing::debug!(tick.id, "{name} begins");
        Self { name, end: Instant::now() + tick.remaining, kept_back, results: Map::new(), failed: 0 }
    }

    /// Does one part. `work` is given its deadline, and its result stands under `name`.
    pub async fn part<T: Serialize, E: Display>(
        &mut self,
        name: &'static str,
        work: impl AsyncFnOnce(Instant) -> Result<T, E>,
    ) {
        self.part_keeping(self.kept_back, name, work).await;
    }

    /// As [`Schedule::part`], for one that leaves another part of the invocation's time.
    pub async fn part_keeping<T: Serialize, E: Display>(
        &mut self,
        kept_back: Duration,
        name: &'static str,
        work: impl AsyncFnOnce(Instant) -> Result<T, E>,
    ) {
        let deadline = self.end.checked_sub(kept_back).unwrap_or(self.end);
        let outcome = Box::pin(work(deadline)).await;
        let result = outcome.map_err(|error| error.to_string());
        let result = result.and_then(|done| serde_json::to_value(done).map_err(|error| error.to_string()));
        let value = result.unwrap_or_else(|error| {
            tracing::error!(part = name, error, "a part of {} failed", self.name);
            self.failed += 1;
            Value::Null
        });
        self.results.insert(name.to_owned(), value);
    }

    /// What each part came to.
    ///
    /// # Errors
    /// If every part failed.
    pub fn end(self) -> Result<Value, Error> {
        if self.failed == self.results.len() {
            return Err(format!("every part of {} failed", self.name).into());
        }
        let results = Value::Object(self.results);
        tracing::info!(result = %results, "{} ends", self.name);
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tick(seconds: u64) -> Tick {
        Tick { id: "t".to_owned(), remaining: Duration::from_secs(seconds) }
    }

    #[tokio::test]
    async fn a_part_that_fails_hides_no_other_and_the_tick_fails_only_with_all_of_them() {
        let mut some = Schedule::begin("x", &tick(60), Duration::ZERO);
        some.part("a", async |_| Err::<(), _>("away")).await;
        some.part("b", async |_| Ok::<_, String>(2)).await;
        assert_eq!(some.end().unwrap(), json!({ "a": null, "b": 2 }));
        let mut none = Schedule::begin("x", &tick(60), Duration::ZERO);
        none.part("a", async |_| Err::<(), _>("away")).await;
        none.part("b", async |_| Err::<(), _>("away")).await;
        assert_eq!(none.end().unwrap_err().to_string(), "every part of x failed");
    }

    #[tokio::test]
    async fn a_parts_deadline_leaves_what_is_kept_back() {
        let mut schedule = Schedule::begin("x", &tick(60), Duration::from_secs(10));
        let end = schedule.end;
        let left = async |deadline: Instant| Ok::<_, String>((end - deadline).as_secs());
        schedule.part("usual", left).await;
        schedule.part_keeping(Duration::from_secs(30), "more", left).await;
        assert_eq!(schedule.end().unwrap(), json!({ "usual": 10, "more": 30 }));
    }
}
