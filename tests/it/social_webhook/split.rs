//! A body is split before it is stored: each organisation has the bytes of its own entries, and no more.

use std::collections::BTreeMap;

use chrono::Utc;
use integration_tests::{
    TestApp,
    acting::Actor,
    people::{BRICK, NORD, OLGA, OSCAR},
};
use sandbox::instagram as events;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{connect, merged, meta, value};
use crate::social_inbox::accounts;

fn comment(account: &str, id: &str, text: &str) -> Value {
    let value = json!({ "id": id, "from": { "id": "9001", "username": "greta" }, "text": text, "media": { "id": "m1", "media_product_type": "FEED" } });
    events::change_entry(events::Flavour::FacebookLogin, account, Utc::now().timestamp(), "comments", value)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_entries_of_three_hundred_organisations_are_each_ones_own_and_one_that_is_malformed_stops_none() {
    let app = TestApp::start().await;
    let orgs: Vec<Uuid> = (0..300).map(|_| Uuid::now_v7()).collect();
    let named: Vec<String> =
        orgs.iter().enumerate().map(|(n, org)| format!("('{org}', 'Org {n}', 'org-{n}')")).collect();
    app.db.run(&format!("insert into organizations (id, name, slug) values {}", named.join(", "))).await;
    for (number, org) in orgs.iter().enumerate() {
        accounts(&app.db, *org, "instagram", &[(Uuid::now_v7(), format!("1784{number:013}"))]).await;
    }
    let mut entries: Vec<Value> = (0..1000)
        .map(|number| {
            let org = number * 7 % 300;
            comment(&format!("1784{org:013}"), &format!("c{number}"), &format!("for {org} å"))
        })
        .collect();
    entries[500] = json!({ "time": 1, "changes": "?" });
    let body = events::body(&entries, sandbox::Written::Escaped);
    assert_eq!(meta(&app, &body).await.expect(200)["stored"], 999);
    assert_eq!(meta(&app, &body).await.expect(200)["stored"], 0, "the same body again");
    merged(&app).await;
    // What was not woken in time, the sweep wakes.
    while app.db.count("select count(*) from webhook_events where status = 'received'").await > 0 {
        app.a_minute_passes().await;
        app.stack.sweep().await.unwrap();
        merged(&app).await;
    }
    let digest = hex::encode(Sha256::digest(&body));
    assert_eq!(
        app.db
            .count(&format!("select count(*) from webhook_events where encode(body_digest, 'hex') = '{digest}'"))
            .await,
        999
    );
    // The very bytes, of that organisation alone.
    let rows =
        value(&app.db, "select jsonb_agg(jsonb_build_array(org_id, convert_from(raw, 'UTF8'))) from webhook_events")
            .await;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let whole = String::from_utf8(body).unwrap();
    for row in rows.as_array().unwrap() {
        let (org, raw) = (row[0].as_str().unwrap(), row[1].as_str().unwrap());
        let number = orgs.iter().position(|id| id.to_string() == org).unwrap();
        assert!(whole.contains(raw), "{raw}");
        assert_eq!(raw.matches("\"id\":\"1784").count(), 1, "{raw}");
        assert!(raw.contains(&format!("for {number} \\u00e5")), "{raw}");
        *seen.entry(org.to_owned()).or_default() += 1;
    }
    assert_eq!(seen.len(), 300);
    assert_eq!(app.db.count("select count(*) from social_messages where content <> 'for ' || (select substr(slug, 5) from organizations o where o.id = org_id) || ' å'").await, 0);
    assert_eq!(app.db.count("select count(*) from social_messages").await, 999);
    let metric = app.logs();
    assert!(metric.contains("\"outcome\":\"malformed\""), "the malformed entry is counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_two_organisations_have_connected_is_delivered_to_both_each_in_rows_of_its_own() {
    let app = TestApp::start().await;
    connect(&app, NORD, "instagram", "17841400000000001").await;
    connect(&app, BRICK, "instagram", "17841400000000001").await;
    connect(&app, BRICK, "instagram", "17841400000000002").await;
    let entries = [
        comment("17841400000000001", "shared", "for both"),
        comment("17841400000000002", "theirs", "for one"),
        comment("17841400000000003", "strange", "unowned"),
    ];
    let body = events::body(&entries, sandbox::Written::Escaped);
    assert_eq!(meta(&app, &body).await.expect(200)["stored"], 3);
    merged(&app).await;
    for (person, wanted) in [(&OLGA, json!(["for both"])), (&OSCAR, json!(["for both", "for one"]))] {
        let seen = app
            .db
            .ask(&Actor::person(person), "select jsonb_agg(content order by content) as it from public.social_messages")
            .await;
        assert_eq!(seen.unwrap()[0]["it"], wanted);
    }
    // An entry for an account that is not connected is not kept.
    assert_eq!(
        app.db.count("select count(*) from webhook_events where convert_from(raw, 'UTF8') like '%unowned%'").await,
        0
    );
    // An organisation reads its own rows alone, and people do not read the bytes.
    let own = app.db.ask(&Actor::service(NORD), "select count(*) as it from public.webhook_events").await.unwrap();
    assert_eq!(own[0]["it"], 1);
    assert!(app.db.ask(&Actor::person(&OLGA), "select raw from public.webhook_events").await.is_err());
}
