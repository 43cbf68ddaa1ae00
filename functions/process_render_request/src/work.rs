//! One render, from claim to completion, as [`shared::worker`] has it worked on.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    ai::{Charge, models::Models},
    audit::{self, AuditError, AuditKeys},
    db::{Database, ServiceTx},
    envelope::{Envelope, Resource},
    jobs::End,
    limits::{self, Amounts, Reserved},
    objects::ObjectPath,
    outbox,
    store::{
        StoreError, cache, outbox as outbox_rows, provider_calls,
        renders::{self, NewResult},
        templates,
    },
    telemetry::{Unit, metric},
    worker::{Finish, Stop, Used, Work},
};

use crate::{
    fallback,
    job::{
        AGENT, BRIEF, Bill, Brief, Finished, Held, InHand, PICTURE, Payload, Plan, SWITCH, counted, expected, no_price,
        wishes,
    },
    outcome::{Failure, Halt, Retry, expected_brief, expected_pictures},
    photo::{self, MAX_BYTES, Photo},
    pictures::{self, Attempt},
    state::State,
};

/// How long a delivery after commit may take; what is left is for the sweep.
const DELIVERY: Duration = Duration::from_millis(500);

/// What came of the work, and what it takes to write it down.
pub(crate) struct Done {
    audit_keys: AuditKeys,
    photo: Photo,
    finished: Finished,
}

/// The worker of renders.
pub(crate) struct Renders<'a>(pub(crate) &'a State);

