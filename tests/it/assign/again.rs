//! The schedule: who is given leads by themselves, and when a lead is given to another.

use integration_tests::{
    Server, TestApp, TestDatabase,
    acting::{Actor, asked, pid},
    people::{ADAM, BRICK, DORA, NORD, OLGA, SVEN},
};
use serde_json::{Value, json};
use sqlx::Executor;
use uuid::Uuid;

use super::{a_minute, ask, come, lead, one, set, takes, whole};

/// Atelier Nord has its leads assigned by themselves, without a floor and without a model.
async fn by_itself(db: &TestDatabase) {
    set(
        db,
        "enabled, min_auc, max_brier, ai_bound, patience_hours, work_days, work_from, work_until",
        "true, null, null, 0, 24, '{1,2,3,4,5,6,7}', '00:00', '24:00'",
    )
    .await;
}

async fn holder(db: &TestDatabase, number: u128) -> Value {
    one(db, &format!("select assigned_to from leads where id = '{}'", lead(number))).await
}

/// Makes it so long since somebody was given a lead, and leaves everything else as it is.
async fn long_ago(db: &TestDatabase, number: u128) {
    db.run(&format!(
        "set session_replication_role = replica;
         update leads set assigned_at = assigned_at - interval '25 hours', updated_at = updated_at - interval '25 hours' where id = '{}'",
        lead(number)
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_leads_are_assigned_by_themselves_where_that_is_switched_on_and_nowhere_else() {
    let app = TestApp::start().await;
    takes(&app.db, &SVEN, 2).await;
    come(&app.db, 1, 3).await;
    app.db
        .run(&format!(
            "insert into leads (id, org_id, client_name) values ('{}', '{BRICK}', 'Theirs');
             insert into lead_capacity (org_id, user_id) select org_id, user_id from org_members where org_id = '{BRICK}'",
            lead(9)
        ))
        .await;
    a_minute(&app).await;
    assert_eq!(app.db.count("select count(*) from jobs").await, 0, "nobody has switched it on");
    by_itself(&app.db).await;
    // The most promising first, as far as anything is known of them.
    app.db
        .run(&format!(
            "insert into lead_scoring (org_id, lead_id, score, rationale, factors, model) values
                 ('{NORD}', '{}', 90, 'r', '{{}}', 'rules'), ('{NORD}', '{}', 10, 'r', '{{}}', 'rules')",
            lead(3),
            lead(1)
        ))
        .await;
    let due = app.db.ask(&Actor::role("spine_service"), "select lead_id from app.due_leads(10)").await.unwrap();
    assert_eq!(due, json!([{ "lead_id": lead(3) }, { "lead_id": lead(1) }, { "lead_id": lead(2) }]));
    app.db.run("delete from lead_scoring").await;
    a_minute(&app).await;
    assert_eq!(app.db.count("select count(*) from leads where assigned_to is not null").await, 2, "{}", app.logs());
    assert_eq!(holder(&app.db, 9).await, Value::Null);
    // One is left, waits, and is not asked about again and again.
    assert_eq!(
        app.db
            .count("select count(*) from jobs where status = 'queued' and wait_reason ->> 'reason' = 'everybody_full'")
            .await,
        1
    );
    assert_eq!(app.db.count("select count(*) from jobs").await, 3);
    whole(&app.db).await;
    // An operator's switch holds it.
    app.db.run("update system_settings set value = 'false' where key = 'leads.enabled'; update lead_capacity set max_open = 9").await;
    a_minute(&app).await;
    assert_eq!(
        app.db.count("select count(*) from jobs where status = 'queued' and wait_reason ->> 'reason' = 'paused'").await,
        1
    );
    app.db.run("update system_settings set value = 'true' where key = 'leads.enabled'").await;
    a_minute(&app).await;
    assert_eq!(app.db.count("select count(*) from leads where assigned_to is not null").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_is_given_to_another_when_whoever_has_it_leaves_has_too_many_or_lets_it_lie() {
    let app = TestApp::start().await;
    by_itself(&app.db).await;
    takes(&app.db, &SVEN, 10).await;
    come(&app.db, 1, 4).await;
    a_minute(&app).await;
    assert_eq!(app.db.count(&format!("select count(*) from leads where assigned_to = '{}'", SVEN.id)).await, 4);
    takes(&app.db, &DORA, 10).await;
    a_minute(&app).await;
    assert_eq!(app.db.count("select count(*) from lead_assignments").await, 4, "they are well where they are");

    // Let lie: with a note, or anything else that changed, it was not.
    for number in 1..=3 {
        long_ago(&app.db, number).await;
    }
    app.db
        .run(&format!("insert into lead_notes (org_id, lead_id, note) values ('{NORD}', '{}', 'Called.')", lead(1)))
        .await;
    app.db.run(&format!("update leads set status = 'contacted' where id = '{}'", lead(2))).await;
    a_minute(&app).await;
    let holders = json!([holder(&app.db, 1).await, holder(&app.db, 2).await, holder(&app.db, 3).await]);
    assert_eq!(holders, json!([SVEN.id, SVEN.id, DORA.id]), "{}", app.logs());
    let ended = one(
        &app.db,
        "select jsonb_agg(jsonb_build_array(user_id, end_reason)) from lead_assignments where ended_at is not null",
    )
    .await;
    assert_eq!(ended, json!([[SVEN.id, "waited"]]));
    // She lets it lie too; he did before, so that it stays until there is a third.
    long_ago(&app.db, 3).await;
    a_minute(&app).await;
    assert_eq!(holder(&app.db, 3).await, json!(DORA.id));
    takes(&app.db, &ADAM, 1).await;
    a_minute(&app).await;
    assert_eq!(holder(&app.db, 3).await, json!(ADAM.id));

    // Too many: the one given last goes.
    app.db.run(&format!("update lead_capacity set max_open = 2 where user_id = '{}'", SVEN.id)).await;
    let last = one(
        &app.db,
        &format!("select id from leads where assigned_to = '{}' order by assigned_at desc, id desc limit 1", SVEN.id),
    )
    .await;
    a_minute(&app).await;
    assert_eq!(
        one(&app.db, &format!("select assigned_to from leads where id = {}", last.to_string().replace('"', "'"))).await,
        json!(DORA.id)
    );
    assert_eq!(app.db.count(&format!("select count(*) from leads where assigned_to = '{}'", SVEN.id)).await, 2);
    // Given a lead by hand who takes none: what they have stays.
    come(&app.db, 8, 1).await;
    app.db.run(&format!("update leads set assigned_to = '{}' where id = '{}'", OLGA.id, lead(8))).await;
    a_minute(&app).await;
    assert_eq!(app.db.count(&format!("select count(*) from leads where assigned_to = '{}'", SVEN.id)).await, 2);
    assert_eq!(holder(&app.db, 8).await, json!(OLGA.id));
    // Left: it is free at once, and somebody's a minute later.
    app.db
        .run(&format!(
            "update lead_capacity set max_open = 3 where user_id = '{}'; delete from org_members where user_id = '{}'",
            SVEN.id, DORA.id
        ))
        .await;
    assert_eq!(app.db.count("select count(*) from leads where assigned_to is null").await, 1);
    a_minute(&app).await;
    assert_eq!(app.db.count(&format!("select count(*) from leads where assigned_to = '{}'", SVEN.id)).await, 3);
    let reasons = one(&app.db, "select jsonb_object_agg(end_reason, n) from (select end_reason, count(*) as n from lead_assignments where ended_at is not null group by 1) x").await;
    assert_eq!(reasons, json!({ "waited": 2, "over_capacity": 1, "left": 1 }));
    let told = one(&app.db, "select jsonb_object_agg(action, n) from (select action, count(*) as n from audit_log where action like 'lead.%' group by 1) x").await;
    assert_eq!(told, json!({ "lead.assigned": 5, "lead.reassigned": 3 }));
    // One touch is not enough for ever.
    long_ago(&app.db, 2).await;
    app.db.run(&format!("update lead_capacity set max_open = 9 where user_id = '{}'", ADAM.id)).await;
    a_minute(&app).await;
    assert_eq!(holder(&app.db, 2).await, json!(ADAM.id));
    // Whoever has it now is told nothing of how many the one before had.
    let adams = app.db.ask(&Actor::person(&SVEN), "select user_id from lead_assignments").await.unwrap();
    assert!(adams.as_array().unwrap().iter().all(|row| row["user_id"] == json!(SVEN.id)), "{adams}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_open_leads_of_an_absent_person_go_to_others_at_once_by_the_schedule_and_by_hand() {
    let app = TestApp::start().await;
    let (olga, moving) = (app.token(&OLGA), "/v1/leads/assignments/move");
    let of =
        async |person: Uuid| app.db.count(&format!("select count(*) from leads where assigned_to = '{person}'")).await;
    let away = async |person: Uuid, available: bool| {
        app.db.run(&format!("update lead_capacity set available = {available} where user_id = '{person}'")).await;
    };
    set(&app.db, "enabled, ai_bound", "false, 0").await;
    takes(&app.db, &SVEN, 9).await;
    takes(&app.db, &DORA, 2).await;
    come(&app.db, 1, 4).await;
    app.db
        .run(&format!(
            "update leads set assigned_to = '{}'; update leads set status = 'won', closed_at = now() where id = '{}'",
            SVEN.id,
            lead(4)
        ))
        .await;
    // By hand, of those who are absent, by those who manage leads.
    let body = json!({ "user_id": SVEN.id });
    app.post(moving, &olga, &body).await.expect_error(409, "person_not_absent");
    app.post(moving, &olga, &json!({ "user_id": OLGA.id })).await.expect_error(404, "person_not_found");
    away(SVEN.id, false).await;
    app.post(moving, &app.token(&SVEN), &body).await.expect_error(403, "permission_missing");
    let moved = app.post(moving, &olga, &body).await.expect(200);
    assert_eq!(
        (&moved["queued"], &moved["left"], moved["jobs"].as_array().map(Vec::len)),
        (&json!(3), &json!(0), Some(3)),
        "{moved}"
    );
    assert_eq!(app.post(moving, &olga, &body).await.expect(200)["queued"], 0);
    app.stack.leads.drained().await;
    // As many as the others take; the third waits, and what has ended is nobody's to move.
    assert_eq!((of(DORA.id).await, of(SVEN.id).await), (2, 2), "{}", app.logs());
    let ended = "select count(*) from lead_assignments where reason ->> 'why' = 'absent'";
    assert_eq!(app.db.count(ended).await, 2);
    assert_eq!(app.db.count("select count(*) from jobs where status = 'queued' and wait_reason is not null").await, 1);
    // By the schedule, without any patience.
    away(SVEN.id, true).await;
    app.db
        .run("delete from jobs; update lead_assignment_settings set enabled = true, min_auc = null, max_brier = null")
        .await;
    a_minute(&app).await;
    assert_eq!(of(DORA.id).await, 2);
    away(DORA.id, false).await;
    a_minute(&app).await;
    assert_eq!((of(DORA.id).await, of(SVEN.id).await), (0, 4), "{}", app.logs());
    assert_eq!(app.db.count("select count(*) from lead_assignments where end_reason = 'absent'").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_let_a_lead_lie_is_found_again_once_nobody_has_it_and_no_model_is_paid_while_it_waits() {
    let app = TestApp::start().await;
    set(
        &app.db,
        "enabled, min_auc, max_brier, ai_bound, patience_hours, work_days, work_from, work_until",
        "true, null, null, 10, 24, '{1,2,3,4,5,6,7}', '00:00', '24:00'",
    )
    .await;
    takes(&app.db, &SVEN, 10).await;
    takes(&app.db, &DORA, 9).await;
    come(&app.db, 1, 1).await;
    a_minute(&app).await;
    long_ago(&app.db, 1).await;
    a_minute(&app).await;
    let second = holder(&app.db, 1).await;
    assert_eq!(app.db.count("select count(*) from lead_assignments where end_reason = 'waited'").await, 1);
    let asked = app.stack.sandbox.anthropic.asked().len();
    // Both have let it lie: it stays, and nobody is asked about it.
    long_ago(&app.db, 1).await;
    for _ in 0..3 {
        a_minute(&app).await;
    }
    assert_eq!(holder(&app.db, 1).await, second);
    let waits = "select count(*) from jobs where status = 'queued' and wait_reason ->> 'reason' = 'everybody_had_it'";
    assert_eq!(app.db.count(waits).await, 1, "{}", app.logs());
    assert_eq!(app.stack.sandbox.anthropic.asked().len(), asked);
    // The second leaves: better the first again than nobody.
    app.db.run(&format!("delete from org_members where user_id = {}", second.to_string().replace('"', "'"))).await;
    a_minute(&app).await;
    let first = if second == json!(SVEN.id) { DORA.id } else { SVEN.id };
    assert_eq!(holder(&app.db, 1).await, json!(first), "{}", app.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_schedule_has_waiting_stops_with_it_and_what_somebody_asked_for_does_not() {
    let app = TestApp::start().await;
    by_itself(&app.db).await;
    takes(&app.db, &SVEN, 0).await;
    come(&app.db, 1, 2).await;
    ask(&app, &app.token(&OLGA), lead(1)).await.expect(202);
    a_minute(&app).await;
    assert_eq!(app.db.count("select count(*) from jobs where status = 'queued' and wait_reason is not null").await, 2);
    app.db.run("update lead_assignment_settings set enabled = false; update lead_capacity set max_open = 5").await;
    a_minute(&app).await;
    assert_eq!((holder(&app.db, 1).await, holder(&app.db, 2).await), (json!(SVEN.id), Value::Null), "{}", app.logs());
    assert_eq!(app.db.count("select count(*) from jobs where status = 'cancelled'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_leads_are_scored_as_they_come_and_the_best_gets_the_place_that_becomes_free() {
    let app = TestApp::start().await;
    by_itself(&app.db).await;
    takes(&app.db, &SVEN, 0).await;
    app.db
        .run(&format!(
            "insert into leads (id, org_id, client_name, source, email, phone) values
                 ('{}', '{NORD}', 'One', 'other', null, null), ('{}', '{NORD}', 'Two', 'referral', 'a@b.example', '1')",
            lead(1),
            lead(2)
        ))
        .await;
    a_minute(&app).await;
    assert_eq!(app.db.count("select count(*) from lead_scoring where model = 'rules'").await, 2, "{}", app.logs());
    assert_eq!(app.db.count("select count(*) from jobs where status = 'queued' and run_after > now()").await, 2);
    // Room for one: the schedule wakes one, and no sooner than five minutes after it was looked at.
    app.db.run("update lead_capacity set max_open = 1").await;
    let woken = app.stack.look_after_leads().await.unwrap();
    assert_eq!(woken["leads_woken"], 0, "{woken}");
    app.db
        .run("update jobs set wait_reason = wait_reason || jsonb_build_object('at', now() - interval '6 minutes')")
        .await;
    let woken = app.stack.look_after_leads().await.unwrap();
    assert_eq!(woken["leads_woken"], 1, "{woken}");
    app.stack.sweep().await.unwrap();
    app.stack.leads.drained().await;
    assert_eq!((holder(&app.db, 1).await, holder(&app.db, 2).await), (Value::Null, json!(SVEN.id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_was_left_to_lie_goes_to_whoever_was_given_one_longest_ago() {
    let db = TestDatabase::new(Server::Postgres18).await;
    by_itself(&db).await;
    takes(&db, &SVEN, 100).await;
    takes(&db, &ADAM, 10).await;
    takes(&db, &DORA, 10).await;
    // Both have half of their places taken; Adam was given his a while ago, Dora hers before that.
    come(&db, 1, 11).await;
    db.run(&format!(
        "update leads set assigned_to = case when id = '{0}' then '{SVEN}'::uuid when id < '{1}' then '{DORA}'::uuid else '{ADAM}'::uuid end;
         insert into lead_assignments (org_id, lead_id, user_id, score, decided_by, reason, candidates, created_at)
         select '{NORD}', id, assigned_to, 1, 'rules', '{{}}', '[]', case assigned_to when '{DORA}' then '2020-01-02' else '2020-01-03' end::timestamptz from leads",
        lead(11), lead(6), SVEN = SVEN.id, DORA = DORA.id, ADAM = ADAM.id
    ))
    .await;
    long_ago(&db, 11).await;
    let call = format!("select app.assign_lead('{}', null) as it", lead(11));
    let given = db.ask(&Actor::service(NORD), &call).await.unwrap();
    assert_eq!(given[0]["it"]["assignment"]["assigned_to"], json!(DORA.id), "{given}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_people_can_be_weighed() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(&format!(
        "set session_replication_role = replica;
         insert into profiles (id, email) select gen_random_uuid(), n || '@many.example' from generate_series(1, 1200) n;
         insert into org_members (org_id, user_id, role_id) select '{NORD}', id, '00000000-0000-7000-8000-000000000004' from profiles where email like '%@many.example';
         insert into lead_capacity (org_id, user_id, max_open) select '{NORD}', id, 5 from profiles where email like '%@many.example'"
    ))
    .await;
    come(&db, 1, 1).await;
    let call = format!("select app.assign_lead('{}', null) as it", lead(1));
    let given = db.ask(&Actor::service(NORD), &call).await.unwrap();
    assert_eq!(given[0]["it"]["outcome"], "assigned", "{given}");
    let told = one(&db, "select jsonb_build_array(decision -> 'people', jsonb_array_length(decision -> 'weighed')) from audit_log where action = 'lead.assigned'").await;
    assert_eq!(told, json!([1200, 100]));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_at_once_give_a_lead_once() {
    let db = TestDatabase::new(Server::Postgres18).await;
    takes(&db, &SVEN, 10).await;
    takes(&db, &DORA, 10).await;
    come(&db, 1, 1).await;
    let call = format!("select app.assign_lead('{}', null) as it", lead(1));
    for outcome in ["assigned", "reassigned"] {
        let mut first = db.begin_as(&Actor::service(NORD)).await;
        let given = asked(&mut first, &call).await.unwrap()[0]["it"].clone();
        assert_eq!(given["outcome"], outcome);
        let mut second = db.begin_as(&Actor::service(NORD)).await;
        let waiter = pid(&mut second).await;
        let call = call.clone();
        let found = tokio::spawn(async move {
            let found = asked(&mut second, &call).await;
            second.execute("commit").await.unwrap();
            found
        });
        db.until_blocked(waiter).await;
        first.execute("commit").await.unwrap();
        let found = found.await.unwrap().unwrap()[0]["it"].clone();
        assert_eq!((&found["outcome"], &found["assignment"]), (&json!("already_assigned"), &given["assignment"]));
        let user: Uuid = given["assignment"]["assigned_to"].as_str().unwrap().parse().unwrap();
        db.run(&format!("update lead_capacity set max_open = 0 where user_id = '{user}'")).await;
    }
    assert_eq!(db.count("select count(*) from lead_assignments").await, 2);
    // Another organisation's work waits for nobody here.
    let mut ours = db.begin_as(&Actor::service(NORD)).await;
    asked(&mut ours, &call).await.unwrap();
    let mut theirs = db.begin_as(&Actor::service(BRICK)).await;
    theirs.execute("set local lock_timeout = '1s'").await.unwrap();
    assert_eq!(asked(&mut theirs, &call).await.unwrap()[0]["it"]["outcome"], "lead_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_leaves_while_a_lead_is_given_to_them_is_passed_over() {
    let db = TestDatabase::new(Server::Postgres18).await;
    takes(&db, &SVEN, 10).await;
    takes(&db, &DORA, 100).await;
    db.run("update lead_capacity set skills = '{kitchens}' where max_open = 10").await;
    come(&db, 1, 1).await;
    db.run("update leads set wanted_skills = '{kitchens}'").await;
    let mut leaving = db.admin().await;
    leaving.execute("begin").await.unwrap();
    leaving
        .execute(sqlx::AssertSqlSafe(format!("delete from org_members where user_id = '{}'", SVEN.id)))
        .await
        .unwrap();
    let mut giving = db.begin_as(&Actor::service(NORD)).await;
    let waiter = pid(&mut giving).await;
    let call = format!("select app.assign_lead('{}', null) as it", lead(1));
    let given = tokio::spawn(async move {
        let given = asked(&mut giving, &call).await;
        giving.execute("commit").await.unwrap();
        given
    });
    db.until_blocked(waiter).await;
    leaving.execute("commit").await.unwrap();
    let given = given.await.unwrap().unwrap();
    assert_eq!(given[0]["it"]["assignment"]["assigned_to"], json!(DORA.id), "{given}");
    whole(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_ends_or_goes_while_its_job_waits_ends_the_job() {
    let app = TestApp::start().await;
    come(&app.db, 1, 2).await;
    let olga = app.token(&OLGA);
    let mut jobs = Vec::new();
    for number in 1..=2 {
        jobs.push(ask(&app, &olga, lead(number)).await.expect(202)["job"]["href"].as_str().unwrap().to_owned());
    }
    app.db
        .run(&format!(
            "update leads set status = 'won', closed_at = now() where id = '{}'; delete from leads where id = '{}'",
            lead(1),
            lead(2)
        ))
        .await;
    a_minute(&app).await;
    for (job, code) in jobs.iter().zip(["lead_closed", "lead_not_found"]) {
        let job = app.get(job, &olga).await.expect(200);
        assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!(code)), "{job}");
    }
}
