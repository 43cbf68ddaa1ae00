//! Delivers mail: due ones of every organisation, each a batch in turn. A mail arrives at least once; what failed is tried again for
//! hours, and given up with a metric.

use std::time::Instant;

use chrono::Utc;
use shared::{
    mail::{Mail, MailError, Session},
    store::{
        StoreError,
        mails::{self, ClaimedMail},
        outbox,
    },
    telemetry::{Unit, metric},
};
use uuid::Uuid;

use crate::state::State;

/// How many mails of one organisation are delivered before it is another's turn.
const TURN: i32 = 20;
/// How many organisations have a turn in one round.
const ROUND: i32 = 500;
/// How often a mail is tried before it is given up: for about five hours.
const ATTEMPTS: i32 = 10;
/// After how many answers that did not come the server is taken to be away.
const LOST: usize = 2;

/// Delivers until `deadline`. How many mails the server took.
pub(crate) async fn deliver(state: &State, deadline: Instant) -> Result<usize, StoreError> {
    let Some(mailer) = &state.mailer else { return Ok(0) };
    let mut run = Run { deadline, delivered: 0, lost: 0 };
    let mut orgs = due(state).await?;
    if orgs.is_empty() {
        return Ok(0);
    }
    // Before anything is taken: while the server is away, no mail counts as tried.
    let session = match mailer.open().await {
        Ok(session) => session,
        Err(error) => {
            tracing::error!(%error, "no mail is delivered for now");
            return Ok(0);
        }
    };
    while !orgs.is_empty() {
        for org in std::mem::take(&mut orgs) {
            if !run.goes_on() || !run.turn(state, &session, org).await? {
                session.close().await;
                return Ok(run.delivered);
            }
        }
        // Each was taken, and none of them is due again at once.
        orgs = due(state).await?;
    }
    session.close().await;
    Ok(run.delivered)
}

async fn due(state: &State) -> Result<Vec<Uuid>, StoreError> {
    state.db.directory(async |tx| mails::due_orgs(tx, ROUND).await).await
}

/// One sweep's deliveries.
struct Run {
    deadline: Instant,
    delivered: usize,
    lost: usize,
}

impl Run {
    fn goes_on(&self) -> bool {
        self.lost < LOST && Instant::now() < self.deadline
    }

    /// Delivers a batch of an organisation. False if no more is to be tried for now.
    async fn turn(&mut self, state: &State, session: &Session<'_>, org: Uuid) -> Result<bool, StoreError> {
        let claimed = state.db.service(org, async |tx| mails::claim(tx, TURN).await).await?;
        let mut claimed = claimed.into_iter();
        while self.goes_on() {
            let Some(mail) = claimed.next() else { return Ok(true) };
            let outcome = self.send(session, &mail).await;
            // Written for each at once: a crash repeats one mail, not all of a batch.
            let id = mail.id;
            state
                .db
                .service(org, async |tx| match &outcome {
                    Outcome::Delivered => outbox::update_delivered(tx, &[id]).await,
                    Outcome::PutOff(why) => mails::update_put_off(tx, id, why).await,
                    Outcome::Dropped(why) => mails::update_dropped(tx, id, why).await,
                })
                .await?;
        }
        let left: Vec<Uuid> = claimed.map(|mail| mail.id).collect();
        state.db.service(org, async |tx| outbox::release(tx, &left, "no time, or no server").await).await?;
        Ok(false)
    }

    async fn send(&mut self, session: &Session<'_>, claimed: &ClaimedMail) -> Outcome {
        let (Some(to), Some(id), None) = (&claimed.address, claimed.message_id, &claimed.dropped) else {
            let why = claimed.dropped.as_deref().unwrap_or("no_address");
            metric(Utc::now(), "MailDropped", Unit::Count, 1.0, &[("why", why)]);
            return Outcome::Dropped(why.to_owned());
        };
        let mail = Mail {
            id,
            to,
            language: claimed.language.as_deref(),
            kind: &claimed.kind,
            subject: &claimed.subject,
            organization: &claimed.organization,
            token: claimed.token.as_deref(),
        };
        let error = match session.send(&mail).await {
            Ok(()) => {
                self.delivered += 1;
                return Outcome::Delivered;
            }
            Err(error) => error,
        };
        self.lost += usize::from(matches!(error, MailError::Lost(_)));
        tracing::warn!(outbox.id = %claimed.id, mail.kind = claimed.kind, attempts = claimed.attempts, %error, "a mail was not delivered");
        if matches!(error, MailError::Refused(_)) || claimed.attempts >= ATTEMPTS {
            metric(Utc::now(), "MailFailed", Unit::Count, 1.0, &[]);
            return Outcome::Dropped(error.to_string());
        }
        Outcome::PutOff(error.to_string())
    }
}

/// What became of a mail.
enum Outcome {
    Delivered,
    PutOff(String),
    Dropped(String),
}
