//! Each kind is caused in the transaction of its event, and reaches those whom it concerns and nobody else.

use integration_tests::{
    Server, TestDatabase,
    acting::{Actor, asked},
    people::{ADAM, BRICK, CLEO, DORA, LIVING, NORD, OLGA, RENATA, UMA},
};
use serde_json::json;
use sqlx::Executor;

use super::{notified, notify, texts};
use crate::approvals::{ANNA, approve, books, call, digest, propose, proposed, voucher};

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_approval_is_shown_and_mailed_to_those_who_may_approve_and_not_to_who_proposed() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    let id = proposed(&db).await;
    assert_eq!(
        notified(&db).await,
        ["adam approval_waits mail", "olga approval_waits mail", "sven approval_waits mail"]
    );
    let said = "select subject::text as it from notifications group by subject";
    let subject = json!({ "approval_id": id, "client_id": LIVING, "kind": "voucher" });
    assert_eq!(texts(&db, said).await, [db.text(&format!("select '{subject}'::jsonb::text")).await]);
    // Adam may approve as well, but not what he proposes.
    db.run("delete from notifications; delete from outbox").await;
    call(&db, &Actor::person(&ADAM), &propose(LIVING, &voucher())).await;
    assert_eq!(notified(&db).await, ["olga approval_waits mail", "sven approval_waits mail"]);
    // Where one's own proposals are allowed, he is asked too.
    db.run("delete from notifications; delete from outbox").await;
    call(&db, &Actor::person(&OLGA), "public.allow_own_approvals(true)").await;
    call(&db, &Actor::person(&ADAM), &propose(LIVING, &voucher())).await;
    assert_eq!(notified(&db).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_and_its_mail_are_taken_back_with_what_caused_them() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    let mut cleo = db.begin_as(&Actor::person(&CLEO)).await;
    asked(&mut cleo, &format!("select {}", propose(LIVING, &voucher()))).await.unwrap();
    cleo.execute("rollback").await.unwrap();
    assert_eq!(db.count("select (select count(*) from notifications) + (select count(*) from outbox)").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overdue_approval_reaches_the_approver_and_a_failed_one_both_who_were_part_of_it() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    let id = proposed(&db).await;
    let anna = Actor::person(&ANNA);
    let shown = digest(&db, &anna, id).await;
    call(&db, &anna, &approve(id, &shown)).await;
    // She may approve no more: it is hers all the same.
    db.run(&format!(
        "update org_members set role_id = '00000000-0000-7000-8000-000000000004' where user_id = '{}';
         delete from notifications; delete from outbox;
         set session_replication_role = replica; update approvals set decided_at = now() - interval '61 minutes'",
        ANNA.id
    ))
    .await;
    let service = Actor::service(NORD);
    for overdue in [1, 0] {
        assert_eq!(call(&db, &service, "(select overdue from app.age_approvals())").await, overdue);
    }
    assert_eq!(
        notified(&db).await,
        ["adam approval_overdue mail", "olga approval_overdue mail", "sven approval_overdue mail"]
    );
    // Its outcome is unknown, then it is known to have failed: each is an event of its own.
    db.run("delete from notifications; delete from outbox").await;
    for (status, count) in [("executing", 0), ("unknown", 2), ("executing", 2), ("unknown", 2), ("failed", 4)] {
        db.run(&format!("update approvals set status = '{status}', began_at = now()")).await;
        assert_eq!(notified(&db).await.len(), count, "{status}");
    }
    let all = notified(&db).await;
    assert_eq!(all.iter().filter(|it| *it == "cleo approval_failed mail").count(), 2, "{all:?}");
    assert_eq!(all.iter().filter(|it| *it == "sven approval_failed mail").count(), 2, "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_needs_a_person_reaches_those_who_manage_connections_once_for_each_loss() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    let set = async |status: &str, version: i32| {
        let set = format!("update public.org_integrations set status = '{status}', token_version = {version}");
        assert_eq!(db.change(&Actor::service(NORD), &set).await, Ok(1));
    };
    set("reconnect", 1).await;
    set("reconnect", 1).await;
    let all = ["adam", "olga", "sven"].map(|name| format!("{name} connection_needs_person mail"));
    assert_eq!(notified(&db).await, all);
    set("connected", 2).await;
    assert_eq!(notified(&db).await, all);
    set("reconnect", 2).await;
    assert_eq!(notified(&db).await.len(), 6);
    // A person took it away themselves.
    set("disconnected", 2).await;
    assert_eq!(notified(&db).await.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_near_or_reached_reaches_those_who_see_limits_once_for_a_window() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(&format!(
        "delete from agent_limits where org_id = '{NORD}';
         insert into agent_limits (org_id, agent, scope, period, max_requests, warn_percent) values ('{NORD}', 'renderer', 'agent', 'day', 3, 60);
         insert into jobs (id, org_id, job_type) select ('01900000-0000-7000-8000-00000000f00' || n)::uuid, '{NORD}', 'render' from generate_series(1, 5) n"
    ))
    .await;
    let service = Actor::service(NORD);
    for (job, count) in [(1, 0), (2, 2), (3, 2), (4, 4), (5, 4)] {
        let reserve = format!(
            "select reached_scope from app.reserve_usage('01900000-0000-7000-8000-00000000f00{job}', 'renderer', null, null, 1, 0, 0)"
        );
        db.ask(&service, &reserve).await.unwrap();
        assert_eq!(notified(&db).await.len(), count, "{job}: {:?}", notified(&db).await);
    }
    assert_eq!(notified(&db).await[..2], ["adam limit_near mail", "adam limit_near mail"]);
    let reached = "select n.subject ->> 'reached' || ' ' || (n.subject ->> 'agent') as it from notifications n join profiles p on p.id = n.user_id
                    where p.email like 'olga%' order by 1";
    assert_eq!(texts(&db, reached).await, ["false renderer", "true renderer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_reaches_the_person_who_asked_for_it_in_the_app_alone() {
    let db = TestDatabase::new(Server::Postgres18).await;
    for asker in [DORA.id, RENATA.id, UMA.id] {
        db.run(&format!("insert into jobs (org_id, job_type, created_by) values ('{NORD}', 'render', '{asker}')"))
            .await;
    }
    db.run(&format!("insert into jobs (org_id, job_type) values ('{NORD}', 'render')")).await;
    let service = Actor::service(NORD);
    for (status, count) in [("cancelled", 0), ("queued", 0), ("failed", 2), ("queued", 2), ("failed", 2)] {
        let set = format!("update public.jobs set status = '{status}'");
        assert_eq!(db.change(&service, &set).await, Ok(4));
        assert_eq!(notified(&db).await.len(), count, "{status}");
    }
    assert_eq!(notified(&db).await, ["dora job_failed", "uma job_failed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_mailed_to_its_address_and_shown_to_the_person_who_has_it() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let adam = Actor::person(&ADAM);
    let mut tokens = Vec::new();
    for address in ["New@consultants.example", "dan@brick-and-beam.example"] {
        let made =
            db.ask(&adam, &format!("select token from public.create_invitation('consultant', '{address}')")).await;
        tokens.push(made.unwrap()[0]["token"].as_str().unwrap().to_owned());
    }
    assert_eq!(notified(&db).await, ["dan invitation"]);
    let mails = "select payload ->> 'kind' || ' ' || (destination = i.id::text) as it from outbox o join invitations i on i.id::text = o.destination";
    assert_eq!(texts(&db, mails).await, ["invitation true", "invitation true"]);
    // What waits to be mailed says neither the address nor what lets one in.
    let kept = db
        .text("select string_agg(o::text, ' ') || (select string_agg(n::text, ' ') from notifications n) from outbox o")
        .await;
    assert!(!kept.contains('@') && tokens.iter().all(|token| !kept.contains(token)), "{kept}");
    let seen = "select subject ->> 'organization' as it from public.notifications";
    let dan = Actor::person(&integration_tests::people::DAN);
    assert_eq!(db.ask(&dan, seen).await.unwrap(), json!([{ "it": "Atelier Nord" }]));
    assert_eq!(db.ask(&adam, seen).await.unwrap(), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_goes_wrong_with_a_notification_fails_what_causes_it() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    db.run("alter table outbox add constraint broken check (kind <> 'mail')").await;
    let id = proposed(&db).await;
    db.ask(&Actor::person(&ADAM), "select public.create_invitation('consultant', 'new@consultants.example')")
        .await
        .unwrap();
    let kept = format!(
        "select (select count(*) from approvals where id = '{id}') + (select count(*) from invitations)
                + (select count(*) from notifications)"
    );
    assert_eq!(db.count(&kept).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_two_hundred_people_are_notified_of_one_event_those_who_came_first() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(&format!(
        "insert into auth.users (id, email) select app.uuidv7(), n || '@nord.example' from generate_series(1, 250) n;
         insert into org_members (org_id, user_id, role_id, created_at)
         select '{NORD}', id, '00000000-0000-7000-8000-000000000002', now() + split_part(email, '@', 1)::integer * interval '1 second'
           from profiles where email ~ '^[0-9]'"
    ))
    .await;
    let call = format!("select app.notify_holders('{NORD}', 'limits:read', 'limit_near', '{{}}', 'k') as it");
    assert_eq!(db.ask(&Actor::role("spine_definer"), &call).await.unwrap(), json!([{ "it": 200 }]));
    let last = "select max(split_part(p.email, '@', 1)::integer) from notifications n join profiles p on p.id = n.user_id where p.email ~ '^[0-9]'";
    assert_eq!(db.count(&format!("select ({last})::bigint")).await, 198);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_of_another_organisation_is_notified_and_nobody_who_does_not_belong() {
    let db = TestDatabase::new(Server::Postgres18).await;
    books(&db).await;
    for (actor, client) in [(&CLEO, LIVING), (&integration_tests::people::OSCAR, integration_tests::people::HOTELS)] {
        call(&db, &Actor::person(actor), &propose(client, &voucher())).await;
    }
    let apart = "select o.slug || ' ' || string_agg(split_part(p.email, '@', 1), ' ' order by p.email) as it
                   from notifications n join organizations o on o.id = n.org_id join profiles p on p.id = n.user_id group by o.slug order by 1";
    assert_eq!(texts(&db, apart).await, ["atelier-nord adam olga sven", "brick-and-beam ada"]);
    assert!(!notify(&db, BRICK, DORA.id, "approval_waits", "x").await);
    assert!(notify(&db, NORD, DORA.id, "approval_waits", "x").await);
    // Said twice, it is one notification.
    assert!(!notify(&db, NORD, DORA.id, "approval_waits", "x").await);
}
