//! What serves a render while a provider's quota is spent.

use integration_tests::{
    TestApp,
    people::{ADAM, DORA, LAKESIDE, LOFT, NORD, Person},
    render_body, small_photo,
};
use reqwest::Method;
use sandbox::Calls;
use serde_json::{Value, json};

async fn render(app: &TestApp, person: &Person, change: impl Fn(&mut Value)) -> Value {
    let token = app.token(person);
    let upload = app.upload(&token, &small_photo()).await;
    let mut body = render_body(LAKESIDE, upload);
    change(&mut body);
    let admitted = app.post("/v1/render-requests", &token, &body).await.expect(202);
    app.finished(&token, admitted["id"].as_str().unwrap()).await
}

fn pro(body: &mut Value) {
    body["model"] = json!("gemini-3-pro-image");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_input_of_the_same_person_is_served_from_the_cache_and_of_nobody_else() {
    let app = TestApp::start().await;
    let first = render(&app, &DORA, |_| {}).await;
    assert_eq!(first["results"][0]["served_by"], "model");
    app.stack.fault("gemini", "day-quota", Calls::Every).unwrap();

    let again = render(&app, &DORA, |_| {}).await;
    assert_eq!(again["status"], "completed", "{}", app.logs());
    assert_eq!(again["results"][0]["served_by"], "cache");
    let picture = async |shown: &Value| app.download(shown["results"][0]["url"].as_str().unwrap()).await;
    assert_eq!(picture(&first).await, picture(&again).await);
    assert_ne!(first["results"][0]["id"], again["results"][0]["id"]);

    // Another wish, and the same wish of another person.
    let other = render(&app, &DORA, |body| body["parameters"]["walls"] = json!("cork")).await;
    assert_eq!(
        (other["status"].as_str(), other["waiting"]["reason"].as_str()),
        (Some("queued"), Some("provider_quota_spent"))
    );
    let adam = render(&app, &ADAM, |_| {}).await;
    assert_eq!((adam["status"].as_str(), adam["results"].as_array().unwrap().len()), (Some("queued"), 0));

    app.db.run("update ai_cache set fresh_until = now() - interval '1 hour'").await;
    assert_eq!(render(&app, &DORA, |_| {}).await["results"][0]["served_by"], "stale_cache");
    app.db
        .run("update ai_cache set stale_until = now() - interval '1 hour', fresh_until = now() - interval '1 hour'")
        .await;
    assert_eq!(render(&app, &DORA, |_| {}).await["status"], "queued");
}

/// Wishes of every kind, each in words that are its own.
const WISHES: [(&str, &str); 6] = [
    ("style", "wabisabi"),
    ("furnishings", "rattan"),
    ("lighting", "candles"),
    ("walls", "limewash"),
    ("flooring", "terrazzo"),
    ("exterior", "shingles"),
];

/// Wishes for all of it, with a change.
async fn wish_for_all(app: &TestApp, person: &Person, change: impl Fn(&mut Value)) -> Value {
    render(app, person, |body| {
        body["parameters"] = json!(std::collections::BTreeMap::from(WISHES));
        change(body);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_field_that_makes_another_picture_is_a_part_of_what_models_are_asked_and_of_what_is_kept() {
    let app = TestApp::start().await;
    // What each of the two was asked last.
    let prompts = || {
        let sandbox = &app.stack.sandbox;
        let (brief, picture) = (sandbox.anthropic.asked(), sandbox.gemini.asked());
        let brief = brief.last().map(|asked| asked["messages"].to_string());
        let picture = picture.last().map(|asked| asked["contents"].to_string());
        (brief.unwrap_or_default(), picture.unwrap_or_default())
    };
    let served = |shown: &Value| shown["results"][0]["served_by"].as_str().map(str::to_owned);
    assert_eq!(served(&wish_for_all(&app, &DORA, |_| {}).await).as_deref(), Some("model"), "{}", app.logs());
    for (field, words) in WISHES {
        assert!(prompts().0.contains(words), "{field} reaches no brief: {}", prompts().0);
    }
    let two = wish_for_all(&app, &DORA, |body| {
        body["parameters"]["style"] = json!("rococo");
        body["variants"] = json!(2);
    })
    .await;
    assert_eq!(two["results"].as_array().map(Vec::len), Some(2), "{two}");
    app.stack.fault("gemini", "day-quota", Calls::Every).unwrap();
    assert_eq!(served(&wish_for_all(&app, &DORA, |_| {}).await).as_deref(), Some("cache"));
    // Of two pictures the first is not the one that is made alone.
    let one = wish_for_all(&app, &DORA, |body| body["parameters"]["style"] = json!("rococo")).await;
    assert_eq!(served(&one), None, "{one}");

    for (field, words) in WISHES {
        for other in [json!("quartzite"), Value::Null] {
            let shown = wish_for_all(&app, &DORA, |body| body["parameters"][field] = other.clone()).await;
            assert_eq!(served(&shown), None, "{field} as {other} is served what was made for {words}: {shown}");
            assert_eq!(prompts().0.contains("quartzite"), !other.is_null(), "{field}: {}", prompts().0);
            assert!(!prompts().0.contains(words), "{field}: {}", prompts().0);
        }
    }
    for (field, other) in [
        ("model", json!("gemini-3.1-flash-lite-image")),
        ("model", json!("gemini-3-pro-image")),
        ("variants", json!(2)),
    ] {
        let shown = wish_for_all(&app, &DORA, |body| body[field] = other.clone()).await;
        assert_eq!(served(&shown), None, "{field} as {other}: {shown}");
    }
    let token = app.token(&DORA);
    let mut picture = image::load_from_memory(&small_photo()).unwrap().into_rgb8();
    picture.put_pixel(1, 1, image::Rgb([255, 0, 255]));
    let mut photo = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut photo, image::ImageFormat::Png).unwrap();
    let photo = app.upload(&token, photo.get_ref()).await;
    let shown = wish_for_all(&app, &DORA, |body| body["upload_id"] = json!(photo)).await;
    assert_eq!(served(&shown), None, "another photo: {shown}");
    // Another person's, and another template's.
    assert_eq!(served(&wish_for_all(&app, &ADAM, |_| {}).await), None);
    app.db
        .run(&format!(
            "insert into prompt_templates (org_id, purpose, locale, body, version)
             select '{NORD}', purpose, locale, body, version + 1 from prompt_templates where purpose = 'render_brief' and org_id is null"
        ))
        .await;
    assert_eq!(served(&wish_for_all(&app, &DORA, |_| {}).await), None);
    app.db.run(&format!("delete from prompt_templates where org_id = '{NORD}'")).await;
    // Which project it is for makes no other picture.
    let shown = wish_for_all(&app, &DORA, |body| body["project_id"] = json!(LOFT)).await;
    assert_eq!(served(&shown).as_deref(), Some("cache"), "{shown}");

    // Where there is no brief, the wishes reach the other model as they are.
    app.stack.fault("gemini", "none", Calls::Every).unwrap();
    app.stack.fault("anthropic", "spend-cap", Calls::Every).unwrap();
    let shown = wish_for_all(&app, &DORA, |body| body["variants"] = json!(3)).await;
    assert_eq!(served(&shown).as_deref(), Some("default_template"), "{shown}");
    for (field, words) in WISHES {
        // Under its own name: walls of cork are no floor of cork.
        let named = format!(r#"\"{field}\":\"{words}\""#);
        assert!(prompts().1.contains(&named), "{named} reaches no picture: {}", prompts().1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dear_model_without_quota_is_replaced_by_the_cheapest() {
    let app = TestApp::start().await;
    app.stack.fault("gemini", "day-quota", Calls::Number(1)).unwrap();
    let shown = render(&app, &DORA, pro).await;
    let result = &shown["results"][0];
    assert_eq!(
        (result["served_by"].as_str(), result["model_used"].as_str()),
        (Some("cheaper_model"), Some("gemini-3.1-flash-lite-image")),
        "{shown} {}",
        app.logs()
    );
    // What was asked for is told apart from what was served, and only this is paid for.
    assert_eq!(shown["model"], "gemini-3-pro-image");
    let billed = app.db.count("select sum(cost_micro_usd)::bigint from billing_events").await;
    assert!((33_600..40_000).contains(&billed), "{billed}");
    // A makeshift is not kept as if it were the answer.
    assert_eq!(app.db.count("select count(*) from ai_cache").await, 0);
    let why = "select count(*) from audit_log where decision ->> 'instead_because' = 'provider_quota_spent'";
    assert_eq!(app.db.count(why).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_brief_the_default_template_serves() {
    let app = TestApp::start().await;
    app.stack.fault("anthropic", "spend-cap", Calls::Every).unwrap();
    let shown = render(&app, &DORA, pro).await;
    let result = &shown["results"][0];
    assert_eq!(
        (result["served_by"].as_str(), result["model_used"].as_str()),
        (Some("default_template"), Some("gemini-3.1-flash-lite-image"))
    );
    let asked = app.stack.sandbox.gemini.asked();
    let prompt = asked[0]["contents"][0]["parts"][0]["text"].as_str().unwrap();
    assert!(prompt.contains("Keep its geometry") && prompt.contains("japandi"), "{prompt}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_rung_left_a_render_waits_until_a_time_it_tells() {
    let app = TestApp::start().await;
    app.stack.fault("gemini", "day-quota", Calls::Every).unwrap();
    let token = app.token(&DORA);
    let waiting = render(&app, &DORA, pro).await;
    assert_eq!(waiting["status"], "queued");
    let until: chrono::DateTime<chrono::Utc> = waiting["waiting"]["until"].as_str().unwrap().parse().unwrap();
    let hours = (until - chrono::Utc::now()).num_minutes();
    assert!((0..=24 * 60).contains(&hours), "{until}");
    let answer = app.get(&format!("/v1/render-requests/{}", waiting["id"].as_str().unwrap()), &token).await;
    assert!(answer.headers.contains_key("retry-after"));
    // It holds nothing meanwhile, can be cancelled, and is given up when a week was not enough.
    assert_eq!(app.db.count("select sum(reserved_requests)::bigint from agent_usage").await, 0);
    app.db.run("update render_requests set created_at = now() - interval '8 days'").await;
    app.a_minute_passes().await;
    let shown = app.get(&format!("/v1/render-requests/{}", waiting["id"].as_str().unwrap()), &token).await.expect(200);
    assert_eq!(
        (shown["status"].as_str(), shown["error"]["code"].as_str()),
        (Some("failed"), Some("provider_quota_spent"))
    );
    app.stack.fault("gemini", "none", Calls::Every).unwrap();
    let path = format!("/v1/render-requests/{}/process", shown["id"].as_str().unwrap());
    app.send(Method::POST, &path, &token, None).await.expect(202);
    assert_eq!(app.finished(&token, shown["id"].as_str().unwrap()).await["status"], "completed");
}