impl Work for Renders<'_> {
    type Payload = Payload;
    type Plan = Plan;
    type Done = Done;

    const NAME: &'static str = "render";
    const JOB_TYPES: &'static [&'static str] = &["render"];
    const SWITCH: Option<&'static str> = Some(SWITCH);
    const LEASE: TimeDelta = TimeDelta::minutes(5);
    /// A request is admitted with a reservation.
    const KEEPS_PLACE: bool = true;

    fn db(&self) -> &Database {
        &self.0.db
    }

    fn now(&self) -> DateTime<Utc> {
        (self.0.clock)()
    }

    async fn prepare(&self, tx: &mut ServiceTx, held: &Held) -> Result<Plan, Stop> {
        let (job, now) = (&held.job, self.now());
        let render = match renders::get(tx, held.payload.request_id).await {
            // Deleted with its project: nobody waits for it any more.
            Err(StoreError::NotFound { .. }) => {
                return Err(Stop::failed("render_deleted", "The request was deleted before it was worked on."));
            }
            other => other?,
        };
        let models = Models::read(tx, AGENT, now).await?;
        let briefs = models.choose(BRIEF, None, expected_brief);
        let pictures = models.choose(PICTURE, Some(&render.model), |model| expected_pictures(model, render.variants));
        let (Some(brief), Some(picture)) = (briefs.first(), pictures.first()) else {
            return Err(Halt::from(no_price()).into());
        };
        let amounts = expected(brief, picture, render.variants).map_err(Halt::from)?;
        let reservation = match limits::reserve(tx, job.id, counted(job, &render), amounts).await? {
            Reserved::Active(id) => id.into(),
            Reserved::Reached(waiting) => return Err(Stop::limited(&waiting)),
            Reserved::Never { scope } => {
                let detail = format!("This alone is more than the {scope}'s limit allows; ask for fewer variants.");
                return Err(Stop::failed("limit_too_small", detail));
            }
        };
        let (template, template_version) = templates::get(tx, job.org_id, "render_brief", "en").await?;
        renders::update_status(tx, job.org_id, render.id, "running", None).await?;
        Ok(Plan { render, reservation, amounts: amounts.into(), template, template_version, briefs, pictures })
    }

    async fn work(&self, held: &Held, plan: &Plan, deadline: Instant) -> Result<Done, Stop> {
        // Before the money is spent: an entry that cannot be sealed must not be discovered after.
        let audit_keys = AuditKeys::fetch(&self.0.secrets).await?;
        let photo = fetch_photo(self.0, held, plan).await.map_err(Halt::from)?;
        let hand = InHand { state: self.0, held, plan, deadline };
        let mut attempt = Attempt::default();
        let finished = match pictures::as_asked(hand, &photo, &mut attempt).await {
            Err(Halt::Failed(failure)) if failure.retry == Retry::Quota => {
                fallback::serve(hand, &photo, attempt, failure).await?
            }
            other => other?,
        };
        Ok(Done { audit_keys, photo, finished })
    }

    /// The whole story: results, assets, counter, usage, charge, audit entry and document.
    async fn finish(&self, tx: &mut ServiceTx, held: &Held, plan: &Plan, done: &Done) -> Result<Finish, Stop> {
        held.lock(tx).await?;
        let (job, render, now) = (&held.job, &plan.render, self.now());
        let Done { audit_keys, photo, finished } = done;
        let Finished { brief, made, model, served_by, template, instead } = finished;
        let bills: Vec<&Bill> =
            brief.iter().map(|brief| &brief.bill).chain(made.iter().filter_map(|made| made.bill.as_ref())).collect();
        // Each call that is estimated costs what was reserved for it, and all of them together no less than was reserved for all.
        let charged: Charge = bills.iter().map(|bill| bill.charge).sum();
        let missing = charged.short_of(bills.iter().map(|bill| bill.reserved).sum());
        let Charge { tokens, cost_micro_usd, estimated } = charged + missing;
        let results: Vec<Value> = made
            .iter()
            .map(|made| {
                json!({
                    "id": made.id, "path": made.path.to_string(), "width": made.width, "height": made.height,
                    "edges_kept": made.edges_kept, "credentials_removed": made.credentials_removed,
                })
            })
            .collect();

        if let Some(bill) = bills.iter().find(|bill| bill.charge.estimated) {
            provider_calls::raise(tx, bill.call_id, missing).await?;
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
                edges_kept: made.edges_kept,
                charge,
                model_used: model,
                served_by,
            };
            renders::insert_result(tx, render, &stored).await?;
        }
        let variants = i64::from(render.variants);
        renders::update_status(tx, job.org_id, render.id, "completed", None).await?;
        let actor = job.created_by.unwrap_or_default();
        renders::charge(tx, render, actor, variants, charged + missing).await?;

        let subject = audit_keys.subject(tx, job.org_id, actor).await?;
        let seal = |field, value: &str| subject.seal(field, value).map_err(AuditError::from);
        let told = |part: fn(&Brief) -> &String| brief.as_ref().map(|brief| part(&brief.value).as_str());
        let envelope = Envelope {
            agent: Some(AGENT),
            action: "render.completed",
            resource: Resource { kind: "render_requests", id: render.id.to_string() },
            project_id: Some(render.project_id),
            input: json!({
                "photo": {
                    "path": render.input_file_path, "sha256": hex::encode(photo.sha256),
                    "width": photo.width, "height": photo.height,
                },
                // Free text may name people.
                "wishes": seal("input", &wishes(render).to_string())?,
                "template": template,
            }),
            decision: json!({
                "why": told(|brief| &brief.decision).map(|text| seal("decision", text)).transpose()?,
                "prompt": told(|brief| &brief.prompt).map(|text| seal("decision", text)).transpose()?,
                "brief_model": told(|brief| &brief.model), "model": model, "served_by": served_by,
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
        audit::append(tx, &envelope.entry(json!({ "job_id": job.id, "attempt": job.attempt }))).await?;

        let more = json!({
            "request_id": render.id, "job_id": job.id,
            "brief": brief.as_ref().map(|brief| json!({
                "prompt": brief.value.prompt, "negative": brief.value.negative, "decision": brief.value.decision,
            })),
            "wishes": wishes(render), "results": results, "tokens": tokens, "cost_micro_usd": cost_micro_usd,
            "estimated": estimated, "completed_at": now,
        });
        let document = envelope.document("render", more);
        outbox_rows::insert_document(tx, job.org_id, render.id, "agent_outputs", &document).await?;
        if *served_by == "model" {
            cache::put(tx, job.org_id, actor, &fallback::key(plan, photo, model), &fallback::kept(made), now).await?;
        }
        let result = json!({
            "request_id": render.id, "results": results, "cost_micro_usd": cost_micro_usd, "estimated": estimated,
            "model": model, "served_by": served_by, "instead_because": instead,
        });
        let used = Used { reservation_id: plan.reservation.get(), requests: variants };
        Ok(Finish { end: End::Succeeded { result, tokens }, used: Some(used) })
    }

    /// The request follows its job, with an audit entry where that has ended.
    async fn stopped(&self, tx: &mut ServiceTx, held: &Held, end: &End) -> Result<(), StoreError> {
        let job = &held.job;
        let render = match renders::get(tx, held.payload.request_id).await {
            Err(StoreError::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        let (status, error) = match end {
            End::Failed { error } => ("failed", Some(error)),
            End::Cancelled => ("cancelled", None),
            End::Later { .. } | End::Succeeded { .. } => {
                return renders::update_status(tx, job.org_id, render.id, "queued", None).await;
            }
        };
        renders::update_status(tx, job.org_id, render.id, status, error).await?;
        let entry = audit::Entry {
            action: if error.is_some() { "render.failed" } else { "render.cancelled" },
            resource_type: "render_requests",
            record_id: render.id.to_string(),
            input: json!({ "model": render.model, "variants": render.variants }),
            decision: json!({ "attempt": job.attempt, "max_attempts": job.max_attempts }),
            output: json!({ "error": error }),
            metadata: json!({ "agent": AGENT, "job_id": job.id }),
            ..audit::Entry::default()
        };
        audit::append(tx, &entry).await?;
        if let Some(code) = error.and_then(|error| error["code"].as_str()) {
            metric(self.now(), "Renders", Unit::Count, f64::from(render.variants), &[("outcome", code)]);
        }
        Ok(())
    }

    async fn finished(&self, held: &Held, plan: &Plan, done: &Done, _end: &End, took: Duration) {
        let (now, variants) = (self.now(), f64::from(plan.render.variants));
        let served_by = done.finished.served_by;
        if served_by != "model" {
            metric(now, "RendersServedInstead", Unit::Count, variants, &[("served_by", served_by)]);
        }
        metric(now, "Renders", Unit::Count, variants, &[("outcome", "completed")]);
        metric(now, "RenderDuration", Unit::Milliseconds, took.as_secs_f64() * 1000.0, &[]);
        outbox::deliver(&self.0.db, &self.0.documents, held.job.org_id, DELIVERY).await;
    }
}

/// The photo that the render starts from.
async fn fetch_photo(state: &State, held: &Held, plan: &Plan) -> Result<Photo, Failure> {
    let org_id = held.job.org_id;
    let path = ObjectPath::parse(org_id, &plan.render.input_file_path)
        .map_err(|_| Failure::permanent("photo_not_found", "The photo's path is not one of this organisation."))?;
    let bytes = state.objects.for_org(org_id).get(&path, MAX_BYTES as u64).await.map_err(Failure::from_photo)?;
    Ok(photo::check(&bytes)?)
}
