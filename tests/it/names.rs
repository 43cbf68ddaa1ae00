//! Names as people write them: one name in many spellings, and text that is none.

use std::{cell::RefCell, fs, path::PathBuf};

use integration_tests::{
    Locale, Server, TestApp, TestDatabase,
    acting::Actor,
    people::{ADAM, BRICK, LOFT, NORD, OLGA, SVEN, UMA},
};
use local::{database, home};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::json;
use sqlx::PgConnection;

use crate::assign::{ask, lead, takes};

/// The oldest server, and the newest in both locales.
const PLACES: [(Server, Locale); 3] =
    [(Server::Postgres16, Locale::C), (Server::Postgres18, Locale::C), (Server::Postgres18, Locale::CUtf8)];

/// Spellings of one name, each beside the way it is folded.
const SPELLINGS: [(&str, &[&str]); 9] = [
    (
        "östergötland",
        &[
            "Östergötland",
            "ÖSTERGÖTLAND",
            "östergötland",
            "  Östergötland\t",
            // A letter and a mark.
            "O\u{308}stergo\u{308}tland",
            "\u{feff}Östergötland",
            // A word that was broken in a browser.
            "Öster\u{ad}götland",
            "Ö\u{200b}stergötland",
        ],
    ),
    (
        "västra götaland",
        &[
            "Västra Götaland",
            "västra\u{a0}götaland",
            "Västra  \n Götaland",
            "VÄSTRA\u{3000}GÖTALAND",
            "Västra\u{2028}Götaland\u{2003}",
        ],
    ),
    ("åland", &["Åland", "A\u{30a}land", "\u{212b}land"]),
    ("3d & vr", &["3D & VR", "３Ｄ ＆ ＶＲ"]),
    ("finish", &["Finish", "\u{fb01}nish"]),
    ("strasse", &["Straße", "STRASSE", "STRA\u{1e9e}E"]),
    ("οδοσ", &["ΟΔΟΣ", "οδος"]),
    ("istanbul", &["Istanbul", "İstanbul"]),
    ("жук", &["ЖУК", "Жук"]),
];

/// Names that are not the same, however alike they look.
const APART: [(&str, &str); 5] =
    [("Östergötland", "Ostergotland"), ("Mora", "Moral"), ("Väst", "Vast"), ("e post", "epost"), ("A-B", "A B")];

#[tokio::test(flavor = "multi_thread")]
async fn every_spelling_that_a_person_would_call_the_same_is_folded_alike_on_every_server() {
    for (server, locale) in PLACES {
        let db = TestDatabase::in_locale(server, locale).await;
        let mut admin = db.admin().await;
        for (folded, spellings) in SPELLINGS {
            for spelling in spellings {
                assert_eq!(fold(&mut admin, spelling).await, folded, "{spelling:?} on {server:?} in {locale:?}");
            }
            assert_eq!(fold(&mut admin, folded).await, folded, "{folded:?} on {server:?} in {locale:?}");
        }
        for (one, other) in APART {
            assert_ne!(
                fold(&mut admin, one).await,
                fold(&mut admin, other).await,
                "{one:?} on {server:?} in {locale:?}"
            );
        }
    }
}

async fn fold(conn: &mut PgConnection, text: &str) -> String {
    sqlx::query_scalar("select app.fold($1)").bind(text).fetch_one(conn).await.unwrap()
}

