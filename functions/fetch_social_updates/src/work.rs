//! The job: one reading of one account.

use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    db::{Database, ServiceTx},
    jobs::{self, End},
    store::{
        StoreError,
        social::{self, Fetched},
        social_reading, social_tokens,
    },
    tokens::{AccessToken, TokenError},
    worker::{Failure, Finish, Stop, Work},
};
use uuid::Uuid;

use crate::{
    comments, figures,
    job::{Cursor, Done, Held, Payload, Plan, Stream, disconnected, may_be_read, reconsent},
    posts,
    reading::{self, Reading, Unread},
    state::State,
    talks,
};

/// How often an account is read: every fifteen minutes, a fifth more or less.
const EVERY_S: i64 = 15 * 60;

/// Works on readings.
pub(crate) struct Readings<'a>(pub(crate) &'a State);

impl Work for Readings<'_> {
    type Payload = Payload;
    type Plan = Plan;
    type Done = Done;

    const NAME: &'static str = "fetch_social_updates";
    const JOB_TYPES: &'static [&'static str] = &["social_fetch"];
    const SWITCH: Option<&'static str> = Some("social.enabled");
    const LEASE: TimeDelta = TimeDelta::minutes(2);

    fn db(&self) -> &Database {
        &self.0.db
    }

    fn now(&self) -> DateTime<Utc> {
        (self.0.clock)()
    }

    async fn prepare(&self, tx: &mut ServiceTx, held: &Held) -> Result<Plan, Stop> {
        let (org_id, account_id) = (held.job.org_id, held.payload.account_id);
        let account = social::hold_account(tx, org_id, account_id).await?;
        let account = account.ok_or_else(disconnected)?;
        may_be_read(&account.status)?;
        Ok(Plan { begun: social_reading::begin(tx, org_id, account_id).await?, account })
    }

    async fn work(&self, held: &Held, plan: &Plan, deadline: Instant) -> Result<Done, Stop> {
        let token = self.token(held).await?;
        let reading = Reading { state: self.0, held, plan, token, deadline };
        if plan.account.unsubscribed {
            self.subscribe(&reading).await?;
        }
        let mut done = Done::default();
        let mut moved = false;
        for stream in Stream::ALL {
            match plan.begun.streams.get(stream.name()) {
                None => continue,
                Some(Some(why)) => {
                    done.left_out.insert(stream.name(), why.clone());
                    continue;
                }
                Some(None) => {}
            }
            if plan.is_served(stream) {
                done.read.insert(stream.name(), plan.cursor(stream).result);
                continue;
            }
            // Boxed, since all streams within each other are more than the compiler will lay out.
            match Box::pin(read(&reading, stream)).await {
                Ok(result) => {
                    moved = true;
                    done.read.insert(stream.name(), result);
                }
                // The others would be kept waiting as well.
                Err(Unread::Away) if !moved => return Err(Stop::Retry(away())),
                Err(Unread::Away) => {
                    done.failed.insert(stream.name(), "platform_unavailable");
                    break;
                }
                Err(Unread::Stream(code)) => {
                    tracing::warn!(stream = stream.name(), code, "something of a social account was not read");
                    done.failed.insert(stream.name(), code);
                }
                Err(Unread::Refused(error)) => {
                    tracing::warn!(stream = stream.name(), %error, "something of a social account was refused");
                    done.failed.insert(stream.name(), reading::code(&error));
                }
                Err(Unread::Stop(stop)) => return Err(stop),
            }
        }
        if !moved && done.read.is_empty() && done.failed.values().any(|code| *code == "platform_failed") {
            return Err(Stop::Retry(away()));
        }
        Ok(done)
    }

    async fn finish(&self, tx: &mut ServiceTx, held: &Held, plan: &Plan, done: &Done) -> Result<Finish, Stop> {
        held.lock(tx).await?;
        let began_at = plan.begun.began_at;
        let fetched = Fetched { began_at, error: done.error(), next_at: next_at(held.payload.account_id, self.now()) };
        social::end_fetch(tx, held.job.org_id, held.payload.account_id, &fetched).await?;
        Ok(Finish { end: End::Succeeded { result: done.result(began_at), tokens: 0 }, used: None })
    }

    async fn stopped(&self, tx: &mut ServiceTx, held: &Held, end: &End) -> Result<(), StoreError> {
        let now = self.now();
        let next_at = next_at(held.payload.account_id, now);
        let error = match end {
            End::Failed { error } => error["code"].as_str().unwrap_or("failed"),
            End::Cancelled => "cancelled",
            _ => return Ok(()),
        };
        let fetched = Fetched { began_at: now, error: Some(error), next_at };
        social::end_fetch(tx, held.job.org_id, held.payload.account_id, &fetched).await
    }
}

