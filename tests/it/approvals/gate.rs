//! The gate: of everything that may be otherwise when an execution begins, only what is as it was approved passes.

use std::io::Write;

use integration_tests::{
    Server, TestApp, TestDatabase,
    acting::Actor,
    people::{ADAM, BRICK, CLEO, LIVING, MAX, NORD, OSCAR, Person, RENATA, UMA},
    sample,
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use uuid::Uuid;

use super::{ANNA, books, propose, voucher};
use crate::fortnox::vouchers::{again, office, shown};

/// What is arranged between proposal and execution. Of each, the first is as it should be, and has the reason that refuses the others.
const WRITE: [&str; 3] = ["allowed", "never allowed", "withdrawn"];
const DECISION: [&str; 5] = ["another's", "none", "refused", "refused after approval", "one's own"];
const TIME: [&str; 2] = ["in time", "expired"];
const PAYLOAD: [&str; 2] = ["as shown", "changed"];
const CLIENT: [&str; 2] = ["the same", "another"];
const COMPANY: [&str; 3] = ["the same", "another", "disconnected"];
const ORGANIZATION: [&str; 2] = ["its own", "another"];
const RIGHT: [&str; 3] = ["stands", "revoked", "left"];
const POLICY: [&str; 2] = ["the same", "changed"];
/// All of it.
const DIMENSIONS: [&[&str]; 9] =
    [&WRITE, &DECISION, &TIME, &PAYLOAD, &CLIENT, &COMPANY, &ORGANIZATION, &RIGHT, &POLICY];
/// By HTTP: who decides, and how.
const DECIDER: [&str; 6] =
    ["accountant", "consultant", "another consultant", "client's user", "another organisation's owner", "agent"];
const WAY: [&str; 2] = ["alone", "in bulk"];

struct Conn(PgConnection);

impl Conn {
    async fn run(&mut self, statement: String) {
        self.0.execute(AssertSqlSafe(statement)).await.unwrap();
    }

    /// Becomes this actor in the transaction.
    async fn becomes(&mut self, actor: &Actor) {
        self.run(format!(
            "select set_config('role', 'postgres', true), set_config('request.jwt.claims', '{}', true),
                    set_config('app.service_org', '{}', true), set_config('role', '{}', true)",
            actor.claims,
            actor.service_org.map(|org| org.to_string()).unwrap_or_default(),
            actor.role
        ))
        .await;
    }

    async fn as_superuser(&mut self, statement: String) {
        self.run(format!("select set_config('role', 'none', true); {statement}")).await;
    }

    async fn as_person(&mut self, person: &Person, call: String) -> Result<(), String> {
        self.run("savepoint before".to_owned()).await;
        self.becomes(&Actor::person(person)).await;
        let done = self.0.execute(AssertSqlSafe(format!("select {call}"))).await;
        if done.is_err() {
            self.run("rollback to savepoint before".to_owned()).await;
        }
        done.map(|_| ()).map_err(|error| error.as_database_error().unwrap().message().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fortnox_gate() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    let other: Uuid = Uuid::now_v7();
    db.run(&format!("insert into clients (id, org_id, name) values ('{other}', '{NORD}', 'Another')")).await;
    // Its books are open as well: a write that is moved to it is refused for that alone.
    let adam = Actor::person(&ADAM);
    let row = format!(
        "insert into public.client_accounting (org_id, client_id, customer_number) values ('{NORD}', '{other}', '2')"
    );
    db.change(&adam, &row).await.unwrap();
    db.change(&adam, &format!("update public.client_accounting set can_write = true where client_id = '{other}'"))
        .await
        .unwrap();
    let mut conn = Conn(db.admin().await);
    conn.run("begin".to_owned()).await;
    let proposals = [proposed_by(&mut conn, &CLEO).await, proposed_by(&mut conn, &ANNA).await];
    conn.run("commit".to_owned()).await;
    let (mut combinations, mut reached) = (0, Vec::new());
    for write in WRITE {
        for decision in DECISION {
            for time in TIME {
                for payload in PAYLOAD {
                    for client in CLIENT {
                        for company in COMPANY {
                            for organization in ORGANIZATION {
                                for right in RIGHT {
                                    for policy in POLICY {
                                        let case = [
                                            write,
                                            decision,
                                            time,
                                            payload,
                                            client,
                                            company,
                                            organization,
                                            right,
                                            policy,
                                        ];
                                        combinations += 1;
                                        let (first, second) = begun(&mut conn, &proposals, case, other).await;
                                        assert_ne!(second.as_deref(), None, "{case:?} was executed twice");
                                        match first {
                                            None => reached.push(case),
                                            Some(why) => assert!(explains(case, &why), "{case:?} is refused as {why}"),
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    // To be seen when the test passes, too.
    writeln!(std::io::stdout(), "{combinations} combinations, {} reached", reached.len()).unwrap();
    let right =
        [WRITE[0], DECISION[0], TIME[0], PAYLOAD[0], CLIENT[0], COMPANY[0], ORGANIZATION[0], RIGHT[0], POLICY[0]];
    assert_eq!(reached, [right]);
}

/// Whether a reason is one of those that the case gives.
fn explains(case: [&str; 9], why: &str) -> bool {
    let [write, decision, time, payload, client, company, organization, right, policy] = case;
    match why {
        "writing_not_allowed" => write != WRITE[0],
        // An own proposal is not approved, so it stays proposed.
        "not_approved" => decision != DECISION[0],
        "expired" => time != TIME[0],
        "payload_changed" => payload != PAYLOAD[0],
        "client_changed" => client != CLIENT[0],
        "not_connected" => company != COMPANY[0],
        "not_found" => organization != ORGANIZATION[0],
        "right_revoked" => right != RIGHT[0],
        "policy_changed" => policy != POLICY[0],
        _ => false,
    }
}

/// Proposes as this person. The approval's id, and the digest that is shown with it.
async fn proposed_by(conn: &mut Conn, proposer: &Person) -> (Uuid, String) {
    conn.becomes(&Actor::person(proposer)).await;
    let id: Uuid = sqlx::query_scalar(AssertSqlSafe(format!("select {}", propose(LIVING, &voucher()))))
        .fetch_one(&mut conn.0)
        .await
        .unwrap();
    conn.as_superuser(String::new()).await;
    let digest: String = sqlx::query_scalar("select encode(payload_digest, 'hex') from public.approvals where id = $1")
        .bind(id)
        .fetch_one(&mut conn.0)
        .await
        .unwrap();
    (id, digest)
}

/// Decides, changes what the case says, and begins to execute twice. Why each was refused. Then all is as it was when it was proposed.
async fn begun(
    conn: &mut Conn,
    proposals: &[(Uuid, String); 2],
    case: [&str; 9],
    other: Uuid,
) -> (Option<String>, Option<String>) {
    let [_, decision, _, _, _, _, organization, _, _] = case;
    let (id, digest) = &proposals[usize::from(decision == "one's own")];
    conn.run("begin".to_owned()).await;
    let approve = format!("public.approve('{id}', '{digest}')");
    let decided = match decision {
        "another's" => conn.as_person(&ANNA, approve).await,
        "refused" => conn.as_person(&ANNA, format!("public.refuse('{id}', 'no')")).await,
        "refused after approval" => {
            conn.as_person(&ANNA, approve).await.unwrap();
            conn.as_person(&ANNA, format!("public.refuse('{id}', 'no')")).await
        }
        "one's own" => {
            assert_eq!(conn.as_person(&ANNA, approve).await, Err("own_proposal".to_owned()));
            Ok(())
        }
        _ => Ok(()),
    };
    assert_eq!(decided, Ok(()), "{case:?}");
    conn.as_superuser(String::new()).await;
    for statement in changes(case, *id, other) {
        conn.run(format!(
            "set local session_replication_role = replica; {statement}; set local session_replication_role = origin"
        ))
        .await;
    }
    let org = if organization == "another" { BRICK } else { NORD };
    conn.becomes(&Actor::service(org)).await;
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        let refused: Option<String> = sqlx::query_scalar("select refused from app.begin_execution($1)")
            .bind(id)
            .fetch_one(&mut conn.0)
            .await
            .unwrap();
        outcomes.push(refused);
    }
    conn.run("rollback".to_owned()).await;
    let second = outcomes.pop().unwrap();
    (outcomes.pop().unwrap(), second)
}

/// What the case changes between decision and execution, past every trigger.
fn changes(case: [&str; 9], id: Uuid, other: Uuid) -> Vec<String> {
    let [write, _, time, payload, client, company, _, right, policy] = case;
    let accounting = format!("where org_id = '{NORD}' and client_id = '{LIVING}'");
    let changes = [
        (write == "never allowed", format!("delete from client_accounting {accounting}")),
        (write == "withdrawn", format!("update client_accounting set can_write = false {accounting}")),
        // A time that has passed is not waited for: the guard, which keeps it from being moved, is lifted.
        (
            time == "expired",
            format!("update approvals set expires_at = now() - interval '1 microsecond' where id = '{id}'"),
        ),
        (
            payload == "changed",
            format!("update accounting_writes set payload = payload || '{{\"description\": \"Rent!\"}}' {accounting}"),
        ),
        (client == "another", format!("update accounting_writes set client_id = '{other}' {accounting}")),
        (
            company == "another",
            format!("update org_integrations set external_tenant_id = '101' where org_id = '{NORD}'"),
        ),
        (
            company == "disconnected",
            format!("update org_integrations set status = 'disconnected' where org_id = '{NORD}'"),
        ),
        (
            right == "revoked",
            format!(
                "update org_members set role_id = '00000000-0000-7000-8000-000000000004' where org_id = '{NORD}' and user_id = '{}'",
                ANNA.id
            ),
        ),
        (right == "left", format!("delete from org_members where org_id = '{NORD}' and user_id = '{}'", ANNA.id)),
        (policy == "changed", format!("insert into approval_settings (org_id, own_proposals) values ('{NORD}', true)")),
    ];
    changes.into_iter().filter(|(changed, _)| *changed).map(|(_, statement)| statement).collect()
}

/// The right case, those that are otherwise in one thing, and those in two.
fn cases() -> Vec<[&'static str; 9]> {
    let right = DIMENSIONS.map(|values| values[0]);
    let mut cases = vec![right];
    let mut pairs = Vec::new();
    for (at, values) in DIMENSIONS.iter().enumerate() {
        for value in &values[1..] {
            let mut case = right;
            case[at] = value;
            cases.push(case);
            for (also, others) in DIMENSIONS.iter().enumerate().skip(at + 1) {
                pairs.extend(others[1..].iter().map(|other| {
                    let mut case = case;
                    case[also] = other;
                    case
                }));
            }
        }
    }
    cases.extend(sample(pairs, 16));
    cases
}

/// By HTTP, through the queue and the worker, up to the sandbox's Fortnox.
#[tokio::test(flavor = "multi_thread")]
async fn fortnox_gate_by_http() {
    let app = TestApp::start().await;
    let company = office(&app).await;
    let other = Uuid::now_v7();
    app.db
        .run(&format!(
            "set session_replication_role = replica;
             insert into clients (id, org_id, name) values ('{other}', '{NORD}', 'Another');
             insert into client_accounting (org_id, client_id, customer_number, can_write, fortnox_write_approved_at)
             values ('{NORD}', '{other}', '2', true, now());
             create table kept_integrations as table org_integrations; create table kept_accounting as table client_accounting;
             create table kept_members as table org_members"
        ))
        .await;
    let (mut combinations, mut reached) = (0, Vec::new());
    let right = DIMENSIONS.map(|values| values[0]);
    let all: Vec<_> = cases().into_iter().map(|case| (case, DECIDER[0])).collect();
    let others = DECIDER[1..].iter().map(|decider| (right, *decider));
    for (case, decider) in all.into_iter().chain(others) {
        for way in WAY {
            combinations += 1;
            let before = app.stack.sandbox.fortnox.vouchers(company).len();
            by_http(&app, case, decider, way, other).await;
            match app.stack.sandbox.fortnox.vouchers(company).len() - before {
                0 => {}
                1 => reached.push((case, decider, way)),
                more => panic!("{case:?} {decider} {way} was written {more} times"),
            }
        }
    }
    writeln!(std::io::stdout(), "{combinations} combinations by HTTP, {} reached", reached.len()).unwrap();
    // Alone and in bulk.
    assert_eq!(reached, WAY.map(|way| (right, DECIDER[0], way)), "{}", app.logs());
}

/// Proposes, decides, changes what the case says, and has workers look twice. Then all is as it was.
async fn by_http(app: &TestApp, case: [&str; 9], decider: &str, way: &str, other: Uuid) {
    let [_, decision, _, _, _, _, organization, _, _] = case;
    let proposer = if decision == "one's own" { &ANNA } else { &CLEO };
    let body = json!({ "client_id": LIVING, "voucher": voucher() });
    let answer = app.post("/v1/accounting/vouchers", &app.token(proposer), &body).await.expect(201);
    let id: Uuid = answer["approval_id"].as_str().unwrap().parse().unwrap();
    let digest = shown(app, &ANNA, id).await["digest"].clone();
    // No worker looks before all is as the case has it.
    app.stack.queue("accounting").unwrap().pause();
    let token = match decider {
        "accountant" => app.token(&ANNA),
        "consultant" => app.token(&CLEO),
        "another consultant" => app.token(&MAX),
        "client's user" => app.token(&UMA),
        "another organisation's owner" => app.token(&OSCAR),
        _ => app.agent_token(&RENATA).await,
    };
    let decisions: &[&str] = match decision {
        "refused" => &["refuse"],
        "refused after approval" => &["approve", "refuse"],
        "none" => &[],
        _ => &["approve"],
    };
    for decision in decisions {
        if way == "alone" {
            let body = if *decision == "approve" { json!({ "digest": digest }) } else { json!({ "reason": "no" }) };
            app.post(&format!("/v1/approvals/{id}/{decision}"), &token, &body).await;
        } else {
            // Among others that are not possible.
            let unknown = json!({ "id": Uuid::now_v7(), "decision": "approve", "digest": digest });
            let this = json!({ "id": id, "decision": decision, "digest": digest });
            app.post("/v1/approvals/decisions", &token, &json!({ "decisions": [unknown, this, unknown] })).await;
        }
    }
    let mut statements = changes(case, id, other);
    if organization == "another" {
        statements.push(format!("update jobs set org_id = '{BRICK}' where job_type = 'accounting_write'"));
    }
    for statement in statements {
        app.db.run(&format!("set session_replication_role = replica; {statement}")).await;
    }
    app.stack.queue("accounting").unwrap().resume();
    again(app).await;
    // Another job for the same, as if a message had been made up.
    app.db
        .run(&format!(
            "insert into jobs (org_id, job_type, payload) values
                 ('{NORD}', 'accounting_write', '{}')",
            json!({ "do": "write", "approval_id": if organization == "another" { Uuid::nil() } else { id } })
        ))
        .await;
    again(app).await;
    app.db
        .run(
            "set session_replication_role = replica;
             delete from jobs; delete from accounting_executions; delete from approvals; delete from accounting_writes;
             delete from approval_settings; delete from idempotency_keys;
             delete from org_integrations; insert into org_integrations table kept_integrations;
             delete from client_accounting; insert into client_accounting table kept_accounting;
             delete from org_members; insert into org_members table kept_members",
        )
        .await;
}
