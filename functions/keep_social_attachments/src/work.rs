//! The job: all files of an organisation's messages that are due, one after another.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::json;
use shared::{
    db::{Database, ServiceTx},
    jobs::End,
    objects::ObjectPath,
    store::social_attachments::{self, Became, Taken},
    telemetry::{Unit, metric},
    worker::{Finish, GIVING_BACK, Held, Stop, Work},
};

use crate::{
    fetch::{self, Halt},
    state::State,
};

/// How many files one invocation takes on, so that one organisation does not keep the others waiting. The rest follows in the next.
const MOST: usize = 40;
/// What one file may take: to ask for its address, to fetch it twice, and to store it. With less time left none is begun.
const ONE: Duration = Duration::from_secs(80);
/// How often a file is tried, over an hour or so.
const MOST_ATTEMPTS: i32 = 8;

/// Works on files.
pub(crate) struct Files<'a>(pub(crate) &'a State);

/// Nothing: the job is about all that waits.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Payload {}

/// How many files became what.
pub(crate) type Tally = BTreeMap<&'static str, usize>;

impl Work for Files<'_> {
    type Payload = Payload;
    type Plan = ();
    type Done = Tally;

    const NAME: &'static str = "social_attachments";
    const JOB_TYPES: &'static [&'static str] = &["social_attachments"];
    const SWITCH: Option<&'static str> = Some("social.enabled");
    const LEASE: TimeDelta = TimeDelta::minutes(2);

    fn db(&self) -> &Database {
        &self.0.db
    }

    fn now(&self) -> DateTime<Utc> {
        (self.0.clock)()
    }

    async fn prepare(&self, _: &mut ServiceTx, _: &Held<Payload>) -> Result<(), Stop> {
        Ok(())
    }

    async fn work(&self, held: &Held<Payload>, (): &(), deadline: Instant) -> Result<Tally, Stop> {
        let org_id = held.job.org_id;
        let until = deadline.checked_sub(GIVING_BACK + ONE).unwrap_or(deadline);
        let mut tally = Tally::new();
        for number in 0..MOST {
            // One at least, so that this gets somewhere.
            if number > 0 && Instant::now() >= until {
                break;
            }
            // A file's row is locked before the job's, as where a message is written.
            let taken = self.0.db.service(org_id, async |tx| {
                let taken = social_attachments::take(tx, org_id).await?;
                held.go_on(tx).await?;
                Ok::<_, Stop>(taken)
            });
            let Some(taken) = taken.await? else { break };
            let became = match self.one(held, &taken).await {
                Ok(became) | Err(Halt::Became(became)) => became,
                Err(Halt::Stop(stop)) => return Err(stop),
            };
            let is_so = self.0.db.service(org_id, async |tx| {
                let is_so = social_attachments::end(tx, org_id, taken.id, &became).await?;
                held.go_on(tx).await?;
                Ok::<_, Stop>(is_so)
            });
            let name = if is_so.await? { name(&became) } else { "unwanted" };
            *tally.entry(name).or_default() += 1;
        }
        Ok(tally)
    }

    async fn finish(&self, tx: &mut ServiceTx, held: &Held<Payload>, (): &(), done: &Tally) -> Result<Finish, Stop> {
        // After this, a message that finds the job open has its files seen here, and another finds it ended.
        held.lock(tx).await?;
        let now = self.now();
        let end = match social_attachments::next_at(tx, held.job.org_id).await? {
            None => End::Succeeded { result: json!(done), tokens: 0 },
            Some(next) if next <= now => End::Later { run_after: now, waiting: None, error: None, counts: false },
            Some(next) => {
                let waiting = Some(json!({ "reason": "files_wait", "until": next }));
                End::Later { run_after: next, waiting, error: None, counts: false }
            }
        };
        Ok(Finish { end, used: None })
    }

    async fn finished(&self, held: &Held<Payload>, (): &(), done: &Tally, end: &End, _took: Duration) {
        let now = self.now();
        if matches!(end, End::Later { run_after, .. } if *run_after <= now) {
            self.0.queue.wake(held.job.id, held.job.org_id).await; // best effort: the sweep finds what this loses
        }
        for (outcome, number) in done {
            #[expect(clippy::cast_precision_loss, reason = "files of one job")]
            metric(now, "SocialAttachments", Unit::Count, *number as f64, &[("outcome", outcome)]);
        }
    }
}

impl Files<'_> {
    /// Works on one file.
    async fn one(&self, held: &Held<Payload>, taken: &Taken) -> Result<Became, Halt> {
        let org_id = held.job.org_id;
        if taken.status == "deleting" {
            return Ok(self.delete(held, taken).await);
        }
        if taken.attempts > MOST_ATTEMPTS {
            let code = taken.code.clone().unwrap_or_else(|| "attempts_exhausted".to_owned());
            return Ok(Became::Failed(code));
        }
        let source = self.0.db.service(org_id, async |tx| social_attachments::source(tx, org_id, taken).await).await?;
        let Some(source) = source else { return Ok(Became::Unwanted) };
        let file = fetch::file(self.0, org_id, taken, &source).await?;
        let path = ObjectPath::attachment(org_id, taken.message_id, taken.id, file.kind.extension());
        let is_wanted = self.0.db.service(org_id, async |tx| {
            let is_wanted = social_attachments::place(tx, org_id, taken.id, path.key()).await?;
            held.go_on(tx).await?;
            Ok::<_, Stop>(is_wanted)
        });
        if !is_wanted.await? {
            return Ok(Became::Unwanted);
        }
        let bytes = i64::try_from(file.bytes.len()).unwrap_or(i64::MAX);
        let content_type = file.kind.mime();
        if let Err(error) = self.0.objects.for_org(org_id).put(&path, file.bytes, content_type).await {
            tracing::warn!(%error, "a file was not stored");
            return Ok(fetch::later("storage_unavailable", taken));
        }
        Ok(Became::Kept { content_type, bytes })
    }

    /// Deletes the file of a message that was deleted. Twice is once.
    async fn delete(&self, held: &Held<Payload>, taken: &Taken) -> Became {
        let org_id = held.job.org_id;
        let extension = taken.path.as_deref().and_then(|path| path.rsplit_once('.')).map(|(_, extension)| extension);
        if let Some(extension) = extension {
            let path = ObjectPath::attachment(org_id, taken.message_id, taken.id, extension);
            if let Err(error) = self.0.objects.for_org(org_id).delete(&path).await {
                tracing::warn!(%error, "a file was not deleted");
                return fetch::later("storage_unavailable", taken);
            }
        }
        Became::Deleted
    }
}

/// What a metric calls what became of a file.
const fn name(became: &Became) -> &'static str {
    match became {
        Became::Kept { .. } => "kept",
        Became::Refused(_) => "refused",
        Became::Gone(_) => "gone",
        Became::Failed(_) => "failed",
        Became::Later { .. } => "later",
        Became::Deleted => "deleted",
        Became::Unwanted => "unwanted",
    }
}
