//! Leads come, are asked for or found by the schedule, and are won or lost.

use std::time::Duration;

use anyhow::Result;
use rand::{RngExt, seq::IndexedRandom};
use uuid::Uuid;

use super::{Ask, Soak};
use crate::cast::{LEAD_MARK, Organisation, sign_in};

pub(super) async fn lane(soak: &Soak<'_>, org: &Organisation) -> Result<()> {
    let mut random = soak.random(&format!("leads {}", org.id));
    let token = sign_in(soak.ground, &org.owner)?;
    let mut open: Vec<Uuid> = Vec::new();
    let mut number = 0;
    while soak.goes_on() {
        soak.pause(&mut random, Duration::from_secs(3)).await;
        number += 1;
        let come = format!(
            "insert into public.leads (org_id, client_name, email, phone, source, budget_minor, currency)
             values ('{0}', '{LEAD_MARK} {number}', '{LEAD_MARK}-{number}@lakeside.example', '+46 70 555 {number:04}', 'website', 900000, 'SEK')
             returning id",
            org.id
        );
        let Some(Some(lead)) = soak.confirmed(async || soak.ground.make_as(&org.owner, &come).await).await else {
            continue;
        };
        let said = format!(
            "insert into public.lead_notes (org_id, lead_id, note) values ('{}', '{lead}', '{LEAD_MARK} {number} wants a kitchen')",
            org.id
        );
        soak.confirmed(async || soak.ground.run_as(&org.owner, &said).await).await;
        soak.ledger.accept("lead", org.id, lead, None, org.owner.id);
        open.push(lead);
        if random.random_bool(0.5) {
            let (path, key) = (format!("/v1/leads/{lead}/assign"), format!("lead-{lead}"));
            let ask =
                Ask { route: "POST /v1/leads/{id}/assign", path: &path, token: &token, body: None, key: Some(&key) };
            if let Some(answer) = soak.insist(ask).await
                && matches!(answer.status, 200 | 202)
            {
                soak.ledger.accept("lead asked for", org.id, lead, Some(&key), org.owner.id);
            }
        }
        if random.random_bool(0.3)
            && let Some(ended) = open.choose(&mut random).copied()
        {
            let status = if random.random_bool(0.5) { "won" } else { "lost" };
            let end = format!("update public.leads set status = '{status}', closed_at = now() where id = '{ended}'");
            if soak.confirmed(async || soak.ground.run_as(&org.owner, &end).await).await.is_some() {
                open.retain(|lead| *lead != ended);
                soak.ledger.accept("lead ended", org.id, ended, None, org.owner.id);
            }
        }
    }
    Ok(())
}