impl Readings<'_> {
    async fn token(&self, held: &Held) -> Result<AccessToken, Stop> {
        match self.0.tokens.access(held.job.org_id, held.payload.account_id).await {
            Ok(token) => Ok(token),
            Err(TokenError::NotConnected) => Err(disconnected()),
            Err(TokenError::Reconnect) => Err(reconsent()),
            Err(TokenError::Seal(error)) => {
                tracing::error!(%error, "a token cannot be opened");
                Err(Stop::failed("token_unreadable", "The stored token cannot be opened; connect the account again."))
            }
            Err(error @ (TokenError::Busy | TokenError::Provider(_))) => {
                tracing::warn!(%error, "there is no access token");
                Err(Stop::Retry(away()))
            }
            Err(error @ (TokenError::Secret(_) | TokenError::Store(_) | TokenError::Db(_))) => {
                Err(Stop::Unavailable(Box::new(error)))
            }
        }
    }

    /// Asks the platform to deliver what happens to the account. Where that fails the next reading asks again: what is not delivered is read.
    async fn subscribe(&self, reading: &Reading<'_>) -> Result<(), Stop> {
        let account = &reading.plan.account;
        let asked = self.0.instagram.subscribe(reading.token.expose(), &account.platform_id, &account.scopes).await;
        if let Err(error) = asked {
            tracing::warn!(%error, "an account's deliveries were not asked for");
            return Ok(());
        }
        let (org_id, account_id) = (reading.org_id(), reading.account_id());
        self.0
            .db
            .service(org_id, async |tx| Ok::<_, Stop>(social_tokens::subscribed(tx, org_id, account_id).await?))
            .await
    }
}

/// Reads a stream to its end and writes down how far it is. What it came to, for people to see.
async fn read(reading: &Reading<'_>, stream: Stream) -> Result<Value, Unread> {
    let mut cursor = reading.plan.cursor(stream);
    let begun = &reading.plan.begun;
    let read = match stream {
        Stream::Messages => talks::read(reading, &mut cursor).await,
        Stream::Media => posts::read(reading, &mut cursor).await,
        Stream::Comments => comments::read(reading, &mut cursor).await,
        Stream::AccountFigures => figures::of_account(reading, &mut cursor).await,
        Stream::MediaFigures => figures::of_posts(reading, &mut cursor).await,
    };
    match read {
        Ok(()) => keep_cursor(reading, stream, &cursor, begun.began_at).await?,
        // It goes on later, and is not served before.
        Err(error @ (Unread::Stop(Stop::Snooze { .. }) | Unread::Stream(_) | Unread::Refused(_) | Unread::Away)) => {
            let before = begun.cursors.get(stream.name()).map(|(at, _)| *at).or(begun.wanted_at);
            keep_cursor(reading, stream, &cursor, before.unwrap_or(begun.began_at)).await?;
            return Err(error);
        }
        Err(error) => return Err(error),
    }
    Ok(cursor.result)
}

async fn keep_cursor(
    reading: &Reading<'_>,
    stream: Stream,
    cursor: &Cursor,
    began_at: DateTime<Utc>,
) -> Result<(), Unread> {
    let kept = reading.keep(async |tx| {
        let kept = serde_json::to_value(cursor).map_err(|error| Stop::Unavailable(Box::new(error)))?;
        let (org, account) = (reading.org_id(), reading.account_id());
        social_reading::keep_cursor(tx, org, account, stream.name(), &kept, began_at).await?;
        jobs::show_progress(tx, &reading.held.job, &json!({ "read": stream.name() })).await?;
        Ok(())
    });
    kept.await
}

/// When an account is to be read next. Its id spreads accounts over time.
fn next_at(account_id: Uuid, now: DateTime<Utc>) -> DateTime<Utc> {
    let spread = i64::try_from(account_id.as_u128() % 361).unwrap_or_default();
    now + TimeDelta::seconds(EVERY_S * 4 / 5 + spread)
}

fn away() -> Failure {
    Failure::new("platform_unavailable", "The platform did not answer as it should.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read_every_twelve_to_eighteen_minutes_each_at_its_own_time() {
        let now = Utc::now();
        let waits: Vec<i64> =
            (0..1000_u128).map(|id| (next_at(Uuid::from_u128(id), now) - now).num_seconds()).collect();
        assert_eq!((waits.iter().min(), waits.iter().max()), (Some(&720), Some(&1080)));
    }
}
