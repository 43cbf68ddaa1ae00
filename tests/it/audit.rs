//! The audit log tells what happened, to those who may know, for good.

use std::str::FromStr;

use base64::{Engine, engine::general_purpose::STANDARD};
use integration_tests::{
    Server, TestApp, TestDatabase,
    acting::{Actor, attempt},
    people::{ADAM, DORA, LAKESIDE, LIVING, NORD, OLGA, OSCAR, RENATA, SVEN, UMA},
};
use serde_json::{Value, json};
use shared::{
    seal::{Aad, SealingKey, SubjectKey},
    secrets::SecretValue,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};
use uuid::Uuid;

const SERVERS: [Server; 2] = [Server::Postgres16, Server::Postgres18];

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_holds_input_decision_and_output_with_personal_values_sealed() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    let id = render["id"].as_str().unwrap();
    app.finished(&token, id).await;

    let mut admin = app.db.admin().await;
    let (entry, wrapped): (Value, String) = sqlx::query_as(
        "select to_jsonb(a), k.wrapped_key from audit_log a, subject_keys k where action = 'render.completed' and k.subject_id = $1",
    )
    .bind(DORA.id)
    .fetch_one(&mut admin)
    .await
    .unwrap();
    for part in ["input", "decision", "output"] {
        assert!(entry[part].as_object().is_some_and(|part| !part.is_empty()), "{part}: {entry}");
    }
    let whole: String = sqlx::query_scalar("select string_agg(to_jsonb(a)::text, ' ') from audit_log a")
        .fetch_one(&mut admin)
        .await
        .unwrap();
    assert!(!whole.contains("Greta") && !whole.contains("127.0.0.1") && !whole.contains(DORA.email), "{whole}");

    // Whoever holds the key reads it, in its place only.
    assert_eq!(STANDARD.decode(&app.stack.audit_key).unwrap().len(), 32);
    let master = SealingKey::from_secret(&SecretValue::from(app.stack.audit_key.clone())).unwrap();
    let key = SubjectKey::unwrap(&wrapped, &master, None, NORD, DORA.id).unwrap();
    let aad = Aad { org_id: NORD, table: "audit_log", column: "input", key_version: 1 };
    let sealed = entry["input"]["wishes"]["sealed"].as_str().unwrap();
    assert!(String::from_utf8(key.open(&aad, sealed).unwrap()).unwrap().contains("Greta"));
    assert!(key.open(&Aad { column: "decision", ..aad }, sealed).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_persons_requests_go_on_without_their_values() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    app.request_render(&token, LAKESIDE).await.expect(202);
    app.stack.renders.drained().await;
    app.db.run("update subject_keys set wrapped_key = null, destroyed_at = now()").await;
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    assert_eq!(app.finished(&token, render["id"].as_str().unwrap()).await["status"], "completed");
    assert_eq!(app.db.count("select count(*) from audit_log where input -> 'wishes' = 'null'").await, 1);
    assert_eq!(app.db.count("select count(*) from audit_log where digest <> app.audit_digest(audit_log)").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_changes_the_log_and_every_digest_can_be_computed_again() {
    let app = TestApp::start().await;
    app.request_render(&app.token(&DORA), LAKESIDE).await.expect(202);
    app.stack.renders.drained().await;
    for timezone in ["UTC", "Asia/Kathmandu"] {
        let mut admin = app.db.admin().await;
        admin.execute(sqlx::AssertSqlSafe(format!("set timezone = '{timezone}'"))).await.unwrap();
        let wrong: i64 =
            sqlx::query_scalar("select count(*) from audit_log where digest <> app.audit_digest(audit_log)")
                .fetch_one(&mut admin)
                .await
                .unwrap();
        assert_eq!(wrong, 0);
    }
    for setup in ["reset all", "set session_replication_role = replica", "set role spine_owner"] {
        for change in ["update audit_log set action = 'x'", "delete from audit_log", "truncate audit_log"] {
            let mut admin = app.db.admin().await;
            admin.execute(setup).await.unwrap();
            let error = admin.execute(change).await.unwrap_err();
            assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501", "{setup}; {change}: {error}");
        }
    }
    assert!(app.db.count("select count(*) from audit_log").await >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_read_by_its_organisations_admins_alone() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let mut admin = db.acting("spine_service", &json!({})).await;
    sqlx::query("select set_config('app.service_org', $1, true)")
        .bind(NORD.to_string())
        .execute(&mut admin)
        .await
        .unwrap();
    admin
        .execute("select app.append_audit('x', 'y', 'z', '{}', '{}', '{}', '{}', null, null, null, null)")
        .await
        .unwrap();
    admin.execute("commit").await.unwrap();
    for (person, seen) in [(OLGA, 1_i64), (DORA, 0), (OSCAR, 0)] {
        let mut conn = db.data_api(&person.claims()).await;
        let rows: i64 = sqlx::query_scalar("select count(*) from public.audit_log where action = 'x'")
            .fetch_one(&mut conn)
            .await
            .unwrap();
        assert_eq!(rows, seen, "{}", person.email);
    }
}

// What people and agents change ------------------------------------------------------------------------------------------

const fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0008_0000 + number)
}

/// The newest entry about a table.
async fn newest(db: &TestDatabase, table: &str) -> Value {
    let query = format!(
        "select actor, user_id, agent_id, org_id, action, record_id, metadata -> 'changed' as changed, old_values, new_values, subject_ids
           from audit_log where resource_type = '{table}' order by occurred_at desc limit 1"
    );
    db.ask(&Actor::role("postgres"), &query).await.unwrap()[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_through_the_data_api_is_told_with_its_author_and_the_columns_it_changed() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let adam = Actor::person(&ADAM);
        let insert =
            format!("insert into public.clients (org_id, name, email) values ('{NORD}', 'Greta', 'greta@example.com')");
        let client = db.add(&adam, &insert).await.unwrap();
        let entry = |action: &str, changed: &[&str], old: Value, new: Value| {
            json!({ "actor": "user", "user_id": ADAM.id, "agent_id": null, "org_id": NORD, "action": action, "record_id": client,
                    "changed": changed, "old_values": old, "new_values": new, "subject_ids": [] })
        };
        let told = |status: &str| json!({ "id": client, "status": status });
        let all = ["address", "created_at", "email", "id", "name", "org_id", "org_number", "phone", "status"];
        assert_eq!(newest(&db, "clients").await, entry("clients.insert", &all, json!(null), told("active")));
        let update = format!(
            "update public.clients set phone = '+46 70', status = 'archived', name = name where id = '{client}'"
        );
        assert_eq!(db.change(&adam, &update).await, Ok(1));
        assert_eq!(
            newest(&db, "clients").await,
            entry("clients.update", &["phone", "status"], told("active"), told("archived"))
        );
        // What changes nothing is nothing to tell.
        let before = db.count("select count(*) from audit_log").await;
        db.change(&adam, &format!("update public.clients set name = name where id = '{client}'")).await.unwrap();
        assert_eq!(db.count("select count(*) from audit_log").await, before);
        db.run(&format!("delete from clients where id = '{client}'")).await;
        let deleted = newest(&db, "clients").await;
        assert_eq!((&deleted["actor"], &deleted["user_id"]), (&json!("system"), &json!(null)));
        assert_eq!(
            (&deleted["action"], &deleted["old_values"], &deleted["new_values"]),
            (&json!("clients.delete"), &told("archived"), &json!(null))
        );
        // What is refused leaves nothing, neither does what is taken back.
        let before = db.count("select count(*) from audit_log").await;
        assert!(db.change(&Actor::person(&UMA), &insert).await.is_err());
        attempt(&mut db.begin_as(&adam).await, &insert).await.unwrap();
        assert_eq!(db.count("select count(*) from audit_log").await, before);
        // Whose data it touches is told.
        let uma = Actor::person(&UMA);
        db.change(&uma, "update public.profiles set full_name = 'Greta'").await.unwrap();
        let entry = newest(&db, "profiles").await;
        assert_eq!(
            (&entry["subject_ids"], &entry["changed"], &entry["org_id"]),
            (&json!([UMA.id]), &json!(["full_name"]), &json!(null))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_agents_and_the_system_write_is_told_as_theirs() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let (lead, renata, service) = (id(2), db.agent(&RENATA).await, Actor::service(NORD));
        let by = |entry: Value| {
            json!([entry["actor"], entry["user_id"], entry["agent_id"], entry["action"], entry["org_id"]])
        };
        let insert = format!(
            "insert into public.leads (id, org_id, client_name, email) values ('{lead}', '{NORD}', 'Greta', 'greta@example.com')"
        );
        db.change(&service, &insert).await.unwrap();
        assert_eq!(by(newest(&db, "leads").await), json!(["system", null, null, "leads.insert", NORD]));
        let assign = format!("update public.leads set assigned_to = '{}' where id = '{lead}'", SVEN.id);
        db.change(&renata, &assign).await.unwrap();
        assert_eq!(by(newest(&db, "leads").await), json!(["agent", null, RENATA.id, "leads.update", NORD]));
        let learn = format!("insert into public.client_intelligence (org_id, client_name) values ('{NORD}', 'Greta')");
        db.change(&renata, &learn).await.unwrap();
        assert_eq!(
            by(newest(&db, "client_intelligence").await),
            json!(["agent", null, RENATA.id, "client_intelligence.insert", NORD])
        );
        // A score is computed by the definer, and told as whoever asked for it.
        for (actor, told) in [
            (&renata, json!(["agent", null, RENATA.id, "lead_scoring.insert", NORD])),
            (&Actor::person(&SVEN), json!(["user", SVEN.id, null, "lead_scoring.insert", NORD])),
            (&Actor::person(&SVEN).in_function(), json!(["user", SVEN.id, null, "lead_scoring.insert", NORD])),
            (&service, json!(["system", null, null, "lead_scoring.insert", NORD])),
        ] {
            db.ask(actor, &format!("select public.update_lead_score('{lead}')")).await.unwrap();
            assert_eq!(by(newest(&db, "lead_scoring").await), told);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_address_or_number_of_anybody_gets_into_the_log() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let (adam, service, renata) = (Actor::person(&ADAM), Actor::service(NORD), db.agent(&RENATA).await);
    let uma = Actor::person(&UMA);
    for (actor, statement) in [
        (&uma, "update public.profiles set full_name = 'Greta', phone = '+46 70 123'".to_owned()),
        (&adam, "update public.organizations set name = 'Greta', branding = '{\"by\": \"Greta\"}'".to_owned()),
        (
            &adam,
            format!(
                "select public.create_client_with_context('{NORD}', 'Greta', 'greta@example.com', '+46 70', 'Gretagatan')"
            ),
        ),
        (&adam, "select public.create_invitation('consultant', 'greta@example.com')".to_owned()),
        (
            &adam,
            format!(
                "insert into public.leads (org_id, client_name, email, phone) values ('{NORD}', 'Greta', 'greta@example.com', '+46 70')"
            ),
        ),
        (
            &adam,
            "insert into public.lead_notes (org_id, lead_id, note) select org_id, id, 'Greta called' from public.leads"
                .to_owned(),
        ),
        (&adam, "update public.leads set client_name = 'Greta G', email = 'g@example.com'".to_owned()),
        (
            &adam,
            format!(
                "insert into public.contracts (org_id, client_name, title, scope) values ('{NORD}', 'Greta', 'Greta', 'Greta')"
            ),
        ),
        (&adam, format!("insert into public.proposals (org_id, title) values ('{NORD}', 'For Greta')")),
        (
            &adam,
            format!("insert into public.projects (org_id, title, description) values ('{NORD}', 'Greta', 'Greta')"),
        ),
        (
            &adam,
            format!(
                "insert into public.personas (org_id, name, description, traits) values ('{NORD}', 'Greta', 'Greta', '{{\"a\": \"Greta\"}}')"
            ),
        ),
        (
            &adam,
            format!(
                "insert into public.templates (org_id, name, type, content) values ('{NORD}', 'Greta', 'form', '\"Greta\"')"
            ),
        ),
        (
            &adam,
            "insert into public.template_questions (org_id, template_id, position, kind, label)
             select org_id, id, 1, 'text', 'Greta?' from public.templates"
                .to_owned(),
        ),
        (
            &adam,
            format!(
                "insert into public.client_templates (org_id, client_id, template_id) select org_id, '{LIVING}', id from public.templates"
            ),
        ),
        (
            &uma,
            "insert into public.submissions (org_id, client_id, template_id)
             select org_id, client_id, template_id from public.client_templates"
                .to_owned(),
        ),
        (
            &uma,
            "insert into public.submission_answers (org_id, submission_id, question_id, value)
             select s.org_id, s.id, q.id, '\"Greta\"' from public.submissions s, public.template_questions q"
                .to_owned(),
        ),
        (&uma, "update public.submission_answers set value = '\"greta@example.com\"'".to_owned()),
        (&uma, "update public.submissions set status = 'submitted'".to_owned()),
        (
            &adam,
            "insert into public.submission_reviews (org_id, submission_id, decision, feedback)
             select org_id, id, 'rejected', 'Dear Greta' from public.submissions"
                .to_owned(),
        ),
        (
            &adam,
            format!(
                "insert into public.blog_posts (org_id, title, slug, content) values ('{NORD}', 'Greta', 'x', 'Greta')"
            ),
        ),
        (
            &adam,
            "insert into public.blog_tags (org_id, post_id, tag) select org_id, id, 'Greta' from public.blog_posts"
                .to_owned(),
        ),
        (
            &adam,
            "insert into public.blog_media (org_id, post_id, file_path)
             select org_id, id, org_id || '/Greta.jpg' from public.blog_posts"
                .to_owned(),
        ),
        (
            &adam,
            format!(
                "insert into public.project_tags (org_id, project_id, tag) values ('{NORD}', '{LAKESIDE}', 'Greta')"
            ),
        ),
        (
            &adam,
            format!(
                "insert into public.project_images (org_id, project_id, file_path) values ('{NORD}', '{LAKESIDE}', '{NORD}/Greta.jpg')"
            ),
        ),
        (&adam, format!("insert into public.services (org_id, name, description) values ('{NORD}', 'Greta', 'Greta')")),
        (
            &service,
            format!(
                "insert into public.social_accounts (org_id, platform, platform_id, username) values ('{NORD}', 'tiktok', 'greta', 'Greta')"
            ),
        ),
        (
            &renata,
            format!(
                "insert into public.client_intelligence (org_id, client_name, psychographics) values ('{NORD}', 'Greta', '\"Greta\"')"
            ),
        ),
        (
            &renata,
            format!("insert into public.prospect_intelligence (org_id, prospect_name) values ('{NORD}', 'Greta')"),
        ),
        (
            &renata,
            format!(
                "insert into public.org_brain (org_id, content_type, content_text) values ('{NORD}', 'note', 'Greta')"
            ),
        ),
    ] {
        let before = db.count("select count(*) from audit_log").await;
        db.change(actor, &statement).await.unwrap_or_else(|refusal| panic!("{statement}: {refusal:?}"));
        assert!(db.count("select count(*) from audit_log").await > before, "not told: {statement}");
    }
    let leaks = "select count(*) from audit_log a where a::text ~* 'greta|@|\\+46'";
    assert_eq!(db.count(leaks).await, 0);

    // Whose values are told: ids, times, figures, and of texts these alone, which are words of ours or of a trade.
    let told = [
        "accounting_executions.external_tenant_id",
        "accounting_executions.refusal_code",
        "accounting_executions.series",
        "accounting_executions.token",
        "accounting_writes.kind",
        "agent_limits.agent",
        "agent_limits.period",
        "agent_limits.scope",
        "agent_runs.status",
        "agent_tokens.scopes",
        "agents.kind",
        "agents.status",
        "ai_insights.audience",
        "ai_insights.period",
        "ai_insights.served_by",
        "ai_insights.table_name",
        "approvals.execution",
        "approvals.kind",
        "approvals.status",
        "approvals.subject_table",
        "billing_checkouts.session_id",
        "billing_checkouts.status",
        "billing_checkouts.stripe_price_id",
        "blog_posts.status",
        "client_accounting.provider",
        "client_consultants.role",
        "client_users.role",
        "clients.status",
        "contracts.status",
        "insight_settings.periods",
        "insight_settings.tables",
        "invitations.kind",
        "invitations.role",
        "lead_assignment_settings.work_days",
        "lead_assignment_settings.work_from",
        "lead_assignment_settings.work_until",
        "lead_assignments.decided_by",
        "lead_assignments.end_reason",
        "lead_scoring.model",
        "leads.source",
        "leads.status",
        "notification_preferences.kind",
        "notifications.kind",
        "org_brain.content_type",
        "org_consultants.role",
        "organizations.plan",
        "organizations.slug",
        "organizations.time_zone",
        "permissions.action",
        "permissions.resource",
        "personas.status",
        "projects.status",
        "prompt_templates.locale",
        "prompt_templates.purpose",
        "proposals.brain_status",
        "proposals.deal_outcome",
        "proposals.status",
        "roles.name",
        "social_accounts.platform",
        "social_accounts.region",
        "social_accounts.status",
        "social_ai_settings.drafts",
        "social_messages.status",
        "social_replies.code",
        "social_replies.kind",
        "social_replies.model",
        "social_replies.status",
        "social_sentiment.model_used",
        "social_threads.status",
        "submission_reviews.decision",
        "submissions.status",
        "template_question_accounting.account",
        "template_question_accounting.event",
        "template_question_accounting.side",
        "template_question_accounting.vat_code",
        "template_question_accounting.voucher_series",
        "template_questions.kind",
        "templates.type",
    ];
    let query = "with t as (select tgrelid, encode(tgargs, 'escape') a from pg_trigger where tgfoid = 'app.audit_change'::regproc and tgparentid = 0),
                      told as (select tgrelid, unnest(string_to_array(split_part(a, '\\000', 1), ',')
                                                      || string_to_array(nullif(split_part(a, '\\000', 2), ''), ',')) col from t)
                 select distinct c.relname || '.' || col as it from told join pg_class c on c.oid = tgrelid
                   left join pg_attribute a on a.attrelid = tgrelid and a.attname = col
                  where a.atttypid is null or format_type(a.atttypid, null) not in ('uuid', 'boolean', 'integer', 'bigint', 'numeric', 'timestamp with time zone')
                  order by 1";
    let found = db.ask(&Actor::role("postgres"), query).await.unwrap();
    let found: Vec<_> = found.as_array().unwrap().iter().map(|row| row["it"].as_str().unwrap()).collect();
    assert_eq!(found, told);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_people_or_agents_may_write_is_audited() {
    // Told by the functions that admit renders, with what they decided.
    let elsewhere = ["idempotency_keys", "render_parameters", "render_requests"];
    let db = TestDatabase::new(Server::Postgres18).await;
    let query = "select c.relname || ' ' || v.verb || ' ' || r.rolname as it
                   from pg_class c, (values ('insert', 4), ('delete', 8), ('update', 16)) v (verb, bit), pg_roles r
                  where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'f', 'm')
                    and r.rolname in ('anon', 'authenticated', 'spine_agent', 'spine_caller')
                    and (has_table_privilege(r.oid, c.oid, v.verb)
                         or v.verb <> 'delete' and has_any_column_privilege(r.oid, c.oid, v.verb))
                    and not exists (select from pg_trigger t
                                     where t.tgrelid = c.oid and t.tgfoid = 'app.audit_change'::regproc and t.tgenabled in ('O', 'A')
                                       -- For each statement, afterwards, of this verb.
                                       and t.tgtype & 1 = 0 and t.tgtype & 66 = 0 and t.tgtype & v.bit = v.bit)
                  order by 1";
    let found = db.ask(&Actor::role("postgres"), query).await.unwrap();
    let found: Vec<_> = found.as_array().unwrap().iter().map(|row| row["it"].as_str().unwrap()).collect();
    let wanted: Vec<_> = elsewhere
        .iter()
        .flat_map(|table| ["spine_agent", "spine_caller"].map(|role| format!("{table} insert {role}")))
        .collect();
    assert_eq!(found, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_changes_or_empties_the_log_or_its_seals() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        assert!(db.count("select count(*) from audit_log").await > 0);
        let still = db.still().await;
        for table in ["public.audit_log", "public.audit_seals", "app.audit_tallies"] {
            let changes = [
                format!("update {table} set org_id = org_id"),
                format!("delete from {table}"),
                format!("truncate {table}"),
                format!("truncate {table} cascade"),
                format!("with gone as (delete from {table} returning *) select from gone"),
                format!(
                    "insert into {table} select * from {table} on conflict do nothing; update {table} set org_id = null"
                ),
                format!("merge into {table} l using (select 1) x on true when matched then delete"),
            ];
            for role in [
                "postgres",
                "anon",
                "authenticated",
                "service_role",
                "supabase_auth_admin",
                "spine_owner",
                "spine_definer",
                "spine_caller",
                "spine_agent",
                "spine_service",
                "spine_functions",
            ] {
                for replica in [false, true] {
                    let mut conn = db.admin().await;
                    if replica {
                        conn.execute("set session_replication_role = replica").await.unwrap();
                    }
                    conn.execute("begin").await.unwrap();
                    conn.execute(AssertSqlSafe(format!("set local app.service_org = '{NORD}'; set local role {role}")))
                        .await
                        .unwrap();
                    for change in &changes {
                        let refusal = attempt(&mut conn, change).await.expect_err(change);
                        assert_eq!(refusal.state, "42501", "{role}, replica: {replica}: {change}: {refusal:?}");
                    }
                }
            }
        }
        still.unchanged().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_outlives_what_it_speaks_of_with_every_digest_intact() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let call = format!("select public.create_client_with_context('{NORD}', 'Greta') as id");
        let made = db.ask(&Actor::person(&ADAM), &call).await.unwrap();
        let client = made[0]["id"].as_str().unwrap();
        db.change(&Actor::person(&DORA), &format!("update public.projects set title = 'New' where id = '{LAKESIDE}'"))
            .await
            .unwrap();
        let digests = || async {
            let rows = db
                .ask(
                    &Actor::role("postgres"),
                    "select id, digest::text, user_id, org_id, record_id from audit_log order by id",
                )
                .await;
            rows.unwrap().as_array().unwrap().clone()
        };
        let mut before = digests().await;
        for (gone, told) in [
            (
                format!("delete from clients where id = '{client}'"),
                format!("resource_type = 'clients' and record_id = '{client}' and action = 'clients.delete'"),
            ),
            (
                format!("delete from auth.users where id = '{}'", DORA.id),
                format!(
                    "resource_type = 'org_members' and record_id = '{NORD}/{}' and action = 'org_members.delete'",
                    DORA.id
                ),
            ),
            (
                format!("delete from organizations where id = '{NORD}'"),
                format!("resource_type = 'organizations' and org_id = '{NORD}' and action = 'organizations.delete'"),
            ),
        ] {
            db.run(&gone).await;
            let after = digests().await;
            assert!(before.iter().all(|entry| after.contains(entry)), "{gone}");
            assert_eq!(db.count(&format!("select count(*) from audit_log where {told}")).await, 1, "{gone}");
            assert_eq!(db.count("select count(*) from audit_log a where digest <> app.audit_digest(a)").await, 0);
            before = after;
        }
        assert!(db.count(&format!("select count(*) from audit_log where user_id = '{}'", DORA.id)).await > 0);
    }
}

// Entries that are loaded -----------------------------------------------------------------------------------------------

const ROLES: [&str; 9] = [
    "anon",
    "authenticated",
    "service_role",
    "supabase_auth_admin",
    "authenticator",
    "spine_caller",
    "spine_agent",
    "spine_service",
    "spine_functions",
];

/// An entry of 2020 with the digest that belongs to it, as nobody wrote it. As JSON.
async fn forged(db: &TestDatabase) -> Value {
    let query = format!(
        "with f as (select jsonb_populate_record(a, '{{\"id\": \"{}\", \"occurred_at\": \"2020-01-01T00:00:00Z\", \"action\": \"forged\"}}') as r
                      from audit_log a where org_id = '{NORD}' order by id limit 1)
         select to_jsonb(r) || jsonb_build_object('digest', app.audit_digest(r)) from f",
        Uuid::new_v4()
    );
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut db.admin().await).await.unwrap()
}

fn load(entry: &Value) -> String {
    format!("insert into public.audit_log select * from jsonb_populate_record(null::public.audit_log, '{entry}')")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_of_the_application_loads_an_entry_past_the_stamp() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let entry = load(&forged(&db).await);
        let still = db.still().await;
        for role in ROLES.into_iter().chain(["spine_owner", "spine_definer"]) {
            let mut conn = db.admin().await;
            conn.execute(AssertSqlSafe(format!("begin; set local role {role}"))).await.unwrap();
            for replica in [
                "set session_replication_role = replica",
                "set local session_replication_role = replica",
                "select set_config('session_replication_role', 'replica', true)",
                "do $$ begin set session_replication_role = replica; end $$",
            ] {
                let refusal = attempt(&mut conn, replica).await.expect_err(replica);
                assert_eq!(refusal.state, "42501", "{role}: {replica}: {refusal:?}");
            }
        }
        // Not even where a superuser has set the mode for them. Its two owners are what a migration runs as, and nobody logs in as them.
        for role in ROLES {
            let mut conn = db.admin().await;
            conn.execute(AssertSqlSafe(format!(
                "set session_replication_role = replica; begin; set local app.service_org = '{NORD}'; set local role {role}"
            )))
            .await
            .unwrap();
            let refusal = attempt(&mut conn, &entry).await.expect_err(role);
            assert_eq!(refusal.state, "42501", "{role}: {refusal:?}");
        }
        let refused = sqlx::postgres::PgConnectOptions::from_str(&db.functions_url)
            .unwrap()
            .options([("session_replication_role", "replica")])
            .connect()
            .await
            .unwrap_err();
        assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "42501");
        still.unchanged().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_stamped_by_all_but_a_replica_and_a_replica_loads_what_was_written_alone() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let entry = forged(&db).await;
        let kept = format!("select count(*) from audit_log where to_jsonb(audit_log) = '{entry}'::jsonb");
        let stamped =
            "select count(*) from audit_log where action = 'forged' and occurred_at > now() - interval '1 hour'
                          and digest = app.audit_digest(audit_log)";
        db.run(&load(&entry)).await;
        assert_eq!((db.count(&kept).await, db.count(stamped).await), (0, 1));

        // Altered in any column, it is not what was written.
        let columns = entry.as_object().unwrap().keys().filter(|column| *column != "id");
        for column in columns {
            let mut other = entry.clone();
            other["id"] = json!(Uuid::new_v4());
            other[column] = match column.as_str() {
                "digest" => json!(format!("\\x{}", "00".repeat(32))),
                "occurred_at" => json!("2020-01-01T00:00:00.000001Z"),
                "org_id" | "user_id" | "agent_id" => json!(Uuid::new_v4()),
                "subject_ids" => json!([Uuid::new_v4()]),
                "xact" => json!("1"),
                "actor" => json!("agent"),
                "input" | "decision" | "output" | "metadata" | "old_values" | "new_values" => json!({ "other": 1 }),
                _ => json!("other"),
            };
            let mut conn = db.admin().await;
            conn.execute("set session_replication_role = replica; begin").await.unwrap();
            let refusal = attempt(&mut conn, &load(&other)).await.expect_err(column);
            assert_eq!(refusal.state, "XX001", "{column}: {refusal:?}");
        }
        let mut other = entry.clone();
        other["id"] = json!(Uuid::new_v4());
        let mut conn = db.admin().await;
        conn.execute("set session_replication_role = replica; begin").await.unwrap();
        assert_eq!(attempt(&mut conn, &load(&other)).await.expect_err("another id").state, "XX001");

        // As it was written, it is loaded, and the load is recorded.
        let mut restored = entry.clone();
        let id = Uuid::new_v4();
        restored["id"] = json!(id);
        let digest = format!("select to_jsonb(app.audit_digest(jsonb_populate_record(null::audit_log, '{restored}')))");
        restored["digest"] = sqlx::query_scalar(AssertSqlSafe(digest)).fetch_one(&mut db.admin().await).await.unwrap();
        let loads = "select coalesce(sum(entries), 0)::bigint from app.audit_loads where loaded_by = 'postgres' and checked_at is null";
        assert_eq!(db.count(loads).await, 0);
        db.run(&format!("set session_replication_role = replica; {}", load(&restored))).await;
        let loaded = format!("select count(*) from audit_log where to_jsonb(audit_log) = '{restored}'::jsonb");
        assert_eq!((db.count(&loaded).await, db.count(loads).await), (1, 1));

        // What comes without stamps was not written before: it is stamped and tallied, replica or not.
        let tallied = "select sum(entries)::bigint from app.audit_tallies";
        let before = db.count(tallied).await;
        db.run(&format!(
            "set session_replication_role = replica;
             insert into audit_log (org_id, actor, action, resource_type) values ('{NORD}', 'system', 'fresh', 'x')"
        ))
        .await;
        let fresh = "select count(*) from audit_log where action = 'fresh' and digest = app.audit_digest(audit_log)";
        assert_eq!((db.count(fresh).await, db.count(tallied).await - before, db.count(loads).await), (1, 1, 1));
    }
}
