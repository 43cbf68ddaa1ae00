//! How work on a job ends: completed, given back, given up or cancelled; each in one transaction.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    ai::Charge,
    audit::{self, AuditError, AuditKeys},
    db::ServiceTx,
    envelope::{Envelope, Resource},
    jobs::{self, Claimed, End},
    limits::{self, Amounts},
    store::{
        cache, outbox as outbox_rows, provider_calls,
        renders::{self, NewResult, Render},
    },
    telemetry::{Unit, metric},
};

use crate::outcome::AGENT;

use super::{
    Bill, Brief, Failure, Finished, Held, LONGEST_WAIT, PAUSE, Photo, Retry, State, Stop, fallback, hex,
    log_unavailable, postpone, quota_renewed_at, wishes,
};

/// The one transaction that tells the whole story: results, assets, counter, usage, charge, audit entry, document and job.
pub(super) async fn complete(
    state: &State,
    held: &Held,
    audit_keys: &AuditKeys,
    photo: &Photo,
    finished: &Finished,
) -> Result<(), Stop> {
    let Held { job, render, .. } = held;
    let Finished { brief, made, model, served_by, template, instead } = finished;
    let bills: Vec<&Bill> =
        brief.iter().map(|brief| &brief.bill).chain(made.iter().filter_map(|made| made.bill.as_ref())).collect();
    // Each call that is estimated costs what was reserved for it, and all of them together no less than was reserved for all.
    let charged: Charge = bills.iter().map(|bill| bill.charge).sum();
    let missing = charged.short_of(bills.iter().map(|bill| bill.reserved).sum());
    let Charge { tokens, cost_micro_usd, estimated } = charged + missing;
    let now = (state.clock)();
    let results: Vec<Value> = made
        .iter()
        .map(|made| json!({ "id": made.id, "path": made.path.to_string(), "width": made.width, "height": made.height }))
        .collect();

    let mut tx = state.db.service_tx(job.org_id).await?;
    // First, since it decides whether any of the rest may happen.
    let result = json!({
        "request_id": render.id, "results": results, "cost_micro_usd": cost_micro_usd, "estimated": estimated,
        "served_by": served_by, "instead_because": instead,
    });
    jobs::end(&mut tx, job, &End::Succeeded { result, tokens }).await??;
    if let Some(bill) = bills.iter().find(|bill| bill.charge.estimated) {
        provider_calls::raise(&mut tx, bill.call_id, missing).await?;
    }
    // The brief is paid for once and shown with the first result, so that the results add up to the charge.
    let mut share = brief.as_ref().map(|brief| brief.bill.charge).unwrap_or_default() + missing;
    for made in made {
        let charge = made.bill.map(|bill| bill.charge).unwrap_or_default() + std::mem::take(&mut share);
        let stored = NewResult {
            id: made.id,
            variant: made.variant,
            bucket: made.path.bucket(),
            path: made.path.key(),
            mime: made.mime,
            width: i32::try_from(made.width).unwrap_or(i32::MAX),
            height: i32::try_from(made.height).unwrap_or(i32::MAX),
            bytes: i64::try_from(made.bytes).unwrap_or(i64::MAX),
            sha256: made.sha256,
            charge,
            model_used: model,
            served_by,
        };
        renders::insert_result(&mut tx, render, &stored).await?;
    }
    let variants = i64::from(render.variants);
    renders::update_status(&mut tx, job.org_id, render.id, "completed", None).await?;
    if !limits::settle(&mut tx, held.reservation.get(), variants).await? {
        // Nobody but the holder of the lease ends a reservation, so this is a defect: nothing is told of a render that nobody counted.
        return Err(Failure::passing("reservation_lost", "The reservation had ended; the render is made again.").into());
    }
    let actor = job.created_by.unwrap_or_default();
    renders::charge(&mut tx, render, actor, variants, charged + missing).await?;

    let subject = audit_keys.subject(&mut tx, job.org_id, actor).await?;
    let seal = |field, value: &str| subject.seal(field, value).map_err(AuditError::from);
    let told = |part: fn(&Brief) -> &String| brief.as_ref().map(|brief| part(&brief.value).as_str());
    let envelope = Envelope {
        agent: Some(AGENT),
        action: "render.completed",
        resource: Resource { kind: "render_requests", id: render.id.to_string() },
        project_id: Some(render.project_id),
        input: json!({
            "photo": { "path": render.input_file_path, "sha256": hex(&photo.sha256), "width": photo.width, "height": photo.height },
            // Free text may name people.
            "wishes": seal("input", &wishes(render).to_string())?,
            "template": template,
        }),
        decision: json!({
            "why": told(|brief| &brief.decision).map(|text| seal("decision", text)).transpose()?,
            "prompt": told(|brief| &brief.prompt).map(|text| seal("decision", text)).transpose()?,
            "brief_model": brief.as_ref().map(|_| &state.claude_model), "model": model, "served_by": served_by,
            "instead_because": instead,
        }),
        output: json!({
            "results": results, "tokens": tokens, "cost_micro_usd": cost_micro_usd, "estimated": estimated,
        }),
        subjects: vec![subject.id()],
        // Rows of assets are found by the results, which `output` names.
        assets: Vec::new(),
        deploy: None,
        cost: Amounts { requests: variants, tokens, cost_micro_usd },
        served_by: Some(served_by),
        at: now,
    };
    audit::append(&mut tx, &envelope.entry(json!({ "job_id": job.id, "attempt": job.attempt }))).await?;

    let more = json!({
        "request_id": render.id, "job_id": job.id,
        "brief": brief.as_ref().map(|brief| json!({
            "prompt": brief.value.prompt, "negative": brief.value.negative, "decision": brief.value.decision,
        })),
        "wishes": wishes(render), "results": results, "tokens": tokens, "cost_micro_usd": cost_micro_usd,
        "estimated": estimated, "completed_at": now,
    });
    let document = envelope.document("render", more);
    outbox_rows::insert_document(&mut tx, job.org_id, render.id, "agent_outputs", &document).await?;
    if *served_by == "model" {
        cache::put(&mut tx, job.org_id, actor, &fallback::key(held, photo), &fallback::kept(made), now).await?;
    }
    tx.commit().await?;
    if *served_by != "model" {
        metric(now, "RendersServedInstead", Unit::Count, f64::from(render.variants), &[("served_by", served_by)]);
    }
    Ok(())
}

