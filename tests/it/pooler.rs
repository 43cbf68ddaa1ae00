//! Through a transaction pooler, where a connection is somebody else's at the next transaction.

use std::{sync::Arc, time::Duration};

use integration_tests::{
    Server, Setup, TestApp, TestDatabase,
    people::{ADAM, BRICK, DAN, DORA, HARBOUR, LAKESIDE, NORD, OLGA, OSCAR, Person},
    pooler,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::StatusCode;
use serde_json::Value;
use shared::{
    auth::{Caller, Identity},
    config::Env,
    db::{Database, DbError},
    secrets::Secrets,
    store::{access, renders},
};
use uuid::Uuid;

const CALLERS: usize = 50;
/// How many turns each caller has, of up to four transactions.
const TURNS: usize = 20;

fn caller(person: &Person) -> Caller {
    let Value::Object(claims) = person.claims() else { unreachable!() };
    Caller { identity: Identity::Person { user_id: person.id, claims }, org: None }
}

fn database(url: &str) -> Database {
    let env = Env::from_iter([("DATABASE_URL", url), ("DATABASE_MODE", "transaction_pooler")]);
    let secrets = Arc::new(Secrets::from_env(&env).unwrap());
    Database::from_env(&env, secrets).unwrap()
}

/// Begins a transaction, and again where its turn did not come in time: fifty wait for two connections, on a machine that may do other things
/// too. A hundred times without a turn, it never comes.
macro_rules! in_turn {
    ($begin:expr) => {{
        let mut tries = 0;
        loop {
            match $begin.await {
                Ok(tx) => break tx,
                Err(DbError::Timeout) if tries < 100 => tries += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }};
}

/// Waits until no transaction is left open: a connection that was dropped is noticed by the pooler a moment later.
async fn nothing_is_left_open(db: &TestDatabase) {
    db.until(
        "select count(*) = 0 from pg_stat_activity where datname = current_database() and usename = 'spine_functions'
            and state <> 'idle'",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_callers_of_different_tenants_on_two_connections_never_meet() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let (pooler, _home) = pooler(&db, 2).await;
    let people = [DORA, DAN, OLGA, OSCAR, ADAM];
    let projects = [(NORD, LAKESIDE), (BRICK, HARBOUR)];
    // A render of each tenant, made past every policy.
    let mut made = Vec::new();
    for (org, project) in projects {
        let (render, job) = (Uuid::now_v7(), Uuid::now_v7());
        db.run(&format!(
            "insert into jobs (id, org_id, job_type) values ('{job}', '{org}', 'render');
             insert into render_requests (id, org_id, project_id, job_id, input_file_path, model)
             values ('{render}', '{org}', '{project}', '{job}', 'project-media/{org}/x', 'gemini-3.1-flash-image');
             insert into render_parameters (org_id, request_id, style) values ('{org}', '{render}', 'x')"
        ))
        .await;
        made.push((org, render));
    }
    let mut running = tokio::task::JoinSet::new();
    for number in 0..CALLERS {
        let database = database(&pooler.url);
        let person = people[number % people.len()];
        let made = made.clone();
        running.spawn(async move {
            let mut random = StdRng::seed_from_u64(u64::try_from(number).unwrap());
            let caller = caller(&person);
            for _ in 0..TURNS {
                // What goes wrong in the middle: nothing, an error of ours, a wait that is given up, an end that never comes.
                let trouble = random.random_range(0..4);
                let turn = async {
                    let mut tx = in_turn!(database.caller_tx(&caller));
                    let member = access::enter(&mut tx, "renders:create").await.unwrap();
                    // Another caller had the connection before; now it is this one's.
                    assert_eq!((member.org_id, member.actor_id), (person.org, person.id));
                    match trouble {
                        0 => tx.commit().await.unwrap(),
                        1 => {
                            assert!(renders::get(&mut tx, Uuid::nil()).await.is_err());
                            tx.rollback().await.unwrap();
                        }
                        _ => drop(tx),
                    }
                };
                if trouble == 3 {
                    let patience = Duration::from_micros(random.random_range(0..8000));
                    let _ = tokio::time::timeout(patience, turn).await;
                } else {
                    turn.await;
                }
                // The system, in one tenant, the other and none, right behind: nothing may be left of callers before.
                if trouble == 0 {
                    for (org, _) in projects {
                        let mut tx = in_turn!(database.service_tx(org));
                        for (owner, render) in &made {
                            assert_eq!(renders::get(&mut tx, *render).await.is_ok(), *owner == org);
                        }
                        tx.commit().await.unwrap();
                    }
                    let mut tx = in_turn!(database.directory_tx());
                    for (_, render) in &made {
                        assert!(renders::get(&mut tx, *render).await.is_err());
                    }
                    tx.rollback().await.unwrap();
                }
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    nothing_is_left_open(&db).await;
    let connections =
        "select count(*) from pg_stat_activity where datname = current_database() and usename = 'spine_functions'";
    assert!(db.count(connections).await <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_that_share_a_pool_of_two_see_and_make_only_their_own() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let (pooler, _home) = pooler(&db, 2).await;
    let overrides = [("DATABASE_URL", pooler.url.as_str()), ("DATABASE_MODE", "transaction_pooler")];
    let app = TestApp::set_up(Setup { overrides: &overrides, db: Some(db), ..Setup::default() }).await;
    let (dora, dan) = (app.token(&DORA), app.token(&DAN));
    app.stack.renders.pause();
    let mut renders = Vec::new();
    let asked = futures::future::join_all((0..CALLERS).map(|number| {
        // Every fifth asks for what is the other tenant's.
        let nord = (number % 2 == 0) != (number % 5 == 0);
        let (token, own) = if number % 2 == 0 { (&dora, nord) } else { (&dan, !nord) };
        let project = if nord { LAKESIDE } else { HARBOUR };
        let app = &app;
        async move { (own, number % 2 == 0, app.request_render(token, project).await) }
    }))
    .await;
    for (own, nord, answer) in asked {
        if own {
            renders.push((nord, answer.expect(202)["id"].as_str().unwrap().to_owned()));
        } else {
            answer.expect_error(404, "project_not_found");
        }
    }
    let seen = futures::future::join_all(renders.iter().flat_map(|(nord, id)| {
        [(&dora, *nord), (&dan, !*nord)].map(|(token, own)| {
            let (app, id) = (&app, id.as_str());
            async move { (own, app.get(&format!("/v1/render-requests/{id}"), token).await.status) }
        })
    }))
    .await;
    for (own, status) in seen {
        assert_eq!(status, if own { StatusCode::OK } else { StatusCode::NOT_FOUND });
    }
    for org in [NORD, BRICK] {
        let theirs = if org == NORD { DORA.id } else { DAN.id };
        let strange = format!("select count(*) from render_requests where org_id = '{org}' and user_id <> '{theirs}'");
        assert_eq!(app.db.count(&strange).await, 0);
    }
    nothing_is_left_open(&app.db).await;
}
