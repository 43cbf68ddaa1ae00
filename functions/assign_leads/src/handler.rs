//! Triggers to capabilities: authenticate, parse, one transaction, reply.

use std::time::Instant;

use chrono::TimeDelta;
use serde_json::{Value, json};
use shared::{
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    lambda::{Answer, Error, Trigger},
    store::{
        StoreError, access, idempotency,
        leads::{self, Advice},
        settings,
    },
    worker,
};
use uuid::Uuid;

use crate::{
    job::{SWITCH, WAIT},
    request::{DryRunBody, MoveBody, SettingsBody, lead_id},
    schedule,
    state::State,
    work::Assignments,
};

/// How many leads a dry run looks at, the oldest first: with fifty people and a hundred thousand leads that takes some ten seconds.
const DRY_RUN: i32 = 500;

/// How many leads of an absent person one request moves, as many as a person takes at most.
const MOVED: i32 = 1000;
/// How many of their jobs are sent for at once; the sweep finds the others within a minute.
const WOKEN: usize = 25;

/// Answers whatever woke the function.
///
/// # Errors
/// None towards HTTP and the queue; to the schedule, if every part of its work failed.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    match trigger {
        Trigger::Http(request) => {
            let outcome = route(state, &request).await;
            Ok(Answer::Http(http::answer(&state.db, &request, outcome).await))
        }
        Trigger::Queue(batch) => {
            let deadline = Instant::now() + batch.remaining;
            Ok(batch.each(async |message| worker::process(&Assignments(state), message, deadline).await).await)
        }
        Trigger::Schedule(tick) => schedule::tick(state, &tick).await.map(Answer::Schedule),
    }
}

async fn route(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    match (request.method.as_str(), request.segments().as_slice()) {
        ("POST", ["v1", "leads", "assignments", "dry-run"]) => dry_run(state, request).await?.into_response(),
        ("GET", ["v1", "leads", "assignments", "report"]) => report(state, request).await?.into_response(),
        ("POST", ["v1", "leads", "assignments", "settings"]) => configure(state, request).await?.into_response(),
        ("POST", ["v1", "leads", "assignments", "move"]) => move_leads(state, request).await?.into_response(),
        ("POST", ["v1", "leads", lead, "assign"]) => assign(state, request, lead_id(lead)?).await?.into_response(),
        ("GET", ["v1", "leads", lead, "assignment"]) => show(state, request, lead_id(lead)?).await?.into_response(),
        (_, ["v1", "leads", "assignments", "dry-run" | "settings" | "move"] | ["v1", "leads", _, "assign"]) => {
            Err(ApiError::method_not_allowed("POST"))
        }
        (_, ["v1", "leads", "assignments", "report"] | ["v1", "leads", _, "assignment"]) => {
            Err(ApiError::method_not_allowed("GET"))
        }
        _ => Err(ApiError::no_route()),
    }
}

/// What a request for an assignment came to, before it is a reply.
enum Outcome {
    /// It is somebody's.
    Given(Value),
    /// A job goes on with it; woken at once, unless it waits.
    Queued { job_id: Uuid, org_id: Uuid, body: Value, wakes: bool },
}

/// `POST /v1/leads/{id}/assign`: gives a lead to whoever suits it best.
///
/// By the rules alone that is one call to the database, so it is done at once and answered with 200. Where the organisation lets a model
/// move the score it takes seconds, and where nobody can take the lead it takes longer: then it is 202 with a job. Asking again is
/// harmless: who has the lead is the answer.
async fn assign(state: &State, request: &HttpRequest, lead: Uuid) -> Result<Reply<Value>, ApiError> {
    let now = (state.clock)();
    let caller = state.auth.authenticate(&request.headers, now).await?;
    let keyed = http::idempotency(request, "POST /v1/leads/{id}/assign")?;

    let outcome = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "leads:assign").await?;
        if !settings::enabled(tx, SWITCH).await? {
            return Err(ApiError::unavailable(
                "lead_assignment_paused",
                "The assignment of leads is paused by an operator; nothing was changed.",
                300,
            ));
        }
        if let Some(keyed) = &keyed {
            // What was made before is what there is now: only another request under the same key is worth refusing.
            idempotency::remember(tx, member, keyed, lead).await?;
        }
        let looked = leads::look(tx, lead).await?.ok_or(StoreError::NotFound { entity: "lead" })?;
        let queued = |job: Option<Uuid>, body: Value, wakes: bool| {
            let job_id = job.ok_or(StoreError::NotFound { entity: "lead" })?;
            Ok(Outcome::Queued { job_id, org_id: member.org_id, body, wakes })
        };
        if looked.outcome == "due" && looked.ai_bound > 0 && looked.free {
            let job = leads::admit_job(tx, lead, now, None).await?;
            return queued(job, json!({ "outcome": "queued", "waiting": null }), true);
        }
        let assigned = leads::assign(tx, lead, &Advice::default()).await?;
        match assigned.outcome.as_str() {
            "lead_not_found" => Err(ApiError::not_found("lead")),
            "lead_closed" => Err(ApiError::conflict(
                "lead_closed",
                "A lead that was won or lost has its outcome; it is given to nobody.",
            )),
            "waiting" => {
                let until = now + WAIT;
                let mut waiting = assigned.waiting.unwrap_or_default();
                waiting["at"] = json!(now);
                waiting["until"] = json!(until);
                let job = leads::admit_job(tx, lead, until, Some(&waiting)).await?;
                queued(
                    job,
                    json!({ "outcome": "waiting", "waiting": waiting, "assignment": assigned.assignment }),
                    false,
                )
            }
            outcome => Ok(Outcome::Given(json!({ "outcome": outcome, "assignment": assigned.assignment }))),
        }
    });
    match outcome.await? {
        Outcome::Given(body) => Ok(Reply::ok(body)),
        Outcome::Queued { job_id, org_id, mut body, wakes } => {
            if wakes {
                state.queue.wake(job_id, org_id).await; // best effort: the sweep finds what this loses
            }
            let href = format!("/v1/jobs/{job_id}");
            body["job"] = json!({ "id": job_id, "href": href });
            let until = if wakes { now + TimeDelta::seconds(2) } else { now + WAIT };
            Ok(Reply::accepted(&href, body).retry_at(Some(until), now))
        }
    }
}

