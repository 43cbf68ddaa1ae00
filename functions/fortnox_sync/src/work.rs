//! The job: one reading of an organisation's Fortnox.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use shared::{
    books::Reader,
    db::{Database, ServiceTx},
    jobs::End,
    store::{
        fortnox::{self, Ended},
        integrations,
    },
    tokens::{AccessToken, TokenError},
    worker::{Failure, Finish, Stop, Work},
};

use crate::{
    job::{Held, Payload, Plan},
    pass::Pass,
    reading::Reading,
    state::State,
};

/// As `org_integrations.provider` has it.
const PROVIDER: &str = "fortnox";
/// What is left of the invocation's time when no call is waited for any more: a call, and putting the job back.
const KEPT_BACK: Duration = Duration::from_secs(15);

/// Works on readings.
pub(crate) struct Readings<'a>(pub(crate) &'a State);

impl Work for Readings<'_> {
    type Payload = Payload;
    type Plan = Plan;
    type Done = Pass;

    const NAME: &'static str = "fortnox_sync";
    const JOB_TYPES: &'static [&'static str] = &["fortnox_sync"];
    const SWITCH: Option<&'static str> = Some("fortnox.enabled");
    const LEASE: TimeDelta = TimeDelta::minutes(2);

    fn db(&self) -> &Database {
        &self.0.db
    }

    fn now(&self) -> DateTime<Utc> {
        (self.0.clock)()
    }

    async fn prepare(&self, tx: &mut ServiceTx, held: &Held) -> Result<Plan, Stop> {
        let org_id = held.job.org_id;
        let connection = integrations::find(tx, org_id, PROVIDER).await?;
        let status = connection.as_ref().map_or("none", |found| found.status.as_str());
        let tenant = match (status, connection.as_ref().and_then(|found| found.tenant.as_deref())) {
            ("connected", Some(tenant)) => tenant,
            ("reconnect" | "expired" | "revoked", _) => return Err(reconnect()),
            _ => return Err(not_connected()),
        };
        let state = fortnox::begin_sync(tx, org_id, tenant).await?;
        let pass = Pass::of(&state, self.now());
        Ok(Plan { pass, customers_since: state.customers_since, accounts_since: state.accounts_since })
    }

    async fn work(&self, held: &Held, plan: &Plan, deadline: Instant) -> Result<Pass, Stop> {
        let token = self.token(held).await?;
        let state = self.0;
        let reader = Reader {
            fortnox: &state.fortnox,
            pace: &state.pace,
            access_token: token.expose(),
            org_id: held.job.org_id,
            deadline: deadline.checked_sub(KEPT_BACK).unwrap_or(deadline).into(),
        };
        let mut reading = Reading { state, held, plan, reader, deadline, pass: plan.pass.clone(), moved: false };
        reading.run().await?;
        Ok(reading.pass)
    }

    async fn finish(&self, tx: &mut ServiceTx, held: &Held, _: &Plan, done: &Pass) -> Result<Finish, Stop> {
        held.lock(tx).await?;
        let result = done.result();
        let ended = Ended {
            began_at: done.began_at,
            full: done.full,
            customers: !done.failed.contains_key("customers"),
            accounts: ["years", "accounts"].iter().all(|resource| !done.failed.contains_key(*resource)),
            result: &result,
        };
        fortnox::end_pass(tx, held.job.org_id, &ended).await?;
        Ok(Finish { end: End::Succeeded { result, tokens: 0 }, used: None })
    }
}

impl Readings<'_> {
    async fn token(&self, held: &Held) -> Result<AccessToken, Stop> {
        match self.0.tokens.access(held.job.org_id).await {
            Ok(token) => Ok(token),
            Err(TokenError::NotConnected) => Err(not_connected()),
            Err(TokenError::Reconnect) => Err(reconnect()),
            Err(TokenError::Seal(error)) => {
                tracing::error!(%error, "a token cannot be opened");
                Err(Stop::failed("token_unreadable", "The stored tokens cannot be opened; connect Fortnox again."))
            }
            Err(TokenError::Busy | TokenError::Provider(_)) => {
                Err(Stop::Retry(Failure::new("fortnox_unavailable", "Fortnox issued no token.")))
            }
            Err(error @ (TokenError::Secret(_) | TokenError::Store(_) | TokenError::Db(_))) => {
                Err(Stop::Unavailable(Box::new(error)))
            }
        }
    }
}

fn not_connected() -> Stop {
    Stop::failed("fortnox_not_connected", "Fortnox is not connected.")
}

fn reconnect() -> Stop {
    Stop::failed("fortnox_reconnect", "A person must connect Fortnox again.")
}