#[test]
fn folding_is_stable_and_the_same_on_every_server() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let places: Vec<(TestDatabase, PgConnection)> = runtime.block_on(async {
        let mut places = Vec::new();
        for (server, locale) in PLACES {
            let db = TestDatabase::in_locale(server, locale).await;
            let admin = db.admin().await;
            places.push((db, admin));
        }
        places
    });
    let places = RefCell::new(places);
    // Scripts that every server's tables of letters have had for long, blanks and marks.
    let text = "[ -~\u{a0}-\u{17e}\u{370}-\u{3ff}\u{400}-\u{45f}\u{300}-\u{308}\u{2000}-\u{200b}\t\n]{0,24}";
    let config = Config { cases: 300, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    )
    .run(&text, |text| {
        let folded: Vec<String> = places
            .borrow_mut()
            .iter_mut()
            .map(|(_, conn)| {
                runtime.block_on(async {
                    let folded = fold(conn, &text).await;
                    assert_eq!(fold(conn, &folded).await, folded, "{text:?} is folded further");
                    assert_eq!(fold(conn, &format!(" \u{a0}{text}\n")).await, folded, "{text:?}");
                    folded
                })
            })
            .collect();
        prop_assert!(folded.iter().all(|one| *one == folded[0]), "{text:?}: {folded:?}");
        Ok(())
    })
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_goes_to_the_person_who_covers_its_territory_and_has_its_skills_in_any_spelling() {
    for (territory, skill) in
        [("Östergötland", "Kök"), ("O\u{308}STERGO\u{308}TLAND ", "kö\u{ad}k"), ("\u{a0}östergötland", "KO\u{308}K\t")]
    {
        let app = TestApp::start().await;
        takes(&app.db, &SVEN, 5).await;
        takes(&app.db, &OLGA, 5).await;
        let of = |person: uuid::Uuid, territory: &str, skill: &str| {
            format!(
                "update lead_capacity set territories = array['Skåne', '{territory}'], skills = array['{skill}', 'Ljus'] where user_id = '{person}'"
            )
        };
        app.db.run(&of(OLGA.id, "ÖSTERGÖTLAND", "köK")).await;
        // The wrong place, and the right one without the skill.
        app.db.run(&of(SVEN.id, "Ostergotland", "köket")).await;
        app.db
            .run(&format!(
                "insert into leads (id, org_id, client_name, territory, wanted_skills) values ('{}', '{NORD}', 'Lena', '{territory}', array['{skill}', '{skill}'])",
                lead(1)
            ))
            .await;
        let given = ask(&app, &app.token(&OLGA), lead(1)).await.expect(200);
        assert_eq!(given["assignment"]["assigned_to"], json!(OLGA.id), "{territory:?}: {given}");
        let reason = &given["assignment"]["reason"];
        assert_eq!((&reason["territory"], &reason["skills"]), (&json!(1), &json!(1.0)), "{given}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_or_a_category_in_another_spelling_is_there_already() {
    for (server, locale) in PLACES {
        let db = TestDatabase::in_locale(server, locale).await;
        let adam = Actor::person(&ADAM);
        let post = "insert into blog_posts (org_id, title, slug, content) values";
        db.change(&adam, &format!("{post} ('{NORD}', 'Ljus', 'ljus', 'Ljus')")).await.unwrap();
        let tag = |table: &str, tag: &str| match table {
            "project_tags" => {
                format!("insert into project_tags (org_id, project_id, tag) values ('{NORD}', '{LOFT}', '{tag}')")
            }
            "blog_tags" => format!(
                "insert into blog_tags (org_id, post_id, tag) select org_id, id, '{tag}' from blog_posts where slug = 'ljus'"
            ),
            _ => format!("insert into blog_categories (org_id, name) values ('{NORD}', '{tag}')"),
        };
        for table in ["project_tags", "blog_tags", "blog_categories"] {
            assert_eq!(db.change(&adam, &tag(table, "Kök i Östergötland")).await, Ok(1), "{table}");
            for other in ["kök i östergötland", "KO\u{308}K  I ÖSTERGÖTLAND", " Kök\u{a0}i Östergötland "] {
                let refused = db.change(&adam, &tag(table, other)).await.unwrap_err();
                assert_eq!(refused.state, "23505", "{table}: {other:?} on {server:?} in {locale:?}");
            }
            assert_eq!(db.change(&adam, &tag(table, "Kok i Ostergotland")).await, Ok(1), "{table}");
        }
        // Another organisation's are its own.
        let theirs = format!("insert into blog_categories (org_id, name) values ('{BRICK}', 'KÖK I ÖSTERGÖTLAND')");
        db.run(&theirs).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_is_linked_with_the_client_of_its_name_in_any_spelling() {
    for (server, locale) in PLACES {
        let db = TestDatabase::in_locale(server, locale).await;
        for (number, (client, customer)) in [
            ("AB Östgöta Kök", "ab  ÖSTGÖTA KÖK"),
            ("Åke\u{a0}& Söner", "A\u{30a}KE & SO\u{308}NER"),
            ("Straße", "STRASSE"),
        ]
        .into_iter()
        .enumerate()
        {
            db.run(&format!(
                "insert into clients (org_id, name) values ('{NORD}', '{client}'), ('{BRICK}', '{customer}');
                 insert into fortnox_customers (org_id, customer_number, data, active, kind)
                 values ('{NORD}', '{number}', jsonb_build_object('CustomerNumber', '{number}', 'Name', '{customer}', 'Type', 'COMPANY'), true, 'COMPANY')"
            ))
            .await;
            let import = format!("select app.import_fortnox_customers(array['{number}'], null, 100) as report");
            let report = db.ask(&Actor::person(&ADAM).in_function(), &import).await.unwrap()[0]["report"].clone();
            let linked = &report["linked"][0];
            let client = format!("select id::text from clients where org_id = '{NORD}' and name = '{client}'");
            assert_eq!(linked["client_id"], json!(db.text(&client).await), "{report} on {server:?} in {locale:?}");
        }
    }
}

/// A checkout with the migrations that come before this one.
fn before(migration: &str) -> PathBuf {
    let root = std::env::temp_dir().join(format!("spine-before-{}", uuid::Uuid::new_v4().simple()));
    fs::create_dir_all(root.join("migrations")).unwrap();
    fs::create_dir_all(root.join("infra/postgres")).unwrap();
    let baseline = "infra/postgres/baseline.sql";
    fs::copy(home::root().join(baseline), root.join(baseline)).unwrap();
    for file in fs::read_dir(home::root().join("migrations")).unwrap().flatten() {
        if file.file_name().to_string_lossy().as_ref() < migration {
            fs::copy(file.path(), root.join("migrations").join(file.file_name())).unwrap();
        }
    }
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_becomes_one_tag_one_category_and_no_blank_text() {
    for server in [Server::Postgres16, Server::Postgres18] {
        let db = TestDatabase::empty(server).await;
        let earlier = before("20261130231000");
        database::migrate(&earlier, &db.url).await.unwrap();
        database::seed(&home::root(), &db.url).await.unwrap();
        db.run(&format!(
            "insert into project_tags (org_id, project_id, tag) values ('{NORD}', '{LOFT}', 'Mörk'); insert into project_tags (id, org_id, project_id, tag) values ('{0}', '{NORD}', '{LOFT}', 'Ljus'), ('{1}', '{NORD}', '{LOFT}', 'ljus ');
             insert into blog_categories (id, org_id, name) values ('{0}', '{NORD}', 'Kök'), ('{1}', '{NORD}', 'KÖK'), ('{2}', '{BRICK}', 'kök');
             insert into blog_posts (org_id, category_id, title, slug, content)
             select org_id, id, 'P', 'p-' || row_number() over (order by id), 'P' from blog_categories where org_id = '{NORD}';
             insert into leads (id, org_id, client_name, email, phone, territory, wanted_skills)
             values ('{0}', '{NORD}', 'Lena', '', ' ', E'\\t', array['', 'Kök', ' ']), ('{1}', '{NORD}', 'Lars', 'l@example.com', null, 'Skåne', '{{}}');
             insert into lead_capacity (org_id, user_id, territories, skills) values ('{NORD}', '{2}', array[''], array['Kök', ' '])",
            lead(1),
            lead(2),
            SVEN.id
        ))
        .await;
        database::migrate(&home::root(), &db.url).await.unwrap();
        fs::remove_dir_all(&earlier).unwrap();

        let all = async |query: &str| db.ask(&Actor::role("postgres"), query).await.unwrap();
        let tags = all("select tag from project_tags order by tag").await;
        assert_eq!(tags, json!([{ "tag": "Ljus" }, { "tag": "Mörk" }]), "{server:?}");
        let posts = "select p.slug, c.name from blog_posts p left join blog_categories c on c.id = p.category_id where p.slug like 'p-%' order by slug";
        assert_eq!(
            all(posts).await,
            json!([{ "slug": "p-1", "name": "Kök" }, { "slug": "p-2", "name": "Kök" }]),
            "{server:?}"
        );
        assert_eq!(db.count("select count(*) from blog_categories where name in ('Kök', 'KÖK', 'kök')").await, 2);
        let leads = "select client_name as name, email, phone, territory, wanted_skills as skills from leads where client_name in ('Lena', 'Lars') order by 1 desc";
        assert_eq!(
            all(leads).await,
            json!([
                { "name": "Lena", "email": null, "phone": null, "territory": null, "skills": ["Kök"] },
                { "name": "Lars", "email": "l@example.com", "phone": null, "territory": "Skåne", "skills": [] },
            ])
        );
        assert_eq!(
            all("select territories, skills, folded_skills from lead_capacity").await,
            json!([{ "territories": [], "skills": ["Kök"], "folded_skills": ["kök"] }])
        );
    }
}

/// Text with nothing in it that is seen.
const BLANKS: [&str; 6] = ["", " ", "\t\n", "\u{a0}", "\u{3000} \u{2003}", "\u{200b}\u{feff}"];

#[tokio::test(flavor = "multi_thread")]
async fn blank_contacts_and_territories_are_none_to_score_and_assignment() {
    for blank in BLANKS {
        let app = TestApp::start().await;
        takes(&app.db, &SVEN, 5).await;
        app.db.run("update lead_capacity set territories = array['Skåne'], skills = array['Kök']").await;
        let olga = Actor::person(&OLGA);
        let insert = async |name: &str, value: &str, skills: &str| {
            let row = format!("'{NORD}', '{name}', {value}, {value}, {value}, {skills}");
            let insert = "insert into leads (org_id, client_name, email, phone, territory, wanted_skills) values";
            assert_eq!(app.db.change(&olga, &format!("{insert} ({row})")).await, Ok(1));
            app.db.text(&format!("select id::text from leads where client_name = '{name}'")).await
        };
        let empty = insert("Empty", "null", "'{}'").await;
        let given = insert("Blank", &format!("'{blank}'"), &format!("array['{blank}']")).await;
        let mut scores = Vec::new();
        for id in [empty, given] {
            let asked = ask(&app, &app.token(&OLGA), id.parse().unwrap()).await.expect(200);
            assert_eq!(asked["assignment"]["assigned_to"], json!(SVEN.id), "{blank:?}: {asked}");
            scores.push(app.db.text(&format!("select factors ->> 'completeness' from lead_scoring where lead_id = '{id}' order by created_at limit 1")).await);
        }
        assert_eq!(scores[0], scores[1], "{blank:?}");
        assert!(scores[0].contains("\"points\": 0"), "{scores:?}");
    }
}

/// Each column in which blank text is none: what makes a row of it with a value, a person who may write it, and whether it may be empty.
fn columns() -> Vec<(&'static str, &'static str, Actor, bool)> {
    let (adam, uma) = (Actor::person(&ADAM), Actor::person(&UMA));
    let mut columns = Vec::new();
    for (table, names) in [
        ("leads", ["email", "phone", "territory"].as_slice()),
        ("clients", &["email", "phone", "address"]),
        ("projects", &["category"]),
        ("social_lead_rules", &["territory"]),
    ] {
        columns.extend(names.iter().map(|name| (table, *name, adam.clone(), true)));
    }
    columns.extend(["full_name", "phone"].map(|name| ("profiles", name, uma.clone(), true)));
    columns.extend(
        [("leads", "client_name"), ("clients", "name"), ("projects", "title"), ("blog_categories", "name")]
            .map(|(table, name)| (table, name, adam.clone(), false)),
    );
    columns
}

#[tokio::test(flavor = "multi_thread")]
async fn blank_text_becomes_null_in_each_listed_column_and_a_name_is_never_blank() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run(&format!(
        "insert into leads (org_id, client_name) values ('{NORD}', 'Lena');
         insert into blog_categories (org_id, name) values ('{NORD}', 'Ljus');
         insert into social_lead_rules (org_id, name, words) values ('{NORD}', 'Offert', array['offert'])"
    ))
    .await;
    for (table, column, actor, may_be_empty) in columns() {
        for blank in BLANKS {
            db.change(&actor, &format!("update {table} set {column} = 'Skåne'"))
                .await
                .unwrap_or_else(|refused| panic!("{table}.{column}: {refused:?}"));
            let changed = db.change(&actor, &format!("update {table} set {column} = '{blank}'")).await;
            let rows = if table == "profiles" {
                format!("{table} where id = '{}'", UMA.id)
            } else {
                format!("{table} where org_id = '{NORD}'")
            };
            if may_be_empty {
                assert!(matches!(changed, Ok(1..)), "{table}.{column}: {changed:?}");
                assert_eq!(
                    db.count(&format!("select count({column}) from {rows}")).await,
                    0,
                    "{table}.{column}: {blank:?}"
                );
            } else {
                assert_eq!(changed.unwrap_err().state, "23502", "{table}.{column}: {blank:?}");
            }
        }
    }
    // What is not blank is stored as it was written.
    db.change(&Actor::person(&ADAM), "update leads set territory = ' Öster  götland'").await.unwrap();
    assert_eq!(db.text("select territory from leads").await, " Öster  götland");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_is_closed_by_half_or_in_the_future_is_refused_by_name() {
    for server in [Server::Postgres16, Server::Postgres18] {
        let db = TestDatabase::new(server).await;
        db.run(&format!(
            "insert into leads (org_id, client_name, assigned_to) values ('{NORD}', 'Lena', '{}')",
            SVEN.id
        ))
        .await;
        let sven = Actor::person(&SVEN);
        let refused = async |set: &str| db.change(&sven, &format!("update leads set {set}")).await.unwrap_err();
        for (set, code) in [
            ("status = 'won'", "lead_end_missing"),
            ("status = 'lost', closed_at = null", "lead_end_missing"),
            ("closed_at = now()", "lead_not_ended"),
            ("status = 'proposal', closed_at = now() - interval '1 day'", "lead_not_ended"),
            ("status = 'won', closed_at = now() + interval '1 microsecond'", "lead_end_in_future"),
            ("status = 'lost', closed_at = 'infinity'", "lead_end_in_future"),
        ] {
            let refusal = refused(set).await;
            assert_eq!((refusal.state.as_str(), refusal.code.as_str()), ("PT422", code), "{set}");
            assert!(refusal.detail.contains("closed_at"), "{refusal:?}");
        }
        // Now, and before it.
        for closed_at in ["now()", "now() - interval '1 microsecond'"] {
            assert_eq!(
                db.change(&sven, &format!("update leads set status = 'won', closed_at = {closed_at}")).await,
                Ok(1)
            );
        }
        assert_eq!(refused("status = 'contacted'").await.code, "lead_not_ended");
        assert_eq!(refused("closed_at = null").await.code, "lead_end_missing");
        assert_eq!(db.change(&sven, "update leads set status = 'contacted', closed_at = null").await, Ok(1));
        // One that ended in the future before this was refused can be written otherwise.
        db.run("begin; set local session_replication_role = replica; update leads set status = 'won', closed_at = now() + interval '1 day'; commit").await;
        assert_eq!(db.change(&sven, "update leads set phone = '1'").await, Ok(1));
    }
}