/// `GET /v1/leads/{id}/assignment`: who has it, and why this person.
async fn show(state: &State, request: &HttpRequest, lead: Uuid) -> Result<Reply<Value>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    Ok(Reply::ok(state.db.caller(&caller, async |tx| leads::get_assignment(tx, lead).await).await?))
}

/// `POST /v1/leads/assignments/dry-run`: who would have been given last month's leads. Writes nothing but its key.
async fn dry_run(state: &State, request: &HttpRequest) -> Result<Reply<Value>, ApiError> {
    let now = (state.clock)();
    let caller = state.auth.authenticate(&request.headers, now).await?;
    let body = if request.body.is_empty() { DryRunBody::default() } else { http::json(request)? };
    let since = body.since(now)?;
    let keyed = http::idempotency(request, "POST /v1/leads/assignments/dry-run")?;
    let answer = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "leads:manage").await?;
        if let Some(keyed) = &keyed {
            idempotency::remember(tx, member, keyed, member.org_id).await?;
        }
        Ok::<_, ApiError>(leads::dry_run(tx, since, DRY_RUN).await?)
    });
    Ok(Reply::ok(answer.await?))
}

/// `GET /v1/leads/assignments/report`: how scores met outcomes, and what is set.
async fn report(state: &State, request: &HttpRequest) -> Result<Reply<Value>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let answer = state.db.caller(&caller, async |tx| {
        access::enter(tx, "leads:manage").await?;
        Ok::<_, ApiError>(leads::report(tx).await?)
    });
    Ok(Reply::ok(answer.await?))
}

/// `POST /v1/leads/assignments/settings`: sets what it names. Switching on is refused while scores are weak. A replayed key sets nothing
/// again, and shows what is set.
async fn configure(state: &State, request: &HttpRequest) -> Result<Reply<Value>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let wanted = http::json::<SettingsBody>(request)?.parse()?;
    let keyed = http::idempotency(request, "POST /v1/leads/assignments/settings")?;
    let answer = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "leads:manage").await?;
        if let Some(keyed) = &keyed
            && idempotency::remember(tx, member, keyed, member.org_id).await?.is_some()
        {
            return Ok(json!({ "settings": leads::report(tx).await?["settings"] }));
        }
        let answer = leads::configure(tx, &wanted).await?;
        let detail = answer["refused"]["detail"].as_str().unwrap_or_default().to_owned();
        match answer["refused"]["code"].as_str() {
            None => Ok(answer),
            Some("outcomes_too_few") => Err(ApiError::conflict("outcomes_too_few", detail)),
            Some("work_hours_invalid") => Err(ApiError::unprocessable("work_hours_invalid", detail)),
            Some(_) => Err(ApiError::conflict("scores_too_weak", detail)),
        }
    });
    Ok(Reply::ok(answer.await?))
}

/// `POST /v1/leads/assignments/move`: finds another person for each open lead of one who is absent, as for any lead. Asking again is
/// harmless: leads that are on their way are left alone. A replayed key moves nothing, and says how many are left.
async fn move_leads(state: &State, request: &HttpRequest) -> Result<Reply<Value>, ApiError> {
    let caller = state.auth.authenticate(&request.headers, (state.clock)()).await?;
    let MoveBody { user_id } = http::json(request)?;
    let keyed = http::idempotency(request, "POST /v1/leads/assignments/move")?;
    let moved = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, "leads:manage").await?;
        if !settings::enabled(tx, SWITCH).await? {
            return Err(ApiError::unavailable(
                "lead_assignment_paused",
                "The assignment of leads is paused by an operator; nothing was changed.",
                300,
            ));
        }
        let again = match &keyed {
            Some(keyed) => idempotency::remember(tx, member, keyed, user_id).await?.is_some(),
            None => false,
        };
        let moving = leads::move_from(tx, user_id, if again { 0 } else { MOVED }).await?;
        match moving.refused.as_deref() {
            None => Ok((member.org_id, moving)),
            Some("person_not_found") => Err(ApiError::not_found("person")),
            Some(_) => Err(ApiError::conflict(
                "person_not_absent",
                "This person is available: their leads stay with them. Set lead_capacity.available to false first.",
            )),
        }
    });
    let (org_id, moving) = moved.await?;
    for job_id in moving.queued.iter().take(WOKEN) {
        if !state.queue.wake(*job_id, org_id).await {
            break;
        }
    }
    let jobs = moving.queued.iter().map(|id| json!({ "id": id, "href": format!("/v1/jobs/{id}") }));
    Ok(Reply::ok(json!({ "queued": moving.queued.len(), "left": moving.left, "jobs": jobs.collect::<Vec<_>>() })))
}
