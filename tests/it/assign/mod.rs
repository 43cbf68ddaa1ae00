//! Leads and who gets them, through the deployed function and in the database.

mod again;
mod ask;
mod fair;
mod many;
mod model;
mod outcomes;

use integration_tests::{
    TestApp, TestDatabase,
    people::{NORD, Person},
};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

/// A lead, by number.
pub(crate) const fn lead(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0009_0000 + number)
}

/// The one value of a query, asked as superuser.
async fn one(db: &TestDatabase, query: &str) -> Value {
    let query = format!("select coalesce(to_jsonb(one), 'null') from ({query}) x (one)");
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut db.admin().await).await.unwrap()
}

/// Has somebody of Atelier Nord take leads.
pub(crate) async fn takes(db: &TestDatabase, person: &Person, most: i32) {
    db.run(&format!(
        "insert into lead_capacity (org_id, user_id, max_open) values ('{NORD}', '{}', {most})",
        person.id
    ))
    .await;
}

/// New leads of Atelier Nord, from this number on. Old ones, so that the moments between two looks at a score make no difference.
pub(crate) async fn come(db: &TestDatabase, first: u128, count: u128) {
    let rows: Vec<String> =
        (first..first + count).map(|n| format!("('{}', '{NORD}', 'Lead {n}', '2020-01-01')", lead(n))).collect();
    db.run(&format!("insert into leads (id, org_id, client_name, created_at) values {}", rows.join(", "))).await;
}

/// Sets how Atelier Nord's leads are assigned, past what the function would refuse.
pub(crate) async fn set(db: &TestDatabase, columns: &str, values: &str) {
    db.run(&format!("insert into lead_assignment_settings (org_id, {columns}) values ('{NORD}', {values})")).await;
}

/// Asks for a lead's assignment.
pub(crate) async fn ask(app: &TestApp, token: &str, lead: Uuid) -> integration_tests::Answer {
    app.send(reqwest::Method::POST, &format!("/v1/leads/{lead}/assign"), token, None).await
}

/// Lets a minute pass: leases and waits are over, schedules tick, and the queue is worked off.
async fn a_minute(app: &TestApp) {
    app.db
        .run(
            "update jobs set lease_until = now() - interval '1 second' where status = 'running';
             update jobs set run_after = now() where status = 'queued'",
        )
        .await;
    let _ = app.stack.look_after_leads().await;
    let _ = app.stack.sweep().await;
    app.stack.leads.drained().await;
}

/// Checks that each lead that somebody has was scored, assigned and told of just once, and that nothing is held any more.
async fn whole(db: &TestDatabase) {
    let told = one(
        db,
        "select jsonb_build_object(
             'given', (select count(*) from leads where assigned_to is not null),
             'open', (select count(*) from lead_assignments a join leads l on l.id = a.lead_id and l.assigned_to = a.user_id where a.ended_at is null),
             'open_at_all', (select count(*) from lead_assignments where ended_at is null),
             'assignments', (select count(*) from lead_assignments),
             'scored', (select count(*) from lead_assignments a join lead_scoring c on c.lead_id = a.lead_id and c.created_at = a.created_at),
             'told', (select count(*) from audit_log where action in ('lead.assigned', 'lead.reassigned')),
             'held', (select count(*) from usage_reservations where state = 'active'),
             'reserved', (select coalesce(sum(reserved_requests + reserved_tokens + reserved_cost_micro_usd), 0) from agent_usage))",
    )
    .await;
    assert_eq!((&told["open"], &told["open_at_all"]), (&told["given"], &told["given"]), "{told}");
    assert_eq!((&told["scored"], &told["told"]), (&told["assignments"], &told["assignments"]), "{told}");
    assert_eq!((&told["held"], &told["reserved"]), (&Value::from(0), &Value::from(0)), "{told}");
}
