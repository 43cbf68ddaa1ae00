//! No answer of the Data API tells whether a row of another organisation exists: one that names such a row is the same as one
//! that names nothing.

use std::collections::{BTreeMap, HashMap};

use integration_tests::{
    Server, TestDatabase,
    acting::{self, Refusal},
    people::{BRICK, DAN, DORA, HARBOUR, HOTELS, NORD, OLGA, OSCAR, RUFUS, UMA},
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

use super::{
    Authenticator, acting as acting_as,
    world::{Actor, Line, World},
};

/// What an answer says, with everything that was given to it blanked.
type Outcome = Result<u64, Refusal>;

/// A value that a column is tried with, and the one that must be answered alike. They differ where the first is of a row that
/// exists in the other organisation alone.
#[derive(Debug, Clone)]
struct Trial {
    value: String,
    alike: String,
}

/// Columns by which a row is found or refers to another, with what to try in each.
type Trials = Vec<(String, Vec<Trial>)>;

/// What tells on purpose, and why.
const TELLS: [(&str, &str, &str); 1] =
    [("organizations", "slug", "an address, of which there is one: whoever takes a name learns that it is taken")];

/// Column, type, whether it names a person, whether a key or a reference is made of it.
async fn columns(admin: &mut PgConnection, table: &str) -> Vec<(String, String, bool, bool)> {
    sqlx::query_as(
        "select a.attname::text, format_type(a.atttypid, null),
                exists (select from pg_constraint k
                         where k.conrelid = a.attrelid and k.contype = 'f' and a.attnum = any (k.conkey) and a.attname <> 'org_id'
                           and k.confrelid in ('public.profiles'::regclass, 'public.org_members'::regclass, 'public.org_consultants'::regclass)),
                exists (select from pg_index i where i.indrelid = a.attrelid and i.indisunique and a.attnum = any (i.indkey))
                or exists (select from pg_constraint k where k.conrelid = a.attrelid and k.contype = 'f' and a.attnum = any (k.conkey))
           from pg_attribute a where a.attrelid = ('public.' || $1)::regclass and a.attnum > 0 and not a.attisdropped",
    )
    .bind(table)
    .fetch_all(admin)
    .await
    .unwrap()
}

/// Quotes a value of a row as SQL; nothing for null.
fn literal(row: &Value, column: &str) -> Option<String> {
    match &row[column] {
        Value::Null => None,
        Value::String(text) => Some(format!("'{}'", text.replace('\'', "''"))),
        other => Some(format!("'{other}'")),
    }
}

/// What to try in the columns that a role may name: what is valid here, and what stands in a row of the other organisation.
async fn trials(admin: &mut PgConnection, world: &World, line: &Line, granted: &[String]) -> Trials {
    let Some(key) = world.key_elsewhere(line) else { return Vec::new() };
    let query = format!("select to_jsonb(t) from public.{} t where {key}", line.table);
    let theirs: Value = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut *admin).await.unwrap();
    let (here, there) = (world.new_row(line, NORD), world.new_row(line, BRICK));
    let find =
        |row: &[(String, String)], name: &str| row.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    let mut trials = Vec::new();
    for (name, kind, person, keyed) in columns(admin, &line.table).await {
        if !granted.contains(&name) || !(keyed || kind == "uuid") {
            continue;
        }
        let mut options: Vec<Trial> =
            find(&here, &name).into_iter().map(|own| Trial { value: own.clone(), alike: own }).collect();
        // What stands in both is nobody's alone.
        let value = if name == "role_id" { Some(world.role_elsewhere()) } else { literal(&theirs, &name) };
        if let Some(value) = value.filter(|value| options.iter().all(|own| own.value != *value)) {
            let alike = match kind.as_str() {
                // A colleague's consultant may be one here too.
                "uuid" if person => value.clone(),
                "uuid" => format!("'{}'", Uuid::new_v4()),
                // As such a value looks there.
                _ => find(&there, &name)
                    .unwrap_or_else(|| value.chars().map(|c| if c.is_alphabetic() { 'q' } else { c }).collect()),
            };
            options.push(Trial { value, alike });
        }
        if person {
            options.push(Trial { value: format!("'{}'", DAN.id), alike: format!("'{}'", Uuid::new_v4()) });
        }
        trials.push((name, options));
    }
    trials
}

