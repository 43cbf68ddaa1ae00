//! Triggers to capabilities: authenticate, parse, one transaction, reply.

use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use shared::{
    auth::{Caller, Identity},
    db::CallerTx,
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    lambda::{Answer, Error, Trigger},
    store::{
        access::Member,
        idempotency,
        insights::{self, Audience, Insight, Source},
        settings,
    },
    worker,
};
use uuid::Uuid;

use crate::{
    admission::admit,
    job::SWITCH,
    request::{NewInsightBody, period},
    schedule,
    state::State,
    view::{InsightView, LatestView, TablesView},
    work::Insights,
};

/// How long a text that no model wrote stays before whoever asks has the analyst try again.
const TRY_AGAIN: TimeDelta = TimeDelta::minutes(15);
/// Answers whatever woke the function.
///
/// # Errors
/// None towards HTTP and the queue; to the schedule, if nothing that was due could be done.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    match trigger {
        Trigger::Http(request) => {
            let outcome = route(state, &request).await;
            Ok(Answer::Http(http::answer(&state.db, &request, outcome).await))
        }
        Trigger::Queue(batch) => {
            let deadline = Instant::now() + batch.remaining;
            Ok(batch.each(async |message| worker::process(&Insights(state), message, deadline).await).await)
        }
        Trigger::Schedule(tick) => schedule::tick(state, &tick).await.map(Answer::Schedule),
    }
}

async fn route(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    match (request.method.as_str(), request.segments().as_slice()) {
        ("GET", ["v1", "insights"]) => tables(state, request).await?.into_response(),
        ("POST", ["v1", "insights", table]) => ask(state, request, table).await?.into_response(),
        ("GET", ["v1", "insights", table]) => latest(state, request, table).await?.into_response(),
        (_, ["v1", "insights"]) => Err(ApiError::method_not_allowed("GET")),
        (_, ["v1", "insights", _]) => Err(ApiError::method_not_allowed("GET, POST")),
        _ => Err(ApiError::no_route()),
    }
}

/// Which tables may be asked about.
async fn tables(state: &State, request: &HttpRequest) -> Result<Reply<TablesView>, ApiError> {
    let caller = person(state, request, (state.clock)()).await?;
    let (_, sources) = state.db.caller(&caller, async |tx| insights::enter(tx).await).await?;
    Ok(Reply::ok(TablesView::from(sources)))
}

/// The newest insights of a table that were made for the caller's audience.
async fn latest(state: &State, request: &HttpRequest, table: &str) -> Result<Reply<LatestView>, ApiError> {
    let caller = person(state, request, (state.clock)()).await?;
    let found = state.db.caller(&caller, async |tx| {
        let (member, audience) = enter(tx, table).await?;
        Ok::<_, ApiError>(insights::list_latest(tx, member.org_id, table, &audience).await?)
    });
    let insights = found.await?.into_iter().map(InsightView::from).collect();
    Ok(Reply::ok(LatestView { table_name: table.to_owned(), insights }))
}

/// Why nothing of a request is kept.
enum Undone {
    /// The same request came before, and made this one.
    Replayed(Uuid),
    /// It failed.
    Failed(ApiError),
}

