//! Proof that no tenant sees another: every table × verb × actor × whose row it is, against one declaration (`who_may.txt`); and
//! every policy removed or weakened, to see that the declaration notices.

mod oracles;
mod paths;
pub(crate) mod world;

use std::collections::{BTreeMap, BTreeSet};

use integration_tests::{
    Server, TestDatabase, abreast,
    people::{BRICK, NORD},
};
use local::database;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;
use world::{Actor, Line, Verb, Whose, World, attacks, declaration};

/// What became of an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// No row was found to do it to.
    Nothing,
    /// By privilege or by policy.
    Refused,
    /// By a rule that lies behind the policies: a key, a check.
    Rule(String),
}

async fn attempt(conn: &mut PgConnection, statement: &str) -> Outcome {
    let done = conn.execute(AssertSqlSafe(format!("savepoint attempt; {statement}"))).await;
    conn.execute("rollback to savepoint attempt").await.unwrap();
    match done {
        Ok(done) if done.rows_affected() > 0 => Outcome::Done,
        Ok(_) => Outcome::Nothing,
        Err(error) => {
            let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
            let told = error.to_string();
            match code.as_deref() {
                // By privilege or policy, and not by a trigger or a function behind them.
                Some("42501")
                    if told.contains("row-level security policy") || told.contains("permission denied for table") =>
                {
                    Outcome::Refused
                }
                // Class 23: integrity. Policies are asked before.
                Some(code) if code.starts_with("23") => Outcome::Rule(format!("{error}")),
                _ => panic!("{error}\n{statement}"),
            }
        }
    }
}

/// Whether a person may do this to a row, as the database has it; nothing where there is no such row to try it on.
async fn tried(
    conn: &mut PgConnection,
    world: &World,
    line: &Line,
    actor: Actor,
    verb: Verb,
    whose: Whose,
) -> Option<bool> {
    let key = world.key(line, actor, whose);
    let statement = match verb {
        Verb::Select => format!("select from public.{} t where {}", line.table, key?),
        Verb::Insert => world.insert(line, actor, whose)?,
        Verb::Update => format!("update public.{} t set {} where {}", line.table, world.rewrite(line, actor), key?),
        Verb::Delete => format!("delete from public.{} t where {}", line.table, key?),
    };
    Some(match attempt(conn, &statement).await {
        Outcome::Done => true,
        Outcome::Nothing if verb == Verb::Insert => panic!("{statement}"),
        Outcome::Nothing | Outcome::Refused => false,
        // It was reached, and something else refers to it.
        Outcome::Rule(_) if verb == Verb::Delete => true,
        Outcome::Rule(_) if verb == Verb::Insert && world.is_single(line) => true,
        Outcome::Rule(rule) => panic!("{} {actor:?} {verb:?} {whose:?}: {rule}\n{statement}", line.name),
    })
}

/// A login that PostgREST might have: no rights but to become the API roles.
struct Authenticator {
    name: String,
    url: String,
}

impl Authenticator {
    async fn make(db: &TestDatabase) -> Self {
        let name = format!("api_{}", Uuid::new_v4().simple());
        let password = Uuid::new_v4().simple().to_string();
        db.run(&format!("create role {name} login noinherit password '{password}' in role anon, authenticated")).await;
        let url = database::with_login(&db.url, &name, &password).unwrap();
        Self { name, url }
    }
}

/// A transaction of this actor over a connection that it could have: the functions' login, or the Data API's.
async fn acting(db: &TestDatabase, authenticator: &Authenticator, role: &str, settings: String) -> PgConnection {
    let mut conn = match role {
        "anon" | "authenticated" => PgConnection::connect(&authenticator.url).await.unwrap(),
        _ => db.login().await,
    };
    conn.execute("begin").await.unwrap();
    conn.execute(AssertSqlSafe(settings)).await.unwrap();
    conn
}

async fn become_actor(conn: &mut PgConnection, actor: Actor) {
    conn.execute(AssertSqlSafe(actor.settings())).await.unwrap();
}

