//! What the database decides by rule: when a project goes to the archive, what a lead is worth, what is near in meaning.

use integration_tests::{
    Server, TestDatabase,
    acting::Actor,
    people::{ADAM, BRICK, CLEO, DORA, HARBOUR, LOFT, NORD, OLGA, OSCAR, RENATA, SVEN, UMA},
};
use serde_json::{Value, json};
use uuid::Uuid;

const SERVERS: [Server; 2] = [Server::Postgres16, Server::Postgres18];
const LEAD: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0008_0001);
const THEIRS: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0008_0002);

/// Sets a project's columns without touching its time of change.
async fn set(db: &TestDatabase, columns: &str) {
    db.run(&format!(
        "begin; set local session_replication_role = replica; update projects set {columns} where id = '{LOFT}'; commit"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_archived_when_the_rule_allows_and_told_why_when_not() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let dora = Actor::person(&DORA);
        let archive = async |actor: &Actor| -> Value {
            db.ask(actor, &format!("select * from public.archive_old_projects('{LOFT}')")).await.unwrap()[0].clone()
        };
        let why = |reason: &str| json!({ "archived": reason == "archived", "reason": reason });
        assert_eq!(archive(&dora).await, why("not_done"));
        set(&db, "status = 'done'").await;
        assert_eq!(archive(&dora).await, why("recently_changed"));
        set(&db, "updated_at = now() - interval '31 days'").await;
        set(&db, &format!("published_at = now(), approved_by = '{}'", DORA.id)).await;
        assert_eq!(archive(&dora).await, why("in_portfolio"));
        set(&db, "published_at = null, approved_by = null").await;
        db.run(&format!(
            "begin; set local session_replication_role = replica;
             insert into render_requests (org_id, user_id, project_id, job_id, input_file_path, model, status, created_at)
             values ('{NORD}', '{}', '{LOFT}', gen_random_uuid(), 'renders/{NORD}/x', 'm', 'queued', now() - interval '40 days'); commit",
            DORA.id
        ))
        .await;
        assert_eq!(archive(&dora).await, why("renders_open"));
        db.run("begin; set local session_replication_role = replica; update render_requests set status = 'completed', created_at = now(); commit").await;
        assert_eq!(archive(&dora).await, why("recently_rendered"));
        db.run("begin; set local session_replication_role = replica; update render_requests set created_at = now() - interval '40 days'; commit").await;
        assert_eq!(archive(&dora).await, why("archived"));
        assert_eq!(
            db.count(&format!("select count(*) from projects where id = '{LOFT}' and archived_at is not null")).await,
            1
        );
        assert_eq!(archive(&Actor::service(NORD)).await, why("already_archived"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_one_may_not_archive_is_refused_by_name() {
    let db = TestDatabase::new(Server::Postgres18).await;
    // Sees projects, and changes none.
    db.run(&format!(
        "with made as (insert into roles (org_id, name) values ('{NORD}', 'looker') returning id),
              allowed as (insert into permissions (org_id, role_id, resource, action) select '{NORD}', id, 'projects', 'read' from made)
         update org_members set role_id = (select id from made) where user_id = '{}'",
        SVEN.id
    ))
    .await;
    let still = db.still().await;
    let call = |id: &str| format!("public.archive_old_projects({id})");
    let loft = call(&format!("'{LOFT}'"));
    for (actor, call, state, code) in [
        (Actor::person(&SVEN), loft.clone(), "PT403", "projects_update_forbidden"),
        (Actor::person(&UMA), loft.clone(), "PT404", "project_not_found"),
        (Actor::person(&CLEO), loft.clone(), "PT404", "project_not_found"),
        (Actor::person(&OSCAR), loft.clone(), "PT404", "project_not_found"),
        (Actor::person(&DORA), call(&format!("'{HARBOUR}'")), "PT404", "project_not_found"),
        (Actor::person(&DORA), call("gen_random_uuid()"), "PT404", "project_not_found"),
        (Actor::person(&DORA), call("null"), "PT404", "project_not_found"),
        (Actor::service(BRICK), loft, "PT404", "project_not_found"),
    ] {
        still.refused(&actor, &call, state, code).await;
    }
    still.unchanged().await;
}

/// A lead of Sven's, others with outcomes, and one of the other organisation.
async fn with_leads(db: &TestDatabase) {
    db.run(&format!(
        "insert into leads (id, org_id, client_name, email, source, budget_minor, currency, assigned_to, created_at)
             values ('{LEAD}', '{NORD}', 'Lena', 'l@example', 'referral', 200000, 'SEK', '{sven}', now() - interval '14 days');
         insert into leads (org_id, client_name, source, budget_minor, currency, status, closed_at)
             select '{NORD}', 'Won ' || n, 'referral', 100000, 'SEK', 'won', now() from generate_series(1, 10) n;
         insert into lead_notes (org_id, lead_id, note) select '{NORD}', '{LEAD}', 'n' from generate_series(1, 3);
         insert into leads (id, org_id, client_name) values ('{THEIRS}', '{BRICK}', 'Theirs')",
        sven = SVEN.id
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leads_score_is_what_its_factors_say_and_the_same_to_everybody() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        with_leads(&db).await;
        let score = format!("select public.update_lead_score('{LEAD}') as score");
        let mut told = Vec::new();
        for actor in [Actor::person(&SVEN), Actor::person(&OLGA), db.agent(&RENATA).await, Actor::service(NORD)] {
            told.push(db.ask(&actor, &score).await.unwrap()[0]["score"].as_f64().unwrap());
        }
        // referral 15, two of four known 7.5 (e-mail and budget), twice the middle 20, one half-life 7.5, three of five notes 9, and
        // ten won of ten, leaning on ten at (10 + 5) of (10 + 10): 17.5.
        assert!(told.iter().all(|score| (score - 76.5).abs() < 0.01), "{told:?}");
        let stored = db
            .ask(
                &Actor::role("postgres"),
                "select score, rationale, factors, model from lead_scoring order by created_at limit 1",
            )
            .await
            .unwrap();
        let factors = stored[0]["factors"].as_object().unwrap();
        let sum = |part: &str| factors.values().map(|factor| factor[part].as_f64().unwrap()).sum::<f64>();
        assert_eq!((factors.len(), sum("weight")), (6, 100.0));
        assert!((sum("points") - 76.5).abs() < 0.05 && stored[0]["model"] == "rules", "{stored}");
        assert!(stored[0]["rationale"].as_str().unwrap().starts_with("budget 20.00 of 20"), "{stored}");
        assert_eq!(db.count("select count(*) from lead_scoring").await, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_lead_is_like_its_score_is_between_none_and_all() {
    let db = TestDatabase::new(Server::Postgres18).await;
    // Every combination of what may be missing, and the ends of what may be there.
    db.run(&format!(
        "insert into leads (org_id, client_name, email, phone, source, budget_minor, currency, territory, last_contact_at, created_at)
         select '{NORD}', 'x', e, p, s, b, case when b is not null then 'SEK' end, t, c, '2020-01-01'
           from unnest(array[null, 'a@b']) e, unnest(array[null, '1']) p, unnest(array['referral', 'other']) s,
                unnest(array[null, 0, 1, 9223372036854775807]) b, unnest(array[null, 'north']) t,
                unnest(array[null, '1970-01-01', now() + interval '1 year']) c"
    ))
    .await;
    let wrong = db
        .ask(
            &Actor::person(&OLGA),
            "select l.id, s.score from public.leads l, lateral (select public.update_lead_score(l.id) as score) s where s.score is null or s.score not between 0 and 100",
        )
        .await
        .unwrap();
    assert_eq!(wrong, json!([]));
    assert_eq!(db.count("select count(*) from lead_scoring").await, 192);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_one_may_not_score_is_refused_by_name() {
    let db = TestDatabase::new(Server::Postgres18).await;
    with_leads(&db).await;
    let won = db.ask(&Actor::role("postgres"), "select id from leads where status = 'won' limit 1").await.unwrap();
    // Dora has one of her own, and no leave to change leads.
    let hers = Uuid::new_v4();
    db.run(&format!(
        "insert into leads (id, org_id, client_name, assigned_to) values ('{hers}', '{NORD}', 'x', '{}')",
        DORA.id
    ))
    .await;
    let scopes = db.agent(&RENATA).await;
    db.run("update agent_tokens set scopes = array['leads:read']").await;
    let still = db.still().await;
    let call = |id: &str| format!("public.update_lead_score('{id}')");
    for (actor, call, state, code) in [
        (Actor::person(&DORA), call(&LEAD.to_string()), "PT404", "lead_not_found"),
        (Actor::person(&DORA), call(&hers.to_string()), "PT403", "leads_update_forbidden"),
        (Actor::person(&SVEN), call(&hers.to_string()), "PT404", "lead_not_found"),
        (Actor::person(&ADAM), call(&THEIRS.to_string()), "PT404", "lead_not_found"),
        (Actor::person(&ADAM), call(&Uuid::nil().to_string()), "PT404", "lead_not_found"),
        (Actor::person(&ADAM), "public.update_lead_score(null)".to_owned(), "PT404", "lead_not_found"),
        (Actor::person(&ADAM), call(won[0]["id"].as_str().unwrap()), "PT409", "lead_closed"),
        (Actor::service(BRICK), call(&LEAD.to_string()), "PT404", "lead_not_found"),
        (scopes, call(&LEAD.to_string()), "PT403", "leads_update_forbidden"),
    ] {
        still.refused(&actor, &call, state, code).await;
    }
    still.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_no_vector_of_ours_is_refused_by_name() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let still = db.still().await;
    for function in ["public.search_org_brain", "public.search_clients"] {
        for query in ["'[1,2,3]'", "null"] {
            still
                .refused(
                    &Actor::person(&OLGA),
                    &format!("{function}({query}::extensions.vector)"),
                    "PT422",
                    "query_invalid",
                )
                .await;
        }
    }
    still.unchanged().await;
}