impl<E: Into<ApiError>> From<E> for Undone {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Computes a table's figures over the last whole period, as the caller sees its rows, and has them put into words.
///
/// 200 if there is nothing to wait for: nothing changed since somebody of the same audience asked, or there is nothing to tell. Else
/// 202, and the figures, series and the template's text come with it at once, so that a dashboard has all but the analyst's words:
/// those take a model's seconds, which no request should wait for.
async fn ask(state: &State, request: &HttpRequest, table: &str) -> Result<Reply<InsightView>, ApiError> {
    let now = (state.clock)();
    let caller = person(state, request, now).await?;
    let body: NewInsightBody = http::json(request)?;
    let keyed = http::idempotency(request, "POST /v1/insights")?;

    let asked = state.db.caller(&caller, async |tx| {
        let (member, audience) = enter(tx, table).await?;
        let period = period(&body)?;
        if !settings::enabled(tx, SWITCH).await? {
            let detail = "Insights are paused by an operator; nothing was queued.";
            return Err(ApiError::unavailable("insights_paused", detail, 300).into());
        }
        let (insight, made) = admit(tx, member.org_id, &audience, table, period, now).await?;
        let earlier = match &keyed {
            Some(keyed) => idempotency::remember(tx, member, keyed, insight.id).await?,
            None => None,
        };
        if let Some(earlier) = earlier.filter(|earlier| *earlier != insight.id) {
            // What this request has made is not what it answers with.
            return Err(Undone::Replayed(earlier));
        }
        // Somebody who asks, that is; not one who repeats what they asked.
        let again = !made && earlier.is_none() && deserves_another_try(&insight, now);
        if again {
            insights::admit_job(tx, insight.id).await?;
        }
        let hurried = !made && insight.open && insights::hurry_job(tx, insight.id).await?;
        Ok((insights::get(tx, insight.id).await?, again || hurried || (made && insight.job_id.is_some())))
    });
    let (insight, queued) = match asked.await {
        Ok(asked) => asked,
        Err(Undone::Replayed(earlier)) => {
            (state.db.caller(&caller, async |tx| insights::get(tx, earlier).await).await?, false)
        }
        Err(Undone::Failed(error)) => return Err(error),
    };
    if queued && let Some(job_id) = insight.job_id {
        state.queue.wake(job_id, insight.org_id).await; // best effort: the sweep finds what this loses
    }
    let location = format!("/v1/insights/{table}");
    let open = insight.open;
    let view = InsightView::from(insight);
    Ok(if open { Reply::accepted(&location, view) } else { Reply::ok(view) })
}

/// A person's token. Figures rest on what a person may see, and an agent has no audience to keep them for.
async fn person(state: &State, request: &HttpRequest, now: DateTime<Utc>) -> Result<Caller, ApiError> {
    let caller = state.auth.authenticate(&request.headers, now).await?;
    match caller.identity {
        Identity::Person { .. } => Ok(caller),
        Identity::Agent { .. } => {
            // Whether it is one at all comes first.
            state.db.caller(&caller, async |_| Ok::<_, ApiError>(())).await?;
            Err(ApiError::forbidden(
                "people_only",
                "Insights are made for people; an agent reads those that are there.",
            ))
        }
    }
}

/// The caller and the audience they belong to for this table: all who see the whole of it, or themselves.
async fn enter(tx: &mut CallerTx, table: &str) -> Result<(Member, Audience), ApiError> {
    let (member, sources) = insights::enter(tx).await?;
    let Some(source) = sources.iter().find(|source| source.table_name == table) else {
        let known: Vec<&str> = sources.iter().map(|source| source.table_name.as_str()).collect();
        return Err(ApiError::unknown(
            "insight_table_unknown",
            format!("There are no insights of that table; there are of: {}.", known.join(", ")),
        ));
    };
    Ok((member, audience(source, member)?))
}

fn audience(source: &Source, member: Member) -> Result<Audience, ApiError> {
    match &source.own {
        _ if source.may_whole => Ok(Audience { permission: source.whole.clone(), user_id: None }),
        Some(own) if source.may_own => Ok(Audience { permission: own.clone(), user_id: member.user_id }),
        _ => Err(ApiError::forbidden(
            "permission_missing",
            format!("Your role does not include `{}`; an owner or admin can grant it.", source.whole),
        )),
    }
}

/// Whether the template speaks only because the analyst could not at the time.
fn deserves_another_try(insight: &Insight, now: DateTime<Utc>) -> bool {
    insight.served_by == "default_template"
        && insight.job_id.is_some()
        && !insight.open
        && insight.updated_at < now - TRY_AGAIN
}
