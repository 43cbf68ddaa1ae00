//! Notifications: what causes them, who has them, and the mails that follow.

mod caused;
mod own;

use integration_tests::{TestDatabase, acting::Actor};
use serde_json::Value;
use uuid::Uuid;

/// Who was notified of what, and whether it is to be mailed: `adam approval_waits mail`, in order.
async fn notified(db: &TestDatabase) -> Vec<String> {
    let all = "select split_part(p.email, '@', 1) || ' ' || n.kind || case when o.id is null then '' else ' mail' end as it
                 from notifications n join profiles p on p.id = n.user_id
                 left join outbox o on o.kind = 'mail' and o.org_id = n.org_id and o.destination = n.user_id::text
                                   and o.payload = jsonb_build_object('kind', n.kind, 'subject', n.subject, 'notification_id', n.id)
                order by 1";
    texts(db, all).await
}

/// The texts that a query answers a superuser, in the column `it`.
async fn texts(db: &TestDatabase, query: &str) -> Vec<String> {
    let rows = db.ask(&Actor::role("postgres"), query).await.unwrap();
    rows.as_array().unwrap().iter().map(|row| row["it"].as_str().unwrap().to_owned()).collect()
}

/// Notifies a person as a cause does.
async fn notify(db: &TestDatabase, org: Uuid, user: Uuid, kind: &str, key: &str) -> bool {
    let call =
        format!("select app.notify('{org}', '{user}', '{kind}', '{{\"approval_id\": \"{key}\"}}', '{key}') as it");
    db.ask(&Actor::role("spine_definer"), &call).await.unwrap()[0]["it"] == Value::Bool(true)
}
