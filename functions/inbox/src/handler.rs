//! Requests to answers: authenticate, one transaction, reply. People and agents read alike; rows are what their policies let them see. A lead
//! is made of a thread by people alone, and the schedule of `assign_leads` finds it.

use shared::{
    auth::{Caller, Identity},
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    lambda::{Answer, Error, Trigger},
    store::{access, idempotency, inbox},
};
use uuid::Uuid;

use crate::{
    request::{LeadBody, MessagesQuery, SearchQuery, ThreadsQuery},
    state::State,
    view::{FoundView, LeadView, ThreadView, ThreadsView},
};

/// Answers a request.
///
/// # Errors
/// None towards HTTP; this function has no queue and no schedule.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    let Trigger::Http(request) = trigger else { return Err("inbox answers HTTP requests only".into()) };
    let outcome = route(state, &request).await;
    Ok(Answer::Http(http::answer(&state.db, &request, outcome).await))
}

async fn route(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let id = |text: &str| Uuid::try_parse(text).map_err(|_| ApiError::not_found("thread"));
    match (request.method.as_str(), request.segments().as_slice()) {
        ("GET", ["v1", "inbox", "threads"]) => threads(state, request).await?.into_response(),
        ("GET", ["v1", "inbox", "threads", thread]) => show(state, request, id(thread)?).await?.into_response(),
        ("GET", ["v1", "inbox", "search"]) => search(state, request).await?.into_response(),
        ("POST", ["v1", "inbox", "threads", thread, "lead"]) => {
            make_lead(state, request, id(thread)?).await?.into_response()
        }
        (_, ["v1", "inbox", "threads", _, "lead"]) => Err(ApiError::method_not_allowed("POST")),
        (_, ["v1", "inbox", "threads" | "search"] | ["v1", "inbox", "threads", _]) => {
            Err(ApiError::method_not_allowed("GET"))
        }
        _ => Err(ApiError::no_route()),
    }
}

/// `GET /v1/inbox/threads`: threads, the latest first.
async fn threads(state: &State, request: &HttpRequest) -> Result<Reply<ThreadsView>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let query: ThreadsQuery = http::query(request)?;
    let wanted = query.parse(person(&caller))?;
    let view = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "social:read").await?;
        // One more than is shown says whether there are others.
        let one_more = inbox::Wanted { most: wanted.most + 1, ..wanted.clone() };
        Ok::<_, ApiError>(ThreadsView::of(inbox::list_threads(tx, member.org_id, &one_more).await?, wanted.most))
    });
    Ok(Reply::ok(view.await?))
}

/// `GET /v1/inbox/threads/{id}`: a thread and its messages, the latest first.
async fn show(state: &State, request: &HttpRequest, id: Uuid) -> Result<Reply<ThreadView>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let query: MessagesQuery = http::query(request)?;
    let (after, most) = query.parse()?;
    let view = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "social:read").await?;
        let thread = inbox::get_thread(tx, member.org_id, id).await?;
        let messages = inbox::list_messages(tx, member.org_id, &thread, after, most + 1).await?;
        Ok::<_, ApiError>(ThreadView::with_messages(thread, messages, most))
    });
    Ok(Reply::ok(view.await?))
}

/// `GET /v1/inbox/search`: messages with all of some words, the latest first.
async fn search(state: &State, request: &HttpRequest) -> Result<Reply<FoundView>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let query: SearchQuery = http::query(request)?;
    let (words, after, most) = query.parse()?;
    let view = state.db.caller(&caller, async |tx| {
        access::enter(tx, "social:read").await?;
        Ok::<_, ApiError>(FoundView::of(inbox::search(tx, words, after, most).await?, most))
    });
    Ok(Reply::ok(view.await?))
}

/// `POST /v1/inbox/threads/{id}/lead`: makes a lead of a thread, or finds the one that was made of it.
async fn make_lead(state: &State, request: &HttpRequest, id: Uuid) -> Result<Reply<LeadView>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    if person(&caller).is_none() {
        return Err(ApiError::forbidden("people_only", "A person makes leads of threads."));
    }
    let body = if request.body.is_empty() { LeadBody::default() } else { http::json(request)? };
    let fields = body.parse()?;
    let keyed = http::idempotency(request, "POST /v1/inbox/threads/{id}/lead")?;
    let lead = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "social:read").await?;
        if let Some(keyed) = &keyed {
            // What is made once for a thread needs no more than this; another request with the same key is refused.
            idempotency::remember(tx, member, keyed, id).await?;
        }
        Ok::<_, ApiError>(inbox::make_lead(tx, id, &fields).await?)
    });
    Ok(Reply::ok(LeadView::of(lead.await?, id)))
}

fn person(caller: &Caller) -> Option<Uuid> {
    match caller.identity {
        Identity::Person { user_id, .. } => Some(user_id),
        Identity::Agent { .. } => None,
    }
}
