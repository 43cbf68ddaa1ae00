//! Triggers to capabilities: authenticate, parse, one transaction, reply.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::json;
use shared::{
    audit::{AuditError, AuditKeys},
    auth::{Caller, Identity},
    db::CallerTx,
    envelope::{Envelope, Resource},
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    lambda::{Answer, Error, Trigger},
    limits::Waiting,
    outbox,
    store::{
        access::{self, Member},
        agent_actions::{self, NewAction as NewRow, Outcome, Recorded, StoredFile},
        idempotency::{self, KeyedRequest},
    },
    telemetry::{Unit, metric},
};
use uuid::Uuid;

use crate::{
    assets, personal,
    request::{ListQuery, MAX_BODY, NewAction, NewActionBody},
    state::State,
    view::{ListView, RecordedView},
};

/// How long a delivery after commit may take; what is left is for the sweep.
const DELIVERY: Duration = Duration::from_millis(500);

/// Answers a request.
///
/// # Errors
/// None towards HTTP; this function has no queue and no schedule.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    let Trigger::Http(request) = trigger else { return Err("record_agent_action answers HTTP requests only".into()) };
    let outcome = route(state, &request).await;
    Ok(Answer::Http(http::answer(&state.db, &request, outcome).await))
}

async fn route(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    match (request.method.as_str(), request.segments().as_slice()) {
        ("POST", ["v1", "agent-actions"]) => record(state, request).await?.into_response(),
        ("GET", ["v1", "agent-actions"]) => list(state, request).await?.into_response(),
        (_, ["v1", "agent-actions"]) => Err(ApiError::method_not_allowed("GET, POST")),
        _ => Err(ApiError::no_route()),
    }
}

/// What came of an attempt to record.
enum Written {
    New(Recorded),
    /// A limit has no room, which is all that is recorded.
    Reached(Waiting),
}

/// Why nothing is recorded.
enum Halt {
    /// The same request came before, and recorded this. What this one has made is taken back.
    Earlier(Uuid, Recorded),
    Refused(ApiError),
}

impl<E: Into<ApiError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// Records what an agent did, in one transaction, in the caller's name.
///
/// An action over a limit is refused and not made to wait, since it has been done: the answer says when there is room again, and the
/// same request, with the same key, is then recorded.
async fn record(state: &State, request: &HttpRequest) -> Result<Reply<RecordedView>, ApiError> {
    let now = (state.clock)();
    let caller = state.auth.authenticate(&request.headers, now).await?;
    let wanted = NewAction::parse(http::json_within::<NewActionBody>(request, MAX_BODY)?)?;
    let keyed = http::idempotency(request, "POST /v1/agent-actions")?;
    let audit_keys = AuditKeys::fetch(&state.secrets).await?;
    let (member, earlier) = enter(state, &caller, &wanted, keyed.as_ref()).await?;
    if let Some((id, recorded)) = earlier {
        return Ok(Reply::created(RecordedView::new(id, wanted, recorded)));
    }
    let files = assets::read(&state.objects, member, &wanted.assets).await?;

    let id = Uuid::now_v7();
    let written = state.db.caller(&caller, async |tx| {
        write(tx, &audit_keys, member, request, keyed.as_ref(), id, &wanted, &files, now).await
    });
    match written.await {
        Ok(Written::New(recorded)) => {
            outbox::deliver(&state.db, &state.documents, member.org_id, DELIVERY).await; // best effort: the sweep finds what this loses
            Ok(Reply::created(RecordedView::new(id, wanted, recorded)))
        }
        Ok(Written::Reached(waiting)) => Err(ApiError::too_many("limit_reached", waiting.detail(), waiting.until, now)
            .with(json!({ "scope": waiting.scope, "until": waiting.until }))),
        Err(Halt::Earlier(id, recorded)) => Ok(Reply::created(RecordedView::new(id, wanted, recorded))),
        Err(Halt::Refused(error)) => Err(error),
    }
}

/// Who asks and whether they may, and what the same request recorded before. Before anything is read from storage.
async fn enter(
    state: &State,
    caller: &Caller,
    wanted: &NewAction,
    keyed: Option<&KeyedRequest>,
) -> Result<(Member, Option<(Uuid, Recorded)>), ApiError> {
    let entered = state.db.caller(caller, async |tx| {
        let member = access::enter(tx, "agent_actions:create").await?;
        let earlier = find_earlier(tx, member, keyed).await?;
        if earlier.is_none()
            && let Some(project) = wanted.project_id
            && !agent_actions::sees_project(tx, member.org_id, project).await?
        {
            return Err(ApiError::not_found("project"));
        }
        Ok((member, earlier))
    });
    entered.await
}

async fn find_earlier(
    tx: &mut CallerTx,
    member: Member,
    keyed: Option<&KeyedRequest>,
) -> Result<Option<(Uuid, Recorded)>, ApiError> {
    let Some(keyed) = keyed else { return Ok(None) };
    let Some(id) = idempotency::find(tx, member, keyed).await? else { return Ok(None) };
    Ok(Some((id, agent_actions::recorded(tx, id).await?)))
}

