//! Figures are asked for, over rows that keep changing.

use std::time::Duration;

use anyhow::Result;
use rand::{RngExt, seq::IndexedRandom};
use serde_json::json;

use super::{Ask, Soak};
use crate::cast::{Organisation, earlier_leads, sign_in};

pub(super) async fn lane(soak: &Soak<'_>, org: &Organisation) -> Result<()> {
    let mut random = soak.random(&format!("insights {}", org.id));
    let people = [(&org.owner, sign_in(soak.ground, &org.owner)?), (&org.sales, sign_in(soak.ground, &org.sales)?)];
    let mut number = 0;
    while soak.goes_on() {
        soak.pause(&mut random, Duration::from_secs(4)).await;
        number += 1;
        if random.random_bool(0.5) {
            // Of weeks that are over, so that the figures are others than before.
            let many = random.random_range(1..8);
            soak.confirmed(async || soak.ground.run(&earlier_leads(org.id, many)).await).await;
        }
        let Some((person, token)) = people.choose(&mut random) else { continue };
        let period = *["day", "week", "month"].choose(&mut random).unwrap_or(&"week");
        let key = format!("insight-{}-{number}", org.id);
        let body = json!({ "period": period });
        let ask = Ask {
            route: "POST /v1/insights/leads",
            path: "/v1/insights/leads",
            token,
            body: Some(&body),
            key: Some(&key),
        };
        if let Some(answer) = soak.insist(ask).await
            && matches!(answer.status, 200 | 202)
            && let Some(id) = answer.body["id"].as_str().and_then(|id| id.parse().ok())
        {
            soak.ledger.accept("insight", org.id, id, Some(&key), person.id);
        }
        if random.random_bool(0.3) {
            let route = "GET /v1/insights/leads";
            soak.insist(Ask { route, body: None, key: None, ..ask }).await;
        }
    }
    Ok(())
}
