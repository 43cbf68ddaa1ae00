//! Mail: what arrives, in whose language, and what becomes of it while the server is of no use.

use integration_tests::{
    TestApp,
    acting::Actor,
    people::{ADAM, DAN, DORA, NORD, OLGA},
};
use sandbox::{Calls, mail::Received};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{notify, texts};
use crate::{
    alarms,
    approvals::{ANNA, approve, books, call, digest, proposed},
};

const SUBJECT: &str = "01900000-0000-7000-8000-00000000abcd";

/// One sweep. How many mails the server took in it.
async fn swept(app: &TestApp) -> Value {
    let swept = app.stack.sweep().await.unwrap();
    assert!(swept["documents_delivered"].is_number(), "{swept} {}", app.logs());
    swept["mails_delivered"].clone()
}

/// Lets the time pass that a mail was put off by.
async fn time_passes(app: &TestApp) {
    app.db.run("update outbox set next_attempt_at = now() where delivered_at is null and dropped_at is null").await;
}

fn mails(app: &TestApp) -> Vec<Received> {
    app.stack.sandbox.mailbox.mails()
}

/// The token in the link of an invitation.
fn token(mail: &Received) -> String {
    let (_, link) = mail.text.split_once("http://localhost:3000/invitation#token=").unwrap();
    link.split_whitespace().next().unwrap().to_owned()
}

async fn invite(app: &TestApp, address: &str) {
    let invited = format!("select public.create_invitation('consultant', '{address}')");
    app.db.ask(&Actor::person(&ADAM), &invited).await.unwrap();
}