#[expect(clippy::too_many_arguments, reason = "they are what one transaction needs, and nothing else has them all")]
async fn write(
    tx: &mut CallerTx,
    audit_keys: &AuditKeys,
    member: Member,
    request: &HttpRequest,
    keyed: Option<&KeyedRequest>,
    id: Uuid,
    wanted: &NewAction,
    files: &[StoredFile],
    now: DateTime<Utc>,
) -> Result<Written, Halt> {
    let mut keys = BTreeMap::new();
    for subject in &wanted.sealed_for {
        keys.insert(*subject, audit_keys.subject(tx, member.org_id, *subject).await?);
    }
    let actor = audit_keys.subject(tx, member.org_id, member.actor_id).await?;
    let sealed = |value, field| personal::sealed(value, field, &keys).map_err(AuditError::from);
    let text = |field, value: Option<&str>| {
        value.map_or(Ok(None), |value| actor.seal_text(field, value)).map_err(AuditError::from)
    };
    let mut subjects = wanted.subjects.clone();
    if !subjects.contains(&actor.id()) && member.user_id.is_some() {
        subjects.push(actor.id());
    }
    let envelope = Envelope {
        agent: wanted.agent.as_deref(),
        action: &wanted.action,
        resource: Resource { kind: &wanted.resource_type, id: wanted.resource_id.clone() },
        project_id: wanted.project_id,
        input: sealed(&wanted.input, "input")?,
        decision: sealed(&wanted.decision, "decision")?,
        output: sealed(&wanted.output, "output")?,
        subjects,
        assets: Vec::new(),
        deploy: None,
        cost: wanted.cost,
        served_by: None,
        at: now,
    };
    let row = NewRow {
        id,
        envelope: &envelope,
        assets: files,
        deploy: wanted.deploy.as_ref(),
        ip: text("ip", request.source_ip.as_deref())?,
        user_agent: text("user_agent", request.user_agent())?,
        request_id: &request.request_id,
    };
    match agent_actions::record(tx, &row).await? {
        Outcome::Recorded(recorded) => {
            // Last, since a key that is refused over a limit can be used again. Of two at once, the second waits here or at the limit.
            if let Some(keyed) = keyed
                && let Some(earlier) = idempotency::remember(tx, member, keyed, id).await?
            {
                return Err(Halt::Earlier(earlier, agent_actions::recorded(tx, earlier).await?));
            }
            Ok(Written::New(recorded))
        }
        Outcome::Reached(waiting) => {
            // The same request may have taken the last room while this one waited for it.
            if let Some((id, recorded)) = find_earlier(tx, member, keyed).await? {
                return Err(Halt::Earlier(id, recorded));
            }
            if waiting.code() == "limit_reached" {
                return Ok(Written::Reached(waiting));
            }
            // Others' agents have any name, and a metric one set of names.
            metric(now, "LimiterUnavailable", Unit::Count, 1.0, &[("agent", "other")]);
            let detail = "The limiter did not answer in time, and nothing is recorded uncounted; try again shortly.";
            Err(ApiError::unavailable("limiter_unavailable", detail, 5).into())
        }
        Outcome::Never { scope } => Err(ApiError::unprocessable(
            "limit_too_small",
            format!("This alone is more than the {scope}'s limit allows; have the limit raised."),
        )
        .into()),
        Outcome::Refused { why, place } => Err(refusal(&why, place.unwrap_or_default()).into()),
    }
}

/// Why an action may not be recorded, to the client.
fn refusal(why: &str, place: i32) -> ApiError {
    match why {
        "action_reserved" => ApiError::unprocessable(
            "action_reserved",
            "Spine itself records actions of this name; call yours otherwise.",
        ),
        "agent_missing" => {
            ApiError::unprocessable("agent_missing", "Say in agent whose action it is, as agent_limits.agent names it.")
        }
        "agent_not_own" => {
            ApiError::forbidden("agent_not_own", "An agent records its own actions alone; leave agent out.")
        }
        "agent_unknown" => ApiError::unprocessable(
            "agent_unknown",
            "Your organisation has neither an agent of this kind nor a limit for one.",
        ),
        "project_unknown" => ApiError::not_found("project"),
        "subject_unknown" => ApiError::unprocessable(
            "subject_unknown",
            format!("subjects[{place}] is no member of your organisation or of its clients."),
        ),
        "too_large" => ApiError::unprocessable(
            "value_too_large",
            "input, decision and output together are larger than an entry of the audit log may be.",
        ),
        other => ApiError::internal(format!("an action was refused: {other}")),
    }
}

/// What agents did, for people who may read the audit log.
async fn list(state: &State, request: &HttpRequest) -> Result<Reply<ListView>, ApiError> {
    let now = (state.clock)();
    let caller = state.auth.authenticate(&request.headers, now).await?;
    let query: ListQuery = http::query(request)?;
    let wanted = query.parse(now)?;
    let found = state.db.caller(&caller, async |tx| {
        if matches!(caller.identity, Identity::Agent { .. }) {
            return Err(ApiError::forbidden("people_only", "The audit log is for people; an agent writes to it."));
        }
        let member = access::enter(tx, "audit:read").await?;
        Ok(agent_actions::list(tx, member.org_id, &wanted).await?)
    });
    Ok(Reply::ok(ListView::new(found.await?, wanted.most)))
}
