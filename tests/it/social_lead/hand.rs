//! A person makes a lead of a thread.

use chrono::{TimeDelta, Utc};
use futures::future::join_all;
use integration_tests::{
    Server, TestApp, TestDatabase,
    acting::Actor,
    people::{ADAM, BRICK, CLEO, DORA, NORD, OLGA, OSCAR, RENATA, SVEN, UMA},
};
use serde_json::json;
use shared::social::{Kind, Place, Thread};
use uuid::Uuid;

use super::{ACCOUNT, comment, made, make, merge, message, thread, value};
use crate::social_inbox::{accounts, door};

/// A conversation in which a person said how to reach them.
async fn written(db: &TestDatabase) -> Uuid {
    accounts(db, NORD, "instagram", &[(ACCOUNT, "1".to_owned())]).await;
    let at = Utc::now() - TimeDelta::minutes(10);
    let seen = [
        message("m1", "greta", at, "Hej! Vad kostar ett kök?"),
        message(
            "m2",
            "greta",
            at + TimeDelta::minutes(1),
            "Skriv till greta.lind@lakeside.example, eller ring 070-123 45 67.",
        ),
        message("m3", "greta", at + TimeDelta::minutes(2), "Annars annan@lakeside.example"),
    ];
    merge(&door(db).await, NORD, ACCOUNT, &seen).await;
    thread(db, "dm:greta").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_becomes_one_lead_with_what_its_writer_said_and_what_the_person_adds() {
    let app = TestApp::start().await;
    let id = written(&app.db).await;
    let fields =
        json!({ "territory": "North", "budget_minor": 5_000_000, "currency": "SEK", "wanted_skills": ["kitchens"] });
    let answer = make(&app, &OLGA, id, &fields).await.expect(200);
    assert_eq!(answer["thread"], json!({ "id": id, "href": format!("/v1/inbox/threads/{id}") }));
    let lead = "select to_jsonb(l) - 'id' - 'created_at' - 'updated_at' from leads l";
    assert_eq!(
        value(&app.db, lead).await,
        json!({
            "org_id": NORD, "client_name": "@greta", "email": "greta.lind@lakeside.example", "phone": "070-123 45 67",
            "source": "instagram", "budget_minor": 5_000_000, "currency": "SEK", "territory": "North", "wanted_skills": ["kitchens"],
            "assigned_to": null, "assigned_at": null, "status": "new", "last_contact_at": null, "closed_at": null
        })
    );
    // Again it is the same lead, as it is, for another person too.
    let again = make(&app, &ADAM, id, &json!({ "territory": "South" })).await.expect(200);
    assert_eq!(again, answer);
    assert_eq!(value(&app.db, "select jsonb_agg(territory) from leads").await, json!(["North"]));
    let who =
        value(&app.db, "select jsonb_agg(jsonb_build_array(thread_id, lead_id, made_by, rule_id)) from social_leads")
            .await;
    assert_eq!(who, json!([[id, answer["id"], OLGA.id, null]]));
    let logged = "select jsonb_agg(jsonb_build_array(action, actor, user_id) order by action) from audit_log
                   where action in ('leads.insert', 'social_leads.insert')";
    assert_eq!(
        value(&app.db, logged).await,
        json!([["leads.insert", "user", OLGA.id], ["social_leads.insert", "user", OLGA.id]])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_make_a_lead_of_one_thread_at_once_all_get_the_same() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let id = written(&db).await;
    let people = [&OLGA, &ADAM].map(Actor::person);
    let call = format!("select public.make_lead_of_thread('{id}') as it");
    let answers = join_all((0..20).map(|n| db.ask(&people[n % 2], &call))).await;
    let first = answers[0].clone().unwrap();
    assert!(answers.iter().all(|answer| answer.as_ref() == Ok(&first)), "{answers:?}");
    assert_eq!(db.count("select count(*) from leads").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_the_rights_to_create_leads_and_to_read_the_inbox() {
    let app = TestApp::start().await;
    let id = written(&app.db).await;
    for person in [&DORA, &SVEN, &CLEO, &UMA] {
        let refused = make(&app, person, id, &json!({})).await;
        assert_eq!(refused.status.as_u16(), 403, "{}: {}", person.email, refused.body);
    }
    make(&app, &OSCAR, id, &json!({})).await.expect_error(404, "thread_not_found");
    let agent = app.agent_token(&RENATA).await;
    app.post(&format!("/v1/inbox/threads/{id}/lead"), &agent, &json!({})).await.expect_error(403, "people_only");
    let call = format!("select public.make_lead_of_thread('{id}')");
    assert_eq!(app.db.ask(&Actor::role("anon"), &call).await.unwrap_err().state, "42501");
    assert_eq!(app.db.ask(&Actor::role("spine_agent"), &call).await.unwrap_err().state, "42501");
    // One of the two is not enough.
    app.db
        .run(&format!(
            "with role as (insert into roles (org_id, name) values ('{NORD}', 'special') returning id),
                  member as (update org_members set role_id = (select id from role) where org_id = '{NORD}' and user_id = '{}')
             insert into permissions (org_id, role_id, resource, action) select '{NORD}', id, 'leads', 'create' from role",
            SVEN.id
        ))
        .await;
    let refused = app.db.ask(&Actor::person(&SVEN), &call).await.unwrap_err();
    assert_eq!((&*refused.state, &*refused.code), ("PT403", "lead_not_allowed"));
    app.db.run("update permissions set resource = 'social', action = 'read' where resource = 'leads' and action = 'create'").await;
    make(&app, &SVEN, id, &json!({})).await.expect_error(403, "lead_not_allowed");
    assert_eq!(app.db.count("select count(*) from leads").await, 0);
    app.db
        .run("insert into permissions (org_id, role_id, resource, action) select org_id, role_id, 'leads', 'create' from permissions where resource = 'social' and org_id is not null")
        .await;
    make(&app, &SVEN, id, &json!({})).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_lead_is_refused_by_name() {
    let app = TestApp::start().await;
    let id = written(&app.db).await;
    make(&app, &OLGA, Uuid::now_v7(), &json!({})).await.expect_error(404, "thread_not_found");
    let olga = Actor::person(&OLGA);
    for fields in [
        json!([]),
        json!({ "name": "x" }),
        json!({ "email": "greta" }),
        json!({ "email": 1 }),
        json!({ "phone": "call me" }),
        json!({ "phone": "0".repeat(51) }),
        json!({ "territory": " " }),
        json!({ "territory": "x".repeat(101) }),
        json!({ "budget_minor": 1 }),
        json!({ "currency": "SEK" }),
        json!({ "budget_minor": 1, "currency": "kr" }),
        json!({ "budget_minor": -1, "currency": "SEK" }),
        json!({ "budget_minor": 1.5, "currency": "SEK" }),
        json!({ "budget_minor": "1", "currency": "SEK" }),
        json!({ "wanted_skills": "x" }),
        json!({ "wanted_skills": [1] }),
        json!({ "wanted_skills": [""] }),
        json!({ "wanted_skills": vec!["x"; 21] }),
        json!({ "wanted_skills": vec!["ö".repeat(100); 20] }),
    ] {
        let call = format!("select public.make_lead_of_thread('{id}', '{fields}')");
        let refused = app.db.ask(&olga, &call).await.unwrap_err();
        assert_eq!((&*refused.state, &*refused.code), ("PT422", "lead_fields_invalid"), "{fields}");
    }
    // A mention that says not who wrote it, and one whose writer has a name of blanks.
    let at = Utc::now() - TimeDelta::minutes(1);
    let mention = message("x1", "x", at, "@nord offert@lakeside.example");
    let place = mention.place.clone().map(|place| Place {
        kind: Kind::Mention,
        thread: Thread::Mention("9".to_owned()),
        ..place
    });
    let mention = shared::social::Observation { place, sender_id: None, sender_name: None, ..mention };
    let blank = shared::social::Observation { sender_name: Some(" ".to_owned()), ..message("x2", "p2", at, "hej") };
    merge(&door(&app.db).await, NORD, ACCOUNT, &[mention, blank]).await;
    let unknown = thread(&app.db, "mention:9").await;
    make(&app, &OLGA, unknown, &json!({})).await.expect_error(409, "contact_unknown");
    assert_eq!(app.db.count("select count(*) from leads").await, 0);
    let blank = thread(&app.db, "dm:p2").await;
    // What is null is not taken from the thread either.
    app.db.ask(&olga, &format!("select public.make_lead_of_thread('{id}', '{{\"email\": null}}')")).await.unwrap();
    make(&app, &OLGA, blank, &json!({ "email": "p@lakeside.example" })).await.expect(200);
    let leads =
        value(&app.db, "select jsonb_agg(jsonb_build_array(client_name, email, phone) order by created_at) from leads");
    assert_eq!(leads.await, json!([["@greta", null, "070-123 45 67"], ["p2", "p@lakeside.example", null]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_and_a_number_are_taken_where_they_have_the_usual_form_and_stand_alone() {
    let db = TestDatabase::new(Server::Postgres18).await;
    accounts(&db, NORD, "instagram", &[(ACCOUNT, "1".to_owned())]).await;
    let cases = [
        ("Jag nås på Greta.Lind+kok@lake-side.co.uk.", Some("Greta.Lind+kok@lake-side.co.uk"), None),
        ("(greta@lakeside.example)", Some("greta@lakeside.example"), None),
        ("@greta", None, None),
        ("greta@lakeside", None, None),
        ("öga@lakeside.example", None, None),
        ("a@b@lakeside.example", None, None),
        ("ring +46 70 123 45 67 ikväll", None, Some("+46 70 123 45 67")),
        ("ring 0046 (0)70-123 45 67!", None, Some("0046 (0)70-123 45 67")),
        ("+4712345678", None, Some("+4712345678")),
        ("tel:08-123 456", None, Some("08-123 456")),
        ("0701234567", None, Some("0701234567")),
        // A personal identity number, an organisation's number, a date, a price, an order.
        ("010101-1234", None, None),
        ("556012-3456", None, None),
        ("2026-01-15", None, None),
        ("kostar 12 000 kr", None, None),
        ("order 070123456789", None, None),
        ("ordernr A0701234567", None, None),
    ];
    let at = Utc::now() - TimeDelta::minutes(10);
    let seen: Vec<_> =
        cases.iter().enumerate().map(|(n, (text, ..))| message(&format!("m{n}"), &format!("p{n}"), at, text)).collect();
    let door = door(&db).await;
    merge(&door, NORD, ACCOUNT, &seen).await;
    for (n, (text, email, phone)) in cases.into_iter().enumerate() {
        let found = format!(
            "select jsonb_build_array(c.email, c.phone) from social_threads t, app.contact_in_thread(t) c where t.thread_id = 'dm:p{n}'"
        );
        assert_eq!(value(&db, &found).await, json!([email, phone]), "{text}");
    }
    // Not of who else writes below the comment, nor of the account itself.
    let own = comment("c3", "nord", at, "post@nord.example", Some("c1"));
    let own =
        shared::social::Observation { place: own.place.clone().map(|place| Place { outgoing: true, ..place }), ..own };
    let seen = [
        comment("c1", "greta", at, "Vad kostar den?", None),
        comment("c2", "other", at, "Skriv till other@lakeside.example", Some("c1")),
        own,
    ];
    merge(&door, NORD, ACCOUNT, &seen).await;
    let found = "select jsonb_build_array(c.email, t.counterpart_id) from social_threads t, app.contact_in_thread(t) c where t.thread_id = 'comment:c1'";
    assert_eq!(value(&db, found).await, json!([null, "greta"]));
    merge(&door, NORD, ACCOUNT, &[comment("c4", "greta", at, "greta@lakeside.example", Some("c1"))]).await;
    assert_eq!(value(&db, found).await, json!(["greta@lakeside.example", "greta"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_the_lead_or_the_thread_reads_which_belong_together_and_no_more() {
    let app = TestApp::start().await;
    let id = written(&app.db).await;
    let lead = make(&app, &OLGA, id, &json!({})).await.expect(200)["id"].clone();
    let link = "select thread_id, lead_id from public.social_leads";
    let both = json!([{ "thread_id": id, "lead_id": lead }]);
    let seen = async |actor: &Actor| app.db.ask(actor, link).await.unwrap();
    let sven = Actor::person(&SVEN);
    assert_eq!(seen(&Actor::person(&OLGA)).await, both);
    assert_eq!(seen(&sven).await, json!([]));
    assert_eq!(seen(&Actor::person(&OSCAR)).await, json!([]));
    app.db.run(&format!("update leads set assigned_to = '{}'", SVEN.id)).await;
    assert_eq!(seen(&sven).await, both);
    for table in ["social_threads", "social_messages"] {
        let rows = app.db.ask(&sven, &format!("select count(*) as it from public.{table}")).await.unwrap();
        assert_eq!(rows[0]["it"], 0, "{table}");
    }
    // People do not write it directly.
    for statement in [
        format!("insert into public.social_leads (org_id, thread_id) values ('{NORD}', '{id}')"),
        "update public.social_leads set lead_id = null".to_owned(),
        "delete from public.social_leads".to_owned(),
    ] {
        assert_eq!(app.db.change(&Actor::person(&OLGA), &statement).await.unwrap_err().state, "42501");
    }
    assert_eq!(app.db.count(&format!("select count(*) from leads where org_id = '{BRICK}'")).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_may_make_another_lead_where_the_first_was_deleted() {
    let app = TestApp::start().await;
    let id = written(&app.db).await;
    let first = make(&app, &OLGA, id, &json!({})).await.expect(200)["id"].clone();
    app.db.change(&Actor::person(&OLGA), "delete from public.leads").await.unwrap();
    assert_eq!(made(&app.db).await, json!([["dm:greta", null, true, false]]));
    let second = make(&app, &ADAM, id, &json!({})).await.expect(200)["id"].clone();
    assert_ne!(first, second);
    let by = value(&app.db, "select jsonb_agg(jsonb_build_array(lead_id, made_by)) from social_leads").await;
    assert_eq!(by, json!([[second, ADAM.id]]));
    // A thread that goes leaves the lead.
    app.db.run("delete from social_threads").await;
    assert_eq!(app.db.count("select count(*) from leads").await, 1);
    assert_eq!(app.db.count("select count(*) from social_leads").await, 0);
}