/// Somebody who has signed up with this address.
async fn newcomer(app: &TestApp, address: &str) -> Actor {
    let id = Uuid::now_v7();
    app.db.run(&format!("insert into auth.users (id, email) values ('{id}', '{address}')")).await;
    Actor::claiming(json!({ "sub": id, "email": address, "role": "authenticated" }))
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_arrives_in_the_language_of_the_person_with_a_link_and_once() {
    let app = TestApp::start().await;
    let swedish = "update public.profiles set language = 'sv'";
    assert_eq!(app.db.change(&Actor::person(&OLGA), swedish).await, Ok(1));
    for user in [DORA.id, OLGA.id] {
        assert!(notify(&app.db, NORD, user, "approval_waits", SUBJECT).await);
    }
    assert_eq!(swept(&app).await, 2, "{}", app.logs());
    let mut arrived = mails(&app);
    arrived.sort_by(|one, other| one.to.cmp(&other.to));
    let [dora, olga] = &arrived[..] else { panic!("{arrived:?}") };
    assert_eq!(
        (dora.to.as_slice(), dora.subject.as_str()),
        (&[DORA.email.to_owned()][..], "Atelier Nord: something waits for your approval")
    );
    assert_eq!(
        (olga.to.as_slice(), olga.subject.as_str()),
        (&[OLGA.email.to_owned()][..], "Atelier Nord: något väntar på ditt godkännande")
    );
    assert!(
        olga.text.contains("Något har föreslagits i Atelier Nord") && olga.html.contains("<p>Något har föreslagits"),
        "{olga:?}"
    );
    for mail in &arrived {
        assert_eq!(
            (mail.from.as_str(), mail.header("From")),
            ("no-reply@spine.example", Some("Spine <no-reply@spine.example>"))
        );
        assert!(mail.text.contains(&format!("http://localhost:3000/approvals/{SUBJECT}")), "{mail:?}");
        assert_eq!(mail.header("Auto-Submitted"), Some("auto-generated"));
        let id = format!(
            "select '<' || n.id || '@spine.example>' from notifications n join profiles p on p.id = n.user_id where p.email = '{}'",
            mail.to[0]
        );
        assert_eq!(mail.header("Message-ID"), Some(app.db.text(&id).await.as_str()));
        // Nobody else is named in it.
        let whole = format!("{mail:?}");
        assert!(
            !["Adam", "adam@", "Dora", "Olga"].iter().any(|name| whole.replace(&mail.to[0], "").contains(name)),
            "{whole}"
        );
    }
    assert_eq!(swept(&app).await, 0);
    assert_eq!(mails(&app).len(), 2);
    // Neither in the outbox nor in the log stands an address.
    let kept = app.db.text("select string_agg(o::text, ' ') from outbox o").await;
    assert!(!kept.contains('@') && !app.logs().contains(DORA.email), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_in_an_invitation_lets_in_the_person_whose_address_it_is() {
    let app = TestApp::start().await;
    invite(&app, "new@consultants.example").await;
    // The first attempt arrives and seems not to have: both links are good.
    app.stack.fault("mail", "drop", Calls::Next(1)).unwrap();
    assert_eq!(swept(&app).await, 0);
    time_passes(&app).await;
    assert_eq!(swept(&app).await, 1, "{}", app.logs());
    let [first, second] = &mails(&app)[..] else { panic!("{:?}", mails(&app)) };
    assert_eq!(
        (first.subject.as_str(), first.to.as_slice()),
        ("You are invited to Atelier Nord", &["new@consultants.example".to_owned()][..])
    );
    assert_eq!(first.header("Message-ID"), second.header("Message-ID"));
    assert_ne!(token(first), token(second));
    // The database holds what proves a token, and no token.
    let held = app
        .db
        .text("select (select string_agg(i::text, ' ') from invitations i) || (select string_agg(o::text, ' ') from outbox o)
                      || (select string_agg(a::text, ' ') from audit_log a)")
        .await;
    for mail in [first, second] {
        let secret = token(mail);
        assert!(!held.contains(secret.split_once('.').unwrap().1) && !app.logs().contains(&secret), "{held}");
    }
    let new = newcomer(&app, "new@consultants.example").await;
    let accept = |token: &str| format!("select public.accept_invitation('{token}') as it");
    let refused = async |actor: &Actor, token: &str| {
        app.db.ask(actor, &accept(token)).await.map_err(|refusal| refusal.code).unwrap_err()
    };
    let dan = Actor::person(&DAN).with("email", json!(DAN.email));
    assert_eq!(refused(&dan, &token(first)).await, "invitation_not_found");
    assert_eq!(refused(&new, &format!("{}x", token(first))).await, "invitation_not_found");
    let id = token(first).split_once('.').unwrap().0.to_owned();
    assert_eq!(refused(&new, &id).await, "invitation_not_found");
    for mail in [first, second] {
        assert_eq!(app.db.ask(&new, &accept(&token(mail))).await.unwrap(), json!([{ "it": NORD }]));
    }
    let joined = "select count(*) from org_consultants c join profiles p on p.id = c.user_id where p.email = 'new@consultants.example'";
    assert_eq!(app.db.count(joined).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_unknown_is_invited_in_the_language_of_who_invites_and_not_once_it_is_taken_back() {
    let app = TestApp::start().await;
    app.db.run(&format!("update profiles set language = 'sv' where id = '{}'", ADAM.id)).await;
    for address in ["a@consultants.example", "b@consultants.example", "c@consultants.example"] {
        invite(&app, address).await;
    }
    let back = "delete from public.invitations where email like 'b@%'";
    assert_eq!(app.db.change(&Actor::person(&ADAM), back).await, Ok(1));
    app.db.run("update invitations set expires_at = now() where email like 'c@%'").await;
    assert_eq!(swept(&app).await, 1);
    let [mail] = &mails(&app)[..] else { panic!("{:?}", mails(&app)) };
    assert_eq!(
        (mail.subject.as_str(), mail.to[0].as_str()),
        ("Du är inbjuden till Atelier Nord", "a@consultants.example")
    );
    let dropped = "select last_error as it from outbox where dropped_at is not null";
    assert_eq!(texts(&app.db, dropped).await, ["ended", "ended"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_is_put_off_comes_later_and_one_that_is_refused_is_given_up() {
    let app = TestApp::start().await;
    for fault in ["451", "drop"] {
        assert!(notify(&app.db, NORD, DORA.id, "approval_waits", fault).await);
        app.stack.fault("mail", fault, Calls::Next(1)).unwrap();
        assert_eq!(swept(&app).await, 0, "{fault}");
        let off = "select count(*) from outbox where attempts = 1 and delivered_at is null and dropped_at is null and next_attempt_at > now()";
        assert_eq!(app.db.count(off).await, 1, "{fault}");
        assert_eq!(swept(&app).await, 0, "{fault}: it is not due");
        time_passes(&app).await;
        assert_eq!(swept(&app).await, 1, "{fault}");
    }
    // The one that was lost came twice, and can be known by its name.
    let names: Vec<_> = mails(&app).iter().map(|mail| mail.header("Message-ID").unwrap().to_owned()).collect();
    assert_eq!(names.len(), 3);
    assert_eq!(names[1], names[2]);
    alarms::is_silent(&app, "mail-failed", None);
    for (fault, attempts) in [("550", 1), ("451", 10)] {
        assert!(notify(&app.db, NORD, DORA.id, "approval_waits", &format!("{fault} again")).await);
        app.stack.fault("mail", fault, Calls::Every).unwrap();
        let waits = "select count(*) from outbox where delivered_at is null and dropped_at is null";
        let mut tried = 0;
        while app.db.count(waits).await > 0 {
            time_passes(&app).await;
            assert_eq!(swept(&app).await, 0);
            tried += 1;
            assert!(tried <= attempts, "{fault}");
        }
        assert_eq!(tried, attempts, "{fault}");
        app.stack.fault("mail", "none", Calls::Every).unwrap();
    }
    alarms::rings(&app, "mail-failed", 2.0);
    let why = "select last_error as it from outbox where dropped_at is not null order by created_at";
    assert_eq!(texts(&app.db, why).await, ["refused (550)", "put off (451)"]);
    assert_eq!(app.db.count("select count(*) from notifications").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_mail_server_is_away_nothing_fails_and_no_mail_counts_as_tried() {
    let app = TestApp::start().await;
    books(&app.db).await;
    for fault in ["refuse", "reset", "garbage-bytes", "half", "lost"] {
        app.stack.fault("mail", fault, Calls::Every).unwrap();
        // What causes it goes on.
        proposed(&app.db).await;
        assert_eq!(swept(&app).await, 0, "{fault}: {}", app.logs());
        assert_eq!(
            app.db.count("select count(*) from outbox where attempts > 0 or delivered_at is not null").await,
            0,
            "{fault}"
        );
        app.stack.fault("mail", "none", Calls::Every).unwrap();
    }
    // Its password is another, and the one that is kept is of no use any more.
    let password = app.stack.sandbox.mailbox.password().roll();
    let at = app.stack.wire("mail").unwrap().address();
    app.stack.sandbox.secrets.set("MAIL_URL", &format!("smtp://spine:{password}@{at}"));
    assert_eq!(swept(&app).await, 15, "{}", app.logs());
    assert!(!app.logs().contains(&password));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_wants_and_where_they_belong_is_asked_again_when_it_is_sent() {
    let app = TestApp::start().await;
    for user in [DORA.id, OLGA.id, ANNA.id, ADAM.id] {
        assert!(notify(&app.db, NORD, user, "limit_near", "k").await);
    }
    let prefer = format!(
        "insert into public.notification_preferences (org_id, user_id, kind, in_app, mail) values ('{NORD}', '{}', 'limit_near', true, false)",
        DORA.id
    );
    assert_eq!(app.db.change(&Actor::person(&DORA), &prefer).await, Ok(1));
    app.db.run(&format!("delete from org_members where user_id = '{}'", ANNA.id)).await;
    app.db
        .run(&format!("update outbox set created_at = now() - interval '4 days' where destination = '{}'", ADAM.id))
        .await;
    // She has another address by now.
    app.db.run(&format!("update auth.users set email = 'olga@new.example' where id = '{}'", OLGA.id)).await;
    assert_eq!(swept(&app).await, 1);
    let arrived: Vec<_> = mails(&app).into_iter().flat_map(|mail| mail.to).collect();
    assert_eq!(arrived, ["olga@new.example"]);
    let why = "select last_error as it from outbox where dropped_at is not null order by 1";
    assert_eq!(texts(&app.db, why).await, ["left", "too_old", "unwanted"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_of_an_organisation_or_address_of_a_person_adds_a_header_or_a_recipient() {
    let app = TestApp::start().await;
    let name = "update public.organizations set name = E'Nord\\r\\nBcc: eve@evil.example\\r\\n\\r\\n<script>http://evil.example'";
    assert_eq!(app.db.change(&Actor::person(&OLGA), name).await, Ok(1));
    app.db
        .run(&format!(
            "update profiles set email = E'adam@nord.example>\\r\\nRCPT TO:<eve@evil.example' where id = '{}'",
            ADAM.id
        ))
        .await;
    for user in [DORA.id, ADAM.id] {
        assert!(notify(&app.db, NORD, user, "approval_waits", SUBJECT).await);
    }
    assert_eq!(swept(&app).await, 1, "{}", app.logs());
    let [mail] = &mails(&app)[..] else { panic!("{:?}", mails(&app)) };
    assert_eq!((mail.to.as_slice(), mail.header("Bcc")), (&[DORA.email.to_owned()][..], None));
    assert_eq!(mail.subject, "Nord Bcc: eve@evil.example script http evil.example: something waits for your approval");
    assert!(!mail.html.contains("<script") && !mail.text.contains("http://evil"), "{mail:?}");
    assert_eq!(
        app.db.count("select count(*) from outbox where last_error like 'refused%' and dropped_at is not null").await,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_sent_fifty_mails_an_hour_and_reads_the_rest_in_the_app() {
    let app = TestApp::start().await;
    app.db.run(&format!(
        "set role spine_definer; select app.notify('{NORD}', '{}', 'approval_waits', '{{}}', n::text) from generate_series(1, 60) n",
        DORA.id
    ))
    .await;
    assert!(notify(&app.db, NORD, OLGA.id, "approval_waits", "x").await);
    assert_eq!(swept(&app).await, 51, "{}", app.logs());
    assert_eq!(
        app.db.count("select count(*) from outbox where last_error = 'too_many' and dropped_at is not null").await,
        10
    );
    let shown = app.db.ask(&Actor::person(&DORA), "select from public.notifications").await.unwrap();
    assert_eq!(shown.as_array().unwrap().len(), 60);
    app.db
        .run("update outbox set delivered_at = delivered_at - interval '1 hour' where delivered_at is not null")
        .await;
    assert!(notify(&app.db, NORD, DORA.id, "approval_waits", "later").await);
    assert_eq!(swept(&app).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_ages_approvals_counts_the_red_ones_and_mails_what_is_overdue() {
    let app = TestApp::start().await;
    books(&app.db).await;
    let id = proposed(&app.db).await;
    let anna = Actor::person(&ANNA);
    let shown = digest(&app.db, &anna, id).await;
    call(&app.db, &anna, &approve(id, &shown)).await;
    app.db
        .run("delete from outbox; set session_replication_role = replica; update approvals set decided_at = now() - interval '61 minutes'")
        .await;
    let first = app.stack.sweep().await.unwrap();
    assert_eq!((&first["approvals_aged"], &first["mails_delivered"]), (&json!(1), &json!(3)), "{first} {}", app.logs());
    assert_eq!(mails(&app)[0].subject, "Atelier Nord: something approved has not been done");
    alarms::rings(&app, "approvals-overdue", 1.0);
    alarms::is_silent(&app, "approvals-unknown", Some(0.0));
    app.db
        .run("set session_replication_role = replica; update approvals set status = 'unknown', began_at = now()")
        .await;
    // It rings after half an hour, in which it was known in no five minutes.
    let mut watch = alarms::Watch::new();
    watch.period(&app);
    for period in 1..=6 {
        assert_eq!(app.stack.sweep().await.unwrap()["approvals_aged"], 0);
        watch.period(&app);
        assert_eq!(watch.value("approvals-unknown"), Some(1.0));
        assert_eq!(watch.rings("approvals-unknown"), period == 6, "{period}");
    }
}
