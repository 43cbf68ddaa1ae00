//! Rules of an organisation make leads of what is written.

use chrono::{DateTime, TimeDelta, Utc};
use integration_tests::{
    Locale, Server, TestApp, TestDatabase,
    acting::Actor,
    people::{BRICK, NORD, OLGA, OSCAR, SVEN},
};
use sandbox::Delivery;
use serde_json::{Value, json};
use shared::{
    db::Database,
    social::{Kind, Life, Observation, Place},
};
use uuid::Uuid;

use super::{ACCOUNT, comment, made, merge, message, rule, thread, value};
use crate::social_inbox::{accounts, door};

const SECOND: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0019_0002);
const THEIRS: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0019_0003);

/// A database in which Atelier Nord has connected an account.
async fn connected() -> (TestDatabase, Database) {
    let db = TestDatabase::new(Server::Postgres18).await;
    accounts(&db, NORD, "instagram", &[(ACCOUNT, "1".to_owned())]).await;
    let door = door(&db).await;
    (db, door)
}

/// A minute ago, to the millisecond.
fn lately() -> DateTime<Utc> {
    let at = Utc::now() - TimeDelta::minutes(1);
    DateTime::from_timestamp_millis(at.timestamp_millis()).unwrap()
}

/// Whether a message makes a lead of its thread.
async fn makes(door: &Database, seen: Observation) -> bool {
    merge(door, NORD, ACCOUNT, &[seen]).await.leads == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_word_or_phrase_makes_a_lead_in_any_case_whatever_the_locale_of_the_server() {
    for db in [
        TestDatabase::in_locale(Server::Postgres18, Locale::C).await,
        TestDatabase::new(Server::Postgres16).await,
        TestDatabase::in_locale(Server::Postgres18, Locale::CUtf8).await,
    ] {
        accounts(&db, NORD, "tiktok", &[(ACCOUNT, "1".to_owned())]).await;
        rule(
            &db,
            NORD,
            "kök",
            "{\"Önskar  offert\",KÖK,åsögatan}",
            &[("territory", "'North'"), ("wanted_skills", "'{kitchens}'")],
        )
        .await;
        let door = door(&db).await;
        for (n, (text, makes)) in [
            ("Vi ÖNSKAR OFFERT!", true),
            ("vi önskar\noffert", true),
            ("Nytt kök?", true),
            ("NYTT KÖK?", true),
            ("nytt ko\u{308}k", true),
            ("på ÅSÖGATAN 3", true),
            ("köksö", false),
            ("minikök", false),
            ("önskar en offert", false),
            ("offert önskar", false),
            ("kok", false),
        ]
        .into_iter()
        .enumerate()
        {
            let seen = message(&format!("m{n}"), &format!("p{n}"), lately(), text);
            assert_eq!(self::makes(&door, seen).await, makes, "{text}");
        }
        let leads = "select distinct jsonb_build_array(source, territory, wanted_skills, org_id) from leads";
        assert_eq!(value(&db, leads).await, json!(["tiktok", "North", ["kitchens"], NORD]));
        let logged = "select jsonb_agg(distinct jsonb_build_array(action, actor, new_values -> 'rule_id' = to_jsonb((select id from social_lead_rules))))
                        from audit_log where action = 'social_leads.insert'";
        assert_eq!(value(&db, logged).await, json!([["social_leads.insert", "system", true]]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_other_side_writes_and_what_is_seen_with_its_text_for_the_first_time_counts() {
    let (db, door) = connected().await;
    rule(&db, NORD, "r", "{offert}", &[]).await;
    let at = lately();
    let said = |id: &str, with: &str, text: &str| message(id, with, at, text);
    let own = said("m1", "p1", "offert");
    let own = Observation { place: own.place.clone().map(|place| Place { outgoing: true, ..place }), ..own };
    assert!(!makes(&door, own).await, "the account wrote it");
    let gone = Observation { life: Life::Deleted, ..said("m2", "p2", "offert") };
    assert!(!makes(&door, gone).await, "it was deleted");
    assert!(!makes(&door, said("m3", "p3", "hej")).await);
    let edited = Observation { edited: true, at: at.timestamp_millis() + 5, ..said("m3", "p3", "offert") };
    assert_eq!(merge(&door, NORD, ACCOUNT, &[edited]).await.changed, 1);
    assert_eq!(made(&db).await, Value::Null, "an edit is nothing new");
    // A delivery without a text, which is read later.
    let textless = Observation { text: None, ..comment("c4", "p4", at, "", None) };
    assert!(!makes(&door, textless).await);
    assert!(makes(&door, comment("c4", "p4", at, "Offert?", None)).await);
    // A second message of a thread, and what was merged before.
    assert!(makes(&door, said("m5", "p3", "nu en offert")).await);
    assert!(!makes(&door, said("m6", "p3", "offert, tack")).await, "it has a lead");
    assert!(!makes(&door, said("m5", "p3", "nu en offert")).await);
    // Another person below the comment: a lead of the thread would be one of who began it.
    assert!(!makes(&door, comment("c7", "p7", at, "fin!", None)).await);
    assert!(!makes(&door, comment("c8", "p8", at, "offert", Some("c7"))).await);
    assert!(makes(&door, comment("c9", "p7", at, "ja, offert", Some("c7"))).await);
    let leads =
        json!([["comment:c4", "r", false, true], ["comment:c7", "r", false, true], ["dm:p3", "r", false, true]]);
    assert_eq!(made(&db).await, leads);
    // A mention in a comment is one of its own kind.
    db.run("delete from social_lead_rules").await;
    rule(&db, NORD, "mentions", "{offert}", &[("kinds", "'{mention}'")]).await;
    assert!(!makes(&door, comment("c10", "p10", at, "offert", None)).await);
    let mention = comment("c11", "p11", at, "@nord offert", None);
    let mention =
        Observation { place: mention.place.clone().map(|place| Place { kind: Kind::Mention, ..place }), ..mention };
    assert!(makes(&door, mention).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_about_its_accounts_its_kinds_and_what_is_written_from_its_beginning_on() {
    let (db, door) = connected().await;
    accounts(&db, NORD, "instagram", &[(SECOND, "2".to_owned())]).await;
    let at = lately();
    let second = format!("'{SECOND}'");
    let begins = format!("'{}'", at.to_rfc3339());
    rule(&db, NORD, "off", "{avstängd}", &[("enabled", "false")]).await;
    rule(&db, NORD, "second", "{konto}", &[("account_id", &*second)]).await;
    rule(&db, NORD, "comments", "{kommentar}", &[("kinds", "'{comment}'")]).await;
    rule(&db, NORD, "late", "{sent}", &[("created_at", &*begins)]).await;
    assert!(!makes(&door, message("m1", "p1", at, "avstängd")).await);
    assert!(!makes(&door, message("m2", "p2", at, "konto")).await, "another account");
    assert_eq!(merge(&door, NORD, SECOND, &[message("m2", "p2", at, "konto")]).await.leads, 1);
    assert!(!makes(&door, message("m3", "p3", at, "kommentar")).await);
    assert!(makes(&door, comment("c3", "p3", at, "kommentar", None)).await);
    // At its beginning, and a moment before.
    assert!(makes(&door, message("m4", "p4", at, "sent")).await);
    assert!(!makes(&door, message("m5", "p5", at - TimeDelta::milliseconds(1), "sent")).await);
    // History that is read beside something new.
    let seen = [message("m6", "p6", at - TimeDelta::days(3), "sent"), message("m7", "p7", at, "hej")];
    assert_eq!(merge(&door, NORD, ACCOUNT, &seen).await.leads, 0);
    // The first rule of two is the one; each message of a page has its own thread's lead.
    rule(&db, NORD, "older", "{två}", &[("created_at", "now() - interval '2 days'")]).await;
    rule(&db, NORD, "newer", "{två,tre}", &[("created_at", "now() - interval '1 day'")]).await;
    let seen = [message("m8", "p8", at, "två tre"), message("m9", "p9", at, "tre"), message("m10", "p8", at, "tre")];
    assert_eq!(merge(&door, NORD, ACCOUNT, &seen).await.leads, 2);
    assert_eq!(
        made(&db).await,
        json!([
            ["comment:c3", "comments", false, true],
            ["dm:p2", "second", false, true],
            ["dm:p4", "late", false, true],
            ["dm:p8", "older", false, true],
            ["dm:p9", "newer", false, true]
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_organisation_that_connected_an_account_has_its_own_rules() {
    let (db, nord) = connected().await;
    accounts(&db, BRICK, "instagram", &[(THEIRS, "1".to_owned())]).await;
    rule(&db, NORD, "ours", "{kök}", &[]).await;
    rule(&db, BRICK, "theirs", "{bad}", &[]).await;
    let seen = [message("m1", "p1", lately(), "kök"), message("m2", "p2", lately(), "bad")];
    assert_eq!(merge(&nord, NORD, ACCOUNT, &seen).await.leads, 1);
    assert_eq!(merge(&nord, BRICK, THEIRS, &seen).await.leads, 1);
    let leads = "select jsonb_agg(jsonb_build_array(org_id, client_name) order by org_id) from leads";
    assert_eq!(value(&db, leads).await, json!([[NORD, "@p1"], [BRICK, "@p2"]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_a_person_deleted_is_not_made_by_a_rule_once_more() {
    let (db, door) = connected().await;
    rule(&db, NORD, "r", "{offert}", &[]).await;
    assert!(makes(&door, message("m1", "p1", lately(), "offert")).await);
    db.change(&Actor::person(&OLGA), "delete from public.leads").await.unwrap();
    assert!(!makes(&door, message("m2", "p1", lately(), "offert")).await);
    assert_eq!(made(&db).await, json!([["dm:p1", "r", false, false]]));
    // Nor of a thread that a person made one of.
    merge(&door, NORD, ACCOUNT, &[message("m3", "p3", lately(), "hej")]).await;
    let by_hand = thread(&db, "dm:p3").await;
    db.ask(&Actor::person(&OLGA), &format!("select public.make_lead_of_thread('{by_hand}')")).await.unwrap();
    assert!(!makes(&door, message("m4", "p3", lately(), "offert")).await);
    // A rule that goes leaves its leads.
    db.run("delete from social_lead_rules").await;
    assert_eq!(made(&db).await, json!([["dm:p1", null, false, false], ["dm:p3", null, true, true]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_manages_leads_writes_rules_within_their_bounds() {
    let (db, _) = connected().await;
    let olga = Actor::person(&OLGA);
    let insert = |columns: &str, values: &str| {
        format!("insert into public.social_lead_rules (org_id, {columns}) values ('{NORD}', {values})")
    };
    let plain = insert("name, words", "'r', '{offert}'");
    assert_eq!(db.change(&olga, &plain).await, Ok(1));
    assert_eq!(db.text("select created_by::text from social_lead_rules").await, OLGA.id.to_string());
    assert_eq!(db.change(&Actor::person(&SVEN), &plain).await.unwrap_err().state, "42501");
    assert_eq!(db.change(&Actor::person(&OSCAR), &plain).await.unwrap_err().state, "42501");
    let long = format!("'r', '{{{}}}'", "x".repeat(101));
    let many = "'r', array_fill('offert'::text, array[51])";
    for (columns, values) in [
        ("name, words", "'r', '{}'"),
        ("name, words", "'r', '{a}'"),
        ("name, words", "'r', '{\"?!\"}'"),
        ("name, words", "'r', '{null}'"),
        ("name, words", &*long),
        ("name, words", many),
        ("name, words, kinds", "'r', '{offert}', '{}'"),
        ("name, words, kinds", "'r', '{offert}', '{story}'"),
        ("name, words", "'', '{offert}'"),
    ] {
        assert_eq!(db.change(&olga, &insert(columns, values)).await.unwrap_err().state, "23514", "{values}");
    }
    // When it began is not the writer's to choose, nor another organisation's account.
    assert_eq!(
        db.change(&olga, &insert("name, words, created_at", "'r', '{offert}', '2020-01-01'")).await.unwrap_err().state,
        "42501"
    );
    accounts(&db, BRICK, "instagram", &[(THEIRS, "9".to_owned())]).await;
    let theirs = insert("name, words, account_id", &format!("'r', '{{offert}}', '{THEIRS}'"));
    assert_eq!(db.change(&olga, &theirs).await.unwrap_err().state, "23503");
    db.run(&format!("insert into social_lead_rules (org_id, name, words) select '{NORD}', 'r', '{{offert}}' from generate_series(1, 49)")).await;
    let refused = db.change(&olga, &plain).await.unwrap_err();
    assert_eq!((&*refused.state, &*refused.code), ("PT422", "too_many_lead_rules"));
    db.run("delete from social_lead_rules where id = (select id from social_lead_rules limit 1)").await;
    db.change(&olga, &plain).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_of_a_delivery_is_scored_as_one_of_social_media_and_given_to_somebody() {
    let app = TestApp::start().await;
    let instagram = &app.stack.sandbox.instagram;
    let nord = instagram.add_account("atelier.nord", "Atelier Nord");
    crate::social_webhook::connect(&app, NORD, "instagram", &nord.id).await;
    rule(&app.db, NORD, "kök", "{\"nytt kök\"}", &[("territory", "'North'")]).await;
    crate::assign::takes(&app.db, &SVEN, 5).await;
    crate::assign::set(&app.db, "enabled, min_auc, max_brier, ai_bound", "true, null, null, 0").await;
    let greta = instagram.add_person("greta", Some("Greta"));
    instagram.message(&nord.id, &greta, "Vi vill ha ett NYTT KÖK. Ring 070-123 45 67!").unwrap();
    instagram.message(&nord.id, &greta, "nytt kök, alltså").unwrap();
    // Twice, and both are one.
    let delivery = Delivery { copies: 2, ..Delivery::default() };
    assert!(instagram.deliver_with(delivery).await.iter().all(|attempt| attempt.succeeded), "{}", app.logs());
    crate::social_webhook::merged(&app).await;
    let lead = "select jsonb_agg(jsonb_build_array(l.source, l.phone, l.territory, l.assigned_to)) from leads l";
    assert_eq!(value(&app.db, lead).await, json!([["instagram", "070-123 45 67", "North", null]]));
    for _ in 0..2 {
        app.stack.look_after_leads().await.unwrap();
        app.stack.sweep().await.unwrap();
        app.stack.leads.drained().await;
    }
    assert_eq!(value(&app.db, lead).await, json!([["instagram", "070-123 45 67", "North", SVEN.id]]));
    let scored = "select jsonb_agg(distinct factors -> 'source' ->> 'points') from lead_scoring";
    assert_eq!(value(&app.db, scored).await, json!(["7.50"]));
    let points =
        "select jsonb_object_agg(x.source, (app.lead_score(l.org_id, l.id, now())).factors -> 'source' ->> 'points')
                    from leads l join lateral (select l.source) x on true";
    app.db
        .run(&format!(
            "insert into leads (org_id, client_name, source) select '{NORD}', 'Lead', s from unnest('{{facebook,tiktok,social,other,referral}}'::text[]) s"
        ))
        .await;
    assert_eq!(
        value(&app.db, points).await,
        json!({ "instagram": "7.50", "facebook": "7.50", "tiktok": "7.50", "social": "7.50", "other": "4.50", "referral": "15.00" })
    );
}
