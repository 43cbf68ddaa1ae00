//! Jobs, from claim to their end, as [`shared::worker`] has them worked on.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use shared::{
    db::{Database, ServiceTx},
    jobs::End,
    store::accounting::{self, Sent, Step},
    telemetry::{Unit, metric},
    worker::{Failure, Finish, Stop, Work},
};
use uuid::Uuid;

use crate::{
    compare::{self, Compared},
    job::{Held, Payload, SWITCH},
    payments::{self, Paid},
    send,
    state::State,
};

/// How long a job waits after Fortnox did not answer, or refused at the door.
const AGAIN: TimeDelta = TimeDelta::seconds(4);

/// What was gathered as the job was claimed.
pub(crate) enum Plan {
    Write(Uuid, Box<Step>),
    Reconcile,
    Payments,
}

/// What came of it.
pub(crate) enum Done {
    Sent(Uuid, Sent),
    Compared(String, Vec<Compared>),
    Paid(Paid),
}

/// The worker.
pub(crate) struct Writes<'a>(pub(crate) &'a State);

impl Work for Writes<'_> {
    type Payload = Payload;
    type Plan = Plan;
    type Done = Done;

    const NAME: &'static str = "accounting write";
    const JOB_TYPES: &'static [&'static str] = &["accounting_write", "accounting_reconcile", "accounting_payments"];
    const SWITCH: Option<&'static str> = Some(SWITCH);
    /// Longer than an invocation.
    const LEASE: TimeDelta = TimeDelta::minutes(3);

    fn db(&self) -> &Database {
        &self.0.db
    }

    fn now(&self) -> DateTime<Utc> {
        (self.0.clock)()
    }

    async fn prepare(&self, tx: &mut ServiceTx, held: &Held) -> Result<Plan, Stop> {
        let approval_id = match &held.payload {
            Payload::Write { approval_id } => *approval_id,
            Payload::Reconcile {} => return Ok(Plan::Reconcile),
            Payload::Payments {} => return Ok(Plan::Payments),
        };
        match accounting::step(tx, approval_id).await? {
            None => Err(Stop::failed("approval_not_found", "There is no such approval.")),
            // Refused or expired since, or a comparison has settled it.
            Some(step) if step.step == "ended" => Err(Stop::Cancelled),
            Some(step) if step.step == "busy" => Err(send::busy(self.0)),
            Some(step) => Ok(Plan::Write(approval_id, Box::new(step))),
        }
    }

    async fn work(&self, held: &Held, plan: &Plan, deadline: Instant) -> Result<Done, Stop> {
        Ok(match plan {
            Plan::Write(id, step) => Done::Sent(*id, send::send(self.0, held, *id, step, deadline).await?),
            Plan::Reconcile => {
                let (company, compared) = compare::compare(self.0, held.job.org_id, deadline).await?;
                Done::Compared(company, compared)
            }
            Plan::Payments => Done::Paid(payments::read(self.0, held.job.org_id, deadline).await?),
        })
    }

    async fn finish(&self, tx: &mut ServiceTx, held: &Held, _plan: &Plan, done: &Done) -> Result<Finish, Stop> {
        held.lock(tx).await?;
        let end = match done {
            Done::Sent(id, sent) => {
                accounting::end(tx, *id, sent).await?;
                self.end_of(*id, sent)
            }
            Done::Compared(company, compared) => {
                let mut problems = 0;
                for Compared { series, found, settled } in compared {
                    accounting::keep_comparison(tx, held.job.org_id, company, series, found).await?;
                    for (approval_id, sent) in settled {
                        accounting::end(tx, *approval_id, sent).await?;
                    }
                    problems += found.problems.as_array().map_or(0, Vec::len);
                }
                End::Succeeded { result: json!({ "series": compared.len(), "problems": problems }), tokens: 0 }
            }
            Done::Paid(paid) => {
                End::Succeeded { result: payments::propose(tx, held.job.org_id, paid).await?, tokens: 0 }
            }
        };
        Ok(Finish { end, used: None })
    }

    async fn finished(&self, _held: &Held, _plan: &Plan, done: &Done, _end: &End, _took: Duration) {
        if let Done::Sent(_, sent) = done {
            let outcome = match sent {
                Sent::Executed(_) => "executed",
                Sent::Failed(..) => "failed",
                Sent::Unknown => "unknown",
                Sent::Unsent => "unsent",
            };
            metric(self.now(), "AccountingWrites", Unit::Count, 1.0, &[("outcome", outcome)]);
        }
    }
}

impl Writes<'_> {
    /// How a job ends by what came of its voucher. What is shown with a job is of no client: the approval says more.
    fn end_of(&self, approval_id: Uuid, sent: &Sent) -> End {
        let again = |reason: &str| End::Later {
            run_after: self.now() + AGAIN,
            waiting: Some(json!({ "reason": reason })),
            error: None,
            // What a person approved outlasts an outage; the approval's expiry bounds it.
            counts: false,
        };
        match sent {
            Sent::Executed(number) => End::Succeeded {
                result: json!({ "approval_id": approval_id, "status": "executed", "voucher_number": number }),
                tokens: 0,
            },
            Sent::Failed(code, _) => {
                let detail = format!("The voucher was not written: {code}. The approval has what Fortnox said.");
                End::Failed { error: Failure::new("voucher_refused", detail).to_json() }
            }
            Sent::Unknown => again("fortnox_did_not_answer"),
            Sent::Unsent => again("fortnox_unavailable"),
        }
    }
}