/// Every choice of one option for each column.
fn choices(trials: &Trials) -> Vec<Vec<&Trial>> {
    trials.iter().fold(vec![Vec::new()], |all, (_, options)| {
        all.iter().flat_map(|choice| options.iter().map(|option| [choice.clone(), vec![option]].concat())).collect()
    })
}

/// A text with ids and made-up words blanked.
fn blanked(text: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let blank = |part: &str| if part.len() >= 32 { "…".to_owned() } else { part.to_owned() };
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(word) {
        let end = rest[start..].find(|c| !word(c)).map_or(rest.len(), |length| start + length);
        out.push_str(&rest[..start]);
        out.push_str(&blank(&rest[start..end]));
        rest = &rest[end..];
    }
    out + rest
}

async fn outcome(conn: &mut PgConnection, known: &mut HashMap<String, Outcome>, statement: String) -> Outcome {
    if let Some(outcome) = known.get(&statement) {
        return outcome.clone();
    }
    let outcome = acting::attempt(conn, &statement).await.map_err(|refusal| Refusal {
        code: blanked(&refusal.code),
        detail: blanked(&refusal.detail),
        ..refusal
    });
    known.insert(statement, outcome.clone());
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_another_organisation_is_refused_or_taken_like_one_that_does_not_exist() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let world = World::make(&db).await;
    let authenticator = Authenticator::make(&db).await;
    let mut admin = db.admin().await;
    let (mut cases, mut told) = (0, BTreeMap::new());
    for actor in [Actor::Owner, Actor::Consultant, Actor::ClientUser] {
        let mut conn = acting_as(&db, &authenticator, actor.role(), actor.settings()).await;
        let mut known = HashMap::new();
        for line in &world.lines {
            let insertable = world.granted(line, actor, "INSERT");
            let tried = trials(&mut admin, &world, line, insertable).await;
            let rest: Vec<(String, String)> = world
                .new_row(line, NORD)
                .into_iter()
                .filter(|(name, _)| insertable.contains(name) && !tried.iter().any(|(column, _)| column == name))
                .collect();
            let choices = if tried.is_empty() { Vec::new() } else { choices(&tried) };
            for choice in choices {
                let statement = |value: fn(&Trial) -> &String, conflict: &str| {
                    let columns =
                        tried.iter().zip(&choice).map(|((name, _), trial)| (name.clone(), value(trial).clone()));
                    let columns: Vec<_> = columns.chain(rest.iter().cloned()).collect();
                    format!("{} {conflict}", super::world::insert(&line.table, &columns))
                };
                for conflict in ["", "on conflict do nothing"] {
                    cases += 1;
                    let is = outcome(&mut conn, &mut known, statement(|trial| &trial.value, conflict)).await;
                    let alike = outcome(&mut conn, &mut known, statement(|trial| &trial.alike, conflict)).await;
                    if is != alike {
                        let columns = tried.iter().zip(&choice).filter(|(_, trial)| trial.value != trial.alike);
                        let columns: Vec<_> = columns.map(|((name, _), _)| name.as_str()).collect();
                        let what = format!("{actor:?} adds {conflict}: {is:?}, and {alike:?} where there is none");
                        told.entry((line.table.clone(), columns.join(", "))).or_insert(what);
                    }
                }
            }
            let (updatable, own) = (world.granted(line, actor, "UPDATE"), world.key_here(line));
            for (name, options) in trials(&mut admin, &world, line, updatable).await {
                for trial in options {
                    cases += 1;
                    let Some(own) = own else { continue };
                    let set = |value: &str| format!("update public.{} t set {name} = {value} where {own}", line.table);
                    let is = outcome(&mut conn, &mut known, set(&trial.value)).await;
                    let alike = outcome(&mut conn, &mut known, set(&trial.alike)).await;
                    if is != alike {
                        let what = format!("{actor:?} sets it: {is:?}, and {alike:?} where there is none");
                        told.entry((line.table.clone(), name.clone())).or_insert(what);
                    }
                }
            }
        }
        conn.close().await.unwrap();
    }
    db.run(&format!("drop role {}", authenticator.name)).await;
    for (table, column, why) in TELLS {
        assert!(told.remove(&(table.to_owned(), column.to_owned())).is_some(), "{table}.{column} tells nothing: {why}");
    }
    assert!(told.is_empty(), "{} of {cases} answers tell of another organisation's rows: {told:#?}", told.len());
    assert!(cases > 1_000, "{cases}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_of_the_data_api_answers_alike_for_an_id_of_another_organisation_and_for_none() {
    // A question mark for each id.
    let calls = [
        "add_client_consultant_safe(?, ?)",
        "answer_social_thread(?, 'message', 'x')",
        "approve(?, '')",
        "archive_old_projects(?)",
        "cancel_social_reply(?)",
        "check_accounting_mappings(?)",
        "create_client_with_context(?, 'New')",
        "create_client_with_context('NORD', 'New', id => ?)",
        "create_invitation('member', 'a@b.example', role_id => ?)",
        "create_invitation('client_user', 'a@b.example', client_id => ?)",
        "create_organization_with_context('New', null, ?)",
        "issue_agent_token(?)",
        "make_lead_of_thread(?)",
        "propose_accounting_write(?, 'voucher', '{}')",
        "propose_submission_vouchers(?)",
        "refuse(?)",
        "revoke_session(?)",
        "search_social_messages('word', 50, now(), ?)",
        "set_active_context(?)",
        "set_active_context('NORD', ?)",
        "update_lead_score(?)",
    ];
    let db = TestDatabase::new(Server::Postgres18).await;
    let [lead, role, session, approval, thread] = [0xe1, 0xe2, 0xe3, 0xe5, 0xe6].map(Uuid::from_u128);
    db.run(&format!(
        "insert into leads (id, org_id, client_name) values ('{lead}', '{BRICK}', 'Theirs');
         insert into roles (id, org_id, name) values ('{role}', '{BRICK}', 'theirs');
         insert into user_sessions (id, user_id) values ('{session}', '{}');
         insert into org_integrations (org_id, provider, external_tenant_id) values ('{NORD}', 'fortnox', '1');
         insert into social_accounts (id, org_id, platform, platform_id, username) values ('{thread}', '{BRICK}', 'instagram', '1', 'brick');
         insert into social_threads (id, org_id, account_id, thread_id, kind, counterpart_id)
         values ('{thread}', '{BRICK}', '{thread}', 'dm:1', 'message', 'p');
         insert into approvals (id, org_id, kind, subject_table, subject_id, client_id, payload_digest, expires_at)
         values ('{approval}', '{BRICK}', 'voucher', 'accounting_writes', app.uuidv7(), '{HOTELS}', sha256('x'), now() + interval '1 day')",
        DAN.id
    ))
    .await;
    // What is called without an id cannot tell of one.
    let named = "select p.proname as it from pg_proc p
                  where p.pronamespace = 'public'::regnamespace and has_function_privilege('authenticated', p.oid, 'execute')
                    and 'uuid'::regtype = any (p.proargtypes::oid[]) order by 1";
    let named = db.ask(&acting::Actor::role("postgres"), named).await.unwrap();
    for function in named.as_array().unwrap() {
        let name = function["it"].as_str().unwrap();
        assert!(calls.iter().any(|call| call.starts_with(&format!("{name}("))), "{name} takes an id and is not tried");
    }
    let theirs = [BRICK, HOTELS, HARBOUR, RUFUS.id, OSCAR.id, lead, role, session, approval, thread];
    let nothing = Uuid::from_u128(0xe0);
    let mut told = Vec::new();
    for person in [&OLGA, &DORA, &UMA] {
        let actor = acting::Actor::person(person).with("session_id", serde_json::json!(Uuid::from_u128(0xe4)));
        let mut conn = db.begin_as(&actor).await;
        for call in calls {
            let mut answer = async |id: Uuid| {
                let call = call.replace("NORD", &NORD.to_string()).replace('?', &format!("'{id}'"));
                conn.execute("savepoint attempt").await.unwrap();
                let answer = acting::asked(&mut conn, &format!("select public.{call} as it")).await;
                conn.execute("rollback to savepoint attempt").await.unwrap();
                match answer {
                    Ok(answer) => blanked(&answer.to_string()),
                    Err(refusal) => blanked(&format!("{refusal:?}")),
                }
            };
            let none = answer(nothing).await;
            for id in theirs {
                let is = answer(id).await;
                if is != none {
                    told.push(format!("{} {call} of {id}: {is}, and {none} of nothing", actor.name));
                }
            }
        }
    }
    assert!(told.is_empty(), "{told:#?}");
}
