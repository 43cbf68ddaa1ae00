//! Triggers to capabilities: who may ask, and what comes back. The database's functions decide; a refusal has their code.

use std::time::{Duration, Instant};

use shared::{
    auth::{Caller, Identity},
    db::CallerTx,
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    lambda::{Answer, Error, Trigger},
    store::{
        access::{self, Member},
        approvals::{self, Approval},
        idempotency::{self, KeyedRequest},
    },
    worker,
};
use uuid::Uuid;

use crate::{
    request::{ApproveBody, DecisionsBody, ListQuery, ProposeBody, RefuseBody, SettingsBody},
    schedule,
    state::State,
    view::{DecisionsView, ListView, ProposedView, SettingsView},
    work::Writes,
};

/// The body of a bulk of decisions: two hundred with a reason each.
const MAX_BODY: usize = 1024 * 1024;

/// Answers a request, a batch of the queue, or a tick.
///
/// # Errors
/// None towards HTTP. A tick fails if every part of it failed.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    match trigger {
        Trigger::Http(request) => {
            let outcome = route(state, &request).await;
            Ok(Answer::Http(http::answer(&state.db, &request, outcome).await))
        }
        Trigger::Queue(batch) => {
            let deadline = Instant::now() + batch.remaining.saturating_sub(Duration::from_secs(1));
            Ok(batch.each(async |message| worker::process(&Writes(state), message, deadline).await).await)
        }
        Trigger::Schedule(tick) => Ok(Answer::Schedule(schedule::tick(state, &tick).await?)),
    }
}

async fn route(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    match (request.method.as_str(), request.segments().as_slice()) {
        ("GET", ["v1", "approvals"]) => list(state, request).await?.into_response(),
        ("POST", ["v1", "approvals", "decisions"]) => decide(state, request).await?.into_response(),
        ("POST", ["v1", "approvals", "settings"]) => configure(state, request).await?.into_response(),
        ("POST", ["v1", "approvals", id, "approve"]) => approve(state, request, approval(id)?).await?.into_response(),
        ("POST", ["v1", "approvals", id, "refuse"]) => refuse(state, request, approval(id)?).await?.into_response(),
        ("POST", ["v1", "accounting", "vouchers"]) => propose(state, request).await?.into_response(),
        ("POST", ["v1", "accounting", "submissions", id, "propose"]) => {
            propose_submission(state, request, submission(id)?).await?.into_response()
        }
        ("GET", ["v1", "accounting", "templates", id, "problems"]) => {
            problems(state, request, template(id)?).await?.into_response()
        }
        (_, ["v1", "approvals"] | ["v1", "accounting", "templates", _, "problems"]) => {
            Err(ApiError::method_not_allowed("GET"))
        }
        (
            _,
            ["v1", "approvals", "decisions" | "settings"]
            | ["v1", "approvals", _, "approve" | "refuse"]
            | ["v1", "accounting", "vouchers"]
            | ["v1", "accounting", "submissions", _, "propose"],
        ) => Err(ApiError::method_not_allowed("POST")),
        ("GET", ["v1", "approvals", id]) => show(state, request, approval(id)?).await?.into_response(),
        (_, ["v1", "approvals", _]) => Err(ApiError::method_not_allowed("GET")),
        _ => Err(ApiError::no_route()),
    }
}

fn approval(text: &str) -> Result<Uuid, ApiError> {
    Uuid::try_parse(text).map_err(|_| ApiError::not_found("approval"))
}

fn submission(text: &str) -> Result<Uuid, ApiError> {
    Uuid::try_parse(text).map_err(|_| ApiError::not_found("submission"))
}

fn template(text: &str) -> Result<Uuid, ApiError> {
    Uuid::try_parse(text).map_err(|_| ApiError::not_found("template"))
}

/// Who asks, if it is a person.
async fn person(state: &State, request: &HttpRequest) -> Result<Caller, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    if matches!(caller.identity, Identity::Agent { .. }) {
        return Err(ApiError::forbidden("people_only", "A person does this. An agent may propose a voucher."));
    }
    Ok(caller)
}

