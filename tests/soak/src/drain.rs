//! After the load: faults end, limits are taken away, and nothing but time and the schedules brings everything to its end.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{
    cast::Organisation,
    faults::{SCHEDULES, tick_once},
    load::Soak,
};

/// How often time passes at most, before what is left is left.
const ROUNDS: usize = 40;
/// How long the queues may take in one of them.
const PATIENCE: Duration = Duration::from_secs(60);

/// What still waits for a limit, in words.
const WAITING: &str = "
    select j.job_type || ' ' || j.id || ' waits until ' || j.run_after || ' for a limit that was deleted'
      from public.jobs j
     where j.status = 'queued' and j.run_after > now()
       and (j.wait_reason ->> 'reason' = 'limit' or j.last_error ->> 'code' = 'limit_reached') order by 1";
/// How much there is to do, the events of these ids that are nowhere included.
const LEFT: &str = "
    select (select count(*) from public.jobs where status in ('queued', 'running'))
         + (select count(*) from public.outbox where delivered_at is null and dropped_at is null)
         + (select count(*) from public.leads l join public.lead_assignment_settings s on s.org_id = l.org_id and s.enabled
             where l.assigned_to is null and l.status not in ('won', 'lost'))
         + (select count(*) from unnest($1::text[]) e (id)
             where not exists (select from public.webhook_events w where w.provider = 'stripe' and w.event_id = e.id))";

/// Lets time pass until nothing is left to do. How many rounds that took; `None` if something still was.
pub(crate) async fn drain(soak: &Soak<'_>, cast: &[Organisation], told: impl Fn(&str)) -> Result<Option<usize>> {
    soak.ground.end_faults();
    queues(soak).await;
    release(soak, cast).await?;
    let mut quiet = 0;
    for round in 1..=ROUNDS {
        time_passes(soak).await?;
        for (name, _) in SCHEDULES {
            if let Some(function) = soak.ground.stack.function(name) {
                tick_once(soak, name, function).await;
            }
        }
        deliver(soak).await;
        queues(soak).await;
        let left = left(soak).await?;
        told(&format!("drain {round:>2}: {left} left"));
        // Twice, since a schedule may have found something new in the meantime.
        quiet = if left == 0 { quiet + 1 } else { 0 };
        if quiet == 2 {
            return Ok(Some(round));
        }
    }
    Ok(None)
}

/// Takes every limit away, and sees that what waited for one goes on with the next sweep.
async fn release(soak: &Soak<'_>, cast: &[Organisation]) -> Result<()> {
    for org in cast {
        soak.ground.run_as(&org.owner, &format!("delete from public.agent_limits where org_id = '{}'", org.id)).await?;
    }
    if let Some(sweep) = soak.ground.stack.function("Sweep")
        && !tick_once(soak, "Sweep", sweep).await
    {
        tick_once(soak, "Sweep", sweep).await;
    }
    queues(soak).await;
    let waiting: Vec<String> =
        soak.ground.with(async |conn| Ok(sqlx::query_scalar(WAITING).fetch_all(conn).await?)).await?;
    for item in waiting {
        soak.ledger.saw("limits.released", item);
    }
    Ok(())
}

/// Waits until every message is done with or dead, and no process is at work.
async fn queues(soak: &Soak<'_>) {
    let stack = &soak.ground.stack;
    let drained = futures::future::join_all(stack.queues.iter().map(|queue| queue.drained()));
    let _ = tokio::time::timeout(PATIENCE, drained).await;
}

/// Waits are over and leases end: nobody works, unless the queues' patience was not enough.
async fn time_passes(soak: &Soak<'_>) -> Result<()> {
    soak.ground
        .run(
            "update public.jobs set lease_until = now() where status = 'running';
             update public.jobs set run_after = now() where status = 'queued' and run_after > now();
             update public.outbox set next_attempt_at = now() where delivered_at is null",
        )
        .await?;
    Ok(())
}

/// Stripe posts what was not taken yet.
async fn deliver(soak: &Soak<'_>) {
    let attempts = soak.ground.stack.sandbox.stripe.deliver_all().await;
    let mut book = soak.ledger.book();
    for attempt in attempts {
        *book.deliveries.entry(attempt.status.unwrap_or_default()).or_default() += 1;
        if attempt.succeeded() {
            book.delivered.insert(attempt.event);
        }
    }
}

/// How much there is still to do: jobs, documents, leads without anybody, and events that were not taken.
async fn left(soak: &Soak<'_>) -> Result<usize> {
    let events: Vec<String> = soak
        .ground
        .stack
        .sandbox
        .stripe
        .events()
        .iter()
        .filter_map(|event| Some(event["id"].as_str()?.to_owned()))
        .collect();
    let left: i64 =
        soak.ground.with(async |conn| Ok(sqlx::query_scalar(LEFT).bind(events).fetch_one(conn).await?)).await?;
    Ok(usize::try_from(left).unwrap_or_default())
}

/// Waits a little for processes that still work on what the load left, and ends those that do not end.
pub(crate) async fn settle(soak: &Soak<'_>) {
    let begun = Instant::now();
    soak.ground.end_faults();
    while begun.elapsed() < Duration::from_secs(30) {
        let busy = soak.ground.stack.functions.iter().any(|function| function.busy() > 0);
        if !busy {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // They hang on exchanges that were spoilt for good.
    for function in &soak.ground.stack.functions {
        let killed = function.kill();
        if killed > 0 {
            *soak.ledger.book().kills.entry(format!("{}, hanging", function.function().name)).or_default() += killed;
        }
    }
}
