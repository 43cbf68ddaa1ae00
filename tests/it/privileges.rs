//! Nobody gives themselves what they do not have, whatever way they try.

use std::collections::BTreeMap;

use integration_tests::{
    Server, TestApp, TestDatabase,
    acting::{Actor, attempt},
    people::{ADAM, BRICK, CLEO, DAN, DORA, LAKESIDE, LIVING, LOFT, NORD, OLGA, RENATA, SVEN, UMA},
};
use sandbox::Canned;
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor, PgConnection};

const OWNER_ROLE: &str = "00000000-0000-7000-8000-000000000001";

async fn changes(conn: &mut PgConnection, statement: &str) -> u64 {
    conn.execute("savepoint attempt").await.unwrap();
    let done = conn.execute(AssertSqlSafe(statement.to_owned())).await;
    conn.execute("rollback to savepoint attempt").await.unwrap();
    done.map(|done| done.rows_affected()).unwrap_or(0)
}

/// Gives somebody a role of the organisation's own that allows just this.
async fn give(db: &TestDatabase, person: uuid::Uuid, resource: &str, action: &str) {
    db.run(&format!(
        "with made as (insert into roles (org_id, name) values ('{NORD}', 'special') returning id),
              allowed as (insert into permissions (org_id, role_id, resource, action) select '{NORD}', id, '{resource}', '{action}' from made)
         update org_members set role_id = (select id from made) where org_id = '{NORD}' and user_id = '{person}'"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_a_role_that_allows_more_than_their_own() {
    let db = TestDatabase::new(Server::Postgres18).await;
    give(&db, SVEN.id, "members", "update").await;
    let mut sven = db.data_api(&SVEN.claims()).await;
    let rise = format!("update public.org_members set role_id = '{OWNER_ROLE}' where user_id = '{}'", SVEN.id);
    assert_eq!(changes(&mut sven, &rise).await, 0);
    // An owner may, so the check is not a wall.
    let mut olga = db.data_api(&OLGA.claims()).await;
    assert_eq!(changes(&mut olga, &rise).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_widens_a_role_beyond_their_own() {
    let db = TestDatabase::new(Server::Postgres18).await;
    give(&db, SVEN.id, "roles", "update").await;
    let mut sven = db.data_api(&SVEN.claims()).await;
    let widen = |resource: &str, action: &str| {
        format!(
            "insert into public.permissions (org_id, role_id, resource, action) select '{NORD}', id, '{resource}', '{action}' from public.roles where name = 'special'"
        )
    };
    assert_eq!(changes(&mut sven, &widen("*", "*")).await, 0);
    assert_eq!(changes(&mut sven, &widen("audit", "read")).await, 0);
    let mut olga = db.data_api(&OLGA.claims()).await;
    assert_eq!(changes(&mut olga, &widen("audit", "read")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_of_another_organisation_mean_nothing_here() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(&format!(
        "insert into roles (id, org_id, name) values ('01900000-0000-7000-8000-00000000beef', '{BRICK}', 'theirs')"
    ))
    .await;
    let mut adam = db.data_api(&ADAM.claims()).await;
    let theirs = "01900000-0000-7000-8000-00000000beef";
    assert_eq!(
        changes(
            &mut adam,
            &format!("update public.org_members set role_id = '{theirs}' where user_id = '{}'", DORA.id)
        )
        .await,
        0
    );
    let agent = format!(
        "insert into public.agents (org_id, name, kind, role_id) values ('{NORD}', 'x', 'renderer', '{theirs}')"
    );
    assert_eq!(changes(&mut adam, &agent).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_keeps_an_owner_and_its_members_join_by_consent() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let mut olga = db.data_api(&OLGA.claims()).await;
    assert_eq!(changes(&mut olga, &format!("delete from public.org_members where user_id = '{}'", OLGA.id)).await, 0);
    assert_eq!(changes(&mut olga, &format!("delete from public.org_members where user_id = '{}'", SVEN.id)).await, 1);
    let stranger = format!(
        "insert into public.org_members (org_id, user_id, role_id) values ('{NORD}', '{}', '{OWNER_ROLE}')",
        DAN.id
    );
    assert_eq!(changes(&mut olga, &stranger).await, 0);
    // Deleting the whole organisation is not what the rule is about.
    db.run(&format!("delete from organizations where id = '{NORD}'")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agent_token_stays_revoked() {
    let app = TestApp::start().await;
    app.agent_token(&RENATA).await;
    let mut adam = app.db.data_api(&ADAM.claims()).await;
    assert_eq!(changes(&mut adam, "update public.agent_tokens set revoked_at = now()").await, 1);
    app.db.run("update agent_tokens set revoked_at = now()").await;
    assert_eq!(changes(&mut adam, "update public.agent_tokens set revoked_at = null").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_approves_a_project_is_who_is_said_to_have() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let mut dora = db.data_api(&DORA.claims()).await;
    let approve =
        format!("update public.projects set approved_by = '{}' where id = '{LOFT}' returning approved_by", DAN.id);
    let by: uuid::Uuid = sqlx::query_scalar(AssertSqlSafe(approve)).fetch_one(&mut dora).await.unwrap();
    assert_eq!(by, DORA.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_layer_holds_for_anothers_job_without_the_handler() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    let render = app.request_render(&app.token(&DORA), LAKESIDE).await.expect(202);
    app.db.run("update jobs set status = 'failed', finished_at = now()").await;
    let (id, job) = (render["id"].as_str().unwrap(), render["job"]["id"].as_str().unwrap());
    for person in [UMA, CLEO] {
        let mut caller = app.db.acting("spine_caller", &person.claims()).await;
        let was: Option<String> = sqlx::query_scalar(AssertSqlSafe(format!("select app.requeue_render('{id}')")))
            .fetch_one(&mut caller)
            .await
            .unwrap();
        assert_eq!(was, None);
        let cancelled: Option<String> = sqlx::query_scalar(AssertSqlSafe(format!("select app.cancel_job('{job}')")))
            .fetch_one(&mut caller)
            .await
            .unwrap();
        assert_eq!(cancelled, None);
        let reserve = format!(
            "select reservation_id from app.reserve_usage('{job}', 'renderer', '{}', '{LAKESIDE}', 200, 1, 1)",
            DORA.id
        );
        assert_eq!(changes(&mut caller, &reserve).await, 0, "{} reserves in Dora's name", person.email);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_on_cost_alone_binds_and_failing_is_no_way_around_it() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    app.db.run("delete from agent_limits").await;
    app.db
        .run(&format!(
            "insert into agent_limits (org_id, agent, scope, period, max_cost_micro_usd) values ('{NORD}', 'renderer', 'agent', 'month', 100000)"
        ))
        .await;
    // Each answer has no picture and costs all the same.
    let empty = json!({
        "candidates": [{ "finishReason": "IMAGE_OTHER" }],
        "usageMetadata": { "promptTokenCount": 258, "candidatesTokenCount": 1290, "candidatesTokensDetails": [{ "modality": "IMAGE", "tokenCount": 1290 }] },
    });
    let mut admitted = 0;
    for _ in 0..4 {
        // Made again once, in the same attempt.
        app.stack.sandbox.gemini.arrange(Canned::Answer(200, empty.clone()), sandbox::Calls::Next(2));
        let render = app.request_render(&token, LAKESIDE).await.expect(202);
        if render["waiting"].is_null() {
            admitted += 1;
            app.stack.renders.drained().await;
            app.send_cancel(&render, &token).await;
        }
    }
    let used = app.db.count("select used_cost_micro_usd from agent_usage where scope = 'agent'").await;
    assert_eq!(used, app.db.count("select sum(cost_micro_usd)::bigint from provider_calls").await);
    assert!((1..=2).contains(&admitted) && used <= 100_000, "{admitted} admitted, {used} spent");
    assert_eq!(app.db.count("select count(*) from billing_events").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_alone_exceeds_a_limit_is_refused_rather_than_kept_waiting() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    app.db.run("update agent_limits set max_requests = 1").await;
    let upload = app.upload(&token, &integration_tests::small_photo()).await;
    let mut body = integration_tests::render_body(LAKESIDE, upload);
    body["variants"] = json!(2);
    app.post("/v1/render-requests", &token, &body).await.expect_error(422, "limit_too_small");
    assert_eq!(app.db.count("select count(*) from jobs").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_project_was_deleted_ends_and_holds_nothing() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    app.request_render(&app.token(&DORA), LAKESIDE).await.expect(202);
    app.db.run(&format!("delete from projects where id = '{LAKESIDE}'")).await;
    app.stack.renders.resume();
    app.stack.renders.drained().await;
    assert_eq!(
        app.db
            .count("select count(*) from jobs where status = 'failed' and last_error ->> 'code' = 'render_deleted'")
            .await,
        1
    );
    assert_eq!(app.db.count("select sum(reserved_requests)::bigint from agent_usage").await, 0);
    assert!(app.stack.renders.dead_letters().is_empty());
}

/// What a column is called that says what somebody decided, allowed or proposed, or how far something has come.
const DECIDES: &str = "(^|_)(approv|accept|archiv|cancel|can|consent|decid|decision|grant|invit|permission|propos|publish|reject\
                       |review|revok|role|state|status|submi)|_by$";

/// What the system and agents may set of that kind, or of what people own, and why. A table without a column stands for those of
/// its columns that are of no such kind.
const MAY_SET: [(&str, &str, &str, &str); 32] = [
    ("spine_agent", "agent_runs.proposal_id", "insert", "which proposal an agent works on"),
    ("spine_agent", "agent_runs.status", "insert, update", "how far an agent's own run is"),
    ("spine_agent", "ai_insights.served_by", "insert", "how a text was made"),
    (
        "spine_agent",
        "proposals.brain_status",
        "update",
        "how far an agent is with a proposal; what becomes of it is `status`",
    ),
    ("spine_agent", "render_parameters", "insert", "an agent asks for renders as a person does"),
    ("spine_agent", "render_requests", "insert", "an agent asks for renders as a person does"),
    ("spine_service", "agent_runs.proposal_id", "insert", "which proposal a run works on"),
    ("spine_service", "agent_runs.status", "insert, update", "how far a run is"),
    ("spine_service", "ai_insights.served_by", "insert, update", "how a text was made"),
    ("spine_service", "billing_checkouts.status", "update", "what became of a page of Stripe's"),
    ("spine_service", "deploys.status", "insert, update", "how a deploy went"),
    ("spine_service", "invoices.status", "insert, update", "as Stripe has it"),
    ("spine_service", "jobs.status", "update", "how far the work is"),
    ("spine_service", "leads", "insert", "a lead that comes in by itself; it begins as new"),
    ("spine_service", "meter_reports.status", "insert, update", "whether Stripe took a report"),
    ("spine_service", "oauth_states.state_hash", "insert", "the name of a connection that was begun"),
    (
        "spine_service",
        "org_integrations.connected_by",
        "insert, update",
        "who consented in their browser, as the state that they began with says",
    ),
    ("spine_service", "org_integrations.grant_type", "insert, update", "how tokens are renewed"),
    ("spine_service", "org_integrations.status", "insert, update", "whether the provider still lets us in"),
    ("spine_service", "render_requests.status", "update", "how far a render is"),
    ("spine_service", "render_results.served_by", "insert", "how a picture was made"),
    (
        "spine_service",
        "social_accounts.connected_by",
        "insert, update",
        "who consented in their browser, as the state that they began with says",
    ),
    (
        "spine_service",
        "social_accounts.consent_ends_at",
        "insert, update",
        "when tokens end that are not renewed, as the platform has it",
    ),
    ("spine_service", "social_accounts.status", "insert, update", "whether the platform still lets us in"),
    ("spine_service", "social_attachments.status", "update", "what became of a file"),
    ("spine_service", "social_media.published_at", "insert, update", "when a post was made, as the platform has it"),
    ("spine_service", "stripe_objects.told_by", "insert, update", "the event that an object is known from"),
    ("spine_service", "subscriptions.cancel_at", "insert, update", "as Stripe has it"),
    ("spine_service", "subscriptions.cancel_at_period_end", "insert, update", "as Stripe has it"),
    ("spine_service", "subscriptions.canceled_at", "insert, update", "as Stripe has it"),
    ("spine_service", "subscriptions.status", "insert, update", "as Stripe has it"),
    ("spine_service", "webhook_events.status", "insert, update", "what became of a delivery"),
];

#[tokio::test(flavor = "multi_thread")]
async fn neither_the_system_nor_an_agent_sets_what_people_decide_unless_it_says_why() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let query = format!(
        "with owned as (
             select c.oid, c.relname, a.attname, coalesce(of_column.owner, of_table.owner) = 'human' as peoples, a.attname ~ '{DECIDES}' as decides
               from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
               left join data_ownership of_table on of_table.table_name = c.relname and of_table.column_name is null
               left join data_ownership of_column on of_column.table_name = c.relname and of_column.column_name = a.attname
              where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and c.relname <> '_sqlx_migrations')
         select r.role, o.relname || case when o.decides then '.' || o.attname else '' end as what,
                string_agg(distinct v.verb, ', ' order by v.verb) as verbs
           from owned o, (values ('spine_agent'), ('spine_service')) r (role), (values ('insert'), ('update')) v (verb)
          where (o.peoples or o.decides) and has_column_privilege(r.role, o.oid, o.attname, v.verb)
          group by 1, 2 order by 1, 2"
    );
    let set: Vec<(String, String, String)> =
        sqlx::query_as(AssertSqlSafe(query)).fetch_all(&mut db.admin().await).await.unwrap();
    let set: BTreeMap<_, _> = set.into_iter().map(|(role, what, verbs)| ((role, what), verbs)).collect();
    let listed: BTreeMap<_, _> = MAY_SET
        .into_iter()
        .map(|(role, what, verbs, why)| {
            assert!(!why.is_empty(), "{role} {what}");
            ((role.to_owned(), what.to_owned()), verbs.to_owned())
        })
        .collect();
    assert_eq!(set, listed);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_decision_of_a_persons_is_made_by_the_system_or_an_agent() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let decisions = [
        format!("update public.projects set approved_by = '{}', published_at = now()", DORA.id),
        "update public.projects set archived_at = now()".to_owned(),
        "update public.client_accounting set can_write = true".to_owned(),
        "update public.client_accounting set fortnox_write_approved_at = now()".to_owned(),
        "update public.submissions set status = 'approved'".to_owned(),
        format!(
            "insert into public.submission_reviews (org_id, submission_id, decision) values ('{NORD}', '{LIVING}', 'approved')"
        ),
        "update public.blog_posts set status = 'published', published_at = now()".to_owned(),
        "update public.proposals set status = 'accepted'".to_owned(),
        "update public.proposals set deal_outcome = 'won'".to_owned(),
        "update public.contracts set status = 'signed'".to_owned(),
        "update public.leads set status = 'won', closed_at = now()".to_owned(),
        "update public.leads set last_contact_at = now()".to_owned(),
        format!("insert into public.leads (org_id, client_name, status) values ('{NORD}', 'L', 'qualified')"),
        "update public.social_messages set status = 'answered'".to_owned(),
        "update public.jobs set cancel_requested_at = now()".to_owned(),
        format!("update public.jobs set created_by = '{}'", ADAM.id),
        "update public.agent_limits set max_cost_micro_usd = null".to_owned(),
        format!(
            "insert into public.agent_limits (org_id, agent, scope, period, max_requests) values ('{NORD}', 'a', 'agent', 'day', 1)"
        ),
        "update public.agent_tokens set revoked_at = null".to_owned(),
        "update public.agents set status = 'active'".to_owned(),
        format!("update public.org_members set role_id = '{OWNER_ROLE}'"),
        format!(
            "insert into public.org_members (org_id, user_id, role_id) values ('{NORD}', '{}', '{OWNER_ROLE}')",
            DAN.id
        ),
        "update public.invitations set accepted_at = now()".to_owned(),
        format!(
            "insert into public.client_consultants (org_id, client_id, user_id) values ('{NORD}', '{LIVING}', '{}')",
            CLEO.id
        ),
        "update public.lead_assignment_settings set enabled = true".to_owned(),
        "update public.social_ai_settings set drafts = 'all'".to_owned(),
        "update public.insight_settings set nightly = true".to_owned(),
    ];
    for actor in [Actor::service(NORD), db.agent(&RENATA).await] {
        let mut conn = db.begin_as(&actor).await;
        for statement in &decisions {
            let outcome = attempt(&mut conn, statement).await.map_err(|refusal| refusal.state);
            assert_eq!(outcome, Err("42501".to_owned()), "{}: {statement}", actor.name);
        }
    }
}
