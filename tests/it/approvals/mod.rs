//! Approvals: who proposes, who decides, and what alone is executed.

mod decide;
mod gate;
mod roles;

use integration_tests::{
    TestDatabase,
    acting::Actor,
    people::{ADAM, BRICK, CLEO, HOTELS, LIVING, NORD, OSCAR, Person, SVEN},
};
use serde_json::{Value, json};
use uuid::Uuid;

/// The built-in role that approves what is written to books.
pub(crate) const ACCOUNTANT: &str = "00000000-0000-7000-8000-000000000008";
/// Who has it.
pub(crate) const ANNA: Person = SVEN;

/// An organisation's books as they were read last: years, series and accounts that the sandbox's companies have.
pub(crate) async fn books_read(db: &TestDatabase, org: Uuid) {
    db.run(&format!(
        "delete from fortnox_years where org_id = '{org}'; delete from fortnox_cost_centers where org_id = '{org}';
         delete from fortnox_sync_state where org_id = '{org}';
         insert into fortnox_years (org_id, year_id, from_date, to_date) values
             ('{org}', 1, '2025-01-01', '2025-12-31'), ('{org}', 2, '2026-01-01', '2026-12-31');
         insert into fortnox_voucher_series (org_id, year_id, code, description, manual)
         select '{org}', y, s.code, s.code, s.manual from generate_series(1, 2) y, (values ('SP', true), ('A', false)) s (code, manual);
         insert into fortnox_cost_centers (org_id, code, description, active) values
             ('{org}', 'AVD1', 'Avdelning Öst', true), ('{org}', 'GAMMAL', 'Nedlagd avdelning', false);
         insert into fortnox_sync_state (org_id, tenant, read_at) select org_id, external_tenant_id, now() from org_integrations where org_id = '{org}';
         insert into fortnox_accounts (org_id, year_id, number, description, active, vat_code, cost_center_settings, pass_id)
         select '{org}', y, a.number, 'Konto', a.active, a.vat_code, a.cost_center, gen_random_uuid()
           from generate_series(1, 2) y,
                (values (1510, true, null, 'NOTALLOWED'), (1930, true, null, 'NOTALLOWED'), (2611, true, 'U1', 'ALLOWED'),
                        (2621, true, 'U2', 'ALLOWED'), (3001, true, 'MP1', 'ALLOWED'), (3002, true, 'MP2', 'ALLOWED'),
                        (5010, true, null, 'ALLOWED'), (5800, true, null, 'MANDATORY'),
                        (6990, false, null, 'ALLOWED')) a (number, active, vat_code, cost_center)"
    ))
    .await;
}

/// Both organisations have Fortnox connected, and their clients' books are open. Sven is an accountant.
pub(crate) async fn books(db: &TestDatabase) {
    db.run(&format!(
        "insert into org_integrations (org_id, provider, status, external_tenant_id) values
             ('{NORD}', 'fortnox', 'connected', '100'), ('{BRICK}', 'fortnox', 'connected', '200');
         update org_members set role_id = '{ACCOUNTANT}' where org_id = '{NORD}' and user_id = '{}'",
        ANNA.id
    ))
    .await;
    for org in [NORD, BRICK] {
        books_read(db, org).await;
    }
    for (actor, org, client) in [(&ADAM, NORD, LIVING), (&OSCAR, BRICK, HOTELS)] {
        let actor = Actor::person(actor);
        let row = format!(
            "insert into public.client_accounting (org_id, client_id, customer_number) values ('{org}', '{client}', '1')"
        );
        db.change(&actor, &row).await.unwrap();
        let leave = format!("update public.client_accounting set can_write = true where client_id = '{client}'");
        assert_eq!(db.change(&actor, &leave).await, Ok(1));
    }
}

/// What a voucher is in these tests.
pub(crate) fn voucher() -> Value {
    json!({
        "series": "SP", "date": "2026-11-30", "description": "Rent",
        "rows": [{ "account": 5010, "debit": 150_000 }, { "account": 1930, "credit": 150_000 }],
    })
}

/// The same, as it is approved: with its financial year, and both sides of each row.
fn stored() -> Value {
    json!({
        "series": "SP", "date": "2026-11-30", "year_id": 2, "description": "Rent",
        "rows": [{ "account": 5010, "debit": 150_000, "credit": 0 }, { "account": 1930, "debit": 0, "credit": 150_000 }],
    })
}

pub(crate) fn propose(client: Uuid, payload: &Value) -> String {
    format!("public.propose_accounting_write('{client}', 'voucher', '{payload}')")
}

/// A call's one answer.
pub(crate) async fn call(db: &TestDatabase, actor: &Actor, call: &str) -> Value {
    let answer =
        db.ask(actor, &format!("select {call} as it")).await.unwrap_or_else(|refusal| panic!("{call}: {refusal:?}"));
    answer[0]["it"].clone()
}

/// An approval that Cleo proposed for her client.
pub(crate) async fn proposed(db: &TestDatabase) -> Uuid {
    let id = call(db, &Actor::person(&CLEO), &propose(LIVING, &voucher())).await;
    id.as_str().unwrap().parse().unwrap()
}

/// The digest that is shown with an approval.
pub(crate) async fn digest(db: &TestDatabase, actor: &Actor, id: Uuid) -> String {
    let shown = db
        .ask(actor, &format!("select encode(payload_digest, 'hex') as it from approvals where id = '{id}'"))
        .await
        .unwrap();
    shown[0]["it"].as_str().unwrap().to_owned()
}

pub(crate) fn approve(id: Uuid, digest: &str) -> String {
    format!("public.approve('{id}', '{digest}')")
}

pub(crate) async fn status(db: &TestDatabase, id: Uuid) -> String {
    let asked = format!("select status as it from approvals where id = '{id}'");
    db.ask(&Actor::role("postgres"), &asked).await.unwrap()[0]["it"].as_str().unwrap().to_owned()
}
