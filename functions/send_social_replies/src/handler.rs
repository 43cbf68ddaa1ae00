//! Triggers to capabilities: who may ask, and what comes back. The database's functions decide; a refusal has their code.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use serde::Serialize;
use serde_json::{Value, json};
use shared::{
    auth::Identity,
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    lambda::{Answer, Error, Trigger},
    store::{
        access, idempotency,
        social_replies::{self, Shown},
    },
    worker,
};
use uuid::Uuid;

use crate::{
    request::{ListQuery, NewBody},
    state::State,
    work::Replies,
};

/// How many replies a list has.
const MOST: i64 = 50;

/// Replies in a thread.
#[derive(Debug, Serialize)]
struct ListView {
    replies: Vec<Shown>,
}

/// Answers a request or a batch of the queue.
///
/// # Errors
/// None towards HTTP and the queue; this function has no schedule.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    match trigger {
        Trigger::Http(request) => {
            let outcome = route(state, &request).await;
            Ok(Answer::Http(http::answer(&state.db, &request, outcome).await))
        }
        Trigger::Queue(batch) => {
            let deadline = Instant::now() + batch.remaining.saturating_sub(Duration::from_secs(1));
            Ok(batch.each(async |message| worker::process(&Replies(state), message, deadline).await).await)
        }
        Trigger::Schedule(_) => Err("send_social_replies has no schedule".into()),
    }
}

async fn route(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let id = |text: &str| Uuid::try_parse(text).map_err(|_| ApiError::not_found("reply"));
    match (request.method.as_str(), request.segments().as_slice()) {
        ("POST", ["v1", "social", "replies"]) => write(state, request).await?.into_response(),
        ("GET", ["v1", "social", "replies"]) => list(state, request).await?.into_response(),
        ("POST", ["v1", "social", "replies", reply, "cancel"]) => {
            cancel(state, request, id(reply)?).await?.into_response()
        }
        ("GET", ["v1", "social", "replies", reply]) => show(state, request, id(reply)?).await?.into_response(),
        (_, ["v1", "social", "replies"]) => Err(ApiError::method_not_allowed("GET, POST")),
        (_, ["v1", "social", "replies", _]) => Err(ApiError::method_not_allowed("GET")),
        (_, ["v1", "social", "replies", _, "cancel"]) => Err(ApiError::method_not_allowed("POST")),
        _ => Err(ApiError::no_route()),
    }
}

/// `POST /v1/social/replies`: a person's reply is queued; an agent's becomes a draft that a person is to approve.
async fn write(state: &State, request: &HttpRequest) -> Result<Reply<Value>, ApiError> {
    let now = (state.clock)();
    let caller = state.auth.authenticate(&request.headers, now).await?;
    let body: NewBody = http::json(request)?;
    let new = body.parse()?;
    let keyed = http::idempotency(request, "POST /v1/social/replies")?;
    let is_agent = matches!(caller.identity, Identity::Agent { .. });
    let written = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, if is_agent { "social:draft" } else { "social:answer" }).await?;
        if let Some(keyed) = &keyed
            && let Some(earlier) = idempotency::find(tx, member, keyed).await?
        {
            return Ok::<_, ApiError>((member.org_id, social_replies::get(tx, member.org_id, earlier).await?, None));
        }
        let (reply_id, job_id) = if is_agent {
            (social_replies::draft(tx, &new).await?.0, None)
        } else {
            let (reply_id, job_id) = social_replies::answer(tx, &new).await?;
            (reply_id, Some(job_id))
        };
        if let Some(keyed) = &keyed {
            idempotency::remember(tx, member, keyed, reply_id).await?;
        }
        Ok((member.org_id, social_replies::get(tx, member.org_id, reply_id).await?, job_id))
    });
    let (org_id, reply, job_id) = written.await?;
    if let Some(job_id) = job_id {
        state.queue.wake(job_id, org_id).await; // best effort: the sweep finds what this loses
    }
    let href = format!("/v1/social/replies/{}", reply.id);
    let approval = reply.approval_id.map(|id| json!({ "id": id, "href": format!("/v1/approvals/{id}") }));
    let body = json!({ "reply": reply, "href": href, "approval": approval });
    let answer = Reply::accepted(&href, body);
    Ok(if is_agent { answer } else { answer.retry_at(Some(now + TimeDelta::seconds(2)), now) })
}

/// `GET /v1/social/replies?thread=`: the newest replies in a thread.
async fn list(state: &State, request: &HttpRequest) -> Result<Reply<ListView>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let query: ListQuery = http::query(request)?;
    let replies = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "social:read").await?;
        Ok::<_, ApiError>(social_replies::list(tx, member.org_id, query.thread, MOST).await?)
    });
    Ok(Reply::ok(ListView { replies: replies.await? }))
}

/// `GET /v1/social/replies/{id}`: how a reply is.
async fn show(state: &State, request: &HttpRequest, id: Uuid) -> Result<Reply<Shown>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let reply = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "social:read").await?;
        Ok::<_, ApiError>(social_replies::get(tx, member.org_id, id).await?)
    });
    Ok(Reply::ok(reply.await?))
}

/// `POST /v1/social/replies/{id}/cancel`: cancels a person's reply that has not been sent. Twice is once.
async fn cancel(state: &State, request: &HttpRequest, id: Uuid) -> Result<Reply<Shown>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let keyed = http::idempotency(request, "POST /v1/social/replies/{id}/cancel")?;
    let reply = state.db.caller(&caller, async |tx| {
        if matches!(caller.identity, Identity::Agent { .. }) {
            return Err(ApiError::forbidden("people_only", "A person cancels a reply; an agent may not."));
        }
        let member = access::enter(tx, "social:answer").await?;
        if let Some(keyed) = &keyed {
            idempotency::remember(tx, member, keyed, id).await?;
        }
        social_replies::cancel(tx, id).await?;
        Ok(social_replies::get(tx, member.org_id, id).await?)
    });
    Ok(Reply::ok(reply.await?))
}