#[test]
fn everybody_may_do_to_every_row_just_what_is_declared() {
    abreast(2, [Server::Postgres18, Server::Postgres16], async |server| {
        let db = TestDatabase::new(server).await;
        let world = World::make(&db).await;
        let authenticator = Authenticator::make(&db).await;
        let (mut cases, mut wrong) = (0, Vec::new());
        for actor in Actor::ALL {
            let mut conn = acting(&db, &authenticator, actor.role(), actor.settings()).await;
            for line in &world.lines {
                for verb in Verb::ALL {
                    for whose in Whose::ALL {
                        let declared = line.allows(actor, verb, whose);
                        let Some(may) = tried(&mut conn, &world, line, actor, verb, whose).await else { continue };
                        cases += 1;
                        if may != declared {
                            let (is, says) = if may { ("may", "not") } else { ("may not", "so") };
                            wrong.push(format!("{}: {actor:?} {is} {verb:?} {whose:?}; declared {says}", line.name));
                        }
                    }
                }
                // Nobody moves a row to another organisation, whatever they may do to it here.
                if let Some(key) = world.key(line, actor, Whose::Colleague).filter(|_| world.may_move(line, actor)) {
                    cases += 1;
                    let statement = format!("update public.{} t set org_id = '{BRICK}' where {key}", line.table);
                    if attempt(&mut conn, &statement).await != Outcome::Refused {
                        wrong.push(format!("{}: {actor:?} moves it to another organisation", line.name));
                    }
                }
            }
            let still: (String, String) =
                sqlx::query_as("select current_user::text, session_user::text").fetch_one(&mut conn).await.unwrap();
            assert_eq!(still.0, actor.role(), "a statement ended the acting");
            assert_ne!(still.1, "postgres", "a superuser's connection proves nothing");
            conn.close().await.unwrap();
        }
        for attack in attacks() {
            cases += 1;
            let mut conn = acting(&db, &authenticator, attack.role, attack.settings).await;
            if matches!(attempt(&mut conn, &attack.statement).await, Outcome::Done | Outcome::Rule(_)) {
                wrong.push(format!("{}: somebody {}", attack.table, attack.what));
            }
            conn.close().await.unwrap();
        }
        db.run(&format!("drop role {}", authenticator.name)).await;
        assert!(
            wrong.is_empty(),
            "{} of {cases} cases on {server:?} are not as declared:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        assert!(cases > 16_000, "{cases}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_is_declared_once_and_nothing_else_is() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let tables: BTreeSet<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and relname <> '_sqlx_migrations'",
    )
    .fetch_all(&mut db.admin().await)
    .await
    .unwrap()
    .into_iter()
    .collect();
    let declared: Vec<String> =
        declaration().into_iter().map(|line| line.name).filter(|name| !name.contains('@')).collect();
    let once: BTreeSet<String> = declared.iter().cloned().collect();
    assert_eq!(once, tables);
    assert_eq!(once.len(), declared.len());
}

/// A policy that is not the definer's.
#[derive(Debug, Clone, sqlx::FromRow)]
struct Policy {
    name: String,
    table: String,
    role: String,
    cmd: String,
    using: Option<String>,
    check: Option<String>,
    /// The columns of its own table that its check reads.
    checked: Vec<String>,
}

impl Policy {
    /// What could have been written instead.
    fn mutations(&self) -> Vec<(&'static str, String)> {
        let on = format!("policy {} on public.{}", self.name, self.table);
        let mut mutations = vec![("removed", format!("drop {on}"))];
        if self.using.as_deref().is_some_and(|using| using != "true") {
            // Without a check of its own, an update is checked by this too.
            let check = self.check.as_ref().map(|check| format!(" with check ({check})")).unwrap_or_default();
            mutations.push(("using weakened", format!("alter {on} using (true){check}")));
        }
        if self.check.as_deref().is_some_and(|check| check != "true") {
            mutations.push(("check weakened", format!("alter {on} with check (true)")));
        }
        mutations
    }

    fn verbs(&self) -> &'static [Verb] {
        match self.cmd.as_str() {
            "SELECT" => &[Verb::Select],
            "INSERT" => &[Verb::Insert],
            "UPDATE" => &[Verb::Update],
            "DELETE" => &[Verb::Delete],
            _ => &Verb::ALL,
        }
    }
}

async fn policies(db: &TestDatabase) -> Vec<Policy> {
    sqlx::query_as(
        r#"select p.polname::text as name, c.relname::text as "table", r.rolname::text as role,
                  case p.polcmd when 'r' then 'SELECT' when 'a' then 'INSERT' when 'w' then 'UPDATE' when 'd' then 'DELETE' else 'ALL' end as cmd,
                  pg_get_expr(p.polqual, p.polrelid) as "using", pg_get_expr(p.polwithcheck, p.polrelid) as "check",
                  array(select a.attname::text from pg_attribute a
                         where a.attrelid = c.oid and a.attnum > 0
                           and pg_get_expr(p.polwithcheck, p.polrelid) ~ ('\m' || a.attname || '\M')) as checked
             from pg_policy p join pg_class c on c.oid = p.polrelid join pg_roles r on r.oid = any (p.polroles)
            where c.relnamespace = 'public'::regnamespace and r.rolname <> 'spine_definer'
            order by c.relname, p.polname, r.rolname"#,
    )
    .fetch_all(&mut db.admin().await)
    .await
    .unwrap()
}

/// Whether the declaration notices, with the policy changed inside the open transaction.
///
/// Nothing but policies and grants decides here: triggers are off. What is updated or deleted is not named, since a statement
/// that names nothing is held back by nothing but the policy of its verb.
async fn notices(conn: &mut PgConnection, world: &World, policy: &Policy) -> bool {
    for line in world.lines.iter().filter(|line| line.table == policy.table) {
        for actor in Actor::ALL.into_iter().filter(|actor| actor.is_in(&policy.role)) {
            for verb in policy.verbs() {
                if differs(conn, world, line, actor, *verb).await {
                    return true;
                }
            }
            if policy.verbs().contains(&Verb::Update) && moves(conn, world, line, actor).await {
                return true;
            }
        }
    }
    for attack in attacks().into_iter().filter(|attack| attack.table == policy.table) {
        conn.execute("savepoint one").await.unwrap();
        conn.execute(AssertSqlSafe(attack.settings)).await.unwrap();
        let outcome = attempt(conn, &attack.statement).await;
        conn.execute("rollback to savepoint one").await.unwrap();
        if matches!(outcome, Outcome::Done | Outcome::Rule(_)) {
            return true;
        }
    }
    false
}

/// Whether the actor gets a row out of their organisation, naming none.
async fn moves(conn: &mut PgConnection, world: &World, line: &Line, actor: Actor) -> bool {
    if !world.may_move(line, actor) {
        return false;
    }
    conn.execute("savepoint one").await.unwrap();
    become_actor(conn, actor).await;
    let outcome = attempt(conn, &format!("update public.{} set org_id = '{BRICK}'", line.table)).await;
    conn.execute("rollback to savepoint one").await.unwrap();
    outcome != Outcome::Refused
}

async fn differs(conn: &mut PgConnection, world: &World, line: &Line, actor: Actor, verb: Verb) -> bool {
    let blind = match verb {
        Verb::Update => Some(format!("update public.{} set {}", line.table, world.touch(line, actor))),
        Verb::Delete => Some(format!("delete from public.{}", line.table)),
        _ => None,
    };
    if let Some(statement) = blind {
        let before = places(conn, world, line, actor).await;
        conn.execute("savepoint blind").await.unwrap();
        become_actor(conn, actor).await;
        let done = conn.execute(AssertSqlSafe(statement.clone())).await;
        if let Err(error) = &done {
            let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
            assert_eq!(code.as_deref(), Some("42501"), "{} {actor:?}: {error}\n{statement}", line.name);
            conn.execute("rollback to savepoint blind").await.unwrap();
            // Refused as a whole, which lets nobody do anything.
            return before.iter().any(|(whose, _)| line.allows(actor, verb, *whose));
        }
        conn.execute("reset role").await.unwrap();
        let after = places(conn, world, line, actor).await;
        conn.execute("rollback to savepoint blind").await.unwrap();
        return before
            .iter()
            .zip(&after)
            .any(|((whose, was), (_, is))| (was != is) != line.allows(actor, verb, *whose));
    }
    for whose in Whose::ALL {
        conn.execute("savepoint one").await.unwrap();
        become_actor(conn, actor).await;
        let may = tried(conn, world, line, actor, verb, whose).await;
        conn.execute("rollback to savepoint one").await.unwrap();
        if may.is_some_and(|may| may != line.allows(actor, verb, whose)) {
            return true;
        }
    }
    false
}

/// Where the rows lie: an update moves them, a delete leaves no place.
async fn places(conn: &mut PgConnection, world: &World, line: &Line, actor: Actor) -> Vec<(Whose, Option<String>)> {
    let mut places = Vec::new();
    for whose in Whose::ALL {
        let Some(key) = world.key(line, actor, whose) else { continue };
        let query = format!("select t.ctid::text from public.{} t where {key}", line.table);
        places.push((whose, sqlx::query_scalar(AssertSqlSafe(query)).fetch_optional(&mut *conn).await.unwrap()));
    }
    places
}

/// Changes of policies that nothing notices, and why they do not matter. A change of a check whose columns its role cannot set is
/// not listed: what it asks cannot come out otherwise.
const CANNOT_MATTER: [(&str, &str, &str); 0] = [];

#[test]
fn a_policy_removed_or_weakened_is_noticed() {
    let unnoticed = std::sync::Mutex::new(BTreeMap::new());
    let made = std::sync::atomic::AtomicUsize::new(0);
    // Each half of the tables in a database of its own.
    abreast(2, [0, 1], async |half| {
        let db = TestDatabase::new(Server::Postgres18).await;
        let world = World::make(&db).await;
        let mut conn = db.admin().await;
        conn.execute("set session_replication_role = replica").await.unwrap();
        let policies = policies(&db).await;
        if half == 0 {
            conn.execute("begin").await.unwrap();
            let mut wrong = Vec::new();
            for line in &world.lines {
                for actor in Actor::ALL {
                    for verb in Verb::ALL {
                        if differs(&mut conn, &world, line, actor, verb).await {
                            wrong.push(format!("{} {actor:?} {verb:?}", line.name));
                        }
                    }
                }
            }
            conn.execute("rollback").await.unwrap();
            assert!(wrong.is_empty(), "not as declared, where a statement names no row: {wrong:#?}");
        }
        for policy in policies.iter().enumerate().filter(|(at, _)| at % 2 == half).map(|(_, policy)| policy) {
            for (what, mutation) in policy.mutations() {
                let updatable = world.updatable(&policy.table, &policy.role);
                if what == "check weakened"
                    && policy.cmd == "UPDATE"
                    && !policy.checked.iter().any(|column| updatable.contains(column))
                {
                    continue;
                }
                made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                conn.execute("begin").await.unwrap();
                conn.execute(AssertSqlSafe(mutation)).await.unwrap();
                let noticed = notices(&mut conn, &world, policy).await;
                conn.execute("rollback").await.unwrap();
                if !noticed {
                    let told = format!(
                        "{} to {}: using {:?} check {:?}",
                        policy.table, policy.role, policy.using, policy.check
                    );
                    unnoticed.lock().unwrap().insert((policy.name.clone(), what), told);
                }
            }
        }
    });
    let made = made.into_inner();
    let unnoticed = unnoticed.into_inner().unwrap();
    let listed: BTreeSet<(String, &str)> =
        CANNOT_MATTER.iter().map(|(name, what, _)| ((*name).to_owned(), *what)).collect();
    let told: Vec<_> = unnoticed.iter().filter(|(key, _)| !listed.contains(key)).collect();
    assert!(told.is_empty(), "{} of {made} changes of policies go unnoticed: {told:#?}", told.len());
    let stale: Vec<_> = listed.iter().filter(|key| !unnoticed.contains_key(*key)).collect();
    assert!(stale.is_empty(), "noticed after all: {stale:?}");
    assert!(made > 500, "{made}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_definer_and_public_reads_have_a_policy_that_asks_nothing() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let open: Vec<String> = policies(&db)
        .await
        .into_iter()
        .filter(|policy| policy.using.as_deref() == Some("true") || policy.check.as_deref() == Some("true"))
        .map(|policy| policy.name)
        .collect();
    // Which table belongs to whom is no tenant's.
    assert_eq!(
        open.into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from(["data_ownership_select".to_owned()]),
        "{NORD}"
    );
}