/// Whether the same request came before. Another under the same key is refused.
async fn came_before(
    tx: &mut CallerTx,
    member: Member,
    keyed: Option<&KeyedRequest>,
    about: Uuid,
) -> Result<bool, ApiError> {
    let Some(keyed) = keyed else { return Ok(false) };
    Ok(idempotency::remember(tx, member, keyed, about).await?.is_some())
}

/// `GET /v1/approvals`: what the caller may see, the newest first.
async fn list(state: &State, request: &HttpRequest) -> Result<Reply<ListView>, ApiError> {
    let caller = person(state, request).await?;
    let wanted = http::query::<ListQuery>(request)?.parse()?;
    let approvals = state.db.caller(&caller, async |tx| {
        let member = access::member(tx).await?;
        Ok::<_, ApiError>(approvals::list(tx, member.org_id, &wanted).await?)
    });
    let approvals = approvals.await?;
    let full = i64::try_from(approvals.len()).is_ok_and(|count| count == wanted.most);
    let next = approvals.last().filter(|_| full).map(|last| last.id);
    Ok(Reply::ok(ListView { approvals, next }))
}

/// `GET /v1/approvals/{id}`: what there is to decide about, with the digest that approving it takes.
async fn show(state: &State, request: &HttpRequest, id: Uuid) -> Result<Reply<Approval>, ApiError> {
    let caller = person(state, request).await?;
    let found = state.db.caller(&caller, async |tx| {
        let member = access::member(tx).await?;
        Ok::<_, ApiError>(approvals::get(tx, member.org_id, id).await?)
    });
    Ok(Reply::ok(found.await?))
}

/// `POST /v1/approvals/{id}/approve`: approves what was shown with the digest. What is approved is queued in the same transaction.
async fn approve(state: &State, request: &HttpRequest, id: Uuid) -> Result<Reply<Approval>, ApiError> {
    let caller = person(state, request).await?;
    let digest = http::json::<ApproveBody>(request)?.parse()?;
    let keyed = http::idempotency(request, "POST /v1/approvals/{id}/approve")?;
    let approved = state.db.caller(&caller, async |tx| {
        let member = access::member(tx).await?;
        // A repeated first step of one's own proposal is no second.
        if !came_before(tx, member, keyed.as_ref(), id).await? {
            approvals::approve(tx, id, &digest).await?;
        }
        let jobs = approvals::jobs_of(tx, member.org_id, &[id]).await?;
        Ok::<_, ApiError>((approvals::get(tx, member.org_id, id).await?, jobs, member.org_id))
    });
    let (approval, jobs, org_id) = approved.await?;
    wake(state, org_id, &jobs).await;
    Ok(Reply::ok(approval))
}

/// `POST /v1/approvals/{id}/refuse`: refuses it, or takes back what one proposed.
async fn refuse(state: &State, request: &HttpRequest, id: Uuid) -> Result<Reply<Approval>, ApiError> {
    let caller = person(state, request).await?;
    let body = if request.body.is_empty() { RefuseBody::default() } else { http::json(request)? };
    let reason = body.parse()?;
    let keyed = http::idempotency(request, "POST /v1/approvals/{id}/refuse")?;
    let refused = state.db.caller(&caller, async |tx| {
        let member = access::member(tx).await?;
        if !came_before(tx, member, keyed.as_ref(), id).await? {
            approvals::refuse(tx, id, reason.as_deref()).await?;
        }
        Ok::<_, ApiError>(approvals::get(tx, member.org_id, id).await?)
    });
    Ok(Reply::ok(refused.await?))
}

/// `POST /v1/approvals/decisions`: decides about each by itself. One that is not possible has its code, and leaves the others as they are.
async fn decide(state: &State, request: &HttpRequest) -> Result<Reply<DecisionsView>, ApiError> {
    let caller = person(state, request).await?;
    let body: DecisionsBody = http::json_within(request, MAX_BODY)?;
    let decisions = body.to_json()?;
    let keyed = http::idempotency(request, "POST /v1/approvals/decisions")?;
    let decided = state.db.caller(&caller, async |tx| {
        let member = access::member(tx).await?;
        let decided = if came_before(tx, member, keyed.as_ref(), member.org_id).await? {
            approvals::statuses(tx, member.org_id, &body.ids()).await?
        } else {
            approvals::decide(tx, &decisions).await?
        };
        let jobs = approvals::jobs_of(tx, member.org_id, &body.ids()).await?;
        Ok::<_, ApiError>((decided, jobs, member.org_id))
    });
    let (decisions, jobs, org_id) = decided.await?;
    wake(state, org_id, &jobs).await;
    Ok(Reply::ok(DecisionsView { decisions }))
}