/// Ends or postpones the job after a step that failed, and gives back what it will not use.
pub(super) async fn give_up(state: &State, held: &Held, stop: &Stop) -> Result<(), Stop> {
    let Held { job, render, .. } = held;
    let unavailable = Failure::passing("dependency_unavailable", "Something the render needs did not answer.");
    let failure = match stop {
        Stop::Stale => return Ok(()),
        Stop::Limited(waiting) => {
            // It costs an attempt, since a call was paid for: without an end to that, a model that answers nonsense would be asked
            // again in every window.
            let error = Failure::permanent(waiting.code(), waiting.detail());
            let end = End::Later {
                run_after: waiting.until,
                waiting: Some(json!(waiting)),
                error: Some(error.to_json()),
                counts: true,
            };
            let mut tx = state.db.service_tx(job.org_id).await?;
            jobs::end(&mut tx, job, &end).await??;
            renders::update_status(&mut tx, job.org_id, render.id, "queued", None).await?;
            tx.commit().await?;
            return Ok(());
        }
        Stop::Cancelled => None,
        Stop::Failed(failure) | Stop::Waiting(failure) => Some(failure),
        Stop::Unavailable(_) => {
            log_unavailable(stop);
            Some(&unavailable)
        }
    };
    let now = (state.clock)();
    let mut tx = state.db.service_tx(job.org_id).await?;
    match failure {
        Some(failure) if matches!(stop, Stop::Waiting(_)) && now - render.created_at < LONGEST_WAIT => {
            // Those that wait for the same morning do not all come in its first second.
            let until = quota_renewed_at(failure.code, now) + TimeDelta::seconds(rand::random_range(0..600));
            tracing::warn!(job.id = %job.id, code = failure.code, %until, "render waits for a provider's quota");
            // Nothing is held meanwhile: it may be a day.
            limits::refund_job(&mut tx, job.id).await?;
            let waiting = json!({ "reason": failure.code, "detail": failure.detail, "until": until });
            postpone(tx, job, render, until, waiting).await?;
            return Ok(());
        }
        Some(failure) if failure.retry == Retry::Later && job.attempt < job.max_attempts => {
            let delay = TimeDelta::from_std(failure.delay(job.attempt, rand::random())).unwrap_or(PAUSE);
            let run_after = now + delay;
            tracing::warn!(job.id = %job.id, code = failure.code, attempt = job.attempt, "render will be tried again");
            jobs::end(
                &mut tx,
                job,
                &End::Later { run_after, waiting: None, error: Some(failure.to_json()), counts: true },
            )
            .await??;
            renders::update_status(&mut tx, job.org_id, render.id, "queued", None).await?;
        }
        Some(failure) => {
            tracing::warn!(job.id = %job.id, code = failure.code, attempt = job.attempt, "render failed");
            fail(&mut tx, job, render, failure, now).await?;
        }
        None => {
            finish(&mut tx, job, render, End::Cancelled, "cancelled").await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

/// Ends the job and the request as failed, and counts it for whoever watches.
pub(super) async fn fail(
    tx: &mut ServiceTx,
    job: &Claimed,
    render: &Render,
    failure: &Failure,
    now: DateTime<Utc>,
) -> Result<(), Stop> {
    metric(now, "Renders", Unit::Count, f64::from(render.variants), &[("outcome", failure.code)]);
    finish(tx, job, render, End::Failed { error: failure.to_json() }, "failed").await
}

/// Ends the job and the request together, with an audit entry, and gives back what the job held.
pub(super) async fn finish(
    tx: &mut ServiceTx,
    job: &Claimed,
    render: &Render,
    end: End,
    status: &str,
) -> Result<(), Stop> {
    limits::refund_job(tx, job.id).await?;
    jobs::end(tx, job, &end).await??;
    let error = match &end {
        End::Failed { error } => Some(error),
        _ => None,
    };
    renders::update_status(tx, job.org_id, render.id, status, error).await?;
    let entry = audit::Entry {
        action: if status == "failed" { "render.failed" } else { "render.cancelled" },
        resource_type: "render_requests",
        record_id: render.id.to_string(),
        input: json!({ "model": render.model, "variants": render.variants }),
        decision: json!({ "attempt": job.attempt, "max_attempts": job.max_attempts }),
        output: json!({ "error": error }),
        metadata: json!({ "agent": AGENT, "job_id": job.id }),
        ..audit::Entry::default()
    };
    audit::append(tx, &entry).await?;
    Ok(())
}
