//! The job: what was delivered for an organisation, merged into its inbox.

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
    store::{
        StoreError,
        social::{self, Account},
        social_events::{self, Event, Outcome},
        social_figures,
        social_tokens::Lost,
    },
    telemetry::{Unit, metric},
    tokens,
    worker::{Finish, GIVING_BACK, Held, Stop, Work},
};
use uuid::Uuid;

use crate::{read::read, said::Read, state::State};

/// What is left for a page when the last one is begun.
const PAGE_TIME: Duration = Duration::from_secs(10);
/// How many entries one transaction takes.
const PAGE: i64 = 50;

/// Works on what was delivered.
pub(crate) struct Events<'a>(pub(crate) &'a State);

/// Nothing: the job is about all that waits.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Payload {}

/// What became of entries.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    applied: usize,
    ignored: usize,
    unparsed: usize,
    failed: usize,
    messages: usize,
}

impl Work for Events<'_> {
    type Payload = Payload;
    type Plan = ();
    type Done = Tally;

    const NAME: &'static str = "social_events";
    const JOB_TYPES: &'static [&'static str] = &["social_events"];
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
        // The worker's own deadline cuts a page off: none is begun shortly before it.
        let until = deadline.checked_sub(GIVING_BACK + PAGE_TIME).unwrap_or(deadline);
        let mut tally = Tally::default();
        while Instant::now() < until {
            let mut tried = Vec::new();
            let done = match self.page(held, None, &mut tried).await {
                // One of them is to blame: each by itself, so that it keeps none of the others.
                Err(Stop::Unavailable(error)) if is_final(error.as_ref()) && !tried.is_empty() => {
                    let mut done = Vec::new();
                    for id in tried {
                        if Instant::now() < until {
                            done.extend(self.one(held, id).await?);
                        }
                    }
                    done
                }
                other => other?,
            };
            if done.is_empty() {
                break;
            }
            for outcome in done {
                tally.add(&outcome);
            }
        }
        Ok(tally)
    }

    async fn finish(&self, tx: &mut ServiceTx, held: &Held<Payload>, (): &(), done: &Tally) -> Result<Finish, Stop> {
        // After this, all entries of deliveries that found the job open are to be seen. Before the job's row: a delivery that finds it ended
        // holds the same lock, and takes the row then.
        social_events::lock_deliveries(tx).await?;
        held.lock(tx).await?;
        let end = if social_events::has_events(tx, held.job.org_id).await? {
            End::Later { run_after: self.now(), waiting: None, error: None, counts: false }
        } else {
            End::Succeeded { result: done.result(), tokens: 0 }
        };
        Ok(Finish { end, used: None })
    }

    async fn finished(&self, held: &Held<Payload>, (): &(), done: &Tally, end: &End, took: Duration) {
        if matches!(end, End::Later { .. }) {
            self.0.events.wake(held.job.id, held.job.org_id).await;
        }
        let now = self.now();
        for (outcome, number) in [("failed", done.failed), ("unparsed", done.unparsed)] {
            if number > 0 {
                #[expect(clippy::cast_precision_loss, reason = "entries of one job")]
                metric(now, "SocialEventsFailed", Unit::Count, number as f64, &[("outcome", outcome)]);
            }
        }
        tracing::debug!(applied = done.applied, ms = took.as_millis(), "deliveries merged");
    }
}

/// What a page came to, entry by entry, with how many messages are new.
type Done = Vec<(Outcome, usize)>;

/// What is to follow a page.
#[derive(Debug, Default)]
struct Wanted {
    /// Accounts that are to be read.
    readings: Vec<Uuid>,
    /// The job that fetches files of messages, if it is to be woken.
    files_job: Option<Uuid>,
}