/// Wakes a worker for what was approved; the sweep finds what this loses. A queue that does not answer is not waited for each time.
async fn wake(state: &State, org_id: Uuid, jobs: &[Uuid]) {
    for job in jobs {
        if !state.queue.wake(*job, org_id).await {
            return;
        }
    }
}

/// `POST /v1/approvals/settings`: an owner lets people approve their own proposals in two steps, or forbids it.
async fn configure(state: &State, request: &HttpRequest) -> Result<Reply<SettingsView>, ApiError> {
    let caller = person(state, request).await?;
    let body: SettingsBody = http::json(request)?;
    let keyed = http::idempotency(request, "POST /v1/approvals/settings")?;
    let own_proposals = state.db.caller(&caller, async |tx| {
        let member = access::member(tx).await?;
        if came_before(tx, member, keyed.as_ref(), member.org_id).await? {
            return Ok(body.own_proposals);
        }
        Ok::<_, ApiError>(approvals::allow_own(tx, body.own_proposals).await?)
    });
    Ok(Reply::ok(SettingsView { own_proposals: own_proposals.await? }))
}

/// Why nothing is proposed.
enum Halt {
    /// The same request came before, and proposed this. What this one has proposed is taken back.
    Earlier(Uuid),
    Refused(ApiError),
}

impl<E: Into<ApiError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// `POST /v1/accounting/vouchers`: proposes a voucher, for a person to approve.
async fn propose(state: &State, request: &HttpRequest) -> Result<Reply<ProposedView>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let body: ProposeBody = http::json(request)?;
    let voucher = body.voucher()?;
    let keyed = http::idempotency(request, "POST /v1/accounting/vouchers")?;
    let proposed = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "accounting:propose").await?;
        if let Some(keyed) = &keyed
            && let Some(earlier) = idempotency::find(tx, member, keyed).await?
        {
            return Err(Halt::Earlier(earlier));
        }
        let id = approvals::propose_voucher(tx, body.client_id, voucher, body.lasts_s()).await?;
        if let Some(keyed) = &keyed
            && let Some(earlier) = idempotency::remember(tx, member, keyed, id).await?
        {
            return Err(Halt::Earlier(earlier));
        }
        Ok(id)
    });
    match proposed.await {
        Ok(id) | Err(Halt::Earlier(id)) => Ok(Reply::created(ProposedView::new(id))),
        Err(Halt::Refused(error)) => Err(error),
    }
}

/// `POST /v1/accounting/submissions/{id}/propose`: proposes the vouchers of an approved submission, where that was not possible when it was
/// approved. Once for each.
async fn propose_submission(
    state: &State,
    request: &HttpRequest,
    id: Uuid,
) -> Result<Reply<serde_json::Value>, ApiError> {
    let caller = person(state, request).await?;
    let keyed = http::idempotency(request, "POST /v1/accounting/submissions/{id}/propose")?;
    let proposed = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "accounting:propose").await?;
        came_before(tx, member, keyed.as_ref(), id).await?;
        Ok::<_, ApiError>(approvals::propose_submission(tx, id).await?)
    });
    Ok(Reply::ok(proposed.await?))
}

/// `GET /v1/accounting/templates/{id}/problems`: what a template's mappings lack in the books as they were read last.
async fn problems(state: &State, request: &HttpRequest, id: Uuid) -> Result<Reply<serde_json::Value>, ApiError> {
    let caller = person(state, request).await?;
    let found = state.db.caller(&caller, async |tx| {
        access::enter(tx, "templates:read").await?;
        Ok::<_, ApiError>(approvals::mapping_problems(tx, id).await?)
    });
    Ok(Reply::ok(found.await?))
}
