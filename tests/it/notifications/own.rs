//! A notification is one person's: to read, to mark as read, and to want or not.

use integration_tests::{
    Server, TestDatabase,
    acting::{Actor, attempt},
    people::{ADAM, BRICK, CLEO, DORA, NORD, OLGA, RENATA, UMA},
};
use serde_json::json;

use super::{notified, notify, texts};

#[tokio::test(flavor = "multi_thread")]
async fn a_person_reads_and_marks_as_read_their_own_alone() {
    let db = TestDatabase::new(Server::Postgres18).await;
    for (user, key) in [(DORA.id, "a"), (DORA.id, "b"), (OLGA.id, "a")] {
        assert!(notify(&db, NORD, user, "approval_waits", key).await);
    }
    // Cleo works for both organisations, and reads the notifications of the one she works in.
    for org in [NORD, BRICK] {
        assert!(notify(&db, org, CLEO.id, "approval_waits", "c").await);
    }
    let read = "update public.notifications set read_at = now()";
    let count = "select count(*) as it from public.notifications";
    for (person, own) in [(&DORA, 2), (&OLGA, 1), (&ADAM, 0), (&CLEO, 1), (&UMA, 0)] {
        for actor in [Actor::person(person), Actor::person(person).in_function()] {
            assert_eq!(db.ask(&actor, count).await.unwrap(), json!([{ "it": own }]), "{}", actor.name);
            assert_eq!(db.change(&actor, read).await, Ok(own), "{}", actor.name);
        }
    }
    let dora = Actor::person(&DORA);
    let mut conn = db.begin_as(&dora).await;
    for statement in [
        format!(
            "insert into public.notifications (org_id, user_id, kind, event) values ('{NORD}', '{}', 'limit_near', 'k')",
            DORA.id
        ),
        "update public.notifications set subject = '{}'".to_owned(),
        "update public.notifications set shown = false".to_owned(),
        format!("update public.notifications set user_id = '{}'", OLGA.id),
        "delete from public.notifications".to_owned(),
    ] {
        let refused = attempt(&mut conn, &statement).await.map_err(|refusal| refusal.state);
        assert_eq!(refused, Err("42501".to_owned()), "{statement}");
    }
    for actor in [Actor::role("anon"), Actor::service(NORD), db.agent(&RENATA).await] {
        for table in ["notifications", "notification_preferences"] {
            let seen = db.ask(&actor, &format!("select from public.{table}")).await.map_err(|refusal| refusal.state);
            assert_eq!(seen, Err("42501".to_owned()), "{} {table}", actor.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_says_where_they_want_to_hear_of_each_kind() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let dora = Actor::person(&DORA);
    for (kind, in_app, mail, comes) in [
        ("approval_waits", true, false, "dora approval_waits"),
        ("job_failed", true, true, "dora job_failed mail"),
        ("limit_near", false, true, "dora limit_near mail"),
    ] {
        let prefer = format!(
            "insert into public.notification_preferences (org_id, user_id, kind, in_app, mail) values ('{NORD}', '{}', '{kind}', {in_app}, {mail})",
            DORA.id
        );
        assert_eq!(db.change(&dora, &prefer).await, Ok(1));
        assert!(notify(&db, NORD, DORA.id, kind, "k").await);
        assert_eq!(notified(&db).await, [comes]);
        let shown = db.ask(&dora, "select kind from public.notifications").await.unwrap();
        assert_eq!(shown.as_array().unwrap().len(), usize::from(in_app), "{kind}");
        db.run("delete from notifications; delete from outbox").await;
    }
    let neither = "update public.notification_preferences set in_app = false, mail = false where kind = 'limit_near'";
    assert_eq!(db.change(&dora, neither).await, Ok(1));
    assert!(!notify(&db, NORD, DORA.id, "limit_near", "other").await);
    // What she wants is hers: not another's to see or set, and not what others are notified by.
    let olga = Actor::person(&OLGA);
    for verb in
        ["update public.notification_preferences set mail = true", "delete from public.notification_preferences"]
    {
        assert_eq!(db.change(&olga, verb).await, Ok(0), "{verb}");
    }
    let for_another = format!(
        "insert into public.notification_preferences (org_id, user_id, kind, in_app, mail) values ('{NORD}', '{}', 'invitation', false, false)",
        ADAM.id
    );
    assert_eq!(db.change(&olga, &for_another).await.map_err(|refusal| refusal.state), Err("42501".to_owned()));
    assert!(notify(&db, NORD, OLGA.id, "limit_near", "other").await);
    assert_eq!(notified(&db).await, ["olga limit_near mail"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_is_broadcast_to_its_person_alone() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.connect_to_realtime().await;
    assert!(notify(&db, NORD, DORA.id, "approval_waits", "a").await);
    let topic = |person: uuid::Uuid| format!("org:{NORD}:notifications:{person}");
    let sent =
        "select topic || ' ' || (payload ->> 'operation') || ' ' || (payload ->> 'count') as it from realtime.messages
                 where topic like '%notifications%' order by 1";
    assert_eq!(texts(&db, sent).await, [format!("{} INSERT 1", topic(DORA.id))]);
    let told = db.text("select payload::text from realtime.messages where topic like '%notifications%'").await;
    assert!(!told.contains("approval"), "{told}");
    for (actor, hears) in [(&DORA, true), (&OLGA, false), (&CLEO, false)] {
        let asked = format!("select app.may_hear('{}') as it", topic(DORA.id));
        let answer = db.ask(&Actor::person(actor).in_function(), &asked).await.unwrap();
        assert_eq!(answer, json!([{ "it": hears }]), "{}", actor.email);
    }
    // One that the app does not show is not announced either.
    let prefer = format!(
        "insert into notification_preferences (org_id, user_id, kind, in_app, mail) values ('{NORD}', '{}', 'limit_near', false, true)",
        DORA.id
    );
    db.run(&prefer).await;
    assert!(notify(&db, NORD, DORA.id, "limit_near", "a").await);
    assert_eq!(texts(&db, sent).await.len(), 1);
    let read = "update public.notifications set read_at = now()";
    assert_eq!(db.change(&Actor::person(&DORA), read).await, Ok(1));
    assert_eq!(texts(&db, sent).await[1], format!("{} UPDATE 1", topic(DORA.id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_of_the_outside_notifies_anybody() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let calls = [
        format!("app.notify('{NORD}', '{}', 'limit_near', '{{}}', 'k')", OLGA.id),
        format!("app.notify_people('{NORD}', array['{}']::uuid[], 'limit_near', '{{}}', 'k')", OLGA.id),
        format!("app.notify_holders('{NORD}', 'limits:read', 'limit_near', '{{}}', 'k')"),
        format!("app.holders('{NORD}', 'limits:read')"),
        "app.claim_mails(1)".to_owned(),
        "app.due_mail_orgs(1)".to_owned(),
        "app.count_approvals()".to_owned(),
    ];
    let people = [&OLGA, &ADAM, &UMA].map(Actor::person);
    let in_functions = people.clone().map(Actor::in_function);
    let agent = db.agent(&RENATA).await;
    for actor in people.into_iter().chain(in_functions).chain([Actor::role("anon"), agent]) {
        for call in &calls {
            let refused = db.ask(&actor, &format!("select {call}")).await.map_err(|refusal| refusal.state);
            assert_eq!(refused, Err("42501".to_owned()), "{} ({}): {call}", actor.name, actor.role);
        }
    }
    let service = Actor::service(NORD);
    for call in &calls[..4] {
        let refused = db.ask(&service, &format!("select {call}")).await.map_err(|refusal| refusal.state);
        assert_eq!(refused, Err("42501".to_owned()), "{call}");
    }
}
