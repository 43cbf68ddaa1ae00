//! Notifications: what causes them, who has them, and the mails that follow.

mod caused;
mod mail;
mod own;

use integration_tests::{
    TestApp, TestDatabase,
    acting::Actor,
    people::{ADAM, NORD},
};
use sandbox::Calls;
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

/// Everything that the sweep does about approvals and mail: an approval that expires, one that is overdue, an invitation; a mail that is put
/// off, one that is refused, some that arrive, and some whose answers are lost.
pub(crate) async fn scenario(app: &TestApp) {
    app.db
        .run(&format!(
            "insert into approvals (org_id, kind, subject_table, subject_id, payload_digest, status, decided_at, expires_at)
             values ('{NORD}', 'voucher', 'accounting_writes', app.uuidv7(), sha256('x'), 'proposed', null, now()),
                    ('{NORD}', 'voucher', 'accounting_writes', app.uuidv7(), sha256('x'), 'approved', now() - interval '2 hours', now() + interval '1 hour')"
        ))
        .await;
    app.db
        .ask(&Actor::person(&ADAM), "select public.create_invitation('consultant', 'new@consultants.example')")
        .await
        .unwrap();
    for (fault, calls) in [("451", 1), ("550", 1), ("drop", 2)] {
        app.stack.fault("mail", fault, Calls::Next(calls)).unwrap();
    }
    for _ in 0..2 {
        app.stack.sweep().await.unwrap();
    }
    assert_eq!(app.db.count("select count(*) from approvals where status in ('expired', 'overdue')").await, 2);
    let ended =
        "select count(*) from outbox where kind = 'mail' and (delivered_at is not null or dropped_at is not null)";
    assert!(app.db.count(ended).await > 1, "{}", app.logs());
}
