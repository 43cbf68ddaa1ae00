//! Limits are lowered until work waits, and raised or deleted so that it goes on.

use std::time::Duration;

use anyhow::Result;
use rand::{RngExt, seq::IndexedRandom};

use super::Soak;
use crate::cast::Organisation;

pub(super) async fn lane(soak: &Soak<'_>, org: &Organisation) -> Result<()> {
    let mut random = soak.random(&format!("limits {}", org.id));
    // Each value is another, so that every change is one.
    let mut value = 1000;
    while soak.goes_on() {
        soak.pause(&mut random, Duration::from_secs(8)).await;
        value += 1;
        let agent = *["renderer", "renderer", "analyst", "lead_assigner"].choose(&mut random).unwrap_or(&"renderer");
        let period = *["minute", "hour", "day"].choose(&mut random).unwrap_or(&"minute");
        let tight = random.random_range(1..6);
        let made = format!(
            "insert into public.agent_limits (org_id, agent, scope, period, max_requests) values ('{}', '{agent}', 'agent', '{period}', {tight})
             on conflict do nothing returning id",
            org.id
        );
        let Some(Some(id)) = soak.confirmed(async || soak.ground.make_as(&org.owner, &made).await).await else {
            continue;
        };
        soak.ledger.accept("limit made", org.id, id, None, org.owner.id);
        soak.pause(&mut random, Duration::from_secs(6)).await;
        let changed = format!("update public.agent_limits set max_requests = {value} where id = '{id}'");
        if random.random_bool(0.5)
            && soak.confirmed(async || soak.ground.run_as(&org.owner, &changed).await).await.is_some()
        {
            soak.ledger.accept("limit changed", org.id, id, None, org.owner.id);
        }
        let gone = format!("delete from public.agent_limits where id = '{id}'");
        if soak.confirmed(async || soak.ground.run_as(&org.owner, &gone).await).await.is_some() {
            soak.ledger.accept("limit deleted", org.id, id, None, org.owner.id);
        }
    }
    Ok(())
}