impl Events<'_> {
    /// Merges a page of what waits, or the entry `only`, in one transaction. `tried` holds the ids of the entries, even where that fails.
    async fn page(&self, held: &Held<Payload>, only: Option<Uuid>, tried: &mut Vec<Uuid>) -> Result<Done, Stop> {
        let org_id = held.job.org_id;
        let mut wanted = Wanted::default();
        let done = self.0.db.service(org_id, async |tx| {
            let events = social_events::lock_events(tx, org_id, only, PAGE).await?;
            *tried = events.iter().map(|event| event.id).collect();
            let mut by_account: BTreeMap<(String, String), Vec<Event>> = BTreeMap::new();
            for event in events {
                by_account.entry((event.provider.clone(), event.account.clone())).or_default().push(event);
            }
            let mut done = Vec::new();
            for ((provider, account), events) in by_account {
                match social::hold_account_of(tx, org_id, &provider, &account).await? {
                    Some(account) if account.status != "disconnected" => {
                        done.extend(self.merge(tx, org_id, &account, &events, &mut wanted).await?);
                    }
                    // Disconnected since it was stored.
                    _ => done.extend(events.iter().map(|event| {
                        let error = Some("account_disconnected".to_owned());
                        (Outcome { id: event.id, status: "ignored", error }, 0)
                    })),
                }
            }
            let outcomes: Vec<Outcome> = done.iter().map(|(outcome, _)| outcome.clone()).collect();
            social_events::end_events(tx, org_id, &outcomes).await?;
            // At the end, so that the job's row is locked no longer than it must be.
            held.go_on(tx).await?;
            Ok::<_, Stop>(done)
        });
        let done = done.await?;
        // In transactions of their own: a reading locks its job before the inbox.
        for account in wanted.readings {
            let job = self.0.db.service(org_id, async |tx| social::admit_fetch(tx, account).await).await?;
            if let Some(job) = job {
                self.0.readings.wake(job, org_id).await;
            }
        }
        if let Some(job) = wanted.files_job {
            self.0.files.wake(job, org_id).await; // best effort: the sweep finds what this loses
        }
        Ok(done)
    }

    /// Merges entries of one account.
    async fn merge(
        &self,
        tx: &mut ServiceTx,
        org_id: Uuid,
        account: &Account,
        events: &[Event],
        wanted: &mut Wanted,
    ) -> Result<Done, Stop> {
        let now = self.now();
        let reads: Vec<(&Event, Read)> =
            events.iter().map(|event| (event, read(&event.provider, &event.account, &event.raw))).collect();
        let all: Vec<_> = reads.iter().flat_map(|(_, read)| read.observations.iter().cloned()).collect();
        let merged = social::merge(tx, org_id, account.id, &all, now).await?;
        wanted.files_job = wanted.files_job.or(merged.files_job);
        let figures: Vec<_> = reads.iter().flat_map(|(_, read)| read.figures.iter().cloned()).collect();
        if !figures.is_empty() {
            social_figures::keep_figures(tx, org_id, account.id, &figures).await?;
        }
        social_events::note_event(tx, org_id, account.id).await?;
        let removed = reads.iter().filter_map(|(_, read)| read.removed).max().and_then(DateTime::from_timestamp_millis);
        if let Some(at) = removed {
            tokens::lose_consent(tx, org_id, account.id, Lost::AuthorizationRemoved, at, None).await?;
        }
        if reads.iter().any(|(_, read)| read.fetch) {
            wanted.readings.push(account.id);
        }
        let mut done = Vec::with_capacity(reads.len());
        let mut new = merged.new;
        for (event, read) in reads {
            let mut outcome = Outcome { id: event.id, status: read.status(), error: None };
            if read.unparsed > 0 {
                outcome.error = Some("parts_unparsed".to_owned());
            }
            // Which of them it was that could not be kept: merged once more, nothing else changes.
            if merged.left_out > 0 && social::merge(tx, org_id, account.id, &read.observations, now).await?.left_out > 0
            {
                outcome = Outcome { status: "unparsed", error: Some("parts_out_of_range".to_owned()), ..outcome };
            }
            done.push((outcome, std::mem::take(&mut new)));
        }
        Ok(done)
    }

    /// Merges one entry. If the database refuses it, it is marked as failed, and a person looks at it. It is named by its id: entries that are
    /// delivered meanwhile change which comes first.
    async fn one(&self, held: &Held<Payload>, id: Uuid) -> Result<Done, Stop> {
        match self.page(held, Some(id), &mut Vec::new()).await {
            Err(Stop::Unavailable(error)) if is_final(error.as_ref()) => {
                let org_id = held.job.org_id;
                let code = code(error.as_ref());
                tracing::error!(code, "an entry could not be merged");
                let failed = self.0.db.service(org_id, async |tx| {
                    held.go_on(tx).await?;
                    if social_events::lock_events(tx, org_id, Some(id), 1).await?.is_empty() {
                        return Ok(Vec::new());
                    }
                    let error = Some(format!("the database refused it: {code}"));
                    let outcome = Outcome { id, status: "failed", error };
                    social_events::end_events(tx, org_id, std::slice::from_ref(&outcome)).await?;
                    Ok::<_, Stop>(vec![(outcome, 0)])
                });
                failed.await
            }
            other => other,
        }
    }
}

impl Tally {
    fn add(&mut self, (outcome, new): &(Outcome, usize)) {
        match outcome.status {
            "applied" => self.applied += 1,
            "ignored" => self.ignored += 1,
            "unparsed" => self.unparsed += 1,
            _ => self.failed += 1,
        }
        self.messages += new;
    }

    fn result(&self) -> serde_json::Value {
        json!({ "applied": self.applied, "ignored": self.ignored, "unparsed": self.unparsed, "failed": self.failed,
                "new_messages": self.messages })
    }
}

fn code(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    error.downcast_ref::<StoreError>().and_then(StoreError::database_code).unwrap_or_default()
}

/// Whether the data is to blame: values out of range, constraints, limits. All else may pass.
fn is_final(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let code = code(error);
    ["22", "23", "54", "PT422"].iter().any(|class| code.starts_with(class))
}
