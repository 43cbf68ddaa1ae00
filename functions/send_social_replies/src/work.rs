//! Jobs, from claim to their end, as [`shared::worker`] has them worked on.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use shared::{
    audit,
    db::{Database, ServiceTx},
    jobs::End,
    social::{Kind, Observation, Place, Precision, Thread},
    store::{
        StoreError, social,
        social_replies::{self, Plan, Sent},
    },
    telemetry::{Unit, metric},
    worker::{Finish, Stop, Work},
};

use crate::{
    job::{Held, Payload, SWITCH},
    send::{self, Done},
    state::State,
};

/// How long a job waits after the platform did not answer, or refused at the door.
const AGAIN: TimeDelta = TimeDelta::seconds(4);

/// The worker.
pub(crate) struct Replies<'a>(pub(crate) &'a State);

impl Work for Replies<'_> {
    type Payload = Payload;
    type Plan = Box<Plan>;
    type Done = Done;

    const NAME: &'static str = "social reply";
    const JOB_TYPES: &'static [&'static str] = &["social_reply"];
    const SWITCH: Option<&'static str> = Some(SWITCH);
    const LEASE: TimeDelta = TimeDelta::minutes(2);

    fn db(&self) -> &Database {
        &self.0.db
    }

    fn now(&self) -> DateTime<Utc> {
        (self.0.clock)()
    }

    async fn prepare(&self, tx: &mut ServiceTx, held: &Held) -> Result<Box<Plan>, Stop> {
        match social_replies::plan(tx, held.job.org_id, held.payload.reply_id).await? {
            None => Err(Stop::failed("reply_not_found", "There is no such reply.")),
            // Cancelled or refused since.
            Some(plan) if plan.ended_at.is_some() || plan.status == "draft" => Err(Stop::Cancelled),
            Some(plan) => Ok(Box::new(plan)),
        }
    }

    async fn work(&self, held: &Held, plan: &Box<Plan>, deadline: Instant) -> Result<Done, Stop> {
        send::send(self.0, held, plan, deadline).await
    }

    async fn finish(&self, tx: &mut ServiceTx, held: &Held, plan: &Box<Plan>, done: &Done) -> Result<Finish, Stop> {
        held.lock(tx).await?;
        if social_replies::end(tx, held.payload.reply_id, &done.sent).await? && !matches!(done.sent, Sent::Unsent) {
            self.record(tx, held, plan, &done.sent).await?;
        }
        if let Sent::Made(id) = &done.sent {
            self.show(tx, held, plan, id.as_deref(), done.at).await?;
        }
        Ok(Finish { end: self.end_of(held, &done.sent), used: None })
    }

    async fn finished(&self, _held: &Held, plan: &Box<Plan>, done: &Done, _end: &End, _took: Duration) {
        let outcome = match done.sent {
            Sent::Made(_) => "sent",
            Sent::Failed(_) => "failed",
            Sent::Unknown => "unknown",
            Sent::Lost(_) => "lost",
            Sent::Unsent => "unsent",
        };
        let dimensions = [("outcome", outcome), ("platform", plan.platform.as_str())];
        metric(self.now(), "SocialReplies", Unit::Count, 1.0, &dimensions);
    }
}

impl Replies<'_> {
    /// Says in the audit log what was sent, who wrote it and on whose approval. No text of it.
    async fn record(&self, tx: &mut ServiceTx, held: &Held, plan: &Plan, sent: &Sent) -> Result<(), Stop> {
        let approval = social_replies::approved_by(tx, held.job.org_id, held.payload.reply_id).await?;
        let (approval_id, approved_by) = approval.unzip();
        let approved_by = approved_by.flatten();
        let (action, code) = match sent {
            Sent::Made(_) => ("social_reply.sent", None),
            Sent::Failed(code) => ("social_reply.failed", Some(*code)),
            Sent::Lost(code) => ("social_reply.lost", Some(*code)),
            Sent::Unknown | Sent::Unsent => ("social_reply.unanswered", None),
        };
        let made = if let Sent::Made(id) = sent { id.as_deref() } else { None };
        let entry = audit::Entry {
            action,
            resource_type: "social_replies",
            record_id: held.payload.reply_id.to_string(),
            decision: json!({ "approval_id": approval_id, "approved_by": approved_by }),
            output: json!({ "kind": plan.kind, "platform_id": made, "code": code }),
            metadata: json!({ "written_by": plan.created_by, "written_by_agent": plan.created_by_agent }),
            subject_ids: plan.created_by.into_iter().chain(approved_by).collect(),
            ..audit::Entry::default()
        };
        Ok(audit::append(tx, &entry).await?)
    }

    /// Shows what was sent in the thread at once. What the platform delivers of it later counts for more.
    async fn show(
        &self,
        tx: &mut ServiceTx,
        held: &Held,
        plan: &Plan,
        id: Option<&str>,
        at: Option<i64>,
    ) -> Result<(), StoreError> {
        let now = self.now();
        let at = at.unwrap_or_else(|| now.timestamp_millis());
        let sent_at = DateTime::from_timestamp_millis(at).unwrap_or(now);
        let seen = match (plan.kind.as_str(), id) {
            ("hide" | "show", _) => Observation {
                platform_id: plan.target_id.clone(),
                // The platform's clock is read to the second, in which it may have been changed before.
                at: at.max(now.timestamp_millis()),
                hidden: Some(plan.kind == "hide"),
                ..Observation::default()
            },
            ("message" | "comment", Some(id)) => Observation {
                platform_id: id.to_owned(),
                at,
                place: Some(Place {
                    kind: if plan.kind == "message" { Kind::Message } else { Kind::Reply },
                    thread: match plan.place.strip_prefix("dm:") {
                        Some(with) => Thread::Direct(with.to_owned()),
                        None => Thread::Comments,
                    },
                    outgoing: true,
                    sent_at,
                    precision: Precision::Delivery,
                }),
                text: Some(plan.content.clone()),
                sender_id: Some(plan.account_platform_id.clone()),
                parent_id: (plan.kind == "comment").then(|| plan.target_id.clone()),
                media_id: plan.media_id.clone(),
                ..Observation::default()
            },
            // A private reply is in a conversation whose other side the platform names.
            _ => return Ok(()),
        };
        let account = social::hold_account(tx, held.job.org_id, plan.account_id).await?;
        if account.is_some_and(|account| account.status != "disconnected") {
            social::merge(tx, held.job.org_id, plan.account_id, &[seen], now).await?;
        }
        Ok(())
    }

    /// How a job ends by what came of its reply.
    fn end_of(&self, held: &Held, sent: &Sent) -> End {
        let again = |reason: &str| End::Later {
            run_after: self.now() + AGAIN,
            waiting: Some(json!({ "reason": reason })),
            error: None,
            counts: false,
        };
        match sent {
            Sent::Made(_) => {
                End::Succeeded { result: json!({ "reply_id": held.payload.reply_id, "status": "sent" }), tokens: 0 }
            }
            Sent::Failed(code) | Sent::Lost(code) => End::Failed { error: send::failure(code).to_json() },
            Sent::Unknown => again("unanswered"),
            Sent::Unsent => again("platform_unavailable"),
        }
    }
}
