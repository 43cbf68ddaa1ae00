//! Triggers to capabilities: authenticate, parse, one transaction, reply.

use chrono::{DateTime, TimeDelta, Utc};
use shared::{
    auth::{Caller, Identity},
    db::{CallerTx, Tx},
    http::{self, ApiError, HttpRequest, HttpResponse, Reply, conclude},
    lambda::{Answer, Error, Trigger},
    store::{
        StoreError,
        access::Member,
        idempotency,
        insights::{self, Audience, Insight, NewInsight, Source},
        settings,
    },
};
use uuid::Uuid;

use crate::{
    figures::{self, Figures},
    nightly,
    request::{NewInsightBody, period},
    state::State,
    text,
    view::{InsightView, LatestView, TablesView},
    work,
};

/// How long a text that no model wrote stays before whoever asks has the analyst try again.
const TRY_AGAIN: TimeDelta = TimeDelta::minutes(15);
/// Why the template speaks while the analyst is still to.
const ON_ITS_WAY: &str = "text_on_its_way";
/// Why it always will: there is no figure worth a word.
pub(crate) const NOTHING_TO_TELL: &str = "nothing_to_tell";

/// Answers whatever woke the function.
///
/// # Errors
/// None towards HTTP and the queue; to the schedule, if nothing that was due could be done.
pub async fn handle(state: &State, trigger: Trigger) -> Result<Answer, Error> {
    match trigger {
        Trigger::Http(request) => {
            let response = match route(state, &request).await {
                Ok(response) => response,
                Err(error) => error.into_response(&request.request_id),
            };
            Ok(Answer::Http(response))
        }
        Trigger::Queue(batch) => {
            let deadline = std::time::Instant::now() + batch.remaining;
            Ok(batch.each(async |message| work::process(state, message, deadline).await).await)
        }
        Trigger::Schedule(tick) => nightly::tick(state, tick).await.map(Answer::Schedule),
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
    let mut tx = state.db.caller_tx(&caller).await?;
    let entered = insights::enter(&mut tx).await.map_err(ApiError::from);
    let (_, sources) = conclude(tx, entered).await?;
    Ok(Reply::ok(TablesView::from(sources)))
}

/// The newest insights of a table that were made for the caller's audience.
async fn latest(state: &State, request: &HttpRequest, table: &str) -> Result<Reply<LatestView>, ApiError> {
    let caller = person(state, request, (state.clock)()).await?;
    let mut tx = state.db.caller_tx(&caller).await?;
    let found = async {
        let (member, audience) = enter(&mut tx, table).await?;
        Ok(insights::list_latest(&mut tx, member.org_id, table, &audience).await?)
    }
    .await;
    let found = conclude(tx, found).await?;
    let insights = found.into_iter().map(InsightView::from).collect();
    Ok(Reply::ok(LatestView { table_name: table.to_owned(), insights }))
}

/// What came of asking.
enum Asked {
    /// The insight, and whether its job was queued in this transaction.
    Insight(Box<Insight>, bool),
    /// The same request came before, and made this one.
    Replayed(Uuid),
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

    let mut tx = state.db.caller_tx(&caller).await?;
    let asked = async {
        let (member, audience) = enter(&mut tx, table).await?;
        let period = period(&body)?;
        if !settings::enabled(&mut tx, "insights.enabled").await? {
            return Err(ApiError::unavailable(
                "insights_paused",
                "Insights are paused by an operator; nothing was queued.",
                300,
            ));
        }
        let (insight, made) = admit(&mut tx, member.org_id, &audience, table, period, now).await?;
        let earlier = match &keyed {
            Some(keyed) => idempotency::remember(&mut tx, member, keyed, insight.id).await?,
            None => None,
        };
        if let Some(earlier) = earlier.filter(|earlier| *earlier != insight.id) {
            return Ok(Asked::Replayed(earlier));
        }
        // Somebody who asks, that is; not one who repeats what they asked.
        let again = !made && earlier.is_none() && deserves_another_try(&insight, now);
        if again {
            insights::admit_job(&mut tx, insight.id).await?;
        }
        let hurried = !made && insight.open && insights::hurry_job(&mut tx, insight.id).await?;
        Ok(Asked::Insight(
            Box::new(insights::get(&mut tx, insight.id).await?),
            again || hurried || (made && insight.job_id.is_some()),
        ))
    }
    .await;
    let (insight, queued) = match asked {
        Ok(Asked::Replayed(earlier)) => {
            // What this request has made is not what it answers with.
            tx.rollback().await?;
            let mut tx = state.db.caller_tx(&caller).await?;
            let found = insights::get(&mut tx, earlier).await.map_err(ApiError::from);
            (conclude(tx, found).await?, false)
        }
        other => match conclude(tx, other).await? {
            Asked::Insight(insight, queued) => (*insight, queued),
            Asked::Replayed(_) => return Err(ApiError::internal("a replay was concluded")),
        },
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
            state.db.caller_tx(&caller).await?.rollback().await?;
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

/// The insight of the figures as they are now for this audience: the one that is there, or one made now with the template's text and, if
/// there is anything to tell, the analyst's job. Whether it was made now.
///
/// Runs as the caller for what they see, and as the system for what everybody of the organisation's audience does.
pub(crate) async fn admit(
    tx: &mut Tx,
    org_id: Uuid,
    audience: &Audience,
    table: &str,
    period: &str,
    now: DateTime<Utc>,
) -> Result<(Insight, bool), StoreError> {
    let insights::Computed { figures: computed, seen_as } = insights::figures(tx, table, period, now).await?;
    let digest = figures::digest(&computed);
    if let Some(same) = insights::find_same(tx, org_id, audience, &digest).await? {
        insights::confirm(tx, same.id).await?;
        return Ok((same, false));
    }
    let parsed = Figures::parse(&computed)?;
    let id = Uuid::now_v7();
    let telling = parsed.tell_anything();
    let new = NewInsight {
        id,
        job_id: telling.then(Uuid::now_v7),
        org_id,
        audience,
        table_name: table,
        period,
        period_start: parsed.period_start,
        figures: &computed,
        seen_as: audience.user_id.and(seen_as.as_deref()),
        figures_digest: digest,
        text: &text::template(&parsed),
        instead_because: if telling { ON_ITS_WAY } else { NOTHING_TO_TELL },
    };
    if insights::insert(tx, &new).await? {
        if telling {
            insights::admit_job(tx, id).await?;
        }
        return Ok((insights::get(tx, id).await?, true));
    }
    // Somebody of the same audience asked at this moment, and theirs is there now.
    let same = insights::find_same(tx, org_id, audience, &digest).await?;
    same.map(|same| (same, false)).ok_or(StoreError::NotFound { entity: "insight" })
}

/// Whether the template speaks only because the analyst could not at the time.
fn deserves_another_try(insight: &Insight, now: DateTime<Utc>) -> bool {
    insight.served_by == "default_template"
        && insight.job_id.is_some()
        && !insight.open
        && insight.updated_at < now - TRY_AGAIN
}
