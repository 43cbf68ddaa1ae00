//! Connecting: by whom, in which browser, with which scopes, and how it ends.

use integration_tests::{
    TestApp,
    acting::Actor,
    people::{ADAM, NORD, OLGA, OSCAR, RENATA, UMA},
};
use reqwest::header;
use sandbox::{Calls, Consent};
use serde_json::{Value, json};

use super::{Way, connect_as, connected};
use crate::browser::{APP, begin, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_person_connects_an_account_of_each_kind_and_its_tokens_are_sealed() {
    let app = TestApp::start().await;
    for way in Way::ALL {
        let account = way.account(&app);
        assert_eq!(connect_as(&app, way, &OLGA, &account, Consent::All).await, "connected", "{}", app.logs());
        let row = app
            .db
            .ask(
                &Actor::role("postgres"),
                &format!(
                    "select org_id, platform, api, username, status, connected_by, token_version, lost_why, cardinality(scopes) > 3 as scopes,
                            access_token like 'v1.1.%' and coalesce(refresh_token like 'v1.1.%', api = 'instagram_login') as sealed,
                            (api = 'instagram_login') = (app_scoped_id is not null) as scoped,
                            extract(day from consent_ends_at - issued_at)::int as days,
                            extract(epoch from token_expires_at - issued_at)::int as seconds
                       from social_accounts where platform_id = '{account}'"
                ),
            )
            .await
            .unwrap();
        let (platform, api, days, seconds) = match way {
            Way::Instagram => ("instagram", "instagram_login", 59, 5_183_944),
            Way::Display => ("tiktok", "tiktok_display", 180, 7_200),
            Way::Business => ("tiktok", "tiktok_business", 180, 7_200),
        };
        let expected = json!([{
            "org_id": NORD, "platform": platform, "api": api, "username": "nordateljen", "status": "active", "connected_by": OLGA.id,
            "token_version": 1, "lost_why": null, "scopes": true, "sealed": true, "scoped": true, "days": days, "seconds": seconds,
        }]);
        assert_eq!(row, expected);
        let entry = format!(
            "select actor, metadata ->> 'on_behalf_of' as for, decision ->> 'api' as api, output from audit_log
              where action = 'social_account.connected' and output ->> 'account' = '{account}'"
        );
        let entry = app.db.ask(&Actor::role("postgres"), &entry).await.unwrap();
        let output = json!({ "platform": platform, "account": account });
        assert_eq!(entry, json!([{ "actor": "system", "for": OLGA.id, "api": api, "output": output }]));
        assert!(way.live(&app, &account) >= 1);
    }
    // All are read at once.
    app.stack.social.drained().await;
    let read = "select count(*) from jobs where job_type = 'social_fetch' and status = 'succeeded'";
    assert_eq!(app.db.count(read).await, 3, "{}", app.logs());
    let stored = app.db.text("select string_agg(a::text, '') from social_accounts a").await;
    for token in ["IGAA", "act.", "rft."] {
        assert!(!stored.contains(token) && !app.logs().contains(token), "a token is readable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_shapes_of_instagrams_exchange_are_understood() {
    let app = TestApp::start().await;
    let world = &app.stack.sandbox.instagram;
    for flat in [false, true] {
        world.set_flat_exchange(flat);
        let account = Way::Instagram.account(&app);
        assert_eq!(connect_as(&app, Way::Instagram, &OLGA, &account, Consent::All).await, "connected", "{flat}");
        let scopes =
            format!("select array_to_string(scopes, ' ') from social_accounts where platform_id = '{account}'");
        assert_eq!(
            app.db.text(&scopes).await,
            "instagram_business_basic instagram_business_manage_messages instagram_business_manage_comments instagram_business_manage_insights"
        );
        let days = format!(
            "select extract(day from consent_ends_at - now())::text from social_accounts where platform_id = '{account}'"
        );
        assert_eq!(app.db.text(&days).await, "59", "it is the token that lasts which is kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_are_stored_as_they_came_back_and_without_the_basic_one_nothing_is_connected() {
    let app = TestApp::start().await;
    for way in Way::ALL {
        let account = way.account(&app);
        let [basic, other] = way.scopes();
        let outcome = connect_as(&app, way, &OLGA, &account, Consent::only(&[other])).await;
        assert_eq!(outcome, "scope_missing", "{way:?} {}", app.logs());
        let of_account = format!("select count(*) from social_accounts where platform_id = '{account}'");
        assert_eq!(app.db.count(&of_account).await, 0);
        if way != Way::Instagram {
            assert_eq!(way.live(&app, &account), 0, "{way:?}: a consent that is not kept is still good");
        }
        let outcome = connect_as(&app, way, &OLGA, &account, Consent::only(&[basic, other])).await;
        assert_eq!(outcome, "connected", "{way:?} {}", app.logs());
        let mut wanted = [basic, other];
        wanted.sort_unstable();
        let scopes = format!(
            "select string_agg(s, ' ' order by s collate \"C\") from social_accounts, unnest(scopes) s where platform_id = '{account}'"
        );
        assert_eq!(app.db.text(&scopes).await, wanted.join(" "), "{way:?}");
    }
    // What an account cannot do is said with the scopes that it lacks.
    let listed = app.get("/v1/social/accounts", &app.token(&OLGA)).await.expect(200);
    let insights = listed["accounts"][0]["capabilities"].as_array().unwrap().iter();
    let missing: Vec<&Value> =
        insights.filter(|row| row["missing_scopes"] != json!([])).map(|row| &row["missing_scopes"]).collect();
    assert!(missing.contains(&&json!(["instagram_business_manage_insights"])), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_that_connecting_fails_has_its_code_and_leaves_nothing() {
    let app = TestApp::start().await;
    for way in Way::ALL {
        let account = way.account(&app);
        // The person says no; then the same way back once more.
        let led = begin(&app, way.segment(), &OLGA).await;
        let url = way.decide(&app, &led, &account, Consent::Denied);
        assert_eq!(way.back(&url, Some(&led.cookie)).await, "consent_refused", "{way:?}");
        assert_eq!(way.back(&url, Some(&led.cookie)).await, "state_replayed", "{way:?}");

        // Another browser, or one without a cookie; then the right one, which it did not use up.
        let (led, other) = (begin(&app, way.segment(), &OLGA).await, begin(&app, way.segment(), &OLGA).await);
        let url = way.decide(&app, &led, &account, Consent::All);
        for cookie in [None, Some(other.cookie.as_str())] {
            assert_eq!(way.back(&url, cookie).await, "state_foreign", "{way:?} {cookie:?}");
        }
        // At the moment that ten minutes are over.
        app.db.run("update oauth_states set expires_at = now() where used_at is null").await;
        assert_eq!(way.back(&url, Some(&led.cookie)).await, "state_expired", "{way:?}");

        // A state that was begun for another platform, one that was never made here, and none.
        let led = begin(&app, way.segment(), &OLGA).await;
        let url = way.decide(&app, &led, &account, Consent::All);
        let elsewhere = Way::ALL[(Way::ALL.iter().position(|other| *other == way).unwrap() + 1) % 3];
        let mut crossed = url.clone();
        crossed.set_path(&format!("/oauth/{}/callback", elsewhere.segment()));
        assert_eq!(elsewhere.back(&crossed, Some(&led.cookie)).await, "state_unknown", "{way:?}");
        for query in ["state=forged&code=x", "code=x"] {
            let mut forged = url.clone();
            forged.set_query(Some(query));
            assert_eq!(way.back(&forged, Some(&led.cookie)).await, "state_unknown", "{way:?}");
        }

        // Who began may not connect any more.
        let led = begin(&app, way.segment(), &ADAM).await;
        let url = way.decide(&app, &led, &account, Consent::All);
        let role = async |number: u8| {
            let role = format!("00000000-0000-7000-8000-00000000000{number}");
            let given = format!(
                "update org_members set role_id = '{role}' where org_id = '{NORD}' and user_id = '{}'",
                ADAM.id
            );
            app.db.run(&given).await;
        };
        role(3).await;
        assert_eq!(way.back(&url, Some(&led.cookie)).await, "permission_missing", "{way:?}");
        role(2).await;

        // A platform that is away.
        let wire = if way == Way::Instagram { "instagram" } else { "tiktok" };
        app.stack.fault(wire, "reset", Calls::Every).unwrap();
        assert_eq!(connect_as(&app, way, &OLGA, &account, Consent::All).await, "platform_unavailable", "{way:?}");
        app.stack.fault(wire, "none", Calls::Every).unwrap();
        assert_eq!(app.db.count("select count(*) from social_accounts").await, 0, "{way:?}");

        // A code that was exchanged, brought back with a new state.
        let led = begin(&app, way.segment(), &OLGA).await;
        let url = way.decide(&app, &led, &account, Consent::All);
        assert_eq!(way.back(&url, Some(&led.cookie)).await, "connected", "{way:?} {}", app.logs());
        let again = begin(&app, way.segment(), &OLGA).await;
        let mut replayed = way.decide(&app, &again, &account, Consent::All);
        let query: Vec<(String, String)> = replayed
            .query_pairs()
            .map(|(name, value)| {
                let used = url.query_pairs().find(|(known, _)| name == "code" && *known == name);
                (name.into_owned(), used.unwrap_or((String::new().into(), value)).1.into_owned())
            })
            .collect();
        replayed.query_pairs_mut().clear().extend_pairs(query);
        assert_eq!(way.back(&replayed, Some(&again.cookie)).await, "code_refused", "{way:?}");
        let active = "select count(*) from social_accounts where status = 'active' and token_version = 1";
        assert_eq!(app.db.count(active).await, 1, "{way:?}");
        app.stack.social.drained().await;
        app.db.run("delete from social_accounts").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_manage_integrations_begins_and_nobody_else_and_only_for_an_app_of_ours() {
    let app = TestApp::start().await;
    let refused = async |way: Way, token: &str, to: &str, status: u16, code: &str| {
        let answer = start(&app, way.segment(), token, to).await;
        let answered = answer.status().as_u16();
        let problem: Value = answer.json().await.unwrap();
        assert_eq!((answered, problem["code"].as_str()), (status, Some(code)), "{way:?} {to}");
    };
    for way in Way::ALL {
        refused(way, &app.token(&UMA), APP, 403, "permission_missing").await;
        refused(way, &app.agent_token(&RENATA).await, APP, 403, "people_only").await;
        refused(way, "no-token", APP, 401, "token_malformed").await;
        for to in ["https://evil.example/", "http://localhost:30000/", "http://localhost:3000.evil.example/"] {
            refused(way, &app.token(&OLGA), to, 422, "return_url_unknown").await;
        }
    }
    assert_eq!(app.db.count("select count(*) from oauth_states").await, 0);
    // A browser that does not ask for JSON is led there at once, and its cookie is no script's.
    let url = format!("{}/oauth/tiktok-business/start?redirect_to=http%3A%2F%2Flocalhost%3A3000%2F", app.stack.url);
    let answer = crate::browser::browser().get(url).bearer_auth(app.token(&OLGA)).send().await.unwrap();
    assert_eq!(answer.status(), 303);
    let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap();
    for part in ["spine_tiktok_business=", "HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=600"] {
        assert!(cookie.contains(part), "{cookie}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_is_not_set_up_says_so_and_the_others_can_be_connected() {
    let app = TestApp::with(&[("TIKTOK_CLIENT_KEY", "")]).await;
    let path = |way: Way| format!("/oauth/{}/start?redirect_to=http%3A%2F%2Flocalhost%3A3000%2F", way.segment());
    app.get(&path(Way::Display), &app.token(&OLGA)).await.expect_error(422, "social_not_set_up");
    assert_eq!(app.db.count("select count(*) from oauth_states").await, 0);
    connected(&app, Way::Business, &OLGA).await;
    let app = TestApp::with(&[("SOCIAL_REDIRECT_BASE_URL", "")]).await;
    for way in Way::ALL {
        app.get(&path(way), &app.token(&OLGA)).await.expect_error(422, "social_not_set_up");
        let back = format!("/oauth/{}/callback?state=x", way.segment());
        app.get(&back, &app.token(&OLGA)).await.expect_error(422, "social_not_set_up");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_organisations_may_connect_the_same_account_each_with_tokens_of_its_own() {
    let app = TestApp::start().await;
    let account = Way::Instagram.account(&app);
    for person in [&OLGA, &OSCAR] {
        assert_eq!(
            connect_as(&app, Way::Instagram, person, &account, Consent::All).await,
            "connected",
            "{}",
            app.logs()
        );
    }
    app.stack.social.drained().await;
    let held = "select count(distinct org_id) * 10 + count(distinct access_token) from social_accounts where status = 'active'";
    assert_eq!(app.db.count(held).await, 22);
    for person in [&OLGA, &OSCAR] {
        let listed = app.get("/v1/social/accounts", &app.token(person)).await.expect(200);
        assert_eq!(listed["accounts"].as_array().unwrap().len(), 1, "{listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_each_consent_an_account_is_subscribed_again_with_what_was_given() {
    let app = TestApp::start().await;
    let world = &app.stack.sandbox.instagram;
    let account = Way::Instagram.account(&app);
    let [basic, messages] = Way::Instagram.scopes();
    let consents = [Consent::only(&[basic, messages]), Consent::All];
    let mut subscribed = Vec::new();
    for consent in consents {
        assert_eq!(connect_as(&app, Way::Instagram, &OLGA, &account, consent).await, "connected");
        app.stack.social.drained().await;
        subscribed.push(world.subscribed(&account).unwrap());
        let at = "select count(*) from social_accounts where subscribed_at > connected_at";
        assert_eq!(app.db.count(at).await, 1, "{}", app.logs());
    }
    let has = |fields: &[String], field: &str| fields.iter().any(|known| known == field);
    assert!(has(&subscribed[0], "messages") && !has(&subscribed[0], "comments"), "{subscribed:?}");
    assert!(has(&subscribed[1], "messages") && has(&subscribed[1], "comments"), "{subscribed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_while_a_token_was_dead_is_there_once_the_account_is_connected_again() {
    let app = TestApp::start().await;
    let world = &app.stack.sandbox.instagram;
    let (account, id) = connected(&app, Way::Instagram, &OLGA).await;
    let eva = world.add_person("eva", None);
    world.message(&account, &eva, "före").unwrap();
    crate::social_fetch::succeeded(&app, id.parse().unwrap()).await;
    world.revoke_tokens_in(&account, 0);
    world.set_subscribed(&account, &[]).unwrap();
    let job = crate::social_fetch::read(&app, id.parse().unwrap()).await;
    assert_eq!(job["error"]["code"], "social_reconsent", "{job}");
    for text in ["medan", "ingen", "läste"] {
        world.advance(60);
        world.message(&account, &eva, text).unwrap();
    }
    let there = "select string_agg(content, ' ' order by received_at) from social_messages";
    assert_eq!(app.db.text(there).await, "före");
    assert_eq!(connect_as(&app, Way::Instagram, &OLGA, &account, Consent::All).await, "connected");
    app.stack.social.drained().await;
    assert_eq!(app.db.text(there).await, "före medan ingen läste", "{}", app.logs());
    let state = "select status || ' ' || coalesce(fetch_error, '-') || ' ' || coalesce(lost_why, '-') || ' ' || (id = '@')::text from social_accounts";
    assert_eq!(app.db.text(&state.replace('@', &id)).await, "active - - true");
}
